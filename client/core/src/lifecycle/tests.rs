//! Scenarios of one lifecycle manager, by part, and a property test of random interleavings against a small model.

mod attempts;
mod commit;
mod copies;
mod interleavings;
mod locations;
mod model;
mod scale;
mod shuffles;

use std::time::Duration;

use mallorn_proto::durability::Durability;
use mallorn_proto::id::{Attempt, Generation, Handle, LocationId, MapId, Partition, SealId, Token, WorkerId};

use super::{AttemptKey, AttemptName, CopyFailure, Ended, GenerationState, Lifecycle, OpenAt, Protection, Replacing};
use super::{Revived, SealOffer};
use crate::push::BatchSum;

const SHUFFLE: u32 = 7;
const LEASE: Duration = Duration::from_secs(10);
const START: Duration = Duration::from_secs(1000);
const WORKER: WorkerId = WorkerId(1);
const REPLICA: WorkerId = WorkerId(2);
const ONE_COPY: Protection = Protection { copies: 1, durability: Durability::Written };

fn key(map: u32, attempt: u32) -> AttemptKey {
    AttemptKey { name: name(map, attempt), nonce: u64::from(map * 100 + attempt) }
}

fn name(map: u32, attempt: u32) -> AttemptName {
    AttemptName { map: MapId(map), attempt: Attempt(attempt) }
}

/// A sum that no other number of batches has.
fn sum(batches: u64) -> BatchSum {
    BatchSum { batches, bytes: batches * 10, hash: batches.wrapping_mul(0x9e37_79b9_7f4a_7c15) }
}

/// With a shuffle of this many partitions and, where it says, maps.
fn lifecycle(partitions: u32, maps: Option<u32>) -> Lifecycle {
    protected(partitions, maps, ONE_COPY)
}

fn protected(partitions: u32, maps: Option<u32>, protection: Protection) -> Lifecycle {
    let mut lifecycle = Lifecycle::new(LEASE, START);
    lifecycle.register(SHUFFLE, partitions, maps, protection).unwrap();
    lifecycle
}

fn state(lifecycle: &mut Lifecycle) -> &mut GenerationState {
    lifecycle.current(SHUFFLE).unwrap().1
}

/// A shuffle whose partitions are all open.
fn placed(partitions: u32, maps: Option<u32>) -> Lifecycle {
    let mut lifecycle = lifecycle(partitions, maps);
    place_all(state(&mut lifecycle));
    lifecycle
}

/// Places what is wanted; handles are fresh, as workers draw them.
fn place_all(state: &mut GenerationState) {
    let replica = (state.protection().copies == 2).then_some(REPLICA);
    for location in state.wanted(usize::MAX) {
        state.placed(location, WORKER, handle_of(location), replica);
    }
}

fn handle_of(location: LocationId) -> Handle {
    let LocationId { shuffle, partition, epoch } = location;
    Handle((u64::from(shuffle.0) << 40) | (u64::from(partition.0) << 20) | u64::from(epoch.0))
}

fn open(answer: Revived) -> OpenAt {
    match answer {
        Revived::Open(open) => open,
        Revived::Wanted | Revived::NoSpace(_) | Revived::MapEnded | Revived::StageEnded => panic!("{answer:?}"),
    }
}

/// Starts an attempt and ends it with one batch for each of these partitions.
fn end(state: &mut GenerationState, key: AttemptKey, partitions: &[u32]) -> Ended {
    state.start_attempt(key, START).unwrap();
    let sums: Vec<_> = partitions.iter().map(|partition| (Partition(*partition), sum(1))).collect();
    state.stage_page(key, 0, &sums).unwrap();
    state.finish_attempt(key, Token(key.nonce)).unwrap()
}

/// What is to be frozen at the worker of every first copy.
fn to_freeze(state: &mut GenerationState) -> Vec<LocationId> {
    state.due(WORKER).freeze
}

fn to_seal(state: &mut GenerationState) -> Vec<SealOffer> {
    state.due(WORKER).seal
}

/// The only copy answers its freeze.
fn frozen(state: &mut GenerationState, location: LocationId, length: u64, seal: u64) {
    state.frozen(location, WORKER, length);
    state.fix(location, SealId(seal));
}

fn sealed(state: &mut GenerationState, location: LocationId) {
    state.sealed(location, WORKER, Durability::Written);
}

fn failed(state: &mut GenerationState, location: LocationId) {
    state.failed(location, WORKER, CopyFailure::Unknown);
}

/// Freezes and seals what is committed, as workers that hold `length` bytes of each location.
fn seal_all(state: &mut GenerationState, length: u64) {
    let workers: Vec<_> = state.due_workers().collect();
    for worker in &workers {
        for location in state.due(*worker).freeze {
            state.frozen(location, *worker, length);
            state.fix(location, SealId(handle_of(location).0));
        }
    }
    for worker in workers {
        for offer in state.due(worker).seal {
            state.sealed(offer.location, worker, offer.durability);
        }
    }
}

fn epochs(state: &GenerationState, partition: u32) -> Vec<u32> {
    state.plan(Partition(partition)).locations.iter().map(|sealed| sealed.location.epoch.0).collect()
}

const FIRST: Generation = Generation(0);
