//! Cuts what a peer sends into frames, reading large amounts at a time into a buffer that is borrowed only while it holds
//! something.

use std::fmt;
use std::future::Future;
use std::io;

use mallorn_proto::frame::{FrameError, Prefix};
use mallorn_proto::limits::{FRAME_HEADER_BYTES_MAX, FRAME_PREFIX_BYTES};
use tokio::io::AsyncReadExt;

use super::pace::{self, Pace};
use super::pool::{Buffer, Pool};
use crate::net::ReadHalf;

/// Read away at a time where no buffer is at hand.
const SKIP_BYTES: usize = 16 * 1024;

/// Where reading buffers come from: a worker's arena, or the heap.
pub trait BufferSource: Send {
    /// A buffer; goes back where it came from when dropped.
    type Buffer: AsRef<[u8]> + AsMut<[u8]> + Send;

    /// Waits for a buffer of at least [`Inbound::BUFFER_BYTES_MIN`], all of it to be written. While it waits the peer is
    /// not read, and no deadline runs against it. Must be cancel-safe.
    fn borrow(&self) -> impl Future<Output = Self::Buffer> + Send;
}

impl BufferSource for Pool {
    type Buffer = Buffer;

    async fn borrow(&self) -> Self::Buffer {
        let mut buffer = self.take(Inbound::<Self>::BUFFER_BYTES_MIN);
        let room = buffer.room();
        buffer.fill(room);
        buffer
    }
}

/// A frame, or the start of one that is larger than the buffer.
pub enum Incoming<'a> {
    /// All of it is here.
    Whole {
        /// The message's type number.
        kind: u8,
        /// The header.
        header: &'a [u8],
        /// The body.
        body: &'a [u8],
    },
    /// Its body must be taken with [`Inbound::body_into`] or [`Inbound::skip_body`] before the next frame.
    Large {
        /// The message's type number.
        kind: u8,
        /// The header.
        header: &'a [u8],
        /// Bytes of the body.
        body_length: usize,
    },
}

/// Lengths only: payload bytes belong in no log.
impl fmt::Debug for Incoming<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, kind, header, body) = match self {
            Self::Whole { kind, header, body } => ("Whole", kind, header.len(), body.len()),
            Self::Large { kind, header, body_length } => ("Large", kind, header.len(), *body_length),
        };
        write!(f, "{name}(type {kind}, header of {header} bytes, body of {body} bytes)")
    }
}

/// Why a peer cannot be read on.
#[derive(Debug, thiserror::Error)]
pub enum InboundError {
    /// What it sends are not frames, or a frame is over its bound.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The connection broke, ended inside a frame (`UnexpectedEof`), or the peer was too slow there (`TimedOut`).
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// The reading side of a connection.
pub struct Inbound<S: BufferSource> {
    stream: ReadHalf,
    source: S,
    buffer: Option<S::Buffer>,
    /// The unread part of the buffer; both are 0 where there is none.
    start: usize,
    end: usize,
    /// Bytes of a large body that were not taken yet.
    body_left: usize,
    body_bytes_max: usize,
    pace: Pace,
}

/// Moves what is unread to the buffer's start, so that there is room behind it.
fn move_down(buffer: &mut [u8], start: &mut usize, end: &mut usize) {
    if *start > 0 {
        buffer.copy_within(*start..*end, 0);
        (*start, *end) = (0, *end - *start);
    }
}

impl<S: BufferSource> Inbound<S> {
    /// The smallest buffer that a source may lend: the largest head of a frame, and nearly as much again.
    pub const BUFFER_BYTES_MIN: usize = 2 * FRAME_HEADER_BYTES_MAX;

    /// Reads from `stream`; a frame with a larger body than this ends it.
    #[must_use]
    pub fn new(stream: ReadHalf, source: S, body_bytes_max: usize) -> Self {
        let pace = Pace::new(pace::WINDOW);
        Self { stream, source, buffer: None, start: 0, end: 0, body_left: 0, body_bytes_max, pace }
    }

    /// From here on, frames with larger bodies than this end the connection.
    pub fn limit_bodies(&mut self, body_bytes_max: usize) {
        self.body_bytes_max = body_bytes_max;
    }

    /// The next frame that the buffer holds; `None` when more must be read first ([`Inbound::fill`]).
    ///
    /// # Errors
    /// `Frame` when the bytes are not a frame within the bounds; it stays so.
    ///
    /// # Panics
    /// When the body of a large frame was not taken.
    pub fn buffered(&mut self) -> Result<Option<Incoming<'_>>, InboundError> {
        assert_eq!(self.body_left, 0, "the body of a large frame must be taken first");
        let Some(buffer) = &self.buffer else { return Ok(None) };
        let unread = &buffer.as_ref()[self.start..self.end];
        let Some(prefix) = Prefix::decode(unread, self.body_bytes_max)? else { return Ok(None) };
        let (kind, head, frame) = (prefix.kind, prefix.head_length(), prefix.frame_length());
        if frame <= unread.len() {
            self.start += frame;
            self.pace.settle();
            let (header, body) = (&unread[FRAME_PREFIX_BYTES..head], &unread[head..frame]);
            return Ok(Some(Incoming::Whole { kind, header, body }));
        }
        if frame <= buffer.as_ref().len() || head > unread.len() {
            return Ok(None);
        }
        self.start += head;
        self.body_left = prefix.body_length as usize;
        let header = &unread[FRAME_PREFIX_BYTES..head];
        Ok(Some(Incoming::Large { kind, header, body_length: self.body_left }))
    }

    /// Reads more; `false` when the peer has ended the connection between two frames. Between two frames it waits for
    /// ever and holds no buffer. Cancel-safe.
    ///
    /// # Errors
    /// `Io` when the connection broke, ended inside a frame, or was too slow there.
    ///
    /// # Panics
    /// When the source lends less than [`Inbound::BUFFER_BYTES_MIN`].
    pub async fn fill(&mut self) -> Result<bool, InboundError> {
        // Reads that never wait are no reason not to let other tasks run.
        tokio::task::coop::consume_budget().await;
        match &mut self.buffer {
            Some(buffer) if self.start < self.end => {
                move_down(buffer.as_mut(), &mut self.start, &mut self.end);
                let bytes = self.pace.keep(self.stream.read(&mut buffer.as_mut()[self.end..])).await?;
                self.end += bytes;
                if bytes == 0 { Err(InboundError::Io(io::ErrorKind::UnexpectedEof.into())) } else { Ok(true) }
            }
            _ => self.fill_anew().await,
        }
    }

    /// Reads what has arrived already, without waiting; `false` where that is nothing, or [`Inbound::fill`] has to say what
    /// it is.
    ///
    /// # Errors
    /// `Io` when the connection broke.
    pub fn try_fill(&mut self) -> Result<bool, InboundError> {
        let Some(buffer) = &mut self.buffer else { return Ok(false) };
        move_down(buffer.as_mut(), &mut self.start, &mut self.end);
        let bytes = self.stream.try_read(&mut buffer.as_mut()[self.end..])?.unwrap_or(0);
        self.end += bytes;
        Ok(bytes > 0)
    }

    async fn fill_anew(&mut self) -> Result<bool, InboundError> {
        self.release();
        loop {
            self.stream.readable().await?;
            let mut buffer = self.source.borrow().await;
            assert!(
                buffer.as_ref().len() >= Self::BUFFER_BYTES_MIN,
                "a source lends buffers of the smallest size at least"
            );
            match self.stream.try_read(buffer.as_mut())? {
                // It was readable no more, and may rest for long: the buffer goes back.
                None => {}
                Some(0) => return Ok(false),
                Some(bytes) => {
                    (self.buffer, self.end) = (Some(buffer), bytes);
                    return Ok(true);
                }
            }
        }
    }

    /// Takes the next bytes of a large frame's body, filling `into` wholly. Not cancel-safe: drop the connection with it.
    ///
    /// # Errors
    /// `Io` as [`Inbound::fill`].
    ///
    /// # Panics
    /// When `into` is larger than what is left of the body.
    pub async fn body_into(&mut self, into: &mut [u8]) -> Result<(), InboundError> {
        assert!(into.len() <= self.body_left, "more bytes asked for than the body has left");
        let mut filled = self.take_buffered(into);
        while filled < into.len() {
            let bytes = self.pace.keep(self.stream.read(&mut into[filled..])).await?;
            if bytes == 0 {
                return Err(InboundError::Io(io::ErrorKind::UnexpectedEof.into()));
            }
            filled += bytes;
        }
        self.took(filled);
        Ok(())
    }

    /// Reads what is left of a large frame's body away; needs no memory from the source. Cancel-safe.
    ///
    /// # Errors
    /// `Io` as [`Inbound::fill`].
    pub async fn skip_body(&mut self) -> Result<(), InboundError> {
        let buffered = (self.end - self.start).min(self.body_left);
        self.start += buffered;
        self.took(buffered);
        let mut spare = Vec::new();
        while self.body_left > 0 {
            let room = away(&mut self.buffer, &mut spare);
            let wanted = room.len().min(self.body_left);
            let bytes = self.pace.keep(self.stream.read(&mut room[..wanted])).await?;
            if bytes == 0 {
                return Err(InboundError::Io(io::ErrorKind::UnexpectedEof.into()));
            }
            self.took(bytes);
        }
        Ok(())
    }

    /// Reads everything away until the peer ends the connection, however long it takes: for a peer that was told why its
    /// connection is closed, and would not hear it if what it still sends were refused. No frame comes after it. Needs no
    /// memory from the source.
    ///
    /// # Errors
    /// When the connection broke.
    pub async fn discard(&mut self) -> io::Result<()> {
        (self.start, self.end, self.body_left) = (0, 0, 0);
        let mut spare = Vec::new();
        while self.stream.read(away(&mut self.buffer, &mut spare)).await? > 0 {}
        Ok(())
    }

    fn take_buffered(&mut self, into: &mut [u8]) -> usize {
        let Some(buffer) = &self.buffer else { return 0 };
        let bytes = into.len().min(self.end - self.start);
        into[..bytes].copy_from_slice(&buffer.as_ref()[self.start..self.start + bytes]);
        self.start += bytes;
        if self.start == self.end {
            self.release();
        }
        bytes
    }

    fn took(&mut self, bytes: usize) {
        self.body_left -= bytes;
        if self.body_left == 0 {
            self.pace.settle();
        }
    }

    /// Gives an empty buffer back.
    fn release(&mut self) {
        (self.buffer, self.start, self.end) = (None, 0, 0);
    }
}

/// Where to read what nobody wants: a buffer that is at hand and empty, or spare memory.
fn away<'a, B: AsMut<[u8]>>(buffer: &'a mut Option<B>, spare: &'a mut Vec<u8>) -> &'a mut [u8] {
    match buffer {
        Some(buffer) => buffer.as_mut(),
        None => {
            spare.resize(SKIP_BYTES, 0);
            spare
        }
    }
}
