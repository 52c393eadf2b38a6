//! The clouds of Azure: which DNS suffix, authority and token audience belong together.
//! Leaves to others what is done with them (tls.rs names them, auth.rs challenges and checks).

/// One Azure cloud, as its hosts name it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Cloud {
    /// DNS suffix of its vaults, without a leading dot.
    pub(crate) vault_suffix: &'static str,
    /// Host of its Entra ID, as challenges and Microsoft's libraries name it.
    pub(crate) authority: &'static str,
    /// All hosts under which its Entra ID answers; the first is the one clients are told to prefer, and the issuer of
    /// version 2 tokens (instance discovery and OpenID configuration of the real one).
    pub(crate) hosts: &'static [&'static str],
    /// Host under which Microsoft's libraries keep this cloud's tokens in their caches.
    pub(crate) cache_host: &'static str,
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
        hosts: &["login.microsoftonline.com", "login.windows.net", "login.microsoft.com", "sts.windows.net"],
        cache_host: "login.windows.net",
        audience: "https://vault.azure.net",
        token_issuer: "sts.windows.net",
    },
    Cloud {
        vault_suffix: "vault.azure.cn",
        authority: "login.chinacloudapi.cn",
        hosts: &["login.partner.microsoftonline.cn", "login.chinacloudapi.cn"],
        cache_host: "login.partner.microsoftonline.cn",
        audience: "https://vault.azure.cn",
        token_issuer: "sts.chinacloudapi.cn",
    },
    Cloud {
        vault_suffix: "vault.usgovcloudapi.net",
        authority: "login.microsoftonline.us",
        hosts: &["login.microsoftonline.us", "login.usgovcloudapi.net"],
        cache_host: "login.microsoftonline.us",
        audience: "https://vault.usgovcloudapi.net",
        token_issuer: "sts.windows.net",
    },
];

impl Cloud {
    /// The cloud whose Entra ID answers under `host`.
    pub(crate) fn of_authority(host: &str) -> Option<&'static Cloud> {
        CLOUDS.iter().find(|cloud| cloud.hosts.contains(&host))
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

    /// The host of its Entra ID that clients are told to prefer.
    pub(crate) fn preferred_host(&self) -> &'static str {
        self.hosts.first().copied().unwrap_or(self.authority)
    }

    /// The `iss` of this cloud's version 2 access tokens.
    pub(crate) fn issuer_v2(&self, tenant: &str) -> String {
        format!("https://{}/{tenant}/v2.0", self.preferred_host())
    }
}
