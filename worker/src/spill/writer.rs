//! The writer of one folder: gathers extents that wait, writes them as sequential runs, and tells their locations.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use mallorn_runtime::clock;
use mallorn_runtime::task::Shutdown;
use mallorn_worker_core::push::Life;
use mallorn_worker_core::record::{self, Name, Said};
use mallorn_worker_core::spill::extent::{Cut, EXTENT_BYTES, Extent, ExtentPlace};
use mallorn_worker_core::spill::segment::Allocation;

use super::files::{Part, RecordError, Region, ShuffleFiles, ShuffleKey, Sums, Write};
use super::folder::Writer;
use super::{Folder, LOOK_EVERY, Spill, Waiting};
use crate::memory::arena::View;

/// Locations that one write takes at most.
const LOCATIONS_MAX: usize = 4096;

/// How long a writer pauses after a failed write.
const PAUSE: Duration = Duration::from_millis(50);

/// What a location gives to one write.
struct Taken {
    waiting: Waiting,
    /// What is written of it, where, and the number of it in the write.
    cuts: Vec<(Cut, ExtentPlace, usize)>,
}

/// What is written of one shuffle.
struct OfShuffle {
    files: Arc<ShuffleFiles>,
    regions: Vec<Region>,
    /// Records that name locations which are new here.
    opened: Vec<u8>,
}

/// What was not taken into a write.
enum Left {
    /// There is more room in the next one.
    ForNext(Waiting),
    /// It has nothing to write.
    Over(Waiting),
}

/// One write, while it is gathered.
#[derive(Default)]
struct Gathered {
    taken: Vec<Taken>,
    /// Commits wait for these too, which are among what is taken already.
    again: Vec<Waiting>,
    work: BTreeMap<ShuffleKey, OfShuffle>,
    extents: usize,
    bytes: u64,
}

impl Spill {
    /// Writes what waits at a folder until the shutdown is triggered.
    pub(crate) async fn write(self: Arc<Self>, folder: Writer, shutdown: Shutdown) {
        let mut looked = self.clock.now();
        loop {
            let now = self.clock.now();
            if !folder.takes(now) {
                self.leave(&folder);
            }
            let gathered = self.gather(&folder);
            if !gathered.taken.is_empty() {
                self.write_once(&folder, gathered).await;
                if self.clock.now().saturating_sub(looked) >= LOOK_EVERY {
                    looked = self.clock.now();
                    self.look(&folder).await;
                }
                continue;
            }
            match shutdown.or(clock::timeout(LOOK_EVERY, folder.work.notified())).await {
                None => return,
                Some(woken) if woken.is_err() || folder.was_freed() => {
                    looked = self.clock.now();
                    self.look(&folder).await;
                    if woken.is_err() {
                        folder.remove_released();
                    }
                    self.weigh();
                }
                Some(_) => {}
            }
        }
    }

    /// Asks a disk for its space. One that does not even tell that hangs, and keeps nobody waiting for long.
    async fn look(&self, folder: &Arc<Folder>) {
        let (disk, path) = (folder.disk.clone(), folder.path.clone());
        let looked = self.run_within(folder, move || disk.space(&path)).await;
        let now = self.clock.now();
        match looked {
            Some(Ok(space)) => folder.judge(now, |state| state.space(now, space.capacity_bytes, space.free_bytes)),
            Some(Err(error)) => folder.erred(now, &error.source),
            None => {}
        }
    }

    /// What waits at a disk that takes nothing goes to another one.
    fn leave(&self, folder: &Folder) {
        self.queue_again(folder, std::iter::from_fn(|| folder.next()).collect());
    }

    /// Queues what has left a folder's queue, wherever it goes now.
    fn queue_again(&self, folder: &Folder, waiting: Vec<Waiting>) {
        for one in waiting {
            folder.left(one.bytes);
            self.enqueue(one);
        }
    }

    /// Takes extents from those that wait, up to what one write may have.
    fn gather(&self, folder: &Folder) -> Gathered {
        let mut gathered = Gathered::default();
        let room = self.write_bytes_max().min(folder.state().room_bytes(self.clock.now()));
        while gathered.bytes < room && gathered.taken.len() < LOCATIONS_MAX {
            let Some(waiting) = folder.next() else { break };
            match gathered.take(folder, waiting, room) {
                Ok(()) => {}
                Err(Left::ForNext(waiting)) => {
                    folder.put_back(waiting);
                    break;
                }
                Err(Left::Over(waiting)) => self.finish(folder, waiting),
            }
        }
        gathered
    }

    async fn write_once(&self, folder: &Arc<Folder>, gathered: Gathered) {
        let Gathered { taken, again, work, extents, bytes } = gathered;
        let began = self.clock.now();
        let files: Vec<_> = work.values().map(|of| Arc::clone(&of.files)).collect();
        let opens = work.values().flat_map(|of| &of.regions).any(|region| region.opens.is_some());
        let at = Arc::clone(folder);
        // What is written is owned by the job: one that hangs may be left.
        let job = move || write_all(&at, work.into_values().collect(), extents);
        let outcome = self.run_within(folder, job).await;
        let now = self.clock.now();
        match outcome {
            Some(Ok(sums)) => {
                let took = now.saturating_sub(began);
                folder.judge(now, |state| state.wrote(now, bytes, took));
                self.metrics.spill.wrote(bytes, took);
                if opens {
                    // A new segment takes its space at once.
                    self.look(folder).await;
                    self.weigh();
                }
                self.publish(folder, taken, &sums);
                return self.queue_again(folder, again);
            }
            Some(Err(error)) => {
                folder.erred(now, &error);
                // It may have room for less.
                self.look(folder).await;
            }
            None => {}
        }
        self.weigh();
        self.give_up(folder, taken, &files);
        self.queue_again(folder, again);
        clock::sleep(PAUSE).await;
    }

    /// Tells locations what of them is on disk now.
    fn publish(&self, folder: &Folder, taken: Vec<Taken>, sums: &[Sums]) {
        let mut stored_bytes = 0;
        for Taken { waiting, cuts } in taken {
            let extent = |(cut, place, number): &(Cut, ExtentPlace, usize)| {
                let (crc, list_crc) = sums[*number];
                cut.written_at(*place, crc, list_crc)
            };
            let extents: Vec<Extent> = cuts.iter().map(extent).collect();
            let stored: u64 = extents.iter().map(|extent| u64::from(extent.stored)).sum();
            stored_bytes += stored;
            let mut state = waiting.location.lock();
            state.disk.is_flying = false;
            let noted = state.log.wrote(&extents);
            state.tell();
            if self.should_forget() {
                state.forget_clean();
            }
            let goes_on = noted.is_some() && waiting.whole && state.log.unwritten() > 0;
            state.disk.is_queued = goes_on;
            drop(state);
            self.metrics.spill.dead_bytes.inc_by(stored.saturating_sub(noted.unwrap_or(0)));
            if goes_on { folder.put_back(waiting) } else { self.finish(folder, waiting) }
        }
        self.pressure.flushed(stored_bytes);
        self.press();
    }

    /// What was not written goes to another disk; its place here is left alone, for it may be written late.
    fn give_up(&self, folder: &Folder, taken: Vec<Taken>, files: &[Arc<ShuffleFiles>]) {
        files.iter().for_each(|files| files.segments.lock().abandon());
        for Taken { waiting, .. } in taken {
            {
                let mut state = waiting.location.lock();
                state.disk.is_flying = false;
                state.disk.index = None;
            }
            folder.left(waiting.bytes);
            self.enqueue(waiting);
        }
    }

    fn finish(&self, folder: &Folder, waiting: Waiting) {
        folder.left(waiting.bytes);
        waiting.over();
    }
}

impl Gathered {
    /// Takes what a location has to write, at most what `room` leaves; gives it back where that is nothing.
    fn take(&mut self, folder: &Folder, waiting: Waiting, room: u64) -> Result<(), Left> {
        let location = Arc::clone(&waiting.location);
        let mut state = location.lock();
        let is_taken = || self.taken.iter().any(|taken| Arc::ptr_eq(&taken.waiting.location, &location));
        if state.disk.is_flying && waiting.latch.is_some() && is_taken() {
            self.again.push(waiting);
            return Ok(());
        }
        let is_free = state.log.life() != Life::Gone && !state.disk.is_flying;
        let cuts = if is_free { state.log.cut(room - self.bytes, waiting.whole) } else { Vec::new() };
        if cuts.is_empty() {
            // A whole extent that this write has no room for is for the next one.
            if is_free && self.bytes > 0 && state.log.unwritten() >= EXTENT_BYTES {
                drop(state);
                return Err(Left::ForNext(waiting));
            }
            state.disk.is_queued = false;
            return Err(Left::Over(waiting));
        }
        (state.disk.is_flying, state.disk.index) = (true, Some(folder.index));
        let files = folder.files(&location.application, location.id.shuffle);
        let of = self.work.entry(files.key()).or_insert_with(|| OfShuffle::new(files));
        if state.disk.named_on & (1 << folder.index) == 0 {
            state.disk.named_on |= 1 << folder.index;
            let name = Name { partition: location.id.partition, epoch: location.id.epoch };
            record::put(&mut of.opened, name, &Said::Opened, &[]);
        }
        let mut numbered = Vec::with_capacity(cuts.len());
        for cut in cuts {
            let mut views = Vec::new();
            state.views(cut.range.clone(), &mut views);
            let place = of.add(folder.index, &cut, views, self.extents);
            self.bytes += cut.disk_bytes();
            numbered.push((cut, place, self.extents));
            self.extents += 1;
        }
        drop(state);
        self.taken.push(Taken { waiting, cuts: numbered });
        Ok(())
    }
}

impl OfShuffle {
    fn new(files: Arc<ShuffleFiles>) -> Self {
        files.segments.lock().begin();
        Self { files, regions: Vec::new(), opened: Vec::new() }
    }

    /// Finds a place for an extent, right behind the last one where it can be.
    fn add(&mut self, disk: u16, cut: &Cut, views: Vec<View>, number: usize) -> ExtentPlace {
        let Allocation { segment, position, opens } = self.files.segments.lock().allocate(cut.disk_bytes());
        let part = Part { views, list: cut.list.clone(), number };
        match self.regions.last_mut() {
            Some(region) if region.segment == segment => region.parts.push(part),
            Some(_) | None => self.regions.push(Region { segment, position, opens, parts: vec![part] }),
        }
        ExtentPlace { disk, segment, position }
    }
}

/// Writes everything, and returns the checksums of the extents by their numbers. What belongs to a shuffle that was
/// released meanwhile is nobody's.
fn write_all(folder: &Folder, work: Vec<OfShuffle>, extents: usize) -> io::Result<Vec<Sums>> {
    let mut sums = vec![Sums::default(); extents];
    let mut buffer = folder.buffer.lock();
    let mut write = Write { buffer: &mut buffer, sums: &mut sums };
    for of in work {
        match write_shuffle(folder, &of, &mut write) {
            Err(_) if of.files.is_released() => {}
            written => written?,
        }
    }
    Ok(sums)
}

fn write_shuffle(folder: &Folder, of: &OfShuffle, write: &mut Write<'_>) -> io::Result<()> {
    if !of.opened.is_empty() || of.files.is_unnamed() {
        match of.files.record(&folder.disk, &of.opened, false) {
            Ok(()) | Err(RecordError::Released) => {}
            Err(RecordError::Io(error) | RecordError::Sync(error)) => return Err(error),
        }
    }
    of.regions.iter().try_for_each(|region| of.files.write((&folder.disk, &folder.open), region, write))
}
