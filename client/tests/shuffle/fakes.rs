//! A lifecycle manager and a worker that answer what a test tells them to: honestly, or nonsense.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mallorn_client::{ClientConfig, ShuffleClient};
use mallorn_proto::id::{Application, Incarnation, Instance, LocationId, WorkerId};
use mallorn_proto::limits::{BODY_BYTES_DEFAULT, BODY_BYTES_MAX};
use mallorn_proto::message::{Kind, Welcome};
use mallorn_proto::v1;
use mallorn_proto::v1::lifecycle_server::{Lifecycle, LifecycleServer};
use mallorn_runtime::connection::{Frame, Inbound, Incoming, Outbound, Pool};
use mallorn_runtime::net::{Listener, Stream};
use mallorn_runtime::random::Random;
use mallorn_runtime::task::Shutdown;
use mallorn_runtime::{grpc, task};
use parking_lot::Mutex;
use prometheus::Registry;
use tokio::sync::watch;
use tonic::service::Routes;
use tonic::{Request, Response, Status};

/// The instance and the wire number that the fake tells.
pub(crate) const INSTANCE: u64 = 77;
pub(crate) const WIRE: u32 = 5;
pub(crate) const WORKER: WorkerId = WorkerId(3);
pub(crate) const INCARNATION: u64 = 9;

/// What the fake lifecycle manager answers; a test changes what it wants to be wrong.
#[derive(Clone, Debug)]
pub(crate) struct Script {
    pub(crate) join: v1::JoinReply,
    pub(crate) start: v1::StartAttemptReply,
    pub(crate) locate: v1::LocateReply,
    /// `None` places the next epoch of what was asked for.
    pub(crate) revive: Option<v1::ReviveReply>,
    pub(crate) end: v1::MapperEndReply,
    pub(crate) plan: v1::PlanReadReply,
    /// One answer to each call; the last one again and again.
    pub(crate) winners: Vec<v1::ListWinnersReply>,
    pub(crate) resolve: v1::ResolveReply,
    /// How many attempts of a renewal are answered for.
    pub(crate) renewed: usize,
    /// Calls, by name, in order.
    pub(crate) calls: Vec<&'static str>,
    pub(crate) revives: Vec<v1::ReviveRequest>,
    pub(crate) resolves: Vec<v1::ResolveRequest>,
}

impl Script {
    pub(crate) fn count(&self, name: &str) -> usize {
        self.calls.iter().filter(|call| **call == name).count()
    }
}

pub(crate) fn location(partition: u32, epoch: u32) -> v1::LocationId {
    v1::LocationId { shuffle: WIRE, partition, epoch }
}

pub(crate) fn open_location(partition: u32, epoch: u32) -> v1::OpenLocation {
    let handle = u64::from(partition * 100 + epoch + 1);
    v1::OpenLocation { location: Some(location(partition, epoch)), handle, worker: 0 }
}

pub(crate) fn address(data: &str) -> v1::WorkerAddress {
    v1::WorkerAddress {
        worker: Some(WORKER.into()),
        name: "fake".to_owned(),
        incarnation: INCARNATION,
        control: data.to_owned(),
        data: data.to_owned(),
        ..Default::default()
    }
}

/// The honest answer to a revive.
pub(crate) fn next_epochs(script: &Script, asked: &[v1::ReviveOne]) -> v1::ReviveReply {
    let revived = |one: &v1::ReviveOne| v1::Revived {
        outcome: v1::revived::Outcome::Revived.into(),
        location: Some(open_location(one.partition, one.epoch + 1)),
    };
    let (workers, partitions) = (script.locate.workers.clone(), asked.iter().map(revived).collect());
    v1::ReviveReply { workers, partitions, ..Default::default() }
}

/// A lifecycle manager of one shuffle (0, of one map) that follows its script.
pub(crate) struct FakeLifecycle {
    pub(crate) address: String,
    pub(crate) script: Arc<Mutex<Script>>,
    calls: watch::Receiver<usize>,
    shutdown: Shutdown,
}

impl Drop for FakeLifecycle {
    fn drop(&mut self) {
        self.shutdown.trigger();
    }
}

impl FakeLifecycle {
    /// Answers honestly for a shuffle of so many partitions at this worker.
    pub(crate) async fn start(partitions: u32, data: &str) -> Self {
        let listener = Listener::bind("127.0.0.1:0").await.unwrap();
        let own = listener.local_addr().unwrap().to_string();
        let workers = vec![address(data)];
        let application = Application { name: "fake".to_owned(), instance: Instance(INSTANCE) };
        let script = Script {
            join: v1::JoinReply {
                cluster: "mallorn".to_owned(),
                application: Some(application.into()),
                body_limit: BODY_BYTES_DEFAULT,
                attempt_lease_ms: 30_000,
                wait_for_return_ms: 0,
                worker_lease_ms: 600,
            },
            start: v1::StartAttemptReply { generation: 0, wire_shuffle: WIRE, partitions },
            locate: v1::LocateReply {
                workers: workers.clone(),
                locations: (0..partitions).map(|partition| open_location(partition, 0)).collect(),
            },
            revive: None,
            end: v1::MapperEndReply { token: 1, won: true },
            plan: v1::PlanReadReply { workers, wire_shuffle: WIRE, ..Default::default() },
            winners: vec![v1::ListWinnersReply::default()],
            resolve: v1::ResolveReply {
                workers: vec![v1::ResolvedLocation {
                    address: Some(address(data)),
                    gone: false,
                    away: false,
                    lost: false,
                }],
            },
            renewed: usize::MAX,
            calls: Vec::new(),
            revives: Vec::new(),
            resolves: Vec::new(),
        };
        let script = Arc::new(Mutex::new(script));
        let shutdown = Shutdown::new();
        let (called, calls) = watch::channel(0);
        let routes = Routes::new(LifecycleServer::new(Service { script: Arc::clone(&script), called }));
        let stop = shutdown.clone();
        task::spawn(async move { grpc::serve(listener, routes, stop).await });
        Self { address: own, script, calls, shutdown }
    }

    /// Waits until it was called so.
    pub(crate) async fn until(&self, name: &str) {
        let mut calls = self.calls.clone();
        calls.wait_for(|_| self.script.lock().count(name) > 0).await.unwrap();
    }

    pub(crate) async fn client(&self, config: ClientConfig) -> ShuffleClient {
        ShuffleClient::connect(&self.address, config, Random::seeded(3), &Registry::new()).await.unwrap()
    }
}

struct Service {
    script: Arc<Mutex<Script>>,
    called: watch::Sender<usize>,
}

type Reply<T> = Result<Response<T>, Status>;

impl Service {
    fn answer<T>(&self, name: &'static str, from: impl FnOnce(&mut Script) -> T) -> Reply<T> {
        let answer = {
            let mut script = self.script.lock();
            script.calls.push(name);
            from(&mut script)
        };
        self.called.send_modify(|calls| *calls += 1);
        Ok(Response::new(answer))
    }
}

#[tonic::async_trait]
impl Lifecycle for Service {
    async fn join(&self, _: Request<v1::JoinRequest>) -> Reply<v1::JoinReply> {
        self.answer("join", |script| script.join.clone())
    }

    async fn register_shuffle(&self, _: Request<v1::RegisterShuffleRequest>) -> Reply<v1::RegisterShuffleReply> {
        self.answer("register", |_| v1::RegisterShuffleReply::default())
    }

    async fn next_generation(&self, _: Request<v1::NextGenerationRequest>) -> Reply<v1::NextGenerationReply> {
        self.answer("next_generation", |_| v1::NextGenerationReply::default())
    }

    async fn release_shuffle(&self, _: Request<v1::ReleaseShuffleRequest>) -> Reply<v1::ReleaseShuffleReply> {
        self.answer("release", |_| v1::ReleaseShuffleReply::default())
    }

    async fn start_attempt(&self, _: Request<v1::StartAttemptRequest>) -> Reply<v1::StartAttemptReply> {
        self.answer("start_attempt", |script| script.start)
    }

    async fn renew_attempts(&self, request: Request<v1::RenewAttemptsRequest>) -> Reply<v1::RenewAttemptsReply> {
        let asked = request.into_inner().attempts.len();
        self.answer("renew", |script| v1::RenewAttemptsReply { alive: vec![true; asked.min(script.renewed)] })
    }

    async fn attempt_failed(&self, _: Request<v1::AttemptFailedRequest>) -> Reply<v1::AttemptFailedReply> {
        self.answer("attempt_failed", |_| v1::AttemptFailedReply::default())
    }

    async fn mapper_end(&self, _: Request<v1::MapperEndRequest>) -> Reply<v1::MapperEndReply> {
        self.answer("mapper_end", |script| script.end)
    }

    async fn locate(&self, _: Request<v1::LocateRequest>) -> Reply<v1::LocateReply> {
        self.answer("locate", |script| script.locate.clone())
    }

    async fn revive(&self, request: Request<v1::ReviveRequest>) -> Reply<v1::ReviveReply> {
        let asked = request.into_inner();
        self.answer("revive", |script| {
            script.revives.push(asked.clone());
            script.revive.clone().unwrap_or_else(|| next_epochs(script, &asked.partitions))
        })
    }

    async fn plan_read(&self, _: Request<v1::PlanReadRequest>) -> Reply<v1::PlanReadReply> {
        self.answer("plan_read", |script| script.plan.clone())
    }

    async fn list_winners(&self, _: Request<v1::ListWinnersRequest>) -> Reply<v1::ListWinnersReply> {
        self.answer("list_winners", |script| {
            if script.winners.len() > 1 { script.winners.remove(0) } else { script.winners[0].clone() }
        })
    }

    async fn resolve(&self, request: Request<v1::ResolveRequest>) -> Reply<v1::ResolveReply> {
        self.answer("resolve", |script| {
            script.resolves.push(request.into_inner());
            script.resolve.clone()
        })
    }
}

/// What came on a data connection.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) kind: Kind,
    pub(crate) header: Vec<u8>,
    pub(crate) body: Vec<u8>,
}

impl Asked {
    /// The number that an answer begins with.
    pub(crate) fn request(&self) -> u64 {
        u64::from_be_bytes(*self.header.first_chunk().unwrap())
    }
}

/// An answer: type, header, body.
pub(crate) type Answer = (u8, Vec<u8>, Vec<u8>);
type Rule = Box<dyn FnMut(&Asked) -> Option<Answer> + Send>;

/// The data port of a worker whose answers a rule makes.
pub(crate) struct FakeWorker {
    pub(crate) address: String,
    /// Everything that came but hellos.
    pub(crate) asked: Arc<Mutex<Vec<Asked>>>,
    shutdown: Shutdown,
}

impl Drop for FakeWorker {
    fn drop(&mut self) {
        self.shutdown.trigger();
    }
}

impl FakeWorker {
    pub(crate) async fn start(rule: impl FnMut(&Asked) -> Option<Answer> + Send + 'static) -> Self {
        let listener = Listener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (asked, shutdown) = (Arc::new(Mutex::new(Vec::new())), Shutdown::new());
        let rule: Arc<Mutex<Rule>> = Arc::new(Mutex::new(Box::new(rule)));
        let (seen, stop) = (Arc::clone(&asked), shutdown.clone());
        task::spawn(async move {
            while let Some(Ok((stream, _))) = stop.or(listener.accept()).await {
                let (rule, seen, stop) = (Arc::clone(&rule), Arc::clone(&seen), stop.clone());
                task::spawn(async move { stop.or(serve(stream, &rule, &seen)).await });
            }
        });
        Self { address, asked, shutdown }
    }

    pub(crate) fn count(&self, kind: Kind) -> usize {
        self.asked.lock().iter().filter(|asked| asked.kind == kind).count()
    }
}

async fn serve(stream: Stream, rule: &Mutex<Rule>, seen: &Mutex<Vec<Asked>>) {
    let (read, write) = stream.split();
    let mut inbound = Inbound::new(read, Pool::new(1 << 20), BODY_BYTES_MAX);
    let mut outbound = Outbound::new(write);
    loop {
        let (head, body_length) = match inbound.buffered().unwrap() {
            None => {
                if !matches!(inbound.fill().await, Ok(true)) {
                    return;
                }
                continue;
            }
            Some(Incoming::Whole { kind, header, body }) => ((kind, header.to_vec(), body.to_vec()), 0),
            Some(Incoming::Large { kind, header, body_length }) => ((kind, header.to_vec(), Vec::new()), body_length),
        };
        let (kind, header, mut body) = head;
        if body_length > 0 {
            body.resize(body_length, 0);
            inbound.body_into(&mut body).await.unwrap();
        }
        let asked = Asked { kind: Kind::from_wire(kind).unwrap(), header, body };
        let answer = if asked.kind == Kind::Hello {
            let welcome = Welcome { version: 1, body_limit: BODY_BYTES_DEFAULT, incarnation: Incarnation(INCARNATION) };
            let mut header = Vec::new();
            welcome.encode(&mut header);
            Some((Kind::Welcome as u8, header, Vec::new()))
        } else {
            seen.lock().push(asked.clone());
            (rule.lock())(&asked)
        };
        if let Some((kind, header, body)) = answer {
            let body = if body.is_empty() { Vec::new() } else { vec![Bytes::from(body)] };
            outbound.push_frame(Frame::new(kind, body, |out| out.extend_from_slice(&header)));
            outbound.flush().await.unwrap();
        }
    }
}

/// The location that a test reads.
pub(crate) fn read_location() -> LocationId {
    location(0, 0).into()
}

/// Settings that give up soon, so that no test waits long for what never comes.
pub(crate) fn hasty() -> ClientConfig {
    ClientConfig {
        codec: mallorn_client::Compression::None,
        no_space_within: mallorn_runtime::config::Span(Duration::from_millis(200)),
        ..ClientConfig::default()
    }
}
