//! Commit: freeze, fix (seal id, length) once per location, seal; and what a reader is told afterwards.
//!
//! Only what is sealed here counts. A location is good when one of its copies is sealed; one that its workers do not know
//! is a failed one, never an empty one. A call that comes to nothing never fails a copy. What is sealed once is offered
//! to the other copy, too, until that is sealed or known to be gone.

use std::fmt;
use std::ops::Range;

use mallorn_proto::durability::Durability;
use mallorn_proto::id::{Epoch, LocationId, Partition, SealId, WorkerId};
use mallorn_sabotage::{self as sabotage, Sabotage};

use super::epochs::{CopyFailure, CopyState, EpochState, NO_ANSWER, PlacedCopy, PlacedEpoch, WorkerIndex};
use super::locations::Locations;
use super::{GenerationState, Stage};
use crate::push::BatchSum;

/// A sealed location.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SealedAt {
    /// The location.
    pub location: LocationId,
    /// The worker of a sealed copy.
    pub worker: WorkerId,
    /// The worker of the other one, where that is sealed as well.
    pub other: Option<WorkerId>,
    /// The seal that its bytes are read under.
    pub seal: SealId,
    /// Its length in bytes.
    pub length: u64,
}

/// A seal to offer to a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SealOffer {
    /// The location.
    pub location: LocationId,
    /// Its seal.
    pub seal: SealId,
    /// Its length in bytes.
    pub length: u64,
    /// What it must survive.
    pub durability: Durability,
}

/// What is to be asked of one worker.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Due {
    /// Locations to freeze.
    pub freeze: Vec<LocationId>,
    /// Locations to seal.
    pub seal: Vec<SealOffer>,
}

/// What a worker has of a location; the better comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Holding {
    /// It is sealed there.
    Sealed,
    /// It was sealed there; whether it still is, is being asked.
    Asked,
    /// It is not sealed there yet.
    Unsealed,
}

/// A location that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    /// The location.
    pub location: LocationId,
    /// Its workers, with why the copy there is given up; `None` where it is not committed.
    pub copies: Vec<(WorkerId, Option<CopyFailure>)>,
}

impl Lost {
    /// The loss for people, with these names for workers.
    #[must_use]
    pub fn describe(&self, name: impl Fn(WorkerId) -> String) -> String {
        let copy = |(worker, why): &(WorkerId, Option<CopyFailure>)| match why {
            Some(why) => format!("worker {} {why}", name(*worker)),
            None => format!("it is not committed at worker {}", name(*worker)),
        };
        let copies: Vec<_> = self.copies.iter().map(copy).collect();
        format!("location {}: {}", self.location, copies.join(", "))
    }
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.describe(|worker| worker.to_string()))
    }
}

/// What to read of one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionPlan {
    /// Its sealed locations that hold anything, in rising epochs.
    pub locations: Vec<SealedAt>,
    /// The sum over the winners, where the shuffle has a map count.
    pub sum: Option<BatchSum>,
    /// The first of it that is lost.
    pub lost: Option<Lost>,
}

impl Locations {
    /// Begins the commit of an epoch that may take pushes; pushes to it end.
    pub(super) fn begin_commit(&mut self, partition: Partition, epoch: Epoch) {
        let Some(placed) = self.find_mut(partition, epoch) else { return };
        if !matches!(placed.state, EpochState::Open { .. } | EpochState::Replaced) {
            return;
        }
        placed.state = EpochState::Freezing { acked: NO_ANSWER };
        let workers: Vec<_> = placed.copies().map(|copy| copy.worker).collect();
        self.committing.insert((partition, epoch));
        self.resting.remove(&(partition, epoch));
        workers.into_iter().for_each(|worker| self.is_due(worker, (partition, epoch)));
    }

    fn is_due(&mut self, worker: WorkerIndex, epoch: (Partition, Epoch)) {
        self.due.entry(worker).or_default().insert(epoch);
    }

    fn is_done(&mut self, worker: WorkerIndex, epoch: (Partition, Epoch)) {
        if let Some(due) = self.due.get_mut(&worker)
            && due.remove(&epoch)
            && due.is_empty()
        {
            self.due.remove(&worker);
        }
    }

    pub(super) fn find(&self, partition: Partition, epoch: Epoch) -> Option<&PlacedEpoch> {
        self.partitions.get(partition.0 as usize)?.get(epoch.0 as usize)
    }

    fn find_mut(&mut self, partition: Partition, epoch: Epoch) -> Option<&mut PlacedEpoch> {
        self.partitions.get_mut(partition.0 as usize)?.get_mut(epoch.0 as usize)
    }
}

impl GenerationState {
    /// Starts the commit of all epochs that partitions have now; pushes to them end. The end of the stage does that by
    /// itself; a read by tokens does it for what it reads.
    pub fn commit(&mut self, partitions: Range<u32>) {
        for partition in bounded(&partitions, self.partitions) {
            let epochs = self.locations.partitions[partition as usize].len() as u32;
            (0..epochs).for_each(|epoch| self.locations.begin_commit(Partition(partition), Epoch(epoch)));
        }
    }

    /// Workers of which something is to be asked.
    pub fn due_workers(&self) -> impl Iterator<Item = WorkerId> + '_ {
        self.locations.due.keys().map(|worker| self.locations.workers.id(*worker))
    }

    /// What is to be asked of a worker now. The caller makes these calls and tells what came of each: a freeze ends with
    /// [`Self::frozen`], [`Self::missed`] or [`Self::failed`], each followed by [`Self::fix`].
    pub fn due(&mut self, worker: WorkerId) -> Due {
        let mut found = Due::default();
        let Some(index) = self.locations.workers.find(worker) else { return found };
        for (partition, epoch) in self.locations.due.get(&index).into_iter().flatten().copied() {
            let location = LocationId { shuffle: self.wire, partition, epoch };
            let epochs = &mut self.locations.partitions[partition.0 as usize];
            let placed = &mut epochs[epoch.0 as usize];
            match placed.state {
                EpochState::Freezing { .. } => {
                    if let Some(copy) = placed.copy_mut(index) {
                        copy.state = CopyState::Asked;
                    }
                    found.freeze.push(location);
                }
                EpochState::Fixed { seal, length } => {
                    let durability = needed(self.protection.durability, placed, index);
                    let is_own = sabotage::is(Sabotage::SealOfItsOwnForEachCopy) && placed.first.worker != index;
                    let seal = if is_own { SealId(seal.0 ^ 1) } else { seal };
                    found.seal.push(SealOffer { location, seal, length, durability });
                }
                EpochState::Open { .. } | EpochState::Replaced | EpochState::Abandoned => {}
            }
        }
        found
    }

    /// A copy has answered its freeze with this acked length.
    pub fn frozen(&mut self, location: LocationId, worker: WorkerId, acked_length: u64) {
        self.with_copy(location, worker, |state, copy| {
            if let (EpochState::Freezing { acked }, CopyState::Asked | CopyState::Missed) = (state, &copy.state) {
                *acked = acked_length.min(*acked);
                copy.state = CopyState::Held;
            }
        });
    }

    /// A call that was to freeze or to seal a copy has come to nothing. That never fails the copy.
    pub fn missed(&mut self, location: LocationId, worker: WorkerId) {
        self.with_copy(location, worker, |state, copy| {
            if let (EpochState::Freezing { .. }, CopyState::Asked) | (EpochState::Fixed { .. }, CopyState::Held) =
                (state, copy.state)
            {
                copy.state = CopyState::Missed;
            }
        });
    }

    /// Fixes seal id and length for good, if every copy has answered its freeze, or some have and the calls to the others
    /// have come to nothing. The length is the least of the answers: all of the copies hold that much.
    pub fn fix(&mut self, location: LocationId, seal: SealId) {
        let key = (location.partition, location.epoch);
        if location.shuffle != self.wire {
            return;
        }
        let Some(placed) = self.locations.find_mut(location.partition, location.epoch) else { return };
        let EpochState::Freezing { acked } = placed.state else { return };
        let is_open = placed.copies().any(|copy| copy.state == CopyState::Asked);
        if is_open || placed.copies().all(|copy| copy.state != CopyState::Held) {
            return;
        }
        placed.state = EpochState::Fixed { seal, length: acked };
        let left: Vec<_> = placed.copies().filter(|copy| !copy.is_failed()).map(|copy| copy.worker).collect();
        left.into_iter().for_each(|worker| self.locations.is_due(worker, key));
    }

    /// A copy is sealed as it was told, with this durability.
    pub fn sealed(&mut self, location: LocationId, worker: WorkerId, durability: Durability) {
        let Some((placed, index)) = self.find_copy(location, worker) else { return };
        // The other copy may have been given up since the seal was offered.
        let is_less = needed(self.protection.durability, placed, index) > durability;
        self.with_copy(location, worker, |state, copy| {
            if matches!(state, EpochState::Fixed { .. }) && !copy.is_failed() {
                copy.state = if is_less { CopyState::Again } else { CopyState::Sealed };
            }
        });
    }

    /// A copy is given up: its worker said so, or is gone and not waited for any longer. The last copy that was sealed is
    /// not given up for being away: should its worker come back, it is read again.
    pub fn failed(&mut self, location: LocationId, worker: WorkerId, why: CopyFailure) {
        let Some((placed, index)) = self.find_copy(location, worker) else { return };
        let other = placed.other(index);
        let is_last = other.is_none_or(PlacedCopy::is_failed);
        match placed.copy(index).map(|copy| copy.state) {
            None | Some(CopyState::Sealed | CopyState::Failed(_)) => return,
            Some(CopyState::Again) if is_last && why == CopyFailure::Gone => {
                return self.with_copy(location, worker, |_, copy| copy.state = CopyState::Sealed);
            }
            Some(_) => self.with_copy(location, worker, |_, copy| copy.state = CopyState::Failed(why)),
        }
        if let Some(PlacedCopy { worker: other, state: CopyState::Sealed }) = other
            && self.protection.durability == Durability::Memory
        {
            // It is the only one now, and in memory.
            let other = self.locations.workers.id(other);
            self.with_copy(location, other, |_, copy| copy.state = CopyState::Again);
        }
    }

    /// No disk of a copy's worker has taken it for as long as a reader would wait.
    pub fn not_durable(&mut self, location: LocationId, worker: WorkerId) {
        let state = self.find_copy(location, worker).and_then(|(placed, index)| placed.copy(index));
        let is_in_memory = state.is_some_and(|copy| copy.state == CopyState::InMemory);
        if self.protection.durability != Durability::Memory || is_in_memory {
            return self.failed(location, worker, CopyFailure::NotDurable);
        }
        self.with_copy(location, worker, |state, copy| match (state, copy.state) {
            (EpochState::Fixed { .. }, CopyState::Again) => copy.state = CopyState::Sealed,
            (EpochState::Fixed { .. }, CopyState::Asked | CopyState::Missed | CopyState::Held) => {
                copy.state = CopyState::InMemory;
            }
            _ => {}
        });
    }

    /// A copy is at another worker now. Where the other copy is it is none of its own any more; where that was given up it
    /// takes its place.
    pub fn moved(&mut self, location: LocationId, from: WorkerId, to: WorkerId) {
        let Some((placed, index)) = self.find_copy(location, from) else { return };
        if is_failed_at(placed, index) || from == to {
            return;
        }
        let state = placed.copy(index).map(|copy| copy.state);
        match (self.locations.workers.find(to).and_then(|target| placed.copy(target)), state) {
            // It had lost its own, and has this one instead.
            (Some(other), Some(state)) if other.is_failed() => {
                self.with_copy(location, to, |_, copy| copy.state = state);
                let gone = CopyState::Failed(CopyFailure::Unknown);
                return self.with_copy(location, from, |_, copy| copy.state = gone);
            }
            (Some(_), _) => return self.failed(location, from, CopyFailure::Unknown),
            (None, _) => {}
        }
        let target = self.locations.workers.add(to);
        let key = (location.partition, location.epoch);
        self.locations.is_done(index, key);
        if let Some(copy) = self.locations.find_mut(key.0, key.1).and_then(|placed| placed.copy_mut(index)) {
            copy.worker = target;
        }
        // What is due to it is due there.
        self.with_copy(location, to, |_, _| {});
    }

    /// A reader did not find a sealed copy: its seal is offered again, which tells whether it is gone or only frozen.
    pub fn reported(&mut self, location: LocationId, worker: WorkerId) {
        self.with_copy(location, worker, |state, copy| {
            if let (EpochState::Fixed { .. }, CopyState::Sealed) = (state, copy.state) {
                copy.state = CopyState::Again;
            }
        });
    }

    /// A reader found a sealed location gone. Where the shuffle has no map count it is struck out, so that re-run maps
    /// can be read without it; otherwise the loss is the next generation's business.
    pub fn strike(&mut self, location: LocationId) {
        let Some(placed) = self.committed(location) else { return };
        if self.maps.is_some() || !placed.is_good() {
            return;
        }
        let left: Vec<_> = placed.copies().filter(|copy| !copy.is_failed()).map(|copy| copy.worker).collect();
        for worker in left {
            let worker = self.locations.workers.id(worker);
            self.with_copy(location, worker, |_, copy| copy.state = CopyState::Failed(CopyFailure::Struck));
        }
    }

    /// The workers of a location's copies that are not given up, the best first. `None` where there is no such location,
    /// or its commit has not begun.
    #[must_use]
    pub fn holders(&self, location: LocationId) -> Option<Vec<(WorkerId, Holding)>> {
        let placed = self.committed(location)?;
        let copies = placed.copies().filter(|copy| !copy.is_failed()).map(|copy| {
            let holding = match copy.state {
                CopyState::Sealed => Holding::Sealed,
                CopyState::Again => Holding::Asked,
                _ => Holding::Unsealed,
            };
            (self.locations.workers.id(copy.worker), holding)
        });
        let mut holders: Vec<_> = copies.collect();
        holders.sort_by_key(|(_, holding)| *holding);
        Some(holders)
    }

    /// Whether nothing of these partitions is between its freeze and its first seal. Once the stage has ended that means
    /// that every epoch is sealed or lost; before, it only speaks of epochs whose commit was started.
    #[must_use]
    pub fn is_committed(&self, partitions: &Range<u32>) -> bool {
        let first = (Partition(partitions.start), Epoch(0));
        let end = (Partition(partitions.end.max(partitions.start)), Epoch(0));
        self.locations.committing.range(first..end).next().is_none()
    }

    /// Locations of which one copy is sealed, and the other is given up, or a call for it has come to nothing.
    #[must_use]
    pub fn degraded(&self) -> usize {
        self.locations.partitions.iter().flatten().filter(|placed| placed.is_degraded()).count()
    }

    /// What to read of a partition, once it is committed. Where the shuffle has a map count a failed location is a loss,
    /// and so is, after the stage's end, one that is not committed: a plan is never silently short. Otherwise a failed
    /// one was struck out, and the reader finds out which attempts are not complete without it.
    #[must_use]
    pub fn plan(&self, partition: Partition) -> PartitionPlan {
        let mut plan = PartitionPlan { locations: Vec::new(), sum: self.attempts.sum(partition), lost: None };
        let epochs = self.locations.partitions.get(partition.0 as usize);
        for (placed, epoch) in epochs.into_iter().flatten().zip(0u32..) {
            let location = self.location(partition, Epoch(epoch));
            match placed.state {
                EpochState::Abandoned | EpochState::Fixed { length: 0, .. } if !self.is_loss(placed) => {}
                EpochState::Fixed { seal, length } if placed.is_good() => {
                    plan.locations.extend(self.sealed_at(location, placed, (seal, length)));
                }
                _ if sabotage::is(Sabotage::LossTakenForTheEnd) => {}
                _ if self.is_loss(placed) && plan.lost.is_none() => plan.lost = Some(self.lost(location, placed)),
                _ => {}
            }
        }
        plan
    }

    fn is_loss(&self, placed: &PlacedEpoch) -> bool {
        let (is_lost, is_open) = (placed.is_lost(), placed.state != EpochState::Abandoned && !placed.is_good());
        (is_lost && self.maps.is_some()) || (is_open && self.stage == Stage::Ended)
    }

    fn sealed_at(&self, location: LocationId, placed: &PlacedEpoch, (seal, length): (SealId, u64)) -> Option<SealedAt> {
        let mut good: Vec<_> = placed.copies().filter(|copy| copy.is_good()).collect();
        // One that a reader did not find is better left for last.
        good.sort_by_key(|copy| copy.state != CopyState::Sealed);
        let mut workers = good.into_iter().map(|copy| self.locations.workers.id(copy.worker));
        Some(SealedAt { location, worker: workers.next()?, other: workers.next(), seal, length })
    }

    fn lost(&self, location: LocationId, placed: &PlacedEpoch) -> Lost {
        let copies = placed.copies().map(|copy| {
            let why = match copy.state {
                CopyState::Failed(why) => Some(why),
                _ => None,
            };
            (self.locations.workers.id(copy.worker), why)
        });
        Lost { location, copies: copies.collect() }
    }

    fn committed(&self, location: LocationId) -> Option<&PlacedEpoch> {
        let placed = self.locations.find(location.partition, location.epoch)?;
        (location.shuffle == self.wire && placed.is_committing()).then_some(placed)
    }

    fn find_copy(&self, location: LocationId, worker: WorkerId) -> Option<(&PlacedEpoch, WorkerIndex)> {
        let index = self.locations.workers.find(worker)?;
        let placed = self.committed(location)?;
        placed.copy(index).map(|_| (placed, index))
    }

    /// Changes a copy, and keeps in step what is due to it and which epochs are committing.
    fn with_copy(
        &mut self,
        location: LocationId,
        worker: WorkerId,
        change: impl FnOnce(&mut EpochState, &mut PlacedCopy),
    ) {
        let Some((_, index)) = self.find_copy(location, worker) else { return };
        let key = (location.partition, location.epoch);
        let Some(placed) = self.locations.find_mut(key.0, key.1) else { return };
        let mut state = placed.state;
        if let Some(copy) = placed.copy_mut(index) {
            change(&mut state, copy);
        }
        placed.state = state;
        let (is_settled, copy) = (placed.is_good() || placed.is_lost(), placed.copy(index));
        let is_due = copy.is_some_and(|copy| match (state, copy.state) {
            (EpochState::Freezing { .. }, CopyState::Asked | CopyState::Missed) => true,
            (EpochState::Fixed { .. }, state) => !matches!(state, CopyState::Sealed | CopyState::Failed(_)),
            _ => false,
        });
        if is_due {
            self.locations.is_due(index, key);
        } else {
            self.locations.is_done(index, key);
        }
        if is_settled {
            self.locations.committing.remove(&key);
        } else {
            // Perhaps again: its sealed copy is gone, and the other one is not sealed yet.
            self.locations.committing.insert(key);
        }
    }
}

fn is_failed_at(placed: &PlacedEpoch, worker: WorkerIndex) -> bool {
    placed.copy(worker).is_some_and(PlacedCopy::is_failed)
}

/// What a copy must survive to count: in memory only where another copy may still survive what this one does not.
fn needed(durability: Durability, placed: &PlacedEpoch, worker: WorkerIndex) -> Durability {
    let is_alone = placed.other(worker).is_some_and(PlacedCopy::is_failed);
    let in_memory = placed.copy(worker).is_some_and(|copy| copy.state == CopyState::InMemory);
    if is_alone && !in_memory { durability.max(Durability::Written) } else { durability }
}

fn bounded(partitions: &Range<u32>, count: u32) -> Range<u32> {
    let end = partitions.end.min(count);
    partitions.start.min(end)..end
}
