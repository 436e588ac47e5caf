//! Typed ids. An application's name and its instance together key everything; a worker is its id, never its address.

use std::fmt;

use crate::v1;

macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident, $inner:ty) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl From<$inner> for $name {
            fn from(value: $inner) -> Self {
                Self(value)
            }
        }
    };
}

number_id!(
    /// Drawn at random by each lifecycle manager at start: two managers under one application name never mix.
    Instance, u64
);
number_id!(
    /// The number of a shuffle on the wire: the lifecycle manager draws a fresh one for every generation of every shuffle.
    ShuffleId, u32
);
number_id!(
    /// A partition of a shuffle.
    Partition, u32
);
number_id!(
    /// A partition's location number, rising at each split or revive.
    Epoch, u32
);
number_id!(
    /// A map task of a shuffle.
    MapId, u32
);
number_id!(
    /// One try at a map task.
    Attempt, u32
);
number_id!(
    /// A batch of one (map, attempt, partition); dense from 0.
    BatchId, u32
);
number_id!(
    /// A generation of a shuffle; a loss starts the next one.
    Generation, u32
);
number_id!(
    /// Names a reserved location in pushes; fresh per reservation, so that a stale one is fenced by construction.
    Handle, u64
);
number_id!(
    /// Drawn by the lifecycle manager once per location, before its first seal; sealed bytes are read under it.
    SealId, u64
);
number_id!(
    /// Names an ended attempt: a reader that lists tokens reads exactly those attempts.
    Token, u64
);
number_id!(
    /// Drawn by a worker at each start, and again when it registers after having been declared lost.
    Incarnation, u64
);

/// A worker, for as long as its data folders live.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct WorkerId(pub u128);

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::str::FromStr for WorkerId {
    type Err = WorkerIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.trim();
        // A shorter one would be another worker: the rest of a file that was cut, for instance.
        if digits.len() != 32 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(WorkerIdError);
        }
        u128::from_str_radix(digits, 16).map(Self).map_err(|_| WorkerIdError)
    }
}

/// A text that is no worker id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a worker id is exactly 32 hexadecimal digits")]
pub struct WorkerIdError;

impl From<WorkerId> for v1::WorkerId {
    fn from(id: WorkerId) -> Self {
        Self { high: (id.0 >> 64) as u64, low: id.0 as u64 }
    }
}

impl From<v1::WorkerId> for WorkerId {
    fn from(id: v1::WorkerId) -> Self {
        Self((u128::from(id.high) << 64) | u128::from(id.low))
    }
}

/// An application: the name that its engine gave it, and the instance that its lifecycle manager drew.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Application {
    /// The engine's name for it.
    pub name: String,
    /// Drawn by its lifecycle manager at start.
    pub instance: Instance,
}

impl fmt::Display for Application {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{:016x}", self.name, self.instance.0)
    }
}

impl From<Application> for v1::Application {
    fn from(application: Application) -> Self {
        Self { name: application.name, instance: application.instance.0 }
    }
}

impl From<v1::Application> for Application {
    fn from(application: v1::Application) -> Self {
        Self { name: application.name, instance: Instance(application.instance) }
    }
}

/// A location of a shuffle, without the application that it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LocationId {
    /// The shuffle's number on the wire.
    pub shuffle: ShuffleId,
    /// The partition.
    pub partition: Partition,
    /// The partition's location number.
    pub epoch: Epoch,
}

impl fmt::Display for LocationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}-{}", self.shuffle, self.partition, self.epoch)
    }
}

impl From<LocationId> for v1::LocationId {
    fn from(id: LocationId) -> Self {
        Self { shuffle: id.shuffle.0, partition: id.partition.0, epoch: id.epoch.0 }
    }
}

impl From<v1::LocationId> for LocationId {
    fn from(id: v1::LocationId) -> Self {
        Self { shuffle: ShuffleId(id.shuffle), partition: Partition(id.partition), epoch: Epoch(id.epoch) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_id_survives_text_and_wire() {
        let id = WorkerId(0x0123_4567_89ab_cdef_0011_2233_4455_6677);
        assert_eq!(id.to_string().parse::<WorkerId>().unwrap(), id);
        assert_eq!(WorkerId::from(v1::WorkerId::from(id)), id);
    }
}
