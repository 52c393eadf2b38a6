//! A KeyVaultSync → a wish: for each entry its certificate name and the claim it wants, or why it may not have one.
//! Who gets which name is left to `keyvault_sync_core::claims`.

use keyvault_sync_api::{
    CertificateEntry, ClaimSource, ConflictPolicy, DeletionPolicy, KeyVaultCertificateSpec, KeyVaultSync,
    limits,
};
use keyvault_sync_core::claims::{self, Row};
use keyvault_sync_core::names::{CertificateName, ClaimName, NameTemplate, TemplateInput};
use keyvault_sync_core::ownership;
use keyvault_sync_core::reason::Problem;
use kube::ResourceExt;
use kube::runtime::reflector::ObjectRef;

use crate::certificate::observe::{check_grant, vault};
use crate::context::Context;
use crate::keyvault::{Vault, unsupported};
use crate::world::sync_at;

/// A resource, resolved as far as it goes.
pub(crate) struct Wish {
    /// Whose it is.
    pub owner: claims::ClaimOwner,
    /// A field that makes the whole wish impossible.
    pub(crate) whole: Result<(), Problem>,
    /// The vault, or why there is none.
    pub vault: Result<Vault, Problem>,
    /// One for each entry, in the order of the entries.
    pub rows: Vec<Row<KeyVaultCertificateSpec>>,
    /// Whether claims that no row wants may be given up: only a wish that resolves can release a claim.
    pub may_release: bool,
}

/// Resolves a resource.
pub(crate) fn wish(sync: &KeyVaultSync, context: &Context) -> Wish {
    let owner = claims::ClaimOwner {
        kind: ownership::OwnerKind::KeyVaultSync,
        namespace: sync.namespace().unwrap_or_default(),
        name: sync.name_any(),
        uid: sync.uid().unwrap_or_default(),
    };
    let whole = refused_field(sync).map_or(Ok(()), Err);
    let template = NameTemplate::parse(&sync.spec.certificate_name_template);
    let vault = vault(&sync.spec.push.vault_ref.name, context);
    let rows: Vec<_> = sync
        .spec
        .certificates
        .iter()
        .map(|entry| {
            let name = name(entry, &template, &owner, context);
            let spec = whole.clone().and_then(|()| {
                let vault = vault.as_ref().map_err(Clone::clone)?;
                spec(sync, entry, name.as_ref().map_err(Clone::clone)?, vault, &owner, context)
            });
            let named = vault.as_ref().ok().zip(name.ok());
            Row {
                secret: entry.secret_name.clone(),
                name: named.map(|(vault, name)| (name.clone(), ClaimName::new(&name, &vault.host))),
                wanted: spec,
            }
        })
        .collect();
    let may_release = whole.is_ok() && vault.is_ok() && template.is_ok() && !sync.spec.push.suspend;
    Wish { owner, whole, vault, rows, may_release }
}

/// The first field in use that this version has no behaviour for.
fn refused_field(sync: &KeyVaultSync) -> Option<Problem> {
    let push = &sync.spec.push;
    if sync.spec.selector.is_some() {
        return Some(unsupported("spec.selector", "list the Secrets under spec.certificates"));
    }
    if push.conflict_policy == ConflictPolicy::Adopt {
        return Some(unsupported("spec.conflictPolicy: Adopt", "use Refuse"));
    }
    if !push.adopt_from_clusters.is_empty() {
        return Some(unsupported("spec.adoptFromClusters", "remove it"));
    }
    if push.deletion_policy == DeletionPolicy::Delete {
        return Some(unsupported("spec.deletionPolicy: Delete", "use Retain"));
    }
    None
}

fn name(
    entry: &CertificateEntry,
    template: &Result<NameTemplate, Problem>,
    owner: &claims::ClaimOwner,
    context: &Context,
) -> Result<CertificateName, Problem> {
    if let Some(name) = &entry.certificate_name {
        return CertificateName::parse(name);
    }
    let meta = context.world.secret(&owner.namespace, &entry.secret_name);
    template.as_ref().map_err(Clone::clone)?.render(&TemplateInput {
        namespace: &owner.namespace,
        secret: &entry.secret_name,
        sync: &owner.name,
        labels: meta.as_ref().map(|meta| meta.labels()),
        annotations: meta.as_ref().map(|meta| meta.annotations()),
    })
}

fn spec(
    sync: &KeyVaultSync,
    entry: &CertificateEntry,
    name: &CertificateName,
    vault: &Vault,
    owner: &claims::ClaimOwner,
    context: &Context,
) -> Result<KeyVaultCertificateSpec, Problem> {
    let push = &sync.spec.push;
    let tags = ownership::user_tags(&push.tags, &entry.tags)?;
    check_grant(vault, &owner.namespace, name, context)?;
    Ok(KeyVaultCertificateSpec {
        vault_host: vault.host.as_str().to_owned(),
        key_vault: vault.name.clone(),
        certificate_name: name.as_str().to_owned(),
        cluster_id: context.cluster.as_str().to_owned(),
        owner: crate::owner::written(owner),
        sources: vec![ClaimSource {
            namespace: owner.namespace.clone(),
            secret_name: entry.secret_name.clone(),
            keys: entry.keys.clone(),
        }],
        exportable: push.exportable,
        tags,
        conflict_policy: push.conflict_policy,
        adopt_from_clusters: push.adopt_from_clusters.clone(),
        deletion_policy: push.deletion_policy,
        deletion_grace_period: push.deletion_grace_period,
        suspend: push.suspend,
        sync_at: compare_at(sync, &vault.name, context),
        release: None,
    })
}

/// The annotations that ask for a comparison now, of the resource and of its KeyVault: a change of either changes this.
fn compare_at(sync: &KeyVaultSync, vault: &str, context: &Context) -> Option<String> {
    let key_vault = context.world.vaults.get(&ObjectRef::new(vault));
    let asked = [sync_at(sync).cloned(), key_vault.and_then(|vault| sync_at(vault.as_ref()).cloned())];
    let asked: Vec<String> = asked.into_iter().flatten().collect();
    (!asked.is_empty()).then(|| limits::cut(&asked.join(" "), limits::SYNC_AT_LENGTH_MAX))
}
