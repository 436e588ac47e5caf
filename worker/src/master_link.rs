//! The link to the master: register, heartbeat, obey.
//!
//! Owns when the master is called and what its answers cause. Nothing else depends on the master: while it is away,
//! pushes, commits and reads go on, and this keeps trying. Does not own how what is held is told
//! (`mallorn_worker_core::master_link`).

use std::sync::Arc;
use std::time::Duration;

use mallorn_proto::id::{Application, Incarnation};
use mallorn_proto::limits::CONTROL_MESSAGE_BYTES_MAX;
use mallorn_proto::status::{Status, from_grpc};
use mallorn_proto::v1;
use mallorn_proto::v1::master_client::MasterClient;
use mallorn_runtime::backoff::Backoff;
use mallorn_runtime::clock;
use mallorn_runtime::grpc::{self, Channel};
use mallorn_runtime::random::Random;
use mallorn_runtime::task::Shutdown;
use mallorn_worker_core::handover::TakenFrom;
use mallorn_worker_core::master_link::{Held, pages};
use tokio::sync::watch;

use crate::identity::Identity;
use crate::memory::store::Store;
use crate::service::{disk_to_wire, memory_to_wire};

/// How long a call may take.
const CALL_WITHIN: Duration = Duration::from_secs(5);
/// The first wait before a failed call is repeated; each further one doubles it.
const RETRY_FIRST: Duration = Duration::from_millis(100);
/// The longest wait before a failed call is repeated.
const RETRY_MAX: Duration = Duration::from_secs(5);
/// What a master may ask for between heartbeats; anything else is taken for the nearest of these.
const HEARTBEAT_BETWEEN: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(60));
/// How long the last heartbeat of a draining worker may take.
const LAST_WITHIN: Duration = Duration::from_secs(1);

/// Where this worker is reached, for people and for callers.
#[derive(Clone, Debug)]
pub(crate) struct Addresses {
    pub(crate) name: String,
    pub(crate) control: String,
    pub(crate) data: String,
    pub(crate) rack: String,
}

/// So many incarnations that end in this time are not those of a worker that is lost now and then.
const DOUBLE_TIMES: usize = 4;
const DOUBLE_WITHIN: Duration = Duration::from_secs(60);

/// The worker's side of its relation to the master.
pub(crate) struct MasterLink {
    client: MasterClient<Channel>,
    identity: Arc<Identity>,
    store: Arc<Store>,
    addresses: Addresses,
    random: Random,
    registered: watch::Sender<bool>,
    /// When the master said that this incarnation is over, of late.
    fenced: Vec<clock::Instant>,
}

/// Why the master's answer is not one.
#[derive(Debug, thiserror::Error)]
enum LinkError {
    #[error("{}: {}", .0.code(), .0.message())]
    Call(#[from] tonic::Status),
}

impl LinkError {
    fn is_fenced(&self) -> bool {
        let Self::Call(error) = self;
        from_grpc(error) == Status::Fenced
    }
}

/// What a heartbeat's answer says about the registration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Known,
    Again,
}

impl MasterLink {
    /// A link to the master at `master` (host:port); it is called from [`MasterLink::run`] on.
    ///
    /// # Errors
    /// `InvalidInput` when that is not an address.
    pub(crate) fn new(
        master: &str,
        identity: Arc<Identity>,
        store: Arc<Store>,
        addresses: Addresses,
        random: Random,
    ) -> std::io::Result<Self> {
        let client = MasterClient::new(grpc::channel(master, CALL_WITHIN)?)
            .max_decoding_message_size(CONTROL_MESSAGE_BYTES_MAX)
            .max_encoding_message_size(CONTROL_MESSAGE_BYTES_MAX);
        Ok(Self {
            client,
            identity,
            store,
            addresses,
            random,
            registered: watch::Sender::new(false),
            fenced: Vec::new(),
        })
    }

    /// Whether the master knows this worker, now and later.
    pub(crate) fn registered(&self) -> watch::Receiver<bool> {
        self.registered.subscribe()
    }

    /// Keeps the worker known to the master until the drain is triggered; then says so, once.
    pub(crate) async fn run(mut self, drain: Shutdown) {
        while let Some(pause) = drain.or(self.register_until_done()).await {
            if drain.or(self.beat_until_forgotten(pause)).await.is_none() {
                break;
            }
            self.registered.send_replace(false);
            self.store.metrics.register_again.inc();
            tracing::info!(event = "register_again", "register again: the master does not know this worker any more");
        }
        if *self.registered.borrow() {
            // The master learns it from the lease in any case; it only learns it sooner this way.
            let _ = clock::timeout(LAST_WITHIN, self.heartbeat()).await;
        }
    }

    /// Registers; returns the time between heartbeats.
    async fn register_until_done(&mut self) -> Duration {
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MAX);
        loop {
            match self.register().await {
                Ok(pause) => {
                    self.store.taken.lock().tell_again();
                    tracing::info!(worker = %self.identity.worker, name = self.addresses.name, "register with the master");
                    self.registered.send_replace(true);
                    return pause;
                }
                Err(error) => {
                    if error.is_fenced() {
                        // A master that merely restarted takes the worker as it is; this one has declared it lost.
                        let incarnation = self.store.start_again();
                        tracing::warn!(event = "incarnation_over", %incarnation, "open locations are frozen");
                        self.tell_of_a_double();
                    }
                    self.wait_out(&error, &mut backoff, "register with the master").await;
                }
            }
        }
    }

    /// Sends heartbeats until the master asks for a fresh registration.
    async fn beat_until_forgotten(&mut self, pause: Duration) {
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MAX);
        loop {
            match self.heartbeat().await {
                Ok(Standing::Again) => return,
                Ok(Standing::Known) => {
                    backoff.reset();
                    // Some news should not wait for the next heartbeat; whether there were any does not matter here.
                    let _ = clock::timeout(pause, self.store.news.notified()).await;
                }
                Err(error) => self.wait_out(&error, &mut backoff, "send the master a heartbeat").await,
            }
        }
    }

    /// Two processes with one id, from a data folder that was copied, declare each other over again and again.
    fn tell_of_a_double(&mut self) {
        let now = clock::now();
        self.fenced.retain(|at| now.saturating_duration_since(*at) < DOUBLE_WITHIN);
        self.fenced.push(now);
        if self.fenced.len() >= DOUBLE_TIMES {
            self.fenced.clear();
            tracing::error!(event = "worker_id_twice", worker = %self.identity.worker, name = self.addresses.name,
                "another process runs under this worker's id: its data folders were copied; stop one of the two, and empty its folders");
        }
    }

    async fn wait_out(&self, error: &LinkError, backoff: &mut Backoff, what: &'static str) {
        if backoff.is_fresh() {
            tracing::warn!(%error, "{what}; trying on");
        } else {
            tracing::debug!(%error, "{what}; trying on");
        }
        backoff.wait(&self.random).await;
    }

    async fn register(&mut self) -> Result<Duration, LinkError> {
        let request = v1::RegisterWorkerRequest {
            cluster: self.identity.cluster.clone(),
            address: Some(self.address(self.store.incarnation())),
            memory: Some(memory_to_wire(&self.store.usage())),
            disks: self.store.spill.disks().iter().map(disk_to_wire).collect(),
            draining: self.store.is_draining(),
            body_limit: self.identity.body_limit_bytes,
        };
        let reply = self.client.register_worker(request).await?.into_inner();
        let (shortest, longest) = HEARTBEAT_BETWEEN;
        Ok(Duration::from_millis(reply.heartbeat_ms).clamp(shortest, longest))
    }

    fn address(&self, incarnation: Incarnation) -> v1::WorkerAddress {
        v1::WorkerAddress {
            worker: Some(self.identity.worker.into()),
            name: self.addresses.name.clone(),
            incarnation: incarnation.0,
            control: self.addresses.control.clone(),
            data: self.addresses.data.clone(),
            rack: self.addresses.rack.clone(),
        }
    }

    /// Tells everything that is held, in as many messages as that takes.
    async fn heartbeat(&mut self) -> Result<Standing, LinkError> {
        let mut pages = pages(self.store.held()).into_iter();
        let mut held = pages.next().unwrap_or_default();
        loop {
            let taken = self.store.taken.lock().page();
            let request = v1::HeartbeatRequest {
                cluster: self.identity.cluster.clone(),
                worker: Some(self.identity.worker.into()),
                incarnation: self.store.incarnation().0,
                memory: Some(memory_to_wire(&self.store.usage())),
                disks: self.store.spill.disks().iter().map(disk_to_wire).collect(),
                draining: self.store.is_draining(),
                held: held.into_iter().map(held_to_wire).collect(),
                taken_over: taken.iter().map(taken_to_wire).collect(),
            };
            let reply = self.client.heartbeat(request).await?.into_inner();
            if reply.register_again {
                return Ok(Standing::Again);
            }
            self.obey(reply);
            self.store.taken.lock().told(&taken);
            held = match pages.next() {
                Some(page) => page,
                None if self.store.taken.lock().is_told() => return Ok(Standing::Known),
                None => Vec::new(),
            };
        }
    }

    /// A worker deletes only on a master's word: this is it.
    fn obey(&self, reply: v1::HeartbeatReply) {
        for application in reply.ended.into_iter().map(Application::from) {
            let bytes = self.store.release_all(&application);
            tracing::info!(%application, bytes, "release an application that is over");
        }
        for released in reply.released {
            let Some(application) = released.application.map(Application::from) else { continue };
            let release = |range: &v1::Range| self.store.release(&application, range.first..range.end);
            let bytes: u64 = released.shuffles.iter().map(release).sum();
            tracing::debug!(%application, bytes, "release shuffles");
        }
    }
}

fn taken_to_wire(taken: &TakenFrom) -> v1::TakenOver {
    v1::TakenOver {
        application: Some(taken.application.clone().into()),
        from: Some(taken.from.into()),
        locations: taken.locations.iter().map(|location| (*location).into()).collect(),
    }
}

fn held_to_wire(held: Held) -> v1::HeldApplication {
    v1::HeldApplication { application: Some(held.application.into()), shuffles: held.shuffles.to_wire() }
}
