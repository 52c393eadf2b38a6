//! `KeyVaultCertificate`, the claim: who holds one certificate name of one vault, what was pushed, what became of it.
//! Written by the operator alone: its spec by the sync controller, its status by the certificate controller.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::certificate_entry::SecretKeys;
use crate::duration::Duration;
use crate::push_settings::{
    ConflictPolicy, DeletionPolicy, default_exportable, default_grace_period, grace_period,
};
use crate::{limits, schema};

/// Which certificate of which vault is claimed, by whom, and what is to be pushed; resolved from the owner.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[kube(
    group = "keyvaultsync.io",
    version = "v1alpha1",
    kind = "KeyVaultCertificate",
    shortname = "kvcert",
    category = "keyvault-sync",
    status = "KeyVaultCertificateStatus",
    derive = "PartialEq",
    doc = "The claim on one certificate name of one vault: who holds it, what was pushed, what became of it. Made, changed and removed by the operator alone.",
    validation = Rule::new("self.metadata.name == self.spec.certificateName.lowerAscii() + '.' + self.spec.vaultHost")
        .message("metadata.name must be <certificateName in lower case>.<vaultHost>; claims are made by the operator: create a KeyVaultSync instead"),
    printcolumn(name = "Ready", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].status"#),
    printcolumn(name = "Reason", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].reason"#),
    printcolumn(name = "Namespace", type_ = "string", json_path = ".spec.sources[0].namespace"),
    printcolumn(name = "Secret", type_ = "string", json_path = ".spec.sources[0].secretName"),
    printcolumn(name = "Expires", type_ = "string", json_path = ".status.notAfter"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct KeyVaultCertificateSpec {
    /// Host of the vault, for example contoso.vault.azure.net. It cannot be changed.
    #[schemars(schema_with = "schema::vault_host")]
    pub vault_host: String,

    /// Name of the KeyVault through which the vault is used. If its url is of another host by now, no call is made.
    #[schemars(schema_with = "schema::object_name")]
    pub key_vault: String,

    /// Name of the certificate in the vault, for example web-prod. It cannot be changed but for its case.
    #[schemars(schema_with = "schema::claimed_name")]
    pub certificate_name: String,

    /// Id of the cluster that made the claim. A claim of another cluster (restored from a backup) never deletes
    /// anything.
    #[schemars(schema_with = "schema::cluster_id")]
    pub cluster_id: String,

    /// The resource that holds the claim.
    pub owner: ClaimOwner,

    /// The Secrets to push from. Only the first (the oldest, then by name) is pushed. The others are copies of it in other
    /// namespaces, and only a ClusterKeyVaultSync has them.
    #[schemars(length(min = 1, max = limits::SOURCES_MAX))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub sources: Vec<ClaimSource>,

    /// Whether who may read the vault's secrets can get the private key.
    #[serde(default = "default_exportable")]
    pub exportable: bool,

    /// Tags of the certificate in the vault, beside those of keyvault-sync: the owner's and the entry's together.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::tags")]
    pub tags: BTreeMap<String, String>,

    /// What to do when the vault already has a certificate of that name that keyvault-sync does not own: Refuse or
    /// Adopt.
    #[serde(default)]
    pub conflict_policy: ConflictPolicy,

    /// Ids of clusters whose certificate is taken over, once, when first met.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::cluster_ids")]
    pub adopt_from_clusters: Vec<String>,

    /// What becomes of the vault's certificate with the claim: Retain or Delete.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,

    /// How long the Secret may be missing before deletionPolicy acts, between 0s and 720h.
    #[serde(default = "default_grace_period")]
    #[schemars(schema_with = "grace_period")]
    pub deletion_grace_period: Duration,

    /// true: nothing is written to the vault.
    #[serde(default)]
    pub suspend: bool,

    /// What the annotation keyvaultsync.io/sync-at says on the owner and on the KeyVault; a change asks for a comparison
    /// with the vault now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String", length(max = limits::SYNC_AT_LENGTH_MAX))]
    pub sync_at: Option<String>,

    /// Set when the claim is given up; then deletionPolicy is carried out and the claim removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Release")]
    pub release: Option<Release>,
}

/// The resource that holds a claim.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq, Hash)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    // In CEL the word is reserved: every Kubernetes takes the field under this name, older ones under no other.
    validation = Rule::new("(self.kind == 'KeyVaultSync') == has(self.__namespace__)")
        .message("a KeyVaultSync has a namespace, a ClusterKeyVaultSync has none")
)]
pub struct ClaimOwner {
    /// Its kind: KeyVaultSync or ClusterKeyVaultSync.
    pub kind: OwnerKind,

    /// Its namespace; missing where it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::namespace")]
    pub namespace: Option<String>,

    /// Its name.
    #[schemars(schema_with = "schema::object_name")]
    pub name: String,

    /// Its metadata.uid: a resource deleted and applied again has another.
    #[schemars(length(min = 1, max = limits::OPAQUE_LENGTH_MAX))]
    pub uid: String,
}

/// Kinds that can hold a claim.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OwnerKind {
    /// A KeyVaultSync.
    KeyVaultSync,
    /// A ClusterKeyVaultSync.
    ClusterKeyVaultSync,
}

/// A Secret to push from.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq, Hash)]
#[serde(rename_all = "camelCase")]
pub struct ClaimSource {
    /// Namespace of the Secret.
    #[schemars(schema_with = "schema::namespace")]
    pub namespace: String,

    /// Name of the Secret.
    #[schemars(schema_with = "schema::object_name")]
    pub secret_name: String,

    /// Where in the Secret the certificate and its private key are.
    #[serde(default)]
    pub keys: SecretKeys,
}

/// Why and since when a claim is given up.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Release {
    /// EntryGone: the owner no longer wants this name. OwnerGone: the owner was deleted. VaultChanged: the owner names
    /// another vault. SecretGone: the Secret was missing for deletionGracePeriod.
    pub why: ReleaseWhy,

    /// When it was found out.
    #[schemars(schema_with = "schema::time")]
    pub since: Time,
}

/// Why a claim is given up.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReleaseWhy {
    /// The owner no longer wants this name.
    EntryGone,
    /// The owner was deleted.
    OwnerGone,
    /// The owner names another vault.
    VaultChanged,
    /// The Secret was missing for the grace period.
    SecretGone,
}

/// What was pushed and what became of it: the operator's memory of this certificate.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct KeyVaultCertificateStatus {
    /// The metadata.generation that this status was made of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "i64")]
    pub observed_generation: Option<i64>,

    /// The metadata.uid of the claim that this status was made for. Under another uid the claim was restored from a
    /// backup: what it says was pushed is looked at in the vault, and nothing is deleted because of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String", length(max = limits::OPAQUE_LENGTH_MAX))]
    pub claim_uid: Option<String>,

    /// Ready: True when the vault holds the certificate as wished; else why not and who can help.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,

    /// A write to the vault that was announced and has no receipt yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "InFlight")]
    pub in_flight: Option<InFlight>,

    /// The Secrets as they were when last looked at: while unchanged, neither the Secret is read nor the vault called.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = limits::SOURCES_MAX))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub sources: Vec<SeenSource>,

    /// Of what was pushed (leaf and chain), for example sha256:….
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String", length(max = limits::DIGEST_LENGTH_MAX))]
    pub fingerprint: Option<String>,

    /// Of the Secret's content (leaf and chain) when the version there was adopted; its chain cannot be read back, and
    /// while the Secret holds this content it counts as the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String", length(max = limits::DIGEST_LENGTH_MAX))]
    pub adopted_with: Option<String>,

    /// Hash of the tags (with owner and cluster id) and exportable as pushed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String", length(max = limits::DIGEST_LENGTH_MAX))]
    pub desired: Option<String>,

    /// Key Vault's name for the version that was pushed last: 32 hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String", length(max = limits::DIGEST_LENGTH_MAX))]
    pub version: Option<String>,

    /// How many versions keyvault-sync has imported under this name since it made the claim; the vault may have more. Azure
    /// cannot back up a certificate with more than 500.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "i64")]
    pub versions: Option<i64>,

    /// Address of the secret behind the certificate, without version: what Application Gateway and Front Door ask
    /// for, for example https://contoso.vault.azure.net/secrets/web-prod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String", length(max = limits::SECRET_ID_LENGTH_MAX))]
    pub secret_id: Option<String>,

    /// SHA-1 of the certificate, in hexadecimal as the Azure portal shows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String", length(max = limits::DIGEST_LENGTH_MAX))]
    pub thumbprint: Option<String>,

    /// When the certificate in the vault expires.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::time")]
    pub not_after: Option<Time>,

    /// When it was last written to the vault.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::time")]
    pub pushed_at: Option<Time>,

    /// Fingerprint or version of somebody else's write under our tags that was repaired once. A second one before our
    /// content changes is reported as OwnedByAnother.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String", length(max = limits::DIGEST_LENGTH_MAX))]
    pub foreign_write: Option<String>,

    /// Since when the present act keeps failing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::time")]
    pub first_failed_at: Option<Time>,
}

/// A write to the vault that was announced before it was begun.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct InFlight {
    /// Import: a new version. Adopt: our tags on somebody's version. Retag: new tags on our version. Recover: undo a
    /// soft delete. Delete: soft delete.
    pub act: Act,

    /// Fingerprint of the content that is to be there afterwards; missing where the act writes none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String", length(max = limits::DIGEST_LENGTH_MAX))]
    pub fingerprint: Option<String>,

    /// When it was announced.
    #[schemars(schema_with = "schema::time")]
    pub since: Time,
}

/// The kind of a write to the vault.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Act {
    /// A new version.
    Import,
    /// Our tags on somebody's version.
    Adopt,
    /// New tags on our version.
    Retag,
    /// Undo a soft delete.
    Recover,
    /// Soft delete.
    Delete,
}

/// A Secret as it was when last looked at.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct SeenSource {
    /// Namespace of the Secret.
    #[schemars(length(max = limits::LABEL_LENGTH_MAX))]
    pub namespace: String,

    /// Name of the Secret.
    #[schemars(length(max = limits::OBJECT_NAME_LENGTH_MAX))]
    pub name: String,

    /// Its metadata.uid; missing while there is no such Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String", length(max = limits::OPAQUE_LENGTH_MAX))]
    pub uid: Option<String>,

    /// Its metadata.resourceVersion; missing while there is no such Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String", length(max = limits::OPAQUE_LENGTH_MAX))]
    pub resource_version: Option<String>,

    /// Since when the Secret is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::time")]
    pub missing_since: Option<Time>,

    /// Whether its content equals what is pushed; for Secrets that share a claim.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "bool")]
    pub equal: Option<bool>,

    /// Since when its content differs from what is pushed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::time")]
    pub differs_since: Option<Time>,
}
