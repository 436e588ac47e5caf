//! TCP: the machine's, or under the feature `sim` the simulated network's.
//!
//! Owns: sockets and their options. Does not own: what is sent over them.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::clock;

#[cfg(not(feature = "sim"))]
use tokio::net as platform;
#[cfg(feature = "sim")]
use turmoil::net as platform;

/// A silent connection is probed after this long, and as often again as [`KEEP_ALIVE_INTERVAL`] allows, so that a peer
/// whose machine has vanished does not hold a connection for ever. A peer that merely has nothing to say answers.
const KEEP_ALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(15);

/// Accepts connections.
pub struct Listener(platform::TcpListener);

impl Listener {
    /// Listens on `host:port`; port 0 picks a free one.
    ///
    /// # Errors
    /// With the address in the text: in use, not of this machine, not permitted, or not an address.
    pub async fn bind(address: &str) -> io::Result<Self> {
        let listener = platform::TcpListener::bind(address)
            .await
            .map_err(|error| io::Error::new(error.kind(), format!("listen on {address}: {error}")))?;
        Ok(Self(listener))
    }

    /// Waits for the next connection. Cancel-safe.
    ///
    /// # Errors
    /// When the system refuses one (out of file descriptors, for instance); the listener stays good.
    pub async fn accept(&self) -> io::Result<(Stream, SocketAddr)> {
        let (stream, peer) = self.0.accept().await?;
        prepare(&stream)?;
        Ok((Stream(stream), peer))
    }

    /// The address listened on, with the port that was picked.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Listener").field(&self.local_addr().ok()).finish()
    }
}

/// A TCP connection, without Nagle's delay.
#[derive(Debug)]
pub struct Stream(platform::TcpStream);

/// The reading half of a [`Stream`].
#[derive(Debug)]
pub struct ReadHalf(platform::tcp::OwnedReadHalf);

/// The writing half of a [`Stream`].
pub type WriteHalf = platform::tcp::OwnedWriteHalf;

impl Stream {
    /// Connects to `host:port` within the time given.
    ///
    /// # Errors
    /// With the address in the text: not resolved, refused, unreachable, or `TimedOut`.
    pub async fn connect(address: &str, within: Duration) -> io::Result<Self> {
        let attempt = clock::timeout(within, platform::TcpStream::connect(address)).await;
        let stream = attempt
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            .map_err(|error| io::Error::new(error.kind(), format!("connect to {address}: {error}")))?;
        prepare(&stream)?;
        Ok(Self(stream))
    }

    /// Splits into halves that different tasks can own.
    #[must_use]
    pub fn split(self) -> (ReadHalf, WriteHalf) {
        let (read, write) = self.0.into_split();
        (ReadHalf(read), write)
    }
}

#[cfg(not(feature = "sim"))]
fn prepare(stream: &platform::TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let probes = socket2::TcpKeepalive::new().with_time(KEEP_ALIVE_IDLE).with_interval(KEEP_ALIVE_INTERVAL);
    socket2::SockRef::from(stream).set_tcp_keepalive(&probes)
}

#[cfg(feature = "sim")]
fn prepare(stream: &platform::TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)
}

impl ReadHalf {
    /// Waits until a read would return something, without holding a buffer for it. It may return too early: only
    /// [`ReadHalf::try_read`] tells. Cancel-safe.
    ///
    /// # Errors
    /// When the connection is broken.
    pub async fn readable(&mut self) -> io::Result<()> {
        #[cfg(not(feature = "sim"))]
        return self.0.readable().await;
        // The simulated network answers no such question, but shows a byte without taking it. It has no probes either: a
        // connection that is silent for so long is dead, for none of them is idle for that long and still in use.
        #[cfg(feature = "sim")]
        return match clock::timeout(KEEP_ALIVE_IDLE + KEEP_ALIVE_INTERVAL, self.0.peek(&mut [0])).await {
            Ok(peeked) => peeked.map(|_| ()),
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        };
    }

    /// Reads what is there without waiting, at most as much as `into` holds; `None` when nothing is, 0 bytes at the end
    /// of the stream. After `None`, [`ReadHalf::readable`] waits for more.
    ///
    /// # Errors
    /// When the connection is broken.
    #[cfg(not(feature = "sim"))]
    pub fn try_read(&mut self, into: &mut [u8]) -> io::Result<Option<usize>> {
        match self.0.try_read(into) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Reads what is there without waiting, as on the real network.
    ///
    /// # Errors
    /// When the connection is broken.
    #[cfg(feature = "sim")]
    pub fn try_read(&mut self, into: &mut [u8]) -> io::Result<Option<usize>> {
        let mut read = ReadBuf::new(into);
        let mut nobody = Context::from_waker(std::task::Waker::noop());
        match Pin::new(&mut self.0).poll_read(&mut nobody, &mut read) {
            Poll::Ready(Ok(())) => Ok(Some(read.filled().len())),
            Poll::Ready(Err(error)) => Err(error),
            Poll::Pending => Ok(None),
        }
    }
}

impl AsyncRead for ReadHalf {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }
}

/// `host:port`, with an IPv6 host in brackets.
#[must_use]
pub fn authority(host: &str, port: u16) -> String {
    if host.contains(':') && !host.starts_with('[') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

#[cfg(test)]
#[cfg(not(feature = "sim"))]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    #[tokio::test]
    async fn errors_name_the_address() {
        let listener = Listener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let taken = Listener::bind(&address).await.unwrap_err();
        assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
        assert!(taken.to_string().starts_with(&format!("listen on {address}: ")), "{taken}");
        let no_port = Listener::bind("127.0.0.1").await.unwrap_err();
        assert!(no_port.to_string().starts_with("listen on 127.0.0.1: "), "{no_port}");
        drop(listener);
        let refused = Stream::connect(&address, Duration::from_secs(5)).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        assert!(refused.to_string().starts_with(&format!("connect to {address}: ")), "{refused}");
    }

    #[tokio::test]
    async fn connections_have_no_delay_and_probe_silent_peers() {
        let listener = Listener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (near, far) = tokio::join!(Stream::connect(&address, Duration::from_secs(5)), listener.accept());
        for stream in [near.unwrap(), far.unwrap().0] {
            assert!(stream.0.nodelay().unwrap());
            assert!(socket2::SockRef::from(&stream.0).keepalive().unwrap());
        }
    }

    #[tokio::test]
    async fn what_is_there_is_read_without_waiting() {
        let listener = Listener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (near, far) = tokio::join!(Stream::connect(&address, Duration::from_secs(5)), listener.accept());
        let (mut read, _write) = near.unwrap().split();
        let mut far = far.unwrap().0;
        let mut into = [0; 8];
        assert_eq!(read.try_read(&mut into).unwrap(), None);
        far.write_all(b"abc").await.unwrap();
        read.readable().await.unwrap();
        assert_eq!((read.try_read(&mut into).unwrap(), &into[..3]), (Some(3), &b"abc"[..]));
        assert_eq!(read.try_read(&mut into).unwrap(), None);
        drop(far);
        read.readable().await.unwrap();
        assert_eq!(read.try_read(&mut into).unwrap(), Some(0));
    }
}
