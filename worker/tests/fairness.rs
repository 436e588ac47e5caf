//! One bad client keeps nobody else out: it gets its share of a worker, and is told so.

#![expect(clippy::unwrap_used, reason = "a failure here fails the test")]

mod harness;

use harness::{Node, PATIENCE, Peer, batch, batch_of, config, greedy, location};
use mallorn_proto::id::Handle;
use mallorn_proto::message::Role;
use mallorn_proto::status::Status;
use mallorn_proto::v1::reserved::Outcome;
use mallorn_runtime::clock;
use mallorn_worker::WorkerConfig;

const CONNECTIONS: usize = 40;

async fn node() -> Node {
    Node::start(WorkerConfig { connections_max: CONNECTIONS, ..config() }).await
}

/// Another application connects, reserves, pushes, commits and reads.
async fn others_are_served(node: &Node) {
    let id = location(5, 0);
    let served = async {
        let handle = node.reserve(id).await;
        let bytes = batch(id, 0, 0, &[7; 1000]);
        assert_eq!(node.open(Role::Push).await.push(handle, &bytes).await, Status::Success);
        node.commit(id).await;
        let mut reader = node.open(Role::Fetch).await;
        let stream = reader.open_stream(id, (0, u32::MAX)).await.unwrap();
        assert_eq!(reader.read_all(&stream, 1_000_000).await, bytes);
    };
    clock::timeout(PATIENCE, served).await.expect("others are served in time");
}

fn refused(node: &Node) -> f64 {
    node.metric("mallorn_worker_connections_refused_total", "share")
}

#[tokio::test]
async fn an_application_that_connects_without_end_leaves_room_for_others() {
    let node = node().await;
    let (mut held, mut refusals): (Vec<Peer>, u32) = (Vec::new(), 0);
    for number in 0..2 * CONNECTIONS {
        let role = if number % 2 == 0 { Role::Push } else { Role::Fetch };
        let mut peer = node.connect().await;
        match peer.hello(&node.greedy_hello(role)).await {
            Ok(_) => held.push(peer),
            Err(failure) => {
                assert_eq!(failure.status, Status::Busy);
                assert!(failure.text.contains("this application has 20 connections"), "{}", failure.text);
                refusals += 1;
            }
        }
    }
    assert_eq!((held.len(), refused(&node)), (CONNECTIONS / 2, f64::from(refusals)));
    others_are_served(&node).await;
    // What is given back may be taken again.
    held.truncate(held.len() / 2);
    let again = async {
        while node.connect().await.hello(&node.greedy_hello(Role::Push)).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    clock::timeout(PATIENCE, again).await.expect("there is room for it again");
}

#[tokio::test]
async fn connections_that_say_nothing_leave_room_for_others() {
    let node = node().await;
    let mut silent = Vec::new();
    for _ in 0..CONNECTIONS / 4 {
        silent.push(node.connect().await);
    }
    let mut over = node.connect().await;
    let failure = over.last_words().await;
    assert_eq!(failure.status, Status::Busy);
    assert!(failure.text.contains("10 connections from this address"), "{}", failure.text);
    assert_eq!(refused(&node), 1.0);
    // From here they come from the same address; once it says hello, a connection does not count there any more.
    let heard = silent.pop().unwrap().hello(&node.greedy_hello(Role::Push)).await;
    assert!(heard.is_ok());
    others_are_served(&node).await;
}

#[tokio::test]
async fn an_application_that_holds_memory_without_end_leaves_some_for_others() {
    let node = node().await;
    let mut pusher = node.connect().await;
    pusher.hello(&node.greedy_hello(Role::Push)).await.unwrap();
    let handle = |reserved: mallorn_proto::v1::Reserved| Handle(reserved.handle);
    let open = location(0, 0);
    let kept = handle(node.reserve_greedy(open).await);
    // More than there is: to one location after the other, and to the one that it keeps.
    for number in 1..64 {
        let id = location(number, 0);
        let reserved = node.reserve_greedy(id).await;
        if reserved.outcome() == Outcome::Reserved {
            pusher.push(handle(reserved), &batch_of(&greedy(), id, (0, 0), &vec![7; 500_000])).await;
        }
        pusher.push(kept, &batch_of(&greedy(), open, (0, number), &vec![7; 500_000])).await;
    }
    for number in 0.. {
        assert!(number < 1000, "small ones have an end, too");
        if pusher.push(kept, &batch_of(&greedy(), open, (1, number), &[7; 10_000])).await == Status::HardSplit {
            break;
        }
    }
    assert_eq!(node.reserve_greedy(location(99, 0)).await.outcome(), Outcome::Full);
    assert_eq!(handle(node.reserve_greedy(open).await), kept, "what it has it keeps");
    others_are_served(&node).await;
}
