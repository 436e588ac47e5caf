//! The master over real sockets: that calls reach the rules and answers come back. The rules themselves are tested in
//! `mallorn-master-core`.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use mallorn_master::{Config, MasterSettings, Running, StartError};
use mallorn_proto::id::{Application, Instance, WorkerId};
use mallorn_proto::status::{Status, from_grpc};
use mallorn_proto::v1;
use mallorn_proto::v1::master_client::MasterClient;
use mallorn_proto::v1::resolved_worker::State;
use mallorn_runtime::config::Span;
use mallorn_runtime::net::Stream;
use mallorn_runtime::task::Shutdown;
use mallorn_runtime::{clock, grpc, telemetry};
use prometheus::Registry;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tonic::transport::Channel;

const WITHIN: Duration = Duration::from_secs(20);
const CLUSTER: &str = "mallorn";

struct Started {
    running: Running,
    registry: Registry,
    client: MasterClient<Channel>,
}

async fn start(config: Config) -> Started {
    let registry = Registry::new();
    let running = mallorn_master::start(config, &registry, Shutdown::new()).await.expect("start on free ports");
    let channel = grpc::channel(&running.control_address().to_string(), WITHIN).expect("an address");
    Started { running, registry, client: MasterClient::new(channel) }
}

/// Leases so short that a test can wait for their end.
fn short_leases() -> Config {
    let (worker_lease, application_lease) = (Span::millis(200), Span::millis(200));
    let master = MasterSettings { worker_lease, application_lease, ..Config::loopback().master };
    Config { master, ..Config::loopback() }
}

fn cluster() -> String {
    CLUSTER.to_owned()
}

fn app(name: &str, instance: u64) -> Option<v1::Application> {
    Some(Application { name: name.to_owned(), instance: Instance(instance) }.into())
}

fn registration(id: u128, incarnation: u64) -> v1::RegisterWorkerRequest {
    let address = v1::WorkerAddress {
        worker: Some(WorkerId(id).into()),
        name: format!("w{id}"),
        incarnation,
        control: format!("10.0.0.{id}:9097"),
        data: format!("10.0.0.{id}:9098"),
        ..Default::default()
    };
    v1::RegisterWorkerRequest {
        cluster: cluster(),
        address: Some(address),
        memory: Some(memory()),
        disks: Vec::new(),
        draining: false,
        body_limit: Config::loopback().body_limit_bytes,
    }
}

fn memory() -> v1::MemoryState {
    v1::MemoryState { arena_bytes: 1 << 30, held_bytes: 1 << 20, push_free_bytes: 1 << 29 }
}

fn heartbeat(id: u128, incarnation: u64, held: Option<v1::Application>) -> v1::HeartbeatRequest {
    let shuffles = vec![v1::Range { first: 0, end: 10 }];
    let held = held.map(|application| v1::HeldApplication { application: Some(application), shuffles });
    v1::HeartbeatRequest {
        cluster: cluster(),
        worker: Some(WorkerId(id).into()),
        incarnation,
        memory: Some(memory()),
        disks: Vec::new(),
        draining: false,
        held: held.into_iter().collect(),
        ..Default::default()
    }
}

fn place(application: Option<v1::Application>, locations: u32) -> v1::PlaceRequest {
    v1::PlaceRequest { cluster: cluster(), application, locations, exclude: Vec::new(), ..Default::default() }
}

/// What the admin port answers to a GET.
async fn get(address: SocketAddr, path: &str) -> String {
    let mut stream = Stream::connect(&address.to_string(), WITHIN).await.expect("connect to the admin port");
    let request = format!("GET {path} HTTP/1.1\r\nHost: master\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("send a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("read the answer");
    answer
}

#[tokio::test]
async fn workers_register_and_are_given_locations() {
    let Started { running, registry, mut client } = start(Config::loopback()).await;
    for id in 1..=3 {
        let reply = client.register_worker(registration(id, 7)).await.unwrap().into_inner();
        assert_eq!((reply.lease_ms, reply.heartbeat_ms), (10_000, 3_333));
        assert!(!client.heartbeat(heartbeat(id, 7, None)).await.unwrap().into_inner().register_again);
    }
    assert!(client.heartbeat(heartbeat(1, 8, None)).await.unwrap().into_inner().register_again);
    let request = v1::RegisterApplicationRequest { cluster: cluster(), application: app("etl", 1) };
    let reply = client.register_application(request).await.unwrap().into_inner();
    assert_eq!((reply.lease_ms, reply.worker_lease_ms), (60_000, 10_000));
    assert_eq!(reply.body_limit, Config::loopback().body_limit_bytes);

    let mut placed = client.place(place(app("etl", 1), 6)).await.unwrap().into_inner();
    placed.picks.sort_unstable();
    assert_eq!(placed.picks, [0, 0, 1, 1, 2, 2]);
    assert_eq!((placed.arena_bytes, placed.held_bytes), (3 << 30, 3 << 20));
    assert!(placed.workers.contains(&registration(2, 7).address.unwrap()));

    let resolve = |ids: &[u128]| v1::ResolveWorkersRequest {
        cluster: cluster(),
        workers: ids.iter().map(|id| WorkerId(*id).into()).collect(),
    };
    let resolved = client.resolve_workers(resolve(&[9, 2])).await.unwrap().into_inner().workers;
    assert_eq!([resolved[0].state(), resolved[1].state()], [State::Unknown, State::Live]);
    assert_eq!(resolved[1].address, registration(2, 7).address);
    let described =
        client.describe_cluster(v1::DescribeClusterRequest { cluster: cluster() }).await.unwrap().into_inner();
    assert_eq!((described.workers.len(), described.applications), (3, 1));

    let text = telemetry::encode(&registry).unwrap();
    for line in [
        "mallorn_master_requests_total{op=\"register_worker\",result=\"ok\"} 3",
        "mallorn_master_heartbeats_total{result=\"register_again\"} 1",
        "mallorn_master_placed_locations_total 6",
    ] {
        assert!(text.contains(line), "{line} is missing in\n{text}");
    }
    running.stop().await;
}

#[tokio::test]
async fn two_copies_stand_apart_and_what_is_missing_is_counted() {
    let Started { running, mut client, .. } = start(Config::loopback()).await;
    let two = |on_disk| v1::PlaceRequest { copies: 2, on_disk, ..place(app("etl", 1), 4) };
    for (id, rack) in [(1, "a"), (2, "a"), (3, "b")] {
        let mut request = registration(id, 7);
        request.address.as_mut().unwrap().rack = rack.to_owned();
        client.register_worker(request).await.unwrap();
        let placed = client.place(two(false)).await.unwrap().into_inner();
        assert_eq!((placed.candidates as u128, placed.picks.len()), (id, if id > 1 { 4 } else { 0 }));
        let racks = placed.picks.iter().zip(&placed.replicas).map(|(primary, replica)| {
            let rack = |index: u32| placed.workers[index as usize].rack.as_str();
            (rack(*primary) != rack(*replica), primary != replica)
        });
        assert!(racks.eq(vec![(id == 3, true); placed.picks.len()]));
    }
    let placed = client.place(two(true)).await.unwrap().into_inner();
    assert_eq!((placed.picks.len(), placed.candidates, placed.without_disk), (0, 0, 3));
    running.stop().await;
}

#[tokio::test]
async fn what_a_worker_took_over_is_found_there_until_it_registers_anew() {
    let Started { running, mut client, .. } = start(Config::loopback()).await;
    for id in [1, 2] {
        client.register_worker(registration(id, 7)).await.unwrap();
    }
    let location = |partition| v1::LocationId { shuffle: 0, partition, epoch: 0 };
    let taken = v1::TakenOver {
        application: app("etl", 1),
        from: Some(WorkerId(1).into()),
        locations: vec![location(0), location(1)],
    };
    let taken_over = vec![taken];
    let beat = v1::HeartbeatRequest { taken_over, ..heartbeat(2, 7, None) };
    client.heartbeat(beat.clone()).await.unwrap();
    let moved = v1::ResolveMovedRequest {
        cluster: cluster(),
        application: app("etl", 1),
        from: Some(WorkerId(1).into()),
        locations: vec![location(1), location(2), location(0)],
    };
    let found = client.resolve_moved(moved.clone()).await.unwrap().into_inner();
    assert_eq!(found.taken_by, [1, 0, 1]);
    assert_eq!(found.workers, [registration(2, 7).address.unwrap()]);
    client.register_worker(registration(2, 8)).await.unwrap();
    assert_eq!(client.resolve_moved(moved.clone()).await.unwrap().into_inner().taken_by, [0; 3]);
    client.heartbeat(v1::HeartbeatRequest { incarnation: 8, ..beat }).await.unwrap();
    assert_eq!(client.resolve_moved(moved).await.unwrap().into_inner().taken_by, [1, 0, 1]);
    running.stop().await;
}

#[tokio::test]
async fn another_cluster_or_body_limit_is_refused() {
    let Started { running, mut client, .. } = start(Config::loopback()).await;
    let stranger = v1::RegisterWorkerRequest { cluster: "green".to_owned(), ..registration(1, 7) };
    let error = client.register_worker(stranger).await.unwrap_err();
    assert_eq!(from_grpc(&error), Status::WrongCluster);
    assert!(error.message().contains("`mallorn`") && error.message().contains("`green`"), "{}", error.message());
    let elsewhere = v1::PlaceRequest { cluster: "green".to_owned(), ..place(app("etl", 1), 1) };
    assert_eq!(from_grpc(&client.place(elsewhere).await.unwrap_err()), Status::WrongCluster);

    let larger = v1::RegisterWorkerRequest { body_limit: 77, ..registration(1, 7) };
    let error = client.register_worker(larger).await.unwrap_err();
    assert_eq!(from_grpc(&error), Status::Malformed);
    assert!(error.message().contains("77"), "{}", error.message());
    let described =
        client.describe_cluster(v1::DescribeClusterRequest { cluster: cluster() }).await.unwrap().into_inner();
    assert_eq!((described.workers.len(), described.applications), (0, 0), "nothing was disturbed");
    running.stop().await;
}

#[tokio::test]
async fn of_two_instances_the_newer_is_served() {
    let Started { running, mut client, .. } = start(Config::loopback()).await;
    client.register_worker(registration(1, 7)).await.unwrap();
    let register = |instance| v1::RegisterApplicationRequest { cluster: cluster(), application: app("etl", instance) };
    let renew = |instance| v1::RenewApplicationRequest {
        cluster: cluster(),
        application: app("etl", instance),
        released: Vec::new(),
    };
    client.register_application(register(9)).await.unwrap();
    client.register_application(register(3)).await.unwrap();
    for error in [
        client.register_application(register(9)).await.unwrap_err(),
        client.renew_application(renew(9)).await.unwrap_err(),
        client.place(place(app("etl", 9), 1)).await.unwrap_err(),
    ] {
        assert_eq!(from_grpc(&error), Status::Fenced, "{}", error.message());
    }
    client.renew_application(renew(3)).await.unwrap();
    assert_eq!(client.place(place(app("etl", 3), 1)).await.unwrap().into_inner().picks, [0]);
    running.stop().await;
}

#[tokio::test]
async fn what_is_silent_is_lost_or_ended() {
    let Started { running, mut client, .. } = start(short_leases()).await;
    client.register_worker(registration(1, 7)).await.unwrap();
    client.register_worker(registration(2, 7)).await.unwrap();
    let request = v1::RegisterApplicationRequest { cluster: cluster(), application: app("etl", 1) };
    client.register_application(request).await.unwrap();
    let mut incarnation = 7;
    let until_ended = async {
        loop {
            let reply = client.heartbeat(heartbeat(1, incarnation, app("etl", 1))).await.unwrap().into_inner();
            if !reply.ended.is_empty() {
                break;
            }
            if reply.register_again {
                incarnation += 1;
                client.register_worker(registration(1, incarnation)).await.unwrap();
            }
        }
        let resolve = || v1::ResolveWorkersRequest { cluster: cluster(), workers: vec![WorkerId(2).into()] };
        while client.resolve_workers(resolve()).await.unwrap().into_inner().workers[0].state() != State::Lost {}
    };
    clock::timeout(WITHIN, until_ended).await.expect("leases of 200 ms end");
    assert!(client.heartbeat(heartbeat(2, 7, None)).await.unwrap().into_inner().register_again);
    assert_eq!(from_grpc(&client.register_worker(registration(2, 7)).await.unwrap_err()), Status::Fenced);
    client.register_worker(registration(2, 8)).await.unwrap();
    running.stop().await;
}

#[tokio::test]
async fn garbage_and_oversized_messages_disturb_nobody() {
    let Started { running, mut client, .. } = start(Config::loopback()).await;
    let mut stream = Stream::connect(&running.control_address().to_string(), WITHIN).await.unwrap();
    stream.write_all(&[0xff; 4096]).await.unwrap();
    let mut answer = Vec::new();
    let closed = clock::timeout(WITHIN, stream.read_to_end(&mut answer)).await;
    assert!(closed.is_ok(), "a connection that speaks garbage is closed");

    let many = vec![v1::Range { first: 1, end: 2 }; 1 << 20];
    let request = v1::RenewApplicationRequest { cluster: cluster(), application: app("etl", 1), released: many };
    assert_eq!(from_grpc(&client.renew_application(request).await.unwrap_err()), Status::Malformed);
    client.register_worker(registration(1, 7)).await.unwrap();
    running.stop().await;
}

#[tokio::test]
async fn the_admin_port_shows_probes_and_metrics_until_the_master_stops() {
    let loopback = Config::loopback();
    let admin = Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
    let config = Config { master: MasterSettings { admin, ..loopback.master.clone() }, ..loopback };
    let Started { running, mut client, .. } = start(config).await;
    let (control, admin) = (running.control_address(), running.admin_address().unwrap());
    client.register_worker(registration(1, 7)).await.unwrap();
    assert!(get(admin, "/readyz").await.starts_with("HTTP/1.1 200"));
    assert!(get(admin, "/metrics").await.contains("mallorn_master_requests_total{op=\"register_worker\""));
    running.stop().await;
    for address in [control, admin] {
        assert!(Stream::connect(&address.to_string(), WITHIN).await.is_err());
    }
}

#[tokio::test]
async fn a_port_in_use_and_a_registry_in_use_are_named() {
    let Started { running, registry, .. } = start(Config::loopback()).await;
    let mut config = Config::loopback();
    config.master.listen = running.control_address();
    let error = mallorn_master::start(config, &Registry::new(), Shutdown::new()).await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains(&running.control_address().to_string()) && text.contains("master.listen"), "{text}");
    let error = mallorn_master::start(Config::loopback(), &registry, Shutdown::new()).await.unwrap_err();
    assert!(matches!(error, StartError::Metrics(_)), "{error}");
    running.stop().await;
}
