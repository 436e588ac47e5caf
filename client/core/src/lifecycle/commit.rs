//! Commit: freeze, fix (seal id, length) once per location, seal; and what a reader is told afterwards.
//!
//! Only what is sealed here counts. A location is good when its copy is sealed; one that its worker does not know is a
//! failed one, never an empty one.

use std::ops::Range;

use mallorn_proto::id::{Epoch, LocationId, Partition, SealId, WorkerId};

use super::locations::{EpochState, PlacedEpoch};
use super::{GenerationState, Stage};
use crate::push::BatchSum;

/// A sealed location.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SealedAt {
    /// The location.
    pub location: LocationId,
    /// Its worker.
    pub worker: WorkerId,
    /// The seal that its bytes are read under.
    pub seal: SealId,
    /// Its length in bytes.
    pub length: u64,
}

/// What to read of one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionPlan {
    /// Its sealed locations that hold anything, in rising epochs.
    pub locations: Vec<SealedAt>,
    /// The sum over the winners, where the shuffle has a map count.
    pub sum: Option<BatchSum>,
    /// Why some of it is lost.
    pub lost: Option<String>,
}

impl GenerationState {
    /// Starts the commit of all epochs that partitions have now; pushes to them end. The end of the stage does that by
    /// itself; a read by tokens does it for what it reads.
    pub fn commit(&mut self, partitions: Range<u32>) {
        let range = bounded(&partitions, self.partitions);
        let locations = &mut self.locations;
        for (epochs, partition) in locations.partitions[range.clone()].iter_mut().zip(range.start as u32..) {
            for (placed, epoch) in epochs.iter_mut().zip(0u32..) {
                if matches!(placed.state, EpochState::Open { .. } | EpochState::Replaced) {
                    placed.state = EpochState::Freezing;
                    locations.committing.insert((Partition(partition), Epoch(epoch)));
                }
            }
        }
    }

    /// Locations to freeze now, with their workers.
    #[must_use]
    pub fn to_freeze(&self) -> Vec<(LocationId, WorkerId)> {
        let freezing = self.committing().filter(|(_, placed)| placed.state == EpochState::Freezing);
        freezing.map(|(location, placed)| (location, placed.worker)).collect()
    }

    /// A location was frozen with this acked length. The first answer fixes seal id and length for good.
    pub fn frozen(&mut self, location: LocationId, acked_length: u64, seal: SealId) {
        if let Some(placed) = self.find_mut(location)
            && placed.state == EpochState::Freezing
        {
            placed.state = EpochState::Fixed { seal, length: acked_length };
        }
    }

    /// Locations to seal now, with seal id and length.
    #[must_use]
    pub fn to_seal(&self) -> Vec<SealedAt> {
        let fixed = self.committing().filter_map(|(location, placed)| match placed.state {
            EpochState::Fixed { seal, length } => Some(SealedAt { location, worker: placed.worker, seal, length }),
            EpochState::Open { .. }
            | EpochState::Replaced
            | EpochState::Freezing
            | EpochState::Sealed { .. }
            | EpochState::Failed { .. } => None,
        });
        fixed.collect()
    }

    /// A worker has sealed a location as it was told.
    pub fn sealed(&mut self, location: LocationId) {
        if let Some(placed) = self.find_mut(location)
            && let EpochState::Fixed { seal, length } = placed.state
        {
            placed.state = EpochState::Sealed { seal, length };
            self.locations.committing.remove(&(location.partition, location.epoch));
        }
    }

    /// A location that was to be committed is gone.
    pub fn failed(&mut self, location: LocationId, why: &str) {
        if let Some(placed) = self.find_mut(location)
            && matches!(placed.state, EpochState::Freezing | EpochState::Fixed { .. })
        {
            placed.state = EpochState::Failed { why: why.into() };
            self.locations.committing.remove(&(location.partition, location.epoch));
        }
    }

    /// A reader found a sealed location gone. Where the shuffle has no map count it is struck out, so that re-run maps
    /// can be read without it; otherwise the loss is the next generation's business.
    pub fn strike(&mut self, location: LocationId) {
        if self.maps.is_some() {
            return;
        }
        if let Some(placed) = self.find_mut(location)
            && matches!(placed.state, EpochState::Sealed { .. })
        {
            placed.state = EpochState::Failed { why: "a reader found it gone".into() };
        }
    }

    /// Whether nothing of these partitions is between its freeze and its seal. Once the stage has ended that means that
    /// every epoch is sealed or lost; before, it only speaks of epochs whose commit was started.
    #[must_use]
    pub fn is_committed(&self, partitions: &Range<u32>) -> bool {
        let first = (Partition(partitions.start), Epoch(0));
        let end = (Partition(partitions.end.max(partitions.start)), Epoch(0));
        self.locations.committing.range(first..end).next().is_none()
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
            let why = match &placed.state {
                EpochState::Sealed { length: 0, .. } => continue,
                EpochState::Sealed { seal, length } => {
                    let sealed = SealedAt { location, worker: placed.worker, seal: *seal, length: *length };
                    plan.locations.push(sealed);
                    continue;
                }
                EpochState::Failed { why } if self.maps.is_some() => why,
                EpochState::Open { .. } | EpochState::Replaced | EpochState::Freezing | EpochState::Fixed { .. }
                    if self.stage == Stage::Ended =>
                {
                    "it is not committed"
                }
                EpochState::Failed { .. }
                | EpochState::Open { .. }
                | EpochState::Replaced
                | EpochState::Freezing
                | EpochState::Fixed { .. } => continue,
            };
            plan.lost.get_or_insert_with(|| format!("location {location} at worker {}: {why}", placed.worker));
        }
        plan
    }

    /// Locations between their freeze and their seal.
    fn committing(&self) -> impl Iterator<Item = (LocationId, &PlacedEpoch)> + '_ {
        self.locations.committing.iter().filter_map(|(partition, epoch)| {
            let placed = self.locations.partitions.get(partition.0 as usize)?.get(epoch.0 as usize)?;
            Some((self.location(*partition, *epoch), placed))
        })
    }

    fn find_mut(&mut self, location: LocationId) -> Option<&mut PlacedEpoch> {
        if location.shuffle != self.wire {
            return None;
        }
        let epochs = self.locations.partitions.get_mut(location.partition.0 as usize)?;
        epochs.get_mut(location.epoch.0 as usize)
    }
}

fn bounded(partitions: &Range<u32>, count: u32) -> Range<usize> {
    let end = partitions.end.min(count) as usize;
    (partitions.start as usize).min(end)..end
}
