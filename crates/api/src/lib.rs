//! The custom resources of keyvault-sync: what users and the operator write into Kubernetes, and the rules of it.
//! Only types and their schema; reading and writing them is left to the operator.

// `KubeSchema` derives the schema of a copy of each struct inside a function, with the `pub` of the original.
#![allow(unreachable_pub)]
// Two printer columns may have one type.
#![allow(clippy::duplicated_attributes)]
// The doc comments of fields are what `kubectl explain` prints: plain text, not markdown.
#![allow(rustdoc::bare_urls, rustdoc::invalid_html_tags)]

pub mod admission;
pub mod certificate_entry;
pub mod cluster_key_vault_sync;
pub mod conditions;
pub mod constants;
pub mod duration;
pub mod identity;
pub mod key_vault;
pub mod key_vault_certificate;
pub mod key_vault_sync;
pub mod limits;
pub mod push_settings;
pub mod rbac;
mod schema;
pub mod selector;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;

use crate::constants::VERSION_ANNOTATION;

pub use certificate_entry::{CertificateEntry, SecretKeys};
pub use cluster_key_vault_sync::{ClusterKeyVaultSync, ClusterKeyVaultSyncSpec};
pub use duration::Duration;
pub use identity::{
    ClientCertificate, Identity, ManagedIdentity, ServiceAccountIdentity, ServicePrincipal, WorkloadIdentity,
};
pub use key_vault::{Grant, KeyVault, KeyVaultSpec, KeyVaultStatus, NamespaceMatch};
pub use key_vault_certificate::{
    Act, ClaimOwner, ClaimSource, InFlight, KeyVaultCertificate, KeyVaultCertificateSpec,
    KeyVaultCertificateStatus, OwnerKind, Release, ReleaseWhy, SeenSource,
};
pub use key_vault_sync::{
    CertificateState, CertificateStatus, KeyVaultSync, KeyVaultSyncSpec, KeyVaultSyncStatus,
};
pub use push_settings::{ConflictPolicy, DeletionPolicy, PushSettings, VaultRef};
pub use selector::{
    AnnotationMatch, LabelOperator, LabelRequirement, LabelSelector, NamespaceSelector, SecretSelector,
};

/// Every kind's definition, in the order in which a reader meets them: the wishes, the vault, the claim.
///
/// These are the definitions to install. They say of which version they are, so that an older program does not replace them; other than those of [`CustomResourceExt::crd`], their descriptions are not
/// broken where a line of the source ends, so that `kubectl explain` can wrap them.
pub fn crds() -> Vec<CustomResourceDefinition> {
    let mut crds =
        vec![KeyVaultSync::crd(), ClusterKeyVaultSync::crd(), KeyVault::crd(), KeyVaultCertificate::crd()];
    for crd in &mut crds {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        crd.metadata.annotations.get_or_insert_default().insert(VERSION_ANNOTATION.to_owned(), version);
    }
    for version in crds.iter_mut().flat_map(|crd| &mut crd.spec.versions) {
        if let Some(schema) = version.schema.as_mut().and_then(|schema| schema.open_api_v3_schema.as_mut()) {
            schema::join_description_lines(schema);
        }
    }
    crds
}

#[cfg(test)]
mod tests;
