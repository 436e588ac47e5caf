//! The application's lease at the master: taken at start, renewed with what was released, given back at the end.

use std::sync::Arc;
use std::time::Duration;

use mallorn_proto::id::Application;
use mallorn_proto::limits::PAGE_LOCATIONS_MAX;
use mallorn_proto::reason::Reason;
use mallorn_proto::status::{Status, from_grpc};
use mallorn_proto::v1;
use mallorn_runtime::clock;

use super::workers::Workers;
use super::{Shared, application_of};
use crate::error::{LifecycleError, StartError};

/// How long the registration goes on trying to reach the master.
const REGISTER_WITHIN: Duration = Duration::from_secs(10);
const REGISTER_PAUSE: Duration = Duration::from_millis(200);
/// The least between two renewals, however short a lease the master names.
const RENEW_PAUSE_MIN: Duration = Duration::from_millis(100);

pub(super) async fn register(
    workers: &Workers,
    application: &Application,
) -> Result<v1::RegisterApplicationReply, StartError> {
    let deadline = clock::now() + REGISTER_WITHIN;
    loop {
        let application = Some(application.clone().into());
        let request = v1::RegisterApplicationRequest { cluster: workers.cluster.clone(), application };
        let error = match workers.master().register_application(request).await {
            Ok(reply) => return Ok(reply.into_inner()),
            Err(error) => error,
        };
        let out_of_reach = from_grpc(&error) == Status::ShuttingDown;
        if !out_of_reach || clock::now() >= deadline {
            return Err(StartError::Master { text: crate::error::describe(&error) });
        }
        clock::sleep(workers.random.jitter(REGISTER_PAUSE)).await;
    }
}

/// Renews until shutdown. The lease ends at the master alone; while the master is away everything carries on.
pub(super) async fn keep(shared: Arc<Shared>, lease: Duration) {
    let (mut pause, mut from) = (lease / 3, 0);
    while shared.shutdown.or(clock::sleep(shared.random.jitter(pause).max(RENEW_PAUSE_MIN))).await.is_some() {
        pause = match renew(&shared, &mut from).await {
            Ok(lease_ms) => Duration::from_millis(lease_ms) / 3,
            Err(error) if from_grpc(&error) == Status::Fenced => {
                shared.truth.lock().fenced = true;
                shared.changed();
                tracing::error!(event = "application_fenced", application = %shared.application, %error);
                return;
            }
            Err(error) => {
                tracing::warn!(event = "renewal_failed", %error);
                lease / 10
            }
        };
    }
}

/// Renews, and tells what was released: where that is more than one call takes, what follows `from`, which then moves on.
async fn renew(shared: &Shared, from: &mut u32) -> Result<u64, tonic::Status> {
    let (released, next) = {
        let truth = shared.truth.lock();
        let (runs, next) = truth.lifecycle.released_wire_from(*from, PAGE_LOCATIONS_MAX);
        (runs.iter().cloned().map(Into::into).collect(), next)
    };
    let cluster = shared.workers.cluster.clone();
    let request = v1::RenewApplicationRequest { cluster, application: application_of(shared), released };
    let lease_ms = shared.workers.master().renew_application(request).await?.into_inner().lease_ms;
    *from = next;
    Ok(lease_ms)
}

pub(super) async fn end(shared: &Shared) -> Result<(), LifecycleError> {
    let cluster = shared.workers.cluster.clone();
    let request = v1::EndApplicationRequest { cluster, application: application_of(shared) };
    match shared.workers.master().end_application(request).await {
        Ok(_) => Ok(()),
        Err(error) if from_grpc(&error) == Status::Fenced => {
            Err(LifecycleError::refused(Reason::Fenced, error.message().to_owned()))
        }
        Err(error) => Err(LifecycleError::Unreachable { text: crate::error::describe(&error) }),
    }
}
