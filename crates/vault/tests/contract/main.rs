//! The adapter against the emulator, over HTTPS and with real tokens, and against a server that lies.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test's way to fail")]

mod adoption;
mod attacks;
mod failures;
mod gate;
mod identities;
mod liar;
mod lies;
mod listing;
mod managed_identity;
mod proofs;
mod soft_delete;
mod world;

use std::sync::Arc;

use keyvault_emulator::{Operation, Permissions};
use keyvault_sync_core::key::{Curve, KeyType};
use keyvault_sync_core::names::Cloud;
use keyvault_sync_core::reason::Reason;
use keyvault_sync_vault::{Import, Landed, Transport, TransportSettings, VaultClient};
use serde_json::json;

use gate::Gate;
use proofs::Wallet;
use world::{CLIENT, TENANT, VAULT, VAULTS, World, bundle, chain, host, identity, import, name, tags};

#[tokio::test]
async fn an_import_is_read_back_as_it_was_made_under_a_policy_that_never_renews() {
    let world = World::start().await;
    for (text, algorithm, key_type, key_properties) in [
        (
            "rsa",
            &rcgen::PKCS_RSA_SHA256,
            KeyType::Rsa { bits: 2048 },
            json!({"kty": "RSA", "key_size": 2048, "reuse_key": false, "exportable": false}),
        ),
        (
            "p256",
            &rcgen::PKCS_ECDSA_P256_SHA256,
            KeyType::Ec(Curve::P256),
            json!({"kty": "EC", "crv": "P-256", "reuse_key": false, "exportable": false}),
        ),
        (
            "p384",
            &rcgen::PKCS_ECDSA_P384_SHA384,
            KeyType::Ec(Curve::P384),
            json!({"kty": "EC", "crv": "P-384", "reuse_key": false, "exportable": false}),
        ),
        (
            "p521",
            &rcgen::PKCS_ECDSA_P521_SHA512,
            KeyType::Ec(Curve::P521),
            json!({"kty": "EC", "crv": "P-521", "reuse_key": false, "exportable": false}),
        ),
    ] {
        let chain = chain(algorithm);
        assert_eq!(chain.key_type(), key_type);
        let tags = tags(&[("team", "web"), ("umlaut", "größe")]);
        let wanted = Import { pfx: &bundle(&chain), key_type, exportable: false, tags: &tags };
        let made = world.client.import(&name(text), &wanted).await.unwrap();
        assert_eq!(made.thumbprint, chain.thumbprint(), "{text}");
        assert_eq!(made.not_after, Some(chain.not_after()), "{text}");
        assert_eq!((made.enabled, made.exportable, &made.tags), (true, Some(false), &tags), "{text}");
        assert_eq!(world.client.newest(&name(text)).await.unwrap(), Some(made.clone()), "{text}");
        assert_eq!(
            world.client.version(&name(text), &made.version).await.unwrap().unwrap().version,
            made.version
        );

        let stored = world.emulator.certificate(VAULT, text).unwrap();
        let [version] = stored.versions.as_slice() else { panic!("{} versions", stored.versions.len()) };
        let sent: Vec<_> = chain.certificates().map(<[u8]>::to_vec).collect();
        assert_eq!(version.chain_der, sent, "{text}: leaf first, complete");
        assert_eq!(version.policy["issuer"]["name"], "Unknown", "{text}");
        assert_eq!(version.policy["secret_props"]["contentType"], "application/x-pkcs12", "{text}");
        assert_eq!(version.policy["lifetime_actions"], json!([]), "{text}");
        assert!(version.enabled && !version.exportable && version.has_key, "{text}");
        assert_eq!(version.tags, tags, "{text}");
        for (key, value) in key_properties.as_object().unwrap() {
            assert_eq!(&version.policy["key_props"][key], value, "{text}: {key}");
        }
    }
}

#[tokio::test]
async fn a_version_may_have_another_key_type_than_the_one_before() {
    let world = World::start().await;
    let rows = [
        (&rcgen::PKCS_RSA_SHA256, true, json!({"kty": "RSA", "key_size": 2048})),
        (&rcgen::PKCS_ECDSA_P384_SHA384, false, json!({"kty": "EC", "crv": "P-384"})),
        (&rcgen::PKCS_RSA_SHA256, true, json!({"kty": "RSA", "key_size": 2048, "crv": null})),
    ];
    let mut made = Vec::new();
    for (algorithm, exportable, key_properties) in &rows {
        let chain = chain(algorithm);
        let (pfx, key_type, exportable) = (bundle(&chain), chain.key_type(), *exportable);
        let wanted = Import { pfx: &pfx, key_type, exportable, tags: &tags(&[]) };
        let facts = world.client.import(&name("web"), &wanted).await.unwrap();
        assert_eq!((facts.thumbprint, facts.exportable), (chain.thumbprint(), Some(exportable)));
        assert_eq!(world.client.newest(&name("web")).await.unwrap().as_ref(), Some(&facts));
        let policy = world.emulator.certificate(VAULT, "web").unwrap().policy;
        for (key, value) in key_properties.as_object().unwrap() {
            assert_eq!(&policy["key_props"][key], value, "{key}");
        }
        made.push(facts.version);
    }
    let stored = world.emulator.certificate(VAULT, "web").unwrap().versions;
    assert_eq!(stored.into_iter().map(|version| version.version).collect::<Vec<_>>(), made);
}

#[tokio::test]
async fn whether_a_key_may_leave_is_what_the_policy_in_force_says() {
    let world = World::start().await;
    let chain = chain(&rcgen::PKCS_ECDSA_P256_SHA256);
    let (pfx, tags) = (bundle(&chain), tags(&[]));
    let mut versions = Vec::new();
    for exportable in [true, false] {
        let wanted = Import { pfx: &pfx, key_type: chain.key_type(), exportable, tags: &tags };
        versions.push(world.client.import(&name("web"), &wanted).await.unwrap().version);
    }
    for version in &versions {
        let facts = world.client.version(&name("web"), version).await.unwrap().unwrap();
        assert_eq!(facts.exportable, Some(false));
    }
}

#[tokio::test]
async fn what_is_not_there_is_none_and_no_error() {
    let world = World::start().await;
    assert_eq!(world.client.newest(&name("absent")).await.unwrap(), None);
    let made = import(&world.client, "present").await.unwrap();
    assert_eq!(
        world.client.version(&name("present"), "0123456789abcdef0123456789abcdef").await.unwrap(),
        None
    );
    assert_eq!(world.client.version(&name("absent"), &made.version).await.unwrap(), None);
    assert_eq!(world.client.newest(&name("PRESENT")).await.unwrap().unwrap().version, made.version);
}

#[tokio::test]
async fn tags_are_set_on_the_version_there_is_and_a_disabled_one_stays_disabled() {
    let world = World::start().await;
    let first = import(&world.client, "web").await.unwrap();
    let second = import(&world.client, "web").await.unwrap();
    assert_ne!(first.version, second.version);
    assert!(world.emulator.set_enabled(VAULT, "web", None, false));

    let wanted = tags(&[("owner", "us")]);
    let retagged = world.client.set_tags(&name("web"), &second.version, &wanted).await.unwrap();
    assert_eq!((&retagged.version, &retagged.tags, retagged.enabled), (&second.version, &wanted, false));
    let stored = world.emulator.certificate(VAULT, "web").unwrap();
    let seen: Vec<_> =
        stored.versions.iter().map(|version| (version.tags.clone(), version.enabled)).collect();
    assert_eq!(
        seen,
        [(tags(&[("team", "web")]), true), (wanted, false)],
        "no new version, the older one untouched"
    );
}

#[tokio::test]
async fn every_call_is_one_request_with_the_token_and_the_challenge_there_are() {
    let world = World::start().await;
    world.warm().await;
    let (client, web, tags) = (&world.client, name("web"), tags(&[]));
    let before = world.emulator.journal().len();
    let made = import(client, "web").await.unwrap();
    client.newest(&web).await.unwrap();
    client.version(&web, &made.version).await.unwrap();
    client.set_tags(&web, &made.version, &tags).await.unwrap();
    client.adopt(&web, &made.version, &tags).await.unwrap();
    client.list(1).await.unwrap();
    client.delete(&web).await.unwrap();
    client.deleted(&web).await.unwrap();
    client.recover(&web).await.unwrap();
    let calls = world.emulator.journal().split_off(before);
    let seen: Vec<_> = calls.iter().map(|call| (call.operation, call.status)).collect();
    let expected = [
        Operation::Import,
        Operation::GetCertificate,
        Operation::GetCertificate,
        Operation::UpdateCertificate,
        Operation::UpdateCertificate,
        Operation::ListCertificates,
        Operation::DeleteCertificate,
        Operation::GetDeletedCertificate,
        Operation::RecoverCertificate,
    ];
    assert_eq!(seen, expected.map(|operation| (operation, Some(200))));
}

#[tokio::test]
async fn many_calls_at_once_to_many_vaults_share_one_token_of_the_one_audience() {
    let world = World::start().await;
    let other = "fabrikam.vault.azure.net";
    world.emulator.add_vault(other, TENANT);
    world.emulator.allow(other, CLIENT, Permissions::certificates_officer());
    let second = world.client(other, TENANT, CLIENT);
    let names: Vec<_> = (0..12).map(|number| name(&format!("web-{number}"))).collect();
    let calls = names.iter().flat_map(|name| [world.client.newest(name), second.newest(name)]);
    for outcome in futures::future::join_all(calls).await {
        assert_eq!(outcome.unwrap(), None);
    }
    let tokens = world.calls(Operation::Token);
    let scopes: Vec<_> = tokens.iter().map(|call| call.scope.as_deref().unwrap()).collect();
    assert_eq!(scopes, ["https://vault.azure.net/.default"]);
}

#[tokio::test]
async fn each_cloud_has_its_own_authority_and_audience() {
    for (vault, cloud) in VAULTS {
        let world = World::start().await;
        world.emulator.add_vault(vault, TENANT);
        world.emulator.allow(vault, CLIENT, Permissions::certificates_officer());
        assert_eq!(world.client(vault, TENANT, CLIENT).newest(&name("web")).await.unwrap(), None);
        let tokens = world.calls(Operation::Token);
        let asked: Vec<_> =
            tokens.iter().map(|call| (call.host.as_str(), call.scope.as_deref().unwrap())).collect();
        assert_eq!(asked, [(cloud.authority_host(), cloud.vault_scope())]);
    }
}

#[tokio::test]
async fn a_vault_of_a_cloud_that_is_not_allowed_is_refused_before_any_call() {
    let world = World::start().await;
    let settings = TransportSettings { allowed_clouds: vec![Cloud::China], ..TransportSettings::default() };
    let transport =
        Transport::new(&settings, Arc::new(Wallet::default()), Arc::new(Gate::default())).unwrap();
    let identity = identity(TENANT, CLIENT, &world.token_file);
    let error = VaultClient::new(host(VAULT), &identity, &transport).err().unwrap();
    assert_eq!((error.problem.reason, error.landed), (Reason::VaultNotFound, Landed::No));
}
