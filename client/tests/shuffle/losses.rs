//! Workers that are lost, full or new: what is read is still exact, or the loss has a name.

use mallorn_client::{Generation, PushError, ReadError, ReadRequest, Reason};
use mallorn_runtime::config::ByteSize;

use crate::cluster::Cluster;
use crate::{expected, push_all, read_all, run_map, units};

const PARTITIONS: u32 = 6;

#[tokio::test]
async fn a_worker_lost_before_commit_is_a_named_loss_and_the_next_generation_is_whole() {
    let mut cluster = Cluster::start(3, ByteSize::mib(64)).await;
    let driver = cluster.driver("lost").await;
    let client = cluster.client(&driver).await;
    let first = driver.register(0, PARTITIONS, Some(2)).await.unwrap();
    let all = [units(0, 3000, PARTITIONS), units(1, 3000, PARTITIONS)];
    run_map(&client, 0, 0, 0, &all[0]).await;
    let mut second = client.start_attempt(0, 1, 0).await.unwrap();
    push_all(&mut second, &all[1][..1500]).await;
    drop(cluster.workers.remove(0));
    push_all(&mut second, &all[1][1500..]).await;
    // Pushes revive elsewhere: losing a worker is no error for an attempt.
    assert!(second.mapper_end().await.unwrap().won);

    let end = driver.stage_end(0, first).await.unwrap();
    assert!(end.lost_partitions > 0);
    let error = read_all(&client, ReadRequest::new(0, 0..PARTITIONS)).await.unwrap_err();
    let ReadError::PartitionLost { shuffle: 0, generation, why, .. } = error else { panic!("{error}") };
    assert_eq!(generation, first);
    assert!(why.contains("gone"), "{why}");

    let next = driver.next_generation(0, first).await.unwrap();
    assert_eq!(next, Generation(first.0 + 1));
    assert_eq!(driver.next_generation(0, first).await.unwrap(), next, "one loss starts one generation");
    for (map, units) in (0..).zip(&all) {
        run_map(&client, 0, map, 1, units).await;
    }
    let read = read_all(&client, ReadRequest::new(0, 0..PARTITIONS)).await.unwrap();
    assert_eq!(read, expected(all.iter().flatten()));
}

#[tokio::test]
async fn a_worker_lost_after_commit_is_found_out_by_the_reader() {
    let mut cluster = Cluster::start(2, ByteSize::mib(64)).await;
    let driver = cluster.driver("lost-later").await;
    let client = cluster.client(&driver).await;
    let generation = driver.register(0, PARTITIONS, Some(1)).await.unwrap();
    run_map(&client, 0, 0, 0, &units(0, 2000, PARTITIONS)).await;
    assert_eq!(driver.stage_end(0, generation).await.unwrap().lost_partitions, 0);
    drop(cluster.workers.remove(1));
    let error = read_all(&client, ReadRequest::new(0, 0..PARTITIONS)).await.unwrap_err();
    assert!(matches!(error, ReadError::PartitionLost { .. }), "{error}");
}

#[tokio::test]
async fn a_loss_by_tokens_names_the_tokens_to_run_again() {
    let mut cluster = Cluster::start(2, ByteSize::mib(64)).await;
    let driver = cluster.driver("lost-tokens").await;
    let client = cluster.client(&driver).await;
    driver.register(0, PARTITIONS, None).await.unwrap();
    let all = [units(0, 2000, PARTITIONS), units(1, 2000, PARTITIONS)];
    let mut tokens = Vec::new();
    for (map, units) in (0..).zip(&all) {
        let mut attempt = client.start_attempt(0, map, 0).await.unwrap();
        push_all(&mut attempt, units).await;
        tokens.push(attempt.mapper_end().await.unwrap().token);
    }
    drop(cluster.workers.remove(0));
    let error = read_all(&client, ReadRequest::new(0, 0..PARTITIONS).tokens(tokens.clone())).await.unwrap_err();
    let ReadError::PartitionLost { incomplete, .. } = error else { panic!("{error}") };
    assert_eq!(incomplete, tokens);
    for (map, units) in (0..).zip(&all) {
        let mut attempt = client.start_attempt(0, map, 1).await.unwrap();
        push_all(&mut attempt, units).await;
        tokens[map as usize] = attempt.mapper_end().await.unwrap().token;
    }
    let read = read_all(&client, ReadRequest::new(0, 0..PARTITIONS).tokens(tokens)).await.unwrap();
    assert_eq!(read, expected(all.iter().flatten()));
}

#[tokio::test]
async fn a_reader_of_an_old_generation_is_revoked() {
    let cluster = Cluster::start(2, ByteSize::mib(64)).await;
    let driver = cluster.driver("revoked").await;
    let client = cluster.client(&driver).await;
    let generation = driver.register(0, 2, Some(1)).await.unwrap();
    run_map(&client, 0, 0, 0, &units(0, 100_000, 2)).await;
    let mut reader = client.read(ReadRequest::new(0, 0..2)).await.unwrap();
    assert!(reader.next().await.unwrap().is_some());
    driver.next_generation(0, generation).await.unwrap();
    let error = loop {
        match reader.next().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the old generation was read to its end"),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, ReadError::Revoked { .. } | ReadError::PartitionLost { .. }), "{error}");
    assert_eq!(reader.next().await.unwrap_err(), error, "a failed reader stays failed");
}

#[tokio::test]
async fn more_than_all_arenas_hold_is_no_space_and_room_made_is_found() {
    let cluster = Cluster::start(2, ByteSize::mib(16)).await;
    let driver = cluster.driver("full").await;
    let config = mallorn_client::ClientConfig {
        codec: mallorn_client::Compression::None,
        no_space_within: mallorn_runtime::config::Span::millis(1500),
        ..Default::default()
    };
    let client = cluster.client_with(&driver, config).await;
    driver.register(0, 4, Some(1)).await.unwrap();
    let mut attempt = client.start_attempt(0, 0, 0).await.unwrap();
    let unit = vec![7; 60_000];
    let mut pushed = 0;
    let error = loop {
        match attempt.push(pushed % 4, &unit).await {
            Ok(()) => pushed += 1,
            Err(error) => break error,
        }
        assert!(pushed < 2000, "120 MB fit into 32 MiB");
    };
    let PushError::NoSpace { arena_bytes, held_bytes, refused_bytes, missing } = error else { panic!("{error}") };
    assert_eq!(arena_bytes, 2 * 16 * 1024 * 1024);
    assert!(held_bytes > arena_bytes / 2 && held_bytes <= arena_bytes, "{held_bytes} of {arena_bytes}");
    assert!(refused_bytes > 0 && missing.contains("add workers, memory or disks"), "{missing}");
    drop(attempt);
    driver.release(0).await.unwrap();
    driver.register(1, 2, Some(1)).await.unwrap();
    let all = units(0, 500, 2);
    run_map(&client, 1, 0, 0, &all).await;
    assert_eq!(read_all(&client, ReadRequest::new(1, 0..2)).await.unwrap(), expected(&all));
}

#[tokio::test]
async fn a_worker_that_joins_later_is_used() {
    let mut cluster = Cluster::start(0, ByteSize::mib(64)).await;
    let driver = cluster.driver("joins").await;
    let client = cluster.client(&driver).await;
    let register = driver.register(0, 2, Some(1));
    tokio::pin!(register);
    let once = std::future::poll_fn(|cx| std::task::Poll::Ready(register.as_mut().poll(cx))).await;
    assert!(once.is_pending());
    cluster.add_worker(ByteSize::mib(64)).await;
    register.await.unwrap();
    let all = units(0, 500, 2);
    run_map(&client, 0, 0, 0, &all).await;
    assert_eq!(read_all(&client, ReadRequest::new(0, 0..2)).await.unwrap(), expected(&all));
}

#[tokio::test]
async fn released_never_registered_and_empty_are_three_answers() {
    let cluster = Cluster::start(1, ByteSize::mib(64)).await;
    let driver = cluster.driver("three").await;
    let client = cluster.client(&driver).await;
    driver.register(0, 1, Some(1)).await.unwrap();
    driver.register(1, 1, Some(1)).await.unwrap();
    let mut empty = client.start_attempt(0, 0, 0).await.unwrap();
    assert!(empty.mapper_end().await.unwrap().won);
    assert!(read_all(&client, ReadRequest::new(0, 0..1)).await.unwrap().is_empty());
    driver.release(1).await.unwrap();
    for (shuffle, reason) in [(1, Reason::Released), (2, Reason::Unknown)] {
        let ReadError::Lifecycle(error) = read_all(&client, ReadRequest::new(shuffle, 0..1)).await.unwrap_err() else {
            panic!("not refused")
        };
        assert_eq!(error.reason(), Some(reason));
        assert_eq!(client.start_attempt(shuffle, 0, 0).await.unwrap_err().reason(), Some(reason));
    }
}
