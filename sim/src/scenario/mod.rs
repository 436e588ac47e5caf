//! The scenarios: each draws a whole run from a seed.
//!
//! Owns their names, and what is common to their drawing. What can be drawn stands in `setup` and `faults`.

mod clocks;
mod copies;
mod crash;
mod disk;
mod drain;
mod full;
mod network;
mod orphan;
mod power;
mod split;
mod steps;
mod tokens;

use std::fmt;
use std::str::FromStr;

use mallorn_client::{Compression, Durability};
use mallorn_oracle::UnitSizes;
use rand::Rng as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use serde::{Deserialize, Serialize};

use crate::faults::{At, Latency, Phase};
use crate::setup::{Calls, Disks, JobKind, JobShape, Kept, Settings, Setup, random};

/// A family of runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Scenario {
    /// Workers crash while maps run, between commit and read, and during reads.
    Crash,
    /// Messages are lost, delayed and held; every map runs twice at once.
    Network,
    /// Shuffles without a map count, read by tokens, with crashes.
    Tokens,
    /// More data than the arenas hold, in several shuffles.
    Full,
    /// Disks are full, fail, hang, are slow; bits flip.
    Disk,
    /// Machines of workers lose power.
    Power,
    /// Two copies of everything: workers crash at any moment, and links between them are cut.
    Copies,
    /// Locations are split all the time, and every map runs twice at once.
    Split,
    /// Workers are told to end, and come back, at any moment.
    Drain,
    /// Clocks run fast and slow, and jump.
    Clocks,
    /// Machines of workers die at a step of their disks, and come back with these, with none, or with another's.
    Steps,
    /// The driver dies for good.
    Orphan,
}

impl Scenario {
    pub(crate) const ALL: [Self; 12] = [
        Self::Crash,
        Self::Network,
        Self::Tokens,
        Self::Full,
        Self::Disk,
        Self::Power,
        Self::Copies,
        Self::Split,
        Self::Drain,
        Self::Clocks,
        Self::Steps,
        Self::Orphan,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Crash => "crash",
            Self::Network => "network",
            Self::Tokens => "tokens",
            Self::Full => "full",
            Self::Disk => "disk",
            Self::Power => "power",
            Self::Copies => "copies",
            Self::Split => "split",
            Self::Drain => "drain",
            Self::Clocks => "clocks",
            Self::Steps => "steps",
            Self::Orphan => "orphan",
        }
    }

    /// For people.
    pub(crate) fn about(self) -> &'static str {
        match self {
            Self::Crash => "workers crash while maps run, between commit and read, and during reads",
            Self::Network => "messages are lost, delayed and held, links are cut; every map runs twice at once",
            Self::Tokens => "shuffles without a map count, read by tokens; crashes, and only lost maps run again",
            Self::Full => "more data than arenas and disks hold: hard splits, no space, space that comes back",
            Self::Disk => "disks are full, fail, hang, are slow, vanish; bits of their files flip",
            Self::Power => "machines of workers lose power: what was synced is there again, nothing else is believed",
            Self::Copies => "two copies of everything; workers crash, links between them are cut and held",
            Self::Split => "tiny soft and hard limits, merged pushes, replaced epochs, losers that push on",
            Self::Drain => "workers are told to end and come back while maps push and commit and readers read",
            Self::Clocks => "clocks run fast and slow, and jump as those of machines that stood still",
            Self::Steps => "machines die in the middle of a write; disks come back, or empty, or another worker's",
            Self::Orphan => "the driver dies for good: its lease ends, and everything of it is released everywhere",
        }
    }

    /// What a run of this seed is.
    pub(crate) fn draw(self, seed: u64) -> Setup {
        let mut random = random(seed, self.name(), &[]);
        match self {
            Self::Crash => crash::draw(&mut random),
            Self::Network => network::draw(&mut random),
            Self::Tokens => tokens::draw(&mut random),
            Self::Full => full::draw(&mut random),
            Self::Disk => disk::draw(&mut random),
            Self::Power => power::draw(&mut random),
            Self::Copies => copies::draw(&mut random),
            Self::Split => split::draw(&mut random),
            Self::Drain => drain::draw(&mut random),
            Self::Clocks => clocks::draw(&mut random),
            Self::Steps => steps::draw(&mut random),
            Self::Orphan => orphan::draw(&mut random),
        }
    }
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// No scenario has this name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no scenario {name}; `list` shows them all")]
pub(crate) struct UnknownScenario {
    name: String,
}

impl FromStr for Scenario {
    type Err = UnknownScenario;

    fn from_str(name: &str) -> Result<Self, UnknownScenario> {
        let found = Self::ALL.into_iter().find(|scenario| scenario.name() == name);
        found.ok_or_else(|| UnknownScenario { name: name.to_owned() })
    }
}

/// Settings for small data: batches, arenas and leases are as short as they may be.
fn small_settings(random: &mut StdRng) -> Settings {
    let body_limit_bytes = 64 * 1024;
    let (soft_split_bytes, hard_split_bytes) = split_limits(random);
    let (mappers, reducers) = (2, 2);
    Settings {
        arenas_mib: vec![16; 3],
        disks: Disks {
            count: random.random_range(1..=2),
            capacity_mib: None,
            latency_max_ms: random.random_range(0..8),
        },
        disk_returns: true,
        grace_ms: random.random_range(2000..20_000),
        soft_split_bytes,
        hard_split_bytes,
        mappers,
        reducers,
        body_limit_bytes,
        round_robin: random.random_bool(0.5),
        worker_lease_ms: random.random_range(1000..3000),
        application_lease_ms: 30_000,
        attempt_lease_ms: random.random_range(2000..6000),
        wait_for_return_ms: *[0, 500, 2000].choose(random).unwrap_or(&0),
        call_within_ms: random.random_range(2000..6000),
        no_space_within_ms: 5000,
        client_memory_bytes: u64::from(body_limit_bytes) * random.random_range(4..12),
        batch_bytes: random.random_range(1024..8192),
        codec: *[Compression::None, Compression::Lz4, Compression::Zstd].choose(random).unwrap_or(&Compression::None),
        connections: random.random_range(1..=2),
        latency: Latency { min_ms: 1, max_ms: random.random_range(2..30) },
        clocks_permille: clocks(2 + 3 + mappers + reducers, random),
        calls: calls(random),
    }
}

/// Mostly right; else each runs up to seven percent fast or slow, which is less than what lease holders allow for.
fn clocks(hosts: u32, random: &mut StdRng) -> Vec<u32> {
    if random.random_bool(0.7) {
        return Vec::new();
    }
    (0..hosts).map(|_| random.random_range(930..=1070)).collect()
}

/// Mostly good; else some calls arrive once more, and late, and some answers are lost.
fn calls(random: &mut StdRng) -> Calls {
    if random.random_bool(0.7) {
        return Calls::default();
    }
    Calls {
        repeated: random.random_range(0..150),
        unanswered: *[0, 20, 60].choose(random).unwrap_or(&0),
        pushed_again: random.random_range(0..150),
        late_by_max_ms: *[50, 500, 5000].choose(random).unwrap_or(&500),
    }
}

/// Often so large that nothing is split, else so small that whole partitions, or a few batches, are too much.
fn split_limits(random: &mut StdRng) -> (u64, u64) {
    let limits = [(1 << 30, 4 << 30), (1 << 30, 4 << 30), (200 * 1024, 1024 * 1024), (24 * 1024, 96 * 1024)];
    *limits.choose(random).unwrap_or(&limits[0])
}

fn kept(random: &mut StdRng) -> Kept {
    let levels = [Durability::Memory, Durability::Written, Durability::Written, Durability::Synced];
    let durability = *levels.choose(random).unwrap_or(&Durability::Written);
    Kept { copies: random.random_range(1..=2), durability }
}

/// A job of a few hundred units.
fn small_job(kind: JobKind, random: &mut StdRng) -> JobShape {
    JobShape {
        kind,
        shuffles: (0..random.random_range(1..=2)).map(|_| kept(random)).collect(),
        partitions: random.random_range(1..=12),
        maps: random.random_range(1..=8),
        units: random.random_range(2..=150),
        sizes: UnitSizes { usual_bytes: 600, largest_bytes: 60_000, large_percent: 3, empty_percent: 5 },
        at_once: 1,
        abandoned_percent: *[0, 0, 20].choose(random).unwrap_or(&0),
        declared_dead_percent: *[0, 0, 20].choose(random).unwrap_or(&0),
        dropped_percent: *[0, 5, 20].choose(random).unwrap_or(&0),
        pause_max_ms: *[0, 5, 20, 60].choose(random).unwrap_or(&0),
        reads_early: random.random_bool(0.3),
    }
}

/// A moment of the first round, or of a later one; most often while the phase still lasts.
fn moment(phases: &[Phase], settings: &Settings, job: &JobShape, random: &mut StdRng) -> At {
    let phase = *phases.choose(random).unwrap_or(&Phase::Map);
    let round_trip_ms = settings.latency.max_ms;
    let lasts_ms = match phase {
        Phase::Map => 6 * round_trip_ms + u64::from(job.units) * job.pause_max_ms / 6,
        Phase::Commit => 5 * round_trip_ms,
        Phase::Committed => 250,
        Phase::Read => 6 * round_trip_ms + 4 * job.pause_max_ms,
    };
    let later_ms = if random.random_bool(0.2) { 3000 } else { 0 };
    let round = u32::from(random.random_bool(0.15));
    At { phase, round, after_ms: random.random_range(0..=lasts_ms) + random.random_range(0..=later_ms) }
}

/// One of these hosts.
fn any(hosts: &[String], random: &mut StdRng) -> String {
    hosts.choose(random).cloned().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_always_draws_the_same_run_and_another_one_another() {
        for scenario in Scenario::ALL {
            assert_eq!(scenario.draw(7), scenario.draw(7));
            assert_ne!(scenario.draw(7), scenario.draw(8));
            assert_eq!(scenario.name().parse(), Ok(scenario));
        }
        assert!("none".parse::<Scenario>().unwrap_err().to_string().contains("`list`"));
    }
}
