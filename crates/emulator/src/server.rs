//! Connections: TCP on loopback, TLS except for the metadata service, HTTP/1.1 and HTTP/2; and resets felt as such.
//! Leaves every request to service.rs.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use socket2::Socket;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::answer::Body;
use crate::service::{Door, Reset, Service};

/// How long a client may take over the TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Pause after an accept that failed (no file descriptors left, say), instead of a busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Binds `listen`, which must be a loopback address: the emulator's data and tokens are for this machine alone.
pub(crate) async fn bind(listen: SocketAddr) -> io::Result<TcpListener> {
    if !listen.ip().is_loopback() {
        let message = format!(
            "{listen} is no loopback address (127.0.0.0/8 or ::1), and the emulator listens on no other"
        );
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    TcpListener::bind(listen).await
}

/// What is served at a listener.
#[derive(Clone)]
pub(crate) enum Entrance {
    /// Vaults and Entra ID, told apart by host name.
    Azure(TlsAcceptor),
    /// The node's instance metadata service, which speaks plain HTTP in Azure too.
    Metadata,
}

/// Serves until `stop` says so or is dropped; then every connection is closed.
pub(crate) async fn serve(
    listener: TcpListener,
    entrance: Entrance,
    service: Arc<Service>,
    mut stop: watch::Receiver<bool>,
) {
    let mut connections = JoinSet::new();
    let stopping = stop.clone();
    loop {
        tokio::select! {
            _ = stopped(&mut stop) => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(connection(stream, entrance.clone(), service.clone(), stopping.clone()));
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    connections.shutdown().await;
}

/// Returns once the emulator is to stop.
pub(crate) async fn stopped(stop: &mut watch::Receiver<bool>) {
    // An error means that the last handle was dropped: the same thing.
    let _ = stop.wait_for(|stop| *stop).await;
}

async fn connection(
    stream: TcpStream,
    entrance: Entrance,
    service: Arc<Service>,
    stop: watch::Receiver<bool>,
) {
    let _ = stream.set_nodelay(true);
    // A second descriptor of the same socket: the stream itself goes into TLS, and a reset is a matter of the socket.
    let Ok(socket) = socket2::SockRef::from(&stream).try_clone() else { return };
    match entrance {
        Entrance::Azure(acceptor) => {
            let handshake = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream));
            let Ok(Ok(stream)) = handshake.await else { return };
            converse(stream, &socket, Door::Azure, service, stop).await;
        }
        Entrance::Metadata => converse(stream, &socket, Door::Metadata, service, stop).await,
    }
}

async fn converse(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    socket: &Socket,
    door: Door,
    service: Arc<Service>,
    stop: watch::Receiver<bool>,
) {
    let reset = Arc::new(Notify::new());
    let on_request = {
        let reset = reset.clone();
        service_fn(move |request| one(request, door, service.clone(), stop.clone(), reset.clone()))
    };
    let builder = auto::Builder::new(TokioExecutor::new());
    tokio::select! {
        served = builder.serve_connection(TokioIo::new(stream), on_request) => {
            if let Err(error) = served {
                tracing::debug!(%error, "a connection ended");
            }
        }
        () = reset.notified() => {
            // Closing with a linger of zero sends RST (socket(7), SO_LINGER).
            let _ = socket.set_linger(Some(Duration::ZERO));
        }
    }
}

/// One request, in a task of its own: as with the real service, it is carried out also if the caller does not wait.
async fn one(
    request: Request<Incoming>,
    door: Door,
    service: Arc<Service>,
    mut stop: watch::Receiver<bool>,
    reset: Arc<Notify>,
) -> Result<Response<Body>, Reset> {
    let call = service.receive(request, door).await;
    let carried_out = tokio::spawn(async move {
        tokio::select! {
            _ = stopped(&mut stop) => Err(Reset),
            answer = service.answer(call) => answer,
        }
    });
    let answer = carried_out.await.unwrap_or(Err(Reset));
    if answer.is_err() {
        reset.notify_one();
        // The connection is closed by whoever was notified; no answer must get ahead of that.
        std::future::pending::<()>().await;
    }
    answer
}
