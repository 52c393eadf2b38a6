//! Client assertions that an application signs with a certificate registered with it ("Microsoft identity platform
//! application authentication certificate credentials"). Leaves other proofs, and the assertion's time, to entra.rs.

use std::fmt::Write as _;

use aws_lc_rs::digest::{Algorithm as Hash, SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey};
use serde_json::Value;
use x509_parser::certificate::Validity;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::cloud::Cloud;
use crate::entra::{self, Application};
use crate::error::TokenError;
use crate::jwt;
use crate::vault::now;

/// What Entra ID takes from a certificate's key.
const ALGORITHMS: [Algorithm; 2] = [Algorithm::RS256, Algorithm::PS256];

/// Whether the assertion claims to be an application's own word, and not another issuer's: its issuer is its subject, or
/// the client itself.
pub(crate) fn is_own(claims: &Value, client_id: &str) -> bool {
    claims["iss"].is_string() && (claims["iss"] == claims["sub"] || names(&claims["iss"], client_id))
}

/// Judges such an assertion for `application` in `tenant` (lower case), asked on an authority of `cloud`.
pub(crate) fn check(
    cloud: &Cloud,
    tenant: &str,
    application: &Application,
    assertion: &str,
    claims: &Value,
) -> Result<(), TokenError> {
    let client_id = application.client_id.as_str();
    // The issuer is then the client too: otherwise the assertion would not be its own.
    if !names(&claims["sub"], client_id) {
        let message = "Client assertion application identifier doesn't match 'client_id' parameter.";
        return Err(TokenError::client(700_021, message));
    }
    let thumbprint = Thumbprint::of(assertion)?;
    let der = application.certificates.iter().find(|der| thumbprint.is_of(der));
    let certificate = der.and_then(|der| X509Certificate::from_der(der).ok()).map(|(_, parsed)| parsed);
    let Some(certificate) = certificate else {
        return Err(refused(client_id, "The key was not found.", &thumbprint, None));
    };
    let refuse = |reason: &str| Err(refused(client_id, reason, &thumbprint, Some(certificate.validity())));
    if certificate.validity().not_after.timestamp() < now() {
        return refuse("The key used is expired.");
    }
    if certificate.validity().not_before.timestamp() > now() {
        return refuse("The key used is not valid yet.");
    }
    // What stands there for an RSA key is the PKCS#1 public key; for any other kind no RSA signature fits it.
    let key = DecodingKey::from_rsa_der(&certificate.public_key().subject_public_key.data);
    if !jwt::is_signed_by(assertion, &key, &ALGORITHMS) {
        return refuse("The provided signature value did not match the expected signature value.");
    }
    if !audiences(cloud, tenant).iter().any(|wanted| names(&claims["aud"], wanted)) {
        let message = "Client assertion audience claim does not match Realm issuer.";
        return Err(TokenError::client(700_023, message));
    }
    Ok(())
}

/// Whether the claim is this client id, or a URL with this tenant id: GUIDs are compared without case.
fn names(claim: &Value, wanted: &str) -> bool {
    claim.as_str().is_some_and(|claim| claim.eq_ignore_ascii_case(wanted))
}

/// The tenant's token endpoint and issuer, under each host of the cloud.
fn audiences(cloud: &Cloud, tenant: &str) -> Vec<String> {
    let endpoints = cloud.hosts.iter().map(|host| format!("https://{host}/{tenant}/oauth2/v2.0/token"));
    endpoints.chain([cloud.issuer_v2(tenant)]).collect()
}

fn refused(client_id: &str, reason: &str, thumbprint: &Thumbprint, found: Option<&Validity>) -> TokenError {
    let mut message = format!(
        "The certificate with identifier used to sign the client assertion is not registered on application or not \
         good for it. [Reason - {reason}"
    );
    if let Some((_, bytes)) = &thumbprint.0 {
        let _ = write!(message, ", Thumbprint of key used by client: '");
        for byte in bytes {
            let _ = write!(message, "{byte:02X}");
        }
        message.push('\'');
    }
    if let Some(validity) = found {
        let _ = write!(message, ", Found key 'Start={}, End={}'", validity.not_before, validity.not_after);
    }
    let _ = write!(message, "] See the keys configured for app Id '{client_id}'.");
    TokenError::client(700_027, message)
}

/// Which certificate an assertion's header names, and by which hash of it; none, if it names none.
struct Thumbprint(Option<(&'static Hash, Vec<u8>)>);

impl Thumbprint {
    /// `x5t#S256` counts where both are given.
    fn of(assertion: &str) -> Result<Self, TokenError> {
        let header = jsonwebtoken::decode_header(assertion).map_err(|_| entra::malformed())?;
        let named = match (header.x5t_s256, header.x5t) {
            (Some(text), _) => decode(&text).map(|bytes| (&SHA256, bytes)),
            (None, Some(text)) => decode(&text).map(|bytes| (&SHA1_FOR_LEGACY_USE_ONLY, bytes)),
            (None, None) => None,
        };
        Ok(Self(named))
    }

    fn is_of(&self, der: &[u8]) -> bool {
        self.0.as_ref().is_some_and(|(hash, bytes)| digest(hash, der).as_ref() == bytes.as_slice())
    }
}

/// RFC 7515 wants base64url without padding; some of Microsoft's own libraries write the other alphabet, and are taken.
fn decode(text: &str) -> Option<Vec<u8>> {
    let text = text.trim_end_matches('=').replace('+', "-").replace('/', "_");
    URL_SAFE_NO_PAD.decode(text).ok()
}
