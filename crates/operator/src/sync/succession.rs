//! A claim that its holder does not want any more: handed over to who waits for it, or released.
//! Whether the holder really does not want it is left to the callers; what a release leads to, to the certificate controller.

use k8s_openapi::jiff::Timestamp;
use keyvault_sync_api::conditions::whole_seconds;
use keyvault_sync_api::{KeyVaultCertificateSpec, PushSettings, Release, ReleaseWhy as ApiWhy};
use keyvault_sync_core::claims::{self, ReleaseWhy, Row, Source};
use keyvault_sync_core::names::ClaimName;

use super::apply::{Failure, change};
use super::resolve::{self, SOURCES_MAX};
use crate::context::{Context, View};
use crate::wisher::{Wisher, WisherKey};

/// Gives a claim up that `holder` (a uid) has. A resource of the same kind and namespace that wants the name gets the
/// claim as it is, with its record: in the vault the certificate goes on. Without one the claim is released, and ends as
/// `last_word` says: what the holder said of it before may be of yesterday.
pub(crate) async fn give_up(
    name: &ClaimName,
    holder: &str,
    why: ReleaseWhy,
    last_word: Option<&PushSettings>,
    context: &Context,
) -> Result<(), Failure> {
    if hand_over(name, holder, context).await? {
        return Ok(());
    }
    change(name, holder, context, |claim| release(&mut claim.spec, why, last_word)).await
}

/// Writes down that a claim is given up, and how it ends.
pub(crate) fn release(spec: &mut KeyVaultCertificateSpec, why: ReleaseWhy, last_word: Option<&PushSettings>) {
    let why = match why {
        ReleaseWhy::EntryGone => ApiWhy::EntryGone,
        ReleaseWhy::VaultChanged => ApiWhy::VaultChanged,
        ReleaseWhy::OwnerGone => ApiWhy::OwnerGone,
        ReleaseWhy::SecretGone => ApiWhy::SecretGone,
    };
    if let Some(push) = last_word {
        spec.deletion_policy = push.deletion_policy;
        spec.deletion_grace_period = push.deletion_grace_period;
        spec.suspend = push.suspend;
    }
    spec.release = Some(Release { why, since: whole_seconds(Timestamp::now()) });
}

/// Hands a claim that `holder` (a uid) does not want over to a resource that does. `false`: nobody does.
pub(crate) async fn hand_over(name: &ClaimName, holder: &str, context: &Context) -> Result<bool, Failure> {
    let Some(spec) = heir(name, context) else { return Ok(false) };
    tracing::info!(name = %name, namespace = spec.owner.namespace, heir = spec.owner.name, "claim handed over");
    change(name, holder, context, |claim| claim.spec = spec).await?;
    Ok(true)
}

/// What the oldest other resource of the holder's kind and namespace that wants this name, and may have it, would write.
pub(crate) fn heir(name: &ClaimName, context: &View) -> Option<KeyVaultCertificateSpec> {
    let claim = context.world.claim(name.as_str())?;
    let holder = WisherKey::of(&claim);
    let present: Vec<Source> = claim.spec.sources.iter().map(resolve::source).collect();
    let is_heir = |wisher: &Wisher| {
        let key = wisher.key();
        key != holder && key.kind == holder.kind && key.namespace == holder.namespace && !wisher.is_going()
    };
    let mut heirs: Vec<Wisher> = context.world.wanting(name.as_str()).into_iter().filter(is_heir).collect();
    heirs.sort_by_key(|wisher| (wisher.created().map(|time| time.0), wisher.key()));
    heirs.iter().find_map(|wisher| would_write(wisher, name, &present, context))
}

/// What a resource would write into the claim of this name; `present` are the Secrets it has now. `None`: it wants no such claim.
pub(crate) fn would_write(
    wisher: &Wisher,
    name: &ClaimName,
    present: &[Source],
    context: &View,
) -> Option<KeyVaultCertificateSpec> {
    let wish = resolve::wish(wisher, context);
    let wants = |row: &&Row<_>| row.name.as_ref().is_some_and(|(_, wanted)| wanted == name);
    let rows: Vec<_> = wish.rows.iter().filter(wants).collect();
    claims::wanted(&wish.owner, &rows, present, SOURCES_MAX).map(resolve::written)
}
