//! Machines of workers lose power: of what was not synced some is there afterwards, some is torn, some is gone. What was
//! sealed as synced must be read whole; of the rest whatever is not whole must be known to be lost.

use mallorn_client::Durability;
use rand::Rng as _;
use rand::rngs::StdRng;

use super::{any, moment, small_job, small_settings};
use crate::faults::{At, Fault, Kind, Phase, Schedule, Trouble};
use crate::setup::{JobKind, JobShape, Kept, Settings, Setup};

pub(super) fn draw(random: &mut StdRng) -> Setup {
    match random.random_range(0..10) {
        0..4 => return one_after_commit(random),
        4..6 => return all_after_commit(random),
        _ => {}
    }
    let settings = small_settings(random);
    let kind = if random.random_bool(0.3) { JobKind::Tokens } else { JobKind::Winners };
    let shape = small_job(kind, random);
    let job = JobShape { reads_early: shape.reads_early && kind == JobKind::Winners, ..shape };
    let mut faults = Vec::new();
    for _ in 0..random.random_range(1..=3) {
        let at = moment(&[Phase::Map, Phase::Commit, Phase::Committed, Phase::Read], &settings, &job, random);
        let (host, back_after_ms) = (any(&settings.workers(), random), random.random_range(10..8000));
        faults.push(Fault { at, kind: Kind::Power { host, worst: random.random_bool(0.5), back_after_ms } });
    }
    let schedule = Schedule { faults, loss_ppm: 0, repair_ppm: 0, heal_at_ms: 60_000 };
    Setup { settings, job, schedule }
}

/// One copy that is only written, and the whole cluster loses its power, and has it back at once.
fn all_after_commit(random: &mut StdRng) -> Setup {
    let settings = Settings { wait_for_return_ms: 5000, ..small_settings(random) };
    let kept = Kept { copies: 1, durability: Durability::Written };
    let shape = small_job(JobKind::Winners, random);
    let job = JobShape { shuffles: vec![kept], reads_early: false, partitions: 12, units: 80, ..shape };
    let at = At { phase: Phase::Committed, round: 0, after_ms: random.random_range(0..100) };
    let worst = random.random_bool(0.7);
    let power = |host| Fault { at, kind: Kind::Power { host, worst, back_after_ms: 200 } };
    let faults = settings.workers().into_iter().map(power).collect();
    let schedule = Schedule { faults, loss_ppm: 0, repair_ppm: 0, heal_at_ms: 60_000 };
    Setup { settings, job, schedule }
}

/// One copy, synced or only written, and a machine that is back before readers give it up.
fn one_after_commit(random: &mut StdRng) -> Setup {
    let settings = Settings { wait_for_return_ms: 5000, ..small_settings(random) };
    let durability = if random.random_bool(0.5) { Durability::Synced } else { Durability::Written };
    let kept = Kept { copies: 1, durability };
    let job = JobShape { shuffles: vec![kept], reads_early: false, ..small_job(JobKind::Winners, random) };
    let mut at = moment(&[Phase::Committed, Phase::Read], &settings, &job, random);
    at.round = 0;
    let (host, back_after_ms) = (any(&settings.workers(), random), random.random_range(10..2000));
    let worst = random.random_bool(0.5);
    let mut faults = Vec::new();
    if durability == Durability::Synced && random.random_bool(0.3) {
        // What could not be synced must not count as synced.
        let at = At { phase: Phase::Map, round: 0, after_ms: 0 };
        for number in 0..settings.disks.count {
            let (host, trouble) = (host.clone(), Trouble::FailsSyncs);
            faults.push(Fault { at, kind: Kind::Disk { host, number, trouble, for_ms: 30_000 } });
        }
    }
    faults.push(Fault { at, kind: Kind::Power { host, worst, back_after_ms } });
    let schedule = Schedule { faults, loss_ppm: 0, repair_ppm: 0, heal_at_ms: 60_000 };
    Setup { settings, job, schedule }
}
