//! As whom a vault is opened: the five kinds of Entra ID credentials, at most one of them.
//! Getting a token with them is left to the vault adapter.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::schema;

/// As whom a vault is opened. At most one member; none means workloadIdentity with its defaults.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new(
        "[has(self.workloadIdentity), has(self.serviceAccount), has(self.servicePrincipal), \
         has(self.clientCertificate), has(self.managedIdentity)].filter(x, x).size() <= 1"
    ).message(
        "identity must have at most one of workloadIdentity, serviceAccount, servicePrincipal, clientCertificate \
         and managedIdentity: remove the others"
    )
)]
pub struct Identity {
    /// The operator's own identity, by the federated token of its pod (Azure Workload Identity).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "WorkloadIdentity")]
    pub workload_identity: Option<WorkloadIdentity>,

    /// A ServiceAccount in the namespace of the resource that uses the vault: each namespace acts as itself, and the
    /// operator needs no role in the vault.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "ServiceAccountIdentity")]
    pub service_account: Option<ServiceAccountIdentity>,

    /// An app registration with a client secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "ServicePrincipal")]
    pub service_principal: Option<ServicePrincipal>,

    /// An app registration with a certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "ClientCertificate")]
    pub client_certificate: Option<ClientCertificate>,

    /// The managed identity of the node that the operator runs on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "ManagedIdentity")]
    pub managed_identity: Option<ManagedIdentity>,
}

/// The operator's own federated token.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadIdentity {
    /// Client id of the app registration or user-assigned identity, a GUID. Default: AZURE_CLIENT_ID of the
    /// operator's pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::guid")]
    pub client_id: Option<String>,

    /// Tenant id, a GUID. Default: AZURE_TENANT_ID of the operator's pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::guid")]
    pub tenant_id: Option<String>,
}

/// A token of a ServiceAccount of the namespace that uses the vault.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ServiceAccountIdentity {
    /// Name of the ServiceAccount, for example keyvault. It is looked up in the namespace of the resource that uses
    /// the vault.
    #[schemars(schema_with = "schema::object_name")]
    pub name: String,

    /// Client id, a GUID. Default: the ServiceAccount's annotation azure.workload.identity/client-id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::guid")]
    pub client_id: Option<String>,

    /// Tenant id, a GUID. Default: the ServiceAccount's annotation azure.workload.identity/tenant-id, else
    /// AZURE_TENANT_ID of the operator's pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::guid")]
    pub tenant_id: Option<String>,
}

/// An app registration with a client secret.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ServicePrincipal {
    /// Tenant id, a GUID.
    #[schemars(schema_with = "schema::guid")]
    pub tenant_id: String,

    /// Client id of the app registration, a GUID.
    #[schemars(schema_with = "schema::guid")]
    pub client_id: String,

    /// The Secret that holds the client secret, in the operator's namespace.
    pub client_secret_ref: SecretKeyRef,
}

/// One key of a Secret in the operator's namespace.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct SecretKeyRef {
    /// Name of the Secret.
    #[schemars(schema_with = "schema::object_name")]
    pub name: String,

    /// Key of its data.
    #[serde(default = "default_secret_key")]
    #[schemars(schema_with = "schema::data_key")]
    pub key: String,
}

/// An app registration with a certificate.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ClientCertificate {
    /// Tenant id, a GUID.
    #[schemars(schema_with = "schema::guid")]
    pub tenant_id: String,

    /// Client id of the app registration, a GUID.
    #[schemars(schema_with = "schema::guid")]
    pub client_id: String,

    /// The Secret of type kubernetes.io/tls that holds certificate and key, in the operator's namespace.
    pub secret_ref: SecretRef,
}

/// A Secret in the operator's namespace.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct SecretRef {
    /// Name of the Secret.
    #[schemars(schema_with = "schema::object_name")]
    pub name: String,
}

/// A managed identity of the node.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ManagedIdentity {
    /// Client id of a user-assigned identity, a GUID. Default: the system-assigned one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::guid")]
    pub client_id: Option<String>,
}

fn default_secret_key() -> String {
    "clientSecret".into()
}
