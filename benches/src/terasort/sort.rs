//! A sort task: reads a partition whole, sorts it in memory on a thread of its own, and validates it.
//!
//! Owns the order within a partition. Does not own whether all partitions together hold every record (`terasort`).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use mallorn_client::{ReadRequest, ShuffleClient};
use mallorn_runtime::task;

use super::record::{RECORD_BYTES, Record, Sum, key, prefix};
use super::splits::Splits;
use super::{Input, TerasortError};

/// Bits of a sort entry that hold where the record is; the key lies above them.
const INDEX_BITS: u32 = 48;

/// A sort task.
pub(super) struct SortTask {
    pub(super) client: ShuffleClient,
    pub(super) input: Input,
    pub(super) shuffle: u32,
    pub(super) partition: u32,
    /// Bytes read by all sort tasks.
    pub(super) done: Arc<AtomicU64>,
}

impl SortTask {
    /// Reads, sorts and validates the partition; returns the sum of its records.
    pub(super) async fn run(self) -> Result<Sum, TerasortError> {
        let (partition, splits) = (self.partition, self.input.splits);
        let bytes = self.read().await?;
        task::blocking(move || {
            let (records, _) = bytes.as_chunks::<RECORD_BYTES>();
            validate(in_order(records), splits, partition)
        })
        .await?
    }

    async fn read(&self) -> Result<Vec<u8>, TerasortError> {
        let partition = self.partition;
        let mut bytes = Vec::with_capacity(self.expected_bytes());
        let mut reader = self.client.read(ReadRequest::new(self.shuffle, partition..partition + 1)).await?;
        while let Some(batch) = reader.next().await? {
            // Batches are of whole units, and units of whole records.
            if !batch.data.len().is_multiple_of(RECORD_BYTES) {
                return Err(TerasortError::Torn { partition, bytes: batch.data.len() as u64 });
            }
            bytes.extend_from_slice(&batch.data);
            self.done.fetch_add(batch.data.len() as u64, Ordering::Relaxed);
        }
        Ok(bytes)
    }

    /// Room for a partition, with some to spare for chance: growing would copy it all.
    fn expected_bytes(&self) -> usize {
        let mean = self.input.records / u64::from(self.input.splits.partitions());
        (mean + mean / 16) as usize * RECORD_BYTES
    }
}

/// The records by rising keys. What is moved is an entry of 16 bytes for each, not the records.
pub(super) fn in_order(records: &[Record]) -> impl Iterator<Item = &Record> {
    let entries = (0u128..).zip(records).map(|(index, record)| (key(record) << INDEX_BITS) | index);
    let mut entries: Vec<u128> = entries.collect();
    entries.sort_unstable();
    let index_of = |entry: u128| (entry & ((1 << INDEX_BITS) - 1)) as usize;
    entries.into_iter().map(move |entry| &records[index_of(entry)])
}

/// Whether records rise and all keys are of the partition's range; returns their sum.
pub(super) fn validate<'a>(
    records: impl Iterator<Item = &'a Record>,
    splits: Splits,
    partition: u32,
) -> Result<Sum, TerasortError> {
    let range = splits.range(partition);
    let (mut sum, mut before) = (Sum::default(), 0);
    for record in records {
        let key = key(record);
        if key < before {
            return Err(TerasortError::Order { partition });
        }
        if !range.contains(&u128::from(prefix(record))) {
            return Err(TerasortError::Range { partition });
        }
        before = key;
        sum.add(record);
    }
    Ok(sum)
}
