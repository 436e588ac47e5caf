//! What is read is what the winners pushed, each unit once.

use bytes::Bytes;
use mallorn_client::{ClientConfig, Compression, ReadRequest, Reason};
use mallorn_runtime::config::ByteSize;

use crate::cluster::Cluster;
use crate::{drain, expected, push_all, read_all, run_map, units};

const PARTITIONS: u32 = 7;

#[tokio::test]
async fn every_codec_brings_every_unit_once() {
    let cluster = Cluster::start(2, ByteSize::mib(64)).await;
    let driver = cluster.driver("codecs").await;
    for (shuffle, codec) in [(0, Compression::None), (1, Compression::Lz4), (2, Compression::Zstd)] {
        let config = ClientConfig { codec, batch: ByteSize::kib(4), ..ClientConfig::default() };
        let client = cluster.client_with(&driver, config).await;
        let generation = driver.register(shuffle, PARTITIONS, Some(3)).await.unwrap();
        let all: Vec<_> = (0..3).map(|map| units(map, 2000, PARTITIONS)).collect();
        for (map, units) in (0..).zip(&all) {
            run_map(&client, shuffle, map, 0, units).await;
        }
        let end = driver.stage_end(shuffle, generation).await.unwrap();
        assert_eq!(end.lost_partitions, 0);
        let whole = read_all(&client, ReadRequest::new(shuffle, 0..PARTITIONS)).await.unwrap();
        assert_eq!(whole, expected(all.iter().flatten()));
        for partition in 0..PARTITIONS {
            let read = read_all(&client, ReadRequest::new(shuffle, partition..partition + 1)).await.unwrap();
            assert_eq!(read, expected(all.iter().flatten().filter(|(at, _)| *at == partition)));
        }
        driver.release(shuffle).await.unwrap();
    }
    assert_eq!(cluster.held_bytes(), 0);
    driver.stop().await.unwrap();
}

#[tokio::test]
async fn a_range_of_maps_is_read_exactly() {
    let cluster = Cluster::start(2, ByteSize::mib(64)).await;
    let driver = cluster.driver("maps").await;
    let config = ClientConfig { batch: ByteSize::kib(1), ..ClientConfig::default() };
    let client = cluster.client_with(&driver, config).await;
    driver.register(0, PARTITIONS, Some(6)).await.unwrap();
    let all: Vec<_> = (0..6).map(|map| units(map, 500, PARTITIONS)).collect();
    for (map, units) in (0..).zip(&all) {
        run_map(&client, 0, map, 0, units).await;
    }
    for maps in [0..6, 0..1, 2..5, 5..6, 3..3] {
        let request = ReadRequest::new(0, 0..PARTITIONS).maps(maps.clone());
        let read = read_all(&client, request).await.unwrap();
        let wanted = &all[maps.start as usize..maps.end as usize];
        assert_eq!(read, expected(wanted.iter().flatten()), "{maps:?}");
    }
}

#[tokio::test]
async fn of_two_attempts_at_once_one_wins_and_only_it_is_read() {
    let cluster = Cluster::start(2, ByteSize::mib(64)).await;
    let driver = cluster.driver("twins").await;
    let client = cluster.client(&driver).await;
    driver.register(0, PARTITIONS, Some(1)).await.unwrap();
    let (a, b) = (units(0, 900, PARTITIONS), units(1, 700, PARTITIONS));
    let mut first = client.start_attempt(0, 0, 0).await.unwrap();
    let mut second = client.start_attempt(0, 0, 1).await.unwrap();
    push_all(&mut first, &a).await;
    push_all(&mut second, &b).await;
    let won = second.mapper_end().await.unwrap();
    assert!(won.won);
    // What of it was still on its way is refused now: the loser is told that it was overtaken, not that it failed.
    match first.mapper_end().await {
        Ok(ended) => assert!(!ended.won),
        Err(error) => assert!(error.is_overtaken(), "{error}"),
    }
    assert_eq!(second.mapper_end().await.unwrap(), won, "a repeated end repeats its answer");
    assert_eq!(read_all(&client, ReadRequest::new(0, 0..PARTITIONS)).await.unwrap(), expected(&b));
    assert_eq!(client.start_attempt(0, 0, 2).await.unwrap_err().reason(), Some(Reason::StageEnded));
}

#[tokio::test]
async fn tokens_name_what_is_read() {
    let cluster = Cluster::start(2, ByteSize::mib(64)).await;
    let driver = cluster.driver("tokens").await;
    let client = cluster.client(&driver).await;
    driver.register(0, PARTITIONS, None).await.unwrap();
    let mut tokens = Vec::new();
    for attempt in 0..2 {
        let mut map = client.start_attempt(0, 0, attempt).await.unwrap();
        push_all(&mut map, &units(attempt, 300, PARTITIONS)).await;
        let ended = map.mapper_end().await.unwrap();
        assert!(ended.won, "without a map count none is a loser");
        tokens.push(ended.token);
        // A read commits what is there; the next attempt goes to new epochs.
        let read = read_all(&client, ReadRequest::new(0, 0..PARTITIONS).tokens(vec![ended.token])).await.unwrap();
        assert_eq!(read, expected(&units(attempt, 300, PARTITIONS)));
    }
    // What the reads have closed is not opened again before somebody pushes.
    let held = cluster.held_bytes();
    driver.register(0, PARTITIONS, None).await.unwrap();
    assert_eq!(cluster.held_bytes(), held);
    for wrong in [tokens.clone(), vec![mallorn_client::Token(1)]] {
        let error = read_all(&client, ReadRequest::new(0, 0..1).tokens(wrong)).await.unwrap_err();
        assert!(matches!(error, mallorn_client::ReadError::Lifecycle(error) if error.reason() == Some(Reason::Token)));
    }
    assert!(read_all(&client, ReadRequest::new(0, 0..1).tokens(Vec::new())).await.unwrap().is_empty());
    assert!(read_all(&client, ReadRequest::new(0, 0..1)).await.is_err(), "there are no winners to read");
}

#[tokio::test]
async fn empty_units_large_units_and_untouched_partitions() {
    let cluster = Cluster::start(1, ByteSize::mib(64)).await;
    let driver = cluster.driver("sizes").await;
    let client = cluster.client(&driver).await;
    driver.register(0, 4, Some(1)).await.unwrap();
    let mut map = client.start_attempt(0, 0, 0).await.unwrap();
    let large: Vec<u8> = (0..900_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    map.push(0, b"").await.unwrap();
    map.push(1, &large).await.unwrap();
    map.push_owned(1, Bytes::from(large.clone())).await.unwrap();
    map.push_owned(2, Bytes::from_static(b"small")).await.unwrap();
    let ended = map.mapper_end().await.unwrap();
    let bytes: Vec<_> = ended.bytes.iter().map(|(partition, bytes)| (partition.0, *bytes)).collect();
    assert_eq!(bytes, [(0, 0), (1, 1_800_000), (2, 5)]);
    let mut reader = client.read(ReadRequest::new(0, 0..4)).await.unwrap();
    let mut lengths = vec![0; 4];
    while let Some(batch) = reader.next().await.unwrap() {
        assert!(batch.partition.0 != 1 || batch.data == large);
        lengths[batch.partition.0 as usize] += batch.data.len();
    }
    assert_eq!(lengths, [0, 1_800_000, 5, 0]);
}

#[tokio::test]
async fn a_small_budget_flushes_the_fullest_and_loses_nothing() {
    let cluster = Cluster::start(2, ByteSize::mib(64)).await;
    let driver = cluster.driver("budget").await;
    // The smallest budget: a quarter holds one maximal body. Buffers of 400 partitions and four attempts do not fit.
    let config = ClientConfig { memory: ByteSize(4 * 1_052_672), ..ClientConfig::default() };
    let client = cluster.client_with(&driver, config).await;
    driver.register(0, 400, Some(4)).await.unwrap();
    let all: Vec<_> = (0..4).map(|map| units(map, 40_000, 400)).collect();
    let mut attempts = Vec::new();
    for map in 0..4 {
        attempts.push(client.start_attempt(0, map, 0).await.unwrap());
    }
    for (attempt, units) in attempts.iter_mut().zip(&all) {
        push_all(attempt, units).await;
    }
    for attempt in &mut attempts {
        assert!(attempt.mapper_end().await.unwrap().won);
    }
    assert_eq!(read_all(&client, ReadRequest::new(0, 0..400)).await.unwrap(), expected(all.iter().flatten()));
}

#[tokio::test]
async fn a_reader_dropped_half_way_and_many_at_once_harm_nobody() {
    let cluster = Cluster::start(2, ByteSize::mib(64)).await;
    let driver = cluster.driver("readers").await;
    let client = cluster.client(&driver).await;
    driver.register(0, 2, Some(1)).await.unwrap();
    let all = units(0, 50_000, 2);
    run_map(&client, 0, 0, 0, &all).await;
    for steps in 0..4 {
        let mut reader = client.read(ReadRequest::new(0, 0..2)).await.unwrap();
        for _ in 0..steps {
            reader.next().await.unwrap();
        }
    }
    let mut readers = Vec::new();
    for _ in 0..8 {
        readers.push(client.read(ReadRequest::new(0, 0..2)).await.unwrap());
    }
    for reader in &mut readers {
        assert_eq!(drain(reader).await.unwrap(), expected(&all));
    }
}

#[tokio::test]
async fn a_push_dropped_half_way_has_pushed_nothing() {
    let cluster = Cluster::start(1, ByteSize::mib(64)).await;
    let driver = cluster.driver("dropped").await;
    let client = cluster.client(&driver).await;
    driver.register(0, 1, Some(1)).await.unwrap();
    let all = units(0, 2000, 1);
    let mut map = client.start_attempt(0, 0, 0).await.unwrap();
    for (partition, unit) in &all {
        let framed = [&(unit.len() as u32).to_le_bytes()[..], unit].concat();
        // Polled once: where it is not ready at once, it is dropped and made again.
        let once = {
            let push = map.push(*partition, &framed);
            tokio::pin!(push);
            std::future::poll_fn(|cx| std::task::Poll::Ready(push.as_mut().poll(cx))).await
        };
        if once.is_pending() {
            map.push(*partition, &framed).await.unwrap();
        }
    }
    {
        let end = map.mapper_end();
        tokio::pin!(end);
        let once = std::future::poll_fn(|cx| std::task::Poll::Ready(end.as_mut().poll(cx))).await;
        assert!(once.is_pending());
    }
    assert!(map.mapper_end().await.unwrap().won);
    assert_eq!(read_all(&client, ReadRequest::new(0, 0..1)).await.unwrap(), expected(&all));
}
