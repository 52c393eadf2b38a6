//! Throw-away keys and certificates for tests, made when a test runs and kept nowhere.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its part")]

use std::sync::OnceLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use keyvault_sync_core::chain::{CertificateChain, SecretEntries};
use keyvault_sync_core::key::{Curve, KeyType};
use keyvault_sync_core::reason::Problem;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
    PublicKeyData as _, RsaKeySize, date_time_ymd,
};

/// 2027-01-15, within the validity of everything below.
pub const NOW: i64 = 1_800_000_000;

pub const KEY_TYPES: [KeyType; 6] = [
    KeyType::Rsa { bits: 2048 },
    KeyType::Rsa { bits: 3072 },
    KeyType::Rsa { bits: 4096 },
    KeyType::Ec(Curve::P256),
    KeyType::Ec(Curve::P384),
    KeyType::Ec(Curve::P521),
];

/// One key of each type for the whole test binary: RSA keys take seconds to find.
pub fn key_pair(key_type: KeyType) -> &'static KeyPair {
    static KEYS: [OnceLock<KeyPair>; 6] = [const { OnceLock::new() }; 6];
    let index = KEY_TYPES.iter().position(|known| *known == key_type).unwrap();
    KEYS[index].get_or_init(|| match key_type {
        KeyType::Rsa { bits: 2048 } => rsa(RsaKeySize::_2048),
        KeyType::Rsa { bits: 3072 } => rsa(RsaKeySize::_3072),
        KeyType::Rsa { .. } => rsa(RsaKeySize::_4096),
        KeyType::Ec(Curve::P256) => ec_key(),
        KeyType::Ec(Curve::P384) => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap(),
        KeyType::Ec(Curve::P521) => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P521_SHA512).unwrap(),
    })
}

fn rsa(size: RsaKeySize) -> KeyPair {
    KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, size).unwrap()
}

/// A new P-256 key.
pub fn ec_key() -> KeyPair {
    KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap()
}

/// The same key once more (a `KeyPair` cannot be cloned).
pub fn again(key: &KeyPair) -> KeyPair {
    let der = rustls_pki_types::PrivatePkcs8KeyDer::from(key.serialize_der());
    KeyPair::from_pkcs8_der_and_sign_algo(&der, key.algorithm()).unwrap()
}

pub fn pem(label: &str, der: &[u8]) -> String {
    let body = STANDARD.encode(der);
    let lines: Vec<_> = body.as_bytes().chunks(64).map(|line| str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

pub fn bundle<T: AsRef<[u8]>>(certificates: impl IntoIterator<Item = T>) -> String {
    certificates.into_iter().map(|der| pem("CERTIFICATE", der.as_ref())).collect()
}

pub fn params(common_name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.not_before = date_time_ymd(2026, 1, 1);
    params.not_after = date_time_ymd(2028, 1, 1);
    params.use_authority_key_identifier_extension = true;
    params
}

pub fn ca_params(common_name: &str) -> CertificateParams {
    let mut params = params(common_name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
}

/// A CA: its certificate and what it takes to sign with it.
pub struct Authority {
    pub der: Vec<u8>,
    pub params: CertificateParams,
    pub key: KeyPair,
}

impl Authority {
    pub fn root(common_name: &str) -> Authority {
        Authority::root_of(ca_params(common_name), ec_key())
    }

    pub fn root_of(params: CertificateParams, key: KeyPair) -> Authority {
        let der = params.self_signed(&key).unwrap().der().to_vec();
        Authority { der, params, key }
    }

    /// A CA below this one.
    pub fn intermediate(&self, common_name: &str) -> Authority {
        self.intermediate_of(ca_params(common_name), ec_key())
    }

    pub fn intermediate_of(&self, params: CertificateParams, key: KeyPair) -> Authority {
        let der = self.sign(&params, &key);
        Authority { der, params, key }
    }

    pub fn sign(&self, params: &CertificateParams, key: &KeyPair) -> Vec<u8> {
        let issuer = Issuer::from_params(&self.params, &self.key);
        params.signed_by(key, &issuer).unwrap().der().to_vec()
    }

    /// A leaf with a key of its own.
    pub fn leaf(&self, common_name: &str) -> Leaf {
        let key = ec_key();
        Leaf { der: self.sign(&params(common_name), &key), key: key.serialize_der() }
    }
}

pub struct Leaf {
    pub der: Vec<u8>,
    /// PKCS#8.
    pub key: Vec<u8>,
}

impl Leaf {
    pub fn key_pem(&self) -> String {
        pem("PRIVATE KEY", &self.key)
    }

    pub fn read<T: AsRef<[u8]>>(
        &self,
        certificates: impl IntoIterator<Item = T>,
    ) -> Result<CertificateChain, Problem> {
        read(&bundle(certificates), &self.key_pem())
    }

    pub fn read_with_ca<T: AsRef<[u8]>>(
        &self,
        certificates: impl IntoIterator<Item = T>,
        ca: &[u8],
    ) -> Result<CertificateChain, Problem> {
        let key = self.key_pem();
        let certificate = bundle(certificates);
        let mut entries = entries(certificate.as_bytes(), key.as_bytes());
        entries.ca = Some(ca);
        CertificateChain::from_entries(&entries, NOW)
    }
}

pub fn entries<'a>(certificate: &'a [u8], private_key: &'a [u8]) -> SecretEntries<'a> {
    SecretEntries {
        certificate_key: "tls.crt",
        certificate,
        private_key_key: "tls.key",
        private_key,
        ca: None,
    }
}

pub fn read(certificate: &str, private_key: &str) -> Result<CertificateChain, Problem> {
    CertificateChain::from_entries(&entries(certificate.as_bytes(), private_key.as_bytes()), NOW)
}

/// A leaf of this key type with `length - 1` CA certificates above it, in PEM.
pub fn secret(key_type: KeyType, length: usize) -> (String, String) {
    let key = key_pair(key_type);
    let mut authorities = vec![Authority::root("Test root")];
    for number in 1..length {
        let below = authorities.last().unwrap().intermediate(&format!("Test CA {number}"));
        authorities.push(below);
    }
    let leaf = authorities.last().unwrap().sign(&params("www.example.test"), key);
    let chain = std::iter::once(leaf).chain(authorities[1..].iter().rev().map(|ca| ca.der.clone()));
    (bundle(chain), pem("PRIVATE KEY", &key.serialize_der()))
}

/// One DER element.
pub fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len();
    let mut der = vec![tag];
    match length {
        0..0x80 => der.push(length as u8),
        0x80..0x100 => der.extend([0x81, length as u8]),
        _ => der.extend([0x82, (length >> 8) as u8, length as u8]),
    }
    der.extend(content);
    der
}

/// The key as PKCS#1 or SEC1: what stands in the OCTET STRING of PKCS#8.
pub fn traditional(key: &KeyPair) -> Vec<u8> {
    let der = key.serialize_der();
    pkcs8::PrivateKeyInfoRef::try_from(der.as_slice()).unwrap().private_key.as_bytes().to_vec()
}

/// OBJECT IDENTIFIERs, whole elements.
pub const OID_RSA: &[u8] = b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01";
pub const OID_RSA_PSS: &[u8] = b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0a";
pub const OID_DSA: &[u8] = b"\x06\x07\x2a\x86\x48\xce\x38\x04\x01";
pub const OID_EC: &[u8] = b"\x06\x07\x2a\x86\x48\xce\x3d\x02\x01";
pub const OID_P256: &[u8] = b"\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07";
pub const OID_P384: &[u8] = b"\x06\x05\x2b\x81\x04\x00\x22";
pub const OID_P521: &[u8] = b"\x06\x05\x2b\x81\x04\x00\x23";
pub const OID_SECP256K1: &[u8] = b"\x06\x05\x2b\x81\x04\x00\x0a";
pub const OID_ED448: &[u8] = b"\x06\x03\x2b\x65\x71";

/// PKCS#8 around a key: algorithm (whole elements) and content.
pub fn pkcs8(algorithm: &[&[u8]], key: &[u8]) -> Vec<u8> {
    let content = [vec![2, 1, 0], tlv(0x30, &algorithm.concat()), tlv(4, key)].concat();
    tlv(0x30, &content)
}

/// SEC1 with what is given of its optional parts.
pub fn sec1(scalar: &[u8], parameters: Option<&[u8]>, point: Option<&[u8]>) -> Vec<u8> {
    let mut content = [vec![2, 1, 1], tlv(4, scalar)].concat();
    if let Some(parameters) = parameters {
        content.extend(tlv(0xa0, parameters));
    }
    if let Some(point) = point {
        content.extend(tlv(0xa1, &tlv(3, &[&[0], point].concat())));
    }
    tlv(0x30, &content)
}

/// Scalar, parameters' OID and point of an EC key.
pub fn ec_parts(key_type: KeyType) -> (Vec<u8>, &'static [u8], Vec<u8>) {
    let (oid, length) = match key_type {
        KeyType::Ec(Curve::P256) => (OID_P256, 32),
        KeyType::Ec(Curve::P384) => (OID_P384, 48),
        KeyType::Ec(Curve::P521) => (OID_P521, 66),
        KeyType::Rsa { .. } => unreachable!(),
    };
    let key = key_pair(key_type);
    // SEQUENCE { INTEGER 1, OCTET STRING scalar, … }; the lengths of all three curves fit one or two bytes.
    let inner = traditional(key);
    let start = inner.windows(2).position(|window| window == [4, length as u8]).unwrap() + 2;
    (inner[start..start + length].to_vec(), oid, key.der_bytes().to_vec())
}
