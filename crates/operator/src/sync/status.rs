//! What became of a wish → the status of its resource: rows, Ready, Reconciling, Stalled; at most once a second.
//! The words of each certificate come from its claim.

use std::collections::BTreeSet;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use keyvault_sync_api::conditions::{self, Holds, READY, RECONCILING, STALLED, Statement};
use keyvault_sync_api::constants::SYNC_FIELD_MANAGER;
use keyvault_sync_api::{
    CertificateState, CertificateStatus, KeyVaultCertificate, KeyVaultSync, KeyVaultSyncStatus, limits,
};
use keyvault_sync_core::reason::{Fault, Problem, Reason};
use kube::ResourceExt;
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::controller::Action;
use serde_json::json;

use super::apply::Applied;
use super::observe::own_claim;
use super::resolve::Wish;
use crate::certificate::status as claim_status;
use crate::context::{Context, reference};
use crate::disposition::{self, Ready};
use crate::kubernetes::call;
use crate::report::{self, Occurrence, Subject, Weight};

/// A status is written at most so often.
const AT_MOST_EVERY: Duration = Duration::from_secs(1);
/// When a race or a status that could not be written is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// How often a resource is planned without being woken: a missed wake costs no more.
const LOOK_AGAIN: Duration = Duration::from_secs(3_600);
/// How many certificates the message of Ready names.
const NAMED_MAX: usize = 3;

/// One certificate of a resource, as it stands.
#[derive(Clone, Debug)]
struct Standing {
    row: CertificateStatus,
    reason: Reason,
    ready: Holds,
    /// Whether its present wish has an outcome.
    is_settled: bool,
    /// Whether its words come from here and not from a claim.
    is_ours_to_tell: bool,
    pushed_at: Option<Time>,
}

/// Brings the status up to date and says when to look again.
pub(crate) async fn report(context: &Context, sync: &KeyVaultSync, wish: &Wish, applied: &Applied) -> Action {
    let uid = sync.uid().unwrap_or_default();
    let standings: Vec<_> = wish
        .rows
        .iter()
        .zip(&applied.rows)
        .map(|(row, outcome)| {
            let name = row.name.as_ref().map(|(name, _)| name.to_string());
            match outcome {
                Err(problem) => {
                    let is_told = tells_itself(problem.reason) && has_claim(sync, &row.secret, context);
                    refused(&row.secret, name, problem, is_told)
                }
                Ok(claim) => match own_claim(claim, &uid, context) {
                    Some(there) => {
                        let standing = of_claim(&row.secret, name, &there);
                        let is_settled = standing.is_settled && !applied.raced.contains(claim);
                        Standing { is_settled, ..standing }
                    }
                    None => unsettled(&row.secret, name),
                },
            }
        })
        .collect();
    // A wish that is refused as a whole and lists nothing has no row to say so.
    let whole = wish.whole.as_ref().err().filter(|_| wish.rows.is_empty());
    let whole = whole.map(|problem| refused("", None, problem, false));
    let before = sync.status.clone().unwrap_or_default();
    let after = compose(&before, sync.metadata.generation, wish, &standings, whole.as_ref());
    let again = if applied.is_raced { RETRY } else { LOOK_AGAIN };
    // A problem with the API server has no watch that tells when it is over.
    let again = standings
        .iter()
        .filter(|standing| standing.is_ours_to_tell)
        .filter_map(|standing| disposition::of(standing.reason, 3, 0, None, crate::certificate::dice()).retry)
        .fold(again, Duration::min);
    if is_same(&before, &after) {
        return Action::requeue(again);
    }
    if let Some(wait) =
        context.world.planned.written(&uid).and_then(|at| AT_MOST_EVERY.checked_sub(at.elapsed()))
    {
        return Action::requeue(wait);
    }
    if !write(context, sync, &after).await {
        return Action::requeue(RETRY);
    }
    context.world.planned.wrote(&uid);
    tell(context, sync, wish, &before, standings.iter().chain(&whole)).await;
    Action::requeue(again)
}

/// Reasons that a claim finds by itself, from its KeyVault; where there is a claim, it tells them.
fn tells_itself(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::VaultNotFound | Reason::NotGranted | Reason::AuthenticationFailed | Reason::Unsupported
    )
}

fn has_claim(sync: &KeyVaultSync, secret: &str, context: &Context) -> bool {
    let claims = context.world.claims_of(&sync.namespace().unwrap_or_default(), &sync.name_any());
    claims.iter().any(|claim| {
        Some(&claim.spec.owner.uid) == sync.metadata.uid.as_ref()
            && claim.spec.sources.first().is_some_and(|source| source.secret_name == secret)
    })
}

fn refused(secret: &str, name: Option<String>, problem: &Problem, is_told: bool) -> Standing {
    let disposition = disposition::of(problem.reason, 1, 0, None, 0);
    Standing {
        row: row(secret, name, problem.reason, &problem.message),
        reason: problem.reason,
        ready: match disposition.ready {
            Ready::Yes => Holds::True,
            Ready::No => Holds::False,
            Ready::AsBefore | Ready::Unknown => Holds::Unknown,
        },
        is_settled: problem.reason.fault() != Some(Fault::Transient),
        is_ours_to_tell: !is_told,
        pushed_at: None,
    }
}

fn unsettled(secret: &str, name: Option<String>) -> Standing {
    Standing {
        row: row(secret, name, Reason::Reconciling, "its claim has just been made"),
        reason: Reason::Reconciling,
        ready: Holds::Unknown,
        is_settled: false,
        is_ours_to_tell: false,
        pushed_at: None,
    }
}

fn of_claim(secret: &str, name: Option<String>, claim: &KeyVaultCertificate) -> Standing {
    let Some(status) = &claim.status else { return unsettled(secret, name) };
    let ready = conditions::find(&status.conditions, READY);
    let is_settled = status.observed_generation == claim.metadata.generation && ready.is_some();
    let reason = claim_status::reason(claim).unwrap_or(Reason::Reconciling);
    let message = ready.map_or("", |ready| ready.message.as_str());
    Standing {
        row: CertificateStatus {
            secret_id: status.secret_id.clone(),
            version: status.version.clone(),
            thumbprint: status.thumbprint.clone(),
            not_after: status.not_after.clone(),
            ..row(secret, name, reason, message)
        },
        reason,
        ready: match ready.map(|ready| ready.status.as_str()) {
            Some("True") => Holds::True,
            Some("False") => Holds::False,
            _ => Holds::Unknown,
        },
        is_settled,
        is_ours_to_tell: false,
        pushed_at: status.pushed_at.clone(),
    }
}

fn row(secret: &str, name: Option<String>, reason: Reason, message: &str) -> CertificateStatus {
    CertificateStatus {
        secret_name: secret.to_owned(),
        namespace: None,
        certificate_name: name,
        secret_id: None,
        version: None,
        thumbprint: None,
        not_after: None,
        state: match reason.fault() {
            None if reason == Reason::Suspended => CertificateState::Pending,
            None => CertificateState::Synced,
            Some(_) if disposition::is_waiting(reason) => CertificateState::Pending,
            Some(_) => CertificateState::Failed,
        },
        reason: reason.as_str().to_owned(),
        message: Some(limits::cut(message, limits::ROW_MESSAGE_LENGTH_MAX)),
    }
}

/// How bad it is: the worst speaks for all.
fn severity(standing: &Standing) -> u8 {
    match standing.reason.fault() {
        Some(Fault::Bug) => 5,
        Some(Fault::Blocked) => 4,
        Some(Fault::Invalid) if !disposition::is_waiting(standing.reason) => 3,
        Some(Fault::Invalid | Fault::Transient) => 2,
        None if standing.reason != Reason::Synced => 1,
        None => 0,
    }
}

/// Of several, the lowest speaks for all.
fn rank(holds: Holds) -> u8 {
    match holds {
        Holds::False => 0,
        Holds::Unknown => 1,
        Holds::True => 2,
    }
}

fn compose(
    before: &KeyVaultSyncStatus,
    generation: Option<i64>,
    wish: &Wish,
    standings: &[Standing],
    whole: Option<&Standing>,
) -> KeyVaultSyncStatus {
    let is_settled = standings.iter().all(|standing| standing.is_settled);
    let mut rows: Vec<&Standing> = standings.iter().collect();
    rows.sort_by_key(|standing| (std::cmp::Reverse(severity(standing)), rank(standing.ready)));
    let synced = standings.iter().filter(|standing| standing.row.state == CertificateState::Synced).count();
    let mut status = KeyVaultSyncStatus {
        observed_generation: if is_settled { generation } else { before.observed_generation },
        conditions: before.conditions.clone(),
        synced: Some(format!("{synced}/{}", standings.len())),
        next_expiry: earliest(standings.iter().filter_map(|standing| standing.row.not_after.as_ref())),
        last_push_time: latest(
            standings.iter().filter_map(|standing| standing.pushed_at.as_ref()),
            before.last_push_time.as_ref(),
        ),
        certificates: rows
            .iter()
            .take(limits::STATUS_CERTIFICATES_MAX as usize)
            .map(|standing| standing.row.clone())
            .collect(),
    };
    rows.splice(0..0, whole);
    conclude(&mut status.conditions, status.observed_generation, wish, &rows, is_settled);
    status
}

/// Ready, Reconciling and Stalled. While a new wish has no outcome, Ready stands as it was.
fn conclude(
    conditions: &mut Vec<Condition>,
    generation: Option<i64>,
    wish: &Wish,
    rows: &[&Standing],
    is_settled: bool,
) {
    let now = Timestamp::now();
    let worst = rows.first();
    let reason = worst.map_or(Reason::Synced, |worst| worst.reason);
    let message = message(wish, rows);
    let mut state = |type_, holds, reason: Reason, message: &str| {
        let statement =
            Statement { type_, holds, reason: reason.as_str(), message, observed_generation: generation };
        conditions::set(conditions, &statement, now);
    };
    if is_settled {
        let holds = rows.iter().map(|standing| standing.ready).min_by_key(|holds| rank(*holds));
        state(READY, holds.unwrap_or(Holds::True), reason, &message);
    } else if generation.is_none() {
        state(READY, Holds::Unknown, reason, &message);
    }
    let is_stalled = is_settled && disposition::of(reason, 1, 0, None, 0).is_stalled;
    let is_reconciling =
        !is_settled || (!is_stalled && rows.iter().any(|standing| disposition::is_waiting(standing.reason)));
    if is_stalled {
        state(STALLED, Holds::True, reason, &message);
    }
    if is_reconciling {
        state(RECONCILING, Holds::True, if is_settled { reason } else { Reason::Reconciling }, &message);
    }
    if !is_stalled {
        conditions::remove(conditions, STALLED);
    }
    if !is_reconciling {
        conditions::remove(conditions, RECONCILING);
    }
}

/// The first three that are not as they should be, or that all is well.
fn message(wish: &Wish, rows: &[&Standing]) -> String {
    let wrong: Vec<_> = rows.iter().filter(|standing| standing.reason != Reason::Synced).collect();
    if wrong.is_empty() {
        let place = wish.vault.as_ref().map_or("the vault", |vault| vault.host.as_str());
        let noun = if rows.len() == 1 { "certificate" } else { "certificates" };
        let verb = if rows.len() == 1 { "is" } else { "are" };
        return format!("{} {noun} in {place} {verb} up to date", rows.len());
    }
    let mut parts: Vec<String> = wrong
        .iter()
        .take(NAMED_MAX)
        .map(|standing| {
            let row = &standing.row;
            let name = row.certificate_name.as_deref().unwrap_or(&row.secret_name);
            let said = format!("{}: {}", row.reason, row.message.as_deref().unwrap_or_default());
            if name.is_empty() { said } else { format!("{name}: {said}") }
        })
        .collect();
    if wrong.len() > NAMED_MAX {
        parts.push(format!("and {} more", wrong.len() - NAMED_MAX));
    }
    parts.join("; ")
}

fn earliest<'a>(times: impl Iterator<Item = &'a Time>) -> Option<Time> {
    times.min_by_key(|time| time.0).cloned()
}

fn latest<'a>(times: impl Iterator<Item = &'a Time>, before: Option<&'a Time>) -> Option<Time> {
    times.chain(before).max_by_key(|time| time.0).cloned()
}

fn is_same(before: &KeyVaultSyncStatus, after: &KeyVaultSyncStatus) -> bool {
    let without = |status: &KeyVaultSyncStatus| KeyVaultSyncStatus { conditions: vec![], ..status.clone() };
    without(before) == without(after) && conditions::equal(&before.conditions, &after.conditions)
}

async fn write(context: &Context, sync: &KeyVaultSync, status: &KeyVaultSyncStatus) -> bool {
    let api: Api<KeyVaultSync> =
        Api::namespaced(context.client.clone(), &sync.namespace().unwrap_or_default());
    // The uid keeps a status from being written to a successor of the same name.
    let patch = json!({
        "apiVersion": format!("{}/{}", keyvault_sync_api::constants::GROUP, keyvault_sync_api::constants::VERSION),
        "kind": "KeyVaultSync",
        "metadata": {"uid": sync.uid()},
        "status": status,
    });
    let params = PatchParams::apply(SYNC_FIELD_MANAGER).force();
    match call("status of a KeyVaultSync", api.patch_status(&sync.name_any(), &params, &Patch::Apply(&patch)))
        .await
    {
        Ok(_) => true,
        // Deleted, or deleted and made anew: whoever is there now is planned of its own.
        Err(error) if error.is_race() => true,
        Err(error) => {
            tracing::warn!(
                kind = "KeyVaultSync",
                namespace = sync.namespace(),
                name = sync.name_any(),
                error = %crate::watch::describe(&error),
                "status not written"
            );
            false
        }
    }
}

/// Tells what has no claim to tell it, where it is news.
async fn tell<'a>(
    context: &Context,
    sync: &KeyVaultSync,
    wish: &Wish,
    before: &KeyVaultSyncStatus,
    standings: impl Iterator<Item = &'a Standing>,
) {
    let (namespace, name) = (sync.namespace().unwrap_or_default(), sync.name_any());
    let vault = wish.vault.as_ref().map_or("", |vault| vault.host.as_str());
    // What is wrong with the whole resource stands on each of its rows, and is told once.
    let mut told = BTreeSet::new();
    for standing in standings.filter(|standing| standing.is_ours_to_tell) {
        let row = &standing.row;
        let text = row.message.as_deref().unwrap_or_default();
        let is_known_row = |old: &CertificateStatus| {
            old.secret_name == row.secret_name && old.reason == row.reason && old.message == row.message
        };
        let is_known_whole = |ready: &Condition| row.secret_name.is_empty() && ready.message.contains(text);
        let is_news = !before.certificates.iter().any(is_known_row)
            && !conditions::find(&before.conditions, READY).is_some_and(is_known_whole)
            && told.insert((standing.reason, text));
        let certificate = row.certificate_name.as_deref().unwrap_or_default();
        let subject = Subject {
            controller: "sync",
            kind: "KeyVaultSync",
            namespace: &namespace,
            name: &name,
            certificate,
            vault,
        };
        report::outcome(context, subject, standing.reason, text, is_news);
        if is_news && disposition::of(standing.reason, 1, 0, None, 0).warns {
            let occurrence = Occurrence {
                regarding: reference("KeyVaultSync", Some(&namespace), &name, sync.uid().as_deref()),
                related: None,
                weight: Weight::Warning,
                reason: &row.reason,
                action: "Plan",
                note: text,
            };
            report::event(context, occurrence).await;
        }
    }
}
