//! Where values come from, and what can be wrong with them.
//!
//! Owns the words of the messages: each names the place, the setting, and what would be accepted.

use std::fmt;
use std::path::PathBuf;

use thiserror::Error;

use super::environment::variable_name;
use super::section::{Given, Refusal};
use crate::disk::ReadError;

/// Longest part of a given value or key that a message repeats, in characters.
const SHOWN_CHARS_MAX: usize = 80;

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody gave one.
    Default,
    /// A line of a TOML file.
    File {
        /// The file's path as it was given.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
    },
    /// An environment variable.
    Environment {
        /// Its name as it was set.
        name: String,
    },
    /// A command line flag.
    Flag {
        /// The flag: `--memory`.
        name: String,
    },
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::File { path, line } => write!(f, "{}:{line}", path.display()),
            Origin::Environment { name } => write!(f, "environment {name}"),
            Origin::Flag { name } => write!(f, "flag {name}"),
        }
    }
}

/// One thing that is wrong with the settings given.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Problem {
    /// No setting has this key.
    #[error("{origin}: unknown setting `{key}`{}", meant(origin, nearest.as_deref()))]
    Unknown {
        /// The key given.
        key: String,
        /// Where.
        origin: Origin,
        /// The key that was probably meant.
        nearest: Option<String>,
    },
    /// A value where a section stands.
    #[error("{origin}: `{key}` is a section, not a setting: name a setting in it")]
    IsSection {
        /// The section's key.
        key: String,
        /// Where.
        origin: Origin,
    },
    /// Something below a setting, or a table in place of its value.
    #[error("{origin}: `{key}` is a setting, not a section: it takes {form}")]
    IsSetting {
        /// The setting's key.
        key: String,
        /// Where.
        origin: Origin,
        /// What it takes.
        form: String,
    },
    /// A value that can't be read as what the setting is.
    #[error("{origin}: `{key}` = {given}: {why}; expected {form}")]
    Value {
        /// The setting's key.
        key: String,
        /// Where.
        origin: Origin,
        /// The value as TOML writes it, cut short.
        given: String,
        /// What is wrong with it.
        why: String,
        /// What would be accepted.
        form: String,
    },
    /// A value that a section's rules refuse.
    #[error("{origin}: `{key}` = {given}: {why}")]
    Invalid {
        /// The setting's key.
        key: String,
        /// Where its value came from.
        origin: Origin,
        /// The value as TOML writes it, cut short.
        given: String,
        /// The rule: "must be at least 16MiB".
        why: String,
    },
    /// Two environment variables whose names differ in case only.
    #[error("environment {first} and {second} both set `{key}`: keep one")]
    Twice {
        /// The setting's key.
        key: String,
        /// One name.
        first: String,
        /// The other.
        second: String,
    },
    /// An environment variable or flag whose text is not UTF-8.
    #[error("{origin}: the value is not valid UTF-8")]
    NotText {
        /// Which.
        origin: Origin,
    },
    /// A flag that should hold `key=value` and does not.
    #[error("flag {flag}: `{given}` is not of the form section.name=value")]
    NotAssignment {
        /// The flag's name.
        flag: String,
        /// What was given, cut short.
        given: String,
    },
}

impl Problem {
    pub(super) fn unknown(key: &str, origin: Origin, nearest: Option<&str>) -> Self {
        Problem::Unknown { key: cut(key), origin, nearest: nearest.map(str::to_owned) }
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let Refusal { key, origin, given, why, form } = refusal;
        if let Given::Typed(toml::Value::Table(_)) = given {
            return Problem::IsSetting { key, origin, form: form.to_string() };
        }
        Problem::Value { key, origin, given: shown(&given), why: why.to_string(), form: form.to_string() }
    }
}

/// The suggestion, in the words of the place it is meant for.
fn meant(origin: &Origin, nearest: Option<&str>) -> String {
    match (nearest, origin) {
        (None, _) => String::new(),
        (Some(key), Origin::Environment { .. }) => format!("; did you mean {}?", variable_name(key)),
        (Some(key), Origin::Default | Origin::File { .. } | Origin::Flag { .. }) => {
            format!("; did you mean `{key}`?")
        }
    }
}

fn shown(given: &Given) -> String {
    match given {
        Given::Typed(value) => cut(&value.to_string()),
        Given::Text(text) => cut(&format!("{text:?}")),
    }
}

pub(super) fn cut(text: &str) -> String {
    match text.char_indices().nth(SHOWN_CHARS_MAX) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}...", &text[..end]),
    }
}

/// Why no settings could be loaded.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file could not be read, or is absurdly large.
    #[error("configuration file: {0}")]
    File(#[from] ReadError),
    /// The file is not UTF-8.
    #[error("configuration file {path}: not valid UTF-8 after byte {valid_bytes}", path = path.display())]
    Encoding {
        /// The file.
        path: PathBuf,
        /// How many bytes from the start are valid.
        valid_bytes: usize,
    },
    /// The file is not TOML.
    #[error("{path}:{line}:{column}: {message}", path = path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// In characters, counted from 1.
        column: usize,
        /// The TOML parser's words.
        message: String,
    },
    /// Settings that are unknown or refused, all that were found.
    #[error("{}", list(problems, *unlisted))]
    Settings {
        /// The first of them, in the order file, environment, flags, rules.
        problems: Vec<Problem>,
        /// How many more there are.
        unlisted: usize,
    },
}

fn list(problems: &[Problem], unlisted: usize) -> String {
    let mut lines: Vec<String> = problems.iter().map(Problem::to_string).collect();
    if unlisted > 0 {
        lines.push(format!("and {unlisted} more"));
    }
    lines.join("\n")
}
