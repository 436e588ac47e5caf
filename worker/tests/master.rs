//! The worker beside a master that the test plays: registration, heartbeats, deletions, and being given up.

mod harness;

use harness::stage::{Stage, config_with, stage};
use harness::{Node, PATIENCE, application, batch, config, location};
use mallorn_proto::message::Role;
use mallorn_proto::status::Status;
use mallorn_proto::v1;
use mallorn_runtime::net::Listener;
use mallorn_runtime::{clock, task};
use mallorn_worker::WorkerConfig;

fn held(shuffles: &[(u32, u32)]) -> Vec<v1::HeldApplication> {
    let shuffles: Vec<_> = shuffles.iter().map(|(first, end)| v1::Range { first: *first, end: *end }).collect();
    vec![v1::HeldApplication { application: Some(application().into()), shuffles }]
}

#[tokio::test]
async fn a_worker_registers_reports_what_it_holds_and_deletes_what_it_is_told() {
    let mut stage = stage().await;
    let node = Node::start(config_with(&stage)).await;
    let registered = stage.registered().await;
    let address = registered.address.unwrap();
    assert_eq!(address.worker, Some(node.running.worker().into()));
    assert_eq!(address.incarnation, node.running.incarnation().0);
    assert_eq!(address.control, node.running.control_address().to_string());
    assert_eq!(address.data, node.running.data_address().to_string());
    assert_eq!(registered.memory.unwrap().arena_bytes, 32 << 20);
    for shuffle in [1, 2, 3, 7] {
        node.reserve(location(shuffle, 0)).await;
    }
    let beat = stage.beat(|beat| !beat.held.is_empty()).await;
    assert_eq!(beat.held, held(&[(1, 4), (7, 8)]));
    assert!(beat.memory.unwrap().held_bytes > 0);
    stage.replies.lock().push_back(v1::HeartbeatReply { released: held(&[(2, 8)]), ..Default::default() });
    let beat = stage.beat(|beat| beat.held != held(&[(1, 4), (7, 8)])).await;
    assert_eq!(beat.held, held(&[(1, 2)]));
    let ended = vec![application().into()];
    stage.replies.lock().push_back(v1::HeartbeatReply { ended, ..Default::default() });
    stage.beat(|beat| beat.held.is_empty()).await;
    node.rests().await;
}

#[tokio::test]
async fn a_worker_that_was_given_up_starts_again_with_a_fresh_incarnation() {
    let mut stage = stage().await;
    let node = Node::start(config_with(&stage)).await;
    let first = stage.registered().await.address.unwrap().incarnation;
    let (mut pusher, id) = (node.open(Role::Push).await, location(1, 0));
    let handle = node.reserve(id).await;
    let one = batch(id, 0, 0, b"acked");
    assert_eq!(pusher.push(handle, &one).await, Status::Success);
    *stage.lost.lock() = Some(first);
    stage.replies.lock().push_back(v1::HeartbeatReply { register_again: true, ..Default::default() });
    assert_eq!(stage.registered().await.address.unwrap().incarnation, first, "it may be only the master that is new");
    let second = stage.registered().await.address.unwrap().incarnation;
    assert_ne!(first, second);
    assert_eq!(node.running.incarnation().0, second);
    assert_eq!(pusher.push(handle, &one).await, Status::HardSplit);
    assert_eq!(node.freeze(id).await, Some(one.len() as u64), "what was acked is still there");
    assert_eq!(node.metric("mallorn_worker_register_again_total", ""), 1.0);
    let beat = stage.beat(|beat| beat.incarnation == second).await;
    assert_eq!(beat.held, held(&[(1, 2)]));
}

#[tokio::test]
async fn a_master_that_restarted_takes_the_worker_as_it_is() {
    let mut stage = stage().await;
    let node = Node::start(config_with(&stage)).await;
    let first = stage.registered().await.address.unwrap().incarnation;
    let (mut pusher, id) = (node.open(Role::Push).await, location(1, 0));
    let handle = node.reserve(id).await;
    stage.replies.lock().push_back(v1::HeartbeatReply { register_again: true, ..Default::default() });
    assert_eq!(stage.registered().await.address.unwrap().incarnation, first);
    stage.beat(|beat| beat.incarnation == first).await;
    assert_eq!(pusher.push(handle, &batch(id, 0, 0, b"goes on")).await, Status::Success);
}

#[tokio::test]
async fn a_worker_works_without_a_master_and_finds_it_when_it_comes() {
    let listener = Listener::bind("127.0.0.1:0").await.unwrap();
    let master = listener.local_addr().unwrap().to_string();
    drop(listener);
    let mut node = Node::start(WorkerConfig { master: master.clone(), ..config() }).await;
    let mut pusher = node.open(Role::Push).await;
    let handle = node.reserve(location(1, 0)).await;
    assert_eq!(pusher.push(handle, &batch(location(1, 0), 0, 0, b"x")).await, Status::Success);
    let mut stage = Stage::set(Listener::bind(&master).await.unwrap()).await;
    stage.registered().await;
    stage.beat(|beat| beat.held == held(&[(1, 2)])).await;
    clock::timeout(PATIENCE, node.running.registered()).await.unwrap();
}

#[tokio::test]
async fn a_worker_that_stops_says_so() {
    let mut stage = stage().await;
    let node = Node::start(config_with(&stage)).await;
    stage.registered().await;
    stage.beat(|beat| !beat.draining).await;
    let stopped = task::spawn(node.running.stop());
    stage.beat(|beat| beat.draining).await;
    clock::timeout(PATIENCE, stopped).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_tells_how_its_disks_stand() {
    let mut stage = stage().await;
    let root = tempfile::tempdir().unwrap();
    let data_folders = vec![root.path().join("a"), root.path().join("b")];
    let _node = Node::start(WorkerConfig { data_folders: data_folders.clone(), ..config_with(&stage) }).await;
    let told = stage.registered().await.disks;
    let beaten = stage.beat(|_| true).await.disks;
    for disks in [told, beaten] {
        let paths: Vec<_> = disks.iter().map(|disk| disk.path.clone()).collect();
        assert_eq!(paths, data_folders.iter().map(|folder| folder.display().to_string()).collect::<Vec<_>>());
        assert!(disks.iter().all(|disk| disk.health() == v1::disk_state::Health::Healthy));
        assert!(disks.iter().all(|disk| disk.capacity_bytes >= disk.free_bytes && disk.free_bytes > 0));
    }
}
