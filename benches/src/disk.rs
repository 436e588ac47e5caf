//! How extents may lie on a disk, measured without a worker: a few segments against one file per partition, through the
//! system's cache and past it, synced or not, read back warm and cold.
//!
//! Owns the layouts and the steps. Does not own what the worker does: it is what won here.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use mallorn_runtime::clock;
use mallorn_runtime::disk::{Disk, File, FileError, OpenHow, RunBuffer, RunWriter};
use mallorn_runtime::telemetry::process::{UsageError, usage};
use serde::Serialize;
use tempfile::TempDir;

use crate::files::{self, FilesError};

const GIB: f64 = (1 << 30) as f64;
const MIB: f64 = (1 << 20) as f64;
/// A segment, as the worker's largest are.
const SEGMENT_BYTES: u64 = 64 * 1024 * 1024;
/// Files that are kept open, with two descriptors each; beyond them each write opens its own.
const OPEN_MAX: usize = 450;

/// Where extents go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Layout {
    /// One after the other into files of 64 MiB.
    Segments,
    /// Each partition has a file.
    FilePerPartition,
}

/// One way to write and read.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Case {
    pub(crate) layout: Layout,
    pub(crate) past_cache: bool,
    pub(crate) partitions: u32,
    pub(crate) extent_bytes: u64,
}

/// What one step took.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Step {
    /// CPU seconds per GiB.
    pub(crate) cpu_s_per_gib: f64,
    /// MiB/s.
    pub(crate) mib_s: f64,
}

/// What a case took.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Measured {
    pub(crate) case: Case,
    /// Writing all extents.
    pub(crate) write: Step,
    /// Writing and making them safe from a loss of power.
    pub(crate) synced: Step,
    /// Reading them by partition, right after.
    pub(crate) warm: Step,
    /// The same once the system's cache holds nothing of them.
    pub(crate) cold: Step,
    pub(crate) files: usize,
}

/// Why nothing was measured.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DiskBenchError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Files(#[from] FilesError),
    #[error(transparent)]
    Usage(#[from] UsageError),
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// Where an extent lies.
struct Place {
    file: PathBuf,
    offset: u64,
}

/// Measures all cases in a folder of its own within `folder`. Blocks.
pub(crate) fn run(folder: &Path, total_bytes: u64) -> Result<Vec<Measured>, DiskBenchError> {
    let mut all = Vec::new();
    for (partitions, extent_bytes) in [(256, 512 * 1024), (10_000, 32 * 1024)] {
        for layout in [Layout::Segments, Layout::FilePerPartition] {
            for past_cache in [false, true] {
                let folder = tempfile::tempdir_in(folder)?;
                let case = Case { layout, past_cache, partitions, extent_bytes };
                eprintln!("{}", case.name());
                all.push(measure(&folder, case, total_bytes)?);
            }
        }
    }
    Ok(all)
}

fn measure(folder: &TempDir, case: Case, total_bytes: u64) -> Result<Measured, DiskBenchError> {
    let extents = (total_bytes / case.extent_bytes).max(u64::from(case.partitions));
    let bytes = extents * case.extent_bytes;
    let mut writer = Writer {
        folder: folder.path(),
        case,
        open: OpenFiles::of(case),
        buffer: RunBuffer::default(),
        ends: BTreeMap::new(),
    };
    let payload: Vec<u8> = (0..case.extent_bytes).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let start = Reading::now()?;
    let mut places: BTreeMap<u32, Vec<Place>> = BTreeMap::new();
    for extent in 0..extents {
        let partition = (extent % u64::from(case.partitions)) as u32;
        places.entry(partition).or_default().push(writer.write(extent, partition, &payload)?);
    }
    let write = start.until(bytes)?;
    let files = writer.ends.len();
    for path in writer.ends.keys() {
        Disk::real().open(path, OpenHow::Write)?.sync_data()?;
    }
    Disk::real().sync_dir(folder.path())?;
    let synced = start.until(bytes)?;
    drop(writer);
    let warm = read(&places, case, bytes)?;
    files::forget_cached(folder.path())?;
    let cold = read(&places, case, bytes)?;
    Ok(Measured { case, write, synced, warm, cold, files })
}

struct Writer<'a> {
    folder: &'a Path,
    case: Case,
    open: OpenFiles,
    buffer: RunBuffer,
    /// Bytes of each file.
    ends: BTreeMap<PathBuf, u64>,
}

impl Writer<'_> {
    fn write(&mut self, extent: u64, partition: u32, payload: &[u8]) -> Result<Place, DiskBenchError> {
        let number = match self.case.layout {
            Layout::Segments => extent * self.case.extent_bytes / SEGMENT_BYTES,
            Layout::FilePerPartition => u64::from(partition),
        };
        let path = self.folder.join(format!("{number:06}"));
        let file = self.open.get(&path)?;
        let end = self.ends.entry(path.clone()).or_default();
        let place = Place { file: path, offset: *end };
        *end += payload.len() as u64;
        let mut run = RunWriter::new(&file, &mut self.buffer, place.offset);
        run.write(payload)?;
        run.finish()?;
        Ok(place)
    }
}

/// Files that stay open as far as there may be so many.
struct OpenFiles {
    past_cache: bool,
    files: BTreeMap<PathBuf, File>,
}

impl OpenFiles {
    fn of(case: Case) -> Self {
        Self { past_cache: case.past_cache, files: BTreeMap::new() }
    }

    fn get(&mut self, path: &Path) -> Result<File, FileError> {
        if let Some(file) = self.files.get(path) {
            return Ok(file.clone());
        }
        let disk = Disk::real();
        let file = if self.past_cache { disk.open_past_cache(path)? } else { disk.open(path, OpenHow::Write)? };
        if self.files.len() < OPEN_MAX {
            self.files.insert(path.to_owned(), file.clone());
        }
        Ok(file)
    }
}

fn read(places: &BTreeMap<u32, Vec<Place>>, case: Case, bytes: u64) -> Result<Step, DiskBenchError> {
    // Aligned, as slots of the worker's arena are.
    let mut buffer = RunBuffer::default();
    let into = &mut buffer.aligned()[..case.extent_bytes as usize];
    let mut open = OpenFiles::of(case);
    let start = Reading::now()?;
    for place in places.values().flatten() {
        let file = open.get(&place.file)?;
        file.read_blocks_at(into, place.offset, case.extent_bytes as usize)?;
    }
    start.until(bytes)
}

struct Reading {
    at: clock::Instant,
    cpu_s: f64,
}

impl Reading {
    fn now() -> Result<Self, UsageError> {
        Ok(Self { at: clock::now(), cpu_s: usage()?.cpu_s })
    }

    fn until(&self, bytes: u64) -> Result<Step, DiskBenchError> {
        let cpu_s = usage()?.cpu_s - self.cpu_s;
        let wall_s = self.at.elapsed().as_secs_f64().max(1e-9);
        Ok(Step { cpu_s_per_gib: cpu_s / (bytes as f64 / GIB), mib_s: bytes as f64 / MIB / wall_s })
    }
}

impl Case {
    fn name(&self) -> String {
        let layout = match self.layout {
            Layout::Segments => "segments",
            Layout::FilePerPartition => "file per partition",
        };
        let cache = if self.past_cache { "past the cache" } else { "through the cache" };
        let Self { partitions, extent_bytes, .. } = self;
        format!("{partitions} partitions, extents of {} KiB, {layout}, {cache}", extent_bytes >> 10)
    }
}

/// Figures as a table for people.
pub(crate) struct Table<'a>(pub(crate) &'a [Measured]);

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "CPU-s/GiB (MiB/s)")?;
        writeln!(
            f,
            "{:<70} {:>14} {:>14} {:>14} {:>14} {:>6}",
            "", "write", "and sync", "read warm", "read cold", "files"
        )?;
        for Measured { case, write, synced, warm, cold, files } in self.0 {
            write!(f, "{:<70}", case.name())?;
            for Step { cpu_s_per_gib, mib_s } in [write, synced, warm, cold] {
                write!(f, " {:>14}", format!("{cpu_s_per_gib:.2} ({mib_s:.0})"))?;
            }
            writeln!(f, " {files:>6}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_extent_lies_in_a_place_of_its_own() {
        let folder = tempfile::tempdir().unwrap();
        for (layout, files) in [(Layout::Segments, 1), (Layout::FilePerPartition, 4)] {
            let case = Case { layout, past_cache: true, partitions: 4, extent_bytes: 8192 };
            let inside = tempfile::tempdir_in(folder.path()).unwrap();
            let measured = measure(&inside, case, 16 * 8192).unwrap();
            assert_eq!(measured.files, files);
            let bytes: u64 = Disk::real().list(inside.path()).unwrap().iter().map(|entry| entry.bytes).sum();
            assert_eq!(bytes, 16 * 8192);
        }
    }
}
