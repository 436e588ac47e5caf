//! One byte budget per client: a quarter only for pushes, a quarter only for reads, the rest for whoever comes.
//!
//! Owns: the shares and who holds how much. Does not own: waiting (the shell's), or the bytes themselves.

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Share {
    /// Bytes buffered or in flight to workers.
    Push,
    /// Bytes asked for, or fetched and not taken by the engine yet.
    Read,
}

/// A client's byte budget.
#[derive(Clone, Debug)]
pub struct Budget {
    total: u64,
    own: u64,
    push: u64,
    read: u64,
}

/// The budget is too small to work in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a client memory of {total} bytes is too small: a quarter of it must hold a batch of {body} bytes; \
     set client.memory to at least {need} bytes"
)]
pub struct TooSmall {
    /// The budget.
    pub total: u64,
    /// The cluster's largest body.
    pub body: u64,
    /// The smallest budget that works.
    pub need: u64,
}

impl Budget {
    /// A budget of `total` bytes for bodies of at most `body` bytes.
    ///
    /// # Errors
    /// `TooSmall` when a quarter does not hold one maximal body.
    pub fn new(total: u64, body: u64) -> Result<Self, TooSmall> {
        let own = total / 4;
        if own < body {
            return Err(TooSmall { total, body, need: body * 4 });
        }
        Ok(Self { total, own, push: 0, read: 0 })
    }

    /// Takes bytes for a share, if there is room for them.
    pub fn take(&mut self, share: Share, bytes: u64) -> bool {
        let fits = bytes <= self.room(share);
        if fits {
            *self.held_mut(share) += bytes;
        }
        fits
    }

    /// Gives bytes back.
    ///
    /// # Panics
    /// When the share does not hold that many: a programmer error.
    pub fn give(&mut self, share: Share, bytes: u64) {
        let held = self.held_mut(share);
        *held = held.checked_sub(bytes).expect("a share gives back what it holds");
    }

    /// Bytes that the share may take now.
    #[must_use]
    pub fn room(&self, share: Share) -> u64 {
        let (mine, other) = match share {
            Share::Push => (self.push, self.read),
            Share::Read => (self.read, self.push),
        };
        // What the other side holds, or has for itself alone, is not for this one.
        (self.total - other.max(self.own)).saturating_sub(mine)
    }

    /// The most that one share can ever hold.
    #[must_use]
    pub fn largest(&self) -> u64 {
        self.total - self.own
    }

    /// Bytes that the share holds.
    #[must_use]
    pub fn held(&self, share: Share) -> u64 {
        match share {
            Share::Push => self.push,
            Share::Read => self.read,
        }
    }

    fn held_mut(&mut self, share: Share) -> &mut u64 {
        match share {
            Share::Push => &mut self.push,
            Share::Read => &mut self.read,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_share_is_never_starved_and_the_total_never_passed(steps in prop::collection::vec((any::<bool>(), any::<bool>(), 0u64..500), 0..100)) {
            let mut budget = Budget::new(1000, 100).unwrap();
            for (push, take, bytes) in steps {
                let share = if push { Share::Push } else { Share::Read };
                if take {
                    let room = budget.room(share);
                    prop_assert_eq!(budget.take(share, bytes), bytes <= room);
                } else {
                    budget.give(share, bytes.min(budget.held(share)));
                }
                let (push, read) = (budget.held(Share::Push), budget.held(Share::Read));
                prop_assert!(push + read <= 1000);
                prop_assert!(push <= 750 && read <= 750);
                prop_assert!(push + budget.room(Share::Push) >= 250);
                prop_assert!(read + budget.room(Share::Read) >= 250);
            }
        }
    }

    #[test]
    fn a_budget_must_hold_a_maximal_body_in_a_quarter() {
        assert_eq!(Budget::new(400, 101).unwrap_err().need, 404);
        assert!(Budget::new(400, 100).is_ok());
    }
}
