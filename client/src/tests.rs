//! What only this side of the door can be seen from: after a shuffle nothing is held.

use std::net::SocketAddr;

use mallorn_client_core::memory::Share;
use mallorn_proto::limits::BODY_BYTES_DEFAULT;
use mallorn_runtime::config::ByteSize;
use mallorn_runtime::disk::Disk;
use mallorn_runtime::random::Random;
use mallorn_runtime::task::Shutdown;
use prometheus::Registry;

use crate::{ClientConfig, Durability, LifecycleConfig, LifecycleManager, ReadRequest, ShuffleClient};

struct Cluster {
    driver: LifecycleManager,
    client: ShuffleClient,
    _worker: mallorn_worker::Running,
    _master: mallorn_master::Running,
}

impl Cluster {
    async fn start() -> Self {
        let random = Random::seeded(11);
        let master = mallorn_master::Config::loopback();
        let master = mallorn_master::start(master, &Registry::new(), Shutdown::new()).await.unwrap();
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let config = mallorn_worker::WorkerConfig {
            master: master.control_address().to_string(),
            control_listen: any,
            data_listen: any,
            admin_listen: None,
            memory: Some(ByteSize::mib(64)),
            ..Default::default()
        };
        let surroundings = mallorn_worker::Surroundings {
            cluster: "mallorn".to_owned(),
            body_limit_bytes: BODY_BYTES_DEFAULT,
            disk: Disk::real(),
            random: random.clone(),
            registry: Registry::new(),
        };
        let worker = mallorn_worker::start(config, surroundings).await.unwrap();
        let (master_address, durability) = (master.control_address().to_string(), Durability::Memory);
        let config = LifecycleConfig { master: master_address, durability, ..Default::default() };
        let driver = LifecycleManager::start("inside", config, random.clone()).await.unwrap();
        let config = ClientConfig { memory: ByteSize::mib(8), ..ClientConfig::default() };
        let client = ShuffleClient::connect(driver.address(), config, random, &Registry::new()).await.unwrap();
        Self { driver, client, _worker: worker, _master: master }
    }

    /// Waits until all memory can be had at once, which is when nothing is held.
    async fn all_is_given_back(&self) {
        let memory = &self.client.inner.memory;
        for share in [Share::Push, Share::Read] {
            let all = memory.take(share, memory.largest()).await;
            assert_eq!(memory.held(share), all.bytes());
        }
        assert_eq!((memory.held(Share::Push), memory.held(Share::Read)), (0, 0));
    }
}

async fn push(attempt: &mut crate::MapAttempt, units: u32) {
    for unit in 0..units {
        attempt.push(unit % 50, &[unit as u8; 3000]).await.unwrap();
    }
}

#[tokio::test]
async fn after_a_shuffle_the_client_holds_nothing() {
    let cluster = Cluster::start().await;
    cluster.driver.register(0, 50, Some(2)).await.unwrap();
    for map in 0..2 {
        let mut attempt = cluster.client.start_attempt(0, map, 0).await.unwrap();
        push(&mut attempt, 3000).await;
        attempt.push_owned(3, vec![7; 500_000].into()).await.unwrap();
        attempt.mapper_end().await.unwrap();
    }
    let mut reader = cluster.client.read(ReadRequest::new(0, 0..50)).await.unwrap();
    while reader.next().await.unwrap().is_some() {}
    drop(reader);
    cluster.all_is_given_back().await;
    assert!(cluster.client.inner.attempts.lock().is_empty());
}

#[tokio::test]
async fn what_is_dropped_half_way_gives_everything_back() {
    let cluster = Cluster::start().await;
    cluster.driver.register(0, 50, Some(1)).await.unwrap();
    let mut attempt = cluster.client.start_attempt(0, 0, 0).await.unwrap();
    push(&mut attempt, 2000).await;
    attempt.mapper_end().await.unwrap();
    cluster.driver.register(1, 50, Some(2)).await.unwrap();

    let mut dropped = cluster.client.start_attempt(1, 0, 0).await.unwrap();
    push(&mut dropped, 500).await;
    drop(dropped);
    let mut failed = cluster.client.start_attempt(1, 0, 1).await.unwrap();
    push(&mut failed, 500).await;
    failed.failed().await;
    let mut stopped = cluster.client.start_attempt(1, 0, 2).await.unwrap();
    push(&mut stopped, 500).await;
    stopped.shared.lease_over("a test says so");
    stopped.push(0, b"too late").await.unwrap_err();
    for steps in 0..3 {
        let mut reader = cluster.client.read(ReadRequest::new(0, 0..50)).await.unwrap();
        for _ in 0..steps {
            reader.next().await.unwrap();
        }
    }
    cluster.all_is_given_back().await;
    drop(stopped);
    assert!(cluster.client.inner.attempts.lock().is_empty());
}
