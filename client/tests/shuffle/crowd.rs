//! Many attempts and readers in one client with the least memory that it can have.

use std::time::Duration;

use mallorn_client::{ClientConfig, Compression, ReadRequest, ShuffleClient};
use mallorn_proto::limits::BODY_BYTES_DEFAULT;
use mallorn_runtime::config::ByteSize;
use mallorn_runtime::{clock, task};

use crate::cluster::Cluster;
use crate::{Units, count, expected, push_all, read_all, run_map, units};

/// Longer than everything here takes, and shorter than any wait that ends by itself.
const PATIENCE: Duration = Duration::from_secs(25);

/// A quarter of it holds one maximal body.
fn least() -> ClientConfig {
    ClientConfig { memory: ByteSize(4 * u64::from(BODY_BYTES_DEFAULT)), ..ClientConfig::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn attempts_and_readers_at_once_share_the_least_memory() {
    const PARTITIONS: u32 = 150;
    const MAPS: u32 = 24;
    const READERS: u32 = 12;
    let cluster = Cluster::start(2, ByteSize::mib(256)).await;
    let driver = cluster.driver("crowd").await;
    let config = ClientConfig { batch: ByteSize::kib(4), ..least() };
    let client = cluster.client_with(&driver, config).await;
    driver.register(0, 2, Some(1)).await.unwrap();
    driver.register(1, PARTITIONS, Some(MAPS)).await.unwrap();
    let first = units(9, 30_000, 2);
    run_map(&client, 0, 0, 0, &first).await;

    let mut tasks = Vec::new();
    for map in 0..MAPS {
        let client: ShuffleClient = client.clone();
        tasks.push(task::spawn(async move {
            let mut attempt = client.start_attempt(1, map, 0).await.unwrap();
            push_all(&mut attempt, &units(map, 4000, PARTITIONS)).await;
            // Some need much at once.
            if map % 4 == 0 {
                attempt.push_owned(0, bytes::Bytes::from(framed(&vec![map as u8; 900_000]))).await.unwrap();
            }
            assert!(attempt.mapper_end().await.unwrap().won);
        }));
    }
    for _ in 0..READERS {
        let (client, first) = (client.clone(), expected(&first));
        tasks.push(task::spawn(async move {
            assert_eq!(read_all(&client, ReadRequest::new(0, 0..2)).await.unwrap(), first);
        }));
    }
    let all = async {
        for one in tasks {
            one.await.unwrap();
        }
    };
    clock::timeout(2 * PATIENCE, all).await.expect("nobody waits for ever");
    let mut wanted = expected((0..MAPS).flat_map(|map| units(map, 4000, PARTITIONS)).collect::<Vec<_>>().iter());
    wanted.extend((0..MAPS).step_by(4).map(|map| (vec![map as u8; 900_000], 1)));
    assert!(read_all(&client, ReadRequest::new(1, 0..PARTITIONS)).await.unwrap() == wanted);
}

fn framed(unit: &[u8]) -> Vec<u8> {
    [&(unit.len() as u32).to_le_bytes()[..], unit].concat()
}

#[tokio::test]
async fn attempts_that_idle_with_memory_give_it_up() {
    let cluster = Cluster::start(1, ByteSize::mib(64)).await;
    let driver = cluster.driver("idle").await;
    let client = cluster.client_with(&driver, ClientConfig { codec: Compression::None, ..least() }).await;
    driver.register(0, 1, Some(61)).await.unwrap();
    // Each keeps what is left of the memory that it has taken ahead, or a batch that waits for others to go with.
    let mut idle = Vec::new();
    for map in 0..60 {
        let mut attempt = client.start_attempt(0, map, 0).await.unwrap();
        attempt.push(0, &framed(&vec![1; if map % 2 == 0 { 10 } else { 40_000 }])).await.unwrap();
        idle.push(attempt);
    }
    let mut attempt = client.start_attempt(0, 60, 0).await.unwrap();
    let large = framed(&[2; 1_000_000]);
    clock::timeout(PATIENCE, attempt.push(0, &large)).await.expect("there is room").unwrap();
    for attempt in idle.iter_mut().chain([&mut attempt]) {
        assert!(attempt.mapper_end().await.unwrap().won);
    }
    let read = read_all(&client, ReadRequest::new(0, 0..1)).await.unwrap();
    assert_eq!(read.values().copied().collect::<Vec<_>>(), [30, 30, 1]);
}

#[tokio::test]
async fn readers_that_wait_for_a_stage_leave_room_for_the_tasks_of_the_stage() {
    let cluster = Cluster::start(1, ByteSize::mib(64)).await;
    let driver = cluster.driver("waiting").await;
    let client = cluster.client_with(&driver, least()).await;
    driver.register(0, 1, Some(1)).await.unwrap();
    driver.register(1, 1, Some(1)).await.unwrap();
    let all = units(0, 100, 1);
    run_map(&client, 0, 0, 0, &all).await;
    let mut waiting = Vec::new();
    for _ in 0..8 {
        let mut read = Box::pin(client.read(ReadRequest::new(1, 0..1)));
        let once = std::future::poll_fn(|cx| std::task::Poll::Ready(read.as_mut().poll(cx))).await;
        assert!(once.is_pending());
        waiting.push(read);
    }
    let read = clock::timeout(PATIENCE, read_all(&client, ReadRequest::new(0, 0..1))).await;
    assert_eq!(read.expect("there is room").unwrap(), expected(&all));
}

#[tokio::test]
async fn what_an_idle_reader_has_fetched_ahead_is_room_for_others() {
    let cluster = Cluster::start(1, ByteSize::mib(64)).await;
    let driver = cluster.driver("ahead").await;
    let client = cluster.client_with(&driver, ClientConfig { codec: Compression::None, ..least() }).await;
    driver.register(0, 1, Some(1)).await.unwrap();
    let all = units(0, 40_000, 1);
    run_map(&client, 0, 0, 0, &all).await;
    // Three maximal bodies fit the share of reads: each reader owns room for one, and the first fetches ahead.
    let mut readers = Vec::new();
    for _ in 0..3 {
        let opened = clock::timeout(PATIENCE, client.read(ReadRequest::new(0, 0..1))).await;
        let mut reader = opened.expect("there is room").unwrap();
        let mut read = Units::new();
        count(&mut read, &reader.next().await.unwrap().unwrap());
        readers.push((reader, read));
    }
    for (mut reader, mut read) in readers {
        while let Some(batch) = reader.next().await.unwrap() {
            count(&mut read, &batch);
        }
        assert_eq!(read, expected(&all));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_of_two_inputs_of_which_one_starves_goes_on_reading_and_pushing() {
    let cluster = Cluster::start(1, ByteSize::mib(128)).await;
    let driver = cluster.driver("starved").await;
    let client = cluster.client_with(&driver, ClientConfig { codec: Compression::None, ..least() }).await;
    for shuffle in 0..3 {
        driver.register(shuffle, 1, Some(1)).await.unwrap();
    }
    // More than the client's memory.
    let first = units(0, 300_000, 1);
    run_map(&client, 0, 0, 0, &first).await;
    let late = units(1, 1000, 1);
    let task = async {
        // Open for the whole time, and nothing comes.
        let starved = task::spawn({
            let client = client.clone();
            async move { read_all(&client, ReadRequest::new(1, 0..1)).await }
        });
        let mut attempt = client.start_attempt(2, 0, 0).await.unwrap();
        let mut reader = client.read(ReadRequest::new(0, 0..1)).await.unwrap();
        let mut bytes = 0;
        while let Some(read) = reader.next().await.unwrap() {
            bytes += read.data.len();
            attempt.push_owned(0, read.data.clone()).await.unwrap();
        }
        assert!(attempt.mapper_end().await.unwrap().won);
        run_map(&client, 1, 0, 0, &late).await;
        (bytes, starved.await.unwrap().unwrap())
    };
    let (bytes, second) = clock::timeout(PATIENCE, task).await.expect("nobody waits for ever");
    assert!(bytes > 4 * BODY_BYTES_DEFAULT as usize, "{bytes}");
    assert_eq!(second, expected(&late));
    assert_eq!(read_all(&client, ReadRequest::new(2, 0..1)).await.unwrap(), expected(&first));
}
