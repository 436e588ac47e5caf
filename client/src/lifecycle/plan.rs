//! What readers ask: which attempts count, and which sealed locations hold their batches.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use mallorn_client_core::lifecycle::{GenerationState, Holding, PartitionPlan, Stage, Winner};
use mallorn_proto::id::{Generation, LocationId, Token, WorkerId};
use mallorn_proto::limits::{PAGE_MAPS_MAX, WORKERS_MAX};
use mallorn_proto::reason::Reason;
use mallorn_proto::v1;
use mallorn_runtime::clock;
use mallorn_sabotage::{self as sabotage, Sabotage};

use super::pages::{AddressTable, ITEMS_MAX};
use super::workers::Found;
use super::{LIFECYCLE_WAIT_MAX, Shared, commit};
use crate::error::LifecycleError;

/// Waits until the partitions are committed, then tells what to read.
pub(super) async fn read(
    shared: &Arc<Shared>,
    request: v1::PlanReadRequest,
) -> Result<v1::PlanReadReply, LifecycleError> {
    let wait = Duration::from_millis(request.wait_ms).min(LIFECYCLE_WAIT_MAX);
    let deadline = clock::now() + wait;
    let mut changes = shared.changes.subscribe();
    let mut generation = match begin(shared, &request) {
        Err(error) if is_emptied(&error) => return Ok(nothing(range(request.partitions)?)),
        begun => begun?,
    };
    // Only the read's first call names no generation: what is opened after it is not the read's business.
    if request.by_tokens && request.generation.is_none() {
        let partitions = range(request.partitions)?;
        commit::commit(shared, request.shuffle, generation, partitions);
    }
    loop {
        changes.mark_unchanged();
        if request.generation.is_none() {
            // One that starts while nothing was read yet is no reason to fail.
            generation = shared.with(|truth| Ok(truth.lifecycle.current(request.shuffle)?.0))?;
        }
        if let Some(reply) = answer(shared, &request, generation)? {
            return Ok(reply);
        }
        let left = deadline.saturating_duration_since(clock::now());
        if left.is_zero() || clock::timeout(left, changes.changed()).await.is_err() {
            return Ok(v1::PlanReadReply { pending: true, generation: generation.0, ..v1::PlanReadReply::default() });
        }
    }
}

/// Whether a shuffle that was released is answered for as if it were empty.
fn is_emptied(error: &LifecycleError) -> bool {
    sabotage::is(Sabotage::ReleasedShuffleAnsweredAsEmpty) && error.reason() == Some(Reason::Released)
}

fn nothing(partitions: Range<u32>) -> v1::PlanReadReply {
    let empty = |partition| v1::PartitionPlan {
        partition,
        sum: Some(v1::PartitionSum { partition, ..v1::PartitionSum::default() }),
        ..v1::PartitionPlan::default()
    };
    v1::PlanReadReply { partitions: partitions.map(empty).collect(), ..v1::PlanReadReply::default() }
}

/// Checks the request and pins its generation.
fn begin(shared: &Shared, request: &v1::PlanReadRequest) -> Result<Generation, LifecycleError> {
    let partitions = range(request.partitions)?;
    shared.with(|truth| {
        let (current, state) = truth.lifecycle.current(request.shuffle)?;
        if partitions.end > state.partitions() || partitions.is_empty() {
            let text = format!("partitions {partitions:?} of a shuffle with {}", state.partitions());
            return Err(LifecycleError::refused(Reason::Invalid, text));
        }
        if request.by_tokens {
            state.by_tokens(&tokens(&request.tokens))?;
        } else if state.maps().is_none() {
            let text = format!("shuffle {} has no map count: name the tokens to read", request.shuffle);
            return Err(LifecycleError::refused(Reason::Invalid, text));
        }
        Ok(request.generation.map_or(current, Generation))
    })
}

fn answer(
    shared: &Shared,
    request: &v1::PlanReadRequest,
    generation: Generation,
) -> Result<Option<v1::PlanReadReply>, LifecycleError> {
    let partitions = range(request.partitions)?;
    let (wire, plans) = {
        let (mut plans, mut items) = (Vec::new(), 0);
        let wire = shared.with(|truth| {
            let state = truth.lifecycle.generation(request.shuffle, generation)?;
            let waits_for_stage = !request.by_tokens && state.stage() == Stage::Running;
            if waits_for_stage || !state.is_committed(&partitions) {
                return Ok(None);
            }
            for partition in partitions.clone() {
                let plan = state.plan(partition.into());
                items += 1 + plan.locations.len();
                if items > ITEMS_MAX && !plans.is_empty() {
                    break;
                }
                plans.push((partition, plan));
            }
            Ok(Some(state.wire()))
        })?;
        match wire {
            Some(wire) => (wire, plans),
            None => return Ok(None),
        }
    };
    let mut table = AddressTable::new(&shared.workers);
    let partitions =
        plans.into_iter().map(|(partition, plan)| partition_plan(shared, partition, plan, &mut table)).collect();
    Ok(Some(v1::PlanReadReply {
        pending: false,
        generation: generation.0,
        wire_shuffle: wire.0,
        workers: table.addresses,
        partitions,
    }))
}

fn partition_plan(
    shared: &Shared,
    partition: u32,
    plan: PartitionPlan,
    table: &mut AddressTable<'_>,
) -> v1::PartitionPlan {
    let location =
        |sealed: &mallorn_client_core::lifecycle::SealedAt, table: &mut AddressTable<'_>| v1::SealedLocation {
            location: Some(sealed.location.into()),
            seal: sealed.seal.0,
            length: sealed.length,
            worker: table.index(sealed.worker),
            other: sealed.other.map_or(0, |other| table.index(other) + 1),
        };
    v1::PartitionPlan {
        partition,
        locations: plan.locations.iter().map(|sealed| location(sealed, table)).collect(),
        sum: plan.sum.map(|sum| v1::PartitionSum { partition, batches: sum.batches, bytes: sum.bytes, hash: sum.hash }),
        lost: plan.lost.map(|lost| lost.describe(|worker| shared.workers.name(worker))).unwrap_or_default(),
    }
}

/// The winners of a range of maps, or the attempts of tokens, as many as fit a reply.
pub(super) fn winners(
    shared: &Shared,
    request: &v1::ListWinnersRequest,
) -> Result<v1::ListWinnersReply, LifecycleError> {
    let partitions = range(request.partitions)?;
    let listed = shared.with(|truth| {
        let state = truth.lifecycle.generation(request.shuffle, Generation(request.generation))?;
        let named = named(state, request)?;
        let (mut winners, mut items) = (Vec::new(), 0);
        for winner in named {
            let touched = winner.touched.within(&partitions);
            items += 1 + touched.runs().len();
            if (items > ITEMS_MAX || winners.len() >= PAGE_MAPS_MAX) && !winners.is_empty() {
                break;
            }
            let (map, attempt) = (winner.name.map.0, winner.name.attempt.0);
            winners.push(v1::Winner { map, attempt, token: winner.token.0, touched: touched.to_wire() });
        }
        Ok(v1::ListWinnersReply { winners })
    });
    match listed {
        Err(error) if is_emptied(&error) => Ok(v1::ListWinnersReply::default()),
        listed => listed,
    }
}

fn named<'a>(
    state: &'a GenerationState,
    request: &v1::ListWinnersRequest,
) -> Result<Box<dyn Iterator<Item = &'a Winner> + 'a>, LifecycleError> {
    if request.by_tokens {
        return Ok(Box::new(state.by_tokens(&tokens(&request.tokens))?.into_iter()));
    }
    let maps = range(request.maps)?;
    Ok(Box::new(state.winners(maps)))
}

/// Where workers are now, or the locations that are read there; and takes note of what a reader did not find.
pub(super) async fn resolve(
    shared: &Arc<Shared>,
    request: v1::ResolveRequest,
) -> Result<v1::ResolveReply, LifecycleError> {
    let (shuffle, generation) = (request.shuffle, Generation(request.generation));
    let locations = request.read.iter().copied().map(LocationId::from).map(Some).chain(std::iter::repeat(None));
    let asked: Vec<_> = request.workers.iter().take(WORKERS_MAX).copied().map(WorkerId::from).zip(locations).collect();
    let mut read: BTreeMap<WorkerId, Vec<LocationId>> = BTreeMap::new();
    shared.with(|truth| {
        let state = truth.lifecycle.generation(shuffle, generation)?;
        request.lost.iter().for_each(|location| state.strike((*location).into()));
        for (worker, location) in &asked {
            if let Some(location) = location {
                state.reported(*location, *worker);
                read.entry(*worker).or_default().push(*location);
            }
        }
        Ok(())
    })?;
    // Tells whether it is gone, or has to be sealed once more, and offers the seal to the other copy if it has none.
    commit::start(shared, shuffle, generation);
    let mut moved = BTreeMap::new();
    for (worker, locations) in read {
        for (location, taker) in shared.workers.moved(&shared.application, worker, &locations).await {
            moved.insert((worker, location), taker);
        }
    }
    let holders = shared.with(|truth| {
        let state = truth.lifecycle.generation(shuffle, generation)?;
        moved.iter().for_each(|((from, location), taker)| state.moved(*location, *from, *taker));
        let of = |(_, location): &(WorkerId, Option<LocationId>)| location.and_then(|location| state.holders(location));
        Ok(asked.iter().map(of).collect::<Vec<_>>())
    })?;
    let moved = &moved;
    let find = asked.into_iter().zip(holders).map(|((worker, location), holders)| async move {
        let now = location.and_then(|location| moved.get(&(worker, location)).copied()).unwrap_or(worker);
        where_is(shared, now, holders, request.broken).await
    });
    Ok(v1::ResolveReply { workers: crate::concurrently(find).await })
}

/// Where a reader goes on: at this worker, unless another one has the location for sure.
async fn where_is(
    shared: &Shared,
    worker: WorkerId,
    holders: Option<Vec<(WorkerId, Holding)>>,
    broken: bool,
) -> v1::ResolvedLocation {
    let mut holders = holders.unwrap_or_else(|| vec![(worker, Holding::Asked)]);
    holders.sort_by_key(|(holder, holding)| (broken && *holder == worker, *holding, *holder != worker));
    let (mut away, mut lost) = (false, false);
    for (holder, holding) in holders {
        if holding == Holding::Unsealed {
            away = true;
            continue;
        }
        match shared.workers.find(holder, shared.worker_lease).await {
            Found::Here(address) => return v1::ResolvedLocation { address: Some(address), ..Default::default() },
            Found::Away { lost: is_lost } => (away, lost) = (true, lost | is_lost),
            Found::Gone => lost = true,
        }
    }
    v1::ResolvedLocation { address: None, gone: !away, away, lost }
}

fn tokens(named: &[u64]) -> Vec<Token> {
    named.iter().copied().map(Token).collect()
}

fn range(range: Option<v1::Range>) -> Result<std::ops::Range<u32>, LifecycleError> {
    match range {
        Some(range) if range.first <= range.end => Ok(range.first..range.end),
        _ => Err(LifecycleError::refused(Reason::Invalid, "a range is missing or turned round".to_owned())),
    }
}
