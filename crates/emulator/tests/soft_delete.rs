//! What soft delete promises: states that take their time, the deleted certificates, recovery and purging.
//! Leaves certificates that are there to certificates.rs.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::time::{Duration, Instant};

use common::{CLIENT, Key, PATIENCE, VAULT, World, make, tags};
use keyvault_emulator::{Effect, Fault, Operation, Permissions, State};
use reqwest::Method;
use serde_json::{Value, json};

/// Status, code and inner code.
type Told = (u16, &'static str, &'static str);

const OK: Told = (200, "", "");
const GONE: Told = (404, "CertificateNotFound", "");
const GOING: Told = (409, "Conflict", "ObjectIsBeingDeleted");
const COMING: Told = (409, "Conflict", "ObjectIsBeingRecovered");
const DELETED: Told = (409, "Conflict", "ObjectIsDeletedButRecoverable");
const FORBIDDEN: Told = (403, "Forbidden", "ForbiddenByRbac");

/// A certificate with one version in that state, whatever was there before; reading a file is slow, so only if it must be.
fn renew(world: &World, name: &str, pfx: &[u8], state: State) {
    if world.emulator.certificate(VAULT, name).is_none_or(|there| there.versions.len() != 1) {
        world.emulator.purge(VAULT, name);
        world.put(name, pfx);
    }
    assert!(world.emulator.set_state(VAULT, name, state));
}

#[tokio::test]
async fn every_state_answers_every_operation_as_the_service_does() {
    use State::{BeingDeleted, BeingRecovered, Normal, PendingOperation, SoftDeleted};
    let world = World::start().await;
    let made = make("web", Key::P256, Key::P256, false);
    let pfx = made.pfx();
    let states = [Normal, PendingOperation, BeingDeleted, SoftDeleted, BeingRecovered];
    let pending: Told = (409, "Forbidden", "");
    let no_secret = (404, "SecretNotFound", "");
    let purged = (204, "", "");
    let patch = json!({"tags": {"a": "b"}});
    let rows = [
        (Method::GET, "certificates", "", None, [OK, OK, GONE, GONE, GONE]),
        (Method::GET, "certificates", "/versions", None, [OK, OK, GONE, GONE, GONE]),
        (Method::GET, "certificates", "/policy", None, [OK, OK, GONE, GONE, GONE]),
        (Method::GET, "secrets", "", None, [OK, OK, no_secret, no_secret, no_secret]),
        (Method::GET, "deletedcertificates", "", None, [GONE, GONE, GONE, OK, GONE]),
        (Method::POST, "certificates", "/import", Some(made.body()), [OK, pending, GOING, DELETED, COMING]),
        (Method::PATCH, "certificates", "", Some(patch), [OK, OK, GOING, GONE, COMING]),
        (Method::PATCH, "certificates", "/policy", Some(json!({})), [OK, OK, GOING, GONE, COMING]),
        (Method::DELETE, "certificates", "", None, [OK, OK, GOING, GONE, COMING]),
        (Method::POST, "deletedcertificates", "/recover", None, [GONE, GONE, GOING, OK, COMING]),
        (Method::DELETE, "deletedcertificates", "", None, [GONE, GONE, GOING, purged, COMING]),
    ];
    for (method, kind, rest, body, answers) in rows {
        for (state, expected) in states.into_iter().zip(answers) {
            renew(&world, "web", &pfx, state);
            let answer = world.call(method.clone(), &format!("{kind}/web{rest}"), body.clone()).await;
            assert_eq!(answer.refusal(), expected, "{method} {kind}{rest} while {state:?}: {}", answer.body);
            if answer.status.is_client_error() {
                assert_eq!(world.emulator.certificate(VAULT, "web").unwrap().state, state, "{method} {kind}");
            }
        }
    }
}

#[tokio::test]
async fn a_deletion_and_a_recovery_last_until_they_are_finished() {
    let world = World::start().await;
    let pfx = make("web", Key::P256, Key::P256, false).pfx();
    // However it is told, the time is not over while this test runs.
    let lasting: [fn(&World); 3] = [
        |world| {
            world.emulator.hold_deletions(VAULT);
            world.emulator.hold_recoveries(VAULT);
        },
        |world| {
            world.emulator.set_deletion_time(VAULT, 1000 * PATIENCE);
            world.emulator.set_recovery_time(VAULT, 1000 * PATIENCE);
        },
        |world| {
            world.emulator.set_deletion_time(VAULT, Duration::MAX);
            world.emulator.set_recovery_time(VAULT, Duration::MAX);
        },
    ];
    for last in lasting {
        last(&world);
        let version = world.put("web", &pfx);
        let state = || world.emulator.certificate(VAULT, "web").unwrap().state;
        let deleted = world.call(Method::DELETE, "certificates/web", None).await.ok();
        assert_eq!(deleted["recoveryId"], format!("https://{VAULT}/deletedcertificates/web"));
        assert!(deleted["scheduledPurgeDate"].as_i64() > deleted["deletedDate"].as_i64());
        assert_eq!(state(), State::BeingDeleted);
        assert_eq!(world.get("deletedcertificates/web").await.refusal(), GONE);
        assert!(world.pages("deletedcertificates").await[0].is_empty());
        assert!(world.pages("certificates").await[0].is_empty());
        assert!(!world.emulator.finish_recovery(VAULT, "web"));
        assert!(
            world.emulator.finish_deletion(VAULT, "WEB") && !world.emulator.finish_deletion(VAULT, "web")
        );
        assert_eq!(state(), State::SoftDeleted);
        assert_eq!(world.get("deletedcertificates/web").await.ok(), deleted);

        let recovered = world.call(Method::POST, "deletedcertificates/web/recover", None).await.ok();
        assert_eq!(recovered["id"], format!("https://{VAULT}/certificates/web/{version}"));
        assert!(recovered["recoveryId"].is_null());
        assert_eq!(state(), State::BeingRecovered);
        assert_eq!(world.get("certificates/web").await.refusal(), GONE);
        assert!(!world.emulator.finish_deletion(VAULT, "web"));
        assert!(
            world.emulator.finish_recovery(VAULT, "web") && !world.emulator.finish_recovery(VAULT, "web")
        );
        assert_eq!(state(), State::Normal);
        assert_eq!(world.get("certificates/web").await.ok(), recovered);
        world.emulator.purge(VAULT, "web");
    }
    assert!(!world.emulator.finish_deletion(VAULT, "none") && !world.emulator.finish_recovery(VAULT, "none"));
}

#[tokio::test]
async fn a_deletion_and_a_recovery_pass_by_themselves_when_their_time_is_over() {
    let world = World::start().await;
    world.put("web", &make("web", Key::P256, Key::P256, false).pfx());
    let time = Duration::from_millis(200);
    world.emulator.set_deletion_time(VAULT, time);
    world.emulator.set_recovery_time(VAULT, time);
    for (method, act, look) in [
        (Method::DELETE, "certificates/web", "deletedcertificates/web"),
        (Method::POST, "deletedcertificates/web/recover", "certificates/web"),
    ] {
        let began = Instant::now();
        world.call(method, act, None).await.ok();
        while world.get(look).await.status == 404 {
            assert!(began.elapsed() < PATIENCE, "{look} never came");
        }
        assert!(began.elapsed() >= time, "{look} came after {:?}", began.elapsed());
    }
}

#[tokio::test]
async fn a_deleted_certificate_shows_what_it_was_and_until_when_it_can_be_had_back() {
    let world = World::start().await;
    let pfx = make("web", Key::P256, Key::P256, false).pfx();
    world.put("Web", &pfx);
    world.emulator.set_tags(VAULT, "web", None, tags(&[("team", "web")]));
    let before = world.get("certificates/web").await.ok();
    world.call(Method::DELETE, "certificates/web", None).await.ok();
    let deleted = world.get("deletedcertificates/WEB").await.ok();
    for member in ["id", "kid", "sid", "x5t", "cer", "tags", "policy", "attributes"] {
        assert_eq!(deleted[member], before[member], "{member}");
    }
    assert_eq!(deleted["recoveryId"], format!("https://{VAULT}/deletedcertificates/Web"));
    let since = deleted["deletedDate"].as_i64().unwrap();
    assert!((common::unix_now() - since).abs() <= PATIENCE.as_secs() as i64);
    assert_eq!(deleted["scheduledPurgeDate"], since + 90 * 24 * 60 * 60);
}

#[tokio::test]
async fn the_deleted_are_listed_25_a_page_with_their_dates_and_without_content() {
    let world = World::start().await;
    let pfx = make("web", Key::P256, Key::P256, false).pfx();
    for number in 0..60 {
        world.put(&format!("web-{number:02}"), &pfx);
        assert!(world.emulator.soft_delete(VAULT, &format!("web-{number:02}")));
    }
    world.put("there", &pfx);
    for (path, sizes) in [
        ("deletedcertificates", vec![25, 25, 10]),
        ("deletedcertificates?maxresults=20", vec![20, 20, 20]),
        ("deletedcertificates?maxresults=7", vec![7, 7, 7, 7, 7, 7, 7, 7, 4]),
    ] {
        let pages = world.pages(path).await;
        assert_eq!(pages.iter().map(Vec::len).collect::<Vec<_>>(), sizes, "{path}");
        for (number, row) in pages.concat().iter().enumerate() {
            let id = |kind| format!("https://{VAULT}/{kind}/web-{number:02}");
            assert_eq!(
                (&row["id"], &row["recoveryId"]),
                (&json!(id("certificates")), &json!(id("deletedcertificates")))
            );
            assert!(row["deletedDate"].is_i64() && row["scheduledPurgeDate"].is_i64(), "{row}");
            assert!(
                row["x5t"].is_string() && row["attributes"].is_object() && row["tags"].is_object(),
                "{row}"
            );
            assert!(row["cer"].is_null() && row["policy"].is_null(), "{row}");
        }
    }
    assert_eq!(world.get("deletedcertificates?maxresults=26").await.refusal(), (400, "BadParameter", ""));
}

#[tokio::test]
async fn what_is_purged_is_gone_and_its_name_is_free() {
    let world = World::start().await;
    let made = make("web", Key::P256, Key::P256, false);
    let pfx = made.pfx();
    world.put("web", &pfx);
    world.call(Method::DELETE, "certificates/web", None).await.ok();
    let answer = world.call(Method::DELETE, "deletedcertificates/WEB", None).await;
    assert_eq!((answer.status.as_u16(), &answer.body), (204, &Value::Null));
    assert_eq!(answer.header("content-type"), "");
    assert!(world.emulator.certificate(VAULT, "web").is_none());
    for path in ["deletedcertificates/web", "certificates/web"] {
        assert_eq!(world.get(path).await.refusal(), GONE, "{path}");
    }
    world.import("web", made.body()).await.ok();
    let calls = world.emulator.calls(VAULT);
    let purge = calls.iter().find(|call| call.operation == Operation::Purge).unwrap();
    assert_eq!((purge.status, purge.committed, purge.name.as_deref()), (Some(204), true, Some("WEB")));
}

#[tokio::test]
async fn purge_protection_refuses_every_purge_and_is_told_with_every_object() {
    let world = World::start().await;
    world.put("web", &make("web", Key::P256, Key::P256, false).pfx());
    for (protected, level) in [(false, "Recoverable+Purgeable"), (true, "Recoverable")] {
        world.emulator.set_purge_protection(VAULT, protected);
        let check = |shown: &Value| {
            assert_eq!(shown["attributes"]["recoveryLevel"], level, "{shown}");
            assert_eq!(shown["attributes"]["recoverableDays"], 90, "{shown}");
        };
        for path in ["certificates/web", "secrets/web"] {
            check(&world.get(path).await.ok());
        }
        for path in ["certificates", "certificates/web/versions"] {
            check(&world.pages(path).await[0][0]);
        }
        check(&world.call(Method::DELETE, "certificates/web", None).await.ok());
        check(&world.get("deletedcertificates/web").await.ok());
        check(&world.pages("deletedcertificates").await[0][0]);
        if protected {
            let refused = world.call(Method::DELETE, "deletedcertificates/web", None).await;
            assert_eq!(refused.refusal(), (403, "Forbidden", ""));
            assert!(refused.body.to_string().contains("purge protection"), "{}", refused.body);
        }
        check(&world.call(Method::POST, "deletedcertificates/web/recover", None).await.ok());
    }
    // The hands of this emulator are not bound by it.
    assert!(world.emulator.purge(VAULT, "web"));
}

#[tokio::test]
async fn each_permission_is_needed_for_what_it_names_and_for_nothing_else() {
    let world = World::start().await;
    let made = make("web", Key::P256, Key::P256, false);
    let pfx = made.pfx();
    let all = Permissions::all();
    let rows: [(Permissions, &[&str]); 8] = [
        (Permissions { certificates_get: false, ..all }, &["get", "get policy", "get deleted"]),
        (Permissions { certificates_list: false, ..all }, &["list", "list versions", "list deleted"]),
        (Permissions { certificates_import: false, ..all }, &["import"]),
        (Permissions { certificates_update: false, ..all }, &["update", "update policy"]),
        (Permissions { certificates_delete: false, ..all }, &["delete"]),
        (Permissions { certificates_recover: false, ..all }, &["recover"]),
        (Permissions { certificates_purge: false, ..all }, &["purge"]),
        (Permissions::certificates_officer(), &["get secret"]),
    ];
    let deed = |what| -> (Method, &str, Option<Value>) {
        match what {
            "get" => (Method::GET, "certificates/web", None),
            "get policy" => (Method::GET, "certificates/web/policy", None),
            "get deleted" => (Method::GET, "deletedcertificates/gone", None),
            "list" => (Method::GET, "certificates", None),
            "list versions" => (Method::GET, "certificates/web/versions", None),
            "list deleted" => (Method::GET, "deletedcertificates", None),
            "import" => (Method::POST, "certificates/web/import", Some(made.body())),
            "update" => (Method::PATCH, "certificates/web", Some(json!({}))),
            "update policy" => (Method::PATCH, "certificates/web/policy", Some(json!({}))),
            "delete" => (Method::DELETE, "certificates/web", None),
            "recover" => (Method::POST, "deletedcertificates/gone/recover", None),
            "purge" => (Method::DELETE, "deletedcertificates/gone", None),
            _ => (Method::GET, "secrets/web", None),
        }
    };
    let everything: Vec<&str> = rows.iter().flat_map(|(_, denied)| denied.iter().copied()).collect();
    for (permissions, denied) in rows {
        world.emulator.allow(VAULT, CLIENT, permissions);
        for what in &everything {
            renew(&world, "web", &pfx, State::Normal);
            renew(&world, "gone", &pfx, State::SoftDeleted);
            let (method, path, body) = deed(*what);
            let answer = world.call(method, path, body).await;
            if denied.contains(what) {
                assert_eq!(answer.refusal(), FORBIDDEN, "{what} without its permission");
                assert_eq!(world.emulator.certificate(VAULT, "web").unwrap().versions.len(), 1);
                assert_eq!(world.emulator.certificate(VAULT, "gone").unwrap().state, State::SoftDeleted);
            } else {
                assert!(answer.status.is_success(), "{what}, while {denied:?} is denied: {}", answer.body);
            }
        }
    }
}

#[tokio::test]
async fn faults_hit_the_operations_of_soft_delete_by_their_names_and_the_journal_counts_them() {
    let world = World::start().await;
    let pfx = make("web", Key::P256, Key::P256, false).pfx();
    world.put("web", &pfx);
    world.emulator.soft_delete(VAULT, "web");
    world.put("there", &pfx);
    let rows = [
        (Operation::ListDeleted, Method::GET, "deletedcertificates", None),
        (Operation::UpdatePolicy, Method::PATCH, "certificates/there/policy", Some(json!({}))),
        (Operation::GetDeletedCertificate, Method::GET, "deletedcertificates/web", None),
        (Operation::Purge, Method::DELETE, "deletedcertificates/web", None),
    ];
    for (operation, method, path, body) in rows {
        world.emulator.inject(Fault::new(Effect::status(503, "Down")).operation(operation).times(1));
        assert_eq!(world.call(method.clone(), path, body.clone()).await.status, 503, "{operation}");
        world.emulator.inject(Fault::new(Effect::HugeBody { bytes: 10 }).operation(operation).times(1));
        assert!(world.call(method, path, body).await.status.is_success(), "{operation}");
        let count = world.emulator.calls(VAULT).iter().filter(|call| call.operation == operation).count();
        assert_eq!(count, 2, "{operation}");
        assert_eq!(operation.to_string().parse(), Ok(operation));
    }
}
