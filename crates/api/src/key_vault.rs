//! `KeyVault`: a vault this cluster may use, as whom, and which namespaces may use which names of it.
//! Written by the platform team; the operator writes its status.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::{Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};

use crate::duration::Duration;
use crate::identity::Identity;
use crate::selector::LabelSelector;
use crate::{limits, schema};

/// Where the vault is, as whom it is opened, and who may use which names of it.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[kube(
    group = "keyvaultsync.io",
    version = "v1alpha1",
    kind = "KeyVault",
    shortname = "kvault",
    category = "keyvault-sync",
    status = "KeyVaultStatus",
    derive = "PartialEq",
    doc = "A vault that this cluster may use: where it is, whose identity opens it, which namespaces may use which names of it.",
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].status"#
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].reason"#
    ),
    printcolumn(name = "URL", type_ = "string", json_path = ".spec.url"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct KeyVaultSpec {
    /// Address of the vault: https:// and its host, for example https://contoso.vault.azure.net. The host must be of
    /// a cloud that the operator allows. It cannot be changed.
    #[schemars(schema_with = "schema::vault_url")]
    pub url: String,

    /// As whom the vault is opened. Default: workloadIdentity, the operator's own identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Identity")]
    pub identity: Option<Identity>,

    /// Which namespaces may use which certificate names of this vault. Default: nobody may use any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = limits::GRANTS_MAX))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub grants: Vec<Grant>,

    /// How often what the vault holds is compared with what was pushed, between 5m and 24h. Changes of Secrets are
    /// pushed at once, whatever this says. To compare now, give the annotation keyvaultsync.io/sync-at a new value.
    #[serde(default = "default_resync_interval")]
    #[schemars(schema_with = "resync_interval")]
    pub resync_interval: Duration,
}

/// What some namespaces may do with some certificate names.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Grant {
    /// The namespaces this grant is for.
    pub namespaces: NamespaceMatch,

    /// Certificate names they may push, for example "{namespace}--*". * stands for any characters, ? for one; names
    /// are compared without case. {namespace}, at the start and followed by -- or by nothing, stands for the
    /// namespace's own name; a namespace whose name contains -- never matches it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::grant_globs")]
    pub push: Vec<String>,

    /// Certificate names under which they may take over a certificate that keyvault-sync does not own, if their
    /// resource asks for it with conflictPolicy: Adopt. Written as in push. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::grant_globs")]
    pub adopt: Vec<String>,
}

/// Namespaces: those that match one of the names, and those that match the selector.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("(has(self.names) && size(self.names) > 0) || has(self.selector)")
        .message("namespaces needs names or selector: to mean every namespace, write names: [\"*\"]")
)]
pub struct NamespaceMatch {
    /// Names of namespaces, for example "web" or "team-*". * stands for any characters, ? for one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::namespace_globs")]
    pub names: Vec<String>,

    /// Labels of namespaces. Namespaces that match are meant beside those in names; {} means every namespace. Whoever
    /// may label a namespace can bring it under this grant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "LabelSelector")]
    pub selector: Option<LabelSelector>,
}

/// What the operator found when it reached for the vault.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct KeyVaultStatus {
    /// The metadata.generation that this status was made of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "i64")]
    pub observed_generation: Option<i64>,

    /// The installation of keyvault-sync that looks after this KeyVault and writes its status, as
    /// "<namespace>.<release>". Another takes it over when that one is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::installation")]
    pub installation: Option<String>,

    /// Ready: True when the vault was reached and let the operator in, or (reason PerNamespaceIdentity) when it was
    /// reached and each namespace opens it with an identity of its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,
}

/// Often enough that drift is found the same hour, rare enough that a thousand certificates cost a call every 3.6 s
/// of a budget of hundreds.
fn default_resync_interval() -> Duration {
    Duration::from_hours(1)
}

fn resync_interval(_: &mut SchemaGenerator) -> Schema {
    schema::duration("5m", "24h")
}
