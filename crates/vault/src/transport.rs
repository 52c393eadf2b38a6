//! The HTTP client under the SDK: one reqwest client with our time limits, certificate authorities and addresses, and two
//! senders over it, each bound to one host; and a second one for the node's identity endpoint. The bytes are left to `network`,
//! tokens to `credential`.
//! Why not the SDK's own client: docs/adr/0003-own-transport.md.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use azure_core::error::{Error, ErrorKind};
use azure_core::http::headers;
use azure_core::http::policies::{Policy, PolicyResult};
use azure_core::http::{AsyncRawResponse, Context, Method, RawResponse, Request, StatusCode};
use keyvault_sync_core::names::{Cloud, VaultHost, quote};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::time::Instant;

use crate::answer;
use crate::challenge;
use crate::credential::{CredentialCache, VaultCredential, lock};
use crate::exchange::Source;
use crate::fence::Fence;
use crate::identity::{Identity, Proofs};
use crate::imds::{self, Imds};
use crate::network::{self, NoAnswer, Resolver};
use crate::observer::{Nobody, Observer};
use crate::token_failure::{TokenFailure, TokenFailureCause};

/// A connection that is not there after this long is a dead route or a firewall that drops.
const CONNECT_TIME_LIMIT: Duration = Duration::from_secs(5);
/// One request with its whole answer, however slowly it drips. The same as the limit of a whole call: this one holds even
/// where nobody set the other.
pub(crate) const REQUEST_TIME_LIMIT: Duration = Duration::from_secs(10);
/// One token exchange. Shorter than a call, so that a call still hears why there is no token, and the failure is remembered.
const TOKEN_TIME_LIMIT: Duration = Duration::from_secs(6);
/// Connections kept for a host without work: what the permits of one vault use at once.
const IDLE_CONNECTIONS_MAX: usize = 8;
/// AKS drops a flow without packets after 240 s, silently; a connection is closed before that.
const IDLE_TIME_LIMIT: Duration = Duration::from_secs(60);
/// Finds a dead peer under a request that waits.
const TCP_KEEPALIVE: Duration = Duration::from_secs(30);

/// The version of Key Vault's interface that the SDK's client speaks; a request without one is refused.
const API_VERSION: &str = "2025-07-01";

/// What the operator sets about the way to Azure. No resource can change any of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransportSettings {
    /// The clouds whose vaults may be called.
    pub allowed_clouds: Vec<Cloud>,
    /// Address of a local emulator (loopback): every vault and the authority are there, and proxies are not used.
    pub emulator_address: Option<SocketAddr>,
    /// PEM bundle of certificate authorities that are trusted besides Mozilla's, which are built in: a TLS-inspecting
    /// proxy's, the emulator's.
    pub ca_bundle_pem: Option<Vec<u8>>,
    /// Issuer of tokens instead of the cloud's own: `https://login.partner.microsoftonline.cn` or its host alone.
    pub authority_host: Option<String>,
    /// Where managed identities are asked for: `http://169.254.169.254`, or a local stand-in at a loopback address.
    /// `None`: the former.
    pub imds_endpoint: Option<String>,
}

impl Default for TransportSettings {
    /// Every cloud, no emulator, built-in authorities.
    fn default() -> Self {
        Self {
            allowed_clouds: Cloud::ALL.to_vec(),
            emulator_address: None,
            ca_bundle_pem: None,
            authority_host: None,
            imds_endpoint: None,
        }
    }
}

/// Settings of which no transport can be made.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// The CA bundle holds no certificate, or one that cannot be read.
    #[error("the CA bundle cannot be used: {0}")]
    CaBundle(String),
    /// The authority is not a host.
    #[error(
        "the authority host {0} cannot be used: give a host name, or https:// and a host name, without port or path"
    )]
    Authority(String),
    /// The emulator's address is not a loopback address.
    #[error(
        "the emulator address {0} is not a loopback address: tokens and keys would leave this machine unprotected"
    )]
    EmulatorAddress(SocketAddr),
    /// The identity endpoint is neither Azure's nor a loopback one.
    #[error(
        "the identity endpoint {0} cannot be used: it must be http://169.254.169.254, or http:// and a loopback address, \
         without path"
    )]
    ImdsEndpoint(String),
    /// TLS or HTTP could not be set up.
    #[error("the HTTP client cannot be made: {0}")]
    Client(String),
}

/// The shared way to Azure: one per process, cheap to clone.
#[derive(Clone)]
pub struct Transport(Arc<Shared>);

struct Shared {
    client: reqwest::Client,
    allowed_clouds: Vec<Cloud>,
    authority_host: Option<String>,
    imds: Imds,
    proofs: Arc<dyn Proofs>,
    fence: Arc<dyn Fence>,
    observer: Arc<dyn Observer>,
    credentials: CredentialCache,
}

impl Transport {
    /// Builds the HTTP clients. Makes no connection. `proofs` is asked for what identities prove themselves with, `fence` whether a
    /// vault may be written to, right before each request that does.
    ///
    /// # Errors
    /// Settings that cannot work, each named.
    pub fn new(
        settings: &TransportSettings,
        proofs: Arc<dyn Proofs>,
        fence: Arc<dyn Fence>,
    ) -> Result<Self, TransportError> {
        Self::observed(settings, proofs, fence, Arc::new(Nobody))
    }

    /// As [`Transport::new`]; `observer` is told of every call.
    ///
    /// # Errors
    /// Settings that cannot work, each named.
    pub fn observed(
        settings: &TransportSettings,
        proofs: Arc<dyn Proofs>,
        fence: Arc<dyn Fence>,
        observer: Arc<dyn Observer>,
    ) -> Result<Self, TransportError> {
        if let Some(address) = settings.emulator_address.filter(|address| !address.ip().is_loopback()) {
            return Err(TransportError::EmulatorAddress(address));
        }
        let authority_host = settings.authority_host.as_deref().map(parse_authority).transpose()?;
        let endpoint = settings.imds_endpoint.as_deref();
        let imds = Imds::new(endpoint, imds_client()?)
            .ok_or_else(|| TransportError::ImdsEndpoint(quote(endpoint.unwrap_or_default())))?;
        Ok(Self(Arc::new(Shared {
            client: http_client(settings)?,
            imds,
            proofs,
            fence,
            observer,
            allowed_clouds: settings.allowed_clouds.clone(),
            authority_host,
            credentials: CredentialCache::default(),
        })))
    }

    /// Whether vaults of this cloud may be called.
    pub(crate) fn allows(&self, cloud: Cloud) -> bool {
        self.0.allowed_clouds.contains(&cloud)
    }

    /// Who is told of calls.
    pub(crate) fn observer(&self) -> &dyn Observer {
        self.0.observer.as_ref()
    }

    /// The sender for one vault.
    pub(crate) fn to_vault(&self, host: VaultHost) -> azure_core::http::Transport {
        let sender = VaultSender { client: self.0.client.clone(), host, fence: Arc::clone(&self.0.fence) };
        azure_core::http::Transport::with_policy(Arc::new(sender))
    }

    /// The credential of an identity for vaults of a cloud: the same for all of them.
    pub(crate) fn credential(&self, identity: &Identity, cloud: Cloud) -> Arc<VaultCredential> {
        let authority = self.0.authority_host.as_deref().unwrap_or(cloud.authority_host());
        self.0.credentials.find_or_make(authority, cloud, identity, || {
            let sender = AuthoritySender { client: self.0.client.clone(), host: authority.to_owned() };
            Source {
                proofs: Arc::clone(&self.0.proofs),
                imds: self.0.imds.clone(),
                observer: Arc::clone(&self.0.observer),
                authority_host: authority.to_owned(),
                transport: azure_core::http::Transport::with_policy(Arc::new(sender)),
            }
        })
    }

    /// What a vault answers to a GET without token. Any path will do: the token is asked for first.
    pub(crate) async fn knock(&self, host: &VaultHost) -> Result<RawResponse, NoAnswer> {
        let url = format!("{}/certificates?api-version={API_VERSION}", host.url());
        let url = url.parse().map_err(|_| NoAnswer::NotHttps)?;
        network::exchange(&self.0.client, &Request::new(url, Method::Get)).await
    }
}

fn http_client(settings: &TransportSettings) -> Result<reqwest::Client, TransportError> {
    let mut builder = bare_client(tls(settings.ca_bundle_pem.as_deref())?)
        .https_only(true)
        .connect_timeout(CONNECT_TIME_LIMIT)
        .timeout(REQUEST_TIME_LIMIT)
        .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
        .pool_idle_timeout(IDLE_TIME_LIMIT)
        .tcp_keepalive(TCP_KEEPALIVE)
        .dns_resolver(Arc::new(Resolver { emulator_address: settings.emulator_address }));
    if settings.emulator_address.is_some() {
        builder = builder.no_proxy();
    }
    builder.build().map_err(|error| TransportError::Client(error.without_url().to_string()))
}

/// For one plain request an hour to this very machine.
fn imds_client() -> Result<reqwest::Client, TransportError> {
    bare_client(tls(None)?)
        // A proxy would ask its own machine, if it did not keep the token.
        .no_proxy()
        .connect_timeout(imds::CONNECT_TIME_LIMIT)
        .timeout(imds::TIME_LIMIT)
        .pool_max_idle_per_host(0)
        .build()
        .map_err(|error| TransportError::Client(error.without_url().to_string()))
}

/// A client that does what it is told and nothing of its own accord.
fn bare_client(tls: rustls::ClientConfig) -> reqwest::ClientBuilder {
    reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        // One request a connection: a lost one concerns that request alone.
        .http1_only()
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .referer(false)
        .no_gzip()
        .no_brotli()
        .no_deflate()
        .no_zstd()
}

/// Mozilla's authorities and those of the bundle; never the image's store, which may be missing.
fn tls(ca_bundle_pem: Option<&[u8]>) -> Result<rustls::ClientConfig, TransportError> {
    let mut roots = rustls::RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    if let Some(pem) = ca_bundle_pem {
        let mut added = 0;
        for certificate in CertificateDer::pem_slice_iter(pem) {
            let certificate = certificate.map_err(|error| TransportError::CaBundle(error.to_string()))?;
            roots.add(certificate).map_err(|error| TransportError::CaBundle(error.to_string()))?;
            added += 1;
        }
        if added == 0 {
            return Err(TransportError::CaBundle("it holds no PEM certificate".into()));
        }
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| TransportError::Client(error.to_string()))?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

fn parse_authority(text: &str) -> Result<String, TransportError> {
    let rest = text.strip_prefix("https://").unwrap_or(text);
    let host = rest.strip_suffix('/').unwrap_or(rest).to_ascii_lowercase();
    let is_label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
    };
    let is_address =
        host.split('.').next_back().is_some_and(|label| label.starts_with(|c: char| c.is_ascii_digit()));
    if host.contains('.') && !is_address && host.split('.').all(is_label) {
        Ok(host)
    } else {
        Err(TransportError::Authority(quote(text)))
    }
}

/// How far a call has come: put into its context, noted by the sender.
#[derive(Clone, Debug, Default)]
pub(crate) struct Progress(Arc<Steps>);

#[derive(Debug, Default)]
struct Steps {
    /// When the call's time is up.
    until: Mutex<Option<Instant>>,
    is_asked: AtomicBool,
    is_sent: AtomicBool,
    is_answered: AtomicBool,
    last: Mutex<Option<LastAnswer>>,
}

/// What is told of an answer, whatever it says.
#[derive(Clone, Debug)]
pub(crate) struct LastAnswer {
    pub(crate) status: u16,
    pub(crate) request_id: Option<String>,
}

impl LastAnswer {
    pub(crate) fn of(answer: &RawResponse) -> Self {
        Self { status: u16::from(answer.status()), request_id: answer::request_id(answer.headers()) }
    }
}

impl Progress {
    /// Forgets everything: another request is made under the same context, within this limit.
    pub(crate) fn restart(&self, limit: Duration) {
        *self.0.until.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now() + limit);
        for step in [&self.0.is_asked, &self.0.is_sent, &self.0.is_answered] {
            step.store(false, Ordering::SeqCst);
        }
        *lock(&self.0.last) = None;
    }

    /// How much of the call's time is left.
    fn remaining(&self) -> Duration {
        let until = *self.0.until.lock().unwrap_or_else(PoisonError::into_inner);
        until.map_or(REQUEST_TIME_LIMIT, |until| until.duration_since(Instant::now()))
    }

    /// Whether anything came to the sender; an error that comes nevertheless is the SDK's refusal to send.
    pub(crate) fn is_asked(&self) -> bool {
        self.0.is_asked.load(Ordering::SeqCst)
    }

    /// Whether a write has been begun: its authorised request went out.
    pub(crate) fn is_sent(&self) -> bool {
        self.0.is_sent.load(Ordering::SeqCst)
    }

    /// Whether the answer was a success; an error that comes nevertheless is about what it says.
    pub(crate) fn is_answered(&self) -> bool {
        self.0.is_answered.load(Ordering::SeqCst)
    }

    fn note_request(&self, is_write: bool) {
        self.0.is_asked.store(true, Ordering::SeqCst);
        self.0.is_sent.fetch_or(is_write, Ordering::SeqCst);
    }

    /// The answer that came last, a challenge among them.
    pub(crate) fn last_answer(&self) -> Option<LastAnswer> {
        lock(&self.0.last).clone()
    }

    fn note_answer(&self, answer: &RawResponse) {
        self.0.is_answered.store(answer.status().is_success(), Ordering::SeqCst);
        *lock(&self.0.last) = Some(LastAnswer::of(answer));
    }
}

/// Sends to one vault and nowhere else: neither a redirect nor a `nextLink` can take the token to another host.
#[derive(Debug)]
struct VaultSender {
    client: reqwest::Client,
    host: VaultHost,
    fence: Arc<dyn Fence>,
}

#[async_trait]
impl Policy for VaultSender {
    async fn send(
        &self,
        context: &Context,
        request: &mut Request,
        _next: &[Arc<dyn Policy>],
    ) -> PolicyResult {
        let failed = |error: NoAnswer| Error::new(ErrorKind::Io, error);
        network::check_host(request.url(), self.host.as_str()).map_err(failed)?;
        let is_authorised = request.headers().get_optional_str(&headers::AUTHORIZATION).is_some();
        let is_write = is_authorised && request.method() != Method::Get;
        let progress = context.value::<Progress>();
        // Reading, waiting for a token and being suspended take time: what was so when the write was decided need not be so now.
        let remaining = progress.map_or(REQUEST_TIME_LIMIT, Progress::remaining);
        if is_write && (remaining.is_zero() || !self.fence.lets_write(remaining)) {
            return Err(failed(NoAnswer::Fenced));
        }
        if let Some(progress) = progress {
            progress.note_request(is_write);
        }
        let answer = network::exchange(&self.client, request).await.map_err(failed)?;
        if let Some(progress) = progress {
            progress.note_answer(&answer);
        }
        if answer.status() == StatusCode::Unauthorized
            && let Some(header) = answer.headers().get_optional_str(&headers::WWW_AUTHENTICATE)
            && let Some(scope) = challenge::foreign_scope(header, self.host.cloud().vault_scope())
        {
            let failure: TokenFailure = TokenFailureCause::ForeignScope(quote(&scope)).into();
            return Err(Error::new(ErrorKind::Credential, failure));
        }
        Ok(buffered(answer))
    }
}

/// Sends to one token issuer, and judges its answers: what the SDK makes of a refusal repeats the issuer's text.
#[derive(Debug)]
struct AuthoritySender {
    client: reqwest::Client,
    host: String,
}

#[async_trait]
impl Policy for AuthoritySender {
    async fn send(
        &self,
        _context: &Context,
        request: &mut Request,
        _next: &[Arc<dyn Policy>],
    ) -> PolicyResult {
        let failed = |failure: TokenFailure| Error::new(ErrorKind::Credential, failure);
        network::check_host(request.url(), &self.host).map_err(|error| failed(error.into()))?;
        let answer = tokio::time::timeout(TOKEN_TIME_LIMIT, network::exchange(&self.client, request))
            .await
            .unwrap_or(Err(NoAnswer::Timeout))
            .map_err(|error| failed(error.into()))?;
        TokenFailure::check(&answer).map_err(failed)?;
        Ok(buffered(answer))
    }
}

fn buffered(answer: RawResponse) -> AsyncRawResponse {
    let (status, headers, body) = answer.deconstruct();
    AsyncRawResponse::from_bytes(status, headers, azure_core::Bytes::from(body))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::tests::NoProofs;

    #[derive(Debug)]
    struct Open;

    impl Fence for Open {
        fn lets_write(&self, _longest: Duration) -> bool {
            true
        }
    }

    #[test]
    fn an_authority_is_a_host_name_and_nothing_more() {
        for (text, host) in [
            ("login.microsoftonline.com", Some("login.microsoftonline.com")),
            ("https://login.microsoftonline.com/", Some("login.microsoftonline.com")),
            ("https://Login.Partner.microsoftonline.cn", Some("login.partner.microsoftonline.cn")),
            ("http://login.microsoftonline.com", None),
            ("https://login.microsoftonline.com:8443", None),
            ("https://login.microsoftonline.com/common", None),
            ("https://user@login.microsoftonline.com", None),
            ("localhost", None),
            ("127.0.0.1", None),
            ("https://", None),
            ("a..b", None),
        ] {
            assert_eq!(parse_authority(text).ok().as_deref(), host, "{text}");
        }
    }

    #[test]
    fn settings_that_cannot_work_are_refused_by_name() {
        let refused = |settings: TransportSettings| {
            Transport::new(&settings, Arc::new(NoProofs), Arc::new(Open)).err().map(|error| error.to_string())
        };
        let bundle = |pem: &str| TransportSettings { ca_bundle_pem: Some(pem.into()), ..Default::default() };
        let emulator = |address: &str| TransportSettings {
            emulator_address: Some(address.parse().unwrap()),
            ..Default::default()
        };
        assert_eq!(refused(TransportSettings::default()), None);
        assert_eq!(refused(emulator("127.0.0.7:8443")), None);
        assert!(
            refused(emulator("10.0.0.1:443")).unwrap().contains("10.0.0.1:443 is not a loopback address")
        );
        let imds =
            |endpoint: &str| TransportSettings { imds_endpoint: Some(endpoint.into()), ..Default::default() };
        assert_eq!(refused(imds("http://127.0.0.7:8443")), None);
        assert!(
            refused(imds("http://10.0.0.1"))
                .unwrap()
                .contains("identity endpoint \"http://10.0.0.1\" cannot")
        );
        assert!(refused(bundle("nothing")).unwrap().contains("it holds no PEM certificate"));
        assert!(refused(bundle("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")).is_some());
    }
}
