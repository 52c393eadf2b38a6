//! One call from its head to its answer: named, written down, authenticated, hit by faults, carried out.
//! Leaves connections to server.rs, and what each operation does to certificates.rs, secrets.rs, entra.rs and imds.rs.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http_body_util::{BodyExt as _, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{
    AUTHORIZATION, CONTENT_TYPE, HOST, HeaderMap, HeaderValue, RETRY_AFTER, SERVER, WWW_AUTHENTICATE,
};
use hyper::{Request, Response, StatusCode};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::answer::{self, Body};
use crate::auth::{self, Caller};
use crate::certificates::{self, Address};
use crate::cloud::Cloud;
use crate::entra::{self, Directory, TOKEN_LIFETIME};
use crate::error::{MetadataError, TokenError, VaultError};
use crate::fault::{self, Effect, Faults, Hit};
use crate::imds::Node;
use crate::journal::{Beginning, Journal, Operation};
use crate::jwt::TokenSigner;
use crate::route::Route;
use crate::vault::{self, Vaults};
use crate::{deleted, discovery, policy, random, secrets};

/// Bytes of a request's body, at most: a bundle of 25 kB in base64, and room.
const MAX_BODY: usize = 1024 * 1024;
/// Versions of the REST surface that are answered.
const API_VERSIONS: [&str; 10] =
    ["7.0", "7.1", "7.2", "7.3", "7.4", "7.5", "7.6", "2025-06-01-preview", "2025-07-01", "2026-04-01"];

/// Everything the emulator knows, shared by all connections.
pub(crate) struct Service {
    pub(crate) vaults: Mutex<Vaults>,
    pub(crate) directory: Mutex<Directory>,
    pub(crate) node: Mutex<Node>,
    pub(crate) faults: Faults,
    pub(crate) journal: Journal,
    pub(crate) signer: TokenSigner,
    pub(crate) token_lifetime: AtomicI64,
}

/// Where a request came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Door {
    /// Where vaults and Entra ID are.
    Azure,
    /// Where the node's metadata service is.
    Metadata,
}

/// Who is asked.
#[derive(Debug, Clone, Copy)]
enum Party {
    Vault,
    Entra(&'static Cloud),
    Node,
}

/// The connection is to be reset instead of an answer.
#[derive(Debug, thiserror::Error)]
#[error("reset by a fault")]
pub(crate) struct Reset;

/// A request, read to its end and named.
pub(crate) struct Received {
    number: u64,
    host: String,
    /// Host as the caller wrote it, with its port: identifiers in answers begin with it.
    base: String,
    party: Party,
    route: Route,
    query: BTreeMap<String, String>,
    headers: HeaderMap,
    body: Result<Bytes, VaultError>,
}

/// What a call came to.
struct Outcome {
    status: StatusCode,
    body: Value,
    headers: HeaderMap,
    /// For the journal.
    code: Option<String>,
    committed: bool,
}

impl Service {
    pub(crate) fn new(signer: TokenSigner) -> Self {
        Self {
            vaults: Mutex::default(),
            directory: Mutex::default(),
            node: Mutex::default(),
            faults: Faults::default(),
            journal: Journal::new(),
            signer,
            token_lifetime: AtomicI64::new(TOKEN_LIFETIME),
        }
    }

    pub(crate) fn vaults(&self) -> MutexGuard<'_, Vaults> {
        self.vaults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn directory(&self) -> MutexGuard<'_, Directory> {
        self.directory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn node(&self) -> MutexGuard<'_, Node> {
        self.node.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes the call down as soon as its head is here, and reads its body.
    pub(crate) async fn receive(&self, request: Request<Incoming>, door: Door) -> Received {
        let (head, body) = request.into_parts();
        let text = |name: &str| text(&head.headers, name).map(str::to_owned);
        let authority = head
            .uri
            .authority()
            .map(|authority| authority.as_str().to_owned())
            .or_else(|| text(HOST.as_str()))
            .unwrap_or_default()
            .to_ascii_lowercase();
        let host = without_port(&authority).to_owned();
        let path = head.uri.path().to_owned();
        let (party, route) = match (door, Cloud::of_authority(&host)) {
            (Door::Metadata, _) => (Party::Node, Route::of_metadata(&head.method, &path)),
            (Door::Azure, Some(cloud)) => (Party::Entra(cloud), Route::of_entra(&head.method, &path)),
            (Door::Azure, None) => (Party::Vault, Route::of_vault(&head.method, &path)),
        };
        let number = self.journal.begin(Beginning {
            host: host.clone(),
            method: head.method.to_string(),
            path,
            operation: route.operation,
            name: route.name.clone(),
            version: route.version.clone(),
            client_request_id: text("x-ms-client-request-id"),
        });
        let query = form(head.uri.query().unwrap_or_default().as_bytes());
        let body = match Limited::new(body, MAX_BODY).collect().await {
            Ok(collected) => Ok(collected.to_bytes()),
            Err(_) => Err(VaultError::too_large(MAX_BODY)),
        };
        let base = format!("https://{authority}");
        Received { number, host, base, party, route, query, headers: head.headers, body }
    }

    /// Carries a call out, faults included. Runs to its end whether or not the caller still waits.
    pub(crate) async fn answer(&self, call: Received) -> Result<Response<Body>, Reset> {
        let number = call.number;
        let outcome = self.outcome(call).await;
        let answered = outcome.is_ok();
        self.journal.end(number, answered);
        outcome
    }

    async fn outcome(&self, call: Received) -> Result<Response<Body>, Reset> {
        let caller = match call.party {
            Party::Entra(_) | Party::Node => Ok(None),
            Party::Vault => self.authenticate(&call).map(Some),
        };
        let caller = match caller {
            Ok(caller) => caller,
            // A caller unknown is answered before any fault: the challenge's first round is no call of a client's.
            Err(error) => return Ok(self.render(&call, Outcome::refused(&error))),
        };
        let mut hit = self.faults.hit(&call.host, call.route.operation, call.route.name.as_deref());
        if let Some(early) = self.before(&call, hit.as_mut()).await {
            return early.map(|outcome| self.render(&call, outcome));
        }
        let outcome = match (call.party, caller) {
            (Party::Entra(cloud), _) => self.entra(cloud, &call),
            (Party::Node, _) => self.metadata(&call),
            (Party::Vault, Some(caller)) => {
                self.vault(&call, &caller).unwrap_or_else(|error| Outcome::refused(&error))
            }
            (Party::Vault, None) => Outcome::refused(&VaultError::method_not_allowed()),
        };
        let response = self.render(&call, outcome);
        after(response, hit.as_mut()).await
    }

    fn authenticate(&self, call: &Received) -> Result<Caller, VaultError> {
        let vaults = self.vaults();
        let vault = vaults.get(&call.host).ok_or_else(|| VaultError::unknown_host(&call.host))?;
        let header = text(&call.headers, AUTHORIZATION.as_str());
        let caller = auth::authenticate(&call.host, vault, header, &self.signer.jwks())?;
        drop(vaults);
        self.journal.note(call.number, |entry| entry.client_id = Some(caller.client_id.clone()));
        Ok(caller)
    }

    /// The part of a fault that comes before the call is carried out; something, if it never is.
    async fn before(&self, call: &Received, hit: Option<&mut Hit>) -> Option<Result<Outcome, Reset>> {
        let hit = hit?;
        match hit.effect.clone() {
            Effect::Status { status, code, inner, message, retry_after } => {
                let message = message.unwrap_or_else(|| fault::words(&code, inner.as_deref()).to_owned());
                let mut error = VaultError::injected(status, &code, inner.as_deref(), &message);
                error.retry_after = retry_after.map(Into::into);
                Some(Ok(self.injected(call, error)))
            }
            Effect::Reset => Some(Err(Reset)),
            Effect::DelayBefore { milliseconds } => {
                tokio::time::sleep(Duration::from_millis(milliseconds)).await;
                None
            }
            Effect::Hang => {
                hit.released().await;
                None
            }
            _ => None,
        }
    }

    fn injected(&self, call: &Received, mut error: VaultError) -> Outcome {
        let retry_after = error.retry_after.clone().map(Into::into);
        let (status, code, message) = (error.status, error.code.clone(), error.message.clone());
        match call.party {
            Party::Entra(_) => {
                Outcome::token_refused(&TokenError { status, error: code, code: 0, message, retry_after })
            }
            Party::Node => {
                Outcome::metadata_refused(&MetadataError { status, error: code, message, retry_after })
            }
            Party::Vault => {
                if status == StatusCode::UNAUTHORIZED {
                    error.challenge =
                        self.vaults().get(&call.host).map(|vault| auth::challenge(&call.host, vault).into());
                }
                Outcome::refused(&error)
            }
        }
    }

    fn vault(&self, call: &Received, caller: &Caller) -> Result<Outcome, VaultError> {
        self.permit(call, caller)?;
        match call.query.get("api-version").map(String::as_str) {
            Some(version) if API_VERSIONS.contains(&version) => {}
            Some(version) => {
                return Err(VaultError::bad_parameter(format!("The api-version {version} is not supported")));
            }
            None => return Err(VaultError::bad_parameter("The request needs a query parameter api-version")),
        }
        self.perform(call)
    }

    fn permit(&self, call: &Received, caller: &Caller) -> Result<(), VaultError> {
        let vaults = self.vaults();
        let vault = vaults.get(&call.host).ok_or_else(|| VaultError::unknown_host(&call.host))?;
        auth::authorize(&call.host, vault, caller, call.route.operation, &call.route.object())
    }

    fn perform(&self, call: &Received) -> Result<Outcome, VaultError> {
        let at = Address { base: &call.base, query: &call.query };
        let (name, version) = (call.route.name.as_deref().unwrap_or_default(), call.route.version.as_deref());
        // The expensive half of an import is done before the vaults are locked.
        let prepared = match call.route.operation {
            Operation::Import => Some(certificates::prepare_import(name, json_body(call)?)?),
            _ => None,
        };
        let mut vaults = self.vaults();
        let vault = vaults.get_mut(&call.host).ok_or_else(|| VaultError::unknown_host(&call.host))?;
        let (body, committed) = match (call.route.operation, prepared) {
            (Operation::Import, Some(prepared)) => (certificates::import(vault, name, prepared, &at)?, true),
            (Operation::GetCertificate, _) => (certificates::get(vault, name, version, &at)?, false),
            (Operation::ListCertificates, _) => (certificates::list(vault, &at)?, false),
            (Operation::ListVersions, _) => (certificates::versions(vault, name, &at)?, false),
            (Operation::UpdateCertificate, _) => {
                (certificates::update(vault, name, version, json_body(call)?, &at)?, true)
            }
            (Operation::GetPolicy, _) => (policy::get(vault, name, &at)?, false),
            (Operation::UpdatePolicy, _) => (policy::update(vault, name, json_body(call)?, &at)?, true),
            (Operation::DeleteCertificate, _) => (deleted::delete(vault, name, &at)?, true),
            (Operation::GetDeletedCertificate, _) => (deleted::get(vault, name, &at)?, false),
            (Operation::ListDeleted, _) => (deleted::list(vault, &at)?, false),
            (Operation::RecoverCertificate, _) => (deleted::recover(vault, name, &at)?, true),
            (Operation::Purge, _) => {
                deleted::purge(vault, &call.host, name)?;
                return Ok(Outcome { committed: true, ..Outcome::empty() });
            }
            (Operation::GetSecret, _) => (secrets::get(vault, name, version, &at)?, false),
            _ => return Err(VaultError::method_not_allowed()),
        };
        Ok(Outcome { committed, ..Outcome::ok(body) })
    }

    fn entra(&self, cloud: &Cloud, call: &Received) -> Outcome {
        let tenant = call.route.name.as_deref().unwrap_or_default();
        match (call.route.operation, call.route.version.as_deref()) {
            (Operation::Token, _) => {
                self.token(cloud, tenant, call).unwrap_or_else(|error| Outcome::token_refused(&error))
            }
            (Operation::Discovery, Some("keys")) => Outcome::ok(self.signer.jwks()),
            (Operation::Discovery, Some("instance")) => {
                let endpoint = call.query.get("authorization_endpoint").map(String::as_str);
                told(discovery::instance(&call.host, endpoint))
            }
            (Operation::Discovery, _) => {
                told(discovery::openid_configuration(&self.directory(), cloud, &call.host, tenant))
            }
            _ => Outcome::refused(&VaultError::method_not_allowed()),
        }
    }

    fn token(&self, cloud: &Cloud, tenant: &str, call: &Received) -> Result<Outcome, TokenError> {
        let unreadable =
            |error: &VaultError| TokenError::request("invalid_request", 90014, error.message.clone());
        let form = form(call.body.as_ref().map_err(unreadable)?);
        self.journal.note(call.number, |entry| {
            entry.scope = form.get("scope").cloned();
            entry.client_id = form.get("client_id").map(|id| id.to_ascii_lowercase());
        });
        let grant = self.directory().grant(cloud, tenant, &form)?;
        let lifetime = self.token_lifetime.load(Ordering::Relaxed);
        let token = entra::access_token(&self.signer, tenant, &grant.client_id, &grant.audience, lifetime)
            .map_err(|_| TokenError::request("server_error", 90033, "The token could not be signed."))?;
        Ok(Outcome::ok(json!({
            "token_type": "Bearer",
            "expires_in": lifetime,
            "ext_expires_in": lifetime,
            "access_token": token,
        })))
    }

    fn metadata(&self, call: &Received) -> Outcome {
        match call.route.operation {
            Operation::ManagedIdentityToken => {
                self.managed_identity_token(call).unwrap_or_else(|error| Outcome::metadata_refused(&error))
            }
            _ => Outcome::metadata_refused(&MetadataError {
                status: StatusCode::NOT_FOUND,
                ..MetadataError::request("Not found", "The emulator knows no such metadata")
            }),
        }
    }

    fn managed_identity_token(&self, call: &Received) -> Result<Outcome, MetadataError> {
        self.journal.note(call.number, |entry| {
            entry.scope = call.query.get("resource").cloned();
            entry.client_id = call.query.get("client_id").map(|id| id.to_ascii_lowercase());
        });
        let asked = self.node().judge(&call.headers, &call.query)?;
        let (tenant, client_id) = (&asked.identity.tenant_id, &asked.identity.client_id);
        self.journal.note(call.number, |entry| entry.client_id = Some(client_id.to_ascii_lowercase()));
        // Read before the token is made: it is not told to hold longer than it does.
        let (now, lifetime) = (vault::now(), self.token_lifetime.load(Ordering::Relaxed));
        let token = entra::access_token(&self.signer, tenant, client_id, &asked.audience, lifetime)
            .map_err(|_| MetadataError::request("unknown", "The token could not be signed"))?;
        Ok(Outcome::ok(asked.answer(&token, now, lifetime)))
    }

    fn render(&self, call: &Received, outcome: Outcome) -> Response<Body> {
        let id = random::guid();
        self.journal.note(call.number, |entry| {
            entry.request_id = Some(id.clone());
            entry.status = Some(outcome.status.as_u16());
            entry.code.clone_from(&outcome.code);
            entry.committed = outcome.committed;
        });
        let is_empty = outcome.status == StatusCode::NO_CONTENT;
        let body = if is_empty { String::new() } else { outcome.body.to_string() };
        let mut response = Response::new(answer::whole(body));
        *response.status_mut() = outcome.status;
        *response.headers_mut() = outcome.headers;
        let headers = response.headers_mut();
        if !is_empty {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json; charset=utf-8"));
        }
        match call.party {
            Party::Node => {
                headers.insert(SERVER, HeaderValue::from_static(concat!("IMDS/", env!("CARGO_PKG_VERSION"))));
            }
            Party::Vault => {
                let version = HeaderValue::from_static(env!("CARGO_PKG_VERSION"));
                headers.insert("x-ms-keyvault-service-version", version);
                headers.insert("x-ms-keyvault-region", HeaderValue::from_static("emulator"));
            }
            Party::Entra(_) => {}
        }
        if let Ok(id) = HeaderValue::from_str(&id) {
            headers.insert("x-ms-request-id", id);
        }
        response
    }
}

impl Outcome {
    fn ok(body: Value) -> Self {
        Self { status: StatusCode::OK, body, headers: HeaderMap::new(), code: None, committed: false }
    }

    /// Done, and nothing to say about it.
    fn empty() -> Self {
        Self { status: StatusCode::NO_CONTENT, ..Self::ok(Value::Null) }
    }

    fn refused(error: &VaultError) -> Self {
        let mut headers = HeaderMap::new();
        insert(&mut headers, WWW_AUTHENTICATE.as_str(), error.challenge.as_deref());
        insert(&mut headers, RETRY_AFTER.as_str(), error.retry_after.as_deref());
        Self { status: error.status, code: Some(error.code.clone()), headers, ..Self::ok(error.body()) }
    }

    fn metadata_refused(error: &MetadataError) -> Self {
        let mut headers = HeaderMap::new();
        insert(&mut headers, RETRY_AFTER.as_str(), error.retry_after.as_deref());
        Self { status: error.status, code: Some(error.error.clone()), headers, ..Self::ok(error.body()) }
    }

    fn token_refused(error: &TokenError) -> Self {
        let mut headers = HeaderMap::new();
        insert(&mut headers, RETRY_AFTER.as_str(), error.retry_after.as_deref());
        let code = if error.code == 0 { error.error.clone() } else { format!("AADSTS{}", error.code) };
        Self { status: error.status, code: Some(code), headers, ..Self::ok(error.body(&random::guid())) }
    }
}

/// A document of Entra ID's, or why there is none.
fn told(document: Result<Value, TokenError>) -> Outcome {
    document.map_or_else(|error| Outcome::token_refused(&error), Outcome::ok)
}

fn insert(headers: &mut HeaderMap, name: &'static str, value: Option<&str>) {
    if let Some(value) = value.and_then(|value| HeaderValue::from_str(value).ok()) {
        headers.insert(name, value);
    }
}

/// The part of a fault that comes when the call has been carried out.
async fn after(response: Response<Body>, hit: Option<&mut Hit>) -> Result<Response<Body>, Reset> {
    let Some(hit) = hit else { return Ok(response) };
    match hit.effect.clone() {
        Effect::LoseAnswer => Err(Reset),
        Effect::HangAfter => {
            hit.released().await;
            Ok(response)
        }
        Effect::DelayAfter { milliseconds } => {
            tokio::time::sleep(Duration::from_millis(milliseconds)).await;
            Ok(response)
        }
        // A 204 has no body that could be spoilt.
        Effect::SlowDrip { .. } | Effect::HugeBody { .. } if response.status() == StatusCode::NO_CONTENT => {
            Ok(response)
        }
        Effect::SlowDrip { bytes, milliseconds } => {
            Ok(answer::drip(response, bytes.max(1), Duration::from_millis(milliseconds)).await)
        }
        Effect::HugeBody { bytes } => Ok(answer::huge(response, bytes).await),
        _ => Ok(response),
    }
}

fn json_body<T: DeserializeOwned>(call: &Received) -> Result<T, VaultError> {
    let bytes = call.body.as_ref().map_err(VaultError::clone)?;
    // The parser's message may quote the body, which may hold a key: only the place is told.
    serde_json::from_slice(bytes).map_err(|error| {
        let place = format!("line {}, column {}", error.line(), error.column());
        VaultError::bad_parameter(format!("The request body is not the JSON expected here ({place})"))
    })
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

fn form(bytes: &[u8]) -> BTreeMap<String, String> {
    form_urlencoded::parse(bytes).into_owned().collect()
}

fn without_port(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    }
}
