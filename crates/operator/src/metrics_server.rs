//! `/metrics` over HTTPS, for who may have them (`metrics_access`). A slow or a strange client costs a connection for a short time, of
//! which there are few; the probes are served elsewhere (`health`).

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use anyhow::{Context as _, bail};
use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use kube::Client;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

use crate::health;
use crate::metrics::Metrics;
use crate::metrics_access::{Access, Verdict};
use crate::settings::Settings;

/// Connections at a time: a few scrapers, each with one for a moment.
const CONNECTIONS_MAX: usize = 16;
/// What a handshake and a request may take together. A connection carries one request.
const CONNECTION_LIMIT: Duration = Duration::from_secs(30);
/// Pause after an accept that failed (no file descriptors left, say), instead of a busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);
/// How often the files of the certificate are looked at: a renewed one is in the volume a minute after its Secret.
const LOOK: Duration = Duration::from_secs(10);

#[derive(Clone)]
struct Page {
    access: Arc<Access>,
    metrics: Arc<Metrics>,
}

/// Serves, if the settings say where; from tasks of this runtime, for as long as it lives.
///
/// # Errors
/// The address cannot be listened on, or the certificate cannot be used.
pub(crate) fn serve(settings: &Settings, client: Client, metrics: Arc<Metrics>) -> anyhow::Result<()> {
    let Some(address) = settings.metrics_address else { return Ok(()) };
    let shown = Arc::new(Shown::new(settings)?);
    let tls = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(Arc::clone(&shown) as Arc<dyn ResolvesServerCert>);
    let listener = TcpListener::bind(address)
        .with_context(|| format!("--metrics-address {address} cannot be listened on"))?;
    listener.set_nonblocking(true)?;
    tracing::info!(address = %listener.local_addr()?, "serving /metrics over HTTPS, for tokens that may get them");
    let page = Page { access: Arc::new(Access::new(client)), metrics };
    let router = Router::new().route("/metrics", get(metrics_page)).with_state(page);
    tokio::spawn(accept(
        tokio::net::TcpListener::from_std(listener)?,
        TlsAcceptor::from(Arc::new(tls)),
        router,
    ));
    tokio::spawn(shown.follow());
    Ok(())
}

async fn accept(listener: tokio::net::TcpListener, tls: TlsAcceptor, router: Router) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        // Whoever comes when all are taken waits in the kernel's queue. It is never closed.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!(%error, "a connection for metrics cannot be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (tls, router) = (tls.clone(), router.clone());
        tokio::spawn(async move {
            let _place = place;
            // A scanner's handshake that fails is nobody's business.
            let _ = tokio::time::timeout(CONNECTION_LIMIT, converse(stream, tls, router)).await;
        });
    }
}

async fn converse(stream: TcpStream, tls: TlsAcceptor, router: Router) -> anyhow::Result<()> {
    let stream = tls.accept(stream).await?;
    http1::Builder::new()
        .timer(TokioTimer::new())
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
        .await?;
    Ok(())
}

async fn metrics_page(State(page): State<Page>, headers: HeaderMap) -> Response {
    let shown = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token = shown.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
    match page.access.judge(token).await {
        Ok(Verdict::Allowed) => health::metrics(&page.metrics).into_response(),
        Ok(Verdict::Forbidden { user }) => {
            tracing::debug!(%user, "metrics are refused: no right to get /metrics");
            (StatusCode::FORBIDDEN, format!("{user} may not get the non-resource URL /metrics\n"))
                .into_response()
        }
        Ok(Verdict::Unknown) => {
            let challenge = [(header::WWW_AUTHENTICATE, "Bearer")];
            (StatusCode::UNAUTHORIZED, challenge, "a bearer token of this cluster is asked for\n")
                .into_response()
        }
        Err(error) => {
            tracing::debug!(%error, "metrics are refused: the API server cannot be asked");
            (StatusCode::SERVICE_UNAVAILABLE, "the API server cannot be asked who this is\n").into_response()
        }
    }
}

/// The certificate that is shown: of files, read again when they change, or one made for this process.
#[derive(Debug)]
struct Shown {
    key: RwLock<Arc<CertifiedKey>>,
    files: Option<(PathBuf, PathBuf)>,
}

impl Shown {
    fn new(settings: &Settings) -> anyhow::Result<Self> {
        let files = settings.metrics_certificate.clone().zip(settings.metrics_key.clone());
        let key = match &files {
            Some((certificate, key)) => from_files(certificate, key)?,
            None => self_signed()?,
        };
        Ok(Self { key: RwLock::new(Arc::new(key)), files })
    }

    /// Reads the files again and again; what cannot be used is said once, and the one before is shown on.
    async fn follow(self: Arc<Self>) {
        let Some((certificate, key)) = self.files.clone() else { return };
        let mut failing = false;
        loop {
            tokio::time::sleep(LOOK).await;
            match from_files(&certificate, &key) {
                Ok(read) => {
                    let mut shown = self.key.write().unwrap_or_else(PoisonError::into_inner);
                    if shown.cert != read.cert {
                        tracing::info!(file = %certificate.display(), "metrics are served with the renewed certificate");
                        *shown = Arc::new(read);
                    }
                    failing = false;
                }
                Err(error) if !failing => {
                    let error = format!("{error:#}");
                    tracing::warn!(%error, "the certificate of --metrics-certificate cannot be used; the one before is shown on");
                    failing = true;
                }
                Err(_) => {}
            }
        }
    }
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.key.read().unwrap_or_else(PoisonError::into_inner)))
    }
}

fn from_files(certificate: &Path, key: &Path) -> anyhow::Result<CertifiedKey> {
    let chain: Vec<_> =
        CertificateDer::pem_file_iter(certificate).and_then(Iterator::collect).with_context(|| {
            format!("--metrics-certificate {} holds no certificates in PEM", certificate.display())
        })?;
    if chain.is_empty() {
        bail!("--metrics-certificate {} holds no certificate", certificate.display());
    }
    // The reason could quote the file.
    let Ok(private) = PrivateKeyDer::from_pem_file(key) else {
        bail!("--metrics-key {} holds no private key in PEM", key.display());
    };
    let certified = CertifiedKey::from_der(chain, private, &aws_lc_rs::default_provider());
    certified.with_context(|| {
        format!("{} and {} do not belong together, or cannot be used", certificate.display(), key.display())
    })
}

/// Nobody can check it; it keeps tokens from being read on the way.
fn self_signed() -> anyhow::Result<CertifiedKey> {
    let name = std::env::var("POD_NAME").unwrap_or_else(|_| "keyvault-sync".to_owned());
    let made = rcgen::generate_simple_self_signed([name, "localhost".to_owned()])
        .context("no certificate can be made for metrics")?;
    let private = PrivateKeyDer::try_from(made.signing_key.serialize_der())
        .map_err(|_| anyhow::anyhow!("no key can be made for metrics"))?;
    Ok(CertifiedKey::from_der(vec![made.cert.der().clone()], private, &aws_lc_rs::default_provider())?)
}
