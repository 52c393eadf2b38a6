//! Tenants of one vault against each other: prefixes, squatted names, grants that move or go, owner tags forged in the vault.
//! Adoption, owners that are gone, and deletion without a grant are left to `ownership` and `deletion`.

use std::collections::BTreeMap;

use anyhow::{Context, ensure};
use keyvault_sync_api::CertificateState;
use keyvault_sync_e2e::Scene;
use keyvault_sync_e2e::certificates::{Issued, Leaf};
use keyvault_sync_e2e::scene::{claim_ready, ders, imports, says, writes};
use keyvault_sync_e2e::wait;
use serde_json::{Value, json};

keyvault_sync_e2e::promises!(Together:
    no_namespace_reaches_the_prefix_of_another_whoever_is_made_first,
    no_namespace_reaches_the_prefix_of_another_through_a_cluster_resource,
    a_name_cannot_be_squatted_before_it_is_granted,
    a_grant_that_moved_leaves_nothing_to_be_overwritten,
    a_grant_taken_away_amid_renewals_stops_every_write,
    owner_tags_forged_in_the_vault_open_nothing,
    a_forged_fingerprint_does_not_pass_for_a_push,
);

/// Our annotation for names.
const NAMED: &str = "example.com/name";
/// A template of it alone.
const BY_NAME: &str = "{annotation:example.com/name}";

// Prefixes.

/// Whose names are wanted under `{namespace}--*`: of the namespaces `a`, `a-b` and `a--b`. What a namespace may not have of them
/// is refused; `a--b` may have none, because all of its names are `a`'s.
async fn rivals(scene: &Scene, order: [&str; 3]) -> anyhow::Result<BTreeMap<&'static str, Scene>> {
    let mut rivals = BTreeMap::new();
    for suffix in order {
        let tenant = scene.tenant(suffix).await?;
        let key = match suffix {
            "a" => "a",
            "a-b" => "a-b",
            _ => "a--b",
        };
        rivals.insert(key, tenant);
    }
    let mut vault = scene.open_to_us();
    let all = json!({"names": [format!("{}-*", scene.name())]});
    vault["grants"] = json!([{"namespaces": all, "push": ["{namespace}--*"]}]);
    scene.key_vault(scene.name(), vault).await?;
    Ok(rivals)
}

/// The Secrets of one rival: one for each name it is after, and whether it may have that.
fn aims(scene: &Scene, rival: &str, tail: &str) -> Vec<(String, String, bool)> {
    let base = scene.name();
    let upper = base.to_uppercase();
    [
        ("own-a", format!("{base}-a--{tail}-{rival}"), rival == "a"),
        ("upper-a", format!("{upper}-A--{tail}-{rival}-upper"), rival == "a"),
        ("in-a-b", format!("{base}-a--b--{tail}-{rival}"), rival == "a"),
        ("own-a-b", format!("{base}-a-b--{tail}-{rival}"), rival == "a-b"),
        ("upper-a-b", format!("{upper}-a-B--{tail}-{rival}-upper"), rival == "a-b"),
        ("one-hyphen", format!("{base}-a-{tail}-{rival}"), false),
        ("no-tail", format!("{base}-a-b"), false),
        ("parent", format!("{base}--{tail}-{rival}"), false),
        ("plain", format!("{tail}-{rival}"), false),
    ]
    .into_iter()
    .map(|(secret, name, may)| (format!("{secret}-{tail}"), name, may))
    .collect()
}

async fn put_aims(tenant: &Scene, aims: &[(String, String, bool)]) -> anyhow::Result<()> {
    for (secret, name, _) in aims {
        tenant.renew(secret).await?;
        // A label bears no more than 63 letters.
        tenant.mark(secret, json!({"app": name}), json!({NAMED: name})).await?;
    }
    Ok(())
}

/// What the vault holds is what was allowed, each from the namespace that it was allowed to.
fn holds_just(scene: &Scene, allowed: &[(String, String)]) -> anyhow::Result<()> {
    let mut names = scene.emulator().certificate_names(&scene.host());
    let mut wanted: Vec<String> = allowed.iter().map(|(name, _)| name.clone()).collect();
    names.sort();
    wanted.sort();
    ensure!(names == wanted, "{names:?} instead of {wanted:?}");
    for (name, source) in allowed {
        let versions = scene.versions(name);
        let tag = versions.first().and_then(|version| version.tags.get("keyvault-sync-source"));
        ensure!(versions.len() == 1 && tag == Some(source), "{name}: {versions:?}");
    }
    ensure!(writes(&scene.calls()).len() == allowed.len(), "{:?}", scene.calls());
    Ok(())
}

async fn no_namespace_reaches_the_prefix_of_another_whoever_is_made_first(
    scene: Scene,
) -> anyhow::Result<()> {
    let mut allowed = Vec::new();
    for (tail, order) in [("x", ["a", "a-b", "a--b"]), ("y", ["a--b", "a-b", "a"])] {
        let rivals = rivals(&scene, order).await?;
        for rival in order {
            let tenant = rivals.get(rival).context("no such rival")?;
            let aims = aims(&scene, rival, tail);
            put_aims(tenant, &aims).await?;
            let selected = json!({"names": [format!("*-{tail}")]});
            for (sync, template) in [("annotation", BY_NAME), ("label", "{label:app}")] {
                // Of the two that select alike, the first holds the names.
                let wish = json!({"selector": selected, "certificateNameTemplate": template});
                tenant.sync(&format!("{sync}-{tail}"), wish).await?;
                for (secret, name, may) in &aims {
                    let reason = match (sync, may) {
                        (_, false) => "NotGranted",
                        ("annotation", true) => "Synced",
                        _ => "NameCollision",
                    };
                    let row = tenant.row(&format!("{sync}-{tail}"), secret, reason).await?;
                    ensure!(row.certificate_name.as_ref() == Some(name), "{row:?}");
                    if !may {
                        says(&row, &[tenant.name(), name, scene.name()])?;
                    } else if sync == "annotation" {
                        allowed.push((name.clone(), format!("{}/{secret}", tenant.name())));
                    }
                }
            }
            // By the template's own text, as if it were the other.
            for other in ["a", "a-b", "a--b"].into_iter().filter(|other| *other != rival) {
                let sync = format!("as-{other}-{tail}");
                let text = format!("{}-{other}--text-{tail}", scene.name());
                let wish = json!({
                    "certificates": [{"secretName": format!("plain-{tail}")}],
                    "certificateNameTemplate": text,
                });
                tenant.sync(&sync, wish).await?;
                // That the names of `a--b` are `a`'s is meant so.
                let may = rival == "a" && other == "a--b";
                let row = tenant
                    .row(&sync, &format!("plain-{tail}"), if may { "Synced" } else { "NotGranted" })
                    .await?;
                ensure!(row.certificate_name.as_ref() == Some(&text), "{row:?}");
                if may {
                    allowed.push((text, format!("{}/plain-{tail}", tenant.name())));
                }
            }
        }
    }
    holds_just(&scene, &allowed)
}

async fn no_namespace_reaches_the_prefix_of_another_through_a_cluster_resource(
    scene: Scene,
) -> anyhow::Result<()> {
    let order = ["a--b", "a", "a-b"];
    let rivals = rivals(&scene, order).await?;
    // It is there before the Secrets are: whoever is first gets no more for it.
    let wish = json!({"selector": {"annotations": [{"name": NAMED}]}, "certificateNameTemplate": BY_NAME});
    scene.cluster_sync(scene.name(), wish).await?;
    let mut allowed = Vec::new();
    for rival in order {
        let tenant = rivals.get(rival).context("no such rival")?;
        let aims = aims(&scene, rival, "x");
        put_aims(tenant, &aims).await?;
        for (secret, name, may) in &aims {
            let row =
                tenant.cluster_row(scene.name(), secret, if *may { "Synced" } else { "NotGranted" }).await?;
            ensure!(row.certificate_name.as_ref() == Some(name), "{row:?}");
            if *may {
                allowed.push((name.clone(), format!("{}/{secret}", tenant.name())));
            } else {
                says(&row, &[tenant.name(), name, scene.name()])?;
                ensure!(scene.claim(name).await.is_err(), "{name} was claimed without a grant");
            }
        }
    }
    holds_just(&scene, &allowed)
}

// Grants that come, move and go.

fn named(secret: &str, name: &str) -> Value {
    json!({"certificates": [{"secretName": secret, "certificateName": name}]})
}

/// The vault with these grants.
async fn grants(scene: &Scene, grants: Value) -> anyhow::Result<()> {
    let mut vault = scene.open_to_us();
    vault["grants"] = grants;
    scene.key_vault(scene.name(), vault).await.map(drop)
}

async fn a_name_cannot_be_squatted_before_it_is_granted(scene: Scene) -> anyhow::Result<()> {
    let owner = scene.tenant("owner").await?;
    grants(&scene, json!([scene.grant(&["canary"])])).await?;
    // It is there first, in whatever case and by whatever means, and would keep and delete what it gets.
    for secret in ["listed", "templated", "canary"] {
        scene.renew(secret).await?;
    }
    let greedy = |mut wish: Value| {
        wish["conflictPolicy"] = json!("Adopt");
        wish["deletionPolicy"] = json!("Delete");
        wish["deletionGracePeriod"] = json!("0s");
        wish
    };
    scene.sync("listed", greedy(named("listed", "Gold"))).await?;
    let templated = json!({"certificates": [{"secretName": "templated"}], "certificateNameTemplate": "gold"});
    scene.sync("templated", greedy(templated)).await?;
    for sync in ["listed", "templated"] {
        scene.row(sync, sync, "NotGranted").await?;
    }
    ensure!(scene.claim("gold").await.is_err(), "a name was squatted without a grant");

    let issued = owner.renew("gold").await?;
    grants(&scene, json!([scene.grant(&["canary"]), owner.grant(&["gold"])])).await?;
    owner.sync_of("owner", &["gold"]).await?;
    owner.holds("owner", "gold", &issued).await?;
    // Asked again, and when it goes: the name is none of its business.
    scene.sync_now("listed", "again").await?;
    scene.delete(&scene.syncs(), "templated").await?;
    scene.sync_of("canary", &["canary"]).await?;
    scene.synced("canary", "1/1").await?;
    scene.row("listed", "listed", "NotGranted").await?;
    let claim = scene.claim("gold").await?;
    ensure!(claim.spec.owner.namespace.as_deref() == Some(owner.name()), "{claim:?}");
    owner.holds("owner", "gold", &issued).await?;
    scene.untouched("gold")
}

async fn a_grant_that_moved_leaves_nothing_to_be_overwritten(scene: Scene) -> anyhow::Result<()> {
    let next = scene.tenant("heir").await?;
    let first = scene.renew("shop").await?;
    scene.sync_of("old", &["shop"]).await?;
    scene.holds("old", "shop", &first).await?;

    // With and without the wish to take it over: the claim is another's.
    grants(&scene, json!([next.grant(&["shop"])])).await?;
    scene.row("old", "shop", "NotGranted").await?;
    wait::object(&scene.claims(), &scene.claim_name("shop"), "to be NotGranted", |claim| {
        claim_ready(claim).is_some_and(|ready| ready.reason == "NotGranted")
    })
    .await?;
    let second = next.renew("shop").await?;
    let adopting = json!({"certificates": [{"secretName": "shop"}], "conflictPolicy": "Adopt"});
    let holder = format!("KeyVaultSync {}/old", scene.name());
    for wish in [json!({"certificates": [{"secretName": "shop"}]}), adopting.clone()] {
        next.sync("new", wish).await?;
        let row = next.row("new", "shop", "NameCollision").await?;
        ensure!(row.state == CertificateState::Failed, "{row:?}");
        says(&row, &[&holder, "shop"])?;
    }
    scene.renew("shop").await?;
    next.renew("canary").await?;
    next.sync_of("canary", &["canary"]).await?;
    next.row("canary", "canary", "NotGranted").await?;
    scene.untouched("shop")?;

    // The old resource goes: the claim is free, and the certificate still the old namespace's.
    scene.delete(&scene.syncs(), "old").await?;
    let row = next.row("new", "shop", "NotGranted").await?;
    says(&row, &["adopt", next.name()])?;
    next.sync_of("new", &["shop"]).await?;
    let row = next.row("new", "shop", "OwnedByAnother").await?;
    says(&row, &[&scene.owner_tag("old").await?])?;
    scene.untouched("shop")?;
    ensure!(writes(&scene.calls()).len() == 1, "{:?}", scene.calls());

    // Who grants the takeover means it.
    let mut grant = next.grant(&["shop"]);
    grant["adopt"] = json!(["shop"]);
    grants(&scene, json!([grant])).await?;
    next.sync("new", adopting).await?;
    let second = next.holds("new", "shop", &second).await.map(|_| second)?;
    let versions = scene.versions("shop");
    let newest = versions.last().context("no version")?;
    ensure!(versions.len() == 2 && newest.chain_der == ders(&second.tls_crt())?, "{versions:?}");
    Ok(())
}

/// Certificates that are renewed while their grant goes.
const RENEWED: usize = 12;

async fn a_grant_taken_away_amid_renewals_stops_every_write(scene: Scene) -> anyhow::Result<()> {
    let names: Vec<String> = (0..RENEWED).map(|number| format!("tls-{number:02}")).collect();
    let mut secrets: Vec<&str> = names.iter().map(String::as_str).collect();
    scene.renew_all(&secrets).await?;
    scene.renew("canary").await?;
    secrets.push("canary");
    scene.sync_of("web", &secrets).await?;
    scene.synced("web", &format!("{0}/{0}", RENEWED + 1)).await?;
    secrets.pop();

    let (renewed, taken) =
        tokio::join!(scene.renew_all(&secrets), grants(&scene, json!([scene.grant(&["canary"])])));
    renewed?;
    taken?;
    // From here on the operator itself says that it may not.
    for name in &names {
        wait::object(&scene.claims(), &scene.claim_name(name), "to be NotGranted", |claim| {
            claim_ready(claim).is_some_and(|ready| ready.reason == "NotGranted")
                && claim.status.as_ref().is_some_and(|status| status.in_flight.is_none())
        })
        .await?;
    }
    let before = writes(&scene.calls()).len();
    let held: Vec<usize> = secrets.iter().map(|name| scene.versions(name).len()).collect();
    scene.renew_all(&secrets).await?;
    scene.sync_now("web", "asked").await?;
    let renewed = scene.renew("canary").await?;
    scene.holds("web", "canary", &renewed).await?;
    let after: Vec<usize> = secrets.iter().map(|name| scene.versions(name).len()).collect();
    ensure!(after == held, "{after:?} versions instead of {held:?}");
    ensure!(writes(&scene.calls()).len() == before + 1, "{:?}", writes(&scene.calls()));
    // What was pushed stays.
    ensure!(secrets.iter().all(|name| scene.state(name).is_some()), "something is gone");
    ensure!(secrets.iter().all(|name| scene.deletions(name).is_empty()), "something was to be deleted");
    Ok(())
}

// Tags.

/// What the operator says of the content of that certificate, in its tag.
async fn fingerprint_of(scene: &Scene, issued: &Issued) -> anyhow::Result<String> {
    scene.put_issued("probe", issued).await?;
    scene.sync_of("probe", &["probe"]).await?;
    scene.holds("probe", "probe", issued).await?;
    let versions = scene.versions("probe");
    let tag = versions.last().and_then(|version| version.tags.get("keyvault-sync-fingerprint")).cloned();
    scene.delete(&scene.syncs(), "probe").await?;
    tag.context("no fingerprint tag")
}

async fn owner_tags_forged_in_the_vault_open_nothing(scene: Scene) -> anyhow::Result<()> {
    let tenant = scene.tenant("other").await?;
    scene.key_vault(scene.name(), scene.open_to_us()).await?;
    tenant.renew("tenant-tls").await?;
    tenant.sync_of("lives", &["tenant-tls"]).await?;
    let cluster = scene.cluster_id().await?;
    let namespace = scene.name();
    let cases = [
        ("other-cluster", format!("evil/KeyVaultSync/{namespace}/web")),
        ("other-kind", format!("{cluster}/ClusterKeyVaultSync//web")),
        ("other-namespace", format!("{cluster}/KeyVaultSync/{}/web", tenant.name())),
        ("living-owner", tenant.owner_tag("lives").await?),
        ("dead-owner", format!("{cluster}/KeyVaultSync/{}/dead", tenant.name())),
        ("longer-namespace", format!("{cluster}/KeyVaultSync/{namespace}-x/web")),
    ];
    let mut before = Vec::new();
    for (name, owner) in &cases {
        // Even what holds the very certificate, and says that it was pushed, is another's.
        let issued = scene.issue(&Leaf::server("same.example.com"))?;
        let fingerprint = fingerprint_of(&scene, &issued).await?;
        scene.put_issued(name, &issued).await?;
        let tags = [
            ("managed-by", "keyvault-sync"),
            ("keyvault-sync-owner", owner.as_str()),
            ("keyvault-sync-source", &format!("{namespace}/{name}")),
            ("keyvault-sync-fingerprint", &fingerprint),
        ];
        scene.put_by_others(name, &issued, &tags)?;
        before.push(scene.versions(name));
    }
    let names: Vec<&str> = cases.iter().map(|(name, _)| *name).collect();
    let entries: Vec<Value> = names.iter().map(|secret| json!({"secretName": secret})).collect();
    let earlier = writes(&scene.calls()).len();
    // Asked for or not: no adoption is granted.
    for (round, policy) in ["Refuse", "Adopt"].into_iter().enumerate() {
        let wish = json!({
            "certificates": entries, "conflictPolicy": policy, "adoptFromClusters": ["evil"],
            "deletionPolicy": "Delete",
        });
        scene.sync("web", wish).await?;
        for (name, owner) in &cases {
            let is_asked = round == 1 || *name == "other-cluster";
            let row = scene.row("web", name, if is_asked { "NotGranted" } else { "OwnedByAnother" }).await?;
            ensure!(row.state == CertificateState::Failed && row.version.is_none(), "{row:?}");
            says(&row, &[owner])?;
        }
    }
    scene.compare("web", "asked", &names).await?;
    // Nor is any of them deleted with the resource.
    scene.delete(&scene.syncs(), "web").await?;
    for name in &names {
        scene.given_up(name).await?;
    }
    let after: Vec<_> = names.iter().map(|name| scene.versions(name)).collect();
    ensure!(after == before && writes(&scene.calls()).len() == earlier, "{:?}", writes(&scene.calls()));
    Ok(())
}

async fn a_forged_fingerprint_does_not_pass_for_a_push(scene: Scene) -> anyhow::Result<()> {
    let names = ["planted", "retagged", "disowned"];
    let mut issued = Vec::new();
    for _ in names {
        let certificate = scene.issue(&Leaf::server("shop.example.com"))?;
        let fingerprint = fingerprint_of(&scene, &certificate).await?;
        issued.push((certificate, fingerprint));
    }
    let [planted, retagged, disowned] = issued.as_slice() else { anyhow::bail!("not three") };
    let owner = scene.owner_tag("web").await?;
    let tags = |owner: &str, fingerprint: &str| {
        [
            ("managed-by", "keyvault-sync"),
            ("keyvault-sync-owner", owner),
            ("keyvault-sync-fingerprint", fingerprint),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
    };
    // It waits there under our own name, and says that it is what the Secret holds.
    let theirs = scene.issue(&Leaf::server("theirs.example.com"))?;
    let forged = tags(&owner, &planted.1);
    let forged: Vec<(&str, &str)> = forged.iter().map(|(name, value)| (&**name, &**value)).collect();
    scene.put_by_others("planted", &theirs, &forged)?;
    for (name, (certificate, _)) in names.iter().zip(&issued) {
        scene.put_issued(name, certificate).await?;
    }
    scene.sync_of("web", &names).await?;
    scene.synced("web", "3/3").await?;
    scene.holds("web", "planted", &planted.0).await?;
    let newest = |name: &str| scene.versions(name).last().cloned().context("no version");
    ensure!(
        newest("planted")?.chain_der == ders(&planted.0.tls_crt())?,
        "what was planted passed for a push"
    );

    // The tags of what was pushed are changed: to say that it is of the next renewal, and that it is another's.
    let next = scene.issue(&Leaf::server("shop.example.com"))?;
    let of_next = fingerprint_of(&scene, &next).await?;
    let host = scene.host();
    ensure!(
        scene.emulator().set_tags(&host, "retagged", None, tags(&owner, &of_next).into()),
        "not retagged"
    );
    let stranger = owner.replace("KeyVaultSync/", "KeyVaultSync/evil-");
    ensure!(
        scene.emulator().set_tags(&host, "disowned", None, tags(&stranger, &disowned.1).into()),
        "not disowned"
    );
    scene.put_issued("retagged", &next).await?;
    scene.holds("web", "retagged", &next).await?;
    ensure!(
        newest("retagged")?.chain_der == ders(&next.tls_crt())?,
        "a forged fingerprint passed for a push"
    );
    ensure!(retagged.0.certificate != next.certificate, "the same certificate twice");
    scene.compare("web", "asked", &["disowned"]).await?;
    let row = scene.row("web", "disowned", "OwnedByAnother").await?;
    says(&row, &[&stranger])?;
    scene.renew("disowned").await?;
    scene.row("web", "disowned", "OwnedByAnother").await?;
    ensure!(scene.versions("disowned").len() == 1, "{:?}", scene.versions("disowned"));
    let probes = 4;
    ensure!(imports(&scene.calls()) == probes + 4, "{:?}", writes(&scene.calls()));
    Ok(())
}
