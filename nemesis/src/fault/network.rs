//! Links are cut, in both directions and in one, flap, and connections are reset in the middle of a frame.

use std::time::Duration;

use mallorn_runtime::clock;

use super::{Context, Fault, Running, Seen, WITHIN, seconds};
use crate::cluster::{CONTROL_PORT, Cluster, DATA_PORT, SUITE, Spec, Way};
use crate::failure::{Failure, must, struck, until};
use crate::job::{Job, Phase, Plan};
use crate::privilege::Need;
use crate::proxy::{CUT_WITHIN, Proxy};

const fn fault(name: &'static str, about: &'static str, run: fn(Context) -> Running) -> Fault {
    Fault { name, about, needs: &[Need::Network], within: WITHIN, run }
}

pub(super) const ALL: &[Fault] = &[
    fault("cut-worker-master", "a worker and its master, for longer than its lease; two copies", |context| {
        Box::pin(cut_worker_master(context))
    }),
    fault("cut-client-worker", "what clients and driver send to a worker, one way; two copies", |context| {
        Box::pin(cut_client_worker(context))
    }),
    fault("cut-worker-client", "what a worker sends to clients and driver, one way; two copies", |context| {
        Box::pin(cut_worker_client(context))
    }),
    fault("cut-worker-worker", "two workers that keep copies of each other", |context| {
        Box::pin(cut_worker_worker(context))
    }),
    fault(
        "cut-driver-master",
        "driver and clients from the master, for less than the application's lease",
        |context| Box::pin(cut_driver_master(context)),
    ),
    fault("flapping", "a worker's cable is pulled and put in again and again; two copies", |context| {
        Box::pin(flapping(context))
    }),
    fault("reset", "a worker's established connections are answered with resets; two copies", |context| {
        Box::pin(reset(context))
    }),
    Fault {
        name: "reset-mid-frame",
        about: "connections of clients and replicas to a worker break in the middle of a frame; two copies",
        needs: &[],
        within: WITHIN,
        run: |context| Box::pin(reset_mid_frame(context)),
    },
];

/// A job of two copies whose pushes go on for about five seconds, on machines of their own.
async fn begin(context: &Context) -> Result<(Cluster, Job), Failure> {
    let cluster = context.cluster(Spec { is_networked: true, ..Spec::default() }).await?;
    let plan = Plan {
        push_pause: Duration::from_millis(10),
        call_within: Duration::from_secs(2),
        ..Plan::two_copies(context.seed)
    };
    let job = Job::start(&cluster, plan).await?;
    job.reaches(Phase::Push, context.moment(5..30)).await?;
    Ok((cluster, job))
}

async fn healed(cluster: &Cluster, node: u8) -> Result<String, Failure> {
    let dropped = cluster.network()?.heal(node).await?;
    struck(dropped > 0, || "the cut has dropped nothing".to_owned())?;
    Ok(format!("{dropped} packets dropped"))
}

async fn end(mut cluster: Cluster, job: Job, struck: String) -> Result<Seen, Failure> {
    let report = job.finish(&cluster).await?;
    report.lost_nothing()?;
    cluster.all_run()?;
    Ok(Seen { struck, outcome: report.summary() })
}

async fn cut_worker_master(context: Context) -> Result<Seen, Failure> {
    let (mut cluster, job) = begin(&context).await?;
    let worker = Cluster::node(context.victim());
    cluster.network()?.cut(worker, Cluster::master_node(), Way::Both).await?;
    let lost = cluster.until_master("mallorn_master_workers", "state=\"lost\"", |lost| lost == 1.0).await?;
    let dropped = healed(&cluster, worker).await?;
    let back = cluster.until_live(3).await?;
    must(cluster.process(context.victim())?.log().count("register_again") > 0, || {
        "it did not register again".to_owned()
    })?;
    let times = format!("{dropped}, lost after {}, back {} after the cut", seconds(lost), seconds(back));
    end(cluster, job, times).await
}

async fn cut_client_worker(context: Context) -> Result<Seen, Failure> {
    cut_from_suite(&context, Way::In).await
}

async fn cut_worker_client(context: Context) -> Result<Seen, Failure> {
    cut_from_suite(&context, Way::Out).await
}

/// Clients must go on elsewhere while the cut is there, and need nothing of the worker before it is gone.
async fn cut_from_suite(context: &Context, way: Way) -> Result<Seen, Failure> {
    let (cluster, job) = begin(context).await?;
    let worker = Cluster::node(context.victim());
    let before = job.clients().hard_splits;
    cluster.network()?.cut(worker, SUITE, way).await?;
    let began = clock::now();
    let moved = until(Duration::from_secs(20), async || job.clients().hard_splits > before).await;
    job.pushed_all().await?;
    let pushed = began.elapsed();
    let dropped = healed(&cluster, worker).await?;
    must(moved.is_some(), || "no push went on elsewhere".to_owned())?;
    let moved = seconds(moved.unwrap_or_default());
    end(cluster, job, format!("{dropped}, pushes moved after {moved}, all done {} into the cut", seconds(pushed))).await
}

async fn cut_worker_worker(context: Context) -> Result<Seen, Failure> {
    let (cluster, job) = begin(&context).await?;
    let victim = context.victim();
    let (one, other) = (Cluster::node(victim), Cluster::node((victim + 1) % 3));
    cluster.network()?.cut(one, other, Way::Both).await?;
    let failed = async || cluster.metric("replica_failures_total", "").await > 0.0;
    let noticed = until(Duration::from_secs(20), failed).await;
    job.pushed_all().await?;
    let dropped = healed(&cluster, one).await?;
    struck(noticed.is_some(), || "no copy failed".to_owned())?;
    let failures = cluster.metric("replica_failures_total", "").await;
    let noticed = seconds(noticed.unwrap_or_default());
    end(cluster, job, format!("{dropped}, {failures} copies given up, the first after {noticed}")).await
}

/// Running shuffles do not need the master.
async fn cut_driver_master(context: Context) -> Result<Seen, Failure> {
    let (mut cluster, job) = begin(&context).await?;
    let master = Cluster::master_node();
    cluster.network()?.cut(master, SUITE, Way::Both).await?;
    job.reaches(Phase::Push, 80).await?;
    let dropped = healed(&cluster, master).await?;
    let report = job.finish(&cluster).await?;
    report.failed_nothing()?;
    cluster.all_run()?;
    Ok(Seen { struck: dropped, outcome: report.summary() })
}

async fn flapping(context: Context) -> Result<Seen, Failure> {
    let (cluster, job) = begin(&context).await?;
    let (network, worker) = (cluster.network()?, Cluster::node(context.victim()));
    let before = network.plugged(worker).await?;
    for _ in 0..6 {
        network.plug(worker, false).await?;
        clock::sleep(Duration::from_millis(250)).await;
        network.plug(worker, true).await?;
        clock::sleep(Duration::from_millis(350)).await;
    }
    let changes = network.plugged(worker).await? - before;
    struck(changes >= 12, || format!("the cable changed {changes} times"))?;
    end(cluster, job, format!("the cable changed {changes} times")).await
}

async fn reset(context: Context) -> Result<Seen, Failure> {
    let (cluster, job) = begin(&context).await?;
    let worker = Cluster::node(context.victim());
    let before = job.clients().repushed_batches;
    cluster.network()?.reset(worker, SUITE).await?;
    let repushed = until(Duration::from_secs(5), async || job.clients().repushed_batches > before).await;
    let dropped = healed(&cluster, worker).await?;
    struck(repushed.is_some(), || "no client had to push again".to_owned())?;
    end(cluster, job, format!("{dropped} with a reset")).await
}

async fn reset_mid_frame(context: Context) -> Result<Seen, Failure> {
    let front = Cluster::front(0);
    let spec = Spec { own_settings: vec![(0, format!("worker.advertised_host={front}"))], ..Spec::default() };
    let cluster = context.cluster(spec).await?;
    let (control, data) = (format!("{front}:{CONTROL_PORT}"), format!("{front}:{DATA_PORT}"));
    let _calls = Proxy::start(&control, format!("{}:{CONTROL_PORT}", cluster.host(0))).await?;
    let frames = Proxy::start(&data, format!("{}:{DATA_PORT}", cluster.host(0))).await?;
    let plan = Plan { push_pause: Duration::from_millis(10), ..Plan::two_copies(context.seed) };
    let job = Job::start(&cluster, plan).await?;
    let cuts = [(20, 2), (40, 3), (60, 3)];
    for (percent, count) in cuts {
        job.reaches(Phase::Push, percent).await?;
        frames.cut_next(count);
    }
    let all: u64 = cuts.iter().map(|(_, count)| count).sum();
    let cut = until(CUT_WITHIN, async || frames.cut() >= all || job.is_over()).await;
    struck(cut.is_some() && frames.cut() > 0, || "no connection was cut".to_owned())?;
    let struck = format!("{} connections cut in the middle of a frame", frames.cut());
    end(cluster, job, struck).await
}
