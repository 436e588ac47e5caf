//! The control plane's transport: gRPC over [`crate::net`], with bounds on connections, requests and waits.
//!
//! Owns: accepting and dialling, keep-alive, ending. Does not own: the services, nor the bound on messages, which is the
//! generated code's (4 MiB). The server runs the HTTP/2 connections itself instead of leaving them to tonic: tonic's own
//! server tells its connections to end in an order that differs from run to run, and dates every answer by the machine's
//! clock; a simulation could not repeat itself.

use std::io;
use std::pin::pin;
use std::time::Duration;

use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tonic::codegen::http::Uri;
use tonic::service::Routes;
use tonic::transport::Endpoint;

#[cfg(feature = "sim")]
pub use crate::simulation::calls::Channel;
#[cfg(not(feature = "sim"))]
pub use tonic::transport::Channel;

use crate::clock;
use crate::net::{Listener, Stream};
use crate::task::{Shutdown, Tasks};

/// How long a dial may take.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// An idle connection is asked for a sign of life this often, and dropped when none comes for as long again.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// Connections served at once; one more is closed.
const CONNECTIONS_MAX: usize = 16 * 1024;
/// Requests of one connection that are served at once; the client waits with more.
const CONCURRENT_REQUESTS: u32 = 256;
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
    let routes = routes.prepare();
    let mut connections = Tasks::new();
    let mut refused = 0;
    while let Some(accepted) = shutdown.or(listener.accept()).await {
        match accepted {
            Ok((stream, peer)) => {
                refused = 0;
                if connections.reap() < CONNECTIONS_MAX {
                    connections.spawn(connection(stream, routes.clone(), shutdown.clone()));
                } else {
                    tracing::warn!(%peer, limit = CONNECTIONS_MAX, "close a control connection over the limit");
                }
            }
            Err(error) if refused == ACCEPT_TRIES => return Err(error),
            // Out of descriptors, most likely.
            Err(error) => {
                refused += 1;
                tracing::warn!(%error, "accept a control connection");
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

async fn connection(stream: Stream, routes: Routes, shutdown: Shutdown) {
    let mut builder = auto::Builder::new(TokioExecutor::new()).http2_only();
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .max_concurrent_streams(CONCURRENT_REQUESTS)
        .auto_date_header(false);
    let mut served = pin!(builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes)));
    let ended = match shutdown.or(served.as_mut()).await {
        Some(ended) => ended,
        None => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = ended {
        // The peer left, or what it sent was not HTTP/2.
        tracing::debug!(%error, "serve a control connection");
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
    use std::sync::Arc;
    use std::task::{Context, Poll};

    use tokio::sync::{mpsc, watch};
    use tonic::body::Body;
    use tonic::codegen::http::{Request, Response, StatusCode};
    use tonic::server::NamedService;
    use tower::{Service, ServiceExt};

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
        let (sender, came) = mpsc::channel(16);
        let gate = Gate { came: sender, open: watch::Sender::new(false) };
        let listener = Listener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let channel = channel(&address, Duration::from_secs(60)).unwrap();
        let shutdown = Shutdown::new();
        let server = tokio::spawn(serve(listener, Routes::new(gate.clone()), shutdown.clone()));
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
