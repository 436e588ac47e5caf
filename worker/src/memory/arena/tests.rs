use super::*;

const MIB: u64 = 1024 * 1024;
const BODY: u32 = 1024 * 1024;

fn arena() -> Arc<Arena> {
    Arena::new(16 * MIB, BODY).unwrap()
}

fn held(arena: &Arena) -> u64 {
    arena.usage().held_total_bytes()
}

#[test]
fn slots_go_back_when_their_last_holder_is_gone() {
    let arena = arena();
    let slot = arena.take(Pool::Push, 4096, 1).unwrap();
    let view = slot.into_view(100);
    let part = view.part(10..20);
    drop(view);
    assert_eq!(held(&arena), 4096);
    drop(part);
    assert_eq!(held(&arena), 0);
    let charge = arena.charge(Pool::Read, 10).unwrap();
    assert_eq!(held(&arena), 10);
    drop(charge);
    assert_eq!(held(&arena), 0);
}

#[test]
fn views_keep_what_was_written_while_the_tail_writes_on() {
    let arena = arena();
    let mut tail = arena.take(Pool::Push, 4096, 1).unwrap().into_tail();
    let mut first = tail.append(&[1; 1000]);
    let second = tail.append(&[2; 1000]);
    let rest = tail.append(&[3; 4096]);
    assert_eq!((tail.room(), rest.length()), (0, 2096));
    assert_eq!(first.as_ref(), [1; 1000]);
    assert!(first.join(rest.clone()).is_some(), "what does not follow is not joined");
    assert!(first.join(second).is_none() && first.join(rest).is_none());
    drop(tail);
    let bytes = first.as_ref();
    assert!(bytes[..1000].iter().all(|byte| *byte == 1) && bytes[1000..2000].iter().all(|byte| *byte == 2));
    assert!(bytes[2000..].iter().all(|byte| *byte == 3) && bytes.len() == 4096);
}

#[test]
fn a_tail_that_is_finished_gives_back_what_it_did_not_write() {
    let arena = arena();
    let mut tail = arena.take(Pool::Push, MIB, 1).unwrap().into_tail();
    let view = tail.append(&[7; 5000]);
    assert_eq!(tail.finish(), MIB - 8192);
    assert_eq!(held(&arena), 8192);
    let mut others: Vec<_> = std::iter::from_fn(|| arena.take(Pool::Push, 4096, 1)).collect();
    others.iter_mut().for_each(|slot| slot.as_mut().fill(9));
    assert_eq!(view.as_ref(), [7; 5000]);
    drop((others, view));
    assert_eq!(held(&arena), 0);
}

#[test]
fn a_reader_on_another_thread_sees_what_was_published() {
    let arena = arena();
    let mut tail = arena.take(Pool::Push, MIB, 1).unwrap().into_tail();
    let (sender, receiver) = std::sync::mpsc::sync_channel::<(u8, View)>(4);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for (byte, view) in receiver {
                assert!(view.as_ref().iter().all(|seen| *seen == byte));
            }
        });
        for round in 0..1000u32 {
            let byte = round as u8;
            sender.send((byte, tail.append(&[byte; 1000]))).unwrap();
        }
        drop(sender);
    });
}

#[test]
fn neighbours_do_not_touch_each_other() {
    let arena = arena();
    let mut slots: Vec<_> =
        (0..64u8).map(|byte| (byte, arena.take(Pool::Push, 4096 << (byte % 4), 1).unwrap())).collect();
    for (byte, slot) in &mut slots {
        slot.as_mut().fill(*byte);
    }
    assert!(slots.iter().all(|(byte, slot)| slot.as_ref().iter().all(|seen| seen == byte)));
}

#[test]
fn all_of_a_body_is_taken_or_nothing() {
    let arena = arena();
    let body = arena.take_all(Pool::Push, MIB + 28).unwrap();
    assert_eq!(body.iter().map(Slot::length).collect::<Vec<_>>(), [MIB as usize, 4096]);
    let before = held(&arena);
    assert!(arena.take_all(Pool::Push, 15 * MIB).is_none());
    assert_eq!(held(&arena), before);
}

#[test]
fn a_charge_is_raised_within_the_pool() {
    let arena = arena();
    let mut charge = arena.charge(Pool::Push, 100).unwrap();
    assert!(charge.raise(50) && charge.bytes() == 100);
    assert!(charge.raise(200) && charge.bytes() == 200);
    assert!(!charge.raise(100 * MIB) && charge.bytes() == 200);
    assert_eq!(held(&arena), 200);
}

#[tokio::test]
async fn a_connection_waits_for_a_buffer_until_one_is_given_back() {
    let buffers = ReceiveBuffers(arena());
    let mut lent: Vec<_> = std::iter::from_fn(|| buffers.try_borrow()).collect();
    assert!(lent.len() >= 16, "{} buffers", lent.len());
    let mut waiting = std::pin::pin!(buffers.borrow());
    let polled = std::future::poll_fn(|context| std::task::Poll::Ready(waiting.as_mut().poll(context))).await;
    assert!(polled.is_pending());
    lent.pop();
    let slot = waiting.await;
    assert!(slot.length() >= Inbound::<ReceiveBuffers>::BUFFER_BYTES_MIN);
    assert_eq!(buffers.0.waiting.load(Ordering::SeqCst), 0);
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_more_than_there_is_lets_others_go_on() {
    let arena = arena();
    let limit = arena.limit_bytes(Pool::Read);
    let rest = arena.take_all(Pool::Read, limit - 8192).unwrap();
    let waited = clock::timeout(Duration::from_secs(1), arena.wait_all(Pool::Read, MIB)).await;
    assert!(waited.is_err(), "a part of it is not kept, and wakes nobody");
    assert_eq!(held(&arena), limit - 8192);
    let (slots, ()) = tokio::join!(arena.wait_all(Pool::Read, MIB), async { drop(rest) });
    assert_eq!(slots.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn who_waits_to_receive_is_woken_whoever_else_waits() {
    let arena = arena();
    let read = arena.take_all(Pool::Read, 4 * MIB).unwrap();
    let mut received: Vec<_> = std::iter::from_fn(|| arena.take(Pool::Receive, RECEIVE_BYTES, RECEIVE_BYTES)).collect();
    let buffers = ReceiveBuffers(Arc::clone(&arena));
    let second = Duration::from_secs(1);
    let give_back = async { drop(received.pop()) };
    let reads = clock::timeout(second, arena.wait_all(Pool::Read, MIB));
    let (waited, borrowed, ()) = tokio::join!(reads, clock::timeout(second, buffers.borrow()), give_back);
    assert!(waited.is_err() && borrowed.is_ok());
    drop(read);
}
