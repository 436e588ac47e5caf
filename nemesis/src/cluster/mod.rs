//! The cluster under test: a master and workers, each a process of the real binary, on loopback or each on a machine of
//! its own.
//!
//! | part | file |
//! |---|---|
//! | one process | `process` |
//! | namespaces, cables, cuts | `network` |
//! | what processes count | `metrics` |
//!
//! Owns who runs where with which settings, and what is asked of them. Does not own any fault.

mod network;
mod process;

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mallorn_runtime::admin::page::Page;
use mallorn_runtime::disk::Disk;
use rustix::process::Signal;

use crate::failure::{Failure, Witness, must, until};
use crate::fault::Context;
pub(crate) use network::{Network, PREFIX, Subnet, Way};
pub(crate) use process::{Log, Process, Ready};

/// The node number of the suite's own side, of the master, and of the first worker.
pub(crate) const SUITE: u8 = 1;
const MASTER: u8 = 10;
const FIRST_WORKER: u8 = 11;

/// Ports of every node: each has an address of its own.
pub(crate) const MASTER_PORT: u16 = 9097;
pub(crate) const CONTROL_PORT: u16 = 9101;
pub(crate) const DATA_PORT: u16 = 9102;

/// How long a process may take to show its metrics.
const METRICS_WITHIN: Duration = Duration::from_secs(3);
/// How long everything may take to be known to the master.
const KNOWN_WITHIN: Duration = Duration::from_secs(20);

/// What cluster a scenario wants.
#[derive(Clone, Debug)]
pub(crate) struct Spec {
    pub(crate) workers: u8,
    /// How many of them, the last ones, are not started at first.
    pub(crate) late: u8,
    /// Of each worker's arena.
    pub(crate) memory_mib: u32,
    pub(crate) worker_lease: Duration,
    pub(crate) application_lease: Duration,
    /// Each process in a network namespace of its own.
    pub(crate) is_networked: bool,
    /// More settings of all workers.
    pub(crate) settings: Vec<String>,
    /// More settings of single workers.
    pub(crate) own_settings: Vec<(u8, String)>,
    /// Where a worker keeps its data, where that is not in the suite's folder; several for several disks.
    pub(crate) data: Vec<(u8, PathBuf)>,
}

impl Default for Spec {
    fn default() -> Self {
        Self {
            workers: 3,
            late: 0,
            memory_mib: 64,
            worker_lease: Duration::from_secs(2),
            application_lease: Duration::from_secs(10),
            is_networked: false,
            settings: Vec::new(),
            own_settings: Vec::new(),
            data: Vec::new(),
        }
    }
}

/// A place where a process runs, and runs again.
#[derive(Debug)]
pub(crate) struct Node {
    name: String,
    process: Option<Process>,
    ready: Option<Ready>,
    /// Where it keeps data.
    data: Vec<PathBuf>,
}

/// A master and workers; dropping it kills them.
#[derive(Debug)]
pub(crate) struct Cluster {
    // Dropped first to last: processes before the network and the folders that they use.
    workers: Vec<Node>,
    master: Node,
    network: Option<Network>,
    spec: Spec,
    subnet: Subnet,
    mallorn: PathBuf,
    folder: PathBuf,
    witness: Witness,
}

impl Cluster {
    /// Starts it, with its files in this folder; the master knows all workers when this returns.
    pub(crate) async fn start(context: &Context, spec: Spec) -> Result<Self, Failure> {
        let (subnet, folder) = (subnet(spec.is_networked), context.folder.clone());
        let numbers: Vec<u8> = (0..spec.workers).map(|worker| FIRST_WORKER + worker).collect();
        let nodes: Vec<u8> = std::iter::once(MASTER).chain(numbers.iter().copied()).collect();
        let network = if spec.is_networked { Some(Network::new(subnet, &nodes).await?) } else { None };
        let node = |number: u8, name: String| {
            let given = spec.data.iter().filter(|(worker, _)| worker + FIRST_WORKER == number);
            let given: Vec<PathBuf> = given.map(|(_, path)| path.clone()).collect();
            let data = if given.is_empty() { vec![folder.join(&name).join("data")] } else { given };
            Node { name, process: None, ready: None, data }
        };
        let workers = (0..).zip(&numbers).map(|(worker, number)| node(*number, format!("worker-{worker}"))).collect();
        let master = node(MASTER, "master".to_owned());
        let (mallorn, witness) = (context.mallorn.clone(), context.witness.clone());
        let mut cluster = Self { workers, master, network, spec, subnet, mallorn, folder, witness };
        cluster.start_master().await?;
        let first = cluster.spec.workers - cluster.spec.late;
        for worker in 0..first {
            cluster.spawn_worker(worker, &[])?;
        }
        for worker in 0..first {
            cluster.ready(worker).await?;
        }
        cluster.until_live(first).await?;
        Ok(cluster)
    }

    /// Where lifecycle managers reach the master.
    pub(crate) fn master(&self) -> String {
        format!("{}:{MASTER_PORT}", self.subnet.host(MASTER))
    }

    /// Where the suite's own side is reached.
    pub(crate) fn suite(&self) -> String {
        if self.spec.is_networked { self.subnet.host(SUITE) } else { "127.0.0.1".to_owned() }
    }

    /// The address of a worker's machine.
    pub(crate) fn host(&self, worker: u8) -> String {
        self.subnet.host(FIRST_WORKER + worker)
    }

    /// An address on loopback that nobody has, for what stands in front of a worker; also before there is a cluster.
    pub(crate) fn front(worker: u8) -> String {
        subnet(false).host(100 + worker)
    }

    /// What is told where the scenario fails.
    pub(crate) fn witness(&self) -> &Witness {
        &self.witness
    }

    /// The network, where each process has a namespace of its own.
    pub(crate) fn network(&self) -> Result<&Network, Failure> {
        self.network.as_ref().ok_or_else(|| Failure::Setup("this cluster has no network of its own".to_owned()))
    }

    /// The node number of a worker, and of the master, for the network.
    pub(crate) fn node(worker: u8) -> u8 {
        FIRST_WORKER + worker
    }

    pub(crate) fn master_node() -> u8 {
        MASTER
    }

    /// Where a worker keeps its data.
    pub(crate) fn data(&self, worker: u8) -> &Path {
        &self.workers[usize::from(worker)].data[0]
    }

    pub(crate) fn process(&mut self, worker: u8) -> Result<&mut Process, Failure> {
        let node = &mut self.workers[usize::from(worker)];
        node.process.as_mut().ok_or_else(|| Failure::Setup(format!("{} does not run", node.name)))
    }

    pub(crate) fn master_process(&mut self) -> Result<&mut Process, Failure> {
        self.master.process.as_mut().ok_or_else(|| Failure::Setup("the master does not run".to_owned()))
    }

    /// Where metrics and probes are served, by all that have been started.
    pub(crate) fn admins(&self) -> impl Iterator<Item = SocketAddr> {
        let nodes = std::iter::once(&self.master).chain(&self.workers);
        nodes.filter_map(|node| Some(node.ready?.admin))
    }

    /// Kills a worker with SIGKILL, and sees by its status that it is dead of it.
    pub(crate) async fn kill(&mut self, worker: u8) -> Result<String, Failure> {
        let node = &mut self.workers[usize::from(worker)];
        node.kill().await
    }

    /// Kills all workers at once.
    pub(crate) async fn kill_all(&mut self) -> Result<String, Failure> {
        for worker in 0..self.spec.workers {
            self.process(worker)?.signal(Signal::KILL)?;
        }
        for node in &mut self.workers {
            node.kill().await?;
        }
        Ok(format!("{} processes dead of SIGKILL", self.spec.workers))
    }

    pub(crate) async fn kill_master(&mut self) -> Result<String, Failure> {
        self.master.kill().await
    }

    /// Tells a worker to end, and waits until it has, with 0; returns its log.
    pub(crate) async fn terminate(&mut self, worker: u8, within: Duration) -> Result<Log, Failure> {
        let node = &mut self.workers[usize::from(worker)];
        let Some(mut process) = node.process.take() else {
            return Err(Failure::Setup(format!("{} does not run", node.name)));
        };
        process.signal(Signal::TERM)?;
        let status = process.ended_within(within).await?;
        must(status.success(), || format!("{} ended with {status}{}", node.name, process.log().tail()))?;
        Ok(process.log().clone())
    }

    pub(crate) async fn start_master(&mut self) -> Result<(), Failure> {
        let host = self.subnet.host(MASTER);
        let settings = vec![
            format!("master.listen={host}:{MASTER_PORT}"),
            format!("master.admin={host}:9098"),
            format!("master.worker_lease={}ms", self.spec.worker_lease.as_millis()),
            format!("master.application_lease={}ms", self.spec.application_lease.as_millis()),
        ];
        let mut process = self.spawn("master", MASTER, &settings, &[])?;
        self.master.ready = Some(process.ready().await?);
        self.master.process = Some(process);
        Ok(())
    }

    /// Starts a worker again, with its folders; it serves when this returns.
    pub(crate) async fn start_worker(&mut self, worker: u8) -> Result<(), Failure> {
        self.start_worker_by(worker, &[]).await
    }

    /// The same through another program, such as one that changes what it sees.
    pub(crate) async fn start_worker_by(&mut self, worker: u8, through: &[String]) -> Result<(), Failure> {
        self.spawn_worker(worker, through)?;
        self.ready(worker).await
    }

    /// Gives a worker that does not run other folders.
    pub(crate) fn move_data(&mut self, worker: u8, data: PathBuf) {
        self.workers[usize::from(worker)].data = vec![data];
    }

    fn spawn_worker(&mut self, worker: u8, through: &[String]) -> Result<(), Failure> {
        let (number, host) = (FIRST_WORKER + worker, self.host(worker));
        let node = &self.workers[usize::from(worker)];
        let folders: Vec<String> = node.data.iter().map(|path| format!("{:?}", path.display().to_string())).collect();
        let mut settings = vec![
            format!("worker.name={}", node.name),
            format!("worker.master={}", self.master()),
            format!("worker.control_listen={host}:{CONTROL_PORT}"),
            format!("worker.data_listen={host}:{DATA_PORT}"),
            format!("worker.admin_listen={host}:9103"),
            format!("worker.memory={}MiB", self.spec.memory_mib),
            "worker.grace=20s".to_owned(),
            format!("worker.data_folders=[{}]", folders.join(",")),
        ];
        settings.extend(self.spec.settings.iter().cloned());
        let own = self.spec.own_settings.iter().filter(|(of, _)| *of == worker);
        settings.extend(own.map(|(_, setting)| setting.clone()));
        let process = self.spawn("worker", number, &settings, through)?;
        self.workers[usize::from(worker)].process = Some(process);
        Ok(())
    }

    async fn ready(&mut self, worker: u8) -> Result<(), Failure> {
        let ready = self.process(worker)?.ready().await?;
        self.workers[usize::from(worker)].ready = Some(ready);
        Ok(())
    }

    fn spawn(&self, role: &str, number: u8, settings: &[String], through: &[String]) -> Result<Process, Failure> {
        // A folder that it may remove when it is left behind; what matters is elsewhere.
        let life = self.folder.join(format!("life-{number}"));
        Disk::real().create_dir(&life).map_err(|error| Failure::Setup(error.to_string()))?;
        let mut arguments: Vec<OsString> =
            self.network.iter().flat_map(|net| net.enter(number)).map(Into::into).collect();
        arguments.extend(through.iter().map(Into::into));
        arguments.extend([self.mallorn.clone().into(), role.into(), "--until-stdin-closes".into(), life.into()]);
        for setting in ["log.format=json", "log.filter=info"].map(str::to_owned).iter().chain(settings) {
            arguments.extend(["--set".into(), setting.into()]);
        }
        let program = PathBuf::from(arguments.remove(0));
        let process = Process::spawn(&format!("{role} {number}"), &program, &arguments)?;
        let (name, log) = (format!("{role} {number}"), process.log().clone());
        self.witness.add(move || format!("{name}:{}", log.tail()));
        Ok(process)
    }

    /// A number of a worker's metrics; `None` where it does not answer.
    pub(crate) async fn worker_metric(&self, worker: u8, name: &str, label: &str) -> Option<f64> {
        let admin = self.workers[usize::from(worker)].ready?.admin;
        Some(Page::of(admin, METRICS_WITHIN).await?.sum(&format!("mallorn_worker_{name}"), label))
    }

    /// The sum over all workers that answer.
    pub(crate) async fn metric(&self, name: &str, label: &str) -> f64 {
        let mut sum = 0.0;
        for worker in 0..self.spec.workers {
            sum += self.worker_metric(worker, name, label).await.unwrap_or(0.0);
        }
        sum
    }

    /// A number of the master's metrics.
    pub(crate) async fn master_metric(&self, name: &str, label: &str) -> Option<f64> {
        Some(Page::of(self.master.ready?.admin, METRICS_WITHIN).await?.sum(name, label))
    }

    /// Waits until a number of the master's is as it should be; returns how long that took.
    pub(crate) async fn until_master(
        &self,
        name: &str,
        label: &str,
        holds: impl Fn(f64) -> bool,
    ) -> Result<Duration, Failure> {
        let came = until(KNOWN_WITHIN, async || self.master_metric(name, label).await.is_some_and(&holds)).await;
        came.ok_or_else(|| Failure::Wrong(format!("{name}{{{label}}} of the master is not as it should be")))
    }

    /// Waits until the master says so many workers live.
    pub(crate) async fn until_live(&self, workers: u8) -> Result<Duration, Failure> {
        self.until_master("mallorn_master_workers", "state=\"live\"", |live| live == f64::from(workers)).await
    }

    /// Waits until no worker that runs holds anything of a shuffle any more, in memory or on disk.
    pub(crate) async fn nothing_left(&self, within: Duration) -> Result<(), Failure> {
        let left = async || {
            let mut left = Vec::new();
            for node in self.workers.iter().filter(|node| node.process.is_some()) {
                let Some(Ready { admin }) = node.ready else { continue };
                let Some(page) = Page::of(admin, METRICS_WITHIN).await else {
                    left.push(format!("{} does not answer", node.name));
                    continue;
                };
                for what in ["locations", "streams", "memory_held_bytes"] {
                    let sum = page.sum(&format!("mallorn_worker_{what}"), "");
                    if sum != 0.0 {
                        left.push(format!("{sum} {what} at {}", node.name));
                    }
                }
                let files: u64 = node.data.iter().map(|folder| bytes_in(folder)).sum();
                if files > EMPTY_BYTES_MAX {
                    left.push(format!("{files} bytes of files at {}", node.name));
                }
            }
            left
        };
        if until(within, async || left().await.is_empty()).await.is_some() {
            return Ok(());
        }
        Err(Failure::Wrong(format!("after the release there are still {}", left().await.join(", "))))
    }

    /// How many lines of the logs of processes that run hold this text.
    pub(crate) fn logged(&self, text: &str) -> usize {
        let nodes = std::iter::once(&self.master).chain(&self.workers);
        nodes.filter_map(|node| node.process.as_ref()).map(|process| process.log().count(text)).sum()
    }

    /// Fails where a process that should run has ended.
    pub(crate) fn all_run(&mut self) -> Result<(), Failure> {
        for node in std::iter::once(&mut self.master).chain(&mut self.workers) {
            if let Some(process) = &mut node.process
                && let Some(status) = process.ended()
            {
                return Err(Failure::Wrong(format!("{} has ended: {status}{}", node.name, process.log().tail())));
            }
        }
        Ok(())
    }
}

/// Suites that run side by side are apart; namespaces are in the range that is set aside for tests of networks.
fn subnet(is_networked: bool) -> Subnet {
    let [_, _, high, low] = std::process::id().to_be_bytes();
    Subnet(if is_networked { [198, 18 + high % 2, low] } else { [127, 64 + high % 64, low] })
}

impl Node {
    async fn kill(&mut self) -> Result<String, Failure> {
        use std::os::unix::process::ExitStatusExt as _;
        let Some(mut process) = self.process.take() else {
            return Err(Failure::Setup(format!("{} does not run", self.name)));
        };
        let status = process.kill().await?;
        if status.signal() != Some(9) {
            return Err(Failure::NotStruck(format!("{} ended with {status}{}", self.name, process.log().tail())));
        }
        Ok(format!("{} dead of SIGKILL", self.name))
    }
}

/// What a worker keeps of itself: its identity, and locks.
const EMPTY_BYTES_MAX: u64 = 256 * 1024;

/// Bytes of all files in a folder and below.
pub(crate) fn bytes_in(folder: &Path) -> u64 {
    files_in(folder).into_iter().filter_map(|path| path.metadata().ok()).map(|metadata| metadata.len()).sum()
}

/// All files in a folder and below, in order.
pub(crate) fn files_in(folder: &Path) -> Vec<PathBuf> {
    let (mut folders, mut files) = (vec![folder.to_owned()], Vec::new());
    while let Some(folder) = folders.pop() {
        // What goes while it is looked at is not there.
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    files.sort();
    files
}
