//! One X.509 certificate, as far as a chain needs it: names, key, dates, identifiers and who signed it, byte for byte.
//! Which certificates form a chain is left to `chain`.
//!
//! The structures keep what they do not judge as raw DER: names are compared and signatures checked over the very
//! bytes of the certificate, and an unusual serial number or name is Key Vault's business, not ours.

use std::sync::LazyLock;

use der::asn1::{AnyRef, BitStringRef, ObjectIdentifier};
use der::oid::db::rfc5280;
use der::{Decode, Encode, Sequence};
use rustls::crypto::{WebPkiSupportedAlgorithms, aws_lc_rs};
use sha2::{Digest, Sha256};
use x509_cert::ext::Extension;
use x509_cert::ext::pkix::{AuthorityKeyIdentifier, BasicConstraints, SubjectKeyIdentifier};
use x509_cert::name::Name;
use x509_cert::time::Time;

use crate::key;

/// Longest name in a message, characters: a condition message is read in a terminal.
const MAX_NAME_CHARS: usize = 120;

/// What aws-lc-rs can check: RSA, RSA-PSS, ECDSA, Ed25519, with SHA-2.
static SIGNATURE_ALGORITHMS: LazyLock<WebPkiSupportedAlgorithms> =
    LazyLock::new(|| aws_lc_rs::default_provider().signature_verification_algorithms);

/// RFC 5280, 4.1.
#[derive(Sequence)]
struct RawCertificate<'a> {
    tbs: AnyRef<'a>,
    signature_algorithm: AnyRef<'a>,
    signature: BitStringRef<'a>,
}

/// RFC 5280, 4.1.2.
#[derive(Sequence)]
struct RawTbs<'a> {
    #[asn1(context_specific = "0", tag_mode = "EXPLICIT", optional = "true")]
    version: Option<u8>,
    serial: AnyRef<'a>,
    signature_algorithm: AnyRef<'a>,
    issuer: AnyRef<'a>,
    validity: RawValidity,
    subject: AnyRef<'a>,
    public_key: RawPublicKey<'a>,
    #[asn1(context_specific = "1", tag_mode = "IMPLICIT", optional = "true")]
    issuer_unique_id: Option<BitStringRef<'a>>,
    #[asn1(context_specific = "2", tag_mode = "IMPLICIT", optional = "true")]
    subject_unique_id: Option<BitStringRef<'a>>,
    #[asn1(context_specific = "3", tag_mode = "EXPLICIT", optional = "true")]
    extensions: Option<Vec<Extension>>,
}

#[derive(Sequence)]
struct RawValidity {
    not_before: Time,
    not_after: Time,
}

#[derive(Sequence)]
struct RawPublicKey<'a> {
    algorithm: AnyRef<'a>,
    key: BitStringRef<'a>,
}

/// A public key: the content of its AlgorithmIdentifier and of its BIT STRING.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PublicKey {
    pub(crate) algorithm: Vec<u8>,
    pub(crate) key: Vec<u8>,
}

impl PublicKey {
    /// From a SubjectPublicKeyInfo.
    pub(crate) fn from_der(spki: &[u8]) -> der::Result<PublicKey> {
        RawPublicKey::from_der(spki)?.try_into()
    }
}

impl TryFrom<RawPublicKey<'_>> for PublicKey {
    type Error = der::Error;

    fn try_from(raw: RawPublicKey<'_>) -> der::Result<PublicKey> {
        Ok(PublicKey { algorithm: raw.algorithm.value().to_vec(), key: raw.key.raw_bytes().to_vec() })
    }
}

/// What checking a signature can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signature {
    /// Made with the issuer's key.
    Good,
    /// Not made with the issuer's key.
    Bad,
    /// Of an algorithm or key size that is not checked (SHA-1, RSA-1024, secp256k1 …): the names decide.
    Unknown,
}

/// A certificate taken apart.
#[derive(Clone, Debug)]
pub(crate) struct Certificate {
    pub(crate) der: Vec<u8>,
    pub(crate) sha256: [u8; 32],
    pub(crate) issuer: Vec<u8>,
    pub(crate) subject: Vec<u8>,
    pub(crate) public_key: PublicKey,
    /// Unix seconds.
    pub(crate) not_before: i64,
    /// Unix seconds; still valid in that second (RFC 5280, 4.1.2.5).
    pub(crate) not_after: i64,
    pub(crate) is_ca: bool,
    subject_key_id: Option<Vec<u8>>,
    authority_key_id: Option<Vec<u8>>,
    tbs: Vec<u8>,
    signature_algorithm: Vec<u8>,
    signature: Vec<u8>,
}

impl Certificate {
    pub(crate) fn from_der(bytes: Vec<u8>) -> der::Result<Certificate> {
        let raw = RawCertificate::from_der(&bytes)?;
        let tbs_der = raw.tbs.to_der()?;
        let tbs = RawTbs::from_der(&tbs_der)?;
        let extensions = tbs.extensions.unwrap_or_default();
        let content = |oid: ObjectIdentifier| {
            extensions.iter().find(|ext| ext.extn_id == oid).map(|ext| ext.extn_value.as_bytes())
        };
        // An identifier that cannot be read helps nobody to find an issuer: as if it were not there.
        let subject_key_id = content(rfc5280::ID_CE_SUBJECT_KEY_IDENTIFIER)
            .and_then(|der| SubjectKeyIdentifier::from_der(der).ok())
            .map(|id| id.0.as_bytes().to_vec());
        let authority_key_id = content(rfc5280::ID_CE_AUTHORITY_KEY_IDENTIFIER)
            .and_then(|der| AuthorityKeyIdentifier::from_der(der).ok())
            .and_then(|id| id.key_identifier)
            .map(|id| id.as_bytes().to_vec());
        let is_ca = content(rfc5280::ID_CE_BASIC_CONSTRAINTS)
            .and_then(|der| BasicConstraints::from_der(der).ok())
            .is_some_and(|constraints| constraints.ca);
        Ok(Certificate {
            sha256: Sha256::digest(&bytes).into(),
            issuer: tbs.issuer.to_der()?,
            subject: tbs.subject.to_der()?,
            public_key: tbs.public_key.try_into()?,
            not_before: unix_seconds(tbs.validity.not_before),
            not_after: unix_seconds(tbs.validity.not_after),
            is_ca,
            subject_key_id,
            authority_key_id,
            signature_algorithm: raw.signature_algorithm.value().to_vec(),
            signature: raw.signature.raw_bytes().to_vec(),
            tbs: tbs_der,
            der: bytes,
        })
    }

    /// Whether the other certificate is this one's issuer as far as names and key identifiers say.
    pub(crate) fn names_as_issuer(&self, other: &Certificate) -> bool {
        let identifiers_agree = match (&self.authority_key_id, &other.subject_key_id) {
            (Some(authority), Some(subject)) => authority == subject,
            _ => true,
        };
        self.issuer == other.subject && identifiers_agree
    }

    /// Whether the issuer's key made this certificate's signature.
    pub(crate) fn signature_by(&self, issuer: &Certificate) -> Signature {
        let key = &issuer.public_key;
        // aws-lc-rs checks RSA from 2048 to 8192 bits; a smaller key proves nothing here, neither good nor bad.
        if key::rsa_modulus_bits(&key.key).is_some_and(|bits| !(2048..=8192).contains(&bits)) {
            return Signature::Unknown;
        }
        let mut known = SIGNATURE_ALGORITHMS
            .all
            .iter()
            .filter(|algorithm| {
                algorithm.public_key_alg_id().as_ref() == key.algorithm
                    && algorithm.signature_alg_id().as_ref() == self.signature_algorithm
            })
            .peekable();
        if known.peek().is_none() {
            return Signature::Unknown;
        }
        match known.any(|algorithm| algorithm.verify_signature(&key.key, &self.tbs, &self.signature).is_ok())
        {
            true => Signature::Good,
            false => Signature::Bad,
        }
    }

    /// Signed with its own key. Equal names alone do not make it so: a CA that changed its key has them too.
    pub(crate) fn is_self_signed(&self) -> bool {
        self.names_as_issuer(self) && self.signature_by(self) != Signature::Bad
    }

    /// The subject, for messages.
    pub(crate) fn subject_name(&self) -> String {
        name(&self.subject)
    }

    /// The issuer, for messages.
    pub(crate) fn issuer_name(&self) -> String {
        name(&self.issuer)
    }
}

fn unix_seconds(time: Time) -> i64 {
    i64::try_from(time.to_unix_duration().as_secs()).unwrap_or(i64::MAX)
}

/// A distinguished name as RFC 4514 writes it, made harmless for messages.
fn name(der: &[u8]) -> String {
    match Name::from_der(der) {
        Ok(name) if name.is_empty() => "(no name)".to_owned(),
        Ok(name) => printable(&name.to_string()),
        Err(_) => "(unreadable name)".to_owned(),
    }
}

/// Text from somebody else's file for a message: what is not plainly visible is escaped, what is long is cut.
pub(crate) fn printable(text: &str) -> String {
    let mut out = String::new();
    for (count, c) in text.chars().enumerate() {
        if count == MAX_NAME_CHARS {
            out.push('…');
            break;
        }
        if c.is_control() || is_invisible(c) { out.extend(c.escape_unicode()) } else { out.push(c) }
    }
    out
}

/// Line separators, zero-width characters and those that turn the direction of writing (Unicode TR 36): they make a
/// message look like another.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}')
}
