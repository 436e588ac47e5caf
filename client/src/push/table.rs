//! Where each partition of a generation is open, as this client heard last. Shared by all its attempts.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mallorn_proto::id::{Epoch, Generation, Handle, LocationId, Partition, ShuffleId};
use mallorn_proto::limits::PAGE_LOCATIONS_MAX;
use mallorn_proto::v1;
use parking_lot::{Mutex, RwLock};
use tokio::sync::OnceCell;

use crate::client::Inner;
use crate::error::LifecycleError;

/// Partitions of all tables that are kept together, at about 50 bytes each. Older tables go, and are loaded again where
/// another attempt still needs them.
const KEPT_MAX: usize = 1 << 20;

/// An open location, and how its worker is reached.
#[derive(Clone, Debug)]
pub(super) struct Open {
    pub(super) location: LocationId,
    pub(super) handle: Handle,
    pub(super) worker: Arc<v1::WorkerAddress>,
}

#[derive(Debug)]
pub(super) struct Table {
    of: (u32, Generation),
    wire: ShuffleId,
    partitions: RwLock<Vec<Option<Open>>>,
    /// Partitions whose location is full, and whose next epoch is being asked for.
    splitting: Mutex<BTreeSet<Partition>>,
}

/// The tables of one client.
#[derive(Debug, Default)]
pub(crate) struct Tables {
    loaded: Mutex<BTreeMap<(u32, Generation), Loading>>,
}

/// A table that is there, or being asked for.
#[derive(Clone, Debug)]
struct Loading {
    partitions: usize,
    table: Arc<OnceCell<Arc<Table>>>,
}

impl Tables {
    /// The table of a generation; asked for once, however many attempts start at the same time.
    pub(super) async fn load(
        &self,
        client: &Inner,
        of: (u32, Generation),
        (wire, partitions): (ShuffleId, u32),
    ) -> Result<Arc<Table>, LifecycleError> {
        let cell = {
            let loaded = &mut *self.loaded.lock();
            make_room(loaded, of, partitions as usize);
            let fresh = || Loading { partitions: partitions as usize, table: Arc::default() };
            Arc::clone(&loaded.entry(of).or_insert_with(fresh).table)
        };
        let table = cell.get_or_try_init(|| async move {
            let mut table = Table { of, wire, partitions: RwLock::default(), splitting: Mutex::default() };
            let mut open = Vec::with_capacity(partitions as usize);
            let all: Vec<_> = (0..partitions).map(Partition).collect();
            for page in all.chunks(PAGE_LOCATIONS_MAX) {
                open.extend(table.ask(client, page).await?);
            }
            table.partitions = RwLock::new(open);
            Ok(Arc::new(table))
        });
        table.await.cloned()
    }
}

/// Drops what there is no room for beside the table of `of`: older generations of its shuffle, then the oldest shuffles.
fn make_room(loaded: &mut BTreeMap<(u32, Generation), Loading>, of: (u32, Generation), partitions: usize) {
    loaded.retain(|(shuffle, generation), _| *shuffle != of.0 || *generation >= of.1);
    let mut kept: usize = loaded.values().map(|loading| loading.partitions).sum();
    while kept + partitions > KEPT_MAX && !loaded.contains_key(&of) {
        let Some((_, dropped)) = loaded.pop_first() else { return };
        kept -= dropped.partitions;
    }
}

impl Table {
    pub(super) fn get(&self, partition: Partition) -> Option<Open> {
        self.partitions.read().get(partition.0 as usize).cloned().flatten()
    }

    /// Asks where these partitions are open now; `None` for those that could not be placed yet.
    pub(super) async fn ask(&self, client: &Inner, asked: &[Partition]) -> Result<Vec<Option<Open>>, LifecycleError> {
        let request = v1::LocateRequest {
            instance: client.application.instance.0,
            shuffle: self.of.0,
            generation: self.of.1.0,
            partitions: asked.iter().map(|partition| partition.0).collect(),
        };
        let call = client.link.call(|mut door| {
            let request = request.clone();
            async move { door.locate(request).await }
        });
        let reply = call.await?;
        if reply.locations.len() != asked.len() {
            return Err(LifecycleError::senseless("it speaks of other partitions than asked"));
        }
        let workers: Vec<_> = reply.workers.into_iter().map(Arc::new).collect();
        let open = |(location, asked): (&v1::OpenLocation, &Partition)| match location.location {
            Some(_) => self.opened(location, *asked, &workers).map(Some),
            None => Ok(None),
        };
        reply.locations.iter().zip(asked).map(open).collect()
    }

    /// A location of a reply, which must be one of the partition asked for.
    pub(super) fn opened(
        &self,
        open: &v1::OpenLocation,
        asked: Partition,
        workers: &[Arc<v1::WorkerAddress>],
    ) -> Result<Open, LifecycleError> {
        let location = open.location.map(LocationId::from);
        let location = location.filter(|location| location.shuffle == self.wire && location.partition == asked);
        match (location, workers.get(open.worker as usize)) {
            (Some(location), Some(worker)) => {
                Ok(Open { location, handle: Handle(open.handle), worker: Arc::clone(worker) })
            }
            _ => Err(LifecycleError::senseless("a location is not the one asked for, or its worker is not named")),
        }
    }

    /// Whether the next epoch of a full location is to be asked for: it is the present one, and nobody asks yet.
    pub(super) fn begin_split(&self, partition: Partition, epoch: Epoch) -> bool {
        let is_present = self.get(partition).is_some_and(|open| open.location.epoch == epoch);
        is_present && self.splitting.lock().insert(partition)
    }

    pub(super) fn end_split(&self, partition: Partition) {
        self.splitting.lock().remove(&partition);
    }

    /// Notes a newer location; an older one is left out.
    pub(super) fn learn(&self, open: Open) {
        let mut partitions = self.partitions.write();
        if let Some(known) = partitions.get_mut(open.location.partition.0 as usize) {
            let newer = known.as_ref().is_none_or(|known| known.location.epoch <= open.location.epoch);
            if newer {
                *known = Some(open);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_bounded_and_a_shuffle_keeps_its_newest_generation_only() {
        let mut loaded = BTreeMap::new();
        let mut load = |shuffle: u32, generation: u32, partitions: usize| {
            let of = (shuffle, Generation(generation));
            make_room(&mut loaded, of, partitions);
            loaded.insert(of, Loading { partitions, table: Arc::default() });
            loaded.keys().map(|(shuffle, generation)| (*shuffle, generation.0)).collect::<Vec<_>>()
        };
        assert_eq!(load(1, 0, 10), [(1, 0)]);
        assert_eq!(load(1, 1, 10), [(1, 1)]);
        assert_eq!(load(2, 0, KEPT_MAX - 10), [(1, 1), (2, 0)]);
        assert_eq!(load(2, 0, KEPT_MAX - 10), [(1, 1), (2, 0)]);
        assert_eq!(load(3, 0, 1), [(2, 0), (3, 0)]);
    }
}
