//! What stands between a worker and those who connect to it: passes bytes on, and on demand ends a connection with a
//! reset in the middle of a frame.
//!
//! Owns the listening side, and the count of what it cut. Does not know frames: it cuts at a byte that can't be the end
//! of one, in the middle of what it has read at once.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use mallorn_runtime::task::Tasks;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
#[expect(clippy::disallowed_types, reason = "the runtime's streams do not end with a reset")]
use tokio::net::{TcpListener, TcpStream};

use crate::failure::Failure;

/// What is read at once; a push of a batch is longer than half of it.
const READ_BYTES: usize = 64 * 1024;
/// The least that is cut in the middle.
const CUT_BYTES_MIN: usize = 4096;

/// Passes connections on to one address.
#[derive(Debug)]
pub(crate) struct Proxy {
    to_cut: Arc<AtomicU64>,
    cut: Arc<AtomicU64>,
    _tasks: Tasks,
}

impl Proxy {
    /// Listens on one address and passes on to the other.
    #[expect(clippy::disallowed_types, reason = "the runtime's streams do not end with a reset")]
    pub(crate) async fn start(listen: &str, to: String) -> Result<Self, Failure> {
        let listener = TcpListener::bind(listen).await;
        let listener = listener.map_err(|error| Failure::Setup(format!("listen on {listen}: {error}")))?;
        let (to_cut, cut) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let mut tasks = Tasks::new();
        let counts = (Arc::clone(&to_cut), Arc::clone(&cut));
        tasks.spawn(async move {
            let mut connections = Tasks::new();
            while let Ok((client, _)) = listener.accept().await {
                connections.reap();
                let (to, counts) = (to.clone(), counts.clone());
                connections.spawn(async move {
                    // A side that is gone ends the other one, too.
                    let _ = pass(client, &to, counts).await;
                });
            }
        });
        Ok(Self { to_cut, cut, _tasks: tasks })
    }

    /// Cuts so many of the next long reads in the middle, and their connections with them.
    pub(crate) fn cut_next(&self, count: u64) {
        self.to_cut.store(count, Ordering::Relaxed);
    }

    /// How many were cut so far.
    pub(crate) fn cut(&self) -> u64 {
        self.cut.load(Ordering::Relaxed)
    }
}

#[expect(clippy::disallowed_types, reason = "the runtime's streams do not end with a reset")]
async fn pass(mut client: TcpStream, to: &str, (to_cut, cut): (Arc<AtomicU64>, Arc<AtomicU64>)) -> io::Result<()> {
    let mut server = TcpStream::connect(to).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (mut from_client, mut from_server) = (vec![0; READ_BYTES], vec![0; READ_BYTES]);
    loop {
        tokio::select! {
            read = client.read(&mut from_client) => {
                let read = read?;
                if read == 0 {
                    return server.shutdown().await;
                }
                if read >= CUT_BYTES_MIN && take_one(&to_cut) {
                    server.write_all(&from_client[..read / 2]).await?;
                    cut.fetch_add(1, Ordering::Relaxed);
                    // Both sides get a reset when this is dropped.
                    client.set_zero_linger()?;
                    return server.set_zero_linger();
                }
                server.write_all(&from_client[..read]).await?;
            }
            read = from_server_read(&mut server, &mut from_server) => {
                let read = read?;
                if read == 0 {
                    return client.shutdown().await;
                }
                client.write_all(&from_server[..read]).await?;
            }
        }
    }
}

#[expect(clippy::disallowed_types, reason = "the runtime's streams do not end with a reset")]
async fn from_server_read(server: &mut TcpStream, into: &mut [u8]) -> io::Result<usize> {
    server.read(into).await
}

fn take_one(left: &AtomicU64) -> bool {
    left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
}

/// How long a scenario waits for the cuts that it asked for.
pub(crate) const CUT_WITHIN: Duration = Duration::from_secs(10);
