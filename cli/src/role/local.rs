//! `mallorn local`: a whole cluster in one process, to try things with.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use clap::builder::RangedU64ValueParser;
use mallorn_runtime::config::{ByteSize, Loaded, Origin};
use mallorn_runtime::task::{Shutdown, Tasks};
use mallorn_runtime::telemetry;
use mallorn_worker::WorkerConfig;
use tempfile::TempDir;

use super::ending::{Ending, ParentArgs};
use super::{Role, RoleError, exit, master_config, master_ready, registry, start_worker, stop, worker_ready};
use crate::config_command::SettingsArgs;
use crate::settings::Root;
use crate::signals::Signals;

/// Most workers in one process: a trial, not a cluster.
const WORKERS_MAX: u64 = 64;

/// How long the workers may take to stop, all together.
const STOP_WITHIN: Duration = Duration::from_secs(15);

/// Runs a master and workers in one process, to try things with
///
/// Where no addresses are set, everything listens on this machine alone: the master on its usual port, the workers on
/// free ones. Where no data folders are set, the workers write to a temporary one, which is removed at the end.
#[derive(Args, Clone, Debug)]
pub(crate) struct LocalArgs {
    #[command(flatten)]
    settings: SettingsArgs,

    /// How many workers
    #[arg(long, value_name = "N", default_value = "3", value_parser = RangedU64ValueParser::<u16>::new().range(1..=WORKERS_MAX))]
    workers: u16,

    /// Address of the master (master.listen)
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,

    /// Memory of each worker for shuffle data (worker.memory)
    #[arg(long, value_name = "SIZE")]
    memory: Option<ByteSize>,
}

/// Runs the cluster until it is told to end: exit code 0 then, 1 if it failed, 2 if its settings are wrong.
pub(crate) async fn local(args: LocalArgs) -> ExitCode {
    exit(run(args).await)
}

async fn run(args: LocalArgs) -> Result<(), RoleError> {
    let loader = args.settings.loader().set_some("master.listen", args.listen, "--listen").set_some(
        "worker.memory",
        args.memory,
        "--memory",
    );
    let mut loaded = loader.load::<Root>()?;
    telemetry::init(loaded.value.log.format, &loaded.value.log.filter)?;
    let mut signals = Signals::receive().map_err(RoleError::Signals)?;
    stay_local(&mut loaded);
    let mut root = loaded.value;
    // Removed with what is in it when this returns.
    let _folder = if root.worker.data_folders.is_empty() { Some(temporary(&mut root)?) } else { None };

    let broken = Shutdown::new();
    let master = mallorn_master::start(master_config(&root), &registry()?, broken.clone()).await?;
    let mut workers = Vec::new();
    for number in 1..=args.workers {
        workers.push(start_worker(&root, worker_config(&root, master.control_address(), number)).await?);
    }
    let alone = ParentArgs::default();
    let ending = tokio::select! {
        biased;
        ending = alone.ending(&mut signals, &broken) => ending,
        () = all_registered(&mut workers) => {
            workers.iter().for_each(|worker| worker_ready(worker).print());
            master_ready(&master).print();
            alone.ending(&mut signals, &broken).await
        }
    };
    if ending == Ending::Broken {
        return Err(RoleError::Broken(Role::Master));
    }
    let stopping = async {
        let mut tasks = Tasks::new();
        workers.into_iter().for_each(|worker| tasks.spawn(worker.stop()));
        tasks.join(STOP_WITHIN).await;
        master.stop().await;
    };
    stop(&mut signals, stopping).await
}

/// Has the workers write to a temporary folder.
fn temporary(root: &mut Root) -> Result<TempDir, RoleError> {
    let parent = std::env::temp_dir();
    let folder = tempfile::Builder::new().prefix("mallorn-local-").tempdir_in(&parent);
    let folder = folder.map_err(|source| RoleError::Folder { parent, source })?;
    root.worker.data_folders.push(folder.path().to_owned());
    Ok(folder)
}

async fn all_registered(workers: &mut [mallorn_worker::Running]) {
    for worker in workers {
        worker.registered().await;
    }
}

/// Moves addresses that nobody has set to the loopback interface.
fn stay_local(loaded: &mut Loaded<Root>) {
    let by_default = |key: &str| *loaded.origin(key) == Origin::Default;
    let (listen, admin) = (by_default("master.listen"), by_default("master.admin"));
    let (control, data) = (by_default("worker.control_listen"), by_default("worker.data_listen"));
    let worker_admin = by_default("worker.admin_listen");
    let local = |address: &mut SocketAddr, is_default: bool| {
        if is_default {
            address.set_ip(Ipv4Addr::LOCALHOST.into());
        }
    };
    let Root { master, worker, .. } = &mut loaded.value;
    local(&mut master.listen, listen);
    local(&mut worker.control_listen, control);
    local(&mut worker.data_listen, data);
    master.admin.iter_mut().for_each(|address| local(address, admin));
    worker.admin_listen.iter_mut().for_each(|address| local(address, worker_admin));
}

/// The settings of one of several workers: ports and folders of its own.
fn worker_config(root: &Root, master: SocketAddr, number: u16) -> WorkerConfig {
    let mut config = root.worker.clone();
    config.name = Some(format!("{}-{number}", root.worker.name.as_deref().unwrap_or("worker")));
    config.master = reachable(master).to_string();
    config.control_listen.set_port(0);
    config.data_listen.set_port(0);
    config.admin_listen.iter_mut().for_each(|address| address.set_port(0));
    let own = |folder: &PathBuf| folder.join(format!("worker-{number}"));
    config.data_folders = root.worker.data_folders.iter().map(own).collect();
    config
}

/// How this machine reaches an address that it listens on.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

#[cfg(test)]
mod tests {
    use mallorn_runtime::config::Loader;

    use super::*;

    #[test]
    fn only_addresses_that_nobody_set_become_local() {
        let loader = Loader::new().set("worker.data_listen", "0.0.0.0:7000", "--set");
        let mut loaded = loader.load::<Root>().unwrap();
        stay_local(&mut loaded);
        let root = loaded.value;
        assert!(root.master.listen.ip().is_loopback() && root.worker.control_listen.ip().is_loopback());
        assert!(root.worker.data_listen.ip().is_unspecified());
    }

    #[test]
    fn workers_share_neither_ports_nor_folders() {
        let root = Loader::new().set_list("worker.data_folders", ["/data"], "--set").load::<Root>().unwrap().value;
        let configs = [1, 2].map(|number| worker_config(&root, SocketAddr::from(([0, 0, 0, 0], 9097)), number));
        assert_eq!(configs[0].master, "127.0.0.1:9097");
        assert!(configs.iter().all(|config| config.control_listen.port() == 0 && config.data_listen.port() == 0));
        assert_ne!(configs[0].data_folders, configs[1].data_folders);
        assert_ne!(configs[0].name, configs[1].name);
    }
}
