//! The client's byte budget as a place to wait at. Bytes are taken before they exist and given back by dropping a
//! [`Permit`].
//!
//! Read-ahead is bytes that nobody has asked for yet: it is dropped, and fetched again later, as soon as a push waits.

use std::sync::{Arc, Weak};

use mallorn_client_core::memory::{Budget, Share};
use parking_lot::Mutex;
use tokio::sync::Notify;

#[derive(Debug)]
pub(crate) struct Memory {
    budget: Mutex<Budget>,
    freed: Notify,
    read_ahead: Mutex<Vec<Weak<dyn Reclaim>>>,
}

/// Something that can give its bytes back when they are needed more elsewhere.
pub(crate) trait Reclaim: Send + Sync + std::fmt::Debug {
    fn reclaim(&self);
}

/// Bytes of the budget; dropping it gives them back.
#[derive(Debug)]
pub(crate) struct Permit {
    memory: Arc<Memory>,
    share: Share,
    bytes: u64,
}

impl Memory {
    pub(crate) fn new(budget: Budget) -> Arc<Self> {
        Arc::new(Self { budget: Mutex::new(budget), freed: Notify::new(), read_ahead: Mutex::new(Vec::new()) })
    }

    /// Takes bytes if there is room now.
    pub(crate) fn try_take(self: &Arc<Self>, share: Share, bytes: u64) -> Option<Permit> {
        let taken = self.budget.lock().take(share, bytes);
        taken.then(|| Permit { memory: Arc::clone(self), share, bytes })
    }

    /// Waits until there is room. The caller sees to it that somebody gives bytes back, and to the deadline.
    pub(crate) async fn take(self: &Arc<Self>, share: Share, bytes: u64) -> Permit {
        loop {
            let freed = self.freed.notified();
            tokio::pin!(freed);
            freed.as_mut().enable();
            if let Some(permit) = self.try_take(share, bytes) {
                return permit;
            }
            if share == Share::Push {
                self.reclaim();
            }
            freed.await;
        }
    }

    /// The most that one share can ever hold.
    pub(crate) fn largest(&self) -> u64 {
        self.budget.lock().largest()
    }

    pub(crate) fn offer_reclaim(&self, read_ahead: Weak<dyn Reclaim>) {
        let mut offered = self.read_ahead.lock();
        offered.retain(|one| one.strong_count() > 0);
        offered.push(read_ahead);
    }

    fn reclaim(&self) {
        // Taken out first: what gives bytes back must not find this lock held.
        let offered: Vec<_> = self.read_ahead.lock().drain(..).collect();
        offered.iter().filter_map(Weak::upgrade).for_each(|one| one.reclaim());
    }
}

impl Permit {
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Splits some of its bytes off into a permit of their own.
    pub(crate) fn split(&mut self, bytes: u64) -> Self {
        assert!(bytes <= self.bytes, "a permit cannot be split into more than it has");
        self.bytes -= bytes;
        Self { memory: Arc::clone(&self.memory), share: self.share, bytes }
    }

    /// Takes another permit's bytes in.
    pub(crate) fn merge(&mut self, mut other: Self) {
        self.bytes += std::mem::take(&mut other.bytes);
    }

    /// Gives back all but so many bytes.
    pub(crate) fn shrink_to(&mut self, bytes: u64) {
        if bytes < self.bytes {
            drop(self.split(self.bytes - bytes));
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.memory.budget.lock().give(self.share, self.bytes);
            self.memory.freed.notify_waiters();
        }
    }
}
