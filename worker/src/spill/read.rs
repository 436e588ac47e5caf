//! Reads what lies on disk, for readers and for hand-overs: the memory for it, and its time, have bounds.
//!
//! Owns how a read is made and why it fails. Does not own what is read.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use mallorn_runtime::clock;
use mallorn_runtime::disk::File;
use mallorn_worker_core::memory::Pool;
use mallorn_worker_core::spill::extent::Extent;

use super::{Folder, Spill};
use crate::memory::arena::Slot;
use crate::memory::location::Location;

/// How long a read waits for memory that other reads hold.
const MEMORY_WITHIN: Duration = Duration::from_secs(10);
/// How long a disk may take for one read.
const READ_WITHIN: Duration = Duration::from_secs(30);

/// Why nothing was read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DiskError {
    #[error("the worker has no memory left for readers; try again later")]
    NoMemory,
    #[error("the disk does not answer; try again later")]
    Ended,
    #[error("the data folder {index} of the extent is not there any more")]
    Folder { index: u16 },
    #[error("read an extent: {error}")]
    Read {
        #[from]
        error: io::Error,
    },
    #[error("the list of an extent's batches is broken")]
    List,
}

impl Spill {
    /// Memory to read that many bytes into.
    pub(crate) async fn slots(&self, bytes: u64) -> Result<Vec<Slot>, DiskError> {
        let slots = clock::timeout(MEMORY_WITHIN, self.arena.wait_all(Pool::Read, bytes)).await;
        slots.map_err(|_| DiskError::NoMemory)
    }

    /// The data folder of that index.
    pub(crate) fn folder(&self, index: u16) -> Result<&Arc<Folder>, DiskError> {
        self.folders.get(usize::from(index)).ok_or(DiskError::Folder { index })
    }

    /// Runs what reads a location from disk, on the threads of the folder. A failure counts against the disk.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        folder: &Arc<Folder>,
        location: &Arc<Location>,
        job: impl FnOnce(&Folder, &Location) -> io::Result<T> + Send + 'static,
    ) -> Result<T, DiskError> {
        let (at, of) = (Arc::clone(folder), Arc::clone(location));
        let read = clock::timeout(READ_WITHIN, folder.read(move || job(&at, &of))).await;
        let result = read.map_err(|_| DiskError::Ended)?.map_err(|_| DiskError::Ended)?;
        Ok(result.inspect_err(|error| self.read_failed(folder, location, error))?)
    }
}

/// An extent's list as it was read from disk, not yet checked.
pub(crate) struct ReadList(Vec<u8>);

impl ReadList {
    /// Reads it from the extent's segment. Blocks.
    pub(crate) fn read(segment: &File, extent: &Extent) -> io::Result<Self> {
        let mut list = vec![0; extent.list_bytes()];
        segment.read_at(&mut list, extent.list_at())?;
        Ok(Self(list))
    }

    /// The list, where its checksum is in order.
    pub(crate) fn checked(self, extent: &Extent) -> Result<Vec<u8>, DiskError> {
        if extent.is_list(&self.0) { Ok(self.0) } else { Err(DiskError::List) }
    }
}
