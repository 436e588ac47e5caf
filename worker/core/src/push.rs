//! Whether a batch may be appended, and the list of what was.
//!
//! Owns a location's life and its batch list: stored bytes are never parsed again. Does not own where the bytes are
//! (`memory`), the steps that end a life (`commit`), nor the reading of it (`fetch`).

use std::collections::VecDeque;

use mallorn_proto::batch::BatchHeader;
use mallorn_proto::id::{Attempt, BatchId, MapId, SealId};
use mallorn_proto::limits::{CHUNK_BYTES, CHUNKS_MAX};
use mallorn_sabotage::{self as sabotage, Sabotage};

use crate::record::EXTENTS_MAX;
use crate::replicate::Copy;
use crate::spill::extent::Extent;

/// The life of a location on this worker. It only moves downwards in this list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// Takes batches.
    Open,
    /// Takes none any more, for good.
    Frozen {
        /// Bytes that were acked: at a primary what its replica has confirmed, elsewhere all that it held.
        acked: u64,
    },
    /// Readable under this seal; its bytes never change.
    Sealed {
        /// Drawn by the lifecycle manager, once per location.
        seal: SealId,
        /// Fixed with the seal, in bytes.
        length: u64,
    },
    /// Released, or too short for its seal; it holds nothing.
    Gone,
}

impl Life {
    /// The name used in metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Frozen { .. } => "frozen",
            Self::Sealed { .. } => "sealed",
            Self::Gone => "gone",
        }
    }
}

/// One appended batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchEntry {
    /// The map task.
    pub map: MapId,
    /// Its attempt.
    pub attempt: Attempt,
    /// The batch.
    pub batch: BatchId,
    /// Bytes that it takes in the log, its header included.
    pub stored_bytes: u32,
}

impl BatchEntry {
    /// Bytes of heap that one entry takes.
    pub const HEAP_BYTES: u64 = size_of::<Self>() as u64;
}

impl From<BatchHeader> for BatchEntry {
    /// # Panics
    /// When the batch is over 4 GiB; every body is bounded far below.
    fn from(header: BatchHeader) -> Self {
        let stored_bytes = u32::try_from(header.stored_bytes()).expect("a batch is within the largest body");
        Self { map: header.map, attempt: header.attempt, batch: header.batch, stored_bytes }
    }
}

/// What becomes of a batch that has been verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It is appended at this logical offset.
    Append {
        /// In bytes from the location's start.
        offset: u64,
    },
    /// The location takes no more: the batch belongs in the next epoch.
    HardSplit,
}

/// Lengths from which on a location should be left, and must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SplitLimits {
    /// A batch that reaches this length is accepted, and its sender told to move on.
    pub soft_bytes: u64,
    /// A location of this length takes no more. It is checked before a batch, so that each location takes one at least.
    pub hard_bytes: u64,
}

impl SplitLimits {
    /// No limits.
    pub const NONE: Self = Self { soft_bytes: u64::MAX, hard_bytes: u64::MAX };
}

/// A limit that a location has just reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// It should be left.
    Soft,
    /// It takes no more.
    Hard,
}

impl Split {
    /// The name used in metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Soft => "soft",
            Self::Hard => "hard",
        }
    }
}

/// Where a chunk that is complete ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ChunkEnd {
    /// In bytes from the location's start.
    pub(crate) offset: u64,
    /// Batches before it.
    pub(crate) batches: u64,
}

/// A location's log: its life, and what was appended to it, in order.
#[derive(Clone, Debug)]
pub struct Log {
    pub(crate) life: Life,
    pub(crate) copy: Copy,
    pub(crate) limits: SplitLimits,
    /// Bytes that a primary's replica has confirmed.
    pub(crate) confirmed: u64,
    pub(crate) length: u64,
    /// Where the bytes on disk lie; see [`crate::spill::extent`].
    pub(crate) extents: Vec<Extent>,
    /// Where memory begins.
    pub(crate) memory_start: u64,
    /// Batches before that, whose entries were forgotten.
    pub(crate) forgotten: u64,
    /// The batches in memory.
    pub(crate) batches: VecDeque<BatchEntry>,
    /// How many of them lie on disk too.
    pub(crate) written_batches: usize,
    /// The chunks that are complete: one ends with the batch that reaches [`CHUNK_BYTES`] from its start, so that their
    /// borders depend on batch lengths alone and are the same on every copy.
    pub(crate) chunk_ends: Vec<ChunkEnd>,
}

impl Log {
    /// Open and empty, the only copy, without limits.
    #[must_use]
    pub fn new() -> Self {
        Self::of(Copy::Lone, SplitLimits::NONE)
    }

    /// Open and empty. The limits are for pushes: what is forwarded was decided on already.
    #[must_use]
    pub fn of(copy: Copy, limits: SplitLimits) -> Self {
        Self {
            life: Life::Open,
            copy,
            limits,
            confirmed: 0,
            length: 0,
            extents: Vec::new(),
            memory_start: 0,
            forgotten: 0,
            batches: VecDeque::new(),
            written_batches: 0,
            chunk_ends: Vec::new(),
        }
    }

    /// Where in its life the location is.
    #[must_use]
    pub fn life(&self) -> Life {
        self.life
    }

    /// Bytes appended; once sealed, the sealed length.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Batches appended; once sealed, those below the sealed length.
    #[must_use]
    pub fn batches(&self) -> u64 {
        self.forgotten + self.batches.len() as u64
    }

    /// Batches whose entries are in memory.
    #[must_use]
    pub fn batches_in_memory(&self) -> usize {
        self.batches.len()
    }

    /// Whether a pushed batch may be appended now. A batch is never refused as a duplicate: exactly-once is the reader's
    /// work.
    #[must_use]
    pub fn admit(&self) -> Admission {
        let orders = matches!(self.copy, Copy::Lone | Copy::Primary);
        if orders && self.length < self.limits.hard_bytes { self.next() } else { Admission::HardSplit }
    }

    /// Where the next batch of an open location lies.
    pub(crate) fn next(&self) -> Admission {
        if sabotage::is(Sabotage::AckAfterTheFreeze) && matches!(self.life, Life::Frozen { .. }) {
            return Admission::Append { offset: self.length };
        }
        match self.life {
            Life::Open if self.chunk_ends.len() + 1 < CHUNKS_MAX && self.extents.len() < EXTENTS_MAX => {
                Admission::Append { offset: self.length }
            }
            Life::Open | Life::Frozen { .. } | Life::Sealed { .. } | Life::Gone => Admission::HardSplit,
        }
    }

    /// Whether who pushes should move on to the next epoch.
    #[must_use]
    pub fn is_over_soft_limit(&self) -> bool {
        self.length >= self.limits.soft_bytes
    }

    /// The limit that the location has reached with its last batch, of that many bytes.
    #[must_use]
    pub fn reached(&self, stored_bytes: u64) -> Option<Split> {
        let is_new = |limit: u64| (self.length - stored_bytes..self.length).contains(&limit.saturating_sub(1));
        let hard = is_new(self.limits.hard_bytes).then_some(Split::Hard);
        hard.or_else(|| is_new(self.limits.soft_bytes).then_some(Split::Soft))
    }

    /// Notes a batch whose bytes now lie at the offset that [`Log::admit`] gave.
    ///
    /// # Panics
    /// When the location is not open.
    pub fn append(&mut self, entry: BatchEntry) {
        let is_open = self.life == Life::Open || sabotage::is(Sabotage::AckAfterTheFreeze);
        assert!(is_open, "only an open location is appended to");
        let chunk_start = self.chunk_ends.last().map_or(0, |end| end.offset);
        self.batches.push_back(entry);
        self.length += u64::from(entry.stored_bytes);
        if self.length - chunk_start >= CHUNK_BYTES {
            self.chunk_ends.push(ChunkEnd { offset: self.length, batches: self.batches() });
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self::new()
    }
}

/// What becomes of one location of a reservation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reservation {
    /// A new location is made.
    Make,
    /// It is there and open: the same handle again.
    Repeat,
    /// It is there and takes no more batches, or has other copies than those asked for.
    Closed,
    /// Its first batch might find no memory.
    Full,
    /// The worker takes no new locations.
    Draining,
}

/// A location that is there already when it is reserved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Present {
    /// Where in its life it is.
    pub life: Life,
    /// Whether it was reserved as the same copy beside the same other: a location's copies are fixed for its life.
    pub same_copies: bool,
}

/// Decides on one location of a reservation. `present` is what the worker has of it, `free_bytes` what locations of that
/// kind may still take. A new location is made only where one maximal body has room.
#[must_use]
pub fn reserve(present: Option<Present>, draining: bool, free_bytes: u64, body_bytes_max: u32) -> Reservation {
    match present {
        Some(Present { life: Life::Open, same_copies: true }) => Reservation::Repeat,
        Some(Present { life: Life::Open | Life::Frozen { .. } | Life::Sealed { .. }, .. }) => Reservation::Closed,
        Some(Present { life: Life::Gone, .. }) | None if draining => Reservation::Draining,
        Some(Present { life: Life::Gone, .. }) | None if free_bytes < u64::from(body_bytes_max) => Reservation::Full,
        Some(Present { life: Life::Gone, .. }) | None => Reservation::Make,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(stored_bytes: u32) -> BatchEntry {
        BatchEntry { map: MapId(1), attempt: Attempt(0), batch: BatchId(0), stored_bytes }
    }

    #[test]
    fn only_an_open_location_takes_batches() {
        let mut log = Log::new();
        assert_eq!(log.admit(), Admission::Append { offset: 0 });
        log.append(entry(100));
        log.append(entry(28));
        assert_eq!(log.admit(), Admission::Append { offset: 128 });
        for life in [Life::Frozen { acked: 128 }, Life::Sealed { seal: SealId(1), length: 128 }, Life::Gone] {
            log.life = life;
            assert_eq!(log.admit(), Admission::HardSplit);
        }
    }

    #[test]
    fn a_location_has_no_more_chunks_than_a_reader_can_be_told() {
        let mut log = Log::new();
        for _ in 1..CHUNKS_MAX {
            assert!(matches!(log.admit(), Admission::Append { .. }));
            log.append(entry(CHUNK_BYTES as u32));
        }
        assert_eq!(log.admit(), Admission::HardSplit);
    }

    #[test]
    fn a_reservation_repeats_closes_or_is_made_while_there_is_room() {
        let body = 1000;
        let present = |life, same_copies| Some(Present { life, same_copies });
        assert_eq!(reserve(present(Life::Open, true), true, 0, body), Reservation::Repeat);
        assert_eq!(reserve(present(Life::Open, false), false, 5000, body), Reservation::Closed);
        assert_eq!(reserve(present(Life::Frozen { acked: 0 }, true), false, 5000, body), Reservation::Closed);
        let sealed = Life::Sealed { seal: SealId(1), length: 0 };
        assert_eq!(reserve(present(sealed, true), false, 5000, body), Reservation::Closed);
        assert_eq!(reserve(None, true, 5000, body), Reservation::Draining);
        assert_eq!(reserve(None, false, 999, body), Reservation::Full);
        assert_eq!(reserve(present(Life::Gone, true), false, 1000, body), Reservation::Make);
    }

    #[test]
    fn over_the_soft_limit_batches_are_taken_and_over_the_hard_one_they_are_not() {
        let push = |log: &mut Log, bytes: u32| {
            log.append(entry(bytes));
            (log.reached(u64::from(bytes)), log.is_over_soft_limit())
        };
        let mut log = Log::of(Copy::Lone, SplitLimits { soft_bytes: 100, hard_bytes: 200 });
        assert_eq!(push(&mut log, 99), (None, false));
        assert_eq!(push(&mut log, 1), (Some(Split::Soft), true));
        assert_eq!(push(&mut log, 50), (None, true));
        assert_eq!(log.admit(), Admission::Append { offset: 150 });
        assert_eq!(push(&mut log, 80), (Some(Split::Hard), true));
        assert_eq!(log.admit(), Admission::HardSplit);
        let mut log = Log::of(Copy::Lone, SplitLimits { soft_bytes: 10, hard_bytes: 20 });
        assert_eq!(log.admit(), Admission::Append { offset: 0 }, "however large, one batch is taken");
        assert_eq!(push(&mut log, 1000), (Some(Split::Hard), true));
    }
}
