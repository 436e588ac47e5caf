//! Runs the corpus, and what the tests of the protocol have written down, through the targets: without libFuzzer, on any
//! machine.
#![allow(clippy::expect_used, reason = "a failure here is the test's")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use mallorn_fuzz::{TARGETS, Target, control};

fn files(folder: &Path) -> Vec<PathBuf> {
    let listed = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<_> = listed.map(|entry| entry.expect("a folder can be listed").path()).collect();
    files.sort();
    files
}

#[expect(clippy::disallowed_methods, reason = "a test reads the files beside it, not a worker's disk")]
fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")
}

/// A panic in a task or a thread of its own does not reach the target, but counts as well.
fn panics() -> Arc<AtomicUsize> {
    let count = Arc::new(AtomicUsize::new(0));
    let (counter, says) = (Arc::clone(&count), std::panic::take_hook());
    std::panic::set_hook(Box::new(move |panic| {
        counter.fetch_add(1, Ordering::SeqCst);
        says(panic);
    }));
    count
}

fn run(target: Target, input: &[u8], panics: &AtomicUsize, name: &str) {
    let ran = std::panic::catch_unwind(|| target(input));
    assert!(ran.is_ok() && panics.load(Ordering::SeqCst) == 0, "the input {name}");
}

/// One test, for there is one hook of panics.
#[test]
fn every_input_keeps_the_promises() {
    let panics = panics();
    corpus_keeps_them(&panics);
    golden_bytes_keep_them(&panics);
}

fn corpus_keeps_them(panics: &AtomicUsize) {
    let mut folders: Vec<_> = files(&corpus());
    for (name, target) in TARGETS {
        let folder = corpus().join(name);
        folders.retain(|other| *other != folder);
        let inputs = files(&folder);
        assert!(!inputs.is_empty(), "{name} has no corpus");
        for input in inputs {
            run(target, &read(&input), panics, &input.display().to_string());
        }
    }
    assert!(folders.is_empty(), "{folders:?} belong to no target");
}

/// Behind each first byte, by which the pure targets choose what they take the rest for.
fn golden_bytes_keep_them(panics: &AtomicUsize) {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../proto/golden/v1");
    for path in files(&golden) {
        let bytes = read(&path);
        for (name, target) in TARGETS {
            if !["messages", "batches", "payloads", "control", "records"].contains(&name) {
                continue;
            }
            let firsts = if name == "control" { 0..=control::MESSAGES_COUNT } else { 0..=255 };
            for first in firsts {
                let input = [&[first][..], &bytes].concat();
                run(target, &input, panics, &format!("{first} and {} for {name}", path.display()));
            }
        }
    }
}
