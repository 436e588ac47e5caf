//! The worker's data port: frames of a connection whose hello was good, to a worker that has something to lose.

use std::time::Duration;

use mallorn_proto::batch::{BatchHeader, Codec, ENVELOPE_BYTES, Envelope, Place, encode_overhead};
use mallorn_proto::frame::Prefix;
use mallorn_proto::id::{
    Application, Attempt, BatchId, Handle, Instance, LocationId, MapId, Partition, SealId, ShuffleId,
};
use mallorn_proto::limits::{BODY_BYTES_DEFAULT, FRAME_PREFIX_BYTES};
use mallorn_proto::message::{
    Failure, Fetch, Fetched, Hello, Kind, MergedPart, Open, Opened, Push, PushMerged, PushReply, Role,
};
use mallorn_proto::status::Status;
use mallorn_proto::{v1, version};
use mallorn_runtime::clock;
use mallorn_runtime::net::Stream;
use mallorn_worker::{Running, WorkerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::door::runtime;
use crate::feed::Feed;
use crate::worker::{Asker, CLUSTER, start};

/// No answer is waited for longer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Most frames of one input.
const FRAMES_MAX: usize = 32;

/// The role, then frames: as bytes, or pushes that are right but for one thing.
pub fn target(data: &[u8]) {
    let mut feed = Feed::new(data);
    runtime().block_on(async {
        let worker = start(WorkerConfig::default()).await.expect("a worker without disks");
        let asker = Asker::new(&worker);
        let locations: Vec<_> = (0..2).map(|partition| v1::LocationId { shuffle: 1, partition, epoch: 0 }).collect();
        let reserved = asker.reserve(application().into(), locations.clone()).await;
        let handles: Vec<_> = reserved.locations.iter().map(|one| Handle(one.handle)).collect();
        let role = [Role::Push, Role::Fetch, Role::Replicate][usize::from(feed.byte() % 3)];
        let acked = talk(&worker, role, &handles, &mut feed).await;
        // Another connection, whatever became of the first.
        let mut peer = Peer::open(&worker, Role::Push, application()).await.expect("a hello that is right");
        let one = batch(0, 9, b"fine");
        assert_eq!(peer.push(handles[0], &one).await, [Status::Success]);
        let frozen = asker.freeze(application().into(), locations).await;
        let held = [acked[0] + one.len() as u64, acked[1]];
        for (frozen, told) in frozen.locations.iter().zip(held) {
            assert!(frozen.acked_length >= told, "{told} bytes were acked, {} are there", frozen.acked_length);
        }
        assert!(role == Role::Push || frozen.locations[1].acked_length == 0, "only pushes are kept");
        drop(peer);
        asker.release(application().into()).await;
        let rests = async {
            while worker.memory().held_total_bytes() > 0 {
                tokio::task::yield_now().await;
            }
        };
        let rested = clock::timeout(PATIENCE, rests).await;
        assert!(rested.is_ok(), "still held: {:?}", worker.memory());
    });
}

fn application() -> Application {
    Application { name: "engine".to_owned(), instance: Instance(7) }
}

fn batch(partition: u32, map: u32, payload: &[u8]) -> Vec<u8> {
    let place = Place { instance: Instance(7), shuffle: ShuffleId(1), partition: Partition(partition) };
    let length = (payload.len() + ENVELOPE_BYTES) as u32;
    let header = BatchHeader { map: MapId(map), attempt: Attempt(0), batch: BatchId(0), length };
    let envelope = Envelope { codec: Codec::None, last: false, raw_length: payload.len() as u32, crc: 0 };
    let (overhead, _) = encode_overhead(&place, &header, &envelope, payload);
    [&overhead[..], payload].concat()
}

/// Sends everything, hears everything that is answered, and tells how many bytes of each location were acked for sure.
async fn talk(worker: &Running, role: Role, handles: &[Handle], feed: &mut Feed<'_>) -> [u64; 2] {
    let Some(mut peer) = Peer::open(worker, role, application()).await else {
        assert_eq!(role, Role::Replicate, "a forwarding worker names no application, others do");
        return [0; 2];
    };
    let mut sent = Sent::default();
    for number in 0..FRAMES_MAX as u64 {
        if feed.is_empty() {
            break;
        }
        let frame = sent.next(handles, number, feed);
        if peer.stream.write_all(&frame).await.is_err() {
            break;
        }
    }
    // What is sent no more may be answered still. A connection that was ended is ended still.
    drop(peer.stream.shutdown().await);
    let mut acked = [0; 2];
    while let Some((kind, header, _)) = peer.receive().await {
        match kind {
            Kind::PushReply => sent.acked(&PushReply::decode(&header).expect("a worker's own words"), &mut acked),
            Kind::Failure => {
                let failure = Failure::decode(&header).expect("a worker's own words");
                assert!(!failure.text.is_empty(), "{failure:?}");
            }
            Kind::Opened => drop(Opened::decode(&header).expect("a worker's own words")),
            Kind::Fetched => drop(Fetched::decode(&header).expect("a worker's own words")),
            other => panic!("a worker does not say {other:?}"),
        }
    }
    acked
}

/// Pushes that were right, by their request's number: the location and the bytes of each part.
#[derive(Default)]
struct Sent {
    right: Vec<(u64, Vec<(usize, u64)>)>,
}

impl Sent {
    fn next(&mut self, handles: &[Handle], number: u64, feed: &mut Feed<'_>) -> Vec<u8> {
        // Requests of frames that come as bytes seldom have such a number.
        let request = 0xfeed_0000_0000_0000 + number;
        match feed.byte() % 4 {
            0 => feed.piece().to_vec(),
            1 => {
                let (kind, header, body) = (feed.byte(), feed.piece(), feed.piece());
                frame(kind, header, body)
            }
            2 => self.push(handles, request, feed),
            _ => self.push_many(handles, request, feed),
        }
    }

    fn push(&mut self, handles: &[Handle], request: u64, feed: &mut Feed<'_>) -> Vec<u8> {
        let (partition, flip) = (usize::from(feed.byte() & 1), feed.u16());
        let mut body = batch(partition as u32, 1, feed.piece());
        let mut header = Vec::new();
        Push { request, handle: handles[partition] }.encode(&mut header);
        if flip == 0 {
            self.right.push((request, vec![(partition, body.len() as u64)]));
        } else {
            let at = usize::from(flip) % body.len();
            body[at] ^= 1 << (flip % 8);
        }
        frame(Kind::Push as u8, &header, &body)
    }

    fn push_many(&mut self, handles: &[Handle], request: u64, feed: &mut Feed<'_>) -> Vec<u8> {
        let (count, skew) = (usize::from(feed.byte() % 8), feed.u16());
        let (mut parts, mut told, mut body) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..count {
            let partition = usize::from(feed.byte() & 1);
            let one = batch(partition as u32, 2, feed.piece());
            parts.push(MergedPart { handle: handles[partition], length: one.len() as u32 });
            told.push((partition, one.len() as u64));
            body.extend_from_slice(&one);
        }
        let is_right = skew == 0 || parts.len() < 2;
        if is_right {
            self.right.push((request, told));
        } else {
            // The sum is right, and each border is not.
            let moved = u32::from(skew).min(parts[0].length);
            parts[0].length -= moved;
            parts[1].length += moved;
        }
        let mut header = Vec::new();
        PushMerged::encode(request, &parts, &mut header).expect("few parts");
        frame(Kind::PushMerged as u8, &header, &body)
    }

    fn acked(&self, reply: &PushReply, acked: &mut [u64; 2]) {
        let Some((_, parts)) = self.right.iter().find(|(request, _)| *request == reply.request) else { return };
        assert_eq!(parts.len(), reply.statuses.len(), "one status for each location");
        for ((partition, bytes), status) in parts.iter().zip(&reply.statuses) {
            assert_eq!(*status, Status::Success, "what is right is taken");
            acked[*partition] += bytes;
        }
    }
}

fn frame(kind: u8, header: &[u8], body: &[u8]) -> Vec<u8> {
    let prefix = Prefix { header_length: header.len() as u32, kind, body_length: body.len() as u32 };
    let mut frame = Vec::with_capacity(prefix.frame_length());
    prefix.encode(&mut frame);
    frame.extend_from_slice(header);
    frame.extend_from_slice(body);
    frame
}

/// A plain client of the data port.
pub struct Peer {
    stream: Stream,
    opened: u64,
}

impl Peer {
    /// A connection whose hello was heard; `None` where it was refused.
    pub async fn open(worker: &Running, role: Role, application: Application) -> Option<Self> {
        let address = worker.data_address().to_string();
        let stream = Stream::connect(&address, PATIENCE).await.expect("the data port is open");
        let mut peer = Self { stream, opened: 0 };
        let hello = Hello {
            oldest: version::OLDEST,
            newest: version::CURRENT,
            role,
            worker: worker.worker(),
            incarnation: worker.incarnation(),
            application,
            cluster: CLUSTER.to_owned(),
            credential: Vec::new(),
        };
        let mut header = Vec::new();
        hello.encode(&mut header).expect("short names");
        peer.send(Kind::Hello, &header, &[]).await;
        let (kind, _, _) = peer.receive().await.expect("a hello is answered");
        (kind == Kind::Welcome).then_some(peer)
    }

    /// A connection that reads.
    ///
    /// # Panics
    /// When the worker refuses it.
    pub async fn open_to_read(worker: &Running, application: Application) -> Self {
        Self::open(worker, Role::Fetch, application).await.expect("a hello that is right")
    }

    async fn send(&mut self, kind: Kind, header: &[u8], body: &[u8]) {
        self.stream.write_all(&frame(kind as u8, header, body)).await.expect("the worker listens");
    }

    /// The next frame; `None` when the worker has ended the connection.
    async fn receive(&mut self) -> Option<(Kind, Vec<u8>, Vec<u8>)> {
        let received = clock::timeout(PATIENCE, self.receive_in_time()).await;
        received.expect("a worker answers, or ends the connection")
    }

    async fn receive_in_time(&mut self) -> Option<(Kind, Vec<u8>, Vec<u8>)> {
        let mut prefix = [0; FRAME_PREFIX_BYTES];
        self.stream.read_exact(&mut prefix).await.ok()?;
        let prefix = Prefix::decode(&prefix, BODY_BYTES_DEFAULT as usize).expect("a worker's frames are in bounds")?;
        let mut header = vec![0; prefix.header_length as usize];
        self.stream.read_exact(&mut header).await.ok()?;
        let mut body = vec![0; prefix.body_length as usize];
        self.stream.read_exact(&mut body).await.ok()?;
        Some((Kind::from_wire(prefix.kind).expect("a worker's frames have a kind"), header, body))
    }

    async fn push(&mut self, handle: Handle, batch: &[u8]) -> Vec<Status> {
        let mut header = Vec::new();
        Push { request: 1, handle }.encode(&mut header);
        self.send(Kind::Push, &header, batch).await;
        let (_, header, _) = self.receive().await.expect("a push is answered");
        PushReply::decode(&header).expect("a worker's own words").statuses
    }

    /// Opens a location, and tells its length; `None` where it is not here.
    pub async fn find(&mut self, location: LocationId, seal: SealId) -> Option<u64> {
        let mut header = Vec::new();
        Open { request: 2, location, seal, map_start: 0, map_end: u32::MAX }.encode(&mut header);
        self.send(Kind::Open, &header, &[]).await;
        let (kind, header, _) = self.receive().await.expect("an open is answered");
        if kind != Kind::Opened {
            return None;
        }
        let opened = Opened::decode(&header).expect("a worker's own words");
        self.opened = opened.stream;
        Some(opened.length)
    }

    /// All bytes of what was opened last; `None` where they can't be read.
    pub async fn read(&mut self, length: u64) -> Option<Vec<u8>> {
        let (mut offset, mut all) = (0, Vec::new());
        while offset < length {
            let mut header = Vec::new();
            Fetch { request: 3, stream: self.opened, offset, limit: BODY_BYTES_DEFAULT }.encode(&mut header);
            self.send(Kind::Fetch, &header, &[]).await;
            let (kind, header, body) = self.receive().await.expect("a fetch is answered");
            if kind != Kind::Fetched {
                return None;
            }
            let fetched = Fetched::decode(&header).expect("a worker's own words");
            assert!(fetched.next > offset && fetched.next <= length, "every answer gets further");
            offset = fetched.next;
            all.extend_from_slice(&body);
        }
        Some(all)
    }
}
