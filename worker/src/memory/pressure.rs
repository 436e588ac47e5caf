//! Who finds no memory waits here, while flushing makes progress.
//!
//! Owns how long that wait is worth it. Does not own flushing, which tells its progress and whether it can make any;
//! nor memory: who waited tries again.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use mallorn_runtime::clock::{self, Instant};
use parking_lot::Mutex;
use tokio::sync::Notify;

/// With nothing flushed for this long there is no hope.
const FLUSH_WITHIN: Duration = Duration::from_secs(2);

/// Who waits for memory, and whether there is hope.
pub(crate) struct Pressure {
    state: Mutex<State>,
    changed: Notify,
    /// Those who wait hold what they have received, which readers need too: only so many may.
    paused_max: usize,
}

struct State {
    /// Whether a disk can take a spill.
    hope: bool,
    /// Times that memory came back.
    changes: u64,
    flushed: Option<Instant>,
    paused: usize,
}

/// Who waits. What is forwarded has been taken elsewhere already, and waits where pushes may not any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Who {
    /// A client that pushes.
    Pusher,
    /// A worker that forwards.
    Primary,
}

/// What came of waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waited {
    /// Memory may have come back: try again.
    Room,
    /// It was or would be waited for too long.
    NoHope,
}

impl Pressure {
    /// Without hope, until somebody gives it.
    pub(crate) fn new(paused_max: usize) -> Self {
        let state = State { hope: false, changes: 0, flushed: None, paused: 0 };
        Self { state: Mutex::new(state), changed: Notify::new(), paused_max }
    }

    /// Whether a disk can take a spill. Without hope nobody waits.
    pub(crate) fn set_hope(&self, hope: bool) {
        let before = std::mem::replace(&mut self.state.lock().hope, hope);
        if before && !hope {
            self.changed.notify_waiters();
        }
    }

    /// This much was written and can be, or was, given back.
    pub(crate) fn flushed(&self, bytes: u64) {
        if bytes > 0 {
            self.state.lock().flushed = Some(clock::now());
            self.freed();
        }
    }

    /// Memory came back without a flush.
    pub(crate) fn freed(&self) {
        self.state.lock().changes += 1;
        self.changed.notify_waiters();
    }

    /// Begins to wait, `longest` at most in all; `None` where that has no sense.
    pub(crate) fn pause(self: &Arc<Self>, who: Who, longest: Duration) -> Option<Pause> {
        let paused_max = match who {
            Who::Pusher => self.paused_max,
            Who::Primary => self.paused_max + self.paused_max / 2,
        };
        let mut state = self.state.lock();
        if !state.hope || state.paused >= paused_max {
            return None;
        }
        state.paused += 1;
        Some(Pause { pressure: Arc::clone(self), since: clock::now(), longest, seen: None })
    }
}

/// One wait for memory, over as many attempts as it takes.
pub(crate) struct Pause {
    pressure: Arc<Pressure>,
    since: Instant,
    longest: Duration,
    /// The changes seen; `None` before the first attempt since the wait began.
    seen: Option<u64>,
}

impl Pause {
    /// Waits until an attempt makes sense. The first one does at once: what came back until now was not told to this
    /// wait. Cancel-safe.
    pub(crate) async fn room(&mut self) -> Waited {
        loop {
            let pressure = Arc::clone(&self.pressure);
            let mut changed = pin!(pressure.changed.notified());
            // Whatever happens after the look below is told.
            changed.as_mut().enable();
            let deadline = match self.look() {
                Ok(waited) => return waited,
                Err(deadline) => deadline,
            };
            tokio::select! {
                biased;
                () = changed => {}
                () = clock::sleep_until(deadline) => return Waited::NoHope,
            }
        }
    }

    fn look(&mut self) -> Result<Waited, Instant> {
        let state = self.pressure.state.lock();
        let progress = state.flushed.map_or(self.since, |flushed| flushed.max(self.since));
        let deadline = (self.since + self.longest).min(progress + FLUSH_WITHIN);
        if !state.hope || clock::now() >= deadline {
            return Ok(Waited::NoHope);
        }
        if self.seen == Some(state.changes) {
            return Err(deadline);
        }
        self.seen = Some(state.changes);
        Ok(Waited::Room)
    }
}

impl Drop for Pause {
    fn drop(&mut self) {
        self.pressure.state.lock().paused -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn hopeful() -> Arc<Pressure> {
        let pressure = Arc::new(Pressure::new(2));
        pressure.set_hope(true);
        pressure
    }

    /// Waits until there is no hope, retrying in between; returns the attempts and how long it took.
    async fn wait_out(pressure: &Arc<Pressure>, longest: Duration) -> (u32, Duration) {
        let mut pause = pressure.pause(Who::Pusher, longest).unwrap();
        let mut attempts = 0;
        while pause.room().await == Waited::Room {
            attempts += 1;
        }
        (attempts, clock::since(pause.since))
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_flush_hope_ends_soon_and_with_flushes_at_the_longest() {
        let pressure = hopeful();
        assert_eq!(wait_out(&pressure, 30 * SECOND).await, (1, 2 * SECOND));
        let flush = async {
            for _ in 0..100 {
                clock::sleep(SECOND).await;
                pressure.flushed(1);
            }
        };
        let mut wait = pin!(wait_out(&pressure, 30 * SECOND));
        tokio::select! {
            biased;
            waited = &mut wait => assert_eq!(waited, (30, 30 * SECOND)),
            () = flush => panic!("the wait goes on"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_freed_is_tried_for_and_is_no_progress() {
        let pressure = hopeful();
        let free = async {
            clock::sleep(SECOND).await;
            pressure.freed();
            pressure.flushed(0);
            std::future::pending().await
        };
        tokio::select! {
            biased;
            waited = wait_out(&pressure, 30 * SECOND) => assert_eq!(waited, (2, 2 * SECOND)),
            () = free => {}
        }
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_without_hope_and_not_too_many_with_it() {
        let pressure = Arc::new(Pressure::new(2));
        assert!(pressure.pause(Who::Primary, SECOND).is_none());
        pressure.set_hope(true);
        let mut first = pressure.pause(Who::Pusher, 30 * SECOND).unwrap();
        let second = pressure.pause(Who::Pusher, 30 * SECOND).unwrap();
        assert!(pressure.pause(Who::Pusher, 30 * SECOND).is_none(), "as many wait as may");
        assert!(pressure.pause(Who::Primary, 30 * SECOND).is_some());
        drop(second);
        assert!(pressure.pause(Who::Pusher, 30 * SECOND).is_some());
        assert_eq!(first.room().await, Waited::Room);
        let lose = async {
            clock::sleep(SECOND).await;
            pressure.set_hope(false);
        };
        assert_eq!(tokio::join!(first.room(), lose).0, Waited::NoHope);
        assert_eq!(first.since.elapsed(), SECOND);
    }
}
