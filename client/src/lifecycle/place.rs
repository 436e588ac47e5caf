//! Finds workers for the locations that are wanted, and reserves there: the replica first where there is one, then the
//! primary, which is told of it. One round of it runs per shuffle at a time, so that many callers who lost the same
//! worker cost a few calls.
//!
//! Owns: rounds, calls, whom to leave out for a while. Does not own: who has room (the master), which locations are
//! wanted (`mallorn_client_core::lifecycle`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use mallorn_client_core::lifecycle::{Missing, NoSpace, Protection, Revived};
use mallorn_proto::durability::Durability;
use mallorn_proto::id::{Generation, LocationId, Partition, ShuffleId, WorkerId};
use mallorn_proto::limits::PAGE_LOCATIONS_MAX;
use mallorn_proto::reason::Reason;
use mallorn_proto::status::{Status, from_grpc};
use mallorn_proto::v1;
use mallorn_proto::v1::reserve_request::Copy;
use mallorn_runtime::backoff::Backoff;
use mallorn_runtime::telemetry::quiet::Line;
use mallorn_runtime::{clock, task};

use super::{Shared, application_of, commit};
use crate::error::LifecycleError;

/// Rounds of placing and reserving before what is left has no space.
const ROUNDS_MAX: u32 = 8;
/// How long a worker that is full, leaving, or out of reach gets no new locations.
const EXCLUDE_FULL: Duration = Duration::from_secs(1);
const EXCLUDE_LEAVING: Duration = Duration::from_secs(5);
/// Between two tries to place a new shuffle.
const PAUSE: Duration = Duration::from_millis(200);
/// Between two rounds in which something found no place.
const PAUSE_FIRST: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_millis(500);

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
                match state.answer(partition, None) {
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
            (_, full) if clock::now() >= deadline => {
                let text = format!("no worker has room for the shuffle: {}", full.unwrap_or_default());
                return Err(LifecycleError::refused(Reason::NoSpace, text));
            }
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

fn want_again(shared: &Shared, shuffle: u32, generation: Generation) -> Result<(), LifecycleError> {
    shared.with(|truth| {
        let state = truth.lifecycle.generation(shuffle, generation)?;
        for partition in (0..state.partitions()).map(Partition) {
            if !state.was_placed(partition) && matches!(state.answer(partition, None), Revived::NoSpace(_)) {
                state.locate(partition);
            }
        }
        Ok(())
    })
}

/// Starts placing what is wanted, unless it runs already. It goes on when its caller is gone.
pub(super) fn start(shared: &Arc<Shared>, shuffle: u32, generation: Generation) {
    let (wire, protection) = {
        let mut truth = shared.truth.lock();
        let Ok(state) = truth.lifecycle.generation(shuffle, generation) else { return };
        let (wire, protection) = (state.wire(), state.protection());
        if state.wanted(1).is_empty() || !truth.placing.insert(wire) {
            return;
        }
        (wire, protection)
    };
    let shared = Arc::clone(shared);
    task::spawn(async move {
        let work = run(Placing { shared: &shared, shuffle, generation, protection }, wire);
        if shared.shutdown.or(work).await.is_none() {
            shared.truth.lock().placing.remove(&wire);
        }
    });
}

/// The generation whose locations are placed.
#[derive(Clone, Copy)]
struct Placing<'a> {
    shared: &'a Arc<Shared>,
    shuffle: u32,
    generation: Generation,
    protection: Protection,
}

/// The workers picked for a location.
#[derive(Clone, Debug)]
struct Picked {
    primary: v1::WorkerAddress,
    replica: Option<v1::WorkerAddress>,
}

/// Locations that were given the same workers.
struct Group {
    picked: Picked,
    locations: Vec<LocationId>,
}

/// What became of a location's reservation at one worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reservation {
    Handle(u64),
    Refused,
    /// The call came to nothing: it may be reserved, or not.
    Unknown,
}

async fn run(placing: Placing<'_>, wire: ShuffleId) {
    let Placing { shared, shuffle, generation, .. } = placing;
    let mut round = 0;
    let mut backoff = Backoff::new(PAUSE_FIRST, PAUSE_MAX);
    let mut full = NoSpace::default();
    loop {
        let (wanted, is_resting) = {
            let mut truth = shared.truth.lock();
            let found = match truth.lifecycle.generation(shuffle, generation) {
                Ok(state) => (state.wanted(PAGE_LOCATIONS_MAX), state.is_resting()),
                Err(_) => (Vec::new(), false),
            };
            if found.0.is_empty() {
                truth.placing.remove(&wire);
            }
            found
        };
        if is_resting {
            commit::rest(shared, shuffle, generation);
        }
        if wanted.is_empty() {
            return;
        }
        if round > 1 {
            // Workers refuse, or are away: nothing is gained by asking at once again.
            backoff.wait(&shared.random).await;
        }
        let picked = if round < ROUNDS_MAX { placing.pick(wanted.len() as u32, &mut full).await } else { Vec::new() };
        let is_over = picked.is_empty();
        let placed = if is_over { 0 } else { placing.reserve(&wanted, picked).await };
        // A page in which everything found its place is no round lost.
        round = if placed == wanted.len() { 0 } else { round + 1 };
        if round == 0 {
            backoff.reset();
        }
        if is_over {
            round = 0;
            placing.give_up(&wanted, full);
        }
        shared.changed();
    }
}

impl Placing<'_> {
    /// Whether a log line is to be written.
    fn line(&self, what: &'static str, worker: WorkerId) -> Option<Line> {
        self.shared.quiet.line((what, worker), clock::now())
    }

    fn give_up(&self, wanted: &[LocationId], full: NoSpace) {
        let missing = full.missing;
        if let Some(Line { repeats }) = self.line("no_space", WorkerId::default()) {
            let (shuffle, partitions) = (self.shuffle, wanted.len());
            tracing::warn!(event = "no_space", shuffle, partitions, ?missing, %full, repeats);
        }
        let mut truth = self.shared.truth.lock();
        if let Ok(state) = truth.lifecycle.generation(self.shuffle, self.generation) {
            wanted.iter().for_each(|location| state.not_placed(location.partition, full));
        }
    }

    /// Workers for each of so many locations; empty when there are none with room. Where the master is away, the workers
    /// known so far are taken in turn.
    async fn pick(&self, locations: u32, full: &mut NoSpace) -> Vec<Picked> {
        let shared = self.shared;
        let request = v1::PlaceRequest {
            cluster: shared.workers.cluster.clone(),
            application: application_of(shared),
            locations,
            exclude: shared.workers.excluded().into_iter().map(Into::into).collect(),
            copies: self.protection.copies,
            on_disk: self.protection.durability > Durability::Memory,
        };
        let reply = match shared.workers.master().place(request).await {
            Ok(reply) => reply.into_inner(),
            Err(error) if from_grpc(&error) == Status::Fenced => {
                shared.truth.lock().fenced = true;
                return Vec::new();
            }
            Err(error) => {
                if let Some(Line { repeats }) = self.line("no_master", WorkerId::default()) {
                    tracing::warn!(%error, repeats, "ask the master for workers; using those known");
                }
                return known(&shared.workers.known(), locations as usize, self.protection.copies);
            }
        };
        let missing = self.missing(&reply);
        *full = NoSpace { arena_bytes: reply.arena_bytes, held_bytes: reply.held_bytes, missing };
        shared.workers.learn(&reply.workers);
        let at = |index: &u32| reply.workers.get(*index as usize).cloned();
        if self.protection.copies < 2 {
            return reply.picks.iter().filter_map(|pick| Some(Picked { primary: at(pick)?, replica: None })).collect();
        }
        let pairs = reply.picks.iter().zip(&reply.replicas);
        let pairs = pairs.filter_map(|(pick, replica)| Some((at(pick)?, at(replica)?)));
        // A master that does not know of copies names none; one that puts both on one worker has not understood.
        let apart = pairs.filter(|(primary, replica)| primary.worker != replica.worker);
        apart.map(|(primary, replica)| Picked { primary, replica: Some(replica) }).collect()
    }

    /// What is missing where the master names nobody.
    fn missing(&self, reply: &v1::PlaceReply) -> Missing {
        let (there, needed) = (reply.candidates, self.protection.copies);
        let without = reply.without_disk + self.shared.workers.without_disk();
        if there < needed && without > 0 {
            Missing::Disks { there, without }
        } else if (1..needed).contains(&there) {
            Missing::Workers { there, needed }
        } else {
            Missing::Memory
        }
    }

    /// Reserves each location at the workers picked for it; returns how many were.
    async fn reserve(&self, wanted: &[LocationId], picked: Vec<Picked>) -> usize {
        let id = |address: &v1::WorkerAddress| address.worker.map(WorkerId::from).unwrap_or_default();
        let mut groups: BTreeMap<(WorkerId, Option<WorkerId>), Group> = BTreeMap::new();
        for (location, picked) in wanted.iter().zip(picked) {
            let key = (id(&picked.primary), picked.replica.as_ref().map(id));
            groups.entry(key).or_insert_with(|| Group { picked, locations: Vec::new() }).locations.push(*location);
        }
        let calls = groups.into_iter().map(|((primary, replica), group)| async move {
            let placed = match (replica, &group.picked.replica) {
                (Some(replica), Some(address)) => self.reserve_two((primary, replica), address, &group).await,
                _ => self.reserve_one(primary, &group).await,
            };
            // Whoever waits for these goes on now, however long other workers take to answer.
            self.shared.changed();
            placed
        });
        crate::concurrently(calls).await.into_iter().sum()
    }

    async fn reserve_one(&self, worker: WorkerId, group: &Group) -> usize {
        let Group { picked, locations } = group;
        let reserved = self.reserve_at(&picked.primary, Copy::Lone, locations, None).await;
        let mut truth = self.shared.truth.lock();
        let Ok(state) = truth.lifecycle.generation(self.shuffle, self.generation) else { return locations.len() };
        let mut placed = 0;
        for (location, reservation) in locations.iter().zip(reserved) {
            match reservation {
                Reservation::Handle(handle) => {
                    state.placed(*location, worker, handle.into(), None);
                    placed += 1;
                }
                // The worker may have it: an empty one of this name must not be there beside the one that is used.
                Reservation::Unknown => state.abandoned(*location, worker),
                Reservation::Refused => {}
            }
        }
        placed
    }

    /// The replica first: whoever is told a location can push to it at once.
    async fn reserve_two(
        &self,
        (primary, replica): (WorkerId, WorkerId),
        address: &v1::WorkerAddress,
        group: &Group,
    ) -> usize {
        let Group { picked, locations } = group;
        let kept = self.reserve_at(address, Copy::Replica, locations, None).await;
        let (mut handles, mut rest, mut begun) = (Vec::new(), Vec::new(), Vec::new());
        for (location, reservation) in locations.iter().zip(kept) {
            match reservation {
                Reservation::Handle(handle) => {
                    handles.push(handle);
                    rest.push(*location);
                }
                Reservation::Unknown => begun.push(*location),
                Reservation::Refused => {}
            }
        }
        let mut reserved = Vec::new();
        if !rest.is_empty() {
            let replicas = v1::Replicas { worker: Some(address.clone()), handles };
            reserved = self.reserve_at(&picked.primary, Copy::Primary, &rest, Some(replicas)).await;
        }
        let mut truth = self.shared.truth.lock();
        let Ok(state) = truth.lifecycle.generation(self.shuffle, self.generation) else { return locations.len() };
        let mut placed = 0;
        for (location, reservation) in rest.into_iter().zip(reserved) {
            match reservation {
                Reservation::Handle(handle) => {
                    state.placed(location, primary, handle.into(), Some(replica));
                    placed += 1;
                }
                Reservation::Refused | Reservation::Unknown => begun.push(location),
            }
        }
        // What is left at the replica is released with the shuffle.
        begun.into_iter().for_each(|location| state.abandoned(location, replica));
        placed
    }

    /// What became of each location; a worker that refuses is left out for a while.
    async fn reserve_at(
        &self,
        address: &v1::WorkerAddress,
        copy: Copy,
        locations: &[LocationId],
        replicas: Option<v1::Replicas>,
    ) -> Vec<Reservation> {
        let Self { shared, shuffle, generation, protection } = *self;
        let id = address.worker.map(WorkerId::from).unwrap_or_default();
        if let Ok(state) = shared.truth.lock().lifecycle.generation(shuffle, generation) {
            state.asked_to_reserve(id);
        }
        let request = v1::ReserveRequest {
            cluster: shared.workers.cluster.clone(),
            application: application_of(shared),
            worker: Some(id.into()),
            incarnation: address.incarnation,
            locations: locations.iter().copied().map(Into::into).collect(),
            durability: protection.durability.to_wire(),
            copy: copy.into(),
            replicas,
            from: None,
            earlier: Vec::new(),
        };
        let Some(mut door) = shared.workers.door(id) else { return vec![Reservation::Refused; locations.len()] };
        let reply = match door.reserve(request).await {
            Ok(reply) if reply.get_ref().locations.len() == locations.len() => reply.into_inner(),
            answer => {
                let error = answer.err().map_or_else(|| "it answers for other locations".to_owned(), |e| e.to_string());
                if let Some(Line { repeats }) = self.line("reserve", id) {
                    let (worker, copy) = (&address.name, copy.as_str_name());
                    tracing::warn!(%worker, copy, %error, repeats, "reserve locations");
                }
                shared.workers.exclude(id, EXCLUDE_LEAVING);
                return vec![Reservation::Unknown; locations.len()];
            }
        };
        shared.workers.reached(id);
        let reservation = |reserved: &v1::Reserved| {
            use v1::reserved::Outcome;
            match reserved.outcome() {
                Outcome::Reserved => return Reservation::Handle(reserved.handle),
                Outcome::Full | Outcome::Closed => shared.workers.exclude(id, EXCLUDE_FULL),
                Outcome::Draining => shared.workers.exclude(id, EXCLUDE_LEAVING),
                Outcome::NoDisk => shared.workers.exclude_without_disk(id, EXCLUDE_LEAVING),
            }
            Reservation::Refused
        };
        reply.locations.iter().map(reservation).collect()
    }
}

/// Known workers in turn, each with the one after it where two copies are wanted.
fn known(known: &[v1::WorkerAddress], locations: usize, copies: u32) -> Vec<Picked> {
    if known.len() < copies as usize {
        return Vec::new();
    }
    let next = known.iter().cycle().skip(1);
    let pairs = known.iter().cycle().zip(next).take(if known.is_empty() { 0 } else { locations });
    pairs
        .map(|(primary, next)| Picked { primary: primary.clone(), replica: (copies > 1).then(|| next.clone()) })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_workers_are_taken_in_turn_and_never_twice_for_one_location() {
        let address = |id: u128| v1::WorkerAddress { worker: Some(WorkerId(id).into()), ..Default::default() };
        let ids = |workers: &[u128], locations, copies| -> Vec<(u128, Option<u128>)> {
            let workers: Vec<_> = workers.iter().map(|id| address(*id)).collect();
            let id = |address: &v1::WorkerAddress| address.worker.map(WorkerId::from).unwrap().0;
            let picked = known(&workers, locations, copies);
            picked.iter().map(|picked| (id(&picked.primary), picked.replica.as_ref().map(id))).collect()
        };
        assert_eq!(ids(&[], 3, 1), []);
        assert_eq!(ids(&[1, 2], 3, 1), [(1, None), (2, None), (1, None)]);
        assert_eq!(ids(&[1], 3, 2), []);
        assert_eq!(ids(&[1, 2, 3], 4, 2), [(1, Some(2)), (2, Some(3)), (3, Some(1)), (1, Some(2))]);
    }
}
