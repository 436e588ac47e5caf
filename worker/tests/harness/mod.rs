//! A worker in this process, and a plain client of its two ports.

#![allow(dead_code, reason = "each test file uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a failure here fails the test that called it")]

pub(crate) mod replica;
pub(crate) mod stage;

use mallorn_proto::batch::{BatchHeader, Codec, ENVELOPE_BYTES, Envelope, Place, encode_overhead};
use mallorn_proto::durability::Durability;
use mallorn_proto::frame::Prefix;
use mallorn_proto::id::{
    Application, Attempt, BatchId, Epoch, Handle, Incarnation, Instance, LocationId, MapId, Partition, SealId,
    ShuffleId, WorkerId,
};
use mallorn_proto::limits::{BODY_BYTES_DEFAULT, FRAME_PREFIX_BYTES};
use mallorn_proto::message::{
    CloseStream, Failure, Fetch, Fetched, Hello, Kind, MergedPart, Open, Opened, Push, PushMerged, PushReply, Role,
    Welcome,
};
use mallorn_proto::status::Status;
use mallorn_proto::v1;
use mallorn_proto::v1::reserve_request::Copy;
use mallorn_proto::v1::worker_client::WorkerClient;
use mallorn_runtime::clock;
use mallorn_runtime::config::ByteSize;
use mallorn_runtime::disk::Disk;
use mallorn_runtime::grpc;
use mallorn_runtime::net::Stream;
use mallorn_runtime::random::Random;
use mallorn_worker::{Running, StartError, Surroundings, WorkerConfig, start};
use prometheus::Registry;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tonic::transport::Channel;

pub(crate) const CLUSTER: &str = "test";
pub(crate) const SEAL: SealId = SealId(77);
/// Who hands over where a test does.
pub(crate) const LEAVES: WorkerId = WorkerId(99);
/// No wait of a test is longer than this.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn application() -> Application {
    Application { name: "engine".to_owned(), instance: Instance(7) }
}

/// Another one, which does not behave.
pub(crate) fn greedy() -> Application {
    Application { name: "greedy".to_owned(), instance: Instance(8) }
}

pub(crate) fn config() -> WorkerConfig {
    let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
    WorkerConfig {
        // Nobody listens there.
        master: "127.0.0.1:9".to_owned(),
        control_listen: any_port,
        data_listen: any_port,
        admin_listen: None,
        memory: Some(ByteSize::mib(32)),
        ..WorkerConfig::default()
    }
}

pub(crate) fn surroundings() -> Surroundings {
    Surroundings {
        cluster: CLUSTER.to_owned(),
        body_limit_bytes: BODY_BYTES_DEFAULT,
        disk: Disk::real(),
        random: Random::seeded(1),
        registry: Registry::new(),
    }
}

/// A worker and its gRPC door.
pub(crate) struct Node {
    pub(crate) running: Running,
    pub(crate) registry: Registry,
    /// What reservations and seals ask for.
    pub(crate) durability: Durability,
    control: WorkerClient<Channel>,
}

impl Node {
    pub(crate) async fn start(config: WorkerConfig) -> Self {
        Self::start_seeded(config, 1).await
    }

    /// Workers of one test draw different ids.
    pub(crate) async fn start_seeded(config: WorkerConfig, seed: u64) -> Self {
        Self::try_start(config, seed).await.unwrap()
    }

    /// Drains it, as SIGTERM does.
    pub(crate) async fn stop(self) {
        self.running.stop().await;
    }

    pub(crate) async fn try_start(config: WorkerConfig, seed: u64) -> Result<Self, StartError> {
        let surroundings = Surroundings { random: Random::seeded(seed), ..surroundings() };
        let registry = surroundings.registry.clone();
        let running = start(config, surroundings).await?;
        let channel = grpc::channel(&running.control_address().to_string(), PATIENCE).unwrap();
        let durability = Durability::Memory;
        Ok(Self { running, registry, durability, control: WorkerClient::new(channel) })
    }

    pub(crate) fn hello(&self, role: Role) -> Hello {
        Hello {
            oldest: 1,
            newest: 1,
            role,
            worker: self.running.worker(),
            incarnation: self.running.incarnation(),
            application: application(),
            cluster: CLUSTER.to_owned(),
            credential: Vec::new(),
        }
    }

    /// The same of the application that does not behave.
    pub(crate) fn greedy_hello(&self, role: Role) -> Hello {
        Hello { application: greedy(), ..self.hello(role) }
    }

    pub(crate) async fn connect(&self) -> Peer {
        Peer { stream: Stream::connect(&self.running.data_address().to_string(), PATIENCE).await.unwrap() }
    }

    /// A connection whose hello was accepted.
    pub(crate) async fn open(&self, role: Role) -> Peer {
        let mut peer = self.connect().await;
        let welcome = peer.hello(&self.hello(role)).await.unwrap();
        assert_eq!(welcome.body_limit, BODY_BYTES_DEFAULT);
        assert_eq!(welcome.incarnation, self.running.incarnation());
        peer
    }

    /// Where another worker reaches this one.
    pub(crate) fn address(&self) -> v1::WorkerAddress {
        v1::WorkerAddress {
            worker: Some(self.running.worker().into()),
            incarnation: self.running.incarnation().0,
            control: self.running.control_address().to_string(),
            data: self.running.data_address().to_string(),
            ..Default::default()
        }
    }

    pub(crate) async fn reserve_with(
        &self,
        incarnation: Incarnation,
        locations: &[LocationId],
    ) -> Result<v1::ReserveReply, tonic::Status> {
        self.reserve_as(incarnation, locations, Copy::Lone, None).await
    }

    pub(crate) async fn reserve_as(
        &self,
        incarnation: Incarnation,
        locations: &[LocationId],
        copy: Copy,
        replicas: Option<v1::Replicas>,
    ) -> Result<v1::ReserveReply, tonic::Status> {
        let request = v1::ReserveRequest {
            copy: copy.into(),
            replicas,
            incarnation: incarnation.0,
            from: (copy == Copy::HandedOver).then(|| LEAVES.into()),
            ..self.reservation(application(), locations)
        };
        self.control.clone().reserve(request).await.map(tonic::Response::into_inner)
    }

    fn reservation(&self, application: Application, locations: &[LocationId]) -> v1::ReserveRequest {
        v1::ReserveRequest {
            copy: Copy::Lone.into(),
            replicas: None,
            cluster: CLUSTER.to_owned(),
            application: Some(application.into()),
            worker: Some(self.running.worker().into()),
            incarnation: self.running.incarnation().0,
            locations: locations.iter().map(|id| (*id).into()).collect(),
            durability: self.durability.to_wire(),
            from: None,
            earlier: Vec::new(),
        }
    }

    /// Reserves for the application that does not behave.
    pub(crate) async fn reserve_greedy(&self, location: LocationId) -> v1::Reserved {
        let request = self.reservation(greedy(), &[location]);
        self.control.clone().reserve(request).await.unwrap().into_inner().locations[0]
    }

    pub(crate) async fn reserve(&self, location: LocationId) -> Handle {
        let reply = self.reserve_with(self.running.incarnation(), &[location]).await.unwrap();
        assert_eq!(reply.locations[0].outcome(), v1::reserved::Outcome::Reserved);
        Handle(reply.locations[0].handle)
    }

    pub(crate) async fn freeze(&self, location: LocationId) -> Option<u64> {
        let frozen = self.frozen(location).await;
        (!frozen.unknown && !frozen.moved).then_some(frozen.acked_length)
    }

    pub(crate) async fn frozen(&self, location: LocationId) -> v1::Frozen {
        let request = v1::FreezeRequest {
            cluster: CLUSTER.to_owned(),
            application: Some(application().into()),
            worker: Some(self.running.worker().into()),
            locations: vec![location.into()],
        };
        self.control.clone().freeze(request).await.unwrap().into_inner().locations[0]
    }

    /// Tells that what was sent of a location is all of it.
    pub(crate) async fn settle(&self, from: WorkerId, one: v1::SettleOne) -> bool {
        let request = v1::SettleRequest {
            cluster: CLUSTER.to_owned(),
            application: Some(application().into()),
            worker: Some(self.running.worker().into()),
            from: Some(from.into()),
            durability: self.durability.to_wire(),
            locations: vec![one],
        };
        self.control.clone().settle(request).await.unwrap().into_inner().settled[0]
    }

    pub(crate) async fn drain(&self, hand_over: bool) -> v1::DrainReply {
        let worker = Some(self.running.worker().into());
        let request = v1::DrainRequest { cluster: CLUSTER.to_owned(), worker, hand_over };
        self.control.clone().drain(request).await.unwrap().into_inner()
    }

    /// Drains it, and waits until all is written or handed over.
    pub(crate) async fn drained(&self, hand_over: bool) -> v1::DrainReply {
        let drained = async {
            loop {
                let reply = self.drain(hand_over).await;
                if reply.done {
                    return reply;
                }
                tokio::task::yield_now().await;
            }
        };
        clock::timeout(PATIENCE, drained).await.expect("nothing is left in time")
    }

    pub(crate) async fn seal(&self, location: LocationId, seal: SealId, length: u64) -> v1::Sealed {
        let one = v1::SealOne { location: Some(location.into()), seal: seal.0, length };
        let request = v1::SealRequest {
            cluster: CLUSTER.to_owned(),
            application: Some(application().into()),
            worker: Some(self.running.worker().into()),
            locations: vec![one],
            durability: self.durability.to_wire(),
        };
        self.control.clone().seal(request).await.unwrap().into_inner().locations[0]
    }

    /// Freezes and seals at what was acked.
    pub(crate) async fn commit(&self, location: LocationId) -> u64 {
        let length = self.freeze(location).await.unwrap();
        let sealed = self.seal(location, SEAL, length).await;
        assert_eq!(sealed.outcome(), v1::sealed::Outcome::Sealed);
        length
    }

    pub(crate) async fn release(&self, first: u32, end: u32) -> u64 {
        let request = v1::ReleaseRequest {
            cluster: CLUSTER.to_owned(),
            application: Some(application().into()),
            worker: Some(self.running.worker().into()),
            shuffles: vec![v1::Range { first, end }],
        };
        self.control.clone().release(request).await.unwrap().into_inner().bytes
    }

    /// Waits until nothing of the arena is held; connections at rest hold nothing.
    pub(crate) async fn rests(&self) {
        let rests = async {
            while self.running.memory().held_total_bytes() > 0 {
                tokio::task::yield_now().await;
            }
        };
        let waited = clock::timeout(PATIENCE, rests).await;
        assert!(waited.is_ok(), "still held: {:?}", self.running.memory());
    }

    /// The value of a counter or gauge, summed over the labels that hold `label`.
    pub(crate) fn metric(&self, name: &str, label: &str) -> f64 {
        let families = self.registry.gather();
        let family = families.iter().find(|family| family.name() == name).unwrap_or_else(|| panic!("no metric {name}"));
        let labelled = |metric: &&prometheus::proto::Metric| {
            label.is_empty() || metric.get_label().iter().any(|pair| pair.value() == label)
        };
        let value =
            |metric: &prometheus::proto::Metric| metric.get_counter().get_value() + metric.get_gauge().get_value();
        family.get_metric().iter().filter(labelled).map(value).sum()
    }
}

pub(crate) fn location(shuffle: u32, partition: u32) -> LocationId {
    LocationId { shuffle: ShuffleId(shuffle), partition: Partition(partition), epoch: Epoch(0) }
}

/// A batch as a client makes it.
pub(crate) fn batch(location: LocationId, map: u32, batch: u32, payload: &[u8]) -> Vec<u8> {
    batch_of(&application(), location, (map, batch), payload)
}

/// The same of another application.
pub(crate) fn batch_of(
    application: &Application,
    location: LocationId,
    (map, batch): (u32, u32),
    payload: &[u8],
) -> Vec<u8> {
    let place = Place { instance: application.instance, shuffle: location.shuffle, partition: location.partition };
    let length = (payload.len() + ENVELOPE_BYTES) as u32;
    let header = BatchHeader { map: MapId(map), attempt: Attempt(0), batch: BatchId(batch), length };
    let envelope = Envelope { codec: Codec::None, last: false, raw_length: payload.len() as u32, crc: 0 };
    let (overhead, _) = encode_overhead(&place, &header, &envelope, payload);
    [&overhead[..], payload].concat()
}

/// A frame, taken apart.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) kind: Kind,
    pub(crate) header: Vec<u8>,
    pub(crate) body: Vec<u8>,
}

/// A connection to the data port.
pub(crate) struct Peer {
    pub(crate) stream: Stream,
}

impl Peer {
    pub(crate) async fn send_bytes(&mut self, bytes: &[u8]) {
        clock::timeout(PATIENCE, self.stream.write_all(bytes)).await.expect("the worker reads").unwrap();
    }

    pub(crate) async fn send(&mut self, kind: Kind, header: &[u8], body: &[u8]) {
        let prefix = Prefix { header_length: header.len() as u32, kind: kind as u8, body_length: body.len() as u32 };
        let mut frame = Vec::new();
        prefix.encode(&mut frame);
        frame.extend_from_slice(header);
        frame.extend_from_slice(body);
        self.send_bytes(&frame).await;
    }

    /// The next frame; `None` when the worker has closed the connection.
    pub(crate) async fn receive(&mut self) -> Option<Message> {
        clock::timeout(PATIENCE, self.receive_in_time()).await.expect("the worker answers or closes in time")
    }

    async fn receive_in_time(&mut self) -> Option<Message> {
        let mut prefix = [0; FRAME_PREFIX_BYTES];
        self.stream.read_exact(&mut prefix).await.ok()?;
        let prefix = Prefix::decode(&prefix, 1 << 30).unwrap().unwrap();
        let mut header = vec![0; prefix.header_length as usize];
        self.stream.read_exact(&mut header).await.ok()?;
        let mut body = vec![0; prefix.body_length as usize];
        self.stream.read_exact(&mut body).await.ok()?;
        Some(Message { kind: Kind::from_wire(prefix.kind).unwrap(), header, body })
    }

    pub(crate) async fn hello(&mut self, hello: &Hello) -> Result<Welcome, Failure> {
        let mut header = Vec::new();
        hello.encode(&mut header).unwrap();
        self.send(Kind::Hello, &header, &[]).await;
        let answer = self.receive().await.expect("a hello is answered");
        match answer.kind {
            Kind::Welcome => Ok(Welcome::decode(&answer.header).unwrap()),
            Kind::Failure => Err(Failure::decode(&answer.header).unwrap()),
            kind => panic!("a hello was answered with {kind:?}"),
        }
    }

    pub(crate) async fn send_push(&mut self, request: u64, handle: Handle, batch: &[u8]) {
        let mut header = Vec::new();
        Push { request, handle }.encode(&mut header);
        self.send(Kind::Push, &header, batch).await;
    }

    pub(crate) async fn push(&mut self, handle: Handle, batch: &[u8]) -> Status {
        self.send_push(1, handle, batch).await;
        self.reply(1).await[0]
    }

    pub(crate) async fn push_merged(&mut self, parts: &[(Handle, Vec<u8>)]) -> Vec<Status> {
        let named: Vec<_> =
            parts.iter().map(|(handle, batch)| MergedPart { handle: *handle, length: batch.len() as u32 }).collect();
        let body: Vec<u8> = parts.iter().flat_map(|(_, batch)| batch.iter().copied()).collect();
        let mut header = Vec::new();
        PushMerged::encode(2, &named, &mut header).unwrap();
        self.send(Kind::PushMerged, &header, &body).await;
        self.reply(2).await
    }

    pub(crate) async fn reply(&mut self, request: u64) -> Vec<Status> {
        let reply = self.any_reply().await;
        assert_eq!(reply.request, request);
        reply.statuses
    }

    /// The next answer, whichever request it is to.
    pub(crate) async fn any_reply(&mut self) -> PushReply {
        let answer = self.receive().await.expect("a push is answered");
        assert_eq!(answer.kind, Kind::PushReply);
        PushReply::decode(&answer.header).unwrap()
    }

    pub(crate) async fn open_stream(&mut self, location: LocationId, maps: (u32, u32)) -> Result<Opened, Failure> {
        let mut header = Vec::new();
        Open { request: 3, location, seal: SEAL, map_start: maps.0, map_end: maps.1 }.encode(&mut header);
        self.send(Kind::Open, &header, &[]).await;
        let answer = self.receive().await.expect("an open is answered");
        match answer.kind {
            Kind::Opened => Ok(Opened::decode(&answer.header).unwrap()),
            _ => Err(Failure::decode(&answer.header).unwrap()),
        }
    }

    pub(crate) async fn fetch(&mut self, stream: u64, offset: u64, limit: u32) -> Result<(Fetched, Vec<u8>), Failure> {
        let mut header = Vec::new();
        Fetch { request: 4, stream, offset, limit }.encode(&mut header);
        self.send(Kind::Fetch, &header, &[]).await;
        let answer = self.receive().await.expect("a fetch is answered");
        match answer.kind {
            Kind::Fetched => Ok((Fetched::decode(&answer.header).unwrap(), answer.body)),
            _ => Err(Failure::decode(&answer.header).unwrap()),
        }
    }

    /// Everything that a stream has, fetch by fetch.
    pub(crate) async fn read_all(&mut self, opened: &Opened, limit: u32) -> Vec<u8> {
        let (mut offset, mut all) = (0, Vec::new());
        while offset < opened.length {
            let (fetched, body) = self.fetch(opened.stream, offset, limit).await.unwrap();
            assert!(fetched.next > offset, "every answer makes progress");
            offset = fetched.next;
            all.extend(body);
        }
        all
    }

    pub(crate) async fn close_stream(&mut self, stream: u64) {
        let mut header = Vec::new();
        CloseStream { stream }.encode(&mut header);
        self.send(Kind::CloseStream, &header, &[]).await;
    }

    /// The failure that the worker sends before it closes the connection.
    pub(crate) async fn last_words(&mut self) -> Failure {
        let message = self.receive().await.expect("a failure comes before the end");
        assert_eq!(message.kind, Kind::Failure);
        let failure = Failure::decode(&message.header).unwrap();
        assert_eq!(failure.request, 0);
        assert!(self.receive().await.is_none(), "the connection is closed");
        failure
    }
}
