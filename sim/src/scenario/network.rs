//! Messages are lost, late, and held back; links are cut, also in one direction. Every map runs as two attempts at once,
//! and only one of them may ever be read.

use rand::Rng as _;
use rand::rngs::StdRng;

use super::{any, moment, small_job, small_settings};
use crate::faults::{At, Fault, Kind, Phase, Schedule};
use crate::setup::{JobKind, JobShape, Settings, Setup};

pub(super) fn draw(random: &mut StdRng) -> Setup {
    // Links may stay broken until all is healed; an application that its master has not heard for so long is not at an end.
    let mut settings = Settings { application_lease_ms: 90_000, ..small_settings(random) };
    let mut job = JobShape { at_once: 2, ..small_job(JobKind::Winners, random) };
    let mut faults = Vec::new();
    if random.random_bool(0.3) {
        // Attempts that outlast their leases, whose renewals are late.
        settings.attempt_lease_ms = random.random_range(1000..2500);
        job = JobShape { units: 150, pause_max_ms: 60, ..job };
        let at = At { phase: Phase::Map, round: 0, after_ms: random.random_range(0..500) };
        let (latency_max_ms, for_ms) = (random.random_range(300..1500), random.random_range(3000..10_000));
        faults.push(Fault { at, kind: Kind::Slow { latency_max_ms, for_ms } });
    }
    for _ in 0..random.random_range(1..=5) {
        let at = moment(&[Phase::Map, Phase::Committed, Phase::Read], &settings, &job, random);
        faults.push(Fault { at, kind: kind(&settings, random) });
    }
    let loss_ppm = if random.random_bool(0.7) { random.random_range(100..3000) } else { 0 };
    let repair_ppm = random.random_range(100_000..900_000);
    let schedule = Schedule { faults, loss_ppm, repair_ppm, heal_at_ms: random.random_range(5000..60_000) };
    Setup { settings, job, schedule }
}

fn kind(settings: &Settings, random: &mut StdRng) -> Kind {
    let one = match random.random_range(0..4) {
        0 | 1 => any(&settings.workers(), random),
        2 => "master".to_owned(),
        _ => "driver".to_owned(),
    };
    let others: Vec<_> = settings.hosts().into_iter().filter(|host| *host != one).collect();
    let other = any(&others, random);
    let for_ms = random.random_range(20..6000);
    match random.random_range(0..5) {
        0 => Kind::Cut { one, other, for_ms },
        1 => Kind::CutOneWay { from: one, to: other, for_ms },
        2 | 3 => Kind::Hold { one, other, for_ms },
        _ => Kind::Slow { latency_max_ms: random.random_range(50..1500), for_ms },
    }
}
