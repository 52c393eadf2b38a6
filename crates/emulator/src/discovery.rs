//! What Entra ID tells of itself: which hosts are one cloud, and where a tenant's endpoints are.
//! Leaves the issue of tokens to entra.rs.

use serde_json::{Value, json};

use crate::cloud::{CLOUDS, Cloud};
use crate::entra::Directory;
use crate::error::TokenError;

/// Names that stand for every tenant of a kind.
const COMMON_TENANTS: [&str; 3] = ["common", "organizations", "consumers"];

/// `/{tenant}/v2.0/.well-known/openid-configuration`, asked for at `host`: the endpoints are on the host that was asked,
/// the issuer is one and the same for all hosts of a cloud.
pub(crate) fn openid_configuration(
    directory: &Directory,
    cloud: &Cloud,
    host: &str,
    tenant: &str,
) -> Result<Value, TokenError> {
    let tenant = tenant.to_ascii_lowercase();
    let issuer = if COMMON_TENANTS.contains(&tenant.as_str()) {
        cloud.issuer_v2("{tenantid}")
    } else {
        directory.require_tenant(&tenant, "invalid_tenant")?;
        cloud.issuer_v2(&tenant)
    };
    let base = format!("https://{host}/{tenant}");
    Ok(json!({
        "issuer": issuer,
        "token_endpoint": format!("{base}/oauth2/v2.0/token"),
        "authorization_endpoint": format!("{base}/oauth2/v2.0/authorize"),
        "device_authorization_endpoint": format!("{base}/oauth2/v2.0/devicecode"),
        "end_session_endpoint": format!("{base}/oauth2/v2.0/logout"),
        "jwks_uri": format!("{base}/discovery/v2.0/keys"),
        "token_endpoint_auth_methods_supported": ["client_secret_post", "private_key_jwt"],
        "id_token_signing_alg_values_supported": ["RS256"],
        "response_types_supported": ["code"],
        "scopes_supported": ["openid", "profile", "email", "offline_access"],
        "subject_types_supported": ["pairwise"],
        "cloud_instance_name": cloud.preferred_host().trim_start_matches("login."),
    }))
}

/// `/common/discovery/instance`, asked for at `host`: which hosts are one and the same cloud, and where the tenant of
/// `authorization_endpoint` (none: `common` of the host that was asked) is described. An unknown authority is refused:
/// that is how clients find out whether they may trust one.
pub(crate) fn instance(host: &str, authorization_endpoint: Option<&str>) -> Result<Value, TokenError> {
    let (authority, tenant) = match authorization_endpoint {
        None => (host.to_owned(), "common"),
        Some(url) => authority_and_tenant(url)
            .ok_or_else(|| TokenError::request("invalid_instance", 50049, "Unknown or invalid instance."))?,
    };
    let metadata: Vec<Value> = CLOUDS
        .iter()
        .map(|cloud| {
            json!({
                "preferred_network": cloud.preferred_host(),
                "preferred_cache": cloud.cache_host,
                "aliases": cloud.hosts,
            })
        })
        .collect();
    Ok(json!({
        "tenant_discovery_endpoint": format!("https://{authority}/{tenant}/v2.0/.well-known/openid-configuration"),
        "api-version": "1.1",
        "metadata": metadata,
    }))
}

/// Host and tenant of `https://{host}/{tenant}/oauth2/…`, if the host is an Entra ID's.
fn authority_and_tenant(url: &str) -> Option<(String, &str)> {
    let (host, path) = url.strip_prefix("https://")?.split_once('/')?;
    let host = host.to_ascii_lowercase();
    let tenant = path.split('/').next().filter(|tenant| !tenant.is_empty())?;
    Cloud::of_authority(&host).map(|_| (host, tenant))
}
