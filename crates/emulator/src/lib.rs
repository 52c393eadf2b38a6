//! A local Azure Key Vault and Entra ID on loopback, for tests, benchmarks and the demo: `Emulator` is the handle.
//! Leaves what is a right answer to the modules named after it; depends on nothing of keyvault-sync, so that it can judge it.
//!
//! One process answers under every host name of the three clouds: point a client's connections, not its URLs, at
//! [`Emulator::address`], and give it [`Emulator::ca_pem`] to trust.

mod admin;
mod answer;
mod auth;
mod bundle;
mod certificates;
mod client_certificate;
mod cloud;
mod deleted;
mod discovery;
mod entra;
mod error;
mod fault;
mod hands;
mod imds;
mod journal;
mod jwt;
mod life;
mod page;
mod policy;
mod random;
mod route;
mod secrets;
mod server;
mod service;
mod shown;
mod tls;
mod vault;

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

pub use entra::{Application, FederatedCredential};
pub use fault::{Effect, Fault, FaultId};
pub use hands::Put;
pub use imds::AssignedIdentity;
pub use journal::{Call, Operation};
pub use tls::TlsError;
pub use vault::{Permissions, State, StoredCertificate, StoredVersion};

use life::Takes;
use server::Entrance;
use service::Service;
use vault::Vault;

/// A running emulator. Handles are cheap to clone; it stops when [`Emulator::stop`] is called or the last is dropped.
#[derive(Clone)]
pub struct Emulator {
    running: Arc<Running>,
}

struct Running {
    service: Arc<Service>,
    address: SocketAddr,
    imds: SocketAddr,
    ca_pem: String,
    stop: watch::Sender<bool>,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl fmt::Debug for Emulator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Emulator").field("address", &self.running.address).finish_non_exhaustive()
    }
}

/// Why the emulator did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address cannot be bound, or is not a loopback address.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address asked for.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// Its certificates could not be made.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Its token-signing key could not be made.
    #[error("cannot make the key that signs tokens")]
    SigningKey,
}

impl Emulator {
    /// Starts an emulator without vaults, tenants or applications; the metadata service takes any free port.
    ///
    /// # Errors
    /// If `listen` is no loopback address (127.0.0.0/8, ::1) or cannot be bound. Port 0 takes any free port.
    pub async fn start(listen: SocketAddr) -> Result<Self, StartError> {
        Self::start_at(listen, (Ipv4Addr::LOCALHOST, 0).into()).await
    }

    /// As [`Emulator::start`], with the instance metadata service at `imds`.
    ///
    /// # Errors
    /// If either is no loopback address or cannot be bound.
    pub async fn start_at(listen: SocketAddr, imds: SocketAddr) -> Result<Self, StartError> {
        let (listener, address) = bind(listen).await?;
        let (imds_listener, imds) = bind(imds).await?;
        let tls = tls::new()?;
        let signer = jwt::TokenSigner::generate().map_err(|_| StartError::SigningKey)?;
        let service = Arc::new(Service::new(signer));
        let (stop, stopping) = watch::channel(false);
        let azure = Entrance::Azure(tls.config.into());
        let azure = server::serve(listener, azure, service.clone(), stopping.clone());
        let metadata = server::serve(imds_listener, Entrance::Metadata, service.clone(), stopping);
        let serving = tokio::spawn(async {
            tokio::join!(azure, metadata);
        });
        let running =
            Running { service, address, imds, ca_pem: tls.ca_pem, stop, task: Mutex::new(Some(serving)) };
        Ok(Self { running: Arc::new(running) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.running.address
    }

    /// Where the node's instance metadata service is, in Azure `http://169.254.169.254`: `http://127.0.0.1:PORT`.
    pub fn imds_endpoint(&self) -> String {
        format!("http://{}", self.running.imds)
    }

    /// The certificate of its own CA, in PEM: what clients must trust.
    pub fn ca_pem(&self) -> &str {
        &self.running.ca_pem
    }

    /// Adds an empty vault at `host` (`contoso.vault.azure.net`), or empties the one there; its tenant exists from then on.
    pub fn add_vault(&self, host: &str, tenant_id: &str) {
        self.service().directory().add_tenant(tenant_id);
        self.service().vaults().insert(host.to_ascii_lowercase(), Vault::new(tenant_id));
    }

    /// Whether there is a vault at `host`.
    pub fn has_vault(&self, host: &str) -> bool {
        self.service().vaults().contains_key(&host.to_ascii_lowercase())
    }

    /// Removes a vault with all it holds; calls to it are then answered 421.
    pub fn remove_vault(&self, host: &str) {
        self.service().vaults().remove(&host.to_ascii_lowercase());
    }

    /// Makes Entra ID check assertions of `issuer` with the keys of `jwks` (`{"keys": […]}`; RS256 and ES256).
    pub fn trust_issuer(&self, issuer: &str, jwks: Value) {
        self.service().directory().trust_issuer(issuer, jwks);
    }

    /// Adds an application, or replaces the one of the same tenant and client id; its tenant exists from then on.
    pub fn add_application(&self, application: Application) {
        self.service().directory().add_application(application);
    }

    /// Assigns a managed identity to the node, of which the metadata service gives tokens from then on; its tenant exists.
    /// It takes the place of one with the same client id; a system-assigned one, also that of the node's other one.
    pub fn assign_identity(&self, identity: AssignedIdentity) {
        self.service().directory().add_tenant(&identity.tenant_id);
        self.service().node().assign(identity);
    }

    /// Takes an identity from the node; tokens that were given keep their validity. Whether there was one of that client id.
    pub fn unassign_identity(&self, client_id: &str) -> bool {
        self.service().node().unassign(client_id)
    }

    /// The identities assigned to the node.
    pub fn identities(&self) -> Vec<AssignedIdentity> {
        self.service().node().identities()
    }

    /// Sets what the application (or managed identity) may do in the vault; nothing happens if there is no such vault.
    pub fn allow(&self, host: &str, client_id: &str, permissions: Permissions) {
        self.change_vault(host, |vault| {
            vault.grants.insert(client_id.to_ascii_lowercase(), permissions);
        });
    }

    /// Takes every permission in the vault from the application: its calls are then 403 `ForbiddenByRbac`.
    pub fn deny(&self, host: &str, client_id: &str) {
        self.allow(host, client_id, Permissions::none());
    }

    /// Sets how long a deletion in the vault lasts from now on (none unless set): until then the certificate is neither
    /// there nor among the deleted. Nothing happens if there is no such vault.
    pub fn set_deletion_time(&self, host: &str, time: Duration) {
        self.change_vault(host, |vault| vault.deletion = Takes::Time(time));
    }

    /// Sets how long a recovery in the vault lasts from now on (none unless set): until then the certificate is neither
    /// there nor among the deleted.
    pub fn set_recovery_time(&self, host: &str, time: Duration) {
        self.change_vault(host, |vault| vault.recovery = Takes::Time(time));
    }

    /// Lets each deletion in the vault last from now on until [`Emulator::finish_deletion`] ends it.
    pub fn hold_deletions(&self, host: &str) {
        self.change_vault(host, |vault| vault.deletion = Takes::UntilTold);
    }

    /// Lets each recovery in the vault last from now on until [`Emulator::finish_recovery`] ends it.
    pub fn hold_recoveries(&self, host: &str) {
        self.change_vault(host, |vault| vault.recovery = Takes::UntilTold);
    }

    /// Protects the vault against purging, or ends that (which Azure never does).
    pub fn set_purge_protection(&self, host: &str, protected: bool) {
        self.change_vault(host, |vault| vault.purge_protection = protected);
    }

    /// Seconds that tokens hold which Entra ID and the metadata service issue from now on (3599 unless set).
    pub fn set_token_lifetime(&self, seconds: i64) {
        self.service().token_lifetime.store(seconds, Ordering::Relaxed);
    }

    /// A token as Entra ID signs them, for tests of what a vault refuses: `expires_in` (seconds) may be negative, the
    /// audience any. Empty if the crypto library fails to sign.
    pub fn issue_token(&self, tenant_id: &str, client_id: &str, audience: &str, expires_in: i64) -> String {
        entra::access_token(&self.service().signer, tenant_id, client_id, audience, expires_in)
            .unwrap_or_default()
    }

    /// Injects a fault; it stays listed until cleared, also when it has hit as often as it was to.
    pub fn inject(&self, fault: Fault) -> FaultId {
        self.service().faults.inject(fault)
    }

    /// Ends a fault, and with it the waiting of calls it hangs. Whether there was one of that id.
    pub fn clear_fault(&self, id: FaultId) -> bool {
        self.service().faults.clear(id)
    }

    /// Ends all faults.
    pub fn clear_faults(&self) {
        self.service().faults.clear_all();
    }

    /// The faults there are; `times` says how many hits each has left.
    pub fn faults(&self) -> Vec<(FaultId, Fault)> {
        self.service().faults.list()
    }

    /// The last calls (at most 100,000), in the order in which they began, those under way included.
    pub fn journal(&self) -> Vec<Call> {
        self.service().journal.calls()
    }

    /// The calls of one host. A vault's include the challenge's first rounds (status 401, no client id).
    pub fn calls(&self, host: &str) -> Vec<Call> {
        let mut calls = self.journal();
        calls.retain(|call| call.host.eq_ignore_ascii_case(host));
        calls
    }

    /// Waits until `predicate` holds of the journal, looking again at every change of it; false after `deadline`.
    pub async fn wait_for(&self, deadline: Duration, mut predicate: impl FnMut(&[Call]) -> bool) -> bool {
        let journal = &self.service().journal;
        let mut changes = journal.watch();
        let seen = async {
            loop {
                changes.mark_unchanged();
                if predicate(&journal.calls()) || changes.changed().await.is_err() {
                    return;
                }
            }
        };
        tokio::time::timeout(deadline, seen).await.is_ok()
    }

    /// Stops: no connection is left when this returns. Other handles stay usable for looking at what happened.
    pub async fn stop(self) {
        let _ = self.running.stop.send(true);
        let task = self.running.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(task) = task {
            let _ = task.await;
        }
    }

    fn change_vault(&self, host: &str, change: impl FnOnce(&mut Vault)) {
        if let Some(vault) = self.service().vaults().get_mut(&host.to_ascii_lowercase()) {
            change(vault);
        }
    }

    fn service(&self) -> &Service {
        &self.running.service
    }
}

async fn bind(listen: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    let refused = |source| StartError::Listen { address: listen, source };
    let listener = server::bind(listen).await.map_err(refused)?;
    let address = listener.local_addr().map_err(refused)?;
    Ok((listener, address))
}
