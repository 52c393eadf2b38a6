//! What somebody changes in the vault is found at the next comparison, repaired once, and told.
//! How many calls a comparison costs is counted.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, ensure};
use futures::future::try_join_all;
use keyvault_emulator::{Call, Operation, Permissions, Put};
use keyvault_sync_api::conditions::{self, READY};
use keyvault_sync_api::{CertificateState, KeyVault};
use keyvault_sync_core::inventory::next_comparison;
use keyvault_sync_core::names::{Cloud, VaultHost};
use keyvault_sync_e2e::Scene;
use keyvault_sync_e2e::certificates::Leaf;
use keyvault_sync_e2e::scene::{claim_ready, ders, imports, note, says, writes};
use keyvault_sync_e2e::stage::CLIENT;
use keyvault_sync_e2e::wait::{self, PATIENCE};
use serde_json::{Value, json};

keyvault_sync_e2e::promises!(Together:
    who_may_not_list_is_compared_one_by_one_and_tries_the_list_once,
    sixty_certificates_are_compared_by_three_calls_and_only_what_differs_costs_more,
    a_restart_shifts_no_comparison_and_costs_no_call,
    each_keyvault_compares_what_goes_through_it,
    a_single_certificate_is_compared_by_one_read,
    asked_of_the_sync_every_drift_is_repaired_or_refused_and_told,
    asked_of_the_keyvault_every_drift_is_repaired_or_refused_and_told,
    what_somebody_disabled_stays_disabled_and_a_renewal_is_a_new_version,
    what_lost_its_owner_tag_is_nobodys_until_it_is_given_back,
    a_foreign_write_under_our_name_is_repaired_once,
);

/// The operator looks for changed KeyVaults every 30 s, and does not make the comparison in which it first sees one.
const SOON: Range<i64> = 45..65;
/// Time for an operator to end and another to start before it.
const AFTER_A_RESTART: Range<i64> = 90..110;
/// The shortest and the longest interval, seconds.
const INTERVALS: Range<i64> = 300..86_400;

// What is found when somebody asks.

/// Whom a comparison is asked of.
#[derive(Clone, Copy)]
enum Asked {
    Sync,
    KeyVault,
}

async fn asked_of_the_sync_every_drift_is_repaired_or_refused_and_told(scene: Scene) -> anyhow::Result<()> {
    every_drift(&scene, Asked::Sync).await
}

async fn asked_of_the_keyvault_every_drift_is_repaired_or_refused_and_told(
    scene: Scene,
) -> anyhow::Result<()> {
    every_drift(&scene, Asked::KeyVault).await
}

async fn every_drift(scene: &Scene, asked: Asked) -> anyhow::Result<()> {
    let names = [
        "untouched",
        "deleted",
        "purged",
        "replaced",
        "copied",
        "retagged",
        "locked",
        "disabled",
        "stripped",
    ];
    let mut issued = BTreeMap::new();
    for name in names {
        issued.insert(name, scene.renew(name).await?);
    }
    let certificates: Vec<Value> = names.iter().map(|name| json!({"secretName": name})).collect();
    scene.sync("web", json!({"certificates": certificates, "tags": {"team": "web"}})).await?;
    scene.synced("web", "9/9").await?;
    let ours = tags_of(scene, "retagged")?;
    let before = scene.calls().len();

    let (emulator, host) = (scene.emulator(), scene.host());
    emulator.soft_delete(&host, "deleted");
    emulator.purge(&host, "purged");
    let theirs = scene.put_by_others("replaced", &scene.issue(&Leaf::server("theirs"))?, &[])?;
    // By a program that keeps the tags it finds.
    let copied = tags_of(scene, "copied")?;
    let copied: Vec<(&str, &str)> = copied.iter().map(|(name, value)| (&**name, &**value)).collect();
    scene.put_by_others("copied", &scene.issue(&Leaf::server("theirs"))?, &copied)?;
    let mut tags = ours.clone();
    tags.extend([("team".to_owned(), "theirs".to_owned()), ("stranger".to_owned(), "x".to_owned())]);
    emulator.set_tags(&host, "retagged", None, tags);
    // The same again, so that the key cannot be read back.
    let locked = Put { tags: tags_of(scene, "locked")?, exportable: false, ..Put::default() };
    let pfx = issued.get("locked").context("not issued")?.pfx("password")?;
    emulator.put_certificate_with(&host, "locked", &pfx, "password", locked);
    emulator.set_enabled(&host, "disabled", None, false);
    emulator.set_tags(&host, "stripped", None, BTreeMap::new());

    match asked {
        Asked::Sync => scene.sync_now("web", "look").await?,
        Asked::KeyVault => scene.vault_now("look").await?,
    }
    for (name, reason, words) in [
        ("deleted", "Recovered", &["deleted in the vault"][..]),
        ("purged", "Imported", &["deleted and purged"]),
        ("replaced", "Imported", &["imported another version over it"]),
        ("retagged", "Retagged", &["\"team\"", "removed \"stranger\""]),
        ("locked", "Imported", &["exportable"]),
        ("disabled", "DisabledInVault", &["disabled"]),
        ("stripped", "NotManaged", &["no owner tag", "left alone"]),
    ] {
        let event = scene.told_about("web", name, reason, words).await?;
        ensure!(!note(&event).contains("  "), "a gap: {event:?}");
    }
    for name in ["untouched", "deleted", "purged", "replaced", "copied", "retagged", "locked"] {
        scene.compared(name, "look").await?;
        wait::object(&scene.claims(), &scene.claim_name(name), "to be Synced", |claim| {
            claim_ready(claim).is_some_and(|ready| ready.reason == "Synced")
        })
        .await?;
        let newest = scene.versions(name).pop().context("no version")?;
        let wanted = issued.get(name).context("not issued")?;
        ensure!(newest.chain_der == ders(&wanted.tls_crt())?, "{name} is not the Secret's: {newest:?}");
    }
    for (name, reason, words) in
        [("disabled", "DisabledInVault", "disabled"), ("stripped", "NotManaged", "no owner tag")]
    {
        let row = scene.row("web", name, reason).await?;
        ensure!(row.state == CertificateState::Failed, "{row:?}");
        says(&row, &[words])?;
    }

    let counts = names.map(|name| scene.versions(name).len());
    ensure!(counts == [1, 1, 1, 3, 3, 1, 3, 1, 1], "{names:?} {counts:?}");
    let replaced = scene.versions("replaced");
    let order: Vec<bool> = replaced.iter().map(|version| version.version == theirs).collect();
    ensure!(order == [false, true, false], "{replaced:?}");
    ensure!(tags_of(scene, "retagged")? == ours, "{:?}", tags_of(scene, "retagged")?);
    ensure!(scene.versions("locked").last().is_some_and(|version| version.exportable), "still locked");
    ensure!(scene.versions("disabled").iter().all(|version| !version.enabled), "enabled again");
    ensure!(tags_of(scene, "stripped")?.is_empty(), "{:?}", tags_of(scene, "stripped")?);
    let calls = since(scene, before);
    let untouched: Vec<Operation> = calls
        .iter()
        .filter(|call| call.name.as_deref() == Some("untouched"))
        .map(|call| call.operation)
        .collect();
    ensure!(untouched == [Operation::GetCertificate], "{untouched:?}");

    // Repaired is repaired.
    let after = scene.calls().len();
    ensure!(writes(&calls).len() == 6, "{calls:?}");
    match asked {
        Asked::Sync => scene.sync_now("web", "once-more").await?,
        Asked::KeyVault => scene.vault_now("once-more").await?,
    }
    for name in names {
        scene.compared(name, "once-more").await?;
    }
    ensure!(writes(&since(scene, after)).is_empty(), "{:?}", since(scene, after));
    Ok(())
}

async fn what_somebody_disabled_stays_disabled_and_a_renewal_is_a_new_version(
    scene: Scene,
) -> anyhow::Result<()> {
    scene.renew("web-tls").await?;
    scene.sync_of("web", &["web-tls"]).await?;
    scene.synced("web", "1/1").await?;
    scene.emulator().set_enabled(&scene.host(), "web-tls", None, false);
    scene.vault_now("look").await?;
    scene.row("web", "web-tls", "DisabledInVault").await?;
    scene.compare("web", "again", &["web-tls"]).await?;
    ensure!(enabled(&scene) == [false], "{:?}", scene.versions("web-tls"));
    let renewed = scene.renew("web-tls").await?;
    scene.holds("web", "web-tls", &renewed).await?;
    ensure!(enabled(&scene) == [false, true], "{:?}", scene.versions("web-tls"));
    Ok(())
}

fn enabled(scene: &Scene) -> Vec<bool> {
    scene.versions("web-tls").iter().map(|version| version.enabled).collect()
}

async fn what_lost_its_owner_tag_is_nobodys_until_it_is_given_back(scene: Scene) -> anyhow::Result<()> {
    scene.renew("web-tls").await?;
    scene.sync_of("web", &["web-tls"]).await?;
    scene.synced("web", "1/1").await?;
    let ours = tags_of(&scene, "web-tls")?;
    let mut stripped = ours.clone();
    stripped.retain(|name, _| name != "keyvault-sync-owner");
    scene.emulator().set_tags(&scene.host(), "web-tls", None, stripped);
    scene.compare("web", "stripped", &["web-tls"]).await?;
    scene.row("web", "web-tls", "NotManaged").await?;
    // Nor does a renewal go over it.
    let renewed = scene.renew("web-tls").await?;
    scene.compare("web", "renewed", &["web-tls"]).await?;
    scene.row("web", "web-tls", "NotManaged").await?;
    ensure!(writes(&scene.calls()).len() == 1, "{:?}", scene.calls());

    scene.emulator().set_tags(&scene.host(), "web-tls", None, ours);
    scene.compare("web", "given-back", &["web-tls"]).await?;
    scene.holds("web", "web-tls", &renewed).await?;
    ensure!(scene.versions("web-tls").len() == 2, "{:?}", scene.versions("web-tls"));
    Ok(())
}

async fn a_foreign_write_under_our_name_is_repaired_once(scene: Scene) -> anyhow::Result<()> {
    let issued = scene.renew("web-tls").await?;
    scene.sync_of("web", &["web-tls"]).await?;
    scene.synced("web", "1/1").await?;
    foreign_write(&scene)?;
    scene.compare("web", "first", &["web-tls"]).await?;
    scene.told("web", "Imported", &["another version with our owner tag"]).await?;
    scene.holds("web", "web-tls", &issued).await?;
    let newest = scene.versions("web-tls").pop().context("no version")?;
    ensure!(newest.chain_der == ders(&issued.tls_crt())?, "not repaired");
    ensure!(scene.versions("web-tls").len() == 3, "{} versions", scene.versions("web-tls").len());

    foreign_write(&scene)?;
    scene.compare("web", "second", &["web-tls"]).await?;
    let row = scene.row("web", "web-tls", "OwnedByAnother").await?;
    ensure!(row.state == CertificateState::Failed, "{row:?}");
    says(&row, &["for the second time", "--cluster-id"])?;
    scene.told("web", "OwnedByAnother", &["--cluster-id"]).await?;
    scene.compare("web", "third", &["web-tls"]).await?;
    ensure!(scene.versions("web-tls").len() == 4 && imports(&scene.calls()) == 2, "{:?}", scene.calls());

    // Content of our own that is new is pushed, and the count begins anew.
    let renewed = scene.renew("web-tls").await?;
    scene.holds("web", "web-tls", &renewed).await?;
    foreign_write(&scene)?;
    scene.compare("web", "fourth", &["web-tls"]).await?;
    scene.holds("web", "web-tls", &renewed).await?;
    ensure!(scene.versions("web-tls").len() == 7, "{} versions", scene.versions("web-tls").len());
    Ok(())
}

/// As a cluster of our id writes that has another Secret.
fn foreign_write(scene: &Scene) -> anyhow::Result<String> {
    let mut tags = tags_of(scene, "web-tls")?;
    tags.insert("keyvault-sync-fingerprint".to_owned(), format!("sha256:{}", "ab".repeat(32)));
    let tags: Vec<(&str, &str)> = tags.iter().map(|(name, value)| (&**name, &**value)).collect();
    scene.put_by_others("web-tls", &scene.issue(&Leaf::server("foreign"))?, &tags)
}

// What is found when nobody asks, and what that costs.

async fn sixty_certificates_are_compared_by_three_calls_and_only_what_differs_costs_more(
    scene: Scene,
) -> anyhow::Result<()> {
    let names: Vec<String> = (0..60).map(|number| format!("many-{number:02}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    try_join_all(names.iter().map(|name| scene.renew(name))).await?;
    scene.sync_of("web", &names).await?;
    scene.synced("web", "60/60").await?;
    let (canary, drifted) = (*names.first().context("none")?, *names.last().context("none")?);

    for is_drifted in [false, true] {
        let before = scene.calls().len();
        let at = compare_in(&scene, SOON).await?;
        if is_drifted {
            let mut tags = tags_of(&scene, drifted)?;
            tags.insert("stranger".to_owned(), "x".to_owned());
            scene.emulator().set_tags(&scene.host(), drifted, None, tags);
        }
        compared(&scene, at, before, "three pages of the list", |calls| lists(calls).len() >= 3).await?;
        if is_drifted {
            scene.told("web", "Retagged", &[drifted, "removed", "stranger"]).await?;
        }
        // Whatever the operator had to do about the list, it did before this.
        let renewed = scene.renew(canary).await?;
        scene.holds("web", canary, &renewed).await?;
        let calls = since(&scene, before);
        ensure!(lists(&calls).len() == 3, "{} lists: {calls:?}", lists(&calls).len());
        let others: Vec<_> = calls
            .iter()
            .filter(|call| call.operation != Operation::ListCertificates)
            .filter(|call| call.name.as_deref() != Some(canary))
            .map(|call| (call.name.as_deref().unwrap_or_default(), call.operation))
            .collect();
        let repair = [(drifted, Operation::GetCertificate), (drifted, Operation::UpdateCertificate)];
        let expected = if is_drifted { &repair[..] } else { &[] };
        ensure!(others == expected, "{others:?}");
    }
    Ok(())
}

async fn a_single_certificate_is_compared_by_one_read(scene: Scene) -> anyhow::Result<()> {
    let issued = scene.renew("web-tls").await?;
    scene.sync_of("web", &["web-tls"]).await?;
    scene.synced("web", "1/1").await?;
    // Others' certificates make no difference.
    for name in ["theirs", "theirs-too"] {
        scene.put_by_others(name, &scene.issue(&Leaf::server(name))?, &[])?;
    }
    let before = scene.calls().len();
    let at = compare_in(&scene, SOON).await?;
    compared(&scene, at, before, "a read", |calls| !calls.is_empty()).await?;
    let renewed = scene.renew("web-tls").await?;
    scene.holds("web", "web-tls", &renewed).await?;
    let calls: Vec<Operation> = since(&scene, before).iter().map(|call| call.operation).collect();
    let expected = [Operation::GetCertificate, Operation::GetCertificate, Operation::Import];
    ensure!(calls == expected && issued.certificate != renewed.certificate, "{calls:?}");
    Ok(())
}

async fn who_may_not_list_is_compared_one_by_one_and_tries_the_list_once(scene: Scene) -> anyhow::Result<()> {
    let permissions = Permissions { certificates_list: false, ..Permissions::certificates_officer() };
    scene.emulator().allow(&scene.host(), CLIENT, permissions);
    let names = ["first", "second", "third"];
    for name in names {
        scene.renew(name).await?;
    }
    scene.sync_of("web", &names).await?;
    scene.synced("web", "3/3").await?;
    let before = scene.calls().len();
    let mut at = compare_in(&scene, SOON).await?;
    let interval = interval_of(&scene).await?;
    let mut seen = before;
    for expected_lists in [1, 0] {
        compared(&scene, at, seen, "a read of each", |calls| reads(calls).len() >= names.len()).await?;
        let calls = since(&scene, seen);
        ensure!(lists(&calls).len() == expected_lists, "{calls:?}");
        ensure!(lists(&calls).iter().all(|call| call.status == Some(403)), "{calls:?}");
        let mut read: Vec<_> = reads(&calls).iter().filter_map(|call| call.name.clone()).collect();
        read.sort();
        ensure!(read == names, "{read:?}");
        ensure!(writes(&calls).is_empty(), "{calls:?}");
        wait::object(&scene.key_vaults(), scene.name(), "to be Ready", is_reached).await?;
        seen = scene.calls().len();
        at += interval;
    }
    scene.synced("web", "3/3").await?;
    ensure!(since(&scene, seen).is_empty(), "{:?}", since(&scene, seen));
    Ok(())
}

/// As its present generation.
fn is_reached(vault: &KeyVault) -> bool {
    let conditions = vault.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    conditions::find(conditions, READY)
        .is_some_and(|ready| ready.status == "True" && ready.observed_generation == vault.metadata.generation)
}

async fn each_keyvault_compares_what_goes_through_it(scene: Scene) -> anyhow::Result<()> {
    let other = format!("{}-b", scene.name());
    scene.key_vault(&other, scene.open_to_us()).await?;
    for name in ["first", "second", "other-first", "other-second"] {
        scene.renew(name).await?;
    }
    scene.sync_of("web", &["first", "second"]).await?;
    let certificates = json!([{"secretName": "other-first"}, {"secretName": "other-second"}]);
    scene.sync("other", json!({"vaultRef": {"name": other}, "certificates": certificates})).await?;
    scene.synced("web", "2/2").await?;
    scene.synced("other", "2/2").await?;

    for name in ["second", "other-second"] {
        let mut tags = tags_of(&scene, name)?;
        tags.insert("stranger".to_owned(), "x".to_owned());
        scene.emulator().set_tags(&scene.host(), name, None, tags);
    }
    let before = scene.calls().len();
    let at = compare_in(&scene, SOON).await?;
    compared(&scene, at, before, "the list", |calls| !lists(calls).is_empty()).await?;
    scene.told("web", "Retagged", &["second", "stranger"]).await?;
    let renewed = scene.renew("other-first").await?;
    scene.holds("other", "other-first", &renewed).await?;
    let calls = since(&scene, before);
    ensure!(lists(&calls).len() == 1, "{calls:?}");
    let about_other = calls.iter().filter(|call| call.name.as_deref() == Some("other-second")).count();
    ensure!(about_other == 0, "{calls:?}");
    ensure!(
        tags_of(&scene, "other-second")?.contains_key("stranger"),
        "compared by another KeyVault's round"
    );
    ensure!(!tags_of(&scene, "second")?.contains_key("stranger"), "{calls:?}");
    Ok(())
}

async fn a_restart_shifts_no_comparison_and_costs_no_call(scene: Scene) -> anyhow::Result<()> {
    // In a cluster of its own: the others' operator goes on.
    let scene = scene.in_cluster(Arc::new(scene.stage().beside().await?)).await?;
    let operator = scene.stage().operator().await?;
    for name in ["first", "second"] {
        scene.renew(name).await?;
    }
    scene.sync_of("web", &["first", "second"]).await?;
    scene.synced("web", "2/2").await?;
    let at = compare_in(&scene, AFTER_A_RESTART).await?;
    operator.terminate().await?;
    let before = scene.calls().len();
    let operator = scene.stage().operator().await?;
    compared(&scene, at, before, "the list", |calls| !lists(calls).is_empty()).await?;
    let renewed = scene.renew("first").await?;
    scene.holds("web", "first", &renewed).await?;
    let calls: Vec<Operation> = since(&scene, before).iter().map(|call| call.operation).collect();
    let expected = [Operation::ListCertificates, Operation::GetCertificate, Operation::Import];
    ensure!(calls == expected, "{calls:?}");
    ensure!(scene.stage().leak().await?.is_none(), "{:?}", scene.stage().leak().await?);
    operator.terminate().await.map(drop)
}

/// Gives our KeyVault the shortest interval by which its next comparison comes in so many seconds; when that is, unix seconds.
async fn compare_in(scene: &Scene, seconds: Range<i64>) -> anyhow::Result<i64> {
    let host =
        VaultHost::from_host(&scene.host(), &Cloud::ALL).map_err(|problem| anyhow::anyhow!("{problem}"))?;
    let now = now();
    let (interval, at) = INTERVALS
        .map(|interval| (interval, next_comparison(&host, interval, now)))
        .find(|(_, at)| seconds.contains(&(at - now)))
        .context("no interval fits")?;
    let mut vault = scene.open_to_us();
    vault["resyncInterval"] = json!(format!("{interval}s"));
    scene.key_vault(scene.name(), vault).await?;
    Ok(at)
}

async fn interval_of(scene: &Scene) -> anyhow::Result<i64> {
    let vault = scene.key_vaults().get(scene.name()).await?;
    Ok(i64::try_from(vault.spec.resync_interval.as_secs())?)
}

/// Waits for the comparison at that time: until the calls from the one of that number on satisfy `condition` and are
/// answered. Before that time there is no call.
async fn compared(
    scene: &Scene,
    at: i64,
    from: usize,
    what: &str,
    condition: impl Fn(&[Call]) -> bool,
) -> anyhow::Result<()> {
    let patience = Duration::from_secs(u64::try_from(at - now()).unwrap_or(0)) + PATIENCE;
    let is_made = |_: &[Call]| {
        let calls = since(scene, from);
        condition(&calls) && calls.iter().all(|call| call.answered)
    };
    let is_made = scene.emulator().wait_for(patience, is_made).await;
    let calls = since(scene, from);
    ensure!(is_made, "waited {} s for {what}: {calls:?}", patience.as_secs());
    let first = calls.first().context("no call")?;
    ensure!(first.began_unix_us >= at.unsigned_abs() * 1_000_000, "before it was due ({at}): {first:?}");
    Ok(())
}

/// The calls of our vault from the one of that number on, the first rounds of the challenge left out.
fn since(scene: &Scene, from: usize) -> Vec<Call> {
    let mut calls = scene.calls().split_off(from);
    calls.retain(|call| call.status != Some(401));
    calls
}

fn lists(calls: &[Call]) -> Vec<&Call> {
    calls.iter().filter(|call| call.operation == Operation::ListCertificates).collect()
}

fn reads(calls: &[Call]) -> Vec<&Call> {
    calls.iter().filter(|call| call.operation == Operation::GetCertificate).collect()
}

fn tags_of(scene: &Scene, name: &str) -> anyhow::Result<BTreeMap<String, String>> {
    let newest = scene.versions(name).pop().with_context(|| format!("no version of {name}"))?;
    Ok(newest.tags)
}

fn now() -> i64 {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_1970.as_secs()).unwrap_or(i64::MAX)
}
