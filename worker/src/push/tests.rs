use mallorn_proto::batch::{Codec, Envelope, HEADER_BYTES, OVERHEAD_BYTES, Place, encode_overhead};
use mallorn_proto::frame::Prefix;
use mallorn_proto::id::{Attempt, BatchId, MapId};
use mallorn_proto::limits::FRAME_PREFIX_BYTES;
use mallorn_runtime::net::{Listener, Stream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::memory::arena::Slot;
use crate::memory::store::Reserved;
use crate::memory::store::tests::{application, id, reserve_one, store};

const MAP: MapId = MapId(3);

fn batch(place: &Place, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() + OVERHEAD_BYTES - HEADER_BYTES) as u32;
    let header = BatchHeader { map: MAP, attempt: Attempt(0), batch: BatchId(0), length };
    let envelope = Envelope { codec: Codec::None, last: false, raw_length: payload.len() as u32, crc: 0 };
    let (overhead, _) = encode_overhead(place, &header, &envelope, payload);
    [&overhead[..], payload].concat()
}

fn in_slots(store: &Store, bytes: &[u8]) -> Vec<Slot> {
    let mut slots: Vec<_> =
        (0..bytes.len().div_ceil(4096)).map(|_| store.arena.take(Pool::Push, 4096, 1).unwrap()).collect();
    for (slot, part) in slots.iter_mut().zip(bytes.chunks(4096)) {
        slot.as_mut()[..part.len()].copy_from_slice(part);
    }
    slots
}

/// Pushes one batch where there is memory.
fn append(appender: &Appender<'_>, handle: Handle, batch: &[u8]) -> Status {
    let answers = Answers::new(appender.store.metrics.clone());
    let mut ask = Asking::new(&answers, 1, 1);
    match appender.verify(handle, batch) {
        Ok((location, header)) => {
            let pushed = location.push(&appender.store.arena, header, Body::Copied(batch), &mut ask);
            appender.decided(pushed, batch.len())
        }
        Err(status) => appender.counted(status, batch.len()),
    }
}

#[test]
fn each_batch_is_verified_in_its_place() {
    let store = store();
    let application = application("a");
    let Reserved::Handle(handle) = reserve_one(&store, &application, id(1, 1)) else { panic!("not reserved") };
    let place = store.by_handle(handle).unwrap().place;
    let appender = Appender { store: &store, instance: application.instance };
    let good = batch(&place, b"payload");
    assert_eq!(append(&appender, handle, &good), Status::Success);
    let mut flipped = good.clone();
    *flipped.last_mut().unwrap() ^= 1;
    assert_eq!(append(&appender, handle, &flipped), Status::BadChecksum);
    assert_eq!(append(&appender, handle, &batch(&Place { partition: 9.into(), ..place }, b"x")), Status::BadChecksum);
    assert_eq!(append(&appender, handle, &good[..good.len() - 1]), Status::Malformed);
    assert_eq!(append(&appender, handle, b""), Status::Malformed);
    assert_eq!(append(&appender, Handle(handle.0 ^ 1), &good), Status::HardSplit);
    let stranger = Appender { store: &store, instance: Instance(8) };
    assert_eq!(append(&stranger, handle, &good), Status::HardSplit);
    assert_eq!(store.by_handle(handle).unwrap().lock().log.length(), good.len() as u64);
    assert_eq!(store.metrics.checksum_failures.get(), 2);
}

#[test]
fn a_batch_in_slots_is_verified_as_one_in_a_row() {
    let store = store();
    let place = Place { instance: Instance(7), shuffle: 1.into(), partition: 1.into() };
    let good = batch(&place, &[5; 9000]);
    assert_eq!(verify_pieces(&place, &in_slots(&store, &good), good.len()).map(|header| header.map), Ok(MAP));
    for at in [0, 20, 27, 28, 4095, 4096, 9027] {
        let mut flipped = good.clone();
        flipped[at] ^= 1;
        assert!(verify_pieces(&place, &in_slots(&store, &flipped), good.len()).is_err(), "byte {at}");
    }
    for length in [0, 15, 16, 27, 28, 4096] {
        assert!(verify_pieces(&place, &in_slots(&store, &good[..length]), length).is_err(), "length {length}");
    }
}

#[test]
fn parts_are_gathered_up_to_a_buffer() {
    let part = |length: usize| MergedPart { handle: Handle(1), length: length as u32 };
    assert_eq!(gather(&[part(GATHER_BYTES + 1), part(1)]), 0);
    assert_eq!(gather(&[part(GATHER_BYTES - 1), part(1), part(1)]), 2);
    assert_eq!(gather(&[part(0), part(28)]), 2);
}

/// A connection to a full worker: what it answers to one push, and after how long.
async fn push_to_a_full_worker(store: &Store, frame: &[u8], meanwhile: impl Future<Output = ()>) -> (Status, Duration) {
    let listener = Listener::bind("127.0.0.1:0").await.unwrap();
    let mut client = Stream::connect(&listener.local_addr().unwrap().to_string(), PAUSE_MAX).await.unwrap();
    let (read, write) = listener.accept().await.unwrap().0.split();
    let (inbound, mut outbound) =
        (Inbound::new(read, ReceiveBuffers(Arc::clone(&store.arena)), 1 << 20), Outbound::new(write));
    let appender = Appender { store, instance: Instance(7) };
    let mut connection = PushConnection::new(appender, inbound, &mut outbound);
    let shutdown = Shutdown::new();
    let ask = async {
        let start = clock::now();
        client.write_all(frame).await.unwrap();
        // Prefix, request, count and one status.
        let mut answer = [0; FRAME_PREFIX_BYTES + 11];
        client.read_exact(&mut answer).await.unwrap();
        (Status::from_wire(answer[FRAME_PREFIX_BYTES + 10]), start.elapsed())
    };
    tokio::select! {
        biased;
        answer = ask => answer,
        served = connection.serve(&shutdown) => panic!("{served:?}"),
        () = async { meanwhile.await; std::future::pending().await } => unreachable!(),
    }
}

fn frame(handle: Handle, batch: &[u8]) -> Vec<u8> {
    let mut header = Vec::new();
    Push { request: 1, handle }.encode(&mut header);
    let prefix = Prefix { header_length: 16, kind: Kind::Push as u8, body_length: batch.len() as u32 };
    let mut frame = Vec::new();
    prefix.encode(&mut frame);
    [frame, header, batch.to_vec()].concat()
}

#[tokio::test]
async fn a_push_waits_for_memory_only_while_flushing_makes_progress() {
    let store = store();
    let application = application("a");
    let Reserved::Handle(handle) = reserve_one(&store, &application, id(1, 1)) else { panic!("not reserved") };
    let place = store.by_handle(handle).unwrap().place;
    let mut held: Vec<_> = std::iter::from_fn(|| store.arena.take(Pool::Push, 4096, 1)).collect();
    tokio::time::pause();
    let second = Duration::from_secs(1);
    // One that is copied, and one that is received into slots.
    for payload in [1000, 300_000] {
        let frame = frame(handle, &batch(&place, &vec![1; payload]));
        let (status, took) = push_to_a_full_worker(&store, &frame, async {}).await;
        assert_eq!((status, took), (Status::HardSplit, Duration::ZERO), "no disk can take a spill");
        store.pressure.set_hope(true);
        let (status, took) = push_to_a_full_worker(&store, &frame, async {}).await;
        assert_eq!((status, took.as_secs()), (Status::HardSplit, 2), "nothing is flushed");
        let flush_in_vain = async {
            for _ in 0..100 {
                clock::sleep(second).await;
                store.pressure.flushed(1);
            }
        };
        let (status, took) = push_to_a_full_worker(&store, &frame, flush_in_vain).await;
        assert_eq!((status, took.as_secs()), (Status::HardSplit, 30), "others are quicker");
        let flush = async {
            clock::sleep(second).await;
            held.truncate(held.len() - 100);
            store.pressure.flushed(400_000);
        };
        let (status, took) = push_to_a_full_worker(&store, &frame, flush).await;
        assert_eq!((status, took.as_secs()), (Status::Success, 1));
        held.extend(std::iter::from_fn(|| store.arena.take(Pool::Push, 4096, 1)));
        store.pressure.set_hope(false);
    }
}
