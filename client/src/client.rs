//! The client of an application's tasks: one per process.

use std::ops::Range;
use std::sync::{Arc, Weak};
use std::time::Duration;

use mallorn_client_core::memory::Budget;
use mallorn_proto::batch::{Codec, OVERHEAD_BYTES};
use mallorn_proto::id::{Application, Generation, Instance, Token};
use mallorn_proto::limits::BODY_BYTES_MAX;
use mallorn_proto::v1;
use mallorn_runtime::config::Check;
use mallorn_runtime::connection::Pool;
use mallorn_runtime::hash::Map;
use mallorn_runtime::random::Random;
use mallorn_runtime::task::{self, Shutdown, Spawner};
use parking_lot::Mutex;
use prometheus::Registry;

use crate::config::{ClientConfig, ShuffleOptions};
use crate::connections::Connections;
use crate::error::{ConnectError, LifecycleError, ReadError};
use crate::fetch::{Reader, Shunned};
use crate::link::Link;
use crate::memory::Memory;
use crate::metrics::{ClientStats, Metrics};
use crate::push::{AttemptShared, MapAttempt, Tables};
use crate::renew;
use crate::watch::Asked;

/// Pushes and reads for an application's tasks. Clones share connections and memory.
#[derive(Clone, Debug)]
pub struct ShuffleClient {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) application: Application,
    pub(crate) config: ClientConfig,
    pub(crate) codec: Codec,
    pub(crate) body_limit: u32,
    pub(crate) link: Link,
    pub(crate) connections: Connections,
    pub(crate) memory: Arc<Memory>,
    pub(crate) buffers: Pool,
    pub(crate) metrics: Metrics,
    pub(crate) random: Random,
    pub(crate) tables: Tables,
    /// Workers that readers try last.
    pub(crate) shunned: Shunned,
    pub(crate) asked: Asked,
    /// Attempts that may have bytes buffered or in flight, by nonce.
    pub(crate) attempts: Mutex<Map<u64, Weak<AttemptShared>>>,
    /// For what is dropped, perhaps by a thread that is none of the runtime's, and has something left to say.
    pub(crate) spawner: Spawner,
    registry: Registry,
    shutdown: Shutdown,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.shutdown.trigger();
        // The next client of the process may count in the same registry.
        self.metrics.unregister(&self.registry);
    }
}

/// Which attempts' data a read returns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The winner of each map, once the stage has ended. For shuffles with a map count.
    Winners,
    /// Exactly the attempts of these tokens, one per map.
    Tokens(Vec<Token>),
}

/// What to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadRequest {
    /// The shuffle.
    pub shuffle: u32,
    /// Partitions, read one after the other.
    pub partitions: Range<u32>,
    /// Only batches of these maps; `None` reads all.
    pub maps: Option<Range<u32>>,
    /// Which attempts count.
    pub source: Source,
}

impl ReadRequest {
    /// Reads all maps' winners.
    #[must_use]
    pub fn new(shuffle: u32, partitions: Range<u32>) -> Self {
        Self { shuffle, partitions, maps: None, source: Source::Winners }
    }

    /// Reads only these maps.
    #[must_use]
    pub fn maps(self, maps: Range<u32>) -> Self {
        Self { maps: Some(maps), ..self }
    }

    /// Reads exactly the attempts of these tokens.
    #[must_use]
    pub fn tokens(self, tokens: Vec<Token>) -> Self {
        Self { source: Source::Tokens(tokens), ..self }
    }
}

impl ShuffleClient {
    /// Joins the application whose lifecycle manager listens at `lifecycle`. Metrics go into `registry`, one client to
    /// each at a time.
    ///
    /// # Errors
    /// `Config`, `Address`, `Lifecycle` when the manager is out of reach for as long as a call may take, `Memory` or `Batch` when
    /// the settings do not fit the cluster's bodies, `Metrics`.
    pub async fn connect(
        lifecycle: &str,
        config: ClientConfig,
        random: Random,
        registry: &Registry,
    ) -> Result<Self, ConnectError> {
        config.check().map_err(ConnectError::Config)?;
        let within = config.call_within.0;
        let mut link = Link::new(lifecycle, within, random.clone()).map_err(ConnectError::Address)?;
        let request = v1::JoinRequest { client: format!("pid {}", task::process_id()) };
        let joined = link.call(|mut door| {
            let request = request.clone();
            async move { door.join(request).await }
        });
        let joined = joined.await.map_err(ConnectError::Lifecycle)?;
        let application = joined.application.map(Application::from);
        let application =
            application.ok_or_else(|| ConnectError::Lifecycle(LifecycleError::senseless("it names no application")))?;
        link.instance = application.instance;

        let body_limit = joined.body_limit.min(BODY_BYTES_MAX as u32);
        let batch = config.batch.0 + OVERHEAD_BYTES as u64;
        if batch > u64::from(body_limit) {
            return Err(ConnectError::Batch { batch: config.batch.0, limit: u64::from(body_limit) });
        }
        let budget = Budget::new(config.memory.0, u64::from(body_limit)).map_err(ConnectError::Memory)?;
        let metrics = Metrics::register(registry, link.calls.clone()).map_err(ConnectError::Metrics)?;
        let connections = Connections::new(joined.cluster, application.clone(), config.connections, within);
        let inner = Arc::new(Inner {
            application,
            codec: config.codec.codec(),
            body_limit,
            link,
            connections,
            memory: Memory::new(budget),
            buffers: Pool::new((config.memory.0 / 4) as usize),
            metrics,
            random,
            tables: Tables::default(),
            shunned: Shunned::default(),
            asked: Asked::default(),
            attempts: Mutex::new(Map::default()),
            spawner: Spawner::current(),
            registry: registry.clone(),
            shutdown: Shutdown::new(),
            config,
        });
        let lease = Duration::from_millis(joined.attempt_lease_ms);
        task::spawn(renew::run(Arc::downgrade(&inner), inner.shutdown.clone(), lease));
        Ok(Self { inner })
    }

    /// Declares a shuffle; see [`crate::LifecycleManager::register`]. For engines whose driver does not know of it. It
    /// waits 10 s for workers with room, at most; it may be called again.
    ///
    /// # Errors
    /// As there, and `Unreachable`.
    pub async fn register(
        &self,
        shuffle: u32,
        partitions: u32,
        maps: Option<u32>,
    ) -> Result<Generation, LifecycleError> {
        self.register_with(shuffle, partitions, maps, ShuffleOptions::default()).await
    }

    /// Declares a shuffle that is kept otherwise than the application's others; see
    /// [`crate::LifecycleManager::register_with`]. It waits as [`Self::register`] does.
    ///
    /// # Errors
    /// As there, and `Unreachable`.
    pub async fn register_with(
        &self,
        shuffle: u32,
        partitions: u32,
        maps: Option<u32>,
        options: ShuffleOptions,
    ) -> Result<Generation, LifecycleError> {
        let request = options.declare(self.instance(), shuffle, partitions, maps);
        let reply = self.inner.link.call(|mut door| async move { door.register_shuffle(request).await }).await?;
        Ok(Generation(reply.generation))
    }

    /// Starts the next generation if `seen` is the current one; see [`crate::LifecycleManager::next_generation`]. It
    /// waits as [`Self::register`] does.
    ///
    /// # Errors
    /// As there, and `Unreachable`.
    pub async fn next_generation(&self, shuffle: u32, seen: Generation) -> Result<Generation, LifecycleError> {
        let request = v1::NextGenerationRequest { instance: self.instance(), shuffle, seen: seen.0 };
        let reply = self.inner.link.call(|mut door| async move { door.next_generation(request).await }).await?;
        Ok(Generation(reply.generation))
    }

    /// Forgets a shuffle; see [`crate::LifecycleManager::release`].
    ///
    /// # Errors
    /// As there, and `Unreachable`.
    pub async fn release(&self, shuffle: u32) -> Result<(), LifecycleError> {
        let request = v1::ReleaseShuffleRequest { instance: self.instance(), shuffle };
        self.inner.link.call(|mut door| async move { door.release_shuffle(request).await }).await?;
        Ok(())
    }

    /// Opens an attempt at a map task, in the shuffle's current generation. An attempt number is used once: the same
    /// (map, attempt) started elsewhere is `Taken`.
    ///
    /// # Errors
    /// `Unknown`, `Released`, `Fenced`, `Taken`, `StageEnded` when every map has a winner (nothing is left to do),
    /// `Unreachable`.
    pub async fn start_attempt(&self, shuffle: u32, map: u32, attempt: u32) -> Result<MapAttempt, LifecycleError> {
        MapAttempt::start(&self.inner, shuffle, map, attempt).await
    }

    /// Reads partitions: waits for the stage to end (or, by tokens, commits what they need), then streams every batch of
    /// the chosen attempts exactly once.
    ///
    /// # Errors
    /// `Lifecycle` for shuffles or tokens that are not there, `TimedOut`, `NoRoom` when too many readers are open.
    pub async fn read(&self, request: ReadRequest) -> Result<Reader, ReadError> {
        Reader::open(&self.inner, request).await
    }

    /// What this client has done so far.
    #[must_use]
    pub fn stats(&self) -> ClientStats {
        self.inner.metrics.stats()
    }

    /// The application that it belongs to.
    #[must_use]
    pub fn application(&self) -> &Application {
        &self.inner.application
    }

    fn instance(&self) -> u64 {
        let Instance(instance) = self.inner.application.instance;
        instance
    }
}
