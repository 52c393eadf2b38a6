//! Two clusters before one vault: they do not fight, and the loser is told who owns what.
//! Each has an operator of its own.

use std::future::Future;
use std::sync::Arc;

use anyhow::{Context, ensure};
use keyvault_emulator::StoredVersion;
use keyvault_sync_api::CertificateState;
use keyvault_sync_e2e::certificates::Leaf;
use keyvault_sync_e2e::operator::Operator;
use keyvault_sync_e2e::scene::{imports, says, writes};
use keyvault_sync_e2e::{Scene, Stage};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

keyvault_sync_e2e::promises!(OneByOne:
    of_two_clusters_the_second_is_told_who_owns_it_and_nothing_alternates,
    a_certificate_moves_to_another_cluster_once_and_does_not_come_back,
    two_clusters_of_one_id_repair_once_and_then_one_gives_way,
    two_clusters_of_one_id_and_equal_secrets_write_nothing_twice,
);

/// How often both clusters compare; an alternation would show in any of them.
const ROUNDS: usize = 3;

async fn of_two_clusters_the_second_is_told_who_owns_it_and_nothing_alternates(
    scene: Scene,
) -> anyhow::Result<()> {
    let both = Both::with_ids(scene, "one", "two").await?;
    both.play(|first, second| async move {
        first.renew("web-tls").await?;
        first.sync_of("web", &["web-tls"]).await?;
        first.synced("web", "1/1").await?;
        let owner = format!("one/KeyVaultSync/{}/web", first.name());
        second.renew("web-tls").await?;
        // The same resource, by its name: only the cluster is another.
        second.sync_of("web", &["web-tls"]).await?;
        let row = second.row("web", "web-tls", "OwnedByAnother").await?;
        ensure!(row.state == CertificateState::Failed, "{row:?}");
        says(&row, &[&owner, "left alone"])?;
        second.told("web", "OwnedByAnother", &[&owner]).await?;

        both_compare(&first, &second, "before").await?;
        let renewed = first.renew("web-tls").await?;
        first.holds("web", "web-tls", &renewed).await?;
        second.renew("web-tls").await?;
        both_compare(&first, &second, "after").await?;
        first.holds("web", "web-tls", &renewed).await?;
        second.row("web", "web-tls", "OwnedByAnother").await?;
        let versions = first.versions("web-tls");
        ensure!(versions.len() == 2 && owners(&versions) == [&*owner, &*owner], "{versions:?}");
        ensure!(writes(&first.calls()).len() == 2, "{:?}", first.calls());
        Ok(())
    })
    .await
}

async fn a_certificate_moves_to_another_cluster_once_and_does_not_come_back(
    scene: Scene,
) -> anyhow::Result<()> {
    let both = Both::with_ids(scene, "one", "two").await?;
    both.play(|first, second| async move {
        let names = ["same", "other"];
        for scene in [&first, &second] {
            scene.key_vault(scene.name(), scene.open_to_us()).await?;
        }
        let mut issued = Vec::new();
        for name in names {
            issued.push(first.renew(name).await?);
        }
        // Each would take over from the other; who has had it does not.
        first.sync("web", moving(&names, "two")).await?;
        first.synced("web", "2/2").await?;
        let (one, two) = (
            format!("one/KeyVaultSync/{}/web", first.name()),
            format!("two/KeyVaultSync/{}/web", first.name()),
        );

        let same = issued.first().context("none")?;
        second.put_issued("same", same).await?;
        let other = second.renew("other").await?;
        second.sync("web", moving(&names, "one")).await?;
        for name in names {
            second.row("web", name, "NotGranted").await?;
        }
        for scene in [&first, &second] {
            scene.key_vault(scene.name(), scene.open_to_adopt()).await?;
        }
        second.holds("web", "same", same).await?;
        second.holds("web", "other", &other).await?;
        second.told("web", "Adopted", &["same", &one, "no version was made"]).await?;
        second.told("web", "Adopted", &["other", &one, "its content differs"]).await?;

        for round in 0..ROUNDS {
            if round == 1 {
                // New content makes no difference.
                first.renew("other").await?;
            }
            first.compare("web", &format!("first-{round}"), &names).await?;
            for name in names {
                let row = first.row("web", name, "OwnedByAnother").await?;
                says(&row, &[&two])?;
            }
            second.compare("web", &format!("second-{round}"), &names).await?;
            second.synced("web", "2/2").await?;
            ensure!(owners(&first.versions("same")) == [&*two], "{:?}", first.versions("same"));
            ensure!(owners(&first.versions("other")) == [&*one, &*two], "{:?}", first.versions("other"));
        }
        first.told("web", "OwnedByAnother", &[&two]).await?;
        ensure!(writes(&first.calls()).len() == 4, "{:?}", first.calls());
        Ok(())
    })
    .await
}

async fn two_clusters_of_one_id_repair_once_and_then_one_gives_way(scene: Scene) -> anyhow::Result<()> {
    let both = Both::with_ids(scene, "same", "same").await?;
    both.play(|first, second| async move {
        let here = first.renew("web-tls").await?;
        first.sync_of("web", &["web-tls"]).await?;
        first.holds("web", "web-tls", &here).await?;
        let there = second.renew("web-tls").await?;
        second.sync_of("web", &["web-tls"]).await?;
        second.holds("web", "web-tls", &there).await?;
        ensure!(first.versions("web-tls").len() == 2, "{} versions", first.versions("web-tls").len());

        // Each finds the other's once, and repairs it.
        for (number, scene) in [&first, &second].into_iter().enumerate() {
            scene.compare("web", "repair", &["web-tls"]).await?;
            scene.told("web", "Imported", &["another version with our owner tag"]).await?;
            ensure!(first.versions("web-tls").len() == number + 3, "{:?}", first.versions("web-tls"));
        }
        first.compare("web", "give-way", &["web-tls"]).await?;
        let row = first.row("web", "web-tls", "OwnedByAnother").await?;
        ensure!(row.state == CertificateState::Failed, "{row:?}");
        says(&row, &["for the second time", "cluster id same", "--cluster-id"])?;
        first.told("web", "OwnedByAnother", &["--cluster-id"]).await?;
        both_compare(&first, &second, "at-rest").await?;
        first.row("web", "web-tls", "OwnedByAnother").await?;
        second.holds("web", "web-tls", &there).await?;
        ensure!(first.versions("web-tls").len() == 4, "{} versions", first.versions("web-tls").len());

        // What is renewed is pushed; the other has had its one repair.
        let renewed = first.renew("web-tls").await?;
        first.holds("web", "web-tls", &renewed).await?;
        both_compare(&first, &second, "renewed").await?;
        second.row("web", "web-tls", "OwnedByAnother").await?;
        first.holds("web", "web-tls", &renewed).await?;
        ensure!(first.versions("web-tls").len() == 5, "{} versions", first.versions("web-tls").len());
        Ok(())
    })
    .await
}

async fn two_clusters_of_one_id_and_equal_secrets_write_nothing_twice(scene: Scene) -> anyhow::Result<()> {
    let both = Both::with_ids(scene, "same", "same").await?;
    both.play(|first, second| async move {
        let issued = first.renew("web-tls").await?;
        first.sync_of("web", &["web-tls"]).await?;
        first.holds("web", "web-tls", &issued).await?;
        second.put_issued("web-tls", &issued).await?;
        second.sync_of("web", &["web-tls"]).await?;
        second.holds("web", "web-tls", &issued).await?;
        both_compare(&first, &second, "first").await?;
        ensure!(writes(&first.calls()).len() == 1, "{:?}", first.calls());

        // As one issuer's renewal reaches them, one after the other.
        let renewed = first.issue(&Leaf::server("renewed"))?;
        for scene in [&first, &second] {
            scene.stage().guard(&renewed.key);
            scene.put_issued("web-tls", &renewed).await?;
            scene.holds("web", "web-tls", &renewed).await?;
        }
        both_compare(&first, &second, "renewed").await?;
        for scene in [&first, &second] {
            scene.holds("web", "web-tls", &renewed).await?;
        }
        ensure!(writes(&first.calls()).len() == 2 && imports(&first.calls()) == 2, "{:?}", first.calls());
        Ok(())
    })
    .await
}

/// One vault, seen from two clusters, each with its operator.
struct Both {
    first: Scene,
    second: Scene,
    operators: [Operator; 2],
}

impl Both {
    async fn with_ids(first: Scene, one: &str, two: &str) -> anyhow::Result<Both> {
        /// The second cluster of all tests of this file; it ends with this process.
        static BESIDE: OnceCell<Arc<Stage>> = OnceCell::const_new();
        let stage = BESIDE.get_or_try_init(|| async { first.stage().beside().await.map(Arc::new) }).await?;
        let second = first.in_cluster(Arc::clone(stage)).await?;
        let start = async |scene: &Scene, id: &str| {
            scene.stage().operator_with(&[&format!("--cluster-id={id}")]).await
        };
        let operators = [start(&first, one).await?, start(&second, two).await?];
        Ok(Both { first, second, operators })
    }

    /// Plays a test, ends the operators, and looks for keys where the second cluster could show them. A failure says what
    /// was to be seen in that cluster too.
    async fn play<Playing>(self, test: impl FnOnce(Scene, Scene) -> Playing) -> anyhow::Result<()>
    where
        Playing: Future<Output = anyhow::Result<()>>,
    {
        if let Err(error) = test(self.first.clone(), self.second.clone()).await {
            anyhow::bail!("{error:#}\nIn the second cluster:\n{}", self.second.dump().await);
        }
        for operator in &self.operators {
            operator.terminate().await?;
        }
        let leak = self.second.stage().leak().await?;
        ensure!(leak.is_none(), "{leak:?}");
        Ok(())
    }
}

/// Both clusters compare, again and again, one after the other.
async fn both_compare(first: &Scene, second: &Scene, when: &str) -> anyhow::Result<()> {
    for round in 0..ROUNDS {
        for scene in [first, second] {
            scene.compare("web", &format!("{when}-{round}"), &["web-tls"]).await?;
        }
    }
    Ok(())
}

fn moving(secrets: &[&str], from: &str) -> Value {
    let certificates: Vec<Value> = secrets.iter().map(|secret| json!({"secretName": secret})).collect();
    json!({"certificates": certificates, "adoptFromClusters": [from]})
}

fn owners(versions: &[StoredVersion]) -> Vec<&str> {
    versions
        .iter()
        .map(|version| version.tags.get("keyvault-sync-owner").map_or("", String::as_str))
        .collect()
}
