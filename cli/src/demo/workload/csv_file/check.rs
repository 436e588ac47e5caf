//! The one pass over a CSV file before it is shuffled: is it well formed, and what is the right answer?
//!
//! Owns what makes a file unusable and how that is said, and where map tasks may start reading.

use super::{
    CsvFile, TooManyKeys,
    keys::KeyCounts,
    read::{self, LARGEST_RECORD_BYTES, RecordError, Records, record_index},
    row,
};
use csv::{ByteRecord, Position};
use std::{
    io,
    num::NonZeroU16,
    path::{Path, PathBuf},
    sync::Arc,
};

/// Why a file can't be shuffled.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CsvError {
    /// It can't be opened or read.
    #[error("can't read {}: {source}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It has no line of column names.
    #[error("{} is empty: its first line must name the columns", .path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// It has column names and nothing else.
    #[error("{} has column names but no records: there is nothing to shuffle", .path.display())]
    NoRecords {
        /// The file.
        path: PathBuf,
    },
    /// It has no column of the name asked for.
    #[error("{} has no column {column:?}{hint}; its columns are {columns}", .path.display())]
    NoColumn {
        /// The file.
        path: PathBuf,
        /// The name asked for.
        column: String,
        /// `, did you mean "…"?`, or nothing if no name is near.
        hint: String,
        /// The names there are.
        columns: String,
    },
    /// Several columns have the name asked for.
    #[error("{} has more than one column {column:?}: give them different names", .path.display())]
    AmbiguousColumn {
        /// The file.
        path: PathBuf,
        /// The name asked for.
        column: String,
    },
    /// A record has more or fewer fields than there are columns.
    #[error(
        "{}, line {line} (record {record}): {fields} fields, but there are {columns} columns; is a quote or a comma \
         missing?",
        .path.display()
    )]
    Ragged {
        /// The file.
        path: PathBuf,
        /// The line at which the record starts, counted from 1.
        line: u64,
        /// The record, counted from 1 without the column names.
        record: u64,
        /// How many fields it has.
        fields: usize,
        /// How many columns there are.
        columns: usize,
    },
    /// A record is longer than any that is read.
    #[error(
        "{}: the record that starts at line {line} is longer than {} MiB; is a closing quote missing?",
        .path.display(),
        LARGEST_RECORD_BYTES >> 20
    )]
    TooLong {
        /// The file.
        path: PathBuf,
        /// The line at which the record starts, counted from 1.
        line: u64,
    },
    /// It was written to during the check.
    #[error("{} was changed while it was being read; run again when nothing writes to it", .path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// The column has more distinct values than can be counted.
    #[error("{}: {source}", .path.display())]
    TooManyKeys {
        /// The file.
        path: PathBuf,
        /// How many were too many.
        source: TooManyKeys,
    },
}

/// See [`CsvFile::open`].
pub(super) fn check(path: &Path, key: &str, maps: NonZeroU16) -> Result<CsvFile, CsvError> {
    let name = || path.to_owned();
    let unreadable = |source| CsvError::Read { path: name(), source };
    let (file, state) = read::open(path).map_err(unreadable)?;
    let mut records = Records::new(file);
    let failed = |error, line| match error {
        RecordError::TooLong => CsvError::TooLong { path: name(), line },
        RecordError::Io(source) => unreadable(source),
    };

    let header = records.header().map_err(|error| failed(error, 1))?;
    if header.is_empty() {
        return Err(CsvError::Empty { path: name() });
    }
    let lines = Lines::after_header(&header, records.position());
    let mut scan = Scan { key_column: find_column(path, &header, key)?, ..Scan::default() };
    loop {
        let start = records.position().clone();
        if !records.advance().map_err(|error| failed(error, lines.start_at_least(&start)))? {
            break;
        }
        let record = records.record();
        if record.len() != header.len() {
            let line = lines.start(&start, record, records.position());
            let (record, fields) = (record_index(&start) + 1, record.len());
            return Err(CsvError::Ragged { path: name(), line, record, fields, columns: header.len() });
        }
        scan.add(start, record).map_err(|source| CsvError::TooManyKeys { path: name(), source })?;
    }
    if scan.records == 0 {
        return Err(CsvError::NoRecords { path: name() });
    }
    if records.state().map_err(unreadable)? != state {
        return Err(CsvError::Changed { path: name() });
    }
    Ok(CsvFile {
        path: Arc::new(name()),
        state,
        key_column: scan.key_column,
        columns: header.len(),
        maps,
        records: scan.records,
        marks: scan.marks.0,
        largest_row_bytes: scan.largest_row_bytes,
        direct: scan.counts.finish(),
    })
}

/// What the pass collects.
#[derive(Default)]
struct Scan {
    key_column: usize,
    records: u64,
    marks: Marks,
    largest_row_bytes: u64,
    counts: KeyCounts,
    row: Vec<u8>,
}

impl Scan {
    fn add(&mut self, start: Position, record: &ByteRecord) -> Result<(), TooManyKeys> {
        row::encode(record, self.key_column, &mut self.row);
        let (row, _) = row::split_row(&self.row).expect("what was just encoded can be split");
        self.counts.add(row.key, row.text.len() as u64)?;
        self.largest_row_bytes = self.largest_row_bytes.max(row.whole.len() as u64);
        self.marks.add(start, record);
        self.records += 1;
        Ok(())
    }
}

/// Where some records start: all of them in a small file, ever fewer as it grows.
#[derive(Debug, Default)]
struct Marks(Vec<Position>, u32);

impl Marks {
    /// How many are kept at most.
    const MOST: usize = 8192;

    fn add(&mut self, start: Position, record: &ByteRecord) {
        let Self(marks, doublings) = self;
        let falls_on_stride = |start: &Position, doublings: u32| record_index(start).trailing_zeros() >= doublings;
        // A reader that starts at what looks like a byte order mark takes it for one.
        if !falls_on_stride(&start, *doublings) || record.as_slice().starts_with(b"\xef\xbb\xbf") {
            return;
        }
        marks.push(start);
        if marks.len() > Self::MOST {
            *doublings += 1;
            marks.retain(|mark| falls_on_stride(mark, *doublings));
        }
    }
}

/// Tells at which line a record starts. The reader's own count stands one line back where lines end in CR LF, because
/// it takes the LF for a part of what follows, and before empty lines.
struct Lines {
    /// Whether an LF ends a record, for all we know.
    ends_at_lf: bool,
}

impl Lines {
    fn after_header(header: &ByteRecord, after: &Position) -> Self {
        Self { ends_at_lf: after.line() > 1 + line_breaks(header) }
    }

    /// The line at which the record between the two positions starts.
    fn start(&self, before: &Position, record: &ByteRecord, after: &Position) -> u64 {
        let from_end = after.line().saturating_sub(line_breaks(record) + u64::from(self.ends_at_lf));
        from_end.max(self.start_at_least(before))
    }

    /// The line at which the record after the position starts, empty lines aside.
    fn start_at_least(&self, before: &Position) -> u64 {
        before.line() + u64::from(!self.ends_at_lf)
    }
}

fn line_breaks(record: &ByteRecord) -> u64 {
    record.as_slice().iter().filter(|byte| **byte == b'\n').count() as u64
}

/// The place of the column `key` in `header`.
fn find_column(path: &Path, header: &ByteRecord, key: &str) -> Result<usize, CsvError> {
    let mut places = header.iter().enumerate().filter(|(_, name)| *name == key.as_bytes());
    match (places.next(), places.next()) {
        (Some((place, _)), None) => Ok(place),
        (Some(_), Some(_)) => Err(CsvError::AmbiguousColumn { path: path.to_owned(), column: key.to_owned() }),
        (None, _) => {
            let names: Vec<String> = header.iter().map(|name| String::from_utf8_lossy(name).into_owned()).collect();
            let hint = nearest(key, &names).map_or_else(String::new, |name| format!(", did you mean {name:?}?"));
            let columns = list(&names);
            Err(CsvError::NoColumn { path: path.to_owned(), column: key.to_owned(), hint, columns })
        }
    }
}

/// How many column names a message lists.
const LISTED_COLUMNS: usize = 30;

/// How long a column name may be to be listed whole or to be suggested.
const LISTED_NAME_CHARS: usize = 64;

fn list(names: &[String]) -> String {
    let shown = names.iter().take(LISTED_COLUMNS).map(|name| match name.char_indices().nth(LISTED_NAME_CHARS) {
        Some((end, _)) => format!("{:?}…", &name[..end]),
        None => format!("{name:?}"),
    });
    let mut list = shown.collect::<Vec<_>>().join(", ");
    if names.len() > LISTED_COLUMNS {
        list += &format!(" and {} more", names.len() - LISTED_COLUMNS);
    }
    list
}

/// The name most like `wanted`, if it takes few changes to get from one to the other, whatever the case of letters.
fn nearest<'a>(wanted: &str, names: &'a [String]) -> Option<&'a str> {
    let plain = |name: &str| name.trim().to_lowercase().chars().take(LISTED_NAME_CHARS).collect::<Vec<char>>();
    let wanted = plain(wanted);
    let most = (wanted.len() / 3).max(1);
    let near = names.iter().map(|name| (changes(&wanted, &plain(name)), name.as_str()));
    near.filter(|(changes, _)| *changes <= most).min().map(|(_, name)| name)
}

/// How many characters must be inserted, left out or replaced to get from `a` to `b`.
fn changes(a: &[char], b: &[char]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, left) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, right) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(left != right);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}
