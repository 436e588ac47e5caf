//! Tasks: spawned here and nowhere else, and ended by a [`Shutdown`] that is passed in.
//!
//! Owns: spawning, blocking work, telling tasks to end and waiting until they have. Does not own: what they do.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::{JoinError, JoinHandle, JoinSet};

use crate::clock;

/// Runs a program's main future to its end on a thread per core, at least two: where one is busy computing, another still
/// serves connections. What still runs or blocks after it, such as a read of standard input, is not waited for.
///
/// # Errors
/// When the system gives no threads.
pub fn run<F: Future>(main: F) -> io::Result<F::Output> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if std::thread::available_parallelism().map_or(1, usize::from) < 2 {
        builder.worker_threads(2);
    }
    let runtime = builder.enable_all().build()?;
    let output = runtime.block_on(Box::pin(main));
    runtime.shutdown_background();
    Ok(output)
}

/// The number that the machine knows this process by, for logs. In simulation there is one process only, and its number
/// is of the world outside: it is always 1.
#[must_use]
pub fn process_id() -> u32 {
    if cfg!(feature = "sim") { 1 } else { std::process::id() }
}

/// Runs a future as a task of its own. Dropping the handle leaves it running.
pub fn spawn<F>(future: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    tokio::spawn(future)
}

/// Spawns tasks of the runtime in which it was made, also from threads that are none of it: what is dropped there may have
/// something left to say.
#[derive(Clone, Debug)]
pub struct Spawner {
    runtime: tokio::runtime::Handle,
}

impl Spawner {
    /// Of the present runtime.
    ///
    /// # Panics
    /// Outside of one.
    #[must_use]
    pub fn current() -> Self {
        Self { runtime: tokio::runtime::Handle::current() }
    }

    /// Runs a future as a task of its own, as [`spawn`] does. Once the runtime has ended it is dropped.
    pub fn spawn<F>(&self, future: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.runtime.spawn(future);
    }
}

/// Runs work that blocks (files, long computations) away from the threads that serve connections. In simulation it runs
/// at once, in place.
///
/// # Errors
/// When the work panicked.
#[cfg_attr(feature = "sim", expect(clippy::unused_async, reason = "the real one waits"))]
pub async fn blocking<F, T>(work: F) -> Result<T, JoinError>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    #[cfg(feature = "sim")]
    return Ok(work());
    #[cfg(not(feature = "sim"))]
    tokio::task::spawn_blocking(work).await
}

/// Tells a role's tasks to end; clones share it. Those who wait are woken in the order in which they came, so that a
/// simulation repeats itself.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    state: Arc<ShutdownState>,
}

#[derive(Debug, Default)]
struct ShutdownState {
    triggered: AtomicBool,
    waiting: Notify,
}

impl Shutdown {
    /// Not ended yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Ends everything that waits on it, now and later.
    pub fn trigger(&self) {
        self.state.triggered.store(true, Ordering::Release);
        self.state.waiting.notify_waiters();
    }

    /// Whether it was triggered.
    #[must_use]
    pub fn is_triggered(&self) -> bool {
        self.state.triggered.load(Ordering::Acquire)
    }

    /// Waits until it is triggered; returns at once when it was. Cancel-safe.
    pub async fn wait(&self) {
        // Made before the question is asked: a trigger between the two is not missed.
        let notified = self.state.waiting.notified();
        if !self.is_triggered() {
            notified.await;
        }
    }

    /// Runs a future until it is done (`Some`) or the shutdown is triggered (`None`; the future is dropped).
    pub async fn or<F: Future>(&self, future: F) -> Option<F::Output> {
        tokio::select! {
            biased;
            () = self.wait() => None,
            output = future => Some(output),
        }
    }
}

/// A role's tasks, awaited together at its end. Dropping it aborts them.
#[derive(Debug, Default)]
pub struct Tasks {
    set: JoinSet<()>,
}

impl Tasks {
    /// None yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a task.
    pub fn spawn<F>(&mut self, future: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.set.spawn(future);
    }

    /// Forgets tasks that have ended, so that a long-lived set does not grow; returns how many are left.
    pub fn reap(&mut self) -> usize {
        while self.set.try_join_next().is_some() {}
        self.set.len()
    }

    /// Waits for all of them, at most this long; what runs on after that is aborted. Returns whether all ended in time.
    pub async fn join(mut self, grace: Duration) -> bool {
        clock::timeout(grace, async { while self.set.join_next().await.is_some() {} }).await.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test]
    async fn a_shutdown_ends_those_who_wait_now_and_later() {
        let shutdown = Shutdown::new();
        let waiting = spawn({
            let shutdown = shutdown.clone();
            async move { shutdown.or(std::future::pending::<()>()).await }
        });
        tokio::task::yield_now().await;
        assert_eq!((shutdown.is_triggered(), shutdown.or(async { 1 }).await), (false, Some(1)));
        shutdown.trigger();
        assert_eq!(waiting.await.unwrap(), None);
        shutdown.wait().await;
        assert_eq!((shutdown.is_triggered(), shutdown.or(async { 1 }).await), (true, None));
    }

    #[tokio::test(start_paused = true)]
    async fn tasks_are_waited_for_and_what_runs_on_is_aborted() {
        let mut tasks = Tasks::new();
        tasks.spawn(async {});
        tasks.spawn(clock::sleep(SECOND));
        tokio::task::yield_now().await;
        assert_eq!(tasks.reap(), 1);
        assert!(tasks.join(2 * SECOND).await);

        let (sender, dropped) = tokio::sync::oneshot::channel::<()>();
        let mut tasks = Tasks::new();
        tasks.spawn(async move {
            let _sender = sender;
            std::future::pending::<()>().await;
        });
        assert!(!tasks.join(SECOND).await);
        assert!(dropped.await.is_err());
    }

    #[test]
    fn what_a_program_leaves_blocked_is_not_waited_for() {
        let (release, blocked) = std::sync::mpsc::channel::<()>();
        let ended = run(async { spawn(blocking(move || blocked.recv())).is_finished() });
        assert!(matches!(ended, Ok(false)));
        drop(release);
    }

    #[test]
    fn a_spawner_is_good_outside_of_its_runtime_and_after_it() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let spawner = runtime.block_on(async { Spawner::current() });
        let (done, ran) = tokio::sync::oneshot::channel();
        spawner.spawn(async move { done.send(()).unwrap() });
        runtime.block_on(ran).unwrap();
        drop(runtime);
        let (never, ran) = tokio::sync::oneshot::channel::<()>();
        spawner.spawn(async move { drop(never) });
        assert!(ran.blocking_recv().is_err());
    }

    #[tokio::test]
    async fn blocking_work_returns_what_it_made() {
        assert_eq!(blocking(|| 6 * 7).await.unwrap(), 42);
    }
}
