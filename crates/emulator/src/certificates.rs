//! The certificates of the data plane: import, get, versions, list, update, delete and recover, as JSON in and out.
//! Leaves HTTP, tokens and permissions to service.rs and auth.rs, the reading of bundles to bundle.rs, policies to policy.rs.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::bundle::Bundle;
use crate::error::VaultError;
use crate::page::page;
use crate::policy::{merge, policy};
use crate::random;
use crate::shown::{PEM, PKCS12, RECOVERABLE_DAYS, bundle_json, item_json, policy_json, unwritable};
use crate::vault::{Certificate, State, Vault, Version, now};

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

/// A version as an import without a policy makes it.
pub(crate) fn version(
    name: &str,
    bundle: Bundle,
    tags: BTreeMap<String, String>,
) -> Result<Version, VaultError> {
    check_name(name)?;
    check_tags(&tags)?;
    new_version(bundle, &Value::Null, PKCS12, tags)
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
    let policy = policy(sent, &bundle, content_type)?;
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
    match vault.certificate(name).map(|certificate| certificate.state) {
        Some(State::PendingOperation) => return Err(VaultError::pending_operation(name)),
        Some(state) => refuse_unless_live(name, state)?,
        None => {}
    }
    vault.add_version(name, version);
    get(vault, name, None, at)
}

fn refuse_unless_live(name: &str, state: State) -> Result<(), VaultError> {
    let (inner, what) = match state {
        State::Normal | State::PendingOperation => return Ok(()),
        State::SoftDeleted => (
            "ObjectIsDeletedButRecoverable",
            "is currently in a deleted but recoverable state, and its name cannot be reused; in this state, the \
             certificate can only be recovered or purged.",
        ),
        State::BeingDeleted => ("ObjectIsBeingDeleted", "is currently being deleted; retry later."),
        State::BeingRecovered => ("ObjectIsBeingRecovered", "is currently being recovered; retry later."),
    };
    Err(VaultError::conflict(Some(inner), format!("Certificate {name} {what}")))
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
    let certificate = live(vault, name, &id)?;
    let found = certificate.version(version).ok_or_else(|| VaultError::certificate_not_found(&id))?;
    Ok(bundle_json(certificate, found, at))
}

/// The certificates of the vault, a page at a time, each by its newest version.
pub(crate) fn list(vault: &Vault, at: &Address<'_>) -> Result<Value, VaultError> {
    let items = vault
        .certificates
        .iter()
        .filter(|(_, certificate)| certificate.state.is_live())
        .filter_map(|(key, certificate)| Some((key.as_str(), certificate, certificate.version(None)?)))
        .map(|(key, certificate, version)| {
            (key.to_owned(), item_json(version, format!("{}/certificates/{}", at.base, certificate.name)))
        });
    page(items, "certificates", at)
}

/// The versions of a certificate, a page at a time.
pub(crate) fn versions(vault: &Vault, name: &str, at: &Address<'_>) -> Result<Value, VaultError> {
    check_name(name)?;
    let certificate = live(vault, name, name)?;
    let items = certificate.versions.iter().enumerate().map(|(place, version)| {
        let id = format!("{}/certificates/{}/{}", at.base, certificate.name, version.id);
        (format!("{place:08}"), item_json(version, id))
    });
    page(items, &format!("certificates/{}/versions", certificate.name), at)
}

/// Changes attributes and tags of a version; tags that are given replace all there were.
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
    let id = version.map_or_else(|| name.to_owned(), |version| format!("{name}/{version}"));
    let certificate = live_mut(vault, name, &id)?;
    let found = certificate.version_mut(version).ok_or_else(|| VaultError::certificate_not_found(&id))?;
    if let Some(enabled) = body.attributes.unwrap_or_default().enabled {
        found.enabled = enabled;
    }
    if let Some(tags) = body.tags {
        found.tags = tags;
    }
    found.updated = now();
    if let Some(sent) = body.policy {
        merge(&mut certificate.policy, sent);
    }
    get(vault, name, version, at)
}

/// The policy now in force.
pub(crate) fn get_policy(vault: &Vault, name: &str, at: &Address<'_>) -> Result<Value, VaultError> {
    check_name(name)?;
    Ok(policy_json(live(vault, name, name)?, at))
}

/// Soft-deletes a certificate with all its versions; done at once, where the service takes its time.
pub(crate) fn delete(vault: &mut Vault, name: &str, at: &Address<'_>) -> Result<Value, VaultError> {
    check_name(name)?;
    let certificate = live_mut(vault, name, name)?;
    certificate.state = State::SoftDeleted;
    certificate.deleted = Some(now());
    get_deleted(vault, name, at)
}

/// A soft-deleted certificate, by its newest version.
pub(crate) fn get_deleted(vault: &Vault, name: &str, at: &Address<'_>) -> Result<Value, VaultError> {
    check_name(name)?;
    let certificate = vault
        .certificate(name)
        .filter(|certificate| certificate.state == State::SoftDeleted)
        .ok_or_else(|| VaultError::certificate_not_found(name))?;
    let newest = certificate.version(None).ok_or_else(|| VaultError::certificate_not_found(name))?;
    let mut json = bundle_json(certificate, newest, at);
    let deleted = certificate.deleted.unwrap_or_default();
    json["recoveryId"] = json!(format!("{}/deletedcertificates/{}", at.base, certificate.name));
    json["deletedDate"] = json!(deleted);
    json["scheduledPurgeDate"] = json!(deleted + RECOVERABLE_DAYS * 24 * 60 * 60);
    Ok(json)
}

/// Recovers a soft-deleted certificate; done at once, where the service takes its time.
pub(crate) fn recover(vault: &mut Vault, name: &str, at: &Address<'_>) -> Result<Value, VaultError> {
    get_deleted(vault, name, at)?;
    if let Some(certificate) = vault.certificate_mut(name) {
        certificate.state = State::Normal;
        certificate.deleted = None;
    }
    get(vault, name, None, at)
}

/// A certificate that answers reads; a deletion or recovery under way looks like absence, as soft delete does.
pub(crate) fn live<'v>(vault: &'v Vault, name: &str, id: &str) -> Result<&'v Certificate, VaultError> {
    vault
        .certificate(name)
        .filter(|certificate| certificate.state.is_live())
        .ok_or_else(|| VaultError::certificate_not_found(id))
}

fn live_mut<'v>(vault: &'v mut Vault, name: &str, id: &str) -> Result<&'v mut Certificate, VaultError> {
    vault
        .certificate_mut(name)
        .filter(|certificate| certificate.state.is_live())
        .ok_or_else(|| VaultError::certificate_not_found(id))
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
