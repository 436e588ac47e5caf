//! The one binary of Mallorn, a remote shuffle service.
//!
//! Owns the command line: which commands there are, their settings, and their exit codes (0 done, 1 failed, 2 wrong
//! usage or settings; 130 and 143 ended by SIGINT and SIGTERM). Does not own the roles, which are crates of their own.

mod config_command;
mod demo;
mod role;
mod settings;
mod signals;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use mallorn_runtime::clock;

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

/// Runs a command on a thread per core, at least two: where one is busy computing, another still serves connections.
fn run(command: impl Future<Output = ExitCode>) -> ExitCode {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if std::thread::available_parallelism().map_or(1, usize::from) < 2 {
        builder.worker_threads(2);
    }
    let runtime = match builder.enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("can't start threads: {error}");
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(Box::pin(command));
    // Nothing is waited for that may still block, such as a read of standard input.
    runtime.shutdown_background();
    code
}
