//! The shape of the source tree: what no compiler and no linter looks at.
//!
//! Each test names every place that breaks its rule. Length and parameters of functions are clippy's (`clippy.toml`).

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Most lines of a file, its tests apart.
const LINES_MAX: usize = 600;

/// Files that may be longer, and why.
const LONG: &[(&str, &str)] = &[];

/// Names that say nothing about what is inside.
const EMPTY_WORDS: [&str; 7] = ["common", "util", "utils", "helper", "helpers", "manager", "managers"];

/// Names with such a word that are terms of the field.
const TERMS: [&str; 1] = ["LifecycleManager"];

/// What is not finished, in pieces, so that this file does not name it.
const UNFINISHED: [&str; 5] = [
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("todo", "!("),
    concat!("unimplemented", "!("),
    concat!("dbg", "!("),
];

/// What makes a global.
const GLOBALS: [&str; 4] =
    [concat!("Lazy", "Lock"), concat!("Once", "Lock"), concat!("lazy", "_static"), concat!("static", " mut ")];

/// What a core may depend on: the contract, the derive of its error texts, and what its tests break on purpose.
const CORE_DEPENDENCIES: [&str; 3] = ["mallorn-proto", "mallorn-sabotage", "thiserror"];

/// What reaches out of a core. Modules of `std` are imported one by one, so that they are seen here.
const OUTSIDE: [&str; 11] = [
    "std::fs",
    "std::net",
    "std::env",
    "std::process",
    "std::thread",
    "std::time::Instant",
    "std::{",
    "SystemTime",
    "tokio",
    "bytes::",
    "rand::",
];

/// Who may depend on whom among our crates; nobody stands before what it depends on.
const DIRECTION: [(&str, &[&str]); 15] = [
    ("mallorn-sabotage", &[]),
    ("mallorn-proto", &[]),
    ("mallorn-runtime", &["mallorn-proto"]),
    ("mallorn-master-core", &CORE),
    ("mallorn-worker-core", &CORE),
    ("mallorn-client-core", &CORE),
    ("mallorn-master", &["mallorn-proto", "mallorn-runtime", "mallorn-master-core"]),
    ("mallorn-worker", &["mallorn-proto", "mallorn-sabotage", "mallorn-runtime", "mallorn-worker-core"]),
    ("mallorn-client", &["mallorn-proto", "mallorn-sabotage", "mallorn-runtime", "mallorn-client-core"]),
    ("mallorn", &SHELLS),
    ("mallorn-bench", &BENCH),
    ("mallorn-oracle", &[]),
    ("mallorn-nemesis", &NEMESIS),
    ("mallorn-sim", &SIM),
    ("mallorn-fuzz", &FUZZ),
];

const CORE: [&str; 2] = ["mallorn-proto", "mallorn-sabotage"];

/// It feeds every decoder, wherever that is.
const FUZZ: [&str; 6] =
    ["mallorn-proto", "mallorn-runtime", "mallorn-master", "mallorn-worker", "mallorn-client", "mallorn-worker-core"];

/// It drives the client, and measures the pure parts alone.
const BENCH: [&str; 6] = [
    "mallorn-proto",
    "mallorn-runtime",
    "mallorn-client",
    "mallorn-master-core",
    "mallorn-worker-core",
    "mallorn-client-core",
];

/// It runs real processes, and the driver and clients itself.
const NEMESIS: [&str; 4] = ["mallorn-proto", "mallorn-runtime", "mallorn-client", "mallorn-oracle"];

/// It runs everything in one process.
const SIM: [&str; 7] = [
    "mallorn-proto",
    "mallorn-sabotage",
    "mallorn-runtime",
    "mallorn-master",
    "mallorn-worker",
    "mallorn-client",
    "mallorn-oracle",
];

const SHELLS: [&str; 5] = ["mallorn-proto", "mallorn-runtime", "mallorn-master", "mallorn-worker", "mallorn-client"];

/// What tests may depend on beside that: a client's shuffle through a whole cluster.
const DIRECTION_OF_TESTS: [(&str, &[&str]); 1] = [("mallorn-client", &["mallorn-master", "mallorn-worker"])];

/// A file of the tree.
struct File {
    /// From the root, with `/`.
    path: String,
    text: String,
}

impl File {
    /// Whether there is nothing but tests in it.
    fn is_test(&self) -> bool {
        self.path.split('/').any(|part| part == "tests" || part == "tests.rs")
    }

    /// The lines before the module of tests at its end.
    fn production(&self) -> impl Iterator<Item = &str> {
        let lines: Vec<&str> = self.text.lines().collect();
        let is_tests = |at: &usize| {
            let after = lines[at + 1..].iter().find(|line| !line.starts_with("#["));
            lines[*at] == "#[cfg(test)]" && after.is_some_and(|line| line.contains("mod "))
        };
        let end = (0..lines.len()).find(is_tests).unwrap_or(lines.len());
        lines.into_iter().take(end)
    }

    /// The parts of its path, with the modules that are written out inside and the types.
    fn names(&self) -> Vec<&str> {
        let path = self.path.strip_suffix(".rs").unwrap_or(&self.path).split('/');
        let declared = self.text.lines().filter_map(|line| {
            let mut words = line.split(|c: char| !(c.is_alphanumeric() || c == '_')).filter(|word| !word.is_empty());
            let kind = words.find(|word| !matches!(*word, "pub" | "crate" | "super" | "in"))?;
            matches!(kind, "mod" | "struct" | "enum" | "trait" | "type").then(|| words.next())?
        });
        path.chain(declared).collect()
    }
}

/// A manifest.
struct Manifest {
    path: String,
    crate_name: String,
    table: toml::Table,
}

impl Manifest {
    fn is_core(&self) -> bool {
        self.crate_name.ends_with("-core")
    }

    /// The dependencies in this table and in those of single platforms.
    fn dependencies(&self, kind: &str) -> BTreeSet<&str> {
        let platforms = self.table.get("target").and_then(toml::Value::as_table).into_iter().flatten();
        let tables = platforms.filter_map(|(_, platform)| platform.as_table()).chain([&self.table]);
        let listed = tables.filter_map(|table| table.get(kind)?.as_table());
        listed.flat_map(toml::Table::keys).map(String::as_str).collect()
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the root's folder").to_owned()
}

/// All files of the tree with this ending; what was built and what is hidden is passed over.
fn files(ending: &str) -> Vec<File> {
    let (root, mut found) = (root(), Vec::new());
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("the tree can be read") {
            let path = entry.expect("the tree can be read").path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if path.is_dir() {
                if name != "target" && !name.starts_with('.') {
                    folders.push(path);
                }
            } else if name.ends_with(ending) {
                let text = fs::read_to_string(&path).expect("the tree can be read");
                let parts = path.strip_prefix(&root).expect("found below the root").iter();
                let parts: Vec<_> = parts.filter_map(|part| part.to_str()).collect();
                found.push(File { path: parts.join("/"), text });
            }
        }
    }
    assert!(!found.is_empty(), "no {ending} below {}", root.display());
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

/// Our crates; the roots of workspaces are none.
fn manifests() -> Vec<Manifest> {
    let parse = |file: File| {
        let table: toml::Table = file.text.parse().expect("cargo has read it already");
        let crate_name = table.get("package")?.get("name")?.as_str()?.to_owned();
        Some(Manifest { path: file.path, crate_name, table })
    };
    files("Cargo.toml").into_iter().filter_map(parse).collect()
}

/// The lines that are no comments and hold one of these, as `path:line: what`.
fn lines_with(file: &File, forbidden: &[&str]) -> Vec<String> {
    let lines = (1..).zip(file.text.lines()).filter(|(_, line)| !line.trim_start().starts_with("//"));
    let found = lines.flat_map(|(at, line)| {
        let found = forbidden.iter().filter(move |forbidden| line.contains(**forbidden));
        found.map(move |found| format!("{}:{at}: {found}", file.path))
    });
    found.collect()
}

#[track_caller]
fn assert_none(broken: impl IntoIterator<Item = String>, rule: &str) {
    let broken: Vec<String> = broken.into_iter().collect();
    assert!(broken.is_empty(), "{rule}\n  {}\n", broken.join("\n  "));
}

#[test]
fn files_are_short() {
    let long = files(".rs").into_iter().filter(|file| !file.is_test()).filter_map(|file| {
        let lines = file.production().count();
        let is_listed = LONG.iter().any(|(path, _)| *path == file.path);
        match (lines > LINES_MAX, is_listed) {
            (true, false) => Some(format!("{}: {lines} lines", file.path)),
            (false, true) => Some(format!("{}: {lines} lines; take it off the list", file.path)),
            (true, true) | (false, false) => None,
        }
    });
    assert_none(
        long,
        &format!("a file has at most {LINES_MAX} lines, tests apart: divide it, or list it with a reason"),
    );
}

#[test]
fn modules_say_what_they_own() {
    let silent = files(".rs").into_iter().filter(|file| {
        let is_unit_test = file.path.ends_with("/tests.rs");
        !is_unit_test && !file.text.starts_with("//! ")
    });
    assert_none(silent.map(|file| file.path), "a module begins with `//!`: what it owns and does not own");
}

#[test]
fn names_say_what_is_inside() {
    let is_empty = |name: &str| {
        let words = name.split('_').map(str::to_lowercase);
        let of_type =
            EMPTY_WORDS.iter().any(|word| name.to_lowercase().ends_with(word) && name.contains(char::is_uppercase));
        let of_module = words.into_iter().any(|word| EMPTY_WORDS.contains(&word.as_str()));
        (of_type || of_module) && !TERMS.contains(&name)
    };
    let files = files(".rs");
    let broken = files.iter().flat_map(|file| {
        file.names().into_iter().filter(|name| is_empty(name)).map(|name| format!("{}: {name}", file.path))
    });
    assert_none(broken, "a module or type is named for what it does");
}

#[test]
fn nothing_is_unfinished() {
    let broken = files(".rs").into_iter().flat_map(|file| {
        let found = (1..).zip(file.text.lines()).flat_map(|(at, line)| {
            let found = UNFINISHED.iter().filter(move |word| line.contains(**word));
            found.map(move |word| (at, *word))
        });
        found.map(|(at, word)| format!("{}:{at}: {word}", file.path)).collect::<Vec<_>>()
    });
    assert_none(broken, "what is not done is an issue, not a remark");
}

#[test]
fn there_are_no_globals() {
    let broken = files(".rs").into_iter().flat_map(|file| lines_with(&file, &GLOBALS));
    assert_none(broken, "state is passed in");
}

#[test]
fn cores_are_pure() {
    let (manifests, sources) = (manifests(), files(".rs"));
    let cores: Vec<&Manifest> = manifests.iter().filter(|manifest| manifest.is_core()).collect();
    assert_eq!(cores.len(), 3, "the cores of master, worker and client");
    let mut broken = Vec::new();
    for core in cores {
        let taken = core.dependencies("dependencies");
        let beyond = taken.into_iter().filter(|name| !CORE_DEPENDENCIES.contains(name));
        broken.extend(beyond.map(|name| format!("{}: {name}", core.path)));
        let folder = core.path.strip_suffix("Cargo.toml").expect("a manifest's name");
        let within: Vec<&File> = sources.iter().filter(|file| file.path.starts_with(folder)).collect();
        broken.extend(within.iter().flat_map(|file| lines_with(file, &OUTSIDE)));
        let is_safe = |file: &&&File| file.text.lines().any(|line| line == "#![forbid(unsafe_code)]");
        if within.iter().filter(|file| file.path.ends_with("/src/lib.rs")).filter(is_safe).count() != 1 {
            broken.push(format!("{folder}src/lib.rs: it does not forbid unsafe code"));
        }
    }
    assert_none(broken, "a core decides, its shell acts: time, bytes and chance come in as arguments");
}

#[test]
fn dependencies_point_one_way() {
    let allowed = |table: &[(&'static str, &'static [&'static str])], name: &str| {
        table.iter().find(|(of, _)| *of == name).map(|(_, allowed)| *allowed)
    };
    let mut broken = Vec::new();
    for manifest in manifests() {
        let Manifest { path, crate_name, .. } = &manifest;
        let Some(of_all) = allowed(&DIRECTION, crate_name) else {
            broken.push(format!("{path}: `{crate_name}` has no place in the order yet; give it one in this test"));
            continue;
        };
        let of_tests = allowed(&DIRECTION_OF_TESTS, crate_name).unwrap_or_default();
        for (kind, more) in [("dependencies", &[][..]), ("build-dependencies", &[]), ("dev-dependencies", of_tests)] {
            let ours = manifest.dependencies(kind).into_iter().filter(|name| name.starts_with("mallorn"));
            let beyond = ours.filter(|name| !of_all.contains(name) && !more.contains(name));
            broken.extend(beyond.map(|name| format!("{path}: {name} in [{kind}]")));
        }
    }
    assert_none(broken, "proto <- core <- shell <- cli, sim, benches; runtime is used by shells only");
}

#[test]
fn every_verb_has_its_files() {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md can be read");
    let table = text.lines().skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|'));
    // Between backticks stands every other piece; those with a slash are paths.
    let named = table.flat_map(|row| row.split('`').skip(1).step_by(2)).filter(|name| name.contains('/'));
    let named: Vec<&str> = named.collect();
    assert!(named.len() > 10, "the first table of ARCHITECTURE.md names the files of each verb, not just {named:?}");
    let gone = named.into_iter().filter(|name| {
        let path = root().join(name);
        if name.ends_with('/') { !path.is_dir() } else { !path.is_file() }
    });
    assert_none(gone.map(str::to_owned), "ARCHITECTURE.md opens with files that are not there");
}
