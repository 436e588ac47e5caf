//! Two copies of a location: the primary forwards what it appends, the replica takes it at its own length.
//!
//! Owns the links to other workers, one per peer and incarnation, and what happens when one of them fails; and serving
//! the links of others. Does not own the order of batches, which is the primary's log (`memory::location::append`), nor
//! the answers to pushes (`push::answers`).

mod carry;
pub(crate) mod link;
pub(crate) mod serve;

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use mallorn_proto::id::{Incarnation, WorkerId};
use mallorn_proto::limits::WORKERS_MAX;
use mallorn_runtime::clock;
use mallorn_runtime::task::{Shutdown, Tasks};
use mallorn_runtime::telemetry::quiet::Line;
use mallorn_worker_core::replicate::waiting_bytes_max;
use parking_lot::Mutex;

use self::carry::Carrier;
use self::link::{Link, Peer, Shared};
use crate::identity::Identity;
use crate::memory::location::Location;
use crate::memory::store::Store;
use crate::metrics::{Cause, ReplicateMetrics};

/// The links of a worker. A link lives as long as a location whose replica is behind it.
pub(crate) struct Links {
    shared: Arc<Shared>,
    waiting_bytes_max: u64,
    /// By peer and address: who names a wrong address breaks no link but its own.
    by_peer: Mutex<BTreeMap<(WorkerId, Incarnation, String), Weak<Link>>>,
}

impl Links {
    /// None yet; at most a quarter of the push pool waits for replicas.
    pub(crate) fn new(push_pool_bytes: u64, metrics: ReplicateMetrics) -> Self {
        let waiting_bytes_max = waiting_bytes_max(push_pool_bytes);
        Self { shared: Shared::new(metrics), waiting_bytes_max, by_peer: Mutex::default() }
    }

    /// The link to a peer; `None` when there are as many as a cluster has workers.
    pub(crate) fn to(&self, peer: &Peer) -> Option<Arc<Link>> {
        let by_peer = &mut *self.by_peer.lock();
        let key = (peer.worker, peer.incarnation, peer.address.clone());
        if let Some(link) = by_peer.get(&key).and_then(Weak::upgrade) {
            return Some(link);
        }
        // A new link is rare: it takes those with it that nobody has any more.
        by_peer.retain(|_, link| link.strong_count() > 0);
        (by_peer.len() < WORKERS_MAX).then(|| {
            let link = Link::new(peer.clone(), Arc::clone(&self.shared));
            by_peer.insert(key, Arc::downgrade(&link));
            link
        })
    }

    /// Whether more waits for replicas than may.
    pub(crate) fn is_over(&self) -> bool {
        self.shared.metrics.waiting_bytes.get() > self.waiting_bytes_max as i64
    }

    fn all(&self) -> Vec<Arc<Link>> {
        self.by_peer.lock().values().filter_map(Weak::upgrade).collect()
    }

    /// The link that waits longest.
    fn slowest(&self) -> Option<Arc<Link>> {
        let waiting = self.all().into_iter().filter_map(|link| Some((link.waits_since()?, link)));
        waiting.min_by_key(|(since, _)| *since).map(|(_, link)| link)
    }
}

impl Store {
    /// Ends a location for its replica: what is not confirmed is answered hard split, as is all that comes. Returns
    /// whether it was open until now.
    pub(crate) fn end(&self, location: &Location, cause: Cause) -> bool {
        let ended = self.freeze_open(location);
        if ended {
            self.metrics.replicate.failed(cause);
        }
        ended
    }

    /// Ends every location that waits for a link; returns how many.
    pub(crate) fn give_up(&self, link: &Link, cause: Cause) -> usize {
        link.give_up().iter().filter(|location| self.end(location, cause)).count()
    }

    /// Where more waits for replicas than may, ends the locations of the slowest. Called under no lock.
    pub(crate) fn shed_waiting(&self) {
        while self.links.is_over() {
            let Some(link) = self.links.slowest() else { break };
            let ended = self.give_up(&link, Cause::Backlog);
            if let Some(Line { repeats }) = self.quiet.line(("replica_slow", link.peer.worker.0), clock::now()) {
                let peer = link.peer.worker;
                tracing::warn!(%peer, ended, repeats, "give up the slowest replica: too many bytes wait");
            }
        }
    }
}

/// Runs the tasks of links until the shutdown is triggered.
pub(crate) async fn run(store: Arc<Store>, identity: Arc<Identity>, shutdown: Shutdown) {
    let _end = End(Arc::clone(&store));
    let mut tasks = Tasks::new();
    let shared = Arc::clone(&store.links.shared);
    loop {
        for link in shared.take_fresh() {
            tasks.spawn(Carrier { link, store: Arc::clone(&store), identity: Arc::clone(&identity) }.run());
        }
        tasks.reap();
        if shutdown.or(shared.wake.notified()).await.is_none() {
            return;
        }
    }
}

/// Ends what waits when nobody carries it any more: locations and links would hold each other for ever.
struct End(Arc<Store>);

impl Drop for End {
    fn drop(&mut self) {
        for link in self.0.links.all() {
            self.0.give_up(&link, Cause::Lost);
        }
        drop(self.0.links.shared.take_fresh());
    }
}
