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
    Certificate, CertificateClientGetCertificateOptions, CertificateClientImportCertificateOptions,
    CertificateClientUpdateCertificatePropertiesOptions, ImportCertificateParameters,
    UpdateCertificatePropertiesParameters,
};
use azure_security_keyvault_certificates::{CertificateClient, CertificateClientOptions};
use keyvault_sync_core::facts::CertificateFacts;
use keyvault_sync_core::names::{CertificateName, VaultHost};
use keyvault_sync_core::ownership::Tags;
use keyvault_sync_core::push::WRITE_TIME_LIMIT_SECS;
use keyvault_sync_core::reason::{Problem, Reason};

use crate::answer::Answer;
use crate::classify::{Act, Call};
use crate::credential::{ClientCredential, Identity, VaultCredential};
use crate::decode;
use crate::error::{Landed, VaultError};
use crate::guidance::TokenParties;
use crate::network::{self, NoAnswer};
use crate::parameters::{self, Import};
use crate::token_failure::TokenFailure;
use crate::transport::{Progress, REQUEST_TIME_LIMIT, Transport};

/// A whole read: the challenge, the token and the answer.
const READ_TIME_LIMIT: Duration = REQUEST_TIME_LIMIT;
/// A whole write; core counts on it when it judges announced writes after a crash.
const WRITE_TIME_LIMIT: Duration = Duration::from_secs(WRITE_TIME_LIMIT_SECS.unsigned_abs());
/// Names us in the vault's own logs (at most 24 characters).
const APPLICATION_ID: &str = "keyvault-sync";

/// One vault, opened by one identity. Shared in an `Arc`; make one for each (vault, identity) and keep it: the first
/// request of each is answered with a challenge.
pub struct VaultClient {
    host: VaultHost,
    identity: Identity,
    credential: Arc<VaultCredential>,
    certificates: CertificateClient,
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
            parameters::import(import).try_into().map_err(|_| unsendable(&call))?;
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
        decode::version(call, &certificate).map_err(|what| call.undecodable(what))
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
