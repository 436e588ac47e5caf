//! gRPC messages of two copies, durability, hand-over and drain.

use mallorn_proto::v1;

use super::Golden;
use super::control::{address, application, cluster, disks, location, memory, message, worker_id};

const SEAL: u64 = 0xd0d1_d2d3_d4d5_d6d7;

pub(super) fn golden() -> Vec<Golden> {
    let mut all = worker();
    all.extend(handover());
    all.push(stuck_drain());
    all.extend(master());
    all
}

fn worker() -> Vec<Golden> {
    let outcomes = [v1::sealed::Outcome::NotDurable, v1::sealed::Outcome::Moved];
    vec![
        message(
            "worker_reserve_primary_request",
            v1::ReserveRequest {
                cluster: cluster(),
                application: application(),
                worker: worker_id(),
                incarnation: 0xa0a1_a2a3_a4a5_a6a7,
                locations: vec![location(0), location(300)],
                durability: v1::Durability::Synced.into(),
                copy: v1::reserve_request::Copy::Primary.into(),
                replicas: Some(v1::Replicas { worker: Some(rack()), handles: vec![7, 1 << 63] }),
                from: None,
                earlier: Vec::new(),
            },
        ),
        message(
            "worker_reserve_handed_over_request",
            v1::ReserveRequest {
                cluster: cluster(),
                application: application(),
                worker: worker_id(),
                locations: vec![location(0)],
                copy: v1::reserve_request::Copy::HandedOver.into(),
                from: Some(v1::WorkerId { high: 1, low: 2 }),
                earlier: vec![v1::WorkerId { high: 3, low: 4 }, v1::WorkerId { high: 5, low: 6 }],
                ..Default::default()
            },
        ),
        message("worker_freeze_moved_reply", v1::FreezeReply { locations: vec![moved()] }),
        message(
            "worker_seal_durable_request",
            v1::SealRequest {
                cluster: cluster(),
                application: application(),
                worker: worker_id(),
                locations: vec![v1::SealOne { location: Some(location(1)), seal: SEAL, length: 1 << 33 }],
                durability: v1::Durability::Memory.into(),
            },
        ),
        message(
            "worker_seal_moved_reply",
            v1::SealReply {
                locations: outcomes.map(|outcome| v1::Sealed { outcome: outcome as i32, batches: 0 }).to_vec(),
            },
        ),
        message(
            "worker_describe_reply",
            v1::DescribeReply {
                memory: memory(),
                disks: disks(),
                draining: true,
                open: 1,
                frozen: 2,
                sealed: 300,
                spilled_bytes: 1 << 33,
                replicated_bytes: 1 << 34,
                taken_over_bytes: 1 << 35,
            },
        ),
    ]
}

fn stuck_drain() -> Golden {
    message("worker_drain_needs_hand_over_reply", v1::DrainReply { needs_hand_over: true, ..Default::default() })
}

fn handover() -> Vec<Golden> {
    let one = |seal| v1::SettleOne { location: Some(location(1)), acked_length: 300, seal, length: 1 << 33 };
    vec![
        message(
            "worker_settle_request",
            v1::SettleRequest {
                cluster: cluster(),
                application: application(),
                worker: worker_id(),
                from: Some(v1::WorkerId { high: 1, low: 2 }),
                durability: v1::Durability::Written.into(),
                locations: vec![one(SEAL), one(0)],
            },
        ),
        message("worker_settle_reply", v1::SettleReply { settled: vec![true, false] }),
        message("worker_drain_request", v1::DrainRequest { cluster: cluster(), worker: worker_id(), hand_over: true }),
        message(
            "worker_drain_reply",
            v1::DrainReply {
                locations_left: 3,
                bytes_left: 1 << 33,
                bytes_handed_over: 1 << 34,
                done: true,
                needs_hand_over: false,
            },
        ),
    ]
}

fn master() -> Vec<Golden> {
    let taken = || v1::TakenOver { application: application(), from: worker_id(), locations: vec![location(3)] };
    vec![
        message(
            "master_heartbeat_taken_over_request",
            v1::HeartbeatRequest {
                cluster: cluster(),
                worker: worker_id(),
                taken_over: vec![taken()],
                ..Default::default()
            },
        ),
        message(
            "master_place_copies_request",
            v1::PlaceRequest { cluster: cluster(), locations: 300, copies: 2, on_disk: true, ..Default::default() },
        ),
        message(
            "master_place_copies_reply",
            v1::PlaceReply {
                workers: vec![rack()],
                picks: vec![0, 300],
                replicas: vec![300, 0],
                candidates: 2,
                ..Default::default()
            },
        ),
        message(
            "master_resolve_moved_request",
            v1::ResolveMovedRequest {
                cluster: cluster(),
                application: application(),
                from: worker_id(),
                locations: vec![location(0), location(1)],
            },
        ),
        message(
            "master_resolve_moved_reply",
            v1::ResolveMovedReply { workers: vec![rack()], taken_by: vec![0, 1, 300] },
        ),
    ]
}

fn rack() -> v1::WorkerAddress {
    v1::WorkerAddress { rack: "rack-7".to_owned(), ..address() }
}

fn moved() -> v1::Frozen {
    v1::Frozen { unknown: false, acked_length: 0, moved: true }
}
