//! Lists, a page at a time, with a token for the next page that stays right while objects come and go.
//! Leaves which objects are listed, and how a row looks, to whoever lists them.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::certificates::Address;
use crate::error::VaultError;

/// Objects on a page of a list, at most, and unless fewer are asked for.
const PAGE: usize = 25;

/// One page of `items`, which come in the order of their keys; the token names the last key of the page before.
pub(crate) fn page(
    items: impl Iterator<Item = (String, Value)>,
    path: &str,
    at: &Address<'_>,
) -> Result<Value, VaultError> {
    let size = match at.query.get("maxresults") {
        None => PAGE,
        Some(text) => text
            .parse()
            .ok()
            .filter(|size| (1..=PAGE).contains(size))
            .ok_or_else(|| VaultError::bad_parameter(format!("maxresults must be 1 to {PAGE}")))?,
    };
    let after = match at.query.get("$skiptoken") {
        None => None,
        Some(token) => Some(
            URL_SAFE_NO_PAD
                .decode(token)
                .ok()
                .and_then(|bytes| String::from_utf8(bytes).ok())
                .ok_or_else(|| VaultError::bad_parameter("$skiptoken is none of this vault's"))?,
        ),
    };
    let mut rest = items.filter(|(key, _)| after.as_ref().is_none_or(|after| key > after)).peekable();
    let mut value = Vec::new();
    let mut last = String::new();
    while value.len() < size
        && let Some((key, item)) = rest.next()
    {
        last = key;
        value.push(item);
    }
    let next = rest.peek().map(|_| {
        let version = at.query.get("api-version").map(String::as_str).unwrap_or_default();
        let token = URL_SAFE_NO_PAD.encode(&last);
        let pending = if at.includes_pending() { "&includePending=true" } else { "" };
        format!("{}/{path}?api-version={version}&$skiptoken={token}&maxresults={size}{pending}", at.base)
    });
    Ok(json!({ "value": value, "nextLink": next }))
}
