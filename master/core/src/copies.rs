//! Copies kept apart: which two workers get the two copies of a location.
//!
//! Owns how far apart two workers stand, and the choice of pairs among candidates. Does not own who is a candidate, nor
//! what placement remembers between requests (`placement`).
//!
//! Rules: the copies of a location are never on one worker. They are on two hosts where there are two, and in two racks
//! where racks are known and there are two; only then does load decide. Both copies count towards a worker's turn. Of a
//! pair, the one that leads less becomes the primary: it has the work of forwarding.

use std::collections::{BTreeMap, BTreeSet};

use crate::placement::share;
use crate::workers::Address;

/// A candidate for two copies.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    host: usize,
    /// Unknown where the worker does not say it.
    rack: Option<usize>,
    pub(crate) free_bytes: u64,
    /// What it leads so far, each location weighed by the memory then free.
    pub(crate) led: u128,
}

/// How far apart two workers stand; the greater, the better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Apart {
    hosts: bool,
    racks: bool,
}

/// Numbers hosts and racks, so that they are compared as numbers.
#[derive(Debug, Default)]
pub(crate) struct Map<'a> {
    hosts: BTreeMap<&'a str, usize>,
    racks: BTreeMap<&'a str, usize>,
}

impl<'a> Map<'a> {
    pub(crate) fn place(&mut self, address: &'a Address, free_bytes: u64, led: u128) -> Place {
        let next = self.hosts.len();
        let host = *self.hosts.entry(host_of(&address.control)).or_insert(next);
        let next = self.racks.len();
        let rack = (!address.rack.is_empty()).then(|| *self.racks.entry(&address.rack).or_insert(next));
        Place { host, rack, free_bytes, led }
    }
}

/// The host of host:port.
fn host_of(control: &str) -> &str {
    control.rsplit_once(':').map_or(control, |(host, _)| host)
}

impl Place {
    fn apart(&self, other: &Self) -> Apart {
        let racks = matches!((self.rack, other.rack), (Some(a), Some(b)) if a != b);
        Apart { hosts: self.host != other.host, racks }
    }
}

/// Whom each candidate may be paired with, looked up once.
struct Partners<'a> {
    places: &'a [Place],
    furthest: Vec<Option<Apart>>,
}

impl<'a> Partners<'a> {
    fn new(places: &'a [Place]) -> Self {
        Self { places, furthest: vec![None; places.len()] }
    }

    /// The first of the others, in their order, that stands as far from `one` as any does.
    fn first(&mut self, one: usize, mut others: impl Iterator<Item = usize>) -> Option<usize> {
        let (places, own) = (self.places, &self.places[one]);
        let rest = || places.iter().enumerate().filter(|(index, _)| *index != one);
        let furthest = match self.furthest[one] {
            Some(furthest) => furthest,
            None => *self.furthest[one].insert(rest().map(|(_, place)| own.apart(place)).max()?),
        };
        others.find(|other| *other != one && own.apart(&places[*other]) == furthest)
    }
}

/// Pairs for so many locations: the first of each is whoever's turn is lowest.
pub(crate) fn load_aware(places: &[Place], locations: u32) -> Vec<[u32; 2]> {
    let mut partners = Partners::new(places);
    let mut queue: BTreeSet<(u128, usize)> = (0..places.len()).map(|index| (0, index)).collect();
    let mut given = vec![(0u128, 0); places.len()];
    let mut led: Vec<u128> = places.iter().map(|place| place.led).collect();
    let mut pairs = Vec::new();
    for _ in 0..locations {
        let Some((_, one)) = queue.first().copied() else { break };
        let Some(other) = partners.first(one, queue.iter().map(|(_, index)| *index)) else { break };
        for index in [one, other] {
            let (key, count) = &mut given[index];
            queue.remove(&(*key, index));
            (*key, *count) = (share(*count + 1, places[index].free_bytes), *count + 1);
            queue.insert((*key, index));
        }
        pairs.push(led_by(&mut led, places, one, other));
    }
    pairs
}

/// Pairs for so many locations: the first of each is whoever comes next, in the order given, the second whoever follows
/// at a distance that changes from turn to turn.
pub(crate) fn round_robin(places: &[Place], locations: u32) -> Vec<[u32; 2]> {
    let mut partners = Partners::new(places);
    let count = places.len();
    let mut pairs = Vec::new();
    for location in 0..locations as usize {
        let Some(turns) = location.checked_div(count) else { break };
        let one = location % count;
        let from = one + 1 + turns % count.saturating_sub(1).max(1);
        let Some(other) = partners.first(one, (from..from + count).map(|index| index % count)) else { break };
        pairs.push([one as u32, other as u32]);
    }
    pairs
}

fn led_by(led: &mut [u128], places: &[Place], one: usize, other: usize) -> [u32; 2] {
    let (primary, replica) = if led[other] < led[one] { (other, one) } else { (one, other) };
    led[primary] = led[primary].saturating_add(share(1, places[primary].free_bytes));
    [primary as u32, replica as u32]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{prop, prop_assert, prop_assert_eq, proptest};

    use super::*;

    fn address(host: usize, rack: Option<usize>, port: usize) -> Address {
        let rack = rack.map_or_else(String::new, |rack| format!("rack-{rack}"));
        Address { name: String::new(), control: format!("host-{host}:{port}"), data: String::new(), rack }
    }

    fn places(standing: &[(usize, Option<usize>)]) -> Vec<Place> {
        let addresses: Vec<_> =
            standing.iter().zip(1..).map(|((host, rack), port)| address(*host, *rack, port)).collect();
        let mut map = Map::default();
        addresses.iter().map(|address| map.place(address, 1000, 0)).collect()
    }

    /// How often each candidate was picked, and how often to lead.
    fn counts(pairs: &[[u32; 2]], candidates: usize) -> (Vec<u32>, Vec<u32>) {
        let (mut given, mut led) = (vec![0; candidates], vec![0; candidates]);
        for [primary, replica] in pairs {
            led[*primary as usize] += 1;
            given[*primary as usize] += 1;
            given[*replica as usize] += 1;
        }
        (given, led)
    }

    #[test]
    fn a_host_is_what_stands_before_the_port() {
        let hosts = ["a:1", "a:2", "b:1", "[::1]:1", "[::1]:2", "[::2]:1"].map(host_of);
        assert_eq!(hosts, ["a", "a", "b", "[::1]", "[::1]", "[::2]"]);
    }

    #[test]
    fn one_candidate_makes_no_pair() {
        for standing in [&[][..], &[(0, None)]] {
            assert!(load_aware(&places(standing), 3).is_empty() && round_robin(&places(standing), 3).is_empty());
        }
    }

    #[test]
    fn another_rack_is_chosen_before_another_host_and_that_before_another_worker() {
        let chosen = |standing: &[(usize, Option<usize>)]| load_aware(&places(standing), 1)[0];
        assert_eq!(chosen(&[(0, Some(0)), (0, Some(0)), (1, Some(0)), (2, Some(1))]), [0, 3]);
        assert_eq!(chosen(&[(0, Some(0)), (0, Some(0)), (1, Some(0))]), [0, 2]);
        assert_eq!(chosen(&[(0, Some(0)), (1, None)]), [0, 1]);
        assert_eq!(chosen(&[(0, None), (0, None)]), [0, 1]);
    }

    proptest! {
        #[test]
        fn copies_stand_as_far_apart_as_they_can_and_are_spread(
            standing in prop::collection::vec((0usize..6, prop::option::of(0usize..3)), 2..12),
            locations in 1u32..300,
            alike in prop::bool::ANY,
        ) {
            // Where all stand alike, load alone decides.
            let standing: Vec<_> = match alike {
                true => (0..standing.len()).map(|host| (host, None)).collect(),
                false => standing,
            };
            let places = places(&standing);
            for pairs in [load_aware(&places, locations), round_robin(&places, locations)] {
                prop_assert_eq!(pairs.len(), locations as usize);
                for pair in &pairs {
                    let [a, b] = pair.map(|index| standing[index as usize]);
                    prop_assert!(pair[0] != pair[1]);
                    let far = |a: (usize, Option<usize>), b: (usize, Option<usize>)| {
                        (a.0 != b.0, a.1.is_some() && b.1.is_some() && a.1 != b.1)
                    };
                    // Either of the two was picked first, and has nobody further away.
                    let furthest = |one: u32| {
                        let others = (0..standing.len()).filter(|other| *other != one as usize);
                        others.map(|other| far(standing[one as usize], standing[other])).max().unwrap()
                    };
                    prop_assert!(far(a, b) == furthest(pair[0]) || far(a, b) == furthest(pair[1]));
                }
                if alike {
                    let (given, led) = counts(&pairs, places.len());
                    let spread = |counts: &[u32]| counts.iter().max().unwrap() - counts.iter().min().unwrap();
                    prop_assert!(spread(&given) <= 2 && spread(&led) <= 2, "{given:?} {led:?}");
                }
            }
        }
    }
}
