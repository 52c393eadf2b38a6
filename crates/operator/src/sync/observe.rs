//! The claims that concern one wish: those its resource holds, and those whose name it wants; and whether their Secrets are there.
//! What they mean is left to `keyvault_sync_core::claims`.

use std::collections::BTreeMap;
use std::sync::Arc;

use keyvault_sync_api::{KeyVaultCertificate, KeyVaultCertificateSpec, ReleaseWhy as ApiWhy};
use keyvault_sync_core::claims::{Held, HeldSource, Presence, ReleaseWhy, SecretName};
use keyvault_sync_core::names::{CertificateName, ClaimName, Cloud, VaultHost};
use keyvault_sync_core::ownership::OwnerKind;
use keyvault_sync_core::reason::Reason;
use kube::ResourceExt;
use kube::runtime::reflector::ObjectRef;

use super::resolve::{Wish, source};
use crate::certificate::status;
use crate::context::View;
use crate::wisher::Wisher;

/// Looks for them.
pub(crate) fn held(
    wisher: &Wisher,
    wish: &Wish,
    context: &View,
) -> BTreeMap<ClaimName, Held<KeyVaultCertificateSpec>> {
    let looking = Looking { wish, clouds: context.settings.allowed_clouds(), context };
    let mine = context.world.claims_of(&wisher.key());
    let mut held: BTreeMap<_, _> = mine.into_iter().filter_map(|claim| looking.entry(claim)).collect();
    for (_, name) in wish.rows.iter().filter_map(|row| row.name.as_ref()) {
        if !held.contains_key(name)
            && let Some(claim) = context.world.claim(name.as_str())
        {
            held.extend(looking.entry(claim));
        }
    }
    held
}

struct Looking<'a> {
    wish: &'a Wish,
    clouds: Vec<Cloud>,
    context: &'a View,
}

impl Looking<'_> {
    fn entry(&self, shown: Arc<KeyVaultCertificate>) -> Option<(ClaimName, Held<KeyVaultCertificateSpec>)> {
        let claim = self.context.world.written.newest(shown);
        let certificate = CertificateName::parse(&claim.spec.certificate_name).ok()?;
        let host = VaultHost::from_host(&claim.spec.vault_host, &self.clouds).ok()?;
        let status = status::kept(&claim);
        let is_observed = status.and_then(|status| status.observed_generation) == claim.metadata.generation;
        let is_synced =
            is_observed && matches!(status::reason(&claim), Some(Reason::Synced | Reason::IncompleteChain));
        let spec = &claim.spec;
        let held = Held {
            owner: crate::owner::of(&claim),
            sources: self.sources(&claim),
            spec: KeyVaultCertificateSpec { release: None, sources: Vec::new(), ..spec.clone() },
            release: spec.release.as_ref().map(|release| why(release.why)),
            is_synced,
            has_record: status.is_some_and(|status| status.version.is_some()),
            in_wished_vault: self.wish.vault.as_ref().ok().map(|wished| wished.host == host),
        };
        Some((ClaimName::new(&certificate, &host), held))
    }

    fn sources(&self, claim: &KeyVaultCertificate) -> Vec<HeldSource> {
        let seen = status::kept(claim).map_or(&[][..], |status| &status.sources);
        let look = |written| {
            let source = source(written);
            let presence = self.presence(&source.secret);
            let is_this = |seen: &&keyvault_sync_api::SeenSource| {
                seen.namespace == source.secret.namespace && seen.name == source.secret.name
            };
            // Only of one that is missing it matters how long and whether it may come back.
            let is_missing = presence != Presence::There;
            let missing_since = seen
                .iter()
                .filter(|_| is_missing)
                .find(is_this)
                .and_then(|seen| Some(seen.missing_since.as_ref()?.0.as_second()));
            let may_be_selected = is_missing && self.may_be_selected(&source.secret);
            // What was compared is what is there now; a copy that changed since is not known to be one.
            let edition = self.context.world.secret(&source.secret.namespace, &source.secret.name);
            let is_equal = seen.iter().find(is_this).zip(edition).is_some_and(|(seen, edition)| {
                seen.equal == Some(true) && seen.resource_version == edition.resource_version()
            });
            HeldSource { source, presence, missing_since, may_be_selected, is_equal }
        };
        claim.spec.sources.iter().map(look).collect()
    }

    fn presence(&self, secret: &SecretName) -> Presence {
        let world = &self.context.world;
        let is_namespaced = self.wish.owner.kind == OwnerKind::KeyVaultSync;
        let namespace = || world.namespace(&secret.namespace);
        let reference = || ObjectRef::new(&secret.name).within(&secret.namespace);
        if world.tls_secrets.get(&reference()).is_some() {
            // Whether the namespace of a Secret is selected cannot be told while it is not seen.
            let is_clear = is_namespaced || namespace().is_some();
            return if is_clear { Presence::There } else { Presence::MissingWithNamespace };
        }
        if world.other_secrets.get(&reference()).is_some() {
            return Presence::There;
        }
        let stays = |meta: &crate::world::NamespaceMeta| meta.metadata.deletion_timestamp.is_none();
        if is_namespaced || namespace().is_some_and(|meta| stays(&meta)) {
            Presence::Missing
        } else {
            Presence::MissingWithNamespace
        }
    }

    fn may_be_selected(&self, secret: &SecretName) -> bool {
        self.wish.selection.as_ref().is_some_and(|selection| selection.may_match(&secret.name))
            && self.wish.namespaces.may_match(&secret.namespace)
    }
}

fn why(why: ApiWhy) -> ReleaseWhy {
    match why {
        ApiWhy::EntryGone => ReleaseWhy::EntryGone,
        ApiWhy::OwnerGone => ReleaseWhy::OwnerGone,
        ApiWhy::VaultChanged => ReleaseWhy::VaultChanged,
        ApiWhy::SecretGone => ReleaseWhy::SecretGone,
    }
}

/// The claim of this name, if the resource of this uid holds it.
pub(crate) fn own_claim(name: &ClaimName, uid: &str, context: &View) -> Option<Arc<KeyVaultCertificate>> {
    let claim = context.world.written.newest(context.world.claim(name.as_str())?);
    (claim.spec.owner.uid == uid).then_some(claim)
}
