//! Everything keyvault-sync decides: parse, validate, plan. No clock, no network, no Kubernetes client, no log.
//! Reading the world and changing it is left to `keyvault-sync-vault` and the operator.

mod certificate;
pub mod chain;
pub mod claims;
pub mod facts;
pub mod fingerprint;
pub mod grants;
pub mod inventory;
pub mod key;
pub mod labels;
pub mod lease;
pub mod names;
pub mod ownership;
pub mod pem;
pub mod pfx;
pub mod push;
pub mod reason;
pub mod release;
pub mod secret_bytes;
pub mod selection;
pub mod title;
