//! The main job: a Secret is in the vault as it ought to be, follows its renewals, and costs nothing while nothing changes.

use anyhow::{Context, ensure};
use k8s_openapi::api::core::v1::Namespace;
use keyvault_emulator::{Effect, Fault, Operation};
use keyvault_sync_api::CertificateState;
use keyvault_sync_e2e::Scene;
use keyvault_sync_e2e::certificates::{Authority, KeyType, Leaf};
use keyvault_sync_e2e::scene::{claim_ready, entries, imports, note, ready, row, thumbprint};
use keyvault_sync_e2e::wait;
use kube::Api;
use kube::api::{Patch, PatchParams};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::json;

keyvault_sync_e2e::promises!(Together:
    a_secret_is_in_the_vault_with_chain_tags_and_policy,
    what_the_vault_holds_is_told_in_status_claim_and_event,
    a_renewal_makes_exactly_one_version_announced_and_preceded_by_a_look,
    the_same_certificate_in_other_clothes_makes_no_version_and_no_call,
    an_opaque_secret_with_keys_of_its_own_is_pushed,
    a_changed_tag_is_a_tag_update_and_no_version,
    a_changed_exportable_is_a_new_version,
    suspended_nothing_is_written_and_afterwards_it_is,
    names_come_from_the_template_unless_the_entry_says_otherwise,
    a_listed_secret_is_waited_for_and_pushed_when_it_comes,
    what_was_deleted_or_overwritten_in_the_vault_is_repaired_when_asked_to_compare,
    a_certificate_disabled_in_the_vault_is_told_and_stays_disabled,
);

async fn a_secret_is_in_the_vault_with_chain_tags_and_policy(scene: Scene) -> anyhow::Result<()> {
    let kinds = [
        ("rsa", KeyType::Rsa2048, json!({"kty": "RSA", "key_size": 2048})),
        ("p256", KeyType::P256, json!({"kty": "EC", "crv": "P-256"})),
        ("p384", KeyType::P384, json!({"kty": "EC", "crv": "P-384"})),
    ];
    let root = Authority::root("Another Root")?;
    let issuer = root.intermediate("First")?.intermediate("Second")?;
    let mut chains = Vec::new();
    for (name, key_type, _) in &kinds {
        let issued = issuer.issue(&Leaf::server("www.example.com").key_type(*key_type))?;
        scene.stage().guard(&issued.key);
        // The root at the end and the intermediates reversed, as people paste them.
        let reversed: Vec<String> = issued.intermediates.iter().rev().cloned().collect();
        let pasted = format!("{}{}{}", reversed.concat(), issued.root, issued.certificate);
        scene.put_entries(name, &entries(&pasted, &issued.key, "")).await?;
        chains.push(ders(&issued.tls_crt())?);
    }
    let certificates: Vec<_> =
        kinds.iter().map(|(name, ..)| json!({"secretName": name, "tags": {"team": *name}})).collect();
    scene.sync("web", json!({"certificates": certificates, "tags": {"environment": "test"}})).await?;
    scene.synced("web", "3/3").await?;

    let cluster = Api::<Namespace>::all(scene.stage().client().clone()).get("kube-system").await?;
    let cluster_id = cluster.metadata.uid.context("kube-system has no uid")?;
    for ((name, _, key_props), chain) in kinds.iter().zip(&chains) {
        let versions = scene.versions(name);
        ensure!(versions.len() == 1, "{name}: {} versions", versions.len());
        let version = versions.first().context("no version")?;
        let lengths = (version.chain_der.len(), chain.len());
        ensure!(
            version.chain_der == *chain,
            "{name}: not leaf and two intermediates in order: {lengths:?} certificates"
        );
        ensure!(version.has_key && version.enabled && version.exportable, "{name}: {version:?}");

        let tag = |tag: &str| version.tags.get(tag).map(String::as_str).unwrap_or_default();
        ensure!(tag("managed-by") == "keyvault-sync", "{:?}", version.tags);
        let owner = format!("{cluster_id}/KeyVaultSync/{}/web", scene.name());
        ensure!(tag("keyvault-sync-owner") == owner, "{:?}", version.tags);
        ensure!(tag("keyvault-sync-source") == format!("{}/{name}", scene.name()), "{:?}", version.tags);
        ensure!(tag("keyvault-sync-fingerprint").starts_with("sha256:"), "{:?}", version.tags);
        ensure!(tag("environment") == "test" && tag("team") == *name, "{:?}", version.tags);
        ensure!(version.tags.len() == 6, "{:?}", version.tags);

        let policy = &version.policy;
        ensure!(policy["issuer"]["name"] == "Unknown", "{policy}");
        ensure!(policy["secret_props"]["contentType"] == "application/x-pkcs12", "{policy}");
        let renewals = policy["lifetime_actions"].as_array().map_or(0, Vec::len);
        ensure!(renewals == 0 || !policy["lifetime_actions"].to_string().contains("AutoRenew"), "{policy}");
        for (property, value) in key_props.as_object().context("no object")? {
            ensure!(policy["key_props"][property] == *value, "{name}: {property} in {policy}");
        }
    }
    Ok(())
}

/// The certificates of a PEM file.
fn ders(pem: &str) -> anyhow::Result<Vec<Vec<u8>>> {
    CertificateDer::pem_slice_iter(pem.as_bytes()).map(|der| Ok(der.context("no PEM")?.to_vec())).collect()
}

async fn what_the_vault_holds_is_told_in_status_claim_and_event(scene: Scene) -> anyhow::Result<()> {
    let issued = scene.renew("web-tls").await?;
    scene
        .sync("web", json!({"certificates": [{"secretName": "web-tls", "certificateName": "Web-Prod"}]}))
        .await?;
    let sync = scene.synced("web", "1/1").await?;
    let version = scene.versions("web-prod").first().context("no version")?.clone();

    let row = row(&sync, "web-tls").context("no row")?;
    ensure!(row.state == CertificateState::Synced && row.reason == "Synced", "{row:?}");
    ensure!(row.certificate_name.as_deref() == Some("Web-Prod"), "{row:?}");
    ensure!(row.secret_id == Some(format!("https://{}/secrets/Web-Prod", scene.host())), "{row:?}");
    ensure!(row.version.as_deref() == Some(version.version.as_str()), "{row:?}");
    ensure!(row.thumbprint == Some(thumbprint(&issued)?), "{row:?}");
    let status = sync.status.clone().context("no status")?;
    let not_after = row.not_after.as_ref().context("no notAfter")?.0.as_second();
    ensure!(not_after == version.not_after, "{row:?}");
    ensure!(status.next_expiry.as_ref().map(|time| time.0.as_second()) == Some(not_after), "{status:?}");
    ensure!(status.last_push_time.is_some(), "{status:?}");
    let ready = ready(&sync).context("no Ready")?;
    ensure!(ready.reason == "Synced" && ready.message.contains(&scene.host()), "{ready:?}");
    ensure!(status.conditions.iter().all(|one| one.type_ == "Ready" || one.status == "False"), "{status:?}");

    let claim = scene.claim("Web-Prod").await?;
    ensure!(
        claim_ready(&claim).is_some_and(|ready| ready.status == "True" && ready.reason == "Synced"),
        "{claim:?}"
    );
    ensure!(claim.status.as_ref().is_some_and(|status| status.in_flight.is_none()), "{claim:?}");
    ensure!(claim.metadata.finalizers.is_none() && claim.metadata.owner_references.is_none(), "{claim:?}");

    let event = scene.told("web", "Imported", &[&version.version, "Web-Prod", "web-tls"]).await?;
    ensure!(event.type_.as_deref() == Some("Normal"), "{event:?}");
    let related = event.related.as_ref().context("no related object")?;
    ensure!(related.kind.as_deref() == Some("KeyVaultCertificate"), "{related:?}");
    ensure!(related.name == Some(scene.claim_name("web-prod")), "{related:?}");

    for (kind, words) in [
        ("keyvaultsyncs", vec!["True", "Synced", scene.name(), "1/1"]),
        ("keyvaultcertificates", vec!["True", "Synced", "web-tls"]),
    ] {
        let output = scene.stage().cluster.kubectl(&["get", kind, "--namespace", scene.name()]).await?;
        let table = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(words.iter().all(|word| table.contains(word)), "{kind}:\n{table}");
    }
    let vaults = scene.key_vaults();
    wait::object(&vaults, scene.name(), "to be Ready", |vault| {
        vault.status.as_ref().is_some_and(|status| status.conditions.iter().any(|one| one.status == "True"))
    })
    .await?;
    Ok(())
}

async fn a_renewal_makes_exactly_one_version_announced_and_preceded_by_a_look(
    scene: Scene,
) -> anyhow::Result<()> {
    scene.renew("web-tls").await?;
    scene.sync_of("web", &["web-tls"]).await?;
    scene.synced("web", "1/1").await?;
    ensure!(scene.versions("web-tls").len() == 1, "{:?}", scene.calls());

    for number in 2..=4 {
        let before = scene.calls_about("web-tls").len();
        let held = scene.fault("web-tls", Fault::new(Effect::Hang).operation(Operation::Import));
        let issued = scene.renew("web-tls").await?;
        scene
            .called("the import of the renewed certificate", |call| {
                call.operation == Operation::Import && call.status.is_none() && call.ended_us.is_none()
            })
            .await?;
        let claim = scene.claim("web-tls").await?;
        let in_flight = claim.status.as_ref().and_then(|status| status.in_flight.clone());
        ensure!(
            in_flight.is_some_and(|in_flight| in_flight.fingerprint.is_some()),
            "not announced: {claim:?}"
        );
        scene.emulator().clear_fault(held);
        scene.holds("web", "web-tls", &issued).await?;
        ensure!(
            scene.versions("web-tls").len() == number,
            "{} versions, not {number}",
            scene.versions("web-tls").len()
        );

        let calls = scene.calls_about("web-tls").split_off(before);
        let operations: Vec<Operation> = calls.iter().map(|call| call.operation).collect();
        ensure!(operations == [Operation::GetCertificate, Operation::Import], "{operations:?}");
        let claim = scene.claim("web-tls").await?;
        ensure!(
            claim.status.as_ref().is_some_and(|status| status.in_flight.is_none()),
            "no receipt: {claim:?}"
        );
    }
    let told = scene.events("web", "Imported", "web-tls").await?;
    ensure!(told.len() == 4, "{} Events, not 4: {:?}", told.len(), told.iter().map(note).collect::<Vec<_>>());
    Ok(())
}

async fn the_same_certificate_in_other_clothes_makes_no_version_and_no_call(
    scene: Scene,
) -> anyhow::Result<()> {
    let issued = scene.renew("web-tls").await?;
    scene.renew("canary").await?;
    scene.sync_of("web", &["web-tls", "canary"]).await?;
    scene.synced("web", "2/2").await?;
    let before = scene.calls_about("web-tls").len();

    let reversed: Vec<String> = issued.intermediates.iter().rev().cloned().collect();
    let crlf = |text: &str| text.replace('\n', "\r\n");
    for clothes in [
        entries(&format!("{}{}", reversed.concat(), issued.certificate), &issued.key, &issued.root),
        entries(&crlf(&issued.tls_crt()), &crlf(&issued.key), &issued.root),
        entries(&format!("Bag Attributes\n  friendlyName: web\n{}", issued.tls_crt()), &issued.key, ""),
        entries(&format!("{}{}", issued.tls_crt(), issued.intermediates.concat()), &issued.key, ""),
    ] {
        scene.put_entries("web-tls", &clothes).await?;
        seen_by_claim(&scene, "web-tls").await?;
    }
    let annotated = json!({"metadata": {"annotations": {"example.com/note": "seen"}, "labels": {"a": "b"}}});
    scene.secrets().patch("web-tls", &PatchParams::default(), &Patch::Merge(&annotated)).await?;
    seen_by_claim(&scene, "web-tls").await?;

    // Whatever the operator had to do about it, it did before this.
    let renewed = scene.renew("canary").await?;
    scene.holds("web", "canary", &renewed).await?;
    ensure!(scene.calls_about("web-tls").len() == before, "{:?}", scene.calls_about("web-tls"));
    ensure!(scene.versions("web-tls").len() == 1);
    let told = scene.events("web", "Imported", "web-tls").await?;
    ensure!(told.len() == 1, "{told:?}");
    Ok(())
}

/// Waits until the claim has looked at the Secret as it is now.
async fn seen_by_claim(scene: &Scene, secret: &str) -> anyhow::Result<()> {
    let version = scene.secrets().get(secret).await?.metadata.resource_version;
    wait::object(&scene.claims(), &scene.claim_name(secret), "to have looked at the Secret", |claim| {
        claim
            .status
            .as_ref()
            .is_some_and(|status| status.sources.iter().any(|seen| seen.resource_version == version))
    })
    .await
    .map(drop)
}

async fn an_opaque_secret_with_keys_of_its_own_is_pushed(scene: Scene) -> anyhow::Result<()> {
    let issued = scene.issue(&Leaf::server("store.example.com"))?;
    let data =
        [("chain.pem".to_owned(), issued.tls_crt()), ("key.pem".to_owned(), issued.key.clone())].into();
    scene.put_entries("keystore", &data).await?;
    let keys = json!({"certificate": "chain.pem", "privateKey": "key.pem"});
    scene.sync("web", json!({"certificates": [{"secretName": "keystore", "keys": keys}]})).await?;
    scene.holds("web", "keystore", &issued).await?;
    Ok(())
}

async fn a_changed_tag_is_a_tag_update_and_no_version(scene: Scene) -> anyhow::Result<()> {
    scene.renew("web-tls").await?;
    let entry = |team: &str| json!({"certificates": [{"secretName": "web-tls", "tags": {"team": team}}]});
    scene.sync("web", entry("one")).await?;
    scene.synced("web", "1/1").await?;
    scene.sync("web", entry("two")).await?;
    scene.told("web", "Retagged", &["team"]).await?;
    scene.synced("web", "1/1").await?;
    let versions = scene.versions("web-tls");
    ensure!(versions.len() == 1, "{} versions", versions.len());
    ensure!(
        versions.iter().all(|version| version.tags.get("team").is_some_and(|team| team == "two")),
        "{versions:?}"
    );
    ensure!(imports(&scene.calls()) == 1, "{:?}", scene.calls());

    // Tags that somebody else set go, and the Event says which.
    let mut tags = versions.first().context("no version")?.tags.clone();
    tags.insert("stranger".into(), "x".into());
    scene.emulator().set_tags(&scene.host(), "web-tls", None, tags);
    scene.sync_now("web", "now").await?;
    scene.told("web", "Retagged", &["stranger"]).await?;
    ensure!(scene.versions("web-tls").iter().all(|version| !version.tags.contains_key("stranger")));
    Ok(())
}

async fn a_changed_exportable_is_a_new_version(scene: Scene) -> anyhow::Result<()> {
    scene.renew("web-tls").await?;
    let wish =
        |exportable: bool| json!({"certificates": [{"secretName": "web-tls"}], "exportable": exportable});
    scene.sync("web", wish(true)).await?;
    scene.synced("web", "1/1").await?;
    scene.sync("web", wish(false)).await?;
    scene.told("web", "Imported", &["exportable"]).await?;
    scene.synced("web", "1/1").await?;
    let exportable: Vec<bool> = scene.versions("web-tls").iter().map(|version| version.exportable).collect();
    ensure!(exportable == [true, false], "{exportable:?}");
    Ok(())
}

async fn suspended_nothing_is_written_and_afterwards_it_is(scene: Scene) -> anyhow::Result<()> {
    scene.renew("web-tls").await?;
    scene.renew("canary").await?;
    scene.sync_of("canary", &["canary"]).await?;
    let wish = |suspend: bool| json!({"certificates": [{"secretName": "web-tls"}], "suspend": suspend});
    scene.sync("web", wish(true)).await?;
    scene.row("web", "web-tls", "Suspended").await?;
    scene.renew("web-tls").await?;
    let canary = scene.renew("canary").await?;
    scene.holds("canary", "canary", &canary).await?;
    ensure!(scene.calls_about("web-tls").is_empty(), "{:?}", scene.calls_about("web-tls"));

    let newest = scene.renew("web-tls").await?;
    scene.sync("web", wish(false)).await?;
    scene.holds("web", "web-tls", &newest).await?;
    ensure!(scene.versions("web-tls").len() == 1);
    Ok(())
}

async fn names_come_from_the_template_unless_the_entry_says_otherwise(scene: Scene) -> anyhow::Result<()> {
    for secret in ["web.example.com", "named", "labelled"] {
        scene.renew(secret).await?;
    }
    let entry = |secret: &str| json!({"secretName": secret});
    scene
        .sync(
            "web",
            json!({
                "certificateNameTemplate": "{namespace}--{sync}-{secret}",
                "certificates": [entry("web.example.com"), {"secretName": "named", "certificateName": "Explicit"}],
            }),
        )
        .await?;
    scene.synced("web", "2/2").await?;
    let derived = format!("{}--web-web-example-com", scene.name());
    for name in [derived.as_str(), "Explicit"] {
        ensure!(
            scene.versions(name).len() == 1,
            "no {name}: {:?}",
            scene.emulator().certificate_names(&scene.host())
        );
    }

    scene
        .sync("labels", json!({"certificateNameTemplate": "{label:app}-{annotation:example.com/tier}", "certificates": [entry("labelled")]}))
        .await?;
    let row = scene.row("labels", "labelled", "InvalidName").await?;
    ensure!(row.message.as_deref().is_some_and(|message| message.contains("app")), "{row:?}");
    let marks =
        json!({"metadata": {"labels": {"app": "shop"}, "annotations": {"example.com/tier": "front"}}});
    scene.secrets().patch("labelled", &PatchParams::default(), &Patch::Merge(&marks)).await?;
    scene.synced("labels", "1/1").await?;
    ensure!(
        scene.versions("shop-front").len() == 1,
        "{:?}",
        scene.emulator().certificate_names(&scene.host())
    );
    Ok(())
}

async fn a_listed_secret_is_waited_for_and_pushed_when_it_comes(scene: Scene) -> anyhow::Result<()> {
    scene.sync_of("web", &["web-tls"]).await?;
    let row = scene.row("web", "web-tls", "SecretNotFound").await?;
    ensure!(row.state == CertificateState::Pending, "{row:?}");
    ensure!(row.message.as_deref().is_some_and(|message| message.contains("web-tls")), "{row:?}");
    // It has its name all the same.
    scene.claim("web-tls").await?;
    ensure!(scene.calls().is_empty(), "{:?}", scene.calls());

    // First empty, as cert-manager makes it with some issuers, then issued.
    scene.put_entries("web-tls", &entries("", "", "")).await?;
    let row = scene.row("web", "web-tls", "SecretIncomplete").await?;
    ensure!(row.state == CertificateState::Pending, "{row:?}");
    let issued = scene.renew("web-tls").await?;
    scene.holds("web", "web-tls", &issued).await?;
    ensure!(scene.versions("web-tls").len() == 1);

    // Gone again: nothing happens in the vault.
    let calls = scene.calls().len();
    scene.delete(&scene.secrets(), "web-tls").await?;
    scene.row("web", "web-tls", "SecretNotFound").await?;
    scene.put_issued("web-tls", &issued).await?;
    scene.holds("web", "web-tls", &issued).await?;
    ensure!(scene.versions("web-tls").len() == 1, "a Secret that came back made a version");
    ensure!(imports(&scene.calls().split_off(calls)) == 0);
    Ok(())
}

async fn what_was_deleted_or_overwritten_in_the_vault_is_repaired_when_asked_to_compare(
    scene: Scene,
) -> anyhow::Result<()> {
    let issued = scene.renew("web-tls").await?;
    scene.sync_of("web", &["web-tls"]).await?;
    scene.synced("web", "1/1").await?;

    scene.emulator().purge(&scene.host(), "web-tls");
    scene.sync_now("web", "first").await?;
    scene.told("web", "Imported", &["deleted and purged in the vault"]).await?;
    scene.holds("web", "web-tls", &issued).await?;
    ensure!(scene.versions("web-tls").len() == 1);
    Ok(())
}

async fn a_certificate_disabled_in_the_vault_is_told_and_stays_disabled(scene: Scene) -> anyhow::Result<()> {
    scene.renew("web-tls").await?;
    scene.sync_of("web", &["web-tls"]).await?;
    scene.synced("web", "1/1").await?;
    scene.emulator().set_enabled(&scene.host(), "web-tls", None, false);
    scene.sync_now("web", "now").await?;
    let row = scene.row("web", "web-tls", "DisabledInVault").await?;
    ensure!(row.state == CertificateState::Failed, "{row:?}");
    ensure!(scene.versions("web-tls").iter().all(|version| !version.enabled), "it was enabled again");
    scene.told("web", "DisabledInVault", &["disabled"]).await?;

    let renewed = scene.renew("web-tls").await?;
    scene.holds("web", "web-tls", &renewed).await?;
    let enabled: Vec<bool> = scene.versions("web-tls").iter().map(|version| version.enabled).collect();
    ensure!(enabled == [false, true], "{enabled:?}");
    Ok(())
}
