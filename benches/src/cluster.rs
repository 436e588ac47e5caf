//! The cluster that is measured: a master and workers as real processes, which end with this one, or one that was there.
//!
//! Owns the processes, their folders, and what their metrics say.

use std::ffi::OsString;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use mallorn_runtime::admin::page::Page;
use mallorn_runtime::clock;
use mallorn_runtime::config::ByteSize;
use serde::Deserialize;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

/// How long a process may take to show its metrics.
const METRICS_WITHIN: Duration = Duration::from_secs(5);
/// How long a process may take to get ready.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// Processes on loopback, on free ports. Dropping it kills them.
pub(crate) struct Cluster {
    master: Process,
    workers: Vec<Process>,
    /// The working folder of the processes, which they remove themselves should this process vanish.
    _folder: TempDir,
    /// Where workers write.
    data: Option<TempDir>,
}

struct Process {
    child: Child,
    control: SocketAddr,
    admin: Option<SocketAddr>,
}

/// What a cluster's workers are given.
pub(crate) struct Workers<'a> {
    pub(crate) count: u32,
    /// For shuffle data, of each.
    pub(crate) memory: ByteSize,
    /// Where they make folders to write to; without it they have no disk.
    pub(crate) folder: Option<&'a Path>,
}

/// The line that a process prints once it serves; what else it says is of no use here.
#[derive(Deserialize)]
struct Ready {
    control: SocketAddr,
    admin: Option<SocketAddr>,
}

/// Why there is no cluster.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClusterError {
    #[error("there is no `mallorn` at {path}: build it with `cargo build --release`, or name it with --mallorn", path = path.display())]
    Missing { path: PathBuf },
    #[error("can't tell where this program is, to find `mallorn` beside it: {0}; name it with --mallorn")]
    Self_(io::Error),
    #[error("can't make a folder for the cluster: {0}")]
    Folder(io::Error),
    #[error("can't start the {role}: {source}")]
    Spawn { role: &'static str, source: io::Error },
    #[error("the {role} ended before it was ready ({status}); its log is above")]
    Ended { role: &'static str, status: String },
    #[error("the {role} was not ready within {READY_WITHIN:?}")]
    NotReady { role: &'static str },
    #[error("the {role} says `{line}` where its addresses were expected")]
    Answer { role: &'static str, line: String },
}

/// The program to start: the one given, or the one beside this program.
pub(crate) fn find_mallorn(given: Option<PathBuf>) -> Result<PathBuf, ClusterError> {
    let path = match given {
        Some(path) => path,
        None => std::env::current_exe().map_err(ClusterError::Self_)?.with_file_name("mallorn"),
    };
    if path.is_file() { Ok(path) } else { Err(ClusterError::Missing { path }) }
}

impl Cluster {
    /// Starts it; the master knows the workers when this returns.
    pub(crate) async fn start(mallorn: &Path, workers: &Workers<'_>) -> Result<Self, ClusterError> {
        let folder = tempfile::Builder::new().prefix("mallorn-bench-").tempdir().map_err(ClusterError::Folder)?;
        let make = |parent: &Path| tempfile::Builder::new().prefix("mallorn-bench-data-").tempdir_in(parent);
        let data = workers.folder.map(make).transpose().map_err(ClusterError::Folder)?;
        let settings = ["master.listen=127.0.0.1:0".to_owned(), "master.admin=127.0.0.1:0".to_owned()];
        let master = Process::start(mallorn, "master", &settings, folder.path()).await?;
        let mut cluster = Self { master, workers: Vec::new(), _folder: folder, data };
        for number in 0..workers.count {
            let mut settings = vec![
                format!("worker.master={}", cluster.master.control),
                format!("worker.memory={}", workers.memory),
                "worker.control_listen=127.0.0.1:0".to_owned(),
                "worker.data_listen=127.0.0.1:0".to_owned(),
                "worker.admin_listen=127.0.0.1:0".to_owned(),
            ];
            if let Some(data) = &cluster.data {
                let path = data.path().join(format!("worker-{number}"));
                settings.push(format!("worker.data_folders=[{:?}]", path.display().to_string()));
            }
            let worker = Process::start(mallorn, "worker", &settings, cluster._folder.path()).await?;
            cluster.workers.push(worker);
        }
        Ok(cluster)
    }

    /// Where lifecycle managers reach the master.
    pub(crate) fn master(&self) -> SocketAddr {
        self.master.control
    }

    /// The workers' process ids, of those that have not ended.
    pub(crate) fn worker_pids(&self) -> Vec<u32> {
        self.workers.iter().filter_map(|worker| worker.child.id()).collect()
    }

    /// Where workers write, if they do.
    pub(crate) fn data(&self) -> Option<&Path> {
        self.data.as_ref().map(TempDir::path)
    }

    /// What the workers' metrics of that name say, summed over workers and labels; 0 where one does not answer.
    pub(crate) async fn worker_metric(&self, name: &str) -> f64 {
        let mut sum = 0.0;
        for admin in self.workers.iter().filter_map(|worker| worker.admin) {
            sum += metric(admin, name).await;
        }
        sum
    }

    /// The same of the master's.
    pub(crate) async fn master_metric(&self, name: &str) -> f64 {
        match self.master.admin {
            Some(admin) => metric(admin, name).await,
            None => 0.0,
        }
    }
}

/// The sum of a metric over its labels; 0 where it is not there, or nobody answers.
async fn metric(admin: SocketAddr, name: &str) -> f64 {
    Page::of(admin, METRICS_WITHIN).await.map_or(0.0, |page| page.sum(name, ""))
}

impl Process {
    async fn start(
        mallorn: &Path,
        role: &'static str,
        settings: &[String],
        folder: &Path,
    ) -> Result<Self, ClusterError> {
        let mut arguments: Vec<OsString> = vec![role.into(), "--until-stdin-closes".into(), folder.into()];
        let all = ["log.filter=warn".to_owned(), "log.format=text".to_owned()];
        for setting in all.iter().chain(settings) {
            arguments.extend(["--set".into(), setting.into()]);
        }
        let mut command = Command::new(mallorn);
        // Everything that matters is on the command line; a Ctrl-C reaches them through their closed standard input.
        command.args(arguments).env_clear().process_group(0).kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().map_err(|source| ClusterError::Spawn { role, source })?;
        let stdout = child.stdout.take();
        let first_line = async {
            match stdout {
                Some(stdout) => BufReader::new(stdout).lines().next_line().await.ok().flatten(),
                None => None,
            }
        };
        let line = clock::timeout(READY_WITHIN, first_line).await.map_err(|_| ClusterError::NotReady { role })?;
        let Some(line) = line else {
            let status = child.wait().await.map_or_else(|error| error.to_string(), |status| status.to_string());
            return Err(ClusterError::Ended { role, status });
        };
        let Ok(Ready { control, admin }) = serde_json::from_str(&line) else {
            return Err(ClusterError::Answer { role, line });
        };
        Ok(Self { child, control, admin })
    }
}
