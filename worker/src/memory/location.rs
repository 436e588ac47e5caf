//! One location: its log, and the pieces of the arena where its bytes lie.
//!
//! Owns the location's lock, and copying bytes into the tail or attaching them as they lie. Does not own what may be
//! appended (`mallorn_worker_core::push`), how a life ends (`commit`), nor reading (`fetch`).

pub(crate) mod append;

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use mallorn_proto::batch::Place;
use mallorn_proto::durability::Durability;
use mallorn_proto::id::{Handle, LocationId};
use mallorn_worker_core::memory::{Pool, next_slot_bytes};
use mallorn_worker_core::push::{BatchEntry, Life, Log, SplitLimits};
use mallorn_worker_core::replicate::Copy;
use parking_lot::{Mutex, MutexGuard};

use self::append::Waiting;
use super::arena::{Arena, Charge, Slot, Tail, View};
use crate::replicate::link::Replica;

/// Heap that a location takes before it holds anything: itself and its entries in the tables, generously.
pub(crate) const LOCATION_HEAP_BYTES: u64 = 512;

/// Heap that each slot of a location takes: its piece, twice for the list's growth, and what counts its holders.
const SLOT_HEAP_BYTES: u64 = 2 * size_of::<Piece>() as u64 + 64;

/// A location that was reserved.
pub(crate) struct Location {
    pub(crate) id: LocationId,
    pub(crate) place: Place,
    pub(crate) handle: Handle,
    #[expect(dead_code, reason = "the spill asks it")]
    pub(crate) durability: Durability,
    /// Where a primary's other copy is.
    pub(crate) replica: Option<Replica>,
    state: Mutex<State>,
}

/// What a location is reserved as.
#[derive(Clone, Debug)]
pub(crate) struct Terms {
    pub(crate) copy: Copy,
    /// There at a primary, and nowhere else.
    pub(crate) replica: Option<Replica>,
    pub(crate) limits: SplitLimits,
    pub(crate) durability: Durability,
}

impl Terms {
    /// The pool that a location's memory is taken from.
    pub(crate) fn pool(copy: Copy) -> Pool {
        match copy {
            Copy::Lone | Copy::Primary => Pool::Push,
            Copy::Replica | Copy::HandedOver => Pool::Replicate,
        }
    }
}

/// What the location's lock guards.
pub(crate) struct State {
    pub(crate) log: Log,
    /// A primary's batches that are not confirmed, in their order.
    waiting: VecDeque<Waiting>,
    pool: Pool,
    /// Rising, without gaps, from offset 0 to the log's length.
    pieces: Vec<Piece>,
    tail: Option<Tail>,
    /// Slots taken for one append and not written yet; empty between two.
    spare: VecDeque<Slot>,
    /// Bytes of all slots held here.
    slot_bytes: u64,
    slots: u64,
    heap: Option<Charge>,
}

struct Piece {
    start: u64,
    view: View,
}

impl Location {
    /// Open and empty; `heap` is the charge for [`LOCATION_HEAP_BYTES`].
    pub(crate) fn new(id: LocationId, place: Place, handle: Handle, terms: Terms, heap: Charge) -> Self {
        let Terms { copy, replica, limits, durability } = terms;
        let state = State {
            log: Log::of(copy, limits),
            waiting: VecDeque::new(),
            pool: Terms::pool(copy),
            pieces: Vec::new(),
            tail: None,
            spare: VecDeque::new(),
            slot_bytes: 0,
            slots: 0,
            heap: Some(heap),
        };
        Self { id, place, handle, durability, replica, state: Mutex::new(state) }
    }

    /// The location's lock; never held across a wait.
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Where in its life it is.
    pub(crate) fn life(&self) -> Life {
        self.lock().log.life()
    }

    /// Whether it was reserved on these terms, as far as copies go.
    pub(crate) fn is(&self, terms: &Terms) -> bool {
        self.lock().log.copy() == terms.copy && self.replica == terms.replica
    }

    /// The pool that its memory is taken from.
    pub(crate) fn pool(&self) -> Pool {
        self.lock().pool
    }
}

impl State {
    /// Takes what slots and heap `bytes` more need; `false`, and nothing is taken, when pushes have no memory left.
    fn make_room(&mut self, arena: &Arc<Arena>, bytes: usize) -> bool {
        let room = self.tail.as_ref().map_or(0, Tail::room);
        let mut missing = bytes.saturating_sub(room) as u64;
        while missing > 0 {
            let Some(slot) = arena.take(self.pool, next_slot_bytes(self.slot_bytes, missing), 1) else { break };
            self.slot_bytes += slot.length() as u64;
            self.slots += 1;
            missing = missing.saturating_sub(slot.length() as u64);
            self.spare.push_back(slot);
        }
        let fits = missing == 0 && self.charge_heap(0);
        if !fits {
            self.slot_bytes -= self.spare.iter().map(|slot| slot.length() as u64).sum::<u64>();
            self.slots -= self.spare.len() as u64;
            self.spare.clear();
        }
        fits
    }

    /// Counts the batch list with one more entry, and the slots held and these.
    fn charge_heap(&mut self, more_slots: u64) -> bool {
        let entries = (self.log.batches() as u64 + 1).next_power_of_two().max(4);
        let slots = self.slots + more_slots;
        let log = entries * BatchEntry::HEAP_BYTES + slots * SLOT_HEAP_BYTES;
        let bytes = LOCATION_HEAP_BYTES + log + self.waiting_heap_bytes();
        self.heap.as_mut().is_some_and(|heap| heap.raise(bytes))
    }

    fn copy(&mut self, mut offset: u64, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.tail.as_ref().is_none_or(|tail| tail.room() == 0) {
                self.tail = self.spare.pop_front().map(Slot::into_tail);
            }
            let tail = self.tail.as_mut().expect("room was made for all of the bytes");
            let view = tail.append(bytes);
            bytes = &bytes[view.length()..];
            let start = offset;
            offset += view.length() as u64;
            let apart = match self.pieces.last_mut() {
                Some(last) => last.view.join(view),
                None => Some(view),
            };
            self.pieces.extend(apart.map(|view| Piece { start, view }));
        }
    }

    fn attach(&mut self, mut offset: u64, slots: Vec<Slot>, length: usize) {
        let mut left = length;
        for slot in slots {
            self.slot_bytes += slot.length() as u64;
            self.slots += 1;
            let filled = left.min(slot.length());
            self.pieces.push(Piece { start: offset, view: slot.into_view(filled) });
            offset += filled as u64;
            left -= filled;
        }
    }

    /// The bytes of a range below the log's length, as they lie in the arena.
    pub(crate) fn views(&self, range: Range<u64>, into: &mut Vec<View>) {
        let first = self.pieces.partition_point(|piece| piece.end() <= range.start);
        for piece in self.pieces[first..].iter().take_while(|piece| piece.start < range.end) {
            let from = range.start.saturating_sub(piece.start) as usize;
            let to = (range.end.min(piece.end()) - piece.start) as usize;
            into.push(piece.view.part(from..to));
        }
    }

    /// Gives back what will not be written any more, and what lies beyond the log's length. Called when acks have ended:
    /// batches that wait for the replica are answered hard split.
    pub(crate) fn trim(&mut self) {
        self.waiting = VecDeque::new();
        self.slot_bytes -= self.tail.take().map_or(0, Tail::finish);
        self.spare = VecDeque::new();
        let length = self.log.length();
        self.pieces.truncate(self.pieces.partition_point(|piece| piece.start < length));
        if let Some(last) = self.pieces.last_mut() {
            let kept = (length - last.start).min(last.view.length() as u64);
            last.view = last.view.part(0..kept as usize);
        }
    }

    /// Gives everything back; readers finish on what they hold. Returns the bytes of memory held until now.
    pub(crate) fn clear(&mut self) -> u64 {
        self.log.drop_all();
        self.trim();
        self.pieces = Vec::new();
        self.slots = 0;
        let heap = self.heap.take().map_or(0, |heap| heap.bytes());
        heap + std::mem::take(&mut self.slot_bytes)
    }
}

impl Piece {
    fn end(&self) -> u64 {
        self.start + self.view.length() as u64
    }
}

#[cfg(test)]
mod tests;
