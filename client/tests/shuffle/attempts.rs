//! What an attempt does to the rest: its end, its failure, its locations.

use mallorn_client::{PushError, Reason};
use mallorn_proto::message::Kind;
use mallorn_proto::status::Status;
use mallorn_proto::v1;
use mallorn_runtime::config::ByteSize;

use crate::cluster::Cluster;
use crate::fakes::{FakeLifecycle, FakeWorker, hasty};
use crate::nonsense::statuses;

#[tokio::test]
async fn nothing_can_be_pushed_after_the_end_was_asked_for() {
    let worker = FakeWorker::start(|asked| Some(statuses(asked, Status::Success))).await;
    let driver = FakeLifecycle::start(2, &worker.address).await;
    let client = driver.client(hasty()).await;
    let mut attempt = client.start_attempt(0, 0, 0).await.unwrap();
    attempt.push(0, b"unit").await.unwrap();
    {
        let end = attempt.mapper_end();
        tokio::pin!(end);
        let once = std::future::poll_fn(|cx| std::task::Poll::Ready(end.as_mut().poll(cx))).await;
        assert!(once.is_pending());
    }
    for partition in 0..2 {
        assert_eq!(attempt.push(partition, b"late").await.unwrap_err(), PushError::Ended);
    }
    let large = bytes::Bytes::from(vec![1; 100_000]);
    assert_eq!(attempt.push_owned(1, large.clone()).await.unwrap_err(), PushError::Ended);
    assert!(attempt.mapper_end().await.unwrap().won);
    assert_eq!(attempt.push(1, b"later").await.unwrap_err(), PushError::Ended);
    assert_eq!(attempt.push_owned(1, large).await.unwrap_err(), PushError::Ended);
    assert_eq!(worker.count(Kind::Push), 1);
}

#[tokio::test]
async fn an_attempt_that_gives_up_is_declared_failed() {
    let worker = FakeWorker::start(|asked| Some(statuses(asked, Status::HardSplit))).await;
    let driver = FakeLifecycle::start(1, &worker.address).await;
    let no_space = v1::Revived { outcome: v1::revived::Outcome::NoSpace.into(), location: None };
    driver.script.lock().revive =
        Some(v1::ReviveReply { partitions: vec![no_space], arena_bytes: 10, held_bytes: 9, ..Default::default() });
    let client = driver.client(hasty()).await;
    let mut attempt = client.start_attempt(0, 0, 0).await.unwrap();
    attempt.push(0, b"unit").await.unwrap();
    let error = attempt.mapper_end().await.unwrap_err();
    assert!(matches!(error, PushError::NoSpace { arena_bytes: 10, held_bytes: 9, .. }), "{error}");
    drop(attempt);
    driver.until("attempt_failed").await;
}

#[test]
fn an_attempt_dropped_outside_of_the_runtime_is_declared_failed() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (driver, client, attempt) = runtime.block_on(async {
        let driver = FakeLifecycle::start(1, "127.0.0.1:9").await;
        let client = driver.client(hasty()).await;
        let attempt = client.start_attempt(0, 0, 0).await.unwrap();
        (driver, client, attempt)
    });
    drop(attempt);
    drop(client);
    runtime.block_on(driver.until("attempt_failed"));
}

#[tokio::test]
async fn a_partition_without_a_place_is_looked_up_and_not_revived() {
    let worker = FakeWorker::start(|asked| Some(statuses(asked, Status::Success))).await;
    let driver = FakeLifecycle::start(1, &worker.address).await;
    let placed = driver.script.lock().locate.clone();
    driver.script.lock().locate.locations = vec![v1::OpenLocation::default()];
    let client = driver.client(hasty()).await;
    let mut attempt = client.start_attempt(0, 0, 0).await.unwrap();
    driver.script.lock().locate = placed;
    attempt.push(0, b"unit").await.unwrap();
    attempt.mapper_end().await.unwrap();
    // It would close the place that others push to.
    assert_eq!(driver.script.lock().count("revive"), 0);
}

#[tokio::test]
async fn of_many_that_start_one_attempt_one_has_it() {
    let cluster = Cluster::start(1, ByteSize::mib(64)).await;
    let driver = cluster.driver("one").await;
    driver.register(0, 1, Some(1)).await.unwrap();
    let mut clients = Vec::new();
    for _ in 0..6 {
        clients.push(cluster.client(&driver).await);
    }
    let starts = clients.iter().map(|client| client.start_attempt(0, 0, 0));
    let mut attempts = Vec::new();
    for started in futures_util::future::join_all(starts).await {
        match started {
            Ok(attempt) => attempts.push(attempt),
            Err(error) => assert_eq!(error.reason(), Some(Reason::Taken)),
        }
    }
    assert_eq!(attempts.len(), 1);
    // Whoever was refused has not harmed the one that has it.
    attempts[0].push(0, b"unit").await.unwrap();
    assert!(attempts[0].mapper_end().await.unwrap().won);
}
