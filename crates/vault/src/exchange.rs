//! One exchange: the proof of an identity is fetched, shown to Entra ID, and forgotten; what comes back is a token.
//! Remembering token or failure is left to `credential`, the requests to the SDK and the senders in `transport`.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use azure_core::cloud::CustomConfiguration;
use azure_core::credentials::{AccessToken, Secret, TokenCredential};
use azure_core::http::{ClientMethodOptions, ClientOptions, RetryOptions};
use azure_identity::{
    ClientAssertion, ClientAssertionCredential, ClientAssertionCredentialOptions, ClientSecretCredential,
    ClientSecretCredentialOptions,
};
use keyvault_sync_core::names::Cloud;
use keyvault_sync_core::reason::Problem;
use keyvault_sync_core::secret_bytes::SecretBytes;

use crate::assertion::{self, Parties};
use crate::credential::lock;
use crate::federated::{self, Claims};
use crate::identity::{Identity, Proofs};
use crate::imds::Imds;
use crate::network;
use crate::observer::{Observer, TokenOutcome};
use crate::token_failure::{TokenFailure, TokenFailureCause};

/// A proof comes from the API server or its cache. With the exchange behind it (6 s) it stays within a call's time, so that the
/// call still hears why there is no token.
const PROOF_TIME_LIMIT: Duration = Duration::from_secs(3);
/// A client secret has 40 characters, a ServiceAccount token 1 to 3 kB; what is larger is something else.
const PROOF_MAX: usize = 64 * 1024;

/// Where tokens come from and with what: all of it belongs to the process, none of it to one identity.
pub(crate) struct Source {
    pub(crate) proofs: Arc<dyn Proofs>,
    pub(crate) imds: Imds,
    pub(crate) authority_host: String,
    /// Is told how each exchange ends.
    pub(crate) observer: Arc<dyn Observer>,
    /// Sends to the authority and nowhere else.
    pub(crate) transport: azure_core::http::Transport,
}

impl Source {
    /// What messages call the place that an identity's tokens come from.
    pub(crate) fn issuer(&self, identity: &Identity) -> String {
        match identity {
            Identity::ManagedIdentity { .. } => {
                format!("the node's identity endpoint {}", self.imds.as_text())
            }
            Identity::WorkloadIdentity { .. }
            | Identity::ServiceAccount { .. }
            | Identity::ServicePrincipal { .. }
            | Identity::ClientCertificate { .. } => self.authority_host.clone(),
        }
    }

    /// The token of an identity for the vaults of a cloud. What the federated token says of itself, if there is one, is put into
    /// `claims`.
    ///
    /// The SDK's credential lives for this one exchange: it would keep a client secret as long as itself, and hands out what it
    /// was given first.
    pub(crate) async fn token(
        &self,
        identity: &Identity,
        cloud: Cloud,
        claims: &Mutex<Option<Claims>>,
    ) -> Result<AccessToken, TokenFailure> {
        let token = self.exchange(identity, cloud, claims).await;
        let outcome = |failure: &TokenFailure| TokenOutcome::of(&failure.cause);
        self.observer.asked_for_token(token.as_ref().err().map_or(TokenOutcome::Issued, outcome));
        token
    }

    async fn exchange(
        &self,
        identity: &Identity,
        cloud: Cloud,
        claims: &Mutex<Option<Claims>>,
    ) -> Result<AccessToken, TokenFailure> {
        if !are_ids(identity) {
            return Err(TokenFailureCause::Ids.into());
        }
        let credential: Arc<dyn TokenCredential> = match identity {
            Identity::ManagedIdentity { client_id } => {
                return self.imds.token(client_id.as_deref(), cloud).await;
            }
            Identity::WorkloadIdentity { tenant_id, client_id, token_file } => {
                let failed = |found: String| TokenFailureCause::TokenFile { path: token_file.clone(), found };
                let bytes = federated::read_token_file(token_file).await.map_err(failed)?;
                let token = federated::text(&bytes).map_err(|found| failed(found.into()))?;
                *lock(claims) = Claims::read(token);
                self.assertion_credential(tenant_id, client_id, token.to_owned())?
            }
            Identity::ServiceAccount { tenant_id, client_id, account } => {
                let asked = self.proofs.service_account_token(account, cloud.exchange_audience());
                let bytes = in_time(asked).await?;
                let token = proof_text(&bytes)?;
                *lock(claims) = Claims::read(token);
                self.assertion_credential(tenant_id, client_id, token.to_owned())?
            }
            Identity::ServicePrincipal { tenant_id, client_id, secret } => {
                let bytes = in_time(self.proofs.client_secret(secret)).await?;
                self.secret_credential(tenant_id, client_id, proof_text(&bytes)?.to_owned())?
            }
            Identity::ClientCertificate { tenant_id, client_id, secret } => {
                let (certificate, key) = in_time(self.proofs.client_certificate(secret)).await?;
                let parties = Parties { authority_host: &self.authority_host, tenant_id, client_id };
                let assertion = assertion::sign(&certificate, &key, parties, unix_now())
                    .map_err(TokenFailureCause::BadProof)?;
                self.assertion_credential(tenant_id, client_id, assertion)?
            }
        };
        credential.get_token(&[cloud.vault_scope()], None).await.map_err(|error| {
            let failure = network::find::<TokenFailure>(&error).cloned();
            failure.unwrap_or_else(|| TokenFailureCause::Unknown.into())
        })
    }

    fn assertion_credential(
        &self,
        tenant_id: &str,
        client_id: &str,
        assertion: String,
    ) -> Result<Arc<dyn TokenCredential>, TokenFailureCause> {
        let options = ClientAssertionCredentialOptions { client_options: self.client_options() };
        let (tenant_id, client_id) = (tenant_id.to_owned(), client_id.to_owned());
        match ClientAssertionCredential::new(tenant_id, client_id, Assertion(assertion), Some(options)) {
            Ok(credential) => Ok(credential),
            Err(_) => Err(TokenFailureCause::Ids),
        }
    }

    fn secret_credential(
        &self,
        tenant_id: &str,
        client_id: &str,
        secret: String,
    ) -> Result<Arc<dyn TokenCredential>, TokenFailureCause> {
        let options = ClientSecretCredentialOptions { client_options: self.client_options() };
        match ClientSecretCredential::new(tenant_id, client_id.to_owned(), Secret::new(secret), Some(options))
        {
            Ok(credential) => Ok(credential),
            Err(_) => Err(TokenFailureCause::Ids),
        }
    }

    fn client_options(&self) -> ClientOptions {
        let mut cloud = CustomConfiguration::default();
        cloud.authority_host = format!("https://{}", self.authority_host);
        ClientOptions {
            transport: Some(self.transport.clone()),
            retry: RetryOptions::none(),
            // Named always: without it the SDK reads AZURE_AUTHORITY_HOST.
            cloud: Some(Arc::new(cloud.into())),
            ..ClientOptions::default()
        }
    }
}

/// Whether tenant and client can be put into a path and a form; the SDK lets `..` pass for a tenant.
fn are_ids(identity: &Identity) -> bool {
    let is_label = |label: &str| {
        !label.is_empty()
            && label.chars().all(|character| character.is_ascii_alphanumeric() || character == '-')
    };
    let is_tenant = |tenant_id: &str| tenant_id.split('.').all(is_label);
    match identity {
        Identity::WorkloadIdentity { tenant_id, client_id, .. }
        | Identity::ServiceAccount { tenant_id, client_id, .. }
        | Identity::ServicePrincipal { tenant_id, client_id, .. }
        | Identity::ClientCertificate { tenant_id, client_id, .. } => {
            is_tenant(tenant_id) && is_label(client_id)
        }
        Identity::ManagedIdentity { client_id } => client_id.as_deref().is_none_or(is_label),
    }
}

async fn in_time<T>(asked: impl Future<Output = Result<T, Problem>>) -> Result<T, TokenFailureCause> {
    match tokio::time::timeout(PROOF_TIME_LIMIT, asked).await {
        Ok(proof) => proof.map_err(TokenFailureCause::NoProof),
        Err(_elapsed) => Err(TokenFailureCause::ProofLate),
    }
}

fn proof_text(bytes: &SecretBytes) -> Result<&str, TokenFailureCause> {
    if bytes.expose().len() > PROOF_MAX {
        return Err(TokenFailureCause::BadProof(format!("it is larger than {PROOF_MAX} bytes")));
    }
    federated::text(bytes).map_err(|found| TokenFailureCause::BadProof(found.into()))
}

fn unix_now() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_secs()).unwrap_or(i64::MAX)
}

/// The assertion of one exchange.
struct Assertion(String);

impl fmt::Debug for Assertion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<redacted>")
    }
}

#[async_trait]
impl ClientAssertion for Assertion {
    async fn secret(&self, _options: Option<ClientMethodOptions<'_>>) -> azure_core::Result<String> {
        Ok(self.0.clone())
    }
}
