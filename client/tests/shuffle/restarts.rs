//! Lifecycle managers that are started again, generations that start while somebody waits, workers that answer a commit
//! badly.

use std::sync::Arc;
use std::time::Duration;

use mallorn_client::{ClientConfig, LifecycleConfig, LifecycleManager, PushError, ReadError, ReadRequest, Reason};
use mallorn_client::{ShuffleClient, StartError};
use mallorn_proto::limits::BODY_BYTES_DEFAULT;
use mallorn_proto::v1;
use mallorn_proto::v1::master_client::MasterClient;
use mallorn_proto::v1::worker_server::{Worker, WorkerServer};
use mallorn_runtime::clock;
use mallorn_runtime::config::ByteSize;
use mallorn_runtime::net::Listener;
use mallorn_runtime::task::Shutdown;
use mallorn_runtime::{grpc, task};
use parking_lot::Mutex;
use prometheus::Registry;
use tonic::service::Routes;
use tonic::{Request, Response, Status};

use crate::cluster::Cluster;
use crate::fakes::{INCARNATION, WORKER};
use crate::{expected, push_all, read_all, run_map, units};

/// Starts a lifecycle manager where another one has just been dropped.
async fn again(cluster: &Cluster, application: &str, address: &str) -> LifecycleManager {
    loop {
        let config = LifecycleConfig { listen: address.to_owned(), ..cluster.lifecycle_config() };
        match LifecycleManager::start(application, config, cluster.random.clone()).await {
            Ok(driver) => return driver,
            // The tasks of the former one have not ended yet.
            Err(StartError::Listen(_)) => tokio::task::yield_now().await,
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test]
async fn a_lifecycle_manager_started_again_at_its_address_fences_its_former_clients() {
    let cluster = Cluster::start(2, ByteSize::mib(64)).await;
    let driver = cluster.driver("again").await;
    let address = driver.address().to_owned();
    let registry = Registry::new();
    let connect = || ShuffleClient::connect(&address, ClientConfig::default(), cluster.random.clone(), &registry);
    let former = connect().await.unwrap();
    driver.register(0, 2, Some(1)).await.unwrap();
    driver.register(1, 2, Some(1)).await.unwrap();
    run_map(&former, 0, 0, 0, &units(0, 100_000, 2)).await;
    let mut reader = former.read(ReadRequest::new(0, 0..2)).await.unwrap();
    assert!(reader.next().await.unwrap().is_some());
    let mut attempt = former.start_attempt(1, 0, 0).await.unwrap();
    push_all(&mut attempt, &units(0, 500, 2)).await;

    drop(driver);
    let driver = again(&cluster, "again", &address).await;
    driver.register(1, 2, Some(1)).await.unwrap();
    let error = attempt.mapper_end().await.unwrap_err();
    assert!(matches!(&error, PushError::Lifecycle(error) if error.reason() == Some(Reason::Fenced)), "{error}");
    assert!(!error.is_overtaken());
    assert_eq!(former.start_attempt(1, 0, 1).await.unwrap_err().reason(), Some(Reason::Fenced));
    assert_eq!(former.register(2, 1, None).await.unwrap_err().reason(), Some(Reason::Fenced));
    // To read again would help nobody, so it is not `Revoked`.
    let error = former.read(ReadRequest::new(1, 0..2)).await.unwrap_err();
    assert!(matches!(&error, ReadError::Lifecycle(error) if error.reason() == Some(Reason::Fenced)), "{error}");
    drop((attempt, reader, former));

    let client = connect().await.unwrap();
    let all = units(0, 300, 2);
    run_map(&client, 1, 0, 0, &all).await;
    assert_eq!(read_all(&client, ReadRequest::new(1, 0..2)).await.unwrap(), expected(&all));
    let error = client.start_attempt(0, 0, 0).await.unwrap_err();
    assert_eq!(error.reason(), Some(Reason::Unknown), "it remembers nothing");
}

#[tokio::test]
async fn a_reader_that_waits_for_a_stage_goes_on_in_the_next_generation() {
    let cluster = Cluster::start(1, ByteSize::mib(64)).await;
    let driver = cluster.driver("waits").await;
    let client = cluster.client(&driver).await;
    let generation = driver.register(0, 2, Some(1)).await.unwrap();
    let mut read = std::pin::pin!(read_all(&client, ReadRequest::new(0, 0..2)));
    assert!(clock::timeout(Duration::from_millis(300), read.as_mut()).await.is_err(), "the stage has not ended");
    driver.next_generation(0, generation).await.unwrap();
    let all = units(0, 300, 2);
    let (read, ()) = tokio::join!(read, run_map(&client, 0, 0, 0, &all));
    assert_eq!(read.unwrap(), expected(&all));
}

/// A worker whose answers to a freeze are about nothing.
struct Forgetful {
    freezes: Arc<Mutex<usize>>,
}

#[tonic::async_trait]
impl Worker for Forgetful {
    async fn reserve(&self, request: Request<v1::ReserveRequest>) -> Result<Response<v1::ReserveReply>, Status> {
        let reserved = v1::Reserved { outcome: v1::reserved::Outcome::Reserved.into(), handle: 1 };
        let locations = vec![reserved; request.into_inner().locations.len()];
        Ok(Response::new(v1::ReserveReply { locations, memory: None }))
    }

    async fn freeze(&self, _: Request<v1::FreezeRequest>) -> Result<Response<v1::FreezeReply>, Status> {
        *self.freezes.lock() += 1;
        Ok(Response::new(v1::FreezeReply::default()))
    }

    async fn seal(&self, _: Request<v1::SealRequest>) -> Result<Response<v1::SealReply>, Status> {
        Ok(Response::new(v1::SealReply::default()))
    }

    async fn release(&self, _: Request<v1::ReleaseRequest>) -> Result<Response<v1::ReleaseReply>, Status> {
        Ok(Response::new(v1::ReleaseReply::default()))
    }

    async fn settle(&self, _: Request<v1::SettleRequest>) -> Result<Response<v1::SettleReply>, Status> {
        Ok(Response::new(v1::SettleReply::default()))
    }

    async fn drain(&self, _: Request<v1::DrainRequest>) -> Result<Response<v1::DrainReply>, Status> {
        Ok(Response::new(v1::DrainReply::default()))
    }

    async fn describe(&self, _: Request<v1::DescribeRequest>) -> Result<Response<v1::DescribeReply>, Status> {
        Ok(Response::new(v1::DescribeReply::default()))
    }
}

#[tokio::test]
async fn a_worker_that_answers_a_commit_with_nothing_is_given_up_in_the_end() {
    let cluster = Cluster::start(0, ByteSize::mib(64)).await;
    let listener = Listener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (freezes, stop) = (Arc::new(Mutex::new(0)), Shutdown::new());
    let routes = Routes::new(WorkerServer::new(Forgetful { freezes: Arc::clone(&freezes) }));
    let served = stop.clone();
    task::spawn(async move { grpc::serve(listener, routes, served).await });
    let master = cluster.master.control_address().to_string();
    let mut master = MasterClient::new(grpc::channel(&master, Duration::from_secs(5)).unwrap());
    let register = v1::RegisterWorkerRequest {
        cluster: "mallorn".to_owned(),
        address: Some(v1::WorkerAddress {
            worker: Some(WORKER.into()),
            name: "forgetful".to_owned(),
            incarnation: INCARNATION,
            control: address.clone(),
            data: address,
            ..Default::default()
        }),
        memory: Some(v1::MemoryState { arena_bytes: 1 << 30, held_bytes: 0, push_free_bytes: 1 << 30 }),
        disks: Vec::new(),
        draining: false,
        body_limit: BODY_BYTES_DEFAULT,
    };
    master.register_worker(register).await.unwrap();

    let driver = cluster.driver("forgetful").await;
    let client = cluster.client(&driver).await;
    let generation = driver.register(0, 1, Some(1)).await.unwrap();
    client.start_attempt(0, 0, 0).await.unwrap().mapper_end().await.unwrap();
    // It is not heard of by the master either, and so it is lost when its lease is over.
    let end = driver.stage_end(0, generation).await.unwrap();
    assert_eq!(end.lost_partitions, 1);
    assert!(*freezes.lock() < 100);
    stop.trigger();
}
