//! Who may use a name, who holds it, and what becomes of it: grants, collisions, new names, new vaults, and the end of wishes.
//! What is given up is given up in the cluster alone: the vault's certificate stays as it is.

use anyhow::{Context, ensure};
use k8s_openapi::api::core::v1::Namespace;
use keyvault_emulator::{Call, Effect, Fault, Operation};
use keyvault_sync_api::CertificateState;
use keyvault_sync_e2e::Scene;
use keyvault_sync_e2e::scene::{host, row};
use keyvault_sync_e2e::wait;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::json;

keyvault_sync_e2e::promises!(Together:
    without_a_grant_nothing_is_pushed_and_with_it_at_once,
    a_grant_by_label_follows_the_namespaces_labels,
    a_grant_taken_back_stops_the_push_and_leaves_the_vault_alone,
    an_entry_or_resource_that_goes_gives_up_its_claim_and_leaves_the_vault_alone,
    a_namespace_goes_at_once_while_its_vault_hangs,
    a_new_name_is_in_the_vault_before_the_old_claim_is_given_up,
    of_two_resources_after_one_name_the_first_holds_it_and_the_other_is_its_heir,
    an_heir_of_another_namespace_is_told_whose_certificate_it_is_and_does_not_touch_it,
    two_entries_after_one_name_are_told_which_has_it,
    a_keyvault_made_anew_with_another_url_is_another_vault,
    a_resource_deleted_and_applied_again_goes_on_without_a_new_version,
    a_claim_removed_by_hand_is_made_anew_and_makes_no_version,
    a_keyvault_that_is_missing_releases_nothing,
);

async fn without_a_grant_nothing_is_pushed_and_with_it_at_once(scene: Scene) -> anyhow::Result<()> {
    let mut vault = scene.open_to_us();
    vault["grants"] = json!([]);
    scene.key_vault(scene.name(), vault).await?;
    let issued = scene.renew("web-tls").await?;
    scene.sync_of("web", &["web-tls"]).await?;
    let row = scene.row("web", "web-tls", "NotGranted").await?;
    ensure!(row.state == CertificateState::Failed, "{row:?}");
    ensure!(scene.claim("web-tls").await.is_err(), "a name was squatted without a grant");
    ensure!(scene.calls().is_empty(), "{:?}", scene.calls());
    scene.key_vault(scene.name(), scene.open_to_us()).await?;
    scene.holds("web", "web-tls", &issued).await?;
    Ok(())
}

async fn a_grant_by_label_follows_the_namespaces_labels(scene: Scene) -> anyhow::Result<()> {
    let mut vault = scene.open_to_us();
    let labelled = json!({"selector": {"matchLabels": {"example.com/team": scene.name()}}});
    vault["grants"] = json!([{"namespaces": labelled, "push": ["web-*"]}]);
    scene.key_vault(scene.name(), vault).await?;
    scene.renew("web-tls").await?;
    scene.sync_of("web", &["web-tls"]).await?;
    scene.row("web", "web-tls", "NotGranted").await?;
    label(&scene, json!(scene.name())).await?;
    scene.synced("web", "1/1").await?;
    label(&scene, json!(null)).await?;
    scene.row("web", "web-tls", "NotGranted").await?;
    Ok(())
}

async fn label(scene: &Scene, team: serde_json::Value) -> anyhow::Result<()> {
    let namespaces = Api::<Namespace>::all(scene.stage().client().clone());
    let patch = json!({"metadata": {"labels": {"example.com/team": team}}});
    namespaces.patch(scene.name(), &PatchParams::default(), &Patch::Merge(patch)).await?;
    Ok(())
}

async fn a_grant_taken_back_stops_the_push_and_leaves_the_vault_alone(scene: Scene) -> anyhow::Result<()> {
    for secret in ["web-tls", "canary"] {
        scene.renew(secret).await?;
    }
    scene.sync_of("web", &["web-tls", "canary"]).await?;
    scene.synced("web", "2/2").await?;
    let before = scene.calls_about("web-tls").len();
    let mut vault = scene.open_to_us();
    vault["grants"] = json!([scene.grant(&["canary"])]);
    scene.key_vault(scene.name(), vault).await?;
    let found = scene.row("web", "web-tls", "NotGranted").await?;
    ensure!(found.state == CertificateState::Failed, "{found:?}");
    wait::object(&scene.claims(), &scene.claim_name("web-tls"), "to be NotGranted", |claim| {
        keyvault_sync_e2e::scene::claim_ready(claim).is_some_and(|ready| ready.reason == "NotGranted")
    })
    .await?;
    scene.renew("web-tls").await?;
    let renewed = scene.renew("canary").await?;
    scene.holds("web", "canary", &renewed).await?;
    ensure!(scene.calls_about("web-tls").len() == before, "{:?}", scene.calls_about("web-tls"));
    ensure!(scene.versions("web-tls").len() == 1);
    let told = scene.events_about("web").await?;
    let told: Vec<_> = told.iter().filter(|event| event.reason.as_deref() == Some("NotGranted")).collect();
    ensure!(told.len() == 1, "{told:?}");
    // Given back, what came meanwhile is pushed.
    scene.key_vault(scene.name(), scene.open_to_us()).await?;
    scene.synced("web", "2/2").await?;
    ensure!(scene.versions("web-tls").len() == 2);
    Ok(())
}

async fn an_entry_or_resource_that_goes_gives_up_its_claim_and_leaves_the_vault_alone(
    scene: Scene,
) -> anyhow::Result<()> {
    for secret in ["first", "second"] {
        scene.renew(secret).await?;
    }
    scene.sync_of("web", &["first", "second"]).await?;
    scene.synced("web", "2/2").await?;
    let before = scene.calls().len();
    scene.sync_of("web", &["second"]).await?;
    wait::gone(&scene.claims(), &scene.claim_name("first")).await?;
    let sync = scene.synced("web", "1/1").await?;
    ensure!(row(&sync, "first").is_none(), "{sync:?}");
    scene.delete(&scene.syncs(), "web").await?;
    wait::gone(&scene.claims(), &scene.claim_name("second")).await?;
    for secret in ["first", "second"] {
        ensure!(scene.versions(secret).len() == 1, "{secret}: {:?}", scene.versions(secret));
    }
    let writes = scene.calls().split_off(before).into_iter().filter(is_write).count();
    ensure!(writes == 0, "{:?}", scene.calls());
    Ok(())
}

fn is_write(call: &Call) -> bool {
    call.method != "GET"
}

async fn a_namespace_goes_at_once_while_its_vault_hangs(scene: Scene) -> anyhow::Result<()> {
    scene.renew("first").await?;
    scene.sync_of("web", &["first", "second"]).await?;
    scene.row("web", "first", "Synced").await?;
    let hanging = scene.emulator().inject(Fault::new(Effect::Hang).host(&scene.host()));
    scene.renew("first").await?;
    scene.renew("second").await?;
    scene.called("a call that hangs", |call| call.ended_us.is_none()).await?;

    let namespaces = Api::<Namespace>::all(scene.stage().client().clone());
    namespaces.delete(scene.name(), &DeleteParams::default()).await?;
    wait::gone(&namespaces, scene.name()).await?;
    // The vault still hangs: nothing of the namespace waited for it.
    for name in ["first", "second"] {
        wait::gone(&scene.claims(), &scene.claim_name(name)).await?;
    }
    scene.emulator().clear_fault(hanging);
    Ok(())
}

async fn a_new_name_is_in_the_vault_before_the_old_claim_is_given_up(scene: Scene) -> anyhow::Result<()> {
    scene.renew("web-tls").await?;
    let wish = |name: &str| json!({"certificates": [{"secretName": "web-tls", "certificateName": name}]});
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
    scene.emulator().clear_fault(held);
    scene.synced("web", "1/1").await?;
    wait::gone(&scene.claims(), &scene.claim_name("old")).await?;
    ensure!(scene.versions("new").len() == 1 && scene.versions("old").len() == 1);
    Ok(())
}

async fn of_two_resources_after_one_name_the_first_holds_it_and_the_other_is_its_heir(
    scene: Scene,
) -> anyhow::Result<()> {
    let first = scene.renew("first").await?;
    let second = scene.renew("second").await?;
    let wish = |secret: &str| json!({"certificates": [{"secretName": secret, "certificateName": "Shared"}]});
    scene.sync("holder", wish("first")).await?;
    scene.holds("holder", "first", &first).await?;
    scene.sync("heir", wish("second")).await?;
    let row = scene.row("heir", "second", "NameCollision").await?;
    let holder = format!("KeyVaultSync {}/holder", scene.name());
    let message = row.message.clone().unwrap_or_default();
    ensure!(row.state == CertificateState::Failed && message.contains(&holder), "{row:?}");
    scene.told("heir", "NameCollision", &[&holder]).await?;
    let renewed = scene.renew("first").await?;
    scene.holds("holder", "first", &renewed).await?;
    ensure!(scene.versions("shared").len() == 2, "the loser pushed");
    let told = scene.events_about("heir").await?;
    ensure!(told.len() == 1, "{told:?}");

    // Same cluster, kind and namespace: who succeeds a deleted resource needs no adoption.
    scene.delete(&scene.syncs(), "holder").await?;
    scene.holds("heir", "second", &second).await?;
    let versions = scene.versions("shared");
    let owner = versions
        .last()
        .and_then(|version| version.tags.get("keyvault-sync-owner"))
        .context("no owner tag")?;
    ensure!(versions.len() == 3 && owner.ends_with(&format!("/{}/heir", scene.name())), "{versions:?}");
    Ok(())
}

async fn an_heir_of_another_namespace_is_told_whose_certificate_it_is_and_does_not_touch_it(
    scene: Scene,
) -> anyhow::Result<()> {
    let next = scene.neighbour().await?;
    let mut vault = scene.open_to_us();
    vault["grants"] = json!([scene.grant(&["*"]), next.grant(&["*"])]);
    scene.key_vault(scene.name(), vault).await?;
    let first = scene.renew("web-tls").await?;
    next.renew("web-tls").await?;
    scene.sync_of("web", &["web-tls"]).await?;
    scene.holds("web", "web-tls", &first).await?;
    let wish = json!({"vaultRef": {"name": scene.name()}, "certificates": [{"secretName": "web-tls"}]});
    next.sync("web", wish).await?;
    let row = next.row("web", "web-tls", "NameCollision").await?;
    let holder = format!("KeyVaultSync {}/web", scene.name());
    ensure!(row.message.as_deref().is_some_and(|message| message.contains(&holder)), "{row:?}");

    scene.delete(&scene.syncs(), "web").await?;
    let row = next.row("web", "web-tls", "OwnedByAnother").await?;
    let owner = format!("KeyVaultSync/{}/web", scene.name());
    ensure!(row.message.as_deref().is_some_and(|message| message.contains(&owner)), "{row:?}");
    ensure!(scene.versions("web-tls").len() == 1, "another namespace's certificate was overwritten");
    ensure!(scene.calls().into_iter().filter(is_write).count() == 1, "{:?}", scene.calls());
    Ok(())
}

async fn two_entries_after_one_name_are_told_which_has_it(scene: Scene) -> anyhow::Result<()> {
    for secret in ["first", "second"] {
        scene.renew(secret).await?;
    }
    let entry = |secret: &str, name: &str| json!({"secretName": secret, "certificateName": name});
    scene.sync("web", json!({"certificates": [entry("first", "shared"), entry("second", "SHARED")]})).await?;
    let row = scene.row("web", "second", "NameCollision").await?;
    ensure!(row.message.as_deref().is_some_and(|message| message.contains("first and second")), "{row:?}");
    scene.row("web", "first", "Synced").await?;
    ensure!(scene.versions("shared").len() == 1);
    Ok(())
}

async fn a_keyvault_made_anew_with_another_url_is_another_vault(scene: Scene) -> anyhow::Result<()> {
    let other = format!("{}-x", scene.name());
    scene.make_vault(&other);
    let issued = scene.renew("web-tls").await?;
    scene.sync_of("web", &["web-tls"]).await?;
    scene.synced("web", "1/1").await?;
    let before = scene.calls().len();

    scene.delete(&scene.key_vaults(), scene.name()).await?;
    scene.row("web", "web-tls", "VaultNotFound").await?;
    scene.claim("web-tls").await.context("given up because its KeyVault could not be seen")?;
    let url = format!("https://{}", host(&other));
    scene.key_vault(scene.name(), json!({"url": url, "grants": [scene.grant(&["*"])]})).await?;
    let row = scene.holds("web", "web-tls", &issued).await?;
    ensure!(row.secret_id.as_deref() == Some(format!("{url}/secrets/web-tls").as_str()), "{row:?}");
    wait::gone(&scene.claims(), &scene.claim_name("web-tls")).await?;
    ensure!(scene.calls().len() == before, "the old vault was called: {:?}", scene.calls().split_off(before));
    ensure!(scene.versions("web-tls").len() == 1);
    let there = scene.emulator().certificate(&host(&other), "web-tls").context("not in the other vault")?;
    ensure!(there.versions.len() == 1, "{there:?}");
    Ok(())
}

async fn a_resource_deleted_and_applied_again_goes_on_without_a_new_version(
    scene: Scene,
) -> anyhow::Result<()> {
    let issued = scene.renew("web-tls").await?;
    for round in 0..3 {
        let sync = scene.sync_of("web", &["web-tls"]).await?;
        scene.holds("web", "web-tls", &issued).await?;
        let claim = scene.claim("web-tls").await?;
        ensure!(
            Some(&claim.spec.owner.uid) == sync.metadata.uid.as_ref(),
            "round {round}: {:?}",
            claim.spec.owner
        );
        scene.delete(&scene.syncs(), "web").await?;
    }
    wait::gone(&scene.claims(), &scene.claim_name("web-tls")).await?;
    scene.sync_of("web", &["web-tls"]).await?;
    scene.holds("web", "web-tls", &issued).await?;
    ensure!(scene.versions("web-tls").len() == 1, "{} versions", scene.versions("web-tls").len());
    ensure!(scene.calls().into_iter().filter(is_write).count() == 1, "{:?}", scene.calls());
    Ok(())
}

async fn a_claim_removed_by_hand_is_made_anew_and_makes_no_version(scene: Scene) -> anyhow::Result<()> {
    let issued = scene.renew("web-tls").await?;
    scene.sync_of("web", &["web-tls"]).await?;
    scene.holds("web", "web-tls", &issued).await?;
    let before = scene.claim("web-tls").await?.metadata.uid;
    scene.claims().delete(&scene.claim_name("web-tls"), &DeleteParams::default()).await?;
    wait::object(&scene.claims(), &scene.claim_name("web-tls"), "to be made anew", |claim| {
        claim.metadata.uid != before && claim.status.as_ref().is_some_and(|status| status.version.is_some())
    })
    .await?;
    scene.holds("web", "web-tls", &issued).await?;
    ensure!(scene.versions("web-tls").len() == 1);
    Ok(())
}

async fn a_keyvault_that_is_missing_releases_nothing(scene: Scene) -> anyhow::Result<()> {
    for secret in ["first", "second"] {
        scene.renew(secret).await?;
    }
    scene.sync_of("web", &["first", "second"]).await?;
    scene.synced("web", "2/2").await?;
    scene.delete(&scene.key_vaults(), scene.name()).await?;
    scene.sync_of("web", &["second"]).await?;
    scene.row("web", "second", "VaultNotFound").await?;
    scene.claim("first").await.context("given up while the wish could not be resolved")?;
    scene.key_vault(scene.name(), scene.open_to_us()).await?;
    scene.synced("web", "1/1").await?;
    wait::gone(&scene.claims(), &scene.claim_name("first")).await?;
    ensure!(scene.versions("second").len() == 1);
    Ok(())
}
