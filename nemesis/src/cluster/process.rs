//! One child process: its start, its log, signals to it, its end.
//!
//! Owns the child, which is killed and reaped when this is dropped. Does not own which role it runs, nor on what.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use mallorn_runtime::clock;
use mallorn_runtime::task::{Shutdown, Tasks};
use mallorn_runtime::telemetry::process::usage_of;
use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};

use crate::failure::Failure;

/// How long a process may take to get ready. Generous: machines that test are busy.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// How long a killed process may take to be gone.
const GONE_WITHIN: Duration = Duration::from_secs(20);
/// How long the log of an ended process may take to arrive.
const LOG_WITHIN: Duration = Duration::from_secs(1);
/// How much of a process's log is kept.
const LOG_LINES_MAX: usize = 5000;
const LOG_LINE_BYTES_MAX: u64 = 4000;

/// The line that a process prints once it serves.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(crate) struct Ready {
    /// Where metrics and probes are served. Its other addresses are those that it was given.
    pub(crate) admin: SocketAddr,
}

/// A child process.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    child: Child,
    pid: Pid,
    /// It ends when this closes. Waiting for the child would close it if it were left there.
    _life: Option<ChildStdin>,
    log: Log,
    _watching: Tasks,
}

impl Process {
    /// Runs a program with arguments; it has nothing of our environment but where programs are found.
    pub(crate) fn spawn(name: &str, program: &Path, arguments: &[OsString]) -> Result<Self, Failure> {
        let failed = |error| Failure::Setup(format!("start {name}: {error}"));
        let mut command = Command::new(program);
        let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        command.args(arguments).env_clear().env("PATH", path).env("RUST_BACKTRACE", "1");
        command.process_group(0).kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(failed)?;
        let pid = child.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
        let pid = pid.ok_or_else(|| Failure::Setup(format!("{name} has no process id")))?;
        let (log, mut watching) = (Log::default(), Tasks::new());
        if let Some(stderr) = child.stderr.take() {
            watching.spawn(log.clone().collect(stderr));
        }
        let life = child.stdin.take();
        Ok(Self { name: name.to_owned(), child, pid, _life: life, log, _watching: watching })
    }

    /// The next line that it prints.
    pub(crate) async fn line(&mut self) -> Result<String, Failure> {
        let stdout = self.child.stdout.take();
        let next = async {
            match stdout {
                Some(stdout) => BufReader::new(stdout).lines().next_line().await.ok().flatten(),
                None => None,
            }
        };
        let name = self.name.clone();
        match clock::timeout(READY_WITHIN, next).await {
            Ok(Some(line)) => Ok(line),
            Ok(None) => {
                let status = self.gone().await.map_or_else(|error| error.to_string(), |status| status.to_string());
                Err(Failure::Setup(format!("{name} ended instead of getting ready ({status}){}", self.log.tail())))
            }
            Err(_) => Err(Failure::Setup(format!("{name} is not ready after {READY_WITHIN:?}{}", self.log.tail()))),
        }
    }

    /// Waits until it says that it is ready.
    pub(crate) async fn ready(&mut self) -> Result<Ready, Failure> {
        let line = self.line().await?;
        serde_json::from_str(&line).map_err(|_| Failure::Setup(format!("{} says {line:?}", self.name)))
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    pub(crate) fn log(&self) -> &Log {
        &self.log
    }

    /// Most resident memory so far, in bytes.
    pub(crate) fn peak_rss_bytes(&self) -> u64 {
        usage_of(self.pid()).map_or(0, |usage| usage.peak_rss_bytes)
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) -> Result<(), Failure> {
        let sent = kill_process(self.pid, signal);
        sent.map_err(|error| Failure::Wrong(format!("{signal:?} to {}: {error}", self.name)))
    }

    /// Whether it has ended by itself.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Kills it with SIGKILL and waits until it is gone; the status proves what it died of.
    pub(crate) async fn kill(&mut self) -> Result<ExitStatus, Failure> {
        self.signal(Signal::KILL)?;
        self.gone().await
    }

    /// Waits until it has ended, within what a killed process may take.
    pub(crate) async fn gone(&mut self) -> Result<ExitStatus, Failure> {
        self.ended_within(GONE_WITHIN).await
    }

    /// Waits until it has ended, so long at most.
    pub(crate) async fn ended_within(&mut self, within: Duration) -> Result<ExitStatus, Failure> {
        let status = match clock::timeout(within, self.child.wait()).await {
            Ok(Ok(status)) => status,
            Ok(Err(error)) => return Err(Failure::Wrong(format!("wait for {}: {error}", self.name))),
            Err(_) => return Err(Failure::Wrong(format!("{} has not ended within {within:?}", self.name))),
        };
        let _ = clock::timeout(LOG_WITHIN, self.log.complete.wait()).await;
        Ok(status)
    }
}

/// A process's log: its last lines, and how many there were.
#[derive(Clone, Debug, Default)]
pub(crate) struct Log {
    lines: Arc<Mutex<Lines>>,
    complete: Shutdown,
}

#[derive(Debug, Default)]
struct Lines {
    last: VecDeque<String>,
    count: u64,
}

impl Log {
    async fn collect(self, stderr: impl AsyncRead + Unpin) {
        let mut reader = BufReader::new(stderr);
        let mut line = Vec::new();
        while let Ok(1..) = (&mut reader).take(LOG_LINE_BYTES_MAX).read_until(b'\n', &mut line).await {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            let mut lines = self.lines.lock();
            if lines.last.len() == LOG_LINES_MAX {
                lines.last.pop_front();
            }
            lines.last.push_back(text);
            lines.count += 1;
            drop(lines);
            line.clear();
        }
        self.complete.trigger();
    }

    /// How many of the lines kept hold this text.
    pub(crate) fn count(&self, text: &str) -> usize {
        self.lines.lock().last.iter().filter(|line| line.contains(text)).count()
    }

    /// How many lines there were in all.
    pub(crate) fn lines(&self) -> u64 {
        self.lines.lock().count
    }

    /// The last lines, each on a line of its own.
    pub(crate) fn tail(&self) -> String {
        let lines = self.lines.lock();
        let from = lines.last.len().saturating_sub(20);
        lines.last.iter().skip(from).map(|line| format!("\n    {line}")).collect()
    }
}
