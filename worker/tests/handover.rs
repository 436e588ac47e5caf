//! A worker that leaves hands over what it holds: to real workers, placed by a master that the test plays.

#![expect(clippy::unwrap_used, reason = "a failure here fails the test")]

mod harness;

use std::path::{Path, PathBuf};

use harness::replica::{Scripted, forward, nobody, read, reserve_both};
use harness::stage::{Stage, config_with, stage};
use harness::{LEAVES, Node, PATIENCE, SEAL, application, batch, location};
use mallorn_proto::durability::Durability;
use mallorn_proto::id::{Handle, Incarnation, LocationId, SealId};
use mallorn_proto::message::{Hello, Kind, Role, Welcome};
use mallorn_proto::status::Status;
use mallorn_proto::v1;
use mallorn_proto::v1::reserve_request::Copy;
use mallorn_proto::v1::reserved::Outcome as Reserved;
use mallorn_proto::v1::sealed::Outcome as Sealed;
use mallorn_runtime::clock;
use mallorn_runtime::config::ByteSize;
use mallorn_runtime::net::Listener;
use mallorn_worker::{FolderError, StartError, WorkerConfig};

const ALL: (u32, u32) = (0, u32::MAX);

/// Starts a worker on a folder once the one before it has let go of it.
async fn start(stage: &Stage, folder: &Path, seed: u64) -> Node {
    let config =
        WorkerConfig { memory: Some(ByteSize::mib(16)), data_folders: vec![folder.to_owned()], ..config_with(stage) };
    let started = async {
        loop {
            match Node::try_start(config.clone(), seed).await {
                Err(StartError::Folder(FolderError::InUse { .. })) => tokio::task::yield_now().await,
                started => return started.unwrap(),
            }
        }
    };
    let mut node = clock::timeout(PATIENCE, started).await.expect("the folder is let go");
    node.durability = Durability::Written;
    node
}

/// Pushes `count` batches of different lengths, a larger one than fits a frame of several among them; returns their bytes.
async fn push_many(node: &Node, id: LocationId, count: u32) -> Vec<u8> {
    let (mut pusher, handle, mut all) = (node.open(Role::Push).await, node.reserve(id).await, Vec::new());
    for number in 0..count {
        let length = if number == 1 { 400_000 } else { 20_000 + 1000 * (number % 30) };
        let payload: Vec<u8> =
            (0..length).map(|at: u32| (at.wrapping_mul(31) ^ number.wrapping_mul(97)) as u8).collect();
        let bytes = batch(id, number % 5, number, &payload);
        assert_eq!(pusher.push(handle, &bytes).await, Status::Success);
        all.extend(bytes);
    }
    all
}

/// A location at a primary whose replica confirms the first of two batches; returns the bytes of both.
async fn push_half_confirmed(node: &Node, replica: &Scripted, id: LocationId) -> (u64, Vec<u8>) {
    let handle = replica.reserve(node, id).await;
    let mut pusher = node.open(Role::Push).await;
    let batches = [batch(id, 0, 0, b"acked"), batch(id, 0, 1, b"held")];
    pusher.send_push(1, handle, &batches[0]).await;
    let mut link = replica.accept().await;
    let frame = link.frame().await;
    link.answer(&frame, Status::Success).await;
    assert_eq!(pusher.reply(1).await, [Status::Success]);
    pusher.send_push(2, handle, &batches[1]).await;
    link.frame().await;
    assert_eq!(node.freeze(id).await, Some(batches[0].len() as u64));
    (batches[0].len() as u64, batches.concat())
}

async fn assert_moved(source: &Node, id: LocationId) {
    assert!(source.frozen(id).await.moved, "{id}");
    assert_eq!(source.seal(id, SEAL, 0).await.outcome(), Sealed::Moved);
    let refused = source.open(Role::Fetch).await.open_stream(id, ALL).await.unwrap_err();
    assert_eq!(refused.status, Status::NotHere);
}

async fn assert_taken(stage: &mut Stage, target: &Node, from: &Node, ids: &[LocationId]) {
    let (worker, from) = (Some(target.running.worker().into()), Some(from.running.worker().into()));
    let mut missing: Vec<v1::LocationId> = ids.iter().map(|id| (*id).into()).collect();
    stage
        .beat(|beat| {
            for taken in beat.taken_over.iter().filter(|taken| beat.worker == worker && taken.from == from) {
                assert_eq!(taken.application, Some(application().into()));
                missing.retain(|id| !taken.locations.contains(id));
            }
            missing.is_empty()
        })
        .await;
}

fn folders(root: &Path) -> (PathBuf, PathBuf) {
    (root.join("source"), root.join("target"))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_sealed_or_frozen_moves_and_is_the_same_at_the_other_worker_also_after_restarts() {
    let (root, mut stage) = (tempfile::tempdir().unwrap(), stage().await);
    let (here, there) = folders(root.path());
    let source = start(&stage, &here, 1).await;
    stage.registered().await;
    let target = start(&stage, &there, 2).await;
    stage.registered().await;
    stage.places.lock().push(target.address());
    let ids = [location(1, 0), location(1, 1), location(2, 0), location(2, 1)];
    let [small, large, frozen, open] = ids;
    let bytes = [push_many(&source, small, 3).await, push_many(&source, large, 500).await];
    source.commit(small).await;
    source.commit(large).await;
    let (acked, held) = push_half_confirmed(&source, &Scripted::start().await, frozen).await;
    let pushed = push_many(&source, open, 2).await;

    let drained = source.drained(true).await;
    let all = bytes.concat().len() + held.len() + pushed.len();
    assert_eq!((drained.locations_left, drained.bytes_handed_over), (0, all as u64));
    assert_eq!(source.metric("mallorn_worker_handed_over_locations_total", ""), 4.0);
    assert_eq!(target.metric("mallorn_worker_taken_over_locations_total", ""), 4.0);
    for id in ids {
        assert_moved(&source, id).await;
    }
    assert_taken(&mut stage, &target, &source, &ids).await;

    // Dropped, as by kill -9: what was taken over is on disk.
    drop(target);
    let target = start(&stage, &there, 2).await;
    assert_taken(&mut stage, &target, &source, &ids).await;
    assert!(read(&target, small).await == bytes[0] && read(&target, large).await == bytes[1]);
    assert_eq!(target.freeze(frozen).await, Some(acked), "what was acked, not what was held");
    assert_eq!(target.freeze(open).await, Some(pushed.len() as u64));
    assert_eq!(target.seal(frozen, SEAL, held.len() as u64).await.outcome(), Sealed::Sealed, "the other copy had more");
    assert!(read(&target, frozen).await == held);

    source.stop().await;
    let source = start(&stage, &here, 1).await;
    assert_moved(&source, large).await;
    assert!(source.freeze(frozen).await.is_none() && source.frozen(frozen).await.moved);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_handed_on_is_told_of_by_all_who_had_it_also_after_a_restart() {
    let (root, mut stage) = (tempfile::tempdir().unwrap(), stage().await);
    let mut nodes = Vec::new();
    for seed in 1..4 {
        nodes.push(start(&stage, &root.path().join(seed.to_string()), seed).await);
        stage.registered().await;
    }
    let [first, second, third] = nodes.try_into().ok().unwrap();
    let id = location(1, 0);
    let bytes = push_many(&first, id, 3).await;
    first.commit(id).await;
    for (from, to) in [(&first, &second), (&second, &third)] {
        *stage.places.lock() = vec![to.address()];
        from.drained(true).await;
        assert_taken(&mut stage, to, from, &[id]).await;
    }
    drop(third);
    let third = start(&stage, &root.path().join("3"), 3).await;
    assert_taken(&mut stage, &third, &first, &[id]).await;
    assert!(read(&third, id).await == bytes);
}

/// The address of a worker whose data port is somewhere else.
async fn elsewhere(target: &Node) -> (Listener, v1::WorkerAddress) {
    let listener = Listener::bind("127.0.0.1:0").await.unwrap();
    let data = listener.local_addr().unwrap().to_string();
    (listener, v1::WorkerAddress { data, ..target.address() })
}

#[tokio::test]
async fn a_hand_over_that_breaks_off_leaves_everything_where_it_was() {
    let stage = stage().await;
    let source = Node::start(config_with(&stage)).await;
    let target = Node::start_seeded(config_with(&stage), 2).await;
    let places = std::sync::Arc::clone(&stage.places);
    drop(stage);
    let id = location(1, 0);
    let bytes = push_many(&source, id, 20).await;
    source.commit(id).await;
    let (listener, address) = elsewhere(&target).await;
    places.lock().push(address);
    assert!(!source.drain(true).await.done);
    let (stream, _) = clock::timeout(PATIENCE, listener.accept()).await.unwrap().unwrap();
    let mut peer = harness::Peer { stream };
    let hello = Hello::decode(&peer.receive().await.unwrap().header).unwrap();
    assert_eq!((hello.role, hello.worker), (Role::Replicate, target.running.worker()));
    let mut header = Vec::new();
    Welcome { version: 1, body_limit: 1 << 20, incarnation: Incarnation(1) }.encode(&mut header);
    peer.send(Kind::Welcome, &header, &[]).await;
    assert_eq!(peer.receive().await.unwrap().kind, Kind::Replicate);
    assert_eq!(source.freeze(id).await, Some(bytes.len() as u64), "on its way it is still here");
    assert!(read(&source, id).await == bytes);
    drop(peer);
    let failed = async {
        while source.metric("mallorn_worker_handover_failures_total", "") == 0.0 {
            tokio::task::yield_now().await;
        }
    };
    clock::timeout(PATIENCE, failed).await.expect("the break is noticed");
    assert_eq!(target.freeze(id).await, None, "a part is dropped");
    assert!(read(&source, id).await == bytes);
    *places.lock() = vec![target.address()];
    source.drained(true).await;
    assert_moved(&source, id).await;
    assert!(read(&target, id).await == bytes);
}

#[tokio::test]
async fn a_worker_keeps_what_it_was_told_once_and_drops_what_is_not_whole() {
    let stage = stage().await;
    let target = Node::start(config_with(&stage)).await;
    drop(stage);
    let reserve = async |id| {
        let reply = target.reserve_as(target.running.incarnation(), &[id], Copy::HandedOver, None).await.unwrap();
        assert_eq!(reply.locations[0].outcome(), Reserved::Reserved);
        Handle(reply.locations[0].handle)
    };
    let hello = Hello { application: nobody(), ..target.hello(Role::Replicate) };
    let mut link = target.connect().await;
    link.hello(&hello).await.unwrap();
    let told = |id: LocationId, acked_length, seal: SealId, length| v1::SettleOne {
        location: Some(id.into()),
        acked_length,
        seal: seal.0,
        length,
    };
    let [sealed, frozen, part] = [location(1, 0), location(1, 1), location(1, 2)];
    let one = |id| batch(id, 0, 0, b"batch");
    let length = one(sealed).len() as u64;
    for id in [sealed, frozen, part] {
        assert_eq!(forward(&mut link, &[(reserve(id).await, 0, one(id))]).await, [Status::Success]);
    }
    // A lifecycle manager that takes this for a copy that was here before must not find a shorter one.
    assert!(target.freeze(frozen).await.is_none());
    assert_eq!(target.seal(frozen, SEAL, length + 1).await.outcome(), Sealed::Unknown);
    let other = source_of_another_copy();
    assert!(!target.settle(other, told(sealed, length, SEAL, length)).await, "it was sent by somebody else");
    for _ in 0..2 {
        assert!(target.settle(LEAVES, told(sealed, length, SEAL, length)).await);
        assert!(target.settle(LEAVES, told(frozen, 0, SealId(0), length)).await);
    }
    assert!(read(&target, sealed).await == one(sealed));
    assert_eq!(target.freeze(frozen).await, Some(0));
    assert_eq!(target.seal(frozen, SEAL, length).await.outcome(), Sealed::Sealed);
    assert!(target.settle(LEAVES, told(frozen, 0, SealId(0), length)).await, "it was sealed since");
    assert!(!target.settle(LEAVES, told(part, 0, SealId(0), length + 1)).await);
    assert_eq!(target.freeze(part).await, None);
    let again = reserve(part).await;
    assert_eq!(forward(&mut link, &[(again, 0, one(part))]).await, [Status::Success], "it is sent from its start");
    assert!(!target.drain(false).await.done, "without a disk nothing that it holds is safe");
    assert_eq!(target.freeze(part).await, None, "a draining worker keeps no parts");
}

fn source_of_another_copy() -> mallorn_proto::id::WorkerId {
    mallorn_proto::id::WorkerId(LEAVES.0 + 1)
}

#[tokio::test]
async fn two_copies_never_come_to_one_worker() {
    let stage = stage().await;
    let mut nodes = Vec::new();
    for seed in 1..4 {
        nodes.push(Node::start_seeded(config_with(&stage), seed).await);
    }
    let [primary, replica, third] = nodes.try_into().ok().unwrap();
    let places = std::sync::Arc::clone(&stage.places);
    drop(stage);
    let id = location(1, 0);
    let (handle, _) = reserve_both(&primary, &replica, id).await;
    let bytes = batch(id, 0, 0, b"twice");
    assert_eq!(primary.open(Role::Push).await.push(handle, &bytes).await, Status::Success);
    for node in [&primary, &replica] {
        node.commit(id).await;
    }
    // A replica does not know its primary: that one refuses.
    *places.lock() = vec![primary.address(), third.address()];
    replica.drained(true).await;
    assert_moved(&replica, id).await;
    assert!(read(&third, id).await == bytes);
    assert_eq!(replica.metric("mallorn_worker_handover_failures_total", ""), 1.0);
    // A primary knows its replica; that its copy has gone to the third one, it finds out there.
    *places.lock() = vec![replica.address(), third.address()];
    let refused = async {
        while primary.metric("mallorn_worker_handover_failures_total", "") < 2.0 {
            assert!(!primary.drain(true).await.done);
        }
    };
    clock::timeout(PATIENCE, refused).await.expect("it finds no place");
    assert!(read(&primary, id).await == bytes, "what finds no place stays");
    assert_eq!(primary.drain(true).await.locations_left, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_takes_over_more_than_its_memory() {
    let (root, stage) = (tempfile::tempdir().unwrap(), stage().await);
    let memory = ByteSize::mib(64);
    let folder = root.path().join("target");
    let target =
        Node::start(WorkerConfig { memory: Some(memory), data_folders: vec![folder], ..config_with(&stage) }).await;
    drop(stage);
    let mut link = target.connect().await;
    link.hello(&Hello { application: nobody(), ..target.hello(Role::Replicate) }).await.unwrap();
    let id = location(1, 0);
    let reply = target.reserve_as(target.running.incarnation(), &[id], Copy::HandedOver, None).await.unwrap();
    let (handle, mut offset) = (Handle(reply.locations[0].handle), 0);
    for number in 0..80 {
        let bytes = batch(id, 0, number, &vec![number as u8; 1_000_000]);
        let length = bytes.len() as u64;
        assert_eq!(forward(&mut link, &[(handle, offset, bytes)]).await, [Status::Success], "batch {number}");
        offset += length;
    }
    let whole = v1::SettleOne { location: Some(id.into()), acked_length: offset, seal: SEAL.0, length: offset };
    assert!(target.settle(LEAVES, whole).await);
    assert_eq!(read(&target, id).await.len() as u64, offset);
}
