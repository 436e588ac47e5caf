//! Epochs: where each partition's batches go now, and where they went before.
//!
//! | state | becomes | by |
//! |---|---|---|
//! | Open | Replaced | a revive of it |
//! | Open, Replaced | Freezing | commit |
//! | Freezing | Fixed | its acked length is known: seal id and length are fixed, once |
//! | Fixed | Sealed | the worker has sealed it |
//! | Freezing, Fixed | Failed | the worker does not have it, or is gone |
//! | Sealed | Failed | a reader found it gone, in a shuffle without a map count |
//!
//! Owns: states and what must be placed next. Does not own: picking workers, or reserving.
//!
//! Memory: about 75 bytes for a partition with one epoch, 48 more for each further one.

use std::collections::{BTreeMap, BTreeSet};

use mallorn_proto::id::{Epoch, Handle, LocationId, Partition, SealId, WorkerId};

use super::attempts::AttemptKey;
use super::error::AttemptError;
use super::{GenerationState, Stage};

/// Most epochs that one partition may have; beyond it there is no space left for it.
pub(super) const EPOCHS_MAX: usize = 4096;

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

/// No worker had room when a partition was to be placed last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NoSpace {
    /// All live arenas, in bytes.
    pub arena_bytes: u64,
    /// What is held of them, in bytes.
    pub held_bytes: u64,
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

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum EpochState {
    Open { handle: Handle },
    Replaced,
    Freezing,
    Fixed { seal: SealId, length: u64 },
    Sealed { seal: SealId, length: u64 },
    Failed { why: Box<str> },
}

#[derive(Debug)]
pub(super) struct PlacedEpoch {
    pub(super) worker: WorkerId,
    pub(super) state: EpochState,
}

/// The epochs of all partitions of one generation.
#[derive(Debug)]
pub(super) struct Locations {
    /// By partition, then by epoch.
    pub(super) partitions: Vec<Vec<PlacedEpoch>>,
    /// Epochs between their freeze and their seal, so that a commit need not look at all of them to find these.
    pub(super) committing: BTreeSet<(Partition, Epoch)>,
    wanted: BTreeSet<Partition>,
    no_space: BTreeMap<Partition, NoSpace>,
    /// Every worker that was given a location, for the release.
    workers: BTreeSet<WorkerId>,
}

impl Locations {
    pub(super) fn new(partitions: u32) -> Self {
        Self {
            partitions: (0..partitions).map(|_| Vec::new()).collect(),
            committing: BTreeSet::new(),
            wanted: (0..partitions).map(Partition).collect(),
            no_space: BTreeMap::new(),
            workers: BTreeSet::new(),
        }
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

    /// Answers a caller whose push to `epoch` was refused, or went to a worker out of reach: with the next epoch, if
    /// somebody has asked for it before; else the current one is replaced and the partition wanted. Whoever was never
    /// told a location asks with [`GenerationState::locate`], or it would replace one that is good.
    ///
    /// # Errors
    /// `NotStarted` or `Dead`: the attempt must stop. `Partition` when there never was such a location.
    pub fn revive(&mut self, key: AttemptKey, partition: Partition, epoch: Epoch) -> Result<Revived, AttemptError> {
        self.attempts.check_live(key)?;
        if self.stage == Stage::Ended {
            return Ok(Revived::StageEnded);
        }
        if self.attempts.lost(key.name) {
            return Ok(Revived::MapEnded);
        }
        let Some(epochs) = self.locations.partitions.get_mut(partition.0 as usize) else {
            return Err(AttemptError::Partition { partition: partition.0 });
        };
        let (count, named) = (epochs.len(), epoch.0 as usize);
        if named >= count.max(1) {
            return Err(AttemptError::Partition { partition: partition.0 });
        }
        if let Some(current) = epochs.last_mut()
            && named + 1 == count
            && matches!(current.state, EpochState::Open { .. })
        {
            current.state = EpochState::Replaced;
        }
        Ok(self.locate(partition))
    }

    /// The answer for a partition that was `Wanted`, without wanting it again: one that was placed and closed meanwhile is
    /// `NoSpace` at the moment, and its caller asks anew.
    #[must_use]
    pub fn answer(&self, partition: Partition) -> Revived {
        if let Some(open) = self.open_at(partition) {
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
        self.locations.partitions.get(partition.0 as usize).is_some_and(|epochs| !epochs.is_empty())
    }

    /// Locations to place and reserve now, at most `most`.
    #[must_use]
    pub fn wanted(&self, most: usize) -> Vec<LocationId> {
        self.locations.wanted.iter().take(most).map(|partition| self.next_location(*partition)).collect()
    }

    /// A wanted location was reserved at a worker. Where it is not wanted (any more) its reservation is left alone until
    /// the release.
    pub fn placed(&mut self, location: LocationId, worker: WorkerId, handle: Handle) {
        if location.shuffle == self.wire {
            self.locations.workers.insert(worker);
        }
        let expected = self.next_location(location.partition) == location;
        if expected && self.locations.wanted.remove(&location.partition) {
            let state = EpochState::Open { handle };
            let epochs = &mut self.locations.partitions[location.partition.0 as usize];
            if epochs.is_empty() {
                // Most partitions never have a second one, and a vector that grows by itself begins with four.
                epochs.reserve_exact(1);
            }
            epochs.push(PlacedEpoch { worker, state });
        }
    }

    /// No worker had room for a wanted location.
    pub fn not_placed(&mut self, partition: Partition, full: NoSpace) {
        if self.locations.wanted.remove(&partition) {
            self.locations.no_space.insert(partition, full);
        }
    }

    /// Workers that were given locations of this generation, for its release.
    pub fn workers(&self) -> impl Iterator<Item = WorkerId> + '_ {
        self.locations.workers.iter().copied()
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
        let epochs = self.locations.partitions.get(partition.0 as usize)?;
        let placed = epochs.last()?;
        let location = self.location(partition, Epoch(epochs.len() as u32 - 1));
        match placed.state {
            EpochState::Open { handle } => Some(OpenAt { location, worker: placed.worker, handle }),
            EpochState::Replaced
            | EpochState::Freezing
            | EpochState::Fixed { .. }
            | EpochState::Sealed { .. }
            | EpochState::Failed { .. } => None,
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
