//! The rendered chart before a real API server: its schemas, by kubeconform and without a network, and what it would admit into a
//! namespace of the level `restricted`, by a dry run of the server. Kinds of other projects are judged by neither, which is said.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, ensure};
use keyvault_sync_e2e::{LocalCluster, tools};
use serde_json::{Value, json};

use super::{Case, RELEASE, documents, install_page};
use crate::command;

/// Kinds whose schema is another project's.
const FOREIGN: [&str; 3] = ["ServiceMonitor", "PrometheusRule", "CiliumNetworkPolicy"];
/// Where the renderings want to put things beside the release's own namespace.
const NAMESPACES: [&str; 2] = ["web", "shop"];

/// Manifests that must not pass, or the schemas are not closed and nothing is judged.
const UNKNOWN_FIELDS: [&str; 2] = [
    "{apiVersion: v1, kind: ConfigMap, metadata: {name: a}, content: {}}",
    "{apiVersion: keyvaultsync.io/v1alpha1, kind: KeyVault, metadata: {name: a}, spec: {url: 'https://a.vault.azure.net', grant: []}}",
];

/// Asks a real API server and kubeconform.
pub(super) fn admits(rendered: &[(Case, String)]) -> anyhow::Result<()> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("no async runtime")?;
    runtime.block_on(ask(rendered))
}

async fn ask(rendered: &[(Case, String)]) -> anyhow::Result<()> {
    let kubeconform = tokio::task::spawn_blocking(tools::kubeconform).await??;
    println!("starting an API server, which is asked for its schemas and for what it would admit");
    let cluster = LocalCluster::start().await?;
    let folder = cluster.folder().to_path_buf();
    for crd in fs::read_dir(command::root()?.join("crds"))? {
        cluster.apply(&fs::read_to_string(crd?.path())?).await?;
    }
    let mut namespaces = String::new();
    for namespace in NAMESPACES.into_iter().chain([RELEASE.1, install_page::NAME]) {
        let labels = json!({"pod-security.kubernetes.io/enforce": "restricted", "pod-security.kubernetes.io/warn": "restricted"});
        let metadata = json!({"name": namespace, "labels": labels});
        let _ = writeln!(
            namespaces,
            "---\n{}",
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
        );
    }
    cluster.apply(&namespaces).await?;
    // What pods of the renderings name; the API server admits a pod only if it is there.
    cluster.apply(&accounts(rendered)?).await?;
    cluster
        .apply("apiVersion: node.k8s.io/v1\nkind: RuntimeClass\nmetadata: {name: gvisor}\nhandler: runsc")
        .await?;
    schemas(&cluster, &folder.join("schemas")).await?;
    let conforms = |name: &str, manifest: &str| conforms(&kubeconform, &folder, name, manifest);
    for wrong in UNKNOWN_FIELDS {
        ensure!(conforms("wrong", wrong)?.is_some(), "kubeconform takes a field that there is not: {wrong}");
    }

    let mut findings = Vec::new();
    let mut foreign = BTreeSet::new();
    for (case, text) in rendered {
        let ours = without_foreign(text, &mut foreign)?;
        findings.extend(conforms(&case.name, &ours)?);
        findings.extend(dry_run(&cluster, &case.name, &ours).await?);
    }
    findings.extend(install_page::findings(&cluster).await?);
    cluster.stop().await?;
    ensure!(
        findings.is_empty(),
        "the API server would not take what the chart renders or docs/install.md says:\n  {}",
        findings.join("\n  ")
    );
    println!(
        "{} renderings pass kubeconform (-strict) and a dry run of the API server, restricted",
        rendered.len()
    );
    println!("the API server takes the values, the overlay and the resources of docs/install.md too");
    println!(
        "not judged, since their definitions are other projects': {}",
        Vec::from_iter(foreign).join(", ")
    );
    Ok(())
}

/// What kubeconform has against a manifest.
fn conforms(kubeconform: &Path, folder: &Path, name: &str, text: &str) -> anyhow::Result<Option<String>> {
    let manifest = folder.join(format!("{name}.yaml"));
    fs::write(&manifest, text)?;
    let location = folder.join("schemas").join("{{.ResourceKind}}{{.KindSuffix}}.json");
    let mut conform = std::process::Command::new(kubeconform);
    conform.arg("-strict").arg("-schema-location").arg(&location).arg(&manifest);
    let judged = conform.output().context("cannot start kubeconform")?;
    let said = String::from_utf8_lossy(&judged.stdout).trim_end().to_owned();
    Ok((!judged.status.success()).then(|| format!("{name}: kubeconform: {said}")))
}

pub(super) async fn dry_run(
    cluster: &LocalCluster,
    name: &str,
    text: &str,
) -> anyhow::Result<Option<String>> {
    let arguments = ["apply", "--server-side", "--dry-run=server", "--output=name", "--filename=-"];
    let output = cluster.kubectl_with_input(&arguments, text).await?;
    let said = String::from_utf8_lossy(&output.stderr).trim_end().to_owned();
    // Pods of a Deployment or Job are only warned of.
    let is_well = output.status.success() && !said.contains("Warning");
    Ok((!is_well).then(|| format!("{name}: {said}")))
}

/// The ServiceAccounts of the pods.
fn accounts(rendered: &[(Case, String)]) -> anyhow::Result<String> {
    let mut accounts = BTreeSet::new();
    for document in rendered.iter().flat_map(|(_, text)| documents(text)) {
        if let Some(name) = document?.1["spec"]["serviceAccountName"].as_str() {
            let metadata = json!({"name": name, "namespace": RELEASE.1});
            accounts.insert(
                json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata}).to_string(),
            );
        }
    }
    Ok(Vec::from_iter(accounts).join("\n---\n"))
}

/// The objects of Kubernetes and of ours.
pub(super) fn without_foreign(text: &str, foreign: &mut BTreeSet<String>) -> anyhow::Result<String> {
    let mut ours = String::new();
    for document in documents(text) {
        let (text, object) = document?;
        match object["kind"].as_str() {
            Some(kind) if FOREIGN.contains(&kind) => _ = foreign.insert(kind.to_owned()),
            Some(_) => _ = write!(ours, "---\n{text}\n"),
            None => {}
        }
    }
    Ok(ours)
}

/// The API server's schemas, a file for each kind, where a field that a kind does not have is a mistake.
async fn schemas(cluster: &LocalCluster, folder: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(folder)?;
    let request = http::Request::get("/openapi/v2").header("Accept", "application/json").body(Vec::new())?;
    let mut openapi: Value = cluster.admin().request(request).await.context("the API server's OpenAPI")?;
    let definitions = openapi["definitions"].as_object_mut().context("it has no definitions")?;
    let mut kinds = Vec::new();
    for (name, definition) in definitions.iter_mut() {
        for kind in definition["x-kubernetes-group-version-kind"].as_array().into_iter().flatten() {
            let word = |key: &str| kind[key].as_str().unwrap_or_default().to_ascii_lowercase();
            // As kubeconform calls a kind's file: the first part of its group.
            let group =
                word("group").split('.').next().map(|group| format!("{group}-")).filter(|group| group != "-");
            let file = format!("{}-{}{}.json", word("kind"), group.unwrap_or_default(), word("version"));
            kinds.push((file, name.clone()));
        }
        close(definition);
    }
    fs::write(folder.join("definitions.json"), serde_json::to_vec(&json!({"definitions": definitions}))?)?;
    for (file, name) in kinds {
        let reference = json!({"$ref": format!("definitions.json#/definitions/{name}")});
        fs::write(folder.join(file), serde_json::to_vec(&reference)?)?;
    }
    Ok(())
}

/// OpenAPI 2 as the JSON Schema that it nearly is: closed, and with what may be a number or a text.
fn close(schema: &mut Value) {
    if schema["format"] == "int-or-string" {
        *schema = json!({"type": ["integer", "string"]});
    }
    let is_open = schema["x-kubernetes-preserve-unknown-fields"] == Value::Bool(true);
    let Value::Object(members) = schema else { return };
    if members.contains_key("properties") && !members.contains_key("additionalProperties") && !is_open {
        members.insert("additionalProperties".to_owned(), Value::Bool(false));
    }
    for key in ["properties", "items", "additionalProperties"] {
        match (key, members.get_mut(key)) {
            ("properties", Some(Value::Object(properties))) => properties.values_mut().for_each(close),
            (_, Some(schema)) => close(schema),
            (_, None) => {}
        }
    }
}
