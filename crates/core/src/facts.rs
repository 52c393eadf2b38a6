//! What a vault shows of a certificate: one version, a soft-deleted certificate, a row of a list. Facts, no judgement.
//! Who owns what is shown is left to `ownership`; what follows from it, to `push`, `release` and `inventory`.

use crate::fingerprint::Fingerprint;
use crate::ownership::Tags;

/// One version of a certificate as the vault shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFacts {
    /// Key Vault's version.
    pub version: String,
    /// SHA-1 of the leaf (`x5t`).
    pub thumbprint: [u8; 20],
    /// [`Fingerprint::Leaf`] of the leaf (`cer`); `None` where the answer has no certificate.
    pub leaf: Option<Fingerprint>,
    /// When it expires, unix seconds; `None` where the vault did not say.
    pub not_after: Option<i64>,
    /// False: somebody stopped it.
    pub enabled: bool,
    /// The version's tags.
    pub tags: Tags,
    /// Whether the private key may leave the vault; `None` where the answer has no policy.
    pub exportable: Option<bool>,
}

/// A soft-deleted certificate, by its newest version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeletedFacts {
    /// Its newest version, as it was.
    pub newest: CertificateFacts,
    /// When the vault purges it by itself, unix seconds; `None` where the vault did not say.
    pub scheduled_purge: Option<i64>,
    /// Nobody can purge it before that: the vault has purge protection.
    pub is_purge_protected: bool,
}

/// A row of the list of a vault's certificates: the newest version, without its version, chain or policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedFacts {
    /// The certificate's name as the vault spells it.
    pub name: String,
    /// SHA-1 of the leaf (`x5t`); `None` where the row has none (a certificate whose creation is pending).
    pub thumbprint: Option<[u8; 20]>,
    /// False: somebody stopped it.
    pub enabled: bool,
    /// The newest version's tags.
    pub tags: Tags,
}
