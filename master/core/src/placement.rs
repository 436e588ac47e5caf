//! Placement: which workers get new locations.
//!
//! Owns the choice among workers and the fairness over requests. Does not own who is a worker (`workers`) nor whether
//! the caller is served (`applications`).
//!
//! Rules: lost, draining and excluded workers and those without room for one maximal body get nothing, nor those without
//! a healthy disk where one is asked for. A request goes to all others before one of them gets a second location. The
//! choice depends on nothing but the calls made so far. Where two copies go is `copies`' business.
//!
//! Load-aware placement is fair queuing over workers: each keeps a turn, the sum of what it was given divided by the
//! memory that it had free then, and a request starts with whoever's turn is lowest. So single locations, asked for
//! between two heartbeats, do not all go to the worker that was emptiest at its last one. Whoever was away (new, excluded,
//! full) starts where the others are and has nothing to catch up on.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use mallorn_proto::id::{Application, WorkerId};

use crate::Strategy;
use crate::copies;
use crate::workers::{DiskHealth, Memory, Worker, WorkerState, Workers};

/// Turns are fractions; they are kept as multiples of 2^-64.
const TURN_SHIFT: u32 = 64;

/// No worker is ahead of its turn by more than these locations, at the memory that it has free now: one that was given
/// something when it was nearly full is not passed over for long once it is empty.
const LEAD_MAX: u32 = 2;

/// A request for locations.
#[derive(Clone, Debug)]
pub struct PlaceRequest {
    /// For whom.
    pub application: Application,
    /// How many.
    pub locations: u32,
    /// Whether each has two copies.
    pub two_copies: bool,
    /// Only workers with a disk that takes data.
    pub on_disk: bool,
    /// Workers that the caller has found full or out of reach a moment ago.
    pub exclude: BTreeSet<WorkerId>,
}

/// The answer to a request for locations.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    /// The workers that were picked, each once.
    pub workers: Vec<WorkerId>,
    /// For each location an index into `workers`; empty when no worker can take anything, or too few for the copies.
    pub picks: Vec<u32>,
    /// For each location the worker of its second copy, where two were asked for.
    pub replicas: Vec<u32>,
    /// Workers that could take something.
    pub candidates: u32,
    /// Workers that could take something, had they a disk that takes data.
    pub without_disk: u32,
    /// The memory of all workers that are not lost.
    pub memory: Memory,
}

/// What placement remembers between requests.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Turns {
    /// Round robin: who was picked last.
    last: WorkerId,
    /// Load aware: the lowest turn among the candidates of the last request; it never falls.
    lowest: u128,
    /// Load aware: the same for what workers lead.
    lowest_led: u128,
}

/// A worker that can take locations.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    worker: WorkerId,
    free_bytes: u64,
    turn: u128,
    led: u128,
}

impl Turns {
    /// Picks a worker for each location.
    pub(crate) fn place(
        &mut self,
        workers: &mut Workers,
        strategy: Strategy,
        room_bytes: u64,
        request: &PlaceRequest,
    ) -> Placement {
        let memory = memory_of(workers);
        let able = |(id, worker): &(WorkerId, &Worker)| !request.exclude.contains(id) && has_room(worker, room_bytes);
        let (taking, without_disk): (Vec<_>, Vec<_>) =
            workers.iter().filter(able).partition(|(_, worker)| !request.on_disk || has_disk(worker));
        let without_disk = without_disk.len() as u32;
        let mut candidates: Vec<Candidate> =
            taking.into_iter().map(|(id, worker)| self.candidate(id, worker)).collect();
        let found = Placement { candidates: candidates.len() as u32, without_disk, memory, ..Placement::default() };
        if candidates.len() < 1 + usize::from(request.two_copies) {
            return found;
        }
        match strategy {
            Strategy::RoundRobin => {
                let next = candidates.partition_point(|candidate| candidate.worker <= self.last);
                candidates.rotate_left(next);
            }
            Strategy::LoadAware => candidates.sort_unstable_by_key(|candidate| (candidate.turn, candidate.worker)),
        }
        let (picks, replicas) = picked(workers, strategy, request, &candidates);
        self.remember(workers, &mut candidates, &picks, &replicas);
        let (workers, picks, replicas) = named(&candidates, &picks, &replicas);
        Placement { workers, picks, replicas, ..found }
    }

    fn candidate(&self, id: WorkerId, worker: &Worker) -> Candidate {
        let free_bytes = worker.memory.push_free_bytes;
        let lead = share(LEAD_MAX, free_bytes);
        let within = |turn: u128, lowest: u128| turn.clamp(lowest, lowest.saturating_add(lead));
        let (turn, led) = (within(worker.turn, self.lowest), within(worker.led, self.lowest_led));
        Candidate { worker: id, free_bytes, turn, led }
    }

    /// Moves the turns on by what was picked.
    fn remember(&mut self, workers: &mut Workers, candidates: &mut [Candidate], picks: &[u32], replicas: &[u32]) {
        let mut given: Vec<(u32, u32)> = vec![(0, 0); candidates.len()];
        for pick in picks {
            given[*pick as usize].0 += 1;
            // Who keeps both copies of nothing leads nothing either: with one copy there is no work of leading.
            given[*pick as usize].1 += u32::from(!replicas.is_empty());
        }
        replicas.iter().for_each(|replica| given[*replica as usize].0 += 1);
        for (candidate, (given, led)) in candidates.iter_mut().zip(given) {
            candidate.turn = candidate.turn.saturating_add(share(given, candidate.free_bytes));
            candidate.led = candidate.led.saturating_add(share(led, candidate.free_bytes));
            let worker = workers.get_mut(candidate.worker).expect("a candidate is a worker");
            (worker.turn, worker.led) = (candidate.turn, candidate.led);
        }
        self.lowest = candidates.iter().map(|candidate| candidate.turn).min().unwrap_or(self.lowest);
        self.lowest_led = candidates.iter().map(|candidate| candidate.led).min().unwrap_or(self.lowest_led);
        self.last = picks.last().map_or(self.last, |pick| candidates[*pick as usize].worker);
    }
}

/// Indices into the candidates: for each location its worker and, with two copies, that of its replica.
fn picked(
    workers: &Workers,
    strategy: Strategy,
    request: &PlaceRequest,
    candidates: &[Candidate],
) -> (Vec<u32>, Vec<u32>) {
    if request.two_copies {
        let mut map = copies::Map::default();
        let place = |candidate: &Candidate| {
            let worker = workers.get(candidate.worker).expect("a candidate is a worker");
            map.place(&worker.address, candidate.free_bytes, candidate.led)
        };
        let places: Vec<_> = candidates.iter().map(place).collect();
        let pairs = match strategy {
            Strategy::RoundRobin => copies::round_robin(&places, request.locations),
            Strategy::LoadAware => copies::load_aware(&places, request.locations),
        };
        return pairs.into_iter().map(|[primary, replica]| (primary, replica)).unzip();
    }
    let picks = match strategy {
        Strategy::RoundRobin => round_robin(candidates.len(), request.locations),
        Strategy::LoadAware => {
            let weights: Vec<u64> = candidates.iter().map(|c| c.free_bytes).collect();
            load_aware(&weights, request.locations)
        }
    };
    (picks, Vec::new())
}

/// Each candidate in turn, in the order given: an index per location.
#[must_use]
pub fn round_robin(candidates: usize, locations: u32) -> Vec<u32> {
    let candidates = u32::try_from(candidates).unwrap_or(u32::MAX);
    if candidates == 0 { Vec::new() } else { (0..locations).map(|location| location % candidates).collect() }
}

/// Each candidate once, in the order given, and the rest in proportion to the weights: an index per location, those of
/// one candidate spread over the whole. No candidate gets more than its share of the request, rounded up.
#[must_use]
pub fn load_aware(weights: &[u64], locations: u32) -> Vec<u32> {
    let indices = (0u32..).zip(weights);
    let mut queue: BinaryHeap<_> = indices.map(|(index, weight)| Reverse((0, index, 0, *weight))).collect();
    let mut picks = Vec::new();
    for _ in 0..locations {
        let Some(mut next) = queue.peek_mut() else { break };
        let Reverse((key, index, given, weight)) = &mut *next;
        picks.push(*index);
        *given += 1;
        *key = share(*given, *weight);
    }
    picks
}

/// What so many locations are on a worker with so much memory.
pub(crate) fn share(locations: u32, free_bytes: u64) -> u128 {
    (u128::from(locations) << TURN_SHIFT) / u128::from(free_bytes.max(1))
}

/// Whether the worker takes new locations and can hold one maximal body more.
fn has_room(worker: &Worker, room_bytes: u64) -> bool {
    match worker.state {
        WorkerState::Live => worker.memory.push_free_bytes >= room_bytes.max(1),
        WorkerState::Draining | WorkerState::Lost { .. } => false,
    }
}

/// Whether one of its disks takes data.
fn has_disk(worker: &Worker) -> bool {
    worker.disks.iter().any(|disk| disk.health == DiskHealth::Healthy)
}

/// The memory of all workers that are not lost.
pub(crate) fn memory_of(workers: &Workers) -> Memory {
    workers.iter().fold(Memory::default(), |sum, (_, worker)| match worker.state {
        WorkerState::Live | WorkerState::Draining => sum.plus(worker.memory),
        WorkerState::Lost { .. } => sum,
    })
}

/// Indices into the candidates as indices into a list of those that were picked, in the order of their first location.
fn named(candidates: &[Candidate], picks: &[u32], replicas: &[u32]) -> (Vec<WorkerId>, Vec<u32>, Vec<u32>) {
    let mut positions = BTreeMap::new();
    let mut workers = Vec::new();
    let mut renumbered = |picks: &[u32]| -> Vec<u32> {
        let position = |pick: &u32| {
            *positions.entry(*pick).or_insert_with(|| {
                workers.push(candidates[*pick as usize].worker);
                workers.len() as u32 - 1
            })
        };
        picks.iter().map(position).collect()
    };
    let (picks, replicas) = (renumbered(picks), renumbered(replicas));
    (workers, picks, replicas)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workers::{Address, Disk, Registration, Report};
    use mallorn_proto::id::{Incarnation, Instance};
    use proptest::prelude::{prop, prop_assert, prop_assert_eq, proptest};
    use std::time::Duration;

    const MIB: u64 = 1 << 20;

    fn register(workers: &mut Workers, id: u128, free_mib: u64, draining: bool) {
        let memory = Memory { arena_bytes: 1000 * MIB, held_bytes: 0, push_free_bytes: free_mib * MIB };
        let address = Address { name: id.to_string(), control: id.to_string(), ..Address::default() };
        let report = Report { memory, disks: Vec::new(), draining };
        let registration = Registration { worker: WorkerId(id), incarnation: Incarnation(1), address, report };
        workers.register(Duration::ZERO, registration).unwrap();
    }

    fn workers(free_mib: &[u64]) -> Workers {
        let mut workers = Workers::default();
        for (id, free_mib) in (1..).zip(free_mib) {
            register(&mut workers, id, *free_mib, false);
        }
        workers
    }

    fn request(locations: u32, exclude: &[u128]) -> PlaceRequest {
        let application = Application { name: "etl".to_owned(), instance: Instance(1) };
        let exclude = exclude.iter().copied().map(WorkerId).collect();
        PlaceRequest { application, locations, two_copies: false, on_disk: false, exclude }
    }

    fn ids(placement: &Placement) -> Vec<u128> {
        placement.picks.iter().map(|pick| placement.workers[*pick as usize].0).collect()
    }

    #[test]
    fn round_robin_goes_on_where_it_stopped() {
        let mut table = workers(&[10, 10, 10]);
        let mut turns = Turns::default();
        let mut place = |locations, exclude: &[u128]| {
            ids(&turns.place(&mut table, Strategy::RoundRobin, MIB, &request(locations, exclude)))
        };
        assert_eq!(place(2, &[]), [1, 2]);
        assert_eq!(place(5, &[]), [3, 1, 2, 3, 1]);
        assert_eq!(place(2, &[2]), [3, 1]);
    }

    #[test]
    fn single_locations_follow_the_free_memory_without_a_new_report() {
        let mut table = workers(&[10, 30, 60]);
        let mut turns = Turns::default();
        let mut given = BTreeMap::new();
        for _ in 0..1000 {
            let placement = turns.place(&mut table, Strategy::LoadAware, MIB, &request(1, &[]));
            *given.entry(ids(&placement)[0]).or_insert(0) += 1;
        }
        for (worker, expected) in [(1, 100), (2, 300), (3, 600)] {
            assert!(given[&worker] >= expected - 2 && given[&worker] <= expected + 2, "{given:?}");
        }
    }

    #[test]
    fn a_worker_that_was_away_has_nothing_to_catch_up_on() {
        let mut table = workers(&[10, 10, 10]);
        let mut turns = Turns::default();
        for _ in 0..100 {
            turns.place(&mut table, Strategy::LoadAware, MIB, &request(1, &[3]));
        }
        register(&mut table, 4, 10, false);
        let mut given = BTreeMap::new();
        for _ in 0..40 {
            let placement = turns.place(&mut table, Strategy::LoadAware, MIB, &request(1, &[]));
            *given.entry(ids(&placement)[0]).or_insert(0) += 1;
        }
        assert_eq!(given, BTreeMap::from([(1, 10), (2, 10), (3, 10), (4, 10)]));
    }

    #[test]
    fn a_worker_that_was_nearly_full_is_soon_given_something_again() {
        let mut table = workers(&[1, 1000, 1000]);
        let mut turns = Turns::default();
        turns.place(&mut table, Strategy::LoadAware, MIB, &request(300, &[]));
        table.get_mut(WorkerId(1)).unwrap().memory.push_free_bytes = 1000 * MIB;
        let placed = (0..30).map(|_| turns.place(&mut table, Strategy::LoadAware, MIB, &request(1, &[])));
        let given = placed.filter(|placement| ids(placement) == [1]).count();
        assert!((8..=12).contains(&given), "{given}");
    }

    #[test]
    fn nothing_is_placed_where_there_is_no_room_and_the_answer_says_how_full_it_is() {
        for strategy in [Strategy::RoundRobin, Strategy::LoadAware] {
            let mut table = workers(&[0, 5]);
            register(&mut table, 3, 10, true);
            let mut turns = Turns::default();
            let placement = turns.place(&mut table, strategy, 6 * MIB, &request(4, &[]));
            assert_eq!((placement.workers.len(), placement.picks.len()), (0, 0));
            assert_eq!(placement.memory.arena_bytes, 3000 * MIB);
            assert_eq!(ids(&turns.place(&mut table, strategy, 5 * MIB, &request(2, &[]))), [2, 2]);
            assert!(turns.place(&mut table, strategy, 5 * MIB, &request(2, &[2])).picks.is_empty());
        }
    }

    #[test]
    fn two_copies_one_at_a_time_are_spread_over_workers_and_roles() {
        for strategy in [Strategy::RoundRobin, Strategy::LoadAware] {
            let mut table = workers(&[10, 10, 10, 10]);
            let mut turns = Turns::default();
            let (mut led, mut kept) = (BTreeMap::new(), BTreeMap::new());
            for _ in 0..60 {
                let request = PlaceRequest { two_copies: true, ..request(1, &[]) };
                let placement = turns.place(&mut table, strategy, MIB, &request);
                let worker = |picks: &[u32]| placement.workers[picks[0] as usize].0;
                let (primary, replica) = (worker(&placement.picks), worker(&placement.replicas));
                assert_ne!(primary, replica);
                *led.entry(primary).or_insert(0) += 1;
                [primary, replica].into_iter().for_each(|worker| *kept.entry(worker).or_insert(0) += 1);
            }
            assert!(led.len() == 4 && led.values().all(|led| (14..=16).contains(led)), "{strategy:?}: {led:?}");
            let most = if strategy == Strategy::LoadAware { 31 } else { 60 };
            assert!(kept.values().all(|kept| *kept <= most), "{strategy:?}: {kept:?}");
        }
    }

    #[test]
    fn too_few_workers_or_disks_place_nothing_and_are_counted() {
        for strategy in [Strategy::RoundRobin, Strategy::LoadAware] {
            let mut table = workers(&[10, 10]);
            let mut turns = Turns::default();
            let mut place = |table: &mut Workers, two_copies, on_disk, exclude: &[u128]| {
                let request = PlaceRequest { two_copies, on_disk, ..request(3, exclude) };
                let found = turns.place(table, strategy, MIB, &request);
                (found.picks.len(), found.replicas.len(), found.candidates, found.without_disk)
            };
            assert_eq!(place(&mut table, true, false, &[]), (3, 3, 2, 0));
            assert_eq!(place(&mut table, true, false, &[2]), (0, 0, 1, 0));
            assert_eq!(place(&mut table, false, true, &[]), (0, 0, 0, 2));
            let disk = |health| Disk { path: "/data".to_owned(), health, capacity_bytes: 9, free_bytes: 9 };
            table.get_mut(WorkerId(1)).unwrap().disks = vec![disk(DiskHealth::Failed), disk(DiskHealth::Healthy)];
            table.get_mut(WorkerId(2)).unwrap().disks = vec![disk(DiskHealth::Full), disk(DiskHealth::Slow)];
            assert_eq!(place(&mut table, false, true, &[]), (3, 0, 1, 1));
            assert_eq!(place(&mut table, true, true, &[]), (0, 0, 1, 1));
        }
    }

    proptest! {
        #[test]
        fn a_request_is_spread_and_no_worker_gets_more_than_its_share(
            weights in prop::collection::vec(1u64..1_000_000_000_000, 1..40),
            locations in 1u32..2000,
        ) {
            let picks = load_aware(&weights, locations);
            prop_assert_eq!(picks.len(), locations as usize);
            let mut given = vec![0u64; weights.len()];
            for pick in picks {
                given[pick as usize] += 1;
            }
            let total: u128 = weights.iter().map(|weight| u128::from(*weight)).sum();
            for (given, weight) in given.into_iter().zip(&weights) {
                let share = (u128::from(locations) * u128::from(*weight)).div_ceil(total);
                prop_assert!(u128::from(given) <= share.max(1));
                prop_assert!(given >= 1 || (locations as usize) < weights.len());
            }
        }
    }
}
