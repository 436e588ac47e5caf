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
    fault("kill-push", "kill -9 of a worker while maps push, one copy: lost by name", |context| {
        Box::pin(kill_push(context))
    }),
    fault("kill-replicate", "kill -9 of a worker while maps push, two copies", |context| {
        Box::pin(kill_replicate(context))
    }),
    fault("kill-commit", "kill -9 of a worker in the middle of the commit, two copies; it comes back", |context| {
        Box::pin(kill_commit(context))
    }),
    fault("kill-commit-one-copy", "the same with one copy: what it had not frozen is lost by name", |context| {
        Box::pin(kill_commit_one_copy(context))
    }),
    fault("kill-read", "kill -9 of a worker in the middle of reads, two copies", |context| {
        Box::pin(kill_read(context))
    }),
    fault("kill-read-one-copy", "the same with one copy, written: it comes back, and readers go on", |context| {
        Box::pin(kill_read_one_copy(context))
    }),
    fault("kill-all", "kill -9 of all workers at once after the commit, one copy, written", |context| {
        Box::pin(kill_all(context))
    }),
    fault("kill-master", "kill -9 of the master while maps push; it starts again", |context| {
        Box::pin(kill_master(context))
    }),
    fault("stop-worker", "SIGSTOP of a worker for longer than its lease, SIGCONT, two copies", |context| {
        Box::pin(stop_worker(context))
    }),
    fault("stop-master", "SIGSTOP of the master for longer than its workers' leases, SIGCONT", |context| {
        Box::pin(stop_master(context))
    }),
    fault("refused", "kill -9: how long until pushes go on elsewhere, once the port refuses", |context| {
        Box::pin(refused(context))
    }),
    fault("noticed", "kill -9: how long until the master says that the worker is lost", |context| {
        Box::pin(noticed(context))
    }),
];

/// What was pushed to the only copy and not committed is lost, by name; the maps run again.
async fn kill_push(context: Context) -> Result<Seen, Failure> {
    let victim = context.victim();
    let mut cluster = context.cluster(Spec::default()).await?;
    // Nobody waits for one that does not come.
    let plan = Plan { wait_for_return: Duration::ZERO, ..Plan::new(context.seed) };
    let job = Job::start(&cluster, plan).await?;
    job.reaches(Phase::Push, context.moment(20..70)).await?;
    let struck = cluster.kill(victim).await?;
    let report = job.finish(&cluster).await?;
    report.lost_by_name()?;
    cluster.all_run()?;
    Ok(Seen { struck, outcome: report.summary() })
}

/// With two copies the loss of one worker costs nothing.
async fn kill_replicate(context: Context) -> Result<Seen, Failure> {
    let victim = context.victim();
    let mut cluster = context.cluster(Spec::default()).await?;
    let plan = Plan { wait_for_return: Duration::ZERO, ..Plan::two_copies(context.seed) };
    let job = Job::start(&cluster, plan).await?;
    job.reaches(Phase::Push, context.moment(20..70)).await?;
    let replicated = cluster.worker_metric(victim, "replicated_bytes_total", "").await.unwrap_or(0.0);
    struck(replicated > 0.0, || "the worker has forwarded nothing yet".to_owned())?;
    let struck = cluster.kill(victim).await?;
    let report = job.finish(&cluster).await?;
    report.lost_nothing()?;
    cluster.all_run()?;
    let struck = format!("{struck}, {:.0} KiB forwarded before", replicated / 1024.0);
    Ok(Seen { struck, outcome: report.summary() })
}

/// Stops a worker before the last map ends, so that the commit waits for its answer, and kills it once that is seen.
async fn strike_commit(cluster: &mut Cluster, job: &Job, victim: u8) -> Result<String, Failure> {
    job.all_but_the_last_won().await?;
    cluster.process(victim)?.signal(Signal::STOP)?;
    job.let_end();
    job.reaches(Phase::Commit, 0).await?;
    clock::sleep(Duration::from_millis(300)).await;
    struck(!job.is_at(Phase::Committed, 0), || "the commit did not wait for the stopped worker".to_owned())?;
    Ok(format!("{} while the commit waited for it", cluster.kill(victim).await?))
}

/// A quick job whose commit begins at a moment that is known.
fn held(plan: Plan) -> Plan {
    Plan { holds_last_map: true, push_pause: Duration::from_millis(1), ..plan }
}

async fn kill_commit(context: Context) -> Result<Seen, Failure> {
    let victim = context.victim();
    let mut cluster = context.cluster(Spec::default()).await?;
    let job = Job::start(&cluster, held(Plan::two_copies(context.seed))).await?;
    let struck = strike_commit(&mut cluster, &job, victim).await?;
    cluster.start_worker(victim).await?;
    let report = job.finish(&cluster).await?;
    report.lost_nothing()?;
    cluster.all_run()?;
    Ok(Seen { struck, outcome: report.summary() })
}

async fn kill_commit_one_copy(context: Context) -> Result<Seen, Failure> {
    let victim = context.victim();
    let mut cluster = context.cluster(Spec::default()).await?;
    let job = Job::start(&cluster, held(Plan::new(context.seed))).await?;
    let struck = strike_commit(&mut cluster, &job, victim).await?;
    cluster.start_worker(victim).await?;
    let report = job.finish(&cluster).await?;
    report.lost_by_name()?;
    cluster.all_run()?;
    Ok(Seen { struck, outcome: report.summary() })
}

/// Reads that take a few seconds.
fn slow_reads(plan: Plan) -> Plan {
    // So many partitions that each worker has some that are still to be read.
    let partitions = 40;
    Plan { partitions, read_pause: Duration::from_millis(8), push_pause: Duration::from_millis(1), ..plan }
}

async fn kill_read(context: Context) -> Result<Seen, Failure> {
    let victim = context.victim();
    let mut cluster = context.cluster(Spec::default()).await?;
    let job = Job::start(&cluster, slow_reads(Plan::two_copies(context.seed))).await?;
    job.reaches(Phase::Read, context.moment(10..40)).await?;
    let struck = cluster.kill(victim).await?;
    let report = job.finish(&cluster).await?;
    report.lost_nothing()?;
    crate::failure::struck(report.clients.read_failovers > 0, || "nobody was reading from that worker".to_owned())?;
    cluster.all_run()?;
    Ok(Seen { struck, outcome: report.summary() })
}

async fn kill_read_one_copy(context: Context) -> Result<Seen, Failure> {
    let victim = context.victim();
    let mut cluster = context.cluster(Spec::default()).await?;
    let job = Job::start(&cluster, slow_reads(Plan::new(context.seed))).await?;
    job.reaches(Phase::Read, context.moment(10..40)).await?;
    let struck = cluster.kill(victim).await?;
    cluster.start_worker(victim).await?;
    let restored = cluster.worker_metric(victim, "restored_locations_total", "").await.unwrap_or(0.0);
    struck_restored(restored)?;
    let report = job.finish(&cluster).await?;
    report.lost_nothing()?;
    cluster.all_run()?;
    Ok(Seen { struck, outcome: format!("{restored} locations found again, {}", report.summary()) })
}

fn struck_restored(restored: f64) -> Result<(), Failure> {
    must(restored > 0.0, || "the worker found nothing again that it had sealed".to_owned())
}

async fn kill_all(context: Context) -> Result<Seen, Failure> {
    let mut cluster = context.cluster(Spec::default()).await?;
    let plan = Plan { holds_reads: true, push_pause: Duration::from_millis(1), ..Plan::new(context.seed) };
    let job = Job::start(&cluster, plan).await?;
    job.reaches(Phase::Committed, 0).await?;
    let struck = cluster.kill_all().await?;
    for worker in 0..3 {
        cluster.start_worker(worker).await?;
    }
    let restored = cluster.metric("restored_locations_total", "").await;
    struck_restored(restored)?;
    let report = job.finish(&cluster).await?;
    report.lost_nothing()?;
    cluster.all_run()?;
    Ok(Seen { struck, outcome: format!("{restored} locations found again, {}", report.summary()) })
}

/// Running shuffles push, commit and read on without a master.
async fn kill_master(context: Context) -> Result<Seen, Failure> {
    let mut cluster = context.cluster(Spec::default()).await?;
    let job = Job::start(&cluster, Plan::two_copies(context.seed)).await?;
    let moment = context.moment(10..60);
    job.reaches(Phase::Push, moment).await?;
    let struck = cluster.kill_master().await?;
    job.reaches(Phase::Push, moment + 20).await?;
    cluster.start_master().await?;
    let known = cluster.until_live(3).await?;
    let report = job.finish(&cluster).await?;
    report.failed_nothing()?;
    cluster.all_run()?;
    let outcome = format!("knows 3 workers {} after its restart, {}", seconds(known), report.summary());
    Ok(Seen { struck, outcome })
}

/// A worker that was declared lost and wakes up harms nobody: it registers again, and what it says is not believed.
async fn stop_worker(context: Context) -> Result<Seen, Failure> {
    let victim = context.victim();
    let mut cluster = context.cluster(Spec::default()).await?;
    let plan = Plan { push_pause: Duration::from_millis(25), ..Plan::two_copies(context.seed) };
    let job = Job::start(&cluster, plan).await?;
    job.reaches(Phase::Push, context.moment(10..30)).await?;
    cluster.process(victim)?.signal(Signal::STOP)?;
    let lost = cluster.until_master("mallorn_master_workers", "state=\"lost\"", |lost| lost == 1.0).await?;
    let expired = cluster.master_metric("mallorn_master_expired_total", "worker").await.unwrap_or(0.0);
    cluster.process(victim)?.signal(Signal::CONT)?;
    let back = cluster.until_live(3).await?;
    let again = cluster.worker_metric(victim, "register_again_total", "").await.unwrap_or(0.0);
    struck(expired >= 1.0 && again >= 1.0, || format!("{expired} leases ended, {again} times registered again"))?;
    let fenced = cluster.process(victim)?.log().count("incarnation_over");
    must(fenced > 0, || "the worker's earlier incarnation was not closed".to_owned())?;
    let report = job.finish(&cluster).await?;
    report.lost_nothing()?;
    cluster.all_run()?;
    let struck = format!("lease over after {}, registered again {} after SIGCONT", seconds(lost), seconds(back));
    Ok(Seen { struck, outcome: format!("earlier incarnation closed, {}", report.summary()) })
}

/// A master that was late extends every lease by its own gap: it may lose nobody for that.
async fn stop_master(context: Context) -> Result<Seen, Failure> {
    let spec = Spec::default();
    let pause = spec.worker_lease * 2;
    let mut cluster = context.cluster(spec).await?;
    let plan = Plan { push_pause: Duration::from_millis(25), ..Plan::two_copies(context.seed) };
    let job = Job::start(&cluster, plan).await?;
    job.reaches(Phase::Push, 20).await?;
    let before = cluster.master_metric("mallorn_master_tick_late_seconds_total", "").await.unwrap_or(0.0);
    cluster.master_process()?.signal(Signal::STOP)?;
    clock::sleep(pause).await;
    cluster.master_process()?.signal(Signal::CONT)?;
    let late = cluster
        .until_master("mallorn_master_tick_late_seconds_total", "", |late| late - before > pause.as_secs_f64() / 2.0)
        .await;
    struck(late.is_ok(), || "the master did not notice that it was late".to_owned())?;
    let expired = cluster.master_metric("mallorn_master_expired_total", "worker").await.unwrap_or(0.0);
    must(expired == 0.0, || format!("{expired} workers were declared lost while the master itself stood still"))?;
    let report = job.finish(&cluster).await?;
    report.failed_nothing()?;
    cluster.all_run()?;
    Ok(Seen { struck: format!("its tick was {} late", seconds(pause)), outcome: report.summary() })
}

/// The time from the kill until an attempt that had everything there has pushed to every partition and ended.
async fn refused(context: Context) -> Result<Seen, Failure> {
    // The lease must not be what helps.
    let spec =
        Spec { worker_lease: Duration::from_secs(30), application_lease: Duration::from_secs(60), ..Spec::default() };
    let victim = context.victim();
    let mut cluster = context.cluster(spec).await?;
    let plan = Plan {
        pushes_again: true,
        twice_percent: 0,
        maps: 4,
        push_pause: Duration::from_millis(1),
        ..Plan::two_copies(context.seed)
    };
    let job = Job::start(&cluster, plan).await?;
    job.pushed_all().await?;
    let struck = cluster.kill(victim).await?;
    let began = clock::now();
    job.let_end();
    job.reaches(Phase::Commit, 0).await?;
    let went_on = began.elapsed();
    let splits = job.clients().hard_splits;
    crate::failure::struck(splits > 0, || "nothing had to go on elsewhere".to_owned())?;
    must(went_on < Duration::from_secs(2), || format!("pushes went on after {} only", seconds(went_on)))?;
    let report = job.finish(&cluster).await?;
    report.lost_nothing()?;
    let outcome = format!("pushes went on after {} ({splits} moves), {}", seconds(went_on), report.summary());
    Ok(Seen { struck, outcome })
}

/// A silent worker is lost when its lease is over, give or take the master's tick.
async fn noticed(context: Context) -> Result<Seen, Failure> {
    let spec = Spec::default();
    let lease = spec.worker_lease;
    let victim = context.victim();
    let mut cluster = context.cluster(spec).await?;
    let began = clock::now();
    let struck = cluster.kill(victim).await?;
    cluster.until_master("mallorn_master_workers", "state=\"lost\"", |lost| lost == 1.0).await?;
    let noticed = began.elapsed();
    // Its last heartbeat may be as old as the time between two, and the lease counts from there.
    must(noticed < lease + lease / 4, || format!("noticed after {} only", seconds(noticed)))?;
    cluster.all_run()?;
    Ok(Seen { struck, outcome: format!("lost after {} of a lease of {}", seconds(noticed), seconds(lease)) })
}
