//! The link to one peer: what was forwarded to it and is not confirmed, in order.
//!
//! Owns the queue and its accounts. Everything here is done at once, under the link's own lock, which is taken inside of
//! locations' locks and never around them. Does not own the connection (`carry`).

use std::cmp::Ordering;
use std::collections::VecDeque;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use mallorn_proto::id::{Application, Handle, Incarnation, WorkerId};
use mallorn_proto::message::{Hello, ReplicatedPart, Role};
use mallorn_proto::version;
use mallorn_runtime::clock::Clock;
use mallorn_worker_core::replicate::{Late, gather, late_at};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::identity::Identity;
use crate::memory::arena::View;
use crate::memory::location::Location;
use crate::memory::location::append::WAITING_HEAP_BYTES;
use crate::metrics::ReplicateMetrics;

/// Another worker, in one incarnation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Peer {
    pub(crate) worker: WorkerId,
    pub(crate) incarnation: Incarnation,
    /// host:port of its data port.
    pub(crate) address: String,
}

impl Peer {
    /// What a connection to it begins with.
    pub(crate) fn hello(&self, identity: &Identity) -> Hello {
        Hello {
            oldest: version::OLDEST,
            newest: version::CURRENT,
            role: Role::Replicate,
            worker: self.worker,
            incarnation: self.incarnation,
            application: Application { name: String::new(), instance: Default::default() },
            cluster: identity.cluster.clone(),
            credential: Vec::new(),
        }
    }
}

/// The other copy of a primary.
#[derive(Clone, Debug)]
pub(crate) struct Replica {
    pub(crate) link: Arc<Link>,
    /// The location's handle there.
    pub(crate) handle: Handle,
}

impl PartialEq for Replica {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.link, &other.link) && self.handle == other.handle
    }
}

/// What the links of a worker share.
pub(super) struct Shared {
    pub(super) clock: Clock,
    pub(super) metrics: ReplicateMetrics,
    /// Links that have something to send and no task yet.
    fresh: Mutex<Vec<Arc<Link>>>,
    pub(super) wake: Notify,
}

impl Shared {
    pub(super) fn new(metrics: ReplicateMetrics) -> Arc<Self> {
        Arc::new(Self { clock: Clock::start(), metrics, fresh: Mutex::default(), wake: Notify::new() })
    }

    pub(super) fn take_fresh(&self) -> Vec<Arc<Link>> {
        std::mem::take(&mut *self.fresh.lock())
    }
}

/// A batch that is forwarded.
pub(crate) struct Forward {
    location: Arc<Location>,
    handle: Handle,
    range: Range<u64>,
    /// Its bytes, until they are sent.
    views: Vec<View>,
    since: Duration,
    /// Its location has ended, and what becomes of it is of no interest.
    over: bool,
}

impl Forward {
    /// The bytes of `range` of a location, which is `handle` at the peer.
    pub(crate) fn new(location: &Arc<Location>, handle: Handle, range: Range<u64>, views: Vec<View>) -> Self {
        Self { location: Arc::clone(location), handle, range, views, since: Duration::ZERO, over: false }
    }

    fn length(&self) -> u32 {
        (self.range.end - self.range.start) as u32
    }

    fn waiting_bytes(&self) -> i64 {
        i64::from(self.length()) + WAITING_HEAP_BYTES as i64
    }

    pub(super) fn location(&self) -> &Arc<Location> {
        &self.location
    }

    /// The replica has it: returns for how long it was waited for.
    pub(super) fn confirm(&self, now: Duration) -> Duration {
        self.location.confirm(self.range.end);
        now.saturating_sub(self.since)
    }
}

/// The link to one peer.
pub(crate) struct Link {
    pub(super) peer: Peer,
    pub(super) shared: Arc<Shared>,
    pub(super) wake: Notify,
    me: Weak<Self>,
    queue: Mutex<Queue>,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Link({})", self.peer.worker)
    }
}

#[derive(Default)]
struct Queue {
    /// Not confirmed, in the order in which they were appended; the first `sent` are on their way.
    forwards: VecDeque<Forward>,
    sent: usize,
    /// When something was confirmed last, or the link began to wait.
    progress: Duration,
    /// Times that everything was given up: answers to what was sent before count no more.
    rounds: u64,
    has_task: bool,
}

/// Batches that make one frame.
pub(super) struct Gathered {
    pub(super) parts: Vec<ReplicatedPart>,
    pub(super) body: Vec<Bytes>,
}

impl Link {
    pub(super) fn new(peer: Peer, shared: Arc<Shared>) -> Arc<Self> {
        let (wake, queue) = (Notify::new(), Mutex::default());
        Arc::new_cyclic(|me| Self { peer, shared, wake, me: me.clone(), queue })
    }

    /// The worker at its other end.
    pub(crate) fn worker(&self) -> WorkerId {
        self.peer.worker
    }

    /// Queues a batch. Called under its location's lock, so that batches are sent in their order.
    pub(crate) fn forward(&self, mut forward: Forward) {
        let mut queue = self.queue.lock();
        forward.since = self.shared.clock.now();
        if queue.forwards.is_empty() {
            queue.progress = forward.since;
        }
        self.shared.metrics.waiting_bytes.add(forward.waiting_bytes());
        queue.forwards.push_back(forward);
        if queue.has_task {
            drop(queue);
            self.wake.notify_one();
        } else if let Some(link) = self.me.upgrade() {
            queue.has_task = true;
            self.shared.fresh.lock().push(link);
            drop(queue);
            self.shared.wake.notify_one();
        }
    }

    /// The present round, as long as there is something to send or to wait for; without it the link's task ends.
    pub(super) fn begin_round(&self) -> Option<u64> {
        let mut queue = self.queue.lock();
        queue.has_task = !queue.forwards.is_empty();
        queue.has_task.then_some(queue.rounds)
    }

    pub(super) fn is_over(&self, round: u64) -> bool {
        self.queue.lock().rounds != round
    }

    /// Whether something was queued that is not on its way.
    pub(super) fn has_more(&self) -> bool {
        let queue = self.queue.lock();
        queue.forwards.len() > queue.sent
    }

    /// What the next frame holds, if there is something to send.
    pub(super) fn gather(&self, round: u64, body_bytes_max: u32) -> Option<Gathered> {
        let mut queue = self.queue.lock();
        if queue.rounds != round {
            return None;
        }
        let sent = queue.sent;
        let count = gather(queue.forwards.range(sent..).map(Forward::length), body_bytes_max);
        let mut gathered = Gathered { parts: Vec::with_capacity(count), body: Vec::with_capacity(count) };
        for forward in queue.forwards.range_mut(sent..sent + count) {
            let (handle, offset, length) = (forward.handle, forward.range.start, forward.length());
            gathered.parts.push(ReplicatedPart { handle, offset, length });
            gathered.body.extend(std::mem::take(&mut forward.views).into_iter().map(Bytes::from_owner));
        }
        queue.sent += count;
        (count > 0).then_some(gathered)
    }

    /// The first `count` batches on their way were answered; `None` when the round is over.
    pub(super) fn take_answered(&self, round: u64, count: usize) -> Option<Vec<Forward>> {
        let mut queue = self.queue.lock();
        if queue.rounds != round {
            return None;
        }
        queue.progress = self.shared.clock.now();
        queue.sent -= count;
        let answered: Vec<_> = queue.forwards.drain(..count).collect();
        self.count_out(&answered);
        Some(answered)
    }

    /// When the link waits too long, and for what; `None` while it waits for nothing.
    pub(super) fn late_at(&self) -> Option<(Duration, Late)> {
        let queue = self.queue.lock();
        let first = queue.forwards.front()?;
        let oldest = queue.forwards.iter().find(|forward| !forward.over);
        // Where all locations have ended, answers are still on their way.
        let oldest = oldest.map_or(first.since.max(queue.progress), |forward| forward.since);
        Some(late_at(queue.progress, oldest))
    }

    /// The location whose batch waits longest.
    pub(super) fn oldest(&self) -> Option<Arc<Location>> {
        let queue = self.queue.lock();
        queue.forwards.iter().find(|forward| !forward.over).map(|forward| Arc::clone(&forward.location))
    }

    /// Since when its longest waiting batch waits.
    pub(super) fn waits_since(&self) -> Option<Duration> {
        self.queue.lock().forwards.front().map(|forward| forward.since)
    }

    /// A location has ended: what of it is not on its way stays here.
    pub(super) fn forget(&self, location: &Arc<Location>) {
        let queue = &mut *self.queue.lock();
        let unsent = queue.forwards.split_off(queue.sent);
        let is_of = |forward: &Forward| Arc::ptr_eq(&forward.location, location);
        let (forgotten, kept): (Vec<_>, Vec<_>) = unsent.into_iter().partition(is_of);
        queue.forwards.iter_mut().filter(|forward| is_of(forward)).for_each(|forward| forward.over = true);
        queue.forwards.extend(kept);
        self.count_out(&forgotten);
    }

    /// Gives everything up that waits: returns the locations, whoever may be first.
    pub(super) fn give_up(&self) -> Vec<Arc<Location>> {
        let forwards = {
            let mut queue = self.queue.lock();
            queue.rounds += 1;
            queue.sent = 0;
            std::mem::take(&mut queue.forwards)
        };
        self.wake.notify_one();
        let forwards = Vec::from(forwards);
        self.count_out(&forwards);
        let mut locations: Vec<_> = forwards.into_iter().map(|forward| forward.location).collect();
        let order = |a: &Arc<Location>, b: &Arc<Location>| -> Ordering { a.handle.cmp(&b.handle) };
        locations.sort_by(order);
        locations.dedup_by(|a, b| Arc::ptr_eq(a, b));
        locations
    }

    fn count_out(&self, forwards: &[Forward]) {
        self.shared.metrics.waiting_bytes.sub(forwards.iter().map(Forward::waiting_bytes).sum());
    }
}
