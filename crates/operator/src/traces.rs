//! Traces: one for each push, from the Secret's change to the import, sent by OTLP over HTTP where the usual `OTEL_*` variables say.
//! What a trace is made of are the spans of those who work; without an endpoint there are none.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use async_trait::async_trait;
use opentelemetry::trace::{SpanBuilder, TraceContextExt as _, Tracer as _, TracerProvider as _};
use opentelemetry::{KeyValue, global};
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SdkTracerProvider, Tracer};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::time::Instant;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

use crate::report::Subject;

/// Who makes the spans, and what the service is called unless `OTEL_SERVICE_NAME` says otherwise.
const NAME: &str = "keyvault-sync";
/// The last spans are waited for so long at the end.
const FLUSH_LIMIT: Duration = Duration::from_secs(3);
/// The one protocol that is spoken.
const PROTOCOL: &str = "http/protobuf";

/// Where traces go.
pub(crate) struct Traces(SdkTracerProvider);

/// What the environment says.
#[derive(Debug, PartialEq, Eq)]
enum Wish {
    /// Nothing is sent.
    Off,
    /// Something is asked for that is not spoken; the sentence says what.
    Foreign(String),
    /// Sent.
    On,
}

impl Traces {
    /// As the environment says; nothing is sent without an endpoint there. The sentence is for the log, which does not run yet.
    ///
    /// # Errors
    /// Settings that cannot work.
    pub(crate) fn from_environment() -> anyhow::Result<(Option<Self>, Option<String>)> {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.trim().is_empty());
        match wish(variable) {
            Wish::Off => Ok((None, None)),
            Wish::Foreign(sentence) => Ok((None, Some(sentence))),
            Wish::On => Ok((Some(Self::to_endpoint(variable)?), None)),
        }
    }

    /// Endpoint, headers, time limit, sampler, limits and the rest of the resource are read from the environment by the SDK.
    fn to_endpoint(variable: impl Fn(&str) -> Option<String>) -> anyhow::Result<Self> {
        let authorities = variable("OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE")
            .or_else(|| variable("OTEL_EXPORTER_OTLP_CERTIFICATE"))
            .map(|path| {
                std::fs::read(&path).with_context(|| format!("OTEL_EXPORTER_OTLP_CERTIFICATE {path}"))
            })
            .transpose()?;
        let sender =
            Sender { client: client(authorities.as_deref())?, runtime: tokio::runtime::Handle::current() };
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(sender)
            .with_protocol(Protocol::HttpBinary)
            .build()
            .context("traces cannot be sent as the OTEL_* variables say")?;
        let mut resource = Resource::builder();
        let names_itself =
            variable("OTEL_RESOURCE_ATTRIBUTES").is_some_and(|all| all.contains("service.name="));
        if variable("OTEL_SERVICE_NAME").is_none() && !names_itself {
            resource = resource.with_service_name(NAME);
        }
        let resource =
            resource.with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION"))).build();
        let provider =
            SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build();
        global::set_tracer_provider(provider.clone());
        Ok(Self(provider))
    }

    /// What makes spans of those of the log.
    pub(crate) fn tracer(&self) -> Tracer {
        self.0.tracer(NAME)
    }

    /// Sends what is left.
    pub(crate) async fn flush(self) {
        let ending = tokio::task::spawn_blocking(move || self.0.shutdown_with_timeout(FLUSH_LIMIT));
        match tokio::time::timeout(FLUSH_LIMIT, ending).await {
            Ok(Ok(Ok(()))) => {}
            _ => tracing::warn!("the last traces could not be sent"),
        }
    }
}

fn wish(variable: impl Fn(&str) -> Option<String>) -> Wish {
    let is = |name: &str, value: &str| variable(name).is_some_and(|found| found.eq_ignore_ascii_case(value));
    let endpoint =
        variable("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT").or_else(|| variable("OTEL_EXPORTER_OTLP_ENDPOINT"));
    if endpoint.is_none() || is("OTEL_SDK_DISABLED", "true") || is("OTEL_TRACES_EXPORTER", "none") {
        return Wish::Off;
    }
    let protocol =
        variable("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL").or_else(|| variable("OTEL_EXPORTER_OTLP_PROTOCOL"));
    match protocol {
        Some(other) if other != PROTOCOL => Wish::Foreign(format!(
            "no traces are sent: OTEL_EXPORTER_OTLP_PROTOCOL is {other:?}, and only {PROTOCOL} is spoken (port 4318 of most collectors)"
        )),
        _ => Wish::On,
    }
}

/// Sends for the SDK, whose thread runs no tasks itself.
#[derive(Debug)]
struct Sender {
    client: reqwest::Client,
    runtime: tokio::runtime::Handle,
}

#[async_trait]
impl HttpClient for Sender {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let request = reqwest::Request::try_from(request)?;
        let sent = self.client.execute(request);
        let status = self.runtime.spawn(async move { sent.await.map(|answer| answer.status()) }).await?;
        // What the collector says beside its status is of no use to anybody here.
        Ok(Response::builder().status(status.map_err(reqwest::Error::without_url)?).body(Bytes::new())?)
    }
}

/// With the authorities of the Web, and those of a PEM bundle.
fn client(authorities: Option<&[u8]>) -> anyhow::Result<reqwest::Client> {
    let mut roots = rustls::RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    for certificate in authorities.into_iter().flat_map(CertificateDer::pem_slice_iter) {
        roots.add(certificate.context("OTEL_EXPORTER_OTLP_CERTIFICATE is no PEM bundle")?)?;
    }
    let tls =
        rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
    let client =
        reqwest::Client::builder().tls_backend_preconfigured(tls).redirect(reqwest::redirect::Policy::none());
    client.build().context("no HTTP client for traces")
}

/// The root of a trace; it ends when this is dropped.
#[derive(Default)]
pub(crate) struct Root(#[allow(dead_code, reason = "held, never read")] opentelemetry::Context);

/// The span of a round that does something, and its root, which began when the Secret's change was `seen`.
pub(crate) fn round(subject: Subject<'_>, seen: Option<Instant>) -> (Span, Root) {
    let span = tracing::info_span!("round", certificate = subject.certificate, vault = subject.vault);
    if span.is_disabled() {
        return (span, Root::default());
    }
    let now = SystemTime::now();
    let began = seen.and_then(|seen| now.checked_sub(seen.elapsed())).unwrap_or(now);
    let attributes = [
        ("keyvault_sync.kind", subject.kind),
        ("keyvault_sync.namespace", subject.namespace),
        ("keyvault_sync.name", subject.name),
        ("keyvault_sync.certificate", subject.certificate),
        ("keyvault_sync.vault", subject.vault),
    ];
    let builder = SpanBuilder::from_name(if seen.is_some() { "push" } else { "look" })
        .with_start_time(began)
        .with_attributes(attributes.map(|(key, value)| KeyValue::new(key, value.to_owned())));
    let root = global::tracer(NAME).build_with_context(builder, &opentelemetry::Context::new());
    let root = opentelemetry::Context::new().with_span(root);
    // It is no parent only where nothing is traced.
    let _ = span.set_parent(root.clone());
    (span, Root(root))
}

/// The span of one call of a vault; `observed` fills in how it went.
pub(crate) fn vault_call(operation: &'static str, vault: &str) -> Span {
    tracing::info_span!(
        "vault",
        otel.name = format!("vault {operation}"),
        otel.kind = "client",
        operation,
        server.address = vault,
        outcome = tracing::field::Empty,
        http.response.status_code = tracing::field::Empty,
        az.service_request_id = tracing::field::Empty,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traces_are_sent_only_to_an_endpoint_and_only_in_the_protocol_that_is_spoken() {
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318");
        for (variables, expected) in [
            (&[][..], "off"),
            (&[endpoint], "on"),
            (&[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://collector:4318/v1/traces")], "on"),
            (&[endpoint, ("OTEL_SDK_DISABLED", "true")], "off"),
            (&[endpoint, ("OTEL_TRACES_EXPORTER", "none")], "off"),
            (&[endpoint, ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")], "on"),
            (&[endpoint, ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")], "foreign"),
            (
                &[
                    endpoint,
                    ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
                    ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", PROTOCOL),
                ],
                "on",
            ),
        ] {
            let found = wish(|name| {
                variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
            });
            let word = match found {
                Wish::Off => "off",
                Wish::Foreign(_) => "foreign",
                Wish::On => "on",
            };
            assert_eq!(word, expected, "{variables:?}");
        }
    }
}
