//! The driver: what an engine does around its tasks. It registers the shuffles, runs the map tasks, waits for the stage
//! to end, runs the reduce tasks, and makes anew what was lost, until every reduce task has all its rows.
//!
//! Owns which attempts count and what is run again. Does not own a task (`map`, `reduce`), nor whether the result is
//! right (`verify`).

mod table;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use indicatif::HumanBytes;
use mallorn_client::{LifecycleManager, ShuffleClient};
use tokio::task::JoinSet;

use super::cluster::Cluster;
use super::error::{DemoError, MapError};
use super::map::{Attempt, AttemptEnd};
use super::options::{DemoArgs, Fault, KillWhen};
use super::progress::{Progress, Stage};
use super::reduce::{Loss, ReduceEnd, ReduceTask, Reduced, Source};
use super::workload::{Partial, RowSum, Table, Workload};
use table::TableState;

/// How often everything that was lost is made anew. One loss is what the fault options cause.
const ROUNDS_MAX: u32 = 5;

/// What is shuffled by whom.
pub(super) struct Driver<'a, W: Workload> {
    workload: Arc<W>,
    args: &'a DemoArgs,
    lifecycle: &'a LifecycleManager,
    client: ShuffleClient,
    /// The demo's own cluster, for faults.
    cluster: Option<&'a mut Cluster>,
    progress: Progress,
    /// Tasks that run at once.
    slots: usize,
    tables: Vec<TableState<W::Table>>,
    /// By partition.
    reduced: Vec<Option<Reduced<W>>>,
    /// What is still to be done to a worker.
    fault: Option<Fault>,
    faulted: Option<Faulted>,
    stages: Vec<(&'static str, Duration)>,
}

/// A shuffle that is done.
pub(super) struct Shuffled<W: Workload> {
    /// All shares of the answer, merged.
    pub(super) partial: W::Partial,
    /// What is known of each table.
    pub(super) tables: Vec<ShuffledTable>,
    /// How long each stage took; one that was run again is here again.
    pub(super) stages: Vec<(&'static str, Duration)>,
    /// The worker to which something was done on purpose.
    pub(super) faulted: Option<Faulted>,
}

/// A worker to which something was done on purpose.
#[derive(Clone, Debug)]
pub(super) struct Faulted {
    /// What was done.
    pub(super) fault: Fault,
    /// The worker.
    pub(super) worker: String,
}

/// A table that was shuffled.
#[derive(Clone, Debug)]
pub(super) struct ShuffledTable {
    /// Its name.
    pub(super) name: &'static str,
    /// The rows that the attempts pushed whose data counts.
    pub(super) yielded: RowSum,
    /// The rows that the reduce tasks read.
    pub(super) accepted: RowSum,
    /// How many generations it took.
    pub(super) generations: u32,
    /// How many maps were run again because their data was lost.
    pub(super) maps_again: u32,
}

/// A map task: the table's place in [`Workload::TABLES`], and the map.
type MapTask = (usize, u32);

/// An attempt that has ended, with the map task that it was made at.
type EndedAttempt = (MapTask, Result<AttemptEnd, MapError>);

impl<'a, W: Workload> Driver<'a, W> {
    /// Registers a shuffle for each table.
    pub(super) async fn register(
        workload: Arc<W>,
        args: &'a DemoArgs,
        lifecycle: &'a LifecycleManager,
        client: ShuffleClient,
        cluster: Option<&'a mut Cluster>,
    ) -> Result<Self, DemoError> {
        let mut tables = Vec::new();
        let maps = workload.maps();
        for (shuffle, &table) in (0..).zip(W::TABLES) {
            let registered = lifecycle.register(shuffle, args.partitions, (!args.tokens).then_some(maps)).await;
            let generation = registered.map_err(DemoError::lifecycle("register a shuffle"))?;
            tables.push(TableState::new(table, shuffle, generation, maps));
        }
        let reduced = (0..args.partitions).map(|_| None).collect();
        Ok(Self {
            workload,
            args,
            lifecycle,
            client,
            cluster,
            progress: Progress::new(),
            slots: slots(),
            tables,
            reduced,
            fault: args.fault(),
            faulted: None,
            stages: Vec::new(),
        })
    }

    /// Shuffles, again where something was lost.
    pub(super) async fn run(mut self) -> Result<Shuffled<W>, DemoError> {
        for _ in 0..ROUNDS_MAX {
            self.map().await?;
            if !self.args.tokens && !self.commit().await? {
                continue;
            }
            if self.fault.is_some_and(|fault| fault != Fault::Kill(KillWhen::Map)) {
                let text = self.strike().await?;
                self.progress.note(&text);
            }
            let is_done = self.reduce().await?;
            if let Some(cluster) = &mut self.cluster {
                cluster.restarted().await?;
            }
            if is_done {
                return Ok(self.finish());
            }
        }
        Err(DemoError::LostAgain { rounds: ROUNDS_MAX })
    }

    /// Runs every map that has no winner.
    async fn map(&mut self) -> Result<(), DemoError> {
        let mut waiting = self.maps_to_run();
        let maps_before_kill = (self.workload.maps() as usize * self.tables.len()).div_ceil(2);
        let attempts_each = if self.args.duplicate_attempts { 2 } else { 1 };
        let share = |table: &TableState<W::Table>| {
            self.workload.rows_expected(table.table) * u64::from(table.to_run()) / u64::from(self.workload.maps())
        };
        let rows: u64 = self.tables.iter().map(share).sum();
        let stage = self.progress.stage("map", "rows", rows * u64::from(attempts_each));

        let mut attempts: JoinSet<EndedAttempt> = JoinSet::new();
        // The attempts that go on, by map.
        let mut running: BTreeMap<MapTask, u32> = BTreeMap::new();
        loop {
            while running.len() < self.slots
                && let Some(task) = waiting.pop_front()
            {
                for _ in 0..attempts_each {
                    let attempt = self.attempt(task, &stage);
                    attempts.spawn(async move { (task, attempt.run().await) });
                }
                running.insert(task, attempts_each);
            }
            let Some(ended) = attempts.join_next().await else { break };
            let (task, end) = ended?;
            self.attempt_ended(task, end, &mut running)?;
            let ended_maps: usize = self.tables.iter().map(TableState::ended).sum();
            if self.fault == Some(Fault::Kill(KillWhen::Map)) && ended_maps >= maps_before_kill {
                let text = self.strike().await?;
                stage.note(&text);
            }
        }
        self.stages.push(("map", stage.finish()));
        Ok(())
    }

    /// The maps without a winner, all tables side by side: the first half of them is half of each.
    fn maps_to_run(&self) -> VecDeque<MapTask> {
        let maps = 0..self.workload.maps();
        let all = maps.flat_map(|map| (0..self.tables.len()).map(move |table| (table, map)));
        all.filter(|(table, map)| self.tables[*table].winner(*map).is_none()).collect()
    }

    fn attempt(&mut self, (table, map): MapTask, stage: &Stage) -> Attempt<W> {
        let state = &mut self.tables[table];
        Attempt {
            workload: Arc::clone(&self.workload),
            table: state.table,
            shuffle: state.shuffle,
            map,
            attempt: state.next_attempt(map),
            partitions: self.args.partitions,
            client: self.client.clone(),
            counters: Arc::clone(&stage.counters),
        }
    }

    fn attempt_ended(
        &mut self,
        task: MapTask,
        end: Result<AttemptEnd, MapError>,
        running: &mut BTreeMap<MapTask, u32>,
    ) -> Result<(), DemoError> {
        let (place, map) = task;
        let table = self.tables[place].table.name();
        match end.map_err(|source| DemoError::Map { table, map, source })? {
            AttemptEnd::Won(winner) => self.tables[place].won(map, winner),
            AttemptEnd::Overtaken => {}
        }
        if let Some(left) = running.get_mut(&task) {
            *left -= 1;
            if *left == 0 {
                running.remove(&task);
                if self.tables[place].winner(map).is_none() {
                    return Err(DemoError::NoWinner { table, map });
                }
            }
        }
        Ok(())
    }

    /// Waits until everything that was pushed is committed; `false` if something of it is lost, and the maps are to be
    /// run again.
    async fn commit(&mut self) -> Result<bool, DemoError> {
        let stage = self.progress.stage("commit", "", 0);
        let mut is_whole = true;
        for place in 0..self.tables.len() {
            let (shuffle, generation) = (self.tables[place].shuffle, self.tables[place].generation);
            let end = self.lifecycle.stage_end(shuffle, generation).await;
            let lost = end.map_err(DemoError::lifecycle("wait for the end of a stage"))?.lost_partitions;
            if lost > 0 {
                is_whole = false;
                stage.note(&format!("{lost} partitions of {} are lost", self.tables[place].table.name()));
                self.restart(place).await?;
            }
        }
        self.stages.push(("commit", stage.finish()));
        Ok(is_whole)
    }

    /// Starts the table's next generation: all its maps are to be run again.
    async fn restart(&mut self, place: usize) -> Result<(), DemoError> {
        let state = &mut self.tables[place];
        let next = self.lifecycle.next_generation(state.shuffle, state.generation).await;
        state.restart(next.map_err(DemoError::lifecycle("start the next generation"))?);
        Ok(())
    }

    /// Runs every reduce task that has no result; `false` if something was lost, and has to be made anew first.
    async fn reduce(&mut self) -> Result<bool, DemoError> {
        let mut waiting: VecDeque<u32> =
            (0..self.args.partitions).filter(|partition| self.reduced[*partition as usize].is_none()).collect();
        let rows: u64 = W::TABLES.iter().map(|table| self.workload.rows_expected(*table)).sum();
        let rows = rows * waiting.len() as u64 / u64::from(self.args.partitions);
        let stage = self.progress.stage("reduce", "rows", rows);
        let sources: Arc<[Source<W>]> = self.tables.iter().map(|table| self.source(table)).collect();

        let mut tasks = JoinSet::new();
        let mut losses = Vec::new();
        loop {
            while tasks.len() < self.slots
                && let Some(partition) = waiting.pop_front()
            {
                let task = ReduceTask {
                    workload: Arc::clone(&self.workload),
                    partition,
                    sources: Arc::clone(&sources),
                    client: self.client.clone(),
                    counters: Arc::clone(&stage.counters),
                };
                tasks.spawn(async move { (partition, task.run().await) });
            }
            let Some(ended) = tasks.join_next().await else { break };
            let (partition, end) = ended?;
            match end.map_err(|source| DemoError::Reduce { partition, source })? {
                ReduceEnd::Done(reduced) => self.reduced[partition as usize] = Some(reduced),
                ReduceEnd::Lost(loss) => losses.push(loss),
                ReduceEnd::Revoked => {}
            }
        }
        if let Some(first) = losses.first() {
            stage.note(&format!("{} (reads with a loss: {})", first.text, losses.len()));
        }
        self.stages.push(("reduce", stage.finish()));
        self.make_anew(losses).await?;
        Ok(self.reduced.iter().all(Option::is_some))
    }

    fn source(&self, state: &TableState<W::Table>) -> Source<W> {
        let tokens = self.args.tokens.then(|| state.tokens());
        Source { table: state.table, shuffle: state.shuffle, tokens }
    }

    /// Has all maps of a table run again of which something is lost, or, where attempts are named, those maps whose
    /// attempts are no longer complete.
    async fn make_anew(&mut self, losses: Vec<Loss>) -> Result<(), DemoError> {
        for loss in losses {
            let state = &mut self.tables[loss.table];
            if self.args.tokens {
                state.forget(&loss.incomplete);
            } else if state.generation == loss.generation {
                self.restart(loss.table).await?;
            }
        }
        Ok(())
    }

    /// Does to a worker what is to be done, and says so.
    async fn strike(&mut self) -> Result<String, DemoError> {
        let (Some(fault), Some(cluster)) = (self.fault.take(), &mut self.cluster) else {
            return Ok("there is no worker to do anything to".to_owned());
        };
        let struck = match fault {
            Fault::Kill(_) => {
                cluster.kill_fullest_worker().await.map(|name| (format!("killed {name} with SIGKILL"), name))
            }
            Fault::Restart => {
                let name = cluster.restart_fullest_worker().await?;
                name.map(|name| (format!("killed {name} with SIGKILL and started it again"), name))
            }
            Fault::Drain => {
                let drained = cluster.drain_fullest_worker().await?;
                drained.map(|(name, bytes)| (format!("{name} handed over {} and ended", HumanBytes(bytes)), name))
            }
        };
        let Some((text, worker)) = struck else { return Ok("there is no worker left".to_owned()) };
        self.faulted = Some(Faulted { fault, worker });
        Ok(text)
    }

    fn finish(self) -> Shuffled<W> {
        let mut tables: Vec<_> = self.tables.iter().map(TableState::figures).collect();
        let mut partial = W::Partial::default();
        for reduced in self.reduced.into_iter().flatten() {
            for (table, accepted) in tables.iter_mut().zip(&reduced.accepted) {
                table.accepted.merge(*accepted);
            }
            partial.merge(reduced.partial);
        }
        Shuffled { partial, tables, stages: self.stages, faulted: self.faulted }
    }
}

/// How many tasks run at once: one per core, at least two, as an engine's executor would. Asking the system takes a
/// while.
pub(super) fn slots() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from).max(2)
}
