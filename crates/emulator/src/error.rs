//! What the services answer when they refuse: status, code, inner code and words, in each service's own JSON.
//! Leaves the decision to refuse to whoever makes one of these.

use std::fmt::Write as _;

use hyper::StatusCode;
use serde_json::{Value, json};
use time::format_description::well_known::Rfc3339;

/// A refusal in the shape of Key Vault's REST errors (`error.code`, `error.message`, `error.innererror.code`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct VaultError {
    pub(crate) status: StatusCode,
    pub(crate) code: String,
    pub(crate) inner: Option<Box<str>>,
    pub(crate) message: String,
    /// Value of `WWW-Authenticate`, on 401.
    pub(crate) challenge: Option<Box<str>>,
    /// Value of `Retry-After`.
    pub(crate) retry_after: Option<Box<str>>,
}

impl VaultError {
    fn new(status: StatusCode, code: &str, inner: Option<&str>, message: impl Into<String>) -> Self {
        Self {
            status,
            code: code.to_owned(),
            inner: inner.map(Box::from),
            message: message.into(),
            challenge: None,
            retry_after: None,
        }
    }

    pub(crate) fn bad_parameter(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "BadParameter", None, message)
    }

    pub(crate) fn unauthorized(message: impl Into<String>, challenge: String) -> Self {
        Self {
            challenge: Some(challenge.into()),
            ..Self::new(StatusCode::UNAUTHORIZED, "Unauthorized", None, message)
        }
    }

    pub(crate) fn forbidden(inner: &str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "Forbidden", Some(inner), message)
    }

    pub(crate) fn conflict(inner: Option<&str>, message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, "Conflict", inner, message)
    }

    /// The service calls an import during a pending operation 409 with code `Forbidden`.
    pub(crate) fn pending_operation(name: &str) -> Self {
        let message = format!(
            "There is a pending operation on the certificate {name}: it must be completed, cancelled or deleted first"
        );
        Self::new(StatusCode::CONFLICT, "Forbidden", None, message)
    }

    pub(crate) fn certificate_not_found(id: &str) -> Self {
        let message = format!("A certificate with (name/id) {id} was not found in this key vault.");
        Self::new(StatusCode::NOT_FOUND, "CertificateNotFound", None, message)
    }

    pub(crate) fn deleted_certificate_not_found(name: &str) -> Self {
        let message = format!("Deleted Certificate not found: {name}");
        Self::new(StatusCode::NOT_FOUND, "CertificateNotFound", None, message)
    }

    /// Nobody's permission helps: the service names no inner code.
    pub(crate) fn purge_protected(host: &str) -> Self {
        let short = host.split('.').next().unwrap_or(host);
        let message = format!(
            "Operation \"purge\" is not allowed because purge protection is enabled for this vault. Key Vault service \
             will automatically purge it after the retention period has passed.\r\nVault: {short};location=emulator"
        );
        Self::new(StatusCode::FORBIDDEN, "Forbidden", None, message)
    }

    pub(crate) fn secret_not_found(id: &str) -> Self {
        let message = format!("A secret with (name/id) {id} was not found in this key vault.");
        Self::new(StatusCode::NOT_FOUND, "SecretNotFound", None, message)
    }

    pub(crate) fn method_not_allowed() -> Self {
        let message = "The emulator knows no such operation at this path";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "BadParameter", None, message)
    }

    pub(crate) fn too_large(limit: usize) -> Self {
        let message = format!("The request body is longer than {limit} bytes");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "BadParameter", None, message)
    }

    /// In Azure the name would not resolve; here the connection is made, so the answer has to say it. 421 is neither
    /// retried by clients nor mistaken for a missing certificate.
    pub(crate) fn unknown_host(host: &str) -> Self {
        let message = format!(
            "The emulator has no vault at {host:?} and no Entra ID there (in Azure this name would not resolve); \
             add it with --vault or add_vault"
        );
        Self::new(StatusCode::MISDIRECTED_REQUEST, "VaultNotFound", None, message)
    }

    /// A refusal made by a fault, of whichever service.
    pub(crate) fn injected(status: u16, code: &str, inner: Option<&str>, message: &str) -> Self {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Self::new(status, code, inner, message)
    }

    /// The body, as the service writes it.
    pub(crate) fn body(&self) -> Value {
        let mut error = json!({ "code": self.code, "message": self.message });
        if let Some(inner) = &self.inner {
            error["innererror"] = json!({ "code": inner });
        }
        json!({ "error": error })
    }
}

/// A refusal of Entra ID's token endpoint (RFC 6749 section 5.2, with Entra's additions).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TokenError {
    pub(crate) status: StatusCode,
    pub(crate) error: String,
    /// The digits of `AADSTS…`.
    pub(crate) code: u32,
    pub(crate) message: String,
    pub(crate) retry_after: Option<String>,
}

impl TokenError {
    /// A request that is wrong in itself: 400.
    pub(crate) fn request(error: &str, code: u32, message: impl Into<String>) -> Self {
        let (error, message) = (error.to_owned(), message.into());
        Self { status: StatusCode::BAD_REQUEST, error, code, message, retry_after: None }
    }

    /// A client that did not prove who it is: 401 `invalid_client`.
    pub(crate) fn client(code: u32, message: impl Into<String>) -> Self {
        Self { status: StatusCode::UNAUTHORIZED, ..Self::request("invalid_client", code, message) }
    }

    /// The body, as Entra ID writes it. `trace` is a GUID.
    pub(crate) fn body(&self, trace: &str) -> Value {
        let timestamp = time::OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default();
        let mut description = String::new();
        if self.code > 0 {
            let _ = write!(description, "AADSTS{}: ", self.code);
        }
        let _ = write!(description, "{} Trace ID: {trace} Timestamp: {timestamp}", self.message);
        json!({
            "error": self.error,
            "error_description": description,
            "error_codes": [self.code],
            "timestamp": timestamp,
            "trace_id": trace,
            "correlation_id": trace,
        })
    }
}

/// A refusal of the instance metadata service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MetadataError {
    pub(crate) status: StatusCode,
    pub(crate) error: String,
    pub(crate) message: String,
    pub(crate) retry_after: Option<String>,
}

impl MetadataError {
    /// A request that is wrong in itself: 400.
    pub(crate) fn request(error: &str, message: impl Into<String>) -> Self {
        Self {
            status: StatusCode::BAD_REQUEST,
            error: error.to_owned(),
            message: message.into(),
            retry_after: None,
        }
    }

    /// The body, as the service writes it.
    pub(crate) fn body(&self) -> Value {
        json!({ "error": self.error, "error_description": self.message })
    }
}
