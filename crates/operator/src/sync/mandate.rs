//! What a claim may have done in its owner's name: no more than the owner itself says, whatever is written in the claim.
//! Putting such a claim right is left to the owner's plan, which is woken; the grant, to `certificate::observe`.

use keyvault_sync_api::{ConflictPolicy, DeletionPolicy, KeyVaultCertificate, ReleaseWhy};
use keyvault_sync_core::claims::Source;
use keyvault_sync_core::names::ClaimName;
use keyvault_sync_core::ownership::OwnerKind;
use keyvault_sync_core::selection::SecretLook;
use kube::ResourceExt;
use kube::runtime::reflector::ObjectRef;

use super::{resolve, succession};
use crate::context::View;
use crate::wisher::{Wisher, WisherKey};

/// Whether the very resource that holds a claim is there and means each of its Secrets: else none of them is read. Where it does
/// not mean one, its plan is woken, which gives the claim up or changes it.
pub(crate) fn is_meant(claim: &KeyVaultCertificate, context: &View) -> bool {
    let Some(owner) = owner(claim, context) else { return false };
    let is_meant = claim.spec.sources.iter().all(|written| means(&owner, &resolve::source(written), context));
    if !is_meant {
        context.world.wake.sync(owner.key());
    }
    is_meant
}

/// Whether nothing is asked for that the owner does not ask for: a private key that may leave the vault, or the taking over of
/// what is another's.
pub(crate) fn asks_no_more(claim: &KeyVaultCertificate, context: &View) -> bool {
    let Some(owner) = owner(claim, context) else { return false };
    let (spec, push) = (&claim.spec, owner.push());
    let asks_no_more = (!spec.exportable || push.exportable)
        && (spec.conflict_policy == ConflictPolicy::Refuse || push.conflict_policy == ConflictPolicy::Adopt)
        && spec.adopt_from_clusters.iter().all(|cluster| push.adopt_from_clusters.contains(cluster))
        && (spec.suspend || !push.suspend);
    if !asks_no_more {
        context.world.wake.sync(owner.key());
    }
    asks_no_more
}

/// Whether a claim that is given up may be deleted in the vault for all that a resource of its owner's name says, if there is one: it
/// would delete too, and does not want the name from a Secret that is there. Where it may not, the plan is woken.
pub(crate) fn lets_delete(claim: &KeyVaultCertificate, name: &ClaimName, context: &View) -> bool {
    let Some(owner) = context.world.wisher(&WisherKey::of(claim)) else { return true };
    let push = owner.push();
    let deletes = push.deletion_policy == DeletionPolicy::Delete && !push.suspend;
    // That the claim's own Secrets are gone was asked of the API server; they need not be those of the wish.
    let why = claim.spec.release.as_ref().map(|release| release.why);
    let lets_delete = deletes && (why != Some(ReleaseWhy::SecretGone) || !has_secret(&owner, name, context));
    if !lets_delete {
        context.world.wake.sync(owner.key());
    }
    lets_delete
}

fn owner(claim: &KeyVaultCertificate, context: &View) -> Option<Wisher> {
    context.world.wisher(&WisherKey::of(claim)).filter(|wisher| wisher.uid() == claim.spec.owner.uid)
}

/// Whether a resource lists this Secret or could have selected it. Of one that is not there only the name is known; it may be on its
/// way back, and there is nothing to be read.
fn means(owner: &Wisher, source: &Source, context: &View) -> bool {
    let (namespace, name) = (&source.secret.namespace, &source.secret.name);
    let is_at_home = match owner.kind() {
        OwnerKind::KeyVaultSync => namespace == owner.namespace(),
        OwnerKind::ClusterKeyVaultSync => true,
    };
    if !is_at_home {
        return false;
    }
    if owner.entries().iter().any(|entry| entry.secret_name == *name) {
        return true;
    }
    let Some(selection) = owner.selection() else { return false };
    let (namespaces, world) = (owner.namespace_selection(), &context.world);
    match world.tls_secrets.get(&ObjectRef::new(name).within(namespace)) {
        Some(meta) => {
            let look = SecretLook { name, labels: meta.labels(), annotations: meta.annotations() };
            // The watches may show that a namespace is gone before they show it of its Secrets.
            let is_meant_there = match world.namespace(namespace) {
                Some(there) => namespaces.matches(namespace, Some(there.labels())),
                None => namespaces.may_match(namespace),
            };
            selection.matches(&look) && is_meant_there
        }
        None => {
            world.secret(namespace, name).is_none()
                && selection.may_match(name)
                && namespaces.may_match(namespace)
        }
    }
}

/// Whether a resource wants the name from a Secret that the watches show.
fn has_secret(owner: &Wisher, name: &ClaimName, context: &View) -> bool {
    succession::would_write(owner, name, &[], context).is_some_and(|wanted| {
        let is_there = |source: &keyvault_sync_api::ClaimSource| {
            context.world.secret(&source.namespace, &source.secret_name).is_some()
        };
        wanted.sources.iter().any(is_there)
    })
}
