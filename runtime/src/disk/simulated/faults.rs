//! What goes wrong with simulated disks.
//!
//! Owns the conditions, and the losses that no condition takes back. Does not own when they strike.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use super::Tree;
use crate::random::Random;

/// How the disk of a folder is. The default is a disk in order, that takes no time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conditions {
    /// Bytes that the files in and below the folder may take; else those of the folder above, else very much.
    pub capacity_bytes: Option<u64>,
    /// Whatever changes files or folders fails (`EIO`).
    pub fails_writes: bool,
    /// Whatever reads files or folders fails (`EIO`).
    pub fails_reads: bool,
    /// Syncs fail (`EIO`), and what they should have made safe is lost with the power.
    pub fails_syncs: bool,
    /// Syncs of files succeed and make nothing safe: for tests that must notice.
    pub lies: bool,
    /// Whatever changes files or folders is refused (`EROFS`).
    pub read_only: bool,
    /// The folder is not there any more (`ENOENT`), and what is open in it fails (`EIO`). It comes back with its files.
    pub vanished: bool,
    /// What runs on a [`Lane`](crate::disk::Lane) waits until this is over; what was called elsewhere does not.
    pub hung: bool,
    /// How long a job on a lane takes.
    pub latency: Latency,
}

/// What a condition did to an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Strike {
    /// There was no room for all of a write.
    Full,
    /// A change failed.
    Write,
    /// Something could not be read.
    Read,
    /// A sync failed.
    Sync,
    /// A change was refused.
    ReadOnly,
    /// The disk was not there.
    Vanished,
    /// A job on a lane had to wait until the disk no longer hung.
    Hung,
}

/// How long an operation takes: drawn anew for each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Latency {
    /// At least.
    pub min: Duration,
    /// At most.
    pub max: Duration,
}

impl Latency {
    /// A time between the two; nothing is drawn where there is no time between them.
    pub(super) fn draw(&self, random: &Random) -> Duration {
        let between = self.max.saturating_sub(self.min).as_micros();
        let drawn = if between == 0 { 0 } else { random.below(u64::try_from(between).unwrap_or(u64::MAX)) };
        self.min + Duration::from_micros(drawn)
    }
}

/// Makes things go wrong with simulated files. Cheap to clone; clones are about the same files.
#[derive(Clone, Debug)]
pub struct DiskFaults {
    tree: Tree,
}

impl DiskFaults {
    pub(super) fn of(tree: Tree) -> Self {
        Self { tree }
    }

    /// Changes how the disk of a folder is. The conditions of a folder hold for everything below, down to folders that were
    /// given some of their own.
    pub fn change(&self, folder: &Path, change: impl FnOnce(&mut Conditions)) {
        let mut state = self.tree.state.lock();
        change(state.conditions.entry(folder.to_owned()).or_default());
        drop(state);
        self.tree.changed.notify_waiters();
    }

    /// How the disk of a folder is now.
    pub fn conditions(&self, folder: &Path) -> Conditions {
        self.tree.state.lock().conditions(folder)
    }

    /// Puts all disks in order. What was flipped, and what was lost with the power, stays so.
    pub fn heal(&self) {
        self.tree.state.lock().conditions.clear();
        self.tree.changed.notify_waiters();
    }

    /// How often conditions have struck so far: that a fault was set does not say that anybody met it.
    pub fn struck(&self) -> BTreeMap<Strike, u64> {
        self.tree.state.lock().struck.clone()
    }

    /// The machine loses power when all names and all files were written but these, of which nothing is there as it was
    /// written since the last sync: the order that hurts most.
    pub fn lose_power_in_the_worst_order(&self, random: &Random, is_spoilt: impl Fn(&Path) -> bool) {
        let mut state = self.tree.state.lock();
        state.names.lose_power_in_the_worst_order(random, is_spoilt);
        state.locks.clear();
        state.boots += 1;
    }

    /// The machine dies with the disk as it is after so many more changes and syncs: the ones after that fail, and whatever
    /// else is asked of it. `None` puts it in order again.
    pub fn die_after(&self, changes: Option<u64>) {
        self.tree.state.lock().dies_after = changes;
    }

    /// Whether it has died so.
    pub fn has_died(&self) -> bool {
        self.tree.state.lock().has_died()
    }

    /// Two machines come back with each other's disks. To be called when the processes of both are dead.
    pub fn swap(&self, other: &Self) {
        let mut ours = std::mem::take(&mut self.tree.state.lock().names);
        std::mem::swap(&mut ours, &mut other.tree.state.lock().names);
        self.tree.state.lock().names = ours;
    }

    /// All files are gone. To be called when the process is dead.
    pub fn wipe(&self) {
        let mut state = self.tree.state.lock();
        state.names = super::names::Names::default();
        state.locks.clear();
    }

    /// Changes one bit (of 8) of a file's byte, unnoticed. Returns false where there is no such byte.
    pub fn flip_bit(&self, path: &Path, offset: u64, bit: u8) -> bool {
        let state = self.tree.state.lock();
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        state.names.file(path).is_ok_and(|inode| inode.flip_bit(offset, bit))
    }

    /// The machine loses power: what was synced stays, with names that were; of other names some stay, and of other writes
    /// some, or their first bytes, or their length with zeros. Locks are gone. To be called when the processes are dead:
    /// what they still have open is no file any more.
    pub fn lose_power(&self, random: &Random) {
        let mut state = self.tree.state.lock();
        state.names.lose_power(random);
        state.locks.clear();
        state.boots += 1;
    }
}
