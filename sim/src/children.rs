//! Runs in processes of their own, as many at once as there are processors.

use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::process::{Command, Stdio};

use crate::scenario::Scenario;

/// A run in a process of its own.
pub(crate) struct Child {
    child: Result<std::process::Child, String>,
}

/// What it came to.
pub(crate) struct Output {
    pub(crate) good: bool,
    pub(crate) text: String,
}

impl Child {
    /// Starts this program again, for one run.
    pub(crate) fn replay(scenario: Scenario, seed: u64, more: &[&str]) -> Self {
        let start = || {
            let mut command = Command::new(std::env::current_exe()?);
            command.arg("replay").arg(seed.to_string()).args(["--scenario", scenario.name()]).args(more);
            command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()
        };
        Self { child: start().map_err(|error: std::io::Error| format!("start a process: {error}\n")) }
    }

    /// Waits for its end.
    pub(crate) fn output(self) -> Output {
        let output = self
            .child
            .and_then(|child| child.wait_with_output().map_err(|error| format!("wait for a process: {error}\n")));
        match output {
            Ok(output) => {
                let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
                if output.status.code().is_none() {
                    text.push_str(&format!("the process ended with {}\n", output.status));
                }
                Output { good: output.status.success(), text }
            }
            Err(text) => Output { good: false, text },
        }
    }
}

/// Starts a child for each item and hands over what it came to, in the items' order.
pub(crate) fn each<T>(items: impl Iterator<Item = T>, start: impl Fn(&T) -> Child, mut take: impl FnMut(&T, Output)) {
    let at_once = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let mut running = VecDeque::new();
    for item in items {
        if running.len() >= at_once
            && let Some((item, child)) = running.pop_front()
        {
            let child: Child = child;
            take(&item, child.output());
        }
        let child = start(&item);
        running.push_back((item, child));
    }
    for (item, child) in running {
        take(&item, child.output());
    }
}
