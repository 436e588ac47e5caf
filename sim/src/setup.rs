//! Everything about a run that is drawn from its seed before it starts.
//!
//! Owns the settings of the processes and the shape of the job, as plain numbers that can be printed. Does not own how
//! they are drawn (`scenario`). The settings make rare things common: small batches, small arenas, short leases.

use std::collections::BTreeMap;
use std::fmt;
use std::hash::Hasher as _;
use std::path::PathBuf;
use std::time::Duration;

use mallorn_client::{ClientConfig, Compression, Durability, LifecycleConfig, ShuffleOptions};
use mallorn_oracle::UnitSizes;
use mallorn_runtime::config::{ByteSize, Span};
use mallorn_runtime::disk::{Conditions, Latency as DiskLatency};
use mallorn_runtime::simulation::{CallTrouble, Host, Rate};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rustc_hash::FxHasher;
use serde::{Deserialize, Serialize};

use crate::faults::{Latency, Schedule};

/// The cluster's name.
pub(crate) const CLUSTER: &str = "sim";
/// The application's name.
pub(crate) const APPLICATION: &str = "job";
/// Where the master listens.
pub(crate) const MASTER_PORT: u16 = 9097;
/// Where the lifecycle manager listens.
pub(crate) const DRIVER_PORT: u16 = 7000;

/// What a run is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Setup {
    pub(crate) settings: Settings,
    pub(crate) job: JobShape,
    pub(crate) schedule: Schedule,
}

/// Settings of the processes, and what their machines are like.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Settings {
    /// The arena of each worker.
    pub(crate) arenas_mib: Vec<u64>,
    pub(crate) disks: Disks,
    /// Whether the disks of a worker that has ended are there again when it comes back.
    pub(crate) disk_returns: bool,
    /// How long a worker that is told to end may take for that.
    pub(crate) grace_ms: u64,
    pub(crate) soft_split_bytes: u64,
    pub(crate) hard_split_bytes: u64,
    /// Processes that run maps, and that read.
    pub(crate) mappers: u32,
    pub(crate) reducers: u32,
    pub(crate) body_limit_bytes: u32,
    pub(crate) round_robin: bool,
    pub(crate) worker_lease_ms: u64,
    pub(crate) application_lease_ms: u64,
    pub(crate) attempt_lease_ms: u64,
    pub(crate) wait_for_return_ms: u64,
    pub(crate) call_within_ms: u64,
    pub(crate) no_space_within_ms: u64,
    pub(crate) client_memory_bytes: u64,
    pub(crate) batch_bytes: u64,
    #[serde(with = "by_name")]
    pub(crate) codec: Compression,
    pub(crate) connections: u32,
    pub(crate) latency: Latency,
    /// How fast the clock of each host runs, in thousandths; those that are not named run right.
    pub(crate) clocks_permille: Vec<u32>,
    pub(crate) calls: Calls,
}

/// How often something goes wrong with the calls of every host, in a thousand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Calls {
    /// Calls of the control plane that arrive once more.
    pub(crate) repeated: u32,
    /// Calls of the control plane whose answer is lost.
    pub(crate) unanswered: u32,
    /// Pushes that arrive once more.
    pub(crate) pushed_again: u32,
    /// How late something that arrives once more may be.
    pub(crate) late_by_max_ms: u64,
}

/// The data folders of each worker, every one on a disk of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Disks {
    pub(crate) count: u32,
    /// Room of each, if it is scarce.
    pub(crate) capacity_mib: Option<u64>,
    /// How long an operation takes at most, while no fault slows it.
    pub(crate) latency_max_ms: u64,
}

impl Disks {
    /// Where they are mounted.
    pub(crate) fn folders(self) -> Vec<PathBuf> {
        (0..self.count).map(|number| PathBuf::from(format!("/disk-{number}"))).collect()
    }

    /// How each is while nothing is wrong with it.
    pub(crate) fn in_order(self) -> Conditions {
        let max = Duration::from_millis(self.latency_max_ms);
        Conditions {
            capacity_bytes: self.capacity_mib.map(|mib| mib * 1024 * 1024),
            latency: DiskLatency { min: Duration::ZERO, max },
            ..Conditions::default()
        }
    }
}

/// How well a shuffle is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Kept {
    pub(crate) copies: u32,
    #[serde(with = "by_name")]
    pub(crate) durability: Durability,
}

impl From<Kept> for ShuffleOptions {
    fn from(Kept { copies, durability }: Kept) -> Self {
        Self { copies: Some(copies), durability: Some(durability) }
    }
}

/// Which kind of job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum JobKind {
    /// Shuffles with a map count: a loss starts the next generation.
    Winners,
    /// Shuffles without: a loss re-runs the maps whose tokens are no longer complete.
    Tokens,
}

/// What the engine does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct JobShape {
    pub(crate) kind: JobKind,
    /// Each shuffle, by its number.
    pub(crate) shuffles: Vec<Kept>,
    pub(crate) partitions: u32,
    pub(crate) maps: u32,
    /// Units that each map pushes.
    pub(crate) units: u32,
    #[serde(with = "UnitSizesForm")]
    pub(crate) sizes: UnitSizes,
    /// Attempts of each map that run at once.
    pub(crate) at_once: u32,
    /// In a hundred attempts, how many give up half-way.
    pub(crate) abandoned_percent: u32,
    /// In a hundred attempts, how many the driver declares dead while they may still run.
    #[serde(default)]
    pub(crate) declared_dead_percent: u32,
    /// In a hundred pushes and reads, how many are dropped while they wait, and made again.
    pub(crate) dropped_percent: u32,
    /// How long a map pauses between two pushes, and a reader between two batches, at most.
    pub(crate) pause_max_ms: u64,
    /// Whether readers start while maps still run.
    pub(crate) reads_early: bool,
}

/// How [`UnitSizes`] is kept in a file.
#[derive(Serialize, Deserialize)]
#[serde(remote = "UnitSizes")]
struct UnitSizesForm {
    usual_bytes: usize,
    largest_bytes: usize,
    large_percent: u32,
    empty_percent: u32,
}

/// Settings that have names of their own.
mod by_name {
    use std::fmt::Display;
    use std::str::FromStr;

    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(super) fn serialize<T: Display, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub(super) fn deserialize<'a, T: FromStr<Err: Display>, D: Deserializer<'a>>(from: D) -> Result<T, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

impl Settings {
    /// The machine of each host.
    pub(crate) fn machines(&self, seed: u64) -> BTreeMap<String, Host> {
        let Calls { repeated, unanswered, pushed_again, late_by_max_ms } = self.calls;
        let trouble = CallTrouble { repeated, unanswered, pushed_again, late_by_max_ms };
        let hosts = (0u32..).zip(self.hosts());
        let machine = |(number, name): (u32, String)| {
            let rate = self.clocks_permille.get(number as usize).map_or(Rate::RIGHT, |permille| Rate(*permille));
            (name, Host::new(rate, trouble, random(seed, "calls", &[number])))
        };
        hosts.map(machine).collect()
    }

    /// The workers' hosts.
    pub(crate) fn workers(&self) -> Vec<String> {
        numbered("worker", self.arenas_mib.len() as u32)
    }

    /// The hosts of whoever runs maps or reads.
    pub(crate) fn executors(&self) -> Vec<String> {
        [numbered("mapper", self.mappers), numbered("reducer", self.reducers)].concat()
    }

    /// All hosts.
    pub(crate) fn hosts(&self) -> Vec<String> {
        [vec!["master".to_owned(), "driver".to_owned()], self.workers(), self.executors()].concat()
    }

    pub(crate) fn client(&self) -> ClientConfig {
        ClientConfig {
            memory: ByteSize(self.client_memory_bytes),
            batch: ByteSize(self.batch_bytes),
            codec: self.codec,
            connections: self.connections,
            no_space_within: Span::millis(self.no_space_within_ms),
            call_within: Span::millis(self.call_within_ms),
            read_within: Span::seconds(60),
        }
    }

    pub(crate) fn lifecycle(&self) -> LifecycleConfig {
        LifecycleConfig {
            master: format!("master:{MASTER_PORT}"),
            cluster: CLUSTER.to_owned(),
            listen: format!("0.0.0.0:{DRIVER_PORT}"),
            advertise: Some("driver".to_owned()),
            attempt_lease: Span::millis(self.attempt_lease_ms),
            wait_for_return: Span::millis(self.wait_for_return_ms),
            place_within: Span::seconds(5),
            ..LifecycleConfig::default()
        }
    }
}

impl fmt::Display for Setup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "settings: {:?}", self.settings)?;
        writeln!(f, "job: {:?}", self.job)?;
        write!(f, "faults:\n{}", self.schedule)
    }
}

fn numbered(role: &str, count: u32) -> Vec<String> {
    (0..count).map(|number| format!("{role}-{number}")).collect()
}

/// A seed for one part of a run, from the run's own.
pub(crate) fn derive(seed: u64, part: &str, numbers: &[u32]) -> u64 {
    let mut hasher = FxHasher::default();
    hasher.write_u64(seed);
    hasher.write(part.as_bytes());
    numbers.iter().for_each(|number| hasher.write_u32(*number));
    hasher.finish()
}

/// Randomness for one part of a run.
pub(crate) fn random(seed: u64, part: &str, numbers: &[u32]) -> StdRng {
    StdRng::seed_from_u64(derive(seed, part, numbers))
}
