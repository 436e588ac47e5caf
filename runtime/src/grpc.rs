//! The control plane's transport: gRPC over [`crate::net`], with bounds on requests and waits. The bound on messages is the
//! generated code's (4 MiB), the one on connections the process's limit of file descriptors.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::codegen::http::Uri;
use tonic::service::Routes;
use tonic::transport::server::Connected;
use tonic::transport::{Channel, Endpoint, Server};

use crate::net::{Listener, Stream};
use crate::task::Shutdown;

/// How long a dial may take.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// An idle connection is asked for a sign of life this often, and dropped when none comes for as long again.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// Requests of one connection that are served at once; more wait.
const CONCURRENT_REQUESTS: usize = 256;
/// How long after a shutdown is triggered requests in progress may go on.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(2);

/// Serves gRPC until the shutdown is triggered; requests in progress then get a moment to finish, after which their
/// connections are cut.
///
/// # Errors
/// When the transport fails as a whole.
pub async fn serve(listener: Listener, routes: Routes, shutdown: Shutdown) -> Result<(), tonic::transport::Error> {
    let incoming = connections(listener, shutdown.clone());
    let server = Server::builder()
        .http2_keepalive_interval(Some(KEEP_ALIVE))
        .http2_keepalive_timeout(Some(KEEP_ALIVE))
        .concurrency_limit_per_connection(CONCURRENT_REQUESTS);
    #[cfg(feature = "sim")]
    let server = server.layer(tower::util::MapResponseLayer::new(without_time_of_day));
    let mut server = server;
    let server = server.add_routes(routes).serve_with_incoming_shutdown(incoming, shutdown.wait());
    tokio::select! {
        biased;
        result = server => result,
        () = grace(shutdown.clone()) => Ok(()),
    }
}

/// The transport dates every answer that has no date, by the machine's clock: not in a simulation that repeats itself byte
/// for byte.
#[cfg(feature = "sim")]
fn without_time_of_day<B>(mut response: tonic::codegen::http::Response<B>) -> tonic::codegen::http::Response<B> {
    use tonic::codegen::http::header::{DATE, HeaderValue};
    response.headers_mut().insert(DATE, HeaderValue::from_static("Thu, 01 Jan 1970 00:00:00 GMT"));
    response
}

async fn grace(shutdown: Shutdown) {
    shutdown.wait().await;
    crate::clock::sleep(SHUTDOWN_GRACE).await;
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
    Ok(endpoint.connect_with_connector_lazy(tower::service_fn(dial)))
}

async fn dial(uri: Uri) -> io::Result<TokioIo<Stream>> {
    let authority = uri.authority().map(ToString::to_string).unwrap_or_default();
    Ok(TokioIo::new(Stream::connect(&authority, CONNECT_WITHIN).await?))
}

/// A listener as the stream of connections that tonic wants. A refused accept (out of descriptors) is waited out.
fn connections(listener: Listener, shutdown: Shutdown) -> impl tokio_stream::Stream<Item = io::Result<Accepted>> {
    let (sender, receiver) = tokio::sync::mpsc::channel(16);
    crate::task::spawn(async move {
        loop {
            let accepted = tokio::select! {
                biased;
                () = sender.closed() => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) => {
                    if sender.send(Ok(Accepted::new(stream, shutdown.clone()))).await.is_err() {
                        return;
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "accept a control connection");
                    crate::clock::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    });
    tokio_stream::wrappers::ReceiverStream::new(receiver)
}

/// An accepted connection, as tonic wants it. Its requests run as tasks of tonic's own, which end when it does.
struct Accepted {
    stream: Stream,
    /// Done when the connection is to be cut.
    cut: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl Accepted {
    fn new(stream: Stream, shutdown: Shutdown) -> Self {
        Self { stream, cut: Box::pin(grace(shutdown)) }
    }
}

impl Connected for Accepted {
    type ConnectInfo = ();

    fn connect_info(&self) -> Self::ConnectInfo {}
}

impl AsyncRead for Accepted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.cut.as_mut().poll(cx) {
            Poll::Ready(()) => {
                // Done for good: it may not be asked again.
                self.cut = Box::pin(std::future::ready(()));
                Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()))
            }
            Poll::Pending => Pin::new(&mut self.stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Accepted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
#[cfg(not(feature = "sim"))]
mod tests {
    use std::convert::Infallible;
    use std::sync::Arc;

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
        gate: Gate,
        came: mpsc::Receiver<Arc<()>>,
        channel: Channel,
        shutdown: Shutdown,
        server: tokio::task::JoinHandle<Result<(), tonic::transport::Error>>,
    }

    async fn served() -> Served {
        let (sender, came) = mpsc::channel(16);
        let gate = Gate { came: sender, open: watch::Sender::new(false) };
        let listener = Listener::bind("127.0.0.1:0").await.unwrap();
        let channel = channel(&listener.local_addr().unwrap().to_string(), Duration::from_secs(60)).unwrap();
        let shutdown = Shutdown::new();
        let server = tokio::spawn(serve(listener, Routes::new(gate.clone()), shutdown.clone()));
        Served { gate, came, channel, shutdown, server }
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
