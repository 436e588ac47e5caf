//! What goes wrong in a run: a schedule drawn from the seed before the run, so that it can be printed with a failure.
//!
//! Owns the faults and when they strike. Does not own which ones a scenario draws, nor how they are carried out
//! (`injector`). Times are anchored at the phases of the job, so that a fault strikes what it is meant to strike whatever the latencies are.

mod disk;
mod injector;

use std::fmt;

use serde::{Deserialize, Serialize};

pub(crate) use disk::{Target, Trouble, files, met};
pub(crate) use injector::Injector;

/// What the job does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct At {
    pub(crate) phase: Phase,
    pub(crate) round: u32,
    pub(crate) after_ms: u64,
}

/// What goes wrong. Hosts are named as in the trace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Kind {
    /// The process dies. Its peers are told by its machine, or, where it `vanishes`, hear nothing.
    Crash { host: String, vanishes: bool, back_after_ms: u64 },
    /// A worker is told to end, and drains first.
    Drain { host: String, back_after_ms: u64 },
    /// The machine of a worker loses power: the process dies, and of its files what was not synced may be gone. In the
    /// `worst` order records are there, and the segments that they speak of are not.
    Power {
        host: String,
        #[serde(default)]
        worst: bool,
        back_after_ms: u64,
    },
    /// One of a worker's disks is in trouble.
    Disk { host: String, number: u32, trouble: Trouble, for_ms: u64 },
    /// A bit of a file on a worker's disks is another one, for good; which is picked by a number.
    Flip { host: String, target: Target, pick: u64 },
    /// The machine of a worker dies at a step of its disk: when so many more changes and syncs are done, whatever the process
    /// is in the middle of; and loses its power with that, or not.
    Step { host: String, changes: u64, power: bool, back_after_ms: u64 },
    /// A worker crashes and comes back with empty disks.
    Empty { host: String, back_after_ms: u64 },
    /// Two workers crash and come back with each other's disks.
    Swap { one: String, other: String, back_after_ms: u64 },
    /// The driver dies, and with it the lifecycle manager; nobody starts it again.
    Orphan,
    /// A host's clock jumps forward, as that of a machine which stood still.
    Jump { host: String, by_ms: u64 },
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
            Self::Power { worst: false, .. } => "power",
            Self::Power { worst: true, .. } => "power in the worst order",
            Self::Disk { trouble, .. } => trouble.name(),
            Self::Step { power: false, .. } => "crash at a step of the disk",
            Self::Step { power: true, .. } => "power lost at a step of the disk",
            Self::Empty { .. } => "restart with empty disks",
            Self::Swap { .. } => "restart with each other's disks",
            Self::Orphan => "driver dies",
            Self::Jump { .. } => "clock jumps",
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
            | Self::Step { back_after_ms: ms, .. }
            | Self::Empty { back_after_ms: ms, .. }
            | Self::Swap { back_after_ms: ms, .. }
            | Self::Disk { for_ms: ms, .. }
            | Self::Cut { for_ms: ms, .. }
            | Self::CutOneWay { for_ms: ms, .. }
            | Self::Hold { for_ms: ms, .. }
            | Self::Slow { for_ms: ms, .. } => *ms,
            Self::Flip { .. } | Self::Orphan | Self::Jump { .. } => 0,
        }
    }

    /// Whether what a disk reads back may be something else than it was given, or nothing.
    pub(crate) fn spoils_what_is_read(&self) -> bool {
        let is_unread = |trouble| matches!(trouble, Trouble::FailsReads | Trouble::Vanished);
        matches!(self, Self::Flip { .. }) || matches!(self, Self::Disk { trouble, .. } if is_unread(*trouble))
    }

    /// The worker it strikes, and no one else.
    pub(crate) fn worker(&self) -> Option<&str> {
        match self {
            Self::Crash { host, .. }
            | Self::Drain { host, .. }
            | Self::Power { host, .. }
            | Self::Step { host, .. }
            | Self::Empty { host, .. }
            | Self::Disk { host, .. }
            | Self::Flip { host, .. } => Some(host).filter(|host| host.starts_with("worker")).map(String::as_str),
            Self::Swap { .. } | Self::Orphan | Self::Jump { .. } => None,
            Self::Cut { .. } | Self::CutOneWay { .. } | Self::Hold { .. } | Self::Slow { .. } => None,
        }
    }
}

/// One fault.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Fault {
    pub(crate) at: At,
    pub(crate) kind: Kind,
}

/// All that goes wrong in a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
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
            Self::Power { host, worst, back_after_ms } => {
                let order = if *worst { " in the worst order" } else { "" };
                write!(f, "{host} loses power{order}, started again after {back_after_ms} ms")
            }
            Self::Step { host, changes, power, back_after_ms } => {
                let how = if *power { "loses power" } else { "dies" };
                write!(f, "{host} {how} after {changes} changes of its disk, started again after {back_after_ms} ms")
            }
            Self::Empty { host, back_after_ms } => {
                write!(f, "crash {host}, started again with empty disks after {back_after_ms} ms")
            }
            Self::Swap { one, other, back_after_ms } => {
                write!(f, "crash {one} and {other}, started again with each other's disks after {back_after_ms} ms")
            }
            Self::Orphan => f.write_str("the driver dies for good"),
            Self::Jump { host, by_ms } => write!(f, "the clock of {host} jumps {by_ms} ms forward"),
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

/// How a run's latencies are while no fault changes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Latency {
    pub(crate) min_ms: u64,
    pub(crate) max_ms: u64,
}
