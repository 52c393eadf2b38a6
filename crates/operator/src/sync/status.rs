//! What became of a wish → the status of its resource: rows, Ready, Reconciling, Stalled; at most once a second.
//! The words of each certificate come from its claim.

use std::collections::{BTreeSet, HashSet};
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use keyvault_sync_api::conditions::{self, Holds, READY, RECONCILING, STALLED, Statement};
use keyvault_sync_api::constants::SYNC_FIELD_MANAGER;
use keyvault_sync_api::{
    CertificateState, CertificateStatus, ClusterKeyVaultSync, KeyVaultCertificate, KeyVaultSync,
    KeyVaultSyncStatus, limits,
};
use keyvault_sync_core::claims::{self, Copy, SecretName, SeenCopy};
use keyvault_sync_core::names::ClaimName;
use keyvault_sync_core::ownership::OwnerKind;
use keyvault_sync_core::reason::{Fault, Problem, Reason};
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::controller::Action;
use serde_json::json;

use super::apply::Applied;
use super::observe::own_claim;
use super::resolve::{self, Wish};
use crate::certificate::{dice, now, status as claim_status};
use crate::context::{Context, reference};
use crate::disposition::{self, Ready};
use crate::kubernetes::call;
use crate::report::{self, Occurrence, Subject, Weight};
use crate::wisher::Wisher;

/// A status is written at most so often.
const AT_MOST_EVERY: Duration = Duration::from_secs(1);
/// When a race or a status that could not be written is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// How often a resource is planned without being woken: a missed wake costs no more.
const LOOK_AGAIN: Duration = Duration::from_secs(3_600);
/// When the API server is asked again to confirm that something is gone.
const CONFIRM_RETRY: Duration = Duration::from_secs(30);
/// The rows of a status together: etcd takes 1.5 MiB an object, and managed fields may weigh as much again.
const ROWS_BYTES_MAX: usize = 80_000;
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

/// What is to be said of a wish, and when to look again.
pub(crate) struct Report {
    before: KeyVaultSyncStatus,
    after: KeyVaultSyncStatus,
    standings: Vec<Standing>,
    again: Duration,
}

impl Report {
    /// Looks at what became of a wish.
    pub(crate) fn new(
        context: &Context,
        wisher: &Wisher,
        wish: &Wish,
        applied: &Applied,
        again_at: Option<i64>,
    ) -> Self {
        let (mut standings, copies_until) = standings(context, wisher, wish, applied);
        let before = wisher.status();
        // What is wrong with a wish that has no rows has no row to stand on.
        let whole = wish.whole.as_ref().err().filter(|_| standings.is_empty());
        let nothing = SecretName { namespace: String::new(), name: String::new() };
        let whole = whole.map(|problem| refused(Row::of(wisher, &nothing, None), problem, false));
        let after = compose(&before, wisher, wish, &standings, whole.as_ref());
        let again = again(applied, &standings, again_at.into_iter().chain(copies_until).min());
        standings.extend(whole);
        Self { before, after, standings, again }
    }

    /// Brings the status up to date and says when to look again.
    pub(crate) async fn end(self, context: &Context, wisher: &Wisher, wish: &Wish) -> Action {
        if is_same(&self.before, &self.after) {
            return Action::requeue(self.again);
        }
        let planned = &context.world.planned;
        if let Some(wait) =
            planned.written(wisher.uid()).and_then(|at| AT_MOST_EVERY.checked_sub(at.elapsed()))
        {
            return Action::requeue(wait);
        }
        // A round that was suspended must not tell what was so before another led.
        if !context.lease.leads() || !write(context, wisher, &self.after).await {
            return Action::requeue(RETRY);
        }
        planned.wrote(wisher.uid());
        self.tell(context, wisher, wish).await;
        Action::requeue(self.again)
    }
}

/// When to plan again without being woken.
fn again(applied: &Applied, standings: &[Standing], at: Option<i64>) -> Duration {
    let raced = applied.is_raced.then_some(RETRY);
    let unconfirmed = applied.is_unconfirmed.then_some(CONFIRM_RETRY);
    let due = at.map(|at| Duration::from_secs(u64::try_from(at - now()).unwrap_or(0)).max(RETRY));
    // A problem with the API server has no watch that tells when it is over.
    let retries = standings
        .iter()
        .filter(|standing| standing.is_ours_to_tell)
        .filter_map(|standing| disposition::of(standing.reason, 3, 0, None, dice()).retry);
    raced.into_iter().chain(unconfirmed).chain(due).chain(retries).fold(LOOK_AGAIN, Duration::min)
}

/// How each certificate stands, and when (unix seconds) that changes by itself.
fn standings(
    context: &Context,
    wisher: &Wisher,
    wish: &Wish,
    applied: &Applied,
) -> (Vec<Standing>, Option<i64>) {
    let pushed = Pushed::new(wisher, context);
    let mut until = None;
    let mut standings = Vec::with_capacity(wish.rows.len());
    for (row, outcome) in wish.rows.iter().zip(&applied.rows) {
        let name = row.name.as_ref().map(|(name, _)| name.to_string());
        let about = Row::of(wisher, &row.source.secret, name);
        standings.push(match outcome {
            Err(problem) => {
                let is_told = tells_itself(problem.reason) && pushed.has(&row.source.secret);
                refused(about, problem, is_told)
            }
            Ok(claim) => {
                let (standing, waits) = of_row(about, claim, wisher, context, applied);
                until = until.into_iter().chain(waits).min();
                standing
            }
        });
    }
    for (secret, claim) in &applied.lingering {
        if let Some(there) = own_claim(claim, wisher.uid(), context) {
            let about = Row::of(wisher, secret, Some(there.spec.certificate_name.clone()));
            standings.push(of_claim(about, &there));
        }
    }
    (standings, until)
}

fn of_row(
    about: Row<'_>,
    name: &ClaimName,
    wisher: &Wisher,
    context: &Context,
    applied: &Applied,
) -> (Standing, Option<i64>) {
    let Some(claim) = own_claim(name, wisher.uid(), context) else { return (unsettled(about), None) };
    let standing = of_claim(about.clone(), &claim);
    let standing = Standing { is_settled: standing.is_settled && !applied.raced.contains(name), ..standing };
    let is_pushed = matches!(standing.reason, Reason::Synced | Reason::IncompleteChain);
    match as_copy(about.secret, &claim, is_pushed, context) {
        Copy::AsClaim => (standing, None),
        Copy::Awaited { problem, until } => {
            let waiting =
                Standing { is_settled: false, is_ours_to_tell: false, ..refused(about, &problem, true) };
            (waiting, until)
        }
        Copy::Collides(problem) => {
            (Standing { is_settled: standing.is_settled, ..refused(about, &problem, false) }, None)
        }
    }
}

/// Of Secrets that share a claim, the first stands as the claim does; the others, as they compare with it.
fn as_copy(secret: &SecretName, claim: &KeyVaultCertificate, is_pushed: bool, context: &Context) -> Copy {
    let Some(first) = claim.spec.sources.first() else { return Copy::AsClaim };
    let first = resolve::source(first).secret;
    if first == *secret {
        return Copy::AsClaim;
    }
    let seen = claim_status::kept(claim)
        .iter()
        .flat_map(|status| &status.sources)
        .find(|seen| seen.namespace == secret.namespace && seen.name == secret.name)
        .map(|seen| SeenCopy {
            equal: seen.equal,
            differs_since: seen.differs_since.as_ref().map(|since| since.0.as_second()),
        })
        .unwrap_or_default();
    let patience = i64::try_from(context.settings.copies_patience.as_secs()).unwrap_or(i64::MAX);
    claims::copy(secret, &first, &claim.spec.certificate_name, seen, is_pushed, patience, now())
}

/// Reasons that a claim finds by itself, from its KeyVault; where there is a claim, it tells them.
fn tells_itself(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::VaultNotFound
            | Reason::NotGranted
            | Reason::AuthenticationFailed
            | Reason::PerNamespaceIdentity
    )
}

/// The Secrets that the claims of a resource push.
struct Pushed(HashSet<SecretName>);

impl Pushed {
    fn new(wisher: &Wisher, context: &Context) -> Self {
        let claims = context.world.claims_of(&wisher.key());
        let own = claims.iter().filter(|claim| claim.spec.owner.uid == wisher.uid());
        Self(
            own.filter_map(|claim| claim.spec.sources.first())
                .map(|first| resolve::source(first).secret)
                .collect(),
        )
    }

    fn has(&self, secret: &SecretName) -> bool {
        self.0.contains(secret)
    }
}

/// What a row is about.
#[derive(Clone)]
struct Row<'a> {
    secret: &'a SecretName,
    /// Whether its namespace is said.
    is_over_namespaces: bool,
    name: Option<String>,
}

impl<'a> Row<'a> {
    fn of(wisher: &Wisher, secret: &'a SecretName, name: Option<String>) -> Self {
        Self { secret, is_over_namespaces: wisher.kind() == OwnerKind::ClusterKeyVaultSync, name }
    }

    fn says(self, reason: Reason, message: &str) -> CertificateStatus {
        CertificateStatus {
            secret_name: self.secret.name.clone(),
            namespace: (self.is_over_namespaces && !self.secret.namespace.is_empty())
                .then(|| self.secret.namespace.clone()),
            certificate_name: self.name,
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
}

fn refused(about: Row<'_>, problem: &Problem, is_told: bool) -> Standing {
    let disposition = disposition::of(problem.reason, 1, 0, None, 0);
    Standing {
        row: about.says(problem.reason, &problem.message),
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

fn unsettled(about: Row<'_>) -> Standing {
    Standing {
        row: about.says(Reason::Reconciling, "its claim has just been made"),
        reason: Reason::Reconciling,
        ready: Holds::Unknown,
        is_settled: false,
        is_ours_to_tell: false,
        pushed_at: None,
    }
}

fn of_claim(about: Row<'_>, claim: &KeyVaultCertificate) -> Standing {
    let Some(status) = claim_status::kept(claim) else { return unsettled(about) };
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
            ..about.says(reason, message)
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
    wisher: &Wisher,
    wish: &Wish,
    standings: &[Standing],
    whole: Option<&Standing>,
) -> KeyVaultSyncStatus {
    let is_settled = standings.iter().all(|standing| standing.is_settled);
    let mut rows: Vec<&Standing> = standings.iter().collect();
    rows.sort_by_key(|standing| (std::cmp::Reverse(severity(standing)), rank(standing.ready)));
    let synced = standings.iter().filter(|standing| standing.row.state == CertificateState::Synced).count();
    let mut status = KeyVaultSyncStatus {
        observed_generation: if is_settled { wisher.generation() } else { before.observed_generation },
        conditions: before.conditions.clone(),
        synced: Some(format!("{synced}/{}", standings.len())),
        next_expiry: earliest(standings.iter().filter_map(|standing| standing.row.not_after.as_ref())),
        last_push_time: latest(
            standings.iter().filter_map(|standing| standing.pushed_at.as_ref()),
            // Not one that is still to come: nobody of ours wrote that.
            before.last_push_time.as_ref().filter(|time| time.0 <= Timestamp::now()),
        ),
        certificates: shown(&rows),
    };
    rows.splice(0..0, whole);
    conclude(&mut status.conditions, status.observed_generation, wish, &rows, is_settled);
    status
}

/// The first rows, as many as a status can bear.
fn shown(rows: &[&Standing]) -> Vec<CertificateStatus> {
    let mut weight = 0;
    rows.iter()
        .take(limits::STATUS_CERTIFICATES_MAX as usize)
        .map(|standing| &standing.row)
        .take_while(|row| {
            weight += serde_json::to_vec(row).map_or(0, |bytes| bytes.len());
            weight <= ROWS_BYTES_MAX
        })
        .cloned()
        .collect()
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
            let name = match &row.namespace {
                Some(namespace) => format!("{namespace}/{}", row.secret_name),
                None => row.certificate_name.clone().unwrap_or_else(|| row.secret_name.clone()),
            };
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

async fn write(context: &Context, wisher: &Wisher, status: &KeyVaultSyncStatus) -> bool {
    let kind = wisher.kind().as_str();
    // The uid keeps a status from being written to a successor of the same name.
    let patch = json!({
        "apiVersion": format!("{}/{}", keyvault_sync_api::constants::GROUP, keyvault_sync_api::constants::VERSION),
        "kind": kind,
        "metadata": {"uid": wisher.uid()},
        "status": status,
    });
    let (name, patch) = (wisher.name(), Patch::Apply(&patch));
    let params = PatchParams::apply(SYNC_FIELD_MANAGER).force();
    let client = context.client.clone();
    const WHAT: &str = "status of a wish";
    let written = match wisher {
        Wisher::Namespaced(_) => {
            let api: Api<KeyVaultSync> = Api::namespaced(client, wisher.namespace());
            call(WHAT, api.patch_status(name, &params, &patch)).await.map(drop)
        }
        Wisher::Cluster(_) => {
            let api: Api<ClusterKeyVaultSync> = Api::all(client);
            call(WHAT, api.patch_status(name, &params, &patch)).await.map(drop)
        }
    };
    match written {
        Ok(()) => true,
        // Deleted, or deleted and made anew: whoever is there now is planned of its own.
        Err(error) if error.is_race() => true,
        Err(error) => {
            let (namespace, error) = (wisher.namespace(), crate::watch::describe(&error));
            tracing::warn!(kind, namespace, name, %error, "status not written");
            false
        }
    }
}

impl Report {
    /// Tells what has no claim to tell it, where it is news. Of many rows those in the status are told: what was told
    /// before can be seen there alone, and a person reads no thousand Events.
    async fn tell(&self, context: &Context, wisher: &Wisher, wish: &Wish) {
        let (kind, namespace, name) = (wisher.kind().as_str(), wisher.namespace(), wisher.name());
        let vault = wish.vault.as_ref().map_or("", |vault| vault.host.as_str());
        let place = Some(namespace).filter(|namespace| !namespace.is_empty());
        let shown: HashSet<_> = self.after.certificates.iter().map(place_of).collect();
        // What is wrong with the whole resource stands on each of its rows, and is told once.
        let mut told = BTreeSet::new();
        for standing in self.standings.iter().filter(|standing| standing.is_ours_to_tell) {
            let row = &standing.row;
            let text = row.message.as_deref().unwrap_or_default();
            let is_whole = row.secret_name.is_empty();
            let is_news = (is_whole || shown.contains(&place_of(row)))
                && !self.is_known(standing)
                && told.insert((standing.reason, text));
            let certificate = row.certificate_name.as_deref().unwrap_or_default();
            let subject = Subject { controller: "sync", kind, namespace, name, certificate, vault };
            report::outcome(context, subject, standing.reason, text, is_news);
            if is_news && disposition::of(standing.reason, 1, 0, None, 0).warns {
                let occurrence = Occurrence {
                    regarding: reference(kind, place, name, Some(wisher.uid())),
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

    /// Whether the status said so before.
    fn is_known(&self, standing: &Standing) -> bool {
        let row = &standing.row;
        let text = row.message.as_deref().unwrap_or_default();
        let is_same_row = |old: &CertificateStatus| {
            place_of(old) == place_of(row) && old.reason == row.reason && old.message == row.message
        };
        let is_same_whole = |ready: &Condition| row.secret_name.is_empty() && ready.message.contains(text);
        self.before.certificates.iter().any(is_same_row)
            || conditions::find(&self.before.conditions, READY).is_some_and(is_same_whole)
    }
}

/// Which Secret a row is about.
fn place_of(row: &CertificateStatus) -> (Option<&str>, &str) {
    (row.namespace.as_deref(), &row.secret_name)
}
