//! The figures as a table for people.

use std::fmt;

use mallorn_runtime::config::ByteSize;

use crate::machine::Machine;
use crate::outcome::{Budget, Outcome, Phase, Results, Verdict};

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Met => "met",
            Self::Missed => "missed",
            Self::Unclear => "unclear",
        })
    }
}

impl fmt::Display for Results {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Machine { cpu, cores, kernel, load } = &self.machine;
        let (version, runs) = (&self.version, self.runs);
        writeln!(f, "mallorn-bench {version} on {cpu}, {cores} cores, Linux {kernel}, load {load:.1} at the start")?;
        writeln!(
            f,
            "medians of {runs} runs; CPU-s/GiB of both sides (client + worker); ratios are CPU over the floor's\n"
        )?;
        let head = ("scenario", "path", "CPU-s/GiB", "us/batch", "MiB/s");
        let (name, path, cpu, batch, speed) = head;
        writeln!(
            f,
            "{name:<15} {path:<5} {cpu:>22} {batch:>8} {speed:>7} {:>8} {:>8} {:>8} {:>21}",
            "p50 ms", "p99 ms", "max ms", "ratio [90 %]"
        )?;
        self.scenarios.iter().try_for_each(|outcome| rows(f, outcome))?;
        writeln!(f)?;
        for outcome in &self.scenarios {
            writeln!(f, "{}", resources(outcome))?;
        }
        writeln!(f)?;
        for (outcome, budget) in budgets(self) {
            writeln!(f, "{}", budget_line(outcome, budget))?;
        }
        Ok(())
    }
}

fn rows(f: &mut fmt::Formatter<'_>, outcome: &Outcome) -> fmt::Result {
    let floor = outcome.floor;
    let paths = [
        ("push", &outcome.push, floor.map(|floor| (floor.push_ratio, floor.push_interval))),
        ("fetch", &outcome.fetch, floor.map(|floor| (floor.fetch_ratio, floor.fetch_interval))),
    ];
    for (path, phase, ratio) in paths {
        let Phase { mib_s, cpu_s_per_gib: cpu, cpu_us_per_batch, p50_ms, p99_ms, max_ms } = phase;
        let cpu = format!("{:.3} ({:.3} + {:.3})", cpu.sum, cpu.client, cpu.worker);
        let ratio = ratio.map_or_else(String::new, |(ratio, [low, high])| format!("{ratio:.3} [{low:.3}, {high:.3}]"));
        let name = if path == "push" { outcome.name.as_str() } else { "" };
        writeln!(
            f,
            "{name:<15} {path:<5} {cpu:>22} {cpu_us_per_batch:>8.1} {mib_s:>7.0} {p50_ms:>8.1} {p99_ms:>8.1} {max_ms:>8.1} {ratio:>21}"
        )?;
    }
    Ok(())
}

fn resources(outcome: &Outcome) -> String {
    let Outcome { name, peak_rss_bytes, minor_faults_per_gib, disk, .. } = outcome;
    let peaks: Vec<_> = peak_rss_bytes.iter().map(|bytes| mib(*bytes)).collect();
    let peaks = if peaks.is_empty() { "not ours".to_owned() } else { peaks.join(" + ") };
    let mut line = format!("{name:<15} workers peak at {peaks}, {minor_faults_per_gib:.0} faults/GiB");
    if disk.written_bytes > 0 {
        line += &format!(", {} to disk, {} files, {} syncs", mib(disk.written_bytes), disk.files, disk.syncs);
    }
    if let Some(per) = outcome.per_shuffle {
        line +=
            &format!("; a shuffle takes {:.2} ms (p99 {:.2}) and {:.1} calls", per.median_ms, per.p99_ms, per.calls);
    }
    line
}

fn mib(bytes: u64) -> String {
    ByteSize(bytes >> 20 << 20).to_string()
}

fn budgets(results: &Results) -> impl Iterator<Item = (&Outcome, &Budget)> {
    results.scenarios.iter().flat_map(|outcome| outcome.budgets.iter().map(move |budget| (outcome, budget)))
}

fn budget_line(outcome: &Outcome, budget: &Budget) -> String {
    let Budget { name, what, limit, value, interval, verdict } = budget;
    let interval = interval.map_or_else(String::new, |[low, high]| format!(" [{low:.3}, {high:.3}]"));
    format!("{name:<4} {verdict:<8} {value:.3}{interval} of {limit} ({what}; {})", outcome.name)
}
