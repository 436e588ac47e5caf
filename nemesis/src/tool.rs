//! Programs of the system that faults are made with: `ip`, `nft`, `mount` and the like.

use std::io::Write as _;
use std::process::{Command, Stdio};

use mallorn_runtime::task;

use crate::failure::Failure;

/// Runs a program to its end; what it printed.
pub(crate) async fn run(arguments: &[&str]) -> Result<String, Failure> {
    fed(arguments, "").await
}

/// Runs a program to its end with this as its standard input.
pub(crate) async fn fed(arguments: &[&str], input: &str) -> Result<String, Failure> {
    let arguments: Vec<String> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
    let input = input.to_owned();
    let ran = task::blocking(move || run_now(&arguments, &input)).await;
    ran.unwrap_or_else(|error| Err(Failure::Setup(error.to_string())))
}

/// Runs a program from where nothing can be awaited, such as clean-up; whether it succeeded.
pub(crate) fn succeeds(arguments: &[&str]) -> bool {
    let arguments: Vec<String> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
    run_now(&arguments, "").is_ok()
}

/// What a program prints, nothing where it fails.
pub(crate) fn output(arguments: &[&str]) -> String {
    let arguments: Vec<String> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
    run_now(&arguments, "").unwrap_or_default()
}

fn run_now(arguments: &[String], input: &str) -> Result<String, Failure> {
    let failed = |text: String| Failure::Setup(format!("`{}`: {text}", arguments.join(" ")));
    let (program, rest) = arguments.split_first().ok_or_else(|| failed("no program".to_owned()))?;
    let mut command = Command::new(program);
    command.args(rest).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| failed(error.to_string()))?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that does not read its input says why when it ends.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(failed(format!("{} {}", output.status, String::from_utf8_lossy(&output.stderr).trim())))
}
