//! Runs in processes of their own, a few at once.

use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::path::Path;
use std::process::{Command, Stdio};

use mallorn_sabotage::Sabotage;

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
    pub(crate) fn replay(scenario: Scenario, seed: u64, sabotage: Option<Sabotage>) -> Self {
        Self::start(sabotage, |command| Self::seed(command, scenario, seed))
    }

    /// The same, with a trace.
    pub(crate) fn traced(scenario: Scenario, seed: u64, trace: &Path) -> Self {
        Self::start(None, |command| Self::seed(command, scenario, seed).arg("--trace").arg(trace))
    }

    /// The same, for a run in a file.
    pub(crate) fn of_file(file: &Path, sabotage: Option<Sabotage>) -> Self {
        Self::start(sabotage, |command| command.arg("--file").arg(file))
    }

    fn seed(command: &mut Command, scenario: Scenario, seed: u64) -> &mut Command {
        command.arg(seed.to_string()).args(["--scenario", scenario.name()])
    }

    fn start(sabotage: Option<Sabotage>, arguments: impl FnOnce(&mut Command) -> &mut Command) -> Self {
        let start = || {
            let mut command = Command::new(std::env::current_exe()?);
            arguments(command.arg("replay"));
            if let Some(sabotage) = sabotage {
                command.args(["--sabotage", sabotage.name()]);
            }
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

/// Starts a child for each item and hands over what it came to, in the items' order, until it was enough.
pub(crate) fn each<T>(
    items: impl Iterator<Item = T>,
    start: impl Fn(&T) -> Child,
    mut take: impl FnMut(&T, Output) -> ControlFlow<()>,
) {
    // Twice as many as processors: they are waited for in order, and behind a long one others go on.
    let at_once = 2 * std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let (mut running, mut items) = (VecDeque::new(), items);
    let mut goes_on = true;
    loop {
        while goes_on && running.len() < at_once {
            let Some(item) = items.next() else { break };
            let child = start(&item);
            running.push_back((item, child));
        }
        let Some((item, child)) = running.pop_front() else { return };
        let output = child.output();
        goes_on = goes_on && take(&item, output).is_continue();
    }
}
