//! What a worker writes down about its locations, so that it finds them again: the bytes of records and segments' headers.
//!
//! One file of records per shuffle and disk. It begins with a header, then records follow that are only ever appended;
//! the last one of a location counts. Each carries its length and a CRC-32C, so that a torn one is found out: from there on
//! the file says nothing. All numbers are little-endian.
//!
//! | record | says |
//! |---|---|
//! | Opened | the location has bytes in this folder's segments; without a later record they are lost, by name |
//! | Frozen | everything held, and what of it was acked; it can be sealed |
//! | Sealed | seal, length, chunks, extents: it can be read |
//! | Dropped | another worker has taken it over, and it is not here any more |
//!
//! A file has one version, that of its header. Records of the version before ours are read by [`upgraded`] alone: the whole
//! file is written anew before anything is appended. Segments stay as they are; only their number differs.
//!
//! Owns the form, and what makes a record whole. Does not own files, or when records are written.

use mallorn_proto::checksum::Crc32c;
use mallorn_proto::id::{Application, Epoch, Instance, Partition, SealId, ShuffleId, WorkerId};
use mallorn_proto::limits::{APPLICATION_BYTES_MAX, CHUNKS_MAX, ORIGINS_MAX};

use crate::handover::Origins;
use crate::push::{Life, Log};
use crate::spill::extent::{Extent, ExtentPlace, Restored};
use crate::spill::segment::SEGMENT_HEADER_BYTES;

const RECORDS_MAGIC: &[u8; 8] = b"MLRNREC\0";
const SEGMENT_MAGIC: &[u8; 8] = b"MLRNSEG\0";
/// The form that is written.
pub const VERSION: u16 = 2;
/// The oldest form that is read: a record of it names at most one worker that had the location before.
pub const OLDEST: u16 = 1;
/// Longest record, in bytes: of a location with [`EXTENTS_MAX`] extents.
pub const RECORD_BYTES_MAX: usize = EXTENTS_MAX * EXTENT_BYTES + CHUNKS_MAX * 16 + 512;
/// Most extents of one location; with as many it takes no more batches.
pub const EXTENTS_MAX: usize = 256 * 1024;
const EXTENT_BYTES: usize = 60;
/// Longest boot id.
const BOOT_BYTES_MAX: usize = 64;

/// What a file of records begins with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The application.
    pub application: Application,
    /// The shuffle.
    pub shuffle: ShuffleId,
    /// The machine's boot in which it was written: within one, what was written is there, synced or not.
    pub boot: String,
}

/// A location, in one file of records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name {
    /// The partition.
    pub partition: Partition,
    /// The epoch.
    pub epoch: Epoch,
}

/// What a record says of its location.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// It has bytes in segments.
    Opened,
    /// It is frozen or sealed.
    Whole(Whole),
    /// Another worker has taken it over.
    Dropped,
}

/// A location with all its extents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Whole {
    /// What it holds.
    pub restored: Restored,
    /// Whether its bytes were synced: then they are there after a loss of power too.
    pub synced: bool,
    /// The workers that it was taken over from.
    pub origins: Origins,
}

/// Why a file of records, or a segment, is not read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormError {
    /// Not ours, or broken.
    #[error("it does not begin as a file of Mallorn does")]
    Header,
    /// Written by another version.
    #[error("it has version {found}, this worker reads {OLDEST} to {VERSION}")]
    Version {
        /// Its version.
        found: u16,
    },
}

/// Writes the header of a file of records.
///
/// # Panics
/// When the boot id is longer than any.
pub fn put_header(out: &mut Vec<u8>, header: &Header) {
    let start = out.len();
    out.extend_from_slice(RECORDS_MAGIC);
    out.extend_from_slice(&VERSION.to_le_bytes());
    for text in [&header.boot, &header.application.name] {
        let length = u16::try_from(text.len()).expect("names and boot ids are short");
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(text.as_bytes());
    }
    out.extend_from_slice(&header.application.instance.0.to_le_bytes());
    out.extend_from_slice(&header.shuffle.0.to_le_bytes());
    let crc = crc(&out[start..]);
    out.extend_from_slice(&crc.to_le_bytes());
}

/// Appends a record. `folders` are the disks' folder ids, by their index.
pub fn put(out: &mut Vec<u8>, name: Name, said: &Said, folders: &[u64]) {
    let kind = match said {
        Said::Opened => 1,
        Said::Whole(Whole { restored: Restored { life: Life::Sealed { .. }, .. }, .. }) => 3,
        Said::Whole(_) => 2,
        Said::Dropped => 4,
    };
    put_frame(out, |out| {
        out.push(kind);
        out.extend_from_slice(&name.partition.0.to_le_bytes());
        out.extend_from_slice(&name.epoch.0.to_le_bytes());
        if let Said::Whole(whole) = said {
            put_whole(out, whole, folders);
        }
    });
}

fn put_frame(out: &mut Vec<u8>, put_body: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0; 8]);
    put_body(out);
    let length = (out.len() - start - 8) as u32;
    let crc = crc(&out[start + 8..]);
    out[start..start + 4].copy_from_slice(&length.to_le_bytes());
    out[start + 4..start + 8].copy_from_slice(&crc.to_le_bytes());
}

fn put_whole(out: &mut Vec<u8>, whole: &Whole, folders: &[u64]) {
    let Restored { life, length, batches, chunk_ends, extents } = &whole.restored;
    let fixed = match life {
        Life::Sealed { seal, .. } => seal.0,
        Life::Frozen { acked } => *acked,
        Life::Open | Life::Gone => 0,
    };
    out.push(u8::from(whole.synced));
    out.push(whole.origins.all().len() as u8);
    for WorkerId(origin) in whole.origins.all() {
        out.extend_from_slice(&origin.to_le_bytes());
    }
    for number in [fixed, *length, *batches] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    out.extend_from_slice(&(chunk_ends.len() as u32).to_le_bytes());
    for number in chunk_ends.iter().flat_map(|(offset, batches)| [offset, batches]) {
        out.extend_from_slice(&number.to_le_bytes());
    }
    out.extend_from_slice(&(extents.len() as u32).to_le_bytes());
    for extent in extents {
        let folder = folders.get(usize::from(extent.place.disk)).copied().unwrap_or_default();
        for number in [folder, extent.place.position, extent.offset] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        let Extent { length, stored, batches, first_map, last_map, crc, list_crc, place, .. } = extent;
        for number in [place.segment, *length, *stored, *batches, *first_map, *last_map, *crc, *list_crc] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&[0; 4]);
    }
}

/// Reads the header of a file that was [`upgraded`] if it had to be, and returns what follows it.
///
/// # Errors
/// `Header` or `Version`.
pub fn get_header(bytes: &[u8]) -> Result<(Header, &[u8]), FormError> {
    header_of(bytes, VERSION)
}

fn header_of(bytes: &[u8], version: u16) -> Result<(Header, &[u8]), FormError> {
    let mut from = Reader { bytes };
    let header = from.header(version).ok_or(FormError::Header)??;
    let used = bytes.len() - from.bytes.len();
    let crc_is_good = from.u32().is_some_and(|found| found == crc(&bytes[..used]));
    if crc_is_good { Ok((header, from.bytes)) } else { Err(FormError::Header) }
}

/// A whole file of records of the version before ours, written anew in ours up to the first record that is torn or broken;
/// `None` where it is not one.
#[must_use]
pub fn upgraded(bytes: &[u8]) -> Option<Vec<u8>> {
    let (header, mut rest) = header_of(bytes, OLDEST).ok()?;
    let mut out = Vec::with_capacity(bytes.len());
    put_header(&mut out, &header);
    while let Some((body, after)) = frame(rest) {
        put_frame(&mut out, |out| put_upgraded(out, body));
        rest = after;
    }
    Some(out)
}

/// Where form 2 has a list of earlier workers, form 1 has one id, or zeros: no worker has the id 0.
fn put_upgraded(out: &mut Vec<u8>, body: &[u8]) {
    const AT: usize = 10;
    match body.split_at_checked(AT).and_then(|(before, rest)| Some((before, rest.split_first_chunk::<16>()?))) {
        Some((before @ [2 | 3, ..], (origin, after))) => {
            out.extend_from_slice(before);
            let is_one = *origin != [0; 16];
            out.push(u8::from(is_one));
            out.extend_from_slice(if is_one { origin } else { &[] });
            out.extend_from_slice(after);
        }
        Some(_) | None => out.extend_from_slice(body),
    }
}

/// The records that follow a header, in order, up to the first that is torn or broken; then how many bytes that and the
/// rest are. A location whose record is whole, but speaks of a folder that is not among `folders` or contradicts itself,
/// is `None`: it was there, and can't be used.
pub fn records(bytes: &[u8], folders: &[u64]) -> (Vec<(Name, Option<Said>)>, usize) {
    let mut records = Vec::new();
    let mut rest = bytes;
    while let Some((body, after)) = frame(rest) {
        let mut from = Reader { bytes: body };
        let Some((kind, name)) = from.start() else { break };
        records.push((name, from.said(kind, folders)));
        rest = after;
    }
    (records, rest.len())
}

/// The body of the first record, and what follows it; `None` where it is not whole.
fn frame(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut from = Reader { bytes };
    let (length, expected) = (from.u32()? as usize, from.u32()?);
    if length > RECORD_BYTES_MAX || length > from.bytes.len() {
        return None;
    }
    let (body, after) = from.bytes.split_at(length);
    (crc(body) == expected).then_some((body, after))
}

/// Writes what a segment begins with: [`SEGMENT_HEADER_BYTES`] bytes.
#[must_use]
pub fn segment_header(instance: Instance, shuffle: ShuffleId, segment: u32) -> Vec<u8> {
    segment_header_of(VERSION, instance, shuffle, segment)
}

fn segment_header_of(version: u16, instance: Instance, shuffle: ShuffleId, segment: u32) -> Vec<u8> {
    let mut out = Vec::with_capacity(SEGMENT_HEADER_BYTES as usize);
    out.extend_from_slice(SEGMENT_MAGIC);
    out.extend_from_slice(&version.to_le_bytes());
    out.extend_from_slice(&instance.0.to_le_bytes());
    out.extend_from_slice(&shuffle.0.to_le_bytes());
    out.extend_from_slice(&segment.to_le_bytes());
    out.resize(SEGMENT_HEADER_BYTES as usize - 4, 0);
    let crc = crc(&out);
    out.extend_from_slice(&crc.to_le_bytes());
    out
}

/// Checks what a segment begins with.
///
/// # Errors
/// `Header` or `Version`.
pub fn check_segment_header(
    header: &[u8],
    instance: Instance,
    shuffle: ShuffleId,
    segment: u32,
) -> Result<(), FormError> {
    let mut from = Reader { bytes: header };
    let magic = from.take(8).ok_or(FormError::Header)?;
    let found = from.u16().ok_or(FormError::Header)?;
    if magic != SEGMENT_MAGIC {
        return Err(FormError::Header);
    }
    check_version(found)?;
    let is_ours = header == segment_header_of(found, instance, shuffle, segment);
    if is_ours { Ok(()) } else { Err(FormError::Header) }
}

/// There is no version 0: a loss of power has left the first bytes of a header, and zeros.
fn check_version(found: u16) -> Result<(), FormError> {
    match found {
        OLDEST..=VERSION => Ok(()),
        0 => Err(FormError::Header),
        found => Err(FormError::Version { found }),
    }
}

impl Whole {
    /// What is to be written down of a location; `None` when it is neither frozen nor sealed, or not all on disk.
    #[must_use]
    pub fn of(log: &Log, synced: bool, origins: Origins) -> Option<Self> {
        let life = log.life();
        let is_whole = matches!(life, Life::Frozen { .. } | Life::Sealed { .. }) && log.unwritten() == 0;
        is_whole.then(|| Self {
            restored: Restored {
                life,
                length: log.length(),
                batches: log.batches(),
                chunk_ends: log.whole_chunks().collect(),
                extents: log.extents().to_vec(),
            },
            synced,
            origins,
        })
    }
}

fn crc(bytes: &[u8]) -> u32 {
    let mut crc = Crc32c::new();
    crc.update(bytes);
    crc.value()
}

struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.bytes.split_at_checked(count)?;
        self.bytes = rest;
        Some(taken)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn u16(&mut self) -> Option<u16> {
        self.take(2)?.try_into().ok().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take(4)?.try_into().ok().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take(8)?.try_into().ok().map(u64::from_le_bytes)
    }

    fn u128(&mut self) -> Option<u128> {
        self.take(16)?.try_into().ok().map(u128::from_le_bytes)
    }

    fn text(&mut self, limit: usize) -> Option<String> {
        let length = usize::from(self.u16()?);
        if length > limit {
            return None;
        }
        String::from_utf8(self.take(length)?.to_vec()).ok()
    }

    fn header(&mut self, version: u16) -> Option<Result<Header, FormError>> {
        let magic = self.take(8)?;
        let found = self.u16()?;
        if magic != RECORDS_MAGIC {
            return None;
        }
        if let Err(error) = check_version(found) {
            return Some(Err(error));
        }
        if found != version {
            return None;
        }
        let boot = self.text(BOOT_BYTES_MAX)?;
        let name = self.text(APPLICATION_BYTES_MAX)?;
        let application = Application { name, instance: Instance(self.u64()?) };
        Some(Ok(Header { application, shuffle: ShuffleId(self.u32()?), boot }))
    }

    fn start(&mut self) -> Option<(u8, Name)> {
        let kind = self.u8()?;
        let name = Name { partition: Partition(self.u32()?), epoch: Epoch(self.u32()?) };
        Some((kind, name))
    }

    fn said(&mut self, kind: u8, folders: &[u64]) -> Option<Said> {
        match kind {
            1 => Some(Said::Opened),
            2 | 3 => self.whole(kind == 3, folders).map(Said::Whole),
            4 => Some(Said::Dropped),
            _ => None,
        }
    }

    fn whole(&mut self, is_sealed: bool, folders: &[u64]) -> Option<Whole> {
        let synced = self.u8()? == 1;
        let origins = usize::from(self.u8()?);
        if origins > ORIGINS_MAX {
            return None;
        }
        let origins = (0..origins).map(|_| self.u128().map(WorkerId)).collect::<Option<_>>()?;
        let origins = Origins::recorded(origins);
        let (fixed, length, batches) = (self.u64()?, self.u64()?, self.u64()?);
        let life = if is_sealed { Life::Sealed { seal: SealId(fixed), length } } else { Life::Frozen { acked: fixed } };
        let chunks = self.u32()? as usize;
        if chunks > CHUNKS_MAX || chunks * 16 > self.bytes.len() {
            return None;
        }
        let chunk_ends = (0..chunks).map(|_| Some((self.u64()?, self.u64()?))).collect::<Option<_>>()?;
        let extents = self.u32()? as usize;
        if extents * EXTENT_BYTES != self.bytes.len() {
            return None;
        }
        let extents = (0..extents).map(|_| self.extent(folders)).collect::<Option<_>>()?;
        Some(Whole { restored: Restored { life, length, batches, chunk_ends, extents }, synced, origins })
    }

    fn extent(&mut self, folders: &[u64]) -> Option<Extent> {
        let (folder, position, offset) = (self.u64()?, self.u64()?, self.u64()?);
        let disk = folders.iter().position(|known| *known == folder).and_then(|disk| u16::try_from(disk).ok());
        let segment = self.u32()?;
        let (length, stored, batches) = (self.u32()?, self.u32()?, self.u32()?);
        let (first_map, last_map, crc, list_crc) = (self.u32()?, self.u32()?, self.u32()?, self.u32()?);
        self.take(4)?;
        let place = ExtentPlace { disk: disk?, segment, position };
        Some(Extent { place, offset, length, stored, batches, first_map, last_map, crc, list_crc })
    }
}

#[cfg(test)]
mod tests;
