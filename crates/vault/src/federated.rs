//! Federated tokens: read from the kubelet's file, and what one says of itself, for whoever must trust it.
//! Whether a token is genuine is Entra ID's business.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use keyvault_sync_core::names::quote;
use keyvault_sync_core::secret_bytes::SecretBytes;
use serde::Deserialize;
use tokio::io::AsyncReadExt as _;

/// A ServiceAccount token has 1 to 3 kB; a larger file is something else.
const TOKEN_FILE_MAX: usize = 64 * 1024;

/// What a federated token says of itself and what Entra ID compares with its federated credentials. No secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Claims {
    pub(crate) issuer: String,
    pub(crate) subject: String,
    pub(crate) audience: String,
}

impl Claims {
    /// Reads a JWT's claims without checking its signature.
    pub(crate) fn read(token: &str) -> Option<Self> {
        #[derive(Deserialize)]
        struct Payload {
            iss: String,
            sub: String,
            aud: Audience,
        }
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Audience {
            One(String),
            Many(Vec<String>),
        }
        let payload = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
        let payload: Payload = serde_json::from_slice(&payload).ok()?;
        let audience = match payload.aud {
            Audience::One(audience) => audience,
            Audience::Many(audiences) => audiences.join(" "),
        };
        Some(Self { issuer: quote(&payload.iss), subject: quote(&payload.sub), audience: quote(&audience) })
    }
}

/// The file's bytes; or what was found instead. Read for each exchange: the kubelet replaces it long before it expires.
pub(crate) async fn read_token_file(path: &Path) -> Result<SecretBytes, String> {
    let file = tokio::fs::File::open(path).await.map_err(|error| error.to_string())?;
    let mut bytes = Vec::new();
    let read = file.take(TOKEN_FILE_MAX as u64 + 1).read_to_end(&mut bytes).await;
    let bytes = SecretBytes::new(bytes);
    match read {
        Ok(length) if length > TOKEN_FILE_MAX => Err(format!("it is larger than {TOKEN_FILE_MAX} bytes")),
        Ok(_) => Ok(bytes),
        Err(error) => Err(error.to_string()),
    }
}

/// The text of a token or a client secret, without the line break that a file often ends in; or what was found instead.
pub(crate) fn text(bytes: &SecretBytes) -> Result<&str, &'static str> {
    match std::str::from_utf8(bytes.expose()).map(str::trim) {
        Ok("") => Err("it is empty"),
        Ok(text) => Ok(text),
        Err(_) => Err("it is not text"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_are_read_from_any_shape_of_audience() {
        let token = |payload: &str| format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(payload));
        for (text, audience) in [
            (token(r#"{"iss":"https://i","sub":"s","aud":"a"}"#), Some("\"a\"")),
            (token(r#"{"iss":"https://i","sub":"s","aud":["a","b"]}"#), Some("\"a b\"")),
            (token(r#"{"iss":"https://i","sub":"s"}"#), None),
            ("no token".into(), None),
            (String::new(), None),
        ] {
            assert_eq!(Claims::read(&text).map(|claims| claims.audience).as_deref(), audience, "{text}");
        }
    }

    #[test]
    fn what_surrounds_a_secret_is_no_part_of_it() {
        for (bytes, expected) in [
            (&b"secret"[..], Ok("secret")),
            (b" sec ret\r\n", Ok("sec ret")),
            (b" \n", Err("it is empty")),
            (b"", Err("it is empty")),
            (b"\xff\xfe", Err("it is not text")),
        ] {
            assert_eq!(text(&SecretBytes::new(bytes.to_vec())), expected);
        }
    }
}
