//! What a reader of a sealed location is sent.
//!
//! Owns chunk borders, the plan of one fetch, and who may open. Does not own streams, bytes or sockets.

use std::ops::Range;

use mallorn_proto::id::{MapId, SealId};

use crate::push::{BatchEntry, ChunkEnd, Life, Log};
use crate::spill::extent::{Extent, entries};

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

    /// Whether maps of an extent may be in the range.
    fn meets(self, extent: &Extent) -> bool {
        extent.last_map >= self.start && (extent.first_map < self.end || self.end == u32::MAX)
    }

    /// Whether all maps of an extent are in the range.
    fn covers(self, extent: &Extent) -> bool {
        self.contains(MapId(extent.first_map)) && self.contains(MapId(extent.last_map))
    }
}

/// Where a stream goes on: a border between batches, with the number of batches before it, so that a reader in sequence
/// costs no search.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    /// In bytes from the location's start.
    pub offset: u64,
    batches: u64,
}

impl Cursor {
    /// At a border of which only the place is known.
    #[must_use]
    pub fn at(offset: u64) -> Self {
        Self { offset, batches: u64::MAX }
    }

    /// So many batches further, at `offset`.
    pub(crate) fn after(self, batches: u64, offset: u64) -> Self {
        Self { offset, batches: self.batches + batches }
    }
}

/// Where the answer to one fetch comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Planned {
    /// Memory.
    Memory(Plan),
    /// Disk.
    Disk(DiskPlan),
}

/// The answer to one fetch, from disk: what to read, in order. Where it is stands in each extent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiskPlan {
    /// What is read of each extent.
    pub parts: Vec<ExtentPart>,
    /// Where the reader goes on once all parts are in the answer whole.
    pub next: u64,
}

/// What is read of one extent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExtentPart {
    /// The extent.
    pub extent: Extent,
    /// Where the reader is, if that is in the middle of the extent; else the extent's start.
    pub from: u64,
    /// Whether its list must be asked which batches are read; else all of it is.
    pub selects: bool,
}

/// What of an extent is sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Ranges of bytes from the extent's start: whole selected batches, rising, neighbours joined.
    pub runs: Vec<Range<u32>>,
    /// Their sum, in bytes.
    pub bytes: u64,
    /// Where the reader goes on, in bytes from the location's start.
    pub next: u64,
}

/// The answer to one fetch, from memory.
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

    /// For each complete chunk where it ends, and how many batches come before that.
    pub fn whole_chunks(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.chunk_ends.iter().map(|end| (end.offset, end.batches))
    }

    /// Plans the answer to one fetch: the batches from `offset` on whose map is in range, at most `limit_bytes` of them,
    /// all from one chunk. `hint` is the stream's cursor; it only saves a search.
    ///
    /// # Errors
    /// `NotHere`, `NotABorder` or `TooLarge`.
    pub fn plan(&self, hint: Cursor, offset: u64, limit_bytes: u32, maps: MapRange) -> Result<Planned, FetchError> {
        let Life::Sealed { length, .. } = self.life else { return Err(FetchError::NotHere) };
        if offset >= length {
            let next = Cursor { offset, batches: self.batches() };
            return Ok(Planned::Memory(Plan { next, ..Plan::default() }));
        }
        if offset < self.memory_start {
            return Ok(Planned::Disk(self.plan_disk(offset, limit_bytes, maps)));
        }
        self.plan_memory(hint, offset, limit_bytes, maps).map(Planned::Memory)
    }

    fn plan_memory(&self, hint: Cursor, offset: u64, limit_bytes: u32, maps: MapRange) -> Result<Plan, FetchError> {
        let start = self.seek(hint, offset).ok_or(FetchError::NotABorder { offset })?;
        let whole = ChunkEnd { offset: self.length, batches: self.batches() };
        let chunk_end = self.chunk_after(offset).unwrap_or(whole);
        let mut plan = Plan { next: start, ..Plan::default() };
        for entry in self.batches.range(self.in_memory(start.batches)..self.in_memory(chunk_end.batches)) {
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

    /// Whole extents from `offset` on, up to the chunk's end and the limit; those without a map in range are passed over.
    /// One that must be opened to see which of its batches are read ends the answer, for how much of it is sent is not
    /// known before.
    fn plan_disk(&self, offset: u64, limit_bytes: u32, maps: MapRange) -> DiskPlan {
        let chunk_end = self.chunk_after(offset).map_or(self.length, |end| end.offset).min(self.memory_start);
        let first = self.extents.partition_point(|extent| extent.end() <= offset);
        let mut plan = DiskPlan { parts: Vec::new(), next: offset };
        let mut bytes = 0;
        for extent in self.extents[first..].iter().take_while(|extent| extent.offset < chunk_end) {
            if maps.meets(extent) {
                let from = offset.max(extent.offset);
                let whole = from == extent.offset && maps.covers(extent);
                let fits = bytes + u64::from(extent.length) <= u64::from(limit_bytes);
                if !(fits && whole || plan.parts.is_empty()) {
                    break;
                }
                let selects = !(fits && whole);
                plan.parts.push(ExtentPart { extent: *extent, from, selects });
                bytes += u64::from(extent.length);
                plan.next = extent.end();
                if selects {
                    break;
                }
            } else {
                plan.next = extent.end();
            }
        }
        plan
    }

    /// The complete chunk that `offset` lies in, if it is not the last, incomplete one.
    fn chunk_after(&self, offset: u64) -> Option<ChunkEnd> {
        self.chunk_ends.get(self.chunk_ends.partition_point(|end| end.offset <= offset)).copied()
    }

    /// The lengths of the batches in memory from a cursor on, which [`Log::seek`] has found.
    pub(crate) fn lengths_from(&self, from: Cursor) -> impl Iterator<Item = u32> + '_ {
        self.batches.range(self.in_memory(from.batches)..).map(|entry| entry.stored_bytes)
    }

    /// The index in memory of a batch counted from the location's start.
    fn in_memory(&self, batches: u64) -> usize {
        (batches.saturating_sub(self.forgotten) as usize).min(self.batches.len())
    }

    /// The cursor at `offset`, if a batch begins there: the hint, or a search from its chunk's start.
    pub(crate) fn seek(&self, hint: Cursor, offset: u64) -> Option<Cursor> {
        if hint.offset == offset && (self.forgotten..=self.batches()).contains(&hint.batches) {
            return Some(hint);
        }
        let chunk = self.chunk_ends.partition_point(|end| end.offset <= offset);
        let before = chunk.checked_sub(1).map(|index| self.chunk_ends[index]);
        let memory = Cursor { offset: self.memory_start, batches: self.forgotten };
        let mut at = before.map_or(memory, |end| Cursor { offset: end.offset, batches: end.batches });
        if at.offset < memory.offset {
            at = memory;
        }
        for entry in self.batches.range(self.in_memory(at.batches)..) {
            if at.offset >= offset {
                break;
            }
            at = Cursor { offset: at.offset + u64::from(entry.stored_bytes), batches: at.batches + 1 };
        }
        (at.offset == offset).then_some(at)
    }
}

impl ExtentPart {
    /// Which of its batches are sent, by the extent's list: those from `from` on whose map is in range, at most
    /// `limit_bytes` of them.
    ///
    /// # Errors
    /// `NotABorder` or `TooLarge`.
    pub fn select(&self, list: &[u8], limit_bytes: u32, maps: MapRange) -> Result<Selection, FetchError> {
        let mut selection = Selection { next: self.from, ..Selection::default() };
        let mut end = self.extent.offset;
        for entry in entries(list) {
            let begin = end;
            end += u64::from(entry.stored_bytes);
            if end <= self.from || begin >= self.extent.end() {
                continue;
            }
            if begin < self.from {
                return Err(FetchError::NotABorder { offset: self.from });
            }
            if maps.contains(entry.map) && !selection.add(begin - self.extent.offset, &entry, limit_bytes) {
                if selection.runs.is_empty() {
                    return Err(FetchError::TooLarge { bytes: entry.stored_bytes, limit: limit_bytes });
                }
                break;
            }
            selection.next = end;
        }
        Ok(selection)
    }
}

impl Selection {
    /// Adds a batch; `false` where it does not fit any more.
    fn add(&mut self, begin: u64, entry: &BatchEntry, limit_bytes: u32) -> bool {
        let bytes = self.bytes + u64::from(entry.stored_bytes);
        if bytes > u64::from(limit_bytes) {
            return false;
        }
        let begin = begin as u32;
        let full = self.runs.len() == RUNS_MAX;
        match self.runs.last_mut() {
            Some(run) if run.end == begin => run.end += entry.stored_bytes,
            Some(_) if full => return false,
            Some(_) | None => self.runs.push(begin..begin + entry.stored_bytes),
        }
        self.bytes = bytes;
        true
    }
}

#[cfg(test)]
mod tests;
