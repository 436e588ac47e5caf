//! The run of all faults: which of them, how often, on what machine, and the table of what came out.

use std::path::{Path, PathBuf};
use std::time::Duration;

use mallorn_runtime::clock::{self, Instant};
use tokio::signal::unix::{SignalKind, signal};

use crate::Arguments;
use crate::failure::{Failure, Witness};
use crate::fault::{self, Context, Fault};
use crate::privilege::{self, FOLDER_PREFIX};
use crate::table::{self, Row, Verdict};

/// Runs what was asked for; whether all of it is good.
pub(crate) async fn run(arguments: Arguments) -> bool {
    let chosen = chosen(&arguments.only);
    if chosen.is_empty() {
        eprintln!("no fault has {:?} in its name; --list shows them", arguments.only);
        return false;
    }
    if arguments.list {
        chosen.iter().for_each(|fault| list(fault));
        return true;
    }
    let Some(mallorn) = find_mallorn(arguments.mallorn.clone()) else { return false };
    privilege::clean_up();
    let began = clock::now();
    let mut rows = Vec::new();
    println!("{}", table::head());
    for round in 0.. {
        let is_enough = match arguments.minutes {
            Some(minutes) => began.elapsed() >= Duration::from_secs(minutes * 60),
            None => round >= arguments.rounds,
        };
        if is_enough {
            break;
        }
        for fault in &chosen {
            let row = tokio::select! {
                biased;
                // What is under way is dropped, and takes down what it has set up.
                () = told_to_end() => return false,
                row = strike(fault, &mallorn, arguments.seed + round) => row,
            };
            println!("{}", row.line());
            if row.verdict == Verdict::Wrong {
                println!(
                    "{}\n    again: mallorn-nemesis --only {} --seed {}",
                    row.outcome,
                    fault.name,
                    arguments.seed + round
                );
            }
            rows.push(row);
        }
    }
    finish(&arguments, &rows, began)
}

/// The faults of these names, or with these words in their names; all where there are none.
fn chosen(only: &[String]) -> Vec<&'static Fault> {
    let exact: Vec<_> = fault::all().filter(|fault| only.iter().any(|only| only == fault.name)).collect();
    let is_meant = |fault: &&Fault| only.is_empty() || only.iter().any(|only| fault.name.contains(only.as_str()));
    if exact.is_empty() { fault::all().filter(is_meant).collect() } else { exact }
}

async fn told_to_end() {
    match signal(SignalKind::terminate()) {
        Ok(mut terminate) => tokio::select! {
            _ = terminate.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        },
        // It can be killed, and the next one cleans up.
        Err(_) => std::future::pending().await,
    }
}

fn finish(arguments: &Arguments, rows: &[Row], began: Instant) -> bool {
    table::print_sum(rows, began.elapsed());
    if let Some(path) = &arguments.json
        && let Err(error) = table::write(path, rows)
    {
        eprintln!("{error}");
        return false;
    }
    rows.iter().all(|row| match row.verdict {
        Verdict::Good => true,
        Verdict::Wrong => false,
        Verdict::Skipped => !arguments.strict,
    })
}

fn list(fault: &Fault) {
    let missing: Vec<String> = fault.needs.iter().flat_map(|need| need.missing()).collect();
    let missing = if missing.is_empty() { String::new() } else { format!(" (missing here: {})", missing.join(", ")) };
    println!("{:<24} {}{missing}", fault.name, fault.about);
}

fn find_mallorn(given: Option<PathBuf>) -> Option<PathBuf> {
    let beside = || Some(std::env::current_exe().ok()?.with_file_name("mallorn"));
    let path = given.or_else(beside)?;
    if path.is_file() {
        return Some(path);
    }
    eprintln!("there is no `mallorn` at {}: build it, or name it with --mallorn", path.display());
    None
}

async fn strike(fault: &'static Fault, mallorn: &Path, seed: u64) -> Row {
    let row = |verdict, struck, outcome: String| Row {
        fault: fault.name,
        struck,
        verdict,
        evidence: String::new(),
        outcome,
        seconds: 0.0,
    };
    let mut missing: Vec<String> = fault.needs.iter().flat_map(|need| need.missing()).collect();
    missing.sort();
    missing.dedup();
    if !missing.is_empty() {
        return row(Verdict::Skipped, false, format!("this machine lacks {}", missing.join(", ")));
    }
    let prefix = format!("{FOLDER_PREFIX}{}-", std::process::id());
    let folder = match tempfile::Builder::new().prefix(&prefix).tempdir() {
        Ok(folder) => folder,
        Err(error) => return row(Verdict::Wrong, false, format!("no folder: {error}")),
    };
    let witness = Witness::default();
    let context =
        Context { seed, mallorn: mallorn.to_owned(), folder: folder.path().to_owned(), witness: witness.clone() };
    let began = clock::now();
    let ran = clock::timeout(fault.within, (fault.run)(context)).await;
    let seconds = began.elapsed().as_secs_f64();
    let row = match ran {
        Ok(Ok(seen)) => Row { evidence: seen.struck, ..row(Verdict::Good, true, seen.outcome) },
        Ok(Err(failure)) => {
            let text = format!("{failure}{}", witness.tell());
            row(Verdict::Wrong, matches!(failure, Failure::Wrong(_)), text)
        }
        Err(_) => row(Verdict::Wrong, false, format!("not over after {:?}{}", fault.within, witness.tell())),
    };
    Row { seconds, ..row }
}
