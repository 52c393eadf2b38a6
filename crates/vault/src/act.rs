//! What a call wants of a vault: in words, whether it changes anything, and the permission it takes.
//! What an answer to it means is left to `classify`.

/// What a call wants from the vault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    /// To be there, and to ask for a token.
    Reach,
    /// To take the token and answer a read of a certificate that nobody has.
    Contact,
    Read,
    ReadDeleted,
    List,
    Import {
        /// Of the PFX, before base64.
        bundle_bytes: usize,
    },
    SetTags,
    Adopt,
    Delete,
    Recover,
}

impl Act {
    /// Whether the vault is another one afterwards.
    pub(crate) fn is_write(self) -> bool {
        match self {
            Act::Reach | Act::Contact | Act::Read | Act::ReadDeleted | Act::List => false,
            Act::Import { .. } | Act::SetTags | Act::Adopt | Act::Delete | Act::Recover => true,
        }
    }

    /// What it is counted as.
    pub(crate) fn operation(self) -> &'static str {
        match self {
            Act::Reach => "reach",
            Act::Contact | Act::Read => "get",
            Act::ReadDeleted => "get_deleted",
            Act::List => "list",
            Act::Import { .. } => "import",
            Act::SetTags | Act::Adopt => "update",
            Act::Delete => "delete",
            Act::Recover => "recover",
        }
    }

    /// `importing certificate web-prod into vault contoso.vault.azure.net`; `what` is `certificate web-prod`.
    pub(crate) fn on(self, what: &str, host: &str) -> String {
        match self {
            Act::Reach => format!("reaching vault {host}"),
            Act::Contact => format!("opening vault {host}"),
            Act::Read => format!("reading {what} from vault {host}"),
            Act::ReadDeleted => format!("looking for a soft-deleted {what} in vault {host}"),
            Act::List => format!("listing {what} of vault {host}"),
            Act::Import { .. } => format!("importing {what} into vault {host}"),
            Act::SetTags => format!("setting the tags of {what} in vault {host}"),
            Act::Adopt => format!("adopting {what} in vault {host}"),
            Act::Delete => format!("deleting {what} from vault {host}"),
            Act::Recover => format!("recovering {what} in vault {host}"),
        }
    }

    /// The certificate permission of an access policy that the call takes
    /// (<https://learn.microsoft.com/azure/key-vault/general/assign-access-policy>).
    pub(crate) fn permission(self) -> &'static str {
        match self {
            Act::Reach | Act::Contact | Act::Read | Act::ReadDeleted => "get",
            Act::List => "list",
            Act::Import { .. } => "import",
            Act::SetTags | Act::Adopt => "update",
            Act::Delete => "delete",
            Act::Recover => "recover",
        }
    }

    /// The data action of a role that the call takes
    /// (<https://learn.microsoft.com/azure/role-based-access-control/permissions/security#microsoftkeyvault>).
    pub(crate) fn data_action(self) -> &'static str {
        match self {
            Act::Reach | Act::Contact | Act::Read | Act::ReadDeleted | Act::List => {
                "Microsoft.KeyVault/vaults/certificates/read"
            }
            Act::Import { .. } => "Microsoft.KeyVault/vaults/certificates/import/action",
            Act::SetTags | Act::Adopt => "Microsoft.KeyVault/vaults/certificates/update/action",
            Act::Delete => "Microsoft.KeyVault/vaults/certificates/delete",
            Act::Recover => "Microsoft.KeyVault/vaults/certificates/recover/action",
        }
    }
}
