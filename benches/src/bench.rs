//! Runs one scenario: a cluster, a warm-up, then runs in turn with the floor.
//!
//! Owns the order of steps, and what is read when. Does not own what the figures mean (`summary`).

use std::path::PathBuf;
use std::time::Duration;

use mallorn_client::{
    Compression, ConnectError, Durability, LifecycleConfig, LifecycleManager, ShuffleOptions, StartError,
};
use mallorn_runtime::clock::Clock;
use mallorn_runtime::config::ByteSize;
use mallorn_runtime::random::Random;

use crate::cluster::{Cluster, ClusterError, Workers};
use crate::files::{self, FilesError};
use crate::floor::{self, FloorError, FloorRun};
use crate::load::{Load, Source};
use crate::meter::{Cost, Meter};
use crate::outcome::{DiskUse, Outcome};
use crate::progress::Progress;
use crate::sampler::Sampler;
use crate::scenario::{Floor, Kind, Scenario};
use crate::shuffle::{Bursts, Clients, Pace, ShuffleError, Shuffler};
use crate::summary;
use crate::times::Times;

/// Clients that rest: how much they push at once, and how long they rest at most.
const BURSTS: Bursts = Bursts { batches: 8, rest: Duration::from_secs(1) };
/// The shuffle numbers of a scenario.
const FIRST_SHUFFLE: u32 = 1;

/// Why nothing was measured.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BenchError {
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    #[error(transparent)]
    Manager(#[from] StartError),
    #[error(transparent)]
    Floor(#[from] FloorError),
    #[error(transparent)]
    Files(#[from] FilesError),
    #[error("{scenario}: {source}")]
    Shuffle { scenario: &'static str, source: ShuffleError },
    #[error("{scenario}: {total} is too little: each of {tasks} tasks needs a batch of {batch}, of at most 64MiB")]
    Total { scenario: &'static str, total: ByteSize, tasks: u32, batch: ByteSize },
}

/// What all scenarios have in common.
pub(crate) struct Setup {
    /// The program to measure; nothing where a running cluster is.
    pub(crate) mallorn: PathBuf,
    pub(crate) floor: Option<PathBuf>,
    /// The master of a running cluster.
    pub(crate) endpoint: Option<String>,
    /// Where workers and the floor write.
    pub(crate) folder: PathBuf,
    pub(crate) runs: u32,
}

/// What a scenario measured.
#[derive(Default)]
pub(crate) struct Measured {
    pub(crate) push: Vec<Cost>,
    pub(crate) fetch: Vec<Cost>,
    pub(crate) floor: Vec<FloorRun>,
    /// The same with one copy.
    pub(crate) one_copy: Vec<Cost>,
    /// Of each small shuffle, in seconds.
    pub(crate) shuffles_s: Vec<f64>,
    pub(crate) calls_per_shuffle: f64,
    pub(crate) push_times: Times,
    pub(crate) fetch_times: Times,
    pub(crate) peak_rss_bytes: Vec<u64>,
    pub(crate) disk: DiskUse,
    pub(crate) ack_writes: f64,
    /// Bytes of payload that were pushed while answers were counted.
    pub(crate) pushed_bytes: u64,
}

/// A scenario while it runs.
struct Stage<'a> {
    scenario: &'a Scenario,
    setup: &'a Setup,
    cluster: Option<&'a Cluster>,
    clients: &'a Clients,
    load: &'a Load,
    shuffler: Shuffler<'a>,
    meter: Meter,
    next_shuffle: u32,
}

/// Runs a scenario.
pub(crate) async fn run(scenario: &Scenario, setup: &Setup, progress: &Progress) -> Result<Outcome, BenchError> {
    let shape = &scenario.shape;
    let tasks = shape.map_tasks();
    let too_little = || BenchError::Total {
        scenario: scenario.name,
        total: ByteSize(shape.total_bytes),
        tasks,
        batch: ByteSize(shape.batch_bytes),
    };
    let source = Source::new(shape.codec != Compression::None);
    let load = Load::new(&source, &summary::one_shuffle(scenario), tasks).ok_or_else(too_little)?;
    let cluster = start_cluster(scenario, setup).await?;
    let master = master(cluster.as_ref(), setup.endpoint.as_deref());
    let config = LifecycleConfig { master, durability: shape.durability, ..LifecycleConfig::default() };
    let manager = start_application("bench", config, &Random::from_system()).await?;
    let clients = connect(scenario, &manager)
        .await
        .map_err(|source| BenchError::Shuffle { scenario: scenario.name, source: source.into() })?;
    let meter = Meter::new(cluster.as_ref().map(Cluster::worker_pids).unwrap_or_default());
    let bursts = (scenario.kind == Kind::ManyClients).then_some(BURSTS);
    let stage = Stage {
        scenario,
        setup,
        cluster: cluster.as_ref(),
        clients: &clients,
        load: &load,
        shuffler: Shuffler::new(
            &manager,
            &clients,
            meter.clone(),
            load.clone(),
            Pace { tasks: shape.connections, bursts },
        ),
        meter,
        next_shuffle: FIRST_SHUFFLE,
    };
    let sampler = Sampler::start(&clients, stage.meter.clone());
    let measured = stage.measure(progress).await;
    let series = sampler.stop().await;
    end_application(manager).await;
    Ok(summary::outcome(scenario, setup.runs, &load, &measured?, series))
}

/// The master of a cluster of our own, or of the one that runs.
pub(crate) fn master(cluster: Option<&Cluster>, endpoint: Option<&str>) -> String {
    cluster.map(|cluster| cluster.master().to_string()).or(endpoint.map(str::to_owned)).unwrap_or_default()
}

/// Starts an application under a name of its own: a second one on the same cluster must not fence the first.
pub(crate) async fn start_application(
    kind: &str,
    config: LifecycleConfig,
    random: &Random,
) -> Result<LifecycleManager, StartError> {
    LifecycleManager::start(&format!("{kind}-{:08x}", random.id() >> 32), config, random.clone()).await
}

/// Ends it: a cluster that goes on must not keep what was shuffled.
pub(crate) async fn end_application(manager: LifecycleManager) {
    if let Err(error) = manager.stop().await {
        eprintln!("the cluster was not told that the application is over: {error}; its lease will end it");
    }
}

async fn start_cluster(scenario: &Scenario, setup: &Setup) -> Result<Option<Cluster>, BenchError> {
    if setup.endpoint.is_some() {
        return Ok(None);
    }
    let shape = &scenario.shape;
    let has_disk = shape.durability != Durability::Memory;
    let folder = has_disk.then_some(setup.folder.as_path());
    let workers = Workers { count: shape.workers, memory: ByteSize(shape.memory_bytes()), folder };
    Ok(Some(Cluster::start(&setup.mallorn, &workers).await?))
}

async fn connect(scenario: &Scenario, manager: &LifecycleManager) -> Result<Clients, ConnectError> {
    let shape = &scenario.shape;
    match scenario.kind {
        Kind::Clients | Kind::ManyClients => Clients::connect(manager, shape, shape.connections, 1).await,
        Kind::Shuffle | Kind::Mixed | Kind::SmallShuffles | Kind::KeptShuffles => {
            Clients::connect(manager, shape, 1, shape.connections).await
        }
    }
}

impl Stage<'_> {
    async fn measure(mut self, progress: &Progress) -> Result<Measured, BenchError> {
        let mut measured = Measured::default();
        // Discarded: it touches the memory of both sides.
        self.once(&mut Measured::default()).await?;
        let before = self.times();
        let acks = self.metric("mallorn_worker_push_reply_writes_total").await;
        for run in 1..=self.setup.runs {
            progress.run(self.scenario.name, run, self.setup.runs);
            if let (Some(path), false) = (&self.setup.floor, self.scenario.floor == Floor::None) {
                measured.floor.push(floor::run(path, self.scenario, self.load, &self.setup.folder).await?);
            }
            self.once(&mut measured).await?;
        }
        let after = self.times();
        measured.push_times = after.0.since(&before.0);
        measured.fetch_times = after.1.since(&before.1);
        measured.ack_writes = self.metric("mallorn_worker_push_reply_writes_total").await - acks;
        measured.peak_rss_bytes = self.of(self.meter.peak_rss_bytes().map_err(ShuffleError::Meter))?;
        measured.disk.written_bytes = self.metric("mallorn_worker_spilled_bytes_total").await as u64;
        measured.disk.syncs = self.metric("mallorn_worker_syncs_total").await as u64;
        Ok(measured)
    }

    async fn once(&mut self, measured: &mut Measured) -> Result<(), BenchError> {
        match self.scenario.kind {
            Kind::Shuffle | Kind::Clients | Kind::ManyClients => self.shuffle(measured).await,
            Kind::Mixed => self.mixed(measured).await,
            Kind::SmallShuffles | Kind::KeptShuffles => self.small_shuffles(measured).await,
        }
    }

    async fn shuffle(&mut self, measured: &mut Measured) -> Result<(), BenchError> {
        if self.scenario.shape.copies > 1 {
            let (shuffle, options) = (self.fresh(), self.options(1));
            let pushed = self.shuffler.push(shuffle, options).await;
            measured.one_copy.push(self.of(pushed)?);
            self.of(self.shuffler.release(shuffle).await)?;
        }
        let (shuffle, options) = (self.fresh(), self.options(self.scenario.shape.copies));
        let pushed = self.shuffler.push(shuffle, options).await;
        measured.push.push(self.of(pushed)?);
        measured.pushed_bytes += self.load.total_bytes();
        if let Some(data) = self.cluster.and_then(Cluster::data) {
            measured.disk.files = measured.disk.files.max(files::count(data)?);
            if self.scenario.shape.is_cold {
                files::forget_cached(data)?;
            }
        }
        measured.fetch.push(self.of(self.shuffler.fetch(shuffle).await)?);
        self.of(self.shuffler.verify(shuffle).await)?;
        self.of(self.shuffler.release(shuffle).await)
    }

    /// One shuffle is there and is fetched, while the next one is pushed.
    async fn mixed(&mut self, measured: &mut Measured) -> Result<(), BenchError> {
        let (first, second) = (self.fresh(), self.fresh());
        let options = self.options(self.scenario.shape.copies);
        self.of(self.shuffler.push(first, options).await)?;
        let (pushed, fetched) = tokio::join!(self.shuffler.push(second, options), self.shuffler.fetch(first));
        measured.push.push(self.of(pushed)?);
        measured.fetch.push(self.of(fetched)?);
        measured.pushed_bytes += 2 * self.load.total_bytes();
        for shuffle in [first, second] {
            self.of(self.shuffler.verify(shuffle).await)?;
            self.of(self.shuffler.release(shuffle).await)?;
        }
        Ok(())
    }

    async fn small_shuffles(&mut self, measured: &mut Measured) -> Result<(), BenchError> {
        let (clock, calls) = (Clock::start(), self.calls().await);
        let count = summary::shuffles(self.scenario);
        let (mut push, mut fetch, mut kept) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..count {
            let (shuffle, options) = (self.fresh(), self.options(self.scenario.shape.copies));
            let began = clock.now();
            push.push(self.of(self.shuffler.push(shuffle, options).await)?);
            fetch.push(self.of(self.shuffler.fetch(shuffle).await)?);
            if self.scenario.kind == Kind::SmallShuffles {
                self.of(self.shuffler.release(shuffle).await)?;
            } else {
                kept.push(shuffle);
            }
            measured.shuffles_s.push(clock.now().saturating_sub(began).as_secs_f64());
        }
        measured.calls_per_shuffle = (self.calls().await - calls) / f64::from(count);
        for shuffle in kept {
            self.of(self.shuffler.release(shuffle).await)?;
        }
        measured.pushed_bytes += self.load.total_bytes() * u64::from(count);
        measured.push.push(Cost::sum(&push));
        measured.fetch.push(Cost::sum(&fetch));
        // Every byte of one of them.
        let (shuffle, options) = (self.fresh(), self.options(self.scenario.shape.copies));
        self.of(self.shuffler.push(shuffle, options).await)?;
        self.of(self.shuffler.verify(shuffle).await)?;
        self.of(self.shuffler.release(shuffle).await)
    }

    fn fresh(&mut self) -> u32 {
        self.next_shuffle += 1;
        self.next_shuffle
    }

    fn options(&self, copies: u32) -> ShuffleOptions {
        ShuffleOptions { copies: Some(copies), durability: Some(self.scenario.shape.durability) }
    }

    fn of<T>(&self, result: Result<T, ShuffleError>) -> Result<T, BenchError> {
        result.map_err(|source| BenchError::Shuffle { scenario: self.scenario.name, source })
    }

    fn times(&self) -> (Times, Times) {
        let of = |name| Times::of(&self.clients.registries, name);
        (of("mallorn_client_push_seconds"), of("mallorn_client_fetch_seconds"))
    }

    async fn metric(&self, name: &str) -> f64 {
        match self.cluster {
            Some(cluster) => cluster.worker_metric(name).await,
            None => 0.0,
        }
    }

    /// gRPC calls so far, of clients to the lifecycle manager and of that to workers and master.
    async fn calls(&self) -> f64 {
        let clients: u64 = self.clients.all.iter().map(|client| client.stats().calls).sum();
        let master = match self.cluster {
            Some(cluster) => cluster.master_metric("mallorn_master_requests_total").await,
            None => 0.0,
        };
        clients as f64 + self.metric("mallorn_worker_calls_total").await + master
    }
}
