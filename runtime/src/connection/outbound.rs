//! Writes frames: what is queued between two flushes goes out in as few writes as possible, bodies without a copy.

use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use mallorn_proto::frame::Prefix;
use mallorn_proto::limits::FRAME_PREFIX_BYTES;
use tokio::io::{AsyncWrite, AsyncWriteExt};

use super::pace::{self, Pace};
use crate::net::WriteHalf;

/// Slices handed to the system in one write.
const SLICES_PER_WRITE: usize = 128;

/// A frame ready to be written.
#[cfg_attr(feature = "sim", derive(Clone))]
pub struct Frame {
    /// Prefix, header, and what of the body was small enough to be built beside them.
    pub(super) head: BytesMut,
    /// The rest of the body.
    pub(super) body: Vec<Bytes>,
}

impl Frame {
    /// The type of its message.
    #[cfg(feature = "sim")]
    pub(super) fn kind(&self) -> u8 {
        self.head[4]
    }

    /// Makes a frame. All that `header` writes is its header; `body` is not copied.
    ///
    /// # Panics
    /// When the body is over 4 GiB; every caller bounds it far below.
    pub fn new(kind: u8, body: Vec<Bytes>, header: impl FnOnce(&mut BytesMut)) -> Self {
        Self::with_inline(kind, &[], body, header)
    }

    /// As [`Frame::new`], with a body that begins with `inline`, which is small and is copied beside the header.
    ///
    /// # Panics
    /// As there.
    pub fn with_inline(kind: u8, inline: &[u8], body: Vec<Bytes>, header: impl FnOnce(&mut BytesMut)) -> Self {
        let mut head = BytesMut::with_capacity(128);
        encode(&mut head, kind, inline.len() + body_bytes(&body), header);
        head.extend_from_slice(inline);
        Self { head, body }
    }

    /// Bytes of the whole frame.
    #[must_use]
    pub fn length(&self) -> usize {
        self.head.len() + body_bytes(&self.body)
    }
}

/// Lengths only: payload bytes belong in no log.
impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Frame({} bytes)", self.length())
    }
}

fn body_bytes(body: &[Bytes]) -> usize {
    body.iter().map(Bytes::len).sum()
}

/// Writes prefix and header; the header's length is what `header` wrote.
fn encode(out: &mut BytesMut, kind: u8, body_length: usize, header: impl FnOnce(&mut BytesMut)) {
    let start = out.len();
    let header_start = start + FRAME_PREFIX_BYTES;
    out.resize(header_start, 0);
    header(out);
    let prefix = Prefix {
        header_length: u32::try_from(out.len() - header_start).expect("headers are far below 4 GiB"),
        kind,
        body_length: u32::try_from(body_length).expect("bodies are far below 4 GiB"),
    };
    prefix.encode(&mut &mut out[start..header_start]);
}

/// The writing side of a connection.
///
/// It bounds neither the frames nor the bytes that are queued between two flushes: whoever queues answers flushes before
/// [`Outbound::queued_bytes`] grows over what one connection may hold.
pub struct Outbound<W = WriteHalf> {
    stream: W,
    /// Heads of the frames after the last body in `queued`.
    heads: BytesMut,
    /// What goes out before `heads`; no piece is empty.
    queued: VecDeque<Bytes>,
    pace: Pace,
}

impl<W: AsyncWrite + Unpin> Outbound<W> {
    /// Writes to `stream`.
    #[must_use]
    pub fn new(stream: W) -> Self {
        Self::patient(stream, pace::WINDOW)
    }

    /// Writes to a `stream` whose peer may take as little as 10 MiB in `window`.
    #[must_use]
    pub(super) fn patient(stream: W, window: Duration) -> Self {
        Self { stream, heads: BytesMut::new(), queued: VecDeque::new(), pace: Pace::new(window) }
    }

    /// Queues a frame without a body: all that `header` writes is its header. Small answers queued one after the other
    /// lie in one buffer and cost one write.
    pub fn push(&mut self, kind: u8, header: impl FnOnce(&mut BytesMut)) {
        encode(&mut self.heads, kind, 0, header);
    }

    /// Queues a frame with a body in pieces, which are not copied.
    ///
    /// # Panics
    /// As [`Frame::new`].
    pub fn push_with_body(&mut self, kind: u8, body: Vec<Bytes>, header: impl FnOnce(&mut BytesMut)) {
        encode(&mut self.heads, kind, body_bytes(&body), header);
        self.queue_body(body);
    }

    /// Queues a frame made earlier.
    pub fn push_frame(&mut self, frame: Frame) {
        if self.heads.is_empty() {
            self.heads = frame.head;
        } else {
            self.heads.extend_from_slice(&frame.head);
        }
        self.queue_body(frame.body);
    }

    fn queue_body(&mut self, body: Vec<Bytes>) {
        if !body.is_empty() {
            self.queued.push_back(self.heads.split().freeze());
            self.queued.extend(body.into_iter().filter(|piece| !piece.is_empty()));
        }
    }

    /// Bytes queued and not written.
    #[must_use]
    pub fn queued_bytes(&self) -> usize {
        self.heads.len() + self.queued.iter().map(Bytes::len).sum::<usize>()
    }

    /// Writes everything queued. Cancel-safe: what was not written yet stays queued.
    ///
    /// # Errors
    /// When the connection broke, or the peer takes less than 1 MiB/s over 10 s (`TimedOut`).
    pub async fn flush(&mut self) -> io::Result<()> {
        while !self.queued.is_empty() || !self.heads.is_empty() {
            let Self { stream, heads, queued, pace } = self;
            let bytes = pace.keep(poll_fn(|cx| write_some(stream, queued, heads, cx))).await?;
            if bytes == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            self.wrote(bytes);
        }
        // Nothing is owed, and a connection at rest holds no memory.
        self.pace.settle();
        self.heads = BytesMut::new();
        self.queued = VecDeque::new();
        Ok(())
    }

    fn wrote(&mut self, mut bytes: usize) {
        while bytes > 0 {
            let Some(front) = self.queued.front_mut() else {
                self.heads.advance(bytes);
                break;
            };
            let step = bytes.min(front.len());
            front.advance(step);
            bytes -= step;
            if front.is_empty() {
                self.queued.pop_front();
            }
        }
    }

    /// Ends the connection in this direction, after what was written.
    pub async fn close(&mut self) {
        // The peer may be gone already; there is nobody left to tell.
        let _ = self.stream.shutdown().await;
    }
}

/// Offers as much as one write takes. The slices live in here, not in the future that waits.
fn write_some<W: AsyncWrite + Unpin>(
    stream: &mut W,
    queued: &VecDeque<Bytes>,
    heads: &BytesMut,
    cx: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    let mut slices = [IoSlice::new(&[]); SLICES_PER_WRITE];
    let all = queued.iter().map(Bytes::as_ref).chain(std::iter::once(heads.as_ref()).filter(|heads| !heads.is_empty()));
    let used = slices.iter_mut().zip(all).map(|(slice, bytes)| *slice = IoSlice::new(bytes)).count();
    Pin::new(stream).poll_write_vectored(cx, &slices[..used])
}

/// Lengths only: payload bytes belong in no log.
impl<W> fmt::Debug for Outbound<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let queued = self.heads.len() + self.queued.iter().map(Bytes::len).sum::<usize>();
        write!(f, "Outbound({queued} bytes queued)")
    }
}
