//! The certificate as the vault has it: checked against what was issued, and put into words.
//! Getting it there was the operator's work; when to look is left to the story.

use anyhow::{Context, ensure};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use k8s_openapi::jiff::Timestamp;
use keyvault_emulator::{Emulator, StoredVersion};
use keyvault_sync_e2e::certificates::Issued;
use keyvault_sync_e2e::scene;
use x509_parser::pem::Pem;

use super::documents::{CERTIFICATE, HOST};

/// The versions the vault has of the demo's certificate, oldest first.
pub(crate) fn versions(emulator: &Emulator) -> Vec<StoredVersion> {
    emulator.certificate(HOST, CERTIFICATE).map_or_else(Vec::new, |certificate| certificate.versions)
}

/// Checks that this version is `issued`, whole and marked as ours.
///
/// # Errors
/// It is not; the message says in what.
pub(crate) fn check(version: &StoredVersion, issued: &Issued) -> anyhow::Result<()> {
    let chain = Pem::iter_from_buffer(issued.tls_crt().as_bytes())
        .map(|pem| Ok(pem?.contents))
        .collect::<anyhow::Result<Vec<_>>>()?;
    ensure!(
        version.chain_der == chain,
        "the vault's chain is not leaf, intermediate: {:?}",
        subjects(version)?
    );
    ensure!(version.has_key, "the vault has no private key of it");
    let (found, expected) = (thumbprint(version)?, scene::thumbprint(issued)?);
    ensure!(found == expected, "its thumbprint is {found}, and {expected} was issued");
    ensure!(version.tags.contains_key("managed-by"), "it has no owner's tags: {:?}", version.tags);
    let issuer = &version.policy["issuer"]["name"];
    ensure!(issuer == "Unknown", "its policy's issuer is {issuer}: Key Vault might renew it by itself");
    Ok(())
}

/// The version in words, a fact a line.
///
/// # Errors
/// What the vault has is no certificate.
pub(crate) fn describe(version: &StoredVersion) -> anyhow::Result<String> {
    let properties = &version.policy["key_props"];
    let text = |name: &str| match &properties[name] {
        serde_json::Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let size = if properties["crv"].is_string() { text("crv") } else { text("key_size") };
    let exportable = if version.exportable { "exportable" } else { "not exportable" };
    let mut facts = vec![
        ("certificate", format!("https://{HOST}/certificates/{CERTIFICATE}")),
        ("version", version.version.clone()),
        ("thumbprint", format!("{} (SHA-1, as the portal shows it)", thumbprint(version)?)),
    ];
    for (place, subject) in subjects(version)?.into_iter().enumerate() {
        facts.push((if place == 0 { "chain" } else { "" }, format!("{}. {subject}", place + 1)));
    }
    facts.push(("key", format!("{} {size}, {exportable}", text("kty"))));
    facts.push(("valid until", Timestamp::from_second(version.not_after)?.to_string()));
    let issuer = version.policy["issuer"]["name"].as_str().unwrap_or_default();
    facts.push(("policy", format!("issuer {issuer}: Key Vault makes no version of its own over it")));
    for (place, (name, value)) in version.tags.iter().enumerate() {
        facts.push((if place == 0 { "tags" } else { "" }, format!("{name}: {value}")));
    }
    facts.push(("secret id", format!("https://{HOST}/secrets/{CERTIFICATE}")));
    facts.push((
        "",
        "for Application Gateway and Front Door: without version, they follow renewals".to_owned(),
    ));
    Ok(facts.iter().map(|(name, value)| format!("{name:<12} {value}\n")).collect())
}

fn subjects(version: &StoredVersion) -> anyhow::Result<Vec<String>> {
    let subject = |der: &Vec<u8>| {
        let (_, certificate) = x509_parser::parse_x509_certificate(der).context("no certificate")?;
        Ok(certificate.subject().to_string())
    };
    version.chain_der.iter().map(subject).collect()
}

fn thumbprint(version: &StoredVersion) -> anyhow::Result<String> {
    let digest = BASE64_URL_SAFE_NO_PAD.decode(&version.x5t).context("x5t is not base64url")?;
    Ok(digest.iter().map(|byte| format!("{byte:02X}")).collect())
}
