//! Azure Key Vault in domain words: reads and writes of certificates, tokens, and every failure told as a `VaultError`.
//! It reports facts and performs acts; what follows from them is left to `keyvault-sync-core` and the operator.

mod act;
mod answer;
mod assertion;
mod challenge;
mod classify;
mod client;
mod credential;
mod decode;
mod error;
mod exchange;
mod federated;
mod fence;
mod guidance;
mod identity;
mod imds;
mod network;
mod observer;
mod parameters;
mod reader;
mod token_failure;
mod transport;

pub use client::{CONTACT_NAME, Listing, Stage, VaultClient};
pub use error::{Landed, VaultError};
pub use fence::Fence;
pub use guidance::who;
pub use identity::{Identity, Proofs, SecretEdition, ServiceAccount};
pub use observer::{Called, Observer, TokenOutcome};
pub use parameters::Import;
pub use reader::VaultReader;
pub use transport::{Transport, TransportError, TransportSettings};
