//! What can't be: a clear message, an exit code other than 0, nothing left, nothing disturbed.

use super::roles::start;
use super::support::{Place, line_starting, lines};

#[tokio::test]
async fn wrong_options_are_wrong_usage() {
    let place = Place::new();
    for (line, words) in [
        ("demo --memory 1KiB", "must be at least 16MiB"),
        ("demo --memory lots", "does not start with a number"),
        ("demo --scale 0", "between 0.0001 (150 orders) and 1000"),
        ("demo --scale many", "invalid value 'many'"),
        ("demo --workers 0", "0 is not in 1..=64"),
        ("demo --mappers 0", "invalid value '0'"),
        ("demo --partitions 0", "0 is not in 1..=524288"),
        ("demo --codec gzip", "none of none, lz4, zstd"),
        ("demo --kill-worker --workers 1", "needs --workers 2 or more"),
        ("demo --endpoint 127.0.0.1:9097 --kill-worker", "cannot be used with"),
        ("demo --endpoint 127.0.0.1:9097 --memory 1GiB", "cannot be used with"),
        ("demo --endpoint nowhere", "write HOST:PORT"),
        ("demo --input rows.csv", "--key <COLUMN>"),
        ("demo --set worker.memroy=1GiB", "did you mean `worker.memory`?"),
        ("master --set master.worker_lease=10", "has no unit"),
        ("worker --memory 1KiB", "must be at least 16MiB"),
        ("worker drain", "<NAME>"),
        ("worker --memory 1GiB drain a", "cannot be used with"),
        ("worker drain a --set worker.grace=soon", "does not start with a number"),
        ("frobnicate", "unrecognized subcommand"),
    ] {
        place.refused(2, &[words], line, &[]).await;
    }
}

#[tokio::test]
async fn a_bad_settings_file_is_told_with_line_and_suggestion() {
    let place = Place::new();
    let file = place.file("bad.toml", "[worker]\nmemory = \"5XB\"\nconections_max = 4\n");
    let words = ["bad.toml:2", "unknown unit `XB`", "bad.toml:3", "did you mean `worker.connections_max`?"];
    place.refused(2, &words, "worker --config", &[&file]).await;
    place.refused(1, &words, "config check --config", &[&file]).await;
    place.refused(2, &["does not exist"], "master --config none.toml", &[]).await;
}

#[tokio::test]
async fn a_bad_csv_file_is_told() {
    let place = Place::new();
    place.refused(1, &["can't read none.csv"], "demo --key k --input none.csv", &[]).await;
    for (content, words) in [
        ("", "is empty"),
        ("key,value\n", "no records"),
        ("key,value\n1,2\n3\n", "line 3 (record 2): 1 fields, but there are 2 columns"),
        ("keys,value\n1,2\n", "did you mean \"keys\"?"),
        ("key,key\n1,2\n", "more than one column"),
    ] {
        let file = place.file("bad.csv", content);
        let said = place.refused(1, &["bad.csv", words], "demo --json --key key --input", &[&file]).await;
        let told: serde_json::Value = serde_json::from_str(&said.out).unwrap();
        assert_eq!(told["verified"], false);
        assert!(told["error"].as_str().unwrap().contains(words));
    }
}

#[tokio::test]
async fn a_row_that_fits_no_batch_is_refused_before_anything_starts() {
    let place = Place::new();
    let file = place.file("long.csv", format!("key,value\n1,{}\n", "x".repeat(2 << 20)));
    let said = place.refused(1, &["longest row", "raise cluster.body_limit"], "demo --key key --input", &[&file]).await;
    assert!(!said.err.contains("start: "), "{}", said.err);
    let more = ["--set", "cluster.body_limit=4MiB"];
    place.verified("--key key --input", &[&[file.as_str()], &more[..]].concat()).await;
}

#[tokio::test]
async fn more_than_all_arenas_hold_is_no_space_where_there_are_no_disks() {
    let place = Place::new();
    let row = |number: u64| format!("{},{}\n", number % 50, "x".repeat(1000));
    let file = place.file("much.csv", "key,value\n".to_owned() + &(0..40_000).map(row).collect::<String>());
    let quiet = ["--set", "log.filter=error"];
    let master = ["master", "--listen", "127.0.0.1:0", "--set", "master.admin="];
    let (_master, ready) = start(&place, &[&master[..], &quiet].concat()).await;
    let address = ready["control"].as_str().unwrap().to_owned();
    let listen = ["worker.control_listen=127.0.0.1:0", "worker.data_listen=127.0.0.1:0", "worker.admin_listen="];
    let listen = ["--set", listen[0], "--set", listen[1], "--set", listen[2]];
    let worker = ["worker", "--master", &address, "--memory", "16MiB"];
    let (_worker, _) = start(&place, &[&worker[..], &listen, &quiet].concat()).await;

    let line = format!("demo --endpoint {address} --codec none --set client.no_space_within=1s --key key --input");
    let words = ["worker.data_folders"];
    let within = ["--set", "lifecycle.place_within=1s"];
    place.refused(1, &words, &line, &[&[file.as_str()][..], &within].concat()).await;
    let words = ["no space", "of all live arenas are held", "bytes were refused", "add workers, memory or disks"];
    place.refused(1, &words, &line, &[file.as_str(), "--durability", "memory"]).await;
}

#[tokio::test]
async fn a_cluster_that_is_not_there_is_told() {
    let place = Place::new();
    let file = place.file("rows.csv", "key\n1\n");
    place
        .refused(1, &["is there a master at 127.0.0.1:1?"], "demo --endpoint 127.0.0.1:1 --key key --input", &[&file])
        .await;
}

#[tokio::test]
async fn a_port_in_use_and_an_unwritable_folder_are_told() {
    let place = Place::new();
    let listen = ["--listen", "127.0.0.1:0", "--set", "master.admin="];
    let mut master = place.command(&[&["master"], &listen[..]].concat()).spawn().unwrap();
    let ready = line_starting(&mut lines(master.stdout.take()), "{").await;
    let ready: serde_json::Value = serde_json::from_str(&ready).unwrap();
    let address = ready["control"].as_str().unwrap();
    place.refused(1, &[address, "in use", "master.listen"], "master --listen", &[address]).await;
    master.kill().await.unwrap();

    place.refused(1, &["worker.data_folders", "/proc/mallorn"], "worker --data-folder /proc/mallorn", &[]).await;
    let blocked = place.file("no-folder", "");
    let mut demo = place.command(&["demo", "--scale", "0.001"]);
    let said = super::support::said(demo.env("TMPDIR", &blocked).output()).await;
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.err.contains("can't create a temporary folder in") && said.err.contains("TMPDIR"), "{said:?}");
}
