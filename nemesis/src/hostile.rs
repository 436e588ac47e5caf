//! Bytes that nobody should send: garbage, frames that are cut off or claim too much, versions and names that are wrong,
//! broken HTTP/2, endless headers, silence, single bytes with long pauses.
//!
//! Owns the bytes and how they are sent: each connection for a few seconds at most. Does not own what must come of it.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use mallorn_proto::frame::Prefix;
use mallorn_proto::id::{Application, Incarnation, Instance, WorkerId};
use mallorn_proto::message::{Hello, Kind, Role};
use mallorn_runtime::clock::{self, Instant};
use mallorn_runtime::net::Stream;
use mallorn_runtime::random::Random;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// How long connecting may take, and one connection in all.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
const CONNECTION_WITHIN: Duration = Duration::from_secs(4);
/// Between the bytes of one that is slow.
const TRICKLE: Duration = Duration::from_millis(50);
/// Between two connections of one attacker: the job needs the processors, too.
const PAUSE: Duration = Duration::from_millis(20);
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What is spoken at a port.
#[derive(Clone, Debug)]
pub(crate) enum Door {
    /// Mallorn's frames; with a hello that is taken.
    Frames(Box<Hello>),
    /// HTTP/2.
    Grpc,
    /// HTTP/1.
    Http,
}

/// A port.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) door: Door,
    pub(crate) address: String,
}

/// What an attack did.
#[derive(Clone, Debug, Default)]
pub(crate) struct Said {
    pub(crate) connections: u64,
    pub(crate) megabytes: f64,
    /// Ports that did not take a connection.
    pub(crate) unreached: BTreeSet<String>,
}

/// Attackers share it.
#[derive(Debug)]
pub(crate) struct Attack {
    targets: Vec<Target>,
    said: Mutex<Said>,
}

/// How bytes are sent, and what comes after them.
#[derive(Clone, Copy, Debug)]
enum Manner {
    /// At once, and then the end.
    Closing,
    /// At once, and then silence.
    Silent,
    /// Byte by byte.
    Trickling,
}

impl Attack {
    pub(crate) fn new(targets: Vec<Target>) -> Self {
        Self { targets, said: Mutex::default() }
    }

    pub(crate) fn said(&self) -> Said {
        self.said.lock().clone()
    }

    /// Connects again and again until then.
    pub(crate) async fn strike(self: Arc<Self>, seed: u64, until: Instant) {
        let random = Random::seeded(seed);
        while clock::now() < until {
            let target = &self.targets[random.below(self.targets.len() as u64) as usize];
            let bytes = target.bytes(&random);
            match Stream::connect(&target.address, CONNECT_WITHIN).await {
                Ok(stream) => {
                    let manner = match random.below(10) {
                        0 => Manner::Trickling,
                        1..=2 => Manner::Silent,
                        _ => Manner::Closing,
                    };
                    let sent = clock::timeout(CONNECTION_WITHIN, send(stream, &bytes, manner)).await;
                    let mut said = self.said.lock();
                    said.connections += 1;
                    // One that was hung up on has sent some of it.
                    if let Ok(Ok(sent)) = sent {
                        said.megabytes += sent as f64 / 1e6;
                    }
                }
                Err(error) => {
                    self.said.lock().unreached.insert(format!("{}: {error}", target.address));
                }
            }
            clock::sleep(PAUSE).await;
        }
    }
}

async fn send(mut stream: Stream, bytes: &[u8], manner: Manner) -> io::Result<usize> {
    let mut answer = [0; 4096];
    match manner {
        Manner::Trickling => {
            for byte in bytes {
                stream.write_all(std::slice::from_ref(byte)).await?;
                clock::sleep(TRICKLE).await;
            }
        }
        Manner::Closing => {
            stream.write_all(bytes).await?;
            // What is answered is read, now and then, and left otherwise.
            let _ = clock::timeout(Duration::from_millis(100), stream.read(&mut answer)).await;
        }
        Manner::Silent => {
            stream.write_all(bytes).await?;
            clock::sleep(CONNECTION_WITHIN / 2).await;
        }
    }
    Ok(bytes.len())
}

impl Target {
    fn bytes(&self, random: &Random) -> Bytes {
        match &self.door {
            _ if random.below(8) == 0 => garbage(random, 64 * 1024),
            Door::Frames(hello) => frames(hello, random),
            Door::Grpc => http2(random),
            Door::Http => http(random),
        }
    }
}

fn garbage(random: &Random, most: u64) -> Bytes {
    let length = random.below(most) as usize;
    let words = std::iter::repeat_with(|| random.id().to_le_bytes()).flatten();
    words.take(length).collect()
}

fn put_hello(into: &mut BytesMut, hello: &Hello) {
    let mut header = BytesMut::new();
    // Names here are short.
    if hello.encode(&mut header).is_ok() {
        Prefix { header_length: header.len() as u32, kind: Kind::Hello as u8, body_length: 0 }.encode(into);
        into.extend_from_slice(&header);
    }
}

/// A wrong hello, or a right one and something wrong after it.
fn frames(good: &Hello, random: &Random) -> Bytes {
    let mut bytes = BytesMut::new();
    match random.below(10) {
        0 => Prefix { header_length: u32::MAX, kind: Kind::Hello as u8, body_length: u32::MAX }.encode(&mut bytes),
        1 => put_hello(&mut bytes, &Hello { oldest: 900, newest: 901, ..good.clone() }),
        2 => put_hello(&mut bytes, &Hello { cluster: "another".to_owned(), ..good.clone() }),
        3 => put_hello(&mut bytes, &Hello { worker: WorkerId(random.wide_id()), ..good.clone() }),
        4 => put_hello(&mut bytes, &Hello { incarnation: Incarnation(random.id()), ..good.clone() }),
        5 => {
            put_hello(&mut bytes, good);
            bytes.truncate(random.below(bytes.len() as u64) as usize);
        }
        _ => {
            put_hello(&mut bytes, &of_some_role(good, random));
            after_hello(&mut bytes, random);
        }
    }
    bytes.freeze()
}

fn of_some_role(good: &Hello, random: &Random) -> Hello {
    match random.below(3) {
        0 => good.clone(),
        1 => Hello { role: Role::Fetch, incarnation: Incarnation(0), ..good.clone() },
        _ => {
            let nobody = Application { name: String::new(), instance: Instance::default() };
            Hello { role: Role::Replicate, application: nobody, ..good.clone() }
        }
    }
}

fn after_hello(bytes: &mut BytesMut, random: &Random) {
    let kind = Kind::Hello as u8 + random.below(14) as u8;
    match random.below(5) {
        0 => bytes.extend_from_slice(&garbage(random, 16 * 1024)),
        // Claims more than may be.
        1 => Prefix { header_length: 16, kind, body_length: u32::MAX / 2 }.encode(bytes),
        // Claims more than comes.
        2 => {
            Prefix { header_length: 16, kind, body_length: 1 << 20 }.encode(bytes);
            bytes.extend_from_slice(&garbage(random, 256 * 1024));
        }
        // Whole frames of nonsense.
        _ => {
            for _ in 0..random.below(20) {
                let (header, body) = (garbage(random, 200), garbage(random, 8 * 1024));
                let lengths = (header.len() as u32, body.len() as u32);
                Prefix { header_length: lengths.0, kind, body_length: lengths.1 }.encode(bytes);
                bytes.extend_from_slice(&header);
                bytes.extend_from_slice(&body);
            }
        }
    }
}

fn put_http2_frame(bytes: &mut BytesMut, kind: u8, stream: u32, payload: &[u8]) {
    bytes.put_uint(payload.len() as u64, 3);
    bytes.put_u8(kind);
    bytes.put_u8(0);
    bytes.put_u32(stream);
    bytes.extend_from_slice(payload);
}

fn http2(random: &Random) -> Bytes {
    let mut bytes = BytesMut::new();
    match random.below(6) {
        0 => bytes.extend_from_slice(&PREFACE[..random.below(PREFACE.len() as u64) as usize]),
        1 => {
            bytes.extend_from_slice(PREFACE);
            bytes.extend_from_slice(&garbage(random, 16 * 1024));
        }
        // A frame that claims 16 MiB.
        2 => {
            bytes.extend_from_slice(PREFACE);
            bytes.extend_from_slice(&[0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1]);
            bytes.extend_from_slice(&garbage(random, 64 * 1024));
        }
        // Streams that are opened with nonsense, and never ended.
        3 => {
            bytes.extend_from_slice(PREFACE);
            put_http2_frame(&mut bytes, 4, 0, &[]);
            for stream in 0..200 {
                put_http2_frame(&mut bytes, 1, stream * 2 + 1, &garbage(random, 100));
            }
        }
        // Settings and pings without end.
        4 => {
            bytes.extend_from_slice(PREFACE);
            for _ in 0..2000 {
                put_http2_frame(&mut bytes, 4, 0, &[]);
                put_http2_frame(&mut bytes, 6, 0, &[0; 8]);
            }
        }
        _ => bytes.extend_from_slice(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"),
    }
    bytes.freeze()
}

fn http(random: &Random) -> Bytes {
    let mut bytes = BytesMut::new();
    match random.below(5) {
        0 => bytes.extend_from_slice(b"GET /metrics HTTP/1.1\r\nHost: "),
        1 => {
            bytes.extend_from_slice(b"GET / HTTP/1.1\r\n");
            for number in 0..4000 {
                bytes.extend_from_slice(format!("X-{number}: {}\r\n", random.id()).as_bytes());
            }
        }
        2 => bytes.extend_from_slice(b"POST /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\nabc"),
        3 => {
            bytes.extend_from_slice(b"GET /");
            bytes.extend(std::iter::repeat_n(b'a', 100_000));
        }
        _ => bytes.extend_from_slice(PREFACE),
    }
    bytes.freeze()
}
