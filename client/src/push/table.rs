//! Where each partition of a generation is open, as this client heard last. Shared by all its attempts.

use std::collections::BTreeMap;
use std::sync::Arc;

use mallorn_proto::id::{Generation, Handle, LocationId, Partition};
use mallorn_proto::limits::PAGE_LOCATIONS_MAX;
use mallorn_proto::v1;
use parking_lot::{Mutex, RwLock};
use tokio::sync::OnceCell;

use crate::client::Inner;
use crate::error::LifecycleError;

/// Tables of generations that are kept; older ones go, and are loaded again if anybody still needs them.
const TABLES_MAX: usize = 1024;

/// An open location, and how its worker is reached.
#[derive(Clone, Debug)]
pub(super) struct Open {
    pub(super) location: LocationId,
    pub(super) handle: Handle,
    pub(super) worker: Arc<v1::WorkerAddress>,
}

#[derive(Debug)]
pub(super) struct Table {
    partitions: RwLock<Vec<Option<Open>>>,
}

/// The tables of one client.
#[derive(Debug, Default)]
pub(crate) struct Tables {
    #[expect(clippy::type_complexity, reason = "a map from generations to cells that are filled once")]
    loaded: Mutex<BTreeMap<(u32, Generation), Arc<OnceCell<Arc<Table>>>>>,
}

impl Tables {
    /// The table of a generation; asked for once, however many attempts start at the same time.
    pub(super) async fn load(
        &self,
        client: &Inner,
        of: (u32, Generation),
        partitions: u32,
    ) -> Result<Arc<Table>, LifecycleError> {
        let cell = {
            let mut loaded = self.loaded.lock();
            while loaded.len() >= TABLES_MAX && !loaded.contains_key(&of) {
                loaded.pop_first();
            }
            Arc::clone(loaded.entry(of).or_default())
        };
        let table = cell.get_or_try_init(|| async move {
            let mut open = Vec::with_capacity(partitions as usize);
            let all: Vec<u32> = (0..partitions).collect();
            for page in all.chunks(PAGE_LOCATIONS_MAX) {
                let request = v1::LocateRequest {
                    instance: client.application.instance.0,
                    shuffle: of.0,
                    generation: of.1.0,
                    partitions: page.to_vec(),
                };
                let call = client.link.call(|mut door| {
                    let request = request.clone();
                    async move { door.locate(request).await }
                });
                let reply = call.await?;
                let workers: Vec<_> = reply.workers.into_iter().map(Arc::new).collect();
                open.extend(reply.locations.iter().map(|location| opened(location, &workers)));
            }
            open.resize_with(partitions as usize, || None);
            Ok(Arc::new(Table { partitions: RwLock::new(open) }))
        });
        table.await.cloned()
    }
}

impl Table {
    pub(super) fn get(&self, partition: Partition) -> Option<Open> {
        self.partitions.read().get(partition.0 as usize).cloned().flatten()
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

/// A location of a reply; `None` where it could not be placed yet.
pub(super) fn opened(location: &v1::OpenLocation, workers: &[Arc<v1::WorkerAddress>]) -> Option<Open> {
    let worker = Arc::clone(workers.get(location.worker as usize)?);
    Some(Open { location: location.location?.into(), handle: Handle(location.handle), worker })
}
