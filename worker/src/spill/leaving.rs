//! A job on a disk's thread that may have to be left: until it returns after that, it is counted as stuck.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

use super::Folder;

/// The side that waits.
pub(super) struct Leaving {
    folder: Arc<Folder>,
    stuck: Arc<AtomicUsize>,
    state: Arc<AtomicU8>,
}

/// Given up with the job, whether it was done or never begun.
pub(super) struct Returned(Leaving);

const AWAY: u8 = 0;
const RETURNED: u8 = 1;
const LEFT: u8 = 2;

impl Leaving {
    /// A job of a folder; `stuck` counts those that were left and have not returned.
    pub(super) fn new(folder: &Arc<Folder>, stuck: &Arc<AtomicUsize>) -> Self {
        Self { folder: Arc::clone(folder), stuck: Arc::clone(stuck), state: Arc::new(AtomicU8::new(AWAY)) }
    }

    pub(super) fn returned(&self) -> Returned {
        Returned(Self {
            folder: Arc::clone(&self.folder),
            stuck: Arc::clone(&self.stuck),
            state: Arc::clone(&self.state),
        })
    }

    pub(super) fn leave(&self) {
        // Counted first, so that a job which returns now finds itself counted.
        self.stuck.fetch_add(1, Ordering::AcqRel);
        if self.state.swap(LEFT, Ordering::AcqRel) == RETURNED {
            self.stuck.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

impl Drop for Returned {
    fn drop(&mut self) {
        if self.0.state.swap(RETURNED, Ordering::AcqRel) == LEFT {
            self.0.stuck.fetch_sub(1, Ordering::AcqRel);
            self.0.folder.came_back();
        }
    }
}
