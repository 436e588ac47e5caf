//! What the simulated processes and whoever steps the simulation tell each other, beside the network.
//!
//! Owns the phases of the job as the faults are anchored at, and what the job waits for, to be named when it waits for
//! too long. Does not own either.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use mallorn_runtime::disk::Disk;
use mallorn_runtime::task::Shutdown;
use parking_lot::Mutex;
use prometheus::Registry;
use prometheus::proto::Metric;

use crate::faults::Phase;

/// Shared by everybody in a run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Board {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    begun: Vec<(Phase, u32)>,
    calm_wanted: bool,
    orphaned: bool,
    finished: bool,
    released: BTreeSet<u32>,
    /// By shuffle: the first generation that may not be over.
    generations: BTreeMap<u32, u32>,
    doing: BTreeMap<String, String>,
    registries: BTreeMap<String, Registry>,
    drains: BTreeMap<String, Shutdown>,
    disks: BTreeMap<String, Disk>,
    counts: BTreeMap<&'static str, u64>,
    struck: BTreeMap<&'static str, u64>,
}

/// Something that is being done.
#[derive(Debug)]
pub(crate) struct Doing {
    board: Board,
    who: String,
}

impl Doing {
    /// Notes what it does now.
    pub(crate) fn now(&self, what: impl fmt::Display) {
        self.board.inner.lock().doing.insert(self.who.clone(), what.to_string());
    }
}

impl Drop for Doing {
    fn drop(&mut self) {
        self.board.inner.lock().doing.remove(&self.who);
    }
}

impl Board {
    /// The first shuffle's job has come to a phase.
    pub(crate) fn begin(&self, phase: Phase, round: u32) {
        self.inner.lock().begun.push((phase, round));
    }

    /// Phases begun since the last call.
    pub(crate) fn take_begun(&self) -> Vec<(Phase, u32)> {
        std::mem::take(&mut self.inner.lock().begun)
    }

    /// The job is done, and nothing is to go wrong any more.
    pub(crate) fn want_calm(&self) {
        self.inner.lock().calm_wanted = true;
    }

    pub(crate) fn is_calm_wanted(&self) -> bool {
        self.inner.lock().calm_wanted
    }

    /// The driver has seen its job to the end.
    pub(crate) fn finish(&self) {
        self.inner.lock().finished = true;
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.inner.lock().finished
    }

    /// The driver is dead, and does nothing any more.
    pub(crate) fn orphaned(&self) {
        let mut inner = self.inner.lock();
        (inner.orphaned, inner.calm_wanted) = (true, false);
        inner.doing.retain(|who, _| who.starts_with("attempt") || who.starts_with("read"));
    }

    pub(crate) fn is_orphaned(&self) -> bool {
        self.inner.lock().orphaned
    }

    /// The driver is about to release a shuffle: whoever was left to itself may hear of it.
    pub(crate) fn releasing(&self, shuffle: u32) {
        self.inner.lock().released.insert(shuffle);
    }

    /// The driver is about to ask for the generation after this one.
    pub(crate) fn leaves_generation(&self, shuffle: u32, seen: u32) {
        let mut inner = self.inner.lock();
        let first = inner.generations.entry(shuffle).or_default();
        *first = seen.saturating_add(1).max(*first);
    }

    /// Whether a generation may be over.
    pub(crate) fn is_over(&self, shuffle: u32, generation: u32) -> bool {
        self.inner.lock().generations.get(&shuffle).is_some_and(|first| generation < *first)
    }

    pub(crate) fn is_released(&self, shuffle: u32) -> bool {
        self.inner.lock().released.contains(&shuffle)
    }

    /// Shows what a part of the job does, until that is dropped, with its process or by itself.
    pub(crate) fn begin_doing(&self, who: impl fmt::Display) -> Doing {
        let doing = Doing { board: self.clone(), who: who.to_string() };
        doing.now("begins");
        doing
    }

    /// What is being done, one line each.
    pub(crate) fn everything_being_done(&self) -> String {
        let inner = self.inner.lock();
        inner.doing.iter().map(|(who, what)| format!("  {who}: {what}\n")).collect()
    }

    /// Who still does something whose name begins with this.
    pub(crate) fn is_anybody_doing(&self, prefix: &str) -> bool {
        self.inner.lock().doing.keys().any(|who| who.starts_with(prefix))
    }

    /// A host has these disks, for as long as the run lasts.
    pub(crate) fn add_disks(&self, host: &str, disk: Disk) {
        self.inner.lock().disks.insert(host.to_owned(), disk);
    }

    /// The disks of all hosts that have some.
    pub(crate) fn disks(&self) -> BTreeMap<String, Disk> {
        self.inner.lock().disks.clone()
    }

    /// A worker has started with these metrics. It drains when what is returned is triggered.
    pub(crate) fn started(&self, worker: &str, registry: Registry) -> Shutdown {
        let (mut inner, drain) = (self.inner.lock(), Shutdown::new());
        inner.registries.insert(worker.to_owned(), registry);
        inner.drains.insert(worker.to_owned(), drain.clone());
        drain
    }

    /// Tells a worker to drain.
    pub(crate) fn drain(&self, worker: &str) {
        if let Some(drain) = self.inner.lock().drains.get(worker) {
            drain.trigger();
        }
    }

    /// The sum of a metric's values at each worker, as its last process has it.
    pub(crate) fn metric(&self, name: &str) -> Vec<(String, f64)> {
        self.metric_with(name, None)
    }

    /// The same of those values only that have this label.
    pub(crate) fn metric_with(&self, name: &str, label: Option<(&str, &str)>) -> Vec<(String, f64)> {
        let registries = self.inner.lock().registries.clone();
        let is_meant = |metric: &&Metric| {
            let mut labels = metric.get_label().iter();
            label.is_none_or(|(name, value)| labels.any(|label| label.name() == name && label.value() == value))
        };
        let sum = |registry: &Registry| {
            let families = registry.gather();
            let family = families.iter().filter(|family| family.name() == name);
            let metrics = family.flat_map(|family| family.get_metric()).filter(is_meant);
            metrics.map(|metric| metric.get_gauge().get_value() + metric.get_counter().get_value()).sum()
        };
        registries.iter().map(|(worker, registry)| (worker.clone(), sum(registry))).collect()
    }

    /// Counts something that a run should meet now and then.
    pub(crate) fn count(&self, what: &'static str) {
        self.add(what, 1);
    }

    pub(crate) fn add(&self, what: &'static str, by: u64) {
        *self.inner.lock().counts.entry(what).or_default() += by;
    }

    /// A fault of this kind has struck.
    pub(crate) fn struck(&self, kind: &'static str) {
        *self.inner.lock().struck.entry(kind).or_default() += 1;
    }

    /// How often each kind of fault has struck.
    pub(crate) fn all_struck(&self) -> BTreeMap<&'static str, u64> {
        self.inner.lock().struck.clone()
    }

    pub(crate) fn counts(&self) -> BTreeMap<&'static str, u64> {
        self.inner.lock().counts.clone()
    }
}
