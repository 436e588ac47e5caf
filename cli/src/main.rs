//! The one binary of Mallorn, a remote shuffle service.
//!
//! Owns the command line: which commands there are, their settings, and their exit codes (0 done, 1 failed, 2 wrong
//! usage or settings; 130 and 143 ended by SIGINT and SIGTERM). Does not own the roles, which are crates of their own.

mod config_command;
mod demo;
mod drain_command;
mod role;
mod settings;
mod signals;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use mallorn_runtime::{clock, task};

/// A remote shuffle service: engines push the output of their map tasks, and read whole partitions back
#[derive(Parser, Debug)]
#[command(name = "mallorn", version)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    Master(Box<role::MasterArgs>),
    Worker(Box<role::WorkerArgs>),
    Local(Box<role::LocalArgs>),
    Demo(Box<demo::DemoArgs>),
    Config(Box<config_command::ConfigArgs>),
}

fn main() -> ExitCode {
    let started = clock::now();
    match CommandLine::parse().command {
        Command::Master(args) => run(role::master(*args)),
        Command::Worker(args) => run(role::worker(*args)),
        Command::Local(args) => run(role::local(*args)),
        Command::Demo(args) => run(demo::demo(*args, started)),
        Command::Config(args) => config_command::run::<settings::Root>(&args),
    }
}

fn run(command: impl Future<Output = ExitCode>) -> ExitCode {
    task::run(command).unwrap_or_else(|error| {
        eprintln!("can't start threads: {error}");
        ExitCode::FAILURE
    })
}
