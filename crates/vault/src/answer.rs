//! A refusal as it was received: status, codes, `Retry-After`, from the raw body and headers. Nothing else of it is kept.
//! What it means is left to `classify` (vault) and `token_failure` (Entra ID).

use std::time::{Duration, SystemTime};

use azure_core::error::ErrorResponse;
use azure_core::http::headers::{HeaderName, Headers};

/// Longest wait a server can impose: longer ones would let one odd answer stop a vault for hours (the SDK slept
/// 3600 s when told so). The operator asks again, and is told again.
pub(crate) const RETRY_AFTER_MAX: Duration = Duration::from_secs(300);
/// Longest code that is repeated; Key Vault's longest is below 40 characters.
const WORD_MAX: usize = 64;
/// How deep inner errors are followed; Key Vault nests one.
const INNER_MAX: usize = 8;

/// What is kept of a vault's answer that is not a success.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// `error.code`
    pub(crate) code: Option<String>,
    /// The innermost `error.innererror.code`.
    pub(crate) inner: Option<String>,
    /// The `AKV…` number that some messages begin with.
    pub(crate) akv: Option<String>,
    pub(crate) retry_after: Option<Duration>,
    pub(crate) request_id: Option<String>,
}

impl Answer {
    /// Reads status, headers and body of a vault's answer. The SDK's own parser loses the code when the body has a JSON
    /// escape (Key Vault's 403 has `\r\n`), so the body is parsed here.
    pub(crate) fn read(status: u16, headers: &Headers, body: &[u8]) -> Self {
        let detail = serde_json::from_slice::<ErrorResponse>(body).ok().and_then(|response| response.error);
        let mut inner = None;
        let mut next = detail.as_ref().and_then(|detail| detail.inner_error.as_ref());
        for _ in 0..INNER_MAX {
            let Some(error) = next else { break };
            inner = error.code.as_deref().and_then(word).or(inner);
            next = error.inner_error.as_deref();
        }
        Self {
            status,
            code: detail.as_ref().and_then(|detail| detail.code.as_deref()).and_then(word),
            inner,
            akv: detail
                .as_ref()
                .and_then(|detail| detail.message.as_deref())
                .and_then(|text| numbered(text, "AKV")),
            retry_after: retry_after(headers, SystemTime::now()),
            request_id: request_id(headers),
        }
    }

    /// The most specific code there is.
    pub(crate) fn most_specific(&self) -> Option<&str> {
        self.inner.as_deref().or(self.akv.as_deref()).or(self.code.as_deref())
    }

    /// `HTTP 403 Forbidden, ForbiddenByRbac`
    pub(crate) fn summary(&self) -> String {
        let codes = [&self.code, &self.inner, &self.akv];
        let codes: Vec<&str> = codes.into_iter().filter_map(|code| code.as_deref()).collect();
        if codes.is_empty() {
            format!("HTTP {}", self.status)
        } else {
            format!("HTTP {} {}", self.status, codes.join(", "))
        }
    }
}

/// The service's id of a request.
pub(crate) fn request_id(headers: &Headers) -> Option<String> {
    headers.get_optional_str(&HeaderName::from("x-ms-request-id")).and_then(word)
}

/// The wait a server asks for: milliseconds, seconds or an HTTP date (RFC 9110, 10.2.3), at most [`RETRY_AFTER_MAX`].
pub(crate) fn retry_after(headers: &Headers, now: SystemTime) -> Option<Duration> {
    let text = |name: &'static str| headers.get_optional_str(&HeaderName::from(name)).map(str::trim);
    let milliseconds = ["retry-after-ms", "x-ms-retry-after-ms"]
        .into_iter()
        .find_map(|name| text(name)?.parse().ok())
        .map(Duration::from_millis);
    let wait = milliseconds.or_else(|| {
        let value = text("retry-after")?;
        value.parse().ok().map(Duration::from_secs).or_else(|| {
            let date = httpdate::parse_http_date(value).ok()?;
            Some(date.duration_since(now).unwrap_or_default())
        })
    })?;
    Some(wait.min(RETRY_AFTER_MAX))
}

/// The text, if it is a code or an id: what a server writes goes into messages and labels only in this shape.
pub(crate) fn word(text: &str) -> Option<String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    (!text.is_empty() && text.len() <= WORD_MAX && text.chars().all(plain)).then(|| text.to_owned())
}

/// The first number behind `prefix`, with it: `AKV10032`, `AADSTS700016`.
pub(crate) fn numbered(text: &str, prefix: &str) -> Option<String> {
    text.match_indices(prefix).find_map(|(start, _)| {
        let digits: String = text
            .get(start + prefix.len()..)?
            .chars()
            .take(WORD_MAX)
            .take_while(char::is_ascii_digit)
            .collect();
        (!digits.is_empty()).then(|| format!("{prefix}{digits}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> Headers {
        let mut headers = Headers::new();
        for (name, value) in pairs {
            headers.insert(*name, *value);
        }
        headers
    }

    #[test]
    fn a_wait_is_read_in_every_form_and_never_longer_than_five_minutes() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777); // Sun, 06 Nov 1994 08:49:37 GMT
        for (pairs, seconds) in [
            (&[("retry-after", "7")][..], Some(7.0)),
            (&[("retry-after", " 0 ")], Some(0.0)),
            (&[("retry-after-ms", "1500"), ("retry-after", "7")], Some(1.5)),
            (&[("x-ms-retry-after-ms", "250")], Some(0.25)),
            (&[("retry-after-ms", "soon"), ("retry-after", "7")], Some(7.0)),
            (&[("retry-after", "Sun, 06 Nov 1994 08:49:57 GMT")], Some(20.0)),
            (&[("retry-after", "Sun, 06 Nov 1994 08:00:00 GMT")], Some(0.0)),
            (&[("retry-after", "Sat, 06 Nov 2094 08:49:57 GMT")], Some(300.0)),
            (&[("retry-after", "3600")], Some(300.0)),
            (&[("retry-after", "18446744073709551616")], None),
            (&[("retry-after", "-1")], None),
            (&[("retry-after", "later")], None),
            (&[], None),
        ] {
            assert_eq!(
                retry_after(&headers(pairs), now).map(|wait| wait.as_secs_f64()),
                seconds,
                "{pairs:?}"
            );
        }
    }

    #[test]
    fn codes_survive_json_escapes_and_anything_else_in_the_body_is_dropped() {
        for (body, code, inner, akv) in [
            (
                r#"{"error":{"code":"Forbidden","message":"Caller\r\nis \"not\"","innererror":{"code":"ForbiddenByRbac"}}}"#,
                Some("Forbidden"),
                Some("ForbiddenByRbac"),
                None,
            ),
            (
                r#"{"error":{"code":"Unauthorized","message":"AKV10032: Invalid issuer. Expected one of https://x"}}"#,
                Some("Unauthorized"),
                None,
                Some("AKV10032"),
            ),
            (
                r#"{"error":{"code":"a","message":"","innererror":{"code":"b","innererror":{"code":"c"}}}}"#,
                Some("a"),
                Some("c"),
                None,
            ),
            (r#"{"error":{"code":"two words"}}"#, None, None, None),
            (r#"{"error":{"code":"line\nbreak","innererror":{"code":"<script>"}}}"#, None, None, None),
            (r#"{"error":"Forbidden"}"#, None, None, None),
            ("<html>Forbidden</html>", None, None, None),
            ("", None, None, None),
        ] {
            let answer = Answer::read(403, &headers(&[("x-ms-request-id", "id-1")]), body.as_bytes());
            let seen = (answer.code.as_deref(), answer.inner.as_deref(), answer.akv.as_deref());
            assert_eq!(seen, (code, inner, akv), "{body}");
            assert_eq!(answer.request_id.as_deref(), Some("id-1"));
        }
    }

    #[test]
    fn numbers_are_found_behind_their_prefix() {
        for (text, found) in [
            ("AADSTS700016: Application", Some("AADSTS700016")),
            ("see AADSTS or AADSTS90002.", Some("AADSTS90002")),
            ("AADSTS", None),
            ("", None),
        ] {
            assert_eq!(numbered(text, "AADSTS").as_deref(), found);
        }
    }
}
