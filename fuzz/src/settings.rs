//! Configuration: files, variables and flags, the sizes, durations and choices in them.

use std::fmt::Debug;
use std::str::FromStr;

use mallorn_client::{ClientConfig, LifecycleConfig};
use mallorn_master::{MasterSettings, PlacementStrategy};
use mallorn_runtime::config::{ByteSize, Check, ConfigError, Loader, Setting, Span, effective_toml, variable_name};
use mallorn_worker::WorkerConfig;

use crate::allocations::most;
use crate::feed::Feed;

mallorn_runtime::settings! {
    /// The sections of the roles, as the binary has them.
    pub struct Root {
        /// Settings of a master.
        pub master: MasterSettings,
        /// Settings of a worker.
        pub worker: WorkerConfig,
        /// Settings of the client in an engine's tasks.
        pub client: ClientConfig,
        /// Settings of the lifecycle manager in an engine's driver.
        pub lifecycle: LifecycleConfig,
        /// Numbers of each kind.
        pub numbers: Numbers,
    }
}

mallorn_runtime::settings! {
    /// What no role has.
    pub struct Numbers {
        /// With decimals.
        pub share: f64 = 0.5,
        /// Small.
        pub port: u16,
        /// Many.
        pub sizes: Vec<ByteSize>,
        /// Not always.
        pub span: Option<Span>,
    }
}

impl Check for Root {}
impl Check for Numbers {}

/// Longest message about settings that are wrong, in bytes, beside names and lines that are repeated in full.
const MESSAGE_BYTES_MAX: usize = 64 * 1024;
/// Most variables and flags of one input.
const GIVEN_MAX: usize = 32;

/// One quantity alone, or all sources: variables, flags, then the file.
pub fn target(data: &[u8]) {
    let mut feed = Feed::new(data);
    let mode = feed.byte();
    if mode & 1 == 0 {
        quantities(&String::from_utf8_lossy(feed.rest()));
        return;
    }
    let mut loader = Loader::new();
    let mut names = 0;
    for _ in 0..feed.byte() % GIVEN_MAX as u8 {
        let (kind, key, text) = (feed.byte(), feed.text(), feed.text());
        names += key.len();
        loader = match kind % 4 {
            0 => loader.environment([(variable_name(&key), text)]),
            1 => loader.environment([(key, text)]),
            2 => loader.assign(&format!("{key}={text}"), "--set"),
            _ => loader.set_list(key, text.split(';'), "--folder"),
        };
    }
    let file = String::from_utf8_lossy(feed.rest()).into_owned();
    let limit = 512 * data.len() + (1 << 20);
    let loader = loader.toml("fuzzed.toml", file);
    let (loaded, held) = most(|| loader.clone().load::<Root>());
    assert!(held <= limit, "{held} bytes for settings of {}", data.len());
    match loaded {
        Ok(loaded) => {
            let twice = loader.load::<Root>().expect("what is good is good again");
            assert_eq!(twice.value, loaded.value);
            shown_again(&loaded);
        }
        Err(error) => {
            let said = error.to_string();
            assert!(!said.is_empty() && said.len() <= MESSAGE_BYTES_MAX + 20 * names, "{} bytes are said", said.len());
            if let ConfigError::Settings { problems, .. } = error {
                assert!(!problems.is_empty());
            }
        }
    }
}

/// The values in effect are a file that gives them again.
fn shown_again(loaded: &mallorn_runtime::config::Loaded<Root>) {
    let shown = effective_toml(loaded);
    let again = Loader::new().toml("shown.toml", shown.clone()).load::<Root>();
    let again = again.unwrap_or_else(|error| panic!("{error}\nof\n{shown}")).value;
    let mut expected = loaded.value.clone();
    // A file can't take back what a setting has by default.
    let defaults = Root::default();
    expected.master.admin = expected.master.admin.or(defaults.master.admin);
    expected.worker.admin_listen = expected.worker.admin_listen.or(defaults.worker.admin_listen);
    assert_eq!(again, expected, "of\n{shown}");
}

fn quantities(text: &str) {
    same::<ByteSize>(text);
    same::<Span>(text);
    setting::<ByteSize>(text);
    setting::<Span>(text);
    setting::<PlacementStrategy>(text);
    setting::<u16>(text);
    setting::<u64>(text);
    setting::<f64>(text);
    setting::<bool>(text);
    setting::<std::net::SocketAddr>(text);
    setting::<Option<u32>>(text);
    setting::<Vec<ByteSize>>(text);
    setting::<Vec<String>>(text);
}

/// A quantity is printed as a text that reads as exactly the same, and as no longer one.
fn same<T: FromStr<Err: Debug> + ToString + Debug + PartialEq>(text: &str) {
    let Ok(quantity) = text.parse::<T>() else { return };
    let printed = quantity.to_string();
    assert_eq!(printed.parse::<T>().as_ref().ok(), Some(&quantity), "{text:?} is printed as {printed}");
    let padded = format!(" {text}\n");
    assert_eq!(padded.parse::<T>().ok(), Some(quantity), "white space around it means nothing");
}

/// What a variable says, a file can say too.
fn setting<T: Setting + Debug + PartialEq>(text: &str) {
    match T::from_text(text) {
        Ok(value) => {
            let Some(typed) = value.to_toml() else { return };
            assert_eq!(T::from_typed(&typed).as_ref(), Ok(&value), "{typed:?}");
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}
