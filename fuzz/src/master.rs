//! The master's door: every call, as messages that may have been changed on their way, to a master that knows something.

use mallorn_master::{Config, Running};
use mallorn_proto::v1;
use mallorn_runtime::task::Shutdown;
use prometheus::Registry;
use prost::Message;

use crate::door::{CALLS_MAX, Door, runtime};
use crate::feed::Feed;

/// A worker that no input names.
const BYSTANDER: v1::WorkerId = v1::WorkerId { high: 0x5eed_5eed_0bad_cafe, low: 0x0123_4567_89ab_cdef };

/// Calls: for each a method, whether its cluster is set right, and a message.
pub fn target(data: &[u8]) {
    let mut feed = Feed::new(data);
    runtime().block_on(async {
        let master = start().await;
        let door = Door::new(master.routes(), "mallorn.v1.Master");
        register_bystander(&door).await;
        for _ in 0..CALLS_MAX {
            if feed.is_empty() {
                break;
            }
            let (method, message) = (feed.byte(), feed.piece());
            call(&door, method & 0x7f, method < 0x80, message).await;
        }
        is_undisturbed(&door).await;
    });
}

async fn start() -> Running {
    let shutdown = Shutdown::new();
    mallorn_master::start(Config::loopback(), &Registry::new(), shutdown).await.expect("a master of this process")
}

fn cluster(cluster: &mut String, right: bool) {
    if right {
        "mallorn".clone_into(cluster);
    }
}

async fn register_bystander(door: &Door) {
    let address = v1::WorkerAddress {
        worker: Some(BYSTANDER),
        name: "bystander".to_owned(),
        incarnation: 1,
        control: "host:1".to_owned(),
        data: "host:2".to_owned(),
        rack: String::new(),
    };
    let memory = v1::MemoryState { arena_bytes: 1 << 30, held_bytes: 0, push_free_bytes: 1 << 30 };
    let request = v1::RegisterWorkerRequest {
        cluster: "mallorn".to_owned(),
        address: Some(address),
        memory: Some(memory),
        disks: Vec::new(),
        draining: false,
        body_limit: mallorn_proto::limits::BODY_BYTES_DEFAULT,
    };
    let registered = door.call("RegisterWorker", request.encode_to_vec()).await;
    assert!(matches!(registered, Some(Ok(_))), "{registered:?}");
}

async fn is_undisturbed(door: &Door) {
    let request = v1::ResolveWorkersRequest { cluster: "mallorn".to_owned(), workers: vec![BYSTANDER] };
    let asked = door.ask("ResolveWorkers", &request.encode_to_vec(), |_: &mut v1::ResolveWorkersRequest| {}).await;
    let (_, reply): (_, v1::ResolveWorkersReply) = asked.expect("a master answers whatever it was asked before");
    assert_eq!(reply.workers[0].state(), v1::resolved_worker::State::Live);
}

async fn call(door: &Door, method: u8, right: bool, message: &[u8]) {
    match method % 9 {
        0 => {
            let body_limit = mallorn_proto::limits::BODY_BYTES_DEFAULT;
            let mend = |request: &mut v1::RegisterWorkerRequest| {
                cluster(&mut request.cluster, right);
                request.body_limit = body_limit;
            };
            let asked = door.ask::<_, v1::RegisterWorkerReply>("RegisterWorker", message, mend).await;
            assert!(asked.is_none_or(|(_, reply)| reply.lease_ms > reply.heartbeat_ms && reply.heartbeat_ms > 0));
        }
        1 => {
            let mend = |request: &mut v1::HeartbeatRequest| cluster(&mut request.cluster, right);
            door.ask::<_, v1::HeartbeatReply>("Heartbeat", message, mend).await;
        }
        2 => {
            let mend = |request: &mut v1::RegisterApplicationRequest| cluster(&mut request.cluster, right);
            door.ask::<_, v1::RegisterApplicationReply>("RegisterApplication", message, mend).await;
        }
        3 => {
            let mend = |request: &mut v1::RenewApplicationRequest| cluster(&mut request.cluster, right);
            door.ask::<_, v1::RenewApplicationReply>("RenewApplication", message, mend).await;
        }
        4 => {
            let mend = |request: &mut v1::EndApplicationRequest| cluster(&mut request.cluster, right);
            door.ask::<_, v1::EndApplicationReply>("EndApplication", message, mend).await;
        }
        5 => place(door, right, message).await,
        6 => {
            let mend = |request: &mut v1::ResolveWorkersRequest| cluster(&mut request.cluster, right);
            let asked = door.ask::<_, v1::ResolveWorkersReply>("ResolveWorkers", message, mend).await;
            assert!(asked.is_none_or(|(request, reply)| reply.workers.len() == request.workers.len()));
        }
        7 => {
            let mend = |request: &mut v1::ResolveMovedRequest| cluster(&mut request.cluster, right);
            let asked = door.ask::<_, v1::ResolveMovedReply>("ResolveMoved", message, mend).await;
            let Some((request, reply)) = asked else { return };
            assert_eq!(reply.taken_by.len(), request.locations.len());
            assert!(reply.taken_by.iter().all(|index| *index as usize <= reply.workers.len()));
        }
        _ => {
            let mend = |request: &mut v1::DescribeClusterRequest| cluster(&mut request.cluster, right);
            door.ask::<_, v1::DescribeClusterReply>("DescribeCluster", message, mend).await;
        }
    }
}

/// All locations get a worker or none does, and two copies of one are apart.
async fn place(door: &Door, right: bool, message: &[u8]) {
    let mend = |request: &mut v1::PlaceRequest| {
        cluster(&mut request.cluster, right);
        // What is asked for in numbers costs an answer, not an input.
        request.locations %= 1024;
    };
    let Some((request, reply)) = door.ask::<v1::PlaceRequest, v1::PlaceReply>("Place", message, mend).await else {
        return;
    };
    let (picks, replicas) = (&reply.picks, &reply.replicas);
    assert!(picks.is_empty() || picks.len() == request.locations as usize);
    assert_eq!(replicas.len(), if request.copies == 2 { picks.len() } else { 0 });
    assert!(picks.iter().chain(replicas).all(|index| (*index as usize) < reply.workers.len()));
    assert!(picks.iter().zip(replicas).all(|(one, other)| one != other), "both copies at one worker");
    let named = |worker: &v1::WorkerAddress| request.exclude.iter().any(|id| Some(*id) == worker.worker);
    assert!(picks.is_empty() || !reply.workers.iter().all(named) || reply.candidates > 0);
}
