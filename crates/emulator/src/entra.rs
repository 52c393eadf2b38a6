//! Entra ID: client credentials by secret or assertion, exchanged for a token of one audience.
//! Leaves assertions signed with a certificate to client_certificate.rs, what it tells of itself to discovery.rs, and the
//! checking of tokens shown to a vault to auth.rs.

use std::collections::{BTreeMap, HashMap};

use serde_json::{Value, json};

use crate::client_certificate;
use crate::cloud::Cloud;
use crate::error::TokenError;
use crate::jwt::{self, SignatureFault, TokenSigner};
use crate::random;
use crate::vault::now;

/// Seconds a token holds unless set otherwise: Entra ID gives 60 to 90 minutes.
pub(crate) const TOKEN_LIFETIME: i64 = 3599;
/// Seconds a clock may be off (Microsoft's libraries allow five minutes).
const CLOCK_SKEW: i64 = 300;
/// The only kind of client assertion there is (RFC 7523 section 2.2).
const JWT_BEARER: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
/// Resources besides the vaults that a token may be asked for, so that a test can show a vault the wrong one.
const OTHER_RESOURCES: [&str; 2] = ["https://management.azure.com", "https://graph.microsoft.com"];

/// An application (service principal) of a tenant. What it is not given, it cannot prove itself by.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Application {
    /// Tenant (directory) id.
    pub tenant_id: String,
    /// Application (client) id.
    pub client_id: String,
    /// Client secret, if it has one.
    pub secret: Option<String>,
    /// Client secrets that it had and that have expired.
    pub expired_secrets: Vec<String>,
    /// Certificates registered with it, in DER: what it signs with the key of one of them is its own word (RSA only).
    pub certificates: Vec<Vec<u8>>,
    /// Whose tokens are taken in its stead; Entra ID allows 20.
    pub federated: Vec<FederatedCredential>,
}

impl std::fmt::Debug for Application {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Application")
            .field("tenant_id", &self.tenant_id)
            .field("client_id", &self.client_id)
            .field("secret", &self.secret.as_ref().map(|_| "<redacted>"))
            .field("expired_secrets", &self.expired_secrets.len())
            .field("certificates", &self.certificates.len())
            .field("federated", &self.federated)
            .finish()
    }
}

/// A federated credential: a token of this issuer, subject and audience proves to be the application.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FederatedCredential {
    /// `iss`, byte for byte.
    pub issuer: String,
    /// `sub`, byte for byte, e.g. `system:serviceaccount:keyvault-sync:keyvault-sync`.
    pub subject: String,
    /// `aud`, e.g. `api://AzureADTokenExchange`.
    pub audience: String,
}

/// Tenants, applications and trusted issuers.
#[derive(Debug, Default)]
pub(crate) struct Directory {
    /// By tenant and client id, lower case.
    applications: HashMap<(String, String), Application>,
    /// Key sets by issuer.
    issuers: HashMap<String, Value>,
    tenants: Vec<String>,
}

/// A token that was granted.
pub(crate) struct Grant {
    pub(crate) client_id: String,
    pub(crate) audience: String,
}

impl Directory {
    pub(crate) fn add_tenant(&mut self, tenant: &str) {
        let tenant = tenant.to_ascii_lowercase();
        if !self.tenants.contains(&tenant) {
            self.tenants.push(tenant);
        }
    }

    pub(crate) fn add_application(&mut self, application: Application) {
        self.add_tenant(&application.tenant_id);
        let key = (application.tenant_id.to_ascii_lowercase(), application.client_id.to_ascii_lowercase());
        self.applications.insert(key, application);
    }

    pub(crate) fn trust_issuer(&mut self, issuer: &str, jwks: Value) {
        self.issuers.insert(issuer.to_owned(), jwks);
    }

    /// Judges a token request of `tenant` on the authority of `cloud`.
    pub(crate) fn grant(
        &self,
        cloud: &Cloud,
        tenant: &str,
        form: &BTreeMap<String, String>,
    ) -> Result<Grant, TokenError> {
        let tenant = tenant.to_ascii_lowercase();
        self.require_tenant(&tenant, "invalid_request")?;
        let field = |name: &str| form.get(name).map(String::as_str).filter(|value| !value.is_empty());
        let require = |name: &str| {
            field(name).ok_or_else(|| {
                let message = format!("The request body must contain the following parameter: '{name}'.");
                TokenError::request("invalid_request", 900_144, message)
            })
        };
        match require("grant_type")? {
            "client_credentials" => {}
            other => {
                let message = format!("The app requested an unsupported grant type '{other}'.");
                return Err(TokenError::request("unsupported_grant_type", 70003, message));
            }
        }
        let client_id = require("client_id")?.to_ascii_lowercase();
        let audience = audience(cloud, require("scope")?)?;
        let application = self.applications.get(&(tenant.clone(), client_id.clone())).ok_or_else(|| {
            let message = format!(
                "Application with identifier '{client_id}' was not found in the directory '{tenant}'. You may have \
                 sent your authentication request to the wrong tenant."
            );
            TokenError::request("unauthorized_client", 700_016, message)
        })?;
        match (field("client_assertion"), field("client_secret")) {
            (Some(assertion), _) => {
                if require("client_assertion_type")? != JWT_BEARER {
                    let message = format!("The client_assertion_type must be '{JWT_BEARER}'.");
                    return Err(TokenError::request("invalid_request", 50027, message));
                }
                self.check_assertion(cloud, &tenant, application, assertion)?;
            }
            (None, Some(secret)) => check_secret(application, secret)?,
            (None, None) => {
                let message = "The request body must contain the following parameter: 'client_assertion' or 'client_secret'.";
                return Err(TokenError::client(7_000_218, message));
            }
        }
        Ok(Grant { client_id, audience })
    }

    /// AADSTS90002 under the name `error` unless there is such a tenant (lower case).
    pub(crate) fn require_tenant(&self, tenant: &str, error: &str) -> Result<(), TokenError> {
        if self.tenants.iter().any(|known| known == tenant) {
            return Ok(());
        }
        let message =
            format!("Tenant '{tenant}' not found. Check to make sure you have the correct tenant ID.");
        Err(TokenError::request(error, 90002, message))
    }

    fn check_assertion(
        &self,
        cloud: &Cloud,
        tenant: &str,
        application: &Application,
        assertion: &str,
    ) -> Result<(), TokenError> {
        let claims = jwt::unverified_claims(assertion).map_err(|_| malformed())?;
        if client_certificate::is_own(&claims, &application.client_id) {
            client_certificate::check(cloud, tenant, application, assertion, &claims)?;
        } else {
            self.check_federated(application, assertion, &claims)?;
        }
        check_validity(&claims)
    }

    fn check_federated(
        &self,
        application: &Application,
        assertion: &str,
        claims: &Value,
    ) -> Result<(), TokenError> {
        let text = |claim: &str| claims[claim].as_str().unwrap_or_default();
        self.match_federated(application, text("iss"), text("sub"), &claims["aud"])?;
        let jwks = self.issuers.get(text("iss")).ok_or_else(|| {
            let message = format!(
                "Unable to fetch the keys of issuer '{}' (tell the emulator with --trust-issuer or trust_issuer).",
                text("iss")
            );
            TokenError::client(50166, message)
        })?;
        jwt::verified_claims(assertion, jwks).map(|_| ()).map_err(|fault| match fault {
            SignatureFault::Malformed => malformed(),
            SignatureFault::KeyNotFound => signature_refused("The key was not found."),
            SignatureFault::Invalid => {
                signature_refused("Key was found, but use of the key to verify the signature failed.")
            }
        })
    }

    /// Which of issuer, subject and audience nobody matches, in the order in which Entra ID looks.
    fn match_federated(
        &self,
        application: &Application,
        issuer: &str,
        subject: &str,
        audience: &Value,
    ) -> Result<(), TokenError> {
        let presented = |wanted: &str| match audience {
            Value::String(audience) => audience == wanted,
            Value::Array(audiences) => audiences.iter().any(|audience| audience == wanted),
            _ => false,
        };
        let refuse = |code: u32, what: &str, value: &str| {
            let message = format!(
                "No matching federated identity record found for presented assertion {what} '{value}'. Check your \
                 federated identity credential Subject, Audience and Issuer against the presented assertion."
            );
            Err(TokenError::client(code, message))
        };
        let of_issuer: Vec<_> = application.federated.iter().filter(|known| known.issuer == issuer).collect();
        let of_subject: Vec<_> = of_issuer.iter().filter(|known| known.subject == subject).collect();
        if of_issuer.is_empty() {
            refuse(700_211, "issuer", issuer)
        } else if of_subject.is_empty() {
            refuse(700_213, "subject", subject)
        } else if !of_subject.iter().any(|known| presented(&known.audience)) {
            refuse(700_212, "audience", &audience.to_string())
        } else {
            Ok(())
        }
    }
}

fn check_secret(application: &Application, secret: &str) -> Result<(), TokenError> {
    let client_id = &application.client_id;
    if application.secret.as_deref() == Some(secret) {
        return Ok(());
    }
    if application.expired_secrets.iter().any(|expired| expired == secret) {
        let message = format!("The provided client secret keys for app '{client_id}' are expired.");
        return Err(TokenError::client(7_000_222, message));
    }
    Err(TokenError::client(7_000_215, format!("Invalid client secret provided for app '{client_id}'.")))
}

pub(crate) fn malformed() -> TokenError {
    TokenError::client(50027, "JWT token is invalid or malformed.")
}

fn signature_refused(reason: &str) -> TokenError {
    TokenError::client(50013, format!("Assertion failed signature validation. [Reason - {reason}]"))
}

fn check_validity(claims: &Value) -> Result<(), TokenError> {
    let now = now();
    // A fraction is allowed (RFC 7519 section 2, NumericDate), and Microsoft's library for Python sends one.
    let seconds = |claim: &str| claims[claim].as_f64().map(|seconds| seconds as i64);
    let expiry = seconds("exp");
    let begin = seconds("nbf").unwrap_or(now);
    if expiry.is_some_and(|expiry| expiry.saturating_add(CLOCK_SKEW) > now) && begin <= now + CLOCK_SKEW {
        return Ok(());
    }
    let message = format!(
        "Client assertion is not within its valid time range. Current time: {now}, assertion valid from {begin}, \
         expiry time of assertion {}.",
        expiry.map_or_else(|| "not given".to_owned(), |expiry| expiry.to_string())
    );
    Err(TokenError::client(700_024, message))
}

/// The resource behind `<resource>/.default`.
fn audience(cloud: &Cloud, scope: &str) -> Result<String, TokenError> {
    let Some(resource) = scope.strip_suffix("/.default") else {
        let message = format!(
            "The provided value for the input parameter 'scope' is not valid. The scope {scope} is not valid: client \
             credentials ask for a resource identifier with the suffix /.default."
        );
        return Err(TokenError::request("invalid_scope", 1_002_012, message));
    };
    let resource = resource.trim_end_matches('/');
    if is_resource(cloud, resource) {
        return Ok(resource.to_owned());
    }
    let message = format!("The resource principal named {resource} was not found in the tenant.");
    Err(TokenError::request("invalid_resource", 500_011, message))
}

/// Whether the cloud has tokens for `resource`, written without a slash at the end.
pub(crate) fn is_resource(cloud: &Cloud, resource: &str) -> bool {
    resource == cloud.audience || OTHER_RESOURCES.contains(&resource)
}

/// A version 1 access token, as Key Vault is given them.
pub(crate) fn access_token(
    signer: &TokenSigner,
    tenant: &str,
    client_id: &str,
    audience: &str,
    expires_in: i64,
) -> Result<String, aws_lc_rs::error::Unspecified> {
    let (tenant, client_id) = (tenant.to_ascii_lowercase(), client_id.to_ascii_lowercase());
    let issuer = Cloud::of_audience(audience).unwrap_or(&crate::cloud::CLOUDS[0]).issuer(&tenant);
    let oid = random::stable_guid(&format!("{tenant}/{client_id}"));
    let now = now();
    signer.sign(&json!({
        "aud": audience,
        "iss": issuer,
        "iat": now,
        "nbf": now.min(now + expires_in),
        "exp": now + expires_in,
        "appid": client_id,
        "appidacr": "2",
        "idp": issuer,
        "idtyp": "app",
        "oid": oid,
        "sub": oid,
        "tid": tenant,
        "uti": random::hex32(),
        "ver": "1.0",
    }))
}
