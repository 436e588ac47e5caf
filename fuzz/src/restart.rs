//! A worker that starts in folders whose files were changed: what it serves is what was written, or nothing.

use mallorn_proto::batch::{Batches, verify};
use mallorn_proto::checksum::Crc32c;
use mallorn_proto::id::LocationId;
use mallorn_proto::v1;
use mallorn_runtime::disk::Disk;
use mallorn_worker::{Running, WorkerConfig};
use mallorn_worker_core::record;

use crate::data_port::Peer;
use crate::door::runtime;
use crate::feed::Feed;
use crate::image::{self, Image, SEAL, SHUFFLE, Written};
use crate::worker::{Asker, start};

/// Most changes of one input.
const EDITS_MAX: usize = 16;
/// Longest file that edits may make, in bytes.
const FILE_BYTES_MAX: usize = 64 * 1024;
/// Partitions that are asked for, also those that were not written.
const PARTITIONS: u32 = 8;

/// Whether power was lost, what was synced before, whether records are forged; then changes.
pub fn target(data: &[u8]) {
    let mut feed = Feed::new(data);
    let mode = feed.byte();
    let (lost_power, synced, forged) = (mode & 1 == 1, mode & 2 == 2, mode & 4 == 4);
    let boot = if lost_power { "another".to_owned() } else { Disk::real().boot_id() };
    let mut image = Image::new(&boot, synced);
    let before = Image::new(&boot, synced);
    for _ in 0..EDITS_MAX {
        if feed.is_empty() {
            break;
        }
        edit(&mut image, &mut feed);
    }
    if forged {
        image.files.iter_mut().for_each(|files| forge(&mut files[1]));
    }
    let changed = |file: usize| (0..2).any(|folder| image.files[folder][file] != before.files[folder][file]);
    let found = Found {
        may_be_others: changed(0) || changed(2),
        forged,
        nothing_changed: !(0..3).any(changed),
        // Only then is everything read before it is taken in.
        all_read: lost_power && !synced,
    };
    let root = tempfile::tempdir_in(folder()).expect("a folder for the worker");
    let data_folders = image.write(root.path());
    runtime().block_on(async {
        match start(WorkerConfig { data_folders, ..WorkerConfig::default() }).await {
            Ok(worker) => found.is_as_written(&worker, &before.written).await,
            Err(error) => assert!(!found.nothing_changed && !error.to_string().is_empty(), "{error}"),
        }
    });
}

/// In memory, where the machine has that.
fn folder() -> std::path::PathBuf {
    let memory = std::path::PathBuf::from("/dev/shm");
    if memory.is_dir() { memory } else { std::env::temp_dir() }
}

fn edit(image: &mut Image, feed: &mut Feed<'_>) {
    let (file, how) = (feed.byte(), feed.byte());
    let (folder, file) = (usize::from(file & 1), usize::from(file >> 1) % 3);
    let (at, count) = (usize::from(feed.u16()), usize::from(feed.u16()));
    let bytes = &mut image.files[folder][file];
    let at = at % (bytes.len() + 1);
    match how % 8 {
        0 => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << (count % 8);
            }
        }
        1 => bytes.truncate(at),
        2 => {
            let patch = feed.take(count % 256);
            let end = (at + patch.len()).min(bytes.len());
            bytes[at..end].copy_from_slice(&patch[..end - at]);
        }
        3 => drop(bytes.splice(at..at, feed.take(count % 256).iter().copied())),
        4 => {
            let end = (at + count).min(bytes.len());
            bytes.drain(at..end);
        }
        // A part of the file once more at its end: a record that is whole, and older than others.
        5 => {
            let end = (at + count).min(bytes.len());
            bytes.extend_from_within(at..end);
        }
        6 => {
            let other = image.files[1 - folder][file].clone();
            image.files[folder][file] = other;
        }
        _ => bytes.clear(),
    }
    image.files[folder][file].truncate(FILE_BYTES_MAX);
}

/// Gives every record the checksum of what it says: its writer was broken, and not its bytes.
fn forge(records: &mut [u8]) {
    let Ok((_, rest)) = record::get_header(records) else { return };
    let mut at = records.len() - rest.len();
    while let Some((length, _)) = records[at..].split_first_chunk::<4>() {
        let body = at + 8..at + 8 + u32::from_le_bytes(*length) as usize;
        let Some(said) = records.get(body.clone()) else { return };
        let mut crc = Crc32c::new();
        crc.update(said);
        records[at + 4..at + 8].copy_from_slice(&crc.value().to_le_bytes());
        at = body.end;
    }
}

struct Found {
    /// Then what records say is not what was written; but it is not made up for either.
    forged: bool,
    /// A folder says itself which one it is: files of one may be looked for in the other.
    may_be_others: bool,
    nothing_changed: bool,
    all_read: bool,
}

impl Found {
    async fn is_as_written(&self, worker: &Running, written: &[Written]) {
        let asker = Asker::new(worker);
        let described = asker.describe().await;
        let sealed = written.iter().filter(|one| one.is_sealed).count() as u64;
        assert_eq!(described.open, 0, "nothing is open after a restart");
        assert!(
            self.forged || described.sealed <= sealed && described.sealed + described.frozen <= written.len() as u64
        );
        if self.nothing_changed {
            assert_eq!((described.sealed, described.frozen), (sealed, written.len() as u64 - sealed));
        }
        let mut peer = Peer::open_to_read(worker, image::application()).await;
        let mut served = 0;
        for partition in 0..PARTITIONS {
            let id = LocationId::from(v1::LocationId { shuffle: SHUFFLE.0, partition, epoch: 0 });
            let known = written.iter().find(|one| one.id == id);
            let Some(length) = peer.find(id, SEAL).await else { continue };
            served += 1;
            if self.forged {
                peer.read(length).await;
                continue;
            }
            let known = known.filter(|one| one.is_sealed).expect("what was not sealed is not read");
            assert_eq!(length, known.bytes.len() as u64, "a part is never taken for the whole");
            match peer.read(length).await {
                Some(bytes) => self.same(known, &bytes),
                None => assert!(self.may_be_others || !self.nothing_changed, "what is whole can be read"),
            }
        }
        assert!(served <= described.sealed);
        self.frozen(&asker, written).await;
    }

    /// The bytes are those that were written, or their checksums tell the reader.
    fn same(&self, known: &Written, bytes: &[u8]) {
        if bytes == known.bytes {
            return;
        }
        assert!(self.may_be_others, "the bytes of {} are not those of its file", known.id);
        assert!(!self.all_read, "{} is served though it was not whole after a loss of power", known.id);
        let mut originals = Batches::new(&known.bytes).flatten();
        for found in Batches::new(bytes) {
            let Ok((_, found)) = found else { return };
            let original = originals.next().map(|(_, original)| original);
            let is_good = verify(&image::place(known.id.partition), found).is_ok();
            assert!(!is_good || Batches::new(&known.bytes).flatten().any(|(_, one)| one == found));
            if !is_good && original != Some(found) {
                return;
            }
        }
    }

    /// A frozen location has the length that was written, or is not there.
    async fn frozen(&self, asker: &Asker, written: &[Written]) {
        for one in written {
            let reply = asker.freeze(image::application().into(), vec![one.id.into()]).await;
            let frozen = reply.locations[0];
            assert!(self.forged || frozen.unknown || frozen.moved || frozen.acked_length == one.bytes.len() as u64);
            assert!(self.forged || !frozen.moved, "{} was never handed over", one.id);
            assert!(!self.nothing_changed || !frozen.unknown);
        }
    }
}
