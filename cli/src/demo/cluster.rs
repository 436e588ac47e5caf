//! The demo's own cluster: a master and workers, each a process, and a folder that all of them share.
//!
//! Owns the folder and the order of start and end. Whatever way the demo ends, nothing of it is left: the processes are
//! killed and reaped, the folder is removed; if the demo itself is killed, the processes notice and do the latter.

mod bytes;
mod process;

use std::ffi::OsStr;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mallorn_runtime::config::{Loaded, effective_toml};
use mallorn_runtime::disk::{CreateDirError, Disk, ReplaceError};
use tempfile::TempDir;

use crate::role::Role;
use crate::settings::Root;
use process::Process;

pub(super) use bytes::WorkerBytes;
pub(super) use process::{Fate, ProcessFigures};

/// Why the cluster did not start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClusterError {
    /// No temporary folder.
    #[error("can't create a temporary folder in {parent}: {source}; name another place in TMPDIR", parent = .parent.display())]
    Folder {
        /// Where.
        parent: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The folder's name can't be handed to the processes.
    #[error("the name of the temporary folder {} is not text; name another place in TMPDIR", .0.display())]
    FolderName(PathBuf),
    /// A folder in it.
    #[error(transparent)]
    Create(#[from] CreateDirError),
    /// The settings for the processes.
    #[error(transparent)]
    Settings(#[from] ReplaceError),
    /// A process was not started.
    #[error("can't start {name}: {source}")]
    Spawn {
        /// Which one.
        name: String,
        /// What the system said.
        source: io::Error,
    },
    /// A process ended instead of getting ready.
    #[error("{name} did not start ({status}){tail}")]
    Ended {
        /// Which one.
        name: String,
        /// Its exit status.
        status: String,
        /// The last lines of its log.
        tail: String,
    },
    /// A process did not get ready in time.
    #[error("{name} was not ready within {within_s} s{tail}")]
    NotReady {
        /// Which one.
        name: String,
        /// How long was waited, in seconds.
        within_s: u64,
        /// The last lines of its log.
        tail: String,
    },
    /// A worker was not drained.
    #[error("drain {name}: {why}")]
    Drain {
        /// Which one.
        name: String,
        /// What came of it.
        why: String,
    },
    /// A process said something else than that it is ready.
    #[error("{name} said {line:?} instead of where it listens")]
    Answer {
        /// Which one.
        name: String,
        /// What it said.
        line: String,
    },
}

/// How long a drained worker may take to hand over, and to end then.
const DRAIN_WITHIN: Duration = Duration::from_secs(120);
const END_WITHIN: Duration = Duration::from_secs(30);

/// A master and workers of the demo's own.
#[derive(Debug)]
pub(super) struct Cluster {
    // Dropped first to last: processes before the folders that they use.
    workers: Vec<Process>,
    /// A worker that was started again and was not waited for yet.
    restarted: Option<Process>,
    master: Option<(Process, SocketAddr)>,
    /// Bytes of workers that have ended.
    bytes: WorkerBytes,
    cluster: String,
    folder: TempDir,
    /// Where workers keep data, where that is elsewhere.
    data: Vec<TempDir>,
}

impl Cluster {
    /// A cluster without processes, whose workers write below these folders, if there are any.
    pub(super) fn new(data: &[PathBuf]) -> Result<Self, ClusterError> {
        let folder = temporary(&std::env::temp_dir())?;
        let mut folders = Vec::with_capacity(data.len());
        for parent in data {
            Disk::real().create_dir(parent)?;
            folders.push(temporary(parent)?);
        }
        Ok(Self {
            workers: Vec::new(),
            restarted: None,
            master: None,
            bytes: WorkerBytes::default(),
            cluster: String::new(),
            folder,
            data: folders,
        })
    }

    /// Starts the processes; all workers are known to the master when this returns.
    pub(super) async fn start(&mut self, settings: &Loaded<Root>, workers: u16) -> Result<SocketAddr, ClusterError> {
        self.cluster.clone_from(&settings.value.cluster.name);
        let master_folder = self.folder_of("master")?;
        let file = self.settings_file();
        Disk::real().replace(&file, effective_toml(settings).as_bytes())?;

        let listen = ["master.listen=127.0.0.1:0", "master.admin="];
        let mut master = Process::spawn("master", &command(Role::Master, &file, &[master_folder], &listen))?;
        let ready = master.ready().await;
        let address = self.master.insert((master, ready?.control)).1;
        for number in 1..=workers {
            let process = self.spawn_worker(&format!("worker-{number}"), address)?;
            self.workers.push(process);
        }
        for worker in &mut self.workers {
            worker.ready().await?;
        }
        Ok(address)
    }

    fn settings_file(&self) -> PathBuf {
        self.folder.path().join("master").join("mallorn.toml")
    }

    fn spawn_worker(&self, name: &str, master: SocketAddr) -> Result<Process, ClusterError> {
        let folder = self.folder_of(name)?;
        let own = [format!("worker.name={name}"), format!("worker.master={master}")];
        let listen = ["worker.control_listen=127.0.0.1:0", "worker.data_listen=127.0.0.1:0", "worker.admin_listen="];
        let here = listen.into_iter().chain(["worker.advertised_host="]);
        let assignments: Vec<&str> = own.iter().map(String::as_str).chain(here).collect();
        let elsewhere: Vec<_> = self.data.iter().map(|data| data.path().join(name)).collect();
        let data = if elsewhere.is_empty() { vec![folder.join("data")] } else { elsewhere.clone() };
        let folders: Vec<_> = std::iter::once(folder).chain(elsewhere).collect();
        let mut arguments = command(Role::Worker, &self.settings_file(), &folders, &assignments);
        for data in data {
            arguments.extend(["--data-folder".into(), data.into_os_string()]);
        }
        Process::spawn(name, &arguments)
    }

    /// The folder of one process, which is the one to remove it if the demo can't.
    fn folder_of(&self, name: &str) -> Result<PathBuf, CreateDirError> {
        let folder = self.folder.path().join(name);
        Disk::real().create_dir(&folder)?;
        Ok(folder)
    }

    /// The worker that has most in memory.
    fn fullest(&mut self) -> Option<&mut Process> {
        let alive = self.workers.iter_mut().filter(|worker| worker.is_running());
        alive.max_by_key(|worker| worker.resident_bytes())
    }

    /// A worker by its name. Which one is the fullest may change while others are asked something.
    fn worker(&mut self, name: &str) -> Option<&mut Process> {
        self.workers.iter_mut().find(|worker| worker.name() == name && worker.is_running())
    }

    /// Kills the worker that has most in memory with SIGKILL, and returns its name.
    pub(super) async fn kill_fullest_worker(&mut self) -> Option<String> {
        let name = self.fullest()?.name().to_owned();
        self.count_bytes_of(&name).await;
        self.worker(&name)?.kill(Fate::KilledByFault).await;
        // If the demo is killed before it can clean up, the others can't know that this one does not.
        for folder in std::iter::once(&self.folder).chain(&self.data) {
            let _ = Disk::real().remove_dir_all(&folder.path().join(&name));
        }
        Some(name)
    }

    /// Kills the worker that has most in memory with SIGKILL and starts it again on its folders; returns its name. It is
    /// not waited for: readers are to do that.
    pub(super) async fn restart_fullest_worker(&mut self) -> Result<Option<String>, ClusterError> {
        let Some(name) = self.fullest().map(|worker| worker.name().to_owned()) else { return Ok(None) };
        let Some((_, master)) = self.master else { return Ok(None) };
        self.count_bytes_of(&name).await;
        if let Some(worker) = self.worker(&name) {
            worker.kill(Fate::KilledByFault).await;
        }
        self.restarted = Some(self.spawn_worker(&name, master)?);
        Ok(Some(name))
    }

    /// Waits for a worker that was started again.
    pub(super) async fn restarted(&mut self) -> Result<(), ClusterError> {
        let Some(mut worker) = self.restarted.take() else { return Ok(()) };
        let ready = worker.ready().await;
        self.workers.push(worker);
        ready.map(drop)
    }

    /// Has the worker that has most in memory hand over what it holds and end; returns its name, and the bytes handed over.
    pub(super) async fn drain_fullest_worker(&mut self) -> Result<Option<(String, u64)>, ClusterError> {
        let Some(name) = self.fullest().map(|worker| worker.name().to_owned()) else { return Ok(None) };
        let Some((_, master)) = self.master else { return Ok(None) };
        let failed = |why: String| ClusterError::Drain { name: name.clone(), why };
        let handed_over = bytes::hand_over(master, &self.cluster, &name, DRAIN_WITHIN).await.map_err(failed)?;
        self.count_bytes_of(&name).await;
        if let Some(worker) = self.worker(&name) {
            worker.terminate(END_WITHIN).await.map_err(failed)?;
        }
        Ok(Some((name, handed_over)))
    }

    /// Adds what a worker that is about to end has moved.
    async fn count_bytes_of(&mut self, name: &str) {
        if let Some((_, master)) = self.master {
            let bytes = bytes::ask(master, &self.cluster).await;
            self.bytes.add(bytes.get(name).copied().unwrap_or_default());
        }
    }

    /// What all workers have moved, those that have ended included.
    pub(super) async fn count_bytes(&mut self) -> WorkerBytes {
        let mut all = self.bytes;
        if let Some((_, master)) = self.master {
            let running: Vec<_> = self.workers.iter().filter(|worker| worker.is_running()).map(Process::name).collect();
            let bytes = bytes::ask(master, &self.cluster).await;
            running.iter().for_each(|name| all.add(bytes.get(*name).copied().unwrap_or_default()));
        }
        all
    }

    /// Kills and reaps all processes and removes the folder. Returns what the processes have used, the master first,
    /// and what went wrong.
    pub(super) async fn close(mut self) -> (Vec<ProcessFigures>, io::Result<()>) {
        let master = self.master.take().map(|(process, _)| process);
        let workers = std::mem::take(&mut self.workers).into_iter().chain(self.restarted.take());
        let mut processes: Vec<_> = master.into_iter().chain(workers).collect();
        for process in &mut processes {
            process.kill(Fate::EndedByDemo).await;
        }
        let figures = processes.iter().map(Process::figures).collect();
        let removed = std::mem::take(&mut self.data).into_iter().map(TempDir::close).find(Result::is_err);
        (figures, removed.unwrap_or(Ok(())).and(self.folder.close()))
    }
}

/// A folder for the life of this demo, whose name can be handed to processes.
fn temporary(parent: &Path) -> Result<TempDir, ClusterError> {
    let folder = tempfile::Builder::new().prefix("mallorn-demo-").tempdir_in(parent);
    let folder = folder.map_err(|source| ClusterError::Folder { parent: parent.to_owned(), source })?;
    match folder.path().to_str() {
        Some(_) => Ok(folder),
        None => Err(ClusterError::FolderName(folder.path().to_owned())),
    }
}

/// The arguments that run a role on the settings of a file, with some of them set otherwise.
fn command(role: Role, settings: &Path, folders: &[PathBuf], assignments: &[&str]) -> Vec<std::ffi::OsString> {
    let role = role.to_string();
    let mut arguments: Vec<&OsStr> = vec![role.as_ref(), "--config".as_ref(), settings.as_ref()];
    for folder in folders {
        arguments.extend([OsStr::new("--until-stdin-closes"), folder.as_os_str()]);
    }
    for assignment in assignments {
        arguments.extend([OsStr::new("--set"), assignment.as_ref()]);
    }
    arguments.into_iter().map(OsStr::to_owned).collect()
}
