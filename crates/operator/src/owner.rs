//! Who holds a claim: from the API's words to core's and back. The namespace of a resource that has none is the empty text.
//! Whether the holder is still there is left to `sync::orphan`.

use keyvault_sync_api::{ClaimOwner as ApiOwner, KeyVaultCertificate, OwnerKind as ApiKind};
use keyvault_sync_core::claims::ClaimOwner;
use keyvault_sync_core::names::{CertificateName, ClaimName, Cloud, VaultHost};
use keyvault_sync_core::ownership::OwnerKind;

/// The kind, in core's word.
pub(crate) fn kind(kind: ApiKind) -> OwnerKind {
    match kind {
        ApiKind::KeyVaultSync => OwnerKind::KeyVaultSync,
        ApiKind::ClusterKeyVaultSync => OwnerKind::ClusterKeyVaultSync,
    }
}

/// The name of a claim, from what it says; `None`: it names no certificate or no vault of these clouds.
pub(crate) fn claim_name(claim: &KeyVaultCertificate, clouds: &[Cloud]) -> Option<ClaimName> {
    let certificate = CertificateName::parse(&claim.spec.certificate_name).ok()?;
    let host = VaultHost::from_host(&claim.spec.vault_host, clouds).ok()?;
    Some(ClaimName::new(&certificate, &host))
}

/// The holder of a claim.
pub(crate) fn of(claim: &KeyVaultCertificate) -> ClaimOwner {
    let owner = &claim.spec.owner;
    ClaimOwner {
        kind: kind(owner.kind),
        namespace: namespace(claim).to_owned(),
        name: owner.name.clone(),
        uid: owner.uid.clone(),
    }
}

/// The namespace of a claim's holder; empty for a `ClusterKeyVaultSync`.
pub(crate) fn namespace(claim: &KeyVaultCertificate) -> &str {
    claim.spec.owner.namespace.as_deref().unwrap_or_default()
}

/// A holder as a claim has it written.
pub(crate) fn written(owner: &ClaimOwner) -> ApiOwner {
    ApiOwner {
        kind: match owner.kind {
            OwnerKind::KeyVaultSync => ApiKind::KeyVaultSync,
            OwnerKind::ClusterKeyVaultSync => ApiKind::ClusterKeyVaultSync,
        },
        namespace: (!owner.namespace.is_empty()).then(|| owner.namespace.clone()),
        name: owner.name.clone(),
        uid: owner.uid.clone(),
    }
}
