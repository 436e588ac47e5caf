//! What a demo prints at its end: the answer and the figures, as text or as JSON.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use indicatif::{HumanBytes, HumanCount};
use mallorn_client::ClientStats;
use mallorn_runtime::config::ByteSize;
use serde::Serialize;

use super::Done;
use super::cluster::{Fate, ProcessFigures, WorkerBytes};
use super::driver::ShuffledTable;
use super::options::{DemoArgs, Fault, KillWhen};
use super::workload::Answer;
use crate::settings::Root;

/// Everything that is known of a demo that went well.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    verified: bool,
    answer: Answer,
    /// Rows shuffled, each counted once, however often it was pushed.
    rows: u64,
    /// Their bytes.
    bytes: u64,
    /// From the start of this process.
    wall_s: f64,
    /// Generations of the table that took most.
    generations: u32,
    /// Maps run again because their data was lost.
    maps_again: u32,
    #[serde(flatten)]
    traffic: Traffic,
    #[serde(flatten)]
    worker_bytes: WorkerBytes,
    /// The worker that was killed on purpose, for good.
    killed_worker: Option<String>,
    /// The worker that was killed on purpose and started again.
    restarted_worker: Option<String>,
    /// The worker that handed over and ended.
    drained_worker: Option<String>,
    tables: Vec<TableFigures>,
    stages: Vec<StageFigures>,
    demo: ProcessFigures,
    /// `None` where the cluster is not the demo's own.
    master: Option<ProcessFigures>,
    workers: Vec<ProcessFigures>,
    settings: Settings,
}

/// What the client counted.
#[derive(Debug, Serialize)]
struct Traffic {
    /// Bytes pushed by all attempts, before compression.
    pushed_bytes: u64,
    /// Bytes that workers took.
    sent_bytes: u64,
    /// Bytes fetched from workers.
    fetched_bytes: u64,
    /// Batches that workers took.
    batches: u64,
    /// Batches that a worker refused.
    refused_batches: u64,
    /// Batches that were pushed again, because a worker refused them or did not answer.
    repushed_batches: u64,
    /// New locations that were asked for.
    revives: u64,
    /// Locations that clients left for a limit, or were sent away from.
    splits: u64,
    /// Batches left out by readers: repeats, and those of attempts that don't count.
    skipped_batches: u64,
    /// How long pushes waited for memory, summed over all tasks.
    push_wait_s: f64,
}

impl From<ClientStats> for Traffic {
    fn from(stats: ClientStats) -> Self {
        Self {
            pushed_bytes: stats.pushed_bytes,
            sent_bytes: stats.sent_bytes,
            fetched_bytes: stats.fetched_bytes,
            batches: stats.batches,
            refused_batches: stats.refused_batches,
            repushed_batches: stats.repushed_batches,
            revives: stats.revives,
            splits: stats.soft_splits + stats.hard_splits,
            skipped_batches: stats.skipped_batches,
            push_wait_s: stats.push_wait.as_secs_f64(),
        }
    }
}

#[derive(Debug, Serialize)]
struct TableFigures {
    name: &'static str,
    rows: u64,
    bytes: u64,
    generations: u32,
    maps_again: u32,
}

impl From<&ShuffledTable> for TableFigures {
    fn from(table: &ShuffledTable) -> Self {
        let ShuffledTable { name, accepted, generations, maps_again, .. } = *table;
        Self { name, rows: accepted.rows, bytes: accepted.bytes, generations, maps_again }
    }
}

#[derive(Debug, Serialize)]
struct StageFigures {
    name: &'static str,
    wall_s: f64,
}

/// How the demo was run.
#[derive(Debug, Serialize)]
struct Settings {
    scale: Option<f64>,
    input: Option<String>,
    key: Option<String>,
    endpoint: Option<String>,
    workers: Option<u16>,
    memory: Option<ByteSize>,
    mappers: u16,
    partitions: u32,
    codec: &'static str,
    duplicate_attempts: bool,
    tokens: bool,
    kill_worker: Option<KillWhen>,
    restart_worker: bool,
    drain_worker: bool,
    copies: u32,
    durability: &'static str,
    data: Vec<PathBuf>,
}

impl Settings {
    fn new(args: &DemoArgs, root: &Root) -> Self {
        let own_cluster = args.endpoint.is_none();
        Self {
            scale: args.input.is_none().then_some(args.scale),
            input: args.input.as_ref().map(|path| path.display().to_string()),
            key: args.key.clone(),
            endpoint: args.endpoint.clone(),
            workers: own_cluster.then_some(args.workers),
            memory: root.worker.memory.filter(|_| own_cluster),
            mappers: args.mappers.get(),
            partitions: args.partitions,
            codec: root.client.codec.name(),
            duplicate_attempts: args.duplicate_attempts,
            tokens: args.tokens,
            kill_worker: args.kill_worker,
            restart_worker: args.restart_worker,
            drain_worker: args.drain_worker,
            copies: root.lifecycle.copies,
            durability: root.lifecycle.durability.name(),
            data: args.data.clone(),
        }
    }
}

impl Report {
    /// Puts together what the shuffle tells and what the processes have used: the demo itself, and those of its cluster,
    /// the master first.
    pub(super) fn new(
        (args, root): (&DemoArgs, &Root),
        done: Done,
        demo: ProcessFigures,
        cluster: Vec<ProcessFigures>,
        worker_bytes: WorkerBytes,
    ) -> Self {
        let faulted = |wanted: fn(Fault) -> bool| {
            done.faulted.as_ref().filter(|faulted| wanted(faulted.fault)).map(|faulted| faulted.worker.clone())
        };
        let killed_worker = faulted(|fault| matches!(fault, Fault::Kill(_)));
        let restarted_worker = faulted(|fault| fault == Fault::Restart);
        let drained_worker = faulted(|fault| fault == Fault::Drain);
        let tables: Vec<_> = done.tables.iter().map(TableFigures::from).collect();
        let mut cluster = cluster.into_iter();
        let stage = |(name, took): (&'static str, Duration)| StageFigures { name, wall_s: took.as_secs_f64() };
        Self {
            verified: true,
            answer: done.verified.answer,
            rows: done.verified.rows,
            bytes: tables.iter().map(|table| table.bytes).sum(),
            wall_s: demo.wall_s,
            generations: tables.iter().map(|table| table.generations).max().unwrap_or_default(),
            maps_again: tables.iter().map(|table| table.maps_again).sum(),
            traffic: done.traffic.into(),
            worker_bytes,
            killed_worker,
            restarted_worker,
            drained_worker,
            tables,
            stages: done.stages.into_iter().map(stage).collect(),
            demo,
            master: cluster.next(),
            workers: cluster.collect(),
            settings: Settings::new(args, root),
        }
    }

    /// One JSON object on one line.
    pub(super) fn to_json(&self) -> String {
        serde_json::to_string(self).expect("a report has names for keys and finite numbers")
    }

    /// Processes of the cluster that ended without being asked.
    pub(super) fn died(&self) -> impl Iterator<Item = String> {
        self.master.iter().chain(&self.workers).filter_map(|process| match &process.fate {
            Fate::Died(how) => Some(format!("{} ended by itself: {how}", process.name)),
            Fate::Running | Fate::EndedByDemo | Fate::KilledByFault | Fate::Drained => None,
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n", self.answer)?;
        let traffic = &self.traffic;
        writeln!(
            f,
            "shuffled     {} rows, {}; {} pushed, {} sent, {} fetched",
            HumanCount(self.rows),
            HumanBytes(self.bytes),
            HumanBytes(traffic.pushed_bytes),
            HumanBytes(traffic.sent_bytes),
            HumanBytes(traffic.fetched_bytes),
        )?;
        writeln!(
            f,
            "batches      {} taken, {} refused, {} pushed again, {} revives, {} skipped by readers",
            HumanCount(traffic.batches),
            HumanCount(traffic.refused_batches),
            HumanCount(traffic.repushed_batches),
            HumanCount(traffic.revives),
            HumanCount(traffic.skipped_batches),
        )?;
        let WorkerBytes { spilled_bytes, replicated_bytes, handed_over_bytes } = self.worker_bytes;
        writeln!(
            f,
            "workers      {} to disk, {} to replicas, {} handed over, {} splits",
            HumanBytes(spilled_bytes),
            HumanBytes(replicated_bytes),
            HumanBytes(handed_over_bytes),
            HumanCount(traffic.splits),
        )?;
        let generations = self.tables.iter().map(|table| format!("{} {}", table.name, table.generations));
        write!(f, "generations  {}", generations.collect::<Vec<_>>().join(", "))?;
        writeln!(f, "; {} maps run again", self.maps_again)?;
        let stages = self.stages.iter().map(|stage| format!("{} {:.2} s", stage.name, stage.wall_s));
        writeln!(f, "time         {}; {:.2} s in all\n", stages.collect::<Vec<_>>().join(", "), self.wall_s)?;
        self.processes(f)?;
        write!(f, "verified: {} rows", self.rows)
    }
}

impl Report {
    fn processes(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<12}{:>9}{:>9}{:>11}", "process", "wall s", "CPU s", "peak MiB")?;
        for process in std::iter::once(&self.demo).chain(&self.master).chain(&self.workers) {
            let ProcessFigures { name, wall_s, cpu_s, peak_rss_mib, fate } = process;
            let fate = match fate {
                Fate::KilledByFault => "  killed on purpose",
                Fate::Drained => "  drained",
                Fate::Died(_) => "  ended by itself",
                Fate::Running | Fate::EndedByDemo => "",
            };
            writeln!(f, "{name:<12}{wall_s:>9.2}{cpu_s:>9.2}{peak_rss_mib:>11.1}{fate}")?;
        }
        Ok(())
    }
}
