//! A claim whose owner cannot be seen: is the owner really gone? Only then is the claim released.
//! What a release leads to is left to the certificate controller.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use keyvault_sync_api::{KeyVaultCertificate, KeyVaultSync};
use keyvault_sync_core::claims::ReleaseWhy;
use keyvault_sync_core::names::{CertificateName, ClaimName, VaultHost};
use kube::api::Api;
use kube::runtime::controller::Action;
use kube::{CustomResourceExt, ResourceExt};

use super::apply::Failure;
use super::succession;
use crate::context::Context;
use crate::kubernetes::{CallError, call};
use crate::world::owner_ref;

/// When an owner that could not be asked for is asked for again.
const RETRY: Duration = Duration::from_secs(30);
/// How often the plans of the start are waited for.
const START_RETRY: Duration = Duration::from_secs(1);

/// What became of an owner.
enum Owner {
    /// It is there, or a resource of the same name is, which succeeds it.
    There,
    /// It was deleted, beyond doubt.
    Gone,
    /// It cannot be told.
    Unclear,
}

/// Looks for the owner of one claim.
pub(crate) async fn reconcile(
    claim: Arc<KeyVaultCertificate>,
    context: Arc<Context>,
) -> Result<Action, Infallible> {
    let claim = context.world.written.newest(claim);
    if context.stop.is_cancelled() || claim.spec.release.is_some() {
        return Ok(Action::await_change());
    }
    // Nothing is released before every wish was planned once: one of them may be about to take the claim over.
    if !context
        .world
        .syncs
        .state()
        .iter()
        .all(|sync| context.world.planned.is_planned(&sync.uid().unwrap_or_default()))
    {
        return Ok(Action::requeue(START_RETRY));
    }
    if context.world.syncs.get(&owner_ref(&claim)).is_some() {
        // The same name: its own plan keeps, takes over or releases the claim.
        context.world.wake.sync(owner_ref(&claim));
        return Ok(Action::await_change());
    }
    match owner(&claim, &context).await {
        Owner::There | Owner::Unclear => Ok(Action::requeue(RETRY)),
        Owner::Gone => Ok(give_up(&claim, &context).await),
    }
}

async fn give_up(claim: &KeyVaultCertificate, context: &Context) -> Action {
    let clouds = context.settings.allowed_clouds();
    let name = CertificateName::parse(&claim.spec.certificate_name).ok();
    let Some((certificate, host)) = name.zip(VaultHost::from_host(&claim.spec.vault_host, &clouds).ok())
    else {
        tracing::warn!(
            name = claim.name_any(),
            "a claim without an owner names no vault that is allowed here: it stays"
        );
        return Action::await_change();
    };
    match succession::give_up(
        &ClaimName::new(&certificate, &host),
        &claim.spec.owner.uid,
        ReleaseWhy::OwnerGone,
        context,
    )
    .await
    {
        Ok(()) => Action::await_change(),
        Err(Failure::Race) => Action::requeue(START_RETRY),
        Err(Failure::Problem(problem)) => {
            tracing::warn!(name = claim.name_any(), %problem, "claim not released");
            Action::requeue(RETRY)
        }
    }
}

/// Asks the API server itself. Gone is only what it says is not found by name, while the kind exists and is to stay:
/// when a CRD is deleted, every object of it answers 404 too.
async fn owner(claim: &KeyVaultCertificate, context: &Context) -> Owner {
    let owner = &claim.spec.owner;
    let api: Api<KeyVaultSync> = Api::namespaced(context.client.clone(), crate::owner::namespace(claim));
    match call("the owner of a claim", api.get(&owner.name)).await {
        Ok(_) => return Owner::There,
        Err(error) if names_what_is_missing(&error, &owner.name) => {}
        Err(error) => {
            tracing::warn!(name = claim.name_any(), error = %crate::watch::describe(&error), "it cannot be told whether the owner of a claim is gone: the claim stays");
            return Owner::Unclear;
        }
    }
    let definitions: Api<CustomResourceDefinition> = Api::all(context.client.clone());
    match call("the definition of KeyVaultSync", definitions.get(KeyVaultSync::crd_name())).await {
        Ok(definition) if definition.metadata.deletion_timestamp.is_none() => Owner::Gone,
        Ok(_) => {
            tracing::warn!(
                name = claim.name_any(),
                "the definition of KeyVaultSync is being deleted: claims stay as they are"
            );
            Owner::Unclear
        }
        Err(error) => {
            tracing::warn!(name = claim.name_any(), error = %crate::watch::describe(&error), "the definition of KeyVaultSync cannot be read: claims stay as they are");
            Owner::Unclear
        }
    }
}

fn names_what_is_missing(error: &CallError, name: &str) -> bool {
    error.status().is_some_and(|status| {
        status.code == 404 && status.details.as_ref().is_some_and(|details| details.name == name)
    })
}

/// STUB
#[allow(dead_code)]
pub(crate) enum OwnerState {
    Wants,
    Elsewhere,
    Gone,
    Unclear,
}

/// STUB
pub(crate) async fn state_of(
    _kind: keyvault_sync_core::ownership::OwnerKind,
    _namespace: &str,
    _name: &str,
    _claim: &ClaimName,
    _context: &Context,
) -> OwnerState {
    OwnerState::Unclear
}
