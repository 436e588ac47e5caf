//! The extents of a location: where its bytes lie on disk, and how they are cut.
//!
//! A location's bytes from 0 up to what is written lie in extents, in order and without gaps; its memory holds a suffix
//! that begins at or before that border. What lies in both is clean, and memory may forget it. Extents hold whole batches
//! and end with the chunk that they lie in, so that an answer is made of whole extents wherever it can be.

use std::ops::Range;

use mallorn_proto::checksum::Crc32c;
use mallorn_proto::id::{Attempt, BatchId, MapId};

use crate::push::{BatchEntry, ChunkEnd, Life, Log};

/// Aim for the length of an extent, in bytes: large enough that a read from disk is worth its seek.
pub const EXTENT_BYTES: u64 = 512 * 1024;

/// Bytes that one batch takes in an extent's list.
pub const ENTRY_BYTES: usize = 16;

/// Where an extent lies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExtentPlace {
    /// Index of the disk among the worker's.
    pub disk: u16,
    /// Number of the segment file among those of its shuffle on that disk.
    pub segment: u32,
    /// In bytes from the segment's start. The batches' list follows their bytes.
    pub position: u64,
}

/// A run of whole batches on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Where it lies.
    pub place: ExtentPlace,
    /// In bytes from the location's start.
    pub offset: u64,
    /// Bytes of it that belong to the location; less than what is stored where a seal has cut it.
    pub length: u32,
    /// Bytes of batches stored.
    pub stored: u32,
    /// Batches stored.
    pub batches: u32,
    /// The lowest map among them.
    pub first_map: u32,
    /// The highest map among them.
    pub last_map: u32,
    /// CRC-32C of the batches.
    pub crc: u32,
    /// CRC-32C of their list.
    pub list_crc: u32,
}

/// The bound of the design: an extent costs at most 64 bytes of memory.
const _: () = assert!(size_of::<Extent>() <= 64);

impl Extent {
    /// Where it ends, in bytes from the location's start.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.offset + u64::from(self.length)
    }

    /// Bytes that its batches' list takes on disk.
    #[must_use]
    pub fn list_bytes(&self) -> usize {
        self.batches as usize * ENTRY_BYTES
    }

    /// Where that list begins, in bytes from the segment's start.
    #[must_use]
    pub fn list_at(&self) -> u64 {
        self.place.position + u64::from(self.stored)
    }

    /// Where that list ends, in bytes from the segment's start; `None` where no file is as long.
    #[must_use]
    pub fn disk_end(&self) -> Option<u64> {
        self.place.position.checked_add(u64::from(self.stored) + self.list_bytes() as u64)
    }

    /// Whether these bytes are that list: by its checksum, and because the batches in it are those that are stored.
    #[must_use]
    pub fn is_list(&self, list: &[u8]) -> bool {
        let mut crc = Crc32c::new();
        crc.update(list);
        let stored: u64 = entries(list).map(|entry| u64::from(entry.stored_bytes)).sum();
        crc.value() == self.list_crc && list.len() == self.list_bytes() && stored == u64::from(self.stored)
    }
}

/// A run of batches in memory that is to become an extent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// In bytes from the location's start.
    pub range: Range<u64>,
    /// Its batches' list, as it is stored.
    pub list: Vec<u8>,
    /// Batches in it.
    pub batches: u32,
    /// The lowest map among them.
    pub first_map: u32,
    /// The highest map among them.
    pub last_map: u32,
}

/// Writes an entry of a list.
fn put_entry(list: &mut Vec<u8>, entry: &BatchEntry) {
    list.extend_from_slice(&entry.map.0.to_le_bytes());
    list.extend_from_slice(&entry.attempt.0.to_le_bytes());
    list.extend_from_slice(&entry.batch.0.to_le_bytes());
    list.extend_from_slice(&entry.stored_bytes.to_le_bytes());
}

/// Reads an extent's list; what is left over after whole entries is ignored, for its checksum is good.
pub fn entries(list: &[u8]) -> impl Iterator<Item = BatchEntry> + '_ {
    let (entries, _) = list.as_chunks::<ENTRY_BYTES>();
    entries.iter().map(|entry| {
        let (numbers, _) = entry.as_chunks::<4>();
        let number = |at: usize| u32::from_le_bytes(numbers[at]);
        BatchEntry {
            map: MapId(number(0)),
            attempt: Attempt(number(1)),
            batch: BatchId(number(2)),
            stored_bytes: number(3),
        }
    })
}

impl Log {
    /// Bytes on disk, from the location's start.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.extents.last().map_or(0, Extent::end)
    }

    /// Bytes that are in memory only.
    #[must_use]
    pub fn unwritten(&self) -> u64 {
        self.length - self.written().min(self.length)
    }

    /// Where memory begins, in bytes from the location's start.
    #[must_use]
    pub fn memory_start(&self) -> u64 {
        self.memory_start
    }

    /// The extents, in order.
    #[must_use]
    pub fn extents(&self) -> &[Extent] {
        &self.extents
    }

    /// Cuts what is in memory only into extents of about [`EXTENT_BYTES`], of `limit_bytes` in all, but at least one.
    /// With `whole` the rest that is smaller is one too.
    #[must_use]
    pub fn cut(&self, limit_bytes: u64, whole: bool) -> Vec<Cut> {
        let mut cuts = Vec::new();
        let mut chunk = self.chunk_ends.partition_point(|end| end.offset <= self.written());
        let mut open = Cut::at(self.written());
        let mut total = 0;
        for entry in self.batches.range(self.written_batches..) {
            let bytes = u64::from(entry.stored_bytes);
            if total > 0 && total + bytes > limit_bytes {
                break;
            }
            total += bytes;
            open.add(entry);
            let ends_chunk = self.chunk_ends.get(chunk).is_some_and(|end| end.offset == open.range.end);
            chunk += usize::from(ends_chunk);
            if ends_chunk || open.range.end - open.range.start >= EXTENT_BYTES {
                let next = Cut::at(open.range.end);
                cuts.push(std::mem::replace(&mut open, next));
            }
        }
        if whole && open.batches > 0 {
            cuts.push(open);
        }
        cuts
    }

    /// Notes extents that were written, the first of them right where the last one ended; what a seal has cut off
    /// meanwhile is left out. Returns the bytes that are on disk now and were not before; `None`, and nothing is noted,
    /// when the location is gone or the extents do not follow.
    pub fn wrote(&mut self, extents: &[Extent]) -> Option<u64> {
        let before = self.written();
        if self.life == Life::Gone || extents.first().is_some_and(|first| first.offset != before) {
            return None;
        }
        for extent in extents.iter().filter(|extent| extent.offset < self.length) {
            let length = u64::from(extent.length).min(self.length - extent.offset);
            self.extents.push(Extent { length: length as u32, ..*extent });
        }
        self.count_written();
        Some(self.written() - before)
    }

    /// Forgets what lies in memory and on disk; returns where memory begins now.
    pub fn forget_clean(&mut self) -> u64 {
        self.forgotten += self.written_batches as u64;
        self.batches.drain(..self.written_batches);
        self.written_batches = 0;
        if self.batches.capacity() > 4 * self.batches.len().max(16) {
            self.batches.shrink_to_fit();
        }
        self.memory_start = self.memory_start.max(self.written());
        self.memory_start
    }

    /// Counts which batches in memory are written.
    fn count_written(&mut self) {
        let written = self.written();
        let mut end: u64 = self.memory_start;
        let mut count = 0;
        for entry in &self.batches {
            end += u64::from(entry.stored_bytes);
            if end > written {
                break;
            }
            count += 1;
        }
        self.written_batches = count;
    }

    /// Cuts the extents at the sealed length.
    pub(crate) fn cut_extents(&mut self, length: u64) {
        self.extents.truncate(self.extents.partition_point(|extent| extent.offset < length));
        if let Some(last) = self.extents.last_mut() {
            last.length = (length - last.offset).min(u64::from(last.length)) as u32;
        }
    }

    /// A location as its record tells it: all of it on disk.
    ///
    /// # Errors
    /// When the extents do not follow each other up to its length, more was acked than that, or its chunks do not rise
    /// within it.
    pub fn restored(restored: Restored) -> Result<Self, BrokenRecord> {
        let Restored { life, length, batches, chunk_ends, extents } = restored;
        let mut end = 0;
        for extent in &extents {
            let is_cut_wrong = extent.length == 0 || extent.length > extent.stored;
            if extent.offset != end || is_cut_wrong || extent.disk_end().is_none() {
                return Err(BrokenRecord);
            }
            end = extent.end();
        }
        let starts = chunk_ends.first().is_none_or(|first| first.0 > 0);
        let rising = chunk_ends.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 < pair[1].1);
        let within = chunk_ends.last().is_none_or(|last| last.0 <= length && last.1 <= batches);
        let holds = |life| !matches!(life, Life::Frozen { acked } if acked > length);
        if end != length || !starts || !rising || !within || !holds(life) {
            return Err(BrokenRecord);
        }
        let chunk_ends = chunk_ends.into_iter().map(|(offset, batches)| ChunkEnd { offset, batches }).collect();
        let forgotten = batches;
        Ok(Self { life, length, extents, memory_start: length, forgotten, chunk_ends, ..Self::new() })
    }
}

/// What a record says of a location.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    /// Frozen or sealed.
    pub life: Life,
    /// Bytes held.
    pub length: u64,
    /// Batches held.
    pub batches: u64,
    /// For each complete chunk where it ends, and the batches before that.
    pub chunk_ends: Vec<(u64, u64)>,
    /// Where the bytes lie.
    pub extents: Vec<Extent>,
}

/// A record that contradicts itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the record of the location contradicts itself")]
pub struct BrokenRecord;

impl Cut {
    fn at(offset: u64) -> Self {
        Self { range: offset..offset, list: Vec::new(), batches: 0, first_map: u32::MAX, last_map: 0 }
    }

    fn add(&mut self, entry: &BatchEntry) {
        self.range.end += u64::from(entry.stored_bytes);
        put_entry(&mut self.list, entry);
        self.batches += 1;
        self.first_map = self.first_map.min(entry.map.0);
        self.last_map = self.last_map.max(entry.map.0);
    }

    /// Bytes of its batches.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.range.end - self.range.start
    }

    /// Bytes that it takes on disk.
    #[must_use]
    pub fn disk_bytes(&self) -> u64 {
        self.bytes() + self.list.len() as u64
    }

    /// The extent that it has become.
    #[must_use]
    pub fn written_at(&self, place: ExtentPlace, crc: u32, list_crc: u32) -> Extent {
        let bytes = self.bytes() as u32;
        Extent {
            place,
            offset: self.range.start,
            length: bytes,
            stored: bytes,
            batches: self.batches,
            first_map: self.first_map,
            last_map: self.last_map,
            crc,
            list_crc,
        }
    }
}

#[cfg(test)]
mod tests;
