//! A relay before a server on loopback that can fall silent or be slow: what comes back arrives late, or not for the time being, in
//! order and complete. What is said over it is left to both ends.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

/// Bytes carried at a time.
const CHUNK: usize = 16 * 1024;

/// A running relay. Dropping it ends it and its connections.
#[derive(Debug)]
pub struct Relay {
    address: SocketAddr,
    faults: watch::Sender<Faults>,
    accepting: JoinHandle<()>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Faults {
    is_silent: bool,
    late: Duration,
}

impl Relay {
    /// Starts before this server.
    ///
    /// # Errors
    /// There is no port on loopback.
    pub async fn before(server: SocketAddr) -> anyhow::Result<Relay> {
        Self::at(([127, 0, 0, 1], 0).into(), server).await
    }

    /// Starts at this address, within a network of the test's own, before this server.
    ///
    /// # Errors
    /// The address cannot be listened at.
    pub async fn at(address: SocketAddr, server: SocketAddr) -> anyhow::Result<Relay> {
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| format!("the relay cannot listen at {address}"))?;
        let address = listener.local_addr()?;
        let (faults, seen) = watch::channel(Faults::default());
        let accepting = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                connections.spawn(carry(client, server, seen.clone()));
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Relay { address, faults, accepting })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on nothing comes back, until it does again.
    pub fn be_silent(&self, is_silent: bool) {
        self.faults.send_modify(|faults| faults.is_silent = is_silent);
    }

    /// From now on, what the server answers arrives so much later.
    pub fn be_late(&self, by: Duration) {
        self.faults.send_modify(|faults| faults.late = by);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Carries both ways until both ends close.
async fn carry(client: TcpStream, server: SocketAddr, mut faults: watch::Receiver<Faults>) {
    let Ok(server) = TcpStream::connect(server).await else { return };
    let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
        (client.into_split(), server.into_split());
    let (put, mut take) = mpsc::unbounded_channel::<(Instant, Vec<u8>)>();
    let asking = async move {
        let _ = tokio::io::copy(&mut from_client, &mut to_server).await;
        let _ = to_server.shutdown().await;
    };
    let late = faults.clone();
    let hearing = async move {
        let mut chunk = vec![0_u8; CHUNK];
        while let Ok(length @ 1..) = from_server.read(&mut chunk).await {
            let due = Instant::now() + late.borrow().late;
            if put.send((due, chunk[..length].to_vec())).is_err() {
                break;
            }
        }
    };
    let answering = async move {
        while let Some((due, chunk)) = take.recv().await {
            tokio::time::sleep_until(due).await;
            // The relay is gone: so is its silence.
            let _ = faults.wait_for(|faults| !faults.is_silent).await;
            if to_client.write_all(&chunk).await.is_err() {
                break;
            }
        }
        let _ = to_client.shutdown().await;
    };
    tokio::join!(asking, hearing, answering);
}
