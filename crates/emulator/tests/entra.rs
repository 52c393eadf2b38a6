//! What Entra ID and a vault's front door promise: who gets a token, and which token opens what.
//! Leaves what is behind the door to certificates.rs.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use common::{
    AUDIENCE, CLIENT, JWT_BEARER, Key, SCOPE, SECRET, SUBJECT, TENANT, TestIssuer, VAULT, World, make,
    unix_now,
};
use keyvault_emulator::{Emulator, Operation, Permissions};
use reqwest::Method;
use serde_json::json;

#[tokio::test]
async fn a_token_is_given_for_a_good_assertion_or_secret_and_opens_the_vault() {
    let world = World::start().await;
    let assertion = world.issuer.assertion(json!({}));
    let proofs = [
        vec![("client_assertion", assertion.as_str()), ("client_assertion_type", JWT_BEARER)],
        vec![("client_secret", SECRET)],
    ];
    for proof in proofs {
        let mut form = vec![("grant_type", "client_credentials"), ("client_id", CLIENT), ("scope", SCOPE)];
        form.extend(proof);
        let answer = world.token_request(TENANT, &form).await.ok();
        assert_eq!(answer["token_type"], "Bearer");
        assert_eq!(answer["expires_in"], 3599);
        let url = format!("https://{VAULT}/certificates?api-version=7.4");
        world.request(Method::GET, &url, answer["access_token"].as_str(), None).await.ok();
    }
    let calls = world.emulator.journal();
    let token = calls.iter().find(|call| call.operation == Operation::Token).unwrap();
    assert_eq!((token.scope.as_deref(), token.client_id.as_deref()), (Some(SCOPE), Some(CLIENT)));
    let read = calls.iter().find(|call| call.host == VAULT).unwrap();
    assert_eq!(read.client_id.as_deref(), Some(CLIENT));
}

#[tokio::test]
async fn every_wrong_token_request_gets_its_own_aadsts_code() {
    let world = World::start().await;
    world.change_application(|application| application.expired_secrets = vec!["yesterday's".into()]);
    let now = unix_now();
    let good = world.issuer.assertion(json!({}));
    let stranger = TestIssuer::new("key-1").assertion(json!({}));
    let unknown_key = TestIssuer::new("key-2").assertion(json!({}));
    let wrong = |change| world.issuer.assertion(change);
    let expired = wrong(json!({"nbf": now - 7200, "exp": now - 3600}));
    let early = wrong(json!({"nbf": now + 3600, "exp": now + 7200}));
    let (issuer, subject, audience) = (
        wrong(json!({"iss": "https://elsewhere.example"})),
        wrong(json!({"sub": SUBJECT.to_uppercase()})),
        wrong(json!({"aud": ["api://other"]})),
    );
    let assertion = |text: &str| {
        vec![("client_assertion", text.to_owned()), ("client_assertion_type", JWT_BEARER.into())]
    };
    let secret = |text: &str| vec![("client_secret", text.to_owned())];
    let other = "33333333-3333-3333-3333-333333333333";
    let rows = [
        ("unknown tenant", other, CLIENT, SCOPE, assertion(&good), 400, "invalid_request", 90002),
        ("unknown application", TENANT, other, SCOPE, assertion(&good), 400, "unauthorized_client", 700016),
        ("wrong secret", TENANT, CLIENT, SCOPE, secret("wrong"), 401, "invalid_client", 7000215),
        ("expired secret", TENANT, CLIENT, SCOPE, secret("yesterday's"), 401, "invalid_client", 7000222),
        ("no proof", TENANT, CLIENT, SCOPE, vec![], 401, "invalid_client", 7000218),
        ("no JWT", TENANT, CLIENT, SCOPE, assertion("x"), 401, "invalid_client", 50027),
        ("wrong issuer", TENANT, CLIENT, SCOPE, assertion(&issuer), 401, "invalid_client", 700211),
        ("wrong subject", TENANT, CLIENT, SCOPE, assertion(&subject), 401, "invalid_client", 700213),
        ("wrong audience", TENANT, CLIENT, SCOPE, assertion(&audience), 401, "invalid_client", 700212),
        ("signed by another", TENANT, CLIENT, SCOPE, assertion(&stranger), 401, "invalid_client", 50013),
        ("unknown key", TENANT, CLIENT, SCOPE, assertion(&unknown_key), 401, "invalid_client", 50013),
        ("expired", TENANT, CLIENT, SCOPE, assertion(&expired), 401, "invalid_client", 700024),
        ("not yet valid", TENANT, CLIENT, SCOPE, assertion(&early), 401, "invalid_client", 700024),
        ("no .default", TENANT, CLIENT, AUDIENCE, secret(SECRET), 400, "invalid_scope", 1002012),
        (
            "another cloud",
            TENANT,
            CLIENT,
            "https://vault.azure.cn/.default",
            secret(SECRET),
            400,
            "invalid_resource",
            500011,
        ),
    ];
    for (what, tenant, client, scope, proof, status, error, code) in &rows {
        let mut form = vec![("grant_type", "client_credentials"), ("client_id", *client), ("scope", *scope)];
        form.extend(proof.iter().map(|(name, value)| (*name, value.as_str())));
        let answer = world.token_request(tenant, &form).await;
        assert_eq!(answer.status.as_u16(), *status, "{what}: {}", answer.body);
        assert_eq!(answer.body["error"], *error, "{what}");
        assert_eq!(answer.body["error_codes"], json!([code]), "{what}");
        let words = answer.body["error_description"].as_str().unwrap();
        assert!(words.starts_with(&format!("AADSTS{code}: ")), "{what}: {words}");
        assert!(!words.contains(SECRET) && !words.contains(&good), "{what}");
    }
}

#[tokio::test]
async fn a_call_without_token_is_told_where_to_get_one() {
    let world = World::start().await;
    world.emulator.add_vault("contoso.vault.azure.cn", TENANT);
    let rows = [
        (VAULT, "login.microsoftonline.com", "https://vault.azure.net"),
        ("contoso.vault.azure.cn", "login.chinacloudapi.cn", "https://vault.azure.cn"),
    ];
    for (host, authority, resource) in rows {
        let answer = world
            .request(Method::GET, &format!("https://{host}/certificates?api-version=7.4"), None, None)
            .await;
        assert_eq!(answer.refusal(), (401, "Unauthorized", ""));
        let expected =
            format!("Bearer authorization=\"https://{authority}/{TENANT}\", resource=\"{resource}\"");
        assert_eq!(answer.header("www-authenticate"), expected);
    }
}

#[tokio::test]
async fn tokens_that_are_not_for_this_vault_are_refused() {
    let world = World::start().await;
    let other_tenant = "33333333-3333-3333-3333-333333333333";
    let elsewhere = Emulator::start(([127, 0, 0, 1], 0).into()).await.unwrap();
    let issue = |tenant, audience, expires| world.emulator.issue_token(tenant, CLIENT, audience, expires);
    let rows = [
        ("no JWT", "garbage".to_owned(), "S2S12005"),
        ("another's signature", elsewhere.issue_token(TENANT, CLIENT, AUDIENCE, 60), "S2S12005"),
        ("expired", issue(TENANT, AUDIENCE, -1), "S2S12086"),
        ("another audience", issue(TENANT, "https://management.azure.com", 60), "AKV10022"),
        ("another cloud's audience", issue(TENANT, "https://vault.azure.cn", 60), "AKV10022"),
        ("another tenant", issue(other_tenant, AUDIENCE, 60), "AKV10032"),
    ];
    for (what, token, code) in rows {
        let url = format!("https://{VAULT}/certificates?api-version=7.4");
        let answer = world.request(Method::GET, &url, Some(&token), None).await;
        assert_eq!(answer.refusal(), (401, "Unauthorized", ""), "{what}");
        assert!(answer.body["error"]["message"].as_str().unwrap().contains(code), "{what}: {}", answer.body);
        assert!(answer.header("www-authenticate").starts_with("Bearer authorization="), "{what}");
    }
}

#[tokio::test]
async fn each_operation_needs_its_own_permission() {
    let world = World::start().await;
    let body = make("web", Key::P256, Key::P256, false).body();
    world.import("web", body.clone()).await.ok();
    type Take = fn(&mut Permissions);
    let rows: [(Method, &str, Option<_>, Take); 9] = [
        (Method::GET, "certificates/web", None, |p| p.certificates_get = false),
        (Method::GET, "certificates/web/policy", None, |p| p.certificates_get = false),
        (Method::GET, "certificates", None, |p| p.certificates_list = false),
        (Method::GET, "certificates/web/versions", None, |p| p.certificates_list = false),
        (Method::POST, "certificates/web/import", Some(body), |p| p.certificates_import = false),
        (Method::PATCH, "certificates/web", Some(json!({})), |p| p.certificates_update = false),
        (Method::GET, "secrets/web", None, |p| p.secrets_get = false),
        (Method::DELETE, "certificates/web", None, |p| p.certificates_delete = false),
        (Method::POST, "deletedcertificates/web/recover", None, |p| p.certificates_recover = false),
    ];
    for (method, path, body, take) in rows {
        let mut permissions = Permissions::all();
        take(&mut permissions);
        world.emulator.allow(VAULT, CLIENT, permissions);
        let refused = world.call(method.clone(), path, body.clone()).await;
        assert_eq!(refused.refusal(), (403, "Forbidden", "ForbiddenByRbac"), "{method} {path}");
        let message = refused.body["error"]["message"].as_str().unwrap();
        assert!(message.contains("\r\nAction: 'Microsoft.KeyVault/vaults/"), "{message}");
        assert!(message.contains(&format!("appid={CLIENT}")), "{message}");
        world.emulator.allow(VAULT, CLIENT, Permissions::all());
        world.call(method, path, body).await.ok();
    }
    world.emulator.deny(VAULT, CLIENT);
    assert_eq!(world.get("certificates").await.refusal(), (403, "Forbidden", "ForbiddenByRbac"));
}
