//! Hand-over: which worker has taken over the locations of one that leaves.
//!
//! Owns what the takers have said. Does not own who is believed (`workers`), nor which applications there are
//! (`applications`).
//!
//! Soft state: a worker says all that it has taken over whenever it registers. So what a worker said is forgotten when it
//! registers anew or is forgotten itself, and what nobody has said yet is simply not known. Whoever hands on what it has
//! taken over is passed over: a location's last taker is the answer for all who had it before.

use std::collections::BTreeMap;

use mallorn_proto::id::{Application, LocationId, ShuffleId, WorkerId};
use mallorn_proto::range_set::RangeSet;

/// Most locations that a master remembers as handed over (about 64 MiB). What is beyond is not known here, as after a
/// restart of the master; it is told again when its taker registers.
pub const HANDED_OVER_MAX: usize = 1 << 20;

/// Locations that a worker has taken over from another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TakenOver {
    /// Their application.
    pub application: Application,
    /// Who had them before.
    pub from: WorkerId,
    /// The locations.
    pub locations: Vec<LocationId>,
}

/// What was handed over.
#[derive(Debug, Default)]
pub(crate) struct Handovers {
    /// By application and by who had them, where its locations are now.
    takers: BTreeMap<Application, BTreeMap<WorkerId, BTreeMap<LocationId, WorkerId>>>,
    count: usize,
}

impl Handovers {
    /// A worker says what it has taken over; returns how much of it found no room.
    pub(crate) fn note(&mut self, taker: WorkerId, taken: &TakenOver) -> usize {
        let TakenOver { application, from, locations } = taken;
        let mut left = 0;
        let of_application = self.takers.entry(application.clone()).or_default();
        for location in locations {
            for (had, theirs) in &mut *of_application {
                // Whoever had it before the one that hands it on now, too; what has come home was never gone.
                if theirs.get(location) == Some(from) {
                    if *had == taker {
                        theirs.remove(location);
                        self.count -= 1;
                    } else {
                        theirs.insert(*location, taker);
                    }
                }
            }
            let theirs = of_application.entry(*from).or_default();
            if self.count >= HANDED_OVER_MAX && !theirs.contains_key(location) {
                left += 1;
            } else if theirs.insert(*location, taker).is_none() {
                self.count += 1;
            }
        }
        self.tidy();
        left
    }

    /// For each location that `from` had, who has it now.
    pub(crate) fn find(
        &self,
        application: &Application,
        from: WorkerId,
        locations: &[LocationId],
    ) -> Vec<Option<WorkerId>> {
        let theirs = self.takers.get(application).and_then(|takers| takers.get(&from));
        locations.iter().map(|location| theirs?.get(location).copied()).collect()
    }

    /// An application is over.
    pub(crate) fn forget_application(&mut self, application: &Application) {
        let forgotten = self.takers.remove(application);
        self.count -= forgotten.into_iter().flatten().map(|(_, theirs)| theirs.len()).sum::<usize>();
    }

    /// These shuffles of an application are released.
    pub(crate) fn forget_released(&mut self, application: &Application, released: &RangeSet) {
        let Some(takers) = self.takers.get_mut(application) else { return };
        let mut forgotten = 0;
        for theirs in takers.values_mut() {
            let before = theirs.len();
            theirs.retain(|LocationId { shuffle: ShuffleId(shuffle), .. }, _| !released.contains(*shuffle));
            forgotten += before - theirs.len();
        }
        self.count -= forgotten;
        self.tidy();
    }

    /// A worker is gone, or registers anew and will say again what it has.
    pub(crate) fn forget_taker(&mut self, taker: WorkerId) {
        let mut forgotten = 0;
        for theirs in self.takers.values_mut().flat_map(BTreeMap::values_mut) {
            let before = theirs.len();
            theirs.retain(|_, by| *by != taker);
            forgotten += before - theirs.len();
        }
        self.count -= forgotten;
        self.tidy();
    }

    /// How many locations are remembered.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    fn tidy(&mut self) {
        self.takers.retain(|_, takers| {
            takers.retain(|_, theirs| !theirs.is_empty());
            !takers.is_empty()
        });
    }
}

#[cfg(test)]
mod tests {
    use mallorn_proto::id::{Epoch, Instance, Partition};
    use proptest::prelude::{Just, Strategy, prop, prop_assert_eq, prop_oneof, proptest};

    use super::*;

    fn app(instance: u64) -> Application {
        Application { name: "etl".to_owned(), instance: Instance(instance) }
    }

    fn location(shuffle: u32, partition: u32) -> LocationId {
        LocationId { shuffle: ShuffleId(shuffle), partition: Partition(partition), epoch: Epoch(0) }
    }

    fn taken(instance: u64, from: u128, locations: &[(u32, u32)]) -> TakenOver {
        let locations = locations.iter().map(|(shuffle, partition)| location(*shuffle, *partition)).collect();
        TakenOver { application: app(instance), from: WorkerId(from), locations }
    }

    fn at(handovers: &Handovers, instance: u64, from: u128, shuffle: u32, partition: u32) -> Option<u128> {
        let found = handovers.find(&app(instance), WorkerId(from), &[location(shuffle, partition)]);
        found[0].map(|worker| worker.0)
    }

    #[test]
    fn what_is_handed_on_is_found_at_its_last_taker_by_all_who_had_it() {
        let mut handovers = Handovers::default();
        handovers.note(WorkerId(2), &taken(1, 1, &[(0, 0), (0, 1)]));
        handovers.note(WorkerId(3), &taken(1, 2, &[(0, 0)]));
        assert_eq!([1, 2].map(|from| at(&handovers, 1, from, 0, 0)), [Some(3), Some(3)]);
        assert_eq!((at(&handovers, 1, 1, 0, 1), at(&handovers, 1, 2, 0, 1)), (Some(2), None));
        assert_eq!((at(&handovers, 2, 1, 0, 0), at(&handovers, 1, 1, 0, 2)), (None, None));
        // It comes home: whoever looks for it there finds it there.
        handovers.note(WorkerId(1), &taken(1, 3, &[(0, 0)]));
        assert_eq!((at(&handovers, 1, 1, 0, 0), at(&handovers, 1, 2, 0, 0)), (None, Some(1)));
    }

    #[test]
    fn it_is_forgotten_with_its_application_its_shuffle_or_its_taker() {
        let mut handovers = Handovers::default();
        let fill = |handovers: &mut Handovers| {
            handovers.note(WorkerId(2), &taken(1, 1, &[(0, 0), (7, 0)]));
            handovers.note(WorkerId(3), &taken(2, 1, &[(0, 0)]));
        };
        let found = |handovers: &Handovers| {
            [(1, 0), (1, 7), (2, 0)].map(|(instance, shuffle)| at(handovers, instance, 1, shuffle, 0).is_some())
        };
        fill(&mut handovers);
        handovers.forget_released(&app(1), &std::iter::once(7).collect());
        assert_eq!((found(&handovers), handovers.count()), ([true, false, true], 2));
        handovers.forget_application(&app(1));
        assert_eq!((found(&handovers), handovers.count()), ([false, false, true], 1));
        fill(&mut handovers);
        handovers.forget_taker(WorkerId(2));
        assert_eq!((found(&handovers), handovers.count()), ([false, false, true], 1));
        handovers.forget_taker(WorkerId(3));
        assert!(handovers.takers.is_empty() && handovers.count() == 0);
    }

    #[test]
    fn it_is_bounded() {
        let mut handovers = Handovers { count: HANDED_OVER_MAX - 1, ..Handovers::default() };
        assert_eq!(handovers.note(WorkerId(2), &taken(1, 1, &[(0, 0), (0, 1)])), 1);
        assert_eq!(handovers.note(WorkerId(3), &taken(1, 1, &[(0, 0)])), 0, "what is known may change");
        assert_eq!((at(&handovers, 1, 1, 0, 0), at(&handovers, 1, 1, 0, 1)), (Some(3), None));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Note(u128, u128, u32),
        Released(u32),
        Ended,
        Gone(u128),
    }

    proptest! {
        #[test]
        fn every_location_that_is_counted_is_there(steps in prop::collection::vec(prop_oneof![
            8 => (0u128..4, 0u128..4, 0u32..3).prop_map(|(taker, from, shuffle)| Step::Note(taker, from, shuffle)),
            1 => (0u32..3).prop_map(Step::Released),
            1 => Just(Step::Ended),
            2 => (0u128..4).prop_map(Step::Gone),
        ], 0..60)) {
            let mut handovers = Handovers::default();
            for step in steps {
                match step {
                    Step::Note(taker, from, _) if taker == from => {}
                    Step::Note(taker, from, shuffle) => {
                        handovers.note(WorkerId(taker), &taken(1, from, &[(shuffle, 0)]));
                        prop_assert_eq!(at(&handovers, 1, from, shuffle, 0), Some(taker));
                        prop_assert_eq!(at(&handovers, 1, taker, shuffle, 0).filter(|by| *by == from), None);
                    }
                    Step::Released(shuffle) => handovers.forget_released(&app(1), &std::iter::once(shuffle).collect()),
                    Step::Ended => handovers.forget_application(&app(1)),
                    Step::Gone(taker) => handovers.forget_taker(WorkerId(taker)),
                }
                let there: usize = handovers.takers.values().flat_map(BTreeMap::values).map(BTreeMap::len).sum();
                prop_assert_eq!(handovers.count(), there);
                // Nobody is sent to where it asks from.
                let own = |(from, theirs): (&WorkerId, &BTreeMap<_, WorkerId>)| theirs.values().any(|by| by == from);
                prop_assert_eq!(handovers.takers.values().flatten().any(own), false);
            }
        }
    }
}
