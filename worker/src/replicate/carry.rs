//! The task of a link: keeps its connection, sends what was forwarded, and takes the answers in.
//!
//! Owns the connection and the frames that are on their way. It is there while there is something to carry, and for a
//! while after. Does not own the queue (`link`), nor how a location ends (`commit`).

use std::collections::VecDeque;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use mallorn_proto::message::{Kind, PushReply, Replicate};
use mallorn_proto::status::Status;
use mallorn_runtime::clock;
use mallorn_runtime::connection::{Answer, Begun, CallError, Connection, Frame, Limits, OpenError};
use mallorn_runtime::telemetry::quiet::Line;
use mallorn_worker_core::replicate::{CONFIRM_WITHIN, Late, PROGRESS_WITHIN};

use super::link::{Forward, Gathered, Link};
use crate::identity::Identity;
use crate::memory::store::Store;
use crate::metrics::Cause;

/// Frames on their way to one peer.
const FRAMES_IN_FLIGHT: usize = 64;

/// A connection with nothing to carry is closed after this long.
const IDLE: Duration = Duration::from_secs(60);

const LIMITS: Limits = Limits { open_within: PROGRESS_WITHIN, call_within: CONFIRM_WITHIN, window: FRAMES_IN_FLIGHT };

/// Why everything on a link is given up.
#[derive(Debug, thiserror::Error)]
enum CarryError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("the replica confirmed nothing for {PROGRESS_WITHIN:?}")]
    Late,
    #[error("the replica answers what it was not asked")]
    Protocol,
}

impl CarryError {
    fn cause(&self) -> Cause {
        match self {
            Self::Open(_) | Self::Call(_) | Self::Protocol => Cause::Lost,
            Self::Late => Cause::Late,
        }
    }
}

/// A frame on its way.
struct Flight {
    begun: Begun,
    batches: usize,
}

/// Carries what a link's queue holds, until it has been empty for a while.
pub(super) struct Carrier {
    pub(super) link: Arc<Link>,
    pub(super) store: Arc<Store>,
    pub(super) identity: Arc<Identity>,
}

impl Carrier {
    pub(super) async fn run(self) {
        while let Some(round) = self.link.begin_round() {
            if let Err(error) = self.carry(round).await {
                let ended = self.store.give_up(&self.link, error.cause());
                if let Some(Line { repeats }) = self.line("replica_given_up") {
                    tracing::warn!(peer = %self.link.peer.worker, address = self.link.peer.address, %error, ended, repeats,
                        "give up a replica: its locations go on in their next epochs");
                }
            }
        }
    }

    /// Carries until there was nothing to do for a while, the round is over, or the connection fails.
    async fn carry(&self, round: u64) -> Result<(), CarryError> {
        let Some((connection, body_bytes_max)) = self.open().await? else { return Ok(()) };
        let mut flights = VecDeque::new();
        while !self.link.is_over(round) {
            if flights.is_empty() && self.link.has_more() && !connection.is_open() {
                // It broke at rest: nothing is lost with it.
                return Ok(());
            }
            while flights.len() < FRAMES_IN_FLIGHT {
                let Some(gathered) = self.link.gather(round, body_bytes_max) else { break };
                flights.push_back(self.send(&connection, gathered).await?);
            }
            let (wait, late) = self.patience();
            tokio::select! {
                biased;
                answer = first_answer(&mut flights) => {
                    let batches = flights.pop_front().map_or(0, |flight| flight.batches);
                    self.take(&answer?, round, batches)?;
                }
                () = self.link.wake.notified() => {}
                () = clock::sleep(wait) => match late {
                    None => return Ok(()),
                    Some(Late::Link) => return Err(CarryError::Late),
                    Some(Late::Batch) => self.end_oldest(),
                }
            }
        }
        Ok(())
    }

    /// Opens a connection; `None` when the link was given up meanwhile.
    async fn open(&self) -> Result<Option<(Connection, u32)>, CarryError> {
        let link = &self.link;
        let hello = link.peer.hello(&self.identity);
        let Some((wait, _)) = self.remaining() else { return Ok(None) };
        let opened = clock::timeout(wait, Connection::open(&link.peer.address, &hello, LIMITS)).await;
        let (connection, welcome) = opened.map_err(|_| CarryError::Late)??;
        tracing::debug!(peer = %link.peer.worker, address = link.peer.address, "connect to a replica");
        Ok(Some((connection, welcome.body_limit)))
    }

    async fn send(&self, connection: &Connection, gathered: Gathered) -> Result<Flight, CarryError> {
        let Gathered { parts, body } = gathered;
        let request = connection.next_request();
        let frame = Frame::new(Kind::Replicate as u8, body, |header| {
            Replicate::encode(request, &parts, header).expect("a frame gathers at most so many batches");
        });
        let bytes = parts.iter().map(|part| u64::from(part.length)).sum();
        let begun = connection.begin(request, frame).await?;
        self.store.metrics.replicate.bytes.inc_by(bytes);
        Ok(Flight { begun, batches: parts.len() })
    }

    /// How long to wait for whatever may happen next, and what it means that nothing did.
    fn patience(&self) -> (Duration, Option<Late>) {
        self.remaining().map_or((IDLE, None), |(wait, late)| (wait, Some(late)))
    }

    fn remaining(&self) -> Option<(Duration, Late)> {
        let (at, late) = self.link.late_at()?;
        Some((at.saturating_sub(self.link.shared.clock.now()), late))
    }

    fn take(&self, answer: &Answer, round: u64, batches: usize) -> Result<(), CarryError> {
        if answer.kind != Kind::PushReply as u8 {
            return Err(CarryError::Protocol);
        }
        let reply = PushReply::decode(&answer.header).map_err(|_| CarryError::Protocol)?;
        if reply.statuses.len() != batches {
            return Err(CarryError::Protocol);
        }
        let answered = self.link.take_answered(round, batches).unwrap_or_default();
        for (forward, status) in answered.iter().zip(reply.statuses) {
            self.decide(forward, status);
        }
        Ok(())
    }

    fn decide(&self, forward: &Forward, status: Status) {
        if status == Status::Success {
            let waited = forward.confirm(self.link.shared.clock.now());
            self.store.metrics.replicate.waited(waited);
        } else {
            let location = forward.location();
            if self.store.end(location, Cause::Refused)
                && let Some(Line { repeats }) = self.line("replica_refuses")
            {
                let (location, peer) = (location.id, self.link.peer.worker);
                tracing::info!(%location, %peer, %status, repeats, "end a location that its replica refuses");
            }
            self.link.forget(location);
        }
    }

    fn line(&self, what: &'static str) -> Option<Line> {
        self.store.quiet.line((what, self.link.peer.worker.0), clock::now())
    }

    fn end_oldest(&self) {
        if let Some(location) = self.link.oldest() {
            if self.store.end(&location, Cause::Late)
                && let Some(Line { repeats }) = self.line("replica_late")
            {
                let (location, peer) = (location.id, self.link.peer.worker);
                tracing::info!(%location, %peer, repeats, "end a location that waits too long");
            }
            self.link.forget(&location);
        }
    }
}

/// The answer to the frame that was sent first; a replica answers in order.
async fn first_answer(flights: &mut VecDeque<Flight>) -> Result<Answer, CallError> {
    match flights.front_mut() {
        Some(flight) => flight.begun.answer().await,
        None => pending().await,
    }
}
