//! `mallorn master`, `worker` and `local`: ready, serving, ended in good order.

use mallorn_runtime::disk::Disk;
use tokio::process::Child;

use super::support::{Place, exit_code, line_starting, lines, signal};

/// Starts a role and returns what it says once it is ready.
pub(crate) async fn start(place: &Place, arguments: &[&str]) -> (Child, serde_json::Value) {
    let mut child = place.command(arguments).spawn().unwrap();
    let ready = line_starting(&mut lines(child.stdout.take()), "{").await;
    (child, serde_json::from_str(&ready).unwrap())
}

#[tokio::test]
async fn a_master_and_a_worker_get_ready_serve_a_demo_and_end_on_sigterm() {
    let place = Place::new();
    let quiet = ["--set", "log.filter=error"];
    let master = ["master", "--listen", "127.0.0.1:0", "--set", "master.admin=127.0.0.1:0"];
    let (mut master, ready) = start(&place, &[&master[..], &quiet].concat()).await;
    assert_eq!(ready["role"], "master");
    let address = ready["control"].as_str().unwrap().to_owned();
    assert!(ready["admin"].as_str().unwrap().starts_with("127.0.0.1:"));

    let folder = place.path("worker").to_str().unwrap().to_owned();
    let worker = ["worker", "--master", &address, "--memory", "64MiB", "--data-folder", &folder, "--set"];
    let ports = ["worker.control_listen=127.0.0.1:0", "worker.data_listen=127.0.0.1:0", "worker.admin_listen="];
    let ports = [ports[0], "--set", ports[1], "--set", ports[2]];
    let (mut worker, ready) = start(&place, &[&worker[..], &ports, &quiet].concat()).await;
    assert_eq!(ready["role"], "worker");
    assert!(ready["data"].is_string() && ready["admin"].is_null(), "{ready}");

    let input = place.file("rows.csv", "key\na\nb\na\n");
    let report = place.verified(&format!("--endpoint {address} --key key --input"), &[&input]).await;
    assert_eq!((&report["rows"], &report["master"]), (&3.into(), &serde_json::Value::Null));

    for (child, name) in [(&mut worker, "TERM"), (&mut master, "INT")] {
        signal(child, name).await;
        assert_eq!(exit_code(child).await, Some(0));
    }
}

#[tokio::test]
async fn a_local_cluster_runs_two_demos_at_once() {
    let place = Place::new();
    let arguments = ["local", "--workers", "2", "--memory", "64MiB", "--listen", "127.0.0.1:0"];
    let more = ["--set", "master.admin=", "--set", "worker.admin_listen=", "--set", "log.filter=error"];
    let own = place.path("local");
    Disk::real().create_dir(&own).unwrap();
    let mut cluster = place.command(&[&arguments[..], &more].concat()).env("TMPDIR", &own).spawn().unwrap();
    let ready = line_starting(&mut lines(cluster.stdout.take()), "{\"role\":\"master\"").await;
    let ready: serde_json::Value = serde_json::from_str(&ready).unwrap();
    let line = format!("--endpoint {} --key key --input", ready["control"].as_str().unwrap());

    let input = place.file("rows.csv", "key\na\nb\na\n");
    let more = [input.as_str()];
    let (one, two) = tokio::join!(place.verified(&line, &more), place.verified(&line, &more));
    assert_eq!((&one["rows"], &two["rows"]), (&3.into(), &3.into()));
    signal(&cluster, "TERM").await;
    assert_eq!(exit_code(&mut cluster).await, Some(0));
    assert_eq!(Disk::real().list(&own).unwrap(), [], "its data is gone with it");
}

#[tokio::test]
async fn a_worker_without_a_master_waits_and_can_be_ended() {
    let place = Place::new();
    let listen = ["worker.control_listen=127.0.0.1:0", "worker.data_listen=127.0.0.1:0", "worker.admin_listen="];
    let listen = ["--set", listen[0], "--set", listen[1], "--set", listen[2]];
    let arguments = [&["worker", "--master", "127.0.0.1:1", "--memory", "16MiB"], &listen[..]].concat();
    let mut worker = place.command(&arguments).spawn().unwrap();
    let mut log = lines(worker.stderr.take());
    line_starting(&mut log, "{").await;
    signal(&worker, "TERM").await;
    assert_eq!(exit_code(&mut worker).await, Some(0));
}
