//! Who calls a vault, and may they: the 401 challenge, the bearer token's checks, the permissions of the data plane.
//! Leaves the issue of tokens to entra.rs.

use serde_json::Value;

use crate::cloud::Cloud;
use crate::error::VaultError;
use crate::journal::Operation;
use crate::jwt;
use crate::vault::{Permissions, Vault, now};

/// A caller whose token was found good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Caller {
    pub(crate) client_id: String,
    oid: String,
    issuer: String,
}

/// The challenge of a vault: where to get a token, and for what. Clients learn the tenant from it.
pub(crate) fn challenge(host: &str, vault: &Vault) -> String {
    let cloud = Cloud::of_vault(host);
    format!(
        "Bearer authorization=\"https://{}/{}\", resource=\"{}\"",
        cloud.authority, vault.tenant, cloud.audience
    )
}

/// The caller behind an `Authorization` header, or the service's 401.
pub(crate) fn authenticate(
    host: &str,
    vault: &Vault,
    header: Option<&str>,
    jwks: &Value,
) -> Result<Caller, VaultError> {
    let refuse = |message: String| VaultError::unauthorized(message, challenge(host, vault));
    let token = header
        .and_then(|header| header.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, token)| token.trim())
        .filter(|token| !token.is_empty())
        .ok_or_else(|| refuse("AKV10000: Request is missing a Bearer or PoP token.".to_owned()))?;
    let claims = jwt::verified_claims(token, jwks).map_err(|_| {
        refuse("[BearerReadAccessTokenFailed] Error validating token: 'S2S12005'.".to_owned())
    })?;
    check_claims(host, vault, &claims).map_err(refuse)?;
    let text = |claim: &str| claims[claim].as_str().unwrap_or_default().to_owned();
    let client_id = Some(text("appid")).filter(|id| !id.is_empty()).unwrap_or_else(|| text("azp"));
    if client_id.is_empty() || text("oid").is_empty() {
        return Err(refuse(
            "The token names neither an application (appid, azp) nor an object (oid).".to_owned(),
        ));
    }
    Ok(Caller { client_id: client_id.to_ascii_lowercase(), oid: text("oid"), issuer: text("iss") })
}

fn check_claims(host: &str, vault: &Vault, claims: &Value) -> Result<(), String> {
    let cloud = Cloud::of_vault(host);
    let audience = claims["aud"].as_str().unwrap_or_default();
    if audience.trim_end_matches('/') != cloud.audience {
        return Err(format!("AKV10022: Invalid audience. Expected {}, found: {audience}.", cloud.audience));
    }
    let issuer = claims["iss"].as_str().unwrap_or_default();
    let expected = [cloud.issuer(&vault.tenant), cloud.issuer_v2(&vault.tenant)];
    if !expected.iter().any(|expected| expected == issuer) {
        return Err(format!("AKV10032: Invalid issuer. Expected one of {}, found {issuer}.", expected[0]));
    }
    let now = now();
    match (claims["nbf"].as_i64(), claims["exp"].as_i64()) {
        (_, Some(expiry)) if expiry <= now => {
            Err("[TokenExpired] Error validating token: 'S2S12086'.".to_owned())
        }
        (Some(begin), Some(_)) if begin > now + CLOCK_SKEW => {
            Err("[BearerReadAccessTokenFailed] Error validating token: the token is not valid yet."
                .to_owned())
        }
        (_, None) => Err("[BearerReadAccessTokenFailed] Error validating token: no expiry.".to_owned()),
        _ => Ok(()),
    }
}

/// Seconds a token's beginning may lie ahead of our clock (Microsoft's libraries allow five minutes).
const CLOCK_SKEW: i64 = 300;

/// The service's 403 unless `caller` may do `operation` on `object` (`certificates/web`).
pub(crate) fn authorize(
    host: &str,
    vault: &Vault,
    caller: &Caller,
    operation: Operation,
    object: &str,
) -> Result<(), VaultError> {
    let granted = vault.grants.get(&caller.client_id).copied().unwrap_or_default();
    let (allowed, action) = demand(operation, granted);
    if allowed {
        return Ok(());
    }
    let short = host.split('.').next().unwrap_or(host);
    // The service's text has CR LF line ends inside the JSON string: clients have stumbled over the escapes.
    let message = [
        "Caller is not authorized to perform action on resource.".to_owned(),
        "If role assignments, deny assignments or role definitions were changed recently, please observe \
         propagation time."
            .to_owned(),
        format!("Caller: appid={};oid={};iss={}", caller.client_id, caller.oid, caller.issuer),
        format!("Action: 'Microsoft.KeyVault/vaults/{action}'"),
        format!(
            "Resource: '/subscriptions/00000000-0000-0000-0000-000000000000/resourcegroups/emulator/providers/\
             microsoft.keyvault/vaults/{short}/{object}'"
        ),
        "Assignment: (not found)".to_owned(),
        "DenyAssignmentId: null".to_owned(),
        "DecisionReason: null ".to_owned(),
        format!("Vault: {short};location=emulator"),
        String::new(),
    ]
    .join("\r\n");
    Err(VaultError::forbidden("ForbiddenByRbac", message))
}

/// Whether `granted` covers the operation, and the data action it stands for.
fn demand(operation: Operation, granted: Permissions) -> (bool, &'static str) {
    match operation {
        Operation::Import => (granted.certificates_import, "certificates/import/action"),
        Operation::GetCertificate | Operation::GetPolicy | Operation::GetDeletedCertificate => {
            (granted.certificates_get, "certificates/read")
        }
        Operation::ListCertificates | Operation::ListVersions | Operation::ListDeleted => {
            (granted.certificates_list, "certificates/read")
        }
        Operation::UpdateCertificate | Operation::UpdatePolicy => {
            (granted.certificates_update, "certificates/update/action")
        }
        Operation::DeleteCertificate => (granted.certificates_delete, "certificates/delete"),
        Operation::RecoverCertificate => (granted.certificates_recover, "certificates/recover/action"),
        Operation::Purge => (granted.certificates_purge, "certificates/purge/action"),
        Operation::GetSecret => (granted.secrets_get, "secrets/getSecret/action"),
        // Unknown paths hold nothing; they get their 4xx after authentication.
        Operation::Token | Operation::ManagedIdentityToken | Operation::Discovery | Operation::Other => {
            (true, "")
        }
    }
}
