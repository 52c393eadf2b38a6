//! A claim whose owner cannot be seen: is the owner really gone? Only then is the claim released.
//! What a release leads to is left to the certificate controller.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use keyvault_sync_api::{ClusterKeyVaultSync, KeyVaultCertificate, KeyVaultSync};
use keyvault_sync_core::claims::ReleaseWhy;
use keyvault_sync_core::names::ClaimName;
use keyvault_sync_core::ownership::OwnerKind;
use keyvault_sync_core::push::OwnerState;
use kube::runtime::controller::Action;
use kube::{CustomResourceExt, ResourceExt};

use super::apply::Failure;
use super::{absence, resolve, share, succession};
use crate::context::{Context, View};
use crate::kubernetes::CallError;
use crate::wisher::{Wisher, WisherKey};

/// When an owner that could not be asked for is asked for again.
const RETRY: Duration = Duration::from_secs(30);
/// How often the plans of the start are waited for.
const START_RETRY: Duration = Duration::from_secs(1);

/// Looks for the owner of one claim.
pub(crate) async fn reconcile(
    claim: Arc<KeyVaultCertificate>,
    context: Arc<Context>,
) -> Result<Action, Infallible> {
    let claim = context.world.written.newest(claim);
    if context.stop.is_cancelled() {
        return Ok(Action::await_change());
    }
    if !context.world.is_ours(&claim) {
        return Ok(of_another(&claim, &context).await);
    }
    if claim.spec.release.is_some() {
        return Ok(Action::await_change());
    }
    // Nothing is released before every wish was planned once: one of them may be about to take the claim over.
    if !context.world.is_every_wish_planned() {
        return Ok(Action::requeue(START_RETRY));
    }
    let owner = WisherKey::of(&claim);
    if context.world.wisher(&owner).is_some() {
        // The same name: its own plan keeps, takes over or releases the claim.
        context.world.wake.sync(owner);
        return Ok(Action::await_change());
    }
    let Some(name) = crate::owner::claim_name(&claim, &context.settings.allowed_clouds()) else {
        tracing::warn!(
            name = claim.name_any(),
            "a claim without an owner names no vault that is allowed here: it stays"
        );
        return Ok(Action::await_change());
    };
    let made = claim.creation_timestamp();
    match state(owner.kind, &owner.namespace, &owner.name, &name, made.as_ref(), &context).await {
        OwnerState::Wants | OwnerState::Elsewhere | OwnerState::Unclear => Ok(Action::requeue(RETRY)),
        OwnerState::Gone if context.world.wisher(&owner).is_some() => {
            // Made again while it was asked for.
            context.world.wake.sync(owner);
            Ok(Action::requeue(START_RETRY))
        }
        OwnerState::Gone => Ok(give_up(&name, &claim.spec.owner.uid, &context).await),
    }
}

/// A claim of another installation: its to give up, and only if nobody leads that one any more, this one's.
async fn of_another(claim: &KeyVaultCertificate, context: &Context) -> Action {
    let owner = WisherKey::of(claim);
    if context.world.wisher(&owner).is_some() {
        // The same name: who selects it keeps, takes over or releases the claim.
        context.world.wake.sync(owner);
        return Action::await_change();
    }
    if !share::is_forsaken(claim, context).await {
        return Action::requeue(RETRY);
    }
    let Some(name) = crate::owner::claim_name(claim, &context.settings.allowed_clouds()) else {
        return Action::await_change();
    };
    tracing::info!(name = %name, "claim without an owner taken over from an installation that is gone");
    match share::take(name, claim.spec.owner.uid.clone(), context).await {
        // Its new label wakes whoever works on it.
        (_, Ok(())) => Action::await_change(),
        (_, Err(_)) => Action::requeue(START_RETRY),
    }
}

async fn give_up(name: &ClaimName, holder: &str, context: &Context) -> Action {
    let last_word = context.world.last_word(holder);
    match succession::give_up(name, holder, ReleaseWhy::OwnerGone, last_word.as_ref(), context).await {
        Ok(()) => Action::await_change(),
        Err(Failure::Race) => Action::requeue(START_RETRY),
        Err(Failure::Unconfirmed) => Action::requeue(RETRY),
        Err(Failure::Problem(problem)) => {
            tracing::warn!(name = %name, %problem, "claim not released");
            Action::requeue(RETRY)
        }
    }
}

/// Asks the API server itself how an owner stands to the name of a claim. Gone is only what it says is not found by
/// name, while the kind exists and is to stay: when a CRD is deleted, every object of it answers 404 too. That its
/// namespace is gone answers the same, by the owner's name.
pub(crate) async fn state_of(
    kind: OwnerKind,
    namespace: &str,
    name: &str,
    claim: &ClaimName,
    context: &View,
) -> OwnerState {
    state(kind, namespace, name, claim, None, context).await
}

/// The same for a claim that was made at a known time: where its kind was defined anew since, the owner was not deleted, its kind
/// was, and whoever applies the definition again is about to apply the resources too.
pub(crate) async fn state(
    kind: OwnerKind,
    namespace: &str,
    name: &str,
    claim: &ClaimName,
    made: Option<&Time>,
    context: &View,
) -> OwnerState {
    match owner(kind, namespace, name, context).await {
        Ok(wisher) => wants(&wisher, claim, context),
        Err(error)
            if error.says_missing(name)
                || (is_role_gone(kind, &error, context)
                    && absence::is_namespace_gone(namespace, context).await) =>
        {
            if is_kind_to_stay(kind, claim, made, context).await {
                OwnerState::Gone
            } else {
                OwnerState::Unclear
            }
        }
        Err(error) => {
            tracing::warn!(name = %claim, owner = name, error = %crate::watch::describe(&error), "it cannot be told whether an owner is gone: nothing is given up or taken over");
            OwnerState::Unclear
        }
    }
}

/// An operator of some namespaces has its right to ask in each of them, and loses it with the namespace.
fn is_role_gone(kind: OwnerKind, error: &CallError, context: &View) -> bool {
    context.world.is_of_some_namespaces()
        && kind == OwnerKind::KeyVaultSync
        && error.status().is_some_and(|status| status.code == 403)
}

async fn owner(kind: OwnerKind, namespace: &str, name: &str, context: &View) -> Result<Wisher, CallError> {
    const WHAT: &str = "the owner of a certificate";
    match kind {
        OwnerKind::KeyVaultSync => {
            let sync = context.reader.get_in::<KeyVaultSync>(WHAT, namespace, name).await;
            sync.map(|sync| Wisher::Namespaced(Arc::new(sync)))
        }
        OwnerKind::ClusterKeyVaultSync => {
            let sync = context.reader.get::<ClusterKeyVaultSync>(WHAT, name).await;
            sync.map(|sync| Wisher::Cluster(Arc::new(sync)))
        }
    }
}

/// A row without a name may be about any name.
fn wants(wisher: &Wisher, claim: &ClaimName, context: &View) -> OwnerState {
    let wish = resolve::wish(wisher, context);
    let may_want = |row: &keyvault_sync_core::claims::Row<_>| {
        row.name.as_ref().is_none_or(|(_, wanted)| wanted == claim)
    };
    if wisher.is_going() || !wish.may_release || wish.rows.iter().any(may_want) {
        OwnerState::Wants
    } else {
        OwnerState::Elsewhere
    }
}

async fn is_kind_to_stay(kind: OwnerKind, claim: &ClaimName, made: Option<&Time>, context: &View) -> bool {
    let definition = match kind {
        OwnerKind::KeyVaultSync => KeyVaultSync::crd_name(),
        OwnerKind::ClusterKeyVaultSync => ClusterKeyVaultSync::crd_name(),
    };
    match context.reader.get::<CustomResourceDefinition>("the definition of a kind", definition).await {
        Ok(found) if found.metadata.deletion_timestamp.is_none() => {
            let is_new =
                made.zip(found.creation_timestamp()).is_some_and(|(made, defined)| made.0 < defined.0);
            if is_new {
                tracing::warn!(
                    name = %claim,
                    definition,
                    "the definition is younger than the claim, whose owner went with the one before: the claim stays for it to come \
                     back; to end it without touching the vault, delete the KeyVaultCertificate by hand"
                );
            }
            !is_new
        }
        Ok(_) => {
            tracing::warn!(name = %claim, definition, "the definition is being deleted: claims stay as they are");
            false
        }
        Err(error) => {
            tracing::warn!(name = %claim, definition, error = %crate::watch::describe(&error), "the definition cannot be read: claims stay as they are");
            false
        }
    }
}
