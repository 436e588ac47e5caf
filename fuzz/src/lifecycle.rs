//! The lifecycle manager's door: every call, as messages that may have been changed on their way.

use std::time::Duration;

use mallorn_client::{Durability, LifecycleConfig, LifecycleManager};
use mallorn_master::Config;
use mallorn_proto::v1;
use mallorn_runtime::clock;
use mallorn_runtime::config::Span;
use mallorn_runtime::random::Random;
use mallorn_runtime::task::Shutdown;
use mallorn_worker::WorkerConfig;
use prometheus::Registry;

use crate::door::{CALLS_MAX, Door, runtime};
use crate::feed::Feed;

/// A shuffle that no input names, and its partitions.
const BYSTANDER: (u32, u32) = (0x5eed_cafe, 2);
/// How long a cluster of this process may take to begin.
const PATIENCE: Duration = Duration::from_secs(10);

/// Calls: for each a method, whether it names the right instance, and a message.
pub fn target(data: &[u8]) {
    let mut feed = Feed::new(data);
    runtime().block_on(async {
        let registry = Registry::new();
        let master = mallorn_master::start(Config::loopback(), &registry, Shutdown::new()).await;
        let master = master.expect("a master of this process");
        let worker = crate::worker::start(WorkerConfig::default()).await.expect("a worker without disks");
        let address = master.control_address().to_string();
        register(&Door::new(master.routes(), "mallorn.v1.Master"), &worker).await;
        let config = LifecycleConfig {
            master: address,
            durability: Durability::Memory,
            place_within: Span(Duration::from_secs(5)),
            ..LifecycleConfig::default()
        };
        let started = LifecycleManager::start("fuzzed", config, Random::seeded(2));
        let driver = clock::timeout(PATIENCE, started).await.expect("in time").expect("the master is there");
        let (shuffle, partitions) = BYSTANDER;
        driver.register(shuffle, partitions, Some(1)).await.expect("the worker has room");
        let door = Door::new(driver.routes(), "mallorn.v1.Lifecycle");
        let instance = driver.application().instance.0;
        for _ in 0..CALLS_MAX {
            if feed.is_empty() {
                break;
            }
            let (method, message) = (feed.byte(), feed.piece());
            call(&door, method & 0x7f, (method < 0x80).then_some(instance), message).await;
        }
        let again = driver.register(shuffle, partitions, Some(1)).await;
        assert!(again.is_ok(), "nobody else's shuffle is touched: {again:?}");
    });
}

/// Makes the worker known to the master, which it can't reach itself.
async fn register(door: &Door, worker: &mallorn_worker::Running) {
    let address = v1::WorkerAddress {
        worker: Some(worker.worker().into()),
        name: "w".to_owned(),
        incarnation: worker.incarnation().0,
        control: worker.control_address().to_string(),
        data: worker.data_address().to_string(),
        rack: String::new(),
    };
    let memory = v1::MemoryState { arena_bytes: 16 << 20, held_bytes: 0, push_free_bytes: 8 << 20 };
    let request = v1::RegisterWorkerRequest {
        cluster: crate::worker::CLUSTER.to_owned(),
        address: Some(address),
        memory: Some(memory),
        disks: Vec::new(),
        draining: false,
        body_limit: mallorn_proto::limits::BODY_BYTES_DEFAULT,
    };
    let registered = door.call("RegisterWorker", prost::Message::encode_to_vec(&request)).await;
    assert!(matches!(registered, Some(Ok(_))), "{registered:?}");
}

async fn call(door: &Door, method: u8, instance: Option<u64>, message: &[u8]) {
    let mend = |named: &mut u64| {
        if let Some(instance) = instance {
            *named = instance;
        }
    };
    macro_rules! ask {
        ($method:literal, $question:ident, $answer:ident) => {
            door.ask::<_, v1::$answer>($method, message, |question: &mut v1::$question| mend(&mut question.instance))
                .await
        };
    }
    match method % 13 {
        0 => drop(door.ask::<_, v1::JoinReply>("Join", message, |_: &mut v1::JoinRequest| {}).await),
        1 => {
            let mend = |request: &mut v1::RegisterShuffleRequest| {
                mend(&mut request.instance);
                // Each partition is placed, which costs an answer and not an input.
                request.partitions %= 16;
            };
            door.ask::<_, v1::RegisterShuffleReply>("RegisterShuffle", message, mend).await;
        }
        2 => drop(ask!("NextGeneration", NextGenerationRequest, NextGenerationReply)),
        3 => drop(ask!("ReleaseShuffle", ReleaseShuffleRequest, ReleaseShuffleReply)),
        4 => drop(ask!("StartAttempt", StartAttemptRequest, StartAttemptReply)),
        5 => {
            let asked = ask!("RenewAttempts", RenewAttemptsRequest, RenewAttemptsReply);
            assert!(asked.is_none_or(|(request, reply)| request.attempts.len() == reply.alive.len()));
        }
        6 => drop(ask!("AttemptFailed", AttemptFailedRequest, AttemptFailedReply)),
        7 => drop(ask!("MapperEnd", MapperEndRequest, MapperEndReply)),
        8 => {
            let Some((request, reply)) = ask!("Locate", LocateRequest, LocateReply) else { return };
            assert_eq!(request.partitions.len(), reply.locations.len());
            let named = |open: &v1::OpenLocation| (open.worker as usize) < reply.workers.len();
            assert!(reply.locations.iter().all(|open| open.location.is_none() || named(open)));
        }
        9 => {
            let asked = ask!("Revive", ReviveRequest, ReviveReply);
            assert!(asked.is_none_or(|(request, reply)| request.partitions.len() == reply.partitions.len()));
        }
        10 => drop(ask!("PlanRead", PlanReadRequest, PlanReadReply)),
        11 => {
            let Some((request, reply)) = ask!("ListWinners", ListWinnersRequest, ListWinnersReply) else { return };
            let rising = reply.winners.windows(2).all(|pair| pair[0].map < pair[1].map);
            assert!(rising || request.by_tokens, "winners are out of order");
        }
        _ => {
            let asked = ask!("Resolve", ResolveRequest, ResolveReply);
            assert!(asked.is_none_or(|(request, reply)| request.workers.len() == reply.workers.len()));
        }
    }
}
