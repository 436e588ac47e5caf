//! Machines of workers die at a step of their disks: after a drawn number of changes and syncs, in the middle of a write of
//! an extent, of a record, of a folder's name; with or without a loss of power. They come back with what their disks have
//! then; and others come back with empty disks, or two with each other's.

use mallorn_client::Durability;
use rand::Rng as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;

use super::{any, moment, small_job, small_settings};
use crate::faults::{Fault, Kind, Phase, Schedule};
use crate::setup::{JobKind, JobShape, Settings, Setup};

pub(super) fn draw(random: &mut StdRng) -> Setup {
    let usual = small_settings(random);
    let settings = Settings { wait_for_return_ms: *[0, 2000, 5000].choose(random).unwrap_or(&0), ..usual };
    let kind = if random.random_bool(0.2) { JobKind::Tokens } else { JobKind::Winners };
    let shape = small_job(kind, random);
    let mut job = JobShape { reads_early: shape.reads_early && kind == JobKind::Winners, ..shape };
    let levels = [Durability::Written, Durability::Synced];
    job.shuffles.iter_mut().for_each(|kept| kept.durability = *levels.choose(random).unwrap_or(&levels[0]));
    let phases = [Phase::Map, Phase::Map, Phase::Map, Phase::Commit, Phase::Commit, Phase::Committed, Phase::Read];
    let mut faults = Vec::new();
    for _ in 0..random.random_range(1..=3) {
        let at = moment(&phases, &settings, &job, random);
        let (host, back_after_ms) = (any(&settings.workers(), random), random.random_range(10..5000));
        let kind = match random.random_range(0..10) {
            0..7 => {
                let changes =
                    if random.random_bool(0.8) { random.random_range(0..8) } else { random.random_range(0..40) };
                Kind::Step { host, changes, power: random.random_bool(0.5), back_after_ms }
            }
            7 => Kind::Empty { host, back_after_ms },
            _ => {
                let two: Vec<_> = settings.workers().choose_multiple(random, 2).cloned().collect();
                Kind::Swap { one: two[0].clone(), other: two[1].clone(), back_after_ms }
            }
        };
        faults.push(Fault { at, kind });
    }
    let schedule = Schedule { faults, loss_ppm: 0, repair_ppm: 0, heal_at_ms: 60_000 };
    Setup { settings, job, schedule }
}
