//! What the decision on one claim rests on, gathered look by look: the cluster, the Secret, the vault. The round acts on it, and a
//! plan tells it: nothing here can write. Waiting for a turn at the vault is left to who looks.

use std::sync::Arc;

use keyvault_sync_api::KeyVaultCertificate;
use keyvault_sync_core::chain::CertificateChain;
use keyvault_sync_core::names::ClaimName;
use keyvault_sync_core::ownership::Owner;
use keyvault_sync_core::push::{Look, Next, Observed, Record, decide};
use keyvault_sync_core::reason::{Problem, Reason};
use keyvault_sync_vault::{VaultError, VaultReader};
use tokio::sync::OwnedSemaphorePermit;
use tracing::Instrument as _;

use super::observe::{self, Route};
use super::status::{self, Outcome};
use super::{STOPPING, resolve};
use crate::context::View;
use crate::sync::orphan;
use crate::traces;

/// All that is known of one claim in one round.
pub(crate) struct Evidence<'a> {
    view: &'a View,
    /// The claim.
    pub claim: Arc<KeyVaultCertificate>,
    /// The way to its place in a vault.
    pub route: Result<Route, Problem>,
    /// What was seen.
    pub observed: Observed,
    /// The Secret's content while it is in memory, and its place there.
    pub content: Option<(CertificateChain, OwnedSemaphorePermit)>,
}

/// What became of a step.
pub(crate) enum Step {
    /// Something was looked at: decide again.
    Looked,
    /// Nothing is left to be looked at: this is to be done, or is how it stands.
    Act(Next),
    /// The vault holds what is wished.
    InSync {
        /// What it holds, if it was looked at.
        record: Option<Record>,
        /// What is wrong with the chain all the same.
        warning: Option<String>,
    },
    /// It could not be looked at.
    End(Outcome),
    /// The vault could not be looked at.
    Vault(VaultError),
}

impl<'a> Evidence<'a> {
    /// What the watches show.
    pub(crate) fn new(claim: Arc<KeyVaultCertificate>, view: &'a View) -> Self {
        let route = observe::route(&claim, view);
        let observed = observe::from_cluster(&claim, &route, view);
        Self { view, claim, route, observed, content: None }
    }

    /// The next step as the decision has it.
    pub(crate) fn decide(&self) -> Next {
        decide(&self.observed)
    }

    /// Makes the look that the decision asks for, if it is one.
    pub(crate) async fn look(&mut self, next: Next) -> Step {
        match next {
            Next::ReadSecret => self.read_secret().instrument(tracing::info_span!("read Secret")).await,
            Next::ReadNewest => self.read_newest().await,
            Next::ReadRecorded => self.read_recorded().await,
            Next::ReadDeleted => self.read_deleted().await,
            Next::AskOwner(owner) => self.ask_owner(&owner).await,
            Next::InSync { record } => match self.warning() {
                Some(warning) => Step::InSync { record, warning },
                // Whether the chain was complete is known from the Secret alone.
                None => self.read_secret().await,
            },
            Next::Write(_) | Next::Wait { .. } | Next::Suspended | Next::Refuse(_) => Step::Act(next),
        }
    }

    /// What is wrong with the chain, if something is; `None` while that needs the Secret.
    fn warning(&self) -> Option<Option<String>> {
        if let Some((chain, _)) = &self.content {
            return Some(chain.incomplete().map(str::to_owned));
        }
        match self.observed.memory.reason {
            Some(Reason::Synced) => Some(None),
            Some(Reason::IncompleteChain) => Some(status::message(&self.claim)),
            _ => None,
        }
    }

    async fn read_secret(&mut self) -> Step {
        let Ok(place) = Arc::clone(&self.view.in_memory).acquire_owned().await else {
            return Step::End(Outcome::Later(STOPPING));
        };
        let Some(source) = observe::sources(&self.claim).into_iter().next() else {
            return defect("the claim names no Secret: please report this");
        };
        match resolve::content(&source, self.view, self.observed.now).await {
            Ok(resolve::Found::Missing) => {
                self.observed.source = None;
                let problem = Problem::new(Reason::SecretNotFound, "the Secret does not exist");
                self.observed.content = Look::Seen(Err(problem));
                Step::Looked
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
                Step::Looked
            }
            Err(problem) => Step::End(Outcome::problem(problem)),
        }
    }

    async fn read_newest(&mut self) -> Step {
        let route = match self.route.clone() {
            Ok(route) => route,
            Err(problem) => return Step::End(Outcome::problem(problem)),
        };
        let newest = read(self.view, &route, "get", async |vault| vault.newest(&route.name).await).await;
        self.seen(newest, |observed, newest| observed.newest = Look::Seen(newest))
    }

    async fn read_recorded(&mut self) -> Step {
        let (Ok(route), Some(record)) = (self.route.clone(), self.observed.memory.record.clone()) else {
            return defect("a version to read that is not recorded");
        };
        let version = async |vault: VaultReader| vault.version(&route.name, &record.version).await;
        let recorded = read(self.view, &route, "get", version).await;
        self.seen(recorded, |observed, recorded| observed.recorded = Look::Seen(recorded))
    }

    async fn read_deleted(&mut self) -> Step {
        let route = match self.route.clone() {
            Ok(route) => route,
            Err(problem) => return Step::End(Outcome::problem(problem)),
        };
        let deleted = async |vault: VaultReader| vault.deleted(&route.name).await;
        let deleted = read(self.view, &route, "get_deleted", deleted).await;
        self.seen(deleted, |observed, deleted| observed.deleted = Look::Seen(deleted))
    }

    async fn ask_owner(&mut self, owner: &Owner) -> Step {
        let route = match &self.route {
            Ok(route) => route,
            Err(problem) => return Step::End(Outcome::problem(problem.clone())),
        };
        let claim = ClaimName::new(&route.name, &route.vault.host);
        let state = orphan::state_of(owner.kind, &owner.namespace, &owner.name, &claim, self.view).await;
        self.observed.owner = Look::Seen(state);
        Step::Looked
    }

    /// Takes a look into what the decision rests on.
    fn seen<T>(&mut self, answer: Result<T, VaultError>, enter: impl FnOnce(&mut Observed, T)) -> Step {
        match answer {
            Ok(seen) => {
                enter(&mut self.observed, seen);
                Step::Looked
            }
            Err(error) => Step::Vault(error),
        }
    }
}

/// One read of a vault, counted, and with its consequences for the vault's pace and condition.
pub(crate) async fn read<T>(
    view: &View,
    route: &Route,
    operation: &'static str,
    call: impl AsyncFnOnce(VaultReader) -> Result<T, VaultError>,
) -> Result<T, VaultError> {
    let answer = match view.vault_readers.of(&route.vault.host, &route.identity) {
        Ok(vault) => call(vault).instrument(traces::vault_call(operation, route.vault.host.as_str())).await,
        Err(error) => Err(error),
    };
    view.met(&route.vault, operation, &answer);
    answer
}

fn defect(what: &str) -> Step {
    Step::End(Outcome::problem(Problem::new(Reason::InternalError, what)))
}
