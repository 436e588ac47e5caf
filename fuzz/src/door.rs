//! A gRPC door in this process, fed with the bytes of messages.
//!
//! Owns the calls: bytes in, bytes or a status out, and that a refusal is a clear one. Does not own what a door serves.

use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use mallorn_proto::reason::GRPC_REASON_KEY;
use mallorn_proto::status::GRPC_STATUS_KEY;
use mallorn_runtime::clock;
use prost::Message;
use tokio::runtime::Runtime;
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::service::Routes;
use tonic::{Request, Status};

use crate::allocations::most;

/// Most calls of one input.
pub const CALLS_MAX: usize = 32;
/// Memory that a call may hold for each byte of its message, in bytes. An empty entry of a list is two bytes on the wire,
/// and a hundred as a struct in a list that has just grown.
const BYTES_PER_BYTE: usize = 256;
/// What a call may hold beside that, in bytes.
const SPARE_BYTES: usize = 1 << 20;
/// How long a call is waited for; one that has nothing to wait for is answered at once.
const PATIENCE: Duration = Duration::from_millis(20);

/// What everything that is asynchronous runs on, one thread.
#[must_use]
pub fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime of one thread")
}

/// A door.
pub struct Door {
    routes: Routes,
    service: &'static str,
}

impl Door {
    /// The door of a service, by its full name.
    #[must_use]
    pub fn new(routes: Routes, service: &'static str) -> Self {
        Self { routes, service }
    }

    /// Makes a call, within its bounds of memory; `None` where the answer is one that waits.
    pub async fn call(&self, method: &str, message: Vec<u8>) -> Option<Result<Bytes, Status>> {
        let path = format!("/{}/{method}", self.service).parse::<PathAndQuery>().expect("a method's path");
        let limit = BYTES_PER_BYTE * message.len() + SPARE_BYTES;
        let mut door =
            Grpc::new(self.routes.clone()).max_decoding_message_size(mallorn_proto::limits::CONTROL_MESSAGE_BYTES_MAX);
        let called = async {
            door.ready().await.expect("a door in this process is ready");
            door.unary(Request::new(Bytes::from(message)), path, Raw).await
        };
        let (answer, held) = measured(clock::timeout(PATIENCE, called)).await;
        assert!(held <= limit, "{method} held {held} bytes, more than {limit}");
        let answer = answer.ok()?;
        Some(answer.map(tonic::Response::into_inner))
    }

    /// Makes a call with a message that may have been changed on its way: what is no message is refused as such, and any
    /// other refusal says which it is. Returns the answer.
    pub async fn ask<Q: Message + Default, A: Message + Default + PartialEq>(
        &self,
        method: &str,
        message: &[u8],
        mend: impl FnOnce(&mut Q),
    ) -> Option<(Q, A)> {
        let Ok(mut question) = Q::decode(message) else {
            let refused = self.call(method, message.to_vec()).await;
            assert!(matches!(refused, Some(Err(_))), "{method} takes what is no message");
            return None;
        };
        mend(&mut question);
        match self.call(method, question.encode_to_vec()).await? {
            Ok(answer) => {
                let answer = A::decode(answer).expect("a door answers with its message");
                Some((question, answer))
            }
            Err(refusal) => {
                let said = refusal.metadata();
                let is_clear = said.contains_key(GRPC_STATUS_KEY) || said.contains_key(GRPC_REASON_KEY);
                assert!(is_clear && !refusal.message().is_empty(), "{method} refuses without a word: {refusal:?}");
                None
            }
        }
    }
}

/// Awaits, and tells the most bytes that were held at any poll.
async fn measured<F: Future>(future: F) -> (F::Output, usize) {
    let mut future = Box::pin(future);
    let mut largest = 0;
    std::future::poll_fn(move |context| {
        let (polled, held) = most(|| future.as_mut().poll(context));
        largest = largest.max(held);
        polled.map(|output| (output, largest))
    })
    .await
}

/// Messages as they are.
#[derive(Clone, Copy, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        into.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}
