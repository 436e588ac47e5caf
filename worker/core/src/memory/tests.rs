use proptest::prelude::*;

use super::*;

const MIB: u64 = 1024 * 1024;
const BODY: u32 = 1024 * 1024 + 4096;

fn pool() -> impl Strategy<Value = Pool> {
    prop::sample::select(&Pool::ALL[..])
}

#[derive(Clone, Debug)]
enum Step {
    Take(Pool, u64, u64),
    Give(prop::sample::Index),
    Cut(prop::sample::Index, u64),
    Charge(Pool, u64),
    Refund(prop::sample::Index),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (pool(), 1..2 * MIB, 1..MIB).prop_map(|(pool, wanted, least)| Step::Take(pool, wanted, least)),
        2 => any::<prop::sample::Index>().prop_map(Step::Give),
        1 => (any::<prop::sample::Index>(), 0..MIB).prop_map(|(pick, bytes)| Step::Cut(pick, bytes)),
        1 => (pool(), 0..3 * MIB).prop_map(|(pool, bytes)| Step::Charge(pool, bytes)),
        1 => any::<prop::sample::Index>().prop_map(Step::Refund),
    ]
}

/// The ledger beside a list of what is held.
struct Model {
    ledger: Ledger,
    slots: Vec<(Pool, Slot)>,
    charges: Vec<(Pool, u64)>,
}

impl Model {
    fn held(&self, pool: Pool) -> u64 {
        let slots: u64 = self.slots.iter().filter(|(of, _)| *of == pool).map(|(_, slot)| slot.bytes()).sum();
        slots + self.charges.iter().filter(|(of, _)| *of == pool).map(|(_, bytes)| bytes).sum::<u64>()
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Take(pool, wanted, least) => {
                if let Some(slot) = self.ledger.take(pool, wanted, least) {
                    assert!(slot.bytes() >= least.min(SLOT_BYTES_MAX));
                    self.slots.push((pool, slot));
                }
            }
            Step::Charge(pool, bytes) => {
                if self.ledger.charge(pool, bytes) {
                    self.charges.push((pool, bytes));
                }
            }
            Step::Give(pick) if !self.slots.is_empty() => {
                let (pool, slot) = self.slots.swap_remove(pick.index(self.slots.len()));
                self.ledger.give(pool, slot);
            }
            Step::Cut(pick, bytes) if !self.slots.is_empty() => {
                let at = pick.index(self.slots.len());
                let (pool, slot) = self.slots[at];
                self.slots[at].1 = self.ledger.cut(pool, slot, bytes);
                assert!(self.slots[at].1.bytes() >= bytes.min(slot.bytes()));
            }
            Step::Refund(pick) if !self.charges.is_empty() => {
                let (pool, bytes) = self.charges.swap_remove(pick.index(self.charges.len()));
                self.ledger.refund(pool, bytes);
            }
            Step::Give(_) | Step::Cut(..) | Step::Refund(_) => {}
        }
    }

    fn check(&self) {
        let usage = self.ledger.usage();
        assert_eq!(usage.held_bytes, Pool::ALL.map(|pool| self.held(pool)));
        assert!(usage.held_total_bytes() <= usage.budget_bytes);
        assert!(usage.grown_bytes <= usage.budget_bytes);
        let mut places: Vec<_> = self.slots.iter().map(|(_, slot)| (slot.offset(), slot.bytes())).collect();
        places.sort_unstable();
        assert!(places.windows(2).all(|pair| pair[0].0 + pair[0].1 <= pair[1].0), "slots overlap");
        assert!(places.last().is_none_or(|(offset, bytes)| offset + bytes <= usage.budget_bytes));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn slots_never_overlap_nothing_leaks_and_all_comes_back(steps in prop::collection::vec(step(), 0..300)) {
        let ledger = Ledger::new(20 * MIB, BODY).unwrap();
        let mut model = Model { ledger, slots: Vec::new(), charges: Vec::new() };
        for step in steps {
            model.step(step);
            model.check();
        }
        for (pool, slot) in model.slots.drain(..) {
            model.ledger.give(pool, slot);
        }
        for (pool, bytes) in model.charges.drain(..) {
            model.ledger.refund(pool, bytes);
        }
        prop_assert_eq!(model.ledger.usage().held_total_bytes(), 0);
        let whole = std::iter::from_fn(|| model.ledger.take(Pool::Push, MIB, MIB)).count() as u64;
        prop_assert_eq!(whole, (20 * MIB - 2 * MIB - 2 * u64::from(BODY)) / MIB, "free slots join to whole ones");
    }

    #[test]
    fn a_pool_always_gets_one_maximal_body(greedy in pool(), other in pool(), grain in 1..MIB) {
        prop_assume!(greedy != other);
        let mut ledger = Ledger::new(16 * MIB, BODY).unwrap();
        while ledger.take(greedy, grain, 1).is_some() {}
        let mut got = 0;
        while got < u64::from(BODY) {
            let slot = ledger.take(other, u64::from(BODY) - got, 1);
            prop_assert!(slot.is_some(), "{} bytes of a body found room", got);
            got += slot.map_or(0, Slot::bytes);
        }
    }

    #[test]
    fn receive_always_finds_whole_buffers(grain in 1..MIB) {
        let mut ledger = Ledger::new(16 * MIB, BODY).unwrap();
        let mut held: Vec<_> = std::iter::from_fn(|| ledger.take(Pool::Push, grain, 1)).collect();
        for (_, slot) in held.drain(..).enumerate().filter(|(index, _)| index % 2 == 0) {
            ledger.give(Pool::Push, slot);
        }
        for _ in 0..8 {
            prop_assert!(ledger.take(Pool::Receive, MIB / 4, MIB / 4).is_some());
        }
    }

    #[test]
    fn unused_room_stays_under_a_quarter(batches in prop::collection::vec(1u64..300_000, 1..200)) {
        let (mut held, mut used, mut room) = (0, 0, 0);
        for batch in batches {
            used += batch;
            let mut remaining = batch.saturating_sub(room);
            room = room.saturating_sub(batch);
            while remaining > 0 {
                let slot = next_slot_bytes(held, remaining);
                prop_assert!(slot.is_power_of_two() && (SLOT_BYTES_MIN..=SLOT_BYTES_MAX).contains(&slot));
                held += slot;
                room = slot.saturating_sub(remaining);
                remaining = remaining.saturating_sub(slot);
            }
            prop_assert_eq!(held - used, room);
            prop_assert!(room <= (held / 4).max(SLOT_BYTES_MIN));
        }
    }
}

#[test]
fn a_scattered_arena_gives_smaller_slots() {
    let mut ledger = Ledger::new(16 * MIB, BODY).unwrap();
    let held: Vec<_> = std::iter::from_fn(|| ledger.take(Pool::Push, 4096, 4096)).collect();
    for pool in [Pool::Replicate, Pool::Read] {
        while ledger.take(pool, 4096, 4096).is_some() {}
    }
    for slot in held.iter().step_by(2) {
        ledger.give(Pool::Push, *slot);
    }
    assert_eq!(ledger.take(Pool::Push, 2 * MIB, 8192), None);
    assert_eq!(ledger.take(Pool::Push, 2 * MIB, 4096).map(Slot::bytes), Some(4096));
}

#[test]
fn a_budget_that_cannot_work_is_refused_and_says_what_to_set() {
    let error = Ledger::new(1024, BODY).unwrap_err();
    assert!(error.to_string().contains("set `worker.memory` to at least 16777216 bytes"), "{error}");
    let error = Ledger::new(16 * MIB, 4 * 1024 * 1024).unwrap_err();
    let BudgetError::PushPool { wanted_bytes, .. } = error else { panic!("{error}") };
    assert!(Ledger::new(wanted_bytes - MIB, 4 * 1024 * 1024).is_err());
    assert!(Ledger::new(wanted_bytes, 4 * 1024 * 1024).is_ok());
    assert!(Ledger::new(BUDGET_BYTES_MIN, BODY).is_ok());
}

#[test]
fn no_pool_takes_more_than_its_limit() {
    let limits = [16 * MIB - 2 * MIB - 2 * u64::from(BODY), 8 * MIB, 4 * MIB, 4 * MIB];
    for (pool, limit) in Pool::ALL.into_iter().zip(limits) {
        let mut ledger = Ledger::new(16 * MIB, BODY).unwrap();
        while ledger.take(pool, 4096, 4096).is_some() {}
        assert_eq!(ledger.usage().held_total_bytes(), limit - limit % 4096, "{}", pool.name());
    }
}

#[test]
fn a_budget_is_rounded_down_to_whole_slots() {
    assert_eq!(Ledger::new(17 * MIB - 1, BODY).unwrap().budget_bytes(), 16 * MIB);
}
