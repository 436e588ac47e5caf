//! `mallorn worker drain`: an operator takes a worker out of a running cluster.
//!
//! Owns finding the worker by its name or id, and telling how far it is. Does not own draining, which is the worker's.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use indicatif::BinaryBytes;
use mallorn_proto::id::WorkerId;
use mallorn_proto::v1;
use mallorn_proto::v1::master_client::MasterClient;
use mallorn_proto::v1::resolved_worker::State;
use mallorn_proto::v1::worker_client::WorkerClient;
use mallorn_runtime::config::ConfigError;
use mallorn_runtime::{clock, grpc};
use tonic::transport::Channel;

use crate::config_command::SettingsArgs;
use crate::settings::Root;

/// How long one call may take.
const CALL_WITHIN: Duration = Duration::from_secs(10);
/// How often a worker is asked how far it is.
const ASK_EVERY: Duration = Duration::from_millis(500);
/// How often on end a worker may not answer while it drains.
const SILENCES_MAX: u32 = 10;
/// Workers that are named where the one asked for is not there.
const NAMED_MAX: usize = 20;

/// Has a worker write down what it holds, or move it elsewhere, so that its process may be ended
///
/// From then on it takes no new data until it is started again. Repeating it changes nothing, and tells how far it is.
#[derive(Args, Clone, Debug)]
pub(crate) struct DrainArgs {
    /// The worker's name, or its id
    #[arg(value_name = "NAME")]
    name: String,

    /// Waits until nothing is left, and tells how far it is
    #[arg(long)]
    wait: bool,

    /// Moves everything to other workers: for one whose disks do not come back
    #[arg(long)]
    hand_over: bool,

    /// The master that knows the worker (worker.master)
    #[arg(long, value_name = "HOST:PORT")]
    master: Option<String>,

    #[command(flatten)]
    settings: SettingsArgs,
}

/// Why a worker is not drained.
#[derive(Debug, thiserror::Error)]
enum DrainError {
    #[error(transparent)]
    Settings(#[from] ConfigError),
    #[error("the address of the {who}: {source}")]
    Address { who: String, source: io::Error },
    #[error("the master at {master} does not answer as it should ({code}): {text}; name another one with --master")]
    Master { master: String, code: tonic::Code, text: String },
    #[error("there is no worker {asked:?} here; there {known}")]
    NoWorker { asked: String, known: String },
    #[error("the worker {name} is lost: its master has heard nothing of it for {seconds} s beyond its lease")]
    Lost { name: String, seconds: u64 },
    #[error("the worker {name} at {address} does not answer as it should ({code}): {text}")]
    Worker { name: String, address: String, code: tonic::Code, text: String },
    #[error(
        "the worker {name} has no disk that keeps the {locations} locations that are left: move them with --hand-over"
    )]
    NeedsHandOver { name: String, locations: u64 },
    #[error("can't print: {0}")]
    Print(#[from] io::Error),
}

/// Drains a worker: exit code 0 once it is told, or with `--wait` done; 1 if not; 2 if settings are wrong.
pub(crate) async fn run(args: DrainArgs) -> ExitCode {
    match drain(&args).await {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever reads our output may have seen enough, as `head` does.
        Err(DrainError::Print(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            // Where standard error is closed nobody wants the reason.
            let _ = writeln!(io::stderr(), "{error}");
            ExitCode::from(if matches!(error, DrainError::Settings(_)) { 2 } else { 1 })
        }
    }
}

async fn drain(args: &DrainArgs) -> Result<(), DrainError> {
    let loader = args.settings.loader().set_some("worker.master", args.master.as_ref(), "--master");
    let root = loader.load::<Root>()?.value;
    let found = find(&root.worker.master, &root.cluster.name, &args.name).await?;
    let mut asked = Asked::new(found, &root.cluster.name, args.hand_over)?;
    let mut silences = 0;
    let mut told = String::new();
    loop {
        let answer = match asked.ask().await {
            // Those who wait have been answered before.
            Err(error) if told.is_empty() || silences == SILENCES_MAX => return Err(error),
            Err(_) => {
                silences += 1;
                None
            }
            Ok(reply) => {
                silences = 0;
                Some(reply)
            }
        };
        if let Some(reply) = answer {
            let line = line(&asked.name, &reply);
            if line != told {
                writeln!(io::stdout(), "{line}")?;
                told = line;
            }
            if reply.needs_hand_over && args.wait {
                return Err(DrainError::NeedsHandOver { name: asked.name, locations: reply.locations_left });
            }
            if reply.done || !args.wait {
                return Ok(());
            }
        }
        clock::sleep(ASK_EVERY).await;
    }
}

/// Asks the master where the worker of a name or id is.
async fn find(master: &str, cluster: &str, asked: &str) -> Result<v1::WorkerAddress, DrainError> {
    let channel = channel("master", master)?;
    let request = v1::DescribeClusterRequest { cluster: cluster.to_owned() };
    let reply = MasterClient::new(channel).describe_cluster(request).await.map_err(|error| DrainError::Master {
        master: master.to_owned(),
        code: error.code(),
        text: error.message().to_owned(),
    })?;
    pick(reply.into_inner().workers, asked)
}

fn pick(workers: Vec<v1::DescribedWorker>, asked: &str) -> Result<v1::WorkerAddress, DrainError> {
    let resolved = |worker: v1::DescribedWorker| {
        let worker = worker.worker?;
        Some((worker.state(), worker.lost_for_ms, worker.address?))
    };
    let mut workers: Vec<_> = workers.into_iter().filter_map(resolved).collect();
    let id = asked.parse::<WorkerId>().ok().map(v1::WorkerId::from);
    let is_asked = |address: &v1::WorkerAddress| address.name == asked || id.is_some() && address.worker == id;
    // A lost worker may have been followed by another one of its name.
    workers.sort_by_key(|(state, _, _)| *state == State::Lost);
    match workers.iter().find(|(_, _, address)| is_asked(address)) {
        Some((State::Lost, lost_for_ms, address)) => {
            Err(DrainError::Lost { name: address.name.clone(), seconds: lost_for_ms / 1000 })
        }
        Some((_, _, address)) => Ok(address.clone()),
        None => Err(DrainError::NoWorker { asked: asked.to_owned(), known: known(&workers) }),
    }
}

fn known(workers: &[(State, u64, v1::WorkerAddress)]) -> String {
    if workers.is_empty() {
        return "are none at all".to_owned();
    }
    let mut names: Vec<_> = workers.iter().map(|(_, _, address)| address.name.as_str()).collect();
    names.sort_unstable();
    names.truncate(NAMED_MAX);
    let more = workers.len() - names.len();
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("are {}{more}", names.join(", "))
}

/// A worker that is asked to drain, and how far it is.
struct Asked {
    name: String,
    address: String,
    door: WorkerClient<Channel>,
    request: v1::DrainRequest,
}

impl Asked {
    fn new(found: v1::WorkerAddress, cluster: &str, hand_over: bool) -> Result<Self, DrainError> {
        let v1::WorkerAddress { worker, name, control: address, .. } = found;
        let door = WorkerClient::new(channel(&format!("worker {name}"), &address)?);
        Ok(Self { name, address, door, request: v1::DrainRequest { cluster: cluster.to_owned(), worker, hand_over } })
    }

    async fn ask(&mut self) -> Result<v1::DrainReply, DrainError> {
        let reply = self.door.drain(self.request.clone()).await.map_err(|error| DrainError::Worker {
            name: self.name.clone(),
            address: self.address.clone(),
            code: error.code(),
            text: error.message().to_owned(),
        })?;
        Ok(reply.into_inner())
    }
}

fn channel(who: &str, address: &str) -> Result<Channel, DrainError> {
    grpc::channel(address, CALL_WITHIN).map_err(|source| DrainError::Address { who: who.to_owned(), source })
}

fn line(name: &str, reply: &v1::DrainReply) -> String {
    let moved = match reply.bytes_handed_over {
        0 => String::new(),
        bytes => format!(", {} handed over", BinaryBytes(bytes)),
    };
    if reply.done {
        return format!("{name}: nothing is left{moved}; its process may be ended");
    }
    let (locations, bytes) = (reply.locations_left, BinaryBytes(reply.bytes_left));
    format!("{name}: draining, {locations} locations with {bytes} left{moved}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worker(id: u128, name: &str, state: State) -> v1::DescribedWorker {
        let id = Some(WorkerId(id).into());
        let address = v1::WorkerAddress { worker: id, name: name.to_owned(), ..Default::default() };
        let worker =
            v1::ResolvedWorker { worker: id, state: state.into(), address: Some(address), lost_for_ms: 61_500 };
        v1::DescribedWorker { worker: Some(worker), ..Default::default() }
    }

    #[test]
    fn a_worker_is_found_by_name_or_id_and_one_that_is_not_there_is_told_with_those_that_are() {
        let all = || vec![worker(1, "a", State::Lost), worker(2, "a", State::Live), worker(3, "b", State::Lost)];
        assert_eq!(pick(all(), "a").unwrap().worker, Some(WorkerId(2).into()));
        assert_eq!(pick(all(), &WorkerId(2).to_string()).unwrap().name, "a");
        let error = |asked| pick(all(), asked).unwrap_err().to_string();
        assert_eq!(error("b"), "the worker b is lost: its master has heard nothing of it for 61 s beyond its lease");
        assert_eq!(error("c"), "there is no worker \"c\" here; there are a, a, b");
        let none = pick(Vec::new(), "c").unwrap_err().to_string();
        assert_eq!(none, "there is no worker \"c\" here; there are none at all");
    }

    #[test]
    fn a_line_tells_what_is_left_and_what_was_moved() {
        let reply = v1::DrainReply { locations_left: 3, bytes_left: 2048, bytes_handed_over: 0, ..Default::default() };
        assert_eq!(line("a", &reply), "a: draining, 3 locations with 2.00 KiB left");
        let reply = v1::DrainReply { bytes_handed_over: 1 << 20, done: true, ..Default::default() };
        assert_eq!(line("a", &reply), "a: nothing is left, 1.00 MiB handed over; its process may be ended");
    }
}
