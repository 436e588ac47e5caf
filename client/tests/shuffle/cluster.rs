//! A cluster in this process, on loopback.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use mallorn_client::{ClientConfig, Durability, LifecycleConfig, LifecycleManager, ShuffleClient};
use mallorn_proto::limits::BODY_BYTES_DEFAULT;
use mallorn_runtime::config::{ByteSize, Span};
use mallorn_runtime::disk::Disk;
use mallorn_runtime::random::Random;
use mallorn_runtime::task::Shutdown;
use mallorn_worker::{Surroundings, WorkerConfig};
use prometheus::Registry;

/// How long a worker is believed: short, so that a lost one is noticed soon.
const WORKER_LEASE: Duration = Duration::from_millis(600);

pub(crate) struct Cluster {
    pub(crate) master: mallorn_master::Running,
    pub(crate) workers: Vec<mallorn_worker::Running>,
    pub(crate) random: Random,
}

impl Cluster {
    pub(crate) async fn start(workers: usize, memory: ByteSize) -> Self {
        let mut config = mallorn_master::Config::loopback();
        config.master.worker_lease = Span(WORKER_LEASE);
        let master = mallorn_master::start(config, &Registry::new(), Shutdown::new()).await.unwrap();
        let random = Random::seeded(7);
        let mut cluster = Self { master, workers: Vec::new(), random };
        for _ in 0..workers {
            cluster.add_worker(memory).await;
        }
        cluster
    }

    pub(crate) async fn add_worker(&mut self, memory: ByteSize) {
        self.add_worker_with(WorkerConfig { memory: Some(memory), ..WorkerConfig::default() }).await;
    }

    /// Adds a worker of these settings, but for its addresses.
    pub(crate) async fn add_worker_with(&mut self, config: WorkerConfig) {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let config = WorkerConfig {
            master: self.master.control_address().to_string(),
            control_listen: any,
            data_listen: any,
            admin_listen: None,
            ..config
        };
        let surroundings = Surroundings {
            cluster: "mallorn".to_owned(),
            body_limit_bytes: BODY_BYTES_DEFAULT,
            disk: Disk::real(),
            random: self.random.clone(),
            registry: Registry::new(),
        };
        let mut worker = mallorn_worker::start(config, surroundings).await.unwrap();
        worker.registered().await;
        self.workers.push(worker);
    }

    pub(crate) async fn driver(&self, application: &str) -> LifecycleManager {
        LifecycleManager::start(application, self.lifecycle_config(), self.random.clone()).await.unwrap()
    }

    /// These workers have no disks.
    pub(crate) fn lifecycle_config(&self) -> LifecycleConfig {
        LifecycleConfig {
            master: self.master.control_address().to_string(),
            durability: Durability::Memory,
            wait_for_return: Span(Duration::ZERO),
            place_within: Span(Duration::from_secs(5)),
            ..LifecycleConfig::default()
        }
    }

    pub(crate) async fn client(&self, driver: &LifecycleManager) -> ShuffleClient {
        self.client_with(driver, ClientConfig::default()).await
    }

    pub(crate) async fn client_with(&self, driver: &LifecycleManager, config: ClientConfig) -> ShuffleClient {
        ShuffleClient::connect(driver.address(), config, self.random.clone(), &Registry::new()).await.unwrap()
    }

    /// Bytes held by locations (the push pool, the first one) in all arenas.
    pub(crate) fn held_bytes(&self) -> u64 {
        self.workers.iter().map(|worker| worker.memory().held_bytes[0]).sum()
    }
}
