//! The options of `mallorn demo`, and the settings that follow from them.

use std::num::NonZeroU16;
use std::path::PathBuf;

use clap::builder::RangedU64ValueParser;
use clap::{Args, ValueEnum};
use mallorn_client::{Compression, Durability};
use mallorn_proto::limits::PARTITIONS_MAX;
use mallorn_runtime::config::{ByteSize, ConfigError, Loaded, Origin, Span};
use serde::Serialize;

use crate::config_command::SettingsArgs;
use crate::settings::Root;

/// Most workers that the demo starts: more processes than this help nobody on one machine.
const WORKERS_MAX: u64 = 64;

/// Shuffles real data through real processes and checks the answer
///
/// Starts a master and workers on this machine, generates the TPC-H tables orders and lineitem, shuffles both by order
/// key, answers TPC-H query 12 from what comes back, and compares it with a direct computation. With --input it shuffles
/// a CSV file instead and counts its rows per key. Afterwards nothing is left: no process, file or folder.
#[derive(Args, Clone, Debug)]
pub(crate) struct DemoArgs {
    /// Size of the generated tables: 1 is 1.5 million orders and 6 million line items, about 1 GB
    #[arg(long, value_name = "F", default_value_t = 1.0, conflicts_with = "input")]
    pub(super) scale: f64,

    /// A CSV file to shuffle instead; its first line names the columns
    #[arg(long, value_name = "FILE", requires = "key")]
    pub(super) input: Option<PathBuf>,

    /// The column of the CSV file whose values are the keys
    #[arg(long, value_name = "COLUMN", requires = "input")]
    pub(super) key: Option<String>,

    /// Worker processes
    #[arg(long, value_name = "N", default_value = "3", value_parser = RangedU64ValueParser::<u16>::new().range(1..=WORKERS_MAX))]
    pub(super) workers: u16,

    /// Map tasks per table
    #[arg(long, value_name = "N", default_value = "8")]
    pub(super) mappers: NonZeroU16,

    /// Partitions of each table, and as many reduce tasks
    #[arg(long, value_name = "N", default_value = "16", value_parser = RangedU64ValueParser::<u32>::new().range(1..=u64::from(PARTITIONS_MAX)))]
    pub(super) partitions: u32,

    /// Memory of each worker for shuffle data, grown on demand [default: 2GiB]
    #[arg(long, value_name = "SIZE")]
    pub(super) memory: Option<ByteSize>,

    /// How payloads are compressed: lz4, zstd or none [default: lz4]
    #[arg(long, value_name = "CODEC")]
    pub(super) codec: Option<Compression>,

    /// Kills a worker with SIGKILL: when half of the maps have ended, or with =read between commit and read
    #[arg(long, value_name = "WHEN", num_args = 0..=1, require_equals = true, default_missing_value = "map")]
    pub(super) kill_worker: Option<KillWhen>,

    /// Kills a worker with SIGKILL between commit and read and starts it again: readers wait for it
    #[arg(long, conflicts_with_all = ["kill_worker", "drain_worker"])]
    pub(super) restart_worker: bool,

    /// Takes a worker out between commit and read: it hands over what it holds and ends, and does not return
    #[arg(long, conflicts_with = "kill_worker")]
    pub(super) drain_worker: bool,

    /// Copies of all data, 1 or 2: two survive the loss of a worker [default: 1]
    #[arg(long, value_name = "N", value_parser = RangedU64ValueParser::<u32>::new().range(1..=2))]
    pub(super) copies: Option<u32>,

    /// What data survives once it is committed: memory, written or synced [default: written]
    #[arg(long, value_name = "LEVEL")]
    pub(super) durability: Option<Durability>,

    /// Folder on a disk for what workers write, each in a folder of its own there; may be repeated [default: a temporary
    /// folder]
    #[arg(long, value_name = "DIR")]
    pub(super) data: Vec<PathBuf>,

    /// Runs every map twice at once
    #[arg(long)]
    pub(super) duplicate_attempts: bool,

    /// Registers the shuffles without a map count; readers name the attempts to read by their tokens
    #[arg(long)]
    pub(super) tokens: bool,

    /// Uses the running cluster of this master instead of one of its own
    #[arg(long, value_name = "HOST:PORT", value_parser = endpoint, conflicts_with_all = ["workers", "memory", "kill_worker", "restart_worker", "drain_worker", "data"])]
    pub(super) endpoint: Option<String>,

    /// Prints one JSON object with everything instead of text
    #[arg(long)]
    pub(super) json: bool,

    #[command(flatten)]
    settings: SettingsArgs,
}

/// What is done to a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// It is killed.
    Kill(KillWhen),
    /// It is killed between commit and read, and started again.
    Restart,
    /// It hands over between commit and read, and ends.
    Drain,
}

/// When a worker is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum KillWhen {
    /// When half of the maps have ended
    Map,
    /// Between commit and read
    Read,
}

fn endpoint(text: &str) -> Result<String, String> {
    match text.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => Ok(text.to_owned()),
        Some(_) | None => Err("write HOST:PORT, for example 127.0.0.1:9097".to_owned()),
    }
}

impl DemoArgs {
    /// What the command line parser can't refuse by itself.
    pub(super) fn check(&self) -> Result<(), String> {
        if self.kill_worker.is_some() && self.workers < 2 {
            return Err("--kill-worker needs --workers 2 or more: one must be left".to_owned());
        }
        let copies = u16::try_from(self.copies.unwrap_or(1)).unwrap_or(u16::MAX);
        if self.drain_worker && self.workers <= copies {
            let text =
                "--drain-worker needs more --workers than --copies: what it hands over goes to one without a copy";
            return Err(text.to_owned());
        }
        if self.endpoint.is_none() && self.workers < copies {
            return Err(format!(
                "--copies {copies} needs --workers {copies} or more: each copy has a worker of its own"
            ));
        }
        Ok(())
    }

    /// What is to be done to a worker.
    pub(super) fn fault(&self) -> Option<Fault> {
        let kill = self.kill_worker.map(Fault::Kill);
        let restart = self.restart_worker.then_some(Fault::Restart);
        kill.or(restart).or(self.drain_worker.then_some(Fault::Drain))
    }

    /// The settings of the cluster and the client: those given, and beneath them what suits a demo.
    pub(super) fn settings(&self) -> Result<Loaded<Root>, ConfigError> {
        let loader = self
            .settings
            .loader()
            .set_some("worker.memory", self.memory, "--memory")
            .set_some("client.codec", self.codec, "--codec")
            .set_some("lifecycle.copies", self.copies, "--copies")
            .set_some("lifecycle.durability", self.durability, "--durability")
            .set_some("lifecycle.master", self.endpoint.as_ref(), "--endpoint");
        let mut loaded = loader.load::<Root>()?;
        let mut suit = |key: &str, set: fn(&mut Root)| {
            if *loaded.origin(key) == Origin::Default {
                set(&mut loaded.value);
            }
        };
        suit("log.filter", |root| root.log.filter = "error".to_owned());
        suit("worker.memory", |root| root.worker.memory = Some(ByteSize::gib(2)));
        // A killed worker never comes back: it is given up as soon as its lease is over, and that is short.
        suit("master.worker_lease", |root| root.master.worker_lease = Span::seconds(2));
        if self.restart_worker {
            suit("lifecycle.wait_for_return", |root| root.lifecycle.wait_for_return = Span::seconds(30));
        } else {
            suit("lifecycle.wait_for_return", |root| root.lifecycle.wait_for_return = Span::seconds(0));
        }
        // Nothing makes room in a full cluster of our own but the end of an old generation.
        suit("client.no_space_within", |root| root.client.no_space_within = Span::seconds(5));
        let cluster = loaded.value.cluster.name.clone();
        loaded.value.lifecycle.cluster = cluster;
        Ok(loaded)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use clap::error::ErrorKind;

    use super::*;

    #[derive(Parser, Debug)]
    struct Program {
        #[command(flatten)]
        demo: DemoArgs,
    }

    fn parse(line: &[&str]) -> Result<DemoArgs, clap::Error> {
        Program::try_parse_from([&["demo"], line].concat()).map(|program| program.demo)
    }

    #[test]
    fn defaults_are_those_of_the_help() {
        let args = parse(&[]).unwrap();
        assert_eq!((args.scale, args.workers, args.mappers.get(), args.partitions), (1.0, 3, 8, 16));
        let root = args.settings().unwrap().value;
        assert_eq!(root.worker.memory, Some(ByteSize::gib(2)));
        assert_eq!(root.client.codec, Compression::Lz4);
        assert_eq!(root.lifecycle.wait_for_return, Span::seconds(0));
    }

    #[test]
    fn what_is_given_wins_over_what_suits_a_demo() {
        let args = parse(&["--set", "master.worker_lease=7s", "--memory", "64MiB", "--codec", "zstd"]).unwrap();
        let root = args.settings().unwrap().value;
        assert_eq!(root.master.worker_lease, Span::seconds(7));
        assert_eq!(root.worker.memory, Some(ByteSize::mib(64)));
        assert_eq!(root.client.codec, Compression::Zstd);
    }

    #[test]
    fn a_kill_has_two_moments() {
        assert_eq!(parse(&["--kill-worker"]).unwrap().kill_worker, Some(KillWhen::Map));
        assert_eq!(parse(&["--kill-worker=read"]).unwrap().kill_worker, Some(KillWhen::Read));
        assert!(parse(&["--kill-worker=now"]).is_err());
        assert!(parse(&["--kill-worker", "--workers", "1"]).unwrap().check().is_err());
        assert!(parse(&["--kill-worker", "--workers", "2"]).unwrap().check().is_ok());
    }

    #[test]
    fn a_worker_has_one_fault_and_copies_have_workers() {
        assert_eq!(parse(&["--restart-worker"]).unwrap().fault(), Some(Fault::Restart));
        assert_eq!(parse(&["--drain-worker"]).unwrap().fault(), Some(Fault::Drain));
        assert!(parse(&["--drain-worker", "--copies", "2", "--workers", "2"]).unwrap().check().is_err());
        assert!(parse(&["--copies", "2", "--workers", "1"]).unwrap().check().is_err());
        assert!(parse(&["--copies", "3"]).is_err());
        let root = parse(&["--copies", "2", "--durability", "memory"]).unwrap().settings().unwrap().value;
        assert_eq!((root.lifecycle.copies, root.lifecycle.durability), (2, Durability::Memory));
    }

    #[test]
    fn options_that_make_no_sense_together_are_refused() {
        for line in [
            &["--endpoint", "a:1", "--kill-worker"][..],
            &["--endpoint", "a:1", "--memory", "1GiB"],
            &["--endpoint", "a:1", "--workers", "2"],
            &["--endpoint", "a:1", "--data", "d"],
            &["--restart-worker", "--kill-worker"],
            &["--restart-worker", "--drain-worker"],
            &["--input", "a.csv", "--key", "k", "--scale", "1"],
        ] {
            assert_eq!(parse(line).unwrap_err().kind(), ErrorKind::ArgumentConflict, "{line:?}");
        }
        for line in [&["--input", "a.csv"][..], &["--key", "k"]] {
            assert_eq!(parse(line).unwrap_err().kind(), ErrorKind::MissingRequiredArgument, "{line:?}");
        }
        for line in [
            &["--workers", "0"][..],
            &["--workers", "65"],
            &["--mappers", "0"],
            &["--partitions", "0"],
            &["--codec", "gzip"],
            &["--memory", "much"],
            &["--endpoint", "nowhere"],
        ] {
            assert_eq!(parse(line).unwrap_err().exit_code(), 2, "{line:?}");
        }
    }

    #[test]
    fn too_little_memory_names_the_least() {
        let error = parse(&["--memory", "1KiB"]).unwrap().settings().unwrap_err().to_string();
        assert_eq!(error, "flag --memory: `worker.memory` = \"1KiB\": must be at least 16MiB");
    }
}
