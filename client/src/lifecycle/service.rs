//! What an application's tasks ask, over gRPC: translated to the rules and back.

use std::sync::Arc;
use std::time::Duration;

use mallorn_client_core::lifecycle::{AttemptKey, AttemptName, NoSpace, OpenAt, Replacing, Revived};
use mallorn_client_core::push::BatchSum;
use mallorn_proto::id::{Attempt, Epoch, Generation, Instance, MapId, Partition, Token};
use mallorn_proto::limits::{CONTROL_MESSAGE_BYTES_MAX, PAGE_LOCATIONS_MAX};
use mallorn_proto::reason::Reason;
use mallorn_proto::v1;
use mallorn_proto::v1::lifecycle_server::{Lifecycle, LifecycleServer};
use mallorn_proto::v1::revive_request::Cause;
use mallorn_runtime::clock::{self, millis};
use tonic::service::Routes;
use tonic::{Request, Response, Status};

use super::pages::AddressTable;
use super::{LIFECYCLE_WAIT_MAX, Shared, application_of, commit, place, plan};
use crate::error::LifecycleError;

/// How long a worker that a task cannot reach gets no new locations.
const EXCLUDE_UNREACHABLE: Duration = Duration::from_secs(2);

pub(super) fn routes(shared: Arc<Shared>) -> Routes {
    let server = LifecycleServer::new(Service { shared })
        .max_decoding_message_size(CONTROL_MESSAGE_BYTES_MAX)
        .max_encoding_message_size(CONTROL_MESSAGE_BYTES_MAX);
    Routes::new(server)
}

struct Service {
    shared: Arc<Shared>,
}

type Reply<T> = Result<Response<T>, Status>;

fn reply<T>(result: Result<T, LifecycleError>) -> Reply<T> {
    result.map(Response::new).map_err(|error| error.to_grpc())
}

#[tonic::async_trait]
impl Lifecycle for Service {
    async fn join(&self, request: Request<v1::JoinRequest>) -> Reply<v1::JoinReply> {
        tracing::debug!(event = "client_joined", client = %request.into_inner().client);
        let shared = &self.shared;
        reply(shared.with(|_| {
            Ok(v1::JoinReply {
                cluster: shared.workers.cluster.clone(),
                application: application_of(shared),
                body_limit: shared.body_limit,
                attempt_lease_ms: millis(shared.config.attempt_lease.0),
                wait_for_return_ms: millis(shared.config.wait_for_return.0),
                worker_lease_ms: millis(shared.worker_lease),
            })
        }))
    }

    async fn register_shuffle(&self, request: Request<v1::RegisterShuffleRequest>) -> Reply<v1::RegisterShuffleReply> {
        let request = request.into_inner();
        reply(
            async {
                self.check(request.instance)?;
                let current = self.shared.register(&request, self.place_within()).await?;
                Ok(v1::RegisterShuffleReply { generation: current.generation.0 })
            }
            .await,
        )
    }

    async fn next_generation(&self, request: Request<v1::NextGenerationRequest>) -> Reply<v1::NextGenerationReply> {
        let request = request.into_inner();
        reply(
            async {
                self.check(request.instance)?;
                let seen = Generation(request.seen);
                let current = self.shared.next_generation(request.shuffle, seen, self.place_within()).await?;
                Ok(v1::NextGenerationReply { generation: current.generation.0 })
            }
            .await,
        )
    }

    async fn release_shuffle(&self, request: Request<v1::ReleaseShuffleRequest>) -> Reply<v1::ReleaseShuffleReply> {
        let request = request.into_inner();
        reply(
            async {
                self.check(request.instance)?;
                self.shared.release(request.shuffle).await?;
                Ok(v1::ReleaseShuffleReply {})
            }
            .await,
        )
    }

    async fn start_attempt(&self, request: Request<v1::StartAttemptRequest>) -> Reply<v1::StartAttemptReply> {
        let request = request.into_inner();
        let now = self.shared.clock.now();
        let name = AttemptName { map: MapId(request.map), attempt: Attempt(request.attempt) };
        let key = AttemptKey { name, nonce: request.nonce };
        reply(self.check(request.instance).and_then(|()| {
            self.shared.with(|truth| {
                let (generation, state) = truth.lifecycle.current(request.shuffle)?;
                state.start_attempt(key, now)?;
                Ok(v1::StartAttemptReply {
                    generation: generation.0,
                    wire_shuffle: state.wire().0,
                    partitions: state.partitions(),
                })
            })
        }))
    }

    async fn renew_attempts(&self, request: Request<v1::RenewAttemptsRequest>) -> Reply<v1::RenewAttemptsReply> {
        let request = request.into_inner();
        let now = self.shared.clock.now();
        reply(self.check(request.instance).and_then(|()| {
            self.shared.with(|truth| {
                let renew = |id: &v1::AttemptId| {
                    let state = truth.lifecycle.generation(id.shuffle, Generation(id.generation));
                    state.is_ok_and(|state| state.renew_attempt(key_of(id), now))
                };
                Ok(v1::RenewAttemptsReply { alive: request.attempts.iter().map(renew).collect() })
            })
        }))
    }

    async fn attempt_failed(&self, request: Request<v1::AttemptFailedRequest>) -> Reply<v1::AttemptFailedReply> {
        let request = request.into_inner();
        reply(self.check(request.instance).and_then(|()| {
            let id = attempt(request.attempt.as_ref())?;
            self.shared.with(|truth| {
                truth.lifecycle.generation(id.shuffle, Generation(id.generation))?.attempt_failed(key_of(id))?;
                Ok(v1::AttemptFailedReply {})
            })
        }))
    }

    async fn mapper_end(&self, request: Request<v1::MapperEndRequest>) -> Reply<v1::MapperEndReply> {
        let request = request.into_inner();
        reply(self.check(request.instance).and_then(|()| self.end_attempt(&request)))
    }

    async fn locate(&self, request: Request<v1::LocateRequest>) -> Reply<v1::LocateReply> {
        let request = request.into_inner();
        reply(self.locate_all(&request).await)
    }

    async fn revive(&self, request: Request<v1::ReviveRequest>) -> Reply<v1::ReviveReply> {
        let request = request.into_inner();
        reply(self.revive_all(&request).await)
    }

    async fn plan_read(&self, request: Request<v1::PlanReadRequest>) -> Reply<v1::PlanReadReply> {
        let request = request.into_inner();
        reply(match self.check(request.instance) {
            Ok(()) => plan::read(&self.shared, request).await,
            Err(error) => Err(error),
        })
    }

    async fn list_winners(&self, request: Request<v1::ListWinnersRequest>) -> Reply<v1::ListWinnersReply> {
        let request = request.into_inner();
        reply(self.check(request.instance).and_then(|()| plan::winners(&self.shared, &request)))
    }

    async fn resolve(&self, request: Request<v1::ResolveRequest>) -> Reply<v1::ResolveReply> {
        let request = request.into_inner();
        reply(match self.check(request.instance) {
            Ok(()) => plan::resolve(&self.shared, request).await,
            Err(error) => Err(error),
        })
    }
}

impl Service {
    fn place_within(&self) -> Duration {
        self.shared.config.place_within.0.min(LIFECYCLE_WAIT_MAX)
    }

    fn check(&self, instance: u64) -> Result<(), LifecycleError> {
        let ours = self.shared.application.instance;
        if Instance(instance) == ours {
            return Ok(());
        }
        let text = format!(
            "the lifecycle manager of application {} was started again: join it anew",
            self.shared.application.name
        );
        Err(LifecycleError::refused(Reason::Fenced, text))
    }

    fn end_attempt(&self, request: &v1::MapperEndRequest) -> Result<v1::MapperEndReply, LifecycleError> {
        let id = attempt(request.attempt.as_ref())?;
        let (key, generation) = (key_of(id), Generation(id.generation));
        let sum = |sum: &v1::PartitionSum| {
            let (batches, bytes, hash) = (sum.batches, sum.bytes, sum.hash);
            (Partition(sum.partition), BatchSum { batches, bytes, hash })
        };
        let sums: Vec<_> = request.sums.iter().map(sum).collect();
        let token = Token(self.shared.random.id());
        let ended = self.shared.with(|truth| {
            let state = truth.lifecycle.generation(id.shuffle, generation)?;
            state.stage_page(key, request.page, &sums)?;
            Ok(if request.last_page { Some(state.finish_attempt(key, token)?) } else { None })
        })?;
        let Some(ended) = ended else { return Ok(v1::MapperEndReply::default()) };
        tracing::debug!(
            event = "attempt_ended",
            shuffle = id.shuffle,
            map = id.map,
            attempt = id.attempt,
            won = ended.won
        );
        if ended.stage_ended {
            tracing::info!(event = "stage_ended", shuffle = id.shuffle, generation = %generation);
            self.shared.changed();
            commit::start(&self.shared, id.shuffle, generation);
        }
        Ok(v1::MapperEndReply { token: ended.token.0, won: ended.won })
    }

    async fn locate_all(&self, request: &v1::LocateRequest) -> Result<v1::LocateReply, LifecycleError> {
        self.check(request.instance)?;
        bounded(request.partitions.len())?;
        let generation = Generation(request.generation);
        self.shared.with(|truth| {
            let state = truth.lifecycle.generation(request.shuffle, generation)?;
            for partition in &request.partitions {
                state.locate(Partition(*partition));
            }
            Ok(())
        })?;
        let partitions: Vec<_> = request.partitions.iter().map(|partition| (Partition(*partition), None)).collect();
        let answers = self.placed((request.shuffle, generation), &partitions).await?;
        let mut table = AddressTable::new(&self.shared.workers);
        let mut locations = Vec::with_capacity(answers.len());
        for answer in answers {
            match answer {
                Revived::Open(open) => locations.push(open_location(open, &mut table)),
                Revived::StageEnded | Revived::MapEnded => {
                    return Err(LifecycleError::refused(Reason::StageEnded, "the stage has ended".to_owned()));
                }
                Revived::Wanted | Revived::NoSpace(_) => {
                    // Its first push asks for a revive, which knows how to wait for space.
                    locations.push(v1::OpenLocation::default());
                }
            }
        }
        Ok(v1::LocateReply { workers: table.addresses, locations })
    }

    async fn revive_all(&self, request: &v1::ReviveRequest) -> Result<v1::ReviveReply, LifecycleError> {
        self.check(request.instance)?;
        bounded(request.partitions.len())?;
        let id = attempt(request.attempt.as_ref())?;
        let generation = Generation(id.generation);
        let why = match request.cause() {
            Cause::HardSplit | Cause::Unreachable => Replacing::Refused,
            Cause::SoftSplit => Replacing::Full,
        };
        let first = self.shared.with(|truth| {
            let state = truth.lifecycle.generation(id.shuffle, generation)?;
            let mut answers = Vec::with_capacity(request.partitions.len());
            for one in &request.partitions {
                let (partition, epoch) = (Partition(one.partition), Epoch(one.epoch));
                if request.cause() == Cause::Unreachable
                    && let Revived::Open(open) = state.answer(partition, None)
                    && open.location.epoch == epoch
                {
                    self.shared.workers.exclude(open.worker, EXCLUDE_UNREACHABLE);
                }
                answers.push(state.revive(key_of(id), partition, epoch, why)?);
            }
            Ok(answers)
        });
        // What was refused is committed at once, whatever became of the others.
        commit::start(&self.shared, id.shuffle, generation);
        let first = first?;
        let waiting = |answer: &Revived| matches!(answer, Revived::Wanted);
        let of = |one: &v1::ReviveOne| (Partition(one.partition), Some(Epoch(one.epoch)));
        let partitions: Vec<_> = request.partitions.iter().map(of).collect();
        let answers = if first.iter().any(waiting) {
            let placed = self.placed((id.shuffle, generation), &partitions).await?;
            first.into_iter().zip(placed).map(|(first, placed)| if waiting(&first) { placed } else { first }).collect()
        } else {
            first
        };
        Ok(revive_reply(answers, AddressTable::new(&self.shared.workers)))
    }

    /// Waits until each of the partitions is placed, or known to have no space, or the wait is over.
    async fn placed(
        &self,
        of: (u32, Generation),
        partitions: &[(Partition, Option<Epoch>)],
    ) -> Result<Vec<Revived>, LifecycleError> {
        let deadline = clock::now() + LIFECYCLE_WAIT_MAX;
        let mut changes = self.shared.changes.subscribe();
        loop {
            changes.mark_unchanged();
            place::start(&self.shared, of.0, of.1);
            let answers = self.shared.with(|truth| {
                let state = truth.lifecycle.generation(of.0, of.1)?;
                Ok(partitions.iter().map(|(partition, epoch)| state.answer(*partition, *epoch)).collect::<Vec<_>>())
            })?;
            let left = deadline.saturating_duration_since(clock::now());
            let waiting = answers.iter().any(|answer| matches!(answer, Revived::Wanted));
            if !waiting || left.is_zero() {
                return Ok(answers);
            }
            let _ = clock::timeout(left, changes.changed()).await;
        }
    }
}

fn revive_reply(answers: Vec<Revived>, mut table: AddressTable<'_>) -> v1::ReviveReply {
    use v1::revived::Outcome;
    let mut nowhere = None;
    let mut partitions = Vec::with_capacity(answers.len());
    for answer in answers {
        let (outcome, location) = match answer {
            Revived::Open(open) => (Outcome::Revived, Some(open_location(open, &mut table))),
            Revived::MapEnded => (Outcome::MapEnded, None),
            Revived::StageEnded => (Outcome::StageEnded, None),
            Revived::NoSpace(full) => {
                nowhere = Some(full);
                (Outcome::NoSpace, None)
            }
            Revived::Wanted => (Outcome::NoSpace, None),
        };
        partitions.push(v1::Revived { outcome: outcome.into(), location });
    }
    let missing = nowhere.map(|full| full.to_string()).unwrap_or_default();
    let NoSpace { arena_bytes, held_bytes, .. } = nowhere.unwrap_or_default();
    v1::ReviveReply { workers: table.addresses, partitions, arena_bytes, held_bytes, missing }
}

fn open_location(open: OpenAt, table: &mut AddressTable<'_>) -> v1::OpenLocation {
    let worker = table.index(open.worker);
    v1::OpenLocation { location: Some(open.location.into()), handle: open.handle.0, worker }
}

fn key_of(id: &v1::AttemptId) -> AttemptKey {
    let name = AttemptName { map: MapId(id.map), attempt: Attempt(id.attempt) };
    AttemptKey { name, nonce: id.nonce }
}

fn attempt(id: Option<&v1::AttemptId>) -> Result<&v1::AttemptId, LifecycleError> {
    id.ok_or_else(|| LifecycleError::refused(Reason::Invalid, "the request names no attempt".to_owned()))
}

fn bounded(locations: usize) -> Result<(), LifecycleError> {
    if locations <= PAGE_LOCATIONS_MAX {
        return Ok(());
    }
    let text = format!("{locations} partitions in one request, at most {PAGE_LOCATIONS_MAX} are allowed");
    Err(LifecycleError::refused(Reason::Invalid, text))
}
