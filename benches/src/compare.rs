//! Two results held against each other: what became dearer, what is gone, and whether they can be compared at all.

use std::fmt;

use crate::outcome::{Outcome, Phase, Results, Settings};

/// Part of a percent that is owed to rounding, and not to what was measured.
const ROUNDING: f64 = 1e-9;
const NONE: &str = "-";
const COLUMNS: usize = 11;
const GROUPS: [&str; COLUMNS] = ["", "", "CPU-s/GiB", "", "", "MiB/s", "", "", "peak rss", "", ""];
const HEADS: [&str; COLUMNS] =
    ["scenario", "", "before", "after", "change", "before", "after", "change", "before", "after", "change"];
/// Columns that hold words; all others hold figures, and those end at the same place.
const WORDS: usize = 2;

/// How results stand against earlier ones; displayed as a table.
#[derive(Clone, Debug)]
pub(crate) struct Comparison {
    versions: [String; 2],
    threshold: f64,
    rows: Vec<Row>,
    only_before: Vec<String>,
    only_after: Vec<String>,
    unverified: Vec<String>,
    warnings: Vec<String>,
}

/// A scenario that is in both.
#[derive(Clone, Debug)]
struct Row {
    name: String,
    push: Direction,
    fetch: Direction,
    peak_rss_ratio: Change,
}

#[derive(Clone, Copy, Debug)]
struct Direction {
    cpu_s_per_gib: Change,
    mib_s: Change,
}

/// A figure before and after; not a number where there is none.
#[derive(Clone, Copy, Debug)]
struct Change {
    before: f64,
    after: f64,
}

/// Scenario by scenario, by name; a rise of CPU time by up to `threshold` percent is taken for noise.
pub(crate) fn compare(before: &Results, after: &Results, threshold: f64) -> Comparison {
    let mut rows = Vec::new();
    let mut only_before = Vec::new();
    let mut warnings = of_machines(before, after);
    for old in &before.scenarios {
        if !old.verified {
            warnings.push(format!("{}: was not verified before, its figures there may mean nothing", old.name));
        }
        match named(after, &old.name) {
            Some(new) => {
                warnings.extend(of_settings(&old.name, &old.settings, &new.settings));
                rows.push(Row::new(old, new));
            }
            None => only_before.push(old.name.clone()),
        }
    }
    let names = |of: &dyn Fn(&Outcome) -> bool| {
        after.scenarios.iter().filter(|outcome| of(outcome)).map(|outcome| outcome.name.clone()).collect()
    };
    let only_after = names(&|outcome| named(before, &outcome.name).is_none());
    let unverified = names(&|outcome| !outcome.verified);
    let versions = [before.version.clone(), after.version.clone()];
    Comparison { versions, threshold, rows, only_before, only_after, unverified, warnings }
}

impl Comparison {
    /// Whether any CPU time per GiB rose by more than the threshold, a scenario is gone, or one is not verified.
    pub(crate) fn is_worse(&self) -> bool {
        !self.reasons().is_empty()
    }

    fn reasons(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        for row in &self.rows {
            for (name, direction) in [("push", &row.push), ("fetch", &row.fetch)] {
                if direction.cpu_s_per_gib.rose(self.threshold) {
                    let change = direction.cpu_s_per_gib.percent();
                    let by = change.map_or("from nothing".to_owned(), |change| format!("by {change:.1} %"));
                    reasons.push(format!("{}: CPU-s/GiB of {name} rose {by}", row.name));
                }
            }
        }
        reasons.extend(self.only_before.iter().map(|name| format!("{name}: is missing after")));
        reasons.extend(self.unverified.iter().map(|name| format!("{name}: is not verified after")));
        reasons
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [before, after] = &self.versions;
        writeln!(formatter, "Mallorn {before} before, {after} after")?;
        if self.rows.is_empty() {
            writeln!(formatter, "no scenario is in both")?;
        } else {
            table(formatter, &self.rows)?;
        }
        for (title, names) in [("only before", &self.only_before), ("only after", &self.only_after)] {
            if !names.is_empty() {
                writeln!(formatter, "{title}: {}", names.join(", "))?;
            }
        }
        for warning in &self.warnings {
            writeln!(formatter, "warning: {warning}")?;
        }
        let reasons = self.reasons();
        for reason in &reasons {
            writeln!(formatter, "worse: {reason}")?;
        }
        if reasons.is_empty() {
            writeln!(formatter, "not worse: no CPU-s/GiB rose by more than {} %", self.threshold)?;
        }
        Ok(())
    }
}

impl Row {
    fn new(before: &Outcome, after: &Outcome) -> Self {
        let ratio = |outcome: &Outcome| outcome.peak_rss_ratio.unwrap_or(f64::NAN);
        Self {
            name: before.name.clone(),
            push: Direction::new(&before.push, &after.push),
            fetch: Direction::new(&before.fetch, &after.fetch),
            peak_rss_ratio: Change { before: ratio(before), after: ratio(after) },
        }
    }

    fn lines(&self) -> [Vec<String>; 2] {
        let line = |name: &str, direction_name: &str, direction: &Direction| {
            let mut line = vec![name.to_owned(), direction_name.to_owned()];
            line.extend(direction.cpu_s_per_gib.cells(3));
            line.extend(direction.mib_s.cells(0));
            line
        };
        let mut push = line(&self.name, "push", &self.push);
        push.extend(self.peak_rss_ratio.cells(2));
        [push, line("", "fetch", &self.fetch)]
    }
}

impl Direction {
    fn new(before: &Phase, after: &Phase) -> Self {
        let cpu_s_per_gib = Change { before: before.cpu_s_per_gib.sum, after: after.cpu_s_per_gib.sum };
        Self { cpu_s_per_gib, mib_s: Change { before: before.mib_s, after: after.mib_s } }
    }
}

impl Change {
    /// None where there is nothing to take a percentage of.
    fn percent(self) -> Option<f64> {
        let percent = (self.after - self.before) / self.before * 100.0;
        (self.before > 0.0 && percent.is_finite()).then_some(percent)
    }

    /// Whatever comes from nothing, or is no number, cannot be shown to be within the threshold.
    fn rose(self, threshold: f64) -> bool {
        self.percent().map_or(self.after != 0.0, |percent| percent > threshold + ROUNDING)
    }

    fn cells(self, digits: usize) -> [String; 3] {
        let figure = |value: f64| if value.is_finite() { format!("{value:.digits$}") } else { NONE.to_owned() };
        // A fall too small to be written would be a zero with a minus.
        let shown = |percent: f64| if percent.abs() < 0.05 { "0.0 %".to_owned() } else { format!("{percent:+.1} %") };
        let change = self.percent().map_or(NONE.to_owned(), shown);
        [figure(self.before), figure(self.after), change]
    }
}

fn named<'a>(results: &'a Results, name: &str) -> Option<&'a Outcome> {
    results.scenarios.iter().find(|outcome| outcome.name == name)
}

fn table(formatter: &mut fmt::Formatter<'_>, rows: &[Row]) -> fmt::Result {
    let mut lines = [GROUPS, HEADS].map(|head| head.map(str::to_owned).to_vec()).to_vec();
    lines.extend(rows.iter().flat_map(Row::lines));
    let width = |column: usize| lines.iter().filter_map(|line| line.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..COLUMNS).map(|column| width(column).unwrap_or(0)).collect();
    for line in &lines {
        let cells = line.iter().zip(&widths).enumerate().map(|(column, (cell, width))| {
            if column < WORDS { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
        });
        let cells: Vec<String> = cells.collect();
        writeln!(formatter, "{}", cells.join("  ").trim_end())?;
    }
    Ok(())
}

/// The load differs always, and says little.
fn of_machines(before: &Results, after: &Results) -> Vec<String> {
    let (old, new) = (&before.machine, &after.machine);
    let pairs = [
        ("processor", old.cpu.clone(), new.cpu.clone()),
        ("cores", old.cores.to_string(), new.cores.to_string()),
        ("kernel", old.kernel.clone(), new.kernel.clone()),
        ("seed", before.seed.to_string(), after.seed.to_string()),
        ("runs", before.runs.to_string(), after.runs.to_string()),
    ];
    differences("", pairs)
}

fn of_settings(name: &str, old: &Settings, new: &Settings) -> Vec<String> {
    let pairs = [
        ("total bytes", old.total_bytes.to_string(), new.total_bytes.to_string()),
        ("batch bytes", old.batch_bytes.to_string(), new.batch_bytes.to_string()),
        ("partitions", old.partitions.to_string(), new.partitions.to_string()),
        ("connections", old.connections.to_string(), new.connections.to_string()),
        ("workers", old.workers.to_string(), new.workers.to_string()),
        ("copies", old.copies.to_string(), new.copies.to_string()),
        ("memory bytes", old.memory_bytes.to_string(), new.memory_bytes.to_string()),
        ("durability", old.durability.clone(), new.durability.clone()),
        ("codec", old.codec.clone(), new.codec.clone()),
    ];
    differences(&format!("{name}: "), pairs)
}

fn differences<const COUNT: usize>(start: &str, pairs: [(&str, String, String); COUNT]) -> Vec<String> {
    let differing = pairs.into_iter().filter(|(_, old, new)| old != new);
    differing.map(|(what, old, new)| format!("{start}{what}: {old} before, {new} after")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plot::made_up;

    /// What is worse when one thing was changed after.
    fn worse(change: impl Fn(&mut Results)) -> bool {
        let before = made_up::results();
        let mut after = before.clone();
        change(&mut after);
        compare(&before, &after, 5.0).is_worse()
    }

    #[test]
    fn only_dearer_missing_or_unverified_is_worse() {
        assert!(!worse(|_| ()));
        assert!(worse(|after| after.scenarios[0].push.cpu_s_per_gib.sum *= 1.06));
        assert!(worse(|after| after.scenarios[1].fetch.cpu_s_per_gib.sum *= 1.06));
        assert!(!worse(|after| after.scenarios[0].push.cpu_s_per_gib.sum *= 1.05), "not more than the threshold");
        assert!(!worse(|after| after.scenarios[0].push.cpu_s_per_gib.sum *= 0.5));
        assert!(worse(|after| after.scenarios[0].push.cpu_s_per_gib.sum = f64::NAN));
        assert!(worse(|after| after.scenarios.truncate(1)));
        assert!(worse(|after| after.scenarios[0].verified = false));
        assert!(!worse(|after| after.scenarios[0].push.mib_s /= 2.0), "throughput depends on the machine");
        assert!(!worse(|after| after.scenarios[0].settings.workers = 9));
    }

    #[test]
    fn a_new_scenario_is_named_and_worse_only_when_it_is_not_verified() {
        let after = made_up::results();
        let mut before = after.clone();
        before.scenarios.truncate(1);
        let comparison = compare(&before, &after, 5.0);
        assert!(!comparison.is_worse());
        assert!(comparison.to_string().contains("only after: small\n"));
        let mut unverified = after;
        unverified.scenarios[1].verified = false;
        assert!(compare(&before, &unverified, 5.0).is_worse());
    }

    #[test]
    fn the_table_is_aligned_and_says_what_changed() {
        let before = made_up::results();
        let mut after = before.clone();
        after.scenarios[0].push.cpu_s_per_gib.sum = 0.75;
        after.scenarios[0].fetch.mib_s = 1200.0;
        let text = compare(&before, &after, 5.0).to_string();
        let lines: Vec<&str> = text.lines().collect();
        let push = "plain     push       0.600  0.750  +25.0 %    1800   1800    0.0 %      0.87   0.87   0.0 %";
        let fetch = "          fetch      0.300  0.300    0.0 %    2400   1200  -50.0 %";
        assert_eq!(lines[3..5], [push, fetch], "{text}");
        assert!(text.contains("worse: plain: CPU-s/GiB of push rose by 25.0 %"), "{text}");
    }

    #[test]
    fn nothing_before_gives_no_percentage() {
        let mut before = made_up::results();
        for phase in before.scenarios.iter_mut().flat_map(|outcome| [&mut outcome.push, &mut outcome.fetch]) {
            phase.cpu_s_per_gib.sum = 0.0;
            phase.mib_s = 0.0;
        }
        before.scenarios[0].peak_rss_ratio = None;
        let same = compare(&before, &before, 5.0);
        let rise = compare(&before, &made_up::results(), 5.0);
        assert!(!same.is_worse());
        assert!(rise.is_worse());
        for text in [same.to_string(), rise.to_string()] {
            assert!(!text.contains("NaN") && !text.contains("inf"), "{text}");
        }
        assert!(rise.to_string().contains("plain: CPU-s/GiB of push rose from nothing"));
    }

    #[test]
    fn what_cannot_be_compared_is_warned_of() {
        let before = made_up::results();
        let mut after = before.clone();
        after.machine.cores = 8;
        after.machine.load = 3.0;
        after.scenarios[1].settings.codec = "lz4".to_owned();
        let text = compare(&before, &after, 5.0).to_string();
        assert!(text.contains("warning: cores: 4 before, 8 after"), "{text}");
        assert!(text.contains("warning: small: codec: none before, lz4 after"), "{text}");
        assert_eq!(text.matches("warning: ").count(), 2, "{text}");
    }

    #[test]
    fn results_without_scenarios_are_compared_too() {
        let mut nothing = made_up::results();
        nothing.scenarios.clear();
        assert!(compare(&nothing, &nothing, 5.0).to_string().contains("no scenario is in both"));
        assert!(!compare(&nothing, &made_up::results(), 5.0).is_worse());
        assert!(compare(&made_up::results(), &nothing, 5.0).is_worse());
    }
}
