//! The first frames of a connection: who calls, and what was agreed.
//!
//! A hello is read before a version is agreed on: `oldest` and `newest` stay its first fields, those that are here stay as
//! they are, and a later version puts new ones at the end, where this one ignores them.

use bytes::{Buf, BufMut};

use super::MessageError;
use super::field::{finished, get_bytes, get_text, need, put_bytes, within};
use crate::id::{Application, Incarnation, Instance, WorkerId};
use crate::limits;
use crate::version;

/// What a connection is for: each kind of traffic has connections of its own, so that a paused push never stops a reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Role {
    /// Pushes of map tasks.
    Push = 0,
    /// Reads.
    Fetch = 1,
    /// Batches that another worker forwards: as the primary of a location, or because it leaves. Its application is empty.
    Replicate = 2,
}

impl Role {
    /// The name used in logs and metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Push => "push",
            Self::Fetch => "fetch",
            Self::Replicate => "replicate",
        }
    }
}

/// The first frame of a connection: who calls, and whom it believes to have reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Oldest protocol version that the caller speaks.
    pub oldest: u16,
    /// Newest protocol version that the caller speaks.
    pub newest: u16,
    /// What the connection is for.
    pub role: Role,
    /// The worker that the caller wants.
    pub worker: WorkerId,
    /// The incarnation that the caller wants; zero is any, which only a fetch connection may say.
    pub incarnation: Incarnation,
    /// The caller's application.
    pub application: Application,
    /// The cluster that the caller wants.
    pub cluster: String,
    /// Room for a credential; empty where none is asked for.
    pub credential: Vec<u8>,
}

impl Hello {
    /// Writes the header.
    ///
    /// # Errors
    /// `TooLong` when a text is over its bound.
    pub fn encode(&self, out: &mut impl BufMut) -> Result<(), MessageError> {
        within("cluster", self.cluster.len(), limits::CLUSTER_BYTES_MAX)?;
        within("application", self.application.name.len(), limits::APPLICATION_BYTES_MAX)?;
        within("credential", self.credential.len(), limits::CREDENTIAL_BYTES_MAX)?;
        out.put_u16(self.oldest);
        out.put_u16(self.newest);
        out.put_u8(self.role as u8);
        out.put_u128(self.worker.0);
        out.put_u64(self.incarnation.0);
        out.put_u64(self.application.instance.0);
        put_bytes(out, self.cluster.as_bytes());
        put_bytes(out, self.application.name.as_bytes());
        put_bytes(out, &self.credential);
        Ok(())
    }

    /// Reads the header. Of a caller that also speaks a version newer than ours, what follows the fields is ignored.
    ///
    /// # Errors
    /// `Short`, `Trailing`, `TooLong`, `Text` or `Value`; `Versions` or `NewerRole` where the reason is that the caller is
    /// of another version.
    pub fn decode(mut header: &[u8]) -> Result<Self, MessageError> {
        let from = &mut header;
        need(from, 4)?;
        let (oldest, newest) = (from.get_u16(), from.get_u16());
        match Self::after_versions(from, oldest, newest) {
            Err(_) if version::agree(oldest, newest).is_none() => Err(MessageError::Versions { oldest, newest }),
            read => read,
        }
    }

    fn after_versions(from: &mut &[u8], oldest: u16, newest: u16) -> Result<Self, MessageError> {
        need(from, 33)?;
        let role = match from.get_u8() {
            0 => Role::Push,
            1 => Role::Fetch,
            2 => Role::Replicate,
            role if newest > version::CURRENT => return Err(MessageError::NewerRole { role, newest }),
            value => return Err(MessageError::Value { field: "role", value: u64::from(value) }),
        };
        let worker = WorkerId(from.get_u128());
        let incarnation = Incarnation(from.get_u64());
        let instance = Instance(from.get_u64());
        let cluster = get_text(from, "cluster", limits::CLUSTER_BYTES_MAX)?;
        let name = get_text(from, "application", limits::APPLICATION_BYTES_MAX)?;
        let credential = get_bytes(from, "credential", limits::CREDENTIAL_BYTES_MAX)?.to_vec();
        if newest <= version::CURRENT {
            finished(from)?;
        }
        let application = Application { name, instance };
        Ok(Self { oldest, newest, role, worker, incarnation, application, cluster, credential })
    }
}

/// The answer to a [`Hello`] that is accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Welcome {
    /// The version that the connection speaks from here on.
    pub version: u16,
    /// Largest body that the cluster takes, in bytes; at most [`limits::BODY_BYTES_MAX`].
    pub body_limit: u32,
    /// The worker's incarnation.
    pub incarnation: Incarnation,
}

impl Welcome {
    /// Writes the header.
    pub fn encode(&self, out: &mut impl BufMut) {
        out.put_u16(self.version);
        out.put_u32(self.body_limit);
        out.put_u64(self.incarnation.0);
    }

    /// Reads the header. In a version newer than ours, what follows the fields is ignored: the caller, who did not offer
    /// that version, refuses it by its name.
    ///
    /// # Errors
    /// `Short`, `Trailing`, or `Value` for a body limit that no configuration may allow.
    pub fn decode(mut header: &[u8]) -> Result<Self, MessageError> {
        let from = &mut header;
        need(from, 14)?;
        let welcome =
            Self { version: from.get_u16(), body_limit: from.get_u32(), incarnation: Incarnation(from.get_u64()) };
        if welcome.version <= version::CURRENT {
            finished(from)?;
        }
        if welcome.body_limit as usize > limits::BODY_BYTES_MAX {
            return Err(MessageError::Value { field: "body limit", value: u64::from(welcome.body_limit) });
        }
        Ok(welcome)
    }
}
