//! Sends the bytes of locations to the worker that takes them over, as a primary forwards batches to its replica.
//!
//! Owns the connection, the frames that are on their way, and their bound. The frames are those of replication, and are
//! answered in order; the other side takes each batch at its location's own length only.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mallorn_proto::id::Handle;
use mallorn_proto::message::{Kind, PushReply, Replicate, ReplicatedPart};
use mallorn_proto::status::Status;
use mallorn_runtime::clock;
use mallorn_runtime::connection::{Begun, CallError, Connection, Frame, Limits, OpenError};
use mallorn_worker_core::fetch::Cursor;
use mallorn_worker_core::replicate::gather;

use super::doors::Target;
use super::read::{self, Piece};
use crate::identity::Identity;
use crate::memory::arena::View;
use crate::memory::location::Location;
use crate::memory::store::Store;

/// Frames on their way to one worker.
const FRAMES_IN_FLIGHT: usize = 64;
/// Bytes on their way to one worker, but for a single frame that is larger.
const BYTES_IN_FLIGHT: u64 = 8 * 1024 * 1024;
/// How long connecting may take, and each answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

const LIMITS: Limits = Limits { open_within: ANSWER_WITHIN, call_within: ANSWER_WITHIN, window: FRAMES_IN_FLIGHT };

/// Why nothing more can be sent to a worker.
#[derive(Debug, thiserror::Error)]
enum SendError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("it answered nothing for {ANSWER_WITHIN:?}")]
    Late,
    #[error("it answers what it was not asked")]
    Protocol,
}

/// A frame on its way.
struct Flight {
    begun: Begun,
    location: usize,
    batches: usize,
    bytes: u64,
}

/// How the sending of one location stands.
#[derive(Clone, Copy, Debug, Default)]
struct Progress {
    /// All of it was handed to the connection.
    is_read: bool,
    in_flight: usize,
    is_refused: bool,
}

/// What is on its way to one worker.
struct Sending {
    connection: Connection,
    body_bytes_max: u32,
    flights: VecDeque<Flight>,
    bytes_in_flight: u64,
    progress: Vec<Progress>,
}

/// Sends all of each location; tells of each whether it has arrived.
pub(super) async fn send(
    store: &Store,
    identity: &Identity,
    target: &Target,
    locations: &[(Arc<Location>, Handle)],
) -> Vec<bool> {
    let nothing = || vec![false; locations.len()];
    let hello = target.peer.hello(identity);
    let (connection, welcome) = match Connection::open(&target.peer.address, &hello, LIMITS).await {
        Ok(opened) => opened,
        Err(error) => {
            tracing::warn!(event = "handover_broken", worker = target.name, %error);
            return nothing();
        }
    };
    let mut sending = Sending {
        connection,
        body_bytes_max: welcome.body_limit,
        flights: VecDeque::new(),
        bytes_in_flight: 0,
        progress: vec![Progress::default(); locations.len()],
    };
    if let Err(error) = sending.send_all(store, locations).await {
        tracing::warn!(event = "handover_broken", worker = target.name, %error);
    }
    let is_there = |progress: &Progress| progress.is_read && progress.in_flight == 0 && !progress.is_refused;
    sending.progress.iter().map(is_there).collect()
}

impl Sending {
    async fn send_all(&mut self, store: &Store, locations: &[(Arc<Location>, Handle)]) -> Result<(), SendError> {
        for (index, (location, handle)) in locations.iter().enumerate() {
            let mut at = Cursor::default();
            while !self.progress[index].is_refused {
                match read::next(&store.spill, location, at).await {
                    Ok(Some(piece)) => {
                        at = piece.next;
                        self.send_piece(index, *handle, piece).await?;
                    }
                    Ok(None) => {
                        self.progress[index].is_read = true;
                        break;
                    }
                    Err(error) => {
                        tracing::warn!(event = "handover_not_read", location = %location.id, %error);
                        break;
                    }
                }
            }
        }
        while !self.flights.is_empty() {
            self.take_answer().await?;
        }
        Ok(())
    }

    async fn send_piece(&mut self, location: usize, handle: Handle, piece: Piece) -> Result<(), SendError> {
        let Piece { mut offset, lengths, mut views, .. } = piece;
        let mut rest = &lengths[..];
        while !rest.is_empty() {
            let (frame, after) = rest.split_at(gather(rest.iter().copied(), self.body_bytes_max));
            rest = after;
            let mut parts = Vec::with_capacity(frame.len());
            let start = offset;
            for length in frame {
                parts.push(ReplicatedPart { handle, offset, length: *length });
                offset += u64::from(*length);
            }
            let bytes = offset - start;
            while self.flights.len() >= FRAMES_IN_FLIGHT
                || self.bytes_in_flight > 0 && self.bytes_in_flight + bytes > BYTES_IN_FLIGHT
            {
                self.take_answer().await?;
            }
            let request = self.connection.next_request();
            let frame = Frame::new(Kind::Replicate as u8, take(&mut views, bytes as usize), |header| {
                Replicate::encode(request, &parts, header).expect("a frame gathers at most so many batches");
            });
            let begun = self.connection.begin(request, frame).await?;
            self.flights.push_back(Flight { begun, location, batches: parts.len(), bytes });
            self.bytes_in_flight += bytes;
            self.progress[location].in_flight += 1;
        }
        Ok(())
    }

    /// Takes the answer to the frame that was sent first.
    async fn take_answer(&mut self) -> Result<(), SendError> {
        let Some(mut flight) = self.flights.pop_front() else { return Ok(()) };
        self.bytes_in_flight -= flight.bytes;
        let answer = clock::timeout(ANSWER_WITHIN, flight.begun.answer()).await.map_err(|_| SendError::Late)??;
        if answer.kind != Kind::PushReply as u8 {
            return Err(SendError::Protocol);
        }
        let reply = PushReply::decode(&answer.header).map_err(|_| SendError::Protocol)?;
        if reply.statuses.len() != flight.batches {
            return Err(SendError::Protocol);
        }
        let progress = &mut self.progress[flight.location];
        progress.in_flight -= 1;
        progress.is_refused |= reply.statuses.iter().any(|status| *status != Status::Success);
        Ok(())
    }
}

/// Takes the first `bytes` of views.
fn take(views: &mut VecDeque<View>, mut bytes: usize) -> Vec<Bytes> {
    let mut taken = Vec::new();
    while bytes > 0
        && let Some(view) = views.pop_front()
    {
        let part = bytes.min(view.length());
        if part < view.length() {
            views.push_front(view.part(part..view.length()));
        }
        taken.push(Bytes::from_owner(view.part(0..part)));
        bytes -= part;
    }
    taken
}
