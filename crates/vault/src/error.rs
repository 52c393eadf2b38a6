//! The one error of this crate: what went wrong in a user's words, and what is known of the call.
//! How an answer becomes one is left to `classify`; what follows from it, to the operator.

use std::time::Duration;

use keyvault_sync_core::reason::{Problem, Reason};

/// Whether the vault carried out a call that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Landed {
    /// Certainly not: it was refused, or never sent.
    No,
    /// It may have been: the answer was lost, late, unreadable or a server error. Read before writing again.
    Unknown,
}

/// A call to a vault that did not succeed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", problem.message)]
pub struct VaultError {
    /// The reason, and a sentence that names the vault, what was found and what to do. It is the same for the same
    /// failure (no request id, no times) and never holds a response body, a token or key material.
    pub problem: Problem,
    /// How long to wait before the next call, where the service said so or a token is not asked for again yet; at most
    /// five minutes.
    pub retry_after: Option<Duration>,
    /// Whether it may have been carried out nevertheless; [`Landed::No`] for every read.
    pub landed: Landed,
    /// HTTP status of the answer, where there was one.
    pub status: Option<u16>,
    /// The most specific code of the answer: inner code, else code; for tokens `AADSTS…`.
    pub code: Option<String>,
    /// The service's id of the request (`x-ms-request-id`): what Azure support asks for. Belongs in the log.
    pub request_id: Option<String>,
}

impl VaultError {
    /// A defect of our own around a call: `InternalError` with this sentence.
    pub fn internal(message: impl Into<String>, landed: Landed) -> Self {
        Self::new(Problem::new(Reason::InternalError, message), landed)
    }

    pub(crate) fn new(problem: Problem, landed: Landed) -> Self {
        Self { problem, retry_after: None, landed, status: None, code: None, request_id: None }
    }
}
