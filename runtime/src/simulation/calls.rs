//! Calls of the control plane that go wrong: they arrive once more, or their answer is lost.
//!
//! Owns the channel that stands in for tonic's. What becomes of each call the host draws. A call that arrives once more is
//! a call of its own, whose answer nobody waits for: so it may overtake, and be late by as much as is drawn.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use http_body_util::{BodyExt as _, Full};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tonic::transport::Error;
use tower::{Service, ServiceExt as _};

use super::{CallFate, here};
use crate::{clock, task};

type Calling = Pin<Box<dyn Future<Output = Result<Response<Body>, Error>> + Send>>;

/// A channel of the simulation.
#[derive(Clone, Debug)]
pub struct Channel {
    inner: tonic::transport::Channel,
}

impl Channel {
    pub(crate) fn new(inner: tonic::transport::Channel) -> Self {
        Self { inner }
    }
}

impl Service<Request<Body>> for Channel {
    type Response = Response<Body>;
    type Error = Error;
    type Future = Calling;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Calling {
        let (mut ready, fate) = (self.inner.clone(), here().map_or(CallFate::Answered, |host| host.call_fate()));
        std::mem::swap(&mut ready, &mut self.inner);
        match fate {
            CallFate::Answered => Box::pin(ready.call(request)),
            CallFate::Unanswered => Box::pin(async move {
                ready.call(request).await?;
                tracing::info!(event = "answer_lost");
                Ok(Status::unavailable("the answer was lost").into_http())
            }),
            CallFate::Repeated(after) => Box::pin(async move {
                let (first, second) = twice(request).await;
                let answer = ready.call(first).await;
                task::spawn(async move {
                    clock::sleep(after).await;
                    let answered = ready.oneshot(second).await.is_ok();
                    tracing::info!(event = "call_repeated", late_by_ms = clock::millis(after), answered);
                });
                answer
            }),
        }
    }
}

/// The same request twice. Requests are one message each, and in memory.
async fn twice(request: Request<Body>) -> (Request<Body>, Request<Body>) {
    let (head, body) = request.into_parts();
    let bytes = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let of = |head| Request::from_parts(head, Body::new(Full::new(bytes.clone())));
    (of(head.clone()), of(head))
}
