//! Known failures of cert-manager-key-vault-sync that are about the process: files, memory, signals, an API server that goes
//! away. One after the other: each test has an operator of its own.

use std::collections::BTreeMap;

use anyhow::{Context, ensure};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use keyvault_emulator::{Effect, Fault, Operation};
use keyvault_sync_e2e::Scene;
use keyvault_sync_e2e::certificates::{KeyType, Leaf};
use keyvault_sync_e2e::operator::Operator;
use keyvault_sync_e2e::scene::{imports, writes};
use keyvault_sync_e2e::wait::{self, Seen};
use kube::api::PostParams;
use serde_json::json;

keyvault_sync_e2e::promises!(OneByOne:
    no_file_is_written,
    an_api_server_that_went_away_leaves_one_writer_and_makes_no_version,
    an_api_server_that_hangs_makes_no_version,
    sigterm_ends_it_in_order_also_while_a_vault_hangs,
    secrets_of_helm_cost_no_memory,
);

async fn no_file_is_written(scene: Scene) -> anyhow::Result<()> {
    let operator = scene.stage().operator().await?;
    // Keys of every kind that a library might write down on its way, one that is refused, and one that is pushed again.
    for (secret, key_type) in [("rsa", KeyType::Rsa2048), ("ec", KeyType::P256), ("ed", KeyType::Ed25519)] {
        scene.put_issued(secret, &scene.issue(&Leaf::server("www.example.com").key_type(key_type))?).await?;
    }
    scene.sync_of("web", &["rsa", "ec", "ed"]).await?;
    scene.row("web", "ed", "UnsupportedKeyType").await?;
    for secret in ["rsa", "ec"] {
        scene.row("web", secret, "Synced").await?;
        let renewed = scene.renew(secret).await?;
        scene.holds("web", secret, &renewed).await?;
    }
    let files: Vec<_> = std::fs::read_dir(operator.folder())?.collect();
    ensure!(files.is_empty(), "files in its folder and TMPDIR: {files:?}");
    // Nor does it hold one open: only what the test gave it to log to.
    let log = operator.log_path().canonicalize()?;
    for entry in std::fs::read_dir(format!("/proc/{}/fd", operator.pid()))? {
        let Ok(target) = std::fs::read_link(entry?.path()) else { continue };
        let is_file = target.is_absolute() && !target.starts_with("/dev") && !target.starts_with("/proc");
        ensure!(!is_file || target == log, "{} is open", target.display());
    }
    operator.terminate().await?;
    let files: Vec<_> = std::fs::read_dir(operator.folder())?.collect();
    ensure!(files.is_empty(), "left behind: {files:?}");
    Ok(())
}

/// An operator that has pushed a first version of `web-tls`, and in what number its calls are.
async fn pushed(scene: &Scene) -> anyhow::Result<Operator> {
    let operator = scene.stage().operator().await?;
    let issued = scene.renew("web-tls").await?;
    scene.sync_of("web", &["web-tls"]).await?;
    scene.holds("web", "web-tls", &issued).await?;
    Ok(operator)
}

async fn an_api_server_that_went_away_leaves_one_writer_and_makes_no_version(
    scene: Scene,
) -> anyhow::Result<()> {
    let operator = pushed(&scene).await?;
    for round in 0_usize..2 {
        let before = scene.calls().len();
        let failures = || operator.log().matches("watch failed").count();
        let failed = failures();
        // Every connection is reset, then nobody listens.
        if round == 0 {
            scene.stage().cluster.kill_apiserver();
        } else {
            scene.stage().cluster.stop_apiserver().await;
        }
        wait::until("the operator to notice", || async {
            Ok(if failures() > failed {
                Seen::Done(())
            } else {
                Seen::NotYet("no watch failed in its log".into())
            })
        })
        .await?;
        scene.stage().cluster.start_apiserver().await?;
        scene.sync_now("web", &format!("round {round}")).await?;
        let when = format!("round {round}");
        wait::object(&scene.claims(), &scene.claim_name("web-tls"), "to be compared", |claim| {
            let seen = claim.status.as_ref().and_then(|status| status.observed_generation);
            claim.spec.sync_at.as_deref() == Some(&when) && seen == claim.metadata.generation
        })
        .await?;
        let calls = scene.calls().split_off(before);
        ensure!(writes(&calls).is_empty(), "{:?}", writes(&calls));
        ensure!(operator.exited().is_none(), "the operator has ended");
        // It goes on, alone: a renewal is one version.
        let renewed = scene.renew("web-tls").await?;
        scene.holds("web", "web-tls", &renewed).await?;
        ensure!(scene.versions("web-tls").len() == round + 2, "{} versions", scene.versions("web-tls").len());
    }
    ensure!(imports(&scene.calls()) == 3, "{:?}", scene.calls());
    operator.terminate().await.map(drop)
}

async fn an_api_server_that_hangs_makes_no_version(scene: Scene) -> anyhow::Result<()> {
    let operator = pushed(&scene).await?;
    // It hangs while an import is under way: the receipt cannot be stored, and is taken when that can be done.
    let held = scene.fault("web-tls", Fault::new(Effect::Hang).operation(Operation::Import).times(1));
    let issued = scene.renew("web-tls").await?;
    scene.called("the import", |call| call.operation == Operation::Import && call.ended_us.is_none()).await?;
    scene.stage().cluster.suspend_apiserver();
    scene.emulator().clear_fault(held);
    wait::until("the second version", || async {
        let versions = scene.versions("web-tls").len();
        Ok(if versions == 2 { Seen::Done(()) } else { Seen::NotYet(format!("{versions} versions")) })
    })
    .await?;
    scene.stage().cluster.resume_apiserver();
    scene.holds("web", "web-tls", &issued).await?;
    wait::object(&scene.claims(), &scene.claim_name("web-tls"), "to have its receipt", |claim| {
        claim.status.as_ref().is_some_and(|status| status.in_flight.is_none())
    })
    .await?;
    ensure!(scene.versions("web-tls").len() == 2, "{} versions", scene.versions("web-tls").len());
    operator.terminate().await.map(drop)
}

async fn sigterm_ends_it_in_order_also_while_a_vault_hangs(scene: Scene) -> anyhow::Result<()> {
    let operator = pushed(&scene).await?;
    // Idle, it ends at once: nothing is in hand.
    let status = operator.terminate().await?;
    ensure!(status.success(), "{status}");
    let operator = scene.stage().operator().await?;
    let hanging = scene.emulator().inject(Fault::new(Effect::Hang).host(&scene.host()));
    scene.renew("web-tls").await?;
    scene.called("a call that hangs", |call| call.ended_us.is_none()).await?;
    // A vault that never answers does not keep it: `terminate` gives it a minute, as Kubernetes may.
    let status = operator.terminate().await?;
    ensure!(status.success(), "{status}");
    scene.emulator().clear_fault(hanging);
    Ok(())
}

/// Secrets such as Helm keeps its releases in, and how large they are.
const RELEASES: usize = 40;
const RELEASE_BYTES: usize = 500_000;
/// By what the operator may grow while they are made: half of what they hold.
const GROWTH_KB_MAX: u64 = 10_000;

async fn secrets_of_helm_cost_no_memory(scene: Scene) -> anyhow::Result<()> {
    let operator = pushed(&scene).await?;
    // Selected or not: they are of another type.
    let everything = json!({"selector": {"names": ["sh.helm.*"]}});
    scene.sync("everything", everything).await?;
    // The first of its work is done: what it needs at all, it has.
    let renewed = scene.renew("web-tls").await?;
    scene.holds("web", "web-tls", &renewed).await?;
    let before = resident_kb(&operator)?;
    let data = BTreeMap::from([("release".to_owned(), ByteString(vec![b'x'; RELEASE_BYTES]))]);
    for number in 0..RELEASES {
        let release = Secret {
            metadata: ObjectMeta {
                name: Some(format!("sh.helm.release.v1.shop.v{number}")),
                labels: Some(BTreeMap::from([("owner".to_owned(), "helm".to_owned())])),
                ..ObjectMeta::default()
            },
            type_: Some("helm.sh/release.v1".to_owned()),
            data: Some(data.clone()),
            ..Secret::default()
        };
        scene.secrets().create(&PostParams::default(), &release).await?;
    }
    // Whatever it had to do about them, it did before this.
    let renewed = scene.renew("web-tls").await?;
    scene.holds("web", "web-tls", &renewed).await?;
    let growth = resident_kb(&operator)?.saturating_sub(before);
    ensure!(growth < GROWTH_KB_MAX, "grown by {growth} kB from {before} kB");
    operator.terminate().await?;

    // Nor at a start, when all of them are listed.
    let operator = scene.stage().operator().await?;
    let renewed = scene.renew("web-tls").await?;
    scene.holds("web", "web-tls", &renewed).await?;
    let with_them = resident_kb(&operator)?;
    ensure!(
        with_them < before + GROWTH_KB_MAX,
        "{with_them} kB after a start with them, {before} kB without them"
    );
    operator.terminate().await.map(drop)
}

/// Memory that a process has in use, kB.
fn resident_kb(operator: &Operator) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", operator.pid()))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches("kB").trim().parse()?)
}
