//! Which copies a reservation asks for, checked.

use mallorn_proto::durability::Durability;
use mallorn_proto::id::{Handle, Incarnation, WorkerId};
use mallorn_proto::limits::{ADDRESS_BYTES_MAX, ORIGINS_MAX};
use mallorn_proto::status::{Status, to_grpc};
use mallorn_proto::v1;
use mallorn_proto::v1::reserve_request::Copy;

use mallorn_worker_core::handover::Origins;

use super::missing;
use crate::memory::store::{Copies, Wanted};
use crate::replicate::link::Peer;

/// What a reservation asks for, of a worker that is `own`.
pub(super) fn wanted(request: &v1::ReserveRequest, own: WorkerId) -> Result<Wanted, tonic::Status> {
    let copy = Copy::try_from(request.copy)
        .map_err(|_| malformed(format!("the copy {} is none that this worker knows", request.copy)))?;
    let copies = match (copy, &request.replicas) {
        (Copy::Primary, Some(replicas)) => primary(replicas, request.locations.len(), own)?,
        (Copy::Primary, None) => return Err(missing("replicas")),
        (Copy::Lone | Copy::Replica | Copy::HandedOver, Some(_)) => {
            return Err(malformed("only a primary has replicas"));
        }
        (Copy::Lone, None) => Copies::Lone,
        (Copy::Replica, None) => Copies::Replica,
        (Copy::HandedOver, None) => {
            let from = WorkerId::from(request.from.ok_or_else(|| missing("from"))?);
            if from == own {
                return Err(malformed("a worker hands over to others"));
            }
            let count = request.earlier.len();
            if count > ORIGINS_MAX {
                return Err(malformed(format!("{count} earlier workers, at most {ORIGINS_MAX} are told")));
            }
            let earlier: Vec<_> = request.earlier.iter().map(|worker| WorkerId::from(*worker)).collect();
            Copies::HandedOver { origins: Origins::new(&earlier, from, own) }
        }
    };
    Ok(Wanted { copies, durability: Durability::from_wire(request.durability) })
}

fn primary(replicas: &v1::Replicas, locations: usize, own: WorkerId) -> Result<Copies, tonic::Status> {
    let handles = replicas.handles.iter().map(|handle| Handle(*handle)).collect::<Vec<_>>();
    if handles.len() != locations {
        return Err(malformed(format!("{} replicas for {locations} locations: each has one", handles.len())));
    }
    let address = replicas.worker.as_ref().ok_or_else(|| missing("replicas.worker"))?;
    let worker = WorkerId::from(address.worker.ok_or_else(|| missing("replicas.worker.worker"))?);
    if worker == own {
        return Err(malformed("a location's copies are at two workers"));
    }
    if address.data.is_empty() || address.data.len() > ADDRESS_BYTES_MAX {
        return Err(malformed(format!("the replicas' data address has 1 to {ADDRESS_BYTES_MAX} bytes")));
    }
    let incarnation = Incarnation(address.incarnation);
    Ok(Copies::Primary { replicas: Peer { worker, incarnation, address: address.data.clone() }, handles })
}

fn malformed(text: impl Into<String>) -> tonic::Status {
    to_grpc(Status::Malformed, text)
}
