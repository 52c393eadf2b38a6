//! What every kind of push says: which vault, which names, which tags, what on conflict and at the end.
//! Which Secrets are meant is left to the kind.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};

use crate::duration::Duration;
use crate::schema;

/// How the certificates of one resource are pushed.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct PushSettings {
    /// The vault to push to. After a change the certificates are pushed to the new vault, and deletionPolicy says
    /// what becomes of those in the old one.
    pub vault_ref: VaultRef,

    /// Tags of every certificate of this resource in the vault, for example environment: prod. At most 11 together
    /// with an entry's own, because Key Vault holds 15 and keyvault-sync needs 4; names and values of at most 256
    /// characters. A changed tag is written to the present version and makes no new one.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::tags")]
    pub tags: BTreeMap<String, String>,

    /// Whether who may read the vault's secrets can get the private key. Application Gateway, Front Door, App Service
    /// and API Management need true. A change makes a new version.
    #[serde(default = "default_exportable")]
    pub exportable: bool,

    /// What to do when the vault already has a certificate of that name, live or soft-deleted, that keyvault-sync
    /// does not own. Refuse: leave it alone and say so. Adopt: take it over, if it has no owner tag of keyvault-sync
    /// or one of this cluster whose owner is gone, and if the KeyVault's grant allows the name under adopt.
    #[serde(default)]
    pub conflict_policy: ConflictPolicy,

    /// Ids of clusters whose certificates are taken over, once, when first met: for moving between clusters. The
    /// other cluster's id is the first part of the certificate's tag keyvault-sync-owner.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::cluster_ids")]
    pub adopt_from_clusters: Vec<String>,

    /// What becomes of the certificate in the vault when it is no longer wanted: the entry or this resource is
    /// removed, the name or vault changes, or the Secret vanishes. Retain: it stays. Delete: it is soft-deleted, if
    /// keyvault-sync still owns it.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,

    /// How long a Secret may be missing before deletionPolicy acts on its certificate: a Secret that vanished may be
    /// on its way back, since deleting it is how a certificate is issued anew. Between 0s and 720h, for example 1h.
    /// An entry or resource that is removed acts at once.
    #[serde(default = "default_grace_period")]
    #[schemars(schema_with = "grace_period")]
    pub deletion_grace_period: Duration,

    /// true: nothing is written to the vault for this resource, until it is false again.
    #[serde(default)]
    pub suspend: bool,
}

/// A KeyVault by its name.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct VaultRef {
    /// Name of the KeyVault, for example contoso. `kubectl get keyvaults` lists them.
    #[schemars(schema_with = "schema::object_name")]
    pub name: String,
}

/// What to do with a certificate in the vault that nobody of ours owns.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ConflictPolicy {
    /// Leave it alone and say so.
    #[default]
    Refuse,
    /// Take it over, where the grant allows.
    Adopt,
}

/// What becomes of the vault's certificate that is no longer wanted.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeletionPolicy {
    /// It stays.
    #[default]
    Retain,
    /// It is soft-deleted, if keyvault-sync still owns it.
    Delete,
}

pub(crate) fn default_exportable() -> bool {
    true
}

/// Longer than a re-issue with ACME takes, shorter than anybody waits for a clean-up.
pub(crate) fn default_grace_period() -> Duration {
    Duration::from_hours(1)
}

pub(crate) fn grace_period(_: &mut SchemaGenerator) -> Schema {
    schema::duration("0s", "720h")
}
