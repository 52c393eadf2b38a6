//! What the stores do without: thousands of objects are kept, and of a Secret nothing that its owner would not show.
//! What is done with the rest is left to `world`.

use keyvault_sync_api::constants::{CLIENT_ID_ANNOTATION, TENANT_ID_ANNOTATION};
use kube::Resource;

use super::{AccountMeta, NamespaceMeta, SecretMeta};

/// Annotation in which `kubectl apply` keeps the whole object, private key included.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

pub(super) fn trim<K: Resource>(object: &mut K) {
    object.meta_mut().managed_fields = None;
}

pub(super) fn trim_namespace(namespace: &mut NamespaceMeta) {
    trim(namespace);
    namespace.metadata.annotations = None;
}

pub(super) fn trim_account(account: &mut AccountMeta) {
    trim(account);
    account.metadata.labels = None;
    account.metadata.owner_references = None;
    if let Some(annotations) = &mut account.metadata.annotations {
        annotations.retain(|key, _| key == CLIENT_ID_ANNOTATION || key == TENANT_ID_ANNOTATION);
    }
}

pub(super) fn trim_secret(secret: &mut SecretMeta) {
    trim(secret);
    secret.types = None;
    secret.metadata.owner_references = None;
    if let Some(annotations) = &mut secret.metadata.annotations {
        annotations.remove(LAST_APPLIED);
    }
}
