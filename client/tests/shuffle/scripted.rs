//! Workers whose control door answers what a test tells them to, in front of a real master and a real lifecycle manager.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use mallorn_proto::durability::Durability;
use mallorn_proto::id::{LocationId, WorkerId};
use mallorn_proto::limits::BODY_BYTES_DEFAULT;
use mallorn_proto::v1;
use mallorn_proto::v1::master_client::MasterClient;
use mallorn_proto::v1::worker_server::{Worker, WorkerServer};
use mallorn_runtime::net::Listener;
use mallorn_runtime::task::Shutdown;
use mallorn_runtime::{clock, grpc, task};
use parking_lot::Mutex;
use tokio::sync::watch;
use tonic::service::Routes;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use crate::cluster::Cluster;

/// How a worker answers one kind of call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Act {
    /// As it should.
    #[default]
    Honest,
    /// The call fails.
    Fail,
    /// About nothing.
    Empty,
    Unknown,
    Moved,
    /// No disk takes it.
    NoDisk,
}

/// What a worker answers, and what it was asked.
#[derive(Debug, Default)]
pub(crate) struct Script {
    pub(crate) reserve: Act,
    pub(crate) freeze: Act,
    pub(crate) seal: Act,
    /// What it holds of each location.
    pub(crate) length: u64,
    pub(crate) reserves: Vec<v1::ReserveRequest>,
    pub(crate) freezes: usize,
    pub(crate) frozen: Vec<LocationId>,
    /// What it was asked to seal, whatever it answered, with the durability asked for.
    pub(crate) offered: Vec<(LocationId, u64, u64, Durability)>,
    /// What it has sealed.
    pub(crate) sealed: BTreeMap<LocationId, (u64, u64)>,
    pub(crate) taken_over: Vec<v1::TakenOver>,
}

pub(crate) struct ScriptedWorker {
    pub(crate) id: WorkerId,
    pub(crate) script: Arc<Mutex<Script>>,
    calls: watch::Receiver<usize>,
    shutdown: Shutdown,
}

impl Drop for ScriptedWorker {
    fn drop(&mut self) {
        self.shutdown.trigger();
    }
}

impl ScriptedWorker {
    /// Registers at the cluster's master, with a healthy disk, and says from then on that it is there.
    pub(crate) async fn start(cluster: &Cluster, id: u128, length: u64) -> Self {
        let listener = Listener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (script, shutdown) = (Arc::new(Mutex::new(Script { length, ..Script::default() })), Shutdown::new());
        let (called, calls) = watch::channel(0);
        let routes = Routes::new(WorkerServer::new(Door { script: Arc::clone(&script), called }));
        let stop = shutdown.clone();
        task::spawn(async move { grpc::serve(listener, routes, stop).await });
        let master = grpc::channel(&cluster.master.control_address().to_string(), Duration::from_secs(5)).unwrap();
        let mut master = MasterClient::new(master);
        master.register_worker(registration(id, &address)).await.unwrap();
        let (beat, stop) = (beat(master, id, Arc::clone(&script)), shutdown.clone());
        task::spawn(async move { stop.or(beat).await });
        Self { id: WorkerId(id), script, calls, shutdown }
    }

    /// Waits until what it was asked is like this.
    pub(crate) async fn until(&self, is_so: impl Fn(&Script) -> bool) {
        let mut calls = self.calls.clone();
        calls.wait_for(|_| is_so(&self.script.lock())).await.unwrap();
    }
}

pub(crate) fn registration(id: u128, address: &str) -> v1::RegisterWorkerRequest {
    v1::RegisterWorkerRequest {
        cluster: "mallorn".to_owned(),
        address: Some(v1::WorkerAddress {
            worker: Some(WorkerId(id).into()),
            name: format!("scripted-{id}"),
            incarnation: 1,
            control: address.to_owned(),
            data: address.to_owned(),
            ..Default::default()
        }),
        memory: Some(memory()),
        disks: disks(),
        draining: false,
        body_limit: BODY_BYTES_DEFAULT,
    }
}

fn memory() -> v1::MemoryState {
    v1::MemoryState { arena_bytes: 1 << 30, held_bytes: 0, push_free_bytes: 1 << 30 }
}

fn disks() -> Vec<v1::DiskState> {
    let health = v1::disk_state::Health::Healthy.into();
    vec![v1::DiskState { path: "/data".to_owned(), health, capacity_bytes: 1 << 40, free_bytes: 1 << 40 }]
}

async fn beat(mut master: MasterClient<Channel>, id: u128, script: Arc<Mutex<Script>>) {
    loop {
        let request = v1::HeartbeatRequest {
            cluster: "mallorn".to_owned(),
            worker: Some(WorkerId(id).into()),
            incarnation: 1,
            memory: Some(memory()),
            disks: disks(),
            taken_over: script.lock().taken_over.clone(),
            ..Default::default()
        };
        drop(master.heartbeat(request).await);
        clock::sleep(Duration::from_millis(100)).await;
    }
}

struct Door {
    script: Arc<Mutex<Script>>,
    called: watch::Sender<usize>,
}

type Reply<T> = Result<Response<T>, Status>;

impl Door {
    fn answer<T: Default>(&self, act: Act, honest: impl FnOnce(&mut Script) -> T) -> Reply<T> {
        let answer = honest(&mut self.script.lock());
        self.called.send_modify(|calls| *calls += 1);
        match act {
            Act::Fail => Err(Status::unavailable("it does not answer")),
            Act::Empty => Ok(Response::new(T::default())),
            Act::Honest | Act::Unknown | Act::Moved | Act::NoDisk => Ok(Response::new(answer)),
        }
    }
}

#[tonic::async_trait]
impl Worker for Door {
    async fn reserve(&self, request: Request<v1::ReserveRequest>) -> Reply<v1::ReserveReply> {
        use v1::reserved::Outcome;
        let (request, act) = (request.into_inner(), self.script.lock().reserve);
        self.answer(act, |script| {
            let outcome = if act == Act::NoDisk { Outcome::NoDisk } else { Outcome::Reserved };
            let one = |location: &v1::LocationId| v1::Reserved {
                outcome: outcome.into(),
                handle: u64::from(location.partition * 100 + location.epoch + 1),
            };
            let locations = request.locations.iter().map(one).collect();
            script.reserves.push(request);
            v1::ReserveReply { locations, memory: Some(memory()) }
        })
    }

    async fn freeze(&self, request: Request<v1::FreezeRequest>) -> Reply<v1::FreezeReply> {
        let (request, act) = (request.into_inner(), self.script.lock().freeze);
        self.answer(act, |script| {
            script.freezes += 1;
            script.frozen.extend(request.locations.iter().copied().map(LocationId::from));
            let (unknown, moved) = (act == Act::Unknown, act == Act::Moved);
            let one = v1::Frozen { unknown, moved, acked_length: script.length };
            v1::FreezeReply { locations: vec![one; request.locations.len()] }
        })
    }

    async fn seal(&self, request: Request<v1::SealRequest>) -> Reply<v1::SealReply> {
        use v1::sealed::Outcome;
        let (request, act) = (request.into_inner(), self.script.lock().seal);
        self.answer(act, |script| {
            let durability = Durability::from_wire(request.durability);
            let mut one = |one: &v1::SealOne| {
                let location = LocationId::from(one.location.unwrap());
                script.offered.push((location, one.seal, one.length, durability));
                let outcome = match act {
                    Act::Honest => {
                        let pair = *script.sealed.entry(location).or_insert((one.seal, one.length));
                        assert_eq!(pair, (one.seal, one.length), "one location is sealed under two pairs");
                        Outcome::Sealed
                    }
                    Act::NoDisk => Outcome::NotDurable,
                    Act::Moved => Outcome::Moved,
                    Act::Unknown | Act::Fail | Act::Empty => Outcome::Unknown,
                };
                v1::Sealed { outcome: outcome.into(), batches: 0 }
            };
            v1::SealReply { locations: request.locations.iter().map(&mut one).collect() }
        })
    }

    async fn release(&self, _: Request<v1::ReleaseRequest>) -> Reply<v1::ReleaseReply> {
        Ok(Response::new(v1::ReleaseReply::default()))
    }

    async fn settle(&self, _: Request<v1::SettleRequest>) -> Reply<v1::SettleReply> {
        Ok(Response::new(v1::SettleReply::default()))
    }

    async fn drain(&self, _: Request<v1::DrainRequest>) -> Reply<v1::DrainReply> {
        Ok(Response::new(v1::DrainReply::default()))
    }

    async fn describe(&self, _: Request<v1::DescribeRequest>) -> Reply<v1::DescribeReply> {
        Ok(Response::new(v1::DescribeReply::default()))
    }
}
