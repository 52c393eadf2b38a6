//! What is sent with a write: a new version with its policy, tags, what adoption changes, in the SDK's words.
//! Sending it is left to `client`.

use azure_security_keyvault_certificates::models::{
    CertificateAttributes, CertificatePolicy, CurveName, ImportCertificateParameters, IssuerParameters,
    KeyProperties, KeyType as AzureKeyType, SecretProperties, UpdateCertificatePropertiesParameters,
};
use keyvault_sync_core::key::{Curve, KeyType};
use keyvault_sync_core::ownership::Tags;
use keyvault_sync_core::pfx::Pfx;

/// A version whose chain is to be read back as PKCS#12, not PEM.
const CONTENT_TYPE_PFX: &str = "application/x-pkcs12";
/// The issuer of certificates that Key Vault did not order: it cannot renew what it does not know how to get.
const ISSUER_UNKNOWN: &str = "Unknown";

/// A new version of a certificate.
pub struct Import<'a> {
    /// Leaf, key and chain.
    pub pfx: &'a Pfx,
    /// Of the private key; the policy repeats it, since Key Vault guesses wrong where RSA and EC are mixed in a chain.
    pub key_type: KeyType,
    /// Whether the private key may leave the vault.
    pub exportable: bool,
    /// All tags of the version.
    pub tags: &'a Tags,
}

/// The SDK takes bundle and password as strings of its own and makes JSON of them; those copies cannot be wiped from here
/// (the operator's allocator wipes what is freed).
pub(crate) fn import(import: &Import<'_>) -> ImportCertificateParameters {
    ImportCertificateParameters {
        base64_encoded_certificate: Some(azure_core::base64::encode(import.pfx.bytes.expose())),
        password: Some(String::from_utf8_lossy(import.pfx.password.expose()).into_owned()),
        certificate_attributes: Some(CertificateAttributes {
            enabled: Some(true),
            ..CertificateAttributes::default()
        }),
        certificate_policy: Some(policy(import.key_type, import.exportable)),
        // Ours is leaf first already, each certificate before its issuer.
        preserve_cert_order: Some(true),
        tags: Some(import.tags.clone().into_iter().collect()),
    }
}

/// All tags of a version, and nothing else.
pub(crate) fn tags(tags: &Tags) -> UpdateCertificatePropertiesParameters {
    UpdateCertificatePropertiesParameters {
        tags: Some(tags.clone().into_iter().collect()),
        ..UpdateCertificatePropertiesParameters::default()
    }
}

/// All tags of a version, and of the policy only what keeps Key Vault from renewing over what is ours from now on. Members
/// that are left out stay as they are.
pub(crate) fn adoption(tags: &Tags) -> UpdateCertificatePropertiesParameters {
    UpdateCertificatePropertiesParameters { certificate_policy: Some(without_renewal()), ..self::tags(tags) }
}

/// No issuer to ask and no action over the lifetime: Key Vault never makes a version of its own. Left out, the actions
/// would be Key Vault's default ones.
fn without_renewal() -> CertificatePolicy {
    CertificatePolicy {
        issuer_parameters: Some(IssuerParameters {
            name: Some(ISSUER_UNKNOWN.into()),
            ..IssuerParameters::default()
        }),
        lifetime_actions: Some(Vec::new()),
        ..CertificatePolicy::default()
    }
}

/// The whole policy of an imported version.
fn policy(key_type: KeyType, exportable: bool) -> CertificatePolicy {
    let (kty, key_size, curve) = match key_type {
        KeyType::Rsa { bits } => (AzureKeyType::Rsa, Some(i32::from(bits)), None),
        KeyType::Ec(curve) => (AzureKeyType::Ec, None, Some(curve_name(curve))),
    };
    CertificatePolicy {
        key_properties: Some(KeyProperties {
            exportable: Some(exportable),
            key_type: Some(kty),
            key_size,
            curve,
            reuse_key: Some(false),
        }),
        secret_properties: Some(SecretProperties { content_type: Some(CONTENT_TYPE_PFX.into()) }),
        ..without_renewal()
    }
}

fn curve_name(curve: Curve) -> CurveName {
    match curve {
        Curve::P256 => CurveName::P256,
        Curve::P384 => CurveName::P384,
        Curve::P521 => CurveName::P521,
    }
}
