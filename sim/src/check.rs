//! The check of the simulation itself: the same seed gives the same bytes, in any process; and what is made wrong on
//! purpose is noticed.

use std::ops::ControlFlow;
use std::path::Path;

use mallorn_runtime::disk::Disk;

use crate::children::{self, Child};
use crate::engine::Spoil;
use crate::run::{self, Case, How};
use crate::scenario::Scenario;

/// Far more than a trace ever has.
const TRACE_BYTES_MAX: u64 = 1 << 30;
/// Seeds tried until one has something to spoil.
const SPOIL_SEEDS: u64 = 50;

/// Checks everything; prints what it finds.
pub(crate) fn all(seeds: u64, first_seed: u64) -> bool {
    let same = same_bytes(seeds, first_seed);
    let noticed = Spoil::ALL.into_iter().filter(|spoil| !is_noticed(*spoil)).count() == 0;
    println!("{}", if same && noticed { "check: good" } else { "check: WRONG" });
    same && noticed
}

/// Whether this is noticed; `false` also when there was nothing to spoil.
fn is_noticed(spoil: Spoil) -> bool {
    for seed in 1..=SPOIL_SEEDS {
        let how = How { spoil: Some(spoil), ..How::default() };
        let report = run::run(Case::draw(spoil.scenario(), seed), how);
        if let Some(wrong) = report.wrong.first() {
            println!("spoil {spoil:?}, seed {seed}: noticed: {wrong}");
            return true;
        }
        if report.counts.contains_key("reads spoilt") {
            println!("spoil {spoil:?}, seed {seed}: NOT NOTICED");
            return false;
        }
    }
    println!("spoil {spoil:?}: nothing to spoil in {SPOIL_SEEDS} seeds");
    false
}

fn same_bytes(seeds: u64, first_seed: u64) -> bool {
    let disk = Disk::real();
    let folder = std::env::temp_dir().join(format!("mallorn-sim-{}", std::process::id()));
    if let Err(error) = disk.create_dir(&folder) {
        println!("{error}");
        return false;
    }
    let runs = (first_seed..first_seed + seeds).flat_map(|seed| Scenario::ALL.map(|scenario| (scenario, seed)));
    let each = runs.flat_map(|run| [(run, "first"), (run, "second"), (run, "untraced")]);
    let trace = |(scenario, seed): (Scenario, u64), which: &str| folder.join(format!("{scenario}-{seed}-{which}"));
    let (mut good, mut said) = (true, String::new());
    children::each(
        each,
        |((scenario, seed), which)| match *which {
            "untraced" => Child::replay(*scenario, *seed, None),
            which => Child::traced(*scenario, *seed, &trace((*scenario, *seed), which)),
        },
        |(run, which), output| {
            good &= output.good;
            match *which {
                "first" => {
                    print!("{}", output.text);
                    said = output.text;
                }
                // What is only computed to be logged must not change anything.
                "untraced" if output.text != said => {
                    println!("WITHOUT A TRACE IT IS ANOTHER RUN\n  {}", output.text);
                    good = false;
                }
                "untraced" => {}
                _ => good &= same_files(&disk, &trace(*run, "first"), &trace(*run, "second")),
            }
            ControlFlow::Continue(())
        },
    );
    // Where they differ, they are left to be looked at.
    if good && let Err(error) = disk.remove_dir_all(&folder) {
        println!("{error}");
    }
    good
}

fn same_files(disk: &Disk, first: &Path, second: &Path) -> bool {
    let read = |path| disk.read(path, TRACE_BYTES_MAX).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    match (read(first), read(second)) {
        (Ok(one), Ok(other)) if is_same(&one, &other) => true,
        (Ok(_), Ok(_)) => {
            println!("  they are in {} and {}", first.display(), second.display());
            false
        }
        (Err(error), _) | (_, Err(error)) => {
            println!("{error}");
            false
        }
    }
}

/// Whether two traces of one seed are the same; prints where they part.
fn is_same(one: &str, other: &str) -> bool {
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
        for spoil in Spoil::ALL {
            assert!(is_noticed(spoil), "{spoil:?}");
        }
    }
}
