//! `mallorn demo`: it verifies whatever happens on the way, and leaves nothing.

use super::support::{Place, exit_code, line_starting, lines, signal};

/// Where nobody is killed nothing may be lost, however busy the machine.
const PATIENT: &str = "--set master.worker_lease=60s";

/// A file whose keys and fields hold everything that makes CSV hard.
fn awkward_csv(records: usize) -> String {
    let long = "long ".repeat(5000);
    let mut text = "name,note,amount\n".to_owned();
    for record in 0..records {
        let line = match record % 5 {
            0 => format!("\"Smith, John\",\"said \"\"no\"\"\nand left\",{record}\n"),
            1 => format!(",,{record}\n"),
            2 => format!("\"two\r\nlines\",\",\",{record}\n"),
            3 => format!("key-{},plain,{record}\n", record % 97),
            _ => format!("\"{long}{}\",x,{record}\n", record % 3),
        };
        text += &line;
    }
    text
}

#[tokio::test]
async fn tpch_prints_the_answer_and_the_figures() {
    let place = Place::new();
    let line = format!("demo {PATIENT} --scale 0.001 --workers 2 --mappers 3 --partitions 5");
    let said = place.run(&line, &[]).await;
    assert_eq!(said.code, Some(0), "{said:?}");
    place.assert_nothing_left();
    assert!(said.out.starts_with("ship mode   high priority   low priority\nMAIL "), "{}", said.out);
    for word in ["shuffled ", "batches ", "generations  orders 1, lineitem 1", "CPU s", "worker-2"] {
        assert!(said.out.contains(word), "{}", said.out);
    }
    let last = said.out.trim_end().lines().last().unwrap();
    assert!(last.starts_with("verified: ") && last.ends_with(" rows"), "{last}");
    for stage in ["start: ", "map: ", "commit: ", "reduce: ", "check: "] {
        assert!(said.err.lines().any(|line| line.starts_with(stage)), "{}", said.err);
    }
}

#[tokio::test]
async fn tpch_survives_a_killed_worker_while_every_map_runs_twice() {
    let place = Place::new();
    let report = place.verified("--scale 0.002 --kill-worker --duplicate-attempts", &[]).await;
    assert_eq!(report["generations"], 2);
    assert!(report["maps_again"].as_u64().unwrap() >= 8);
    let killed = report["killed_worker"].as_str().unwrap();
    let workers = report["workers"].as_array().unwrap();
    assert_eq!(workers.len(), 3);
    for worker in workers {
        assert!(worker["cpu_s"].is_number() && worker["peak_rss_mib"].as_f64().unwrap() > 1.0, "{worker}");
        let fate = if worker["name"] == killed { "killed_by_fault" } else { "ended_by_demo" };
        assert_eq!(worker["fate"], fate, "{worker}");
    }
    assert_eq!(
        report["rows"],
        report["answer"]["orders"].as_u64().unwrap() + report["answer"]["lineitems"].as_u64().unwrap()
    );
    for key in ["bytes", "wall_s", "revives", "repushed_batches", "batches"] {
        assert!(report[key].is_number(), "{key}");
    }
}

#[tokio::test]
async fn a_worker_killed_between_commit_and_read_starts_the_next_generation() {
    let place = Place::new();
    let input = place.file("rows.csv", awkward_csv(2000));
    let report = place.verified("--key name --kill-worker=read --input", &[&input]).await;
    assert_eq!((&report["generations"], &report["maps_again"]), (&2.into(), &8.into()));
    assert!(report["killed_worker"].is_string());
}

#[tokio::test]
async fn csv_with_quotes_commas_newlines_empty_and_long_keys_verifies() {
    let place = Place::new();
    let input = place.file("rows.csv", awkward_csv(3000));
    let line = format!("{PATIENT} --key name --codec zstd --mappers 5 --partitions 7 --input");
    let report = place.verified(&line, &[&input]).await;
    let answer = &report["answer"];
    assert_eq!((&answer["rows"], &report["rows"]), (&3000.into(), &3000.into()));
    // Beside the numbered ones: the quoted name, the empty one, the one of two lines, and three long ones.
    assert_eq!(answer["keys"], 97 + 6);
    let largest = answer["largest"].as_array().unwrap();
    assert_eq!(largest.len(), 10);
    for (key, rows) in [("", 600), ("Smith, John", 600), ("two\r\nlines", 600)] {
        assert!(largest.iter().any(|place| place["key"] == key && place["rows"] == rows), "{key:?}: {largest:?}");
    }
    assert!(largest.iter().any(|place| place["key_bytes"] == 25_001 && place["rows"] == 200), "{largest:?}");
}

#[tokio::test]
async fn readers_that_name_tokens_have_only_lost_maps_run_again() {
    let place = Place::new();
    let input = place.file("rows.csv", awkward_csv(2000));
    let report = place.verified(&format!("{PATIENT} --key name --tokens --input"), &[&input]).await;
    assert_eq!((&report["generations"], &report["maps_again"]), (&1.into(), &0.into()));
    let line = "--key name --tokens --kill-worker --duplicate-attempts --mappers 16 --input";
    let report = place.verified(line, &[&input]).await;
    assert_eq!(report["generations"], 1, "there is one generation for life");
    let again = report["maps_again"].as_u64().unwrap();
    assert!((1..16).contains(&again), "maps that ended after the kill are whole: {again}");
}

#[tokio::test]
async fn ctrl_c_and_sigterm_leave_nothing() {
    for (name, code) in [("INT", 130), ("TERM", 143)] {
        let place = Place::new();
        // So much that it can't be done before the signal comes.
        let mut demo = place.command(&["demo", "--scale", "2"]).spawn().unwrap();
        let mut err = lines(demo.stderr.take());
        line_starting(&mut err, "start: ").await;
        signal(&demo, name).await;
        assert_eq!(exit_code(&mut demo).await, Some(code));
        place.assert_nothing_left();
    }
}

#[tokio::test]
async fn a_demo_killed_with_sigkill_leaves_nothing_either() {
    let place = Place::new();
    let input = place.file("rows.csv", awkward_csv(50_000));
    let mut demo = place.command(&["demo", "--input", &input, "--key", "name", "--mappers", "1"]).spawn().unwrap();
    let mut err = lines(demo.stderr.take());
    line_starting(&mut err, "start: ").await;
    signal(&demo, "KILL").await;
    assert_eq!(exit_code(&mut demo).await, None);
    place.nothing_left_soon().await;
}

#[tokio::test]
async fn two_copies_survive_a_killed_worker_within_one_generation_and_spill() {
    let place = Place::new();
    let line = "--scale 0.02 --memory 16MiB --copies 2 --kill-worker --duplicate-attempts";
    let report = place.verified(line, &[]).await;
    assert_eq!((&report["generations"], &report["maps_again"]), (&1.into(), &0.into()));
    for key in ["spilled_bytes", "replicated_bytes", "revives"] {
        assert!(report[key].as_u64().unwrap() > 0, "{key}: {report}");
    }
}

#[tokio::test]
async fn readers_wait_for_a_worker_that_restarts_with_its_disk() {
    let place = Place::new();
    let (one, two) = (place.path("one"), place.path("two"));
    let data = ["--data", one.to_str().unwrap(), "--data", two.to_str().unwrap()];
    let report = place.verified("--scale 0.01 --restart-worker --durability synced", &data).await;
    assert_eq!(report["generations"], 1);
    assert!(report["restarted_worker"].is_string());
    for folder in [one, two] {
        assert_eq!(mallorn_runtime::disk::Disk::real().list(&folder).unwrap(), [], "nothing is left");
    }
}
