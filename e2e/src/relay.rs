//! A way to a server that can be slow: what the server answers arrives late, in order and complete.
//! What is behind it is the caller's business.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// Bytes that are passed on at a time.
const CHUNK: usize = 16 * 1024;

/// A relay on loopback. It ends when it is dropped.
#[derive(Debug)]
pub struct Relay {
    address: SocketAddr,
    late_millis: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Relay {
    /// A relay to this address; not late yet.
    ///
    /// # Errors
    /// It cannot listen.
    pub async fn to(server: SocketAddr) -> anyhow::Result<Relay> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("the relay cannot listen")?;
        let address = listener.local_addr()?;
        let late_millis = Arc::new(AtomicU64::new(0));
        let late = Arc::clone(&late_millis);
        let task = tokio::spawn(async move {
            // Its connections end with it.
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                connections.spawn(pass(client, server, Arc::clone(&late)));
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Relay { address, late_millis, task })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on, what the server answers arrives so much later.
    pub fn late(&self, by: Duration) {
        self.late_millis.store(u64::try_from(by.as_millis()).unwrap_or(u64::MAX), Ordering::SeqCst);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn pass(client: TcpStream, server: SocketAddr, late: Arc<AtomicU64>) {
    let Ok(server) = TcpStream::connect(server).await else { return };
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let (put, mut take) = mpsc::unbounded_channel::<(Instant, Vec<u8>)>();
    let asks = async move {
        let _ = tokio::io::copy(&mut from_client, &mut to_server).await;
        let _ = to_server.shutdown().await;
    };
    let reads = async move {
        loop {
            let mut chunk = vec![0; CHUNK];
            let Ok(length @ 1..) = from_server.read(&mut chunk).await else { break };
            chunk.truncate(length);
            let due = Instant::now() + Duration::from_millis(late.load(Ordering::SeqCst));
            if put.send((due, chunk)).is_err() {
                break;
            }
        }
    };
    let answers = async move {
        while let Some((due, chunk)) = take.recv().await {
            tokio::time::sleep_until(due).await;
            if to_client.write_all(&chunk).await.is_err() {
                break;
            }
        }
        let _ = to_client.shutdown().await;
    };
    tokio::join!(asks, reads, answers);
}
