//! What the data plane promises about certificates and the secrets behind them.
//! Leaves tokens to entra.rs and auth.rs, and faults to faults.rs.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use common::{Key, PASSWORD, PATIENCE, VAULT, World, make, tags};
use keyvault_emulator::{Operation, State};
use p12_keystore::Pkcs12Archive;
use reqwest::Method;
use serde_json::{Value, json};

fn bundle_of(secret: &Value) -> Pkcs12Archive {
    let der = STANDARD.decode(secret["value"].as_str().unwrap()).unwrap();
    Pkcs12Archive::from_pkcs12(&der, "").unwrap()
}

#[tokio::test]
async fn every_key_type_of_key_vault_is_imported_and_read_back_with_chain_and_key() {
    let world = World::start().await;
    let kinds = [
        (Key::Rsa(2048), "RSA", 2048, None),
        (Key::Rsa(3072), "RSA", 3072, None),
        (Key::Rsa(4096), "RSA", 4096, None),
        (Key::P256, "EC", 256, Some("P-256")),
        (Key::P384, "EC", 384, Some("P-384")),
        (Key::P521, "EC", 521, Some("P-521")),
    ];
    for (kind, kty, size, curve) in kinds {
        let ca_kind = if kty == "EC" { Key::P256 } else { Key::Rsa(2048) };
        let made = make("web", kind, ca_kind, false);
        let mut body = made.body();
        body["policy"] = json!({
            "key_props": {"exportable": true, "kty": kty, "key_size": size, "crv": curve, "reuse_key": false},
            "secret_props": {"contentType": "application/x-pkcs12"},
            "issuer": {"name": "Unknown"}, "lifetime_actions": [],
        });
        let answer = world.import("web", body).await.ok();
        assert_eq!(STANDARD.decode(answer["cer"].as_str().unwrap()).unwrap(), made.chain[0], "{kind:?}");
        assert_eq!(answer["policy"]["key_props"]["kty"], kty);
        assert_eq!(answer["policy"]["key_props"]["key_size"], size);
        assert_eq!(answer["policy"]["key_props"]["crv"].as_str(), curve);
        assert_eq!(answer["policy"]["lifetime_actions"], json!([]));

        let secret = world.get("secrets/web/").await.ok();
        let bundle = bundle_of(&secret);
        assert_eq!(bundle.keys[0].key.as_der(), made.key, "{kind:?}");
        let chain: Vec<_> = bundle.certs.iter().map(|bag| bag.cert.as_der().to_vec()).collect();
        assert_eq!(chain, made.chain, "{kind:?}");
        assert_eq!(secret["contentType"], "application/x-pkcs12");
    }
    assert_eq!(world.emulator.certificate(VAULT, "WEB").unwrap().versions.len(), kinds.len());
}

#[tokio::test]
async fn a_bundle_says_of_itself_what_the_service_says() {
    let world = World::start().await;
    let made = make("web", Key::P256, Key::P256, false);
    let mut body = made.body();
    body["tags"] = json!({"team": "web"});
    body["attributes"] = json!({"enabled": true});
    let answer = world.import("web", body).await;
    assert_eq!(answer.header("x-ms-request-id").len(), 36);
    assert!(!answer.header("x-ms-keyvault-region").is_empty());
    let bundle = answer.ok();
    let id = bundle["id"].as_str().unwrap();
    let version = id.rsplit('/').next().unwrap();
    assert_eq!(id, format!("https://{VAULT}/certificates/web/{version}"));
    assert!(version.len() == 32 && version.bytes().all(|byte| byte.is_ascii_hexdigit()), "{version}");
    assert_eq!(bundle["sid"], format!("https://{VAULT}/secrets/web/{version}"));
    assert_eq!(bundle["kid"], format!("https://{VAULT}/keys/web/{version}"));
    let sha1 = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY, &made.chain[0]);
    assert_eq!(bundle["x5t"], URL_SAFE_NO_PAD.encode(sha1));
    assert_eq!(bundle["tags"], json!({"team": "web"}));
    let attributes = &bundle["attributes"];
    assert_eq!(attributes["enabled"], true);
    assert!(attributes["exp"].as_i64() > attributes["nbf"].as_i64());
    assert!(attributes["created"].is_i64() && attributes["updated"].is_i64());
    assert_eq!(attributes["recoverableDays"], 90);
    assert!(attributes["recoveryLevel"].is_string());
    for path in
        ["certificates/web", "certificates/web/", "certificates/WEB", &format!("certificates/web/{version}")]
    {
        assert_eq!(world.get(path).await.ok()["x5t"], bundle["x5t"], "{path}");
    }
    let policy = world.get("certificates/web/policy").await.ok();
    assert_eq!(policy["issuer"]["name"], "Unknown");
}

#[tokio::test]
async fn the_leaf_comes_first_unless_the_order_is_to_be_kept() {
    let world = World::start().await;
    let made = make("web", Key::P256, Key::P256, false);
    let rows = [(None, [0, 2, 1]), (Some(false), [0, 2, 1]), (Some(true), [2, 0, 1])];
    for (preserve, expected) in rows {
        let value = STANDARD.encode(made.pfx_in_order(&[2, 0, 1]));
        let bundle = world
            .import("web", json!({"value": value, "pwd": PASSWORD, "preserveCertOrder": preserve}))
            .await
            .ok();
        let stored = world.emulator.certificate(VAULT, "web").unwrap();
        let expected: Vec<_> = expected.iter().map(|place| made.chain[*place].clone()).collect();
        assert_eq!(stored.versions.last().unwrap().chain_der, expected, "{preserve:?}");
        assert_eq!(STANDARD.decode(bundle["cer"].as_str().unwrap()).unwrap(), made.chain[0]);
    }
}

#[tokio::test]
async fn pem_is_taken_where_the_policy_allows_it_and_comes_back_as_pem() {
    let world = World::start().await;
    let made = make("web", Key::P256, Key::P256, false);
    let block = |label: &str, der: &[u8]| {
        format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", STANDARD.encode(der))
    };
    let mut text = block("PRIVATE KEY", &made.key);
    made.chain.iter().for_each(|der| text.push_str(&block("CERTIFICATE", der)));
    let policy = |content: &str| json!({"secret_props": {"contentType": content}});
    let body = json!({"value": text, "policy": policy("application/x-pem-file")});
    world.import("web", body).await.ok();
    let secret = world.get("secrets/web").await.ok();
    assert_eq!(secret["contentType"], "application/x-pem-file");
    let value = secret["value"].as_str().unwrap();
    assert_eq!(value.matches("-----BEGIN CERTIFICATE").count(), 3);
    assert_eq!(value.matches("-----BEGIN PRIVATE KEY").count(), 1);
    let refused = world.import("web", json!({"value": text, "policy": policy("application/x-pkcs12")})).await;
    assert_eq!(refused.refusal(), (400, "BadParameter", ""));
}

#[tokio::test]
async fn imports_that_the_service_refuses_are_refused_and_leave_nothing() {
    let world = World::start().await;
    let made = make("web", Key::P256, Key::P256, false);
    let rsa = make("web", Key::Rsa(2048), Key::Rsa(2048), false);
    let mixed = make("web", Key::P256, Key::Rsa(2048), false);
    let expired = make("web", Key::P256, Key::P256, true);
    let ed25519 = make("web", Key::Ed25519, Key::P256, false);
    let foreign = common::Made { key: rsa.key.clone(), chain: made.chain.clone() };
    let with = |body: Value, name: &str, value: Value| {
        let mut body = body;
        body[name] = value;
        body
    };
    let key = |properties: Value| json!({"key_props": properties});
    let many: Value =
        (0..16).map(|n| (format!("t{n}"), json!("x"))).collect::<serde_json::Map<_, _>>().into();
    let rows = [
        ("a name with a dot", "web.prod", made.body()),
        ("a name too long", &"a".repeat(128), made.body()),
        ("an expired certificate", "web", expired.body()),
        ("an Ed25519 key", "web", ed25519.body()),
        ("somebody else's key", "web", foreign.body()),
        ("a wrong password", "web", with(made.body(), "pwd", json!("wrong"))),
        ("no base64", "web", with(made.body(), "value", json!("***"))),
        ("no PKCS#12", "web", with(made.body(), "value", json!("AAAA"))),
        ("no value", "web", json!({"pwd": PASSWORD})),
        ("16 tags", "web", with(made.body(), "tags", many)),
        ("a tag too long", "web", with(made.body(), "tags", json!({"t": "x".repeat(257)}))),
        ("another key type", "web", with(made.body(), "policy", key(json!({"kty": "RSA"})))),
        ("another key size", "web", with(rsa.body(), "policy", key(json!({"kty": "RSA", "key_size": 4096})))),
        ("another curve", "web", with(made.body(), "policy", key(json!({"kty": "EC", "crv": "P-384"})))),
        ("a mixed chain without key type", "web", mixed.body()),
        (
            "another content type",
            "web",
            with(made.body(), "policy", json!({"secret_props": {"contentType": "text/plain"}})),
        ),
    ];
    for (what, name, body) in rows {
        let answer = world.import(name, body).await;
        assert_eq!(answer.refusal(), (400, "BadParameter", ""), "{what}: {}", answer.body);
    }
    assert!(world.emulator.certificate(VAULT, "web").is_none());
    let typed = with(mixed.body(), "policy", key(json!({"kty": "EC"})));
    world.import("web", typed).await.ok();
    let most: Value =
        (0..15).map(|n| (format!("t{n}"), json!("x".repeat(256)))).collect::<serde_json::Map<_, _>>().into();
    world.import(&"a".repeat(127), with(made.body(), "tags", most)).await.ok();
}

#[tokio::test]
async fn a_refusal_never_repeats_the_body() {
    let world = World::start().await;
    let answer = world.import("web", json!({"value": "QUJD", "pwd": ["a-secret-thing"]})).await;
    assert_eq!(answer.refusal(), (400, "BadParameter", ""));
    assert!(!answer.body.to_string().contains("a-secret-thing"), "{}", answer.body);
}

#[tokio::test]
async fn tags_and_attributes_belong_to_a_version() {
    let world = World::start().await;
    let made = make("web", Key::P256, Key::P256, false);
    let mut versions = Vec::new();
    for number in ["1", "2"] {
        let mut body = made.body();
        body["tags"] = json!({"number": number});
        let bundle = world.import("web", body).await.ok();
        versions.push(bundle["id"].as_str().unwrap().rsplit('/').next().unwrap().to_owned());
    }
    assert_ne!(versions[0], versions[1]);
    let first = format!("certificates/web/{}", versions[0]);
    let patch = json!({"tags": {"a": "b"}, "attributes": {"enabled": false}});
    world.call(Method::PATCH, &first, Some(patch)).await.ok();
    assert_eq!(world.get(&first).await.ok()["tags"], json!({"a": "b"}));
    assert_eq!(world.get("certificates/web").await.ok()["tags"], json!({"number": "2"}));
    // What is not given stays.
    world.call(Method::PATCH, &first, Some(json!({"attributes": {"enabled": false}}))).await.ok();
    assert_eq!(world.get(&first).await.ok()["tags"], json!({"a": "b"}));

    let disabled = world.get(&format!("secrets/web/{}", versions[0])).await;
    assert_eq!(disabled.refusal(), (403, "Forbidden", "SecretDisabled"));
    world.get("secrets/web").await.ok();
    let listed = world.get("certificates").await.ok();
    assert_eq!(listed["value"][0]["tags"], json!({"number": "2"}));
    let unknown = world.call(Method::PATCH, "certificates/web/0123", Some(json!({}))).await;
    assert_eq!(unknown.refusal(), (404, "CertificateNotFound", ""));
}

#[tokio::test]
async fn a_change_of_policy_sets_what_is_given_and_leaves_each_versions_own_alone() {
    let world = World::start().await;
    let made = make("web", Key::P256, Key::P256, false);
    let mut versions = Vec::new();
    for _ in 0..2 {
        let bundle = world.import("web", made.body()).await.ok();
        versions.push(bundle["id"].as_str().unwrap().rsplit('/').next().unwrap().to_owned());
    }
    let before = world.emulator.certificate(VAULT, "web").unwrap();
    let old = format!("certificates/web/{}", versions[0]);
    let whole = |policy: Value| json!({"policy": policy});
    let rows = [
        ("certificates/web/policy", json!({"issuer": {"name": "Self"}}), "/issuer/name", json!("Self")),
        (
            "certificates/web",
            whole(json!({"key_props": {"exportable": false}})),
            "/key_props/exportable",
            json!(false),
        ),
        (old.as_str(), whole(json!({"key_props": {"reuse_key": true}})), "/key_props/reuse_key", json!(true)),
        (
            "certificates/web/policy",
            json!({"x509_props": {"subject": "CN=x"}}),
            "/x509_props/subject",
            json!("CN=x"),
        ),
        ("certificates/web/policy", json!({"lifetime_actions": [1, 2]}), "/lifetime_actions", json!([1, 2])),
        ("certificates/web/policy", json!({"lifetime_actions": [3]}), "/lifetime_actions", json!([3])),
        (
            "certificates/web/policy",
            json!({"issuer": null, "key_props": {"kty": null}}),
            "/issuer/name",
            json!("Self"),
        ),
        (
            "certificates/web/policy",
            json!({"id": "mine", "attributes": {"enabled": false}}),
            "/attributes/enabled",
            json!(true),
        ),
    ];
    let mut expected = before.policy.clone();
    for (path, body, pointer, value) in rows {
        let answer = world.call(Method::PATCH, path, Some(body.clone())).await.ok();
        let answered = if path.ends_with("/policy") { &answer } else { &answer["policy"] };
        assert_eq!(answered["id"], format!("https://{VAULT}/certificates/web/policy"), "{path} {body}");
        assert_eq!(answered.pointer(pointer), Some(&value), "{path} {body}");
        assert_eq!(&world.get("certificates/web/policy").await.ok(), answered, "{path} {body}");
        assert_eq!(&world.get("certificates/web").await.ok()["policy"], answered, "{path} {body}");
        *expected.pointer_mut(pointer).unwrap() = value;
        let mut stored = world.emulator.certificate(VAULT, "web").unwrap();
        stored.policy["attributes"] = expected["attributes"].clone();
        assert_eq!(stored.policy, expected, "{path} {body}: nothing else has changed");
        for (version, original) in stored.versions.iter().zip(&before.versions) {
            assert_eq!(version.policy, original.policy, "{path} {body}: a version's own policy stays");
            assert!(version.exportable);
        }
    }
    // An import puts its own into force.
    world.import("web", made.body()).await.ok();
    assert_eq!(world.get("certificates/web/policy").await.ok()["issuer"]["name"], "Unknown");
    let missing = world.call(Method::PATCH, "certificates/none/policy", Some(json!({}))).await;
    assert_eq!(missing.refusal(), (404, "CertificateNotFound", ""));
}

#[tokio::test]
async fn a_policy_that_is_none_is_refused_wherever_it_comes() {
    let world = World::start().await;
    let made = make("web", Key::P256, Key::P256, false);
    world.import("web", made.body()).await.ok();
    let before = world.emulator.certificate(VAULT, "web");
    for wrong in [
        json!("a policy"),
        json!([]),
        json!({"issuer": "Self"}),
        json!({"key_props": []}),
        json!({"secret_props": 1}),
        json!({"x509_props": "CN=web"}),
        json!({"attributes": true}),
        json!({"lifetime_actions": {}}),
    ] {
        let mut body = made.body();
        body["policy"] = wrong.clone();
        let answers = [
            world.import("web", body).await,
            world
                .call(Method::PATCH, "certificates/web", Some(json!({"policy": wrong, "tags": {"a": "b"}})))
                .await,
            world.call(Method::PATCH, "certificates/web/policy", Some(wrong.clone())).await,
        ];
        for answer in answers {
            assert_eq!(answer.refusal(), (400, "BadParameter", ""), "{wrong}: {}", answer.body);
        }
    }
    assert_eq!(world.emulator.certificate(VAULT, "web"), before);
}

#[tokio::test]
async fn a_key_that_may_not_leave_the_vault_does_not() {
    let world = World::start().await;
    let made = make("web", Key::P256, Key::P256, false);
    let mut body = made.body();
    body["policy"] = json!({"key_props": {"exportable": false, "kty": "EC"}});
    world.import("web", body).await.ok();
    let bundle = bundle_of(&world.get("secrets/web").await.ok());
    assert!(bundle.keys.is_empty());
    assert_eq!(bundle.certs.len(), 3);
}

#[tokio::test]
async fn what_stands_in_the_way_of_an_import_is_told_as_the_service_tells_it() {
    let world = World::start().await;
    let made = make("web", Key::P256, Key::P256, false);
    world.emulator.put_certificate(VAULT, "web", &made.pfx(), PASSWORD, tags(&[]));
    let rows = [
        (State::SoftDeleted, (409, "Conflict", "ObjectIsDeletedButRecoverable"), 404),
        (State::BeingDeleted, (409, "Conflict", "ObjectIsBeingDeleted"), 404),
        (State::BeingRecovered, (409, "Conflict", "ObjectIsBeingRecovered"), 404),
        (State::PendingOperation, (409, "Forbidden", ""), 200),
    ];
    for (state, expected, get) in rows {
        assert!(world.emulator.set_state(VAULT, "web", state));
        assert_eq!(world.import("Web", made.body()).await.refusal(), expected, "{state:?}");
        assert_eq!(world.get("certificates/web").await.status.as_u16(), get, "{state:?}");
        let listed = world.get("certificates").await.ok()["value"].as_array().unwrap().len();
        assert_eq!(listed, usize::from(get == 200), "{state:?}");
    }
    assert!(world.emulator.set_state(VAULT, "web", State::Normal));
    world.import("web", made.body()).await.ok();
    world.emulator.put_plain_secret(VAULT, "plain");
    assert_eq!(world.import("Plain", made.body()).await.refusal(), (409, "Conflict", ""));
    assert!(world.emulator.purge(VAULT, "plain"));
    world.import("plain", made.body()).await.ok();
}

#[tokio::test]
async fn a_deleted_certificate_is_recoverable_with_its_versions() {
    let world = World::start().await;
    let made = make("web", Key::P256, Key::P256, false);
    world.import("web", made.body()).await.ok();
    world.import("web", made.body()).await.ok();
    let deleted = world.call(Method::DELETE, "certificates/web", None).await.ok();
    assert_eq!(deleted["recoveryId"], format!("https://{VAULT}/deletedcertificates/web"));
    assert!(deleted["scheduledPurgeDate"].as_i64() > deleted["deletedDate"].as_i64());
    assert_eq!(world.get("certificates/web").await.refusal(), (404, "CertificateNotFound", ""));
    assert_eq!(world.get("secrets/web").await.refusal(), (404, "SecretNotFound", ""));
    world.get("deletedcertificates/web").await.ok();
    world.call(Method::POST, "deletedcertificates/web/recover", None).await.ok();
    assert_eq!(world.get("certificates/web/versions").await.ok()["value"].as_array().unwrap().len(), 2);
    assert_eq!(world.get("deletedcertificates/web").await.refusal(), (404, "CertificateNotFound", ""));
}

#[tokio::test]
async fn what_is_not_there_or_not_asked_for_rightly_is_named() {
    let world = World::start().await;
    let url = |path: &str| format!("https://{VAULT}/{path}");
    let rows = [
        (Method::GET, "certificates/none?api-version=7.4", (404, "CertificateNotFound", "")),
        (Method::GET, "certificates/none/versions?api-version=7.4", (404, "CertificateNotFound", "")),
        (Method::GET, "secrets/none?api-version=7.4", (404, "SecretNotFound", "")),
        (Method::GET, "certificates/none", (400, "BadParameter", "")),
        (Method::GET, "certificates/none?api-version=1999-01-01", (400, "BadParameter", "")),
        (Method::GET, "certificates/no.ne?api-version=7.4", (400, "BadParameter", "")),
        (Method::PUT, "certificates/none?api-version=7.4", (405, "BadParameter", "")),
        (Method::GET, "keys/none?api-version=7.4", (405, "BadParameter", "")),
    ];
    for (method, path, expected) in rows {
        let answer = world.request(method, &url(path), Some(&world.token()), None).await;
        assert_eq!(answer.refusal(), expected, "{path}");
    }
    let elsewhere = "https://other.vault.azure.net/certificates?api-version=7.4";
    let answer = world.request(Method::GET, elsewhere, Some(&world.token()), None).await;
    assert_eq!(answer.refusal(), (421, "VaultNotFound", ""));
}

#[tokio::test]
async fn vaults_know_nothing_of_each_other() {
    let world = World::start().await;
    world.emulator.add_vault("other.vault.azure.net", common::TENANT);
    world.import("web", make("web", Key::P256, Key::P256, false).body()).await.ok();
    let url = "https://other.vault.azure.net/certificates/web?api-version=7.4";
    let answer = world.request(Method::GET, url, Some(&world.token()), None).await;
    assert_eq!(answer.refusal(), (403, "Forbidden", "ForbiddenByRbac"));
    world.emulator.allow("other.vault.azure.net", common::CLIENT, keyvault_emulator::Permissions::all());
    let answer = world.request(Method::GET, url, Some(&world.token()), None).await;
    assert_eq!(answer.refusal(), (404, "CertificateNotFound", ""));
    world.emulator.remove_vault("other.vault.azure.net");
    let answer = world.request(Method::GET, url, Some(&world.token()), None).await;
    assert_eq!(answer.refusal(), (421, "VaultNotFound", ""));
}

#[tokio::test]
async fn both_http_versions_are_spoken() {
    let world = World::start().await;
    for (http1, expected) in [(true, reqwest::Version::HTTP_11), (false, reqwest::Version::HTTP_2)] {
        let world = World {
            client: common::client(&world.emulator, http1),
            emulator: world.emulator.clone(),
            issuer: common::TestIssuer::new("x"),
        };
        let answer = world.get("certificates").await;
        assert_eq!(answer.version, expected);
        answer.ok();
    }
    assert!(
        world
            .emulator
            .wait_for(PATIENCE, |calls| {
                calls
                    .iter()
                    .filter(|call| call.operation == Operation::ListCertificates && call.answered)
                    .count()
                    == 2
            })
            .await
    );
}
