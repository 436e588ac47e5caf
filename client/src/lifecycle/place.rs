//! Finds workers for the locations that are wanted, and reserves there. One round of it runs per shuffle at a time, so
//! that many callers who lost the same worker cost a few calls.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use mallorn_client_core::lifecycle::{NoSpace, Revived};
use mallorn_proto::id::{Generation, LocationId, Partition, ShuffleId, WorkerId};
use mallorn_proto::limits::PAGE_LOCATIONS_MAX;
use mallorn_proto::reason::Reason;
use mallorn_proto::status::{Status, from_grpc};
use mallorn_proto::v1;
use mallorn_runtime::{clock, task};

use super::{Shared, application_of};
use crate::error::LifecycleError;

/// Rounds of placing and reserving before what is left has no space.
const ROUNDS_MAX: u32 = 8;
/// How long a worker that is full, leaving, or out of reach gets no new locations.
const EXCLUDE_FULL: Duration = Duration::from_secs(1);
const EXCLUDE_LEAVING: Duration = Duration::from_secs(5);
/// Between two tries to place a new shuffle.
const PAUSE: Duration = Duration::from_millis(200);

/// Places all partitions of a generation that has just started (or was, so that nothing is left to do); where some have no place `within`, that is `NoSpace`.
pub(super) async fn all(
    shared: &Arc<Shared>,
    shuffle: u32,
    generation: Generation,
    within: Duration,
) -> Result<(), LifecycleError> {
    let deadline = clock::now() + within;
    let mut changes = shared.changes.subscribe();
    loop {
        changes.mark_unchanged();
        let left = shared.with(|truth| {
            let state = truth.lifecycle.generation(shuffle, generation)?;
            let mut left = (0, None);
            for partition in (0..state.partitions()).map(Partition).filter(|partition| !state.was_placed(*partition)) {
                match state.answer(partition) {
                    Revived::Open(_) | Revived::MapEnded | Revived::StageEnded => {}
                    Revived::Wanted => left.0 += 1,
                    Revived::NoSpace(full) => left.1 = Some(full),
                }
            }
            Ok(left)
        })?;
        match left {
            (0, None) => return Ok(()),
            // Also where a round goes on that a master or a worker draws out.
            (_, full) if clock::now() >= deadline => return Err(no_space(full.unwrap_or_default())),
            (0, Some(_)) => {
                clock::sleep(shared.random.jitter(PAUSE)).await;
                want_again(shared, shuffle, generation)?;
            }
            _ => {}
        }
        start(shared, shuffle, generation);
        let _ = clock::timeout(PAUSE * 5, changes.changed()).await;
    }
}

fn no_space(full: NoSpace) -> LifecycleError {
    let NoSpace { arena_bytes, held_bytes } = full;
    let text = format!(
        "no worker has room for the shuffle: {held_bytes} of {arena_bytes} bytes of all live arenas are held; add \
         workers or memory, or release shuffles"
    );
    LifecycleError::refused(Reason::NoSpace, text)
}

fn want_again(shared: &Shared, shuffle: u32, generation: Generation) -> Result<(), LifecycleError> {
    shared.with(|truth| {
        let state = truth.lifecycle.generation(shuffle, generation)?;
        for partition in (0..state.partitions()).map(Partition) {
            if !state.was_placed(partition) && matches!(state.answer(partition), Revived::NoSpace(_)) {
                state.locate(partition);
            }
        }
        Ok(())
    })
}

/// Starts placing what is wanted, unless it runs already. It goes on when its caller is gone.
pub(super) fn start(shared: &Arc<Shared>, shuffle: u32, generation: Generation) {
    let wire = {
        let mut truth = shared.truth.lock();
        let Ok(state) = truth.lifecycle.generation(shuffle, generation) else { return };
        let wire = state.wire();
        if state.wanted(1).is_empty() || !truth.placing.insert(wire) {
            return;
        }
        wire
    };
    let shared = Arc::clone(shared);
    task::spawn(async move {
        let work = run(&shared, shuffle, generation, wire);
        if shared.shutdown.or(work).await.is_none() {
            shared.truth.lock().placing.remove(&wire);
        }
    });
}

async fn run(shared: &Shared, shuffle: u32, generation: Generation, wire: ShuffleId) {
    let mut round = 0;
    let mut full = NoSpace::default();
    loop {
        let wanted = {
            let mut truth = shared.truth.lock();
            let wanted = match truth.lifecycle.generation(shuffle, generation) {
                Ok(state) => state.wanted(PAGE_LOCATIONS_MAX),
                Err(_) => Vec::new(),
            };
            if wanted.is_empty() {
                truth.placing.remove(&wire);
            }
            wanted
        };
        if wanted.is_empty() {
            return;
        }
        let picked = if round < ROUNDS_MAX { pick(shared, wanted.len() as u32, &mut full).await } else { Vec::new() };
        let placed = if picked.is_empty() { 0 } else { reserve(shared, (shuffle, generation), &wanted, &picked).await };
        // A page in which everything found its place is no round lost.
        round = if placed == wanted.len() { 0 } else { round + 1 };
        if picked.is_empty() {
            round = 0;
            give_up(shared, (shuffle, generation), &wanted, full);
        }
        shared.changed();
    }
}

fn give_up(shared: &Shared, of: (u32, Generation), wanted: &[LocationId], full: NoSpace) {
    tracing::warn!(event = "no_space", shuffle = of.0, partitions = wanted.len(), ?full);
    let mut truth = shared.truth.lock();
    if let Ok(state) = truth.lifecycle.generation(of.0, of.1) {
        wanted.iter().for_each(|location| state.not_placed(location.partition, full));
    }
}

/// A worker for each of so many locations; empty when there is none with room. Where the master is away, the workers
/// known so far are taken in turn.
async fn pick(shared: &Shared, locations: u32, full: &mut NoSpace) -> Vec<v1::WorkerAddress> {
    let request = v1::PlaceRequest {
        cluster: shared.workers.cluster.clone(),
        application: application_of(shared),
        locations,
        exclude: shared.workers.excluded().into_iter().map(Into::into).collect(),
        ..Default::default()
    };
    let reply = match shared.workers.master().place(request).await {
        Ok(reply) => reply.into_inner(),
        Err(error) if from_grpc(&error) == Status::Fenced => {
            shared.truth.lock().fenced = true;
            return Vec::new();
        }
        Err(error) => {
            tracing::warn!(%error, "ask the master for workers; using those known");
            let known = shared.workers.known();
            return known.iter().cycle().take(if known.is_empty() { 0 } else { locations as usize }).cloned().collect();
        }
    };
    *full = NoSpace { arena_bytes: reply.arena_bytes, held_bytes: reply.held_bytes };
    shared.workers.learn(&reply.workers);
    reply.picks.iter().filter_map(|pick| reply.workers.get(*pick as usize).cloned()).collect()
}

/// Reserves each location at the worker picked for it; returns how many were.
async fn reserve(shared: &Shared, of: (u32, Generation), wanted: &[LocationId], picked: &[v1::WorkerAddress]) -> usize {
    let mut by_worker: BTreeMap<WorkerId, (&v1::WorkerAddress, Vec<LocationId>)> = BTreeMap::new();
    for (location, address) in wanted.iter().zip(picked) {
        let Some(id) = address.worker.map(WorkerId::from) else { continue };
        by_worker.entry(id).or_insert_with(|| (address, Vec::new())).1.push(*location);
    }
    let calls =
        by_worker.into_iter().map(|(id, (address, locations))| reserve_at(shared, of, (id, address), locations));
    crate::concurrently(calls).await.into_iter().sum()
}

async fn reserve_at(
    shared: &Shared,
    of: (u32, Generation),
    (id, address): (WorkerId, &v1::WorkerAddress),
    locations: Vec<LocationId>,
) -> usize {
    let request = v1::ReserveRequest {
        cluster: shared.workers.cluster.clone(),
        application: application_of(shared),
        worker: Some(id.into()),
        incarnation: address.incarnation,
        locations: locations.iter().copied().map(Into::into).collect(),
        ..Default::default()
    };
    let Some(mut door) = shared.workers.door(id) else { return 0 };
    let reply = match door.reserve(request).await {
        Ok(reply) => reply.into_inner(),
        Err(error) => {
            tracing::warn!(worker = %address.name, %error, "reserve locations");
            shared.workers.exclude(id, EXCLUDE_LEAVING);
            return 0;
        }
    };
    shared.workers.reached(id);
    let mut placed = 0;
    let mut truth = shared.truth.lock();
    let Ok(state) = truth.lifecycle.generation(of.0, of.1) else { return locations.len() };
    for (location, reserved) in locations.iter().zip(&reply.locations) {
        use v1::reserved::Outcome;
        match reserved.outcome() {
            Outcome::Reserved => {
                placed += 1;
                state.placed(*location, id, reserved.handle.into());
            }
            Outcome::Full | Outcome::Closed | Outcome::NoDisk => shared.workers.exclude(id, EXCLUDE_FULL),
            Outcome::Draining => shared.workers.exclude(id, EXCLUDE_LEAVING),
        }
    }
    placed
}
