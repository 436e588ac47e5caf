//! How many connections each of many may hold, so that one of them does not keep all others out.
//!
//! Owns the counts. Does not own who is counted, what is counted, nor what is told to whom has its share.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;

/// What each holds; who holds nothing is not in it.
#[derive(Debug)]
pub struct Shares<K: Ord> {
    each: usize,
    held: Mutex<BTreeMap<K, usize>>,
}

/// One more of somebody's, until it is dropped.
#[derive(Debug)]
pub struct Share<K: Ord> {
    of: Arc<Shares<K>>,
    key: K,
}

impl<K: Ord + Copy> Shares<K> {
    /// Each may hold so many.
    #[must_use]
    pub fn new(each: usize) -> Arc<Self> {
        Arc::new(Self { each, held: Mutex::default() })
    }

    /// How many each may hold.
    #[must_use]
    pub fn each(&self) -> usize {
        self.each
    }

    /// One more; `None` to whoever has its share.
    #[must_use]
    pub fn take(self: &Arc<Self>, key: K) -> Option<Share<K>> {
        let mut held = self.held.lock();
        let count = held.get(&key).copied().unwrap_or(0);
        (count < self.each).then(|| {
            held.insert(key, count + 1);
            Share { of: Arc::clone(self), key }
        })
    }
}

impl Shares<IpAddr> {
    /// One more of a peer, by its address: the same one also where it is written within a longer one.
    #[must_use]
    pub fn take_peer(self: &Arc<Self>, peer: IpAddr) -> Option<Share<IpAddr>> {
        self.take(peer.to_canonical())
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

    #[test]
    fn a_peer_has_its_share_and_what_it_gives_back_is_forgotten() {
        let shares = Shares::new(2);
        let (one, other) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let mapped = IpAddr::from([0, 0, 0, 0, 0, 0xffff, 0x0a00, 1]);
        let held = [shares.take_peer(one), shares.take_peer(mapped)];
        assert!(held.iter().all(Option::is_some));
        assert!(shares.take_peer(one).is_none());
        assert!(shares.take_peer(other).is_some());
        drop(held);
        assert!(shares.held.lock().is_empty());
        assert!(shares.take_peer(one).is_some());
    }
}
