//! What a reader of a sealed location is sent.
//!
//! Owns chunk borders, the plan of one fetch, and who may open. Does not own streams, bytes or sockets.

use std::ops::Range;

use mallorn_proto::id::{MapId, SealId};

use crate::push::{ChunkEnd, Life, Log};

/// Most runs of one answer. A sparse range of maps may select every other batch of a chunk; the answer then ends early
/// and the reader goes on at `next`.
pub const RUNS_MAX: usize = 1024;

/// The maps that a stream reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapRange {
    /// The first one.
    pub start: u32,
    /// The one after the last; `u32::MAX` leaves the range open.
    pub end: u32,
}

impl MapRange {
    /// Every map.
    pub const ALL: Self = Self { start: 0, end: u32::MAX };

    /// Whether a map is in the range.
    #[must_use]
    pub fn contains(self, map: MapId) -> bool {
        map.0 >= self.start && (map.0 < self.end || self.end == u32::MAX)
    }
}

/// Where a stream goes on: a border between batches, with the number of batches before it, so that a reader in sequence
/// costs no search.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    /// In bytes from the location's start.
    pub offset: u64,
    batches: usize,
}

/// The answer to one fetch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Ranges of bytes to send: whole selected batches, rising, neighbours joined.
    pub runs: Vec<Range<u64>>,
    /// Their sum, in bytes.
    pub bytes: u64,
    /// Where the reader goes on. At the sealed length there is nothing more.
    pub next: Cursor,
}

/// Why a location cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// It is open or frozen, or sealed under another id, or gone.
    #[error("no location sealed under this id is here; ask the lifecycle manager where it is")]
    NotHere,
}

/// Why a fetch has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    /// The location was released.
    #[error("the location is not here any more; ask the lifecycle manager where it is")]
    NotHere,
    /// The offset is in the middle of a batch.
    #[error(
        "offset {offset} is no border between batches; go on at 0, at a chunk's end, or where an answer said `next`"
    )]
    NotABorder {
        /// The offset asked for.
        offset: u64,
    },
    /// The next batch alone is larger than the limit.
    #[error("the next batch has {bytes} bytes, more than the limit of {limit}; ask with a larger limit")]
    TooLarge {
        /// The batch's bytes.
        bytes: u32,
        /// The limit asked for, in bytes.
        limit: u32,
    },
}

impl Log {
    /// Checks that the location may be read under this seal; returns the sealed length, in bytes.
    ///
    /// # Errors
    /// `NotHere` otherwise: whether it never existed, was empty or was released, only the lifecycle manager knows.
    pub fn open(&self, seal: SealId) -> Result<u64, OpenError> {
        match self.life {
            Life::Sealed { seal: sealed, length } if sealed == seal => Ok(length),
            Life::Open | Life::Frozen { .. } | Life::Sealed { .. } | Life::Gone => Err(OpenError::NotHere),
        }
    }

    /// Where each chunk ends, the last one at the sealed length. Equal on all copies, and fixed with the seal.
    pub fn chunk_ends(&self) -> impl Iterator<Item = u64> + '_ {
        let complete = self.chunk_ends.last().map_or(0, |end| end.offset);
        let rest = (complete < self.length).then_some(self.length);
        self.chunk_ends.iter().map(|end| end.offset).chain(rest)
    }

    /// Plans the answer to one fetch: the batches from `offset` on whose map is in range, at most `limit_bytes` of them,
    /// all from one chunk. `hint` is the stream's cursor; it only saves a search.
    ///
    /// # Errors
    /// `NotHere`, `NotABorder` or `TooLarge`.
    pub fn plan(&self, hint: Cursor, offset: u64, limit_bytes: u32, maps: MapRange) -> Result<Plan, FetchError> {
        let Life::Sealed { length, .. } = self.life else { return Err(FetchError::NotHere) };
        if offset >= length {
            return Ok(Plan { next: Cursor { offset, batches: self.batches.len() }, ..Plan::default() });
        }
        let start = self.seek(hint, offset).ok_or(FetchError::NotABorder { offset })?;
        let chunk = self.chunk_ends.partition_point(|end| end.offset <= offset);
        let whole = ChunkEnd { offset: length, batches: self.batches.len() };
        let chunk_end = self.chunk_ends.get(chunk).copied().unwrap_or(whole);
        let mut plan = Plan { next: start, ..Plan::default() };
        for entry in &self.batches[start.batches..chunk_end.batches] {
            let begin = plan.next.offset;
            let end = begin + u64::from(entry.stored_bytes);
            if maps.contains(entry.map) {
                if plan.bytes + u64::from(entry.stored_bytes) > u64::from(limit_bytes) {
                    if plan.runs.is_empty() {
                        return Err(FetchError::TooLarge { bytes: entry.stored_bytes, limit: limit_bytes });
                    }
                    break;
                }
                let full = plan.runs.len() == RUNS_MAX;
                match plan.runs.last_mut() {
                    Some(run) if run.end == begin => run.end = end,
                    Some(_) if full => break,
                    Some(_) | None => plan.runs.push(begin..end),
                }
                plan.bytes += u64::from(entry.stored_bytes);
            }
            plan.next = Cursor { offset: end, batches: plan.next.batches + 1 };
        }
        Ok(plan)
    }

    /// The cursor at `offset`, if a batch begins there: the hint, or a search from its chunk's start.
    fn seek(&self, hint: Cursor, offset: u64) -> Option<Cursor> {
        if hint.offset == offset && hint.batches <= self.batches.len() {
            return Some(hint);
        }
        let chunk = self.chunk_ends.partition_point(|end| end.offset <= offset);
        let before = chunk.checked_sub(1).map(|index| self.chunk_ends[index]);
        let mut at = before.map_or(Cursor::default(), |end| Cursor { offset: end.offset, batches: end.batches });
        for entry in &self.batches[at.batches..] {
            if at.offset >= offset {
                break;
            }
            at = Cursor { offset: at.offset + u64::from(entry.stored_bytes), batches: at.batches + 1 };
        }
        (at.offset == offset).then_some(at)
    }
}

#[cfg(test)]
mod tests;
