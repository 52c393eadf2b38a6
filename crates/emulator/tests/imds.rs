//! What the node's metadata service promises: which managed identity a token is of, what is refused, how it fails.
//! Leaves what a vault makes of tokens to entra.rs.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::time::Duration;

use common::{Answer, CLOUDS, PATIENCE, TENANT, VAULT, World, unix_now};
use keyvault_emulator::{AssignedIdentity, Call, Effect, Emulator, Fault, Operation, Permissions};
use reqwest::Method;
use reqwest::header::HeaderMap;
use serde_json::json;

const SYSTEM: &str = "aaaaaaaa-0000-0000-0000-000000000001";
const USER: &str = "aaaaaaaa-0000-0000-0000-000000000002";
const OTHER: &str = "aaaaaaaa-0000-0000-0000-000000000003";
const GOOD: &str = "api-version=2018-02-01&resource=https://vault.azure.net";

fn assign(emulator: &Emulator, client_id: &str, is_system: bool) {
    let (tenant_id, client_id) = (TENANT.to_owned(), client_id.to_owned());
    emulator.assign_identity(AssignedIdentity { tenant_id, client_id, is_system });
}

async fn ask_with(world: &World, query: &str, headers: &[(&'static str, &'static str)]) -> Answer {
    let url = format!("{}/metadata/identity/oauth2/token?{query}", world.emulator.imds_endpoint());
    let headers: HeaderMap =
        headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
    Answer::of(world.client.get(url).headers(headers).send().await.unwrap()).await
}

async fn ask(world: &World, query: &str) -> Answer {
    ask_with(world, query, &[("Metadata", "true")]).await
}

#[tokio::test]
async fn a_token_of_an_assigned_identity_opens_the_vault_in_every_cloud() {
    let world = World::start().await;
    assign(&world.emulator, SYSTEM, true);
    world.emulator.set_token_lifetime(600);
    for cloud in &CLOUDS {
        world.emulator.add_vault(cloud.vault, TENANT);
        world.emulator.allow(cloud.vault, SYSTEM, Permissions::all());
        // A slash at the end is the resource's, not the audience's; later versions answer alike.
        for (version, slash) in [("2018-02-01", ""), ("2019-08-01", "/")] {
            let resource = format!("{}{slash}", cloud.audience);
            let before = unix_now();
            let answer = ask(&world, &format!("api-version={version}&resource={resource}")).await;
            assert!(answer.header("server").starts_with("IMDS/"));
            let body = answer.ok();
            let expires_on: i64 = body["expires_on"].as_str().unwrap().parse().unwrap();
            assert!((before + 600..=unix_now() + 600).contains(&expires_on), "{expires_on}");
            assert_eq!(
                (&body["expires_in"], &body["resource"], &body["token_type"], &body["client_id"]),
                (&json!("600"), &json!(resource), &json!("Bearer"), &json!(SYSTEM))
            );
            let url = format!("https://{}/certificates?api-version=7.4", cloud.vault);
            world.request(Method::GET, &url, body["access_token"].as_str(), None).await.ok();
        }
    }
    world.emulator.deny(VAULT, SYSTEM);
    let token = ask(&world, GOOD).await.ok()["access_token"].as_str().unwrap().to_owned();
    let url = format!("https://{VAULT}/certificates?api-version=7.4");
    let refused = world.request(Method::GET, &url, Some(&token), None).await;
    assert_eq!(refused.refusal(), (403, "Forbidden", "ForbiddenByRbac"));
    assert!(refused.body["error"]["message"].as_str().unwrap().contains(&format!("appid={SYSTEM}")));
}

#[tokio::test]
async fn which_identity_is_meant_is_told_by_name_or_by_there_being_no_other() {
    let (none, several) = ("Identity not found", "Multiple user assigned identities exist");
    // What is assigned (system, user), who is named, and whose token that gives or why there is none.
    type Row = (&'static [(&'static str, bool)], Option<&'static str>, Result<&'static str, &'static str>);
    let rows: [Row; 12] = [
        (&[], None, Err(none)),
        (&[], Some(USER), Err(none)),
        (&[(USER, false)], None, Ok(USER)),
        (&[(USER, false)], Some(USER), Ok(USER)),
        (&[(USER, false)], Some(OTHER), Err(none)),
        (&[(USER, false)], Some(""), Err(none)),
        (&[(USER, false), (OTHER, false)], None, Err(several)),
        (&[(USER, false), (OTHER, false)], Some(OTHER), Ok(OTHER)),
        (&[(USER, false), (SYSTEM, true), (OTHER, false)], None, Ok(SYSTEM)),
        (&[(USER, false), (SYSTEM, true)], Some(USER), Ok(USER)),
        // A node has one identity of its own, and each identity once.
        (&[(SYSTEM, true), (OTHER, true)], Some(SYSTEM), Err(none)),
        (&[(USER, false), (USER, false)], None, Ok(USER)),
    ];
    for (assigned, named, expected) in rows {
        let world = World::start().await;
        for (client_id, is_system) in assigned {
            assign(&world.emulator, client_id, *is_system);
        }
        let name = named.map(|client_id| format!("&client_id={}", client_id.to_uppercase()));
        let answer = ask(&world, &format!("{GOOD}{}", name.unwrap_or_default())).await;
        match expected {
            Ok(client_id) => assert_eq!(answer.ok()["client_id"], client_id, "{assigned:?} {named:?}"),
            Err(words) => {
                assert_eq!(answer.status, 400, "{assigned:?} {named:?}");
                assert_eq!(answer.body["error"], "invalid_request");
                let said = answer.body["error_description"].as_str().unwrap();
                assert!(said.starts_with(words), "{assigned:?} {named:?}: {said}");
            }
        }
    }
}

#[tokio::test]
async fn an_identity_that_is_taken_away_gets_no_token_any_more() {
    let world = World::start().await;
    assign(&world.emulator, USER, false);
    ask(&world, GOOD).await.ok();
    assert!(world.emulator.unassign_identity(&USER.to_uppercase()));
    assert!(!world.emulator.unassign_identity(USER));
    assert_eq!(world.emulator.identities(), []);
    assert_eq!(ask(&world, GOOD).await.body["error_description"], "Identity not found");
}

#[tokio::test]
async fn a_wrong_request_is_refused_even_where_there_is_an_identity() {
    let world = World::start().await;
    assign(&world.emulator, SYSTEM, true);
    let marked = [("Metadata", "true")];
    let proxied = [("Metadata", "true"), ("X-Forwarded-For", "192.0.2.1")];
    let resource = "resource=https://vault.azure.net";
    let dated = |version: &str| format!("api-version={version}&{resource}");
    type Headers<'a> = &'a [(&'static str, &'static str)];
    let rows: [(&str, String, Headers<'_>, &str, &str); 13] = [
        ("no mark", GOOD.into(), &[], "invalid_request", "Required metadata header"),
        (
            "marked false",
            GOOD.into(),
            &[("Metadata", "false")],
            "invalid_request",
            "Required metadata header",
        ),
        (
            "not as written",
            GOOD.into(),
            &[("Metadata", "True")],
            "invalid_request",
            "Required metadata header",
        ),
        ("proxied", GOOD.into(), &proxied, "invalid_request", "X-Forwarded-For"),
        ("no version", resource.into(), &marked, "invalid_request", "'api-version' is missing"),
        ("old version", dated("2017-12-01"), &marked, "invalid_request", "not supported"),
        ("no date", dated("latest"), &marked, "invalid_request", "not supported"),
        ("no resource", "api-version=2018-02-01".into(), &marked, "invalid_request", "audience parameter"),
        (
            "empty resource",
            "api-version=2018-02-01&resource=".into(),
            &marked,
            "invalid_request",
            "audience parameter",
        ),
        ("a scope", format!("{GOOD}/.default"), &marked, "invalid_resource", "AADSTS500011"),
        ("unknown resource", format!("{GOOD}.example"), &marked, "invalid_resource", "AADSTS500011"),
        ("by object id", format!("{GOOD}&object_id=x"), &marked, "invalid_request", "Identity not found"),
        ("by resource id", format!("{GOOD}&msi_res_id=x"), &marked, "invalid_request", "Identity not found"),
    ];
    for (what, query, headers, error, words) in rows {
        let answer = ask_with(&world, &query, headers).await;
        assert_eq!((answer.status.as_u16(), &answer.body["error"]), (400, &json!(error)), "{what}");
        let said = answer.body["error_description"].as_str().unwrap();
        assert!(said.contains(words), "{what}: {said}");
    }
    for path in ["metadata/instance", "certificates", &format!("{TENANT}/oauth2/v2.0/token")] {
        let url = format!("{}/{path}?{GOOD}", world.emulator.imds_endpoint());
        let answer = world.client.get(url).header("Metadata", "true").send().await.unwrap();
        assert_eq!(answer.status(), 404, "{path}");
    }
}

#[tokio::test]
async fn it_starts_slowly_throttles_and_fails_when_told_to() {
    let world = World::start().await;
    assign(&world.emulator, SYSTEM, true);
    let fault = |effect| Fault::new(effect).operation(Operation::ManagedIdentityToken);
    let rows = [
        (404, Effect::status(404, "not_found"), ""),
        (410, Effect::status(410, "gone"), ""),
        (429, Effect::throttled(Some("7")), "7"),
        (429, Effect::throttled(None), ""),
        (500, Effect::status(500, "unknown"), ""),
    ];
    for (status, effect, retry_after) in rows {
        world.emulator.inject(fault(effect).times(2));
        for _ in 0..2 {
            let answer = ask(&world, GOOD).await;
            assert_eq!(answer.status.as_u16(), status);
            assert_eq!(answer.header("retry-after"), retry_after);
            assert!(answer.body["error"].is_string() && answer.body["error_description"].is_string());
        }
        ask(&world, GOOD).await.ok();
    }
    world.emulator.inject(fault(Effect::Reset).times(1));
    let url = format!("{}/metadata/identity/oauth2/token?{GOOD}", world.emulator.imds_endpoint());
    assert!(world.client.get(&url).header("Metadata", "true").send().await.is_err());
    world.emulator.inject(fault(Effect::delay_before(Duration::from_millis(200))).times(1));
    ask(&world, GOOD).await.ok();
    let call = world.emulator.journal().pop().unwrap();
    assert!(call.ended_us.unwrap() - call.began_us >= 200_000, "{call:?}");

    let id = world.emulator.inject(fault(Effect::Hang));
    let waiting = tokio::spawn(world.client.get(&url).header("Metadata", "true").send());
    let hangs = |calls: &[Call]| calls.last().is_some_and(|call| call.ended_us.is_none());
    assert!(world.emulator.wait_for(PATIENCE, hangs).await);
    assert!(!waiting.is_finished());
    world.emulator.clear_fault(id);
    assert_eq!(waiting.await.unwrap().unwrap().status(), 200);
}

#[tokio::test]
async fn the_journal_has_whose_token_was_asked_for_and_never_the_token() {
    let world = World::start().await;
    assign(&world.emulator, USER, false);
    let token = ask(&world, GOOD).await.ok()["access_token"].as_str().unwrap().to_owned();
    ask(&world, &format!("{GOOD}&client_id={OTHER}")).await;
    let calls = world.emulator.calls("127.0.0.1");
    let seen: Vec<_> = calls
        .iter()
        .map(|call| (call.operation, call.client_id.as_deref(), call.status, call.code.as_deref()))
        .collect();
    let operation = Operation::ManagedIdentityToken;
    assert_eq!(
        seen,
        [
            (operation, Some(USER), Some(200), None),
            (operation, Some(OTHER), Some(400), Some("invalid_request")),
        ]
    );
    assert!(calls.iter().all(|call| call.scope.as_deref() == Some("https://vault.azure.net")));
    assert!(!format!("{calls:?}").contains(&token));
}

#[tokio::test]
async fn it_listens_on_loopback_and_ends_with_the_emulator() {
    let free = || ([127, 0, 0, 1], 0).into();
    assert!(Emulator::start_at(free(), ([0, 0, 0, 0], 0).into()).await.is_err());
    let emulator = Emulator::start_at(free(), ([127, 0, 0, 2], 0).into()).await.unwrap();
    let address = emulator.imds_endpoint().strip_prefix("http://").unwrap().to_owned();
    assert!(address.starts_with("127.0.0.2:"), "{address}");
    tokio::net::TcpStream::connect(&address).await.unwrap();
    emulator.stop().await;
    assert!(tokio::net::TcpStream::connect(&address).await.is_err());
}
