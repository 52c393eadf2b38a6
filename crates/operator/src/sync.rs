//! The sync controller: one KeyVaultSync → its claims. Observe, resolve, plan, apply, report; no vault involved.
//! What becomes of a claim in the vault is left to the certificate controller; the plan, to `keyvault_sync_core::claims`.

pub(crate) mod apply;
pub(crate) mod observe;
pub(crate) mod orphan;
pub(crate) mod resolve;
pub(crate) mod status;
pub(crate) mod succession;

use std::convert::Infallible;
use std::sync::Arc;

use keyvault_sync_api::KeyVaultSync;
use keyvault_sync_core::claims;
use kube::ResourceExt;
use kube::runtime::controller::Action;

use crate::context::Context;

/// Plans one resource.
pub(crate) async fn reconcile(sync: Arc<KeyVaultSync>, context: Arc<Context>) -> Result<Action, Infallible> {
    if sync.metadata.deletion_timestamp.is_some() {
        // Held back by somebody's finalizer: it wishes for nothing any more, and nothing waits for its plan.
        context.world.planned.note(&sync.uid().unwrap_or_default());
        return Ok(Action::await_change());
    }
    if context.stop.is_cancelled() {
        return Ok(Action::await_change());
    }
    let wish = resolve::wish(&sync, &context);
    let held = observe::held(&sync, &wish, &context);
    let plan = claims::plan(&wish.owner, &wish.rows, &held, wish.may_release);
    let applied = apply::acts(&sync, &wish, &held, plan, &context).await;
    context.world.planned.note(&sync.uid().unwrap_or_default());
    Ok(status::report(&context, &sync, &wish, &applied).await)
}
