//! Threads of a disk: what blocks on it runs there, so that one that hangs holds up nothing else.
//!
//! Owns the threads, and how many jobs wait for them. Does not own what the jobs do. On a simulated disk there are no
//! threads: a job waits as long as the disk would take, in simulated time, and then runs at once.

use std::any::Any;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use parking_lot::Mutex;
use thiserror::Error;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::{Backing, Disk};

/// Threads that work for one folder. Clones share them; they end when the last clone is dropped and what was queued is
/// done.
#[derive(Clone, Debug)]
pub struct Lane {
    places: Arc<Semaphore>,
    queue: Queue,
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
    work: Box<dyn FnOnce() + Send>,
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
        Ok(Self { places: Arc::new(Semaphore::new(waiting_max)), queue })
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
        self.enqueue(Job { place, work })?;
        match answered.await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(_)) => Err(LaneError::Panicked),
            Err(_) => Err(LaneError::Closed),
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
            Ok(Job { place, work }) => {
                drop(place);
                work();
            }
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
    while let Some(Job { place, work }) = jobs.recv().await {
        let Ok(thread) = free.clone().acquire_owned().await else { return };
        drop(place);
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
