//! The calling side, against a worker that does what each test tells it to.

use std::pin::pin;

use bytes::{BufMut, Bytes};
use mallorn_proto::id::{Application, Incarnation, Instance, WorkerId};
use mallorn_proto::message::{Failure, Hello, Kind, Role, Welcome};
use mallorn_proto::status::Status;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::super::{Answer, CallError, Connection, Frame, Limits, OpenError, Outbound, Pool};
use super::*;

const LIMITS: Limits = Limits { open_within: SECOND, call_within: Duration::from_secs(5), window: 4 };
const PUSH: u8 = Kind::Push as u8;
const REPLY: u8 = Kind::PushReply as u8;
const FETCHED: u8 = Kind::Fetched as u8;
const FAILURE: u8 = Kind::Failure as u8;

fn hello() -> Hello {
    Hello {
        oldest: 1,
        newest: 1,
        role: Role::Push,
        worker: WorkerId(7),
        incarnation: Incarnation(8),
        application: Application { name: "tests".to_owned(), instance: Instance(9) },
        cluster: "cluster".to_owned(),
        credential: Vec::new(),
    }
}

/// The worker's end of a connection.
struct Worker {
    inbound: Inbound<Lender>,
    outbound: Outbound,
}

impl Worker {
    /// The next request's number and body.
    async fn request(&mut self) -> Option<(u64, Vec<u8>)> {
        let (_, header, body) = next(&mut self.inbound).await.unwrap()?;
        Some((u64::from_be_bytes(*header.first_chunk::<8>().unwrap()), body))
    }

    async fn answer(&mut self, kind: u8, request: u64, body: &[u8]) {
        let body = Bytes::copy_from_slice(body);
        self.outbound.push_with_body(kind, vec![body], |out| out.put_u64(request));
        self.outbound.flush().await.unwrap();
    }

    async fn fail(&mut self, request: u64, status: Status, text: &str) {
        let failure = Failure { request, status, text: text.to_owned() };
        self.outbound.push(FAILURE, |out| failure.encode(out));
        self.outbound.flush().await.unwrap();
    }

    /// No request is on its way.
    async fn assert_quiet(&mut self) {
        assert_eq!(buffered(&mut self.inbound).await.unwrap(), None, "it was there already");
        let mut fill = Box::pin(self.inbound.fill());
        stall(fill.as_mut()).await;
    }
}

/// A worker that read the hello and says nothing yet.
async fn accept(listener: &Listener) -> Worker {
    let (read, write) = listener.accept().await.unwrap().0.split();
    let mut worker =
        Worker { inbound: Inbound::new(read, Lender::default(), 64 * MIB), outbound: Outbound::new(write) };
    let (kind, header, body) = next(&mut worker.inbound).await.unwrap().unwrap();
    assert_eq!((kind, body), (Kind::Hello as u8, vec![]));
    assert_eq!(Hello::decode(&header), Ok(hello()));
    worker
}

async fn connect(limits: Limits) -> (Connection, Worker) {
    let listener = Listener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let welcome = Welcome { version: 1, body_limit: MIB as u32, incarnation: Incarnation(8) };
    let serve = async {
        let mut worker = accept(&listener).await;
        worker.outbound.push(Kind::Welcome as u8, |out| welcome.encode(out));
        worker.outbound.flush().await.unwrap();
        worker
    };
    let hello = hello();
    let (opened, worker) = tokio::join!(Connection::open(&address, &hello, limits), serve);
    let (connection, told) = opened.unwrap();
    assert_eq!(told, welcome);
    (connection, worker)
}

/// What opening comes to when the peer answers the hello with these bytes and then closes, or stays silent.
async fn refused(answer: Option<&[u8]>) -> OpenError {
    let listener = Listener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let serve = async {
        let mut stream = listener.accept().await.unwrap().0;
        let mut read = [0; 20];
        stream.read_exact(&mut read).await.unwrap();
        if let Some(answer) = answer {
            stream.write_all(answer).await.unwrap();
            stream.shutdown().await.unwrap();
        }
        let _ = stream.read_to_end(&mut Vec::new()).await;
    };
    let hello = hello();
    let (opened, ()) = tokio::join!(Connection::open(&address, &hello, LIMITS), serve);
    opened.unwrap_err()
}

async fn call(connection: &Connection, body: Vec<Bytes>, room: Option<usize>) -> Result<Answer, CallError> {
    let request = connection.next_request();
    let frame = Frame::new(PUSH, body, |out| out.put_u64(request));
    connection.call(request, frame, room.map(|room| Pool::new(0).take(room))).await
}

#[tokio::test]
async fn requests_that_are_begun_arrive_in_order_and_each_has_its_answer() {
    let (connection, mut worker) = connect(LIMITS).await;
    let mut begun = Vec::new();
    for number in 0..4 {
        let request = connection.next_request();
        let frame = Frame::new(PUSH, vec![Bytes::from(vec![number])], |out| out.put_u64(request));
        begun.push(connection.begin(request, frame).await.unwrap());
    }
    let mut requests = Vec::new();
    for number in 0..4 {
        let (request, body) = worker.request().await.unwrap();
        assert_eq!(body, [number]);
        requests.push(request);
    }
    // One that nobody waits for any more is answered all the same.
    drop(begun.remove(1));
    for request in requests.iter().rev() {
        worker.answer(REPLY, *request, &[]).await;
    }
    for (mut begun, request) in begun.into_iter().zip([requests[0], requests[2], requests[3]]) {
        assert_eq!(number(&begun.answer().await.unwrap()), request);
    }
    let request = connection.next_request();
    let mut last = connection.begin(request, Frame::new(PUSH, vec![], |out| out.put_u64(request))).await.unwrap();
    drop(worker);
    assert!(matches!(last.answer().await, Err(CallError::Closed { .. })));
}

fn number(answer: &Answer) -> u64 {
    u64::from_be_bytes(*answer.header.first_chunk::<8>().unwrap())
}

fn closed(reason: &str) -> CallError {
    CallError::Closed { reason: reason.to_owned() }
}

#[tokio::test]
async fn answers_find_their_requests_in_any_order() {
    let (connection, mut worker) = connect(LIMITS).await;
    let calls = async {
        let body = |at| vec![Bytes::from(pattern(100, at))];
        let (a, b, c) = tokio::join!(
            call(&connection, body(0), Some(300)),
            call(&connection, body(1), Some(300)),
            call(&connection, body(2), None),
        );
        for (at, answer) in [&a, &b, &c].into_iter().map(|answer| answer.as_ref().unwrap()).enumerate() {
            assert_eq!((answer.kind, number(answer)), (REPLY, at as u64 + 1));
            let body = answer.body.as_ref().map(|body| body.as_ref().to_vec());
            assert_eq!(body, (at < 2).then(|| pattern(200, at)));
        }
    };
    let serve = async {
        let mut requests = Vec::new();
        for _ in 0..3 {
            requests.push(worker.request().await.unwrap());
        }
        for (request, body) in requests.into_iter().rev() {
            let at = request as usize - 1;
            assert_eq!(body, pattern(100, at));
            worker.answer(REPLY, request, &if at < 2 { pattern(200, at) } else { vec![] }).await;
        }
    };
    tokio::join!(calls, serve);
}

#[tokio::test]
async fn no_more_than_the_window_is_in_flight() {
    let (connection, mut worker) = connect(Limits { window: 2, ..LIMITS }).await;
    let calls: Vec<_> = (0..7)
        .map(|_| {
            let connection = connection.clone();
            tokio::spawn(async move { call(&connection, vec![], None).await.unwrap() })
        })
        .collect();
    let mut open = vec![worker.request().await.unwrap().0, worker.request().await.unwrap().0];
    for left in (0..5).rev() {
        worker.assert_quiet().await;
        worker.answer(REPLY, open.swap_remove(left % 2), &[]).await;
        open.push(worker.request().await.unwrap().0);
    }
    worker.assert_quiet().await;
    for request in open {
        worker.answer(REPLY, request, &[]).await;
    }
    for call in calls {
        call.await.unwrap();
    }
}

#[tokio::test]
async fn a_call_that_is_dropped_frees_its_place_and_its_late_answer_is_skipped() {
    let (connection, mut worker) = connect(Limits { window: 1, ..LIMITS }).await;
    for length in [0, 100, 3 * MIB] {
        let request = connection.next_request();
        let pool = Pool::new(4 * MIB);
        {
            let frame = Frame::new(PUSH, vec![], |out| out.put_u64(request));
            let mut dropped = pin!(connection.call(request, frame, Some(pool.take(4 * MIB))));
            assert!(poll(dropped.as_mut()).is_pending());
            assert_eq!(worker.request().await, Some((request, vec![])));
        }
        assert!(format!("{pool:?}").starts_with("Pool(1 buffers"), "its room is given back at once");
        let next = async {
            let answer = call(&connection, vec![], None).await.unwrap();
            assert_eq!(number(&answer), request + 1);
        };
        let serve = async {
            let (request_after, _) = worker.request().await.unwrap();
            worker.answer(FETCHED, request, &pattern(length, 1)).await;
            worker.answer(REPLY, request_after, &[]).await;
        };
        tokio::join!(next, serve);
    }
    let waiting_for_its_turn = {
        let mut first = pin!(call(&connection, vec![], None));
        assert!(poll(first.as_mut()).is_pending());
        let mut second = pin!(call(&connection, vec![], None));
        assert!(poll(second.as_mut()).is_pending());
        worker.request().await.unwrap().0
    };
    worker.answer(REPLY, waiting_for_its_turn, &[]).await;
    worker.assert_quiet().await;
}

#[tokio::test(start_paused = true)]
async fn a_call_without_an_answer_times_out_and_the_connection_goes_on() {
    let _held = hold_clock();
    let (connection, mut worker) = connect(LIMITS).await;
    for length in [0, 100, 3 * MIB] {
        let mut slow = pin!(call(&connection, vec![], Some(4 * MIB)));
        assert!(poll(slow.as_mut()).is_pending());
        let (late, _) = worker.request().await.unwrap();
        advance(5 * SECOND - Duration::from_millis(1)).await;
        assert!(poll(slow.as_mut()).is_pending());
        advance(Duration::from_millis(2)).await;
        assert_eq!(slow.await.unwrap_err(), CallError::TimedOut);
        assert!(connection.is_open());

        let serve = async {
            worker.answer(FETCHED, late, &pattern(length, 1)).await;
            let (request, _) = worker.request().await.unwrap();
            worker.answer(REPLY, request, b"in time").await;
        };
        let (answer, ()) = tokio::join!(call(&connection, vec![], Some(7)), serve);
        assert_eq!(answer.unwrap().body.unwrap().as_ref(), b"in time");
    }
}

/// A call that the worker reads and does not answer.
async fn time_out(connection: &Connection, worker: &mut Worker) -> u64 {
    let mut unanswered = pin!(call(connection, vec![], None));
    assert!(poll(unanswered.as_mut()).is_pending());
    let (request, _) = worker.request().await.unwrap();
    advance(5 * SECOND).await;
    assert_eq!(unanswered.await.unwrap_err(), CallError::TimedOut);
    request
}

#[tokio::test(start_paused = true)]
async fn a_worker_of_which_nothing_is_heard_for_long_is_given_up() {
    let _held = hold_clock();
    let (connection, mut worker) = connect(LIMITS).await;
    for _ in 0..7 {
        let request = time_out(&connection, &mut worker).await;
        // An answer that nobody waits for any more is a sign of life all the same.
        worker.answer(REPLY, request, &[]).await;
    }
    let serve = async {
        let (request, _) = worker.request().await.unwrap();
        worker.answer(REPLY, request, &[]).await;
    };
    tokio::join!(call(&connection, vec![], None), serve).0.unwrap();
    for number in 1..=8 {
        time_out(&connection, &mut worker).await;
        assert_eq!(connection.is_open(), number < 8, "after {} s", number * 5);
    }
    match call(&connection, vec![], None).await.unwrap_err() {
        CallError::Closed { reason } => assert_eq!(reason, "nothing was heard of the worker for 40 s"),
        other => panic!("{other}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_takes_nothing_times_every_call_out_and_is_given_up_at_last() {
    let _held = hold_clock();
    let (connection, _worker) = connect(Limits { window: 1, ..LIMITS }).await;
    let body = Bytes::from(vec![0; 64 * MIB]);
    for number in 0..4 {
        let mut call = Box::pin(call(&connection, vec![body.clone()], None));
        stall(call.as_mut()).await;
        advance(6 * SECOND).await;
        assert_eq!(call.await.unwrap_err(), CallError::TimedOut, "call {number}");
        assert!(connection.is_open(), "a worker may leave a connection unread for 30 s");
    }
    for _ in 0..20 {
        advance(3 * SECOND).await;
    }
    assert!(!connection.is_open());
    match call(&connection, vec![], None).await.unwrap_err() {
        CallError::Closed { reason } => assert!(reason.starts_with("write: the peer moved less than"), "{reason}"),
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn a_failure_is_the_answer_to_its_call_alone() {
    let (connection, mut worker) = connect(LIMITS).await;
    let serve = async {
        let requests = [worker.request().await.unwrap().0, worker.request().await.unwrap().0];
        worker.fail(requests[0], Status::NotHere, "no such location").await;
        worker.answer(REPLY, requests[1], &[]).await;
        let (request, _) = worker.request().await.unwrap();
        // A failure that cannot be read is one nevertheless.
        worker.answer(FAILURE, request, b"and a body").await;
    };
    let calls = async {
        let (first, second) = tokio::join!(call(&connection, vec![], None), call(&connection, vec![], None));
        let failed = CallError::Failed { status: Status::NotHere, text: "no such location".to_owned() };
        assert_eq!(first.unwrap_err(), failed);
        assert!(second.is_ok());
        let third = call(&connection, vec![], Some(100)).await.unwrap_err();
        assert!(matches!(third, CallError::Failed { status: Status::Malformed, .. }), "{third}");
    };
    tokio::join!(serve, calls);
    assert!(connection.is_open());
}

#[tokio::test]
async fn an_answer_larger_than_its_room_is_refused_and_the_connection_goes_on() {
    let (connection, mut worker) = connect(LIMITS).await;
    for (length, room, fits) in [
        (100, Some(100), true),
        (101, Some(100), false),
        (1, None, false),
        // Larger than the cluster's limit on pushes: that is not a limit on answers.
        (3 * MIB, Some(3 * MIB), true),
        (3 * MIB + 1, Some(3 * MIB), false),
        (3 * MIB, None, false),
    ] {
        let serve = async {
            let (request, _) = worker.request().await.unwrap();
            worker.answer(FETCHED, request, &pattern(length, 1)).await;
        };
        match tokio::join!(call(&connection, vec![], room), serve).0 {
            Ok(answer) => assert!(fits && answer.body.unwrap().as_ref() == pattern(length, 1)),
            Err(CallError::Failed { status, text }) => {
                assert_eq!((fits, status), (false, Status::TooLarge));
                assert_eq!(text, format!("an answer of {length} bytes, more than was asked for"));
            }
            Err(other) => panic!("{other}"),
        }
    }
}

#[tokio::test]
async fn the_end_of_a_connection_fails_every_call_with_its_reason() {
    let garbage = "read: a frame claims a header of 1195725856 bytes";
    let cases: [(&[u8], &str); 3] = [
        (&[], "closed by the worker"),
        (b"GET / HTTP/1.1\r\n", garbage),
        (&frame(FAILURE, &[0, 0, 0, 0, 0, 0, 0, 0, 24, 0, 4, b'l', b'a', b't', b'e'], &[]), {
            "closed by the worker (shutting_down): late"
        }),
    ];
    for (last_words, expected) in cases {
        let (connection, mut worker) = connect(Limits { window: 2, ..LIMITS }).await;
        let calls: Vec<_> = (0..5)
            .map(|_| {
                let connection = connection.clone();
                tokio::spawn(async move { call(&connection, vec![], None).await })
            })
            .collect();
        worker.request().await.unwrap();
        worker.request().await.unwrap();
        // Written past the frames: these bytes are none.
        let Worker { inbound, mut outbound } = worker;
        outbound.push_frame(Frame { head: last_words.into(), body: vec![] });
        outbound.flush().await.unwrap();
        outbound.close().await;
        for call in calls {
            match call.await.unwrap().unwrap_err() {
                CallError::Closed { reason } => assert!(reason.starts_with(expected), "{reason}"),
                other => panic!("{other}"),
            }
        }
        assert!(!connection.is_open());
        assert!(matches!(call(&connection, vec![], None).await, Err(CallError::Closed { .. })));
        drop(inbound);
    }
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_closes_in_the_middle_of_a_push_is_heard() {
    let _held = hold_clock();
    let (connection, worker) = connect(LIMITS).await;
    let mut push = pin!(call(&connection, vec![Bytes::from(vec![0; 64 * MIB])], None));
    stall(push.as_mut()).await;
    let Worker { inbound, mut outbound } = worker;
    let failure = Failure { request: 0, status: Status::TooLarge, text: "a body too large".to_owned() };
    outbound.push(FAILURE, |out| failure.encode(out));
    outbound.flush().await.unwrap();
    // With bytes unread in its socket, the connection is reset.
    drop((inbound, outbound));
    assert_eq!(push.await.unwrap_err(), closed("closed by the worker (too_large): a body too large"));
}

#[tokio::test]
async fn a_message_without_an_answer_is_sent_and_fails_once_the_connection_is_closed() {
    let (connection, mut worker) = connect(LIMITS).await;
    let told = || Frame::new(Kind::CloseStream as u8, vec![], |out| out.put_u64(42));
    connection.tell(told()).await.unwrap();
    assert_eq!(worker.request().await, Some((42, vec![])));
    drop(worker);
    while connection.is_open() {
        settle().await;
    }
    settle().await;
    assert_eq!(connection.tell(told()).await, Err(closed("closed by the worker")));
}

#[tokio::test]
async fn dropping_the_last_clone_ends_both_tasks() {
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let (connection, mut worker) = connect(LIMITS).await;
    assert_eq!(tasks(), 2);
    let clone = connection.clone();
    drop(connection);
    settle().await;
    assert_eq!(tasks(), 2);
    drop(clone);
    assert_eq!(worker.request().await, None);
    settle().await;
    assert_eq!(tasks(), 0);

    // Also when it is in the middle of a write that the worker does not take.
    let (connection, _worker) = connect(LIMITS).await;
    {
        let mut stuck = pin!(call(&connection, vec![Bytes::from(vec![0; 64 * MIB])], None));
        stall(stuck.as_mut()).await;
    }
    assert_eq!(tasks(), 2);
    drop(connection);
    settle().await;
    assert_eq!(tasks(), 0);
}

#[tokio::test]
async fn a_refused_hello_says_why() {
    let mut header = Vec::new();
    let text = "this worker belongs to the cluster other".to_owned();
    Failure { request: 0, status: Status::WrongCluster, text }.encode(&mut header);
    let error = refused(Some(&frame(FAILURE, &header, &[]))).await;
    assert!(matches!(error, OpenError::Refused { status: Status::WrongCluster, .. }));
    let text = error.to_string();
    assert!(
        text.ends_with("refuses the connection (wrong_cluster): this worker belongs to the cluster other"),
        "{text}"
    );
}

#[tokio::test]
async fn a_welcome_in_a_version_that_was_not_offered_is_refused() {
    for version in [0, hello().newest + 1] {
        let mut header = Vec::new();
        Welcome { version, body_limit: 1, incarnation: Incarnation(8) }.encode(&mut header);
        let error = refused(Some(&frame(Kind::Welcome as u8, &header, &[]))).await;
        assert!(matches!(error, OpenError::Protocol { .. }), "{error}");
        let expected = format!("version {version}, offered were 1 to 1: update the older");
        assert!(error.to_string().contains(&expected), "{error}");
    }
}

#[tokio::test]
async fn a_peer_that_is_no_worker_is_told_from_one() {
    let cases: [(&[u8], &str); 6] = [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "a frame claims a header of"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "a frame claims a header of"),
        (b"", "it closed the connection after the hello"),
        (&frame(65, &[0; 3], &[]), "the header ends"),
        (&frame(65, &[0; 14], &[1]), "a frame claims a body of 1 bytes"),
        (&frame(66, &[0; 14], &[]), "unknown message type 66"),
    ];
    for (answer, expected) in cases {
        let error = refused(Some(answer)).await;
        assert!(matches!(error, OpenError::Protocol { .. }), "{error}");
        assert!(error.to_string().contains(expected), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_does_not_answer_the_hello_is_waited_for_no_longer_than_allowed() {
    let _held = hold_clock();
    let mut open = Box::pin(refused(None));
    stall(open.as_mut()).await;
    advance(SECOND - Duration::from_millis(1)).await;
    assert!(poll(open.as_mut()).is_pending());
    advance(Duration::from_millis(2)).await;
    let error = open.await;
    assert!(matches!(&error, OpenError::Io(error) if error.kind() == std::io::ErrorKind::TimedOut), "{error}");
    assert!(error.to_string().starts_with("hello to 127.0.0.1:"), "{error}");
}

#[tokio::test]
async fn a_port_without_a_listener_is_an_error_that_names_it() {
    let address = Listener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string();
    let error = Connection::open(&address, &hello(), LIMITS).await.unwrap_err();
    assert!(matches!(&error, OpenError::Io(error) if error.kind() == std::io::ErrorKind::ConnectionRefused));
    assert!(error.to_string().starts_with(&format!("connect to {address}: ")), "{error}");
}
