//! One claim as it will be → what the operator would do for it: the looks are the certificate controller's, the decision is core's, and
//! in the place of the act stands a word. A vault that is not reached from here is told once, and its claims' memory is gone by.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use k8s_openapi::jiff::Timestamp;
use keyvault_sync_api::{DeletionPolicy, KeyVaultCertificate};
use keyvault_sync_core::push::{Look, Next, Observed, Why, Write};
use keyvault_sync_core::reason::{Problem, Reason};
use keyvault_sync_core::release::{self, Ending};
use keyvault_sync_vault::who;
use serde::Serialize;

use crate::certificate::STEPS_MAX;
use crate::certificate::evidence::{Evidence, Step, read};
use crate::certificate::observe::{self, Route};
use crate::certificate::release::releasing;
use crate::certificate::status::{Outcome, thumbprint};
use crate::context::View;

/// What would be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) enum Act {
    /// A new version.
    Import,
    /// Our tags on somebody's version.
    Adopt,
    /// New tags on the version there is.
    Retag,
    /// Undo a soft delete.
    Recover,
    /// Nothing: the vault holds it.
    InSync,
    /// Nothing: it shares the certificate of another Secret.
    Copy,
    /// Nothing yet.
    Wait,
    /// Nothing: `suspend: true`.
    Suspended,
    /// Nothing, and a person has to help.
    Refuse,
    /// Given up: soft-deleted in the vault.
    Delete,
    /// Given up: it stays in the vault.
    Retain,
    /// Should be deleted, and is left in the vault.
    Leave,
    /// Another resource gets it as it is.
    HandOver,
    /// Not looked at yet.
    Unknown,
}

/// What it was foreseen from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) enum Basis {
    /// The cluster alone: no vault has a say in it.
    Cluster,
    /// A look at the vault.
    Vault,
    /// What was recorded of the vault.
    Record,
}

/// What would happen to one certificate.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Forecast {
    pub act: Act,
    /// Why a version is made; why not, where it is refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
    pub message: String,
    pub basis: Basis,
    /// The operator does it at its next comparison, not before.
    pub at_comparison: bool,
}

impl Forecast {
    /// To be looked at.
    pub(super) fn unknown() -> Self {
        Self::new(Act::Unknown, String::new(), Basis::Cluster)
    }

    pub(super) fn new(act: Act, message: String, basis: Basis) -> Self {
        Self { act, reason: None, message, basis, at_comparison: false }
    }

    /// Refused, or waited for.
    pub(super) fn problem(problem: Problem, basis: Basis) -> Self {
        let reason = Some(problem.reason.as_str());
        Self { reason, ..Self::new(Act::Refuse, problem.message, basis) }
    }

    /// One of several Secrets that share a certificate.
    pub(super) fn copy(claim: Option<&KeyVaultCertificate>) -> Self {
        let first = claim.and_then(|claim| observe::sources(claim).into_iter().next());
        let first = first.map(|first| format!("{}/{}", first.namespace, first.name)).unwrap_or_default();
        Self::new(Act::Copy, format!("shares the certificate of Secret {first}"), Basis::Cluster)
    }
}

/// A vault, as one identity sees it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(super) struct Door {
    pub host: String,
    /// In words.
    pub identity: String,
}

/// Foresees claims.
pub(super) struct Forecaster<'a> {
    view: &'a View,
    offline: bool,
    /// Vaults that were tried, and why they were not looked at.
    closed: Mutex<BTreeMap<Door, Option<Problem>>>,
}

/// Whether a vault is looked at for a claim.
enum Glance {
    /// It is.
    Yes,
    /// It is not.
    No,
}

impl<'a> Forecaster<'a> {
    pub(super) fn new(view: &'a View, offline: bool) -> Self {
        Self { view, offline, closed: Mutex::default() }
    }

    /// The vaults that were asked for, and why some were not looked at.
    pub(super) fn vaults(&self) -> Vec<(Door, Option<Problem>)> {
        self.closed.lock().unwrap_or_else(PoisonError::into_inner).clone().into_iter().collect()
    }

    /// What would happen to it.
    pub(super) async fn of(&self, claim: Arc<KeyVaultCertificate>) -> Forecast {
        if claim.spec.release.is_some() {
            self.of_released(&claim).await
        } else {
            self.of_wanted(claim).await
        }
    }

    async fn of_wanted(&self, claim: Arc<KeyVaultCertificate>) -> Forecast {
        let mut evidence = Evidence::new(claim, self.view);
        // What memory alone says is in step is compared all the same: the next comparison would find what is seen now.
        let mut at_comparison = false;
        let mut basis = Basis::Cluster;
        for _ in 0..STEPS_MAX {
            let next = evidence.decide();
            if matches!(next, Next::InSync { .. })
                && evidence.observed.newest == Look::NotYet
                && !self.offline
            {
                (evidence.observed.compare, at_comparison) = (true, true);
                continue;
            }
            if matches!(next, Next::ReadNewest | Next::ReadRecorded | Next::ReadDeleted) {
                let route = match evidence.route.clone() {
                    Ok(route) => route,
                    Err(problem) => return Forecast::problem(problem, basis),
                };
                if let Glance::No = self.glance(&route) {
                    return recorded(&evidence, at_comparison);
                }
                let _permit = self.view.pace.permit(&route.vault.host).await;
                match evidence.look(next).await {
                    Step::Vault(error) if self.closes(&route, &error.problem) => {
                        return recorded(&evidence, at_comparison);
                    }
                    Step::Vault(error) => return Forecast::problem(error.problem, Basis::Vault),
                    _ => basis = Basis::Vault,
                }
                self.opens(&route);
                continue;
            }
            let forecast = match evidence.look(next).await {
                Step::Looked => continue,
                Step::Vault(error) => Forecast::problem(error.problem, basis),
                Step::End(outcome) => ended(outcome, basis),
                Step::InSync { record, warning } => {
                    let record = record.as_ref().or(evidence.observed.memory.record.as_ref());
                    let version = record.map_or("?", |record| &record.version);
                    let message = format!("version {version} holds it");
                    let message =
                        warning.map_or(message.clone(), |warning| format!("{message}, but {warning}"));
                    let basis = if basis == Basis::Cluster { Basis::Record } else { basis };
                    Forecast::new(Act::InSync, message, basis)
                }
                Step::Act(next) => act(next, &evidence.observed, basis),
            };
            return Forecast { at_comparison: at_comparison && forecast.act != Act::InSync, ..forecast };
        }
        let problem = Problem::new(Reason::InternalError, "there is no decision: please report this");
        Forecast::problem(problem, basis)
    }

    async fn of_released(&self, claim: &KeyVaultCertificate) -> Forecast {
        let way = observe::way(claim, self.view);
        let mut seen = releasing(claim, &way, self.view);
        let mut basis = Basis::Cluster;
        for _ in 0..STEPS_MAX {
            match release::decide(&seen) {
                release::Next::ReadNewest => {}
                release::Next::Wait { until } => return waits(until, basis),
                release::Next::Delete => {
                    let message =
                        format!("soft-deleted in {}, as deletionPolicy says", claim.spec.vault_host);
                    return Forecast::new(Act::Delete, message, basis);
                }
                release::Next::Refuse(problem) => return Forecast::problem(problem, basis),
                release::Next::End(ending) => return ends(&ending, claim, basis),
            }
            let Ok(route) = &way else { break };
            if let Glance::No = self.glance(route) {
                let message =
                    "to be deleted, if the vault shows that it is ours; it was not looked at".to_owned();
                return Forecast::new(Act::Delete, message, Basis::Record);
            }
            let _permit = self.view.pace.permit(&route.vault.host).await;
            match read(self.view, route, "get", async |vault| vault.newest(&route.name).await).await {
                Ok(newest) => {
                    self.opens(route);
                    (seen.newest, basis) = (Look::Seen(newest), Basis::Vault);
                }
                Err(error) if self.closes(route, &error.problem) => {}
                Err(error) => return Forecast::problem(error.problem, Basis::Vault),
            }
        }
        let problem = Problem::new(Reason::InternalError, "there is no decision: please report this");
        Forecast::problem(problem, basis)
    }

    fn glance(&self, route: &Route) -> Glance {
        let mut closed = self.closed.lock().unwrap_or_else(PoisonError::into_inner);
        let door = door(route);
        if self.offline {
            let problem = Problem::new(Reason::Reconciling, "--offline");
            closed.insert(door, Some(problem));
            return Glance::No;
        }
        match closed.get(&door) {
            Some(Some(_)) => Glance::No,
            Some(None) | None => Glance::Yes,
        }
    }

    fn opens(&self, route: &Route) {
        self.closed.lock().unwrap_or_else(PoisonError::into_inner).entry(door(route)).or_insert(None);
    }

    /// Whether a failure is one of the way from here, and not what the operator would meet: it sits elsewhere in the network. That the
    /// identity may not do something is the same wherever it is.
    fn closes(&self, route: &Route, problem: &Problem) -> bool {
        let is_of_the_way = matches!(
            problem.reason,
            Reason::VaultUnreachable
                | Reason::FirewallBlocked
                | Reason::AuthenticationFailed
                | Reason::Unavailable
                | Reason::Throttled
        );
        if is_of_the_way {
            let mut closed = self.closed.lock().unwrap_or_else(PoisonError::into_inner);
            closed.insert(door(route), Some(problem.clone()));
        }
        is_of_the_way
    }
}

fn door(route: &Route) -> Door {
    Door { host: route.vault.host.to_string(), identity: who(&route.identity) }
}

fn act(next: Next, observed: &Observed, basis: Basis) -> Forecast {
    match next {
        Next::Write(write) => writes(&write, observed, basis),
        Next::Wait { until } => waits(until, basis),
        Next::Suspended => {
            let message = "suspend is true: nothing is written to the vault until it is false";
            Forecast::new(Act::Suspended, message.to_owned(), basis)
        }
        Next::Refuse(problem) => Forecast::problem(problem, basis),
        Next::ReadSecret
        | Next::ReadNewest
        | Next::ReadRecorded
        | Next::ReadDeleted
        | Next::AskOwner(_)
        | Next::InSync { .. } => Forecast::unknown(),
    }
}

fn writes(write: &Write, observed: &Observed, basis: Basis) -> Forecast {
    match write {
        Write::Import { why, from, .. } => {
            let from = from.as_ref().map(|from| format!(" ({from})")).unwrap_or_default();
            let message = format!("{}{from}{}", because(*why), content(observed));
            Forecast { reason: Some(word(*why)), ..Forecast::new(Act::Import, message, basis) }
        }
        Write::Adopt { version, from, .. } => {
            let message = format!(
                "version {version} holds the Secret's certificate and becomes ours; it was of {from}"
            );
            Forecast::new(Act::Adopt, message, basis)
        }
        Write::Retag { version, dropped, set, .. } => {
            let list = |what: &str, tags: &[String]| match tags {
                [] => String::new(),
                tags => format!("; {what} {}", tags.join(", ")),
            };
            let message =
                format!("tags of version {version}{}{}", list("set:", set), list("dropped:", dropped));
            Forecast::new(Act::Retag, message, basis)
        }
        Write::Recover { is_ours: true } => {
            Forecast::new(Act::Recover, "it was deleted in the vault, and is recovered there".into(), basis)
        }
        Write::Recover { is_ours: false } => Forecast::new(
            Act::Recover,
            "a soft-deleted certificate is recovered, to be taken over".into(),
            basis,
        ),
        // No decision on a claim that is wanted says so.
        Write::Delete => Forecast::new(Act::Delete, String::new(), basis),
    }
}

/// `; leaf 0A1B…, expires 2026-05-01`
fn content(observed: &Observed) -> String {
    let Look::Seen(Ok(content)) = &observed.content else { return String::new() };
    let day = Timestamp::from_second(content.not_after).map(|time| time.strftime("%F").to_string());
    format!("; {}, expires {}", thumbprint(&content.thumbprint), day.unwrap_or_default())
}

fn because(why: Why) -> &'static str {
    match why {
        Why::New => "the vault has none of the name",
        Why::Changed => "the Secret has changed",
        Why::ExportableChanged => "exportable has changed",
        Why::DeletedInVault => "it was deleted in the vault",
        Why::ReplacedInVault => "somebody imported another version over it",
        Why::ForeignWrite => "somebody wrote a version with our tags",
        Why::Adopted => "it is taken over with the Secret's content",
    }
}

fn word(why: Why) -> &'static str {
    match why {
        Why::New => "New",
        Why::Changed => "Changed",
        Why::ExportableChanged => "ExportableChanged",
        Why::DeletedInVault => "DeletedInVault",
        Why::ReplacedInVault => "ReplacedInVault",
        Why::ForeignWrite => "ForeignWrite",
        Why::Adopted => "Adopted",
    }
}

fn waits(until: i64, basis: Basis) -> Forecast {
    let until = Timestamp::from_second(until).map(|time| time.to_string()).unwrap_or_default();
    Forecast::new(Act::Wait, format!("a write that was announced may be under way until {until}"), basis)
}

fn ended(outcome: Outcome, basis: Basis) -> Forecast {
    match outcome {
        Outcome::Problem { problem, .. } => Forecast::problem(problem, basis),
        Outcome::Suspended => act_suspended(basis),
        Outcome::InSync { .. } | Outcome::Written(_) | Outcome::Recovered { .. } | Outcome::Later(_) => {
            Forecast::unknown()
        }
    }
}

fn act_suspended(basis: Basis) -> Forecast {
    Forecast::new(Act::Suspended, "suspend is true".to_owned(), basis)
}

/// What is likely without a look at the vault.
fn recorded(evidence: &Evidence<'_>, was_in_step: bool) -> Forecast {
    let observed = &evidence.observed;
    let basis = Basis::Record;
    let Some(record) = &observed.memory.record else {
        let message = format!("as far as is recorded, it was never pushed{}", content(observed));
        return Forecast { reason: Some(word(Why::New)), ..Forecast::new(Act::Import, message, basis) };
    };
    let is_held = match &observed.content {
        Look::Seen(Ok(content)) => {
            record.fingerprint == content.fingerprint || record.fingerprint == content.leaf
        }
        // It was not read because it has not changed.
        Look::Seen(Err(_)) | Look::NotYet => true,
    };
    if !is_held {
        let message = format!("{}{}", because(Why::Changed), content(observed));
        return Forecast { reason: Some(word(Why::Changed)), ..Forecast::new(Act::Import, message, basis) };
    }
    if was_in_step || observed.memory.desired.as_deref() == Some(observed.desired.hash().as_str()) {
        let message = format!("as far as is recorded, version {} holds it", record.version);
        return Forecast::new(Act::InSync, message, basis);
    }
    let message = format!(
        "tags of version {}, or a new one if exportable or the Secret's keys have changed",
        record.version
    );
    Forecast::new(Act::Retag, message, basis)
}

fn ends(ending: &Ending, claim: &KeyVaultCertificate, basis: Basis) -> Forecast {
    let host = &claim.spec.vault_host;
    match ending {
        Ending::Retained => {
            let message = format!("stays in {host}, as deletionPolicy says");
            Forecast::new(Act::Retain, message, basis)
        }
        Ending::NothingPushed => Forecast::new(Act::Retain, format!("nothing was pushed to {host}"), basis),
        Ending::Gone => Forecast::new(Act::Retain, format!("{host} has none any more"), basis),
        Ending::Left(problem) => {
            let reason = Some(problem.reason.as_str());
            Forecast { reason, ..Forecast::new(Act::Leave, problem.message.clone(), basis) }
        }
    }
}

/// How a claim ends by its policy alone.
pub(super) fn policy(claim: &KeyVaultCertificate) -> &'static str {
    match claim.spec.deletion_policy {
        DeletionPolicy::Delete => "Delete",
        DeletionPolicy::Retain => "Retain",
    }
}
