//! Random interleavings of everything that callers, workers and time can do, compared step by step with the model; and
//! what must hold whatever the model says.

use std::collections::BTreeMap;

use mallorn_proto::id::{Epoch, ShuffleId};
use proptest::prelude::*;

use super::model::{Copy, Event, Fate, Life, Model};
use super::*;
use crate::lifecycle::{AttemptError, Holding, LookupError, Missing, NoSpace, SealedAt, Stage};

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
    Revive(AttemptKey, Partition, u32, Replacing),
    /// Places one of those that are wanted.
    Place(usize, WorkerId),
    Abandon(usize, WorkerId),
    /// Comes too late, or twice.
    PlacedStale(usize, WorkerId),
    NotPlaced(Partition, NoSpace),
    Commit(u32, u32),
    /// What was replaced after a soft split has rested, or not.
    Rest,
    /// A worker is asked for all that is due.
    Ask(WorkerId),
    /// One of the calls under way is answered.
    Answer(usize, Answer),
    /// Any answer about any location, of this generation or an older one, by any worker.
    Stale(usize, WorkerId, bool, Answer),
    /// A reader did not find a location.
    Report(usize, WorkerId),
    Strike(usize),
    Wait(u64),
    /// So many expiries on time.
    Expire(u32),
    /// One expiry, late.
    ExpireLate(u64),
    NextGeneration(u32),
}

#[derive(Clone, Copy, Debug)]
enum Answer {
    /// It is done; to a freeze with this length, unless the copy has told another one before.
    Done(u64),
    /// The call has come to nothing.
    Nothing,
    Failed(CopyFailure),
    /// For as long as a reader would wait.
    NotDurable,
    Moved(WorkerId),
}

/// A call under way to a worker; a seal with its pair and what was asked for.
#[derive(Clone, Copy, Debug)]
struct Call {
    location: LocationId,
    worker: WorkerId,
    seal: Option<(SealId, u64, Durability)>,
}

fn a_worker() -> impl Strategy<Value = WorkerId> {
    (1..5u128).prop_map(WorkerId)
}

fn an_answer() -> impl Strategy<Value = Answer> {
    let why = prop_oneof![
        2 => Just(CopyFailure::Unknown), 1 => Just(CopyFailure::Short), 1 => Just(CopyFailure::Conflict),
        3 => Just(CopyFailure::Gone),
    ];
    prop_oneof![
        8 => (0..4u64).prop_map(Answer::Done),
        4 => Just(Answer::Nothing),
        3 => why.prop_map(Answer::Failed),
        1 => Just(Answer::NotDurable),
        1 => a_worker().prop_map(Answer::Moved),
    ]
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
    let full = (0..9u64).prop_map(|held_bytes| NoSpace { arena_bytes: 9, held_bytes, missing: Missing::Memory });
    let why = prop_oneof![2 => Just(Replacing::Refused), 1 => Just(Replacing::Full)];
    prop_oneof![
        12 => a_key().prop_map(Step::Start),
        3 => a_key().prop_map(Step::Renew),
        1 => a_key().prop_map(Step::Fail),
        1 => a_key().prop_map(|key| Step::FailByName(key.name)),
        8 => (a_key(), prop_oneof![4 => Just(0), 1 => 0..3u32], a_page()).prop_map(|(k, n, page)| Step::Page(k, n, page)),
        10 => (a_key(), 0..4u64).prop_map(|(key, token)| Step::Finish(key, Token(token))),
        3 => a_partition().prop_map(Step::Locate),
        14 => (a_key(), a_partition(), prop_oneof![6 => 0..2u32, 1 => 2..5u32], why)
            .prop_map(|(key, p, epoch, why)| Step::Revive(key, p, epoch, why)),
        2 => (a_partition(), full).prop_map(|(partition, full)| Step::NotPlaced(partition, full)),
    ]
}

fn of_the_world() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => (any::<usize>(), a_worker()).prop_map(|(pick, worker)| Step::Place(pick, worker)),
        1 => (any::<usize>(), a_worker()).prop_map(|(pick, worker)| Step::Abandon(pick, worker)),
        1 => (any::<usize>(), a_worker()).prop_map(|(pick, worker)| Step::PlacedStale(pick, worker)),
        2 => (0..PARTITIONS, 0..=PARTITIONS + 1).prop_map(|(start, end)| Step::Commit(start, end)),
        1 => Just(Step::Rest),
        10 => a_worker().prop_map(Step::Ask),
        16 => (any::<usize>(), an_answer()).prop_map(|(pick, answer)| Step::Answer(pick, answer)),
        3 => (any::<usize>(), a_worker(), any::<bool>(), an_answer())
            .prop_map(|(pick, worker, is_seal, answer)| Step::Stale(pick, worker, is_seal, answer)),
        2 => (any::<usize>(), a_worker()).prop_map(|(pick, worker)| Step::Report(pick, worker)),
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
    protection: Protection,
    calls: Vec<Call>,
    /// The pair that was first told of a location.
    pairs: BTreeMap<LocationId, (SealId, u64)>,
    /// The acked length that a copy answers.
    held: BTreeMap<(LocationId, WorkerId), u64>,
}

impl Run {
    fn new(maps: Option<u32>, protection: Protection) -> Self {
        Self {
            lifecycle: protected(PARTITIONS, maps, protection),
            model: Model::new(maps, protection.durability, PARTITIONS, None),
            generation: 0,
            now: START,
            expired: None,
            seals: 0,
            handles: 0,
            ever: Vec::new(),
            winners: BTreeMap::new(),
            protection,
            calls: Vec::new(),
            pairs: BTreeMap::new(),
            held: BTreeMap::new(),
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
            Step::Revive(key, partition, epoch, why) => {
                let placed = !model.of(*partition).is_empty();
                let answer = state.revive(*key, *partition, Epoch(*epoch), *why);
                assert_eq!(answer, model.revive(*key, *partition, *epoch, *why));
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
            Step::Rest => {
                state.commit_rested(now);
                model.rest(now);
            }
            Step::Place(..) | Step::Abandon(..) | Step::PlacedStale(..) => self.placement(step),
            Step::Ask(worker) => self.ask(*worker),
            Step::Answer(pick, answer) => {
                if !self.calls.is_empty() {
                    let call = self.calls.swap_remove(pick % self.calls.len());
                    self.answer(call, *answer);
                }
            }
            Step::Stale(..) | Step::Report(..) | Step::Strike(_) => self.of_a_reader_or_nobody(step),
        }
    }

    fn any(&self, pick: usize) -> Option<LocationId> {
        (!self.ever.is_empty()).then(|| self.ever[pick % self.ever.len()])
    }

    fn placement(&mut self, step: &Step) {
        let state = self.lifecycle.current(SHUFFLE).unwrap().1;
        let wanted = state.wanted(usize::MAX);
        match step {
            Step::Place(pick, worker) if !wanted.is_empty() => self.placed(wanted[pick % wanted.len()], *worker),
            Step::Abandon(pick, worker) if !wanted.is_empty() => {
                let location = wanted[pick % wanted.len()];
                state.abandoned(location, *worker);
                self.model.log.push(Event::Abandoned(location));
                self.ever.push(location);
            }
            Step::PlacedStale(pick, worker) => {
                if let Some(location) = self.any(*pick) {
                    let state = self.lifecycle.current(SHUFFLE).unwrap().1;
                    state.placed(location, *worker, Handle(u64::MAX), None);
                }
            }
            _ => {}
        }
    }

    fn of_a_reader_or_nobody(&mut self, step: &Step) {
        let (Step::Stale(pick, ..) | Step::Report(pick, _) | Step::Strike(pick)) = step else { return };
        let Some(location) = self.any(*pick) else { return };
        let state = self.lifecycle.current(SHUFFLE).unwrap().1;
        match step {
            Step::Stale(_, worker, is_seal, answer) => {
                // Nobody seals what was not fixed, and only as it was.
                let pair = self.model.pair(location);
                let seal = pair.filter(|_| *is_seal).map(|(seal, length)| (seal, length, Durability::Memory));
                self.answer(Call { location, worker: *worker, seal }, *answer);
            }
            Step::Report(_, worker) => {
                state.reported(location, *worker);
                self.model.reported(location, *worker);
            }
            Step::Strike(_) => {
                state.strike(location);
                self.model.strike(location);
            }
            _ => {}
        }
    }

    /// Everything that is due at a worker is on its way.
    fn ask(&mut self, worker: WorkerId) {
        let due = self.lifecycle.current(SHUFFLE).unwrap().1.due(worker);
        let (freeze, seal) = self.model.due(worker);
        self.model.ask(worker);
        assert_eq!(due.freeze, freeze);
        assert!(due.seal.iter().map(|offer| (offer.location, offer.durability)).eq(seal));
        for location in due.freeze {
            self.calls.push(Call { location, worker, seal: None });
        }
        for SealOffer { location, seal, length, durability } in due.seal {
            let pair = *self.pairs.entry(location).or_insert((seal, length));
            assert_eq!(pair, (seal, length), "one location is sealed under two pairs");
            assert_eq!(Some(length), self.model.least_answer(location), "the least of the answers is the length");
            self.calls.push(Call { location, worker, seal: Some((seal, length, durability)) });
        }
    }

    fn answer(&mut self, call: Call, answer: Answer) {
        let (state, model) = (self.lifecycle.current(SHUFFLE).unwrap().1, &mut self.model);
        let Call { location, worker, seal } = call;
        match (answer, seal) {
            (Answer::Done(length), None) => {
                let length = *self.held.entry((location, worker)).or_insert(length);
                state.frozen(location, worker, length);
                model.frozen(location, worker, length);
            }
            (Answer::Done(_), Some((_, _, durability))) => {
                state.sealed(location, worker, durability);
                model.sealed(location, worker, durability);
            }
            (Answer::Nothing, _) => {
                let failed = model.copies(location).into_iter().filter(|(_, copy)| copy.is_failed()).count();
                state.missed(location, worker);
                model.missed(location, worker);
                let now = model.copies(location).into_iter().filter(|(_, copy)| copy.is_failed()).count();
                assert_eq!(failed, now, "a call that came to nothing fails no copy");
            }
            (Answer::Failed(why), _) => {
                state.failed(location, worker, why);
                model.failed(location, worker, why);
            }
            (Answer::NotDurable, _) => {
                state.not_durable(location, worker);
                model.not_durable(location, worker);
            }
            (Answer::Moved(to), _) => {
                state.moved(location, worker, to);
                model.moved(location, worker, to);
            }
        }
        self.seals += 1;
        state.fix(location, SealId(self.seals));
        model.fix(location, SealId(self.seals));
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
        let replica = (self.protection.copies == 2).then_some(WorkerId(worker.0 % 4 + 1));
        self.lifecycle.current(SHUFFLE).unwrap().1.placed(location, worker, handle, replica);
        self.model.placed(OpenAt { location, worker, handle }, replica);
        assert!(!self.ever.contains(&location), "one location is placed twice");
        self.ever.push(location);
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
            self.model = Model::new(self.model.maps, self.protection.durability, PARTITIONS, self.expired);
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
            for replaced in [None, Some(0), Some(1)] {
                assert_eq!(state.answer(partition, replaced.map(Epoch)), self.model.answer(partition, replaced));
            }
            check_plan(state, &self.model, partition);
        }
        let wanted = state.wanted(usize::MAX);
        assert!(wanted.iter().map(|location| location.partition).eq(self.model.wanted()));
        assert!(wanted.iter().all(|location| location.shuffle == state.wire() && !self.ever.contains(location)));
        check_copies(state, &self.model, &self.pairs);
    }

    /// Everything that is under way comes to its end: the stage ends, and is committed.
    fn heal(&mut self) {
        for map in 0..MAPS {
            self.step(&Step::Start(AttemptKey { name: name(map, 90), nonce: 5 }));
            self.step(&Step::Finish(AttemptKey { name: name(map, 90), nonce: 5 }, Token(1000)));
        }
        self.step(&Step::Commit(0, PARTITIONS));
        // At most a freeze, a seal, and a seal again because the other copy was given up.
        for _ in 0..3 {
            (1..5).for_each(|worker| self.step(&Step::Ask(WorkerId(worker))));
            while !self.calls.is_empty() {
                self.step(&Step::Answer(0, Answer::Done(1)));
            }
        }
        assert_eq!(self.lifecycle.current(SHUFFLE).unwrap().1.due_workers().count(), 0);
        self.check();
        let state = self.lifecycle.current(SHUFFLE).unwrap().1;
        assert!(state.is_committed(&(0..PARTITIONS)));
        assert_eq!(state.stage() == Stage::Ended, state.maps().is_some());
        let lost = |partition: &u32| state.plan(Partition(*partition)).lost.is_some();
        let of = |partition: &u32| self.model.of(Partition(*partition));
        let failed = |partition: &u32| of(partition).iter().any(|open| self.model.is_lost(open.location));
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
        let is_good = model.is_good(open.location);
        let empty = model.pair(open.location).is_some_and(|(_, length)| length == 0);
        assert_eq!(listed.contains(&open.location), is_good && !empty);
        let uncommitted = model.stage_ended() && !is_good;
        lost |= uncommitted || (model.maps.is_some() && model.is_lost(open.location));
    }
    assert_eq!(plan.lost.is_some(), lost, "{partition:?}");
    assert!(listed.iter().all(|location| location.shuffle == state.wire()));
    assert!(listed.len() <= model.of(partition).len());
}

/// What is due to whom, what is committed, and where readers are sent.
fn check_copies(state: &GenerationState, model: &Model, pairs: &BTreeMap<LocationId, (SealId, u64)>) {
    let due = |worker: &WorkerId| model.due(*worker) != (Vec::new(), Vec::new());
    let mut due_workers: Vec<_> = state.due_workers().collect();
    due_workers.sort();
    assert!(due_workers.into_iter().eq((1..5).map(WorkerId).filter(due)));
    assert_eq!(state.is_resting(), !model.in_life(Life::Replaced).is_empty());
    let all: Vec<_> = [Life::Freezing, Life::Fixed].into_iter().flat_map(|life| model.in_life(life)).collect();
    let is_open = |open: &&OpenAt| !model.is_good(open.location) && !model.is_lost(open.location);
    for range in [0..1, 1..PARTITIONS, 0..PARTITIONS] {
        let open = all.iter().filter(is_open).any(|open| range.contains(&open.location.partition.0));
        assert_eq!(state.is_committed(&range), !open, "{range:?}");
    }
    let mut degraded = 0;
    for open in &all {
        let copies = model.copies(open.location);
        let good = copies.iter().filter(|(_, copy)| copy.is_good()).count();
        let missing = copies.iter().filter(|(_, copy)| copy.is_missing()).count();
        degraded += usize::from((good, missing) == (1, 1));
        let holding = |(of, copy): &(WorkerId, Copy)| match copy {
            Copy::Failed(_) => None,
            Copy::Sealed => Some((*of, Holding::Sealed)),
            Copy::Again => Some((*of, Holding::Asked)),
            _ => Some((*of, Holding::Unsealed)),
        };
        let mut kept: Vec<_> = copies.iter().filter_map(holding).collect();
        kept.sort_by_key(|(_, holding)| *holding);
        assert_eq!(state.holders(open.location), Some(kept));
    }
    assert_eq!(state.degraded(), degraded);
    for sealed in (0..PARTITIONS).flat_map(|partition| state.plan(Partition(partition)).locations) {
        let SealedAt { location, worker, other, seal, length } = sealed;
        assert_eq!(Some((seal, length)), model.pair(location));
        assert!(pairs.get(&location).is_none_or(|pair| *pair == (seal, length)), "a pair changes");
        let mut good = model.copies(location);
        good.retain(|(_, copy)| copy.is_good());
        good.sort_by_key(|(_, copy)| *copy != Copy::Sealed);
        assert!(std::iter::once(worker).chain(other).eq(good.into_iter().map(|(of, _)| of)));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn the_manager_does_as_the_model(
        counted in prop::bool::weighted(0.7),
        copies in 1..3u32,
        durability in prop::sample::select(&Durability::ALL[..]),
        steps in prop::collection::vec(prop_oneof![of_an_attempt(), of_the_world()], 0..200),
    ) {
        let mut run = Run::new(counted.then_some(MAPS), Protection { copies, durability });
        assert_eq!(state(&mut run.lifecycle).wire(), ShuffleId(0));
        for step in &steps {
            run.step(step);
            run.check();
        }
        run.heal();
    }
}
