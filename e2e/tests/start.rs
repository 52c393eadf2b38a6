//! The operator started where something is not there yet, or of another version: it says once what it waits for, and goes on by itself.
//! One after the other: each test has operators of its own, and some take the definitions away.

use anyhow::{Context, ensure};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use keyvault_emulator::{Effect, Fault};
use keyvault_sync_e2e::Scene;
use keyvault_sync_e2e::operator::Operator;
use keyvault_sync_e2e::wait::{self, Seen};
use kube::api::Api;
use serde_json::{Value, json};

keyvault_sync_e2e::promises!(OneByOne:
    without_an_api_server_it_says_so_once_and_becomes_ready_when_it_comes,
    without_its_vault_it_is_ready_and_pushes_when_the_vault_comes,
    without_definitions_it_names_them_and_becomes_ready_when_they_are_applied,
    with_an_old_definition_it_does_nothing_until_that_is_upgraded,
    a_newer_definition_does,
    an_old_definition_put_under_it_ends_it_before_it_writes,
);

const CLAIM: &str = "KeyVaultCertificate";
/// Attempts after which it is seen that not each is told.
const ATTEMPTS: usize = 4;
/// What its log says of definitions that do not do, and of each look at them.
const TOLD: &str = "nothing is done until the definitions of our kinds are there and of this version";
const LOOKED: &str = "the definitions were looked at";

async fn without_an_api_server_it_says_so_once_and_becomes_ready_when_it_comes(
    scene: Scene,
) -> anyhow::Result<()> {
    let cluster = &scene.stage().cluster;
    cluster.stop_apiserver().await;
    // With a cluster id of its own it has nothing else to ask the API server for.
    for more in [&[][..], &["--cluster-id=rebuilt"]] {
        let operator = scene.stage().operator_begun(more).await?;
        let checked = async {
            waits_for(&operator, &["definitions (the API server does not answer", "Connection refused"])
                .await?;
            told_once(&operator).await
        };
        let checked = checked.await;
        cluster.start_apiserver().await?;
        checked?;
        operator.ready().await?;
        operator.terminate().await?;
        cluster.stop_apiserver().await;
    }
    cluster.start_apiserver().await
}

/// It has tried several times by now, and told of it once.
async fn told_once(operator: &Operator) -> anyhow::Result<()> {
    let count = |log: &str, words: &str| log.lines().filter(|line| line.contains(words)).count();
    wait::until("some attempts", || async {
        let attempts = count(&operator.log(), LOOKED);
        Ok(if attempts >= ATTEMPTS { Seen::Done(()) } else { Seen::NotYet(format!("{attempts}")) })
    })
    .await?;
    let log = operator.log();
    // A minute later it is told again: where attempts take as long as that, each may be.
    let (told, attempts) = (count(&log, TOLD), count(&log, LOOKED));
    ensure!(told >= 1 && told <= attempts / 2, "told {told} times in {attempts} attempts:\n{log}");
    let warnings = log.lines().filter(|line| line.contains("WARN") || line.contains("ERROR")).count();
    ensure!(warnings == told, "something else was complained of:\n{log}");
    Ok(())
}

async fn without_its_vault_it_is_ready_and_pushes_when_the_vault_comes(scene: Scene) -> anyhow::Result<()> {
    // Neither the vault nor Entra ID is reached.
    scene.emulator().inject(Fault::new(Effect::Reset));
    let issued = scene.renew("web-tls").await?;
    scene.sync_of("web", &["web-tls"]).await?;
    let operator = scene.stage().operator().await?;
    let row = scene.row("web", "web-tls", "Unavailable").await?;
    ensure!(row.message.is_some_and(
        |message| message.contains("login.microsoftonline.com") || message.contains(&scene.host())
    ));
    scene.emulator().clear_faults();
    scene.holds("web", "web-tls", &issued).await?;
    ensure!(scene.versions("web-tls").len() == 1);
    operator.terminate().await.map(drop)
}

async fn without_definitions_it_names_them_and_becomes_ready_when_they_are_applied(
    scene: Scene,
) -> anyhow::Result<()> {
    let stored: Api<CustomResourceDefinition> = Api::all(scene.stage().client().clone());
    for name in definitions()?.iter().filter_map(|definition| definition["metadata"]["name"].as_str()) {
        scene.delete(&stored, name).await?;
    }
    let operator = scene.stage().operator_begun(&[]).await?;
    let command = "kubectl apply --server-side --force-conflicts -f crds/";
    let all = "there is no definition of KeyVaultSync, ClusterKeyVaultSync, KeyVault, KeyVaultCertificate";
    waits_for(&operator, &[all, command]).await?;
    told_once(&operator).await?;
    // One after the other, as they come.
    let (last, others): (Vec<_>, Vec<_>) = definitions()?.into_iter().partition(is_of_claims);
    apply(&scene, &others).await?;
    waits_for(&operator, &["there is no definition of KeyVaultCertificate: ", command]).await?;
    apply(&scene, &last).await?;
    operator.ready().await?;
    scene.key_vault(scene.name(), scene.open_to_us()).await?;
    let issued = scene.renew("web-tls").await?;
    scene.sync_of("web", &["web-tls"]).await?;
    scene.holds("web", "web-tls", &issued).await?;
    operator.terminate().await.map(drop)
}

async fn with_an_old_definition_it_does_nothing_until_that_is_upgraded(scene: Scene) -> anyhow::Result<()> {
    let operator = scene.stage().operator().await?;
    let first = scene.renew("web-tls").await?;
    scene.sync_of("web", &["web-tls"]).await?;
    scene.holds("web", "web-tls", &first).await?;
    operator.terminate().await?;

    old_definition(&scene).await?;
    let before = scene.calls().len();
    let issued = scene.renew("web-tls").await?;
    let operator = scene.stage().operator_begun(&[]).await?;
    let lacks = "KeyVaultCertificate is of another version and lacks status.claimUid, status.inFlight";
    waits_for(&operator, &[lacks, "kubectl apply"]).await?;
    told_once(&operator).await?;
    ensure!(scene.calls().len() == before, "it called the vault: {:?}", scene.calls());

    apply(&scene, &definitions()?).await?;
    operator.ready().await?;
    scene.holds("web", "web-tls", &issued).await?;
    ensure!(scene.versions("web-tls").len() == 2);
    operator.terminate().await.map(drop)
}

async fn a_newer_definition_does(scene: Scene) -> anyhow::Result<()> {
    let mut newer = definitions()?;
    for definition in &mut newer {
        let versions = definition["spec"]["versions"].as_array_mut().context("no versions")?;
        let schema = &mut versions[0]["schema"]["openAPIV3Schema"]["properties"];
        schema["status"]["properties"]["later"] = json!({"type": "string"});
        schema["spec"]["properties"]["later"] = json!({"type": "string"});
        let mut next = versions[0].clone();
        next["name"] = json!("v1beta1");
        next["storage"] = json!(false);
        versions.push(next);
    }
    apply(&scene, &newer).await?;
    let operator = scene.stage().operator().await?;
    let issued = scene.renew("web-tls").await?;
    scene.sync_of("web", &["web-tls"]).await?;
    scene.holds("web", "web-tls", &issued).await?;
    operator.terminate().await?;
    apply(&scene, &definitions()?).await
}

async fn an_old_definition_put_under_it_ends_it_before_it_writes(scene: Scene) -> anyhow::Result<()> {
    let operator = scene.stage().operator().await?;
    let first = scene.renew("web-tls").await?;
    scene.sync_of("web", &["web-tls"]).await?;
    scene.holds("web", "web-tls", &first).await?;

    old_definition(&scene).await?;
    let issued = scene.renew("web-tls").await?;
    let status = operator.ended().await?;
    ensure!(status.code() == Some(1), "{status}");
    let log = operator.log();
    ensure!(log.contains("no longer keeps all that is written into a KeyVaultCertificate"), "{log}");
    ensure!(scene.versions("web-tls").len() == 1, "it pushed without a memory");

    let operator = scene.stage().operator_begun(&[]).await?;
    waits_for(&operator, &["lacks status.claimUid, status.inFlight"]).await?;
    apply(&scene, &definitions()?).await?;
    operator.ready().await?;
    scene.holds("web", "web-tls", &issued).await?;
    ensure!(scene.versions("web-tls").len() == 2);
    operator.terminate().await.map(drop)
}

/// The definitions of this build.
fn definitions() -> anyhow::Result<Vec<Value>> {
    keyvault_sync_api::crds().iter().map(|definition| Ok(serde_json::to_value(definition)?)).collect()
}

fn is_of_claims(definition: &Value) -> bool {
    definition["spec"]["names"]["kind"] == CLAIM
}

async fn apply(scene: &Scene, definitions: &[Value]) -> anyhow::Result<()> {
    let documents: Vec<String> = definitions.iter().map(Value::to_string).collect();
    scene.stage().cluster.apply(&documents.join("\n---\n")).await
}

/// Puts a definition of claims in place that knows nothing of `claimUid` and `inFlight`, and waits until the API server goes by it:
/// what it does not know is not shown either.
async fn old_definition(scene: &Scene) -> anyhow::Result<()> {
    let mut old = definitions()?;
    old.retain(is_of_claims);
    let at = "/spec/versions/0/schema/openAPIV3Schema/properties/status/properties";
    let fields =
        old[0].pointer_mut(at).and_then(Value::as_object_mut).context("no status in the definition")?;
    for field in ["claimUid", "inFlight"] {
        ensure!(fields.remove(field).is_some(), "{field} is no field of a claim's status");
    }
    apply(scene, &old).await?;
    wait::object(&scene.claims(), &scene.claim_name("web-tls"), "to lose its uid", |claim| {
        claim.status.as_ref().is_none_or(|status| status.claim_uid.is_none())
    })
    .await
    .map(drop)
}

/// Waits until `/readyz` says all these words, and not ready.
async fn waits_for(operator: &Operator, words: &[&str]) -> anyhow::Result<()> {
    wait::until(&format!("/readyz to say {words:?}"), || async {
        let (status, body) = operator.readyz().await?;
        let says_all = words.iter().all(|word| body.contains(word));
        Ok(if status == 503 && says_all { Seen::Done(()) } else { Seen::NotYet(format!("{status}: {body}")) })
    })
    .await
}
