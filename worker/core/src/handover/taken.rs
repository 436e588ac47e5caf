//! What a worker has taken over from others, and what of it the master was told.

use std::collections::BTreeMap;
use std::ops::Range;

use mallorn_proto::id::{Application, LocationId, WorkerId};
use mallorn_proto::limits::PAGE_LOCATIONS_MAX;

use super::Origins;

/// What a list of locations takes of a message beside them, counted in locations: it names its application.
const LIST_COST: usize = 25;

/// Locations of one application that were taken over from one worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TakenFrom {
    /// Their application.
    pub application: Application,
    /// Who had them.
    pub from: WorkerId,
    /// The locations.
    pub locations: Vec<LocationId>,
}

/// Everything that was taken over, and is here. The master is told all of it after each registration, and then the news.
#[derive(Debug, Default)]
pub struct Taken {
    by_application: BTreeMap<Application, BTreeMap<LocationId, Entry>>,
    untold: usize,
}

#[derive(Clone, Debug)]
struct Entry {
    origins: Origins,
    is_told: bool,
}

impl Taken {
    /// A location was taken over. Returns whether that is news.
    pub fn note(&mut self, application: &Application, location: LocationId, origins: Origins) -> bool {
        let of = match self.by_application.get_mut(application) {
            Some(of) => of,
            None => self.by_application.entry(application.clone()).or_default(),
        };
        let before = of.insert(location, Entry { origins: origins.clone(), is_told: false });
        self.untold += usize::from(before.as_ref().is_none_or(|before| before.is_told));
        before.is_none_or(|before| before.origins != origins)
    }

    /// Whether a location was taken over, and is here.
    #[must_use]
    pub fn has(&self, application: &Application, location: LocationId) -> bool {
        self.by_application.get(application).is_some_and(|of| of.contains_key(&location))
    }

    /// A location is not here any more.
    pub fn forget(&mut self, application: &Application, location: LocationId) {
        let Some(of) = self.by_application.get_mut(application) else { return };
        let gone = of.remove(&location);
        self.untold -= usize::from(gone.is_some_and(|gone| !gone.is_told));
        if of.is_empty() {
            self.by_application.remove(application);
        }
    }

    /// A range of shuffles was released.
    pub fn release(&mut self, application: &Application, shuffles: Range<u32>) {
        let Some(of) = self.by_application.get_mut(application) else { return };
        of.retain(|location, _| !shuffles.contains(&location.shuffle.0));
        if of.is_empty() {
            self.by_application.remove(application);
        }
        self.count();
    }

    /// An application is over.
    pub fn release_all(&mut self, application: &Application) {
        self.by_application.remove(application);
        self.count();
    }

    /// The master knows nothing of it (any more).
    pub fn tell_again(&mut self) {
        self.by_application.values_mut().flat_map(BTreeMap::values_mut).for_each(|entry| entry.is_told = false);
        self.count();
    }

    /// What the master was not told yet, as much as one message holds.
    #[must_use]
    pub fn page(&self) -> Vec<TakenFrom> {
        let mut page = Vec::new();
        if self.untold == 0 {
            return page;
        }
        let (mut room, mut is_full) = (PAGE_LOCATIONS_MAX, false);
        for (application, of) in &self.by_application {
            let mut by_worker: BTreeMap<WorkerId, Vec<LocationId>> = BTreeMap::new();
            for (location, entry) in of.iter().filter(|(_, entry)| !entry.is_told) {
                let origins = entry.origins.all();
                let lists = origins.iter().filter(|origin| !by_worker.contains_key(origin)).count();
                let cost = origins.len() + lists * LIST_COST;
                if cost > room {
                    is_full = true;
                    break;
                }
                room -= cost;
                for origin in origins {
                    by_worker.entry(*origin).or_default().push(*location);
                }
            }
            let from = |(from, locations)| TakenFrom { application: application.clone(), from, locations };
            page.extend(by_worker.into_iter().map(from));
            if is_full {
                break;
            }
        }
        page
    }

    /// Whether the master was told everything.
    #[must_use]
    pub fn is_told(&self) -> bool {
        self.untold == 0
    }

    /// The master was told a page.
    pub fn told(&mut self, page: &[TakenFrom]) {
        for TakenFrom { application, from, locations } in page {
            let Some(of) = self.by_application.get_mut(application) else { continue };
            for location in locations {
                // All that had a location are told of in one page.
                let is_told = |entry: &&mut Entry| entry.origins.from() == Some(*from) && !entry.is_told;
                if let Some(entry) = of.get_mut(location).filter(is_told) {
                    entry.is_told = true;
                    self.untold -= 1;
                }
            }
        }
    }

    fn count(&mut self) {
        let all = self.by_application.values().flat_map(BTreeMap::values);
        self.untold = all.filter(|entry| !entry.is_told).count();
    }
}

#[cfg(test)]
mod tests {
    use mallorn_proto::id::{Epoch, Instance, Partition, ShuffleId};

    use super::*;

    fn id(shuffle: u32, partition: u32) -> LocationId {
        LocationId { shuffle: ShuffleId(shuffle), partition: Partition(partition), epoch: Epoch(0) }
    }

    fn by(worker: u128) -> Origins {
        Origins::new(&[], WorkerId(worker), WorkerId(u128::MAX))
    }

    #[test]
    fn all_that_had_a_location_are_told_of_in_one_page() {
        let (mut taken, application) = (Taken::default(), Application { name: "a".to_owned(), instance: Instance(1) });
        let origins = Origins::new(&[WorkerId(1), WorkerId(2)], WorkerId(3), WorkerId(9));
        let fit = (PAGE_LOCATIONS_MAX - 3 * LIST_COST) / 3;
        for partition in 0..=fit as u32 {
            taken.note(&application, id(0, partition), origins.clone());
        }
        let page = taken.page();
        assert_eq!(page.iter().map(|from| from.locations.len()).collect::<Vec<_>>(), [fit; 3]);
        taken.told(&page);
        let page = taken.page();
        let last = id(0, fit as u32);
        let froms: Vec<_> = page.iter().map(|from| (from.from.0, &from.locations[..])).collect();
        assert_eq!(froms, [(1, &[last][..]), (2, &[last]), (3, &[last])]);
        taken.told(&page);
        assert!(taken.is_told() && taken.page().is_empty());
    }

    #[test]
    fn all_is_told_once_in_pages_and_again_after_a_registration() {
        let (mut taken, mut names) = (Taken::default(), ["b", "a"].into_iter());
        let mut application = || Application { name: names.next().unwrap().to_owned(), instance: Instance(1) };
        let (first, second) = (application(), application());
        for partition in 0..PAGE_LOCATIONS_MAX as u32 {
            taken.note(&first, id(partition % 2, partition), by(u128::from(partition % 3) + 1));
        }
        taken.note(&second, id(9, 0), by(1));
        let tell = |taken: &mut Taken| {
            let (mut told, mut pages) = (0, 0);
            while let page = taken.page()
                && !page.is_empty()
            {
                let count: usize = page.iter().map(|from| from.locations.len()).sum();
                assert!(count <= PAGE_LOCATIONS_MAX);
                taken.told(&page);
                (told, pages) = (told + count, pages + 1);
            }
            (told, pages)
        };
        assert_eq!(tell(&mut taken), (PAGE_LOCATIONS_MAX + 1, 2));
        taken.note(&second, id(9, 1), by(1));
        assert_eq!(tell(&mut taken), (1, 1), "then the news only");
        taken.release(&first, 0..1);
        taken.forget(&second, id(9, 0));
        taken.tell_again();
        assert_eq!(tell(&mut taken).0, PAGE_LOCATIONS_MAX / 2 + 1);
        taken.note(&second, id(9, 1), by(5));
        let page = taken.page();
        taken.note(&second, id(9, 1), by(6));
        taken.told(&page);
        assert_eq!(taken.page()[0].from, WorkerId(6), "what changed while it was told is told again");
        taken.release_all(&second);
        assert_eq!(taken.page(), []);
    }
}
