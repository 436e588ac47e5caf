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
    open: Mutex<Map<Key, Arc<Dial>>>,
}

/// What came of a dial. Whoever waits for one that fails is told so with it, and does not dial again in its turn.
type Dial = OnceCell<Result<Connection, Arc<OpenError>>>;

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
    pub(crate) async fn to(&self, address: &v1::WorkerAddress, role: Role) -> Result<Connection, Arc<OpenError>> {
        let worker = address.worker.map(WorkerId::from).unwrap_or_default();
        let index = self.next.fetch_add(1, Ordering::Relaxed) % self.per_worker;
        let key = Key { worker, incarnation: Incarnation(address.incarnation), role, index };
        let dial = {
            let open = &mut *self.open.lock();
            if open.get(&key).is_none_or(|dial| is_over(dial)) {
                // A dial is rare: it takes everything with it that lost workers have left.
                open.retain(|_, dial| !is_over(dial));
            }
            Arc::clone(open.entry(key.clone()).or_default())
        };
        dial.get_or_init(|| async { self.dial(address, &key).await.map_err(Arc::new) }).await.clone()
    }

    /// Closes the connections to an incarnation of a worker: everything that waits for its answers is told so.
    pub(crate) fn close(&self, worker: WorkerId, incarnation: Incarnation, reason: &str) {
        let of_worker: Vec<_> = {
            let open = self.open.lock();
            let its = open.iter().filter(|(key, _)| (key.worker, key.incarnation) == (worker, incarnation));
            its.filter_map(|(_, dial)| dial.get()?.as_ref().ok().cloned()).collect()
        };
        of_worker.iter().for_each(|connection| connection.close(reason));
    }

    async fn dial(&self, address: &v1::WorkerAddress, key: &Key) -> Result<Connection, OpenError> {
        let incarnation = match key.role {
            Role::Push | Role::Replicate => key.incarnation,
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

fn is_over(dial: &Dial) -> bool {
    match dial.get() {
        Some(Ok(connection)) => !connection.is_open(),
        Some(Err(_)) => true,
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use mallorn_proto::id::Instance;
    use mallorn_runtime::net::Listener;

    use super::*;

    #[tokio::test]
    async fn whoever_waits_for_a_dial_that_fails_is_told_so_with_it() {
        let listener = Listener::bind("127.0.0.1:0").await.unwrap();
        let data = listener.local_addr().unwrap().to_string();
        let address = v1::WorkerAddress { data, ..v1::WorkerAddress::default() };
        let application = Application { name: "a".to_owned(), instance: Instance(1) };
        let connections = Connections::new("c".to_owned(), application, 1, Duration::from_secs(5));
        // Hangs up on every hello.
        let mut accepted = 0;
        let accept = async {
            loop {
                drop(listener.accept().await.unwrap());
                accepted += 1;
            }
        };
        let ask = crate::concurrently((0..50).map(|_| connections.to(&address, Role::Push)));
        tokio::select! {
            answers = ask => assert!(answers.iter().all(Result::is_err)),
            () = accept => {}
        }
        assert_eq!(accepted, 1);
        // A failure is not remembered: the next one dials, and clears it away.
        drop(listener);
        assert!(connections.to(&address, Role::Fetch).await.is_err());
        assert_eq!(connections.open.lock().len(), 1);
    }
}
