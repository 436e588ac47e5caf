//! A client's calls to its lifecycle manager: every one names the instance, and is repeated while the manager is out of
//! reach, as long as a call may take in all. All of them can be repeated without harm.

use std::future::Future;
use std::time::Duration;

use mallorn_proto::id::Instance;
use mallorn_proto::limits::CONTROL_MESSAGE_BYTES_MAX;
use mallorn_proto::v1::lifecycle_client::LifecycleClient;
use mallorn_runtime::backoff::Backoff;
use mallorn_runtime::clock;
use mallorn_runtime::grpc::{self, Channel};
use mallorn_runtime::random::Random;
use prometheus::IntCounter;
use tonic::{Response, Status};

use crate::error::LifecycleError;
use crate::lifecycle::LIFECYCLE_WAIT_MAX;

const PAUSE_FIRST: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(2);

#[derive(Clone, Debug)]
pub(crate) struct Link {
    door: LifecycleClient<Channel>,
    pub(crate) instance: Instance,
    within: Duration,
    random: Random,
    /// Calls made.
    pub(crate) calls: IntCounter,
}

impl Link {
    pub(crate) fn new(address: &str, within: Duration, random: Random) -> std::io::Result<Self> {
        // The manager itself may wait before it answers; that is not the time that the call takes.
        let door = LifecycleClient::new(grpc::channel(address, within + LIFECYCLE_WAIT_MAX)?)
            .max_decoding_message_size(CONTROL_MESSAGE_BYTES_MAX)
            .max_encoding_message_size(CONTROL_MESSAGE_BYTES_MAX);
        let calls = IntCounter::new("mallorn_client_calls_total", "Calls to the lifecycle manager.");
        let calls = calls.map_err(std::io::Error::other)?;
        Ok(Self { door, instance: Instance(0), within, random, calls })
    }

    /// Makes a call, again and again while the manager is out of reach.
    pub(crate) async fn call<T, F>(&self, call: impl Fn(LifecycleClient<Channel>) -> F) -> Result<T, LifecycleError>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let deadline = clock::now() + self.within;
        let mut backoff = Backoff::new(PAUSE_FIRST, PAUSE_MAX);
        loop {
            self.calls.inc();
            let error = match call(self.door.clone()).await {
                Ok(reply) => return Ok(reply.into_inner()),
                Err(error) => LifecycleError::from_grpc(&error),
            };
            if error.reason().is_some() || clock::now() + backoff.next() >= deadline {
                return Err(error);
            }
            backoff.wait(&self.random).await;
        }
    }
}
