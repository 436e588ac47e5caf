//! Data larger than memory, and what a restarted worker finds.

#![expect(clippy::unwrap_used, reason = "a failure here fails the test")]

mod harness;

use std::path::{Path, PathBuf};

use harness::{Node, PATIENCE, Peer, SEAL, batch, config, location};
use mallorn_proto::checksum::Crc32c;
use mallorn_proto::durability::Durability;
use mallorn_proto::id::{Handle, LocationId};
use mallorn_proto::message::Role;
use mallorn_proto::status::Status;
use mallorn_proto::v1;
use mallorn_runtime::clock;
use mallorn_runtime::config::ByteSize;
use mallorn_runtime::disk::{Disk, OpenHow};
use mallorn_worker::{FolderError, StartError, WorkerConfig};
use mallorn_worker_core::record::{self, VERSION};
use mallorn_worker_core::spill::extent::ENTRY_BYTES;
use mallorn_worker_core::spill::segment::BLOCK_BYTES;

const ALL: (u32, u32) = (0, u32::MAX);
const MIB: usize = 1024 * 1024;

fn on_disk(folders: &[PathBuf]) -> WorkerConfig {
    WorkerConfig { memory: Some(ByteSize::mib(16)), data_folders: folders.to_vec(), ..config() }
}

/// Starts a worker once the one before it has let go of the folders: what ended in this process holds them for a moment.
async fn start(folders: &[PathBuf], durability: Durability) -> Node {
    let started = async {
        loop {
            match Node::try_start(on_disk(folders), 1).await {
                Err(StartError::Folder(FolderError::InUse { .. })) => tokio::task::yield_now().await,
                started => return started.unwrap(),
            }
        }
    };
    let mut node = clock::timeout(PATIENCE, started).await.expect("the folders are let go");
    node.durability = durability;
    node
}

/// Pushes a batch, as a client does whose worker asks for patience: a hard split is none of this test's.
async fn push(pusher: &mut Peer, handle: Handle, bytes: &[u8]) {
    assert_eq!(pusher.push(handle, bytes).await, Status::Success);
}

/// The batch of a number, each different.
fn numbered(id: LocationId, number: u32, length: usize) -> Vec<u8> {
    let payload: Vec<u8> = (0..length as u32).map(|at| (at.wrapping_mul(31) ^ number.wrapping_mul(97)) as u8).collect();
    batch(id, number % 5, number, &payload)
}

/// Pushes `count` batches of 60,000 bytes to each of eight partitions, in turn; returns what a reader should get.
async fn push_all(node: &Node, count: u32) -> Vec<(LocationId, Handle, Vec<Vec<u8>>)> {
    let mut pusher = node.open(Role::Push).await;
    let mut all = Vec::new();
    for partition in 0..8 {
        let id = location(1, partition);
        all.push((id, node.reserve(id).await, Vec::new()));
    }
    for number in 0..count {
        for (id, handle, batches) in &mut all {
            let bytes = numbered(*id, number, 60_000);
            push(&mut pusher, *handle, &bytes).await;
            batches.push(bytes);
        }
    }
    all
}

async fn assert_reads(node: &Node, id: LocationId, batches: &[Vec<u8>]) {
    let mut reader = node.open(Role::Fetch).await;
    let opened = reader.open_stream(id, ALL).await.unwrap();
    assert!(reader.read_all(&opened, 1_000_000).await == batches.concat(), "{id}");
}

fn folders(root: &Path, names: &[&str]) -> Vec<PathBuf> {
    names.iter().map(|name| root.join(name)).collect()
}

fn spilled(node: &Node) -> f64 {
    node.metric("mallorn_worker_spilled_bytes_total", "")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_memory_lies_on_disk_and_is_read_back() {
    let root = tempfile::tempdir().unwrap();
    let node = start(&folders(root.path(), &["a", "b"]), Durability::Written).await;
    let all = push_all(&node, 100).await;
    assert!(spilled(&node) > (20 * MIB) as f64, "48 MB do not fit 16 MiB");
    for (id, _, batches) in &all {
        node.commit(*id).await;
        assert_reads(&node, *id, batches).await;
    }
    let mut reader = node.open(Role::Fetch).await;
    let opened = reader.open_stream(all[3].0, (2, 4)).await.unwrap();
    let wanted: Vec<u8> =
        (0..100).filter(|number| [2, 3].contains(&(number % 5))).flat_map(|number| all[3].2[number].clone()).collect();
    assert!(reader.read_all(&opened, 1_000_000).await == wanted, "a range of maps, from disk");
    // An offset in the middle of an extent, as a reader has it who comes from the other copy.
    let (border, batches) = (all[3].2[0].len() as u64, &all[3].2);
    let opened = reader.open_stream(all[3].0, ALL).await.unwrap();
    let (fetched, body) = reader.fetch(opened.stream, border, 130_000).await.unwrap();
    assert!(fetched.next > border && body == batches.concat()[border as usize..fetched.next as usize]);
    assert_eq!(reader.fetch(opened.stream, border + 1, 130_000).await.unwrap_err().status, Status::Malformed);
    node.release(0, u32::MAX).await;
    drop(reader);
    node.rests().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_worker_serves_what_was_sealed_and_loses_the_rest_by_name() {
    let root = tempfile::tempdir().unwrap();
    let paths = folders(root.path(), &["a", "b"]);
    let node = start(&paths, Durability::Written).await;
    let all = push_all(&node, 20).await;
    for (id, _, _) in &all[..4] {
        node.commit(*id).await;
    }
    let worker = node.running.worker();
    // Dropped, as by kill -9: nothing is written any more.
    drop(node);
    let node = start(&paths, Durability::Written).await;
    assert_eq!(node.running.worker(), worker);
    for (id, _, batches) in &all[..4] {
        assert_reads(&node, *id, batches).await;
        assert_eq!(node.freeze(*id).await, Some(batches.concat().len() as u64));
    }
    for (id, _, _) in &all[4..] {
        assert_eq!(node.freeze(*id).await, None, "what was open is not there");
    }
    assert_eq!(node.metric("mallorn_worker_restored_locations_total", ""), 4.0);
    let lost = node.metric("mallorn_worker_lost_locations_total", "");
    assert_eq!(lost, 4.0, "each had whole extents written behind");
    assert!(node.release(0, u32::MAX).await > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_drained_worker_froze_is_sealed_after_its_restart() {
    let root = tempfile::tempdir().unwrap();
    let paths = folders(root.path(), &["a"]);
    let node = start(&paths, Durability::Written).await;
    let all = push_all(&node, 3).await;
    node.commit(all[0].0).await;
    node.stop().await;
    let node = start(&paths, Durability::Written).await;
    for (id, _, batches) in &all {
        let length = batches.concat().len() as u64;
        assert_eq!(node.freeze(*id).await, Some(length));
        assert_eq!(node.seal(*id, SEAL, length).await.outcome(), v1::sealed::Outcome::Sealed);
        assert_reads(&node, *id, batches).await;
    }
    // And again: the seals are on disk too.
    drop(node);
    let node = start(&paths, Durability::Written).await;
    assert_reads(&node, all[2].0, &all[2].2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_record_or_a_cut_segment_loses_its_locations_and_no_others() {
    let root = tempfile::tempdir().unwrap();
    let paths = folders(root.path(), &["a"]);
    let node = start(&paths, Durability::Synced).await;
    let (first, second) = (location(1, 0), location(2, 0));
    let mut pusher = node.open(Role::Push).await;
    for id in [first, second] {
        let handle = node.reserve(id).await;
        push(&mut pusher, handle, &numbered(id, 0, 50_000)).await;
        node.commit(id).await;
    }
    drop((pusher, node));
    let shuffles = paths[0].join("shuffles");
    let disk = Disk::real();
    let broken = disk.list(&shuffles).unwrap().into_iter().find(|entry| entry.name.ends_with("-1")).unwrap();
    let records = disk.open(&shuffles.join(&broken.name).join("records"), OpenHow::Write).unwrap();
    let at = records.length().unwrap() - 20;
    let mut byte = [0];
    records.read_at(&mut byte, at).unwrap();
    records.write_at(&[&[byte[0] ^ 4]], at).unwrap();
    let node = start(&paths, Durability::Written).await;
    assert_eq!(node.freeze(first).await, None);
    assert_reads(&node, second, &[numbered(second, 0, 50_000)]).await;
    drop(node);
    let cut = disk.list(&shuffles).unwrap().into_iter().find(|entry| entry.name.ends_with("-2")).unwrap();
    disk.open(&shuffles.join(&cut.name).join("segment-000000"), OpenHow::Write).unwrap().truncate(40_000).unwrap();
    let node = start(&paths, Durability::Written).await;
    assert_eq!(node.freeze(second).await, None, "never a short location");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_list_of_batches_is_an_error_and_never_a_short_read() {
    let root = tempfile::tempdir().unwrap();
    let paths = folders(root.path(), &["a"]);
    let node = start(&paths, Durability::Written).await;
    let id = location(1, 0);
    let handle = node.reserve(id).await;
    let batches: Vec<Vec<u8>> = (0..3).map(|number| numbered(id, number, 50_000)).collect();
    let mut pusher = node.open(Role::Push).await;
    for bytes in &batches {
        push(&mut pusher, handle, bytes).await;
    }
    node.commit(id).await;
    drop((pusher, node));
    let (disk, shuffles) = (Disk::real(), paths[0].join("shuffles"));
    let shuffle = shuffles.join(&disk.list(&shuffles).unwrap()[0].name);
    let segment = disk.open(&shuffle.join("segment-000000"), OpenHow::Write).unwrap();
    // The list follows the batches: the second batch is now map 4's, which the range below does not ask for.
    let map_at = BLOCK_BYTES + batches.concat().len() as u64 + ENTRY_BYTES as u64;
    let mut byte = [0];
    segment.read_at(&mut byte, map_at).unwrap();
    assert_eq!(byte, [1]);
    segment.write_at(&[&[4]], map_at).unwrap();
    let node = start(&paths, Durability::Written).await;
    let mut reader = node.open(Role::Fetch).await;
    let opened = reader.open_stream(id, (1, 2)).await.unwrap();
    assert_eq!(reader.fetch(opened.stream, 0, 1_000_000).await.unwrap_err().status, Status::BadChecksum);
    // Nobody asks the list where all is read.
    assert_reads(&node, id, &batches).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_segment_that_is_lost_is_never_taken_for_one_written_later() {
    let root = tempfile::tempdir().unwrap();
    let paths = folders(root.path(), &["a"]);
    let (kept, lost, later) = (location(1, 0), location(1, 1), location(1, 2));
    // Each in a segment of its own, for a restarted worker begins a new one.
    for id in [kept, lost] {
        let node = start(&paths, Durability::Synced).await;
        let handle = node.reserve(id).await;
        push(&mut node.open(Role::Push).await, handle, &numbered(id, 0, 50_000)).await;
        node.commit(id).await;
    }
    let shuffles = paths[0].join("shuffles");
    let shuffle = shuffles.join(&Disk::real().list(&shuffles).unwrap()[0].name);
    Disk::real().remove_file(&shuffle.join("segment-000001")).unwrap();
    let node = start(&paths, Durability::Written).await;
    assert_eq!(node.freeze(lost).await, None);
    let handle = node.reserve(later).await;
    push(&mut node.open(Role::Push).await, handle, &numbered(later, 0, 50_000)).await;
    node.commit(later).await;
    drop(node);
    let node = start(&paths, Durability::Written).await;
    assert_eq!(node.freeze(lost).await, None, "another one's bytes are not its own");
    for id in [kept, later] {
        assert_reads(&node, id, &[numbered(id, 0, 50_000)]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_workers_on_one_folder_are_refused() {
    let root = tempfile::tempdir().unwrap();
    let paths = folders(root.path(), &["a"]);
    let _node = start(&paths, Durability::Written).await;
    let error = mallorn_worker::start(on_disk(&paths), harness::surroundings()).await.unwrap_err();
    assert!(error.to_string().contains("is in use by another worker"), "{error}");
}

/// Has a worker seal a batch in each of these locations, and end.
async fn seal_each(paths: &[PathBuf], ids: &[LocationId]) {
    let node = start(paths, Durability::Written).await;
    let mut pusher = node.open(Role::Push).await;
    for id in ids {
        let handle = node.reserve(*id).await;
        push(&mut pusher, handle, &numbered(*id, 0, 50_000)).await;
        node.commit(*id).await;
    }
}

/// The folder of a shuffle, by the end of its name.
fn shuffle_folder(path: &Path, end: &str) -> PathBuf {
    let shuffles = path.join("shuffles");
    let entries = Disk::real().list(&shuffles).unwrap();
    shuffles.join(&entries.into_iter().find(|entry| entry.name.ends_with(end)).unwrap().name)
}

fn set_version(file: &Path, version: u8) {
    Disk::real().open(file, OpenHow::Write).unwrap().write_at(&[&[version]], 8).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_newer_version_wrote_is_left_alone_and_written_beside() {
    let root = tempfile::tempdir().unwrap();
    let paths = folders(root.path(), &["a"]);
    let (newer, other, later) = (location(1, 0), location(2, 0), location(1, 1));
    seal_each(&paths, &[newer, other]).await;
    let folder = shuffle_folder(&paths[0], "-1");
    let (records, segment) = (folder.join("records"), folder.join("segment-000000"));
    set_version(&records, 9);
    let content = |file| Disk::real().read(file, 1 << 30).unwrap();
    let before = [content(&records), content(&segment)];
    // The same shuffle goes on at this worker, and must not be written over what is there.
    for round in 0..2 {
        let node = start(&paths, Durability::Written).await;
        assert_eq!(node.freeze(newer).await, None, "it is lost to this worker");
        assert_reads(&node, other, &[numbered(other, 0, 50_000)]).await;
        if round == 0 {
            let handle = node.reserve(later).await;
            push(&mut node.open(Role::Push).await, handle, &numbered(later, 0, 50_000)).await;
            node.commit(later).await;
        }
        assert_reads(&node, later, &[numbered(later, 0, 50_000)]).await;
        drop(node);
        assert_eq!([content(&records), content(&segment)], before, "round {round}");
    }
    // A worker that reads both keeps what was written last: the other was told lost.
    set_version(&records, VERSION as u8);
    let node = start(&paths, Durability::Written).await;
    assert_eq!(node.freeze(newer).await, None);
    for id in [other, later] {
        assert_reads(&node, id, &[numbered(id, 0, 50_000)]).await;
    }
    assert!(Disk::real().list(&folder).is_err(), "it is removed");
    node.release(0, u32::MAX).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_segment_whose_version_was_flipped_loses_its_locations_and_stops_no_start() {
    let root = tempfile::tempdir().unwrap();
    let paths = folders(root.path(), &["a"]);
    let (flipped, other) = (location(1, 0), location(2, 0));
    seal_each(&paths, &[flipped, other]).await;
    set_version(&shuffle_folder(&paths[0], "-1").join("segment-000000"), VERSION as u8 ^ 0x40);
    let node = start(&paths, Durability::Written).await;
    assert_eq!(node.freeze(flipped).await, None);
    assert_reads(&node, other, &[numbered(other, 0, 50_000)]).await;
    assert_eq!(node.metric("mallorn_worker_lost_locations_total", ""), 1.0);
}

/// Writes a file of records as version 1 did: where version 2 has a list of earlier workers, it has one id.
fn write_as_version_1(file: &Path) {
    let bytes = Disk::real().read(file, 1 << 30).unwrap();
    let (_, rest) = record::get_header(&bytes).unwrap();
    let (mut old, mut rest) = (bytes[..bytes.len() - rest.len()].to_vec(), rest);
    let crc_of = |bytes: &[u8]| {
        let mut crc = Crc32c::new();
        crc.update(bytes);
        crc.value().to_le_bytes()
    };
    old[8] = 1;
    let crc_at = old.len() - 4;
    let crc = crc_of(&old[..crc_at]);
    old[crc_at..].copy_from_slice(&crc);
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let (body, after) = after[4..].split_at(u32::from_le_bytes(*length) as usize);
        let mut body = body.to_vec();
        if [2, 3].contains(&body[0]) {
            assert_eq!(body[10], 0, "it was taken over from nobody");
            body.splice(10..11, [0; 16]);
        }
        old.extend_from_slice(&(body.len() as u32).to_le_bytes());
        old.extend_from_slice(&crc_of(&body));
        old.extend_from_slice(&body);
        rest = after;
    }
    Disk::real().replace(file, &old).unwrap();
}

/// A segment's header is 64 bytes, with its checksum at the end.
fn segment_as_version_1(file: &Path) {
    let file = Disk::real().open(file, OpenHow::Write).unwrap();
    let mut header = [0; 64];
    file.read_at(&mut header, 0).unwrap();
    header[8] = 1;
    let mut crc = Crc32c::new();
    crc.update(&header[..60]);
    header[60..].copy_from_slice(&crc.value().to_le_bytes());
    file.write_at(&[&header], 0).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_version_before_wrote_is_served_and_goes_on_in_ours() {
    let root = tempfile::tempdir().unwrap();
    let paths = folders(root.path(), &["a"]);
    let (sealed, frozen, later) = (location(1, 0), location(1, 1), location(1, 2));
    let node = start(&paths, Durability::Written).await;
    let mut pusher = node.open(Role::Push).await;
    for id in [sealed, frozen] {
        let handle = node.reserve(id).await;
        push(&mut pusher, handle, &numbered(id, 0, 50_000)).await;
    }
    node.commit(sealed).await;
    drop(pusher);
    // What is open is frozen by the worker's end.
    node.stop().await;
    let folder = shuffle_folder(&paths[0], "-1");
    write_as_version_1(&folder.join("records"));
    segment_as_version_1(&folder.join("segment-000000"));
    for round in 0..2 {
        let node = start(&paths, Durability::Written).await;
        let records = Disk::real().read(&folder.join("records"), 1 << 30).unwrap();
        assert!(record::get_header(&records).is_ok(), "nothing is appended to the old form");
        assert_reads(&node, sealed, &[numbered(sealed, 0, 50_000)]).await;
        if round == 0 {
            node.commit(frozen).await;
            let handle = node.reserve(later).await;
            push(&mut node.open(Role::Push).await, handle, &numbered(later, 0, 50_000)).await;
            node.commit(later).await;
        }
        for id in [frozen, later] {
            assert_reads(&node, id, &[numbered(id, 0, 50_000)]).await;
        }
    }
}

#[tokio::test]
async fn a_worker_without_disks_takes_only_what_may_stay_in_memory() {
    let mut node = Node::start(config()).await;
    node.durability = Durability::Written;
    let reply = node.reserve_with(node.running.incarnation(), &[location(1, 0)]).await.unwrap();
    assert_eq!(reply.locations[0].outcome(), v1::reserved::Outcome::NoDisk);
    node.durability = Durability::Memory;
    node.reserve(location(1, 0)).await;
}
