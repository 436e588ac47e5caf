//! What `mallorn demo` shuffles: the rows of its map tasks, the computation of its reduce tasks, and the same answer
//! computed directly.
//!
//! Owns row formats, row sums, answers and their comparison. Does not own the shuffle: nothing here waits, spawns or
//! talks to a cluster, and everything is `Send`, so that the caller runs it wherever it likes.

mod row_sum;
mod answer;
mod tpch;
mod csv_file;

use std::{fmt::Debug, io, path::PathBuf};

pub(crate) use answer::{Answer, KeyRows, ModeOrders, Query12, TopKeys};
pub(crate) use csv_file::{CsvError, CsvFile};
pub(crate) use row_sum::RowSum;
pub(crate) use tpch::{Tpch, TpchError};

/// One input of a workload. Every table is a shuffle of its own, and all of them have the same maps and partitions.
pub(crate) trait Table: Copy + Debug + Eq + Send + Sync + 'static {
    /// The name for people, as in progress bars and in `--json`.
    fn name(self) -> &'static str;
}

/// A job that a shuffle can carry: what its map tasks push and what its reduce tasks compute.
///
/// The input of a map task is fixed at construction: every attempt of it, and every run of it for a later generation,
/// yields the same rows in the same order.
pub(crate) trait Workload: Send + Sync + 'static {
    /// The tables of this workload.
    type Table: Table;
    /// The rows of one map task.
    type Rows: RowSource;
    /// The computation of one reduce task.
    type Reducer: Reducer<Table = Self::Table, Partial = Self::Partial>;
    /// What a reduce task, or a part of the direct computation, adds to the answer.
    type Partial: Partial;

    /// All tables. A reduce task that reads them in this order needs the least memory, but any order is right.
    const TABLES: &'static [Self::Table];

    /// Does the costly work that the first map task would otherwise do. Worth calling while a cluster starts.
    fn prepare(&self);

    /// How many map tasks each table has.
    fn maps(&self) -> u32;

    /// How many rows all maps of `table` yield, for progress bars. May be off by a few per thousand.
    fn rows_expected(&self, table: Self::Table) -> u64;

    /// No row is longer than this many bytes. A row must fit into one batch.
    fn largest_row_bytes(&self) -> u64;

    /// The rows of map task `map` of `table`, counted from 0.
    fn rows(&self, table: Self::Table, map: u32) -> Result<Self::Rows, RowError>;

    /// A new reduce task. It must be given all rows of each of its partitions, and no others.
    fn reducer(&self) -> Self::Reducer;

    /// In how many parts the direct computation is done; parts can run side by side.
    fn direct_parts(&self) -> u32;

    /// Part `part` of the direct computation, counted from 0, which uses no shuffle. All of them merged are the truth
    /// that the merged reduce tasks are held against.
    fn direct(&self, part: u32) -> Result<Self::Partial, RowError>;

    /// The answer, once everything is merged into `partial`.
    fn answer(&self, partial: &Self::Partial) -> Answer;

    /// The answer that others have published for this very input, if there is one.
    fn published(&self) -> Option<Answer>;
}

/// The rows of one map task, one after the other.
pub(crate) trait RowSource: Send + 'static {
    /// Replaces the content of `row` by the next row and returns the hash that its partition follows from
    /// ([`partition_of`]), or `None` after the last row. Rows with equal keys have equal hashes in all tables. `row`
    /// keeps its capacity: one buffer serves a whole task. After an error the source is of no further use.
    fn next_row(&mut self, row: &mut Vec<u8>) -> Result<Option<u64>, RowError>;

    /// The sum of the rows yielded so far.
    fn yielded(&self) -> RowSum;
}

/// The computation of one reduce task.
pub(crate) trait Reducer: Send + 'static {
    /// The tables it reads.
    type Table: Table;
    /// What it adds to the answer.
    type Partial: Partial;

    /// Takes in `batch`, any number of whole rows of `table`. Batches may come in any order, tables mixed.
    fn accept(&mut self, table: Self::Table, batch: &[u8]) -> Result<(), ReduceError>;

    /// The sum of the rows of `table` accepted so far. Merged over all reduce tasks it equals the merged
    /// [`RowSource::yielded`] of the map tasks, or the shuffle has lost, repeated or changed rows.
    fn accepted(&self, table: Self::Table) -> RowSum;

    /// Ends the task, which has seen all its rows.
    fn finish(self) -> Result<Self::Partial, ReduceError>;
}

/// A share of the answer. The default is that of no rows.
pub(crate) trait Partial: Default + Send + 'static {
    /// Adds the share of another reduce task, or of another part of the direct computation.
    fn merge(&mut self, other: Self);
}

/// The partition of a row with `hash`. `partitions` is at least 1.
pub(crate) fn partition_of(hash: u64, partitions: u32) -> u32 {
    let partition = hash % u64::from(partitions);
    u32::try_from(partition).expect("a remainder is smaller than its 32-bit divisor")
}

/// Why the rows of a map task, or their direct computation, can't be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RowError {
    /// The task number is out of range.
    #[error("there is no {what} {index}: this workload has {count}, counted from 0")]
    NoSuchTask {
        /// What was asked for: a map or a part.
        what: &'static str,
        /// The number asked for.
        index: u32,
        /// How many there are.
        count: u32,
    },
    /// The input file can't be read.
    #[error("can't read {}: {source}", .path.display())]
    Read {
        /// The input file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The input file is no longer the one that was checked at the start.
    #[error("{} was changed while it was being shuffled; run again when nothing writes to it", .path.display())]
    Changed {
        /// The input file.
        path: PathBuf,
    },
}

/// Why a reduce task can't use what it read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReduceError {
    /// Bytes that no map task of this workload pushes.
    #[error("a batch of {table} holds no whole rows ({why}): {excerpt}")]
    Malformed {
        /// The table's name.
        table: &'static str,
        /// What is wrong.
        why: &'static str,
        /// The first bytes of the offending row, escaped.
        excerpt: String,
    },
    /// The same order came twice.
    #[error("order {order_key} was read more than once: the shuffle repeated a row")]
    RepeatedOrder {
        /// The order's key.
        order_key: u64,
    },
    /// A line item without its order.
    #[error(
        "the order {order_key} of a line item was not read: the shuffle lost a row, or sent one to another partition"
    )]
    MissingOrder {
        /// The order's key.
        order_key: u64,
    },
    /// More distinct keys than are held at once.
    #[error(transparent)]
    TooManyKeys(#[from] csv_file::TooManyKeys),
}

impl ReduceError {
    /// How many bytes of a malformed row a message quotes.
    const EXCERPT_BYTES: usize = 64;

    fn malformed(table: &'static str, why: &'static str, row: &[u8]) -> Self {
        let excerpt = row[..row.len().min(Self::EXCERPT_BYTES)].escape_ascii().to_string();
        Self::Malformed { table, why, excerpt }
    }
}

/// Refuses a task number that is out of range.
fn check_task(what: &'static str, index: u32, count: u32) -> Result<(), RowError> {
    if index < count { Ok(()) } else { Err(RowError::NoSuchTask { what, index, count }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a whole job without a shuffle in between: every row goes straight to the reduce task of its partition.
    /// Tables are read in the order of `tables`. Returns the answer after checking the row sums.
    pub(super) fn run<W: Workload>(workload: &W, partitions: u32, tables: &[W::Table]) -> Answer {
        let mut reducers: Vec<W::Reducer> = (0..partitions).map(|_| workload.reducer()).collect();
        for &table in tables {
            let mut pushed = RowSum::default();
            let mut row = Vec::new();
            for map in 0..workload.maps() {
                let mut rows = workload.rows(table, map).unwrap();
                while let Some(hash) = rows.next_row(&mut row).unwrap() {
                    assert!(row.len() as u64 <= workload.largest_row_bytes());
                    reducers[partition_of(hash, partitions) as usize].accept(table, &row).unwrap();
                }
                pushed.merge(rows.yielded());
            }
            let mut read = RowSum::default();
            reducers.iter().for_each(|reducer| read.merge(reducer.accepted(table)));
            assert_eq!(pushed, read);
        }
        let mut merged = W::Partial::default();
        reducers.into_iter().for_each(|reducer| merged.merge(reducer.finish().unwrap()));
        workload.answer(&merged)
    }

    /// The direct computation, part by part.
    pub(super) fn direct<W: Workload>(workload: &W) -> Answer {
        let mut merged = W::Partial::default();
        (0..workload.direct_parts()).for_each(|part| merged.merge(workload.direct(part).unwrap()));
        workload.answer(&merged)
    }

    /// All rows of one map task, each with its hash.
    pub(super) fn all_rows<W: Workload>(workload: &W, table: W::Table, map: u32) -> Vec<(u64, Vec<u8>)> {
        let mut rows = workload.rows(table, map).unwrap();
        let mut row = Vec::new();
        std::iter::from_fn(|| rows.next_row(&mut row).unwrap().map(|hash| (hash, row.clone()))).collect()
    }

    #[test]
    fn partitions_cover_the_hash_range() {
        assert_eq!(partition_of(0, 1), 0);
        assert_eq!(partition_of(u64::MAX, 1), 0);
        assert_eq!(partition_of(u64::MAX, u32::MAX), 0);
        assert_eq!(partition_of(17, 16), 1);
    }
}
