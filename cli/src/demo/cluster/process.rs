//! One child process: its start, its log, what it uses, its end.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use mallorn_runtime::clock::{self, Instant};
use mallorn_runtime::task::{Shutdown, Tasks};
use mallorn_runtime::telemetry::process::{Usage, usage_of};
use parking_lot::Mutex;
use serde::Serialize;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};
use tokio::process::{Child, Command};

use super::ClusterError;
use crate::role::Ready;

/// How long a process may take to get ready. Generous: machines that test are busy.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// How often a process is asked what it uses: often enough to know it of one that ends by itself.
const SAMPLE_EVERY: Duration = Duration::from_millis(200);
/// How long the log of an ended process may take to arrive.
const LOG_WITHIN: Duration = Duration::from_secs(1);
/// How much of a process's log is kept.
const TAIL_LINES: usize = 20;
const TAIL_LINE_BYTES: u64 = 2000;

/// How a process came to its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Fate {
    /// It has not ended.
    Running,
    /// The demo was done.
    EndedByDemo,
    /// It was killed on purpose, to show what happens then.
    KilledByFault,
    /// It was told to end, and has.
    Drained,
    /// It ended without being asked; the text says how, with the last lines of its log.
    Died(String),
}

/// What a process has used.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ProcessFigures {
    /// `master`, `worker-1`, `demo`.
    pub(crate) name: String,
    /// How long it ran, in seconds.
    pub(crate) wall_s: f64,
    /// CPU time, user and system, in seconds.
    pub(crate) cpu_s: f64,
    /// Most resident memory, in MiB.
    pub(crate) peak_rss_mib: f64,
    /// How it ended.
    #[serde(skip_serializing_if = "Fate::is_running")]
    pub(crate) fate: Fate,
}

impl Fate {
    fn is_running(&self) -> bool {
        *self == Self::Running
    }
}

impl ProcessFigures {
    pub(crate) fn new(name: &str, wall: Duration, usage: Usage, fate: Fate) -> Self {
        let peak_rss_mib = usage.peak_rss_bytes as f64 / f64::from(1 << 20);
        Self { name: name.to_owned(), wall_s: wall.as_secs_f64(), cpu_s: usage.cpu_s, peak_rss_mib, fate }
    }
}

/// A child process that runs a role. Dropping it kills it.
#[derive(Debug)]
pub(super) struct Process {
    name: String,
    child: Child,
    pid: u32,
    started: Instant,
    wall: Duration,
    usage: Arc<Mutex<Usage>>,
    log: Log,
    fate: Fate,
    _watching: Tasks,
}

impl Process {
    /// Runs this program with these arguments. The process ends when this one does.
    pub(super) fn spawn(name: &str, arguments: &[OsString]) -> Result<Self, ClusterError> {
        let failed = |source| ClusterError::Spawn { name: name.to_owned(), source };
        let mut command = Command::new(std::env::current_exe().map_err(failed)?);
        // Its settings are in a file, so it needs nothing of our environment. A Ctrl-C is meant for us alone: we end it.
        command.args(arguments).env_clear().env("RUST_BACKTRACE", "1").process_group(0).kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(failed)?;
        let pid = child.id().expect("it was not waited for yet");

        let (usage, log) = (Arc::new(Mutex::new(Usage::default())), Log::default());
        let mut watching = Tasks::new();
        watching.spawn(sample(pid, Arc::clone(&usage)));
        if let Some(stderr) = child.stderr.take() {
            watching.spawn(log.clone().collect(stderr));
        }
        let (name, started) = (name.to_owned(), clock::now());
        let (wall, fate) = (Duration::ZERO, Fate::Running);
        Ok(Self { name, child, pid, started, wall, usage, log, fate, _watching: watching })
    }

    /// Waits until it says that it is ready.
    pub(super) async fn ready(&mut self) -> Result<Ready, ClusterError> {
        let stdout = self.child.stdout.take();
        let line = async {
            match stdout {
                Some(stdout) => BufReader::new(stdout).lines().next_line().await.ok().flatten(),
                None => None,
            }
        };
        let name = self.name.clone();
        match clock::timeout(READY_WITHIN, line).await {
            Ok(Some(line)) => Ready::parse(&line).map_err(|_| ClusterError::Answer { name, line }),
            Ok(None) => {
                let status =
                    self.child.wait().await.map_or_else(|error| error.to_string(), |status| status.to_string());
                Err(ClusterError::Ended { name, status, tail: self.log.tail().await })
            }
            Err(_) => {
                // It runs, so its log does not end; what there is will do.
                Err(ClusterError::NotReady { name, within_s: READY_WITHIN.as_secs(), tail: self.log.lines() })
            }
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn is_running(&self) -> bool {
        self.fate.is_running()
    }

    /// Its resident memory.
    pub(super) fn resident_bytes(&self) -> u64 {
        usage_of(self.pid).map_or(0, |usage| usage.rss_bytes)
    }

    /// Ends it with SIGKILL, unless it has ended, and waits until it is gone.
    pub(super) async fn kill(&mut self, fate: Fate) {
        if !self.is_running() {
            return;
        }
        // What it used is known until it is waited for, its memory only while it lives.
        take_sample(self.pid, &self.usage);
        self.wall = self.started.elapsed();
        if let Ok(Some(status)) = self.child.try_wait() {
            self.fate = Fate::Died(format!("{status}{}", self.log.tail().await));
            return;
        }
        // It fails only for a process that is gone already.
        let _ = self.child.kill().await;
        self.fate = fate;
    }

    /// Tells it to end with SIGTERM, and waits until it has.
    pub(super) async fn terminate(&mut self, within: Duration) -> Result<(), String> {
        let pid = i32::try_from(self.pid).ok().and_then(rustix::process::Pid::from_raw).ok_or("it has no number")?;
        take_sample(self.pid, &self.usage);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).map_err(|error| error.to_string())?;
        let ended = clock::timeout(within, self.child.wait()).await;
        self.wall = self.started.elapsed();
        match ended {
            Ok(Ok(status)) if status.success() => {
                self.fate = Fate::Drained;
                Ok(())
            }
            Ok(Ok(status)) => {
                let how = format!("{status}{}", self.log.tail().await);
                self.fate = Fate::Died(how.clone());
                Err(how)
            }
            Ok(Err(error)) => Err(error.to_string()),
            Err(elapsed) => Err(format!("it has not ended: {elapsed}")),
        }
    }

    /// What it has used, up to its end.
    pub(super) fn figures(&self) -> ProcessFigures {
        ProcessFigures::new(&self.name, self.wall, *self.usage.lock(), self.fate.clone())
    }
}

async fn sample(pid: u32, usage: Arc<Mutex<Usage>>) {
    loop {
        take_sample(pid, &usage);
        clock::sleep(SAMPLE_EVERY).await;
    }
}

/// Takes in what the process has used. One that has ended tells no memory any more, so nothing may become less.
fn take_sample(pid: u32, usage: &Mutex<Usage>) {
    let Ok(now) = usage_of(pid) else { return };
    let mut usage = usage.lock();
    usage.cpu_s = usage.cpu_s.max(now.cpu_s);
    usage.rss_bytes = now.rss_bytes;
    usage.peak_rss_bytes = usage.peak_rss_bytes.max(now.peak_rss_bytes);
}

/// The last lines of a process's log.
#[derive(Clone, Debug, Default)]
struct Log {
    lines: Arc<Mutex<VecDeque<String>>>,
    complete: Shutdown,
}

impl Log {
    async fn collect(self, stderr: impl AsyncRead + Unpin) {
        let mut reader = BufReader::new(stderr);
        let mut line = Vec::new();
        while let Ok(1..) = (&mut reader).take(TAIL_LINE_BYTES).read_until(b'\n', &mut line).await {
            let text = String::from_utf8_lossy(&line);
            let mut lines = self.lines.lock();
            if lines.len() == TAIL_LINES {
                lines.pop_front();
            }
            lines.push_back(text.trim_end().to_owned());
            drop(lines);
            line.clear();
        }
        self.complete.trigger();
    }

    /// The last lines of a process that has ended.
    async fn tail(&self) -> String {
        let _ = clock::timeout(LOG_WITHIN, self.complete.wait()).await;
        self.lines()
    }

    /// The last lines, each on a line of its own; nothing if there are none.
    fn lines(&self) -> String {
        let lines = self.lines.lock();
        lines.iter().map(|line| format!("\n  {line}")).collect()
    }
}
