//! Clocks run fast and slow, and jump forward as those of machines that stood still: of the master, of the driver, of
//! workers, of executors. Alone that must not lose anything; with crashes it must not lose more than those do.

use rand::Rng as _;
use rand::rngs::StdRng;

use super::{any, moment, small_job, small_settings};
use crate::faults::{Fault, Kind, Phase, Schedule};
use crate::setup::{JobKind, JobShape, Settings, Setup};

pub(super) fn draw(random: &mut StdRng) -> Setup {
    let usual = small_settings(random);
    let clocks_permille = usual.hosts().iter().map(|_| random.random_range(930..=1070)).collect();
    let settings = Settings { clocks_permille, ..usual };
    let kind = if random.random_bool(0.2) { JobKind::Tokens } else { JobKind::Winners };
    let shape = small_job(kind, random);
    let job = JobShape {
        at_once: random.random_range(1..=2),
        reads_early: shape.reads_early && kind == JobKind::Winners,
        ..shape
    };
    let phases = [Phase::Map, Phase::Map, Phase::Commit, Phase::Committed, Phase::Read];
    let crashes = random.random_bool(0.4);
    let mut faults = Vec::new();
    for _ in 0..random.random_range(1..=5) {
        let at = moment(&phases, &settings, &job, random);
        if crashes && random.random_bool(0.4) {
            let (vanishes, back_after_ms) = (random.random_bool(0.5), random.random_range(10..6000));
            faults.push(Fault {
                at,
                kind: Kind::Crash { host: any(&settings.workers(), random), vanishes, back_after_ms },
            });
            continue;
        }
        let host = match random.random_range(0..10) {
            0..4 => "master".to_owned(),
            4..6 => "driver".to_owned(),
            6..8 => any(&settings.workers(), random),
            _ => any(&settings.executors(), random),
        };
        // Less than a lease, a few leases, or longer than anybody waits for anything.
        let by_ms = match random.random_range(0..3) {
            0 => random.random_range(50..1500),
            1 => random.random_range(1500..9000),
            _ => random.random_range(9000..90_000),
        };
        faults.push(Fault { at, kind: Kind::Jump { host, by_ms } });
    }
    let schedule = Schedule { faults, loss_ppm: 0, repair_ppm: 0, heal_at_ms: 60_000 };
    Setup { settings, job, schedule }
}
