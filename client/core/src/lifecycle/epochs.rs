//! What is kept of one epoch: its state, and its one or two copies.
//!
//! Owns: the types, and the numbers that workers are kept under. Does not own: what becomes of them (`locations`,
//! `commit`).

use std::collections::BTreeMap;
use std::fmt;

use mallorn_proto::id::{Handle, SealId, WorkerId};

/// A worker's place in the table of a generation: an epoch names it in 4 bytes instead of 16.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct WorkerIndex(u32);

/// Every worker that was given a location of a generation.
#[derive(Debug, Default)]
pub(super) struct WorkerTable {
    ids: Vec<WorkerId>,
    index: BTreeMap<WorkerId, WorkerIndex>,
}

impl WorkerTable {
    pub(super) fn add(&mut self, worker: WorkerId) -> WorkerIndex {
        *self.index.entry(worker).or_insert_with(|| {
            self.ids.push(worker);
            WorkerIndex(self.ids.len() as u32 - 1)
        })
    }

    pub(super) fn find(&self, worker: WorkerId) -> Option<WorkerIndex> {
        self.index.get(&worker).copied()
    }

    pub(super) fn id(&self, index: WorkerIndex) -> WorkerId {
        self.ids[index.0 as usize]
    }

    /// Rising.
    pub(super) fn ids(&self) -> impl Iterator<Item = WorkerId> + '_ {
        self.index.keys().copied()
    }
}

/// Why a copy is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyFailure {
    /// Its worker does not have it.
    Unknown,
    /// Its worker held less than was acked, and has dropped it.
    Short,
    /// Its worker has sealed it otherwise.
    Conflict,
    /// Its worker is gone.
    Gone,
    /// No disk of its worker took it for as long as a reader would wait.
    NotDurable,
    /// A reader found it gone.
    Struck,
}

impl fmt::Display for CopyFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unknown => "does not have it",
            Self::Short => "held less of it than was acked",
            Self::Conflict => "has sealed it otherwise",
            Self::Gone => "is gone",
            Self::NotDurable => "has no disk that takes it",
            Self::Struck => "has lost it, a reader found",
        })
    }
}

/// How far a copy is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CopyState {
    /// Nothing was heard of it since its commit began.
    Asked,
    /// A call to its worker came to nothing, and it is not sealed since.
    Missed,
    /// It has answered its freeze.
    Held,
    /// No disk takes it: it is to be sealed in memory, which is better than not at all.
    InMemory,
    /// It is sealed as asked.
    Sealed,
    /// It was sealed, and the seal is offered again: to be written, or because a reader did not find it.
    Again,
    /// It is given up.
    Failed(CopyFailure),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PlacedCopy {
    pub(super) worker: WorkerIndex,
    pub(super) state: CopyState,
}

impl PlacedCopy {
    pub(super) fn is_failed(self) -> bool {
        matches!(self.state, CopyState::Failed(_))
    }

    /// Whether it is given up, or a call for it has come to nothing.
    fn is_missing(self) -> bool {
        matches!(self.state, CopyState::Missed | CopyState::InMemory | CopyState::Failed(_))
    }

    /// Whether readers are sent to it.
    pub(super) fn is_good(self) -> bool {
        matches!(self.state, CopyState::Sealed | CopyState::Again)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EpochState {
    /// Takes pushes.
    Open { handle: Handle },
    /// Still takes pushes, but nobody new is sent there.
    Replaced,
    /// Its copies are asked to freeze; with the least length that one of them has answered, if one has.
    Freezing { acked: u64 },
    /// Seal id and length are fixed for good.
    Fixed { seal: SealId, length: u64 },
    /// Its reservation was not completed: nobody was told of it, and nothing was pushed.
    Abandoned,
}

/// No copy has answered yet.
pub(super) const NO_ANSWER: u64 = u64::MAX;

#[derive(Clone, Copy, Debug)]
pub(super) struct PlacedEpoch {
    pub(super) state: EpochState,
    pub(super) first: PlacedCopy,
    pub(super) second: Option<PlacedCopy>,
}

impl PlacedEpoch {
    pub(super) fn copies(&self) -> impl Iterator<Item = PlacedCopy> + '_ {
        std::iter::once(self.first).chain(self.second)
    }

    pub(super) fn copy(&self, worker: WorkerIndex) -> Option<PlacedCopy> {
        self.copies().find(|copy| copy.worker == worker)
    }

    /// The copy that is not at this worker.
    pub(super) fn other(&self, worker: WorkerIndex) -> Option<PlacedCopy> {
        self.copies().find(|copy| copy.worker != worker)
    }

    pub(super) fn copies_mut(&mut self) -> impl Iterator<Item = &mut PlacedCopy> {
        std::iter::once(&mut self.first).chain(&mut self.second)
    }

    pub(super) fn copy_mut(&mut self, worker: WorkerIndex) -> Option<&mut PlacedCopy> {
        self.copies_mut().find(|copy| copy.worker == worker)
    }

    pub(super) fn is_committing(&self) -> bool {
        matches!(self.state, EpochState::Freezing { .. } | EpochState::Fixed { .. })
    }

    pub(super) fn is_good(&self) -> bool {
        self.copies().any(PlacedCopy::is_good)
    }

    pub(super) fn is_lost(&self) -> bool {
        self.is_committing() && self.copies().all(PlacedCopy::is_failed)
    }

    /// Sealed, but not twice where it was placed twice; one whose other seal is only under way is not counted.
    pub(super) fn is_degraded(&self) -> bool {
        self.second.is_some() && self.is_good() && self.copies().any(PlacedCopy::is_missing)
    }
}
