//! The words in which an outcome is told (`Reason`) and who can help (`Fault`): condition reason, Event reason and metric label.
//! What follows from a fault (requeue, condition, log level) is left to the operator's disposition table.

use std::fmt;

/// Who can help, and therefore whether trying again is of use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Fault {
    /// The author of the Secret or of the resource must change it; a watch tells when that happened.
    Invalid,
    /// Somebody outside the cluster's watches must act (a role, a firewall, an owner): asked again now and then.
    Blocked,
    /// Passes by itself: throttling, outages, time limits.
    Transient,
    /// A defect of keyvault-sync or an answer nobody can make sense of.
    Bug,
}

/// What is said of a certificate or of a resource; the serialised word is the variant's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// The vault holds exactly what was asked for.
    Synced,
    /// The vault was reached and let us in.
    Reached,
    /// Work on the present wish is under way; nothing is known of its outcome yet.
    Reconciling,
    /// `suspend: true`.
    Suspended,
    /// There is no such Secret (yet).
    SecretNotFound,
    /// The Secret lacks the certificate or the key, or one of them is still empty.
    SecretIncomplete,
    /// The certificate entry cannot be read or does not verify.
    InvalidCertificate,
    /// The private key entry cannot be read.
    InvalidPrivateKey,
    /// The private key is encrypted.
    EncryptedPrivateKey,
    /// The private key belongs to none of the certificates.
    KeyMismatch,
    /// Key Vault cannot hold a key of this type.
    UnsupportedKeyType,
    /// The certificate has expired; Key Vault refuses such an import.
    CertificateExpired,
    /// cert-manager's placeholder, waiting for the issued certificate.
    TemporaryCertificate,
    /// Pushed, but an issuer between the certificate and its root is missing.
    IncompleteChain,
    /// The name cannot be a Key Vault certificate name.
    InvalidName,
    /// Too many tags, a tag too long, or one of ours.
    InvalidTags,
    /// Another resource or Secret holds the name.
    NameCollision,
    /// No such KeyVault, or its URL names another vault by now.
    VaultNotFound,
    /// No grant of the KeyVault allows this namespace this name.
    NotGranted,
    /// The vault's certificate has no owner tag of keyvault-sync.
    NotManaged,
    /// The vault's certificate names another owner.
    OwnedByAnother,
    /// A plain key or secret of that name stands in the way.
    NameTakenByKeyOrSecret,
    /// Somebody disabled the certificate in the vault.
    DisabledInVault,
    /// The name is soft-deleted in the vault.
    SoftDeleted,
    /// The name is being deleted in the vault.
    BeingDeleted,
    /// The name is being recovered in the vault.
    Recovering,
    /// The vault has an operation of its own pending on the name.
    OperationPending,
    /// A certificate that should have been deleted stays in the vault.
    LeftInVault,
    /// Entra ID gave no token.
    AuthenticationFailed,
    /// The identity lacks a role or an access policy.
    Forbidden,
    /// The vault's firewall or network settings refuse this caller.
    FirewallBlocked,
    /// DNS, TCP or TLS to the vault failed.
    VaultUnreachable,
    /// The vault refused what was sent.
    VaultRejected,
    /// Each namespace opens the vault with an identity of its own: well for a KeyVault, no way for a ClusterKeyVaultSync.
    PerNamespaceIdentity,
    /// The vault asked for fewer calls.
    Throttled,
    /// The vault or Entra ID answers with server errors or not in time.
    Unavailable,
    /// The private key cannot leave the vault.
    NotExportable,
    /// A defect of keyvault-sync.
    InternalError,
}

impl Reason {
    /// Every reason, for reference pages and total tests.
    pub const ALL: [Reason; 38] = [
        Reason::Synced,
        Reason::Reached,
        Reason::Reconciling,
        Reason::Suspended,
        Reason::SecretNotFound,
        Reason::SecretIncomplete,
        Reason::InvalidCertificate,
        Reason::InvalidPrivateKey,
        Reason::EncryptedPrivateKey,
        Reason::KeyMismatch,
        Reason::UnsupportedKeyType,
        Reason::CertificateExpired,
        Reason::TemporaryCertificate,
        Reason::IncompleteChain,
        Reason::InvalidName,
        Reason::InvalidTags,
        Reason::NameCollision,
        Reason::VaultNotFound,
        Reason::NotGranted,
        Reason::NotManaged,
        Reason::OwnedByAnother,
        Reason::NameTakenByKeyOrSecret,
        Reason::DisabledInVault,
        Reason::SoftDeleted,
        Reason::BeingDeleted,
        Reason::Recovering,
        Reason::OperationPending,
        Reason::LeftInVault,
        Reason::AuthenticationFailed,
        Reason::Forbidden,
        Reason::FirewallBlocked,
        Reason::VaultUnreachable,
        Reason::VaultRejected,
        Reason::PerNamespaceIdentity,
        Reason::Throttled,
        Reason::Unavailable,
        Reason::NotExportable,
        Reason::InternalError,
    ];

    /// The CamelCase word that users see.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Synced => "Synced",
            Reason::Reached => "Reached",
            Reason::Reconciling => "Reconciling",
            Reason::Suspended => "Suspended",
            Reason::SecretNotFound => "SecretNotFound",
            Reason::SecretIncomplete => "SecretIncomplete",
            Reason::InvalidCertificate => "InvalidCertificate",
            Reason::InvalidPrivateKey => "InvalidPrivateKey",
            Reason::EncryptedPrivateKey => "EncryptedPrivateKey",
            Reason::KeyMismatch => "KeyMismatch",
            Reason::UnsupportedKeyType => "UnsupportedKeyType",
            Reason::CertificateExpired => "CertificateExpired",
            Reason::TemporaryCertificate => "TemporaryCertificate",
            Reason::IncompleteChain => "IncompleteChain",
            Reason::InvalidName => "InvalidName",
            Reason::InvalidTags => "InvalidTags",
            Reason::NameCollision => "NameCollision",
            Reason::VaultNotFound => "VaultNotFound",
            Reason::NotGranted => "NotGranted",
            Reason::NotManaged => "NotManaged",
            Reason::OwnedByAnother => "OwnedByAnother",
            Reason::NameTakenByKeyOrSecret => "NameTakenByKeyOrSecret",
            Reason::DisabledInVault => "DisabledInVault",
            Reason::SoftDeleted => "SoftDeleted",
            Reason::BeingDeleted => "BeingDeleted",
            Reason::Recovering => "Recovering",
            Reason::OperationPending => "OperationPending",
            Reason::LeftInVault => "LeftInVault",
            Reason::AuthenticationFailed => "AuthenticationFailed",
            Reason::Forbidden => "Forbidden",
            Reason::FirewallBlocked => "FirewallBlocked",
            Reason::VaultUnreachable => "VaultUnreachable",
            Reason::VaultRejected => "VaultRejected",
            Reason::PerNamespaceIdentity => "PerNamespaceIdentity",
            Reason::Throttled => "Throttled",
            Reason::Unavailable => "Unavailable",
            Reason::NotExportable => "NotExportable",
            Reason::InternalError => "InternalError",
        }
    }

    /// The reason of this word; `None` for a word that is none of ours (a status written by a newer version).
    pub fn parse(word: &str) -> Option<Reason> {
        Reason::ALL.into_iter().find(|reason| reason.as_str() == word)
    }

    /// Who can help, where it stands for a failure.
    ///
    /// `SecretNotFound`, `SecretIncomplete` and `TemporaryCertificate` are `Invalid` as well: only a change of
    /// the Secret helps, and the watch tells of it.
    pub fn fault(self) -> Option<Fault> {
        match self {
            Reason::Synced | Reason::IncompleteChain | Reason::Suspended | Reason::Reached => None,
            Reason::SecretNotFound
            | Reason::SecretIncomplete
            | Reason::InvalidCertificate
            | Reason::InvalidPrivateKey
            | Reason::EncryptedPrivateKey
            | Reason::KeyMismatch
            | Reason::UnsupportedKeyType
            | Reason::CertificateExpired
            | Reason::TemporaryCertificate
            | Reason::InvalidName
            | Reason::InvalidTags
            | Reason::NameCollision
            | Reason::VaultNotFound
            | Reason::NotGranted
            | Reason::PerNamespaceIdentity => Some(Fault::Invalid),
            Reason::NotManaged
            | Reason::OwnedByAnother
            | Reason::NameTakenByKeyOrSecret
            | Reason::DisabledInVault
            | Reason::SoftDeleted
            | Reason::LeftInVault
            | Reason::AuthenticationFailed
            | Reason::Forbidden
            | Reason::FirewallBlocked
            | Reason::VaultUnreachable
            | Reason::VaultRejected
            | Reason::NotExportable => Some(Fault::Blocked),
            Reason::Reconciling
            | Reason::BeingDeleted
            | Reason::Recovering
            | Reason::OperationPending
            | Reason::Throttled
            | Reason::Unavailable => Some(Fault::Transient),
            Reason::InternalError => Some(Fault::Bug),
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An outcome that is not success: the word, and a sentence that names the object, what was found and what to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The word.
    pub reason: Reason,
    /// The sentence. Never key material, never a raw response body.
    pub message: String,
}

impl Problem {
    /// A problem with its sentence.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason, self.message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_is_listed_once_and_parses_back() {
        for (index, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(Reason::parse(reason.as_str()), Some(reason));
            assert_eq!(Reason::ALL.iter().position(|other| *other == reason), Some(index));
        }
        assert_eq!(Reason::parse("synced"), None);
    }

    #[test]
    fn every_word_is_a_condition_reason() {
        for reason in Reason::ALL {
            assert!(reason.as_str().chars().all(|c| c.is_ascii_alphanumeric()), "{reason}");
        }
    }
}
