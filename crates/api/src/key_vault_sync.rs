//! `KeyVaultSync`: push these TLS Secrets of this namespace to that vault, under these certificate names.
//! Written by users; the operator writes its status.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::certificate_entry::CertificateEntry;
use crate::push_settings::PushSettings;
use crate::selector::SecretSelector;
use crate::{limits, schema};

/// Which Secrets are pushed, where to, under which names, and what becomes of the certificates.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[kube(
    group = "keyvaultsync.io",
    version = "v1alpha1",
    kind = "KeyVaultSync",
    namespaced,
    shortname = "kvsync",
    category = "keyvault-sync",
    status = "KeyVaultSyncStatus",
    derive = "PartialEq",
    doc = "Pushes TLS Secrets of its namespace to an Azure Key Vault as certificates, and keeps them up to date there.",
    validation = Rule::new("size(self.metadata.name) <= 63")
        .message("the name of a KeyVaultSync must have at most 63 characters, because it is written to a tag of Key Vault: choose a shorter one"),
    printcolumn(name = "Ready", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].status"#),
    printcolumn(name = "Reason", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].reason"#),
    printcolumn(name = "Vault", type_ = "string", json_path = ".spec.vaultRef.name"),
    printcolumn(name = "Synced", type_ = "string", json_path = ".status.synced"),
    printcolumn(name = "Next Expiry", type_ = "string", json_path = ".status.nextExpiry"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Last Push", type_ = "date", priority = 1, json_path = ".status.lastPushTime"),
    printcolumn(name = "Message", type_ = "string", priority = 1, json_path = r#".status.conditions[?(@.type=="Ready")].message"#)
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("(has(self.certificates) && size(self.certificates) > 0) || has(self.selector)")
        .message("nothing is selected: list Secrets under certificates, or choose them with selector"),
    validation = schema::tags_together("certificates"),
)]
pub struct KeyVaultSyncSpec {
    /// How the certificates are pushed.
    #[serde(flatten)]
    pub push: PushSettings,

    /// Makes the name of a certificate in the vault, where an entry does not state one. Placeholders: {namespace} and
    /// {secret} of the Secret, {sync} the name of this resource, {label:KEY} and {annotation:KEY} of the Secret; for
    /// example "{namespace}--{secret}". Characters other than letters, digits and hyphens become hyphens.
    #[serde(default = "default_template")]
    #[schemars(schema_with = "schema::name_template")]
    pub certificate_name_template: String,

    /// Secrets to push, each with the certificate it becomes. Listed Secrets come before selected ones where both
    /// want the same certificate name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = limits::CERTIFICATES_MAX))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["secretName".into()]))]
    pub certificates: Vec<CertificateEntry>,

    /// Also push every Secret of type kubernetes.io/tls in this namespace that matches. Everything stated must hold;
    /// {} matches them all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "SecretSelector")]
    pub selector: Option<SecretSelector>,
}

fn default_template() -> String {
    "{secret}".into()
}

/// What became of the certificates.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct KeyVaultSyncStatus {
    /// The metadata.generation that this status was made of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "i64")]
    pub observed_generation: Option<i64>,

    /// Ready: True when the vault holds every certificate as wished; else the reason of the worst one. Reconciling:
    /// present and True while work is under way. Stalled: present and True when only a person can help.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,

    /// How many certificates are up to date, of how many, for example 3/3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String", length(max = limits::SYNCED_LENGTH_MAX))]
    pub synced: Option<String>,

    /// When the first of the certificates in the vault expires.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::time")]
    pub next_expiry: Option<Time>,

    /// When something was last written to the vault.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::time")]
    pub last_push_time: Option<Time>,

    /// The certificates one by one, failing ones first. At most 100 are shown; the rest is only counted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = limits::STATUS_CERTIFICATES_MAX))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub certificates: Vec<CertificateStatus>,
}

/// What became of one certificate.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct CertificateStatus {
    /// Name of the Secret.
    #[schemars(length(max = limits::OBJECT_NAME_LENGTH_MAX))]
    pub secret_name: String,

    /// Namespace of the Secret; only on a ClusterKeyVaultSync.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String", length(max = limits::LABEL_LENGTH_MAX))]
    pub namespace: Option<String>,

    /// Name of the certificate in the vault; missing while it cannot be told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String", length(max = limits::CERTIFICATE_NAME_LENGTH_MAX))]
    pub certificate_name: Option<String>,

    /// Address of the secret behind the certificate, without version: what Application Gateway and Front Door ask
    /// for, for example https://contoso.vault.azure.net/secrets/web-prod. They follow the newest version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String", length(max = limits::SECRET_ID_LENGTH_MAX))]
    pub secret_id: Option<String>,

    /// Key Vault's name for the version that was pushed last: 32 hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String", length(max = limits::DIGEST_LENGTH_MAX))]
    pub version: Option<String>,

    /// SHA-1 of the certificate, in hexadecimal as the Azure portal shows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String", length(max = limits::DIGEST_LENGTH_MAX))]
    pub thumbprint: Option<String>,

    /// When the certificate in the vault expires.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::time")]
    pub not_after: Option<Time>,

    /// Synced: the vault holds it. Pending: it is waited for, and nobody need do anything. Failed: see reason and
    /// message.
    pub state: CertificateState,

    /// Why, in one CamelCase word, for example SecretNotFound.
    #[schemars(length(max = limits::REASON_LENGTH_MAX))]
    pub reason: String,

    /// Why, in a sentence that names the objects, what was found and what to do next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String", length(max = limits::ROW_MESSAGE_LENGTH_MAX))]
    pub message: Option<String>,
}

/// Where one certificate stands.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CertificateState {
    /// The vault holds it.
    Synced,
    /// It is waited for.
    Pending,
    /// Somebody must act.
    Failed,
}
