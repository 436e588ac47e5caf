//! Commit: freeze, fix (seal id, length) once per location, seal; and what a reader is told afterwards.
//!
//! Only what is sealed here counts. A location is good when its copy is sealed; one that its worker does not know is a
//! failed one, never an empty one.

use std::ops::Range;

use mallorn_proto::id::{LocationId, Partition, SealId, WorkerId};

use super::GenerationState;
use super::locations::{EpochState, PlacedEpoch};
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
    /// Starts the commit of all epochs that partitions have now; pushes to them end. Partitions that never got a
    /// location are not placed any more where the stage has ended.
    pub fn commit(&mut self, partitions: Range<u32>) {
        for placed in self.epochs_mut(&partitions) {
            if matches!(placed.state, EpochState::Open { .. } | EpochState::Replaced) {
                placed.state = EpochState::Freezing;
            }
        }
    }

    /// Locations to freeze now, with their workers.
    #[must_use]
    pub fn to_freeze(&self) -> Vec<(LocationId, WorkerId)> {
        self.select(|state| matches!(state, EpochState::Freezing).then_some(())).map(|(l, w, ())| (l, w)).collect()
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
        let fixed = self.select(|state| match state {
            EpochState::Fixed { seal, length } => Some((*seal, *length)),
            EpochState::Open { .. }
            | EpochState::Replaced
            | EpochState::Freezing
            | EpochState::Sealed { .. }
            | EpochState::Failed { .. } => None,
        });
        fixed.map(|(location, worker, (seal, length))| SealedAt { location, worker, seal, length }).collect()
    }

    /// A worker has sealed a location as it was told.
    pub fn sealed(&mut self, location: LocationId) {
        if let Some(placed) = self.find_mut(location)
            && let EpochState::Fixed { seal, length } = placed.state
        {
            placed.state = EpochState::Sealed { seal, length };
        }
    }

    /// A location that was to be committed is gone.
    pub fn failed(&mut self, location: LocationId, why: &str) {
        if let Some(placed) = self.find_mut(location)
            && matches!(placed.state, EpochState::Freezing | EpochState::Fixed { .. })
        {
            placed.state = EpochState::Failed { why: why.to_owned() };
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
            placed.state = EpochState::Failed { why: "a reader found it gone".to_owned() };
        }
    }

    /// Whether nothing of these partitions is between its freeze and its seal.
    #[must_use]
    pub fn is_committed(&self, partitions: &Range<u32>) -> bool {
        let epochs = self.locations.partitions.get(bounded(partitions, self.partitions)).unwrap_or_default();
        !epochs.iter().flatten().any(|placed| matches!(placed.state, EpochState::Freezing | EpochState::Fixed { .. }))
    }

    /// What to read of a partition. A failed location is a loss where the shuffle has a map count; otherwise it was
    /// struck out, and the reader finds out which attempts are not complete without it.
    #[must_use]
    pub fn plan(&self, partition: Partition) -> PartitionPlan {
        let mut plan = PartitionPlan { locations: Vec::new(), sum: self.attempts.sum(partition), lost: None };
        let epochs = self.locations.partitions.get(partition.0 as usize);
        for (epoch, placed) in epochs.into_iter().flatten().enumerate() {
            let location = self.location(partition, epoch);
            match &placed.state {
                EpochState::Sealed { length: 0, .. } => {}
                EpochState::Sealed { seal, length } => {
                    let sealed = SealedAt { location, worker: placed.worker, seal: *seal, length: *length };
                    plan.locations.push(sealed);
                }
                EpochState::Failed { why } if self.maps.is_some() => {
                    plan.lost = Some(format!("location {location} at worker {}: {why}", placed.worker));
                }
                EpochState::Failed { .. }
                | EpochState::Open { .. }
                | EpochState::Replaced
                | EpochState::Freezing
                | EpochState::Fixed { .. } => {}
            }
        }
        plan
    }

    fn select<'a, T: 'a>(
        &'a self,
        want: impl Fn(&EpochState) -> Option<T> + 'a,
    ) -> impl Iterator<Item = (LocationId, WorkerId, T)> + 'a {
        self.locations.partitions.iter().zip(0u32..).flat_map(move |(epochs, partition)| {
            let found = epochs.iter().enumerate().filter_map(|(epoch, placed)| {
                let location = self.location(Partition(partition), epoch);
                want(&placed.state).map(|found| (location, placed.worker, found))
            });
            found.collect::<Vec<_>>()
        })
    }

    fn epochs_mut(&mut self, partitions: &Range<u32>) -> impl Iterator<Item = &mut PlacedEpoch> + '_ {
        let range = bounded(partitions, self.partitions);
        self.locations.partitions[range].iter_mut().flatten()
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
