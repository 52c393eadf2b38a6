//! What all controllers share: the cluster, its image in memory, the vaults' clients, the pace, the settings.
//! What is done with it is left to the controllers.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use keyvault_sync_api::KeyVaultCertificate;
use keyvault_sync_core::names::VaultHost;
use keyvault_sync_core::ownership::ClusterId;
use keyvault_sync_core::reason::Reason;
use keyvault_sync_vault::{Identity, Transport, VaultClient, VaultError};
use kube::runtime::reflector::ObjectRef;
use kube::{Client, ResourceExt};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::keyvault::{Contacts, Vault};
use crate::pace::Pace;
use crate::settings::Settings;
use crate::telemetry::{Metrics, VaultCallLabels};
use crate::world::World;

/// How long a vault is left alone that throttles without saying for how long: Key Vault counts in windows of ten
/// seconds, and most of one has passed when it refuses.
const THROTTLE_PAUSE: Duration = Duration::from_secs(3);
/// Secrets whose data is in memory at a time, whatever the number of vaults.
const IN_MEMORY: usize = 16;

/// What all controllers share.
pub(crate) struct Context {
    /// The API server.
    pub client: Client,
    /// The cluster as the watches show it.
    pub world: Arc<World>,
    /// The settings.
    pub settings: Settings,
    /// Which cluster this is.
    pub cluster: ClusterId,
    /// Clients of vaults.
    pub vaults: VaultClients,
    /// How fast each vault is asked.
    pub pace: Pace,
    /// Bounds the Secrets in memory.
    pub in_memory: Arc<Semaphore>,
    /// How the last call through each KeyVault went.
    pub contacts: Contacts,
    /// Claims as we wrote them last, until the watch shows them.
    pub written: Written,
    /// What is remembered of a claim between rounds, and may be forgotten at a restart.
    pub rounds: Rounds,
    /// Resources planned since the start, and when their status was written.
    pub planned: Planned,
    /// Metrics.
    pub metrics: Arc<Metrics>,
    /// Set when the operator is to end: nothing new is begun.
    pub stop: CancellationToken,
    /// Who we are in Events.
    pub instance: String,
}

impl Context {
    /// A place in memory for a Secret's data.
    pub(crate) fn memory_bound() -> Arc<Semaphore> {
        Arc::new(Semaphore::new(IN_MEMORY))
    }

    /// A vault answered: the call is counted, the vault's pace and its KeyVault's condition follow.
    pub(crate) fn met<T>(&self, vault: &Vault, operation: &'static str, answer: &Result<T, VaultError>) {
        let outcome = answer.as_ref().map_or_else(|error| error.problem.reason.as_str(), |_| "ok");
        let labels = VaultCallLabels { vault: vault.host.to_string(), operation, outcome };
        self.metrics.vault_calls.get_or_create(&labels).inc();
        if let Err(error) = answer
            && error.problem.reason == Reason::Throttled
        {
            self.pace.pause(&vault.host, error.retry_after.unwrap_or(THROTTLE_PAUSE));
        }
        let met = answer.as_ref().map(|_| ()).map_err(|error| error.problem.clone());
        if self.contacts.note(&vault.name, vault.generation, &met) {
            self.world.wake.vault(ObjectRef::new(&vault.name));
        }
    }
}

/// One client a vault and identity: each has its token, and its first call pays for a challenge.
pub(crate) struct VaultClients {
    transport: Transport,
    clients: Mutex<HashMap<(VaultHost, Identity), Arc<VaultClient>>>,
}

impl VaultClients {
    /// No clients yet.
    pub(crate) fn new(transport: Transport) -> Self {
        Self { transport, clients: Mutex::default() }
    }

    /// The client of this vault for this identity.
    ///
    /// # Errors
    /// The identity cannot be used.
    pub(crate) fn client(
        &self,
        host: &VaultHost,
        identity: &Identity,
    ) -> Result<Arc<VaultClient>, VaultError> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (host.clone(), identity.clone());
        if let Some(client) = clients.get(&key) {
            return Ok(Arc::clone(client));
        }
        let client = Arc::new(VaultClient::new(host.clone(), identity, &self.transport)?);
        clients.insert(key, Arc::clone(&client));
        Ok(client)
    }
}

/// Our own writes to claims, which the watch shows a moment later: without this, a round in between would decide from
/// what is no longer so.
#[derive(Debug, Default)]
pub(crate) struct Written(Mutex<HashMap<String, Overtaken>>);

#[derive(Debug)]
struct Overtaken {
    stale: HashSet<String>,
    newest: Arc<KeyVaultCertificate>,
}

impl Written {
    /// We replaced the edition `before` of a claim with `now`.
    pub(crate) fn note(&self, before: &KeyVaultCertificate, now: Arc<KeyVaultCertificate>) {
        let mut written = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = written
            .entry(now.name_any())
            .or_insert_with(|| Overtaken { stale: HashSet::new(), newest: Arc::clone(&now) });
        entry.stale.extend(before.resource_version());
        entry.newest = now;
    }

    /// The newest edition that is known: the watch's, unless we have written a later one since.
    pub(crate) fn newest(&self, shown: Arc<KeyVaultCertificate>) -> Arc<KeyVaultCertificate> {
        let mut written = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let name = shown.name_any();
        match written.get(&name) {
            Some(entry) if shown.resource_version().is_some_and(|shown| entry.stale.contains(&shown)) => {
                Arc::clone(&entry.newest)
            }
            Some(_) => {
                written.remove(&name);
                shown
            }
            None => shown,
        }
    }
}

/// What a claim's rounds leave behind in memory.
#[derive(Debug, Default)]
pub(crate) struct Rounds(Mutex<HashMap<String, RoundMemory>>);

#[derive(Clone, Copy, Debug, Default)]
struct RoundMemory {
    failures: u32,
    compared: Option<i64>,
    changed_at: Option<Instant>,
}

impl Rounds {
    fn with<T>(&self, uid: &str, change: impl FnOnce(&mut RoundMemory) -> T) -> T {
        let mut rounds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        change(rounds.entry(uid.to_owned()).or_default())
    }

    /// Another failure in a row; how many there were with it.
    pub(crate) fn failed(&self, uid: &str) -> u32 {
        self.with(uid, |round| {
            round.failures = round.failures.saturating_add(1);
            round.failures
        })
    }

    /// No failure.
    pub(crate) fn went_well(&self, uid: &str) {
        self.with(uid, |round| round.failures = 0);
    }

    /// Whether the comparison of this tick is still to be made. The tick in which a claim is first seen counts as
    /// made: a restart costs no call.
    pub(crate) fn is_comparison_due(&self, uid: &str, tick: i64) -> bool {
        self.with(uid, |round| *round.compared.get_or_insert(tick) < tick)
    }

    /// The comparison of this tick was made.
    pub(crate) fn compared(&self, uid: &str, tick: i64) {
        self.with(uid, |round| round.compared = Some(tick));
    }

    /// A change of the Secret was seen, if none is being worked on.
    pub(crate) fn changed(&self, uid: &str) -> Instant {
        self.with(uid, |round| *round.changed_at.get_or_insert_with(Instant::now))
    }

    /// The change is in the vault; when it was seen.
    pub(crate) fn pushed(&self, uid: &str) -> Option<Instant> {
        self.with(uid, |round| round.changed_at.take())
    }

    /// The claim is gone.
    pub(crate) fn forget(&self, uid: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
    }
}

/// Which resources were planned since the start, and when the status of each was written last.
#[derive(Debug, Default)]
pub(crate) struct Planned(Mutex<HashMap<String, Option<Instant>>>);

impl Planned {
    /// This resource (by uid) was planned once.
    pub(crate) fn note(&self, uid: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(uid.to_owned()).or_default();
    }

    /// Whether it was.
    pub(crate) fn is_planned(&self, uid: &str) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains_key(uid)
    }

    /// Its status is written now.
    pub(crate) fn wrote(&self, uid: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(uid.to_owned(), Some(Instant::now()));
    }

    /// When its status was written last.
    pub(crate) fn written(&self, uid: &str) -> Option<Instant> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(uid).copied().flatten()
    }
}

/// The object that an Event is about, or its companion.
pub(crate) fn reference(
    kind: &str,
    namespace: Option<&str>,
    name: &str,
    uid: Option<&str>,
) -> ObjectReference {
    ObjectReference {
        api_version: Some(format!(
            "{}/{}",
            keyvault_sync_api::constants::GROUP,
            keyvault_sync_api::constants::VERSION
        )),
        kind: Some(kind.to_owned()),
        namespace: namespace.map(str::to_owned),
        name: Some(name.to_owned()),
        uid: uid.map(str::to_owned),
        ..ObjectReference::default()
    }
}
