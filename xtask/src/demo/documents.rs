//! What the demo applies: the documents a platform team and an application team write, and the Secret of cert-manager.
//! Applying them is left to the story.

use keyvault_sync_e2e::certificates::{Authority, Issued, KeyType, Leaf};

/// The application's namespace.
pub(crate) const NAMESPACE: &str = "web";
/// Its Secret.
pub(crate) const SECRET: &str = "shop-tls";
/// A Secret with the next certificate, to renew with by hand; nothing watches it.
pub(crate) const NEXT_SECRET: &str = "shop-next";
/// The KeyVault.
pub(crate) const KEY_VAULT: &str = "contoso";
/// The vault's host.
pub(crate) const HOST: &str = "contoso.vault.azure.net";
/// The KeyVaultSync.
pub(crate) const SYNC: &str = "shop";
/// The certificate's name in the vault.
pub(crate) const CERTIFICATE: &str = "web--shop";

const DNS_NAME: &str = "shop.example.com";

/// The grants, as JSON for a patch that gives them back.
pub(crate) const GRANTS: &str = r#"[{"namespaces":{"names":["web"]},"push":["{namespace}--*"]}]"#;

/// Namespace, KeyVault and KeyVaultSync, each as one writes it.
pub(crate) const DOCUMENTS: &str = r#"apiVersion: v1
kind: Namespace
metadata:
  name: web
---
# Written once by the platform team: a vault, and who may use which names in it.
apiVersion: keyvaultsync.io/v1alpha1
kind: KeyVault
metadata:
  name: contoso
spec:
  url: https://contoso.vault.azure.net
  grants:
    - namespaces: {names: ["web"]}
      push: ["{namespace}--*"]
---
# Written by the application team: this Secret, to that vault, under this name.
apiVersion: keyvaultsync.io/v1alpha1
kind: KeyVaultSync
metadata:
  name: shop
  namespace: web
spec:
  vaultRef: {name: contoso}
  certificates:
    - secretName: shop-tls
      certificateName: web--shop
      tags: {team: shop}
"#;

/// The Secret as it is shown: whose certificates are in it, and nothing of the key.
pub(crate) const SECRET_SHOWN: &str = r"# Written by cert-manager, usually; here by the demo.
apiVersion: v1
kind: Secret
metadata:
  name: shop-tls
  namespace: web
type: kubernetes.io/tls
data:
  tls.crt: …   # CN=shop.example.com (RSA 2048), then CN=Demo Intermediate
  tls.key: …   # its private key, never shown
  ca.crt: …    # CN=Demo Root
";

/// A certification authority of the demo's own: an intermediate below a root.
///
/// # Errors
/// The random source fails.
pub(crate) fn authority() -> anyhow::Result<Authority> {
    Authority::root("Demo Root")?.intermediate("Demo Intermediate")
}

/// A new leaf for the shop, with a new key.
///
/// # Errors
/// The random source fails.
pub(crate) fn leaf(authority: &Authority) -> anyhow::Result<Issued> {
    authority.issue(&Leaf::server(DNS_NAME).key_type(KeyType::Rsa2048))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documents_name_what_the_story_looks_for() {
        for line in [
            format!("secretName: {SECRET}"),
            format!("certificateName: {CERTIFICATE}"),
            format!("url: https://{HOST}"),
            format!("vaultRef: {{name: {KEY_VAULT}}}"),
            format!("name: {SYNC}\n  namespace: {NAMESPACE}"),
        ] {
            assert!(DOCUMENTS.contains(&line), "{line}");
        }
        assert!(SECRET_SHOWN.contains(&format!("name: {SECRET}\n  namespace: {NAMESPACE}")));
    }
}
