//! A name server that knows a few names: so that programs in pods find what stands in for Azure under Azure's own names. Everything
//! else is no name to it.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::Context;
use hickory_proto::op::{Message, MessageType, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{RData, Record, RecordType};
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

/// Answers of DNS over UDP fit into this.
const BYTES_MAX: usize = 4096;
/// Nobody keeps them longer than a test.
const TTL_SECONDS: u32 = 1;

/// A running name server. Dropping it ends it.
#[derive(Debug)]
pub struct NameServer {
    serving: JoinHandle<()>,
}

impl NameServer {
    /// Serves at `listen`: these names, and all below those that begin with a dot, have this address.
    ///
    /// # Errors
    /// The address cannot be listened at.
    pub async fn start(listen: SocketAddr, names: &[&str], address: Ipv4Addr) -> anyhow::Result<NameServer> {
        let socket = UdpSocket::bind(listen).await.with_context(|| format!("no name server at {listen}"))?;
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let serving = tokio::spawn(async move {
            let mut bytes = [0; BYTES_MAX];
            while let Ok((length, from)) = socket.recv_from(&mut bytes).await {
                let answer = Message::from_vec(&bytes[..length])
                    .ok()
                    .and_then(|question| answer(&question, &names, address).to_vec().ok());
                if let Some(answer) = answer {
                    socket.send_to(&answer, from).await.ok();
                }
            }
        });
        Ok(NameServer { serving })
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

fn answer(question: &Message, names: &[String], address: Ipv4Addr) -> Message {
    let mut answer = question.clone();
    answer.metadata.message_type = MessageType::Response;
    answer.metadata.authoritative = true;
    for query in &question.queries {
        let asked = query.name().to_string().trim_end_matches('.').to_ascii_lowercase();
        let is_known = |name: &String| match name.starts_with('.') {
            true => asked.ends_with(name.as_str()),
            false => asked == *name,
        };
        if !names.iter().any(is_known) {
            answer.metadata.response_code = ResponseCode::NXDomain;
        } else if query.query_type() == RecordType::A {
            answer.add_answer(Record::from_rdata(query.name().clone(), TTL_SECONDS, RData::A(A(address))));
        }
    }
    answer
}
