//! Appending to a location: what is pushed, and what a primary forwards.
//!
//! Owns the one moment in which a batch is admitted, finds its memory, enters the log, and is handed to the link of its
//! replica: all under the location's lock, so that copies see the same order. Does not own the pieces (`location`).

use std::sync::Arc;

use mallorn_proto::batch::BatchHeader;
use mallorn_proto::status::Status;
use mallorn_sabotage::{self as sabotage, Sabotage};
use mallorn_worker_core::push::{Admission, BatchEntry};
use mallorn_worker_core::replicate::Copy;
use parking_lot::MutexGuard;

use super::{Location, State};
use crate::memory::arena::{Arena, Slot};
use crate::push::answers::{Asking, Ticket};
use crate::replicate::link::Forward;

/// Heap that one batch takes while it waits for its replica: its ticket, its push's answer and its place in the link.
pub(crate) const WAITING_HEAP_BYTES: u64 = 256;

/// The bytes of a batch that was verified.
pub(crate) enum Body<'a> {
    /// They are copied into the tail.
    Copied(&'a [u8]),
    /// They lie in slots of their own, this many from the start of the first.
    Apart(Vec<Slot>, usize),
}

impl Body<'_> {
    fn length(&self) -> usize {
        match self {
            Self::Copied(bytes) => bytes.len(),
            Self::Apart(_, length) => *length,
        }
    }
}

/// What came of a push.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Appended {
    /// It is stored, under this status.
    Stored(Status),
    /// It is in the log, and its ticket waits for the replica.
    Waits,
}

/// Why a batch was not appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotAppended {
    /// The location takes no more, or not this one.
    Closed,
    /// There is no memory for it now.
    NoMemory,
}

/// A batch in the log of a primary that its replica has not confirmed.
pub(super) struct Waiting {
    /// Where it ends.
    end: u64,
    ticket: Ticket,
}

impl Location {
    /// Whether a push would be admitted now.
    pub(crate) fn is_pushed_to(&self) -> bool {
        self.lock().log.admit() != Admission::HardSplit && !self.spill.crowds(self.place.instance)
    }

    /// Whether a batch that another worker forwards would be admitted now.
    pub(crate) fn follows_at(&self, offset: u64) -> bool {
        self.lock().log.admit_at(offset) != Admission::HardSplit
    }

    /// Appends a pushed batch; a primary forwards it.
    pub(crate) fn push(
        self: &Arc<Self>,
        arena: &Arc<Arena>,
        header: BatchHeader,
        body: Body<'_>,
        ask: &mut Asking<'_>,
    ) -> Result<Appended, NotAppended> {
        let length = body.length();
        if sabotage::is(Sabotage::DuplicateDroppedInTheWorker) && header.attempt.0 > 0 {
            return Ok(Appended::Stored(Status::Success));
        }
        let mut state = self.lock();
        // What could not be committed must not be acked: the next epoch is at a worker whose disks have room.
        if state.owes() && !self.spill.has_room() {
            return Err(NotAppended::Closed);
        }
        // What is left is for those who hold less: the next epoch may be where there is more.
        if self.spill.crowds(self.place.instance) {
            return Err(NotAppended::Closed);
        }
        let admission = state.log.admit();
        let offset = state.append(arena, admission, header, body)?;
        if let Some(split) = state.log.reached(length as u64) {
            ask.metrics().replicate.split(split);
        }
        let stored = if state.log.is_over_soft_limit() { Status::SoftSplit } else { Status::Success };
        let replica = self.replica.as_ref().filter(|_| !sabotage::is(Sabotage::ForgetTheReplica));
        let Some(replica) = replica else {
            self.appended(state);
            return Ok(Appended::Stored(stored));
        };
        let (end, mut views) = (state.log.length(), Vec::with_capacity(1));
        state.views(offset..end, &mut views);
        let acks_at_once = sabotage::is(Sabotage::AckBeforeTheReplica);
        if !acks_at_once {
            state.waiting.push_back(Waiting { end, ticket: ask.ticket(stored, length) });
        }
        replica.link.forward(Forward::new(self, replica.handle, offset..end, views));
        self.appended(state);
        if acks_at_once {
            return Ok(Appended::Stored(stored));
        }
        Ok(Appended::Waits)
    }

    /// Appends a batch that another worker forwards, at its offset there.
    pub(crate) fn accept(
        self: &Arc<Self>,
        arena: &Arc<Arena>,
        header: BatchHeader,
        body: Body<'_>,
        offset: u64,
    ) -> Result<(), NotAppended> {
        let mut state = self.lock();
        let admission = state.log.admit_at(offset);
        state.append(arena, admission, header, body)?;
        self.appended(state);
        Ok(())
    }

    /// Has whole extents written behind the pushes, and the balance look where memory asks for it.
    fn appended(self: &Arc<Self>, mut state: MutexGuard<'_, State>) {
        let is_ready = state.becomes_ready();
        drop(state);
        if is_ready {
            self.spill.behind(Arc::clone(self));
        }
        self.spill.press();
    }

    /// The replica has everything up to `end`.
    pub(crate) fn confirm(&self, end: u64) {
        let mut state = self.lock();
        if !state.log.confirm(end) {
            return;
        }
        while state.waiting.front().is_some_and(|waiting| waiting.end <= end) {
            if let Some(waiting) = state.waiting.pop_front() {
                waiting.ticket.confirm();
            }
        }
    }
}

impl State {
    /// Appends a batch where it was admitted; returns its offset.
    pub(crate) fn append(
        &mut self,
        arena: &Arc<Arena>,
        admission: Admission,
        header: BatchHeader,
        body: Body<'_>,
    ) -> Result<u64, NotAppended> {
        let Admission::Append { offset } = admission else { return Err(NotAppended::Closed) };
        match body {
            Body::Copied(bytes) if self.make_room(arena, bytes.len()) => self.copy(offset, bytes),
            Body::Apart(slots, length) if self.charge_heap(slots.len()) => self.attach(offset, slots, length),
            Body::Copied(_) | Body::Apart(..) => return Err(NotAppended::NoMemory),
        }
        self.log.append(BatchEntry::from(header));
        self.tell();
        Ok(offset)
    }

    /// Heap that batches take which wait for the replica, with one more.
    pub(super) fn waiting_heap_bytes(&self) -> u64 {
        match self.log.copy() {
            Copy::Primary => (self.waiting.len() as u64 + 1).next_power_of_two() * WAITING_HEAP_BYTES,
            Copy::Lone | Copy::Replica | Copy::HandedOver => 0,
        }
    }
}
