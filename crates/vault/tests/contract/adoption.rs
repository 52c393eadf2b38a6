//! Taking over a certificate that somebody else put into the vault: tags and renewal, and nothing else.

use keyvault_emulator::Put;
use keyvault_sync_core::names::CertificateName;
use keyvault_sync_core::reason::Reason;
use keyvault_sync_vault::Landed;
use serde_json::json;

use crate::world::{VAULT, World, bundle, chain, name, tags};

/// A certificate that Key Vault renews by itself, imported by hand; its version.
fn put(world: &World, name: &CertificateName) -> String {
    let chain = chain(&rcgen::PKCS_ECDSA_P256_SHA256);
    let pfx = bundle(&chain);
    let password = String::from_utf8(pfx.password.expose().to_vec()).unwrap();
    let policy = json!({
        "issuer": {"name": "DigiCert", "cty": "OV-SSL"},
        "lifetime_actions": [{"trigger": {"lifetime_percentage": 80}, "action": {"action_type": "AutoRenew"}}],
        "x509_props": {"subject": "CN=web.example.test", "validity_months": 12},
    });
    let put = Put { tags: tags(&[("team", "web")]), policy, exportable: true, ..Put::default() };
    world.emulator.put_certificate_with(VAULT, name.as_str(), pfx.bytes.expose(), &password, put)
}

#[tokio::test]
async fn adoption_sets_the_tags_of_one_version_and_ends_renewal_by_the_vault() {
    let world = World::start().await;
    let web = name("web");
    let older = put(&world, &web);
    let newest = put(&world, &web);
    assert!(world.emulator.set_enabled(VAULT, "web", Some(&newest), false));
    let before = world.emulator.certificate(VAULT, "web").unwrap();
    assert_eq!(before.policy["issuer"]["name"], "DigiCert");
    assert_ne!(before.policy["lifetime_actions"], json!([]));

    let ours = tags(&[("owner", "us"), ("team", "web")]);
    let adopted = world.client.adopt(&web, &newest, &ours).await.unwrap();
    assert_eq!((&adopted.version, &adopted.tags), (&newest, &ours));
    assert_eq!((adopted.enabled, adopted.exportable), (false, Some(true)));
    assert_eq!(world.client.newest(&web).await.unwrap(), Some(adopted));

    let after = world.emulator.certificate(VAULT, "web").unwrap();
    assert_eq!(after.policy["issuer"]["name"], "Unknown");
    assert_eq!(after.policy["lifetime_actions"], json!([]));
    for kept in ["key_props", "secret_props", "x509_props"] {
        assert_eq!(after.policy[kept], before.policy[kept], "{kept}");
    }
    let seen: Vec<_> = after.versions.iter().map(|version| (&version.version, &version.tags)).collect();
    assert_eq!(seen, [(&older, &tags(&[("team", "web")])), (&newest, &ours)], "no new version");
}

#[tokio::test]
async fn a_version_that_is_none_is_never_put_into_a_path() {
    let world = World::start().await;
    put(&world, &name("web"));
    world.warm().await;
    let before = world.emulator.journal().len();
    for version in ["", "../policy", "policy?x", "%2e", &"a".repeat(65)] {
        let error = world.client.adopt(&name("web"), version, &tags(&[])).await.unwrap_err();
        assert_eq!((error.problem.reason, error.landed), (Reason::InternalError, Landed::No), "{error}");
        assert!(error.to_string().starts_with("adopting certificate web in vault "), "{error}");
    }
    assert_eq!(world.emulator.journal().len(), before);
}
