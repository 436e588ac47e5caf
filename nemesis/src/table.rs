//! The table: what each fault did, for people and as JSON.

use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use mallorn_runtime::disk::Disk;
use serde::Serialize;

/// What became of a scenario.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Verdict {
    Good,
    Wrong,
    /// The machine lacks something.
    Skipped,
}

/// A line of the table.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) fault: &'static str,
    /// Whether it left the trace that it must.
    pub(crate) struck: bool,
    pub(crate) verdict: Verdict,
    /// By what it is known that the fault struck.
    pub(crate) evidence: String,
    pub(crate) outcome: String,
    pub(crate) seconds: f64,
}

impl Row {
    /// How the line looks.
    pub(crate) fn line(&self) -> String {
        let struck = match (self.verdict, self.struck) {
            (Verdict::Skipped, _) => "-",
            (_, true) => "yes",
            (_, false) => "NO",
        };
        let outcome = match self.verdict {
            Verdict::Good => format!("{}; {}", self.evidence, self.outcome),
            Verdict::Wrong => format!("WRONG: {}", self.outcome),
            Verdict::Skipped => format!("SKIPPED: {}", self.outcome),
        };
        let outcome = outcome.lines().next().unwrap_or_default().replace('|', "/");
        format!("| {:<24} | {struck:<6} | {:>7.1} | {outcome} |", self.fault, self.seconds)
    }
}

/// The head of the table.
pub(crate) fn head() -> String {
    format!("| {:<24} | struck | seconds | outcome |\n|{:-<26}|--------|--------:|---------|", "fault", "")
}

/// Prints what all of it came to.
pub(crate) fn print_sum(rows: &[Row], took: Duration) {
    let of = |verdict| rows.iter().filter(|row| row.verdict == verdict).count();
    println!(
        "\n{} faults in {:.0} s: {} good, {} wrong, {} skipped",
        rows.len(),
        took.as_secs_f64(),
        of(Verdict::Good),
        of(Verdict::Wrong),
        of(Verdict::Skipped)
    );
    let _ = io::stdout().flush();
}

/// Writes the rows to a file.
pub(crate) fn write(path: &Path, rows: &[Row]) -> Result<(), String> {
    let text = serde_json::to_vec_pretty(rows).map_err(|error| error.to_string())?;
    Disk::real().replace(path, &text).map_err(|error| error.to_string())
}
