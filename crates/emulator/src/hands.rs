//! Somebody else's hands on a vault: a person or another program changes what is there, past REST and permissions.
//! Leaves what callers see of it to certificates.rs.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::Emulator;
use crate::bundle::Bundle;
use crate::life::{Life, Takes};
use crate::vault::{Certificate, Pending, State, StoredCertificate, Vault, Version, now};
use crate::{certificates, policy, random};

/// What is said of a certificate that is put into a vault by hand.
#[derive(Debug, Clone)]
pub struct Put {
    /// Tags of the version; none unless said.
    pub tags: BTreeMap<String, String>,
    /// Whether the private key may be read back; it may unless said. Wins over the policy.
    pub exportable: bool,
    /// Whether the certificates are served in the file's order; leaf first unless said.
    pub keep_order: bool,
    /// The import's policy, in the REST surface's JSON; null (unless said): what the service fills in. The key's type is
    /// added, so that a chain of mixed types needs no policy.
    pub policy: Value,
}

impl Default for Put {
    fn default() -> Self {
        Self { tags: BTreeMap::new(), exportable: true, keep_order: false, policy: Value::Null }
    }
}

impl Emulator {
    /// What the vault holds under `name` (compared without case), in whatever state; none if nothing.
    pub fn certificate(&self, host: &str, name: &str) -> Option<StoredCertificate> {
        let vaults = self.service().vaults();
        vaults.get(&host.to_ascii_lowercase())?.certificate(name).map(StoredCertificate::from)
    }

    /// Names of the certificates the vault holds, in whatever state; empty if there is no such vault.
    pub fn certificate_names(&self, host: &str) -> Vec<String> {
        let vaults = self.service().vaults();
        vaults.get(&host.to_ascii_lowercase()).map_or_else(Vec::new, |vault| {
            vault.certificates.values().map(|certificate| certificate.name.clone()).collect()
        })
    }

    /// Imports a PKCS#12 file as somebody with every permission would, without a policy; the new version's id.
    ///
    /// # Panics
    /// If there is no such vault or the file is not one that Key Vault takes: the test is wrong.
    #[allow(clippy::panic, reason = "called by tests, whose own mistake it would be")]
    pub fn put_certificate(
        &self,
        host: &str,
        name: &str,
        pfx_der: &[u8],
        password: &str,
        tags: BTreeMap<String, String>,
    ) -> String {
        self.put_certificate_with(host, name, pfx_der, password, Put { tags, ..Put::default() })
    }

    /// As [`Emulator::put_certificate`], with a say in the rest of the import.
    ///
    /// # Panics
    /// If there is no such vault or the import is not one that Key Vault takes: the test is wrong.
    #[allow(clippy::panic, reason = "called by tests, whose own mistake it would be")]
    pub fn put_certificate_with(
        &self,
        host: &str,
        name: &str,
        pfx_der: &[u8],
        password: &str,
        put: Put,
    ) -> String {
        let bundle = Bundle::from_pkcs12(pfx_der, password, put.keep_order);
        let version =
            bundle.and_then(|bundle| certificates::version(name, bundle, put).map_err(|error| error.message));
        let version = version.unwrap_or_else(|error| panic!("cannot put certificate {name}: {error}"));
        let id = version.id.clone();
        let added = self.with_vault(host, |vault| vault.add_version(name, version));
        added.unwrap_or_else(|| panic!("cannot put certificate {name}: the emulator has no vault {host}"));
        id
    }

    /// Adds a version with the newest's content and policy under other tags, as somebody who imports the same file again;
    /// its id. None if there is no version to copy.
    pub fn copy_version(&self, host: &str, name: &str, tags: BTreeMap<String, String>) -> Option<String> {
        self.with_vault(host, |vault| {
            let newest = vault.certificate(name)?.version(None)?;
            let (id, now) = (random::hex32(), now());
            let copy =
                Version { id: id.clone(), tags, enabled: true, created: now, updated: now, ..newest.clone() };
            vault.add_version(name, copy);
            Some(id)
        })
        .flatten()
    }

    /// Replaces the tags of one version (none: the newest). Whether there is such a version.
    pub fn set_tags(
        &self,
        host: &str,
        name: &str,
        version: Option<&str>,
        tags: BTreeMap<String, String>,
    ) -> bool {
        self.with_certificate(host, name, |certificate| {
            certificate.version_mut(version).map(|version| {
                version.tags = tags;
                version.updated = now();
            })
        })
        .flatten()
        .is_some()
    }

    /// Enables or disables one version (none: the newest). Whether there is such a version.
    pub fn set_enabled(&self, host: &str, name: &str, version: Option<&str>, enabled: bool) -> bool {
        self.with_certificate(host, name, |certificate| {
            certificate.version_mut(version).map(|version| {
                version.enabled = enabled;
                version.updated = now();
            })
        })
        .flatten()
        .is_some()
    }

    /// Removes a certificate, or a plain secret of that name, without a trace. Whether there was one.
    pub fn purge(&self, host: &str, name: &str) -> bool {
        let name = name.to_ascii_lowercase();
        self.with_vault(host, |vault| {
            let plain = vault.plain.remove(&name);
            vault.certificates.remove(&name).is_some() || plain
        })
        .unwrap_or(false)
    }

    /// Puts a certificate into a state, in which it stays until something else is asked of it. Whether there is one.
    /// While it has no version, its operation stays pending behind the state.
    pub fn set_state(&self, host: &str, name: &str, state: State) -> bool {
        self.with_certificate(host, name, |certificate| {
            certificate.life = match state {
                State::Normal | State::PendingOperation => Life::new(),
                State::BeingDeleted => Life::deleted(Takes::UntilTold),
                State::SoftDeleted => Life::deleted(Takes::NO_TIME),
                State::BeingRecovered => Life::recovered(Takes::UntilTold),
            };
            if state == State::PendingOperation {
                certificate.pending.get_or_insert_with(Pending::new);
            } else if !certificate.versions.is_empty() {
                certificate.pending = None;
            }
        })
        .is_some()
    }

    /// Soft-deletes a certificate; it lasts as long as every deletion in the vault. Whether there was one to delete.
    pub fn soft_delete(&self, host: &str, name: &str) -> bool {
        self.with_vault(host, |vault| {
            let takes = vault.deletion;
            let certificate = vault.certificate_mut(name).filter(|certificate| certificate.is_there());
            certificate.map(|certificate| certificate.life = Life::deleted(takes)).is_some()
        })
        .unwrap_or(false)
    }

    /// Recovers a soft-deleted certificate; it lasts as long as every recovery in the vault. Whether there was one.
    pub fn recover(&self, host: &str, name: &str) -> bool {
        self.with_vault(host, |vault| {
            let takes = vault.recovery;
            let certificate =
                vault.certificate_mut(name).filter(|certificate| certificate.state() == State::SoftDeleted);
            certificate.map(|certificate| certificate.life = Life::recovered(takes)).is_some()
        })
        .unwrap_or(false)
    }

    /// Ends the deletion under way: the certificate is soft-deleted from now on. Whether one was under way.
    pub fn finish_deletion(&self, host: &str, name: &str) -> bool {
        self.with_certificate(host, name, |certificate| certificate.life.finish_deletion()).unwrap_or(false)
    }

    /// Ends the recovery under way: the certificate is there from now on. Whether one was under way.
    pub fn finish_recovery(&self, host: &str, name: &str) -> bool {
        self.with_certificate(host, name, |certificate| certificate.life.finish_recovery()).unwrap_or(false)
    }

    /// Begins a certificate operation (a request to a CA): no import until it is finished. Under a name that is free it
    /// makes a certificate without a version. Whether it was begun: not if the certificate is deleted, or has one.
    pub fn begin_operation(&self, host: &str, name: &str) -> bool {
        self.with_vault(host, |vault| {
            let key = name.to_ascii_lowercase();
            if vault.plain.contains(&key) {
                return false;
            }
            let certificate = vault
                .certificates
                .entry(key)
                .or_insert_with(|| Certificate { policy: policy::of_operation(), ..Certificate::new(name) });
            let begins = certificate.state() == State::Normal;
            if begins {
                certificate.pending = Some(Pending::new());
            }
            begins
        })
        .unwrap_or(false)
    }

    /// Ends the pending operation without a result, as if it had been cancelled and removed; a certificate that has no
    /// version is gone with it. Whether there was one.
    pub fn finish_operation(&self, host: &str, name: &str) -> bool {
        self.with_vault(host, |vault| {
            let Some(certificate) = vault.certificate_mut(name) else { return false };
            let was_pending = certificate.pending.take().is_some();
            if certificate.versions.is_empty() {
                vault.certificates.remove(&name.to_ascii_lowercase());
            }
            was_pending
        })
        .unwrap_or(false)
    }

    /// Puts a plain secret of that name into the vault: no certificate can then be imported there.
    pub fn put_plain_secret(&self, host: &str, name: &str) {
        let _ = self.with_vault(host, |vault| vault.plain.insert(name.to_ascii_lowercase()));
    }

    fn with_vault<T>(&self, host: &str, change: impl FnOnce(&mut Vault) -> T) -> Option<T> {
        self.service().vaults().get_mut(&host.to_ascii_lowercase()).map(change)
    }

    fn with_certificate<T>(
        &self,
        host: &str,
        name: &str,
        change: impl FnOnce(&mut Certificate) -> T,
    ) -> Option<T> {
        self.with_vault(host, |vault| vault.certificate_mut(name).map(change)).flatten()
    }
}
