//! What a phase costs: CPU time and page faults of the client, which is this process, and of the workers, which are not.
//!
//! Owns the differences. Does not own the reading of `/proc` (`mallorn_runtime::telemetry::process`).

use mallorn_runtime::clock::{self, Instant};
use mallorn_runtime::telemetry::process::{Usage, UsageError, usage, usage_of};

/// Reads the processes.
#[derive(Clone, Debug)]
pub(crate) struct Meter {
    workers: Vec<u32>,
}

/// The processes at one moment.
pub(crate) struct Reading {
    at: Instant,
    client: Usage,
    /// Of all workers.
    worker: Usage,
}

/// What a phase took.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cost {
    /// How long it took, in seconds.
    pub(crate) wall_s: f64,
    /// CPU time of the client, user and system, in seconds.
    pub(crate) client_cpu_s: f64,
    /// CPU time of the workers, likewise.
    pub(crate) worker_cpu_s: f64,
    /// Minor page faults of the client.
    pub(crate) client_faults: u64,
    /// Minor page faults of the workers.
    pub(crate) worker_faults: u64,
}

impl Meter {
    /// Reads this process and workers by their ids; none where they are not ours.
    pub(crate) fn new(workers: Vec<u32>) -> Self {
        Self { workers }
    }

    pub(crate) fn read(&self) -> Result<Reading, UsageError> {
        let mut worker = Usage::default();
        for pid in &self.workers {
            let one = usage_of(*pid)?;
            worker.cpu_s += one.cpu_s;
            worker.minor_faults += one.minor_faults;
        }
        Ok(Reading { at: clock::now(), client: usage()?, worker })
    }

    /// Most memory that each worker held so far, in bytes.
    pub(crate) fn peak_rss_bytes(&self) -> Result<Vec<u64>, UsageError> {
        self.workers.iter().map(|pid| Ok(usage_of(*pid)?.peak_rss_bytes)).collect()
    }

    /// Resident memory of the worker that holds most, in bytes; 0 where there is none.
    pub(crate) fn largest_rss_bytes(&self) -> u64 {
        let rss = self.workers.iter().filter_map(|pid| usage_of(*pid).ok()).map(|usage| usage.rss_bytes);
        rss.max().unwrap_or(0)
    }
}

impl Cost {
    /// Of many phases together.
    pub(crate) fn sum(costs: &[Self]) -> Self {
        let mut all = Self { wall_s: 0.0, client_cpu_s: 0.0, worker_cpu_s: 0.0, client_faults: 0, worker_faults: 0 };
        for cost in costs {
            all.wall_s += cost.wall_s;
            all.client_cpu_s += cost.client_cpu_s;
            all.worker_cpu_s += cost.worker_cpu_s;
            all.client_faults += cost.client_faults;
            all.worker_faults += cost.worker_faults;
        }
        all
    }

    /// Minor page faults of all processes.
    pub(crate) fn faults(&self) -> u64 {
        self.client_faults + self.worker_faults
    }

    /// CPU time of all processes, in seconds.
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
        let meter = Meter::new(vec![std::process::id()]);
        let before = meter.read().unwrap();
        let held = vec![1u8; 16 << 20];
        let cost = before.until(&meter.read().unwrap());
        assert_eq!(held.iter().map(|byte| u64::from(*byte)).sum::<u64>(), 16 << 20);
        assert!(cost.client_faults > 0 && cost.client_cpu_s >= 0.0 && cost.wall_s > 0.0, "{cost:?}");
    }
}
