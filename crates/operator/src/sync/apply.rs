//! Claims made, changed and released as planned. A name is taken by POST, so that the API server gives it to one.
//! What was planned is not thought over here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::StreamExt;
use keyvault_sync_api::constants::{INSTALLATION_LABEL, SYNC_FIELD_MANAGER};
use keyvault_sync_api::{KeyVaultCertificate, KeyVaultCertificateSpec};
use keyvault_sync_core::claims::{ClaimAct, ClaimPlan, Held, SecretName, collision};
use keyvault_sync_core::names::{CertificateName, ClaimName};
use keyvault_sync_core::reason::{Problem, Reason};
use kube::ResourceExt;
use kube::api::{Api, PostParams};

use super::resolve::written;
use super::{absence, share, succession};
use crate::context::Context;
use crate::kubernetes::{CallError, call};
use crate::wisher::{Wisher, WisherKey};

/// Acts of one plan that are carried out at a time: a wish over hundreds of Secrets is done in seconds, and the API
/// server is left to others.
const AT_A_TIME: usize = 8;

/// What became of a plan.
pub(crate) struct Applied {
    /// For each row its claim, or why it has none.
    pub rows: Vec<Result<ClaimName, Problem>>,
    /// Claims that wait for a Secret that no row speaks of.
    pub lingering: Vec<(SecretName, ClaimName)>,
    /// Something lost a race: plan again soon.
    pub is_raced: bool,
    /// The API server did not confirm that something is gone: plan again.
    pub is_unconfirmed: bool,
    /// The claims whose change lost a race: what they say is of an earlier wish.
    pub raced: BTreeSet<ClaimName>,
}

/// Carries a plan out.
pub(crate) async fn acts(
    wisher: &Wisher,
    held: &BTreeMap<ClaimName, Held<KeyVaultCertificateSpec>>,
    plan: ClaimPlan<KeyVaultCertificateSpec>,
    context: &Context,
) -> Applied {
    let mut failed: BTreeMap<ClaimName, Problem> = BTreeMap::new();
    let mut raced = BTreeSet::new();
    let mut is_unconfirmed = false;
    let mut lost = plan.lost;
    let share = share::of(wisher, held, plan.acts, context).await;
    let takeovers = futures::stream::iter(share.relabelled)
        .map(|(name, holder)| share::take(name, holder, context))
        .buffer_unordered(AT_A_TIME);
    let mut ends: Vec<_> = takeovers.collect().await;
    let acts = futures::stream::iter(share.acts)
        .map(|act| carry_out(act, wisher, held, context))
        .buffer_unordered(AT_A_TIME);
    ends.extend(acts.collect::<Vec<_>>().await);
    for (name, end) in ends {
        match end {
            Ok(()) if share.taken.contains(&name) => share::took(wisher, &name, context),
            Ok(()) => {}
            Err(Failure::Race) => {
                raced.insert(name);
            }
            Err(Failure::Unconfirmed) => is_unconfirmed = true,
            Err(Failure::Problem(problem)) => {
                if problem.reason == Reason::NameCollision {
                    lost.insert(name.clone());
                }
                if !plan.rows.iter().any(|row| row.as_ref().is_ok_and(|of_row| *of_row == name)) {
                    // No row tells of it: it is tried again all the same.
                    tracing::warn!(name = %name, %problem, "a claim could not be changed");
                    is_unconfirmed = true;
                }
                failed.insert(name, problem);
            }
        }
    }
    let told = |name: ClaimName| failed.get(&name).map_or(Ok(name), |problem| Err(problem.clone()));
    let rows = plan.rows.into_iter().map(|row| row.and_then(told)).collect();
    let is_free = remember_losers(&wisher.key(), &lost, context);
    let is_raced = is_free || !raced.is_empty();
    Applied { rows, lingering: plan.lingering, is_raced, is_unconfirmed, raced }
}

/// Why an act was not carried out.
pub(crate) enum Failure {
    /// Somebody was faster: look again.
    Race,
    /// What is to be gone is there, or it cannot be told.
    Unconfirmed,
    /// It cannot be, for now.
    Problem(Problem),
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        if error.is_race() { Failure::Race } else { Failure::Problem(error.problem()) }
    }
}

async fn carry_out(
    act: ClaimAct<KeyVaultCertificateSpec>,
    wisher: &Wisher,
    held: &BTreeMap<ClaimName, Held<KeyVaultCertificateSpec>>,
    context: &Context,
) -> (ClaimName, Result<(), Failure>) {
    let holder = |name: &ClaimName| held.get(name).map_or("", |claim| claim.owner.uid.as_str());
    if !context.lease.leads() {
        // The plan is of a time before: whoever leads has made another.
        return (act.name().clone(), Err(Failure::Race));
    }
    match act {
        ClaimAct::Create(name, wanted) => {
            let end = create(&name, written(wanted), wisher, context).await;
            (name, end)
        }
        ClaimAct::Change(name, wanted) => {
            let spec = written(wanted);
            let end = change(&name, holder(&name), context, |claim| claim.spec = spec).await;
            (name, end)
        }
        ClaimAct::Settle(name, spec) => {
            let end = change(&name, holder(&name), context, |claim| settle(claim, spec)).await;
            (name, end)
        }
        ClaimAct::Release(name, why, confirm) => {
            let sources = held.get(&name).map_or(&[][..], |claim| &claim.sources);
            // Before every wish was planned once since the start, one of them may be about to take the claim over.
            if !context.world.is_every_wish_planned() || !absence::confirms(confirm, sources, context).await {
                return (name, Err(Failure::Unconfirmed));
            }
            let end = succession::give_up(&name, holder(&name), why, Some(wisher.push()), context).await;
            (name, end)
        }
    }
}

/// Tells a claim how it ends, and nothing else.
pub(crate) fn settle(claim: &mut KeyVaultCertificate, spec: KeyVaultCertificateSpec) {
    let (sources, release) = (claim.spec.sources.clone(), claim.spec.release.clone());
    claim.spec = KeyVaultCertificateSpec { sources, release, ..spec };
}

async fn create(
    name: &ClaimName,
    spec: KeyVaultCertificateSpec,
    wisher: &Wisher,
    context: &Context,
) -> Result<(), Failure> {
    let api: Api<KeyVaultCertificate> = Api::all(context.client.clone());
    let mut claim = KeyVaultCertificate::new(name.as_str(), spec);
    claim.labels_mut().insert(INSTALLATION_LABEL.into(), context.settings.installation.to_string());
    let params = PostParams { field_manager: Some(SYNC_FIELD_MANAGER.into()), ..PostParams::default() };
    match call("a new claim", api.create(&params, &claim)).await {
        Ok(_) => Ok(()),
        // Somebody has the name. A stale cache shows our own claim as missing; then nothing happened.
        Err(error) if error.is_conflict() => {
            let there = call("a claim", api.get(name.as_str())).await?;
            if there.spec.owner.uid == wisher.uid() {
                return Ok(());
            }
            if WisherKey::of(&there) == wisher.key() {
                // Our predecessor's, which a stale cache did not show: taken over at the next plan.
                return Err(Failure::Race);
            }
            let certificate =
                CertificateName::parse(&claim.spec.certificate_name).map_err(Failure::Problem)?;
            Err(Failure::Problem(collision(&certificate, &crate::owner::of(&there))))
        }
        // A new object that is not found: its kind is not there.
        Err(error) => Err(Failure::Problem(error.problem())),
    }
}

/// Changes a claim, if it still has the holder (by uid) that the plan saw: no claim is taken or released that went to
/// somebody else meanwhile.
pub(crate) async fn change(
    name: &ClaimName,
    holder: &str,
    context: &Context,
    edit: impl FnOnce(&mut KeyVaultCertificate),
) -> Result<(), Failure> {
    let Some(shown) = context.world.claim(name.as_str()) else { return Err(Failure::Race) };
    let before = context.world.written.newest(shown);
    if before.spec.owner.uid != holder {
        return Err(Failure::Race);
    }
    let mut claim = KeyVaultCertificate::clone(&before);
    edit(&mut claim);
    claim.labels_mut().insert(INSTALLATION_LABEL.into(), context.settings.installation.to_string());
    let api: Api<KeyVaultCertificate> = Api::all(context.client.clone());
    let params = PostParams { field_manager: Some(SYNC_FIELD_MANAGER.into()), ..PostParams::default() };
    let now = call("a claim", api.replace(name.as_str(), &params, &claim)).await?;
    context.world.written.note(&before, Arc::new(now));
    Ok(())
}

/// Who loses a name is told when it is free again. `true`: it is free already.
fn remember_losers(wisher: &WisherKey, lost: &BTreeSet<ClaimName>, context: &Context) -> bool {
    for name in lost {
        context.world.is_loser(name.as_str(), wisher.clone());
    }
    lost.iter().any(|name| context.world.claim(name.as_str()).is_none())
}
