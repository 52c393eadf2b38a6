//! What becomes of the vault when a wish, a Secret or a namespace goes: nothing is deleted because it could not be seen.
//! What stays by `Retain` is left to `claims`; what happens while the operator is down, to `deletion_restarts`.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, ensure};
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::api::events::v1::Event;
use keyvault_emulator::{Call, Effect, Fault, Operation, State};
use keyvault_sync_api::{Act, CertificateState, DeletionPolicy, KeyVaultCertificate, ReleaseWhy};
use keyvault_sync_e2e::Scene;
use keyvault_sync_e2e::scene::{host, imports, note, row, writes};
use keyvault_sync_e2e::wait::{self, PATIENCE, Seen};
use kube::Api;
use kube::api::DeleteParams;
use serde_json::{Value, json};

keyvault_sync_e2e::promises!(Together:
    an_entry_that_goes_takes_its_certificate_with_it_and_no_other,
    a_deletion_is_announced_in_the_claim_and_preceded_by_a_look,
    a_resource_that_goes_takes_its_certificates_with_it,
    a_secret_that_the_selector_no_longer_matches_takes_its_certificate_with_it,
    a_new_vault_has_the_certificate_before_the_old_one_loses_it,
    a_new_name_is_in_the_vault_before_the_old_one_is_deleted,
    a_namespace_that_goes_takes_its_certificates_with_it,
    a_vanished_secret_takes_its_certificate_with_it_only_after_the_grace_period,
    a_secret_that_came_back_in_time_keeps_its_certificate,
    the_last_policy_decides,
    what_is_not_ours_any_more_is_left_and_told,
    a_claim_that_an_heir_takes_over_is_not_deleted,
    a_resource_replaced_by_force_or_applied_again_makes_no_version,
    a_resource_replaced_by_force_is_not_deleted_in_the_vault,
    a_keyvault_made_anew_with_the_same_url_deletes_nothing,
    a_keyvault_made_anew_with_another_url_deletes_nothing_in_the_old_vault,
    what_cannot_be_resolved_releases_nothing,
    a_resource_that_goes_while_it_is_suspended_leaves_its_certificate_and_that_is_told,
    suspending_is_heard_by_a_claim_whose_entry_went_with_the_same_edit,
    retaining_is_heard_by_a_deletion_that_keeps_failing,
    what_a_resource_said_last_before_it_went_decides,
    a_vault_that_refuses_to_delete_is_asked_a_bounded_number_of_times_and_then_left,
    a_vault_that_throttles_is_asked_until_it_deletes,
    without_a_grant_no_more_nothing_is_called_and_the_certificate_is_left,
    an_entry_taken_back_while_the_deletion_is_on_the_wire_has_its_certificate_at_the_end,
    an_entry_taken_back_while_the_vault_deletes_has_its_certificate_at_the_end,
    a_deletion_that_ends_between_look_and_import_holds_nothing_up,
    fifty_secrets_go_with_their_namespace_while_the_vault_hangs_and_are_deleted_when_it_is_back,
);

/// The effort that tests give the operator for a deletion (`stage`), less the second that a stored time may lack.
const EFFORT: Duration = Duration::from_secs(19);

/// The specification of a resource that lists these Secrets, and whose certificates go with them.
fn deleting(secrets: &[&str]) -> Value {
    let certificates: Vec<Value> = secrets.iter().map(|secret| json!({"secretName": secret})).collect();
    json!({"certificates": certificates, "deletionPolicy": "Delete"})
}

/// The same with one Secret under another name.
fn named(secret: &str, certificate: &str) -> Value {
    let certificates = json!([{"secretName": secret, "certificateName": certificate}]);
    json!({"certificates": certificates, "deletionPolicy": "Delete"})
}

/// As `deleting`, but retaining.
fn retaining(secrets: &[&str]) -> Value {
    json!({"certificates": deleting(secrets)["certificates"]})
}

/// Secrets pushed by a KeyVaultSync `web` that deletes.
async fn pushed(scene: &Scene, secrets: &[&str]) -> anyhow::Result<()> {
    scene.renew_all(secrets).await?;
    scene.sync("web", deleting(secrets)).await?;
    scene.synced("web", &format!("{0}/{0}", secrets.len())).await?;
    Ok(())
}

fn is_deletion_under_way(call: &Call) -> bool {
    call.operation == Operation::DeleteCertificate && call.status.is_none() && call.ended_us.is_none()
}

async fn an_entry_that_goes_takes_its_certificate_with_it_and_no_other(scene: Scene) -> anyhow::Result<()> {
    pushed(&scene, &["first", "second"]).await?;
    scene.sync("web", deleting(&["second"])).await?;
    scene.deleted_once("first").await?;
    let event = scene.told("web", "Deleted", &["first", &scene.host()]).await?;
    ensure!(event.type_.as_deref() == Some("Normal"), "{event:?}");
    let related = event.related.as_ref().context("no related object")?;
    ensure!(related.kind.as_deref() == Some("KeyVaultCertificate"), "{related:?}");
    ensure!(related.name == Some(scene.claim_name("first")), "{related:?}");
    let sync = scene.synced("web", "1/1").await?;
    ensure!(row(&sync, "first").is_none(), "{sync:?}");
    scene.untouched("second")
}

async fn a_deletion_is_announced_in_the_claim_and_preceded_by_a_look(scene: Scene) -> anyhow::Result<()> {
    pushed(&scene, &["first", "second"]).await?;
    let before = scene.calls_about("first").len();
    let held = scene.fault("first", Fault::new(Effect::Hang).operation(Operation::DeleteCertificate));
    scene.sync("web", deleting(&["second"])).await?;
    scene.called("the deletion", is_deletion_under_way).await?;
    let claim = scene.claim("first").await?;
    let why = claim.spec.release.as_ref().map(|release| release.why);
    ensure!(why == Some(ReleaseWhy::EntryGone), "{claim:?}");
    let in_flight = claim.status.as_ref().and_then(|status| status.in_flight.as_ref());
    ensure!(in_flight.is_some_and(|in_flight| in_flight.act == Act::Delete), "not announced: {claim:?}");
    scene.emulator().clear_fault(held);
    scene.deleted_once("first").await?;
    let operations: Vec<Operation> =
        scene.calls_about("first").split_off(before).iter().map(|call| call.operation).collect();
    ensure!(
        operations == [Operation::GetCertificate, Operation::DeleteCertificate],
        "not a look and one deletion: {operations:?}"
    );
    Ok(())
}

async fn a_resource_that_goes_takes_its_certificates_with_it(scene: Scene) -> anyhow::Result<()> {
    pushed(&scene, &["first", "second"]).await?;
    scene.renew("other").await?;
    scene.sync("other", deleting(&["other"])).await?;
    scene.synced("other", "1/1").await?;
    scene.delete(&scene.syncs(), "web").await?;
    for certificate in ["first", "second"] {
        scene.deleted_once(certificate).await?;
        // There is no resource any more that could be told: the platform team is.
        let event = scene.told_of("KeyVault", scene.name(), "Deleted", &[certificate, &scene.host()]).await?;
        ensure!(event.type_.as_deref() == Some("Normal"), "{event:?}");
    }
    scene.untouched("other")
}

async fn a_secret_that_the_selector_no_longer_matches_takes_its_certificate_with_it(
    scene: Scene,
) -> anyhow::Result<()> {
    let secrets = ["first", "second", "third"];
    scene.renew_all(&secrets).await?;
    for secret in secrets {
        scene.mark(secret, json!({"sync": "true"}), json!({})).await?;
    }
    scene
        .sync("web", json!({"selector": {"matchLabels": {"sync": "true"}}, "deletionPolicy": "Delete"}))
        .await?;
    scene.synced("web", "3/3").await?;
    scene.mark("first", json!({"sync": null}), json!({})).await?;
    scene.deleted_once("first").await?;
    scene.told("web", "Deleted", &["first"]).await?;
    scene.synced("web", "2/2").await?;
    // A narrower selector is the same.
    let narrower = json!({"matchLabels": {"sync": "true"}, "excludeNames": ["sec*"]});
    scene.sync("web", json!({"selector": narrower, "deletionPolicy": "Delete"})).await?;
    scene.deleted_once("second").await?;
    scene.synced("web", "1/1").await?;
    scene.untouched("third")
}

async fn a_new_vault_has_the_certificate_before_the_old_one_loses_it(scene: Scene) -> anyhow::Result<()> {
    let other = format!("{}-x", scene.name());
    scene.make_vault(&other);
    let url = format!("https://{}", host(&other));
    scene.key_vault(&other, json!({"url": url, "grants": [scene.grant(&["*"])]})).await?;
    pushed(&scene, &["web-tls"]).await?;

    let held = Fault::new(Effect::Hang).host(&host(&other)).operation(Operation::Import);
    let held = scene.emulator().inject(held);
    let mut wish = deleting(&["web-tls"]);
    wish["vaultRef"] = json!({"name": other});
    scene.sync("web", wish).await?;
    let is_import = |call: &Call| call.host == host(&other) && call.operation == Operation::Import;
    let seen = scene.emulator().wait_for(PATIENCE, |calls| calls.iter().any(is_import)).await;
    ensure!(seen, "nothing was pushed to the new vault");
    let old = scene.claim("web-tls").await?;
    ensure!(old.spec.release.is_none(), "given up before the new one is there: {old:?}");
    scene.untouched("web-tls")?;

    scene.emulator().clear_fault(held);
    scene.deleted_once("web-tls").await?;
    scene.told("web", "Deleted", &["web-tls", &scene.host()]).await?;
    scene.synced("web", "1/1").await?;
    let there = scene.emulator().certificate(&host(&other), "web-tls").context("not in the new vault")?;
    ensure!(there.state == State::Normal && there.versions.len() == 1, "{there:?}");
    Ok(())
}

async fn a_new_name_is_in_the_vault_before_the_old_one_is_deleted(scene: Scene) -> anyhow::Result<()> {
    let wish = |name: &str| named("web-tls", name);
    scene.renew("web-tls").await?;
    scene.sync("web", wish("old")).await?;
    scene.synced("web", "1/1").await?;
    let held = scene.fault("new", Fault::new(Effect::Hang).operation(Operation::Import));
    scene.sync("web", wish("new")).await?;
    scene
        .called("the import under the new name", |call| {
            call.operation == Operation::Import && call.name.as_deref() == Some("new")
        })
        .await?;
    let old = scene.claim("old").await?;
    ensure!(old.spec.release.is_none(), "given up before the new one is there: {old:?}");
    scene.untouched("old")?;
    scene.emulator().clear_fault(held);
    scene.deleted_once("old").await?;
    scene.told("web", "Deleted", &["old"]).await?;
    scene.synced("web", "1/1").await?;
    scene.untouched("new")
}

async fn a_namespace_that_goes_takes_its_certificates_with_it(scene: Scene) -> anyhow::Result<()> {
    pushed(&scene, &["first", "second"]).await?;
    scene.delete_namespace().await?;
    for certificate in ["first", "second"] {
        scene.deleted_once(certificate).await?;
        scene.told_of("KeyVault", scene.name(), "Deleted", &[certificate]).await?;
    }
    Ok(())
}

async fn a_vanished_secret_takes_its_certificate_with_it_only_after_the_grace_period(
    scene: Scene,
) -> anyhow::Result<()> {
    let periods = [("none", "0s"), ("short", "4s"), ("long", "1h")];
    let issued = scene.renew_all(&periods.map(|(secret, _)| secret)).await?;
    for (secret, period) in periods {
        let mut wish = deleting(&[secret]);
        wish["deletionGracePeriod"] = json!(period);
        scene.sync(secret, wish).await?;
        scene.synced(secret, "1/1").await?;
    }
    let vanished = unix_time();
    for (secret, _) in periods {
        scene.delete(&scene.secrets(), secret).await?;
    }
    for (secret, grace) in [("none", 0), ("short", 4)] {
        scene.soft_deleted(secret).await?;
        scene.told(secret, "Deleted", &[secret]).await?;
        let asked = scene.deletions(secret).first().context("no call")?.began_unix_us;
        let waited = Duration::from_micros(asked).saturating_sub(vanished);
        // A stored time lacks its part of a second.
        ensure!(waited + Duration::from_secs(1) >= Duration::from_secs(grace), "{secret}: after {waited:?}");
    }
    scene.row("long", "long", "SecretNotFound").await?;
    scene.untouched("long")?;

    // The entry goes on: its name is claimed, and the Secret is waited for.
    for secret in ["none", "short"] {
        let row = scene.row(secret, secret, "SecretNotFound").await?;
        ensure!(row.state == CertificateState::Pending, "{row:?}");
        let is_waiting = |claim: &KeyVaultCertificate| claim.spec.release.is_none();
        wait::object(&scene.claims(), &scene.claim_name(secret), "to claim its name", is_waiting).await?;
        ensure!(scene.deletions(secret).len() == 1, "{:?}", scene.deletions(secret));
    }
    // Unchanged, what the vault still has is recovered and not imported again.
    for ((secret, _), issued) in periods.iter().zip(&issued) {
        scene.put_issued(secret, issued).await?;
        scene.holds(secret, secret, issued).await?;
        ensure!(scene.state(secret) == Some(State::Normal), "{secret}: {:?}", scene.state(secret));
        ensure!(scene.versions(secret).len() == 1, "{secret}: {} versions", scene.versions(secret).len());
        ensure!(imports(&scene.calls_about(secret)) == 1, "{:?}", scene.calls_about(secret));
    }
    for secret in ["none", "short"] {
        scene.told(secret, "Recovered", &[secret]).await?;
    }
    scene.untouched("long")
}

fn unix_time() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

async fn a_secret_that_came_back_in_time_keeps_its_certificate(scene: Scene) -> anyhow::Result<()> {
    let issued = scene.renew_all(&["first", "canary"]).await?;
    let mut wish = deleting(&["first", "canary"]);
    wish["deletionGracePeriod"] = json!("20s");
    scene.sync("web", wish).await?;
    scene.synced("web", "2/2").await?;
    scene.delete(&scene.secrets(), "first").await?;
    scene.row("web", "first", "SecretNotFound").await?;
    scene.put_issued("first", issued.first().context("not issued")?).await?;
    scene.row("web", "first", "Synced").await?;
    let claim = scene.claim("first").await?;
    let forgotten = claim
        .status
        .as_ref()
        .is_some_and(|status| status.sources.iter().all(|seen| seen.missing_since.is_none()));
    ensure!(forgotten, "it is still counted: {claim:?}");
    // Of a Secret that vanished later, the period ends later.
    scene.delete(&scene.secrets(), "canary").await?;
    scene.soft_deleted("canary").await?;
    scene.untouched("first")?;
    ensure!(imports(&scene.calls_about("first")) == 1, "{:?}", scene.calls_about("first"));
    Ok(())
}

async fn the_last_policy_decides(scene: Scene) -> anyhow::Result<()> {
    let names = ["a", "keep-a", "b", "keep-b", "c", "d"];
    scene.renew_all(&names).await?;
    let first = [
        ("to-delete", retaining(&["a", "keep-a"])),
        ("to-retain", deleting(&["b", "keep-b"])),
        ("gone-deleting", retaining(&["c"])),
        ("gone-retaining", deleting(&["d"])),
    ];
    for (sync, wish) in first {
        let count = wish["certificates"].as_array().map_or(0, Vec::len);
        scene.sync(sync, wish).await?;
        scene.synced(sync, &format!("{count}/{count}")).await?;
    }
    // In the same moment as the entry.
    scene.sync("to-delete", deleting(&["keep-a"])).await?;
    scene.sync("to-retain", retaining(&["keep-b"])).await?;
    scene.deleted_once("a").await?;
    scene.given_up("b").await?;
    scene.untouched("b")?;
    // Before the resource.
    scene.sync("gone-deleting", deleting(&["c"])).await?;
    scene.sync("gone-retaining", retaining(&["d"])).await?;
    for (certificate, policy) in [("c", DeletionPolicy::Delete), ("d", DeletionPolicy::Retain)] {
        let says = |claim: &KeyVaultCertificate| claim.spec.deletion_policy == policy;
        wait::object(&scene.claims(), &scene.claim_name(certificate), "to say the new policy", says).await?;
    }
    scene.delete(&scene.syncs(), "gone-deleting").await?;
    scene.delete(&scene.syncs(), "gone-retaining").await?;
    scene.deleted_once("c").await?;
    scene.given_up("d").await?;
    for certificate in ["d", "keep-a", "keep-b"] {
        scene.untouched(certificate)?;
    }
    Ok(())
}

async fn what_is_not_ours_any_more_is_left_and_told(scene: Scene) -> anyhow::Result<()> {
    pushed(&scene, &["retagged", "stripped", "replaced", "forged", "keep"]).await?;
    let tags = |certificate: &str| {
        scene.versions(certificate).last().map(|version| version.tags.clone()).context("no version")
    };
    let mut another = tags("retagged")?;
    another.insert("keyvault-sync-owner".into(), "another-cluster/KeyVaultSync/shop/web".into());
    scene.emulator().set_tags(&scene.host(), "retagged", None, another);
    scene.emulator().set_tags(&scene.host(), "stripped", None, Default::default());
    let theirs = scene.issue(&keyvault_sync_e2e::certificates::Leaf::server("theirs.example.com"))?;
    scene.put_by_others("replaced", &theirs, &[])?;
    let mut forged = tags("forged")?;
    forged.insert("keyvault-sync-fingerprint".into(), format!("sha256:{}", "0".repeat(64)));
    let forged: Vec<(&str, &str)> =
        forged.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    scene.put_by_others("forged", &theirs, &forged)?;

    let before = scene.calls().len();
    scene.sync("web", deleting(&["keep"])).await?;
    for (certificate, words) in [
        ("retagged", "another-cluster/KeyVaultSync/shop/web"),
        ("stripped", "no owner tag"),
        ("replaced", "no owner tag"),
        ("forged", "not written by this cluster"),
    ] {
        scene.given_up(certificate).await?;
        let event = left(&scene, certificate, &[words]).await?;
        ensure!(event.type_.as_deref() == Some("Warning"), "{event:?}");
        ensure!(scene.state(certificate) == Some(State::Normal), "{certificate} was deleted");
    }
    let calls = scene.calls().split_off(before);
    ensure!(writes(&calls).is_empty(), "{:?}", writes(&calls));
    Ok(())
}

/// Waits for the Warning on our KeyVault that a certificate stays in the vault.
async fn left(scene: &Scene, certificate: &str, words: &[&str]) -> anyhow::Result<Event> {
    // Its words begin with the name.
    let begins = format!("{certificate} in {}", scene.host());
    scene.told_of("KeyVault", scene.name(), "LeftInVault", &[&[begins.as_str()], words].concat()).await
}

async fn a_claim_that_an_heir_takes_over_is_not_deleted(scene: Scene) -> anyhow::Result<()> {
    let secrets = ["first", "second"];
    let issued = scene.renew_all(&secrets).await?;
    let wish = |secret: &str| named(secret, "shared");
    scene.sync("holder", wish("first")).await?;
    scene.synced("holder", "1/1").await?;
    scene.sync("heir", wish("second")).await?;
    scene.row("heir", "second", "NameCollision").await?;
    scene.delete(&scene.syncs(), "holder").await?;
    scene.holds("heir", "second", issued.get(1).context("not issued")?).await?;
    ensure!(scene.deletions("shared").is_empty(), "{:?}", scene.deletions("shared"));
    ensure!(scene.versions("shared").len() == 2, "{} versions", scene.versions("shared").len());

    // An entry that goes is inherited as a resource is.
    scene.sync("third", wish("first")).await?;
    scene.row("third", "first", "NameCollision").await?;
    scene.sync("heir", deleting(&["second"])).await?;
    scene.holds("third", "first", issued.first().context("not issued")?).await?;
    scene.synced("heir", "1/1").await?;
    ensure!(scene.deletions("shared").is_empty(), "{:?}", scene.deletions("shared"));
    ensure!(scene.state("shared") == Some(State::Normal), "{:?}", scene.state("shared"));
    Ok(())
}

async fn a_resource_replaced_by_force_or_applied_again_makes_no_version(scene: Scene) -> anyhow::Result<()> {
    pushed(&scene, &["web-tls"]).await?;
    for _ in 0..3 {
        let uid = scene.sync("web", deleting(&["web-tls"])).await?.metadata.uid;
        replace_by_force(&scene).await?;
        successor(&scene, uid).await?;
    }
    for _ in 0..3 {
        let uid = scene.sync("web", deleting(&["web-tls"])).await?.metadata.uid;
        scene.delete(&scene.syncs(), "web").await?;
        scene.sync("web", deleting(&["web-tls"])).await?;
        successor(&scene, uid).await?;
    }
    ensure!(scene.versions("web-tls").len() == 1, "{} versions", scene.versions("web-tls").len());
    ensure!(imports(&scene.calls()) == 1, "{:?}", scene.calls());
    ensure!(scene.state("web-tls") == Some(State::Normal), "{:?}", scene.state("web-tls"));
    Ok(())
}

async fn a_resource_replaced_by_force_is_not_deleted_in_the_vault(scene: Scene) -> anyhow::Result<()> {
    pushed(&scene, &["web-tls"]).await?;
    for _ in 0..5 {
        let uid = scene.syncs().get("web").await?.metadata.uid;
        replace_by_force(&scene).await?;
        successor(&scene, uid).await?;
    }
    scene.untouched("web-tls")
}

/// `kubectl replace --force`: deleted, and made again.
async fn replace_by_force(scene: &Scene) -> anyhow::Result<()> {
    let mut sync = scene.syncs().get("web").await?;
    sync.status = None;
    sync.metadata.managed_fields = None;
    sync.metadata.resource_version = None;
    sync.metadata.uid = None;
    let text = serde_json::to_string(&sync)?;
    let output =
        scene.stage().cluster.kubectl_with_input(&["replace", "--force", "--filename=-"], &text).await?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// Waits until the claim belongs to another than `before` and its certificate is there, as wished.
async fn successor(scene: &Scene, before: Option<String>) -> anyhow::Result<()> {
    scene.synced("web", "1/1").await?;
    let uid = scene.syncs().get("web").await?.metadata.uid;
    ensure!(uid != before, "it was not made anew");
    let is_its = |claim: &KeyVaultCertificate| {
        claim.spec.release.is_none()
            && Some(&claim.spec.owner.uid) == uid.as_ref()
            && claim.status.as_ref().is_some_and(|status| status.version.is_some())
    };
    wait::object(&scene.claims(), &scene.claim_name("web-tls"), "to have its new owner", is_its).await?;
    Ok(())
}

async fn a_keyvault_made_anew_with_the_same_url_deletes_nothing(scene: Scene) -> anyhow::Result<()> {
    pushed(&scene, &["first", "second"]).await?;
    let before = scene.calls().len();
    scene.delete(&scene.key_vaults(), scene.name()).await?;
    for secret in ["first", "second"] {
        scene.row("web", secret, "VaultNotFound").await?;
        scene.claim(secret).await.context("given up because its KeyVault could not be seen")?;
    }
    scene.key_vault(scene.name(), scene.open_to_us()).await?;
    scene.synced("web", "2/2").await?;
    for certificate in ["first", "second"] {
        scene.untouched(certificate)?;
    }
    let calls = scene.calls().split_off(before);
    ensure!(writes(&calls).is_empty(), "{:?}", writes(&calls));
    Ok(())
}

async fn a_keyvault_made_anew_with_another_url_deletes_nothing_in_the_old_vault(
    scene: Scene,
) -> anyhow::Result<()> {
    let other = format!("{}-x", scene.name());
    scene.make_vault(&other);
    pushed(&scene, &["web-tls"]).await?;
    scene.delete(&scene.key_vaults(), scene.name()).await?;
    scene.row("web", "web-tls", "VaultNotFound").await?;
    let before = scene.calls().len();
    let url = format!("https://{}", host(&other));
    scene.key_vault(scene.name(), json!({"url": url, "grants": [scene.grant(&["*"])]})).await?;
    scene.synced("web", "1/1").await?;
    let there = scene.emulator().certificate(&host(&other), "web-tls").context("not in the other vault")?;
    ensure!(there.state == State::Normal && there.versions.len() == 1, "{there:?}");
    // There is no way to the old vault any more: its certificate stays, and the platform team is told.
    scene.given_up("web-tls").await?;
    left(&scene, "web-tls", &[]).await?;
    scene.untouched("web-tls")?;
    let calls = scene.calls().split_off(before);
    ensure!(calls.is_empty(), "the old vault was called: {calls:?}");
    Ok(())
}

async fn what_cannot_be_resolved_releases_nothing(scene: Scene) -> anyhow::Result<()> {
    let secrets = ["labelled", "suspended", "kept", "lost", "found", "named"];
    scene.renew_all(&secrets).await?;
    scene.mark("labelled", json!({"app": "shop"}), json!({})).await?;
    let mut by_label = deleting(&["labelled"]);
    by_label["certificateNameTemplate"] = json!("by-label-{label:app}");
    scene.sync("by-label", by_label).await?;
    scene.sync("suspended", deleting(&["suspended", "kept"])).await?;
    scene.sync("lost", deleting(&["lost", "found"])).await?;
    scene.sync("named", deleting(&["named"])).await?;
    for (sync, count) in [("by-label", "1/1"), ("suspended", "2/2"), ("lost", "2/2"), ("named", "1/1")] {
        scene.synced(sync, count).await?;
    }

    // A label that the name is made of.
    scene.mark("labelled", json!({"app": null}), json!({})).await?;
    scene.row("by-label", "labelled", "InvalidName").await?;
    // An entry that goes while the resource is suspended, or names no vault.
    let mut wish = deleting(&["kept"]);
    wish["suspend"] = json!(true);
    scene.sync("suspended", wish).await?;
    scene.status("suspended", "to be without the entry", |sync| row(sync, "suspended").is_none()).await?;
    let mut wish = deleting(&["found"]);
    wish["vaultRef"] = json!({"name": "no-such-vault"});
    scene.sync("lost", wish).await?;
    scene.row("lost", "found", "VaultNotFound").await?;
    // A name that cannot be.
    let mut wish = deleting(&["named"]);
    wish["certificateNameTemplate"] = json!("{annotation:example.com/none}");
    scene.sync("named", wish).await?;
    scene.row("named", "named", "InvalidName").await?;

    let all = ["by-label-shop", "suspended", "kept", "lost", "found", "named"];
    for certificate in all {
        let claim = scene.claim(certificate).await.context("given up because something could not be seen")?;
        ensure!(claim.spec.release.is_none(), "{claim:?}");
        scene.untouched(certificate)?;
    }

    // Put right again, it is as it should be.
    scene.mark("labelled", json!({"app": "shop"}), json!({})).await?;
    scene.sync("suspended", deleting(&["kept"])).await?;
    scene.sync("lost", deleting(&["found"])).await?;
    scene.sync("named", deleting(&["named"])).await?;
    for sync in ["by-label", "suspended", "lost", "named"] {
        scene.synced(sync, "1/1").await?;
    }
    scene.deleted_once("suspended").await?;
    scene.deleted_once("lost").await?;
    for certificate in ["by-label-shop", "kept", "found", "named"] {
        scene.untouched(certificate)?;
    }
    Ok(())
}

async fn a_resource_that_goes_while_it_is_suspended_leaves_its_certificate_and_that_is_told(
    scene: Scene,
) -> anyhow::Result<()> {
    pushed(&scene, &["web-tls"]).await?;
    let mut wish = deleting(&["web-tls"]);
    wish["suspend"] = json!(true);
    scene.sync("web", wish).await?;
    scene.row("web", "web-tls", "Suspended").await?;
    let before = scene.calls().len();
    scene.delete(&scene.syncs(), "web").await?;
    scene.given_up("web-tls").await?;
    left(&scene, "web-tls", &["suspended"]).await?;
    scene.untouched("web-tls")?;
    let calls = scene.calls().split_off(before);
    ensure!(calls.is_empty(), "{calls:?}");
    Ok(())
}

async fn suspending_is_heard_by_a_claim_whose_entry_went_with_the_same_edit(
    scene: Scene,
) -> anyhow::Result<()> {
    pushed(&scene, &["first", "second"]).await?;
    let mut wish = deleting(&["second"]);
    wish["suspend"] = json!(true);
    scene.sync("web", wish).await?;
    wait::object(&scene.claims(), &scene.claim_name("first"), "to be suspended", |claim| claim.spec.suspend)
        .await?;
    // Neither is a renewal pushed, nor does the end of the resource delete anything.
    scene.renew("first").await?;
    scene.delete(&scene.syncs(), "web").await?;
    for certificate in ["first", "second"] {
        scene.given_up(certificate).await?;
        scene.told_of("KeyVault", scene.name(), "LeftInVault", &[certificate, "suspended"]).await?;
        scene.untouched(certificate)?;
    }
    Ok(())
}

async fn retaining_is_heard_by_a_deletion_that_keeps_failing(scene: Scene) -> anyhow::Result<()> {
    pushed(&scene, &["first", "second"]).await?;
    let refusing = scene
        .fault("first", Fault::new(Effect::status(503, "Unavailable")).operation(Operation::GetCertificate));
    scene.sync("web", deleting(&["second"])).await?;
    wait::object(&scene.claims(), &scene.claim_name("first"), "to fail to end", |claim| {
        claim.spec.release.is_some()
            && claim.status.as_ref().is_some_and(|status| status.first_failed_at.is_some())
    })
    .await?;
    scene.sync("web", retaining(&["second"])).await?;
    scene.given_up("first").await?;
    scene.emulator().clear_fault(refusing);
    // It ended because it was to stay, not because the effort was over; that would be told by now.
    let renewed = scene.renew("second").await?;
    scene.holds("web", "second", &renewed).await?;
    let events = Api::<Event>::namespaced(scene.stage().client().clone(), "default");
    let left = events.list(&Default::default()).await?.items.into_iter().filter(|event| {
        event.reason.as_deref() == Some("LeftInVault") && note(event).contains(&scene.host())
    });
    ensure!(left.count() == 0, "it was tried to the end");
    scene.untouched("first")
}

async fn what_a_resource_said_last_before_it_went_decides(scene: Scene) -> anyhow::Result<()> {
    let names: Vec<String> = (0..30).map(|number| format!("web-{number:02}")).collect();
    let secrets: Vec<&str> = names.iter().map(String::as_str).collect();
    pushed(&scene, &secrets).await?;
    // Nobody waits for the edit to reach thirty claims.
    scene.sync("web", retaining(&secrets)).await?;
    scene.delete(&scene.syncs(), "web").await?;
    for certificate in &secrets {
        scene.given_up(certificate).await?;
        scene.untouched(certificate)?;
    }
    Ok(())
}

async fn a_vault_that_refuses_to_delete_is_asked_a_bounded_number_of_times_and_then_left(
    scene: Scene,
) -> anyhow::Result<()> {
    pushed(&scene, &["reset", "broken", "forbidden", "keep"]).await?;
    for (certificate, effect) in [
        ("reset", Effect::Reset),
        ("broken", Effect::status(503, "ServiceUnavailable")),
        ("forbidden", Effect::forbidden("ForbiddenByRbac")),
    ] {
        scene.fault(certificate, Fault::new(effect).operation(Operation::DeleteCertificate));
    }
    scene.sync("web", deleting(&["keep"])).await?;
    for certificate in ["reset", "broken", "forbidden"] {
        scene.given_up(certificate).await?;
        let event = left(&scene, certificate, &["stays in the vault"]).await?;
        ensure!(event.type_.as_deref() == Some("Warning"), "{event:?}");
        let attempts = scene.deletions(certificate);
        let (first, last) = attempts.first().zip(attempts.last()).context("never tried")?;
        let lasted = Duration::from_micros(last.began_us - first.began_us);
        // Not given up early, and not tried without end.
        ensure!(lasted >= EFFORT - Duration::from_secs(4), "{certificate}: given up after {lasted:?}");
        ensure!((5..=30).contains(&attempts.len()), "{certificate}: {} attempts", attempts.len());
        ensure!(scene.state(certificate) == Some(State::Normal), "{certificate} was deleted");
    }
    scene.untouched("keep")
}

async fn a_vault_that_throttles_is_asked_until_it_deletes(scene: Scene) -> anyhow::Result<()> {
    pushed(&scene, &["first", "keep"]).await?;
    let throttled = Fault::new(Effect::throttled(Some("1"))).host(&scene.host());
    let throttled = scene.emulator().inject(throttled);
    let before = scene.calls_about("first").len();
    scene.sync("web", deleting(&["keep"])).await?;
    // It goes on for longer than failures may.
    let longer = EFFORT * 2;
    let seen = scene
        .emulator()
        .wait_for(PATIENCE, |_| {
            let calls = scene.calls_about("first").split_off(before);
            calls
                .first()
                .zip(calls.last())
                .is_some_and(|(first, last)| Duration::from_micros(last.began_us - first.began_us) >= longer)
        })
        .await;
    ensure!(seen, "it was not asked any more: {:?}", scene.calls_about("first").split_off(before));
    let claim = scene.claim("first").await.context("the claim was given up")?;
    ensure!(claim.spec.release.is_some(), "{claim:?}");
    scene.emulator().clear_fault(throttled);
    scene.soft_deleted("first").await?;
    scene.given_up("first").await?;
    ensure!(left_at_all(&scene).await? == 0, "told that it is left");
    scene.untouched("keep")
}

/// How many Warnings about our KeyVault say that a certificate stays.
async fn left_at_all(scene: &Scene) -> anyhow::Result<usize> {
    let events = Api::<Event>::namespaced(scene.stage().client().clone(), "default");
    let is_ours = |event: &&Event| {
        event.reason.as_deref() == Some("LeftInVault") && note(event).contains(&scene.host())
    };
    Ok(events.list(&Default::default()).await?.iter().filter(is_ours).count())
}

async fn without_a_grant_no_more_nothing_is_called_and_the_certificate_is_left(
    scene: Scene,
) -> anyhow::Result<()> {
    pushed(&scene, &["web-tls"]).await?;
    let mut vault = scene.open_to_us();
    vault["grants"] = json!([]);
    scene.key_vault(scene.name(), vault).await?;
    scene.row("web", "web-tls", "NotGranted").await?;
    let before = scene.calls().len();
    scene.delete(&scene.syncs(), "web").await?;
    scene.given_up("web-tls").await?;
    left(&scene, "web-tls", &["NotGranted"]).await?;
    let calls: Vec<Call> = scene.calls().split_off(before);
    ensure!(calls.is_empty(), "{calls:?}");
    scene.untouched("web-tls")
}

async fn an_entry_taken_back_while_the_deletion_is_on_the_wire_has_its_certificate_at_the_end(
    scene: Scene,
) -> anyhow::Result<()> {
    pushed(&scene, &["first", "second"]).await?;
    let fault = |effect| Fault::new(effect).operation(Operation::DeleteCertificate).times(1);
    // What is deleted after it was taken back, and what was deleted before.
    let held = [scene.fault("first", fault(Effect::Hang)), scene.fault("second", fault(Effect::HangAfter))];
    scene.sync("web", json!({"selector": {"names": ["none"]}, "deletionPolicy": "Delete"})).await?;
    for certificate in ["first", "second"] {
        let is_its = |call: &Call| {
            call.operation == Operation::DeleteCertificate && call.name.as_deref() == Some(certificate)
        };
        scene.called("the deletion", is_its).await?;
    }
    scene.soft_deleted("second").await?;
    scene.sync("web", deleting(&["first", "second"])).await?;
    for certificate in ["first", "second"] {
        let is_back = |claim: &KeyVaultCertificate| claim.spec.release.is_none();
        wait::object(&scene.claims(), &scene.claim_name(certificate), "to be taken back", is_back).await?;
    }
    for held in held {
        scene.emulator().clear_fault(held);
    }
    back_without_a_version(&scene, &["first", "second"]).await
}

/// Waits until these certificates are in the vault as wished, with the version they had and no other.
async fn back_without_a_version(scene: &Scene, certificates: &[&str]) -> anyhow::Result<()> {
    for certificate in certificates {
        wait::until(&format!("{certificate} to be back and Synced"), || async {
            let claim = scene.claim(certificate).await?;
            let status = claim.status.clone().unwrap_or_default();
            let is_settled = status.in_flight.is_none()
                && status.observed_generation == claim.metadata.generation
                && keyvault_sync_e2e::scene::claim_ready(&claim).is_some_and(|ready| ready.status == "True");
            let state = scene.state(certificate);
            Ok(if is_settled && state == Some(State::Normal) {
                Seen::Done(())
            } else {
                Seen::NotYet(format!("{state:?}, {status:?}"))
            })
        })
        .await?;
        ensure!(scene.versions(certificate).len() == 1, "{certificate}: imported again");
    }
    scene.synced("web", &format!("{0}/{0}", certificates.len())).await?;
    Ok(())
}

async fn an_entry_taken_back_while_the_vault_deletes_has_its_certificate_at_the_end(
    scene: Scene,
) -> anyhow::Result<()> {
    pushed(&scene, &["first", "keep"]).await?;
    scene.emulator().hold_deletions(&scene.host());
    scene.sync("web", deleting(&["keep"])).await?;
    // The vault has begun it, and is not done.
    scene.given_up("first").await?;
    ensure!(scene.state("first") == Some(State::BeingDeleted), "{:?}", scene.state("first"));
    scene.sync("web", deleting(&["first", "keep"])).await?;
    scene.row("web", "first", "BeingDeleted").await?;
    scene.emulator().finish_deletion(&scene.host(), "first");
    back_without_a_version(&scene, &["first", "keep"]).await
}

async fn a_deletion_that_ends_between_look_and_import_holds_nothing_up(scene: Scene) -> anyhow::Result<()> {
    pushed(&scene, &["first", "keep"]).await?;
    scene.emulator().hold_deletions(&scene.host());
    scene.sync("web", deleting(&["keep"])).await?;
    scene.given_up("first").await?;
    let before = imports(&scene.calls());
    let held = scene.fault("first", Fault::new(Effect::Hang).operation(Operation::Import));
    scene.sync("web", deleting(&["first", "keep"])).await?;
    scene.called("the import", |call| call.operation == Operation::Import && call.ended_us.is_none()).await?;
    // Neither a live nor a deleted one was to be seen; when the vault carries the import out, there is a deleted one.
    scene.emulator().finish_deletion(&scene.host(), "first");
    scene.emulator().clear_fault(held);
    back_without_a_version(&scene, &["first", "keep"]).await?;
    ensure!(imports(&scene.calls()) == before + 1, "{:?}", writes(&scene.calls()));
    Ok(())
}

async fn fifty_secrets_go_with_their_namespace_while_the_vault_hangs_and_are_deleted_when_it_is_back(
    scene: Scene,
) -> anyhow::Result<()> {
    let names: Vec<String> = (0..50).map(|number| format!("secret-{number:02}")).collect();
    let secrets: Vec<&str> = names.iter().map(String::as_str).collect();
    scene.renew_all(&secrets).await?;
    scene.sync("web", json!({"selector": {}, "deletionPolicy": "Delete"})).await?;
    let sync = scene.synced("web", "50/50").await?;
    ensure!(sync.metadata.finalizers.is_none(), "{:?}", sync.metadata.finalizers);
    for secret in scene.secrets().list(&Default::default()).await? {
        ensure!(secret.metadata.finalizers.is_none(), "{:?}", secret.metadata.finalizers);
    }
    for name in &secrets {
        let claim = scene.claim(name).await?;
        ensure!(claim.metadata.finalizers.is_none(), "{:?}", claim.metadata.finalizers);
    }

    let hanging = scene.emulator().inject(Fault::new(Effect::Hang).host(&scene.host()));
    let namespaces = Api::<Namespace>::all(scene.stage().client().clone());
    namespaces.delete(scene.name(), &DeleteParams::default()).await?;
    scene.called("a call that hangs", |call| call.ended_us.is_none()).await?;
    wait::gone(&namespaces, scene.name()).await?;
    // The vault still hangs: nothing of the namespace waited for it, and nothing was deleted there.
    for name in &secrets {
        ensure!(scene.state(name) == Some(State::Normal), "{name}: {:?}", scene.state(name));
        scene.claim(name).await.context("given up while the vault hangs")?;
    }
    scene.emulator().clear_fault(hanging);
    for name in &secrets {
        scene.soft_deleted(name).await?;
        scene.given_up(name).await?;
    }
    ensure!(left_at_all(&scene).await? == 0, "a certificate was left");
    Ok(())
}
