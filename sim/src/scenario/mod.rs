//! The scenarios: each draws a whole run from a seed.
//!
//! Owns their names, and what is common to their drawing. What can be drawn stands in `setup` and `faults`.

mod crash;
mod full;
mod network;
mod tokens;

use std::fmt;
use std::str::FromStr;

use mallorn_client::Compression;
use rand::Rng as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;

use crate::faults::{At, Latency, Phase};
use crate::setup::{JobKind, JobShape, Settings, Setup, random};
use crate::workload::UnitSizes;

/// A family of runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Scenario {
    /// Workers crash while maps run, between commit and read, and during reads.
    Crash,
    /// Messages are lost, delayed and held; every map runs twice at once.
    Network,
    /// Shuffles without a map count, read by tokens, with crashes.
    Tokens,
    /// More data than the arenas hold, in several shuffles.
    Full,
}

impl Scenario {
    pub(crate) const ALL: [Self; 4] = [Self::Crash, Self::Network, Self::Tokens, Self::Full];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Crash => "crash",
            Self::Network => "network",
            Self::Tokens => "tokens",
            Self::Full => "full",
        }
    }

    /// For people.
    pub(crate) fn about(self) -> &'static str {
        match self {
            Self::Crash => "workers crash while maps run, between commit and read, and during reads",
            Self::Network => "messages are lost, delayed and held, links are cut; every map runs twice at once",
            Self::Tokens => "shuffles without a map count, read by tokens; crashes, and only lost maps run again",
            Self::Full => "more data than the arenas hold: hard splits, no space, space that comes back",
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
    Settings {
        arenas_mib: vec![16; 3],
        mappers: 2,
        reducers: 2,
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
    }
}

/// A job of a few hundred units.
fn small_job(kind: JobKind, random: &mut StdRng) -> JobShape {
    JobShape {
        kind,
        shuffles: random.random_range(1..=2),
        partitions: random.random_range(1..=12),
        maps: random.random_range(1..=8),
        units: random.random_range(2..=150),
        sizes: UnitSizes { usual_bytes: 600, largest_bytes: 60_000, large_percent: 3, empty_percent: 5 },
        copies: 1,
        abandoned_percent: *[0, 0, 20].choose(random).unwrap_or(&0),
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
