//! How certificates look in answers: the whole bundle, the row of a list, the secret's value.
//! Leaves it to others which of them is answered, and when.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::certificates::Address;
use crate::error::VaultError;
use crate::vault::{Certificate, Version};

/// Days a deleted certificate can be recovered, as a vault has it by default.
pub(crate) const RECOVERABLE_DAYS: i64 = 90;
pub(crate) const PKCS12: &str = "application/x-pkcs12";
pub(crate) const PEM: &str = "application/x-pem-file";

pub(crate) fn unwritable() -> VaultError {
    VaultError::injected(500, "InternalError", None, "The bundle cannot be written as PKCS#12")
}

impl Version {
    /// The value of the secret behind this version: PKCS#12 in base64 under an empty password, or PEM.
    pub(crate) fn secret_value(&self) -> Result<String, VaultError> {
        if self.pem {
            return Ok(self.pem_value());
        }
        Ok(STANDARD.encode(self.bundle.to_pkcs12(self.exportable).map_err(|_| unwritable())?))
    }

    pub(crate) fn pem_value(&self) -> String {
        let block = |label: &str, der: &[u8]| {
            let text = STANDARD.encode(der);
            let lines: Vec<&str> =
                (0..text.len()).step_by(64).map(|start| &text[start..text.len().min(start + 64)]).collect();
            format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
        };
        let key = self.exportable.then(|| block("PRIVATE KEY", &self.bundle.key));
        let chain = self.bundle.chain.iter().map(|der| block("CERTIFICATE", der));
        key.into_iter().chain(chain).collect()
    }

    /// The content type of the secret behind this version.
    pub(crate) fn content_type(&self) -> &'static str {
        if self.pem { PEM } else { PKCS12 }
    }

    /// `attributes` of certificate and secret.
    pub(crate) fn attributes_json(&self) -> Value {
        json!({
            "enabled": self.enabled,
            "nbf": self.bundle.not_before,
            "exp": self.bundle.not_after,
            "created": self.created,
            "updated": self.updated,
            "recoveryLevel": "Recoverable+Purgeable",
            "recoverableDays": RECOVERABLE_DAYS,
        })
    }
}

pub(crate) fn bundle_json(certificate: &Certificate, version: &Version, at: &Address<'_>) -> Value {
    let id = |kind: &str| format!("{}/{kind}/{}/{}", at.base, certificate.name, version.id);
    json!({
        "id": id("certificates"),
        "kid": id("keys"),
        "sid": id("secrets"),
        "x5t": version.bundle.x5t(),
        "cer": STANDARD.encode(version.bundle.leaf_der()),
        "contentType": version.content_type(),
        "attributes": version.attributes_json(),
        "tags": version.tags,
        "policy": policy_json(certificate, at),
        "preserveCertOrder": version.keeps_order,
    })
}

pub(crate) fn policy_json(certificate: &Certificate, at: &Address<'_>) -> Value {
    let mut policy = certificate.policy.clone();
    policy["id"] = json!(format!("{}/certificates/{}/policy", at.base, certificate.name));
    policy
}

pub(crate) fn item_json(version: &Version, id: String) -> Value {
    json!({
        "id": id,
        "x5t": version.bundle.x5t(),
        "attributes": version.attributes_json(),
        "tags": version.tags,
        "subject": version.bundle.subject,
    })
}
