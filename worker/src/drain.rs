//! Draining: a worker that is to leave freezes what is open, and sees to it that nothing is lost with it.
//!
//! Owns when what is held is written, when it is handed over, and when nothing is left of it. Told by a signal the process
//! ends with it, within its grace; told by an operator it stays up. Does not own writing (`spill`) nor moving (`handover`).

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use mallorn_runtime::backoff::Backoff;
use mallorn_runtime::clock;
use mallorn_runtime::random::Random;
use mallorn_runtime::task::Shutdown;
use mallorn_worker_core::push::Life;
use mallorn_worker_core::spill::disk::Health;
use tokio::sync::watch;

use crate::handover::HandOver;
use crate::memory::location::Location;
use crate::memory::store::Store;

/// The first and the longest wait before what is left is tried again.
const AGAIN_AFTER: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// How long reads in progress may go on before a worker ends whose disk returns.
const READS_WITHIN: Duration = Duration::from_secs(5);
/// Reads that fetch nothing for this long are not in progress.
const READ_LOOK: Duration = Duration::from_millis(200);
/// How much of what is left is named in the log; the rest is counted.
const NAMED_MAX: usize = 20;

/// What a worker is told to do with what it holds; a later one counts more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Order {
    /// Nothing.
    Serve,
    /// Write it down.
    Keep,
    /// Move it to other workers.
    HandOver,
}

/// How draining stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    pub(crate) locations_left: u64,
    pub(crate) bytes_left: u64,
    pub(crate) handed_over_bytes: u64,
    /// Nothing is left.
    pub(crate) is_done: bool,
    /// What is left is not safe here, however long it is waited for.
    pub(crate) needs_hand_over: bool,
}

/// The draining of one worker.
pub(crate) struct Drain {
    store: Arc<Store>,
    hand_over: Arc<HandOver>,
    disk_returns: bool,
    random: Random,
    order: watch::Sender<Order>,
    is_done: watch::Sender<bool>,
}

impl Drain {
    pub(crate) fn new(store: Arc<Store>, hand_over: Arc<HandOver>, disk_returns: bool, random: Random) -> Arc<Self> {
        let (order, is_done) = (watch::Sender::new(Order::Serve), watch::Sender::new(false));
        Arc::new(Self { store, hand_over, disk_returns, random, order, is_done })
    }

    /// Freezes what is open, and goes on with [`Drain::run`]. Repeating it changes nothing.
    pub(crate) fn begin(&self, hand_over: bool) {
        let order = if hand_over { Order::HandOver } else { Order::Keep };
        self.store.drain();
        let begins = self.order.send_if_modified(|present| {
            let rises = order > *present;
            *present = order.max(*present);
            rises
        });
        if begins {
            self.is_done.send_replace(false);
            let (locations_left, bytes_left) = self.left();
            tracing::info!(event = "drain", hand_over, locations_left, bytes_left, "drain the worker");
        }
    }

    /// How it stands now.
    pub(crate) fn progress(&self) -> Progress {
        // Asked before the rest, so that what is done is in the numbers.
        let is_over = *self.is_done.borrow();
        let (locations_left, bytes_left) = self.left();
        let handed_over_bytes = self.store.metrics.handover.bytes.get();
        let is_done = is_over && locations_left == 0;
        let needs_hand_over = *self.order.borrow() == Order::Keep && locations_left > 0 && !self.can_keep();
        Progress { locations_left, bytes_left, handed_over_bytes, is_done, needs_hand_over }
    }

    /// Whether what is written here is there again when the worker is; a disk that is full or slow may take it later.
    fn can_keep(&self) -> bool {
        let disks = self.store.spill.disks();
        self.disk_returns && disks.iter().any(|disk| disk.health != Health::Failed)
    }

    /// Locations and bytes that would be lost with this worker.
    fn left(&self) -> (u64, u64) {
        let order = *self.order.borrow();
        if order == Order::Serve {
            return (0, 0);
        }
        let all = self.store.all();
        let left = all.iter().filter(|location| self.is_left(location, order));
        left.fold((0, 0), |(count, bytes), location| (count + 1, bytes + location.lock().log.length()))
    }

    /// Whether a location would be lost with this worker.
    fn is_left(&self, location: &Location, order: Order) -> bool {
        let is_here = location.life() != Life::Gone;
        is_here && (!self.disk_returns || order == Order::HandOver || !self.store.spill.is_kept(location))
    }

    /// Writes and moves what it is told to, until the shutdown is triggered.
    pub(crate) async fn run(self: Arc<Self>, shutdown: Shutdown) {
        let mut orders = self.order.subscribe();
        let (first, longest) = AGAIN_AFTER;
        let mut backoff = Backoff::new(first, longest);
        loop {
            let order = *orders.borrow_and_update();
            let round = async {
                match order {
                    Order::Serve => pending().await,
                    Order::Keep => drop(self.store.keep_all().await),
                    Order::HandOver if self.hand_over.round().await > 0 => backoff.reset(),
                    Order::HandOver => {}
                }
                let (left, _) = self.left();
                self.store.metrics.handover.left.set(left as i64);
                self.is_done.send_replace(left == 0);
                backoff.wait(&self.random).await;
            };
            // The highest order never changes: what is on its way to other workers is not dropped in the middle.
            tokio::select! {
                biased;
                () = shutdown.wait() => return,
                _ = orders.changed() => {}
                () = round => {}
            }
        }
    }

    /// Drains a worker that ends within its grace; returns when it may.
    pub(crate) async fn end(&self, grace: Duration) {
        self.begin(false);
        let half = grace / 2;
        if !self.disk_returns {
            if clock::timeout(half, self.done()).await.is_err() {
                self.begin(true);
                // What is left then is named below.
                let _ = clock::timeout(half, self.done()).await;
            }
        } else if self.store.spill.folders().is_empty() {
            self.reads_over().await;
        } else if *self.order.borrow() == Order::HandOver {
            let _ = clock::timeout(half, self.done()).await;
            let _ = clock::timeout(half, self.store.keep_all()).await;
        } else {
            // What was done may not be any more: commits seal what was frozen.
            self.is_done.send_replace(false);
            self.order.send_modify(|_| {});
            let both = async { tokio::join!(self.done(), self.reads_over()) };
            let _ = clock::timeout(grace, both).await;
        }
        self.name_left();
    }

    async fn done(&self) {
        // The sender lives as long as this.
        let _ = self.is_done.subscribe().wait_for(|is_done| *is_done).await;
    }

    /// Waits for reads in progress; those who read on later go to the other copy, or wait for this worker's return.
    async fn reads_over(&self) {
        let metrics = &self.store.metrics;
        let over = async {
            let mut before = u64::MAX;
            while metrics.streams.get() > 0 && metrics.fetch_requests.get() != before {
                before = metrics.fetch_requests.get();
                clock::sleep(READ_LOOK).await;
            }
        };
        let _ = clock::timeout(READS_WITHIN, over).await;
    }

    fn name_left(&self) {
        let order = *self.order.borrow();
        let all = self.store.all();
        let left: Vec<_> = all.iter().filter(|location| self.is_left(location, order)).collect();
        for location in left.iter().take(NAMED_MAX) {
            let (application, location) = (&location.application, location.id);
            tracing::warn!(event = "drain_left", %application, %location, "ends with this worker unless its disk returns");
        }
        let (left, handed_over_bytes) = (left.len(), self.store.metrics.handover.bytes.get());
        tracing::info!(event = "drained", left, handed_over_bytes, "end");
    }
}

#[cfg(test)]
mod tests {
    use mallorn_proto::id::WorkerId;
    use mallorn_runtime::clock::Clock;
    use mallorn_runtime::task;

    use super::*;
    use crate::identity::Identity;
    use crate::memory::store::tests::{BODY, application, id, reserve_one, store};

    const GRACE: Duration = Duration::from_secs(60);
    const SECOND: Duration = Duration::from_secs(1);

    struct Draining {
        drain: Arc<Drain>,
        store: Arc<Store>,
        clock: Clock,
    }

    /// Of a worker without disks, whose master is not there.
    fn draining(disk_returns: bool) -> Draining {
        let store = Arc::new(store());
        let identity = Arc::new(Identity { cluster: String::new(), worker: WorkerId(1), body_limit_bytes: BODY });
        let random = Random::seeded(1);
        let hand_over = HandOver::new("127.0.0.1:9", identity, Arc::clone(&store), random.clone()).unwrap();
        let drain = Drain::new(Arc::clone(&store), hand_over, disk_returns, random);
        task::spawn(Arc::clone(&drain).run(Shutdown::new()));
        Draining { drain, store, clock: Clock::start() }
    }

    #[tokio::test(start_paused = true)]
    async fn a_worker_whose_disk_does_not_return_ends_once_nothing_is_left() {
        let Draining { drain, store, clock } = draining(false);
        reserve_one(&store, &application("a"), id(1, 1));
        let ending = task::spawn({
            let drain = Arc::clone(&drain);
            async move { drain.end(GRACE).await }
        });
        clock::sleep(10 * SECOND).await;
        assert_eq!(drain.progress(), Progress { locations_left: 1, needs_hand_over: true, ..Progress::default() });
        assert_eq!((store.is_draining(), *drain.order.borrow()), (true, Order::Keep));
        store.release(&application("a"), 0..10);
        ending.await.unwrap();
        assert!(clock.now() < 15 * SECOND);
        assert!(drain.progress().is_done);
    }

    #[tokio::test(start_paused = true)]
    async fn it_hands_over_from_half_of_its_grace_on_and_ends_with_all_of_it() {
        let Draining { drain, store, clock } = draining(false);
        reserve_one(&store, &application("a"), id(1, 1));
        let ending = task::spawn({
            let drain = Arc::clone(&drain);
            async move { drain.end(GRACE).await }
        });
        clock::sleep(GRACE / 2 - SECOND).await;
        assert_eq!(*drain.order.borrow(), Order::Keep);
        clock::sleep(2 * SECOND).await;
        assert_eq!(*drain.order.borrow(), Order::HandOver);
        ending.await.unwrap();
        assert!((GRACE..GRACE + SECOND).contains(&clock.now()), "{:?}", clock.now());
        assert_eq!(drain.progress().locations_left, 1);
        assert!(store.metrics.handover.failures.get() > 0, "it was tried, again and again");
    }

    #[tokio::test(start_paused = true)]
    async fn a_worker_that_has_no_disk_but_returns_ends_at_once() {
        let Draining { drain, store, clock } = draining(true);
        reserve_one(&store, &application("a"), id(1, 1));
        drain.end(GRACE).await;
        assert_eq!(clock.now(), Duration::ZERO);
        drain.begin(true);
        drain.begin(false);
        assert_eq!(*drain.order.borrow(), Order::HandOver, "what was ordered counts on");
    }
}
