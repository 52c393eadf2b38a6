//! Several installations in one cluster, each with its own lease and selector: a resource has one that serves it, a name one holder,
//! and nothing is lost or made twice when a resource moves or an installation goes. Each test has operators of its own.

use anyhow::{Context, ensure};
use keyvault_emulator::Call;
use keyvault_sync_api::KeyVaultCertificate;
use keyvault_sync_api::constants::INSTALLATION_LABEL;
use keyvault_sync_e2e::Scene;
use keyvault_sync_e2e::operator::Operator;
use keyvault_sync_e2e::scene::{thumbprint, writes};
use keyvault_sync_e2e::stage::{CLIENT, Pod, SECOND_CLIENT};
use keyvault_sync_e2e::wait::{self, Seen};
use kube::ResourceExt;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

keyvault_sync_e2e::promises!(OneByOne:
    each_installation_serves_what_it_selects_and_one_writes_the_status_of_a_vault,
    a_resource_that_changes_its_installation_keeps_its_certificates_without_a_version,
    a_name_has_one_holder_whoever_serves_it,
    a_deleted_resource_is_succeeded_across_installations,
    what_an_installation_that_is_gone_leaves_is_taken_over,
    two_installations_that_select_the_same_do_not_take_turns,
);

const ONE: Pod<'_> = Pod { name: "pod-one", client: CLIENT, api_server: None };
const TWO: Pod<'_> = Pod { name: "pod-two", client: SECOND_CLIENT, api_server: None };

async fn each_installation_serves_what_it_selects_and_one_writes_the_status_of_a_vault(
    scene: Scene,
) -> anyhow::Result<()> {
    let (one, two) = both(&scene).await?;
    push(&scene, "one", "web-one").await?;
    push(&scene, "two", "web-two").await?;
    for (name, installation, other) in
        [("web-one", "keyvault-sync.one", TWO), ("web-two", "keyvault-sync.two", ONE)]
    {
        ensure!(labelled(&scene.claim(name).await?) == installation, "{name}");
        ensure!(calls_of(&scene, &other, name).is_empty(), "{name}: {:?}", calls_of(&scene, &other, name));
    }
    // Nobody's: seen by both, served by none.
    scene.renew("nobodys").await?;
    scene.sync_of("nobodys", &["nobodys"]).await?;
    let renewed = scene.renew("web-two").await?;
    scene.holds("two", "web-two", &renewed).await?;
    ensure!(scene.syncs().get("nobodys").await?.status.is_none() && scene.state("nobodys").is_none());

    let vault = scene.key_vaults().get(scene.name()).await?;
    let keeper = vault.status.and_then(|status| status.installation).context("no keeper")?;
    // The status is written by its keeper alone, and by the other when that one is gone.
    let (keeper_of, other) = if keeper == "keyvault-sync.one" { (one, two) } else { (two, one) };
    keeper_of.terminate().await?;
    wait::object(&scene.key_vaults(), scene.name(), "to be looked after by the other", |vault| {
        vault
            .status
            .as_ref()
            .and_then(|status| status.installation.as_ref())
            .is_some_and(|now| *now != keeper)
    })
    .await?;
    other.terminate().await.map(drop)
}

async fn a_resource_that_changes_its_installation_keeps_its_certificates_without_a_version(
    scene: Scene,
) -> anyhow::Result<()> {
    let (one, two) = both(&scene).await?;
    push(&scene, "one", "web-a").await?;
    // There and back, twice.
    for (shard, pod) in [("two", TWO), ("one", ONE), ("two", TWO), ("one", ONE)] {
        let (before, versions) = (scene.calls().len(), scene.versions("web-a").len());
        let label = Patch::Merge(json!({"metadata": {"labels": {"shard": shard}}}));
        scene.syncs().patch("one", &PatchParams::default(), &label).await?;
        let wanted = format!("keyvault-sync.{shard}");
        wait::object(&scene.claims(), &scene.claim_name("web-a"), "to be the other's", |claim| {
            labelled(claim) == wanted
        })
        .await?;
        let renewed = scene.renew("web-a").await?;
        scene.holds("one", "web-a", &renewed).await?;
        ensure!(scene.versions("web-a").len() == versions + 1, "one renewal, one version");
        let calls: Vec<Call> = scene.calls().split_off(before);
        ensure!(
            calls.iter().all(|call| call.client_id.as_deref().is_none_or(|client| client == pod.client)),
            "{shard}: {calls:?}"
        );
        ensure!(writes(&calls).iter().filter(|call| call.status != Some(401)).count() == 1, "{calls:?}");
    }
    one.terminate().await?;
    two.terminate().await.map(drop)
}

async fn a_name_has_one_holder_whoever_serves_it(scene: Scene) -> anyhow::Result<()> {
    let (one, two) = both(&scene).await?;
    push(&scene, "one", "web-a").await?;
    let other = scene.renew("web-b").await?;
    let entry = json!([{"secretName": "web-b", "certificateName": "web-a"}]);
    sync(&scene, "two", "two", json!({"certificates": entry})).await?;
    scene.row("two", "web-b", "NameCollision").await?;
    scene.delete(&scene.syncs(), "one").await?;
    // The loser of the same namespace and kind succeeds, whichever installation serves it.
    scene.synced("two", "1/1").await?;
    let row = scene.row("two", "web-b", "Synced").await?;
    ensure!(row.thumbprint == Some(thumbprint(&other)?), "{row:?}");
    ensure!(scene.versions("web-a").len() == 2, "{:?}", scene.calls());
    ensure!(labelled(&scene.claim("web-a").await?) == "keyvault-sync.two");
    one.terminate().await?;
    two.terminate().await.map(drop)
}

async fn a_deleted_resource_is_succeeded_across_installations(scene: Scene) -> anyhow::Result<()> {
    let (one, two) = both(&scene).await?;
    let pushed = json!({"certificates": [{"secretName": "web-a"}], "deletionPolicy": "Delete"});
    scene.renew("web-a").await?;
    sync(&scene, "web", "one", pushed.clone()).await?;
    scene.synced("web", "1/1").await?;
    let before = scene.calls().len();
    scene.delete(&scene.syncs(), "web").await?;
    // Applied again with another label: another installation's from now on, and the certificate goes on.
    sync(&scene, "web", "two", pushed).await?;
    scene.synced("web", "1/1").await?;
    wait::object(&scene.claims(), &scene.claim_name("web-a"), "to be the other's", |claim| {
        labelled(claim) == "keyvault-sync.two" && claim.spec.release.is_none()
    })
    .await?;
    let renewed = scene.renew("web-a").await?;
    scene.holds("web", "web-a", &renewed).await?;
    ensure!(scene.versions("web-a").len() == 2 && scene.deletions("web-a").is_empty(), "{:?}", scene.calls());
    ensure!(scene.calls().len() > before);
    one.terminate().await?;
    two.terminate().await.map(drop)
}

async fn what_an_installation_that_is_gone_leaves_is_taken_over(scene: Scene) -> anyhow::Result<()> {
    let (one, two) = both(&scene).await?;
    scene.renew("web-a").await?;
    let spec = json!({"certificates": [{"secretName": "web-a"}], "deletionPolicy": "Delete"});
    sync(&scene, "web", "one", spec).await?;
    scene.synced("web", "1/1").await?;
    one.kill9();
    scene.delete(&scene.syncs(), "web").await?;
    scene.deleted_once("web-a").await?;
    let deletions = scene.deletions("web-a");
    ensure!(deletions.iter().all(|call| call.client_id.as_deref() == Some(TWO.client)), "{deletions:?}");
    wait::gone(&scene.claims(), &scene.claim_name("web-a")).await?;
    two.terminate().await.map(drop)
}

async fn two_installations_that_select_the_same_do_not_take_turns(scene: Scene) -> anyhow::Result<()> {
    scene.open_to_two().await?;
    let one = installation(&scene, &ONE, "one", None).await?;
    let two = installation(&scene, &TWO, "two", None).await?;
    push(&scene, "web", "web-a").await?;
    let told = wait::until("one of them to tell of the other", || async {
        let is_told = [&one, &two].iter().any(|operator| operator.log().contains("both select its resource"));
        // A plan is made when something changes.
        scene.sync_now("web", &format!("{:?}", std::time::SystemTime::now())).await?;
        Ok(if is_told { Seen::Done(()) } else { Seen::NotYet("nobody yet".into()) })
    });
    told.await?;
    let edition = scene.claim("web-a").await?;
    let renewed = scene.renew("web-a").await?;
    scene.holds("web", "web-a", &renewed).await?;
    ensure!(labelled(&scene.claim("web-a").await?) == labelled(&edition), "it changed hands again");
    ensure!(scene.versions("web-a").len() == 2, "{:?}", scene.calls());
    one.terminate().await?;
    two.terminate().await.map(drop)
}

/// Two installations that share the work by the label `shard`, and a KeyVault for both.
async fn both(scene: &Scene) -> anyhow::Result<(Operator, Operator)> {
    scene.open_to_two().await?;
    let one = installation(scene, &ONE, "one", Some("shard=one")).await?;
    let two = installation(scene, &TWO, "two", Some("shard=two")).await?;
    Ok((one, two))
}

async fn installation(
    scene: &Scene,
    pod: &Pod<'_>,
    name: &str,
    selector: Option<&str>,
) -> anyhow::Result<Operator> {
    let installation = format!("--installation=keyvault-sync.{name}");
    let selector = selector.map(|selector| format!("--resource-selector={selector}"));
    let mut arguments = vec!["--lease-duration=20s", "--deletion-effort=20s", &installation];
    arguments.extend(selector.as_deref());
    scene.stage().pod(pod, &arguments).await
}

/// A certificate of this name in the vault, by a resource whose name is its shard too.
async fn push(scene: &Scene, shard: &str, certificate: &str) -> anyhow::Result<()> {
    scene.renew(certificate).await?;
    sync(scene, shard, shard, json!({"certificates": [{"secretName": certificate}]})).await?;
    scene.synced(shard, "1/1").await.map(drop)
}

async fn sync(scene: &Scene, name: &str, shard: &str, spec: Value) -> anyhow::Result<()> {
    scene.labelled_sync(name, json!({"shard": shard}), spec).await.map(drop)
}

fn labelled(claim: &KeyVaultCertificate) -> &str {
    claim.labels().get(INSTALLATION_LABEL).map_or("", String::as_str)
}

fn calls_of(scene: &Scene, pod: &Pod<'_>, certificate: &str) -> Vec<Call> {
    let is_its = |call: &Call| call.client_id.as_deref() == Some(pod.client);
    scene.calls_about(certificate).into_iter().filter(is_its).collect()
}
