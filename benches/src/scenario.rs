//! The scenarios: what each shows, what it shuffles and with what, and the budgets that it is held against.

use mallorn_client::{Compression, Durability};
use mallorn_runtime::config::ByteSize;

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const GIB: u64 = 1024 * MIB;

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Push everything, then fetch everything.
    Shuffle,
    /// Push one shuffle while another one is fetched.
    Mixed,
    /// The same, with a client for each connection.
    Clients,
    /// One client per connection, which push in bursts and rest in between.
    ManyClients,
    /// One shuffle after the other, each released at its end.
    SmallShuffles,
    /// The same, all released at the end.
    KeptShuffles,
}

/// What the floor can do of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Floor {
    /// Nothing.
    None,
    /// Both directions, in memory.
    Memory,
    /// Both directions, to files and back.
    Disk,
}

/// A worker's memory for shuffle data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Memory {
    /// All that is shuffled, and slots that are not full.
    Ample,
    /// That much.
    Bytes(u64),
    /// That part of what is shuffled.
    Part(u64),
}

/// What a scenario shuffles, and with what.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) total_bytes: u64,
    pub(crate) batch_bytes: u64,
    pub(crate) partitions: u32,
    /// Connections to each worker, and as many readers.
    pub(crate) connections: u32,
    /// Map tasks; as many as connections, where nothing else is said.
    pub(crate) maps: Option<u32>,
    pub(crate) workers: u32,
    pub(crate) copies: u32,
    pub(crate) memory: Memory,
    pub(crate) durability: Durability,
    pub(crate) codec: Compression,
    /// Half of all batches go to partition 0.
    pub(crate) is_skewed: bool,
    /// What is on disk is forgotten by the system before it is fetched.
    pub(crate) is_cold: bool,
}

impl Shape {
    /// Map tasks.
    pub(crate) fn map_tasks(&self) -> u32 {
        self.maps.unwrap_or(self.connections)
    }

    /// Memory of each worker, in bytes.
    pub(crate) fn memory_bytes(&self) -> u64 {
        match self.memory {
            Memory::Ample => self.total_bytes / 4 * 5 * u64::from(self.copies) + 256 * MIB,
            Memory::Bytes(bytes) => bytes,
            Memory::Part(part) => (self.total_bytes / part).max(MEMORY_MIN),
        }
    }
}

/// The least memory that a worker starts with.
const MEMORY_MIN: u64 = 64 * MIB;

/// A figure that has a budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Figure {
    /// CPU of pushing, over the floor's.
    Push,
    /// CPU of fetching, over the floor's.
    Fetch,
    /// CPU of pushing with two copies, over that with one.
    TwoCopies,
    /// Writes of answers per MiB pushed.
    AckWrites,
    /// Minor page faults per GiB pushed.
    Faults,
    /// Peak memory of a worker over its arena and 48 MiB.
    PeakMemory,
}

impl Figure {
    /// For people.
    pub(crate) fn what(self) -> &'static str {
        match self {
            Self::Push => "push, CPU over the floor's",
            Self::Fetch => "fetch, CPU over the floor's",
            Self::TwoCopies => "push with two copies, CPU over that with one",
            Self::AckWrites => "writes of answers per MiB pushed",
            Self::Faults => "minor page faults per GiB pushed, warmed up",
            Self::PeakMemory => "peak memory of a worker over its arena + 48 MiB",
        }
    }
}

/// A budget of the project: its name, the figure, the most that it may be.
pub(crate) type Limit = (&'static str, Figure, f64);

/// One scenario.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) shows: &'static str,
    pub(crate) kind: Kind,
    pub(crate) shape: Shape,
    pub(crate) floor: Floor,
    /// Beside G14, which holds for all.
    pub(crate) limits: &'static [Limit],
}

/// Held by every scenario.
pub(crate) const PEAK_MEMORY: Limit = ("G14", Figure::PeakMemory, 1.1);

const IN_MEMORY: Shape = Shape {
    total_bytes: 2 * GIB,
    batch_bytes: 64 * KIB,
    partitions: 256,
    connections: 4,
    maps: None,
    workers: 1,
    copies: 1,
    memory: Memory::Ample,
    durability: Durability::Memory,
    codec: Compression::None,
    is_skewed: false,
    is_cold: false,
};
const ON_DISK: Shape = Shape { memory: Memory::Bytes(512 * MIB), durability: Durability::Written, ..IN_MEMORY };
const TINY: Shape = Shape { total_bytes: GIB, batch_bytes: 4 * KIB, partitions: 10_000, ..IN_MEMORY };

/// All of them, in the order in which they run.
pub(crate) const SCENARIOS: [Scenario; 14] = [
    Scenario {
        name: "memory-64k",
        shows: "pushes to memory and fetches from it, batches of 64 KiB",
        kind: Kind::Shuffle,
        shape: IN_MEMORY,
        floor: Floor::Memory,
        limits: &[
            ("G1", Figure::Push, 1.3),
            ("G5", Figure::Fetch, 1.2),
            ("G10", Figure::AckWrites, 4.0),
            ("G11", Figure::Faults, 5000.0),
        ],
    },
    Scenario {
        name: "memory-1m",
        shows: "the same, batches of 1 MiB",
        kind: Kind::Shuffle,
        shape: Shape { batch_bytes: MIB, ..IN_MEMORY },
        floor: Floor::Memory,
        limits: &[("G2", Figure::Push, 1.25)],
    },
    Scenario {
        name: "disk-64k",
        shows: "pushes that are written to disk and fetches from there, through the page cache",
        kind: Kind::Shuffle,
        shape: ON_DISK,
        floor: Floor::Disk,
        limits: &[("G3", Figure::Push, 1.3), ("G6", Figure::Fetch, 1.2)],
    },
    Scenario {
        name: "disk-1m",
        shows: "the same, batches of 1 MiB",
        kind: Kind::Shuffle,
        shape: Shape { batch_bytes: MIB, ..ON_DISK },
        floor: Floor::Disk,
        limits: &[("G4", Figure::Push, 1.3)],
    },
    Scenario {
        name: "tiny",
        shows: "batches of 4 KiB into 10,000 partitions, in memory",
        kind: Kind::Shuffle,
        shape: TINY,
        floor: Floor::Memory,
        limits: &[("G7", Figure::Push, 1.5)],
    },
    Scenario {
        name: "tiny-disk",
        shows: "the same, written to disk",
        kind: Kind::Shuffle,
        shape: Shape { memory: Memory::Bytes(256 * MIB), durability: Durability::Written, ..TINY },
        floor: Floor::Disk,
        limits: &[("G8", Figure::Push, 1.5)],
    },
    Scenario {
        name: "replicated",
        shows: "two copies at two workers, against one copy of the same",
        kind: Kind::Shuffle,
        shape: Shape { total_bytes: GIB, workers: 2, copies: 2, ..IN_MEMORY },
        floor: Floor::None,
        limits: &[("G13", Figure::TwoCopies, 2.2)],
    },
    Scenario {
        name: "spill",
        shows: "five times as much data as a worker has memory",
        kind: Kind::Shuffle,
        shape: Shape { memory: Memory::Part(5), ..ON_DISK },
        floor: Floor::None,
        limits: &[],
    },
    Scenario {
        name: "mixed",
        shows: "one shuffle is pushed while another one is fetched",
        kind: Kind::Mixed,
        shape: Shape { total_bytes: GIB, memory: Memory::Bytes(3 * GIB), ..IN_MEMORY },
        floor: Floor::None,
        limits: &[],
    },
    Scenario {
        name: "skew",
        shows: "half of all bytes in one partition, four times as much data as memory",
        kind: Kind::Shuffle,
        shape: Shape { is_skewed: true, memory: Memory::Part(4), ..ON_DISK },
        floor: Floor::None,
        limits: &[],
    },
    Scenario {
        name: "many-clients",
        shows: "500 connections that rest most of the time and push in bursts",
        kind: Kind::ManyClients,
        shape: Shape { total_bytes: GIB, connections: 500, memory: Memory::Bytes(512 * MIB), ..ON_DISK },
        floor: Floor::None,
        limits: &[],
    },
    Scenario {
        name: "small-shuffles",
        shows: "1,000 shuffles of 1 MiB, one after the other: time and calls of each",
        kind: Kind::SmallShuffles,
        shape: Shape {
            total_bytes: 1000 * MIB,
            partitions: 4,
            connections: 2,
            memory: Memory::Bytes(512 * MIB),
            ..IN_MEMORY
        },
        floor: Floor::None,
        limits: &[],
    },
    Scenario {
        name: "cold-fetch",
        shows: "fetches from disk of what the page cache does not hold",
        kind: Kind::Shuffle,
        shape: Shape { total_bytes: GIB, memory: Memory::Bytes(256 * MIB), is_cold: true, ..ON_DISK },
        floor: Floor::Disk,
        limits: &[],
    },
    Scenario {
        name: "synced",
        shows: "pushes whose data survives a loss of power once it is committed",
        kind: Kind::Shuffle,
        shape: Shape { total_bytes: GIB, durability: Durability::Synced, ..ON_DISK },
        floor: Floor::Disk,
        limits: &[],
    },
];

/// The scenarios of a name, or all of them; `None` where there is none of that name.
pub(crate) fn find(name: &str) -> Option<Vec<Scenario>> {
    if name == "all" {
        return Some(SCENARIOS.to_vec());
    }
    SCENARIOS.iter().find(|scenario| scenario.name == name).map(|scenario| vec![*scenario])
}

/// Names and what they show, a line each.
pub(crate) fn listing() -> String {
    let line = |scenario: &Scenario| {
        let Shape { total_bytes, batch_bytes, partitions, .. } = scenario.shape;
        let (total, batch) = (ByteSize(total_bytes), ByteSize(batch_bytes));
        format!("  {:<15} {} ({total}, batches of {batch}, {partitions} partitions)", scenario.name, scenario.shows)
    };
    format!("Scenarios:\n{}", SCENARIOS.iter().map(line).collect::<Vec<_>>().join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_and_are_there_once() {
        for scenario in SCENARIOS {
            assert_eq!(find(scenario.name).map(|found| found.len()), Some(1));
            assert!(listing().contains(scenario.shows));
        }
        let mut names: Vec<_> = SCENARIOS.iter().map(|scenario| scenario.name).collect();
        names.dedup();
        assert_eq!((names.len(), find("all").map(|all| all.len())), (SCENARIOS.len(), Some(SCENARIOS.len())));
        assert!(find("none").is_none());
    }
}
