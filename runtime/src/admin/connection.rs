//! The bounds on the admin port's connections: how many, how much they may send, how long they may take.
//!
//! They stand below HTTP, on the bytes themselves, so that they hold for whatever a client sends.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;

use crate::clock;
use crate::net::Listener;
use crate::telemetry::quiet::{Line, Quiet};

/// Connections served at once; more wait to be accepted.
pub(super) const CONNECTIONS_MAX: usize = 64;

/// Bytes that may arrive between two answers: a request with its header and body.
pub(super) const REQUEST_BYTES_MAX: usize = 64 * 1024;

/// How long a connection may go without a byte of an answer being sent, be it that the request is slow to arrive, that
/// the answer is slow to be taken, or that the client says nothing.
pub(super) const SILENCE_MAX: Duration = Duration::from_secs(30);

/// How long to wait after the system refused a connection (out of file descriptors, mostly).
const REFUSED_PAUSE: Duration = Duration::from_millis(100);

/// A listener whose connections keep the bounds.
pub(super) struct BoundedListener {
    listener: Listener,
    connections: Arc<Semaphore>,
    complaints: Quiet<()>,
}

impl BoundedListener {
    pub(super) fn new(listener: Listener) -> Self {
        Self { listener, connections: Arc::new(Semaphore::new(CONNECTIONS_MAX)), complaints: Quiet::default() }
    }
}

impl axum::serve::Listener for BoundedListener {
    type Io = Bounded<crate::net::Stream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, SocketAddr) {
        let permit = self.connections.clone().acquire_owned().await.expect("the semaphore is never closed");
        loop {
            match self.listener.accept().await {
                Ok((stream, peer)) => return (Bounded::new(stream, Some(permit)), peer),
                Err(error) => {
                    if let Some(Line { repeats }) = self.complaints.line((), clock::now()) {
                        tracing::warn!(%error, repeats, "accept a connection on the admin port");
                    }
                    clock::sleep(REFUSED_PAUSE).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that fails when it goes over the bounds, and counts as one as long as it lives.
pub(super) struct Bounded<S> {
    stream: S,
    silence: Pin<Box<Sleep>>,
    unanswered_bytes: usize,
    _permit: Option<OwnedSemaphorePermit>,
}

impl<S> Bounded<S> {
    pub(super) fn new(stream: S, permit: Option<OwnedSemaphorePermit>) -> Self {
        let silence = Box::pin(tokio::time::sleep(SILENCE_MAX));
        Self { stream, silence, unanswered_bytes: 0, _permit: permit }
    }

    /// Fails once the connection has been silent too long.
    fn poll_silence(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        self.silence.as_mut().poll(cx).map(|()| io::ErrorKind::TimedOut.into())
    }

    /// Passes on what a write came to; bytes sent end the silence and answer the request.
    fn written(&mut self, cx: &mut Context<'_>, wrote: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match wrote {
            Poll::Ready(Ok(bytes)) => {
                self.silence.as_mut().reset(clock::now() + SILENCE_MAX);
                self.unanswered_bytes = 0;
                Poll::Ready(Ok(bytes))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => self.poll_silence(cx).map(Err),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Bounded<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let Poll::Ready(error) = self.poll_silence(cx) {
            return Poll::Ready(Err(error));
        }
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        self.unanswered_bytes += buffer.filled().len() - before;
        if self.unanswered_bytes > REQUEST_BYTES_MAX {
            // A read that fails must not have filled anything.
            buffer.set_filled(before);
            let why = format!("a request of more than {REQUEST_BYTES_MAX} bytes");
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, why)));
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Bounded<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.written(cx, wrote)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.written(cx, wrote)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
