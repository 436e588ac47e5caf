//! What each application holds of the memory of locations, so that one of them leaves some to the others.
//!
//! Owns the sums, and what a share is. Does not own when it matters (`spill`), nor what is refused then.

use std::collections::BTreeMap;

use mallorn_proto::id::Instance;
use parking_lot::Mutex;

/// Bytes held, by application; who holds nothing is not in it.
#[derive(Default)]
pub(crate) struct Holdings {
    held: Mutex<BTreeMap<Instance, u64>>,
}

impl Holdings {
    /// A location of the application holds so much, before and now.
    pub(crate) fn moved(&self, instance: Instance, before: u64, now: u64) {
        if before == now {
            return;
        }
        let mut held = self.held.lock();
        let sum = held.entry(instance).or_default();
        *sum = (*sum + now).saturating_sub(before);
        if *sum == 0 {
            held.remove(&instance);
        }
    }

    /// Whether the application holds more than its share of `limit` bytes: as much as any other of those that hold
    /// something, and of one that is still to come.
    pub(crate) fn is_over_share(&self, instance: Instance, limit: u64) -> bool {
        let held = self.held.lock();
        held.get(&instance).is_some_and(|bytes| *bytes > limit / (held.len() as u64 + 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: u64 = 120;
    const A: Instance = Instance(1);
    const B: Instance = Instance(2);

    #[test]
    fn a_share_leaves_room_for_one_who_is_still_to_come() {
        let holdings = Holdings::default();
        assert!(!holdings.is_over_share(A, LIMIT), "who holds nothing never is");
        holdings.moved(A, 0, 60);
        assert!(!holdings.is_over_share(A, LIMIT));
        holdings.moved(A, 60, 61);
        assert!(holdings.is_over_share(A, LIMIT));
        holdings.moved(A, 61, 41);
        holdings.moved(B, 0, 40);
        assert!(holdings.is_over_share(A, LIMIT) && !holdings.is_over_share(B, LIMIT));
        holdings.moved(B, 40, 0);
        assert!(!holdings.is_over_share(A, LIMIT), "who has given all back does not count");
    }
}
