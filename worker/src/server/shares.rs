//! How many connections each of many may hold, so that one of them does not keep all others out.
//!
//! Owns the counts. Does not own who is counted, nor what is told to whom has its share.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

/// What each holds; who holds nothing is not in it.
pub(crate) struct Shares<K: Ord> {
    /// What each may hold.
    pub(super) each: usize,
    held: Mutex<BTreeMap<K, usize>>,
}

/// One more of somebody's, until it is dropped.
pub(crate) struct Share<K: Ord> {
    of: Arc<Shares<K>>,
    key: K,
}

impl<K: Ord + Copy> Shares<K> {
    pub(super) fn new(each: usize) -> Arc<Self> {
        Arc::new(Self { each, held: Mutex::default() })
    }

    /// One more; `None` to whoever has its share.
    pub(super) fn take(self: &Arc<Self>, key: K) -> Option<Share<K>> {
        let mut held = self.held.lock();
        let count = held.entry(key).or_default();
        if *count >= self.each {
            return None;
        }
        *count += 1;
        Some(Share { of: Arc::clone(self), key })
    }
}

impl<K: Ord> Drop for Share<K> {
    fn drop(&mut self) {
        let mut held = self.of.held.lock();
        if let Some(count) = held.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                held.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_has_its_share_gets_no_more_until_something_is_given_back() {
        let shares = Shares::new(2);
        let held = [shares.take('a'), shares.take('a')];
        assert!(held.iter().all(Option::is_some) && shares.take('a').is_none());
        let other = shares.take('b');
        assert!(other.is_some(), "another one has its own");
        drop(held);
        assert!(shares.take('a').is_some());
        drop(other);
        assert!(shares.held.lock().is_empty(), "nobody is remembered");
    }
}
