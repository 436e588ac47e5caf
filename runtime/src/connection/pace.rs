//! The slowest pace that is borne: a peer that was given memory, or is being answered, moves 1 MiB/s over 10 s.
//!
//! Only the time spent waiting for the peer counts: what this side spends between two reads (looking for memory, being
//! paused, working) is not the peer's fault.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use crate::clock::{self, Elapsed, Instant};

/// The window of the rule.
pub(super) const WINDOW: Duration = Duration::from_secs(10);
const WINDOW_BYTES: u64 = 10 * 1024 * 1024;

/// Watches one direction of a connection while it owes bytes.
#[derive(Debug)]
pub(super) struct Pace {
    window: Duration,
    /// Time that may still be spent waiting in the current window.
    left: Duration,
    /// Bytes moved in the current window.
    moved: u64,
}

impl Pace {
    /// Ten MiB are to be moved in each `window` of waiting, or all that is owed where that is less.
    pub(super) fn new(window: Duration) -> Self {
        Self { window, left: window, moved: 0 }
    }

    /// What was owed has come: the next debt starts a new window.
    pub(super) fn settle(&mut self) {
        (self.left, self.moved) = (self.window, 0);
    }

    /// Runs one read or write of a debt; counts the bytes it moved. As cancel-safe as the operation; the time waited
    /// counts also when it is cancelled.
    ///
    /// # Errors
    /// `TimedOut` when the window ended with less than its bytes moved; else the operation's own.
    pub(super) async fn keep<F>(&mut self, operation: F) -> io::Result<usize>
    where
        F: Future<Output = io::Result<usize>>,
    {
        let mut operation = pin!(operation);
        // The usual case is done at once and needs neither clock nor timer.
        let bytes = match poll_fn(|cx| Poll::Ready(operation.as_mut().poll(cx))).await {
            Poll::Ready(result) => result?,
            Poll::Pending => self.wait(operation).await?,
        };
        self.moved += bytes as u64;
        Ok(bytes)
    }

    async fn wait<F>(&mut self, mut operation: Pin<&mut F>) -> io::Result<usize>
    where
        F: Future<Output = io::Result<usize>>,
    {
        loop {
            let wait = Wait { since: clock::now(), left: &mut self.left };
            let outcome = clock::timeout(*wait.left, operation.as_mut()).await;
            drop(wait);
            match outcome {
                Ok(result) => return result,
                Err(Elapsed) if self.moved >= WINDOW_BYTES => self.settle(),
                Err(Elapsed) => return Err(too_slow(self.window)),
            }
        }
    }
}

/// Takes the time waited off what is left when dropped.
struct Wait<'a> {
    since: Instant,
    left: &'a mut Duration,
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        *self.left = self.left.saturating_sub(clock::now().saturating_duration_since(self.since));
    }
}

fn too_slow(window: Duration) -> io::Error {
    let text = format!("the peer moved less than 10 MiB in {} s in the middle of a frame", window.as_secs());
    io::Error::new(io::ErrorKind::TimedOut, text)
}
