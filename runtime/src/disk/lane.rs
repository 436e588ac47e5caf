//! Threads of a disk: what blocks on it runs there, so that one that hangs holds up nothing else.
//!
//! Owns the threads, and how many jobs wait for them. Does not own what the jobs do. On a simulated disk there are no
//! threads: a job waits as long as the disk would take, in simulated time, and then runs at once.

use std::any::Any;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;
use thiserror::Error;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::{Backing, Disk};
use crate::clock::{self, Instant};

/// Threads that work for one folder. Clones share them; they end when the last clone is dropped and what was queued is
/// done.
#[derive(Clone, Debug)]
pub struct Lane {
    places: Arc<Semaphore>,
    queue: Queue,
    /// When a job was begun last.
    begun: Arc<Mutex<Instant>>,
}

/// Why a job gave no result.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum LaneError {
    /// The lane has ended: the process is about to.
    #[error("the disk's threads have ended")]
    Closed,
    /// The job panicked; the lane goes on.
    #[error("work on the disk panicked")]
    Panicked,
    /// The thread has been at one job for too long; see [`Lane::run_within`].
    #[error("the disk's thread does not come back")]
    Hangs,
}

#[derive(Clone, Debug)]
enum Queue {
    Threads(SyncSender<Job>),
    #[cfg(feature = "sim")]
    Simulated(tokio::sync::mpsc::Sender<Job>),
}

struct Job {
    /// Given back when it begins.
    place: OwnedSemaphorePermit,
    /// Noted when it begins.
    begun: Arc<Mutex<Instant>>,
    work: Box<dyn FnOnce() + Send>,
}

impl Job {
    fn begin(self) -> Box<dyn FnOnce() + Send> {
        *self.begun.lock() = clock::now();
        drop(self.place);
        self.work
    }
}

impl Lane {
    /// Starts this many threads (at least one) for what is done in `folder`; at most `waiting_max` jobs (at least one)
    /// wait for them. The threads are called after `name`.
    ///
    /// # Errors
    /// When the system gives no threads; on a simulated disk, outside of a runtime.
    pub fn new(disk: &Disk, folder: PathBuf, name: &str, threads: usize, waiting_max: usize) -> io::Result<Self> {
        let (threads, waiting_max) = (threads.max(1), waiting_max.clamp(1, Semaphore::MAX_PERMITS));
        let queue = match &disk.backing {
            Backing::Real => {
                // The threads of a real disk go wherever the jobs do.
                drop(folder);
                Queue::Threads(start_threads(name, threads, waiting_max)?)
            }
            #[cfg(feature = "sim")]
            Backing::Simulated(tree) => {
                let runtime = tokio::runtime::Handle::try_current().map_err(io::Error::other)?;
                let (queue, jobs) = tokio::sync::mpsc::channel(waiting_max);
                runtime.spawn(simulate_threads(tree.clone(), folder, threads, jobs));
                Queue::Simulated(queue)
            }
        };
        let begun = Arc::new(Mutex::new(clock::now()));
        Ok(Self { places: Arc::new(Semaphore::new(waiting_max)), queue, begun })
    }

    /// Runs a job on one of the threads: jobs are begun in the order in which this was first polled, and with one thread
    /// done in it. Waits while the queue is full. Dropped before it has a place there, the job is never run; dropped after
    /// that, it runs all the same.
    ///
    /// # Errors
    /// See [`LaneError`]. A job that hangs has no deadline here: bound the wait, and leave the disk.
    pub async fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> Result<T, LaneError> {
        let place = self.places.clone().acquire_owned().await.map_err(|_| LaneError::Closed)?;
        let (answer, answered) = oneshot::channel::<Result<T, Box<dyn Any + Send>>>();
        let work = Box::new(move || {
            let done = catch_unwind(AssertUnwindSafe(job));
            // Whoever asked may be gone.
            drop(answer.send(done));
        });
        self.enqueue(Job { place, begun: Arc::clone(&self.begun), work })?;
        match answered.await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(_)) => Err(LaneError::Panicked),
            Err(_) => Err(LaneError::Closed),
        }
    }

    /// Runs a job as [`Lane::run`] does, on a lane of one thread, until that thread has been at one job for `limit`: this one
    /// or one before it. Waiting for the thread while it does other jobs is no sign of a disk that hangs, however long.
    ///
    /// # Errors
    /// [`LaneError::Hangs`] then; the job runs all the same if it has a place in the queue, once the thread comes back.
    pub async fn run_within<T: Send + 'static>(
        &self,
        limit: Duration,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, LaneError> {
        let mut running = pin!(self.run(job));
        let (asked, mut left) = (clock::now(), limit);
        loop {
            if let Ok(done) = clock::timeout(left, running.as_mut()).await {
                return done;
            }
            // What was begun before this was asked for may have been done in no time.
            let since = asked.max(*self.begun.lock());
            left = limit.saturating_sub(clock::since(since));
            if left.is_zero() {
                return Err(LaneError::Hangs);
            }
        }
    }

    /// The queue has as much room as there are places, so that it is never full here.
    fn enqueue(&self, job: Job) -> Result<(), LaneError> {
        match &self.queue {
            Queue::Threads(queue) => queue.try_send(job).map_err(|_| LaneError::Closed),
            #[cfg(feature = "sim")]
            Queue::Simulated(queue) => queue.try_send(job).map_err(|_| LaneError::Closed),
        }
    }
}

fn start_threads(name: &str, threads: usize, waiting_max: usize) -> io::Result<SyncSender<Job>> {
    let (queue, jobs) = sync_channel(waiting_max);
    let jobs = Arc::new(Mutex::new(jobs));
    for number in 0..threads {
        let jobs = jobs.clone();
        thread::Builder::new().name(format!("{name}-{number}")).spawn(move || work(&jobs))?;
    }
    Ok(queue)
}

fn work(jobs: &Mutex<Receiver<Job>>) {
    loop {
        // One thread waits for the next job, the others for their turn to wait.
        let next = jobs.lock().recv();
        match next {
            Ok(job) => job.begin()(),
            Err(_) => return,
        }
    }
}

/// Begins jobs in order, at most `threads` at once.
#[cfg(feature = "sim")]
async fn simulate_threads(
    tree: super::simulated::Tree,
    folder: PathBuf,
    threads: usize,
    mut jobs: tokio::sync::mpsc::Receiver<Job>,
) {
    let free = Arc::new(Semaphore::new(threads.min(Semaphore::MAX_PERMITS)));
    while let Some(job) = jobs.recv().await {
        let Ok(thread) = free.clone().acquire_owned().await else { return };
        let work = job.begin();
        let (tree, folder) = (tree.clone(), folder.clone());
        crate::task::spawn(async move {
            tree.delay(&folder).await;
            work();
            drop(thread);
        });
    }
}

#[cfg(test)]
mod tests;
