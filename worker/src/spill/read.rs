//! Reads what lies on disk, for readers and for hand-overs: the memory for it, and its time, have bounds.
//!
//! Owns how a read is made and why it fails. Does not own what is read.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use mallorn_runtime::clock;
use mallorn_runtime::disk::File;
use mallorn_runtime::telemetry::quiet::Line;
use mallorn_worker_core::memory::Pool;
use mallorn_worker_core::spill::extent::Extent;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::leaving::Leaving;
use super::{Folder, Spill};
use crate::memory::arena::Slot;
use crate::memory::location::Location;

/// How long a read waits for memory that other reads hold.
const MEMORY_WITHIN: Duration = Duration::from_secs(10);
/// How long a disk may take for one read.
const READ_WITHIN: Duration = Duration::from_secs(30);

/// What room is counted in.
const ROOM_UNIT_BYTES: u64 = 4096;

/// How a read stands: it waits for a thread, a thread has it, or nobody wants it any more.
const QUEUED: u8 = 0;
const BEGUN: u8 = 1;
const GIVEN_UP: u8 = 2;

/// Why nothing was read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DiskError {
    #[error("the worker has no memory left for readers; try again later")]
    NoMemory,
    #[error("the disk does not answer; try again later")]
    Hangs,
    #[error("the worker is about to end")]
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

/// How much may be on its way from each disk: where one hangs, what waits for it must not hold all memory of readers.
pub(super) struct ReadRoom {
    disks: Vec<Arc<Semaphore>>,
    /// Of each disk.
    units: u32,
}

impl ReadRoom {
    /// Divides the memory of readers: one share is for what is read from no disk.
    pub(super) fn new(bytes: u64, disks: usize) -> Self {
        let units = (bytes / (disks as u64 + 1) / ROOM_UNIT_BYTES).clamp(1, 1 << 20) as u32;
        Self { disks: (0..disks).map(|_| Arc::new(Semaphore::new(units as usize))).collect(), units }
    }

    /// Room to read that many bytes; what is larger than a disk's share takes all of it.
    async fn take(&self, folder: &Folder, bytes: u64) -> Option<OwnedSemaphorePermit> {
        let disk = Arc::clone(self.disks.get(usize::from(folder.index))?);
        let units = bytes.div_ceil(ROOM_UNIT_BYTES).min(u64::from(self.units)) as u32;
        disk.acquire_many_owned(units).await.ok()
    }
}

impl Spill {
    /// Most bytes that one read may ask memory for beside what it needs.
    pub(crate) fn read_bytes_max(&self) -> u64 {
        self.arena.limit_bytes(Pool::Read) / 4
    }

    /// The data folder of that index.
    pub(crate) fn folder(&self, index: u16) -> Result<&Arc<Folder>, DiskError> {
        self.folders.get(usize::from(index)).ok_or(DiskError::Folder { index })
    }

    /// Reads so many bytes of a location into memory: `job` fills the slots it is given. A failure counts against the disk.
    pub(crate) async fn read_into<T: Send + 'static>(
        &self,
        folder: &Arc<Folder>,
        location: &Arc<Location>,
        bytes: u64,
        job: impl FnOnce(&Folder, &Location, &mut [Slot]) -> io::Result<T> + Send + 'static,
    ) -> Result<(Vec<Slot>, T), DiskError> {
        if folder.reads_hang() {
            return Err(DiskError::Hangs);
        }
        let memory = async {
            let room = self.reads.take(folder, bytes).await;
            (room, self.arena.wait_all(Pool::Read, bytes).await)
        };
        let (room, mut slots) = clock::timeout(MEMORY_WITHIN, memory).await.map_err(|_| DiskError::NoMemory)?;
        let job = move |folder: &Folder, location: &Location| {
            let done = job(folder, location, &mut slots)?;
            // Held by a read that hangs until it returns, as its slots are.
            drop(room);
            Ok((slots, done))
        };
        self.read(folder, location, job).await
    }

    /// Runs what reads a location from disk, on the threads of the folder. A failure counts against the disk.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        folder: &Arc<Folder>,
        location: &Arc<Location>,
        job: impl FnOnce(&Folder, &Location) -> io::Result<T> + Send + 'static,
    ) -> Result<T, DiskError> {
        if folder.reads_hang() {
            return Err(DiskError::Hangs);
        }
        let (at, of) = (Arc::clone(folder), Arc::clone(location));
        let leaving = Leaving::new(folder, &folder.stuck_reads);
        let (returned, turn) = (leaving.returned(), Arc::new(AtomicU8::new(QUEUED)));
        let job = {
            let turn = Arc::clone(&turn);
            move || {
                // Whoever asked may have given up before its turn came.
                let begins = turn.compare_exchange(QUEUED, BEGUN, Ordering::AcqRel, Ordering::Acquire).is_ok();
                let done = begins.then(|| job(&at, &of));
                drop(returned);
                done
            }
        };
        let Ok(read) = clock::timeout(READ_WITHIN, folder.read(job)).await else {
            // What waits behind others says nothing of the disk.
            if turn.compare_exchange(QUEUED, GIVEN_UP, Ordering::AcqRel, Ordering::Acquire).is_err() {
                leaving.leave();
                if let Some(Line { repeats }) = folder.line("disk_hangs", None) {
                    let path = folder.path.display();
                    tracing::warn!(event = "disk_hangs", folder = %path, repeats, "a read does not come back");
                }
            }
            return Err(DiskError::Hangs);
        };
        let result = read.map_err(|_| DiskError::Ended)?.ok_or(DiskError::Ended)?;
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
