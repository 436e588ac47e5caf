//! From a run that is wrong to the shortest one that still is.
//!
//! Owns what is left out, in which order, and when to stop. Whether a run is wrong, a process of its own says, as always.

use std::path::{Path, PathBuf};

use mallorn_sabotage::Sabotage;

use crate::children::Child;
use crate::regressions;
use crate::run::Case;
use crate::setup::{Calls, Setup};

/// Runs that are made to find a shorter one.
const TRIES_MAX: u32 = 150;

/// Shrinks a run, prints what is left, and keeps it in a file; `false` where it was not wrong to begin with, or not kept.
pub(crate) fn and_tell(case: Case, sabotage: Option<Sabotage>, out: Option<&Path>) -> bool {
    let name = format!("mallorn-sim-{}-{}", case.scenario, case.seed);
    let tried = std::env::temp_dir().join(format!("{name}-{}.json", std::process::id()));
    let is_wrong = |setup: &Setup| {
        let candidate = Case { setup: setup.clone(), ..case.clone() };
        regressions::write(&tried, &candidate).is_ok() && is_wrong(&tried, sabotage)
    };
    let found = if is_wrong(&case.setup) { Some(shortest(case.setup.clone(), is_wrong)) } else { None };
    let _ = mallorn_runtime::disk::Disk::real().remove_file(&tried);
    let Some(setup) = found else {
        println!("{} {} is not wrong", case.scenario, case.seed);
        return false;
    };
    let path = out.map_or_else(|| std::env::temp_dir().join(format!("{name}.json")), PathBuf::from);
    let before = case.setup.schedule.faults.len();
    println!("{} {}, {before} faults, made shorter:\n{setup}", case.scenario, case.seed);
    let shorter = Case { setup, ..case };
    match regressions::write(&path, &shorter) {
        Ok(()) => {
            println!("  it is in {}: replay --file; say why, and keep it in sim/regressions/", path.display());
            true
        }
        Err(why) => {
            println!("  it is not kept: {why}");
            false
        }
    }
}

fn is_wrong(file: &Path, sabotage: Option<Sabotage>) -> bool {
    !Child::of_file(file, sabotage).output().good
}

/// Leaves out whatever can be left out of a run that is wrong, until nothing can, or enough was tried.
fn shortest(mut setup: Setup, mut is_wrong: impl FnMut(&Setup) -> bool) -> Setup {
    let mut tries = 0;
    loop {
        let shorter = simpler(&setup).into_iter().find(|candidate| {
            tries += 1;
            tries <= TRIES_MAX && is_wrong(candidate)
        });
        match shorter {
            Some(shorter) => setup = shorter,
            None => return setup,
        }
    }
}

/// Everything that is one thing simpler: faults first.
fn simpler(setup: &Setup) -> Vec<Setup> {
    let mut all = Vec::new();
    for fault in 0..setup.schedule.faults.len() {
        let mut without = setup.clone();
        without.schedule.faults.remove(fault);
        all.push(without);
    }
    let mut with = |change: fn(&mut Setup)| {
        let mut changed = setup.clone();
        change(&mut changed);
        if changed != *setup {
            all.push(changed);
        }
    };
    with(|setup| (setup.schedule.loss_ppm, setup.schedule.repair_ppm) = (0, 0));
    with(|setup| setup.settings.clocks_permille.clear());
    with(|setup| setup.settings.calls = Calls::default());
    with(|setup| setup.settings.calls.repeated = 0);
    with(|setup| setup.settings.calls.unanswered = 0);
    with(|setup| setup.settings.calls.pushed_again = 0);
    with(|setup| setup.job.shuffles.truncate(1));
    with(|setup| setup.job.dropped_percent = 0);
    with(|setup| setup.job.abandoned_percent = 0);
    with(|setup| setup.job.declared_dead_percent = 0);
    with(|setup| setup.job.reads_early = false);
    with(|setup| setup.job.at_once = 1);
    with(|setup| setup.job.maps = setup.job.maps.div_ceil(2));
    with(|setup| setup.job.partitions = setup.job.partitions.div_ceil(2));
    with(|setup| setup.job.units = setup.job.units.div_ceil(2));
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faults::Kind;
    use crate::scenario::Scenario;

    #[test]
    fn what_does_not_matter_is_left_out() {
        let drawn = (1..1000).map(|seed| Scenario::Crash.draw(seed));
        let is_master = |kind: &Kind| matches!(kind, Kind::Crash { host, .. } if host == "master");
        let count = |setup: &Setup| setup.schedule.faults.iter().filter(|fault| is_master(&fault.kind)).count();
        let setup = drawn.into_iter().find(|setup| setup.schedule.faults.len() == 4 && count(setup) == 1).unwrap();
        let shorter = shortest(setup, |setup| count(setup) == 1 && setup.job.maps >= 2);
        assert_eq!(shorter.schedule.faults.len(), 1);
        assert_eq!((shorter.job.units, shorter.job.partitions, shorter.job.shuffles.len()), (1, 1, 1));
        assert!(shorter.job.maps >= 2 && shorter.job.maps < 4);
    }
}
