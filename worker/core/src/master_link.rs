//! What a worker tells the master of the shuffles it holds.
//!
//! Owns the ranges, and their division into messages that stay within the protocol's bounds. Does not own the calls.

use mallorn_proto::id::{Application, ShuffleId};
use mallorn_proto::limits::{CONTROL_MESSAGE_BYTES_MAX, PAGE_LOCATIONS_MAX};
use mallorn_proto::range_set::RangeSet;

/// What is held of one application.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// The application.
    pub application: Application,
    /// Its shuffles, in at most [`PAGE_LOCATIONS_MAX`] ranges.
    pub shuffles: RangeSet,
}

/// Bytes of messages that are left to what else a heartbeat says.
const PAGE_BYTES: usize = CONTROL_MESSAGE_BYTES_MAX / 2;
/// What a range takes on the wire at most: two numbers with their tags, and its own tag and length.
const RANGE_BYTES: usize = 16;
/// What an application takes on the wire at most, beside its name and ranges.
const APPLICATION_BYTES: usize = 48;

/// The shuffles as they are reported. Beyond the bound the last range covers all the rest: a shuffle reported but not held
/// costs one idle word of the master, one held but not reported would never be deleted.
pub fn reported(shuffles: impl IntoIterator<Item = ShuffleId>) -> RangeSet {
    let mut set: RangeSet = shuffles.into_iter().map(|ShuffleId(shuffle)| shuffle).collect();
    set.join_tail(PAGE_LOCATIONS_MAX);
    set
}

/// Divides what is held over messages, each application whole in one. There is always one message, be it empty.
#[must_use]
pub fn pages(held: Vec<Held>) -> Vec<Vec<Held>> {
    let mut pages = vec![Vec::new()];
    let mut room = PAGE_BYTES;
    for held in held {
        let bytes = APPLICATION_BYTES + held.application.name.len() + held.shuffles.runs().len() * RANGE_BYTES;
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
    use mallorn_proto::id::Instance;
    use proptest::prelude::*;

    use super::*;

    fn held(name: usize, ranges: usize) -> Held {
        let application = Application { name: format!("app-{name}"), instance: Instance(1) };
        Held { application, shuffles: (0..).step_by(2).take(ranges).collect() }
    }

    proptest! {
        #[test]
        fn pages_hold_everything_once_within_the_bound(sizes in prop::collection::vec(0usize..PAGE_LOCATIONS_MAX, 0..40)) {
            let all: Vec<Held> = sizes.iter().enumerate().map(|(name, ranges)| held(name, *ranges)).collect();
            let pages = pages(all.clone());
            prop_assert!(!pages.is_empty());
            for page in &pages {
                let ranges: usize = page.iter().map(|held| held.shuffles.runs().len()).sum();
                prop_assert!(ranges * RANGE_BYTES < CONTROL_MESSAGE_BYTES_MAX);
            }
            prop_assert_eq!(pages.concat(), all);
        }
    }

    #[test]
    fn too_many_ranges_end_in_one_that_covers_the_rest() {
        let shuffles = (0..PAGE_LOCATIONS_MAX as u32 + 100).map(|index| ShuffleId(3 * index));
        let reported = reported(shuffles);
        assert_eq!(reported.runs().len(), PAGE_LOCATIONS_MAX);
        assert_eq!(reported.runs().last().unwrap().end, 3 * (PAGE_LOCATIONS_MAX as u32 + 99) + 1);
    }
}
