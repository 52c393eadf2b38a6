//! Who is told of every call of a vault and of every request for a token: facts to count and to trace, nothing secret among them.
//! Counting and tracing are left to the operator.

use std::time::Duration;

use keyvault_sync_core::names::VaultHost;
use keyvault_sync_core::reason::Reason;

use crate::token_failure::TokenFailureCause;

/// One call of a vault that has ended, with its challenge and its token, if it needed them.
#[derive(Clone, Copy, Debug)]
pub struct Called<'a> {
    /// Which vault.
    pub vault: &'a VaultHost,
    /// What was wanted of it, a word: `get`, `import`.
    pub operation: &'static str,
    /// Why it did not succeed, if so. That something is not there is a success of a read.
    pub failure: Option<Reason>,
    /// HTTP status of the last answer, where there was one.
    pub status: Option<u16>,
    /// The vault's id of that answer (`x-ms-request-id`): what Azure support asks for.
    pub request_id: Option<&'a str>,
    /// How long it took.
    pub took: Duration,
}

/// How a request for an access token ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenOutcome {
    /// A token.
    Issued,
    /// The issuer said no.
    Refused,
    /// No answer, or none that can be read.
    Unanswered,
    /// What the identity proves itself with is missing or cannot be used: nobody was asked.
    Unproven,
}

/// Who is told. It is called in the middle of calls: it must be quick.
pub trait Observer: Send + Sync {
    /// A call has ended.
    fn called(&self, call: Called<'_>);
    /// A token was asked for.
    fn asked_for_token(&self, outcome: TokenOutcome);
}

/// Nobody is told.
pub(crate) struct Nobody;

impl Observer for Nobody {
    fn called(&self, _: Called<'_>) {}
    fn asked_for_token(&self, _: TokenOutcome) {}
}

impl TokenOutcome {
    pub(crate) fn of(cause: &TokenFailureCause) -> Self {
        match cause {
            TokenFailureCause::Refused(_) => TokenOutcome::Refused,
            TokenFailureCause::NoAnswer(_) | TokenFailureCause::NotAToken | TokenFailureCause::Unknown => {
                TokenOutcome::Unanswered
            }
            TokenFailureCause::ForeignScope(_)
            | TokenFailureCause::TokenFile { .. }
            | TokenFailureCause::NoProof(_)
            | TokenFailureCause::ProofLate
            | TokenFailureCause::BadProof(_)
            | TokenFailureCause::Ids => TokenOutcome::Unproven,
        }
    }
}
