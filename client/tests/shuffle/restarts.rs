//! Lifecycle managers that are started again, generations that start while somebody waits, workers that answer a commit
//! badly.

use std::time::Duration;

use mallorn_client::{ClientConfig, LifecycleConfig, LifecycleManager, PushError, ReadError, ReadRequest, Reason};
use mallorn_client::{ShuffleClient, StartError};
use mallorn_runtime::clock;
use mallorn_runtime::config::ByteSize;
use prometheus::Registry;

use crate::cluster::Cluster;
use crate::scripted::{Act, ScriptedWorker};
use crate::{expected, push_all, read_all, run_map, units};

/// Starts a lifecycle manager where another one has just been dropped.
async fn again(cluster: &Cluster, application: &str, address: &str) -> LifecycleManager {
    loop {
        let config = LifecycleConfig { listen: address.to_owned(), ..cluster.lifecycle_config() };
        match LifecycleManager::start(application, config, cluster.random.clone()).await {
            Ok(driver) => return driver,
            // The tasks of the former one have not ended yet.
            Err(StartError::Listen(_)) => tokio::task::yield_now().await,
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test]
async fn a_lifecycle_manager_started_again_at_its_address_fences_its_former_clients() {
    let cluster = Cluster::start(2, ByteSize::mib(64)).await;
    let driver = cluster.driver("again").await;
    let address = driver.address().to_owned();
    let registry = Registry::new();
    let connect = || ShuffleClient::connect(&address, ClientConfig::default(), cluster.random.clone(), &registry);
    let former = connect().await.unwrap();
    driver.register(0, 2, Some(1)).await.unwrap();
    driver.register(1, 2, Some(1)).await.unwrap();
    run_map(&former, 0, 0, 0, &units(0, 100_000, 2)).await;
    let mut reader = former.read(ReadRequest::new(0, 0..2)).await.unwrap();
    assert!(reader.next().await.unwrap().is_some());
    let mut attempt = former.start_attempt(1, 0, 0).await.unwrap();
    push_all(&mut attempt, &units(0, 500, 2)).await;

    drop(driver);
    let driver = again(&cluster, "again", &address).await;
    driver.register(1, 2, Some(1)).await.unwrap();
    let error = attempt.mapper_end().await.unwrap_err();
    assert!(matches!(&error, PushError::Lifecycle(error) if error.reason() == Some(Reason::Fenced)), "{error}");
    assert!(!error.is_overtaken());
    assert_eq!(former.start_attempt(1, 0, 1).await.unwrap_err().reason(), Some(Reason::Fenced));
    assert_eq!(former.register(2, 1, None).await.unwrap_err().reason(), Some(Reason::Fenced));
    // To read again would help nobody, so it is not `Revoked`.
    let error = former.read(ReadRequest::new(1, 0..2)).await.unwrap_err();
    assert!(matches!(&error, ReadError::Lifecycle(error) if error.reason() == Some(Reason::Fenced)), "{error}");
    drop((attempt, reader, former));

    let client = connect().await.unwrap();
    let all = units(0, 300, 2);
    run_map(&client, 1, 0, 0, &all).await;
    assert_eq!(read_all(&client, ReadRequest::new(1, 0..2)).await.unwrap(), expected(&all));
    let error = client.start_attempt(0, 0, 0).await.unwrap_err();
    assert_eq!(error.reason(), Some(Reason::Unknown), "it remembers nothing");
}

#[tokio::test]
async fn a_reader_that_waits_for_a_stage_goes_on_in_the_next_generation() {
    let cluster = Cluster::start(1, ByteSize::mib(64)).await;
    let driver = cluster.driver("waits").await;
    let client = cluster.client(&driver).await;
    let generation = driver.register(0, 2, Some(1)).await.unwrap();
    let mut read = std::pin::pin!(read_all(&client, ReadRequest::new(0, 0..2)));
    assert!(clock::timeout(Duration::from_millis(300), read.as_mut()).await.is_err(), "the stage has not ended");
    driver.next_generation(0, generation).await.unwrap();
    let all = units(0, 300, 2);
    let (read, ()) = tokio::join!(read, run_map(&client, 0, 0, 0, &all));
    assert_eq!(read.unwrap(), expected(&all));
}

#[tokio::test]
async fn a_worker_that_answers_a_commit_with_nothing_is_given_up_in_the_end() {
    let cluster = Cluster::start(0, ByteSize::mib(64)).await;
    let worker = ScriptedWorker::start(&cluster, 1, 0).await;
    worker.script.lock().freeze = Act::Empty;
    let driver = cluster.driver("forgetful").await;
    let client = cluster.client(&driver).await;
    let generation = driver.register(0, 1, Some(1)).await.unwrap();
    client.start_attempt(0, 0, 0).await.unwrap().mapper_end().await.unwrap();
    // The master hears of it all the while.
    let end = driver.stage_end(0, generation).await.unwrap();
    assert_eq!(end.lost_partitions, 1);
    assert!(worker.script.lock().freezes < 100);
}
