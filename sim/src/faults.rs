//! What goes wrong in a run: a schedule drawn from the seed before the run, so that it can be printed with a failure.
//!
//! Owns the faults, when they strike, and how they are taken back. Does not own which ones a scenario draws. Times are
//! anchored at the phases of the job, so that a fault strikes what it is meant to strike whatever the latencies are.

mod disk;

use std::fmt;
use std::time::Duration;

use mallorn_runtime::disk::Disk;
use mallorn_runtime::random::Random;

use turmoil::Sim;

use crate::board::Board;
use crate::engine::World;
use crate::setup::{Disks, derive};
use crate::trace::Trace;

pub(crate) use disk::{Target, Trouble, files, met};

/// What the job does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Maps run.
    Map,
    /// All maps have ended, and the stage is being committed; by readers where they name tokens.
    Commit,
    /// The stage has ended and is committed; nobody reads yet.
    Committed,
    /// Readers read.
    Read,
}

/// A moment: so long after a phase of the first shuffle began. Rounds count its generations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct At {
    pub(crate) phase: Phase,
    pub(crate) round: u32,
    pub(crate) after_ms: u64,
}

/// What goes wrong. Hosts are named as in the trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The process dies. Its peers are told by its machine, or, where it `vanishes`, hear nothing.
    Crash { host: String, vanishes: bool, back_after_ms: u64 },
    /// A worker is told to end, and drains first.
    Drain { host: String, back_after_ms: u64 },
    /// The machine of a worker loses power: the process dies, and of its files what was not synced may be gone.
    Power { host: String, back_after_ms: u64 },
    /// One of a worker's disks is in trouble.
    Disk { host: String, number: u32, trouble: Trouble, for_ms: u64 },
    /// A bit of a file on a worker's disks is another one, for good; which is picked by a number.
    Flip { host: String, target: Target, pick: u64 },
    /// Nothing passes between two hosts; what is under way is lost.
    Cut { one: String, other: String, for_ms: u64 },
    /// Nothing passes from one host to the other; the way back is open.
    CutOneWay { from: String, to: String, for_ms: u64 },
    /// Everything between two hosts is held, and then comes at once.
    Hold { one: String, other: String, for_ms: u64 },
    /// Messages take up to this long.
    Slow { latency_max_ms: u64, for_ms: u64 },
}

impl Kind {
    /// What reports count it as.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Crash { .. } => "crash",
            Self::Drain { .. } => "drain",
            Self::Power { .. } => "power",
            Self::Disk { trouble, .. } => trouble.name(),
            Self::Flip { target: Target::Segment, .. } => "flip in a segment",
            Self::Flip { target: Target::Records, .. } => "flip in records",
            Self::Cut { .. } => "cut",
            Self::CutOneWay { .. } => "cut one way",
            Self::Hold { .. } => "hold",
            Self::Slow { .. } => "slow network",
        }
    }

    fn lasts_ms(&self) -> u64 {
        match self {
            Self::Crash { back_after_ms: ms, .. }
            | Self::Drain { back_after_ms: ms, .. }
            | Self::Power { back_after_ms: ms, .. }
            | Self::Disk { for_ms: ms, .. }
            | Self::Cut { for_ms: ms, .. }
            | Self::CutOneWay { for_ms: ms, .. }
            | Self::Hold { for_ms: ms, .. }
            | Self::Slow { for_ms: ms, .. } => *ms,
            Self::Flip { .. } => 0,
        }
    }

    /// The worker it strikes, and no one else.
    pub(crate) fn worker(&self) -> Option<&str> {
        match self {
            Self::Crash { host, .. }
            | Self::Drain { host, .. }
            | Self::Power { host, .. }
            | Self::Disk { host, .. }
            | Self::Flip { host, .. } => Some(host).filter(|host| host.starts_with("worker")).map(String::as_str),
            Self::Cut { .. } | Self::CutOneWay { .. } | Self::Hold { .. } | Self::Slow { .. } => None,
        }
    }
}

/// One fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) at: At,
    pub(crate) kind: Kind,
}

/// All that goes wrong in a run.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Schedule {
    pub(crate) faults: Vec<Fault>,
    /// Of a thousand thousand messages, how many break their link (and every connection over it) until it is repaired.
    pub(crate) loss_ppm: u32,
    /// Of a thousand thousand messages over a broken link, how many repair it.
    pub(crate) repair_ppm: u32,
    /// From here on nothing goes wrong any more, and what did is repaired.
    pub(crate) heal_at_ms: u64,
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} of round {} + {} ms", self.phase, self.round, self.after_ms)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Crash { host, vanishes: false, back_after_ms } => {
                write!(f, "crash {host}, started again after {back_after_ms} ms")
            }
            Self::Crash { host, vanishes: true, back_after_ms } => {
                write!(f, "crash {host} without a sign, started again after {back_after_ms} ms")
            }
            Self::Drain { host, back_after_ms } => write!(f, "drain {host}, started again after {back_after_ms} ms"),
            Self::Power { host, back_after_ms } => {
                write!(f, "{host} loses power, started again after {back_after_ms} ms")
            }
            Self::Disk { host, number, trouble, for_ms } => {
                write!(f, "{host}, disk {number} for {for_ms} ms: {trouble}")
            }
            Self::Flip { host, target, pick } => write!(f, "{host}: a bit of its {target:?} flips ({pick})"),
            Self::Cut { one, other, for_ms } => write!(f, "cut {one} off from {other} for {for_ms} ms"),
            Self::CutOneWay { from, to, for_ms } => write!(f, "cut the way from {from} to {to} for {for_ms} ms"),
            Self::Hold { one, other, for_ms } => write!(f, "hold what {one} and {other} send for {for_ms} ms"),
            Self::Slow { latency_max_ms, for_ms } => {
                write!(f, "delay messages by up to {latency_max_ms} ms for {for_ms} ms")
            }
        }
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Fault { at, kind } in &self.faults {
            writeln!(f, "  {at}: {kind}")?;
        }
        if self.loss_ppm > 0 {
            let Self { loss_ppm, repair_ppm, .. } = self;
            writeln!(f, "  {loss_ppm} of a million messages break their link, {repair_ppm} repair a broken one")?;
        }
        writeln!(f, "  all is healed after {} ms", self.heal_at_ms)
    }
}

/// When a worker that has not ended yet is looked at again.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Whether a worker that was told to end has not done so: it takes its grace.
fn is_draining(sim: &mut Sim<'_>, kind: &Kind) -> bool {
    matches!(kind, Kind::Drain { host, .. } if sim.is_host_running(host.as_str()))
}

/// How a run's latencies are while no fault changes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Latency {
    pub(crate) min_ms: u64,
    pub(crate) max_ms: u64,
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
    healed: bool,
    hosts: Vec<String>,
    disks: Disks,
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
            healed: false,
            hosts: world.settings.hosts(),
            disks: world.settings.disks,
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
    }

    fn strike(&mut self, sim: &mut Sim<'_>, kind: Kind, now: Duration) {
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

    /// Does it; says how long it lasts, or that there was nothing to strike.
    fn begin(&self, sim: &mut Sim<'_>, kind: &Kind) -> Option<u64> {
        let mut is_down = |host: &str| !sim.is_host_running(host);
        match kind {
            Kind::Crash { host, .. } | Kind::Drain { host, .. } | Kind::Power { host, .. } if is_down(host) => {
                return None;
            }
            Kind::Drain { host, .. } => self.board.drain(host),
            Kind::Crash { host, vanishes, .. } => {
                if *vanishes {
                    // What the dying process sends to its peers gets lost with the link; both are back together.
                    self.peers(host).for_each(|peer| sim.partition(host.as_str(), peer));
                }
                sim.crash(host.as_str());
            }
            Kind::Power { host, .. } => {
                self.peers(host).for_each(|peer| sim.partition(host.as_str(), peer));
                sim.crash(host.as_str());
                self.disk(host)?.faults()?.lose_power(&self.power);
            }
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
            Kind::Drain { host, .. } => sim.bounce(host.as_str()),
            Kind::Power { host, .. } => {
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
            Kind::Flip { .. } => {}
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
        sim.set_fail_rate(0.0);
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
