//! What a user is told of a failed token exchange: reason, what was found, what to do. By status, then `AADSTS` number.
//! Numbers: <https://learn.microsoft.com/entra/identity-platform/reference-error-codes>.

use keyvault_sync_core::names::quote;
use keyvault_sync_core::reason::{Problem, Reason};

use crate::credential::{Claims, Identity};
use crate::network::NoAnswer;
use crate::token_failure::{Refusal, TokenFailureCause};

/// What a message about tokens can name.
#[derive(Clone, Copy)]
pub(crate) struct TokenParties<'a> {
    pub(crate) vault: &'a str,
    pub(crate) authority: &'a str,
    pub(crate) identity: &'a Identity,
    pub(crate) claims: Option<&'a Claims>,
}

/// `client 1234 of tenant 5678`
pub(crate) fn who(identity: &Identity) -> String {
    let Identity::WorkloadIdentity { tenant_id, client_id, .. } = identity;
    format!("client {} of tenant {}", quote(client_id), quote(tenant_id))
}

/// The reason and the sentence.
pub(crate) fn problem(cause: &TokenFailureCause, parties: TokenParties<'_>) -> Problem {
    let TokenParties { vault, authority, identity, .. } = parties;
    let who = who(identity);
    let failed = |message: String| Problem::new(Reason::AuthenticationFailed, message);
    match cause {
        TokenFailureCause::ForeignScope(scope) => Problem::new(
            Reason::VaultUnreachable,
            format!(
                "what answers as vault {vault} asks for a token of {scope}, which is not Key Vault's audience: no token \
                 was asked for or sent; check what the name {vault} leads to (DNS, proxy)"
            ),
        ),
        TokenFailureCause::TokenFile { path, found } => failed(format!(
            "no token for vault {vault}: the federated token file {} cannot be read ({found}); check that the operator's \
             pod has the label azure.workload.identity/use=\"true\", or AZURE_FEDERATED_TOKEN_FILE",
            quote(&path.to_string_lossy())
        )),
        TokenFailureCause::Ids => failed(format!(
            "no token for vault {vault}: {who} cannot be asked for; set tenantId and clientId to the GUIDs that Entra ID \
             shows for the identity"
        )),
        TokenFailureCause::NotAToken => failed(format!(
            "no token for vault {vault}: what {authority} answers is no token; check what the name leads to (DNS, proxy) \
             and the authority host setting"
        )),
        TokenFailureCause::NoAnswer(NoAnswer::Timeout) => Problem::new(
            Reason::Unavailable,
            format!("no token for vault {vault}: {authority} did not answer in time; it is asked again"),
        ),
        TokenFailureCause::NoAnswer(error @ NoAnswer::Lost(_)) => Problem::new(
            Reason::Unavailable,
            format!("no token for vault {vault}: {authority}: {error}; it is asked again"),
        ),
        TokenFailureCause::NoAnswer(error) => failed(format!(
            "no token for vault {vault}: {authority} cannot be reached: {error}; check DNS, network policies, proxy and \
             the CA bundle"
        )),
        TokenFailureCause::Refused(refusal) => refused(refusal, parties),
        TokenFailureCause::Unknown => Problem::new(
            Reason::InternalError,
            format!(
                "no token for vault {vault} for {who}, for a reason that is not known; please report this"
            ),
        ),
    }
}

fn refused(refusal: &Refusal, parties: TokenParties<'_>) -> Problem {
    let TokenParties { vault, authority, identity, .. } = parties;
    let found = found(refusal);
    // Also 429: it is Entra ID that is asked too often, and the vault must not be slowed down for it.
    if matches!(refusal.status, 408 | 429 | 500..) {
        return Problem::new(
            Reason::Unavailable,
            format!("no token for vault {vault}: {authority} answers {found}; it is asked again"),
        );
    }
    let advice = advice(refusal.aadsts.as_deref().unwrap_or_default(), parties);
    Problem::new(
        Reason::AuthenticationFailed,
        format!("no token for vault {vault} for {}: {authority} answers {found}: {advice}", who(identity)),
    )
}

/// `HTTP 400 unauthorized_client, AADSTS700016`
fn found(refusal: &Refusal) -> String {
    let words: Vec<&str> =
        [&refusal.error, &refusal.aadsts].into_iter().filter_map(|word| word.as_deref()).collect();
    format!("HTTP {} {}", refusal.status, words.join(", ")).trim_end().to_owned()
}

/// What to do about the usual refusals.
fn advice(aadsts: &str, parties: TokenParties<'_>) -> String {
    let TokenParties { authority, identity, claims, .. } = parties;
    let Identity::WorkloadIdentity { tenant_id, client_id, .. } = identity;
    let (tenant, client) = (quote(tenant_id), quote(client_id));
    match aadsts {
        "AADSTS700016" => {
            format!(
                "there is no application or managed identity {client} in tenant {tenant}: correct clientId or tenantId"
            )
        }
        "AADSTS90002" | "AADSTS900023" | "AADSTS900021" => {
            format!(
                "there is no tenant {tenant} at {authority}: correct tenantId, or the cloud the vault is in"
            )
        }
        "AADSTS70021" | "AADSTS700211" | "AADSTS700212" | "AADSTS700213" => {
            let credential = claims.map_or_else(
                || "issuer, subject and audience of the ServiceAccount token".to_owned(),
                |Claims { issuer, subject, audience }| {
                    format!("issuer {issuer}, subject {subject} and audience {audience}")
                },
            );
            format!(
                "no federated credential of {client} matches the ServiceAccount token: add one with {credential}"
            )
        }
        "AADSTS700024" => {
            "the ServiceAccount token has expired or is not valid yet: check that the kubelet renews the \
                           token file, and the clocks"
                .into()
        }
        "AADSTS50013" | "AADSTS50166" | "AADSTS700027" => format!(
            "the ServiceAccount token's signature was not accepted: check that the cluster's OIDC issuer{} is public and \
             serves its present keys",
            claims.map(|claims| format!(" {}", claims.issuer)).unwrap_or_default()
        ),
        "AADSTS50027" => "the ServiceAccount token cannot be read: check the token file".into(),
        "AADSTS7000215" | "AADSTS7000222" => {
            "the client secret is wrong or has expired: make a new one and put it into the Secret".into()
        }
        "AADSTS7000112" => {
            format!("the application {client} or its service principal is disabled: enable it in Entra ID")
        }
        "AADSTS500011" => format!(
            "the Key Vault service is not known in tenant {tenant}: correct tenantId, or the cloud the vault is in"
        ),
        "AADSTS53003" => "a Conditional Access policy refuses it: allow this workload identity there".into(),
        _ => "check tenantId, clientId and the federated credential of the identity".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(refusal: Refusal) -> Problem {
        let identity = Identity::WorkloadIdentity {
            tenant_id: "tenant-1".into(),
            client_id: "client-1".into(),
            token_file: "/token".into(),
        };
        let claims = Claims {
            issuer: "\"https://issuer\"".into(),
            subject: "\"system:serviceaccount:a:b\"".into(),
            audience: "\"api://AzureADTokenExchange\"".into(),
        };
        let parties = TokenParties {
            vault: "contoso.vault.azure.net",
            authority: "login.microsoftonline.com",
            identity: &identity,
            claims: Some(&claims),
        };
        problem(&TokenFailureCause::Refused(refusal), parties)
    }

    #[test]
    fn every_usual_refusal_says_what_to_change() {
        for (status, aadsts, reason, says) in [
            (400, "AADSTS700016", Reason::AuthenticationFailed, "correct clientId or tenantId"),
            (400, "AADSTS90002", Reason::AuthenticationFailed, "there is no tenant \"tenant-1\""),
            (401, "AADSTS70021", Reason::AuthenticationFailed, "subject \"system:serviceaccount:a:b\""),
            (401, "AADSTS700211", Reason::AuthenticationFailed, "issuer \"https://issuer\""),
            (401, "AADSTS700212", Reason::AuthenticationFailed, "audience \"api://AzureADTokenExchange\""),
            (401, "AADSTS700213", Reason::AuthenticationFailed, "add one with issuer"),
            (401, "AADSTS700024", Reason::AuthenticationFailed, "has expired"),
            (401, "AADSTS50013", Reason::AuthenticationFailed, "OIDC issuer \"https://issuer\""),
            (401, "AADSTS7000215", Reason::AuthenticationFailed, "client secret"),
            (400, "AADSTS500011", Reason::AuthenticationFailed, "Key Vault service is not known"),
            (400, "AADSTS53003", Reason::AuthenticationFailed, "Conditional Access"),
            (400, "AADSTS123", Reason::AuthenticationFailed, "AADSTS123: check tenantId"),
            (429, "AADSTS50196", Reason::Unavailable, "HTTP 429"),
            (503, "AADSTS90033", Reason::Unavailable, "asked again"),
        ] {
            let refusal = Refusal { status, aadsts: Some(aadsts.into()), ..Refusal::default() };
            let problem = told(refusal);
            assert_eq!(problem.reason, reason, "{aadsts}");
            for part in [says, aadsts, "contoso.vault.azure.net"] {
                assert!(problem.message.contains(part), "{aadsts}: {}", problem.message);
            }
        }
    }
}
