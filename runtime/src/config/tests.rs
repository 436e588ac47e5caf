//! The whole way of settings: declared, loaded from every source, refused, shown.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::{choices, settings};

choices! {
    /// When a shuffle is safe.
    enum Safety {
        /// Held in memory.
        Memory = "memory",
        /// Written to a file.
        Written = "written",
    }
}

settings! {
    /// The admin port.
    struct AdminConfig {
        /// Where it listens.
        listen: SocketAddr = SocketAddr::from(([127, 0, 0, 1], 9100)),
    }
}

settings! {
    /// A worker,
    /// which holds data.
    struct WorkerConfig {
        /// Bytes of memory | for data.
        memory: ByteSize = ByteSize::gib(2),
        /// Folders.
        data: Vec<PathBuf> = vec![PathBuf::from("/var/lib/mallorn")],
        /// Name shown to people.
        name: Option<String>,
        /// Its admin port.
        admin: AdminConfig,
        /// Connections at once.
        connections_max: u16 = 1024,
        /// Whether its disk comes back.
        disk_returns: bool = true,
        /// When data is safe.
        safety: Safety = Safety::Written,
        /// Share of memory.
        share: f64 = 0.5,
    }
}

settings! {
    /// The cluster.
    struct ClusterConfig {
        /// Lease of an application.
        lease: Span = Span::seconds(120),
    }
}

settings! {
    /// Everything.
    struct Root {
        /// The cluster.
        cluster: ClusterConfig,
        /// A worker.
        worker: WorkerConfig,
    }
}

impl Check for AdminConfig {
    fn check(&self) -> Result<(), Invalid> {
        if self.listen.port() == 22 { Err(Invalid::new("listen", "must leave port 22 alone")) } else { Ok(()) }
    }
}

impl Check for WorkerConfig {
    fn check(&self) -> Result<(), Invalid> {
        if self.memory < ByteSize::mib(16) { Err(Invalid::new("memory", "must be at least 16MiB")) } else { Ok(()) }
    }
}

impl Check for ClusterConfig {}

impl Check for Root {
    fn check(&self) -> Result<(), Invalid> {
        match &self.worker.name {
            Some(name) if name.is_empty() => Err(Invalid::new("worker.name", "must not be empty")),
            Some(_) | None => Ok(()),
        }
    }
}

fn variables(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
}

fn toml_loader(text: &str) -> Loader {
    Loader::new().toml("m.toml", text)
}

/// The messages of everything that is wrong.
fn problems(loader: Loader) -> Vec<String> {
    match loader.load::<Root>() {
        Err(ConfigError::Settings { problems, .. }) => problems.iter().map(Problem::to_string).collect(),
        other => panic!("expected settings to be refused, got {other:?}"),
    }
}

#[test]
fn flag_beats_environment_beats_file_beats_default() {
    let file = "[worker]\nmemory = '32MiB'\nconnections_max = 7\nname = 'f'\ndata = ['/f']\n";
    let environment = variables(&[
        ("MALLORN_WORKER__MEMORY", "48MiB"),
        ("mallorn_worker__Name", "e"),
        ("MALLORN_WORKER__DATA", "/a, /b"),
    ]);
    let loader = toml_loader(file).environment(environment).set("worker.memory", "64MiB", "--memory");
    let loaded = loader.load::<Root>().unwrap();
    let worker = &loaded.value.worker;
    assert_eq!(worker.memory, ByteSize::mib(64));
    assert_eq!(worker.name.as_deref(), Some("e"));
    assert_eq!(worker.data, [PathBuf::from("/a"), PathBuf::from("/b")]);
    assert_eq!(worker.connections_max, 7);
    assert_eq!(loaded.value.cluster.lease.duration(), Duration::from_secs(120));
    let origins = ["worker.memory", "worker.name", "worker.connections_max", "cluster.lease"];
    let origins = origins.map(|key| loaded.origin(key).to_string());
    assert_eq!(origins, ["flag --memory", "environment mallorn_worker__Name", "m.toml:3", "default"]);
}

#[test]
fn later_flags_win_and_text_is_read_as_typed() {
    let loader = Loader::new()
        .assign("worker.disk_returns=false", "--set")
        .assign("worker.connections_max = 1", "--set")
        .assign("worker.connections_max = 2", "--set")
        .assign("worker.admin.listen=[::1]:80", "--set")
        .assign("worker.safety=memory", "--set")
        .assign("worker.share=0.25", "--set")
        .assign("worker.data=['/a,b', '/c']", "--set")
        .set_some("worker.name", None::<String>, "--name")
        .set_some("cluster.lease", Some(Span::minutes(2)), "--lease");
    let worker = loader.load::<Root>().unwrap().value.worker;
    assert_eq!((worker.disk_returns, worker.connections_max, worker.safety), (false, 2, Safety::Memory));
    assert_eq!(worker.admin.listen, SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], 80)));
    assert_eq!(worker.data, [PathBuf::from("/a,b"), PathBuf::from("/c")]);
    assert_eq!(worker.name, None);
}

#[test]
fn repeated_flag_gives_a_list_and_empty_text_unsets() {
    let loader = toml_loader("worker.name = 'f'").environment(variables(&[("MALLORN_WORKER__NAME", "")])).set_list(
        "worker.data",
        ["/a,b", "/c"],
        "--data",
    );
    let worker = loader.load::<Root>().unwrap().value.worker;
    assert_eq!(worker.data, [PathBuf::from("/a,b"), PathBuf::from("/c")]);
    assert_eq!(worker.name, None);
    let untouched = Loader::new().set_list("worker.data", Vec::<String>::new(), "--data");
    assert_eq!(untouched.load::<Root>().unwrap().value, Root::default());
}

#[test]
fn unknown_keys_name_their_place_and_the_nearest() {
    let file =
        "[worker]\nmemroy = '1GiB'\n[wroker]\n[worker.admin]\n\nlisen = '1.2.3.4:5'\n[cluster]\ncolour = 'red'\n";
    let loader = toml_loader(file)
        .environment(variables(&[("MALLORN_WORKER_MEMORY", "1GiB"), ("MALLORNA", "x")]))
        .assign("memory=1GiB", "--set");
    assert_eq!(
        problems(loader),
        [
            "m.toml:8: unknown setting `cluster.colour`",
            "m.toml:6: unknown setting `worker.admin.lisen`; did you mean `worker.admin.listen`?",
            "m.toml:2: unknown setting `worker.memroy`; did you mean `worker.memory`?",
            "m.toml:3: unknown setting `wroker`; did you mean `worker`?",
            "environment MALLORN_WORKER_MEMORY: unknown setting `worker_memory`; did you mean MALLORN_WORKER__MEMORY?",
            "flag --set: unknown setting `memory`; did you mean `worker.memory`?",
        ]
    );
}

#[test]
fn refused_values_name_key_origin_and_accepted_form() {
    let file = "cluster.lease = 30\nworker.memory = '2GG'\nworker.connections_max = 70000\nworker.name = 3\n\
                worker.data = '/a'\nworker.safety = 'writen'\nworker.disk_returns = 'yes'\n";
    let loader = toml_loader(file).environment(variables(&[("MALLORN_WORKER__SHARE", "half")]));
    assert_eq!(
        problems(loader),
        [
            "m.toml:1: `cluster.lease` = 30: `30` has no unit: write one of ns, us, ms, s, min, h, d after it; expected \
             a duration such as \"30s\"",
            "m.toml:2: `worker.memory` = \"2GG\": unknown unit `GG`: use one of B, kB, MB, GB, TB, KiB, MiB, GiB, TiB; \
             expected a size such as \"64MiB\"",
            "m.toml:5: `worker.data` = \"/a\": this is of type string; expected a list in brackets, each item a path in \
             quotes",
            "m.toml:4: `worker.name` = 3: this is of type integer; expected text in quotes",
            "m.toml:3: `worker.connections_max` = 70000: must lie between 0 and 65535; expected a whole number",
            "m.toml:7: `worker.disk_returns` = \"yes\": this is of type string; expected true or false",
            "m.toml:6: `worker.safety` = \"writen\": `writen` is none of memory, written; did you mean `written`?; \
             expected one of memory, written",
            "environment MALLORN_WORKER__SHARE: `worker.share` = \"half\": this can't be read; expected a number",
        ]
    );
}

#[test]
fn sections_and_settings_are_not_mixed_up() {
    let file = "cluster = 3\n[worker.memory]\nlimit = '1GiB'\n[worker.data]\n[[worker.admin]]\n";
    assert_eq!(
        problems(toml_loader(file).assign("nonsense", "--set")),
        [
            "flag --set: `nonsense` is not of the form section.name=value",
            "m.toml:4: `worker.data` is a setting, not a section: it takes a list in brackets, each item a path in quotes",
            "m.toml:1: `cluster` is a section, not a setting: name a setting in it",
            "m.toml:5: `worker.admin` is a section, not a setting: name a setting in it",
            "m.toml:3: `worker.memory` is a setting, not a section: it takes a size such as \"64MiB\"",
        ]
    );
    assert_eq!(toml_loader("[worker]\n[worker.admin]\n").load::<Root>().unwrap().value, Root::default());
}

#[test]
fn checks_run_in_every_section_and_name_where_the_value_came_from() {
    let loader =
        toml_loader("worker.admin.listen = '1.2.3.4:22'\nworker.name = ''").set("worker.memory", "1KiB", "--memory");
    assert_eq!(
        problems(loader),
        [
            "m.toml:1: `worker.admin.listen` = \"1.2.3.4:22\": must leave port 22 alone",
            "flag --memory: `worker.memory` = \"1KiB\": must be at least 16MiB",
            "m.toml:2: `worker.name` = \"\": must not be empty",
        ]
    );
}

#[test]
fn variables_that_differ_in_case_only_are_refused() {
    let pairs = [("MALLORN_WORKER__NAME", "a"), ("mallorn_worker__name", "b")];
    let expected = "environment MALLORN_WORKER__NAME and mallorn_worker__name both set `worker.name`: keep one";
    assert_eq!(problems(Loader::new().environment(variables(&pairs))), [expected]);
}

#[test]
fn syntax_errors_have_line_and_column() {
    let message = toml_loader("[worker]\nmemory = 2GiB\n").load::<Root>().unwrap_err().to_string();
    assert!(message.starts_with("m.toml:2:1"), "{message}");
    let message = toml_loader("worker.share = 99999999999999999999\n").load::<Root>().unwrap_err().to_string();
    assert!(message.starts_with("m.toml:1:"), "{message}");
}

#[test]
fn the_file_may_be_named_by_the_environment_and_must_exist() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.toml");
    let environment = || variables(&[("MALLORN_CONFIG", path.to_str().unwrap())]);
    let message = Loader::new().environment(environment()).load::<Root>().unwrap_err().to_string();
    assert_eq!(message, format!("configuration file: {} does not exist", path.display()));
    std::fs::write(&path, "worker.name = 'x'").unwrap();
    let loaded = Loader::new().environment(environment()).load::<Root>().unwrap();
    assert_eq!(loaded.value.worker.name.as_deref(), Some("x"));
    let message = Loader::new().file("/no/such").environment(environment()).load::<Root>().unwrap_err().to_string();
    assert_eq!(message, "configuration file: /no/such does not exist");
    std::fs::write(&path, b"worker.name = '\xff'").unwrap();
    assert!(matches!(Loader::new().file(&path).load::<Root>(), Err(ConfigError::Encoding { valid_bytes: 15, .. })));
}

#[test]
fn a_file_full_of_mistakes_is_told_in_a_few_lines() {
    let text: String = (0..50_000).map(|n| format!("worker.x{n} = 1\n")).collect();
    match toml_loader(&text).load::<Root>() {
        Err(ConfigError::Settings { problems, unlisted }) => assert_eq!((problems.len(), unlisted), (20, 49_980)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn reference_names_every_setting_with_type_default_and_meaning() {
    let page = reference_markdown::<Root>();
    for line in [
        "## `[worker]`\n\nA worker, which holds data.\n",
        "## `[worker.admin]`",
        "| `memory` | size | `\"2GiB\"` | Bytes of memory \\| for data. |",
        "| `data` | list, each path | `[\"/var/lib/mallorn\"]` | Folders. |",
        "| `name` | text, optional | not set | Name shown to people. |",
        "| `lease` | duration | `\"2min\"` | Lease of an application. |",
        "| `safety` | one of memory, written | `\"written\"` | When data is safe.<br>`memory`: Held in memory.<br>\
         `written`: Written to a file. |",
    ] {
        assert!(page.contains(line), "{line}\nis missing in\n{page}");
    }
}

#[test]
fn effective_values_show_their_origins() {
    let loaded = toml_loader("worker.name = 'x'").set("worker.memory", "1GiB", "--memory").load::<Root>().unwrap();
    let text = effective_toml(&loaded);
    let expected = "[cluster]\nlease = \"2min\" # default\n\n[worker]\nmemory = \"1GiB\" # flag --memory\n\
                    data = [\"/var/lib/mallorn\"] # default\nname = \"x\" # m.toml:1\n";
    assert!(text.starts_with(expected), "{text}");
}

fn any_root() -> impl Strategy<Value = Root> {
    let texts = (any::<Option<String>>(), prop::collection::vec(".{0,8}", 0..3));
    let numbers = (16u64 << 20.., any::<u16>(), any::<bool>(), -1e9..1e9f64, any::<SocketAddr>(), 0u64..1 << 60);
    (texts, numbers).prop_map(|((name, data), (memory, connections_max, disk_returns, share, listen, lease))| Root {
        cluster: ClusterConfig { lease: Span(Duration::from_nanos(lease)) },
        worker: WorkerConfig {
            memory: ByteSize(memory),
            data: data.into_iter().map(PathBuf::from).collect(),
            name: name.filter(|name| !name.is_empty()),
            admin: AdminConfig { listen: without_scope(listen) },
            connections_max,
            disk_returns,
            safety: if disk_returns { Safety::Memory } else { Safety::Written },
            share,
        },
    })
}

/// Flow labels of IPv6 are no part of an address's text, and port 22 is refused above.
fn without_scope(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip(), address.port().max(23))
}

proptest! {
    #[test]
    fn effective_values_load_as_the_same(root in any_root()) {
        let catalog = load::catalog_of(&root);
        let mut loader = Loader::new();
        for setting in catalog.settings() {
            let value = setting.value.as_ref().map(|value| match value {
                toml::Value::String(text) => text.clone(),
                other => other.to_string(),
            });
            loader = loader.set_some(&*setting.key, value, "--x");
        }
        let loaded = loader.load::<Root>().unwrap();
        prop_assert_eq!(&loaded.value, &root);
        let text = effective_toml(&loaded);
        prop_assert_eq!(toml_loader(&text).load::<Root>().unwrap().value, root, "{}", text);
    }

    #[test]
    fn sizes_and_spans_print_what_they_parse(bytes: u64, shift in 0u32..64, nanos in 0u64..1 << 61, zeros in 0u32..18) {
        for size in [bytes, bytes >> shift, bytes >> shift << shift.min(40), bytes / 10u64.pow(zeros) * 10u64.pow(zeros)] {
            let size = ByteSize(size);
            prop_assert_eq!(size.to_string().parse::<ByteSize>(), Ok(size));
        }
        for nanos in [nanos, nanos / 10u64.pow(zeros) * 10u64.pow(zeros)] {
            let span = Span(Duration::from_nanos(nanos));
            prop_assert_eq!(span.to_string().parse::<Span>(), Ok(span));
        }
    }

    #[test]
    fn no_text_makes_a_parser_panic(text in ".{0,40}", digits in "[0-9.]{0,70}", unit in "[a-zA-Z]{0,4}") {
        for text in [text, format!("{digits}{unit}")] {
            let _ = text.parse::<ByteSize>();
            let _ = text.parse::<Span>();
            let _ = toml_loader(&text).load::<Root>();
            let _ = Loader::new().assign(&text, "--set").environment([(text, String::new())]).load::<Root>();
        }
    }
}

#[test]
fn sizes_are_read_and_printed_as_people_write_them() {
    for (text, bytes, printed) in [
        ("64MiB", 64 << 20, "64MiB"),
        ("1.5GiB", 3 << 29, "1.5GiB"),
        ("4096", 4096, "4KiB"),
        ("4096B", 4096, "4KiB"),
        ("2 gb", 2_000_000_000, "2GB"),
        ("1500kB", 1_500_000, "1.5MB"),
        ("1.0TiB", 1 << 40, "1TiB"),
        ("1025", 1025, "1025B"),
        ("0.5KiB", 512, "512B"),
        ("0", 0, "0B"),
        ("18446744073709551615", u64::MAX, "18446744073709551615B"),
    ] {
        let size: ByteSize = text.parse().unwrap();
        assert_eq!((size.bytes(), size.to_string().as_str()), (bytes, printed), "{text}");
    }
    for text in
        ["", " ", "MiB", "1..5GiB", "1.GiB", ".5GiB", "-1GiB", "1e3", "18446744073709551616", "16777216TiB", "2G"]
    {
        assert!(text.parse::<ByteSize>().is_err(), "{text}");
    }
}

#[test]
fn spans_are_read_and_printed_as_people_write_them() {
    for (text, millis, printed) in [
        ("30s", 30_000, "30s"),
        ("200ms", 200, "200ms"),
        ("0.2s", 200, "200ms"),
        ("2500ms", 2_500, "2.5s"),
        ("5min", 300_000, "5min"),
        ("90min", 5_400_000, "1.5h"),
        ("1 h", 3_600_000, "1h"),
        ("0s", 0, "0s"),
        ("36500d", 36_500 * 86_400_000, "36500d"),
    ] {
        let span: Span = text.parse().unwrap();
        assert_eq!((span.duration(), span.to_string().as_str()), (Duration::from_millis(millis), printed), "{text}");
    }
    assert_eq!("1.000000001s".parse(), Ok(Span(Duration::new(1, 1))));
    for text in ["30", "", "s", "5m", "-5s", "36501d", "1h30min"] {
        assert!(text.parse::<Span>().is_err(), "{text}");
    }
}

#[test]
fn units_serialize_as_text() {
    assert_eq!(serde_json::to_string(&(ByteSize::gib(2), Span::seconds(5))).unwrap(), r#"["2GiB","5s"]"#);
    let read: (ByteSize, ByteSize, Span) = serde_json::from_str(r#"["2GiB", 4096, "5s"]"#).unwrap();
    assert_eq!(read, (ByteSize::gib(2), ByteSize(4096), Span::seconds(5)));
    assert!(serde_json::from_str::<Span>("5").is_err());
    assert!(serde_json::from_str::<ByteSize>("-5").is_err());
}
