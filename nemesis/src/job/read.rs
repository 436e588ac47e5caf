//! Readers: every partition to its end, and a few ranges of maps; the oracle sees what was delivered.

use std::ops::Range;
use std::sync::Arc;

use mallorn_client::{Generation, ReadError, ReadRequest, Reader};
use mallorn_oracle::{Asked, Delivered, Ended, Wanted, read_units};
use mallorn_runtime::clock;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::{AGAIN, Engine, SHUFFLE};
use crate::failure::Failure;

/// More tries than any fault explains.
const TRIES_MAX: u32 = 60;

/// How a read went.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Outcome {
    Whole,
    /// Something is lost, or another generation has begun.
    Again,
    Failed(String),
}

/// Reads all partitions, one reader each, and some maps of all. Whether all came to their end in this generation.
pub(super) async fn run_all(engine: &Arc<Engine>, generation: Generation) -> Result<bool, Failure> {
    let plan = &engine.plan;
    let mut asked: Vec<(Range<u32>, Option<Range<u32>>)> =
        (0..plan.partitions).map(|partition| (partition..partition + 1, None)).collect();
    // As for a skewed partition, whose maps are read by several tasks.
    asked.push((0..plan.partitions.min(2), Some(1..plan.maps.min(3))));
    let room = Arc::new(Semaphore::new(plan.at_once as usize));
    let mut reads = JoinSet::new();
    for (number, (partitions, maps)) in (0..).zip(asked) {
        let (engine, room) = (Arc::clone(engine), Arc::clone(&room));
        reads.spawn(async move {
            let _room = room.acquire().await;
            until_decided(&engine, number, partitions, maps).await
        });
    }
    let mut whole = true;
    while let Some(read) = reads.join_next().await {
        let read = read.map_err(|error| Failure::Wrong(format!("a reader: {error}")))??;
        whole &= read == Some(generation);
    }
    Ok(whole)
}

/// The generation that was read whole; `None` where it was not.
async fn until_decided(
    engine: &Engine,
    number: u32,
    partitions: Range<u32>,
    maps: Option<Range<u32>>,
) -> Result<Option<Generation>, Failure> {
    for _ in 0..TRIES_MAX {
        let mut request = ReadRequest::new(SHUFFLE, partitions.clone());
        if let Some(maps) = maps.clone() {
            request = request.maps(maps);
        }
        let outcome = match engine.client(number).read(request).await {
            Err(error) => failed(engine, &partitions, &error),
            Ok(reader) => {
                let generation = reader.generation();
                match read(engine, reader, (partitions.clone(), maps.clone())).await {
                    Outcome::Whole => return Ok(Some(generation)),
                    other => other,
                }
            }
        };
        match outcome {
            Outcome::Failed(why) => engine.report.lock().failed_reads.push(why),
            Outcome::Whole | Outcome::Again => return Ok(None),
        }
        clock::sleep(AGAIN).await;
    }
    let why = engine.report.lock().failed_reads.last().cloned().unwrap_or_default();
    Err(Failure::Wrong(format!("a read has failed {TRIES_MAX} times: {why}")))
}

async fn read(engine: &Engine, mut reader: Reader, of: (Range<u32>, Option<Range<u32>>)) -> Outcome {
    let (partitions, maps) = of;
    let wanted = Wanted::Winners { maps: engine.plan.maps };
    let generation = reader.generation().0;
    let asked = Asked { shuffle: SHUFFLE, generation, partitions: partitions.clone(), maps, wanted };
    let mut delivered = Vec::new();
    let result = loop {
        match reader.next().await {
            Ok(Some(batch)) => {
                let batch = Delivered { partition: batch.partition.0, map: batch.map.0, data: batch.data.to_vec() };
                engine.progress.read(read_units(&batch.data).map_or(0, |units| units.len() as u64));
                delivered.push(batch);
            }
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        }
        if !engine.plan.read_pause.is_zero() {
            clock::sleep(engine.plan.read_pause).await;
        }
    };
    let ended = if result.is_ok() { Ended::Whole } else { Ended::Failed };
    engine.oracle.read(&asked, &delivered, ended);
    match result {
        Ok(()) => Outcome::Whole,
        Err(error) => failed(engine, &partitions, &error),
    }
}

fn failed(engine: &Engine, partitions: &Range<u32>, error: &ReadError) -> Outcome {
    match error {
        ReadError::PartitionLost { partition, incomplete, .. } => {
            if !incomplete.is_empty() || !partitions.contains(&partition.0) {
                engine.oracle.violated(format_args!("a read of {partitions:?}: {error}"));
            }
            engine.report.lock().losses.push(error.to_string());
            Outcome::Again
        }
        ReadError::Revoked { .. } => Outcome::Again,
        ReadError::TimedOut { .. } | ReadError::NoRoom => Outcome::Failed(error.to_string()),
        ReadError::Lifecycle(inner) if inner.reason().is_none() => Outcome::Failed(error.to_string()),
        ReadError::Lifecycle(_) | ReadError::Decompress { .. } => {
            engine.oracle.violated(format_args!("a read of {partitions:?}: {error}"));
            Outcome::Failed(error.to_string())
        }
    }
}
