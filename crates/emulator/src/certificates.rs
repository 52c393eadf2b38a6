//! The certificates of the data plane: import, get, versions, list and update, as JSON in and out.
//! Leaves HTTP and permissions to service.rs and auth.rs, soft delete to deleted.rs, policies to policy.rs.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::Value;

use crate::bundle::Bundle;
use crate::error::VaultError;
use crate::hands::Put;
use crate::life::Stage;
use crate::page::page;
use crate::shown::{PEM, PKCS12, certificate_json, row_json, unwritable, version_row_json};
use crate::vault::{Certificate, Vault, Version, now};
use crate::{policy, random};

/// Tags of one object, at most (Key Vault documentation, "About keys, secrets and certificates").
const MAX_TAGS: usize = 15;
/// Characters of a tag's name and of its value, at most.
const MAX_TAG_LENGTH: usize = 256;
/// Characters of a certificate's name, at most.
const MAX_NAME_LENGTH: usize = 127;
/// Bytes of a secret's value; a certificate's bundle is kept as one.
const MAX_SECRET_BYTES: usize = 25 * 1024;

/// Body of `POST /certificates/{name}/import`.
#[derive(Deserialize)]
pub(crate) struct ImportBody {
    value: String,
    #[serde(default)]
    pwd: Option<String>,
    #[serde(default)]
    policy: Option<Value>,
    #[serde(default)]
    attributes: Option<AttributesBody>,
    #[serde(default)]
    tags: Option<BTreeMap<String, String>>,
    #[serde(default, rename = "preserveCertOrder")]
    preserve_cert_order: Option<bool>,
}

/// Body of `PATCH /certificates/{name}/{version}`.
#[derive(Deserialize)]
pub(crate) struct UpdateBody {
    #[serde(default)]
    policy: Option<Value>,
    #[serde(default)]
    attributes: Option<AttributesBody>,
    #[serde(default)]
    tags: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize, Default)]
struct AttributesBody {
    #[serde(default)]
    enabled: Option<bool>,
}

/// Where identifiers begin, and what the caller put into the query.
pub(crate) struct Address<'a> {
    /// `https://contoso.vault.azure.net`, with a port if the caller named one.
    pub(crate) base: &'a str,
    pub(crate) query: &'a BTreeMap<String, String>,
}

impl Address<'_> {
    /// Whether a list is to name certificates that have no version yet; the service leaves them out unless asked.
    pub(crate) fn includes_pending(&self) -> bool {
        self.query.get("includePending").is_some_and(|value| value.eq_ignore_ascii_case("true"))
    }
}

/// Refuses names that Key Vault cannot hold.
pub(crate) fn check_name(name: &str) -> Result<(), VaultError> {
    let fits = (1..=MAX_NAME_LENGTH).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    if fits {
        return Ok(());
    }
    let message = format!("The request URI contains an invalid name: {name}");
    Err(VaultError::bad_parameter(message))
}

/// Checks all of an import that does not depend on what the vault holds: the version it will make.
pub(crate) fn prepare_import(name: &str, body: ImportBody) -> Result<Version, VaultError> {
    check_name(name)?;
    let tags = body.tags.unwrap_or_default();
    check_tags(&tags)?;
    let sent = body.policy.unwrap_or(Value::Null);
    let content_type = sent["secret_props"]["contentType"].as_str();
    let keeps_order = body.preserve_cert_order.unwrap_or(false);
    let pem = body.value.trim_start().starts_with("-----BEGIN");
    let bundle = match (pem, content_type) {
        (false, None | Some(PKCS12)) => {
            let der = STANDARD
                .decode(body.value.trim())
                .map_err(|_| VaultError::bad_parameter("The property value is no base64 text"))?;
            Bundle::from_pkcs12(&der, body.pwd.as_deref().unwrap_or_default(), keeps_order)
        }
        (true, None | Some(PEM)) => Bundle::from_pem(&body.value, keeps_order),
        (_, Some(other)) => {
            Err(format!("The content does not fit the policy's secret_props.contentType {other:?}"))
        }
    }
    .map_err(VaultError::bad_parameter)?;
    let content_type = if pem { PEM } else { PKCS12 };
    let mut version = new_version(bundle, &sent, content_type, tags)?;
    version.enabled = body.attributes.unwrap_or_default().enabled.unwrap_or(true);
    version.keeps_order = keeps_order;
    Ok(version)
}

/// A version as somebody's import makes it.
pub(crate) fn version(name: &str, bundle: Bundle, put: Put) -> Result<Version, VaultError> {
    check_name(name)?;
    check_tags(&put.tags)?;
    let sent = policy::by_hand(put.policy, put.exportable, bundle.kind)?;
    let mut version = new_version(bundle, &sent, PKCS12, put.tags)?;
    version.keeps_order = put.keep_order;
    Ok(version)
}

fn new_version(
    bundle: Bundle,
    sent: &Value,
    content_type: &str,
    tags: BTreeMap<String, String>,
) -> Result<Version, VaultError> {
    if bundle.not_after <= now() {
        let message = format!("The certificate {} has expired: it cannot be imported", bundle.subject);
        return Err(VaultError::bad_parameter(message));
    }
    let policy = policy::of_import(sent, &bundle, content_type)?;
    let now = now();
    let version = Version {
        id: random::hex32(),
        exportable: policy["key_props"]["exportable"].as_bool().unwrap_or(true),
        pem: content_type == PEM,
        enabled: true,
        created: now,
        updated: now,
        tags,
        policy,
        keeps_order: false,
        bundle,
    };
    check_size(&version)?;
    Ok(version)
}

/// Adds a prepared version to the vault, unless what is there forbids it.
pub(crate) fn import(
    vault: &mut Vault,
    name: &str,
    version: Version,
    at: &Address<'_>,
) -> Result<Value, VaultError> {
    if vault.plain.contains(&name.to_ascii_lowercase()) {
        let message = format!(
            "A secret or key named {name} exists already: a certificate needs the name for its own secret and key"
        );
        return Err(VaultError::conflict(None, message));
    }
    if let Some(certificate) = vault.certificate(name) {
        let stage = certificate.life.stage();
        refuse_on_its_way(stage)?;
        if let Stage::Deleted(_) = stage {
            return Err(deleted_but_recoverable(name));
        }
        if certificate.pending.is_some() {
            return Err(VaultError::pending_operation(name));
        }
    }
    vault.add_version(name, version);
    get(vault, name, None, at)
}

/// A conflict if a certificate is on its way into or out of soft delete. The service names no name here.
pub(crate) fn refuse_on_its_way(stage: Stage) -> Result<(), VaultError> {
    let (inner, what) = match stage {
        Stage::There | Stage::Deleted(_) => return Ok(()),
        Stage::BeingDeleted => ("ObjectIsBeingDeleted", "deleted"),
        Stage::BeingRecovered => ("ObjectIsBeingRecovered", "recovered"),
    };
    Err(VaultError::conflict(Some(inner), format!("Certificate is currently being {what}.")))
}

fn deleted_but_recoverable(name: &str) -> VaultError {
    let message = format!(
        "Certificate {name} is currently in a deleted but recoverable state, and its name cannot be reused; in this \
         state, the certificate can only be recovered or purged."
    );
    VaultError::conflict(Some("ObjectIsDeletedButRecoverable"), message)
}

/// One version, the newest unless named.
pub(crate) fn get(
    vault: &Vault,
    name: &str,
    version: Option<&str>,
    at: &Address<'_>,
) -> Result<Value, VaultError> {
    check_name(name)?;
    let id = version.map_or_else(|| name.to_owned(), |version| format!("{name}/{version}"));
    let certificate = there(vault, name, &id)?;
    certificate_json(certificate, version, vault.recovery_level(), at)
        .ok_or_else(|| VaultError::certificate_not_found(&id))
}

/// The certificates of the vault, a page at a time, each by its newest version.
pub(crate) fn list(vault: &Vault, at: &Address<'_>) -> Result<Value, VaultError> {
    let items = vault.certificates.iter().filter(|(_, certificate)| certificate.is_there()).filter_map(
        |(key, certificate)| Some((key.clone(), row_json(certificate, vault.recovery_level(), at)?)),
    );
    page(items, "certificates", at)
}

/// The versions of a certificate, a page at a time.
pub(crate) fn versions(vault: &Vault, name: &str, at: &Address<'_>) -> Result<Value, VaultError> {
    check_name(name)?;
    let certificate = there(vault, name, name)?;
    let items = certificate.versions.iter().enumerate().map(|(place, version)| {
        let id = format!("{}/certificates/{}/{}", at.base, certificate.name, version.id);
        (format!("{place:08}"), version_row_json(version, id, vault.recovery_level()))
    });
    page(items, &format!("certificates/{}/versions", certificate.name), at)
}

/// Changes attributes and tags of a version; tags that are given replace all there were. A policy that is given changes
/// the certificate's, whichever version is named.
pub(crate) fn update(
    vault: &mut Vault,
    name: &str,
    version: Option<&str>,
    body: UpdateBody,
    at: &Address<'_>,
) -> Result<Value, VaultError> {
    check_name(name)?;
    if let Some(tags) = &body.tags {
        check_tags(tags)?;
    }
    if let Some(sent) = &body.policy {
        policy::check(sent)?;
    }
    let id = version.map_or_else(|| name.to_owned(), |version| format!("{name}/{version}"));
    let certificate = changeable(vault, name, &id)?;
    let found = certificate.version_mut(version).ok_or_else(|| VaultError::certificate_not_found(&id))?;
    if let Some(enabled) = body.attributes.unwrap_or_default().enabled {
        found.enabled = enabled;
    }
    if let Some(tags) = body.tags {
        found.tags = tags;
    }
    found.updated = now();
    if let Some(sent) = body.policy {
        policy::change(&mut certificate.policy, sent);
    }
    get(vault, name, version, at)
}

/// A certificate that answers reads; a deletion or recovery under way looks like absence, as soft delete does.
pub(crate) fn there<'v>(vault: &'v Vault, name: &str, id: &str) -> Result<&'v Certificate, VaultError> {
    vault
        .certificate(name)
        .filter(|certificate| certificate.is_there())
        .ok_or_else(|| VaultError::certificate_not_found(id))
}

/// A certificate that can be changed: to a change, a deletion or recovery under way is a conflict.
pub(crate) fn changeable<'v>(
    vault: &'v mut Vault,
    name: &str,
    id: &str,
) -> Result<&'v mut Certificate, VaultError> {
    let not_found = || VaultError::certificate_not_found(id);
    let certificate = vault.certificate_mut(name).ok_or_else(not_found)?;
    let stage = certificate.life.stage();
    refuse_on_its_way(stage)?;
    if stage == Stage::There { Ok(certificate) } else { Err(not_found()) }
}

pub(crate) fn check_tags(tags: &BTreeMap<String, String>) -> Result<(), VaultError> {
    if tags.len() > MAX_TAGS {
        let message = format!("An object has at most {MAX_TAGS} tags, the request has {}", tags.len());
        return Err(VaultError::bad_parameter(message));
    }
    let long = |text: &String| text.chars().count() > MAX_TAG_LENGTH;
    match tags.iter().find(|(name, value)| name.is_empty() || long(name) || long(value)) {
        Some((name, _)) => Err(VaultError::bad_parameter(format!(
            "Names of tags have 1 to {MAX_TAG_LENGTH} characters and values at most as many; not so the tag {name:?}"
        ))),
        None => Ok(()),
    }
}

fn check_size(version: &Version) -> Result<(), VaultError> {
    let size = if version.pem {
        version.pem_value().len()
    } else {
        let der = version.bundle.pkcs12_size(version.exportable).map_err(|_| unwritable())?;
        base64::encoded_len(der, true).unwrap_or(usize::MAX)
    };
    if size <= MAX_SECRET_BYTES {
        return Ok(());
    }
    let message = format!(
        "The certificate with its chain takes {size} bytes as a secret, more than {MAX_SECRET_BYTES}"
    );
    Err(VaultError::bad_parameter(message))
}
