//! The calling side of a connection: hello, requests and their answers, at most a window of them in flight.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use mallorn_proto::limits::BODY_BYTES_MAX;
use mallorn_proto::message::{Failure, Hello, Kind, MessageError, Welcome};
use mallorn_proto::status::Status;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::inbound::{Inbound, InboundError, Incoming};
use super::outbound::{Frame, Outbound};
use super::pace;
use super::pool::{Buffer, Pool};
use crate::clock::{self, Instant};
use crate::hash::Map;
use crate::net::Stream;
use crate::task::{self, Shutdown};

/// Bytes that one write gathers before it goes out.
const WRITE_BYTES: usize = 1024 * 1024;
/// How long a worker may leave a connection unread while it makes room (a rule of the protocol); only a worker that takes
/// too little for longer than this and the window of the pace rule is given up.
const UNREAD_MAX: Duration = Duration::from_secs(30);
/// How long calls go unanswered, and nothing else is heard, before the connection is taken for dead: a machine or a way
/// that has vanished breaks no connection.
const SILENT_MAX: Duration = UNREAD_MAX.saturating_add(pace::WINDOW);
/// How long after a failed write the reader may still find out why the worker closed the connection.
const LAST_WORDS_WITHIN: Duration = Duration::from_secs(1);

/// Bounds of a calling connection.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How long connecting and the hello may take, each.
    pub open_within: Duration,
    /// How long one call may take once it has its turn in the window, to its answer.
    pub call_within: Duration,
    /// Requests in flight; more wait.
    pub window: usize,
}

/// A connection on which requests are called; clones share it, and it closes with the last of them.
#[derive(Clone, Debug)]
pub struct Connection {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    queue: mpsc::Sender<Frame>,
    waiting: Arc<Waiting>,
    window: Semaphore,
    next_request: AtomicU64,
    call_within: Duration,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.waiting.over.trigger();
    }
}

/// Who waits for which answer.
#[derive(Debug)]
struct Waiting {
    state: Mutex<State>,
    silence: Mutex<Silence>,
    over: Shutdown,
}

/// How long the worker has owed a sign of life.
#[derive(Debug, Default)]
struct Silence {
    /// When it was first asked something since it was last heard.
    since: Option<Instant>,
    /// A large body is coming in, at a pace that is watched.
    receiving: bool,
}

#[derive(Debug)]
enum State {
    Open(Map<u64, Waiter>),
    Closed(String),
}

#[derive(Debug)]
struct Waiter {
    sender: oneshot::Sender<Result<Answer, CallError>>,
    room: Option<Buffer>,
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// The message's type number.
    pub kind: u8,
    /// Its header.
    pub header: Vec<u8>,
    /// Its body, in the buffer that the caller gave room with; `None` where the answer has none.
    pub body: Option<Buffer>,
}

/// Why a connection could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Not reached, or broken off.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The peer does not want this caller.
    #[error("{address} refuses the connection ({status}): {text}")]
    Refused {
        /// The peer.
        address: String,
        /// Why.
        status: Status,
        /// Why, for people.
        text: String,
    },
    /// The peer does not speak the protocol.
    #[error("{address} does not answer as a Mallorn worker does: {text}")]
    Protocol {
        /// The peer.
        address: String,
        /// What it did.
        text: String,
    },
}

/// Why a call has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The connection is closed; whether the request was carried out is not known.
    #[error("the connection is closed: {reason}")]
    Closed {
        /// Why.
        reason: String,
    },
    /// No answer within the deadline; whether the request was carried out is not known.
    #[error("no answer within the deadline")]
    TimedOut,
    /// The peer answers that the request failed.
    #[error("{status}: {text}")]
    Failed {
        /// How.
        status: Status,
        /// How, for people.
        text: String,
    },
}

impl Connection {
    /// Connects and says hello.
    ///
    /// # Errors
    /// `Io` when the peer is not reached in time, `Refused` when it does not want this caller, `Protocol` when it is not
    /// a worker.
    pub async fn open(address: &str, hello: &Hello, limits: Limits) -> Result<(Self, Welcome), OpenError> {
        let stream = Stream::connect(address, limits.open_within).await?;
        let (read, write) = stream.split();
        let mut inbound = Inbound::new(read, Pool::new(Inbound::<Pool>::BUFFER_BYTES_MIN), 0);
        let mut outbound = Outbound::patient(write, UNREAD_MAX + pace::WINDOW);
        let handshake = shake_hands(address, hello, &mut inbound, &mut outbound);
        let welcome = clock::timeout(limits.open_within, handshake)
            .await
            .unwrap_or_else(|_| Err(broken(address, io::ErrorKind::TimedOut.into())))?;
        // The cluster's limit is on what a worker takes. An answer is as long as the request allowed, and one that is
        // longer is read away without memory.
        inbound.limit_bodies(BODY_BYTES_MAX);

        let (queue, frames) = mpsc::channel(limits.window.max(1));
        let waiting = Arc::new(Waiting {
            state: Mutex::new(State::Open(Map::default())),
            silence: Mutex::default(),
            over: Shutdown::new(),
        });
        task::spawn(write_frames(outbound, frames, Arc::clone(&waiting)));
        task::spawn(read_answers(inbound, Arc::clone(&waiting)));
        let window = Semaphore::new(limits.window.max(1));
        let (next_request, call_within) = (AtomicU64::new(1), limits.call_within);
        Ok((Self { inner: Arc::new(Inner { queue, waiting, window, next_request, call_within }) }, welcome))
    }

    /// A number for the next request; never 0.
    #[must_use]
    pub fn next_request(&self) -> u64 {
        self.inner.next_request.fetch_add(1, Ordering::Relaxed)
    }

    /// Whether the connection can still be called on.
    #[must_use]
    pub fn is_open(&self) -> bool {
        matches!(*self.inner.waiting.state.lock(), State::Open(_))
    }

    /// Sends a request whose header begins with `request` (a number from [`Connection::next_request`], used once) and
    /// waits for its answer, whose body goes into `room`. It waits its turn in the window first; the deadline runs from
    /// there.
    ///
    /// Dropping the future gives the answer up, as the deadline does; a request that was queued is still sent, and its
    /// body held until then. The connection goes on after a deadline, unless nothing at all was heard for 40 s.
    ///
    /// # Errors
    /// `Closed`, `TimedOut`, or `Failed` with what the peer answered.
    pub async fn call(&self, request: u64, frame: Frame, room: Option<Buffer>) -> Result<Answer, CallError> {
        let inner = &self.inner;
        let _permit = inner.window.acquire().await.map_err(|_| inner.waiting.reason())?;
        let (sender, receiver) = oneshot::channel();
        #[cfg(feature = "sim")]
        self.repeat_push(&frame);
        let _guard = inner.waiting.register(request, Waiter { sender, room })?;
        inner.waiting.asked();
        let exchange = async {
            // The queue may be full of requests that were given up, when the worker takes nothing.
            inner.queue.send(frame).await.map_err(|_| inner.waiting.reason())?;
            receiver.await.map_err(|_| inner.waiting.reason())?
        };
        clock::timeout(inner.call_within, exchange).await.unwrap_or_else(|_| {
            inner.waiting.close_if_silent();
            Err(CallError::TimedOut)
        })
    }

    /// Sends a request as [`Connection::call`] does, and returns what will be its answer: requests reach the worker in the
    /// order in which this is called. It waits for no turn in the window; whoever calls it keeps at most a window of
    /// requests in flight, and sets the deadline.
    ///
    /// # Errors
    /// `Closed`.
    pub async fn begin(&self, request: u64, frame: Frame) -> Result<Begun, CallError> {
        let waiting = &self.inner.waiting;
        let (sender, receiver) = oneshot::channel();
        waiting.insert(request, Waiter { sender, room: None })?;
        waiting.asked();
        let begun = Begun { waiting: Arc::clone(waiting), request, receiver };
        self.tell(frame).await.map(|()| begun)
    }

    /// In simulation a push may arrive once more, later; its second answer is nobody's.
    #[cfg(feature = "sim")]
    fn repeat_push(&self, frame: &Frame) {
        let is_push = [Kind::Push as u8, Kind::PushMerged as u8].contains(&frame.kind());
        if let Some(after) = crate::simulation::here().filter(|_| is_push).and_then(|host| host.pushed_again()) {
            let (connection, frame) = (self.clone(), frame.clone());
            task::spawn(async move {
                clock::sleep(after).await;
                let is_sent = connection.tell(frame).await.is_ok();
                tracing::info!(event = "push_repeated", late_by_ms = clock::millis(after), is_sent);
            });
        }
    }

    /// Ends the connection from this side: everything that waits for an answer is told so.
    pub fn close(&self, reason: &str) {
        self.inner.waiting.close(reason);
    }

    /// Sends a message that has no answer. Waits while the queue is full; a worker that takes nothing ends that wait, and
    /// the connection, after 40 s.
    ///
    /// # Errors
    /// `Closed`.
    pub async fn tell(&self, frame: Frame) -> Result<(), CallError> {
        self.inner.queue.send(frame).await.map_err(|_| self.inner.waiting.reason())
    }
}

/// A request that was sent. Dropping it gives the answer up.
#[derive(Debug)]
pub struct Begun {
    waiting: Arc<Waiting>,
    request: u64,
    receiver: oneshot::Receiver<Result<Answer, CallError>>,
}

impl Begun {
    /// Waits for the answer, however long it takes. Cancel-safe.
    ///
    /// # Errors
    /// `Closed`, or `Failed` with what the peer answered.
    pub async fn answer(&mut self) -> Result<Answer, CallError> {
        (&mut self.receiver).await.map_err(|_| self.waiting.reason())?
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        self.waiting.forget(self.request);
    }
}

async fn shake_hands(
    address: &str,
    hello: &Hello,
    inbound: &mut Inbound<Pool>,
    outbound: &mut Outbound,
) -> Result<Welcome, OpenError> {
    let protocol = |text: String| OpenError::Protocol { address: address.to_owned(), text };
    let mut header = Vec::new();
    hello.encode(&mut header).map_err(|error| protocol(format!("our own hello cannot be sent: {error}")))?;
    outbound.push(Kind::Hello as u8, |out| out.extend_from_slice(&header));
    outbound.flush().await.map_err(|error| broken(address, error))?;
    loop {
        let frame = inbound.buffered().map_err(|error| protocol(error.to_string()))?;
        match frame {
            Some(Incoming::Whole { kind, header, .. } | Incoming::Large { kind, header, .. }) => {
                return answer_to_hello(address, hello, (kind, header));
            }
            None => {}
        }
        let more = inbound.fill().await.map_err(|error| match error {
            InboundError::Io(error) => broken(address, error),
            InboundError::Frame(error) => protocol(error.to_string()),
        })?;
        if !more {
            return Err(protocol("it closed the connection after the hello".to_owned()));
        }
    }
}

fn broken(address: &str, error: io::Error) -> OpenError {
    OpenError::Io(io::Error::new(error.kind(), format!("hello to {address}: {error}")))
}

fn answer_to_hello(address: &str, hello: &Hello, (kind, header): (u8, &[u8])) -> Result<Welcome, OpenError> {
    let protocol = |text: String| OpenError::Protocol { address: address.to_owned(), text };
    let message = |error: MessageError| protocol(error.to_string());
    if kind == Kind::Failure as u8 {
        let Failure { status, text, .. } = Failure::decode(header).map_err(message)?;
        return Err(OpenError::Refused { address: address.to_owned(), status, text });
    }
    if kind != Kind::Welcome as u8 {
        return Err(message(MessageError::Unknown { kind }));
    }
    let welcome = Welcome::decode(header).map_err(message)?;
    let (oldest, newest, version) = (hello.oldest, hello.newest, welcome.version);
    if (oldest..=newest).contains(&version) {
        return Ok(welcome);
    }
    Err(protocol(format!(
        "it wants to speak protocol version {version}, offered were {oldest} to {newest}: update the older of the two sides"
    )))
}

async fn write_frames(mut outbound: Outbound, mut frames: mpsc::Receiver<Frame>, waiting: Arc<Waiting>) {
    let written = waiting.over.or(write_queued(&mut outbound, &mut frames)).await;
    if let Some(Err(error)) = written {
        // A worker that closes says why: the reader may be about to hear it.
        let _ = clock::timeout(LAST_WORDS_WITHIN, waiting.over.wait()).await;
        waiting.close(&format!("write: {error}"));
    }
    outbound.close().await;
}

async fn write_queued(outbound: &mut Outbound, frames: &mut mpsc::Receiver<Frame>) -> io::Result<()> {
    while let Some(frame) = frames.recv().await {
        let mut gathered = frame.length();
        outbound.push_frame(frame);
        while gathered < WRITE_BYTES {
            let Ok(frame) = frames.try_recv() else { break };
            gathered += frame.length();
            outbound.push_frame(frame);
        }
        outbound.flush().await?;
    }
    Ok(())
}

async fn read_answers(mut inbound: Inbound<Pool>, waiting: Arc<Waiting>) {
    let reason = match waiting.over.or(take_answers(&mut inbound, &waiting)).await {
        None => "closed by this side".to_owned(),
        Some(Ok(reason)) => reason,
        Some(Err(error)) => format!("read: {error}"),
    };
    waiting.close(&reason);
}

/// Hands answers over until the worker ends the connection; returns why it did.
async fn take_answers(inbound: &mut Inbound<Pool>, waiting: &Waiting) -> Result<String, InboundError> {
    loop {
        while let Some(incoming) = inbound.buffered()? {
            match incoming {
                Incoming::Whole { kind, header, body } => {
                    if let Some(waiter) = waiting.take(header) {
                        waiter.answer(kind, header, |room| room.fill(body.len()).copy_from_slice(body), body.len());
                    } else if let Some(Failure { status, text, .. }) = farewell(kind, header) {
                        return Ok(format!("closed by the worker ({status}): {text}"));
                    }
                }
                Incoming::Large { kind, header, body_length } => {
                    let header = header.to_vec();
                    waiting.heard(true);
                    take_large(inbound, waiting, kind, &header, body_length).await?;
                    waiting.heard(false);
                }
            }
        }
        if !inbound.fill().await? {
            return Ok("closed by the worker".to_owned());
        }
        waiting.heard(false);
    }
}

/// What a worker says before it closes a connection: a failure of no request in particular.
fn farewell(kind: u8, header: &[u8]) -> Option<Failure> {
    let failure = (kind == Kind::Failure as u8).then(|| Failure::decode(header).ok()).flatten()?;
    (failure.request == 0).then_some(failure)
}

async fn take_large(
    inbound: &mut Inbound<Pool>,
    waiting: &Waiting,
    kind: u8,
    header: &[u8],
    body_length: usize,
) -> Result<(), InboundError> {
    let Some(mut waiter) = waiting.take(header) else { return inbound.skip_body().await };
    match &mut waiter.room {
        Some(room) if room.room() >= body_length => inbound.body_into(room.fill(body_length)).await?,
        _ => inbound.skip_body().await?,
    }
    waiter.answer(kind, header, |_| {}, body_length);
    Ok(())
}

impl Waiter {
    /// Hands an answer over. Nobody may be waiting any more; then it is dropped.
    fn answer(mut self, kind: u8, header: &[u8], fill: impl FnOnce(&mut Buffer), body_length: usize) {
        let answer = if kind == Kind::Failure as u8 {
            Err(match Failure::decode(header) {
                Ok(Failure { status, text, .. }) => CallError::Failed { status, text },
                Err(error) => CallError::Failed { status: Status::Malformed, text: error.to_string() },
            })
        } else {
            match &mut self.room {
                _ if body_length == 0 => Ok(Answer { kind, header: header.to_vec(), body: None }),
                Some(room) if room.room() >= body_length => {
                    fill(room);
                    Ok(Answer { kind, header: header.to_vec(), body: self.room.take() })
                }
                _ => Err(CallError::Failed {
                    status: Status::TooLarge,
                    text: format!("an answer of {body_length} bytes, more than was asked for"),
                }),
            }
        };
        let _ = self.sender.send(answer);
    }
}

impl Waiting {
    fn register(&self, request: u64, waiter: Waiter) -> Result<Registered<'_>, CallError> {
        self.insert(request, waiter)?;
        Ok(Registered { waiting: self, request })
    }

    fn insert(&self, request: u64, waiter: Waiter) -> Result<(), CallError> {
        match &mut *self.state.lock() {
            State::Open(waiters) => {
                let former = waiters.insert(request, waiter);
                debug_assert!(former.is_none(), "a request's number is used once");
                Ok(())
            }
            State::Closed(reason) => Err(CallError::Closed { reason: reason.clone() }),
        }
    }

    fn forget(&self, request: u64) {
        if let State::Open(waiters) = &mut *self.state.lock() {
            waiters.remove(&request);
        }
    }

    /// The waiter for the answer whose header this is.
    fn take(&self, header: &[u8]) -> Option<Waiter> {
        let request = u64::from_be_bytes(*header.first_chunk::<8>()?);
        match &mut *self.state.lock() {
            State::Open(waiters) => waiters.remove(&request),
            State::Closed(_) => None,
        }
    }

    fn asked(&self) {
        self.silence.lock().since.get_or_insert_with(clock::now);
    }

    fn heard(&self, receiving: bool) {
        *self.silence.lock() = Silence { since: None, receiving };
    }

    fn close_if_silent(&self) {
        let silent = {
            let silence = self.silence.lock();
            !silence.receiving && silence.since.is_some_and(|since| clock::since(since) >= SILENT_MAX)
        };
        if silent {
            self.close(&format!("nothing was heard of the worker for {} s", SILENT_MAX.as_secs()));
        }
    }

    fn close(&self, reason: &str) {
        let waiters = {
            let mut state = self.state.lock();
            match std::mem::replace(&mut *state, State::Closed(reason.to_owned())) {
                State::Open(waiters) => waiters,
                State::Closed(first) => {
                    *state = State::Closed(first);
                    return;
                }
            }
        };
        // Each of them finds the reason in the state. Freed after the lock is let go.
        drop(waiters);
        self.over.trigger();
    }

    fn reason(&self) -> CallError {
        match &*self.state.lock() {
            State::Open(_) => CallError::Closed { reason: "closing".to_owned() },
            State::Closed(reason) => CallError::Closed { reason: reason.clone() },
        }
    }
}

/// Gives a request's answer up when dropped.
struct Registered<'a> {
    waiting: &'a Waiting,
    request: u64,
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        self.waiting.forget(self.request);
    }
}
