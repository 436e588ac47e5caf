//! The folders of a worker that was stopped, made here byte by byte, and what was written into them.
//!
//! Owns the image: two folders, one shuffle, locations that are sealed, frozen, open and handed over. Does not own the
//! forms of files (`mallorn_worker_core::record`), nor how they are changed.

use std::path::{Path, PathBuf};

use mallorn_proto::batch::{BatchHeader, Codec, ENVELOPE_BYTES, Envelope, Place, encode_overhead};
use mallorn_proto::checksum::Crc32c;
use mallorn_proto::id::{
    Application, Attempt, BatchId, Epoch, Instance, LocationId, MapId, Partition, SealId, ShuffleId, WorkerId,
};
use mallorn_worker_core::handover::Origins;
use mallorn_worker_core::push::Life;
use mallorn_worker_core::record::{Header, Name, Said, Whole, put, put_header, segment_header};
use mallorn_worker_core::spill::extent::{Extent, ExtentPlace, Restored};
use mallorn_worker_core::spill::segment::BLOCK_BYTES;

use crate::worker::CLUSTER;

/// The application and the shuffle.
pub const INSTANCE: Instance = Instance(0xab);
/// Its shuffle.
pub const SHUFFLE: ShuffleId = ShuffleId(3);
/// What everything sealed is sealed under.
pub const SEAL: SealId = SealId(77);
/// The worker whose folders they are.
pub const WORKER: WorkerId = WorkerId(0x1234_5678_9abc_def0_1234_5678_9abc_def0);
/// Their own ids.
pub const FOLDERS: [u64; 2] = [0xaaaa_0001, 0xbbbb_0002];
/// The files of each folder, below it.
pub const FILES: [&str; 3] =
    ["worker-id", "shuffles/00000000000000ab-3/records", "shuffles/00000000000000ab-3/segment-000000"];

/// A location as it was written.
pub struct Written {
    /// Which one.
    pub id: LocationId,
    /// Its bytes: whole batches.
    pub bytes: Vec<u8>,
    /// Whether it is sealed, or else frozen.
    pub is_sealed: bool,
}

/// What the files are, and what they hold.
pub struct Image {
    /// The content of each of [`FILES`], folder by folder.
    pub files: [[Vec<u8>; 3]; 2],
    /// The locations that may be found again.
    pub written: Vec<Written>,
}

/// The application.
#[must_use]
pub fn application() -> Application {
    Application { name: "engine".to_owned(), instance: INSTANCE }
}

/// Where a partition's batches belong.
#[must_use]
pub fn place(partition: Partition) -> Place {
    Place { instance: INSTANCE, shuffle: SHUFFLE, partition }
}

impl Image {
    /// As it was written in this boot, or in another one.
    #[must_use]
    pub fn new(boot: &str, synced: bool) -> Self {
        let files = FOLDERS.map(|folder| {
            let identity = format!("mallorn worker 1\ncluster {CLUSTER}\nworker {WORKER}\nfolder {folder:016x}\n");
            let mut records = Vec::new();
            let header = Header { application: application(), shuffle: SHUFFLE, boot: boot.to_owned() };
            put_header(&mut records, &header);
            let mut segment = segment_header(INSTANCE, SHUFFLE, 0);
            segment.resize(BLOCK_BYTES as usize, 0);
            [identity.into_bytes(), records, segment]
        });
        let mut image = Self { files, written: Vec::new() };
        image.whole(0, 0, true, synced);
        image.whole(1, 0, false, synced);
        image.whole(2, 1, true, synced);
        image.put(0, 3, &Said::Opened);
        image.put(1, 4, &Said::Dropped);
        image
    }

    fn put(&mut self, folder: usize, partition: u32, said: &Said) {
        let name = Name { partition: Partition(partition), epoch: Epoch(0) };
        put(&mut self.files[folder][1], name, said, &FOLDERS);
    }

    /// A location of two extents, frozen first.
    fn whole(&mut self, partition: u32, folder: usize, is_sealed: bool, synced: bool) {
        let (mut bytes, mut extents) = (Vec::new(), Vec::new());
        for map in [0, 1] {
            let extent = self.extent(partition, folder, map, bytes.len() as u64);
            let at = extent.place.position as usize;
            bytes.extend_from_slice(&self.files[folder][2][at..at + extent.stored as usize]);
            extents.push(extent);
        }
        let length = bytes.len() as u64;
        let mut restored =
            Restored { life: Life::Frozen { acked: length }, length, batches: 4, chunk_ends: Vec::new(), extents };
        let whole = |restored: &Restored| Whole { restored: restored.clone(), synced, origins: Origins::default() };
        self.put(folder, partition, &Said::Whole(whole(&restored)));
        if is_sealed {
            restored.life = Life::Sealed { seal: SEAL, length };
            self.put(folder, partition, &Said::Whole(whole(&restored)));
        }
        let id = LocationId { shuffle: SHUFFLE, partition: Partition(partition), epoch: Epoch(0) };
        self.written.push(Written { id, bytes, is_sealed });
    }

    /// Two batches and their list, at the end of the folder's segment.
    fn extent(&mut self, partition: u32, folder: usize, map: u32, offset: u64) -> Extent {
        let (mut batches, mut list) = (Vec::new(), Vec::new());
        for id in [0, 1] {
            let one = batch(Partition(partition), map, id);
            for number in [map, 0, id, one.len() as u32] {
                list.extend_from_slice(&number.to_le_bytes());
            }
            batches.extend_from_slice(&one);
        }
        let segment = &mut self.files[folder][2];
        let position = segment.len() as u64;
        segment.extend_from_slice(&batches);
        segment.extend_from_slice(&list);
        let bytes = batches.len() as u32;
        Extent {
            place: ExtentPlace { disk: folder as u16, segment: 0, position },
            offset,
            length: bytes,
            stored: bytes,
            batches: 2,
            first_map: map,
            last_map: map,
            crc: crc(&batches),
            list_crc: crc(&list),
        }
    }

    /// Writes the folders below `root`, and tells where they are. An empty file is left out.
    ///
    /// # Panics
    /// When they can't be written.
    #[expect(clippy::disallowed_methods, reason = "a worker's files as they are found, torn and changed")]
    pub fn write(&self, root: &Path) -> Vec<PathBuf> {
        let folders = ["a", "b"].map(|name| root.join(name));
        for (folder, files) in folders.iter().zip(&self.files) {
            for (name, bytes) in FILES.iter().zip(files) {
                let path = folder.join(name);
                let within = path.parent().expect("a file lies in a folder");
                std::fs::create_dir_all(within).expect("a folder of this test");
                if !bytes.is_empty() {
                    std::fs::write(&path, bytes).expect("a file of this test");
                }
            }
        }
        folders.to_vec()
    }
}

fn batch(partition: Partition, map: u32, id: u32) -> Vec<u8> {
    let payload = format!("batch {id} of map {map}, partition {partition}; ").repeat(2 + id as usize);
    let length = (payload.len() + ENVELOPE_BYTES) as u32;
    let header = BatchHeader { map: MapId(map), attempt: Attempt(0), batch: BatchId(id), length };
    let envelope = Envelope { codec: Codec::None, last: id == 1, raw_length: payload.len() as u32, crc: 0 };
    let (overhead, _) = encode_overhead(&place(partition), &header, &envelope, payload.as_bytes());
    [&overhead[..], payload.as_bytes()].concat()
}

fn crc(bytes: &[u8]) -> u32 {
    let mut crc = Crc32c::new();
    crc.update(bytes);
    crc.value()
}
