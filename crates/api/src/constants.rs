//! The words that Kubernetes objects of keyvault-sync are found and marked by.
//! The tags in a vault are spelt in `keyvault_sync_core::ownership`.

/// The API group of every kind.
pub const GROUP: &str = "keyvaultsync.io";
/// The version of every kind.
pub const VERSION: &str = "v1alpha1";
/// `kubectl get keyvault-sync -A` lists every kind.
pub const CATEGORY: &str = "keyvault-sync";

/// Annotation of a KeyVaultSync or KeyVault; a new value, whatever it is, compares with the vault at once.
pub const SYNC_AT_ANNOTATION: &str = "keyvaultsync.io/sync-at";
/// Label of a claim: `<operator namespace>.<release>`, which looks after it, also when its owner is gone.
pub const INSTALLATION_LABEL: &str = "keyvaultsync.io/installation";

/// Annotation of the definitions: the version of keyvault-sync that they are of.
pub const VERSION_ANNOTATION: &str = "keyvaultsync.io/version";

/// Annotations by which Azure Workload Identity finds the ids of a ServiceAccount.
/// Source: <https://azure.github.io/azure-workload-identity/docs/topics/service-account-labels-and-annotations.html>.
pub const CLIENT_ID_ANNOTATION: &str = "azure.workload.identity/client-id";
/// See [`CLIENT_ID_ANNOTATION`].
pub const TENANT_ID_ANNOTATION: &str = "azure.workload.identity/tenant-id";

/// Field manager of the sync controller: claims, and statuses of KeyVaultSyncs.
pub const SYNC_FIELD_MANAGER: &str = "keyvault-sync";
/// Field manager of the certificate controller: statuses of claims.
pub const CERTIFICATE_FIELD_MANAGER: &str = "keyvault-sync-certificate";
/// Field manager of the KeyVault controller: statuses of KeyVaults.
pub const KEY_VAULT_FIELD_MANAGER: &str = "keyvault-sync-keyvault";
/// `reportingController` of our Events.
pub const EVENT_REPORTER: &str = "keyvaultsync.io/keyvault-sync";
