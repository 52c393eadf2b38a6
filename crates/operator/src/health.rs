//! `/livez`, `/readyz` and `/metrics` over plain HTTP; metrics only where `metrics_server` does not serve them.
//! What readiness waits for is left to those who become ready.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::sync::oneshot;

use crate::metrics::Metrics;
use crate::signs::Signs;

/// What the operator still waits for before it is ready.
#[derive(Clone, Debug, Default)]
pub(crate) struct Readiness(Arc<Mutex<BTreeMap<&'static str, Option<String>>>>);

impl Readiness {
    /// Something to wait for.
    pub(crate) fn expect(&self, what: &'static str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(what, None);
    }

    /// Why it is still waited for.
    pub(crate) fn say(&self, what: &'static str, why: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(what, Some(why.to_owned()));
    }

    /// It is there.
    pub(crate) fn done(&self, what: &'static str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(what);
    }

    fn waits_for(&self) -> Vec<String> {
        let waits_for = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let words = |(what, why): (&&str, &Option<String>)| match why {
            Some(why) => format!("{what} ({why})"),
            None => (*what).to_owned(),
        };
        waits_for.iter().map(words).collect()
    }
}

/// What is served.
#[derive(Clone)]
pub(crate) struct Page {
    /// For `/readyz`.
    pub readiness: Readiness,
    /// For `/metrics`.
    pub metrics: Arc<Metrics>,
    /// Where they are served instead.
    pub metrics_elsewhere: Option<SocketAddr>,
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
    let listener = TcpListener::bind(address)
        .with_context(|| format!("--health-address {address} cannot be listened on"))?;
    serve_on(listener, page)
}

fn serve_on(listener: TcpListener, page: Page) -> anyhow::Result<oneshot::Receiver<anyhow::Result<()>>> {
    listener.set_nonblocking(true)?;
    let metrics = if page.metrics_elsewhere.is_none() { " and /metrics" } else { "" };
    tracing::info!(address = %listener.local_addr()?, "serving /livez, /readyz{metrics}");
    let (ended, ending) = oneshot::channel();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("health".into()).spawn(move || {
        // Nobody hears it only when the operator has ended.
        let _ = ended.send(runtime.block_on(answer(listener, page)));
    })?;
    Ok(ending)
}

async fn answer(listener: TcpListener, page: Page) -> anyhow::Result<()> {
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

async fn metrics_page(State(page): State<Page>) -> Response {
    match page.metrics_elsewhere {
        None => metrics(&page.metrics).into_response(),
        Some(address) => {
            let port = address.port();
            (
                StatusCode::NOT_FOUND,
                format!("metrics are served at port {port}, over HTTPS, for tokens that may get them\n"),
            )
                .into_response()
        }
    }
}

/// All metrics as they are now.
pub(crate) fn metrics(metrics: &Metrics) -> impl IntoResponse {
    let kind = [(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")];
    (kind, metrics.encode())
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream;
    use std::sync::mpsc;
    use std::time::{Duration, Instant};

    use super::*;

    fn ask(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    /// Asks until the answer begins so, or half a minute has passed.
    fn answers(address: SocketAddr, path: &str, expected: &str) -> String {
        let limit = Instant::now() + Duration::from_secs(30);
        loop {
            let answer = ask(address, path);
            if answer.starts_with(expected) || Instant::now() > limit {
                return answer;
            }
        }
    }

    #[test]
    fn a_runtime_that_is_blocked_fails_livez_which_answers_all_the_same() {
        let metrics = Arc::<Metrics>::default();
        let signs = Signs::with_heartbeat_limit(Arc::clone(&metrics), Duration::from_secs(2));
        let page = Page {
            readiness: Readiness::default(),
            metrics,
            metrics_elsewhere: None,
            signs: Arc::clone(&signs),
        };
        let free = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = free.local_addr().unwrap();
        let _ended = serve_on(free, page).unwrap();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.spawn(signs.beat());
        assert!(answers(address, "/livez", "HTTP/1.0 200").ends_with("ok"));
        // The only worker waits for what comes last.
        let (release, released) = mpsc::channel::<()>();
        runtime.spawn(async move {
            let _ = released.recv();
        });
        let stuck = answers(address, "/livez", "HTTP/1.0 503");
        assert!(stuck.contains("no task has run for"), "{stuck}");
        assert!(ask(address, "/metrics").starts_with("HTTP/1.0 200"));
        drop(release);
        assert!(answers(address, "/livez", "HTTP/1.0 200").ends_with("ok"), "it goes on");
    }
}
