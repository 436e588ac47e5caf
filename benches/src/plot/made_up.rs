//! Results that nobody measured, for the tests of whatever shows or compares results.

use crate::machine::Machine;
use crate::outcome::{
    AgainstFloor, Budget, Cpu, DiskUse, Outcome, PerShuffle, Phase, Results, Sample, Settings, Verdict,
};

const MIB: u64 = 1024 * 1024;

/// Two scenarios: `plain`, with a floor and two budgets that are met, and `small`, with neither.
pub(crate) fn results() -> Results {
    let machine = Machine { cpu: "Made-up CPU".to_owned(), cores: 4, kernel: "6.1.0".to_owned(), load: 0.25 };
    let mut small = outcome("small");
    small.floor = None;
    small.budgets.clear();
    small.per_shuffle = Some(PerShuffle { median_ms: 12.5, p99_ms: 31.0, calls: 9.0 });
    Results { machine, version: "1.2.3".to_owned(), seed: 7, runs: 5, scenarios: vec![outcome("plain"), small] }
}

fn outcome(name: &str) -> Outcome {
    Outcome {
        name: name.to_owned(),
        shows: "What a shuffle costs".to_owned(),
        settings: settings(),
        push: phase(1800.0, 0.4),
        fetch: phase(2400.0, 0.2),
        floor: Some(AgainstFloor {
            push_ratio: 1.31,
            push_interval: [1.25, 1.38],
            fetch_ratio: 1.12,
            fetch_interval: [1.04, 1.19],
            push_cpu_s_per_gib: 0.46,
            fetch_cpu_s_per_gib: 0.27,
        }),
        one_copy: None,
        per_shuffle: None,
        peak_rss_ratio: Some(0.87),
        peak_rss_bytes: vec![900 * MIB, 870 * MIB],
        minor_faults_per_gib: 1234.0,
        disk: DiskUse { written_bytes: 1536 * MIB, files: 12, syncs: 3 },
        verified: true,
        budgets: vec![budget("G1", "CPU of pushing over the floor"), budget("G2", "CPU of fetching over the floor")],
        series: (0..20).map(sample).collect(),
    }
}

fn settings() -> Settings {
    Settings {
        total_bytes: 1024 * MIB,
        batch_bytes: 64 * 1024,
        partitions: 200,
        connections: 4,
        workers: 2,
        copies: 1,
        memory_bytes: 1024 * MIB,
        durability: "memory".to_owned(),
        codec: "none".to_owned(),
    }
}

fn phase(mib_s: f64, client: f64) -> Phase {
    let cpu = Cpu { client, worker: client / 2.0, sum: client * 1.5 };
    Phase { mib_s, cpu_s_per_gib: cpu, cpu_us_per_batch: 36.0, p50_ms: 0.8, p99_ms: 4.2, max_ms: 17.0 }
}

fn budget(name: &str, what: &str) -> Budget {
    let (name, what) = (name.to_owned(), what.to_owned());
    Budget { name, what, limit: 1.5, value: 1.31, interval: Some([1.25, 1.38]), verdict: Verdict::Met }
}

fn sample(index: u32) -> Sample {
    let at_s = f64::from(index) * 0.5;
    Sample {
        at_s,
        push_mib_s: 1500.0 + 100.0 * at_s.sin(),
        fetch_mib_s: 2000.0 + 300.0 * at_s.cos(),
        push_ms: 1.0 + at_s / 10.0,
        worker_rss_bytes: u64::from(index) * 40 * MIB,
    }
}
