//! How far a bench is, on a terminal; where there is none, a line for each scenario.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// A bar over all runs of all scenarios.
pub(crate) struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// Of so many steps.
    pub(crate) fn new(steps: u64) -> Self {
        let bar = ProgressBar::new(steps);
        if let Ok(style) = ProgressStyle::with_template("{elapsed_precise} [{wide_bar}] {pos}/{len} {msg}") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(200));
        Self { bar }
    }

    /// A run of a scenario begins.
    pub(crate) fn run(&self, scenario: &str, run: u32, runs: u32) {
        self.bar.set_message(format!("{scenario}, run {run} of {runs}"));
        self.bar.inc(1);
        if self.bar.is_hidden() && run == 1 {
            eprintln!("{scenario}: {runs} runs");
        }
    }

    /// So many steps are done.
    pub(crate) fn at(&self, what: &'static str, steps: u64) {
        self.bar.set_message(what);
        self.bar.set_position(steps);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
