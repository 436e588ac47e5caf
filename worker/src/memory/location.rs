//! One location: its log, and the pieces of the arena where its bytes lie.
//!
//! Owns the location's lock, copying bytes into the tail or attaching them as they lie, and forgetting what is on disk too.
//! Does not own what may be appended (`mallorn_worker_core::push`), what is written (`spill`), how a life ends (`commit`),
//! nor reading (`fetch`).

pub(crate) mod append;

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use mallorn_proto::batch::Place;
use mallorn_proto::durability::Durability;
use mallorn_proto::id::{Application, Handle, Instance, LocationId};
use mallorn_worker_core::handover::{Leaving, Origins};
use mallorn_worker_core::memory::{Pool, next_slot_bytes};
use mallorn_worker_core::push::{BatchEntry, Life, Log, SplitLimits};
use mallorn_worker_core::replicate::Copy;
use mallorn_worker_core::spill::extent::{EXTENT_BYTES, Extent};
use parking_lot::{Mutex, MutexGuard};

use self::append::Waiting;
use super::arena::{Arena, Charge, Slot, Tail, View};
use crate::replicate::link::Replica;
use crate::spill::{ShuffleKey, Spill};

/// Heap that a location takes before it holds anything: itself and its entries in the tables, generously.
pub(crate) const LOCATION_HEAP_BYTES: u64 = 512;

/// Heap that each slot of a location takes: its piece, twice for the list's growth, and what counts its holders.
const SLOT_HEAP_BYTES: u64 = 2 * size_of::<Piece>() as u64 + 64;

/// A location that was reserved.
pub(crate) struct Location {
    pub(crate) id: LocationId,
    pub(crate) place: Place,
    pub(crate) handle: Handle,
    pub(crate) application: Arc<Application>,
    /// Where a primary's other copy is.
    pub(crate) replica: Option<Replica>,
    /// Who hands it over, or has, and who had it before.
    pub(crate) origins: Origins,
    pub(super) spill: Arc<Spill>,
    state: Mutex<State>,
}

/// What a location is made of, beside its handle and the heap that it is charged with.
pub(crate) struct Made {
    pub(crate) id: LocationId,
    pub(crate) application: Arc<Application>,
    pub(crate) terms: Terms,
    pub(crate) log: Log,
}

/// What a location is reserved as.
#[derive(Clone, Debug)]
pub(crate) struct Terms {
    pub(crate) copy: Copy,
    /// There at a primary, and nowhere else.
    pub(crate) replica: Option<Replica>,
    /// Who hands it over, and who had it before; there at such a copy, and at one that was restored.
    pub(crate) origins: Origins,
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
    /// Rising, without gaps, from where the log's memory begins, or before, to its length.
    pieces: VecDeque<Piece>,
    tail: Option<Tail>,
    /// Slots taken for one append and not written yet; empty between two.
    spare: VecDeque<Slot>,
    /// Bytes of all slots held here.
    slot_bytes: u64,
    heap: Option<Charge>,
    pub(crate) disk: OnDisk,
    /// How its hand-over stands, where this worker leaves.
    pub(crate) leaving: Leaving,
    /// What it has to survive once it is sealed.
    pub(crate) durability: Durability,
    spill: Arc<Spill>,
    /// What the spill was told of this location: bytes in memory only, and bytes of memory that are on disk too.
    told: (u64, u64),
    instance: Instance,
    /// Bytes that its application was told to hold by it.
    held: u64,
}

/// How a location stands with the disks.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct OnDisk {
    /// The disk that takes its bytes, once there was any.
    pub(crate) index: Option<u16>,
    /// It waits for its disk's writer.
    pub(crate) is_queued: bool,
    /// A writer is at it.
    pub(crate) is_flying: bool,
    /// Disks, by bits, whose records name it.
    pub(crate) named_on: u64,
    /// What its record has reached: for a frozen location the freeze, for a sealed one the seal.
    pub(crate) recorded: Recorded,
}

/// What was written down of a location.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Recorded {
    #[default]
    Nothing,
    Frozen,
    Sealed,
    /// And synced.
    Synced,
}

/// Bytes of one slot.
struct Piece {
    start: u64,
    view: View,
    /// What the slot takes of the arena.
    slot_bytes: u64,
}

impl Location {
    /// As `made` says; `heap` is the charge for [`LOCATION_HEAP_BYTES`].
    pub(crate) fn new(made: Made, handle: Handle, heap: Charge, spill: Arc<Spill>) -> Self {
        let Made { id, application, terms, log } = made;
        let place = Place { instance: application.instance, shuffle: id.shuffle, partition: id.partition };
        let mut state = State {
            log,
            waiting: VecDeque::new(),
            pool: Terms::pool(terms.copy),
            pieces: VecDeque::new(),
            tail: None,
            spare: VecDeque::new(),
            slot_bytes: 0,
            heap: Some(heap),
            disk: OnDisk::default(),
            spill: Arc::clone(&spill),
            leaving: Leaving::default(),
            durability: terms.durability,
            told: (0, 0),
            instance: application.instance,
            held: 0,
        };
        state.tell();
        let Terms { replica, origins, .. } = terms;
        Self { id, place, handle, application, replica, origins, spill, state: Mutex::new(state) }
    }

    /// Its shuffle, as disks key it.
    pub(crate) fn shuffle(&self) -> ShuffleKey {
        (self.application.instance, self.id.shuffle)
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
        self.lock().log.copy() == terms.copy && self.replica == terms.replica && self.origins == terms.origins
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
        let held = self.slot_bytes;
        while missing > 0 {
            let Some(slot) = arena.take(self.pool, next_slot_bytes(self.slot_bytes, missing), 1) else { break };
            self.slot_bytes += slot.length() as u64;
            missing = missing.saturating_sub(slot.length() as u64);
            self.spare.push_back(slot);
        }
        let fits = missing == 0 && self.charge_heap(self.spare.len());
        if !fits {
            self.slot_bytes = held;
            self.spare.clear();
        }
        fits
    }

    /// Heap with one more entry in the batch list, and so many slots more.
    fn heap_bytes(&self, more_slots: usize) -> u64 {
        let entries = (self.log.batches_in_memory() as u64 + 1).next_power_of_two().max(4);
        let extents = self.log.extents().len().next_power_of_two() as u64;
        let slots = (self.pieces.len() + more_slots) as u64;
        let log = entries * BatchEntry::HEAP_BYTES + extents * size_of::<Extent>() as u64;
        LOCATION_HEAP_BYTES + log + slots * SLOT_HEAP_BYTES + self.waiting_heap_bytes()
    }

    fn charge_heap(&mut self, more_slots: usize) -> bool {
        let bytes = self.heap_bytes(more_slots);
        self.heap.as_mut().is_some_and(|heap| heap.raise(bytes))
    }

    fn copy(&mut self, mut offset: u64, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let mut slot_bytes = 0;
            if self.tail.as_ref().is_none_or(|tail| tail.room() == 0) {
                let slot = self.spare.pop_front().expect("room was made for all of the bytes");
                slot_bytes = slot.length() as u64;
                self.tail = Some(slot.into_tail());
            }
            let tail = self.tail.as_mut().expect("there is one now");
            let view = tail.append(bytes);
            bytes = &bytes[view.length()..];
            let start = offset;
            offset += view.length() as u64;
            let apart = match self.pieces.back_mut() {
                Some(last) => last.view.join(view),
                None => Some(view),
            };
            self.pieces.extend(apart.map(|view| Piece { start, view, slot_bytes }));
        }
    }

    fn attach(&mut self, mut offset: u64, slots: Vec<Slot>, length: usize) {
        let mut left = length;
        for slot in slots {
            let slot_bytes = slot.length() as u64;
            self.slot_bytes += slot_bytes;
            let filled = left.min(slot.length());
            self.pieces.push_back(Piece { start: offset, view: slot.into_view(filled), slot_bytes });
            offset += filled as u64;
            left -= filled;
        }
    }

    /// The bytes of a range that memory holds, as they lie in the arena.
    pub(crate) fn views(&self, range: Range<u64>, into: &mut Vec<View>) {
        let first = self.pieces.partition_point(|piece| piece.end() <= range.start);
        for piece in self.pieces.range(first..).take_while(|piece| piece.start < range.end) {
            let from = range.start.saturating_sub(piece.start) as usize;
            let to = (range.end.min(piece.end()) - piece.start) as usize;
            into.push(piece.view.part(from..to));
        }
    }

    /// Gives back what will not be written any more, and what lies beyond the log's length. Called when acks have ended:
    /// batches that wait for the replica are answered hard split.
    pub(crate) fn trim(&mut self) {
        self.waiting = VecDeque::new();
        let cut = self.tail.take().map_or(0, Tail::finish);
        if let Some(last) = self.pieces.back_mut() {
            last.slot_bytes = last.slot_bytes.saturating_sub(cut);
        }
        self.gave_back(cut);
        self.spare = VecDeque::new();
        let length = self.log.length();
        while self.pieces.back().is_some_and(|last| last.start >= length) {
            let last = self.pieces.pop_back();
            self.gave_back(last.map_or(0, |last| last.slot_bytes));
        }
        if let Some(last) = self.pieces.back_mut() {
            let kept = (length - last.start).min(last.view.length() as u64);
            last.view = last.view.part(0..kept as usize);
        }
        self.tell();
    }

    /// Forgets what is on disk too.
    pub(crate) fn forget_clean(&mut self) {
        let start = self.log.forget_clean();
        while self.pieces.front().is_some_and(|first| first.end() <= start) {
            let first = self.pieces.pop_front();
            self.gave_back(first.map_or(0, |first| first.slot_bytes));
        }
        if self.pieces.is_empty() {
            self.tail = None;
        }
        let heap_bytes = self.heap_bytes(0);
        if let Some(heap) = &mut self.heap {
            heap.set(heap_bytes);
        }
        self.tell();
    }

    /// Gives everything back; readers finish on what they hold. Returns the bytes of memory held until now.
    pub(crate) fn clear(&mut self) -> u64 {
        let slot_bytes = self.slot_bytes;
        self.log.drop_all();
        self.trim();
        let heap = self.heap.take().map_or(0, |heap| heap.bytes());
        self.tell();
        heap + slot_bytes
    }

    /// Slots that two kinds of appends share are counted with the first of their pieces, so that this may be a little off.
    fn gave_back(&mut self, bytes: u64) {
        self.slot_bytes = self.slot_bytes.saturating_sub(bytes);
    }

    /// Whether its commit will ask for what is not on disk.
    pub(super) fn owes(&self) -> bool {
        self.durability > Durability::Memory
    }

    /// Bytes of memory that are on disk too.
    pub(crate) fn clean(&self) -> u64 {
        self.log.written().saturating_sub(self.log.memory_start())
    }

    /// Tells the spill how this location stands, and what it holds for its application.
    pub(crate) fn tell(&mut self) {
        let owed = if self.owes() { self.log.unwritten() } else { 0 };
        let now = (owed, self.clean());
        self.spill.moved(self.told, now);
        self.told = now;
        let held = self.slot_bytes + self.heap.as_ref().map_or(0, Charge::bytes);
        self.spill.holdings().moved(self.instance, self.held, held);
        self.held = held;
    }

    /// Whether its disk's writer should be told that there is a whole extent to write; once until it was there.
    fn becomes_ready(&mut self) -> bool {
        let is_ready = self.owes() && !self.disk.is_queued && self.log.unwritten() >= EXTENT_BYTES;
        self.disk.is_queued |= is_ready;
        is_ready
    }
}

impl Drop for State {
    fn drop(&mut self) {
        self.spill.moved(self.told, (0, 0));
        self.spill.holdings().moved(self.instance, self.held, 0);
    }
}

impl Piece {
    fn end(&self) -> u64 {
        self.start + self.view.length() as u64
    }
}

#[cfg(test)]
mod tests;
