//! The control plane's transport: gRPC over [`crate::net`], with bounds on connections, requests and waits.
//!
//! Owns: accepting and dialling, keep-alive, ending. Does not own: the services, nor the bound on messages, which is the
//! generated code's (4 MiB). The server runs the HTTP/2 connections itself instead of leaving them to tonic: tonic's own
//! server tells its connections to end in an order that differs from run to run, and dates every answer by the machine's
//! clock; a simulation could not repeat itself.

mod requests;

use std::future::pending;
use std::io;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::sync::Semaphore;
use tonic::codegen::http::Uri;
use tonic::service::Routes;
use tonic::transport::Endpoint;
use tower::ServiceExt as _;

#[cfg(feature = "sim")]
pub use crate::simulation::calls::Channel;
#[cfg(not(feature = "sim"))]
pub use tonic::transport::Channel;

use self::requests::{REQUESTS_BYTES_MAX, whole};
use crate::clock;
use crate::net::{Listener, Stream};
use crate::shares::{Share, Shares};
use crate::task::{Shutdown, Tasks};
use crate::telemetry::quiet::{Line, Quiet};

/// How long a dial may take.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// An idle connection is asked for a sign of life this often, and dropped when none comes for as long again.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// Connections served at once; one more is closed.
const CONNECTIONS_MAX: usize = 16 * 1024;
/// And of one peer: a broken one must leave room for the others, and many clients may share an address.
const PEER_CONNECTIONS_MAX: usize = CONNECTIONS_MAX / 4;
/// How long a connection may take to send its first request: whoever dials has one to send.
const FIRST_REQUEST_WITHIN: Duration = Duration::from_secs(10);
/// Requests of one connection that are served at once; the client waits with more.
const CONCURRENT_REQUESTS: u32 = 64;
/// How long after a shutdown is triggered requests in progress may go on.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(2);
/// How long a refused accept is waited out, and how often on end.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);
const ACCEPT_TRIES: u32 = 600;

/// Serves gRPC until the shutdown is triggered; requests in progress then get a moment to finish, after which their
/// connections are cut. The port is free when this returns; dropping the future cuts everything at once.
///
/// # Errors
/// When the system has refused to accept connections for a minute on end.
pub async fn serve(listener: Listener, routes: Routes, shutdown: Shutdown) -> io::Result<()> {
    serve_at_most(listener, routes, shutdown, Room { all: CONNECTIONS_MAX, each: PEER_CONNECTIONS_MAX }).await
}

/// Connections served at once: of all peers, and of each.
#[derive(Clone, Copy)]
struct Room {
    all: usize,
    each: usize,
}

async fn serve_at_most(listener: Listener, routes: Routes, shutdown: Shutdown, room: Room) -> io::Result<()> {
    let door = Door { routes: routes.prepare(), room: Arc::new(Semaphore::new(REQUESTS_BYTES_MAX)) };
    let mut connections = Tasks::new();
    let (shares, complaints) = (Shares::new(room.each), Quiet::default());
    let mut refused = 0;
    while let Some(accepted) = shutdown.or(listener.accept()).await {
        match accepted {
            Ok((stream, peer)) => {
                refused = 0;
                let has_room = connections.reap() < room.all;
                if let Some(share) = has_room.then(|| shares.take_peer(peer.ip())).flatten() {
                    connections.spawn(connection(stream, door.clone(), shutdown.clone(), share));
                } else if let Some(Line { repeats }) = complaints.line(Some(peer.ip()), clock::now()) {
                    let limit = if has_room { room.each } else { room.all };
                    tracing::warn!(%peer, limit, repeats, "close a control connection over the limit");
                }
            }
            Err(error) if refused == ACCEPT_TRIES => return Err(error),
            // Out of descriptors, most likely.
            Err(error) => {
                refused += 1;
                if let Some(Line { repeats }) = complaints.line(None, clock::now()) {
                    tracing::warn!(%error, repeats, "accept a control connection");
                }
                shutdown.or(clock::sleep(ACCEPT_AGAIN)).await;
            }
        }
    }
    drop(listener);
    if !connections.join(SHUTDOWN_GRACE).await {
        tracing::warn!(grace_s = SHUTDOWN_GRACE.as_secs(), "cut off control requests that did not end in time");
    }
    Ok(())
}

/// What all connections share.
#[derive(Clone)]
struct Door {
    routes: Routes,
    /// For the bytes of requests.
    room: Arc<Semaphore>,
}

async fn connection(stream: Stream, door: Door, shutdown: Shutdown, _share: Share<IpAddr>) {
    let mut builder = auto::Builder::new(TokioExecutor::new()).http2_only();
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .max_concurrent_streams(CONCURRENT_REQUESTS)
        .auto_date_header(false);
    let asked = Arc::new(AtomicBool::new(false));
    let heard = Arc::clone(&asked);
    let service = tower::service_fn(move |request| {
        heard.store(true, Ordering::Relaxed);
        let (routes, taken) = (door.routes.clone(), whole(request, Arc::clone(&door.room)));
        async move {
            match taken.await {
                Ok(request) => routes.oneshot(request).await,
                Err(status) => Ok(status.into_http()),
            }
        }
    });
    let mut served = pin!(builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(service)));
    let ended = tokio::select! {
        biased;
        () = shutdown.wait() => {
            served.as_mut().graceful_shutdown();
            served.await
        }
        ended = served.as_mut() => ended,
        () = unasked(&asked) => Err("no request came".into()),
    };
    if let Err(error) = ended {
        // The peer left, said nothing, or what it sent was not HTTP/2.
        tracing::debug!(%error, "serve a control connection");
    }
}

/// Waits until a first request is overdue; for ever where one came in time.
async fn unasked(asked: &AtomicBool) {
    clock::sleep(FIRST_REQUEST_WITHIN).await;
    if asked.load(Ordering::Relaxed) {
        pending().await
    }
}

/// A channel to a gRPC server at `host:port`. It dials at the first call, and again when the connection was lost; each
/// call has the deadline `within`.
///
/// # Errors
/// `InvalidInput` when the address is not one.
///
/// # Panics
/// Outside of a runtime: the channel has a task of its own.
pub fn channel(address: &str, within: Duration) -> io::Result<Channel> {
    let invalid = |why: &str| io::Error::new(io::ErrorKind::InvalidInput, format!("{address} is not host:port: {why}"));
    let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|error| invalid(&error.to_string()))?;
    if endpoint.uri().port_u16().is_none() {
        return Err(invalid("it has no port"));
    }
    if endpoint.uri().path_and_query().is_some_and(|rest| rest != "/") {
        return Err(invalid("it has a path"));
    }
    let endpoint = endpoint
        .timeout(within)
        .connect_timeout(CONNECT_WITHIN)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .keep_alive_while_idle(true);
    let channel = endpoint.connect_with_connector_lazy(tower::service_fn(dial));
    #[cfg(feature = "sim")]
    let channel = Channel::new(channel);
    Ok(channel)
}

async fn dial(uri: Uri) -> io::Result<TokioIo<Stream>> {
    let authority = uri.authority().map(ToString::to_string).unwrap_or_default();
    Ok(TokioIo::new(Stream::connect(&authority, CONNECT_WITHIN).await?))
}

#[cfg(test)]
#[cfg(not(feature = "sim"))]
mod tests {
    use std::convert::Infallible;
    use std::future::Future;
    use std::pin::Pin;
    use std::sync::atomic::AtomicUsize;
    use std::task::{Context, Poll};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpSocket, TcpStream};
    use tokio::sync::{mpsc, watch};
    use tonic::body::Body;
    use tonic::codegen::http::{Request, Response, StatusCode};
    use tonic::server::NamedService;
    use tower::Service;

    use super::*;

    /// Tells when a request has come, and answers it only when allowed to.
    #[derive(Clone)]
    struct Gate {
        came: mpsc::Sender<Arc<()>>,
        open: watch::Sender<bool>,
    }

    impl NamedService for Gate {
        const NAME: &'static str = "gate";
    }

    impl Service<Request<Body>> for Gate {
        type Response = Response<Body>;
        type Error = Infallible;
        type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: Request<Body>) -> Self::Future {
            let (gate, alive) = (self.clone(), Arc::new(()));
            Box::pin(async move {
                gate.came.send(Arc::clone(&alive)).await.expect("the test waits for it");
                let _ = gate.open.subscribe().wait_for(|open| *open).await;
                Ok(Response::new(Body::empty()))
            })
        }
    }

    struct Served {
        address: String,
        gate: Gate,
        came: mpsc::Receiver<Arc<()>>,
        channel: Channel,
        shutdown: Shutdown,
        server: tokio::task::JoinHandle<io::Result<()>>,
    }

    async fn served() -> Served {
        served_at_most(Room { all: CONNECTIONS_MAX, each: PEER_CONNECTIONS_MAX }).await
    }

    async fn served_at_most(room: Room) -> Served {
        let (sender, came) = mpsc::channel(16);
        let gate = Gate { came: sender, open: watch::Sender::new(false) };
        let listener = Listener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let channel = channel(&address, Duration::from_secs(60)).unwrap();
        let shutdown = Shutdown::new();
        let server = tokio::spawn(serve_at_most(listener, Routes::new(gate.clone()), shutdown.clone(), room));
        Served { address, gate, came, channel, shutdown, server }
    }

    async fn call(channel: Channel) -> Result<StatusCode, tonic::transport::Error> {
        let request = Request::post("/gate/Pass").body(Body::empty()).unwrap();
        Ok(channel.oneshot(request).await?.status())
    }

    #[tokio::test]
    async fn requests_in_progress_are_finished_at_shutdown_and_no_more_are_taken() {
        let mut served = served().await;
        let calling = tokio::spawn(call(served.channel.clone()));
        served.came.recv().await.unwrap();
        served.shutdown.trigger();
        served.gate.open.send_replace(true);
        assert_eq!(calling.await.unwrap().unwrap(), StatusCode::OK);
        served.server.await.unwrap().unwrap();
        call(served.channel).await.unwrap_err();
        Listener::bind(&served.address).await.expect("the port is free");
    }

    #[tokio::test]
    async fn a_request_that_hangs_is_cut_off_after_the_grace() {
        let mut served = served().await;
        let calling = tokio::spawn(call(served.channel.clone()));
        let alive = served.came.recv().await.unwrap();
        // From here on time passes as soon as nobody has anything to do.
        tokio::time::pause();
        served.shutdown.trigger();
        served.server.await.unwrap().unwrap();
        calling.await.unwrap().unwrap_err();
        // The request's own task is dropped with its connection.
        while Arc::strong_count(&alive) > 1 {
            tokio::task::yield_now().await;
        }
    }

    /// What a peer is told until its connection is closed, and after how long that is. Time passes as soon as nobody has
    /// anything to do.
    async fn closed_after(mut stream: TcpStream) -> Duration {
        let start = clock::now();
        let mut told = [0; 256];
        while clock::timeout(Duration::from_secs(3600), stream.read(&mut told)).await.unwrap().is_ok_and(|n| n > 0) {}
        clock::since(start)
    }

    #[tokio::test]
    async fn a_connection_without_a_request_is_closed_in_time() {
        const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
        let whole = [PREFACE, &settings].concat();
        let served = served().await;
        for said in [&[][..], &PREFACE[..10], &whole] {
            let mut stream = TcpStream::connect(&served.address).await.unwrap();
            stream.write_all(said).await.unwrap();
            tokio::time::pause();
            let after = closed_after(stream).await;
            tokio::time::resume();
            let bounds = FIRST_REQUEST_WITHIN - Duration::from_secs(1)..FIRST_REQUEST_WITHIN + Duration::from_secs(1);
            assert!(bounds.contains(&after), "{after:?} after {said:?}");
        }
    }

    /// A channel that counts its dials, from an address of this machine.
    fn counted(address: &str, from: [u8; 4], dials: &Arc<AtomicUsize>) -> tonic::transport::Channel {
        let (to, dials) = (address.parse().unwrap(), Arc::clone(dials));
        let dial = move |_: Uri| {
            dials.fetch_add(1, Ordering::Relaxed);
            async move {
                let socket = TcpSocket::new_v4()?;
                socket.bind((from, 0).into())?;
                socket.connect(to).await.map(TokioIo::new)
            }
        };
        Endpoint::from_shared(format!("http://{address}")).unwrap().connect_with_connector_lazy(tower::service_fn(dial))
    }

    #[tokio::test]
    async fn a_connection_that_has_called_may_be_idle() {
        let mut served = served().await;
        let dials = Arc::new(AtomicUsize::new(0));
        let channel = counted(&served.address, [127, 0, 0, 1], &dials);
        served.gate.open.send_replace(true);
        for _ in 0..3 {
            assert_eq!(call(channel.clone()).await.unwrap(), StatusCode::OK);
            served.came.recv().await.unwrap();
            tokio::time::pause();
            clock::sleep(FIRST_REQUEST_WITHIN * 3).await;
            tokio::time::resume();
        }
        assert_eq!(dials.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn a_peer_over_its_share_is_closed_while_another_is_served() {
        let served = served_at_most(Room { all: 8, each: 2 }).await;
        let held = [TcpStream::connect(&served.address).await, TcpStream::connect(&served.address).await];
        let over = TcpStream::connect(&served.address).await.unwrap();
        assert!(closed_after(over).await < FIRST_REQUEST_WITHIN);
        served.gate.open.send_replace(true);
        let other = counted(&served.address, [127, 0, 0, 2], &Arc::default());
        assert_eq!(call(other).await.unwrap(), StatusCode::OK);
        // What it gives back it has again.
        drop(held);
        let within = clock::now() + FIRST_REQUEST_WITHIN;
        while call(served.channel.clone()).await.is_err() {
            assert!(clock::now() < within);
        }
    }

    #[tokio::test]
    async fn an_address_that_is_none_is_refused_at_once() {
        for address in ["", "host", "host:", "host:port", "host:70000", "ho st:1", "host:1/path", "http://host:1"] {
            let error = channel(address, Duration::from_secs(1)).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{address}");
            assert!(error.to_string().contains("is not host:port"), "{error}");
        }
        for address in ["host:1", "127.0.0.1:65535", "[::1]:80", "worker-0.workers.svc:9102"] {
            assert!(channel(address, Duration::from_secs(1)).is_ok(), "{address}");
        }
    }
}
