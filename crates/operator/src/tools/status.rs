//! `keyvault-sync status`: every resource in one table, worst first, by what their statuses say.
//! Looking at a vault is left to `check`, foreseeing to `plan`.

use std::fmt::Debug;

use clap::Args;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use keyvault_sync_api::conditions::{self, READY, STALLED};
use keyvault_sync_api::{
    ClusterKeyVaultSync, KeyVault, KeyVaultCertificate, KeyVaultSync, KeyVaultSyncStatus,
};
use kube::api::{Api, ListParams};
use kube::{Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::cluster::{Cluster, Connection, Listed, Namespaces};
use super::table::{Table, width};
use super::{Form, Found, note, print, print_json};

/// What is asked for.
#[derive(Args, Clone, Debug)]
pub(crate) struct Arguments {
    #[command(flatten)]
    namespaces: Namespaces,
    #[command(flatten)]
    cluster: Cluster,
    /// In which form
    #[arg(long, short, default_value = "text")]
    output: Form,
}

/// How one resource is. Worst comes first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    #[serde(skip)]
    rank: Rank,
    /// Of equal ones, the first to expire.
    #[serde(skip)]
    expires_at: i64,
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace: Option<String>,
    name: String,
    ready: String,
    stalled: bool,
    reason: String,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_expiry: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    /// Only a person can help.
    Stalled,
    NotReady,
    /// It cannot be told, or nothing was said yet.
    Unknown,
    Ready,
}

/// The answer for programs.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer<'a> {
    resources: &'a [Line],
    /// Kinds that are left out, each with why.
    not_seen: &'a [NotSeen],
}

#[derive(Serialize)]
struct NotSeen {
    kind: &'static str,
    message: String,
}

/// Prints the table.
pub(crate) async fn run(arguments: Arguments) -> anyhow::Result<Found> {
    let connection = arguments.cluster.connect().await?;
    let namespace = arguments.namespaces.one(&connection);
    let mut seen = Seen { lines: Vec::new(), not_seen: Vec::new() };
    let syncs = seen
        .of(&connection, in_namespace::<KeyVaultSync>(&connection, namespace.as_deref()), "KeyVaultSync")
        .await?;
    let vaults = seen.of(&connection, Api::<KeyVault>::all(connection.client.clone()), "KeyVault").await?;
    let used: Vec<&String> = syncs.iter().map(|sync| &sync.spec.push.vault_ref.name).collect();
    let is_meant = |vault: &&KeyVault| namespace.is_none() || used.contains(&&vault.name_any());
    let vaults = vaults.iter().filter(is_meant).map(|vault| {
        let conditions = vault.status.as_ref().map(|status| status.conditions.as_slice());
        line("KeyVault", vault, conditions, None)
    });
    seen.lines.extend(vaults);
    seen.lines.extend(syncs.iter().map(|sync| wish_line("KeyVaultSync", sync, sync.status.as_ref())));
    if namespace.is_none() {
        let syncs = Api::<ClusterKeyVaultSync>::all(connection.client.clone());
        let syncs = seen.of(&connection, syncs, "ClusterKeyVaultSync").await?;
        let line = |sync: &ClusterKeyVaultSync| wish_line("ClusterKeyVaultSync", sync, sync.status.as_ref());
        seen.lines.extend(syncs.iter().map(line));
    }
    let claims = Api::<KeyVaultCertificate>::all(connection.client.clone());
    let claims = seen.of(&connection, claims, "KeyVaultCertificate").await?;
    let is_meant = |claim: &&KeyVaultCertificate| {
        namespace.is_none() || claim.spec.owner.namespace.is_some() && claim.spec.owner.namespace == namespace
    };
    seen.lines.extend(claims.iter().filter(is_meant).map(|claim| {
        let status = claim.status.as_ref();
        line(
            "KeyVaultCertificate",
            claim,
            status.map(|status| status.conditions.as_slice()),
            status.and_then(|status| status.not_after.as_ref()),
        )
    }));
    seen.lines.sort();
    tell(&seen, arguments.output)?;
    let is_well = seen.lines.iter().all(|line| line.rank == Rank::Ready);
    Ok(if is_well { Found::Well } else { Found::Trouble })
}

fn in_namespace<K>(connection: &Connection, namespace: Option<&str>) -> Api<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    let client = connection.client.clone();
    namespace.map_or_else(|| Api::all(client.clone()), |namespace| Api::namespaced(client.clone(), namespace))
}

struct Seen {
    lines: Vec<Line>,
    not_seen: Vec<NotSeen>,
}

impl Seen {
    /// The objects of a kind; none where the user may not see them.
    async fn of<K>(
        &mut self,
        connection: &Connection,
        api: Api<K>,
        kind: &'static str,
    ) -> anyhow::Result<Vec<K>>
    where
        K: Resource + Clone + DeserializeOwned + Debug,
    {
        let message = match connection.list(api, kind, ListParams::default()).await? {
            Listed::Objects(objects) => return Ok(objects),
            Listed::Forbidden(message) => message,
            Listed::NoKind => "the cluster does not know this kind: keyvault-sync crds --apply".to_owned(),
        };
        self.not_seen.push(NotSeen { kind, message });
        Ok(Vec::new())
    }
}

/// One wish, over namespaces or not.
fn wish_line<K: Resource>(kind: &'static str, wish: &K, status: Option<&KeyVaultSyncStatus>) -> Line {
    let conditions = status.map(|status| status.conditions.as_slice());
    line(kind, wish, conditions, status.and_then(|status| status.next_expiry.as_ref()))
}

fn line<K: Resource>(
    kind: &'static str,
    object: &K,
    conditions: Option<&[Condition]>,
    expiry: Option<&Time>,
) -> Line {
    let conditions = conditions.unwrap_or_default();
    let ready = conditions::find(conditions, READY);
    let stalled = conditions::is_true(conditions, STALLED);
    let status = ready.map_or("Unknown", |ready| ready.status.as_str());
    let is_of_now = ready.is_none_or(|ready| {
        ready.observed_generation.is_none() || ready.observed_generation == object.meta().generation
    });
    let rank = match status {
        _ if stalled => Rank::Stalled,
        "False" => Rank::NotReady,
        "True" if is_of_now => Rank::Ready,
        _ => Rank::Unknown,
    };
    let message = match ready {
        None => "the operator has not said anything of it yet: is it running?".to_owned(),
        Some(ready) if !is_of_now => format!("of an earlier specification: {}", ready.message),
        Some(ready) => ready.message.clone(),
    };
    Line {
        rank,
        expires_at: expiry.map_or(i64::MAX, |time| time.0.as_second()),
        kind,
        namespace: object.namespace(),
        name: object.name_any(),
        ready: status.to_owned(),
        stalled,
        reason: ready.map_or_else(String::new, |ready| ready.reason.clone()),
        message,
        next_expiry: expiry.map(|time| time.0.to_string()),
    }
}

fn tell(seen: &Seen, form: Form) -> anyhow::Result<()> {
    if form == Form::Json {
        return print_json(&Answer { resources: &seen.lines, not_seen: &seen.not_seen });
    }
    if seen.lines.is_empty() {
        note("no resources found");
    } else {
        print(&table(&seen.lines).text(width()));
    }
    for NotSeen { kind, message } in &seen.not_seen {
        note(&format!("left out: {kind}: {message}"));
    }
    Ok(())
}

fn table(lines: &[Line]) -> Table<6> {
    let mut table = Table::new(["READY", "KIND", "NAME", "EXPIRES", "REASON", "MESSAGE"]);
    for line in lines {
        let name = match &line.namespace {
            Some(namespace) => format!("{namespace}/{}", line.name),
            None => line.name.clone(),
        };
        let day = line.next_expiry.as_deref().and_then(|time| time.split('T').next()).unwrap_or_default();
        table.row([
            line.ready.clone(),
            line.kind.to_owned(),
            name,
            day.to_owned(),
            line.reason.clone(),
            line.message.clone(),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn sync(name: &str, conditions: serde_json::Value, expiry: Option<&str>) -> Line {
        let sync: KeyVaultSync = serde_json::from_value(json!({
            "apiVersion": "keyvaultsync.io/v1alpha1", "kind": "KeyVaultSync",
            "metadata": {"namespace": "web", "name": name, "generation": 2},
            "spec": {"vaultRef": {"name": "contoso"}},
            "status": {"conditions": conditions, "nextExpiry": expiry},
        }))
        .unwrap();
        let status = sync.status.as_ref().unwrap();
        line("KeyVaultSync", &sync, Some(&status.conditions), status.next_expiry.as_ref())
    }

    fn condition(type_: &str, status: &str, generation: i64) -> serde_json::Value {
        json!({"type": type_, "status": status, "reason": "Word", "message": "A sentence.",
            "observedGeneration": generation, "lastTransitionTime": "2026-01-01T00:00:00Z"})
    }

    #[test]
    fn worst_comes_first_and_of_equal_ones_the_first_to_expire() {
        let mut lines = [
            sync("well", json!([condition("Ready", "True", 2)]), Some("2027-01-01T00:00:00Z")),
            sync("soon", json!([condition("Ready", "True", 2)]), Some("2026-02-01T00:00:00Z")),
            sync("stale", json!([condition("Ready", "True", 1)]), None),
            sync("new", json!([]), None),
            sync("failed", json!([condition("Ready", "False", 2)]), None),
            sync("stalled", json!([condition("Ready", "False", 2), condition("Stalled", "True", 2)]), None),
        ];
        lines.sort();
        let names: Vec<_> = lines.iter().map(|line| line.name.as_str()).collect();
        assert_eq!(names, ["stalled", "failed", "new", "stale", "soon", "well"]);
        let text = table(&lines).text(None);
        assert!(
            text.contains("True     KeyVaultSync  web/soon     2026-02-01  Word    A sentence.\n"),
            "{text}"
        );
        assert!(text.contains("is it running?"), "{text}");
    }
}
