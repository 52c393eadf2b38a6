//! A registered vault: what its KeyVault says, checked; and its Ready condition, from what real calls met.
//! Calling the vault is left to the certificate controller, which tells here how it went.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use keyvault_sync_api::conditions::{self, Holds, READY, Statement};
use keyvault_sync_api::constants::{GROUP, KEY_VAULT_FIELD_MANAGER, VERSION};
use keyvault_sync_api::{Grant as GrantSpec, KeyVault, KeyVaultStatus};
use keyvault_sync_core::grants::Grant;
use keyvault_sync_core::names::VaultHost;
use keyvault_sync_core::reason::{Problem, Reason};
use keyvault_sync_vault::Identity;
use kube::ResourceExt;
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::controller::Action;
use serde_json::json;

use crate::context::Context;
use crate::kubernetes::call;
use crate::selectors::requirements;
use crate::settings::Settings;

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
    pub identity: Identity,
    /// Who may use which names.
    pub grants: Vec<Grant>,
    /// How often what it holds is compared, seconds.
    pub resync_secs: i64,
}

/// Checks what a KeyVault says.
///
/// # Errors
/// `VaultNotFound` (url), `Unsupported` (a field without behaviour so far), `AuthenticationFailed` (ids missing),
/// `NotGranted` (a grant that cannot be).
pub(crate) fn resolve(key_vault: &KeyVault, settings: &Settings) -> Result<Vault, Problem> {
    let name = key_vault.name_any();
    let named =
        |problem: Problem| Problem::new(problem.reason, format!("KeyVault {name}: {}", problem.message));
    let clouds = settings.allowed_clouds();
    let host = VaultHost::from_url(&key_vault.spec.url, &clouds).map_err(named)?;
    let identity = identity(key_vault, settings).map_err(named)?;
    let grants = key_vault.spec.grants.iter().map(grant).collect::<Result<_, _>>().map_err(named)?;
    let resync_secs = i64::try_from(key_vault.spec.resync_interval.as_secs()).unwrap_or(i64::MAX);
    Ok(Vault { name, edition: Edition::of(key_vault), host, identity, grants, resync_secs })
}

fn identity(key_vault: &KeyVault, settings: &Settings) -> Result<Identity, Problem> {
    let wished = key_vault.spec.identity.clone().unwrap_or_default();
    for (field, is_set) in [
        ("serviceAccount", wished.service_account.is_some()),
        ("servicePrincipal", wished.service_principal.is_some()),
        ("clientCertificate", wished.client_certificate.is_some()),
        ("managedIdentity", wished.managed_identity.is_some()),
    ] {
        if is_set {
            return Err(unsupported(&format!("identity.{field}"), "use identity.workloadIdentity"));
        }
    }
    let workload = wished.workload_identity.unwrap_or_default();
    let missing = |what: &str, variable: &str| {
        Problem::new(
            Reason::AuthenticationFailed,
            format!("no {what}: set identity.workloadIdentity.{what}, or {variable} for the operator"),
        )
    };
    Ok(Identity::WorkloadIdentity {
        tenant_id: workload
            .tenant_id
            .or_else(|| settings.azure_tenant_id.clone())
            .ok_or_else(|| missing("tenantId", "AZURE_TENANT_ID"))?,
        client_id: workload
            .client_id
            .or_else(|| settings.azure_client_id.clone())
            .ok_or_else(|| missing("clientId", "AZURE_CLIENT_ID"))?,
        token_file: settings.azure_federated_token_file.clone().ok_or_else(|| {
            Problem::new(
                Reason::AuthenticationFailed,
                "the operator has no federated token: AZURE_FEDERATED_TOKEN_FILE is not set; give its pod the label \
                 azure.workload.identity/use: \"true\"",
            )
        })?,
    })
}

/// A field that this version has no behaviour for is refused, never ignored.
pub(crate) fn unsupported(field: &str, instead: &str) -> Problem {
    Problem::new(
        Reason::Unsupported,
        format!("{field} is not supported by this version of keyvault-sync: {instead}"),
    )
}

fn grant(grant: &GrantSpec) -> Result<Grant, Problem> {
    let selector = grant.namespaces.selector.as_ref().map(requirements);
    Grant::new(&grant.namespaces.names, selector, &grant.push, &grant.adopt)
}

/// How the last call of each operation through each KeyVault went, under which edition of it; a problem here is one of
/// the whole vault, not of one certificate.
#[derive(Debug, Default)]
pub(crate) struct Contacts(Mutex<HashMap<(String, &'static str), Contact>>);

#[derive(Clone, Debug)]
struct Contact {
    edition: Edition,
    met: Result<(), Problem>,
}

/// One specification of one KeyVault: made anew under the same name, it is another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Edition {
    uid: Option<String>,
    generation: Option<i64>,
}

impl Edition {
    fn of(key_vault: &KeyVault) -> Self {
        Self { uid: key_vault.uid(), generation: key_vault.metadata.generation }
    }
}

impl Contacts {
    /// Remembers how a call went. True if that is news: another reason, whichever certificate met it.
    pub(crate) fn note(&self, vault: &Vault, operation: &'static str, met: &Result<(), Problem>) -> bool {
        if met.as_ref().is_err_and(|problem| !is_of_the_vault(problem.reason)) {
            return false;
        }
        let reason = |met: &Result<(), Problem>| met.as_ref().err().map(|problem| problem.reason);
        let mut contacts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (vault.name.clone(), operation);
        let is_known = contacts
            .get(&key)
            .is_some_and(|before| before.edition == vault.edition && reason(&before.met) == reason(met));
        if !is_known {
            contacts.insert(key, Contact { edition: vault.edition.clone(), met: met.clone() });
        }
        !is_known
    }

    /// How it goes: a problem of any operation, or that all is well; `None`: there was no call under this edition.
    fn last(&self, key_vault: &str, edition: &Edition) -> Option<Result<(), Problem>> {
        let contacts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut met: Vec<_> = contacts
            .iter()
            .filter(|((name, _), contact)| name == key_vault && contact.edition == *edition)
            .map(|((_, operation), contact)| (contact.met.is_ok(), *operation, contact.met.clone()))
            .collect();
        met.sort_by_key(|(is_ok, operation, _)| (*is_ok, *operation));
        met.into_iter().next().map(|(_, _, met)| met)
    }
}

fn is_of_the_vault(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::AuthenticationFailed | Reason::Forbidden | Reason::FirewallBlocked | Reason::VaultUnreachable
    )
}

/// Brings the status of a KeyVault up to date.
pub(crate) async fn reconcile(key_vault: Arc<KeyVault>, context: Arc<Context>) -> Result<Action, Infallible> {
    let status = status(&key_vault, &context);
    if key_vault.status.as_ref() == Some(&status) {
        return Ok(Action::await_change());
    }
    let api: Api<KeyVault> = Api::all(context.client.clone());
    let api_version = format!("{GROUP}/{VERSION}");
    let patch = json!({"apiVersion": api_version, "kind": "KeyVault", "metadata": {"uid": key_vault.uid()}, "status": status});
    let name = key_vault.name_any();
    let params = PatchParams::apply(KEY_VAULT_FIELD_MANAGER).force();
    match call("status of a KeyVault", api.patch_status(&name, &params, &Patch::Apply(&patch))).await {
        Ok(_) => Ok(Action::await_change()),
        Err(error) if error.is_race() => Ok(Action::await_change()),
        Err(error) => {
            tracing::warn!(kind = "KeyVault", name, error = %crate::watch::describe(&error), "status not written");
            Ok(Action::requeue(RETRY))
        }
    }
}

fn status(key_vault: &KeyVault, context: &Context) -> KeyVaultStatus {
    let generation = key_vault.metadata.generation;
    let mut status = key_vault.status.clone().unwrap_or_default();
    let before = conditions::find(&status.conditions, READY).cloned();
    let name = key_vault.name_any();
    let (holds, reason, message) = match resolve(key_vault, &context.settings) {
        Err(problem) => (Holds::False, problem.reason, problem.message),
        Ok(vault) => match context.contacts.last(&name, &Edition::of(key_vault)) {
            Some(Ok(())) => {
                (Holds::True, Reason::Reached, format!("{} was reached and let us in", vault.host))
            }
            Some(Err(problem)) => (Holds::False, problem.reason, problem.message),
            None => match before.filter(|before| before.observed_generation == generation) {
                Some(_) => return status,
                None => (
                    Holds::Unknown,
                    Reason::Reconciling,
                    format!(
                        "{} has not been called yet: it is when a certificate is to be pushed",
                        vault.host
                    ),
                ),
            },
        },
    };
    status.observed_generation = generation;
    let statement = Statement {
        type_: READY,
        holds,
        reason: reason.as_str(),
        message: &message,
        observed_generation: generation,
    };
    conditions::set(&mut status.conditions, &statement, Timestamp::now());
    status
}
