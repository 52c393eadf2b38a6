//! Five hundred Secrets in twenty namespaces under one ClusterKeyVaultSync: how many calls, never how long.
//! Memory and speed are left to `cargo xtask bench`.

use anyhow::{Context, ensure};
use futures::future::try_join_all;
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Namespace;
use keyvault_emulator::{Call, Effect, Fault, Operation};
use keyvault_sync_api::KeyVaultCertificate;
use keyvault_sync_e2e::Scene;
use keyvault_sync_e2e::operator::Operator;
use keyvault_sync_e2e::scene::imports;
use keyvault_sync_e2e::wait::{self, Seen};
use kube::Api;
use kube::api::DeleteParams;
use serde_json::json;

keyvault_sync_e2e::promises!(OneByOne:
    five_hundred_secrets_cost_no_more_calls_than_they_must,
    of_twenty_secrets_just_the_three_that_match_are_read,
);

const NAMESPACES: usize = 20;
const OF_ONE_NAMESPACE: usize = 25;
const ALL: usize = NAMESPACES * OF_ONE_NAMESPACE;
/// Requests of the test itself at a time.
const AT_A_TIME: usize = 16;
/// Rows of a status, and what it may weigh: etcd takes 1.5 MiB, and every watch of it costs as much again.
const ROWS_MAX: usize = 100;
const STATUS_BYTES_MAX: usize = 100_000;

async fn five_hundred_secrets_cost_no_more_calls_than_they_must(scene: Scene) -> anyhow::Result<()> {
    let names: Vec<String> = (0..NAMESPACES).map(|number| format!("{number:02}")).collect();
    let tenants = try_join_all(names.iter().map(|name| scene.tenant(name))).await?;
    let all = json!({"namespaces": {"names": [format!("{}-*", scene.name())]}, "push": ["{namespace}--*"]});
    scene
        .key_vault(scene.name(), json!({"url": format!("https://{}", scene.host()), "grants": [all]}))
        .await?;
    let secrets: Vec<(Scene, String)> = tenants
        .iter()
        .flat_map(|tenant| {
            (0..OF_ONE_NAMESPACE).map(move |number| (tenant.clone(), format!("tls-{number:02}")))
        })
        .collect();
    futures::stream::iter(secrets)
        .map(|(tenant, secret)| async move { tenant.renew(&secret).await.map(drop) })
        .buffer_unordered(AT_A_TIME)
        .try_collect::<Vec<()>>()
        .await?;
    let operator = scene.stage().operator().await?;
    scene.cluster_sync("many", json!({"selector": {}, "deletionPolicy": "Delete"})).await?;
    let count = format!("{ALL}/{ALL}");
    for stage in (0..ALL).step_by(100) {
        // Patience is for the next hundred, not for all: how fast they come is no promise here.
        let is_beyond = |synced: &str| {
            synced
                .split('/')
                .next()
                .and_then(|synced| synced.parse::<usize>().ok())
                .is_some_and(|so_far| so_far > stage)
        };
        progress(&scene, &format!("more than {stage}"), is_beyond).await?;
    }
    let status = scene.cluster_synced("many", &count).await?;
    ensure!(status.certificates.len() == ROWS_MAX, "{} rows", status.certificates.len());
    let weight = serde_json::to_vec(&status)?.len();
    ensure!(weight < STATUS_BYTES_MAX, "the status weighs {weight} bytes");
    ensure!(imports(&scene.calls()) == ALL, "{} imports", imports(&scene.calls()));

    a_renewal_costs_a_look_and_an_import_and_waits_for_nobody(&scene, &tenants).await?;
    let operator = a_restart_costs_no_vault_call_and_no_secret(&scene, operator).await?;
    scene.cluster_synced("many", &count).await?;
    a_namespace_that_goes_takes_only_its_own_along(&scene, &tenants).await?;
    operator.terminate().await.map(drop)
}

/// Waits until so many are synced, whether or not the others have been looked at.
async fn progress(scene: &Scene, what: &str, is_enough: impl Fn(&str) -> bool) -> anyhow::Result<()> {
    wait::object(&scene.cluster_syncs(), "many", &format!("to have {what}"), |sync| {
        sync.status.as_ref().and_then(|status| status.synced.as_deref()).is_some_and(&is_enough)
    })
    .await
    .map(drop)
}

async fn a_renewal_costs_a_look_and_an_import_and_waits_for_nobody(
    scene: &Scene,
    tenants: &[Scene],
) -> anyhow::Result<()> {
    let (first, second) = (tenants.first().context("no namespace")?, tenants.get(1).context("no namespace")?);
    let hanging = format!("{}--tls-00", first.name());
    let held = scene.fault(&hanging, Fault::new(Effect::Hang).operation(Operation::Import));
    first.renew("tls-00").await?;
    scene.called("the import that hangs", |call| is_about(call, &hanging) && !call.answered).await?;
    let renewed = format!("{}--tls-00", second.name());
    let before = scene.calls_about(&renewed).len();
    second.renew("tls-00").await?;
    two_versions(scene, &renewed).await?;
    ensure!(scene.versions(&hanging).len() == 1, "nothing was held up");
    let operations: Vec<Operation> =
        scene.calls_about(&renewed).split_off(before).iter().map(|call| call.operation).collect();
    ensure!(operations == [Operation::GetCertificate, Operation::Import], "{operations:?}");
    scene.emulator().clear_fault(held);
    two_versions(scene, &hanging).await
}

fn is_about(call: &Call, certificate: &str) -> bool {
    call.operation == Operation::Import && call.name.as_deref() == Some(certificate)
}

async fn two_versions(scene: &Scene, certificate: &str) -> anyhow::Result<()> {
    wait::until(&format!("two versions of {certificate}"), || async {
        let versions = scene.versions(certificate).len();
        Ok(if versions == 2 { Seen::Done(()) } else { Seen::NotYet(format!("{versions} versions")) })
    })
    .await?;
    let claim = scene.claim_name(certificate);
    wait::object(&scene.claims(), &claim, "to have its receipt", |claim| {
        claim.status.as_ref().is_some_and(|status| status.in_flight.is_none())
    })
    .await
    .map(drop)
}

async fn a_restart_costs_no_vault_call_and_no_secret(
    scene: &Scene,
    operator: Operator,
) -> anyhow::Result<Operator> {
    operator.terminate().await?;
    let (calls, reads) = (scene.calls().len(), secret_reads(scene).await?);
    let operator = scene.stage().operator().await?;
    wait::until("a round over every claim", || async {
        let metrics = operator.metrics().await?;
        let rounds = metrics
            .lines()
            .find_map(|line| {
                line.strip_prefix(
                    "keyvault_sync_reconciles_total{controller=\"certificate\",reason=\"Synced\"} ",
                )
            })
            .and_then(|count| count.trim().parse::<usize>().ok())
            .unwrap_or_default();
        Ok(if rounds >= ALL { Seen::Done(()) } else { Seen::NotYet(format!("{rounds} rounds")) })
    })
    .await?;
    let made = scene.calls().split_off(calls);
    ensure!(made.is_empty(), "{} vault calls, the first: {:?}", made.len(), made.first());
    let read = secret_reads(scene).await? - reads;
    ensure!(read == 0, "{read} Secrets were read");
    Ok(operator)
}

/// How many single Secrets were read so far, by whomever, by the API server's own count.
async fn secret_reads(scene: &Scene) -> anyhow::Result<u64> {
    of_secrets(scene, "apiserver_request_total{", "GET").await
}

/// Bytes of the lists of Secrets that were answered so far.
async fn listed_bytes(scene: &Scene) -> anyhow::Result<u64> {
    of_secrets(scene, "apiserver_response_sizes_sum{", "LIST").await
}

/// The API server's own sum of that metric over requests of that verb for Secrets.
async fn of_secrets(scene: &Scene, metric: &str, verb: &str) -> anyhow::Result<u64> {
    let request = http::Request::get("/metrics").body(Vec::new())?;
    let metrics = scene.stage().client().request_text(request).await?;
    let verb = format!("verb=\"{verb}\"");
    let is_meant = |line: &&str| {
        line.starts_with(metric) && line.contains("resource=\"secrets\"") && line.contains(&verb)
    };
    let values =
        metrics.lines().filter(is_meant).filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
    Ok(values.sum::<f64>() as u64)
}

async fn of_twenty_secrets_just_the_three_that_match_are_read(scene: Scene) -> anyhow::Result<()> {
    const LARGE: usize = 900_000;
    let large = [("blob".to_owned(), "x".repeat(LARGE))].into();
    for name in ["large-1", "large-2"] {
        scene.put_entries(name, &large).await?;
    }
    let all: Vec<String> = (0..20).map(|number| format!("tls-{number:02}")).collect();
    for secret in &all {
        scene.renew(secret).await?;
    }
    let listed = listed_bytes(&scene).await?;
    let operator = scene.stage().operator().await?;
    let listed = listed_bytes(&scene).await? - listed;
    // Metadata alone, also of the hundreds before these.
    ensure!((1..2 * LARGE as u64).contains(&listed), "what was listed at the start weighs {listed} bytes");

    scene.sync("web", json!({"selector": {"matchLabels": {"sync": "true"}}})).await?;
    scene.synced("web", "0/0").await?;
    let reads = secret_reads(&scene).await?;
    for (number, secret) in all.iter().step_by(7).enumerate() {
        scene.mark(secret, json!({"sync": "true"}), json!({})).await?;
        let count = number + 1;
        scene.synced("web", &format!("{count}/{count}")).await?;
    }
    let read = secret_reads(&scene).await? - reads;
    // A round that has to wait for its turn reads its Secret anew.
    ensure!((3..=6).contains(&read), "{read} reads for three Secrets that match");
    operator.terminate().await.map(drop)
}

async fn a_namespace_that_goes_takes_only_its_own_along(
    scene: &Scene,
    tenants: &[Scene],
) -> anyhow::Result<()> {
    let gone = tenants.last().context("no namespace")?;
    let before = scene.calls().len();
    let namespaces = Api::<Namespace>::all(scene.stage().client().clone());
    namespaces.delete(gone.name(), &DeleteParams::background()).await?;
    let left = ALL - OF_ONE_NAMESPACE;
    scene.cluster_synced("many", &format!("{left}/{left}")).await?;
    wait::until("the claims of the namespace to be gone", || async {
        let claims = scene.claims().list(&Default::default()).await?.items;
        let of_gone = |claim: &&KeyVaultCertificate| {
            claim.spec.sources.iter().any(|source| source.namespace == gone.name())
        };
        let there = claims.iter().filter(of_gone).count();
        Ok(if there == 0 { Seen::Done(()) } else { Seen::NotYet(format!("{there} claims")) })
    })
    .await?;
    let calls = scene.calls().split_off(before);
    let of_gone = format!("{}--", gone.name());
    let strangers: Vec<_> = calls
        .iter()
        .filter(|call| !call.name.as_deref().is_some_and(|name| name.starts_with(&of_gone)))
        .collect();
    ensure!(strangers.is_empty(), "calls about others: {strangers:?}");
    let deleted = calls.iter().filter(|call| call.operation == Operation::DeleteCertificate).count();
    ensure!(deleted == OF_ONE_NAMESPACE, "{deleted} deletions");
    Ok(())
}
