//! What the figures were measured on.

use std::path::Path;

use mallorn_runtime::disk::Disk;
use serde::{Deserialize, Serialize};

/// Longest file that is read for it: `/proc/cpuinfo` of a large machine.
const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// The machine, as far as it tells.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Machine {
    /// The processor's name.
    pub(crate) cpu: String,
    /// Cores that this process may use.
    pub(crate) cores: usize,
    /// The kernel's release.
    pub(crate) kernel: String,
    /// Runnable tasks over the last minute, before anything was measured.
    pub(crate) load: f64,
}

impl Machine {
    /// This one; `unknown` where the system does not tell.
    pub(crate) fn this() -> Self {
        let cpuinfo = text("/proc/cpuinfo");
        let name = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
        let kernel = text("/proc/sys/kernel/osrelease");
        let load = text("/proc/loadavg");
        Self {
            cpu: or_unknown(name.map_or("", |(_, name)| name)),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            kernel: or_unknown(&kernel),
            load: load.split_whitespace().next().and_then(|load| load.parse().ok()).unwrap_or(0.0),
        }
    }
}

fn text(path: &str) -> String {
    let bytes = Disk::real().read(Path::new(path), FILE_BYTES_MAX).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

fn or_unknown(text: &str) -> String {
    let text = text.trim();
    if text.is_empty() { "unknown".to_owned() } else { text.to_owned() }
}
