//! Commits: freezes and seals what the rules name, at each worker on its own, until nothing is due there.
//!
//! Owns: the calls, their repeats, and when a worker is not waited for any longer. Does not own: what is due
//! (`mallorn_client_core::lifecycle`).
//!
//! One task runs per generation and worker with something due. So a worker that is away delays what lies there alone,
//! and a copy that is sealed later than the other one delays nobody.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use mallorn_client_core::lifecycle::{CopyFailure, Due, GenerationState, SealOffer};
use mallorn_proto::durability::Durability;
use mallorn_proto::id::{Generation, LocationId, SealId, ShuffleId, WorkerId};
use mallorn_proto::limits::PAGE_LOCATIONS_MAX;
use mallorn_proto::v1;
use mallorn_runtime::backoff::Backoff;
use mallorn_runtime::{clock, task};

use super::workers::{Found, Stall};
use super::{Shared, application_of};

const PAUSE_FIRST: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// Between two looks at epochs that rest.
const REST_LOOK: Duration = Duration::from_millis(500);

/// The commits of one generation that run.
#[derive(Debug)]
pub(super) struct Committing {
    since: clock::Instant,
    /// Workers that a task sees to.
    workers: BTreeSet<WorkerId>,
    /// It was logged that nothing is waited for any longer.
    told: bool,
}

/// By the generation's number on the wire.
pub(super) type Commits = BTreeMap<ShuffleId, Committing>;

/// Starts the commit of these partitions' epochs.
pub(super) fn commit(shared: &Arc<Shared>, shuffle: u32, generation: Generation, partitions: Range<u32>) {
    if let Ok(state) = shared.truth.lock().lifecycle.generation(shuffle, generation) {
        state.commit(partitions);
    }
    start(shared, shuffle, generation);
}

/// Sees to everything that is due, unless somebody does already. It goes on when its caller is gone.
pub(super) fn start(shared: &Arc<Shared>, shuffle: u32, generation: Generation) {
    let mut idle = Vec::new();
    let wire = {
        let truth = &mut *shared.truth.lock();
        let Ok(state) = truth.lifecycle.generation(shuffle, generation) else { return };
        let wire = state.wire();
        for worker in state.due_workers() {
            let begin = || Committing { since: clock::now(), workers: BTreeSet::new(), told: false };
            if truth.committing.entry(wire).or_insert_with(begin).workers.insert(worker) {
                idle.push(worker);
            }
        }
        wire
    };
    for worker in idle {
        let shared = Arc::clone(shared);
        task::spawn(async move {
            let at = At { shared: &shared, shuffle, generation, worker };
            if shared.shutdown.or(at.run(wire)).await.is_none() {
                shared.truth.lock().committing.remove(&wire);
            }
        });
    }
}

/// Watches epochs that were replaced after a soft split, and commits them when they have rested.
pub(super) fn rest(shared: &Arc<Shared>, shuffle: u32, generation: Generation) {
    let wire = {
        let mut truth = shared.truth.lock();
        let Ok(state) = truth.lifecycle.generation(shuffle, generation) else { return };
        let wire = state.wire();
        if !state.is_resting() || !truth.resting.insert(wire) {
            return;
        }
        wire
    };
    let shared = Arc::clone(shared);
    task::spawn(async move {
        loop {
            let is_over = {
                let now = shared.clock.now();
                let mut truth = shared.truth.lock();
                let is_resting = match truth.lifecycle.generation(shuffle, generation) {
                    Ok(state) => {
                        state.commit_rested(now);
                        state.is_resting()
                    }
                    Err(_) => false,
                };
                !is_resting && truth.resting.remove(&wire)
            };
            start(&shared, shuffle, generation);
            if is_over || shared.shutdown.or(clock::sleep(REST_LOOK)).await.is_none() {
                return;
            }
        }
    });
}

/// The generation and the worker whose commit runs.
#[derive(Clone, Copy)]
struct At<'a> {
    shared: &'a Arc<Shared>,
    shuffle: u32,
    generation: Generation,
    worker: WorkerId,
}

/// What a worker's answers have left to do.
#[derive(Default)]
struct Left {
    /// Handed over.
    moved: Vec<LocationId>,
    not_durable: Vec<LocationId>,
}

impl At<'_> {
    async fn run(&self, wire: ShuffleId) {
        let mut backoff = Backoff::new(PAUSE_FIRST, PAUSE_MAX);
        loop {
            let due = self.due(wire);
            if due == Due::default() {
                return;
            }
            let gets_on = match self.round(&due).await {
                Ok(left) => self.left(left).await,
                Err(error) => self.unanswered(&due, &error, backoff.is_fresh()).await,
            };
            // What was fixed here may be due elsewhere.
            start(self.shared, self.shuffle, self.generation);
            self.tell(wire);
            self.shared.changed();
            if gets_on {
                backoff.reset();
            } else {
                backoff.wait(&self.shared.random).await;
            }
        }
    }

    /// What is due; where that is nothing, nobody sees to this worker from here on.
    fn due(&self, wire: ShuffleId) -> Due {
        let truth = &mut *self.shared.truth.lock();
        let found = truth.lifecycle.generation(self.shuffle, self.generation);
        let due = found.map_or_else(|_| Due::default(), |state| state.due(self.worker));
        if due == Due::default()
            && let Some(committing) = truth.committing.get_mut(&wire)
        {
            committing.workers.remove(&self.worker);
            if committing.workers.is_empty() {
                truth.committing.remove(&wire);
            }
        }
        due
    }

    /// Logs, once for each time that something was committed, that nothing is waited for any longer.
    fn tell(&self, wire: ShuffleId) {
        let (since, degraded) = {
            let truth = &mut *self.shared.truth.lock();
            let Ok(state) = truth.lifecycle.generation(self.shuffle, self.generation) else { return };
            let Some(committing) = truth.committing.get_mut(&wire) else { return };
            if committing.told || !state.is_committed(&(0..state.partitions())) {
                return;
            }
            committing.told = true;
            (committing.since, state.degraded())
        };
        let (shuffle, generation, ms) = (self.shuffle, self.generation, clock::since(since).as_millis());
        tracing::info!(event = "committed", shuffle, %generation, ms);
        if degraded > 0 {
            let text = "locations of which one copy is sealed; the seal is offered to the other one";
            tracing::warn!(event = "commit_degraded", shuffle, %generation, degraded, "{text}");
        }
    }

    async fn round(&self, due: &Due) -> Result<Left, tonic::Status> {
        let mut left = Left::default();
        self.freeze(&due.freeze, &mut left).await?;
        self.seal(&due.seal, &mut left).await?;
        self.shared.workers.reached(self.worker);
        Ok(left)
    }

    async fn freeze(&self, locations: &[LocationId], left: &mut Left) -> Result<(), tonic::Status> {
        for page in locations.chunks(PAGE_LOCATIONS_MAX) {
            let request = v1::FreezeRequest {
                cluster: self.shared.workers.cluster.clone(),
                application: application_of(self.shared),
                worker: Some(self.worker.into()),
                locations: page.iter().copied().map(Into::into).collect(),
            };
            let reply = self.door()?.freeze(request).await?.into_inner();
            answers_all(page.len(), reply.locations.len())?;
            let answers = page.iter().copied().zip(&reply.locations);
            self.each(answers, |state, (location, frozen)| {
                if frozen.unknown {
                    state.failed(location, self.worker, CopyFailure::Unknown);
                } else if frozen.moved {
                    state.missed(location, self.worker);
                    left.moved.push(location);
                } else {
                    state.frozen(location, self.worker, frozen.acked_length);
                }
                state.fix(location, SealId(self.shared.random.id()));
            });
        }
        Ok(())
    }

    async fn seal(&self, offers: &[SealOffer], left: &mut Left) -> Result<(), tonic::Status> {
        let mut by_durability: BTreeMap<Durability, Vec<SealOffer>> = BTreeMap::new();
        for offer in offers {
            by_durability.entry(offer.durability).or_default().push(*offer);
        }
        for (durability, offers) in by_durability {
            for page in offers.chunks(PAGE_LOCATIONS_MAX) {
                self.seal_page(durability, page, left).await?;
            }
        }
        Ok(())
    }

    async fn seal_page(
        &self,
        durability: Durability,
        page: &[SealOffer],
        left: &mut Left,
    ) -> Result<(), tonic::Status> {
        let one = |offer: &SealOffer| v1::SealOne {
            location: Some(offer.location.into()),
            seal: offer.seal.0,
            length: offer.length,
        };
        let request = v1::SealRequest {
            cluster: self.shared.workers.cluster.clone(),
            application: application_of(self.shared),
            worker: Some(self.worker.into()),
            locations: page.iter().map(one).collect(),
            durability: durability.to_wire(),
        };
        let reply = self.door()?.seal(request).await?.into_inner();
        answers_all(page.len(), reply.locations.len())?;
        let answers = page.iter().map(|offer| offer.location).zip(&reply.locations);
        self.each(answers, |state, (location, sealed)| {
            use v1::sealed::Outcome;
            match sealed.outcome() {
                Outcome::Sealed => state.sealed(location, self.worker, durability),
                Outcome::NotDurable => {
                    state.missed(location, self.worker);
                    left.not_durable.push(location);
                }
                Outcome::Moved => {
                    state.missed(location, self.worker);
                    left.moved.push(location);
                }
                Outcome::Unknown => state.failed(location, self.worker, CopyFailure::Unknown),
                Outcome::Short => state.failed(location, self.worker, CopyFailure::Short),
                Outcome::Conflict => state.failed(location, self.worker, CopyFailure::Conflict),
            }
        });
        Ok(())
    }

    /// Sees to what the worker did not do; `false` where it is to be asked again after a while.
    async fn left(&self, left: Left) -> bool {
        let Left { moved, not_durable } = left;
        let gets_on = moved.is_empty() && not_durable.is_empty();
        if not_durable.is_empty() {
            self.shared.workers.goes_on(Stall::NotDurable, self.worker);
        } else if self.shared.workers.stalled(Stall::NotDurable, self.worker) > self.shared.reader_waits() {
            let (worker, locations) = (self.shared.workers.name(self.worker), not_durable.len());
            tracing::warn!(event = "commit_not_durable", %worker, locations, "no disk of a worker takes locations");
            self.each(not_durable.into_iter(), |state, location| state.not_durable(location, self.worker));
        }
        if moved.is_empty() {
            self.shared.workers.goes_on(Stall::Moved, self.worker);
            return gets_on;
        }
        let asked = moved.len();
        let lost = self.follow(moved).await;
        // As long as some of it turns up somewhere, its hand-over goes on.
        if lost.len() < asked {
            self.shared.workers.goes_on(Stall::Moved, self.worker);
        } else if self.shared.workers.stalled(Stall::Moved, self.worker) > self.shared.reader_waits() {
            self.give_up(lost, "it has handed them over, and nobody has taken them");
            // What is on its way next has its own time.
            self.shared.workers.goes_on(Stall::Moved, self.worker);
        }
        gets_on
    }

    /// Goes on where locations were handed over to; returns those of which nobody knows where they are.
    async fn follow(&self, locations: Vec<LocationId>) -> Vec<LocationId> {
        let moved = self.shared.workers.moved(&self.shared.application, self.worker, &locations).await;
        let known: BTreeSet<_> = moved.iter().map(|(location, _)| *location).collect();
        self.each(moved.into_iter(), |state, (location, taker)| state.moved(location, self.worker, taker));
        locations.into_iter().filter(|location| !known.contains(location)).collect()
    }

    /// The worker did not answer; `true` when nothing is left to ask it for.
    async fn unanswered(&self, due: &Due, error: &tonic::Status, is_first: bool) -> bool {
        let workers = &self.shared.workers;
        // The other copies need not wait until it is known where this worker is.
        self.each(due.freeze.iter(), |state, location| {
            state.missed(*location, self.worker);
            state.fix(*location, SealId(self.shared.random.id()));
        });
        self.each(due.seal.iter(), |state, offer| state.missed(offer.location, self.worker));
        start(self.shared, self.shuffle, self.generation);
        let unreached_for = workers.stalled(Stall::Unreached, self.worker);
        if is_first {
            let (worker, locations) = (workers.name(self.worker), due.freeze.len() + due.seal.len());
            tracing::warn!(event = "commit_waits", %worker, locations, %error, "a worker does not answer");
        }
        let found = workers.find(self.worker, self.shared.worker_lease).await;
        // One that the master still hears, but that this side cannot reach, is waited for twice as long.
        let is_given_up = match found {
            Found::Gone => true,
            Found::Here(_) => unreached_for > self.shared.reader_waits() * 2,
            Found::Away { .. } => false,
        };
        let all = due.freeze.iter().copied().chain(due.seal.iter().map(|offer| offer.location));
        let rest = match found {
            Found::Here(_) if !is_given_up => return false,
            _ => self.follow(all.collect()).await,
        };
        if is_given_up {
            self.give_up(rest, error.message());
            return true;
        }
        rest.is_empty()
    }

    fn give_up(&self, locations: Vec<LocationId>, why: &str) {
        let (worker, count) = (self.shared.workers.name(self.worker), locations.len());
        tracing::warn!(event = "commit_lost", %worker, count, why, "give up on a worker's locations");
        self.each(locations.into_iter(), |state, location| {
            state.failed(location, self.worker, CopyFailure::Gone);
            state.fix(location, SealId(self.shared.random.id()));
        });
    }

    fn door(&self) -> Result<v1::worker_client::WorkerClient<mallorn_runtime::grpc::Channel>, tonic::Status> {
        let door = self.shared.workers.door(self.worker);
        door.ok_or_else(|| tonic::Status::unavailable("the worker's address is not known"))
    }

    fn each<T>(&self, items: impl Iterator<Item = T>, mut rule: impl FnMut(&mut GenerationState, T)) {
        let mut truth = self.shared.truth.lock();
        if let Ok(state) = truth.lifecycle.generation(self.shuffle, self.generation) {
            items.for_each(|item| rule(state, item));
        }
    }
}

/// An answer that leaves locations out would be asked for again at once, and for ever.
fn answers_all(asked: usize, answered: usize) -> Result<(), tonic::Status> {
    if asked == answered {
        return Ok(());
    }
    Err(tonic::Status::internal(format!("its answer is about {answered} locations, {asked} were asked for")))
}
