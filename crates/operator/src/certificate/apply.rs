//! One vault write: announced in the claim, carried out in a task that nothing cancels, its receipt handed to the report.
//! What to write was decided before.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use keyvault_sync_api::conditions::whole_seconds;
use keyvault_sync_api::{Act as ApiAct, InFlight, KeyVaultCertificate};
use keyvault_sync_core::facts::CertificateFacts;
use keyvault_sync_core::key::KeyType;
use keyvault_sync_core::names::CertificateName;
use keyvault_sync_core::pfx::{self, Pfx, PfxRandomness};
use keyvault_sync_core::push::{ANNOUNCE_TIME_LIMIT_SECS, Act, Look, Record, WRITE_TIME_LIMIT_SECS, Write};
use keyvault_sync_core::reason::{Problem, Reason};
use keyvault_sync_core::{chain::CertificateChain, ownership::Tags};
use keyvault_sync_vault::{Import, Landed, VaultClient, VaultError};
use kube::ResourceExt;
use kube::api::{Api, PostParams};
use kube::runtime::controller::Action;
use tokio::time::Instant;
use tracing::Instrument as _;

use super::observe::Route;
use super::status::{Deed, Outcome, Receipt};
use super::{MANDATE_RETRY, RACE_RETRY, Round, ask, now, observe};
use crate::context::Context;
use crate::kubernetes::{CallError, call};
use crate::sync::mandate;
use crate::traces;
use crate::watch::describe;

/// See [`ANNOUNCE_TIME_LIMIT_SECS`].
pub(super) const ANNOUNCE_TIME_LIMIT: Duration = Duration::from_secs(ANNOUNCE_TIME_LIMIT_SECS.unsigned_abs());

/// When a write is decided anew that the lease would not outlive.
const LEASE_RETRY: Duration = Duration::from_secs(1);

/// Whether the lease outlives a write, announcement and all, that begins now. Nothing is announced that is not begun.
pub(super) fn may_begin(context: &Context) -> bool {
    let write = Duration::from_secs(WRITE_TIME_LIMIT_SECS.unsigned_abs());
    context.lease.outlives(ANNOUNCE_TIME_LIMIT + write)
}

/// Carries out one write and ends the round.
pub(super) async fn write(mut round: Round<'_>, write: Write) -> Action {
    let Ok(route) = round.seen.route.clone() else {
        let problem = Problem::new(Reason::InternalError, "a write was decided without a way to the vault");
        return round.end(Outcome::problem(problem)).await;
    };
    let request = match prepare(&round, &write) {
        Ok(request) => request,
        Err(problem) => return round.end(Outcome::problem(problem)).await,
    };
    let client = match round.context.vaults.client(&route.vault.host, &route.identity) {
        Ok(client) => client,
        Err(error) => return round.end(Outcome::vault(&error, true)).await,
    };
    if round.context.stop.is_cancelled() {
        return Action::await_change();
    }
    if !may_begin(round.context) {
        return Action::requeue(LEASE_RETRY);
    }
    // Much may have happened while the Secret and the vault were read: the right to write is looked at again.
    match observe::route(&round.seen.claim, round.context) {
        Ok(now) if now.vault.host == route.vault.host && now.identity == route.identity => {}
        Ok(_) => return Action::requeue(RACE_RETRY),
        Err(problem) => return round.end(Outcome::problem(problem)).await,
    }
    if !mandate::is_meant(&round.seen.claim, round.context)
        || !mandate::asks_no_more(&round.seen.claim, round.context)
    {
        return Action::requeue(MANDATE_RETRY);
    }
    let announced = Instant::now();
    let announcing = announce(&round.seen.claim, round.context, &write);
    match announcing.instrument(tracing::info_span!("announce")).await {
        Ok(claim) => round.seen.claim = claim,
        Err(error) if error.is_race() => return Action::requeue(RACE_RETRY),
        Err(error) => return round.end(Outcome::problem(error.problem())).await,
    }
    if announced.elapsed() > ANNOUNCE_TIME_LIMIT {
        // Whoever reads the announcement would not wait long enough for a write that begins only now.
        tracing::warn!(
            name = round.seen.claim.name_any(),
            "the API server stored an announcement too slowly: no write is begun"
        );
        return Action::requeue(RACE_RETRY);
    }
    let answer = carry_out(client, operation(&write), route.name.clone(), request).await;
    round.context.met(&route.vault, operation(&write), &answer);
    let outcome = match answer {
        Ok(facts) => {
            if let Some(seen) = round.context.world.rounds.pushed(&round.seen.claim.uid().unwrap_or_default())
            {
                round.context.metrics.push_seconds.observe(Instant::now().duration_since(seen).as_secs_f64());
            }
            outcome(&round, write, facts)
        }
        Err(error) => not_done(&round, &route, &error).await,
    };
    round.end(outcome).await
}

/// What follows from a write that the vault did not carry out.
async fn not_done(round: &Round<'_>, route: &Route, error: &VaultError) -> Outcome {
    let outcome = Outcome::vault(error, error.landed == Landed::Unknown);
    if error.problem.reason != Reason::SoftDeleted || round.seen.observed.deleted != Look::Seen(None) {
        return outcome;
    }
    // The look before the import showed no soft-deleted certificate. Either a deletion was completed since, which another look
    // shows; or what is in the way is a key or a secret.
    let read = async |client: Arc<VaultClient>| client.deleted(&route.name).await;
    match ask(round.context, route, "get_deleted", read).await {
        Ok(Some(_)) => {
            let (host, name) = (&route.vault.host, &route.name);
            let message = format!("{host} has just completed the deletion of {name}; it is looked at again");
            Outcome::refused(Problem::new(Reason::BeingDeleted, message), &round.seen.observed)
        }
        Ok(None) | Err(_) => outcome,
    }
}

fn operation(write: &Write) -> &'static str {
    match write {
        Write::Import { .. } => "import",
        Write::Adopt { .. } | Write::Retag { .. } => "update",
        Write::Recover { .. } => "recover",
        Write::Delete => "delete",
    }
}

/// A write with everything it needs, ready to be sent.
enum Request {
    Import { pfx: Pfx, key_type: KeyType, exportable: bool, tags: Tags },
    Adopt { version: String, tags: Tags },
    Retag { version: String, tags: Tags },
    Recover,
    Delete,
}

fn prepare(round: &Round<'_>, write: &Write) -> Result<Request, Problem> {
    match write {
        Write::Retag { version, tags, .. } => {
            Ok(Request::Retag { version: version.clone(), tags: tags.clone() })
        }
        Write::Adopt { version, tags, .. } => {
            Ok(Request::Adopt { version: version.clone(), tags: tags.clone() })
        }
        Write::Recover { .. } => Ok(Request::Recover),
        Write::Delete => Ok(Request::Delete),
        Write::Import { tags, .. } => {
            let Some((chain, _)) = &round.seen.content else {
                return Err(Problem::new(
                    Reason::InternalError,
                    "an import was decided without the Secret's content",
                ));
            };
            let pfx = bundle(chain, round.context)?;
            Ok(Request::Import {
                pfx,
                key_type: chain.key_type(),
                exportable: round.seen.observed.desired.exportable,
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
pub(super) async fn announce(
    claim: &Arc<KeyVaultCertificate>,
    context: &Context,
    write: &Write,
) -> Result<Arc<KeyVaultCertificate>, CallError> {
    let announcement = write.announcement(now());
    let mut status = super::status::of(claim);
    status.claim_uid = claim.uid();
    // What an earlier announcement says of the content is not known otherwise, until its receipt.
    let announced = status.in_flight.take().and_then(|in_flight| in_flight.fingerprint);
    let announced = announced.filter(|_| announcement.act == Act::Delete);
    status.in_flight = Some(InFlight {
        act: match announcement.act {
            Act::Import => ApiAct::Import,
            Act::Adopt => ApiAct::Adopt,
            Act::Retag => ApiAct::Retag,
            Act::Recover => ApiAct::Recover,
            Act::Delete => ApiAct::Delete,
        },
        fingerprint: announcement.fingerprint.map(|fingerprint| fingerprint.to_string()).or(announced),
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
    let is_kept = changed.status.as_ref().zip(now.status.as_ref()).is_some_and(|(sent, stored)| {
        stored.claim_uid == sent.claim_uid && stored.in_flight.is_some() == sent.in_flight.is_some()
    });
    if !is_kept {
        // A definition of another version was put in our place since the start. Without a memory nothing more is begun.
        context.is_forgotten.store(true, Ordering::Release);
        context.stop.cancel();
        return Err(CallError::Dropped { what: "status of a claim" });
    }
    Ok(now)
}

/// Sends a write in a task of its own: whoever waits may go, the write is finished and its end is known.
async fn carry_out(
    client: Arc<VaultClient>,
    operation: &'static str,
    name: CertificateName,
    request: Request,
) -> Result<Option<CertificateFacts>, VaultError> {
    let span = traces::vault_call(operation, client.host().as_str());
    let sent = async move {
        match request {
            Request::Import { pfx, key_type, exportable, tags } => {
                let import = Import { pfx: &pfx, key_type, exportable, tags: &tags };
                client.import(&name, &import).await.map(Some)
            }
            Request::Adopt { version, tags } => client.adopt(&name, &version, &tags).await.map(Some),
            Request::Retag { version, tags } => client.set_tags(&name, &version, &tags).await.map(Some),
            Request::Recover => client.recover(&name).await.map(|()| None),
            Request::Delete => client.delete(&name).await.map(|()| None),
        }
    };
    let task = tokio::spawn(sent.instrument(span));
    task.await.unwrap_or_else(|error| {
        Err(VaultError::internal(
            format!("the task of a vault write ended early: {}", describe(&error)),
            Landed::Unknown,
        ))
    })
}

/// Deletes a certificate, announced before, in a task of its own.
pub(super) async fn delete(client: Arc<VaultClient>, name: CertificateName) -> Result<(), VaultError> {
    carry_out(client, operation(&Write::Delete), name, Request::Delete).await.map(drop)
}

/// What a write that was carried out leaves.
fn outcome(round: &Round<'_>, write: Write, facts: Option<CertificateFacts>) -> Outcome {
    let warning = round.seen.content.as_ref().and_then(|(chain, _)| chain.incomplete().map(str::to_owned));
    let memory = &round.seen.observed.memory;
    let is_enabled = facts.as_ref().is_none_or(|facts| facts.enabled);
    let receipt = match write {
        Write::Import { why, fingerprint, foreign_write, from, .. } => {
            let not_after = round.seen.content.as_ref().map_or(0, |(chain, _)| chain.not_after());
            let Some(facts) = facts else { return unanswered() };
            let record =
                Record { version: facts.version, thumbprint: facts.thumbprint, fingerprint, not_after };
            let deed = Deed::Imported { why, from };
            Receipt { record, deed, is_enabled, foreign_write, adopted_with: None, warning }
        }
        Write::Adopt { record, with, from, .. } => {
            let deed = Deed::Adopted { from };
            Receipt { record, deed, is_enabled, foreign_write: None, adopted_with: Some(with), warning }
        }
        Write::Retag { record, dropped, set, foreign_write, .. } => {
            let deed = Deed::Retagged { dropped, set };
            let adopted_with = memory.adopted_with.clone();
            Receipt { record, deed, is_enabled, foreign_write, adopted_with, warning }
        }
        Write::Recover { is_ours } => return Outcome::Recovered { is_ours },
        Write::Delete => return unanswered(),
    };
    Outcome::Written(Box::new(receipt))
}

fn unanswered() -> Outcome {
    Outcome::problem(Problem::new(
        Reason::InternalError,
        "a write to the vault has no answer that fits it: please report this",
    ))
}
