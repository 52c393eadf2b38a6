//! One vault write: announced in the claim, carried out in a task that nothing cancels, its receipt handed to the report.
//! And the end of a claim that is given up. What to write was decided before.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use keyvault_sync_api::conditions::whole_seconds;
use keyvault_sync_api::{Act as ApiAct, DeletionPolicy, InFlight, KeyVaultCertificate};
use keyvault_sync_core::facts::CertificateFacts;
use keyvault_sync_core::key::KeyType;
use keyvault_sync_core::names::CertificateName;
use keyvault_sync_core::pfx::{self, Pfx, PfxRandomness};
use keyvault_sync_core::push::{ANNOUNCE_TIME_LIMIT_SECS, Act, Record, Write};
use keyvault_sync_core::reason::{Problem, Reason};
use keyvault_sync_core::{chain::CertificateChain, ownership::Tags};
use keyvault_sync_vault::{Import, Landed, VaultClient, VaultError};
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, PostParams, Preconditions};
use kube::runtime::controller::Action;
use tokio::time::Instant;

use super::status::{Outcome, Receipt};
use super::{RACE_RETRY, Round, now, observe};
use crate::context::Context;
use crate::kubernetes::{CallError, call};
use crate::watch::describe;

/// See [`ANNOUNCE_TIME_LIMIT_SECS`].
const ANNOUNCE_TIME_LIMIT: Duration = Duration::from_secs(ANNOUNCE_TIME_LIMIT_SECS.unsigned_abs());
/// When a claim that could not be removed is tried again.
const GIVE_UP_RETRY: Duration = Duration::from_secs(5);

/// Carries out one write and ends the round.
pub(super) async fn write(mut round: Round<'_>, write: Write) -> Action {
    let Ok(route) = round.route.clone() else {
        let problem = Problem::new(Reason::InternalError, "a write was decided without a way to the vault");
        return round.end(Outcome::problem(problem)).await;
    };
    let request = match prepare(&round, &write) {
        Ok(request) => request,
        Err(problem) => return round.end(Outcome::problem(problem)).await,
    };
    let client = match round.context.vaults.client(&route.vault.host, &route.vault.identity) {
        Ok(client) => client,
        Err(error) => return round.end(Outcome::vault(&error, true)).await,
    };
    if round.context.stop.is_cancelled() {
        return Action::await_change();
    }
    // Much may have happened while the Secret and the vault were read: the right to write is looked at again.
    match observe::route(&round.claim, round.context) {
        Ok(now) if now.vault.host == route.vault.host && now.vault.identity == route.vault.identity => {}
        Ok(_) => return Action::requeue(RACE_RETRY),
        Err(problem) => return round.end(Outcome::problem(problem)).await,
    }
    let announced = Instant::now();
    match announce(&round.claim, round.context, &write).await {
        Ok(claim) => round.claim = claim,
        Err(error) if error.is_race() => return Action::requeue(RACE_RETRY),
        Err(error) => return round.end(Outcome::problem(error.problem())).await,
    }
    if announced.elapsed() > ANNOUNCE_TIME_LIMIT {
        // Whoever reads the announcement would not wait long enough for a write that begins only now.
        tracing::warn!(
            name = round.claim.name_any(),
            "the API server stored an announcement too slowly: no write is begun"
        );
        return Action::requeue(RACE_RETRY);
    }
    let answer = carry_out(client, route.name.clone(), request).await;
    let operation = match write {
        Write::Import { .. } => "import",
        Write::Retag { .. } => "update",
    };
    round.context.met(&route.vault, operation, &answer);
    let outcome = match answer {
        Ok(facts) => {
            let receipt = receipt(&round, write, facts);
            if let Some(seen) = round.context.world.rounds.pushed(&round.claim.uid().unwrap_or_default()) {
                round.context.metrics.push_seconds.observe(Instant::now().duration_since(seen).as_secs_f64());
            }
            Outcome::Written(Box::new(receipt))
        }
        Err(error) => Outcome::vault(&error, error.landed == Landed::Unknown),
    };
    round.end(outcome).await
}

/// A write with everything it needs, ready to be sent.
enum Request {
    Import { pfx: Pfx, key_type: KeyType, exportable: bool, tags: Tags },
    Retag { version: String, tags: Tags },
}

fn prepare(round: &Round<'_>, write: &Write) -> Result<Request, Problem> {
    match write {
        Write::Retag { version, tags, .. } => {
            Ok(Request::Retag { version: version.clone(), tags: tags.clone() })
        }
        Write::Import { tags, .. } => {
            let Some((chain, _)) = &round.content else {
                return Err(Problem::new(
                    Reason::InternalError,
                    "an import was decided without the Secret's content",
                ));
            };
            let pfx = bundle(chain, round.context)?;
            Ok(Request::Import {
                pfx,
                key_type: chain.key_type(),
                exportable: round.observed.desired.exportable,
                tags: tags.clone(),
            })
        }
    }
}

fn bundle(chain: &CertificateChain, context: &Context) -> Result<Pfx, Problem> {
    let randomness = PfxRandomness::fill_with(getrandom::fill).map_err(|error| {
        Problem::new(Reason::InternalError, format!("the operating system gave no random bytes: {error}"))
    })?;
    pfx::encode(chain, context.settings.pfx_encryption, randomness)
}

/// Says in the claim what is about to be done, so that whoever comes after a crash knows where to look.
async fn announce(
    claim: &Arc<KeyVaultCertificate>,
    context: &Context,
    write: &Write,
) -> Result<Arc<KeyVaultCertificate>, CallError> {
    let announcement = write.announcement(now());
    let mut status = claim.status.clone().unwrap_or_default();
    status.in_flight = Some(InFlight {
        act: match announcement.act {
            Act::Import => ApiAct::Import,
            Act::Retag => ApiAct::Retag,
        },
        fingerprint: Some(announcement.fingerprint.to_string()),
        since: whole_seconds(Timestamp::from_second(announcement.since).unwrap_or_default()),
    });
    replace_status(claim, context, status).await
}

/// Replaces a claim's status, if it is still the edition that was looked at.
pub(super) async fn replace_status(
    claim: &Arc<KeyVaultCertificate>,
    context: &Context,
    status: keyvault_sync_api::KeyVaultCertificateStatus,
) -> Result<Arc<KeyVaultCertificate>, CallError> {
    let mut changed = KeyVaultCertificate::clone(claim);
    changed.status = Some(status);
    let api: Api<KeyVaultCertificate> = Api::all(context.client.clone());
    let name = claim.name_any();
    let now = call("status of a claim", api.replace_status(&name, &PostParams::default(), &changed)).await?;
    let now = Arc::new(now);
    context.world.written.note(claim, Arc::clone(&now));
    Ok(now)
}

/// Sends a write in a task of its own: whoever waits may go, the write is finished and its end is known.
async fn carry_out(
    client: Arc<VaultClient>,
    name: CertificateName,
    request: Request,
) -> Result<CertificateFacts, VaultError> {
    let task = tokio::spawn(async move {
        match request {
            Request::Import { pfx, key_type, exportable, tags } => {
                client.import(&name, &Import { pfx: &pfx, key_type, exportable, tags: &tags }).await
            }
            Request::Retag { version, tags } => client.set_tags(&name, &version, &tags).await,
        }
    });
    task.await.unwrap_or_else(|error| {
        Err(VaultError::internal(
            format!("the task of a vault write ended early: {}", describe(&error)),
            Landed::Unknown,
        ))
    })
}

fn receipt(round: &Round<'_>, write: Write, facts: CertificateFacts) -> Receipt {
    let warning = round.content.as_ref().and_then(|(chain, _)| chain.incomplete().map(str::to_owned));
    match write {
        Write::Import { why, fingerprint, foreign_write, .. } => {
            let not_after = round.content.as_ref().map_or(0, |(chain, _)| chain.not_after());
            let record =
                Record { version: facts.version, thumbprint: facts.thumbprint, fingerprint, not_after };
            Receipt { record, why: Some(why), foreign_write, dropped: vec![], set: vec![], warning }
        }
        Write::Retag { record, dropped, set, .. } => {
            let foreign_write = round.observed.memory.foreign_write.clone();
            Receipt { record, why: None, foreign_write, dropped, set, warning }
        }
    }
}

/// Ends a claim that is given up. With `Retain` the vault is not touched; nothing else is built so far, and a claim that
/// asks for more stays.
pub(super) async fn give_up(claim: &KeyVaultCertificate, context: &Context) -> Action {
    if claim.spec.deletion_policy != DeletionPolicy::Retain {
        tracing::error!(
            kind = "KeyVaultCertificate",
            name = claim.name_any(),
            "a claim asks for deletion in the vault, which this version does not do: it stays"
        );
        return Action::await_change();
    }
    let api: Api<KeyVaultCertificate> = Api::all(context.client.clone());
    let params = DeleteParams {
        preconditions: Some(Preconditions { uid: claim.uid(), resource_version: claim.resource_version() }),
        ..DeleteParams::default()
    };
    match call("removal of a claim", api.delete(&claim.name_any(), &params)).await {
        Ok(_) => {
            tracing::info!(
                kind = "KeyVaultCertificate",
                name = claim.name_any(),
                namespace = crate::owner::namespace(claim),
                "claim given up; the certificate stays in the vault"
            );
            Action::await_change()
        }
        Err(error) if error.is_race() => Action::requeue(RACE_RETRY),
        Err(error) => {
            tracing::warn!(kind = "KeyVaultCertificate", name = claim.name_any(), error = %describe(&error), "claim not removed");
            Action::requeue(GIVE_UP_RETRY)
        }
    }
}
