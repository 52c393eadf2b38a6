//! What a vault's JSON says of a certificate → facts; nothing is taken for another certificate's.
//! What an answer that cannot be understood means is left to `classify`.

use azure_security_keyvault_certificates::ResourceExt as _;
use azure_security_keyvault_certificates::models::Certificate;
use keyvault_sync_core::facts::CertificateFacts;
use keyvault_sync_core::fingerprint::Fingerprint;

use crate::classify::Call;

/// What an answer says of a version; or which part of it cannot be understood.
pub(crate) fn version(call: &Call<'_>, certificate: &Certificate) -> Result<CertificateFacts, &'static str> {
    let id = certificate.resource_id().map_err(|_| "its id is none")?;
    let is_asked_for = id.name.eq_ignore_ascii_case(call.name.as_str())
        && id.vault_url.trim_end_matches('/').eq_ignore_ascii_case(&call.host.url());
    if !is_asked_for {
        return Err("its id is another certificate's");
    }
    let version = id.version.filter(|version| !version.is_empty()).ok_or("its id has no version")?;
    let thumbprint = certificate.x509_thumbprint.as_deref().ok_or("it has no thumbprint")?;
    let attributes = certificate.attributes.as_ref();
    Ok(CertificateFacts {
        version,
        thumbprint: thumbprint.try_into().map_err(|_| "its thumbprint is not a SHA-1")?,
        leaf: certificate.cer.as_deref().map(Fingerprint::of_leaf),
        not_after: attributes.and_then(|attributes| attributes.expires).map(|time| time.unix_timestamp()),
        enabled: attributes
            .and_then(|attributes| attributes.enabled)
            .ok_or("it does not say whether it is enabled")?,
        tags: certificate.tags.clone().unwrap_or_default().into_iter().collect(),
        exportable: certificate
            .policy
            .as_ref()
            .and_then(|policy| policy.key_properties.as_ref())
            .and_then(|properties| properties.exportable),
    })
}
