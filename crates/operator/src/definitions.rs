//! Before any work: are the definitions of our kinds in the cluster, and do they know every field of this build? The API server drops
//! what a definition does not know, in silence, and claims are the operator's memory. Installing them is left to whoever installs.

use std::time::Duration;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, CustomResourceDefinitionVersion, JSONSchemaProps, JSONSchemaPropsOrArray,
    JSONSchemaPropsOrBool,
};
use keyvault_sync_api::constants::VERSION;
use kube::api::Api;
use kube::{Client, ResourceExt};
use tokio_util::sync::CancellationToken;

use crate::health::Readiness;
use crate::kubernetes::{CallError, call};
use crate::news::News;
use crate::watch::describe;

/// What /readyz calls them.
pub(crate) const DEFINITIONS: &str = "definitions";
/// How often they are looked at until they fit: so long may a start last after they were applied.
const RETRY: Duration = Duration::from_secs(2);
/// What puts them right, from the folder of this version.
const REMEDY: &str = "kubectl apply --server-side --force-conflicts -f crds/";
/// Of a definition that is much older a few fields say enough.
const SHOWN: usize = 5;
/// The definition that an operator of some namespaces has no use for, and no right to read.
const OF_WHOLE_CLUSTER: &str = "ClusterKeyVaultSync";

/// What keeps an operator from working, and the next action; `None`: the definitions of every kind that is used fit this build.
pub(crate) async fn look(client: &Client, serves_all: bool) -> Option<String> {
    problem(&wanted(serves_all), &Api::all(client.clone())).await
}

/// The definitions of the kinds that an operator uses.
fn wanted(serves_all: bool) -> Vec<CustomResourceDefinition> {
    let mut wanted = keyvault_sync_api::crds();
    wanted.retain(|definition| serves_all || definition.spec.names.kind != OF_WHOLE_CLUSTER);
    wanted
}

/// Waits until the definitions of every kind that is used fit this build. `false`: told to stop meanwhile.
pub(crate) async fn wait(
    client: &Client,
    serves_all: bool,
    readiness: &Readiness,
    stop: &CancellationToken,
) -> bool {
    let wanted = wanted(serves_all);
    let stored = Api::<CustomResourceDefinition>::all(client.clone());
    let mut news = News::default();
    let mut has_waited = false;
    loop {
        let problem = tokio::select! {
            problem = problem(&wanted, &stored) => problem,
            () = stop.cancelled() => return false,
        };
        let Some(problem) = problem else { break };
        has_waited = true;
        readiness.say(DEFINITIONS, &problem);
        tracing::debug!("the definitions were looked at");
        if news.is(&problem) {
            tracing::warn!(
                problem,
                "nothing is done until the definitions of our kinds are there and of this version"
            );
        }
        tokio::select! {
            () = tokio::time::sleep(RETRY) => {}
            () = stop.cancelled() => return false,
        }
    }
    readiness.done(DEFINITIONS);
    if has_waited {
        tracing::info!("the definitions of our kinds are there and of this version");
    }
    true
}

/// Why an operator ends whose definitions were changed under it.
pub(crate) fn changed() -> String {
    format!(
        "the API server no longer keeps all that is written into a KeyVaultCertificate: its definition is of another version now. \
         Nothing is done without a memory. Apply the definitions of version {}: {REMEDY}",
        env!("CARGO_PKG_VERSION")
    )
}

/// What keeps us from working, and the next action.
async fn problem(
    wanted: &[CustomResourceDefinition],
    stored: &Api<CustomResourceDefinition>,
) -> Option<String> {
    let (mut missing, mut unfit) = (Vec::new(), Vec::new());
    for definition in wanted {
        let (name, kind) = (definition.name_any(), &definition.spec.names.kind);
        match call("a definition", stored.get(&name)).await {
            Ok(found) => unfit.extend(unfitness(definition, &found).map(|why| format!("{kind} {why}"))),
            Err(error) if error.says_missing(&name) => missing.push(kind.clone()),
            Err(error) => return Some(unknown(&error)),
        }
    }
    if !missing.is_empty() {
        unfit.insert(0, format!("there is no definition of {}", missing.join(", ")));
    }
    if unfit.is_empty() {
        return None;
    }
    let version = env!("CARGO_PKG_VERSION");
    Some(format!("{}: apply those of version {version}: {REMEDY}", unfit.join("; ")))
}

/// Nothing is known of the definitions.
fn unknown(error: &CallError) -> String {
    match error.status() {
        Some(status) if status.code == 403 => {
            "the operator's ServiceAccount may not read the definitions of its own kinds: install its \
             RBAC of this version"
                .to_owned()
        }
        Some(_) => describe(error),
        // Which address was tried, and why it does not answer, is in the causes.
        None => format!("the API server does not answer, it is tried again: {}", describe(error)),
    }
}

/// Why a definition does not do for this build, as the end of a sentence.
fn unfitness(wanted: &CustomResourceDefinition, found: &CustomResourceDefinition) -> Option<String> {
    if found.metadata.deletion_timestamp.is_some() {
        return Some("is being deleted, and every object of it".to_owned());
    }
    let (Some(wanted), Some(served)) = (served(wanted), served(found)) else {
        return Some(format!("is not served as {VERSION}"));
    };
    let has_status = |version: &CustomResourceDefinitionVersion| {
        version.subresources.as_ref().is_some_and(|sub| sub.status.is_some())
    };
    if has_status(wanted) && !has_status(served) {
        return Some("has no status of its own".to_owned());
    }
    let mut lacks = Vec::new();
    lacking(schema(wanted)?, schema(served), "", &mut lacks);
    if !lacks.is_empty() {
        let rest = lacks.len().saturating_sub(SHOWN);
        lacks.truncate(SHOWN);
        let more = if rest == 0 { String::new() } else { format!(" and {rest} more") };
        return Some(format!("is of another version and lacks {}{more}", lacks.join(", ")));
    }
    let conditions =
        found.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let is_established = conditions.iter().any(|it| it.type_ == "Established" && it.status == "True");
    (!is_established).then(|| "is not served yet".to_owned())
}

fn served(definition: &CustomResourceDefinition) -> Option<&CustomResourceDefinitionVersion> {
    definition.spec.versions.iter().find(|version| version.name == VERSION && version.served)
}

fn schema(version: &CustomResourceDefinitionVersion) -> Option<&JSONSchemaProps> {
    version.schema.as_ref()?.open_api_v3_schema.as_ref()
}

/// The fields, and words of enumerations, that `wanted` has and `found` does not: those would be dropped, or refused. Rules and
/// descriptions may differ, and so may what `found` has beside.
fn lacking(wanted: &JSONSchemaProps, found: Option<&JSONSchemaProps>, path: &str, lacks: &mut Vec<String>) {
    let Some(found) = found else {
        return lacks.push(if path.is_empty() { "a schema".to_owned() } else { path.to_owned() });
    };
    if found.x_kubernetes_preserve_unknown_fields == Some(true) {
        return;
    }
    let words = |schema: &JSONSchemaProps| schema.enum_.clone().unwrap_or_default();
    if found.enum_.is_some() {
        for word in words(wanted).into_iter().filter(|word| !words(found).contains(word)) {
            lacks.push(format!("{path}={}", word.0));
        }
    }
    for (name, wanted) in wanted.properties.iter().flatten() {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        lacking(wanted, found.properties.as_ref().and_then(|all| all.get(name)), &path, lacks);
    }
    if let Some(JSONSchemaPropsOrArray::Schema(wanted)) = &wanted.items {
        let found = match &found.items {
            Some(JSONSchemaPropsOrArray::Schema(found)) => Some(&**found),
            _ => None,
        };
        lacking(wanted, found, &format!("{path}[]"), lacks);
    }
    if let Some(JSONSchemaPropsOrBool::Schema(wanted)) = &wanted.additional_properties {
        let found = match &found.additional_properties {
            Some(JSONSchemaPropsOrBool::Schema(found)) => Some(&**found),
            _ => None,
        };
        lacking(wanted, found, &format!("{path}.*"), lacks);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// Our own definition of a kind as a cluster has it.
    fn stored(kind: &str) -> Value {
        let definition = keyvault_sync_api::crds()
            .into_iter()
            .find(|definition| definition.spec.names.kind == kind)
            .unwrap();
        let mut stored = serde_json::to_value(definition).unwrap();
        stored["status"] = json!({"conditions": [{"type": "Established", "status": "True"}]});
        stored
    }

    const SCHEMA: &str = "/spec/versions/0/schema/openAPIV3Schema";

    fn without(mut definition: Value, parent: &str, field: &str) -> Value {
        let at = format!("{SCHEMA}{parent}/properties");
        let removed =
            definition.pointer_mut(&at).and_then(Value::as_object_mut).and_then(|all| all.remove(field));
        assert!(removed.is_some(), "{at} has no {field}");
        definition
    }

    fn with(mut definition: Value, at: &str, value: Value) -> Value {
        *definition.pointer_mut(at).unwrap_or_else(|| panic!("no {at}")) = value;
        definition
    }

    fn judged(found: Value) -> Option<String> {
        let found: CustomResourceDefinition = serde_json::from_value(found).unwrap();
        let wanted =
            keyvault_sync_api::crds().into_iter().find(|wanted| wanted.spec.names == found.spec.names);
        unfitness(&wanted.unwrap(), &found)
    }

    #[test]
    fn definitions_of_this_version_and_newer_ones_do() {
        for kind in ["KeyVaultSync", "ClusterKeyVaultSync", "KeyVault", "KeyVaultCertificate"] {
            assert_eq!(judged(stored(kind)), None, "{kind}");
            let mut newer = stored(kind);
            let status = newer.pointer_mut(&format!("{SCHEMA}/properties/status/properties")).unwrap();
            status["later"] = json!({"type": "string"});
            let mut version = newer["spec"]["versions"][0].clone();
            version["name"] = json!("v1beta1");
            newer["spec"]["versions"].as_array_mut().unwrap().insert(0, version);
            assert_eq!(judged(newer), None, "a newer {kind}");
        }
    }

    #[test]
    fn a_definition_that_lacks_what_this_version_writes_is_told_in_words() {
        let claim = || stored("KeyVaultCertificate");
        let status = "/properties/status";
        let act = format!("{SCHEMA}{status}/properties/inFlight/properties/act/enum");
        for (found, words) in [
            (without(claim(), status, "claimUid"), "lacks status.claimUid"),
            (without(claim(), status, "inFlight"), "lacks status.inFlight"),
            (
                without(claim(), &format!("{status}/properties/inFlight"), "since"),
                "lacks status.inFlight.since",
            ),
            (
                without(claim(), &format!("{status}/properties/sources/items"), "resourceVersion"),
                "lacks status.sources[].",
            ),
            (without(claim(), "", "status"), "lacks status"),
            (
                with(claim(), &act, json!(["Import", "Adopt", "Retag", "Recover"])),
                "lacks status.inFlight.act=\"Delete\"",
            ),
            (with(claim(), &format!("{SCHEMA}{status}/properties"), json!({})), "and 11 more"),
            (with(claim(), "/spec/versions/0/subresources", json!({})), "has no status of its own"),
            (with(claim(), "/spec/versions/0/served", json!(false)), "is not served as v1alpha1"),
            (with(claim(), "/spec/versions/0/name", json!("v1")), "is not served as v1alpha1"),
            (with(claim(), "/status/conditions/0/status", json!("False")), "is not served yet"),
            (
                with(claim(), "/metadata", json!({"name": "x", "deletionTimestamp": "2026-01-01T00:00:00Z"})),
                "is being deleted",
            ),
        ] {
            let judged = judged(found).unwrap_or_default();
            assert!(judged.contains(words), "{words}: {judged:?}");
        }
    }

    #[test]
    fn where_unknown_fields_are_kept_none_is_lacking() {
        let at = format!("{SCHEMA}/properties/status");
        let open = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
        assert_eq!(judged(with(stored("KeyVaultCertificate"), &at, open)), None);
    }
}
