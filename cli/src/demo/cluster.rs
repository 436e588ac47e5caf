//! The demo's own cluster: a master and workers, each a process, and a folder that all of them share.
//!
//! Owns the folder and the order of start and end. Whatever way the demo ends, nothing of it is left: the processes are
//! killed and reaped, the folder is removed; if the demo itself is killed, the processes notice and do the latter.

mod process;

use std::ffi::OsStr;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use mallorn_runtime::config::{Loaded, effective_toml};
use mallorn_runtime::disk::{CreateDirError, Disk, ReplaceError};
use tempfile::TempDir;

use crate::role::Role;
use crate::settings::Root;
use process::Process;

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
    /// A process said something else than that it is ready.
    #[error("{name} said {line:?} instead of where it listens")]
    Answer {
        /// Which one.
        name: String,
        /// What it said.
        line: String,
    },
}

/// A master and workers of the demo's own.
#[derive(Debug)]
pub(super) struct Cluster {
    // Dropped first to last: processes before the folder that they use.
    workers: Vec<Process>,
    master: Option<(Process, SocketAddr)>,
    folder: TempDir,
}

impl Cluster {
    /// A cluster without processes.
    pub(super) fn new() -> Result<Self, ClusterError> {
        let parent = std::env::temp_dir();
        let folder = tempfile::Builder::new().prefix("mallorn-demo-").tempdir_in(&parent);
        let folder = folder.map_err(|source| ClusterError::Folder { parent, source })?;
        if folder.path().to_str().is_none() {
            return Err(ClusterError::FolderName(folder.path().to_owned()));
        }
        Ok(Self { workers: Vec::new(), master: None, folder })
    }

    /// Starts the processes; all workers are known to the master when this returns.
    pub(super) async fn start(&mut self, settings: &Loaded<Root>, workers: u16) -> Result<SocketAddr, ClusterError> {
        let master_folder = self.folder_of("master")?;
        let file = master_folder.join("mallorn.toml");
        Disk::real().replace(&file, effective_toml(settings).as_bytes())?;

        let listen = ["master.listen=127.0.0.1:0", "master.admin="];
        let mut master = Process::spawn("master", &command(Role::Master, &file, &master_folder, &listen))?;
        let ready = master.ready().await;
        let address = self.master.insert((master, ready?.control)).1;
        for number in 1..=workers {
            let process = self.spawn_worker(&file, number, address)?;
            self.workers.push(process);
        }
        for worker in &mut self.workers {
            worker.ready().await?;
        }
        Ok(address)
    }

    fn spawn_worker(&self, settings: &Path, number: u16, master: SocketAddr) -> Result<Process, ClusterError> {
        let name = format!("worker-{number}");
        let folder = self.folder_of(&name)?;
        let own = [format!("worker.name={name}"), format!("worker.master={master}")];
        let listen = ["worker.control_listen=127.0.0.1:0", "worker.data_listen=127.0.0.1:0", "worker.admin_listen="];
        let here = listen.into_iter().chain(["worker.advertised_host="]);
        let assignments: Vec<&str> = own.iter().map(String::as_str).chain(here).collect();
        let mut arguments = command(Role::Worker, settings, &folder, &assignments);
        arguments.extend(["--data-folder".into(), folder.join("data").into_os_string()]);
        Process::spawn(&name, &arguments)
    }

    /// The folder of one process, which is the one to remove it if the demo can't.
    fn folder_of(&self, name: &str) -> Result<PathBuf, CreateDirError> {
        let folder = self.folder.path().join(name);
        Disk::real().create_dir(&folder)?;
        Ok(folder)
    }

    /// Kills the worker that has most in memory with SIGKILL, and returns its name.
    pub(super) async fn kill_fullest_worker(&mut self) -> Option<String> {
        let alive = self.workers.iter_mut().filter(|worker| worker.is_running());
        let fullest = alive.max_by_key(|worker| worker.resident_bytes())?;
        fullest.kill(Fate::KilledByFault).await;
        // If the demo is killed before it can clean up, the others can't know that this one does not.
        let _ = Disk::real().remove_dir_all(&self.folder.path().join(fullest.name()));
        Some(fullest.name().to_owned())
    }

    /// Kills and reaps all processes and removes the folder. Returns what the processes have used, the master first,
    /// and what went wrong.
    pub(super) async fn close(mut self) -> (Vec<ProcessFigures>, io::Result<()>) {
        let master = self.master.take().map(|(process, _)| process);
        let mut processes: Vec<_> = master.into_iter().chain(std::mem::take(&mut self.workers)).collect();
        for process in &mut processes {
            process.kill(Fate::EndedByDemo).await;
        }
        let figures = processes.iter().map(Process::figures).collect();
        (figures, self.folder.close())
    }
}

/// The arguments that run a role on the settings of a file, with some of them set otherwise.
fn command(role: Role, settings: &Path, folder: &Path, assignments: &[&str]) -> Vec<std::ffi::OsString> {
    let role = role.to_string();
    let mut arguments: Vec<&OsStr> = vec![role.as_ref(), "--config".as_ref(), settings.as_ref()];
    arguments.extend(["--until-stdin-closes".as_ref(), folder.as_os_str()]);
    for assignment in assignments {
        arguments.extend([OsStr::new("--set"), assignment.as_ref()]);
    }
    arguments.into_iter().map(OsStr::to_owned).collect()
}
