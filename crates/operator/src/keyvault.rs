//! A registered vault: what its KeyVault says, checked; and its Ready condition, from what real calls met and, where there was none,
//! from one of its own. Who opens it, `identity` says.

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use keyvault_sync_api::conditions::{self, Holds, READY, Statement};
use keyvault_sync_api::constants::{GROUP, KEY_VAULT_FIELD_MANAGER, VERSION};
use keyvault_sync_api::{Grant as GrantSpec, KeyVault, KeyVaultStatus};
use keyvault_sync_core::grants::Grant;
use keyvault_sync_core::names::VaultHost;
use keyvault_sync_core::reason::{Fault, Problem, Reason};
use keyvault_sync_vault::{Identity, VaultError};
use kube::ResourceExt;
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::controller::Action;
use serde_json::json;
use tokio::time::Instant;

use crate::certificate::dice;
use crate::context::{Context, View};
use crate::disposition;
use crate::identity::{self, Opener};
use crate::kubernetes::call;
use crate::selectors::requirements;
use crate::world::sync_at;

/// The read of a certificate, among the operations.
const READ: &str = "get";
/// A call without a token, among the operations.
const REACH: &str = "reach";
/// When a KeyVault that another installation looks after is looked at again: it may be gone.
const KEEPER_RETRY: Duration = Duration::from_secs(30);
/// When a status that could not be written is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// A KeyVault whose specification holds.
#[derive(Clone, Debug)]
pub(crate) struct Vault {
    /// The KeyVault's name.
    pub name: String,
    /// The edition of its specification.
    pub(crate) edition: Edition,
    /// Where it is.
    pub host: VaultHost,
    /// Who opens it.
    pub opener: Opener,
    /// Who may use which names.
    pub grants: Vec<Grant>,
    /// How often what it holds is compared, seconds.
    pub resync_secs: i64,
}

/// Checks what a KeyVault says.
///
/// # Errors
/// `VaultNotFound` (url), `AuthenticationFailed` (an identity of which something is missing),
/// `NotGranted` (a grant that cannot be).
pub(crate) fn resolve(key_vault: &KeyVault, context: &View) -> Result<Vault, Problem> {
    let name = key_vault.name_any();
    let named =
        |problem: Problem| Problem::new(problem.reason, format!("KeyVault {name}: {}", problem.message));
    let clouds = context.settings.allowed_clouds();
    let host = VaultHost::from_url(&key_vault.spec.url, &clouds).map_err(named)?;
    let opener = identity::opener(key_vault, context).map_err(named)?;
    let has_selector = |grant: &GrantSpec| grant.namespaces.selector.is_some();
    if context.world.is_of_some_namespaces() && key_vault.spec.grants.iter().any(has_selector) {
        return Err(named(Problem::new(
            Reason::NotGranted,
            "a grant by labels (namespaces.selector) cannot be checked by an operator that serves some namespaces only: name the \
             namespaces (namespaces.names)",
        )));
    }
    let grants = key_vault.spec.grants.iter().map(grant).collect::<Result<_, _>>().map_err(named)?;
    let resync_secs = i64::try_from(key_vault.spec.resync_interval.as_secs()).unwrap_or(i64::MAX);
    Ok(Vault { name, edition: Edition::of(key_vault, &opener), host, opener, grants, resync_secs })
}

impl Vault {
    /// As whom it is opened for a ClusterKeyVaultSync.
    ///
    /// # Errors
    /// `PerNamespaceIdentity`: such a resource has no namespace to act as.
    pub(crate) fn for_cluster(&self) -> Result<Identity, Problem> {
        match &self.opener {
            Opener::One(identity) => Ok(identity.clone()),
            Opener::PerNamespace(account) => Err(Problem::new(
                Reason::PerNamespaceIdentity,
                format!(
                    "KeyVault {} is opened by ServiceAccount {} of the namespace that uses it (identity.serviceAccount), and a \
                     ClusterKeyVaultSync has none: use a KeyVaultSync in each namespace, or a KeyVault with another identity",
                    self.name, account.name
                ),
            )),
        }
    }
}

fn grant(grant: &GrantSpec) -> Result<Grant, Problem> {
    let selector = grant.namespaces.selector.as_ref().map(requirements);
    Grant::new(&grant.namespaces.names, selector, &grant.push, &grant.adopt)
}

/// What calls through each KeyVault met, under which edition of it; a problem here is one of the whole vault, not of one certificate.
#[derive(Debug, Default)]
pub(crate) struct Contacts(Mutex<HashMap<String, Health>>);

#[derive(Clone, Debug)]
struct Health {
    edition: Edition,
    /// A call was let in.
    was_well: bool,
    /// Why no call comes through, whatever it asks for.
    closed: Option<Problem>,
    /// What the identity may not do, by operation.
    forbidden: BTreeMap<&'static str, Problem>,
    /// Failures in a row of the reads, and since when.
    failures: u32,
    since: Instant,
    /// When to read again, if nobody else does.
    next: Instant,
}

/// What a KeyVault is opened by: made anew under the same name, with another credential, or asked to be compared now, it is another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Edition {
    uid: Option<String>,
    generation: Option<i64>,
    sync_at: Option<String>,
    credential: Option<String>,
}

impl Edition {
    fn of(key_vault: &KeyVault, opener: &Opener) -> Self {
        let credential = match opener {
            Opener::One(
                Identity::ServicePrincipal { secret, .. } | Identity::ClientCertificate { secret, .. },
            ) => Some(format!("{}/{}", secret.uid, secret.resource_version)),
            Opener::One(
                Identity::WorkloadIdentity { .. }
                | Identity::ServiceAccount { .. }
                | Identity::ManagedIdentity { .. },
            )
            | Opener::PerNamespace(_) => None,
        };
        let sync_at = sync_at(key_vault).cloned();
        Self { uid: key_vault.uid(), generation: key_vault.metadata.generation, sync_at, credential }
    }
}

impl Health {
    fn new(edition: Edition) -> Self {
        let (since, forbidden) = (Instant::now(), BTreeMap::new());
        Self { edition, was_well: false, closed: None, forbidden, failures: 0, since, next: since }
    }

    fn note(&mut self, operation: &'static str, met: &Result<(), Problem>, retry_after: Option<Duration>) {
        match met {
            // Without a token a vault shows no more than that it is there.
            Ok(()) if operation == REACH => {
                self.was_well = true;
                self.closed.take_if(|problem| problem.reason == Reason::VaultUnreachable);
            }
            Ok(()) => {
                self.was_well = true;
                self.closed = None;
                self.forbidden.remove(operation);
            }
            Err(problem) if problem.reason == Reason::Forbidden => {
                drop(self.forbidden.insert(operation, problem.clone()));
            }
            Err(problem) if is_of_the_vault(problem.reason) => self.closed = Some(problem.clone()),
            Err(_) => {}
        }
        if !matches!(operation, READ | REACH) {
            return;
        }
        match met {
            Ok(()) => self.failures = 0,
            Err(problem) => {
                if self.failures == 0 {
                    self.since = Instant::now();
                }
                self.failures = self.failures.saturating_add(1);
                let retry = disposition::of(problem.reason, self.failures, 0, retry_after, dice()).retry;
                self.next = Instant::now() + retry.unwrap_or_default().max(RETRY);
            }
        }
    }

    /// A problem, or that all is well; `None`: no call says either.
    fn says(&self) -> Option<Result<(), Problem>> {
        let problem = self.closed.as_ref().or_else(|| self.forbidden.values().next());
        problem.map(|problem| Err(problem.clone())).or_else(|| self.was_well.then_some(Ok(())))
    }
}

impl Contacts {
    /// Remembers how a call went. True if that is news: another reason, whichever certificate met it.
    pub(crate) fn note(
        &self,
        vault: &Vault,
        operation: &'static str,
        met: &Result<(), Problem>,
        retry_after: Option<Duration>,
    ) -> bool {
        let reason = |health: &Health| health.says().map(|says| says.err().map(|problem| problem.reason));
        let mut contacts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let health = contacts.entry(vault.name.clone()).or_insert_with(|| Health::new(vault.edition.clone()));
        if health.edition != vault.edition {
            *health = Health::new(vault.edition.clone());
        }
        let before = reason(health);
        health.note(operation, met, retry_after);
        before != reason(health)
    }

    /// Whether no call comes through, whatever it asks for. The next look calls, however short the last failure is ago.
    pub(crate) fn is_closed(&self, vault: &Vault) -> bool {
        let mut contacts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let closed = |health: &&mut Health| health.edition == vault.edition && health.closed.is_some();
        let Some(health) = contacts.get_mut(&vault.name).filter(closed) else { return false };
        health.next = Instant::now();
        true
    }

    fn of(&self, vault: &Vault) -> Option<Health> {
        let contacts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        contacts.get(&vault.name).filter(|health| health.edition == vault.edition).cloned()
    }
}

fn is_of_the_vault(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::AuthenticationFailed | Reason::Forbidden | Reason::FirewallBlocked | Reason::VaultUnreachable
    )
}

/// Brings the status of a KeyVault up to date: from what real calls met, and from a call of its own where there was none under this
/// edition or reads fail.
pub(crate) async fn reconcile(key_vault: Arc<KeyVault>, context: Arc<Context>) -> Result<Action, Infallible> {
    if context.stop.is_cancelled() {
        return Ok(Action::await_change());
    }
    let is_kept = match keeper(&key_vault, &context).await {
        Keeper::Us => true,
        Keeper::Nobody => false,
        Keeper::Another => return Ok(Action::requeue(KEEPER_RETRY)),
        Keeper::NotUs => return Ok(Action::await_change()),
        Keeper::UsNoMore => {
            let mut status = key_vault.status.clone().unwrap_or_default();
            status.installation = None;
            return Ok(write(&key_vault, &status, true, Action::await_change(), &context).await);
        }
    };
    let resolved = resolve(&key_vault, &context);
    let (seen, next) = match &resolved {
        Ok(vault) => look(&key_vault, vault, &context).await,
        Err(problem) => (Seen::Problem(problem.clone()), Action::await_change()),
    };
    let mut status = status(&key_vault, resolved.as_ref().ok(), seen);
    status.installation = Some(context.settings.installation.to_string());
    Ok(write(&key_vault, &status, is_kept, next, &context).await)
}

/// Writes a status, if it is another one. When to look again.
async fn write(
    key_vault: &KeyVault,
    status: &KeyVaultStatus,
    is_kept: bool,
    next: Action,
    context: &Context,
) -> Action {
    if key_vault.status.as_ref() == Some(status) {
        return next;
    }
    // A round that was suspended must not tell what was so before another led.
    if !context.lease.leads() {
        return Action::requeue(RETRY);
    }
    let api: Api<KeyVault> = Api::all(context.client.clone());
    let api_version = format!("{GROUP}/{VERSION}");
    let mut metadata = json!({"uid": key_vault.uid()});
    if !is_kept {
        // Of two installations that want to look after it, the API server lets one.
        metadata["resourceVersion"] = json!(key_vault.resource_version());
    }
    let patch =
        json!({"apiVersion": api_version, "kind": "KeyVault", "metadata": metadata, "status": status});
    let name = key_vault.name_any();
    let params = PatchParams::apply(KEY_VAULT_FIELD_MANAGER).force();
    match call("status of a KeyVault", api.patch_status(&name, &params, &Patch::Apply(&patch))).await {
        Ok(_) => next,
        Err(error) if error.is_race() && !is_kept => Action::requeue(RETRY),
        Err(error) if error.is_race() => next,
        Err(error) => {
            tracing::warn!(kind = "KeyVault", name, error = %crate::watch::describe(&error), "status not written");
            Action::requeue(RETRY)
        }
    }
}

/// Which installation looks after a KeyVault: calls it where nobody else does, and writes its status.
enum Keeper {
    /// This one.
    Us,
    /// None yet, or one that is gone: this one may.
    Nobody,
    /// Another.
    Another,
    /// It is of no concern here.
    NotUs,
    /// It was this one, and it is of no concern here any more.
    UsNoMore,
}

async fn keeper(key_vault: &KeyVault, context: &Context) -> Keeper {
    let keeper = key_vault.status.as_ref().and_then(|status| status.installation.as_deref());
    let is_us = keeper == Some(context.settings.installation.as_str());
    match keeper {
        _ if !context.world.uses(&key_vault.name_any()) => {
            if is_us {
                Keeper::UsNoMore
            } else {
                Keeper::NotUs
            }
        }
        Some(_) if is_us => Keeper::Us,
        Some(keeper) if !context.others.is_gone(keeper, &context.client).await => Keeper::Another,
        Some(_) | None => Keeper::Nobody,
    }
}

/// What is known of a vault.
enum Seen {
    /// It was reached, and let us in.
    Well,
    /// It was not, or what the KeyVault says cannot be.
    Problem(Problem),
    /// A call failed in a way that passes by itself: told only where nothing else is known.
    Passing(Problem),
    /// What its status says.
    AsBefore,
}

/// Looks at what calls met, and calls where that does not tell. When to look again.
async fn look(key_vault: &KeyVault, vault: &Vault, context: &Context) -> (Seen, Action) {
    let health = context.contacts.of(vault);
    let next = match &health {
        Some(health) if health.failures > 0 || health.closed.is_some() => Some(health.next),
        Some(health) if health.was_well => None,
        // Well when the operator ran last: time alone is no reason to call.
        _ if was_well(key_vault) => None,
        _ => Some(Instant::now()),
    };
    match next.map(|next| next.duration_since(Instant::now())) {
        None => return (seen(health.as_ref(), None), Action::await_change()),
        Some(pause) if !pause.is_zero() => return (seen(health.as_ref(), None), Action::requeue(pause)),
        Some(_) => {}
    }
    let Some(answer) = contact(vault, context).await else {
        return (seen(health.as_ref(), None), Action::requeue(RETRY));
    };
    let operation = if matches!(vault.opener, Opener::PerNamespace(_)) { REACH } else { READ };
    context.met(vault, operation, &answer);
    let health = context.contacts.of(vault);
    let pause = health.as_ref().filter(|health| health.failures > 0);
    let pause = pause.map(|health| health.next.duration_since(Instant::now()).max(RETRY));
    let next = pause.map_or_else(Action::await_change, Action::requeue);
    (seen(health.as_ref(), answer.err().map(|error| error.problem)), next)
}

/// What to say; `failed`: how a call of our own went just now.
fn seen(health: Option<&Health>, failed: Option<Problem>) -> Seen {
    match (health.and_then(Health::says), failed) {
        (Some(Err(problem)), _) => Seen::Problem(problem),
        (_, Some(problem)) => {
            // What passes by itself is told when it has lasted.
            let lasted = health.map_or(0, |health| health.since.elapsed().as_secs());
            let is_lasting = i64::try_from(lasted).unwrap_or(i64::MAX) >= disposition::PATIENCE_SECS;
            if is_lasting { Seen::Problem(problem) } else { Seen::Passing(problem) }
        }
        (Some(Ok(())), None) => Seen::Well,
        (None, None) => Seen::AsBefore,
    }
}

fn was_well(key_vault: &KeyVault) -> bool {
    let ready = key_vault.status.as_ref().and_then(|status| conditions::find(&status.conditions, READY));
    ready.is_some_and(|ready| {
        ready.status == "True" && ready.observed_generation == key_vault.metadata.generation
    })
}

/// One call: as its identity with a read, or without a token where each namespace brings its own. `None`: not now.
async fn contact(vault: &Vault, context: &Context) -> Option<Result<(), VaultError>> {
    if context.pace.pause_of(&vault.host).is_some() {
        return None;
    }
    let permit = tokio::select! {
        permit = context.pace.permit(&vault.host) => permit,
        () = context.stop.cancelled() => None,
    };
    let _permit = permit?;
    Some(match &vault.opener {
        Opener::One(identity) => match context.vaults.client(&vault.host, identity) {
            Ok(client) => client.contact().await,
            Err(error) => Err(error),
        },
        Opener::PerNamespace(_) => context.vaults.reach(&vault.host).await,
    })
}

fn status(key_vault: &KeyVault, vault: Option<&Vault>, seen: Seen) -> KeyVaultStatus {
    let mut status = key_vault.status.clone().unwrap_or_default();
    let (holds, reason, message) = match (seen, vault) {
        (Seen::Problem(problem), _) => {
            let is_certain = problem.reason.fault() != Some(Fault::Transient);
            (if is_certain { Holds::False } else { Holds::Unknown }, problem.reason, problem.message)
        }
        (Seen::Well, Some(vault)) => well(vault),
        (Seen::Passing(problem), _) if conditions::find(&status.conditions, READY).is_none() => {
            (Holds::Unknown, problem.reason, problem.message)
        }
        (Seen::AsBefore | Seen::Passing(_), _) | (Seen::Well, None) => return status,
    };
    status.observed_generation = key_vault.metadata.generation;
    let statement = Statement {
        type_: READY,
        holds,
        reason: reason.as_str(),
        message: &message,
        observed_generation: key_vault.metadata.generation,
    };
    conditions::set(&mut status.conditions, &statement, Timestamp::now());
    status
}

fn well(vault: &Vault) -> (Holds, Reason, String) {
    match &vault.opener {
        Opener::One(_) => (Holds::True, Reason::Reached, format!("{} was reached and let us in", vault.host)),
        Opener::PerNamespace(account) => (
            Holds::True,
            Reason::PerNamespaceIdentity,
            format!(
                "{} was reached; each namespace opens it as its own ServiceAccount {}",
                vault.host, account.name
            ),
        ),
    }
}
