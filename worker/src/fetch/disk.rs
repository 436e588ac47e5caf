//! Reads an answer from disk, into slots of the arena.
//!
//! Owns one read: what of each extent is read, and into which slots. Does not own which extents it takes
//! (`mallorn_worker_core::fetch`), nor how disks are read (`crate::spill::read`). Batches carry checksums of their own,
//! which the reader checks.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use mallorn_proto::message::Fetch;
use mallorn_worker_core::fetch::{DiskPlan, ExtentPart, MapRange};
use mallorn_worker_core::spill::extent::Extent;

use super::{Batches, RequestError};
use crate::memory::arena::Slot;
use crate::memory::location::Location;
use crate::spill::read::ReadList;
use crate::spill::{Folder, Spill};

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
        let bytes: u64 = wanted.iter().flat_map(|wanted| &wanted.runs).map(|run| u64::from(run.end - run.start)).sum();
        if bytes == 0 {
            return Ok(());
        }
        let filled = self.spill.read_into(folder, &self.location, bytes, move |folder, location, slots| {
            fill_slots(folder, location, &wanted, slots)
        });
        let (slots, filled) = filled.await?;
        read.views.extend(slots.into_iter().zip(filled).map(|(slot, length)| slot.into_view(length)));
        read.bytes += bytes;
        Ok(())
    }
}

fn whole(part: &ExtentPart) -> Wanted {
    Wanted { extent: part.extent, runs: std::iter::once(0..part.extent.length).collect() }
}

/// Fills slots one after the other; returns how much of each is filled.
fn fill_slots(folder: &Folder, location: &Location, wanted: &[Wanted], slots: &mut [Slot]) -> io::Result<Vec<usize>> {
    let mut filled = vec![0; slots.len()];
    let mut at = 0;
    for Wanted { extent, runs } in wanted {
        let file = folder.segment(location, extent.place.segment)?;
        for run in runs {
            let (mut position, mut left) = (extent.place.position + u64::from(run.start), run.len());
            while left > 0 {
                let room = slots[at].length() - filled[at];
                if room == 0 {
                    at += 1;
                    continue;
                }
                let part = left.min(room);
                file.read_at(&mut slots[at].as_mut()[filled[at]..filled[at] + part], position)?;
                filled[at] += part;
                position += part as u64;
                left -= part;
            }
        }
    }
    Ok(filled)
}
