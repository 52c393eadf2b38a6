//! How certificates look in answers: the whole bundle, the row of a list, the secret's value.
//! Leaves it to others which of them is answered, and when.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::certificates::Address;
use crate::error::VaultError;
use crate::vault::{Certificate, Pending, Version};

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

    /// `attributes` of certificate and secret; `level` is the vault's recovery level.
    pub(crate) fn attributes_json(&self, level: &str) -> Value {
        json!({
            "enabled": self.enabled,
            "nbf": self.bundle.not_before,
            "exp": self.bundle.not_after,
            "created": self.created,
            "updated": self.updated,
            "recoveryLevel": level,
            "recoverableDays": RECOVERABLE_DAYS,
        })
    }
}

/// A certificate by one version, the newest unless named; none if it has no such version.
pub(crate) fn certificate_json(
    certificate: &Certificate,
    version: Option<&str>,
    level: &str,
    at: &Address<'_>,
) -> Option<Value> {
    let mut json = match (certificate.version(version), certificate.unborn()) {
        (Some(version), _) => bundle_json(certificate, version, level, at),
        (None, Some(unborn)) if version.is_none_or(|id| id.eq_ignore_ascii_case(&unborn.version)) => {
            unborn_json(certificate, unborn, level, at)
        }
        (None, _) => return None,
    };
    if certificate.pending.is_some() {
        json["pending"] = json!({ "id": format!("{}/certificates/{}/pending", at.base, certificate.name) });
    }
    Some(json)
}

fn bundle_json(certificate: &Certificate, version: &Version, level: &str, at: &Address<'_>) -> Value {
    let id = |kind: &str| format!("{}/{kind}/{}/{}", at.base, certificate.name, version.id);
    json!({
        "id": id("certificates"),
        "kid": id("keys"),
        "sid": id("secrets"),
        "x5t": version.bundle.x5t(),
        "cer": STANDARD.encode(version.bundle.leaf_der()),
        "contentType": version.content_type(),
        "attributes": version.attributes_json(level),
        "tags": version.tags,
        "policy": policy_json(certificate, at),
        "preserveCertOrder": version.keeps_order,
    })
}

/// What a first operation under way shows: the service leaves out `x5t`, `cer`, `kid` and `sid`, and calls it disabled.
fn unborn_json(certificate: &Certificate, unborn: &Pending, level: &str, at: &Address<'_>) -> Value {
    json!({
        "id": format!("{}/certificates/{}/{}", at.base, certificate.name, unborn.version),
        "attributes": unborn_attributes_json(unborn, level),
        "policy": policy_json(certificate, at),
    })
}

fn unborn_attributes_json(unborn: &Pending, level: &str) -> Value {
    json!({
        "enabled": false,
        "created": unborn.created,
        "updated": unborn.created,
        "recoveryLevel": level,
        "recoverableDays": RECOVERABLE_DAYS,
    })
}

/// The policy in force.
pub(crate) fn policy_json(certificate: &Certificate, at: &Address<'_>) -> Value {
    let mut policy = certificate.policy.clone();
    policy["id"] = json!(format!("{}/certificates/{}/policy", at.base, certificate.name));
    policy
}

/// A certificate's row in a list, by its newest version. One that has no version yet is listed only if the caller asks
/// for such (`includePending`).
pub(crate) fn row_json(certificate: &Certificate, level: &str, at: &Address<'_>) -> Option<Value> {
    let id = format!("{}/certificates/{}", at.base, certificate.name);
    if let Some(newest) = certificate.version(None) {
        return Some(version_row_json(newest, id, level));
    }
    let unborn = certificate.unborn().filter(|_| at.includes_pending())?;
    Some(json!({ "id": id, "attributes": unborn_attributes_json(unborn, level) }))
}

/// A version's row in a list.
pub(crate) fn version_row_json(version: &Version, id: String, level: &str) -> Value {
    json!({
        "id": id,
        "x5t": version.bundle.x5t(),
        "attributes": version.attributes_json(level),
        "tags": version.tags,
        "subject": version.bundle.subject,
    })
}
