//! What all controllers share: the cluster, its image in memory, the vaults' clients, the pace, the settings.
//! What is done with it is left to the controllers.

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use keyvault_sync_core::names::VaultHost;
use keyvault_sync_core::ownership::ClusterId;
use keyvault_sync_core::reason::Reason;
use keyvault_sync_vault::{Identity, ServiceAccount, Transport, VaultClient, VaultError, VaultReader};
use kube::Client;
use kube::runtime::reflector::ObjectRef;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::identity::Opener;
use crate::installation::Others;
use crate::keyvault::{Contacts, Vault};
use crate::kubernetes::Reader;
use crate::leader::Leadership;
use crate::metrics::Metrics;
use crate::pace::Pace;
use crate::settings::Settings;
use crate::world::World;

/// How long a vault is left alone that throttles without saying for how long: Key Vault counts in windows of ten
/// seconds, and most of one has passed when it refuses.
const THROTTLE_PAUSE: Duration = Duration::from_secs(3);
/// A client that nobody has used for so long is made anew when it is needed: longer than a comparison may be away.
const UNUSED_MAX: Duration = Duration::from_secs(25 * 3600);
/// Clients of one ServiceAccount or Secret that are kept: of two KeyVaults that give it different ids, say.
const AKIN_MAX: usize = 3;
/// Secrets whose data is in memory at a time, whatever the number of vaults.
const IN_MEMORY: usize = 16;

/// The cluster and its vaults, to be looked at: nothing that is reached through this can change either.
pub(crate) struct View {
    /// The API server.
    pub reader: Reader,
    /// The cluster as the watches show it.
    pub world: Arc<World>,
    /// The settings.
    pub settings: Settings,
    /// Which cluster this is.
    pub cluster: ClusterId,
    /// The operator's own ServiceAccount, whose token is asked for where no file has one: by a tool on somebody's machine.
    pub own_account: Option<ServiceAccount>,
    /// What vaults say.
    pub vault_readers: VaultReaders,
    /// How fast each vault is asked.
    pub pace: Pace,
    /// Bounds the Secrets in memory.
    pub in_memory: Arc<Semaphore>,
    /// How the last call through each KeyVault went.
    pub contacts: Contacts,
    /// Metrics.
    pub metrics: Arc<Metrics>,
    /// Set when the operator is to end: nothing new is begun.
    pub stop: CancellationToken,
}

/// What all controllers share: the view, and the hands. Who only looks is given the view alone.
pub(crate) struct Context {
    /// What there is to be seen.
    pub view: View,
    /// The API server, to be written to.
    pub client: Client,
    /// Clients of vaults.
    pub vaults: Arc<VaultClients>,
    /// Whether this process leads.
    pub lease: Arc<Leadership>,
    /// What was seen of other installations.
    pub others: Others,
    /// The API server dropped a part of what was written into a claim, which is our memory: why the operator ends.
    pub is_forgotten: AtomicBool,
    /// Who we are in Events.
    pub instance: String,
}

/// Whoever may act may look.
impl Deref for Context {
    type Target = View;

    fn deref(&self) -> &View {
        &self.view
    }
}

impl View {
    /// A place in memory for a Secret's data.
    pub(crate) fn memory_bound() -> Arc<Semaphore> {
        Arc::new(Semaphore::new(IN_MEMORY))
    }

    /// A vault answered: the vault's pace and its KeyVault's condition follow.
    pub(crate) fn met<T>(&self, vault: &Vault, operation: &'static str, answer: &Result<T, VaultError>) {
        if let Err(error) = answer
            && error.problem.reason == Reason::Throttled
        {
            self.metrics.vault_pauses.inc([vault.host.as_str()]);
            self.pace.pause(&vault.host, error.retry_after.unwrap_or(THROTTLE_PAUSE));
        }
        let met = answer.as_ref().map(|_| ()).map_err(|error| error.problem.clone());
        let retry_after = answer.as_ref().err().and_then(|error| error.retry_after);
        // That an identity may not list, delete or recover may be meant so: what needs it says so, and the vault is well.
        let is_meant = matches!(operation, "list" | "delete" | "recover")
            && met.as_ref().is_err_and(|problem| problem.reason == Reason::Forbidden);
        // One namespace's identity says nothing of the others'.
        let is_namespaces = matches!(vault.opener, Opener::PerNamespace(_))
            && met.as_ref().is_err_and(|problem| {
                matches!(problem.reason, Reason::AuthenticationFailed | Reason::Forbidden)
            });
        if !is_meant && !is_namespaces && self.contacts.note(vault, operation, &met, retry_after) {
            self.world.wake.vault(ObjectRef::new(&vault.name));
        }
    }
}

/// What vaults say, and nothing that changes them.
#[derive(Clone)]
pub(crate) struct VaultReaders(Arc<VaultClients>);

impl VaultReaders {
    /// Reads through these clients.
    pub(crate) fn new(clients: Arc<VaultClients>) -> Self {
        Self(clients)
    }

    /// What this vault says to this identity.
    ///
    /// # Errors
    /// The identity cannot be used.
    pub(crate) fn of(&self, host: &VaultHost, identity: &Identity) -> Result<VaultReader, VaultError> {
        self.0.client(host, identity).map(VaultReader::new)
    }
}

/// One client a vault and identity: each has its token, and its first call pays for a challenge.
pub(crate) struct VaultClients {
    transport: Transport,
    clients: Mutex<HashMap<(VaultHost, Identity), Kept>>,
}

struct Kept {
    client: Arc<VaultClient>,
    used: Instant,
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
        let used = Instant::now();
        let key = (host.clone(), identity.clone());
        if let Some(kept) = clients.get_mut(&key) {
            kept.used = used;
            return Ok(Arc::clone(&kept.client));
        }
        // Every edition of a credential, and every id that a ServiceAccount is given, has a client of its own: former ones go.
        clients.retain(|_, kept| used.duration_since(kept.used) < UNUSED_MAX);
        let mut akin: Vec<_> = clients.iter().filter(|(other, _)| are_akin(other, &key)).collect();
        akin.sort_by_key(|(_, kept)| std::cmp::Reverse(kept.used));
        let former: Vec<_> = akin.into_iter().skip(AKIN_MAX).map(|(other, _)| other.clone()).collect();
        former.iter().for_each(|other| drop(clients.remove(other)));
        let client = Arc::new(VaultClient::new(host.clone(), identity, &self.transport)?);
        clients.insert(key, Kept { client: Arc::clone(&client), used });
        Ok(client)
    }

    /// Reaches a vault without a token.
    ///
    /// # Errors
    /// It is not reached, or is no vault.
    pub(crate) async fn reach(&self, host: &VaultHost) -> Result<(), VaultError> {
        // No token is asked for, so it does not matter as whom.
        let nobody = Identity::ManagedIdentity { client_id: None };
        VaultClient::new(host.clone(), &nobody, &self.transport)?.reach().await
    }
}

/// Whether two clients are of one vault, and of one ServiceAccount or one Secret.
fn are_akin(one: &(VaultHost, Identity), other: &(VaultHost, Identity)) -> bool {
    let are = match (&one.1, &other.1) {
        (Identity::ServiceAccount { account: a, .. }, Identity::ServiceAccount { account: b, .. }) => {
            a.namespace == b.namespace && a.name == b.name
        }
        (
            Identity::ServicePrincipal { secret: a, .. } | Identity::ClientCertificate { secret: a, .. },
            Identity::ServicePrincipal { secret: b, .. } | Identity::ClientCertificate { secret: b, .. },
        ) => a.namespace == b.namespace && a.name == b.name,
        _ => false,
    };
    are && one.0 == other.0
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
