//! Whole shuffles with two copies, through a master and workers in this process: one worker lost harms nothing.

use mallorn_client::{ClientConfig, Compression, Durability, Generation, LifecycleManager, ReadRequest};
use mallorn_client::{ShuffleClient, ShuffleOptions};
use mallorn_runtime::config::ByteSize;
use mallorn_worker::WorkerConfig;

use crate::cluster::Cluster;
use crate::{Units, drain, expected, push_all, read_all, run_map, units};

const PARTITIONS: u32 = 6;
const TWO_COPIES: ShuffleOptions = ShuffleOptions { copies: Some(2), durability: Some(Durability::Memory) };

async fn shuffle(
    application: &str,
    workers: usize,
    maps: u32,
) -> (Cluster, LifecycleManager, ShuffleClient, Generation) {
    let cluster = Cluster::start(workers, ByteSize::mib(64)).await;
    let driver = cluster.driver(application).await;
    let client = cluster.client(&driver).await;
    let generation = driver.register_with(0, PARTITIONS, Some(maps), TWO_COPIES).await.unwrap();
    (cluster, driver, client, generation)
}

async fn read(client: &ShuffleClient) -> Units {
    read_all(client, ReadRequest::new(0, 0..PARTITIONS)).await.unwrap()
}

#[tokio::test]
async fn a_shuffle_with_two_copies_is_exact_and_holds_everything_twice() {
    let (cluster, driver, client, generation) = shuffle("two-copies", 3, 2).await;
    let all = [units(0, 3000, PARTITIONS), units(1, 3000, PARTITIONS)];
    for (map, units) in (0..).zip(&all) {
        run_map(&client, 0, map, 0, units).await;
    }
    let end = driver.stage_end(0, generation).await.unwrap();
    assert_eq!(end.lost_partitions, 0);
    assert_eq!(read(&client).await, expected(all.iter().flatten()));
    let held = |pool: usize| cluster.workers.iter().map(|worker| worker.memory().held_bytes[pool]).sum::<u64>();
    let (primaries, replicas) = (held(0), held(1));
    let sent = client.stats().sent_bytes;
    assert!(primaries >= sent && replicas >= sent, "{primaries} and {replicas} bytes are held of {sent}");
    driver.release(0).await.unwrap();
    assert_eq!((held(0), held(1)), (0, 0));
}

#[tokio::test]
async fn a_worker_lost_before_commit_loses_nothing() {
    let (mut cluster, driver, client, generation) = shuffle("lost-before", 3, 2).await;
    let all = [units(0, 3000, PARTITIONS), units(1, 3000, PARTITIONS)];
    run_map(&client, 0, 0, 0, &all[0]).await;
    let mut second = client.start_attempt(0, 1, 0).await.unwrap();
    push_all(&mut second, &all[1][..1500]).await;
    drop(cluster.workers.remove(0));
    push_all(&mut second, &all[1][1500..]).await;
    assert!(second.mapper_end().await.unwrap().won);
    let end = driver.stage_end(0, generation).await.unwrap();
    assert_eq!(end.lost_partitions, 0);
    assert!(end.degraded_locations > 0);
    assert_eq!(read(&client).await, expected(all.iter().flatten()));
}

#[tokio::test]
async fn a_worker_lost_after_commit_or_while_it_is_read_loses_nothing() {
    for lost in 0..2 {
        let (mut cluster, driver, client, generation) = shuffle("lost-after", 2, 1).await;
        let all = units(0, 60_000, PARTITIONS);
        run_map(&client, 0, 0, 0, &all).await;
        assert_eq!(driver.stage_end(0, generation).await.unwrap().lost_partitions, 0);
        let mut reader = client.read(ReadRequest::new(0, 0..PARTITIONS)).await.unwrap();
        let first = reader.next().await.unwrap().unwrap();
        drop(cluster.workers.remove(lost));
        let mut under_way = drain(&mut reader).await.unwrap();
        crate::count(&mut under_way, &first);
        assert_eq!(under_way, expected(&all));
        assert_eq!(read(&client).await, expected(&all));
    }
}

#[tokio::test]
async fn written_copies_and_small_locations_that_split_softly_are_exact() {
    let folders = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start(0, ByteSize::mib(64)).await;
    for number in 0..3 {
        let data_folders = vec![folders.path().join(number.to_string())];
        let (memory, soft_split, hard_split) = (ByteSize::mib(64), ByteSize::kib(256), ByteSize::mib(1));
        let config =
            WorkerConfig { data_folders, memory: Some(memory), soft_split, hard_split, ..WorkerConfig::default() };
        cluster.add_worker_with(config).await;
    }
    let driver = cluster.driver("written").await;
    let config = ClientConfig { codec: Compression::None, ..ClientConfig::default() };
    let client = cluster.client_with(&driver, config).await;
    let written = ShuffleOptions { durability: Some(Durability::Written), ..TWO_COPIES };
    let generation = driver.register_with(0, PARTITIONS, Some(2), written).await.unwrap();
    let all = [units(0, 60_000, PARTITIONS), units(1, 60_000, PARTITIONS)];
    for (map, units) in (0..).zip(&all) {
        run_map(&client, 0, map, 0, units).await;
    }
    assert!(client.stats().soft_splits > 0);
    assert_eq!(driver.stage_end(0, generation).await.unwrap().lost_partitions, 0);
    assert_eq!(read(&client).await, expected(all.iter().flatten()));
    drop(cluster.workers.remove(0));
    assert_eq!(read(&client).await, expected(all.iter().flatten()));
}

#[tokio::test]
async fn without_a_map_count_two_copies_survive_a_worker_too() {
    let mut cluster = Cluster::start(3, ByteSize::mib(64)).await;
    let driver = cluster.driver("tokens").await;
    let client = cluster.client(&driver).await;
    driver.register_with(0, PARTITIONS, None, TWO_COPIES).await.unwrap();
    let all = [units(0, 2000, PARTITIONS), units(1, 2000, PARTITIONS)];
    let mut tokens = Vec::new();
    for (map, units) in (0..).zip(&all) {
        let mut attempt = client.start_attempt(0, map, 0).await.unwrap();
        push_all(&mut attempt, units).await;
        tokens.push(attempt.mapper_end().await.unwrap().token);
    }
    drop(cluster.workers.remove(1));
    let read = read_all(&client, ReadRequest::new(0, 0..PARTITIONS).tokens(tokens)).await.unwrap();
    assert_eq!(read, expected(all.iter().flatten()));
}
