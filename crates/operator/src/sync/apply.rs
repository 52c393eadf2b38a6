//! Claims made, changed and released as planned. A name is taken by POST, so that the API server gives it to one.
//! What was planned is not thought over here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use keyvault_sync_api::constants::{INSTALLATION_LABEL, SYNC_FIELD_MANAGER};
use keyvault_sync_api::{KeyVaultCertificate, KeyVaultCertificateSpec, KeyVaultSync};
use keyvault_sync_core::claims::{ClaimAct, ClaimPlan, Held, collision};
use keyvault_sync_core::names::{CertificateName, ClaimName};
use keyvault_sync_core::reason::{Problem, Reason};
use kube::ResourceExt;
use kube::api::{Api, PostParams};
use kube::runtime::reflector::ObjectRef;

use super::resolve::Wish;
use super::succession::give_up;
use crate::context::Context;
use crate::kubernetes::{CallError, call};

/// What became of a plan.
pub(crate) struct Applied {
    /// For each row its claim, or why it has none.
    pub rows: Vec<Result<ClaimName, Problem>>,
    /// Something lost a race: plan again soon.
    pub is_raced: bool,
    /// The claims whose change lost it: what they say is of an earlier wish.
    pub raced: BTreeSet<ClaimName>,
}

/// Carries a plan out.
pub(crate) async fn acts(
    sync: &KeyVaultSync,
    wish: &Wish,
    held: &BTreeMap<ClaimName, Held<KeyVaultCertificateSpec>>,
    plan: ClaimPlan<KeyVaultCertificateSpec>,
    context: &Context,
) -> Applied {
    let mut failed: BTreeMap<ClaimName, Problem> = BTreeMap::new();
    let mut raced = BTreeSet::new();
    let holder = |name: &ClaimName| held.get(name).map_or("", |claim| claim.owner.uid.as_str());
    for act in plan.acts {
        let (name, result) = match act {
            ClaimAct::Create(name, spec) => {
                let result = create(&name, spec, sync, context).await;
                (name, result)
            }
            ClaimAct::Change(name, spec) => {
                let result = change(&name, holder(&name), context, |claim| claim.spec = spec).await;
                (name, result)
            }
            ClaimAct::Release(name, why) => {
                let result = give_up(&name, holder(&name), why, context).await;
                (name, result)
            }
        };
        match result {
            Ok(()) => {}
            Err(Failure::Race) => {
                raced.insert(name);
            }
            Err(Failure::Problem(problem)) => {
                failed.insert(name, problem);
            }
        }
    }
    let rows =
        plan.rows.into_iter().map(|row| row.and_then(|name| failed.remove(&name).map_or(Ok(name), Err)));
    let rows: Vec<_> = rows.collect();
    let is_free = remember_losers(sync, wish, &rows, context);
    Applied { rows, is_raced: is_free || !raced.is_empty(), raced }
}

/// Why an act was not carried out.
pub(crate) enum Failure {
    /// Somebody was faster: look again.
    Race,
    /// It cannot be, for now.
    Problem(Problem),
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        if error.is_race() { Failure::Race } else { Failure::Problem(error.problem()) }
    }
}

async fn create(
    name: &ClaimName,
    spec: KeyVaultCertificateSpec,
    sync: &KeyVaultSync,
    context: &Context,
) -> Result<(), Failure> {
    let api: Api<KeyVaultCertificate> = Api::all(context.client.clone());
    let mut claim = KeyVaultCertificate::new(name.as_str(), spec);
    claim.labels_mut().insert(INSTALLATION_LABEL.into(), context.settings.installation.clone());
    let params = PostParams { field_manager: Some(SYNC_FIELD_MANAGER.into()), ..PostParams::default() };
    match call("a new claim", api.create(&params, &claim)).await {
        Ok(_) => Ok(()),
        // Somebody has the name. A stale cache shows our own claim as missing; then nothing happened.
        Err(error) if error.is_conflict() => {
            let there = call("a claim", api.get(name.as_str())).await?;
            if Some(&there.spec.owner.uid) == sync.uid().as_ref() {
                return Ok(());
            }
            if there.spec.owner.name == sync.name_any()
                && Some(crate::owner::namespace(&there)) == sync.namespace().as_deref()
            {
                // Our predecessor's, which a stale cache did not show: taken over at the next plan.
                return Err(Failure::Race);
            }
            let certificate =
                CertificateName::parse(&claim.spec.certificate_name).map_err(Failure::Problem)?;
            Err(Failure::Problem(collision(&certificate, &crate::owner::of(&there))))
        }
        Err(error) => Err(error.into()),
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
    claim.labels_mut().insert(INSTALLATION_LABEL.into(), context.settings.installation.clone());
    let api: Api<KeyVaultCertificate> = Api::all(context.client.clone());
    let params = PostParams { field_manager: Some(SYNC_FIELD_MANAGER.into()), ..PostParams::default() };
    let now = call("a claim", api.replace(name.as_str(), &params, &claim)).await?;
    context.world.written.note(&before, Arc::new(now));
    Ok(())
}

/// Who loses a name is told when it is free again. `true`: it is free already.
fn remember_losers(
    sync: &KeyVaultSync,
    wish: &Wish,
    rows: &[Result<ClaimName, Problem>],
    context: &Context,
) -> bool {
    let mut is_free = false;
    for (row, outcome) in wish.rows.iter().zip(rows) {
        let (Err(problem), Some((_, name))) = (outcome, &row.name) else { continue };
        if problem.reason == Reason::NameCollision {
            context.world.is_loser(name.as_str(), ObjectRef::from_obj(sync));
            is_free |= context.world.claim(name.as_str()).is_none() && !is_wanted_twice(wish, name);
        }
    }
    is_free
}

fn is_wanted_twice(wish: &Wish, name: &ClaimName) -> bool {
    wish.rows.iter().filter(|row| row.name.as_ref().is_some_and(|(_, other)| other == name)).count() > 1
}
