//! Whose a certificate in the vault is: left alone, adopted, inherited, recovered; and what else may stand on its name.
//! Two clusters before one vault are left to `two_clusters`.

use std::collections::BTreeMap;

use anyhow::{Context, ensure};
use keyvault_emulator::{Operation, Permissions, Put, State, StoredVersion};
use keyvault_sync_api::CertificateState;
use keyvault_sync_e2e::Scene;
use keyvault_sync_e2e::certificates::{Authority, Leaf};
use keyvault_sync_e2e::scene::{ders, entries, imports, note, row, says, thumbprint, writes};
use keyvault_sync_e2e::stage::CLIENT;
use keyvault_sync_e2e::wait;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

keyvault_sync_e2e::promises!(Together:
    a_certificate_of_nobody_is_left_alone_and_its_writer_named,
    adoption_takes_the_resources_word_and_the_vaults_grant,
    an_equal_certificate_is_adopted_as_it_is_and_its_chain_comes_with_the_next_renewal,
    another_leaf_or_exportability_is_taken_over_by_one_version,
    a_soft_deleted_certificate_is_recovered_and_then_adopted,
    a_new_chain_after_an_adoption_is_one_version,
    what_another_namespace_or_kind_left_is_adopted_only_when_its_owner_is_gone,
    a_successor_in_the_namespace_needs_no_adoption_however_long_the_claim_is_gone,
    an_entry_that_moves_between_two_living_resources_goes_on_without_a_version,
    an_owner_tag_that_nobody_wrote_is_somebody_elses,
    a_key_or_secret_on_the_name_is_told_and_left_alone,
    a_pending_operation_is_waited_for,
    what_was_deleted_by_hand_is_recovered_and_compared_and_nothing_waits_for_it,
    what_stands_on_a_name_is_told_apart,
    without_the_right_to_recover_the_missing_permission_is_named,
);

/// Tags of those who wrote there before us.
const PREDECESSOR: [(&str, &str); 2] = [("SyncFrom", "cert-manager"), ("namespace", "web")];
const EXTERNAL_SECRETS: [(&str, &str); 1] = [("managed-by", "external-secrets")];

async fn a_certificate_of_nobody_is_left_alone_and_its_writer_named(scene: Scene) -> anyhow::Result<()> {
    let cases = [
        ("by-nobody", &[][..], "no owner tag of keyvault-sync"),
        ("by-predecessor", &PREDECESSOR[..], "cert-manager-key-vault-sync"),
        ("by-external-secrets", &EXTERNAL_SECRETS[..], "External Secrets"),
    ];
    let names = cases.map(|(name, ..)| name);
    for (name, tags, _) in cases {
        let issued = scene.renew(name).await?;
        // Whether it holds the same makes no difference.
        let theirs = if name == "by-nobody" { issued } else { scene.issue(&Leaf::server("theirs"))? };
        scene.put_by_others(name, &theirs, tags)?;
    }
    let before = names.map(|name| scene.versions(name));
    scene.sync_of("web", &names).await?;
    for (name, _, words) in cases {
        let row = scene.row("web", name, "NotManaged").await?;
        ensure!(row.state == CertificateState::Failed, "{row:?}");
        says(&row, &[words, "conflictPolicy: Adopt", "left alone"])?;
        let event = scene.told_about("web", name, "NotManaged", &[words]).await?;
        ensure!(event.type_.as_deref() == Some("Warning"), "{event:?}");
    }
    for name in names {
        scene.renew(name).await?;
    }
    scene.compare("web", "after-renewal", &names).await?;
    ensure!(names.map(|name| scene.versions(name)) == before, "touched: {:?}", scene.calls());
    ensure!(writes(&scene.calls()).is_empty(), "{:?}", scene.calls());
    Ok(())
}

async fn adoption_takes_the_resources_word_and_the_vaults_grant(scene: Scene) -> anyhow::Result<()> {
    let issued = scene.renew("web-tls").await?;
    scene.renew("deleted").await?;
    for name in ["web-tls", "deleted"] {
        scene.put_by_others(name, &scene.issue(&Leaf::server("theirs"))?, &[])?;
    }
    scene.emulator().soft_delete(&scene.host(), "deleted");
    scene.sync("web", taking_over(&["web-tls", "deleted"])).await?;
    for name in ["web-tls", "deleted"] {
        let row = scene.row("web", name, "NotGranted").await?;
        ensure!(row.state == CertificateState::Failed, "{row:?}");
        says(&row, &[name, "adopt", scene.name()])?;
        scene.told("web", "NotGranted", &[name, "adopt"]).await?;
    }
    ensure!(writes(&scene.calls()).is_empty(), "{:?}", scene.calls());

    // The grant alone does not do either.
    scene.sync_of("web", &["web-tls", "deleted"]).await?;
    scene.key_vault(scene.name(), scene.open_to_adopt()).await?;
    scene.row("web", "web-tls", "NotManaged").await?;
    scene.row("web", "deleted", "SoftDeleted").await?;
    ensure!(writes(&scene.calls()).is_empty(), "{:?}", scene.calls());

    scene.sync("web", taking_over(&["web-tls", "deleted"])).await?;
    scene.holds("web", "web-tls", &issued).await?;
    scene.synced("web", "2/2").await?;
    Ok(())
}

async fn an_equal_certificate_is_adopted_as_it_is_and_its_chain_comes_with_the_next_renewal(
    scene: Scene,
) -> anyhow::Result<()> {
    scene.key_vault(scene.name(), scene.open_to_adopt()).await?;
    let issued = scene.renew("web-tls").await?;
    let renewing = json!({
        "issuer": {"name": "Self"},
        "lifetime_actions": [{"trigger": {"days_before_expiry": 30}, "action": {"action_type": "AutoRenew"}}],
    });
    let put = Put { tags: owned(&PREDECESSOR), policy: renewing, ..Put::default() };
    let theirs = scene.emulator().put_certificate_with(
        &scene.host(),
        "web-tls",
        &issued.pfx("password")?,
        "password",
        put,
    );
    let mut wish = taking_over(&["web-tls"]);
    wish["tags"] = json!({"team": "web"});
    scene.sync("web", wish).await?;
    let event = scene
        .told("web", "Adopted", &[&theirs, "cert-manager-key-vault-sync", "no version was made"])
        .await?;
    ensure!(event.type_.as_deref() == Some("Normal"), "{event:?}");
    let sync = scene.synced("web", "1/1").await?;
    let told = row(&sync, "web-tls").context("no row")?;
    ensure!(told.version.as_deref() == Some(theirs.as_str()), "{told:?}");
    says(told, &["adopted", "its chain cannot be read back"])?;

    let adopted = only(scene.versions("web-tls"))?;
    ensure!(adopted.version == theirs, "{adopted:?}");
    let leaf = adopted.chain_der.first().context("no leaf")?;
    let digest: String = Sha256::digest(leaf).iter().map(|byte| format!("{byte:02x}")).collect();
    let ours = owned(&[
        ("managed-by", "keyvault-sync"),
        ("keyvault-sync-owner", &scene.owner_tag("web").await?),
        ("keyvault-sync-source", &format!("{}/web-tls", scene.name())),
        ("keyvault-sync-fingerprint", &format!("leaf-sha256:{digest}")),
        ("team", "web"),
    ]);
    ensure!(adopted.tags == ours, "{:?}", adopted.tags);
    // Key Vault would make a version of its own over ours.
    let stored = scene.emulator().certificate(&scene.host(), "web-tls").context("gone")?;
    ensure!(stored.policy["issuer"]["name"] == "Unknown", "{}", stored.policy);
    ensure!(stored.policy["lifetime_actions"] == json!([]), "{}", stored.policy);

    scene.compare("web", "again", &["web-tls"]).await?;
    scene.vault_now("and-again").await?;
    scene.compared("web-tls", "and-again").await?;
    let sync = scene.synced("web", "1/1").await?;
    says(row(&sync, "web-tls").context("no row")?, &["its chain cannot be read back"])?;
    let calls = scene.calls();
    let acts: Vec<Operation> = writes(&calls).iter().map(|call| call.operation).collect();
    ensure!(acts == [Operation::UpdateCertificate], "{acts:?}");

    let renewed = scene.renew("web-tls").await?;
    let row = scene.holds("web", "web-tls", &renewed).await?;
    let message = row.message.clone().unwrap_or_default();
    ensure!(!message.contains("cannot be read back"), "{row:?}");
    let versions = scene.versions("web-tls");
    let newest = versions.last().context("no version")?;
    ensure!(versions.len() == 2 && newest.chain_der == ders(&renewed.tls_crt())?, "{}", versions.len());
    ensure!(tag(newest, "keyvault-sync-fingerprint").starts_with("sha256:"), "{:?}", newest.tags);
    Ok(())
}

async fn another_leaf_or_exportability_is_taken_over_by_one_version(scene: Scene) -> anyhow::Result<()> {
    scene.key_vault(scene.name(), scene.open_to_adopt()).await?;
    let names = ["leaf", "exportable"];
    let (mut wanted, mut theirs) = (Vec::new(), Vec::new());
    for name in names {
        let issued = scene.renew(name).await?;
        let there = if name == "leaf" { scene.issue(&Leaf::server("theirs"))? } else { issued.clone() };
        let put = Put { tags: owned(&EXTERNAL_SECRETS), exportable: name != "exportable", ..Put::default() };
        let pfx = there.pfx("password")?;
        theirs.push(scene.emulator().put_certificate_with(&scene.host(), name, &pfx, "password", put));
        wanted.push(issued);
    }
    scene.sync("web", taking_over(&names)).await?;
    scene.synced("web", "2/2").await?;
    for ((name, issued), theirs) in names.iter().zip(&wanted).zip(&theirs) {
        scene.told("web", "Adopted", &[name, "External Secrets", "its content differs"]).await?;
        scene.holds("web", name, issued).await?;
        let versions = scene.versions(name);
        let [old, new] = versions.as_slice() else { anyhow::bail!("{name}: {versions:?}") };
        ensure!(old.version == *theirs && old.tags == owned(&EXTERNAL_SECRETS), "{name}: {old:?}");
        ensure!(new.chain_der == ders(&issued.tls_crt())? && new.exportable, "{name}: {new:?}");
        ensure!(tag(new, "keyvault-sync-owner") == scene.owner_tag("web").await?, "{name}: {new:?}");
    }
    scene.compare("web", "again", &names).await?;
    ensure!(writes(&scene.calls()).len() == 2, "{:?}", scene.calls());
    Ok(())
}

async fn a_soft_deleted_certificate_is_recovered_and_then_adopted(scene: Scene) -> anyhow::Result<()> {
    scene.key_vault(scene.name(), scene.open_to_adopt()).await?;
    let names = ["equal", "other"];
    for name in names {
        let issued = scene.renew(name).await?;
        let there = if name == "equal" { issued } else { scene.issue(&Leaf::server("theirs"))? };
        scene.put_by_others(name, &there, &PREDECESSOR)?;
        scene.emulator().soft_delete(&scene.host(), name);
    }
    scene.emulator().hold_recoveries(&scene.host());
    scene.sync("web", taking_over(&names)).await?;
    for name in names {
        let row = scene.row("web", name, "Recovering").await?;
        ensure!(row.state == CertificateState::Pending, "{row:?}");
        scene.told("web", "Recovered", &[name, "not ours", "conflictPolicy"]).await?;
    }
    ensure!(imports(&scene.calls()) == 0, "imported while it was being recovered: {:?}", scene.calls());
    for name in names {
        scene.emulator().finish_recovery(&scene.host(), name);
    }
    scene.synced("web", "2/2").await?;
    scene.told("web", "Adopted", &["equal", "no version was made"]).await?;
    scene.told("web", "Adopted", &["other", "its content differs"]).await?;
    let counts = names.map(|name| scene.versions(name).len());
    ensure!(counts == [1, 2], "{counts:?}");
    Ok(())
}

async fn a_new_chain_after_an_adoption_is_one_version(scene: Scene) -> anyhow::Result<()> {
    scene.key_vault(scene.name(), scene.open_to_adopt()).await?;
    let (root, old) = (Authority::root("New Root")?, Authority::root("Old Root")?);
    let issuer = root.intermediate("Issuer")?;
    let mut chains = BTreeMap::new();
    for (name, chain) in [
        ("other-issuer", issuer.cross_signed_by(&old)?),
        ("cross-root", format!("{}{}", issuer.certificate_pem(), root.cross_signed_by(&old)?)),
    ] {
        let issued = issuer.issue(&Leaf::server(name))?;
        scene.stage().guard(&issued.key);
        scene.put_entries(name, &entries(&issued.tls_crt(), &issued.key, "")).await?;
        scene.put_by_others(name, &issued, &[])?;
        chains.insert(name, (format!("{}{chain}", issued.certificate), issued.key));
    }
    scene.sync("web", taking_over(&["other-issuer", "cross-root"])).await?;
    scene.synced("web", "2/2").await?;
    ensure!(imports(&scene.calls()) == 0, "{:?}", scene.calls());

    for (name, (chain, key)) in &chains {
        scene.put_entries(name, &entries(chain, key, "")).await?;
        scene.told("web", "Imported", &[name, "changed"]).await?;
        scene.compare("web", name, &["other-issuer", "cross-root"]).await?;
        let versions = scene.versions(name);
        let newest = versions.last().context("no version")?;
        ensure!(versions.len() == 2 && newest.chain_der == ders(chain)?, "{name}: {}", versions.len());
        ensure!(tag(newest, "keyvault-sync-fingerprint").starts_with("sha256:"), "{:?}", newest.tags);
    }
    scene.synced("web", "2/2").await?;
    ensure!(imports(&scene.calls()) == 2, "{:?}", scene.calls());
    Ok(())
}

async fn what_another_namespace_or_kind_left_is_adopted_only_when_its_owner_is_gone(
    scene: Scene,
) -> anyhow::Result<()> {
    let tenant = scene.tenant("two").await?;
    let mut vault = scene.open_to_adopt();
    vault["grants"] = json!([vault["grants"][0], tenant.grant(&["*"])]);
    scene.key_vault(scene.name(), vault).await?;

    // A resource of another namespace pushed it, has gone on to another name, and lives.
    let left = tenant.renew("tenant-tls").await?;
    let named = |name: &str| json!({"certificates": [{"secretName": "tenant-tls", "certificateName": name}]});
    tenant.sync("tenant", named("shared")).await?;
    tenant.synced("tenant", "1/1").await?;
    tenant.sync("tenant", named("elsewhere")).await?;
    tenant.synced("tenant", "1/1").await?;
    wait::gone(&scene.claims(), &scene.claim_name("shared")).await?;
    // One of another kind left another, and lives.
    let everywhere = format!("{}-all", scene.name());
    scene.cluster_sync(&everywhere, json!({"selector": {"matchLabels": {"nobody": "has-it"}}})).await?;
    let tags = [(
        "keyvault-sync-owner",
        &*format!("{}/ClusterKeyVaultSync//{everywhere}", scene.cluster_id().await?),
    )];
    scene.put_by_others("clustered", &scene.issue(&Leaf::server("theirs"))?, &tags)?;

    let before = writes(&scene.calls()).len();
    scene.put_issued("shared", &left).await?;
    scene.renew("clustered").await?;
    scene.sync("web", taking_over(&["shared", "clustered"])).await?;
    for (name, owner) in [
        ("shared", tenant.owner_tag("tenant").await?),
        ("clustered", format!("/ClusterKeyVaultSync//{everywhere}")),
    ] {
        let row = scene.row("web", name, "OwnedByAnother").await?;
        ensure!(row.state == CertificateState::Failed, "{row:?}");
        says(&row, &[&owner])?;
        scene.told_about("web", name, "OwnedByAnother", &[&owner]).await?;
    }
    scene.compare("web", "while-they-live", &["shared", "clustered"]).await?;
    ensure!(writes(&scene.calls()).len() == before, "{:?}", scene.calls());

    tenant.delete(&tenant.syncs(), "tenant").await?;
    scene.delete(&scene.cluster_syncs(), &everywhere).await?;
    // The claim on its other certificate ends with it: the operator knows that the owner is gone.
    wait::gone(&scene.claims(), &scene.claim_name("elsewhere")).await?;
    scene.compare("web", "when-they-are-gone", &["shared", "clustered"]).await?;
    scene.synced("web", "2/2").await?;
    scene
        .told("web", "Adopted", &["shared", &tenant.owner_tag("tenant").await?, "no version was made"])
        .await?;
    scene.told("web", "Adopted", &["clustered", &everywhere, "its content differs"]).await?;
    let shared = only(scene.versions("shared"))?;
    ensure!(tag(&shared, "keyvault-sync-owner") == scene.owner_tag("web").await?, "{:?}", shared.tags);
    // What the owner said of leaf and chain is what the Secret holds.
    ensure!(tag(&shared, "keyvault-sync-fingerprint").starts_with("sha256:"), "{:?}", shared.tags);
    ensure!(scene.versions("clustered").len() == 2, "{:?}", scene.versions("clustered"));
    Ok(())
}

async fn a_successor_in_the_namespace_needs_no_adoption_however_long_the_claim_is_gone(
    scene: Scene,
) -> anyhow::Result<()> {
    for secret in ["same", "changed"] {
        scene.renew(secret).await?;
    }
    scene.sync_of("old", &["same", "changed"]).await?;
    scene.synced("old", "2/2").await?;
    scene.delete(&scene.syncs(), "old").await?;
    for name in ["same", "changed"] {
        wait::gone(&scene.claims(), &scene.claim_name(name)).await?;
    }
    let changed = scene.renew("changed").await?;
    scene.sync_of("new", &["same", "changed"]).await?;
    scene.holds("new", "changed", &changed).await?;
    scene.synced("new", "2/2").await?;
    scene.told("new", "Retagged", &["same", "keyvault-sync-owner"]).await?;
    let owner = scene.owner_tag("new").await?;
    for (name, count) in [("same", 1), ("changed", 2)] {
        let versions = scene.versions(name);
        let newest = versions.last().context("no version")?;
        ensure!(versions.len() == count, "{name}: {} versions, not {count}", versions.len());
        ensure!(tag(newest, "keyvault-sync-owner") == owner, "{name}: {:?}", newest.tags);
    }
    Ok(())
}

async fn an_entry_that_moves_between_two_living_resources_goes_on_without_a_version(
    scene: Scene,
) -> anyhow::Result<()> {
    for secret in ["first", "second", "stays"] {
        scene.renew(secret).await?;
    }
    scene.sync_of("from", &["first", "second", "stays"]).await?;
    scene.synced("from", "3/3").await?;

    // What it leaves is applied before what it comes to: its claim is gone.
    scene.sync_of("from", &["second", "stays"]).await?;
    wait::gone(&scene.claims(), &scene.claim_name("first")).await?;
    scene.sync_of("to", &["first"]).await?;
    scene.synced("to", "1/1").await?;
    // The other order: the new holder waits for the claim.
    scene.sync_of("to", &["first", "second"]).await?;
    scene.row("to", "second", "NameCollision").await?;
    scene.sync_of("from", &["stays"]).await?;
    scene.synced("to", "2/2").await?;
    scene.synced("from", "1/1").await?;

    let owner = scene.owner_tag("to").await?;
    for name in ["first", "second"] {
        let version = only(scene.versions(name))?;
        ensure!(tag(&version, "keyvault-sync-owner") == owner, "{name}: {:?}", version.tags);
    }
    ensure!(imports(&scene.calls()) == 3, "{:?}", scene.calls());
    Ok(())
}

async fn an_owner_tag_that_nobody_wrote_is_somebody_elses(scene: Scene) -> anyhow::Result<()> {
    scene.key_vault(scene.name(), scene.open_to_adopt()).await?;
    let (cluster, namespace) = (scene.cluster_id().await?, scene.name());
    let cases = [
        ("too-short", "c1/x".to_owned()),
        ("wrong-kind", format!("{cluster}/Secret/{namespace}/web")),
        ("no-namespace", format!("{cluster}/KeyVaultSync//web")),
        ("too-long", format!("{cluster}/KeyVaultSync/{namespace}/web/x")),
        ("upper-case", format!("{}/KeyVaultSync/{namespace}/web", cluster.to_uppercase())),
        ("namespaced", format!("{cluster}/ClusterKeyVaultSync/{namespace}/web")),
    ];
    let mut before = Vec::new();
    for (name, owner) in &cases {
        let issued = scene.renew(name).await?;
        scene.put_by_others(
            name,
            &issued,
            &[("keyvault-sync-owner", owner), ("managed-by", "keyvault-sync")],
        )?;
        before.push(scene.versions(name));
    }
    let names: Vec<&str> = cases.iter().map(|(name, _)| *name).collect();
    scene.sync("web", taking_over(&names)).await?;
    for (name, owner) in &cases {
        let row = scene.row("web", name, "OwnedByAnother").await?;
        says(&row, &[owner])?;
    }
    scene.compare("web", "again", &names).await?;
    let after: Vec<_> = names.iter().map(|name| scene.versions(name)).collect();
    ensure!(after == before && writes(&scene.calls()).is_empty(), "{:?}", scene.calls());
    Ok(())
}

async fn a_key_or_secret_on_the_name_is_told_and_left_alone(scene: Scene) -> anyhow::Result<()> {
    let issued = scene.renew("web-tls").await?;
    let canary = scene.renew("canary").await?;
    scene.emulator().put_plain_secret(&scene.host(), "web-tls");
    scene.sync_of("web", &["web-tls", "canary"]).await?;
    let row = scene.row("web", "web-tls", "NameTakenByKeyOrSecret").await?;
    ensure!(row.state == CertificateState::Failed, "{row:?}");
    says(&row, &["web-tls", "plain key or secret", "certificateName"])?;
    scene.told("web", "NameTakenByKeyOrSecret", &["web-tls"]).await?;
    scene.holds("web", "canary", &canary).await?;
    ensure!(scene.calls_about("web-tls").iter().all(|call| !call.committed), "{:?}", scene.calls());

    scene.emulator().purge(&scene.host(), "web-tls");
    scene.sync_now("web", "purged").await?;
    scene.holds("web", "web-tls", &issued).await?;
    Ok(())
}

async fn a_pending_operation_is_waited_for(scene: Scene) -> anyhow::Result<()> {
    // One stands on a name that is new to us, one on what we pushed.
    let first = scene.renew("new").await?;
    scene.renew("ours").await?;
    scene.sync_of("web", &["ours"]).await?;
    scene.synced("web", "1/1").await?;
    for name in ["new", "ours"] {
        ensure!(scene.emulator().begin_operation(&scene.host(), name), "not begun on {name}");
    }
    let second = scene.renew("ours").await?;
    scene.sync_of("web", &["ours", "new"]).await?;
    for name in ["new", "ours"] {
        let row = scene.row("web", name, "OperationPending").await?;
        ensure!(row.state == CertificateState::Pending, "{row:?}");
        says(&row, &[name, "pending"])?;
    }
    ensure!(scene.versions("new").is_empty() && scene.versions("ours").len() == 1);
    for name in ["new", "ours"] {
        ensure!(scene.emulator().finish_operation(&scene.host(), name), "not finished on {name}");
    }
    // Nobody asks for it.
    scene.holds("web", "new", &first).await?;
    scene.holds("web", "ours", &second).await?;
    ensure!(scene.versions("new").len() == 1 && scene.versions("ours").len() == 2);
    Ok(())
}

async fn what_was_deleted_by_hand_is_recovered_and_compared_and_nothing_waits_for_it(
    scene: Scene,
) -> anyhow::Result<()> {
    let names = ["equal", "changed", "lively"];
    for name in names {
        scene.renew(name).await?;
    }
    scene.sync_of("web", &names).await?;
    scene.synced("web", "3/3").await?;
    scene.emulator().hold_recoveries(&scene.host());
    for name in ["equal", "changed"] {
        ensure!(scene.emulator().soft_delete(&scene.host(), name), "{name} not deleted");
    }
    let changed = scene.renew("changed").await?;
    scene.sync_now("web", "deleted").await?;
    for name in ["equal", "changed"] {
        let row = scene.row("web", name, "Recovering").await?;
        ensure!(row.state == CertificateState::Pending, "{row:?}");
        says(&row, &["soft-deleted", "recovered"])?;
        scene.told("web", "Recovered", &[name, "deleted in the vault"]).await?;
    }
    let lively = scene.renew("lively").await?;
    scene.holds("web", "lively", &lively).await?;
    for name in ["equal", "changed"] {
        let stored = scene.emulator().certificate(&scene.host(), name).context("gone")?;
        ensure!(stored.state == State::BeingRecovered && stored.versions.len() == 1, "{stored:?}");
        scene.emulator().finish_recovery(&scene.host(), name);
    }
    scene.synced("web", "3/3").await?;
    scene.holds("web", "changed", &changed).await?;
    let counts = names.map(|name| scene.versions(name).len());
    ensure!(counts == [1, 2, 2], "{counts:?}");
    Ok(())
}

async fn what_stands_on_a_name_is_told_apart(scene: Scene) -> anyhow::Result<()> {
    let names = ["deleting", "recovering", "deleted", "deleted-of-another"];
    let theirs = "other-cluster/KeyVaultSync/web/theirs";
    for name in names {
        scene.renew(name).await?;
        let tags = [("keyvault-sync-owner", theirs)];
        let tags = if name == "deleted-of-another" { &tags[..] } else { &[] };
        scene.put_by_others(name, &scene.issue(&Leaf::server("theirs"))?, tags)?;
    }
    for (name, state) in [
        ("deleting", State::BeingDeleted),
        ("recovering", State::BeingRecovered),
        ("deleted", State::SoftDeleted),
        ("deleted-of-another", State::SoftDeleted),
    ] {
        scene.emulator().set_state(&scene.host(), name, state);
    }
    scene.sync_of("web", &names).await?;
    for (name, state, reason, words) in [
        ("deleting", CertificateState::Pending, "BeingDeleted", &["deleting"][..]),
        ("recovering", CertificateState::Pending, "Recovering", &["recover"]),
        ("deleted", CertificateState::Failed, "SoftDeleted", &["no owner tag", "purge"]),
        ("deleted-of-another", CertificateState::Failed, "SoftDeleted", &[theirs, "purge"]),
    ] {
        let row = scene.row("web", name, reason).await?;
        ensure!(row.state == state, "{row:?}");
        says(&row, words)?;
        ensure!(row.message.as_ref().is_some_and(|text| !text.contains("purge protection")), "{row:?}");
    }

    // What cannot be purged is not advised to be.
    scene.emulator().set_purge_protection(&scene.host(), true);
    scene.compare("web", "protected", &["deleted"]).await?;
    let sync = scene
        .status("web", "to speak of purge protection", |sync| {
            let message = row(sync, "deleted").and_then(|row| row.message.as_deref()).unwrap_or_default();
            message.contains("purge protection")
        })
        .await?;
    says(row(&sync, "deleted").context("no row")?, &["soft-deleted", "conflictPolicy: Adopt"])?;

    // Each goes on by itself.
    scene.emulator().finish_deletion(&scene.host(), "deleting");
    scene.row("web", "deleting", "SoftDeleted").await?;
    scene.emulator().finish_recovery(&scene.host(), "recovering");
    scene.row("web", "recovering", "NotManaged").await?;
    ensure!(scene.calls().iter().all(|call| !call.committed), "{:?}", scene.calls());
    Ok(())
}

async fn without_the_right_to_recover_the_missing_permission_is_named(scene: Scene) -> anyhow::Result<()> {
    let issued = scene.renew("web-tls").await?;
    scene.sync_of("web", &["web-tls"]).await?;
    scene.synced("web", "1/1").await?;
    let officer = Permissions::certificates_officer();
    let without = Permissions { certificates_recover: false, ..officer };
    scene.emulator().allow(&scene.host(), CLIENT, without);
    scene.emulator().soft_delete(&scene.host(), "web-tls");
    scene.sync_now("web", "deleted").await?;
    let row = scene.row("web", "web-tls", "Forbidden").await?;
    ensure!(row.state == CertificateState::Failed, "{row:?}");
    says(&row, &["recovering certificate web-tls", "Microsoft.KeyVault/vaults/certificates/recover/action"])?;
    scene.told("web", "Forbidden", &["certificates/recover/action"]).await?;

    scene.emulator().allow(&scene.host(), CLIENT, officer);
    scene.compare("web", "allowed", &["web-tls"]).await?;
    scene.holds("web", "web-tls", &issued).await?;
    let told = scene.events("web", "Imported", "web-tls").await?;
    ensure!(told.len() == 1, "{:?}", told.iter().map(note).collect::<Vec<_>>());
    let version = only(scene.versions("web-tls"))?;
    ensure!(row.thumbprint == Some(thumbprint(&issued)?) && version.enabled, "{row:?} {version:?}");
    Ok(())
}

/// A wish for these Secrets under their own names that takes over what is there.
fn taking_over(secrets: &[&str]) -> Value {
    let certificates: Vec<Value> = secrets.iter().map(|secret| json!({"secretName": secret})).collect();
    json!({"certificates": certificates, "conflictPolicy": "Adopt"})
}

fn owned(tags: &[(&str, &str)]) -> BTreeMap<String, String> {
    tags.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn tag<'a>(version: &'a StoredVersion, name: &str) -> &'a str {
    version.tags.get(name).map(String::as_str).unwrap_or_default()
}

/// The one version there is.
fn only(versions: Vec<StoredVersion>) -> anyhow::Result<StoredVersion> {
    let [version] = versions.as_slice() else {
        anyhow::bail!("{} versions, not one: {versions:?}", versions.len());
    };
    Ok(version.clone())
}
