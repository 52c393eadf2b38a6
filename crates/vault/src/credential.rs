//! Tokens for vaults: the federated token file exchanged at Entra ID, one token for all vaults of an identity, refused for
//! every audience but Key Vault's, failures remembered for a while. The exchange itself is left to the SDK.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use azure_core::cloud::CustomConfiguration;
use azure_core::credentials::{AccessToken, TokenCredential, TokenRequestOptions};
use azure_core::error::{Error, ErrorKind};
use azure_core::http::{ClientMethodOptions, ClientOptions, RetryOptions};
use azure_core::time::OffsetDateTime;
use azure_identity::{ClientAssertion, ClientAssertionCredential, ClientAssertionCredentialOptions};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use keyvault_sync_core::names::quote;
use serde::Deserialize;
use tokio::io::AsyncReadExt as _;
use tokio::time::Instant;

use crate::answer::RETRY_AFTER_MAX;
use crate::network;
use crate::token_failure::{TokenFailure, TokenFailureCause};

/// A ServiceAccount token has 1 to 3 kB; a larger file is something else.
const TOKEN_FILE_MAX: u64 = 64 * 1024;
/// A failed exchange is not repeated for this long; doubled with each failure in a row.
const FAILURE_PAUSE: Duration = Duration::from_secs(2);
/// The longest pause: who has just repaired a federated credential waits no longer than this.
const FAILURE_PAUSE_MAX: Duration = Duration::from_secs(60);
/// A token that a vault refuses is exchanged for another only if it is older than this: a vault that refuses every token
/// must not cause an exchange with every call.
const REFUSED_TOKEN_AGE: Duration = Duration::from_secs(60);

/// Who opens a vault. Holds no secret; fit as a key for caches.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Identity {
    /// Entra Workload ID: a Kubernetes ServiceAccount token, kept fresh in a file by the kubelet, is exchanged for tokens of
    /// an application or managed identity that trusts it (a federated credential).
    WorkloadIdentity {
        /// Directory (tenant) id: a GUID or a domain.
        tenant_id: String,
        /// Application (client) id, a GUID.
        client_id: String,
        /// Where the ServiceAccount token is; read anew for each exchange.
        token_file: PathBuf,
    },
}

/// The credentials there are. Kept as long as a client uses them.
#[derive(Default)]
pub(crate) struct CredentialCache(Mutex<HashMap<CacheKey, Weak<VaultCredential>>>);

#[derive(PartialEq, Eq, Hash)]
struct CacheKey {
    authority_host: String,
    scope: &'static str,
    identity: Identity,
}

impl CredentialCache {
    /// The credential in use for these, or a new one.
    pub(crate) fn find_or_make(
        &self,
        authority_host: &str,
        scope: &'static str,
        identity: &Identity,
        transport: impl FnOnce() -> azure_core::http::Transport,
    ) -> Arc<VaultCredential> {
        let mut credentials = lock(&self.0);
        credentials.retain(|_, credential| credential.strong_count() > 0);
        let key = CacheKey { authority_host: authority_host.to_owned(), scope, identity: identity.clone() };
        if let Some(credential) = credentials.get(&key).and_then(Weak::upgrade) {
            return credential;
        }
        let credential = Arc::new(VaultCredential {
            authority_host: authority_host.to_owned(),
            scope,
            identity: identity.clone(),
            transport: transport(),
            claims: Arc::default(),
            state: tokio::sync::Mutex::default(),
        });
        credentials.insert(key, Arc::downgrade(&credential));
        credential
    }
}

/// The tokens of one identity for the vaults of one cloud.
pub(crate) struct VaultCredential {
    authority_host: String,
    scope: &'static str,
    identity: Identity,
    transport: azure_core::http::Transport,
    claims: Arc<Mutex<Option<Claims>>>,
    state: tokio::sync::Mutex<State>,
}

#[derive(Default)]
struct State {
    exchange: Option<Arc<ClientAssertionCredential<FederatedTokenFile>>>,
    /// The token that was exchanged last, known by its expiry, and when that was.
    newest: Option<(OffsetDateTime, Instant)>,
    failure: Option<Remembered>,
}

struct Remembered {
    failure: TokenFailure,
    pause: Duration,
    until: Instant,
}

impl VaultCredential {
    /// The host tokens come from.
    pub(crate) fn authority_host(&self) -> &str {
        &self.authority_host
    }

    /// What the federated token said of itself when it was last read.
    pub(crate) fn claims(&self) -> Option<Claims> {
        lock(&self.claims).clone()
    }

    /// A token of the vault's audience. `refused`: the expiry of a token that the vault did not take.
    async fn token(&self, refused: Option<OffsetDateTime>) -> Result<AccessToken, TokenFailure> {
        // Held over the exchange: whoever comes meanwhile shares its outcome, also a bad one.
        let mut state = self.state.lock().await;
        let now = Instant::now();
        if let Some(remembered) = state.failure.as_ref().filter(|remembered| now < remembered.until) {
            let retry_after = Some(remembered.until - now);
            return Err(TokenFailure { retry_after, ..remembered.failure.clone() });
        }
        let is_refused = |(expiry, since): (OffsetDateTime, Instant)| {
            refused == Some(expiry) && now.duration_since(since) >= REFUSED_TOKEN_AGE
        };
        if state.newest.is_some_and(is_refused) {
            // The SDK's credential repeats its token until shortly before expiry; only a new one asks for another.
            state.exchange = None;
        }
        match self.exchange(&mut state).await {
            Ok(token) => {
                if state.newest.is_none_or(|(expiry, _)| expiry != token.expires_on) {
                    state.newest = Some((token.expires_on, Instant::now()));
                }
                state.failure = None;
                Ok(token)
            }
            Err(failure) => Err(state.remember(failure)),
        }
    }

    async fn exchange(&self, state: &mut State) -> Result<AccessToken, TokenFailure> {
        let exchange = match &state.exchange {
            Some(exchange) => Arc::clone(exchange),
            None => Arc::clone(state.exchange.insert(self.new_exchange()?)),
        };
        exchange.get_token(&[self.scope], None).await.map_err(|error| {
            let failure = network::find::<TokenFailure>(&error).cloned();
            failure.unwrap_or_else(|| TokenFailureCause::Unknown.into())
        })
    }

    fn new_exchange(&self) -> Result<Arc<ClientAssertionCredential<FederatedTokenFile>>, TokenFailure> {
        let Identity::WorkloadIdentity { tenant_id, client_id, token_file } = &self.identity;
        let mut cloud = CustomConfiguration::default();
        cloud.authority_host = format!("https://{}", self.authority_host);
        let client_options = ClientOptions {
            transport: Some(self.transport.clone()),
            retry: RetryOptions::none(),
            // Named always: without it the SDK reads AZURE_AUTHORITY_HOST.
            cloud: Some(Arc::new(cloud.into())),
            ..ClientOptions::default()
        };
        let file = FederatedTokenFile { path: token_file.clone(), claims: Arc::clone(&self.claims) };
        // Not WorkloadIdentityCredential: it keeps the file's content for ten minutes and reads it once when it is made.
        ClientAssertionCredential::new(
            tenant_id.clone(),
            client_id.clone(),
            file,
            Some(ClientAssertionCredentialOptions { client_options }),
        )
        .map_err(|_| TokenFailureCause::Ids.into())
    }
}

impl State {
    fn remember(&mut self, mut failure: TokenFailure) -> TokenFailure {
        let pause = match &self.failure {
            Some(earlier) => (earlier.pause * 2).min(FAILURE_PAUSE_MAX),
            None => FAILURE_PAUSE,
        };
        let wait = failure.retry_after.unwrap_or_default().max(pause).min(RETRY_AFTER_MAX);
        failure.retry_after = Some(wait);
        self.failure = Some(Remembered { failure: failure.clone(), pause, until: Instant::now() + wait });
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
        if scopes != [self.shared.scope] {
            return Err(failed(TokenFailureCause::ForeignScope(quote(&scopes.join(" "))).into()));
        }
        let refused = *lock(&self.handed_out);
        let token = self.shared.token(refused).await.map_err(failed)?;
        *lock(&self.handed_out) = Some(token.expires_on);
        Ok(token)
    }
}

/// What a federated token says of itself and what Entra ID compares with its federated credentials. No secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Claims {
    pub(crate) issuer: String,
    pub(crate) subject: String,
    pub(crate) audience: String,
}

impl Claims {
    /// Reads a JWT's claims without checking its signature, which is Entra ID's business.
    fn read(token: &str) -> Option<Self> {
        #[derive(Deserialize)]
        struct Payload {
            iss: String,
            sub: String,
            aud: Audience,
        }
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Audience {
            One(String),
            Many(Vec<String>),
        }
        let payload = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
        let payload: Payload = serde_json::from_slice(&payload).ok()?;
        let audience = match payload.aud {
            Audience::One(audience) => audience,
            Audience::Many(audiences) => audiences.join(" "),
        };
        Some(Self { issuer: quote(&payload.iss), subject: quote(&payload.sub), audience: quote(&audience) })
    }
}

/// The federated token, read for each exchange: the kubelet replaces it long before it expires.
#[derive(Debug)]
struct FederatedTokenFile {
    path: PathBuf,
    claims: Arc<Mutex<Option<Claims>>>,
}

#[async_trait]
impl ClientAssertion for FederatedTokenFile {
    async fn secret(&self, _options: Option<ClientMethodOptions<'_>>) -> azure_core::Result<String> {
        let token = read_token_file(&self.path).await.map_err(|found| {
            let cause = TokenFailureCause::TokenFile { path: self.path.clone(), found };
            Error::new(ErrorKind::Credential, TokenFailure::from(cause))
        })?;
        *lock(&self.claims) = Claims::read(&token);
        Ok(token)
    }
}

/// The file's text, trimmed; or what was found instead.
async fn read_token_file(path: &Path) -> Result<String, String> {
    let file = tokio::fs::File::open(path).await.map_err(|error| error.to_string())?;
    let mut text = String::new();
    let length =
        file.take(TOKEN_FILE_MAX + 1).read_to_string(&mut text).await.map_err(|error| error.to_string())?;
    match text.trim() {
        "" => Err("it is empty".into()),
        _ if length as u64 > TOKEN_FILE_MAX => Err(format!("it is larger than {TOKEN_FILE_MAX} bytes")),
        token => Ok(token.to_owned()),
    }
}

/// A lock that a panic elsewhere does not take away: what it guards is written whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use azure_core::http::headers::Headers;
    use azure_core::http::policies::{Policy, PolicyResult};
    use azure_core::http::{AsyncRawResponse, Context, Request};

    use super::*;

    #[test]
    fn claims_are_read_from_any_shape_of_audience() {
        let token = |payload: &str| format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(payload));
        for (text, audience) in [
            (token(r#"{"iss":"https://i","sub":"s","aud":"a"}"#), Some("\"a\"")),
            (token(r#"{"iss":"https://i","sub":"s","aud":["a","b"]}"#), Some("\"a b\"")),
            (token(r#"{"iss":"https://i","sub":"s"}"#), None),
            ("no token".into(), None),
            (String::new(), None),
        ] {
            assert_eq!(Claims::read(&text).map(|claims| claims.audience).as_deref(), audience, "{text}");
        }
    }

    /// An issuer whose every answer is `status`, counting them.
    #[derive(Debug)]
    struct FakeIssuer {
        status: u16,
        asked: Arc<AtomicU32>,
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
            let body =
                format!(r#"{{"access_token":"token-{number}","expires_in":3600,"token_type":"Bearer"}}"#);
            Ok(AsyncRawResponse::from_bytes(self.status.into(), Headers::new(), body))
        }
    }

    fn fake(status: u16) -> (Arc<VaultCredential>, Arc<AtomicU32>) {
        let asked = Arc::new(AtomicU32::new(0));
        let issuer = FakeIssuer { status, asked: Arc::clone(&asked) };
        let identity = Identity::WorkloadIdentity {
            tenant_id: "tenant".into(),
            client_id: "client".into(),
            // Any file with text will do: this issuer reads no assertion.
            token_file: concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml").into(),
        };
        let transport = || azure_core::http::Transport::with_policy(Arc::new(issuer));
        let cache = CredentialCache::default();
        let credential = cache.find_or_make("login.example.test", "the-scope", &identity, transport);
        (credential, asked)
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_that_a_vault_refused_is_replaced_once_it_is_a_minute_old() {
        let (shared, asked) = fake(200);
        let client = ClientCredential::new(Arc::clone(&shared));
        let other = ClientCredential::new(shared);
        let token = async |client: &ClientCredential| {
            client.get_token(&["the-scope"], None).await.unwrap().token.secret().to_owned()
        };
        assert_eq!(token(&client).await, "token-0");
        assert_eq!(token(&client).await, "token-0", "refused at once: another would not help");
        tokio::time::advance(REFUSED_TOKEN_AGE).await;
        assert_eq!(token(&other).await, "token-0", "its first request says nothing of a refusal");
        assert_eq!(token(&client).await, "token-1");
        assert_eq!(token(&other).await, "token-1");
        assert_eq!(asked.load(Ordering::SeqCst), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn while_a_failure_is_remembered_the_issuer_is_not_asked() {
        let (shared, asked) = fake(400);
        let client = ClientCredential::new(shared);
        for (advance, expected) in [(0, 1), (1, 1), (1, 2), (3, 2), (1, 3)] {
            tokio::time::advance(Duration::from_secs(advance)).await;
            client.get_token(&["the-scope"], None).await.unwrap_err();
            assert_eq!(asked.load(Ordering::SeqCst), expected);
        }
    }

    #[tokio::test]
    async fn no_scope_but_the_vaults_is_ever_asked_for() {
        let (shared, asked) = fake(200);
        let client = ClientCredential::new(shared);
        for scopes in [&["other"][..], &["the-scope", "other"], &[]] {
            client.get_token(scopes, None).await.unwrap_err();
        }
        assert_eq!(asked.load(Ordering::SeqCst), 0);
    }

    #[test]
    fn a_credential_is_shared_while_it_is_used_and_forgotten_after() {
        let cache = CredentialCache::default();
        let identity = |client: &str| Identity::WorkloadIdentity {
            tenant_id: "tenant".into(),
            client_id: client.into(),
            token_file: "/token".into(),
        };
        let issuer = || FakeIssuer { status: 200, asked: Arc::default() };
        let transport = || azure_core::http::Transport::with_policy(Arc::new(issuer()));
        let find =
            |authority: &str, client: &str| cache.find_or_make(authority, "s", &identity(client), transport);
        let first = find("a.test", "one");
        assert!(Arc::ptr_eq(&first, &find("a.test", "one")));
        assert!(!Arc::ptr_eq(&first, &find("a.test", "two")));
        assert!(!Arc::ptr_eq(&first, &find("b.test", "one")));
        drop(first);
        let _last = find("a.test", "three");
        assert_eq!(lock(&cache.0).len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn the_pause_after_failures_grows_to_a_minute_and_honours_retry_after() {
        let mut state = State::default();
        let failure = |retry_after: Option<u64>| TokenFailure {
            cause: TokenFailureCause::NotAToken,
            retry_after: retry_after.map(Duration::from_secs),
        };
        let pauses: Vec<_> = [None, None, Some(30), None, None, None, None, Some(3600)]
            .map(|retry_after| state.remember(failure(retry_after)).retry_after.unwrap().as_secs())
            .into();
        assert_eq!(pauses, [2, 4, 30, 16, 32, 60, 60, 300]);
    }
}
