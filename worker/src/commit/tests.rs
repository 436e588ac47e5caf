use mallorn_proto::batch::BatchHeader;
use mallorn_proto::id::{Attempt, BatchId, MapId};
use mallorn_proto::status::Status;

use super::*;
use crate::memory::location::append::{Appended, Body, NotAppended};
use crate::memory::store::Reserved;
use crate::memory::store::tests::{application, id, reserve_one, store};
use crate::push::answers::{Answers, Asking};

const SEAL: SealId = SealId(5);

fn push(store: &Store, location: &Arc<Location>, bytes: usize) -> Result<Appended, NotAppended> {
    let header = BatchHeader { map: MapId(0), attempt: Attempt(0), batch: BatchId(0), length: bytes as u32 - 16 };
    let answers = Answers::new(store.metrics.clone());
    location.push(&store.arena, header, Body::Copied(&vec![1; bytes]), &mut Asking::new(&answers, 1, 1))
}

#[tokio::test]
async fn a_location_is_frozen_sealed_and_released() {
    let (store, application, id) = (store(), application("a"), id(1, 1));
    reserve_one(&store, &application, id);
    let location = store.by_name(&application, id).unwrap();
    assert_eq!(push(&store, &location, 1000), Ok(Appended::Stored(Status::Success)));
    assert_eq!(store.freeze(&application, &[id]), [Freezing::Acked(1000)]);
    assert_eq!(push(&store, &location, 1000), Err(NotAppended::Closed));
    let sealed = [Sealing::Sealed { batches: 1 }];
    assert_eq!(store.seal(&application, Durability::Memory, &[(id, SEAL, 1000)]).await, sealed);
    assert_eq!(store.seal(&application, Durability::Memory, &[(id, SEAL, 1000)]).await, sealed);
    assert_eq!(store.seal(&application, Durability::Memory, &[(id, SealId(6), 1000)]).await, [Sealing::Conflict]);
    assert_eq!(store.freeze(&application, &[id]), [Freezing::Acked(1000)]);
    assert_eq!(reserve_one(&store, &application, id), Reserved::Closed);
    assert!(store.release(&application, 1..2) >= 4096);
    assert_eq!(store.release(&application, 1..2), 0);
    assert_eq!(store.freeze(&application, &[id]), [Freezing::Unknown]);
    assert_eq!(store.usage().held_total_bytes(), 0);
}

#[tokio::test]
async fn what_is_shorter_than_its_seal_drops_itself_and_is_unknown_from_then_on() {
    let (store, application, id) = (store(), application("a"), id(1, 1));
    let Reserved::Handle(handle) = reserve_one(&store, &application, id) else { panic!("not reserved") };
    push(&store, &store.by_handle(handle).unwrap(), 100).unwrap();
    assert_eq!(store.seal(&application, Durability::Memory, &[(id, SEAL, 101)]).await, [Sealing::Short { held: 100 }]);
    assert_eq!(store.seal(&application, Durability::Memory, &[(id, SEAL, 101)]).await, [Sealing::Unknown]);
    assert!(store.by_handle(handle).is_none());
    assert_eq!(store.usage().held_total_bytes(), 0);
    assert!(store.held().is_empty());
}

#[test]
fn draining_freezes_everything_open() {
    let (store, application) = (store(), application("a"));
    reserve_one(&store, &application, id(1, 1));
    reserve_one(&store, &application, id(2, 1));
    let location = store.by_name(&application, id(2, 1)).unwrap();
    push(&store, &location, 50).unwrap();
    store.drain();
    assert_eq!(push(&store, &location, 50), Err(NotAppended::Closed));
    assert_eq!(
        store.freeze(&application, &[id(1, 1), id(2, 1), id(3, 1)]),
        [Freezing::Acked(0), Freezing::Acked(50), Freezing::Unknown]
    );
}
