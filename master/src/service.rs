//! The gRPC door: each call is checked, decided by the core under its lock, logged and answered.
//!
//! Owns the lock around the core, the log of what happened to whom, and the way back from the core's types to the wire.
//! Does not own any decision (`mallorn-master-core`), nor what a caller may send (`request`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use mallorn_master_core::{Address, Heartbeat};
use mallorn_master_core::{
    Disk, DiskHealth, HeartbeatAnswer, Held, Master, Memory, Placement, Registered, RegisteredApplication,
    RenewedApplication, Settings, Worker, WorkerState,
};
use mallorn_proto::id::{Incarnation, Instance, WorkerId};
use mallorn_proto::limits::CONTROL_MESSAGE_BYTES_MAX;
use mallorn_proto::v1;
use mallorn_proto::v1::master_server::{Master as MasterService, MasterServer};
use mallorn_runtime::clock::{self, Clock, millis};
use mallorn_runtime::task::Shutdown;
use mallorn_runtime::telemetry::quiet::{Line, Quiet};
use parking_lot::Mutex;
use prost::Message;
use tonic::service::Routes;
use tonic::{Request, Response};
use tracing::{debug, info, warn};

use crate::config::Config;
use crate::metrics::Metrics;
use crate::request::{self, RequestError};

/// Workers and applications whose log lines are told apart: a large cluster may come back all at once.
const QUIET_KEYS_MAX: usize = 1024;

/// A master's state and what it takes to serve it.
#[derive(Debug)]
pub(crate) struct State {
    config: Config,
    clock: Clock,
    metrics: Metrics,
    /// Log lines that callers can cause: by event, and whom it is of.
    quiet: Quiet<(&'static str, String)>,
    /// Held while the core decides, never across an await.
    master: Mutex<Master>,
}

/// Serves a master's state over gRPC.
struct Service(Arc<State>);

impl State {
    /// A master that starts now.
    pub(crate) fn new(config: Config, metrics: Metrics) -> Self {
        let clock = Clock::start();
        let settings = Settings {
            worker_lease: config.master.worker_lease.duration(),
            application_lease: config.master.application_lease.duration(),
            tick: config.master.tick(),
            strategy: config.master.placement.into(),
            room_bytes: u64::from(config.body_limit_bytes),
        };
        let master = Master::new(settings, clock.now());
        metrics.census(&master.census());
        let master = Mutex::new(master);
        Self { config, clock, metrics, quiet: Quiet::of(QUIET_KEYS_MAX), master }
    }

    /// Whether a log line is to be written.
    fn line(&self, event: &'static str, of: &impl ToString) -> Option<Line> {
        self.quiet.line((event, of.to_string()), clock::now())
    }

    /// The gRPC service.
    pub(crate) fn routes(self: &Arc<Self>) -> Routes {
        let server = MasterServer::new(Service(Arc::clone(self)))
            .max_decoding_message_size(CONTROL_MESSAGE_BYTES_MAX)
            .max_encoding_message_size(CONTROL_MESSAGE_BYTES_MAX);
        Routes::new(server)
    }

    /// Ticks until the shutdown is triggered.
    pub(crate) async fn run_ticks(self: Arc<Self>, shutdown: Shutdown) {
        while shutdown.or(clock::sleep(self.config.master.tick())).await.is_some() {
            self.tick();
        }
    }

    fn tick(&self) {
        let (expired, lost, census) = {
            let mut master = self.master.lock();
            let expired = master.tick(self.clock.now());
            let named = |id: &WorkerId| master.worker(*id).map(|worker| (*id, worker.address.name.clone()));
            let lost: Vec<_> = expired.workers.iter().filter_map(named).collect();
            (expired, lost, master.census())
        };
        self.metrics.tick(&expired);
        self.metrics.census(&census);
        if expired.late_by > self.config.master.worker_lease.duration() {
            warn!(
                event = "tick_late",
                late_ms = millis(expired.late_by),
                "the master did not run; all leases are extended"
            );
        }
        for (worker, name) in lost {
            warn!(event = "worker_lost", %worker, name, "worker lost: its lease is over");
        }
        for application in expired.applications {
            if let Some(Line { repeats }) = self.line("application_ended", &application.name) {
                info!(event = "application_ended", %application, why = "lease over", repeats, "application ended");
            }
        }
    }

    /// Answers a request and counts the answer.
    fn answer<Q, A>(
        &self,
        op: &'static str,
        decide: fn(&Self, Q) -> Result<A, RequestError>,
        request: Request<Q>,
    ) -> Result<Response<A>, tonic::Status> {
        let answer = decide(self, request.into_inner());
        self.metrics.request(op, answer.as_ref().map_or_else(|error| error.status().name(), |_| "ok"));
        if let Err(error) = &answer {
            debug!(event = "request_refused", op, %error, "request refused");
        }
        Ok(Response::new(answer?))
    }

    fn register_worker(&self, request: v1::RegisterWorkerRequest) -> Result<v1::RegisterWorkerReply, RequestError> {
        let now = self.clock.now();
        request::check_cluster(&self.config.cluster, &request.cluster)?;
        let registration = request::registration(request, self.config.body_limit_bytes)?;
        let (worker, incarnation) = (registration.worker, registration.incarnation);
        let (address, draining) = (registration.address.clone(), registration.report.draining);
        let registered = self.master.lock().register_worker(now, registration)?;
        let event = match registered {
            Registered::New => Some("worker_registered"),
            Registered::Restarted => Some("worker_restarted"),
            Registered::Returned => Some("worker_returned"),
            Registered::Repeated => None,
        };
        if let Some((event, Line { repeats })) = event.and_then(|event| Some((event, self.line(event, &worker)?))) {
            let Address { name, control, data, rack } = address;
            let incarnation = format!("{:016x}", incarnation.0);
            info!(event, %worker, name, incarnation, control, data, rack, draining, repeats, "worker registered");
        }
        Ok(v1::RegisterWorkerReply {
            lease_ms: millis(self.config.master.worker_lease.duration()),
            heartbeat_ms: millis(self.config.master.heartbeat()),
        })
    }

    fn heartbeat(&self, request: v1::HeartbeatRequest) -> Result<v1::HeartbeatReply, RequestError> {
        let now = self.clock.now();
        request::check_cluster(&self.config.cluster, &request.cluster)?;
        let worker = request::worker_id(request.worker)?;
        let incarnation = request::incarnation(request.incarnation)?;
        let report = request::report(request.memory, request.disks, request.draining)?;
        let held = request::held(request.held)?;
        let taken_over = request::taken_over(request.taken_over)?;
        let answer = self.master.lock().heartbeat(now, Heartbeat { worker, incarnation, report, held, taken_over });
        let HeartbeatAnswer::Renewed { moved, orders, not_kept } = answer else {
            self.metrics.heartbeat(false);
            return Ok(v1::HeartbeatReply { register_again: true, ..v1::HeartbeatReply::default() });
        };
        self.metrics.heartbeat(true);
        if not_kept > 0
            && let Some(Line { repeats }) = self.line("handover_not_kept", &worker)
        {
            warn!(event = "handover_not_kept", %worker, not_kept, repeats, "more was handed over than a master remembers");
        }
        let event = match moved {
            Some(WorkerState::Draining) => Some(("worker_draining", "worker takes no new locations")),
            Some(WorkerState::Live) => Some(("worker_live", "worker takes new locations again")),
            Some(WorkerState::Lost { .. }) | None => None,
        };
        if let Some((event, text)) = event
            && let Some(Line { repeats }) = self.line(event, &worker)
        {
            info!(event, %worker, repeats, "{text}");
        }
        let released = orders.released.into_iter().map(|Held { application, shuffles }| v1::HeldApplication {
            application: Some(application.into()),
            shuffles: shuffles.to_wire(),
        });
        Ok(v1::HeartbeatReply {
            register_again: false,
            released: released.collect(),
            ended: orders.ended.into_iter().map(Into::into).collect(),
        })
    }

    fn register_application(
        &self,
        request: v1::RegisterApplicationRequest,
    ) -> Result<v1::RegisterApplicationReply, RequestError> {
        let now = self.clock.now();
        request::check_cluster(&self.config.cluster, &request.cluster)?;
        let application = request::application(request.application)?;
        let registered = self.master.lock().register_application(now, &application)?;
        if let RegisteredApplication::New { fenced } = registered {
            if let Some(Line { repeats }) = self.line("application_registered", &application.name) {
                info!(event = "application_registered", %application, repeats, "application registered");
            }
            for Instance(older) in fenced {
                let older = format!("{older:016x}");
                if let Some(Line { repeats }) = self.line("application_fenced", &application.name) {
                    let text = "an older instance of the application is fenced";
                    warn!(event = "application_fenced", %application, older, repeats, "{text}");
                }
            }
        }
        Ok(v1::RegisterApplicationReply {
            lease_ms: millis(self.config.master.application_lease.duration()),
            body_limit: self.config.body_limit_bytes,
            worker_lease_ms: millis(self.config.master.worker_lease.duration()),
        })
    }

    fn renew_application(
        &self,
        request: v1::RenewApplicationRequest,
    ) -> Result<v1::RenewApplicationReply, RequestError> {
        let now = self.clock.now();
        request::check_cluster(&self.config.cluster, &request.cluster)?;
        let application = request::application(request.application)?;
        let released = request::released(request.released)?;
        let renewed = self.master.lock().renew_application(now, &application, released)?;
        match renewed {
            RenewedApplication::Renewed => {}
            RenewedApplication::TakenIn => {
                if let Some(Line { repeats }) = self.line("application_taken_in", &application.name) {
                    let text = "application was there before this master";
                    info!(event = "application_taken_in", %application, repeats, "{text}");
                }
            }
        }
        Ok(v1::RenewApplicationReply { lease_ms: millis(self.config.master.application_lease.duration()) })
    }

    fn end_application(&self, request: v1::EndApplicationRequest) -> Result<v1::EndApplicationReply, RequestError> {
        let now = self.clock.now();
        request::check_cluster(&self.config.cluster, &request.cluster)?;
        let application = request::application(request.application)?;
        let ended = self.master.lock().end_application(now, &application);
        if ended && let Some(Line { repeats }) = self.line("application_ended", &application.name) {
            info!(event = "application_ended", %application, why = "its own word", repeats, "application ended");
        }
        Ok(v1::EndApplicationReply {})
    }

    fn place(&self, request: v1::PlaceRequest) -> Result<v1::PlaceReply, RequestError> {
        let now = self.clock.now();
        request::check_cluster(&self.config.cluster, &request.cluster)?;
        let request = request::place(request)?;
        let reply = {
            let mut master = self.master.lock();
            let placed = master.place(now, &request)?;
            let Placement { workers, picks, replicas, candidates, without_disk, memory } = placed;
            let picked = workers.iter().filter_map(|id| master.worker(*id).map(|worker| address_of(*id, worker)));
            v1::PlaceReply {
                workers: picked.collect(),
                picks,
                replicas,
                candidates,
                without_disk,
                arena_bytes: memory.arena_bytes,
                held_bytes: memory.held_bytes,
            }
        };
        self.metrics.placement(reply.picks.len());
        Ok(reply)
    }

    fn resolve_workers(&self, request: v1::ResolveWorkersRequest) -> Result<v1::ResolveWorkersReply, RequestError> {
        let now = self.clock.now();
        request::check_cluster(&self.config.cluster, &request.cluster)?;
        let ids = request::resolve(request.workers)?;
        let master = self.master.lock();
        let resolved = ids.into_iter().map(|id| resolved(&master, now, id, master.worker(id)));
        Ok(v1::ResolveWorkersReply { workers: resolved.collect() })
    }

    fn resolve_moved(&self, request: v1::ResolveMovedRequest) -> Result<v1::ResolveMovedReply, RequestError> {
        request::check_cluster(&self.config.cluster, &request.cluster)?;
        let application = request::application(request.application)?;
        let from = request::worker_id(request.from)?;
        let locations = request::moved(request.locations)?;
        let master = self.master.lock();
        let (mut workers, mut indices) = (Vec::new(), BTreeMap::new());
        let taken_by = master.resolve_moved(&application, from, &locations).into_iter().map(|taker| {
            let Some((id, worker)) = taker.and_then(|id| Some((id, master.worker(id)?))) else { return 0 };
            *indices.entry(id).or_insert_with(|| {
                workers.push(address_of(id, worker));
                workers.len() as u32
            })
        });
        let taken_by = taken_by.collect();
        Ok(v1::ResolveMovedReply { workers, taken_by })
    }

    fn describe_cluster(&self, request: v1::DescribeClusterRequest) -> Result<v1::DescribeClusterReply, RequestError> {
        let now = self.clock.now();
        request::check_cluster(&self.config.cluster, &request.cluster)?;
        let reply = {
            let master = self.master.lock();
            let described = master.workers().map(|(id, worker)| v1::DescribedWorker {
                worker: Some(resolved(&master, now, id, Some(worker))),
                memory: Some(memory(worker.memory)),
                disks: worker.disks.iter().map(disk).collect(),
            });
            v1::DescribeClusterReply {
                workers: described.collect(),
                applications: master.census().applications.active as u64,
                up_ms: millis(now),
            }
        };
        if reply.encoded_len() > CONTROL_MESSAGE_BYTES_MAX {
            return Err(RequestError::TooLarge { workers: reply.workers.len() });
        }
        Ok(reply)
    }
}

#[tonic::async_trait]
impl MasterService for Service {
    async fn register_worker(
        &self,
        request: Request<v1::RegisterWorkerRequest>,
    ) -> Result<Response<v1::RegisterWorkerReply>, tonic::Status> {
        self.0.answer("register_worker", State::register_worker, request)
    }

    async fn heartbeat(
        &self,
        request: Request<v1::HeartbeatRequest>,
    ) -> Result<Response<v1::HeartbeatReply>, tonic::Status> {
        self.0.answer("heartbeat", State::heartbeat, request)
    }

    async fn register_application(
        &self,
        request: Request<v1::RegisterApplicationRequest>,
    ) -> Result<Response<v1::RegisterApplicationReply>, tonic::Status> {
        self.0.answer("register_application", State::register_application, request)
    }

    async fn renew_application(
        &self,
        request: Request<v1::RenewApplicationRequest>,
    ) -> Result<Response<v1::RenewApplicationReply>, tonic::Status> {
        self.0.answer("renew_application", State::renew_application, request)
    }

    async fn end_application(
        &self,
        request: Request<v1::EndApplicationRequest>,
    ) -> Result<Response<v1::EndApplicationReply>, tonic::Status> {
        self.0.answer("end_application", State::end_application, request)
    }

    async fn place(&self, request: Request<v1::PlaceRequest>) -> Result<Response<v1::PlaceReply>, tonic::Status> {
        self.0.answer("place", State::place, request)
    }

    async fn resolve_workers(
        &self,
        request: Request<v1::ResolveWorkersRequest>,
    ) -> Result<Response<v1::ResolveWorkersReply>, tonic::Status> {
        self.0.answer("resolve_workers", State::resolve_workers, request)
    }

    async fn resolve_moved(
        &self,
        request: Request<v1::ResolveMovedRequest>,
    ) -> Result<Response<v1::ResolveMovedReply>, tonic::Status> {
        self.0.answer("resolve_moved", State::resolve_moved, request)
    }

    async fn describe_cluster(
        &self,
        request: Request<v1::DescribeClusterRequest>,
    ) -> Result<Response<v1::DescribeClusterReply>, tonic::Status> {
        self.0.answer("describe_cluster", State::describe_cluster, request)
    }
}

fn resolved(master: &Master, now: Duration, id: WorkerId, worker: Option<&Worker>) -> v1::ResolvedWorker {
    let state = match worker.map(|worker| worker.state) {
        None => v1::resolved_worker::State::Unknown,
        Some(WorkerState::Live) => v1::resolved_worker::State::Live,
        Some(WorkerState::Draining) => v1::resolved_worker::State::Draining,
        Some(WorkerState::Lost { .. }) => v1::resolved_worker::State::Lost,
    };
    v1::ResolvedWorker {
        worker: Some(id.into()),
        state: state.into(),
        address: worker.map(|worker| address_of(id, worker)),
        lost_for_ms: worker.and_then(|worker| master.lost_for(now, worker)).map_or(0, millis),
    }
}

fn address_of(id: WorkerId, worker: &Worker) -> v1::WorkerAddress {
    let Address { name, control, data, rack } = worker.address.clone();
    let Incarnation(incarnation) = worker.incarnation;
    v1::WorkerAddress { worker: Some(id.into()), name, incarnation, control, data, rack }
}

fn memory(memory: Memory) -> v1::MemoryState {
    let Memory { arena_bytes, held_bytes, push_free_bytes } = memory;
    v1::MemoryState { arena_bytes, held_bytes, push_free_bytes }
}

fn disk(disk: &Disk) -> v1::DiskState {
    let health = match disk.health {
        DiskHealth::Healthy => v1::disk_state::Health::Healthy,
        DiskHealth::Full => v1::disk_state::Health::Full,
        DiskHealth::Slow => v1::disk_state::Health::Slow,
        DiskHealth::Failed => v1::disk_state::Health::Failed,
    };
    let (capacity_bytes, free_bytes) = (disk.capacity_bytes, disk.free_bytes);
    v1::DiskState { path: disk.path.clone(), health: health.into(), capacity_bytes, free_bytes }
}
