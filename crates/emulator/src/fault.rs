//! Faults on request: which calls are hit, how often, and what happens to them.
//! Leaves it to the server to carry an effect out.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::journal::Operation;

/// Names a fault that was injected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FaultId(pub u64);

/// A fault: calls that match every given member suffer `effect`, until `times` of them have.
///
/// A data plane request without an `Authorization` header (the first round of the challenge) is never hit, so that
/// `times` counts what a client would call a request. Where several faults match, the oldest acts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// Host of the vault, of Entra ID or of the metadata service, as the caller names it; none: any.
    #[serde(default)]
    pub host: Option<String>,
    /// Operation; none: any.
    #[serde(default)]
    pub operation: Option<Operation>,
    /// Certificate or secret name, compared without case; none: any.
    #[serde(default)]
    pub name: Option<String>,
    /// How many calls it hits; none: all, until it is cleared.
    #[serde(default)]
    pub times: Option<u32>,
    /// What happens to them.
    pub effect: Effect,
}

impl Fault {
    /// `effect` on every call, for ever: narrow it with the other methods.
    pub fn new(effect: Effect) -> Self {
        Self { host: None, operation: None, name: None, times: None, effect }
    }

    /// Only calls of `host`.
    pub fn host(self, host: &str) -> Self {
        Self { host: Some(host.to_ascii_lowercase()), ..self }
    }

    /// Only calls of `operation`.
    pub fn operation(self, operation: Operation) -> Self {
        Self { operation: Some(operation), ..self }
    }

    /// Only calls about the certificate `name`.
    pub fn name(self, name: &str) -> Self {
        Self { name: Some(name.to_owned()), ..self }
    }

    /// Only the next `times` calls that match.
    pub fn times(self, times: u32) -> Self {
        Self { times: Some(times), ..self }
    }

    fn hits(&self, host: &str, operation: Operation, name: Option<&str>) -> bool {
        self.host.as_deref().is_none_or(|wanted| wanted.eq_ignore_ascii_case(host))
            && self.operation.is_none_or(|wanted| wanted == operation)
            && self
                .name
                .as_deref()
                .is_none_or(|wanted| name.is_some_and(|name| wanted.eq_ignore_ascii_case(name)))
            && self.times != Some(0)
    }
}

/// What a fault does to a call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "camelCase", rename_all_fields = "camelCase", deny_unknown_fields)]
pub enum Effect {
    /// Refused, nothing done. For Entra ID and the metadata service, `code` is the `error`; for Entra ID, `message` may
    /// begin with `AADSTS…`.
    Status {
        /// HTTP status.
        status: u16,
        /// `error.code`, e.g. `Forbidden`, `Throttled`.
        code: String,
        /// `error.innererror.code`, e.g. `ForbiddenByFirewall`.
        #[serde(default)]
        inner: Option<String>,
        /// `error.message`; none: words that fit the code.
        #[serde(default)]
        message: Option<String>,
        /// Value of `Retry-After`: seconds or an HTTP date.
        #[serde(default)]
        retry_after: Option<String>,
    },
    /// Carried out `milliseconds` late, whether or not the caller still waits.
    DelayBefore {
        /// How late.
        milliseconds: u64,
    },
    /// Carried out at once, answered `milliseconds` late.
    DelayAfter {
        /// How late.
        milliseconds: u64,
    },
    /// The connection is reset (TCP RST), nothing done.
    Reset,
    /// Carried out, then the connection is reset instead of an answer.
    LoseAnswer,
    /// Nothing happens until the fault is cleared; then the call is carried out, whether or not the caller still waits.
    Hang,
    /// Carried out at once; the answer waits until the fault is cleared.
    HangAfter,
    /// Carried out; the body is sent `bytes` at a time with a pause of `milliseconds` before each.
    SlowDrip {
        /// Bytes of each piece, at least 1.
        bytes: usize,
        /// Pause before each piece.
        milliseconds: u64,
    },
    /// Carried out; answered 200 with `bytes` of JSON white space before the real body, without a content length.
    HugeBody {
        /// Bytes of white space.
        bytes: u64,
    },
}

impl Effect {
    /// A refusal by status and code alone.
    pub fn status(status: u16, code: &str) -> Self {
        Self::Status { status, code: code.to_owned(), inner: None, message: None, retry_after: None }
    }

    /// 403 `Forbidden` with this inner code, e.g. `ForbiddenByPolicy`, `ForbiddenByFirewall`, `ForbiddenByConnection`.
    pub fn forbidden(inner: &str) -> Self {
        Self::Status {
            status: 403,
            code: "Forbidden".to_owned(),
            inner: Some(inner.to_owned()),
            message: None,
            retry_after: None,
        }
    }

    /// 429 `Throttled`, with or without `Retry-After`.
    pub fn throttled(retry_after: Option<&str>) -> Self {
        Self::Status {
            status: 429,
            code: "Throttled".to_owned(),
            inner: None,
            message: None,
            retry_after: retry_after.map(str::to_owned),
        }
    }

    /// The call is carried out this much late.
    pub fn delay_before(delay: Duration) -> Self {
        Self::DelayBefore { milliseconds: milliseconds(delay) }
    }

    /// The answer comes this much late.
    pub fn delay_after(delay: Duration) -> Self {
        Self::DelayAfter { milliseconds: milliseconds(delay) }
    }
}

fn milliseconds(delay: Duration) -> u64 {
    u64::try_from(delay.as_millis()).unwrap_or(u64::MAX)
}

/// What the service says with a refusal that a fault makes.
pub(crate) fn words(code: &str, inner: Option<&str>) -> &'static str {
    match (code, inner) {
        (_, Some("ForbiddenByFirewall")) => {
            "Client address is not authorized and caller is not a trusted service.\r\nClient address: 192.0.2.1\r\n"
        }
        (_, Some("ForbiddenByConnection")) => {
            "Public network access is disabled and request is not from a trusted service nor via an approved private \
             link.\r\n"
        }
        (_, Some("ForbiddenByPolicy")) => {
            "The user, group or application does not have certificates import permission on key vault. For help \
             resolving this issue, see the access policies of the vault."
        }
        ("Throttled", _) => {
            "Request was not processed because too many requests were received. Reason: VaultRequestTypeLimitReached"
        }
        _ => "The emulator was told to refuse this request",
    }
}

/// An effect that hit a call, and the signal that ends a hang.
#[derive(Debug)]
pub(crate) struct Hit {
    pub(crate) effect: Effect,
    released: watch::Receiver<()>,
}

impl Hit {
    /// Returns once the fault is cleared.
    pub(crate) async fn released(&mut self) {
        while self.released.changed().await.is_ok() {}
    }
}

#[derive(Debug)]
struct Injected {
    id: FaultId,
    fault: Fault,
    /// Dropped when the fault is cleared: that is the signal.
    hold: watch::Sender<()>,
}

/// The faults there are.
#[derive(Debug, Default)]
pub(crate) struct Faults(Mutex<(u64, Vec<Injected>)>);

impl Faults {
    pub(crate) fn inject(&self, fault: Fault) -> FaultId {
        let mut faults = self.lock();
        let id = FaultId(faults.0);
        faults.0 += 1;
        faults.1.push(Injected { id, fault, hold: watch::channel(()).0 });
        id
    }

    /// Whether there was one of that id.
    pub(crate) fn clear(&self, id: FaultId) -> bool {
        let mut faults = self.lock();
        let before = faults.1.len();
        faults.1.retain(|injected| injected.id != id);
        faults.1.len() < before
    }

    pub(crate) fn clear_all(&self) {
        self.lock().1.clear();
    }

    /// All faults not cleared yet; `times` says how many hits are left.
    pub(crate) fn list(&self) -> Vec<(FaultId, Fault)> {
        self.lock().1.iter().map(|injected| (injected.id, injected.fault.clone())).collect()
    }

    /// What hits this call, if anything; counts it.
    pub(crate) fn hit(&self, host: &str, operation: Operation, name: Option<&str>) -> Option<Hit> {
        let mut faults = self.lock();
        let injected = faults.1.iter_mut().find(|injected| injected.fault.hits(host, operation, name))?;
        if let Some(times) = &mut injected.fault.times {
            *times -= 1;
        }
        Some(Hit { effect: injected.fault.effect.clone(), released: injected.hold.subscribe() })
    }

    fn lock(&self) -> MutexGuard<'_, (u64, Vec<Injected>)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
