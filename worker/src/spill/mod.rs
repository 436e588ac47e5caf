//! Writes what memory holds to disk: behind the pushes, under pressure, and at commit.
//!
//! | part | file |
//! |---|---|
//! | who is to be written, and when memory forgets | here |
//! | one data folder: its health, its queue, its threads | `folder` |
//! | the writer of a folder | `writer` |
//! | files of a shuffle in a folder | `files` |
//! | bytes and records of a commit | `keep` |
//! | leaving a disk that hangs | `leaving` |
//! | telling a commit that all of it is there | `latch` |
//!
//! Owns queues and tasks. Does not own which bytes make an extent, whom pressure hits first, or which disk is picked
//! (`mallorn_worker_core::spill`). One writer per disk; what is handed to it is bounded; it needs no memory but what it
//! writes, and waits for no reader, socket or pusher.

mod files;
mod folder;
mod keep;
mod latch;
mod leaving;
pub(crate) mod read;
mod writer;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use mallorn_proto::durability::Durability;
use mallorn_proto::id::Instance;
use mallorn_runtime::clock::{self, Clock};
use mallorn_runtime::disk::LaneError;
use mallorn_runtime::task::Shutdown;
use mallorn_runtime::telemetry::quiet::Line;
use mallorn_worker_core::memory::Pool;
use mallorn_worker_core::spill::disk::{DiskState, HUNG_AFTER, Health, pick};
use mallorn_worker_core::spill::{Candidate, Demand, UNWRITTEN_BYTES_MAX, demand, victims};
use tokio::sync::Notify;

pub(crate) use files::{ShuffleFiles, ShuffleKey, records_path, segment_path};
pub(crate) use folder::Folder;
pub use folder::FolderError;
use latch::Latch;
use leaving::Leaving;
use read::ReadRoom;

use crate::memory::arena::{Arena, RECEIVE_BYTES};
use crate::memory::holdings::Holdings;
use crate::memory::location::Location;
use crate::memory::pressure::Pressure;
use crate::memory::store::Store;
use crate::metrics::Metrics;

/// How often the balance is looked at without being asked to, and disks are asked for their space.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// How long a commit waits for its bytes to be written before it answers that they are not, and is asked again.
const FLUSH_WITHIN: Duration = Duration::from_secs(8);
/// Bytes that one write takes at most, but for a single extent that is larger.
const WRITE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// What all locations and disks share.
pub(crate) struct Spill {
    arena: Arc<Arena>,
    folders: Vec<Arc<Folder>>,
    reads: ReadRoom,
    metrics: Metrics,
    clock: Clock,
    /// What each application holds.
    holdings: Holdings,
    /// Bytes in memory only of shuffles whose commit asks for more.
    owed_bytes: AtomicU64,
    /// Bytes of memory that are on disk too.
    clean_bytes: AtomicU64,
    /// Bytes that disks can take, as it was looked at last.
    room_bytes: AtomicU64,
    /// Where pushes wait for memory.
    pressure: Arc<Pressure>,
    /// Decides between equal disks.
    turn: AtomicUsize,
    pressed: Notify,
}

/// What a location waits for in a folder's queue.
struct Waiting {
    location: Arc<Location>,
    /// All of it, not only whole extents.
    whole: bool,
    /// Bytes that it was counted with.
    bytes: u64,
    latch: Option<Arc<Latch>>,
}

impl Waiting {
    /// Nothing is waited for any more, whether it was written or not.
    fn over(self) {
        if let Some(latch) = self.latch {
            latch.done();
        }
    }
}

/// How one disk stands.
#[derive(Clone, Debug)]
pub(crate) struct DiskReport {
    pub(crate) path: PathBuf,
    pub(crate) health: Health,
    pub(crate) capacity_bytes: u64,
    pub(crate) free_bytes: u64,
    /// Waiting to be written, or being written.
    pub(crate) queued_bytes: u64,
}

impl Spill {
    pub(crate) fn new(arena: Arc<Arena>, folders: Vec<Arc<Folder>>, metrics: Metrics) -> Arc<Self> {
        // Half of what connections may have received is left to those that do not wait for memory.
        let paused_max = arena.limit_bytes(Pool::Receive) / 2 / RECEIVE_BYTES;
        let pressure = Arc::new(Pressure::new(paused_max as usize));
        let reads = ReadRoom::new(arena.limit_bytes(Pool::Read), folders.len());
        let spill = Self {
            arena,
            reads,
            folders,
            pressure,
            metrics,
            clock: Clock::start(),
            holdings: Holdings::default(),
            owed_bytes: AtomicU64::new(0),
            clean_bytes: AtomicU64::new(0),
            room_bytes: AtomicU64::new(0),
            turn: AtomicUsize::new(0),
            pressed: Notify::new(),
        };
        spill.weigh();
        Arc::new(spill)
    }

    /// Looks at what disks can take: pushes wait for memory only while there is any, and what a commit will want on disk is
    /// taken only as far as it fits.
    fn weigh(&self) {
        let now = self.clock.now();
        let room = self.folders.iter().map(|folder| folder.state().room_bytes(now)).sum();
        self.room_bytes.store(room, Ordering::Relaxed);
        self.pressure.set_hope(room > 0);
    }

    /// Whether disks have room for what is owed to them already, and more.
    pub(crate) fn has_room(&self) -> bool {
        self.owed_bytes() < self.room_bytes.load(Ordering::Relaxed)
    }

    /// What each application holds.
    pub(crate) fn holdings(&self) -> &Holdings {
        &self.holdings
    }

    /// Whether an application keeps memory from others that they could not get otherwise: it is short, no disk takes what it
    /// holds, and more of it than a fair share is this one's.
    pub(crate) fn crowds(&self, instance: Instance) -> bool {
        self.arena.is_short()
            && self.room_bytes.load(Ordering::Relaxed) == 0
            && self.holdings.is_over_share(instance, self.arena.held_by_locations().1)
    }

    /// The memory that is written.
    pub(crate) fn arena(&self) -> &Arc<Arena> {
        &self.arena
    }

    /// Where pushes wait for memory.
    pub(crate) fn pressure(&self) -> &Arc<Pressure> {
        &self.pressure
    }

    /// The data folders, by their index.
    pub(crate) fn folders(&self) -> &[Arc<Folder>] {
        &self.folders
    }

    /// How the disks stand, by index.
    pub(crate) fn disks(&self) -> Vec<DiskReport> {
        let now = self.clock.now();
        let report = |folder: &Arc<Folder>| {
            let state = folder.state();
            let (capacity_bytes, free_bytes) = state.bytes();
            let (path, queued_bytes) = (folder.path.clone(), state.queued_bytes());
            DiskReport { path, health: state.health(now), capacity_bytes, free_bytes, queued_bytes }
        };
        self.folders.iter().map(report).collect()
    }

    /// The folder ids, by index.
    pub(crate) fn folder_ids(&self) -> Vec<u64> {
        self.folders.iter().map(|folder| folder.id).collect()
    }

    /// Whether a location of this durability could be written now.
    pub(crate) fn can_take(&self, durability: Durability) -> bool {
        // A question takes no disk's turn.
        durability == Durability::Memory || self.pick_at(0).is_some()
    }

    /// A location stands otherwise: bytes owed, and bytes of clean memory, before and now.
    pub(crate) fn moved(&self, before: (u64, u64), now: (u64, u64)) {
        let change = |counter: &AtomicU64, before: u64, now: u64| {
            if before != now {
                counter.fetch_add(now.wrapping_sub(before), Ordering::Relaxed);
            }
        };
        change(&self.owed_bytes, before.0, now.0);
        change(&self.clean_bytes, before.1, now.1);
    }

    /// Bytes that are in memory only, and should not be for long.
    pub(crate) fn owed_bytes(&self) -> u64 {
        self.owed_bytes.load(Ordering::Relaxed)
    }

    /// Bytes of memory that are on disk too.
    pub(crate) fn clean_bytes(&self) -> u64 {
        self.clean_bytes.load(Ordering::Relaxed)
    }

    /// Whole extents of a location are to be written when its disk has nothing better to do.
    pub(crate) fn behind(&self, location: Arc<Location>) {
        self.enqueue(Waiting { location, whole: false, bytes: 0, latch: None });
    }

    /// Wakes the balance where memory or what is owed asks for it.
    pub(crate) fn press(&self) {
        if !self.folders.is_empty() && (self.is_pressed() || self.excess() > 0) {
            self.pressed.notify_one();
        }
    }

    fn demand(&self) -> Demand {
        self.demand_of(self.arena.held_by_locations(), self.clean_bytes())
    }

    /// What those locations ask for that other workers forward to: they may hold less than all together, and would not
    /// reach the marks of all by themselves.
    fn demand_of_replicas(&self) -> Demand {
        self.demand_of(self.arena.held_by_replicas(), self.clean_bytes())
    }

    fn demand_of(&self, (held, limit): (u64, u64), clean: u64) -> Demand {
        demand(held, limit, clean, || self.moving_bytes())
    }

    /// Bytes that wait for a disk, or are being written.
    fn moving_bytes(&self) -> u64 {
        self.folders.iter().map(|folder| folder.queued_bytes()).sum()
    }

    /// Whether memory that is on disk too should be forgotten.
    fn should_forget(&self) -> bool {
        self.demand().forget_bytes > 0 || self.demand_of_replicas().forget_bytes > 0
    }

    fn is_pressed(&self) -> bool {
        let none = Demand::default();
        self.demand() != none || self.demand_of_replicas() != none
    }

    /// Bytes owed beyond what disks may owe, and not on their way.
    fn excess(&self) -> u64 {
        let owed_max = UNWRITTEN_BYTES_MAX * self.folders.len() as u64;
        let owed = self.owed_bytes();
        if owed <= owed_max {
            return 0;
        }
        (owed - owed_max / 2).saturating_sub(self.moving_bytes())
    }

    /// Queues at the location's disk, or at one picked for it; where none takes data, nothing is queued.
    fn enqueue(&self, mut waiting: Waiting) {
        let mut state = waiting.location.lock();
        let now = self.clock.now();
        let at =
            state.disk.index.map(usize::from).filter(|index| self.folders[*index].takes(now)).or_else(|| self.pick());
        let Some(index) = at else {
            state.disk.is_queued = false;
            drop(state);
            return waiting.over();
        };
        state.disk.index = u16::try_from(index).ok();
        state.disk.is_queued = true;
        waiting.bytes = state.log.unwritten();
        drop(state);
        if let Err(waiting) = self.folders[index].queue(waiting) {
            waiting.location.lock().disk.is_queued = false;
            waiting.over();
        }
    }

    fn pick(&self) -> Option<usize> {
        self.pick_at(self.turn.fetch_add(1, Ordering::Relaxed) % self.folders.len().max(1))
    }

    fn pick_at(&self, turn: usize) -> Option<usize> {
        let states: Vec<_> = self.folders.iter().map(|folder| folder.state()).collect();
        pick(&states, self.clock.now(), turn)
    }

    /// Writes all of these locations, and tells of each whether nothing of it is in memory only any more. What is not
    /// there within [`FLUSH_WITHIN`] goes on being written.
    pub(crate) async fn flush(&self, locations: &[Arc<Location>]) -> Vec<bool> {
        let unwritten = |location: &Arc<Location>| location.lock().log.unwritten() > 0;
        let wanted: Vec<_> = locations.iter().filter(|location| unwritten(location)).cloned().collect();
        let latch = Latch::new(wanted.len());
        for location in wanted {
            self.enqueue(Waiting { location, whole: true, bytes: 0, latch: Some(Arc::clone(&latch)) });
        }
        // Whoever is late is seen below.
        let _ = clock::timeout(FLUSH_WITHIN, latch.wait()).await;
        locations.iter().map(|location| !unwritten(location)).collect()
    }

    /// Runs a job on a folder's writing thread; where that does not come back in time it is left, and its disk with it.
    async fn run_within<T: Send + 'static>(
        &self,
        folder: &Arc<Folder>,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let leaving = Leaving::new(folder, &folder.stuck_writes);
        let returned = leaving.returned();
        let job = move || {
            let done = job();
            drop(returned);
            done
        };
        let now = || self.clock.now();
        match folder.writing.run_within(HUNG_AFTER, job).await {
            Ok(done) => return Some(done),
            Err(LaneError::Closed | LaneError::Panicked) => folder.judge(now(), DiskState::failed),
            Err(LaneError::Hangs) => {
                leaving.leave();
                tracing::warn!(event = "disk_hangs", folder = %folder.path.display());
                folder.judge(now(), |state| state.slow(now()));
            }
        }
        None
    }

    /// A shuffle is released: its files are removed everywhere.
    pub(crate) fn release(&self, shuffle: ShuffleKey) {
        self.folders.iter().for_each(|folder| folder.release(shuffle));
    }

    /// A read of a location from disk failed.
    pub(crate) fn read_failed(&self, folder: &Folder, location: &Location, error: &std::io::Error) {
        self.metrics.spill.read_failures.inc();
        if let Some(Line { repeats }) = folder.line("read_failed", Some(location.shuffle())) {
            let path = folder.path.display();
            tracing::warn!(event = "read_failed", folder = %path, location = %location.id, %error, repeats);
        }
        if error.kind() != std::io::ErrorKind::NotFound && error.kind() != std::io::ErrorKind::UnexpectedEof {
            folder.erred(self.clock.now(), error);
        }
    }

    /// Keeps memory within its marks until the shutdown is triggered.
    pub(crate) async fn balance(self: Arc<Self>, store: Arc<Store>, shutdown: Shutdown) {
        loop {
            let woken = clock::timeout(LOOK_EVERY, self.pressed.notified());
            if shutdown.or(woken).await.is_none() {
                return;
            }
            self.weigh();
            let (demand, excess) = (self.demand(), self.excess());
            if demand != Demand::default() || excess > 0 {
                self.relieve(&store.all(), demand, excess);
            }
            if self.demand_of_replicas() != Demand::default() {
                let mut replicas = store.all();
                replicas.retain(|location| location.pool() == Pool::Replicate);
                let clean = replicas.iter().map(|location| location.lock().clean()).sum();
                let demand = self.demand_of(self.arena.held_by_replicas(), clean);
                self.relieve(&replicas, demand, 0);
            }
        }
    }

    /// Forgets and queues what is asked for. `locations` are in the order of applications, shuffles, partitions, epochs.
    fn relieve(&self, locations: &[Arc<Location>], demand: Demand, excess: u64) {
        let target = self.clean_bytes().saturating_sub(demand.forget_bytes);
        let wanted = demand.spill_bytes.max(excess);
        let mut candidates = Vec::new();
        for (index, location) in locations.iter().enumerate() {
            let mut state = location.lock();
            if self.clean_bytes() > target {
                state.forget_clean();
            }
            let is_wanted = wanted > 0 && !state.disk.is_flying;
            let unwritten_bytes = if is_wanted { state.log.unwritten() } else { 0 };
            drop(state);
            if unwritten_bytes > 0 {
                candidates.push(Candidate { index, unwritten_bytes });
            }
        }
        if demand.forget_bytes > 0 {
            self.pressure.freed();
        }
        for index in victims(candidates, wanted) {
            let location = Arc::clone(&locations[index]);
            self.enqueue(Waiting { location, whole: true, bytes: 0, latch: None });
        }
    }

    /// Most bytes of one write.
    fn write_bytes_max(&self) -> u64 {
        let (_, limit) = self.arena.held_by_locations();
        (limit / (self.folders.len() as u64 + 1)).min(WRITE_BYTES_MAX)
    }
}

#[cfg(test)]
mod tests;
