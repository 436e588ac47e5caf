//! The copies of a sealed location as a reader sees them: which one is read, and which ones did not work.
//!
//! Owns: the choice. Does not own: reading (`cursor`), or finding out where a copy is now (the lifecycle manager knows).
//!
//! Copies are equal byte for byte, so a reader goes on at the other one at the same offset. It stays where it works.

use std::sync::Arc;
use std::time::Duration;

use mallorn_proto::id::WorkerId;
use mallorn_proto::v1;
use mallorn_runtime::clock;
use mallorn_runtime::hash::Map;
use parking_lot::Mutex;

/// How long a worker that did not work is the second choice of this client's readers.
const SHUN_FOR: Duration = Duration::from_secs(5);
/// Senseless answers on end, before a copy is not asked any more.
const SENSELESS_TRIES: u32 = 3;

/// Workers that did not work for a reader of this client a moment ago.
#[derive(Debug, Default)]
pub(crate) struct Shunned {
    until: Mutex<Map<WorkerId, clock::Instant>>,
}

impl Shunned {
    fn note(&self, worker: WorkerId) {
        let now = clock::now();
        let mut until = self.until.lock();
        until.retain(|_, until| *until > now);
        until.insert(worker, now + SHUN_FOR);
    }

    fn is_shunned(&self, worker: WorkerId) -> bool {
        self.until.lock().get(&worker).is_some_and(|until| *until > clock::now())
    }
}

#[derive(Clone, Debug)]
struct CopyAt {
    worker: Arc<v1::WorkerAddress>,
    /// Senseless answers on end.
    senseless: u32,
    /// It did not work, and nobody has asked since where it is now.
    trouble: bool,
}

/// One or two copies, of which one is read.
#[derive(Clone, Debug)]
pub(super) struct Copies {
    all: Vec<CopyAt>,
    at: usize,
}

pub(super) fn id(worker: &v1::WorkerAddress) -> WorkerId {
    worker.worker.map(WorkerId::from).unwrap_or_default()
}

impl Copies {
    /// `spread` differs from location to location, so that readers are spread over both.
    pub(super) fn new(workers: &[Arc<v1::WorkerAddress>], spread: u32, shunned: &Shunned) -> Self {
        let copy =
            |worker: &Arc<v1::WorkerAddress>| CopyAt { worker: Arc::clone(worker), senseless: 0, trouble: false };
        let all: Vec<_> = workers.iter().map(copy).collect();
        let mut at = spread as usize % all.len().max(1);
        if let Some(copy) = all.get(at)
            && all.len() > 1
            && shunned.is_shunned(id(&copy.worker))
        {
            at = (at + 1) % all.len();
        }
        Self { all, at }
    }

    pub(super) fn count(&self) -> usize {
        self.all.len()
    }

    /// The worker that is read from.
    pub(super) fn worker(&self) -> &Arc<v1::WorkerAddress> {
        &self.all[self.at].worker
    }

    pub(super) fn workers(&self) -> impl Iterator<Item = WorkerId> + '_ {
        self.all.iter().map(|copy| id(&copy.worker))
    }

    /// The copy that is read works.
    pub(super) fn works(&mut self) {
        let copy = &mut self.all[self.at];
        (copy.senseless, copy.trouble) = (0, false);
    }

    /// The copy that is read does not work; `true` when there is another one to go on at.
    pub(super) fn fails(&mut self, shunned: &Shunned) -> bool {
        self.all[self.at].trouble = true;
        shunned.note(id(self.worker()));
        self.switch()
    }

    /// Its answer makes no sense; `false` when it is one of too many, and the other copy is no better.
    pub(super) fn tries_left(&mut self) -> bool {
        self.all[self.at].senseless += 1;
        self.all.iter().any(|copy| copy.senseless < SENSELESS_TRIES)
    }

    /// Goes on at a copy that is not in trouble, if there is one.
    pub(super) fn switch(&mut self) -> bool {
        let count = self.all.len();
        let other = (self.at + 1..self.at + count).map(|other| other % count).find(|other| !self.all[*other].trouble);
        self.at = other.unwrap_or(self.at);
        other.is_some()
    }

    /// Takes in where each of them is now, in their order. Those that are gone are left out; `false` when that is all.
    pub(super) fn resolved(&mut self, found: Vec<v1::ResolvedLocation>) -> bool {
        let mut kept: Vec<CopyAt> = Vec::new();
        let mut found = found.into_iter();
        let next = id(&self.all[(self.at + 1) % self.all.len()].worker);
        let mut at = 0;
        for mut copy in self.all.drain(..) {
            copy.trouble = false;
            let was_next = id(&copy.worker) == next;
            match found.next() {
                Some(v1::ResolvedLocation { gone: true, .. }) => continue,
                Some(v1::ResolvedLocation { address: Some(address), .. }) if address.worker.is_some() => {
                    if id(&address) != id(&copy.worker) {
                        copy.senseless = 0;
                    }
                    copy.worker = Arc::new(address);
                }
                Some(_) | None => {}
            }
            if was_next {
                at = kept.len();
            }
            if !kept.iter().any(|other| id(&other.worker) == id(&copy.worker)) {
                kept.push(copy);
            }
        }
        self.at = if at < kept.len() { at } else { 0 };
        self.all = kept;
        !self.all.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worker(id: u128) -> v1::WorkerAddress {
        v1::WorkerAddress { worker: Some(WorkerId(id).into()), ..Default::default() }
    }

    fn two(spread: u32, shunned: &Shunned) -> Copies {
        Copies::new(&[Arc::new(worker(1)), Arc::new(worker(2))], spread, shunned)
    }

    fn at(copies: &Copies) -> u128 {
        id(copies.worker()).0
    }

    fn here(id: u128) -> v1::ResolvedLocation {
        v1::ResolvedLocation { address: Some(worker(id)), gone: false, away: false, lost: false }
    }

    const GONE: v1::ResolvedLocation = v1::ResolvedLocation { address: None, gone: true, away: false, lost: false };
    const AWAY: v1::ResolvedLocation = v1::ResolvedLocation { address: None, gone: false, away: true, lost: false };

    #[tokio::test(start_paused = true)]
    async fn readers_are_spread_and_avoid_a_worker_that_did_not_work_a_moment_ago() {
        let shunned = Shunned::default();
        assert_eq!([0, 1, 2].map(|spread| at(&two(spread, &shunned))), [1, 2, 1]);
        assert!(two(0, &shunned).fails(&shunned));
        assert_eq!([0, 1].map(|spread| at(&two(spread, &shunned))), [2, 2]);
        let mut alone = Copies::new(&[Arc::new(worker(1))], 1, &shunned);
        assert!(at(&alone) == 1 && !alone.fails(&shunned));
        clock::sleep(SHUN_FOR).await;
        assert_eq!([0, 1].map(|spread| at(&two(spread, &shunned))), [1, 2]);
    }

    #[tokio::test(start_paused = true)]
    async fn it_stays_where_it_works_and_asks_only_when_both_do_not() {
        let shunned = Shunned::default();
        let mut copies = two(0, &shunned);
        assert!(copies.fails(&shunned) && at(&copies) == 2);
        copies.works();
        assert!(!copies.fails(&shunned), "the first one did not work either");
        assert!(copies.resolved(vec![here(1), here(2)]) && at(&copies) == 1);
        assert!(copies.fails(&shunned) && !copies.fails(&shunned));
        // The first is at another worker now, the second is waited for.
        assert!(copies.resolved(vec![here(3), AWAY]));
        assert!(copies.workers().map(|worker| worker.0).eq([3, 2]));
        assert!(copies.resolved(vec![here(2), here(2)]) && copies.count() == 1);
        assert!(!copies.resolved(vec![GONE]));
        let mut copies = two(1, &shunned);
        assert!(copies.resolved(vec![GONE, AWAY]) && at(&copies) == 2);
    }

    #[test]
    fn senseless_answers_end_when_no_copy_has_tries_left() {
        let shunned = Shunned::default();
        let mut copies = two(0, &shunned);
        assert!((0..SENSELESS_TRIES + 2).all(|_| copies.tries_left()));
        assert!(copies.switch());
        assert!(copies.tries_left() && copies.tries_left() && !copies.tries_left());
        copies.works();
        assert!(copies.tries_left());
    }
}
