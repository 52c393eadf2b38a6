//! What other people's hands leave in a vault, as callers of the REST surface see it: `Emulator`'s methods of hands.rs.
//! Leaves what callers themselves do to certificates.rs and soft_delete.rs.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use common::{Key, PASSWORD, VAULT, World, make, tags};
use keyvault_emulator::{Put, State};
use p12_keystore::Pkcs12Archive;
use reqwest::Method;
use serde_json::json;

#[tokio::test]
async fn a_file_put_by_hand_keeps_chain_key_and_what_was_said_of_it() {
    let world = World::start().await;
    let made = make("web", Key::P256, Key::P256, false);
    let mixed = make("web", Key::P256, Key::Rsa(2048), false);
    let policy = json!({"issuer": {"name": "Somebody"}, "key_props": {"reuse_key": true}});
    let rows = [
        ("as it comes", &made, Put::default(), [0, 2, 1], 1),
        ("its key stays", &made, Put { exportable: false, ..Put::default() }, [0, 2, 1], 0),
        ("in its order", &made, Put { keep_order: true, ..Put::default() }, [2, 0, 1], 1),
        ("under a policy", &made, Put { policy: policy.clone(), ..Put::default() }, [0, 2, 1], 1),
        ("tagged", &made, Put { tags: tags(&[("a", "b")]), ..Put::default() }, [0, 2, 1], 1),
        ("of two key types", &mixed, Put::default(), [0, 2, 1], 1),
    ];
    for (what, made, put, order, keys) in rows {
        let pfx = made.pfx_in_order(&[2, 0, 1]);
        let id = world.emulator.put_certificate_with(VAULT, "web", &pfx, PASSWORD, put.clone());
        let shown = world.get("certificates/web").await.ok();
        assert_eq!(shown["id"], format!("https://{VAULT}/certificates/web/{id}"), "{what}");
        assert_eq!(shown["tags"], json!(put.tags), "{what}");
        assert_eq!(shown["policy"]["key_props"]["exportable"], put.exportable, "{what}");
        assert_eq!(shown["policy"]["key_props"]["kty"], "EC", "{what}");
        let issuer = if put.policy.is_null() { "Unknown" } else { "Somebody" };
        assert_eq!(shown["policy"]["issuer"]["name"], issuer, "{what}");
        assert_eq!(shown["policy"]["key_props"]["reuse_key"], !put.policy.is_null(), "{what}");
        let stored = world.emulator.certificate(VAULT, "web").unwrap().versions.pop().unwrap();
        let chain: Vec<_> = order.iter().map(|place| made.chain[*place].clone()).collect();
        assert_eq!((stored.exportable, stored.chain_der), (put.exportable, chain), "{what}");
        let secret = world.get("secrets/web").await.ok();
        let der = STANDARD.decode(secret["value"].as_str().unwrap()).unwrap();
        let bundle = Pkcs12Archive::from_pkcs12(&der, "").unwrap();
        assert_eq!((bundle.keys.len(), bundle.certs.len()), (keys, 3), "{what}");
    }
}

#[tokio::test]
async fn a_copied_version_is_newer_with_the_same_content_and_its_own_tags() {
    let world = World::start().await;
    assert_eq!(world.emulator.copy_version(VAULT, "web", tags(&[])), None);
    let pfx = make("web", Key::P256, Key::P256, false).pfx();
    let first = world.emulator.put_certificate(VAULT, "web", &pfx, PASSWORD, tags(&[("a", "b")]));
    world.emulator.set_enabled(VAULT, "web", None, false);
    let copy = world.emulator.copy_version(VAULT, "WEB", tags(&[])).unwrap();
    assert_ne!(copy, first);
    let shown = world.get("certificates/web").await.ok();
    let original = world.get(&format!("certificates/web/{first}")).await.ok();
    assert_eq!(shown["id"], format!("https://{VAULT}/certificates/web/{copy}"));
    assert_eq!((&shown["x5t"], &shown["cer"]), (&original["x5t"], &original["cer"]));
    assert_eq!((&shown["tags"], &original["tags"]), (&json!({}), &json!({"a": "b"})));
    // A fresh import is enabled, whatever was done to the one before.
    assert_eq!(
        (&shown["attributes"]["enabled"], &original["attributes"]["enabled"]),
        (&json!(true), &json!(false))
    );
}

#[tokio::test]
async fn a_disabled_certificate_is_shown_and_its_secret_refused() {
    let world = World::start().await;
    world.put("web", &make("web", Key::P256, Key::P256, false).pfx());
    for enabled in [false, true] {
        assert!(world.emulator.set_enabled(VAULT, "web", None, enabled));
        assert_eq!(world.get("certificates/web").await.ok()["attributes"]["enabled"], enabled);
        assert_eq!(world.pages("certificates").await[0][0]["attributes"]["enabled"], enabled);
        let expected = if enabled { (200, "", "") } else { (403, "Forbidden", "SecretDisabled") };
        assert_eq!(world.get("secrets/web").await.refusal(), expected);
    }
}

#[tokio::test]
async fn somebody_deletes_and_recovers_as_slowly_as_everybody() {
    let world = World::start().await;
    let state = || world.emulator.certificate(VAULT, "web").unwrap().state;
    assert!(!world.emulator.soft_delete(VAULT, "web") && !world.emulator.recover(VAULT, "web"));
    world.put("web", &make("web", Key::P256, Key::P256, false).pfx());
    assert!(!world.emulator.recover(VAULT, "web"));
    assert!(world.emulator.soft_delete(VAULT, "WEB") && !world.emulator.soft_delete(VAULT, "web"));
    assert_eq!(state(), State::SoftDeleted);
    assert!(world.emulator.recover(VAULT, "WEB"));
    assert_eq!(state(), State::Normal);
    world.emulator.hold_deletions(VAULT);
    world.emulator.hold_recoveries(VAULT);
    assert!(world.emulator.soft_delete(VAULT, "web") && !world.emulator.recover(VAULT, "web"));
    assert_eq!(state(), State::BeingDeleted);
    assert!(world.emulator.finish_deletion(VAULT, "web") && world.emulator.recover(VAULT, "web"));
    assert_eq!(state(), State::BeingRecovered);
    assert!(!world.emulator.soft_delete(VAULT, "web"));
}

#[tokio::test]
async fn a_pending_operation_keeps_imports_out_and_changes_nothing_else() {
    let world = World::start().await;
    let made = make("web", Key::P256, Key::P256, false);
    let id = world.put("web", &made.pfx());
    assert!(world.emulator.begin_operation(VAULT, "WEB") && !world.emulator.begin_operation(VAULT, "web"));
    let refused = world.import("web", made.body()).await;
    assert_eq!(refused.refusal(), (409, "Forbidden", ""), "the code is Forbidden, though the status is 409");
    let shown = world.get("certificates/web").await.ok();
    assert_eq!(shown["id"], format!("https://{VAULT}/certificates/web/{id}"));
    assert_eq!(shown["pending"]["id"], format!("https://{VAULT}/certificates/web/pending"));
    assert!(shown["x5t"].is_string());
    assert_eq!(world.pages("certificates").await[0].len(), 1);
    assert!(world.emulator.finish_operation(VAULT, "web") && !world.emulator.finish_operation(VAULT, "web"));
    assert!(world.get("certificates/web").await.ok()["pending"].is_null());
    world.import("web", made.body()).await.ok();
}

#[tokio::test]
async fn a_name_with_nothing_but_a_pending_operation_has_no_content_and_no_row_unless_asked_for() {
    let world = World::start().await;
    let made = make("web", Key::P256, Key::P256, false);
    assert!(world.emulator.begin_operation(VAULT, "New"));
    let shown = world.get("certificates/new").await.ok();
    for member in ["x5t", "cer", "kid", "sid"] {
        assert!(shown[member].is_null(), "{member} in {shown}");
    }
    assert_eq!(shown["attributes"]["enabled"], false);
    assert_eq!(shown["pending"]["id"], format!("https://{VAULT}/certificates/New/pending"));
    let id = shown["id"].as_str().unwrap().rsplit('/').next().unwrap();
    assert_eq!(world.get(&format!("certificates/new/{id}")).await.ok(), shown);
    let stored = world.emulator.certificate(VAULT, "new").unwrap();
    assert_eq!((stored.state, stored.versions.len()), (State::PendingOperation, 0));
    assert_eq!(world.get("secrets/new").await.refusal(), (404, "SecretNotFound", ""));
    assert_eq!(world.import("new", made.body()).await.refusal(), (409, "Forbidden", ""));

    assert!(world.pages("certificates").await[0].is_empty());
    let row = &world.pages("certificates?includePending=true").await[0][0];
    assert_eq!(row["id"], format!("https://{VAULT}/certificates/New"));
    assert!(row["x5t"].is_null() && row["attributes"]["enabled"] == false, "{row}");

    world.call(Method::DELETE, "certificates/new", None).await.ok();
    assert!(world.pages("deletedcertificates").await[0].is_empty());
    let row = &world.pages("deletedcertificates?includePending=true").await[0][0];
    assert!(row["x5t"].is_null() && row["deletedDate"].is_i64(), "{row}");
    assert!(!world.emulator.begin_operation(VAULT, "new"));
    world.call(Method::POST, "deletedcertificates/new/recover", None).await.ok();
    assert_eq!(world.emulator.certificate(VAULT, "new").unwrap().state, State::PendingOperation);

    assert!(world.emulator.finish_operation(VAULT, "new"));
    assert!(world.emulator.certificate(VAULT, "new").is_none());
    world.import("new", made.body()).await.ok();
    world.emulator.put_plain_secret(VAULT, "plain");
    assert!(!world.emulator.begin_operation(VAULT, "plain"));
}
