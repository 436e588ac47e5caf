//! `mallorn demo`: shuffles real data through real processes and checks the answer.

pub(crate) mod workload;
