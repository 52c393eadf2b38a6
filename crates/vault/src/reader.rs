//! One vault as one identity sees it, for whoever only looks: the reads of a `VaultClient`, and none of its acts.
//! What is read, and what it means, is left to the callers.

use std::sync::Arc;

use keyvault_sync_core::facts::{CertificateFacts, DeletedFacts};
use keyvault_sync_core::names::CertificateName;

use crate::client::{Listing, Stage, VaultClient};
use crate::error::VaultError;

/// The reads of a vault. Nothing that is called here can change it.
#[derive(Clone)]
pub struct VaultReader(Arc<VaultClient>);

impl VaultReader {
    /// The reads of this client.
    pub fn new(client: Arc<VaultClient>) -> Self {
        Self(client)
    }

    /// See [`VaultClient::newest`].
    ///
    /// # Errors
    /// See [`VaultError`].
    pub async fn newest(&self, name: &CertificateName) -> Result<Option<CertificateFacts>, VaultError> {
        self.0.newest(name).await
    }

    /// See [`VaultClient::version`].
    ///
    /// # Errors
    /// See [`VaultError`].
    pub async fn version(
        &self,
        name: &CertificateName,
        version: &str,
    ) -> Result<Option<CertificateFacts>, VaultError> {
        self.0.version(name, version).await
    }

    /// See [`VaultClient::deleted`].
    ///
    /// # Errors
    /// See [`VaultError`].
    pub async fn deleted(&self, name: &CertificateName) -> Result<Option<DeletedFacts>, VaultError> {
        self.0.deleted(name).await
    }

    /// See [`VaultClient::list`].
    ///
    /// # Errors
    /// See [`VaultError`].
    pub async fn list(&self, pages_max: usize) -> Result<Listing, VaultError> {
        self.0.list(pages_max).await
    }

    /// See [`VaultClient::approach`].
    ///
    /// # Errors
    /// See [`VaultError`].
    pub async fn approach(&self) -> Result<(), (Stage, VaultError)> {
        self.0.approach().await
    }

    /// See [`VaultClient::token`].
    ///
    /// # Errors
    /// See [`VaultError`].
    pub async fn token(&self) -> Result<(), VaultError> {
        self.0.token().await
    }

    /// See [`VaultClient::contact`].
    ///
    /// # Errors
    /// See [`VaultError`].
    pub async fn contact(&self) -> Result<(), VaultError> {
        self.0.contact().await
    }
}
