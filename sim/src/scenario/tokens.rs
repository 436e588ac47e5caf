//! Shuffles without a map count: every ended attempt has a token, readers name the tokens that count, and after a crash
//! only the maps of tokens that are no longer complete run again.

use rand::Rng as _;
use rand::rngs::StdRng;

use super::{any, moment, small_job, small_settings};
use crate::faults::{Fault, Kind, Phase, Schedule};
use crate::setup::{JobKind, JobShape, Setup};

pub(super) fn draw(random: &mut StdRng) -> Setup {
    let settings = small_settings(random);
    let shape = small_job(JobKind::Tokens, random);
    let job = JobShape { at_once: random.random_range(1..=2), reads_early: false, ..shape };
    let mut faults = Vec::new();
    for _ in 0..random.random_range(1..=3) {
        let host = any(&settings.workers(), random);
        let (vanishes, back_after_ms) = (random.random_bool(0.3), random.random_range(10..8000));
        let at = moment(&[Phase::Map, Phase::Committed, Phase::Read], &settings, &job, random);
        faults.push(Fault { at, kind: Kind::Crash { host, vanishes, back_after_ms } });
    }
    let schedule = Schedule { faults, loss_ppm: 0, repair_ppm: 0, heal_at_ms: 60_000 };
    Setup { settings, job, schedule }
}
