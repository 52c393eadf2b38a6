//! What a request asks for: method and path, named as an operation on an object.
//! Leaves carrying it out to service.rs.

use hyper::Method;

use crate::journal::Operation;

/// A request, named.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) operation: Operation,
    /// Certificate or secret name; the tenant, of a request to Entra ID.
    pub(crate) name: Option<String>,
    pub(crate) version: Option<String>,
}

impl Route {
    fn new(operation: Operation, name: Option<&str>, version: Option<&str>) -> Self {
        Self { operation, name: name.map(str::to_owned), version: version.map(str::to_owned) }
    }

    /// The route of a request to a vault. A slash at the end is accepted: the SDKs send it for "the latest version".
    pub(crate) fn of_vault(method: &Method, path: &str) -> Self {
        use Operation::{
            DeleteCertificate, GetCertificate, GetDeletedCertificate, GetPolicy, GetSecret, Import,
            ListCertificates, ListDeleted, ListVersions, Other, Purge, RecoverCertificate, UpdateCertificate,
            UpdatePolicy,
        };
        match (method.as_str(), segments(path).as_slice()) {
            ("GET", ["certificates"]) => Self::new(ListCertificates, None, None),
            ("POST", ["certificates", name, "import"]) => Self::new(Import, Some(name), None),
            ("GET", ["certificates", name, "versions"]) => Self::new(ListVersions, Some(name), None),
            ("GET", ["certificates", name, "policy"]) => Self::new(GetPolicy, Some(name), None),
            ("GET", ["certificates", name]) => Self::new(GetCertificate, Some(name), None),
            ("GET", ["certificates", name, version]) => Self::new(GetCertificate, Some(name), Some(version)),
            ("PATCH", ["certificates", name]) => Self::new(UpdateCertificate, Some(name), None),
            ("PATCH", ["certificates", name, "policy"]) => Self::new(UpdatePolicy, Some(name), None),
            ("PATCH", ["certificates", name, version]) => {
                Self::new(UpdateCertificate, Some(name), Some(version))
            }
            ("DELETE", ["certificates", name]) => Self::new(DeleteCertificate, Some(name), None),
            ("GET", ["deletedcertificates"]) => Self::new(ListDeleted, None, None),
            ("DELETE", ["deletedcertificates", name]) => Self::new(Purge, Some(name), None),
            ("GET", ["deletedcertificates", name]) => Self::new(GetDeletedCertificate, Some(name), None),
            ("POST", ["deletedcertificates", name, "recover"]) => {
                Self::new(RecoverCertificate, Some(name), None)
            }
            ("GET", ["secrets", name]) => Self::new(GetSecret, Some(name), None),
            ("GET", ["secrets", name, version]) => Self::new(GetSecret, Some(name), Some(version)),
            _ => Self::new(Other, None, None),
        }
    }

    /// The route of a request to Entra ID.
    pub(crate) fn of_entra(method: &Method, path: &str) -> Self {
        use Operation::{Discovery, Other, Token};
        match (method.as_str(), segments(path).as_slice()) {
            ("POST", [tenant, "oauth2", "v2.0", "token"]) => Self::new(Token, Some(tenant), None),
            ("GET", [tenant, "v2.0", ".well-known", "openid-configuration"]) => {
                Self::new(Discovery, Some(tenant), Some("openid-configuration"))
            }
            ("GET", [tenant, "discovery", "v2.0", "keys"]) => {
                Self::new(Discovery, Some(tenant), Some("keys"))
            }
            ("GET", ["common", "discovery", "instance"]) => Self::new(Discovery, None, Some("instance")),
            _ => Self::new(Other, None, None),
        }
    }

    /// The route of a request to the instance metadata service.
    pub(crate) fn of_metadata(method: &Method, path: &str) -> Self {
        match (method.as_str(), segments(path).as_slice()) {
            ("GET", ["metadata", "identity", "oauth2", "token"]) => {
                Self::new(Operation::ManagedIdentityToken, None, None)
            }
            _ => Self::new(Operation::Other, None, None),
        }
    }

    /// `certificates/web`, as the service names the object in its refusals.
    pub(crate) fn object(&self) -> String {
        let kind = if self.operation == Operation::GetSecret { "secrets" } else { "certificates" };
        self.name.as_ref().map_or_else(|| kind.to_owned(), |name| format!("{kind}/{name}"))
    }
}

fn segments(path: &str) -> Vec<&str> {
    path.trim_start_matches('/').trim_end_matches('/').split('/').collect()
}
