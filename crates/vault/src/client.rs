//! One vault as one identity sees it: read a certificate's facts, import a version, set a version's tags. One attempt each,
//! within a time limit; every failure classified. Whether and when to call is left to the operator and core.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use azure_core::error::ErrorKind;
use azure_core::http::{
    ClientMethodOptions, ClientOptions, Context, RequestContent, Response, RetryOptions, UserAgentOptions,
};
use azure_security_keyvault_certificates::models::{
    Certificate, CertificateAttributes, CertificateClientGetCertificateOptions,
    CertificateClientImportCertificateOptions, CertificateClientUpdateCertificatePropertiesOptions,
    CertificatePolicy, CurveName, ImportCertificateParameters, IssuerParameters, KeyProperties,
    KeyType as AzureKeyType, SecretProperties, UpdateCertificatePropertiesParameters,
};
use azure_security_keyvault_certificates::{CertificateClient, CertificateClientOptions, ResourceExt as _};
use keyvault_sync_core::facts::CertificateFacts;
use keyvault_sync_core::fingerprint::Fingerprint;
use keyvault_sync_core::key::{Curve, KeyType};
use keyvault_sync_core::names::{CertificateName, VaultHost};
use keyvault_sync_core::ownership::Tags;
use keyvault_sync_core::pfx::Pfx;
use keyvault_sync_core::push::WRITE_TIME_LIMIT_SECS;
use keyvault_sync_core::reason::{Problem, Reason};

use crate::answer::Answer;
use crate::classify::{Act, Call};
use crate::credential::{ClientCredential, Identity, VaultCredential};
use crate::error::{Landed, VaultError};
use crate::guidance::TokenParties;
use crate::network::{self, NoAnswer};
use crate::token_failure::TokenFailure;
use crate::transport::{Progress, REQUEST_TIME_LIMIT, Transport};

/// A whole read: the challenge, the token and the answer.
const READ_TIME_LIMIT: Duration = REQUEST_TIME_LIMIT;
/// A whole write; core counts on it when it judges announced writes after a crash.
const WRITE_TIME_LIMIT: Duration = Duration::from_secs(WRITE_TIME_LIMIT_SECS.unsigned_abs());
/// Names us in the vault's own logs (at most 24 characters).
const APPLICATION_ID: &str = "keyvault-sync";
/// A version whose chain is to be read back as PKCS#12, not PEM.
const CONTENT_TYPE_PFX: &str = "application/x-pkcs12";
/// The issuer of certificates that Key Vault did not order: it cannot renew what it does not know how to get.
const ISSUER_UNKNOWN: &str = "Unknown";

/// One vault, opened by one identity. Shared in an `Arc`; make one for each (vault, identity) and keep it: the first
/// request of each is answered with a challenge.
pub struct VaultClient {
    host: VaultHost,
    identity: Identity,
    credential: Arc<VaultCredential>,
    certificates: CertificateClient,
}

/// A new version of a certificate.
pub struct Import<'a> {
    /// Leaf, key and chain.
    pub pfx: &'a Pfx,
    /// Of the private key; the policy repeats it, since Key Vault guesses wrong where RSA and EC are mixed in a chain.
    pub key_type: KeyType,
    /// Whether the private key may leave the vault.
    pub exportable: bool,
    /// All tags of the version.
    pub tags: &'a Tags,
}

impl VaultClient {
    /// A client. Makes no call.
    ///
    /// # Errors
    /// `VaultNotFound` for a vault of a cloud that the operator's settings do not allow.
    pub fn new(host: VaultHost, identity: &Identity, transport: &Transport) -> Result<Self, VaultError> {
        if !transport.allows(host.cloud()) {
            let message = format!("vault {host} is in a cloud that the operator's settings do not allow");
            return Err(VaultError::new(Problem::new(Reason::VaultNotFound, message), Landed::No));
        }
        let credential = transport.credential(identity, host.cloud());
        let options = CertificateClientOptions {
            client_options: ClientOptions {
                transport: Some(transport.to_vault(host.clone())),
                // The SDK repeats everything eight times, imports too, and sleeps as long as a server tells it to. The
                // operator backs off itself.
                retry: RetryOptions::none(),
                user_agent: UserAgentOptions { application_id: Some(APPLICATION_ID.into()) },
                ..ClientOptions::default()
            },
            ..CertificateClientOptions::default()
        };
        let token_source = Arc::new(ClientCredential::new(Arc::clone(&credential)));
        let certificates =
            CertificateClient::new(&host.url(), token_source, Some(options)).map_err(|_| {
                VaultError::internal(
                    format!("no client can be made for vault {host}; please report this"),
                    Landed::No,
                )
            })?;
        Ok(Self { host, identity: identity.clone(), credential, certificates })
    }

    /// The vault.
    pub fn host(&self) -> &VaultHost {
        &self.host
    }

    /// The newest version; `None` if the vault has no such certificate (or only a soft-deleted one).
    ///
    /// # Errors
    /// See [`VaultError`].
    pub async fn newest(&self, name: &CertificateName) -> Result<Option<CertificateFacts>, VaultError> {
        self.read(name, None).await
    }

    /// One version; `None` if the vault has no such version.
    ///
    /// # Errors
    /// See [`VaultError`].
    pub async fn version(
        &self,
        name: &CertificateName,
        version: &str,
    ) -> Result<Option<CertificateFacts>, VaultError> {
        self.read(name, Some(version)).await
    }

    async fn read(
        &self,
        name: &CertificateName,
        version: Option<&str>,
    ) -> Result<Option<CertificateFacts>, VaultError> {
        let call = self.call(name, Act::Read);
        let version = version.map(|version| checked_version(&call, version)).transpose()?;
        let progress = Progress::default();
        let options = CertificateClientGetCertificateOptions {
            certificate_version: version,
            method_options: method_options(&progress),
        };
        let sent = self.certificates.get_certificate(name.as_str(), Some(options));
        match self.carry_out(&call, READ_TIME_LIMIT, &progress, sent).await {
            Ok(facts) => Ok(Some(facts)),
            Err(error)
                if error.status == Some(404) && error.code.as_deref() == Some("CertificateNotFound") =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Imports a new version, under a policy that leaves renewal to us.
    ///
    /// # Errors
    /// See [`VaultError`]; with [`Landed::Unknown`] the version may be there.
    pub async fn import(
        &self,
        name: &CertificateName,
        import: &Import<'_>,
    ) -> Result<CertificateFacts, VaultError> {
        let call = self.call(name, Act::Import { bundle_bytes: import.pfx.bytes.expose().len() });
        let content: RequestContent<ImportCertificateParameters> =
            import_parameters(import).try_into().map_err(|_| unsendable(&call))?;
        let progress = Progress::default();
        let options = CertificateClientImportCertificateOptions { method_options: method_options(&progress) };
        let sent = self.certificates.import_certificate(name.as_str(), content, Some(options));
        self.carry_out(&call, WRITE_TIME_LIMIT, &progress, sent).await
    }

    /// Sets all tags of a version; nothing else of it changes (a disabled one stays disabled).
    ///
    /// # Errors
    /// See [`VaultError`]; with [`Landed::Unknown`] the tags may be set.
    pub async fn set_tags(
        &self,
        name: &CertificateName,
        version: &str,
        tags: &Tags,
    ) -> Result<CertificateFacts, VaultError> {
        let call = self.call(name, Act::SetTags);
        let version = checked_version(&call, version)?;
        let parameters = UpdateCertificatePropertiesParameters {
            tags: Some(tags.clone().into_iter().collect()),
            ..UpdateCertificatePropertiesParameters::default()
        };
        let content: RequestContent<UpdateCertificatePropertiesParameters> =
            parameters.try_into().map_err(|_| unsendable(&call))?;
        let progress = Progress::default();
        let options = CertificateClientUpdateCertificatePropertiesOptions {
            certificate_version: Some(version),
            method_options: method_options(&progress),
        };
        let sent = self.certificates.update_certificate_properties(name.as_str(), content, Some(options));
        self.carry_out(&call, WRITE_TIME_LIMIT, &progress, sent).await
    }

    fn call<'a>(&'a self, name: &'a CertificateName, act: Act) -> Call<'a> {
        Call { host: &self.host, name, identity: &self.identity, act }
    }

    /// Waits for the SDK's call and makes facts or an error of what comes.
    async fn carry_out(
        &self,
        call: &Call<'_>,
        limit: Duration,
        progress: &Progress,
        sent: impl Future<Output = azure_core::Result<Response<Certificate>>>,
    ) -> Result<CertificateFacts, VaultError> {
        let response = match tokio::time::timeout(limit, sent).await {
            Err(_elapsed) => return Err(call.timed_out(limit, progress.is_sent())),
            Ok(Err(error)) => return Err(self.failed(call, &error, progress.is_sent())),
            Ok(Ok(response)) => response,
        };
        let certificate =
            response.into_model().map_err(|_| call.undecodable("the answer is not a certificate's JSON"))?;
        facts(call, &certificate).map_err(|what| call.undecodable(what))
    }

    fn failed(&self, call: &Call<'_>, error: &azure_core::Error, is_sent: bool) -> VaultError {
        if let Some(failure) = network::find::<TokenFailure>(error) {
            let claims = self.credential.claims();
            let parties = TokenParties {
                vault: self.host.as_str(),
                authority: self.credential.authority_host(),
                identity: &self.identity,
                claims: claims.as_ref(),
            };
            return call.without_token(failure, parties);
        }
        if let Some(no_answer) = network::find::<NoAnswer>(error) {
            return call.unanswered(no_answer, is_sent);
        }
        match error.kind() {
            ErrorKind::HttpResponse { status, raw_response: Some(raw), .. } => {
                call.refused(&Answer::read(u16::from(*status), raw.headers(), raw.body()))
            }
            ErrorKind::HttpResponse { status, raw_response: None, .. } => {
                call.refused(&Answer { status: u16::from(*status), ..Answer::default() })
            }
            // All that is left is the SDK's refusal of a challenge.
            _ => call.not_a_vault(),
        }
    }
}

fn method_options(progress: &Progress) -> ClientMethodOptions<'static> {
    ClientMethodOptions { context: Context::new().with_value(progress.clone()) }
}

fn unsendable(call: &Call<'_>) -> VaultError {
    let message =
        format!("the request for certificate {} cannot be written as JSON; please report this", call.name);
    VaultError::internal(message, Landed::No)
}

/// Key Vault's versions are 32 hexadecimal digits. The SDK puts them into the path unescaped, so nothing else gets there.
fn checked_version(call: &Call<'_>, version: &str) -> Result<String, VaultError> {
    /// Longer than any version, shorter than any harm.
    const VERSION_MAX: usize = 64;
    if !version.is_empty()
        && version.len() <= VERSION_MAX
        && version.chars().all(|c| c.is_ascii_alphanumeric())
    {
        return Ok(version.to_owned());
    }
    let message = format!("the version recorded for certificate {} is none; please report this", call.name);
    Err(VaultError::internal(message, Landed::No))
}

/// The SDK takes bundle and password as strings of its own and makes JSON of them; those copies cannot be wiped from here
/// (the operator's allocator wipes what is freed).
fn import_parameters(import: &Import<'_>) -> ImportCertificateParameters {
    ImportCertificateParameters {
        base64_encoded_certificate: Some(azure_core::base64::encode(import.pfx.bytes.expose())),
        password: Some(String::from_utf8_lossy(import.pfx.password.expose()).into_owned()),
        certificate_attributes: Some(CertificateAttributes {
            enabled: Some(true),
            ..CertificateAttributes::default()
        }),
        certificate_policy: Some(policy(import.key_type, import.exportable)),
        // Ours is leaf first already, each certificate before its issuer.
        preserve_cert_order: Some(true),
        tags: Some(import.tags.clone().into_iter().collect()),
    }
}

/// A policy with which Key Vault never makes a version of its own: no issuer to ask, no action over the lifetime. Left out,
/// the actions would be Key Vault's default ones.
fn policy(key_type: KeyType, exportable: bool) -> CertificatePolicy {
    let (kty, key_size, curve) = match key_type {
        KeyType::Rsa { bits } => (AzureKeyType::Rsa, Some(i32::from(bits)), None),
        KeyType::Ec(curve) => (AzureKeyType::Ec, None, Some(curve_name(curve))),
    };
    CertificatePolicy {
        issuer_parameters: Some(IssuerParameters {
            name: Some(ISSUER_UNKNOWN.into()),
            ..IssuerParameters::default()
        }),
        key_properties: Some(KeyProperties {
            exportable: Some(exportable),
            key_type: Some(kty),
            key_size,
            curve,
            reuse_key: Some(false),
        }),
        lifetime_actions: Some(Vec::new()),
        secret_properties: Some(SecretProperties { content_type: Some(CONTENT_TYPE_PFX.into()) }),
        ..CertificatePolicy::default()
    }
}

fn curve_name(curve: Curve) -> CurveName {
    match curve {
        Curve::P256 => CurveName::P256,
        Curve::P384 => CurveName::P384,
        Curve::P521 => CurveName::P521,
    }
}

/// What an answer says of a version; or which part of it cannot be understood.
fn facts(call: &Call<'_>, certificate: &Certificate) -> Result<CertificateFacts, &'static str> {
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
