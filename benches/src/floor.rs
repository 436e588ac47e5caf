//! Runs the floor, a program without features that does the least work for the same job, and reads its answer.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use mallorn_client::Durability;
use serde::Deserialize;
use tokio::process::Command;

use crate::load::Load;
use crate::scenario::{Floor, Scenario, Shape};

/// Bytes of the floor's segments, and where batches are small.
const SEGMENT_BYTES: u64 = 256 * 1024;
const TINY_SEGMENT_BYTES: u64 = 16 * 1024;

/// What one run of the floor took; CPU seconds per GiB, user and system.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(crate) struct FloorRun {
    /// Pushing, both processes together.
    pub(crate) push_cpu_gib: f64,
    /// Fetching, both processes together.
    pub(crate) fetch_cpu_gib: f64,
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

/// Pushes and fetches what a shape says once: checksums on both sides, all memory touched before the clock starts. Files
/// are made in `folder`.
pub(crate) async fn run(path: &Path, scenario: &Scenario, load: &Load, folder: &Path) -> Result<FloorRun, FloorError> {
    let Shape { batch_bytes, durability, is_cold, .. } = scenario.shape;
    let is_tiny = batch_bytes < SEGMENT_BYTES / 8;
    let numbers = [
        ("--total", load.total_bytes()),
        ("--batch", batch_bytes),
        ("--parts", u64::from(load.partitions())),
        ("--conns", u64::from(load.tasks())),
        ("--seg", if is_tiny { TINY_SEGMENT_BYTES } else { SEGMENT_BYTES }),
        ("--crc", 1),
        ("--prefault", 1),
        ("--cold", u64::from(is_cold)),
    ];
    let mut command = Command::new(path);
    command.arg("run").stdin(Stdio::null()).kill_on_drop(true);
    for (name, value) in numbers {
        command.arg(name).arg(value.to_string());
    }
    if is_tiny {
        command.args(["--flush", "65536", "--coalesce", "64"]);
    }
    if durability == Durability::Synced {
        command.args(["--sync", "fsync"]);
    }
    let store = (scenario.floor == Floor::Disk).then(|| tempfile::tempdir_in(folder)).transpose();
    let store = store.map_err(|source| FloorError::Run { path: folder.to_owned(), source })?;
    if let Some(store) = &store {
        command.arg("--store").arg(store.path()).args(["--method", "pread"]);
    }
    let output = command.output().await.map_err(|source| FloorError::Run { path: path.to_owned(), source })?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(FloorError::Failed { status: output.status, text });
    }
    serde_json::from_slice(&output.stdout).map_err(|source| FloorError::Answer { path: path.to_owned(), source })
}
