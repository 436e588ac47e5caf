//! The master process: the rules of `mallorn-master-core` behind a gRPC door and an admin port.
//!
//! Owns starting and stopping, the settings, the metrics and the log of a master. Does not own any decision: time and
//! calls go into the core, answers come out. The master sees no byte of any shuffle, and its state is in memory only.

#![forbid(unsafe_code)]

mod config;
mod request;
mod service;
mod metrics;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use mallorn_runtime::admin::Admin;
use mallorn_runtime::config::Invalid;
use mallorn_runtime::grpc;
use mallorn_runtime::net::Listener;
use mallorn_runtime::task::{Shutdown, Tasks};
use prometheus::Registry;
use tonic::service::Routes;
use tracing::{error, info};

use crate::metrics::Metrics;
use crate::service::State;

pub use crate::config::{Config, MasterSettings, PlacementStrategy};

/// How long stopping may take, beyond the moment that each server gives its requests.
const STOP_WITHIN: Duration = Duration::from_secs(5);

/// Why a master did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A setting that no master can run with.
    #[error("settings of the master: {0}")]
    Config(#[from] Invalid),
    /// A port that can't be listened on.
    #[error("{what}: {source}; choose another address with `{setting}`")]
    Listen {
        /// Which port.
        what: &'static str,
        /// The setting that names it.
        setting: &'static str,
        /// What the system says, with the address.
        source: io::Error,
    },
    /// The registry serves another master already.
    #[error("register the master's metrics: {0}; each master needs a registry of its own")]
    Metrics(#[from] prometheus::Error),
}

/// A master that serves. Dropping it ends it without waiting for requests in progress.
#[derive(Debug)]
pub struct Running {
    control: SocketAddr,
    admin: Option<SocketAddr>,
    state: Arc<State>,
    shutdown: Shutdown,
    tasks: Tasks,
}

/// Starts a master: it serves when this returns, until the shutdown is triggered. Its state starts empty and is learnt
/// from the calls of workers and lifecycle managers. When its gRPC server fails as a whole, it triggers the shutdown.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), mallorn_master::StartError> {
/// use mallorn_runtime::task::Shutdown;
///
/// let config = mallorn_master::Config::loopback();
/// let master = mallorn_master::start(config, &prometheus::Registry::new(), Shutdown::new()).await?;
/// assert!(master.control_address().port() > 0);
/// master.stop().await;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// When a setting is wrong, an address can't be listened on, or the registry has the metrics of a master already.
pub async fn start(config: Config, registry: &Registry, shutdown: Shutdown) -> Result<Running, StartError> {
    config.check()?;
    let (listener, control) = listen("control port", "master.listen", config.master.listen).await?;
    let admin = match config.master.admin {
        Some(address) => Some(listen("admin port", "master.admin", address).await?),
        None => None,
    };
    let metrics = Metrics::new(registry)?;
    let cluster = config.cluster.clone();
    let state = Arc::new(State::new(config, metrics));
    let mut tasks = Tasks::new();
    tasks.spawn(serve(listener, Arc::clone(&state), shutdown.clone()));
    tasks.spawn(Arc::clone(&state).run_ticks(shutdown.clone()));
    let admin = admin.map(|(listener, address)| {
        tasks.spawn(serve_admin(listener, registry.clone(), shutdown.clone()));
        address
    });
    let admin_shown = admin.map_or_else(|| "none".to_owned(), |address| address.to_string());
    info!(event = "master_started", cluster, %control, admin = admin_shown, "master serves");
    Ok(Running { control, admin, state, shutdown, tasks })
}

impl Running {
    /// The address of the gRPC door, with the port that was picked.
    #[must_use]
    pub fn control_address(&self) -> SocketAddr {
        self.control
    }

    /// The address of metrics and probes, if they are served.
    #[must_use]
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin
    }

    /// The gRPC door as a service, for callers in the same process: no port and no connection stand between.
    #[must_use]
    pub fn routes(&self) -> Routes {
        self.state.routes()
    }

    /// Triggers the shutdown and waits until requests in progress are answered, a few seconds at most.
    pub async fn stop(self) {
        self.shutdown.trigger();
        let is_clean = self.tasks.join(STOP_WITHIN).await;
        info!(event = "master_stopped", is_clean, "master stopped");
    }
}

async fn listen(
    what: &'static str,
    setting: &'static str,
    address: SocketAddr,
) -> Result<(Listener, SocketAddr), StartError> {
    let bound = async {
        let listener = Listener::bind(&address.to_string()).await?;
        let address = listener.local_addr()?;
        Ok((listener, address))
    };
    bound.await.map_err(|source| StartError::Listen { what, setting, source })
}

async fn serve(listener: Listener, state: Arc<State>, shutdown: Shutdown) {
    if let Err(error) = grpc::serve(listener, state.routes(), shutdown.clone()).await {
        error!(event = "master_failed", %error, "serve the control port");
        shutdown.trigger();
    }
}

async fn serve_admin(listener: Listener, registry: Registry, shutdown: Shutdown) {
    let admin = Admin::new("master", env!("CARGO_PKG_VERSION"), registry);
    if let Err(error) = admin.serve(listener, shutdown).await {
        error!(event = "admin_failed", %error, "serve the admin port");
    }
}
