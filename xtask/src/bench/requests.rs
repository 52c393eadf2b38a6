//! Counts the operator's requests to the API server, by the API server's own numbers: flow schemas that match nobody but the
//! operator's ServiceAccount. What the operator does meanwhile is left to the measurement.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, ensure};
use k8s_openapi::api::flowcontrol::v1::FlowSchema;
use keyvault_sync_api::constants::GROUP;
use keyvault_sync_e2e::Stage;
use keyvault_sync_e2e::stage::OPERATOR;
use keyvault_sync_e2e::wait;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;
use tokio::time::{Instant, sleep};

/// Requests that have been let through, by flow schema.
const METRIC: &str = "apiserver_flowcontrol_dispatched_requests_total{";

/// The level every ServiceAccount has by default.
const PRIORITY_LEVEL: &str = "workload-low";

/// Lower numbers are asked first; those that Kubernetes brings for ServiceAccounts begin at 9000.
const FIRST_PRECEDENCE: i32 = 500;

/// Nothing more is coming when nothing came for so long: statuses are written at most once a second.
const QUIET: Duration = Duration::from_secs(3);
const QUIET_LIMIT: Duration = Duration::from_secs(60);

/// Kinds of request: name, verbs, API group, resources. The first that matches counts.
const KINDS: [(&str, &[&str], &str, &[&str]); 7] = [
    ("watch", &["watch"], "*", &["*"]),
    ("lease", &["*"], "coordination.k8s.io", &["leases"]),
    ("secret-get", &["get"], "", &["secrets"]),
    (
        "claim-write",
        &["create", "update", "patch", "delete"],
        GROUP,
        &["keyvaultcertificates", "keyvaultcertificates/status"],
    ),
    ("sync-status-write", &["update", "patch"], GROUP, &["keyvaultsyncs/status", "keyvaults/status"]),
    ("event-create", &["create"], "events.k8s.io", &["events"]),
    ("other", &["*"], "*", &["*"]),
];

/// What is asked for whether or not anything is renewed: open streams, each once in some minutes, and the lease, every five seconds.
const ALWAYS: [&str; 2] = ["watch", "lease"];

/// Requests of the operator so far, by kind, without those.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Requests(BTreeMap<&'static str, f64>);

impl Requests {
    /// All of them.
    pub(crate) fn total(&self) -> f64 {
        self.0.values().sum()
    }

    /// Those since `earlier`, a piece of `renewals`.
    pub(crate) fn each(&self, earlier: &Requests, renewals: usize) -> Requests {
        let each = |(kind, count): (&&'static str, &f64)| {
            (*kind, (count - earlier.0.get(kind).copied().unwrap_or_default()) / renewals as f64)
        };
        Requests(self.0.iter().map(each).collect())
    }

    /// The kinds that occurred, with their numbers.
    pub(crate) fn kinds(&self) -> String {
        let kinds = self.0.iter().filter(|(_, count)| **count > 0.0);
        kinds.map(|(kind, count)| format!("{kind} {count:.2}")).collect::<Vec<_>>().join(", ")
    }
}

/// Makes the API server count, from now on.
///
/// # Errors
/// The API server refuses.
pub(crate) async fn count(stage: &Stage) -> anyhow::Result<()> {
    let schemas: Api<FlowSchema> = Api::all(stage.client().clone());
    for (precedence, (kind, verbs, group, resources)) in (FIRST_PRECEDENCE..).zip(KINDS) {
        let name = schema(kind);
        let object = json!({
            "apiVersion": "flowcontrol.apiserver.k8s.io/v1",
            "kind": "FlowSchema",
            "metadata": {"name": name},
            "spec": {
                "matchingPrecedence": precedence,
                "priorityLevelConfiguration": {"name": PRIORITY_LEVEL},
                "distinguisherMethod": {"type": "ByUser"},
                "rules": [{
                    "subjects": [{"kind": "ServiceAccount", "serviceAccount": {"namespace": OPERATOR, "name": OPERATOR}}],
                    "resourceRules": [{
                        "verbs": verbs, "apiGroups": [group], "resources": resources,
                        "clusterScope": true, "namespaces": ["*"],
                    }],
                }],
            },
        });
        schemas
            .patch(&name, &PatchParams::apply("bench"), &Patch::Apply(object))
            .await
            .with_context(|| name.clone())?;
        // The API server says so when it takes the schema into use.
        wait::object(&schemas, &name, "to be in use", |schema| {
            let conditions = schema.status.as_ref().and_then(|status| status.conditions.as_ref());
            conditions.is_some_and(|all| {
                all.iter().any(|one| one.type_ == "Dangling" && one.status.as_deref() == Some("False"))
            })
        })
        .await?;
    }
    Ok(())
}

/// Waits until the operator asks for nothing more; the requests so far.
///
/// # Errors
/// It does not cease to ask, or the API server does not answer.
pub(crate) async fn settled(stage: &Stage) -> anyhow::Result<Requests> {
    let limit = Instant::now() + QUIET_LIMIT;
    let mut last = now(stage).await?;
    loop {
        sleep(QUIET).await;
        let next = now(stage).await?;
        if next == last {
            return Ok(next);
        }
        ensure!(Instant::now() < limit, "the operator does not come to rest: {last:?}, then {next:?}");
        last = next;
    }
}

async fn now(stage: &Stage) -> anyhow::Result<Requests> {
    let request = http::Request::get("/metrics").body(Vec::new())?;
    let page = stage.client().request_text(request).await.context("the API server's metrics")?;
    let of = |kind: &str| {
        let label = format!("flow_schema=\"{}\"", schema(kind));
        let lines = page.lines().filter(|line| line.starts_with(METRIC) && line.contains(&label));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    };
    Ok(Requests(
        KINDS
            .iter()
            .map(|(kind, ..)| *kind)
            .filter(|kind| !ALWAYS.contains(kind))
            .map(|kind| (kind, of(kind)))
            .collect(),
    ))
}

fn schema(kind: &str) -> String {
    format!("bench-{kind}")
}
