//! What the bytes of a sealed location survive.

use crate::v1;

/// Ordered: each level includes those before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Durability {
    /// Held in memory: a second copy is what survives a crash. Small shuffles never touch a disk.
    Memory,
    /// Written to the disk's file system: survives a crash or restart of the worker, not loss of power.
    #[default]
    Written,
    /// Synced to the disk: survives loss of power.
    Synced,
}

impl Durability {
    /// All levels, rising.
    pub const ALL: [Self; 3] = [Self::Memory, Self::Written, Self::Synced];

    /// The name used in settings, logs and metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Written => "written",
            Self::Synced => "synced",
        }
    }

    /// The level of a number from the wire; one of a later version is the strongest that this build knows.
    #[must_use]
    pub fn from_wire(number: i32) -> Self {
        match v1::Durability::try_from(number) {
            Ok(v1::Durability::Memory) => Self::Memory,
            Ok(v1::Durability::Written) => Self::Written,
            Ok(v1::Durability::Synced) | Err(_) => Self::Synced,
        }
    }

    /// Its number on the wire.
    #[must_use]
    pub fn to_wire(self) -> i32 {
        let wire = match self {
            Self::Memory => v1::Durability::Memory,
            Self::Written => v1::Durability::Written,
            Self::Synced => v1::Durability::Synced,
        };
        wire.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_survive_the_wire_and_an_unknown_one_is_the_strongest() {
        for level in Durability::ALL {
            assert_eq!(Durability::from_wire(level.to_wire()), level);
        }
        assert!(Durability::ALL.is_sorted());
        assert_eq!(Durability::from_wire(77), Durability::Synced);
    }
}
