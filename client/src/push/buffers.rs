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
pub(super) const SPARE_BYTES: u64 = 64 * 1024;

/// A batch cut from a buffer.
#[derive(Debug)]
pub(super) struct Cut {
    pub(super) partition: Partition,
    pub(super) batch: BatchId,
    pub(super) last: bool,
    pub(super) raw: Bytes,
    pub(super) permit: Option<Permit>,
}

impl Cut {
    fn held(&self) -> u64 {
        self.permit.as_ref().map_or(0, Permit::bytes)
    }
}

#[derive(Debug)]
pub(super) struct Buffers {
    batch_bytes: usize,
    partitions: Map<Partition, Buffer>,
    /// Pushed to with empty units only, which need no memory, and since then with nothing else.
    touched: BTreeSet<Partition>,
    log: AttemptLog,
    cut: Vec<Cut>,
    /// Of those that are small enough to be gathered.
    cut_bytes: usize,
    /// Some of what is cut goes alone.
    has_large: bool,
    /// Batches of so many bytes go alone.
    alone_bytes: usize,
    spare: Option<Permit>,
    /// Bytes of all permits in here: buffers, batches that wait to be sent, spare.
    held: u64,
}

#[derive(Debug)]
struct Buffer {
    bytes: Vec<u8>,
    permit: Permit,
}

impl Buffers {
    /// Batches of at least `alone_bytes` are sent one by one, smaller ones gathered.
    pub(super) fn new(map: MapId, batch_bytes: usize, alone_bytes: usize) -> Self {
        Self {
            batch_bytes,
            partitions: Map::default(),
            touched: BTreeSet::new(),
            log: AttemptLog::new(map),
            cut: Vec::new(),
            cut_bytes: 0,
            has_large: false,
            alone_bytes,
            spare: None,
            held: 0,
        }
    }

    /// Appends a unit, growing the partition's buffer with spare memory or what `take` gives; `false`, with nothing
    /// appended, when neither has enough. A buffer that would grow over a batch is cut first.
    pub(super) fn append(&mut self, partition: Partition, unit: &[u8], take: impl Fn(u64) -> Option<Permit>) -> bool {
        if unit.is_empty() {
            self.touched.insert(partition);
            return true;
        }
        let over = |buffer: &Buffer| !buffer.bytes.is_empty() && buffer.bytes.len() + unit.len() > self.batch_bytes;
        if self.partitions.get(&partition).is_some_and(over) {
            self.cut(partition, false);
        }
        let needed = self.needed(partition, unit.len());
        if needed > 0 {
            let Some(permit) = self.take_spare(needed, take) else { return false };
            match self.partitions.get_mut(&partition) {
                Some(buffer) => buffer.permit.merge(permit),
                None => {
                    self.partitions.insert(partition, Buffer { bytes: Vec::new(), permit });
                }
            }
        }
        let Some(buffer) = self.partitions.get_mut(&partition) else { return false };
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
        if wanted as u64 <= capacity {
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
        self.held += permit.bytes();
        match &mut self.spare {
            Some(spare) => spare.merge(permit),
            None => self.spare = Some(permit),
        }
    }

    /// Cuts a batch of one unit that was not buffered.
    pub(super) fn cut_unit(&mut self, partition: Partition, unit: Bytes, permit: Permit) {
        let batch = self.log.cut(partition, false);
        self.held += permit.bytes();
        self.add(Cut { partition, batch, last: false, raw: unit, permit: Some(permit) });
    }

    fn cut(&mut self, partition: Partition, last: bool) {
        let buffer = self.partitions.remove(&partition);
        let batch = self.log.cut(partition, last);
        let (raw, permit) = match buffer {
            Some(buffer) => (Bytes::from(buffer.bytes), Some(buffer.permit)),
            None => (Bytes::new(), None),
        };
        self.add(Cut { partition, batch, last, raw, permit });
    }

    fn add(&mut self, cut: Cut) {
        if cut.raw.len() >= self.alone_bytes {
            self.has_large = true;
        } else {
            self.cut_bytes += cut.raw.len();
        }
        self.cut.push(cut);
    }

    /// Cuts the fullest buffers until so many bytes are cut or were spare, or none is left.
    pub(super) fn cut_fullest(&mut self, bytes: u64) {
        // Unused spare memory goes first: it costs nobody anything.
        let mut freed = self.give_spare() + self.cut.iter().map(Cut::held).sum::<u64>();
        if freed >= bytes {
            return;
        }
        let sizes = self.partitions.iter().map(|(partition, buffer)| (buffer.permit.bytes(), *partition));
        let by_size: BTreeSet<_> = sizes.collect();
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
        self.give_spare();
        // A partition that was only ever pushed empty units has no batch yet.
        let mut open = std::mem::take(&mut self.touched);
        open.extend(self.log.open_partitions());
        open.extend(self.partitions.keys().copied());
        open.into_iter().for_each(|partition| self.cut(partition, true));
    }

    fn give_spare(&mut self) -> u64 {
        let bytes = self.spare.take().map_or(0, |spare| spare.bytes());
        self.held -= bytes;
        bytes
    }

    /// Whether something is cut that goes alone, or as much as goes together.
    pub(super) fn is_due(&self, gathered: usize) -> bool {
        self.has_large || self.cut_bytes >= gathered
    }

    /// Takes what is cut, as requests: large batches one by one, smaller ones gathered up to `gathered` bytes. Small ones
    /// stay where they do not amount to `at_least` bytes.
    pub(super) fn take_cut(&mut self, at_least: usize, gathered: usize) -> Vec<Vec<Cut>> {
        let requests = self.gather(at_least, gathered);
        self.held -= requests.iter().flatten().map(Cut::held).sum::<u64>();
        requests
    }

    fn gather(&mut self, at_least: usize, gathered: usize) -> Vec<Vec<Cut>> {
        let mut requests = Vec::new();
        if std::mem::take(&mut self.has_large) {
            let large = self.cut.extract_if(.., |cut| cut.raw.len() >= self.alone_bytes);
            requests.extend(large.map(|cut| vec![cut]));
        }
        if self.cut_bytes < at_least {
            return requests;
        }
        self.cut_bytes = 0;
        let (mut request, mut bytes) = (Vec::new(), 0);
        for cut in self.cut.drain(..) {
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

    /// Bytes of memory held in here.
    pub(super) fn held(&self) -> u64 {
        self.held
    }

    /// Drops everything buffered and cut; what is returned is for the caller to drop outside its lock.
    pub(super) fn clear(&mut self) -> impl Sized + use<> {
        (self.held, self.cut_bytes, self.has_large) = (0, 0, false);
        self.touched.clear();
        (std::mem::take(&mut self.partitions), std::mem::take(&mut self.cut), self.spare.take())
    }
}

#[cfg(test)]
mod tests {
    use mallorn_client_core::memory::{Budget, Share};

    use super::*;
    use crate::memory::Memory;

    const BATCH: usize = 4096;

    #[test]
    fn every_byte_held_can_be_asked_back() {
        let memory = Memory::new(Budget::new(1 << 20, 1024).unwrap());
        let take = |bytes| memory.try_take(Share::Push, bytes);
        let mut buffers = Buffers::new(MapId(0), BATCH, 1 << 20);
        // A full batch, which waits to be gathered with others, a buffer, and what is left of the memory taken for both.
        assert!(buffers.append(Partition(0), &[1; BATCH], take));
        assert!(buffers.append(Partition(1), &[2; 10], take));
        assert!(buffers.take_cut(BATCH + 1, 1 << 20).is_empty());
        assert_eq!(buffers.held(), memory.held(Share::Push));
        assert_eq!(memory.held(Share::Push), SPARE_BYTES);

        buffers.cut_fullest(1);
        assert_eq!(buffers.held(), memory.held(Share::Push));
        assert_eq!(memory.held(Share::Push), (BATCH + FIRST_BYTES) as u64, "spare memory went, and was enough");
        buffers.cut_fullest(u64::MAX);
        let requests = buffers.take_cut(0, 1 << 20);
        assert_eq!((requests.iter().flatten().count(), buffers.held()), (2, 0));
        drop(requests);
        assert_eq!(memory.held(Share::Push), 0);
    }

    #[test]
    fn small_batches_wait_until_they_fill_a_request_and_large_ones_go_at_once() {
        let memory = Memory::new(Budget::new(1 << 20, 1024).unwrap());
        let mut buffers = Buffers::new(MapId(0), BATCH, 8 * BATCH);
        let cut = |buffers: &mut Buffers, partition, bytes: usize| {
            let permit = memory.try_take(Share::Push, bytes as u64).unwrap();
            buffers.cut_unit(Partition(partition), Bytes::from(vec![0; bytes]), permit);
        };
        for partition in 0..3 {
            cut(&mut buffers, partition, BATCH);
            assert!(!buffers.is_due(4 * BATCH));
        }
        cut(&mut buffers, 3, 8 * BATCH);
        assert!(buffers.is_due(4 * BATCH));
        let requests = buffers.take_cut(4 * BATCH, 4 * BATCH);
        assert_eq!(requests.iter().map(Vec::len).collect::<Vec<_>>(), [1], "the large one");
        assert!(!buffers.is_due(4 * BATCH));
        cut(&mut buffers, 4, BATCH);
        assert!(buffers.is_due(4 * BATCH));
        let requests = buffers.take_cut(4 * BATCH, 4 * BATCH);
        assert_eq!(requests.iter().map(Vec::len).collect::<Vec<_>>(), [4]);
        assert_eq!(buffers.held(), 0);
    }

    #[test]
    fn empty_units_need_no_memory_and_are_not_forgotten() {
        let mut buffers = Buffers::new(MapId(0), BATCH, 1 << 20);
        for partition in 0..1000 {
            assert!(buffers.append(Partition(partition), &[], |_| None));
        }
        buffers.cut_all();
        let last = buffers.take_cut(0, 1 << 20).into_iter().flatten().filter(|cut| cut.last).count();
        assert_eq!((last, buffers.held()), (1000, 0));
    }
}
