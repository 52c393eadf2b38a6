//! A server that says what a test tells it to say: for answers that no honest vault, no honest Entra ID and no honest node gives.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::PrivatePkcs8KeyDer;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::world::{AUTHORITY, VAULT};

/// A request as it arrived.
#[derive(Clone, Debug)]
pub(crate) struct Heard {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) host: String,
    pub(crate) is_authorised: bool,
    /// Which packed answers it takes (`Accept-Encoding`).
    pub(crate) unpacks: Option<String>,
    pub(crate) body: String,
}

/// What is said to a request; `None` closes the connection without a word.
pub(crate) type Script = dyn Fn(&Heard) -> Option<Saying> + Send + Sync;

/// An answer, and how it is given.
#[derive(Clone, Debug)]
pub(crate) struct Saying {
    bytes: Vec<u8>,
    /// The pause before each byte.
    drip: Option<Duration>,
    /// Whether the connection is closed behind it: the end of an answer without length.
    is_last: bool,
}

impl Saying {
    /// The same, a byte at a time.
    pub(crate) fn dripping(self) -> Self {
        Self { drip: Some(Duration::from_millis(50)), ..self }
    }
}

pub(crate) struct Liar {
    pub(crate) address: SocketAddr,
    pub(crate) ca_pem: String,
    heard: Arc<Mutex<Vec<Heard>>>,
    said_bytes: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Liar {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Liar {
    /// One that is whatever host it is taken for, over TLS.
    pub(crate) async fn start(script: Arc<Script>) -> Self {
        let (acceptor, ca_pem) = tls();
        Self::listen(script, Some(acceptor), ca_pem).await
    }

    /// One without TLS.
    pub(crate) async fn start_plain(script: Arc<Script>) -> Self {
        Self::listen(script, None, String::new()).await
    }

    async fn listen(script: Arc<Script>, acceptor: Option<TlsAcceptor>, ca_pem: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (heard, said_bytes) = (Arc::default(), Arc::default());
        let stage = Stage { script, heard: Arc::clone(&heard), said_bytes: Arc::clone(&said_bytes) };
        let task = tokio::spawn(serve(listener, acceptor, stage));
        Self { address, ca_pem, heard, said_bytes, task }
    }

    /// How many bytes of its answers anybody took.
    pub(crate) fn said_bytes(&self) -> usize {
        self.said_bytes.load(Ordering::SeqCst)
    }

    pub(crate) fn heard(&self) -> Vec<Heard> {
        self.heard.lock().unwrap().clone()
    }
}

/// An answer with its length.
pub(crate) fn answer(status: u16, headers: &str, body: impl AsRef<[u8]>) -> Option<Saying> {
    let body = body.as_ref();
    let head = format!("HTTP/1.1 {status} Said\r\ncontent-length: {}\r\n{headers}\r\n", body.len());
    let bytes = [head.as_bytes(), body].concat();
    Some(Saying { bytes, drip: None, is_last: false })
}

/// An answer that does not say how long it is.
pub(crate) fn unmeasured_answer(body: &str) -> Option<Saying> {
    let bytes = format!("HTTP/1.1 200 Said\r\nconnection: close\r\n\r\n{body}").into_bytes();
    Some(Saying { bytes, drip: None, is_last: true })
}

/// What Key Vault says to a request without token.
pub(crate) fn challenge(resource: &str) -> Option<Saying> {
    let header = format!(
        "www-authenticate: Bearer authorization=\"https://evil.example.test/x\", resource=\"{resource}\"\r\n"
    );
    answer(401, &header, "")
}

/// What Entra ID and the node's identity endpoint give.
pub(crate) const TOKEN: &str = r#"{"access_token":"a-token","expires_in":3600,"token_type":"Bearer"}"#;

/// A token, as Entra ID gives it.
pub(crate) fn token() -> Option<Saying> {
    answer(200, "", TOKEN)
}

#[derive(Clone)]
struct Stage {
    script: Arc<Script>,
    heard: Arc<Mutex<Vec<Heard>>>,
    said_bytes: Arc<AtomicUsize>,
}

async fn serve(listener: TcpListener, acceptor: Option<TlsAcceptor>, stage: Stage) {
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let (acceptor, stage) = (acceptor.clone(), stage.clone());
        connections.spawn(async move {
            match acceptor {
                None => converse(stream, stage).await,
                Some(acceptor) => {
                    if let Ok(stream) = acceptor.accept(stream).await {
                        converse(stream, stage).await;
                    }
                }
            }
        });
    }
}

async fn converse(mut stream: impl AsyncRead + AsyncWrite + Unpin, stage: Stage) {
    while let Some(request) = read_request(&mut stream).await {
        let said = (stage.script)(&request);
        stage.heard.lock().unwrap().push(request);
        let Some(saying) = said else { return };
        if say(&mut stream, &saying, &stage.said_bytes).await.is_err() || saying.is_last {
            let _ = stream.shutdown().await;
            return;
        }
    }
}

async fn say(
    stream: &mut (impl AsyncWrite + Unpin),
    saying: &Saying,
    said_bytes: &AtomicUsize,
) -> std::io::Result<()> {
    let piece = if saying.drip.is_some() { 1 } else { 64 * 1024 };
    for bytes in saying.bytes.chunks(piece) {
        if let Some(pause) = saying.drip {
            tokio::time::sleep(pause).await;
        }
        stream.write_all(bytes).await?;
        stream.flush().await?;
        said_bytes.fetch_add(bytes.len(), Ordering::SeqCst);
    }
    Ok(())
}

async fn read_request(stream: &mut (impl AsyncRead + Unpin)) -> Option<Heard> {
    let mut bytes = Vec::new();
    let head_end = loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break end + 4;
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8_lossy(&bytes[..head_end]).into_owned();
    let header = |wanted: &str| {
        let mut lines = head.lines().filter_map(|line| line.split_once(':'));
        lines.find(|(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| value.trim().to_owned())
    };
    let length: usize = header("content-length").map_or(0, |text| text.parse().unwrap());
    while bytes.len() < head_end + length {
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
    let mut first = head.split_whitespace();
    Some(Heard {
        method: first.next()?.to_owned(),
        path: first.next()?.to_owned(),
        host: header("host")?,
        is_authorised: header("authorization").is_some(),
        unpacks: header("accept-encoding"),
        body: String::from_utf8_lossy(&bytes[head_end..]).into_owned(),
    })
}

fn tls() -> (TlsAcceptor, String) {
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::new(Vec::<String>::new()).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_pem = ca.self_signed(&ca_key).unwrap().pem();
    let issuer = Issuer::new(ca, ca_key);
    let key = KeyPair::generate().unwrap();
    let names = vec![VAULT.to_owned(), AUTHORITY.to_owned()];
    let leaf = CertificateParams::new(names).unwrap().signed_by(&key, &issuer).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], PrivatePkcs8KeyDer::from(key.serialize_der()).into())
        .unwrap();
    (TlsAcceptor::from(Arc::new(config)), ca_pem)
}
