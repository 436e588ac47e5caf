//! Commits: freezes and seals what the rules name, at all workers at once, until nothing of it is in between.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use mallorn_client_core::lifecycle::SealedAt;
use mallorn_proto::id::{Generation, LocationId, SealId, ShuffleId, WorkerId};
use mallorn_proto::limits::PAGE_LOCATIONS_MAX;
use mallorn_proto::v1;
use mallorn_runtime::backoff::Backoff;
use mallorn_runtime::{clock, task};

use super::workers::Found;
use super::{Shared, application_of};

const PAUSE_FIRST: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Starts the commit of these partitions' epochs, unless one runs that will see to them. It goes on when its caller is
/// gone.
pub(super) fn start(shared: &Arc<Shared>, shuffle: u32, generation: Generation, partitions: Range<u32>) {
    let wire = {
        let mut truth = shared.truth.lock();
        let Ok(state) = truth.lifecycle.generation(shuffle, generation) else { return };
        state.commit(partitions.clone());
        let wire = state.wire();
        if state.is_committed(&partitions) || !truth.committing.insert(wire) {
            return;
        }
        wire
    };
    let shared = Arc::clone(shared);
    task::spawn(async move {
        let work = run(&shared, shuffle, generation, wire);
        if shared.shutdown.or(work).await.is_none() {
            shared.truth.lock().committing.remove(&wire);
        }
    });
}

async fn run(shared: &Shared, shuffle: u32, generation: Generation, wire: ShuffleId) {
    let started = clock::now();
    let mut backoff = Backoff::new(PAUSE_FIRST, PAUSE_MAX);
    loop {
        let work = {
            let mut truth = shared.truth.lock();
            let work = match truth.lifecycle.generation(shuffle, generation) {
                Ok(state) => by_worker(state.to_freeze(), state.to_seal()),
                Err(_) => BTreeMap::new(),
            };
            if work.is_empty() {
                truth.committing.remove(&wire);
            }
            work
        };
        if work.is_empty() {
            shared.changed();
            let ms = started.elapsed().as_millis();
            tracing::info!(event = "committed", shuffle, generation = %generation, ms);
            return;
        }
        let at = At { shared, shuffle, generation };
        let calls = work.into_iter().map(|(worker, work)| at.commit_at(worker, work));
        let answered = crate::concurrently(calls).await.into_iter().all(|answered| answered);
        shared.changed();
        if answered {
            backoff.reset();
        } else {
            backoff.wait(&shared.random).await;
        }
    }
}

#[derive(Default)]
struct Work {
    freeze: Vec<LocationId>,
    seal: Vec<SealedAt>,
}

fn by_worker(freeze: Vec<(LocationId, WorkerId)>, seal: Vec<SealedAt>) -> BTreeMap<WorkerId, Work> {
    let mut work: BTreeMap<WorkerId, Work> = BTreeMap::new();
    for (location, worker) in freeze {
        work.entry(worker).or_default().freeze.push(location);
    }
    for sealed in seal {
        work.entry(sealed.worker).or_default().seal.push(sealed);
    }
    work
}

/// The generation whose commit runs.
struct At<'a> {
    shared: &'a Shared,
    shuffle: u32,
    generation: Generation,
}

impl At<'_> {
    /// One round at one worker; `false` when it did not answer.
    async fn commit_at(&self, worker: WorkerId, work: Work) -> bool {
        let done = match self.freeze(worker, &work.freeze).await {
            Ok(()) => self.seal(worker, &work.seal).await,
            Err(error) => Err(error),
        };
        let Err(error) = done else {
            self.shared.workers.reached(worker);
            return true;
        };
        let unreached_for = self.shared.workers.unreached(worker);
        let name = self.shared.workers.address(worker).map(|address| address.name).unwrap_or_default();
        let found = self.shared.workers.find(worker, self.shared.worker_lease).await;
        // One that the master still hears, but that this side cannot reach, is waited for twice as long.
        let patience = (self.shared.worker_lease + self.shared.config.wait_for_return.0) * 2;
        let gone = match found {
            Found::Gone => true,
            Found::Here(_) => unreached_for > patience,
            Found::Away => false,
        };
        if gone {
            tracing::warn!(event = "commit_lost", worker = %name, %error, "give up on a worker's locations");
            let why = format!("worker {name} is gone");
            let locations = work.freeze.into_iter().chain(work.seal.into_iter().map(|sealed| sealed.location));
            self.each(locations, |state, location| state.failed(location, &why));
        }
        gone
    }

    async fn freeze(&self, worker: WorkerId, locations: &[LocationId]) -> Result<(), tonic::Status> {
        for page in locations.chunks(PAGE_LOCATIONS_MAX) {
            let request = v1::FreezeRequest {
                cluster: self.shared.workers.cluster.clone(),
                application: application_of(self.shared),
                worker: Some(worker.into()),
                locations: page.iter().copied().map(Into::into).collect(),
            };
            let reply = self.door(worker)?.freeze(request).await?.into_inner();
            answers_all(page.len(), reply.locations.len())?;
            let answers = page.iter().copied().zip(&reply.locations);
            self.each(answers, |state, (location, frozen)| {
                if frozen.unknown {
                    state.failed(location, "its worker does not have it");
                } else {
                    state.frozen(location, frozen.acked_length, SealId(self.shared.random.id()));
                }
            });
        }
        Ok(())
    }

    async fn seal(&self, worker: WorkerId, locations: &[SealedAt]) -> Result<(), tonic::Status> {
        for page in locations.chunks(PAGE_LOCATIONS_MAX) {
            let one = |sealed: &SealedAt| v1::SealOne {
                location: Some(sealed.location.into()),
                seal: sealed.seal.0,
                length: sealed.length,
            };
            let request = v1::SealRequest {
                cluster: self.shared.workers.cluster.clone(),
                application: application_of(self.shared),
                worker: Some(worker.into()),
                locations: page.iter().map(one).collect(),
                ..Default::default()
            };
            let reply = self.door(worker)?.seal(request).await?.into_inner();
            answers_all(page.len(), reply.locations.len())?;
            let answers = page.iter().map(|sealed| sealed.location).zip(&reply.locations);
            self.each(answers, |state, (location, sealed)| {
                use v1::sealed::Outcome;
                match sealed.outcome() {
                    Outcome::Sealed => state.sealed(location),
                    // It is offered again.
                    Outcome::NotDurable => {}
                    Outcome::Moved => state.failed(location, "its worker has handed it over"),
                    Outcome::Unknown => state.failed(location, "its worker does not have it"),
                    Outcome::Short => state.failed(location, "its worker holds less than was acked"),
                    Outcome::Conflict => state.failed(location, "its worker has sealed it otherwise"),
                }
            });
        }
        Ok(())
    }

    fn door(
        &self,
        worker: WorkerId,
    ) -> Result<v1::worker_client::WorkerClient<tonic::transport::Channel>, tonic::Status> {
        self.shared.workers.door(worker).ok_or_else(|| tonic::Status::unavailable("the worker's address is not known"))
    }

    fn each<T>(
        &self,
        items: impl Iterator<Item = T>,
        mut rule: impl FnMut(&mut mallorn_client_core::lifecycle::GenerationState, T),
    ) {
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
