//! `keyvault-sync check --all`, as `helm test` runs it: in the operator's place, with the rights of its ServiceAccount and no more. The
//! way to a single vault is the business of `hand_tools`. Each test has an operator of its own.

use std::process::Output;
use std::time::Duration;

use anyhow::{Context, ensure};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use keyvault_emulator::Permissions;
use keyvault_sync_api::constants::VERSION_ANNOTATION;
use keyvault_sync_e2e::Scene;
use keyvault_sync_e2e::operator;
use keyvault_sync_e2e::scene::writes;
use keyvault_sync_e2e::stage::{CLIENT, OPERATOR, TENANT};
use kube::api::{Api, Patch, PatchParams};
use serde_json::{Value, json};

keyvault_sync_e2e::promises!(OneByOne:
    all_is_well_where_an_operator_leads_and_each_vault_lets_it_in,
    what_is_not_well_is_named_for_the_vault_it_concerns,
    an_operator_that_does_not_work_is_found_out,
);

/// A check that has not ended by then hangs.
const LIMIT: Duration = Duration::from_secs(120);
/// So that a check which waits for a lease to end does not wait long.
const LEASE: &str = "--lease-duration=20s";

/// Runs it in the operator's place, which has a workload identity or has none.
async fn check(scene: &Scene, has_identity: bool, more: &[&str]) -> anyhow::Result<Output> {
    let stage = scene.stage();
    let settings = [
        format!("--emulator-address={}", scene.emulator().address()),
        format!("--ca-bundle={}", stage.ca_bundle().display()),
        format!("--imds-endpoint={}", scene.emulator().imds_endpoint()),
    ];
    let token = stage.cluster.token(OPERATOR, OPERATOR, &["api://AzureADTokenExchange"], 600).await?;
    let folder = tempfile::tempdir()?;
    let token_file = folder.path().join("token");
    std::fs::write(&token_file, token)?;
    let mut command = tokio::process::Command::new(operator::binary().await?);
    command
        .args(["check", "--all"])
        .args(settings)
        .args(more)
        .env("KUBECONFIG", stage.kubeconfig())
        .env("POD_NAMESPACE", OPERATOR)
        .env("POD_UID", "of-the-test")
        .kill_on_drop(true);
    if has_identity {
        command
            .env("AZURE_TENANT_ID", TENANT)
            .env("AZURE_CLIENT_ID", CLIENT)
            .env("AZURE_FEDERATED_TOKEN_FILE", token_file);
    }
    Ok(tokio::time::timeout(LIMIT, command.output()).await.context("it does not end")??)
}

/// What it found, and its exit code.
async fn found(scene: &Scene) -> anyhow::Result<(Value, i32)> {
    answered(&check(scene, true, &["--output=json"]).await?)
}

fn answered(output: &Output) -> anyhow::Result<(Value, i32)> {
    let text = String::from_utf8_lossy(&output.stdout);
    let answer = serde_json::from_str(&text)
        .with_context(|| format!("no answer: {text}\n{}", String::from_utf8_lossy(&output.stderr)))?;
    Ok((answer, output.status.code().context("ended by a signal")?))
}

/// A step among these.
fn step<'a>(steps: &'a Value, name: &str) -> anyhow::Result<&'a Value> {
    let found = steps.as_array().and_then(|steps| steps.iter().find(|step| step["step"] == name));
    found.with_context(|| format!("no step {name}: {steps:#}"))
}

/// The steps on the way to a vault.
fn way<'a>(answer: &'a Value, vault: &str) -> anyhow::Result<&'a Value> {
    let vaults = answer["vaults"].as_array();
    let found = vaults.and_then(|vaults| vaults.iter().find(|one| one["vault"] == vault));
    found.map(|one| &one["steps"]).with_context(|| format!("no vault {vault}: {answer:#}"))
}

async fn all_is_well_where_an_operator_leads_and_each_vault_lets_it_in(scene: Scene) -> anyhow::Result<()> {
    let operator = scene.stage().operator_with(&[LEASE]).await?;
    let (answer, code) = found(&scene).await?;
    ensure!(code == 0 && answer["installation"] == "keyvault-sync.keyvault-sync", "{answer:#}");
    ensure!(step(&answer["steps"], "definitions")?["outcome"] == "Ok", "{answer:#}");
    let leader = step(&answer["steps"], "leader")?;
    ensure!(
        leader["outcome"] == "Ok" && leader["message"].as_str().is_some_and(|text| text.contains("leads"))
    );
    ensure!(step(way(&answer, scene.name())?, "get")?["outcome"] == "Ok", "{answer:#}");
    ensure!(writes(&scene.emulator().calls(&scene.host())).is_empty());

    // Before the first KeyVault there is nothing wrong either.
    scene.delete(&scene.key_vaults(), scene.name()).await?;
    let output = check(&scene, true, &[]).await?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.code() == Some(0) && text.contains("no KeyVault yet"), "{text}");
    operator.terminate().await.map(drop)
}

async fn what_is_not_well_is_named_for_the_vault_it_concerns(scene: Scene) -> anyhow::Result<()> {
    let operator = scene.stage().operator_with(&[LEASE]).await?;
    let other = scene.neighbour().await?;
    scene.emulator().allow(&other.host(), CLIENT, Permissions::none());
    // Each namespace opens it as itself: that there is no such ServiceAccount here is no fault.
    let mut theirs = scene.open_to_us();
    theirs["identity"] = json!({"serviceAccount": {"name": "keyvault"}});
    scene.key_vault("of-namespaces", theirs).await?;
    let (answer, code) = found(&scene).await?;
    ensure!(code == 2, "{answer:#}");
    ensure!(step(way(&answer, other.name())?, "get")?["outcome"] == "Failed", "{answer:#}");
    ensure!(step(way(&answer, scene.name())?, "get")?["outcome"] == "Ok", "{answer:#}");
    let identity = step(way(&answer, "of-namespaces")?, "identity")?;
    ensure!(identity["outcome"] == "Unknown", "{answer:#}");

    // It is what the operator in its place would meet, not what a person would, who has the API server make a token.
    let (answer, _) = answered(&check(&scene, false, &["--output=json"]).await?)?;
    let identity = step(way(&answer, scene.name())?, "identity")?;
    ensure!(
        identity["outcome"] == "Failed"
            && identity["message"].as_str().is_some_and(|text| text.contains("AZURE_TENANT_ID")),
        "{answer:#}"
    );
    for name in [scene.name(), other.name(), "of-namespaces"] {
        scene.delete(&scene.key_vaults(), name).await?;
    }
    operator.terminate().await.map(drop)
}

async fn an_operator_that_does_not_work_is_found_out(scene: Scene) -> anyhow::Result<()> {
    let operator = scene.stage().operator_with(&[LEASE]).await?;
    // It has to lead before it can fail to.
    let (answer, code) = found(&scene).await?;
    ensure!(code == 0, "{answer:#}");
    operator.kill9();
    let definitions = Api::<CustomResourceDefinition>::all(scene.stage().client().clone());
    let name = "keyvaults.keyvaultsync.io";
    let ours = definitions.get(name).await?;
    let field = "/spec/versions/0/schema/openAPIV3Schema/properties/status/properties/installation";
    let patch = json!([{"op": "remove", "path": field}]);
    let patch: Patch<Value> = Patch::Json(serde_json::from_value(patch)?);
    definitions.patch(name, &PatchParams::default(), &patch).await?;

    let (answer, code) = found(&scene).await?;
    ensure!(code == 2, "{answer:#}");
    let definition = step(&answer["steps"], "definitions")?;
    ensure!(
        definition["outcome"] == "Failed"
            && definition["message"].as_str().is_some_and(|text| text.contains("status.installation")),
        "{answer:#}"
    );
    // It holds the Lease, but does not renew it any more.
    let leader = step(&answer["steps"], "leader")?;
    ensure!(
        leader["outcome"] == "Failed"
            && leader["message"].as_str().is_some_and(|text| text.contains("no replica leads")),
        "{answer:#}"
    );
    let schema = serde_json::to_value(&ours.spec)?;
    let back =
        json!({"spec": schema, "metadata": {"annotations": {VERSION_ANNOTATION: env!("CARGO_PKG_VERSION")}}});
    definitions.patch(name, &PatchParams::default(), &Patch::Merge(back)).await?;
    Ok(())
}
