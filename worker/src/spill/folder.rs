//! One data folder: its health, what waits to be written there, its threads.
//!
//! Owns the folder's lock, so that no two workers share one, and everything that is done on its threads. Does not own what
//! is written (`writer`) nor the judgement of its health (`mallorn_worker_core::spill::disk`).

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use mallorn_proto::id::{Application, ShuffleId};
use mallorn_runtime::clock;
use mallorn_runtime::disk::{Disk, File, FileError, FileLock, Lane, LaneError, LockError, RunBuffer, Trouble, trouble};
use mallorn_runtime::telemetry::quiet::{Line, Quiet};
use mallorn_worker_core::spill::disk::{DiskState, Health};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::Waiting;
use super::files::{OpenFiles, RecordError, ShuffleFiles, ShuffleKey, shuffle_path};
use crate::memory::location::Location;

/// The subfolder that holds the shuffles.
pub(crate) const SHUFFLES: &str = "shuffles";
/// The file that stands for the folder's lock.
const LOCK: &str = "worker.lock";
/// Threads that read.
const READ_THREADS: usize = 4;
/// Jobs that wait for a reading thread.
const READS_WAITING: usize = 64;
/// Jobs that wait for the writing thread: one that hangs must not be followed by many.
const WRITES_WAITING: usize = 2;
/// Removals that wait for the removing thread: each is handed over when the one before it is done.
const REMOVALS_WAITING: usize = 1;

/// Why a data folder is not used.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// Another worker has it.
    #[error("{folder} is in use by another worker: name another folder in `worker.data_folders`", folder = folder.display())]
    InUse {
        /// The folder.
        folder: PathBuf,
    },
    /// Something in it can't be used.
    #[error("a folder of `worker.data_folders`: {0}")]
    File(#[from] FileError),
    /// The system gives no threads.
    #[error("start the threads of a data folder: {0}")]
    Threads(#[source] io::Error),
}

/// A data folder.
pub(crate) struct Folder {
    pub(crate) index: u16,
    /// Kept in the folder: its name in records.
    pub(crate) id: u64,
    pub(crate) path: PathBuf,
    pub(crate) disk: Disk,
    pub(crate) boot: String,
    pub(super) writing: Lane,
    reading: Lane,
    /// No commit waits behind an application that ends with thousands of shuffles.
    pub(super) removing: Lane,
    state: Mutex<DiskState>,
    shuffles: Mutex<BTreeMap<ShuffleKey, Arc<ShuffleFiles>>>,
    /// Where the files of a shuffle go whose own place holds what this worker does not read.
    beside: Mutex<BTreeMap<ShuffleKey, PathBuf>>,
    released: Mutex<Released>,
    /// Files were removed, or what hung has returned, since the disk was asked for its space.
    freed: AtomicBool,
    pub(crate) open: OpenFiles,
    /// What writes are gathered in.
    pub(super) buffer: Mutex<RunBuffer>,
    queue: Mutex<Queue>,
    pub(super) work: Notify,
    /// Writes that were given up and have not come back.
    pub(super) stuck_writes: Arc<AtomicUsize>,
    /// And reads.
    pub(super) stuck_reads: Arc<AtomicUsize>,
    /// A sync failed here.
    has_lost_sync: AtomicBool,
    /// Log lines that readers can cause: by what happened, and to which shuffle.
    quiet: Quiet<(&'static str, Option<ShuffleKey>)>,
    _lock: FileLock,
}

/// Released shuffles whose files are not removed yet.
#[derive(Default)]
struct Released {
    waiting: VecDeque<Arc<ShuffleFiles>>,
    /// The disk did not let them be removed: for later.
    kept: Vec<Arc<ShuffleFiles>>,
    /// One is being removed; those that wait follow.
    is_removing: bool,
}

/// What waits to be written.
#[derive(Default)]
struct Queue {
    /// Commits and pressure.
    urgent: VecDeque<Waiting>,
    /// Whole extents, written behind the pushes.
    behind: VecDeque<Waiting>,
    /// The writer has ended: nothing waits here any more.
    is_closed: bool,
}

/// Held by the writer of a folder for as long as it writes. What waits holds its location, and a location all the folders:
/// where nobody writes, nothing may wait, or folders, memory and lock would be held for good.
pub(crate) struct Writer(Arc<Folder>);

impl Deref for Writer {
    type Target = Arc<Folder>;

    fn deref(&self) -> &Arc<Folder> {
        &self.0
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl Folder {
    /// Takes a folder that exists and belongs to this worker. Blocks.
    pub(crate) fn open(index: u16, id: u64, path: &Path, disk: &Disk) -> Result<Self, FolderError> {
        let lock = disk.lock(&path.join(LOCK)).map_err(|error| match error {
            LockError::Held { .. } => FolderError::InUse { folder: path.to_owned() },
            LockError::Failed(error) => FolderError::File(error),
        })?;
        disk.make_dir(&path.join(SHUFFLES))?;
        let space = disk.space(path)?;
        let lane = |name: &str, threads, waiting| {
            Lane::new(disk, path.to_owned(), name, threads, waiting).map_err(FolderError::Threads)
        };
        Ok(Self {
            index,
            id,
            path: path.to_owned(),
            disk: disk.clone(),
            boot: disk.boot_id(),
            writing: lane(&format!("write-{index}"), 1, WRITES_WAITING)?,
            reading: lane(&format!("read-{index}"), READ_THREADS, READS_WAITING)?,
            removing: lane(&format!("remove-{index}"), 1, REMOVALS_WAITING)?,
            state: Mutex::new(DiskState::new(space.capacity_bytes, space.free_bytes)),
            shuffles: Mutex::new(BTreeMap::new()),
            beside: Mutex::new(BTreeMap::new()),
            released: Mutex::default(),
            freed: AtomicBool::new(false),
            open: OpenFiles::default(),
            buffer: Mutex::default(),
            queue: Mutex::new(Queue::default()),
            work: Notify::new(),
            stuck_writes: Arc::default(),
            stuck_reads: Arc::default(),
            has_lost_sync: AtomicBool::new(false),
            quiet: Quiet::default(),
            _lock: lock,
        })
    }

    /// Whether a log line is to be written.
    pub(super) fn line(&self, what: &'static str, shuffle: Option<ShuffleKey>) -> Option<Line> {
        self.quiet.line((what, shuffle), clock::now())
    }

    /// Where the shuffles are.
    pub(crate) fn shuffles_path(&self) -> PathBuf {
        self.path.join(SHUFFLES)
    }

    /// Where a shuffle's files are.
    pub(crate) fn shuffle_path(&self, shuffle: ShuffleKey) -> PathBuf {
        shuffle_path(&self.shuffles_path(), shuffle)
    }

    /// What is known of the disk.
    pub(crate) fn state(&self) -> DiskState {
        let mut state = self.state.lock().clone();
        if [&self.stuck_writes, &self.stuck_reads].iter().any(|stuck| stuck.load(Ordering::Acquire) > 0) {
            state.hang();
        }
        state
    }

    /// Whether it takes new data.
    pub(crate) fn takes(&self, now: Duration) -> bool {
        self.state().takes(now)
    }

    /// Judges the disk, and says so where its health has changed.
    pub(super) fn judge(&self, now: Duration, judge: impl FnOnce(&mut DiskState)) {
        let mut state = self.state.lock();
        let before = state.health(now);
        judge(&mut state);
        let after = state.health(now);
        drop(state);
        let folder = self.path.display();
        if before != after && after == Health::Healthy {
            tracing::info!(event = "disk_healthy", %folder, was = before.name(), "a disk takes data again");
        } else if before != after {
            tracing::warn!(event = "disk_left", %folder, health = after.name(), "a disk takes no new data");
        }
    }

    /// Judges it by an error of an operation on its files.
    pub(crate) fn erred(&self, now: Duration, error: &io::Error) {
        let folder = self.path.display();
        match trouble(error) {
            Trouble::Full => self.judge(now, |state| state.full(now)),
            Trouble::Failing => {
                if let Some(Line { repeats }) = self.line("disk_error", None) {
                    tracing::warn!(event = "disk_error", %folder, %error, repeats);
                }
                self.judge(now, DiskState::failed);
            }
            Trouble::Process => {
                if let Some(Line { repeats }) = self.line("process_error", None) {
                    tracing::warn!(event = "disk_error", %folder, %error, repeats, "out of descriptors or memory");
                }
            }
        }
    }

    /// Does what syncs. Once a sync has failed none is made any more: it would find nothing left to write, and take what was
    /// lost for safe. Blocks.
    pub(super) fn syncing(&self, sync: impl FnOnce() -> Result<(), RecordError>) -> Result<(), RecordError> {
        if self.has_lost_sync.load(Ordering::Acquire) {
            return Err(RecordError::Sync(io::Error::other("a sync of this disk has failed before")));
        }
        let synced = sync();
        if matches!(synced, Err(RecordError::Sync(_))) {
            self.has_lost_sync.store(true, Ordering::Release);
        }
        synced
    }

    /// The files of a shuffle; made known where they were not.
    pub(crate) fn files(&self, application: &Arc<Application>, shuffle: ShuffleId) -> Arc<ShuffleFiles> {
        let mut shuffles = self.shuffles.lock();
        let key = (application.instance, shuffle);
        let make = || {
            let (application, boot) = (Arc::clone(application), self.boot.clone());
            let files = ShuffleFiles::new(&self.shuffles_path(), application, shuffle, boot);
            Arc::new(match self.beside.lock().get(&key) {
                Some(path) => files.at(path.clone()),
                None => files,
            })
        };
        Arc::clone(shuffles.entry(key).or_insert_with(make))
    }

    /// What is in a shuffle's own place is left alone: its files, should it get any, go to this one.
    pub(crate) fn go_beside(&self, shuffle: ShuffleKey, path: PathBuf) {
        self.beside.lock().insert(shuffle, path);
    }

    /// Files that a restarted worker has found.
    pub(crate) fn found(&self, files: ShuffleFiles) {
        self.shuffles.lock().insert(files.key(), Arc::new(files));
    }

    /// The files of a shuffle, if it has any here.
    pub(crate) fn known(&self, key: ShuffleKey) -> Option<Arc<ShuffleFiles>> {
        self.shuffles.lock().get(&key).cloned()
    }

    /// A segment of a location's shuffle. Blocks.
    pub(crate) fn segment(&self, location: &Location, segment: u32) -> io::Result<File> {
        let files = self.known(location.shuffle());
        let files = files.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the shuffle was released"))?;
        files.open_segment(&self.disk, &self.open, segment)
    }

    /// Takes the files of a shuffle that is released, and has them removed after those released before.
    pub(crate) fn release(self: &Arc<Self>, key: ShuffleKey) {
        let Some(files) = self.shuffles.lock().remove(&key) else { return };
        files.release();
        self.released.lock().waiting.push_back(files);
        self.start_removing();
    }

    /// Not waited for: the disk may hang.
    fn start_removing(self: &Arc<Self>) {
        let mut released = self.released.lock();
        if !released.is_removing && !released.waiting.is_empty() {
            released.is_removing = true;
            drop(released);
            mallorn_runtime::task::spawn(Arc::clone(self).remove_waiting());
        }
    }

    async fn remove_waiting(self: Arc<Self>) {
        while let Some(files) = self.next_released() {
            self.remove(files).await;
        }
    }

    fn next_released(&self) -> Option<Arc<ShuffleFiles>> {
        let mut released = self.released.lock();
        let next = released.waiting.pop_front();
        released.is_removing = next.is_some();
        next
    }

    /// Removes the files of a shuffle; where the disk does not let them, they are left for later.
    async fn remove(self: &Arc<Self>, files: Arc<ShuffleFiles>) {
        let (at, of) = (Arc::clone(self), Arc::clone(&files));
        let removed = self.removing.run(move || of.remove(&at.disk, &at.open)).await;
        match removed {
            Ok(Ok(())) => {
                // A full disk is one no longer, and somebody may wait for it.
                self.came_back();
            }
            Ok(Err(error)) => {
                if let Some(Line { repeats }) = self.line("not_removed", None) {
                    let folder = self.path.display();
                    tracing::warn!(event = "not_removed", %folder, %error, repeats, "remove a released shuffle");
                }
                self.released.lock().kept.push(files);
            }
            Err(_) => {}
        }
    }

    /// Something that hung has returned: whether the disk takes data is to be asked anew.
    pub(super) fn came_back(&self) {
        self.freed.store(true, Ordering::Release);
        self.work.notify_one();
    }

    /// Whether files were removed, or what hung has returned, since this was asked.
    pub(super) fn was_freed(&self) -> bool {
        self.freed.swap(false, Ordering::AcqRel)
    }

    /// Tries again to remove what could not be removed.
    pub(super) fn remove_released(self: &Arc<Self>) {
        {
            let mut released = self.released.lock();
            let kept = std::mem::take(&mut released.kept);
            released.waiting.extend(kept);
        }
        self.start_removing();
    }

    /// Whether none of the reading threads is left: whatever else were to be read would wait behind those that hang.
    pub(super) fn reads_hang(&self) -> bool {
        self.stuck_reads.load(Ordering::Acquire) >= READ_THREADS
    }

    /// Runs what reads on the folder's threads.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, LaneError> {
        self.reading.run(job).await
    }

    /// Takes the part of the folder's writer.
    pub(crate) fn writer(self: &Arc<Self>) -> Writer {
        Writer(Arc::clone(self))
    }

    fn close(&self) {
        let waiting = {
            let mut queue = self.queue.lock();
            queue.is_closed = true;
            let behind = std::mem::take(&mut queue.behind);
            std::mem::take(&mut queue.urgent).into_iter().chain(behind)
        };
        waiting.for_each(Waiting::over);
    }

    /// Has one wait to be written; gives it back where nobody writes any more.
    pub(super) fn queue(&self, waiting: Waiting) -> Result<(), Waiting> {
        let mut queue = self.queue.lock();
        if queue.is_closed {
            return Err(waiting);
        }
        self.state.lock().queued(waiting.bytes);
        if waiting.whole {
            queue.urgent.push_back(waiting)
        } else {
            queue.behind.push_back(waiting)
        }
        drop(queue);
        self.work.notify_one();
        Ok(())
    }

    /// Bytes that wait, or are being written.
    pub(super) fn queued_bytes(&self) -> u64 {
        self.state.lock().queued_bytes()
    }

    /// The next to be written.
    pub(super) fn next(&self) -> Option<Waiting> {
        let mut queue = self.queue.lock();
        queue.urgent.pop_front().or_else(|| queue.behind.pop_front())
    }

    /// Puts one back that was not written whole, before all others of its kind.
    pub(super) fn put_back(&self, waiting: Waiting) {
        let mut queue = self.queue.lock();
        if waiting.whole {
            queue.urgent.push_front(waiting)
        } else {
            queue.behind.push_front(waiting)
        }
        drop(queue);
        self.work.notify_one();
    }

    /// Bytes that it counted do not wait any more.
    pub(super) fn left(&self, bytes: u64) {
        self.state.lock().left(bytes);
    }
}
