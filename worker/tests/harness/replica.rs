//! Two copies of a location: both workers, or a replica that is played by the test.

use mallorn_proto::id::{Application, Handle, Incarnation, Instance, LocationId, WorkerId};
use mallorn_proto::message::{Hello, Kind, PushReply, Replicate, ReplicatedPart, Role, Welcome};
use mallorn_proto::status::Status;
use mallorn_proto::v1;
use mallorn_proto::v1::reserve_request::Copy;
use mallorn_proto::v1::reserved::Outcome;
use mallorn_runtime::net::Listener;

use super::{Node, Peer, config};

pub(crate) async fn two_workers() -> (Node, Node) {
    (Node::start(config()).await, Node::start_seeded(config(), 2).await)
}

pub(crate) async fn reserve_replica(node: &Node, id: LocationId) -> Handle {
    let reply = node.reserve_as(node.running.incarnation(), &[id], Copy::Replica, None).await.unwrap();
    assert_eq!(reply.locations[0].outcome(), Outcome::Reserved);
    Handle(reply.locations[0].handle)
}

pub(crate) async fn reserve_primary(
    node: &Node,
    id: LocationId,
    worker: v1::WorkerAddress,
    replica: Handle,
) -> v1::Reserved {
    let replicas = v1::Replicas { worker: Some(worker), handles: vec![replica.0] };
    let reply = node.reserve_as(node.running.incarnation(), &[id], Copy::Primary, Some(replicas)).await.unwrap();
    reply.locations[0]
}

/// Both copies; returns the primary's handle and the replica's.
pub(crate) async fn reserve_both(primary: &Node, replica: &Node, id: LocationId) -> (Handle, Handle) {
    let there = reserve_replica(replica, id).await;
    let reserved = reserve_primary(primary, id, replica.address(), there).await;
    assert_eq!(reserved.outcome(), Outcome::Reserved);
    (Handle(reserved.handle), there)
}

pub(crate) async fn read(node: &Node, id: LocationId) -> Vec<u8> {
    let mut reader = node.open(Role::Fetch).await;
    let opened = reader.open_stream(id, (0, u32::MAX)).await.unwrap();
    reader.read_all(&opened, 4 << 20).await
}

/// A replica that is played by the test.
pub(crate) struct Scripted {
    listener: Listener,
    address: v1::WorkerAddress,
}

/// A frame that it was sent.
pub(crate) struct Forwarded {
    pub(crate) request: u64,
    pub(crate) parts: Vec<ReplicatedPart>,
    pub(crate) body: Vec<u8>,
}

impl Scripted {
    pub(crate) async fn start() -> Self {
        let listener = Listener::bind("127.0.0.1:0").await.unwrap();
        let data = listener.local_addr().unwrap().to_string();
        let worker = Some(WorkerId(77).into());
        let address = v1::WorkerAddress { worker, incarnation: 78, data, ..Default::default() };
        Self { listener, address }
    }

    pub(crate) async fn reserve(&self, primary: &Node, id: LocationId) -> Handle {
        let reserved = reserve_primary(primary, id, self.address.clone(), Handle(u64::from(id.partition.0))).await;
        assert_eq!(reserved.outcome(), Outcome::Reserved);
        Handle(reserved.handle)
    }

    /// The link of a primary that has just said hello.
    pub(crate) async fn accept(&self) -> Link {
        let (stream, _) = self.listener.accept().await.unwrap();
        let mut peer = Peer { stream };
        let hello = Hello::decode(&peer.receive().await.unwrap().header).unwrap();
        assert_eq!((hello.role, hello.worker, hello.incarnation), (Role::Replicate, WorkerId(77), Incarnation(78)));
        assert_eq!((hello.application.name.as_str(), hello.application.instance), ("", Instance(0)));
        let mut header = Vec::new();
        Welcome { version: 1, body_limit: 1 << 20, incarnation: Incarnation(78) }.encode(&mut header);
        peer.send(Kind::Welcome, &header, &[]).await;
        Link { peer }
    }
}

pub(crate) struct Link {
    peer: Peer,
}

impl Link {
    pub(crate) async fn frame(&mut self) -> Forwarded {
        let message = self.peer.receive().await.expect("the primary forwards");
        assert_eq!(message.kind, Kind::Replicate);
        let replicate = Replicate::decode(&message.header, message.body.len()).unwrap();
        Forwarded { request: replicate.request, parts: replicate.parts().collect(), body: message.body }
    }

    pub(crate) async fn answer(&mut self, frame: &Forwarded, status: Status) {
        let mut header = Vec::new();
        PushReply::encode(frame.request, &vec![status; frame.parts.len()], &mut header).unwrap();
        self.peer.send(Kind::PushReply, &header, &[]).await;
    }
}

pub(crate) fn nobody() -> Application {
    Application { name: String::new(), instance: Instance(0) }
}

/// As a primary forwards: one batch each, at these offsets.
pub(crate) async fn forward(peer: &mut Peer, parts: &[(Handle, u64, Vec<u8>)]) -> Vec<Status> {
    let named = parts.iter().map(|(handle, offset, batch)| {
        let (handle, offset, length) = (*handle, *offset, batch.len() as u32);
        ReplicatedPart { handle, offset, length }
    });
    let mut header = Vec::new();
    Replicate::encode(5, &named.collect::<Vec<_>>(), &mut header).unwrap();
    let body: Vec<u8> = parts.iter().flat_map(|(_, _, batch)| batch.iter().copied()).collect();
    peer.send(Kind::Replicate, &header, &body).await;
    peer.reply(5).await
}
