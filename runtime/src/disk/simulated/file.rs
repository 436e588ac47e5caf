//! An open file in memory.
//!
//! Owns whether an operation on it works, and how much of a write fits. Does not own the content ([`Inode`]).

use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::io::Errno;

use super::inode::Inode;
use super::{Operation, State};

/// More than any file of a simulation holds, and less than would exhaust the memory of its machine.
const FILE_BYTES_MAX: u64 = 1 << 32;

/// A file that somebody opened; clones are the same open file.
#[derive(Clone, Debug)]
pub(in crate::disk) struct OpenFile {
    state: Arc<Mutex<State>>,
    /// Its name when it was opened: what is wrong with a disk is known by folder.
    path: Arc<Path>,
    inode: Arc<Inode>,
    writable: bool,
}

impl OpenFile {
    pub(super) fn new(state: Arc<Mutex<State>>, path: &Path, inode: Arc<Inode>, writable: bool) -> Self {
        Self { state, path: Arc::from(path), inode, writable }
    }

    /// What fits is written, even where the whole does not.
    pub(in crate::disk) fn write_at(&self, pieces: &[&[u8]], offset: u64) -> io::Result<()> {
        let mut bytes = pieces.concat();
        if bytes.is_empty() {
            return Ok(());
        }
        let mut state = self.state.lock();
        self.check_write(&mut state)?;
        let room = self.room(&state, offset, bytes.len() as u64)?;
        let is_whole = room >= bytes.len() as u64;
        bytes.truncate(usize::try_from(room).unwrap_or(usize::MAX));
        if !bytes.is_empty() {
            self.inode.write(bytes, offset as usize);
        }
        if is_whole { Ok(()) } else { Err(state.full()) }
    }

    pub(in crate::disk) fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<()> {
        self.check(&mut self.state.lock(), Operation::Read)?;
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        if into.is_empty() || self.inode.read(into, offset) { Ok(()) } else { Err(ErrorKind::UnexpectedEof.into()) }
    }

    pub(in crate::disk) fn length(&self) -> io::Result<u64> {
        self.check(&mut self.state.lock(), Operation::Look)?;
        Ok(self.inode.length())
    }

    pub(in crate::disk) fn truncate(&self, length: u64) -> io::Result<()> {
        let mut state = self.state.lock();
        self.check_write(&mut state)?;
        if self.room(&state, 0, length)? < length {
            return Err(state.full());
        }
        self.inode.truncate(length as usize);
        Ok(())
    }

    pub(in crate::disk) fn reserve(&self, offset: u64, length: u64) -> io::Result<()> {
        let mut state = self.state.lock();
        self.check_write(&mut state)?;
        if self.room(&state, offset, length)? < length {
            return Err(state.full());
        }
        self.inode.reserve(offset + length);
        Ok(())
    }

    pub(in crate::disk) fn sync(&self) -> io::Result<()> {
        let mut state = self.state.lock();
        let checked = self.check(&mut state, Operation::Sync);
        if checked.is_ok() && state.conditions(&self.path).lies {
            return Ok(());
        }
        if checked.is_ok() {
            self.inode.sync()
        } else {
            self.inode.fail_sync()
        }
        checked
    }

    fn check_write(&self, state: &mut State) -> io::Result<()> {
        if !self.writable {
            return Err(Errno::BADF.into());
        }
        self.check(state, Operation::Write)
    }

    fn check(&self, state: &mut State, operation: Operation) -> io::Result<()> {
        match state.check(&self.path, operation) {
            // The names are gone with the disk; what is open has nothing behind it.
            Err(error) if error.kind() == ErrorKind::NotFound => Err(Errno::IO.into()),
            checked => checked,
        }
    }

    /// How many of so many bytes at an offset have space, or can be given it.
    fn room(&self, state: &State, offset: u64, length: u64) -> io::Result<u64> {
        if offset.checked_add(length).is_none_or(|end| end > FILE_BYTES_MAX) {
            return Err(Errno::FBIG.into());
        }
        let end = self.inode.allocated().saturating_add(state.space(&self.path).free_bytes);
        Ok(end.saturating_sub(offset).min(length))
    }
}
