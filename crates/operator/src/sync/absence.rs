//! Is it really gone? Only the API server itself can say so, and only by name: before anything is given up that may be deleted.
//! What follows is left to the callers.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use keyvault_sync_api::KeyVaultCertificate;
use keyvault_sync_core::claims::{Confirm, HeldSource, SecretName};
use kube::Resource;

use crate::certificate::observe;
use crate::context::View;
use crate::kubernetes::CallError;
use crate::world::{NamespaceMeta, SecretMeta};

/// Whether a release may go ahead. What is there, or cannot be told, keeps it back.
pub(crate) async fn confirms(confirm: Confirm, sources: &[HeldSource], context: &View) -> bool {
    let with_namespaces = match confirm {
        Confirm::Nothing => return true,
        Confirm::Secrets => false,
        Confirm::Namespaces => true,
    };
    for held in sources {
        let secret = &held.source.secret;
        if !is_secret_gone(secret, context).await
            || (with_namespaces && !is_namespace_going(&secret.namespace, context).await)
        {
            return false;
        }
    }
    true
}

/// Whether the Secrets of a claim are gone, asked once more.
pub(crate) async fn are_secrets_gone(claim: &KeyVaultCertificate, context: &View) -> bool {
    for source in observe::sources(claim) {
        let secret = SecretName { namespace: source.namespace, name: source.name };
        if !is_secret_gone(&secret, context).await {
            return false;
        }
    }
    true
}

async fn is_secret_gone(secret: &SecretName, context: &View) -> bool {
    let read =
        context.reader.get_in::<SecretMeta>("the metadata of a Secret", &secret.namespace, &secret.name);
    is_gone(read.await, &secret.name, "Secret", |_| false)
}

async fn is_namespace_going(name: &str, context: &View) -> bool {
    let is_going = |metadata: &ObjectMeta| metadata.deletion_timestamp.is_some();
    is_gone(context.reader.get::<NamespaceMeta>(NAMESPACE, name).await, name, "Namespace", is_going)
}

/// Whether a namespace is gone, and everything in it: asked by who may not ask for anything in it any more.
pub(crate) async fn is_namespace_gone(name: &str, context: &View) -> bool {
    is_gone(context.reader.get::<NamespaceMeta>(NAMESPACE, name).await, name, "Namespace", |_| false)
}

/// What is asked for of a namespace.
const NAMESPACE: &str = "the metadata of a namespace";

/// Whether an object is gone by the API server's own word; one that is there is judged by its metadata.
fn is_gone<K: Resource>(
    answer: Result<K, CallError>,
    name: &str,
    kind: &'static str,
    if_there: impl FnOnce(&ObjectMeta) -> bool,
) -> bool {
    match answer {
        Ok(found) => if_there(found.meta()),
        Err(error) => is_missing(&error, name, kind),
    }
}

fn is_missing(error: &CallError, name: &str, kind: &'static str) -> bool {
    let is_missing = error.says_missing(name);
    if !is_missing {
        tracing::warn!(kind, name, error = %crate::watch::describe(error), "it cannot be told whether the object is gone: its claim stays");
    }
    is_missing
}
