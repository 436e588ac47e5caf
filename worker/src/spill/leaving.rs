//! A job on a disk's thread that may have to be left: until it returns after that, its disk hangs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use super::Folder;

/// The side that waits.
pub(super) struct Leaving {
    folder: Arc<Folder>,
    state: Arc<AtomicU8>,
}

/// Given up with the job, whether it was done or never begun.
pub(super) struct Returned(Leaving);

const AWAY: u8 = 0;
const RETURNED: u8 = 1;
const LEFT: u8 = 2;

impl Leaving {
    pub(super) fn new(folder: &Arc<Folder>) -> Self {
        Self { folder: Arc::clone(folder), state: Arc::new(AtomicU8::new(AWAY)) }
    }

    pub(super) fn returned(&self) -> Returned {
        Returned(Self { folder: Arc::clone(&self.folder), state: Arc::clone(&self.state) })
    }

    pub(super) fn leave(&self) {
        // Counted first, so that a job which returns now finds itself counted.
        self.folder.stuck.fetch_add(1, Ordering::AcqRel);
        if self.state.swap(LEFT, Ordering::AcqRel) == RETURNED {
            self.folder.stuck.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

impl Drop for Returned {
    fn drop(&mut self) {
        if self.0.state.swap(RETURNED, Ordering::AcqRel) == LEFT {
            self.0.folder.stuck.fetch_sub(1, Ordering::AcqRel);
            self.0.folder.work.notify_one();
        }
    }
}
