//! What a restarted worker finds in its folders: the locations whose records and extents are whole, and nothing else.
//!
//! Owns reading the folders before anything is served. What is whole is registered as it was, frozen or sealed; everything
//! else is reported lost by name and its files removed. Nothing torn is ever served as a short partition. Does not own the
//! form of records (`mallorn_worker_core::record`).
//!
//! Records of the version before ours are written anew in ours before anything else is done with them, so no file mixes two.
//! What a newer version wrote is left as it is: a worker that is rolled back starts without it, and writes beside it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mallorn_proto::checksum::Crc32c;
use mallorn_proto::durability::Durability;
use mallorn_proto::id::{Application, Instance, LocationId, ShuffleId};
use mallorn_runtime::disk::{Disk, File, FileError, OpenHow};
use mallorn_sabotage::{self as sabotage, Sabotage};
use mallorn_worker_core::handover::Origins;
use mallorn_worker_core::push::{Life, Log, SplitLimits};
use mallorn_worker_core::record::{self, FormError, Header, Name, Said, Whole};
use mallorn_worker_core::replicate::Copy;
use mallorn_worker_core::spill::extent::Extent;
use mallorn_worker_core::spill::segment::SEGMENT_HEADER_BYTES;

use crate::memory::location::{Location, Made, OnDisk, Recorded, Terms};
use crate::memory::store::Store;
use crate::spill::{Folder, ShuffleFiles, ShuffleKey, records_path, segment_path};

/// Longest file of records that is read, in bytes.
const RECORDS_BYTES_MAX: u64 = 4 * 1024 * 1024 * 1024;
/// Lost locations that are named in the log, each on a line of its own; the rest are counted.
const NAMED_MAX: usize = 100;
/// Bytes of an extent that are checked at a time.
const CHECK_BYTES: usize = 1024 * 1024;

/// Why a worker does not start with what it finds.
#[derive(Debug, thiserror::Error)]
pub enum RestartError {
    /// A folder can't be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// There are more locations than memory can know.
    #[error("{locations} locations were found, and memory has no room to know them by: set `worker.memory` higher")]
    NoMemory {
        /// Locations found.
        locations: usize,
    },
}

/// What was found, in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Restarted {
    /// Locations that can be read, or sealed.
    pub(crate) restored: usize,
    /// Locations that are lost.
    pub(crate) lost: usize,
}

/// A shuffle as one folder tells it.
struct Found {
    folder: usize,
    path: PathBuf,
    header: Header,
    records_bytes: u64,
    /// Those that are ours and whole at their beginning, with their lengths.
    segments: BTreeMap<u32, u64>,
    /// The highest number of any.
    last_segment: Option<u32>,
    locations: BTreeMap<Name, Option<Said>>,
}

/// What becomes of a shuffle's folder.
enum Read {
    Found(Found),
    /// It says nothing any more.
    Lost,
    /// It is whole, for all that is known, and not for this worker.
    Left,
}

/// A location that is restored if its extents are whole.
struct Candidate {
    whole: Whole,
    /// The folder that keeps its record.
    folder: usize,
    /// All folders, by bits, whose records name it.
    named_on: u64,
    /// It was written in another boot, and not synced.
    is_doubtful: bool,
}

/// Reads all folders, and takes what is whole into the store. Blocks.
pub(crate) fn restart(store: &Store) -> Result<Restarted, RestartError> {
    let folders = store.spill.folders();
    let ids = store.spill.folder_ids();
    let mut shuffles: BTreeMap<ShuffleKey, Vec<Found>> = BTreeMap::new();
    for folder in folders {
        for found in read_folder(folder, &ids)? {
            let key = (found.header.application.instance, found.header.shuffle);
            shuffles.entry(key).or_default().push(found);
        }
    }
    let mut restarted = Restarted::default();
    for found in shuffles.into_values() {
        restore_shuffle(store, folders, found, &mut restarted)?;
    }
    if restarted.lost > NAMED_MAX {
        tracing::warn!(event = "locations_lost", lost = restarted.lost, "and more that are not named");
    }
    if restarted != Restarted::default() {
        let Restarted { restored, lost } = restarted;
        tracing::info!(event = "restarted", restored, lost, "find what was written before");
    }
    Ok(restarted)
}

/// What is in a folder; what is not ours, or says nothing any more, is removed.
fn read_folder(folder: &Folder, ids: &[u64]) -> Result<Vec<Found>, RestartError> {
    let shuffles = folder.shuffles_path();
    let entries = folder.disk.list(&shuffles)?;
    let mut all: BTreeMap<ShuffleKey, (Option<u32>, Found)> = BTreeMap::new();
    for entry in &entries {
        let path = shuffles.join(&entry.name);
        match read_shuffle(folder, &path, ids)? {
            Read::Found(found) => {
                let key = (found.header.application.instance, found.header.shuffle);
                let number = place_of(&entry.name).filter(|(of, _)| *of == key).map(|(_, number)| number);
                let new = (number, found);
                let (kept, over) = match all.remove(&key) {
                    Some(known) if known.0 > new.0 => (known, Some(new)),
                    known => (new, known),
                };
                all.insert(key, kept);
                // Files went beside these when what they say was told lost; or somebody has copied a folder.
                if let Some((_, Found { path, .. })) = over {
                    tracing::warn!(event = "records_lost", path = %path.display(), "another folder says what became of the shuffle");
                    remove(&folder.disk, &path);
                }
            }
            Read::Lost if entry.is_folder => remove(&folder.disk, &path),
            Read::Lost => {}
            Read::Left => {
                let Some((key, _)) = place_of(&entry.name) else { continue };
                let taken = entries.iter().filter_map(|entry| place_of(&entry.name));
                let last = taken.filter(|(of, _)| *of == key).map(|(_, number)| number).max().unwrap_or_default();
                folder.go_beside(key, folder.shuffle_path(key).with_extension((last + 1).to_string()));
            }
        }
    }
    Ok(all.into_values().map(|(_, found)| found).collect())
}

/// Whose place a folder of this name is, and which of them: 0 is the usual one, the others lie beside it.
fn place_of(name: &str) -> Option<(ShuffleKey, u32)> {
    let (shuffle, number) =
        name.split_once('.').map_or(Some((name, 0)), |(shuffle, number)| Some((shuffle, number.parse().ok()?)))?;
    let (instance, shuffle) = shuffle.split_once('-')?;
    let instance = Instance(u64::from_str_radix(instance, 16).ok()?);
    Some(((instance, ShuffleId(shuffle.parse().ok()?)), number))
}

fn read_shuffle(folder: &Folder, path: &Path, ids: &[u64]) -> Result<Read, RestartError> {
    let records = records_path(path);
    let mut bytes = match folder.disk.read(&records, RECORDS_BYTES_MAX) {
        Ok(bytes) => bytes,
        Err(error) => {
            tracing::warn!(event = "records_lost", path = %path.display(), %error, "a shuffle without records is lost");
            return Ok(Read::Lost);
        }
    };
    if let Some(upgraded) = record::upgraded(&bytes) {
        if let Err(error) = folder.disk.replace(&records, &upgraded) {
            tracing::warn!(
                event = "shuffle_left", path = %path.display(), %error,
                "records of an older version are not upgraded, and their locations are lost: make room, then start again"
            );
            return Ok(Read::Left);
        }
        bytes = upgraded;
    }
    let (header, rest) = match record::get_header(&bytes) {
        Ok(found) => found,
        Err(error @ FormError::Version { .. }) => {
            tracing::warn!(
                event = "shuffle_left", path = %path.display(), %error,
                "what is there is lost to this worker: start one of that version, or remove the folder"
            );
            return Ok(Read::Left);
        }
        Err(error) => {
            tracing::warn!(event = "records_lost", path = %path.display(), %error, "a shuffle without records is lost");
            return Ok(Read::Lost);
        }
    };
    let (said, torn) = record::records(rest, ids);
    if torn > 0 {
        tracing::warn!(event = "records_torn", path = %path.display(), bytes = torn, "the end of the records is torn");
    }
    let mut locations = BTreeMap::new();
    for (name, said) in said {
        locations.insert(name, said);
    }
    let (segments, last_segment) = read_segments(folder, path, &header)?;
    let records_bytes = (bytes.len() - torn) as u64;
    let (folder, path) = (usize::from(folder.index), path.to_owned());
    Ok(Read::Found(Found { folder, path, header, records_bytes, segments, last_segment, locations }))
}

/// The segments that are ours, with their lengths, and the highest number of any.
fn read_segments(
    folder: &Folder,
    path: &Path,
    header: &Header,
) -> Result<(BTreeMap<u32, u64>, Option<u32>), RestartError> {
    let (mut segments, mut last) = (BTreeMap::new(), None);
    for entry in folder.disk.list(path)? {
        let Some(number) = entry.name.strip_prefix("segment-").and_then(|number| number.parse().ok()) else { continue };
        last = last.max(Some(number));
        let file = path.join(&entry.name);
        match check_segment(&folder.disk, &file, header, number) {
            Ok(Ok(())) => drop(segments.insert(number, entry.bytes)),
            Ok(Err(error)) => tracing::warn!(event = "segment_lost", path = %file.display(), %error),
            Err(error) => tracing::warn!(event = "segment_lost", path = %file.display(), %error),
        }
    }
    Ok((segments, last))
}

fn check_segment(disk: &Disk, path: &Path, header: &Header, number: u32) -> io::Result<Result<(), FormError>> {
    let mut bytes = vec![0; SEGMENT_HEADER_BYTES as usize];
    disk.open(path, OpenHow::Read)?.read_at(&mut bytes, 0)?;
    Ok(record::check_segment_header(&bytes, header.application.instance, header.shuffle, number))
}

fn restore_shuffle(
    store: &Store,
    folders: &[Arc<Folder>],
    all: Vec<Found>,
    restarted: &mut Restarted,
) -> Result<(), RestartError> {
    let SortedOut { candidates, mut lost, moved } = sort_out(folders, &all);
    let Some(first) = all.first() else { return Ok(()) };
    let (application, shuffle) = (Arc::new(first.header.application.clone()), first.header.shuffle);
    let mut used = BTreeSet::new();
    let mut kept = 0;
    for (name, candidate) in candidates {
        let id = LocationId { shuffle, partition: name.partition, epoch: name.epoch };
        let is_whole = candidate.whole.restored.extents.iter().all(|extent| {
            let found = all.iter().find(|found| found.folder == usize::from(extent.place.disk));
            found.is_some_and(|found| extent_is_whole(&folders[found.folder], found, extent, candidate.is_doubtful))
        });
        let folder = candidate.folder;
        let extents: Vec<u16> = candidate.whole.restored.extents.iter().map(|extent| extent.place.disk).collect();
        if !is_whole || !restore_one(store, &application, id, candidate)? {
            lost.insert(name);
            continue;
        }
        kept += 1;
        used.insert(folder);
        used.extend(extents.into_iter().map(usize::from));
    }
    for name in moved {
        used.extend(all.iter().filter(|found| found.locations.contains_key(&name)).map(|found| found.folder));
        let id = LocationId { shuffle, partition: name.partition, epoch: name.epoch };
        restore_moved(store, &application, id)?;
    }
    for name in &lost {
        if restarted.lost < NAMED_MAX {
            let id = LocationId { shuffle, partition: name.partition, epoch: name.epoch };
            tracing::warn!(event = "location_lost", %application, location = %id, "not whole after the restart");
        }
        restarted.lost += 1;
    }
    restarted.restored += kept;
    store.metrics.spill.restarted(kept as u64, lost.len() as u64);
    let next_segments: Vec<u32> = all.iter().map(|found| next_segment(found, &all)).collect();
    for (found, next_segment) in all.into_iter().zip(next_segments) {
        keep_files(&folders[found.folder], &application, (found, next_segment), &used);
    }
    Ok(())
}

/// The locations of a shuffle by what becomes of them.
struct SortedOut {
    candidates: BTreeMap<Name, Candidate>,
    lost: BTreeSet<Name>,
    /// Handed over: whoever asks for one is told so.
    moved: BTreeSet<Name>,
}

/// The last word of the records on each location; a seal counts more than a freeze where two folders speak of one.
fn sort_out(folders: &[Arc<Folder>], all: &[Found]) -> SortedOut {
    let mut candidates: BTreeMap<Name, Candidate> = BTreeMap::new();
    let (mut lost, mut moved) = (BTreeSet::new(), BTreeSet::new());
    for found in all {
        // A system that does not tell its boots may have lost its power in between.
        let is_old_boot = found.header.boot.is_empty() || found.header.boot != folders[found.folder].boot;
        for (name, said) in &found.locations {
            match said {
                Some(Said::Whole(whole)) => {
                    let is_sealed = |life| matches!(life, Life::Sealed { .. });
                    let is_better = candidates.get(name).is_none_or(|known| !is_sealed(known.whole.restored.life));
                    if is_better {
                        let is_doubtful = is_old_boot && !whole.synced;
                        let whole = whole.clone();
                        let candidate = Candidate { whole, folder: found.folder, named_on: 0, is_doubtful };
                        candidates.insert(*name, candidate);
                    }
                }
                Some(Said::Opened) | None => drop(lost.insert(*name)),
                Some(Said::Dropped) => drop(moved.insert(*name)),
            }
        }
    }
    for (name, candidate) in &mut candidates {
        let naming = all.iter().filter(|found| found.locations.contains_key(name));
        candidate.named_on = naming.fold(0, |bits, found| bits | 1 << found.folder);
    }
    // Where it was dropped, all folders that name it say so; one that does not tells of a later time.
    moved.retain(|name| !candidates.contains_key(name) && !lost.contains(name));
    lost.retain(|name| !candidates.contains_key(name));
    SortedOut { candidates, lost, moved }
}

/// Whether an extent is there; one that may have been lost with the power is read to see.
fn extent_is_whole(folder: &Folder, found: &Found, extent: &Extent, is_doubtful: bool) -> bool {
    if sabotage::is(Sabotage::TornLocationServedAfterRestart) {
        return true;
    }
    let length = found.segments.get(&extent.place.segment);
    let is_long_enough = length.zip(extent.disk_end()).is_some_and(|(length, end)| end <= *length);
    is_long_enough && (!is_doubtful || matches!(check_extent(folder, &found.path, extent), Ok(true)))
}

fn check_extent(folder: &Folder, shuffle: &Path, extent: &Extent) -> io::Result<bool> {
    let file = folder.disk.open(&segment_path(shuffle, extent.place.segment), OpenHow::Read)?;
    let batches = checksum(&file, extent.place.position, extent.stored as usize)?;
    let list = checksum(&file, extent.list_at(), extent.list_bytes())?;
    Ok((batches, list) == (extent.crc, extent.list_crc))
}

fn checksum(file: &File, mut position: u64, mut left: usize) -> io::Result<u32> {
    let mut crc = Crc32c::new();
    let mut buffer = vec![0; left.min(CHECK_BYTES)];
    while left > 0 {
        let part = left.min(buffer.len());
        file.read_at(&mut buffer[..part], position)?;
        crc.update(&buffer[..part]);
        position += part as u64;
        left -= part;
    }
    Ok(crc.value())
}

/// Takes a location in; `false` when its record contradicts itself.
fn restore_one(
    store: &Store,
    application: &Arc<Application>,
    id: LocationId,
    candidate: Candidate,
) -> Result<bool, RestartError> {
    let Candidate { whole, folder, named_on, .. } = candidate;
    let origins = whole.origins;
    let recorded = match (whole.restored.life, whole.synced) {
        (Life::Sealed { .. }, true) => Recorded::Synced,
        (Life::Sealed { .. }, false) => Recorded::Sealed,
        _ => Recorded::Frozen,
    };
    let Ok(log) = Log::restored(whole.restored) else { return Ok(false) };
    let durability = if recorded == Recorded::Synced { Durability::Synced } else { Durability::Written };
    let location = take_in(store, application, id, (log, durability, origins))?;
    let mut state = location.lock();
    let index = u16::try_from(folder).ok();
    state.disk = OnDisk { index, recorded, named_on, ..OnDisk::default() };
    // Nothing of it is in memory; its extents are, and are charged with this.
    state.forget_clean();
    Ok(true)
}

/// Remembers that a location was handed over.
fn restore_moved(store: &Store, application: &Arc<Application>, id: LocationId) -> Result<(), RestartError> {
    let mut log = Log::new();
    log.drop_all();
    take_in(store, application, id, (log, Durability::Memory, Origins::default())).map(drop)
}

fn take_in(
    store: &Store,
    application: &Arc<Application>,
    id: LocationId,
    (log, durability, origins): (Log, Durability, Origins),
) -> Result<Arc<Location>, RestartError> {
    let terms = Terms { copy: Copy::Lone, replica: None, origins, limits: SplitLimits::NONE, durability };
    let made = Made { id, application: Arc::clone(application), terms, log };
    store.restore(made).ok_or_else(|| RestartError::NoMemory { locations: store.all().len() })
}

/// The first number that no segment of a folder has and no record names: one that is lost is never taken for a later one.
fn next_segment(found: &Found, all: &[Found]) -> u32 {
    let wholes = all.iter().flat_map(|found| found.locations.values()).filter_map(|said| match said {
        Some(Said::Whole(whole)) => Some(whole),
        Some(Said::Opened | Said::Dropped) | None => None,
    });
    let places = wholes.flat_map(|whole| &whole.restored.extents).map(|extent| extent.place);
    let named = places.filter(|place| usize::from(place.disk) == found.folder).map(|place| place.segment).max();
    found.last_segment.max(named).map_or(0, |last| last.saturating_add(1))
}

/// Goes on with a shuffle's files, or removes them where nothing of it is whole or was handed over.
fn keep_files(
    folder: &Folder,
    application: &Arc<Application>,
    (found, next_segment): (Found, u32),
    used: &BTreeSet<usize>,
) {
    let shuffle: ShuffleId = found.header.shuffle;
    if !used.contains(&found.folder) {
        remove(&folder.disk, &found.path);
        return;
    }
    let files = ShuffleFiles::new(&folder.shuffles_path(), Arc::clone(application), shuffle, found.header.boot);
    folder.found(files.at(found.path).found(found.records_bytes, next_segment));
}

fn remove(disk: &Disk, path: &Path) {
    if let Err(error) = disk.remove_dir_all(path) {
        tracing::warn!(event = "not_removed", path = %path.display(), %error, "remove what is lost");
    }
}
