//! `/livez`, `/readyz` and `/metrics` over plain HTTP.
//! What readiness waits for is left to those who become ready.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;

use crate::metrics::Metrics;

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

/// Serves until it is dropped.
///
/// # Errors
/// The address cannot be listened on.
pub(crate) async fn serve(
    address: SocketAddr,
    readiness: Readiness,
    metrics: Arc<Metrics>,
) -> anyhow::Result<()> {
    let listener = tokio::net::TcpListener::bind(address)
        .await
        .map_err(|error| anyhow::anyhow!("--health-address {address} cannot be listened on: {error}"))?;
    tracing::info!(address = %listener.local_addr()?, "serving /livez, /readyz and /metrics");
    let router = Router::new()
        .route("/livez", get(|| async { "ok" }))
        .route("/readyz", get(readyz).with_state(readiness))
        .route("/metrics", get(metrics_page).with_state(metrics));
    axum::serve(listener, router).await?;
    Ok(())
}

async fn readyz(State(readiness): State<Readiness>) -> (StatusCode, String) {
    let waits_for = readiness.waits_for();
    if waits_for.is_empty() {
        return (StatusCode::OK, "ok".into());
    }
    (StatusCode::SERVICE_UNAVAILABLE, format!("waiting for {}", waits_for.join(", ")))
}

async fn metrics_page(State(metrics): State<Arc<Metrics>>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], metrics.encode())
}
