//! How many connections each peer has, so that none takes them all.
//!
//! Owns the count by address. Does not own the connections.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;

/// The connections of each peer.
#[derive(Debug, Default)]
pub(super) struct Shares {
    by_peer: Mutex<BTreeMap<IpAddr, usize>>,
}

/// A connection that is counted until this is dropped.
#[derive(Debug)]
pub(super) struct Share {
    shares: Arc<Shares>,
    peer: IpAddr,
}

impl Shares {
    /// One more connection of a peer; `None` where it has as many as it may.
    pub(super) fn take(self: &Arc<Self>, peer: IpAddr, at_most: usize) -> Option<Share> {
        let peer = peer.to_canonical();
        let mut by_peer = self.by_peer.lock();
        let held = by_peer.get(&peer).copied().unwrap_or(0);
        (held < at_most).then(|| {
            by_peer.insert(peer, held + 1);
            Share { shares: Arc::clone(self), peer }
        })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut by_peer = self.shares.by_peer.lock();
        if let Some(held) = by_peer.get_mut(&self.peer) {
            *held -= 1;
            if *held == 0 {
                by_peer.remove(&self.peer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_has_its_share_and_what_it_gives_back_is_forgotten() {
        let shares = Arc::new(Shares::default());
        let (one, other) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let mapped = IpAddr::from([0, 0, 0, 0, 0, 0xffff, 0x0a00, 1]);
        let held = [shares.take(one, 2), shares.take(mapped, 2)];
        assert!(held.iter().all(Option::is_some));
        assert!(shares.take(one, 2).is_none());
        assert!(shares.take(other, 2).is_some());
        drop(held);
        assert!(shares.by_peer.lock().is_empty());
        assert!(shares.take(one, 2).is_some());
    }
}
