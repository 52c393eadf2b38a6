//! One vault as one identity sees it: what it says of its certificates, and the acts on them. One attempt each, within a
//! time limit; every failure classified. Whether and when to call is left to the operator and core.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use azure_core::error::ErrorKind;
use azure_core::http::headers;
use azure_core::http::pager::PagerOptions;
use azure_core::http::{
    ClientMethodOptions, ClientOptions, Context, RawResponse, RequestContent, RetryOptions, UserAgentOptions,
};
use azure_security_keyvault_certificates::models::{
    CertificateClientDeleteCertificateOptions, CertificateClientGetCertificateOptions,
    CertificateClientGetDeletedCertificateOptions, CertificateClientImportCertificateOptions,
    CertificateClientListCertificatePropertiesOptions, CertificateClientRecoverDeletedCertificateOptions,
    CertificateClientUpdateCertificatePropertiesOptions, ImportCertificateParameters,
    UpdateCertificatePropertiesParameters,
};
use azure_security_keyvault_certificates::{CertificateClient, CertificateClientOptions};
use futures::TryStreamExt as _;
use keyvault_sync_core::facts::{CertificateFacts, DeletedFacts, ListedFacts};
use keyvault_sync_core::names::{CertificateName, VaultHost};
use keyvault_sync_core::ownership::Tags;
use keyvault_sync_core::push::WRITE_TIME_LIMIT_SECS;
use keyvault_sync_core::reason::{Problem, Reason};

use crate::act::Act;
use crate::answer::Answer;
use crate::challenge;
use crate::classify::Call;
use crate::credential::{ClientCredential, VaultCredential};
use crate::decode;
use crate::error::{Landed, VaultError};
use crate::guidance::TokenParties;
use crate::identity::Identity;
use crate::network::{self, NoAnswer};
use crate::observer::Called;
use crate::parameters::{self, Import};
use crate::token_failure::TokenFailure;
use crate::transport::{LastAnswer, Progress, REQUEST_TIME_LIMIT, Transport};

/// A whole read: the challenge, the token and the answer.
const READ_TIME_LIMIT: Duration = REQUEST_TIME_LIMIT;
/// A whole write; core counts on it when it judges announced writes after a crash.
const WRITE_TIME_LIMIT: Duration = Duration::from_secs(WRITE_TIME_LIMIT_SECS.unsigned_abs());
/// Names us in the vault's own logs (at most 24 characters).
const APPLICATION_ID: &str = "keyvault-sync";

/// The certificate that is read to see whether a vault can be read: nobody has it, and the vault's log says who asked.
pub const CONTACT_NAME: &str = "keyvault-sync-contact";

/// The answer to a refusal of a name that is not there; of a version that is not there, too.
const CERTIFICATE_NOT_FOUND: &str = "CertificateNotFound";

/// One vault, opened by one identity. Shared in an `Arc`; make one for each (vault, identity) and keep it: the first
/// request of each is answered with a challenge.
pub struct VaultClient {
    host: VaultHost,
    identity: Identity,
    transport: Transport,
    credential: Arc<VaultCredential>,
    certificates: CertificateClient,
}

/// What came of listing a vault's certificates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listing {
    /// Every certificate there is, those whose creation is pending included. Soft-deleted ones are not.
    Whole {
        /// A row each, in the vault's order.
        certificates: Vec<ListedFacts>,
        /// How many pages that took: the number of requests it will take the next time.
        pages: usize,
    },
    /// There are more pages than may be asked for. The rows of those that were are dropped: what is missing among them may
    /// well be there.
    TooLong,
}

/// A part of the way to a vault, in the order in which it is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// The name resolves.
    Name,
    /// A connection is made.
    Connection,
    /// The server's certificate is accepted.
    Tls,
    /// The answer is a Key Vault's.
    Answer,
}

fn stage(error: &NoAnswer) -> Stage {
    match error {
        NoAnswer::Dns(_) => Stage::Name,
        NoAnswer::Connect(_) => Stage::Connection,
        NoAnswer::Tls(_) => Stage::Tls,
        NoAnswer::ForeignHost(_)
        | NoAnswer::NotHttps
        | NoAnswer::Fenced
        | NoAnswer::Timeout
        | NoAnswer::Lost(_)
        | NoAnswer::TooLarge => Stage::Answer,
    }
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
        let (identity, transport) = (identity.clone(), transport.clone());
        Ok(Self { host, identity, transport, credential, certificates })
    }

    /// The vault.
    pub fn host(&self) -> &VaultHost {
        &self.host
    }

    /// Reaches the vault without a token: name, TLS, and that a token of Key Vault's audience is asked for. Says nothing of
    /// the identity.
    ///
    /// # Errors
    /// See [`VaultError`].
    pub async fn reach(&self) -> Result<(), VaultError> {
        self.approach().await.map_err(|(_, error)| error)
    }

    /// The same, with how far it came.
    ///
    /// # Errors
    /// The stage that failed, and how.
    pub async fn approach(&self) -> Result<(), (Stage, VaultError)> {
        let call = self.call_to_vault(Act::Reach);
        let begun = Instant::now();
        let answer = match tokio::time::timeout(READ_TIME_LIMIT, self.transport.knock(&self.host)).await {
            Err(_elapsed) => Err((Stage::Answer, call.timed_out(READ_TIME_LIMIT, false))),
            Ok(answer) => answer.map_err(|error| (stage(&error), call.unanswered(&error, false))),
        };
        let last = answer.as_ref().ok().map(LastAnswer::of);
        let reached = answer.and_then(|answer| self.is_vault(&call, &answer));
        self.tell(&call, begun, reached.as_ref().err().map(|(_, error)| error), last);
        reached
    }

    /// Whether what answers without a token is a vault.
    fn is_vault(&self, call: &Call<'_>, answer: &RawResponse) -> Result<(), (Stage, VaultError)> {
        let refused =
            match (u16::from(answer.status()), answer.headers().get_optional_str(&headers::WWW_AUTHENTICATE))
            {
                (401, Some(challenge)) => {
                    match challenge::foreign_scope(challenge, self.host.cloud().vault_scope()) {
                        None => return Ok(()),
                        Some(_) => call.not_a_vault(),
                    }
                }
                // Key Vault shows nothing to anybody without a token.
                (200..=299 | 401, _) => call.not_a_vault(),
                (status, _) => call.refused(&Answer::read(status, answer.headers(), answer.body())),
            };
        Err((Stage::Answer, refused))
    }

    /// Gets a token for the vault, and does nothing with it.
    ///
    /// # Errors
    /// See [`VaultError`].
    pub async fn token(&self) -> Result<(), VaultError> {
        match self.credential.token(None).await {
            Ok(_) => Ok(()),
            Err(failure) => Err(self.without_token(&self.call_to_vault(Act::Contact), &failure)),
        }
    }

    /// A contact with all that reading takes: name, TLS, token, and the answer to a read of a certificate that nobody has.
    ///
    /// # Errors
    /// See [`VaultError`].
    pub async fn contact(&self) -> Result<(), VaultError> {
        let call = self.call_to_vault(Act::Contact);
        let progress = Progress::default();
        let options = CertificateClientGetCertificateOptions {
            method_options: method_options(&progress),
            ..CertificateClientGetCertificateOptions::default()
        };
        let sent = self.certificates.get_certificate(CONTACT_NAME, Some(options));
        none_if_absent(self.carry_out(&call, READ_TIME_LIMIT, &progress, sent).await).map(drop)
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
        let response = none_if_absent(self.carry_out(&call, READ_TIME_LIMIT, &progress, sent).await)?;
        response.map(|response| decode::version(&call, response)).transpose()
    }

    /// The certificate, if it is soft-deleted; `None` if it is not, or not yet: a deletion takes the vault its time.
    ///
    /// # Errors
    /// See [`VaultError`].
    pub async fn deleted(&self, name: &CertificateName) -> Result<Option<DeletedFacts>, VaultError> {
        let call = self.call(name, Act::ReadDeleted);
        let progress = Progress::default();
        let options =
            CertificateClientGetDeletedCertificateOptions { method_options: method_options(&progress) };
        let sent = self.certificates.get_deleted_certificate(name.as_str(), Some(options));
        let response = none_if_absent(self.carry_out(&call, READ_TIME_LIMIT, &progress, sent).await)?;
        response.map(|response| decode::deleted(&call, response)).transpose()
    }

    /// All certificates, by their newest versions, in at most `pages_max` requests (Key Vault puts 25 on a page).
    ///
    /// # Errors
    /// See [`VaultError`]; `Forbidden` where the identity may not list: it may still read one by one.
    pub async fn list(&self, pages_max: usize) -> Result<Listing, VaultError> {
        let call = self.call_to_vault(Act::List);
        let progress = Progress::default();
        let options = CertificateClientListCertificatePropertiesOptions {
            // A name whose creation is pending is taken.
            include_pending: Some(true),
            method_options: PagerOptions {
                context: Context::new().with_value(progress.clone()),
                ..PagerOptions::default()
            },
            ..CertificateClientListCertificatePropertiesOptions::default()
        };
        let pager =
            self.certificates.list_certificate_properties(Some(options)).map_err(|_| unsendable(&call))?;
        let mut answers = pager.into_pages();
        let mut certificates = Vec::new();
        for pages in 1..=pages_max {
            // The transport lets none of them go to another host, whatever the page before says.
            let next = self.carry_out(&call, READ_TIME_LIMIT, &progress, answers.try_next());
            let Some(answer) = next.await? else {
                return Ok(Listing::Whole { certificates, pages: pages - 1 });
            };
            let page = decode::page(&call, answer)?;
            certificates.extend(page.certificates);
            if page.is_last {
                return Ok(Listing::Whole { certificates, pages });
            }
        }
        Ok(Listing::TooLong)
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
        decode::version(&call, self.carry_out(&call, WRITE_TIME_LIMIT, &progress, sent).await?)
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
        self.update(name, version, Act::SetTags, parameters::tags(tags)).await
    }

    /// Sets all tags of a version, and makes Key Vault leave the certificate's renewal to us; nothing else of it or of its
    /// policy changes.
    ///
    /// # Errors
    /// See [`VaultError`]; with [`Landed::Unknown`] it may be adopted.
    pub async fn adopt(
        &self,
        name: &CertificateName,
        version: &str,
        tags: &Tags,
    ) -> Result<CertificateFacts, VaultError> {
        self.update(name, version, Act::Adopt, parameters::adoption(tags)).await
    }

    async fn update(
        &self,
        name: &CertificateName,
        version: &str,
        act: Act,
        parameters: UpdateCertificatePropertiesParameters,
    ) -> Result<CertificateFacts, VaultError> {
        let call = self.call(name, act);
        let version = checked_version(&call, version)?;
        let content: RequestContent<UpdateCertificatePropertiesParameters> =
            parameters.try_into().map_err(|_| unsendable(&call))?;
        let progress = Progress::default();
        let options = CertificateClientUpdateCertificatePropertiesOptions {
            certificate_version: Some(version),
            method_options: method_options(&progress),
        };
        let sent = self.certificates.update_certificate_properties(name.as_str(), content, Some(options));
        decode::version(&call, self.carry_out(&call, WRITE_TIME_LIMIT, &progress, sent).await?)
    }

    /// Has the vault delete a certificate with all its versions. Returns when the vault has accepted that; it may take the
    /// vault a while, and then the certificate is soft-deleted.
    ///
    /// # Errors
    /// See [`VaultError`]; with [`Landed::Unknown`] the deletion may be under way.
    pub async fn delete(&self, name: &CertificateName) -> Result<(), VaultError> {
        let call = self.call(name, Act::Delete);
        let progress = Progress::default();
        let options = CertificateClientDeleteCertificateOptions { method_options: method_options(&progress) };
        let sent = self.certificates.delete_certificate(name.as_str(), Some(options));
        // Accepted is accepted, whatever the answer says of the certificate.
        self.carry_out(&call, WRITE_TIME_LIMIT, &progress, sent).await.map(drop)
    }

    /// Has the vault recover a soft-deleted certificate with all its versions. Returns when the vault has accepted that; it
    /// may take the vault a while until the certificate can be read.
    ///
    /// # Errors
    /// See [`VaultError`]; with [`Landed::Unknown`] the recovery may be under way.
    pub async fn recover(&self, name: &CertificateName) -> Result<(), VaultError> {
        let call = self.call(name, Act::Recover);
        let progress = Progress::default();
        let options =
            CertificateClientRecoverDeletedCertificateOptions { method_options: method_options(&progress) };
        let sent = self.certificates.recover_deleted_certificate(name.as_str(), Some(options));
        self.carry_out(&call, WRITE_TIME_LIMIT, &progress, sent).await.map(drop)
    }

    fn call<'a>(&'a self, name: &'a CertificateName, act: Act) -> Call<'a> {
        Call { host: &self.host, name: Some(name), identity: &self.identity, act }
    }

    fn call_to_vault(&self, act: Act) -> Call<'_> {
        Call { host: &self.host, name: None, identity: &self.identity, act }
    }

    /// Carries out a call and tells the observer of it.
    async fn carry_out<T>(
        &self,
        call: &Call<'_>,
        limit: Duration,
        progress: &Progress,
        sent: impl Future<Output = azure_core::Result<T>>,
    ) -> Result<T, VaultError> {
        let begun = Instant::now();
        let outcome = self.answered(call, limit, progress, sent).await;
        // The SDK knows the end of a list without asking.
        if outcome.is_err() || progress.is_asked() {
            self.tell(call, begun, outcome.as_ref().err(), progress.last_answer());
        }
        outcome
    }

    fn tell(&self, call: &Call<'_>, begun: Instant, error: Option<&VaultError>, answer: Option<LastAnswer>) {
        let is_absent = |error: &&VaultError| !call.act.is_write() && is_absent(error);
        self.transport.observer().called(Called {
            vault: &self.host,
            operation: call.act.operation(),
            failure: error.filter(|error| !is_absent(error)).map(|error| error.problem.reason),
            status: answer.as_ref().map(|answer| answer.status),
            request_id: answer.as_ref().and_then(|answer| answer.request_id.as_deref()),
            took: begun.elapsed(),
        });
    }

    /// Waits for the SDK's call, and makes an error of what is no success.
    async fn answered<T>(
        &self,
        call: &Call<'_>,
        limit: Duration,
        progress: &Progress,
        sent: impl Future<Output = azure_core::Result<T>>,
    ) -> Result<T, VaultError> {
        progress.restart(limit);
        let answer = tokio::select! {
            // First of all: a process that was suspended meanwhile must not go on with a call whose time is up.
            biased;
            () = tokio::time::sleep(limit) => return Err(call.timed_out(limit, progress.is_sent())),
            answer = sent => answer,
        };
        answer.map_err(|error| self.failed(call, &error, progress))
    }

    fn without_token(&self, call: &Call<'_>, failure: &TokenFailure) -> VaultError {
        let (issuer, claims) = (self.credential.issuer(), self.credential.claims());
        let (vault, identity) = (self.host.as_str(), &self.identity);
        call.without_token(
            failure,
            TokenParties { vault, issuer: &issuer, identity, claims: claims.as_ref() },
        )
    }

    fn failed(&self, call: &Call<'_>, error: &azure_core::Error, progress: &Progress) -> VaultError {
        if let Some(failure) = network::find::<TokenFailure>(error) {
            return self.without_token(call, failure);
        }
        if let Some(no_answer) = network::find::<NoAnswer>(error) {
            return call.unanswered(no_answer, progress.is_sent());
        }
        match error.kind() {
            ErrorKind::HttpResponse { status, raw_response: Some(raw), .. } => {
                call.refused(&Answer::read(u16::from(*status), raw.headers(), raw.body()))
            }
            ErrorKind::HttpResponse { status, raw_response: None, .. } => {
                call.refused(&Answer { status: u16::from(*status), ..Answer::default() })
            }
            // The SDK reads a page itself, for the link to the next one.
            _ if progress.is_answered() => decode::not_a_page(call),
            // A page's address is the server's; the SDK sends a token over https only.
            _ if !progress.is_asked() => call.unanswered(&NoAnswer::NotHttps, false),
            // All that is left is the SDK's refusal of a challenge.
            _ => call.not_a_vault(),
        }
    }
}

fn method_options(progress: &Progress) -> ClientMethodOptions<'static> {
    ClientMethodOptions { context: Context::new().with_value(progress.clone()) }
}

/// That a certificate is not there is a fact and no failure of a read.
fn none_if_absent<T>(outcome: Result<T, VaultError>) -> Result<Option<T>, VaultError> {
    match outcome {
        Ok(found) => Ok(Some(found)),
        Err(error) if is_absent(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

fn is_absent(error: &VaultError) -> bool {
    error.status == Some(404) && error.code.as_deref() == Some(CERTIFICATE_NOT_FOUND)
}

fn unsendable(call: &Call<'_>) -> VaultError {
    let message = format!("{}: the request cannot be written; please report this", call.subject());
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
    let message = format!("{}: the version recorded for it is none; please report this", call.subject());
    Err(VaultError::internal(message, Landed::No))
}
