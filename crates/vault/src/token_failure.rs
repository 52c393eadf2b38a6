//! Why there is no token: the issuer's refusals by status and `AADSTS` number, and all that fails before and on the way.
//! What a user is told is left to `guidance`; remembering it, to `credential`.

use std::borrow::Cow;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use azure_core::http::RawResponse;
use keyvault_sync_core::reason::Problem;
use serde::Deserialize;

use crate::answer;
use crate::network::NoAnswer;

/// Entra ID's tokens live up to 24 hours (28 with continuous access evaluation); what claims more than a week is not read.
const LIFETIME_MAX_SECS: i64 = 7 * 24 * 3600;

/// Why there is no token, and how long no other is asked for. Travels through the SDK as the cause of its error.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{cause}")]
pub(crate) struct TokenFailure {
    pub(crate) cause: TokenFailureCause,
    pub(crate) retry_after: Option<Duration>,
}

/// What failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TokenFailureCause {
    /// The vault's challenge asks for a token of another audience than Key Vault's.
    #[error("a token for {0} was asked for")]
    ForeignScope(String),
    /// The federated token cannot be read from its file.
    #[error("{}: {found}", path.display())]
    TokenFile {
        /// The file.
        path: PathBuf,
        /// What was found.
        found: String,
    },
    /// The proof cannot be had, as its owner tells it.
    #[error("{0}")]
    NoProof(Problem),
    /// The proof did not come in time.
    #[error("the proof did not come in time")]
    ProofLate,
    /// The proof is none; what was found.
    #[error("the proof cannot be used: {0}")]
    BadProof(String),
    /// Tenant, client or authority cannot be used.
    #[error("tenant id or client id is not valid")]
    Ids,
    /// The issuer refused.
    #[error("refused with HTTP {} {:?}", .0.status, .0.aadsts)]
    Refused(Refusal),
    /// The issuer's answer is no token.
    #[error("the answer is no token")]
    NotAToken,
    /// The issuer did not answer.
    #[error(transparent)]
    NoAnswer(NoAnswer),
    /// None of these.
    #[error("failed in a way that is not known")]
    Unknown,
}

/// An issuer's refusal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: u16,
    /// `AADSTS700016`
    pub(crate) aadsts: Option<String>,
    /// `invalid_client` (RFC 6749, 5.2)
    pub(crate) error: Option<String>,
    pub(crate) request_id: Option<String>,
}

impl From<TokenFailureCause> for TokenFailure {
    fn from(cause: TokenFailureCause) -> Self {
        Self { cause, retry_after: None }
    }
}

impl From<NoAnswer> for TokenFailure {
    fn from(error: NoAnswer) -> Self {
        TokenFailureCause::NoAnswer(error).into()
    }
}

#[derive(Deserialize)]
struct ErrorBody<'a> {
    #[serde(borrow, default)]
    error: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    error_description: Option<Cow<'a, str>>,
    #[serde(default)]
    error_codes: Vec<u32>,
}

#[derive(Deserialize)]
struct TokenBody<'a> {
    #[serde(borrow)]
    access_token: Cow<'a, str>,
    expires_in: i64,
}

impl TokenFailure {
    /// Passes an answer that holds a token.
    ///
    /// The SDK takes an answer without `access_token` for an empty token, and adds any `expires_in` to the present time,
    /// which panics where the sum is no date.
    pub(crate) fn check(response: &RawResponse) -> Result<(), TokenFailure> {
        let status = u16::from(response.status());
        if status != 200 {
            return Err(Self::refused(status, response));
        }
        match serde_json::from_slice::<TokenBody<'_>>(response.body()) {
            Ok(token) if is_sendable(&token.access_token) && is_sane(token.expires_in) => Ok(()),
            Ok(_) | Err(_) => Err(TokenFailureCause::NotAToken.into()),
        }
    }

    /// A refusal, of which status, number and word are kept.
    pub(crate) fn refused(status: u16, response: &RawResponse) -> Self {
        let body = serde_json::from_slice::<ErrorBody<'_>>(response.body()).ok();
        let aadsts = body.as_ref().and_then(|body| {
            body.error_description
                .as_deref()
                .and_then(|text| answer::numbered(text, "AADSTS"))
                .or_else(|| body.error_codes.first().map(|code| format!("AADSTS{code}")))
        });
        let refusal = Refusal {
            status,
            aadsts,
            error: body.and_then(|body| answer::word(body.error.as_deref()?)),
            request_id: answer::request_id(response.headers()),
        };
        Self {
            cause: TokenFailureCause::Refused(refusal),
            retry_after: answer::retry_after(response.headers(), SystemTime::now()),
        }
    }
}

/// Whether a token may hold for so many seconds.
pub(crate) fn is_sane(lifetime: i64) -> bool {
    (1..=LIFETIME_MAX_SECS).contains(&lifetime)
}

/// Whether a token fits into a header: not empty, printable ASCII without spaces.
pub(crate) fn is_sendable(token: &str) -> bool {
    !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use azure_core::http::headers::Headers;

    use super::*;

    fn check(status: u16, body: &str) -> Result<(), TokenFailureCause> {
        let response = RawResponse::from_bytes(status.into(), Headers::new(), body.to_owned());
        TokenFailure::check(&response).map_err(|failure| failure.cause)
    }

    #[test]
    fn only_a_token_with_a_sane_life_time_passes() {
        assert_eq!(check(200, r#"{"access_token":"t","expires_in":3600,"token_type":"Bearer"}"#), Ok(()));
        for body in [
            r#"{"access_token":"","expires_in":3600}"#,
            r#"{"access_token":"t"}"#,
            r#"{"access_token":"t","expires_in":0}"#,
            r#"{"access_token":"t","expires_in":9223372036854775807}"#,
            "<html>sign in</html>",
            "",
        ] {
            assert_eq!(check(200, body), Err(TokenFailureCause::NotAToken), "{body}");
        }
    }

    #[test]
    fn a_refusal_keeps_its_number_and_nothing_of_its_text() {
        for (body, aadsts, error) in [
            (
                r#"{"error":"unauthorized_client","error_description":"AADSTS700016: Application\r\n\"x\"","error_codes":[700016]}"#,
                Some("AADSTS700016"),
                Some("unauthorized_client"),
            ),
            (
                r#"{"error":"invalid_client","error_codes":[7000215]}"#,
                Some("AADSTS7000215"),
                Some("invalid_client"),
            ),
            (r#"{"error":"some text, with spaces"}"#, None, None),
            ("<html>", None, None),
        ] {
            let expected = Refusal {
                status: 400,
                aadsts: aadsts.map(str::to_owned),
                error: error.map(str::to_owned),
                request_id: None,
            };
            assert_eq!(check(400, body), Err(TokenFailureCause::Refused(expected)), "{body}");
        }
    }
}
