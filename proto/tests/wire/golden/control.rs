//! gRPC messages of each service.

use std::fmt::Debug;

use mallorn_proto::v1;
use prost::Message;

use super::Golden;

pub(super) fn golden() -> Vec<Golden> {
    let mut all = master();
    all.extend(placement());
    all.extend(worker());
    all.extend(lifecycle());
    all
}

pub(super) fn message<M: Message + Default + Debug + PartialEq + 'static>(name: &'static str, value: M) -> Golden {
    let encoded = value.encode_to_vec();
    let decode = move |bytes: &[u8]| assert_eq!(M::decode(bytes).as_ref(), Ok(&value), "{name}");
    Golden { name, encoded, decode: Box::new(decode) }
}

pub(super) fn cluster() -> String {
    "blau-grün".to_owned()
}

pub(super) fn application() -> Option<v1::Application> {
    Some(v1::Application { name: "spark-application-1".to_owned(), instance: 0xb0b1_b2b3_b4b5_b6b7 })
}

pub(super) fn worker_id() -> Option<v1::WorkerId> {
    Some(v1::WorkerId { high: 0x0123_4567_89ab_cdef, low: 0x0011_2233_4455_6677 })
}

pub(super) fn address() -> v1::WorkerAddress {
    v1::WorkerAddress {
        worker: worker_id(),
        name: "worker-0".to_owned(),
        incarnation: 0xa0a1_a2a3_a4a5_a6a7,
        control: "worker-0.mallorn:7101".to_owned(),
        data: "[fd00::1]:7102".to_owned(),
        ..Default::default()
    }
}

pub(super) fn location(epoch: u32) -> v1::LocationId {
    v1::LocationId { shuffle: 0x5152_5354, partition: 300, epoch }
}

fn ranges() -> Vec<v1::Range> {
    vec![v1::Range { first: 0, end: 3 }, v1::Range { first: 300, end: u32::MAX }]
}

pub(super) fn memory() -> Option<v1::MemoryState> {
    Some(v1::MemoryState { arena_bytes: 1 << 31, held_bytes: 4096, push_free_bytes: 1 << 30 })
}

pub(super) fn disks() -> Vec<v1::DiskState> {
    let disk = |path: &str, health: v1::disk_state::Health| v1::DiskState {
        path: path.to_owned(),
        health: health as i32,
        capacity_bytes: 1 << 40,
        free_bytes: 1 << 39,
    };
    vec![disk("/data/0", v1::disk_state::Health::Healthy), disk("/data/1", v1::disk_state::Health::Failed)]
}

fn placement() -> Vec<Golden> {
    vec![
        message(
            "master_place_request",
            v1::PlaceRequest {
                cluster: cluster(),
                application: application(),
                locations: 300,
                exclude: worker_id().into_iter().collect(),
                ..Default::default()
            },
        ),
        message(
            "master_place_reply",
            v1::PlaceReply {
                workers: vec![address()],
                picks: vec![0, 0, 1, 300],
                arena_bytes: 1 << 31,
                held_bytes: 4096,
                ..Default::default()
            },
        ),
    ]
}

fn master() -> Vec<Golden> {
    let held = || vec![v1::HeldApplication { application: application(), shuffles: ranges() }];
    let resolved = |state: v1::resolved_worker::State, address: Option<v1::WorkerAddress>| v1::ResolvedWorker {
        worker: worker_id(),
        state: state as i32,
        address,
        lost_for_ms: 1500,
    };
    vec![
        message(
            "master_register_worker_request",
            v1::RegisterWorkerRequest {
                cluster: cluster(),
                address: Some(address()),
                memory: memory(),
                disks: disks(),
                draining: true,
                body_limit: 0x0010_1000,
            },
        ),
        message(
            "master_heartbeat_request",
            v1::HeartbeatRequest {
                cluster: cluster(),
                worker: worker_id(),
                incarnation: 0xa0a1_a2a3_a4a5_a6a7,
                memory: memory(),
                disks: disks(),
                draining: false,
                held: held(),
                ..Default::default()
            },
        ),
        message(
            "master_heartbeat_reply",
            v1::HeartbeatReply { register_again: true, ended: application().into_iter().collect(), released: held() },
        ),
        message(
            "master_renew_application_request",
            v1::RenewApplicationRequest { cluster: cluster(), application: application(), released: ranges() },
        ),
        message(
            "master_resolve_workers_reply",
            v1::ResolveWorkersReply {
                workers: vec![
                    resolved(v1::resolved_worker::State::Unknown, None),
                    resolved(v1::resolved_worker::State::Live, Some(address())),
                    resolved(v1::resolved_worker::State::Draining, Some(address())),
                    resolved(v1::resolved_worker::State::Lost, Some(address())),
                ],
            },
        ),
    ]
}

fn worker() -> Vec<Golden> {
    use v1::reserved::Outcome as Reserved;

    let locations = || vec![location(0), location(300)];
    let reserved = [Reserved::Full, Reserved::Reserved, Reserved::Draining, Reserved::Closed];
    let mut all = vec![
        message(
            "worker_reserve_request",
            v1::ReserveRequest {
                cluster: cluster(),
                application: application(),
                worker: worker_id(),
                incarnation: 0xa0a1_a2a3_a4a5_a6a7,
                locations: locations(),
                ..Default::default()
            },
        ),
        message(
            "worker_reserve_reply",
            v1::ReserveReply {
                locations: reserved.map(|outcome| v1::Reserved { outcome: outcome as i32, handle: 7 }).to_vec(),
                memory: memory(),
            },
        ),
        message(
            "worker_freeze_request",
            v1::FreezeRequest {
                cluster: cluster(),
                application: application(),
                worker: worker_id(),
                locations: locations(),
            },
        ),
        message(
            "worker_freeze_reply",
            v1::FreezeReply {
                locations: vec![
                    v1::Frozen { unknown: false, acked_length: 1 << 33, ..Default::default() },
                    v1::Frozen { unknown: true, acked_length: 0, ..Default::default() },
                ],
            },
        ),
    ];
    all.extend(worker_of_seals());
    all
}

fn worker_of_seals() -> Vec<Golden> {
    use v1::sealed::Outcome as Sealed;

    let sealed = [Sealed::Unknown, Sealed::Sealed, Sealed::Short, Sealed::Conflict];
    vec![
        message(
            "worker_seal_request",
            v1::SealRequest {
                cluster: cluster(),
                application: application(),
                worker: worker_id(),
                locations: vec![v1::SealOne {
                    location: Some(location(1)),
                    seal: 0xd0d1_d2d3_d4d5_d6d7,
                    length: 1 << 33,
                }],
                ..Default::default()
            },
        ),
        message(
            "worker_seal_reply",
            v1::SealReply {
                locations: sealed.map(|outcome| v1::Sealed { outcome: outcome as i32, batches: 300 }).to_vec(),
            },
        ),
        message(
            "worker_release_request",
            v1::ReleaseRequest {
                cluster: cluster(),
                application: application(),
                worker: worker_id(),
                shuffles: ranges(),
            },
        ),
    ]
}

fn lifecycle() -> Vec<Golden> {
    let mut all = lifecycle_of_shuffles();
    all.extend(lifecycle_of_attempts());
    all.extend(lifecycle_of_reads());
    all
}

const INSTANCE: u64 = 0xb0b1_b2b3_b4b5_b6b7;

fn attempt() -> Option<v1::AttemptId> {
    Some(v1::AttemptId { shuffle: 7, generation: 2, map: 300, attempt: 1, nonce: 0xe0e1_e2e3_e4e5_e6e7 })
}

fn sum() -> v1::PartitionSum {
    v1::PartitionSum { partition: 300, batches: 4, bytes: 1 << 33, hash: 0xf0f1_f2f3_f4f5_f6f7 }
}

fn lifecycle_of_shuffles() -> Vec<Golden> {
    let register = |maps| v1::RegisterShuffleRequest {
        instance: INSTANCE,
        shuffle: 7,
        partitions: 300,
        maps,
        ..Default::default()
    };
    vec![
        message(
            "lifecycle_join_reply",
            v1::JoinReply {
                cluster: cluster(),
                application: application(),
                body_limit: 0x0010_1000,
                attempt_lease_ms: 30_000,
                wait_for_return_ms: 30_001,
                worker_lease_ms: 30_002,
            },
        ),
        message("lifecycle_register_shuffle_request", register(Some(0))),
        message("lifecycle_register_shuffle_request_open", register(None)),
        message(
            "lifecycle_next_generation_request",
            v1::NextGenerationRequest { instance: INSTANCE, shuffle: 7, seen: 2 },
        ),
    ]
}

fn lifecycle_of_attempts() -> Vec<Golden> {
    use v1::revived::Outcome;

    let open = v1::OpenLocation { location: Some(location(2)), handle: 0xc0c1_c2c3_c4c5_c6c7, worker: 1 };
    let revived = [Outcome::NoSpace, Outcome::Revived, Outcome::MapEnded, Outcome::StageEnded];
    vec![
        message(
            "lifecycle_start_attempt_reply",
            v1::StartAttemptReply { generation: 2, wire_shuffle: 0x5152_5354, partitions: 300 },
        ),
        message(
            "lifecycle_renew_attempts_request",
            v1::RenewAttemptsRequest { instance: INSTANCE, attempts: attempt().into_iter().collect() },
        ),
        message("lifecycle_renew_attempts_reply", v1::RenewAttemptsReply { alive: vec![true, false, true] }),
        message(
            "lifecycle_mapper_end_request",
            v1::MapperEndRequest {
                instance: INSTANCE,
                attempt: attempt(),
                page: 1,
                last_page: true,
                sums: vec![sum()],
            },
        ),
        message("lifecycle_mapper_end_reply", v1::MapperEndReply { token: 9, won: true }),
        message("lifecycle_locate_reply", v1::LocateReply { workers: vec![address()], locations: vec![open] }),
        message(
            "lifecycle_revive_request",
            v1::ReviveRequest {
                instance: INSTANCE,
                attempt: attempt(),
                partitions: vec![v1::ReviveOne { partition: 300, epoch: 1 }],
                cause: v1::revive_request::Cause::Unreachable as i32,
            },
        ),
        message(
            "lifecycle_revive_reply",
            v1::ReviveReply {
                workers: vec![address()],
                partitions: revived
                    .map(|outcome| v1::Revived {
                        outcome: outcome as i32,
                        location: (outcome == Outcome::Revived).then_some(open),
                    })
                    .to_vec(),
                arena_bytes: 1 << 31,
                held_bytes: 4096,
                ..Default::default()
            },
        ),
    ]
}

fn lifecycle_of_reads() -> Vec<Golden> {
    let sealed = v1::SealedLocation {
        location: Some(location(2)),
        seal: 0xd0d1_d2d3_d4d5_d6d7,
        length: 1 << 33,
        worker: 0,
        ..Default::default()
    };
    vec![
        message(
            "lifecycle_plan_read_request",
            v1::PlanReadRequest {
                instance: INSTANCE,
                shuffle: 7,
                generation: Some(0),
                partitions: Some(v1::Range { first: 0, end: 300 }),
                tokens: vec![9, u64::MAX],
                by_tokens: true,
                wait_ms: 1000,
            },
        ),
        message(
            "lifecycle_plan_read_reply",
            v1::PlanReadReply {
                pending: false,
                generation: 2,
                wire_shuffle: 0x5152_5354,
                workers: vec![address()],
                partitions: vec![
                    v1::PartitionPlan {
                        partition: 300,
                        locations: vec![sealed],
                        sum: Some(sum()),
                        lost: String::new(),
                    },
                    v1::PartitionPlan {
                        partition: 301,
                        locations: Vec::new(),
                        sum: None,
                        lost: "worker-0 is gone".to_owned(),
                    },
                ],
            },
        ),
        message(
            "lifecycle_list_winners_reply",
            v1::ListWinnersReply { winners: vec![v1::Winner { map: 300, attempt: 1, token: 9, touched: ranges() }] },
        ),
        message(
            "lifecycle_resolve_reply",
            v1::ResolveReply {
                workers: vec![
                    v1::ResolvedLocation { address: Some(address()), gone: false, away: false, lost: false },
                    v1::ResolvedLocation { address: None, gone: true, away: false, lost: false },
                    v1::ResolvedLocation { address: None, gone: false, away: true, lost: false },
                ],
            },
        ),
    ]
}

#[test]
fn the_services_are_named_as_ever() {
    assert_eq!(v1::master_server::SERVICE_NAME, "mallorn.v1.Master");
    assert_eq!(v1::worker_server::SERVICE_NAME, "mallorn.v1.Worker");
    assert_eq!(v1::lifecycle_server::SERVICE_NAME, "mallorn.v1.Lifecycle");
}
