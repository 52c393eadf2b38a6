//! One request over the shared reqwest client, to one host: https only, no other host, a bounded answer, and names for
//! the ways in which none comes. Which host, and what an answer means, is left to the senders in `transport`.

use std::error::Error as StdError;
use std::net::SocketAddr;

use azure_core::http::headers::Headers;
use azure_core::http::{Body, RawResponse, Request, Url};
use keyvault_sync_core::names::quote;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::{AUTHORIZATION, HeaderValue};

/// Largest answer that is read, bytes. A certificate with its policy is below 60 kB, a page of 25 below 100 kB; what is
/// larger is not Key Vault, and must not fill the operator's memory.
pub(crate) const ANSWER_MAX: usize = 1024 * 1024;

/// Why a request has no answer. The texts are for people: hosts and causes, never a URL's query, a header or a body.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoAnswer {
    /// The request was for another host than the one it may go to; it was not sent.
    #[error("{0} is not the host this request may go to")]
    ForeignHost(String),
    /// The request was not for an https address; it was not sent.
    #[error("the address is not an https one")]
    NotHttps,
    /// The right to write had ended, or would have before the write; it was not sent.
    #[error("this operator may not write now: it does not lead, or not for long enough")]
    Fenced,
    /// The host's name does not resolve.
    #[error("the name cannot be resolved ({0})")]
    Dns(String),
    /// No connection.
    #[error("no connection can be made ({0})")]
    Connect(String),
    /// The TLS handshake failed.
    #[error("the TLS certificate is not accepted or the handshake failed ({0})")]
    Tls(String),
    /// Connected, but no complete answer in time.
    #[error("no complete answer came in time")]
    Timeout,
    /// The connection was lost after the request was begun.
    #[error("the connection was lost before the answer was complete ({0})")]
    Lost(String),
    /// The answer is larger than [`ANSWER_MAX`].
    #[error("the answer is larger than {ANSWER_MAX} bytes")]
    TooLarge,
}

impl NoAnswer {
    /// Whether the request certainly never reached the server.
    pub(crate) fn is_unsent(&self) -> bool {
        match self {
            NoAnswer::ForeignHost(_)
            | NoAnswer::NotHttps
            | NoAnswer::Fenced
            | NoAnswer::Dns(_)
            | NoAnswer::Connect(_)
            | NoAnswer::Tls(_) => true,
            NoAnswer::Timeout | NoAnswer::Lost(_) | NoAnswer::TooLarge => false,
        }
    }
}

/// Refuses a URL that is not `https://<host>` on the default port without a user part.
pub(crate) fn check_host(url: &Url, host: &str) -> Result<(), NoAnswer> {
    let is_this_host = url.scheme() == "https"
        && url.host_str() == Some(host)
        && url.port().is_none()
        && url.username().is_empty()
        && url.password().is_none();
    if is_this_host { Ok(()) } else { Err(NoAnswer::ForeignHost(quote(url.host_str().unwrap_or_default()))) }
}

/// Sends a request and reads the whole answer.
pub(crate) async fn exchange(client: &reqwest::Client, request: &Request) -> Result<RawResponse, NoAnswer> {
    let mut response =
        client.execute(to_reqwest(client, request)?).await.map_err(|error| no_answer(&error))?;
    if response.content_length().is_some_and(|length| length > ANSWER_MAX as u64) {
        return Err(NoAnswer::TooLarge);
    }
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| no_answer(&error))? {
        if body.len() + chunk.len() > ANSWER_MAX {
            return Err(NoAnswer::TooLarge);
        }
        body.extend_from_slice(&chunk);
    }
    let mut headers = Headers::new();
    for (name, value) in response.headers() {
        if let Ok(value) = value.to_str() {
            headers.insert(name.as_str().to_owned(), value.to_owned());
        }
    }
    Ok(RawResponse::from_bytes(response.status().as_u16().into(), headers, body))
}

fn to_reqwest(client: &reqwest::Client, request: &Request) -> Result<reqwest::Request, NoAnswer> {
    let unsendable = |()| NoAnswer::Connect("the request cannot be written as HTTP".into());
    let method =
        reqwest::Method::from_bytes(request.method().as_str().as_bytes()).map_err(|_| unsendable(()))?;
    let mut builder = client.request(method, request.url().clone());
    for (name, value) in request.headers().iter() {
        let mut header = HeaderValue::from_str(value.as_str()).map_err(|_| unsendable(()))?;
        header.set_sensitive(name.as_str().eq_ignore_ascii_case(AUTHORIZATION.as_str()));
        builder = builder.header(name.as_str(), header);
    }
    match request.body() {
        Body::Bytes(bytes) => builder.body(bytes.clone()).build().map_err(|_| unsendable(())),
        // None of the calls made here streams.
        Body::SeekableStream(_) => Err(unsendable(())),
    }
}

/// Sorts reqwest's error by what failed.
fn no_answer(error: &reqwest::Error) -> NoAnswer {
    let cause = innermost(error);
    if find::<DnsFailure>(error).is_some() {
        NoAnswer::Dns(cause)
    } else if error.is_connect() && find::<rustls::Error>(error).is_some() {
        NoAnswer::Tls(cause)
    } else if error.is_connect() && error.is_timeout() {
        NoAnswer::Connect("not within the time limit".into())
    } else if error.is_connect() {
        NoAnswer::Connect(cause)
    } else if error.is_timeout() {
        NoAnswer::Timeout
    } else {
        NoAnswer::Lost(cause)
    }
}

/// The last cause in the chain, quoted. reqwest's own text is left out: it repeats the URL.
fn innermost(error: &reqwest::Error) -> String {
    quote(&causes(error).last().map(ToString::to_string).unwrap_or_default())
}

/// The first error of type `T` among `error` and its causes.
pub(crate) fn find<'a, T: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a T> {
    error.downcast_ref::<T>().or_else(|| causes(error).find_map(|cause| cause.downcast_ref::<T>()))
}

/// The causes of an error, outermost first. `io::Error` hides the error it was made of from `source()`.
fn causes<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    /// A chain of causes has no business to be longer.
    const CAUSES_MAX: usize = 32;
    std::iter::successors(Some(error), |&error| {
        match error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
            Some(inner) => Some(inner as &(dyn StdError + 'static)),
            None => error.source(),
        }
    })
    .skip(1)
    .take(CAUSES_MAX)
}

/// A name that does not resolve.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct DnsFailure(String);

/// Turns host names into addresses: the system's, or one emulator for every name.
pub(crate) struct Resolver {
    /// Where every host is, if set. reqwest takes the port of the address, too, where the URL has none.
    pub(crate) emulator_address: Option<SocketAddr>,
}

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let emulator_address = self.emulator_address;
        Box::pin(async move {
            if let Some(address) = emulator_address {
                return Ok(Box::new(std::iter::once(address)) as Addrs);
            }
            let found = tokio::net::lookup_host((name.as_str(), 0)).await;
            let addresses: Vec<_> = found.map_err(|error| DnsFailure(error.to_string()))?.collect();
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_goes_to_its_host_over_https_or_not_at_all() {
        let host = "contoso.vault.azure.net";
        for (url, allowed) in [
            ("https://contoso.vault.azure.net/certificates/a/?api-version=1", true),
            ("https://CONTOSO.vault.azure.net/", true),
            ("https://contoso.vault.azure.net:443/", true),
            ("http://contoso.vault.azure.net/", false),
            ("https://contoso.vault.azure.net:8443/", false),
            ("https://user@contoso.vault.azure.net/", false),
            ("https://:password@contoso.vault.azure.net/", false),
            ("https://fabrikam.vault.azure.net/", false),
            ("https://contoso.vault.azure.net.example.com/", false),
            ("https://contoso.vault.azure.net./", false),
            ("https://127.0.0.1/", false),
        ] {
            let url: Url = url.parse().unwrap();
            assert_eq!(check_host(&url, host).is_ok(), allowed, "{url}");
        }
    }
}
