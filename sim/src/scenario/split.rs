//! Locations are split after a few batches, softly and hard: epochs are replaced and committed while pushes to them are under
//! way, merged pushes are split in a part of their locations, and losers push on after the stage has ended.

use rand::Rng as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;

use super::{any, moment, small_job, small_settings};
use crate::faults::{Fault, Kind, Latency, Phase, Schedule};
use crate::setup::{JobKind, JobShape, Settings, Setup};

pub(super) fn draw(random: &mut StdRng) -> Setup {
    let usual = small_settings(random);
    let shape = JobShape {
        at_once: random.random_range(1..=2),
        units: random.random_range(40..=150),
        maps: random.random_range(2..=8),
        pause_max_ms: random.random_range(0..40),
        ..small_job(JobKind::Winners, random)
    };
    // A few batches, but not so few that pushers get in each other's way for longer than they look for room.
    let of_a_partition = shape.maps * shape.at_once * shape.units * 2000 / shape.partitions;
    let soft_split_bytes = (random.random_range(2..40) * 1024).max(u64::from(of_a_partition) / 60);
    // The hard limit is met as often as the soft one, or hardly ever.
    let hard_split_bytes = soft_split_bytes + *[1024, 20 * 1024, 1 << 30].choose(random).unwrap_or(&1024);
    let latency = Latency { min_ms: 1, max_ms: random.random_range(2..60) };
    let settings =
        Settings { soft_split_bytes, hard_split_bytes, latency, batch_bytes: random.random_range(1024..3000), ..usual };
    let job = shape;
    let mut faults = Vec::new();
    for _ in 0..random.random_range(0..=2) {
        let at = moment(&[Phase::Map, Phase::Map, Phase::Commit, Phase::Committed], &settings, &job, random);
        let (host, for_ms) = (any(&settings.workers(), random), random.random_range(20..3000));
        let kind = match random.random_range(0..3) {
            0 => Kind::Crash { host, vanishes: false, back_after_ms: for_ms },
            1 => Kind::Hold { one: host, other: any(&settings.executors(), random), for_ms },
            _ => Kind::Slow { latency_max_ms: random.random_range(50..500), for_ms },
        };
        faults.push(Fault { at, kind });
    }
    let schedule = Schedule { faults, loss_ppm: 0, repair_ppm: 0, heal_at_ms: 60_000 };
    Setup { settings, job, schedule }
}
