//! The Secret's data, read on demand, → its certificate chain, or the exact reason why not.
//! What is done with it is left to the decision.

use k8s_openapi::api::core::v1::Secret;
use keyvault_sync_core::chain::{CertificateChain, SecretEntries};
use keyvault_sync_core::fingerprint::Fingerprint;
use keyvault_sync_core::push::{Content, SourceVersion};
use keyvault_sync_core::reason::Problem;
use keyvault_sync_core::secret_bytes::SecretBytes;
use kube::ResourceExt;

use super::observe::Source;
use crate::context::View;

/// Where cert-manager and others put the issuer's certificate.
const CA_ENTRY: &str = "ca.crt";

/// What a read of a Secret gives.
pub(crate) enum Found {
    /// There is no such Secret.
    Missing,
    /// This edition of it, and what it holds.
    Read {
        /// The edition.
        version: SourceVersion,
        /// Its content, or what is wrong with it.
        chain: Result<CertificateChain, Problem>,
    },
}

/// Reads a Secret that a claim pushes from.
///
/// # Errors
/// The API server did not answer, or refused.
pub(crate) async fn content(source: &Source, context: &View, now: i64) -> Result<Found, Problem> {
    let namespace = &source.namespace;
    let secret = match context.reader.get_in::<Secret>("a Secret", namespace, &source.name).await {
        Ok(secret) => secret,
        // Anything else that is 404 is no statement about this Secret.
        Err(error) if error.says_missing(&source.name) => return Ok(Found::Missing),
        Err(error) => return Err(error.problem()),
    };
    let version = SourceVersion {
        uid: secret.uid().unwrap_or_default(),
        resource_version: secret.resource_version().unwrap_or_default(),
    };
    let entry = |secret: &mut std::collections::BTreeMap<String, k8s_openapi::ByteString>, key: &str| {
        SecretBytes::new(secret.remove(key).map(|bytes| bytes.0).unwrap_or_default())
    };
    let mut data = secret.data.unwrap_or_default();
    let certificate = entry(&mut data, &source.keys.certificate);
    let private_key = entry(&mut data, &source.keys.private_key);
    let authority = data.remove(CA_ENTRY).map(|bytes| bytes.0);
    // Whatever else the Secret holds is wiped too.
    data.into_values().for_each(|bytes| drop(SecretBytes::new(bytes.0)));
    let entries = SecretEntries {
        certificate_key: &source.keys.certificate,
        certificate: certificate.expose(),
        private_key_key: &source.keys.private_key,
        private_key: private_key.expose(),
        ca: authority.as_deref(),
    };
    let chain = CertificateChain::from_entries(&entries, now).map_err(|problem| {
        Problem::new(problem.reason, format!("Secret {namespace}/{}: {}", source.name, problem.message))
    });
    Ok(Found::Read { version, chain })
}

/// What the decision needs to know of a chain.
pub(crate) fn facts(chain: &CertificateChain) -> Content {
    Content {
        fingerprint: chain.fingerprint(),
        leaf: Fingerprint::of_leaf(chain.leaf_der()),
        thumbprint: chain.thumbprint(),
        not_after: chain.not_after(),
    }
}
