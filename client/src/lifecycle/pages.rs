//! Keeps replies below the limit of a control message: what grows with maps or partitions is cut here, and the caller
//! asks for the rest.

use std::collections::BTreeMap;

use mallorn_proto::id::WorkerId;
use mallorn_proto::v1;

use super::workers::Workers;

/// Items (locations, winners, ranges) in one reply: at under 128 bytes each, well below the limit.
pub(super) const ITEMS_MAX: usize = 16 * 1024;

/// The workers that a reply names, each once.
pub(super) struct AddressTable<'a> {
    workers: &'a Workers,
    index: BTreeMap<WorkerId, u32>,
    pub(super) addresses: Vec<v1::WorkerAddress>,
}

impl<'a> AddressTable<'a> {
    pub(super) fn new(workers: &'a Workers) -> Self {
        Self { workers, index: BTreeMap::new(), addresses: Vec::new() }
    }

    /// A worker's index in the reply; one whose address is not known is named by its id alone.
    pub(super) fn index(&mut self, worker: WorkerId) -> u32 {
        if let Some(index) = self.index.get(&worker) {
            return *index;
        }
        let unknown = || v1::WorkerAddress { worker: Some(worker.into()), ..v1::WorkerAddress::default() };
        let index = self.addresses.len() as u32;
        self.addresses.push(self.workers.address(worker).unwrap_or_else(unknown));
        self.index.insert(worker, index);
        index
    }
}
