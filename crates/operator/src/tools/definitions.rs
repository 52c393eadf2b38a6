//! `keyvault-sync crds`: the definitions of the resources, printed, or applied and waited for. A newer definition is not replaced by an
//! older one: fields that only the newer one has would be lost with the next write. What is in them is left to the api crate.

use std::time::Duration;

use anyhow::anyhow;
use clap::Args;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use keyvault_sync_api::constants::VERSION_ANNOTATION;
use kube::ResourceExt;
use kube::api::{Api, Patch, PatchParams};
use semver::Version;
use tokio::time::Instant;

use super::cluster::{Cluster, Connection};
use super::{Found, note, print};
use crate::kubernetes::call;

/// Who the fields belong to.
const FIELD_MANAGER: &str = "keyvault-sync-crds";
/// How long a definition may take to be served; it takes a second.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often it is looked whether it is.
const LOOK: Duration = Duration::from_millis(200);
/// What is asked for, in messages.
const WHAT: &str = "the definition of a kind";

/// What is asked for.
#[derive(Args, Clone, Debug)]
pub(crate) struct Arguments {
    /// Apply them, and wait until the cluster serves them
    #[arg(long)]
    apply: bool,
    /// Replace newer definitions by these too
    #[arg(long, requires = "apply", conflicts_with = "keep_newer")]
    force: bool,
    /// Leave newer definitions, with exit code 0: they will do for this version too
    #[arg(long, requires = "apply")]
    keep_newer: bool,
    #[command(flatten)]
    cluster: Cluster,
}

/// Prints or applies them.
pub(crate) async fn run(arguments: Arguments) -> anyhow::Result<Found> {
    let definitions = keyvault_sync_api::crds();
    if !arguments.apply {
        print(&yaml(&definitions)?);
        return Ok(Found::Well);
    }
    let connection = arguments.cluster.connect().await?;
    let api: Api<CustomResourceDefinition> = Api::all(connection.client.clone());
    let mut present = Vec::new();
    for definition in &definitions {
        present.push(find(&api, &definition.name_any(), &connection).await?);
    }
    if let Some(refusal) = newer(&definitions, &present).filter(|_| !arguments.force) {
        note(&format!("{}: {refusal}", if arguments.keep_newer { "kept" } else { "refused" }));
        return Ok(if arguments.keep_newer { Found::Well } else { Found::Trouble });
    }
    for (definition, before) in definitions.iter().zip(present) {
        let name = definition.name_any();
        // They are ours whoever applied them last: Helm, kubectl, an operator for operators.
        let (params, patch) = (PatchParams::apply(FIELD_MANAGER).force(), Patch::Apply(definition));
        let after = call(WHAT, api.patch(&name, &params, &patch)).await;
        let after = after.map_err(|error| connection.unanswered(&error))?;
        let word = match &before {
            None => "created",
            Some(before) if is_same(before, &after) => "unchanged",
            Some(_) => "changed",
        };
        wait_until_served(&api, &name, &connection).await?;
        print(&format!("customresourcedefinition.apiextensions.k8s.io/{name} {word}\n"));
    }
    Ok(Found::Well)
}

fn yaml(definitions: &[CustomResourceDefinition]) -> anyhow::Result<String> {
    let mut text = String::new();
    for definition in definitions {
        // By way of a JSON value, whose maps are sorted: the same text as in the folder of definitions.
        let value = serde_json::to_value(definition)?;
        text.push_str(&format!("---\n{}", serde_saphyr::to_string(&value)?));
    }
    Ok(text)
}

async fn find(
    api: &Api<CustomResourceDefinition>,
    name: &str,
    connection: &Connection,
) -> anyhow::Result<Option<CustomResourceDefinition>> {
    call(WHAT, api.get_opt(name)).await.map_err(|error| connection.unanswered(&error))
}

/// What is said where one of the cluster's is newer. All or none is applied: kinds of two versions beside each other were never tested.
fn newer(ours: &[CustomResourceDefinition], present: &[Option<CustomResourceDefinition>]) -> Option<String> {
    ours.iter().zip(present).find_map(|(definition, there)| {
        let (ours, there) = version(definition).zip(there.as_ref().and_then(version))?;
        (there > ours).then(|| {
            format!(
                "the cluster's definition {} is of version {there}, this program's of {ours}: nothing was applied, because what only \
                 the newer one knows would be lost; use keyvault-sync {there} or newer, or --force if that is meant",
                definition.name_any()
            )
        })
    })
}

/// Of which version a definition is; those that do not say it are older than all that do.
fn version(definition: &CustomResourceDefinition) -> Option<Version> {
    Version::parse(definition.annotations().get(VERSION_ANNOTATION)?).ok()
}

/// Whether the API server took nothing new: another specification is another generation.
fn is_same(before: &CustomResourceDefinition, after: &CustomResourceDefinition) -> bool {
    before.metadata.generation == after.metadata.generation && version(before) == version(after)
}

async fn wait_until_served(
    api: &Api<CustomResourceDefinition>,
    name: &str,
    connection: &Connection,
) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let found = find(api, name, connection).await?;
        let conditions = found.and_then(|found| found.status?.conditions).unwrap_or_default();
        if conditions.iter().any(|one| one.type_ == "Established" && one.status == "True") {
            return Ok(());
        }
        if Instant::now() >= deadline {
            let refused = conditions.iter().find(|one| one.type_ == "NamesAccepted" && one.status == "False");
            let why =
                refused.and_then(|one| one.message.clone()).unwrap_or_else(|| "it does not say why".into());
            return Err(anyhow!(
                "the definition {name} was applied, but is not served after {} s: {why}; kubectl describe crd {name}",
                PATIENCE.as_secs()
            ));
        }
        tokio::time::sleep(LOOK).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_version(version: &str) -> Vec<CustomResourceDefinition> {
        let mut definitions = keyvault_sync_api::crds();
        for definition in &mut definitions {
            let annotations = definition.metadata.annotations.get_or_insert_default();
            annotations.insert(VERSION_ANNOTATION.to_owned(), version.to_owned());
        }
        definitions
    }

    #[test]
    fn only_a_newer_definition_is_in_the_way() {
        for (there, ours, is_refused) in [
            ("0.1.0", "0.1.0", false),
            ("0.1.0", "0.2.0", false),
            ("0.2.0", "0.1.9", true),
            ("0.10.0", "0.9.0", true),
            ("1.0.0", "1.0.0-rc.1", true),
            ("1.0.0-rc.1", "1.0.0", false),
            ("somebody's", "0.1.0", false),
        ] {
            let present: Vec<_> = of_version(there).into_iter().map(Some).collect();
            let refused = newer(&of_version(ours), &present);
            assert_eq!(refused.is_some(), is_refused, "{there} there, {ours} ours");
        }
        let mut unmarked = keyvault_sync_api::crds();
        unmarked.iter_mut().for_each(|definition| definition.metadata.annotations = None);
        let present: Vec<_> = unmarked.into_iter().map(Some).collect();
        assert!(newer(&of_version("0.1.0"), &present).is_none());
        assert!(newer(&of_version("0.1.0"), &[None, None, None, None]).is_none());
    }

    #[test]
    fn what_is_printed_can_be_read_and_is_what_the_types_say() {
        let text = yaml(&keyvault_sync_api::crds()).unwrap();
        let read: Vec<CustomResourceDefinition> = serde_saphyr::from_multiple(&text).unwrap();
        assert_eq!(read, keyvault_sync_api::crds());
        assert!(read.iter().all(|definition| version(definition).is_some()));
    }
}
