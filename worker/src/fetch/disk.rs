//! Reads an answer from disk, into slots of the arena.
//!
//! Owns one read: its memory, what of each extent is read, on whose threads. Does not own which extents it takes
//! (`mallorn_worker_core::fetch`). Batches carry checksums of their own, which the reader checks; lists are checked here.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use mallorn_proto::checksum::Crc32c;
use mallorn_proto::message::Fetch;
use mallorn_runtime::clock;
use mallorn_worker_core::fetch::{DiskPlan, ExtentPart, FetchError, MapRange};
use mallorn_worker_core::memory::Pool;
use mallorn_worker_core::spill::extent::Extent;

use super::Batches;
use crate::memory::arena::Slot;
use crate::memory::location::Location;
use crate::spill::{Folder, Spill};

/// How long a read waits for memory that other readers hold.
const MEMORY_WITHIN: Duration = Duration::from_secs(10);
/// How long a disk may take to read one answer.
const READ_WITHIN: Duration = Duration::from_secs(30);

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
    pub(super) read: Result<Batches, DiskError>,
}

/// Why nothing was read.
#[derive(Debug, thiserror::Error)]
pub(super) enum DiskError {
    #[error(transparent)]
    Fetch(#[from] FetchError),
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

/// What is read of one extent.
struct Wanted {
    extent: Extent,
    runs: Vec<Range<u32>>,
}

impl DiskRead {
    pub(super) async fn run(self) -> Answer {
        Answer { fetch: self.fetch, read: self.read().await }
    }

    async fn read(&self) -> Result<Batches, DiskError> {
        let mut read = Batches { next: self.plan.next, ..Batches::default() };
        // Neighbours of one folder are read together; most plans are of one folder.
        let mut parts = &self.plan.parts[..];
        while let Some(first) = parts.first() {
            let disk = first.extent.place.disk;
            let folder = self.spill.folders().get(usize::from(disk)).ok_or(DiskError::Folder { index: disk })?;
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
    async fn select(&self, folder: &Arc<Folder>, part: &ExtentPart, read: &mut Batches) -> Result<Wanted, DiskError> {
        let extent = part.extent;
        let list = self
            .on(folder, move |folder, location| {
                let mut list = vec![0; extent.list_bytes()];
                let file = folder.segment(location, extent.place.segment)?;
                file.read_at(&mut list, extent.place.position + u64::from(extent.stored))?;
                Ok(list)
            })
            .await?;
        let mut crc = Crc32c::new();
        crc.update(&list);
        if crc.value() != extent.list_crc {
            return Err(DiskError::List);
        }
        let selection = part.select(&list, self.fetch.limit, self.maps)?;
        read.next = selection.next;
        Ok(Wanted { extent, runs: selection.runs })
    }

    /// Reads what is wanted into slots, one after the other.
    async fn fill(&self, folder: &Arc<Folder>, wanted: Vec<Wanted>, read: &mut Batches) -> Result<(), DiskError> {
        let bytes: u64 = wanted.iter().flat_map(|wanted| &wanted.runs).map(|run| u64::from(run.end - run.start)).sum();
        if bytes == 0 {
            return Ok(());
        }
        let slots = self.slots(bytes).await?;
        let filled = self
            .on(folder, move |folder, location| {
                let mut slots = slots;
                let filled = fill_slots(folder, location, &wanted, &mut slots)?;
                Ok((slots, filled))
            })
            .await?;
        let (slots, filled) = filled;
        read.views.extend(slots.into_iter().zip(filled).map(|(slot, length)| slot.into_view(length)));
        read.bytes += bytes;
        Ok(())
    }

    async fn slots(&self, bytes: u64) -> Result<Vec<Slot>, DiskError> {
        let arena = self.spill.arena();
        clock::timeout(MEMORY_WITHIN, arena.wait_all(Pool::Read, bytes)).await.map_err(|_| DiskError::NoMemory)
    }

    async fn on<T: Send + 'static>(
        &self,
        folder: &Arc<Folder>,
        job: impl FnOnce(&Folder, &Location) -> io::Result<T> + Send + 'static,
    ) -> Result<T, DiskError> {
        let (at, location) = (Arc::clone(folder), Arc::clone(&self.location));
        let read = clock::timeout(READ_WITHIN, folder.read(move || job(&at, &location))).await;
        let result = read.map_err(|_| DiskError::Ended)?.map_err(|_| DiskError::Ended)?;
        if let Err(error) = &result {
            self.spill.read_failed(folder, &self.location, error);
        }
        Ok(result?)
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
