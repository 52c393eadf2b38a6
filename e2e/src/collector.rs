//! A receiver of traces on loopback: OTLP over HTTP, kept in memory as it came.
//! Who sends them is left to the tests.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, bail};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// The path below the endpoint.
const PATH: &str = "/v1/traces";

/// A running receiver. Dropping it ends it.
#[derive(Debug)]
pub struct Collector {
    endpoint: String,
    received: Arc<Mutex<Vec<ExportTraceServiceRequest>>>,
    serving: JoinHandle<()>,
}

impl Collector {
    /// Starts.
    ///
    /// # Errors
    /// There is no port on loopback.
    pub async fn start() -> anyhow::Result<Collector> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let endpoint = format!("http://{}", listener.local_addr()?);
        let received = Arc::<Mutex<Vec<_>>>::default();
        let kept = Arc::clone(&received);
        let serving = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let kept = Arc::clone(&kept);
                tokio::spawn(async move {
                    // Whoever sends nonsense is not listened to any more.
                    let _ = serve(stream, &kept).await;
                });
            }
        });
        Ok(Collector { endpoint, received, serving })
    }

    /// What `OTEL_EXPORTER_OTLP_ENDPOINT` has to say.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// All spans so far.
    pub fn spans(&self) -> Vec<Span> {
        let received = self.received.lock().unwrap_or_else(PoisonError::into_inner);
        let resources = received.iter().flat_map(|request| &request.resource_spans);
        resources.flat_map(|resource| &resource.scope_spans).flat_map(|scope| scope.spans.clone()).collect()
    }

    /// Names of the services that sent them.
    pub fn services(&self) -> Vec<String> {
        let received = self.received.lock().unwrap_or_else(PoisonError::into_inner);
        let resources = received.iter().flat_map(|request| &request.resource_spans);
        let attributes = resources.filter_map(|spans| spans.resource.as_ref()).flat_map(|it| &it.attributes);
        let named = attributes.filter(|attribute| attribute.key == "service.name");
        named.filter_map(|attribute| text(attribute.value.as_ref()?.value.as_ref()?)).collect()
    }

    /// Everything received, as one text: for a search of what must not be in it.
    pub fn text(&self) -> String {
        format!("{:?}", self.received.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// The value of a span's attribute, if it is a text or a number.
pub fn attribute(span: &Span, key: &str) -> Option<String> {
    let attribute = span.attributes.iter().find(|attribute| attribute.key == key)?;
    text(attribute.value.as_ref()?.value.as_ref()?)
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::StringValue(text) => Some(text.clone()),
        Value::IntValue(number) => Some(number.to_string()),
        _ => None,
    }
}

/// Requests of one connection, one after the other.
async fn serve(mut stream: TcpStream, kept: &Mutex<Vec<ExportTraceServiceRequest>>) -> anyhow::Result<()> {
    let mut bytes = Vec::new();
    loop {
        let end = loop {
            if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
                break at;
            }
            if stream.read_buf(&mut bytes).await? == 0 {
                return Ok(());
            }
        };
        let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
        let length =
            head.lines().find_map(|line| line.strip_prefix("content-length:")).context("no length")?;
        let length: usize = length.trim().parse()?;
        while bytes.len() < end + 4 + length {
            if stream.read_buf(&mut bytes).await? == 0 {
                bail!("a body that ends early");
            }
        }
        let body: Vec<u8> = bytes.drain(..end + 4 + length).skip(end + 4).collect();
        let is_ours = head.starts_with(&format!("post {PATH} "));
        if is_ours {
            let request = ExportTraceServiceRequest::decode(body.as_slice())?;
            kept.lock().unwrap_or_else(PoisonError::into_inner).push(request);
        }
        let status = if is_ours { "200 OK" } else { "404 Not Found" };
        stream.write_all(format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n").as_bytes()).await?;
    }
}
