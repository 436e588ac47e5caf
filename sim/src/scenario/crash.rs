//! One worker or two crash, at a moment that is drawn: while maps push, between commit and read, during reads. What was
//! in their memory is gone, every reader must be told so, and the next generation must be read whole.

use rand::Rng as _;
use rand::rngs::StdRng;

use super::{any, moment, small_job, small_settings};
use crate::faults::{Fault, Kind, Phase, Schedule};
use crate::setup::{JobKind, Setup};

pub(super) fn draw(random: &mut StdRng) -> Setup {
    let settings = small_settings(random);
    let job = small_job(JobKind::Winners, random);
    let phases = [Phase::Map, Phase::Committed, Phase::Read];
    let mut faults = Vec::new();
    for _ in 0..random.random_range(1..=3) {
        let host = if random.random_bool(0.85) {
            any("worker", settings.arenas_mib.len(), random)
        } else {
            any("mapper", settings.mappers as usize, random)
        };
        let vanishes = random.random_bool(0.3);
        // Sometimes back before the lease is over, sometimes long after everybody gave up.
        let back_after_ms = random.random_range(10..8000);
        let at = moment(&phases, if random.random_bool(0.7) { 400 } else { 3000 }, random);
        faults.push(Fault { at, kind: Kind::Crash { host, vanishes, back_after_ms } });
    }
    let schedule = Schedule { faults, loss_ppm: 0, repair_ppm: 0, heal_at_ms: 60_000 };
    Setup { settings, job, schedule }
}
