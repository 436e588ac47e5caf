//! Two shuffles that do not fit the arenas together: hard splits and revives are the rule, attempts end for want of
//! space, and the space of what was released must come back, or the second shuffle never ends.

use mallorn_client::{Compression, Durability};
use mallorn_oracle::UnitSizes;
use rand::Rng as _;
use rand::rngs::StdRng;

use super::{any, moment, small_settings};
use crate::faults::{Fault, Kind, Phase, Schedule};
use crate::setup::{Disks, JobKind, JobShape, Kept, Settings, Setup};

pub(super) fn draw(random: &mut StdRng) -> Setup {
    let body_limit_bytes: u32 = 1024 * 1024;
    let usual = Settings {
        arenas_mib: vec![16, 16, random.random_range(16..24)],
        body_limit_bytes,
        no_space_within_ms: random.random_range(500..2000),
        client_memory_bytes: u64::from(body_limit_bytes) * random.random_range(4..8),
        batch_bytes: random.random_range(16..200) * 1024,
        codec: Compression::None,
        ..small_settings(random)
    };
    // Without disks, or with disks that hold one of the shuffles.
    let has_disks = random.random_bool(0.5);
    let durability = if has_disks { Durability::Written } else { Durability::Memory };
    let kept = Kept { copies: 1, durability };
    let disks = Disks { count: u32::from(has_disks), capacity_mib: Some(random.random_range(13..20)), ..usual.disks };
    let settings = Settings { disks, ..usual };
    let maps = random.random_range(3..=6);
    // Each alone fits, both together hardly ever do.
    let bytes = random.random_range(20..31) * 1024 * 1024;
    let usual_bytes = 150_000;
    let job = JobShape {
        kind: JobKind::Winners,
        shuffles: vec![kept; 2],
        partitions: random.random_range(2..=10),
        maps,
        units: bytes / maps / 120_000,
        sizes: UnitSizes { usual_bytes, largest_bytes: 1_000_000, large_percent: 6, empty_percent: 2 },
        at_once: 1,
        abandoned_percent: *[0, 10].get(random.random_range(0..2)).unwrap_or(&0),
        declared_dead_percent: 0,
        dropped_percent: 5,
        pause_max_ms: 5,
        reads_early: false,
    };
    let mut faults = Vec::new();
    if random.random_bool(0.3) {
        let host = any(&settings.workers(), random);
        let at = moment(&[Phase::Map, Phase::Read], &settings, &job, random);
        faults.push(Fault { at, kind: Kind::Crash { host, vanishes: false, back_after_ms: 200 } });
    }
    let schedule = Schedule { faults, loss_ppm: 0, repair_ppm: 0, heal_at_ms: 60_000 };
    Setup { settings, job, schedule }
}
