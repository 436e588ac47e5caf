//! What was measured, as it is written to a file and read again: by `compare`, by `report`, and by whoever holds a version
//! against another one.
//!
//! Units are in the names: bytes, seconds, MiB/s, CPU seconds per GiB of payload. Medians are over the runs.

use serde::{Deserialize, Serialize};

use crate::machine::Machine;
use crate::statistics::Estimate;

/// All that one call has measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Results {
    /// What it ran on.
    pub(crate) machine: Machine,
    /// Of Mallorn.
    pub(crate) version: String,
    /// Of everything that is drawn.
    pub(crate) seed: u64,
    /// Runs of each scenario.
    pub(crate) runs: u32,
    /// One after the other.
    pub(crate) scenarios: Vec<Outcome>,
}

/// What one scenario came to.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Outcome {
    /// Its name.
    pub(crate) name: String,
    /// What it shows.
    pub(crate) shows: String,
    /// What it ran with.
    pub(crate) settings: Settings,
    /// From the start of the attempts to the end of the stage: all acked, sealed and ready to be read.
    pub(crate) push: Phase,
    /// From the first question for a partition to the end of the last one.
    pub(crate) fetch: Phase,
    /// Against the floor, where one was run that can do this.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) floor: Option<AgainstFloor>,
    /// Against the same with one copy.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) one_copy: Option<AgainstOneCopy>,
    /// Per shuffle, where there are many.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) per_shuffle: Option<PerShuffle>,
    /// Most memory that a worker held / (its arena + 48 MiB), of the worker where that is most; unknown for the workers of
    /// a cluster that was running.
    pub(crate) peak_rss_ratio: Option<f64>,
    /// Most memory that each worker held.
    pub(crate) peak_rss_bytes: Vec<u64>,
    /// Minor page faults per GiB pushed, client and workers, after the first run.
    pub(crate) minor_faults_per_gib: f64,
    /// Of all runs together.
    pub(crate) disk: DiskUse,
    /// Whether every byte that was pushed came back, in every run.
    pub(crate) verified: bool,
    /// The budgets that this scenario is held against.
    pub(crate) budgets: Vec<Budget>,
    /// How it went over time, over all runs.
    pub(crate) series: Vec<Sample>,
}

/// What a scenario runs with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Settings {
    /// Bytes of payload that one run shuffles.
    pub(crate) total_bytes: u64,
    /// Bytes of one batch's payload.
    pub(crate) batch_bytes: u64,
    /// Partitions of each shuffle.
    pub(crate) partitions: u32,
    /// Connections to each worker, and as many tasks.
    pub(crate) connections: u32,
    /// Worker processes.
    pub(crate) workers: u32,
    /// Copies of everything.
    pub(crate) copies: u32,
    /// Each worker's memory for shuffle data.
    pub(crate) memory_bytes: u64,
    /// What data survives once it is committed.
    pub(crate) durability: String,
    /// How payloads are compressed.
    pub(crate) codec: String,
}

/// One direction; medians over the runs.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Phase {
    /// Payload over time.
    pub(crate) mib_s: f64,
    /// CPU time, user and system.
    pub(crate) cpu_s_per_gib: Cpu,
    /// The same per batch, both sides, in microseconds.
    pub(crate) cpu_us_per_batch: f64,
    /// From sending a request to its answer, in milliseconds.
    pub(crate) p50_ms: f64,
    /// Of a hundred, the one after 99.
    pub(crate) p99_ms: f64,
    /// The longest of all runs.
    pub(crate) max_ms: f64,
}

/// CPU seconds per GiB.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Cpu {
    /// Of the process that pushes and reads.
    pub(crate) client: f64,
    /// Of all workers; 0 where they are not ours.
    pub(crate) worker: f64,
    /// Of both.
    pub(crate) sum: f64,
}

/// Our CPU seconds per GiB over those of the floor, pair by pair: medians, and their 90 % intervals.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct AgainstFloor {
    /// Of pushing.
    pub(crate) push_ratio: f64,
    /// Low and high.
    pub(crate) push_interval: [f64; 2],
    /// Of fetching.
    pub(crate) fetch_ratio: f64,
    /// Low and high.
    pub(crate) fetch_interval: [f64; 2],
    /// The floor's own, pushing.
    pub(crate) push_cpu_s_per_gib: f64,
    /// The floor's own, fetching.
    pub(crate) fetch_cpu_s_per_gib: f64,
}

/// CPU seconds per GiB with two copies over those with one, pair by pair.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct AgainstOneCopy {
    /// Of pushing.
    pub(crate) push: Estimate,
}

/// What one of many small shuffles takes.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct PerShuffle {
    /// From its registration to its release, in milliseconds: the median.
    pub(crate) median_ms: f64,
    /// Of a hundred, the one after 99.
    pub(crate) p99_ms: f64,
    /// gRPC calls of lifecycle manager and client.
    pub(crate) calls: f64,
}

/// What went to disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DiskUse {
    /// Bytes of extents written.
    pub(crate) written_bytes: u64,
    /// Files there at most, at the end of a push.
    pub(crate) files: u64,
    /// Syncs.
    pub(crate) syncs: u64,
}

/// A budget of the project, and whether it is met.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Budget {
    /// Its name: G1 to G14.
    pub(crate) name: String,
    /// What is measured.
    pub(crate) what: String,
    /// The most it may be.
    pub(crate) limit: f64,
    /// What it is: the median.
    pub(crate) value: f64,
    /// Its 90 % interval, where it is a ratio of pairs.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) interval: Option<[f64; 2]>,
    /// Whether it is met.
    pub(crate) verdict: Verdict,
}

/// Whether a budget is met: by the median, and by an interval narrower than the margin over the floor that is claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Verdict {
    /// It is.
    Met,
    /// It is not.
    Missed,
    /// The interval is too wide to say.
    Unclear,
}

/// One moment.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Sample {
    /// Since the scenario began, in seconds.
    pub(crate) at_s: f64,
    /// Since the moment before.
    pub(crate) push_mib_s: f64,
    /// Since the moment before.
    pub(crate) fetch_mib_s: f64,
    /// Mean time that pushes took since the moment before, in milliseconds.
    pub(crate) push_ms: f64,
    /// Resident memory of the largest worker.
    pub(crate) worker_rss_bytes: u64,
}
