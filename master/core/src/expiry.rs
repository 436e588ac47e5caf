//! The clock of leases, and what a tick of it ends.
//!
//! Owns how long a lease has run. Does not own the leases: workers and applications keep when they were renewed.
//!
//! A lease is a duration on the granter's monotonic clock, counted from the receipt of a renewal. While the granter did
//! not run (stopped, starved), renewals could not reach it, so a tick that comes late extends every lease by the gap.
//! The clock of leases has that built in: between two ticks it runs on for one tick's length at most, and stands still
//! until the late tick comes. It starts at zero with the master, so its reading is also how long the master has been
//! able to hear anybody.
//!
//! A master younger than one lease expires nobody: no lease was granted before it started. That it orders no deletion
//! either is decided in `applications`, where orders are made.

use std::time::Duration;

use mallorn_proto::id::{Application, WorkerId};
use mallorn_sabotage::{self as sabotage, Sabotage};

use crate::Master;

/// How long lost workers and ended applications are remembered at least, in application leases.
pub const KEPT_LEASES: u32 = 10;

/// Time as leases count it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LeaseClock {
    /// How long after a tick the next one is due.
    tick: Duration,
    /// When the last tick was.
    ticked_at: Duration,
    /// The reading at that tick.
    reading: Duration,
}

impl LeaseClock {
    pub(crate) fn start(tick: Duration, now: Duration) -> Self {
        Self { tick, ticked_at: now, reading: Duration::ZERO }
    }

    /// The reading at this moment.
    pub(crate) fn at(&self, now: Duration) -> Duration {
        let since = now.saturating_sub(self.ticked_at);
        self.reading + if sabotage::is(Sabotage::LateTickNotExtended) { since } else { since.min(self.tick) }
    }

    /// Ticks; answers by how much the tick was late, and so every lease is extended.
    fn tick(&mut self, now: Duration) -> Duration {
        let late_by = now.saturating_sub(self.ticked_at).saturating_sub(self.tick);
        self.reading = self.at(now);
        self.ticked_at = self.ticked_at.max(now);
        late_by
    }
}

/// What a tick ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expired {
    /// By how much the tick was late, and so every lease was extended.
    pub late_by: Duration,
    /// Workers that are lost from here on.
    pub workers: Vec<WorkerId>,
    /// Applications that ended because their lease is over.
    pub applications: Vec<Application>,
}

impl Master {
    /// Ends the leases that are over, and forgets what nobody can ask for any more. Call it every
    /// [`Settings::tick`](crate::Settings::tick); a call that comes late extends every lease by the gap.
    pub fn tick(&mut self, now: Duration) -> Expired {
        let late_by = self.clock.tick(now);
        let now = self.clock.at(now);
        let keep = self.settings.application_lease * KEPT_LEASES;
        let (workers, forgotten) = self.workers.expire(now, self.settings.worker_lease, keep);
        forgotten.into_iter().for_each(|worker| self.handovers.forget_taker(worker));
        let applications = self.applications.expire(now, self.settings.application_lease, keep);
        applications.iter().for_each(|application| self.handovers.forget_application(application));
        Expired { late_by, workers, applications }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn the_clock_stands_still_while_a_tick_is_late() {
        let mut clock = LeaseClock::start(at(2), at(100));
        assert_eq!(clock.at(at(101)), at(1));
        assert_eq!(clock.tick(at(102)), at(0));
        assert_eq!(clock.at(at(103)), at(3));
        assert_eq!(clock.at(at(150)), at(4));
        assert_eq!(clock.tick(at(150)), at(46));
        assert_eq!(clock.at(at(151)), at(5));
    }

    #[test]
    fn an_early_tick_and_a_time_that_goes_back_harm_nothing() {
        let mut clock = LeaseClock::start(at(2), at(100));
        clock.tick(at(101));
        assert_eq!(clock.tick(at(99)), at(0));
        assert_eq!(clock.at(at(99)), at(1));
        assert_eq!(clock.at(at(103)), at(3));
    }
}
