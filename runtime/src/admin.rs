//! The admin port: metrics, probes and version over HTTP, and whatever a role adds.
//!
//! Owns `/metrics`, `/livez`, `/readyz`, `/version`, and the bounds on connections, requests and waits. Does not own
//! what ready means: a role passes its checks in, and may add routes of its own.
//!
//! The port trusts its network: it shows no data of users and, as built here, changes nothing.

use std::fmt;
use std::future::IntoFuture;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus::Registry;

use crate::clock;
use crate::net::Listener;
use crate::task::Shutdown;
use crate::telemetry;

mod connection;
pub mod page;

/// Largest request body that a role's routes may read, in bytes.
const BODY_BYTES_MAX: usize = 32 * 1024;

/// How long answers in progress may take once the shutdown is triggered.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(2);

/// Whether one condition of being ready holds; the error says why it does not, in words for people. It is asked at
/// every probe, so it must be quick and must not block.
pub type ReadyCheck = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// What the admin port serves. Built by a role, then [served](Admin::serve) until shutdown.
pub struct Admin {
    shown: Shown,
    routes: Router,
}

#[derive(Clone)]
struct Shown {
    role: &'static str,
    version: &'static str,
    registry: Registry,
    checks: Vec<(&'static str, ReadyCheck)>,
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let checks: Vec<_> = self.shown.checks.iter().map(|(name, _)| name).collect();
        f.debug_struct("Admin").field("role", &self.shown.role).field("checks", &checks).finish_non_exhaustive()
    }
}

impl Admin {
    /// An admin port of a process in this role (`master`, `worker`) that shows the metrics of `registry`. It is ready
    /// at once, until checks are added.
    pub fn new(role: &'static str, version: &'static str, registry: Registry) -> Self {
        Self { shown: Shown { role, version, registry, checks: Vec::new() }, routes: Router::new() }
    }

    /// Adds a condition of being ready, named in what `/readyz` answers.
    #[must_use]
    pub fn ready_check(mut self, name: &'static str, check: ReadyCheck) -> Self {
        self.shown.checks.push((name, check));
        self
    }

    /// Adds a role's own routes. Their answers must come within 30 seconds, after which a connection is closed.
    ///
    /// # Panics
    /// When a path is taken already: two routes of one path are a mistake in the program.
    #[must_use]
    pub fn routes(mut self, routes: Router) -> Self {
        self.routes = self.routes.merge(routes);
        self
    }

    /// All routes, for tests and for serving by other means.
    pub fn into_router(self) -> Router {
        Router::new()
            .route("/metrics", get(metrics))
            .route("/livez", get(live))
            .route("/readyz", get(ready))
            .route("/version", get(version))
            .with_state(self.shown)
            .merge(self.routes)
            .fallback(not_found)
            .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
    }

    /// Serves until the shutdown is triggered; answers in progress then get a moment to finish.
    ///
    /// # Errors
    /// When the listener can't tell its address; later failures concern single connections, and close these.
    pub async fn serve(self, listener: Listener, shutdown: Shutdown) -> io::Result<()> {
        let listener = connection::BoundedListener::new(listener);
        let ended = shutdown.clone();
        let server = axum::serve(listener, self.into_router())
            .with_graceful_shutdown(async move { ended.wait().await })
            .into_future();
        let grace = async {
            shutdown.wait().await;
            clock::sleep(SHUTDOWN_GRACE).await;
        };
        tokio::select! {
            biased;
            served = server => served,
            () = grace => Ok(()),
        }
    }
}

async fn metrics(State(shown): State<Shown>) -> Response {
    match telemetry::encode(&shown.registry) {
        Ok(text) => ([(header::CONTENT_TYPE, telemetry::METRICS_CONTENT_TYPE)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

/// Says only that the process runs. Anything more here would have an orchestrator kill a process that waits for others.
async fn live() -> &'static str {
    "ok\n"
}

async fn ready(State(shown): State<Shown>, RawQuery(query): RawQuery) -> Response {
    let verbose = query.is_some_and(|query| query.split('&').any(|part| part.split('=').next() == Some("verbose")));
    let mut failed = false;
    let mut lines = String::new();
    for (name, check) in &shown.checks {
        match check() {
            Ok(()) if verbose => lines.push_str(&format!("[+] {name}: ok\n")),
            Ok(()) => {}
            Err(why) => {
                failed = true;
                lines.push_str(&format!("[-] {name}: {why}\n"));
            }
        }
    }
    let (status, verdict) =
        if failed { (StatusCode::SERVICE_UNAVAILABLE, "not ready\n") } else { (StatusCode::OK, "ready\n") };
    (status, lines + verdict).into_response()
}

async fn version(State(shown): State<Shown>) -> Response {
    let version = serde_json::json!({ "name": "mallorn", "role": shown.role, "version": shown.version });
    axum::Json(version).into_response()
}

async fn not_found() -> Response {
    (StatusCode::NOT_FOUND, "not found: try /metrics, /livez, /readyz or /version\n").into_response()
}

#[cfg(test)]
mod tests;
