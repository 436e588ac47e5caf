//! Writing frames: how many writes, what is copied, and a peer that takes nothing.

use std::io::{self, ErrorKind, IoSlice};
use std::pin::pin;

use bytes::{BufMut, Bytes};
use proptest::prelude::*;
use tokio::io::AsyncWrite;

use super::super::{Frame, Outbound};
use super::*;

/// Takes what is written, so much at a time, and notes each write.
#[derive(Clone, Default)]
struct Sink {
    seen: Arc<parking_lot::Mutex<Seen>>,
}

#[derive(Default)]
struct Seen {
    bytes: Vec<u8>,
    /// Bytes and slices of each write.
    writes: Vec<(usize, usize)>,
    /// Where each slice was in memory.
    places: Vec<usize>,
    /// Bytes taken by the next writes; the last holds for the rest, and 0 is not now.
    takes: Vec<usize>,
}

impl Sink {
    fn taking(takes: Vec<usize>) -> Self {
        let sink = Self::default();
        sink.seen.lock().takes = takes;
        sink
    }

    fn bytes(&self) -> Vec<u8> {
        self.seen.lock().bytes.clone()
    }
}

impl AsyncWrite for Sink {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let seen = &mut *self.seen.lock();
        let takes = if seen.takes.len() > 1 { Some(seen.takes.remove(0)) } else { seen.takes.first().copied() };
        if takes == Some(0) {
            return Poll::Pending;
        }
        let offered: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
        let taken = offered.len().min(takes.unwrap_or(usize::MAX));
        seen.bytes.extend_from_slice(&offered[..taken]);
        seen.writes.push((taken, slices.len()));
        seen.places.extend(slices.iter().map(|slice| slice.as_ptr() as usize));
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }
}

fn head(header: Vec<u8>) -> impl FnOnce(&mut bytes::BytesMut) {
    move |out| out.put_slice(&header)
}

#[tokio::test]
async fn answers_queued_together_are_one_write() {
    let sink = Sink::default();
    let mut outbound = Outbound::new(sink.clone());
    for round in 0..3u8 {
        let mut expected = Vec::new();
        for number in 0..500 {
            let header = pattern(11, number);
            outbound.push(68 + round, head(header.clone()));
            expected.extend(frame(68 + round, &header, &[]));
        }
        assert_eq!(outbound.queued_bytes(), expected.len());
        outbound.flush().await.unwrap();
        let seen = std::mem::take(&mut *sink.seen.lock());
        assert_eq!(seen.writes, [(expected.len(), 1)]);
        assert!(seen.bytes == expected);
        assert_eq!(outbound.queued_bytes(), 0);
    }
    outbound.flush().await.unwrap();
    assert!(sink.seen.lock().writes.is_empty(), "nothing queued is no write");
}

#[tokio::test]
async fn bodies_go_out_beside_their_heads_without_a_copy() {
    let sink = Sink::default();
    let mut outbound = Outbound::new(sink.clone());
    let pieces: Vec<Bytes> = (0..3).map(|at| Bytes::from(pattern(4096, at))).collect();
    outbound.push(68, head(vec![1; 8]));
    outbound.push_frame(Frame::with_inline(72, &[3; 4], pieces.clone(), head(vec![2; 8])));
    outbound.push(68, head(vec![4; 8]));
    outbound.flush().await.unwrap();
    let body = [&[3; 4][..], &pieces.concat()].concat();
    let expected = [frame(68, &[1; 8], &[]), frame(72, &[2; 8], &body), frame(68, &[4; 8], &[])].concat();
    let seen = sink.seen.lock();
    assert!(seen.bytes == expected);
    assert_eq!(seen.writes, [(expected.len(), 5)], "head, three pieces, and the head after them");
    assert!(pieces.iter().all(|piece| seen.places.contains(&(piece.as_ptr() as usize))));
}

/// A frame's header, the part of its body beside it, and the pieces of the rest.
fn any_frame() -> impl Strategy<Value = (Vec<u8>, Vec<u8>, Vec<Vec<u8>>)> {
    let bytes = |most| prop::collection::vec(any::<u8>(), 0..most);
    (prop::collection::vec(any::<u8>(), 1..20), bytes(20), prop::collection::vec(bytes(50), 0..200))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn however_little_a_write_takes_every_byte_goes_out_once(
        frames in prop::collection::vec(any_frame(), 1..5),
        takes in prop::collection::vec(1..300usize, 1..50),
        queue_first: bool,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let sink = Sink::taking(takes);
        let mut outbound = Outbound::new(sink.clone());
        let mut expected = Vec::new();
        for (at, (header, inline, pieces)) in frames.into_iter().enumerate() {
            let inline = if at % 2 == 0 { Vec::new() } else { inline };
            expected.extend(frame(70, &header, &[inline.clone(), pieces.concat()].concat()));
            let body: Vec<Bytes> = pieces.into_iter().map(Bytes::from).collect();
            if at % 2 == 0 {
                outbound.push_with_body(70, body, head(header.clone()));
            } else {
                outbound.push_frame(Frame::with_inline(70, &inline, body, head(header.clone())));
            }
            // Heads that follow the last body lie in a buffer of their own.
            for _ in 0..5 {
                expected.extend(frame(68, &header, &[]));
                outbound.push(68, head(header.clone()));
            }
            if !queue_first {
                runtime.block_on(outbound.flush()).unwrap();
            }
        }
        prop_assert_eq!(outbound.queued_bytes(), if queue_first { expected.len() } else { 0 });
        runtime.block_on(outbound.flush()).unwrap();
        prop_assert_eq!(sink.bytes(), expected);
        prop_assert!(sink.seen.lock().writes.iter().all(|(_, slices)| *slices <= 128));
    }
}

#[tokio::test]
async fn bodies_larger_than_the_socket_s_buffers_arrive_whole() {
    let (near, far) = pair().await;
    let (read, _write) = far.split();
    let mut inbound = Inbound::new(read, Lender::default(), 64 * MIB);
    let (_read, write) = near.split();
    let mut outbound = Outbound::new(write);
    let pieces: Vec<Bytes> = (0..300).map(|at| Bytes::from(pattern(50_000 + at, at))).collect();
    for number in 0..3u8 {
        outbound.push_with_body(72, pieces.clone(), head(vec![number; 8]));
    }
    let (flushed, ()) = tokio::join!(outbound.flush(), async {
        for number in 0..3u8 {
            let (_, header, body) = next(&mut inbound).await.unwrap().unwrap();
            assert_eq!(header, [number; 8]);
            assert!(body == pieces.concat());
        }
    });
    flushed.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_takes_nothing_is_given_up_after_the_window() {
    let _held = hold_clock();
    let (near, _far) = pair().await;
    let (_read, write) = near.split();
    let mut outbound = Outbound::new(write);
    outbound.push_with_body(72, vec![Bytes::from(vec![0; 64 * MIB])], head(vec![0; 8]));
    let mut flush = pin!(outbound.flush());
    stall(flush.as_mut()).await;
    advance(9 * SECOND).await;
    assert!(poll(flush.as_mut()).is_pending());
    // What the socket's buffers took in the beginning is progress; a whole window without any is not.
    let mut waited = 9;
    let error = loop {
        advance(SECOND).await;
        waited += 1;
        if let Poll::Ready(result) = poll(flush.as_mut()) {
            break result.unwrap_err();
        }
    };
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    assert!((10..=21).contains(&waited), "given up after {waited} s");
}

#[tokio::test(start_paused = true)]
async fn a_flush_that_is_cancelled_goes_on_where_it_was_and_its_wait_counts() {
    let sink = Sink::taking(vec![3, 5, 0]);
    let mut outbound = Outbound::new(sink.clone());
    outbound.push_with_body(72, vec![Bytes::from(pattern(10, 1))], head(vec![1; 8]));
    for _ in 0..3 {
        assert!(poll(pin!(outbound.flush())).is_pending());
    }
    assert_eq!(sink.bytes(), frame(72, &[1; 8], &pattern(10, 1))[..8]);
    sink.seen.lock().takes = vec![1000];
    outbound.push(68, head(vec![2; 8]));
    outbound.flush().await.unwrap();
    assert_eq!(sink.bytes(), [frame(72, &[1; 8], &pattern(10, 1)), frame(68, &[2; 8], &[])].concat());

    sink.seen.lock().takes = vec![0];
    outbound.push(68, head(vec![2; 8]));
    for _ in 0..10 {
        let mut flush = Box::pin(outbound.flush());
        assert!(poll(flush.as_mut()).is_pending());
        tokio::time::advance(SECOND).await;
    }
    let before = tokio::time::Instant::now();
    assert_eq!(outbound.flush().await.unwrap_err().kind(), ErrorKind::TimedOut);
    assert!(before.elapsed() < SECOND, "the waits before it did not count");
}
