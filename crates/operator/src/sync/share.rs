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
use crate::wisher::Wisher;
use crate::world::installation_of;

/// What of a plan may be carried out here, and which claims only need another label.
pub(super) struct Share<S> {
    /// The acts that are left.
    pub acts: Vec<ClaimAct<S>>,
    /// Claims that nothing is to be done with but to say that they are ours, by the uid of their holder.
    pub relabelled: Vec<(ClaimName, String)>,
    /// Every claim that becomes ours by this plan.
    pub taken: BTreeSet<ClaimName>,
}

/// Takes part in what several installations see.
pub(super) async fn of<S>(
    wisher: &Wisher,
    held: &BTreeMap<ClaimName, Held<S>>,
    acts: Vec<ClaimAct<S>>,
    context: &Context,
) -> Share<S> {
    let owner = wisher.owner();
    let mut taken = BTreeSet::new();
    let mut left = BTreeSet::new();
    for name in held.iter().filter(|(_, held)| held.owner.is_same_resource(&owner)).map(|(name, _)| name) {
        let Some(claim) = context.world.claim(name.as_str()).filter(|claim| !context.world.is_ours(claim))
        else {
            continue;
        };
        if may_take(wisher, &claim, context).await {
            taken.insert(name.clone());
        } else {
            left.insert(name.clone());
        }
    }
    let acts: Vec<_> = acts.into_iter().filter(|act| !left.contains(act.name())).collect();
    let acted: BTreeSet<&ClaimName> = acts.iter().map(ClaimAct::name).collect();
    let relabelled = taken
        .iter()
        .filter(|name| !acted.contains(name))
        .filter_map(|name| Some((name.clone(), held.get(name)?.owner.uid.clone())))
        .collect();
    Share { acts, relabelled, taken }
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

/// A claim was taken over from another installation.
pub(super) fn took(wisher: &Wisher, name: &ClaimName, context: &Context) {
    let Some(claim) = context.world.claim(name.as_str()) else { return };
    tracing::info!(name = %name, namespace = wisher.namespace(), resource = wisher.name(), "claim taken over from another installation");
    let none = Labels::new();
    let labels = wisher.labels().unwrap_or(&none);
    context.world.taken.note(&claim.uid().unwrap_or_default(), wisher.uid(), labels);
}

/// Whether a claim that another installation has is to be taken over: not if that one lives and took it back before.
async fn may_take(wisher: &Wisher, claim: &KeyVaultCertificate, context: &Context) -> bool {
    let (uid, none) = (claim.uid().unwrap_or_default(), Labels::new());
    let taken = &context.world.taken;
    if taken.may_take(&uid, wisher.uid(), wisher.labels().unwrap_or(&none))
        || is_forsaken(claim, context).await
    {
        return true;
    }
    if taken.is_news(&uid) {
        tracing::warn!(
            name = claim.name_any(),
            namespace = wisher.namespace(),
            resource = wisher.name(),
            installation = installation_of(claim).unwrap_or_default(),
            "another installation took a claim back: both select its resource; give them --resource-selector or --watch-namespaces that \
             do not overlap"
        );
    }
    false
}

/// Whether nobody leads the installation that a claim is labelled with, or the label names none.
pub(super) async fn is_forsaken(claim: &KeyVaultCertificate, context: &Context) -> bool {
    match installation_of(claim) {
        None => true,
        Some(label) => context.others.is_gone(label, &context.client).await,
    }
}
