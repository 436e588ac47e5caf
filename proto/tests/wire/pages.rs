//! What grows with workers, maps or partitions fits a control message at the documented page limit, with the longest
//! texts and with numbers that take the most bytes; and what a reader does not know is never taken for success.

use mallorn_proto::limits::{
    ADDRESS_BYTES_MAX, APPLICATION_BYTES_MAX, CLUSTER_BYTES_MAX, CONTROL_MESSAGE_BYTES_MAX, PAGE_LOCATIONS_MAX,
    PAGE_MAPS_MAX, PARTITIONS_MAX, RACK_BYTES_MAX, READ_TOKENS_MAX, WORKER_NAME_BYTES_MAX, WORKERS_MAX,
};
use mallorn_proto::v1;
use prost::Message;

const WORKER: v1::WorkerId = v1::WorkerId { high: u64::MAX, low: u64::MAX };
const LOCATION: v1::LocationId = v1::LocationId { shuffle: u32::MAX, partition: u32::MAX, epoch: u32::MAX };
const RANGE: v1::Range = v1::Range { first: u32::MAX, end: u32::MAX };
const MEMORY: v1::MemoryState =
    v1::MemoryState { arena_bytes: u64::MAX, held_bytes: u64::MAX, push_free_bytes: u64::MAX };
const ATTEMPT: v1::AttemptId =
    v1::AttemptId { shuffle: u32::MAX, generation: u32::MAX, map: u32::MAX, attempt: u32::MAX, nonce: u64::MAX };
const SUM: v1::PartitionSum =
    v1::PartitionSum { partition: u32::MAX, batches: u64::MAX, bytes: u64::MAX, hash: u64::MAX };
const OPEN: v1::OpenLocation =
    v1::OpenLocation { location: Some(LOCATION), handle: u64::MAX, worker: WORKERS_MAX as u32 };

fn cluster() -> String {
    "c".repeat(CLUSTER_BYTES_MAX)
}

fn application() -> Option<v1::Application> {
    Some(v1::Application { name: "a".repeat(APPLICATION_BYTES_MAX), instance: u64::MAX })
}

fn address() -> v1::WorkerAddress {
    v1::WorkerAddress {
        worker: Some(WORKER),
        name: "n".repeat(WORKER_NAME_BYTES_MAX),
        incarnation: u64::MAX,
        control: "h".repeat(ADDRESS_BYTES_MAX),
        data: "h".repeat(ADDRESS_BYTES_MAX),
        rack: "r".repeat(RACK_BYTES_MAX),
    }
}

fn addresses() -> Vec<v1::WorkerAddress> {
    vec![address(); WORKERS_MAX]
}

#[track_caller]
fn assert_fits(message: &impl Message) {
    let length = message.encoded_len();
    assert!(length < CONTROL_MESSAGE_BYTES_MAX, "{length} bytes");
}

#[test]
fn a_worker_s_pages_fit() {
    assert_fits(&v1::ReserveRequest {
        cluster: cluster(),
        application: application(),
        worker: Some(WORKER),
        incarnation: u64::MAX,
        locations: vec![LOCATION; PAGE_LOCATIONS_MAX],
        ..Default::default()
    });
    let reserved = v1::Reserved { outcome: v1::reserved::Outcome::Closed as i32, handle: u64::MAX };
    assert_fits(&v1::ReserveReply { locations: vec![reserved; PAGE_LOCATIONS_MAX], memory: Some(MEMORY) });
    assert_fits(&v1::FreezeRequest {
        cluster: cluster(),
        application: application(),
        worker: Some(WORKER),
        locations: vec![LOCATION; PAGE_LOCATIONS_MAX],
    });
    let frozen = v1::Frozen { unknown: true, acked_length: u64::MAX, ..Default::default() };
    assert_fits(&v1::FreezeReply { locations: vec![frozen; PAGE_LOCATIONS_MAX] });
    let seal = v1::SealOne { location: Some(LOCATION), seal: u64::MAX, length: u64::MAX };
    assert_fits(&v1::SealRequest {
        cluster: cluster(),
        application: application(),
        worker: Some(WORKER),
        locations: vec![seal; PAGE_LOCATIONS_MAX],
        ..Default::default()
    });
    let sealed = v1::Sealed { outcome: v1::sealed::Outcome::Conflict as i32, batches: u64::MAX };
    assert_fits(&v1::SealReply { locations: vec![sealed; PAGE_LOCATIONS_MAX] });
    assert_fits(&v1::ReleaseRequest {
        cluster: cluster(),
        application: application(),
        worker: Some(WORKER),
        shuffles: vec![RANGE; PAGE_LOCATIONS_MAX],
    });
}

#[test]
fn the_master_s_pages_fit() {
    let held = v1::HeldApplication { application: application(), shuffles: vec![RANGE; PAGE_LOCATIONS_MAX] };
    assert_fits(&v1::HeartbeatRequest {
        cluster: cluster(),
        worker: Some(WORKER),
        incarnation: u64::MAX,
        memory: Some(MEMORY),
        disks: Vec::new(),
        draining: true,
        held: vec![held.clone()],
        ..Default::default()
    });
    assert_fits(&v1::HeartbeatReply { register_again: true, ended: Vec::new(), released: vec![held] });
    assert_fits(&v1::RenewApplicationRequest {
        cluster: cluster(),
        application: application(),
        released: vec![RANGE; PAGE_LOCATIONS_MAX],
    });
    assert_fits(&v1::PlaceRequest {
        cluster: cluster(),
        application: application(),
        locations: u32::MAX,
        exclude: vec![WORKER; WORKERS_MAX],
        ..Default::default()
    });
    assert_fits(&v1::PlaceReply {
        workers: addresses(),
        picks: vec![WORKERS_MAX as u32; PAGE_LOCATIONS_MAX],
        replicas: vec![WORKERS_MAX as u32; PAGE_LOCATIONS_MAX],
        candidates: u32::MAX,
        without_disk: u32::MAX,
        arena_bytes: u64::MAX,
        held_bytes: u64::MAX,
    });
    assert_fits(&v1::ResolveWorkersRequest { cluster: cluster(), workers: vec![WORKER; WORKERS_MAX] });
    let resolved = v1::ResolvedWorker {
        worker: Some(WORKER),
        state: v1::resolved_worker::State::Lost as i32,
        address: Some(address()),
        lost_for_ms: u64::MAX,
    };
    assert_fits(&v1::ResolveWorkersReply { workers: vec![resolved; WORKERS_MAX] });
}

#[test]
fn an_attempt_s_pages_fit() {
    assert_fits(&v1::RenewAttemptsRequest { instance: u64::MAX, attempts: vec![ATTEMPT; PAGE_MAPS_MAX] });
    assert_fits(&v1::RenewAttemptsReply { alive: vec![true; PAGE_MAPS_MAX] });
    assert_fits(&v1::MapperEndRequest {
        instance: u64::MAX,
        attempt: Some(ATTEMPT),
        page: u32::MAX,
        last_page: true,
        sums: vec![SUM; PAGE_MAPS_MAX],
    });
    assert_fits(&v1::LocateRequest {
        instance: u64::MAX,
        shuffle: u32::MAX,
        generation: u32::MAX,
        partitions: vec![u32::MAX; PAGE_LOCATIONS_MAX],
    });
    assert_fits(&v1::LocateReply { workers: addresses(), locations: vec![OPEN; PAGE_LOCATIONS_MAX] });
    let revive = v1::ReviveOne { partition: u32::MAX, epoch: u32::MAX };
    assert_fits(&v1::ReviveRequest {
        instance: u64::MAX,
        attempt: Some(ATTEMPT),
        partitions: vec![revive; PAGE_LOCATIONS_MAX],
        cause: v1::revive_request::Cause::Unreachable as i32,
    });
    let revived = v1::Revived { outcome: v1::revived::Outcome::StageEnded as i32, location: Some(OPEN) };
    assert_fits(&v1::ReviveReply {
        workers: addresses(),
        partitions: vec![revived; PAGE_LOCATIONS_MAX],
        arena_bytes: u64::MAX,
        held_bytes: u64::MAX,
        missing: "x".repeat(1024),
    });
}

#[test]
fn a_reader_s_pages_fit() {
    assert_fits(&v1::PlanReadRequest {
        instance: u64::MAX,
        shuffle: u32::MAX,
        generation: Some(u32::MAX),
        partitions: Some(RANGE),
        tokens: vec![u64::MAX; READ_TOKENS_MAX],
        by_tokens: true,
        wait_ms: u64::MAX,
    });
    assert_fits(&v1::ListWinnersRequest {
        instance: u64::MAX,
        shuffle: u32::MAX,
        generation: u32::MAX,
        maps: Some(RANGE),
        tokens: vec![u64::MAX; READ_TOKENS_MAX],
        by_tokens: true,
        partitions: Some(RANGE),
    });
    assert_fits(&v1::ResolveRequest {
        instance: u64::MAX,
        workers: vec![WORKER; WORKERS_MAX],
        shuffle: u32::MAX,
        generation: u32::MAX,
        lost: vec![LOCATION; PAGE_LOCATIONS_MAX],
        ..Default::default()
    });
    let resolved = v1::ResolvedLocation { address: Some(address()), gone: true, away: true, lost: false };
    assert_fits(&v1::ResolveReply { workers: vec![resolved; WORKERS_MAX] });
}

/// A reply that holds as many as fit must at least hold one.
#[test]
fn the_largest_single_winner_fits() {
    let touched = (0..PARTITIONS_MAX).step_by(2).map(|first| v1::Range { first, end: first + 1 }).collect();
    let winner = v1::Winner { map: u32::MAX, attempt: u32::MAX, token: u64::MAX, touched };
    assert_fits(&v1::ListWinnersReply { winners: vec![winner] });
}

#[test]
fn an_outcome_of_a_later_version_is_never_success() {
    assert_ne!(v1::Reserved { outcome: 99, handle: 1 }.outcome(), v1::reserved::Outcome::Reserved);
    assert_ne!(v1::Sealed { outcome: 99, batches: 1 }.outcome(), v1::sealed::Outcome::Sealed);
    assert_ne!(v1::Revived { outcome: 99, location: Some(OPEN) }.outcome(), v1::revived::Outcome::Revived);
    let disk = v1::DiskState { path: String::new(), health: 99, capacity_bytes: 1, free_bytes: 1 };
    assert_ne!(disk.health(), v1::disk_state::Health::Healthy);
    let worker = v1::ResolvedWorker { worker: Some(WORKER), state: 99, address: None, lost_for_ms: 0 };
    assert_eq!(worker.state(), v1::resolved_worker::State::Unknown);
}
