//! The calls that hand-over makes: to the master for places, to other workers to reserve and to settle.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use mallorn_proto::id::{Handle, Incarnation, LocationId, WorkerId};
use mallorn_proto::limits::CONTROL_MESSAGE_BYTES_MAX;
use mallorn_proto::status::{Status, from_grpc};
use mallorn_proto::v1;
use mallorn_proto::v1::reserve_request::Copy;
use mallorn_proto::v1::reserved::Outcome;
use mallorn_proto::v1::worker_client::WorkerClient;
use mallorn_runtime::grpc::{self, Channel};
use mallorn_worker_core::handover::Told;

use super::{HandOver, Kind};
use crate::memory::location::Location;
use crate::replicate::link::Peer;

/// How long a call may take.
pub(super) const CALL_WITHIN: Duration = Duration::from_secs(5);
/// How long a worker may take to write down what it has taken over.
const SETTLE_WITHIN: Duration = Duration::from_secs(30);

/// A worker that may take locations over.
pub(super) struct Target {
    pub(super) name: String,
    pub(super) peer: Peer,
    door: WorkerClient<Channel>,
}

/// Where the master sends locations.
pub(super) struct Placed {
    pub(super) targets: Vec<Target>,
    /// For each location, from the first on, an index into the targets.
    pub(super) picks: Vec<usize>,
}

/// What a worker says to the wish that it takes a location over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    Reserved(Handle),
    /// It has one of that name: the other copy.
    Holds,
    /// It takes none now.
    Busy,
}

/// What came of telling a worker to keep locations.
pub(super) enum Settled {
    /// Which of them it keeps.
    Known(Vec<bool>),
    /// Nobody knows whether it does.
    Unknown(tonic::Status),
}

/// Why nobody takes locations over now.
#[derive(Debug, thiserror::Error)]
pub(super) enum DoorError {
    #[error("{}: {}", .0.code(), .0.message())]
    Call(#[from] tonic::Status),
    #[error("the master knows no other worker that could take them; {candidates} take data at all")]
    NoWorker { candidates: u32 },
    #[error("the answer does not fit what was asked")]
    Protocol,
}

impl HandOver {
    /// Asks the master where so many locations could go.
    pub(super) async fn place(
        &self,
        kind: &Kind,
        locations: usize,
        exclude: &BTreeSet<WorkerId>,
    ) -> Result<Placed, DoorError> {
        let request = v1::PlaceRequest {
            cluster: self.identity.cluster.clone(),
            application: Some((*kind.application).clone().into()),
            locations: locations as u32,
            exclude: exclude.iter().map(|worker| (*worker).into()).collect(),
            copies: 1,
            on_disk: kind.durability > mallorn_proto::durability::Durability::Memory,
        };
        let reply = self.master.clone().place(request).await?.into_inner();
        let targets = reply.workers.iter().map(target).collect::<Option<Vec<_>>>().ok_or(DoorError::Protocol)?;
        if targets.is_empty() && locations > 0 {
            return Err(DoorError::NoWorker { candidates: reply.candidates });
        }
        let picks: Vec<usize> = reply.picks.iter().map(|pick| *pick as usize).collect();
        let is_good = |pick: &usize| targets.get(*pick).is_some_and(|target| !exclude.contains(&target.peer.worker));
        if picks.iter().all(is_good) { Ok(Placed { targets, picks }) } else { Err(DoorError::Protocol) }
    }

    /// Reserves locations at a worker.
    pub(super) async fn reserve(
        &self,
        target: &Target,
        kind: &Kind,
        locations: &[Arc<Location>],
    ) -> Result<Vec<Asked>, DoorError> {
        let request = v1::ReserveRequest {
            cluster: self.identity.cluster.clone(),
            application: Some((*kind.application).clone().into()),
            worker: Some(target.peer.worker.into()),
            incarnation: target.peer.incarnation.0,
            locations: locations.iter().map(|location| location.id.into()).collect(),
            durability: kind.durability.to_wire(),
            copy: Copy::HandedOver.into(),
            replicas: None,
            from: Some(self.identity.worker.into()),
            earlier: kind.origins.all().iter().map(|worker| (*worker).into()).collect(),
        };
        let reply = target.door.clone().reserve(request).await?.into_inner();
        let asked = |reserved: &v1::Reserved| match reserved.outcome() {
            Outcome::Reserved => Asked::Reserved(Handle(reserved.handle)),
            Outcome::Closed => Asked::Holds,
            Outcome::Full | Outcome::Draining | Outcome::NoDisk => Asked::Busy,
        };
        let asked: Vec<_> = reply.locations.iter().map(asked).collect();
        if asked.len() == locations.len() { Ok(asked) } else { Err(DoorError::Protocol) }
    }

    /// Tells a worker to keep what it was sent.
    pub(super) async fn settle(&self, target: &Target, kind: &Kind, told: &[(LocationId, Told)]) -> Settled {
        let one = |(location, told): &(LocationId, Told)| v1::SettleOne {
            location: Some((*location).into()),
            acked_length: told.acked,
            seal: told.seal.map_or(0, |seal| seal.0),
            length: told.length,
        };
        let request = v1::SettleRequest {
            cluster: self.identity.cluster.clone(),
            application: Some((*kind.application).clone().into()),
            worker: Some(target.peer.worker.into()),
            from: Some(self.identity.worker.into()),
            durability: kind.durability.to_wire(),
            locations: told.iter().map(one).collect(),
        };
        match target.door.clone().settle(request).await {
            Ok(reply) => Settled::Known(reply.into_inner().settled),
            Err(error) if is_refusal(from_grpc(&error)) => {
                tracing::warn!(event = "handover_refused", worker = target.name, %error);
                Settled::Known(Vec::new())
            }
            Err(error) => Settled::Unknown(error),
        }
    }
}

/// Whether a call with this answer has surely done nothing.
fn is_refusal(status: Status) -> bool {
    matches!(
        status,
        Status::TooLarge
            | Status::Malformed
            | Status::Fenced
            | Status::WrongCluster
            | Status::WrongWorker
            | Status::UnsupportedVersion
    )
}

fn target(address: &v1::WorkerAddress) -> Option<Target> {
    let worker = WorkerId::from(address.worker?);
    let peer = Peer { worker, incarnation: Incarnation(address.incarnation), address: address.data.clone() };
    let door = WorkerClient::new(grpc::channel(&address.control, SETTLE_WITHIN).ok()?)
        .max_decoding_message_size(CONTROL_MESSAGE_BYTES_MAX)
        .max_encoding_message_size(CONTROL_MESSAGE_BYTES_MAX);
    Some(Target { name: address.name.clone(), peer, door })
}
