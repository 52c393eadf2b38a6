//! What became of a call to a vault → `VaultError`: by HTTP status first, then inner code and code. Pure.
//! Refusals of the token issuer are worded in `guidance`.

use std::time::Duration;

use keyvault_sync_core::names::{CertificateName, VaultHost};
use keyvault_sync_core::reason::{Problem, Reason};

use crate::act::Act;
use crate::answer::Answer;
use crate::error::{Landed, VaultError};
use crate::guidance::{self, TokenParties};
use crate::identity::Identity;
use crate::network::NoAnswer;
use crate::token_failure::{TokenFailure, TokenFailureCause};

/// The built-in role with every permission that a call here takes.
const ROLE: &str = "Key Vault Certificates Officer";
/// The certificate permissions of an access policy that keyvault-sync uses, for whoever edits one anyway.
const PERMISSIONS: &str = "keyvault-sync uses get, list, import and update, and delete and recover for certificates that are \
                           deleted or soft-deleted";
/// What is to be done about an operation of the vault's own.
const PENDING: &str =
    "the vault has an operation of its own pending on it: complete, cancel or delete that; it is tried again";
/// Key Vault keeps a certificate as a secret of at most 25 kB
/// (<https://learn.microsoft.com/azure/key-vault/secrets/about-secrets>), and it keeps it as base64.
const BUNDLE_MAX_BYTES: usize = 25 * 1024 / 4 * 3;
/// From here on a refused bundle's size is named: how exactly the limit is counted is not documented.
const BUNDLE_NEAR_MAX_BYTES: usize = BUNDLE_MAX_BYTES / 10 * 9;

/// A call, as messages name it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call<'a> {
    pub(crate) host: &'a VaultHost,
    /// The certificate; `None` where it is all of them.
    pub(crate) name: Option<&'a CertificateName>,
    pub(crate) identity: &'a Identity,
    pub(crate) act: Act,
}

impl Call<'_> {
    /// The vault answered with something else than success.
    pub(crate) fn refused(&self, answer: &Answer) -> VaultError {
        let (reason, advice) = self.judge(answer);
        let message = format!("{}: {} ({})", self.subject(), advice, answer.summary());
        VaultError {
            retry_after: answer.retry_after,
            status: Some(answer.status),
            code: answer.most_specific().map(str::to_owned),
            request_id: answer.request_id.clone(),
            ..VaultError::new(
                Problem::new(reason, message),
                // A success other than the one the SDK knows is no refusal.
                self.landed(matches!(answer.status, 200..=299 | 408 | 500..)),
            )
        }
    }

    /// No answer came. `is_sent`: the request itself was begun, not only what precedes it.
    pub(crate) fn unanswered(&self, error: &NoAnswer, is_sent: bool) -> VaultError {
        let (reason, next) = match error {
            NoAnswer::ForeignHost(_) | NoAnswer::NotHttps if self.act == Act::List => (
                Reason::VaultUnreachable,
                "the list goes on there, which no list of Key Vault does, and nothing was sent there; check what the \
                 vault's name leads to (DNS, proxy)",
            ),
            NoAnswer::ForeignHost(_) | NoAnswer::NotHttps => {
                (Reason::InternalError, "nothing was sent; please report this")
            }
            NoAnswer::Fenced => (Reason::Unavailable, "nothing was sent; whoever leads does it"),
            NoAnswer::Dns(_) => (
                Reason::VaultUnreachable,
                "check that the vault exists, the KeyVault's url, and the private DNS zone if it has a private endpoint",
            ),
            NoAnswer::Connect(_) => {
                (Reason::VaultUnreachable, "check network policies, firewall, proxy and private endpoint")
            }
            NoAnswer::Tls(_) => (
                Reason::VaultUnreachable,
                "check what the name leads to; if a proxy inspects TLS, give the operator its CA bundle",
            ),
            NoAnswer::TooLarge => (
                Reason::VaultUnreachable,
                "that is not an answer of Key Vault; check what the name leads to (DNS, proxy)",
            ),
            NoAnswer::Timeout | NoAnswer::Lost(_) => (Reason::Unavailable, self.again()),
        };
        let message = format!("{}: {error}; {next}", self.subject());
        VaultError::new(Problem::new(reason, message), self.landed(is_sent && !error.is_unsent()))
    }

    /// The call's time is up.
    pub(crate) fn timed_out(&self, limit: Duration, is_sent: bool) -> VaultError {
        let message = format!(
            "{}: the vault did not answer within {} s; {}",
            self.subject(),
            limit.as_secs(),
            self.again()
        );
        VaultError::new(Problem::new(Reason::Unavailable, message), self.landed(is_sent))
    }

    /// There is no token.
    pub(crate) fn without_token(&self, failure: &TokenFailure, parties: TokenParties<'_>) -> VaultError {
        let mut error = VaultError::new(guidance::problem(&failure.cause, parties), Landed::No);
        error.retry_after = failure.retry_after;
        if let TokenFailureCause::Refused(refusal) = &failure.cause {
            error.status = Some(refusal.status);
            error.code = refusal.aadsts.clone().or_else(|| refusal.error.clone());
            error.request_id = refusal.request_id.clone();
        }
        error
    }

    /// A success that cannot be understood. `what` says which part, never its content.
    pub(crate) fn undecodable(&self, what: &str) -> VaultError {
        let message = format!(
            "{}: the vault answered with success, but {what}; please report this, with the version of the operator",
            self.subject()
        );
        let problem = Problem::new(Reason::InternalError, message);
        VaultError { status: Some(200), ..VaultError::new(problem, self.landed(true)) }
    }

    /// The SDK gave up before a request was sent: the challenge is none of Key Vault's.
    pub(crate) fn not_a_vault(&self) -> VaultError {
        let message = format!(
            "{}: what answers as vault {} does not ask for a token of Key Vault's audience, and none was sent; check what \
             the name leads to (DNS, proxy)",
            self.subject(),
            self.host
        );
        VaultError::new(Problem::new(Reason::VaultUnreachable, message), Landed::No)
    }

    /// The certificate has no content, neither fingerprint nor certificate: its creation was begun and is not complete.
    pub(crate) fn incomplete(&self) -> VaultError {
        let (reason, found) = match self.act {
            Act::Read => (Reason::OperationPending, PENDING),
            Act::ReadDeleted => (
                Reason::SoftDeleted,
                "one is in the way whose creation was never completed: purge it, or recover and delete it, in the vault",
            ),
            Act::Reach
            | Act::Contact
            | Act::List
            | Act::Import { .. }
            | Act::SetTags
            | Act::Adopt
            | Act::Delete
            | Act::Recover => {
                return self.undecodable("it has no thumbprint");
            }
        };
        VaultError::new(Problem::new(reason, format!("{}: {found}", self.subject())), Landed::No)
    }

    /// `importing certificate web-prod into vault contoso.vault.azure.net`
    pub(crate) fn subject(&self) -> String {
        let what = self.name.map_or_else(|| "the certificates".into(), |name| format!("certificate {name}"));
        self.act.on(&what, self.host.as_str())
    }

    /// A read changes nothing; a write that may have arrived may have been carried out.
    fn landed(&self, may_have_landed: bool) -> Landed {
        if may_have_landed && self.act.is_write() { Landed::Unknown } else { Landed::No }
    }

    fn again(&self) -> &'static str {
        if self.act.is_write() { "the vault is read before it is tried again" } else { "it is tried again" }
    }

    fn judge(&self, answer: &Answer) -> (Reason, String) {
        match answer.status {
            400 => self.bad_request(),
            401 => (Reason::AuthenticationFailed, self.unauthorised(answer)),
            403 => self.forbidden(answer),
            404 => self.not_found(answer),
            408 | 500.. => (Reason::Unavailable, format!("the vault has a failure; {}", self.again())),
            409 => self.conflict(answer),
            429 => (Reason::Throttled, "the vault is asked too often; it is called less often now".into()),
            402 | 405..=499 => self.bad_request(),
            ..=399 => (
                Reason::VaultUnreachable,
                "this is not an answer of Key Vault; redirects are never followed; check what the name leads to (DNS, proxy)"
                    .into(),
            ),
        }
    }

    fn bad_request(&self) -> (Reason, String) {
        let advice = match self.act {
            Act::Reach
            | Act::Contact
            | Act::Read
            | Act::ReadDeleted
            | Act::List
            | Act::Delete
            | Act::Recover => "the vault refuses the request; please report this".into(),
            Act::Adopt => {
                "the vault refuses the tags, or a policy that leaves renewal to keyvault-sync; check the tags of the \
                 resource"
                    .into()
            }
            Act::SetTags => "the vault refuses the tags; check the tags of the resource".into(),
            Act::Import { bundle_bytes } if bundle_bytes >= BUNDLE_NEAR_MAX_BYTES => format!(
                "the vault refuses the certificate; the bundle has {bundle_bytes} bytes and Key Vault takes about \
                 {BUNDLE_MAX_BYTES}: shorten the chain in the Secret; if it is not the size, try --pfx-encryption"
            ),
            Act::Import { .. } => {
                "the vault refuses the certificate; check that it has not expired, and if every import \
                                   is refused, try the operator's switch --pfx-encryption 3des-sha1"
                    .into()
            }
        };
        (Reason::VaultRejected, advice)
    }

    fn unauthorised(&self, answer: &Answer) -> String {
        let who = guidance::who(self.identity);
        match answer.akv.as_deref() {
            // Invalid issuer: the vault belongs to another directory.
            Some("AKV10032") => format!(
                "the vault belongs to another tenant than {who}: {}",
                guidance::other_tenant(self.identity)
            ),
            Some(_) | None => {
                format!(
                    "the vault does not accept the token of {who}; check {} and the vault's tenant",
                    guidance::ids(self.identity)
                )
            }
        }
    }

    fn forbidden(&self, answer: &Answer) -> (Reason, String) {
        let who = guidance::who(self.identity);
        match answer.inner.as_deref().or(answer.code.as_deref()) {
            Some("ForbiddenByRbac") => (
                Reason::Forbidden,
                format!(
                    "{who} lacks the data action {}: assign the role \"{ROLE}\" on the vault, or a custom role with that \
                     action (it takes effect within ten minutes)",
                    self.act.data_action()
                ),
            ),
            Some("ForbiddenByPolicy") => (
                Reason::Forbidden,
                format!(
                    "the vault's access policy does not give {who} the certificate permission {}: add it there \
                     ({PERMISSIONS}), or with role-based access assign the role \"{ROLE}\"",
                    self.act.permission()
                ),
            ),
            Some("ForbiddenByFirewall") => (
                Reason::FirewallBlocked,
                "the vault's firewall does not let this address in: allow the cluster's outbound address or subnet there"
                    .into(),
            ),
            Some("ForbiddenByConnection") => (
                Reason::FirewallBlocked,
                "the vault's public access is disabled: give the cluster's network a private endpoint of the vault".into(),
            ),
            Some("SecretDisabled" | "CertificateDisabled" | "KeyDisabled") => {
                (Reason::DisabledInVault, "somebody disabled it in the vault: enable it there".into())
            }
            Some(_) | None if self.act == Act::Reach => (
                Reason::FirewallBlocked,
                "the vault refuses callers before they show who they are: check its firewall and public access, and any \
                 proxy on the way"
                    .into(),
            ),
            Some(_) | None => (
                Reason::Forbidden,
                format!(
                    "the vault refuses {who}: check that it has the role \"{ROLE}\" or the certificate permission {}, and \
                     that no policy or lock forbids it",
                    self.act.permission()
                ),
            ),
        }
    }

    /// A missing certificate is no error of a read; the client has dealt with that.
    fn not_found(&self, answer: &Answer) -> (Reason, String) {
        match (answer.code.as_deref(), self.act) {
            (Some("CertificateNotFound"), Act::Recover) => {
                (Reason::Unavailable, "there is no soft-deleted one any more; it is looked at again".into())
            }
            (
                Some("CertificateNotFound"),
                Act::Contact
                | Act::Read
                | Act::ReadDeleted
                | Act::Import { .. }
                | Act::SetTags
                | Act::Adopt
                | Act::Delete,
            ) => (Reason::Unavailable, "it vanished since it was read; it is looked at again".into()),
            (Some(_), _) => (Reason::VaultRejected, "the vault does not know what is asked for".into()),
            (None, _) => (
                Reason::VaultUnreachable,
                "this is not an answer of Key Vault; check what the name leads to (DNS, proxy)".into(),
            ),
        }
    }

    fn conflict(&self, answer: &Answer) -> (Reason, String) {
        match (answer.inner.as_deref(), answer.code.as_deref(), self.act) {
            (Some("ObjectIsDeletedButRecoverable"), _, _) => (
                Reason::SoftDeleted,
                "a soft-deleted certificate, key or secret of this name is in the way: recover it, or purge it, in the \
                 vault"
                    .into(),
            ),
            (Some("ObjectIsBeingDeleted"), _, _) => {
                (Reason::BeingDeleted, "the vault is deleting it; it is tried again".into())
            }
            (Some("ObjectIsBeingRecovered"), _, _) => {
                (Reason::Recovering, "the vault is recovering it; it is tried again".into())
            }
            (_, Some("Forbidden"), _) => (Reason::OperationPending, PENDING.into()),
            (None, Some("Conflict"), Act::Import { .. }) => (
                Reason::NameTakenByKeyOrSecret,
                "a plain key or secret of this name stands in the way: choose another certificateName, or delete and \
                 purge it in the vault"
                    .into(),
            ),
            (_, _, Act::Reach | Act::Contact | Act::List) => {
                (Reason::Unavailable, "the vault is busy with something else; it is tried again".into())
            }
            (
                _,
                _,
                Act::Read
                | Act::ReadDeleted
                | Act::Import { .. }
                | Act::SetTags
                | Act::Adopt
                | Act::Delete
                | Act::Recover,
            ) => (
                Reason::Unavailable,
                "the vault is busy with something else of this name; it is tried again".into(),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use keyvault_sync_core::names::Cloud;
    use keyvault_sync_core::reason::Fault;

    use super::*;

    fn with_call<T>(act: Act, check: impl FnOnce(&Call<'_>) -> T) -> T {
        let host = VaultHost::from_host("contoso.vault.azure.net", &Cloud::ALL).unwrap();
        let name = CertificateName::parse("web-prod").unwrap();
        let identity = Identity::WorkloadIdentity {
            tenant_id: "tenant-1".into(),
            client_id: "client-1".into(),
            token_file: "/token".into(),
        };
        let name = (!matches!(act, Act::Reach | Act::Contact | Act::List)).then_some(&name);
        check(&Call { host: &host, name, identity: &identity, act })
    }

    fn answer(status: u16, code: &str, inner: &str) -> Answer {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let akv = inner.starts_with("AKV").then(|| inner.to_owned());
        Answer {
            status,
            code: some(code),
            inner: some(inner).filter(|_| akv.is_none()),
            akv,
            ..Answer::default()
        }
    }

    const IMPORT: Act = Act::Import { bundle_bytes: 4_000 };
    const EVERY_ACT: [Act; 10] = [
        Act::Reach,
        Act::Contact,
        Act::Read,
        Act::ReadDeleted,
        Act::List,
        IMPORT,
        Act::SetTags,
        Act::Adopt,
        Act::Delete,
        Act::Recover,
    ];

    /// How a message about this act begins.
    fn subject(act: Act) -> &'static str {
        match act {
            Act::Reach => "reaching vault contoso.vault.azure.net: ",
            Act::Contact => "opening vault contoso.vault.azure.net: ",
            Act::Read => "reading certificate web-prod from vault contoso.vault.azure.net: ",
            Act::ReadDeleted => {
                "looking for a soft-deleted certificate web-prod in vault contoso.vault.azure.net: "
            }
            Act::List => "listing the certificates of vault contoso.vault.azure.net: ",
            Act::Import { .. } => "importing certificate web-prod into vault contoso.vault.azure.net: ",
            Act::SetTags => "setting the tags of certificate web-prod in vault contoso.vault.azure.net: ",
            Act::Adopt => "adopting certificate web-prod in vault contoso.vault.azure.net: ",
            Act::Delete => "deleting certificate web-prod from vault contoso.vault.azure.net: ",
            Act::Recover => "recovering certificate web-prod in vault contoso.vault.azure.net: ",
        }
    }

    #[test]
    fn every_answer_has_its_reason_its_fault_and_the_missing_action() {
        use Fault::{Blocked, Transient};
        for (act, status, code, inner, reason, fault, says) in [
            (
                Act::Read,
                401,
                "Unauthorized",
                "AKV10032",
                Reason::AuthenticationFailed,
                Blocked,
                "set tenantId to the tenant",
            ),
            (
                Act::Read,
                401,
                "Unauthorized",
                "AKV10000",
                Reason::AuthenticationFailed,
                Blocked,
                "client \"client-1\"",
            ),
            (Act::Read, 401, "", "", Reason::AuthenticationFailed, Blocked, "check tenantId"),
            (
                IMPORT,
                403,
                "Forbidden",
                "ForbiddenByRbac",
                Reason::Forbidden,
                Blocked,
                "\"Key Vault Certificates Officer\"",
            ),
            (
                IMPORT,
                403,
                "Forbidden",
                "ForbiddenByPolicy",
                Reason::Forbidden,
                Blocked,
                "get, list, import and update",
            ),
            (
                IMPORT,
                403,
                "Forbidden",
                "ForbiddenByFirewall",
                Reason::FirewallBlocked,
                Blocked,
                "outbound address",
            ),
            (
                IMPORT,
                403,
                "Forbidden",
                "ForbiddenByConnection",
                Reason::FirewallBlocked,
                Blocked,
                "private endpoint",
            ),
            (Act::Read, 403, "Forbidden", "SecretDisabled", Reason::DisabledInVault, Blocked, "enable it"),
            (Act::Read, 403, "Forbidden", "SomethingNew", Reason::Forbidden, Blocked, "SomethingNew"),
            (Act::Read, 403, "", "", Reason::Forbidden, Blocked, "\"Key Vault Certificates Officer\""),
            (IMPORT, 409, "Conflict", "ObjectIsDeletedButRecoverable", Reason::SoftDeleted, Blocked, "purge"),
            (IMPORT, 409, "Conflict", "ObjectIsBeingDeleted", Reason::BeingDeleted, Transient, "deleting"),
            (IMPORT, 409, "Conflict", "ObjectIsBeingRecovered", Reason::Recovering, Transient, "recovering"),
            (IMPORT, 409, "Forbidden", "", Reason::OperationPending, Transient, "pending"),
            (IMPORT, 409, "Conflict", "", Reason::NameTakenByKeyOrSecret, Blocked, "plain key or secret"),
            (Act::SetTags, 409, "Conflict", "", Reason::Unavailable, Transient, "tried again"),
            (IMPORT, 409, "Conflict", "SomethingNew", Reason::Unavailable, Transient, "SomethingNew"),
            (IMPORT, 400, "BadParameter", "", Reason::VaultRejected, Blocked, "--pfx-encryption"),
            (Act::SetTags, 400, "BadParameter", "", Reason::VaultRejected, Blocked, "tags"),
            (IMPORT, 413, "", "", Reason::VaultRejected, Blocked, "HTTP 413"),
            (Act::SetTags, 404, "CertificateNotFound", "", Reason::Unavailable, Transient, "looked at again"),
            (Act::Read, 404, "ResourceNotFound", "", Reason::VaultRejected, Blocked, "ResourceNotFound"),
            (Act::Read, 404, "", "", Reason::VaultUnreachable, Blocked, "not an answer of Key Vault"),
            (Act::Read, 302, "", "", Reason::VaultUnreachable, Blocked, "redirects are never followed"),
            (Act::Read, 204, "", "", Reason::VaultUnreachable, Blocked, "HTTP 204"),
            (Act::Read, 429, "Throttled", "", Reason::Throttled, Transient, "less often"),
            (Act::Read, 408, "", "", Reason::Unavailable, Transient, "tried again"),
            (Act::Read, 500, "InternalServerError", "", Reason::Unavailable, Transient, "failure"),
            (IMPORT, 503, "", "", Reason::Unavailable, Transient, "read before it is tried again"),
            (IMPORT, 599, "", "", Reason::Unavailable, Transient, "HTTP 599"),
            (
                Act::Reach,
                403,
                "Forbidden",
                "ForbiddenByFirewall",
                Reason::FirewallBlocked,
                Blocked,
                "firewall",
            ),
            (Act::Reach, 403, "", "", Reason::FirewallBlocked, Blocked, "before they show who they are"),
            (Act::Reach, 404, "", "", Reason::VaultUnreachable, Blocked, "not an answer of Key Vault"),
            (Act::Reach, 302, "", "", Reason::VaultUnreachable, Blocked, "redirects are never followed"),
            (Act::Reach, 429, "Throttled", "", Reason::Throttled, Transient, "less often"),
            (Act::Reach, 503, "", "", Reason::Unavailable, Transient, "; it is tried again"),
            (Act::Contact, 404, "ResourceNotFound", "", Reason::VaultRejected, Blocked, "does not know"),
            (
                Act::Contact,
                403,
                "Forbidden",
                "ForbiddenByRbac",
                Reason::Forbidden,
                Blocked,
                "certificates/read",
            ),
            (Act::Contact, 409, "Conflict", "", Reason::Unavailable, Transient, "tried again"),
            (Act::ReadDeleted, 400, "BadParameter", "", Reason::VaultRejected, Blocked, "please report this"),
            (Act::ReadDeleted, 404, "ResourceNotFound", "", Reason::VaultRejected, Blocked, "does not know"),
            (Act::List, 400, "BadParameter", "", Reason::VaultRejected, Blocked, "please report this"),
            (Act::List, 404, "CertificateNotFound", "", Reason::VaultRejected, Blocked, "does not know"),
            (Act::List, 404, "", "", Reason::VaultUnreachable, Blocked, "not an answer of Key Vault"),
            (Act::List, 409, "Conflict", "", Reason::Unavailable, Transient, "tried again"),
            (Act::List, 503, "", "", Reason::Unavailable, Transient, "; it is tried again"),
            (Act::Adopt, 400, "BadParameter", "", Reason::VaultRejected, Blocked, "policy"),
            (Act::Adopt, 404, "CertificateNotFound", "", Reason::Unavailable, Transient, "vanished"),
            (
                Act::Adopt,
                409,
                "Conflict",
                "ObjectIsBeingDeleted",
                Reason::BeingDeleted,
                Transient,
                "deleting",
            ),
            (Act::Adopt, 409, "Forbidden", "", Reason::OperationPending, Transient, "pending"),
            (Act::Delete, 400, "BadParameter", "", Reason::VaultRejected, Blocked, "please report this"),
            (Act::Delete, 404, "CertificateNotFound", "", Reason::Unavailable, Transient, "looked at again"),
            (
                Act::Delete,
                409,
                "Conflict",
                "ObjectIsBeingDeleted",
                Reason::BeingDeleted,
                Transient,
                "deleting",
            ),
            (
                Act::Delete,
                409,
                "Conflict",
                "ObjectIsBeingRecovered",
                Reason::Recovering,
                Transient,
                "recovering",
            ),
            (Act::Delete, 409, "Conflict", "", Reason::Unavailable, Transient, "tried again"),
            (Act::Delete, 500, "", "", Reason::Unavailable, Transient, "read before it is tried again"),
            (Act::Recover, 400, "BadParameter", "", Reason::VaultRejected, Blocked, "please report this"),
            (
                Act::Recover,
                404,
                "CertificateNotFound",
                "",
                Reason::Unavailable,
                Transient,
                "no soft-deleted one",
            ),
            (
                Act::Recover,
                409,
                "Conflict",
                "ObjectIsBeingDeleted",
                Reason::BeingDeleted,
                Transient,
                "deleting",
            ),
            (
                Act::Recover,
                409,
                "Conflict",
                "ObjectIsBeingRecovered",
                Reason::Recovering,
                Transient,
                "recovering",
            ),
            (
                Act::Recover,
                409,
                "Conflict",
                "ObjectIsDeletedButRecoverable",
                Reason::SoftDeleted,
                Blocked,
                "purge",
            ),
            (Act::Recover, 503, "", "", Reason::Unavailable, Transient, "read before it is tried again"),
        ] {
            let error = with_call(act, |call| call.refused(&answer(status, code, inner)));
            let seen = (error.problem.reason, error.problem.reason.fault(), error.status);
            assert_eq!(seen, (reason, Some(fault), Some(status)), "{status} {code} {inner}");
            for part in [says, subject(act)] {
                assert!(error.to_string().contains(part), "{part:?} in {error}");
            }
        }
    }

    #[test]
    fn a_403_names_the_permission_that_the_act_takes_in_the_words_of_either_access_model() {
        for act in EVERY_ACT {
            let (permission, data_action) = match act {
                // What comes before a token says nothing of permissions.
                Act::Reach => continue,
                Act::Contact | Act::Read | Act::ReadDeleted => ("get", "certificates/read"),
                Act::List => ("list", "certificates/read"),
                Act::Import { .. } => ("import", "certificates/import/action"),
                Act::SetTags | Act::Adopt => ("update", "certificates/update/action"),
                Act::Delete => ("delete", "certificates/delete"),
                Act::Recover => ("recover", "certificates/recover/action"),
            };
            let permission = format!("the certificate permission {permission}");
            let data_action = format!("the data action Microsoft.KeyVault/vaults/{data_action}:");
            for (inner, says) in [
                ("ForbiddenByPolicy", &permission),
                ("ForbiddenByRbac", &data_action),
                ("SomethingNew", &permission),
                ("", &permission),
            ] {
                let error = with_call(act, |call| call.refused(&answer(403, "Forbidden", inner)));
                assert_eq!((error.problem.reason, error.landed), (Reason::Forbidden, Landed::No), "{error}");
                for part in [says, subject(act), "client \"client-1\"", "\"Key Vault Certificates Officer\""]
                {
                    assert!(error.to_string().contains(part), "{part:?} in {error}");
                }
            }
        }
    }

    #[test]
    fn a_certificate_without_content_is_what_it_is_to_a_read_and_an_odd_answer_to_a_write() {
        use Landed::{No, Unknown};
        for act in EVERY_ACT {
            let expected = match act {
                Act::Read => (Reason::OperationPending, No),
                Act::ReadDeleted => (Reason::SoftDeleted, No),
                Act::Reach | Act::Contact | Act::List => (Reason::InternalError, No),
                Act::Import { .. } | Act::SetTags | Act::Adopt | Act::Delete | Act::Recover => {
                    (Reason::InternalError, Unknown)
                }
            };
            let error = with_call(act, |call| call.incomplete());
            assert_eq!((error.problem.reason, error.landed), expected, "{error}");
            assert!(error.to_string().contains(subject(act)), "{error}");
        }
    }

    #[test]
    fn a_list_that_goes_on_at_another_host_is_none_of_the_vaults() {
        let foreign = NoAnswer::ForeignHost("\"evil.example.test\"".into());
        for act in EVERY_ACT {
            let reason = if act == Act::List { Reason::VaultUnreachable } else { Reason::InternalError };
            for (no_answer, found) in
                [(&foreign, "evil.example.test"), (&NoAnswer::NotHttps, "not an https one")]
            {
                let error = with_call(act, |call| call.unanswered(no_answer, true));
                assert_eq!((error.problem.reason, error.landed), (reason, Landed::No), "{error}");
                assert!(error.to_string().contains(found), "{error}");
            }
        }
    }

    #[test]
    fn a_write_is_certainly_not_carried_out_only_where_it_was_refused_or_never_sent() {
        use Landed::{No, Unknown};
        let refused = |status| move |call: &Call<'_>| call.refused(&answer(status, "", ""));
        let unanswered = |error: NoAnswer, sent| move |call: &Call<'_>| call.unanswered(&error, sent);
        type Outcome = Box<dyn Fn(&Call<'_>) -> VaultError>;
        let rows: Vec<(Outcome, Landed)> = vec![
            (Box::new(refused(400)), No),
            (Box::new(refused(401)), No),
            (Box::new(refused(403)), No),
            (Box::new(refused(404)), No),
            (Box::new(refused(409)), No),
            (Box::new(refused(429)), No),
            (Box::new(refused(302)), No),
            (Box::new(refused(204)), Unknown),
            (Box::new(refused(408)), Unknown),
            (Box::new(refused(500)), Unknown),
            (Box::new(refused(503)), Unknown),
            (Box::new(unanswered(NoAnswer::Fenced, true)), No),
            (Box::new(unanswered(NoAnswer::Dns(String::new()), true)), No),
            (Box::new(unanswered(NoAnswer::Connect(String::new()), true)), No),
            (Box::new(unanswered(NoAnswer::Tls(String::new()), true)), No),
            (Box::new(unanswered(NoAnswer::Lost(String::new()), true)), Unknown),
            (Box::new(unanswered(NoAnswer::Lost(String::new()), false)), No),
            (Box::new(unanswered(NoAnswer::Timeout, true)), Unknown),
            (Box::new(unanswered(NoAnswer::Timeout, false)), No),
            (Box::new(unanswered(NoAnswer::TooLarge, true)), Unknown),
            (Box::new(|call: &Call<'_>| call.timed_out(Duration::from_secs(10), true)), Unknown),
            (Box::new(|call: &Call<'_>| call.timed_out(Duration::from_secs(10), false)), No),
            (Box::new(|call: &Call<'_>| call.undecodable("it is empty")), Unknown),
            (Box::new(|call: &Call<'_>| call.not_a_vault()), No),
        ];
        for (index, (outcome, landed)) in rows.iter().enumerate() {
            for act in EVERY_ACT {
                let expected = match act {
                    Act::Import { .. } | Act::SetTags | Act::Adopt | Act::Delete | Act::Recover => *landed,
                    Act::Reach | Act::Contact | Act::Read | Act::ReadDeleted | Act::List => No,
                };
                let error = with_call(act, outcome);
                assert_eq!(error.landed, expected, "row {index}: {error}");
                assert!(error.to_string().starts_with(subject(act)), "row {index}: {error}");
            }
        }
    }

    #[test]
    fn the_size_of_a_refused_bundle_is_named_near_the_limit_only() {
        for (bundle_bytes, named) in [(4_000, false), (17_000, false), (17_500, true), (40_000, true)] {
            let error = with_call(Act::Import { bundle_bytes }, |call| {
                call.refused(&answer(400, "BadParameter", ""))
            });
            assert_eq!(error.to_string().contains(&bundle_bytes.to_string()), named, "{error}");
            assert!(error.to_string().contains("--pfx-encryption"), "{error}");
        }
    }
}
