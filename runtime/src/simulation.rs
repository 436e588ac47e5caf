//! What the simulation does to one host: its clock runs fast or slow and jumps, its calls are made twice, or done and not
//! answered.
//!
//! Owns what a host is known by (its runtime) and what is drawn for each of its calls. Only the feature `sim` has it. Does
//! not own the network's own faults (turmoil's), nor those of disks (`disk::simulated`).

pub(crate) mod calls;

use std::cell::RefCell;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rand::Rng as _;
use rand::rngs::StdRng;
use tokio::runtime::{Handle, Id};
use tokio::sync::Notify;
use tokio::time::Instant;

thread_local! {
    /// Which host a runtime is of, and when it began: a host that starts again has a new one.
    static HOSTS: RefCell<Vec<(Id, Instant, Host)>> = const { RefCell::new(Vec::new()) };
}

/// A simulated machine, over all lives of its process; clones are the same one.
#[derive(Clone)]
pub struct Host {
    inner: Arc<Inner>,
}

struct Inner {
    rate: Rate,
    jumped: Mutex<Duration>,
    jumps: Notify,
    trouble: Mutex<CallTrouble>,
    random: Mutex<StdRng>,
    met: Mutex<CallsMet>,
}

/// What calls have met so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CallsMet {
    /// Calls that arrived once more.
    pub repeated: u64,
    /// Calls whose answer was lost.
    pub unanswered: u64,
    /// Pushes that arrived once more.
    pub pushed_again: u64,
}

/// How fast a clock runs, in thousandths of the right rate: whole numbers, for a run must repeat itself to the nanosecond.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate(pub u32);

impl Rate {
    /// A clock that is right.
    pub const RIGHT: Self = Self(1000);

    fn here(self, outside: Duration) -> Duration {
        outside * self.0 / 1000
    }

    /// Rounded up: no wait ends early.
    fn outside(self, here: Duration) -> Duration {
        if self == Self::RIGHT { here } else { here.saturating_mul(1000) / self.0 + Duration::from_nanos(1) }
    }
}

/// How often something goes wrong with a call, in a thousand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CallTrouble {
    /// Calls that arrive once more, some time after they were answered.
    pub repeated: u32,
    /// Calls that are carried out, and whose answer is lost.
    pub unanswered: u32,
    /// Pushes that arrive once more.
    pub pushed_again: u32,
    /// The longest time after which something arrives once more, in milliseconds.
    pub late_by_max_ms: u64,
}

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CallFate {
    Answered,
    /// It arrives once more after so long.
    Repeated(Duration),
    Unanswered,
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Host").field("rate", &self.inner.rate).finish_non_exhaustive()
    }
}

impl Host {
    /// A machine whose clock runs at this rate, and whose calls meet this.
    #[must_use]
    pub fn new(rate: Rate, trouble: CallTrouble, random: StdRng) -> Self {
        let (jumped, random, met) = (Mutex::default(), Mutex::new(random), Mutex::default());
        let trouble = Mutex::new(trouble);
        Self { inner: Arc::new(Inner { rate, jumped, jumps: Notify::new(), trouble, random, met }) }
    }

    /// The present runtime is this machine's. Call it first in each life of its process.
    ///
    /// # Panics
    /// Outside of a runtime.
    pub fn enter(&self) {
        let entry = (Handle::current().id(), Instant::now(), self.clone());
        HOSTS.with_borrow_mut(|hosts| {
            hosts.retain(|(_, _, host)| !Arc::ptr_eq(&host.inner, &self.inner));
            hosts.push(entry);
        });
    }

    /// What its calls have met so far.
    #[must_use]
    pub fn calls_met(&self) -> CallsMet {
        *self.inner.met.lock()
    }

    /// Nothing goes wrong with its calls any more.
    pub fn calm(&self) {
        *self.inner.trouble.lock() = CallTrouble::default();
    }

    /// Its clock jumps forward, as that of a machine which stood still.
    pub fn jump(&self, by: Duration) {
        *self.inner.jumped.lock() += by;
        self.inner.jumps.notify_waiters();
    }

    pub(crate) fn call_fate(&self) -> CallFate {
        let CallTrouble { repeated, unanswered, late_by_max_ms, .. } = *self.inner.trouble.lock();
        if repeated + unanswered == 0 {
            return CallFate::Answered;
        }
        let mut random = self.inner.random.lock();
        match random.random_range(0..1000) {
            drawn if drawn < repeated => {
                self.inner.met.lock().repeated += 1;
                CallFate::Repeated(Duration::from_millis(random.random_range(0..=late_by_max_ms)))
            }
            drawn if drawn < repeated + unanswered => {
                self.inner.met.lock().unanswered += 1;
                CallFate::Unanswered
            }
            _ => CallFate::Answered,
        }
    }

    /// After how long a push arrives once more, if it does.
    pub(crate) fn pushed_again(&self) -> Option<Duration> {
        let CallTrouble { pushed_again, late_by_max_ms, .. } = *self.inner.trouble.lock();
        if pushed_again == 0 {
            return None;
        }
        let mut random = self.inner.random.lock();
        let drawn = random.random_range(0..1000) < pushed_again;
        self.inner.met.lock().pushed_again += u64::from(drawn);
        drawn.then(|| Duration::from_millis(random.random_range(0..=late_by_max_ms)))
    }
}

/// A host's own clock.
#[derive(Clone, Debug)]
pub(crate) struct HostClock {
    began: Instant,
    host: Host,
}

impl HostClock {
    /// The time here, when it is `outside` outside.
    pub(crate) fn time(&self, outside: Instant) -> Instant {
        let since = outside.saturating_duration_since(self.began);
        self.began + self.host.inner.rate.here(since) + *self.host.inner.jumped.lock()
    }

    /// Waits until this moment of the host's clock.
    pub(crate) async fn reach(&self, deadline: Instant) {
        loop {
            // Made before the time is asked for: no jump is missed.
            let jump = self.host.inner.jumps.notified();
            let left = deadline.saturating_duration_since(self.time(Instant::now()));
            if left.is_zero() {
                return;
            }
            let _ = tokio::time::timeout(self.host.inner.rate.outside(left), jump).await;
        }
    }
}

/// The clock of the host that runs now.
pub(crate) fn clock() -> Option<HostClock> {
    let id = Handle::try_current().ok()?.id();
    HOSTS.with_borrow(|hosts| {
        let (_, began, host) = hosts.iter().find(|(of, _, _)| *of == id)?;
        Some(HostClock { began: *began, host: host.clone() })
    })
}

/// The host that runs now; none where a test has a runtime of its own.
pub(crate) fn here() -> Option<Host> {
    clock().map(|clock| clock.host)
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::*;
    use crate::clock;

    const SECOND: Duration = Duration::from_secs(1);

    fn host(rate: u32) -> Host {
        Host::new(Rate(rate), CallTrouble::default(), StdRng::seed_from_u64(1))
    }

    #[tokio::test(start_paused = true)]
    async fn a_fast_clock_waits_less_and_says_so() {
        host(1100).enter();
        let (outside, here) = (Instant::now(), clock::now());
        clock::sleep(11 * SECOND).await;
        assert!(clock::now().saturating_duration_since(here) >= 11 * SECOND);
        let took = outside.elapsed();
        assert!(took >= 10 * SECOND && took < 10 * SECOND + Duration::from_millis(2), "{took:?}");
        assert_eq!(clock::timeout(SECOND, std::future::pending::<()>()).await, Err(clock::Elapsed));
    }

    #[tokio::test(start_paused = true)]
    async fn a_jump_ends_waits_that_are_over_with_it() {
        let host = host(1000);
        host.enter();
        let (outside, here) = (Instant::now(), clock::now());
        let waits = tokio::spawn(clock::sleep(20 * SECOND));
        clock::sleep(SECOND).await;
        host.jump(30 * SECOND);
        waits.await.unwrap();
        assert_eq!(outside.elapsed(), SECOND);
        assert_eq!(clock::now().saturating_duration_since(here), 31 * SECOND);
        assert_eq!(clock::since(here), 31 * SECOND);
    }
}
