//! What many runs met, all together.
//!
//! Owns the sums, and the question whether every fault that was drawn often has struck: one that never does proves nothing.

use std::collections::BTreeMap;

use crate::faults::Kind;
use crate::scenario::Scenario;

/// Faults of a kind, drawn in a scenario, of which at least one must have struck.
const DRAWN_MIN: u64 = 10;

/// Sums over many runs.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    counts: BTreeMap<Scenario, BTreeMap<String, u64>>,
    drawn: BTreeMap<(Scenario, &'static str), u64>,
    /// Of kinds that operations must meet: what reports call that.
    met_as: BTreeMap<&'static str, &'static str>,
}

impl Tally {
    /// Adds a run, by its report. What it met stands behind its verdict: `what: count`, several times.
    pub(crate) fn add(&mut self, scenario: Scenario, seed: u64, report: &str) {
        for fault in scenario.draw(seed).schedule.faults {
            *self.drawn.entry((scenario, fault.kind.name())).or_default() += 1;
            if let Kind::Disk { trouble, .. } = &fault.kind
                && let Some(met) = trouble.met()
            {
                self.met_as.insert(trouble.name(), met);
            }
        }
        let counts = self.counts.entry(scenario).or_default();
        for part in report.lines().next().unwrap_or_default().split("; ").skip(1) {
            if let Some((what, count)) = part.split_once(": ")
                && let Ok(count) = count.parse::<u64>()
            {
                *counts.entry(what.to_owned()).or_default() += count;
            }
        }
    }

    /// The sums of all runs, on one line.
    pub(crate) fn totals(&self) -> String {
        let mut totals = BTreeMap::<&str, u64>::new();
        for (what, count) in self.counts.values().flatten() {
            *totals.entry(what).or_default() += count;
        }
        let totals: Vec<_> = totals.iter().map(|(what, count)| format!("{what}: {count}")).collect();
        totals.join("; ")
    }

    /// Kinds of faults that were drawn and never struck, or that nobody met.
    pub(crate) fn never_struck(&self) -> Vec<String> {
        let mut never = Vec::new();
        for ((scenario, kind), drawn) in self.drawn.iter().filter(|(_, drawn)| **drawn >= DRAWN_MIN) {
            let count = |what: &str| self.counts.get(scenario).and_then(|counts| counts.get(what)).copied();
            if count(&format!("struck {kind}")).is_none() {
                never.push(format!("{scenario}: `{kind}` was drawn {drawn} times and never struck"));
            } else if let Some(met) = self.met_as.get(kind)
                && count(met).is_none()
            {
                never.push(format!("{scenario}: `{kind}` was drawn {drawn} times, and there are no {met}"));
            }
        }
        never
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_that_never_strike_are_told() {
        let (mut silent, mut loud) = (Tally::default(), Tally::default());
        for seed in 0..40 {
            silent.add(Scenario::Power, seed, "power: ok; units: 3");
            let all = "power: ok; struck power: 1; struck power in the worst order: 1; struck disk fails syncs: 1; syncs that failed: 1";
            loud.add(Scenario::Power, seed, all);
        }
        assert!(silent.never_struck().iter().any(|line| line.contains("`power` was drawn")));
        assert!(loud.never_struck().is_empty());
        assert!(loud.totals().contains("struck power: 40; "), "{}", loud.totals());
    }
}
