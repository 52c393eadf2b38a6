//! Soft delete: delete, the deleted certificates and their list, recover, purge, as JSON in and out.
//! Leaves how far a deletion or recovery is to life.rs, and certificates that are there to certificates.rs.

use serde_json::{Value, json};

use crate::certificates::{Address, changeable, check_name, refuse_on_its_way};
use crate::error::VaultError;
use crate::life::{Life, Stage};
use crate::page::page;
use crate::shown::{RECOVERABLE_DAYS, certificate_json, row_json};
use crate::vault::{Certificate, Vault, now};

/// Soft-deletes a certificate with all its versions. Answered at once, as the service does, also if it takes time.
pub(crate) fn delete(vault: &mut Vault, name: &str, at: &Address<'_>) -> Result<Value, VaultError> {
    check_name(name)?;
    let (takes, level) = (vault.deletion, vault.recovery_level());
    let certificate = changeable(vault, name, name)?;
    certificate.life = Life::deleted(takes);
    let json = certificate_json(certificate, None, level, at);
    let mut json = json.ok_or_else(|| VaultError::certificate_not_found(name))?;
    add_dates(&mut json, certificate, now(), at);
    Ok(json)
}

/// A soft-deleted certificate, by its newest version. It shows up here when its deletion is done, not before.
pub(crate) fn get(vault: &Vault, name: &str, at: &Address<'_>) -> Result<Value, VaultError> {
    check_name(name)?;
    let found = vault.certificate(name).and_then(|certificate| match certificate.life.stage() {
        Stage::Deleted(since) => {
            let mut json = certificate_json(certificate, None, vault.recovery_level(), at)?;
            add_dates(&mut json, certificate, since, at);
            Some(json)
        }
        Stage::There | Stage::BeingDeleted | Stage::BeingRecovered => None,
    });
    found.ok_or_else(|| VaultError::deleted_certificate_not_found(name))
}

/// The soft-deleted certificates of the vault, a page at a time, each by its newest version.
pub(crate) fn list(vault: &Vault, at: &Address<'_>) -> Result<Value, VaultError> {
    let items = vault.certificates.iter().filter_map(|(key, certificate)| {
        let Stage::Deleted(since) = certificate.life.stage() else { return None };
        let mut row = row_json(certificate, vault.recovery_level(), at)?;
        add_dates(&mut row, certificate, since, at);
        Some((key.clone(), row))
    });
    page(items, "deletedcertificates", at)
}

/// Recovers a soft-deleted certificate. Answered at once, as the service does, also if it takes time.
pub(crate) fn recover(vault: &mut Vault, name: &str, at: &Address<'_>) -> Result<Value, VaultError> {
    check_name(name)?;
    let (takes, level) = (vault.recovery, vault.recovery_level());
    let certificate = soft_deleted(vault, name)?;
    certificate.life = Life::recovered(takes);
    certificate_json(certificate, None, level, at).ok_or_else(|| VaultError::certificate_not_found(name))
}

/// Removes a soft-deleted certificate for ever, unless the vault is protected against that.
pub(crate) fn purge(vault: &mut Vault, host: &str, name: &str) -> Result<(), VaultError> {
    check_name(name)?;
    if vault.purge_protection {
        return Err(VaultError::purge_protected(host));
    }
    soft_deleted(vault, name)?;
    vault.certificates.remove(&name.to_ascii_lowercase());
    Ok(())
}

fn soft_deleted<'v>(vault: &'v mut Vault, name: &str) -> Result<&'v mut Certificate, VaultError> {
    let not_found = || VaultError::deleted_certificate_not_found(name);
    let certificate = vault.certificate_mut(name).ok_or_else(not_found)?;
    let stage = certificate.life.stage();
    refuse_on_its_way(stage)?;
    if let Stage::Deleted(_) = stage { Ok(certificate) } else { Err(not_found()) }
}

fn add_dates(json: &mut Value, certificate: &Certificate, since: i64, at: &Address<'_>) {
    json["recoveryId"] = json!(format!("{}/deletedcertificates/{}", at.base, certificate.name));
    json["deletedDate"] = json!(since);
    json["scheduledPurgeDate"] = json!(since + RECOVERABLE_DAYS * 24 * 60 * 60);
}
