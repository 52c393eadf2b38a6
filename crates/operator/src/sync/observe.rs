//! The claims that concern one wish: those its resource holds, and those whose name it wants.
//! What they mean is left to `keyvault_sync_core::claims`.

use std::collections::BTreeMap;

use keyvault_sync_api::{KeyVaultCertificate, KeyVaultCertificateSpec, KeyVaultSync};
use keyvault_sync_core::claims::Held;
use keyvault_sync_core::names::{CertificateName, ClaimName, VaultHost};
use keyvault_sync_core::reason::Reason;
use kube::ResourceExt;

use super::resolve::Wish;
use crate::certificate::status;
use crate::context::Context;

/// Looks for them.
pub(crate) fn held(
    sync: &KeyVaultSync,
    wish: &Wish,
    context: &Context,
) -> BTreeMap<ClaimName, Held<KeyVaultCertificateSpec>> {
    let mine = context.world.claims_of(&sync.namespace().unwrap_or_default(), &sync.name_any());
    let wanted = wish
        .rows
        .iter()
        .filter_map(|row| row.name.as_ref())
        .filter_map(|(_, name)| context.world.claim(name.as_str()));
    let host = wish.vault.as_ref().ok().map(|vault| &vault.host);
    mine.into_iter()
        .chain(wanted)
        .filter_map(|claim| entry(&context.world.written.newest(claim), host, context))
        .collect()
}

fn entry(
    claim: &KeyVaultCertificate,
    wished: Option<&VaultHost>,
    context: &Context,
) -> Option<(ClaimName, Held<KeyVaultCertificateSpec>)> {
    let certificate = CertificateName::parse(&claim.spec.certificate_name).ok()?;
    let clouds = context.settings.allowed_clouds();
    let host = VaultHost::from_host(&claim.spec.vault_host, &clouds).ok()?;
    let is_observed =
        claim.status.as_ref().and_then(|status| status.observed_generation) == claim.metadata.generation;
    let is_synced =
        is_observed && matches!(status::reason(claim), Some(Reason::Synced | Reason::IncompleteChain));
    let held = Held {
        owner: crate::owner::of(claim),
        secret: claim.spec.sources.first().map(|source| source.secret_name.clone()).unwrap_or_default(),
        spec: KeyVaultCertificateSpec { release: None, ..claim.spec.clone() },
        is_released: claim.spec.release.is_some(),
        is_synced,
        in_wished_vault: wished.map(|wished| *wished == host),
    };
    Some((ClaimName::new(&certificate, &host), held))
}

/// The claim of this name, if the resource of this uid holds it.
pub(crate) fn own_claim(
    name: &ClaimName,
    uid: &str,
    context: &Context,
) -> Option<std::sync::Arc<KeyVaultCertificate>> {
    let claim = context.world.written.newest(context.world.claim(name.as_str())?);
    (claim.spec.owner.uid == uid).then_some(claim)
}
