//! The worker's door: every call, as messages that may have been changed on their way, to a worker that holds something.

use std::net::SocketAddr;

use mallorn_proto::id::Incarnation;
use mallorn_proto::limits::BODY_BYTES_DEFAULT;
use mallorn_proto::v1;
use mallorn_runtime::config::ByteSize;
use mallorn_runtime::disk::Disk;
use mallorn_runtime::random::Random;
use mallorn_worker::{Running, Surroundings, WorkerConfig};
use prometheus::Registry;
use prost::Message;

use crate::door::{CALLS_MAX, Door, runtime};
use crate::feed::Feed;

/// The cluster that workers here belong to.
pub const CLUSTER: &str = "mallorn";

/// Calls: for each a method, whether it is made for this worker, and a message.
pub fn target(data: &[u8]) {
    let mut feed = Feed::new(data);
    runtime().block_on(async {
        let worker = start(WorkerConfig::default()).await.expect("a worker without disks");
        let asker = Asker::new(&worker);
        let acked = asker.freeze_bystander(true).await;
        let held = worker.memory().held_total_bytes();
        let mut applications = Vec::new();
        for _ in 0..CALLS_MAX {
            if feed.is_empty() {
                break;
            }
            let (method, message) = (feed.byte(), feed.piece());
            asker.call(method & 0x7f, method < 0x80, message, &mut applications).await;
        }
        assert_eq!(asker.freeze_bystander(false).await, acked, "nobody else's location is touched");
        for application in applications {
            asker.release(application).await;
        }
        let left = worker.memory().held_total_bytes();
        assert!(left <= held, "{left} bytes are held once everything is released, {held} before");
    });
}

/// Starts a worker on free ports of this machine's loopback, in as little memory as there may be, with no master.
///
/// # Errors
/// When its folders are not what it may start with.
pub async fn start(config: WorkerConfig) -> Result<Running, mallorn_worker::StartError> {
    let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
    let config = WorkerConfig {
        // Nobody listens there.
        master: "127.0.0.1:9".to_owned(),
        control_listen: any_port,
        data_listen: any_port,
        admin_listen: None,
        memory: Some(ByteSize::mib(16)),
        ..config
    };
    let surroundings = Surroundings {
        cluster: CLUSTER.to_owned(),
        body_limit_bytes: BODY_BYTES_DEFAULT,
        disk: Disk::real(),
        random: Random::seeded(1),
        registry: Registry::new(),
    };
    mallorn_worker::start(config, surroundings).await
}

fn bystander() -> v1::Application {
    v1::Application { name: "bystander".to_owned(), instance: 0x5eed_5eed_0bad_cafe }
}

/// Asks one worker.
pub struct Asker {
    door: Door,
    worker: v1::WorkerId,
    incarnation: Incarnation,
}

impl Asker {
    /// Of this worker.
    #[must_use]
    pub fn new(worker: &Running) -> Self {
        let door = Door::new(worker.routes(), "mallorn.v1.Worker");
        Self { door, worker: worker.worker().into(), incarnation: worker.incarnation() }
    }

    /// Makes a call that must succeed.
    pub async fn must<Q: Message, A: Message + Default>(&self, method: &str, request: &Q) -> A {
        let answer = self.door.call(method, request.encode_to_vec()).await.expect("it need not wait");
        A::decode(answer.expect("a call that is right is answered")).expect("a door answers with its message")
    }

    /// Reserves locations, which are the only copies.
    pub async fn reserve(&self, application: v1::Application, locations: Vec<v1::LocationId>) -> v1::ReserveReply {
        let request = v1::ReserveRequest {
            cluster: CLUSTER.to_owned(),
            application: Some(application),
            worker: Some(self.worker),
            incarnation: self.incarnation.0,
            locations,
            durability: v1::Durability::Memory.into(),
            ..v1::ReserveRequest::default()
        };
        self.must("Reserve", &request).await
    }

    /// Freezes locations.
    pub async fn freeze(&self, application: v1::Application, locations: Vec<v1::LocationId>) -> v1::FreezeReply {
        let (cluster, application) = (CLUSTER.to_owned(), Some(application));
        self.must("Freeze", &v1::FreezeRequest { cluster, application, worker: Some(self.worker), locations }).await
    }

    /// The worker as an operator sees it.
    pub async fn describe(&self) -> v1::DescribeReply {
        let request = v1::DescribeRequest { cluster: CLUSTER.to_owned(), worker: Some(self.worker) };
        self.must("Describe", &request).await
    }

    async fn freeze_bystander(&self, is_new: bool) -> v1::FreezeReply {
        let location = v1::LocationId { shuffle: 1, partition: 2, epoch: 3 };
        if is_new {
            let reserved = self.reserve(bystander(), vec![location]).await;
            assert_eq!(reserved.locations[0].outcome(), v1::reserved::Outcome::Reserved);
        }
        self.freeze(bystander(), vec![location]).await
    }

    /// Releases everything of an application.
    pub async fn release(&self, application: v1::Application) {
        let request = v1::ReleaseRequest {
            cluster: CLUSTER.to_owned(),
            application: Some(application),
            worker: Some(self.worker),
            shuffles: vec![v1::Range { first: 0, end: u32::MAX }],
        };
        let _: v1::ReleaseReply = self.must("Release", &request).await;
    }

    async fn call(&self, method: u8, right: bool, message: &[u8], applications: &mut Vec<v1::Application>) {
        let Self { door, worker, .. } = self;
        let mend = |cluster: &mut String, named: &mut Option<v1::WorkerId>| {
            if right {
                CLUSTER.clone_into(cluster);
                *named = Some(*worker);
            }
        };
        match method % 7 {
            0 => self.reserve_as_told(right, message, applications).await,
            1 => {
                let mend = |request: &mut v1::FreezeRequest| mend(&mut request.cluster, &mut request.worker);
                let asked = door.ask::<_, v1::FreezeReply>("Freeze", message, mend).await;
                assert!(asked.is_none_or(|(request, reply)| reply.locations.len() == request.locations.len()));
            }
            2 => {
                let mend = |request: &mut v1::SealRequest| mend(&mut request.cluster, &mut request.worker);
                let asked = door.ask::<_, v1::SealReply>("Seal", message, mend).await;
                assert!(asked.is_none_or(|(request, reply)| reply.locations.len() == request.locations.len()));
            }
            3 => {
                let mend = |request: &mut v1::ReleaseRequest| mend(&mut request.cluster, &mut request.worker);
                door.ask::<_, v1::ReleaseReply>("Release", message, mend).await;
            }
            4 => {
                let mend = |request: &mut v1::SettleRequest| mend(&mut request.cluster, &mut request.worker);
                let asked = door.ask::<_, v1::SettleReply>("Settle", message, mend).await;
                assert!(asked.is_none_or(|(request, reply)| reply.settled.len() == request.locations.len()));
            }
            5 => {
                let mend = |request: &mut v1::DescribeRequest| mend(&mut request.cluster, &mut request.worker);
                let asked = door.ask::<_, v1::DescribeReply>("Describe", message, mend).await;
                assert!(asked.is_none_or(|(_, reply)| reply.memory.is_some_and(|m| m.held_bytes <= m.arena_bytes)));
            }
            _ => {
                let mend = |request: &mut v1::DrainRequest| mend(&mut request.cluster, &mut request.worker);
                door.ask::<_, v1::DrainReply>("Drain", message, mend).await;
            }
        }
    }

    async fn reserve_as_told(&self, right: bool, message: &[u8], applications: &mut Vec<v1::Application>) {
        let mend = |request: &mut v1::ReserveRequest| {
            if right {
                CLUSTER.clone_into(&mut request.cluster);
                (request.worker, request.incarnation) = (Some(self.worker), self.incarnation.0);
            }
            applications.extend(request.application.clone().filter(|named| !named.name.is_empty()));
        };
        let Some((request, reply)) = self.door.ask::<_, v1::ReserveReply>("Reserve", message, mend).await else {
            applications.retain(|application| application.name.len() <= 256);
            return;
        };
        assert_eq!(reply.locations.len(), request.locations.len());
        let handles = request.replicas.as_ref().map(|replicas| replicas.handles.len());
        let is_primary = request.copy() == v1::reserve_request::Copy::Primary;
        assert_eq!(handles, is_primary.then_some(request.locations.len()), "a replica for each location of a primary");
        for reserved in &reply.locations {
            let is_reserved = reserved.outcome() == v1::reserved::Outcome::Reserved;
            assert_eq!(is_reserved, reserved.handle != 0, "what is reserved has a handle, and nothing else has");
        }
    }
}
