//! Reads an answer from disk, into slots of the arena.
//!
//! Owns one read: what of each extent is read, and into which slots. Does not own which extents it takes
//! (`mallorn_worker_core::fetch`), nor how disks are read (`crate::spill::read`). Batches carry checksums of their own,
//! which the reader checks.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use mallorn_proto::message::Fetch;
use mallorn_runtime::disk::{BLOCK_BYTES, File};
use mallorn_worker_core::fetch::{DiskPlan, ExtentPart, MapRange};
use mallorn_worker_core::spill::extent::Extent;

use super::{Batches, RequestError};
use crate::memory::arena::Slot;
use crate::memory::location::Location;
use crate::spill::read::ReadList;
use crate::spill::{Folder, Spill};

/// Runs of so many bytes are read past the system's cache.
const PAST_CACHE_BYTES_MIN: u64 = 64 * 1024;

/// A read that is to be made.
pub(super) struct DiskRead {
    pub(super) fetch: Fetch,
    pub(super) plan: DiskPlan,
    pub(super) maps: MapRange,
    pub(super) location: Arc<Location>,
    pub(super) spill: Arc<Spill>,
}

/// What came of it.
pub(super) struct Answer {
    pub(super) fetch: Fetch,
    pub(super) read: Result<Batches, RequestError>,
}

/// What is read of one extent.
struct Wanted {
    extent: Extent,
    runs: Vec<Range<u32>>,
}

impl DiskRead {
    pub(super) async fn run(self) -> Answer {
        Answer { fetch: self.fetch, read: self.read().await }
    }

    async fn read(&self) -> Result<Batches, RequestError> {
        let mut read = Batches { next: self.plan.next, ..Batches::default() };
        // Neighbours of one folder are read together; most plans are of one folder.
        let mut parts = &self.plan.parts[..];
        while let Some(first) = parts.first() {
            let disk = first.extent.place.disk;
            let folder = self.spill.folder(disk)?;
            let count = parts.iter().take_while(|part| part.extent.place.disk == disk).count();
            let mut wanted = Vec::with_capacity(count);
            for part in &parts[..count] {
                wanted.push(if part.selects { self.select(folder, part, &mut read).await? } else { whole(part) });
            }
            self.fill(folder, wanted, &mut read).await?;
            parts = &parts[count..];
        }
        Ok(read)
    }

    /// Asks an extent's list which batches are sent.
    async fn select(
        &self,
        folder: &Arc<Folder>,
        part: &ExtentPart,
        read: &mut Batches,
    ) -> Result<Wanted, RequestError> {
        let extent = part.extent;
        let list = self.spill.read(folder, &self.location, move |folder, location| {
            ReadList::read(&folder.segment(location, extent.place.segment)?, &extent)
        });
        let list = list.await?.checked(&extent)?;
        let selection = part.select(&list, self.fetch.limit, self.maps)?;
        read.next = selection.next;
        Ok(Wanted { extent, runs: selection.runs })
    }

    /// Reads what is wanted into slots, one after the other.
    async fn fill(&self, folder: &Arc<Folder>, wanted: Vec<Wanted>, read: &mut Batches) -> Result<(), RequestError> {
        let runs: Vec<Run> = wanted.iter().flat_map(Wanted::runs).collect();
        let bytes: u64 = runs.iter().map(|run| run.length).sum();
        if bytes == 0 {
            return Ok(());
        }
        let blocks = runs.iter().map(|run| run.blocks().end - run.blocks().start).sum();
        // What was written past the system's cache is not there. Small runs have neighbours, though, which are read next.
        let are_large = bytes >= PAST_CACHE_BYTES_MIN * runs.len() as u64;
        let in_blocks = are_large && blocks <= self.spill.read_bytes_max();
        let room = if in_blocks { blocks } else { bytes };
        let filled = self.spill.read_into(folder, &self.location, room, move |folder, location, slots| {
            let mut fill = Fill { slots, slot: 0, at: 0, filled: Vec::new() };
            for run in runs {
                let file = folder.segment(location, run.segment)?;
                if in_blocks { fill.blocks(&file, &run)? } else { fill.exactly(&file, &run)? }
            }
            Ok(fill.filled)
        });
        let (slots, filled) = filled.await?;
        let views: Vec<_> = slots.into_iter().map(Slot::into_whole_view).collect();
        read.views.extend(filled.into_iter().map(|(slot, range)| views[slot].part(range)));
        read.bytes += bytes;
        Ok(())
    }
}

fn whole(part: &ExtentPart) -> Wanted {
    Wanted { extent: part.extent, runs: std::iter::once(0..part.extent.length).collect() }
}

/// Bytes of a segment.
struct Run {
    segment: u32,
    position: u64,
    length: u64,
}

impl Wanted {
    fn runs(&self) -> impl Iterator<Item = Run> {
        let place = self.extent.place;
        self.runs.iter().map(move |run| Run {
            segment: place.segment,
            position: place.position + u64::from(run.start),
            length: u64::from(run.end - run.start),
        })
    }
}

impl Run {
    fn end(&self) -> u64 {
        self.position + self.length
    }

    /// The blocks that it lies in.
    fn blocks(&self) -> Range<u64> {
        let block = BLOCK_BYTES as u64;
        self.position / block * block..self.end().next_multiple_of(block)
    }
}

/// Fills slots one after the other.
struct Fill<'a> {
    slots: &'a mut [Slot],
    slot: usize,
    /// How much of the slot is filled.
    at: usize,
    /// What was wanted: a slot, and where in it.
    filled: Vec<(usize, Range<usize>)>,
}

impl Fill<'_> {
    /// Room of at most `length` bytes, in one slot.
    fn room(&mut self, length: u64) -> usize {
        if self.at == self.slots[self.slot].length() {
            (self.slot, self.at) = (self.slot + 1, 0);
        }
        (self.slots[self.slot].length() - self.at).min(length as usize)
    }

    /// Reads a run and nothing else, through the system's cache.
    fn exactly(&mut self, file: &File, run: &Run) -> io::Result<()> {
        let mut position = run.position;
        while position < run.end() {
            let part = self.room(run.end() - position);
            let into = self.at..self.at + part;
            file.read_at(&mut self.slots[self.slot].as_mut()[into.clone()], position)?;
            self.filled.push((self.slot, into));
            self.at += part;
            position += part as u64;
        }
        Ok(())
    }

    /// Reads the blocks that a run lies in, past the system's cache where that goes.
    fn blocks(&mut self, file: &File, run: &Run) -> io::Result<()> {
        let blocks = run.blocks();
        let mut position = blocks.start;
        while position < blocks.end {
            let part = self.room(blocks.end - position);
            let skipped = run.position.saturating_sub(position) as usize;
            let needed = (run.end() - position).min(part as u64) as usize;
            let into = &mut self.slots[self.slot].as_mut()[self.at..self.at + part];
            file.read_blocks_at(into, position, needed)?;
            self.filled.push((self.slot, self.at + skipped..self.at + needed));
            self.at += part;
            position += part as u64;
        }
        Ok(())
    }
}
