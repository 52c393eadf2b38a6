//! A certification authority for tests and the demo: root, intermediates, and leaves of any key type as the PEM a Secret
//! holds. Also issues the certificates of the local control plane. Nothing here is checked: that is the operator's work.

use std::collections::BTreeMap;
use std::ops::Range;

use anyhow::Context;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, RsaKeySize,
};
use time::{Duration, OffsetDateTime};

/// The days an authority is valid, counted from now. It began long ago, so that leaves of the past fit into it.
const AUTHORITY_DAYS: Range<i64> = -3650..3650;

/// The days a leaf is valid unless the test says otherwise. It began yesterday: clocks differ.
const LEAF_DAYS: Range<i64> = -1..90;

/// Kinds of key a leaf can have. `Ed25519` is one that Key Vault refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum KeyType {
    Rsa2048,
    Rsa3072,
    Rsa4096,
    P256,
    P384,
    P521,
    Ed25519,
}

impl KeyType {
    /// Makes a new key.
    ///
    /// # Errors
    /// The random source fails.
    pub fn generate(self) -> anyhow::Result<KeyPair> {
        let rsa = |size| KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, size);
        match self {
            KeyType::Rsa2048 => rsa(RsaKeySize::_2048),
            KeyType::Rsa3072 => rsa(RsaKeySize::_3072),
            KeyType::Rsa4096 => rsa(RsaKeySize::_4096),
            KeyType::P256 => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256),
            KeyType::P384 => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384),
            KeyType::P521 => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P521_SHA512),
            KeyType::Ed25519 => KeyPair::generate_for(&rcgen::PKCS_ED25519),
        }
        .with_context(|| format!("cannot generate a key of type {self:?}"))
    }
}

/// What a leaf is to say.
#[derive(Clone, Debug)]
pub struct Leaf {
    /// Subject common name.
    pub common_name: String,
    /// The organisation in the subject; in a client certificate, the group that Kubernetes sees.
    pub organization: Option<String>,
    /// Subject alternative names: DNS names or IP addresses.
    pub names: Vec<String>,
    /// Kind of key.
    pub key_type: KeyType,
    /// First and last day of validity, counted from now; `-30..-1` has expired.
    pub valid_days: Range<i64>,
    /// What it may be used for.
    pub usage: ExtendedKeyUsagePurpose,
}

impl Leaf {
    /// A server certificate for one DNS name, with a P-256 key.
    pub fn server(dns_name: &str) -> Leaf {
        Leaf {
            common_name: dns_name.to_owned(),
            organization: None,
            names: vec![dns_name.to_owned()],
            key_type: KeyType::P256,
            valid_days: LEAF_DAYS,
            usage: ExtendedKeyUsagePurpose::ServerAuth,
        }
    }

    /// A client certificate as Kubernetes reads it: user and group.
    pub fn client(user: &str, group: Option<&str>) -> Leaf {
        Leaf {
            organization: group.map(str::to_owned),
            names: Vec::new(),
            usage: ExtendedKeyUsagePurpose::ClientAuth,
            ..Leaf::server(user)
        }
    }

    /// The same with another kind of key.
    #[must_use]
    pub fn key_type(mut self, key_type: KeyType) -> Leaf {
        self.key_type = key_type;
        self
    }

    /// The same with another time of validity, in days from now.
    #[must_use]
    pub fn valid_days(mut self, days: Range<i64>) -> Leaf {
        self.valid_days = days;
        self
    }

    /// The same with these subject alternative names.
    #[must_use]
    pub fn names(mut self, names: &[&str]) -> Leaf {
        self.names = names.iter().map(|name| (*name).to_owned()).collect();
        self
    }
}

/// A certification authority, root or intermediate.
pub struct Authority {
    common_name: String,
    issuer: CertifiedIssuer<'static, KeyPair>,
    /// This authority's certificate if it is no root, then the one that issued it, and so on below the root.
    intermediates: Vec<String>,
    root: String,
}

impl Authority {
    /// A self-signed root.
    ///
    /// # Errors
    /// The random source fails.
    pub fn root(common_name: &str) -> anyhow::Result<Authority> {
        let issuer = CertifiedIssuer::self_signed(authority_params(common_name), KeyType::P256.generate()?)
            .with_context(|| format!("cannot make the root {common_name}"))?;
        let root = issuer.pem();
        Ok(Authority { common_name: common_name.to_owned(), issuer, intermediates: Vec::new(), root })
    }

    /// An intermediate issued by this authority.
    ///
    /// # Errors
    /// The random source fails.
    pub fn intermediate(&self, common_name: &str) -> anyhow::Result<Authority> {
        let issuer = CertifiedIssuer::signed_by(
            authority_params(common_name),
            KeyType::P256.generate()?,
            &self.issuer,
        )
        .with_context(|| format!("cannot make the intermediate {common_name}"))?;
        let intermediates = [vec![issuer.pem()], self.intermediates.clone()].concat();
        Ok(Authority { common_name: common_name.to_owned(), issuer, intermediates, root: self.root.clone() })
    }

    /// This authority's name and key in a certificate that `other` issued, as old and new roots are bridged; PEM.
    ///
    /// # Errors
    /// The crypto library fails to sign.
    pub fn cross_signed_by(&self, other: &Authority) -> anyhow::Result<String> {
        let certificate = authority_params(&self.common_name)
            .signed_by(self.issuer.key(), &other.issuer)
            .with_context(|| format!("cannot cross-sign {}", self.common_name))?;
        Ok(certificate.pem())
    }

    /// This authority's own certificate, PEM.
    pub fn certificate_pem(&self) -> String {
        self.issuer.pem()
    }

    /// A leaf with a new key.
    ///
    /// # Errors
    /// The random source fails, or a name is not ASCII.
    pub fn issue(&self, leaf: &Leaf) -> anyhow::Result<Issued> {
        self.issue_for(leaf, &leaf.key_type.generate()?)
    }

    /// Another leaf for the key of one that was issued, as cert-manager makes it under `rotationPolicy: Never`.
    ///
    /// # Errors
    /// A name is not ASCII.
    pub fn issue_again(&self, leaf: &Leaf, issued: &Issued) -> anyhow::Result<Issued> {
        let key = KeyPair::from_pem(&issued.key).context("what was issued has no key that can be read")?;
        self.issue_for(leaf, &key)
    }

    fn issue_for(&self, leaf: &Leaf, key: &KeyPair) -> anyhow::Result<Issued> {
        let certificate = leaf_params(leaf)?
            .signed_by(key, &self.issuer)
            .with_context(|| format!("cannot issue the certificate of {}", leaf.common_name))?;
        Ok(Issued {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
            intermediates: self.intermediates.clone(),
            root: self.root.clone(),
        })
    }
}

/// A leaf with its key and its issuers, each PEM. Has no `Debug`: it holds a key.
#[derive(Clone)]
pub struct Issued {
    /// The leaf.
    pub certificate: String,
    /// Its private key, PKCS#8.
    pub key: String,
    /// The intermediates, the leaf's issuer first; without the root.
    pub intermediates: Vec<String>,
    /// The root.
    pub root: String,
}

impl Issued {
    /// Leaf, key and chain as a PKCS#12 file, as other programs write them, under this password.
    ///
    /// # Errors
    /// What was issued is no PEM.
    pub fn pfx(&self, password: &str) -> anyhow::Result<Vec<u8>> {
        use p12_keystore::{Certificate, KeyStore, KeyStoreEntry, PrivateKey, PrivateKeyChain};
        use rustls::pki_types::pem::PemObject;
        use rustls::pki_types::{CertificateDer, PrivateKeyDer};
        let chain = CertificateDer::pem_slice_iter(self.tls_crt().as_bytes())
            .map(|der| Ok(Certificate::from_der(&der.map_err(|_| anyhow::anyhow!("no PEM"))?)?))
            .collect::<anyhow::Result<Vec<_>>>()?;
        let key =
            PrivateKeyDer::from_pem_slice(self.key.as_bytes()).map_err(|_| anyhow::anyhow!("no PEM"))?;
        let chain = PrivateKeyChain::new("theirs", PrivateKey::from_der(key.secret_der())?, chain);
        let mut store = KeyStore::new();
        store.add_entry("theirs", KeyStoreEntry::PrivateKeyChain(chain));
        Ok(store.writer(password).write()?)
    }

    /// What cert-manager writes as `tls.crt`: the leaf, then the intermediates.
    pub fn tls_crt(&self) -> String {
        format!("{}{}", self.certificate, self.intermediates.concat())
    }

    /// The Secret that cert-manager would write: `kubernetes.io/tls` with `tls.crt`, `tls.key` and `ca.crt`.
    pub fn secret(&self, namespace: &str, name: &str) -> Secret {
        let entry = |key: &str, text: String| (key.to_owned(), ByteString(text.into_bytes()));
        Secret {
            metadata: ObjectMeta {
                namespace: Some(namespace.to_owned()),
                name: Some(name.to_owned()),
                ..ObjectMeta::default()
            },
            type_: Some("kubernetes.io/tls".to_owned()),
            data: Some(BTreeMap::from([
                entry("tls.crt", self.tls_crt()),
                entry("tls.key", self.key.clone()),
                entry("ca.crt", self.root.clone()),
            ])),
            ..Secret::default()
        }
    }
}

fn authority_params(common_name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    set_validity(&mut params, &AUTHORITY_DAYS);
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.use_authority_key_identifier_extension = true;
    params
}

fn leaf_params(leaf: &Leaf) -> anyhow::Result<CertificateParams> {
    let mut params = CertificateParams::new(leaf.names.clone())
        .with_context(|| format!("a subject alternative name of {} is not ASCII", leaf.common_name))?;
    set_validity(&mut params, &leaf.valid_days);
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, leaf.common_name.as_str());
    if let Some(organization) = &leaf.organization {
        params.distinguished_name.push(DnType::OrganizationName, organization.as_str());
    }
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    params.extended_key_usages = vec![leaf.usage.clone()];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn set_validity(params: &mut CertificateParams, days: &Range<i64>) {
    let now = OffsetDateTime::now_utc();
    params.not_before = now + Duration::days(days.start);
    params.not_after = now + Duration::days(days.end);
}
