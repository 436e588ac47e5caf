//! What a process tells about itself: its log, and the metrics of the process as such.
//!
//! Owns the set-up of logging, how lines that repeat are kept few, the `process_*` metrics with `mallorn_build_info`, and
//! the text form of metrics. Does not own the metrics of a role: each registers its own in the same registry, which is
//! passed in.

use std::io::{self, IsTerminal};

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Counter, Encoder, Gauge, Opts, Registry, TextEncoder};
use thiserror::Error;
use tracing::Subscriber;
use tracing_subscriber::filter::{EnvFilter, ParseError};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::util::SubscriberInitExt;

pub mod process;
pub mod quiet;

crate::choices! {
    /// How log lines are written.
    pub enum LogFormat {
        /// Text when standard error is a terminal, JSON otherwise.
        Auto = "auto",
        /// One line of text per event.
        Text = "text",
        /// One JSON object per line.
        Json = "json",
    }
}

/// Why logging could not be set up.
#[derive(Debug, Error)]
pub enum InitError {
    /// The filter is not one.
    #[error("log filter `{filter}`: {source}; write a level (info) or target=level pairs with commas between them")]
    Filter {
        /// What was given.
        filter: String,
        /// What is wrong with it.
        source: ParseError,
    },
    /// This process logs already.
    #[error("logging is set up already")]
    AlreadySet,
}

/// Sends this process's log to standard error, with times in UTC as RFC 3339 has them. `filter` is a level, or pairs of
/// target and level with commas between them (`info,mallorn_worker=debug`).
///
/// # Errors
/// When the filter is wrong, or logging is set up already, be it by somebody else; the log is then left as it was.
pub fn init(format: LogFormat, filter: &str) -> Result<(), InitError> {
    let is_terminal = io::stderr().is_terminal();
    let format = match format {
        LogFormat::Auto if is_terminal => LogFormat::Text,
        LogFormat::Auto => LogFormat::Json,
        LogFormat::Text | LogFormat::Json => format,
    };
    let set = match format {
        LogFormat::Json => json_log(filter, io::stderr)?.try_init(),
        LogFormat::Auto | LogFormat::Text => text_log(filter, io::stderr, is_terminal)?.try_init(),
    };
    set.map_err(|_| InitError::AlreadySet)
}

fn text_log<W>(filter: &str, writer: W, colours: bool) -> Result<impl Subscriber + Send + Sync + use<W>, InitError>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let filter = parse_filter(filter)?;
    Ok(tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer).with_ansi(colours).finish())
}

fn json_log<W>(filter: &str, writer: W) -> Result<impl Subscriber + Send + Sync + use<W>, InitError>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let filter = parse_filter(filter)?;
    Ok(tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer).json().flatten_event(true).finish())
}

fn parse_filter(filter: &str) -> Result<EnvFilter, InitError> {
    EnvFilter::try_new(filter).map_err(|source| InitError::Filter { filter: filter.to_owned(), source })
}

/// The content type of [`encode`]'s text.
pub const METRICS_CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// All metrics of the registry, in Prometheus's text format.
///
/// # Errors
/// When a metric has no name or no value, which is a mistake in the program.
pub fn encode(registry: &Registry) -> Result<String, prometheus::Error> {
    let mut text = Vec::new();
    TextEncoder::new().encode(&registry.gather(), &mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// Adds the metrics of the process to the registry; `version` is the program's.
///
/// # Errors
/// When the registry has metrics of these names already.
pub fn register_process_metrics(registry: &Registry, version: &str) -> Result<(), prometheus::Error> {
    registry.register(Box::new(ProcessMetrics::new(version)?))
}

/// The metrics of the process, read from the kernel when they are asked for; those that it does not tell are left out.
struct ProcessMetrics {
    build_info: Gauge,
    start_time: Opts,
    cpu: Opts,
    resident: Opts,
    resident_peak: Opts,
    open_files: Opts,
    descriptions: Vec<Desc>,
}

impl ProcessMetrics {
    fn new(version: &str) -> Result<Self, prometheus::Error> {
        let build = Opts::new("mallorn_build_info", "Always 1; the label is the program's version.");
        let build_info = Gauge::with_opts(build.const_label("version", version))?;
        build_info.set(1.0);
        let mut metrics = Self {
            build_info,
            start_time: Opts::new("process_start_time_seconds", "Unix time at which the process started."),
            cpu: Opts::new("process_cpu_seconds_total", "CPU time used by the process, user and system."),
            resident: Opts::new("process_resident_memory_bytes", "Resident memory."),
            resident_peak: Opts::new("process_resident_memory_peak_bytes", "Most resident memory so far."),
            open_files: Opts::new("process_open_fds", "Open file descriptors."),
            descriptions: Vec::new(),
        };
        metrics.descriptions.extend(metrics.build_info.desc().into_iter().cloned());
        let all = [&metrics.start_time, &metrics.cpu, &metrics.resident, &metrics.resident_peak, &metrics.open_files];
        let described: Result<Vec<_>, _> = all.into_iter().map(prometheus::core::Describer::describe).collect();
        metrics.descriptions.extend(described?);
        Ok(metrics)
    }
}

impl Collector for ProcessMetrics {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut families = self.build_info.collect();
        let mut add_gauge = |opts: &Opts, value: f64| {
            if let Ok(gauge) = Gauge::with_opts(opts.clone()) {
                gauge.set(value);
                families.extend(gauge.collect());
            }
        };
        if let Ok(seconds) = process::start_time_s() {
            add_gauge(&self.start_time, seconds);
        }
        if let Ok(count) = process::open_files() {
            add_gauge(&self.open_files, count as f64);
        }
        if let Ok(usage) = process::usage() {
            add_gauge(&self.resident, usage.rss_bytes as f64);
            add_gauge(&self.resident_peak, usage.peak_rss_bytes as f64);
            if let Ok(counter) = Counter::with_opts(self.cpu.clone()) {
                counter.inc_by(usage.cpu_s);
                families.extend(counter.collect());
            }
        }
        families
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use parking_lot::Mutex;

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(subscriber: impl Subscriber + Send + Sync + 'static, lines: &Lines) -> String {
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(worker = "w1", "worker registered");
            tracing::debug!("not shown at info");
        });
        String::from_utf8(lines.0.lock().clone()).unwrap()
    }

    /// `2026-01-31T01:02:03.000000Z`, with any digits.
    fn is_utc_time(text: &str) -> bool {
        let shape: String = text.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
        shape == "0000-00-00T00:00:00.000000Z"
    }

    #[test]
    fn json_log_is_one_object_per_line_with_utc_time() {
        let lines = Lines::default();
        let writer = lines.clone();
        let text = logged(json_log("info", move || writer.clone()).unwrap(), &lines);
        assert_eq!(text.lines().count(), 1, "{text}");
        let event: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(event["message"], "worker registered");
        assert_eq!(event["worker"], "w1");
        assert_eq!(event["level"], "INFO");
        assert!(is_utc_time(event["timestamp"].as_str().unwrap()), "{text}");
    }

    #[test]
    fn text_log_starts_with_utc_time_and_has_no_colours_off_a_terminal() {
        let lines = Lines::default();
        let writer = lines.clone();
        let text = logged(text_log("info", move || writer.clone(), false).unwrap(), &lines);
        assert!(is_utc_time(text.split(' ').next().unwrap()), "{text}");
        assert!(text.contains("worker registered worker=\"w1\"") && !text.contains('\x1b'), "{text}");
    }

    #[test]
    fn bad_filter_is_named() {
        let message = init(LogFormat::Text, "mallorn=loud").unwrap_err().to_string();
        assert!(message.starts_with("log filter `mallorn=loud`: "), "{message}");
    }

    #[test]
    fn setting_up_twice_is_an_error_not_a_panic() {
        let outcomes = [init(LogFormat::Auto, "off"), init(LogFormat::Auto, "off")];
        assert!(outcomes[0].is_ok());
        assert!(matches!(outcomes[1], Err(InitError::AlreadySet)));
    }

    #[test]
    fn process_metrics_come_with_the_version_and_register_once() {
        let registry = Registry::new();
        register_process_metrics(&registry, "1.2.3").unwrap();
        assert!(register_process_metrics(&registry, "1.2.3").is_err());
        let text = encode(&registry).unwrap();
        assert!(text.contains("mallorn_build_info{version=\"1.2.3\"} 1\n"), "{text}");
        for name in [
            "process_start_time_seconds",
            "process_cpu_seconds_total",
            "process_resident_memory_bytes",
            "process_resident_memory_peak_bytes",
            "process_open_fds",
        ] {
            assert!(text.contains(&format!("\n{name} ")), "{name} is missing in\n{text}");
        }
    }
}
