//! Data-plane connections of a client: a few per worker and role, opened when first needed, shared by all tasks.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use mallorn_proto::id::{Application, Incarnation, WorkerId};
use mallorn_proto::message::{Hello, Role};
use mallorn_proto::{v1, version};
use mallorn_runtime::connection::{Connection, Limits, OpenError};
use mallorn_runtime::hash::Map;
use parking_lot::Mutex;
use tokio::sync::OnceCell;

/// Requests in flight on one connection.
const WINDOW: usize = 256;
/// How long connecting and the hello may take, each.
const OPEN_WITHIN: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(crate) struct Connections {
    cluster: String,
    application: Application,
    per_worker: usize,
    limits: Limits,
    next: AtomicUsize,
    open: Mutex<Map<Key, Arc<OnceCell<Connection>>>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    worker: WorkerId,
    incarnation: Incarnation,
    role: Role,
    index: usize,
}

impl Connections {
    pub(crate) fn new(cluster: String, application: Application, per_worker: u32, call_within: Duration) -> Self {
        let limits = Limits { open_within: OPEN_WITHIN, call_within, window: WINDOW };
        let (next, open) = (AtomicUsize::new(0), Mutex::new(Map::default()));
        Self { cluster, application, per_worker: per_worker as usize, limits, next, open }
    }

    /// A connection to a worker's present incarnation. Tasks that ask at once share one dial.
    pub(crate) async fn to(&self, address: &v1::WorkerAddress, role: Role) -> Result<Connection, OpenError> {
        let worker = address.worker.map(WorkerId::from).unwrap_or_default();
        let index = self.next.fetch_add(1, Ordering::Relaxed) % self.per_worker;
        let key = Key { worker, incarnation: Incarnation(address.incarnation), role, index };
        let cell = {
            let mut open = self.open.lock();
            let over = |cell: &Arc<OnceCell<Connection>>| cell.get().is_some_and(|connection| !connection.is_open());
            if open.get(&key).is_some_and(over) {
                // Whoever is over takes its stale neighbours with it, so that lost workers leave nothing behind.
                open.retain(|_, cell| !over(cell));
            }
            Arc::clone(open.entry(key.clone()).or_default())
        };
        cell.get_or_try_init(|| self.dial(address, &key)).await.cloned()
    }

    async fn dial(&self, address: &v1::WorkerAddress, key: &Key) -> Result<Connection, OpenError> {
        let incarnation = match key.role {
            Role::Push => key.incarnation,
            Role::Fetch => Incarnation(0),
        };
        let hello = Hello {
            oldest: version::OLDEST,
            newest: version::CURRENT,
            role: key.role,
            worker: key.worker,
            incarnation,
            application: self.application.clone(),
            cluster: self.cluster.clone(),
            credential: Vec::new(),
        };
        let (connection, _) = Connection::open(&address.data, &hello, self.limits).await?;
        tracing::debug!(event = "connected", worker = %address.name, role = key.role.name());
        Ok(connection)
    }
}
