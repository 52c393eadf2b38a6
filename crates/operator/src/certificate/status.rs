//! The outcome of a round → the claim's status, which is its memory; one Event where it is news; when to look again.
//! The owner's status is left to the sync controller.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use keyvault_sync_api::conditions::{self, Holds, READY, Statement, whole_seconds};
use keyvault_sync_api::{KeyVaultCertificate, KeyVaultCertificateStatus, SeenSource};
use keyvault_sync_core::names::VaultHost;
use keyvault_sync_core::push::{
    IN_FLIGHT_SECS, Look, Observed, Record, Why, comparison_tick, next_comparison,
};
use keyvault_sync_core::reason::{Fault, Problem, Reason};
use keyvault_sync_vault::VaultError;
use kube::ResourceExt;
use kube::api::Api;
use kube::runtime::controller::Action;

use super::apply::replace_status;
use super::observe::Route;
use super::{RACE_RETRY, dice, now};
use crate::context::{Context, reference};
use crate::disposition::{self, Ready};
use crate::kubernetes::{CallError, call};
use crate::report::{self, Occurrence, Subject, Weight};

/// Comparisons of one vault's certificates are spread over so many seconds.
const COMPARISON_SPREAD_SECS: u64 = 60;
/// How often a claim without a way to its vault is looked at without being woken: a missed wake costs no more.
const LOOK_AGAIN: Duration = Duration::from_secs(3_600);
/// How often a receipt is carried over to a claim that was changed meanwhile.
const RECEIPT_TRIES: usize = 3;
/// When a status that could not be written is tried again.
const STATUS_RETRY: Duration = Duration::from_secs(2);

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
    /// Why a version was made; `None`: only tags were set.
    pub why: Option<Why>,
    /// Somebody's write under our name that was repaired.
    pub foreign_write: Option<String>,
    /// Tags that went.
    pub dropped: Vec<String>,
    /// Tags that were set.
    pub set: Vec<String>,
    /// What is wrong with the chain all the same.
    pub warning: Option<String>,
}

impl Outcome {
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

/// The reason of a claim's Ready, if it is one of ours.
pub(crate) fn reason(claim: &KeyVaultCertificate) -> Option<Reason> {
    conditions::find(&claim.status.as_ref()?.conditions, READY).and_then(|ready| Reason::parse(&ready.reason))
}

/// The message of a claim's Ready.
pub(crate) fn message(claim: &KeyVaultCertificate) -> Option<String> {
    conditions::find(&claim.status.as_ref()?.conditions, READY).map(|ready| ready.message.clone())
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
    route: Option<&Route>,
    observed: &Observed,
    outcome: Outcome,
) -> Action {
    let uid = claim.uid().unwrap_or_default();
    if let (true, Some(route)) = (!matches!(observed.newest, Look::NotYet), route) {
        let tick = comparison_tick(&route.vault.host, route.vault.resync_secs, observed.now);
        context.world.rounds.compared(&uid, tick);
    }
    let before = claim.status.clone().unwrap_or_default();
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
    let after = compose(&before, claim, observed, &outcome, (reason, &text), disposition.ready);
    let is_news = conditions::find(&before.conditions, READY)
        .is_none_or(|old| old.reason != reason.as_str() || old.message != text);
    let keeps_in_flight = after.in_flight.is_some();
    if after != before
        && let Err(error) = write(context, claim, after, |before| {
            compose(before, claim, observed, &outcome, (reason, &text), disposition.ready)
        })
        .await
    {
        // A race means that somebody changed the claim meanwhile: the round is made again from what is there now.
        tracing::debug!(name = claim.name_any(), error = %crate::watch::describe(&error), "claim status not written");
        let attempt = context.world.rounds.failed(&uid);
        let retry = disposition::of(Reason::Unavailable, attempt, 0, None, dice()).retry;
        return Action::requeue(if error.is_race() { RACE_RETRY } else { retry.unwrap_or(STATUS_RETRY) });
    }
    let subject = Subject {
        controller: "certificate",
        kind: "KeyVaultSync",
        namespace: crate::owner::namespace(claim),
        name: &claim.spec.owner.name,
        certificate: &claim.spec.certificate_name,
        vault: &claim.spec.vault_host,
    };
    report::outcome(context, subject, reason, &text, is_news);
    tell(context, claim, &outcome, (reason, &text), is_news && disposition.warns).await;
    let routine = routine(route, &uid);
    let retry = match (disposition.retry, keeps_in_flight) {
        // An announced write is looked for as soon as it cannot be under way any more.
        (Some(retry), true) => retry.min(Duration::from_secs(IN_FLIGHT_SECS.unsigned_abs())),
        (Some(retry), false) => retry,
        (None, _) => routine,
    };
    Action::requeue(retry.min(routine))
}

/// Writes a status. A receipt is not lost to a race: what was done in the vault stays done whoever changed the claim's
/// specification meanwhile, and the status says of which generation it is.
async fn write(
    context: &Context,
    claim: &Arc<KeyVaultCertificate>,
    status: KeyVaultCertificateStatus,
    compose: impl Fn(&KeyVaultCertificateStatus) -> KeyVaultCertificateStatus,
) -> Result<(), CallError> {
    let is_receipt =
        claim.status.as_ref().is_some_and(|before| before.in_flight.is_some()) && status.in_flight.is_none();
    let Err(mut error) = replace_status(claim, context, status).await else { return Ok(()) };
    for _ in 0..RECEIPT_TRIES {
        if !(is_receipt && error.is_conflict()) {
            break;
        }
        let api: Api<KeyVaultCertificate> = Api::all(context.client.clone());
        let there = call("a claim", api.get(&claim.name_any())).await?;
        if there.uid() != claim.uid() {
            break;
        }
        let status = compose(&there.status.clone().unwrap_or_default());
        match replace_status(&Arc::new(there), context, status).await {
            Ok(_) => return Ok(()),
            Err(again) => error = again,
        }
    }
    Err(error)
}

/// When the next comparison is due, at a second that each certificate has of its own.
fn routine(route: Option<&Route>, uid: &str) -> Duration {
    let Some(route) = route else { return LOOK_AGAIN };
    let now = now();
    let due = next_comparison(&route.vault.host, route.vault.resync_secs, now);
    let spread = uid.bytes().fold(0_u64, |sum, byte| (sum * 31 + u64::from(byte)) % COMPARISON_SPREAD_SECS);
    Duration::from_secs(u64::try_from(due - now).unwrap_or(1) + spread)
}

/// The reason and sentence of an outcome.
fn words(outcome: &Outcome, claim: &KeyVaultCertificate, observed: &Observed) -> (Reason, String) {
    let in_sync = |warning: &Option<String>, version: Option<&str>| match warning {
        Some(warning) => (Reason::IncompleteChain, warning.clone()),
        None => (
            Reason::Synced,
            format!(
                "version {} of {} in {} holds Secret {}",
                version.unwrap_or("?"),
                claim.spec.certificate_name,
                claim.spec.vault_host,
                observed.desired.source
            ),
        ),
    };
    match outcome {
        Outcome::InSync { record, warning } => {
            let record = record.as_ref().or(observed.memory.record.as_ref());
            in_sync(warning, record.map(|record| record.version.as_str()))
        }
        Outcome::Written(receipt) => in_sync(&receipt.warning, Some(&receipt.record.version)),
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
    (reason, message): (Reason, &str),
    ready: Ready,
) -> KeyVaultCertificateStatus {
    let mut status = before.clone();
    let stamp = whole_seconds(Timestamp::now());
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
    status.first_failed_at = match (&status.first_failed_at, is_passing) {
        (Some(since), true) => Some(since.clone()),
        (None, true) => Some(stamp.clone()),
        (_, false) => None,
    };
    status.sources = vec![seen(before, claim, observed, outcome, &stamp)];
    match outcome {
        Outcome::InSync { record, .. } => {
            if let Some(record) = record {
                remember(&mut status, claim, record, observed);
                status.in_flight = None;
            }
        }
        Outcome::Written(receipt) => {
            remember(&mut status, claim, &receipt.record, observed);
            status.in_flight = None;
            status.pushed_at = Some(stamp);
            status.foreign_write = receipt.foreign_write.clone();
        }
        Outcome::Problem { keeps_in_flight: false, .. } => status.in_flight = None,
        Outcome::Problem { .. } | Outcome::Suspended | Outcome::Later(_) => {}
    }
    status
}

/// Which edition of the Secret is dealt with: only what is in the vault is. After anything else the Secret is read again.
fn seen(
    before: &KeyVaultCertificateStatus,
    claim: &KeyVaultCertificate,
    observed: &Observed,
    outcome: &Outcome,
    stamp: &Time,
) -> SeenSource {
    let old = before.sources.first();
    let is_dealt_with = matches!(outcome, Outcome::InSync { .. } | Outcome::Written(_));
    let edition = match &observed.source {
        Some(source) if is_dealt_with => Some((source.uid.clone(), source.resource_version.clone())),
        _ => old.and_then(|old| Some((old.uid.clone()?, old.resource_version.clone()?))),
    };
    let missing_since = match &observed.source {
        Some(_) => None,
        None => old.and_then(|old| old.missing_since.clone()).or_else(|| Some(stamp.clone())),
    };
    SeenSource {
        namespace: crate::owner::namespace(claim).to_owned(),
        name: claim.spec.sources.first().map(|source| source.secret_name.clone()).unwrap_or_default(),
        uid: edition.as_ref().map(|(uid, _)| uid.clone()),
        resource_version: edition.map(|(_, resource_version)| resource_version),
        missing_since,
        equal: None,
        differs_since: None,
    }
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
    outcome: &Outcome,
    (reason, message): (Reason, &str),
    warns: bool,
) {
    if let Outcome::Written(receipt) = outcome {
        let (word, note) = deed(claim, receipt);
        report::event(context, occurrence(claim, Weight::Normal, word, &note)).await;
    }
    if warns {
        report::event(context, occurrence(claim, Weight::Warning, reason.as_str(), message)).await;
    }
}

fn occurrence<'a>(
    claim: &KeyVaultCertificate,
    weight: Weight,
    reason: &'a str,
    note: &'a str,
) -> Occurrence<'a> {
    let owner = &claim.spec.owner;
    Occurrence {
        regarding: reference("KeyVaultSync", owner.namespace.as_deref(), &owner.name, Some(&owner.uid)),
        related: Some(reference("KeyVaultCertificate", None, &claim.name_any(), claim.uid().as_deref())),
        weight,
        reason,
        action: "Push",
        note,
    }
}

/// What was done, in a word and a sentence.
fn deed(claim: &KeyVaultCertificate, receipt: &Receipt) -> (&'static str, String) {
    let place = format!("{} in {}", claim.spec.certificate_name, claim.spec.vault_host);
    let version = &receipt.record.version;
    let secret = claim.spec.sources.first().map_or("", |source| source.secret_name.as_str());
    let Some(why) = receipt.why else {
        let mut note = format!("set the tags of version {version} of {place}: {}", receipt.set.join(", "));
        if !receipt.dropped.is_empty() {
            note.push_str(&format!("; removed {}", receipt.dropped.join(", ")));
        }
        return ("Retagged", note);
    };
    let because = match why {
        Why::New => format!("from Secret {secret}"),
        Why::Changed => format!("because Secret {secret} changed"),
        Why::ExportableChanged => "because exportable changed".to_owned(),
        Why::DeletedInVault => "because it had been deleted in the vault".to_owned(),
        Why::ReplacedInVault => "because somebody had imported another version over it".to_owned(),
        Why::ForeignWrite => {
            "because another version with our owner tag had been written, which is none of this cluster"
                .to_owned()
        }
    };
    ("Imported", format!("imported version {version} of {place} {because}"))
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
