//! Somebody else's hands on a vault: a person or another program changes what is there, past REST and permissions.
//! Leaves what callers see of it to certificates.rs.

use std::collections::BTreeMap;

use crate::Emulator;
use crate::bundle::Bundle;
use crate::certificates;
use crate::vault::{Certificate, State, StoredCertificate, Vault, now};

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
        let bundle = Bundle::from_pkcs12(pfx_der, password, false);
        let version = bundle
            .and_then(|bundle| certificates::version(name, bundle, tags).map_err(|error| error.message));
        let version = version.unwrap_or_else(|error| panic!("cannot put certificate {name}: {error}"));
        let id = version.id.clone();
        let put = self.with_vault(host, |vault| vault.add_version(name, version));
        put.unwrap_or_else(|| panic!("cannot put certificate {name}: the emulator has no vault {host}"));
        id
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

    /// Puts a certificate into a state. Whether there is one.
    pub fn set_state(&self, host: &str, name: &str, state: State) -> bool {
        self.with_certificate(host, name, |certificate| {
            certificate.state = state;
            certificate.deleted = (state == State::SoftDeleted).then(now);
        })
        .is_some()
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
