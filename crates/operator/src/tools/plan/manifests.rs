//! Resources from a file that need not be applied: read, checked for their form, and given the namespace that kubectl would give them.
//! What they lead to is left to `plan`.

use std::fmt::Debug;
use std::io::Read as _;

use anyhow::{Context as _, anyhow, bail};
use keyvault_sync_api::constants::GROUP;
use keyvault_sync_api::{ClusterKeyVaultSync, KeyVault, KeyVaultSync};
use kube::api::{Api, PostParams};
use kube::{Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::kubernetes::{CallError, call};
use crate::tools::cluster::Connection;
use crate::world::once::Unapplied;

/// A file that is larger holds something else.
const SIZE_MAX: u64 = 16 * 1024 * 1024;

/// Reads a file, or the standard input if it is `-`.
pub(super) fn read(file: &str, namespace: &str) -> anyhow::Result<Unapplied> {
    let mut text = String::new();
    let read = if file == "-" {
        std::io::stdin().take(SIZE_MAX + 1).read_to_string(&mut text)
    } else {
        let opened = std::fs::File::open(file).with_context(|| format!("{file} cannot be read"))?;
        opened.take(SIZE_MAX + 1).read_to_string(&mut text)
    };
    let length = read.with_context(|| format!("{file} cannot be read"))?;
    if length as u64 > SIZE_MAX {
        bail!("{file} is larger than {SIZE_MAX} bytes: give a file with the resources alone");
    }
    parse(&text, namespace)
        .with_context(|| if file == "-" { "the standard input".into() } else { file.to_owned() })
}

/// Has the API server say which of them it would refuse: it checks more than their form. A dry run stores nothing. Whoever may not
/// write them is told so by their own apply, not here.
pub(super) async fn check(unapplied: &Unapplied, connection: &Connection) -> anyhow::Result<()> {
    let client = || connection.client.clone();
    for sync in &unapplied.syncs {
        let namespace = sync.namespace().unwrap_or_default();
        dry_run(sync, Api::namespaced(client(), &namespace), connection).await?;
    }
    for sync in &unapplied.cluster_syncs {
        dry_run(sync, Api::all(client()), connection).await?;
    }
    for vault in &unapplied.vaults {
        dry_run(vault, Api::all(client()), connection).await?;
    }
    Ok(())
}

async fn dry_run<K>(object: &K, api: Api<K>, connection: &Connection) -> anyhow::Result<()>
where
    K: Resource<DynamicType = ()> + Clone + Debug + Serialize + DeserializeOwned,
{
    const WHAT: &str = "a dry run";
    let params = PostParams { dry_run: true, ..PostParams::default() };
    let name = object.name_any();
    let there = match call(WHAT, api.get_opt(&name)).await {
        Ok(there) => there,
        Err(error) if is_forbidden(&error) => return Ok(()),
        Err(error) => return Err(connection.unanswered(&error)),
    };
    let answer = match there {
        None => call(WHAT, api.create(&params, object)).await,
        Some(there) => {
            let mut object = object.clone();
            object.meta_mut().resource_version = there.resource_version();
            call(WHAT, api.replace(&name, &params, &object)).await
        }
    };
    match answer {
        Ok(_) => Ok(()),
        Err(error) if is_forbidden(&error) => Ok(()),
        Err(error) => match error.status() {
            Some(status) => bail!("the API server would refuse it: {}", status.message),
            None => Err(connection.unanswered(&error)),
        },
    }
}

fn is_forbidden(error: &CallError) -> bool {
    error.status().is_some_and(|status| status.code == 403)
}

fn parse(text: &str, namespace: &str) -> anyhow::Result<Unapplied> {
    let documents: Vec<Value> =
        serde_saphyr::from_multiple(text).map_err(|error| anyhow!("it is not YAML: {error}"))?;
    let mut found = Unapplied::default();
    let items = documents.into_iter().flat_map(|document| match document.get("items") {
        // What `kubectl get -o yaml` prints.
        Some(Value::Array(items)) => items.clone(),
        _ => vec![document],
    });
    for (index, document) in items.enumerate() {
        if document.is_null() {
            continue;
        }
        take(&mut found, document, namespace).with_context(|| format!("document {}", index + 1))?;
    }
    if found.syncs.is_empty() && found.cluster_syncs.is_empty() && found.vaults.is_empty() {
        bail!("there is no KeyVaultSync, ClusterKeyVaultSync or KeyVault in it");
    }
    Ok(found)
}

fn take(found: &mut Unapplied, mut document: Value, namespace: &str) -> anyhow::Result<()> {
    let kind = document["kind"].as_str().unwrap_or_default().to_owned();
    let group = document["apiVersion"].as_str().unwrap_or_default().split('/').next().unwrap_or_default();
    if kind.is_empty() {
        bail!("it has no kind");
    }
    // A file of an application holds more than our resources: the rest changes nothing here.
    if group != GROUP {
        return Ok(());
    }
    if document["metadata"]["name"].as_str().is_none_or(str::is_empty) {
        bail!("a {kind} without metadata.name");
    }
    match kind.as_str() {
        "KeyVaultSync" => {
            if document["metadata"]["namespace"].is_null() {
                document["metadata"]["namespace"] = namespace.into();
            }
            found.syncs.push(typed::<KeyVaultSync>(document, &kind)?);
        }
        "ClusterKeyVaultSync" => found.cluster_syncs.push(typed::<ClusterKeyVaultSync>(document, &kind)?),
        "KeyVault" => found.vaults.push(typed::<KeyVault>(document, &kind)?),
        _ => bail!("a {kind} is not planned: give KeyVaultSyncs, ClusterKeyVaultSyncs and KeyVaults"),
    }
    Ok(())
}

fn typed<K: DeserializeOwned + kube::CustomResourceExt>(document: Value, kind: &str) -> anyhow::Result<K> {
    let name = document["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let fault = |what: String| anyhow!("{kind} {name}: {what}");
    let definition = K::crd();
    let schema = definition.spec.versions.first().and_then(|version| version.schema.as_ref());
    let schema = serde_json::to_value(schema.and_then(|schema| schema.open_api_v3_schema.as_ref()))?;
    if let Some(unknown) = unknown_field(&schema["properties"]["spec"], &document["spec"], "spec") {
        return Err(fault(format!("there is no field {unknown}: correct it (kubectl explain {kind}.spec)")));
    }
    serde_json::from_value(document).map_err(|error| fault(error.to_string()))
}

/// The first field that the schema does not have: the API server would warn and drop it.
fn unknown_field(schema: &Value, value: &Value, path: &str) -> Option<String> {
    match value {
        Value::Object(fields) => {
            // A map has any keys.
            let known = schema["properties"].as_object()?;
            fields.iter().find_map(|(name, value)| match known.get(name) {
                None => Some(format!("{path}.{name}")),
                Some(schema) => unknown_field(schema, value, &format!("{path}.{name}")),
            })
        }
        Value::Array(items) => {
            let numbered = items.iter().enumerate();
            numbered
                .into_iter()
                .find_map(|(index, item)| unknown_field(&schema["items"], item, &format!("{path}[{index}]")))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "
apiVersion: keyvaultsync.io/v1alpha1
kind: KeyVaultSync
metadata: {name: web}
spec: {vaultRef: {name: contoso}, tags: {any: tag}, certificates: [{secretName: web-tls}]}
---
# nothing
---
apiVersion: v1
kind: Secret
metadata: {name: web-tls}
---
apiVersion: keyvaultsync.io/v1alpha1
kind: KeyVault
metadata: {name: contoso}
spec: {url: 'https://contoso.vault.azure.net'}
";

    #[test]
    fn our_resources_are_taken_and_others_passed_over() {
        let found = parse(FILE, "shop").unwrap();
        assert_eq!(found.syncs.len(), 1);
        assert_eq!(found.syncs[0].namespace().as_deref(), Some("shop"));
        assert_eq!(found.vaults.len(), 1);
    }

    #[test]
    fn what_cannot_be_planned_is_named() {
        for (text, words) in [
            ("kind: [", "not YAML"),
            ("apiVersion: v1\nkind: Secret\nmetadata: {name: a}", "there is no KeyVaultSync"),
            ("", "there is no KeyVaultSync"),
            (&FILE.replace("vaultRef", "vaultref"), "KeyVaultSync web: there is no field spec.vaultref"),
            (&FILE.replace("secretName", "secret"), "spec.certificates[0].secret"),
            (&FILE.replace("{name: web}", "{}"), "document 1: a KeyVaultSync without metadata.name"),
            (
                &FILE.replace("kind: KeyVaultSync", "kind: KeyVaultCertificate"),
                "KeyVaultCertificate is not planned",
            ),
            (&FILE.replace("url:", "grants: [], x:"), "KeyVault contoso: there is no field spec.x"),
        ] {
            let error =
                format!("{:#}", parse(text, "shop").err().unwrap_or_else(|| anyhow!("taken: {text}")));
            assert!(error.contains(words), "{error}");
        }
    }
}
