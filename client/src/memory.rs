//! The client's byte budget as a place to wait at. Bytes are taken before they exist and given back by dropping a
//! [`Permit`].
//!
//! Who waits is served in the order of coming. Others may pass the first one for a moment, because attempts that go on
//! where they are make larger batches than attempts that take turns; but not for longer, or who needs much would be passed
//! for ever by many who need little.
//!
//! Read-ahead is bytes that nobody has asked for yet: it is dropped, and fetched again later, as soon as somebody waits.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::Duration;

use mallorn_client_core::memory::{Budget, Share};
use mallorn_runtime::clock::{self, Instant};
use parking_lot::Mutex;
use tokio::sync::Notify;

/// How long whoever is first may be passed.
const PASSED_FOR: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(crate) struct Memory {
    /// The most that one share can ever hold.
    largest: u64,
    state: Mutex<State>,
    read_ahead: Mutex<Vec<Weak<dyn Reclaim>>>,
}

#[derive(Debug)]
struct State {
    budget: Budget,
    push: Queue,
    read: Queue,
}

/// Who waits for a share, in the order of coming.
#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Arc<Waiter>>,
    /// Since when the first one is that.
    first_since: Option<Instant>,
}

#[derive(Debug)]
struct Waiter {
    bytes: u64,
    /// Told to the first of a queue whenever it may have become possible.
    turn: Notify,
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
        let largest = budget.largest();
        let state = State { budget, push: Queue::default(), read: Queue::default() };
        Arc::new(Self { largest, state: Mutex::new(state), read_ahead: Mutex::new(Vec::new()) })
    }

    /// Takes bytes if there is room now, and nobody has been first to wait for the same for long.
    pub(crate) fn try_take(self: &Arc<Self>, share: Share, bytes: u64) -> Option<Permit> {
        let taken = {
            let state = &mut *self.state.lock();
            state.queue(share).may_be_passed() && state.budget.take(share, bytes)
        };
        taken.then(|| self.permit(share, bytes))
    }

    /// Takes bytes for read-ahead: only what nobody waits for.
    pub(crate) fn try_take_ahead(self: &Arc<Self>, bytes: u64) -> Option<Permit> {
        let taken = {
            let state = &mut *self.state.lock();
            let nobody_waits = state.push.waiting.is_empty() && state.read.waiting.is_empty();
            nobody_waits && state.budget.take(Share::Read, bytes)
        };
        taken.then(|| self.permit(Share::Read, bytes))
    }

    /// Waits until there is room. The caller sees to it that somebody gives bytes back, and to the deadline.
    pub(crate) async fn take(self: &Arc<Self>, share: Share, bytes: u64) -> Permit {
        if let Some(permit) = self.try_take(share, bytes) {
            return permit;
        }
        let waiter = Arc::new(Waiter { bytes, turn: Notify::new() });
        self.state.lock().queue(share).enter(&waiter);
        let place = Place { memory: self, share, waiter };
        loop {
            self.reclaim();
            if place.takes_its_turn() {
                return self.permit(share, bytes);
            }
            place.waiter.turn.notified().await;
        }
    }

    /// The most that one share can ever hold.
    pub(crate) fn largest(&self) -> u64 {
        self.largest
    }

    /// Bytes that are waited for in a share.
    pub(crate) fn waited_for(&self, share: Share) -> u64 {
        self.state.lock().queue(share).waiting.iter().map(|waiter| waiter.bytes).sum()
    }

    pub(crate) fn held(&self, share: Share) -> u64 {
        self.state.lock().budget.held(share)
    }

    pub(crate) fn offer_reclaim(&self, read_ahead: Weak<dyn Reclaim>) {
        {
            let mut offered = self.read_ahead.lock();
            offered.retain(|one| one.strong_count() > 0);
            offered.push(read_ahead);
        }
        // Whoever waits already looks again.
        self.change(|_| {});
    }

    fn reclaim(&self) {
        // Taken out first: what gives bytes back must not find this lock held.
        let offered: Vec<_> = self.read_ahead.lock().drain(..).collect();
        offered.iter().filter_map(Weak::upgrade).for_each(|one| one.reclaim());
    }

    fn permit(self: &Arc<Self>, share: Share, bytes: u64) -> Permit {
        Permit { memory: Arc::clone(self), share, bytes }
    }

    /// Changes the state, then tells the first of each queue to look again.
    fn change(&self, change: impl FnOnce(&mut State)) {
        let firsts = {
            let state = &mut *self.state.lock();
            change(state);
            [state.push.waiting.front().cloned(), state.read.waiting.front().cloned()]
        };
        firsts.iter().flatten().for_each(|first| first.turn.notify_one());
    }
}

impl State {
    fn queue(&mut self, share: Share) -> &mut Queue {
        match share {
            Share::Push => &mut self.push,
            Share::Read => &mut self.read,
        }
    }
}

impl Queue {
    fn enter(&mut self, waiter: &Arc<Waiter>) {
        self.first_since.get_or_insert_with(clock::now);
        self.waiting.push_back(Arc::clone(waiter));
    }

    fn is_first(&self, waiter: &Arc<Waiter>) -> bool {
        self.waiting.front().is_some_and(|first| Arc::ptr_eq(first, waiter))
    }

    fn leave(&mut self, waiter: &Arc<Waiter>) {
        if self.is_first(waiter) {
            self.waiting.pop_front();
            self.first_since = (!self.waiting.is_empty()).then(clock::now);
        } else {
            self.waiting.retain(|one| !Arc::ptr_eq(one, waiter));
        }
    }

    fn may_be_passed(&self) -> bool {
        self.first_since.is_none_or(|since| clock::since(since) < PASSED_FOR)
    }
}

/// A place in a queue, left by dropping it.
struct Place<'a> {
    memory: &'a Memory,
    share: Share,
    waiter: Arc<Waiter>,
}

impl Place<'_> {
    /// Takes the bytes, if it is first and there is room.
    fn takes_its_turn(&self) -> bool {
        let state = &mut *self.memory.state.lock();
        state.queue(self.share).is_first(&self.waiter) && state.budget.take(self.share, self.waiter.bytes)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        // There may be room for the next one, too, and it was told to nobody but this one.
        self.memory.change(|state| state.queue(self.share).leave(&self.waiter));
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
        self.memory.permit(self.share, bytes)
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
            self.memory.change(|state| state.budget.give(self.share, self.bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::{Future, poll_fn};
    use std::pin::{Pin, pin};
    use std::task::Poll;

    use super::*;

    /// 400 bytes, of which each share has 100 for itself.
    fn memory() -> Arc<Memory> {
        Memory::new(Budget::new(400, 100).unwrap())
    }

    async fn once<F: Future>(mut future: Pin<&mut F>) -> Poll<F::Output> {
        poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await
    }

    #[tokio::test(start_paused = true)]
    async fn who_needs_much_is_not_passed_by_who_needs_little() {
        let memory = memory();
        let mut held: Vec<_> = (0..3).map(|_| memory.try_take(Share::Push, 100).unwrap()).collect();
        let mut much = pin!(memory.take(Share::Push, 200));
        assert!(once(much.as_mut()).await.is_pending());
        held.pop();
        held.push(memory.try_take(Share::Push, 100).expect("for a moment it may be passed"));
        clock::sleep(PASSED_FOR).await;
        let mut little = pin!(memory.take(Share::Push, 10));
        assert!(once(little.as_mut()).await.is_pending());
        held.pop();
        assert!(memory.try_take(Share::Push, 10).is_none(), "somebody waits for it");
        assert!(once(little.as_mut()).await.is_pending() && once(much.as_mut()).await.is_pending());
        held.pop();
        let Poll::Ready(_much) = once(much.as_mut()).await else { panic!("there is room") };
        assert!(once(little.as_mut()).await.is_pending());
        held.pop();
        assert!(once(little.as_mut()).await.is_ready());
    }

    #[tokio::test]
    async fn who_gives_up_lets_the_next_one_have_its_turn() {
        let memory = memory();
        let held = memory.try_take(Share::Read, 300).unwrap();
        let mut first = Box::pin(memory.take(Share::Read, 300));
        assert!(once(first.as_mut()).await.is_pending());
        let next = mallorn_runtime::task::spawn({
            let memory = Arc::clone(&memory);
            async move { memory.take(Share::Read, 100).await.bytes() }
        });
        tokio::task::yield_now().await;
        // Told to the first one, which is dropped before it looks.
        drop(held);
        drop(first);
        assert_eq!(next.await.unwrap(), 100);
        assert_eq!(memory.held(Share::Read), 0);
    }

    #[derive(Debug)]
    struct Ahead(Mutex<Option<Permit>>);

    impl Reclaim for Ahead {
        fn reclaim(&self) {
            let permit = self.0.lock().take();
            drop(permit);
        }
    }

    #[tokio::test]
    async fn read_ahead_gives_way_to_whoever_waits_whenever_it_arrives() {
        for share in [Share::Push, Share::Read] {
            let memory = memory();
            let ahead = Arc::new(Ahead(Mutex::new(memory.try_take_ahead(200))));
            let mut waiting = pin!(memory.take(share, 250));
            assert!(once(waiting.as_mut()).await.is_pending(), "it is still on its way");
            assert!(memory.try_take_ahead(1).is_none());
            let offered: Arc<dyn Reclaim> = ahead.clone();
            memory.offer_reclaim(Arc::downgrade(&offered));
            assert!(once(waiting.as_mut()).await.is_ready());
            assert!(ahead.0.lock().is_none());
        }
    }
}
