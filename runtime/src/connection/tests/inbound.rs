//! Cutting a stream of bytes into frames, and who is closed for being slow.

use std::io::ErrorKind;
use std::pin::pin;
use std::task::Poll;

use mallorn_proto::frame::FrameError;
use tokio::io::AsyncWriteExt;

use super::*;

const BUFFER: usize = Inbound::<Lender>::BUFFER_BYTES_MIN;

fn kind_of(result: Result<bool, InboundError>) -> ErrorKind {
    match result {
        Err(InboundError::Io(error)) => error.kind(),
        other => panic!("{other:?} is no error of the connection"),
    }
}

#[tokio::test]
async fn frames_cut_at_every_byte_position_arrive_whole() {
    let (mut inbound, _, mut far) = reader(MIB).await;
    let sent = [(66, pattern(20, 1), pattern(30, 2)), (3, pattern(1, 3), vec![]), (68, vec![], pattern(5, 4))];
    let bytes: Vec<u8> = sent.iter().flat_map(|(kind, header, body)| frame(*kind, header, body)).collect();
    for cut in 1..bytes.len() {
        let mut got = Vec::new();
        for piece in [&bytes[..cut], &bytes[cut..]] {
            far.write_all(piece).await.unwrap();
            assert!(inbound.fill().await.unwrap());
            while let Some(parts) = buffered(&mut inbound).await.unwrap() {
                got.push(parts);
            }
        }
        assert_eq!(got, sent, "cut at {cut}");
    }
}

#[tokio::test]
async fn frames_byte_by_byte_arrive_whole() {
    let (mut inbound, _, mut far) = reader(MIB).await;
    let bytes = frame(66, &pattern(20, 1), &pattern(30, 2));
    for byte in &bytes[..bytes.len() - 1] {
        far.write_all(&[*byte]).await.unwrap();
        assert!(inbound.fill().await.unwrap());
        assert_eq!(buffered(&mut inbound).await.unwrap(), None);
    }
    far.write_all(&bytes[bytes.len() - 1..]).await.unwrap();
    assert_eq!(next(&mut inbound).await.unwrap(), Some((66, pattern(20, 1), pattern(30, 2))));
}

#[tokio::test]
async fn one_read_takes_many_frames() {
    let (mut inbound, lender, mut far) = reader(MIB).await;
    let bytes: Vec<u8> = (0..1000).flat_map(|number| frame(66, &pattern(8, number), &pattern(16, number))).collect();
    far.write_all(&bytes).await.unwrap();
    assert!(inbound.fill().await.unwrap());
    for number in 0..1000 {
        assert_eq!(buffered(&mut inbound).await.unwrap(), Some((66, pattern(8, number), pattern(16, number))));
    }
    assert_eq!(buffered(&mut inbound).await.unwrap(), None);
    assert_eq!(lender.lent(), 1);
    drop(far);
    assert!(!inbound.fill().await.unwrap(), "the end between two frames is no error");
    assert_eq!(lender.lent(), 0);
}

#[tokio::test]
async fn bodies_around_the_buffer_s_size_arrive_whole() {
    let (mut inbound, _, mut far) = reader(8 * MIB).await;
    let head = 9 + 12;
    let bodies = [BUFFER - head - 1, BUFFER - head, BUFFER - head + 1, 1, 5 * MIB, 0, 2 * BUFFER];
    let write = async {
        for (at, length) in bodies.into_iter().enumerate() {
            far.write_all(&frame(66, &pattern(12, at), &pattern(length, at))).await.unwrap();
        }
    };
    let read = async {
        for (at, length) in bodies.into_iter().enumerate() {
            let (kind, header, body) = next(&mut inbound).await.unwrap().unwrap();
            assert_eq!((kind, header), (66, pattern(12, at)));
            assert!(body == pattern(length, at), "body {at} of {length} bytes");
        }
    };
    tokio::join!(write, read);
}

#[tokio::test]
async fn the_largest_header_fits_the_smallest_buffer() {
    let (mut inbound, _, mut far) = reader(MIB).await;
    let header = pattern(mallorn_proto::limits::FRAME_HEADER_BYTES_MAX, 1);
    let bytes = [frame(1, &[1; 100], &[]), frame(67, &header, &pattern(MIB, 2)), frame(2, &[2], &[])].concat();
    let write = async { far.write_all(&bytes).await.unwrap() };
    let read = async {
        assert_eq!(next(&mut inbound).await.unwrap().unwrap().0, 1);
        assert!(next(&mut inbound).await.unwrap() == Some((67, header.clone(), pattern(MIB, 2))));
        assert_eq!(next(&mut inbound).await.unwrap(), Some((2, vec![2], vec![])));
    };
    tokio::join!(write, read);
}

#[tokio::test]
async fn a_skipped_body_leaves_the_frame_after_it() {
    let (mut inbound, lender, mut far) = reader(8 * MIB).await;
    let large = frame(66, &[1; 8], &pattern(3 * MIB, 1));
    let bytes = [&large[..], &large[..], &frame(67, &[2; 8], b"after")[..]].concat();
    let write = async { far.write_all(&bytes).await.unwrap() };
    let read = async {
        for taken in [0, 2 * MIB] {
            while inbound.buffered().unwrap().is_none() {
                assert!(inbound.fill().await.unwrap());
            }
            let mut part = vec![0; taken];
            inbound.body_into(&mut part).await.unwrap();
            assert!(part == pattern(3 * MIB, 1)[..taken]);
            inbound.skip_body().await.unwrap();
        }
        assert_eq!(next(&mut inbound).await.unwrap(), Some((67, vec![2; 8], b"after".to_vec())));
        assert!(lender.lent() <= 1);
    };
    tokio::join!(write, read);
}

#[tokio::test]
async fn a_connection_that_is_given_up_is_read_to_its_end() {
    let large = frame(66, &[1; 8], &pattern(3 * MIB, 1));
    for taken in [None, Some(0), Some(MIB)] {
        let (mut inbound, lender, mut far) = reader(8 * MIB).await;
        let write = async {
            far.write_all(&[&large[..], &[0xff; MIB]].concat()).await.unwrap();
            drop(far);
        };
        let read = async {
            if let Some(taken) = taken {
                while inbound.buffered().unwrap().is_none() {
                    inbound.fill().await.unwrap();
                }
                inbound.body_into(&mut vec![0; taken]).await.unwrap();
                assert!(inbound.fill().await.unwrap(), "more may be read before the body is taken");
            }
            inbound.discard().await.unwrap();
        };
        tokio::join!(write, read);
        assert!(lender.lent() <= 1);
    }
}

#[tokio::test]
async fn what_is_not_a_frame_has_a_typed_error_and_no_memory() {
    let claims = |header_length: u32, body_length: u32| {
        let mut bytes = Vec::new();
        Prefix { header_length, kind: 66, body_length }.encode(&mut bytes);
        bytes
    };
    let header = |claimed| FrameError::Header { claimed };
    let body = |claimed| FrameError::Body { claimed, limit: MIB };
    let cases = [
        (b"GET / HTTP/1.1\r\nHost: worker\r\n\r\n".to_vec(), header(u32::from_be_bytes(*b"GET "))),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(), header(0x1603_0102)),
        (vec![0xff; 64], header(u32::MAX)),
        (claims(64 * 1024 + 1, 0), header(64 * 1024 + 1)),
        (claims(8, 1 << 31), body(1 << 31)),
        (claims(8, MIB as u32 + 1), body(MIB as u32 + 1)),
        (claims(0, 0), FrameError::Empty),
    ];
    for (bytes, expected) in cases {
        let (mut inbound, lender, mut far) = reader(MIB).await;
        far.write_all(&frame(1, b"good", b"frame")).await.unwrap();
        far.write_all(&bytes).await.unwrap();
        assert_eq!(next(&mut inbound).await.unwrap().unwrap().0, 1);
        for _ in 0..2 {
            match next(&mut inbound).await {
                Err(InboundError::Frame(error)) => assert_eq!(error, expected),
                other => panic!("{other:?} where {expected} was due"),
            }
        }
        assert_eq!(lender.lent(), 1, "one buffer, and nothing of what was claimed");
    }
}

#[tokio::test]
async fn the_end_inside_a_frame_is_an_error() {
    let bytes = frame(66, &[1; 8], &pattern(BUFFER, 1));
    for cut in [1, 8, 9, 12, 17, 18, 1000, bytes.len() - 1] {
        let (mut inbound, _, mut far) = reader(MIB).await;
        far.write_all(&bytes[..cut]).await.unwrap();
        drop(far);
        match next(&mut inbound).await {
            Err(InboundError::Io(error)) => assert_eq!(error.kind(), ErrorKind::UnexpectedEof, "cut at {cut}"),
            other => panic!("{other:?} after {cut} bytes"),
        }
    }
    let (mut inbound, _, mut far) = reader(MIB).await;
    far.write_all(&bytes[..100]).await.unwrap();
    drop(far);
    while inbound.buffered().unwrap().is_none() {
        inbound.fill().await.unwrap();
    }
    assert!(
        matches!(inbound.skip_body().await, Err(InboundError::Io(error)) if error.kind() == ErrorKind::UnexpectedEof)
    );
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_never_closed_and_holds_no_buffer() {
    let _held = hold_clock();
    let (mut inbound, lender, mut far) = reader(MIB).await;
    for round in 0..3 {
        // As much as the buffer holds, so that the read does not show that nothing is left.
        let body = pattern(BUFFER - 17, round);
        far.write_all(&frame(66, &[1; 8], &body)).await.unwrap();
        assert_eq!(next(&mut inbound).await.unwrap().unwrap().2.len(), body.len());
        let mut fill = Box::pin(inbound.fill());
        for _ in 0..3 {
            assert!(poll(fill.as_mut()).is_pending());
            advance(24 * 3600 * SECOND).await;
            assert_eq!(lender.lent(), 0);
        }
    }
}

#[tokio::test]
async fn a_connection_at_rest_takes_a_fraction_of_its_4_kib() {
    let (near, _far) = pair().await;
    let (read, write) = near.split();
    let mut inbound = Inbound::new(read, Lender::default(), MIB);
    let mut outbound = super::super::Outbound::new(write);
    let both = size_of_val(&inbound) + size_of_val(&outbound);
    let reading = size_of_val(&inbound.fill());
    let reading = reading.max(size_of_val(&inbound.skip_body()));
    let writing = size_of_val(&outbound.flush());
    assert!(both + reading.max(writing) < 1024, "{both} bytes, reading {reading}, writing {writing}");
}

#[tokio::test(start_paused = true)]
async fn a_frame_that_does_not_come_on_is_closed_after_the_window() {
    let _held = hold_clock();
    for part in [1, 9, 20, 9 + 8 + BUFFER] {
        let (mut inbound, _, mut far) = reader(MIB).await;
        far.write_all(&frame(66, &[1; 8], &pattern(MIB, 1))[..part]).await.unwrap();
        let mut read = pin!(next(&mut inbound));
        stall(read.as_mut()).await;
        advance(10 * SECOND - Duration::from_millis(1)).await;
        assert!(poll(read.as_mut()).is_pending(), "{part} bytes");
        advance(Duration::from_millis(2)).await;
        match poll(read.as_mut()) {
            Poll::Ready(Err(InboundError::Io(error))) => assert_eq!(error.kind(), ErrorKind::TimedOut),
            other => panic!("{other:?} after {part} bytes and the window"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_trickle_is_closed_after_the_window() {
    let _held = hold_clock();
    let (mut inbound, _, mut far) = reader(MIB).await;
    far.write_all(&frame(66, &[1; 8], &pattern(MIB, 1))[..10]).await.unwrap();
    assert!(inbound.fill().await.unwrap());
    for _ in 0..9 {
        let mut fill = Box::pin(inbound.fill());
        assert!(poll(fill.as_mut()).is_pending());
        advance(SECOND).await;
        far.write_all(&[0]).await.unwrap();
        assert!(fill.await.unwrap());
    }
    let mut fill = Box::pin(inbound.fill());
    assert!(poll(fill.as_mut()).is_pending());
    advance(SECOND).await;
    assert_eq!(kind_of(fill.await), ErrorKind::TimedOut);
}

#[tokio::test(start_paused = true)]
async fn a_body_at_more_than_the_pace_arrives_however_long_it_takes() {
    let _held = hold_clock();
    let (mut inbound, _, mut far) = reader(64 * MIB).await;
    let body = pattern(48 * MIB, 1);
    let bytes = frame(66, &[1; 8], &body);
    far.write_all(&bytes[..20]).await.unwrap();
    while inbound.buffered().unwrap().is_none() {
        inbound.fill().await.unwrap();
    }
    let mut sent = 20;
    let mut got = Vec::new();
    while got.len() < body.len() {
        let mut piece = vec![0; (MIB + MIB / 5).min(body.len() - got.len())];
        let end = bytes.len().min(sent + piece.len());
        {
            let mut read = pin!(inbound.body_into(&mut piece));
            assert!(poll(read.as_mut()).is_pending());
            advance(SECOND).await;
            let (read, wrote) = tokio::join!(read, far.write_all(&bytes[sent..end]));
            read.unwrap();
            wrote.unwrap();
        }
        (sent, got) = (end, [got, piece].concat());
        if sent < bytes.len() {
            continue;
        }
        let mut rest = vec![0; body.len() - got.len()];
        inbound.body_into(&mut rest).await.unwrap();
        got.extend(rest);
    }
    assert!(got == body);
}

#[tokio::test(start_paused = true)]
async fn each_frame_has_a_window_of_its_own() {
    let _held = hold_clock();
    let (mut inbound, _, mut far) = reader(MIB).await;
    for length in [1000, 2 * BUFFER, 1000, 2 * BUFFER, 1000] {
        let bytes = frame(66, &[1; 8], &pattern(length, 1));
        far.write_all(&bytes[..100]).await.unwrap();
        let mut read = Box::pin(next(&mut inbound));
        stall(read.as_mut()).await;
        advance(6 * SECOND).await;
        let (read, wrote) = tokio::join!(read, far.write_all(&bytes[100..]));
        wrote.unwrap();
        assert!(read.unwrap().unwrap().2 == pattern(length, 1));
    }
}

#[tokio::test(start_paused = true)]
async fn time_spent_not_reading_is_not_the_peer_s_fault() {
    let _held = hold_clock();
    let (mut inbound, _, mut far) = reader(MIB).await;
    let bytes = frame(66, &[1; 8], &pattern(1000, 1));
    far.write_all(&bytes[..500]).await.unwrap();
    assert!(inbound.fill().await.unwrap());
    advance(60 * SECOND).await;
    let mut read = Box::pin(inbound.fill());
    assert!(poll(read.as_mut()).is_pending());
    advance(9 * SECOND).await;
    far.write_all(&bytes[500..]).await.unwrap();
    assert!(read.await.unwrap());
    assert_eq!(next(&mut inbound).await.unwrap().unwrap().2, pattern(1000, 1));
}

#[tokio::test(start_paused = true)]
async fn reads_that_are_cancelled_and_begun_again_lose_nothing_and_forgive_nothing() {
    let _held = hold_clock();
    let (mut inbound, _, mut far) = reader(MIB).await;
    let bytes = frame(66, &[1; 8], &pattern(1000, 1));
    for part in bytes.chunks(97) {
        assert!(poll(pin!(inbound.fill())).is_pending());
        far.write_all(part).await.unwrap();
        assert!(inbound.fill().await.unwrap());
    }
    assert_eq!(buffered(&mut inbound).await.unwrap().unwrap().2, pattern(1000, 1));

    far.write_all(&bytes[..500]).await.unwrap();
    assert!(inbound.fill().await.unwrap());
    for _ in 0..10 {
        let mut fill = Box::pin(inbound.fill());
        assert!(poll(fill.as_mut()).is_pending());
        advance(SECOND).await;
    }
    assert_eq!(kind_of(inbound.fill().await), ErrorKind::TimedOut);
}
