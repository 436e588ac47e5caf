//! Readers of two copies: where one cannot be read they go on at the other, at the same offset, and deliver everything
//! once.

use std::time::Duration;

use mallorn_client::{ClientConfig, ReadError};
use mallorn_proto::id::WorkerId;
use mallorn_proto::message::{Failure, Fetch, Kind};
use mallorn_proto::status::Status;
use mallorn_proto::v1;
use mallorn_runtime::clock;
use mallorn_runtime::config::Span;

use crate::fakes::{Answer, Asked, FakeLifecycle, FakeWorker, address, hasty, location};
use crate::nonsense::{Served, by_token, garbage, read};

const OTHER: WorkerId = WorkerId(8);
const LETTERS: &[u8] = b"aaaaaaaabbbbbbbbccccccccdddddddd";
const GONE: v1::ResolvedLocation = v1::ResolvedLocation { address: None, gone: true, away: false, lost: false };

fn other_address(data: &str) -> v1::WorkerAddress {
    v1::WorkerAddress { worker: Some(OTHER.into()), name: "other".to_owned(), ..address(data) }
}

fn here(address: v1::WorkerAddress) -> v1::ResolvedLocation {
    v1::ResolvedLocation { address: Some(address), gone: false, away: false, lost: false }
}

/// A lifecycle manager that plans to read a location with two copies, the first one first.
async fn planned(served: &Served, first: &str, second: &str) -> FakeLifecycle {
    let driver = served.planned(first).await;
    let mut script = driver.script.lock();
    script.plan.workers.push(other_address(second));
    script.plan.partitions[0].locations[0].other = 2;
    script.resolve.workers = vec![here(address(first)), here(other_address(second))];
    drop(script);
    driver
}

fn fails(asked: &Asked, status: Status) -> Answer {
    let mut header = Vec::new();
    Failure { request: asked.request(), status, text: String::new() }.encode(&mut header);
    (Kind::Failure as u8, header, Vec::new())
}

fn offset(asked: &Asked) -> Option<u64> {
    (asked.kind == Kind::Fetch).then(|| Fetch::decode(&asked.header).unwrap().offset)
}

#[tokio::test]
async fn a_copy_that_fails_half_way_is_left_for_the_other_at_the_same_offset() {
    type Change = fn(&Asked, Answer) -> Answer;
    let changes: [Change; 5] = [
        |asked, _| fails(asked, Status::NotHere),
        |asked, _| fails(asked, Status::ShuttingDown),
        |asked, _| fails(asked, Status::Malformed),
        |asked, _| garbage(Kind::Fetched, asked),
        |_, (kind, header, mut body)| {
            *body.last_mut().unwrap() ^= 1;
            (kind, header, body)
        },
    ];
    let served = Served::letters(4);
    let half_way = served.batches[..2].iter().map(|batch| batch.len() as u64).sum::<u64>();
    for (number, change) in changes.into_iter().enumerate() {
        let (rule, sound) = (served.clone(), served.clone());
        let first = FakeWorker::start(move |asked| {
            let answer = rule.answer(asked)?;
            Some(if offset(asked).is_some_and(|offset| offset >= half_way) { change(asked, answer) } else { answer })
        })
        .await;
        let second = FakeWorker::start(move |asked| sound.answer(asked)).await;
        let driver = planned(&served, &first.address, &second.address).await;
        assert_eq!(read(&driver, by_token()).await.unwrap(), LETTERS, "{number}");
        let asked: Vec<_> = second.asked.lock().iter().filter_map(offset).collect();
        assert_eq!((asked.len(), asked[0]), (2, half_way), "{number}");
        assert_eq!(first.count(Kind::Fetch), 3, "{number}: it stays where it works");
        if number + 1 < changes.len() {
            driver.until("resolve").await;
            let told = driver.script.lock().resolves[0].clone();
            assert_eq!((told.workers, told.read), (vec![crate::fakes::WORKER.into()], vec![location(0, 0)]));
        }
    }
}

#[tokio::test]
async fn a_copy_out_of_reach_is_no_loss_and_is_tried_last_from_then_on() {
    let served = Served::letters(4);
    let rule = served.clone();
    let second = FakeWorker::start(move |asked| rule.answer(asked)).await;
    let driver = planned(&served, "127.0.0.1:9", &second.address).await;
    let client = driver.client(crate::fakes::hasty()).await;
    for _ in 0..3 {
        let mut reader = client.read(by_token()).await.unwrap();
        let mut bytes = Vec::new();
        while let Some(batch) = reader.next().await.unwrap() {
            bytes.extend_from_slice(&batch.data);
        }
        assert_eq!(bytes, LETTERS);
    }
    assert_eq!(client.stats().read_failovers, 1);
}

#[tokio::test]
async fn copies_that_both_fail_are_waited_for_until_one_is_back_or_both_are_gone() {
    let served = Served::letters(4);
    let start = |failures: usize| {
        let (rule, mut left) = (served.clone(), failures);
        FakeWorker::start(move |asked| {
            if asked.kind == Kind::Open && left > 0 {
                left -= 1;
                return Some(fails(asked, Status::ShuttingDown));
            }
            rule.answer(asked)
        })
    };
    let (first, second) = (start(usize::MAX).await, start(2).await);
    let driver = planned(&served, &first.address, &second.address).await;
    assert_eq!(read(&driver, by_token()).await.unwrap(), LETTERS);

    let (first, second) = (start(usize::MAX).await, start(usize::MAX).await);
    let driver = planned(&served, &first.address, &second.address).await;
    driver.script.lock().resolve.workers = vec![GONE, GONE];
    let error = read(&driver, by_token()).await.unwrap_err();
    assert!(matches!(error, ReadError::PartitionLost { .. }), "{error}");
}

#[tokio::test]
async fn both_copies_broken_at_one_place_are_a_loss() {
    let served = Served::letters(4);
    let start = || {
        let rule = served.clone();
        FakeWorker::start(move |asked| {
            let (kind, header, mut body) = rule.answer(asked)?;
            if offset(asked).is_some_and(|offset| offset > 0) {
                *body.last_mut().unwrap() ^= 1;
            }
            Some((kind, header, body))
        })
    };
    let (first, second) = (start().await, start().await);
    let driver = planned(&served, &first.address, &second.address).await;
    let error = read(&driver, by_token()).await.unwrap_err();
    let ReadError::PartitionLost { why, .. } = error else { panic!("{error}") };
    assert!(why.contains("broken"), "{why}");
    assert_eq!((first.count(Kind::Fetch), second.count(Kind::Fetch)), (4, 3));
}

#[tokio::test]
async fn a_location_that_was_handed_over_is_read_on_where_it_is_now() {
    let served = Served::letters(4);
    let half_way = served.batches[0].len() as u64;
    let (rule, sound) = (served.clone(), served.clone());
    let leaves = FakeWorker::start(move |asked| match offset(asked) {
        Some(offset) if offset >= half_way => Some(fails(asked, Status::NotHere)),
        _ => rule.answer(asked),
    })
    .await;
    let taker = FakeWorker::start(move |asked| sound.answer(asked)).await;
    let driver = served.planned(&leaves.address).await;
    driver.script.lock().resolve.workers = vec![here(other_address(&taker.address))];
    assert_eq!(read(&driver, by_token()).await.unwrap(), LETTERS);
    assert_eq!(taker.asked.lock().iter().filter_map(offset).next(), Some(half_way));
}

/// Without the question after it a reader would wait to the end of its call, which is later than the end of this test.
#[tokio::test]
async fn a_worker_that_does_not_answer_is_asked_after_and_left_once_it_is_lost() {
    let served = Served::letters(2);
    let (rule, sound) = (served.clone(), served.clone());
    let silent =
        FakeWorker::start(move |asked| if asked.kind == Kind::Fetch { None } else { rule.answer(asked) }).await;
    let second = FakeWorker::start(move |asked| sound.answer(asked)).await;
    let driver = planned(&served, &silent.address, &second.address).await;
    driver.script.lock().resolve.workers = vec![v1::ResolvedLocation { away: true, lost: true, ..Default::default() }];
    let client = driver.client(ClientConfig { call_within: Span::seconds(600), ..hasty() }).await;
    let read = async {
        let mut reader = client.read(by_token()).await.unwrap();
        let mut bytes = Vec::new();
        while let Some(batch) = reader.next().await.unwrap() {
            bytes.extend_from_slice(&batch.data);
        }
        bytes
    };
    let bytes = clock::timeout(Duration::from_secs(60), read).await.expect("it goes on at the other copy");
    assert_eq!(bytes, &LETTERS[..16]);
    let asked = driver.script.lock().resolves[0].clone();
    assert_eq!((asked.workers, asked.read), (vec![crate::fakes::WORKER.into()], Vec::new()));
}

#[tokio::test]
async fn bytes_that_stay_broken_are_read_from_a_copy_that_was_not_planned() {
    let served = Served::letters(2);
    let (rule, sound) = (served.clone(), served.clone());
    let broken = FakeWorker::start(move |asked| {
        let (kind, header, mut body) = rule.answer(asked)?;
        if let Some(byte) = body.last_mut() {
            *byte ^= 1;
        }
        Some((kind, header, body))
    })
    .await;
    let second = FakeWorker::start(move |asked| sound.answer(asked)).await;
    let driver = served.planned(&broken.address).await;
    driver.script.lock().resolve.workers = vec![here(other_address(&second.address))];
    assert_eq!(read(&driver, by_token()).await.unwrap(), &LETTERS[..16]);
    assert_eq!(driver.script.lock().resolves.len(), 1);
}
