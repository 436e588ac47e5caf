//! What operators do to a running cluster: restart it worker by worker, take a worker out.

use super::Fault;

pub(super) const ALL: &[Fault] = &[];
