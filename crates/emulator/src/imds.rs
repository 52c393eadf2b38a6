//! The node's instance metadata service, as far as it hands out tokens of the managed identities assigned to the node
//! ("Use managed identities on a virtual machine to acquire access token"). Leaves signing to entra.rs.

use std::collections::BTreeMap;

use hyper::header::{HeaderMap, HeaderName};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::cloud::CLOUDS;
use crate::entra;
use crate::error::MetadataError;

/// Without `Metadata: true` a request is taken for one that somebody was talked into making for another.
const METADATA: HeaderName = HeaderName::from_static("metadata");
/// A request that passed a proxy is none of the node's own.
const FORWARDED: HeaderName = HeaderName::from_static("x-forwarded-for");
/// The oldest version that knows managed identities; every later one is answered alike.
const OLDEST_VERSION: &str = "2018-02-01";
/// Other ways to name an identity, none of which the emulator has a record of.
const OTHER_NAMES: [&str; 4] = ["object_id", "principal_id", "msi_res_id", "mi_res_id"];

/// A managed identity assigned to the node on which the emulator's clients run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AssignedIdentity {
    /// Tenant (directory) id.
    pub tenant_id: String,
    /// Application (client) id.
    pub client_id: String,
    /// Whether it is the node's own, of which there is one at most, and not a user-assigned one.
    #[serde(default)]
    pub is_system: bool,
}

/// The node, with its identities.
#[derive(Debug, Default)]
pub(crate) struct Node(Vec<AssignedIdentity>);

/// Whose token is asked for, and for what.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) identity: AssignedIdentity,
    /// As the caller wrote it.
    pub(crate) resource: String,
    /// The audience of the token.
    pub(crate) audience: String,
}

impl Asked {
    /// The answer, as the service writes it: numbers are strings, unlike in Entra ID's own answers. `now` and `lifetime`
    /// in seconds.
    pub(crate) fn answer(&self, token: &str, now: i64, lifetime: i64) -> Value {
        json!({
            "access_token": token,
            "client_id": self.identity.client_id.to_ascii_lowercase(),
            "expires_in": lifetime.to_string(),
            "expires_on": (now + lifetime).to_string(),
            "ext_expires_in": lifetime.to_string(),
            "not_before": now.to_string(),
            "resource": self.resource,
            "token_type": "Bearer",
        })
    }
}

impl Node {
    /// Assigns an identity; it takes the place of one with the same client id, and a system-assigned one that of another.
    pub(crate) fn assign(&mut self, identity: AssignedIdentity) {
        self.unassign(&identity.client_id);
        self.0.retain(|other| !(identity.is_system && other.is_system));
        self.0.push(identity);
    }

    /// Whether there was one of that client id.
    pub(crate) fn unassign(&mut self, client_id: &str) -> bool {
        let before = self.0.len();
        self.0.retain(|identity| !identity.client_id.eq_ignore_ascii_case(client_id));
        self.0.len() < before
    }

    pub(crate) fn identities(&self) -> Vec<AssignedIdentity> {
        self.0.clone()
    }

    /// Judges a request for a token.
    pub(crate) fn judge(
        &self,
        headers: &HeaderMap,
        query: &BTreeMap<String, String>,
    ) -> Result<Asked, MetadataError> {
        let refuse = |message: &str| Err(MetadataError::request("invalid_request", message));
        if headers.contains_key(FORWARDED) {
            return refuse("Requests with the header X-Forwarded-For are not served");
        }
        if headers.get(METADATA).is_none_or(|value| value != "true") {
            return refuse("Required metadata header not specified");
        }
        match query.get("api-version") {
            None => return refuse("Required query variable 'api-version' is missing"),
            Some(version) if !is_answered(version) => return refuse("The api-version is not supported"),
            Some(_) => {}
        }
        let Some(resource) = query.get("resource").filter(|resource| !resource.is_empty()) else {
            return refuse("Required audience parameter not specified");
        };
        let identity = self.pick(query)?.clone();
        let audience = resource.trim_end_matches('/').to_owned();
        if !CLOUDS.iter().any(|cloud| entra::is_resource(cloud, &audience)) {
            let message = format!(
                "AADSTS500011: The resource principal named {resource} was not found in the tenant named {}.",
                identity.tenant_id
            );
            return Err(MetadataError::request("invalid_resource", message));
        }
        Ok(Asked { identity, resource: resource.clone(), audience })
    }

    /// The identity that is named; if none is: the system-assigned one, or else the only one.
    fn pick(&self, query: &BTreeMap<String, String>) -> Result<&AssignedIdentity, MetadataError> {
        let unknown = || MetadataError::request("invalid_request", "Identity not found");
        if OTHER_NAMES.iter().any(|name| query.contains_key(*name)) {
            return Err(unknown());
        }
        if let Some(client_id) = query.get("client_id") {
            let named = |identity: &&AssignedIdentity| identity.client_id.eq_ignore_ascii_case(client_id);
            return self.0.iter().find(named).ok_or_else(unknown);
        }
        if let Some(system) = self.0.iter().find(|identity| identity.is_system) {
            return Ok(system);
        }
        match self.0.as_slice() {
            [] => Err(unknown()),
            [only] => Ok(only),
            _ => {
                let message = "Multiple user assigned identities exist, please specify the clientId / resourceId of \
                               the identity in the token request";
                Err(MetadataError::request("invalid_request", message))
            }
        }
    }
}

/// Versions are dates, so that their order is that of their letters.
fn is_answered(version: &str) -> bool {
    let is_date = version.len() == OLDEST_VERSION.len()
        && version.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-');
    is_date && version >= OLDEST_VERSION
}
