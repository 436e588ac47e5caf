//! Reads what is handed over: whole batches, out of memory as they lie, or an extent from disk.
//!
//! Owns the memory of one read. Batches carry checksums of their own, which the worker that takes them checks; lists of
//! extents are checked here.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use mallorn_proto::checksum::Crc32c;
use mallorn_runtime::clock;
use mallorn_worker_core::fetch::Cursor;
use mallorn_worker_core::handover::{Next, lengths_in};
use mallorn_worker_core::memory::Pool;
use mallorn_worker_core::spill::extent::Extent;

use crate::memory::arena::{Slot, View};
use crate::memory::location::Location;
use crate::spill::{Folder, Spill};

/// How long a read waits for memory that others hold.
const MEMORY_WITHIN: Duration = Duration::from_secs(10);
/// How long a disk may take to read one extent.
const READ_WITHIN: Duration = Duration::from_secs(30);

/// Batches that lie one after the other.
pub(super) struct Piece {
    /// In bytes from the location's start.
    pub(super) offset: u64,
    /// The length of each.
    pub(super) lengths: Vec<u32>,
    pub(super) views: VecDeque<View>,
    /// Where the location goes on.
    pub(super) next: Cursor,
}

/// Why nothing was read.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    #[error("it was released meanwhile")]
    Gone,
    #[error("there is no memory to read it into")]
    NoMemory,
    #[error("the disk does not answer")]
    Ended,
    #[error("the data folder {index} of an extent is not there")]
    Folder { index: u16 },
    #[error("read an extent: {error}")]
    Read {
        #[from]
        error: io::Error,
    },
    #[error("the list of an extent's batches is broken")]
    List,
}

/// The batches of a location from `at` on; `None` at its end.
pub(super) async fn next(spill: &Spill, location: &Arc<Location>, at: Cursor) -> Result<Option<Piece>, ReadError> {
    let extent = {
        let state = location.lock();
        match state.log.next_to_send(at) {
            Next::Memory(batches) => {
                let mut views = Vec::new();
                state.views(batches.range.clone(), &mut views);
                let (lengths, next) = (batches.lengths, batches.next);
                return Ok(Some(Piece { offset: batches.range.start, lengths, views: views.into(), next }));
            }
            Next::Disk(extent) => extent,
            Next::End => return Ok(None),
            Next::Gone => return Err(ReadError::Gone),
        }
    };
    from_disk(spill, location, extent, at.offset).await.map(Some)
}

async fn from_disk(spill: &Spill, location: &Arc<Location>, extent: Extent, offset: u64) -> Result<Piece, ReadError> {
    let index = extent.place.disk;
    let folder = spill.folders().get(usize::from(index)).ok_or(ReadError::Folder { index })?;
    let bytes = extent.end() - offset;
    let slots = clock::timeout(MEMORY_WITHIN, spill.arena().wait_all(Pool::Read, bytes));
    let slots = slots.await.map_err(|_| ReadError::NoMemory)?;
    let (at, of) = (Arc::clone(folder), Arc::clone(location));
    let read = clock::timeout(READ_WITHIN, folder.read(move || read(&at, &of, &extent, (offset, slots)))).await;
    let (list, views) = read.map_err(|_| ReadError::Ended)?.map_err(|_| ReadError::Ended)?.inspect_err(|error| {
        spill.read_failed(folder, location, error);
    })?;
    let mut crc = Crc32c::new();
    crc.update(&list);
    let lengths = lengths_in(&extent, &list, offset).filter(|_| crc.value() == extent.list_crc);
    let lengths = lengths.ok_or(ReadError::List)?;
    Ok(Piece { offset, lengths, views, next: Cursor::at(extent.end()) })
}

/// Reads an extent's list, and its batches from `offset` on. Blocks.
fn read(
    folder: &Folder,
    location: &Location,
    extent: &Extent,
    (offset, slots): (u64, Vec<Slot>),
) -> io::Result<(Vec<u8>, VecDeque<View>)> {
    let file = folder.segment(location, extent.place.segment)?;
    let mut list = vec![0; extent.list_bytes()];
    file.read_at(&mut list, extent.place.position + u64::from(extent.stored))?;
    let (mut position, mut left) = (extent.place.position + offset - extent.offset, (extent.end() - offset) as usize);
    let mut views = VecDeque::with_capacity(slots.len());
    for mut slot in slots {
        let part = left.min(slot.length());
        file.read_at(&mut slot.as_mut()[..part], position)?;
        views.push_back(slot.into_view(part));
        position += part as u64;
        left -= part;
    }
    Ok((list, views))
}
