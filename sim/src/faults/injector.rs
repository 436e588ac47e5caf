//! Carries a run's faults out on its simulation, and takes them back.
//!
//! Owns what has struck and is still to be taken back, and the healing of everything. Does not own what is drawn.

use std::collections::BTreeMap;
use std::time::Duration;

use mallorn_runtime::disk::{Disk, DiskFaults};
use mallorn_runtime::random::Random;
use mallorn_runtime::simulation::Host;
use turmoil::Sim;

use super::{At, Fault, Kind, Latency, Phase, Schedule, disk};
use crate::board::Board;
use crate::engine::World;
use crate::setup::{Disks, derive};
use crate::trace::Trace;

/// When a worker that has not ended yet is looked at again.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Whether a worker that was told to end has not done so: it takes its grace.
fn is_draining(sim: &mut Sim<'_>, kind: &Kind) -> bool {
    matches!(kind, Kind::Drain { host, .. } if sim.is_host_running(host.as_str()))
}

/// Carries a schedule out on a simulation.
#[derive(Debug)]
pub(crate) struct Injector {
    pending: Vec<Fault>,
    latency: Latency,
    heal_at: Duration,
    begun: Vec<(Phase, u32, Duration)>,
    /// What is to be taken back, and when.
    undo: Vec<(Duration, Kind)>,
    /// Machines that will die at a step of their disk.
    dying: Vec<Kind>,
    healed: bool,
    hosts: Vec<String>,
    disks: Disks,
    machines: BTreeMap<String, Host>,
    /// What a loss of power leaves.
    power: Random,
    board: Board,
    trace: Trace,
}

impl Injector {
    /// Strikes this world's hosts.
    pub(crate) fn new(schedule: &Schedule, world: &World) -> Self {
        Self {
            pending: schedule.faults.clone(),
            latency: world.settings.latency,
            heal_at: Duration::from_millis(schedule.heal_at_ms),
            begun: Vec::new(),
            undo: Vec::new(),
            dying: Vec::new(),
            healed: false,
            hosts: world.settings.hosts(),
            disks: world.settings.disks,
            machines: world.machines.clone(),
            power: Random::seeded(derive(world.seed, "power", &[])),
            board: world.board.clone(),
            trace: world.trace.clone(),
        }
    }

    /// Notes that a phase has begun.
    pub(crate) fn begun(&mut self, phase: Phase, round: u32, now: Duration) {
        self.begun.push((phase, round, now));
    }

    /// Everything is to be healed now, if it was not before.
    pub(crate) fn heal_at(&mut self, now: Duration) {
        self.heal_at = self.heal_at.min(now);
    }

    /// When everything was healed, if it was.
    pub(crate) fn healed_at(&self) -> Option<Duration> {
        self.healed.then_some(self.heal_at)
    }

    /// Does what is due.
    pub(crate) fn step(&mut self, sim: &mut Sim<'_>, now: Duration) {
        if !self.healed && now >= self.heal_at {
            self.heal(sim, now);
        }
        self.take_back_due(sim, now);
        let begun = std::mem::take(&mut self.begun);
        let is_due = |fault: &Fault| {
            let At { phase, round, after_ms } = fault.at;
            let began = begun.iter().find(|(p, r, _)| (*p, *r) == (phase, round));
            began.is_some_and(|(_, _, at)| *at + Duration::from_millis(after_ms) <= now)
        };
        let (due, later): (Vec<_>, Vec<_>) = std::mem::take(&mut self.pending).into_iter().partition(is_due);
        (self.begun, self.pending) = (begun, later);
        for Fault { kind, .. } in due {
            self.strike(sim, kind, now);
        }
        self.die(sim, now);
    }

    fn strike(&mut self, sim: &mut Sim<'_>, kind: Kind, now: Duration) {
        if let Kind::Step { host, changes, .. } = &kind {
            if let Some(faults) = self.faults(host).filter(|_| sim.is_host_running(host.as_str())) {
                faults.die_after(Some(*changes));
                self.trace.say(format_args!("will strike: {kind}"));
                self.dying.push(kind);
            }
            return;
        }
        let Some(for_ms) = self.begin(sim, &kind) else {
            return self.trace.say(format_args!("not struck, there is nothing to strike: {kind}"));
        };
        self.trace.say(format_args!("struck: {kind}"));
        self.board.struck(kind.name());
        self.undo.push((now + Duration::from_millis(for_ms), kind));
    }

    fn take_back_due(&mut self, sim: &mut Sim<'_>, now: Duration) {
        let (due, later): (Vec<_>, Vec<_>) = std::mem::take(&mut self.undo).into_iter().partition(|(at, _)| *at <= now);
        self.undo = later;
        for (_, kind) in due {
            if is_draining(sim, &kind) {
                self.undo.push((now + LOOK_AGAIN, kind));
                continue;
            }
            self.trace.say(format_args!("over: {kind}"));
            self.take_back(sim, &kind);
        }
    }

    /// Machines die whose disk has come to the step. What the process has sent since is lost with its links: nobody has seen
    /// anything that was done after the step.
    fn die(&mut self, sim: &mut Sim<'_>, now: Duration) {
        let dying = std::mem::take(&mut self.dying);
        let has_died = |kind: &Kind| match kind {
            Kind::Step { host, .. } => self.faults(host).is_some_and(|faults| faults.has_died()),
            _ => false,
        };
        let (dead, dying): (Vec<_>, Vec<_>) = dying.into_iter().partition(has_died);
        self.dying = dying;
        for kind in dead {
            let Kind::Step { host, power, back_after_ms, .. } = &kind else { continue };
            self.peers(host).for_each(|peer| sim.partition(host.as_str(), peer));
            sim.crash(host.as_str());
            if let Some(faults) = self.faults(host) {
                faults.die_after(None);
                if *power {
                    faults.lose_power(&self.power);
                }
            }
            self.trace.say(format_args!("struck: {kind}"));
            self.board.struck(kind.name());
            self.undo.push((now + Duration::from_millis(*back_after_ms), kind));
        }
    }

    /// Does it; says how long it lasts, or that there was nothing to strike.
    fn begin(&self, sim: &mut Sim<'_>, kind: &Kind) -> Option<u64> {
        let mut is_down = |host: &str| !sim.is_host_running(host);
        match kind {
            Kind::Crash { host, .. }
            | Kind::Drain { host, .. }
            | Kind::Power { host, .. }
            | Kind::Empty { host, .. }
                if is_down(host) =>
            {
                return None;
            }
            Kind::Swap { one, other, .. } if is_down(one) || is_down(other) => return None,
            Kind::Orphan if is_down("driver") => return None,
            Kind::Step { .. } => return None,
            Kind::Drain { host, .. } => self.board.drain(host),
            Kind::Crash { host, vanishes, .. } => {
                if *vanishes {
                    // What the dying process sends to its peers gets lost with the link; both are back together.
                    self.peers(host).for_each(|peer| sim.partition(host.as_str(), peer));
                }
                sim.crash(host.as_str());
            }
            Kind::Power { host, worst, .. } => {
                self.peers(host).for_each(|peer| sim.partition(host.as_str(), peer));
                sim.crash(host.as_str());
                let faults = self.faults(host)?;
                // A disk that can't sync is one that can after the machine has come back; what it did not sync is gone.
                self.disks.folders().iter().for_each(|folder| faults.change(folder, |disk| disk.fails_syncs = false));
                if *worst {
                    faults.lose_power_in_the_worst_order(&self.power, disk::is_segment);
                } else {
                    faults.lose_power(&self.power);
                }
            }
            Kind::Empty { host, .. } => {
                sim.crash(host.as_str());
                self.faults(host)?.wipe();
            }
            Kind::Swap { one, other, .. } => {
                sim.crash(one.as_str());
                sim.crash(other.as_str());
                self.faults(one)?.swap(&self.faults(other)?);
            }
            Kind::Orphan => {
                sim.crash("driver");
                self.board.orphaned();
            }
            Kind::Jump { host, by_ms } => self.machines.get(host)?.jump(Duration::from_millis(*by_ms)),
            Kind::Disk { host, number, trouble, .. } => {
                disk::begin(&self.disk(host)?, self.disks.folders().get(*number as usize)?, *trouble);
            }
            Kind::Flip { host, target, pick } => {
                let flipped = disk::flip_bit(&self.disk(host)?, self.disks, *target, *pick)?;
                self.trace.say(format_args!("flips {flipped}"));
            }
            Kind::Cut { one, other, .. } => sim.partition(one.as_str(), other.as_str()),
            Kind::CutOneWay { from, to, .. } => sim.partition_oneway(from.as_str(), to.as_str()),
            Kind::Hold { one, other, .. } => sim.hold(one.as_str(), other.as_str()),
            Kind::Slow { latency_max_ms, .. } => sim.set_max_message_latency(Duration::from_millis(*latency_max_ms)),
        }
        Some(kind.lasts_ms())
    }

    fn take_back(&self, sim: &mut Sim<'_>, kind: &Kind) {
        match kind {
            Kind::Crash { host, vanishes, .. } => {
                if *vanishes {
                    self.peers(host).for_each(|peer| sim.repair(host.as_str(), peer));
                }
                sim.bounce(host.as_str());
            }
            Kind::Drain { host, .. } | Kind::Empty { host, .. } => sim.bounce(host.as_str()),
            Kind::Swap { one, other, .. } => {
                sim.bounce(one.as_str());
                sim.bounce(other.as_str());
            }
            Kind::Power { host, .. } | Kind::Step { host, .. } => {
                self.peers(host).for_each(|peer| sim.repair(host.as_str(), peer));
                sim.bounce(host.as_str());
            }
            Kind::Disk { host, number, .. } => {
                if let Some(disk) = self.disk(host)
                    && let Some(folder) = self.disks.folders().get(*number as usize)
                {
                    disk::put_in_order(&disk, folder, self.disks);
                }
            }
            Kind::Flip { .. } | Kind::Orphan | Kind::Jump { .. } => {}
            Kind::Cut { one, other, .. } => sim.repair(one.as_str(), other.as_str()),
            Kind::CutOneWay { from, to, .. } => sim.repair_oneway(from.as_str(), to.as_str()),
            Kind::Hold { one, other, .. } => sim.release(one.as_str(), other.as_str()),
            Kind::Slow { .. } => sim.set_max_message_latency(Duration::from_millis(self.latency.max_ms)),
        }
    }

    fn peers<'a>(&'a self, host: &'a str) -> impl Iterator<Item = &'a str> {
        self.hosts.iter().map(String::as_str).filter(move |peer| *peer != host)
    }

    fn disk(&self, host: &str) -> Option<Disk> {
        self.board.disks().remove(host)
    }

    fn faults(&self, host: &str) -> Option<DiskFaults> {
        self.disk(host)?.faults()
    }

    /// A worker gives a disk up for good when it fails; whoever runs it has mended that now, and starts it again.
    fn restart_where_disks_failed(&self, sim: &mut Sim<'_>) {
        for (host, failed) in self.board.metric_with("mallorn_worker_disk_health", Some(("health", "failed"))) {
            if failed > 0.0 && sim.is_host_running(host.as_str()) {
                self.trace.say(format_args!("{host} is started again, for its disks"));
                self.board.count("workers started again for their disks");
                sim.crash(host.as_str());
                sim.bounce(host.as_str());
            }
        }
    }

    fn heal(&mut self, sim: &mut Sim<'_>, now: Duration) {
        self.trace.say("all is healed");
        self.healed = true;
        self.pending.clear();
        for kind in std::mem::take(&mut self.dying) {
            if let Kind::Step { host, .. } = &kind
                && let Some(faults) = self.faults(host)
            {
                faults.die_after(None);
            }
        }
        sim.set_fail_rate(0.0);
        self.machines.values().for_each(Host::calm);
        self.undo.iter_mut().for_each(|(at, _)| *at = now);
        self.take_back_due(sim, now);
        for (at, one) in self.hosts.iter().enumerate() {
            for other in &self.hosts[at + 1..] {
                sim.repair(one.as_str(), other.as_str());
            }
        }
        self.restart_where_disks_failed(sim);
    }
}
