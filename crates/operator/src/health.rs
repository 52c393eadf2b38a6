//! `/livez`, `/readyz` and `/metrics` over plain HTTP.
//! What readiness waits for is left to those who become ready.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::sync::oneshot;

use crate::metrics::Metrics;
use crate::signs::Signs;

/// What the operator still waits for before it is ready.
#[derive(Clone, Debug, Default)]
pub(crate) struct Readiness(Arc<Mutex<BTreeSet<&'static str>>>);

impl Readiness {
    /// Something to wait for.
    pub(crate) fn expect(&self, what: &'static str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(what);
    }

    /// It is there.
    pub(crate) fn done(&self, what: &'static str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(what);
    }

    fn waits_for(&self) -> Vec<&'static str> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect()
    }
}

/// What is served.
#[derive(Clone)]
pub(crate) struct Page {
    /// For `/readyz`.
    pub readiness: Readiness,
    /// For `/metrics`.
    pub metrics: Arc<Metrics>,
    /// For `/livez`.
    pub signs: Arc<Signs>,
}

/// Serves from a thread of its own, which answers while the operator's runtime is stuck. Ends only if it fails.
///
/// # Errors
/// The address cannot be listened on, or there is no thread.
pub(crate) fn serve(
    address: SocketAddr,
    page: Page,
) -> anyhow::Result<oneshot::Receiver<anyhow::Result<()>>> {
    let listener = std::net::TcpListener::bind(address)
        .with_context(|| format!("--health-address {address} cannot be listened on"))?;
    listener.set_nonblocking(true)?;
    tracing::info!(address = %listener.local_addr()?, "serving /livez, /readyz and /metrics");
    let (ended, ending) = oneshot::channel();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("health".into()).spawn(move || {
        // Nobody hears it only when the operator has ended.
        let _ = ended.send(runtime.block_on(answer(listener, page)));
    })?;
    Ok(ending)
}

async fn answer(listener: std::net::TcpListener, page: Page) -> anyhow::Result<()> {
    let router = Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics_page))
        .with_state(page);
    axum::serve(tokio::net::TcpListener::from_std(listener)?, router).await?;
    Ok(())
}

async fn livez(State(page): State<Page>) -> (StatusCode, String) {
    let stuck: Vec<_> = page.signs.stuck().iter().map(ToString::to_string).collect();
    if stuck.is_empty() {
        return (StatusCode::OK, "ok".into());
    }
    (StatusCode::SERVICE_UNAVAILABLE, stuck.join("; "))
}

async fn readyz(State(page): State<Page>) -> (StatusCode, String) {
    let waits_for = page.readiness.waits_for();
    if waits_for.is_empty() {
        return (StatusCode::OK, "ok".into());
    }
    (StatusCode::SERVICE_UNAVAILABLE, format!("waiting for {}", waits_for.join(", ")))
}

async fn metrics_page(State(page): State<Page>) -> impl IntoResponse {
    let kind = [(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")];
    (kind, page.metrics.encode())
}
