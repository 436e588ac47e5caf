//! What goes wrong with disks.
//!
//! Owns how a disk is made wrong and put in order, and which file a bit is flipped in. Does not own when.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mallorn_runtime::disk::{Conditions, Disk, Latency, Strike};
use serde::{Deserialize, Serialize};

use crate::setup::Disks;

/// Room that is left on a disk that is full: less than anything needs.
const FULL_BYTES: u64 = 64 * 1024;

/// How a disk is, for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Trouble {
    /// It has no room.
    Full,
    /// Changes fail.
    FailsWrites,
    /// Reads fail.
    FailsReads,
    /// Syncs fail.
    FailsSyncs,
    /// Changes are refused.
    ReadOnly,
    /// It is not there.
    Vanished,
    /// What was asked of it does not come back.
    Hangs,
    /// Everything takes so long.
    Slow { min_ms: u64, max_ms: u64 },
}

impl Trouble {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Full => "disk full",
            Self::FailsWrites => "disk fails writes",
            Self::FailsReads => "disk fails reads",
            Self::FailsSyncs => "disk fails syncs",
            Self::ReadOnly => "disk is read-only",
            Self::Vanished => "disk vanishes",
            Self::Hangs => "disk hangs",
            Self::Slow { .. } => "disk is slow",
        }
    }

    /// What operations meet in it, for reports; one that is slow is met by all.
    pub(crate) fn met(self) -> Option<&'static str> {
        let strike = match self {
            Self::Full => Strike::Full,
            Self::FailsWrites => Strike::Write,
            Self::FailsReads => Strike::Read,
            Self::FailsSyncs => Strike::Sync,
            Self::ReadOnly => Strike::ReadOnly,
            Self::Vanished => Strike::Vanished,
            Self::Hangs => Strike::Hung,
            Self::Slow { .. } => return None,
        };
        Some(met(strike))
    }

    fn change(self, conditions: &mut Conditions) {
        match self {
            Self::Full => conditions.capacity_bytes = Some(FULL_BYTES),
            Self::FailsWrites => conditions.fails_writes = true,
            Self::FailsReads => conditions.fails_reads = true,
            Self::FailsSyncs => conditions.fails_syncs = true,
            Self::ReadOnly => conditions.read_only = true,
            Self::Vanished => conditions.vanished = true,
            Self::Hangs => conditions.hung = true,
            Self::Slow { min_ms, max_ms } => {
                let (min, max) = (Duration::from_millis(min_ms), Duration::from_millis(max_ms));
                conditions.latency = Latency { min, max };
            }
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Slow { min_ms, max_ms } => write!(f, "disk takes {min_ms} to {max_ms} ms"),
            other => f.write_str(other.name()),
        }
    }
}

/// What operations met, for a run's report.
pub(crate) fn met(strike: Strike) -> &'static str {
    match strike {
        Strike::Full => "writes without room",
        Strike::Write => "writes that failed",
        Strike::Read => "reads that failed",
        Strike::Sync => "syncs that failed",
        Strike::ReadOnly => "writes that were refused",
        Strike::Vanished => "calls to a vanished disk",
        Strike::Hung => "jobs that hung",
    }
}

/// A disk begins to be in trouble; what was wrong with it before stays so.
pub(crate) fn begin(disk: &Disk, folder: &Path, trouble: Trouble) {
    if let Some(faults) = disk.faults() {
        faults.change(folder, |conditions| trouble.change(conditions));
    }
}

/// A disk is in order again.
pub(crate) fn put_in_order(disk: &Disk, folder: &Path, disks: Disks) {
    if let Some(faults) = disk.faults() {
        faults.change(folder, |conditions| *conditions = disks.in_order());
    }
}

/// Which files a bit is flipped in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Target {
    Segment,
    Records,
}

/// Flips a bit of some file, picked by a number; tells which, where there is one.
pub(crate) fn flip_bit(disk: &Disk, disks: Disks, target: Target, pick: u64) -> Option<String> {
    let files = files(disk, disks);
    let is_meant = |(path, _): &&(PathBuf, u64)| path.ends_with("records") == (target == Target::Records);
    let files: Vec<_> = files.iter().filter(is_meant).filter(|(_, bytes)| *bytes > 0).collect();
    let (path, bytes) = files.get(pick as usize % files.len().max(1))?;
    let (offset, bit) = ((pick >> 8) % bytes, (pick >> 3) as u8 % 8);
    let flipped = disk.faults()?.flip_bit(path, offset, bit);
    flipped.then(|| format!("{} byte {offset}, bit {bit}", path.display()))
}

/// Whether a file holds extents.
pub(super) fn is_segment(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("segment-"))
}

/// The files of all shuffles, with their lengths.
pub(crate) fn files(disk: &Disk, disks: Disks) -> Vec<(PathBuf, u64)> {
    let mut files = Vec::new();
    for folder in disks.folders() {
        let shuffles = folder.join("shuffles");
        for shuffle in disk.list(&shuffles).unwrap_or_default() {
            let path = shuffles.join(&shuffle.name);
            let within = disk.list(&path).unwrap_or_default();
            files.extend(within.into_iter().map(|file| (path.join(file.name), file.bytes)));
        }
    }
    files
}
