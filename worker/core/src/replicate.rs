//! Two copies of a location: who orders, what is confirmed, when a replica is too late.
//!
//! Owns the roles of copies, a primary's confirmed length, a replica's admission, and the deadlines and bounds of what
//! waits for replicas. Copies are equal byte for byte because one of them orders, and the other takes each batch at its
//! own length only; whatever fails ends the location, and nothing is sent again. Does not own connections or bytes.

use std::time::Duration;

use mallorn_proto::limits::REPLICATED_BATCHES_MAX;

use crate::push::{Admission, Life, Log};

/// A link to a replica that confirms nothing for this long is given up, with everything that waits for it.
pub const PROGRESS_WITHIN: Duration = Duration::from_secs(2);

/// A batch that is not confirmed after this long ends its location.
pub const CONFIRM_WITHIN: Duration = Duration::from_secs(10);

/// Bytes of a frame that gathers several batches, its header included: it always fits the smallest buffer that the other
/// side reads into, and is taken there without another copy.
pub const FRAME_BYTES: usize = 120 * 1024;

/// Bytes of a frame's header for each of its batches.
const PART_BYTES: usize = 20;

/// Which copy of a location this is; fixed for its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Copy {
    /// The only one.
    Lone,
    /// Orders the batches, and forwards them to its replica.
    Primary,
    /// Takes what its primary forwards.
    Replica,
    /// Takes what a worker hands over that leaves.
    HandedOver,
}

impl Log {
    /// Which copy it is.
    #[must_use]
    pub fn copy(&self) -> Copy {
        self.copy
    }

    /// Whether a forwarded batch may be appended: only at the location's own length, so that copies are equal. A replica
    /// splits at no limit of its own.
    #[must_use]
    pub fn admit_at(&self, offset: u64) -> Admission {
        let follows = matches!(self.copy, Copy::Replica | Copy::HandedOver);
        if follows && offset == self.length { self.next() } else { Admission::HardSplit }
    }

    /// The replica has everything up to `end`. Returns whether that still counts: once acks have ended it does not.
    ///
    /// A replica takes a batch only at its own length, so the confirmation of one holds for all before it.
    pub fn confirm(&mut self, end: u64) -> bool {
        let counts = self.life == Life::Open;
        if counts {
            debug_assert!(self.copy == Copy::Primary && end <= self.length, "what is confirmed was forwarded");
            self.confirmed = self.confirmed.max(end);
        }
        counts
    }

    /// Bytes acked so far, or about to be: at a primary what its replica has confirmed, elsewhere all.
    #[must_use]
    pub fn acked(&self) -> u64 {
        match self.copy {
            Copy::Primary => self.confirmed,
            Copy::Lone | Copy::Replica | Copy::HandedOver => self.length,
        }
    }
}

/// What waits for a replica too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Late {
    /// The link as a whole: nothing was confirmed for [`PROGRESS_WITHIN`].
    Link,
    /// The batch that waits longest, for [`CONFIRM_WITHIN`].
    Batch,
}

/// When a link waits too long, and for what: `progress` is when it last confirmed something, or began to wait, `oldest`
/// when the batch was appended that waits longest. Times are since any common start.
#[must_use]
pub fn late_at(progress: Duration, oldest: Duration) -> (Duration, Late) {
    let (link, batch) = (progress + PROGRESS_WITHIN, oldest + CONFIRM_WITHIN);
    if batch < link { (batch, Late::Batch) } else { (link, Late::Link) }
}

/// Bytes that may wait for replicas at once, of a push pool of this size.
#[must_use]
pub fn waiting_bytes_max(push_pool_bytes: u64) -> u64 {
    push_pool_bytes / 4
}

/// How many of the next batches, given their lengths, go into one frame: as many as fit, and one at least.
#[must_use]
pub fn gather(lengths: impl Iterator<Item = u32>, body_bytes_max: u32) -> usize {
    let (mut body, mut count) = (0, 0);
    for length in lengths.take(REPLICATED_BATCHES_MAX) {
        body += length as usize;
        let fits = body + (count + 1) * PART_BYTES <= FRAME_BYTES && body <= body_bytes_max as usize;
        if count > 0 && !fits {
            break;
        }
        count += 1;
    }
    count
}

#[cfg(test)]
mod tests;
