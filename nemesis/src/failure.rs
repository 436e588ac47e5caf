//! What makes a scenario fail, and waiting for what must come.

use std::sync::Arc;
use std::time::Duration;

use mallorn_runtime::clock;
use parking_lot::Mutex;

/// How often a condition is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Why a scenario has failed.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// What is needed for it could not be made ready.
    #[error("not set up: {0}")]
    Setup(String),
    /// The fault left no trace: whatever came out proves nothing.
    #[error("the fault has not struck: {0}")]
    NotStruck(String),
    /// Mallorn did what it must not, or not what it must.
    #[error("{0}")]
    Wrong(String),
}

/// What can be told of a scenario that fails; clones share it.
#[derive(Clone, Default)]
pub(crate) struct Witness {
    tell: Arc<Mutex<Vec<Tell>>>,
}

type Tell = Box<dyn Fn() -> String + Send>;

impl std::fmt::Debug for Witness {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Witness").finish_non_exhaustive()
    }
}

impl Witness {
    /// Asks this, too, where it comes to that.
    pub(crate) fn add(&self, tell: impl Fn() -> String + Send + 'static) {
        self.tell.lock().push(Box::new(tell));
    }

    /// All that can be told.
    pub(crate) fn tell(&self) -> String {
        self.tell.lock().iter().map(|tell| format!("\n  {}", tell())).collect()
    }
}

/// Fails where this does not hold.
pub(crate) fn must(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), Failure> {
    if holds { Ok(()) } else { Err(Failure::Wrong(otherwise())) }
}

/// Fails where this does not hold: the fault did nothing.
pub(crate) fn struck(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), Failure> {
    if holds { Ok(()) } else { Err(Failure::NotStruck(otherwise())) }
}

/// Waits until this holds; returns how long that took. `None` when it did not come.
pub(crate) async fn until(within: Duration, holds: impl AsyncFn() -> bool) -> Option<Duration> {
    let began = clock::now();
    loop {
        if holds().await {
            return Some(began.elapsed());
        }
        if began.elapsed() >= within {
            return None;
        }
        clock::sleep(LOOK_EVERY).await;
    }
}
