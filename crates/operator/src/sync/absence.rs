//! Is it really gone? Only the API server itself can say so, and only by name: before anything is given up that may be deleted.
//! What follows is left to the callers.

use std::fmt::Debug;

use k8s_openapi::api::core::v1::{Namespace, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use keyvault_sync_api::KeyVaultCertificate;
use keyvault_sync_core::claims::{Confirm, HeldSource, SecretName};
use kube::api::Api;
use serde::de::DeserializeOwned;

use crate::certificate::observe;
use crate::context::Context;
use crate::kubernetes::{CallError, call};

/// Whether a release may go ahead. What is there, or cannot be told, keeps it back.
pub(crate) async fn confirms(confirm: Confirm, sources: &[HeldSource], context: &Context) -> bool {
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
pub(crate) async fn are_secrets_gone(claim: &KeyVaultCertificate, context: &Context) -> bool {
    for source in observe::sources(claim) {
        let secret = SecretName { namespace: source.namespace, name: source.name };
        if !is_secret_gone(&secret, context).await {
            return false;
        }
    }
    true
}

async fn is_secret_gone(secret: &SecretName, context: &Context) -> bool {
    let api: Api<Secret> = Api::namespaced(context.client.clone(), &secret.namespace);
    is_gone(api, "the metadata of a Secret", &secret.name, "Secret", |_| false).await
}

async fn is_namespace_going(name: &str, context: &Context) -> bool {
    let is_going = |metadata: &ObjectMeta| metadata.deletion_timestamp.is_some();
    is_gone(namespaces(context), NAMESPACE, name, "Namespace", is_going).await
}

/// Whether a namespace is gone, and everything in it: asked by who may not ask for anything in it any more.
pub(crate) async fn is_namespace_gone(name: &str, context: &Context) -> bool {
    is_gone(namespaces(context), NAMESPACE, name, "Namespace", |_| false).await
}

/// What is asked for of a namespace.
const NAMESPACE: &str = "the metadata of a namespace";

fn namespaces(context: &Context) -> Api<Namespace> {
    Api::all(context.client.clone())
}

/// Whether an object is gone by the API server's own word; one that is there is judged by its metadata.
async fn is_gone<K>(
    api: Api<K>,
    what: &'static str,
    name: &str,
    kind: &'static str,
    if_there: impl FnOnce(&ObjectMeta) -> bool,
) -> bool
where
    K: Clone + DeserializeOwned + Debug,
{
    match call(what, api.get_metadata(name)).await {
        Ok(found) => if_there(&found.metadata),
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
