//! The gRPC door: reserve, freeze, seal, release, settle, drain.
//!
//! Owns checking what callers send and translating it. Does not own what the calls do (`memory::store`, `commit`, `handover`, `drain`).

mod copies;

use std::sync::Arc;

use mallorn_proto::durability::Durability;
use mallorn_proto::id::{Application, Incarnation, LocationId, SealId, WorkerId};
use mallorn_proto::limits::{APPLICATION_BYTES_MAX, CONTROL_MESSAGE_BYTES_MAX, PAGE_LOCATIONS_MAX};
use mallorn_proto::range_set::RangeSet;
use mallorn_proto::status::{Status, to_grpc};
use mallorn_proto::v1;
use mallorn_proto::v1::worker_server::{Worker, WorkerServer};
use mallorn_worker_core::commit::{Freezing, Sealing};
use mallorn_worker_core::handover::Told;
use mallorn_worker_core::memory::Usage;
use mallorn_worker_core::spill::disk::Health;
use tonic::service::Routes;
use tonic::{Request, Response};

use crate::drain::{Drain, Progress};
use crate::identity::Identity;
use crate::memory::store::{Reserved, Store};
use crate::spill::DiskReport;

/// The service's state.
pub(crate) struct Service {
    pub(crate) identity: Arc<Identity>,
    pub(crate) store: Arc<Store>,
    pub(crate) drain: Arc<Drain>,
}

impl Service {
    /// The service, with the protocol's bounds on messages.
    pub(crate) fn routes(self) -> Routes {
        let server = WorkerServer::new(self)
            .max_decoding_message_size(CONTROL_MESSAGE_BYTES_MAX)
            .max_encoding_message_size(CONTROL_MESSAGE_BYTES_MAX);
        Routes::new(server)
    }

    /// Checks what every request begins with.
    fn admit(
        &self,
        cluster: &str,
        worker: Option<v1::WorkerId>,
        application: Option<v1::Application>,
    ) -> Result<Application, tonic::Status> {
        self.admit_caller(cluster, worker)?;
        let application = Application::from(application.ok_or_else(|| missing("application"))?);
        if application.name.is_empty() || application.name.len() > APPLICATION_BYTES_MAX {
            let text = format!("an application's name has 1 to {APPLICATION_BYTES_MAX} bytes");
            return Err(to_grpc(Status::Malformed, text));
        }
        Ok(application)
    }

    fn admit_caller(&self, cluster: &str, worker: Option<v1::WorkerId>) -> Result<(), tonic::Status> {
        self.store.metrics.calls.inc();
        let identity = &self.identity;
        if cluster != identity.cluster {
            let text = format!("this worker belongs to the cluster `{}`, not to `{cluster}`", identity.cluster);
            return Err(to_grpc(Status::WrongCluster, text));
        }
        let worker = WorkerId::from(worker.ok_or_else(|| missing("worker"))?);
        if worker != identity.worker {
            let text = format!("this is worker {}, not {worker}: ask the master where that one is", identity.worker);
            return Err(to_grpc(Status::WrongWorker, text));
        }
        Ok(())
    }
}

#[tonic::async_trait]
impl Worker for Service {
    async fn reserve(&self, request: Request<v1::ReserveRequest>) -> Result<Response<v1::ReserveReply>, tonic::Status> {
        let request = request.into_inner();
        let application = self.admit(&request.cluster, request.worker, request.application.clone())?;
        let ids = location_ids(&request.locations)?;
        let wanted = copies::wanted(&request, self.identity.worker)?;
        let reserved = self
            .store
            .reserve(&application, Incarnation(request.incarnation), &ids, &wanted)
            .map_err(|error| to_grpc(Status::Fenced, error.to_string()))?;
        let locations = reserved.into_iter().map(reserved_to_wire).collect();
        Ok(Response::new(v1::ReserveReply { locations, memory: Some(memory_to_wire(&self.store.usage())) }))
    }

    async fn freeze(&self, request: Request<v1::FreezeRequest>) -> Result<Response<v1::FreezeReply>, tonic::Status> {
        let request = request.into_inner();
        let application = self.admit(&request.cluster, request.worker, request.application)?;
        let ids = location_ids(&request.locations)?;
        let frozen = self.store.freeze(&application, &ids);
        Ok(Response::new(v1::FreezeReply { locations: frozen.into_iter().map(freezing_to_wire).collect() }))
    }

    async fn seal(&self, request: Request<v1::SealRequest>) -> Result<Response<v1::SealReply>, tonic::Status> {
        let request = request.into_inner();
        let application = self.admit(&request.cluster, request.worker, request.application)?;
        within_page(request.locations.len())?;
        let one = |one: &v1::SealOne| {
            let location = one.location.ok_or_else(|| missing("location"))?;
            if one.seal == 0 {
                return Err(missing("seal"));
            }
            Ok((LocationId::from(location), SealId(one.seal), one.length))
        };
        let seals = request.locations.iter().map(one).collect::<Result<Vec<_>, tonic::Status>>()?;
        let durability = Durability::from_wire(request.durability);
        let sealed = self.store.seal(&application, durability, &seals).await;
        Ok(Response::new(v1::SealReply { locations: sealed.into_iter().map(sealing_to_wire).collect() }))
    }

    async fn release(&self, request: Request<v1::ReleaseRequest>) -> Result<Response<v1::ReleaseReply>, tonic::Status> {
        let request = request.into_inner();
        let application = self.admit(&request.cluster, request.worker, request.application)?;
        let shuffles = RangeSet::from_wire(request.shuffles, PAGE_LOCATIONS_MAX)
            .map_err(|error| to_grpc(Status::Malformed, format!("the field `shuffles`: {error}")))?;
        let bytes = shuffles.runs().iter().map(|range| self.store.release(&application, range.clone())).sum();
        Ok(Response::new(v1::ReleaseReply { bytes }))
    }

    async fn settle(&self, request: Request<v1::SettleRequest>) -> Result<Response<v1::SettleReply>, tonic::Status> {
        let request = request.into_inner();
        let application = self.admit(&request.cluster, request.worker, request.application)?;
        let from = WorkerId::from(request.from.ok_or_else(|| missing("from"))?);
        within_page(request.locations.len())?;
        let one = |one: &v1::SettleOne| {
            let location = one.location.ok_or_else(|| missing("location"))?;
            let seal = (one.seal != 0).then_some(SealId(one.seal));
            Ok((LocationId::from(location), Told { acked: one.acked_length, seal, length: one.length }))
        };
        let told = request.locations.iter().map(one).collect::<Result<Vec<_>, tonic::Status>>()?;
        let durability = Durability::from_wire(request.durability);
        let settled = self.store.settle(&application, from, durability, &told).await;
        Ok(Response::new(v1::SettleReply { settled }))
    }

    async fn describe(
        &self,
        request: Request<v1::DescribeRequest>,
    ) -> Result<Response<v1::DescribeReply>, tonic::Status> {
        let request = request.into_inner();
        self.admit_caller(&request.cluster, request.worker)?;
        let store = &self.store;
        let [open, frozen, sealed] = store.metrics.locations_by_state();
        Ok(Response::new(v1::DescribeReply {
            memory: Some(memory_to_wire(&store.usage())),
            disks: store.spill.disks().iter().map(disk_to_wire).collect(),
            draining: store.is_draining(),
            open,
            frozen,
            sealed,
            spilled_bytes: store.metrics.spill.written_bytes(),
            replicated_bytes: store.metrics.replicate.bytes.get(),
            taken_over_bytes: store.metrics.handover.taken_over_bytes.get(),
        }))
    }

    async fn drain(&self, request: Request<v1::DrainRequest>) -> Result<Response<v1::DrainReply>, tonic::Status> {
        let request = request.into_inner();
        self.admit_caller(&request.cluster, request.worker)?;
        self.drain.begin(request.hand_over);
        let Progress { locations_left, bytes_left, handed_over_bytes, is_done, needs_hand_over } =
            self.drain.progress();
        Ok(Response::new(v1::DrainReply {
            locations_left,
            bytes_left,
            bytes_handed_over: handed_over_bytes,
            done: is_done,
            needs_hand_over,
        }))
    }
}

/// The memory as the wire tells it.
pub(crate) fn memory_to_wire(usage: &Usage) -> v1::MemoryState {
    v1::MemoryState {
        arena_bytes: usage.budget_bytes,
        held_bytes: usage.held_total_bytes(),
        push_free_bytes: usage.push_free_bytes,
    }
}

/// A disk as the wire tells it.
pub(crate) fn disk_to_wire(disk: &DiskReport) -> v1::DiskState {
    let health = match disk.health {
        Health::Healthy => v1::disk_state::Health::Healthy,
        Health::Full => v1::disk_state::Health::Full,
        Health::Slow => v1::disk_state::Health::Slow,
        Health::Failed => v1::disk_state::Health::Failed,
    };
    v1::DiskState {
        path: disk.path.display().to_string(),
        health: health.into(),
        capacity_bytes: disk.capacity_bytes,
        free_bytes: disk.free_bytes,
    }
}

fn reserved_to_wire(reserved: Reserved) -> v1::Reserved {
    use v1::reserved::Outcome;
    let (outcome, handle) = match reserved {
        Reserved::Handle(handle) => (Outcome::Reserved, handle.0),
        Reserved::Closed => (Outcome::Closed, 0),
        Reserved::Full => (Outcome::Full, 0),
        Reserved::Draining => (Outcome::Draining, 0),
        Reserved::NoDisk => (Outcome::NoDisk, 0),
    };
    v1::Reserved { outcome: outcome.into(), handle }
}

fn freezing_to_wire(freezing: Freezing) -> v1::Frozen {
    match freezing {
        Freezing::Acked(acked_length) => v1::Frozen { acked_length, ..Default::default() },
        Freezing::Unknown => v1::Frozen { unknown: true, ..Default::default() },
        Freezing::Moved => v1::Frozen { moved: true, ..Default::default() },
    }
}

fn sealing_to_wire(sealing: Sealing) -> v1::Sealed {
    use v1::sealed::Outcome;
    let (outcome, batches) = match sealing {
        Sealing::Sealed { batches } => (Outcome::Sealed, batches),
        Sealing::Unknown => (Outcome::Unknown, 0),
        Sealing::Short { .. } => (Outcome::Short, 0),
        Sealing::Conflict => (Outcome::Conflict, 0),
        Sealing::NotDurable => (Outcome::NotDurable, 0),
        Sealing::Moved => (Outcome::Moved, 0),
    };
    v1::Sealed { outcome: outcome.into(), batches }
}

fn location_ids(locations: &[v1::LocationId]) -> Result<Vec<LocationId>, tonic::Status> {
    within_page(locations.len())?;
    Ok(locations.iter().map(|location| LocationId::from(*location)).collect())
}

fn within_page(count: usize) -> Result<(), tonic::Status> {
    if count <= PAGE_LOCATIONS_MAX {
        return Ok(());
    }
    let text = format!("{count} in one message, at most {PAGE_LOCATIONS_MAX} are legal: send them in several");
    Err(to_grpc(Status::TooLarge, text))
}

fn missing(field: &str) -> tonic::Status {
    to_grpc(Status::Malformed, format!("the field `{field}` is missing"))
}
