//! Hand-over: a worker that leaves moves what is frozen or sealed to other workers.
//!
//! Owns how the hand-over of one location stands, what of it is sent next, what is told at its end and whether that is
//! true at the worker that takes it; and what a worker has taken over (`taken`). Does not own calls or connections.
//!
//! The two copies of a moment are equal, so nothing is lost whichever of the two workers fails when: the leaving one gives
//! its copy up only once the other has answered that it keeps its own, and until that is known it speaks for neither.

mod origins;
mod taken;

pub use origins::Origins;
pub use taken::{Taken, TakenFrom};

use std::ops::Range;

use mallorn_proto::id::{SealId, WorkerId};

use crate::commit::Sealing;
use crate::fetch::Cursor;
use crate::push::{Life, Log};
use crate::replicate::Copy;
use crate::spill::extent::{Extent, entries};

/// Bytes of memory that are read at a time.
pub const READ_BYTES: u64 = 512 * 1024;
/// Most locations that are handed over together.
pub const GROUP_LOCATIONS_MAX: usize = 256;
/// Bytes that are handed over together, but for a single location that is larger.
pub const GROUP_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Most workers that are remembered to have the other copy of a location.
const HOLDERS_MAX: usize = 8;

/// How the hand-over of a location stands at the worker that leaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stage {
    /// It is here, and nowhere on its way.
    #[default]
    Held,
    /// Its bytes are being sent; it can still be sealed.
    Sending,
    /// The other worker was told to keep it. Whether it does is not known yet: only the other one speaks for it.
    Sent,
    /// The other worker keeps it, and it is not here any more.
    Deleted,
}

/// The hand-over of one location, at the worker that leaves.
#[derive(Clone, Debug, Default)]
pub struct Leaving {
    stage: Stage,
    holders: Vec<WorkerId>,
}

/// What a worker is told of a location whose bytes it has been sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    /// Bytes acked.
    pub acked: u64,
    /// `None` where it is frozen only.
    pub seal: Option<SealId>,
    /// The sealed length, or all that was sent.
    pub length: u64,
}

impl Leaving {
    /// A location that was handed over before.
    #[must_use]
    pub fn gone() -> Self {
        Self { stage: Stage::Deleted, holders: Vec::new() }
    }

    /// How it stands.
    #[must_use]
    pub fn stage(&self) -> Stage {
        self.stage
    }

    /// Whether another worker speaks for the location now.
    #[must_use]
    pub fn is_moved(&self) -> bool {
        matches!(self.stage, Stage::Sent | Stage::Deleted)
    }

    /// Begins to send it; `false` where it is on its way already. An open location is not moved: draining freezes it.
    pub fn begin(&mut self, life: Life) -> bool {
        let begins = self.stage == Stage::Held && matches!(life, Life::Frozen { .. } | Life::Sealed { .. });
        if begins {
            self.stage = Stage::Sending;
        }
        begins
    }

    /// All of it was sent: what is told of it, once. From here on it is moved.
    pub fn tell(&mut self, log: &Log) -> Option<Told> {
        let told = match log.life() {
            Life::Frozen { acked } => Told { acked, seal: None, length: log.length() },
            Life::Sealed { seal, length } => Told { acked: length, seal: Some(seal), length },
            Life::Open | Life::Gone => return None,
        };
        if self.stage != Stage::Sending {
            return None;
        }
        self.stage = Stage::Sent;
        Some(told)
    }

    /// The other worker keeps it. Returns whether that is news: then this copy is deleted.
    pub fn taken(&mut self) -> bool {
        let is_news = self.stage == Stage::Sent;
        if is_news {
            self.stage = Stage::Deleted;
        }
        is_news
    }

    /// The other worker does not have it, or is not heard of any more: this copy speaks for itself again. Should the other
    /// one have it all the same, there are two equal copies, of which the lifecycle manager knows one.
    pub fn hold(&mut self) {
        if self.stage != Stage::Deleted {
            self.stage = Stage::Held;
        }
    }

    /// A worker has a copy already: the location's two copies are never at one worker.
    pub fn avoid(&mut self, holder: WorkerId) {
        if !self.holders.contains(&holder) {
            if self.holders.len() == HOLDERS_MAX {
                self.holders.remove(0);
            }
            self.holders.push(holder);
        }
    }

    /// The workers that are known to have a copy.
    #[must_use]
    pub fn holders(&self) -> &[WorkerId] {
        &self.holders
    }
}

/// What of a location is sent next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Batches that memory holds.
    Memory(Batches),
    /// Those of an extent, from here on; its list tells them apart.
    Disk(Extent),
    /// All was sent.
    End,
    /// It was released meanwhile, or what memory holds does not go on here.
    Gone,
}

/// Whole batches that lie one after the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batches {
    /// In bytes from the location's start.
    pub range: Range<u64>,
    /// The length of each.
    pub lengths: Vec<u32>,
    /// Where it goes on.
    pub next: Cursor,
}

impl Log {
    /// What follows on what was sent: about [`READ_BYTES`], and one batch at least.
    #[must_use]
    pub fn next_to_send(&self, from: Cursor) -> Next {
        if self.life == Life::Gone {
            return Next::Gone;
        }
        if from.offset >= self.length {
            return Next::End;
        }
        if from.offset < self.memory_start {
            let at = self.extents.partition_point(|extent| extent.end() <= from.offset);
            return self.extents.get(at).map_or(Next::Gone, |extent| Next::Disk(*extent));
        }
        let Some(start) = self.seek(from, from.offset) else { return Next::Gone };
        let mut batches = Batches { range: from.offset..from.offset, lengths: Vec::new(), next: start };
        for length in self.lengths_from(start) {
            let bytes = u64::from(length);
            if !batches.lengths.is_empty() && batches.range.end + bytes > from.offset + READ_BYTES {
                break;
            }
            batches.range.end += bytes;
            batches.lengths.push(length);
        }
        batches.next = start.after(batches.lengths.len() as u64, batches.range.end);
        if batches.lengths.is_empty() { Next::Gone } else { Next::Memory(batches) }
    }

    /// Whether it is being handed over to this worker, and not settled yet: a part of it must never look like the whole,
    /// and who hands it over speaks for it.
    #[must_use]
    pub fn is_arriving(&self) -> bool {
        self.copy == Copy::HandedOver && self.life == Life::Open
    }

    /// At the worker that takes it: whether it holds exactly what it is told, which is then frozen or sealed here. A
    /// repeat answers the same, also where the location was sealed since.
    pub fn settle(&mut self, told: &Told) -> bool {
        match (self.life, told.seal) {
            (Life::Gone, _) => false,
            (Life::Open, None) => {
                let is_whole = self.length == told.length && told.acked <= told.length;
                if is_whole {
                    self.life = Life::Frozen { acked: told.acked };
                }
                is_whole
            }
            (Life::Frozen { .. }, None) => self.length == told.length,
            (Life::Sealed { length, .. }, None) => length <= told.length,
            // What was sealed while it was being sent may be longer here: the seal cuts it.
            (Life::Open | Life::Frozen { .. }, Some(seal)) => {
                self.length >= told.length && matches!(self.cut_at(seal, told.length), Sealing::Sealed { .. })
            }
            (Life::Sealed { seal: sealed, length }, Some(seal)) => (sealed, length) == (seal, told.length),
        }
    }
}

/// The lengths of an extent's batches from `from` on, by its list; `None` where that is no border between them, or the
/// list does not fit the extent.
#[must_use]
pub fn lengths_in(extent: &Extent, list: &[u8], from: u64) -> Option<Vec<u32>> {
    let (mut at, mut lengths) = (extent.offset, Vec::new());
    for entry in entries(list) {
        if at >= extent.end() {
            break;
        }
        if at >= from {
            lengths.push(entry.stored_bytes);
        }
        at += u64::from(entry.stored_bytes);
        if at > from && lengths.is_empty() {
            return None;
        }
    }
    (at == extent.end()).then_some(lengths)
}

/// Divides locations, given by what they have in common and their bytes, into groups that are handed over together;
/// returns what those have in common, and their indices.
pub fn groups<K: Ord + Clone>(locations: impl Iterator<Item = (K, u64)>) -> Vec<(K, Vec<usize>)> {
    let mut sorted: Vec<_> = locations.enumerate().map(|(index, (kind, bytes))| (kind, index, bytes)).collect();
    sorted.sort_by(|a, b| (&a.0, a.1).cmp(&(&b.0, b.1)));
    let mut groups: Vec<(K, Vec<usize>)> = Vec::new();
    let mut group_bytes = 0;
    for (kind, index, bytes) in sorted {
        match groups.last_mut() {
            Some((of, group))
                if *of == kind && group.len() < GROUP_LOCATIONS_MAX && group_bytes + bytes <= GROUP_BYTES_MAX =>
            {
                group.push(index);
                group_bytes += bytes;
            }
            Some(_) | None => {
                groups.push((kind, vec![index]));
                group_bytes = bytes;
            }
        }
    }
    groups
}

#[cfg(test)]
mod tests;
