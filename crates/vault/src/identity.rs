//! As whom a vault is opened, and where the proof of that comes from.
//! Exchanging the proof for a token is left to `exchange`; reading Secrets and ServiceAccounts, to the operator.

use std::fmt;
use std::path::PathBuf;

use async_trait::async_trait;
use keyvault_sync_core::reason::Problem;
use keyvault_sync_core::secret_bytes::SecretBytes;

/// Who opens a vault. Holds no secret. It is the key of everything that is kept about tokens: whatever makes one caller
/// another must be a part of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Identity {
    /// Entra Workload ID of the operator: a Kubernetes ServiceAccount token, kept fresh in a file by the kubelet, is exchanged
    /// for tokens of an application or managed identity that trusts it (a federated credential).
    WorkloadIdentity {
        /// Directory (tenant) id: a GUID or a domain.
        tenant_id: String,
        /// Application (client) id, a GUID.
        client_id: String,
        /// Where the ServiceAccount token is; read anew for each exchange.
        token_file: PathBuf,
    },
    /// The same with a token of any ServiceAccount, which the API server is asked for.
    ServiceAccount {
        /// Directory (tenant) id.
        tenant_id: String,
        /// Application (client) id.
        client_id: String,
        /// Whose token.
        account: ServiceAccount,
    },
    /// An application with a client secret.
    ServicePrincipal {
        /// Directory (tenant) id.
        tenant_id: String,
        /// Application (client) id.
        client_id: String,
        /// Where the client secret is.
        secret: SecretEdition,
    },
    /// An application with a certificate; it signs what Entra ID is shown.
    ClientCertificate {
        /// Directory (tenant) id.
        tenant_id: String,
        /// Application (client) id.
        client_id: String,
        /// Where certificate and key are.
        secret: SecretEdition,
    },
    /// A managed identity of the node that the operator runs on.
    ManagedIdentity {
        /// Client id of a user-assigned one; `None`: the system-assigned one.
        client_id: Option<String>,
    },
}

/// One ServiceAccount. Made anew under the same name, it is another.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ServiceAccount {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
}

/// One edition of a Secret: with another resourceVersion it is another, so that a changed Secret is used at once, whatever was
/// remembered of the one before.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SecretEdition {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// Its resourceVersion.
    pub resource_version: String,
    /// Which entry holds the client secret; `None` for a certificate.
    pub key: Option<String>,
}

impl fmt::Display for ServiceAccount {
    /// `ServiceAccount web/keyvault`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ServiceAccount {}/{}", self.namespace, self.name)
    }
}

impl fmt::Display for SecretEdition {
    /// `Secret keyvault-sync/credentials`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret {}/{}", self.namespace, self.name)
    }
}

/// What identities prove themselves with. Asked each time a token is, and nothing of it is kept here.
#[async_trait]
pub trait Proofs: Send + Sync + fmt::Debug {
    /// The client secret.
    ///
    /// # Errors
    /// Why it cannot be had; reason and sentence are told to users.
    async fn client_secret(&self, secret: &SecretEdition) -> Result<SecretBytes, Problem>;

    /// `tls.crt` and `tls.key`, PEM.
    ///
    /// # Errors
    /// Why they cannot be had; reason and sentence are told to users.
    async fn client_certificate(&self, secret: &SecretEdition) -> Result<(Vec<u8>, SecretBytes), Problem>;

    /// A token of exactly this ServiceAccount (its uid included), for this audience only.
    ///
    /// # Errors
    /// Why it cannot be had; reason and sentence are told to users.
    async fn service_account_token(
        &self,
        account: &ServiceAccount,
        audience: &str,
    ) -> Result<SecretBytes, Problem>;
}

#[cfg(test)]
pub(crate) mod tests {
    use keyvault_sync_core::reason::Reason;

    use super::*;

    /// Nothing can be proved.
    #[derive(Debug)]
    pub(crate) struct NoProofs;

    impl NoProofs {
        fn none<T>() -> Result<T, Problem> {
            Err(Problem::new(Reason::AuthenticationFailed, "there is no such thing here"))
        }
    }

    #[async_trait]
    impl Proofs for NoProofs {
        async fn client_secret(&self, _: &SecretEdition) -> Result<SecretBytes, Problem> {
            Self::none()
        }

        async fn client_certificate(&self, _: &SecretEdition) -> Result<(Vec<u8>, SecretBytes), Problem> {
            Self::none()
        }

        async fn service_account_token(&self, _: &ServiceAccount, _: &str) -> Result<SecretBytes, Problem> {
            Self::none()
        }
    }
}
