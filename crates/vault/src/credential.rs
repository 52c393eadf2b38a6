//! Tokens for vaults: one for all vaults of an identity, refused for every audience but Key Vault's, renewed in time, failures
//! remembered for a while. Getting one is left to `exchange`.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use azure_core::credentials::{AccessToken, TokenCredential, TokenRequestOptions};
use azure_core::error::{Error, ErrorKind};
use azure_core::time::OffsetDateTime;
use keyvault_sync_core::names::{Cloud, quote};
use tokio::time::Instant;

use crate::answer::RETRY_AFTER_MAX;
use crate::exchange::Source;
use crate::federated::Claims;
use crate::identity::Identity;
use crate::token_failure::{TokenFailure, TokenFailureCause};

/// A failed exchange is not repeated for this long; doubled with each failure in a row.
const FAILURE_PAUSE: Duration = Duration::from_secs(2);
/// The longest pause: who has just repaired a federated credential waits no longer than this.
const FAILURE_PAUSE_MAX: Duration = Duration::from_secs(60);
/// A token that a vault refuses is exchanged for another only if it is older than this: a vault that refuses every token
/// must not cause an exchange with every call.
const REFUSED_TOKEN_AGE: Duration = Duration::from_secs(60);
/// A token is renewed this long before it expires, so that none expires on its way; but no shorter-lived one before half of its
/// time has passed.
const RENEWAL: Duration = Duration::from_secs(300);

/// The credentials there are. Kept as long as a client uses them.
#[derive(Default)]
pub(crate) struct CredentialCache(Mutex<HashMap<CacheKey, Weak<VaultCredential>>>);

/// All that makes one token another. The identity is compared whole: tenant, client, ServiceAccount, Secret, edition.
#[derive(PartialEq, Eq, Hash)]
struct CacheKey {
    authority_host: String,
    cloud: Cloud,
    identity: Identity,
}

impl CredentialCache {
    /// The credential in use for these, or a new one.
    pub(crate) fn find_or_make(
        &self,
        authority_host: &str,
        cloud: Cloud,
        identity: &Identity,
        source: impl FnOnce() -> Source,
    ) -> Arc<VaultCredential> {
        let mut credentials = lock(&self.0);
        credentials.retain(|_, credential| credential.strong_count() > 0);
        let key = CacheKey { authority_host: authority_host.to_owned(), cloud, identity: identity.clone() };
        if let Some(credential) = credentials.get(&key).and_then(Weak::upgrade) {
            return credential;
        }
        let credential = Arc::new(VaultCredential {
            cloud,
            identity: identity.clone(),
            source: source(),
            claims: Mutex::default(),
            state: tokio::sync::Mutex::default(),
        });
        credentials.insert(key, Arc::downgrade(&credential));
        credential
    }
}

/// The tokens of one identity for the vaults of one cloud.
pub(crate) struct VaultCredential {
    cloud: Cloud,
    identity: Identity,
    source: Source,
    claims: Mutex<Option<Claims>>,
    state: tokio::sync::Mutex<State>,
}

#[derive(Default)]
struct State {
    newest: Option<Issued>,
    failure: Option<Remembered>,
}

/// A token, and when it was issued.
struct Issued {
    token: AccessToken,
    at: Instant,
    renewed_at: Instant,
}

struct Remembered {
    failure: TokenFailure,
    pause: Duration,
    until: Instant,
    /// Of which edition of the token file it was.
    file: Option<SystemTime>,
}

impl VaultCredential {
    /// What messages call the place tokens come from.
    pub(crate) fn issuer(&self) -> String {
        self.source.issuer(&self.identity)
    }

    /// What the federated token said of itself when it was last read.
    pub(crate) fn claims(&self) -> Option<Claims> {
        lock(&self.claims).clone()
    }

    /// A token of the vault's audience. `refused`: the expiry of a token that the vault did not take.
    pub(crate) async fn token(&self, refused: Option<OffsetDateTime>) -> Result<AccessToken, TokenFailure> {
        // Held over the exchange: whoever comes meanwhile shares its outcome, also a bad one.
        let mut state = self.state.lock().await;
        let now = Instant::now();
        let file = token_file_edition(&self.identity).await;
        let is_remembered = |remembered: &&Remembered| now < remembered.until && remembered.file == file;
        if let Some(remembered) = state.failure.as_ref().filter(is_remembered) {
            let retry_after = Some(remembered.until - now);
            return Err(TokenFailure { retry_after, ..remembered.failure.clone() });
        }
        match &state.newest {
            Some(issued) if issued.is_good(now, refused) => return Ok(issued.token.clone()),
            Some(_) | None => state.newest = None,
        }
        match self.source.token(&self.identity, self.cloud, &self.claims).await {
            Ok(token) => {
                state.newest = Some(Issued::new(token.clone()));
                state.failure = None;
                Ok(token)
            }
            Err(failure) => Err(state.remember(failure, file)),
        }
    }
}

/// When the file of a federated token was last written: another token may be taken where the one before was refused. Every other
/// identity is another one when what it proves itself with changes.
async fn token_file_edition(identity: &Identity) -> Option<SystemTime> {
    match identity {
        Identity::WorkloadIdentity { token_file, .. } => {
            tokio::fs::metadata(token_file).await.and_then(|metadata| metadata.modified()).ok()
        }
        Identity::ServiceAccount { .. }
        | Identity::ServicePrincipal { .. }
        | Identity::ClientCertificate { .. }
        | Identity::ManagedIdentity { .. } => None,
    }
}

impl Issued {
    fn new(token: AccessToken) -> Self {
        let at = Instant::now();
        let lifetime = token.expires_on - OffsetDateTime::now_utc();
        let lifetime = Duration::try_from(lifetime).unwrap_or_default();
        let renewed_at = at + lifetime.saturating_sub(RENEWAL).max(lifetime / 2);
        Self { token, at, renewed_at }
    }

    /// Whether it is handed out again. `refused`: the expiry of a token that the vault did not take.
    fn is_good(&self, now: Instant, refused: Option<OffsetDateTime>) -> bool {
        let is_refused = refused == Some(self.token.expires_on)
            && now.saturating_duration_since(self.at) >= REFUSED_TOKEN_AGE;
        now < self.renewed_at && !is_refused
    }
}

impl State {
    fn remember(&mut self, mut failure: TokenFailure, file: Option<SystemTime>) -> TokenFailure {
        let pause = match &self.failure {
            Some(earlier) => (earlier.pause * 2).min(FAILURE_PAUSE_MAX),
            None => FAILURE_PAUSE,
        };
        let wait = failure.retry_after.unwrap_or_default().max(pause).min(RETRY_AFTER_MAX);
        failure.retry_after = Some(wait);
        let until = Instant::now() + wait;
        self.failure = Some(Remembered { failure: failure.clone(), pause, until, file });
        failure
    }
}

/// What one client of the SDK gets tokens from.
///
/// The SDK's client keeps its token and asks again only near its expiry or after a 401: who asks again for the token it
/// has says with it that the vault refused it.
pub(crate) struct ClientCredential {
    shared: Arc<VaultCredential>,
    handed_out: Mutex<Option<OffsetDateTime>>,
}

impl ClientCredential {
    pub(crate) fn new(shared: Arc<VaultCredential>) -> Self {
        Self { shared, handed_out: Mutex::default() }
    }
}

impl fmt::Debug for ClientCredential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientCredential").field("identity", &self.shared.identity).finish_non_exhaustive()
    }
}

#[async_trait]
impl TokenCredential for ClientCredential {
    async fn get_token(
        &self,
        scopes: &[&str],
        _options: Option<TokenRequestOptions<'_>>,
    ) -> azure_core::Result<AccessToken> {
        let failed = |failure: TokenFailure| Error::new(ErrorKind::Credential, failure);
        // `challenge` lets no other through; this is the last door before a token is asked for.
        if scopes != [self.shared.cloud.vault_scope()] {
            return Err(failed(TokenFailureCause::ForeignScope(quote(&scopes.join(" "))).into()));
        }
        let refused = *lock(&self.handed_out);
        let token = self.shared.token(refused).await.map_err(failed)?;
        *lock(&self.handed_out) = Some(token.expires_on);
        Ok(token)
    }
}

/// A lock that a panic elsewhere does not take away: what it guards is written whole.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use azure_core::http::headers::Headers;
    use azure_core::http::policies::{Policy, PolicyResult};
    use azure_core::http::{AsyncRawResponse, Context, Request};
    use keyvault_sync_core::reason::{Problem, Reason};
    use keyvault_sync_core::secret_bytes::SecretBytes;

    use super::*;
    use crate::identity::tests::NoProofs;
    use crate::identity::{Proofs, SecretEdition, ServiceAccount};
    use crate::imds::Imds;
    use crate::observer::Nobody;

    const SCOPE: &str = "https://vault.azure.net/.default";
    const AUTHORITY: &str = "login.example.test";

    /// An issuer whose every answer is `status`, counting them.
    #[derive(Debug)]
    struct FakeIssuer {
        status: u16,
        asked: Arc<AtomicU32>,
        lifetime: u32,
    }

    #[async_trait]
    impl Policy for FakeIssuer {
        async fn send(&self, _: &Context, _: &mut Request, _: &[Arc<dyn Policy>]) -> PolicyResult {
            let number = self.asked.fetch_add(1, Ordering::SeqCst);
            if self.status != 200 {
                return Err(Error::new(
                    ErrorKind::Credential,
                    TokenFailure::from(TokenFailureCause::NotAToken),
                ));
            }
            let body = format!(
                r#"{{"access_token":"token-{number}","expires_in":{},"token_type":"Bearer"}}"#,
                self.lifetime
            );
            Ok(AsyncRawResponse::from_bytes(self.status.into(), Headers::new(), body))
        }
    }

    fn source(issuer: FakeIssuer, proofs: Arc<dyn Proofs>) -> Source {
        Source {
            proofs,
            imds: Imds::new(None, reqwest::Client::new()).unwrap(),
            observer: Arc::new(Nobody),
            authority_host: AUTHORITY.into(),
            transport: azure_core::http::Transport::with_policy(Arc::new(issuer)),
        }
    }

    fn workload() -> Identity {
        Identity::WorkloadIdentity {
            tenant_id: "tenant".into(),
            client_id: "client".into(),
            // Any file with text will do: this issuer reads no assertion.
            token_file: concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml").into(),
        }
    }

    fn account(namespace: &str, name: &str, uid: &str) -> ServiceAccount {
        ServiceAccount { namespace: namespace.into(), name: name.into(), uid: uid.into() }
    }

    fn edition() -> SecretEdition {
        SecretEdition {
            namespace: "operator".into(),
            name: "credentials".into(),
            uid: "uid-1".into(),
            resource_version: "7".into(),
            key: Some("clientSecret".into()),
        }
    }

    fn service_principal(tenant_id: &str, client_id: &str, secret: SecretEdition) -> Identity {
        Identity::ServicePrincipal { tenant_id: tenant_id.into(), client_id: client_id.into(), secret }
    }

    fn of_account(account: ServiceAccount) -> Identity {
        Identity::ServiceAccount { tenant_id: "tenant".into(), client_id: "client".into(), account }
    }

    fn fake(status: u16, lifetime: u32) -> (Arc<VaultCredential>, Arc<AtomicU32>) {
        let asked = Arc::new(AtomicU32::new(0));
        let issuer = FakeIssuer { status, asked: Arc::clone(&asked), lifetime };
        let make = || source(issuer, Arc::new(NoProofs));
        let credential = CredentialCache::default().find_or_make(AUTHORITY, Cloud::Public, &workload(), make);
        (credential, asked)
    }

    async fn token(client: &ClientCredential) -> String {
        client.get_token(&[SCOPE], None).await.unwrap().token.secret().to_owned()
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_that_a_vault_refused_is_replaced_once_it_is_a_minute_old() {
        let (shared, asked) = fake(200, 3600);
        let client = ClientCredential::new(Arc::clone(&shared));
        let other = ClientCredential::new(shared);
        assert_eq!(token(&client).await, "token-0");
        assert_eq!(token(&client).await, "token-0", "refused at once: another would not help");
        tokio::time::advance(REFUSED_TOKEN_AGE).await;
        assert_eq!(token(&other).await, "token-0", "its first request says nothing of a refusal");
        assert_eq!(token(&client).await, "token-1");
        assert_eq!(token(&other).await, "token-1");
        assert_eq!(asked.load(Ordering::SeqCst), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_is_renewed_five_minutes_before_it_expires_and_a_short_lived_one_at_half_time() {
        for (lifetime, kept_secs) in [(3600, 3290), (400, 190)] {
            let (shared, asked) = fake(200, lifetime);
            // Each asks for the first time: nobody says that the token was refused.
            let ask = async || token(&ClientCredential::new(Arc::clone(&shared))).await;
            assert_eq!(ask().await, "token-0");
            tokio::time::advance(Duration::from_secs(kept_secs)).await;
            assert_eq!(ask().await, "token-0", "{lifetime}");
            tokio::time::advance(Duration::from_secs(20)).await;
            assert_eq!(ask().await, "token-1", "{lifetime}");
            assert_eq!(asked.load(Ordering::SeqCst), 2, "{lifetime}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn while_a_failure_is_remembered_the_issuer_is_not_asked() {
        let (shared, asked) = fake(400, 3600);
        let client = ClientCredential::new(shared);
        for (advance, expected) in [(0, 1), (1, 1), (1, 2), (3, 2), (1, 3)] {
            tokio::time::advance(Duration::from_secs(advance)).await;
            client.get_token(&[SCOPE], None).await.unwrap_err();
            assert_eq!(asked.load(Ordering::SeqCst), expected);
        }
    }

    #[tokio::test]
    async fn a_token_file_that_is_written_anew_is_tried_at_once() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let write = |text: &str, second: u64| {
            std::fs::write(file.path(), text).unwrap();
            let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000 + second);
            file.as_file().set_modified(at).unwrap();
        };
        let identity = Identity::WorkloadIdentity {
            tenant_id: "tenant".into(),
            client_id: "client".into(),
            token_file: file.path().to_owned(),
        };
        let asked = Arc::new(AtomicU32::new(0));
        let issuer = FakeIssuer { status: 400, lifetime: 3600, asked: Arc::clone(&asked) };
        let cache = CredentialCache::default();
        let make = || source(issuer, Arc::new(NoProofs));
        let credential = cache.find_or_make(AUTHORITY, Cloud::Public, &identity, make);
        for (second, expected) in [(0, 1), (0, 1), (1, 2), (1, 2), (2, 3)] {
            write("any token", second);
            credential.token(None).await.unwrap_err();
            assert_eq!(asked.load(Ordering::SeqCst), expected, "second {second}");
        }
    }

    #[tokio::test]
    async fn no_scope_but_the_vaults_is_ever_asked_for() {
        let (shared, asked) = fake(200, 3600);
        let client = ClientCredential::new(shared);
        for scopes in [&["other"][..], &[SCOPE, "other"], &[], &["https://vault.azure.cn/.default"]] {
            client.get_token(scopes, None).await.unwrap_err();
        }
        assert_eq!(asked.load(Ordering::SeqCst), 0);
    }

    #[tokio::test]
    async fn ids_that_are_none_are_not_put_into_a_request() {
        for (tenant_id, client_id) in [
            ("..", "client"),
            ("a/b", "client"),
            ("", "client"),
            ("tenant", ""),
            ("tenant", "a b"),
            ("a..b", "c"),
        ] {
            let asked = Arc::new(AtomicU32::new(0));
            let issuer = FakeIssuer { status: 200, asked: Arc::clone(&asked), lifetime: 3600 };
            let identity = service_principal(tenant_id, client_id, edition());
            let make = || source(issuer, Arc::new(Counted::default()));
            let credential =
                CredentialCache::default().find_or_make(AUTHORITY, Cloud::Public, &identity, make);
            let failure = credential.token(None).await.unwrap_err();
            assert_eq!(failure.cause, TokenFailureCause::Ids, "{tenant_id} {client_id}");
            assert_eq!(asked.load(Ordering::SeqCst), 0);
        }
    }

    #[test]
    fn a_credential_is_shared_while_it_is_used_and_forgotten_after() {
        let cache = CredentialCache::default();
        let find = |identity: &Identity| cache.find_or_make(AUTHORITY, Cloud::Public, identity, any_source);
        let first = find(&workload());
        assert!(Arc::ptr_eq(&first, &find(&workload())));
        drop(first);
        let _last = find(&Identity::ManagedIdentity { client_id: None });
        assert_eq!(lock(&cache.0).len(), 1);
    }

    fn any_source() -> Source {
        source(FakeIssuer { status: 200, asked: Arc::default(), lifetime: 3600 }, Arc::new(NoProofs))
    }

    #[test]
    fn whatever_makes_a_caller_another_gets_it_another_token() {
        let principal = |change: &dyn Fn(&mut SecretEdition)| {
            let mut secret = edition();
            change(&mut secret);
            service_principal("tenant", "client", secret)
        };
        let managed =
            |client_id: Option<&str>| Identity::ManagedIdentity { client_id: client_id.map(str::to_owned) };
        let same = || service_principal("tenant", "client", edition());
        let certificate = Identity::ClientCertificate {
            tenant_id: "tenant".into(),
            client_id: "client".into(),
            secret: edition(),
        };
        let elsewhere = Identity::WorkloadIdentity {
            tenant_id: "tenant".into(),
            client_id: "client".into(),
            token_file: "/elsewhere".into(),
        };
        let (public, china, gov) = (Cloud::Public, Cloud::China, Cloud::UsGovernment);
        let keys: Vec<(&str, &str, Cloud, Identity)> = vec![
            ("the first", AUTHORITY, public, same()),
            ("authority", "other.example.test", public, same()),
            ("cloud", AUTHORITY, china, same()),
            ("the third cloud", AUTHORITY, gov, same()),
            ("tenant", AUTHORITY, public, service_principal("other", "client", edition())),
            ("client", AUTHORITY, public, service_principal("tenant", "other", edition())),
            ("Secret's namespace", AUTHORITY, public, principal(&|secret| secret.namespace = "other".into())),
            ("Secret's name", AUTHORITY, public, principal(&|secret| secret.name = "other".into())),
            ("Secret's uid", AUTHORITY, public, principal(&|secret| secret.uid = "other".into())),
            ("edition", AUTHORITY, public, principal(&|secret| secret.resource_version = "8".into())),
            ("key", AUTHORITY, public, principal(&|secret| secret.key = Some("other".into()))),
            ("kind", AUTHORITY, public, certificate),
            ("ServiceAccount", AUTHORITY, public, of_account(account("a", "b", "1"))),
            ("its namespace", AUTHORITY, public, of_account(account("other", "b", "1"))),
            ("its name", AUTHORITY, public, of_account(account("a", "other", "1"))),
            ("its uid", AUTHORITY, public, of_account(account("a", "b", "2"))),
            ("the operator's own", AUTHORITY, public, workload()),
            ("token file", AUTHORITY, public, elsewhere),
            ("managed", AUTHORITY, public, managed(None)),
            ("user-assigned", AUTHORITY, public, managed(Some("client"))),
            ("another user-assigned", AUTHORITY, public, managed(Some("other"))),
        ];
        let cache = CredentialCache::default();
        let found: Vec<_> = keys
            .iter()
            .map(|(_, authority, cloud, identity)| {
                cache.find_or_make(authority, *cloud, identity, any_source)
            })
            .collect();
        for (index, credential) in found.iter().enumerate() {
            for (other, (part, ..)) in keys.iter().enumerate().skip(index + 1) {
                assert!(!Arc::ptr_eq(credential, &found[other]), "{} and {part}", keys[index].0);
            }
        }
        assert!(Arc::ptr_eq(&found[0], &cache.find_or_make(AUTHORITY, public, &same(), any_source)));
    }

    /// Proofs that count how often they are asked for; a client secret of `None` never comes.
    #[derive(Debug, Default)]
    struct Counted {
        asked: AtomicU32,
        problem: Option<Problem>,
        is_late: bool,
    }

    impl Counted {
        async fn give(&self) -> Result<SecretBytes, Problem> {
            self.asked.fetch_add(1, Ordering::SeqCst);
            if self.is_late {
                std::future::pending::<()>().await;
            }
            match &self.problem {
                Some(problem) => Err(problem.clone()),
                None => Ok(SecretBytes::new(b"a-proof".to_vec())),
            }
        }
    }

    #[async_trait]
    impl Proofs for Counted {
        async fn client_secret(&self, _: &SecretEdition) -> Result<SecretBytes, Problem> {
            self.give().await
        }

        async fn client_certificate(&self, _: &SecretEdition) -> Result<(Vec<u8>, SecretBytes), Problem> {
            Ok((Vec::new(), self.give().await?))
        }

        async fn service_account_token(&self, _: &ServiceAccount, _: &str) -> Result<SecretBytes, Problem> {
            self.give().await
        }
    }

    fn proving(identity: &Identity, proofs: &Arc<Counted>) -> (Arc<VaultCredential>, Arc<AtomicU32>) {
        let asked = Arc::new(AtomicU32::new(0));
        let issuer = FakeIssuer { status: 200, asked: Arc::clone(&asked), lifetime: 3600 };
        let proofs = Arc::clone(proofs) as Arc<dyn Proofs>;
        let make = || source(issuer, proofs);
        (CredentialCache::default().find_or_make(AUTHORITY, Cloud::Public, identity, make), asked)
    }

    #[tokio::test(start_paused = true)]
    async fn a_proof_is_asked_for_with_each_exchange_and_never_else() {
        for identity in [service_principal("t", "c", edition()), of_account(account("a", "b", "1"))] {
            let proofs = Arc::new(Counted::default());
            let (credential, issued) = proving(&identity, &proofs);
            for (advance, expected) in [(0, 1), (3_000, 1), (400, 2), (10, 2)] {
                tokio::time::advance(Duration::from_secs(advance)).await;
                credential.token(None).await.unwrap();
                let seen = (proofs.asked.load(Ordering::SeqCst), issued.load(Ordering::SeqCst));
                assert_eq!(seen, (expected, expected), "{identity:?}");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_proof_that_cannot_be_had_is_told_in_its_own_words_and_remembered() {
        let problem = Problem::new(Reason::SecretNotFound, "Secret a/b does not exist");
        for identity in [service_principal("t", "c", edition()), of_account(account("a", "b", "1"))] {
            let proofs = Arc::new(Counted { problem: Some(problem.clone()), ..Counted::default() });
            let (credential, issued) = proving(&identity, &proofs);
            for (advance, expected) in [(0, 1), (1, 1), (1, 2), (3, 2), (1, 3)] {
                tokio::time::advance(Duration::from_secs(advance)).await;
                let failure = credential.token(None).await.unwrap_err();
                assert_eq!(failure.cause, TokenFailureCause::NoProof(problem.clone()));
                assert_eq!(proofs.asked.load(Ordering::SeqCst), expected);
            }
            assert_eq!(issued.load(Ordering::SeqCst), 0);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_proof_that_does_not_come_is_not_waited_for() {
        let proofs = Arc::new(Counted { is_late: true, ..Counted::default() });
        let (credential, _) = proving(&service_principal("t", "c", edition()), &proofs);
        let begun = Instant::now();
        assert_eq!(credential.token(None).await.unwrap_err().cause, TokenFailureCause::ProofLate);
        assert!(begun.elapsed() < Duration::from_secs(4));
    }

    #[tokio::test(start_paused = true)]
    async fn the_pause_after_failures_grows_to_a_minute_and_honours_retry_after() {
        let mut state = State::default();
        let failure = |retry_after: Option<u64>| TokenFailure {
            cause: TokenFailureCause::NotAToken,
            retry_after: retry_after.map(Duration::from_secs),
        };
        let pauses: Vec<_> = [None, None, Some(30), None, None, None, None, Some(3600)]
            .map(|retry_after| state.remember(failure(retry_after), None).retry_after.unwrap().as_secs())
            .into();
        assert_eq!(pauses, [2, 4, 30, 16, 32, 60, 60, 300]);
    }
}
