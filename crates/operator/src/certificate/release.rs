//! A claim that is given up, carried to its end: deleted in the vault or left there, as `core::release` decides, and the claim
//! removed last. Whether it is given up is left to the sync controller, which may take it back until then.

use std::sync::Arc;
use std::time::Duration;

use keyvault_sync_api::conditions::{self, Holds, READY, Statement};
use keyvault_sync_api::{Act, DeletionPolicy, KeyVaultCertificate, KeyVaultCertificateStatus, ReleaseWhy};
use keyvault_sync_core::grants::check_delete;
use keyvault_sync_core::names::ClaimName;
use keyvault_sync_core::push::{Look, Write};
use keyvault_sync_core::reason::{Problem, Reason};
use keyvault_sync_core::release::{self, ATTEMPTS_MIN, Ending, Failing, Next, Releasing};
use keyvault_sync_vault::{Landed, VaultError};
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, Preconditions};
use kube::runtime::controller::Action;
use kube::runtime::reflector::ObjectRef;
use tokio::time::Instant;

use super::apply::{announce, delete, may_begin, replace_status};
use super::observe::{self, Route};
use super::{RACE_RETRY, ask, dice, now, status, wait_until};
use crate::context::{Context, View, reference};
use crate::disposition::{self, Ready};
use crate::kubernetes::call;
use crate::pace::{Permit, Turn};
use crate::report::{self, Occurrence, Weight};
use crate::sync::apply::Failure;
use crate::sync::{absence, mandate, succession};
use crate::watch::describe;
use crate::wisher::WisherKey;

/// When a claim is looked at again that its owner's plan is waited for.
const PLAN_RETRY: Duration = Duration::from_secs(1);
/// When a claim that could not be removed is tried again.
const REMOVAL_RETRY: Duration = Duration::from_secs(5);
/// A release looks at the vault once.
const STEPS_MAX: usize = 3;

/// Works on one claim that is given up.
pub(super) async fn give_up(claim: Arc<KeyVaultCertificate>, context: &Context) -> Action {
    let way = observe::way(&claim, context);
    let mut seen = releasing(&claim, &way, context);
    let mut permit = None;
    for _ in 0..STEPS_MAX {
        match release::decide(&seen) {
            Next::Wait { until } => return wait_until(until, seen.now),
            Next::End(ending) => return end(&claim, context, &ending).await,
            Next::Refuse(problem) => return refused(&claim, context, &problem, None, true).await,
            Next::Delete => return remove_from_vault(claim, context, &way, &seen).await,
            Next::ReadNewest => {}
        }
        let Ok(route) = &way else { break };
        match take_turn(&claim, context, route).await {
            Ok(turn) => permit = Some(turn),
            Err(action) => return action,
        }
        match ask(context, route, "get", async |client| client.newest(&route.name).await).await {
            Ok(newest) => seen.newest = Look::Seen(newest),
            Err(error) => return failed(&claim, context, &seen, &error).await,
        }
    }
    drop(permit);
    let problem = Problem::new(
        Reason::InternalError,
        format!("no decision on the release of {}: please report this", claim.name_any()),
    );
    refused(&claim, context, &problem, None, true).await
}

/// Whether the claim is really to end, asked once more before the one thing that cannot be taken back.
///
/// # Errors
/// What is to be done instead.
async fn is_last_word(
    claim: &Arc<KeyVaultCertificate>,
    context: &Context,
    route: &Route,
) -> Result<(), Action> {
    let world = &context.world;
    if !world.is_every_wish_planned() {
        return Err(Action::requeue(PLAN_RETRY));
    }
    let name = ClaimName::new(&route.name, &route.vault.host);
    let holder = WisherKey::of(claim);
    let why = claim.spec.release.as_ref().map(|release| release.why);
    if why == Some(ReleaseWhy::SecretGone) {
        if !absence::are_secrets_gone(claim, context).await {
            world.wake.sync(holder);
            return Err(Action::requeue(PLAN_RETRY));
        }
    } else if world.wanting(name.as_str()).iter().any(|wisher| wisher.key() == holder) {
        // The owner, or a new one of its name, wants it (again) and is about to take it out of release.
        world.wake.sync(holder);
        return Err(Action::requeue(PLAN_RETRY));
    }
    if !mandate::lets_delete(claim, &name, context) {
        return Err(Action::requeue(PLAN_RETRY));
    }
    match succession::hand_over(&name, &claim.spec.owner.uid, context).await {
        Ok(false) => Ok(()),
        Ok(true) | Err(Failure::Race | Failure::Unconfirmed) => Err(Action::requeue(RACE_RETRY)),
        Err(Failure::Problem(problem)) => Err(refused(claim, context, &problem, None, true).await),
    }
}

pub(crate) fn releasing(
    claim: &KeyVaultCertificate,
    way: &Result<Route, Problem>,
    context: &View,
) -> Releasing {
    let memory = observe::memory(claim);
    let begun = begun(claim);
    let attempts = context.world.rounds.release_failures(&claim.uid().unwrap_or_default(), begun);
    Releasing {
        desired: observe::desired(claim, way, context),
        deletes: claim.spec.deletion_policy == DeletionPolicy::Delete,
        is_of_this_cluster: claim.spec.cluster_id == context.cluster.as_str(),
        is_restored: claim.status.is_some() && status::kept(claim).is_none(),
        since: begun,
        access: access(claim, way, context),
        failing: memory.failing_since.map(|since| Failing { since: since.max(begun), attempts }),
        memory,
        newest: Look::NotYet,
        effort_secs: i64::try_from(context.settings.deletion_effort.as_secs()).unwrap_or(i64::MAX),
        now: now(),
    }
}

/// Since when the claim is given up, unix seconds: what failed before was no attempt to end it.
fn begun(claim: &KeyVaultCertificate) -> i64 {
    claim.spec.release.as_ref().map_or(0, |release| release.since.0.as_second())
}

/// What is deleted needs a grant as what is pushed does; the labels of a namespace that is gone cannot be asked any more.
fn access(claim: &KeyVaultCertificate, way: &Result<Route, Problem>, context: &View) -> Result<(), Problem> {
    let route = way.as_ref().map_err(Clone::clone)?;
    observe::with_namespace(&observe::source_namespace(claim), context, |namespace| {
        check_delete(&route.vault.grants, &route.vault.name, namespace, &route.name)
    })
}

/// Takes a turn at the vault. An error: not now, or the claim is not what it was.
async fn take_turn(
    claim: &Arc<KeyVaultCertificate>,
    context: &Context,
    route: &Route,
) -> Result<Permit, Action> {
    let host = &route.vault.host;
    let permit = match context.pace.turn(host) {
        Turn::Now(permit) => return Ok(permit),
        Turn::Pause(until) => return Err(Action::requeue(until.duration_since(Instant::now()))),
        Turn::Queue => tokio::select! {
            permit = context.pace.permit(host) => permit,
            () = context.stop.cancelled() => None,
        },
    };
    let Some(permit) = permit else { return Err(Action::await_change()) };
    if let Some(pause) = context.pace.pause_of(host) {
        return Err(Action::requeue(pause));
    }
    if is_still(claim, context) { Ok(permit) } else { Err(Action::requeue(RACE_RETRY)) }
}

/// Whether the claim is still the edition that was looked at: it may have been taken back meanwhile.
fn is_still(claim: &Arc<KeyVaultCertificate>, context: &Context) -> bool {
    context.world.claim(&claim.name_any()).is_some_and(|shown| {
        context.world.written.newest(shown).resource_version() == claim.resource_version()
    })
}

async fn remove_from_vault(
    claim: Arc<KeyVaultCertificate>,
    context: &Context,
    way: &Result<Route, Problem>,
    seen: &Releasing,
) -> Action {
    let Ok(route) = way else { return Action::requeue(RACE_RETRY) };
    if let Err(instead) = is_last_word(&claim, context, route).await {
        return instead;
    }
    if context.stop.is_cancelled() {
        return Action::await_change();
    }
    if !may_begin(context) {
        return Action::requeue(PLAN_RETRY);
    }
    let announced = Instant::now();
    // With the resourceVersion that was looked at: a claim that was taken back meanwhile is not deleted.
    let claim = match announce(&claim, context, &Write::Delete).await {
        Ok(claim) => claim,
        Err(error) if error.is_race() => return Action::requeue(RACE_RETRY),
        Err(error) => return refused(&claim, context, &error.problem(), None, true).await,
    };
    if announced.elapsed() > super::apply::ANNOUNCE_TIME_LIMIT {
        return Action::requeue(RACE_RETRY);
    }
    match ask(context, route, "delete", async |client| delete(client, route.name.clone()).await).await {
        Ok(()) => end(&claim, context, &Ending::Gone).await,
        Err(error) => failed(&claim, context, seen, &error).await,
    }
}

/// The vault did not do it: once more later, or no more.
async fn failed(
    claim: &Arc<KeyVaultCertificate>,
    context: &Context,
    seen: &Releasing,
    error: &VaultError,
) -> Action {
    match release::failed(seen, &error.problem) {
        Next::End(ending) => end(claim, context, &ending).await,
        Next::Refuse(_) | Next::ReadNewest | Next::Wait { .. } | Next::Delete => {
            let is_unknown = error.landed == Landed::Unknown;
            refused(claim, context, &error.problem, error.retry_after, is_unknown).await
        }
    }
}

/// Writes down why the claim is still there, and says when it is tried again.
async fn refused(
    claim: &Arc<KeyVaultCertificate>,
    context: &Context,
    problem: &Problem,
    retry_after: Option<Duration>,
    keeps_in_flight: bool,
) -> Action {
    let uid = claim.uid().unwrap_or_default();
    let is_attempt = problem.reason != Reason::Throttled;
    let attempts = if is_attempt {
        context.world.rounds.release_failed(&uid, begun(claim))
    } else {
        context.world.rounds.release_failures(&uid, begun(claim))
    };
    let before = status::of(claim);
    let disposition = disposition::of(problem.reason, attempts.max(1), 0, retry_after, dice());
    let mut after = KeyVaultCertificateStatus { claim_uid: claim.uid(), ..before.clone() };
    after.observed_generation = claim.metadata.generation;
    if is_attempt && after.first_failed_at.is_none() {
        after.first_failed_at = Some(status::stamp());
    }
    // Of an import whose answer was lost, the announcement is all that says what is ours.
    let is_all_we_know = after.version.is_none()
        && after.in_flight.as_ref().is_some_and(|in_flight| in_flight.fingerprint.is_some());
    if !keeps_in_flight && !is_all_we_know {
        after.in_flight = None;
    }
    let holds = match disposition.ready {
        Ready::No => Holds::False,
        Ready::Yes | Ready::AsBefore | Ready::Unknown => Holds::Unknown,
    };
    let message = format!("given up, and to be deleted in the vault: {}", problem.message);
    let statement = Statement {
        type_: READY,
        holds,
        reason: problem.reason.as_str(),
        message: &message,
        observed_generation: claim.metadata.generation,
    };
    let is_news = conditions::find(&before.conditions, READY)
        .is_none_or(|old| old.reason != problem.reason.as_str() || old.message != message);
    conditions::set(&mut after.conditions, &statement, status::stamp().0);
    if Some(&after) != claim.status.as_ref()
        && let Err(error) = replace_status(claim, context, after).await
    {
        tracing::debug!(name = claim.name_any(), error = %describe(&error), "claim status not written");
        return Action::requeue(if error.is_race() { RACE_RETRY } else { REMOVAL_RETRY });
    }
    report::outcome(context, status::subject(claim), problem.reason, &message, is_news);
    if is_news && disposition.warns {
        say(claim, context, Weight::Warning, problem.reason.as_str(), &message).await;
    }
    // Often enough that the attempts which are owed fit into the time that is given to them.
    let pace = Duration::from_secs(context.settings.deletion_effort.as_secs()) / (ATTEMPTS_MIN + 1);
    Action::requeue(disposition.retry.unwrap_or(pace).min(pace.max(RACE_RETRY)))
}

/// Ends the claim, and tells of it where the vault was concerned.
async fn end(claim: &Arc<KeyVaultCertificate>, context: &Context, ending: &Ending) -> Action {
    let api: Api<KeyVaultCertificate> = Api::all(context.client.clone());
    let params = DeleteParams {
        preconditions: Some(Preconditions { uid: claim.uid(), resource_version: claim.resource_version() }),
        ..DeleteParams::default()
    };
    match call("removal of a claim", api.delete(&claim.name_any(), &params)).await {
        Ok(_) => {
            tell(claim, context, ending).await;
            Action::await_change()
        }
        Err(error) if error.is_race() => Action::requeue(RACE_RETRY),
        Err(error) => {
            tracing::warn!(kind = "KeyVaultCertificate", name = claim.name_any(), error = %describe(&error), "claim not removed");
            Action::requeue(REMOVAL_RETRY)
        }
    }
}

async fn tell(claim: &KeyVaultCertificate, context: &Context, ending: &Ending) {
    let (name, host) = (&claim.spec.certificate_name, &claim.spec.vault_host);
    let was_deleted_by_us = status::of(claim).in_flight.is_some_and(|in_flight| in_flight.act == Act::Delete);
    let (reason, text) = match ending {
        Ending::Retained => (Reason::Synced, format!("claim given up; {name} stays in {host}")),
        Ending::NothingPushed => {
            (Reason::Synced, format!("claim given up; nothing was pushed to {name} in {host}"))
        }
        Ending::Gone if was_deleted_by_us => {
            (Reason::Synced, format!("soft-deleted {name} in {host}, as deletionPolicy says"))
        }
        Ending::Gone => (Reason::Synced, format!("claim given up; {host} has no {name} any more")),
        Ending::Left(problem) => (problem.reason, format!("{name} in {host}: {}", problem.message)),
    };
    report::outcome(context, status::subject(claim), reason, &text, true);
    let (weight, word) = match ending {
        Ending::Left(_) => (Weight::Warning, Reason::LeftInVault.as_str()),
        Ending::Gone if was_deleted_by_us => (Weight::Normal, "Deleted"),
        Ending::Gone | Ending::Retained | Ending::NothingPushed => return,
    };
    say(claim, context, weight, word, &text).await;
}

/// An Event about the owner, or about the KeyVault where the owner is going or gone. Of what is left in a vault the platform team
/// has to know, and it watches its KeyVaults.
async fn say(claim: &KeyVaultCertificate, context: &Context, weight: Weight, word: &str, text: &str) {
    let related = Some(reference("KeyVaultCertificate", None, &claim.name_any(), claim.uid().as_deref()));
    let owner = (word != Reason::LeftInVault.as_str()).then(|| present_owner(claim, context)).flatten();
    let regarding = owner.unwrap_or_else(|| {
        let key_vault = context.world.vaults.get(&ObjectRef::new(&claim.spec.key_vault));
        let uid = key_vault.and_then(|key_vault| key_vault.uid());
        reference("KeyVault", None, &claim.spec.key_vault, uid.as_deref())
    });
    let occurrence = Occurrence { regarding, related, weight, reason: word, action: "Release", note: text };
    report::event(context, occurrence).await;
}

/// The owner, unless it or its namespace is gone or going: the API server takes no Events there.
fn present_owner(
    claim: &KeyVaultCertificate,
    context: &Context,
) -> Option<k8s_openapi::api::core::v1::ObjectReference> {
    let owner = crate::owner::of(claim);
    let wisher = context.world.wisher(&WisherKey::of(claim))?;
    let namespace = context.world.namespace(&owner.namespace);
    let is_namespace_going =
        namespace.is_some_and(|namespace| namespace.metadata.deletion_timestamp.is_some());
    (!wisher.is_going() && !is_namespace_going).then(|| {
        let namespace = claim.spec.owner.namespace.as_deref();
        reference(owner.kind.as_str(), namespace, &owner.name, Some(&owner.uid))
    })
}
