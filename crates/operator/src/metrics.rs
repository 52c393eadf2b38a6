//! Every metric once: the table of names, labels and meanings, and those that are counted when something happens.
//! What is read at the time of a scrape is left to `scrape`; the page of metrics is printed from the same table.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Metric, Registry};

/// Of a push: from a Secret that is alone to one among many behind a vault that throttles.
const PUSH_BUCKETS: [f64; 11] = [0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0];
/// Of a call or a round: no call takes longer than ten seconds, no round longer than a few of them and a wait.
const WORK_BUCKETS: [f64; 9] = [0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0];

/// What kind of numbers a metric has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Only ever grows; its name ends in `_total`.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Its series end in `_bucket`, `_sum` and `_count`.
    Histogram,
}

/// A metric as it is queried.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Definition<const N: usize> {
    /// Its whole name.
    pub name: &'static str,
    /// What it means.
    pub help: &'static str,
    /// Its labels. None without a bound: no object's name, but for the gauges of certificates, of which there are so many at most.
    pub labels: [&'static str; N],
}

/// The same, whatever the number of labels.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Described {
    /// Its whole name.
    pub name: &'static str,
    /// What kind of numbers it has.
    pub kind: Kind,
    /// Its labels.
    pub labels: &'static [&'static str],
    /// What it means.
    pub help: &'static str,
}

macro_rules! table {
    ($($id:ident: $kind:ident $name:literal [$($label:literal),*] $help:literal;)*) => {
        $(pub(crate) const $id: Definition<{ <[&str]>::len(&[$($label),*]) }> =
            Definition { name: $name, help: $help, labels: [$($label),*] };)*

        /// Every metric there is, in the order of the page.
        pub(crate) const TABLE: &[Described] = &[
            $(Described { name: $name, kind: Kind::$kind, labels: &[$($label),*], help: $help },)*
        ];
    };
}

table! {
    BUILD_INFO: Gauge "keyvault_sync_build_info" ["version"]
        "Always 1; which version runs";
    LEADER: Gauge "keyvault_sync_leader" []
        "1 while this replica is the one that works, 0 while it stands by";
    CLAIMS: Gauge "keyvault_sync_claims" []
        "KeyVaultCertificates in the cluster";
    CERTIFICATE_EXPIRY: Gauge "keyvault_sync_certificate_expiry_timestamp_seconds" ["namespace", "name", "certificate", "vault"]
        "When the certificate in the vault expires, unix seconds; namespace and name are those of the KeyVaultSync (a ClusterKeyVaultSync has no namespace)";
    CERTIFICATE_SUCCESS: Gauge "keyvault_sync_certificate_last_success_timestamp_seconds" ["namespace", "name", "certificate", "vault"]
        "When the operator last wrote the certificate or found it as wished, unix seconds; it looks at least once an hour, and where nothing changed that look is at its own record and asks no vault";
    CERTIFICATE_PUSHED: Gauge "keyvault_sync_certificate_pushed_timestamp_seconds" ["namespace", "name", "certificate", "vault"]
        "When the certificate was last written to the vault, unix seconds";
    CERTIFICATE_READY: Gauge "keyvault_sync_certificate_ready" ["namespace", "name", "certificate", "vault", "reason"]
        "1 if the certificate's Ready is True, else 0; the reason is Ready's, or Pending before there is one";
    CERTIFICATE_VERSIONS: Gauge "keyvault_sync_certificate_versions" ["namespace", "name", "certificate", "vault"]
        "Versions that keyvault-sync has written under the name since it made its claim; the vault has at least so many. Azure cannot back up a certificate with more than 500";
    CERTIFICATES_NOT_SHOWN: Gauge "keyvault_sync_certificates_not_shown" []
        "Certificates for which there are no series of their own, because there are more than 5000 (those that expire first are shown) or because of --certificate-metrics=off";
    PUSH_SECONDS: Histogram "keyvault_sync_push_seconds" []
        "From seeing a changed Secret to its import being accepted by the vault";
    RECONCILES: Counter "keyvault_sync_reconciles_total" ["controller", "reason"]
        "Outcomes of certificates and rows, by the reason they ended with";
    ROUND_SECONDS: Histogram "keyvault_sync_reconcile_seconds" ["controller"]
        "How long a round of a controller took, waiting for its turn at a vault included";
    QUEUE_DEPTH: Gauge "keyvault_sync_queue_depth" ["controller"]
        "Objects that were woken and whose round has not begun";
    QUEUE_OLDEST: Gauge "keyvault_sync_queue_oldest_seconds" ["controller"]
        "How long the oldest of them has waited; 0 before the controllers run";
    ROUNDS_UNDER_WAY: Gauge "keyvault_sync_rounds_under_way" ["controller"]
        "Rounds that have begun and not ended, those that wait for their turn at a vault included";
    ROUNDS_OLDEST: Gauge "keyvault_sync_rounds_oldest_seconds" ["controller"]
        "For how long the oldest of them has been under way";
    VAULT_CALLS: Counter "keyvault_sync_vault_calls_total" ["vault", "operation", "outcome", "code"]
        "Calls to a vault; the outcome is ok or the reason of the failure, the code is the HTTP status of the answer, or none";
    VAULT_CALL_SECONDS: Histogram "keyvault_sync_vault_call_seconds" ["vault"]
        "How long a call to a vault took, getting a token included";
    VAULT_TURN_SECONDS: Histogram "keyvault_sync_vault_turn_seconds" ["vault"]
        "How long certificates waited for their turn at a vault; those that had it at once are not counted";
    VAULT_WAITING: Gauge "keyvault_sync_vault_waiting" ["vault"]
        "Certificates that wait for their turn at a vault now";
    VAULT_TURNS_FREE: Gauge "keyvault_sync_vault_turns_free" ["vault"]
        "Turns at a vault that can be had at once; 0 while the vault is as busy as the operator lets it be";
    VAULT_PAUSES: Counter "keyvault_sync_vault_pauses_total" ["vault"]
        "How often a vault asked for fewer calls and was left alone for a while";
    VAULT_PAUSE_SECONDS: Gauge "keyvault_sync_vault_pause_seconds" ["vault"]
        "For how long a vault is still left alone because it asked for fewer calls; 0: it is not";
    TOKEN_REQUESTS: Counter "keyvault_sync_token_requests_total" ["outcome"]
        "Requests for an access token: ok, refused (the issuer said no), unanswered (no answer, or none that can be read), or unproven (what the identity proves itself with is missing or bad)";
    WATCH_AGE: Gauge "keyvault_sync_watch_age_seconds" ["watch"]
        "How long ago a watch was last known to be up to date; an idle one is renewed every --watch-timeout";
    WATCH_STARTS: Counter "keyvault_sync_watch_starts_total" ["watch"]
        "Requests that a watch made: lists, and watches that took up where the one before had ended";
    WATCH_FAILURES: Counter "keyvault_sync_watch_failures_total" ["watch"]
        "Failures of a watch, each followed by another attempt";
    API_REQUESTS: Counter "keyvault_sync_api_requests_total" ["verb", "code"]
        "Requests to the Kubernetes API server: get (lists included), watch, post, put, patch, delete; the code is the HTTP status, or none";
    PROCESS_CPU: Counter "process_cpu_seconds_total" []
        "CPU time of the process, user and system";
    PROCESS_RESIDENT: Gauge "process_resident_memory_bytes" []
        "Resident memory";
    PROCESS_VIRTUAL: Gauge "process_virtual_memory_bytes" []
        "Virtual memory";
    PROCESS_FDS: Gauge "process_open_fds" []
        "Open file descriptors";
    PROCESS_MAX_FDS: Gauge "process_max_fds" []
        "How many file descriptors may be open";
    PROCESS_THREADS: Gauge "process_threads" []
        "Threads";
    PROCESS_START: Gauge "process_start_time_seconds" []
        "When the process was started, unix seconds";
}

impl<const N: usize> Definition<N> {
    /// These values under its labels.
    pub(crate) fn with(&self, values: [&str; N]) -> Labels<N> {
        let mut values = values.into_iter();
        self.labels.map(|label| (label, values.next().unwrap_or_default().to_owned()))
    }

    /// Its name without what the format adds to a counter's.
    pub(crate) fn bare_name(&self) -> &'static str {
        self.name.strip_suffix("_total").unwrap_or(self.name)
    }
}

/// Labels with their values.
pub(crate) type Labels<const N: usize> = [(&'static str, String); N];

/// A counter with labels.
#[derive(Debug)]
pub(crate) struct Counts<const N: usize> {
    definition: Definition<N>,
    family: Family<Labels<N>, Counter>,
}

impl<const N: usize> Counts<N> {
    /// One more under these labels.
    pub(crate) fn inc(&self, values: [&str; N]) {
        self.family.get_or_create(&self.definition.with(values)).inc();
    }
}

/// A histogram of durations with labels.
#[derive(Debug)]
pub(crate) struct Timings<const N: usize> {
    definition: Definition<N>,
    family: Family<Labels<N>, Histogram, fn() -> Histogram>,
}

impl<const N: usize> Timings<N> {
    /// Another duration under these labels.
    pub(crate) fn observe(&self, values: [&str; N], took: Duration) {
        self.family.get_or_create(&self.definition.with(values)).observe(took.as_secs_f64());
    }
}

/// What is counted when it happens, and the registry of it all.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Mutex<Registry>,
    /// See [`RECONCILES`].
    pub reconciles: Counts<2>,
    /// See [`ROUND_SECONDS`].
    pub round_seconds: Timings<1>,
    /// See [`PUSH_SECONDS`].
    pub push_seconds: Histogram,
    /// See [`VAULT_CALLS`].
    pub vault_calls: Counts<4>,
    /// See [`VAULT_CALL_SECONDS`].
    pub vault_call_seconds: Timings<1>,
    /// See [`VAULT_TURN_SECONDS`].
    pub vault_turn_seconds: Timings<1>,
    /// See [`VAULT_PAUSES`].
    pub vault_pauses: Counts<1>,
    /// See [`TOKEN_REQUESTS`].
    pub token_requests: Counts<1>,
    /// See [`WATCH_STARTS`].
    pub watch_starts: Counts<1>,
    /// See [`WATCH_FAILURES`].
    pub watch_failures: Counts<1>,
    /// See [`API_REQUESTS`].
    pub api_requests: Counts<2>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::default();
        let all = &mut registry;
        let build = Family::<Labels<1>, Gauge>::default();
        build.get_or_create(&BUILD_INFO.with([env!("CARGO_PKG_VERSION")])).set(1);
        enter(all, &BUILD_INFO, build);
        Self {
            reconciles: counts(all, RECONCILES),
            round_seconds: timings(all, ROUND_SECONDS),
            push_seconds: enter(all, &PUSH_SECONDS, Histogram::new(PUSH_BUCKETS)),
            vault_calls: counts(all, VAULT_CALLS),
            vault_call_seconds: timings(all, VAULT_CALL_SECONDS),
            vault_turn_seconds: timings(all, VAULT_TURN_SECONDS),
            vault_pauses: counts(all, VAULT_PAUSES),
            token_requests: counts(all, TOKEN_REQUESTS),
            watch_starts: counts(all, WATCH_STARTS),
            watch_failures: counts(all, WATCH_FAILURES),
            api_requests: counts(all, API_REQUESTS),
            registry: Mutex::new(registry),
        }
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

    /// From now on this is asked at every scrape.
    pub(crate) fn collect(&self, collector: Box<dyn Collector>) {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner).register_collector(collector);
    }
}

fn enter<const N: usize, M: Metric + Clone>(
    registry: &mut Registry,
    definition: &Definition<N>,
    metric: M,
) -> M {
    registry.register(definition.bare_name(), definition.help, metric.clone());
    metric
}

fn counts<const N: usize>(registry: &mut Registry, definition: Definition<N>) -> Counts<N> {
    Counts { definition, family: enter(registry, &definition, Family::default()) }
}

fn timings<const N: usize>(registry: &mut Registry, definition: Definition<N>) -> Timings<N> {
    let make: fn() -> Histogram = || Histogram::new(WORK_BUCKETS);
    Timings { definition, family: enter(registry, &definition, Family::new_with_constructor(make)) }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_follow_the_conventions_and_are_there_once() {
        let mut names = HashSet::new();
        for metric in TABLE {
            assert!(names.insert(metric.name), "{} twice", metric.name);
            let is_ours = metric.name.starts_with("keyvault_sync_") || metric.name.starts_with("process_");
            assert!(is_ours, "{}", metric.name);
            assert_eq!(metric.kind == Kind::Counter, metric.name.ends_with("_total"), "{}", metric.name);
            assert!(metric.kind != Kind::Histogram || metric.name.ends_with("_seconds"), "{}", metric.name);
        }
    }

    #[test]
    fn what_is_counted_is_shown_under_the_names_of_the_table() {
        let metrics = Metrics::default();
        metrics.reconciles.inc(["sync", "Synced"]);
        metrics.vault_call_seconds.observe(["contoso.vault.azure.net"], Duration::from_millis(20));
        let text = metrics.encode();
        for line in [
            "keyvault_sync_reconciles_total{controller=\"sync\",reason=\"Synced\"} 1",
            "keyvault_sync_vault_call_seconds_bucket{le=\"0.05\",vault=\"contoso.vault.azure.net\"} 1",
        ] {
            assert!(text.lines().any(|shown| shown == line), "{line}: {text}");
        }
    }
}
