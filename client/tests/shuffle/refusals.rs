//! Wrong calls: each has its typed answer, and disturbs nobody else.

use mallorn_client::{
    ClientConfig, ConnectError, LifecycleConfig, LifecycleManager, PushError, ReadRequest, Reason, ShuffleClient,
    StartError,
};
use mallorn_runtime::config::{ByteSize, Span};
use prometheus::Registry;

use crate::cluster::Cluster;
use crate::{expected, read_all, run_map, units};

#[tokio::test]
async fn an_attempt_belongs_to_whoever_started_it() {
    let cluster = Cluster::start(1, ByteSize::mib(64)).await;
    let driver = cluster.driver("taken").await;
    let (one, two) = (cluster.client(&driver).await, cluster.client(&driver).await);
    let generation = driver.register(0, 1, Some(1)).await.unwrap();
    let mut attempt = one.start_attempt(0, 0, 0).await.unwrap();
    assert_eq!(two.start_attempt(0, 0, 0).await.unwrap_err().reason(), Some(Reason::Taken));
    assert_eq!(two.start_attempt(0, 1, 0).await.unwrap_err().reason(), Some(Reason::Invalid));

    driver.attempt_failed(0, generation, 0, 0).unwrap();
    attempt.push(0, b"too late").await.unwrap();
    let error = attempt.mapper_end().await.unwrap_err();
    assert!(matches!(&error, PushError::Lifecycle(error) if error.reason() == Some(Reason::Dead)), "{error}");
    let all = units(0, 100, 1);
    run_map(&two, 0, 0, 1, &all).await;
    assert_eq!(read_all(&one, ReadRequest::new(0, 0..1)).await.unwrap(), expected(&all));
}

#[tokio::test]
async fn a_push_that_cannot_be_taken_leaves_the_attempt_as_it_was() {
    let cluster = Cluster::start(1, ByteSize::mib(64)).await;
    let driver = cluster.driver("wrong-push").await;
    let client = cluster.client(&driver).await;
    driver.register(0, 2, Some(1)).await.unwrap();
    let mut attempt = client.start_attempt(0, 0, 0).await.unwrap();
    assert!(matches!(attempt.push(2, b"x").await, Err(PushError::Partition { partition: 2, partitions: 2 })));
    let huge = vec![0; 2 << 20];
    assert!(matches!(attempt.push(0, &huge).await, Err(PushError::TooLarge { bytes: 2_097_152, .. })));
    attempt.push(0, &[1, 0, 0, 0, b'a']).await.unwrap();
    assert!(attempt.mapper_end().await.unwrap().won);
    let read = read_all(&client, ReadRequest::new(0, 0..2)).await.unwrap();
    assert_eq!(read.into_iter().collect::<Vec<_>>(), [(b"a".to_vec(), 1)]);
}

#[tokio::test]
async fn a_newer_lifecycle_manager_of_the_same_name_fences_the_older() {
    let cluster = Cluster::start(1, ByteSize::mib(64)).await;
    let older = cluster.driver("same").await;
    let old_client = cluster.client(&older).await;
    older.register(0, 2, Some(1)).await.unwrap();
    let newer = cluster.driver("same").await;
    let client = cluster.client(&newer).await;
    // The older one learns it at the latest when it asks for room.
    let error = older.register(1, 2, Some(1)).await.unwrap_err();
    assert_eq!(error.reason(), Some(Reason::Fenced), "{error}");
    assert_eq!(old_client.start_attempt(0, 0, 0).await.unwrap_err().reason(), Some(Reason::Fenced));
    newer.register(0, 2, Some(1)).await.unwrap();
    let all = units(0, 100, 2);
    run_map(&client, 0, 0, 0, &all).await;
    assert_eq!(read_all(&client, ReadRequest::new(0, 0..2)).await.unwrap(), expected(&all));
}

#[tokio::test]
async fn settings_that_do_not_fit_the_cluster_are_refused_at_the_start() {
    let cluster = Cluster::start(1, ByteSize::mib(64)).await;
    let driver = cluster.driver("settings").await;
    let registry = Registry::new();
    let connect = |config| ShuffleClient::connect(driver.address(), config, cluster.random.clone(), &registry);
    let small = ClientConfig { memory: ByteSize::mib(1), ..ClientConfig::default() };
    assert!(matches!(connect(small).await, Err(ConnectError::Memory(_))));
    let large = ClientConfig { batch: ByteSize::mib(8), ..ClientConfig::default() };
    assert!(matches!(connect(large).await, Err(ConnectError::Batch { .. })));
    let other = LifecycleConfig { cluster: "other".to_owned(), ..cluster.lifecycle_config() };
    let error = LifecycleManager::start("app", other, cluster.random.clone()).await.unwrap_err();
    let StartError::Master { text } = error else { panic!("{error}") };
    assert!(text.contains("other") && text.contains("mallorn"), "{text}");
    for (partitions, maps) in [(0, Some(1)), (1, Some(0)), (u32::MAX, None)] {
        assert_eq!(driver.register(9, partitions, maps).await.unwrap_err().reason(), Some(Reason::Invalid));
    }
    driver.register(0, 1, Some(1)).await.unwrap();
    assert_eq!(driver.register(0, 2, Some(1)).await.unwrap_err().reason(), Some(Reason::Invalid));
}

#[tokio::test]
async fn a_client_without_its_lifecycle_manager_says_so() {
    let cluster = Cluster::start(1, ByteSize::mib(64)).await;
    let driver = cluster.driver("gone").await;
    let config = ClientConfig { call_within: Span::millis(300), ..ClientConfig::default() };
    let client = cluster.client_with(&driver, config).await;
    driver.stop().await.unwrap();
    let error = client.start_attempt(0, 0, 0).await.unwrap_err();
    assert_eq!(error.reason(), None, "{error}");
    assert!(error.to_string().contains("out of reach"), "{error}");
}
