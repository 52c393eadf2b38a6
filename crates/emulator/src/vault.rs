//! The state of the vaults: certificates with their versions, plain secrets, who may do what. Everything in memory.
//! Leaves the REST surface to certificates.rs and secrets.rs, and tokens to auth.rs.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;
use time::OffsetDateTime;

use crate::bundle::Bundle;
use crate::life::{Life, Stage, Takes};
use crate::random;

/// What an identity may do in a vault: the data actions of Azure's Key Vault roles, as far as they are needed here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs, reason = "each member is the data action of its name")]
pub struct Permissions {
    pub certificates_get: bool,
    pub certificates_list: bool,
    pub certificates_import: bool,
    pub certificates_update: bool,
    pub certificates_delete: bool,
    pub certificates_recover: bool,
    pub certificates_purge: bool,
    pub secrets_get: bool,
}

impl Permissions {
    /// Nothing.
    pub fn none() -> Self {
        Self::default()
    }

    /// Everything.
    pub fn all() -> Self {
        Self { secrets_get: true, ..Self::certificates_officer() }
    }

    /// As the role Key Vault Certificates Officer: every certificate action, no secret.
    pub fn certificates_officer() -> Self {
        Self {
            certificates_get: true,
            certificates_list: true,
            certificates_import: true,
            certificates_update: true,
            certificates_delete: true,
            certificates_recover: true,
            certificates_purge: true,
            secrets_get: false,
        }
    }
}

/// What becomes of a certificate outside the normal life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum State {
    /// There, and usable.
    #[default]
    Normal,
    /// Deleted, recoverable.
    SoftDeleted,
    /// Deletion under way.
    BeingDeleted,
    /// Recovery under way.
    BeingRecovered,
    /// Somebody's certificate operation (a request to a CA) is under way: no import.
    PendingOperation,
}

/// One version of a certificate.
#[derive(Debug, Clone)]
pub(crate) struct Version {
    /// 32 hexadecimal digits.
    pub(crate) id: String,
    pub(crate) bundle: Bundle,
    pub(crate) exportable: bool,
    pub(crate) pem: bool,
    pub(crate) enabled: bool,
    /// Seconds since 1970.
    pub(crate) created: i64,
    pub(crate) updated: i64,
    pub(crate) tags: BTreeMap<String, String>,
    /// The policy under which it was imported.
    pub(crate) policy: Value,
    pub(crate) keeps_order: bool,
}

/// A certificate operation under way: somebody's request to a CA.
#[derive(Debug, Clone)]
pub(crate) struct Pending {
    /// Id of the version it is to become, 32 hexadecimal digits.
    pub(crate) version: String,
    /// Seconds since 1970.
    pub(crate) created: i64,
}

impl Pending {
    pub(crate) fn new() -> Self {
        Self { version: random::hex32(), created: now() }
    }
}

/// A certificate: never without a version, unless its first is a pending operation.
#[derive(Debug, Clone)]
pub(crate) struct Certificate {
    /// As spelled at the first import.
    pub(crate) name: String,
    /// Oldest first.
    pub(crate) versions: Vec<Version>,
    /// The policy now in force.
    pub(crate) policy: Value,
    pub(crate) life: Life,
    pub(crate) pending: Option<Pending>,
}

impl Certificate {
    /// A certificate without versions, which has to get one or an operation that will make one.
    pub(crate) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            versions: Vec::new(),
            policy: Value::Null,
            life: Life::new(),
            pending: None,
        }
    }

    /// Life and pending operation in one word.
    pub(crate) fn state(&self) -> State {
        match (self.life.stage(), &self.pending) {
            (Stage::There, None) => State::Normal,
            (Stage::There, Some(_)) => State::PendingOperation,
            (Stage::BeingDeleted, _) => State::BeingDeleted,
            (Stage::Deleted(_), _) => State::SoftDeleted,
            (Stage::BeingRecovered, _) => State::BeingRecovered,
        }
    }

    /// Whether it answers reads: a deletion or recovery under way hides it, as soft delete does.
    pub(crate) fn is_there(&self) -> bool {
        self.life.stage() == Stage::There
    }

    /// The operation under way, if there is nothing else yet.
    pub(crate) fn unborn(&self) -> Option<&Pending> {
        self.pending.as_ref().filter(|_| self.versions.is_empty())
    }

    /// The newest version, or the one of that id (compared without case).
    pub(crate) fn version(&self, id: Option<&str>) -> Option<&Version> {
        match id {
            None => self.versions.last(),
            Some(id) => self.versions.iter().find(|version| version.id.eq_ignore_ascii_case(id)),
        }
    }

    pub(crate) fn version_mut(&mut self, id: Option<&str>) -> Option<&mut Version> {
        match id {
            None => self.versions.last_mut(),
            Some(id) => self.versions.iter_mut().find(|version| version.id.eq_ignore_ascii_case(id)),
        }
    }
}

/// One vault. Names are keys in lower case: Key Vault's identifiers are case-insensitive.
#[derive(Debug)]
pub(crate) struct Vault {
    pub(crate) tenant: String,
    pub(crate) certificates: BTreeMap<String, Certificate>,
    /// Names held by a plain secret or key.
    pub(crate) plain: BTreeSet<String>,
    /// By client id, lower case.
    pub(crate) grants: HashMap<String, Permissions>,
    pub(crate) deletion: Takes,
    pub(crate) recovery: Takes,
    /// Whether nothing can be purged.
    pub(crate) purge_protection: bool,
}

impl Vault {
    pub(crate) fn new(tenant: &str) -> Self {
        Self {
            tenant: tenant.to_ascii_lowercase(),
            certificates: BTreeMap::new(),
            plain: BTreeSet::new(),
            grants: HashMap::new(),
            deletion: Takes::NO_TIME,
            recovery: Takes::NO_TIME,
            purge_protection: false,
        }
    }

    pub(crate) fn certificate(&self, name: &str) -> Option<&Certificate> {
        self.certificates.get(&name.to_ascii_lowercase())
    }

    pub(crate) fn certificate_mut(&mut self, name: &str) -> Option<&mut Certificate> {
        self.certificates.get_mut(&name.to_ascii_lowercase())
    }

    /// What becomes of its deleted objects, in the service's word (REST API, `DeletionRecoveryLevel`).
    pub(crate) fn recovery_level(&self) -> &'static str {
        if self.purge_protection { "Recoverable" } else { "Recoverable+Purgeable" }
    }

    /// Adds a version, and the certificate if it is the first.
    pub(crate) fn add_version(&mut self, name: &str, version: Version) {
        let certificate =
            self.certificates.entry(name.to_ascii_lowercase()).or_insert_with(|| Certificate::new(name));
        certificate.policy = version.policy.clone();
        certificate.versions.push(version);
    }
}

/// All vaults, by host in lower case.
pub(crate) type Vaults = HashMap<String, Vault>;

/// Seconds since 1970.
pub(crate) fn now() -> i64 {
    OffsetDateTime::now_utc().unix_timestamp()
}

/// A certificate as the vault holds it, for tests to look at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct StoredCertificate {
    /// Name as spelled at the first import.
    pub name: String,
    /// State it is in.
    pub state: State,
    /// The policy in force: the last import's, with what was changed since.
    pub policy: Value,
    /// Versions, oldest first; empty only while the operation that makes the first is pending.
    pub versions: Vec<StoredVersion>,
}

/// One version, without its key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct StoredVersion {
    /// 32 hexadecimal digits.
    pub version: String,
    /// Certificates in DER, in the order in which they are served (leaf first unless `preserveCertOrder` was asked for).
    #[serde(serialize_with = "as_base64")]
    pub chain_der: Vec<Vec<u8>>,
    /// Tags of this version.
    pub tags: BTreeMap<String, String>,
    /// Whether it is enabled.
    pub enabled: bool,
    /// Whether the private key may be read back through the secret.
    pub exportable: bool,
    /// The policy of the import, with what the service fills in; later changes of the certificate's policy leave it alone.
    pub policy: Value,
    /// SHA-1 of the leaf, base64url without padding.
    pub x5t: String,
    /// Subject of the leaf.
    pub subject: String,
    /// Validity of the leaf, seconds since 1970.
    pub not_before: i64,
    /// Validity of the leaf, seconds since 1970.
    pub not_after: i64,
    /// When it was imported, seconds since 1970.
    pub created: i64,
    /// Whether there is a private key, found to be the leaf's; always so for what was imported.
    pub has_key: bool,
}

impl From<&Certificate> for StoredCertificate {
    fn from(certificate: &Certificate) -> Self {
        Self {
            name: certificate.name.clone(),
            state: certificate.state(),
            policy: certificate.policy.clone(),
            versions: certificate.versions.iter().map(StoredVersion::from).collect(),
        }
    }
}

impl From<&Version> for StoredVersion {
    fn from(version: &Version) -> Self {
        Self {
            version: version.id.clone(),
            chain_der: version.bundle.chain.clone(),
            tags: version.tags.clone(),
            enabled: version.enabled,
            exportable: version.exportable,
            policy: version.policy.clone(),
            x5t: version.bundle.x5t(),
            subject: version.bundle.subject.clone(),
            not_before: version.bundle.not_before,
            not_after: version.bundle.not_after,
            created: version.created,
            has_key: !version.bundle.key.is_empty(),
        }
    }
}

/// Certificates of a chain in JSON: base64 of their DER.
fn as_base64<S: Serializer>(chain: &[Vec<u8>], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(chain.iter().map(|der| STANDARD.encode(der)))
}
