//! Epochs: where each partition's batches go now, and where they went before.
//!
//! | state | becomes | by |
//! |---|---|---|
//! | Open | Replaced | its next epoch is placed, asked for by a soft split |
//! | Open, Replaced | Freezing | a hard split, a client that cannot reach it, 2 s of rest, or commit |
//! | Freezing | Fixed | each copy has answered or come to nothing: seal id and length are fixed, once |
//!
//! | copy | becomes | by |
//! |---|---|---|
//! | Asked, Missed | Held | its worker answers the freeze |
//! | Asked | Missed | a call to its worker comes to nothing |
//! | Asked, Missed, Held, InMemory, Again | Sealed | its worker answers the seal, once that is fixed |
//! | Sealed | Again | a reader did not find it; or it is the last one, and in memory only |
//! | Held | InMemory | no disk takes it, where memory was asked for |
//! | all but Sealed | Failed | its worker does not have it, or is gone |
//! | Failed | what the other copy was | that one was handed over to this one's worker |
//! | Sealed, Again | Failed | a reader found all of the location gone, in a shuffle without a map count |
//!
//! A location is good when one copy is sealed, and lost when all have failed.
//!
//! Owns: states and what must be placed next. Does not own: picking workers, or reserving.
//!
//! Memory: about 70 bytes for a partition with one epoch, 40 more for each further one.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use mallorn_proto::id::{Epoch, Handle, LocationId, Partition, WorkerId};

use super::attempts::AttemptKey;
use super::epochs::{CopyState, EpochState, PlacedCopy, PlacedEpoch, WorkerIndex, WorkerTable};
use super::error::AttemptError;
use super::{GenerationState, Stage};

/// Most epochs that one partition may have; beyond it there is no space left for it.
pub(super) const EPOCHS_MAX: usize = 4096;

/// How long an epoch that was replaced after a soft split is left alone, so that what is on its way arrives.
const REST: Duration = Duration::from_secs(2);

/// An open location.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenAt {
    /// The location.
    pub location: LocationId,
    /// The worker.
    pub worker: WorkerId,
    /// Names it in pushes.
    pub handle: Handle,
}

/// What was missing when a partition was to be placed last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Missing {
    /// Workers with memory.
    #[default]
    Memory,
    /// Workers for all copies.
    Workers {
        /// Those that could take something.
        there: u32,
        /// Those that are needed.
        needed: u32,
    },
    /// Disks.
    Disks {
        /// Workers that have one that takes data.
        there: u32,
        /// Workers that would take something but for that.
        without: u32,
    },
}

/// No worker had room when a partition was to be placed last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NoSpace {
    /// All live arenas, in bytes.
    pub arena_bytes: u64,
    /// What is held of them, in bytes.
    pub held_bytes: u64,
    /// What was missing.
    pub missing: Missing,
}

impl fmt::Display for NoSpace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { arena_bytes, held_bytes, missing } = self;
        match missing {
            Missing::Memory => write!(
                f,
                "{held_bytes} of {arena_bytes} bytes of all live arenas are held; add workers, memory or disks \
                 (those that are there may be full), or release shuffles"
            ),
            Missing::Workers { there, needed } => write!(
                f,
                "{needed} workers are needed for the copies of a location, and {there} can take something; add workers, \
                 or register the shuffle with copies 1"
            ),
            Missing::Disks { there, without } => write!(
                f,
                "{there} workers have a disk that takes data, {without} have room but no such disk; set \
                 worker.data_folders, or register the shuffle with durability memory"
            ),
        }
    }
}

/// Why a caller asks for the next epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replacing {
    /// A push was refused, or its worker is out of reach: the epoch is over.
    Refused,
    /// A push was taken, and the next ones should go elsewhere.
    Full,
}

/// The answer to a revive, or to the question where a partition is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Revived {
    /// Push there.
    Open(OpenAt),
    /// It is to be placed; ask again when something has changed.
    Wanted,
    /// Nowhere to go at the moment.
    NoSpace(NoSpace),
    /// The map has a winner.
    MapEnded,
    /// Every map has a winner.
    StageEnded,
}

/// The epochs of all partitions of one generation.
#[derive(Debug)]
pub(super) struct Locations {
    /// By partition, then by epoch.
    pub(super) partitions: Vec<Vec<PlacedEpoch>>,
    /// Epochs whose commit has begun and that are neither sealed nor lost, so that a commit need not look at all of them
    /// to find these.
    pub(super) committing: BTreeSet<(Partition, Epoch)>,
    /// Copies that a freeze or a seal is due to, by worker.
    pub(super) due: BTreeMap<WorkerIndex, BTreeSet<(Partition, Epoch)>>,
    /// Epochs replaced after a soft split, and since when that is known.
    pub(super) resting: BTreeMap<(Partition, Epoch), Option<Duration>>,
    wanted: BTreeSet<Partition>,
    no_space: BTreeMap<Partition, NoSpace>,
    /// Every worker that was given a location.
    pub(super) workers: WorkerTable,
}

impl Locations {
    pub(super) fn new(partitions: u32) -> Self {
        Self {
            partitions: (0..partitions).map(|_| Vec::new()).collect(),
            committing: BTreeSet::new(),
            due: BTreeMap::new(),
            resting: BTreeMap::new(),
            wanted: (0..partitions).map(Partition).collect(),
            no_space: BTreeMap::new(),
            workers: WorkerTable::default(),
        }
    }

    /// The newest epoch of a partition that is, or was, open.
    fn newest(&self, partition: Partition) -> Option<(Epoch, PlacedEpoch)> {
        let epochs = self.partitions.get(partition.0 as usize)?;
        let newest = epochs.iter().rposition(|placed| placed.state != EpochState::Abandoned)?;
        Some((Epoch(newest as u32), epochs[newest]))
    }
}

impl GenerationState {
    /// Where a partition is open. Where it is not, it is wanted from now on. The caller makes sure that the shuffle has
    /// the partition; one that it does not have is `NoSpace`.
    pub fn locate(&mut self, partition: Partition) -> Revived {
        match self.open_at(partition) {
            Some(open) => Revived::Open(open),
            None if self.stage == Stage::Ended => Revived::StageEnded,
            None => self.want(partition),
        }
    }

    /// Answers a caller whose push to `epoch` was refused, or went to a worker out of reach, or filled it: with the next
    /// epoch, if somebody has asked for it before; else the partition is wanted. A refused epoch is committed from here
    /// on; a full one is open until its next is placed. Whoever was never told a location asks with
    /// [`GenerationState::locate`], or it would replace one that is good.
    ///
    /// # Errors
    /// `NotStarted` or `Dead`: the attempt must stop. `Partition` when there never was such a location.
    pub fn revive(
        &mut self,
        key: AttemptKey,
        partition: Partition,
        epoch: Epoch,
        why: Replacing,
    ) -> Result<Revived, AttemptError> {
        self.attempts.check_live(key)?;
        if self.stage == Stage::Ended {
            return Ok(Revived::StageEnded);
        }
        if self.attempts.lost(key.name) {
            return Ok(Revived::MapEnded);
        }
        let Some(epochs) = self.locations.partitions.get(partition.0 as usize) else {
            return Err(AttemptError::Partition { partition: partition.0 });
        };
        if epoch.0 as usize >= epochs.len().max(1) {
            return Err(AttemptError::Partition { partition: partition.0 });
        }
        if why == Replacing::Refused {
            self.locations.begin_commit(partition, epoch);
        }
        match self.open_at(partition) {
            Some(open) if open.location.epoch > epoch => Ok(Revived::Open(open)),
            Some(_) | None => Ok(self.want(partition)),
        }
    }

    /// The answer to somebody who waits since a revive or a locate; with the epoch that was replaced, where one was.
    #[must_use]
    pub fn answer(&self, partition: Partition, replaced: Option<Epoch>) -> Revived {
        let open = self.open_at(partition);
        if let Some(open) = open.filter(|open| replaced.is_none_or(|replaced| open.location.epoch > replaced)) {
            return Revived::Open(open);
        }
        if self.stage == Stage::Ended {
            return Revived::StageEnded;
        }
        if self.locations.wanted.contains(&partition) {
            return Revived::Wanted;
        }
        Revived::NoSpace(self.locations.no_space.get(&partition).copied().unwrap_or_default())
    }

    /// Whether a partition has, or had, a place; one that a commit has closed gets its next with the next push.
    #[must_use]
    pub fn was_placed(&self, partition: Partition) -> bool {
        self.locations.newest(partition).is_some()
    }

    /// Locations to place and reserve now, at most `most`.
    #[must_use]
    pub fn wanted(&self, most: usize) -> Vec<LocationId> {
        self.locations.wanted.iter().take(most).map(|partition| self.next_location(*partition)).collect()
    }

    /// A worker was asked to reserve something of this generation: the release tells it, whatever came of it.
    pub fn asked_to_reserve(&mut self, worker: WorkerId) {
        self.locations.workers.add(worker);
    }

    /// A wanted location was reserved at a worker, and its second copy at another one where it has two. Where it is not
    /// wanted (any more) its reservation is left alone until the release.
    pub fn placed(&mut self, location: LocationId, worker: WorkerId, handle: Handle, replica: Option<WorkerId>) {
        if location.shuffle != self.wire {
            return;
        }
        let copy = |worker| PlacedCopy { worker, state: CopyState::Asked };
        let locations = &mut self.locations;
        let first = copy(locations.workers.add(worker));
        let second = replica.map(|replica| copy(locations.workers.add(replica)));
        let placed = PlacedEpoch { state: EpochState::Open { handle }, first, second };
        if self.push_epoch(location, placed) {
            self.locations.wanted.remove(&location.partition);
        }
    }

    /// The reservation of a wanted location was begun at a worker and not completed, or may have been: its name is not
    /// used again, so that no two reservations of it differ.
    pub fn abandoned(&mut self, location: LocationId, worker: WorkerId) {
        let first = PlacedCopy { worker: self.locations.workers.add(worker), state: CopyState::Asked };
        let placed = PlacedEpoch { state: EpochState::Abandoned, first, second: None };
        let is_last = location.epoch.0 as usize + 1 >= EPOCHS_MAX;
        if self.push_epoch(location, placed) && is_last {
            self.not_placed(location.partition, NoSpace::default());
        }
    }

    /// Adds a partition's next epoch, if that is what is wanted; the one before it rests from here on.
    fn push_epoch(&mut self, location: LocationId, placed: PlacedEpoch) -> bool {
        let LocationId { partition, .. } = location;
        if self.next_location(partition) != location || !self.locations.wanted.contains(&partition) {
            return false;
        }
        let newest = self.locations.newest(partition);
        let epochs = &mut self.locations.partitions[partition.0 as usize];
        if let Some((epoch, PlacedEpoch { state: EpochState::Open { .. }, .. })) = newest
            && placed.state != EpochState::Abandoned
        {
            epochs[epoch.0 as usize].state = EpochState::Replaced;
            self.locations.resting.insert((partition, epoch), None);
        }
        if epochs.is_empty() {
            // Most partitions never have a second one, and a vector that grows by itself begins with four.
            epochs.reserve_exact(1);
        }
        epochs.push(placed);
        true
    }

    /// No worker had room for a wanted location.
    pub fn not_placed(&mut self, partition: Partition, full: NoSpace) {
        if self.locations.wanted.remove(&partition) {
            self.locations.no_space.insert(partition, full);
        }
    }

    /// Workers that were given locations of this generation, for its release.
    pub fn workers(&self) -> impl Iterator<Item = WorkerId> + '_ {
        self.locations.workers.ids()
    }

    /// Begins the commit of epochs that were replaced after a soft split a while ago. Call it a few times a second while
    /// something rests.
    pub fn commit_rested(&mut self, now: Duration) {
        let mut rested = Vec::new();
        for (epoch, since) in &mut self.locations.resting {
            if *since.get_or_insert(now) + REST <= now {
                rested.push(*epoch);
            }
        }
        for (partition, epoch) in rested {
            self.locations.begin_commit(partition, epoch);
        }
    }

    /// Whether an epoch was replaced after a soft split and is not committed yet.
    #[must_use]
    pub fn is_resting(&self) -> bool {
        !self.locations.resting.is_empty()
    }

    /// The stage has ended: whoever waits for a location is told so, and none is opened that no commit would see.
    pub(super) fn place_no_more(&mut self) {
        self.locations.wanted.clear();
        self.locations.no_space.clear();
    }

    fn want(&mut self, partition: Partition) -> Revived {
        let Some(epochs) = self.locations.partitions.get(partition.0 as usize) else {
            return Revived::NoSpace(NoSpace::default());
        };
        if epochs.len() >= EPOCHS_MAX {
            return Revived::NoSpace(NoSpace::default());
        }
        self.locations.no_space.remove(&partition);
        self.locations.wanted.insert(partition);
        Revived::Wanted
    }

    fn open_at(&self, partition: Partition) -> Option<OpenAt> {
        let (epoch, placed) = self.locations.newest(partition)?;
        match placed.state {
            EpochState::Open { handle } => {
                let worker = self.locations.workers.id(placed.first.worker);
                Some(OpenAt { location: self.location(partition, epoch), worker, handle })
            }
            EpochState::Replaced | EpochState::Freezing { .. } | EpochState::Fixed { .. } | EpochState::Abandoned => {
                None
            }
        }
    }

    fn next_location(&self, partition: Partition) -> LocationId {
        let epochs = self.locations.partitions.get(partition.0 as usize).map_or(0, Vec::len);
        self.location(partition, Epoch(epochs as u32))
    }

    pub(super) fn location(&self, partition: Partition, epoch: Epoch) -> LocationId {
        LocationId { shuffle: self.wire, partition, epoch }
    }
}
