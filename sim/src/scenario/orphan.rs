//! The driver dies for good, and the lifecycle manager with it, while maps push, during the commit, before and during
//! reads. Attempts and readers must end by themselves; its lease ends, and then everything of it must be released at every
//! worker, also at those that were away.

use rand::Rng as _;
use rand::rngs::StdRng;

use super::{any, moment, small_job, small_settings};
use crate::faults::{Fault, Kind, Phase, Schedule};
use crate::setup::{JobKind, JobShape, Settings, Setup};

pub(super) fn draw(random: &mut StdRng) -> Setup {
    let usual = small_settings(random);
    let settings = Settings { application_lease_ms: random.random_range(4000..15_000), ..usual };
    let kind = if random.random_bool(0.2) { JobKind::Tokens } else { JobKind::Winners };
    let shape = small_job(kind, random);
    let job = JobShape { reads_early: shape.reads_early && kind == JobKind::Winners, ..shape };
    let phases = [Phase::Map, Phase::Map, Phase::Commit, Phase::Committed, Phase::Read];
    let mut at = moment(&phases, &settings, &job, random);
    at.round = 0;
    let mut faults = vec![Fault { at, kind: Kind::Orphan }];
    for _ in 0..random.random_range(0..=2) {
        let at = moment(&phases, &settings, &job, random);
        let host = if random.random_bool(0.7) { any(&settings.workers(), random) } else { "master".to_owned() };
        let back_after_ms = random.random_range(10..20_000);
        faults.push(Fault { at, kind: Kind::Crash { host, vanishes: random.random_bool(0.3), back_after_ms } });
    }
    let schedule = Schedule { faults, loss_ppm: 0, repair_ppm: 0, heal_at_ms: 60_000 };
    Setup { settings, job, schedule }
}
