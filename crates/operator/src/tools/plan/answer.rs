//! What a plan says: its shape for programs, and the tables for people.
//! What stands in it is left to `plan` and `forecast`.

use std::collections::BTreeMap;

use keyvault_sync_api::{KeyVaultCertificate, KeyVaultCertificateSpec, ReleaseWhy as ApiWhy};
use keyvault_sync_core::claims::{ReleaseWhy, Row, SecretName};
use keyvault_sync_core::names::ClaimName;
use keyvault_sync_core::reason::Problem;
use kube::ResourceExt;
use serde::Serialize;

use super::forecast::{Act, Basis, Door, Forecast, policy};
use super::place;
use crate::sync::resolve::Wish;
use crate::tools::table::Table;
use crate::wisher::{Wisher, WisherKey};

/// A plan.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Plan {
    pub resources: Vec<Resource>,
    pub vaults: Vec<Vault>,
    /// Resources that this installation does not serve, as KIND/NAME: another does, or none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_served: Vec<String>,
    /// How many certificates are refused.
    pub refused: usize,
}

/// One resource.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Resource {
    pub kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    pub name: String,
    /// It is planned as a file has it.
    pub of_file: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vault: Option<String>,
    /// What is wrong with it as a whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<Told>,
    pub certificates: Vec<Certificate>,
    pub given_up: Vec<Ending>,
}

/// A reason and a sentence.
#[derive(Debug, Serialize)]
pub(super) struct Told {
    reason: &'static str,
    message: String,
}

/// One Secret's certificate.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Certificate {
    /// `namespace/name`
    pub secret: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vault: Option<String>,
    /// Its name in the vault.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub claim: Option<Claim>,
    #[serde(flatten)]
    pub forecast: Forecast,
}

/// A claim, and what becomes of it in the cluster.
#[derive(Debug, Serialize)]
pub(super) struct Claim {
    pub name: String,
    pub act: ClaimAct,
}

/// What becomes of a claim in the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) enum ClaimAct {
    Create,
    Change,
    Keep,
}

/// A claim that is given up.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Ending {
    pub claim: String,
    pub vault: String,
    pub name: String,
    pub why: &'static str,
    pub deletion_policy: &'static str,
    #[serde(flatten)]
    pub forecast: Forecast,
}

/// A vault, and whether it was looked at.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Vault {
    #[serde(flatten)]
    pub door: Door,
    pub looked_at: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

impl Resource {
    /// Without its certificates.
    pub(super) fn of(wisher: &Wisher, wish: &Wish, of_file: bool) -> Self {
        let mut resource = Self::gone(&wisher.key());
        resource.of_file = of_file;
        resource.vault = wish.vault.as_ref().ok().map(|vault| vault.host.to_string());
        resource.problem = wish.whole.as_ref().err().map(told);
        resource
    }

    /// One that is not there.
    pub(super) fn gone(key: &WisherKey) -> Self {
        Self {
            kind: key.kind.as_str(),
            namespace: (!key.namespace.is_empty()).then(|| key.namespace.clone()),
            name: key.name.clone(),
            of_file: false,
            vault: None,
            problem: None,
            certificates: Vec::new(),
            given_up: Vec::new(),
        }
    }
}

fn told(problem: &Problem) -> Told {
    Told { reason: problem.reason.as_str(), message: problem.message.clone() }
}

impl Certificate {
    pub(super) fn of(
        row: &Row<KeyVaultCertificateSpec>,
        wish: &Wish,
        claim: &ClaimName,
        act: ClaimAct,
        forecast: Forecast,
    ) -> Self {
        let claim = Some(Claim { name: claim.as_str().to_owned(), act });
        Self { claim, forecast, ..Self::bare(row, wish) }
    }

    pub(super) fn refused(row: &Row<KeyVaultCertificateSpec>, wish: &Wish, problem: Problem) -> Self {
        Self { forecast: Forecast::problem(problem, Basis::Cluster), ..Self::bare(row, wish) }
    }

    fn bare(row: &Row<KeyVaultCertificateSpec>, wish: &Wish) -> Self {
        Self {
            secret: row.source.secret.to_string(),
            vault: wish.vault.as_ref().ok().map(|vault| vault.host.to_string()),
            name: row.name.as_ref().map(|(name, _)| name.as_str().to_owned()),
            claim: None,
            forecast: Forecast::unknown(),
        }
    }

    /// One whose Secret is gone, and waited for.
    pub(super) fn lingering(secret: &SecretName, claim: &ClaimName, act: ClaimAct) -> Self {
        let message = "the Secret is gone; the certificate is kept until it comes back or its time is over";
        Self {
            secret: secret.to_string(),
            vault: None,
            name: None,
            claim: Some(Claim { name: claim.as_str().to_owned(), act }),
            forecast: Forecast::new(Act::Wait, message.to_owned(), Basis::Cluster),
        }
    }
}

impl Ending {
    fn new(claim: &KeyVaultCertificate, why: &'static str, forecast: Forecast) -> Self {
        Self {
            claim: claim.name_any(),
            vault: claim.spec.vault_host.clone(),
            name: claim.spec.certificate_name.clone(),
            why,
            deletion_policy: policy(claim),
            forecast,
        }
    }

    /// What becomes of it is looked at.
    pub(super) fn released(claim: &KeyVaultCertificate, why: ReleaseWhy) -> Self {
        Self::new(claim, word(why), Forecast::unknown())
    }

    /// It was given up before.
    pub(super) fn begun(claim: &KeyVaultCertificate, why: ApiWhy) -> Self {
        let why = match why {
            ApiWhy::EntryGone => ReleaseWhy::EntryGone,
            ApiWhy::OwnerGone => ReleaseWhy::OwnerGone,
            ApiWhy::VaultChanged => ReleaseWhy::VaultChanged,
            ApiWhy::SecretGone => ReleaseWhy::SecretGone,
        };
        Self::released(claim, why)
    }

    /// The API server does not say that it is gone.
    pub(super) fn unconfirmed(claim: &KeyVaultCertificate, why: ReleaseWhy) -> Self {
        let message = "kept: the API server does not confirm that what it was for is gone";
        Self::new(claim, word(why), Forecast::new(Act::Wait, message.to_owned(), Basis::Cluster))
    }

    /// Somebody else wants it.
    pub(super) fn handed_over(
        claim: &KeyVaultCertificate,
        why: ReleaseWhy,
        heir: &KeyVaultCertificateSpec,
    ) -> Self {
        let heir = place(heir.owner.namespace.as_deref().unwrap_or_default(), &heir.owner.name);
        let message = format!("goes to {heir} as it is; nothing changes in the vault for that");
        Self::new(claim, word(why), Forecast::new(Act::HandOver, message, Basis::Cluster))
    }
}

fn word(why: ReleaseWhy) -> &'static str {
    match why {
        ReleaseWhy::EntryGone => "EntryGone",
        ReleaseWhy::VaultChanged => "VaultChanged",
        ReleaseWhy::OwnerGone => "OwnerGone",
        ReleaseWhy::SecretGone => "SecretGone",
    }
}

impl Plan {
    pub(super) fn new(resources: Vec<Resource>, vaults: Vec<(Door, Option<Problem>)>) -> Self {
        let is_refused = |forecast: &Forecast| match forecast.act {
            Act::Refuse | Act::Leave => true,
            Act::Import
            | Act::Adopt
            | Act::Retag
            | Act::Recover
            | Act::InSync
            | Act::Copy
            | Act::Wait
            | Act::Suspended
            | Act::Delete
            | Act::Retain
            | Act::HandOver
            | Act::Unknown => false,
        };
        let refused = resources.iter().map(|resource| {
            let certificates = resource.certificates.iter().map(|one| &one.forecast);
            let ends = resource.given_up.iter().map(|one| &one.forecast);
            let refused = certificates.chain(ends).filter(|forecast| is_refused(forecast)).count();
            // Without a certificate to say it, the resource itself does.
            refused.max(usize::from(resource.problem.is_some()))
        });
        let refused = refused.sum();
        let vaults = vaults.into_iter().map(|(door, problem)| Vault {
            door,
            looked_at: problem.is_none(),
            message: problem.map(|problem| problem.message),
        });
        Self { resources, vaults: vaults.collect(), not_served: Vec::new(), refused }
    }

    /// For people.
    pub(super) fn text(&self, width: Option<usize>) -> String {
        let mut text = String::new();
        for resource in &self.resources {
            text.push_str(&resource.text(width));
            text.push('\n');
        }
        if !self.not_served.is_empty() {
            text.push_str(&format!(
                "not served by this installation (--resource-selector, --watch-namespaces): {}\n",
                self.not_served.join(", ")
            ));
        }
        for vault in self.vaults.iter().filter(|vault| !vault.looked_at) {
            let why = vault.message.as_deref().unwrap_or_default();
            text.push_str(&format!(
                "{} was not looked at: {why}; what is said of it is as recorded\n",
                vault.door.host
            ));
        }
        text.push_str(&self.sum());
        text
    }

    fn sum(&self) -> String {
        let mut counts: BTreeMap<&'static str, usize> = BTreeMap::new();
        for resource in &self.resources {
            for certificate in &resource.certificates {
                *counts.entry(phrase(certificate.forecast.act)).or_default() += 1;
            }
            for ending in &resource.given_up {
                *counts.entry(phrase(ending.forecast.act)).or_default() += 1;
            }
        }
        if counts.is_empty() {
            return "Nothing to do. Nothing was written.\n".to_owned();
        }
        let counts: Vec<String> = counts.into_iter().map(|(what, count)| format!("{count} {what}")).collect();
        format!("Plan: {}. Nothing was written.\n", counts.join(", "))
    }
}

fn phrase(act: Act) -> &'static str {
    match act {
        Act::Import => "to import",
        Act::Adopt => "to adopt",
        Act::Retag => "to tag",
        Act::Recover => "to recover",
        Act::InSync => "in step",
        Act::Copy => "sharing another's",
        Act::Wait => "waiting",
        Act::Suspended => "suspended",
        Act::Refuse => "refused",
        Act::Delete => "to delete",
        Act::Retain => "to let go",
        Act::Leave => "left in the vault",
        Act::HandOver => "handed over",
        Act::Unknown => "not looked at",
    }
}

impl Resource {
    fn text(&self, width: Option<usize>) -> String {
        let name = place(self.namespace.as_deref().unwrap_or_default(), &self.name);
        let vault = self.vault.as_ref().map(|vault| format!(" → {vault}")).unwrap_or_default();
        let of_file = if self.of_file { ", as the file has it" } else { "" };
        let mut text = format!("{} {name}{vault}{of_file}\n", self.kind);
        if let Some(problem) = &self.problem {
            text.push_str(&format!("{}: {}\n", problem.reason, problem.message));
        }
        let mut table = Table::new(["SECRET", "NAME", "CLAIM", "ACT", "MESSAGE"]);
        for certificate in &self.certificates {
            table.row(certificate.cells());
        }
        for ending in &self.given_up {
            let act = format!("{} ({})", word_of(&ending.forecast), ending.why);
            let message = ending.forecast.message.clone();
            table.row(["-".into(), ending.name.clone(), "Release".into(), act, message]);
        }
        if self.certificates.is_empty() && self.given_up.is_empty() {
            text.push_str("no Secret is listed or selected\n");
            return text;
        }
        text.push_str(&table.text(width));
        text
    }
}

impl Certificate {
    fn cells(&self) -> [String; 5] {
        let claim = match self.claim.as_ref().map(|claim| claim.act) {
            Some(ClaimAct::Create) => "Create",
            Some(ClaimAct::Change) => "Change",
            Some(ClaimAct::Keep) => "Keep",
            None => "-",
        };
        let later = if self.forecast.at_comparison { " (at the next comparison)" } else { "" };
        let message = format!("{}{later}", self.forecast.message);
        let name = self.name.clone().unwrap_or_else(|| "-".to_owned());
        [self.secret.clone(), name, claim.to_owned(), word_of(&self.forecast), message]
    }
}

/// `Import(New)`
fn word_of(forecast: &Forecast) -> String {
    match forecast.reason {
        Some(reason) => format!("{:?}({reason})", forecast.act),
        None => format!("{:?}", forecast.act),
    }
}
