//! What the operator tells of itself: metrics, liveness, log lines, traces.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use anyhow::{Context, ensure};
use keyvault_emulator::{Effect, Fault, Operation};
use keyvault_sync_e2e::collector::{Collector, attribute};
use keyvault_sync_e2e::operator::Operator;
use keyvault_sync_e2e::relay::Relay;
use keyvault_sync_e2e::wait::{self, Seen};
use keyvault_sync_e2e::{Scene, leaks};
use serde_json::Value;

keyvault_sync_e2e::promises!(OneByOne:
    metrics_tell_of_each_certificate_and_of_the_calls_and_forget_what_is_gone,
    without_metrics_of_certificates_their_number_is_told,
    every_outcome_is_logged_with_the_same_fields,
    an_idle_operator_logs_nothing,
    a_watch_that_hangs_fails_livez_until_it_goes_on,
    a_push_is_one_trace_from_the_secret_to_the_import_with_azures_id_of_the_request,
);

/// Watches are renewed so often that a test sees it.
const QUICK_WATCHES: &str = "--watch-timeout=2s";

/// The values of a metric, by what is between the braces.
fn values(page: &str, metric: &str) -> BTreeMap<String, f64> {
    let of = |line: &str| {
        let rest = line.strip_prefix(metric)?;
        let (labels, value) = rest.rsplit_once(' ')?;
        (labels.is_empty() || labels.starts_with('{')).then_some((labels.to_owned(), value.parse().ok()?))
    };
    page.lines().filter_map(of).collect()
}

/// The one value of a metric that has all of these labels.
fn value(page: &str, metric: &str, labels: &[String]) -> Option<f64> {
    let all = values(page, metric);
    all.into_iter()
        .find(|(found, _)| labels.iter().all(|label| found.contains(label.as_str())))
        .map(|(_, value)| value)
}

async fn one_certificate(scene: &Scene) -> anyhow::Result<()> {
    scene.renew("web").await?;
    scene.sync_of("web", &["web"]).await?;
    scene.synced("web", "1/1").await.map(drop)
}

async fn metrics_tell_of_each_certificate_and_of_the_calls_and_forget_what_is_gone(
    scene: Scene,
) -> anyhow::Result<()> {
    let operator = scene.stage().operator_with(&["--log=info"]).await?;
    one_certificate(&scene).await?;
    scene.renew("web").await?;
    wait::until("the renewal", || async {
        let count = scene.versions("web").len();
        Ok(if count == 2 { Seen::Done(()) } else { Seen::NotYet(format!("{count} versions")) })
    })
    .await?;
    let claim = scene.claim("web").await?;
    let labels = vec![
        format!("namespace=\"{}\"", scene.name()),
        "name=\"web\"".to_owned(),
        "certificate=\"web\"".to_owned(),
        format!("vault=\"{}\"", scene.host()),
    ];
    let page = wait::until("two versions in the metrics", || async {
        let page = operator.metrics().await?;
        let versions = value(&page, "keyvault_sync_certificate_versions", &labels);
        Ok(if versions == Some(2.0) { Seen::Done(page) } else { Seen::NotYet(format!("{versions:?}")) })
    })
    .await?;
    let not_after = claim.status.and_then(|status| status.not_after).context("no notAfter")?.0.as_second();
    ensure!(
        value(&page, "keyvault_sync_certificate_expiry_timestamp_seconds", &labels) == Some(not_after as f64),
        "{page}"
    );
    let ready: Vec<_> = labels.iter().cloned().chain(["reason=\"Synced\"".to_owned()]).collect();
    ensure!(value(&page, "keyvault_sync_certificate_ready", &ready) == Some(1.0), "{page}");
    let success = value(&page, "keyvault_sync_certificate_last_success_timestamp_seconds", &labels)
        .context("no success")?;
    let pushed =
        value(&page, "keyvault_sync_certificate_pushed_timestamp_seconds", &labels).context("no push")?;
    ensure!(success >= pushed && pushed > 1_700_000_000.0, "{success} {pushed}");
    let host = format!("vault=\"{}\"", scene.host());
    let call = |operation: &str, code: &str| {
        let labels = [
            host.clone(),
            format!("operation=\"{operation}\""),
            format!("code=\"{code}\""),
            "outcome=\"ok\"".into(),
        ];
        value(&page, "keyvault_sync_vault_calls_total", &labels)
    };
    // The first read found nothing, which is no failure.
    ensure!(
        call("import", "200") == Some(2.0) && call("get", "404").is_some() && call("get", "200").is_some(),
        "{page}"
    );
    ensure!(
        value(&page, "keyvault_sync_token_requests_total", &["outcome=\"ok\"".into()]) >= Some(1.0),
        "{page}"
    );
    for (metric, label) in [
        ("keyvault_sync_vault_turns_free", host.as_str()),
        ("keyvault_sync_queue_depth", "controller=\"certificate\""),
        ("keyvault_sync_reconcile_seconds_count", "controller=\"sync\""),
        ("keyvault_sync_watch_age_seconds", "watch=\"TLS Secrets\""),
        ("keyvault_sync_watch_starts_total", "watch=\"KeyVaults\""),
        ("keyvault_sync_api_requests_total", "verb=\"watch\""),
        ("keyvault_sync_build_info", "version="),
        ("keyvault_sync_leader", ""),
        ("process_resident_memory_bytes", ""),
        ("process_open_fds", ""),
        ("process_start_time_seconds", ""),
        ("process_cpu_seconds_total", ""),
    ] {
        ensure!(value(&page, metric, &[label.to_owned()]).is_some(), "{metric} {label}: {page}");
    }
    scene.delete(&scene.syncs(), "web").await?;
    wait::until("its gauges to vanish", || async {
        let page = operator.metrics().await?;
        let left = value(&page, "keyvault_sync_certificate_ready", &labels);
        Ok(if left.is_none() { Seen::Done(()) } else { Seen::NotYet(format!("{left:?}")) })
    })
    .await?;
    operator.terminate().await.map(drop)
}

async fn without_metrics_of_certificates_their_number_is_told(scene: Scene) -> anyhow::Result<()> {
    let operator = scene.stage().operator_with(&["--certificate-metrics=off"]).await?;
    one_certificate(&scene).await?;
    let page = operator.metrics().await?;
    ensure!(values(&page, "keyvault_sync_certificate_ready").is_empty(), "{page}");
    ensure!(value(&page, "keyvault_sync_certificates_not_shown", &[]) >= Some(1.0), "{page}");
    operator.terminate().await.map(drop)
}

async fn every_outcome_is_logged_with_the_same_fields(scene: Scene) -> anyhow::Result<()> {
    let operator = scene.stage().operator_with(&["--log=debug"]).await?;
    scene.fault("bad", Fault::new(Effect::forbidden("ForbiddenByRbac")).operation(Operation::Import));
    scene.renew_all(&["good", "bad"]).await?;
    scene.sync_of("web", &["good", "bad", "missing"]).await?;
    for (secret, reason) in [("good", "Synced"), ("bad", "Forbidden"), ("missing", "SecretNotFound")] {
        scene.row("web", secret, reason).await?;
    }
    let expected: BTreeSet<&str> = [
        "timestamp",
        "level",
        "target",
        "message",
        "controller",
        "kind",
        "namespace",
        "name",
        "certificate",
        "vault",
        "reason",
    ]
    .into();
    let log = operator.log();
    let lines: Vec<Value> = log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let outcomes: Vec<_> = lines.iter().filter(|line| line.get("controller").is_some()).collect();
    for line in &outcomes {
        let fields: BTreeSet<&str> =
            line.as_object().context("no object")?.keys().map(String::as_str).collect();
        ensure!(fields == expected, "{line}");
        ensure!(line["kind"] == "KeyVaultSync" || line["namespace"] == "", "{line}");
    }
    for (certificate, reason, level) in [("good", "Synced", "INFO"), ("bad", "Forbidden", "WARN")] {
        let is_it = |line: &&&Value| {
            line["certificate"] == certificate
                && line["reason"] == reason
                && line["level"] == level
                && line["namespace"] == scene.name()
                && line["name"] == "web"
                && line["vault"] == scene.host()
        };
        ensure!(outcomes.iter().any(|line| is_it(&line)), "{certificate} {reason}: {log}");
    }
    operator.terminate().await.map(drop)
}

/// Requests of every watch so far.
async fn watch_starts(operator: &Operator) -> anyhow::Result<BTreeMap<String, f64>> {
    Ok(values(&operator.metrics().await?, "keyvault_sync_watch_starts_total"))
}

async fn an_idle_operator_logs_nothing(scene: Scene) -> anyhow::Result<()> {
    let operator = scene.stage().operator_with(&["--log=info", QUICK_WATCHES]).await?;
    one_certificate(&scene).await?;
    // What is written about the push itself is there when its Event is.
    scene.told("web", "Imported", &["web"]).await?;
    let log = wait::until("the log to say that the certificate is in step", || async {
        let log = operator.log();
        Ok(if log.contains("\"reason\":\"Synced\"") { Seen::Done(log) } else { Seen::NotYet(log) })
    })
    .await?;
    let before = watch_starts(&operator).await?;
    wait::until("every watch to be renewed three times", || async {
        let now = watch_starts(&operator).await?;
        let is_renewed = before.iter().all(|(watch, count)| now.get(watch) >= Some(&(count + 3.0)));
        Ok(if is_renewed { Seen::Done(()) } else { Seen::NotYet(format!("{now:?}")) })
    })
    .await?;
    ensure!(!before.is_empty(), "no watch");
    let now = operator.log();
    ensure!(now == log, "an idle operator wrote:\n{}", now.strip_prefix(&log).unwrap_or(&now));
    operator.terminate().await.map(drop)
}

/// The operator's kubeconfig, with the API server behind the relay.
async fn behind_relay(scene: &Scene) -> anyhow::Result<(Relay, PathBuf)> {
    let config: Value = serde_json::from_str(&std::fs::read_to_string(scene.stage().kubeconfig())?)?;
    let server = config["clusters"][0]["cluster"]["server"].as_str().context("no server")?;
    let relay = Relay::before(server.strip_prefix("https://").context("no https")?.parse()?).await?;
    let mut changed = config.clone();
    changed["clusters"][0]["cluster"]["server"] = format!("https://{}", relay.address()).into();
    let path = scene.stage().kubeconfig().with_extension("relayed");
    std::fs::write(&path, changed.to_string())?;
    Ok((relay, path))
}

async fn a_watch_that_hangs_fails_livez_until_it_goes_on(scene: Scene) -> anyhow::Result<()> {
    let (relay, kubeconfig) = behind_relay(&scene).await?;
    let path = kubeconfig.display().to_string();
    let operator = scene.stage().operator_in(&[QUICK_WATCHES], &[("KUBECONFIG", &path)]).await?;
    ensure!(operator.livez().await? == (200, "ok".into()), "{:?}", operator.livez().await?);
    let livez = async |status: u16, words: &'static str| {
        wait::until(&format!("/livez to answer {status}"), || async {
            let answer = operator.livez().await?;
            let is_it = answer.0 == status && answer.1.contains(words);
            Ok(if is_it { Seen::Done(()) } else { Seen::NotYet(format!("{answer:?}")) })
        })
        .await
    };
    relay.be_silent(true);
    livez(503, "has given no sign of life").await?;
    relay.be_silent(false);
    livez(200, "ok").await?;
    one_certificate(&scene).await?;
    operator.terminate().await.map(drop)
}

async fn a_push_is_one_trace_from_the_secret_to_the_import_with_azures_id_of_the_request(
    scene: Scene,
) -> anyhow::Result<()> {
    let collector = Collector::start().await?;
    let variables = [("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint())];
    let operator = scene.stage().operator_in(&["--log=info"], &variables).await?;
    one_certificate(&scene).await?;
    let issued = scene.renew("web").await?;
    scene.holds("web", "web", &issued).await?;
    // What is left is sent at the end.
    operator.terminate().await?;
    let spans = collector.spans();
    ensure!(collector.services().iter().any(|name| name == "keyvault-sync"), "{:?}", collector.services());
    let calls = scene.calls_about("web");
    let import = calls.iter().rfind(|call| call.operation == Operation::Import).context("no import")?;
    let id = import.request_id.clone().context("no id")?;
    let found = spans.iter().find(|span| attribute(span, "az.service_request_id").as_ref() == Some(&id));
    let imported = found.with_context(|| format!("no span with {id}: {spans:#?}"))?;
    ensure!(attribute(imported, "http.response.status_code").as_deref() == Some("200"), "{imported:?}");
    ensure!(attribute(imported, "server.address") == Some(scene.host()), "{imported:?}");
    let trace: Vec<_> = spans.iter().filter(|span| span.trace_id == imported.trace_id).collect();
    let names: BTreeSet<&str> = trace.iter().map(|span| span.name.as_str()).collect();
    for name in ["push", "round", "read Secret", "vault get", "announce", "vault import", "report"] {
        ensure!(names.contains(name), "no {name} in {names:?}");
    }
    let root = trace.iter().find(|span| span.parent_span_id.is_empty()).context("no root")?;
    ensure!(
        root.name == "push" && attribute(root, "keyvault_sync.namespace").as_deref() == Some(scene.name()),
        "{root:?}"
    );
    for span in &trace {
        let is_within = span.start_time_unix_nano >= root.start_time_unix_nano
            && span.end_time_unix_nano <= root.end_time_unix_nano;
        ensure!(is_within, "{span:?} is not within {root:?}");
        let has_parent =
            span.span_id == root.span_id || trace.iter().any(|other| other.span_id == span.parent_span_id);
        ensure!(has_parent, "{span:?} has no parent in its trace");
    }
    let leak = leaks::find(&collector.text(), std::slice::from_ref(&issued.key));
    ensure!(leak.is_none(), "{leak:?}");
    Ok(())
}
