//! The log: set up once, and what libraries may never say in it.
//! What is worth telling is left to those who tell it.

use std::io::IsTerminal;

use opentelemetry_sdk::trace::Tracer;
use tracing::{Level, Metadata};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::{FilterExt, LevelFilter, filter_fn};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

use crate::settings::LogFormat;

/// Libraries that log headers or whole answers at a finer level than this, a Secret's among them (kube's client does so at
/// `warn` with an answer it cannot read, and at `error` says of each call that failed what we say of it once); whatever filter is asked
/// for, they say no more.
const HELD: [(&str, LevelFilter); 9] = [
    ("kube_client::client", LevelFilter::OFF),
    ("h2", LevelFilter::INFO),
    ("hyper", LevelFilter::INFO),
    ("hyper_util", LevelFilter::INFO),
    ("reqwest", LevelFilter::INFO),
    ("rustls", LevelFilter::INFO),
    ("opentelemetry", LevelFilter::WARN),
    ("opentelemetry_sdk", LevelFilter::WARN),
    ("opentelemetry_otlp", LevelFilter::WARN),
];

/// Starts the log, and with a tracer the making of traces.
///
/// # Errors
/// A sentence about a filter that cannot be read.
pub(crate) fn start(format: LogFormat, filter: &str, tracer: Option<Tracer>) -> anyhow::Result<()> {
    let asked = EnvFilter::try_new(filter).map_err(|error| anyhow::anyhow!("--log {filter:?}: {error}"))?;
    let filter = asked.and(filter_fn(|metadata| {
        // Spans are for traces; a line says all by itself.
        !metadata.is_span() && may_be_logged(metadata.target(), *metadata.level())
    }));
    let spans = tracer.map(|tracer| {
        let is_ours =
            |metadata: &Metadata<'_>| metadata.is_span() && metadata.target().starts_with("keyvault_sync");
        tracing_opentelemetry::layer()
            .with_tracer(tracer)
            .with_location(false)
            .with_threads(false)
            .with_target(false)
            .with_tracked_inactivity(false)
            .with_filter(filter_fn(is_ours))
    });
    // Colours are orders to a terminal; whatever else reads the log gets none.
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    match format {
        LogFormat::Json => {
            let lines = lines.json().flatten_event(true).with_current_span(false).with_span_list(false);
            tracing_subscriber::registry().with(spans).with(lines.with_filter(filter)).init();
        }
        LogFormat::Text => tracing_subscriber::registry()
            .with(spans)
            .with(lines.with_target(false).with_filter(filter))
            .init(),
    }
    Ok(())
}

fn may_be_logged(target: &str, level: Level) -> bool {
    let is_within = |module: &str| {
        target.strip_prefix(module).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
    };
    HELD.iter().filter(|(module, _)| is_within(module)).all(|(_, finest)| level <= *finest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_the_api_server_are_never_logged() {
        for (target, level, expected) in [
            ("kube_client::client", Level::WARN, false),
            ("kube_client::client", Level::ERROR, false),
            ("kube_client::client::builder", Level::DEBUG, false),
            ("hyper::proto", Level::DEBUG, false),
            ("hyper_like", Level::TRACE, true),
            ("keyvault_sync::certificate", Level::TRACE, true),
        ] {
            assert_eq!(may_be_logged(target, level), expected, "{target} {level}");
        }
    }
}
