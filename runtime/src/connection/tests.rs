//! Over real TCP on loopback; time stands still where deadlines matter, and moves only by [`advance`].

mod call;
mod inbound;
mod outbound;
mod pool;
mod split;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use mallorn_proto::frame::Prefix;

use super::{BufferSource, Inbound, InboundError, Incoming};
use crate::net::{Listener, Stream};

const MIB: usize = 1024 * 1024;
const SECOND: Duration = Duration::from_secs(1);

/// Both ends of a new connection.
async fn pair() -> (Stream, Stream) {
    let listener = Listener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (near, far) = tokio::join!(Stream::connect(&address, SECOND), listener.accept());
    (near.unwrap(), far.unwrap().0)
}

/// A reader of what the other end writes.
async fn reader(body_bytes_max: usize) -> (Inbound<Lender>, Lender, Stream) {
    let (near, far) = pair().await;
    let lender = Lender::default();
    let (read, _) = near.split();
    (Inbound::new(read, lender.clone(), body_bytes_max), lender, far)
}

/// A frame as it travels.
fn frame(kind: u8, header: &[u8], body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let (header_length, body_length) = (header.len() as u32, body.len() as u32);
    Prefix { header_length, kind, body_length }.encode(&mut bytes);
    bytes.extend_from_slice(header);
    bytes.extend_from_slice(body);
    bytes
}

/// Bytes that differ from place to place.
fn pattern(length: usize, seed: usize) -> Vec<u8> {
    let word = |at: usize| (at as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15 ^ (seed as u64) << 1).to_le_bytes();
    let mut bytes: Vec<u8> = (0..length.div_ceil(8)).flat_map(word).collect();
    bytes.truncate(length);
    bytes
}

/// A frame's type, header and body.
type Parts = (u8, Vec<u8>, Vec<u8>);

/// The next frame that the buffer holds, large bodies taken in uneven pieces.
async fn buffered<S: BufferSource>(inbound: &mut Inbound<S>) -> Result<Option<Parts>, InboundError> {
    let (kind, header, length) = match inbound.buffered()? {
        None => return Ok(None),
        Some(Incoming::Whole { kind, header, body }) => return Ok(Some((kind, header.to_vec(), body.to_vec()))),
        Some(Incoming::Large { kind, header, body_length }) => (kind, header.to_vec(), body_length),
    };
    let mut body = vec![0; length];
    let (first, second) = body.split_at_mut(length / 3);
    inbound.body_into(first).await?;
    inbound.body_into(second).await?;
    Ok(Some((kind, header, body)))
}

/// The next frame; `None` at the end of the stream.
async fn next<S: BufferSource>(inbound: &mut Inbound<S>) -> Result<Option<Parts>, InboundError> {
    loop {
        if let Some(parts) = buffered(inbound).await? {
            return Ok(Some(parts));
        }
        if !inbound.fill().await? {
            return Ok(None);
        }
    }
}

/// Lends buffers from the heap and counts those that are out.
#[derive(Clone, Debug, Default)]
struct Lender {
    lent: Arc<AtomicUsize>,
}

impl Lender {
    fn lent(&self) -> usize {
        self.lent.load(Ordering::Relaxed)
    }
}

struct Lent {
    bytes: Vec<u8>,
    lender: Lender,
}

impl BufferSource for Lender {
    type Buffer = Lent;

    async fn borrow(&self) -> Lent {
        self.lent.fetch_add(1, Ordering::Relaxed);
        Lent { bytes: vec![0; Inbound::<Self>::BUFFER_BYTES_MIN], lender: self.clone() }
    }
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
        self.lender.lent.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Keeps the paused clock from jumping ahead whenever everybody waits: without it, waiting for the network would look
/// like an idle program.
#[must_use]
fn hold_clock() -> std::sync::mpsc::Sender<()> {
    let (held, released) = std::sync::mpsc::channel::<()>();
    tokio::task::spawn_blocking(move || released.recv());
    held
}

/// Moves the held clock, and lets everybody see it.
async fn advance(duration: Duration) {
    tokio::time::advance(duration).await;
    settle().await;
}

/// Lets every task do what it can do without waiting; the network of one machine is as quick as that.
async fn settle() {
    for _ in 0..32 {
        tokio::task::yield_now().await;
    }
}

/// Polls and settles until the future can do no more without the peer or the clock.
async fn stall<F: Future>(mut future: Pin<&mut F>) {
    for _ in 0..8 {
        assert!(poll(future.as_mut()).is_pending(), "done already");
        settle().await;
    }
}

/// Polls once.
fn poll<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}
