//! Cuts a region into slots of powers of two and joins them again, by offsets alone.
//!
//! Owns which offsets are free. Does not own budgets (`memory`) nor any memory.

use super::free_set::FreeSet;

/// Bytes of the smallest slot.
pub const SLOT_BYTES_MIN: u64 = 4 * 1024;

/// Bytes of the largest slot.
pub const SLOT_BYTES_MAX: u64 = 1024 * 1024;

const ORDERS: usize = (SLOT_BYTES_MAX / SLOT_BYTES_MIN).ilog2() as usize + 1;
const ORDER_MAX: usize = ORDERS - 1;

/// A place in the arena: whoever holds it may use these bytes until it gives the slot back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot {
    offset: u64,
    order: u8,
}

impl Slot {
    /// Where it begins, in bytes from the start of the arena.
    #[must_use]
    pub fn offset(self) -> u64 {
        self.offset
    }

    /// Its length in bytes: a power of two from [`SLOT_BYTES_MIN`] to [`SLOT_BYTES_MAX`].
    #[must_use]
    pub fn bytes(self) -> u64 {
        order_bytes(usize::from(self.order))
    }
}

impl Slot {
    /// Its beginning, as the smallest slot that holds `bytes`; itself when it is no larger than that.
    #[must_use]
    pub fn first(self, bytes: u64) -> Self {
        Self { offset: self.offset, order: self.order.min(order_of(bytes) as u8) }
    }
}

/// One region, cut on demand: it uses what was used before, lowest offset first, before it grows.
#[derive(Clone, Debug)]
pub(super) struct Buddy {
    /// Where the region begins in the arena.
    base: u64,
    blocks: u64,
    /// Blocks of [`SLOT_BYTES_MAX`] that were ever used.
    grown: u64,
    /// Free slots of each order, by their number in the region; grown blocks only.
    free: [FreeSet; ORDERS],
}

impl Buddy {
    /// A region of `blocks` times [`SLOT_BYTES_MAX`] bytes at `base`, all free.
    pub(super) fn new(base: u64, blocks: u64) -> Self {
        let count = |order| usize::try_from(blocks << (ORDER_MAX - order)).expect("the arena is in the address space");
        Self { base, blocks, grown: 0, free: std::array::from_fn(|order| FreeSet::new(count(order))) }
    }

    /// Takes a slot of the smallest size that holds `bytes`.
    pub(super) fn take(&mut self, bytes: u64) -> Option<Slot> {
        let wanted = order_of(bytes);
        let found = (wanted..ORDERS).find_map(|order| Some((order, self.free[order].lowest()?)));
        let (mut order, mut number) = match found {
            Some((order, number)) => {
                self.free[order].remove(number);
                (order, number)
            }
            None => (ORDER_MAX, self.grow()?),
        };
        while order > wanted {
            order -= 1;
            number *= 2;
            self.free[order].insert(number + 1);
        }
        Some(Slot { offset: self.base + number as u64 * order_bytes(order), order: order as u8 })
    }

    /// Takes a slot back and joins it with its free neighbours.
    ///
    /// # Panics
    /// When its bytes are free already.
    pub(super) fn give(&mut self, slot: Slot) {
        let mut order = usize::from(slot.order);
        let mut number = ((slot.offset - self.base) / order_bytes(order)) as usize;
        let is_free = (order..ORDERS).any(|above| self.free[above].contains(number >> (above - order)));
        assert!(!is_free, "a slot was given back twice");
        while order < ORDER_MAX && self.free[order].remove(number ^ 1) {
            number /= 2;
            order += 1;
        }
        self.free[order].insert(number);
    }

    /// Takes back what of a slot lies behind its beginning.
    pub(super) fn give_rest(&mut self, slot: Slot, first: Slot) {
        for order in first.order..slot.order {
            self.give(Slot { offset: slot.offset + order_bytes(usize::from(order)), order });
        }
    }

    /// Whether an offset lies in the region.
    pub(super) fn contains(&self, offset: u64) -> bool {
        (self.base..self.base + self.blocks * SLOT_BYTES_MAX).contains(&offset)
    }

    /// Bytes that were ever used: what of the region may have memory behind it.
    pub(super) fn grown_bytes(&self) -> u64 {
        self.grown * SLOT_BYTES_MAX
    }

    fn grow(&mut self) -> Option<usize> {
        let block = self.grown;
        self.grown = (block < self.blocks).then_some(block + 1)?;
        Some(block as usize)
    }
}

/// The order of the smallest slot that holds `bytes`; the largest for anything beyond it.
fn order_of(bytes: u64) -> usize {
    let slot = bytes.clamp(SLOT_BYTES_MIN, SLOT_BYTES_MAX).next_power_of_two();
    (slot / SLOT_BYTES_MIN).ilog2() as usize
}

fn order_bytes(order: usize) -> u64 {
    SLOT_BYTES_MIN << order
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn overlaps(a: Slot, b: Slot) -> bool {
        a.offset < b.offset + b.bytes() && b.offset < a.offset + a.bytes()
    }

    proptest! {
        #[test]
        fn slots_are_aligned_never_overlap_and_join_again(steps in prop::collection::vec((any::<bool>(), 1u64..1_200_000, any::<prop::sample::Index>()), 0..400)) {
            let base = 3 * SLOT_BYTES_MAX;
            let mut buddy = Buddy::new(base, 5);
            let mut held: Vec<Slot> = Vec::new();
            for (take, bytes, pick) in steps {
                if take {
                    if let Some(slot) = buddy.take(bytes) {
                        prop_assert!(slot.bytes() >= bytes.min(SLOT_BYTES_MAX));
                        prop_assert_eq!((slot.offset() - base) % slot.bytes(), 0);
                        prop_assert!(buddy.contains(slot.offset()) && buddy.contains(slot.offset() + slot.bytes() - 1));
                        prop_assert!(held.iter().all(|other| !overlaps(slot, *other)));
                        held.push(slot);
                    }
                } else if !held.is_empty() {
                    buddy.give(held.swap_remove(pick.index(held.len())));
                }
            }
            for slot in held {
                buddy.give(slot);
            }
            for block in 0..5 {
                prop_assert_eq!(buddy.take(SLOT_BYTES_MAX).map(Slot::offset), Some(base + block * SLOT_BYTES_MAX));
            }
            prop_assert_eq!(buddy.take(1), None);
        }
    }

    #[test]
    fn a_slot_is_cut_to_its_beginning_and_the_rest_is_free() {
        let mut buddy = Buddy::new(0, 1);
        let slot = buddy.take(SLOT_BYTES_MAX).unwrap();
        let first = slot.first(3 * SLOT_BYTES_MIN);
        assert_eq!((first.offset(), first.bytes()), (0, 4 * SLOT_BYTES_MIN));
        assert_eq!(slot.first(2 * SLOT_BYTES_MAX), slot);
        buddy.give_rest(slot, first);
        let free: Vec<_> = std::iter::from_fn(|| buddy.take(4 * SLOT_BYTES_MIN)).collect();
        assert_eq!(free.len(), 63);
        assert!(free.iter().all(|slot| !overlaps(*slot, first)));
        free.into_iter().for_each(|slot| buddy.give(slot));
        buddy.give(first);
        assert_eq!(buddy.take(SLOT_BYTES_MAX), Some(slot));
    }

    #[test]
    fn what_was_used_is_used_again_before_it_grows() {
        let mut buddy = Buddy::new(0, 4);
        let first = buddy.take(SLOT_BYTES_MAX).unwrap();
        let second = buddy.take(SLOT_BYTES_MIN).unwrap();
        buddy.give(first);
        assert_eq!(buddy.take(SLOT_BYTES_MIN).unwrap().offset(), second.offset() + SLOT_BYTES_MIN);
        assert_eq!(buddy.take(SLOT_BYTES_MAX).unwrap().offset(), 0);
        assert_eq!(buddy.grown_bytes(), 2 * SLOT_BYTES_MAX);
    }

    #[test]
    #[should_panic(expected = "twice")]
    fn a_slot_given_back_twice_is_found_out() {
        let mut buddy = Buddy::new(0, 1);
        let slot = buddy.take(1).unwrap();
        buddy.give(slot);
        buddy.give(slot);
    }
}
