//! Two copies of a location: two workers in one process, or one and a replica that does what each test tells it to.

mod harness;

use std::collections::BTreeSet;
use std::time::Duration;

use harness::replica::{Scripted, forward, nobody, read, reserve_both, reserve_primary, reserve_replica, two_workers};
use harness::{Node, PATIENCE, SEAL, batch, config, location};
use mallorn_proto::batch::Batches;
use mallorn_proto::id::{Handle, Incarnation};
use mallorn_proto::message::{Hello, ReplicatedPart, Role};
use mallorn_proto::status::Status;
use mallorn_proto::v1;
use mallorn_proto::v1::reserve_request::Copy;
use mallorn_proto::v1::reserved::Outcome;
use mallorn_runtime::clock;
use mallorn_runtime::config::ByteSize;
use mallorn_worker::WorkerConfig;

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test]
async fn what_is_acked_is_on_both_copies_byte_for_byte() {
    let (primary, replica) = two_workers().await;
    let ids = [location(1, 1), location(1, 2)];
    let handles = [reserve_both(&primary, &replica, ids[0]).await.0, reserve_both(&primary, &replica, ids[1]).await.0];
    let mut pushers = [primary.open(Role::Push).await, primary.open(Role::Push).await];
    let mut acked = [0; 2];
    for number in 0..40u32 {
        // Two pushers at once, in both locations; some batches are larger than a frame, and some than a read buffer.
        let bytes = if number % 10 == 9 { 100_000 * (number as usize / 5 + 1) } else { 5_000 };
        for (at, pusher) in pushers.iter_mut().enumerate() {
            let one = batch(ids[at], at as u32, number, &vec![number as u8; bytes]);
            let other = batch(ids[1 - at], at as u32, 1000 + number, &[number as u8; 40]);
            acked[at] += one.len();
            acked[1 - at] += other.len();
            pusher.send_push(u64::from(number), handles[at], &one).await;
            assert_eq!(pusher.reply(u64::from(number)).await, [Status::Success]);
            assert_eq!(pusher.push_merged(&[(handles[1 - at], other)]).await, [Status::Success]);
        }
    }
    for (id, acked) in ids.into_iter().zip(acked) {
        assert_eq!(primary.freeze(id).await, Some(acked as u64));
        assert_eq!(replica.freeze(id).await, Some(acked as u64));
        for node in [&primary, &replica] {
            assert_eq!(node.seal(id, SEAL, acked as u64).await.outcome(), v1::sealed::Outcome::Sealed);
        }
        let bytes = read(&primary, id).await;
        assert_eq!(bytes.len(), acked);
        assert!(bytes == read(&replica, id).await, "copies are equal");
    }
    let total = acked.iter().sum::<usize>() as f64;
    assert_eq!(primary.metric("mallorn_worker_replicated_bytes_total", ""), total);
    assert_eq!(primary.metric("mallorn_worker_push_bytes_total", ""), total);
    assert!(primary.metric("mallorn_worker_replica_wait_seconds_total", "") > 0.0);
    assert_eq!(primary.metric("mallorn_worker_replica_waiting_bytes", ""), 0.0);
    assert_eq!(replica.metric("mallorn_worker_connections", "replicate"), 1.0, "one link for all locations");
    assert!(replica.metric("mallorn_worker_memory_held_bytes", "replicate") >= total);
    assert_eq!(replica.metric("mallorn_worker_memory_held_bytes", "push"), 0.0);
    for node in [&primary, &replica] {
        node.release(1, 2).await;
    }
    drop(pushers);
    primary.rests().await;
    replica.rests().await;
    primary.running.stop().await;
    replica.running.stop().await;
}

#[tokio::test]
async fn a_push_is_answered_after_its_replica_and_later_ones_may_be_before() {
    let (node, replica) = (Node::start(config()).await, Scripted::start().await);
    let (id, lone) = (location(1, 1), location(1, 2));
    let (handle, lone_handle) = (replica.reserve(&node, id).await, node.reserve(lone).await);
    let mut pusher = node.open(Role::Push).await;
    let batches = [batch(id, 0, 0, b"first"), batch(id, 0, 1, b"second")];
    pusher.send_push(1, handle, &batches[0]).await;
    let mut link = replica.accept().await;
    let first = link.frame().await;
    assert_eq!(first.parts, [ReplicatedPart { handle: Handle(1), offset: 0, length: batches[0].len() as u32 }]);
    assert!(first.body == batches[0]);
    pusher.send_push(2, handle, &batches[1]).await;
    let second = link.frame().await;
    assert_eq!(second.parts[0].offset, batches[0].len() as u64);
    pusher.send_push(3, lone_handle, &batch(lone, 0, 0, b"alone")).await;
    assert_eq!(pusher.reply(3).await, [Status::Success]);
    link.answer(&first, Status::Success).await;
    assert_eq!(pusher.reply(1).await, [Status::Success]);
    assert_eq!(node.freeze(id).await, Some(batches[0].len() as u64), "what is confirmed");
    assert_eq!(pusher.reply(2).await, [Status::HardSplit], "in the log, and not acked");
    // Too late: the freeze was answered.
    link.answer(&second, Status::Success).await;
    assert_eq!(node.freeze(id).await, Some(batches[0].len() as u64));
    // The replica may hold both, and the lifecycle manager may have fixed that.
    let all = batches.iter().map(Vec::len).sum::<usize>() as u64;
    assert_eq!(node.seal(id, SEAL, all).await.outcome(), v1::sealed::Outcome::Sealed);
}

#[tokio::test]
async fn a_replica_that_stops_answering_ends_its_locations_in_time() {
    let (node, replica) = (Node::start(config()).await, Scripted::start().await);
    let (id, idle) = (location(1, 1), location(1, 2));
    let (handle, idle_handle) = (replica.reserve(&node, id).await, replica.reserve(&node, idle).await);
    let mut pusher = node.open(Role::Push).await;
    tokio::time::pause();
    let one = batch(id, 0, 0, b"one");
    pusher.send_push(1, handle, &one).await;
    let mut link = replica.accept().await;
    let frame = link.frame().await;
    link.answer(&frame, Status::Success).await;
    assert_eq!(pusher.reply(1).await, [Status::Success]);
    let start = clock::now();
    pusher.send_push(2, handle, &batch(id, 0, 1, b"two")).await;
    pusher.send_push(3, handle, &batch(id, 0, 2, b"three")).await;
    assert_eq!(pusher.reply(2).await, [Status::HardSplit]);
    assert_eq!(pusher.reply(3).await, [Status::HardSplit]);
    let took = start.elapsed();
    assert!((2 * SECOND..3 * SECOND).contains(&took), "{took:?}");
    assert_eq!(pusher.push(handle, &batch(id, 0, 3, b"four")).await, Status::HardSplit);
    assert_eq!(node.freeze(id).await, Some(one.len() as u64));
    assert_eq!(node.metric("mallorn_worker_replica_failures_total", "late"), 1.0);
    assert_eq!(node.metric("mallorn_worker_splits_total", "hard"), 1.0);
    // A location that waited for nothing goes on, over another connection.
    pusher.send_push(4, idle_handle, &batch(idle, 0, 0, b"idle")).await;
    let mut link = replica.accept().await;
    let frame = link.frame().await;
    link.answer(&frame, Status::Success).await;
    assert_eq!(pusher.reply(4).await, [Status::Success]);
}

#[tokio::test]
async fn a_batch_that_waits_ten_seconds_ends_its_location_though_the_link_goes_on() {
    let (node, replica) = (Node::start(config()).await, Scripted::start().await);
    let ids: Vec<_> = (0..12).map(|partition| location(1, partition)).collect();
    let mut pusher = node.open(Role::Push).await;
    let mut handles = Vec::new();
    for id in &ids {
        handles.push(replica.reserve(&node, *id).await);
    }
    tokio::time::pause();
    let start = clock::now();
    // Each is a frame of its own.
    for (request, (id, handle)) in ids.iter().zip(&handles).enumerate() {
        pusher.send_push(request as u64, *handle, &batch(*id, 0, 0, &[1; 150_000])).await;
    }
    let mut link = replica.accept().await;
    let answer_slowly = async {
        loop {
            let frame = link.frame().await;
            clock::sleep(SECOND * 3 / 2).await;
            link.answer(&frame, Status::Success).await;
        }
    };
    let receive = async {
        for request in 0..12 {
            let status = if request < 6 { Status::Success } else { Status::HardSplit };
            assert_eq!(pusher.reply(request).await, [status], "request {request}");
        }
    };
    tokio::select! {
        () = answer_slowly => {}
        () = receive => {}
    }
    let took = start.elapsed();
    assert!((10 * SECOND..11 * SECOND).contains(&took), "{took:?}");
}

#[tokio::test]
async fn a_replica_that_is_killed_ends_what_was_under_way() {
    let (node, replica) = (Node::start(config()).await, Scripted::start().await);
    let id = location(1, 1);
    let handle = replica.reserve(&node, id).await;
    let mut pusher = node.open(Role::Push).await;
    let batches: Vec<_> = (0..3).map(|number| batch(id, 0, number, &[7; 130_000])).collect();
    for (request, one) in batches.iter().enumerate() {
        pusher.send_push(request as u64, handle, one).await;
    }
    let mut link = replica.accept().await;
    let frame = link.frame().await;
    link.answer(&frame, Status::Success).await;
    assert_eq!(pusher.reply(0).await, [Status::Success]);
    drop((link, replica));
    assert_eq!(pusher.reply(1).await, [Status::HardSplit]);
    assert_eq!(pusher.reply(2).await, [Status::HardSplit]);
    assert_eq!(node.freeze(id).await, Some(batches[0].len() as u64));
    assert_eq!(node.metric("mallorn_worker_replica_failures_total", "lost"), 1.0);
    node.release(1, 2).await;
    drop(pusher);
    node.rests().await;
}

#[tokio::test]
async fn each_location_of_a_merged_push_has_its_own_replica() {
    let (primary, replica) = two_workers().await;
    let gone = Scripted::start().await;
    let ids = [location(1, 1), location(1, 2), location(1, 3)];
    let handles = [
        primary.reserve(ids[0]).await,
        gone.reserve(&primary, ids[1]).await,
        reserve_both(&primary, &replica, ids[2]).await.0,
    ];
    drop(gone);
    let mut pusher = primary.open(Role::Push).await;
    let mut parts: Vec<_> = ids.iter().zip(handles).map(|(id, handle)| (handle, batch(*id, 0, 0, b"x"))).collect();
    parts.push((handles[2], b"short".to_vec()));
    let expected = [Status::Success, Status::HardSplit, Status::Success, Status::Malformed];
    assert_eq!(pusher.push_merged(&parts).await, expected);
    // The same when each part is larger than a read buffer.
    let parts: Vec<_> = ids.iter().zip(handles).map(|(id, handle)| (handle, batch(*id, 0, 1, &[2; 300_000]))).collect();
    assert_eq!(pusher.push_merged(&parts).await, expected[..3]);
    assert_eq!(primary.freeze(ids[1]).await, Some(0));
    assert_eq!(primary.freeze(ids[2]).await, replica.freeze(ids[2]).await);
}

#[tokio::test]
async fn a_replica_that_was_frozen_ends_the_primary_at_what_both_have() {
    let (primary, replica) = two_workers().await;
    let (id, other) = (location(1, 1), location(1, 2));
    let (handle, _) = reserve_both(&primary, &replica, id).await;
    let (other_handle, _) = reserve_both(&primary, &replica, other).await;
    let mut pusher = primary.open(Role::Push).await;
    let one = batch(id, 0, 0, b"one");
    assert_eq!(pusher.push(handle, &one).await, Status::Success);
    assert_eq!(replica.freeze(id).await, Some(one.len() as u64));
    assert_eq!(pusher.push(handle, &batch(id, 0, 1, b"two")).await, Status::HardSplit);
    assert_eq!(primary.freeze(id).await, Some(one.len() as u64));
    assert_eq!(primary.metric("mallorn_worker_replica_failures_total", "refused"), 1.0);
    assert_eq!(pusher.push(other_handle, &batch(other, 0, 0, b"x")).await, Status::Success, "others go on");
}

#[tokio::test]
async fn a_replica_takes_each_batch_at_its_own_length_and_from_its_primary_alone() {
    let node = Node::start(config()).await;
    let (id, lone) = (location(1, 1), location(1, 2));
    let (handle, lone_handle) = (reserve_replica(&node, id).await, node.reserve(lone).await);
    let hello = Hello { application: nobody(), ..node.hello(Role::Replicate) };
    let mut primary = node.connect().await;
    primary.hello(&hello).await.unwrap();
    let (one, two) = (batch(id, 0, 0, b"one"), batch(id, 0, 1, &[2; 300_000]));
    let after = one.len() as u64;
    let mut bad = two.clone();
    bad[299_000] ^= 1;
    let parts = [
        (handle, after, one.clone()),
        (handle, 0, one.clone()),
        (handle, 0, one.clone()),
        (Handle(1), after, one.clone()),
        (lone_handle, 0, batch(lone, 0, 0, b"x")),
        (handle, after, batch(lone, 0, 0, b"x")),
    ];
    let expected = [
        Status::HardSplit,
        Status::Success,
        Status::HardSplit,
        Status::HardSplit,
        Status::HardSplit,
        Status::BadChecksum,
    ];
    assert_eq!(forward(&mut primary, &parts).await, expected);
    let parts =
        [(handle, 0, two.clone()), (handle, after, bad), (handle, after, two.clone()), (Handle(1), 0, one.clone())];
    let expected = [Status::HardSplit, Status::BadChecksum, Status::Success, Status::HardSplit];
    assert_eq!(forward(&mut primary, &parts).await, expected);
    let mut pusher = node.open(Role::Push).await;
    assert_eq!(pusher.push(handle, &one).await, Status::HardSplit, "nobody pushes to a replica");
    assert_eq!(pusher.push(handle, &two).await, Status::HardSplit);
    assert_eq!(node.commit(id).await, after + two.len() as u64);
    assert!(read(&node, id).await == [one, two].concat());
}

#[tokio::test]
async fn a_link_names_no_application_and_the_right_incarnation() {
    let node = Node::start(config()).await;
    let named = node.hello(Role::Replicate);
    let failure = node.connect().await.hello(&named).await.unwrap_err();
    assert_eq!(failure.status, Status::Malformed);
    assert!(failure.text.contains("names no application"), "{}", failure.text);
    let nameless = Hello { application: nobody(), ..named };
    let stale = Hello { incarnation: Incarnation(1), ..nameless.clone() };
    assert_eq!(node.connect().await.hello(&stale).await.unwrap_err().status, Status::Fenced);
    let any = Hello { incarnation: Incarnation(0), ..nameless };
    assert_eq!(node.connect().await.hello(&any).await.unwrap_err().status, Status::Fenced);
}

#[tokio::test]
async fn a_reservation_repeated_has_the_same_handle_only_with_the_same_copies() {
    let (primary, replica) = two_workers().await;
    let id = location(1, 1);
    let (handle, there) = reserve_both(&primary, &replica, id).await;
    assert_eq!(reserve_both(&primary, &replica, id).await, (handle, there));
    let other = reserve_primary(&primary, id, replica.address(), Handle(there.0 ^ 1)).await;
    assert_eq!(other.outcome(), Outcome::Closed);
    let lone = primary.reserve_with(primary.running.incarnation(), &[id]).await.unwrap();
    assert_eq!(lone.locations[0].outcome(), Outcome::Closed);
    let refusal = async |copy: Copy, replicas: Option<v1::Replicas>| {
        let incarnation = primary.running.incarnation();
        let error = primary.reserve_as(incarnation, &[location(1, 2)], copy, replicas).await.unwrap_err();
        assert_eq!(mallorn_proto::status::from_grpc(&error), Status::Malformed, "{error}");
        error.message().to_owned()
    };
    let at = |worker: v1::WorkerAddress, handles: Vec<u64>| Some(v1::Replicas { worker: Some(worker), handles });
    assert!(refusal(Copy::Primary, None).await.contains("`replicas` is missing"));
    assert!(refusal(Copy::Primary, at(replica.address(), vec![1, 2])).await.contains("2 replicas for 1 locations"));
    assert!(refusal(Copy::Lone, at(replica.address(), vec![1])).await.contains("only a primary"));
    assert!(refusal(Copy::Primary, at(primary.address(), vec![1])).await.contains("two workers"));
    let nowhere = v1::WorkerAddress { data: String::new(), ..replica.address() };
    assert!(refusal(Copy::Primary, at(nowhere, vec![1])).await.contains("data address"));
}

#[tokio::test]
async fn over_a_quarter_of_the_push_pool_the_slowest_replica_is_given_up() {
    let node = Node::start(WorkerConfig { memory: Some(ByteSize::mib(40)), ..config() }).await;
    let silent = Scripted::start().await;
    let id = location(1, 1);
    let handle = silent.reserve(&node, id).await;
    let mut pusher = node.open(Role::Push).await;
    tokio::time::pause();
    let start = clock::now();
    for request in 0..20 {
        pusher.send_push(request, handle, &batch(id, 0, request as u32, &[1; 1_000_000])).await;
        if node.metric("mallorn_worker_replica_failures_total", "backlog") > 0.0 {
            break;
        }
    }
    assert_eq!(pusher.reply(0).await, [Status::HardSplit]);
    assert!(start.elapsed() < 2 * SECOND);
    assert_eq!(node.metric("mallorn_worker_replica_failures_total", "backlog"), 1.0);
    assert_eq!(node.metric("mallorn_worker_replica_waiting_bytes", ""), 0.0);
    assert_eq!(node.freeze(id).await, Some(0));
}

#[tokio::test]
async fn over_the_soft_limit_pushes_are_told_to_move_on_and_a_replica_follows() {
    let small = WorkerConfig { soft_split: ByteSize(200), hard_split: ByteSize(400), ..config() };
    let (primary, replica) = (Node::start(small.clone()).await, Node::start_seeded(small, 2).await);
    let (lone, id) = (location(1, 1), location(1, 2));
    let handles = [(primary.reserve(lone).await, lone), (reserve_both(&primary, &replica, id).await.0, id)];
    let mut pusher = primary.open(Role::Push).await;
    for (handle, id) in handles {
        // 128 bytes each.
        let expected = [Status::Success, Status::SoftSplit, Status::SoftSplit, Status::SoftSplit, Status::HardSplit];
        for (number, status) in (0..).zip(expected) {
            assert_eq!(pusher.push(handle, &batch(id, 0, number, &[0; 100])).await, status, "batch {number} of {id}");
        }
        assert_eq!(primary.freeze(id).await, Some(4 * 128));
    }
    assert_eq!(replica.freeze(id).await, Some(4 * 128));
    assert_eq!(primary.metric("mallorn_worker_splits_total", "soft"), 2.0);
    assert_eq!(primary.metric("mallorn_worker_splits_total", "hard"), 2.0);
    assert_eq!(replica.metric("mallorn_worker_replica_failures_total", ""), 0.0);
}

#[tokio::test]
async fn a_pusher_that_sends_no_more_still_gets_its_answers() {
    use tokio::io::AsyncWriteExt;
    let (node, replica) = (Node::start(config()).await, Scripted::start().await);
    let handle = replica.reserve(&node, location(1, 1)).await;
    let mut pusher = node.open(Role::Push).await;
    pusher.send_push(1, handle, &batch(location(1, 1), 0, 0, b"last")).await;
    pusher.stream.shutdown().await.unwrap();
    let mut link = replica.accept().await;
    let frame = link.frame().await;
    link.answer(&frame, Status::Success).await;
    assert_eq!(pusher.reply(1).await, [Status::Success]);
    assert!(pusher.receive().await.is_none());
}

#[tokio::test]
async fn a_worker_that_stops_answers_what_waits() {
    let (node, replica) = (Node::start(config()).await, Scripted::start().await);
    let handle = replica.reserve(&node, location(1, 1)).await;
    let mut pusher = node.open(Role::Push).await;
    pusher.send_push(1, handle, &batch(location(1, 1), 0, 0, b"last")).await;
    let mut link = replica.accept().await;
    link.frame().await;
    let stop = clock::timeout(PATIENCE, node.running.stop());
    let (stopped, statuses) = tokio::join!(stop, pusher.reply(1));
    stopped.unwrap();
    assert_eq!(statuses, [Status::HardSplit]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_acked_byte_lies_below_what_both_copies_freeze_at_whenever_that_is() {
    let (primary, replica) = two_workers().await;
    let id = location(1, 1);
    let (handle, _) = reserve_both(&primary, &replica, id).await;
    let mut pushers = tokio::task::JoinSet::new();
    for map in 0..4u32 {
        let mut pusher = primary.open(Role::Push).await;
        pushers.spawn(async move {
            let mut acked = Vec::new();
            for round in 0..20u64 {
                for number in 0..50u64 {
                    let request = round * 50 + number;
                    pusher.send_push(request, handle, &batch(id, map, request as u32, &[map as u8; 500])).await;
                }
                for _ in 0..50 {
                    let reply = pusher.any_reply().await;
                    if reply.statuses == [Status::Success] {
                        acked.push((map, reply.request as u32));
                    }
                }
            }
            acked
        });
    }
    // Somewhere in the middle.
    while primary.metric("mallorn_worker_push_bytes_total", "") < 400_000.0 {
        tokio::task::yield_now().await;
    }
    let frozen = primary.freeze(id).await.unwrap();
    let length = frozen.min(replica.freeze(id).await.unwrap());
    assert_eq!(length, frozen, "a replica has what it has confirmed");
    let acked: Vec<_> = pushers.join_all().await.into_iter().flatten().collect();
    assert!(acked.len() as f64 >= 400_000.0 / 528.0 && acked.len() < 4000, "{} acked", acked.len());
    for node in [&primary, &replica] {
        assert_eq!(node.seal(id, SEAL, length).await.outcome(), v1::sealed::Outcome::Sealed);
    }
    let bytes = read(&primary, id).await;
    assert!(bytes == read(&replica, id).await, "copies are equal");
    let stored: BTreeSet<_> =
        Batches::new(&bytes).map(|one| one.unwrap().0).map(|one| (one.map.0, one.batch.0)).collect();
    assert!(acked.iter().all(|one| stored.contains(one)), "what is acked is stored");
}

#[tokio::test]
async fn a_wrong_address_of_a_peer_breaks_nobody_else_s_copies() {
    let (primary, replica) = two_workers().await;
    let (astray, sound) = (location(1, 1), location(1, 2));
    let nowhere = v1::WorkerAddress { data: "127.0.0.1:1".to_owned(), ..replica.address() };
    let there = reserve_replica(&replica, astray).await;
    let reserved = reserve_primary(&primary, astray, nowhere, there).await;
    let (handle, _) = reserve_both(&primary, &replica, sound).await;
    let (mut lost, mut pusher) = (primary.open(Role::Push).await, primary.open(Role::Push).await);
    assert_eq!(lost.push(Handle(reserved.handle), &batch(astray, 0, 0, b"astray")).await, Status::HardSplit);
    assert_eq!(pusher.push(handle, &batch(sound, 0, 0, b"sound")).await, Status::Success);
}
