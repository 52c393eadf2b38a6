//! Is it really gone? Only the API server itself can say so, and only by name: before anything is given up that may be deleted.
//! What follows is left to the callers.

use k8s_openapi::api::core::v1::{Namespace, Secret};
use keyvault_sync_core::claims::{Confirm, HeldSource, SecretName};
use kube::api::Api;

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

async fn is_secret_gone(secret: &SecretName, context: &Context) -> bool {
    let api: Api<Secret> = Api::namespaced(context.client.clone(), &secret.namespace);
    match call("the metadata of a Secret", api.get_metadata(&secret.name)).await {
        Ok(_) => false,
        Err(error) => is_missing(&error, &secret.name, "Secret"),
    }
}

async fn is_namespace_going(name: &str, context: &Context) -> bool {
    let api: Api<Namespace> = Api::all(context.client.clone());
    match call("the metadata of a namespace", api.get_metadata(name)).await {
        Ok(namespace) => namespace.metadata.deletion_timestamp.is_some(),
        Err(error) => is_missing(&error, name, "Namespace"),
    }
}

fn is_missing(error: &CallError, name: &str, kind: &'static str) -> bool {
    let is_missing = names_what_is_missing(error, name);
    if !is_missing {
        tracing::warn!(kind, name, error = %crate::watch::describe(error), "it cannot be told whether the object is gone: its claim stays");
    }
    is_missing
}

/// Gone is only what the API server says is not found by name. Where a kind or a path is unknown it answers 404 too.
pub(crate) fn names_what_is_missing(error: &CallError, name: &str) -> bool {
    error.status().is_some_and(|status| {
        status.code == 404 && status.details.as_ref().is_some_and(|details| details.name == name)
    })
}
