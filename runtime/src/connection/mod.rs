//! The framed connection: lives here once, for clients, replication and doors.
//!
//! Owns: cutting a byte stream into frames ([`Inbound`]), coalesced and vectored writing ([`Outbound`]), correlation of
//! answers with requests, the in-flight window and deadlines ([`Connection`]), and pooled buffers for answers ([`Pool`]).
//! Does not own: what a message means.
//!
//! Bounds: a frame's header and body (checked before anything is allocated for it), requests in flight, frames queued,
//! and the pace at which a body that was begun must arrive and an answer be taken: 1 MiB/s over 10 s. A connection at rest
//! is never closed, and holds no buffer.

mod call;
mod inbound;
mod outbound;
mod pace;
mod pool;

pub use call::{Answer, Begun, CallError, Connection, Limits, OpenError};
pub use inbound::{BufferSource, Inbound, InboundError, Incoming};
pub use outbound::{Frame, Outbound};
pub use pool::{Buffer, Pool};

// Over the machine's own loopback, which the simulation replaces.
#[cfg(test)]
#[cfg(not(feature = "sim"))]
mod tests;
