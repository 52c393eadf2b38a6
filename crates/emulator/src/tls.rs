//! The emulator's own certificate authority and its one server certificate for every host of the three clouds.
//! Both keys live in memory only; leaves it to the caller to hand the CA certificate to clients.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::ServerConfig;
use rustls::pki_types::PrivatePkcs8KeyDer;
use time::{Duration, OffsetDateTime};

use crate::cloud::CLOUDS;

/// How long the certificates hold: longer than any demo stays up, and below the 398 days some clients insist on.
const VALIDITY: Duration = Duration::days(365);
/// How far back they begin, for clients whose clock is behind.
const CLOCK_SKEW: Duration = Duration::hours(1);

/// The CA certificate, and what the listener needs.
pub(crate) struct Tls {
    pub(crate) ca_pem: String,
    pub(crate) config: Arc<ServerConfig>,
}

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The certificates could not be made.
    #[error("cannot make the emulator's certificates: {0}")]
    Certificate(#[from] rcgen::Error),
    /// The TLS library refused them.
    #[error("cannot set up TLS: {0}")]
    Rustls(#[from] rustls::Error),
}

pub(crate) fn new() -> Result<Tls, TlsError> {
    let ca_key = KeyPair::generate()?;
    let ca = authority();
    let ca_pem = ca.self_signed(&ca_key)?.pem();
    let key = KeyPair::generate()?;
    let certificate = server()?.signed_by(&key, &Issuer::new(ca, ca_key))?;

    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
        )?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Tls { ca_pem, config: Arc::new(config) })
}

fn authority() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "keyvault-emulator CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    hold_from_now(&mut params);
    params
}

fn server() -> Result<CertificateParams, rcgen::Error> {
    let mut names = vec!["localhost".to_owned()];
    for cloud in &CLOUDS {
        names.push(format!("*.{}", cloud.vault_suffix));
        names.extend(cloud.hosts.iter().map(|host| (*host).to_owned()));
    }
    let mut params = CertificateParams::new(names)?;
    for address in [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)] {
        params.subject_alt_names.push(SanType::IpAddress(address));
    }
    params.distinguished_name.push(DnType::CommonName, "keyvault-emulator");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    // Python's and Go's strict checks want it (RFC 5280 section 4.2.1.1).
    params.use_authority_key_identifier_extension = true;
    hold_from_now(&mut params);
    Ok(params)
}

fn hold_from_now(params: &mut CertificateParams) {
    let now = OffsetDateTime::now_utc();
    params.not_before = now - CLOCK_SKEW;
    params.not_after = now + VALIDITY;
}
