//! What identities prove themselves with, as a cluster would have it: put in by a test, and who asked for what.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use keyvault_sync_core::reason::{Problem, Reason};
use keyvault_sync_core::secret_bytes::SecretBytes;
use keyvault_sync_vault::{Proofs, SecretEdition, ServiceAccount};

/// A cluster's Secrets and the tokens of its ServiceAccounts.
#[derive(Clone, Default)]
pub(crate) struct Wallet(Arc<Mutex<Content>>);

#[derive(Default)]
struct Content {
    secrets: HashMap<SecretEdition, String>,
    certificates: HashMap<SecretEdition, (String, String)>,
    tokens: HashMap<ServiceAccount, String>,
    asked: Vec<String>,
}

impl std::fmt::Debug for Wallet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Wallet")
    }
}

impl Wallet {
    pub(crate) fn put_secret(&self, edition: &SecretEdition, secret: &str) {
        self.0.lock().unwrap().secrets.insert(edition.clone(), secret.to_owned());
    }

    pub(crate) fn put_certificate(&self, edition: &SecretEdition, certificate: &str, key: &str) {
        let pair = (certificate.to_owned(), key.to_owned());
        self.0.lock().unwrap().certificates.insert(edition.clone(), pair);
    }

    pub(crate) fn put_token(&self, account: &ServiceAccount, token: &str) {
        self.0.lock().unwrap().tokens.insert(account.clone(), token.to_owned());
    }

    /// What was asked for, in order: names, and a token's audience.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.0.lock().unwrap().asked.clone()
    }

    fn give<T>(&self, asked: String, find: impl FnOnce(&Content) -> Option<T>) -> Result<T, Problem> {
        let mut content = self.0.lock().unwrap();
        let problem = Problem::new(Reason::SecretNotFound, format!("{asked} does not exist"));
        content.asked.push(asked);
        find(&content).ok_or(problem)
    }
}

#[async_trait::async_trait]
impl Proofs for Wallet {
    async fn client_secret(&self, secret: &SecretEdition) -> Result<SecretBytes, Problem> {
        let found = self.give(secret.to_string(), |content| content.secrets.get(secret).cloned())?;
        Ok(SecretBytes::new(found.into_bytes()))
    }

    async fn client_certificate(&self, secret: &SecretEdition) -> Result<(Vec<u8>, SecretBytes), Problem> {
        let found = self.give(secret.to_string(), |content| content.certificates.get(secret).cloned());
        let (certificate, key) = found?;
        Ok((certificate.into_bytes(), SecretBytes::new(key.into_bytes())))
    }

    async fn service_account_token(
        &self,
        account: &ServiceAccount,
        audience: &str,
    ) -> Result<SecretBytes, Problem> {
        let asked = format!("{account} for {audience}");
        let found = self.give(asked, |content| content.tokens.get(account).cloned())?;
        Ok(SecretBytes::new(found.into_bytes()))
    }
}
