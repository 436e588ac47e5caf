//! Counts words over processes: a driver, map processes that push words, reduce processes that count them.
//!
//! Start a cluster (`mallorn local`), then
//! `cargo run -p mallorn-client --example word_count -- driver 127.0.0.1:9097 FILE...`: one map process per file.

use std::collections::BTreeMap;
use std::error::Error;
use std::process::ExitCode;

use mallorn_client::{
    ClientConfig, Durability, LifecycleConfig, LifecycleManager, ReadError, ReadRequest, ShuffleClient,
};
use mallorn_runtime::random::Random;
use prometheus::Registry;
use tokio::process::Command;

const SHUFFLE: u32 = 0;
const PARTITIONS: u32 = 2;
const GENERATIONS_MAX: u32 = 3;
/// What a reduce process exits with when its partition is lost.
const LOST: u8 = 3;

type AnyError = Box<dyn Error>;

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match arguments.as_slice() {
        ["driver", master, files @ ..] if !files.is_empty() => drive(master, files).await,
        ["map", lifecycle, map, attempt, file] => run_map(lifecycle, map, attempt, file).await,
        ["reduce", lifecycle, partition] => run_reduce(lifecycle, partition).await,
        _ => Err("usage: word_count driver MASTER FILE...".into()),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// What an engine's scheduler does: registers, runs the maps, runs the reducers, and after a loss runs both again.
async fn drive(master: &str, files: &[&str]) -> Result<ExitCode, AnyError> {
    // So that a worker without a disk will do.
    let durability = Durability::Memory;
    let config = LifecycleConfig { master: master.to_owned(), durability, ..LifecycleConfig::default() };
    let driver = LifecycleManager::start("word-count", config, Random::from_system()).await?;
    let mut generation = driver.register(SHUFFLE, PARTITIONS, Some(files.len() as u32)).await?;
    for attempt in 0..GENERATIONS_MAX {
        let map = |(map, file): (usize, &&str)| {
            vec![
                "map".to_owned(),
                driver.address().to_owned(),
                map.to_string(),
                attempt.to_string(),
                (*file).to_owned(),
            ]
        };
        for code in run_all(files.iter().enumerate().map(map)).await? {
            if code != 0 {
                return Err(format!("a map process exited with {code}").into());
            }
        }
        let reduce = |partition: u32| vec!["reduce".to_owned(), driver.address().to_owned(), partition.to_string()];
        let codes = run_all((0..PARTITIONS).map(reduce)).await?;
        if codes.iter().all(|code| *code == 0) {
            driver.stop().await?;
            return Ok(ExitCode::SUCCESS);
        }
        if codes.iter().any(|code| *code != 0 && *code != i32::from(LOST)) {
            return Err(format!("the reduce processes exited with {codes:?}").into());
        }
        // However many readers report it, one loss starts one generation.
        generation = driver.next_generation(SHUFFLE, generation).await?;
    }
    Err("too many losses".into())
}

/// Runs this program once for each list of arguments, all at the same time.
async fn run_all(commands: impl Iterator<Item = Vec<String>>) -> Result<Vec<i32>, AnyError> {
    let program = std::env::current_exe()?;
    let children: Result<Vec<_>, _> =
        commands.map(|arguments| Command::new(&program).args(arguments).spawn()).collect();
    let mut codes = Vec::new();
    for mut child in children? {
        codes.push(child.wait().await?.code().unwrap_or(-1));
    }
    Ok(codes)
}

async fn connect(lifecycle: &str) -> Result<ShuffleClient, AnyError> {
    let registry = Registry::new();
    Ok(ShuffleClient::connect(lifecycle, ClientConfig::default(), Random::from_system(), &registry).await?)
}

async fn run_map(lifecycle: &str, map: &str, attempt: &str, file: &str) -> Result<ExitCode, AnyError> {
    let text = std::fs::read_to_string(file)?;
    let client = connect(lifecycle).await?;
    let mut attempt = client.start_attempt(SHUFFLE, map.parse()?, attempt.parse()?).await?;
    for word in text.split_whitespace() {
        // The unit is a word and its separator; a reader gets whole units, in any order.
        attempt.push(partition_of(word), format!("{word}\n").as_bytes()).await?;
    }
    let ended = attempt.mapper_end().await?;
    eprintln!("map {map}: {} bytes", ended.bytes.iter().map(|(_, bytes)| bytes).sum::<u64>());
    Ok(ExitCode::SUCCESS)
}

async fn run_reduce(lifecycle: &str, partition: &str) -> Result<ExitCode, AnyError> {
    let partition: u32 = partition.parse()?;
    let client = connect(lifecycle).await?;
    match count(&client, partition).await {
        Ok(counts) => {
            counts.iter().for_each(|(word, count)| println!("{count:8} {word}"));
            Ok(ExitCode::SUCCESS)
        }
        // Typed, so that an engine can tell what to run again from what to report.
        Err(error @ (ReadError::PartitionLost { .. } | ReadError::Revoked { .. })) => {
            eprintln!("{error}");
            Ok(ExitCode::from(LOST))
        }
        Err(error) => Err(error.into()),
    }
}

async fn count(client: &ShuffleClient, partition: u32) -> Result<BTreeMap<String, u64>, ReadError> {
    let mut counts = BTreeMap::new();
    let mut reader = client.read(ReadRequest::new(SHUFFLE, partition..partition + 1)).await?;
    while let Some(batch) = reader.next().await? {
        for word in batch.data.split(|byte| *byte == b'\n').filter(|word| !word.is_empty()) {
            *counts.entry(String::from_utf8_lossy(word).into_owned()).or_default() += 1;
        }
    }
    Ok(counts)
}

/// FNV-1a: the same in every process.
fn partition_of(word: &str) -> u32 {
    let hash = word.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    hash % PARTITIONS
}
