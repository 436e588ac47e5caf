//! Push, commit and fetch of whole batches, over loopback.

mod harness;

use harness::{Node, batch, config, location};
use mallorn_proto::batch::Batches;
use mallorn_proto::id::{Handle, SealId};
use mallorn_proto::message::Role;
use mallorn_proto::status::Status;
use mallorn_proto::v1;
use mallorn_runtime::config::ByteSize;

const ALL: (u32, u32) = (0, u32::MAX);

#[tokio::test]
async fn what_is_pushed_is_read_back_and_released() {
    let node = Node::start(config()).await;
    let (mut pusher, mut reader) = (node.open(Role::Push).await, node.open(Role::Fetch).await);
    let id = location(1, 4);
    let handle = node.reserve(id).await;
    assert_eq!(node.reserve(id).await, handle);
    let mut expected = Vec::new();
    for number in 0..50u32 {
        let one = batch(id, number % 3, number / 3, &vec![number as u8; 20_000 + number as usize]);
        assert_eq!(pusher.push(handle, &one).await, Status::Success);
        expected.extend(one);
    }
    let length = node.commit(id).await;
    assert_eq!(length, expected.len() as u64);
    assert_eq!(pusher.push(handle, &batch(id, 9, 0, b"late")).await, Status::HardSplit);
    let opened = reader.open_stream(id, ALL).await.unwrap();
    assert_eq!((opened.length, opened.chunk_ends), (length, vec![length]));
    let opened = reader.open_stream(id, ALL).await.unwrap();
    assert!(reader.read_all(&opened, 100_000).await == expected, "the bytes come back as they were pushed");
    let (end, body) = reader.fetch(opened.stream, length, 100).await.unwrap();
    assert_eq!((end.next, body.len()), (length, 0));
    assert_eq!(node.metric("mallorn_worker_push_bytes_total", ""), length as f64);
    assert!(node.release(1, 2).await > length);
    assert_eq!(reader.fetch(opened.stream, 0, 100_000).await.unwrap_err().status, Status::NotHere);
    drop((pusher, reader));
    node.rests().await;
    node.running.stop().await;
}

#[tokio::test]
async fn pushes_are_pipelined_and_each_is_answered() {
    let node = Node::start(config()).await;
    let mut pusher = node.open(Role::Push).await;
    let handle = node.reserve(location(1, 1)).await;
    for request in 0..200 {
        pusher.send_push(request, handle, &batch(location(1, 1), 0, request as u32, &[1; 3000])).await;
    }
    for request in 0..200 {
        assert_eq!(pusher.reply(request).await, [Status::Success]);
    }
}

#[tokio::test]
async fn each_location_of_a_merged_push_has_its_own_status() {
    let node = Node::start(config()).await;
    let mut pusher = node.open(Role::Push).await;
    let (first, second, frozen) = (location(1, 1), location(1, 2), location(1, 3));
    let handles = [node.reserve(first).await, node.reserve(second).await, node.reserve(frozen).await];
    assert_eq!(node.freeze(frozen).await, Some(0));
    let mut bad = batch(second, 0, 1, b"spoilt");
    *bad.last_mut().unwrap() ^= 0x40;
    let parts = [
        (handles[0], batch(first, 0, 0, b"one")),
        (handles[2], batch(frozen, 0, 0, b"frozen")),
        (handles[1], bad),
        (handles[1], batch(second, 0, 1, b"two")),
        (Handle(1), batch(first, 0, 0, b"unknown")),
        (handles[0], b"short".to_vec()),
    ];
    let expected = [
        Status::Success,
        Status::HardSplit,
        Status::BadChecksum,
        Status::Success,
        Status::HardSplit,
        Status::Malformed,
    ];
    assert_eq!(pusher.push_merged(&parts).await, expected);
    assert_eq!(node.freeze(first).await, Some(parts[0].1.len() as u64));
    assert_eq!(node.freeze(second).await, Some(parts[3].1.len() as u64));
    assert_eq!(node.metric("mallorn_worker_checksum_failures_total", ""), 1.0);
}

#[tokio::test]
async fn bodies_larger_than_the_read_buffer_are_taken_apart() {
    let node = Node::start(config()).await;
    let (mut pusher, mut reader) = (node.open(Role::Push).await, node.open(Role::Fetch).await);
    let (large, other) = (location(1, 1), location(1, 2));
    let (handle, other_handle) = (node.reserve(large).await, node.reserve(other).await);
    let before = batch(large, 0, 0, b"before");
    let whole = batch(large, 0, 1, &(0..1024 * 1024u32).map(|at| (at * 7) as u8).collect::<Vec<_>>());
    let mut bad = whole.clone();
    bad[700_000] ^= 1;
    assert_eq!(pusher.push(handle, &before).await, Status::Success);
    assert_eq!(pusher.push(handle, &bad).await, Status::BadChecksum);
    assert_eq!(pusher.push(handle, &whole).await, Status::Success);
    assert_eq!(pusher.push(Handle(3), &whole).await, Status::HardSplit);
    let small: Vec<_> = (0..10).map(|number| batch(other, 1, number, &[number as u8; 30_000])).collect();
    let middle = batch(large, 0, 2, &[9; 300_000]);
    let mut parts: Vec<_> = small.iter().map(|one| (other_handle, one.clone())).collect();
    parts.insert(4, (handle, middle.clone()));
    parts.push((Handle(3), middle.clone()));
    let mut expected = vec![Status::Success; 12];
    expected[11] = Status::HardSplit;
    // The connection is good for further frames after each of these.
    assert_eq!(pusher.push_merged(&parts).await, expected);
    assert_eq!(pusher.push(other_handle, &before).await, Status::BadChecksum);
    node.commit(large).await;
    node.commit(other).await;
    let opened = reader.open_stream(large, ALL).await.unwrap();
    assert!(reader.read_all(&opened, u32::MAX).await == [before, whole, middle].concat());
    let opened = reader.open_stream(other, ALL).await.unwrap();
    assert!(reader.read_all(&opened, 70_000).await == small.concat());
    node.release(0, u32::MAX).await;
    drop((pusher, reader));
    node.rests().await;
}

#[tokio::test]
async fn a_range_of_maps_is_read_exactly() {
    let node = Node::start(config()).await;
    let (mut pusher, mut reader) = (node.open(Role::Push).await, node.open(Role::Fetch).await);
    let id = location(1, 1);
    let handle = node.reserve(id).await;
    for number in 0..60 {
        pusher.push(handle, &batch(id, number % 6, number / 6, &[number as u8; 500])).await;
    }
    node.commit(id).await;
    let opened = reader.open_stream(id, (2, 4)).await.unwrap();
    let bytes = reader.read_all(&opened, 2000).await;
    let maps: Vec<u32> = Batches::new(&bytes).map(|one| one.unwrap().0.map.0).collect();
    assert_eq!(maps, [2, 3].repeat(10));
    let failure = reader.fetch(opened.stream, 0, 100).await.unwrap_err();
    assert_eq!(failure.status, Status::TooLarge);
    let failure = reader.fetch(opened.stream, 1, 1000).await.unwrap_err();
    assert_eq!(failure.status, Status::Malformed);
    reader.close_stream(opened.stream).await;
    let failure = reader.fetch(opened.stream, 0, 1000).await.unwrap_err();
    assert_eq!(failure.status, Status::NotHere);
}

#[tokio::test]
async fn a_seal_cuts_and_only_its_id_opens() {
    let node = Node::start(config()).await;
    let (mut pusher, mut reader) = (node.open(Role::Push).await, node.open(Role::Fetch).await);
    let (id, short) = (location(1, 1), location(1, 2));
    let handle = node.reserve(id).await;
    let (kept, lost) = (batch(id, 0, 0, b"kept"), batch(id, 0, 1, b"lost"));
    pusher.push(handle, &kept).await;
    pusher.push(handle, &lost).await;
    assert_eq!(reader.open_stream(id, ALL).await.unwrap_err().status, Status::NotHere);
    let sealed = node.seal(id, harness::SEAL, kept.len() as u64).await;
    assert_eq!((sealed.outcome(), sealed.batches), (v1::sealed::Outcome::Sealed, 1));
    assert_eq!(node.seal(id, SealId(78), kept.len() as u64).await.outcome(), v1::sealed::Outcome::Conflict);
    let opened = reader.open_stream(id, ALL).await.unwrap();
    assert_eq!(reader.read_all(&opened, 1000).await, kept);
    node.reserve(short).await;
    assert_eq!(node.seal(short, harness::SEAL, 1).await.outcome(), v1::sealed::Outcome::Short);
    assert_eq!(node.seal(short, harness::SEAL, 1).await.outcome(), v1::sealed::Outcome::Unknown);
    assert_eq!(node.freeze(short).await, None);
    assert_eq!(reader.open_stream(short, ALL).await.unwrap_err().status, Status::NotHere);
}

#[tokio::test]
async fn a_full_arena_answers_at_once_and_space_comes_back() {
    let node = Node::start(harness_config(16)).await;
    let mut pusher = node.open(Role::Push).await;
    let id = location(1, 1);
    let handle = node.reserve(id).await;
    let one = batch(id, 0, 0, &[1; 100_000]);
    let large = batch(id, 0, 0, &[1; 1_000_000]);
    let mut acked = 0;
    while pusher.push(handle, &one).await == Status::Success {
        acked += one.len() as u64;
    }
    // Room for two of the largest is left to other applications.
    assert!(acked > 9 * 1024 * 1024, "{acked} bytes fit");
    assert_eq!(pusher.push(handle, &large).await, Status::HardSplit);
    assert_eq!(pusher.push_merged(&vec![(handle, one.clone()); 6]).await, [Status::HardSplit; 6]);
    let reply = node.reserve_with(node.running.incarnation(), &[location(2, 1)]).await.unwrap();
    assert_eq!(reply.locations[0].outcome(), v1::reserved::Outcome::Full);
    assert!(reply.memory.unwrap().held_bytes >= acked);
    assert_eq!(node.freeze(id).await, Some(acked), "what was acked is kept");
    node.release(1, 2).await;
    node.rests().await;
    let handle = node.reserve(location(2, 1)).await;
    assert_eq!(pusher.push(handle, &batch(location(2, 1), 0, 0, &[1; 100_000])).await, Status::Success);
}

fn harness_config(memory_mib: u64) -> mallorn_worker::WorkerConfig {
    mallorn_worker::WorkerConfig { memory: Some(ByteSize::mib(memory_mib)), ..config() }
}

#[tokio::test]
async fn a_worker_that_stops_freezes_what_is_open() {
    let node = Node::start(config()).await;
    let mut pusher = node.open(Role::Push).await;
    let handle = node.reserve(location(1, 1)).await;
    assert_eq!(pusher.push(handle, &batch(location(1, 1), 0, 0, b"x")).await, Status::Success);
    node.running.stop().await;
    assert!(pusher.receive().await.is_none());
}
