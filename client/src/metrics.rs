//! What a client counts: for Prometheus, and for its engine as plain numbers.

use std::time::Duration;

use prometheus::{Counter, Histogram, HistogramOpts, IntCounter, IntCounterVec, Opts, Registry, exponential_buckets};

/// What a client has done since it connected.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ClientStats {
    /// Bytes that the engine pushed, before compression.
    pub pushed_bytes: u64,
    /// Bytes of batches that workers have taken, after compression, with their headers.
    pub sent_bytes: u64,
    /// Batches that workers have taken.
    pub batches: u64,
    /// Batches that a worker refused; they were pushed again.
    pub refused_batches: u64,
    /// Batches that were refused, or whose fate is not known, and that were pushed again.
    pub repushed_batches: u64,
    /// Next epochs asked for.
    pub revives: u64,
    /// Partitions that went on to a next epoch because one was full.
    pub soft_splits: u64,
    /// Partitions that went on to a next epoch because a push was refused, or its worker was out of reach.
    pub hard_splits: u64,
    /// Reads that went on at the other copy.
    pub read_failovers: u64,
    /// Bytes fetched from workers.
    pub fetched_bytes: u64,
    /// Batches delivered to the engine.
    pub delivered_batches: u64,
    /// Batches left out as repeats or as another attempt's.
    pub skipped_batches: u64,
    /// Calls to the lifecycle manager.
    pub calls: u64,
    /// How long pushes have waited for memory, summed.
    pub push_wait: Duration,
}

#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    pub(crate) pushed_bytes: IntCounter,
    pub(crate) sent_bytes: IntCounter,
    pub(crate) batches: IntCounter,
    pub(crate) repushed_batches: IntCounterVec,
    pub(crate) revives: IntCounter,
    pub(crate) splits: IntCounterVec,
    pub(crate) read_failovers: IntCounter,
    pub(crate) fetched_bytes: IntCounter,
    pub(crate) delivered_batches: IntCounter,
    pub(crate) skipped_batches: IntCounter,
    pub(crate) push_wait_seconds: Counter,
    pub(crate) read_wait_seconds: Counter,
    pub(crate) push_seconds: Histogram,
    pub(crate) fetch_seconds: Histogram,
    pub(crate) calls: IntCounter,
}

/// Buckets of times: from 100 us to 13 s, each half as long again as the one before.
const TIMES_FROM_S: f64 = 0.0001;
const TIMES_FACTOR: f64 = 1.5;
const TIMES_BUCKETS: usize = 30;

/// Why a batch was pushed again: the values of the label `cause`.
pub(crate) const REPUSH_CAUSES: [&str; 3] = ["hard_split", "bad_checksum", "unreachable"];

/// Why a partition goes on to its next epoch: the values of the label `kind`.
pub(crate) const SPLIT_SOFT: &str = "soft";
pub(crate) const SPLIT_HARD: &str = "hard";

impl Metrics {
    /// Registers all; `calls` is counted by the link.
    pub(crate) fn register(registry: &Registry, calls: IntCounter) -> Result<Self, prometheus::Error> {
        let counter = |name: &str, help: &str| -> Result<IntCounter, prometheus::Error> {
            let counter = IntCounter::new(format!("mallorn_client_{name}_total"), help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok(counter)
        };
        let seconds = |name: &str, help: &str| -> Result<Counter, prometheus::Error> {
            let counter = Counter::new(format!("mallorn_client_{name}_seconds_total"), help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok(counter)
        };
        let times = |name: &str, help: &str| -> Result<Histogram, prometheus::Error> {
            let buckets = exponential_buckets(TIMES_FROM_S, TIMES_FACTOR, TIMES_BUCKETS)?;
            let options = HistogramOpts::new(format!("mallorn_client_{name}_seconds"), help).buckets(buckets);
            let histogram = Histogram::with_opts(options)?;
            registry.register(Box::new(histogram.clone()))?;
            Ok(histogram)
        };
        registry.register(Box::new(calls.clone()))?;
        let repushed = Opts::new("mallorn_client_repushed_batches_total", "Batches pushed again, by cause.");
        let repushed_batches = IntCounterVec::new(repushed, &["cause"])?;
        registry.register(Box::new(repushed_batches.clone()))?;
        let splits = Opts::new("mallorn_client_splits_total", "Partitions that go on to a next epoch, by kind.");
        let splits = IntCounterVec::new(splits, &["kind"])?;
        registry.register(Box::new(splits.clone()))?;
        Ok(Self {
            splits,
            read_failovers: counter("read_failovers", "Reads that went on at the other copy.")?,
            pushed_bytes: counter("pushed_bytes", "Bytes the engine pushed, before compression.")?,
            sent_bytes: counter("sent_bytes", "Bytes of batches taken by workers, headers included.")?,
            batches: counter("batches", "Batches taken by workers.")?,
            repushed_batches,
            revives: counter("revives", "Next epochs asked for.")?,
            fetched_bytes: counter("fetched_bytes", "Bytes fetched from workers.")?,
            delivered_batches: counter("delivered_batches", "Batches delivered to the engine.")?,
            skipped_batches: counter("skipped_batches", "Batches left out: repeats, or another attempt's.")?,
            push_wait_seconds: seconds("push_wait", "Time pushes have waited for memory.")?,
            read_wait_seconds: seconds("read_wait", "Time readers have waited for bytes.")?,
            push_seconds: times("push", "Time from sending a push to a worker's answer.")?,
            fetch_seconds: times("fetch", "Time from asking a worker for batches to its answer.")?,
            calls,
        })
    }

    pub(crate) fn unregister(&self, registry: &Registry) {
        let Self { pushed_bytes, sent_bytes, batches, repushed_batches, revives, splits, read_failovers, .. } =
            self.clone();
        let Self { fetched_bytes, delivered_batches, skipped_batches, push_wait_seconds, read_wait_seconds, .. } =
            self.clone();
        let Self { push_seconds, fetch_seconds, calls, .. } = self.clone();
        let pushes = [pushed_bytes, sent_bytes, batches, revives, calls];
        let reads = [fetched_bytes, delivered_batches, skipped_batches, read_failovers];
        for counter in pushes.into_iter().chain(reads) {
            // It was registered, so this cannot fail.
            let _ = registry.unregister(Box::new(counter));
        }
        for seconds in [push_wait_seconds, read_wait_seconds] {
            let _ = registry.unregister(Box::new(seconds));
        }
        for times in [push_seconds, fetch_seconds] {
            let _ = registry.unregister(Box::new(times));
        }
        for counters in [repushed_batches, splits] {
            let _ = registry.unregister(Box::new(counters));
        }
    }

    pub(crate) fn stats(&self) -> ClientStats {
        let repushed = |cause: &str| self.repushed_batches.with_label_values(&[cause]).get();
        ClientStats {
            pushed_bytes: self.pushed_bytes.get(),
            sent_bytes: self.sent_bytes.get(),
            batches: self.batches.get(),
            refused_batches: repushed("hard_split") + repushed("bad_checksum"),
            repushed_batches: REPUSH_CAUSES.into_iter().map(repushed).sum(),
            revives: self.revives.get(),
            soft_splits: self.splits.with_label_values(&[SPLIT_SOFT]).get(),
            hard_splits: self.splits.with_label_values(&[SPLIT_HARD]).get(),
            read_failovers: self.read_failovers.get(),
            fetched_bytes: self.fetched_bytes.get(),
            delivered_batches: self.delivered_batches.get(),
            skipped_batches: self.skipped_batches.get(),
            calls: self.calls.get(),
            push_wait: Duration::from_secs_f64(self.push_wait_seconds.get()),
        }
    }
}
