//! What a lifecycle manager decides: the truth about its application's shuffles.
//!
//! | part | file |
//! |---|---|
//! | shuffles and generations | here |
//! | attempts, winners, sums | `attempts` |
//! | epochs: placing, reviving | `locations` |
//! | what is kept of an epoch and its copies | `epochs` |
//! | freeze, seal, what to read | `commit` |
//!
//! Owns: all of that, as plain data. Does not own: calls to master and workers (the shell makes them and tells what came
//! of them), or waiting.
//!
//! A shuffle's generation is over when the next one starts: every call that names it is `Fenced` from then on. On the
//! wire each generation is a shuffle number of its own, so workers know nothing of generations.

mod attempts;
mod commit;
mod epochs;
mod error;
mod locations;
mod touched;

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use mallorn_proto::durability::Durability;
use mallorn_proto::id::{Generation, ShuffleId};
use mallorn_proto::limits::{MAPS_MAX, PARTITIONS_MAX};
use mallorn_proto::range_set::RangeSet;

pub use attempts::{AttemptKey, AttemptName, Ended, Winner};
pub use commit::{Due, Holding, Lost, PartitionPlan, SealOffer, SealedAt};
pub use epochs::CopyFailure;
pub use error::{AttemptError, LookupError, RegisterError, TokenError};
pub use locations::{Missing, NoSpace, OpenAt, Replacing, Revived};
pub use touched::Touched;

/// Most shuffles that one application may have at once.
pub const SHUFFLES_MAX: usize = 65_536;

/// Calls of [`Lifecycle::expire`] in the time of one attempt lease.
pub const EXPIRIES_PER_LEASE: u32 = 10;

/// Most separate runs of released shuffle numbers that an application may leave behind.
const RELEASED_RUNS_MAX: usize = 1 << 20;

/// An application's shuffles.
#[derive(Debug)]
pub struct Lifecycle {
    attempt_lease: Duration,
    /// When leases were looked at last, or none was there yet.
    expired_at: Duration,
    shuffles: BTreeMap<u32, Shuffle>,
    released: RangeSet,
    /// Numbers on the wire of everything that was released, for the master.
    released_wire: RangeSet,
    next_wire: u32,
}

/// How well a shuffle's data is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Protection {
    /// Copies of each location: 1, or 2 on different workers.
    pub copies: u32,
    /// What a location must survive to count, once it is sealed.
    pub durability: Durability,
}

/// A shuffle as its engine declared it, and its current generation.
#[derive(Debug)]
struct Shuffle {
    partitions: u32,
    maps: Option<u32>,
    protection: Protection,
    generation: Generation,
    state: GenerationState,
}

/// One generation of a shuffle.
#[derive(Debug)]
pub struct GenerationState {
    wire: ShuffleId,
    partitions: u32,
    maps: Option<u32>,
    protection: Protection,
    attempt_lease: Duration,
    attempts: attempts::Attempts,
    locations: locations::Locations,
    stage: Stage,
}

/// How far a generation's stage is. A shuffle without a map count stays `Running`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Maps are without a winner.
    Running,
    /// Every map has a winner.
    Ended,
}

/// A shuffle's current generation, as callers name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Current {
    /// The generation.
    pub generation: Generation,
    /// Its number on the wire.
    pub wire: ShuffleId,
    /// Partitions of the shuffle.
    pub partitions: u32,
    /// Whether this call started it.
    pub started: bool,
    /// The number on the wire of the generation that this call ended.
    pub replaced: Option<ShuffleId>,
}

impl Lifecycle {
    /// No shuffles yet; `attempt_lease` is how long an attempt lives after each sign of life. From `now` on a gap between
    /// calls of [`expire`](Self::expire) counts.
    #[must_use]
    pub fn new(attempt_lease: Duration, now: Duration) -> Self {
        let (shuffles, released, released_wire) = (BTreeMap::new(), RangeSet::new(), RangeSet::new());
        Self { attempt_lease, expired_at: now, shuffles, released, released_wire, next_wire: 0 }
    }

    /// Declares a shuffle; the same declaration again answers the same.
    ///
    /// # Errors
    /// `Shape` or `Copies` for senseless numbers, `Differs` when it was declared otherwise, `Released`, `TooMany`.
    pub fn register(
        &mut self,
        shuffle: u32,
        partitions: u32,
        maps: Option<u32>,
        protection: Protection,
    ) -> Result<Current, RegisterError> {
        let maps_fit = maps.is_none_or(|maps| (1..=MAPS_MAX).contains(&maps));
        if !(1..=PARTITIONS_MAX).contains(&partitions) || !maps_fit {
            return Err(RegisterError::Shape { partitions, maps });
        }
        if !(1..=2).contains(&protection.copies) {
            return Err(RegisterError::Copies { copies: protection.copies });
        }
        if self.released.contains(shuffle) {
            return Err(RegisterError::Released { shuffle });
        }
        if let Some(known) = self.shuffles.get(&shuffle) {
            if (known.partitions, known.maps, known.protection) != (partitions, maps, protection) {
                let Shuffle { partitions, maps, protection, .. } = *known;
                return Err(RegisterError::Differs { shuffle, partitions, maps, protection });
            }
            return Ok(known.current(false, None));
        }
        // Each shuffle may leave a run of its own behind, and the largest number fits none.
        let runs = self.released.runs().len() + self.shuffles.len();
        if self.shuffles.len() >= SHUFFLES_MAX || runs >= RELEASED_RUNS_MAX || shuffle == u32::MAX {
            return Err(RegisterError::TooMany);
        }
        let state = self.fresh(partitions, maps, protection).ok_or(RegisterError::TooMany)?;
        let new = Shuffle { partitions, maps, protection, generation: Generation(0), state };
        let current = new.current(true, None);
        self.shuffles.insert(shuffle, new);
        Ok(current)
    }

    /// Starts the next generation if `seen` is the current one: winners are cleared, the old locations released. A
    /// thousand readers that report one loss start one.
    ///
    /// # Errors
    /// `Unknown`, `Released`, or `OneGeneration` for a shuffle without a map count, which has one for life.
    pub fn next_generation(&mut self, shuffle: u32, seen: Generation) -> Result<Current, LookupError> {
        let known = self.find(shuffle)?;
        if known.generation != seen {
            return Ok(known.current(false, None));
        }
        let (partitions, maps, protection) = (known.partitions, known.maps, known.protection);
        if maps.is_none() {
            return Err(LookupError::OneGeneration { shuffle });
        }
        let state = self.fresh(partitions, maps, protection).ok_or(LookupError::TooManyGenerations)?;
        let known = self.shuffles.get_mut(&shuffle).ok_or(LookupError::Unknown { shuffle })?;
        let replaced = known.state.wire;
        (known.generation, known.state) = (Generation(seen.0 + 1), state);
        let current = known.current(true, Some(replaced));
        self.released_wire.insert(replaced.0);
        Ok(current)
    }

    /// Forgets a shuffle; answers with its number on the wire. Releasing it again is `Released`.
    ///
    /// # Errors
    /// `Unknown` or `Released`.
    pub fn release(&mut self, shuffle: u32) -> Result<ShuffleId, LookupError> {
        let wire = self.find(shuffle)?.state.wire;
        self.shuffles.remove(&shuffle);
        self.released.insert(shuffle);
        self.released_wire.insert(wire.0);
        Ok(wire)
    }

    /// A shuffle's generation, if it is the current one.
    ///
    /// # Errors
    /// `Unknown`, `Released`, or `Fenced` when the generation is over.
    pub fn generation(&mut self, shuffle: u32, generation: Generation) -> Result<&mut GenerationState, LookupError> {
        let (current, state) = self.current(shuffle)?;
        if current == generation { Ok(state) } else { Err(LookupError::Fenced { shuffle, generation, current }) }
    }

    /// A shuffle's current generation.
    ///
    /// # Errors
    /// `Unknown` or `Released`.
    pub fn current(&mut self, shuffle: u32) -> Result<(Generation, &mut GenerationState), LookupError> {
        self.find(shuffle)?;
        let known = self.shuffles.get_mut(&shuffle).ok_or(LookupError::Unknown { shuffle })?;
        Ok((known.generation, &mut known.state))
    }

    /// The shuffles, by the engine's numbers.
    pub fn shuffles(&self) -> impl Iterator<Item = u32> + '_ {
        self.shuffles.keys().copied()
    }

    /// Numbers on the wire of what was released since the start, for the master: at most `most` runs, from the first that
    /// does not end before `from`; and where the next ones begin, which is 0 after the last. What is more than one call
    /// takes is told in turn.
    #[must_use]
    pub fn released_wire_from(&self, from: u32, most: usize) -> (&[Range<u32>], u32) {
        let runs = self.released_wire.runs();
        let rest = &runs[runs.partition_point(|run| run.end <= from)..];
        let (told, left) = rest.split_at(most.min(rest.len()));
        (told, left.first().map_or(0, |next| next.start))
    }

    /// Lets attempts die whose lease is over; returns how many. Call it [`EXPIRIES_PER_LEASE`] times a lease: a call that
    /// comes late extends every lease by the gap, because renewals could not be heard meanwhile either.
    pub fn expire(&mut self, now: Duration) -> usize {
        let gap = now.saturating_sub(self.expired_at);
        let late_by = gap.saturating_sub(self.attempt_lease / EXPIRIES_PER_LEASE);
        self.expired_at = self.expired_at.max(now);
        self.shuffles.values_mut().map(|shuffle| shuffle.state.attempts.expire(now, late_by)).sum()
    }

    fn find(&self, shuffle: u32) -> Result<&Shuffle, LookupError> {
        self.shuffles.get(&shuffle).ok_or(if self.released.contains(shuffle) {
            LookupError::Released { shuffle }
        } else {
            LookupError::Unknown { shuffle }
        })
    }

    /// `None` when the numbers on the wire are used up.
    fn fresh(&mut self, partitions: u32, maps: Option<u32>, protection: Protection) -> Option<GenerationState> {
        let wire = ShuffleId(self.next_wire);
        self.next_wire = self.next_wire.checked_add(1)?;
        Some(GenerationState {
            wire,
            partitions,
            maps,
            protection,
            attempt_lease: self.attempt_lease,
            attempts: attempts::Attempts::new(partitions, maps),
            locations: locations::Locations::new(partitions),
            stage: Stage::Running,
        })
    }
}

impl Shuffle {
    fn current(&self, started: bool, replaced: Option<ShuffleId>) -> Current {
        let Self { generation, partitions, ref state, .. } = *self;
        Current { generation, wire: state.wire, partitions, started, replaced }
    }
}

impl GenerationState {
    /// Its number on the wire.
    #[must_use]
    pub fn wire(&self) -> ShuffleId {
        self.wire
    }

    /// Partitions of the shuffle.
    #[must_use]
    pub fn partitions(&self) -> u32 {
        self.partitions
    }

    /// Map tasks of the shuffle, where the engine said how many.
    #[must_use]
    pub fn maps(&self) -> Option<u32> {
        self.maps
    }

    /// How well its data is kept.
    #[must_use]
    pub fn protection(&self) -> Protection {
        self.protection
    }

    /// How far its stage is.
    #[must_use]
    pub fn stage(&self) -> Stage {
        self.stage
    }
}

#[cfg(test)]
mod tests;
