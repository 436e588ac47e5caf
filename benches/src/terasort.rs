//! A TeraSort through the shuffle: records are generated, range-partitioned by key, pushed, read and sorted, and what
//! comes out is held against what went in.
//!
//! Owns the stages and their order. Does not own the cluster, nor the fate of a shuffle that failed: it is not run again.

mod map;
mod record;
mod sort;
mod splits;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use mallorn_client::{LifecycleError, LifecycleManager, PushError, ReadError, ShuffleClient};
use mallorn_runtime::clock;
use serde::Serialize;
use tokio::task::{JoinError, JoinSet};

use map::MapTask;
use record::{Generator, RECORD_BYTES, Sum};
use sort::SortTask;
use splits::Splits;

/// How often progress is told.
const PROGRESS_EVERY: Duration = Duration::from_millis(200);

/// What is sorted, and by how many.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Options {
    /// Bytes of all records; what is less than a record of 100 bytes at its end is left out.
    pub(crate) size_bytes: u64,
    /// Map tasks; each generates an equal share of the records.
    pub(crate) maps: u32,
    /// Partitions, each of an equal share of the key space. One must fit in memory: 16 MiB to 64 MiB are good.
    pub(crate) partitions: u32,
    /// Tasks that run at once. So many partitions are in memory at most, each with an index of a sixth of its size.
    pub(crate) slots: usize,
    /// Of the keys: the same seed gives the same records.
    pub(crate) seed: u64,
}

/// Where a sort is; what it is told with are the bytes of records that the stage has done so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Records are generated and pushed.
    Map,
    /// The stage ends: no bytes are counted here.
    Commit,
    /// Partitions are read, sorted and validated.
    Sort,
}

impl Stage {
    /// For people.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Map => "map",
            Self::Commit => "commit",
            Self::Sort => "sort",
        }
    }

    /// Bytes that were done in the stages before it, of a sort of `size_bytes`.
    pub(crate) fn before(self, size_bytes: u64) -> u64 {
        if self == Self::Map { 0 } else { size_bytes }
    }
}

impl fmt::Display for Sorted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { records, bytes, map_s, commit_s, sort_s, checksum } = self;
        writeln!(
            f,
            "{records} records, {} MiB, sorted and validated: order, count, checksum {checksum:016x}",
            bytes >> 20
        )?;
        write!(f, "map {map_s:.2} s, commit {commit_s:.3} s, sort {sort_s:.2} s")
    }
}

/// What was sorted, every record of it validated.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Sorted {
    /// Records.
    pub(crate) records: u64,
    /// Their bytes.
    pub(crate) bytes: u64,
    /// From the start of the first map task to the end of the last one, in seconds.
    pub(crate) map_s: f64,
    /// From there until the stage has ended and can be read, in seconds.
    pub(crate) commit_s: f64,
    /// From the first question for a partition until the last one is sorted and validated, in seconds.
    pub(crate) sort_s: f64,
    /// Wrapping sum of the hashes of all records: the same for the same size and seed.
    pub(crate) checksum: u64,
}

/// Why nothing was sorted, or what is wrong with it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TerasortError {
    /// The options make no sense.
    #[error("{what} must be at least {least}")]
    Options { what: &'static str, least: u64 },
    /// A record is smaller than the one before it.
    #[error("partition {partition} is not sorted")]
    Order { partition: u32 },
    /// A record belongs in another partition.
    #[error("partition {partition} has keys that are not of its range")]
    Range { partition: u32 },
    /// What was read of a partition is not made of records.
    #[error("partition {partition}: a batch of {bytes} bytes, which are no whole records of {RECORD_BYTES}")]
    Torn { partition: u32, bytes: u64 },
    /// Records are missing, or were read twice.
    #[error("{expected} records were generated and {found} were sorted")]
    Count { expected: u64, found: u64 },
    /// As many records as were generated, but others.
    #[error("the records generated have the checksum {expected:016x}, those sorted {found:016x}")]
    Checksum { expected: u64, found: u64 },
    /// The only attempt at a map did not win.
    #[error("the only attempt at map {map} lost")]
    Lost { map: u32 },
    /// The cluster has lost data.
    #[error("{lost} partitions are lost")]
    PartitionsLost { lost: u32 },
    /// The lifecycle manager refuses, or is out of reach.
    #[error(transparent)]
    Lifecycle(#[from] LifecycleError),
    /// A push failed.
    #[error("push: {0}")]
    Push(#[from] PushError),
    /// A read failed.
    #[error("read: {0}")]
    Read(#[from] ReadError),
    /// A task panicked.
    #[error("a task failed: {0}")]
    Task(#[from] JoinError),
}

/// What every map task generates a share of.
#[derive(Clone, Copy, Debug)]
struct Input {
    generator: Generator,
    splits: Splits,
    records: u64,
    maps: u32,
}

impl Options {
    fn input(self) -> Result<Input, TerasortError> {
        let least = [
            ("the size in bytes", self.size_bytes, RECORD_BYTES as u64),
            ("the number of maps", u64::from(self.maps), 1),
            ("the number of partitions", u64::from(self.partitions), 1),
            ("the number of slots", self.slots as u64, 1),
        ];
        if let Some((what, _, least)) = least.into_iter().find(|(_, given, least)| given < least) {
            return Err(TerasortError::Options { what, least });
        }
        let records = self.size_bytes / RECORD_BYTES as u64;
        let (generator, splits) = (Generator::new(self.seed), Splits::new(self.partitions));
        Ok(Input { generator, splits, records, maps: self.maps })
    }
}

/// Sorts once under this shuffle's number, which must be fresh, and releases it. `progress` is told a few times a second
/// how many bytes of records the stage has done; what failed is not released.
pub(crate) async fn run(
    manager: &LifecycleManager,
    client: &ShuffleClient,
    shuffle: u32,
    options: Options,
    progress: &dyn Fn(Stage, u64),
) -> Result<Sorted, TerasortError> {
    let input = options.input()?;
    let generation = manager.register(shuffle, options.partitions, Some(options.maps)).await?;
    let start = clock::now();
    let done = Arc::new(AtomicU64::new(0));
    let maps = (0..options.maps).map(|map| {
        let task = MapTask { client: client.clone(), input, shuffle, map, done: Arc::clone(&done) };
        task.run()
    });
    let generated = all(maps, options.slots, || progress(Stage::Map, done.load(Ordering::Relaxed))).await?;
    let mapped = clock::now();

    progress(Stage::Commit, 0);
    let lost = manager.stage_end(shuffle, generation).await?.lost_partitions;
    if lost > 0 {
        return Err(TerasortError::PartitionsLost { lost });
    }
    let committed = clock::now();

    let done = Arc::new(AtomicU64::new(0));
    let partitions = (0..options.partitions).map(|partition| {
        let task = SortTask { client: client.clone(), input, shuffle, partition, done: Arc::clone(&done) };
        task.run()
    });
    let sorted = all(partitions, options.slots, || progress(Stage::Sort, done.load(Ordering::Relaxed))).await?;
    let ended = clock::now();
    same(generated, sorted)?;
    manager.release(shuffle).await?;
    Ok(Sorted {
        records: sorted.records,
        bytes: sorted.records * RECORD_BYTES as u64,
        map_s: mapped.saturating_duration_since(start).as_secs_f64(),
        commit_s: committed.saturating_duration_since(mapped).as_secs_f64(),
        sort_s: ended.saturating_duration_since(committed).as_secs_f64(),
        checksum: sorted.hash,
    })
}

/// Runs tasks, at most `slots` at once, and adds up what they return. The first error ends all of them.
async fn all<F>(mut waiting: impl Iterator<Item = F>, slots: usize, tell: impl Fn()) -> Result<Sum, TerasortError>
where
    F: Future<Output = Result<Sum, TerasortError>> + Send + 'static,
{
    let (mut running, mut sum, mut told) = (JoinSet::new(), Sum::default(), clock::now());
    loop {
        while running.len() < slots
            && let Some(task) = waiting.next()
        {
            running.spawn(task);
        }
        if running.is_empty() {
            tell();
            return Ok(sum);
        }
        // Nothing is lost by asking the set again.
        if let Ok(Some(ended)) = clock::timeout(PROGRESS_EVERY, running.join_next()).await {
            sum.merge(ended??);
        }
        if told.elapsed() >= PROGRESS_EVERY {
            told = clock::now();
            tell();
        }
    }
}

/// Whether the records that were sorted are those that were generated.
fn same(generated: Sum, sorted: Sum) -> Result<(), TerasortError> {
    if generated.records != sorted.records {
        return Err(TerasortError::Count { expected: generated.records, found: sorted.records });
    }
    if generated.hash != sorted.hash {
        return Err(TerasortError::Checksum { expected: generated.hash, found: sorted.hash });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
