//! The secret behind a certificate: how key and chain are read back.
//! Leaves plain secrets alone, but for saying that one is there.

use serde_json::{Value, json};

use crate::certificates::{Address, check_name};
use crate::error::VaultError;
use crate::vault::Vault;

/// `GET /secrets/{name}/{version?}`: value and content type, or `SecretDisabled`.
pub(crate) fn get(
    vault: &Vault,
    name: &str,
    version: Option<&str>,
    at: &Address<'_>,
) -> Result<Value, VaultError> {
    check_name(name)?;
    let id = version.map_or_else(|| name.to_owned(), |version| format!("{name}/{version}"));
    let not_found = || VaultError::secret_not_found(&id);
    if vault.plain.contains(&name.to_ascii_lowercase()) && version.is_none() {
        return Ok(
            json!({ "id": format!("{}/secrets/{name}", at.base), "value": "", "attributes": {"enabled": true} }),
        );
    }
    let certificate =
        vault.certificate(name).filter(|certificate| certificate.is_there()).ok_or_else(not_found)?;
    let found = certificate.version(version).ok_or_else(not_found)?;
    if !found.enabled {
        let message = "Operation get is not allowed on a disabled secret.";
        return Err(VaultError::forbidden("SecretDisabled", message));
    }
    let path = |kind: &str| format!("{}/{kind}/{}/{}", at.base, certificate.name, found.id);
    Ok(json!({
        "id": path("secrets"),
        "kid": path("keys"),
        "value": found.secret_value()?,
        "contentType": found.content_type(),
        "attributes": found.attributes_json(vault.recovery_level()),
        "tags": found.tags,
        "managed": true,
    }))
}
