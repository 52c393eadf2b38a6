//! What an import carries: PKCS#12 or PEM in, key and chain with their facts out; and PKCS#12 out again for the secret.
//! Leaves the policy and the vault to certificates.rs. Reads with p12-keystore, never with the operator's own code.

use std::fmt;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P256K1_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING,
    ECDSA_P521_SHA512_ASN1_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm, KeyPair as _, RsaKeyPair,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use p12_keystore::{Certificate, KeyStore, KeyStoreEntry, Pkcs12Archive, PrivateKey, PrivateKeyChain};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use x509_parser::prelude::{FromDer as _, X509Certificate};
use x509_parser::public_key::PublicKey;
use zeroize::Zeroizing;

/// Rounds of key derivation in a bundle read back from a secret: as few as OpenSSL writes; it is no store of secrets.
const ITERATIONS: u32 = 2048;

/// Key and certificates of one version. The key stays in memory, and out of `Debug`.
#[derive(Clone)]
pub(crate) struct Bundle {
    /// PKCS#8 DER.
    pub(crate) key: Zeroizing<Vec<u8>>,
    /// Certificates in DER, in the order in which they are served.
    pub(crate) chain: Vec<Vec<u8>>,
    /// Place of the leaf in `chain`.
    pub(crate) leaf: usize,
    pub(crate) kind: KeyKind,
    /// Validity of the leaf, seconds since 1970.
    pub(crate) not_before: i64,
    pub(crate) not_after: i64,
    pub(crate) subject: String,
    /// Whether a certificate of the chain has a key of another type than the leaf's.
    pub(crate) mixed: bool,
}

impl fmt::Debug for Bundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bundle")
            .field("subject", &self.subject)
            .field("kind", &self.kind)
            .finish_non_exhaustive()
    }
}

/// What Key Vault calls type, size and curve of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeyKind {
    Rsa { bits: usize },
    Ec { curve: &'static str, bits: usize },
}

/// The curves Key Vault knows: object identifier, its name there, bits, and how aws-lc reads a key of it.
const CURVES: [(&str, &str, usize, &EcdsaSigningAlgorithm); 4] = [
    ("1.2.840.10045.3.1.7", "P-256", 256, &ECDSA_P256_SHA256_ASN1_SIGNING),
    ("1.3.132.0.34", "P-384", 384, &ECDSA_P384_SHA384_ASN1_SIGNING),
    ("1.3.132.0.35", "P-521", 521, &ECDSA_P521_SHA512_ASN1_SIGNING),
    ("1.3.132.0.10", "P-256K", 256, &ECDSA_P256K1_SHA256_ASN1_SIGNING),
];

/// RSA sizes Key Vault takes.
const RSA_BITS: [usize; 3] = [2048, 3072, 4096];

impl Bundle {
    /// Reads a PKCS#12 file. Errors are sentences for the service's `BadParameter`.
    pub(crate) fn from_pkcs12(der: &[u8], password: &str, keep_order: bool) -> Result<Self, String> {
        let archive = Pkcs12Archive::from_pkcs12(der, password).map_err(|_| {
            "The specified PKCS#12 X.509 certificate content can not be read. Please check if certificate is in valid \
             PKCS#12 format and the password is right."
                .to_owned()
        })?;
        let [key] = archive.keys.as_slice() else {
            return Err(format!(
                "The PKCS#12 content must hold exactly one private key, it holds {}",
                archive.keys.len()
            ));
        };
        let chain = archive.certs.iter().map(|bag| bag.cert.as_der().to_vec()).collect();
        Self::assemble(Zeroizing::new(key.key.as_der().to_vec()), chain, keep_order)
    }

    /// Reads PEM text with one PKCS#8 key and its certificates.
    pub(crate) fn from_pem(text: &str, keep_order: bool) -> Result<Self, String> {
        let unreadable = |_| "The specified PEM X.509 certificate content can not be read.".to_owned();
        let mut keys = PrivatePkcs8KeyDer::pem_slice_iter(text.as_bytes())
            .map(|key| key.map(|key| Zeroizing::new(key.secret_pkcs8_der().to_vec())))
            .collect::<Result<Vec<_>, _>>()
            .map_err(unreadable)?;
        let chain = CertificateDer::pem_slice_iter(text.as_bytes())
            .map(|certificate| certificate.map(|certificate| certificate.to_vec()))
            .collect::<Result<Vec<_>, _>>()
            .map_err(unreadable)?;
        match (keys.pop(), keys.len()) {
            (Some(key), 0) => Self::assemble(key, chain, keep_order),
            _ => Err("The PEM content must hold exactly one private key, in PKCS#8 form".to_owned()),
        }
    }

    fn assemble(key: Zeroizing<Vec<u8>>, mut chain: Vec<Vec<u8>>, keep_order: bool) -> Result<Self, String> {
        let facts = chain.iter().map(|der| Facts::read(der)).collect::<Result<Vec<_>, _>>()?;
        let mut leaf = facts
            .iter()
            .position(|facts| facts.is_public_half_of(&key))
            .ok_or("The private key belongs to none of the certificates, or is of a type that Key Vault does not hold")?;
        let LeafFacts { kind, not_before, not_after, subject } = facts[leaf].leaf()?;
        let mixed = facts.iter().any(|other| other.is_rsa() != facts[leaf].is_rsa());
        if !keep_order {
            let first = chain.remove(leaf);
            chain.insert(0, first);
            leaf = 0;
        }
        Ok(Self { key, chain, leaf, kind, not_before, not_after, subject, mixed })
    }

    /// DER of the leaf.
    pub(crate) fn leaf_der(&self) -> &[u8] {
        &self.chain[self.leaf]
    }

    /// Key Vault's `x5t`: SHA-1 of the leaf's DER, base64url without padding.
    pub(crate) fn x5t(&self) -> String {
        URL_SAFE_NO_PAD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, self.leaf_der()))
    }

    /// The bundle as PKCS#12 under an empty password; without the key if it may not leave the vault.
    pub(crate) fn to_pkcs12(&self, with_key: bool) -> Result<Vec<u8>, p12_keystore::error::Error> {
        self.write_pkcs12(with_key, ITERATIONS)
    }

    /// Bytes that [`Bundle::to_pkcs12`] will have, give or take the few that a count takes: without the derivation's cost.
    pub(crate) fn pkcs12_size(&self, with_key: bool) -> Result<usize, p12_keystore::error::Error> {
        self.write_pkcs12(with_key, 1).map(|der| der.len())
    }

    fn write_pkcs12(&self, with_key: bool, iterations: u32) -> Result<Vec<u8>, p12_keystore::error::Error> {
        let certificates =
            self.chain.iter().map(|der| Certificate::from_der(der)).collect::<Result<Vec<_>, _>>()?;
        let mut store = KeyStore::new();
        if with_key {
            let id = digest(&SHA1_FOR_LEGACY_USE_ONLY, self.leaf_der());
            let chain = PrivateKeyChain::new(id.as_ref(), PrivateKey::from_der(&self.key)?, certificates);
            store.add_entry("certificate", KeyStoreEntry::PrivateKeyChain(chain));
        } else {
            for (place, certificate) in certificates.into_iter().enumerate() {
                store.add_entry(&format!("certificate-{place:03}"), KeyStoreEntry::Certificate(certificate));
            }
        }
        store.writer("").encryption_iterations(iterations).mac_iterations(iterations).write()
    }
}

/// What is read of each certificate.
struct Facts<'a> {
    certificate: X509Certificate<'a>,
}

struct LeafFacts {
    kind: KeyKind,
    not_before: i64,
    not_after: i64,
    subject: String,
}

impl<'a> Facts<'a> {
    fn read(der: &'a [u8]) -> Result<Self, String> {
        match X509Certificate::from_der(der) {
            Ok(([], certificate)) => Ok(Self { certificate }),
            _ => Err("The content holds something that is no X.509 certificate".to_owned()),
        }
    }

    fn is_rsa(&self) -> bool {
        matches!(self.certificate.public_key().parsed(), Ok(PublicKey::RSA(_)))
    }

    /// The curve of an EC key, if Key Vault knows it.
    fn curve(&self) -> Option<&'static (&'static str, &'static str, usize, &'static EcdsaSigningAlgorithm)> {
        let parameters = self.certificate.public_key().algorithm.parameters.as_ref()?;
        let oid = parameters.as_oid().ok()?.to_id_string();
        CURVES.iter().find(|curve| curve.0 == oid)
    }

    fn is_public_half_of(&self, pkcs8: &[u8]) -> bool {
        let public = self.certificate.public_key().subject_public_key.data.as_ref();
        if self.is_rsa() {
            return RsaKeyPair::from_pkcs8(pkcs8).is_ok_and(|key| key.public_key().as_ref() == public);
        }
        let Some((.., algorithm)) = self.curve() else { return false };
        EcdsaKeyPair::from_pkcs8(algorithm, pkcs8).is_ok_and(|key| key.public_key().as_ref() == public)
    }

    fn kind(&self) -> Result<KeyKind, String> {
        match self.certificate.public_key().parsed() {
            Ok(PublicKey::RSA(key)) if RSA_BITS.contains(&key.key_size()) => {
                Ok(KeyKind::Rsa { bits: key.key_size() })
            }
            Ok(PublicKey::RSA(key)) => {
                Err(format!("Key Vault holds RSA keys of 2048, 3072 and 4096 bits, not {}", key.key_size()))
            }
            _ => {
                let (_, curve, bits, _) = self.curve().ok_or("Key Vault holds no keys of this type")?;
                Ok(KeyKind::Ec { curve, bits: *bits })
            }
        }
    }

    fn leaf(&self) -> Result<LeafFacts, String> {
        let validity = self.certificate.validity();
        Ok(LeafFacts {
            kind: self.kind()?,
            not_before: validity.not_before.timestamp(),
            not_after: validity.not_after.timestamp(),
            subject: self.certificate.subject().to_string(),
        })
    }
}
