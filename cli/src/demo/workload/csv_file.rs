//! The user's own file: CSV, its rows counted per value of one column.
//!
//! Owns the checks on the file, its division among map tasks, and the direct count, all done in one pass at the
//! start. Counting is in [`keys`], the form in which a record travels in [`row`].

mod check;
mod keys;
mod read;
mod row;

pub(crate) use check::CsvError;
pub(crate) use keys::TooManyKeys;

use super::{
    Answer, ReduceError, Reducer, RowError, RowSource, RowSum, Table, Workload, check_task,
    row_sum::{Seed, hash},
};
use csv::Position;
use keys::{KeyCounts, KeySummary};
use read::{FileState, RecordError, Records};
use std::{
    num::NonZeroU16,
    path::{Path, PathBuf},
    sync::Arc,
};

/// The one table of this workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CsvTable;

impl Table for CsvTable {
    fn name(self) -> &'static str {
        "rows"
    }
}

/// A checked CSV file. Map `i` of `n` pushes the `i`-th of `n` equally long runs of records, and rows are partitioned
/// by key.
#[derive(Debug)]
pub(crate) struct CsvFile {
    path: Arc<PathBuf>,
    state: FileState,
    key_column: usize,
    columns: usize,
    maps: NonZeroU16,
    records: u64,
    /// Where some records start, in ascending order.
    marks: Vec<Position>,
    largest_row_bytes: u64,
    direct: KeySummary,
}

impl CsvFile {
    /// Checks the file at `path` and counts its records per value of the column named `key`, in one pass over it.
    ///
    /// The file must be a regular one, start with a line of column names and hold at least one record, all with as
    /// many fields as there are columns.
    pub(crate) fn open(path: &Path, key: &str, maps: NonZeroU16) -> Result<Self, CsvError> {
        check::check(path, key, maps)
    }

    /// The records of map task `map`: the first one, counted from 0, and the one after the last.
    fn share(&self, map: u32) -> (u64, u64) {
        let maps = u64::from(self.maps.get());
        let (each, more) = (self.records / maps, self.records % maps);
        let first = |map: u64| each * map + map.min(more);
        (first(u64::from(map)), first(u64::from(map) + 1))
    }

    fn row_error(&self, error: RecordError) -> RowError {
        row_error(&self.path, error)
    }
}

/// What an error means after the file was checked: a record can only have become too long if the file has changed.
fn row_error(path: &Path, error: RecordError) -> RowError {
    match error {
        RecordError::TooLong => RowError::Changed { path: path.to_owned() },
        RecordError::Io(source) => RowError::Read { path: path.to_owned(), source },
    }
}

impl Workload for CsvFile {
    type Table = CsvTable;
    type Rows = CsvRows;
    type Reducer = KeyReducer;
    type Partial = KeySummary;

    const TABLES: &'static [CsvTable] = &[CsvTable];

    fn prepare(&self) {}

    fn maps(&self) -> u32 {
        u32::from(self.maps.get())
    }

    fn rows_expected(&self, _table: CsvTable) -> u64 {
        self.records
    }

    fn largest_row_bytes(&self) -> u64 {
        self.largest_row_bytes
    }

    fn rows(&self, _table: CsvTable, map: u32) -> Result<CsvRows, RowError> {
        check_task("map", map, self.maps())?;
        let (file, state) = read::open(&self.path).map_err(|source| self.row_error(RecordError::Io(source)))?;
        let mut rows = CsvRows {
            path: Arc::clone(&self.path),
            state: self.state,
            records: Records::new(file),
            key_column: self.key_column,
            columns: self.columns,
            left: 0,
            yielded: RowSum::default(),
        };
        if state != self.state {
            return Err(rows.changed());
        }
        let (first, end) = self.share(map);
        let mark = self.marks.partition_point(|mark| read::record_index(mark) <= first).checked_sub(1);
        let at = match mark.map(|mark| &self.marks[mark]) {
            Some(mark) => {
                rows.records.seek(mark.clone()).map_err(|error| self.row_error(error))?;
                read::record_index(mark)
            }
            None => 0,
        };
        rows.left = end - at;
        for _ in at..first {
            rows.next_record()?;
        }
        Ok(rows)
    }

    fn reducer(&self) -> KeyReducer {
        KeyReducer::default()
    }

    fn direct_parts(&self) -> u32 {
        1
    }

    /// Counted when the file was checked.
    fn direct(&self, part: u32) -> Result<KeySummary, RowError> {
        check_task("part", part, self.direct_parts())?;
        Ok(self.direct.clone())
    }

    fn answer(&self, summary: &KeySummary) -> Answer {
        summary.answer()
    }

    fn published(&self) -> Option<Answer> {
        None
    }
}

/// The records of one map task.
#[derive(Debug)]
pub(crate) struct CsvRows {
    path: Arc<PathBuf>,
    state: FileState,
    records: Records,
    key_column: usize,
    columns: usize,
    /// How many records are still to be read.
    left: u64,
    yielded: RowSum,
}

impl CsvRows {
    fn next_record(&mut self) -> Result<(), RowError> {
        let there = self.records.advance().map_err(|error| row_error(&self.path, error))?;
        if !there || self.records.record().len() != self.columns {
            return Err(self.changed());
        }
        self.left -= 1;
        Ok(())
    }

    fn changed(&self) -> RowError {
        RowError::Changed { path: self.path.to_path_buf() }
    }
}

impl RowSource for CsvRows {
    fn next_row(&mut self, row: &mut Vec<u8>) -> Result<Option<u64>, RowError> {
        if self.left == 0 {
            let state = self.records.state().map_err(|source| row_error(&self.path, RecordError::Io(source)))?;
            return if state == self.state { Ok(None) } else { Err(self.changed()) };
        }
        self.next_record()?;
        let record = self.records.record();
        row::encode(record, self.key_column, row);
        self.yielded.add(row);
        Ok(Some(hash(Seed::Partition, record.get(self.key_column).unwrap_or_default())))
    }

    fn yielded(&self) -> RowSum {
        self.yielded
    }
}

/// Counts the rows and bytes of the keys of some partitions.
#[derive(Debug, Default)]
pub(crate) struct KeyReducer {
    counts: KeyCounts,
    accepted: RowSum,
}

impl Reducer for KeyReducer {
    type Table = CsvTable;
    type Partial = KeySummary;

    fn accept(&mut self, table: CsvTable, mut batch: &[u8]) -> Result<(), ReduceError> {
        while !batch.is_empty() {
            let (row, rest) = row::split_row(batch).map_err(|why| ReduceError::malformed(table.name(), why, batch))?;
            self.counts.add(row.key, row.text.len() as u64)?;
            self.accepted.add(row.whole);
            batch = rest;
        }
        Ok(())
    }

    fn accepted(&self, _table: CsvTable) -> RowSum {
        self.accepted
    }

    fn finish(self) -> Result<KeySummary, ReduceError> {
        Ok(self.counts.finish())
    }
}

#[cfg(test)]
mod tests;
