//! Disks are full, refuse, fail, hang, are slow or vanish, and bits of what is on them flip. What cannot be kept as asked
//! is refused, what was kept and is spoilt is found out, and a disk that is left costs nobody more than its own data.

use mallorn_client::Durability;
use mallorn_oracle::UnitSizes;
use rand::Rng as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;

use super::{any, kept, moment, small_job, small_settings};
use crate::faults::{At, Fault, Kind, Phase, Schedule, Target, Trouble};
use crate::setup::{JobKind, JobShape, Settings, Setup};

pub(super) fn draw(random: &mut StdRng) -> Setup {
    let settings = small_settings(random);
    let kind = if random.random_bool(0.3) { JobKind::Tokens } else { JobKind::Winners };
    let shape = small_job(kind, random);
    let mut job = JobShape { reads_early: shape.reads_early && kind == JobKind::Winners, ..shape };
    if random.random_bool(0.25) {
        // So much that memory holds a part of it only.
        let sizes = UnitSizes { usual_bytes: 30_000, largest_bytes: 60_000, large_percent: 20, empty_percent: 2 };
        job = JobShape { sizes, units: 120, maps: 8, pause_max_ms: 5, shuffles: vec![kept(random)], ..job };
    }
    let mut faults = Vec::new();
    for _ in 0..random.random_range(1..=4) {
        faults.push(draw_fault(&settings, &job, random));
    }
    if random.random_bool(0.3) {
        faults.extend(after_restart(&settings, random));
    } else if random.random_bool(0.4) {
        let host = any(&settings.workers(), random);
        let at = moment(&[Phase::Map, Phase::Commit, Phase::Committed, Phase::Read], &settings, &job, random);
        let back_after_ms = random.random_range(10..3000);
        faults.push(Fault { at, kind: Kind::Crash { host, vanishes: false, back_after_ms } });
    }
    meet_failing_syncs(&mut faults, &mut job);
    let schedule = Schedule { faults, loss_ppm: 0, repair_ppm: 0, heal_at_ms: 60_000 };
    Setup { settings, job, schedule }
}

/// Only what is to be synced meets syncs that fail, and only where they fail before it is committed.
fn meet_failing_syncs(faults: &mut [Fault], job: &mut JobShape) {
    for fault in faults {
        if matches!(fault.kind, Kind::Disk { trouble: Trouble::FailsSyncs, .. }) {
            fault.at = At { phase: Phase::Map, round: 0, after_ms: 0 };
            job.shuffles.iter_mut().for_each(|kept| kept.durability = Durability::Synced);
        }
    }
}

fn draw_fault(settings: &Settings, job: &JobShape, random: &mut StdRng) -> Fault {
    let host = any(&settings.workers(), random);
    if random.random_bool(0.25) {
        let target = if random.random_bool(0.5) { Target::Segment } else { Target::Records };
        let at = moment(&[Phase::Committed, Phase::Read], settings, job, random);
        return Fault { at, kind: Kind::Flip { host, target, pick: random.random() } };
    }
    let number = random.random_range(0..settings.disks.count);
    let at = moment(&[Phase::Map, Phase::Map, Phase::Commit, Phase::Committed, Phase::Read], settings, job, random);
    // A disk that hangs is given up after ten seconds.
    let for_ms = random.random_range(200..15_000);
    Fault { at, kind: Kind::Disk { host, number, trouble: trouble(random), for_ms } }
}

/// A worker restarts, so that it has nothing in memory; then its disk gets into trouble, and readers come.
fn after_restart(settings: &Settings, random: &mut StdRng) -> Vec<Fault> {
    let host = any(&settings.workers(), random);
    let (began_ms, back_after_ms) = (random.random_range(0..50), random.random_range(10..100));
    let at = |after_ms| At { phase: Phase::Committed, round: 0, after_ms };
    let crash = Kind::Crash { host: host.clone(), vanishes: false, back_after_ms };
    let number = random.random_range(0..settings.disks.count);
    let for_ms = random.random_range(200..15_000);
    let troubles: Vec<_> = match random.random_range(0..4) {
        0 | 1 => (0..random.random_range(1..=8))
            .map(|_| Kind::Flip { host: host.clone(), target: Target::Segment, pick: random.random() })
            .collect(),
        2 => vec![Kind::Disk { host, number, trouble: Trouble::FailsReads, for_ms }],
        _ => vec![Kind::Disk { host, number, trouble: Trouble::Hangs, for_ms }],
    };
    let struck_ms = began_ms + back_after_ms + random.random_range(1..100);
    let strike = |kind| Fault { at: at(struck_ms), kind };
    std::iter::once(Fault { at: at(began_ms), kind: crash }).chain(troubles.into_iter().map(strike)).collect()
}

fn trouble(random: &mut StdRng) -> Trouble {
    let min_ms = random.random_range(5..200);
    let slow = Trouble::Slow { min_ms, max_ms: min_ms + random.random_range(1..3000) };
    let all = [
        Trouble::Full,
        Trouble::FailsWrites,
        Trouble::FailsReads,
        Trouble::FailsSyncs,
        Trouble::ReadOnly,
        Trouble::Vanished,
        Trouble::Hangs,
        slow,
    ];
    *all.choose(random).unwrap_or(&slow)
}
