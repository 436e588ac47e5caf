//! Lifecycle managers and workers that answer nonsense: a typed error, never a wrong result, a panic or a wait for ever.

use mallorn_client::{LifecycleError, PushError, ReadError, ReadRequest, Token};
use mallorn_proto::batch::{BatchHeader, Codec, ENVELOPE_BYTES, Envelope, Place, encode_overhead};
use mallorn_proto::id::{Attempt, BatchId, Instance, MapId, Partition, ShuffleId};
use mallorn_proto::message::{Failure, Fetch, Fetched, Kind, Opened, PushMerged, PushReply};
use mallorn_proto::status::Status;
use mallorn_proto::v1;
use mallorn_proto::v1::revived::Outcome;

use crate::fakes::{
    Answer, Asked, FakeLifecycle, FakeWorker, INSTANCE, Script, WIRE, address, hasty, location, open_location,
    read_location,
};

/// Answers a push with this status for each batch.
pub(crate) fn statuses(asked: &Asked, status: Status) -> Answer {
    let count = match asked.kind {
        Kind::Push => 1,
        _ => PushMerged::decode(&asked.header, asked.body.len()).unwrap().parts().len(),
    };
    pushed(asked, &vec![status; count])
}

fn pushed(asked: &Asked, statuses: &[Status]) -> Answer {
    let mut header = Vec::new();
    PushReply::encode(asked.request(), statuses, &mut header).unwrap();
    (Kind::PushReply as u8, header, Vec::new())
}

/// The request's number, and then nothing that makes sense.
pub(crate) fn garbage(kind: Kind, asked: &Asked) -> Answer {
    (kind as u8, [&asked.request().to_be_bytes()[..], &[0xff; 5]].concat(), Vec::new())
}

#[tokio::test]
async fn a_worker_s_nonsense_about_a_push_is_refused_by_type() {
    let answers: [fn(&Asked) -> Answer; 5] = [
        |asked| garbage(Kind::PushReply, asked),
        |asked| pushed(asked, &[]),
        |asked| pushed(asked, &[Status::Success; 2]),
        |asked| garbage(Kind::Fetched, asked),
        |asked| statuses(asked, Status::Malformed),
    ];
    for answer in answers {
        let worker = FakeWorker::start(move |asked| Some(answer(asked))).await;
        let driver = FakeLifecycle::start(1, &worker.address).await;
        let client = driver.client(hasty()).await;
        let mut attempt = client.start_attempt(0, 0, 0).await.unwrap();
        attempt.push(0, b"unit").await.unwrap();
        let error = attempt.mapper_end().await.unwrap_err();
        assert!(matches!(error, PushError::Refused { .. }), "{error}");
        assert_eq!(attempt.push(0, b"more").await.unwrap_err(), error, "the attempt is over");
        assert_eq!(driver.script.lock().count("mapper_end"), 0);
    }
}

#[tokio::test]
async fn a_checksum_that_never_matches_is_broken_memory_here() {
    let worker = FakeWorker::start(|asked| Some(statuses(asked, Status::BadChecksum))).await;
    let driver = FakeLifecycle::start(1, &worker.address).await;
    let client = driver.client(hasty()).await;
    let mut attempt = client.start_attempt(0, 0, 0).await.unwrap();
    attempt.push(0, b"unit").await.unwrap();
    let error = attempt.mapper_end().await.unwrap_err();
    assert!(matches!(&error, PushError::Refused { text } if text.contains("checksum")), "{error}");
    let asked = worker.asked.lock();
    assert_eq!(asked.len(), 4);
    assert!(asked.iter().all(|push| push.body == asked[0].body), "a batch pushed again is the same bytes");
}

#[tokio::test]
async fn a_push_that_every_new_place_refuses_ends_with_an_error() {
    let worker = FakeWorker::start(|asked| Some(statuses(asked, Status::HardSplit))).await;
    let driver = FakeLifecycle::start(1, &worker.address).await;
    let client = driver.client(hasty()).await;
    let mut attempt = client.start_attempt(0, 0, 0).await.unwrap();
    attempt.push(0, b"unit").await.unwrap();
    let error = attempt.mapper_end().await.unwrap_err();
    assert!(matches!(error, PushError::NoSpace { .. }), "{error}");
    assert!(driver.script.lock().count("revive") < 100);
}

#[tokio::test]
async fn a_lifecycle_manager_s_nonsense_about_a_start_is_refused() {
    let changes: [fn(&mut Script); 5] = [
        |script| script.start.partitions = u32::MAX,
        |script| script.locate.locations.truncate(1),
        |script| script.locate.locations.swap(0, 1),
        |script| script.locate.locations[1].location = Some(v1::LocationId { shuffle: 6, partition: 1, epoch: 0 }),
        |script| script.locate.locations[1].worker = 1,
    ];
    for (number, change) in changes.into_iter().enumerate() {
        let driver = FakeLifecycle::start(2, "127.0.0.1:9").await;
        let client = driver.client(hasty()).await;
        change(&mut driver.script.lock());
        let error = client.start_attempt(0, 0, 0).await.unwrap_err();
        assert!(matches!(error, LifecycleError::Unreachable { .. }), "{number}: {error}");
    }
}

#[tokio::test]
async fn a_lifecycle_manager_s_nonsense_about_a_revive_is_refused() {
    fn reply(partitions: Vec<v1::Revived>, data: &str) -> Option<v1::ReviveReply> {
        Some(v1::ReviveReply { workers: vec![address(data)], partitions, ..Default::default() })
    }
    fn revived(location: Option<v1::OpenLocation>) -> v1::Revived {
        v1::Revived { outcome: Outcome::Revived.into(), location }
    }
    let answers: [Vec<v1::Revived>; 5] = [
        vec![],
        vec![revived(None)],
        vec![revived(Some(open_location(1, 1)))],
        vec![revived(Some(open_location(0, 0)))],
        vec![revived(Some(open_location(0, 1))), revived(Some(open_location(1, 1)))],
    ];
    for (number, answer) in answers.into_iter().enumerate() {
        let worker = FakeWorker::start(|asked| Some(statuses(asked, Status::HardSplit))).await;
        let driver = FakeLifecycle::start(2, &worker.address).await;
        let client = driver.client(hasty()).await;
        driver.script.lock().revive = reply(answer, &worker.address);
        let mut attempt = client.start_attempt(0, 0, 0).await.unwrap();
        attempt.push(0, b"unit").await.unwrap();
        let error = attempt.mapper_end().await.unwrap_err();
        assert!(matches!(error, PushError::Lifecycle(LifecycleError::Unreachable { .. })), "{number}: {error}");
    }
}

#[tokio::test]
async fn a_renewal_without_an_answer_for_an_attempt_is_none() {
    // It never answers, so the end of the attempt waits until the attempt must stop.
    let worker = FakeWorker::start(|_| None).await;
    let driver = FakeLifecycle::start(1, &worker.address).await;
    driver.script.lock().renewed = 0;
    driver.script.lock().join.attempt_lease_ms = 1000;
    let client = driver.client(hasty()).await;
    let mut attempt = client.start_attempt(0, 0, 0).await.unwrap();
    attempt.push(0, b"unit").await.unwrap();
    let error = attempt.mapper_end().await.unwrap_err();
    assert!(matches!(&error, PushError::Lifecycle(error) if error.to_string().contains("lease")), "{error}");
}

/// A batch as it lies in a location of partition 0.
fn stored(map: u32, batch: u32, last: bool, payload: &[u8]) -> Vec<u8> {
    let place = Place { instance: Instance(INSTANCE), shuffle: ShuffleId(WIRE), partition: Partition(0) };
    let length = (payload.len() + ENVELOPE_BYTES) as u32;
    let header = BatchHeader { map: MapId(map), attempt: Attempt(0), batch: BatchId(batch), length };
    let envelope = Envelope { codec: Codec::None, last, raw_length: payload.len() as u32, crc: 0 };
    [&encode_overhead(&place, &header, &envelope, payload).0[..], payload].concat()
}

/// Serves a location of these batches, one with each fetch.
#[derive(Clone)]
pub(crate) struct Served {
    pub(crate) batches: Vec<Vec<u8>>,
}

impl Served {
    /// One map's batches `a`, `b` and so on.
    pub(crate) fn letters(count: u32) -> Self {
        let batch = |number: u32| stored(0, number, number + 1 == count, &[b'a' + number as u8; 8]);
        Self { batches: (0..count).map(batch).collect() }
    }

    fn length(&self) -> u64 {
        self.batches.iter().map(|batch| batch.len() as u64).sum()
    }

    pub(crate) fn answer(&self, asked: &Asked) -> Option<Answer> {
        let mut header = Vec::new();
        match asked.kind {
            Kind::Open => {
                let length = self.length();
                let opened = Opened { request: asked.request(), stream: 1, length, chunk_ends: vec![length] };
                opened.encode(&mut header).unwrap();
                Some((Kind::Opened as u8, header, Vec::new()))
            }
            Kind::Fetch => {
                let fetch = Fetch::decode(&asked.header).unwrap();
                let mut at = 0;
                let batch = self.batches.iter().find(|batch| {
                    let here = at == fetch.offset;
                    at += batch.len() as u64;
                    here
                });
                let body = batch.unwrap().clone();
                let (request, stream, offset) = (fetch.request, fetch.stream, fetch.offset);
                Fetched { request, stream, offset, next: offset + body.len() as u64 }.encode(&mut header);
                Some((Kind::Fetched as u8, header, body))
            }
            _ => None,
        }
    }

    /// A lifecycle manager that plans to read the location, by the token of its one map.
    pub(crate) async fn planned(&self, data: &str) -> FakeLifecycle {
        let driver = FakeLifecycle::start(1, data).await;
        let sealed = v1::SealedLocation {
            location: Some(read_location().into()),
            seal: 4,
            length: self.length(),
            worker: 0,
            ..Default::default()
        };
        let partition = v1::PartitionPlan { partition: 0, locations: vec![sealed], sum: None, lost: String::new() };
        let touched = vec![v1::Range { first: 0, end: 1 }];
        let mut script = driver.script.lock();
        script.plan.partitions = vec![partition];
        script.winners =
            vec![v1::ListWinnersReply { winners: vec![v1::Winner { map: 0, attempt: 0, token: 8, touched }] }];
        drop(script);
        driver
    }
}

pub(crate) fn by_token() -> ReadRequest {
    ReadRequest::new(0, 0..1).tokens(vec![Token(8)])
}

pub(crate) async fn read(driver: &FakeLifecycle, request: ReadRequest) -> Result<Vec<u8>, ReadError> {
    let client = driver.client(hasty()).await;
    let mut reader = client.read(request).await?;
    let mut bytes = Vec::new();
    while let Some(batch) = reader.next().await? {
        bytes.extend_from_slice(&batch.data);
    }
    Ok(bytes)
}

#[tokio::test]
async fn a_corrupt_chunk_is_fetched_again_and_lost_when_it_stays_so() {
    let served = Served::letters(4);
    // Each batch is broken the first time: four broken answers, none of them twice in the same place.
    let (rule, mut broken) = (served.clone(), std::collections::BTreeSet::new());
    let worker = FakeWorker::start(move |asked| {
        let (kind, header, mut body) = rule.answer(asked)?;
        if asked.kind == Kind::Fetch && broken.insert(Fetch::decode(&asked.header).unwrap().offset) {
            *body.last_mut().unwrap() ^= 1;
        }
        Some((kind, header, body))
    })
    .await;
    let driver = served.planned(&worker.address).await;
    assert_eq!(read(&driver, by_token()).await.unwrap(), b"aaaaaaaabbbbbbbbccccccccdddddddd");
    assert_eq!(worker.count(Kind::Fetch), 8);

    let rule = served.clone();
    let worker = FakeWorker::start(move |asked| {
        let (kind, header, mut body) = rule.answer(asked)?;
        if asked.kind == Kind::Fetch {
            *body.last_mut().unwrap() ^= 1;
        }
        Some((kind, header, body))
    })
    .await;
    let driver = served.planned(&worker.address).await;
    let error = read(&driver, by_token()).await.unwrap_err();
    let ReadError::PartitionLost { why, incomplete, .. } = error else { panic!("{error}") };
    assert!(why.contains("broken") && why.contains("checksum"), "{why}");
    assert_eq!((incomplete, worker.count(Kind::Fetch)), (vec![Token(8)], 3));
}

#[tokio::test]
async fn a_worker_s_nonsense_about_a_read_is_a_loss_after_a_few_tries() {
    type Change = fn(&Asked, Answer) -> Answer;
    fn fetched(asked: &Asked, answer: Answer, change: impl FnOnce(&mut Fetched)) -> Answer {
        if asked.kind != Kind::Fetch {
            return answer;
        }
        let mut fetched = Fetched::decode(&answer.1).unwrap();
        change(&mut fetched);
        let mut header = Vec::new();
        fetched.encode(&mut header);
        (answer.0, header, answer.2)
    }
    let changes: [Change; 9] = [
        |asked, _| garbage(Kind::Opened, asked),
        |asked, answer| if asked.kind == Kind::Fetch { garbage(Kind::Fetched, asked) } else { answer },
        |asked, answer| if asked.kind == Kind::Fetch { garbage(Kind::PushReply, asked) } else { answer },
        |asked, answer| fetched(asked, answer, |fetched| fetched.stream += 1),
        |asked, answer| fetched(asked, answer, |fetched| fetched.next = u64::MAX),
        |asked, answer| fetched(asked, answer, |fetched| fetched.next = fetched.offset),
        |asked, answer| fetched(asked, answer, |fetched| fetched.next -= 1),
        |asked, answer| fetched(asked, answer, |fetched| fetched.offset = 1),
        |_, (kind, header, body)| (kind, header, [&body[..], &[0; 4096]].concat()),
    ];
    let served = Served::letters(2);
    for (number, change) in changes.into_iter().enumerate() {
        let rule = served.clone();
        let worker = FakeWorker::start(move |asked| rule.answer(asked).map(|answer| change(asked, answer))).await;
        let driver = served.planned(&worker.address).await;
        let error = read(&driver, by_token()).await.unwrap_err();
        assert!(matches!(error, ReadError::PartitionLost { .. }), "{number}: {error}");
        assert!(worker.count(Kind::Open) <= 3, "{number}");
    }
}

#[tokio::test]
async fn read_ahead_holds_no_memory_while_its_worker_is_away() {
    let served = Served::letters(2);
    let rule = served.clone();
    let worker = FakeWorker::start(move |asked| {
        if asked.kind == Kind::Fetch && Fetch::decode(&asked.header).unwrap().offset > 0 {
            let failure = Failure { request: asked.request(), status: Status::Busy, text: String::new() };
            let mut header = Vec::new();
            failure.encode(&mut header);
            return Some((Kind::Failure as u8, header, Vec::new()));
        }
        rule.answer(asked)
    })
    .await;
    let driver = served.planned(&worker.address).await;
    // Room for three readers, or for two and what is fetched ahead.
    let memory = mallorn_runtime::config::ByteSize(4 * u64::from(mallorn_proto::limits::BODY_BYTES_DEFAULT));
    let client = driver.client(mallorn_client::ClientConfig { memory, ..hasty() }).await;
    let mut readers = Vec::new();
    for _ in 0..3 {
        let mut reader = client.read(by_token()).await.unwrap();
        assert!(reader.next().await.unwrap().is_some());
        readers.push(reader);
    }
}

#[tokio::test]
async fn a_reader_dropped_half_way_closes_its_stream() {
    let served = Served::letters(4);
    let rule = served.clone();
    let (closed, mut closings) = tokio::sync::mpsc::channel(4);
    let worker = FakeWorker::start(move |asked| {
        if asked.kind == Kind::CloseStream {
            closed.try_send(()).unwrap();
        }
        rule.answer(asked)
    })
    .await;
    let driver = served.planned(&worker.address).await;
    let client = driver.client(hasty()).await;
    let mut reader = client.read(by_token()).await.unwrap();
    assert!(reader.next().await.unwrap().is_some());
    drop(reader);
    closings.recv().await.unwrap();
}

#[tokio::test]
async fn a_lifecycle_manager_s_nonsense_about_a_read_is_refused() {
    fn winner(map: u32, token: u64) -> v1::Winner {
        v1::Winner { map, attempt: 0, token, touched: Vec::new() }
    }
    fn winners(script: &mut Script, winners: Vec<v1::Winner>) {
        script.winners = vec![v1::ListWinnersReply { winners }, v1::ListWinnersReply::default()];
    }
    let changes: [fn(&mut Script); 12] = [
        |script| winners(script, vec![]),
        |script| winners(script, vec![winner(0, 9)]),
        |script| winners(script, vec![winner(0, 8), winner(1, 9)]),
        |script| winners(script, vec![winner(0, 8), winner(0, 8)]),
        |script| script.plan.partitions.clear(),
        |script| script.plan.partitions[0].partition = 1,
        |script| script.plan.partitions.push(v1::PartitionPlan { partition: 1, ..Default::default() }),
        |script| script.plan.partitions[0].locations[0].worker = 1,
        |script| script.plan.partitions[0].locations[0].other = 2,
        |script| script.plan.partitions[0].locations[0].location = None,
        |script| script.plan.partitions[0].locations[0].location = Some(location(1, 0)),
        |script| {
            script.plan.partitions[0].locations[0].location = Some(v1::LocationId { shuffle: 6, ..location(0, 0) })
        },
    ];
    let served = Served::letters(1);
    for (number, change) in changes.into_iter().enumerate() {
        let rule = served.clone();
        let worker = FakeWorker::start(move |asked| rule.answer(asked)).await;
        let driver = served.planned(&worker.address).await;
        change(&mut driver.script.lock());
        let error = read(&driver, by_token()).await.unwrap_err();
        assert!(matches!(error, ReadError::Lifecycle(LifecycleError::Unreachable { .. })), "{number}: {error}");
    }
}

#[tokio::test]
async fn winners_out_of_order_or_without_a_sum_are_refused() {
    fn winner(map: u32) -> v1::Winner {
        v1::Winner { map, attempt: 0, token: u64::from(map), touched: Vec::new() }
    }
    for maps in [vec![1, 0], vec![0, 0], vec![u32::MAX], vec![0]] {
        let driver = Served::letters(1).planned("127.0.0.1:9").await;
        let page = v1::ListWinnersReply { winners: maps.iter().copied().map(winner).collect() };
        driver.script.lock().winners = vec![page, v1::ListWinnersReply::default()];
        // Where the order is right it is the missing sum that is refused.
        let error = read(&driver, ReadRequest::new(0, 0..1)).await.unwrap_err();
        assert!(matches!(error, ReadError::Lifecycle(LifecycleError::Unreachable { .. })), "{maps:?}: {error}");
    }
}
