//! A claim, its KeyVault and its Secret's metadata, as the watches show them → what the decision rests on.
//! Reading the Secret's data and the vault is left to the round, which asks for them when the decision does.

use keyvault_sync_api::{Act as ApiAct, KeyVaultCertificate, KeyVaultCertificateStatus};
use keyvault_sync_core::grants::{self, Namespace};
use keyvault_sync_core::names::CertificateName;
use keyvault_sync_core::ownership::Owner;
use keyvault_sync_core::push::{
    Act, Desired, InFlight, Look, Memory, Observed, Record, SourceVersion, comparison_tick,
};
use keyvault_sync_core::reason::{Problem, Reason};
use kube::ResourceExt;
use kube::runtime::reflector::ObjectRef;

use crate::certificate::{now, status};
use crate::context::Context;
use crate::keyvault::{self, Vault};

/// The way to the claim's place in a vault; there is one only for a claim whose KeyVault and grant allow it.
#[derive(Clone, Debug)]
pub(crate) struct Route {
    /// The vault.
    pub vault: Vault,
    /// The certificate's name there.
    pub name: CertificateName,
}

/// Looks for the way.
///
/// # Errors
/// `VaultNotFound`, `NotGranted`, `InvalidName`, or what is wrong with the KeyVault.
pub(crate) fn route(claim: &KeyVaultCertificate, context: &Context) -> Result<Route, Problem> {
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
    check_grant(&vault, crate::owner::namespace(claim), &name, context)?;
    Ok(Route { vault, name })
}

/// The KeyVault of this name, checked.
///
/// # Errors
/// `VaultNotFound`, or what is wrong with it.
pub(crate) fn vault(name: &str, context: &Context) -> Result<Vault, Problem> {
    let Some(key_vault) = context.world.vaults.get(&ObjectRef::new(name)) else {
        return Err(Problem::new(
            Reason::VaultNotFound,
            format!(
                "there is no KeyVault {name}: create it, or correct spec.vaultRef.name (kubectl get keyvaults)"
            ),
        ));
    };
    keyvault::resolve(&key_vault, &context.settings)
}

/// Whether a namespace may push a name to a vault.
///
/// # Errors
/// `NotGranted`.
pub(crate) fn check_grant(
    vault: &Vault,
    namespace: &str,
    name: &CertificateName,
    context: &Context,
) -> Result<(), Problem> {
    let meta = context.world.namespaces.get(&ObjectRef::new(namespace));
    let labels = meta.as_ref().map(|meta| meta.labels());
    grants::check_push(
        &vault.grants,
        &vault.name,
        Namespace { name: namespace, labels, is_gone: false },
        name,
    )
}

/// What the cluster shows. A claim of a KeyVaultSync pushes a Secret of that resource's own namespace, whatever its
/// source says.
pub(crate) fn from_cluster(
    claim: &KeyVaultCertificate,
    route: &Result<Route, Problem>,
    context: &Context,
) -> Observed {
    let now = now();
    let namespace = crate::owner::namespace(claim);
    let secret = claim.spec.sources.first().map_or("", |source| source.secret_name.as_str());
    let source = context.world.secret(namespace, secret).and_then(|meta| {
        Some(SourceVersion { uid: meta.uid()?, resource_version: meta.resource_version()? })
    });
    let mut memory = memory(claim);
    if let Some(in_flight) = memory.in_flight.as_mut().filter(|in_flight| in_flight.since > now) {
        // The clock was set back since. The wait begins when that was first seen, and ends.
        in_flight.since =
            context.world.rounds.first_sight(&claim.uid().unwrap_or_default(), in_flight.since, now);
    }
    let is_other_wish =
        claim.status.as_ref().and_then(|status| status.observed_generation) != claim.metadata.generation;
    let is_due = route.as_ref().is_ok_and(|route| {
        let tick = comparison_tick(&route.vault.host, route.vault.resync_secs, now);
        context.world.rounds.is_comparison_due(&claim.uid().unwrap_or_default(), tick)
    });
    if source != memory.source {
        context.world.rounds.changed(&claim.uid().unwrap_or_default());
    }
    Observed {
        desired: desired(claim, context),
        access: route.as_ref().map(|_| ()).map_err(Clone::clone),
        memory,
        source,
        content: Look::NotYet,
        newest: Look::NotYet,
        recorded: Look::NotYet,
        compare: is_other_wish || is_due,
        now,
    }
}

fn desired(claim: &KeyVaultCertificate, context: &Context) -> Desired {
    let owner = Owner {
        cluster: context.cluster.clone(),
        kind: crate::owner::kind(claim.spec.owner.kind),
        namespace: crate::owner::namespace(claim).to_owned(),
        name: claim.spec.owner.name.clone(),
    };
    let secret = claim.spec.sources.first().map_or("", |source| source.secret_name.as_str());
    Desired {
        source: format!("{}/{secret}", owner.namespace),
        owner,
        keys: claim
            .spec
            .sources
            .first()
            .map(|source| [source.keys.certificate.clone(), source.keys.private_key.clone()])
            .unwrap_or_default(),
        tags: claim.spec.tags.clone(),
        exportable: claim.spec.exportable,
        suspend: claim.spec.suspend,
    }
}

/// What the claim remembers, in the words of the decision. What cannot be read is not remembered: the vault is looked
/// at instead.
fn memory(claim: &KeyVaultCertificate) -> Memory {
    let Some(status) = &claim.status else { return Memory::default() };
    Memory {
        in_flight: status.in_flight.as_ref().and_then(|in_flight| {
            Some(InFlight {
                act: match in_flight.act {
                    ApiAct::Import => Act::Import,
                    ApiAct::Retag => Act::Retag,
                    ApiAct::Adopt | ApiAct::Recover | ApiAct::Delete => return None,
                },
                fingerprint: in_flight.fingerprint.as_ref()?.parse().ok()?,
                since: in_flight.since.0.as_second(),
            })
        }),
        source: status.sources.first().and_then(|source| {
            Some(SourceVersion {
                uid: source.uid.clone()?,
                resource_version: source.resource_version.clone()?,
            })
        }),
        record: record(status),
        desired: status.desired.clone(),
        foreign_write: status.foreign_write.clone(),
        reason: status::reason(claim),
    }
}

fn record(status: &KeyVaultCertificateStatus) -> Option<Record> {
    Some(Record {
        version: status.version.clone()?,
        thumbprint: status::parse_thumbprint(status.thumbprint.as_ref()?)?,
        fingerprint: status.fingerprint.as_ref()?.parse().ok()?,
        not_after: status.not_after.as_ref()?.0.as_second(),
    })
}
