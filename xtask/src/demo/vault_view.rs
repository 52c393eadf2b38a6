//! A certificate of the local vault in words: its versions, the newest one's chain, tags and policy.
//! Getting it from the vault is left to the demo.

use std::fmt::Write as _;

use anyhow::Context;
use keyvault_emulator::StoredCertificate;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Describes a certificate; no key is in it.
///
/// # Errors
/// The vault holds no version, or something that is no certificate.
pub(crate) fn describe(host: &str, stored: &StoredCertificate) -> anyhow::Result<String> {
    let newest = stored.versions.last().context("the certificate has no version")?;
    let mut text = String::new();
    writeln!(text, "versions    {}", stored.versions.len())?;
    writeln!(text, "newest      {}", newest.version)?;
    for (index, der) in newest.chain_der.iter().enumerate() {
        let (_, certificate) = X509Certificate::from_der(der).context("the vault holds no certificate")?;
        let label = if index == 0 { "chain" } else { "" };
        writeln!(
            text,
            "{label:<12}{}. {}  (issued by {})",
            index + 1,
            certificate.subject(),
            certificate.issuer()
        )?;
    }
    for (index, (key, value)) in newest.tags.iter().enumerate() {
        let label = if index == 0 { "tags" } else { "" };
        writeln!(text, "{label:<12}{key} = {value}")?;
    }
    writeln!(
        text,
        "policy      issuer {}, exportable {}",
        newest.policy["issuer"]["name"], newest.exportable
    )?;
    writeln!(
        text,
        "secret id   https://{host}/secrets/{}   (what Application Gateway asks for)",
        stored.name
    )?;
    Ok(text)
}
