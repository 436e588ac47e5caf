//! The faults: each strikes a running cluster, proves that it struck, and says what the job must come to nevertheless.
//!
//! | family | file |
//! |---|---|
//! | processes die, stop, and come back | `process` |
//! | links are cut, flap, and reset | `network` |
//! | disks fill, fail, hang, lose power, and are mistaken for others | `disk` |
//! | what operators do, and drivers that vanish | `operate` |
//! | hostile bytes on every port | `hostile` |
//!
//! Owns the list of all of them and what they share. Does not own the means (`cluster`, `disk`), nor the job.

mod disk;
mod hostile;
mod network;
mod operate;
mod process;

use std::ops::Range;
use std::path::PathBuf;
use std::pin::Pin;
use std::time::Duration;

use mallorn_runtime::random::Random;

use crate::cluster::{Cluster, Spec};
use crate::failure::{Failure, Witness};
use crate::privilege::Need;

/// A scenario: one fault, in one place of a job.
pub(crate) struct Fault {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    pub(crate) needs: &'static [Need],
    /// It is taken down after so long.
    pub(crate) within: Duration,
    pub(crate) run: fn(Context) -> Running,
}

/// A scenario under way.
pub(crate) type Running = Pin<Box<dyn Future<Output = Result<Seen, Failure>>>>;

/// What a scenario is given.
#[derive(Clone, Debug)]
pub(crate) struct Context {
    pub(crate) seed: u64,
    /// The real binary.
    pub(crate) mallorn: PathBuf,
    /// Its own folder, gone afterwards.
    pub(crate) folder: PathBuf,
    pub(crate) witness: Witness,
}

/// What a scenario saw, where everything was right.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// By what it is known that the fault struck.
    pub(crate) struck: String,
    pub(crate) outcome: String,
}

/// All of them, in the order in which they run.
pub(crate) fn all() -> impl Iterator<Item = &'static Fault> {
    [process::ALL, network::ALL, disk::ALL, operate::ALL, hostile::ALL].into_iter().flatten()
}

impl Context {
    /// Starts a cluster in the scenario's folder.
    pub(crate) async fn cluster(&self, mut spec: Spec) -> Result<Cluster, Failure> {
        // Every other seed has locations that are soon full, so that partitions go through many epochs.
        if self.seed.is_multiple_of(2) {
            spec.settings.extend(["worker.soft_split=512KiB", "worker.hard_split=1MiB"].map(str::to_owned));
        }
        Cluster::start(self, spec).await
    }

    /// Which of three workers is struck.
    fn victim(&self) -> u8 {
        Random::seeded(self.seed).below(3) as u8
    }

    /// When it is struck, in a hundredth of what is pushed or read.
    fn moment(&self, within: Range<u64>) -> u64 {
        within.start + Random::seeded(!self.seed).below(within.end - within.start)
    }
}

/// The usual deadline of a scenario.
const WITHIN: Duration = Duration::from_secs(60);

/// A time for the table.
fn seconds(time: Duration) -> String {
    format!("{:.2} s", time.as_secs_f64())
}
