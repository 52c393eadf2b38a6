//! One private key → PKCS#8, checked as a key and not only as ASN.1, or the exact reason why Key Vault cannot hold it.
//! Which certificate it belongs to is left to `chain`.

use std::fmt;

use der::asn1::{AnyRef, BitStringRef, ObjectIdentifier, OctetStringRef, UintRef};
use der::oid::db::{rfc5912, rfc8410};
use der::{Decode, Encode, Reader, Sequence, SliceReader, Tag, Tagged};
use pkcs8::PrivateKeyInfoRef;
use pkcs8::spki::AlgorithmIdentifierRef;
use rustls::crypto::aws_lc_rs;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::certificate::PublicKey;
use crate::pem::KeyEncoding;
use crate::reason::{Problem, Reason};
use crate::secret_bytes::SecretBytes;

/// Sizes of RSA keys Key Vault holds, bits (Microsoft, "About keys").
const RSA_BITS: [usize; 3] = [2048, 3072, 4096];

/// The curves Key Vault and TLS have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Curve {
    /// NIST P-256, secp256r1.
    P256,
    /// NIST P-384, secp384r1.
    P384,
    /// NIST P-521, secp521r1.
    P521,
}

impl Curve {
    const ALL: [Curve; 3] = [Curve::P256, Curve::P384, Curve::P521];

    /// The name Key Vault gives it (`crv`): `P-256`, `P-384`, `P-521`.
    pub fn as_str(self) -> &'static str {
        match self {
            Curve::P256 => "P-256",
            Curve::P384 => "P-384",
            Curve::P521 => "P-521",
        }
    }

    fn oid(self) -> ObjectIdentifier {
        match self {
            Curve::P256 => rfc5912::SECP_256_R_1,
            Curve::P384 => rfc5912::SECP_384_R_1,
            Curve::P521 => rfc5912::SECP_521_R_1,
        }
    }

    /// Length of a private key, bytes (SEC 1, 2.3.7).
    fn scalar_bytes(self) -> usize {
        match self {
            Curve::P256 => 32,
            Curve::P384 => 48,
            Curve::P521 => 66,
        }
    }
}

/// Type of a key Key Vault can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KeyType {
    /// RSA of 2048, 3072 or 4096 bits.
    Rsa {
        /// Length of the modulus.
        bits: u16,
    },
    /// On an elliptic curve.
    Ec(Curve),
}

impl fmt::Display for KeyType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeyType::Rsa { bits } => write!(f, "RSA {bits}"),
            KeyType::Ec(curve) => write!(f, "EC {}", curve.as_str()),
        }
    }
}

/// A private key that was read, and whose parts belong together.
#[derive(Debug)]
pub(crate) struct PrivateKey {
    /// PKCS#8, DER.
    pub(crate) pkcs8: SecretBytes,
    pub(crate) key_type: KeyType,
    pub(crate) public_key: PublicKey,
}

impl PrivateKey {
    /// Reads the key of the entry of this name.
    pub(crate) fn from_der(
        entry: &str,
        encoding: KeyEncoding,
        key: SecretBytes,
    ) -> Result<PrivateKey, Problem> {
        let pkcs8 = match encoding {
            KeyEncoding::Pkcs8 => key,
            KeyEncoding::Pkcs1 => from_pkcs1(key.expose()).map_err(|_| malformed(entry, "PKCS#1"))?,
            KeyEncoding::Sec1 => from_sec1(entry, key.expose())?,
        };
        let info = PrivateKeyInfoRef::from_der(pkcs8.expose()).map_err(|_| malformed(entry, "PKCS#8"))?;
        let key_type = key_type(entry, &info)?;
        let signing_key = aws_lc_rs::sign::any_supported_type(&PrivateKeyDer::Pkcs8(
            PrivatePkcs8KeyDer::from(pkcs8.expose()),
        ));
        let public_key = signing_key
            .ok()
            .and_then(|key| key.public_key().map(|spki| PublicKey::from_der(spki.as_ref())))
            .and_then(Result::ok)
            .ok_or_else(|| {
                let message = format!(
                    "{entry} has the form of an {key_type} key but is not a valid one: its numbers do not belong \
                     together; the key is damaged, issue key and certificate anew"
                );
                Problem::new(Reason::InvalidPrivateKey, message)
            })?;
        Ok(PrivateKey { key_type, public_key, pkcs8 })
    }
}

/// What Key Vault cannot hold, and what to do.
pub(crate) fn unsupported(entry: &str, found: &str) -> Problem {
    let message = format!(
        "{entry} holds {found}; Key Vault holds RSA keys of 2048, 3072 or 4096 bits and EC keys on P-256, P-384 or \
         P-521; with cert-manager set `spec.privateKey.algorithm` (RSA or ECDSA) and `size` of the Certificate, and \
         `rotationPolicy: Always`"
    );
    Problem::new(Reason::UnsupportedKeyType, message)
}

fn malformed(entry: &str, format: &str) -> Problem {
    let message = format!(
        "the private key in {entry} is not valid {format}; the file is damaged or cut, or its label is another \
         format's: write it anew, as `openssl pkey` does"
    );
    Problem::new(Reason::InvalidPrivateKey, message)
}

fn key_type(entry: &str, info: &PrivateKeyInfoRef<'_>) -> Result<KeyType, Problem> {
    match info.algorithm.oid {
        rfc5912::RSA_ENCRYPTION => {
            let bits =
                rsa_modulus_bits(info.private_key.as_bytes()).ok_or_else(|| malformed(entry, "PKCS#8"))?;
            match u16::try_from(bits) {
                Ok(size) if RSA_BITS.contains(&bits) => Ok(KeyType::Rsa { bits: size }),
                _ => Err(unsupported(entry, &format!("an RSA key of {bits} bits"))),
            }
        }
        rfc5912::ID_EC_PUBLIC_KEY => curve(entry, info.algorithm.parameters).map(KeyType::Ec),
        rfc5912::ID_RSASSA_PSS => Err(unsupported(entry, "a key for RSA-PSS only")),
        rfc5912::ID_DSA => Err(unsupported(entry, "a DSA key")),
        rfc8410::ID_ED_25519 => Err(unsupported(entry, "an Ed25519 key")),
        rfc8410::ID_ED_448 => Err(unsupported(entry, "an Ed448 key")),
        other => Err(unsupported(entry, &format!("a key of type {other}"))),
    }
}

fn curve(entry: &str, parameters: Option<AnyRef<'_>>) -> Result<Curve, Problem> {
    let parameters = parameters.ok_or_else(|| malformed(entry, "PKCS#8"))?;
    if parameters.tag() == Tag::Sequence {
        let mut problem =
            unsupported(entry, "an EC key with explicit curve parameters instead of a curve's name");
        problem.message.push_str("; `openssl pkey -ec_param_enc named_curve` writes the name");
        return Err(problem);
    }
    let oid: ObjectIdentifier = parameters.decode_as().map_err(|_| malformed(entry, "PKCS#8"))?;
    Curve::ALL.into_iter().find(|curve| curve.oid() == oid).ok_or_else(|| {
        // secp256k1: the vault has it as P-256K, but no browser or gateway takes such a certificate.
        let name = if oid == SECP_256_K_1 { "secp256k1".to_owned() } else { oid.to_string() };
        unsupported(entry, &format!("an EC key on the curve {name}"))
    })
}

/// SEC 2, A.2.
const SECP_256_K_1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.10");

/// Bits of the modulus of an RSAPublicKey or RSAPrivateKey (RFC 8017, A.1); `None` if it is neither.
pub(crate) fn rsa_modulus_bits(der: &[u8]) -> Option<usize> {
    let mut reader = SliceReader::new(AnyRef::from_der(der).ok()?.value()).ok()?;
    // A private key begins with its version, 0 or 1; no modulus is that short.
    let mut integer = reader.decode::<UintRef<'_>>().ok()?;
    if integer.as_bytes().len() <= 1 {
        integer = reader.decode().ok()?;
    }
    let bytes = integer.as_bytes();
    Some(bytes.len() * 8 - bytes.first()?.leading_zeros() as usize)
}

fn from_pkcs1(key: &[u8]) -> der::Result<SecretBytes> {
    // Only the outer form; what is in it is checked with every key.
    AnyRef::from_der(key)?.tag().assert_eq(Tag::Sequence)?;
    let algorithm = AlgorithmIdentifierRef { oid: rfc5912::RSA_ENCRYPTION, parameters: Some(AnyRef::NULL) };
    wrap(algorithm, key)
}

/// RFC 5915, with the parameters as they are: explicit ones are told apart from malformed ones.
#[derive(Sequence)]
struct RawEcKey<'a> {
    version: u8,
    scalar: &'a OctetStringRef,
    #[asn1(context_specific = "0", tag_mode = "EXPLICIT", optional = "true")]
    parameters: Option<AnyRef<'a>>,
    #[asn1(context_specific = "1", tag_mode = "EXPLICIT", optional = "true")]
    public_key: Option<BitStringRef<'a>>,
}

fn from_sec1(entry: &str, key: &[u8]) -> Result<SecretBytes, Problem> {
    let malformed = || malformed(entry, "SEC1");
    let raw = RawEcKey::from_der(key).map_err(|_| malformed())?;
    let curve = match raw.parameters {
        Some(parameters) => curve(entry, Some(parameters))?,
        // The curve may be left out where it is known otherwise (RFC 5915, 3); here only its length tells it.
        None => Curve::ALL
            .into_iter()
            .find(|curve| curve.scalar_bytes() == raw.scalar.as_bytes().len())
            .ok_or_else(malformed)?,
    };
    let oid = curve.oid();
    let algorithm =
        AlgorithmIdentifierRef { oid: rfc5912::ID_EC_PUBLIC_KEY, parameters: Some(AnyRef::from(&oid)) };
    wrap(algorithm, key).map_err(|_| malformed())
}

fn wrap(algorithm: AlgorithmIdentifierRef<'_>, key: &[u8]) -> der::Result<SecretBytes> {
    let info = PrivateKeyInfoRef::new(algorithm, OctetStringRef::new(key)?);
    Ok(SecretBytes::new(info.to_der()?))
}
