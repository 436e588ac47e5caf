//! One run: a scenario and a seed, from the first step to the verdict.
//!
//! Owns the loop that steps the simulation, strikes faults, and ends the run: when the job is done, when something was
//! wrong, or when it takes too long.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use mallorn_oracle::{Checked, Oracle};
use mallorn_runtime::disk::Disk;
use mallorn_runtime::simulation::Host;
use mallorn_sabotage::Sabotage;
use serde::{Deserialize, Serialize};
use turmoil::Builder;

use crate::board::Board;
use crate::cluster;
use crate::engine::{Spoil, World};
use crate::faults::{self, Injector};
use crate::promise;
use crate::scenario::Scenario;
use crate::setup::Setup;
use crate::trace::{self, Trace};

/// How much simulated time passes in one step, for each host in turn. Every message is under way for one step at least, so
/// that between any two waits on the network something can strike. Half the steps are half the cost.
const STEP: Duration = Duration::from_millis(2);
/// How long after everything was healed the job may take to its end: dead connections are given up after 20 s, calls
/// after 30, and one may have to wait for the other.
const PROGRESS_WITHIN: Duration = Duration::from_secs(180);
/// Segments under way in one direction of a connection, and connections that wait to be accepted.
const TCP_SEGMENTS: usize = 256;

/// What the last processes of the workers counted.
const METRICS: [(&str, &str); 8] = [
    ("workers that registered again", "mallorn_worker_register_again_total"),
    ("bytes spilled", "mallorn_worker_spilled_bytes_total"),
    ("bytes read from disk", "mallorn_worker_fetch_disk_bytes_total"),
    ("splits", "mallorn_worker_splits_total"),
    ("replicas that failed", "mallorn_worker_replica_failures_total"),
    ("locations found whole", "mallorn_worker_restored_locations_total"),
    ("bytes taken over", "mallorn_worker_taken_over_bytes_total"),
    ("locations found lost", "mallorn_worker_lost_locations_total"),
];

/// What the job counts when data is lost.
const LOSSES: [&str; 2] = ["partitions lost", "stages that ended with a loss"];

/// A run before it is made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Case {
    /// What it is kept for, where it is kept.
    #[serde(default)]
    pub(crate) why: String,
    pub(crate) scenario: Scenario,
    pub(crate) seed: u64,
    pub(crate) setup: Setup,
}

impl Case {
    /// What a seed draws.
    pub(crate) fn draw(scenario: Scenario, seed: u64) -> Self {
        Self { why: String::new(), scenario, seed, setup: scenario.draw(seed) }
    }
}

/// How a run is made.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct How {
    /// What is taken from the oracle, or from what it takes for granted.
    pub(crate) spoil: Option<Spoil>,
    /// A rule that the processes do not keep.
    pub(crate) sabotage: Option<Sabotage>,
    pub(crate) keeps_trace: bool,
}

/// What a run came to.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    pub(crate) case: Case,
    /// Why it is not as it must be; empty when it is.
    pub(crate) wrong: Vec<String>,
    pub(crate) checked: Checked,
    /// What it met on the way.
    pub(crate) counts: BTreeMap<&'static str, u64>,
    /// Faults that struck, by kind.
    pub(crate) struck: BTreeMap<&'static str, u64>,
    /// Simulated.
    pub(crate) took: Duration,
    pub(crate) trace: String,
}

/// Makes a run. The first run of a process is the same in every process; the next ones in it are not, for
/// the async runtime counts its tasks and seeds over the whole process.
pub(crate) fn run(case: Case, how: How) -> Report {
    // What was drawn on the main thread before does not matter on a new one.
    let run = std::thread::scope(|scope| scope.spawn(|| run_here(case, how)).join());
    run.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn run_here(case: Case, How { spoil, sabotage, keeps_trace }: How) -> Report {
    mallorn_sabotage::choose(sabotage);
    let Case { seed, ref setup, .. } = case;
    let trace = if keeps_trace { Trace::kept() } else { Trace::default() };
    let sayer = trace.clone();
    let (oracle, board) = (Oracle::new(move |line| sayer.say(line)), Board::default());
    let world = World {
        seed,
        settings: setup.settings.clone(),
        shape: setup.job.clone(),
        oracle: oracle.clone(),
        board: board.clone(),
        trace: trace.clone(),
        spoil,
        disks_spoil: setup.schedule.faults.iter().any(|fault| fault.kind.spoils_what_is_read()),
        machines: setup.settings.machines(seed),
    };
    let (took, failure) = trace.record(|| simulate(setup, &world));
    let mut wrong = oracle.violations();
    wrong.extend(failure);
    let mut counts = board.counts();
    if let Some(why) = promise::nothing_lost(setup) {
        let is_lost = LOSSES.iter().any(|loss| counts.contains_key(loss));
        counts.insert("runs in which nothing may be lost", 1);
        wrong.extend(is_lost.then(|| format!("something was lost, but {why}")));
    }
    if let Some(why) = promise::nothing_lost_after_commit(setup) {
        let [was_lost, was_told] = LOSSES.map(|loss| counts.contains_key(loss));
        wrong.extend((was_lost && !was_told).then(|| format!("something was lost, but {why}")));
    }
    wrong.extend(trace::take_panics().into_iter().map(|panic| format!("panic: {panic}")));
    wrong.iter().for_each(|wrong| trace.say(wrong));
    Report { case, wrong, checked: oracle.checked(), counts, struck: board.all_struck(), took, trace: trace.text() }
}

fn simulate(setup: &Setup, world: &World) -> (Duration, Option<String>) {
    let (settings, schedule) = (&setup.settings, &setup.schedule);
    let heal_at = Duration::from_millis(schedule.heal_at_ms);
    let mut sim = Builder::new()
        .rng_seed(world.seed)
        .simulation_duration(heal_at + PROGRESS_WITHIN * 2)
        .tick_duration(STEP)
        .min_message_latency(Duration::from_millis(settings.latency.min_ms))
        .max_message_latency(Duration::from_millis(settings.latency.max_ms))
        .fail_rate(f64::from(schedule.loss_ppm) / 1e6)
        .repair_rate(f64::from(schedule.repair_ppm) / 1e6)
        .tcp_capacity(TCP_SEGMENTS)
        .enable_random_order()
        .build();
    cluster::add_hosts(&mut sim, world);
    let mut injector = Injector::new(schedule, world);
    let failure = loop {
        let now = sim.elapsed();
        world.trace.advance(now);
        for (phase, round) in world.board.take_begun() {
            injector.begun(phase, round, now);
        }
        if world.board.is_calm_wanted() {
            injector.heal_at(now);
        }
        injector.step(&mut sim, now);
        match sim.step() {
            Ok(true) => break None,
            Ok(false) => {}
            Err(error) => break Some(format!("a process failed: {error}")),
        }
        if trace::has_panicked() || !world.oracle.violations().is_empty() {
            break None;
        }
        if injector.healed_at().is_some_and(|healed_at| now > healed_at + PROGRESS_WITHIN) {
            let doing = world.board.everything_being_done();
            break Some(format!("no end {PROGRESS_WITHIN:?} after all was healed; what is being done:\n{doing}"));
        }
    };
    for (what, name) in METRICS {
        let all = world.board.metric(name);
        world.board.add(what, all.iter().map(|(_, count)| *count as u64).sum());
    }
    for faults in world.board.disks().values().filter_map(Disk::faults) {
        faults.struck().into_iter().for_each(|(strike, times)| world.board.add(faults::met(strike), times));
    }
    for met in world.machines.values().map(Host::calls_met) {
        world.board.add("calls that came once more", met.repeated);
        world.board.add("answers that were lost", met.unanswered);
        world.board.add("pushes that came once more", met.pushed_again);
    }
    (sim.elapsed(), failure)
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { case: Case { scenario, seed, .. }, checked, .. } = self;
        let verdict = if self.wrong.is_empty() { "ok" } else { "WRONG" };
        let Checked { units_pushed, units_read, reads_whole, reads_failed, winners, losers } = checked;
        write!(
            f,
            "{scenario} {seed}: {verdict}, {:.1} s simulated, {units_pushed} units pushed, {units_read} read; reads: \
             {reads_whole} whole, {reads_failed} failed; attempts: {winners} won, {losers} lost",
            self.took.as_secs_f64()
        )?;
        self.struck.iter().try_for_each(|(what, count)| write!(f, "; struck {what}: {count}"))?;
        self.counts.iter().filter(|(_, count)| **count > 0).try_for_each(|(what, count)| write!(f, "; {what}: {count}"))
    }
}
