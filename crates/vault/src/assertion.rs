//! The assertion with which an application proves that it holds the key of its certificate: a JWT of ours, signed RS256.
//! The SDK does this with OpenSSL only. Sending it is left to `exchange`.
//!
//! Form: <https://learn.microsoft.com/entra/identity-platform/certificate-credentials>.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use keyvault_sync_core::chain::{CertificateChain, SecretEntries};
use keyvault_sync_core::key::KeyType;
use keyvault_sync_core::pem::{self, KeyEncoding};
use keyvault_sync_core::reason::Reason;
use keyvault_sync_core::secret_bytes::SecretBytes;
use rustls::SignatureScheme;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs1KeyDer, PrivatePkcs8KeyDer, PrivateSec1KeyDer};
use serde_json::json;

/// The entries of a Secret of type kubernetes.io/tls.
const CERTIFICATE_KEY: &str = "tls.crt";
const PRIVATE_KEY_KEY: &str = "tls.key";
/// How long an assertion holds: it is used within seconds, and Entra ID asks for 5 to 10 minutes at most.
const LIFETIME_SECS: i64 = 300;
/// A JWT id has this many random bytes: nobody meets another's.
const ID_BYTES: usize = 16;

/// Who asserts, and towards whom.
#[derive(Clone, Copy)]
pub(crate) struct Parties<'a> {
    pub(crate) authority_host: &'a str,
    pub(crate) tenant_id: &'a str,
    pub(crate) client_id: &'a str,
}

/// The assertion; or what is wrong with the certificate, in words that begin with its entry. `now` is unix seconds.
pub(crate) fn sign(
    certificate: &[u8],
    private_key: &SecretBytes,
    parties: Parties<'_>,
    now: i64,
) -> Result<String, String> {
    let thumbprint = check(certificate, private_key, now)?;
    let header = json!({"alg": "RS256", "typ": "JWT", "x5t#S256": URL_SAFE_NO_PAD.encode(thumbprint)});
    let Parties { authority_host, tenant_id, client_id } = parties;
    let claims = json!({
        "aud": format!("https://{authority_host}/{tenant_id}/oauth2/v2.0/token"),
        "iss": client_id,
        "sub": client_id,
        "jti": id()?,
        "iat": now,
        "nbf": now,
        "exp": now + LIFETIME_SECS,
    });
    let encode = |part: &serde_json::Value| URL_SAFE_NO_PAD.encode(part.to_string());
    let message = format!("{}.{}", encode(&header), encode(&claims));
    let signature = signature(private_key, message.as_bytes())?;
    Ok(format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature)))
}

/// The SHA-256 thumbprint of the leaf, if certificate and key belong together, are of now, and RSA.
fn check(certificate: &[u8], private_key: &SecretBytes, now: i64) -> Result<[u8; 32], String> {
    let entries = SecretEntries {
        certificate_key: CERTIFICATE_KEY,
        certificate,
        private_key_key: PRIVATE_KEY_KEY,
        private_key: private_key.expose(),
        ca: None,
    };
    // As of long ago nothing has expired: that is told below, in words about Entra ID and not about an import.
    let chain =
        CertificateChain::from_entries(&entries, i64::MIN).map_err(|problem| match problem.reason {
            Reason::UnsupportedKeyType => not_rsa("a key of another type"),
            _ => problem.message,
        })?;
    match chain.key_type() {
        KeyType::Rsa { .. } => {}
        KeyType::Ec(curve) => return Err(not_rsa(&format!("an EC key on {}", curve.as_str()))),
    }
    if now > chain.not_after() {
        return Err(format!(
            "the certificate {} in {CERTIFICATE_KEY} has expired, and Entra ID takes no expired one; renew it, and add the \
             new one to the app registration",
            chain.subject()
        ));
    }
    if now < chain.not_before() {
        return Err(format!(
            "the certificate {} in {CERTIFICATE_KEY} is not valid yet; wait, or check the clock of the operator's node",
            chain.subject()
        ));
    }
    Ok(chain.leaf_sha256())
}

fn not_rsa(found: &str) -> String {
    format!(
        "{PRIVATE_KEY_KEY} holds {found}; Entra ID is shown an RS256 signature, which takes an RSA key of 2048, 3072 or 4096 \
         bits: make a certificate with such a key (with cert-manager `spec.privateKey.algorithm: RSA` and `size: 2048`), \
         and add it to the app registration"
    )
}

fn signature(private_key: &SecretBytes, message: &[u8]) -> Result<Vec<u8>, String> {
    let (encoding, der) =
        pem::private_key(PRIVATE_KEY_KEY, private_key.expose()).map_err(|problem| problem.message)?;
    let key = match encoding {
        KeyEncoding::Pkcs8 => PrivateKeyDer::from(PrivatePkcs8KeyDer::from(der.expose())),
        KeyEncoding::Pkcs1 => PrivateKeyDer::from(PrivatePkcs1KeyDer::from(der.expose())),
        KeyEncoding::Sec1 => PrivateKeyDer::from(PrivateSec1KeyDer::from(der.expose())),
    };
    aws_lc_rs::sign::any_supported_type(&key)
        .ok()
        .and_then(|key| key.choose_scheme(&[SignatureScheme::RSA_PKCS1_SHA256]))
        .and_then(|signer| signer.sign(message).ok())
        .ok_or_else(|| {
            format!("the key in {PRIVATE_KEY_KEY} cannot sign RS256; make certificate and key anew")
        })
}

/// A JWT id that is not used twice.
fn id() -> Result<String, String> {
    let mut bytes = [0; ID_BYTES];
    let random = aws_lc_rs::default_provider().secure_random;
    random.fill(&mut bytes).map_err(|_| "the system has no randomness".to_owned())?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, SignatureAlgorithm};

    use super::*;

    const PARTIES: Parties<'static> =
        Parties { authority_host: "login.example.test", tenant_id: "tenant-1", client_id: "client-1" };
    /// 2030-01-01
    const NOW: i64 = 1_893_456_000;

    struct Pair {
        certificate: String,
        private_key: SecretBytes,
        key: KeyPair,
        der: Vec<u8>,
    }

    fn pair(algorithm: &'static SignatureAlgorithm, years: (i32, i32)) -> Pair {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let mut params = CertificateParams::new(vec!["client.example.test".into()]).unwrap();
        params.not_before = rcgen::date_time_ymd(years.0, 1, 1);
        params.not_after = rcgen::date_time_ymd(years.1, 1, 1);
        let certificate = params.self_signed(&key).unwrap();
        Pair {
            certificate: certificate.pem(),
            private_key: SecretBytes::new(key.serialize_pem().into_bytes()),
            der: certificate.der().to_vec(),
            key,
        }
    }

    #[test]
    fn an_assertion_names_its_certificate_and_verifies_with_it() {
        use jsonwebtoken::{Algorithm, DecodingKey, Validation};
        let Pair { certificate, private_key, key, der } = pair(&rcgen::PKCS_RSA_SHA256, (2029, 2031));
        let sign = || sign(certificate.as_bytes(), &private_key, PARTIES, NOW).unwrap();
        let assertion = sign();
        let header: serde_json::Value =
            serde_json::from_slice(&URL_SAFE_NO_PAD.decode(assertion.split('.').next().unwrap()).unwrap())
                .unwrap();
        let thumbprint = {
            aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256
                .tls13()
                .unwrap()
                .common
                .hash_provider
                .hash(&der)
                .as_ref()
                .to_vec()
        };
        let expected = json!({"alg": "RS256", "typ": "JWT", "x5t#S256": URL_SAFE_NO_PAD.encode(thumbprint)});
        assert_eq!(header, expected);

        let mut validation = Validation::new(Algorithm::RS256);
        validation.set_audience(&["https://login.example.test/tenant-1/oauth2/v2.0/token"]);
        (validation.validate_exp, validation.validate_nbf) = (false, false);
        let decoding = DecodingKey::from_rsa_der(key.public_key_raw());
        let decoded = jsonwebtoken::decode::<serde_json::Value>(&assertion, &decoding, &validation).unwrap();
        let claims = decoded.claims;
        assert_eq!((&claims["iss"], &claims["sub"]), (&json!("client-1"), &json!("client-1")));
        assert_eq!((&claims["nbf"], &claims["exp"]), (&json!(NOW), &json!(NOW + 300)));
        let again = jsonwebtoken::decode::<serde_json::Value>(&sign(), &decoding, &validation).unwrap();
        assert_ne!(again.claims["jti"], claims["jti"], "an id is not used twice");
    }

    #[test]
    fn a_certificate_that_cannot_serve_is_refused_in_words_that_say_so() {
        let good = pair(&rcgen::PKCS_RSA_SHA256, (2029, 2031));
        let other = pair(&rcgen::PKCS_RSA_SHA256, (2029, 2031));
        let ec = pair(&rcgen::PKCS_ECDSA_P256_SHA256, (2029, 2031));
        let ed25519 = pair(&rcgen::PKCS_ED25519, (2029, 2031));
        let expired = pair(&rcgen::PKCS_RSA_SHA256, (2028, 2029));
        let early = pair(&rcgen::PKCS_RSA_SHA256, (2031, 2032));
        let nothing = SecretBytes::new(Vec::new());
        for (certificate, key, says) in [
            (good.certificate.as_str(), &other.private_key, "does not belong to"),
            (&ec.certificate, &ec.private_key, "tls.key holds an EC key on P-256; Entra ID"),
            (&ed25519.certificate, &ed25519.private_key, "an RSA key of 2048, 3072 or 4096 bits"),
            (&expired.certificate, &expired.private_key, "has expired, and Entra ID takes no expired one"),
            (&early.certificate, &early.private_key, "is not valid yet"),
            (&good.certificate, &nothing, "tls.key is missing or empty"),
            ("no certificate", &good.private_key, "tls.crt"),
            (&good.certificate, &SecretBytes::new(b"no key".to_vec()), "tls.key"),
        ] {
            let refused = sign(certificate.as_bytes(), key, PARTIES, NOW).map(drop).unwrap_err();
            assert!(refused.contains(says), "{says:?} in {refused}");
        }
    }
}
