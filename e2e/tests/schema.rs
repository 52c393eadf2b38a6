//! The schema against a real API server: what is refused and in which words, what is filled in, what is shown.
//! What the operator does with what is accepted is left to the other promises.

// clippy takes functions beside the tests of an integration test for product code.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Namespace;
use keyvault_sync_api::{
    ClusterKeyVaultSync, KeyVault, KeyVaultCertificate, KeyVaultCertificateStatus, KeyVaultSync,
    KeyVaultSyncStatus, crds,
};
use keyvault_sync_e2e::LocalCluster;
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

const NAMESPACE: &str = "web";

/// One control plane for the tests of this file: they do not share objects.
async fn cluster() -> &'static LocalCluster {
    static CLUSTER: OnceCell<LocalCluster> = OnceCell::const_new();
    CLUSTER
        .get_or_init(|| async {
            let cluster = LocalCluster::start().await.unwrap();
            for crd in crds() {
                cluster.apply(&serde_json::to_string(&crd).unwrap()).await.unwrap();
            }
            let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
            cluster.apply(&namespace.to_string()).await.unwrap();
            let _: Namespace = Api::all(cluster.admin()).get(NAMESPACE).await.unwrap();
            cluster
        })
        .await
}

#[derive(Clone, Copy)]
enum Kind {
    Sync,
    ClusterSync,
    Vault,
    Claim,
}

impl Kind {
    const ALL: [Kind; 4] = [Kind::Sync, Kind::ClusterSync, Kind::Vault, Kind::Claim];

    fn api(self, client: Client) -> Api<DynamicObject> {
        let kind = match self {
            Kind::Sync => "KeyVaultSync",
            Kind::ClusterSync => "ClusterKeyVaultSync",
            Kind::Vault => "KeyVault",
            Kind::Claim => "KeyVaultCertificate",
        };
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("keyvaultsync.io", "v1alpha1", kind));
        match self {
            Kind::Sync => Api::namespaced_with(client, NAMESPACE, &resource),
            Kind::ClusterSync | Kind::Vault | Kind::Claim => Api::all_with(client, &resource),
        }
    }

    /// The smallest object there can be.
    fn smallest(self) -> Value {
        match self {
            Kind::Sync => json!({
                "apiVersion": "keyvaultsync.io/v1alpha1", "kind": "KeyVaultSync", "metadata": {"name": "web"},
                "spec": {"vaultRef": {"name": "contoso"}, "certificates": [{"secretName": "web-tls"}]},
            }),
            Kind::ClusterSync => json!({
                "apiVersion": "keyvaultsync.io/v1alpha1", "kind": "ClusterKeyVaultSync", "metadata": {"name": "all"},
                "spec": {"vaultRef": {"name": "contoso"}, "selector": {}},
            }),
            Kind::Vault => json!({
                "apiVersion": "keyvaultsync.io/v1alpha1", "kind": "KeyVault", "metadata": {"name": "contoso"},
                "spec": {"url": "https://contoso.vault.azure.net"},
            }),
            Kind::Claim => json!({
                "apiVersion": "keyvaultsync.io/v1alpha1", "kind": "KeyVaultCertificate",
                "metadata": {"name": "web-prod.contoso.vault.azure.net"},
                "spec": {
                    "vaultHost": "contoso.vault.azure.net", "keyVault": "contoso", "certificateName": "Web-Prod",
                    "clusterId": "c1",
                    "owner": {"kind": "KeyVaultSync", "namespace": "web", "name": "web", "uid": "u"},
                    "sources": [{"namespace": "web", "secretName": "web-tls"}],
                },
            }),
        }
    }

    /// The smallest object with a change, a JSON merge patch.
    fn with(self, change: &Value) -> DynamicObject {
        let mut object = self.smallest();
        merge(&mut object, change);
        serde_json::from_value(object).unwrap()
    }
}

fn merge(target: &mut Value, change: &Value) {
    match (target, change) {
        (Value::Object(target), Value::Object(change)) => {
            for (key, value) in change {
                merge(target.entry(key).or_insert(Value::Null), value);
            }
            target.retain(|_, value| !value.is_null());
        }
        (target, change) => *target = change.clone(),
    }
}

/// A change, and a part of the sentence that refuses it; none if it is accepted.
type Row = (Value, Option<&'static str>);

fn yes(change: Value) -> Row {
    (change, None)
}

fn no(change: Value, sentence: &'static str) -> Row {
    (change, Some(sentence))
}

fn spec(spec: Value) -> Value {
    json!({ "spec": spec })
}

fn tags(prefix: &str, count: usize) -> Value {
    (0..count).map(|n| (format!("{prefix}{n}"), Value::from("x"))).collect()
}

fn syncs() -> Vec<Row> {
    let entry = |entry: Value| {
        let mut whole = json!({"secretName": "web-tls"});
        merge(&mut whole, &entry);
        spec(json!({"certificates": [whole]}))
    };
    let selector = |selector: Value| spec(json!({"selector": selector}));
    let expression = |expression: Value| selector(json!({"matchExpressions": [expression]}));
    let many = |count: usize| (0..count).map(|n| json!({"secretName": format!("s{n}")})).collect::<Value>();
    const NAME: &str = "must be the name of a Kubernetes object";
    const CERTIFICATE: &str = "must be a name that Key Vault takes";
    const DATA_KEY: &str = "must be a key of the Secret's data";
    const TEMPLATE: &str = "knows the placeholders {namespace} {secret} {sync}";
    const DURATION: &str = "must be a duration of hours, minutes and seconds";
    const GRACE: &str = "must be between 0s and 720h";
    const RESERVED: &str = "are set by keyvault-sync itself: choose another name";
    const TAG_NAME: &str = "a tag's name must have 1 to 256 characters";
    const TOGETHER: &str = "make more than 11 together";
    const CLUSTERS: &str = "must be cluster ids";
    const GLOB: &str = "must be names of Secrets, in which * stands for any characters";
    const LABEL_KEY: &str = "must be the key of a label or annotation";
    const OPERATOR: &str = "operators In and NotIn need values";
    const NOTHING: &str = "nothing is selected: list Secrets under certificates";
    vec![
        yes(json!({})),
        yes(json!({"metadata": {"name": "n".repeat(63)}})),
        no(json!({"metadata": {"name": "n".repeat(64)}}), "must have at most 63 characters"),
        no(spec(json!({"vaultRef": null})), "spec.vaultRef: Required value"),
        no(spec(json!({"vaultRef": {"name": "Contoso"}})), NAME),
        // something to push
        no(spec(json!({"certificates": null})), NOTHING),
        no(spec(json!({"certificates": []})), NOTHING),
        yes(spec(json!({"certificates": null, "selector": {}}))),
        yes(spec(json!({"certificates": many(500)}))),
        no(spec(json!({"certificates": many(501)})), "must have at most 500 items"),
        // entries
        no(spec(json!({"certificates": [{"secretName": "a"}, {"secretName": "a"}]})), "Duplicate value"),
        no(entry(json!({"secretName": "Web_TLS"})), NAME),
        no(entry(json!({"secretName": "s".repeat(254)})), "may not be more than 253"),
        yes(entry(json!({"secretName": "www.example.com"}))),
        yes(entry(json!({"certificateName": "Web-1"}))),
        yes(entry(json!({"certificateName": "7"}))),
        yes(entry(json!({"certificateName": "n".repeat(127)}))),
        no(entry(json!({"certificateName": "n".repeat(128)})), "may not be more than 127"),
        no(entry(json!({"certificateName": "web.prod"})), CERTIFICATE),
        no(entry(json!({"certificateName": "-web"})), CERTIFICATE),
        no(entry(json!({"certificateName": "web-"})), CERTIFICATE),
        no(entry(json!({"certificateName": "web\nprod"})), CERTIFICATE),
        no(entry(json!({"certificateName": "../secrets/x"})), CERTIFICATE),
        yes(entry(json!({"keys": {"certificate": "chain.pem"}}))),
        no(entry(json!({"keys": {"certificate": "a/b"}})), DATA_KEY),
        no(entry(json!({"keys": {"privateKey": ""}})), "should be at least 1 chars long"),
        // tags
        yes(spec(json!({"tags": tags("a", 11)}))),
        no(spec(json!({"tags": tags("a", 12)})), "must have at most 11 items"),
        no(spec(json!({"tags": {"managed-by": "me"}})), RESERVED),
        no(spec(json!({"tags": {"Managed-By": "me"}})), RESERVED),
        no(spec(json!({"tags": {"KeyVault-Sync-owner": "me"}})), RESERVED),
        no(spec(json!({"tags": {"": "x"}})), TAG_NAME),
        no(spec(json!({"tags": {"n".repeat(257): "x"}})), TAG_NAME),
        yes(spec(json!({"tags": {"n".repeat(256): "v".repeat(256)}}))),
        no(spec(json!({"tags": {"n": "v".repeat(257)}})), "may not be more than 256"),
        no(entry(json!({"tags": {"keyvault-sync-x": "me"}})), RESERVED),
        no(entry(json!({"tags": tags("a", 12)})), "must have at most 11 items"),
        yes(spec(json!({"tags": tags("a", 6), "certificates": [{"secretName": "a", "tags": tags("b", 5)}]}))),
        yes(spec(
            json!({"tags": tags("a", 11), "certificates": [{"secretName": "a", "tags": tags("a", 11)}]}),
        )),
        no(
            spec(json!({"tags": tags("a", 6), "certificates": [{"secretName": "a", "tags": tags("b", 6)}]})),
            TOGETHER,
        ),
        // names
        yes(spec(json!({"certificateNameTemplate": "X-{namespace}--{sync}-{label:a.b/c}-{annotation:d}"}))),
        no(spec(json!({"certificateNameTemplate": "{Secret}"})), TEMPLATE),
        no(spec(json!({"certificateNameTemplate": "{secret"})), TEMPLATE),
        no(spec(json!({"certificateNameTemplate": "{label:}"})), TEMPLATE),
        no(spec(json!({"certificateNameTemplate": ""})), "should be at least 1 chars long"),
        // policies
        yes(spec(
            json!({"conflictPolicy": "Adopt", "deletionPolicy": "Delete", "adoptFromClusters": ["old"]}),
        )),
        no(spec(json!({"conflictPolicy": "adopt"})), r#"supported values: "Refuse", "Adopt""#),
        no(spec(json!({"deletionPolicy": "Keep"})), r#"supported values: "Retain", "Delete""#),
        no(spec(json!({"adoptFromClusters": ["Old"]})), CLUSTERS),
        no(spec(json!({"adoptFromClusters": ["a", "a"]})), "Duplicate value"),
        yes(spec(json!({"deletionGracePeriod": "0s"}))),
        yes(spec(json!({"deletionGracePeriod": "720h"}))),
        yes(spec(json!({"deletionGracePeriod": "1h30m"}))),
        no(spec(json!({"deletionGracePeriod": "721h"})), GRACE),
        no(spec(json!({"deletionGracePeriod": "99999h"})), GRACE),
        no(spec(json!({"deletionGracePeriod": "-1h"})), DURATION),
        no(spec(json!({"deletionGracePeriod": "30d"})), DURATION),
        no(spec(json!({"deletionGracePeriod": "90"})), DURATION),
        no(spec(json!({"deletionGracePeriod": "1.5h"})), DURATION),
        no(spec(json!({"deletionGracePeriod": "99999999999999h"})), DURATION),
        // selector
        yes(selector(json!({"names": ["*-tls", "a.b?"], "excludeNames": ["x*"]}))),
        no(selector(json!({"names": ["Web*"]})), GLOB),
        no(selector(json!({"excludeNames": ["a/b"]})), GLOB),
        yes(selector(
            json!({"annotations": [{"name": "cert-manager.io/certificate-name", "values": ["*"]}]}),
        )),
        no(selector(json!({"annotations": [{"name": "a b"}]})), LABEL_KEY),
        no(selector(json!({"annotations": [{"name": "a"}, {"name": "a"}]})), "Duplicate value"),
        yes(expression(json!({"key": "stage", "operator": "NotIn", "values": ["", "test"]}))),
        yes(expression(json!({"key": "stage", "operator": "Exists"}))),
        no(expression(json!({"key": "stage", "operator": "Gt", "values": ["1"]})), "supported values"),
        no(expression(json!({"key": "stage", "operator": "In"})), OPERATOR),
        no(expression(json!({"key": "stage", "operator": "DoesNotExist", "values": ["a"]})), OPERATOR),
        no(expression(json!({"key": "-", "operator": "Exists"})), LABEL_KEY),
        no(selector(json!({"matchLabels": {"a": "v".repeat(64)}})), "may not be more than 63"),
    ]
}

fn cluster_syncs() -> Vec<Row> {
    let namespaces = |selector: Value| spec(json!({"namespaceSelector": selector}));
    let selector = |selector: Value| spec(json!({"selector": selector}));
    const GLOB: &str = "must be names of namespaces, in which * stands for any characters";
    const TEMPLATE: &str = "knows the placeholders {namespace} {secret} {sync}";
    let many = |count: usize| (0..count).map(|n| format!("team-{n}")).collect::<Value>();
    let labels = |count: usize| (0..count).map(|n| (format!("l{n}"), Value::from("x"))).collect::<Value>();
    vec![
        yes(json!({})),
        yes(json!({"metadata": {"name": "n".repeat(63)}})),
        no(
            json!({"metadata": {"name": "n".repeat(64)}}),
            "the name of a ClusterKeyVaultSync must have at most 63 characters",
        ),
        no(spec(json!({"vaultRef": null})), "spec.vaultRef: Required value"),
        no(spec(json!({"selector": null})), "spec.selector: Required value"),
        // the same settings as a KeyVaultSync has
        yes(spec(
            json!({"conflictPolicy": "Adopt", "deletionPolicy": "Delete", "deletionGracePeriod": "0s"}),
        )),
        no(
            spec(json!({"tags": {"managed-by": "me"}})),
            "are set by keyvault-sync itself: choose another name",
        ),
        no(spec(json!({"tags": tags("a", 12)})), "must have at most 11 items"),
        no(spec(json!({"deletionGracePeriod": "721h"})), "must be between 0s and 720h"),
        yes(spec(json!({"certificateNameTemplate": "{annotation:cert-manager.io/certificate-name}"}))),
        no(spec(json!({"certificateNameTemplate": "{name}"})), TEMPLATE),
        // which namespaces
        yes(namespaces(json!({}))),
        yes(namespaces(
            json!({"names": ["team-*", "web"], "excludeNames": ["kube-?*"], "matchLabels": {"team": "web"}}),
        )),
        no(namespaces(json!({"names": ["Team-*"]})), GLOB),
        no(namespaces(json!({"excludeNames": ["kube.system"]})), GLOB),
        no(namespaces(json!({"names": [""]})), "should be at least 1 chars long"),
        yes(namespaces(json!({"names": many(64)}))),
        no(namespaces(json!({"names": many(65)})), "must have at most 64 items"),
        yes(namespaces(json!({"matchLabels": labels(16)}))),
        no(namespaces(json!({"matchLabels": labels(17)})), "must have at most 16 items"),
        no(namespaces(json!({"matchLabels": {"a": "v".repeat(64)}})), "may not be more than 63"),
        // which Secrets
        yes(selector(
            json!({"names": ["*-tls"], "annotations": [{"name": "a.b/c", "excludeValues": ["x-*"]}]}),
        )),
        no(selector(json!({"names": ["Web*"]})), "must be names of Secrets, in which"),
        no(selector(json!({"annotations": [{"name": "a b"}]})), "must be the key of a label or annotation"),
    ]
}

fn vaults() -> Vec<Row> {
    const URL: &str = "must be https:// and the vault's host in lower case and nothing else";
    const GUID: &str = "must be a GUID";
    const ID: &str = "11111111-2222-3333-4444-555555555555";
    const GLOB: &str = "must be certificate names of letters, digits and hyphens";
    const FOLLOWED: &str = "{namespace} must be followed by -- or by nothing";
    let identity = |identity: Value| spec(json!({"identity": identity}));
    let grant = |grant: Value| {
        let mut whole = json!({"namespaces": {"names": ["web"]}});
        merge(&mut whole, &grant);
        spec(json!({"grants": [whole]}))
    };
    let mut rows = vec![
        yes(json!({})),
        yes(spec(json!({"url": "https://contoso.vault.azure.net/"}))),
        no(spec(json!({"url": null})), "spec.url: Required value"),
    ];
    rows.extend(
        [
            "http://contoso.vault.azure.net",
            "contoso.vault.azure.net",
            "https://Contoso.vault.azure.net",
            "https://contoso.vault.azure.net:443",
            "https://contoso.vault.azure.net/secrets",
            "https://contoso.vault.azure.net//",
            "https://contoso.vault.azure.net?a=b",
            "https://contoso.vault.azure.net/#a",
            "https://me@contoso.vault.azure.net",
            "https://contoso.vault.azure.net\n",
            "https://[::1]",
            "https://",
        ]
        .map(|url| no(spec(json!({ "url": url })), URL)),
    );
    rows.extend([
        // identities
        yes(identity(json!({}))),
        yes(identity(json!({"workloadIdentity": {"clientId": ID, "tenantId": ID}}))),
        yes(identity(json!({"serviceAccount": {"name": "keyvault"}}))),
        yes(identity(json!({"managedIdentity": {}}))),
        yes(identity(
            json!({"servicePrincipal": {"tenantId": ID, "clientId": ID, "clientSecretRef": {"name": "s"}}}),
        )),
        yes(identity(
            json!({"clientCertificate": {"tenantId": ID, "clientId": ID, "secretRef": {"name": "s"}}}),
        )),
        no(
            identity(json!({"workloadIdentity": {}, "managedIdentity": {}})),
            "identity must have at most one of",
        ),
        no(identity(json!({"workloadIdentity": {"clientId": "me"}})), GUID),
        no(identity(json!({"workloadIdentity": {"tenantId": "contoso.onmicrosoft.com"}})), GUID),
        no(identity(json!({"serviceAccount": {}})), "serviceAccount.name: Required value"),
        no(identity(json!({"serviceAccount": {"name": "a", "clientId": "x"}})), GUID),
        no(identity(json!({"managedIdentity": {"clientId": "x"}})), GUID),
        no(
            identity(json!({"servicePrincipal": {"tenantId": ID, "clientId": ID}})),
            "clientSecretRef: Required value",
        ),
        no(
            identity(json!({"clientCertificate": {"tenantId": ID, "clientId": ID}})),
            "secretRef: Required value",
        ),
        // grants
        yes(grant(json!({"push": ["{namespace}--*", "{namespace}", "Web-*", "a?b", "*"], "adopt": ["*"]}))),
        no(grant(json!({"push": ["{namespace}*"]})), FOLLOWED),
        no(grant(json!({"push": ["{namespace}-*"]})), FOLLOWED),
        no(grant(json!({"push": ["{namespace}?"]})), FOLLOWED),
        no(grant(json!({"adopt": ["{namespace}x"]})), FOLLOWED),
        no(grant(json!({"push": ["a--{namespace}"]})), GLOB),
        no(grant(json!({"push": ["{namespace}--{namespace}"]})), GLOB),
        no(grant(json!({"push": ["{secret}"]})), GLOB),
        no(grant(json!({"push": ["a.b"]})), GLOB),
        no(grant(json!({"push": [""]})), "should be at least 1 chars long"),
        no(grant(json!({"namespaces": {"names": null}})), "namespaces needs names or selector"),
        yes(grant(json!({"namespaces": {"names": null, "selector": {"matchLabels": {"team": "web"}}}}))),
        no(grant(json!({"namespaces": {"names": ["Web"]}})), "must be names of namespaces"),
        no(spec(json!({"grants": [{"push": ["*"]}]})), "namespaces: Required value"),
        // interval
        yes(spec(json!({"resyncInterval": "5m"}))),
        yes(spec(json!({"resyncInterval": "24h"}))),
        no(spec(json!({"resyncInterval": "4m59s"})), "must be between 5m and 24h"),
        no(spec(json!({"resyncInterval": "1441m"})), "must be between 5m and 24h"),
        no(spec(json!({"resyncInterval": "often"})), "must be a duration"),
    ]);
    rows
}

fn claims() -> Vec<Row> {
    const NAME: &str = "metadata.name must be <certificateName in lower case>.<vaultHost>";
    const OWNER: &str = "a KeyVaultSync has a namespace, a ClusterKeyVaultSync has none";
    let source = |n: usize| json!({"namespace": "web", "secretName": format!("s{n}")});
    let sources = |count: usize| spec(json!({"sources": (0..count).map(source).collect::<Value>()}));
    vec![
        yes(json!({})),
        no(json!({"metadata": {"name": "web-prod.fabrikam.vault.azure.net"}}), NAME),
        no(spec(json!({"certificateName": "web-test"})), NAME),
        no(spec(json!({"vaultHost": "Contoso.vault.azure.net"})), "must be a host name in lower case"),
        no(spec(json!({"certificateName": "web_prod"})), "must be a name that Key Vault takes"),
        no(spec(json!({"clusterId": "C1"})), "must be a cluster id"),
        no(spec(json!({"owner": {"kind": "Secret"}})), "supported values"),
        no(spec(json!({"owner": null})), "spec.owner: Required value"),
        no(spec(json!({"owner": {"namespace": null}})), OWNER),
        no(spec(json!({"owner": {"kind": "ClusterKeyVaultSync"}})), OWNER),
        yes(spec(json!({"owner": {"kind": "ClusterKeyVaultSync", "namespace": null}}))),
        no(spec(json!({"release": {"why": "Bored", "since": "2026-01-01T00:00:00Z"}})), "supported values"),
        yes(spec(json!({"release": {"why": "OwnerGone", "since": "2026-01-01T00:00:00Z"}}))),
        yes(sources(100)),
        no(sources(101), "must have at most 100 items"),
        no(sources(0), "should have at least 1 items"),
        no(spec(json!({"tags": {"keyvault-sync-owner": "me"}})), "are set by keyvault-sync itself"),
    ]
}

/// Changes of an object that is there.
fn updates() -> Vec<(Kind, Row)> {
    vec![
        (
            Kind::Vault,
            no(spec(json!({"url": "https://fabrikam.vault.azure.net"})), "cannot be changed: create another"),
        ),
        (Kind::Vault, yes(spec(json!({"resyncInterval": "2h"})))),
        (Kind::Sync, yes(spec(json!({"vaultRef": {"name": "fabrikam"}})))),
        (Kind::ClusterSync, yes(spec(json!({"vaultRef": {"name": "fabrikam"}})))),
        (Kind::Claim, yes(spec(json!({"certificateName": "WEB-PROD"})))),
        (Kind::Claim, no(spec(json!({"certificateName": "web-test"})), "cannot be changed but for its case")),
        (
            Kind::Claim,
            no(
                spec(json!({"vaultHost": "fabrikam.vault.azure.net"})),
                "cannot be changed: a certificate of another vault",
            ),
        ),
    ]
}

/// Compares what happened with what a row says. Returns the words of a refusal.
fn judge(what: &str, outcome: kube::Result<DynamicObject>, refused: Option<&str>) -> Result<String, String> {
    match (outcome, refused) {
        (Ok(_), None) => Ok(String::new()),
        (Ok(_), Some(sentence)) => Err(format!("{what} was accepted, not refused with “{sentence}”")),
        (Err(kube::Error::Api(status)), Some(sentence))
            if in_newer_words(&status.message).contains(sentence) =>
        {
            Ok(status.message)
        }
        (Err(error), expected) => Err(format!("{what}: expected {expected:?}, got {error}")),
    }
}

/// Older releases say the same of a text that is too long in other words.
fn in_newer_words(message: &str) -> String {
    message.replace("may not be longer than", "may not be more than")
}

/// The sentences of every rule of every kind.
fn sentences(value: &Value, found: &mut BTreeSet<String>) {
    if let Some(rules) = value.get("x-kubernetes-validations").and_then(Value::as_array) {
        found.extend(rules.iter().filter_map(|rule| rule["message"].as_str().map(str::to_owned)));
    }
    match value {
        Value::Object(map) => map.values().for_each(|value| sentences(value, found)),
        Value::Array(list) => list.iter().for_each(|value| sentences(value, found)),
        _ => {}
    }
}

#[tokio::test]
async fn what_the_schema_can_know_is_refused_with_a_sentence_and_nothing_else_is() {
    let client = cluster().await.admin();
    let (mut wrong, mut said) = (Vec::new(), String::new());
    let dry_run = PostParams { dry_run: true, ..PostParams::default() };
    let rows = |kind| match kind {
        Kind::Sync => syncs(),
        Kind::ClusterSync => cluster_syncs(),
        Kind::Vault => vaults(),
        Kind::Claim => claims(),
    };
    for kind in Kind::ALL {
        for (change, refused) in rows(kind) {
            let outcome = kind.api(client.clone()).create(&dry_run, &kind.with(&change)).await;
            judge(&change.to_string(), outcome, refused)
                .map_or_else(|error| wrong.push(error), |words| said += &words);
        }
    }
    for kind in Kind::ALL {
        kind.api(client.clone()).create(&PostParams::default(), &kind.with(&json!({}))).await.unwrap();
    }
    let dry_run = PatchParams { dry_run: true, ..PatchParams::default() };
    for (kind, (change, refused)) in updates() {
        let api = kind.api(client.clone());
        let outcome = api.patch(&kind.with(&json!({})).name_any(), &dry_run, &Patch::Merge(&change)).await;
        judge(&change.to_string(), outcome, refused)
            .map_or_else(|error| wrong.push(error), |words| said += &words);
    }
    assert!(wrong.is_empty(), "{} rows failed:\n{}", wrong.len(), wrong.join("\n"));

    let mut every = BTreeSet::new();
    crds().iter().for_each(|crd| sentences(&serde_json::to_value(crd).unwrap(), &mut every));
    let unseen: Vec<_> = every.iter().filter(|sentence| !said.contains(*sentence)).collect();
    assert!(unseen.is_empty(), "no row makes these rules refuse anything: {unseen:#?}");
}

#[tokio::test]
async fn defaults_are_filled_in_by_the_api_server_as_the_types_have_them() {
    let client = cluster().await.admin();
    let dry_run = PostParams { dry_run: true, ..PostParams::default() };
    for (kind, name, defaults) in [
        (
            Kind::Sync,
            "defaults",
            json!({
                "certificateNameTemplate": "{secret}", "exportable": true, "conflictPolicy": "Refuse",
                "deletionPolicy": "Retain", "deletionGracePeriod": "1h", "suspend": false,
                "certificates": [{"secretName": "web-tls", "keys": {"certificate": "tls.crt", "privateKey": "tls.key"}}],
            }),
        ),
        (
            Kind::ClusterSync,
            "defaults",
            json!({
                "certificateNameTemplate": "{namespace}--{secret}", "exportable": true, "conflictPolicy": "Refuse",
                "deletionPolicy": "Retain", "deletionGracePeriod": "1h", "suspend": false,
            }),
        ),
        (Kind::Vault, "defaults", json!({"resyncInterval": "1h"})),
        (
            Kind::Claim,
            "web-prod.contoso.vault.azure.net",
            json!({
                "exportable": true, "conflictPolicy": "Refuse", "deletionPolicy": "Retain",
                "deletionGracePeriod": "1h", "suspend": false,
                "sources": [{
                    "namespace": "web", "secretName": "web-tls",
                    "keys": {"certificate": "tls.crt", "privateKey": "tls.key"},
                }],
            }),
        ),
    ] {
        let object = kind.with(&json!({"metadata": {"name": name}}));
        let dry = match kind {
            Kind::Claim => {
                // Another name than the other tests', which may be there.
                let host = json!({"metadata": {"name": "web-prod.defaults.net"}, "spec": {"vaultHost": "defaults.net"}});
                kind.with(&host)
            }
            Kind::Sync | Kind::ClusterSync | Kind::Vault => object,
        };
        let answer = kind.api(client.clone()).create(&dry_run, &dry).await.unwrap();
        let mut expected = serde_json::to_value(&dry.data["spec"]).unwrap();
        merge(&mut expected, &defaults);
        assert_eq!(answer.data["spec"], expected);
        // and the types read the same out of what was written without them
        let typed = match kind {
            Kind::Sync => {
                serde_json::to_value(serde_json::from_value::<KeyVaultSync>(json!(dry)).unwrap().spec)
            }
            Kind::ClusterSync => {
                serde_json::to_value(serde_json::from_value::<ClusterKeyVaultSync>(json!(dry)).unwrap().spec)
            }
            Kind::Vault => serde_json::to_value(serde_json::from_value::<KeyVault>(json!(dry)).unwrap().spec),
            Kind::Claim => {
                serde_json::to_value(serde_json::from_value::<KeyVaultCertificate>(json!(dry)).unwrap().spec)
            }
        };
        assert_eq!(typed.unwrap(), answer.data["spec"]);
    }
}

#[tokio::test]
async fn an_explicit_null_is_the_default() {
    let client = cluster().await.admin();
    let mut object = Kind::Sync.with(&json!({"metadata": {"name": "nulls"}}));
    object.data["spec"]["exportable"] = Value::Null;
    object.data["spec"]["selector"] = Value::Null;
    let dry_run = PostParams { dry_run: true, ..PostParams::default() };
    let answer = Kind::Sync.api(client).create(&dry_run, &object).await.unwrap();
    assert_eq!(answer.data["spec"]["exportable"], json!(true));
    assert_eq!(answer.data["spec"].get("selector"), None);
}

#[tokio::test]
async fn two_field_managers_list_certificates_side_by_side() {
    let api = Kind::Sync.api(cluster().await.admin());
    for (manager, secret) in [("one", "a-tls"), ("other", "b-tls")] {
        let wish = Kind::Sync.with(&json!({
            "metadata": {"name": "shared"}, "spec": {"certificates": [{"secretName": secret}]},
        }));
        api.patch("shared", &PatchParams::apply(manager), &Patch::Apply(&wish)).await.unwrap();
    }
    let listed = api.get("shared").await.unwrap().data["spec"]["certificates"].clone();
    let names: Vec<_> =
        listed.as_array().unwrap().iter().filter_map(|entry| entry["secretName"].as_str()).collect();
    assert_eq!(names, ["a-tls", "b-tls"]);
}

fn condition(reason: &str, message: &str) -> Value {
    json!({
        "type": "Ready", "status": "True", "reason": reason, "message": message, "observedGeneration": 1,
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    })
}

fn sync_status() -> Value {
    json!({
        "observedGeneration": 1,
        "conditions": [condition("Synced", "1 certificate is up to date")],
        "synced": "1/1",
        "nextExpiry": "2096-12-01T00:00:00Z",
        "lastPushTime": "2026-01-01T00:00:00Z",
        "certificates": [{
            "secretName": "web-tls", "certificateName": "web-prod", "version": "4f1c".repeat(8),
            "secretId": "https://contoso.vault.azure.net/secrets/web-prod", "thumbprint": "3A5F".repeat(10),
            "notAfter": "2096-12-01T00:00:00Z", "state": "Synced", "reason": "Synced", "message": "m",
        }],
    })
}

fn claim_status() -> Value {
    let digest = format!("sha256:{}", "ab".repeat(32));
    json!({
        "observedGeneration": 1,
        "claimUid": "u",
        "conditions": [condition("Synced", "up to date")],
        "inFlight": {"act": "Import", "fingerprint": digest, "since": "2026-01-01T00:00:00Z"},
        "sources": [{
            "namespace": "web", "name": "web-tls", "uid": "u", "resourceVersion": "7", "equal": true,
            "missingSince": "2026-01-01T00:00:00Z", "differsSince": "2026-01-01T00:00:00Z",
        }],
        "fingerprint": digest, "adoptedWith": digest, "desired": digest, "version": "4f1c".repeat(8), "foreignWrite": digest,
        "secretId": "https://contoso.vault.azure.net/secrets/web-prod", "thumbprint": "3A5F".repeat(10),
        "notAfter": "2096-12-01T00:00:00Z", "pushedAt": "2026-01-01T00:00:00Z", "firstFailedAt": "2026-01-01T00:00:00Z",
    })
}

async fn write_status(kind: Kind, object: &DynamicObject, status: &Value) -> DynamicObject {
    let api = kind.api(cluster().await.admin());
    api.create(&PostParams::default(), object).await.unwrap();
    let patch = json!({ "status": status });
    api.patch_status(&object.name_any(), &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap()
}

#[tokio::test]
async fn a_whole_status_is_kept_field_by_field_and_read_by_the_types() {
    let object = Kind::Sync.with(&json!({"metadata": {"name": "status"}}));
    let stored = write_status(Kind::Sync, &object, &sync_status()).await.data["status"].clone();
    assert_eq!(stored, sync_status());
    let typed: KeyVaultSyncStatus = serde_json::from_value(stored).unwrap();
    assert_eq!(serde_json::to_value(typed).unwrap(), sync_status());

    // The same status, but for the namespace of each Secret.
    let object = Kind::ClusterSync.with(&json!({"metadata": {"name": "status"}}));
    let mut status = sync_status();
    status["certificates"][0]["namespace"] = json!("web");
    let stored = write_status(Kind::ClusterSync, &object, &status).await.data["status"].clone();
    assert_eq!(stored, status);
    let typed: KeyVaultSyncStatus = serde_json::from_value(stored).unwrap();
    assert_eq!(serde_json::to_value(typed).unwrap(), status);

    let host = json!({"metadata": {"name": "web-prod.status.net"}, "spec": {"vaultHost": "status.net"}});
    let stored =
        write_status(Kind::Claim, &Kind::Claim.with(&host), &claim_status()).await.data["status"].clone();
    assert_eq!(stored, claim_status());
    let typed: KeyVaultCertificateStatus = serde_json::from_value(stored).unwrap();
    assert_eq!(serde_json::to_value(typed).unwrap(), claim_status());
}

async fn kubectl(arguments: &[&str]) -> String {
    let output = cluster().await.kubectl(arguments).await.unwrap();
    assert!(output.status.success(), "kubectl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The cells of a printed table; columns stand apart by at least three spaces, and a header can hold one.
fn cells(line: &str) -> Vec<&str> {
    line.split("   ").map(str::trim).filter(|cell| !cell.is_empty()).collect()
}

#[tokio::test]
async fn kubectl_get_shows_the_documented_columns() {
    write_status(Kind::Sync, &Kind::Sync.with(&json!({"metadata": {"name": "columns"}})), &sync_status())
        .await;
    let all = Kind::ClusterSync.with(&json!({"metadata": {"name": "columns"}}));
    write_status(Kind::ClusterSync, &all, &sync_status()).await;
    write_status(
        Kind::Vault,
        &Kind::Vault.with(&json!({"metadata": {"name": "columns"}})),
        &json!({"conditions": [condition("Synced", "reached")]}),
    )
    .await;
    let host = json!({"metadata": {"name": "web-prod.columns.net"}, "spec": {"vaultHost": "columns.net"}});
    write_status(Kind::Claim, &Kind::Claim.with(&host), &claim_status()).await;

    for (arguments, header, row) in [
        (
            &["get", "kvsync", "columns", "-n", NAMESPACE][..],
            &["NAME", "READY", "REASON", "VAULT", "SYNCED", "NEXT EXPIRY", "AGE"][..],
            &["columns", "True", "Synced", "contoso", "1/1", "2096-12-01T00:00:00Z"][..],
        ),
        (
            &["get", "kvsync", "columns", "-n", NAMESPACE, "-o", "wide"],
            &["NAME", "READY", "REASON", "VAULT", "SYNCED", "NEXT EXPIRY", "AGE", "LAST PUSH", "MESSAGE"],
            &["columns", "True", "Synced", "contoso", "1/1", "2096-12-01T00:00:00Z"],
        ),
        (
            &["get", "ckvsync", "columns"],
            &["NAME", "READY", "REASON", "VAULT", "SYNCED", "NEXT EXPIRY", "AGE"],
            &["columns", "True", "Synced", "contoso", "1/1", "2096-12-01T00:00:00Z"],
        ),
        (
            &["get", "kvault", "columns"],
            &["NAME", "READY", "REASON", "URL", "AGE"],
            &["columns", "True", "Synced", "https://contoso.vault.azure.net"],
        ),
        (
            &["get", "kvcert", "web-prod.columns.net"],
            &["NAME", "READY", "REASON", "NAMESPACE", "SECRET", "EXPIRES", "AGE"],
            &["web-prod.columns.net", "True", "Synced", "web", "web-tls", "2096-12-01T00:00:00Z"],
        ),
    ] {
        let table = kubectl(arguments).await;
        let lines: Vec<_> = table.lines().map(cells).collect();
        assert_eq!(lines[0], header, "{table}");
        assert_eq!(lines[1][..row.len()], *row, "{table}");
        assert!(!table.contains("<invalid>"), "{table}");
    }
    let all = kubectl(&["get", "keyvault-sync", "-A", "-o", "name"]).await;
    for object in [
        "keyvaultsync.keyvaultsync.io/columns",
        "clusterkeyvaultsync.keyvaultsync.io/columns",
        "keyvault.keyvaultsync.io/columns",
    ] {
        assert!(all.lines().any(|line| line == object), "{all}");
    }
}

#[tokio::test]
async fn kubectl_explain_tells_what_a_field_means() {
    for (field, words) in [
        ("keyvaultsync.spec.certificates.certificateName", "1 to 127 letters, digits and hyphens"),
        ("kvsync.spec.deletionGracePeriod", "Between 0s and 720h"),
        ("ckvsync.spec.namespaceSelector", "The namespaces whose Secrets are pushed"),
        ("kvault.spec.grants.push", "certificate names they may push"),
        ("kvcert.status.inFlight", "announced and has no receipt yet"),
        ("kvsync.status.conditions.reason", "in one CamelCase word"),
    ] {
        let text = kubectl(&["explain", field]).await;
        let words_in_one_line = text.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase();
        assert!(words_in_one_line.contains(&words.to_lowercase()), "{text}");
    }
}

#[tokio::test]
async fn the_samples_are_accepted() {
    let cluster = cluster().await;
    for sample in [
        include_str!("../../deploy/samples/keyvault.yaml"),
        include_str!("../../deploy/samples/keyvaultsync-minimal.yaml"),
        include_str!("../../deploy/samples/keyvaultsync-full.yaml"),
        include_str!("../../deploy/samples/clusterkeyvaultsync.yaml"),
    ] {
        // Strictly: a field that the schema does not have is an error, not a silence.
        let arguments = ["apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", "-"];
        let output = cluster.kubectl_with_input(&arguments, sample).await.unwrap();
        assert!(output.status.success(), "{sample}\n{}", String::from_utf8_lossy(&output.stderr));
    }
}
