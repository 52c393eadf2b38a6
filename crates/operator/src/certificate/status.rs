//! The outcome of a round → the claim's status, which is its memory; one Event where it is news; when to look again.
//! The owner's status is left to the sync controller.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use keyvault_sync_api::conditions::{self, Holds, READY, Statement, whole_seconds};
use keyvault_sync_api::{Act, KeyVaultCertificate, KeyVaultCertificateStatus, SeenSource};
use keyvault_sync_core::fingerprint::Fingerprint;
use keyvault_sync_core::names::VaultHost;
use keyvault_sync_core::push::{self, IN_FLIGHT_SECS, Look, Observed, Record, Why};
use keyvault_sync_core::reason::{Fault, Problem, Reason};
use keyvault_sync_vault::VaultError;
use kube::ResourceExt;
use kube::api::Api;
use kube::runtime::controller::Action;

use super::apply::replace_status;
use super::copies::Copies;
use super::observe;
use super::{RACE_RETRY, dice, now};
use crate::context::{Context, reference};
use crate::disposition::{self, Ready};
use crate::kubernetes::{CallError, call};
use crate::report::{self, Occurrence, Subject, Weight};

/// How often a claim is looked at without being woken: a missed wake costs no more. Without news it costs no call.
const LOOK_AGAIN: Duration = Duration::from_secs(3_600);
/// How often a receipt is carried over to a claim that was changed meanwhile.
const RECEIPT_TRIES: usize = 3;
/// When a status that could not be written is tried again.
const STATUS_RETRY: Duration = Duration::from_secs(2);
/// When a copy that could not be read is tried again.
const COPIES_RETRY: Duration = Duration::from_secs(5);

/// How a round ended.
pub(crate) enum Outcome {
    /// The vault holds what is wished.
    InSync {
        /// What it holds, if it was looked at.
        record: Option<Record>,
        /// What is wrong with the chain all the same.
        warning: Option<String>,
    },
    /// A write was carried out.
    Written(Box<Receipt>),
    /// The vault has begun to recover the name.
    Recovered {
        /// Ours was deleted in the vault; otherwise the name is taken over.
        is_ours: bool,
    },
    /// `suspend: true`.
    Suspended,
    /// Nothing was written, or it is not known whether it was.
    Problem {
        /// Why.
        problem: Problem,
        /// What the vault asked for.
        retry_after: Option<Duration>,
        /// An announced write may still have happened.
        keeps_in_flight: bool,
    },
    /// Nothing is known yet: the vault wants to be left alone for a while, or the operator ends.
    Later(Duration),
}

/// What a write left.
pub(crate) struct Receipt {
    /// What the vault holds now.
    pub record: Record,
    /// What was done.
    pub deed: Deed,
    /// Whether the version may be used.
    pub is_enabled: bool,
    /// Somebody's write under our name that was repaired.
    pub foreign_write: Option<String>,
    /// The Secret's content at the adoption of the version.
    pub adopted_with: Option<Fingerprint>,
    /// What is wrong with the chain all the same.
    pub warning: Option<String>,
}

/// What was done in the vault.
pub(crate) enum Deed {
    /// A version was made.
    Imported {
        /// Why.
        why: Why,
        /// Whose the name was.
        from: Option<String>,
    },
    /// Somebody's version was made ours.
    Adopted {
        /// Whose it was.
        from: String,
    },
    /// Tags were set.
    Retagged {
        /// Tags that went.
        dropped: Vec<String>,
        /// Tags that were set.
        set: Vec<String>,
    },
}

impl Outcome {
    /// What the vault holds of the Secret, where that is known: leaf and chain, or the leaf alone.
    pub(crate) fn pushed(&self, observed: &Observed) -> Option<Fingerprint> {
        let memory = &observed.memory;
        let (record, adopted_with) = match self {
            Outcome::InSync { record, .. } => {
                (record.as_ref().or(memory.record.as_ref())?, memory.adopted_with.as_ref())
            }
            Outcome::Written(receipt) => (&receipt.record, receipt.adopted_with.as_ref()),
            Outcome::Recovered { .. } | Outcome::Suspended | Outcome::Problem { .. } | Outcome::Later(_) => {
                return None;
            }
        };
        match &record.fingerprint {
            Fingerprint::LeafAndChain(_) => Some(record.fingerprint.clone()),
            Fingerprint::Leaf(_) => Some(adopted_with.unwrap_or(&record.fingerprint).clone()),
        }
    }

    /// A problem that says nothing about an announced write.
    pub(crate) fn problem(problem: Problem) -> Self {
        Outcome::Problem { problem, retry_after: None, keeps_in_flight: true }
    }

    /// The vault asked to be left alone, and is.
    pub(crate) fn paused(host: &VaultHost, pause: Duration) -> Self {
        let problem = Problem::new(
            Reason::Throttled,
            format!("{host} asked for fewer calls; it is called again when the pause it asked for is over"),
        );
        Outcome::Problem { problem, retry_after: Some(pause), keeps_in_flight: true }
    }

    /// A refusal: after the vault was read, an announced write is known to have happened or not.
    pub(crate) fn refused(problem: Problem, observed: &Observed) -> Self {
        Outcome::Problem { problem, retry_after: None, keeps_in_flight: observed.newest == Look::NotYet }
    }

    /// A call that did not succeed.
    pub(crate) fn vault(error: &VaultError, keeps_in_flight: bool) -> Self {
        Outcome::Problem { problem: error.problem.clone(), retry_after: error.retry_after, keeps_in_flight }
    }
}

/// A claim's status as its memory; `None`: it has none, because it is new or was restored from a backup under a new uid.
pub(crate) fn kept(claim: &KeyVaultCertificate) -> Option<&KeyVaultCertificateStatus> {
    claim.status.as_ref().filter(|status| status.claim_uid == claim.metadata.uid)
}

/// The same, to be changed.
pub(crate) fn of(claim: &KeyVaultCertificate) -> KeyVaultCertificateStatus {
    kept(claim).cloned().unwrap_or_default()
}

/// Now, as statuses have it.
pub(crate) fn stamp() -> Time {
    whole_seconds(Timestamp::now())
}

/// The reason of a claim's Ready, if it is one of ours.
pub(crate) fn reason(claim: &KeyVaultCertificate) -> Option<Reason> {
    reason_in(kept(claim)?)
}

/// The reason of Ready in a claim's status, if it is one of ours.
pub(crate) fn reason_in(status: &KeyVaultCertificateStatus) -> Option<Reason> {
    conditions::find(&status.conditions, READY).and_then(|ready| Reason::parse(&ready.reason))
}

/// The message of a claim's Ready.
pub(crate) fn message(claim: &KeyVaultCertificate) -> Option<String> {
    conditions::find(&kept(claim)?.conditions, READY).map(|ready| ready.message.clone())
}

/// Hex, upper case, as the Azure portal shows it.
pub(crate) fn thumbprint(bytes: &[u8; 20]) -> String {
    bytes.iter().map(|byte| format!("{byte:02X}")).collect()
}

/// Reads what [`thumbprint`] wrote.
pub(crate) fn parse_thumbprint(text: &str) -> Option<[u8; 20]> {
    let mut bytes = [0_u8; 20];
    if text.len() != 40 || !text.is_ascii() {
        return None;
    }
    for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(bytes)
}

/// Writes the outcome down and says when to look again.
pub(crate) async fn report(
    context: &Context,
    claim: &Arc<KeyVaultCertificate>,
    observed: &Observed,
    outcome: Outcome,
    copies: Copies,
) -> Action {
    let uid = claim.uid().unwrap_or_default();
    let before = of(claim);
    let (reason, text) = words(&outcome, claim, observed);
    let retry_after = match &outcome {
        Outcome::Problem { retry_after, .. } => *retry_after,
        _ => None,
    };
    let lasted = before.first_failed_at.as_ref().map_or(0, |since| now() - since.0.as_second());
    let failures = match reason.fault() {
        Some(Fault::Transient | Fault::Bug) => context.world.rounds.failed(&uid),
        _ => {
            context.world.rounds.went_well(&uid);
            0
        }
    };
    let disposition = disposition::of(reason, failures, lasted, retry_after, dice());
    let compose = |before: &KeyVaultCertificateStatus| {
        compose(before, claim, observed, &outcome, &copies.seen, (reason, &text), disposition.ready)
    };
    let after = compose(&before);
    // A fault that lasts turns Ready: that is news, though it was told as a fault that passes.
    let now_holds = conditions::find(&after.conditions, READY).map(|ready| ready.status.clone());
    let is_news = conditions::find(&before.conditions, READY).is_none_or(|old| {
        old.reason != reason.as_str() || old.message != text || Some(&old.status) != now_holds.as_ref()
    });
    let keeps_in_flight = after.in_flight.is_some();
    if Some(&after) != claim.status.as_ref()
        && let Err(error) = write(context, claim, after, compose).await
    {
        // A race means that somebody changed the claim meanwhile: the round is made again from what is there now.
        tracing::debug!(name = claim.name_any(), error = %crate::watch::describe(&error), "claim status not written");
        let attempt = context.world.rounds.failed(&uid);
        let retry = disposition::of(Reason::Unavailable, attempt, 0, None, dice()).retry;
        return Action::requeue(if error.is_race() { RACE_RETRY } else { retry.unwrap_or(STATUS_RETRY) });
    }
    if !matches!(observed.newest, Look::NotYet) {
        // Only now is what was found written down.
        context.world.rounds.compared(&uid);
    }
    match outcome {
        Outcome::InSync { .. } | Outcome::Written(_) => context.world.rounds.success(&uid, now()),
        // How long somebody wants it held back is no lag of ours.
        Outcome::Suspended => drop(context.world.rounds.pushed(&uid)),
        Outcome::Recovered { .. } | Outcome::Problem { .. } | Outcome::Later(_) => {}
    }
    report::outcome(context, subject(claim), reason, &text, is_news);
    tell(context, claim, &before, &outcome, (reason, &text), is_news && disposition.warns).await;
    let routine = if copies.is_incomplete { COPIES_RETRY } else { LOOK_AGAIN };
    if let Outcome::Written(receipt) = &outcome
        && !receipt.is_enabled
    {
        // What was written over is disabled there, which the next look tells.
        context.world.rounds.ask_comparison(&uid);
        return Action::requeue(RACE_RETRY);
    }
    let retry = match (disposition.retry, keeps_in_flight) {
        // An announced write is looked for as soon as it cannot be under way any more.
        (Some(retry), true) => retry.min(Duration::from_secs(IN_FLIGHT_SECS.unsigned_abs())),
        (Some(retry), false) => retry,
        (None, _) => routine,
    };
    Action::requeue(retry.min(routine))
}

/// Where a claim's outcome belongs: to its owner.
pub(super) fn subject(claim: &KeyVaultCertificate) -> Subject<'_> {
    Subject {
        controller: "certificate",
        kind: crate::owner::kind(claim.spec.owner.kind).as_str(),
        namespace: crate::owner::namespace(claim),
        name: &claim.spec.owner.name,
        certificate: &claim.spec.certificate_name,
        vault: &claim.spec.vault_host,
    }
}

/// Writes a status. A receipt is not lost to a race: what was done in the vault stays done whoever changed the claim's
/// specification meanwhile, and the status says of which generation it is.
async fn write(
    context: &Context,
    claim: &Arc<KeyVaultCertificate>,
    status: KeyVaultCertificateStatus,
    compose: impl Fn(&KeyVaultCertificateStatus) -> KeyVaultCertificateStatus,
) -> Result<(), CallError> {
    let is_receipt = of(claim).in_flight.is_some() && status.in_flight.is_none();
    let Err(mut error) = replace_status(claim, context, status).await else { return Ok(()) };
    for _ in 0..RECEIPT_TRIES {
        if !(is_receipt && error.is_conflict()) {
            break;
        }
        let api: Api<KeyVaultCertificate> = Api::all(context.client.clone());
        let there = call("a claim", api.get(&claim.name_any())).await?;
        // Another that leads by now may have looked for this very write, and announced one of its own.
        let is_still_ours = context.lease.leads() && of(&there).in_flight == of(claim).in_flight;
        if there.uid() != claim.uid() || !is_still_ours {
            break;
        }
        let status = compose(&of(&there));
        match replace_status(&Arc::new(there), context, status).await {
            Ok(_) => return Ok(()),
            Err(again) => error = again,
        }
    }
    Err(error)
}

/// The reason and sentence of an outcome.
fn words(outcome: &Outcome, claim: &KeyVaultCertificate, observed: &Observed) -> (Reason, String) {
    let in_sync = |warning: &Option<String>, record: Option<&Record>| match warning {
        Some(warning) => (Reason::IncompleteChain, warning.clone()),
        None => {
            let is_adopted = record.is_some_and(|record| matches!(record.fingerprint, Fingerprint::Leaf(_)));
            let chain = "; the version was adopted: its leaf is the Secret's, its chain cannot be read back and is pushed at \
                         the next renewal";
            let text = format!(
                "version {} of {} in {} holds Secret {}{}",
                record.map_or("?", |record| &record.version),
                claim.spec.certificate_name,
                claim.spec.vault_host,
                observed.desired.source,
                if is_adopted { chain } else { "" }
            );
            (Reason::Synced, text)
        }
    };
    match outcome {
        Outcome::InSync { record, warning } => {
            in_sync(warning, record.as_ref().or(observed.memory.record.as_ref()))
        }
        Outcome::Written(receipt) => in_sync(&receipt.warning, Some(&receipt.record)),
        Outcome::Recovered { .. } => {
            let Problem { reason, message } = push::recovering();
            (reason, message)
        }
        Outcome::Suspended => {
            (Reason::Suspended, "suspend is true: nothing is written to the vault until it is false".into())
        }
        Outcome::Problem { problem, .. } => (problem.reason, problem.message.clone()),
        Outcome::Later(_) => (Reason::Reconciling, "waiting for a turn at the vault".into()),
    }
}

fn compose(
    before: &KeyVaultCertificateStatus,
    claim: &KeyVaultCertificate,
    observed: &Observed,
    outcome: &Outcome,
    copies: &[SeenSource],
    (reason, message): (Reason, &str),
    ready: Ready,
) -> KeyVaultCertificateStatus {
    let mut status = before.clone();
    let stamp = stamp();
    status.claim_uid = claim.uid();
    status.observed_generation = claim.metadata.generation;
    // What was true of another wish does not stand for this one while its push is held up.
    let is_same_wish = before.observed_generation == claim.metadata.generation
        || before.desired.as_deref() == Some(observed.desired.hash().as_str());
    let stands = is_same_wish || reason == Reason::Suspended;
    let holds = match ready {
        Ready::Yes => Holds::True,
        Ready::No => Holds::False,
        Ready::Unknown => Holds::Unknown,
        Ready::AsBefore if !stands => Holds::Unknown,
        Ready::AsBefore => {
            match conditions::find(&before.conditions, READY).map(|ready| ready.status.as_str()) {
                Some("True") => Holds::True,
                Some("False") => Holds::False,
                _ => Holds::Unknown,
            }
        }
    };
    let statement = Statement {
        type_: READY,
        holds,
        reason: reason.as_str(),
        message,
        observed_generation: claim.metadata.generation,
    };
    conditions::set(&mut status.conditions, &statement, stamp.0);
    let is_passing = matches!(reason.fault(), Some(Fault::Transient | Fault::Bug));
    // How long a recovery takes is counted from its own beginning, not from that of a failure before it.
    let begins = reason == Reason::Recovering && reason_in(before) != Some(Reason::Recovering);
    status.first_failed_at = match (status.first_failed_at.take().filter(|_| !begins), is_passing) {
        (Some(since), true) => Some(since),
        (None, true) => Some(stamp.clone()),
        (_, false) => None,
    };
    status.sources = seen(before, claim, observed, outcome, &stamp).into_iter().collect();
    status.sources.extend(copies.iter().cloned());
    match outcome {
        Outcome::InSync { record, .. } => {
            if let Some(record) = record {
                if let Some(adopted_with) = unseen_chain(record, observed) {
                    status.adopted_with = Some(adopted_with.to_string());
                }
                if is_found_import(before, record) {
                    status.pushed_at = Some(stamp);
                    status.versions = another(status.versions);
                }
                remember(&mut status, claim, record, observed);
                status.in_flight = None;
            }
        }
        Outcome::Recovered { .. } => status.in_flight = None,
        Outcome::Written(receipt) => {
            remember(&mut status, claim, &receipt.record, observed);
            status.in_flight = None;
            status.pushed_at = Some(stamp);
            if matches!(receipt.deed, Deed::Imported { .. }) {
                status.versions = another(status.versions);
            }
            status.foreign_write = receipt.foreign_write.clone();
            status.adopted_with = receipt.adopted_with.as_ref().map(Fingerprint::to_string);
        }
        Outcome::Problem { keeps_in_flight: false, .. } => status.in_flight = None,
        Outcome::Problem { .. } | Outcome::Suspended | Outcome::Later(_) => {}
    }
    status
}

/// One version more of our own.
fn another(versions: Option<i64>) -> Option<i64> {
    Some(versions.unwrap_or_default().saturating_add(1))
}

/// Of a version of which only the leaf is known, what the Secret holds now counts as its chain.
fn unseen_chain(record: &Record, observed: &Observed) -> Option<Fingerprint> {
    match (&record.fingerprint, &observed.memory.adopted_with, &observed.content) {
        (Fingerprint::Leaf(_), None, Look::Seen(Ok(content))) => Some(content.fingerprint.clone()),
        _ => None,
    }
}

/// An import whose answer was lost is found in the vault.
fn is_found_import(before: &KeyVaultCertificateStatus, record: &Record) -> bool {
    before.in_flight.as_ref().is_some_and(|in_flight| {
        in_flight.act == Act::Import
            && in_flight.fingerprint.as_deref() == Some(record.fingerprint.to_string().as_str())
            && before.version.as_deref() != Some(record.version.as_str())
    })
}

/// Which edition of the Secret is dealt with: only what is in the vault is. After anything else the Secret is read again.
fn seen(
    before: &KeyVaultCertificateStatus,
    claim: &KeyVaultCertificate,
    observed: &Observed,
    outcome: &Outcome,
    stamp: &Time,
) -> Option<SeenSource> {
    let source = observe::sources(claim).into_iter().next()?;
    let old = source.seen(before);
    let is_dealt_with = matches!(outcome, Outcome::InSync { .. } | Outcome::Written(_));
    let edition = match &observed.source {
        Some(source) if is_dealt_with => Some((source.uid.clone(), source.resource_version.clone())),
        _ => old.and_then(|old| Some((old.uid.clone()?, old.resource_version.clone()?))),
    };
    let missing_since = match &observed.source {
        Some(_) => None,
        // The watch alone does not say so; the API server does, when it is asked for the Secret.
        None if observed.content == Look::NotYet => old.and_then(|old| old.missing_since.clone()),
        None => old.and_then(|old| old.missing_since.clone()).or_else(|| Some(stamp.clone())),
    };
    Some(SeenSource {
        namespace: source.namespace,
        name: source.name,
        uid: edition.as_ref().map(|(uid, _)| uid.clone()),
        resource_version: edition.map(|(_, resource_version)| resource_version),
        missing_since,
        equal: None,
        differs_since: None,
    })
}

fn remember(
    status: &mut KeyVaultCertificateStatus,
    claim: &KeyVaultCertificate,
    record: &Record,
    observed: &Observed,
) {
    status.fingerprint = Some(record.fingerprint.to_string());
    status.desired = Some(observed.desired.hash());
    status.version = Some(record.version.clone());
    status.thumbprint = Some(thumbprint(&record.thumbprint));
    status.not_after = Timestamp::from_second(record.not_after).ok().map(whole_seconds);
    status.secret_id =
        Some(format!("https://{}/secrets/{}", claim.spec.vault_host, claim.spec.certificate_name));
}

/// The Event of an outcome, about the owner, with the claim beside it.
async fn tell(
    context: &Context,
    claim: &KeyVaultCertificate,
    before: &KeyVaultCertificateStatus,
    outcome: &Outcome,
    (reason, message): (Reason, &str),
    warns: bool,
) {
    if let Some((word, note)) = deed(claim, before, outcome) {
        report::event(context, occurrence(claim, Weight::Normal, word, &note)).await;
    }
    if warns {
        let name = &claim.spec.certificate_name;
        let named = if message.contains(name) {
            message.to_owned()
        } else {
            format!("certificate {name}: {message}")
        };
        report::event(context, occurrence(claim, Weight::Warning, reason.as_str(), &named)).await;
    }
}

fn occurrence<'a>(
    claim: &KeyVaultCertificate,
    weight: Weight,
    reason: &'a str,
    note: &'a str,
) -> Occurrence<'a> {
    let owner = &claim.spec.owner;
    let kind = crate::owner::kind(owner.kind).as_str();
    Occurrence {
        regarding: reference(kind, owner.namespace.as_deref(), &owner.name, Some(&owner.uid)),
        related: Some(reference("KeyVaultCertificate", None, &claim.name_any(), claim.uid().as_deref())),
        weight,
        reason,
        action: "Push",
        note,
    }
}

/// What was done in the vault, in a word and a sentence; `None`: nothing.
fn deed(
    claim: &KeyVaultCertificate,
    before: &KeyVaultCertificateStatus,
    outcome: &Outcome,
) -> Option<(&'static str, String)> {
    let place = format!("{} in {}", claim.spec.certificate_name, claim.spec.vault_host);
    let receipt = match outcome {
        Outcome::Written(receipt) => receipt,
        Outcome::InSync { record: Some(record), .. } if is_found_import(before, record) => {
            let version = &record.version;
            return Some((
                "Imported",
                format!("imported version {version} of {place}; the vault's answer had been lost"),
            ));
        }
        Outcome::Recovered { is_ours: true } => {
            return Some(("Recovered", format!("recovering {place}, which had been deleted in the vault")));
        }
        Outcome::Recovered { is_ours: false } => {
            return Some((
                "Recovered",
                format!(
                    "recovering {place}, which is soft-deleted and not ours, to take it over as conflictPolicy says"
                ),
            ));
        }
        Outcome::InSync { .. } | Outcome::Suspended | Outcome::Problem { .. } | Outcome::Later(_) => {
            return None;
        }
    };
    let version = &receipt.record.version;
    Some(match &receipt.deed {
        Deed::Imported { why: Why::Adopted, from } => {
            let from = from.as_deref().unwrap_or("another owner");
            (
                "Adopted",
                format!("took {place} over from {from}: its content differs, version {version} is ours"),
            )
        }
        Deed::Imported { why, .. } => {
            ("Imported", format!("imported version {version} of {place} {}", because(*why, claim)))
        }
        Deed::Adopted { from } => (
            "Adopted",
            format!(
                "took version {version} of {place} over from {from}: it holds the Secret's leaf, no version was made"
            ),
        ),
        Deed::Retagged { dropped, set } => {
            let mut note = format!("set the tags of version {version} of {place}: {}", set.join(", "));
            if !dropped.is_empty() {
                note.push_str(&format!("; removed {}", dropped.join(", ")));
            }
            ("Retagged", note)
        }
    })
}

fn because(why: Why, claim: &KeyVaultCertificate) -> String {
    let secret = claim.spec.sources.first().map_or("", |source| source.secret_name.as_str());
    match why {
        Why::New => format!("from Secret {secret}"),
        Why::Changed => format!("because Secret {secret} changed"),
        Why::ExportableChanged => "because exportable changed".to_owned(),
        Why::DeletedInVault => "because it had been deleted and purged in the vault".to_owned(),
        Why::ReplacedInVault => "because somebody had imported another version over it".to_owned(),
        Why::ForeignWrite => {
            "because another version with our owner tag had been written, which is none of this cluster"
                .to_owned()
        }
        Why::Adopted => "to take the name over".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thumbprint_is_read_as_it_was_written() {
        let bytes: [u8; 20] = std::array::from_fn(|index| index as u8 * 13);
        assert_eq!(parse_thumbprint(&thumbprint(&bytes)), Some(bytes));
        for bad in ["", "zz", &"é".repeat(20), &"0".repeat(41)] {
            assert_eq!(parse_thumbprint(bad), None, "{bad}");
        }
    }
}
