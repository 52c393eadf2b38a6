//! How long and how many: every maximum of the schema, with its reason.
//! Without them the API server refuses the CEL rules, because it cannot bound their cost.

/// Certificates one KeyVaultSync lists. With longer entries an object nears etcd's 1.5 MiB; more certificates are a
/// selector's job.
pub const CERTIFICATES_MAX: u32 = 500;
/// Rows of a KeyVaultSync's status: 100 weigh about 65 kB, 500 would weigh 200 kB and as much again in managed fields.
pub const STATUS_CERTIFICATES_MAX: u32 = 100;
/// Secrets that share one claim: a ClusterKeyVaultSync's copies of one certificate.
pub const SOURCES_MAX: u32 = 100;
/// Grants of a KeyVault; each may name many namespaces.
pub const GRANTS_MAX: u32 = 128;
/// Globs in one list.
pub const PATTERNS_MAX: u32 = 64;
/// Labels or requirements of one selector.
pub const SELECTOR_TERMS_MAX: u32 = 16;
/// Clusters a resource takes certificates over from.
pub const CLUSTERS_MAX: u32 = 16;
/// Conditions of one status: we write three, others may add theirs.
pub const CONDITIONS_MAX: u32 = 16;

/// A Kubernetes object's name (RFC 1123 subdomain).
pub const OBJECT_NAME_LENGTH_MAX: u32 = 253;
/// A namespace's or a label value's length (RFC 1123 label).
pub const LABEL_LENGTH_MAX: u32 = 63;
/// A label's or annotation's key: a DNS prefix of 253, a slash, a name of 63.
pub const QUALIFIED_NAME_LENGTH_MAX: u32 = 317;
/// A certificate's name in a vault
/// (<https://learn.microsoft.com/azure/key-vault/general/about-keys-secrets-certificates>).
pub const CERTIFICATE_NAME_LENGTH_MAX: u32 = 127;
/// A grant's glob: a certificate name, `{namespace}` instead of a namespace's name.
pub const GRANT_PATTERN_LENGTH_MAX: u32 = 140;
/// A template: the longest annotation key in it and some text around.
pub const TEMPLATE_LENGTH_MAX: u32 = 512;
/// A glob over annotation values.
pub const ANNOTATION_VALUE_LENGTH_MAX: u32 = 256;
/// The value of `keyvaultsync.io/sync-at`; longer ones are cut.
pub const SYNC_AT_LENGTH_MAX: u32 = 256;
/// A vault's host name (RFC 1035).
pub const HOST_LENGTH_MAX: u32 = 253;
/// `https://`, a host and a slash.
pub const URL_LENGTH_MAX: u32 = 262;
/// `https://<host>/secrets/<name>`.
pub const SECRET_ID_LENGTH_MAX: u32 = 512;
/// A GUID, as Entra ID prints it.
pub const GUID_LENGTH_MAX: u32 = 36;
/// A cluster id.
pub const CLUSTER_ID_LENGTH_MAX: u32 = 63;
/// A Kubernetes uid or resourceVersion; both are opaque.
pub const OPAQUE_LENGTH_MAX: u32 = 128;
/// Key Vault's version (32 hex digits today), a thumbprint (40), a fingerprint (`leaf-sha256:` and 64).
pub const DIGEST_LENGTH_MAX: u32 = 128;
/// A duration such as `720h` or `1h30m`.
pub const DURATION_LENGTH_MAX: u32 = 20;
/// An RFC 3339 time.
pub const TIME_LENGTH_MAX: u32 = 64;
/// `<number>/<number>`.
pub const SYNCED_LENGTH_MAX: u32 = 32;
/// A reason: one of our words.
pub const REASON_LENGTH_MAX: u32 = 128;
/// A sentence on a row of a status. Longer ones are cut with [`cut`] before they are written.
pub const ROW_MESSAGE_LENGTH_MAX: u32 = 2048;
/// A condition's sentence, as `metav1.Condition` bounds it. [`crate::conditions::set`] cuts longer ones.
pub const CONDITION_MESSAGE_LENGTH_MAX: u32 = 32_768;

/// `text`, at most `max` characters of it (the API server counts characters, not bytes); cut ones end in `…`.
pub fn cut(text: &str, max: u32) -> String {
    let max = max as usize;
    if text.chars().count() <= max {
        return text.to_owned();
    }
    text.chars().take(max.saturating_sub(1)).chain(['…']).collect()
}
