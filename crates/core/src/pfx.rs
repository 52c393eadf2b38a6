//! `CertificateChain` → PKCS#12 (RFC 7292), in the two encryptions that Key Vault and its readers know.
//! What belongs in the bundle is left to `chain`. Why these ASN.1 crates: docs/adr/0001-asn1-crates.md.

use std::fmt;
use std::str::FromStr;

use cbc::cipher::{BlockModeEncrypt, KeyIvInit, block_padding::Pkcs7};
use cms::content_info::{CmsVersion, ContentInfo};
use cms::encrypted_data::EncryptedData;
use cms::enveloped_data::EncryptedContentInfo;
use der::asn1::{Any, BmpString, ObjectIdentifier, OctetString, SetOfVec};
use der::oid::db::{rfc5911, rfc5912};
use der::{Decode, Encode};
use hmac::{Hmac, KeyInit, Mac};
use pkcs5::pbes2;
use pkcs8::spki::AlgorithmIdentifierOwned;
use pkcs12::kdf::{Pkcs12KeyType, derive_key_utf8};
use pkcs12::pbe_params::{EncryptedPrivateKeyInfo, Pkcs12PbeParams};
use pkcs12::pfx::Version;
use pkcs12::safe_bag::SafeBag;
use pkcs12::{CertBag, DigestInfo, MacData};
use sha1::Sha1;
use sha2::Sha256;
use x509_cert::attr::{Attribute, Attributes};
use zeroize::Zeroizing;

use crate::chain::CertificateChain;
use crate::reason::{Problem, Reason};
use crate::secret_bytes::SecretBytes;

/// Iterations of every key derivation: OpenSSL 3's default. The password has 192 random bits and lives for one request,
/// so that more would only cost time.
const ITERATIONS: u16 = 2048;
/// The alias of key and certificate in readers that ask for one (Java, Windows).
const FRIENDLY_NAME: &str = "keyvault-sync";
/// Lengths of salts and AES blocks, bytes.
const SALT_BYTES: usize = 16;
const AES_IV_BYTES: usize = 16;
/// Printable ASCII: empty passwords are unreadable for BouncyCastle, others than ASCII for the JDK.
const PASSWORD_CHARS: usize = 32;
/// 64 characters, so that six random bits choose one and none is likelier than another.
const PASSWORD_ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// How the bundle is encrypted and authenticated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum PfxEncryption {
    /// PBES2 with PBKDF2-HMAC-SHA-256 and AES-256-CBC, HMAC-SHA-256: what OpenSSL 3 writes.
    #[default]
    Aes256Sha256,
    /// pbeWithSHAAnd3-KeyTripleDES-CBC, HMAC-SHA-1: what every old reader knows.
    TripleDesSha1,
}

impl PfxEncryption {
    /// Every profile, for help texts and tests.
    pub const ALL: [PfxEncryption; 2] = [PfxEncryption::Aes256Sha256, PfxEncryption::TripleDesSha1];

    /// The word of the setting `--pfx-encryption`.
    pub fn as_str(self) -> &'static str {
        match self {
            PfxEncryption::Aes256Sha256 => "aes256-sha256",
            PfxEncryption::TripleDesSha1 => "3des-sha1",
        }
    }
}

impl fmt::Display for PfxEncryption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Says which words there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the PFX encryption is `aes256-sha256` or `3des-sha1`")]
pub struct NotAnEncryption;

impl FromStr for PfxEncryption {
    type Err = NotAnEncryption;

    fn from_str(word: &str) -> Result<Self, NotAnEncryption> {
        PfxEncryption::ALL.into_iter().find(|profile| profile.as_str() == word).ok_or(NotAnEncryption)
    }
}

/// Random bytes for one bundle: password, salts, initial vectors. Neither `Clone` nor `Copy`, and [`encode`] takes it
/// by value, so that no two bundles share any of it.
pub struct PfxRandomness {
    password: Zeroizing<[u8; PASSWORD_CHARS]>,
    certificates: SafeRandomness,
    key: SafeRandomness,
    mac_salt: [u8; SALT_BYTES],
}

/// Of one of the two encrypted parts.
struct SafeRandomness {
    salt: [u8; SALT_BYTES],
    iv: [u8; AES_IV_BYTES],
}

impl PfxRandomness {
    /// Lets the caller fill the bytes from the system's generator; core has none.
    ///
    /// # Errors
    /// The generator's.
    pub fn fill_with<E>(mut fill: impl FnMut(&mut [u8]) -> Result<(), E>) -> Result<Self, E> {
        let mut password = Zeroizing::new([0; PASSWORD_CHARS]);
        fill(password.as_mut_slice())?;
        for byte in password.iter_mut() {
            *byte = PASSWORD_ALPHABET[usize::from(*byte & 0x3f)];
        }
        let mut block = || -> Result<[u8; 16], E> {
            let mut bytes = [0; 16];
            fill(&mut bytes)?;
            Ok(bytes)
        };
        Ok(Self {
            password,
            certificates: SafeRandomness { salt: block()?, iv: block()? },
            key: SafeRandomness { salt: block()?, iv: block()? },
            mac_salt: block()?,
        })
    }

    fn password(&self) -> &str {
        // Every byte is of the alphabet, which is ASCII.
        str::from_utf8(self.password.as_slice()).unwrap_or_default()
    }
}

impl fmt::Debug for PfxRandomness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<redacted>")
    }
}

/// A PKCS#12 bundle and its password. Random each time: never compare bundles.
#[derive(Debug)]
pub struct Pfx {
    /// DER.
    pub bytes: SecretBytes,
    /// 32 printable ASCII characters.
    pub password: SecretBytes,
}

/// Writes the chain with its key.
///
/// # Errors
/// `InternalError` only: a chain that was constructed can be encoded.
pub fn encode(
    chain: &CertificateChain,
    encryption: PfxEncryption,
    randomness: PfxRandomness,
) -> Result<Pfx, Problem> {
    let bytes = Writer { encryption, randomness: &randomness }.pfx(chain).map_err(|error| {
        Problem::new(Reason::InternalError, format!("the PKCS#12 bundle could not be written: {error}"))
    })?;
    Ok(Pfx { bytes: SecretBytes::new(bytes), password: SecretBytes::new(randomness.password.to_vec()) })
}

#[derive(Debug, thiserror::Error)]
enum WriteError {
    #[error("{0}")]
    Der(#[from] der::Error),
    #[error("{0}")]
    Pbes2(#[from] pkcs5::Error),
    #[error("a derived key has the wrong length")]
    KeyLength,
}

struct Writer<'a> {
    encryption: PfxEncryption,
    randomness: &'a PfxRandomness,
}

impl Writer<'_> {
    fn pfx(&self, chain: &CertificateChain) -> Result<Vec<u8>, WriteError> {
        let safes = vec![self.certificates_safe(chain)?, self.key_safe(chain)?].to_der()?;
        let pfx = pkcs12::pfx::Pfx {
            version: Version::V3,
            mac_data: Some(self.mac(&safes)?),
            auth_safe: plain(safes)?,
        };
        Ok(pfx.to_der()?)
    }

    fn certificates_safe(&self, chain: &CertificateChain) -> Result<ContentInfo, WriteError> {
        let bags = chain
            .certificates()
            .enumerate()
            .map(|(index, der)| {
                let bag =
                    CertBag { cert_id: pkcs12::PKCS_12_X509_CERT_OID, cert_value: OctetString::new(der)? };
                // A friendlyName on a CA certificate makes readers of BouncyCastle pick the wrong alias.
                let attributes = if index == 0 { Some(attributes(chain)?) } else { None };
                Ok(SafeBag {
                    bag_id: pkcs12::PKCS_12_CERT_BAG_OID,
                    bag_value: bag.to_der()?,
                    bag_attributes: attributes,
                })
            })
            .collect::<Result<Vec<_>, WriteError>>()?;
        let (algorithm, encrypted) = self.encrypt(&bags.to_der()?, &self.randomness.certificates)?;
        let data = EncryptedData {
            version: CmsVersion::V0,
            enc_content_info: EncryptedContentInfo {
                content_type: rfc5911::ID_DATA,
                content_enc_alg: algorithm,
                encrypted_content: Some(OctetString::new(encrypted)?),
            },
            unprotected_attrs: None,
        };
        Ok(ContentInfo { content_type: rfc5911::ID_ENCRYPTED_DATA, content: Any::encode_from(&data)? })
    }

    fn key_safe(&self, chain: &CertificateChain) -> Result<ContentInfo, WriteError> {
        let (algorithm, encrypted) = self.encrypt(chain.private_key(), &self.randomness.key)?;
        let key = EncryptedPrivateKeyInfo {
            encryption_algorithm: algorithm,
            encrypted_data: OctetString::new(encrypted)?,
        };
        let bag = SafeBag {
            bag_id: pkcs12::PKCS_12_PKCS8_KEY_BAG_OID,
            bag_value: key.to_der()?,
            bag_attributes: Some(attributes(chain)?),
        };
        Ok(plain(vec![bag].to_der()?)?)
    }

    fn encrypt(
        &self,
        content: &[u8],
        randomness: &SafeRandomness,
    ) -> Result<(AlgorithmIdentifierOwned, Vec<u8>), WriteError> {
        match self.encryption {
            PfxEncryption::Aes256Sha256 => {
                let parameters = pbes2::Parameters::generate_pbkdf2_sha256_aes256cbc(
                    ITERATIONS.into(),
                    &randomness.salt,
                    randomness.iv,
                )?;
                let encrypted = parameters.encrypt(self.randomness.password(), content)?;
                Ok((algorithm(pbes2::PBES2_OID, &parameters)?, encrypted))
            }
            PfxEncryption::TripleDesSha1 => {
                let derive = |kind, length| self.derive::<Sha1>(&randomness.salt, kind, length);
                let key = derive(Pkcs12KeyType::EncryptionKey, 24)?;
                let iv = derive(Pkcs12KeyType::Iv, 8)?;
                let encrypted = cbc::Encryptor::<des::TdesEde3>::new_from_slices(&key, &iv)
                    .map_err(|_| WriteError::KeyLength)?
                    .encrypt_padded_vec::<Pkcs7>(content);
                let parameters = Pkcs12PbeParams {
                    salt: OctetString::new(randomness.salt)?,
                    iterations: ITERATIONS.into(),
                };
                Ok((algorithm(pkcs12::PKCS_12_PBE_WITH_SHAAND3_KEY_TRIPLE_DES_CBC, &parameters)?, encrypted))
            }
        }
    }

    fn mac(&self, content: &[u8]) -> Result<MacData, WriteError> {
        let salt = self.randomness.mac_salt;
        let (digest, mac) = match self.encryption {
            PfxEncryption::Aes256Sha256 => {
                let key = self.derive::<Sha256>(&salt, Pkcs12KeyType::Mac, 32)?;
                (rfc5912::ID_SHA_256, authenticate::<Hmac<Sha256>>(&key, content)?)
            }
            PfxEncryption::TripleDesSha1 => {
                let key = self.derive::<Sha1>(&salt, Pkcs12KeyType::Mac, 20)?;
                (rfc5912::ID_SHA_1, authenticate::<Hmac<Sha1>>(&key, content)?)
            }
        };
        Ok(MacData {
            mac: DigestInfo {
                algorithm: AlgorithmIdentifierOwned { oid: digest, parameters: Some(Any::null()) },
                digest: OctetString::new(mac)?,
            },
            mac_salt: OctetString::new(salt)?,
            iterations: ITERATIONS.into(),
        })
    }

    fn derive<D>(&self, salt: &[u8], kind: Pkcs12KeyType, length: usize) -> der::Result<Zeroizing<Vec<u8>>>
    where
        D: sha2::Digest + sha2::digest::FixedOutputReset + sha2::digest::block_api::BlockSizeUser,
    {
        derive_key_utf8::<D>(self.randomness.password(), salt, kind, ITERATIONS.into(), length)
            .map(Zeroizing::new)
    }
}

fn authenticate<M: Mac + KeyInit>(key: &[u8], content: &[u8]) -> Result<Vec<u8>, WriteError> {
    let mut mac = <M as KeyInit>::new_from_slice(key).map_err(|_| WriteError::KeyLength)?;
    mac.update(content);
    Ok(mac.finalize().into_bytes().to_vec())
}

fn algorithm(oid: ObjectIdentifier, parameters: &impl Encode) -> der::Result<AlgorithmIdentifierOwned> {
    Ok(AlgorithmIdentifierOwned { oid, parameters: Some(Any::from_der(&parameters.to_der()?)?) })
}

/// Content of type `data`: an OCTET STRING.
fn plain(content: Vec<u8>) -> der::Result<ContentInfo> {
    Ok(ContentInfo {
        content_type: rfc5911::ID_DATA,
        content: Any::encode_from(&OctetString::new(content)?)?,
    })
}

/// What ties key and leaf together for readers: the same name, and the leaf's SHA-1 as localKeyID.
fn attributes(chain: &CertificateChain) -> der::Result<Attributes> {
    let attribute =
        |oid, value: Any| der::Result::Ok(Attribute { oid, values: SetOfVec::try_from(vec![value])? });
    SetOfVec::try_from(vec![
        attribute(FRIENDLY_NAME_OID, Any::encode_from(&BmpString::from_utf8(FRIENDLY_NAME)?)?)?,
        attribute(LOCAL_KEY_ID_OID, Any::encode_from(&OctetString::new(chain.thumbprint())?)?)?,
    ])
}

/// RFC 2985, 5.5.1 and 5.5.2.
const FRIENDLY_NAME_OID: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.20");
const LOCAL_KEY_ID_OID: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.21");
