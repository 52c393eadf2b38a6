//! Claims in a cluster of several installations: which of a plan's acts are this installation's, and claims that are its own by now
//! and labelled otherwise. Who selects a claim's owner takes the claim over; who had it stops when it sees another label on it.

use std::collections::{BTreeMap, BTreeSet};

use keyvault_sync_api::KeyVaultCertificate;
use keyvault_sync_core::claims::{ClaimAct, Held};
use keyvault_sync_core::labels::Labels;
use keyvault_sync_core::names::ClaimName;
use kube::ResourceExt;

use super::apply::{Failure, change};
use crate::context::Context;
use crate::wisher::{Wisher, WisherKey};
use crate::world::installation_of;

/// What of a plan may be carried out here, and which claims only need another label.
pub(super) struct Share<S> {
    /// The acts that are left.
    pub acts: Vec<ClaimAct<S>>,
    /// The claims of this resource that another installation is to hear are ours, by the uid of their holder.
    pub taken: Vec<(ClaimName, String)>,
}

/// Takes part in what several installations see.
pub(super) fn of<S>(
    wisher: &Wisher,
    held: &BTreeMap<ClaimName, Held<S>>,
    acts: Vec<ClaimAct<S>>,
    context: &Context,
) -> Share<S> {
    let key = wisher.key();
    let of_others: BTreeMap<&ClaimName, &Held<S>> = held
        .iter()
        .filter(|(_, held)| is_of(&key, held))
        .filter(|(name, _)| {
            context.world.claim(name.as_str()).is_some_and(|claim| !context.world.is_ours(&claim))
        })
        .collect();
    if of_others.is_empty() {
        return Share { acts, taken: Vec::new() };
    }
    let left: BTreeSet<&ClaimName> =
        of_others.keys().copied().filter(|name| !may_take(wisher, name, context)).collect();
    let acts: Vec<_> = acts.into_iter().filter(|act| !left.contains(name_of(act))).collect();
    let acted: BTreeSet<&ClaimName> = acts.iter().map(name_of).collect();
    let taken = of_others
        .iter()
        .filter(|(name, _)| !left.contains(*name) && !acted.contains(*name))
        .map(|(name, held)| ((*name).clone(), held.owner.uid.clone()))
        .collect();
    Share { acts, taken }
}

/// Labels a claim as this installation's.
pub(super) async fn take(
    name: ClaimName,
    holder: String,
    context: &Context,
) -> (ClaimName, Result<(), Failure>) {
    let end = change(&name, &holder, context, |_| {}).await;
    (name, end)
}

/// Whether a claim that another installation has is to be taken over; and remembers that it was.
fn may_take(wisher: &Wisher, name: &ClaimName, context: &Context) -> bool {
    let Some(claim) = context.world.claim(name.as_str()) else { return true };
    let (uid, none) = (claim.uid().unwrap_or_default(), Labels::new());
    let labels = wisher.labels().unwrap_or(&none);
    let taken = &context.world.taken;
    let installation = installation_of(&claim).unwrap_or_default();
    if !taken.may_take(&uid, wisher.uid(), labels) {
        tracing::warn!(
            name = %name,
            namespace = wisher.namespace(),
            resource = wisher.name(),
            installation,
            "another installation took a claim back: both select its resource; give them --resource-selector or --watch-namespaces that \
             do not overlap"
        );
        return false;
    }
    tracing::info!(name = %name, installation, "claim taken over from another installation");
    taken.note(&uid, wisher.uid(), labels);
    true
}

fn is_of<S>(key: &WisherKey, held: &Held<S>) -> bool {
    held.owner.kind == key.kind && held.owner.namespace == key.namespace && held.owner.name == key.name
}

fn name_of<S>(act: &ClaimAct<S>) -> &ClaimName {
    match act {
        ClaimAct::Create(name, _)
        | ClaimAct::Change(name, _)
        | ClaimAct::Settle(name, _)
        | ClaimAct::Release(name, ..) => name,
    }
}

/// Whether a claim without an owner, which is labelled as another installation's, may be taken over by this one: nobody leads that
/// one any more.
pub(super) async fn is_forsaken(claim: &KeyVaultCertificate, context: &Context) -> bool {
    match installation_of(claim) {
        None => true,
        Some(label) => context.others.is_gone(label, &context.client).await,
    }
}
