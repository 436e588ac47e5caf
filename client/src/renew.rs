//! Keeps the leases of a client's attempts, and stops an attempt whose lease it cannot keep.

use std::sync::{Arc, Weak};
use std::time::Duration;

use mallorn_proto::v1;
use mallorn_runtime::clock;
use mallorn_runtime::task::Shutdown;
use mallorn_sabotage::{self as sabotage, Sabotage};

use crate::client::Inner;
use crate::error::{LifecycleError, PushError};
use crate::push::AttemptShared;

/// Attempts in one renewal.
const PAGE: usize = 4096;
/// A lease told is taken for at least this, or renewing would be all that a client does.
const LEASE_MIN: Duration = Duration::from_millis(100);

/// Renews the leases of live attempts until the client ends. An attempt that is told dead, or that could not be renewed
/// for four fifths of its lease, stops.
pub(crate) async fn run(inner: Weak<Inner>, shutdown: Shutdown, lease: Duration) {
    let lease = lease.max(LEASE_MIN);
    let mut wait = lease / 4;
    while shutdown.or(clock::sleep(wait)).await.is_some() {
        let Some(inner) = inner.upgrade() else { return };
        let live: Vec<_> = inner.attempts.lock().values().filter_map(Weak::upgrade).collect();
        let counts_late = sabotage::is(Sabotage::LeaseCountedFromTheReply);
        let within = if counts_late { lease } else { until_first(&stop_late(&live, lease), lease).min(lease / 4) };
        let pages = live.chunks(PAGE).map(|page| renew(&inner, page, within));
        crate::concurrently(pages).await;
        // Not all clients at once, when they were held up together.
        wait = inner.random.jitter(until_first(&stop_late(&live, lease), lease).min(lease / 4));
    }
}

/// Stops the attempts whose time is over; returns the others.
fn stop_late(attempts: &[Arc<AttemptShared>], lease: Duration) -> Vec<&Arc<AttemptShared>> {
    let now = clock::now();
    let (late, going): (Vec<_>, Vec<_>) = attempts.iter().partition(|attempt| attempt.stops_at(lease) <= now);
    late.iter().for_each(|attempt| attempt.lease_over("its lease could not be renewed in time"));
    going
}

/// How long the attempt whose time is over first has left; the whole lease where there is none.
fn until_first(attempts: &[&Arc<AttemptShared>], lease: Duration) -> Duration {
    let first = attempts.iter().map(|attempt| attempt.stops_at(lease)).min();
    first.map_or(lease, |first| first.saturating_duration_since(clock::now()))
}

async fn renew(inner: &Inner, page: &[Arc<AttemptShared>], within: Duration) {
    let asked = clock::now();
    let attempts: Vec<_> = page.iter().map(|attempt| attempt.id()).collect();
    let request = v1::RenewAttemptsRequest { instance: inner.application.instance.0, attempts };
    let call = inner.link.call(|mut door| {
        let request = request.clone();
        async move { door.renew_attempts(request).await }
    });
    match clock::timeout(within, call).await {
        Ok(Ok(reply)) if reply.alive.len() == page.len() => {
            for (attempt, alive) in page.iter().zip(reply.alive) {
                if alive {
                    let late = sabotage::is(Sabotage::LeaseCountedFromTheReply);
                    attempt.renewed(if late { clock::now() } else { asked });
                } else {
                    attempt.lease_over("the lifecycle manager says that it is dead");
                }
            }
        }
        Ok(Err(error @ LifecycleError::Refused { .. })) => {
            for attempt in page {
                attempt.stop(PushError::Lifecycle(error.clone()));
            }
        }
        Ok(Ok(_)) => tracing::warn!(event = "attempts_not_renewed", "the answer speaks of other attempts than asked"),
        Ok(Err(LifecycleError::Unreachable { text })) => tracing::warn!(event = "attempts_not_renewed", text),
        Err(clock::Elapsed) => tracing::warn!(event = "attempts_not_renewed", "no answer in time"),
    }
}
