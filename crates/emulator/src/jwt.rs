//! Tokens: signs Entra ID's own with RS256, and checks signatures of its own and of trusted issuers' tokens.
//! Leaves every claim to be judged by entra.rs and auth.rs, which answer each failure in their own words.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeySize, PublicKeyComponents};
use aws_lc_rs::signature::{KeyPair, RSA_PKCS1_SHA256, RsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde_json::{Value, json};

/// Signature algorithms taken from issuers: what Kubernetes signs ServiceAccount tokens with, and Entra's own.
const ALGORITHMS: [Algorithm; 2] = [Algorithm::RS256, Algorithm::ES256];

/// Entra ID's signing key: made at start, never leaves the process.
pub(crate) struct TokenSigner {
    key: RsaKeyPair,
    kid: String,
    public: Value,
}

/// Why a token's signature cannot be relied on.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum SignatureFault {
    /// Not a JWS in compact form, or of an algorithm not taken.
    Malformed,
    /// None of the issuer's keys is the one named.
    KeyNotFound,
    /// The key is known, the signature is not its.
    Invalid,
}

impl TokenSigner {
    /// A new RSA-2048 key, as Entra ID uses.
    pub(crate) fn generate() -> Result<Self, aws_lc_rs::error::Unspecified> {
        let key = RsaKeyPair::generate(KeySize::Rsa2048)?;
        let components: PublicKeyComponents<Vec<u8>> = key.public_key().into();
        let n = URL_SAFE_NO_PAD.encode(components.n);
        let e = URL_SAFE_NO_PAD.encode(components.e);
        let kid = n.chars().take(27).collect::<String>();
        let public = json!({ "kty": "RSA", "use": "sig", "alg": "RS256", "kid": kid, "n": n, "e": e });
        Ok(Self { key, kid, public })
    }

    /// The public half as a JWKS document.
    pub(crate) fn jwks(&self) -> Value {
        json!({ "keys": [self.public] })
    }

    /// `claims` as a signed JWT.
    pub(crate) fn sign(&self, claims: &Value) -> Result<String, aws_lc_rs::error::Unspecified> {
        let header = json!({ "typ": "JWT", "alg": "RS256", "kid": self.kid, "x5t": self.kid });
        let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", encode(&header), encode(claims));
        let mut signature = vec![0; self.key.public_modulus_len()];
        self.key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), signed.as_bytes(), &mut signature)?;
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}

/// The claims of `token` as they stand, nothing checked: to find out whose keys to check it with.
pub(crate) fn unverified_claims(token: &str) -> Result<Value, SignatureFault> {
    jsonwebtoken::dangerous::insecure_decode::<Value>(token)
        .map(|decoded| decoded.claims)
        .map_err(|_| SignatureFault::Malformed)
}

/// The claims of `token`, if one of the keys of `jwks` signed it. No claim is judged.
pub(crate) fn verified_claims(token: &str, jwks: &Value) -> Result<Value, SignatureFault> {
    let header = jsonwebtoken::decode_header(token).map_err(|_| SignatureFault::Malformed)?;
    if !ALGORITHMS.contains(&header.alg) {
        return Err(SignatureFault::Malformed);
    }
    let validation = signature_only(header.alg);
    let keys = jwks["keys"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut fault = SignatureFault::KeyNotFound;
    for key in keys.iter().filter(|key| header.kid.is_none() || key["kid"].as_str() == header.kid.as_deref())
    {
        // A key of a kind this library does not know is no reason to fail: the set may hold others.
        let Ok(jwk) = serde_json::from_value::<Jwk>(key.clone()) else { continue };
        let Ok(decoding) = DecodingKey::from_jwk(&jwk) else { continue };
        match jsonwebtoken::decode::<Value>(token, &decoding, &validation) {
            Ok(decoded) => return Ok(decoded.claims),
            Err(_) => fault = SignatureFault::Invalid,
        }
    }
    Err(fault)
}

/// Whether `key` signed `token` with one of `algorithms`. No claim is judged.
pub(crate) fn is_signed_by(token: &str, key: &DecodingKey, algorithms: &[Algorithm]) -> bool {
    jsonwebtoken::decode_header(token).is_ok_and(|header| {
        algorithms.contains(&header.alg)
            && jsonwebtoken::decode::<Value>(token, key, &signature_only(header.alg)).is_ok()
    })
}

fn signature_only(algorithm: Algorithm) -> Validation {
    let mut validation = Validation::new(algorithm);
    validation.required_spec_claims.clear();
    validation.validate_exp = false;
    validation.validate_aud = false;
    validation
}
