//! The data port: accepts connections, hears their hello, and hands each to its role's loop.
//!
//! Owns the bounds on connections, the hello, and how a connection that misbehaves is ended: with a failure it can read
//! where it spoke frames, and in any case with a metric and a log line. Does not own what is pushed or fetched.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use mallorn_proto::frame::FrameError;
use mallorn_proto::id::{Incarnation, Instance};
use mallorn_proto::message::{Failure, Hello, Kind, MessageError, Role, Welcome};
use mallorn_proto::status::Status;
use mallorn_proto::version;
use mallorn_runtime::clock;
use mallorn_runtime::connection::{Inbound, InboundError, Incoming, Outbound};
use mallorn_runtime::net::{Listener, Stream};
use mallorn_runtime::shares::{Share, Shares};
use mallorn_runtime::task::{Shutdown, Tasks};
use mallorn_runtime::telemetry::quiet::{Line, Quiet};
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

/// The part of all connections that one application may hold: a large one does well with it, and whatever it does, as many
/// are left for all others. Workers that forward share such a part, too.
const APPLICATION_SHARE: usize = 2;
/// The part that those of one address may be which have said no hello yet, or a wrong one. With an application's it is less
/// than all: a client that goes wrong in both ways still leaves some.
const UNHEARD_SHARE: usize = 4;

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
    #[error("this application has {each} connections to this worker, as many as it may have; try again later")]
    Share { each: usize },
    #[error(
        "this worker speaks protocol versions {} to {}, the caller {oldest} to {newest}",
        version::OLDEST,
        version::CURRENT
    )]
    Version { oldest: u16, newest: u16 },
}

/// Why a connection is not even heard.
#[derive(Debug, thiserror::Error)]
enum Crowded {
    #[error("{max} connections are open, no more are taken; try again later")]
    All { max: usize },
    #[error("{each} connections from this address have not said hello, no more are taken; try again later")]
    Unheard { each: usize },
}

/// The data port's state.
pub(crate) struct Server {
    identity: Arc<Identity>,
    store: Arc<Store>,
    connections_max: usize,
    room: Arc<Semaphore>,
    unheard: Arc<Shares<IpAddr>>,
    applications: Arc<Shares<Instance>>,
    /// By peer, so that a scanner does not fill the log; `None` is the system.
    complaints: Quiet<Option<IpAddr>>,
}

/// A connection that may say hello.
struct Admitted {
    permit: OwnedSemaphorePermit,
    unheard: Share<IpAddr>,
}

/// A connection whose hello is good, and its application's part.
type Heard = (Hello, Share<Instance>);

impl Server {
    pub(crate) fn new(identity: Arc<Identity>, store: Arc<Store>, connections_max: usize) -> Self {
        Self {
            identity,
            store,
            connections_max,
            room: Arc::new(Semaphore::new(connections_max)),
            unheard: Shares::new(connections_max.div_ceil(UNHEARD_SHARE)),
            applications: Shares::new(connections_max.div_ceil(APPLICATION_SHARE)),
            complaints: Quiet::default(),
        }
    }

    /// Accepts connections until the shutdown is triggered; those in progress then get a moment to finish.
    pub(crate) async fn serve(self: Arc<Self>, listener: Listener, shutdown: Shutdown) {
        let mut tasks = Tasks::new();
        while let Some(accepted) = shutdown.or(listener.accept()).await {
            tasks.reap();
            match accepted.map(|(stream, peer)| (stream, peer, self.admit(peer.ip()))) {
                Ok((stream, peer, Ok(admitted))) => {
                    tasks.spawn(Arc::clone(&self).connection(stream, peer, admitted, shutdown.clone()));
                }
                Ok((stream, peer, Err(crowded))) => self.refuse(stream, peer, &crowded).await,
                Err(error) => {
                    if let Some(Line { repeats }) = self.complaints.line(None, clock::now()) {
                        tracing::warn!(%error, repeats, "accept a data connection");
                    }
                    clock::sleep(ACCEPT_AGAIN).await;
                }
            }
        }
        if !tasks.join(SHUTDOWN_GRACE).await {
            tracing::warn!("abort data connections that did not finish in time");
        }
    }

    fn admit(&self, peer: IpAddr) -> Result<Admitted, Crowded> {
        let (max, each) = (self.connections_max, self.unheard.each());
        let permit = Arc::clone(&self.room).try_acquire_owned().map_err(|_| Crowded::All { max })?;
        let unheard = self.unheard.take_peer(peer).ok_or(Crowded::Unheard { each })?;
        Ok(Admitted { permit, unheard })
    }

    /// The answer fits the empty send buffer of a fresh connection, so writing it does not wait.
    async fn refuse(&self, stream: Stream, peer: SocketAddr, crowded: &Crowded) {
        let refusal = match crowded {
            Crowded::All { .. } => Refusal::Limit,
            Crowded::Unheard { .. } => Refusal::Share,
        };
        self.complain(peer, refusal, crowded);
        let (_, write) = stream.split();
        tell(&mut Outbound::new(write), Status::Busy, crowded.to_string()).await;
    }

    async fn connection(
        self: Arc<Self>,
        stream: Stream,
        peer: SocketAddr,
        Admitted { permit, unheard }: Admitted,
        shutdown: Shutdown,
    ) {
        let (read, write) = stream.split();
        let mut outbound = Outbound::new(write);
        // Until the hello is heard no frame has a body.
        let mut inbound = Inbound::new(read, ReceiveBuffers(Arc::clone(&self.store.arena)), 0);
        let hello = clock::timeout(HELLO_WITHIN, self.shake_hands(&mut inbound, &mut outbound));
        match shutdown.or(hello).await.map(|heard| heard.unwrap_or(Err(HelloError::TooSlow))) {
            Some(Ok(Some((hello, share)))) => {
                drop(unheard);
                self.serve_role(hello, peer, (inbound, outbound), &shutdown).await;
                drop(share);
            }
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
    ) -> Result<Option<Heard>, HelloError> {
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
        let each = self.applications.each();
        let share = self.applications.take(hello.application.instance).ok_or(HelloError::Share { each })?;
        outbound.push(Kind::Welcome as u8, |header| welcome.encode(header));
        outbound.flush().await.map_err(Ended::from)?;
        Ok(Some((hello, share)))
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
            HelloError::Share { .. } => (Refusal::Share, Some(Status::Busy)),
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
        if let Some(Line { repeats }) = self.complaints.line(Some(peer.ip()), clock::now()) {
            tracing::warn!(%peer, %error, repeats, "end a data connection");
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

#[cfg(test)]
mod tests {
    use mallorn_proto::id::WorkerId;

    use super::*;
    use crate::memory::store::tests::{BODY, store};

    #[tokio::test]
    async fn a_connection_at_rest_holds_little() {
        let identity = Identity { cluster: String::new(), worker: WorkerId(1), body_limit_bytes: BODY };
        let server = Arc::new(Server::new(Arc::new(identity), Arc::new(store()), 1));
        let listener = Listener::bind("127.0.0.1:0").await.unwrap();
        let stream = Stream::connect(&listener.local_addr().unwrap().to_string(), HELLO_WITHIN).await.unwrap();
        let (_, peer) = listener.accept().await.unwrap();
        let admitted = server.admit(peer.ip()).unwrap();
        let connection = server.connection(stream, peer, admitted, Shutdown::new());
        assert!(size_of_val(&connection) < 4096, "{} bytes", size_of_val(&connection));
    }
}
