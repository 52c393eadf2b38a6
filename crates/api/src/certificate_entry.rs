//! One listed Secret of a KeyVaultSync, and where in a Secret certificate and key are found.
//! What holds for every certificate of the resource is left to `push_settings`.

use std::collections::BTreeMap;

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::schema;

/// One Secret and the certificate it becomes.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct CertificateEntry {
    /// Name of the Secret, in the namespace of this resource, for example web-tls. It need not exist yet: the entry
    /// claims its certificate name all the same.
    #[schemars(schema_with = "schema::object_name")]
    pub secret_name: String,

    /// Name of the certificate in the vault: 1 to 127 letters, digits and hyphens, for example web-prod. Key Vault
    /// compares names without case. Default: what certificateNameTemplate makes of the Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::certificate_name")]
    pub certificate_name: Option<String>,

    /// Tags of this certificate in the vault, for example team: web. They are added to the resource's tags and win
    /// over tags of the same name; together at most 11, because Key Vault holds 15 and keyvault-sync needs 4.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::tags")]
    pub tags: BTreeMap<String, String>,

    /// Where in the Secret the certificate and its private key are. Default: tls.crt and tls.key, as in Secrets of
    /// type kubernetes.io/tls; set it for Opaque Secrets with keys of their own.
    #[serde(default)]
    pub keys: SecretKeys,
}

/// Keys of a Secret's data.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq, Hash)]
#[serde(rename_all = "camelCase")]
pub struct SecretKeys {
    /// Key under which the Secret holds the certificate and its chain, as PEM, for example tls.crt.
    #[serde(default = "default_certificate")]
    #[schemars(schema_with = "schema::data_key")]
    pub certificate: String,

    /// Key under which the Secret holds the private key, as PEM, for example tls.key.
    #[serde(default = "default_private_key")]
    #[schemars(schema_with = "schema::data_key")]
    pub private_key: String,
}

impl Default for SecretKeys {
    fn default() -> Self {
        Self { certificate: default_certificate(), private_key: default_private_key() }
    }
}

fn default_certificate() -> String {
    "tls.crt".into()
}

fn default_private_key() -> String {
    "tls.key".into()
}
