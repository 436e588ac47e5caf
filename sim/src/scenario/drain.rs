//! Workers are told to end, and come back with their disks, at any moment: while maps push, during commits and reads, several
//! of them one after the other, as when a cluster is updated; or without their disks, and what they hold is handed over to
//! others while it is read and committed.

use rand::Rng as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;

use super::{any, moment, small_job, small_settings};
use crate::faults::{Fault, Kind, Phase, Schedule};
use crate::setup::{JobKind, JobShape, Settings, Setup};

pub(super) fn draw(random: &mut StdRng) -> Setup {
    let usual = small_settings(random);
    let disk_returns = random.random_bool(0.4);
    let settings = Settings {
        disk_returns,
        // Half of it passes before anything is handed over.
        grace_ms: if disk_returns {
            usual.grace_ms
        } else {
            *[200, 1000, 4000, 20_000].choose(random).unwrap_or(&20_000)
        },
        wait_for_return_ms: *[0, 5000].choose(random).unwrap_or(&0),
        ..usual
    };
    let kind = if random.random_bool(0.3) { JobKind::Tokens } else { JobKind::Winners };
    let shape = small_job(kind, random);
    let job = JobShape { reads_early: shape.reads_early && kind == JobKind::Winners, ..shape };
    let mut faults = Vec::new();
    let faults_max = if random.random_bool(0.4) { 1 } else { 4 };
    for _ in 0..random.random_range(1..=faults_max) {
        let host = any(&settings.workers(), random);
        let at =
            moment(&[Phase::Map, Phase::Map, Phase::Commit, Phase::Committed, Phase::Read], &settings, &job, random);
        let back_after_ms = if random.random_bool(0.6) { random.random_range(500..3000) } else { 12_000 };
        faults.push(Fault { at, kind: Kind::Drain { host, back_after_ms } });
    }
    let schedule = Schedule { faults, loss_ppm: 0, repair_ppm: 0, heal_at_ms: 60_000 };
    Setup { settings, job, schedule }
}
