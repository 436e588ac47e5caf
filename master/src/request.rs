//! From the wire to the core's types: every bound on what a caller may send is checked here.
//!
//! Owns why a request is refused and the one mapping of it to the wire. Does not own what an accepted request does.

use std::collections::BTreeSet;

use mallorn_master_core::{
    Address, ApplicationError, Disk, DiskHealth, Held, Memory, PlaceRequest, RegisterWorkerError, Registration, Report,
    TakenOver,
};
use mallorn_proto::id::{Application, Incarnation, Instance, LocationId, WorkerId};
use mallorn_proto::limits::{
    ADDRESS_BYTES_MAX, APPLICATION_BYTES_MAX, CLUSTER_BYTES_MAX, PAGE_LOCATIONS_MAX, RACK_BYTES_MAX,
    WORKER_NAME_BYTES_MAX, WORKERS_MAX,
};
use mallorn_proto::range_set::{RangeSet, RangesError};
use mallorn_proto::status::{Status, to_grpc};
use mallorn_proto::v1;

/// Most data folders of a worker.
const DISKS_MAX: usize = 64;
/// Largest path of a data folder, in bytes.
const PATH_BYTES_MAX: usize = 1024;

/// Why a request is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RequestError {
    #[error(
        "this master serves cluster `{ours}`, the request is for cluster `{theirs}`: check the cluster's name and the master's address"
    )]
    WrongCluster { ours: String, theirs: String },
    #[error("the request has no {0}")]
    Missing(&'static str),
    #[error("{what} has {bytes} bytes; it must have 1 to {limit}")]
    Length { what: &'static str, bytes: usize, limit: usize },
    #[error("{what} holds {which}")]
    Characters { what: &'static str, which: &'static str },
    #[error("{what} `{text}` is not host:port")]
    Address { what: &'static str, text: String },
    #[error("{count} {what} in one request, at most {limit} are taken")]
    TooMany { what: &'static str, count: usize, limit: usize },
    #[error("copies must be 1 or 2, not {0}")]
    Copies(u32),
    #[error("this worker takes bodies of up to {theirs} bytes, the cluster {ours}: give both the same body limit")]
    BodyLimit { ours: u32, theirs: u32 },
    #[error("the shuffles named: {0}")]
    Ranges(#[from] RangesError),
    #[error("{0}")]
    Worker(#[from] RegisterWorkerError),
    #[error("{0}")]
    Application(#[from] ApplicationError),
    #[error(
        "the cluster has {workers} workers, more than one message can describe: resolve workers by their ids instead"
    )]
    TooLarge { workers: usize },
}

impl RequestError {
    /// The status that tells the caller what to do.
    pub(crate) fn status(&self) -> Status {
        match self {
            Self::WrongCluster { .. } => Status::WrongCluster,
            Self::Missing(_)
            | Self::Length { .. }
            | Self::Characters { .. }
            | Self::Address { .. }
            | Self::TooMany { .. }
            | Self::Copies(_)
            | Self::BodyLimit { .. }
            | Self::Ranges(_) => Status::Malformed,
            Self::TooLarge { .. } => Status::TooLarge,
            Self::Worker(error) => match error {
                RegisterWorkerError::NameTaken { .. } | RegisterWorkerError::TooManyWorkers => Status::Busy,
                RegisterWorkerError::IncarnationOver { .. } => Status::Fenced,
            },
            Self::Application(error) => match error {
                ApplicationError::Fenced { .. } | ApplicationError::Ended { .. } => Status::Fenced,
                ApplicationError::TooManyApplications | ApplicationError::TooManyInstances { .. } => Status::Busy,
            },
        }
    }
}

impl From<RequestError> for tonic::Status {
    fn from(error: RequestError) -> Self {
        to_grpc(error.status(), error.to_string())
    }
}

/// Refuses a request for another cluster.
pub(crate) fn check_cluster(ours: &str, theirs: &str) -> Result<(), RequestError> {
    if theirs == ours {
        return Ok(());
    }
    check_length("the cluster's name", theirs, CLUSTER_BYTES_MAX)?;
    Err(RequestError::WrongCluster { ours: ours.to_owned(), theirs: theirs.to_owned() })
}

pub(crate) fn worker_id(id: Option<v1::WorkerId>) -> Result<WorkerId, RequestError> {
    match id.map(WorkerId::from) {
        None | Some(WorkerId(0)) => Err(RequestError::Missing("worker id")),
        Some(id) => Ok(id),
    }
}

pub(crate) fn incarnation(incarnation: u64) -> Result<Incarnation, RequestError> {
    if incarnation == 0 { Err(RequestError::Missing("incarnation")) } else { Ok(Incarnation(incarnation)) }
}

pub(crate) fn application(application: Option<v1::Application>) -> Result<Application, RequestError> {
    let application = Application::from(application.ok_or(RequestError::Missing("application"))?);
    check_length("the application's name", &application.name, APPLICATION_BYTES_MAX)?;
    if application.name.chars().any(char::is_control) {
        return Err(RequestError::Characters { what: "the application's name", which: "control characters" });
    }
    if application.instance == Instance(0) {
        return Err(RequestError::Missing("instance of the application"));
    }
    Ok(application)
}

pub(crate) fn registration(request: v1::RegisterWorkerRequest, body_limit: u32) -> Result<Registration, RequestError> {
    if request.body_limit != body_limit {
        return Err(RequestError::BodyLimit { ours: body_limit, theirs: request.body_limit });
    }
    let report = report(request.memory, request.disks, request.draining)?;
    let address = request.address.ok_or(RequestError::Missing("address"))?;
    let worker = worker_id(address.worker)?;
    let incarnation = incarnation(address.incarnation)?;
    check_word("the worker's name", &address.name, WORKER_NAME_BYTES_MAX)?;
    check_address("the control address", &address.control)?;
    check_address("the data address", &address.data)?;
    if !address.rack.is_empty() {
        check_word("the worker's rack", &address.rack, RACK_BYTES_MAX)?;
    }
    let v1::WorkerAddress { name, control, data, rack, .. } = address;
    let address = Address { name, control, data, rack };
    Ok(Registration { worker, incarnation, address, report })
}

pub(crate) fn report(
    memory: Option<v1::MemoryState>,
    disks: Vec<v1::DiskState>,
    draining: bool,
) -> Result<Report, RequestError> {
    let v1::MemoryState { arena_bytes, held_bytes, push_free_bytes } = memory.ok_or(RequestError::Missing("memory"))?;
    let memory = Memory { arena_bytes, held_bytes, push_free_bytes: push_free_bytes.min(arena_bytes) };
    check_count("data folders", disks.len(), DISKS_MAX)?;
    let disks = disks.into_iter().map(disk).collect::<Result<_, _>>()?;
    Ok(Report { memory, disks, draining })
}

fn disk(disk: v1::DiskState) -> Result<Disk, RequestError> {
    check_length("the path of a data folder", &disk.path, PATH_BYTES_MAX)?;
    let health = match disk.health() {
        v1::disk_state::Health::Healthy => DiskHealth::Healthy,
        v1::disk_state::Health::Full => DiskHealth::Full,
        v1::disk_state::Health::Slow => DiskHealth::Slow,
        v1::disk_state::Health::Failed => DiskHealth::Failed,
    };
    Ok(Disk { path: disk.path, health, capacity_bytes: disk.capacity_bytes, free_bytes: disk.free_bytes })
}

/// What a worker holds. The size of a message bounds it; there is no tighter limit, for the worker cannot split one
/// application.
pub(crate) fn held(held: Vec<v1::HeldApplication>) -> Result<Vec<Held>, RequestError> {
    let one = |held: v1::HeldApplication| {
        let shuffles = RangeSet::from_wire(held.shuffles, usize::MAX)?;
        Ok(Held { application: application(held.application)?, shuffles })
    };
    held.into_iter().map(one).collect()
}

/// What was handed over to a worker.
pub(crate) fn taken_over(taken: Vec<v1::TakenOver>) -> Result<Vec<TakenOver>, RequestError> {
    check_count("locations taken over", taken.iter().map(|taken| taken.locations.len()).sum(), PAGE_LOCATIONS_MAX)?;
    let one = |taken: v1::TakenOver| {
        let locations = taken.locations.into_iter().map(LocationId::from).collect();
        Ok(TakenOver { application: application(taken.application)?, from: worker_id(taken.from)?, locations })
    };
    taken.into_iter().map(one).collect()
}

pub(crate) fn moved(locations: Vec<v1::LocationId>) -> Result<Vec<LocationId>, RequestError> {
    check_count("locations", locations.len(), PAGE_LOCATIONS_MAX)?;
    Ok(locations.into_iter().map(LocationId::from).collect())
}

pub(crate) fn released(released: Vec<v1::Range>) -> Result<RangeSet, RequestError> {
    Ok(RangeSet::from_wire(released, PAGE_LOCATIONS_MAX)?)
}

pub(crate) fn place(request: v1::PlaceRequest) -> Result<PlaceRequest, RequestError> {
    let application = application(request.application)?;
    let locations = request.locations;
    if locations == 0 {
        return Err(RequestError::Missing("locations"));
    }
    check_count("locations", locations as usize, PAGE_LOCATIONS_MAX)?;
    check_count("excluded workers", request.exclude.len(), WORKERS_MAX)?;
    let two_copies = match request.copies {
        0 | 1 => false,
        2 => true,
        more => return Err(RequestError::Copies(more)),
    };
    let exclude: BTreeSet<WorkerId> = request.exclude.into_iter().map(WorkerId::from).collect();
    Ok(PlaceRequest { application, locations, two_copies, on_disk: request.on_disk, exclude })
}

pub(crate) fn resolve(workers: Vec<v1::WorkerId>) -> Result<Vec<WorkerId>, RequestError> {
    check_count("workers", workers.len(), WORKERS_MAX)?;
    Ok(workers.into_iter().map(WorkerId::from).collect())
}

fn check_count(what: &'static str, count: usize, limit: usize) -> Result<(), RequestError> {
    if count > limit { Err(RequestError::TooMany { what, count, limit }) } else { Ok(()) }
}

fn check_length(what: &'static str, text: &str, limit: usize) -> Result<(), RequestError> {
    if (1..=limit).contains(&text.len()) {
        Ok(())
    } else {
        Err(RequestError::Length { what, bytes: text.len(), limit })
    }
}

fn check_word(what: &'static str, text: &str, limit: usize) -> Result<(), RequestError> {
    check_length(what, text, limit)?;
    let is_word = !text.chars().any(|c| c.is_control() || c.is_whitespace());
    if is_word { Ok(()) } else { Err(RequestError::Characters { what, which: "white space or control characters" }) }
}

fn check_address(what: &'static str, text: &str) -> Result<(), RequestError> {
    check_word(what, text, ADDRESS_BYTES_MAX)?;
    let port = text.rsplit_once(':').filter(|(host, _)| !host.is_empty()).map(|(_, port)| port.parse::<u16>());
    match port {
        Some(Ok(1..)) => Ok(()),
        Some(Ok(0) | Err(_)) | None => Err(RequestError::Address { what, text: text.to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registration_request() -> v1::RegisterWorkerRequest {
        v1::RegisterWorkerRequest {
            cluster: "mallorn".to_owned(),
            address: Some(v1::WorkerAddress {
                worker: Some(WorkerId(1).into()),
                name: "w1".to_owned(),
                incarnation: 7,
                control: "host:1".to_owned(),
                data: "[::1]:2".to_owned(),
                ..Default::default()
            }),
            memory: Some(v1::MemoryState { arena_bytes: 10, held_bytes: 1, push_free_bytes: 99 }),
            disks: vec![v1::DiskState { path: "/data".to_owned(), ..v1::DiskState::default() }],
            draining: false,
            body_limit: 100,
        }
    }

    fn refused(change: impl FnOnce(&mut v1::RegisterWorkerRequest)) -> RequestError {
        let mut request = registration_request();
        change(&mut request);
        registration(request, 100).unwrap_err()
    }

    fn with_address(change: impl FnOnce(&mut v1::WorkerAddress)) -> RequestError {
        refused(|request| change(request.address.as_mut().unwrap()))
    }

    #[test]
    fn a_registration_is_taken_and_its_memory_kept_within_the_arena() {
        let taken = registration(registration_request(), 100).unwrap();
        assert_eq!(taken.worker, WorkerId(1));
        assert_eq!(taken.report.memory.push_free_bytes, 10);
    }

    #[test]
    fn what_a_registration_lacks_or_exceeds_is_named() {
        assert_eq!(refused(|request| request.body_limit = 99), RequestError::BodyLimit { ours: 100, theirs: 99 });
        assert_eq!(refused(|request| request.address = None), RequestError::Missing("address"));
        assert_eq!(refused(|request| request.memory = None), RequestError::Missing("memory"));
        assert_eq!(with_address(|address| address.worker = None), RequestError::Missing("worker id"));
        assert_eq!(with_address(|address| address.incarnation = 0), RequestError::Missing("incarnation"));
        let name = with_address(|address| address.name = "a\nb".to_owned());
        assert_eq!(name.to_string(), "the worker's name holds white space or control characters");
        let long = with_address(|address| address.name = "x".repeat(260));
        assert_eq!(long, RequestError::Length { what: "the worker's name", bytes: 260, limit: 259 });
        let rack = with_address(|address| address.rack = "a b".to_owned());
        assert_eq!(rack.to_string(), "the worker's rack holds white space or control characters");
        for text in ["host", ":1", "host:0", "host:65536", "host:x"] {
            let bad = with_address(|address| address.data = text.to_owned());
            assert_eq!(bad, RequestError::Address { what: "the data address", text: text.to_owned() });
        }
        let disks = refused(|request| request.disks = vec![v1::DiskState::default(); 65]);
        assert_eq!(disks, RequestError::TooMany { what: "data folders", count: 65, limit: 64 });
    }

    #[test]
    fn an_application_has_a_name_and_an_instance() {
        let of = |name: &str, instance| application(Some(v1::Application { name: name.to_owned(), instance }));
        assert!(of("my application", 1).is_ok());
        assert_eq!(of("a", 0), Err(RequestError::Missing("instance of the application")));
        let bell = of("a\u{7}", 1).unwrap_err();
        assert_eq!(bell.to_string(), "the application's name holds control characters");
        let what = "the application's name";
        assert_eq!(of("", 1), Err(RequestError::Length { what, bytes: 0, limit: 256 }));
        assert_eq!(application(None), Err(RequestError::Missing("application")));
    }

    #[test]
    fn counts_are_bounded() {
        let request = |locations, excluded| v1::PlaceRequest {
            application: Some(v1::Application { name: "a".to_owned(), instance: 1 }),
            locations,
            exclude: vec![v1::WorkerId::default(); excluded],
            ..v1::PlaceRequest::default()
        };
        assert!(place(request(16_384, 4096)).is_ok());
        assert_eq!(place(request(0, 0)).unwrap_err(), RequestError::Missing("locations"));
        for (copies, two) in [(0, Some(false)), (1, Some(false)), (2, Some(true)), (3, None)] {
            let asked = place(v1::PlaceRequest { copies, ..request(1, 0) });
            assert_eq!(asked.ok().map(|request| request.two_copies), two);
        }
        let taken = |count| v1::TakenOver {
            application: Some(v1::Application { name: "a".to_owned(), instance: 1 }),
            from: Some(WorkerId(1).into()),
            locations: vec![v1::LocationId::default(); count],
        };
        assert!(taken_over(vec![taken(16_000), taken(384)]).is_ok());
        assert!(matches!(taken_over(vec![taken(16_000), taken(385)]), Err(RequestError::TooMany { .. })));
        let nobody = v1::TakenOver { from: None, ..taken(1) };
        assert_eq!(taken_over(vec![nobody]), Err(RequestError::Missing("worker id")));
        assert!(matches!(moved(vec![v1::LocationId::default(); 16_385]), Err(RequestError::TooMany { .. })));
        for (locations, excluded) in [(16_385, 0), (1, 4097)] {
            assert!(matches!(place(request(locations, excluded)), Err(RequestError::TooMany { .. })));
        }
        let ranges = |count| (0..).step_by(2).take(count).collect::<RangeSet>().to_wire();
        assert!(released(ranges(16_384)).is_ok());
        assert!(matches!(released(ranges(16_385)), Err(RequestError::Ranges(RangesError::TooMany { .. }))));
        assert!(matches!(resolve(vec![v1::WorkerId::default(); 4097]), Err(RequestError::TooMany { .. })));
    }

    #[test]
    fn another_cluster_is_named_unless_its_name_is_absurd() {
        let error = check_cluster("blue", "green").unwrap_err();
        assert_eq!(error.status(), Status::WrongCluster);
        assert!(error.to_string().contains("`blue`") && error.to_string().contains("`green`"));
        assert_eq!(check_cluster("blue", &"x".repeat(65)).unwrap_err().status(), Status::Malformed);
    }
}
