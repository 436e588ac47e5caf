//! The trace of a run: what every process logged, and what the oracle and the faults did, with simulated time.
//!
//! Owns the text. It holds nothing that differs between two runs of one seed: no wall clock, no address in memory, no
//! process id. Does not own what is logged.

use std::cell::RefCell;
use std::fmt::{self, Write as _};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};
use tracing_subscriber::registry::LookupSpan;

/// A run's trace; clones write to the same one. It costs as much as the run, so it is kept only where somebody wants it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Trace {
    inner: Option<Arc<Mutex<Inner>>>,
}

#[derive(Debug, Default)]
struct Inner {
    text: String,
    /// Of the whole simulation, for events outside of any process.
    elapsed: Duration,
}

impl Trace {
    /// One that keeps what it is told.
    pub(crate) fn kept() -> Self {
        Self { inner: Some(Arc::default()) }
    }

    /// Runs `work` with every event logged in it going here.
    pub(crate) fn record<T>(&self, work: impl FnOnce() -> T) -> T {
        if self.inner.is_none() {
            return work();
        }
        let subscriber = tracing_subscriber::registry().with(self.clone());
        tracing::subscriber::with_default(subscriber, work)
    }

    /// The simulation has come to this moment.
    pub(crate) fn advance(&self, elapsed: Duration) {
        if let Some(inner) = &self.inner {
            inner.lock().elapsed = elapsed;
        }
    }

    /// Adds a line of the simulation itself.
    pub(crate) fn say(&self, line: impl fmt::Display) {
        let Some(kept) = &self.inner else { return };
        let at = now(kept);
        let mut inner = kept.lock();
        begin(&mut inner.text, at, "sim", Level::INFO);
        let _ = writeln!(inner.text, "{line}");
    }

    /// Everything so far.
    pub(crate) fn text(&self) -> String {
        self.inner.as_ref().map(|inner| inner.lock().text.clone()).unwrap_or_default()
    }
}

/// A process's own time where one runs. While a crashed one is taken down there is no clock that could be asked.
fn now(inner: &Mutex<Inner>) -> Duration {
    let running = tokio::runtime::Handle::try_current().is_ok();
    running.then(turmoil::sim_elapsed).flatten().unwrap_or_else(|| inner.lock().elapsed)
}

fn begin(text: &mut String, at: Duration, node: &str, level: Level) {
    let _ = write!(text, "{:>12.3}ms {node:<10} {level:<5} ", at.as_secs_f64() * 1000.0);
}

/// The name of the simulated host, kept with turmoil's span around each of its turns.
struct Node(String);

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Trace {
    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        // Of spans only the host's name is of use; those of the HTTP library are many.
        if metadata.is_span() { metadata.target().starts_with("turmoil") } else { *metadata.level() <= Level::DEBUG }
    }

    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut node = Node(String::new());
        attributes.record(&mut node);
        if let Some(span) = context.span(id) {
            span.extensions_mut().insert(node);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let Some(kept) = &self.inner else { return };
        let at = now(kept);
        let span = context.event_span(event);
        let extensions = span.as_ref().map(|span| span.extensions());
        let node = extensions.as_ref().and_then(|extensions| extensions.get::<Node>());
        let mut inner = kept.lock();
        begin(&mut inner.text, at, node.map_or("sim", |node| &node.0), *event.metadata().level());
        let _ = write!(inner.text, "{}:", event.metadata().target());
        event.record(&mut Fields(&mut inner.text));
        inner.text.push('\n');
    }
}

impl Visit for Node {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "name" {
            value.clone_into(&mut self.0);
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn fmt::Debug) {}
}

struct Fields<'a>(&'a mut String);

impl Visit for Fields<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let _ = match field.name() {
            "message" => write!(self.0, " {value:?}"),
            name => write!(self.0, " {name}={value:?}"),
        };
    }
}

thread_local! {
    /// Panics of the simulation that runs on this thread. A panic in a task of a process is caught by the runtime, and
    /// would go unnoticed.
    static PANICS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// Notes panics from here on instead of printing them; call it once per process.
pub(crate) fn catch_panics() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let text = panic.to_string().replace('\n', " ");
        if PANICS.try_with(|panics| panics.borrow_mut().push(text)).is_err() {
            before(panic);
        }
    }));
}

/// Whether anything panicked on this thread since the last call of [`take_panics`].
pub(crate) fn has_panicked() -> bool {
    PANICS.with_borrow(|panics| !panics.is_empty())
}

/// What panicked on this thread since the last call.
pub(crate) fn take_panics() -> Vec<String> {
    PANICS.take()
}
