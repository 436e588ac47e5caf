//! Random interleavings of everything that callers, workers and time can do, compared step by step with the model; and
//! what must hold whatever the model says.

use std::collections::BTreeMap;

use mallorn_proto::id::{Epoch, ShuffleId};
use proptest::prelude::*;

use super::model::{Event, Fate, Life, Model};
use super::*;
use crate::lifecycle::{AttemptError, LookupError, NoSpace, SealedAt, Stage};

const PARTITIONS: u32 = 3;
const MAPS: u32 = 2;

#[derive(Clone, Debug)]
enum Step {
    Start(AttemptKey),
    Renew(AttemptKey),
    Fail(AttemptKey),
    FailByName(AttemptName),
    Page(AttemptKey, u32, Vec<(Partition, BatchSum)>),
    Finish(AttemptKey, Token),
    Locate(Partition),
    Revive(AttemptKey, Partition, u32),
    /// Places one of those that are wanted.
    Place(usize, WorkerId),
    /// Comes too late, or twice.
    PlacedStale(usize, WorkerId),
    NotPlaced(Partition, NoSpace),
    Commit(u32, u32),
    /// A worker answers one of the freezes under way.
    Freeze(usize, u64),
    /// Any answer about any location, of this generation or an older one.
    FrozenStale(usize, u64),
    /// A worker takes one of the seals under way.
    Seal(usize),
    SealedStale(usize),
    Failed(usize),
    Strike(usize),
    Wait(u64),
    /// So many expiries on time.
    Expire(u32),
    /// One expiry, late.
    ExpireLate(u64),
    NextGeneration(u32),
}

fn a_key() -> impl Strategy<Value = AttemptKey> {
    let nonce = prop_oneof![9 => Just(0), 1 => Just(1u64)];
    (0..MAPS, 0..3u32, nonce).prop_map(|(map, attempt, nonce)| AttemptKey { name: name(map, attempt), nonce })
}

fn a_partition() -> impl Strategy<Value = Partition> {
    prop_oneof![30 => 0..PARTITIONS, 1 => Just(PARTITIONS)].prop_map(Partition)
}

fn a_page() -> impl Strategy<Value = Vec<(Partition, BatchSum)>> {
    let rising = prop::collection::btree_map(0..PARTITIONS, 0..5u64, 0..3).prop_map(|sums| sums.into_iter().collect());
    let any = prop::collection::vec((0..=PARTITIONS, 1..5u64), 1..3);
    let page = prop_oneof![6 => rising, 1 => any];
    page.prop_map(|sums: Vec<_>| sums.into_iter().map(|(partition, n)| (Partition(partition), sum(n))).collect())
}

fn of_an_attempt() -> impl Strategy<Value = Step> {
    let full = (0..9u64).prop_map(|held_bytes| NoSpace { arena_bytes: 9, held_bytes });
    prop_oneof![
        12 => a_key().prop_map(Step::Start),
        3 => a_key().prop_map(Step::Renew),
        1 => a_key().prop_map(Step::Fail),
        1 => a_key().prop_map(|key| Step::FailByName(key.name)),
        8 => (a_key(), prop_oneof![4 => Just(0), 1 => 0..3u32], a_page()).prop_map(|(k, n, page)| Step::Page(k, n, page)),
        10 => (a_key(), 0..4u64).prop_map(|(key, token)| Step::Finish(key, Token(token))),
        3 => a_partition().prop_map(Step::Locate),
        14 => (a_key(), a_partition(), prop_oneof![6 => 0..2u32, 1 => 2..5u32]).prop_map(|(key, p, epoch)| Step::Revive(key, p, epoch)),
        2 => (a_partition(), full).prop_map(|(partition, full)| Step::NotPlaced(partition, full)),
    ]
}

fn of_the_world() -> impl Strategy<Value = Step> {
    let worker = || (1..4u128).prop_map(WorkerId);
    prop_oneof![
        12 => (any::<usize>(), worker()).prop_map(|(pick, worker)| Step::Place(pick, worker)),
        1 => (any::<usize>(), worker()).prop_map(|(pick, worker)| Step::PlacedStale(pick, worker)),
        2 => (0..PARTITIONS, 0..=PARTITIONS + 1).prop_map(|(start, end)| Step::Commit(start, end)),
        8 => (any::<usize>(), 0..3u64).prop_map(|(pick, length)| Step::Freeze(pick, length)),
        3 => (any::<usize>(), 0..3u64).prop_map(|(pick, length)| Step::FrozenStale(pick, length)),
        8 => any::<usize>().prop_map(Step::Seal),
        3 => any::<usize>().prop_map(Step::SealedStale),
        1 => any::<usize>().prop_map(Step::Failed),
        1 => any::<usize>().prop_map(Step::Strike),
        2 => (0..3_000u64).prop_map(Step::Wait),
        2 => prop_oneof![3 => 1..3u32, 1 => 8..12u32].prop_map(Step::Expire),
        1 => (1_000..30_000u64).prop_map(Step::ExpireLate),
        1 => (0..3u32).prop_map(Step::NextGeneration),
    ]
}

/// The lifecycle manager, the model, and what the outside has seen of it in the current generation.
struct Run {
    lifecycle: Lifecycle,
    model: Model,
    generation: u32,
    now: Duration,
    expired: Option<Duration>,
    /// Drawn anew for every freeze, as the shell does.
    seals: u64,
    handles: u64,
    /// Locations of all generations, for answers that come late.
    ever: Vec<LocationId>,
    /// Per map, the winner that somebody was told.
    winners: BTreeMap<u32, (AttemptName, Token)>,
    /// What workers have sealed.
    workers: BTreeMap<LocationId, (SealId, u64)>,
    /// The acked length that the first freeze of a location was answered with.
    acked: BTreeMap<LocationId, u64>,
}

impl Run {
    fn new(maps: Option<u32>) -> Self {
        Self {
            lifecycle: lifecycle(PARTITIONS, maps),
            model: Model::new(maps, PARTITIONS, None),
            generation: 0,
            now: START,
            expired: None,
            seals: 0,
            handles: 0,
            ever: Vec::new(),
            winners: BTreeMap::new(),
            workers: BTreeMap::new(),
            acked: BTreeMap::new(),
        }
    }

    fn step(&mut self, step: &Step) {
        let now = self.now;
        let (state, model) = (self.lifecycle.current(SHUFFLE).unwrap().1, &mut self.model);
        match step {
            Step::Start(key) => assert_eq!(state.start_attempt(*key, now), model.start(*key, now)),
            Step::Renew(key) => assert_eq!(state.renew_attempt(*key, now), model.renew(*key, now)),
            Step::Fail(key) => {
                assert_eq!(state.attempt_failed(*key), model.find(*key).map(drop));
                if model.find(*key).is_ok() {
                    model.kill(key.name);
                }
            }
            Step::FailByName(name) => {
                state.fail_attempt(*name);
                model.kill(*name);
            }
            Step::Page(key, page, sums) => {
                assert_eq!(state.stage_page(*key, *page, sums), model.page(*key, *page, sums));
            }
            Step::Finish(key, token) => self.finish(*key, *token),
            Step::Locate(partition) => assert_eq!(state.locate(*partition), model.locate(*partition)),
            Step::Revive(key, partition, epoch) => {
                let placed = !model.of(*partition).is_empty();
                let answer = state.revive(*key, *partition, Epoch(*epoch));
                assert_eq!(answer, model.revive(*key, *partition, *epoch));
                if let Ok(Revived::Open(open)) = answer {
                    assert!(!placed || open.location.epoch.0 > *epoch, "a refused epoch is handed out again");
                }
            }
            Step::NotPlaced(partition, full) => {
                state.not_placed(*partition, *full);
                if model.wanted().contains(partition) {
                    model.log.push(Event::NoSpace(*partition, *full));
                }
            }
            Step::Wait(ms) => self.now += Duration::from_millis(*ms),
            Step::Expire(ticks) => (0..*ticks).for_each(|_| self.expire(LEASE / 10)),
            Step::ExpireLate(ms) => self.expire(Duration::from_millis(*ms)),
            Step::NextGeneration(seen) => self.next_generation(*seen),
            Step::Commit(start, end) => {
                state.commit(*start..*end);
                model.commit(&(*start..*end));
            }
            Step::Place(..)
            | Step::PlacedStale(..)
            | Step::Freeze(..)
            | Step::FrozenStale(..)
            | Step::Seal(_)
            | Step::SealedStale(_)
            | Step::Failed(_)
            | Step::Strike(_) => self.answer_of_a_worker(step),
        }
    }

    fn answer_of_a_worker(&mut self, step: &Step) {
        let any = |pick: usize| (!self.ever.is_empty()).then(|| self.ever[pick % self.ever.len()]);
        let state = self.lifecycle.current(SHUFFLE).unwrap().1;
        match step {
            Step::Place(pick, worker) => {
                let wanted = state.wanted(usize::MAX);
                if !wanted.is_empty() {
                    self.placed(wanted[pick % wanted.len()], *worker);
                }
            }
            Step::PlacedStale(pick, worker) => {
                if let Some(location) = any(*pick) {
                    state.placed(location, *worker, Handle(u64::MAX));
                }
            }
            Step::Freeze(pick, length) => {
                let under_way = state.to_freeze();
                if !under_way.is_empty() {
                    self.frozen(under_way[pick % under_way.len()].0, *length);
                }
            }
            Step::FrozenStale(pick, length) => any(*pick).into_iter().for_each(|of| self.frozen(of, *length)),
            Step::Seal(pick) => {
                let under_way = state.to_seal();
                if !under_way.is_empty() {
                    self.seal(under_way[pick % under_way.len()]);
                }
            }
            Step::SealedStale(pick) => any(*pick).into_iter().for_each(|of| self.sealed(of)),
            Step::Failed(pick) => any(*pick).into_iter().for_each(|of| self.failed(of)),
            Step::Strike(pick) => {
                if let Some(location) = any(*pick) {
                    state.strike(location);
                    if self.model.maps.is_none() && self.model.life(location) == Some(Life::Sealed) {
                        self.model.log.push(Event::Failed(location));
                    }
                }
            }
            step => unreachable!("{step:?} is no worker's"),
        }
    }

    fn finish(&mut self, key: AttemptKey, token: Token) {
        let state = self.lifecycle.current(SHUFFLE).unwrap().1;
        let was_dead = self.model.find(key) == Ok(Fate::Dead);
        let ended = state.finish_attempt(key, token);
        assert_eq!(ended, self.model.finish(key, token));
        assert_eq!(matches!(ended, Err(AttemptError::Dead { .. })), was_dead, "a dead attempt ends");
        assert_eq!(state.finish_attempt(key, Token(99)).map(|again| (again.token, again.won)), {
            ended.map(|ended| (ended.token, ended.won))
        });
    }

    fn expire(&mut self, after: Duration) {
        self.now += after;
        self.expired = Some(self.now);
        assert_eq!(self.lifecycle.expire(self.now), self.model.expire(self.now));
    }

    fn placed(&mut self, location: LocationId, worker: WorkerId) {
        self.handles += 1;
        let handle = Handle(self.handles);
        self.lifecycle.current(SHUFFLE).unwrap().1.placed(location, worker, handle);
        self.model.log.push(Event::Placed(location, worker, handle));
        assert!(!self.ever.contains(&location), "one location is placed twice");
        self.ever.push(location);
    }

    fn frozen(&mut self, location: LocationId, length: u64) {
        self.seals += 1;
        let seal = SealId(self.seals);
        if self.model.life(location) == Some(Life::Freezing) {
            self.model.log.push(Event::Fixed(location, seal, length));
            self.acked.insert(location, length);
        }
        self.lifecycle.current(SHUFFLE).unwrap().1.frozen(location, length, seal);
    }

    /// As a worker does it: one pair for a location, for good.
    fn seal(&mut self, sealed: SealedAt) {
        let pair = (sealed.seal, sealed.length);
        let earlier = *self.workers.entry(sealed.location).or_insert(pair);
        assert_eq!(earlier, pair, "one location is sealed under two pairs");
        self.sealed(sealed.location);
    }

    fn sealed(&mut self, location: LocationId) {
        if self.model.life(location) == Some(Life::Fixed) {
            self.model.log.push(Event::Sealed(location));
        }
        self.lifecycle.current(SHUFFLE).unwrap().1.sealed(location);
    }

    fn failed(&mut self, location: LocationId) {
        if matches!(self.model.life(location), Some(Life::Freezing | Life::Fixed)) {
            self.model.log.push(Event::Failed(location));
        }
        self.lifecycle.current(SHUFFLE).unwrap().1.failed(location, "gone");
    }

    fn next_generation(&mut self, seen: u32) {
        let answer = self.lifecycle.next_generation(SHUFFLE, Generation(seen));
        if self.model.maps.is_none() && seen == self.generation {
            assert_eq!(answer, Err(LookupError::OneGeneration { shuffle: SHUFFLE }));
            return;
        }
        let current = answer.unwrap();
        assert_eq!(current.started, seen == self.generation);
        if current.started {
            self.generation += 1;
            self.model = Model::new(self.model.maps, PARTITIONS, self.expired);
            self.winners.clear();
        }
        assert_eq!(current.generation.0, self.generation);
    }

    /// What must hold after every step.
    fn check(&mut self) {
        let current = Generation(self.generation);
        for old in (0..self.generation).map(Generation) {
            let fenced = LookupError::Fenced { shuffle: SHUFFLE, generation: old, current };
            assert_eq!(self.lifecycle.generation(SHUFFLE, old).err(), Some(fenced));
        }
        let state = self.lifecycle.generation(SHUFFLE, current).unwrap();
        check_attempts(state, &self.model, &mut self.winners);
        for partition in (0..PARTITIONS).map(Partition) {
            assert_eq!(state.answer(partition), self.model.answer(partition));
            check_plan(state, &self.model, partition);
        }
        let wanted = state.wanted(usize::MAX);
        assert!(wanted.iter().map(|location| location.partition).eq(self.model.wanted()));
        assert!(wanted.iter().all(|location| location.shuffle == state.wire() && !self.ever.contains(location)));
        let freezing = self.model.in_life(Life::Freezing);
        assert!(state.to_freeze().into_iter().eq(freezing.iter().map(|open| (open.location, open.worker))));
        let to_seal = state.to_seal();
        let fixed = self.model.in_life(Life::Fixed);
        assert!(to_seal.iter().map(|sealed| sealed.location).eq(fixed.iter().map(|open| open.location)));
        for sealed in to_seal.into_iter().chain((0..PARTITIONS).flat_map(|p| state.plan(Partition(p)).locations)) {
            let SealedAt { location, worker, seal, length } = sealed;
            assert_eq!(Some((seal, length)), self.model.pair(location), "a pair changes");
            assert_eq!(length, self.acked[&location], "an acked length changes");
            assert!(self.model.locations().iter().any(|open| (open.location, open.worker) == (location, worker)));
        }
        for range in [0..1, 1..PARTITIONS, 0..PARTITIONS] {
            let open = freezing.iter().chain(&fixed).any(|open| range.contains(&open.location.partition.0));
            assert_eq!(state.is_committed(&range), !open, "{range:?}");
        }
    }

    /// Everything that is under way comes to its end: the stage ends, and is committed.
    fn heal(&mut self) {
        for map in 0..MAPS {
            self.step(&Step::Start(AttemptKey { name: name(map, 90), nonce: 5 }));
            self.step(&Step::Finish(AttemptKey { name: name(map, 90), nonce: 5 }, Token(1000)));
        }
        self.step(&Step::Commit(0, PARTITIONS));
        for _ in 0..self.ever.len() {
            self.step(&Step::Freeze(0, 1));
            self.step(&Step::Seal(0));
        }
        self.check();
        let state = self.lifecycle.current(SHUFFLE).unwrap().1;
        assert!(state.is_committed(&(0..PARTITIONS)));
        assert_eq!(state.stage() == Stage::Ended, state.maps().is_some());
        let lost = |partition: &u32| state.plan(Partition(*partition)).lost.is_some();
        let failed = self.model.in_life(Life::Failed);
        let failed = |partition: &u32| failed.iter().any(|open| open.location.partition.0 == *partition);
        assert!((0..PARTITIONS).all(|p| lost(&p) == (failed(&p) && state.maps().is_some())));
    }
}

fn check_attempts(state: &GenerationState, model: &Model, told: &mut BTreeMap<u32, (AttemptName, Token)>) {
    let readable = model.readable();
    let tokens: Vec<_> = readable.values().copied().collect();
    if model.maps.is_some() {
        let winners: Vec<_> = state.winners(0..MAPS).collect();
        assert!(winners.iter().map(|winner| (winner.name, winner.token)).eq(readable.clone()));
        for winner in winners {
            let now = (winner.name, winner.token);
            assert_eq!(*told.entry(winner.name.map.0).or_insert(now), now, "a winner changes");
            assert_ne!(model.fate(winner.name), Fate::Dead, "a dead attempt has won");
        }
        assert!(told.len() == readable.len(), "a winner is forgotten");
        assert_eq!(state.by_tokens(&tokens).unwrap().len(), tokens.len());
    }
    for (name, token) in readable {
        let named = state.by_tokens(&[token]).unwrap()[0];
        let touched = model.pages(name).into_iter().flatten().map(|(partition, _)| partition.0);
        assert_eq!(named.name, name);
        assert!(named.touched.iter().eq(touched));
    }
    let stage = if model.stage_ended() { Stage::Ended } else { Stage::Running };
    assert_eq!(state.stage(), stage);
}

/// Every epoch that ever was is listed once, is empty, or is a loss, once the stage has ended.
fn check_plan(state: &GenerationState, model: &Model, partition: Partition) {
    let plan = state.plan(partition);
    let listed: Vec<_> = plan.locations.iter().map(|sealed| sealed.location).collect();
    assert!(listed.windows(2).all(|pair| pair[0].epoch < pair[1].epoch));
    assert_eq!(plan.sum, model.maps.map(|_| model.sum(partition)));
    let mut lost = false;
    for open in model.of(partition) {
        let life = model.life(open.location).unwrap();
        let empty = model.pair(open.location).is_some_and(|(_, length)| length == 0);
        assert_eq!(listed.contains(&open.location), life == Life::Sealed && !empty);
        let uncommitted = model.stage_ended() && life != Life::Sealed;
        lost |= uncommitted || (model.maps.is_some() && life == Life::Failed);
    }
    assert_eq!(plan.lost.is_some(), lost, "{partition:?}");
    assert!(listed.iter().all(|location| location.shuffle == state.wire()));
    assert!(listed.len() <= model.of(partition).len());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn the_manager_does_as_the_model(
        counted in prop::bool::weighted(0.7),
        steps in prop::collection::vec(prop_oneof![of_an_attempt(), of_the_world()], 0..200),
    ) {
        let mut run = Run::new(counted.then_some(MAPS));
        assert_eq!(state(&mut run.lifecycle).wire(), ShuffleId(0));
        for step in &steps {
            run.step(step);
            run.check();
        }
        run.heal();
    }
}
