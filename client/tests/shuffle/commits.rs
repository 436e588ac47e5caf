//! Commits of two copies, with workers that answer them badly: what is fixed stays so, one sealed copy is enough, and the
//! other one is seen to.

use mallorn_client::{Durability, LifecycleManager, ReadError, ReadRequest, Reason, ShuffleOptions};
use mallorn_proto::durability;
use mallorn_proto::id::LocationId;
use mallorn_proto::v1;
use mallorn_proto::v1::lifecycle_client::LifecycleClient;
use mallorn_proto::v1::reserve_request::Copy;
use mallorn_proto::v1::revive_request::Cause;
use mallorn_runtime::clock;
use mallorn_runtime::config::{ByteSize, Span};
use mallorn_runtime::grpc;
use std::time::Duration;
use tonic::transport::Channel;

use crate::cluster::Cluster;
use crate::read_all;
use crate::scripted::{Act, ScriptedWorker};

const TWO_WRITTEN: ShuffleOptions = ShuffleOptions { copies: Some(2), durability: Some(Durability::Written) };
const TWO_IN_MEMORY: ShuffleOptions = ShuffleOptions { copies: Some(2), durability: Some(Durability::Memory) };
const LOCATION: LocationId = LocationId {
    shuffle: mallorn_proto::id::ShuffleId(0),
    partition: mallorn_proto::id::Partition(0),
    epoch: mallorn_proto::id::Epoch(0),
};

/// A cluster of two scripted workers, one of which holds less, and a shuffle of one partition and one map.
async fn two(application: &str, options: ShuffleOptions) -> (Cluster, LifecycleManager, [ScriptedWorker; 2]) {
    let cluster = Cluster::start(0, ByteSize::mib(64)).await;
    let workers = [ScriptedWorker::start(&cluster, 1, 100).await, ScriptedWorker::start(&cluster, 2, 120).await];
    let driver = cluster.driver(application).await;
    driver.register_with(0, 1, Some(1), options).await.unwrap();
    (cluster, driver, workers)
}

/// Ends the stage, with a map that has pushed nothing.
async fn end_stage(cluster: &Cluster, driver: &LifecycleManager) {
    let client = cluster.client(driver).await;
    client.start_attempt(0, 0, 0).await.unwrap().mapper_end().await.unwrap();
}

/// Waits until a call for a copy has come to nothing.
async fn until_degraded(driver: &LifecycleManager) {
    let degraded = async {
        while driver.stage_end(0, mallorn_client::Generation(0)).await.unwrap().degraded_locations == 0 {
            clock::sleep(Duration::from_millis(5)).await;
        }
    };
    clock::timeout(Duration::from_secs(30), degraded).await.expect("its seal fails at once");
}

/// What a task asks.
async fn door(driver: &LifecycleManager) -> LifecycleClient<Channel> {
    LifecycleClient::new(grpc::channel(driver.address(), Duration::from_secs(30)).unwrap())
}

fn pair(worker: &ScriptedWorker) -> Option<(u64, u64)> {
    worker.script.lock().sealed.get(&LOCATION).copied()
}

fn durabilities(worker: &ScriptedWorker) -> Vec<durability::Durability> {
    worker.script.lock().offered.iter().map(|offered| offered.3).collect()
}

#[tokio::test]
async fn both_copies_are_sealed_alike_at_the_least_of_their_lengths() {
    let (cluster, driver, workers) = two("alike", TWO_WRITTEN).await;
    let reserves: Vec<_> = workers.iter().map(|worker| worker.script.lock().reserves[0].clone()).collect();
    let primary = reserves.iter().find(|request| request.copy() == Copy::Primary).unwrap();
    let replica = reserves.iter().find(|request| request.copy() == Copy::Replica).unwrap();
    let replicas = primary.replicas.as_ref().unwrap();
    assert_eq!((replicas.worker.as_ref().unwrap().worker, &replicas.handles[..]), (replica.worker, &[1][..]));
    assert!(reserves.iter().all(|request| request.durability() == v1::Durability::Written));

    end_stage(&cluster, &driver).await;
    let end = driver.stage_end(0, mallorn_client::Generation(0)).await.unwrap();
    assert_eq!(end.lost_partitions, 0);
    for worker in &workers {
        worker.until(|script| !script.sealed.is_empty()).await;
        assert_eq!(durabilities(worker), [durability::Durability::Written]);
    }
    assert_eq!(pair(&workers[0]), pair(&workers[1]));
    assert_eq!(pair(&workers[0]).unwrap().1, 100);
}

#[tokio::test]
async fn a_copy_that_cannot_be_reached_holds_nobody_up_and_is_sealed_when_it_can() {
    for (freeze, seal) in
        [(Act::Fail, Act::Fail), (Act::Honest, Act::Fail), (Act::Fail, Act::Honest), (Act::Empty, Act::Empty)]
    {
        let (cluster, driver, workers) = two("unreached", TWO_WRITTEN).await;
        (workers[0].script.lock().freeze, workers[0].script.lock().seal) = (freeze, seal);
        end_stage(&cluster, &driver).await;
        let end = driver.stage_end(0, mallorn_client::Generation(0)).await.unwrap();
        assert_eq!(end.lost_partitions, 0);
        if seal != Act::Honest {
            if freeze == Act::Honest {
                // The end does not wait to see what comes of its seal.
                until_degraded(&driver).await;
            } else {
                assert_eq!(end.degraded_locations, 1);
            }
            assert_eq!(pair(&workers[0]), None);
        }
        (workers[0].script.lock().freeze, workers[0].script.lock().seal) = (Act::Honest, Act::Honest);
        workers[0].until(|script| !script.sealed.is_empty()).await;
        assert_eq!(pair(&workers[0]), pair(&workers[1]));
        let least = if freeze == Act::Honest { 100 } else { 120 };
        assert_eq!(pair(&workers[0]).unwrap().1, least);
    }
}

#[tokio::test]
async fn in_memory_the_last_copy_is_written() {
    let (cluster, driver, [lost, kept]) = two("written", TWO_IN_MEMORY).await;
    end_stage(&cluster, &driver).await;
    for worker in [&lost, &kept] {
        worker.until(|script| !script.sealed.is_empty()).await;
    }
    assert_eq!(durabilities(&kept), [durability::Durability::Memory]);
    let id = lost.id;
    drop(lost);
    // Nobody looks for it before a reader misses it.
    let read = v1::ResolveRequest {
        instance: driver.application().instance.0,
        workers: vec![id.into()],
        read: vec![LOCATION.into()],
        ..Default::default()
    };
    let found = door(&driver).await.resolve(read).await.unwrap().into_inner().workers.remove(0);
    assert_eq!(found.address.unwrap().worker, Some(kept.id.into()), "the reader goes on at the other copy");
    kept.until(|script| script.offered.len() > 1).await;
    assert_eq!(durabilities(&kept)[1], durability::Durability::Written);
}

#[tokio::test]
async fn what_no_disk_takes_is_a_loss_that_says_so() {
    let (cluster, driver, workers) = two("no-disk", TWO_WRITTEN).await;
    workers.iter().for_each(|worker| worker.script.lock().seal = Act::NoDisk);
    end_stage(&cluster, &driver).await;
    let end = driver.stage_end(0, mallorn_client::Generation(0)).await.unwrap();
    assert_eq!(end.lost_partitions, 1);
    let client = cluster.client(&driver).await;
    let error = read_all(&client, ReadRequest::new(0, 0..1)).await.unwrap_err();
    let ReadError::PartitionLost { why, .. } = error else { panic!("{error}") };
    assert!(why.contains("scripted-1 has no disk") && why.contains("scripted-2 has no disk"), "{why}");
    assert!(workers.iter().all(|worker| worker.script.lock().offered.len() > 1), "it was offered again");
}

#[tokio::test]
async fn an_unknown_copy_is_failed_at_once_and_the_other_one_is_read() {
    let (cluster, driver, [unknown, kept]) = two("unknown", TWO_WRITTEN).await;
    unknown.script.lock().freeze = Act::Unknown;
    end_stage(&cluster, &driver).await;
    let end = driver.stage_end(0, mallorn_client::Generation(0)).await.unwrap();
    assert_eq!((end.lost_partitions, end.degraded_locations), (0, 1));
    assert_eq!((pair(&kept).unwrap().1, unknown.script.lock().offered.len()), (120, 0));
}

#[tokio::test]
async fn a_commit_follows_a_hand_over() {
    for is_frozen in [false, true] {
        let (cluster, driver, [leaves, kept]) = two("moved", TWO_WRITTEN).await;
        let act = if is_frozen { Act::Honest } else { Act::Moved };
        (leaves.script.lock().freeze, leaves.script.lock().seal) = (act, Act::Moved);
        end_stage(&cluster, &driver).await;
        let taker = ScriptedWorker::start(&cluster, 3, 100).await;
        let taken = v1::TakenOver {
            application: Some(driver.application().clone().into()),
            from: Some(leaves.id.into()),
            locations: vec![LOCATION.into()],
        };
        taker.script.lock().taken_over = vec![taken];
        taker.until(|script| !script.sealed.is_empty()).await;
        kept.until(|script| !script.sealed.is_empty()).await;
        assert_eq!(pair(&taker), pair(&kept));
        // A reader that knew the one that left is told of the one that took over.
        let read = v1::ResolveRequest {
            instance: driver.application().instance.0,
            workers: vec![leaves.id.into()],
            read: vec![LOCATION.into()],
            ..Default::default()
        };
        let found = door(&driver).await.resolve(read).await.unwrap().into_inner().workers.remove(0);
        let at = found.address.unwrap().worker;
        assert!(at == Some(taker.id.into()) || at == Some(kept.id.into()), "{at:?}");
    }
}

#[tokio::test]
async fn a_replaced_epoch_is_committed_while_the_stage_runs() {
    for cause in [Cause::HardSplit, Cause::SoftSplit] {
        let (_cluster, driver, workers) = two("replaced", TWO_WRITTEN).await;
        let (mut door, instance) = (door(&driver).await, driver.application().instance.0);
        let start = v1::StartAttemptRequest { instance, shuffle: 0, map: 0, attempt: 0, nonce: 5 };
        door.start_attempt(start).await.unwrap();
        let attempt = Some(v1::AttemptId { shuffle: 0, generation: 0, map: 0, attempt: 0, nonce: 5 });
        let partitions = vec![v1::ReviveOne { partition: 0, epoch: 0 }];
        let revive = v1::ReviveRequest { instance, attempt, partitions, cause: cause.into() };
        let next = door.revive(revive).await.unwrap().into_inner().partitions.remove(0);
        assert_eq!(next.location.unwrap().location.unwrap().epoch, 1);
        for worker in &workers {
            worker.until(|script| script.sealed.contains_key(&LOCATION)).await;
            assert_eq!(worker.script.lock().frozen, [LOCATION], "the next epoch is open");
        }
    }
}

#[tokio::test]
async fn a_reservation_that_is_not_completed_is_not_used() {
    let cluster = Cluster::start(0, ByteSize::mib(64)).await;
    let mut workers = vec![ScriptedWorker::start(&cluster, 1, 9).await, ScriptedWorker::start(&cluster, 2, 9).await];
    workers[0].script.lock().reserve = Act::Fail;
    let driver = cluster.driver("half").await;
    let register = driver.register_with(0, 4, Some(1), TWO_WRITTEN);
    tokio::pin!(register);
    let asked = workers[0].until(|script| !script.reserves.is_empty());
    tokio::select! {
        _ = &mut register => panic!("one worker does not reserve"),
        () = asked => {}
    }
    workers.push(ScriptedWorker::start(&cluster, 3, 9).await);
    register.await.unwrap();
    // Whatever was reserved twice was reserved under two names.
    let mut copies = std::collections::BTreeMap::<_, Vec<_>>::new();
    for worker in &workers[1..] {
        for request in &worker.script.lock().reserves {
            for location in &request.locations {
                copies.entry(LocationId::from(*location)).or_default().push((worker.id, request.copy()));
            }
        }
    }
    let whole = copies.values().filter(|copies| copies.len() == 2).count();
    assert_eq!(whole, 4, "{copies:?}");
    assert!(copies.values().all(|copies| copies.iter().filter(|(_, copy)| *copy == Copy::Primary).count() <= 1));
}

#[tokio::test]
async fn what_cannot_be_kept_as_asked_is_refused_with_what_is_missing() {
    let cluster = Cluster::start(1, ByteSize::mib(64)).await;
    let config = mallorn_client::LifecycleConfig { place_within: Span::millis(300), ..cluster.lifecycle_config() };
    let driver = LifecycleManager::start("refused", config, cluster.random.clone()).await.unwrap();
    let asked = async |shuffle, copies, durability| {
        let options = ShuffleOptions { copies: Some(copies), durability: Some(durability) };
        let error = driver.register_with(shuffle, 2, Some(1), options).await.unwrap_err();
        (error.reason().unwrap(), error.to_string())
    };
    let (reason, text) = asked(0, 3, Durability::Memory).await;
    assert_eq!((reason, text.as_str()), (Reason::Invalid, "copies must be 1 or 2, not 3"));
    let (reason, text) = asked(1, 2, Durability::Memory).await;
    assert!(
        reason == Reason::NoSpace && text.contains("2 workers are needed") && text.contains("1 can take"),
        "{text}"
    );
    for durability in [Durability::Written, Durability::Synced] {
        let (reason, text) = asked(2 + durability as u32, 1, durability).await;
        assert!(reason == Reason::NoSpace && text.contains("worker.data_folders"), "{text}");
    }
    // A worker that says it has a disk, and finds that it has not.
    let cluster = Cluster::start(0, ByteSize::mib(64)).await;
    let worker = ScriptedWorker::start(&cluster, 1, 9).await;
    worker.script.lock().reserve = Act::NoDisk;
    let config = mallorn_client::LifecycleConfig { place_within: Span::millis(300), ..cluster.lifecycle_config() };
    let driver = LifecycleManager::start("refused", config, cluster.random.clone()).await.unwrap();
    let options = ShuffleOptions { durability: Some(Durability::Written), copies: None };
    let text = driver.register_with(0, 1, Some(1), options).await.unwrap_err().to_string();
    assert!(text.contains("worker.data_folders"), "{text}");
}
