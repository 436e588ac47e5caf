//! The ledger: who holds how much of the arena, and where.
//!
//! Owns the budget, the division of it between pools, the places of slots, and the rule for a location's next slot. It
//! deals in offsets and counts only; the memory itself, and the handles that give slots back by themselves, are the
//! shell's. The arena is the budget: everything that grows with data is counted here, whoever holds it.

mod buddy;
mod free_set;

pub use buddy::{SLOT_BYTES_MAX, SLOT_BYTES_MIN, Slot};

use buddy::Buddy;

/// Smallest legal arena, in bytes.
pub const BUDGET_BYTES_MIN: u64 = 16 * 1024 * 1024;

/// Maximal bodies that pushes must have room for: below that a few connections would split every location at once.
pub const PUSH_BODIES_MIN: u64 = 8;

/// What memory is held for. Each pool has one maximal body to itself, so that none starves another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Pool {
    /// Locations that are pushed to: their bytes and their batch lists.
    Push,
    /// Locations that another worker forwards to.
    Replicate,
    /// Streams that read.
    Read,
    /// What connections have received and not handed on.
    Receive,
}

impl Pool {
    /// All pools.
    pub const ALL: [Self; 4] = [Self::Push, Self::Replicate, Self::Read, Self::Receive];

    /// The name used in metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Push => "push",
            Self::Replicate => "replicate",
            Self::Read => "read",
            Self::Receive => "receive",
        }
    }
}

/// Bytes held and bounds, as they are at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// The budget in force: what was asked for, rounded down to whole slots of the largest size.
    pub budget_bytes: u64,
    /// Held of it by each pool, in the order of [`Pool::ALL`].
    pub held_bytes: [u64; Pool::ALL.len()],
    /// What pushes may still take.
    pub push_free_bytes: u64,
    /// What other workers' forwarded batches may still take.
    pub replicate_free_bytes: u64,
    /// What of the arena was ever used at once: what the process may have resident of it.
    pub grown_bytes: u64,
}

impl Usage {
    /// Held by all pools.
    #[must_use]
    pub fn held_total_bytes(&self) -> u64 {
        self.held_bytes.iter().sum()
    }
}

/// Why a budget is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BudgetError {
    /// Under the smallest legal arena.
    #[error(
        "the memory of {budget_bytes} bytes is too small: set `worker.memory` to at least {BUDGET_BYTES_MIN} bytes (16MiB)"
    )]
    TooSmall {
        /// What was asked for.
        budget_bytes: u64,
    },
    /// Pushes would have room for less than [`PUSH_BODIES_MIN`] maximal bodies.
    #[error(
        "the memory of {budget_bytes} bytes leaves {push_bytes} for pushes, under {PUSH_BODIES_MIN} bodies of \
         {body_bytes_max}: set `worker.memory` to at least {wanted_bytes} bytes, or the cluster's largest body lower"
    )]
    PushPool {
        /// What was asked for.
        budget_bytes: u64,
        /// What pushes would get.
        push_bytes: u64,
        /// The largest body.
        body_bytes_max: u64,
        /// The least budget for bodies of that size.
        wanted_bytes: u64,
    },
}

/// What each pool has to itself and may have at most.
#[derive(Clone, Copy, Debug)]
struct Share {
    reserved_bytes: u64,
    limit_bytes: u64,
    held_bytes: u64,
}

/// The account of the arena.
#[derive(Clone, Debug)]
pub struct Ledger {
    budget_bytes: u64,
    /// In the order of [`Pool::ALL`].
    shares: [Share; Pool::ALL.len()],
    /// What receive has to itself is a region of its own: its buffers must be whole, and the small slots of locations
    /// would otherwise lie scattered through all of the arena.
    receive: Buddy,
    common: Buddy,
}

impl Ledger {
    /// An arena of this many bytes, rounded down to whole slots of the largest size, for bodies of at most
    /// `body_bytes_max`. Replicate takes at most half of it, receive and read at most a quarter each.
    ///
    /// # Errors
    /// `TooSmall` or `PushPool`.
    pub fn new(budget_bytes: u64, body_bytes_max: u32) -> Result<Self, BudgetError> {
        if budget_bytes < BUDGET_BYTES_MIN {
            return Err(BudgetError::TooSmall { budget_bytes });
        }
        let budget = budget_bytes - budget_bytes % SLOT_BYTES_MAX;
        let body_bytes_max = u64::from(body_bytes_max);
        let body = body_bytes_max.next_multiple_of(SLOT_BYTES_MIN);
        let receive = body.next_multiple_of(SLOT_BYTES_MAX);
        let of_others = receive + 2 * body;
        let push_limit = budget.saturating_sub(of_others);
        if push_limit < PUSH_BODIES_MIN * body {
            let wanted_bytes = (of_others + body * PUSH_BODIES_MIN).next_multiple_of(SLOT_BYTES_MAX);
            return Err(BudgetError::PushPool { budget_bytes, push_bytes: push_limit, body_bytes_max, wanted_bytes });
        }
        let share = |reserved_bytes: u64, limit_bytes: u64| Share {
            reserved_bytes,
            limit_bytes: limit_bytes.max(reserved_bytes),
            held_bytes: 0,
        };
        Ok(Self {
            budget_bytes: budget,
            shares: [
                share(body, push_limit),
                share(body, budget / 2),
                share(body, budget / 4),
                share(receive, budget / 4),
            ],
            receive: Buddy::new(0, receive / SLOT_BYTES_MAX),
            common: Buddy::new(receive, (budget - receive) / SLOT_BYTES_MAX),
        })
    }

    /// The budget in force, in bytes: the arena's length.
    #[must_use]
    pub fn budget_bytes(&self) -> u64 {
        self.budget_bytes
    }

    /// Takes the slot of the smallest size that holds `wanted_bytes` (at most one of the largest size). Where the arena
    /// is too scattered for it, or the pool too full, a smaller one is given, down to `least_bytes`; `None` when there
    /// is none of that either.
    pub fn take(&mut self, pool: Pool, wanted_bytes: u64, least_bytes: u64) -> Option<Slot> {
        let least = least_bytes.clamp(SLOT_BYTES_MIN, SLOT_BYTES_MAX).next_power_of_two();
        let mut bytes = wanted_bytes.clamp(least, SLOT_BYTES_MAX).next_power_of_two();
        while bytes >= least {
            if let Some(slot) = self.take_exactly(pool, bytes) {
                return Some(slot);
            }
            bytes /= 2;
        }
        None
    }

    fn take_exactly(&mut self, pool: Pool, bytes: u64) -> Option<Slot> {
        if bytes > self.free_bytes(pool) {
            return None;
        }
        let own = match pool {
            Pool::Receive => self.receive.take(bytes),
            Pool::Push | Pool::Replicate | Pool::Read => None,
        };
        let slot = own.or_else(|| self.common.take(bytes))?;
        self.share(pool).held_bytes += slot.bytes();
        Some(slot)
    }

    /// Gives a slot back, to the pool that it was taken from.
    ///
    /// # Panics
    /// When it was given back already, or the pool holds less.
    pub fn give(&mut self, pool: Pool, slot: Slot) {
        self.refund(pool, slot.bytes());
        self.region(slot).give(slot);
    }

    /// Gives back what of a slot lies behind its first `bytes`, as far as smaller slots go, and returns what is kept.
    pub fn cut(&mut self, pool: Pool, slot: Slot, bytes: u64) -> Slot {
        let first = slot.first(bytes);
        self.refund(pool, slot.bytes() - first.bytes());
        self.region(slot).give_rest(slot, first);
        first
    }

    /// Counts bytes of heap against a pool; `false` (nothing is counted) when it has no room for them.
    #[must_use]
    pub fn charge(&mut self, pool: Pool, bytes: u64) -> bool {
        let fits = bytes <= self.free_bytes(pool);
        if fits {
            self.share(pool).held_bytes += bytes;
        }
        fits
    }

    /// Counts bytes of heap against a pool that are there already, whether it has room or not.
    pub fn charge_anyway(&mut self, pool: Pool, bytes: u64) {
        self.share(pool).held_bytes += bytes;
    }

    /// Takes back what was charged.
    ///
    /// # Panics
    /// When the pool holds less.
    pub fn refund(&mut self, pool: Pool, bytes: u64) {
        let share = self.share(pool);
        share.held_bytes = share.held_bytes.checked_sub(bytes).expect("a pool gives back what it holds");
    }

    /// The most that a pool may hold.
    #[must_use]
    pub fn limit_bytes(&self, pool: Pool) -> u64 {
        self.shares[pool as usize].limit_bytes
    }

    /// What a pool may still take: within its own limit, and without touching what the others have to themselves.
    #[must_use]
    pub fn free_bytes(&self, pool: Pool) -> u64 {
        let spoken_for: u64 = Pool::ALL
            .into_iter()
            .zip(&self.shares)
            .map(|(of, share)| if of == pool { share.held_bytes } else { share.held_bytes.max(share.reserved_bytes) })
            .sum();
        let share = &self.shares[pool as usize];
        self.budget_bytes.saturating_sub(spoken_for).min(share.limit_bytes.saturating_sub(share.held_bytes))
    }

    /// What a pool holds.
    #[must_use]
    pub fn held(&self, pool: Pool) -> u64 {
        self.shares[pool as usize].held_bytes
    }

    /// What locations hold, whoever fills them.
    #[must_use]
    pub fn held_by_locations(&self) -> u64 {
        self.held(Pool::Push) + self.held(Pool::Replicate)
    }

    /// How things stand.
    #[must_use]
    pub fn usage(&self) -> Usage {
        Usage {
            budget_bytes: self.budget_bytes,
            held_bytes: self.shares.map(|share| share.held_bytes),
            push_free_bytes: self.free_bytes(Pool::Push),
            replicate_free_bytes: self.free_bytes(Pool::Replicate),
            grown_bytes: self.receive.grown_bytes() + self.common.grown_bytes(),
        }
    }

    fn region(&mut self, slot: Slot) -> &mut Buddy {
        if self.receive.contains(slot.offset()) { &mut self.receive } else { &mut self.common }
    }

    fn share(&mut self, pool: Pool) -> &mut Share {
        &mut self.shares[pool as usize]
    }
}

/// How large the next slot of a location is that holds `held_bytes` in slots and has `remaining_bytes` to place.
///
/// What is to be placed fills whole slots as far as powers of two go; beyond that a tail is at most a quarter of what the
/// location holds, so that at most a fifth of its memory is unused room, and never under the smallest slot.
#[must_use]
pub fn next_slot_bytes(held_bytes: u64, remaining_bytes: u64) -> u64 {
    let filled = power_of_two_within(remaining_bytes);
    filled.max(power_of_two_within(held_bytes / 4)).clamp(SLOT_BYTES_MIN, SLOT_BYTES_MAX)
}

fn power_of_two_within(bytes: u64) -> u64 {
    bytes.checked_ilog2().map_or(0, |order| 1 << order)
}

#[cfg(test)]
mod tests;
