//! The binary: what it prints can be pasted, its admin API looks and breaks, and a signal ends it cleanly.
//! Leaves the emulator itself to the other test files.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::path::Path;
use std::process::{Command, Stdio};

use common::{Answer, ClientCertificate, Key, PATIENCE, SUBJECT, TestIssuer, make};
use reqwest::{Certificate, Client, Method, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout};

/// A running binary, ended by its id when the test ends, however it does.
struct Running {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    printed: Vec<String>,
}

impl Running {
    async fn start(cache: &Path, flags: &[&str]) -> Self {
        let mut child = tokio::process::Command::new(env!("CARGO_BIN_EXE_keyvault-emulator"))
            .args(flags)
            .env("XDG_CACHE_HOME", cache)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut running = Self { child, lines, printed: Vec::new() };
        while !running.printed.last().is_some_and(|line| line.starts_with("ready")) {
            let line = tokio::time::timeout(PATIENCE, running.lines.next_line()).await.unwrap().unwrap();
            running.printed.push(line.expect("it ended before it was ready"));
        }
        running
    }

    /// What follows a label.
    fn told(&self, label: &str) -> &str {
        self.printed.iter().find_map(|line| line.strip_prefix(label)).expect(label).trim()
    }

    async fn ended_by(mut self, signal: &str) -> Option<i32> {
        let id = self.child.id().unwrap().to_string();
        assert!(Command::new("kill").args([signal, &id]).status().unwrap().success());
        tokio::time::timeout(PATIENCE, self.child.wait()).await.unwrap().unwrap().code()
    }
}

#[tokio::test]
async fn without_flags_but_a_port_it_is_a_usable_vault_and_the_printed_lines_work() {
    let cache = tempfile::tempdir().unwrap();
    let running = Running::start(cache.path(), &["--listen", "127.0.0.1:0"]).await;
    let secret = std::fs::read_to_string(running.told("client secret")).unwrap();
    assert!(!running.printed.join("\n").contains(secret.trim()), "the client secret was printed");
    if Command::new("curl").arg("--version").output().is_ok() {
        let script: Vec<_> = running.printed.iter().filter_map(|line| line.strip_prefix("  ")).collect();
        let output = Command::new("sh").args(["-ec", &script.join("\n")]).output().unwrap();
        let answer: Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
        assert_eq!(answer["value"], json!([]), "{answer}");
    }
    assert_eq!(running.ended_by("-INT").await, Some(0));
    let again = Running::start(cache.path(), &["--listen", "127.0.0.1:0"]).await;
    assert_eq!(
        std::fs::read_to_string(again.told("client secret")).unwrap(),
        secret,
        "what was pasted stays right"
    );
    assert_eq!(again.ended_by("-TERM").await, Some(0));
}

#[tokio::test]
async fn flags_set_up_federation_and_the_admin_api_looks_and_breaks() {
    let cache = tempfile::tempdir().unwrap();
    let issuer = TestIssuer::new("key-1");
    let (jwks, secret, ca) = ("jwks.json", "secret", "ca.pem");
    let file = |name: &str| cache.path().join(name).display().to_string();
    let certificate = ClientCertificate::new(-1, 1);
    std::fs::write(file("certificate.pem"), certificate.pem()).unwrap();
    std::fs::write(file(jwks), issuer.jwks().to_string()).unwrap();
    std::fs::write(file(secret), "hush\n").unwrap();
    let (host, tenant, app) = ("fabrikam.vault.azure.net", "tenant-1", "app-1");
    let running = Running::start(
        cache.path(),
        &[
            "--listen",
            "127.0.0.1:0",
            "--vault",
            host,
            "--vault",
            "contoso.vault.azure.net",
            "--tenant",
            tenant,
            "--application",
            app,
            "--federated",
            &format!("issuer={},subject={SUBJECT}", common::ISSUER),
            "--client-secret-file",
            &file(secret),
            "--client-certificate",
            &file("certificate.pem"),
            "--trust-issuer",
            &format!("{}={}", common::ISSUER, file(jwks)),
            "--ca-out",
            &file(ca),
            "--purge-protection",
        ],
    )
    .await;
    let address = running.told("listening on").trim_start_matches("https://").parse().unwrap();
    let client = Client::builder()
        .tls_certs_only([Certificate::from_pem(&std::fs::read(file(ca)).unwrap()).unwrap()])
        .no_proxy()
        .timeout(PATIENCE)
        .resolve(host, address)
        .resolve(common::ENTRA, address)
        .build()
        .unwrap();
    let endpoint = format!("https://{}/{tenant}/oauth2/v2.0/token", common::ENTRA);
    let now = common::unix_now();
    let own = json!({"iss": app, "sub": app, "aud": endpoint, "nbf": now, "exp": now + 600});
    let header = json!({"alg": "RS256", "x5t#S256": certificate.thumbprint()});
    let mut token = Value::Null;
    for assertion in [certificate.sign(header, &own), issuer.assertion(json!({}))] {
        let form = [
            ("grant_type", "client_credentials"),
            ("client_id", app),
            ("scope", common::SCOPE),
            ("client_assertion", &assertion),
            ("client_assertion_type", common::JWT_BEARER),
        ];
        let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
        token = Answer::of(client.post(&endpoint).body(body).send().await.unwrap()).await.ok();
    }
    let token = token["access_token"].as_str().unwrap();
    let import = async || {
        let url = format!("https://{host}/certificates/web/import?api-version=7.4");
        let body = make("web", Key::P256, Key::P256, false).body();
        Answer::of(client.post(url).bearer_auth(token).json(&body).send().await.unwrap()).await
    };
    assert_eq!(import().await.ok()["attributes"]["recoveryLevel"], "Recoverable");

    let admin = running.told("admin API").to_owned();
    let ask = async |method: Method, path: &str, body: Value| {
        let request = client.request(method, format!("{admin}/{path}")).json(&body);
        Answer::of(request.send().await.unwrap()).await
    };
    let web = format!("vaults/{host}/certificates/web");
    let stored = ask(Method::GET, &web, Value::Null).await.ok();
    assert_eq!(stored["versions"][0]["chain_der"].as_array().unwrap().len(), 3);
    let fault = json!({"operation": "Import", "times": 1, "effect": {"kind": "status", "status": 429, "code": "Throttled", "retryAfter": "3"}});
    let id = ask(Method::POST, "faults", fault).await.ok()["id"].clone();
    let refused = import().await;
    assert_eq!((refused.status.as_u16(), refused.header("retry-after")), (429, "3"));
    ask(Method::DELETE, &format!("faults/{id}"), Value::Null).await.ok();
    assert_eq!(ask(Method::DELETE, "faults/77", Value::Null).await.status, StatusCode::NOT_FOUND);
    let journal = ask(Method::GET, "journal?operation=Import", Value::Null).await.ok();
    let statuses: Vec<_> =
        journal.as_array().unwrap().iter().map(|call| call["status"].as_u64().unwrap()).collect();
    assert_eq!(statuses, [200, 429]);

    assert_eq!(
        ask(Method::POST, &format!("{web}/disable"), Value::Null).await.ok()["versions"][0]["enabled"],
        false
    );
    ask(Method::POST, &format!("{web}/tags"), json!({"a": "b"})).await.ok();
    ask(Method::POST, &format!("{web}/state"), json!({"state": "BeingDeleted"})).await.ok();
    assert_eq!(import().await.refusal(), (409, "Conflict", "ObjectIsBeingDeleted"));
    ask(Method::POST, &format!("{web}/purge"), Value::Null).await.ok();
    ask(Method::POST, &format!("vaults/{host}/permissions/{app}/none"), Value::Null).await.ok();
    assert_eq!(import().await.refusal(), (403, "Forbidden", "ForbiddenByRbac"));
    let all_but_import = json!({"certificates_get": true});
    ask(Method::POST, &format!("vaults/{host}/permissions/{app}"), all_but_import).await.ok();
    assert_eq!(import().await.refusal(), (403, "Forbidden", "ForbiddenByRbac"));
    ask(Method::POST, &format!("vaults/{host}/permissions/{app}"), json!({"certificates_import": true}))
        .await
        .ok();
    import().await.ok();
    let nowhere = ask(Method::POST, &format!("vaults/other/permissions/{app}"), json!({})).await;
    assert_eq!(nowhere.status, StatusCode::NOT_FOUND);
    let rebound = client.get(format!("{admin}/journal")).header("host", "evil.example").send().await.unwrap();
    assert_eq!(rebound.status(), StatusCode::FORBIDDEN);
    assert_eq!(running.ended_by("-INT").await, Some(0));
}

#[tokio::test]
async fn soft_delete_is_steered_by_flags_and_by_the_admin_api() {
    let cache = tempfile::tempdir().unwrap();
    let host = "contoso.vault.azure.net";
    let flags = ["--listen", "127.0.0.1:0", "--deletion-time", "86400", "--purge-protection"];
    let running = Running::start(cache.path(), &flags).await;
    let admin = running.told("admin API").to_owned();
    let client = Client::builder().no_proxy().timeout(PATIENCE).build().unwrap();
    let post = async |path: &str, body: Value| {
        let request = client.post(format!("{admin}/vaults/{host}/{path}")).json(&body);
        Answer::of(request.send().await.unwrap()).await
    };
    // Of state: what each request leaves; null, the certificate is gone; a status, it is refused.
    let refused = |status: u16| (status, json!(null));
    let told = |state: &str| (200, json!(state));
    let rows = [
        ("certificates/web/begin-operation", json!(null), told("PendingOperation")),
        ("certificates/web/begin-operation", json!(null), refused(404)),
        ("certificates/web/soft-delete", json!(null), told("BeingDeleted")),
        ("certificates/web/recover", json!(null), refused(404)),
        ("certificates/web/finish-deletion", json!(null), told("SoftDeleted")),
        (
            "soft-delete",
            json!({"recovery": "untilTold", "deletion": {"milliseconds": 0}}),
            (200, json!(null)),
        ),
        ("certificates/web/recover", json!(null), told("BeingRecovered")),
        ("certificates/web/finish-recovery", json!(null), told("PendingOperation")),
        ("certificates/web/soft-delete", json!(null), told("SoftDeleted")),
        (
            "soft-delete",
            json!({"recovery": {"milliseconds": 0}, "purgeProtection": false}),
            (200, json!(null)),
        ),
        ("certificates/web/recover", json!(null), told("PendingOperation")),
        ("certificates/web/copy", json!({}), refused(404)),
        ("certificates/web/finish-operation", json!(null), (200, json!(null))),
        ("certificates/web/finish-operation", json!(null), refused(404)),
        ("certificates/web/dance", json!(null), refused(400)),
        ("soft-delete", json!({"recovery": "forever"}), refused(400)),
    ];
    for (path, body, (status, state)) in rows {
        let answer = post(path, body.clone()).await;
        assert_eq!(
            (answer.status.as_u16(), &answer.body["state"]),
            (status, &state),
            "{path} {body}: {}",
            answer.body
        );
    }
    assert_eq!(running.ended_by("-INT").await, Some(0));
}

#[tokio::test]
async fn managed_identities_come_and_go_by_flags_and_by_the_admin_api() {
    let cache = tempfile::tempdir().unwrap();
    let flags = ["--listen", "127.0.0.1:0", "--system-identity", "own", "--user-identity", "shared"];
    let running = Running::start(cache.path(), &flags).await;
    let (imds, admin) = (running.told("IMDS").to_owned(), running.told("admin API").to_owned());
    let (host, address) = ("contoso.vault.azure.net", running.told("listening on"));
    let ca = std::fs::read(running.told("CA certificate")).unwrap();
    let client = Client::builder()
        .tls_certs_only([Certificate::from_pem(&ca).unwrap()])
        .no_proxy()
        .timeout(PATIENCE)
        .resolve(host, address.trim_start_matches("https://").parse().unwrap())
        .build()
        .unwrap();
    let token = async |name: &str| {
        let query = "api-version=2018-02-01&resource=https://vault.azure.net";
        let url = format!("{imds}/metadata/identity/oauth2/token?{query}{name}");
        Answer::of(client.get(url).header("Metadata", "true").send().await.unwrap()).await
    };
    for (name, client_id) in [("", "own"), ("&client_id=shared", "shared")] {
        let answer = token(name).await.ok();
        assert_eq!(answer["client_id"], client_id);
        let read = client.get(format!("https://{host}/certificates?api-version=7.4"));
        let read = read.bearer_auth(answer["access_token"].as_str().unwrap()).send().await.unwrap();
        assert_eq!(read.status(), StatusCode::OK, "{client_id}");
    }
    let ask = async |method: Method, path: &str, body: Value| {
        let request = client.request(method, format!("{admin}/{path}")).json(&body);
        Answer::of(request.send().await.unwrap()).await
    };
    ask(Method::DELETE, "identities/own", Value::Null).await.ok();
    assert_eq!(ask(Method::DELETE, "identities/own", Value::Null).await.status, StatusCode::NOT_FOUND);
    assert_eq!(token("").await.ok()["client_id"], "shared");
    let another = json!({"tenantId": "tenant", "clientId": "another", "isSystem": true});
    ask(Method::POST, "identities", another.clone()).await.ok();
    assert_eq!(token("").await.ok()["client_id"], "another");
    let listed = ask(Method::GET, "identities", Value::Null).await.ok();
    assert_eq!((&listed[0]["clientId"], &listed[1]), (&json!("shared"), &another));
    assert_eq!(ask(Method::POST, "identities", json!({})).await.status, StatusCode::BAD_REQUEST);
    let fault = json!({"operation": "ManagedIdentityToken", "times": 1, "effect": {"kind": "status", "status": 410, "code": "gone"}});
    ask(Method::POST, "faults", fault).await.ok();
    assert_eq!(token("").await.status, StatusCode::GONE);
    assert_eq!(running.ended_by("-INT").await, Some(0));
}

#[test]
fn what_cannot_be_is_refused_with_a_sentence_and_status_1() {
    let cache = tempfile::tempdir().unwrap();
    let rows: [(&[&str], &str); 6] = [
        (&["--listen", "127.0.0.1:0", "--imds", "0.0.0.0:0"], "no loopback address"),
        (&["--listen", "127.0.0.1:0", "--client-certificate", "/nowhere.pem"], "/nowhere.pem"),
        (&["--listen", "0.0.0.0:0"], "no loopback address"),
        (&["--listen", "127.0.0.1:0", "--admin", "0.0.0.0:0"], "no loopback address"),
        (&["--listen", "127.0.0.1:0", "--client-secret-file", "/nonexistent"], "/nonexistent"),
        (&["--federated", "issuer=a"], "subject=… is missing"),
    ];
    for (flags, words) in rows {
        let output = Command::new(env!("CARGO_BIN_EXE_keyvault-emulator"))
            .args(flags)
            .env("XDG_CACHE_HOME", cache.path())
            .output()
            .unwrap();
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && complaint.contains(words), "{flags:?}: {complaint}");
    }
}
