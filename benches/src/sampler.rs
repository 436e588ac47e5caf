//! Looks at clients and workers while a scenario runs: throughput, latency and memory over time.

use std::time::Duration;

use mallorn_client::ShuffleClient;
use mallorn_runtime::clock::{self, Clock};
use mallorn_runtime::task::{self, Shutdown};
use prometheus::Registry;
use tokio::task::JoinHandle;

use crate::meter::Meter;
use crate::outcome::Sample;
use crate::shuffle::Clients;
use crate::times::Times;

const MIB: f64 = (1 << 20) as f64;
/// How often is looked.
const EVERY: Duration = Duration::from_millis(250);
/// Most samples that are kept; then every other one is dropped, and it is looked half as often.
const SAMPLES_MAX: usize = 400;

/// A task that looks.
pub(crate) struct Sampler {
    shutdown: Shutdown,
    task: JoinHandle<Vec<Sample>>,
}

impl Sampler {
    pub(crate) fn start(clients: &Clients, meter: Meter) -> Self {
        let shutdown = Shutdown::new();
        let task = task::spawn(sample(clients.all.clone(), clients.registries.clone(), meter, shutdown.clone()));
        Self { shutdown, task }
    }

    /// What was seen.
    pub(crate) async fn stop(self) -> Vec<Sample> {
        self.shutdown.trigger();
        self.task.await.unwrap_or_default()
    }
}

struct Before {
    at_s: f64,
    pushed: u64,
    fetched: u64,
    times: Times,
}

async fn sample(
    clients: Vec<ShuffleClient>,
    registries: Vec<Registry>,
    meter: Meter,
    shutdown: Shutdown,
) -> Vec<Sample> {
    let clock = Clock::start();
    let (mut samples, mut every) = (Vec::new(), EVERY);
    let mut before = Before { at_s: 0.0, pushed: 0, fetched: 0, times: Times::default() };
    while shutdown.or(clock::sleep(every)).await.is_some() {
        let at_s = clock.now().as_secs_f64();
        let stats = clients.iter().map(ShuffleClient::stats);
        let (pushed, fetched) =
            stats.fold((0, 0), |(pushed, fetched), one| (pushed + one.pushed_bytes, fetched + one.fetched_bytes));
        let times = Times::of(&registries, "mallorn_client_push_seconds");
        let seconds = (at_s - before.at_s).max(1e-6);
        samples.push(Sample {
            at_s,
            push_mib_s: pushed.saturating_sub(before.pushed) as f64 / MIB / seconds,
            fetch_mib_s: fetched.saturating_sub(before.fetched) as f64 / MIB / seconds,
            push_ms: times.since(&before.times).mean_ms(),
            worker_rss_bytes: meter.largest_rss_bytes(),
        });
        before = Before { at_s, pushed, fetched, times };
        if samples.len() > SAMPLES_MAX {
            let mut is_kept = false;
            samples.retain(|_| {
                is_kept = !is_kept;
                is_kept
            });
            every *= 2;
        }
    }
    samples
}
