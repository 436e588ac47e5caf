//! The check of the simulation itself: the same seed gives the same bytes, in one process and in two; and the oracle
//! notices what is wrong.

use std::path::{Path, PathBuf};

use mallorn_runtime::disk::Disk;

use crate::children::{self, Child};
use crate::engine::Sabotage;
use crate::run;
use crate::scenario::Scenario;

/// Far more than a trace ever has.
const TRACE_BYTES_MAX: u64 = 1 << 30;
/// Seeds tried until one has something to spoil.
const SABOTAGE_SEEDS: u64 = 50;

/// Checks everything; prints what it finds.
pub(crate) fn all(seeds: u64, first_seed: u64) -> bool {
    let same = same_bytes(seeds, first_seed);
    let noticed = Sabotage::ALL.into_iter().filter(|sabotage| !is_noticed(*sabotage)).count() == 0;
    println!("{}", if same && noticed { "check: good" } else { "check: WRONG" });
    same && noticed
}

/// Whether the oracle notices this; `false` also when there was nothing to spoil.
fn is_noticed(sabotage: Sabotage) -> bool {
    for seed in 1..=SABOTAGE_SEEDS {
        let report = run::run(Scenario::Network, seed, Some(sabotage));
        if let Some(wrong) = report.wrong.first() {
            println!("sabotage {sabotage:?}, seed {seed}: noticed: {wrong}");
            return true;
        }
        if report.counts.contains_key("reads spoilt") {
            println!("sabotage {sabotage:?}, seed {seed}: NOT NOTICED");
            return false;
        }
    }
    println!("sabotage {sabotage:?}: nothing to spoil in {SABOTAGE_SEEDS} seeds");
    false
}

fn same_bytes(seeds: u64, first_seed: u64) -> bool {
    let disk = Disk::real();
    let folder = std::env::temp_dir().join(format!("mallorn-sim-{}", std::process::id()));
    if let Err(error) = disk.create_dir(&folder) {
        println!("{error}");
        return false;
    }
    let seeds = first_seed..first_seed + seeds;
    let runs = seeds.flat_map(|seed| Scenario::ALL.map(|scenario| (scenario, seed)));
    let each = runs.flat_map(|run| [(run, true), (run, false)]);
    let mut good = true;
    let trace = |scenario: Scenario, seed: u64, twice: bool| {
        folder.join(format!("{scenario}-{seed}-{}", if twice { "twice" } else { "once" }))
    };
    children::each(
        each,
        |((scenario, seed), twice)| {
            let path = trace(*scenario, *seed, *twice).to_string_lossy().into_owned();
            let more = ["--trace", &path, "--twice"];
            Child::replay(*scenario, *seed, if *twice { &more } else { &more[..2] })
        },
        |((scenario, seed), twice), output| {
            good &= output.good;
            if *twice {
                print!("{}", output.text);
                return;
            }
            let (first, second) = (trace(*scenario, *seed, true), trace(*scenario, *seed, false));
            good &= same_files(&disk, &first, &second);
        },
    );
    if good && let Err(error) = disk.remove_dir_all(&folder) {
        println!("{error}");
    }
    good
}

fn same_files(disk: &Disk, first: &Path, second: &Path) -> bool {
    let read =
        |path: &PathBuf| disk.read(path, TRACE_BYTES_MAX).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    match (read(&first.to_owned()), read(&second.to_owned())) {
        (Ok(one), Ok(other)) => same(&one, &other),
        (Err(error), _) | (_, Err(error)) => {
            println!("{error}");
            false
        }
    }
}

/// Whether two traces of one seed are the same; prints where they part.
pub(crate) fn same(one: &str, other: &str) -> bool {
    if one == other {
        return true;
    }
    println!("TWO TRACES OF ONE SEED DIFFER");
    let mut lines = one.lines().zip(other.lines()).zip(1..);
    match lines.find(|((one, other), _)| one != other) {
        Some(((one, other), number)) => println!("  line {number}:\n  {one}\n  {other}"),
        None => println!("  one is {} bytes long, the other {}", one.len(), other.len()),
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oracle_notices_what_is_made_wrong() {
        for sabotage in Sabotage::ALL {
            assert!(is_noticed(sabotage), "{sabotage:?}");
        }
    }
}
