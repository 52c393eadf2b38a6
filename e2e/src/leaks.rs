//! Looks for key material and tokens where there must be none: logs, events, statuses.
//! Which texts are searched, and for whose keys, is the caller's choice.

/// The base64 of `{"alg":"…` and `{"typ":"JWT…`: every JSON Web Token begins with one of them.
const TOKEN_BEGINNINGS: [&str; 2] = ["eyJhbGciOi", "eyJ0eXAiOi"];

/// The base64 of `-----BEGIN PRIV`, as the data of a Secret in JSON.
const ENCODED_KEY_BEGINNING: &str = "LS0tLS1CRUdJTiBQUklW";

/// No word of ours, no hash in hexadecimal and no path is as long without a break; keys, bundles and tokens in base64 are.
const RUN_MAX: usize = 100;

/// What of `text` looks like key material or a token, or is a line of one of the `keys` (PEM); `None` if nothing does.
/// The finding says what kind it is and where, and does not repeat it.
pub fn find(text: &str, keys: &[String]) -> Option<String> {
    for beginning in TOKEN_BEGINNINGS.into_iter().chain([ENCODED_KEY_BEGINNING]) {
        if let Some(at) = text.find(beginning) {
            return Some(format!("a token or a key in base64, {}", place(text, at)));
        }
    }
    for line in keys.iter().flat_map(|key| key.lines()).filter(|line| !line.starts_with("-----")) {
        // The last line of a key can be as short as a word.
        if line.len() >= 16
            && let Some(at) = text.find(line)
        {
            return Some(format!("a line of a private key, {}", place(text, at)));
        }
    }
    long_run(text).map(|at| format!("{RUN_MAX} or more characters of base64, {}", place(text, at)))
}

/// Where the first run of base64 begins that is too long.
fn long_run(text: &str) -> Option<usize> {
    let mut begin = 0;
    for (at, byte) in text.bytes().enumerate() {
        if !(byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=')) {
            begin = at + 1;
        } else if at + 1 - begin >= RUN_MAX {
            return Some(begin);
        }
    }
    None
}

/// What stands before it on its line, cut.
fn place(text: &str, at: usize) -> String {
    let before = text.get(..at).unwrap_or_default();
    let line = before.lines().count().max(1);
    let start: String = before.lines().last().unwrap_or_default().chars().take(200).collect();
    format!("line {line}, after: {start}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_tokens_are_found_in_every_dress_and_nothing_else_is() {
        let line = "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg0123456789abcdef";
        let keys = [format!("-----BEGIN PRIVATE KEY-----\n{line}\n-----END PRIVATE KEY-----\n")];
        for leak in [
            format!("{{\"message\":\"got {line}\"}}"),
            "authorization: Bearer eyJhbGciOiJSUzI1NiJ9.e30.c2ln".to_owned(),
            "\"tls.key\":\"LS0tLS1CRUdJTiBQUklWQVRFIEtFWS0tLS0t\"".to_owned(),
            format!("bundle {}", "MIIJ/+".repeat(20)),
        ] {
            let finding = find(&format!("a first line\n{leak}"), &keys);
            assert!(finding.is_some_and(|finding| finding.contains("line 2")), "{leak}");
        }
        for harmless in [
            "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
            "Secret web/web-tls: tls.key: -----BEGIN ENCRYPTED PRIVATE KEY----- cannot be used",
            "https://contoso.vault.azure.net/secrets/a-name-that-is-quite-long-but-has-hyphens-in-it-all-the-way-through-to-the-end-of-127-letters",
        ] {
            assert_eq!(find(harmless, &keys), None, "{harmless}");
        }
    }
}
