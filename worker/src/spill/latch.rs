//! Waiting for several things to be done.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// Opens when everything that it counts was done, well or not.
pub(super) struct Latch {
    left: AtomicUsize,
    open: Notify,
}

impl Latch {
    /// Counts so many things.
    pub(super) fn new(count: usize) -> Arc<Self> {
        Arc::new(Self { left: AtomicUsize::new(count), open: Notify::new() })
    }

    /// One of them is done.
    pub(super) fn done(&self) {
        if self.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.open.notify_waiters();
        }
    }

    /// Waits until all are done.
    pub(super) async fn wait(&self) {
        // Made before the question is asked: what is done between the two is not missed.
        let notified = self.open.notified();
        if self.left.load(Ordering::Acquire) > 0 {
            notified.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use mallorn_runtime::task;

    use super::*;

    #[tokio::test]
    async fn it_opens_with_the_last_and_for_those_who_come_later() {
        Latch::new(0).wait().await;
        let latch = Latch::new(2);
        latch.done();
        let waiting = task::spawn({
            let latch = Arc::clone(&latch);
            async move { latch.wait().await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        latch.done();
        waiting.await.unwrap();
        latch.wait().await;
    }
}
