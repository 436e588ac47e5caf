//! What the data port and the gRPC door do with what they should not get: a clear answer, and nothing else disturbed.

mod harness;

use bytes::BytesMut;
use harness::{CLUSTER, Node, PATIENCE, batch, config, location, surroundings};
use mallorn_proto::frame::Prefix;
use mallorn_proto::id::{Handle, Incarnation, WorkerId};
use mallorn_proto::limits::{BODY_BYTES_DEFAULT, PAGE_LOCATIONS_MAX};
use mallorn_proto::message::{Fetch, Hello, Kind, Role, Welcome};
use mallorn_proto::status::{Status, from_grpc};
use mallorn_proto::v1;
use mallorn_proto::v1::worker_client::WorkerClient;
use mallorn_proto::version;
use mallorn_runtime::{clock, grpc};
use mallorn_worker::{StartError, WorkerConfig, start};

/// A push on a connection opened before still works.
async fn is_undisturbed(node: &Node) {
    let handle = node.reserve(location(99, 0)).await;
    let mut pusher = node.open(Role::Push).await;
    assert_eq!(pusher.push(handle, &batch(location(99, 0), 0, 0, b"fine")).await, Status::Success);
}

fn refused(node: &Node, reason: &str) -> f64 {
    node.metric("mallorn_worker_connections_refused_total", reason)
}

#[tokio::test]
async fn garbage_http_and_two_gib_are_no_protocol() {
    let node = Node::start(config()).await;
    let mut huge = Vec::new();
    Prefix { header_length: 16, kind: Kind::Push as u8, body_length: 1 << 31 }.encode(&mut huge);
    for bytes in [&[0xff; 64][..], b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", &huge, &[0; 9]] {
        let mut peer = node.connect().await;
        peer.send_bytes(bytes).await;
        assert!(peer.receive().await.is_none(), "{bytes:?}");
    }
    assert_eq!(refused(&node, "not_frames"), 4.0);
    is_undisturbed(&node).await;
    node.release(0, u32::MAX).await;
    node.rests().await;
}

#[tokio::test]
async fn a_hello_of_the_next_version_is_welcomed_in_ours_or_refused_by_version() {
    let node = Node::start(config()).await;
    let next = version::CURRENT + 1;
    let mut hello = Vec::new();
    Hello { newest: next, ..node.hello(Role::Push) }.encode(&mut hello).unwrap();
    hello.extend_from_slice(&[7; 8]);
    let mut peer = node.connect().await;
    peer.send(Kind::Hello, &hello, &[]).await;
    let answer = peer.receive().await.unwrap();
    assert_eq!(answer.kind, Kind::Welcome);
    assert_eq!(Welcome::decode(&answer.header).unwrap().version, version::CURRENT);

    let mut new_role = hello.clone();
    new_role[4] = 9;
    let only_newer = [next.to_be_bytes(), (next + 1).to_be_bytes()].concat();
    let both = format!("{next} to {}, this side {} to {}", next + 1, version::OLDEST, version::CURRENT);
    for (hello, text) in [(new_role, "role 9"), (only_newer, both.as_str())] {
        let mut peer = node.connect().await;
        peer.send(Kind::Hello, &hello, &[]).await;
        let failure = peer.last_words().await;
        assert_eq!(failure.status, Status::UnsupportedVersion);
        assert!(failure.text.contains(text), "{}", failure.text);
    }
    assert_eq!(refused(&node, "wrong_hello"), 2.0);
}

#[tokio::test]
async fn a_hello_for_somebody_else_says_what_is_wrong() {
    let node = Node::start(config()).await;
    let good = node.hello(Role::Push);
    let cases = [
        (Hello { cluster: "other".to_owned(), ..good.clone() }, Status::WrongCluster, "not to `other`"),
        (Hello { worker: WorkerId(1), ..good.clone() }, Status::WrongWorker, "ask the master"),
        (Hello { incarnation: Incarnation(1), ..good.clone() }, Status::Fenced, "incarnation"),
        (Hello { incarnation: Incarnation(0), ..good.clone() }, Status::Fenced, "incarnation"),
        (Hello { oldest: 90, newest: 99, ..good.clone() }, Status::UnsupportedVersion, "versions"),
    ];
    for (hello, status, text) in cases {
        let mut peer = node.connect().await;
        let failure = peer.hello(&hello).await.unwrap_err();
        assert_eq!(failure.status, status);
        assert!(failure.text.contains(text), "{}", failure.text);
        assert!(peer.receive().await.is_none());
    }
    assert_eq!(refused(&node, "wrong_hello"), 5.0);
    let any = Hello { incarnation: Incarnation(0), ..node.hello(Role::Fetch) };
    assert!(node.connect().await.hello(&any).await.is_ok(), "sealed bytes are good under any incarnation");
    is_undisturbed(&node).await;
}

#[tokio::test]
async fn a_connection_that_does_not_begin_with_a_hello_is_told_so() {
    let node = Node::start(config()).await;
    let mut peer = node.connect().await;
    peer.send(Kind::CloseStream, &[0; 8], &[]).await;
    assert_eq!(peer.last_words().await.status, Status::Malformed);
    let mut peer = node.connect().await;
    peer.send(Kind::Hello, &[1, 2, 3], &[]).await;
    assert_eq!(peer.last_words().await.status, Status::Malformed);
    assert_eq!(refused(&node, "no_hello"), 1.0);
}

#[tokio::test]
async fn frames_that_break_the_protocol_end_their_connection_only() {
    let node = Node::start(config()).await;
    let mut too_large = Vec::new();
    Prefix { header_length: 16, kind: Kind::Push as u8, body_length: BODY_BYTES_DEFAULT + 1 }.encode(&mut too_large);
    let mut unknown = Vec::new();
    Prefix { header_length: 1, kind: 127, body_length: 0 }.encode(&mut unknown);
    unknown.push(0);
    let mut short = Vec::new();
    Prefix { header_length: 3, kind: Kind::Push as u8, body_length: 0 }.encode(&mut short);
    short.extend([0; 3]);
    let mut strange = Vec::new();
    Prefix { header_length: 28, kind: Kind::Fetch as u8, body_length: 0 }.encode(&mut strange);
    strange.extend([0; 28]);
    let cases = [
        (too_large, Status::TooLarge),
        (unknown, Status::Malformed),
        (short, Status::Malformed),
        (strange, Status::Malformed),
    ];
    for (bytes, status) in cases {
        let mut peer = node.open(Role::Push).await;
        peer.send_bytes(&bytes).await;
        assert_eq!(peer.last_words().await.status, status);
    }
    let mut peer = node.open(Role::Fetch).await;
    peer.send_push(1, Handle(1), b"no pushes here").await;
    assert!(matches!(peer.last_words().await.status, Status::TooLarge | Status::Malformed));
    is_undisturbed(&node).await;
    node.release(0, u32::MAX).await;
    node.rests().await;
}

#[tokio::test]
async fn a_peer_that_ends_in_the_middle_leaves_nothing_behind() {
    let node = Node::start(config()).await;
    let handle = node.reserve(location(1, 1)).await;
    let one = batch(location(1, 1), 0, 0, &[7; 900_000]);
    for length in [4, 30, 5000, 600_000] {
        let mut frame = Vec::new();
        Prefix { header_length: 16, kind: Kind::Push as u8, body_length: one.len() as u32 }.encode(&mut frame);
        frame.extend(1u64.to_be_bytes());
        frame.extend(handle.0.to_be_bytes());
        frame.extend(&one);
        let mut peer = node.open(Role::Push).await;
        peer.send_bytes(&frame[..length]).await;
    }
    is_undisturbed(&node).await;
    assert_eq!(node.freeze(location(1, 1)).await, Some(0));
    node.release(0, u32::MAX).await;
    node.rests().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_stops_reading_or_waits_in_a_frame_is_left_and_keeps_nobody_waiting() {
    let node = Node::start(config()).await;
    let id = location(1, 1);
    let handle = node.reserve(id).await;
    let mut pusher = node.open(Role::Push).await;
    for number in 0..12 {
        assert_eq!(pusher.push(handle, &batch(id, 0, number, &vec![7; 1_000_000])).await, Status::Success);
    }
    node.commit(id).await;
    drop(pusher);
    // One asks for far more than sockets hold, and reads none of it.
    let mut reader = node.open(Role::Fetch).await;
    let opened = reader.open_stream(id, (0, u32::MAX)).await.unwrap();
    for request in 0..40 {
        let fetch = Fetch { request, stream: opened.stream, offset: 0, limit: BODY_BYTES_DEFAULT };
        let mut header = BytesMut::new();
        fetch.encode(&mut header);
        reader.send(Kind::Fetch, &header, &[]).await;
    }
    // One waits in the middle of a frame that it was given memory for.
    let open = node.reserve(location(1, 2)).await;
    let one = batch(location(1, 2), 0, 0, &[7; 900_000]);
    let mut frame = Vec::new();
    Prefix { header_length: 16, kind: Kind::Push as u8, body_length: one.len() as u32 }.encode(&mut frame);
    frame.extend(1u64.to_be_bytes());
    frame.extend(open.0.to_be_bytes());
    frame.extend(&one[..500_000]);
    let mut waiting = node.open(Role::Push).await;
    waiting.send_bytes(&frame).await;

    is_undisturbed(&node).await;
    let mut other = node.open(Role::Fetch).await;
    let stream = other.open_stream(id, (0, u32::MAX)).await.unwrap();
    assert_eq!(other.read_all(&stream, BODY_BYTES_DEFAULT).await.len() as u64, stream.length);
    drop(other);
    // 1 MiB/s over 10 s: then their connections are closed, and what they held is given back.
    let gone = async {
        while node.metric("mallorn_worker_connections", "") > 0.0 {
            tokio::task::yield_now().await;
        }
    };
    clock::timeout(2 * PATIENCE, gone).await.expect("they are left");
    drop((reader, waiting));
    node.release(0, u32::MAX).await;
    node.rests().await;
}

#[tokio::test]
async fn connections_over_the_limit_are_told_to_come_again() {
    let node = Node::start(WorkerConfig { connections_max: 2, ..config() }).await;
    let mut other = node.connect().await;
    other.hello(&node.greedy_hello(Role::Fetch)).await.unwrap();
    let _held = [node.open(Role::Push).await, other];
    let mut third = node.connect().await;
    assert_eq!(third.last_words().await.status, Status::Busy);
    assert_eq!(refused(&node, "limit"), 1.0);
    assert_eq!(node.metric("mallorn_worker_connections", ""), 2.0);
}

#[tokio::test]
async fn streams_of_a_connection_are_bounded() {
    let node = Node::start(config()).await;
    let id = location(1, 1);
    node.reserve(id).await;
    node.commit(id).await;
    let mut reader = node.open(Role::Fetch).await;
    let mut opened = 0;
    let failure = loop {
        match reader.open_stream(id, (0, u32::MAX)).await {
            Ok(_) => opened += 1,
            Err(failure) => break failure,
        }
    };
    assert_eq!((failure.status, opened), (Status::Busy, 1024));
    node.release(0, u32::MAX).await;
    drop(reader);
    node.rests().await;
}

#[tokio::test]
async fn the_grpc_door_refuses_what_is_not_for_it() {
    let node = Node::start(config()).await;
    let channel = grpc::channel(&node.running.control_address().to_string(), PATIENCE).unwrap();
    let mut client = WorkerClient::new(channel);
    let good = v1::FreezeRequest {
        cluster: CLUSTER.to_owned(),
        application: Some(harness::application().into()),
        worker: Some(node.running.worker().into()),
        locations: Vec::new(),
    };
    let page = vec![v1::LocationId::default(); PAGE_LOCATIONS_MAX + 1];
    let nameless = v1::Application { name: String::new(), instance: 1 };
    let cases = [
        (v1::FreezeRequest { cluster: "other".to_owned(), ..good.clone() }, Status::WrongCluster),
        (v1::FreezeRequest { worker: Some(WorkerId(1).into()), ..good.clone() }, Status::WrongWorker),
        (v1::FreezeRequest { worker: None, ..good.clone() }, Status::Malformed),
        (v1::FreezeRequest { application: None, ..good.clone() }, Status::Malformed),
        (v1::FreezeRequest { application: Some(nameless), ..good.clone() }, Status::Malformed),
        (v1::FreezeRequest { locations: page, ..good.clone() }, Status::TooLarge),
    ];
    for (request, status) in cases {
        assert_eq!(from_grpc(&client.freeze(request).await.unwrap_err()), status);
    }
    assert!(client.freeze(good).await.is_ok());
    let fenced = node.reserve_with(Incarnation(1), &[location(1, 1)]).await.unwrap_err();
    assert_eq!(from_grpc(&fenced), Status::Fenced);
}

async fn start_error(config: WorkerConfig) -> StartError {
    start(config, surroundings()).await.map(|_| ()).expect_err("it cannot start")
}

#[tokio::test]
async fn what_cannot_start_says_what_to_set() {
    let node = Node::start(config()).await;
    let taken = WorkerConfig { data_listen: node.running.data_address(), ..config() };
    let error = start_error(taken).await;
    assert!(error.to_string().starts_with("worker.data_listen: listen on 127.0.0.1:"), "{error}");
    let small = WorkerConfig { memory: Some(mallorn_runtime::config::ByteSize::kib(1)), ..config() };
    let error = start_error(small).await;
    assert!(error.to_string().contains("set `worker.memory` to at least"), "{error}");
    let unwritable = WorkerConfig { data_folders: vec!["/proc/mallorn".into()], ..config() };
    let error = start_error(unwritable).await;
    assert!(error.to_string().contains("can't create the folder /proc/mallorn"), "{error}");
}
