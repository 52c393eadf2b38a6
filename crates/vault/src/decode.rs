//! What a vault's JSON says of certificates → facts; nothing is taken for another certificate's or another vault's.
//! What an answer that cannot be understood means is left to `classify`.

use azure_core::http::Response;
use azure_security_keyvault_certificates::models::{
    Certificate, CertificateProperties, DeletedCertificate, ListCertificatePropertiesResult,
};
use azure_security_keyvault_certificates::{ResourceExt, ResourceId};
use keyvault_sync_core::facts::{CertificateFacts, DeletedFacts, ListedFacts};
use keyvault_sync_core::fingerprint::Fingerprint;
use keyvault_sync_core::names::VaultHost;
use serde::Deserialize;

use crate::classify::Call;
use crate::error::VaultError;

/// In `recoveryLevel` where somebody may purge (`Purgeable`, `Recoverable+Purgeable`, `CustomizedRecoverable+Purgeable`).
const PURGEABLE: &str = "Purgeable";

/// What an answer says of a version.
pub(crate) fn version(
    call: &Call<'_>,
    response: Response<Certificate>,
) -> Result<CertificateFacts, VaultError> {
    let certificate = response.into_model().map_err(|_| not_json(call))?;
    facts(call, &certificate)
}

/// What an answer says of a soft-deleted certificate.
pub(crate) fn deleted(
    call: &Call<'_>,
    response: Response<DeletedCertificate>,
) -> Result<DeletedFacts, VaultError> {
    let deleted = response.into_model().map_err(|_| not_json(call))?;
    let level = deleted.attributes.as_ref().and_then(|attributes| attributes.recovery_level.as_ref());
    Ok(DeletedFacts {
        scheduled_purge: deleted.scheduled_purge_date.map(|time| time.unix_timestamp()),
        // Not said is not protected: nobody is told to wait for a purge that may be had today.
        is_purge_protected: level.is_some_and(|level| !level.as_ref().contains(PURGEABLE)),
        newest: facts(call, &as_it_was(deleted))?,
    })
}

/// A page of the list, and whether there are more.
pub(crate) struct ListPage {
    pub(crate) certificates: Vec<ListedFacts>,
    pub(crate) is_last: bool,
}

/// What an answer says of certificates on a page. Rows of which it cannot be said what they are about are left out: they
/// must not keep the other certificates from being compared, and one that is missing from a list is read by itself.
pub(crate) fn page(
    call: &Call<'_>,
    response: Response<ListCertificatePropertiesResult>,
) -> Result<ListPage, VaultError> {
    /// As the SDK's, whose `value` may be missing: then `{}` would be a vault without certificates.
    #[derive(Deserialize)]
    struct Page {
        value: Vec<CertificateProperties>,
        #[serde(rename = "nextLink")]
        next_link: Option<String>,
    }
    let page: Page = serde_json::from_slice(&response.into_body()).map_err(|_| not_a_page(call))?;
    Ok(ListPage {
        certificates: page.value.into_iter().filter_map(|row| listed(call.host, row)).collect(),
        is_last: page.next_link.is_none_or(|link| link.is_empty()),
    })
}

/// A page that is none.
pub(crate) fn not_a_page(call: &Call<'_>) -> VaultError {
    call.undecodable("the answer is not a page of a list in JSON")
}

fn not_json(call: &Call<'_>) -> VaultError {
    call.undecodable("the answer is not a certificate's JSON")
}

fn listed(host: &VaultHost, row: CertificateProperties) -> Option<ListedFacts> {
    let id = id_in(host, &row)?;
    Some(ListedFacts {
        name: id.name,
        thumbprint: row.x509_thumbprint.and_then(|thumbprint| thumbprint.try_into().ok()),
        // Key Vault always says. Not said is not as it should be, and so the certificate is read by itself.
        enabled: row.attributes.and_then(|attributes| attributes.enabled).unwrap_or(false),
        tags: row.tags.unwrap_or_default().into_iter().collect(),
    })
}

/// The id, if it is one of a certificate of this vault.
fn id_in(host: &VaultHost, resource: &impl ResourceExt) -> Option<ResourceId> {
    resource
        .resource_id()
        .ok()
        .filter(|id| id.vault_url.trim_end_matches('/').eq_ignore_ascii_case(&host.url()))
}

/// The members of a version, which a soft-deleted certificate has, too.
fn as_it_was(deleted: DeletedCertificate) -> Certificate {
    let mut certificate = Certificate::default();
    certificate.id = deleted.id;
    certificate.x509_thumbprint = deleted.x509_thumbprint;
    certificate.cer = deleted.cer;
    certificate.attributes = deleted.attributes;
    certificate.tags = deleted.tags;
    certificate.policy = deleted.policy;
    certificate
}

fn facts(call: &Call<'_>, certificate: &Certificate) -> Result<CertificateFacts, VaultError> {
    let undecodable = |what| call.undecodable(what);
    let id = id_in(call.host, certificate)
        .ok_or_else(|| undecodable("its id is no certificate's of this vault"))?;
    if !call.name.is_some_and(|name| id.name.eq_ignore_ascii_case(name.as_str())) {
        return Err(undecodable("its id is another certificate's"));
    }
    if certificate.x509_thumbprint.is_none() && certificate.cer.is_none() {
        return Err(call.incomplete());
    }
    let version = id
        .version
        .filter(|version| !version.is_empty())
        .ok_or_else(|| undecodable("its id has no version"))?;
    let thumbprint =
        certificate.x509_thumbprint.as_deref().ok_or_else(|| undecodable("it has no thumbprint"))?;
    let attributes = certificate.attributes.as_ref();
    Ok(CertificateFacts {
        version,
        thumbprint: thumbprint.try_into().map_err(|_| undecodable("its thumbprint is not a SHA-1"))?,
        leaf: certificate.cer.as_deref().map(Fingerprint::of_leaf),
        not_after: attributes.and_then(|attributes| attributes.expires).map(|time| time.unix_timestamp()),
        enabled: attributes
            .and_then(|attributes| attributes.enabled)
            .ok_or_else(|| undecodable("it does not say whether it is enabled"))?,
        tags: certificate.tags.clone().unwrap_or_default().into_iter().collect(),
        // Of the policy in force: Key Vault shows one policy with every version of a certificate.
        exportable: certificate
            .policy
            .as_ref()
            .and_then(|policy| policy.key_properties.as_ref())
            .and_then(|properties| properties.exportable),
    })
}
