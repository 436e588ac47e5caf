//! Processes crash at a moment that is drawn: while maps push, between commit and read, during reads. What was in a
//! worker's memory is gone, every reader must be told so, and the next generation must be read whole. Executors crash too,
//! and the master, which nobody may miss.

use rand::Rng as _;
use rand::rngs::StdRng;

use super::{any, moment, small_job, small_settings};
use crate::faults::{Fault, Kind, Phase, Schedule};
use crate::setup::{JobKind, JobShape, Setup};

pub(super) fn draw(random: &mut StdRng) -> Setup {
    let settings = small_settings(random);
    let mut job = small_job(JobKind::Winners, random);
    let mut faults = Vec::new();
    let of_the_master = random.random_bool(0.2);
    if of_the_master {
        // So long that workers tell the new master what they have, while it has heard of nobody else.
        job = JobShape { maps: random.random_range(3..=6), units: 150, pause_max_ms: 60, ..job };
    }
    for _ in 0..random.random_range(1..=4) {
        let host = match random.random_range(0..10) {
            _ if of_the_master => "master".to_owned(),
            0..7 => any(&settings.workers(), random),
            7..9 => any(&settings.executors(), random),
            _ => "master".to_owned(),
        };
        let vanishes = random.random_bool(0.3);
        // Sometimes back before the lease is over, sometimes long after everybody gave up.
        let back_after_ms = random.random_range(10..if of_the_master { 800 } else { 8000 });
        let at = moment(&[Phase::Map, Phase::Commit, Phase::Committed, Phase::Read], &settings, &job, random);
        let drains = host.starts_with("worker") && random.random_bool(0.2);
        let crash = Kind::Crash { host: host.clone(), vanishes, back_after_ms };
        faults.push(Fault { at, kind: if drains { Kind::Drain { host, back_after_ms } } else { crash } });
    }
    let schedule = Schedule { faults, loss_ppm: 0, repair_ppm: 0, heal_at_ms: 60_000 };
    Setup { settings, job, schedule }
}
