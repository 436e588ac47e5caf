//! Processes die, stop, and come back: at each stage of a job.

use std::time::Duration;

use mallorn_runtime::clock;
use rustix::process::Signal;

use super::{Context, Fault, Running, Seen, WITHIN, seconds};
use crate::cluster::{Cluster, Spec};
use crate::failure::{Failure, must, struck};
use crate::job::{Job, Phase, Plan};

const fn fault(name: &'static str, about: &'static str, run: fn(Context) -> Running) -> Fault {
    Fault { name, about, needs: &[], within: WITHIN, run }
}

pub(super) const ALL: &[Fault] = &[
    fault("kill-push", "kill -9 of a worker while maps push, one copy", |context| Box::pin(kill_push(context))),
    fault("kill-replicate", "kill -9 of a worker while maps push, two copies", |context| {
        Box::pin(kill_replicate(context))
    }),
];

/// What was pushed to the only copy and not committed is lost, by name; the maps run again.
async fn kill_push(context: Context) -> Result<Seen, Failure> {
    let mut cluster = context.cluster(Spec::default()).await?;
    // Nobody waits for one that does not come.
    let plan = Plan { wait_for_return: Duration::ZERO, ..Plan::new(context.seed) };
    let job = Job::start(&cluster, plan).await?;
    job.reaches(Phase::Push, 40).await?;
    let struck = cluster.kill(0).await?;
    let report = job.finish(&cluster).await?;
    report.lost_by_name()?;
    cluster.all_run()?;
    Ok(Seen { struck, outcome: report.summary() })
}

/// With two copies the loss of one worker costs nothing.
async fn kill_replicate(context: Context) -> Result<Seen, Failure> {
    let mut cluster = context.cluster(Spec::default()).await?;
    let plan = Plan { wait_for_return: Duration::ZERO, ..Plan::two_copies(context.seed) };
    let job = Job::start(&cluster, plan).await?;
    job.reaches(Phase::Push, 40).await?;
    let struck = cluster.kill(0).await?;
    let report = job.finish(&cluster).await?;
    report.lost_nothing()?;
    cluster.all_run()?;
    Ok(Seen { struck, outcome: report.summary() })
}
