//! The data port: accepts connections, hears their hello, and hands each to its role's loop.
//!
//! Owns the bound on connections, the hello, and how a connection that misbehaves is ended: with a failure it can read
//! where it spoke frames, and in any case with a metric and a log line. Does not own what is pushed or fetched.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use mallorn_proto::frame::FrameError;
use mallorn_proto::id::{Incarnation, Instance};
use mallorn_proto::message::{Failure, Hello, Kind, MessageError, Role, Welcome};
use mallorn_proto::status::Status;
use mallorn_proto::version;
use mallorn_runtime::clock::{self, Instant};
use mallorn_runtime::connection::{Inbound, InboundError, Incoming, Outbound};
use mallorn_runtime::net::{Listener, Stream};
use mallorn_runtime::task::{Shutdown, Tasks};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::fetch::{FetchConnection, Streams};
use crate::identity::Identity;
use crate::memory::arena::ReceiveBuffers;
use crate::memory::store::Store;
use crate::metrics::Refusal;
use crate::push::{Appender, PushConnection};
use crate::replicate::serve::ReplicateConnection;

/// How long a new connection may take to say hello.
const HELLO_WITHIN: Duration = Duration::from_secs(10);
/// How long a connection that was told of its failure is read on, so that the failure is not lost with a reset.
const LINGER: Duration = Duration::from_secs(1);
/// How long connections may finish what they are at once the shutdown is triggered.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(5);
/// How long to wait after the system refused a connection (out of file descriptors, mostly).
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);
/// A peer is complained of once in this long.
const COMPLAIN_EVERY: Duration = Duration::from_secs(10);
/// Peers whose last complaint is remembered.
const COMPLAINTS_MAX: usize = 1024;

/// Why a connection was ended by this side, or broke.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Ended {
    #[error(transparent)]
    Inbound(#[from] InboundError),
    #[error(transparent)]
    Message(#[from] MessageError),
    #[error("a {kind:?} does not belong on this connection")]
    Unexpected { kind: Kind },
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Why a hello is refused.
#[derive(Debug, thiserror::Error)]
enum HelloError {
    #[error(transparent)]
    Ended(#[from] Ended),
    #[error("the connection did not begin with a hello within {HELLO_WITHIN:?}")]
    TooSlow,
    #[error("the connection begins with message type {kind}, not with a hello")]
    NoHello { kind: u8 },
    #[error("this worker belongs to the cluster `{here}`, not to `{asked}`: check the `cluster` setting of both sides")]
    WrongCluster { asked: String, here: String },
    #[error("this is worker {here}, not {asked}: ask the master where that one is")]
    WrongWorker { asked: String, here: String },
    #[error("this worker's incarnation is {here}, not {asked}: ask the master for it again")]
    Fenced { asked: Incarnation, here: Incarnation },
    #[error("a worker that forwards names no application: a location is named by its handle alone")]
    NoApplication,
    #[error(
        "this worker speaks protocol versions {} to {}, the caller {oldest} to {newest}",
        version::OLDEST,
        version::CURRENT
    )]
    Version { oldest: u16, newest: u16 },
}

/// The data port's state.
pub(crate) struct Server {
    pub(crate) identity: Arc<Identity>,
    pub(crate) store: Arc<Store>,
    pub(crate) connections_max: usize,
    pub(crate) complaints: Complaints,
}

impl Server {
    /// Accepts connections until the shutdown is triggered; those in progress then get a moment to finish.
    pub(crate) async fn serve(self: Arc<Self>, listener: Listener, shutdown: Shutdown) {
        let room = Arc::new(Semaphore::new(self.connections_max));
        let mut tasks = Tasks::new();
        while let Some(accepted) = shutdown.or(listener.accept()).await {
            tasks.reap();
            match (accepted, Arc::clone(&room).try_acquire_owned()) {
                (Ok((stream, peer)), Ok(permit)) => {
                    tasks.spawn(Arc::clone(&self).connection(stream, peer, permit, shutdown.clone()));
                }
                (Ok((stream, peer)), Err(_)) => self.refuse_over_limit(stream, peer).await,
                (Err(error), _) => {
                    tracing::warn!(%error, "accept a data connection");
                    clock::sleep(ACCEPT_AGAIN).await;
                }
            }
        }
        if !tasks.join(SHUTDOWN_GRACE).await {
            tracing::warn!("abort data connections that did not finish in time");
        }
    }

    /// The answer fits the empty send buffer of a fresh connection, so writing it does not wait.
    async fn refuse_over_limit(&self, stream: Stream, peer: SocketAddr) {
        self.store.metrics.refused(Refusal::Limit);
        if self.complaints.may_complain(peer.ip(), clock::now()) {
            tracing::warn!(%peer, limit = self.connections_max, "refuse a data connection: as many are open as may be");
        }
        let (_, write) = stream.split();
        let text = format!("{} connections are open, no more are taken; try again later", self.connections_max);
        tell(&mut Outbound::new(write), Status::Busy, text).await;
    }

    async fn connection(
        self: Arc<Self>,
        stream: Stream,
        peer: SocketAddr,
        permit: OwnedSemaphorePermit,
        shutdown: Shutdown,
    ) {
        let (read, write) = stream.split();
        let mut outbound = Outbound::new(write);
        // Until the hello is heard no frame has a body.
        let mut inbound = Inbound::new(read, ReceiveBuffers(Arc::clone(&self.store.arena)), 0);
        let hello = clock::timeout(HELLO_WITHIN, self.shake_hands(&mut inbound, &mut outbound));
        match shutdown.or(hello).await.map(|heard| heard.unwrap_or(Err(HelloError::TooSlow))) {
            Some(Ok(Some(hello))) => self.serve_role(hello, peer, (inbound, outbound), &shutdown).await,
            Some(Ok(None)) | None => {}
            Some(Err(error)) => self.refuse_hello(error, peer, inbound, outbound).await,
        }
        drop(permit);
    }

    async fn serve_role(
        &self,
        hello: Hello,
        peer: SocketAddr,
        (mut inbound, mut outbound): (Inbound<ReceiveBuffers>, Outbound),
        shutdown: &Shutdown,
    ) {
        let _counted = self.store.metrics.connected(hello.role);
        tracing::debug!(%peer, role = hello.role.name(), application = %hello.application, "serve a connection");
        let store = &*self.store;
        let (ended, inbound) = match hello.role {
            Role::Push => {
                inbound.limit_bodies(self.identity.body_limit_bytes as usize);
                let appender = Appender { store, instance: hello.application.instance };
                let mut connection = PushConnection::new(appender, inbound, &mut outbound);
                (connection.serve(shutdown).await, connection.into_inbound())
            }
            Role::Fetch => {
                let streams = Streams::new(store, hello.application);
                let mut connection = FetchConnection { streams, inbound, outbound: &mut outbound };
                (connection.serve(shutdown).await, connection.inbound)
            }
            Role::Replicate => {
                inbound.limit_bodies(self.identity.body_limit_bytes as usize);
                let mut connection = ReplicateConnection { store, inbound, outbound: &mut outbound };
                (connection.serve(shutdown).await, connection.inbound)
            }
        };
        match ended {
            Ok(()) => outbound.close().await,
            Err(Ended::Io(error) | Ended::Inbound(InboundError::Io(error))) => {
                tracing::debug!(%peer, %error, "lose a data connection");
            }
            Err(error @ (Ended::Inbound(InboundError::Frame(_)) | Ended::Message(_) | Ended::Unexpected { .. })) => {
                let status = match error {
                    Ended::Inbound(InboundError::Frame(FrameError::Body { .. })) => Status::TooLarge,
                    _ => Status::Malformed,
                };
                self.complain(peer, Refusal::NotFrames, &error);
                tell(&mut outbound, status, error.to_string()).await;
                linger(inbound).await;
            }
        }
    }

    async fn shake_hands(
        &self,
        inbound: &mut Inbound<ReceiveBuffers>,
        outbound: &mut Outbound,
    ) -> Result<Option<Hello>, HelloError> {
        let hello = loop {
            match inbound.buffered().map_err(Ended::from)? {
                Some(Incoming::Whole { kind, header, .. }) if kind == Kind::Hello as u8 => {
                    break Hello::decode(header).map_err(Ended::from)?;
                }
                Some(Incoming::Whole { kind, .. } | Incoming::Large { kind, .. }) => {
                    return Err(HelloError::NoHello { kind });
                }
                None => {}
            }
            if !inbound.fill().await.map_err(Ended::from)? {
                return Ok(None);
            }
        };
        let welcome = self.welcome(&hello)?;
        outbound.push(Kind::Welcome as u8, |header| welcome.encode(header));
        outbound.flush().await.map_err(Ended::from)?;
        Ok(Some(hello))
    }

    fn welcome(&self, hello: &Hello) -> Result<Welcome, HelloError> {
        let identity = &self.identity;
        let (oldest, newest) = (hello.oldest, hello.newest);
        let version = version::agree(oldest, newest).ok_or(HelloError::Version { oldest, newest })?;
        if hello.cluster != identity.cluster {
            let (asked, here) = (hello.cluster.clone(), identity.cluster.clone());
            return Err(HelloError::WrongCluster { asked, here });
        }
        if hello.worker != identity.worker {
            let (asked, here) = (hello.worker.to_string(), identity.worker.to_string());
            return Err(HelloError::WrongWorker { asked, here });
        }
        let incarnation = self.store.incarnation();
        let is_any = hello.role == Role::Fetch && hello.incarnation == Incarnation::default();
        if hello.incarnation != incarnation && !is_any {
            return Err(HelloError::Fenced { asked: hello.incarnation, here: incarnation });
        }
        let no_application = hello.application.name.is_empty() && hello.application.instance == Instance::default();
        if hello.role == Role::Replicate && !no_application {
            return Err(HelloError::NoApplication);
        }
        Ok(Welcome { version, body_limit: identity.body_limit_bytes, incarnation })
    }

    async fn refuse_hello(
        &self,
        error: HelloError,
        peer: SocketAddr,
        inbound: Inbound<ReceiveBuffers>,
        mut outbound: Outbound,
    ) {
        let (refusal, status) = match &error {
            HelloError::Ended(Ended::Io(_) | Ended::Inbound(InboundError::Io(_))) => {
                tracing::debug!(%peer, %error, "lose a connection before its hello");
                return;
            }
            HelloError::Ended(Ended::Inbound(InboundError::Frame(_))) => (Refusal::NotFrames, None),
            HelloError::Ended(Ended::Message(MessageError::Versions { .. } | MessageError::NewerRole { .. })) => {
                (Refusal::WrongHello, Some(Status::UnsupportedVersion))
            }
            HelloError::Ended(_) => (Refusal::NotFrames, Some(Status::Malformed)),
            HelloError::TooSlow => (Refusal::NoHello, None),
            HelloError::NoHello { .. } => (Refusal::NoHello, Some(Status::Malformed)),
            HelloError::NoApplication => (Refusal::WrongHello, Some(Status::Malformed)),
            HelloError::WrongCluster { .. } => (Refusal::WrongHello, Some(Status::WrongCluster)),
            HelloError::WrongWorker { .. } => (Refusal::WrongHello, Some(Status::WrongWorker)),
            HelloError::Fenced { .. } => (Refusal::WrongHello, Some(Status::Fenced)),
            HelloError::Version { .. } => (Refusal::WrongHello, Some(Status::UnsupportedVersion)),
        };
        self.complain(peer, refusal, &error);
        if let Some(status) = status {
            tell(&mut outbound, status, error.to_string()).await;
            linger(inbound).await;
        }
    }

    fn complain(&self, peer: SocketAddr, refusal: Refusal, error: &dyn std::fmt::Display) {
        self.store.metrics.refused(refusal);
        if self.complaints.may_complain(peer.ip(), clock::now()) {
            tracing::warn!(%peer, %error, "end a data connection");
        }
    }
}

/// Tells the peer why its connection is about to be closed, and closes this direction.
async fn tell(outbound: &mut Outbound, status: Status, text: String) {
    let failure = Failure { request: 0, status, text };
    outbound.push(Kind::Failure as u8, |header| failure.encode(header));
    if outbound.flush().await.is_ok() {
        outbound.close().await;
    }
}

/// Reads away for a moment what the peer still sends.
async fn linger(mut inbound: Inbound<ReceiveBuffers>) {
    // Whether the peer ended or the time did, the connection is closed now.
    let _ = clock::timeout(LINGER, inbound.discard()).await;
}

/// When each peer was last complained of, so that a scanner does not fill the log.
#[derive(Debug, Default)]
pub(crate) struct Complaints {
    last: Mutex<BTreeMap<IpAddr, Instant>>,
}

impl Complaints {
    fn may_complain(&self, peer: IpAddr, now: Instant) -> bool {
        let mut last = self.last.lock();
        let is_recent = |at: &Instant| now.saturating_duration_since(*at) < COMPLAIN_EVERY;
        if last.get(&peer).is_some_and(is_recent) {
            return false;
        }
        if last.len() >= COMPLAINTS_MAX {
            last.retain(|_, at| is_recent(at));
        }
        last.len() < COMPLAINTS_MAX && last.insert(peer, now).is_none_or(|_| true)
    }
}

#[cfg(test)]
mod tests {
    use mallorn_proto::id::WorkerId;

    use super::*;
    use crate::memory::store::tests::{BODY, store};

    #[tokio::test]
    async fn a_connection_at_rest_holds_little() {
        let identity = Identity { cluster: String::new(), worker: WorkerId(1), body_limit_bytes: BODY };
        let server = Arc::new(Server {
            identity: Arc::new(identity),
            store: Arc::new(store()),
            connections_max: 1,
            complaints: Complaints::default(),
        });
        let listener = Listener::bind("127.0.0.1:0").await.unwrap();
        let stream = Stream::connect(&listener.local_addr().unwrap().to_string(), HELLO_WITHIN).await.unwrap();
        let (_, peer) = listener.accept().await.unwrap();
        let permit = Arc::new(Semaphore::new(1)).acquire_owned().await.unwrap();
        let connection = server.connection(stream, peer, permit, Shutdown::new());
        assert!(size_of_val(&connection) < 4096, "{} bytes", size_of_val(&connection));
    }

    #[test]
    fn a_peer_is_complained_of_once_in_a_while_and_the_list_is_bounded() {
        let (complaints, start) = (Complaints::default(), clock::now());
        let peer = |number: u32| IpAddr::from(number.to_be_bytes());
        assert!(complaints.may_complain(peer(0), start));
        assert!(!complaints.may_complain(peer(0), start + COMPLAIN_EVERY / 2));
        assert!(complaints.may_complain(peer(0), start + COMPLAIN_EVERY));
        let heard = (1..5000).filter(|number| complaints.may_complain(peer(*number), start + COMPLAIN_EVERY)).count();
        assert_eq!(heard, COMPLAINTS_MAX - 1);
        assert!(complaints.may_complain(peer(4999), start + 3 * COMPLAIN_EVERY), "old ones make room");
    }
}
