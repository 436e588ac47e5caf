//! Monotonic time. Leases and deadlines are durations on this clock, never instants that another process could read.
//!
//! Owns: the only reading of the clock, waiting and deadlines. Does not own: any instant that lasts longer than the
//! process. Under simulation tokio's clock is virtual, and so is this.

use std::future::Future;
use std::time::Duration;

pub use tokio::time::Instant;

/// Now, on the monotonic clock.
#[must_use]
pub fn now() -> Instant {
    #[cfg(feature = "sim")]
    if let Some(clock) = crate::simulation::clock() {
        return clock.time(Instant::now());
    }
    Instant::now()
}

/// How long ago a moment was that [`now`] told; zero where it is still to come.
#[must_use]
pub fn since(earlier: Instant) -> Duration {
    now().saturating_duration_since(earlier)
}

/// Waits for this long.
pub async fn sleep(duration: Duration) {
    match now().checked_add(duration) {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// Waits until then; returns at once when it has passed.
pub async fn sleep_until(deadline: Instant) {
    #[cfg(feature = "sim")]
    if let Some(clock) = crate::simulation::clock() {
        return clock.reach(deadline).await;
    }
    tokio::time::sleep_until(deadline).await;
}

/// A duration in whole milliseconds, the form in which it crosses the wire; at most `u64::MAX`.
#[must_use]
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The deadline of a [`timeout`] passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("timed out")]
pub struct Elapsed;

/// Runs a future with a deadline; it is dropped when the deadline passes first. A future that is done when the deadline
/// passes is done in time.
///
/// # Errors
/// `Elapsed` when it did.
pub async fn timeout<F: Future>(duration: Duration, future: F) -> Result<F::Output, Elapsed> {
    #[cfg(feature = "sim")]
    return tokio::select! {
        biased;
        output = future => Ok(output),
        () = sleep(duration) => Err(Elapsed),
    };
    #[cfg(not(feature = "sim"))]
    tokio::time::timeout(duration, future).await.map_err(|_| Elapsed)
}

/// A clock as pure cores want it: durations since an arbitrary start.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
}

impl Clock {
    /// Starts at zero now.
    #[must_use]
    pub fn start() -> Self {
        Self { start: now() }
    }

    /// Time since the start.
    #[must_use]
    pub fn now(&self) -> Duration {
        since(self.start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn time_passes_as_told_and_a_deadline_ends_what_is_not_done() {
        let clock = Clock::start();
        assert_eq!(clock.now(), Duration::ZERO);
        sleep(Duration::from_secs(3)).await;
        assert_eq!(clock.now(), Duration::from_secs(3));
        sleep_until(now() + Duration::from_secs(1)).await;
        sleep_until(now()).await;
        assert_eq!(clock.now(), Duration::from_secs(4));

        let second = Duration::from_secs(1);
        assert_eq!(timeout(second, std::future::pending::<()>()).await, Err(Elapsed));
        assert_eq!(clock.now(), Duration::from_secs(5));
        assert_eq!(timeout(Duration::ZERO, async { 1 }).await, Ok(1));
        assert_eq!(timeout(Duration::MAX, sleep(second)).await, Ok(()));
    }
}
