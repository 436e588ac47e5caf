//! Reads what is handed over: whole batches, out of memory as they lie, or an extent from disk.
//!
//! Owns what is read at once. Does not own how disks are read (`crate::spill::read`). Batches carry checksums of their own,
//! which the worker that takes them checks.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use mallorn_worker_core::fetch::Cursor;
use mallorn_worker_core::handover::{Next, lengths_in};
use mallorn_worker_core::spill::extent::Extent;

use crate::memory::arena::{Slot, View};
use crate::memory::location::Location;
use crate::spill::read::{DiskError, ReadList};
use crate::spill::{Folder, Spill};

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
    #[error(transparent)]
    Disk(#[from] DiskError),
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
    Ok(Some(from_disk(spill, location, extent, at.offset).await?))
}

async fn from_disk(spill: &Spill, location: &Arc<Location>, extent: Extent, offset: u64) -> Result<Piece, DiskError> {
    let folder = spill.folder(extent.place.disk)?;
    let job = move |folder: &Folder, location: &Location, slots: &mut [Slot]| {
        read(folder, location, &extent, (offset, slots))
    };
    let (slots, (list, filled)) = spill.read_into(folder, location, extent.end() - offset, job).await?;
    let views = slots.into_iter().zip(filled).map(|(slot, length)| slot.into_view(length)).collect();
    let lengths = lengths_in(&extent, &list.checked(&extent)?, offset).ok_or(DiskError::List)?;
    Ok(Piece { offset, lengths, views, next: Cursor::at(extent.end()) })
}

/// Reads an extent's list, and its batches from `offset` on; returns how much of each slot is filled. Blocks.
fn read(
    folder: &Folder,
    location: &Location,
    extent: &Extent,
    (offset, slots): (u64, &mut [Slot]),
) -> io::Result<(ReadList, Vec<usize>)> {
    let file = folder.segment(location, extent.place.segment)?;
    let list = ReadList::read(&file, extent)?;
    let (mut position, mut left) = (extent.place.position + offset - extent.offset, (extent.end() - offset) as usize);
    let mut filled = Vec::with_capacity(slots.len());
    for slot in slots {
        let part = left.min(slot.length());
        file.read_at(&mut slot.as_mut()[..part], position)?;
        filled.push(part);
        position += part as u64;
        left -= part;
    }
    Ok((list, filled))
}
