//! Starting a worker, and ending it.
//!
//! Owns the order: first everything that can fail (folders, memory, ports), then the tasks. Ending is a drain: no new
//! locations, readiness off, everything open is frozen so that pushes move on, the master is told; then the tasks end.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use mallorn_proto::id::{Incarnation, WorkerId};
use mallorn_proto::limits::{BODY_BYTES_MAX, CLUSTER_BYTES_MAX};
use mallorn_runtime::admin::Admin;
use mallorn_runtime::container;
use mallorn_runtime::disk::Disk;
use mallorn_runtime::grpc;
use mallorn_runtime::net::Listener;
use mallorn_runtime::random::Random;
use mallorn_runtime::task::{self, Shutdown, Tasks};
use mallorn_runtime::telemetry::quiet::Quiet;
use mallorn_worker_core::memory::Usage;
use mallorn_worker_core::push::SplitLimits;
use prometheus::Registry;
use tokio::sync::watch;
use tonic::service::Routes;

use crate::config::WorkerConfig;
use crate::drain::Drain;
use crate::handover::HandOver;
use crate::identity::{self, Identity, IdentityError};
use crate::master_link::{Addresses, MasterLink};
use crate::memory::arena::{Arena, MemoryError};
use crate::memory::store::{Bounds, Store};
use crate::metrics::{Disks, Metrics};
use crate::replicate;
use crate::restart::{self, RestartError};
use crate::server::Server;
use crate::service::Service;
use crate::spill::{Folder, FolderError, Spill};

/// How long the tasks may take to end.
const END_WITHIN: Duration = Duration::from_secs(10);

/// Where Linux keeps the machine's name.
const HOSTNAME: &str = "/proc/sys/kernel/hostname";
/// Longest name that it has.
const HOSTNAME_BYTES_MAX: u64 = 256;

/// What a worker is given beside its settings.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// The cluster's id; peers of another one are refused.
    pub cluster: String,
    /// Largest body that the cluster takes, in bytes: one number for all of it.
    pub body_limit_bytes: u32,
    /// The files that the worker sees.
    pub disk: Disk,
    /// Where ids are drawn from.
    pub random: Random,
    /// Where metrics are registered; one per worker.
    pub registry: Registry,
}

/// Why a worker did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The cluster's id or its largest body is out of bounds.
    #[error("`{setting}` {why}")]
    Cluster {
        /// The setting.
        setting: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// The data folders don't say who the worker is.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// A data folder can't be used.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// What is in the data folders can't be.
    #[error(transparent)]
    Restart(#[from] RestartError),
    /// The memory is too small, or there is none.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// A port can't be listened on, or an address is not one.
    #[error("{setting}: {source}")]
    Address {
        /// The setting.
        setting: &'static str,
        /// What is wrong with it.
        source: io::Error,
    },
    /// Nobody knows under which host others reach the worker.
    #[error("listening on all addresses, and the machine has no name: set `worker.advertised_host`")]
    NoHost,
    /// The registry has metrics of a worker already.
    #[error("register metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    /// The process can't do work in the background.
    #[error("{0}")]
    Task(#[from] tokio::task::JoinError),
}

/// A worker that runs. Dropping it ends its tasks at once; [`Running::stop`] drains it first.
pub struct Running {
    control: SocketAddr,
    data: SocketAddr,
    admin: Option<SocketAddr>,
    identity: Arc<Identity>,
    store: Arc<Store>,
    drain: Arc<Drain>,
    grace: Duration,
    registered: watch::Receiver<bool>,
    link: Tasks,
    servers: Tasks,
    disks: Tasks,
    ends: Ends,
}

/// What ends a worker's tasks, in this order.
struct Ends {
    drain: Shutdown,
    shutdown: Shutdown,
    disks: Shutdown,
}

/// Bytes of memory for shuffle data, and connections on the data port.
async fn takes_at_most(config: &WorkerConfig, disk: Disk) -> Result<(u64, usize), StartError> {
    let limit = task::blocking(move || container::memory_limit_bytes(&disk)).await?;
    let (memory_bytes, connections_max) = (config.memory_bytes(limit), config.connections(limit));
    tracing::info!(event = "memory", memory_bytes, limit_bytes = limit, connections_max, "what the worker may take");
    Ok((memory_bytes, connections_max))
}

/// Starts a worker. It serves when this returns, whether the master is there or not.
///
/// # Errors
/// When a folder, the memory, a port or an address can't be used.
pub async fn start(config: WorkerConfig, surroundings: Surroundings) -> Result<Running, StartError> {
    check_cluster(&surroundings)?;
    let (worker, folders) = find_folders(&config, &surroundings).await?;
    let Surroundings { cluster, body_limit_bytes, disk, random, registry } = surroundings;
    let identity = Arc::new(Identity { cluster, worker, body_limit_bytes });
    let (memory_bytes, connections_max) = takes_at_most(&config, disk.clone()).await?;
    let arena = Arena::new(memory_bytes, body_limit_bytes)?;
    let metrics = Metrics::new(&registry, &arena)?;
    let split = SplitLimits { soft_bytes: config.soft_split.bytes(), hard_bytes: config.hard_split.bytes() };
    let bounds = Bounds { body_bytes_max: body_limit_bytes, split };
    let spill = Spill::new(arena, folders, metrics.clone());
    Disks::register(&registry, Arc::downgrade(&spill))?;
    let store = Arc::new(Store::new(Arc::clone(&spill), bounds, random.clone(), metrics));
    let found = Arc::clone(&store);
    task::blocking(move || restart::restart(&found)).await??;
    let doors = Doors::open(&config).await?;
    let addresses = addresses(&config, &doors, disk).await?;
    let link = MasterLink::new(&config.master, Arc::clone(&identity), Arc::clone(&store), addresses, random.clone())
        .map_err(address_error("worker.master"))?;
    let hand_over = HandOver::new(&config.master, Arc::clone(&identity), Arc::clone(&store), random.clone())
        .map_err(address_error("worker.master"))?;
    let draining = Drain::new(Arc::clone(&store), hand_over, config.disk_returns, random);
    let (drain, shutdown) = (Shutdown::new(), Shutdown::new());
    let registered = link.registered();
    let (control, data) = (doors.control_address, doors.data_address);
    let admin = doors.admin.as_ref().map(|(_, address)| *address);
    let server = Server {
        identity: Arc::clone(&identity),
        store: Arc::clone(&store),
        connections_max,
        complaints: Quiet::default(),
    };
    let mut servers = Tasks::new();
    if let Some((listener, _)) = doors.admin {
        servers.spawn(serve_admin(listener, registry, Arc::clone(&store), registered.clone(), shutdown.clone()));
    }
    let service = Service { identity: Arc::clone(&identity), store: Arc::clone(&store), drain: Arc::clone(&draining) };
    servers.spawn(serve_control(doors.control, service, shutdown.clone()));
    servers.spawn(Arc::new(server).serve(doors.data, shutdown.clone()));
    servers.spawn(Arc::clone(&draining).run(shutdown.clone()));
    servers.spawn(replicate::run(Arc::clone(&store), Arc::clone(&identity), shutdown.clone()));
    let mut disks = Tasks::new();
    let disks_end = Shutdown::new();
    for folder in spill.folders() {
        disks.spawn(Arc::clone(&spill).write(folder.writer(), disks_end.clone()));
    }
    disks.spawn(Arc::clone(&spill).balance(Arc::clone(&store), disks_end.clone()));
    let mut link_tasks = Tasks::new();
    link_tasks.spawn(link.run(drain.clone()));
    tracing::info!(%worker, %control, %data, memory = store.usage().budget_bytes, "start the worker");
    let ends = Ends { drain, shutdown, disks: disks_end };
    let grace = config.grace.0;
    Ok(Running {
        control,
        data,
        admin,
        identity,
        store,
        drain: draining,
        grace,
        registered,
        link: link_tasks,
        servers,
        disks,
        ends,
    })
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (worker, control, data) = (self.identity.worker, self.control, self.data);
        f.debug_struct("Running").field("worker", &worker).field("control", &control).field("data", &data).finish()
    }
}

impl Running {
    /// Where gRPC is served.
    #[must_use]
    pub fn control_address(&self) -> SocketAddr {
        self.control
    }

    /// Where pushes and fetches are served.
    #[must_use]
    pub fn data_address(&self) -> SocketAddr {
        self.data
    }

    /// Where metrics and probes are served.
    #[must_use]
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin
    }

    /// The worker's id.
    #[must_use]
    pub fn worker(&self) -> WorkerId {
        self.identity.worker
    }

    /// The incarnation that its handles are good in now.
    #[must_use]
    pub fn incarnation(&self) -> Incarnation {
        self.store.incarnation()
    }

    /// Its memory, as it is now.
    #[must_use]
    pub fn memory(&self) -> Usage {
        self.store.usage()
    }

    /// The gRPC door as a service, for callers in the same process: no port and no connection stand between.
    #[must_use]
    pub fn routes(&self) -> Routes {
        let (identity, store) = (Arc::clone(&self.identity), Arc::clone(&self.store));
        Service { identity, store, drain: Arc::clone(&self.drain) }.routes()
    }

    /// Waits until the master knows the worker.
    pub async fn registered(&mut self) {
        // The sender lives in a task of this worker; without it there is nothing to wait for.
        let _ = self.registered.wait_for(|registered| *registered).await;
    }

    /// Drains the worker and ends it, within its grace: no new locations, everything open is frozen, the master is told.
    /// Where the disks return, everything that is in memory only is written, and reads in progress finish; else the worker
    /// serves on until nothing is left of what it holds, and hands that over once half of the grace has passed.
    pub async fn stop(self) {
        self.drain.end(self.grace).await;
        self.ends.drain.trigger();
        self.link.join(END_WITHIN).await;
        self.ends.shutdown.trigger();
        if !self.servers.join(END_WITHIN).await {
            tracing::warn!("end the worker before all of its tasks were done");
        }
        self.ends.disks.trigger();
        self.disks.join(END_WITHIN).await;
    }
}

/// The ports, open before anything is served.
struct Doors {
    control: Listener,
    control_address: SocketAddr,
    data: Listener,
    data_address: SocketAddr,
    admin: Option<(Listener, SocketAddr)>,
}

impl Doors {
    async fn open(config: &WorkerConfig) -> Result<Self, StartError> {
        let (control, control_address) = listen("worker.control_listen", config.control_listen).await?;
        let (data, data_address) = listen("worker.data_listen", config.data_listen).await?;
        let admin = match config.admin_listen {
            Some(address) => Some(listen("worker.admin_listen", address).await?),
            None => None,
        };
        Ok(Self { control, control_address, data, data_address, admin })
    }
}

async fn listen(setting: &'static str, address: SocketAddr) -> Result<(Listener, SocketAddr), StartError> {
    let listener = Listener::bind(&address.to_string()).await.map_err(address_error(setting))?;
    let bound = listener.local_addr().map_err(address_error(setting))?;
    Ok((listener, bound))
}

fn address_error(setting: &'static str) -> impl Fn(io::Error) -> StartError {
    move |source| StartError::Address { setting, source }
}

fn check_cluster(surroundings: &Surroundings) -> Result<(), StartError> {
    let cluster = surroundings.cluster.len();
    if cluster == 0 || cluster > CLUSTER_BYTES_MAX {
        let why = format!("must have 1 to {CLUSTER_BYTES_MAX} bytes");
        return Err(StartError::Cluster { setting: "cluster", why });
    }
    if surroundings.body_limit_bytes == 0 || surroundings.body_limit_bytes as usize > BODY_BYTES_MAX {
        let why = format!("must be between 1 and {BODY_BYTES_MAX} bytes");
        return Err(StartError::Cluster { setting: "body_limit", why });
    }
    Ok(())
}

/// Finds out who the worker is, and takes its folders.
async fn find_folders(
    config: &WorkerConfig,
    surroundings: &Surroundings,
) -> Result<(WorkerId, Vec<Arc<Folder>>), StartError> {
    let paths = config.data_folders.clone();
    let Surroundings { cluster, disk, random, .. } = surroundings.clone();
    let take = move || {
        let found = identity::find(&disk, &paths, &cluster, &random)?;
        let mut folders = Vec::with_capacity(paths.len());
        for (index, (path, id)) in (0u16..).zip(paths.iter().zip(&found.folders)) {
            folders.push(Arc::new(Folder::open(index, *id, path, &disk)?));
        }
        Ok((found.worker, folders))
    };
    task::blocking(take).await?
}

/// Where others reach the worker: the host configured, or the one address listened on, or the machine's name.
async fn addresses(config: &WorkerConfig, doors: &Doors, disk: Disk) -> Result<Addresses, StartError> {
    let listened = doors.control_address.ip();
    let host = match &config.advertised_host {
        Some(host) => host.clone(),
        None if !listened.is_unspecified() => listened.to_string(),
        None => {
            let name = task::blocking(move || disk.read(Path::new(HOSTNAME), HOSTNAME_BYTES_MAX)).await?;
            let name = name.map(|bytes| String::from_utf8_lossy(&bytes).trim().to_owned()).unwrap_or_default();
            if name.is_empty() {
                return Err(StartError::NoHost);
            }
            name
        }
    };
    let host = if host.contains(':') && !host.starts_with('[') { format!("[{host}]") } else { host };
    let control = format!("{host}:{}", doors.control_address.port());
    let data = format!("{host}:{}", doors.data_address.port());
    let (name, rack) =
        (config.name.clone().unwrap_or_else(|| control.clone()), config.rack.clone().unwrap_or_default());
    Ok(Addresses { name, control, data, rack })
}

async fn serve_control(listener: Listener, service: Service, shutdown: Shutdown) {
    if let Err(error) = grpc::serve(listener, service.routes(), shutdown).await {
        tracing::error!(%error, "serve the control port");
    }
}

async fn serve_admin(
    listener: Listener,
    registry: Registry,
    store: Arc<Store>,
    registered: watch::Receiver<bool>,
    shutdown: Shutdown,
) {
    let known = move || if *registered.borrow() { Ok(()) } else { Err("the master does not know it yet".to_owned()) };
    let open = move || if store.is_draining() { Err("it is draining".to_owned()) } else { Ok(()) };
    let admin = Admin::new("worker", env!("CARGO_PKG_VERSION"), registry)
        .ready_check("registered", Arc::new(known))
        .ready_check("accepting", Arc::new(open));
    if let Err(error) = admin.serve(listener, shutdown).await {
        tracing::error!(%error, "serve the admin port");
    }
}
