//! How far a stage is: bars on a terminal, plain lines otherwise, both on standard error.

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use indicatif::{HumanBytes, HumanCount, ProgressBar, ProgressStyle};
use mallorn_runtime::clock::{self, Instant};
use mallorn_runtime::task::Tasks;

/// How often a bar is drawn.
const DRAW_EVERY: Duration = Duration::from_millis(100);
/// How often a line is written.
const LINE_EVERY: Duration = Duration::from_secs(5);

const BAR: &str = "{prefix:<7} [{bar:20}] {wide_msg}";

/// What the tasks of a stage have done, added up.
#[derive(Debug, Default)]
pub(super) struct Counters {
    done: AtomicU64,
    bytes: AtomicU64,
}

impl Counters {
    /// Adds what was done.
    pub(super) fn add(&self, done: u64, bytes: u64) {
        self.done.fetch_add(done, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// Shows stages.
#[derive(Clone, Copy, Debug)]
pub(super) struct Progress {
    bars: bool,
}

impl Progress {
    /// Bars if standard error is a terminal.
    pub(super) fn new() -> Self {
        Self { bars: io::stderr().is_terminal() }
    }

    /// Starts a stage in which so many `unit` are expected to be done; none if nobody knows.
    pub(super) fn stage(&self, name: &'static str, unit: &'static str, expected: u64) -> Stage {
        let counters = Arc::new(Counters::default());
        let view = View { name, unit, expected, started: clock::now(), counters: Arc::clone(&counters) };
        let mut ticker = Tasks::new();
        let bar = self.bars.then(|| {
            let style = ProgressStyle::with_template(BAR).expect("the template is one").progress_chars("=> ");
            ProgressBar::new(expected.max(1)).with_style(style).with_prefix(name)
        });
        ticker.spawn(show(view.clone(), bar.clone()));
        Stage { view, counters, bar, _ticker: ticker }
    }

    /// Tells something that happened.
    pub(super) fn note(&self, text: &str) {
        line(text);
    }
}

/// Where standard error is closed nobody wants to know.
fn line(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// A stage that goes on. Dropping it takes its bar away.
#[derive(Debug)]
pub(super) struct Stage {
    /// Where its tasks add what they have done.
    pub(super) counters: Arc<Counters>,
    view: View,
    bar: Option<ProgressBar>,
    _ticker: Tasks,
}

impl Stage {
    /// Tells something that happened, above the bar.
    pub(super) fn note(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| line(text)),
            None => line(text),
        }
    }

    /// Ends the stage, says what was done, and returns how long it took.
    pub(super) fn finish(self) -> Duration {
        let took = self.view.started.elapsed();
        let summary = self.view.summary(took);
        drop(self);
        line(&summary);
        took
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

async fn show(view: View, bar: Option<ProgressBar>) {
    loop {
        clock::sleep(if bar.is_some() { DRAW_EVERY } else { LINE_EVERY }).await;
        let took = view.started.elapsed();
        match &bar {
            Some(bar) => {
                bar.set_position(view.done());
                bar.set_message(view.state(took));
            }
            None => line(&format!("{}: {}", view.name, view.state(took))),
        }
    }
}

/// What a stage shows.
#[derive(Clone, Debug)]
struct View {
    name: &'static str,
    unit: &'static str,
    expected: u64,
    started: Instant,
    counters: Arc<Counters>,
}

impl View {
    fn done(&self) -> u64 {
        self.counters.done.load(Ordering::Relaxed)
    }

    fn bytes(&self) -> u64 {
        self.counters.bytes.load(Ordering::Relaxed)
    }

    /// `1,234 of 5,678 rows, 12.3 MiB/s, 4 s left`
    fn state(&self, took: Duration) -> String {
        let done = self.done();
        if self.expected == 0 {
            return format!("{:.0} s", took.as_secs_f64());
        }
        let mut text = format!("{} of {} {}", HumanCount(done), HumanCount(self.expected), self.unit);
        text += &self.rate(took);
        if done > 0 && done < self.expected {
            let left = took.as_secs_f64() * (self.expected - done) as f64 / done as f64;
            text += &format!(", {left:.0} s left");
        }
        text
    }

    /// `map: 5,678 rows, 12.3 MiB in 1.2 s, 10.3 MiB/s`
    fn summary(&self, took: Duration) -> String {
        let mut text = format!("{}: ", self.name);
        if self.expected > 0 {
            text += &format!("{} {}", HumanCount(self.done()), self.unit);
            if self.bytes() > 0 {
                text += &format!(", {}", HumanBytes(self.bytes()));
            }
            text += " in ";
        }
        text + &format!("{:.2} s", took.as_secs_f64()) + &self.rate(took)
    }

    fn rate(&self, took: Duration) -> String {
        let (bytes, seconds) = (self.bytes() as f64, took.as_secs_f64());
        if bytes > 0.0 && seconds > 0.0 {
            format!(", {}/s", HumanBytes((bytes / seconds) as u64))
        } else {
            String::new()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(expected: u64, done: u64, bytes: u64) -> View {
        let counters = Arc::new(Counters::default());
        counters.add(done, bytes);
        View { name: "map", unit: "rows", expected, started: clock::now(), counters }
    }

    #[test]
    fn a_stage_tells_rows_rate_and_time_left() {
        let half = view(2000, 1000, 10 << 20);
        assert_eq!(half.state(Duration::from_secs(5)), "1,000 of 2,000 rows, 2.00 MiB/s, 5 s left");
        assert_eq!(half.summary(Duration::from_secs(5)), "map: 1,000 rows, 10.00 MiB in 5.00 s, 2.00 MiB/s");
    }

    #[test]
    fn nothing_done_yet_is_no_division_by_zero() {
        assert_eq!(view(2000, 0, 0).state(Duration::ZERO), "0 of 2,000 rows");
        assert_eq!(view(0, 0, 0).state(Duration::from_secs(2)), "2 s");
        assert_eq!(view(0, 0, 0).summary(Duration::from_secs(2)), "map: 2.00 s");
    }
}
