//! Shuffles through the public client: push, fetch, then every byte checked with no clock running.
//!
//! Owns the steps and what they cost. Does not own what is shuffled (`load`), nor which steps a scenario takes (`bench`).

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use mallorn_client::{
    Batch, ClientConfig, ConnectError, LifecycleError, LifecycleManager, MapAttempt, PushError, ReadError, ReadRequest,
    ShuffleClient, ShuffleOptions,
};
use mallorn_runtime::config::ByteSize;
use mallorn_runtime::random::Random;
use mallorn_runtime::telemetry::process::UsageError;
use mallorn_runtime::{clock, task};
use prometheus::Registry;
use tokio::sync::Semaphore;
use tokio::task::JoinError;

use crate::load::{Content, Load};
use crate::meter::{Cost, Meter};
use crate::scenario::Shape;

/// Why a shuffle has no figures.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ShuffleError {
    #[error("connect: {0}")]
    Connect(#[from] ConnectError),
    #[error("{0}")]
    Lifecycle(#[from] LifecycleError),
    #[error("push: {0}")]
    Push(#[from] PushError),
    #[error("read: {0}")]
    Read(#[from] ReadError),
    #[error("{0}")]
    Meter(#[from] UsageError),
    #[error("a task failed: {0}")]
    Task(#[from] JoinError),
    #[error("a map task of its only attempt lost")]
    Lost,
    #[error("{lost} partitions are lost")]
    PartitionsLost { lost: u32 },
    #[error("partition {partition} should hold {expected:?} and holds {found:?}")]
    Wrong { partition: u32, expected: Content, found: Content },
}

/// A client that pushes in bursts: so many batches, then a rest of up to so long.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bursts {
    pub(crate) batches: u64,
    pub(crate) rest: Duration,
}

/// How tasks run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// At once.
    pub(crate) tasks: u32,
    /// Where they rest in between.
    pub(crate) bursts: Option<Bursts>,
}

/// The clients of a load, and where they count.
pub(crate) struct Clients {
    pub(crate) all: Vec<ShuffleClient>,
    pub(crate) registries: Vec<Registry>,
}

impl Clients {
    /// `count` clients that have `connections` each to a worker.
    pub(crate) async fn connect(
        manager: &LifecycleManager,
        shape: &Shape,
        count: u32,
        connections: u32,
    ) -> Result<Self, ConnectError> {
        let config = ClientConfig {
            batch: ByteSize(shape.batch_bytes),
            codec: shape.codec,
            connections,
            ..ClientConfig::default()
        };
        let (mut all, mut registries) = (Vec::new(), Vec::new());
        for _ in 0..count {
            let registry = Registry::new();
            let random = Random::from_system();
            all.push(ShuffleClient::connect(manager.address(), config.clone(), random, &registry).await?);
            registries.push(registry);
        }
        Ok(Self { all, registries })
    }

    /// The client of a task.
    fn of(&self, task: u32) -> ShuffleClient {
        self.all[task as usize % self.all.len()].clone()
    }
}

/// Shuffles one load again and again, with the same clients, as long-lived executors do.
pub(crate) struct Shuffler<'a> {
    manager: &'a LifecycleManager,
    clients: &'a Clients,
    meter: Meter,
    load: Load,
    expected: Vec<Content>,
    pace: Pace,
}

impl<'a> Shuffler<'a> {
    pub(crate) fn new(
        manager: &'a LifecycleManager,
        clients: &'a Clients,
        meter: Meter,
        load: Load,
        pace: Pace,
    ) -> Self {
        Self { manager, clients, meter, expected: load.expected(), load, pace }
    }

    /// Pushes everything under a fresh number.
    pub(crate) async fn push(&self, shuffle: u32, options: ShuffleOptions) -> Result<Cost, ShuffleError> {
        let (partitions, maps) = (self.load.partitions(), self.load.tasks());
        let generation = self.manager.register_with(shuffle, partitions, Some(maps), options).await?;
        let start = self.meter.read()?;
        let (slots, bursts) = (Arc::new(Semaphore::new(self.pace.tasks as usize)), self.pace.bursts);
        let attempts = (0..maps).map(|task| {
            let (client, load, slots) = (self.clients.of(task), self.load.clone(), Arc::clone(&slots));
            task::spawn(async move {
                let _slot = slots.acquire().await;
                push(client.start_attempt(shuffle, task, 0).await?, task, &load, bursts).await
            })
        });
        for attempt in attempts.collect::<Vec<_>>() {
            attempt.await??;
        }
        let end = self.manager.stage_end(shuffle, generation).await?;
        let pushed = self.meter.read()?;
        match end.lost_partitions {
            0 => Ok(start.until(&pushed)),
            lost => Err(ShuffleError::PartitionsLost { lost }),
        }
    }

    /// Fetches everything; what came is counted.
    pub(crate) async fn fetch(&self, shuffle: u32) -> Result<Cost, ShuffleError> {
        let start = self.meter.read()?;
        let counted = self.read_all(shuffle, |content, batch| content.count(&batch.data)).await?;
        let fetched = self.meter.read()?;
        self.check(&counted, Content::counts)?;
        Ok(start.until(&fetched))
    }

    /// Fetches everything again and checks every byte.
    pub(crate) async fn verify(&self, shuffle: u32) -> Result<(), ShuffleError> {
        let summed = self.read_all(shuffle, |content, batch| content.add(&batch.data)).await?;
        self.check(&summed, |content| content)
    }

    /// Gives everything of a shuffle back.
    pub(crate) async fn release(&self, shuffle: u32) -> Result<(), ShuffleError> {
        Ok(self.manager.release(shuffle).await?)
    }

    /// Reads all partitions, each task its share of them; `take` adds each batch to its partition's content.
    async fn read_all(
        &self,
        shuffle: u32,
        take: impl Fn(&mut Content, &Batch) + Copy + Send + 'static,
    ) -> Result<Vec<Content>, ShuffleError> {
        let (partitions, tasks) = (self.load.partitions(), self.pace.tasks.min(self.load.partitions()));
        let edge = |task: u32| (u64::from(partitions) * u64::from(task) / u64::from(tasks)) as u32;
        let reads = (0..tasks).map(|task| {
            let client = self.clients.of(task);
            task::spawn(read(client, shuffle, edge(task)..edge(task + 1), take))
        });
        let mut contents = Vec::with_capacity(partitions as usize);
        for read in reads.collect::<Vec<_>>() {
            contents.extend(read.await??);
        }
        Ok(contents)
    }

    fn check(&self, found: &[Content], of: impl Fn(Content) -> Content) -> Result<(), ShuffleError> {
        for (partition, (expected, found)) in (0..).zip(self.expected.iter().zip(found)) {
            let (expected, found) = (of(*expected), of(*found));
            if expected != found {
                return Err(ShuffleError::Wrong { partition, expected, found });
            }
        }
        Ok(())
    }
}

async fn push(mut attempt: MapAttempt, task: u32, load: &Load, bursts: Option<Bursts>) -> Result<(), ShuffleError> {
    let random = Random::seeded(u64::from(task));
    for (number, (partition, payload)) in (1..).zip(load.batches(task)) {
        attempt.push_owned(partition, payload).await?;
        if let Some(Bursts { batches, rest }) = bursts
            && number % batches == 0
        {
            clock::sleep(random.jitter(rest)).await;
        }
    }
    if attempt.mapper_end().await?.won { Ok(()) } else { Err(ShuffleError::Lost) }
}

async fn read(
    client: ShuffleClient,
    shuffle: u32,
    partitions: Range<u32>,
    take: impl Fn(&mut Content, &Batch),
) -> Result<Vec<Content>, ShuffleError> {
    let mut contents = vec![Content::default(); partitions.len()];
    let mut reader = client.read(ReadRequest::new(shuffle, partitions.clone())).await?;
    while let Some(batch) = reader.next().await? {
        take(&mut contents[(batch.partition.0 - partitions.start) as usize], &batch);
    }
    Ok(contents)
}
