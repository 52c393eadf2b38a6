//! The certificate controller: one claim → the vault. Observe, resolve, decide, apply, report, one vault write a round.
//! Which claims there are is left to the sync controller; what to do, to `keyvault_sync_core::push`.

pub(crate) mod apply;
pub(crate) mod copies;
pub(crate) mod observe;
pub(crate) mod release;
pub(crate) mod resolve;
pub(crate) mod status;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use keyvault_sync_api::KeyVaultCertificate;
use keyvault_sync_core::chain::CertificateChain;
use keyvault_sync_core::names::ClaimName;
use keyvault_sync_core::ownership::Owner;
use keyvault_sync_core::push::{Look, Next, Observed, Record, decide};
use keyvault_sync_core::reason::{Problem, Reason};
use keyvault_sync_vault::{VaultClient, VaultError};
use kube::ResourceExt;
use kube::runtime::controller::Action;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;
use tracing::{Instrument as _, Span};

use crate::context::Context;
use crate::pace::{Permit, Turn};
use crate::sync::{mandate, orphan};
use crate::traces::{self, Root};
use observe::Route;
use status::Outcome;

/// A round looks at most at the Secret, the newest, the recorded and the deleted version and the owner, twice if it had to wait
/// for its turn.
const STEPS_MAX: usize = 12;
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
    claim: Arc<KeyVaultCertificate>,
    route: Result<Route, Problem>,
    observed: Observed,
    /// The Secret's content while it is in memory, and its place there.
    content: Option<(CertificateChain, OwnedSemaphorePermit)>,
    permit: Option<Permit>,
    /// The claim was released while the round waited for its turn.
    given_up: bool,
}

impl<'a> Round<'a> {
    fn begin(claim: Arc<KeyVaultCertificate>, context: &'a Context) -> Self {
        let route = observe::route(&claim, context);
        let observed = observe::from_cluster(&claim, &route, context);
        Self { context, claim, route, observed, content: None, permit: None, given_up: false }
    }

    /// None for a round that will look at nothing, as nearly all are.
    fn traced(&self, seen: Option<Instant>) -> (Span, Root) {
        match decide(&self.observed) {
            Next::InSync { .. } | Next::Suspended | Next::Refuse(_) | Next::Wait { .. } => {
                (Span::none(), Root::default())
            }
            Next::ReadSecret
            | Next::ReadNewest
            | Next::ReadRecorded
            | Next::ReadDeleted
            | Next::AskOwner(_)
            | Next::Write(_) => traces::round(status::subject(&self.claim), seen),
        }
    }

    async fn run(mut self) -> Action {
        for _ in 0..STEPS_MAX {
            let next = decide(&self.observed);
            let end = match next {
                Next::ReadSecret => self.read_secret().instrument(tracing::info_span!("read Secret")).await,
                Next::ReadNewest => self.read_newest().await,
                Next::ReadRecorded => self.read_recorded().await,
                Next::ReadDeleted => self.read_deleted().await,
                Next::AskOwner(owner) => self.ask_owner(&owner).await,
                Next::Write(write) => return apply::write(self, write).await,
                Next::Wait { until } => return wait_until(until, self.observed.now),
                Next::Suspended => Some(Outcome::Suspended),
                Next::Refuse(problem) => Some(Outcome::refused(problem, &self.observed)),
                Next::InSync { record } => match self.in_sync(record) {
                    Some(outcome) => Some(outcome),
                    // Whether the chain was complete is known from the Secret alone.
                    None => self.read_secret().await,
                },
            };
            match end {
                None => {}
                Some(Outcome::Later(pause)) => return Action::requeue(pause),
                Some(outcome) => return self.end(outcome).await,
            }
        }
        let problem = Problem::new(
            Reason::InternalError,
            format!("no decision on {} after {STEPS_MAX} steps: please report this", self.claim.name_any()),
        );
        self.end(Outcome::problem(problem)).await
    }

    /// In sync, with the word on the chain; `None` while that needs the Secret.
    fn in_sync(&self, record: Option<Record>) -> Option<Outcome> {
        if let Some((chain, _)) = &self.content {
            let warning = chain.incomplete().map(str::to_owned);
            return Some(Outcome::InSync { record, warning });
        }
        match self.observed.memory.reason {
            Some(Reason::Synced) => Some(Outcome::InSync { record, warning: None }),
            Some(Reason::IncompleteChain) => {
                Some(Outcome::InSync { record, warning: status::message(&self.claim) })
            }
            _ => None,
        }
    }

    async fn read_secret(&mut self) -> Option<Outcome> {
        let Ok(place) = Arc::clone(&self.context.in_memory).acquire_owned().await else {
            return Some(Outcome::Later(STOPPING));
        };
        let Some(source) = observe::sources(&self.claim).into_iter().next() else {
            let problem =
                Problem::new(Reason::InternalError, "the claim names no Secret: please report this");
            return Some(Outcome::problem(problem));
        };
        match resolve::content(&source, self.context, self.observed.now).await {
            Ok(resolve::Found::Missing) => {
                self.observed.source = None;
                let problem = Problem::new(Reason::SecretNotFound, "the Secret does not exist");
                self.observed.content = Look::Seen(Err(problem));
                None
            }
            Ok(resolve::Found::Read { version, chain }) => {
                self.observed.source = Some(version);
                self.observed.content = Look::Seen(match chain {
                    Ok(chain) => {
                        let content = resolve::facts(&chain);
                        self.content = Some((chain, place));
                        Ok(content)
                    }
                    Err(problem) => Err(problem),
                });
                None
            }
            Err(problem) => Some(Outcome::problem(problem)),
        }
    }

    /// Takes a turn at the vault. The Secret's data does not wait in memory for it: after a wait the round starts over.
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
        self.content = None;
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
        let shown =
            self.context.world.claim(&self.claim.name_any()).unwrap_or_else(|| Arc::clone(&self.claim));
        let claim = self.context.world.written.newest(shown);
        if claim.spec.release.is_some() || !mandate::is_meant(&claim, self.context) {
            // Given up while it waited, or about to be: that is for the next round.
            self.given_up = true;
            return Ok(false);
        }
        let route = observe::route(&claim, self.context);
        self.observed = observe::from_cluster(&claim, &route, self.context);
        (self.claim, self.route, self.permit) = (claim, route, Some(permit));
        Ok(false)
    }

    async fn read_newest(&mut self) -> Option<Outcome> {
        let route = match self.route.clone() {
            Ok(route) => route,
            Err(problem) => return Some(Outcome::problem(problem)),
        };
        match self.take_turn(&route).await {
            Ok(true) => {}
            Ok(false) if self.given_up => return Some(Outcome::Later(RACE_RETRY)),
            Ok(false) => return self.context.stop.is_cancelled().then_some(Outcome::Later(STOPPING)),
            Err(pause) => return Some(Outcome::paused(&route.vault.host, pause)),
        }
        let newest = ask(self.context, &route, "get", async |client| client.newest(&route.name).await).await;
        self.seen(newest, |observed, newest| observed.newest = Look::Seen(newest))
    }

    async fn read_recorded(&mut self) -> Option<Outcome> {
        let (Ok(route), Some(record)) = (self.route.clone(), self.observed.memory.record.clone()) else {
            return Some(Outcome::problem(Problem::new(
                Reason::InternalError,
                "a version to read that is not recorded",
            )));
        };
        let read = async |client: Arc<VaultClient>| client.version(&route.name, &record.version).await;
        let recorded = ask(self.context, &route, "get", read).await;
        self.seen(recorded, |observed, recorded| observed.recorded = Look::Seen(recorded))
    }

    async fn read_deleted(&mut self) -> Option<Outcome> {
        let route = match self.route.clone() {
            Ok(route) => route,
            Err(problem) => return Some(Outcome::problem(problem)),
        };
        let read = async |client: Arc<VaultClient>| client.deleted(&route.name).await;
        let deleted = ask(self.context, &route, "get_deleted", read).await;
        self.seen(deleted, |observed, deleted| observed.deleted = Look::Seen(deleted))
    }

    async fn ask_owner(&mut self, owner: &Owner) -> Option<Outcome> {
        let route = match &self.route {
            Ok(route) => route,
            Err(problem) => return Some(Outcome::problem(problem.clone())),
        };
        let claim = ClaimName::new(&route.name, &route.vault.host);
        let state = orphan::state_of(owner.kind, &owner.namespace, &owner.name, &claim, self.context).await;
        self.observed.owner = Look::Seen(state);
        None
    }

    /// Takes a look into what the decision rests on, or ends the round with why there is none.
    fn seen<T>(
        &mut self,
        answer: Result<T, VaultError>,
        enter: impl FnOnce(&mut Observed, T),
    ) -> Option<Outcome> {
        match answer {
            Ok(seen) => {
                enter(&mut self.observed, seen);
                None
            }
            Err(error) => Some(Outcome::vault(&error, true)),
        }
    }

    /// Writes the outcome down and says when to look again.
    async fn end(self, outcome: Outcome) -> Action {
        let Round { context, claim, observed, content, permit, .. } = self;
        // Neither the Secret nor the turn at the vault is needed for the rest.
        drop((content, permit));
        let copies = copies::compare(&claim, context, &observed, &outcome).await;
        let reporting = status::report(context, &claim, &observed, outcome, copies);
        reporting.instrument(tracing::info_span!("report")).await
    }
}

/// One call of a vault, counted, and with its consequences for the vault's pace and condition.
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
