//! The audience that a vault's 401 asks a token for, checked before the SDK sees it.
//! The SDK takes every parent of the vault's host and keeps what it took: a client that once met another server in the
//! vault's place would ask for the wrong audience for ever. Answering a right challenge is left to the SDK.

/// The audience in a `WWW-Authenticate` header that is not `scope` (`https://vault.azure.net/.default`); `None` if the
/// header asks for that one and no other.
pub(crate) fn foreign_scope(header: &str, scope: &str) -> Option<String> {
    let mut asked = scopes(header).peekable();
    if asked.peek().is_none() {
        return Some(String::new());
    }
    asked.find(|asked| asked != scope)
}

/// Every `resource="…"` and `scope="…"`, as scopes. Key Vault writes the first, Managed HSM and newer services the second.
fn scopes(header: &str) -> impl Iterator<Item = String> {
    header.match_indices("=\"").filter_map(|(at, _)| {
        let key = header.get(..at)?;
        let value = header.get(at + 2..)?.split('"').next()?;
        if key.ends_with("scope") {
            Some(value.to_owned())
        } else if key.ends_with("resource") {
            Some(format!("{value}/.default"))
        } else {
            None
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_one_audience_passes() {
        let scope = "https://vault.azure.net/.default";
        for (header, foreign) in [
            (
                r#"Bearer authorization="https://login.microsoftonline.com/t", resource="https://vault.azure.net""#,
                None,
            ),
            (r#"Bearer authorization="https://a", scope="https://vault.azure.net/.default""#, None),
            (r#"Bearer resource="https://azure.net""#, Some("https://azure.net/.default")),
            (r#"Bearer resource="https://vault.azure.net", scope="https://x""#, Some("https://x")),
            (
                r#"Bearer resource="https://vault.azure.net", resource="https://x""#,
                Some("https://x/.default"),
            ),
            (r#"Bearer resource="https://vault.azure.net/""#, Some("https://vault.azure.net//.default")),
            (r#"Bearer resource="https://vault.azure.net"#, None),
            (r#"Bearer authorization="https://a""#, Some("")),
            ("Bearer", Some("")),
            ("", Some("")),
        ] {
            assert_eq!(foreign_scope(header, scope).as_deref(), foreign, "{header}");
        }
    }
}
