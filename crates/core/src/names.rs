//! Names, parsed once and never checked again: vault hosts, certificate names, claim names, name templates.
//! Whether a name may be used is left to `grants`; who holds it, to `claims`.

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{Hash, Hasher};

use crate::reason::{Problem, Reason};

/// Longest certificate name Key Vault takes.
const CERTIFICATE_NAME_MAX: usize = 127;
/// A vault's own name: 3 to 24 letters, digits and hyphens, a letter first, no hyphen last, none doubled.
const VAULT_NAME_LENGTH: std::ops::RangeInclusive<usize> = 3..=24;
/// A `ClusterKeyVaultSync`'s template where it states none: two hyphens keep `a` and `b-c` apart from `a-b` and `c`.
pub const CLUSTER_TEMPLATE_DEFAULT: &str = "{namespace}--{secret}";
/// How much of an offending text a message repeats.
const QUOTED_MAX: usize = 160;

/// An Azure cloud: the DNS suffix of its vaults and with it the authority and the token audience.
///
/// Source: <https://learn.microsoft.com/azure/key-vault/general/about-keys-secrets-certificates> (DNS suffixes).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cloud {
    /// Azure public.
    Public,
    /// Azure operated by 21Vianet.
    China,
    /// Azure US government.
    UsGovernment,
}

impl Cloud {
    /// Every cloud.
    pub const ALL: [Cloud; 3] = [Cloud::Public, Cloud::China, Cloud::UsGovernment];

    /// What follows the vault's name and a dot in its host.
    pub fn vault_suffix(self) -> &'static str {
        match self {
            Cloud::Public => "vault.azure.net",
            Cloud::China => "vault.azure.cn",
            Cloud::UsGovernment => "vault.usgovcloudapi.net",
        }
    }

    /// The host that issues tokens.
    pub fn authority_host(self) -> &'static str {
        match self {
            Cloud::Public => "login.microsoftonline.com",
            Cloud::China => "login.chinacloudapi.cn",
            Cloud::UsGovernment => "login.microsoftonline.us",
        }
    }

    /// The one scope a token for a vault of this cloud is asked with.
    pub fn vault_scope(self) -> &'static str {
        match self {
            Cloud::Public => "https://vault.azure.net/.default",
            Cloud::China => "https://vault.azure.cn/.default",
            Cloud::UsGovernment => "https://vault.usgovcloudapi.net/.default",
        }
    }

    /// The audience of a ServiceAccount token that Entra ID exchanges for one of its own. Federated credentials name it.
    ///
    /// Source: <https://learn.microsoft.com/entra/workload-id/workload-identity-federation-config-app-trust-managed-identity>.
    pub const fn exchange_audience(self) -> &'static str {
        match self {
            Cloud::Public => "api://AzureADTokenExchange",
            Cloud::China => "api://AzureADTokenExchangeChina",
            Cloud::UsGovernment => "api://AzureADTokenExchangeUSGov",
        }
    }
}

/// The host of one vault, lower case: `contoso.vault.azure.net`. Memory, claims and budgets are keyed by it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VaultHost {
    host: String,
    cloud_index: u8,
}

impl VaultHost {
    /// Parses a `KeyVault`'s `url`: https, a vault directly under one of the `allowed` clouds' suffixes, nothing else.
    ///
    /// # Errors
    /// `VaultNotFound` with what is wrong: scheme, user part, port, path, query, fragment, look-alike suffix, IP
    /// address, non-ASCII letters, a trailing dot.
    pub fn from_url(url: &str, allowed: &[Cloud]) -> Result<Self, Problem> {
        let Some(rest) = url.strip_prefix("https://") else {
            return Err(not_a_vault(url, "it must begin with https://"));
        };
        let host = rest.strip_suffix('/').unwrap_or(rest);
        if let Some(stranger) = host.chars().find(|c| !(c.is_ascii_alphanumeric() || *c == '-' || *c == '.'))
        {
            let hint = match stranger {
                '@' => "it must not have a user part",
                ':' => "it must not have a port",
                '/' | '?' | '#' => "it must not have a path, query or fragment",
                _ => "a vault's host has only letters, digits, hyphens and dots",
            };
            return Err(not_a_vault(url, hint));
        }
        Self::from_host(&host.to_ascii_lowercase(), allowed).map_err(|hint| not_a_vault(url, &hint))
    }

    /// Parses a host as claims carry it.
    ///
    /// # Errors
    /// A sentence that says what a vault's host looks like.
    pub fn from_host(host: &str, allowed: &[Cloud]) -> Result<Self, String> {
        for cloud in allowed {
            let Some(name) = host.strip_suffix(cloud.vault_suffix()).and_then(|rest| rest.strip_suffix('.'))
            else {
                continue;
            };
            if is_vault_name(name) {
                let cloud_index = Cloud::ALL.iter().position(|other| other == cloud).unwrap_or(0) as u8;
                return Ok(Self { host: host.to_owned(), cloud_index });
            }
            return Err(format!(
                "{} is not a vault's name (3 to 24 lower-case letters, digits and single hyphens, a letter first)",
                quote(name)
            ));
        }
        let suffixes: Vec<_> = allowed.iter().map(|cloud| cloud.vault_suffix()).collect();
        Err(format!("its host must be one name under {}", suffixes.join(" or ")))
    }

    /// `contoso.vault.azure.net`
    pub fn as_str(&self) -> &str {
        &self.host
    }

    /// The cloud whose suffix the host has.
    pub fn cloud(&self) -> Cloud {
        Cloud::ALL.get(usize::from(self.cloud_index)).copied().unwrap_or(Cloud::Public)
    }

    /// `https://contoso.vault.azure.net`
    pub fn url(&self) -> String {
        format!("https://{}", self.host)
    }

    /// The address Application Gateway and Front Door ask for: without a version they follow the newest.
    pub fn secret_id(&self, name: &CertificateName) -> String {
        format!("https://{}/secrets/{}", self.host, name)
    }
}

impl fmt::Display for VaultHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.host)
    }
}

fn is_vault_name(name: &str) -> bool {
    VAULT_NAME_LENGTH.contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && !name.ends_with('-')
        && !name.contains("--")
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
}

fn not_a_vault(url: &str, hint: &str) -> Problem {
    Problem::new(Reason::VaultNotFound, format!("{} is not the URL of a vault: {hint}", quote(url)))
}

/// A text from outside, in quotes, control characters escaped, of bounded length: fit for a message or a log.
pub fn quote(text: &str) -> String {
    let mut quoted: String = text.chars().take(QUOTED_MAX).flat_map(char::escape_debug).collect();
    if text.chars().nth(QUOTED_MAX).is_some() {
        quoted.push('…');
    }
    format!("\"{quoted}\"")
}

/// The name of a certificate in a vault. Case is kept for display; equality, order and hash ignore it, as Key Vault does.
#[derive(Clone, Debug)]
pub struct CertificateName(String);

impl CertificateName {
    /// Parses a name: 1 to 127 letters, digits and hyphens, a letter or digit first and last.
    ///
    /// # Errors
    /// `InvalidName` with the text.
    pub fn parse(text: &str) -> Result<Self, Problem> {
        let hint = if text.is_empty() {
            "it is empty"
        } else if text.len() > CERTIFICATE_NAME_MAX {
            "it is longer than 127 characters"
        } else if !text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') {
            "it may hold only letters, digits and hyphens"
        } else if text.starts_with('-') || text.ends_with('-') {
            "it must begin and end with a letter or digit"
        } else {
            return Ok(Self(text.to_owned()));
        };
        Err(Problem::new(
            Reason::InvalidName,
            format!(
                "{} cannot be a certificate name: {hint}; set certificateName or change the template",
                quote(text)
            ),
        ))
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Lower case: what names are compared by.
    pub fn folded(&self) -> String {
        self.0.to_ascii_lowercase()
    }
}

impl PartialEq for CertificateName {
    fn eq(&self, other: &Self) -> bool {
        self.0.eq_ignore_ascii_case(&other.0)
    }
}

impl Eq for CertificateName {}

impl Hash for CertificateName {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.folded().hash(state);
    }
}

impl PartialOrd for CertificateName {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for CertificateName {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.folded().cmp(&other.folded())
    }
}

impl fmt::Display for CertificateName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of the claim on a certificate name: `<certificate name, lower case>.<vault host>`.
/// At most 127 + 1 + 24 + 24 characters and a valid Kubernetes object name by construction.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClaimName(String);

impl ClaimName {
    /// The one claim there can be on this name of this vault.
    pub fn new(certificate: &CertificateName, vault: &VaultHost) -> Self {
        Self(format!("{}.{}", certificate.folded(), vault.as_str()))
    }

    /// As the Kubernetes object is named.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ClaimName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a template can draw on.
#[derive(Clone, Copy, Debug)]
pub struct TemplateInput<'a> {
    /// The Secret's namespace.
    pub namespace: &'a str,
    /// The Secret's name.
    pub secret: &'a str,
    /// The name of the KeyVaultSync.
    pub sync: &'a str,
    /// The Secret's labels; `None` while the Secret does not exist.
    pub labels: Option<&'a BTreeMap<String, String>>,
    /// The Secret's annotations; `None` while the Secret does not exist.
    pub annotations: Option<&'a BTreeMap<String, String>>,
}

/// A `certificateNameTemplate`, parsed: text and `{namespace} {secret} {sync} {label:KEY} {annotation:KEY}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameTemplate {
    source: String,
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Namespace,
    Secret,
    Sync,
    Label(String),
    Annotation(String),
}

impl NameTemplate {
    /// Parses a template.
    ///
    /// # Errors
    /// `InvalidName` for an unknown placeholder or unbalanced braces, naming it.
    pub fn parse(source: &str) -> Result<Self, Problem> {
        let mut parts = Vec::new();
        let mut rest = source;
        while let Some(open) = rest.find(['{', '}']) {
            let (text, tail) = rest.split_at(open);
            if !text.is_empty() {
                parts.push(Part::Text(text.to_owned()));
            }
            let Some((placeholder, after)) = tail.strip_prefix('{').and_then(|tail| tail.split_once('}'))
            else {
                return Err(bad_template(source, "a brace has no partner"));
            };
            parts.push(Part::parse(placeholder).ok_or_else(|| {
                bad_template(source, &format!("{} is no placeholder", quote(&format!("{{{placeholder}}}"))))
            })?);
            rest = after;
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.to_owned()));
        }
        Ok(Self { source: source.to_owned(), parts })
    }

    /// The certificate name for this Secret: every character outside `[0-9A-Za-z-]` becomes `-`; nothing is folded or cut.
    ///
    /// # Errors
    /// `SecretNotFound` if it needs a Secret that is not there; `InvalidName` if a label or annotation is missing or
    /// the result cannot be a certificate name.
    pub fn render(&self, input: &TemplateInput<'_>) -> Result<CertificateName, Problem> {
        let mut text = String::new();
        for part in &self.parts {
            text.push_str(part.value(self, input)?);
        }
        let name: String =
            text.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '-' }).collect();
        CertificateName::parse(&name).map_err(|problem| {
            Problem::new(
                Reason::InvalidName,
                format!(
                    "template {} gives {} for Secret {}: {}",
                    quote(&self.source),
                    quote(&text),
                    input.secret,
                    problem.message
                ),
            )
        })
    }
}

impl Part {
    fn parse(placeholder: &str) -> Option<Self> {
        match placeholder {
            "namespace" => Some(Part::Namespace),
            "secret" => Some(Part::Secret),
            "sync" => Some(Part::Sync),
            _ => match placeholder.split_once(':')? {
                ("label", key) if !key.is_empty() => Some(Part::Label(key.to_owned())),
                ("annotation", key) if !key.is_empty() => Some(Part::Annotation(key.to_owned())),
                _ => None,
            },
        }
    }

    fn value<'a>(&'a self, template: &NameTemplate, input: &TemplateInput<'a>) -> Result<&'a str, Problem> {
        match self {
            Part::Text(text) => Ok(text),
            Part::Namespace => Ok(input.namespace),
            Part::Secret => Ok(input.secret),
            Part::Sync => Ok(input.sync),
            Part::Label(key) => lookup(input.labels, "label", key, template, input.secret),
            Part::Annotation(key) => lookup(input.annotations, "annotation", key, template, input.secret),
        }
    }
}

fn lookup<'a>(
    map: Option<&'a BTreeMap<String, String>>,
    what: &str,
    key: &str,
    template: &NameTemplate,
    secret: &str,
) -> Result<&'a str, Problem> {
    let Some(map) = map else {
        return Err(Problem::new(
            Reason::SecretNotFound,
            format!(
                "Secret {secret} does not exist; the template {} takes the certificate's name from its {what} {}",
                quote(&template.source),
                quote(key)
            ),
        ));
    };
    map.get(key).map(String::as_str).ok_or_else(|| {
        Problem::new(
            Reason::InvalidName,
            format!("Secret {secret} has no {what} {}, which the template {} needs: set it, or set certificateName", quote(key), quote(&template.source)),
        )
    })
}

fn bad_template(source: &str, hint: &str) -> Problem {
    Problem::new(
        Reason::InvalidName,
        format!(
            "certificateNameTemplate {}: {hint}; known are {{namespace}} {{secret}} {{sync}} {{label:KEY}} {{annotation:KEY}}",
            quote(source)
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vault_url_is_https_and_one_name_under_an_allowed_suffix() {
        for (url, host) in [
            ("https://contoso.vault.azure.net", "contoso.vault.azure.net"),
            ("https://Contoso.Vault.Azure.NET/", "contoso.vault.azure.net"),
            ("https://a-1.vault.azure.cn", "a-1.vault.azure.cn"),
            ("https://gov.vault.usgovcloudapi.net", "gov.vault.usgovcloudapi.net"),
        ] {
            assert_eq!(VaultHost::from_url(url, &Cloud::ALL).unwrap().as_str(), host, "{url}");
        }
        for (url, hint) in [
            ("http://contoso.vault.azure.net", "https://"),
            ("contoso.vault.azure.net", "https://"),
            ("https://me@contoso.vault.azure.net", "user part"),
            ("https://contoso.vault.azure.net:8443", "port"),
            ("https://contoso.vault.azure.net/secrets", "path"),
            ("https://contoso.vault.azure.net//", "path"),
            ("https://contoso.vault.azure.net?x", "path"),
            ("https://contoso.vault.azure.net#x", "path"),
            ("https://contoso.vault.azure.net.", "one name under"),
            ("https://contoso.vault.azure.net.evil.com", "one name under"),
            ("https://evilvault.azure.net", "one name under"),
            ("https://vault.azure.net", "one name under"),
            ("https://a.contoso.vault.azure.net", "not a vault's name"),
            ("https://.vault.azure.net", "not a vault's name"),
            ("https://10.0.0.1", "one name under"),
            ("https://contos\u{f6}.vault.azure.net", "only letters"),
            ("https://xn--contos-xxa.vault.azure.net", "not a vault's name"),
            ("https://con\ntoso.vault.azure.net", "only letters"),
            ("https://[::1]", "only letters"),
        ] {
            let problem = VaultHost::from_url(url, &Cloud::ALL).unwrap_err();
            assert_eq!(problem.reason, Reason::VaultNotFound);
            assert!(problem.message.contains(hint), "{url}: {}", problem.message);
            assert!(!problem.message.contains('\n'));
        }
    }

    #[test]
    fn a_cloud_that_is_not_allowed_is_refused() {
        assert!(VaultHost::from_url("https://contoso.vault.azure.cn", &[Cloud::Public]).is_err());
    }

    #[test]
    fn certificate_names_are_compared_without_case_and_kept_as_written() {
        let name = CertificateName::parse("Web-Prod").unwrap();
        assert_eq!(name, CertificateName::parse("wEB-pROD").unwrap());
        assert_eq!(name.to_string(), "Web-Prod");
        let host = VaultHost::from_url("https://contoso.vault.azure.net", &Cloud::ALL).unwrap();
        assert_eq!(ClaimName::new(&name, &host).as_str(), "web-prod.contoso.vault.azure.net");
        assert_eq!(host.secret_id(&name), "https://contoso.vault.azure.net/secrets/Web-Prod");
    }

    #[test]
    fn what_cannot_be_a_certificate_name_is_refused_with_the_text() {
        let long = "a".repeat(128);
        for bad in ["", "-a", "a-", "a.b", "a/b", "..", "a%2fb", "a?b", "\u{e4}", &long] {
            let problem = CertificateName::parse(bad).unwrap_err();
            assert_eq!(problem.reason, Reason::InvalidName, "{bad}");
        }
        assert!(CertificateName::parse(&"a".repeat(127)).is_ok());
    }

    fn render(template: &str) -> Result<String, Problem> {
        let labels = BTreeMap::from([("app".to_owned(), "shop".to_owned())]);
        let annotations =
            BTreeMap::from([("cert-manager.io/certificate-name".to_owned(), "www.shop".to_owned())]);
        let input = TemplateInput {
            namespace: "web",
            secret: "shop.example.com-tls",
            sync: "all",
            labels: Some(&labels),
            annotations: Some(&annotations),
        };
        NameTemplate::parse(template)?.render(&input).map(|name| name.to_string())
    }

    #[test]
    fn templates_replace_what_a_name_cannot_hold_and_nothing_else() {
        for (template, name) in [
            ("{secret}", "shop-example-com-tls"),
            ("{namespace}--{secret}", "web--shop-example-com-tls"),
            ("X-{sync}-{label:app}", "X-all-shop"),
            ("{annotation:cert-manager.io/certificate-name}", "www-shop"),
        ] {
            assert_eq!(render(template).unwrap(), name, "{template}");
        }
    }

    #[test]
    fn a_bad_template_names_what_is_wrong() {
        for (template, hint) in [
            ("{secret", "brace"),
            ("secret}", "brace"),
            ("{Secret}", "is no placeholder"),
            ("{label:}", "is no placeholder"),
            ("", "empty"),
            ("{label:nope}", "has no label"),
            ("{annotation:nope}", "has no annotation"),
            ("-{secret}", "begin and end"),
        ] {
            let problem = render(template).unwrap_err();
            assert_eq!(problem.reason, Reason::InvalidName);
            assert!(problem.message.contains(hint), "{template}: {}", problem.message);
        }
    }

    #[test]
    fn a_name_from_a_label_waits_for_the_secret() {
        let template = NameTemplate::parse("{label:app}").unwrap();
        let input =
            TemplateInput { namespace: "web", secret: "s", sync: "w", labels: None, annotations: None };
        assert_eq!(template.render(&input).unwrap_err().reason, Reason::SecretNotFound);
    }
}
