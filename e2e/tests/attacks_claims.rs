//! Somebody who may write what is the operator's alone: claims forged and edited, statuses that say "already synced".
//! Who may at all is left to the cluster's RBAC and to `admission`; here it got in, and the operator has to stand it.

use anyhow::{Context, ensure};
use futures::future::try_join_all;
use k8s_openapi::jiff::Timestamp;
use keyvault_emulator::{Call, Effect, Fault, Operation};
use keyvault_sync_api::{KeyVaultCertificate, KeyVaultCertificateSpec};
use keyvault_sync_e2e::Scene;
use keyvault_sync_e2e::certificates::Issued;
use keyvault_sync_e2e::scene::{claim_ready, ders, host, imports, thumbprint, writes};
use keyvault_sync_e2e::wait::{self, Seen};
use kube::ResourceExt;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::{Value, json};

keyvault_sync_e2e::promises!(Together:
    a_status_that_says_already_synced_keeps_nothing_from_being_pushed,
    a_claim_forged_for_a_live_resource_pushes_nothing_that_it_does_not_want,
    a_claim_forged_over_namespaces_reads_only_where_its_resource_does,
    a_claim_forged_for_nobody_ends_and_touches_nothing,
    a_claim_forged_for_another_vault_calls_nobody,
    an_edited_claim_is_put_right_and_makes_no_version,
    an_edited_claim_asks_for_no_more_than_its_owner,
    a_claim_edited_into_its_end_deletes_nothing_that_is_wanted,
    a_claim_edited_into_its_end_deletes_nothing_that_is_retained,
    a_forged_memory_of_a_claim_hides_no_renewal_from_a_comparison,
);

/// Whoever forges once may win a race; so often, he wins it once if there is one.
const FORGERIES: usize = 10;

// Statuses of wishes.

async fn a_status_that_says_already_synced_keeps_nothing_from_being_pushed(
    scene: Scene,
) -> anyhow::Result<()> {
    scene.sync_of("web", &["web-tls"]).await?;
    scene.row("web", "web-tls", "SecretNotFound").await?;
    let generation = scene.syncs().get("web").await?.metadata.generation;
    let said = |status: &str| {
        json!({
            "type": "Ready", "status": status, "reason": "Synced", "message": "all is well",
            "observedGeneration": generation, "lastTransitionTime": "2026-01-01T00:00:00Z",
        })
    };
    let forged = json!({
        "observedGeneration": generation,
        "conditions": [said("True")],
        "synced": "1/1",
        "lastPushTime": "2999-01-01T00:00:00Z",
        "nextExpiry": "2999-01-01T00:00:00Z",
        "certificates": [{
            "secretName": "web-tls", "certificateName": "web-tls", "state": "Synced", "reason": "Synced",
            "version": "0".repeat(32), "thumbprint": "0".repeat(40), "secretId": "https://evil.example/secrets/x",
        }],
    });
    let forge = async |api_status: &Value| {
        let patch = Patch::Merge(json!({"status": api_status}));
        scene.syncs().patch_status("web", &PatchParams::default(), &patch).await.map(drop)
    };
    // What it says is no reason not to push.
    forge(&forged).await?;
    let issued = scene.renew("web-tls").await?;
    scene.holds("web", "web-tls", &issued).await?;
    forge(&forged).await?;
    let renewed = scene.renew("web-tls").await?;
    scene.holds("web", "web-tls", &renewed).await?;
    ensure!(scene.versions("web-tls").len() == 2 && imports(&scene.calls()) == 2, "{:?}", scene.calls());
    // A time that is still to come is not kept.
    let sync = scene.synced("web", "1/1").await?;
    let pushed = sync.status.and_then(|status| status.last_push_time).context("no time of a push")?;
    ensure!(pushed.0 <= Timestamp::now(), "{pushed:?}");
    // Nor is a status a reason to push.
    forge(&json!({"certificates": [], "synced": "0/0", "conditions": [said("False")]})).await?;
    scene.compare("web", "after", &["web-tls"]).await?;
    scene.synced("web", "1/1").await?;
    ensure!(writes(&scene.calls()).len() == 2, "{:?}", scene.calls());
    Ok(())
}

// Forged claims.

/// A claim on that name of our vault as the operator writes one, for the KeyVaultSync of that name in our namespace.
async fn claim_of(scene: &Scene, sync: &str, name: &str) -> anyhow::Result<KeyVaultCertificate> {
    let uid = scene.syncs().get(sync).await?.uid().context("no uid")?;
    let owner = json!({"kind": "KeyVaultSync", "namespace": scene.name(), "name": sync, "uid": uid});
    claim(scene, name, owner, &scene.cluster_id().await?)
}

fn claim(scene: &Scene, name: &str, owner: Value, cluster: &str) -> anyhow::Result<KeyVaultCertificate> {
    let spec: KeyVaultCertificateSpec = serde_json::from_value(json!({
        "vaultHost": scene.host(),
        "keyVault": scene.host().split('.').next(),
        "certificateName": name,
        "clusterId": cluster,
        "owner": owner,
        "sources": [{"namespace": scene.name(), "secretName": "web-tls"}],
    }))?;
    Ok(KeyVaultCertificate::new(&scene.claim_name(name), spec))
}

fn sources(namespace: &str, secret: &str) -> Vec<keyvault_sync_api::ClaimSource> {
    serde_json::from_value(json!([{"namespace": namespace, "secretName": secret}])).unwrap_or_default()
}

async fn forge(scene: &Scene, claim: &KeyVaultCertificate) -> anyhow::Result<KeyVaultCertificate> {
    scene.claims().create(&PostParams::default(), claim).await.context("the forged claim is refused")
}

/// Puts each of these claims there, all at once, and waits until they are gone.
async fn forge_all(scene: &Scene, claims: &[KeyVaultCertificate]) -> anyhow::Result<()> {
    try_join_all(claims.iter().map(|claim| forge(scene, claim))).await?;
    for claim in claims {
        wait::gone(&scene.claims(), &claim.name_any()).await?;
    }
    Ok(())
}

/// Writes of our vault about names that begin so.
fn writes_about(scene: &Scene, beginning: &str) -> Vec<Call> {
    let calls = scene.calls();
    let about = |call: &&Call| call.name.as_deref().is_some_and(|name| name.starts_with(beginning));
    writes(&calls).into_iter().filter(about).cloned().collect()
}

/// A tenant of our vault that may push every name, with a Secret `victim-tls` in the vault.
async fn victim(scene: &Scene) -> anyhow::Result<(Scene, Issued)> {
    let victim = scene.tenant("victim").await?;
    let mut vault = scene.open_to_adopt();
    let all = json!({"names": [scene.name(), victim.name()]});
    vault["grants"] = json!([{"namespaces": all, "push": ["*"], "adopt": ["*"]}]);
    scene.key_vault(scene.name(), vault).await?;
    let issued = victim.renew("victim-tls").await?;
    victim.sync_of("victim", &["victim-tls"]).await?;
    victim.holds("victim", "victim-tls", &issued).await?;
    Ok((victim, issued))
}

async fn a_claim_forged_for_a_live_resource_pushes_nothing_that_it_does_not_want(
    scene: Scene,
) -> anyhow::Result<()> {
    let (victim, _) = victim(&scene).await?;
    for secret in ["web-tls", "unlisted"] {
        scene.renew(secret).await?;
    }
    // A Secret of the same name there, which the owner wants, must not be taken for the victim's either.
    scene.sync_of("web", &["web-tls"]).await?;
    scene.synced("web", "1/1").await?;
    let mut forged = Vec::new();
    for number in 0..FORGERIES {
        for (kind, namespace, secret) in
            [("own", scene.name(), "unlisted"), ("stolen", victim.name(), "victim-tls")]
        {
            let mut claim = claim_of(&scene, "web", &format!("forged-{kind}-{number}")).await?;
            claim.spec.sources = sources(namespace, secret);
            forged.push(claim);
        }
        // In the name of the victim's resource, of what that one has not listed.
        let mut claim = claim_of(&victim, "victim", &format!("forged-theirs-{number}")).await?;
        claim.spec.sources = sources(scene.name(), "unlisted");
        forged.push(claim);
    }
    forge_all(&scene, &forged).await?;
    let written = writes_about(&scene, "forged-");
    ensure!(written.is_empty(), "{} writes: {written:?}", written.len());
    scene.synced("web", "1/1").await?;
    victim.synced("victim", "1/1").await?;
    ensure!(writes(&scene.calls()).len() == 2, "{:?}", scene.calls());
    Ok(())
}

async fn a_claim_forged_over_namespaces_reads_only_where_its_resource_does(
    scene: Scene,
) -> anyhow::Result<()> {
    let (victim, _) = victim(&scene).await?;
    for secret in ["web-tls", "unlisted"] {
        scene.renew(secret).await?;
    }
    let wish = json!({
        "selector": {"names": ["web-*", "victim-*"]},
        "namespaceSelector": {"names": [scene.name(), victim.name()], "excludeNames": [victim.name()]},
    });
    let sync = scene.cluster_sync(scene.name(), wish).await?;
    scene.cluster_synced(scene.name(), "1/1").await?;
    let owner = json!({"kind": "ClusterKeyVaultSync", "name": scene.name(), "uid": sync.uid()});
    let mut forged = Vec::new();
    for number in 0..FORGERIES {
        for (kind, namespace, secret) in
            [("unlisted", scene.name(), "unlisted"), ("stolen", victim.name(), "victim-tls")]
        {
            let name = format!("forged-{kind}-{number}");
            let mut claim = claim(&scene, &name, owner.clone(), &scene.cluster_id().await?)?;
            claim.spec.sources = sources(namespace, secret);
            forged.push(claim);
        }
    }
    forge_all(&scene, &forged).await?;
    let written = writes_about(&scene, "forged-");
    ensure!(written.is_empty(), "{} writes: {written:?}", written.len());
    // Nor as a copy beside one that is meant.
    let name = format!("{}--web-tls", scene.name());
    let copies = sources(scene.name(), "web-tls").into_iter().chain(sources(victim.name(), "victim-tls"));
    let copies: Vec<_> = copies.collect();
    edit(&scene, &name, |spec| spec.sources = copies.clone()).await?;
    is_as_before(&scene, &name, |spec| spec.sources.len() == 1).await?;
    let claim = scene.claim(&name).await?;
    let seen = claim.status.iter().flat_map(|status| &status.sources);
    ensure!(seen.clone().all(|seen| seen.namespace == scene.name()), "{claim:?}");
    Ok(())
}

async fn a_claim_forged_for_nobody_ends_and_touches_nothing(scene: Scene) -> anyhow::Result<()> {
    let (victim, _) = victim(&scene).await?;
    let theirs = scene.renew("web-tls").await?;
    for name in ["nobodys", "anothers"] {
        let tags = [("keyvault-sync-owner", &*victim.owner_tag("victim").await?)];
        scene.put_by_others(name, &theirs, if name == "anothers" { &tags } else { &[] })?;
    }
    scene.sync_of("web", &["absent"]).await?;
    scene.row("web", "absent", "SecretNotFound").await?;
    let uid = scene.syncs().get("web").await?.uid().context("no uid")?;
    let cluster = scene.cluster_id().await?;
    let before = writes(&scene.calls()).len();
    let owner = |name: &str, uid: &str| json!({"kind": "KeyVaultSync", "namespace": scene.name(), "name": name, "uid": uid});
    let gone = json!({"kind": "KeyVaultSync", "namespace": "no-such-namespace", "name": "web", "uid": uid});
    let mut forged = Vec::new();
    for (number, owner) in [
        owner("nobody", "no-such-uid"),
        // A real uid under another name, kind and namespace; a real name under another uid.
        owner("nobody", &uid),
        owner("web", "no-such-uid"),
        json!({"kind": "ClusterKeyVaultSync", "name": "web", "uid": uid}),
        gone,
    ]
    .into_iter()
    .enumerate()
    {
        for name in ["nobodys", "anothers", "free"] {
            let certificate = if number == 0 { name.to_owned() } else { format!("{name}-{number}") };
            if number > 0 && name != "free" {
                let tags = [("keyvault-sync-owner", &*victim.owner_tag("victim").await?)];
                scene.put_by_others(&certificate, &theirs, if name == "anothers" { &tags } else { &[] })?;
            }
            let mut claim = claim(&scene, &certificate, owner.clone(), &cluster)?;
            claim.spec.deletion_policy = keyvault_sync_api::DeletionPolicy::Delete;
            claim.spec.conflict_policy = keyvault_sync_api::ConflictPolicy::Adopt;
            forged.push(claim);
        }
    }
    forge_all(&scene, &forged).await?;
    let calls = scene.calls();
    ensure!(writes(&calls).len() == before, "{:?}", writes(&calls));

    // With a memory of having pushed what is another's, and a deletion under way.
    let version = scene.versions("anothers").last().context("no version")?.version.clone();
    let mut claim = claim(&scene, "anothers", owner("nobody", "no-such-uid"), &cluster)?;
    claim.spec.deletion_policy = keyvault_sync_api::DeletionPolicy::Delete;
    let forged = forge(&scene, &claim).await?;
    remember(&scene, &forged, (&theirs, &format!("sha256:{}", "0".repeat(64))), &version, None).await?;
    scene.given_up("anothers").await?;
    scene
        .told_of("KeyVault", scene.name(), "LeftInVault", &["anothers", &victim.owner_tag("victim").await?])
        .await?;
    scene.untouched("anothers")
}

/// Writes a memory into a claim: that it pushed this certificate as that version, of that edition of its Secret. Whoever gets
/// there after the claim has gone was too late, which is no matter.
async fn remember(
    scene: &Scene,
    claim: &KeyVaultCertificate,
    (leaf, content): (&Issued, &str),
    version: &str,
    edition: Option<(&str, &str)>,
) -> anyhow::Result<()> {
    let source = claim.spec.sources.first().context("no source")?;
    let mut seen = json!({"namespace": source.namespace, "name": source.secret_name});
    if let Some((uid, resource_version)) = edition {
        seen["uid"] = json!(uid);
        seen["resourceVersion"] = json!(resource_version);
    }
    let before = claim.status.clone().unwrap_or_default();
    let status = json!({
        "observedGeneration": claim.metadata.generation,
        "claimUid": claim.uid(),
        "conditions": [{
            "type": "Ready", "status": "True", "reason": "Synced", "message": "all is well",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }],
        "sources": [seen],
        "version": version,
        "thumbprint": thumbprint(leaf)?,
        "fingerprint": content,
        "desired": before.desired,
        "notAfter": "2999-01-01T00:00:00Z",
        "inFlight": Value::Null,
    });
    let patch = Patch::Merge(json!({"status": status}));
    scene.claims().patch_status(&claim.name_any(), &PatchParams::default(), &patch).await.map(drop).or_else(
        |error| {
            if matches!(&error, kube::Error::Api(status) if status.code == 404) {
                Ok(())
            } else {
                Err(error.into())
            }
        },
    )
}

async fn a_claim_forged_for_another_vault_calls_nobody(scene: Scene) -> anyhow::Result<()> {
    scene.renew("web-tls").await?;
    scene.sync_of("web", &["web-tls"]).await?;
    scene.synced("web", "1/1").await?;
    let other = format!("{}-x", scene.name());
    scene.make_vault(&other);
    for host in [host(&other), "evil.example".to_owned(), format!("{}.evil.example", scene.host())] {
        let mut claim = claim_of(&scene, "web", "web-tls").await?;
        claim.metadata.name = Some(format!("web-tls.{host}"));
        claim.spec.vault_host.clone_from(&host);
        claim.spec.deletion_policy = keyvault_sync_api::DeletionPolicy::Delete;
        forge(&scene, &claim).await?;
        // Whatever is done about the claim, it costs no call of anybody.
        if host.ends_with(".vault.azure.net") {
            wait::gone(&scene.claims(), &claim.name_any()).await?;
        }
    }
    let renewed = scene.renew("web-tls").await?;
    scene.holds("web", "web-tls", &renewed).await?;
    let strangers: Vec<Call> = scene
        .emulator()
        .journal()
        .into_iter()
        .filter(|call| call.host == host(&other) || call.host.ends_with("evil.example"))
        .collect();
    ensure!(strangers.is_empty(), "{strangers:?}");
    Ok(())
}

// Edited claims.

/// Edits a claim's specification, however often somebody else was faster.
async fn edit(
    scene: &Scene,
    certificate: &str,
    edit: impl Fn(&mut KeyVaultCertificateSpec) + Send + Sync,
) -> anyhow::Result<KeyVaultCertificate> {
    let name = scene.claim_name(certificate);
    wait::until(&format!("claim {name} to be edited"), || async {
        let mut claim = scene.claims().get(&name).await?;
        edit(&mut claim.spec);
        let edited = scene.claims().replace(&name, &PostParams::default(), &claim).await?;
        Ok(Seen::Done(edited))
    })
    .await
}

/// Waits until the claim on a certificate says what it said before, and has an outcome.
async fn is_as_before(
    scene: &Scene,
    certificate: &str,
    is_right: impl Fn(&KeyVaultCertificateSpec) -> bool,
) -> anyhow::Result<()> {
    wait::object(&scene.claims(), &scene.claim_name(certificate), "to be put right", |claim| {
        let observed = claim.status.as_ref().and_then(|status| status.observed_generation);
        is_right(&claim.spec)
            && observed == claim.metadata.generation
            && claim_ready(claim).is_some_and(|ready| ready.reason == "Synced")
    })
    .await
    .map(drop)
}

async fn an_edited_claim_is_put_right_and_makes_no_version(scene: Scene) -> anyhow::Result<()> {
    let (victim, _) = victim(&scene).await?;
    let issued = scene.renew("web-tls").await?;
    scene.renew("unlisted").await?;
    let wish = json!({"certificates": [{"secretName": "web-tls", "certificateName": "Shop"}]});
    scene.sync("web", wish).await?;
    scene.holds("web", "web-tls", &issued).await?;
    let other = format!("{}-x", scene.name());
    scene.make_vault(&other);
    let url = format!("https://{}", host(&other));
    scene.key_vault(&other, json!({"url": url, "grants": [scene.grant(&["*"])]})).await?;
    let (before, theirs) = (scene.claim("shop").await?.spec, victim.claim("victim-tls").await?.spec);
    type Edit<'a> = Box<dyn Fn(&mut KeyVaultCertificateSpec) + Send + Sync + 'a>;
    let edits: Vec<(&str, Edit<'_>)> = vec![
        ("owner", Box::new(|spec| spec.owner = theirs.owner.clone())),
        ("uid", Box::new(|spec| spec.owner.uid = "no-such-uid".into())),
        ("uid of another", Box::new(|spec| spec.owner.uid.clone_from(&theirs.owner.uid))),
        ("owner that is not there", Box::new(|spec| spec.owner.name = "nobody".into())),
        ("KeyVault", Box::new(|spec| spec.key_vault.clone_from(&other))),
        ("KeyVault that is not there", Box::new(|spec| spec.key_vault = "no-such-vault".into())),
        ("name", Box::new(|spec| spec.certificate_name = "sHOP".into())),
        ("source of another", Box::new(|spec| spec.sources = sources(victim.name(), "victim-tls"))),
        ("unlisted source", Box::new(|spec| spec.sources = sources(scene.name(), "unlisted"))),
        ("source that is not there", Box::new(|spec| spec.sources = sources(scene.name(), "no-such"))),
        ("cluster", Box::new(|spec| spec.cluster_id = "another".into())),
        ("suspend", Box::new(|spec| spec.suspend = true)),
    ];
    for (what, change) in edits {
        edit(&scene, "shop", change).await.context(what)?;
        is_as_before(&scene, "shop", |spec| *spec == before).await.context(what)?;
        scene.holds("web", "web-tls", &issued).await.context(what)?;
    }
    victim.synced("victim", "1/1").await?;
    for name in ["shop", "victim-tls"] {
        scene.untouched(name)?;
    }
    let strangers = scene.calls_of(&host(&other));
    ensure!(strangers.is_empty(), "{strangers:?}");
    ensure!(imports(&scene.calls()) == 2, "{:?}", writes(&scene.calls()));
    Ok(())
}

async fn an_edited_claim_asks_for_no_more_than_its_owner(scene: Scene) -> anyhow::Result<()> {
    scene.key_vault(scene.name(), scene.open_to_adopt()).await?;
    let names: Vec<String> = (0..FORGERIES).map(|number| format!("tls-{number}")).collect();
    let secrets: Vec<&str> = names.iter().map(String::as_str).collect();
    scene.renew_all(&secrets).await?;
    for name in secrets.iter().take(FORGERIES / 2) {
        let theirs = scene.issue(&keyvault_sync_e2e::certificates::Leaf::server("theirs"))?;
        scene.put_by_others(name, &theirs, &[])?;
    }
    let entries: Vec<Value> = secrets.iter().map(|secret| json!({"secretName": secret})).collect();
    scene.sync("web", json!({"certificates": entries, "exportable": false})).await?;
    scene
        .status("web", "to have half of them Synced", |sync| {
            sync.status.as_ref().and_then(|status| status.synced.as_deref())
                == Some(&format!("{}/{FORGERIES}", FORGERIES - FORGERIES / 2))
        })
        .await?;
    let before = writes(&scene.calls()).len();
    for round in 0..3 {
        try_join_all(secrets.iter().map(|name| {
            edit(&scene, name, move |spec| {
                spec.exportable = round != 1;
                spec.conflict_policy = keyvault_sync_api::ConflictPolicy::Adopt;
            })
        }))
        .await?;
        for name in &secrets {
            wait::object(&scene.claims(), &scene.claim_name(name), "to be put right", |claim| {
                let observed = claim.status.as_ref().and_then(|status| status.observed_generation);
                !claim.spec.exportable
                    && claim.spec.conflict_policy == keyvault_sync_api::ConflictPolicy::Refuse
                    && observed == claim.metadata.generation
            })
            .await?;
        }
    }
    ensure!(writes(&scene.calls()).len() == before, "{:?}", writes(&scene.calls()).split_off(before));
    let exportable: Vec<&&str> = secrets
        .iter()
        .skip(FORGERIES / 2)
        .filter(|name| scene.versions(name).iter().any(|version| version.exportable))
        .collect();
    ensure!(exportable.is_empty(), "exportable: {exportable:?}");
    Ok(())
}

/// Long ago: whoever waits from then on waits no longer.
fn released(spec: &mut KeyVaultCertificateSpec, why: &str) {
    spec.deletion_policy = keyvault_sync_api::DeletionPolicy::Delete;
    spec.deletion_grace_period = serde_json::from_value(json!("0s")).unwrap_or(spec.deletion_grace_period);
    spec.release = serde_json::from_value(json!({"why": why, "since": "2000-01-01T00:00:00Z"})).ok();
}

async fn a_claim_edited_into_its_end_deletes_nothing_that_is_wanted(scene: Scene) -> anyhow::Result<()> {
    let names: Vec<String> = (0..FORGERIES).map(|number| format!("tls-{number}")).collect();
    let secrets: Vec<&str> = names.iter().map(String::as_str).collect();
    scene.renew_all(&secrets).await?;
    // Its own word would let it be deleted.
    let entries: Vec<Value> = secrets.iter().map(|secret| json!({"secretName": secret})).collect();
    let wish = json!({"certificates": entries, "deletionPolicy": "Delete", "deletionGracePeriod": "0s"});
    scene.sync("web", wish).await?;
    let all = format!("{FORGERIES}/{FORGERIES}");
    scene.synced("web", &all).await?;
    for (why, source) in [
        ("SecretGone", Some("no-such")),
        ("SecretGone", None),
        ("EntryGone", None),
        ("OwnerGone", None),
        ("VaultChanged", Some("no-such")),
    ] {
        try_join_all(secrets.iter().map(|name| {
            edit(&scene, name, |spec| {
                released(spec, why);
                if let Some(source) = source {
                    spec.sources = sources(scene.name(), source);
                }
            })
        }))
        .await
        .context(why)?;
        for name in &secrets {
            is_as_before(&scene, name, |spec| {
                spec.release.is_none() && spec.sources.iter().all(|source| source.secret_name == **name)
            })
            .await
            .context(why)?;
        }
    }
    scene.synced("web", &all).await?;
    let deletions: Vec<Call> = secrets.iter().flat_map(|name| scene.deletions(name)).collect();
    ensure!(deletions.is_empty(), "{deletions:?}");
    secrets.iter().try_for_each(|name| scene.untouched(name))
}

async fn a_claim_edited_into_its_end_deletes_nothing_that_is_retained(scene: Scene) -> anyhow::Result<()> {
    let names: Vec<String> = (0..FORGERIES).map(|number| format!("tls-{number}")).collect();
    let secrets: Vec<&str> = names.iter().map(String::as_str).collect();
    scene.renew_all(&secrets).await?;
    scene.renew("keep").await?;
    let all: Vec<&str> = secrets.iter().copied().chain(["keep"]).collect();
    scene.sync_of("web", &all).await?;
    scene.synced("web", &format!("{}/{}", all.len(), all.len())).await?;
    // The entries go in the moment in which the claims are edited to delete what the owner retains.
    let editing = try_join_all(secrets.iter().map(|name| async {
        match edit_once(&scene, name, |spec| released(spec, "EntryGone")).await {
            // It is gone already.
            Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => Ok(()),
            other => other.map(drop),
        }
    }));
    let (edited, entries) = tokio::join!(editing, scene.sync_of("web", &["keep"]));
    edited?;
    entries?;
    for name in &secrets {
        scene.given_up(name).await?;
    }
    scene.synced("web", "1/1").await?;
    let deletions: Vec<Call> = secrets.iter().flat_map(|name| scene.deletions(name)).collect();
    ensure!(deletions.is_empty(), "{} of {FORGERIES}: {deletions:?}", deletions.len());
    all.iter().try_for_each(|name| scene.untouched(name))
}

async fn edit_once(
    scene: &Scene,
    certificate: &str,
    edit: impl Fn(&mut KeyVaultCertificateSpec) + Send + Sync,
) -> Result<KeyVaultCertificate, kube::Error> {
    let name = scene.claim_name(certificate);
    let mut claim = scene.claims().get(&name).await?;
    edit(&mut claim.spec);
    scene.claims().replace(&name, &PostParams::default(), &claim).await
}

// Forged memory.

/// What the operator says of the content of that certificate, in its tag.
async fn fingerprint_of(scene: &Scene, issued: &Issued) -> anyhow::Result<String> {
    scene.put_issued("probe", issued).await?;
    scene.sync_of("probe", &["probe"]).await?;
    scene.holds("probe", "probe", issued).await?;
    let versions = scene.versions("probe");
    let tag = versions.last().and_then(|version| version.tags.get("keyvault-sync-fingerprint"));
    tag.cloned().context("no fingerprint tag")
}

async fn a_forged_memory_of_a_claim_hides_no_renewal_from_a_comparison(scene: Scene) -> anyhow::Result<()> {
    let first = scene.renew("web-tls").await?;
    scene.sync_of("web", &["web-tls"]).await?;
    scene.holds("web", "web-tls", &first).await?;
    let pushed = scene.versions("web-tls").last().context("no version")?.version.clone();

    // The vault refuses the renewal; somebody writes that it was made, as a version that the vault has, and what it holds.
    let fault = Fault::new(Effect::forbidden("ForbiddenByRbac")).operation(Operation::Import);
    let refusing = scene.fault("web-tls", fault);
    let renewed = scene.renew("web-tls").await?;
    scene.row("web", "web-tls", "Forbidden").await?;
    let meta = scene.secrets().get_metadata("web-tls").await?.metadata;
    let edition = (meta.uid.context("no uid")?, meta.resource_version.context("no edition")?);
    let claim = scene.claim("web-tls").await?;
    scene.emulator().clear_fault(refusing);
    let content = fingerprint_of(&scene, &renewed).await?;
    let seen = Some((edition.0.as_str(), edition.1.as_str()));
    remember(&scene, &claim, (&renewed, &content), &pushed, seen).await?;
    scene.sync_now("web", "now").await?;
    let wanted = Some(ders(&renewed.tls_crt())?);
    wait::until("the vault to hold the renewal", || async {
        let versions = scene.versions("web-tls");
        let holds = versions.last().is_some_and(|newest| Some(&newest.chain_der) == wanted.as_ref());
        Ok(if holds { Seen::Done(()) } else { Seen::NotYet(format!("{} versions", versions.len())) })
    })
    .await?;

    // A deletion that was announced, and one that is still to come: neither is made nor waited for.
    for since in ["2000-01-01T00:00:00Z", "2999-01-01T00:00:00Z"] {
        let in_flight = json!({"act": "Delete", "since": since});
        let patch = Patch::Merge(json!({"status": {"inFlight": in_flight, "version": null}}));
        let name = scene.claim_name("web-tls");
        scene.claims().patch_status(&name, &PatchParams::default(), &patch).await?;
        let renewed = scene.renew("web-tls").await?;
        scene.holds("web", "web-tls", &renewed).await.context(since)?;
    }
    ensure!(scene.deletions("web-tls").is_empty(), "{:?}", scene.deletions("web-tls"));
    ensure!(scene.versions("web-tls").len() == 4, "{} versions", scene.versions("web-tls").len());
    Ok(())
}
