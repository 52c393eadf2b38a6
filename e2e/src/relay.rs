//! A relay before a server on loopback that can fall silent: connections stay open and are taken, and nothing comes back.
//! What is said over them is left to both ends.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Bytes carried at a time.
const CHUNK: usize = 16 * 1024;

/// A running relay. Dropping it ends it, and its connections when they say something next.
#[derive(Debug)]
pub struct Relay {
    address: SocketAddr,
    is_silent: watch::Sender<bool>,
    accepting: JoinHandle<()>,
}

impl Relay {
    /// Starts before this server.
    ///
    /// # Errors
    /// There is no port on loopback.
    pub async fn before(server: SocketAddr) -> anyhow::Result<Relay> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let (is_silent, silence) = watch::channel(false);
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(carry(client, server, silence.clone()));
            }
        });
        Ok(Relay { address, is_silent, accepting })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on nothing comes back, until it does again.
    pub fn be_silent(&self, is_silent: bool) {
        self.is_silent.send_replace(is_silent);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Carries both ways until one end closes.
async fn carry(
    client: TcpStream,
    server: SocketAddr,
    mut silence: watch::Receiver<bool>,
) -> std::io::Result<()> {
    let server = TcpStream::connect(server).await?;
    let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
        (client.into_split(), server.into_split());
    let asking = async move {
        tokio::io::copy(&mut from_client, &mut to_server).await?;
        to_server.shutdown().await
    };
    let answering = async move {
        let mut chunk = vec![0_u8; CHUNK];
        loop {
            let length = from_server.read(&mut chunk).await?;
            // The relay is gone: so is its silence.
            let _ = silence.wait_for(|is_silent| !is_silent).await;
            if length == 0 {
                return to_client.shutdown().await;
            }
            to_client.write_all(&chunk[..length]).await?;
        }
    };
    tokio::try_join!(asking, answering).map(drop)
}
