//! A map task: its rows are generated on a thread of their own, and each is pushed to its partition. Generating is
//! computing and reading files: on the threads that serve connections it would delay every push and every ack, and it
//! was measured to take no less CPU there.
//!
//! Owns one attempt from its start to its end. Does not own which attempts are made (`driver`).

use std::sync::Arc;

use mallorn_client::{MapAttempt, PushError, Reason, ShuffleClient, Token};
use mallorn_runtime::task;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::error::MapError;
use super::progress::Counters;
use super::workload::{RowError, RowSource, RowSum, Workload, partition_of};

/// Rows that go from the generating thread to the pushing task at once, in bytes: enough that the hand-over costs
/// nothing, little enough to stay in a cache.
const CHUNK_BYTES: usize = 64 * 1024;
/// Chunks of one attempt: one is filled while the other is pushed.
const CHUNKS: usize = 2;

/// One attempt at a map task.
pub(super) struct Attempt<W: Workload> {
    pub(super) workload: Arc<W>,
    pub(super) table: W::Table,
    pub(super) shuffle: u32,
    pub(super) map: u32,
    pub(super) attempt: u32,
    pub(super) partitions: u32,
    pub(super) client: ShuffleClient,
    pub(super) counters: Arc<Counters>,
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug)]
pub(super) enum AttemptEnd {
    /// Its data counts.
    Won(Winner),
    /// Another attempt of the map was first; nothing of this one counts.
    Overtaken,
}

/// An attempt whose data counts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Winner {
    /// By which readers name it.
    pub(super) token: Token,
    /// The rows that it pushed.
    pub(super) yielded: RowSum,
}

impl<W: Workload> Attempt<W> {
    /// Runs the attempt. Dropping the future declares it failed.
    pub(super) async fn run(self) -> Result<AttemptEnd, MapError> {
        let started = self.client.start_attempt(self.shuffle, self.map, self.attempt).await;
        let mut attempt = match started {
            Ok(attempt) => attempt,
            Err(error) if error.reason() == Some(Reason::StageEnded) => return Ok(AttemptEnd::Overtaken),
            Err(error) => return Err(error.into()),
        };
        match self.push_all(&mut attempt).await {
            Ok(end) => Ok(end),
            Err(MapError::Push(error)) if error.is_overtaken() => Ok(AttemptEnd::Overtaken),
            Err(error) => {
                attempt.failed().await;
                Err(error)
            }
        }
    }

    async fn push_all(&self, attempt: &mut MapAttempt) -> Result<AttemptEnd, MapError> {
        let mut rows = Rows::generate(Arc::clone(&self.workload), self.table, self.map, self.partitions);
        while let Some(chunk) = rows.next().await {
            self.push(attempt, &chunk).await?;
            self.counters.add(chunk.ends.len() as u64, chunk.bytes.len() as u64);
            rows.give_back(chunk);
        }
        let yielded = rows.finish().await?;
        let end = attempt.mapper_end().await?;
        let reported = end.bytes.iter().map(|(_, bytes)| bytes).sum();
        if reported != yielded.bytes {
            return Err(MapError::Bytes { pushed: yielded.bytes, reported });
        }
        Ok(if end.won { AttemptEnd::Won(Winner { token: end.token, yielded }) } else { AttemptEnd::Overtaken })
    }

    async fn push(&self, attempt: &mut MapAttempt, chunk: &Chunk) -> Result<(), PushError> {
        let mut start = 0;
        for &(partition, end) in &chunk.ends {
            attempt.push(partition, &chunk.bytes[start..end]).await?;
            start = end;
        }
        Ok(())
    }
}

/// Some rows, one after the other.
#[derive(Debug, Default)]
struct Chunk {
    bytes: Vec<u8>,
    /// The partition of each row, and where it ends in `bytes`.
    ends: Vec<(u32, usize)>,
}

/// The rows of a map task, on their way from the thread that generates them.
struct Rows {
    filled: mpsc::Receiver<Chunk>,
    empty: mpsc::Sender<Chunk>,
    generator: JoinHandle<Result<Result<RowSum, RowError>, tokio::task::JoinError>>,
}

impl Rows {
    /// Starts to generate. Dropping this ends it.
    fn generate<W: Workload>(workload: Arc<W>, table: W::Table, map: u32, partitions: u32) -> Self {
        let (fill, filled) = mpsc::channel(CHUNKS);
        let (empty, to_fill) = mpsc::channel(CHUNKS);
        let generator = task::spawn(task::blocking(move || {
            let source = workload.rows(table, map)?;
            fill_chunks(source, partitions, &fill, to_fill)
        }));
        let rows = Self { filled, empty, generator };
        (0..CHUNKS).for_each(|_| rows.give_back(Chunk::default()));
        rows
    }

    /// The next chunk; `None` after the last one, or when there is an error to be told by [`Rows::finish`].
    async fn next(&mut self) -> Option<Chunk> {
        self.filled.recv().await
    }

    /// Gives a chunk back to be filled again.
    fn give_back(&self, chunk: Chunk) {
        // There is room for every chunk there is, and nobody wants it where nothing more is generated.
        let _ = self.empty.try_send(chunk);
    }

    /// The sum of all rows.
    async fn finish(self) -> Result<RowSum, MapError> {
        Ok(self.generator.await???)
    }
}

fn fill_chunks(
    mut source: impl RowSource,
    partitions: u32,
    fill: &mpsc::Sender<Chunk>,
    mut to_fill: mpsc::Receiver<Chunk>,
) -> Result<RowSum, RowError> {
    let mut row = Vec::new();
    while let Some(mut chunk) = to_fill.blocking_recv() {
        chunk.bytes.clear();
        chunk.ends.clear();
        let mut is_last = false;
        while chunk.bytes.len() < CHUNK_BYTES {
            let Some(hash) = source.next_row(&mut row)? else {
                is_last = true;
                break;
            };
            chunk.bytes.extend_from_slice(&row);
            chunk.ends.push((partition_of(hash, partitions), chunk.bytes.len()));
        }
        if fill.blocking_send(chunk).is_err() || is_last {
            break;
        }
    }
    Ok(source.yielded())
}
