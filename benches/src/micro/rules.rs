//! What master, worker and client decide for each location, batch or read.

use std::collections::BTreeSet;
use std::hint::black_box;
use std::time::Duration;

use mallorn_client_core::fetch::{Expected, Offered, PartitionRead};
use mallorn_client_core::push::BatchSum;
use mallorn_master_core::{Address, Master, Memory, PlaceRequest, Registration, Report, Settings, Strategy};
use mallorn_proto::batch::OVERHEAD_BYTES;
use mallorn_proto::id::{Application, Attempt, BatchId, Incarnation, Instance, MapId, SealId, WorkerId};
use mallorn_proto::limits::BODY_BYTES_DEFAULT;
use mallorn_worker_core::fetch::{Cursor, MapRange, Planned};
use mallorn_worker_core::memory::{Ledger, Pool};
use mallorn_worker_core::push::{Admission, BatchEntry, Log};
use mallorn_worker_core::spill::extent::ExtentPlace;

use super::Bench;

const GIB: u64 = 1 << 30;
/// Bytes of the slots that are taken.
const SLOT_BYTES: u64 = 64 * 1024;
/// Workers to choose among.
const WORKERS: u64 = 100;
/// Batches of a location, of 64 KiB each: they make 1,000 extents.
const BATCHES: u32 = 4000;
/// Maps that they come from, in turn.
const MAPS: u32 = 100;
/// Maps of a partition that is read, each with [`READ_BATCHES`].
const READ_MAPS: u32 = 256;
const READ_BATCHES: u32 = 16;
/// Offered batches are gone through in steps of this, which is odd, so that all are met.
const READ_STEP: usize = 1537;

const SEAL: SealId = SealId(9);
/// A second, past the first lease; all calls come at once.
const NOW: Duration = Duration::from_secs(1);

/// Times all of them.
pub(super) fn run(bench: &mut Bench) {
    ledger(bench);
    place(bench);
    append(bench);
    cut(bench);
    plan_memory(bench);
    plan_disk(bench);
    read(bench);
}

fn ledger(bench: &mut Bench) {
    let mut ledger = Ledger::new(GIB, BODY_BYTES_DEFAULT).expect("1 GiB is enough for any body");
    let mut take_and_give = |name, what, ledger: &mut Ledger| {
        bench.time(name, what, 1, || {
            if let Some(slot) = ledger.take(Pool::Push, black_box(SLOT_BYTES), SLOT_BYTES) {
                ledger.give(Pool::Push, slot);
            }
        });
    };
    take_and_give("ledger empty", "64 KiB taken from an empty arena of 1 GiB, and given back", &mut ledger);
    let slots: Vec<_> = std::iter::from_fn(|| ledger.take(Pool::Push, SLOT_BYTES, SLOT_BYTES)).collect();
    for slot in slots.into_iter().step_by(2) {
        ledger.give(Pool::Push, slot);
    }
    take_and_give("ledger scattered", "the same where every other slot is taken", &mut ledger);
}

/// A master with its workers, of different sizes, and an application.
fn master(application: &Application) -> Master {
    let lease = Duration::from_secs(30);
    let (strategy, room_bytes) = (Strategy::LoadAware, u64::from(BODY_BYTES_DEFAULT));
    let settings = Settings { worker_lease: lease, application_lease: lease, tick: NOW, strategy, room_bytes };
    let mut master = Master::new(settings, NOW);
    for id in 1..=WORKERS {
        let memory = Memory { arena_bytes: 16 * GIB, held_bytes: 0, push_free_bytes: GIB + id * GIB / 10 };
        let registration = Registration {
            worker: WorkerId(u128::from(id)),
            incarnation: Incarnation(1),
            address: Address { name: id.to_string(), control: id.to_string(), ..Address::default() },
            report: Report { memory, ..Report::default() },
        };
        master.register_worker(NOW, registration).expect("names and incarnations are fresh");
    }
    master.register_application(NOW, application).expect("it is the first one");
    master
}

fn place(bench: &mut Bench) {
    let application = Application { name: "bench".to_owned(), instance: Instance(1) };
    let mut master = master(&application);
    let request = |locations| PlaceRequest {
        application: application.clone(),
        locations,
        two_copies: false,
        on_disk: false,
        exclude: BTreeSet::new(),
    };
    let (hundred, ten_thousand) = (request(100), request(10_000));
    bench.time("place 100", "a request for 100 locations, 100 workers, load-aware", 1, || master.place(NOW, &hundred));
    bench.time("place 10,000", "a request for 10,000 locations, likewise", 1, || master.place(NOW, &ten_thousand));
}

fn entry(number: u32) -> BatchEntry {
    let stored_bytes = 64 * 1024 + OVERHEAD_BYTES as u32;
    BatchEntry { map: MapId(number % MAPS), attempt: Attempt(0), batch: BatchId(number / MAPS), stored_bytes }
}

/// A location with all of the batches, in memory.
fn appended() -> Log {
    let mut log = Log::new();
    for number in 0..BATCHES {
        if let Admission::Append { .. } = black_box(&log).admit() {
            log.append(black_box(entry(number)));
        }
    }
    log
}

fn append(bench: &mut Bench) {
    bench.time("append", "a batch is admitted and noted; of a log that grows to 4,000", BATCHES as usize, appended);
}

fn cut(bench: &mut Bench) {
    let log = appended();
    let extents = log.cut(u64::MAX, true).len();
    bench.time("cut", "an extent of 8 batches is cut from memory; of 500", extents, || log.cut(u64::MAX, true));
}

fn plan_memory(bench: &mut Bench) {
    let mut log = appended();
    log.seal(SEAL, log.length());
    let mut at = Cursor::default();
    bench.time("plan memory", "a fetch of 1 MiB (16 batches) from memory, in sequence", 1, || {
        let planned = log.plan(at, at.offset, BODY_BYTES_DEFAULT, MapRange::ALL);
        let next = match &planned {
            Ok(Planned::Memory(plan)) if plan.next.offset < log.length() => plan.next,
            Ok(_) | Err(_) => Cursor::default(),
        };
        at = next;
        planned
    });
}

/// A location of which everything is on disk and nothing in memory.
fn written() -> Log {
    let mut log = appended();
    let places = (0..).map(|index| ExtentPlace { disk: 0, segment: 0, position: index << 20 });
    let extents: Vec<_> =
        log.cut(u64::MAX, true).iter().zip(places).map(|(cut, place)| cut.written_at(place, 0, 0)).collect();
    log.wrote(&extents);
    log.forget_clean();
    log.seal(SEAL, log.length());
    log
}

fn plan_disk(bench: &mut Bench) {
    let log = written();
    let mut plan = |name, what, maps: MapRange| {
        let mut at = 0;
        bench.time(name, what, 1, || {
            let planned = log.plan(Cursor::at(at), at, BODY_BYTES_DEFAULT, maps);
            at = match &planned {
                Ok(Planned::Disk(plan)) if plan.next < log.length() => plan.next,
                Ok(_) | Err(_) => 0,
            };
            planned
        });
    };
    plan("plan disk", "a fetch of 1 MiB (2 extents) from 500 extents", MapRange::ALL);
    plan(
        "plan disk, one map",
        "the same of one map of 100: most extents are passed over",
        MapRange { start: 7, end: 8 },
    );
}

/// All batches of a partition, map by map in turn.
fn offered() -> Vec<Offered> {
    let one = |batch: u32, map: u32| Offered {
        map: MapId(map),
        batch: BatchId(batch),
        last: batch + 1 == READ_BATCHES,
        raw_bytes: 65_536,
        crc: map ^ batch,
    };
    (0..READ_BATCHES).flat_map(|batch| (0..READ_MAPS).map(move |map| one(batch, map))).collect()
}

fn read(bench: &mut Bench) {
    let in_order = offered();
    let shuffled: Vec<_> = (0..in_order.len()).map(|index| in_order[index * READ_STEP % in_order.len()]).collect();
    let mut pushed = BatchSum::default();
    in_order.iter().for_each(|offered| pushed.add(offered.map, offered.batch, offered.raw_bytes, offered.crc));
    let take_all = |batches: &[Offered]| {
        let mut read = PartitionRead::new(Expected::Sum(pushed));
        for offered in black_box(batches) {
            if !read.is_repeat(offered.map, offered.batch) {
                read.take(offered);
            }
        }
        read
    };
    let operations = in_order.len();
    bench.time("read in order", "a batch is taken; 256 maps of 16 batches", operations, || take_all(&in_order));
    bench.time("read shuffled", "the same in no order", operations, || take_all(&shuffled));
    let read = take_all(&in_order);
    bench.time("read repeats", "a batch is found to be a repeat; likewise", operations, || {
        black_box(&in_order).iter().filter(|offered| read.is_repeat(offered.map, offered.batch)).count()
    });
    bench.time("read finish", "a partition of 256 maps is found to be whole", 1, || black_box(&read).finish());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_timed_does_what_it_says() {
        assert_eq!(appended().batches(), u64::from(BATCHES));
        let log = written();
        assert_eq!((log.extents().len(), log.batches_in_memory(), log.memory_start()), (500, 0, log.length()));
        let Ok(Planned::Disk(plan)) = log.plan(Cursor::at(0), 0, BODY_BYTES_DEFAULT, MapRange::ALL) else { panic!() };
        assert_eq!(plan.parts.len(), 2);
        let mut log = appended();
        log.seal(SEAL, log.length());
        let planned = log.plan(Cursor::default(), 0, BODY_BYTES_DEFAULT, MapRange::ALL);
        let Ok(Planned::Memory(plan)) = planned else { panic!() };
        assert_eq!((plan.runs.len(), plan.bytes), (1, 16 * u64::from(entry(0).stored_bytes)));
        let application = Application { name: "bench".to_owned(), instance: Instance(1) };
        let request = PlaceRequest {
            application: application.clone(),
            locations: 10_000,
            two_copies: false,
            on_disk: false,
            exclude: BTreeSet::new(),
        };
        let placed = master(&application).place(NOW, &request).unwrap();
        assert_eq!((placed.workers.len(), placed.picks.len()), (100, 10_000));
    }
}
