//! Reading a CSV file record by record, in bounded memory.
//!
//! Owns the bound on a record, and what "the file has not changed" means. Does not own what records must look like.

use csv::{ByteRecord, ErrorKind, Position, Reader, ReaderBuilder};
use std::{
    fs::{self, Metadata},
    io::{self, Read, Seek, SeekFrom},
    path::Path,
    time::SystemTime,
};

#[expect(clippy::disallowed_types, reason = "a seekable file of the user's, read synchronously")]
type File = fs::File;

/// Longer records are refused: most likely a quote is missing, and the rest of the file would be one field.
pub(super) const LARGEST_RECORD_BYTES: u64 = 64 << 20;

/// How much of the file is read at a time.
const BUFFER_BYTES: usize = 256 << 10;

/// By what a file is recognised as unchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileState {
    bytes: u64,
    /// `None` where the file system keeps no such time.
    modified: Option<SystemTime>,
}

fn state_of(metadata: &Metadata) -> io::Result<FileState> {
    if !metadata.is_file() {
        let why = "it is not a regular file, and it must be read more than once";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    }
    Ok(FileState { bytes: metadata.len(), modified: metadata.modified().ok() })
}

/// Opens the regular file at `path`.
pub(super) fn open(path: &Path) -> io::Result<(File, FileState)> {
    // Opening a named pipe would wait for a writer, so this asks first.
    state_of(&fs::metadata(path)?)?;
    let file = File::open(path)?;
    let state = state_of(&file.metadata()?)?;
    Ok((file, state))
}

/// Why there is no next record.
#[derive(Debug)]
pub(super) enum RecordError {
    /// It is longer than [`LARGEST_RECORD_BYTES`].
    TooLong,
    /// The file can't be read.
    Io(io::Error),
}

/// The number of the record that starts at `position`, counted from 0 and without the line of column names.
pub(super) fn record_index(position: &Position) -> u64 {
    position.record().saturating_sub(1)
}

/// A CSV file being read.
#[derive(Debug)]
pub(super) struct Records {
    reader: Reader<Bounded>,
    record: ByteRecord,
}

impl Records {
    /// Reads `file` from its start.
    pub(super) fn new(file: File) -> Self {
        let bounded = Bounded { file, left: LARGEST_RECORD_BYTES, refused: false };
        // Any number of fields: callers know the number to expect, and what to say.
        let reader = ReaderBuilder::new().flexible(true).buffer_capacity(BUFFER_BYTES).from_reader(bounded);
        Self { reader, record: ByteRecord::new() }
    }

    /// The column names; none if the file is empty.
    pub(super) fn header(&mut self) -> Result<ByteRecord, RecordError> {
        match self.reader.byte_headers() {
            Ok(header) => Ok(header.clone()),
            Err(error) => Err(self.error(error)),
        }
    }

    /// Goes to `position`, which the same file had given.
    pub(super) fn seek(&mut self, position: Position) -> Result<(), RecordError> {
        self.reader.seek(position).map_err(|error| self.error(error))
    }

    /// Reads the next record; `false` at the end of the file.
    pub(super) fn advance(&mut self) -> Result<bool, RecordError> {
        self.reader.get_mut().left = LARGEST_RECORD_BYTES;
        self.reader.read_byte_record(&mut self.record).map_err(|error| self.error(error))
    }

    /// The record read last.
    pub(super) fn record(&self) -> &ByteRecord {
        &self.record
    }

    /// Where the next record starts.
    pub(super) fn position(&self) -> &Position {
        self.reader.position()
    }

    /// The file's state now.
    pub(super) fn state(&self) -> io::Result<FileState> {
        state_of(&self.reader.get_ref().file.metadata()?)
    }

    fn error(&self, error: csv::Error) -> RecordError {
        if self.reader.get_ref().refused {
            return RecordError::TooLong;
        }
        match error.into_kind() {
            ErrorKind::Io(source) => RecordError::Io(source),
            other => RecordError::Io(io::Error::other(format!("{other:?}"))),
        }
    }
}

/// A file of which only so much can be read before somebody allows more.
#[derive(Debug)]
struct Bounded {
    file: File,
    left: u64,
    refused: bool,
}

impl Read for Bounded {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 {
            self.refused = true;
            return Err(io::Error::other("the record is too long"));
        }
        let most = usize::try_from(self.left).map_or(buffer.len(), |left| buffer.len().min(left));
        let count = self.file.read(&mut buffer[..most])?;
        self.left -= count as u64;
        Ok(count)
    }
}

impl Seek for Bounded {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.file.seek(to)
    }
}
