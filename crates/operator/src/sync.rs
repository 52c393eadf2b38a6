//! The sync controller: one KeyVaultSync or ClusterKeyVaultSync → its claims. Observe, resolve, plan, apply, report; no vault
//! involved. What becomes of a claim in the vault is left to the certificate controller; the plan, to `keyvault_sync_core::claims`.

pub(crate) mod absence;
pub(crate) mod apply;
pub(crate) mod mandate;
pub(crate) mod observe;
pub(crate) mod orphan;
pub(crate) mod resolve;
mod share;
pub(crate) mod status;
pub(crate) mod succession;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;

use keyvault_sync_api::{ClusterKeyVaultSync, KeyVaultCertificateSpec, KeyVaultSync};
use keyvault_sync_core::claims::{self, ClaimPlan, Held};
use keyvault_sync_core::names::ClaimName;
use kube::runtime::controller::Action;
use tokio::time::Instant;

use crate::context::{Context, View};
use crate::wisher::Wisher;
use resolve::Wish;

/// Plans one resource of a namespace.
pub(crate) async fn reconcile(sync: Arc<KeyVaultSync>, context: Arc<Context>) -> Result<Action, Infallible> {
    Ok(round(&Wisher::Namespaced(sync), &context).await)
}

/// Plans one resource over namespaces.
pub(crate) async fn reconcile_cluster(
    sync: Arc<ClusterKeyVaultSync>,
    context: Arc<Context>,
) -> Result<Action, Infallible> {
    Ok(round(&Wisher::Cluster(sync), &context).await)
}

async fn round(wisher: &Wisher, context: &Context) -> Action {
    let planned = &context.world.planned;
    if wisher.is_going() {
        // Nothing waits for its plan.
        planned.note(wisher.uid());
        return Action::await_change();
    }
    if context.stop.is_cancelled() {
        return Action::await_change();
    }
    if let Some(rest) = planned.rest(wisher.uid()) {
        return Action::requeue(rest);
    }
    let begun = Instant::now();
    if !context.world.selects(wisher) {
        // Another installation's to carry out. What it wants is known all the same: a name that is given up here may be its.
        let wish = resolve::wish(wisher, context);
        context.world.note_wants(&wisher.key(), wish.wanted_names());
        planned.note(wisher.uid());
        planned.took(wisher.uid(), begun.elapsed());
        context.world.taken.leave(wisher.uid());
        return Action::await_change();
    }
    let Deliberation { wish, held, plan } = deliberate(wisher, context);
    let again_at = plan.again_at;
    let planning = begun.elapsed();
    // Known before it is carried out: what this wish wants is not given up by others meanwhile.
    context.world.note_wants(&wisher.key(), wish.wanted_names());
    planned.note(wisher.uid());
    let applied = apply::acts(wisher, &held, plan, context).await;
    let begun = Instant::now();
    let report = status::Report::new(context, wisher, &wish, &applied, again_at);
    planned.took(wisher.uid(), planning + begun.elapsed());
    report.end(context, wisher, &wish).await
}

/// What a resource wishes for, the claims that concern it, and what is to be done about them.
pub(crate) struct Deliberation {
    /// The wish.
    pub wish: Wish,
    /// The claims there are.
    pub held: BTreeMap<ClaimName, Held<KeyVaultCertificateSpec>>,
    /// The claims that are to be.
    pub plan: ClaimPlan<KeyVaultCertificateSpec>,
}

/// Resolves, observes and plans.
pub(crate) fn deliberate(wisher: &Wisher, view: &View) -> Deliberation {
    let wish = resolve::wish(wisher, view);
    let held = observe::held(wisher, &wish, view);
    let plan = claims::plan(&wish.owner, &wish.rows, &held, &wish.terms(wisher), |spec| {
        resolve::settled(wisher, &wish.owner, spec)
    });
    Deliberation { wish, held, plan }
}
