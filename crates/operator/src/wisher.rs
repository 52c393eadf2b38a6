//! The two kinds of resource that wish for certificates, as one: what the sync controller needs of either.
//! What the wish comes to is left to `sync::resolve`.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use keyvault_sync_api::constants::SYNC_AT_ANNOTATION;
use keyvault_sync_api::{
    CertificateEntry, ClusterKeyVaultSync, KeyVaultCertificate, KeyVaultSync, KeyVaultSyncStatus,
    PushSettings,
};
use keyvault_sync_core::claims::ClaimOwner;
use keyvault_sync_core::ownership::OwnerKind;
use keyvault_sync_core::selection::{NamespaceSelection, SecretSelection};

use crate::selectors;

/// A resource that wishes for certificates.
#[derive(Clone, Debug)]
pub(crate) enum Wisher {
    /// For Secrets of its own namespace.
    Namespaced(Arc<KeyVaultSync>),
    /// For Secrets of many namespaces.
    Cluster(Arc<ClusterKeyVaultSync>),
}

/// Which one: there is one of a kind, namespace and name at a time.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct WisherKey {
    /// Its kind.
    pub kind: OwnerKind,
    /// Its namespace; empty for a kind that has none.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl WisherKey {
    /// The holder of a claim.
    pub(crate) fn of(claim: &KeyVaultCertificate) -> Self {
        Self {
            kind: crate::owner::kind(claim.spec.owner.kind),
            namespace: crate::owner::namespace(claim).to_owned(),
            name: claim.spec.owner.name.clone(),
        }
    }
}

impl Wisher {
    fn meta(&self) -> &ObjectMeta {
        match self {
            Wisher::Namespaced(sync) => &sync.metadata,
            Wisher::Cluster(sync) => &sync.metadata,
        }
    }

    /// Its kind.
    pub(crate) fn kind(&self) -> OwnerKind {
        match self {
            Wisher::Namespaced(_) => OwnerKind::KeyVaultSync,
            Wisher::Cluster(_) => OwnerKind::ClusterKeyVaultSync,
        }
    }

    /// Its namespace; empty for a kind that has none.
    pub(crate) fn namespace(&self) -> &str {
        self.meta().namespace.as_deref().unwrap_or_default()
    }

    /// Its name.
    pub(crate) fn name(&self) -> &str {
        self.meta().name.as_deref().unwrap_or_default()
    }

    /// Its uid.
    pub(crate) fn uid(&self) -> &str {
        self.meta().uid.as_deref().unwrap_or_default()
    }

    /// Which one it is.
    pub(crate) fn key(&self) -> WisherKey {
        WisherKey { kind: self.kind(), namespace: self.namespace().to_owned(), name: self.name().to_owned() }
    }

    /// As the holder of claims.
    pub(crate) fn owner(&self) -> ClaimOwner {
        ClaimOwner {
            kind: self.kind(),
            namespace: self.namespace().to_owned(),
            name: self.name().to_owned(),
            uid: self.uid().to_owned(),
        }
    }

    /// Its labels, by which an installation may select it.
    pub(crate) fn labels(&self) -> Option<&BTreeMap<String, String>> {
        self.meta().labels.as_ref()
    }

    /// The edition of its specification.
    pub(crate) fn generation(&self) -> Option<i64> {
        self.meta().generation
    }

    /// When it was made.
    pub(crate) fn created(&self) -> Option<&Time> {
        self.meta().creation_timestamp.as_ref()
    }

    /// Held back by somebody's finalizer: it wishes for nothing any more.
    pub(crate) fn is_going(&self) -> bool {
        self.meta().deletion_timestamp.is_some()
    }

    /// The value of the annotation that asks for a comparison now.
    pub(crate) fn sync_at(&self) -> Option<&String> {
        self.meta().annotations.as_ref()?.get(SYNC_AT_ANNOTATION)
    }

    /// How its certificates are pushed.
    pub(crate) fn push(&self) -> &PushSettings {
        match self {
            Wisher::Namespaced(sync) => &sync.spec.push,
            Wisher::Cluster(sync) => &sync.spec.push,
        }
    }

    /// What makes the names of its certificates.
    pub(crate) fn template(&self) -> &str {
        match self {
            Wisher::Namespaced(sync) => &sync.spec.certificate_name_template,
            Wisher::Cluster(sync) => &sync.spec.certificate_name_template,
        }
    }

    /// The Secrets it lists.
    pub(crate) fn entries(&self) -> &[CertificateEntry] {
        match self {
            Wisher::Namespaced(sync) => &sync.spec.certificates,
            Wisher::Cluster(_) => &[],
        }
    }

    /// The Secrets it selects, if it selects any.
    pub(crate) fn selection(&self) -> Option<SecretSelection> {
        match self {
            Wisher::Namespaced(sync) => sync.spec.selector.as_ref().map(selectors::secrets),
            Wisher::Cluster(sync) => Some(selectors::secrets(&sync.spec.selector)),
        }
    }

    /// The namespaces whose Secrets it selects; one of a namespace only its own, whatever this says.
    pub(crate) fn namespace_selection(&self) -> NamespaceSelection {
        match self {
            Wisher::Namespaced(_) => NamespaceSelection::default(),
            Wisher::Cluster(sync) => {
                sync.spec.namespace_selector.as_ref().map(selectors::namespaces).unwrap_or_default()
            }
        }
    }

    /// What was said of it last.
    pub(crate) fn status(&self) -> KeyVaultSyncStatus {
        match self {
            Wisher::Namespaced(sync) => sync.status.clone(),
            Wisher::Cluster(sync) => sync.status.clone(),
        }
        .unwrap_or_default()
    }

    /// Whether a change of this Secret's presence, labels or annotations can change its rows.
    pub(crate) fn is_touched_by(&self, namespace: &str, secret: &str, is_tls: bool) -> bool {
        match self {
            Wisher::Namespaced(sync) => {
                self.namespace() == namespace
                    && ((is_tls && sync.spec.selector.is_some())
                        || sync.spec.certificates.iter().any(|entry| entry.secret_name == secret))
            }
            Wisher::Cluster(_) => is_tls,
        }
    }
}
