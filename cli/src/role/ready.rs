//! What a process says on standard output once it serves: text for people, one JSON object for programs.

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// What kind of process it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Role {
    /// A master.
    Master,
    /// A worker.
    Worker,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Master => "master",
            Self::Worker => "worker",
        })
    }
}

/// A role that serves, with the addresses that were bound.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ready {
    /// The role.
    pub(crate) role: Role,
    /// Where gRPC is served.
    pub(crate) control: SocketAddr,
    /// Where pushes and fetches are served.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) data: Option<SocketAddr>,
    /// Where metrics and probes are served.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) admin: Option<SocketAddr>,
}

impl fmt::Display for Ready {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ready on {}", self.role, self.control)?;
        if let Some(data) = self.data {
            write!(f, ", data on {data}")?;
        }
        if let Some(admin) = self.admin {
            write!(f, ", metrics and probes on {admin}")?;
        }
        Ok(())
    }
}

impl Ready {
    /// Prints it, as text on a terminal, as a line of JSON otherwise. That nobody reads it is no failure of the role.
    pub(crate) fn print(&self) {
        let mut out = io::stdout().lock();
        let line = if out.is_terminal() { self.to_string() } else { self.to_json() };
        let _ = writeln!(out, "{line}").and_then(|()| out.flush());
    }

    fn to_json(&self) -> String {
        serde_json::to_string(self).expect("a few addresses are JSON")
    }

    /// Reads the line that another process has printed.
    pub(crate) fn parse(line: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_reads_what_was_printed() {
        let address = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        let worker = Ready { role: Role::Worker, control: address(1), data: Some(address(2)), admin: None };
        assert_eq!(worker.to_json(), r#"{"role":"worker","control":"127.0.0.1:1","data":"127.0.0.1:2"}"#);
        assert_eq!(Ready::parse(&worker.to_json()).unwrap(), worker);
        assert_eq!(worker.to_string(), "worker ready on 127.0.0.1:1, data on 127.0.0.1:2");
        assert!(Ready::parse("worker ready").is_err());
    }
}
