//! Runs the floor, a program without features that does the least work for the same job, and reads its answer.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde::{Deserialize, Serialize};
use tokio::process::Command;

use crate::load::{CONNECTIONS, Load, PARTITIONS};

/// Bytes of the floor's segments.
const SEGMENT_BYTES: usize = 256 * 1024;

/// What one run of the floor took; CPU seconds per GiB, user and system.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct FloorRun {
    /// Pushing, both processes together.
    pub(crate) push_cpu_gib: f64,
    /// The same of its client alone.
    pub(crate) push_cli: f64,
    /// The same of its server alone.
    pub(crate) push_srv: f64,
    /// Fetching, both processes together.
    pub(crate) fetch_cpu_gib: f64,
    /// The same of its client alone.
    pub(crate) fetch_cli: f64,
    /// The same of its server alone.
    pub(crate) fetch_srv: f64,
}

/// Why there is no figure of the floor.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FloorError {
    #[error("can't run the floor at {path}: {source}", path = path.display())]
    Run { path: PathBuf, source: io::Error },
    #[error("the floor failed ({status}): {text}")]
    Failed { status: std::process::ExitStatus, text: String },
    #[error("the floor at {path} does not print what is expected of it: {source}", path = path.display())]
    Answer { path: PathBuf, source: serde_json::Error },
}

/// Pushes and fetches a load once: checksums on both sides, all memory touched before the clock starts.
pub(crate) async fn run(path: &Path, load: &Load) -> Result<FloorRun, FloorError> {
    let options = [
        ("--total", load.total_bytes()),
        ("--batch", load.batch_bytes() as u64),
        ("--parts", u64::from(PARTITIONS)),
        ("--conns", u64::from(CONNECTIONS)),
        ("--seg", SEGMENT_BYTES as u64),
        ("--crc", 1),
        ("--prefault", 1),
    ];
    let mut command = Command::new(path);
    command.arg("run").stdin(Stdio::null()).kill_on_drop(true);
    for (name, value) in options {
        command.arg(name).arg(value.to_string());
    }
    let output = command.output().await.map_err(|source| FloorError::Run { path: path.to_owned(), source })?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(FloorError::Failed { status: output.status, text });
    }
    serde_json::from_slice(&output.stdout).map_err(|source| FloorError::Answer { path: path.to_owned(), source })
}
