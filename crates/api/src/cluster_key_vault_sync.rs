//! `ClusterKeyVaultSync`: push the TLS Secrets of many namespaces to that vault.
//! Written by the platform team; the operator writes its status.

use keyvault_sync_core::names::CLUSTER_TEMPLATE_DEFAULT;
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use crate::key_vault_sync::KeyVaultSyncStatus;
use crate::push_settings::PushSettings;
use crate::schema;
use crate::selector::{NamespaceSelector, SecretSelector};

/// Which Secrets of which namespaces are pushed, where to, under which names, and what becomes of the certificates.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[kube(
    group = "keyvaultsync.io",
    version = "v1alpha1",
    kind = "ClusterKeyVaultSync",
    shortname = "ckvsync",
    category = "keyvault-sync",
    status = "KeyVaultSyncStatus",
    derive = "PartialEq",
    doc = "Pushes TLS Secrets of many namespaces to an Azure Key Vault as certificates, and keeps them up to date there.",
    validation = Rule::new("size(self.metadata.name) <= 63")
        .message("the name of a ClusterKeyVaultSync must have at most 63 characters, because it is written to a tag of Key Vault: choose a shorter one"),
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
pub struct ClusterKeyVaultSyncSpec {
    /// How the certificates are pushed.
    #[serde(flatten)]
    pub push: PushSettings,

    /// Makes the name of a certificate in the vault. Placeholders: {namespace} and {secret} of the Secret, {sync} the
    /// name of this resource, {label:KEY} and {annotation:KEY} of the Secret; for example
    /// "{annotation:cert-manager.io/certificate-name}". Characters other than letters, digits and hyphens become
    /// hyphens. Secrets of several namespaces may share one name while their content is equal.
    #[serde(default = "default_template")]
    #[schemars(schema_with = "schema::name_template")]
    pub certificate_name_template: String,

    /// The namespaces whose Secrets are pushed. Everything stated must hold. Default: every namespace. For each the
    /// KeyVault must grant the certificate's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "NamespaceSelector")]
    pub namespace_selector: Option<NamespaceSelector>,

    /// Push every Secret of type kubernetes.io/tls in these namespaces that matches. Everything stated must hold; {}
    /// matches them all.
    pub selector: SecretSelector,
}

fn default_template() -> String {
    CLUSTER_TEMPLATE_DEFAULT.into()
}
