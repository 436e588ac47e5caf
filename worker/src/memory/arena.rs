//! The arena: one mapping that is the worker's whole budget, and the handles by which parts of it are held.
//!
//! Owns the mapping, every access to its bytes, and giving slots back when their last holder is gone: there are no paired
//! calls to forget. Does not own the accounting (`mallorn_worker_core::memory`), which says what is whose.
//!
//! This is the only module with unsafe code. All of it rests on three facts: the ledger never gives the same byte to two
//! holders; a [`Slot`] is the only holder of its bytes, so Rust's own borrowing rules guard it; and of a slot that is
//! shared, a [`Tail`] writes only above the length it has published, while a [`View`] reads only below it, and what lies
//! above is given back early only together with the tail.

#![expect(unsafe_code, reason = "bytes of one mapping are lent to many holders; each use says why it is sound")]

use std::io;
use std::ops::Range;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use mallorn_runtime::clock;
use mallorn_runtime::connection::{BufferSource, Inbound};
use mallorn_worker_core::memory::{BudgetError, Ledger, Pool, SLOT_BYTES_MAX, Slot as Place, Usage};
use memmap2::{MmapOptions, MmapRaw};
use parking_lot::Mutex;
use tokio::sync::Notify;

/// Bytes that are read from a socket at a time.
pub(crate) const RECEIVE_BYTES: u64 = 256 * 1024;

/// How often a wait for memory looks without being woken.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// With room for fewer of the largest batches memory is short: what others need to begin must be there still.
const SHORT_BODIES: u64 = 8;
/// In a small arena that is too much to keep free: then it is this part of what locations may hold.
const SHORT_PART: u64 = 8;
/// But never less than one for whoever takes the last of what is not short, and one for a reservation.
const SHORT_BODIES_MIN: u64 = 2;

/// The mapping begins at a multiple of this, so that huge pages fit it from its first byte.
const ALIGNMENT: usize = 2 * 1024 * 1024;

/// Why there is no memory for shuffle data.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The budget is too small for what has to fit in it.
    #[error(transparent)]
    Budget(#[from] BudgetError),
    /// The system does not give that much.
    #[error("map {bytes} bytes of memory: {source}; set `worker.memory` lower")]
    Map {
        /// The budget.
        bytes: u64,
        /// The system's answer.
        source: io::Error,
    },
}

/// The worker's memory for shuffle data.
pub(crate) struct Arena {
    map: MmapRaw,
    /// Bytes of the mapping before the arena, for its alignment.
    skipped: usize,
    ledger: Mutex<Ledger>,
    /// Told when something was given back while somebody waits: those who borrow what they receive into, one of them, and
    /// one of the others. What helps one of them may be of no use to the other, who would keep it from him.
    given_back: Notify,
    given_back_else: Notify,
    waiting: AtomicUsize,
    /// What locations hold, as it was after the last change: to be looked at without the lock.
    held_bytes: AtomicU64,
    /// What they may hold at most.
    limit_bytes: u64,
    /// The same, of those that other workers forward to.
    held_by_replicas: AtomicU64,
    limit_of_replicas: u64,
    /// The largest batch that a location is given at once.
    body_bytes_max: u32,
}

impl Arena {
    /// Maps the whole budget. Memory comes behind it only as it is used, and is kept for reuse from then on.
    pub(crate) fn new(budget_bytes: u64, body_bytes_max: u32) -> Result<Arc<Self>, MemoryError> {
        let ledger = Ledger::new(budget_bytes, body_bytes_max)?;
        let bytes = ledger.budget_bytes();
        let mapped = usize::try_from(bytes)
            .ok()
            .and_then(|length| length.checked_add(ALIGNMENT))
            .ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory))
            .and_then(|length| MmapOptions::new().len(length).no_reserve_swap().map_anon());
        let map = mapped.map_err(|source| MemoryError::Map { bytes, source })?;
        #[cfg(target_os = "linux")]
        if let Err(error) = map.advise(memmap2::Advice::HugePage) {
            tracing::info!(%error, "no huge pages for the arena: pushes cost more of the processor");
        }
        let map = MmapRaw::from(map);
        let skipped = map.as_mut_ptr().align_offset(ALIGNMENT);
        let (given_back, given_back_else, waiting) = (Notify::new(), Notify::new(), AtomicUsize::new(0));
        let (limit_bytes, limit_of_replicas) = (ledger.limit_bytes(Pool::Push), ledger.limit_bytes(Pool::Replicate));
        Ok(Arc::new(Self {
            map,
            skipped,
            ledger: Mutex::new(ledger),
            given_back,
            given_back_else,
            waiting,
            held_bytes: AtomicU64::new(0),
            limit_bytes,
            held_by_replicas: AtomicU64::new(0),
            limit_of_replicas,
            body_bytes_max,
        }))
    }

    /// Takes a slot; see [`Ledger::take`].
    pub(crate) fn take(self: &Arc<Self>, pool: Pool, wanted_bytes: u64, least_bytes: u64) -> Option<Slot> {
        let mut ledger = self.ledger.lock();
        let place = ledger.take(pool, wanted_bytes, least_bytes)?;
        self.note(&ledger);
        drop(ledger);
        Some(self.slot(pool, place))
    }

    /// Takes slots that together hold `bytes`, larger ones first, or nothing. All at once: whoever waits for memory must not
    /// be woken by what it could not keep itself.
    pub(crate) fn take_all(self: &Arc<Self>, pool: Pool, bytes: u64) -> Option<Vec<Slot>> {
        let mut places = Vec::with_capacity(bytes.div_ceil(SLOT_BYTES_MAX) as usize + 1);
        let mut missing = bytes;
        let mut ledger = self.ledger.lock();
        while missing > 0 {
            let wanted = mallorn_worker_core::memory::next_slot_bytes(0, missing);
            let Some(place) = ledger.take(pool, wanted, 1) else {
                places.into_iter().for_each(|place| ledger.give(pool, place));
                return None;
            };
            missing = missing.saturating_sub(place.bytes());
            places.push(place);
        }
        self.note(&ledger);
        drop(ledger);
        Some(places.into_iter().map(|place| self.slot(pool, place)).collect())
    }

    fn slot(self: &Arc<Self>, pool: Pool, place: Place) -> Slot {
        let kept_bytes = AtomicU64::new(place.bytes());
        Slot { held: Held { arena: Arc::clone(self), place, pool, kept_bytes } }
    }

    /// Takes slots as [`Arena::take_all`] does, once there is memory for them.
    pub(crate) async fn wait_all(self: &Arc<Self>, pool: Pool, bytes: u64) -> Vec<Slot> {
        let _waiting = Waiting::begin(&self.waiting);
        loop {
            let mut given_back = pin!(self.given_back_else.notified());
            given_back.as_mut().enable();
            if let Some(slots) = self.take_all(pool, bytes) {
                return slots;
            }
            // What was given back may have woken somebody who waits for another pool.
            let _ = clock::timeout(LOOK_EVERY, given_back).await;
        }
    }

    /// Counts heap against a pool; `None` when it has no room.
    pub(crate) fn charge(self: &Arc<Self>, pool: Pool, bytes: u64) -> Option<Charge> {
        let mut ledger = self.ledger.lock();
        let is_charged = ledger.charge(pool, bytes);
        self.note(&ledger);
        drop(ledger);
        is_charged.then(|| Charge { arena: Arc::clone(self), pool, bytes })
    }

    fn note(&self, ledger: &Ledger) {
        self.held_bytes.store(ledger.held_by_locations(), Ordering::Relaxed);
        self.held_by_replicas.store(ledger.held(Pool::Replicate), Ordering::Relaxed);
    }

    /// What locations hold, and what they may hold at most, in bytes.
    pub(crate) fn held_by_locations(&self) -> (u64, u64) {
        (self.held_bytes.load(Ordering::Relaxed), self.limit_bytes)
    }

    /// Whether locations have room for a few of the largest batches only.
    pub(crate) fn is_short(&self) -> bool {
        let (held, limit) = self.held_by_locations();
        let bodies = |count| u64::from(self.body_bytes_max) * count;
        let short = bodies(SHORT_BODIES).min(limit / SHORT_PART).max(bodies(SHORT_BODIES_MIN));
        limit.saturating_sub(held) < short
    }

    /// What locations that other workers forward to hold, and what they may hold at most, in bytes.
    pub(crate) fn held_by_replicas(&self) -> (u64, u64) {
        (self.held_by_replicas.load(Ordering::Relaxed), self.limit_of_replicas)
    }

    /// The most that a pool may hold.
    pub(crate) fn limit_bytes(&self, pool: Pool) -> u64 {
        self.ledger.lock().limit_bytes(pool)
    }

    /// How things stand.
    pub(crate) fn usage(&self) -> Usage {
        self.ledger.lock().usage()
    }

    fn give(&self, give: impl FnOnce(&mut Ledger)) {
        {
            let mut ledger = self.ledger.lock();
            give(&mut ledger);
            self.note(&ledger);
        }
        if self.waiting.load(Ordering::SeqCst) > 0 {
            self.given_back.notify_one();
            self.given_back_else.notify_one();
        }
    }

    fn at(&self, offset: u64) -> *mut u8 {
        // SAFETY: the mapping is longer than the arena by `ALIGNMENT`, of which less is skipped, and every offset comes
        // from the ledger, which stays below the arena's length: the result lies in the mapping.
        unsafe { self.map.as_mut_ptr().add(self.skipped + offset as usize) }
    }
}

/// Lends connections what they read into, from the receive pool.
#[derive(Clone)]
pub(crate) struct ReceiveBuffers(pub(crate) Arc<Arena>);

impl ReceiveBuffers {
    fn try_borrow(&self) -> Option<Slot> {
        self.0.take(Pool::Receive, RECEIVE_BYTES, Inbound::<Self>::BUFFER_BYTES_MIN as u64)
    }
}

impl BufferSource for ReceiveBuffers {
    type Buffer = Slot;

    async fn borrow(&self) -> Slot {
        loop {
            if let Some(slot) = self.try_borrow() {
                return slot;
            }
            let _waiting = Waiting::begin(&self.0.waiting);
            let mut given_back = pin!(self.0.given_back.notified());
            given_back.as_mut().enable();
            // Something may have been given back before this waited.
            if let Some(slot) = self.try_borrow() {
                return slot;
            }
            // Somebody who waits for another pool may have been woken in its place.
            let _ = clock::timeout(LOOK_EVERY, given_back).await;
        }
    }
}

/// Somebody waits, for as long as this lives.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn begin(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Heap counted against a pool, until it is dropped.
pub(crate) struct Charge {
    arena: Arc<Arena>,
    pool: Pool,
    bytes: u64,
}

impl Charge {
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Raises the charge to at least `bytes`; `false` (nothing changes) when the pool has no room.
    pub(crate) fn raise(&mut self, bytes: u64) -> bool {
        let more = bytes.saturating_sub(self.bytes);
        let fits = more == 0 || self.arena.ledger.lock().charge(self.pool, more);
        if fits {
            self.bytes += more;
        }
        fits
    }
}

impl Charge {
    /// Sets what is charged, also beyond what the pool has room for: for what is there already, and comes with giving back
    /// far more.
    pub(crate) fn set(&mut self, bytes: u64) {
        let before = std::mem::replace(&mut self.bytes, bytes);
        self.arena.give(|ledger| {
            ledger.refund(self.pool, before);
            ledger.charge_anyway(self.pool, bytes);
        });
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.arena.give(|ledger| ledger.refund(self.pool, self.bytes));
    }
}

/// A place in the arena, given back when dropped. By itself it gives no access to its bytes.
struct Held {
    arena: Arc<Arena>,
    place: Place,
    pool: Pool,
    /// What of the place is still held, from its beginning; less than all of it once a tail was cut.
    kept_bytes: AtomicU64,
}

impl Held {
    fn start(&self) -> *mut u8 {
        self.arena.at(self.place.offset())
    }

    fn length(&self) -> usize {
        self.place.bytes() as usize
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let kept = self.place.first(*self.kept_bytes.get_mut());
        self.arena.give(|ledger| ledger.give(self.pool, kept));
    }
}

/// A slot with one holder, who may do with its bytes as it likes. What it holds at first is what its last holder left.
pub(crate) struct Slot {
    held: Held,
}

impl Slot {
    /// Bytes of it.
    pub(crate) fn length(&self) -> usize {
        self.held.length()
    }

    /// Shares its first `length` bytes, for good.
    pub(crate) fn into_view(self, length: usize) -> View {
        assert!(length <= self.length(), "a view lies in its slot");
        View { held: Arc::new(self.held), range: 0..length as u32 }
    }

    /// Shares all of it, for good.
    pub(crate) fn into_whole_view(self) -> View {
        let length = self.length();
        self.into_view(length)
    }

    /// Makes it the place where a location appends.
    pub(crate) fn into_tail(self) -> Tail {
        Tail { held: Arc::new(self.held), published: 0 }
    }
}

impl AsRef<[u8]> for Slot {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: the slot's bytes lie in the mapping, which lives as long as `held`; they are initialised, because an
        // anonymous mapping is zeroed; nobody else holds them (the ledger), and `&self` keeps this holder from writing.
        unsafe { std::slice::from_raw_parts(self.held.start(), self.held.length()) }
    }
}

impl AsMut<[u8]> for Slot {
    fn as_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `as_ref`; `&mut self` makes this the only access.
        unsafe { std::slice::from_raw_parts_mut(self.held.start(), self.held.length()) }
    }
}

/// The writing half of a shared slot. It cannot be cloned: there is one writer.
pub(crate) struct Tail {
    held: Arc<Held>,
    /// Bytes written; views lie below, and nothing below is ever written again.
    published: u32,
}

impl Tail {
    /// Bytes that can still be written.
    pub(crate) fn room(&self) -> usize {
        self.held.length() - self.published as usize
    }

    /// Writes as much of `bytes` as there is room for, and returns it as it lies in the slot.
    pub(crate) fn append(&mut self, bytes: &[u8]) -> View {
        let length = bytes.len().min(self.room());
        let start = self.published;
        // SAFETY: `start + length` is within the slot, by `room`. Nobody reads these bytes: views are made here only, of
        // what is below `published`. Nobody else writes them: the slot has this one tail, borrowed mutably. `bytes` is
        // elsewhere, because no reference to unpublished bytes exists. Whoever gets a view gets it from this thread by
        // something that orders memory (a lock, an `Arc`, a channel), so it sees the bytes.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.held.start().add(start as usize), length) };
        self.published += length as u32;
        View { held: Arc::clone(&self.held), range: start..self.published }
    }

    /// Ends the writing, and gives back what of the slot was not written, as far as smaller slots go; returns how much
    /// that is. All views lie in what is kept.
    pub(crate) fn finish(self) -> u64 {
        let Held { arena, place, pool, kept_bytes } = &*self.held;
        let mut kept = *place;
        arena.give(|ledger| kept = ledger.cut(*pool, *place, u64::from(self.published)));
        // This tail is the only one, and it is gone now, so nobody else stores; whoever drops the place comes after.
        kept_bytes.store(kept.bytes(), Ordering::Release);
        place.bytes() - kept.bytes()
    }
}

/// Bytes of a shared slot that never change again. Clones share them; the slot is given back with the last of its views
/// and its tail.
#[derive(Clone)]
pub(crate) struct View {
    held: Arc<Held>,
    range: Range<u32>,
}

impl View {
    /// Bytes of it.
    pub(crate) fn length(&self) -> usize {
        self.range.len()
    }

    /// A part of it.
    pub(crate) fn part(&self, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= self.length(), "a part lies in its view");
        let start = self.range.start;
        Self { held: Arc::clone(&self.held), range: start + range.start as u32..start + range.end as u32 }
    }

    /// Adds a view of the bytes right after this one in the same slot; gives any other back.
    pub(crate) fn join(&mut self, next: Self) -> Option<Self> {
        if Arc::ptr_eq(&self.held, &next.held) && self.range.end == next.range.start {
            self.range.end = next.range.end;
            return None;
        }
        Some(next)
    }
}

impl AsRef<[u8]> for View {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: the range lies in the slot and was published (or filled by its only holder) before the view was made;
        // published bytes are never written again while a view or tail holds the slot, and they are initialised.
        unsafe {
            let start = self.held.start().add(self.range.start as usize);
            std::slice::from_raw_parts(start, self.range.len())
        }
    }
}

#[cfg(test)]
mod tests;
