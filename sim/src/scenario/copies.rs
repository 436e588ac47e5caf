//! Two copies of everything: workers crash at any moment, as replicas, as primaries, between freeze and seal; links between
//! them are cut, in one direction too, and held. What happens to one worker only must not cost a
//! generation.

use rand::Rng as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;

use super::{any, moment, small_job, small_settings};
use crate::faults::{Fault, Kind, Phase, Schedule};
use crate::setup::{JobKind, JobShape, Settings, Setup};

pub(super) fn draw(random: &mut StdRng) -> Setup {
    let settings = small_settings(random);
    let kind = if random.random_bool(0.2) { JobKind::Tokens } else { JobKind::Winners };
    let mut job = small_job(kind, random);
    job.shuffles.iter_mut().for_each(|kept| kept.copies = 2);
    let job = JobShape {
        at_once: random.random_range(1..=2),
        reads_early: job.reads_early && kind == JobKind::Winners,
        ..job
    };
    let phases = [Phase::Map, Phase::Map, Phase::Commit, Phase::Committed, Phase::Read];
    let mut faults = Vec::new();
    if random.random_bool(0.5) {
        let host = any(&settings.workers(), random);
        for _ in 0..random.random_range(1..=2) {
            let mut at = moment(&phases, &settings, &job, random);
            at.round = 0;
            faults.push(Fault { at, kind: crash(host.clone(), random) });
        }
    } else {
        for _ in 0..random.random_range(1..=4) {
            let at = moment(&phases, &settings, &job, random);
            let kind = if random.random_bool(0.4) {
                crash(any(&settings.workers(), random), random)
            } else {
                between(&settings, random)
            };
            faults.push(Fault { at, kind });
        }
    }
    let schedule = Schedule { faults, loss_ppm: 0, repair_ppm: 0, heal_at_ms: 60_000 };
    Setup { settings, job, schedule }
}

fn crash(host: String, random: &mut StdRng) -> Kind {
    // Often back at once, so that it is asked again in the same commit.
    let back_after_ms =
        if random.random_bool(0.5) { random.random_range(1..300) } else { random.random_range(300..9000) };
    if random.random_bool(0.2) {
        return Kind::Power { host, worst: random.random_bool(0.5), back_after_ms };
    }
    Kind::Crash { host, vanishes: random.random_bool(0.3), back_after_ms }
}

/// Something between two workers, or between one and whoever commits.
fn between(settings: &Settings, random: &mut StdRng) -> Kind {
    let mut hosts = settings.workers();
    hosts.push("driver".to_owned());
    let two: Vec<_> = hosts.choose_multiple(random, 2).cloned().collect();
    let (one, other) = (two[0].clone(), two[1].clone());
    let for_ms = random.random_range(20..8000);
    match random.random_range(0..4) {
        0 => Kind::Cut { one, other, for_ms },
        1 | 2 => Kind::CutOneWay { from: one, to: other, for_ms },
        _ => Kind::Hold { one, other, for_ms },
    }
}
