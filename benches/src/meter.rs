//! What a phase costs: CPU time and page faults of the client, which is this process, and of the worker, which is not.
//!
//! Owns the differences. Does not own the reading of `/proc` (`mallorn_runtime::telemetry::process`).

use mallorn_runtime::clock::{self, Instant};
use mallorn_runtime::telemetry::process::{Usage, UsageError, usage, usage_of};
use serde::Serialize;

/// Reads the two processes.
pub(crate) struct Meter {
    worker: u32,
}

/// The two processes at one moment.
pub(crate) struct Reading {
    at: Instant,
    client: Usage,
    worker: Usage,
}

/// What a phase took.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Cost {
    /// How long it took, in seconds.
    pub(crate) wall_s: f64,
    /// CPU time of the client, user and system, in seconds.
    pub(crate) client_cpu_s: f64,
    /// CPU time of the worker, likewise.
    pub(crate) worker_cpu_s: f64,
    /// Minor page faults of the client.
    pub(crate) client_faults: u64,
    /// Minor page faults of the worker.
    pub(crate) worker_faults: u64,
}

impl Meter {
    /// Reads this process and the worker of that id.
    pub(crate) fn new(worker: u32) -> Self {
        Self { worker }
    }

    pub(crate) fn read(&self) -> Result<Reading, UsageError> {
        Ok(Reading { at: clock::now(), client: usage()?, worker: usage_of(self.worker)? })
    }
}

impl Cost {
    /// CPU time of both processes, in seconds.
    pub(crate) fn cpu_s(&self) -> f64 {
        self.client_cpu_s + self.worker_cpu_s
    }
}

impl Reading {
    /// What was used from here to a later reading.
    pub(crate) fn until(&self, later: &Self) -> Cost {
        Cost {
            wall_s: later.at.saturating_duration_since(self.at).as_secs_f64(),
            client_cpu_s: later.client.cpu_s - self.client.cpu_s,
            worker_cpu_s: later.worker.cpu_s - self.worker.cpu_s,
            client_faults: later.client.minor_faults.saturating_sub(self.client.minor_faults),
            worker_faults: later.worker.minor_faults.saturating_sub(self.worker.minor_faults),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn touching_memory_is_counted() {
        let meter = Meter::new(std::process::id());
        let before = meter.read().unwrap();
        let held = vec![1u8; 16 << 20];
        let cost = before.until(&meter.read().unwrap());
        assert_eq!(held.iter().map(|byte| u64::from(*byte)).sum::<u64>(), 16 << 20);
        assert!(cost.client_faults > 0 && cost.client_cpu_s >= 0.0 && cost.wall_s > 0.0, "{cost:?}");
    }
}
