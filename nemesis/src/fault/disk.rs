//! Disks of one worker fill, fail, hang, are slow, lose power, are gone, or are those of another one; bits flip.

use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Duration;

use mallorn_client::Durability;
use mallorn_client::config::Compression;
use mallorn_runtime::clock;

use super::{Context, Fault, Running, Seen, WITHIN, seconds};
use crate::cluster::{Cluster, Spec, files_in};
use crate::disk::Disk;
use crate::failure::{Failure, must, struck, until};
use crate::job::{Job, Phase, Plan, Report};
use crate::privilege::Need;
use crate::tool;

const fn fault(name: &'static str, about: &'static str, needs: &'static [Need], run: fn(Context) -> Running) -> Fault {
    Fault { name, about, needs, within: WITHIN, run }
}

const LOOP: &[Need] = &[Need::Loop];
const NBD: &[Need] = &[Need::Loop, Need::Nbd];
const POWER: &[Need] = &[Need::Loop, Need::Shutdown];
const SLOW: &[Need] = &[Need::Loop, Need::Throttle];

pub(super) const ALL: &[Fault] = &[
    fault("disk-full", "a worker's disk of 64 MB is full; two copies", LOOP, |context| Box::pin(full(context))),
    fault("disk-inodes", "a worker's file system has no file left to give; two copies", LOOP, |context| {
        Box::pin(inodes(context))
    }),
    fault("disk-eio-write", "EIO for every write of a worker; two copies", NBD, |context| Box::pin(eio_write(context))),
    fault("disk-eio-read", "EIO for every read of a worker; two copies", NBD, |context| Box::pin(eio_read(context))),
    fault("disk-eio-one-copy", "EIO for every write of a worker; one copy", NBD, |context| {
        Box::pin(eio_one_copy(context))
    }),
    fault("disk-read-only", "a worker's file system meets an error and is read only; two copies", LOOP, |context| {
        Box::pin(read_only(context))
    }),
    fault("disk-slow", "a worker writes 1 MB/s; two copies", SLOW, |context| Box::pin(slow(context))),
    fault("disk-hung", "a worker's file system is frozen for 12 s; two copies", LOOP, |context| {
        Box::pin(hung(context))
    }),
    fault("power-synced", "a worker loses power after the commit; one copy, synced", POWER, |context| {
        Box::pin(power(context, Durability::Synced))
    }),
    fault("power-written", "the same, written only: lost by name", POWER, |context| {
        Box::pin(power(context, Durability::Written))
    }),
    fault("disk-gone", "a worker comes back with an empty disk; one copy: lost by name", &[], |context| {
        Box::pin(gone(context, 1))
    }),
    fault("disk-gone-two-copies", "the same with two copies", &[], |context| Box::pin(gone(context, 2))),
    fault("disk-swapped", "two workers come back with each other's disk; one copy, written", &[], |context| {
        Box::pin(swapped(context))
    }),
    fault("flip-data", "bits flip in what a worker has written; two copies", &[], |context| {
        Box::pin(flip_data(context, 2))
    }),
    fault("flip-data-one-copy", "the same with one copy: lost by name", &[], |context| Box::pin(flip_data(context, 1))),
    fault("flip-records", "bits flip in a worker's records; one copy: lost by name", &[], |context| {
        Box::pin(flip_records(context))
    }),
];

/// How often a disk may be taken for full in a scenario: twice, and once in ten seconds.
const HEALTH_CHANGES_MAX: usize = 8;

/// A cluster whose worker 0 writes to this disk.
async fn cluster_on(context: &Context, disk: &Disk, memory_mib: u32) -> Result<Cluster, Failure> {
    context.cluster(Spec { data: vec![(0, disk.data())], memory_mib, ..Spec::default() }).await
}

/// More than an arena of 32 MiB holds, so that it has to go to disk at once.
fn much(plan: Plan) -> Plan {
    Plan { units: 700, push_pause: Duration::from_millis(3), codec: Compression::None, ..plan }
}

async fn is_health(cluster: &Cluster, health: &str) -> bool {
    let label = format!("health=\"{health}\"");
    cluster.worker_metric(0, "disk_health", &label).await == Some(1.0)
}

/// Waits until worker 0 says that its disk is not well; returns how long that took, and what it says.
async fn until_ill(cluster: &Cluster, within: Duration) -> Result<String, Failure> {
    let came =
        until(within, async || cluster.worker_metric(0, "disk_health", "health=\"healthy\"").await == Some(0.0)).await;
    let Some(came) = came else { return Err(Failure::NotStruck("the worker finds its disk healthy".to_owned())) };
    for health in ["full", "failed", "slow"] {
        if is_health(cluster, health).await {
            return Ok(format!("{health} after {}", seconds(came)));
        }
    }
    Ok(format!("left after {}", seconds(came)))
}

fn said(probe: Result<(), String>, what: &str) -> Result<String, Failure> {
    match probe {
        Err(text) if text.contains(what) => Ok(format!("a probe says \"{what}\"")),
        Err(text) => Err(Failure::NotStruck(text)),
        Ok(()) => Err(Failure::NotStruck(format!("a probe does not meet \"{what}\""))),
    }
}

async fn full(context: Context) -> Result<Seen, Failure> {
    let disk = Disk::new(&context.folder, "disk-0", 64).await?;
    let mut cluster = cluster_on(&context, &disk, 32).await?;
    let job = Job::start(&cluster, much(Plan { units: 900, ..much(Plan::two_copies(context.seed)) })).await?;
    let ill = until_ill(&cluster, Duration::from_secs(30)).await?;
    let probed = said(disk.probe_write(64).await, "No space left")?;
    let report = job.finish(&cluster).await?;
    report.lost_nothing()?;
    let back = until(Duration::from_secs(15), async || is_health(&cluster, "healthy").await).await;
    must(back.is_some(), || "the disk has room again, and is not used".to_owned())?;
    cluster.all_run()?;
    let back = seconds(back.unwrap_or_default());
    Ok(Seen { struck: format!("{probed}, {ill}"), outcome: format!("{}, healthy {back} after that", report.summary()) })
}

/// There are bytes enough, and no files: the disk is full all the same, and is not tried all the time.
async fn inodes(context: Context) -> Result<Seen, Failure> {
    let disk = Disk::new(&context.folder, "disk-0", 128).await?;
    let mut cluster = cluster_on(&context, &disk, 32).await?;
    let used = disk.fill_inodes().await?;
    let job = Job::start(&cluster, much(Plan::two_copies(context.seed))).await?;
    let ill = until_ill(&cluster, Duration::from_secs(30)).await?;
    let probed = said(disk.probe_write(1).await, "No space left")?;
    let report = job.finish(&cluster).await?;
    report.lost_nothing()?;
    cluster.all_run()?;
    let changes = cluster.logged("disk_left");
    must(changes <= HEALTH_CHANGES_MAX, || format!("the disk was given up {changes} times"))?;
    Ok(Seen { struck: format!("{probed}, {used} files used up, {ill}"), outcome: report.summary() })
}

async fn eio_write(context: Context) -> Result<Seen, Failure> {
    let disk = Disk::failing(&context.folder, "disk-0", 512).await?;
    let mut cluster = cluster_on(&context, &disk, 32).await?;
    let job = Job::start(&cluster, much(Plan::two_copies(context.seed))).await?;
    job.reaches(Phase::Push, context.moment(10..50)).await?;
    disk.fail(true, false).await?;
    let probed = said(disk.probe_write(1).await, "Input/output error");
    let ill = until_ill(&cluster, Duration::from_secs(20)).await?;
    let report = job.finish_dirty().await?;
    report.lost_nothing()?;
    cluster.all_run()?;
    Ok(Seen { struck: format!("{}, {ill}", probed?), outcome: report.summary() })
}

async fn eio_read(context: Context) -> Result<Seen, Failure> {
    let disk = Disk::failing(&context.folder, "disk-0", 512).await?;
    let mut cluster = cluster_on(&context, &disk, 32).await?;
    let job = Job::start(&cluster, Plan { holds_reads: true, ..much(Plan::two_copies(context.seed)) }).await?;
    job.reaches(Phase::Committed, 0).await?;
    let segment = segments(&disk.data()).into_iter().next();
    let segment = segment.ok_or_else(|| Failure::NotStruck("nothing was written".to_owned()))?;
    disk.fail(false, true).await?;
    let probed = said(disk.probe_read(&segment).await, "Input/output error")?;
    job.let_read();
    job.reaches(Phase::Over, 0).await?;
    let failures = cluster.worker_metric(0, "read_failures_total", "").await.unwrap_or(0.0);
    disk.fail(false, false).await?;
    let report = job.finish_dirty().await?;
    report.lost_nothing()?;
    struck(failures > 0.0, || "the worker has not read from its disk".to_owned())?;
    cluster.all_run()?;
    Ok(Seen { struck: format!("{probed}, {failures} reads failed"), outcome: report.summary() })
}

async fn eio_one_copy(context: Context) -> Result<Seen, Failure> {
    let disk = Disk::failing(&context.folder, "disk-0", 512).await?;
    let mut cluster = cluster_on(&context, &disk, 32).await?;
    let plan = Plan { wait_for_return: Duration::from_secs(2), ..much(Plan::new(context.seed)) };
    let job = Job::start(&cluster, plan).await?;
    job.reaches(Phase::Push, context.moment(10..50)).await?;
    disk.fail(true, true).await?;
    let probed = said(disk.probe_write(1).await, "Input/output error");
    let ill = until_ill(&cluster, Duration::from_secs(20)).await?;
    let report = job.finish_dirty().await?;
    report.lost_by_name_or_nothing()?;
    cluster.all_run()?;
    Ok(Seen { struck: format!("{}, {ill}", probed?), outcome: report.summary() })
}

async fn read_only(context: Context) -> Result<Seen, Failure> {
    let disk = Disk::new(&context.folder, "disk-0", 512).await?;
    let mut cluster = cluster_on(&context, &disk, 32).await?;
    let job = Job::start(&cluster, much(Plan::two_copies(context.seed))).await?;
    job.reaches(Phase::Push, context.moment(10..50)).await?;
    disk.trigger_error().await?;
    let probed = said(disk.probe_write(1).await, "Read-only file system")?;
    let ill = until_ill(&cluster, Duration::from_secs(20)).await?;
    let report = job.finish_dirty().await?;
    report.lost_nothing()?;
    cluster.all_run()?;
    Ok(Seen { struck: format!("{probed}, {ill}"), outcome: report.summary() })
}

async fn slow(context: Context) -> Result<Seen, Failure> {
    let disk = Disk::new(&context.folder, "disk-0", 512).await?;
    let mut cluster = cluster_on(&context, &disk, 32).await?;
    let job = Job::start(&cluster, much(Plan::two_copies(context.seed))).await?;
    job.reaches(Phase::Push, context.moment(10..40)).await?;
    let pid = cluster.process(0)?.pid();
    let throttle = disk.throttle(pid, 1 << 20).await?;
    let written = async || cluster.worker_metric(0, "spilled_bytes_total", "").await.unwrap_or(0.0);
    let (began, before) = (clock::now(), written().await);
    job.pushed_all().await?;
    let rate = (written().await - before) / began.elapsed().as_secs_f64() / f64::from(1 << 20);
    let waits = cluster.worker_metric(0, "unwritten_bytes", "").await.unwrap_or(0.0) / f64::from(1 << 20);
    struck(rate < 2.0, || format!("the worker still writes {rate:.1} MiB/s"))?;
    throttle.lift().await?;
    let report = job.finish(&cluster).await?;
    report.lost_nothing()?;
    cluster.all_run()?;
    let struck = format!("it wrote {rate:.1} MiB/s, {waits:.0} MiB waited in its memory");
    Ok(Seen { struck, outcome: report.summary() })
}

async fn hung(context: Context) -> Result<Seen, Failure> {
    let disk = Disk::new(&context.folder, "disk-0", 512).await?;
    let mut cluster = cluster_on(&context, &disk, 32).await?;
    let job = Job::start(&cluster, much(Plan::two_copies(context.seed))).await?;
    job.reaches(Phase::Push, context.moment(10..40)).await?;
    disk.freeze().await?;
    let began = clock::now();
    let ill = until_ill(&cluster, Duration::from_secs(25)).await;
    let hangs = until(Duration::from_secs(15), async || cluster.logged("disk_hangs") > 0).await;
    // Others go on meanwhile.
    let pushed = job.pushed_all().await;
    let frozen = began.elapsed();
    disk.thaw().await?;
    let (ill, ()) = (ill?, pushed?);
    struck(hangs.is_some(), || "the worker does not say that its disk hangs".to_owned())?;
    let report = job.finish(&cluster).await?;
    report.lost_nothing()?;
    cluster.all_run()?;
    Ok(Seen { struck: format!("{ill}, frozen for {}", seconds(frozen)), outcome: report.summary() })
}

async fn power(context: Context, durability: Durability) -> Result<Seen, Failure> {
    let disk = Disk::new(&context.folder, "disk-0", 512).await?;
    let mut cluster = cluster_on(&context, &disk, 64).await?;
    let plan = Plan { durability, holds_reads: true, push_pause: Duration::from_millis(1), ..Plan::new(context.seed) };
    let job = Job::start(&cluster, plan).await?;
    job.reaches(Phase::Committed, 0).await?;
    let held = cluster.worker_metric(0, "locations", "").await.unwrap_or(0.0);
    disk.lose_power().await?;
    let probed = said(disk.probe_write(1).await, "Input/output error")?;
    let killed = cluster.kill(0).await?;
    disk.remount().await?;
    // After a loss of power it is another boot of the machine, and by that a worker knows what to check.
    let boot = context.folder.join("boot_id");
    tool::run(&["sh", "-c", &format!("echo 00000000-0000-4000-8000-000000000001 > {}", boot.display())]).await?;
    let script = "mount --bind \"$0\" /proc/sys/kernel/random/boot_id && exec \"$@\"";
    let through = ["unshare", "--mount", "sh", "-c", script, &boot.display().to_string()].map(str::to_owned);
    cluster.start_worker_by(0, &through).await?;
    let restored = cluster.worker_metric(0, "restored_locations_total", "").await.unwrap_or(0.0);
    let report = job.finish(&cluster).await?;
    match durability {
        Durability::Synced => {
            must(restored == held, || format!("{restored} of {held} locations came back"))?;
            report.lost_nothing()?;
        }
        Durability::Written | Durability::Memory => report.lost_by_name_or_nothing()?,
    }
    cluster.all_run()?;
    let outcome = format!("{restored} of {held} locations came back, {}", report.summary());
    Ok(Seen { struck: format!("{probed}, {killed}"), outcome })
}

/// A job that is committed and not read yet, whose worker 0 is dead.
async fn committed_and_killed(context: &Context, copies: u32, wait: Duration) -> Result<(Cluster, Job), Failure> {
    let mut cluster = context.cluster(Spec::default()).await?;
    let plan = Plan {
        copies,
        holds_reads: true,
        push_pause: Duration::from_millis(1),
        wait_for_return: wait,
        ..Plan::new(context.seed)
    };
    let job = Job::start(&cluster, plan).await?;
    job.reaches(Phase::Committed, 0).await?;
    let held = cluster.worker_metric(0, "locations", "").await.unwrap_or(0.0);
    struck(held > 0.0, || "the worker holds nothing".to_owned())?;
    cluster.kill(0).await?;
    Ok((cluster, job))
}

fn lost_as_promised(report: &Report, copies: u32) -> Result<(), Failure> {
    if copies == 2 { report.lost_nothing() } else { report.lost_by_name() }
}

/// Under the same name and address, but with nothing: it is another worker.
async fn gone(context: Context, copies: u32) -> Result<Seen, Failure> {
    let (mut cluster, job) = committed_and_killed(&context, copies, Duration::from_secs(1)).await?;
    let other = context.folder.join("another-disk");
    cluster.move_data(0, other);
    cluster.start_worker(0).await?;
    let restored = cluster.worker_metric(0, "restored_locations_total", "").await.unwrap_or(0.0);
    struck(restored == 0.0, || format!("it has found {restored} locations"))?;
    let report = job.finish(&cluster).await?;
    lost_as_promised(&report, copies)?;
    cluster.all_run()?;
    Ok(Seen { struck: "started with an empty folder".to_owned(), outcome: report.summary() })
}

/// A worker is who its disk says: nothing is lost when disks are swapped, and two can't have the same.
async fn swapped(context: Context) -> Result<Seen, Failure> {
    let (mut cluster, job) = committed_and_killed(&context, 1, Duration::from_secs(15)).await?;
    let (one, other) = (cluster.data(0).to_owned(), cluster.data(1).to_owned());
    cluster.move_data(0, other.clone());
    let refused = cluster.start_worker(0).await;
    let Err(Failure::Setup(refused)) = refused else {
        return Err(Failure::Wrong("a worker starts on a folder that another one uses".to_owned()));
    };
    must(refused.contains("ended instead of getting ready"), || refused.clone())?;
    cluster.kill(1).await?;
    cluster.move_data(1, one);
    cluster.start_worker(0).await?;
    cluster.start_worker(1).await?;
    let restored = cluster.metric("restored_locations_total", "").await;
    struck(restored > 0.0, || "nothing was found on the swapped disks".to_owned())?;
    let report = job.finish(&cluster).await?;
    report.lost_nothing()?;
    cluster.all_run()?;
    let struck = format!("refused while the other one runs; {restored} locations found on swapped disks");
    Ok(Seen { struck, outcome: report.summary() })
}

/// The files with shuffle data in a worker's folder.
fn segments(data: &Path) -> Vec<std::path::PathBuf> {
    let is_segment =
        |path: &std::path::PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("segment-"));
    files_in(data).into_iter().filter(is_segment).collect()
}

/// Flips one bit in every so many bytes of a file; how many.
fn flip(path: &Path, first: u64, every: u64) -> Result<u64, Failure> {
    let failed = |error: std::io::Error| Failure::Setup(format!("flip bits in {}: {error}", path.display()));
    let file = std::fs::OpenOptions::new().read(true).write(true).open(path).map_err(failed)?;
    let length = file.metadata().map_err(failed)?.len();
    let (mut at, mut flipped) = (first, 0);
    while at < length {
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).map_err(failed)?;
        file.write_all_at(&[byte[0] ^ 4], at).map_err(failed)?;
        flipped += 1;
        at += every;
    }
    Ok(flipped)
}

async fn flip_data(context: Context, copies: u32) -> Result<Seen, Failure> {
    let (mut cluster, job) = committed_and_killed(&context, copies, Duration::from_secs(15)).await?;
    let mut flipped = 0;
    for segment in segments(cluster.data(0)) {
        flipped += flip(&segment, 10_000, 128 * 1024)?;
    }
    struck(flipped > 0, || "nothing was written that could be spoilt".to_owned())?;
    cluster.start_worker(0).await?;
    let restored = cluster.worker_metric(0, "restored_locations_total", "").await.unwrap_or(0.0);
    job.let_read();
    job.reaches(Phase::Over, 0).await?;
    let fetched = cluster.worker_metric(0, "fetch_bytes_total", "").await.unwrap_or(0.0);
    let report = job.finish(&cluster).await?;
    lost_as_promised(&report, copies)?;
    cluster.all_run()?;
    struck(fetched > 0.0, || "nobody has read what was spoilt".to_owned())?;
    let outcome = format!("{restored} locations found again, {}", report.summary());
    let read = fetched / 1024.0;
    Ok(Seen { struck: format!("{flipped} bits flipped, {read:.0} KiB read there"), outcome })
}

async fn flip_records(context: Context) -> Result<Seen, Failure> {
    let (mut cluster, job) = committed_and_killed(&context, 1, Duration::from_secs(5)).await?;
    let mut flipped = 0;
    for path in files_in(cluster.data(0)).into_iter().filter(|path| path.ends_with("records")) {
        flipped += flip(&path, 150, 200)?;
    }
    struck(flipped > 0, || "there are no records".to_owned())?;
    cluster.start_worker(0).await?;
    let log = cluster.process(0)?.log();
    let noticed = log.count("records_torn") + log.count("records_lost") + log.count("location_lost");
    must(noticed > 0, || "the worker says nothing of its broken records".to_owned())?;
    let report = job.finish(&cluster).await?;
    report.lost_by_name()?;
    cluster.all_run()?;
    Ok(Seen { struck: format!("{flipped} bits flipped, {noticed} lines say so"), outcome: report.summary() })
}
