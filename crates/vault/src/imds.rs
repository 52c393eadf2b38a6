//! Tokens of the node's managed identities: one request to the instance metadata service (IMDS), and its answer judged.
//! Remembering token and failure is left to `credential`.
//!
//! Not the SDK's ManagedIdentityCredential: which service that asks is up to environment variables (App Service, Azure Arc),
//! it puts one of them into a header, and it repeats a request for 72 s.
//! Protocol: <https://learn.microsoft.com/entra/identity/managed-identities-azure-resources/how-to-use-vm-token>.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use azure_core::credentials::AccessToken;
use azure_core::http::{Method, RawResponse, Request, Url};
use azure_core::time::OffsetDateTime;
use keyvault_sync_core::names::Cloud;
use serde::Deserialize;

use crate::network;
use crate::token_failure::{self, TokenFailure, TokenFailureCause};

/// The service's address on every Azure VM; it is never routed.
const ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)), 80);
const PATH: &str = "metadata/identity/oauth2/token";
const API_VERSION: &str = "2018-02-01";
/// The whole request. It is the same machine; but the service asks Entra ID.
pub(crate) const TIME_LIMIT: Duration = Duration::from_secs(6);
/// The connection: where pods are kept from the service, packets are often dropped.
pub(crate) const CONNECT_TIME_LIMIT: Duration = Duration::from_secs(2);

/// The way to the service.
#[derive(Clone, Debug)]
pub(crate) struct Imds {
    client: reqwest::Client,
    address: SocketAddr,
}

impl Imds {
    /// The service at `endpoint`, or Azure's; `None` for an endpoint that is neither Azure's nor loopback. `client` must go there
    /// without a proxy.
    pub(crate) fn new(endpoint: Option<&str>, client: reqwest::Client) -> Option<Self> {
        let address = endpoint.map_or(Some(ADDRESS), parse_endpoint)?;
        Some(Self { client, address })
    }

    /// What messages call it: its address.
    pub(crate) fn as_text(&self) -> String {
        if self.address == ADDRESS { ADDRESS.ip().to_string() } else { self.address.to_string() }
    }

    /// A token of an identity for the vaults of a cloud.
    pub(crate) async fn token(
        &self,
        client_id: Option<&str>,
        cloud: Cloud,
    ) -> Result<AccessToken, TokenFailure> {
        let request = self.request(client_id, cloud)?;
        let answer = network::exchange(&self.client, &request).await?;
        judge(&answer, SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
    }

    fn request(&self, client_id: Option<&str>, cloud: Cloud) -> Result<Request, TokenFailure> {
        let mut url: Url =
            format!("http://{}/{PATH}", self.address).parse().map_err(|_| TokenFailureCause::Unknown)?;
        let scope = cloud.vault_scope();
        let resource = scope.strip_suffix("/.default").unwrap_or(scope);
        url.query_pairs_mut().append_pair("api-version", API_VERSION).append_pair("resource", resource);
        if let Some(client_id) = client_id {
            url.query_pairs_mut().append_pair("client_id", client_id);
        }
        let mut request = Request::new(url, Method::Get);
        // Without it the service refuses: nobody can be made to ask by a link or a redirect.
        request.insert_header("metadata", "true");
        Ok(request)
    }
}

/// `http://169.254.169.254` or `http://<loopback address>[:port]`: a token must not be asked for anywhere else, and nowhere else
/// is plain http safe.
fn parse_endpoint(text: &str) -> Option<SocketAddr> {
    let rest = text.strip_prefix("http://")?;
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    let bare = authority.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(authority);
    let address = authority
        .parse::<SocketAddr>()
        .or_else(|_| bare.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, ADDRESS.port())))
        .ok()?;
    (address == ADDRESS || address.ip().is_loopback()).then_some(address)
}

/// A token's answer. The service writes numbers as strings.
#[derive(Deserialize)]
struct Body {
    access_token: String,
    #[serde(default)]
    expires_on: Option<Number>,
    #[serde(default)]
    expires_in: Option<Number>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Number {
    Number(i64),
    Text(String),
}

impl Number {
    fn value(&self) -> Option<i64> {
        match self {
            Number::Number(number) => Some(*number),
            Number::Text(text) => text.parse().ok(),
        }
    }
}

/// The token in an answer, or what the answer is. `now` is the time since 1970.
fn judge(answer: &RawResponse, now: Duration) -> Result<AccessToken, TokenFailure> {
    let status = u16::from(answer.status());
    if status != 200 {
        return Err(TokenFailure::refused(status, answer));
    }
    let no_token = || TokenFailure::from(TokenFailureCause::NotAToken);
    let now = i64::try_from(now.as_secs()).map_err(|_| no_token())?;
    let body: Body = serde_json::from_slice(answer.body()).map_err(|_| no_token())?;
    // The service repeats a token that it has; of the two only `expires_on` is the same for each.
    let expires_on = body.expires_on.as_ref().and_then(Number::value);
    let lifetime = match (expires_on, body.expires_in.as_ref().and_then(Number::value)) {
        (Some(expires_on), _) => expires_on.checked_sub(now),
        (None, Some(expires_in)) => Some(expires_in),
        (None, None) => None,
    };
    let lifetime = lifetime.filter(|_| token_failure::is_sendable(&body.access_token));
    let lifetime = lifetime.filter(|lifetime| token_failure::is_sane(*lifetime)).ok_or_else(no_token)?;
    let expires_on = OffsetDateTime::from_unix_timestamp(now + lifetime).map_err(|_| no_token())?;
    Ok(AccessToken::new(body.access_token, expires_on))
}

#[cfg(test)]
mod tests {
    use azure_core::http::headers::Headers;

    use super::*;

    #[test]
    fn only_the_service_itself_or_a_local_stand_in_is_asked() {
        for (text, address) in [
            ("http://169.254.169.254", Some("169.254.169.254:80")),
            ("http://169.254.169.254/", Some("169.254.169.254:80")),
            ("http://169.254.169.254:80", Some("169.254.169.254:80")),
            ("http://127.0.0.1:8080", Some("127.0.0.1:8080")),
            ("http://[::1]:8080", Some("[::1]:8080")),
            ("http://[::1]", Some("[::1]:80")),
            ("http://169.254.169.254:8080", None),
            ("http://169.254.169.253", None),
            ("http://168.63.129.16", None),
            ("http://10.0.0.1", None),
            ("https://169.254.169.254", None),
            ("169.254.169.254", None),
            ("http://localhost:8080", None),
            ("http://127.0.0.1.example.test", None),
            ("http://user@127.0.0.1", None),
            ("http://127.0.0.1/metadata", None),
            ("http://127.0.0.1?x", None),
            ("http://[::ffff:127.0.0.1]", None),
            ("", None),
        ] {
            let parsed = parse_endpoint(text).map(|address| address.to_string());
            assert_eq!(parsed.as_deref(), address, "{text}");
        }
    }

    #[test]
    fn a_request_names_audience_and_identity() {
        let imds = Imds::new(None, reqwest::Client::new()).unwrap();
        for (client_id, cloud, url) in [
            (
                None,
                Cloud::Public,
                "http://169.254.169.254/metadata/identity/oauth2/token?api-version=2018-02-01&\
                 resource=https%3A%2F%2Fvault.azure.net",
            ),
            (
                Some("a&b"),
                Cloud::China,
                "http://169.254.169.254/metadata/identity/oauth2/token?api-version=2018-02-01&\
                 resource=https%3A%2F%2Fvault.azure.cn&client_id=a%26b",
            ),
        ] {
            let request = imds.request(client_id, cloud).unwrap();
            assert_eq!(request.url().as_str(), url);
            let headers: Vec<_> =
                request.headers().iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            assert_eq!(headers, [("metadata", "true")]);
        }
    }

    #[test]
    fn only_a_token_with_a_sane_life_time_passes() {
        let judge = |body: &str| {
            let answer = RawResponse::from_bytes(200.into(), Headers::new(), body.to_owned());
            judge(&answer, Duration::from_secs(1_000))
        };
        for (body, expires_on) in [
            (r#"{"access_token":"t","expires_in":"3599","expires_on":"4599","token_type":"Bearer"}"#, 4599),
            (r#"{"access_token":"t","expires_on":4599}"#, 4599),
            (r#"{"access_token":"t","expires_in":"100"}"#, 1_100),
            (r#"{"access_token":"t","expires_in":"100","expires_on":"soon"}"#, 1_100),
        ] {
            assert_eq!(judge(body).unwrap().expires_on.unix_timestamp(), expires_on, "{body}");
        }
        for body in [
            "",
            "<html>sign in</html>",
            "{}",
            r#"{"access_token":"t"}"#,
            r#"{"access_token":"","expires_in":"100"}"#,
            r#"{"access_token":"a\nb","expires_in":"100"}"#,
            r#"{"access_token":"t","expires_on":"999"}"#,
            r#"{"access_token":"t","expires_on":"9223372036854775807"}"#,
            r#"{"access_token":"t","expires_on":"-9223372036854775808"}"#,
            r#"{"access_token":"t","expires_in":9223372036854775807}"#,
            r#"{"access_token":"t","expires_in":{}}"#,
        ] {
            let failure = judge(body).unwrap_err();
            assert_eq!(failure.cause, TokenFailureCause::NotAToken, "{body}");
        }
    }
}
