//! One shuffle through the public client: push, fetch, then every byte checked with no clock running.

use std::ops::Range;

use mallorn_client::{
    Batch, ClientConfig, Compression, ConnectError, LifecycleError, LifecycleManager, MapAttempt, PushError, ReadError,
    ReadRequest, ShuffleClient,
};
use mallorn_runtime::config::ByteSize;
use mallorn_runtime::random::Random;
use mallorn_runtime::task;
use mallorn_runtime::telemetry::process::UsageError;
use prometheus::Registry;
use serde::Serialize;
use tokio::task::JoinError;

use crate::load::{CONNECTIONS, Content, Load, PARTITIONS};
use crate::meter::{Cost, Meter};

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

/// What one shuffle took.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct ShuffleRun {
    /// From the start of the attempts to the end of the stage: all acked, sealed and ready to be read.
    pub(crate) push: Cost,
    /// From the first question for a partition to the end of the last one.
    pub(crate) fetch: Cost,
}

/// Shuffles one load again and again, with one client, as a long-lived executor does.
pub(crate) struct Shuffler<'a> {
    manager: &'a LifecycleManager,
    client: ShuffleClient,
    meter: Meter,
    load: Load,
    expected: Vec<Content>,
}

impl<'a> Shuffler<'a> {
    pub(crate) async fn connect(manager: &'a LifecycleManager, meter: Meter, load: Load) -> Result<Self, ShuffleError> {
        let config = ClientConfig {
            batch: ByteSize(load.batch_bytes() as u64),
            codec: Compression::None,
            connections: CONNECTIONS,
            ..ClientConfig::default()
        };
        let client = ShuffleClient::connect(manager.address(), config, Random::from_system(), &Registry::new()).await?;
        Ok(Self { manager, client, meter, expected: load.expected(), load })
    }

    /// Shuffles once under this number, which must be fresh, and gives the memory back.
    pub(crate) async fn run(&self, shuffle: u32) -> Result<ShuffleRun, ShuffleError> {
        let generation = self.manager.register(shuffle, PARTITIONS, Some(CONNECTIONS)).await?;
        let start = self.meter.read()?;
        let attempts = (0..CONNECTIONS).map(|task| {
            let (client, load) = (self.client.clone(), self.load.clone());
            task::spawn(async move { push(client.start_attempt(shuffle, task, 0).await?, task, &load).await })
        });
        for attempt in attempts.collect::<Vec<_>>() {
            attempt.await??;
        }
        let end = self.manager.stage_end(shuffle, generation).await?;
        let pushed = self.meter.read()?;
        if end.lost_partitions > 0 {
            return Err(ShuffleError::PartitionsLost { lost: end.lost_partitions });
        }

        let between = self.meter.read()?;
        let counted = self.read_all(shuffle, |content, batch| content.count(&batch.data)).await?;
        let fetched = self.meter.read()?;
        self.check(&counted, Content::counts)?;

        let summed = self.read_all(shuffle, |content, batch| content.add(&batch.data)).await?;
        self.check(&summed, |content| content)?;
        self.manager.release(shuffle).await?;
        Ok(ShuffleRun { push: start.until(&pushed), fetch: between.until(&fetched) })
    }

    /// Reads all partitions, each task its share of them; `take` adds each batch to its partition's content.
    async fn read_all(
        &self,
        shuffle: u32,
        take: impl Fn(&mut Content, &Batch) + Copy + Send + 'static,
    ) -> Result<Vec<Content>, ShuffleError> {
        let share = PARTITIONS / CONNECTIONS;
        let tasks = (0..CONNECTIONS).map(|task| {
            let client = self.client.clone();
            task::spawn(read(client, shuffle, task * share..(task + 1) * share, take))
        });
        let mut contents = Vec::with_capacity(PARTITIONS as usize);
        for task in tasks.collect::<Vec<_>>() {
            contents.extend(task.await??);
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

async fn push(mut attempt: MapAttempt, task: u32, load: &Load) -> Result<(), ShuffleError> {
    for (partition, payload) in load.batches(task) {
        attempt.push_owned(partition, payload).await?;
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
