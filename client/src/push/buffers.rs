//! What an attempt has buffered per partition, and the batches cut from it. Every byte of capacity is backed by a permit.

use std::collections::BTreeSet;

use bytes::Bytes;
use mallorn_client_core::push::{AttemptLog, BatchSum};
use mallorn_proto::id::{BatchId, MapId, Partition};
use mallorn_runtime::hash::Map;

use crate::memory::Permit;

/// The first buffer of a partition.
const FIRST_BYTES: usize = 256;
/// Memory taken from the budget at a time, so that small units do not ask for each of theirs.
const SPARE_BYTES: u64 = 64 * 1024;

/// A batch cut from a buffer.
#[derive(Debug)]
pub(super) struct Cut {
    pub(super) partition: Partition,
    pub(super) batch: BatchId,
    pub(super) last: bool,
    pub(super) raw: Bytes,
    pub(super) permit: Option<Permit>,
}

#[derive(Debug)]
pub(super) struct Buffers {
    batch_bytes: usize,
    partitions: Map<Partition, Buffer>,
    log: AttemptLog,
    cut: Vec<Cut>,
    cut_bytes: usize,
    spare: Option<Permit>,
    held: u64,
}

#[derive(Debug)]
struct Buffer {
    bytes: Vec<u8>,
    permit: Permit,
}

impl Buffers {
    pub(super) fn new(map: MapId, batch_bytes: usize) -> Self {
        let (partitions, log) = (Map::default(), AttemptLog::new(map));
        Self { batch_bytes, partitions, log, cut: Vec::new(), cut_bytes: 0, spare: None, held: 0 }
    }

    /// Appends a unit, growing the partition's buffer with spare memory or what `take` gives; `false`, with nothing
    /// appended, when neither has enough. A buffer that would grow over a batch is cut first.
    pub(super) fn append(&mut self, partition: Partition, unit: &[u8], take: impl Fn(u64) -> Option<Permit>) -> bool {
        let over = |buffer: &Buffer| !buffer.bytes.is_empty() && buffer.bytes.len() + unit.len() > self.batch_bytes;
        if self.partitions.get(&partition).is_some_and(over) {
            self.cut(partition, false);
        }
        let needed = self.needed(partition, unit.len());
        if needed > 0 {
            let Some(permit) = self.take_spare(needed, take) else { return false };
            self.held += needed;
            match self.partitions.get_mut(&partition) {
                Some(buffer) => buffer.permit.merge(permit),
                None => {
                    self.partitions.insert(partition, Buffer { bytes: Vec::new(), permit });
                }
            }
        }
        let Some(buffer) = self.partitions.get_mut(&partition) else { return unit.is_empty() };
        let capacity = buffer.permit.bytes() as usize;
        buffer.bytes.reserve_exact(capacity - buffer.bytes.len());
        buffer.bytes.extend_from_slice(unit);
        if buffer.bytes.len() >= self.batch_bytes {
            self.cut(partition, false);
        }
        true
    }

    /// Bytes of memory that the partition's buffer must get before it can take so many bytes more.
    pub(super) fn needed(&self, partition: Partition, bytes: usize) -> u64 {
        let (length, capacity) =
            self.partitions.get(&partition).map_or((0, 0), |buffer| (buffer.bytes.len(), buffer.permit.bytes()));
        let wanted = length + bytes;
        if wanted as u64 <= capacity && capacity > 0 {
            return 0;
        }
        let doubled = (capacity as usize * 2).clamp(FIRST_BYTES, self.batch_bytes);
        doubled.max(wanted) as u64 - capacity
    }

    fn take_spare(&mut self, needed: u64, take: impl Fn(u64) -> Option<Permit>) -> Option<Permit> {
        let spare = self.spare.as_ref().map_or(0, Permit::bytes);
        if spare < needed {
            let missing = needed - spare;
            let more = take(missing.max(SPARE_BYTES)).or_else(|| take(missing))?;
            self.keep_spare(more);
        }
        self.spare.as_mut().map(|spare| spare.split(needed))
    }

    pub(super) fn keep_spare(&mut self, permit: Permit) {
        match &mut self.spare {
            Some(spare) => spare.merge(permit),
            None => self.spare = Some(permit),
        }
    }

    /// Cuts a batch of one unit that was not buffered.
    pub(super) fn cut_unit(&mut self, partition: Partition, unit: Bytes, permit: Permit) {
        let batch = self.log.cut(partition, false);
        self.cut_bytes += unit.len();
        self.cut.push(Cut { partition, batch, last: false, raw: unit, permit: Some(permit) });
    }

    fn cut(&mut self, partition: Partition, last: bool) {
        let buffer = self.partitions.remove(&partition);
        let batch = self.log.cut(partition, last);
        let (raw, permit) = match buffer {
            Some(buffer) => {
                self.held -= buffer.permit.bytes();
                (Bytes::from(buffer.bytes), Some(buffer.permit))
            }
            None => (Bytes::new(), None),
        };
        self.cut_bytes += raw.len();
        self.cut.push(Cut { partition, batch, last, raw, permit });
    }

    /// Cuts the fullest buffers until so many bytes are cut, or none is left.
    pub(super) fn cut_fullest(&mut self, bytes: u64) {
        // Unused spare memory goes first: it costs nobody anything.
        self.spare = None;
        let filled = self.partitions.iter().filter(|(_, buffer)| !buffer.bytes.is_empty());
        let by_size: BTreeSet<_> = filled.map(|(partition, buffer)| (buffer.permit.bytes(), *partition)).collect();
        let mut freed = 0;
        for (size, partition) in by_size.into_iter().rev() {
            if freed >= bytes {
                break;
            }
            freed += size;
            self.cut(partition, false);
        }
    }

    /// Cuts the last batch of every touched partition.
    pub(super) fn cut_all(&mut self) {
        self.spare = None;
        // A partition that was only ever pushed empty units has a buffer, and no batch yet.
        let mut open: BTreeSet<_> = self.log.open_partitions().collect();
        open.extend(self.partitions.keys().copied());
        open.into_iter().for_each(|partition| self.cut(partition, true));
    }

    pub(super) fn has_full_batch(&self) -> bool {
        self.cut_bytes > 0
    }

    /// Takes what is cut, as requests: batches of at least `alone` bytes one by one, smaller ones gathered up to
    /// `gathered` bytes. Small ones stay where they do not amount to `at_least` bytes.
    pub(super) fn take_cut(&mut self, at_least: usize, alone: usize, gathered: usize) -> Vec<Vec<Cut>> {
        let (large, small): (Vec<_>, Vec<_>) = self.cut.drain(..).partition(|cut| cut.raw.len() >= alone);
        let mut requests: Vec<_> = large.into_iter().map(|cut| vec![cut]).collect();
        self.cut_bytes = small.iter().map(|cut| cut.raw.len()).sum();
        if self.cut_bytes < at_least {
            self.cut = small;
            return requests;
        }
        self.cut_bytes = 0;
        let (mut request, mut bytes) = (Vec::new(), 0);
        for cut in small {
            bytes += cut.raw.len();
            request.push(cut);
            if bytes >= gathered || request.len() >= super::send::GATHERED_MAX {
                requests.push(std::mem::take(&mut request));
                bytes = 0;
            }
        }
        if !request.is_empty() {
            requests.push(request);
        }
        requests
    }

    pub(super) fn count(&mut self, partition: Partition, batch: BatchId, raw_bytes: u32, crc: u32) {
        self.log.count(partition, batch, raw_bytes, crc);
    }

    pub(super) fn sums(&self) -> Vec<(Partition, BatchSum)> {
        self.log.sums().collect()
    }

    /// Bytes of memory held by buffers.
    pub(super) fn held(&self) -> u64 {
        self.held
    }

    /// Drops everything buffered and cut; what is returned is for the caller to drop outside its lock.
    pub(super) fn clear(&mut self) -> impl Sized + use<> {
        (self.held, self.cut_bytes) = (0, 0);
        (std::mem::take(&mut self.partitions), std::mem::take(&mut self.cut), self.spare.take())
    }
}
