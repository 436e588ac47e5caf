//! A connection's inbound side: bytes in, frames out, however the bytes were cut on their way.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use mallorn_proto::frame::Prefix;
use mallorn_proto::limits::FRAME_PREFIX_BYTES;
use mallorn_runtime::clock;
use mallorn_runtime::connection::{BufferSource, Inbound, InboundError, Incoming};
use mallorn_runtime::net::{Listener, ReadHalf, Stream};
use tokio::io::AsyncWriteExt;

use crate::door::runtime;
use crate::feed::Feed;

/// Longest body that the connection takes, in bytes: more than its buffer holds.
const BODY_BYTES_MAX: usize = 4 * Inbound::<Lender>::BUFFER_BYTES_MIN;
/// Most bytes of one input; the socket's own buffers hold as much.
const STREAM_BYTES_MAX: usize = 64 * 1024;
/// Most pieces that a stream is sent in; each is a call to the system.
const PIECES_MAX: usize = 256;
/// No read is waited for longer.
const PATIENCE: Duration = Duration::from_secs(5);

/// A frame as it came: its type, its header, and its body or how much of that was passed over.
type Frame = (u8, Vec<u8>, Result<Vec<u8>, usize>);

/// What a stream of bytes comes to.
#[derive(Debug, PartialEq)]
struct Heard {
    frames: Vec<Frame>,
    /// How it ended: as an error's text, or well.
    end: Option<String>,
}

/// Lends buffers, and counts those that are out.
#[derive(Clone, Default)]
struct Lender {
    lent: Arc<AtomicUsize>,
}

struct Lent {
    bytes: Vec<u8>,
    lent: Arc<AtomicUsize>,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl AsMut<[u8]> for Lent {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.lent.fetch_sub(1, Ordering::Relaxed);
    }
}

impl BufferSource for Lender {
    type Buffer = Lent;

    async fn borrow(&self) -> Lent {
        let before = self.lent.fetch_add(1, Ordering::Relaxed);
        assert_eq!(before, 0, "a connection holds one buffer at most");
        Lent { bytes: vec![0xa5; Inbound::<Self>::BUFFER_BYTES_MIN], lent: Arc::clone(&self.lent) }
    }
}

/// How large bodies are taken, how the stream is cut, whether a long body is put behind it, and the stream.
pub fn target(data: &[u8]) {
    let mut feed = Feed::new(data);
    let (mode, cut, longer) = (feed.byte(), usize::from(feed.u16()), usize::from(feed.u16()));
    let mut bytes = feed.rest().to_vec();
    if mode & 2 == 2 {
        // What a mutator does not reach: a frame that is larger than the buffer.
        bytes.resize(bytes.len() + longer, mode);
    }
    bytes.truncate(STREAM_BYTES_MAX);
    let takes = mode & 1 == 1;
    let expected = by_the_book(&bytes, takes);
    let heard = runtime().block_on(async {
        let (mut far, read) = pair().await;
        let ear = Ear { inbound: Inbound::new(read, Lender::default(), BODY_BYTES_MAX), takes, frames: Vec::new() };
        let mut pieces = bytes.chunks((1 + cut).max(bytes.len() / PIECES_MAX));
        ear.hear(&mut far, &mut pieces).await
    });
    assert_eq!(heard, expected);
}

/// The frames of a stream that is all there: the rules said again.
fn by_the_book(mut bytes: &[u8], takes: bool) -> Heard {
    let mut frames = Vec::new();
    let end = loop {
        if bytes.is_empty() {
            break None;
        }
        let prefix = match Prefix::decode(bytes, BODY_BYTES_MAX) {
            Ok(Some(prefix)) => prefix,
            Ok(None) => break Some(short()),
            Err(error) => break Some(InboundError::from(error).to_string()),
        };
        let mut written = Vec::new();
        prefix.encode(&mut written);
        assert_eq!(written, bytes[..FRAME_PREFIX_BYTES]);
        assert!(prefix.head_length() <= prefix.frame_length());
        let (head, length) = (prefix.head_length(), prefix.frame_length());
        let Some((frame, rest)) = bytes.split_at_checked(length) else { break Some(short()) };
        let body = &frame[head..];
        let is_large = length > Inbound::<Lender>::BUFFER_BYTES_MIN;
        let body = if is_large && !takes { Err(body.len()) } else { Ok(body.to_vec()) };
        frames.push((prefix.kind, frame[FRAME_PREFIX_BYTES..head].to_vec(), body));
        bytes = rest;
    };
    Heard { frames, end }
}

fn short() -> String {
    InboundError::Io(io::ErrorKind::UnexpectedEof.into()).to_string()
}

struct Ear {
    inbound: Inbound<Lender>,
    takes: bool,
    frames: Vec<Frame>,
}

impl Ear {
    async fn hear(mut self, far: &mut Stream, pieces: &mut dyn Iterator<Item = &[u8]>) -> Heard {
        let end = match self.all(far, pieces).await {
            Ok(()) => None,
            Err(error) => Some(error.to_string()),
        };
        Heard { frames: self.frames, end }
    }

    async fn all(&mut self, far: &mut Stream, pieces: &mut dyn Iterator<Item = &[u8]>) -> Result<(), InboundError> {
        loop {
            self.buffered(far, pieces).await?;
            send_next(far, pieces).await;
            let more = clock::timeout(PATIENCE, self.inbound.fill()).await.expect("what was sent is read");
            if !more? {
                return Ok(());
            }
            while self.inbound.try_fill()? {}
        }
    }

    /// Takes every frame that is here. A body that is larger than the buffer is on its way still.
    async fn buffered(
        &mut self,
        far: &mut Stream,
        pieces: &mut dyn Iterator<Item = &[u8]>,
    ) -> Result<(), InboundError> {
        while let Some(incoming) = self.inbound.buffered()? {
            let (kind, header, length) = match incoming {
                Incoming::Whole { kind, header, body } => {
                    self.frames.push((kind, header.to_vec(), Ok(body.to_vec())));
                    continue;
                }
                Incoming::Large { kind, header, body_length } => (kind, header.to_vec(), body_length),
            };
            for piece in &mut *pieces {
                far.write_all(piece).await?;
            }
            far.shutdown().await?;
            let body = if self.takes {
                let mut body = vec![0; length];
                let (first, second) = body.split_at_mut(length / 3);
                self.inbound.body_into(first).await?;
                self.inbound.body_into(second).await?;
                Ok(body)
            } else {
                self.inbound.skip_body().await?;
                Err(length)
            };
            self.frames.push((kind, header, body));
        }
        Ok(())
    }
}

/// Sends one more piece, or that there is none.
async fn send_next(far: &mut Stream, pieces: &mut dyn Iterator<Item = &[u8]>) {
    let sent = match pieces.next() {
        Some(piece) => far.write_all(piece).await,
        None => far.shutdown().await,
    };
    // A connection that was ended before is ended still.
    drop(sent);
}

/// Both ends of a connection on this machine.
async fn pair() -> (Stream, ReadHalf) {
    let listener = Listener::bind("127.0.0.1:0").await.expect("a port of this machine's loopback");
    let address = listener.local_addr().expect("a listener has an address").to_string();
    let (far, near) = tokio::join!(Stream::connect(&address, PATIENCE), listener.accept());
    let (near, _) = near.expect("what was connected is accepted");
    (far.expect("the loopback connects"), near.split().0)
}
