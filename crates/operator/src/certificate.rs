//! The certificate controller: one claim → the vault. Observe, resolve, decide, apply, report, one vault write a round.
//! Which claims there are is left to the sync controller; what to do, to `keyvault_sync_core::push`.

pub(crate) mod apply;
pub(crate) mod copies;
pub(crate) mod evidence;
pub(crate) mod observe;
pub(crate) mod release;
pub(crate) mod resolve;
pub(crate) mod status;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use keyvault_sync_api::KeyVaultCertificate;
use keyvault_sync_core::push::Next;
use keyvault_sync_core::reason::{Problem, Reason};
use keyvault_sync_vault::{VaultClient, VaultError};
use kube::ResourceExt;
use kube::runtime::controller::Action;
use tokio::time::Instant;
use tracing::{Instrument as _, Span};

use crate::context::Context;
use crate::pace::{Permit, Turn};
use crate::sync::mandate;
use crate::traces::{self, Root};
use evidence::{Evidence, Step};
use observe::Route;
use status::Outcome;

/// A round looks at most at the Secret, the newest, the recorded and the deleted version and the owner, twice if it had to wait
/// for its turn.
pub(crate) const STEPS_MAX: usize = 12;
/// When a round that the end of the operator cut short would come again.
const STOPPING: Duration = Duration::from_secs(60);
/// When a claim that says more than its owner does is looked at again, unless that one's plan has changed it before.
const MANDATE_RETRY: Duration = Duration::from_secs(30);
/// What a race with another writer costs.
pub(crate) const RACE_RETRY: Duration = Duration::from_millis(250);

/// Works on one claim.
pub(crate) async fn reconcile(
    claim: Arc<KeyVaultCertificate>,
    context: Arc<Context>,
) -> Result<Action, Infallible> {
    if context.stop.is_cancelled() {
        return Ok(Action::await_change());
    }
    let claim = context.world.written.newest(claim);
    if !context.world.works(&claim) {
        return Ok(Action::await_change());
    }
    if claim.spec.release.is_some() {
        return Ok(release::give_up(claim, &context).await);
    }
    if !context.world.has_owner(&claim) {
        // Nobody wishes for it now. It is not looked at either: one restored from a backup would remember what it found as its own,
        // and that is what is deleted when `orphan` gives it up.
        return Ok(Action::await_change());
    }
    if !mandate::is_meant(&claim, &context) {
        // Nor if its owner does not mean its Secrets: what is written there may be of yesterday, or forged.
        return Ok(Action::requeue(MANDATE_RETRY));
    }
    let uid = claim.uid().unwrap_or_default();
    let round = Round::begin(claim, &context);
    let (span, root) = round.traced(context.world.rounds.change_seen(&uid));
    let action = round.run().instrument(span).await;
    drop(root);
    Ok(action)
}

/// One round over one claim.
struct Round<'a> {
    context: &'a Context,
    /// What it decides from.
    seen: Evidence<'a>,
    permit: Option<Permit>,
    /// The claim was released while the round waited for its turn.
    given_up: bool,
}

impl<'a> Round<'a> {
    fn begin(claim: Arc<KeyVaultCertificate>, context: &'a Context) -> Self {
        Self { context, seen: Evidence::new(claim, context), permit: None, given_up: false }
    }

    /// None for a round that will look at nothing, as nearly all are.
    fn traced(&self, seen: Option<Instant>) -> (Span, Root) {
        match self.seen.decide() {
            Next::InSync { .. } | Next::Suspended | Next::Refuse(_) | Next::Wait { .. } => {
                (Span::none(), Root::default())
            }
            Next::ReadSecret
            | Next::ReadNewest
            | Next::ReadRecorded
            | Next::ReadDeleted
            | Next::AskOwner(_)
            | Next::Write(_) => traces::round(status::subject(&self.seen.claim), seen),
        }
    }

    async fn run(mut self) -> Action {
        for _ in 0..STEPS_MAX {
            let next = self.seen.decide();
            if next == Next::ReadNewest {
                match self.turn().await {
                    Ok(true) => {}
                    Ok(false) => continue,
                    Err(outcome) => return self.end_or_later(outcome).await,
                }
            }
            let outcome = match self.seen.look(next).await {
                Step::Looked => continue,
                Step::Act(Next::Write(write)) => return apply::write(self, write).await,
                Step::Act(Next::Wait { until }) => return wait_until(until, self.seen.observed.now),
                Step::Act(Next::Suspended) => Outcome::Suspended,
                Step::Act(Next::Refuse(problem)) => Outcome::refused(problem, &self.seen.observed),
                Step::Act(_) => Outcome::problem(Problem::new(
                    Reason::InternalError,
                    "a look was taken for an act: please report this",
                )),
                Step::InSync { record, warning } => Outcome::InSync { record, warning },
                Step::End(outcome) => outcome,
                Step::Vault(error) => Outcome::vault(&error, true),
            };
            return self.end_or_later(outcome).await;
        }
        let problem = Problem::new(
            Reason::InternalError,
            format!(
                "no decision on {} after {STEPS_MAX} steps: please report this",
                self.seen.claim.name_any()
            ),
        );
        self.end(Outcome::problem(problem)).await
    }

    /// Takes a turn at the vault. `false`: it was waited for, decide again. An error ends the round.
    async fn turn(&mut self) -> Result<bool, Outcome> {
        let route = self.seen.route.clone().map_err(Outcome::problem)?;
        match self.take_turn(&route).await {
            Ok(true) => Ok(true),
            Ok(false) if self.given_up => Err(Outcome::Later(RACE_RETRY)),
            Ok(false) if self.context.stop.is_cancelled() => Err(Outcome::Later(STOPPING)),
            Ok(false) => Ok(false),
            Err(pause) => Err(Outcome::paused(&route.vault.host, pause)),
        }
    }

    /// The Secret's data does not wait in memory for the turn: after a wait the round starts over.
    /// `false`: started over, or the operator ends. An error is how long the vault wants to be left alone.
    async fn take_turn(&mut self, route: &Route) -> Result<bool, Duration> {
        if self.permit.is_some() {
            return self.context.pace.pause_of(&route.vault.host).map_or(Ok(true), Err);
        }
        match self.context.pace.turn(&route.vault.host) {
            Turn::Now(permit) => {
                self.permit = Some(permit);
                return Ok(true);
            }
            Turn::Pause(until) => return Err(until.duration_since(Instant::now())),
            Turn::Queue => {}
        }
        self.seen.content = None;
        let begun = Instant::now();
        let waiting = async {
            tokio::select! {
                permit = self.context.pace.permit(&route.vault.host) => permit,
                () = self.context.stop.cancelled() => None,
            }
        };
        let permit = waiting.instrument(tracing::info_span!("wait for a turn")).await;
        let Some(permit) = permit else { return Ok(false) };
        self.context.metrics.vault_turn_seconds.observe([route.vault.host.as_str()], begun.elapsed());
        if let Some(pause) = self.context.pace.pause_of(&route.vault.host) {
            return Err(pause);
        }
        let before = &self.seen.claim;
        let shown = self.context.world.claim(&before.name_any()).unwrap_or_else(|| Arc::clone(before));
        let claim = self.context.world.written.newest(shown);
        if claim.spec.release.is_some() || !mandate::is_meant(&claim, self.context) {
            // Given up while it waited, or about to be: that is for the next round.
            self.given_up = true;
            return Ok(false);
        }
        (self.seen, self.permit) = (Evidence::new(claim, self.context), Some(permit));
        Ok(false)
    }

    async fn end_or_later(self, outcome: Outcome) -> Action {
        match outcome {
            Outcome::Later(pause) => Action::requeue(pause),
            outcome => self.end(outcome).await,
        }
    }

    /// Writes the outcome down and says when to look again.
    async fn end(self, outcome: Outcome) -> Action {
        let Round { context, seen: Evidence { claim, observed, content, .. }, permit, .. } = self;
        // Neither the Secret nor the turn at the vault is needed for the rest.
        drop((content, permit));
        let copies = copies::compare(&claim, context, &observed, &outcome).await;
        let reporting = status::report(context, &claim, &observed, outcome, copies);
        reporting.instrument(tracing::info_span!("report")).await
    }
}

/// One call of a vault that may change it, counted, and with its consequences for the vault's pace and condition.
pub(crate) async fn ask<T>(
    context: &Context,
    route: &Route,
    operation: &'static str,
    call: impl AsyncFnOnce(Arc<VaultClient>) -> Result<T, VaultError>,
) -> Result<T, VaultError> {
    let answer = match context.vaults.client(&route.vault.host, &route.identity) {
        Ok(client) => call(client).instrument(traces::vault_call(operation, route.vault.host.as_str())).await,
        Err(error) => Err(error),
    };
    context.met(&route.vault, operation, &answer);
    answer
}

fn wait_until(until: i64, now: i64) -> Action {
    Action::requeue(Duration::from_secs(u64::try_from(until - now).unwrap_or(1).max(1)))
}

/// Unix seconds.
pub(crate) fn now() -> i64 {
    Timestamp::now().as_second()
}

/// A number nobody can foresee, to spread retries.
pub(crate) fn dice() -> u8 {
    let mut dice = [0_u8; 1];
    // Without randomness retries are not spread; that is all.
    let _ = getrandom::fill(&mut dice);
    dice[0]
}
