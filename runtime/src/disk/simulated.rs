//! Files in memory, for the simulation.
//!
//! Owns the tree: what a process sees, and what of it a loss of power leaves. Every call is atomic, and seen at once by
//! all who have the tree open: a simulated crash loses the process, nothing of its files. A loss of power keeps what was
//! synced, and of the rest as much as chance has it. Does not own when something goes wrong ([`DiskFaults`]).

use std::collections::BTreeMap;
use std::io::{self, Cursor, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::io::Errno;
use tokio::sync::Notify;

pub(super) use self::file::OpenFile;
use self::inode::Inode;
use self::names::{Names, Node};
use super::error::ReplaceStep;
use super::{Entry, OpenHow, Space};
use crate::clock;
use crate::random::Random;

mod faults;
mod file;
mod inode;
mod names;
#[cfg(test)]
mod tests;

pub use self::faults::{Conditions, DiskFaults, Latency, Strike};

/// A disk of which nothing else was said has this much room.
const CAPACITY_BYTES: u64 = 1 << 40;

/// A file's content as it was when the file was opened.
pub(super) type Content = Cursor<Vec<u8>>;

/// All files and folders by path. The root and the empty path are folders that always exist.
#[derive(Clone, Debug)]
pub(super) struct Tree {
    state: Arc<Mutex<State>>,
    /// Told whenever conditions change.
    changed: Arc<Notify>,
}

#[derive(Debug)]
struct State {
    names: Names,
    /// By folder; the longest path that an operation's path begins with counts.
    conditions: BTreeMap<PathBuf, Conditions>,
    /// By path, with the number of the one who has it.
    locks: BTreeMap<PathBuf, u64>,
    locks_taken: u64,
    boots: u64,
    random: Random,
    /// Operations that a condition made fail or wait.
    struck: BTreeMap<Strike, u64>,
    /// Changes and syncs that are left until the machine dies.
    dies_after: Option<u64>,
}

/// What an operation does, as far as that decides whether it works.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Operation {
    Look,
    Read,
    Write,
    Sync,
}

/// A lock, given back when this is dropped.
#[derive(Debug)]
pub(super) struct Lock {
    state: Arc<Mutex<State>>,
    path: PathBuf,
    number: u64,
}

impl Drop for Lock {
    fn drop(&mut self) {
        let mut state = self.state.lock();
        // After a loss of power somebody else may have it.
        if state.locks.get(&self.path) == Some(&self.number) {
            state.locks.remove(&self.path);
        }
    }
}

impl State {
    fn conditions(&self, path: &Path) -> Conditions {
        path.ancestors().find_map(|folder| self.conditions.get(folder)).cloned().unwrap_or_default()
    }

    fn has_died(&self) -> bool {
        self.dies_after == Some(0)
    }

    fn check(&mut self, path: &Path, operation: Operation) -> io::Result<()> {
        if self.has_died() {
            return Err(Errno::IO.into());
        }
        if matches!(operation, Operation::Write | Operation::Sync)
            && let Some(left) = &mut self.dies_after
        {
            *left -= 1;
        }
        let conditions = self.conditions(path);
        let (strike, answer) = match operation {
            _ if conditions.vanished => (Strike::Vanished, Errno::NOENT),
            Operation::Write if conditions.read_only => (Strike::ReadOnly, Errno::ROFS),
            Operation::Write if conditions.fails_writes => (Strike::Write, Errno::IO),
            Operation::Read if conditions.fails_reads => (Strike::Read, Errno::IO),
            Operation::Sync if conditions.fails_syncs => (Strike::Sync, Errno::IO),
            Operation::Look | Operation::Read | Operation::Write | Operation::Sync => return Ok(()),
        };
        self.strike(strike);
        Err(answer.into())
    }

    fn strike(&mut self, strike: Strike) {
        *self.struck.entry(strike).or_default() += 1;
    }

    fn full(&mut self) -> io::Error {
        self.strike(Strike::Full);
        Errno::NOSPC.into()
    }

    /// The room of the disk that a path is on: that of the nearest folder above of which a capacity was said.
    fn space(&self, path: &Path) -> Space {
        let of_folder = |folder: &Path| Some((folder.to_owned(), self.conditions.get(folder)?.capacity_bytes?));
        let said = path.ancestors().find_map(of_folder);
        let (folder, capacity_bytes) = said.unwrap_or((PathBuf::new(), CAPACITY_BYTES));
        Space { capacity_bytes, free_bytes: capacity_bytes.saturating_sub(self.names.allocated(&folder)) }
    }
}

impl Tree {
    pub(super) fn new(random: Random) -> Self {
        let state = State {
            names: Names::default(),
            conditions: BTreeMap::new(),
            locks: BTreeMap::new(),
            locks_taken: 0,
            boots: 1,
            random,
            struck: BTreeMap::new(),
            dies_after: None,
        };
        Self { state: Arc::new(Mutex::new(state)), changed: Arc::new(Notify::new()) }
    }

    pub(super) fn faults(&self) -> DiskFaults {
        DiskFaults::of(self.clone())
    }

    /// Waits as long as the disk takes for one operation in a folder; while it hangs, until it no longer does.
    pub(super) async fn delay(&self, folder: &Path) {
        let latency = {
            let state = self.state.lock();
            state.conditions(folder).latency.draw(&state.random)
        };
        if !latency.is_zero() {
            clock::sleep(latency).await;
        }
        let mut has_hung = false;
        loop {
            // Made before the question is asked: a change between the two is not missed.
            let changed = self.changed.notified();
            {
                let mut state = self.state.lock();
                if !state.conditions(folder).hung {
                    return;
                }
                if !std::mem::replace(&mut has_hung, true) {
                    state.strike(Strike::Hung);
                }
            }
            changed.await;
        }
    }

    pub(super) fn open(&self, path: &Path, how: OpenHow) -> io::Result<OpenFile> {
        let mut state = self.state.lock();
        state.check(path, Operation::Look)?;
        let inode = match (how, state.names.get(path)) {
            (OpenHow::Create, Some(_)) => return Err(ErrorKind::AlreadyExists.into()),
            (OpenHow::Read | OpenHow::Write, Some(Node::File(inode))) => inode.clone(),
            (OpenHow::Read | OpenHow::Write, Some(Node::Folder)) => return Err(ErrorKind::IsADirectory.into()),
            (OpenHow::Read, None) => return Err(ErrorKind::NotFound.into()),
            (OpenHow::Create | OpenHow::Write, None) => {
                state.check(path, Operation::Write)?;
                let inode = Arc::new(Inode::default());
                state.names.link(path, inode.clone())?;
                inode
            }
        };
        Ok(OpenFile::new(self.state.clone(), path, inode, how != OpenHow::Read))
    }

    pub(super) fn replace(&self, path: &Path, bytes: &[u8]) -> Result<(), (ReplaceStep, io::Error)> {
        let write = |error| (ReplaceStep::Write, error);
        let mut state = self.state.lock();
        state.check(path, Operation::Write).map_err(write)?;
        state.names.check_place(path).map_err(write)?;
        if state.space(path).free_bytes < bytes.len() as u64 {
            return Err(write(state.full()));
        }
        state.check(path, Operation::Sync).map_err(|error| (ReplaceStep::Sync, error))?;
        state.names.link(path, Arc::new(Inode::synced(bytes))).map_err(write)?;
        state.names.sync(path.parent().unwrap_or(Path::new("")));
        Ok(())
    }

    pub(super) fn open_read(&self, path: &Path) -> io::Result<Content> {
        let mut state = self.state.lock();
        state.check(path, Operation::Read)?;
        Ok(Cursor::new(state.names.file(path)?.content()))
    }

    pub(super) fn create_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        state.check(path, Operation::Write)?;
        state.names.create_dir(path)
    }

    pub(super) fn make_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        state.check(path, Operation::Write)?;
        state.names.check_folder(path.parent().unwrap_or(Path::new("")))?;
        state.names.create_dir(path)
    }

    pub(super) fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        state.check(path, Operation::Write)?;
        state.names.remove_dir_all(path)
    }

    pub(super) fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        state.check(path, Operation::Write)?;
        state.names.unlink(path)
    }

    pub(super) fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        state.check(from, Operation::Write)?;
        state.check(to, Operation::Write)?;
        state.names.rename(from, to)
    }

    pub(super) fn list(&self, folder: &Path) -> io::Result<Vec<Entry>> {
        let mut state = self.state.lock();
        state.check(folder, Operation::Read)?;
        state.names.list(folder)
    }

    pub(super) fn sync_dir(&self, folder: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        state.check(folder, Operation::Sync)?;
        state.names.check_folder(folder)?;
        state.names.sync(folder);
        Ok(())
    }

    pub(super) fn space(&self, folder: &Path) -> io::Result<Space> {
        let mut state = self.state.lock();
        state.check(folder, Operation::Look)?;
        state.names.check_folder(folder)?;
        Ok(state.space(folder))
    }

    pub(super) fn lock(&self, path: &Path) -> io::Result<Option<Lock>> {
        self.open(path, OpenHow::Write)?;
        let mut state = self.state.lock();
        if state.locks.contains_key(path) {
            return Ok(None);
        }
        state.locks_taken += 1;
        let number = state.locks_taken;
        state.locks.insert(path.to_owned(), number);
        drop(state);
        Ok(Some(Lock { state: self.state.clone(), path: path.to_owned(), number }))
    }

    pub(super) fn boot_id(&self) -> String {
        format!("boot-{}", self.state.lock().boots)
    }
}
