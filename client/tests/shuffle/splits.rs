//! Soft splits: what was taken stays taken, and the next batches go to the next epoch.

use std::collections::BTreeMap;

use mallorn_proto::message::{Kind, Push};
use mallorn_proto::status::Status;
use mallorn_proto::v1;
use mallorn_proto::v1::revive_request::Cause;
use mallorn_proto::v1::revived::Outcome;

use crate::fakes::{Asked, FakeLifecycle, FakeWorker, hasty};
use crate::nonsense::statuses;

/// Large enough to go out on its own at once.
const UNIT: &[u8] = &[7; 70_000];

fn handle(asked: &Asked) -> Option<u64> {
    (asked.kind == Kind::Push).then(|| Push::decode(&asked.header).unwrap().handle.0)
}

/// The first epoch is full, the others are not.
async fn worker() -> FakeWorker {
    FakeWorker::start(|asked| {
        let is_first = handle(asked).is_none_or(|handle| handle % 100 == 1);
        Some(statuses(asked, if is_first { Status::SoftSplit } else { Status::Success }))
    })
    .await
}

#[tokio::test]
async fn a_full_location_has_taken_the_batch_and_the_next_ones_go_elsewhere() {
    let worker = worker().await;
    let driver = FakeLifecycle::start(1, &worker.address).await;
    let client = driver.client(hasty()).await;
    let mut attempt = client.start_attempt(0, 0, 0).await.unwrap();
    attempt.push(0, UNIT).await.unwrap();
    driver.until("revive").await;
    while !worker.asked.lock().iter().any(|asked| handle(asked) == Some(2)) {
        attempt.push(0, UNIT).await.unwrap();
        tokio::task::yield_now().await;
    }
    assert!(attempt.mapper_end().await.unwrap().won);
    let revives = driver.script.lock().revives.clone();
    assert_eq!(revives.len(), 1, "asked for once");
    assert_eq!(
        (revives[0].cause(), revives[0].partitions[0]),
        (Cause::SoftSplit, v1::ReviveOne { partition: 0, epoch: 0 })
    );
    let mut bodies = BTreeMap::<Vec<u8>, usize>::new();
    worker.asked.lock().iter().for_each(|asked| *bodies.entry(asked.body.clone()).or_default() += 1);
    assert!(bodies.values().all(|times| *times == 1), "what was taken is not pushed again");
    let stats = client.stats();
    assert_eq!((stats.soft_splits, stats.hard_splits, stats.repushed_batches), (1, 0, 0));
}

#[tokio::test]
async fn where_there_is_no_next_place_pushes_go_on_to_the_full_one() {
    let worker = worker().await;
    let driver = FakeLifecycle::start(1, &worker.address).await;
    let no_space = v1::Revived { outcome: Outcome::NoSpace.into(), location: None };
    driver.script.lock().revive = Some(v1::ReviveReply { partitions: vec![no_space], ..Default::default() });
    let client = driver.client(hasty()).await;
    let mut attempt = client.start_attempt(0, 0, 0).await.unwrap();
    for _ in 0..50 {
        attempt.push(0, UNIT).await.unwrap();
    }
    assert!(attempt.mapper_end().await.unwrap().won);
    assert!(worker.asked.lock().iter().filter_map(handle).all(|handle| handle == 1));
    assert!(driver.script.lock().count("revive") < 10, "it is not asked for with every push");
}
