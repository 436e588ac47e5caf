//! A master that the test plays: registration, heartbeats, places.

use std::collections::VecDeque;
use std::sync::Arc;

use mallorn_proto::status::{Status, to_grpc};
use mallorn_proto::v1;
use mallorn_proto::v1::master_server::{Master, MasterServer};
use mallorn_runtime::net::Listener;
use mallorn_runtime::task::{self, Shutdown};
use mallorn_runtime::{clock, grpc};
use mallorn_worker::WorkerConfig;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tonic::{Request, Response};

use super::{PATIENCE, config};

/// What the worker told the master.
#[derive(Debug)]
pub(crate) enum Heard {
    Registered(v1::RegisterWorkerRequest),
    Beat(v1::HeartbeatRequest),
}

/// Answers heartbeats with what the test has put down, and with nothing to say otherwise.
struct Played {
    heard: mpsc::Sender<Heard>,
    replies: Arc<Mutex<VecDeque<v1::HeartbeatReply>>>,
    /// An incarnation that was declared lost, and is not taken any more.
    lost: Arc<Mutex<Option<u64>>>,
    places: Arc<Mutex<Vec<v1::WorkerAddress>>>,
}

impl Played {
    async fn hear(&self, heard: Heard) {
        // A test that is not interested listens no more.
        let _ = self.heard.send(heard).await;
    }
}

#[tonic::async_trait]
impl Master for Played {
    async fn register_worker(
        &self,
        request: Request<v1::RegisterWorkerRequest>,
    ) -> Result<Response<v1::RegisterWorkerReply>, tonic::Status> {
        let request = request.into_inner();
        let incarnation = request.address.as_ref().map(|address| address.incarnation);
        self.hear(Heard::Registered(request)).await;
        if incarnation == *self.lost.lock() {
            return Err(to_grpc(Status::Fenced, "this incarnation was declared lost"));
        }
        Ok(Response::new(v1::RegisterWorkerReply { lease_ms: 10_000, heartbeat_ms: 50 }))
    }

    async fn heartbeat(
        &self,
        request: Request<v1::HeartbeatRequest>,
    ) -> Result<Response<v1::HeartbeatReply>, tonic::Status> {
        self.hear(Heard::Beat(request.into_inner())).await;
        Ok(Response::new(self.replies.lock().pop_front().unwrap_or_default()))
    }

    async fn register_application(
        &self,
        _: Request<v1::RegisterApplicationRequest>,
    ) -> Result<Response<v1::RegisterApplicationReply>, tonic::Status> {
        Err(tonic::Status::unimplemented("not a worker's call"))
    }

    async fn renew_application(
        &self,
        _: Request<v1::RenewApplicationRequest>,
    ) -> Result<Response<v1::RenewApplicationReply>, tonic::Status> {
        Err(tonic::Status::unimplemented("not a worker's call"))
    }

    async fn end_application(
        &self,
        _: Request<v1::EndApplicationRequest>,
    ) -> Result<Response<v1::EndApplicationReply>, tonic::Status> {
        Err(tonic::Status::unimplemented("not a worker's call"))
    }

    async fn place(&self, request: Request<v1::PlaceRequest>) -> Result<Response<v1::PlaceReply>, tonic::Status> {
        let request = request.into_inner();
        let places = self.places.lock();
        let found = places.iter().find(|place| place.worker.is_some_and(|worker| !request.exclude.contains(&worker)));
        let picks = if found.is_some() { vec![0; request.locations as usize] } else { Vec::new() };
        Ok(Response::new(v1::PlaceReply { workers: found.cloned().into_iter().collect(), picks, ..Default::default() }))
    }

    async fn resolve_workers(
        &self,
        _: Request<v1::ResolveWorkersRequest>,
    ) -> Result<Response<v1::ResolveWorkersReply>, tonic::Status> {
        Err(tonic::Status::unimplemented("not a worker's call"))
    }

    async fn resolve_moved(
        &self,
        _: Request<v1::ResolveMovedRequest>,
    ) -> Result<Response<v1::ResolveMovedReply>, tonic::Status> {
        Err(tonic::Status::unimplemented("not heard of in these tests"))
    }

    async fn describe_cluster(
        &self,
        _: Request<v1::DescribeClusterRequest>,
    ) -> Result<Response<v1::DescribeClusterReply>, tonic::Status> {
        Err(tonic::Status::unimplemented("not a worker's call"))
    }
}

pub(crate) struct Stage {
    pub(crate) address: String,
    heard: mpsc::Receiver<Heard>,
    pub(crate) replies: Arc<Mutex<VecDeque<v1::HeartbeatReply>>>,
    pub(crate) lost: Arc<Mutex<Option<u64>>>,
    /// Locations are placed at the first of them that is not excluded.
    pub(crate) places: Arc<Mutex<Vec<v1::WorkerAddress>>>,
}

impl Stage {
    pub(crate) async fn set(listener: Listener) -> Self {
        let address = listener.local_addr().unwrap().to_string();
        let (sender, heard) = mpsc::channel(1);
        let replies = Arc::new(Mutex::new(VecDeque::new()));
        let lost = Arc::new(Mutex::new(None));
        let places = Arc::new(Mutex::new(Vec::new()));
        let (told, fenced, offered) = (Arc::clone(&replies), Arc::clone(&lost), Arc::clone(&places));
        let played = Played { heard: sender, replies: told, lost: fenced, places: offered };
        let routes = tonic::service::Routes::new(MasterServer::new(played));
        task::spawn(async move { grpc::serve(listener, routes, Shutdown::new()).await });
        Self { address, heard, replies, lost, places }
    }

    pub(crate) async fn next(&mut self) -> Heard {
        clock::timeout(PATIENCE, self.heard.recv()).await.expect("the worker calls in time").unwrap()
    }

    pub(crate) async fn registered(&mut self) -> v1::RegisterWorkerRequest {
        loop {
            if let Heard::Registered(request) = self.next().await {
                return request;
            }
        }
    }

    /// The first heartbeat, from now on, of which this is true.
    pub(crate) async fn beat(&mut self, mut wanted: impl FnMut(&v1::HeartbeatRequest) -> bool) -> v1::HeartbeatRequest {
        let beat = async {
            loop {
                if let Heard::Beat(request) = self.next().await
                    && wanted(&request)
                {
                    return request;
                }
            }
        };
        clock::timeout(PATIENCE, beat).await.expect("a heartbeat tells it")
    }
}

pub(crate) async fn stage() -> Stage {
    Stage::set(Listener::bind("127.0.0.1:0").await.unwrap()).await
}

pub(crate) fn config_with(stage: &Stage) -> WorkerConfig {
    WorkerConfig { master: stage.address.clone(), ..config() }
}
