//! A claim that its holder does not want any more: handed over to who waits for it, or released.
//! Whether the holder really does not want it is left to the callers; what a release leads to, to the certificate controller.

use k8s_openapi::jiff::Timestamp;
use keyvault_sync_api::conditions::whole_seconds;
use keyvault_sync_api::{KeyVaultCertificateSpec, Release, ReleaseWhy as ApiWhy};
use keyvault_sync_core::claims::ReleaseWhy;
use keyvault_sync_core::names::ClaimName;
use kube::ResourceExt;

use super::apply::{Failure, change};
use super::resolve;
use crate::context::Context;

/// Gives a claim up that `holder` (a uid) has. A resource of the same kind and namespace that wants the name gets the claim as it is, with its
/// record: in the vault the certificate goes on. Without one the claim is released.
pub(crate) async fn give_up(
    name: &ClaimName,
    holder: &str,
    why: ReleaseWhy,
    context: &Context,
) -> Result<(), Failure> {
    if let Some(spec) = heir(name, context) {
        tracing::info!(name = %name, namespace = spec.owner.namespace, heir = spec.owner.name, "claim handed over");
        return change(name, holder, context, |claim| claim.spec = spec).await;
    }
    let why = match why {
        ReleaseWhy::EntryGone => ApiWhy::EntryGone,
        ReleaseWhy::VaultChanged => ApiWhy::VaultChanged,
        ReleaseWhy::OwnerGone => ApiWhy::OwnerGone,
    };
    let since = whole_seconds(Timestamp::now());
    change(name, holder, context, |claim| claim.spec.release = Some(Release { why, since })).await
}

/// What the oldest resource of the holder's namespace that waits for this name, and may have it, would write.
fn heir(name: &ClaimName, context: &Context) -> Option<KeyVaultCertificateSpec> {
    let claim = context.world.claim(name.as_str())?;
    let namespace = crate::owner::namespace(&claim);
    let mut waiting = context.world.losers_of(name.as_str());
    waiting.retain(|sync| {
        sync.namespace().as_deref() == Some(namespace) && sync.metadata.deletion_timestamp.is_none()
    });
    waiting.sort_by_key(|sync| (sync.creation_timestamp().map(|time| time.0), sync.name_any()));
    waiting.iter().find_map(|sync| {
        let rows = resolve::wish(sync, context).rows;
        let row = rows.into_iter().find(|row| row.name.as_ref().is_some_and(|(_, wanted)| wanted == name))?;
        row.wanted.ok()
    })
}
