//! `mallorn master`, `mallorn worker`, `mallorn local`: the processes that serve.
//!
//! Owns their start, the line that says that they are ready, and their end. Does not own what they do, which is in the
//! crates of the roles.

mod ending;
mod local;
mod ready;

use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use mallorn_runtime::config::{ByteSize, ConfigError, Loader};
use mallorn_runtime::disk::Disk;
use mallorn_runtime::random::Random;
use mallorn_runtime::task::Shutdown;
use mallorn_runtime::telemetry::{self, InitError};
use mallorn_worker::{Surroundings, WorkerConfig};
use prometheus::Registry;

use crate::config_command::SettingsArgs;
use crate::settings::Root;
use crate::signals::{EndSignal, Signals};
use ending::Ending;

pub(crate) use ending::ParentArgs;
pub(crate) use local::{LocalArgs, local};
pub(crate) use ready::{Ready, Role};

/// Runs a master: membership, placement, leases
#[derive(Args, Clone, Debug)]
pub(crate) struct MasterArgs {
    #[command(flatten)]
    settings: SettingsArgs,

    /// Address for workers and applications (master.listen)
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,

    #[command(flatten)]
    parent: ParentArgs,
}

/// Runs a worker: takes, keeps and serves shuffle data
#[derive(Args, Clone, Debug)]
pub(crate) struct WorkerArgs {
    #[command(flatten)]
    settings: SettingsArgs,

    /// The master to register with (worker.master)
    #[arg(long, value_name = "HOST:PORT")]
    master: Option<String>,

    /// Memory for shuffle data (worker.memory)
    #[arg(long, value_name = "SIZE")]
    memory: Option<ByteSize>,

    /// Folder that keeps who the worker is (worker.data_folders); may be repeated
    #[arg(long, value_name = "FOLDER")]
    data_folder: Vec<PathBuf>,

    #[command(flatten)]
    parent: ParentArgs,
}

/// Why a role did not start, or ended by itself.
#[derive(Debug, thiserror::Error)]
enum RoleError {
    #[error(transparent)]
    Settings(#[from] ConfigError),
    #[error("`log.filter`: {0}")]
    Log(#[from] InitError),
    #[error("can't receive signals: {0}")]
    Signals(io::Error),
    #[error(transparent)]
    Metrics(#[from] prometheus::Error),
    #[error(transparent)]
    Master(#[from] mallorn_master::StartError),
    #[error(transparent)]
    Worker(#[from] mallorn_worker::StartError),
    #[error("can't create a temporary folder in {parent}: {source}; set `worker.data_folders`, or TMPDIR", parent = parent.display())]
    Folder { parent: PathBuf, source: io::Error },
    #[error("the {0} can't go on serving; its log says why")]
    Broken(Role),
    #[error("told twice to end: ended at once")]
    Forced(EndSignal),
}

impl RoleError {
    /// 2 for what must be changed on the command line or in the settings, 1 for what failed, more for a signal.
    fn exit_code(&self) -> u8 {
        match self {
            Self::Settings(_) | Self::Log(_) => 2,
            Self::Forced(signal) => signal.exit_code(),
            Self::Signals(_)
            | Self::Metrics(_)
            | Self::Master(_)
            | Self::Worker(_)
            | Self::Folder { .. }
            | Self::Broken(_) => 1,
        }
    }
}

fn exit(outcome: Result<(), RoleError>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Where standard error is closed nobody wants the reason.
            let _ = writeln!(io::stderr(), "{error}");
            ExitCode::from(error.exit_code())
        }
    }
}

/// Runs a master until it is told to end: exit code 0 then, 1 if it failed, 2 if its settings are wrong.
pub(crate) async fn master(args: MasterArgs) -> ExitCode {
    exit(run_master(args).await)
}

async fn run_master(args: MasterArgs) -> Result<(), RoleError> {
    let loader = args.settings.loader().set_some("master.listen", args.listen, "--listen");
    let (root, mut signals) = prepare(loader)?;
    let shutdown = Shutdown::new();
    let running = mallorn_master::start(master_config(&root), &registry()?, shutdown.clone()).await?;
    master_ready(&running).print();
    let ending = args.parent.ending(&mut signals, &shutdown).await;
    match ending {
        Ending::Told => stop(&mut signals, running.stop()).await,
        Ending::Broken => Err(RoleError::Broken(Role::Master)),
        Ending::LeftBehind => {
            args.parent.clean_up();
            Ok(())
        }
    }
}

/// Runs a worker until it is told to end: exit code 0 then, 1 if it failed, 2 if its settings are wrong.
pub(crate) async fn worker(args: WorkerArgs) -> ExitCode {
    exit(run_worker(args).await)
}

async fn run_worker(args: WorkerArgs) -> Result<(), RoleError> {
    let folders = args.data_folder.iter().map(|folder| folder.display());
    let loader = args
        .settings
        .loader()
        .set_some("worker.master", args.master, "--master")
        .set_some("worker.memory", args.memory, "--memory")
        .set_list("worker.data_folders", folders, "--data-folder");
    let (root, mut signals) = prepare(loader)?;
    let mut running = start_worker(&root, root.worker.clone()).await?;
    // Nothing breaks a worker as a whole: what it has lost is the business of commits and readers.
    let broken = Shutdown::new();
    let ended_early = tokio::select! {
        biased;
        ending = args.parent.ending(&mut signals, &broken) => Some(ending),
        () = running.registered() => None,
    };
    let ending = match ended_early {
        Some(ending) => ending,
        None => {
            worker_ready(&running).print();
            args.parent.ending(&mut signals, &broken).await
        }
    };
    match ending {
        Ending::Told => stop(&mut signals, running.stop()).await,
        Ending::Broken => Err(RoleError::Broken(Role::Worker)),
        Ending::LeftBehind => {
            args.parent.clean_up();
            Ok(())
        }
    }
}

/// Reads the settings, starts the log, takes the signals over.
fn prepare(loader: Loader) -> Result<(Root, Signals), RoleError> {
    let root = loader.load::<Root>()?.value;
    telemetry::init(root.log.format, &root.log.filter)?;
    let signals = Signals::receive().map_err(RoleError::Signals)?;
    Ok((root, signals))
}

/// Waits until everything has stopped in good order, or until a second signal.
async fn stop(signals: &mut Signals, stopping: impl Future<Output = ()>) -> Result<(), RoleError> {
    tokio::select! {
        biased;
        signal = signals.next() => Err(RoleError::Forced(signal)),
        () = stopping => Ok(()),
    }
}

/// A registry with the metrics of this process.
fn registry() -> Result<Registry, prometheus::Error> {
    let registry = Registry::new();
    telemetry::register_process_metrics(&registry, env!("CARGO_PKG_VERSION"))?;
    Ok(registry)
}

fn master_config(root: &Root) -> mallorn_master::Config {
    mallorn_master::Config {
        cluster: root.cluster.name.clone(),
        body_limit_bytes: root.cluster.body_limit_bytes(),
        master: root.master.clone(),
    }
}

async fn start_worker(root: &Root, config: WorkerConfig) -> Result<mallorn_worker::Running, RoleError> {
    let surroundings = Surroundings {
        cluster: root.cluster.name.clone(),
        body_limit_bytes: root.cluster.body_limit_bytes(),
        disk: Disk::real(),
        random: Random::from_system(),
        registry: registry()?,
    };
    Ok(mallorn_worker::start(config, surroundings).await?)
}

fn master_ready(running: &mallorn_master::Running) -> Ready {
    Ready { role: Role::Master, control: running.control_address(), data: None, admin: running.admin_address() }
}

fn worker_ready(running: &mallorn_worker::Running) -> Ready {
    let (control, data, admin) = (running.control_address(), running.data_address(), running.admin_address());
    Ready { role: Role::Worker, control, data: Some(data), admin }
}
