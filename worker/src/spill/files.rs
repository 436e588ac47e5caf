//! The files of one shuffle in one data folder: segments that take its extents, and the records that name its locations.
//!
//! Owns their names, and writing and reading them; everything here blocks, and runs on the folder's own threads. Does not
//! own what is written where (`mallorn_worker_core::spill`, `record`).

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use mallorn_proto::checksum::Crc32c;
use mallorn_proto::id::{Application, Instance, ShuffleId};
use mallorn_runtime::disk::{Disk, File, OpenHow, RunBuffer, RunWriter, Trouble, trouble};
use mallorn_sabotage::{self as sabotage, Sabotage};
use mallorn_worker_core::record::{self, Header};
use mallorn_worker_core::spill::segment::{BLOCK_BYTES, Segments};
use parking_lot::{Mutex, RwLock, RwLockReadGuard};

use crate::memory::arena::View;

// A core knows no disks; it is the same block.
const _: () = assert!(BLOCK_BYTES == mallorn_runtime::disk::BLOCK_BYTES as u64);

/// Segments kept open in one folder, with two descriptors each; more are opened again when they are needed.
const OPEN_MAX: usize = 256;

/// A shuffle of an application.
pub(crate) type ShuffleKey = (Instance, ShuffleId);

/// Why something was not written down.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RecordError {
    /// The shuffle was released meanwhile.
    #[error("the shuffle was released")]
    Released,
    /// The disk failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A sync failed: what it should have made safe may be gone, and another one would not tell.
    #[error("sync: {0}")]
    Sync(#[source] io::Error),
}

/// A shuffle's files in one folder.
pub(crate) struct ShuffleFiles {
    pub(crate) application: Arc<Application>,
    pub(crate) shuffle: ShuffleId,
    path: PathBuf,
    boot: String,
    pub(super) segments: Mutex<Segments>,
    /// Bytes of records that are whole; 0 where there is no file yet.
    records_bytes: AtomicU64,
    is_released: AtomicBool,
    /// Shared by what writes here, held alone while all is removed: nothing is made behind a removal.
    present: RwLock<()>,
}

/// Bytes that are written together, one after the other, into one segment.
pub(super) struct Region {
    pub(super) segment: u32,
    pub(super) position: u64,
    /// Space to reserve, where the segment is new.
    pub(super) opens: Option<u64>,
    pub(super) parts: Vec<Part>,
}

/// One extent to be written.
pub(super) struct Part {
    pub(super) views: Vec<View>,
    pub(super) list: Vec<u8>,
    /// Its number in the write.
    pub(super) number: usize,
}

impl Region {
    /// Where it ends in its segment.
    fn end(&self) -> u64 {
        let of = |part: &Part| part.list.len() as u64 + part.views.iter().map(|view| view.length() as u64).sum::<u64>();
        self.position + self.parts.iter().map(of).sum::<u64>()
    }
}

/// Checksums of an extent: of its batches, and of their list.
pub(super) type Sums = (u32, u32);

/// One write at a folder.
pub(super) struct Write<'a> {
    /// What it is gathered in.
    pub(super) buffer: &'a mut RunBuffer,
    /// By the numbers of its extents.
    pub(super) sums: &'a mut [Sums],
}

impl Write<'_> {
    fn region(&mut self, file: &File, region: &Region) -> io::Result<()> {
        let mut run = RunWriter::new(file, self.buffer, region.position);
        for part in &region.parts {
            let mut crc = Crc32c::new();
            for view in &part.views {
                crc.update(view.as_ref());
                run.write(view.as_ref())?;
            }
            let mut list_crc = Crc32c::new();
            list_crc.update(&part.list);
            run.write(&part.list)?;
            self.sums[part.number] = (crc.value(), list_crc.value());
        }
        run.finish()
    }
}

/// Segments that are open, to be written on or only to be read: a disk that takes no writes any more is read all the same.
#[derive(Default)]
pub(crate) struct OpenFiles {
    files: Mutex<BTreeMap<OpenKey, File>>,
}

/// A segment of a shuffle, and whether it is written on.
type OpenKey = (ShuffleKey, u32, bool);

/// Where a shuffle's files are.
pub(super) fn shuffle_path(shuffles: &Path, (instance, shuffle): ShuffleKey) -> PathBuf {
    shuffles.join(format!("{:016x}-{}", instance.0, shuffle.0))
}

/// Where its records are.
pub(crate) fn records_path(shuffle: &Path) -> PathBuf {
    shuffle.join("records")
}

/// Where a segment is.
pub(crate) fn segment_path(shuffle: &Path, segment: u32) -> PathBuf {
    shuffle.join(format!("segment-{segment:06}"))
}

fn released() -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, "the shuffle was released")
}

/// What a sync has come to.
fn synced(outcome: io::Result<()>) -> Result<(), RecordError> {
    match outcome {
        Err(_) if sabotage::is(Sabotage::FsyncErrorIgnored) => Ok(()),
        outcome => outcome.map_err(RecordError::Sync),
    }
}

/// Makes the names in a folder safe from a loss of power.
pub(super) fn sync_dir(disk: &Disk, path: &Path) -> Result<(), RecordError> {
    synced(disk.sync_dir(path).map_err(io::Error::from))
}

impl ShuffleFiles {
    pub(crate) fn new(shuffles: &Path, application: Arc<Application>, shuffle: ShuffleId, boot: String) -> Self {
        let path = shuffle_path(shuffles, (application.instance, shuffle));
        let (segments, records_bytes) = (Mutex::new(Segments::default()), AtomicU64::new(0));
        let (is_released, present) = (AtomicBool::new(false), RwLock::new(()));
        Self { application, shuffle, path, boot, segments, records_bytes, is_released, present }
    }

    /// Not where they are usually.
    pub(crate) fn at(self, path: PathBuf) -> Self {
        Self { path, ..self }
    }

    /// As a restarted worker has found them: so many bytes of records, and segments up to the next one.
    pub(crate) fn found(self, records_bytes: u64, next_segment: u32) -> Self {
        let (segments, records_bytes) = (Mutex::new(Segments::from(next_segment)), AtomicU64::new(records_bytes));
        Self { segments, records_bytes, ..self }
    }

    pub(crate) fn key(&self) -> ShuffleKey {
        (self.application.instance, self.shuffle)
    }

    /// Writes a region, gathered in `buffer`; puts the checksums of its extents where their numbers say.
    pub(super) fn write(&self, at: (&Disk, &OpenFiles), region: &Region, write: &mut Write<'_>) -> io::Result<()> {
        let _present = self.present().ok_or_else(released)?;
        let (disk, open) = at;
        let file = match region.opens {
            Some(capacity) => {
                let file =
                    self.create_segment(disk, region.segment, (capacity, region.end().next_multiple_of(BLOCK_BYTES)))?;
                open.keep((self.key(), region.segment, true), &file);
                file
            }
            None => self.open_to_write(disk, open, region.segment)?,
        };
        if let Err(error) = write.region(&file, region) {
            // What fitted is of no use, and takes the room of what would. Nothing lies behind it, and nothing ever will.
            if trouble(&error) == Trouble::Full {
                file.truncate(region.position)?;
            }
            return Err(error);
        }
        if !file.is_past_cache() {
            file.start_writeback(region.position, region.end() - region.position);
        }
        Ok(())
    }

    fn create_segment(&self, disk: &Disk, segment: u32, (capacity, needed): (u64, u64)) -> io::Result<File> {
        self.ensure_folder(disk)?;
        let file = disk.open_past_cache(&segment_path(&self.path, segment)).map_err(io::Error::from)?;
        file.truncate(0)?;
        // A segment is as large as it may be; where the disk has no room for that, it has some for what is written now.
        match file.reserve(0, capacity) {
            Err(error) if trouble(&error) == Trouble::Full => file.reserve(0, needed)?,
            reserved => reserved?,
        }
        file.write_at(&[&record::segment_header(self.application.instance, self.shuffle, segment)], 0)?;
        Ok(file)
    }

    fn ensure_folder(&self, disk: &Disk) -> io::Result<()> {
        disk.make_dir(&self.path).map_err(io::Error::from)
    }

    /// A segment, to be read or synced.
    pub(crate) fn open_segment(&self, disk: &Disk, open: &OpenFiles, segment: u32) -> io::Result<File> {
        let present = [true, false].into_iter().find_map(|writes| open.get(&(self.key(), segment, writes)));
        if let Some(file) = present {
            return Ok(file);
        }
        let file = self.open_present(disk, segment)?;
        open.keep((self.key(), segment, false), &file);
        Ok(file)
    }

    /// A segment that there is, to be written on.
    fn open_to_write(&self, disk: &Disk, open: &OpenFiles, segment: u32) -> io::Result<File> {
        let key = (self.key(), segment, true);
        if let Some(file) = open.get(&key) {
            return Ok(file);
        }
        self.open_present(disk, segment)?;
        let file = disk.open_past_cache(&segment_path(&self.path, segment)).map_err(io::Error::from)?;
        open.keep(key, &file);
        Ok(file)
    }

    fn open_present(&self, disk: &Disk, segment: u32) -> io::Result<File> {
        let file = disk.open(&segment_path(&self.path, segment), OpenHow::Read).map_err(io::Error::from)?;
        if file.length()? == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the segment is empty"));
        }
        Ok(file)
    }

    /// Appends records, behind a header where they are the first; with `sync` they are safe from a loss of power then.
    pub(super) fn record(&self, disk: &Disk, records: &[u8], sync: bool) -> Result<(), RecordError> {
        let Some(_present) = self.present() else { return Err(RecordError::Released) };
        let before = self.records_bytes.load(Ordering::Acquire);
        let mut head = Vec::new();
        if before == 0 {
            self.ensure_folder(disk)?;
            let (application, boot) = (Application::clone(&self.application), self.boot.clone());
            record::put_header(&mut head, &Header { application, shuffle: self.shuffle, boot });
        }
        let file = disk.open(&records_path(&self.path), OpenHow::Write).map_err(io::Error::from)?;
        if file.length()? > before {
            // What a failure left is longer than this may be, and what sticks out would be read as records again.
            file.truncate(before)?;
        }
        file.write_at(&[&head, records], before)?;
        if sync {
            synced(file.sync_data())?;
            sync_dir(disk, &self.path)?;
        }
        self.records_bytes.store(before + (head.len() + records.len()) as u64, Ordering::Release);
        Ok(())
    }

    /// Whether nothing was recorded yet: without a file of records segments are nobody's after a restart.
    pub(super) fn is_unnamed(&self) -> bool {
        self.records_bytes.load(Ordering::Acquire) == 0
    }

    /// Makes segments safe from a loss of power.
    pub(super) fn sync(&self, disk: &Disk, open: &OpenFiles, segments: &[u32]) -> Result<(), RecordError> {
        let _present = self.present().ok_or(RecordError::Released)?;
        for segment in segments {
            synced(self.open_segment(disk, open, *segment)?.sync_data())?;
        }
        sync_dir(disk, &self.path)
    }

    /// Keeps the files from being removed, unless they are released. Never waits for a removal.
    fn present(&self) -> Option<RwLockReadGuard<'_, ()>> {
        self.present.try_read().filter(|_| !self.is_released())
    }

    /// Whether it was released.
    pub(super) fn is_released(&self) -> bool {
        self.is_released.load(Ordering::Acquire)
    }

    /// Nothing is written any more.
    pub(super) fn release(&self) {
        self.is_released.store(true, Ordering::Release);
    }

    /// Removes them all, once what is being written is written.
    pub(super) fn remove(&self, disk: &Disk, open: &OpenFiles) -> io::Result<()> {
        let _alone = self.present.write();
        open.forget(self.key());
        disk.remove_dir_all(&self.path).map_err(|error| error.source)?;
        // Where the whole disk is not there, its files may come back with it.
        disk.space(self.path.parent().unwrap_or(&self.path)).map(drop).map_err(io::Error::from)
    }
}

impl OpenFiles {
    fn get(&self, key: &OpenKey) -> Option<File> {
        self.files.lock().get(key).cloned()
    }

    fn keep(&self, key: OpenKey, file: &File) {
        let mut files = self.files.lock();
        files.insert(key, file.clone());
        if files.len() > OPEN_MAX {
            // The oldest shuffle's go first: they are read least.
            files.pop_first();
        }
    }

    fn forget(&self, key: ShuffleKey) {
        self.files.lock().retain(|(of, ..), _| *of != key);
    }
}
