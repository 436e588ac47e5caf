//! Measures Mallorn as it is used: real worker processes, driven by the client crate, every byte verified.
//!
//! | question | file |
//! |---|---|
//! | which scenarios there are, and their budgets | `scenario` |
//! | what runs in which order | `bench` |
//! | processes, load, clients | `cluster`, `load`, `shuffle` |
//! | what is read while they run | `meter`, `sampler`, `times`, `files` |
//! | how costs grow; a sort; the pure parts, or a disk, alone | `growth`, `terasort`, `micro`, `disk` |
//! | what it means, and how it is shown | `summary`, `outcome`, `table`, `plot`, `page`, `compare` |
//!
//! Client and workers are separate processes, as they are in use: this one is the client. The floor and Mallorn run in
//! turn, so that both meet the same machine, and what counts is their CPU time: on a busy machine nothing else holds.

mod bench;
mod cluster;
mod command;
mod compare;
mod disk;
mod files;
mod floor;
mod growth;
mod load;
mod machine;
mod meter;
mod micro;
mod outcome;
mod page;
mod plot;
mod progress;
mod sampler;
mod scenario;
mod shuffle;
mod statistics;
mod summary;
mod table;
mod terasort;
mod times;

use std::process::ExitCode;

use clap::Parser;
use mallorn_runtime::task;

fn main() -> ExitCode {
    let command = command::CommandLine::parse();
    let ended = task::run(command::run(command)).map_err(command::CommandError::Threads).flatten();
    match ended {
        Ok(code) => code,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
