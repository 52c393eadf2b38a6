//! The clouds of Azure: which DNS suffix, authority and token audience belong together.
//! Leaves to others what is done with them (tls.rs names them, auth.rs challenges and checks).

/// One Azure cloud, as its hosts name it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Cloud {
    /// DNS suffix of its vaults, without a leading dot.
    pub(crate) vault_suffix: &'static str,
    /// Host of its Entra ID.
    pub(crate) authority: &'static str,
    /// Audience a token for any of its vaults must have.
    pub(crate) audience: &'static str,
    /// Host that stands in the `iss` of version 1 tokens (sovereign clouds: Microsoft identity platform, "National clouds").
    pub(crate) token_issuer: &'static str,
}

/// The clouds that the emulator answers for.
pub(crate) const CLOUDS: [Cloud; 3] = [
    Cloud {
        vault_suffix: "vault.azure.net",
        authority: "login.microsoftonline.com",
        audience: "https://vault.azure.net",
        token_issuer: "sts.windows.net",
    },
    Cloud {
        vault_suffix: "vault.azure.cn",
        authority: "login.chinacloudapi.cn",
        audience: "https://vault.azure.cn",
        token_issuer: "sts.chinacloudapi.cn",
    },
    Cloud {
        vault_suffix: "vault.usgovcloudapi.net",
        authority: "login.microsoftonline.us",
        audience: "https://vault.usgovcloudapi.net",
        token_issuer: "sts.windows.net",
    },
];

impl Cloud {
    /// The cloud whose Entra ID answers under `host`.
    pub(crate) fn of_authority(host: &str) -> Option<&'static Cloud> {
        CLOUDS.iter().find(|cloud| cloud.authority == host)
    }

    /// The cloud a vault's host belongs to; the public one where the suffix is none of Azure's.
    pub(crate) fn of_vault(host: &str) -> &'static Cloud {
        CLOUDS.iter().find(|cloud| host.ends_with(cloud.vault_suffix)).unwrap_or(&CLOUDS[0])
    }

    /// The cloud whose vaults take tokens of `audience`.
    pub(crate) fn of_audience(audience: &str) -> Option<&'static Cloud> {
        CLOUDS.iter().find(|cloud| cloud.audience == audience)
    }

    /// The `iss` of this cloud's version 1 access tokens.
    pub(crate) fn issuer(&self, tenant: &str) -> String {
        format!("https://{}/{tenant}/", self.token_issuer)
    }
}
