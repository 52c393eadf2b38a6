//! A TLS server that says what a test tells it to say: for answers that no honest vault and no honest Entra ID gives.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::PrivatePkcs8KeyDer;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::world::{AUTHORITY, VAULT};

/// A request as it arrived.
#[derive(Clone, Debug)]
pub(crate) struct Heard {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) host: String,
    pub(crate) is_authorised: bool,
    pub(crate) body: String,
}

/// What is said to a request; `None` closes the connection without a word.
pub(crate) type Script = dyn Fn(&Heard) -> Option<String> + Send + Sync;

pub(crate) struct Liar {
    pub(crate) address: SocketAddr,
    pub(crate) ca_pem: String,
    heard: Arc<Mutex<Vec<Heard>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Liar {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Liar {
    pub(crate) async fn start(script: Arc<Script>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (acceptor, ca_pem) = tls();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let task = tokio::spawn(serve(listener, acceptor, script, Arc::clone(&heard)));
        Self { address, ca_pem, heard, task }
    }

    pub(crate) fn heard(&self) -> Vec<Heard> {
        self.heard.lock().unwrap().clone()
    }
}

/// An answer with its length.
pub(crate) fn answer(status: u16, headers: &str, body: &str) -> Option<String> {
    Some(format!("HTTP/1.1 {status} Said\r\ncontent-length: {}\r\n{headers}\r\n{body}", body.len()))
}

/// What Key Vault says to a request without token.
pub(crate) fn challenge(resource: &str) -> Option<String> {
    let header = format!(
        "www-authenticate: Bearer authorization=\"https://evil.example.test/x\", resource=\"{resource}\"\r\n"
    );
    answer(401, &header, "")
}

/// A token, as Entra ID gives it.
pub(crate) fn token() -> Option<String> {
    answer(200, "", r#"{"access_token":"a-token","expires_in":3600,"token_type":"Bearer"}"#)
}

async fn serve(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    script: Arc<Script>,
    heard: Arc<Mutex<Vec<Heard>>>,
) {
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        connections.spawn(converse(stream, acceptor.clone(), Arc::clone(&script), Arc::clone(&heard)));
    }
}

async fn converse(
    stream: TcpStream,
    acceptor: TlsAcceptor,
    script: Arc<Script>,
    heard: Arc<Mutex<Vec<Heard>>>,
) {
    let Ok(mut stream) = acceptor.accept(stream).await else { return };
    while let Some(request) = read_request(&mut stream).await {
        let said = script(&request);
        heard.lock().unwrap().push(request);
        match said {
            Some(text) if stream.write_all(text.as_bytes()).await.is_ok() => {}
            Some(_) | None => return,
        }
    }
}

async fn read_request(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> Option<Heard> {
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
