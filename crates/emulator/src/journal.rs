//! The journal: every call, in the order in which they began, with times, outcome and caller.
//! Leaves it to the server to say when a call begins and ends, and to readers what to make of it. Holds no key, no token.

use std::collections::VecDeque;
use std::fmt;
use std::str::FromStr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

/// Calls remembered; the oldest go first. Enough for a day of tests, bounded for a demo left running.
const CAPACITY: usize = 100_000;

/// What a call asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Operation {
    /// `POST /certificates/{name}/import`
    Import,
    /// `GET /certificates/{name}[/{version}]`
    GetCertificate,
    /// `GET /certificates`
    ListCertificates,
    /// `GET /certificates/{name}/versions`
    ListVersions,
    /// `PATCH /certificates/{name}[/{version}]`
    UpdateCertificate,
    /// `GET /certificates/{name}/policy`
    GetPolicy,
    /// `PATCH /certificates/{name}/policy`
    UpdatePolicy,
    /// `DELETE /certificates/{name}`
    DeleteCertificate,
    /// `GET /deletedcertificates/{name}`
    GetDeletedCertificate,
    /// `GET /deletedcertificates`
    ListDeleted,
    /// `DELETE /deletedcertificates/{name}`
    Purge,
    /// `POST /deletedcertificates/{name}/recover`
    RecoverCertificate,
    /// `GET /secrets/{name}[/{version}]`
    GetSecret,
    /// `POST /{tenant}/oauth2/v2.0/token`
    Token,
    /// `GET /metadata/identity/oauth2/token` of the node's instance metadata service
    ManagedIdentityToken,
    /// Documents about Entra ID itself: OpenID configuration, keys, instance discovery.
    Discovery,
    /// Anything else.
    Other,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

impl FromStr for Operation {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        serde_json::from_value(text.into()).map_err(|_| format!("no operation is called {text:?}"))
    }
}

/// One call, as the journal has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Call {
    /// Place in the journal, counted from 0, never reused.
    pub number: u64,
    /// When its head arrived, in microseconds since the emulator started (monotonic clock).
    pub began_us: u64,
    /// When its head arrived, in microseconds since 1970 (wall clock).
    pub began_unix_us: u64,
    /// When it was done with, in microseconds since the emulator started; none while it is under way.
    pub ended_us: Option<u64>,
    /// Host asked, lower case, without port.
    pub host: String,
    /// HTTP method.
    pub method: String,
    /// Path without query.
    pub path: String,
    /// What it asked for.
    pub operation: Operation,
    /// Certificate or secret name, as spelled by the caller.
    pub name: Option<String>,
    /// Version, where the path has one.
    pub version: Option<String>,
    /// Scope (of the metadata service: resource) asked for, of a token call.
    pub scope: Option<String>,
    /// Status decided on, also if a fault kept the answer back; none while under way or when reset before processing.
    pub status: Option<u16>,
    /// The service's error code (`error.code`, `AADSTS…` of a token call, `error` of the metadata service).
    pub code: Option<String>,
    /// Application (client) id of the token that was shown and found good, or of the token call.
    pub client_id: Option<String>,
    /// `x-ms-client-request-id` as sent.
    pub client_request_id: Option<String>,
    /// `x-ms-request-id` of the answer; none while under way.
    pub request_id: Option<String>,
    /// Whether the call changed the vault.
    pub committed: bool,
    /// Whether the answer was sent (false: lost by a fault, or still under way).
    pub answered: bool,
}

/// What is known of a call when it begins.
#[derive(Debug)]
pub(crate) struct Beginning {
    pub(crate) host: String,
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) operation: Operation,
    pub(crate) name: Option<String>,
    pub(crate) version: Option<String>,
    pub(crate) client_request_id: Option<String>,
}

/// The calls so far, and a signal for whoever waits for more.
#[derive(Debug)]
pub(crate) struct Journal {
    started: Instant,
    calls: Mutex<VecDeque<Call>>,
    changes: watch::Sender<u64>,
}

impl Journal {
    pub(crate) fn new() -> Self {
        Self { started: Instant::now(), calls: Mutex::new(VecDeque::new()), changes: watch::channel(0).0 }
    }

    /// Writes down that a call begins; its number.
    pub(crate) fn begin(&self, beginning: Beginning) -> u64 {
        let mut calls = self.lock();
        let number = calls.back().map_or(0, |last| last.number + 1);
        if calls.len() == CAPACITY {
            calls.pop_front();
        }
        calls.push_back(Call {
            number,
            began_us: self.micros(),
            began_unix_us: unix_micros(),
            ended_us: None,
            host: beginning.host,
            method: beginning.method,
            path: beginning.path,
            operation: beginning.operation,
            name: beginning.name,
            version: beginning.version,
            scope: None,
            status: None,
            code: None,
            client_id: None,
            client_request_id: beginning.client_request_id,
            request_id: None,
            committed: false,
            answered: false,
        });
        drop(calls);
        self.announce();
        number
    }

    /// Adds what became known of a call under way; nothing if it has been forgotten meanwhile.
    pub(crate) fn note(&self, number: u64, change: impl FnOnce(&mut Call)) {
        let mut calls = self.lock();
        let first = calls.front().map_or(0, |first| first.number);
        let index = number.checked_sub(first).and_then(|offset| usize::try_from(offset).ok());
        if let Some(call) = index.and_then(|index| calls.get_mut(index)) {
            change(call);
        }
        drop(calls);
        self.announce();
    }

    /// Writes down that a call is done with.
    pub(crate) fn end(&self, number: u64, answered: bool) {
        let ended = self.micros();
        self.note(number, |call| {
            call.ended_us = Some(ended);
            call.answered = answered;
        });
    }

    /// All calls, oldest first.
    pub(crate) fn calls(&self) -> Vec<Call> {
        self.lock().iter().cloned().collect()
    }

    /// A receiver that is woken by every change made after this call.
    pub(crate) fn watch(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn announce(&self) {
        self.changes.send_modify(|revision| *revision = revision.wrapping_add(1));
    }

    fn micros(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Call>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn unix_micros() -> u64 {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_1970.as_micros()).unwrap_or(u64::MAX)
}
