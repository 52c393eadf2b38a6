//! Writes kubeconfig files for one cluster: by client certificate, or by token.
//! Who the user is, and what he may do, is the caller's business.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::Context;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use crate::certificates::Issued;

/// Who a kubeconfig acts as.
pub(crate) enum User<'a> {
    /// A client certificate: its common name is the user, its organisation the group.
    Certificate(&'a Issued),
    /// A bearer token, of a ServiceAccount say.
    Token(&'a str),
}

/// The content of a kubeconfig, in JSON, which is YAML too.
pub(crate) fn document(server: &str, ca_pem: &str, user: &User<'_>, namespace: &str) -> Value {
    let encoded = |text: &str| BASE64_STANDARD.encode(text);
    let user = match user {
        User::Certificate(issued) => json!({
            "client-certificate-data": encoded(&issued.certificate),
            "client-key-data": encoded(&issued.key),
        }),
        User::Token(token) => json!({ "token": token }),
    };
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "local", "cluster": {"server": server, "certificate-authority-data": encoded(ca_pem)}}],
        "users": [{"name": "user", "user": user}],
        "contexts": [{"name": "local", "context": {"cluster": "local", "user": "user", "namespace": namespace}}],
        "current-context": "local",
    })
}

/// Writes `text` to a file that only we may read; it holds a key or a token.
///
/// # Errors
/// The file cannot be written.
pub(crate) fn write_private(path: &Path, text: &str) -> anyhow::Result<()> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .with_context(|| format!("cannot write {}", path.display()))
}
