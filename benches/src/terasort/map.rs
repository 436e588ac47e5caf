//! A map task: its records are generated on a thread of their own, gather there per partition, and are pushed in units of
//! whole records.
//!
//! Owns one attempt from its start to its end. Does not own records (`record`) nor where they go (`splits`).

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use mallorn_client::{MapAttempt, ShuffleClient};
use mallorn_runtime::task;
use tokio::sync::mpsc;

use super::record::{RECORD_BYTES, Sum, prefix};
use super::{Input, TerasortError};

/// Most records of a unit: the fewest that make a batch of 64 KiB, which the client sends on without a copy.
const UNIT_RECORDS: usize = (64 * 1024_usize).div_ceil(RECORD_BYTES);
/// Most bytes that gather in one map task. Where partitions are too many for whole batches, units are smaller, and the
/// client gathers them.
const GATHERED_BYTES: usize = 64 * 1024 * 1024;
/// Units on their way from the generating thread to the pushing task.
const UNITS_AHEAD: usize = 4;

/// A partition, and the records for it.
type Unit = (u32, Bytes);

/// A map task.
pub(super) struct MapTask {
    pub(super) client: ShuffleClient,
    pub(super) input: Input,
    pub(super) shuffle: u32,
    pub(super) map: u32,
    /// Bytes pushed by all map tasks.
    pub(super) done: Arc<AtomicU64>,
}

impl MapTask {
    /// Generates and pushes its share of the records; returns their sum.
    pub(super) async fn run(self) -> Result<Sum, TerasortError> {
        let mut attempt = self.client.start_attempt(self.shuffle, self.map, 0).await?;
        let (units, mut generated) = mpsc::channel(UNITS_AHEAD);
        let (input, numbers) = (self.input, self.input.numbers(self.map));
        // A push that fails drops the receiver, which ends the generating.
        let generating = task::spawn(task::blocking(move || generate(&input, numbers, &units)));
        while let Some(unit) = generated.recv().await {
            self.push(&mut attempt, unit).await?;
        }
        let sum = generating.await??;
        if attempt.mapper_end().await?.won { Ok(sum) } else { Err(TerasortError::Lost { map: self.map }) }
    }

    async fn push(&self, attempt: &mut MapAttempt, (partition, records): Unit) -> Result<(), TerasortError> {
        let bytes = records.len() as u64;
        attempt.push_owned(partition, records).await?;
        self.done.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }
}

impl Input {
    /// The numbers of a map's records: equal shares but for one record.
    pub(super) fn numbers(&self, map: u32) -> Range<u64> {
        let start = |map: u32| (u128::from(self.records) * u128::from(map) / u128::from(self.maps)) as u64;
        start(map)..start(map + 1)
    }
}

/// Generates records and hands them over in units; returns their sum. It ends early when nobody wants them.
fn generate(input: &Input, numbers: Range<u64>, units: &mpsc::Sender<Unit>) -> Sum {
    let partitions = input.splits.partitions() as usize;
    let unit_bytes = (GATHERED_BYTES / partitions / RECORD_BYTES).clamp(1, UNIT_RECORDS) * RECORD_BYTES;
    let mut gathering: Vec<Vec<u8>> = vec![Vec::new(); partitions];
    let mut sum = Sum::default();
    for number in numbers {
        let record = input.generator.record(number);
        sum.add(&record);
        let partition = input.splits.partition_of(prefix(&record));
        let records = &mut gathering[partition as usize];
        if records.is_empty() {
            records.reserve_exact(unit_bytes);
        }
        records.extend_from_slice(&record);
        if records.len() == unit_bytes && units.blocking_send((partition, std::mem::take(records).into())).is_err() {
            return sum;
        }
    }
    for (partition, records) in (0..).zip(gathering).filter(|(_, records)| !records.is_empty()) {
        if units.blocking_send((partition, records.into())).is_err() {
            break;
        }
    }
    sum
}
