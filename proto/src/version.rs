//! Versions of the data-plane protocol. A peer of the version before ours is understood in both directions.

/// The protocol that this build speaks.
pub const CURRENT: u16 = 1;

/// The oldest protocol that this build still speaks.
pub const OLDEST: u16 = 1;

/// Picks the version for a connection: the newest that both sides speak, or `None` when the ranges do not meet.
#[must_use]
pub fn agree(oldest: u16, newest: u16) -> Option<u16> {
    let version = newest.min(CURRENT);
    (oldest <= newest && version >= oldest.max(OLDEST)).then_some(version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_common_version_is_picked() {
        assert_eq!(agree(1, 1), Some(1));
        assert_eq!(agree(1, 9), Some(CURRENT));
        assert_eq!(agree(CURRENT + 1, CURRENT + 2), None);
        assert_eq!(agree(0, 0), None);
        assert_eq!(agree(2, 1), None);
    }
}
