//! What Entra ID makes of an assertion that an application signed with its own certificate.
//! Leaves every other proof to entra.rs.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use common::{
    Answer, CLIENT, CLOUDS, ClientCertificate, ENTRA, JWT_BEARER, Key, SCOPE, TENANT, VAULT, World, form,
    make, unix_now,
};
use keyvault_emulator::Permissions;
use reqwest::Method;
use serde_json::{Value, json};

fn sha256(der: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(digest(&SHA256, der))
}

fn sha1(der: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, der))
}

fn endpoint(host: &str) -> String {
    format!("https://{host}/{TENANT}/oauth2/v2.0/token")
}

/// Good claims, with `change` made to them.
fn claims(change: Value) -> Value {
    let now = unix_now();
    let mut claims = json!({
        "iss": CLIENT, "sub": CLIENT, "aud": endpoint(ENTRA), "jti": "1", "nbf": now, "exp": now + 600,
    });
    for (name, value) in change.as_object().unwrap() {
        claims[name] = value.clone();
    }
    claims
}

fn register(world: &World, certificates: &[&[u8]]) {
    world.change_application(|application| {
        application.certificates = certificates.iter().map(|der| der.to_vec()).collect();
    });
}

async fn ask(world: &World, assertion: &str) -> Answer {
    let proof = [("client_assertion", assertion), ("client_assertion_type", JWT_BEARER)];
    world.token_request(TENANT, &form(SCOPE, &proof)).await
}

#[tokio::test]
async fn an_assertion_of_a_registered_certificate_opens_the_vault() {
    let world = World::start().await;
    let (old, new) = (ClientCertificate::new(-9, 1), ClientCertificate::new(-1, 9));
    register(&world, &[&old.der, &new.der]);
    let rows = [
        (&old, json!({"alg": "RS256", "x5t#S256": sha256(&old.der)})),
        (&new, json!({"alg": "PS256", "x5t#S256": sha256(&new.der)})),
        (&new, json!({"alg": "RS256", "x5t": sha1(&new.der)})),
        (&new, json!({"alg": "RS256", "x5t": sha1(&old.der), "x5t#S256": sha256(&new.der)})),
        // As some of Microsoft's own libraries write it.
        (&new, json!({"alg": "RS256", "x5t": STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, &new.der))})),
    ];
    for (certificate, header) in rows {
        // As Microsoft's library for Python writes the time.
        let fraction = json!({"exp": unix_now() as f64 + 600.5});
        let token = ask(&world, &certificate.sign(header, &claims(fraction))).await.ok();
        let url = format!("https://{VAULT}/certificates?api-version=7.4");
        world.request(Method::GET, &url, token["access_token"].as_str(), None).await.ok();
    }
}

#[tokio::test]
async fn the_audience_is_the_tenants_endpoint_or_issuer_in_the_cloud_that_is_asked() {
    let world = World::start().await;
    let certificate = ClientCertificate::new(-1, 1);
    register(&world, &[&certificate.der]);
    let issuer = |host: &str| format!("https://{host}/{TENANT}/v2.0");
    for asked in &CLOUDS {
        world.emulator.add_vault(asked.vault, TENANT);
        world.emulator.allow(asked.vault, CLIENT, Permissions::all());
        for meant in &CLOUDS {
            let endpoints = meant.entra.iter().map(|host| endpoint(host));
            for audience in endpoints.chain([issuer(meant.entra[0])]) {
                let header = json!({"alg": "PS256", "x5t#S256": sha256(&certificate.der)});
                let assertion = certificate.sign(header, &claims(json!({"aud": audience})));
                let proof = [("client_assertion", assertion.as_str()), ("client_assertion_type", JWT_BEARER)];
                let scope = format!("{}/.default", asked.audience);
                let answer = world.token_request_at(&endpoint(asked.entra[0]), &form(&scope, &proof)).await;
                let code = (asked.vault != meant.vault).then_some(700_023);
                assert_eq!(answer.body["error_codes"][0].as_u64(), code, "{} {audience}", asked.vault);
            }
        }
    }
}

#[tokio::test]
async fn every_wrong_assertion_is_refused_with_its_own_code_and_reason() {
    let world = World::start().await;
    let good = ClientCertificate::new(-1, 1);
    let (expired, early) = (ClientCertificate::new(-9, -1), ClientCertificate::new(1, 9));
    let stranger = ClientCertificate::new(-1, 1);
    let elliptic = make("app", Key::P256, Key::P256, false).chain.remove(0);
    register(&world, &[&good.der, &expired.der, &early.der, &elliptic, b"no certificate"]);
    let now = unix_now();
    let other = "33333333-3333-3333-3333-333333333333";
    let named = |der: &[u8]| json!({"alg": "PS256", "x5t#S256": sha256(der)});
    let by = |alg: &str| json!({"alg": alg, "x5t#S256": sha256(&good.der)});
    let said = |change: Value| good.sign(named(&good.der), &claims(change));
    let none = json!({});
    let (found, signature) = ("The key was not found.", "did not match the expected signature");
    let both = json!({"alg": "RS256", "x5t": sha1(&good.der), "x5t#S256": sha256(&stranger.der)});
    let rows = [
        ("unknown certificate", stranger.sign(named(&stranger.der), &claims(none.clone())), 700_027, found),
        ("SHA-256 counts", good.sign(both, &claims(none.clone())), 700_027, found),
        ("no certificate named", good.sign(json!({"alg": "RS256"}), &claims(none.clone())), 700_027, found),
        (
            "named by no hash",
            good.sign(json!({"alg": "RS256", "x5t": "!"}), &claims(none.clone())),
            700_027,
            found,
        ),
        (
            "no certificate registered",
            good.sign(named(b"no certificate"), &claims(none.clone())),
            700_027,
            found,
        ),
        ("signed by another", stranger.sign(named(&good.der), &claims(none.clone())), 700_027, signature),
        ("another algorithm", good.sign(by("RS512"), &claims(none.clone())), 700_027, signature),
        ("a secret's algorithm", good.sign(by("HS256"), &claims(none.clone())), 700_027, signature),
        ("no RSA key", good.sign(named(&elliptic), &claims(none.clone())), 700_027, signature),
        (
            "expired",
            expired.sign(named(&expired.der), &claims(none.clone())),
            700_027,
            "The key used is expired.",
        ),
        ("early", early.sign(named(&early.der), &claims(none.clone())), 700_027, "not valid yet"),
        ("no algorithm", good.sign(by("none"), &claims(none)), 50027, "malformed"),
        ("another's word", said(json!({"iss": other, "sub": other})), 700_021, "doesn't match"),
        ("about another", said(json!({"sub": other})), 700_021, "doesn't match"),
        ("another tenant", said(json!({"aud": endpoint(ENTRA).replace(TENANT, other)})), 700_023, "audience"),
        ("no audience", said(json!({"aud": null})), 700_023, "audience"),
        ("too old", said(json!({"nbf": now - 7200, "exp": now - 3600})), 700_024, "valid time range"),
        ("too young", said(json!({"nbf": now + 3600, "exp": now + 7200})), 700_024, "valid time range"),
        ("without end", said(json!({"exp": null})), 700_024, "valid time range"),
    ];
    for (what, assertion, code, words) in rows {
        let answer = ask(&world, &assertion).await;
        assert_eq!(answer.status, 401, "{what}: {}", answer.body);
        let (error, codes) = (&answer.body["error"], &answer.body["error_codes"]);
        assert_eq!((error, codes), (&json!("invalid_client"), &json!([code])), "{what}: {}", answer.body);
        let description = answer.body["error_description"].as_str().unwrap();
        assert!(description.starts_with(&format!("AADSTS{code}: ")), "{what}: {description}");
        assert!(description.contains(words), "{what}: {description}");
        assert!(!description.contains(&assertion), "{what}");
    }
    let thumbprint: String =
        digest(&SHA256, &stranger.der).as_ref().iter().map(|b| format!("{b:02X}")).collect();
    let answer = ask(&world, &stranger.sign(named(&stranger.der), &claims(json!({})))).await;
    assert!(answer.body["error_description"].as_str().unwrap().contains(&thumbprint), "{}", answer.body);
}

#[tokio::test]
async fn a_certificate_that_is_taken_away_proves_nothing_any_more() {
    let world = World::start().await;
    let certificate = ClientCertificate::new(-1, 1);
    let header = json!({"alg": "RS256", "x5t#S256": sha256(&certificate.der)});
    let assertion = certificate.sign(header, &claims(json!({})));
    register(&world, &[&certificate.der]);
    ask(&world, &assertion).await.ok();
    register(&world, &[]);
    assert_eq!(ask(&world, &assertion).await.body["error_codes"], json!([700_027]));
}
