//! A claim, its KeyVault and its Secret's metadata, as the watches show them → what the decision rests on.
//! Reading the Secret's data and the vault is left to the round, which asks for them when the decision does.

use keyvault_sync_api::{
    Act as ApiAct, ConflictPolicy, KeyVaultCertificate, KeyVaultCertificateStatus, OwnerKind, SecretKeys,
    SeenSource,
};
use keyvault_sync_core::grants::{self, Namespace};
use keyvault_sync_core::names::CertificateName;
use keyvault_sync_core::ownership::Owner;
use keyvault_sync_core::push::{Act, Desired, InFlight, Look, Memory, Observed, Record, SourceVersion};
use keyvault_sync_core::reason::{Problem, Reason};
use keyvault_sync_core::title::Adoption;
use keyvault_sync_vault::Identity;
use kube::ResourceExt;
use kube::runtime::reflector::ObjectRef;

use crate::certificate::{now, status};
use crate::context::View;
use crate::keyvault::{self, Vault};
use crate::owner;

/// The way to the claim's place in a vault; there is one only for a claim whose KeyVault and grant allow it.
#[derive(Clone, Debug)]
pub(crate) struct Route {
    /// The vault.
    pub vault: Vault,
    /// As whom it is opened.
    pub identity: Identity,
    /// The certificate's name there.
    pub name: CertificateName,
}

/// A Secret that a claim pushes from. Made here alone: a claim of a KeyVaultSync pushes from that resource's own namespace,
/// whatever its source says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Source {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Where certificate and key are in it.
    pub keys: SecretKeys,
}

impl Source {
    /// What was seen of it last.
    pub(crate) fn seen<'a>(&self, status: &'a KeyVaultCertificateStatus) -> Option<&'a SeenSource> {
        status.sources.iter().find(|seen| seen.namespace == self.namespace && seen.name == self.name)
    }
}

/// The Secrets of a claim; the first is pushed, the others are its copies.
pub(crate) fn sources(claim: &KeyVaultCertificate) -> Vec<Source> {
    let of_owner = match claim.spec.owner.kind {
        OwnerKind::KeyVaultSync => Some(owner::namespace(claim)),
        OwnerKind::ClusterKeyVaultSync => None,
    };
    let source = |source: &keyvault_sync_api::ClaimSource| Source {
        namespace: of_owner.unwrap_or(&source.namespace).to_owned(),
        name: source.secret_name.clone(),
        keys: source.keys.clone(),
    };
    claim.spec.sources.iter().map(source).collect()
}

/// The namespace whose Secret is pushed: the grants of this one count.
pub(crate) fn source_namespace(claim: &KeyVaultCertificate) -> String {
    sources(claim).into_iter().next().map(|source| source.namespace).unwrap_or_default()
}

/// Looks for the way.
///
/// # Errors
/// `VaultNotFound`, `NotGranted`, `InvalidName`, or what is wrong with the KeyVault.
pub(crate) fn route(claim: &KeyVaultCertificate, context: &View) -> Result<Route, Problem> {
    let route = way(claim, context)?;
    check_grant(&route.vault, &source_namespace(claim), &route.name, context)?;
    Ok(route)
}

/// The way as it is, whether or not a grant allows it.
///
/// # Errors
/// `VaultNotFound`, `InvalidName`, or what is wrong with the KeyVault.
pub(crate) fn way(claim: &KeyVaultCertificate, context: &View) -> Result<Route, Problem> {
    let name = CertificateName::parse(&claim.spec.certificate_name)?;
    let vault = vault(&claim.spec.key_vault, context)?;
    if vault.host.as_str() != claim.spec.vault_host {
        return Err(Problem::new(
            Reason::VaultNotFound,
            format!(
                "KeyVault {} is {} by now, this certificate is in {}: no call is made; make a KeyVault for {} and \
                 refer to it to go on there",
                vault.name, vault.host, claim.spec.vault_host, claim.spec.vault_host
            ),
        ));
    }
    let identity = match claim.spec.owner.kind {
        OwnerKind::ClusterKeyVaultSync => vault.for_cluster()?,
        OwnerKind::KeyVaultSync => vault.opener.of(&source_namespace(claim), context)?,
    };
    Ok(Route { vault, identity, name })
}

/// The KeyVault of this name, checked.
///
/// # Errors
/// `VaultNotFound`, or what is wrong with it.
pub(crate) fn vault(name: &str, context: &View) -> Result<Vault, Problem> {
    let Some(key_vault) = context.world.vaults.get(&ObjectRef::new(name)) else {
        return Err(Problem::new(
            Reason::VaultNotFound,
            format!(
                "there is no KeyVault {name}: create it, or correct spec.vaultRef.name (kubectl get keyvaults)"
            ),
        ));
    };
    keyvault::resolve(&key_vault, context)
}

/// Whether a namespace may push a name to a vault.
///
/// # Errors
/// `NotGranted`.
pub(crate) fn check_grant(
    vault: &Vault,
    namespace: &str,
    name: &CertificateName,
    context: &View,
) -> Result<(), Problem> {
    with_namespace(namespace, context, |namespace| {
        grants::check_push(&vault.grants, &vault.name, namespace, name)
    })
}

/// Asks something of a namespace as the watches show it. Grants are not asked before the watches have filled the stores: a
/// namespace that is not there is gone.
pub(crate) fn with_namespace<T>(name: &str, context: &View, ask: impl FnOnce(Namespace<'_>) -> T) -> T {
    let meta = context.world.namespaces.get(&ObjectRef::new(name));
    let labels = meta.as_ref().map(|meta| meta.labels());
    ask(Namespace { name, labels, is_gone: meta.is_none() })
}

/// What the cluster shows.
pub(crate) fn from_cluster(
    claim: &KeyVaultCertificate,
    route: &Result<Route, Problem>,
    context: &View,
) -> Observed {
    let now = now();
    let uid = claim.uid().unwrap_or_default();
    let source = sources(claim).first().and_then(|source| edition(source, context));
    let mut memory = memory(claim);
    if let Some(in_flight) = memory.in_flight.as_mut().filter(|in_flight| in_flight.since > now) {
        // The clock was set back since. The wait begins when that was first seen, and ends.
        in_flight.since = context.world.rounds.first_sight(&uid, in_flight.since, now);
    }
    let is_other_wish = status::of(claim).observed_generation != claim.metadata.generation;
    if source != memory.source {
        context.world.rounds.changed(&uid);
    }
    Observed {
        desired: desired(claim, route, context),
        access: route.as_ref().map(|_| ()).map_err(Clone::clone),
        memory,
        source,
        content: Look::NotYet,
        newest: Look::NotYet,
        recorded: Look::NotYet,
        deleted: Look::NotYet,
        owner: Look::NotYet,
        compare: is_other_wish || context.world.rounds.is_comparison_due(&uid),
        now,
    }
}

/// Which edition of a Secret the watches show.
pub(crate) fn edition(source: &Source, context: &View) -> Option<SourceVersion> {
    let meta = context.world.secret(&source.namespace, &source.name)?;
    Some(SourceVersion { uid: meta.uid()?, resource_version: meta.resource_version()? })
}

/// What the claim's owner asks for.
pub(crate) fn desired(
    claim: &KeyVaultCertificate,
    route: &Result<Route, Problem>,
    context: &View,
) -> Desired {
    let owner = Owner {
        cluster: context.cluster.clone(),
        kind: owner::kind(claim.spec.owner.kind),
        namespace: owner::namespace(claim).to_owned(),
        name: claim.spec.owner.name.clone(),
    };
    let source = sources(claim).into_iter().next();
    let keys =
        source.as_ref().map(|source| [&source.keys.certificate, &source.keys.private_key].map(Clone::clone));
    Desired {
        owner,
        source: source.map(|source| format!("{}/{}", source.namespace, source.name)).unwrap_or_default(),
        keys: keys.unwrap_or_default(),
        tags: claim.spec.tags.clone(),
        exportable: claim.spec.exportable,
        adoption: adoption(claim, route, context),
        suspend: claim.spec.suspend,
    }
}

fn adoption(claim: &KeyVaultCertificate, route: &Result<Route, Problem>, context: &View) -> Adoption {
    let is_asked = claim.spec.conflict_policy == ConflictPolicy::Adopt;
    if !is_asked && claim.spec.adopt_from_clusters.is_empty() {
        return Adoption::default();
    }
    let grant = route.clone().and_then(|route| {
        with_namespace(&source_namespace(claim), context, |namespace| {
            grants::check_adopt(&route.vault.grants, &route.vault.name, namespace, &route.name)
        })
    });
    Adoption { is_asked, from_clusters: claim.spec.adopt_from_clusters.clone(), grant }
}

/// What the claim remembers, in the words of the decision. What cannot be read is not remembered: the vault is looked
/// at instead.
pub(crate) fn memory(claim: &KeyVaultCertificate) -> Memory {
    let status = status::of(claim);
    let first = sources(claim).into_iter().next();
    Memory {
        in_flight: status.in_flight.as_ref().map(|in_flight| InFlight {
            act: match in_flight.act {
                ApiAct::Import => Act::Import,
                ApiAct::Adopt => Act::Adopt,
                ApiAct::Retag => Act::Retag,
                ApiAct::Recover => Act::Recover,
                ApiAct::Delete => Act::Delete,
            },
            fingerprint: in_flight.fingerprint.as_ref().and_then(|text| text.parse().ok()),
            since: in_flight.since.0.as_second(),
        }),
        source: first.and_then(|first| first.seen(&status).and_then(seen_edition)),
        record: record(&status),
        adopted_with: status.adopted_with.as_ref().and_then(|text| text.parse().ok()),
        desired: status.desired.clone(),
        foreign_write: status.foreign_write.clone(),
        reason: status::reason_in(&status),
        failing_since: status.first_failed_at.as_ref().map(|since| since.0.as_second()),
    }
}

/// The edition of a Secret that was looked at last.
pub(crate) fn seen_edition(seen: &SeenSource) -> Option<SourceVersion> {
    Some(SourceVersion { uid: seen.uid.clone()?, resource_version: seen.resource_version.clone()? })
}

fn record(status: &KeyVaultCertificateStatus) -> Option<Record> {
    Some(Record {
        version: status.version.clone()?,
        thumbprint: status::parse_thumbprint(status.thumbprint.as_ref()?)?,
        fingerprint: status.fingerprint.as_ref()?.parse().ok()?,
        not_after: status.not_after.as_ref()?.0.as_second(),
    })
}
