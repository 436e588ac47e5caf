use std::path::PathBuf;

use mallorn_proto::batch::BatchHeader;
use mallorn_proto::id::{Attempt, BatchId, LocationId, MapId, SealId};
use mallorn_runtime::disk::Disk;
use mallorn_runtime::random::Random;
use mallorn_runtime::task::Tasks;
use mallorn_worker_core::commit::Sealing;
use mallorn_worker_core::push::{Life, SplitLimits};
use mallorn_worker_core::record::{self, Name, Said};
use prometheus::Registry;

use super::files::{OpenFiles, RecordError};
use super::read::DiskError;
use super::*;
use crate::memory::arena::Slot;
use crate::memory::location::append::Body;
use crate::memory::store::tests::{BODY, application, id};
use crate::memory::store::{Bounds, Copies, Wanted};
use crate::push::answers::{Answers, Asking};

const BATCH: usize = 1000;
const SEAL: SealId = SealId(5);

/// A store on folders of a machine's disk, and what writes to them until it is dropped.
fn store(folders: &[PathBuf]) -> (Arc<Store>, Tasks) {
    let arena = Arena::new(16 * 1024 * 1024, BODY).unwrap();
    let metrics = Metrics::new(&Registry::new(), &arena).unwrap();
    let open = |(index, path): (usize, &PathBuf)| {
        Disk::real().create_dir(path).unwrap();
        Arc::new(Folder::open(index as u16, index as u64 + 1, path, &Disk::real()).unwrap())
    };
    let spill = Spill::new(arena, folders.iter().enumerate().map(open).collect(), metrics.clone());
    let mut writers = Tasks::new();
    for folder in spill.folders() {
        writers.spawn(Arc::clone(&spill).write(folder.writer(), Shutdown::new()));
    }
    let bounds = Bounds { body_bytes_max: BODY, split: SplitLimits::NONE };
    (Arc::new(Store::new(spill, bounds, Random::seeded(1), metrics)), writers)
}

/// Reserves a location and pushes one batch to it.
fn pushed(store: &Store, id: LocationId, durability: Durability) -> Arc<Location> {
    let wanted = Wanted { copies: Copies::Lone, durability };
    store.reserve(&application("a"), store.incarnation(), &[id], &wanted).unwrap();
    let location = store.by_name(&application("a"), id).unwrap();
    let header = BatchHeader { map: MapId(0), attempt: Attempt(0), batch: BatchId(0), length: BATCH as u32 - 16 };
    let answers = Answers::new(store.metrics.clone());
    let mut ask = Asking::new(&answers, 1, 1);
    location.push(&store.arena, header, Body::Copied(&[1; BATCH]), &mut ask).unwrap();
    location
}

async fn seal(store: &Store, id: LocationId, durability: Durability) -> Sealing {
    store.seal(&application("a"), durability, &[(id, SEAL, BATCH as u64)]).await[0]
}

#[tokio::test]
async fn what_a_failed_sync_has_lost_is_never_taken_for_synced() {
    let root = tempfile::tempdir().unwrap();
    let (store, _writers) = store(&[root.path().join("a"), root.path().join("b")]);
    let location = pushed(&store, id(1, 1), Durability::Synced);
    assert_eq!(seal(&store, id(1, 1), Durability::Written).await, Sealing::Sealed { batches: 1 });
    let at = usize::from(location.lock().disk.index.unwrap());
    // Two commits sync at once: the second finds what the first one has lost as it would be after any sync.
    let failed = store.spill.folders[at].syncing(|| Err(RecordError::Sync(std::io::Error::other("on purpose"))));
    assert!(failed.is_err());
    assert_eq!(seal(&store, id(1, 1), Durability::Synced).await, Sealing::NotDurable);
    pushed(&store, id(1, 2), Durability::Synced);
    let other = seal(&store, id(1, 2), Durability::Synced).await;
    assert_eq!(other, Sealing::Sealed { batches: 1 }, "the other disk takes it");
}

#[tokio::test]
async fn a_commit_waits_for_what_pressure_has_queued_before_it() {
    let root = tempfile::tempdir().unwrap();
    let (store, _writers) = store(&[root.path().join("a")]);
    let location = pushed(&store, id(1, 1), Durability::Written);
    store.spill.enqueue(Waiting { location: Arc::clone(&location), whole: true, bytes: 0, latch: None });
    assert_eq!(seal(&store, id(1, 1), Durability::Written).await, Sealing::Sealed { batches: 1 });
}

#[tokio::test]
async fn what_waits_when_a_worker_is_dropped_holds_neither_memory_nor_folder() {
    let root = tempfile::tempdir().unwrap();
    let folders = [root.path().join("a")];
    let (store, writers) = store(&folders);
    let location = pushed(&store, id(1, 1), Durability::Written);
    store.spill.enqueue(Waiting { location: Arc::clone(&location), whole: true, bytes: 0, latch: None });
    drop(writers);
    // Tasks are dropped when it is their turn.
    tokio::task::yield_now().await;
    store.spill.enqueue(Waiting { location, whole: true, bytes: 0, latch: None });
    let spill = Arc::downgrade(&store.spill);
    drop(store);
    assert!(spill.upgrade().is_none());
    assert!(Folder::open(0, 1, &folders[0], &Disk::real()).is_ok());
}

#[tokio::test]
async fn what_one_write_has_no_room_for_is_written_by_the_next_ones() {
    let root = tempfile::tempdir().unwrap();
    let (store, _writers) = store(&[root.path().join("a")]);
    let wanted = Wanted { copies: Copies::Lone, durability: Durability::Written };
    let answers = Answers::new(store.metrics.clone());
    let bytes = vec![1; 200_000];
    let header = |batch| BatchHeader { map: MapId(0), attempt: Attempt(0), batch: BatchId(batch), length: 199_984 };
    // Three make an extent; all are queued before anything is written.
    let push = |partition| {
        let id = id(1, partition);
        store.reserve(&application("a"), store.incarnation(), &[id], &wanted).unwrap();
        let location = store.by_name(&application("a"), id).unwrap();
        for batch in 0..3 {
            let mut ask = Asking::new(&answers, 1, 1);
            location.push(&store.arena, header(batch), Body::Copied(&bytes), &mut ask).unwrap();
        }
        location
    };
    // More than one write takes.
    let count = store.spill.write_bytes_max() / 600_000 + 3;
    let locations: Vec<_> = (0..count as u32).map(push).collect();
    let written = async {
        while locations.iter().any(|location| location.lock().log.unwritten() > 0) {
            tokio::task::yield_now().await;
        }
    };
    clock::timeout(Duration::from_secs(20), written).await.expect("all of them are");
}

/// What the last record of a location at a folder says.
fn last_said(folder: &Folder, location: &Location) -> Option<Said> {
    let bytes = Disk::real().read(&records_path(&folder.shuffle_path(location.shuffle())), 1 << 20).unwrap();
    let (_, rest) = record::get_header(&bytes).unwrap();
    let (records, _) = record::records(rest, &[1, 2]);
    let name = Name { partition: location.id.partition, epoch: location.id.epoch };
    records.into_iter().rfind(|(of, _)| *of == name).and_then(|(_, said)| said)
}

#[tokio::test]
async fn a_record_is_never_followed_by_an_older_one() {
    let root = tempfile::tempdir().unwrap();
    let (store, _writers) = store(&[root.path().join("a"), root.path().join("b")]);
    let mut locations: Vec<_> = (1..3).map(|partition| pushed(&store, id(1, partition), Durability::Written)).collect();
    for location in &locations {
        let latch = Latch::new(1);
        let waiting =
            Waiting { location: Arc::clone(location), whole: true, bytes: 0, latch: Some(Arc::clone(&latch)) };
        store.freeze(&application("a"), &[location.id]);
        store.spill.enqueue(waiting);
        latch.wait().await;
        assert_eq!(location.lock().log.unwritten(), 0);
    }
    locations.sort_by_key(|location| location.lock().disk.index);
    let at =
        |location: &Arc<Location>| Arc::clone(&store.spill.folders[usize::from(location.lock().disk.index.unwrap())]);
    let folders: Vec<_> = locations.iter().map(at).collect();
    assert_ne!(folders[0].index, folders[1].index);
    // The first disk keeps the records of a drain waiting, while a commit seals what lies on the second.
    let (go, gone) = std::sync::mpsc::channel::<()>();
    let blocker = folders[0].writing.run(move || gone.recv().is_ok());
    let (spill, both) = (Arc::clone(&store.spill), locations.clone());
    let drain = async move { spill.keep(&both, Durability::Written).await };
    let commit = async {
        tokio::task::yield_now().await;
        assert_eq!(seal(&store, locations[1].id, Durability::Written).await, Sealing::Sealed { batches: 1 });
        drop(go);
    };
    let (_, kept, ()) = tokio::join!(blocker, drain, commit);
    assert_eq!(kept, [true, true]);
    let life = |index: usize| match last_said(&folders[index], &locations[index]) {
        Some(Said::Whole(whole)) => whole.restored.life,
        other => panic!("{other:?}"),
    };
    assert!(matches!(life(0), Life::Frozen { .. }));
    assert_eq!(life(1), Life::Sealed { seal: SEAL, length: BATCH as u64 });
}

#[test]
fn what_a_failed_record_has_left_is_not_read_behind_the_next_one() {
    let root = tempfile::tempdir().unwrap();
    let disk = Disk::real();
    let files = || ShuffleFiles::new(root.path(), Arc::new(application("a")), id(1, 1).shuffle, String::new());
    let opened = |partition| {
        let mut bytes = Vec::new();
        let id = id(1, partition);
        record::put(&mut bytes, Name { partition: id.partition, epoch: id.epoch }, &Said::Opened, &[]);
        bytes
    };
    // These were written, and then their write failed: nobody counts with them.
    files().record(&disk, &[opened(1), opened(2), opened(3)].concat(), false).unwrap();
    let next = files();
    next.record(&disk, &opened(4), false).unwrap();
    let shuffle = disk.list(root.path()).unwrap().remove(0).name;
    let bytes = disk.read(&records_path(&root.path().join(shuffle)), 10_000).unwrap();
    let (_, rest) = record::get_header(&bytes).unwrap();
    let (records, torn) = record::records(rest, &[]);
    assert_eq!((records.len(), torn), (1, 0));
    assert_eq!(records[0].0.partition, id(1, 4).partition);
}

#[tokio::test]
async fn a_commit_does_not_wait_behind_the_removals_of_another_application() {
    const SHUFFLES: u32 = 300;
    let root = tempfile::tempdir().unwrap();
    let (store, _writers) = store(&[root.path().join("a")]);
    let folder = &store.spill.folders[0];
    let (other, wanted) = (application("b"), Wanted { copies: Copies::Lone, durability: Durability::Written });
    let ids: Vec<_> = (0..SHUFFLES).map(|shuffle| id(shuffle, 0)).collect();
    store.reserve(&other, store.incarnation(), &ids, &wanted).unwrap();
    let seals: Vec<_> = ids.iter().map(|id| (*id, SEAL, 0)).collect();
    let sealed = store.seal(&other, Durability::Written, &seals).await;
    assert!(sealed.iter().all(|sealing| *sealing == Sealing::Sealed { batches: 0 }));
    let present = || Disk::real().list(&folder.shuffles_path()).unwrap().len();
    assert_eq!(present(), SHUFFLES as usize);

    // No removal gets on, while a commit asks for all that the disk can do.
    let (go, gone) = std::sync::mpsc::channel::<()>();
    let blocker = folder.removing.run(move || gone.recv().is_ok());
    let commit = async {
        store.release_all(&other);
        pushed(&store, id(1000, 1), Durability::Synced);
        let committed = seal(&store, id(1000, 1), Durability::Synced);
        let committed = clock::timeout(Duration::from_secs(20), committed).await;
        assert_eq!(committed, Ok(Sealing::Sealed { batches: 1 }));
        assert_eq!(present(), SHUFFLES as usize + 1);
        drop(go);
    };
    tokio::join!(blocker, commit).0.unwrap();
    let removed = async {
        while present() > 1 {
            tokio::task::yield_now().await;
        }
    };
    clock::timeout(Duration::from_secs(20), removed).await.expect("all are removed");
    assert!(folder.takes(store.spill.clock.now()));
}

#[test]
fn nothing_is_made_behind_a_removal() {
    let root = tempfile::tempdir().unwrap();
    let (disk, open) = (Disk::real(), OpenFiles::default());
    let files = ShuffleFiles::new(root.path(), Arc::new(application("a")), id(1, 1).shuffle, String::new());
    files.record(&disk, &[1], false).unwrap();
    files.release();
    files.remove(&disk, &open).unwrap();
    assert!(matches!(files.record(&disk, &[1], false), Err(RecordError::Released)));
    assert!(matches!(files.sync(&disk, &open, &[0]), Err(RecordError::Released)));
    assert!(disk.list(root.path()).unwrap().is_empty());
}

/// Reads a location from a folder; the read returns once it is told to.
fn hanging(store: &Arc<Store>, location: &Arc<Location>, folder: usize, bytes: u64) -> (Told, Outcome, Begun) {
    let begun = Begun::default();
    let at_begin = Arc::clone(&begun);
    let (tell, told) = std::sync::mpsc::channel::<()>();
    let (store, location) = (Arc::clone(store), Arc::clone(location));
    let outcome = mallorn_runtime::task::spawn(async move {
        let job = move |_: &Folder, _: &Location, _: &mut [Slot]| {
            at_begin.store(true, Ordering::Release);
            let _ = told.recv();
            Ok(())
        };
        store.spill.read_into(&store.spill.folders[folder], &location, bytes, job).await.map(drop)
    });
    (tell, outcome, begun)
}

type Told = std::sync::mpsc::Sender<()>;
type Begun = Arc<std::sync::atomic::AtomicBool>;
type Outcome = tokio::task::JoinHandle<Result<(), DiskError>>;

#[tokio::test]
async fn a_disk_whose_reads_hang_is_left_and_keeps_no_memory_from_the_others() {
    let root = tempfile::tempdir().unwrap();
    let (store, writers) = store(&[root.path().join("a"), root.path().join("b")]);
    let location = pushed(&store, id(1, 1), Durability::Written);
    assert_eq!(seal(&store, id(1, 1), Durability::Written).await, Sealing::Sealed { batches: 1 });
    let share = store.spill.arena.limit_bytes(Pool::Read) / 3;
    // Time that stands still and jumps would be too short for them.
    drop(writers);
    // More than memory has: all but what fits the disk's share waits for room, not for memory.
    let (mut hang, mut outcomes, mut begun) = (Vec::new(), Vec::new(), Vec::new());
    for (tell, outcome, begins) in (0..32).map(|_| hanging(&store, &location, 0, share / 8)) {
        hang.push(tell);
        outcomes.push(outcome);
        begun.push(begins);
    }
    // What only waits for its turn is not stuck.
    let all_threads = async {
        while begun.iter().filter(|begun| begun.load(Ordering::Acquire)).count() < 4 {
            tokio::task::yield_now().await;
        }
    };
    clock::timeout(Duration::from_secs(20), all_threads).await.expect("reads begin");
    tokio::time::pause();
    for outcome in outcomes {
        let error = outcome.await.unwrap().unwrap_err();
        assert!(matches!(error, DiskError::Hangs | DiskError::NoMemory), "{error}");
    }
    let now = store.spill.clock.now();
    assert!(!store.spill.folders[0].takes(now) && store.spill.folders[1].takes(now), "it takes no new data either");
    let asked = clock::now();
    let job = |_: &Folder, _: &Location| Ok(());
    let refused = store.spill.read(&store.spill.folders[0], &location, job).await;
    assert!(matches!(refused, Err(DiskError::Hangs)));
    assert_eq!(asked.elapsed(), Duration::ZERO, "nobody waits behind reads that hang");
    tokio::time::resume();
    let (tell, other, _) = hanging(&store, &location, 1, share);
    drop(tell);
    other.await.unwrap().unwrap();

    drop(hang);
    let back = async {
        while !store.spill.folders[0].takes(store.spill.clock.now()) {
            tokio::task::yield_now().await;
        }
    };
    clock::timeout(Duration::from_secs(20), back).await.expect("the disk is back");
    let (tell, again, _) = hanging(&store, &location, 0, share);
    drop(tell);
    again.await.unwrap().unwrap();
}
