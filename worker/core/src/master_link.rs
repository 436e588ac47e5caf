//! What a worker tells the master of the shuffles it holds.
//!
//! Owns the ranges, and their division into messages that stay within the protocol's bounds. Does not own the calls.

use mallorn_proto::id::{Application, ShuffleId};
use mallorn_proto::limits::{CONTROL_MESSAGE_BYTES_MAX, PAGE_LOCATIONS_MAX};

/// Shuffles from the first up to, not including, the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShuffleRange {
    /// The first one.
    pub first: u32,
    /// The one after the last.
    pub end: u32,
}

/// What is held of one application.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// The application.
    pub application: Application,
    /// Its shuffles: rising, not touching, at most [`PAGE_LOCATIONS_MAX`].
    pub shuffles: Vec<ShuffleRange>,
}

/// Bytes of messages that are left to what else a heartbeat says.
const PAGE_BYTES: usize = CONTROL_MESSAGE_BYTES_MAX / 2;
/// What a range takes on the wire at most: two numbers with their tags, and its own tag and length.
const RANGE_BYTES: usize = 16;
/// What an application takes on the wire at most, beside its name and ranges.
const APPLICATION_BYTES: usize = 48;

/// The ranges of rising shuffles. Beyond the bound the last range covers all the rest: a shuffle reported but not held
/// costs one idle word of the master, one held but not reported would never be deleted.
pub fn ranges(shuffles: impl IntoIterator<Item = ShuffleId>) -> Vec<ShuffleRange> {
    let mut ranges: Vec<ShuffleRange> = Vec::new();
    for ShuffleId(shuffle) in shuffles {
        let full = ranges.len() == PAGE_LOCATIONS_MAX;
        let end = shuffle.saturating_add(1);
        match ranges.last_mut() {
            Some(last) if last.end == shuffle || full => last.end = end,
            Some(_) | None => ranges.push(ShuffleRange { first: shuffle, end }),
        }
    }
    ranges
}

/// Divides what is held over messages, each application whole in one. There is always one message, be it empty.
#[must_use]
pub fn pages(held: Vec<Held>) -> Vec<Vec<Held>> {
    let mut pages = vec![Vec::new()];
    let mut room = PAGE_BYTES;
    for held in held {
        let bytes = APPLICATION_BYTES + held.application.name.len() + held.shuffles.len() * RANGE_BYTES;
        let page = pages.last_mut().expect("there is always a page");
        if bytes > room && !page.is_empty() {
            pages.push(vec![held]);
            room = PAGE_BYTES.saturating_sub(bytes);
        } else {
            page.push(held);
            room = room.saturating_sub(bytes);
        }
    }
    pages
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use mallorn_proto::id::Instance;
    use proptest::prelude::*;

    use super::*;

    fn held(name: usize, ranges: usize) -> Held {
        let application = Application { name: format!("app-{name}"), instance: Instance(1) };
        let shuffles = (0..ranges as u32).map(|index| ShuffleRange { first: 2 * index, end: 2 * index + 1 }).collect();
        Held { application, shuffles }
    }

    proptest! {
        #[test]
        fn ranges_are_the_set(shuffles in prop::collection::btree_set(0u32..200, 0..100)) {
            let ranges = ranges(shuffles.iter().copied().map(ShuffleId));
            let covered: BTreeSet<u32> = ranges.iter().flat_map(|range| range.first..range.end).collect();
            prop_assert_eq!(covered, shuffles);
            prop_assert!(ranges.windows(2).all(|pair| pair[0].end < pair[1].first));
        }

        #[test]
        fn pages_hold_everything_once_within_the_bound(sizes in prop::collection::vec(0usize..PAGE_LOCATIONS_MAX, 0..40)) {
            let all: Vec<Held> = sizes.iter().enumerate().map(|(name, ranges)| held(name, *ranges)).collect();
            let pages = pages(all.clone());
            prop_assert!(!pages.is_empty());
            for page in &pages {
                let ranges: usize = page.iter().map(|held| held.shuffles.len()).sum();
                prop_assert!(ranges * RANGE_BYTES < CONTROL_MESSAGE_BYTES_MAX);
            }
            prop_assert_eq!(pages.concat(), all);
        }
    }

    #[test]
    fn too_many_ranges_end_in_one_that_covers_the_rest() {
        let shuffles = (0..PAGE_LOCATIONS_MAX as u32 + 100).map(|index| ShuffleId(3 * index));
        let ranges = ranges(shuffles);
        assert_eq!(ranges.len(), PAGE_LOCATIONS_MAX);
        assert_eq!(ranges.last().unwrap().end, 3 * (PAGE_LOCATIONS_MAX as u32 + 99) + 1);
    }
}
