//! Settings in environment variables.
//!
//! Owns how keys and variable names map to each other and which variables are none of ours. The only place that reads
//! the process environment.

use std::collections::BTreeMap;
use std::ffi::OsString;

use super::error::{Origin, Problem};
use super::section::{Given, Layer};

/// What the names of our variables begin with.
pub const PREFIX: &str = "MALLORN_";

/// The variable that names the configuration file where no flag does.
pub const FILE_VARIABLE: &str = "MALLORN_CONFIG";

/// The variable that sets `key`: `MALLORN_WORKER__MEMORY` for `worker.memory`.
pub fn variable_name(key: &str) -> String {
    format!("{PREFIX}{}", key.to_uppercase().replace('.', "__"))
}

/// The variables meant for us out of all that are set.
#[derive(Clone, Debug, Default)]
pub(super) struct Variables {
    /// Key to (name as set, text).
    settings: BTreeMap<String, (String, String)>,
    pub(super) file: Option<String>,
    pub(super) problems: Vec<Problem>,
}

impl Variables {
    pub(super) fn of_process() -> Self {
        let mut variables = Self::default();
        for (name, text) in std::env::vars_os() {
            variables.add_raw(name, text);
        }
        variables
    }

    /// A variable as the process has it. A name that is not text can't be ours; a value must be.
    fn add_raw(&mut self, name: OsString, text: OsString) {
        let Ok(name) = name.into_string() else { return };
        match text.into_string() {
            Ok(text) => self.add(name, text),
            Err(_) if own_part(&name).is_some() => {
                self.problems.push(Problem::NotText { origin: Origin::Environment { name } });
            }
            Err(_) => {}
        }
    }

    pub(super) fn add(&mut self, name: String, text: String) {
        let Some(part) = own_part(&name) else { return };
        if name.eq_ignore_ascii_case(FILE_VARIABLE) {
            self.file = Some(text);
            return;
        }
        if is_service_link(part, &text) {
            return;
        }
        let key = part.to_lowercase().replace("__", ".");
        if let Some((first, _)) = self.settings.get(&key) {
            self.problems.push(Problem::Twice { key, first: first.clone(), second: name });
            return;
        }
        self.settings.insert(key, (name, text));
    }

    pub(super) fn layer(self) -> Layer {
        let values = self.settings.into_iter().map(|(key, (name, text))| {
            let origin = Origin::Environment { name };
            (key, (Given::Text(text), origin))
        });
        Layer { values: values.collect(), ..Layer::default() }
    }
}

/// What follows the prefix, if the name has it, in any case.
fn own_part(name: &str) -> Option<&str> {
    let (prefix, part) = name.split_at_checked(PREFIX.len())?;
    prefix.eq_ignore_ascii_case(PREFIX).then_some(part)
}

/// Whether this is a variable by which Kubernetes tells containers about a service whose name starts with ours
/// (`mallorn-master` becomes `MALLORN_MASTER_SERVICE_HOST` and half a dozen more). Nobody set these to configure us.
fn is_service_link(part: &str, text: &str) -> bool {
    let part = part.to_ascii_uppercase();
    let is_port_part = |(_, rest): (&str, &str)| {
        let mut words = rest.split('_');
        words.next().is_some_and(|port| port.parse::<u16>().is_ok())
            && matches!(words.next(), Some("TCP" | "UDP" | "SCTP"))
    };
    !part.contains("__")
        && (part.ends_with("_SERVICE_HOST")
            || part.contains("_SERVICE_PORT")
            || (part.ends_with("_PORT") && text.contains("://"))
            || part.split_once("_PORT_").is_some_and(is_port_part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn service_links_of_kubernetes_are_not_settings() {
        let mut variables = Variables::default();
        for (name, text) in [
            ("MALLORN_MASTER_SERVICE_HOST", "10.0.0.7"),
            ("MALLORN_MASTER_SERVICE_PORT", "9000"),
            ("MALLORN_MASTER_SERVICE_PORT_GRPC", "9000"),
            ("MALLORN_MASTER_PORT", "tcp://10.0.0.7:9000"),
            ("MALLORN_MASTER_PORT_9000_TCP", "tcp://10.0.0.7:9000"),
            ("MALLORN_MASTER_PORT_9000_TCP_ADDR", "10.0.0.7"),
            ("HOME", "/root"),
        ] {
            variables.add(name.to_owned(), text.to_owned());
        }
        assert!(variables.clone().layer().values.is_empty());
        variables.add("MALLORN_MASTER_PORT".to_owned(), "9000".to_owned());
        assert_eq!(variables.layer().values.len(), 1, "a plain number there is somebody's slip and must be reported");
    }

    #[cfg(unix)]
    #[test]
    fn a_value_that_is_not_text_is_a_problem_only_if_ours() {
        use std::os::unix::ffi::OsStringExt;
        let mut variables = Variables::default();
        variables.add_raw(OsString::from("PATH"), OsString::from_vec(vec![0xff]));
        assert_eq!(variables.problems, []);
        variables.add_raw(OsString::from("mallorn_worker__name"), OsString::from_vec(vec![0xff]));
        let origin = Origin::Environment { name: "mallorn_worker__name".to_owned() };
        assert_eq!(variables.problems, [Problem::NotText { origin }]);
    }
}
