//! What readers ask: which attempts count, and which sealed locations hold their batches.

use std::sync::Arc;
use std::time::Duration;

use mallorn_client_core::lifecycle::{GenerationState, PartitionPlan, Stage, Winner};
use mallorn_proto::id::{Generation, Token};
use mallorn_proto::limits::PAGE_MAPS_MAX;
use mallorn_proto::reason::Reason;
use mallorn_proto::v1;
use mallorn_runtime::clock;

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
    let mut generation = begin(shared, &request)?;
    // Only the read's first call names no generation: what is opened after it is not the read's business.
    if request.by_tokens && request.generation.is_none() {
        let partitions = range(request.partitions)?;
        commit::start(shared, request.shuffle, generation, partitions);
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
    let partitions = plans.into_iter().map(|(partition, plan)| partition_plan(partition, plan, &mut table)).collect();
    Ok(Some(v1::PlanReadReply {
        pending: false,
        generation: generation.0,
        wire_shuffle: wire.0,
        workers: table.addresses,
        partitions,
    }))
}

fn partition_plan(partition: u32, plan: PartitionPlan, table: &mut AddressTable<'_>) -> v1::PartitionPlan {
    let location =
        |sealed: &mallorn_client_core::lifecycle::SealedAt, table: &mut AddressTable<'_>| v1::SealedLocation {
            location: Some(sealed.location.into()),
            seal: sealed.seal.0,
            length: sealed.length,
            worker: table.index(sealed.worker),
            ..Default::default()
        };
    v1::PartitionPlan {
        partition,
        locations: plan.locations.iter().map(|sealed| location(sealed, table)).collect(),
        sum: plan.sum.map(|sum| v1::PartitionSum { partition, batches: sum.batches, bytes: sum.bytes, hash: sum.hash }),
        lost: plan.lost.unwrap_or_default(),
    }
}

/// The winners of a range of maps, or the attempts of tokens, as many as fit a reply.
pub(super) fn winners(
    shared: &Shared,
    request: &v1::ListWinnersRequest,
) -> Result<v1::ListWinnersReply, LifecycleError> {
    let partitions = range(request.partitions)?;
    shared.with(|truth| {
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
    })
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

/// Where workers are now; and takes note of locations that a reader found gone.
pub(super) async fn resolve(shared: &Shared, request: v1::ResolveRequest) -> Result<v1::ResolveReply, LifecycleError> {
    shared.with(|truth| {
        let state = truth.lifecycle.generation(request.shuffle, Generation(request.generation))?;
        request.lost.iter().for_each(|location| state.strike((*location).into()));
        Ok(())
    })?;
    let find = request.workers.iter().take(ITEMS_MAX).map(|worker| async move {
        match shared.workers.find((*worker).into(), shared.worker_lease).await {
            Found::Here(address) => v1::ResolvedLocation { address: Some(address), gone: false, away: false },
            Found::Away => v1::ResolvedLocation { address: None, gone: false, away: true },
            Found::Gone => v1::ResolvedLocation { address: None, gone: true, away: false },
        }
    });
    Ok(v1::ResolveReply { workers: crate::concurrently(find).await })
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
