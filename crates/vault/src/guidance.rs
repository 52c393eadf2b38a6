//! What a user is told of a failed token exchange: reason, what was found, what to do. By status, then `AADSTS` number.
//! Numbers: <https://learn.microsoft.com/entra/identity-platform/reference-error-codes>.

use keyvault_sync_core::names::quote;
use keyvault_sync_core::reason::{Problem, Reason};

use crate::federated::Claims;
use crate::identity::Identity;
use crate::network::NoAnswer;
use crate::token_failure::{Refusal, TokenFailureCause};

/// What a message about tokens can name.
#[derive(Clone, Copy)]
pub(crate) struct TokenParties<'a> {
    pub(crate) vault: &'a str,
    /// Where tokens come from.
    pub(crate) issuer: &'a str,
    pub(crate) identity: &'a Identity,
    pub(crate) claims: Option<&'a Claims>,
}

/// `client 1234 of tenant 5678`
pub fn who(identity: &Identity) -> String {
    match identity {
        Identity::WorkloadIdentity { tenant_id, client_id, .. }
        | Identity::ServicePrincipal { tenant_id, client_id, .. }
        | Identity::ClientCertificate { tenant_id, client_id, .. } => client(tenant_id, client_id),
        Identity::ServiceAccount { tenant_id, client_id, account } => {
            format!("{} (by {account})", client(tenant_id, client_id))
        }
        Identity::ManagedIdentity { client_id: Some(client_id) } => {
            format!("the managed identity with client id {}", quote(client_id))
        }
        Identity::ManagedIdentity { client_id: None } => "the managed identity of the operator's node".into(),
    }
}

fn client(tenant_id: &str, client_id: &str) -> String {
    format!("client {} of tenant {}", quote(client_id), quote(tenant_id))
}

/// What to do where the vault belongs to another tenant.
pub(crate) fn other_tenant(identity: &Identity) -> &'static str {
    match identity {
        Identity::WorkloadIdentity { .. }
        | Identity::ServiceAccount { .. }
        | Identity::ServicePrincipal { .. }
        | Identity::ClientCertificate { .. } => "set tenantId to the tenant of the vault",
        Identity::ManagedIdentity { .. } => {
            "a managed identity opens vaults of its own tenant only; use another kind of identity"
        }
    }
}

/// What says who an identity is.
pub(crate) fn ids(identity: &Identity) -> String {
    match identity {
        Identity::WorkloadIdentity { .. }
        | Identity::ServicePrincipal { .. }
        | Identity::ClientCertificate { .. } => "tenantId, clientId".into(),
        Identity::ServiceAccount { account, .. } => {
            format!("tenantId, clientId (or the annotations azure.workload.identity/* of {account})")
        }
        Identity::ManagedIdentity { .. } => "clientId".into(),
    }
}

/// The reason and the sentence.
pub(crate) fn problem(cause: &TokenFailureCause, parties: TokenParties<'_>) -> Problem {
    let TokenParties { vault, issuer, identity, .. } = parties;
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
        TokenFailureCause::NoProof(problem) => {
            Problem::new(problem.reason, format!("no token for vault {vault}: {}", problem.message))
        }
        TokenFailureCause::ProofLate => Problem::new(
            Reason::Unavailable,
            format!(
                "no token for vault {vault}: {} did not come in time; it is asked for again",
                proof(identity)
            ),
        ),
        TokenFailureCause::BadProof(found) => {
            failed(format!("no token for vault {vault}: {} cannot be used: {found}", proof(identity)))
        }
        TokenFailureCause::Ids => failed(format!(
            "no token for vault {vault}: {who} cannot be asked for; set {} to the GUIDs that Entra ID shows for the identity",
            ids(identity)
        )),
        TokenFailureCause::NotAToken => failed(format!(
            "no token for vault {vault}: what {issuer} answers is no token; check {}",
            match identity {
                Identity::ManagedIdentity { .. } => "what answers there in place of Azure's",
                Identity::WorkloadIdentity { .. }
                | Identity::ServiceAccount { .. }
                | Identity::ServicePrincipal { .. }
                | Identity::ClientCertificate { .. } =>
                    "what the name leads to (DNS, proxy) and the authority host setting",
            }
        )),
        TokenFailureCause::NoAnswer(error) => unanswered(error, parties),
        TokenFailureCause::Refused(refusal) => refused(refusal, parties),
        TokenFailureCause::Unknown => Problem::new(
            Reason::InternalError,
            format!(
                "no token for vault {vault} for {who}, for a reason that is not known; please report this"
            ),
        ),
    }
}

/// What an identity proves itself with, and where that is.
fn proof(identity: &Identity) -> String {
    match identity {
        Identity::WorkloadIdentity { token_file, .. } => {
            format!("the token in {}", quote(&token_file.to_string_lossy()))
        }
        Identity::ServiceAccount { account, .. } => format!("the token of {account}"),
        Identity::ServicePrincipal { secret, .. } => match &secret.key {
            Some(key) => format!("the client secret in {} of {secret}", quote(key)),
            None => format!("the client secret in {secret}"),
        },
        Identity::ClientCertificate { secret, .. } => format!("the client certificate in {secret}"),
        Identity::ManagedIdentity { .. } => "the node's managed identity".into(),
    }
}

fn unanswered(error: &NoAnswer, parties: TokenParties<'_>) -> Problem {
    let TokenParties { vault, issuer, identity, .. } = parties;
    match (error, identity) {
        (NoAnswer::TooLarge, _) => Problem::new(
            Reason::AuthenticationFailed,
            format!("no token for vault {vault}: {issuer}: {error}; check what answers there (DNS, proxy)"),
        ),
        // A node that has just started may not let it through yet.
        (_, Identity::ManagedIdentity { .. }) => Problem::new(
            Reason::Unavailable,
            format!(
                "no token for vault {vault}: {issuer} cannot be reached: {error}; it is asked again; it is there on Azure's \
                 machines only: check that the operator runs on one, and that pods may reach the address (network \
                 policies, the cluster's IMDS restriction)"
            ),
        ),
        (NoAnswer::Timeout, _) => Problem::new(
            Reason::Unavailable,
            format!("no token for vault {vault}: {issuer} did not answer in time; it is asked again"),
        ),
        (NoAnswer::Lost(_), _) => Problem::new(
            Reason::Unavailable,
            format!("no token for vault {vault}: {issuer}: {error}; it is asked again"),
        ),
        (
            NoAnswer::ForeignHost(_)
            | NoAnswer::NotHttps
            | NoAnswer::Fenced
            | NoAnswer::Dns(_)
            | NoAnswer::Connect(_)
            | NoAnswer::Tls(_),
            _,
        ) => Problem::new(
            Reason::AuthenticationFailed,
            format!(
                "no token for vault {vault}: {issuer} cannot be reached: {error}; check DNS, network policies, proxy and \
                 the CA bundle"
            ),
        ),
    }
}

fn refused(refusal: &Refusal, parties: TokenParties<'_>) -> Problem {
    let TokenParties { vault, issuer, identity, .. } = parties;
    let found = found(refusal);
    let is_updating =
        matches!(identity, Identity::ManagedIdentity { .. }) && matches!(refusal.status, 404 | 410);
    // Also 429: it is Entra ID that is asked too often, and the vault must not be slowed down for it.
    if is_updating || matches!(refusal.status, 408 | 429 | 500..) {
        return Problem::new(
            Reason::Unavailable,
            format!("no token for vault {vault}: {issuer} answers {found}; it is asked again"),
        );
    }
    let advice = advice(refusal, parties);
    Problem::new(
        Reason::AuthenticationFailed,
        format!("no token for vault {vault} for {}: {issuer} answers {found}: {advice}", who(identity)),
    )
}

/// `HTTP 400 unauthorized_client, AADSTS700016`
fn found(refusal: &Refusal) -> String {
    let words: Vec<&str> =
        [&refusal.error, &refusal.aadsts].into_iter().filter_map(|word| word.as_deref()).collect();
    format!("HTTP {} {}", refusal.status, words.join(", ")).trim_end().to_owned()
}

/// What to do about a refusal: what is the same for every kind of identity, then what is its own.
fn advice(refusal: &Refusal, parties: TokenParties<'_>) -> String {
    let TokenParties { issuer, identity, claims, .. } = parties;
    let aadsts = refusal.aadsts.as_deref().unwrap_or_default();
    let (tenant_id, client_id) = match identity {
        Identity::WorkloadIdentity { tenant_id, client_id, .. }
        | Identity::ServiceAccount { tenant_id, client_id, .. }
        | Identity::ServicePrincipal { tenant_id, client_id, .. }
        | Identity::ClientCertificate { tenant_id, client_id, .. } => (quote(tenant_id), quote(client_id)),
        Identity::ManagedIdentity { client_id } => {
            return managed_identity_advice(refusal, client_id.as_deref());
        }
    };
    match aadsts {
        "AADSTS700016" => format!(
            "there is no application or managed identity {client_id} in tenant {tenant_id}: correct {}",
            ids(identity)
        ),
        "AADSTS90002" | "AADSTS900023" | "AADSTS900021" => format!(
            "there is no tenant {tenant_id} at {issuer}: correct {}, or the cloud the vault is in",
            ids(identity)
        ),
        "AADSTS7000112" => {
            format!("the application {client_id} or its service principal is disabled: enable it in Entra ID")
        }
        "AADSTS500011" => format!(
            "the Key Vault service is not known in tenant {tenant_id}: correct tenantId, or the cloud the vault is in"
        ),
        "AADSTS53003" => "a Conditional Access policy refuses it: allow this workload identity there".into(),
        _ => match identity {
            Identity::WorkloadIdentity { .. } | Identity::ServiceAccount { .. } => {
                federated_advice(aadsts, &client_id, identity, claims)
            }
            Identity::ServicePrincipal { .. } => secret_advice(aadsts, &client_id, identity),
            Identity::ClientCertificate { .. } => certificate_advice(aadsts, &client_id, identity),
            Identity::ManagedIdentity { client_id } => managed_identity_advice(refusal, client_id.as_deref()),
        },
    }
}

/// What to do where a ServiceAccount token was not taken.
fn federated_advice(aadsts: &str, client_id: &str, identity: &Identity, claims: Option<&Claims>) -> String {
    let token = match identity {
        Identity::ServiceAccount { account, .. } => format!("the token of {account}"),
        _ => "the ServiceAccount token".into(),
    };
    match aadsts {
        "AADSTS70021" | "AADSTS700211" | "AADSTS700212" | "AADSTS700213" => {
            let wanted = match (claims, identity) {
                (Some(Claims { issuer, subject, audience }), _) => {
                    format!("issuer {issuer}, subject {subject} and audience {audience}")
                }
                (None, Identity::ServiceAccount { account, .. }) => format!(
                    "the cluster's issuer and subject system:serviceaccount:{}:{}",
                    account.namespace, account.name
                ),
                (None, _) => "its issuer, subject and audience".into(),
            };
            format!("no federated credential of {client_id} matches {token}: add one with {wanted}")
        }
        "AADSTS700024" => match identity {
            Identity::ServiceAccount { .. } => {
                format!(
                    "{token} has expired or is not valid yet: check the clocks of the API server and of the nodes"
                )
            }
            _ => format!(
                "{token} has expired or is not valid yet: check that the kubelet renews the token file, and the clocks"
            ),
        },
        "AADSTS50013" | "AADSTS50166" | "AADSTS700027" => format!(
            "the signature of {token} was not accepted: check that the cluster's OIDC issuer{} is public and serves its \
             present keys",
            claims.map(|claims| format!(" {}", claims.issuer)).unwrap_or_default()
        ),
        "AADSTS50027" => match identity {
            Identity::ServiceAccount { .. } => {
                format!("{token} cannot be read: check the cluster's OIDC issuer")
            }
            _ => format!("{token} cannot be read: check the token file"),
        },
        _ => match identity {
            Identity::ServiceAccount { account, .. } => format!(
                "check {}, and the federated credential of {client_id} with subject system:serviceaccount:{}:{}",
                ids(identity),
                account.namespace,
                account.name
            ),
            _ => format!("check {} and the federated credential of the identity", ids(identity)),
        },
    }
}

/// What to do where a client secret was not taken.
fn secret_advice(aadsts: &str, client_id: &str, identity: &Identity) -> String {
    let secret = proof(identity);
    match aadsts {
        "AADSTS7000215" => format!(
            "{secret} is wrong: put one of the application {client_id} there, its value and not its id"
        ),
        "AADSTS7000222" => {
            format!("{secret} has expired: make a new one for the application {client_id}, and put it there")
        }
        _ => format!("check {}, and {secret}", ids(identity)),
    }
}

/// What to do where an assertion signed with a client certificate was not taken.
fn certificate_advice(aadsts: &str, client_id: &str, identity: &Identity) -> String {
    let certificate = proof(identity);
    match aadsts {
        "AADSTS700027" | "AADSTS50012" | "AADSTS50013" | "AADSTS700030" => format!(
            "{certificate} is none of the application {client_id}: add it to the app registration (Certificates & secrets), \
             or put one there that was added"
        ),
        "AADSTS1000502" => format!(
            "{certificate} has expired or is not valid yet: renew it, and add the new one to the app registration of \
             {client_id}"
        ),
        "AADSTS700024" => {
            "what was signed with the client certificate has expired or is not valid yet: check the clock of the operator's \
             node"
                .into()
        }
        "AADSTS700023" => {
            "the authority host setting names another authority than the one that answers: correct it".into()
        }
        _ => format!("check {}, and {certificate}", ids(identity)),
    }
}

/// What to do where the node's identity endpoint refuses.
fn managed_identity_advice(refusal: &Refusal, client_id: Option<&str>) -> String {
    match (refusal.status, client_id) {
        // The endpoint passes on what Entra ID says.
        _ if refusal.aadsts.is_some() => {
            "Entra ID refuses the identity: check that it was not deleted, and that the vault is in the cloud of the operator's \
             node"
                .into()
        }
        (400, Some(client_id)) => format!(
            "no managed identity with client id {} is assigned to the operator's node: assign it to the virtual machine scale \
             set of the node pool, or correct clientId; a fresh assignment takes minutes to be known",
            quote(client_id)
        ),
        (400, None) => {
            "the operator's node has no managed identity, or several and none of its own: assign one to the virtual machine \
             scale set of the node pool, or set identity.managedIdentity.clientId to the one that is meant; a fresh \
             assignment takes minutes to be known"
                .into()
        }
        _ => "the endpoint refuses the operator: check what stands between (network policies, a proxy for pod identities)".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{SecretEdition, ServiceAccount};

    fn edition(key: Option<&str>) -> SecretEdition {
        SecretEdition {
            namespace: "operator".into(),
            name: "credentials".into(),
            uid: "uid-1".into(),
            resource_version: "7".into(),
            key: key.map(str::to_owned),
        }
    }

    fn workload() -> Identity {
        let (tenant_id, client_id) = ("tenant-1".into(), "client-1".into());
        Identity::WorkloadIdentity { tenant_id, client_id, token_file: "/token".into() }
    }

    fn account() -> Identity {
        let (tenant_id, client_id) = ("tenant-1".into(), "client-1".into());
        let account = ServiceAccount { namespace: "web".into(), name: "shop".into(), uid: "uid-2".into() };
        Identity::ServiceAccount { tenant_id, client_id, account }
    }

    fn principal() -> Identity {
        let (tenant_id, client_id) = ("tenant-1".into(), "client-1".into());
        Identity::ServicePrincipal { tenant_id, client_id, secret: edition(Some("password")) }
    }

    fn certificate() -> Identity {
        let (tenant_id, client_id) = ("tenant-1".into(), "client-1".into());
        Identity::ClientCertificate { tenant_id, client_id, secret: edition(None) }
    }

    fn managed(client_id: Option<&str>) -> Identity {
        Identity::ManagedIdentity { client_id: client_id.map(str::to_owned) }
    }

    fn told(cause: &TokenFailureCause, identity: &Identity) -> Problem {
        let claims = Claims {
            issuer: "\"https://issuer\"".into(),
            subject: "\"system:serviceaccount:a:b\"".into(),
            audience: "\"api://AzureADTokenExchange\"".into(),
        };
        let parties = TokenParties {
            vault: "contoso.vault.azure.net",
            issuer: "login.microsoftonline.com",
            identity,
            claims: matches!(identity, Identity::WorkloadIdentity { .. } | Identity::ServiceAccount { .. })
                .then_some(&claims),
        };
        problem(cause, parties)
    }

    fn refused(status: u16, aadsts: &str) -> TokenFailureCause {
        let aadsts = (!aadsts.is_empty()).then(|| aadsts.to_owned());
        TokenFailureCause::Refused(Refusal { status, aadsts, ..Refusal::default() })
    }

    /// What is the same whatever the identity.
    #[test]
    fn every_usual_refusal_says_what_to_change() {
        for identity in [workload(), account(), principal(), certificate()] {
            for (status, aadsts, reason, says) in [
                (400, "AADSTS700016", Reason::AuthenticationFailed, "correct tenantId, clientId"),
                (400, "AADSTS90002", Reason::AuthenticationFailed, "there is no tenant \"tenant-1\""),
                (401, "AADSTS7000112", Reason::AuthenticationFailed, "enable it in Entra ID"),
                (400, "AADSTS500011", Reason::AuthenticationFailed, "Key Vault service is not known"),
                (400, "AADSTS53003", Reason::AuthenticationFailed, "Conditional Access"),
                (400, "AADSTS123", Reason::AuthenticationFailed, "AADSTS123: check tenantId"),
                (429, "AADSTS50196", Reason::Unavailable, "HTTP 429"),
                (503, "AADSTS90033", Reason::Unavailable, "asked again"),
            ] {
                let problem = told(&refused(status, aadsts), &identity);
                assert_eq!(problem.reason, reason, "{aadsts}: {identity:?}");
                for part in [says, aadsts, "contoso.vault.azure.net"] {
                    assert!(problem.message.contains(part), "{aadsts}: {part:?} in {}", problem.message);
                }
            }
        }
    }

    /// What is to be changed, and where it is.
    #[test]
    fn a_refusal_speaks_of_what_the_identity_proves_itself_with() {
        for (identity, status, aadsts, says) in [
            (workload(), 401, "AADSTS70021", &["add one with issuer", "system:serviceaccount:a:b"][..]),
            (workload(), 401, "AADSTS700211", &["issuer \"https://issuer\""]),
            (workload(), 401, "AADSTS700212", &["audience \"api://AzureADTokenExchange\""]),
            (workload(), 401, "AADSTS700213", &["federated credential of \"client-1\""]),
            (workload(), 401, "AADSTS700024", &["has expired", "kubelet"]),
            (workload(), 401, "AADSTS50013", &["OIDC issuer \"https://issuer\""]),
            (workload(), 401, "AADSTS50027", &["check the token file"]),
            (
                account(),
                401,
                "AADSTS700213",
                &["the token of ServiceAccount web/shop", "add one with issuer"],
            ),
            (account(), 401, "AADSTS700024", &["the token of ServiceAccount web/shop", "clocks"]),
            (account(), 401, "AADSTS700027", &["the token of ServiceAccount web/shop", "OIDC issuer"]),
            (account(), 401, "AADSTS50027", &["the token of ServiceAccount web/shop"]),
            (account(), 400, "AADSTS700016", &["azure.workload.identity/* of ServiceAccount web/shop"]),
            (account(), 401, "", &["system:serviceaccount:web:shop", "(by ServiceAccount web/shop)"]),
            (
                principal(),
                401,
                "AADSTS7000215",
                &["the client secret in \"password\" of Secret operator/credentials is wrong"],
            ),
            (principal(), 401, "AADSTS7000222", &["of Secret operator/credentials has expired"]),
            (
                principal(),
                401,
                "AADSTS123",
                &["the client secret in \"password\" of Secret operator/credentials"],
            ),
            (
                certificate(),
                401,
                "AADSTS700027",
                &["certificate in Secret operator/credentials is none of", "app registration"],
            ),
            (
                certificate(),
                401,
                "AADSTS1000502",
                &["certificate in Secret operator/credentials has expired"],
            ),
            (certificate(), 401, "AADSTS700024", &["the clock of the operator's node"]),
            (certificate(), 401, "AADSTS700023", &["authority host setting"]),
            (certificate(), 401, "AADSTS123", &["the client certificate in Secret operator/credentials"]),
            (managed(None), 400, "", &["has no managed identity", "identity.managedIdentity.clientId"]),
            (
                managed(Some("c-1")),
                400,
                "",
                &["no managed identity with client id \"c-1\" is assigned", "scale set"],
            ),
            (managed(None), 403, "", &["the endpoint refuses the operator"]),
            (managed(None), 400, "AADSTS500011", &["in the cloud of the operator's node"]),
        ] {
            let problem = told(&refused(status, aadsts), &identity);
            assert_eq!(problem.reason, Reason::AuthenticationFailed, "{aadsts}: {identity:?}");
            for part in says.iter().chain([&aadsts, &"contoso.vault.azure.net"]) {
                assert!(problem.message.contains(part), "{aadsts}: {part:?} in {}", problem.message);
            }
            let is_about_federation =
                matches!(&identity, Identity::WorkloadIdentity { .. } | Identity::ServiceAccount { .. });
            assert!(is_about_federation || !problem.message.contains("federated"), "{}", problem.message);
        }
    }

    #[test]
    fn a_node_that_is_not_ready_yet_is_asked_again() {
        for status in [404, 408, 410, 429, 500, 503, 504] {
            let problem = told(&refused(status, ""), &managed(None));
            assert_eq!(problem.reason, Reason::Unavailable, "{status}");
            assert!(problem.message.contains("asked again"), "{}", problem.message);
        }
        for error in [NoAnswer::Timeout, NoAnswer::Connect("no route".into()), NoAnswer::Lost("reset".into())]
        {
            let problem = told(&TokenFailureCause::NoAnswer(error), &managed(None));
            assert_eq!(problem.reason, Reason::Unavailable, "{}", problem.message);
            assert!(problem.message.contains("Azure's machines only"), "{}", problem.message);
        }
        // An authority that is 404 is none.
        assert_eq!(told(&refused(404, ""), &principal()).reason, Reason::AuthenticationFailed);
    }

    #[test]
    fn a_proof_that_fails_is_named_and_its_own_words_are_kept() {
        let own = Problem::new(Reason::SecretNotFound, "Secret operator/credentials does not exist");
        for (cause, identity, reason, says) in [
            (
                TokenFailureCause::NoProof(own.clone()),
                principal(),
                Reason::SecretNotFound,
                own.message.as_str(),
            ),
            (TokenFailureCause::NoProof(own.clone()), account(), Reason::SecretNotFound, &own.message),
            (
                TokenFailureCause::ProofLate,
                account(),
                Reason::Unavailable,
                "the token of ServiceAccount web/shop did not come",
            ),
            (
                TokenFailureCause::BadProof("it is empty".into()),
                principal(),
                Reason::AuthenticationFailed,
                "the client secret in \"password\" of Secret operator/credentials cannot be used: it is empty",
            ),
            (
                TokenFailureCause::BadProof("tls.crt has expired".into()),
                certificate(),
                Reason::AuthenticationFailed,
                "the client certificate in Secret operator/credentials cannot be used: tls.crt has expired",
            ),
        ] {
            let problem = told(&cause, &identity);
            assert_eq!(problem.reason, reason, "{}", problem.message);
            for part in [says, "contoso.vault.azure.net"] {
                assert!(problem.message.contains(part), "{part:?} in {}", problem.message);
            }
        }
    }
}
