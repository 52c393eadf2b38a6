//! Logs and metrics: set up once, named in one place.
//! What is worth telling is left to those who tell it.

use std::io::IsTerminal;
use std::sync::Mutex;
use std::sync::PoisonError;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use tracing::Level;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::{FilterExt, LevelFilter, filter_fn};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

use crate::settings::LogFormat;

/// Libraries that log headers or whole answers at a finer level than this, a Secret's among them (kube's client does so at
/// `warn` with an answer it cannot read, and at `error` says of each call that failed what we say of it once); whatever filter is asked
/// for, they say no more.
const HELD: [(&str, LevelFilter); 6] = [
    ("kube_client::client", LevelFilter::OFF),
    ("h2", LevelFilter::INFO),
    ("hyper", LevelFilter::INFO),
    ("hyper_util", LevelFilter::INFO),
    ("reqwest", LevelFilter::INFO),
    ("rustls", LevelFilter::INFO),
];

/// Starts the log.
///
/// # Errors
/// A sentence about a filter that cannot be read.
pub(crate) fn start_log(format: LogFormat, filter: &str) -> anyhow::Result<()> {
    let asked = EnvFilter::try_new(filter).map_err(|error| anyhow::anyhow!("--log {filter:?}: {error}"))?;
    let filter = asked.and(filter_fn(|metadata| may_be_logged(metadata.target(), *metadata.level())));
    // Colours are orders to a terminal; whatever else reads the log gets none.
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    match format {
        LogFormat::Json => {
            tracing_subscriber::registry().with(lines.json().flatten_event(true).with_filter(filter)).init();
        }
        LogFormat::Text => {
            tracing_subscriber::registry().with(lines.with_target(false).with_filter(filter)).init()
        }
    }
    Ok(())
}

fn may_be_logged(target: &str, level: Level) -> bool {
    let is_within = |module: &str| {
        target.strip_prefix(module).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
    };
    HELD.iter().filter(|(module, _)| is_within(module)).all(|(_, finest)| level <= *finest)
}

/// Labels of [`Metrics::outcomes`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct OutcomeLabels {
    /// The controller.
    pub controller: &'static str,
    /// The reason it ended with.
    pub reason: &'static str,
}

/// Labels of [`Metrics::vault_calls`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct VaultCallLabels {
    /// The vault's host.
    pub vault: String,
    /// What was asked.
    pub operation: &'static str,
    /// The outcome: `ok`, or the reason it failed with.
    pub outcome: &'static str,
}

/// Every metric of the operator. No label without a bound: vaults are made by the platform team, reasons by us.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Mutex<Registry>,
    /// Reconciles by controller and reason.
    pub outcomes: Family<OutcomeLabels, Counter>,
    /// Calls to vaults.
    pub vault_calls: Family<VaultCallLabels, Counter>,
    /// From the moment a changed Secret was seen to its import being accepted.
    pub push_seconds: Histogram,
    /// Claims there are.
    pub claims: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("keyvault_sync");
        let outcomes = Family::<OutcomeLabels, Counter>::default();
        let vault_calls = Family::<VaultCallLabels, Counter>::default();
        let push_seconds = Histogram::new([0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0]);
        let claims = Gauge::default();
        registry.register(
            "reconciles",
            "Reconciles by controller and the reason they ended with",
            outcomes.clone(),
        );
        registry.register("vault_calls", "Calls to a vault by operation and outcome", vault_calls.clone());
        registry.register(
            "push_seconds",
            "Seconds from seeing a changed Secret to its import being accepted by the vault",
            push_seconds.clone(),
        );
        registry.register("claims", "KeyVaultCertificates in the cluster", claims.clone());
        Self { registry: Mutex::new(registry), outcomes, vault_calls, push_seconds, claims }
    }
}

impl Metrics {
    /// In the OpenMetrics text format.
    pub(crate) fn encode(&self) -> String {
        let registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = prometheus_client::encoding::text::encode(&mut text, &registry);
        text
    }
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

    #[test]
    fn every_metric_is_named_after_the_product() {
        let metrics = Metrics::default();
        metrics.outcomes.get_or_create(&OutcomeLabels { controller: "sync", reason: "Synced" }).inc();
        let text = metrics.encode();
        assert!(
            text.contains("keyvault_sync_reconciles_total{controller=\"sync\",reason=\"Synced\"} 1"),
            "{text}"
        );
        assert!(
            text.lines().filter(|line| !line.starts_with('#')).all(|line| line.starts_with("keyvault_sync_"))
        );
    }
}
