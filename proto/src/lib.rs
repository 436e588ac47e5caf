//! Mallorn's wire contract: what crosses a process boundary.
//!
//! Owns: typed ids, the data-plane frame codec, the stored batch with its envelope and checksum, status codes, limits,
//! protocol versions, and the gRPC messages generated from `proto/mallorn/v1/*.proto`. Does not own: sockets, time,
//! state of any kind. Every decoder here takes bytes from outside the process: it never panics and never allocates more
//! than the bound in [`limits`] that it names.

#![forbid(unsafe_code)]

pub mod batch;
pub mod checksum;
pub mod durability;
pub mod frame;
pub mod id;
pub mod limits;
pub mod message;
pub mod range_set;
pub mod reason;
pub mod status;
pub mod version;

/// The gRPC messages and services of the control plane, generated from `proto/mallorn/v1/*.proto`.
pub mod v1 {
    #![allow(
        missing_docs,
        unreachable_pub,
        clippy::all,
        clippy::allow_attributes_without_reason,
        clippy::disallowed_types,
        clippy::too_many_lines,
        reason = "generated code; the documentation is in the .proto files"
    )]
    tonic::include_proto!("mallorn.v1");
}
