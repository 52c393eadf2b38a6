//! What users of cert-manager-key-vault-sync come from: each of its known failures as a test of its own, what cert-manager does
//! to its Secrets, and a vault that it filled, taken over without a version. What needs an operator of its own is left to
//! `predecessor_process`.

use std::collections::BTreeMap;

use anyhow::{Context, ensure};
use keyvault_emulator::{Effect, Fault, Operation, State};
use keyvault_sync_api::CertificateState;
use keyvault_sync_e2e::certificates::{Authority, Issued, KeyType, Leaf};
use keyvault_sync_e2e::scene::{ders, entries, imports, thumbprint, writes};
use keyvault_sync_e2e::wait::{self, Seen};
use keyvault_sync_e2e::{Scene, leaks};
use serde_json::{Value, json};

keyvault_sync_e2e::promises!(Together:
    one_bad_secret_of_any_kind_blocks_no_later_one,
    debug_logs_hold_no_private_key,
    a_secret_in_any_namespace_overwrites_no_certificate_without_a_grant,
    a_bundle_with_the_authority_first_makes_no_version_at_a_comparison,
    two_names_that_a_hyphen_makes_one_do_not_take_turns,
    the_vault_keeps_a_policy_under_which_it_renews_nothing_by_itself,
    failures_are_not_counted_as_successes,
    a_soft_deleted_name_of_ours_is_recovered,
    idle_certificates_cost_no_call,
    the_temporary_certificate_of_cert_manager_is_waited_for,
    half_written_secrets_are_waited_for,
    what_cert_manager_renews_makes_one_version_each_and_what_it_rewrites_none,
    a_secret_deleted_and_made_again_unchanged_makes_no_version,
    a_vault_filled_by_it_is_taken_over_without_a_version,
    a_vault_filled_by_it_with_namespaces_is_taken_over_without_a_version,
    what_it_writes_over_ours_while_both_run_is_taken_over_without_a_version,
    going_back_to_it_and_coming_again_makes_no_version,
    filter_and_exclusion_are_by_the_annotations_value,
    copies_in_several_namespaces_share_one_certificate,
    without_adopt_or_its_grant_what_it_wrote_is_left_alone_and_named,
);

/// The annotation by which it finds Secrets and names certificates, unless told otherwise.
const ANNOTATION: &str = "cert-manager.io/certificate-name";

/// The specification of our KeyVault: every name for our namespaces and those of our tenants.
fn open_to_all(scene: &Scene, adopt: &[&str]) -> Value {
    let ours = json!({"names": [scene.name(), format!("{}-*", scene.name())]});
    let url = format!("https://{}", scene.host());
    json!({"url": url, "grants": [{"namespaces": ours, "push": ["*"], "adopt": adopt}]})
}

/// What its configuration comes to: all namespaces, by annotation, named after the annotation's value.
fn as_before() -> Value {
    json!({
        "selector": {"annotations": [{"name": ANNOTATION}]},
        "certificateNameTemplate": format!("{{annotation:{ANNOTATION}}}"),
    })
}

/// Writes a Secret as cert-manager does for a Certificate of this name.
async fn put(scene: &Scene, secret: &str, certificate: &str, issued: &Issued) -> anyhow::Result<()> {
    scene.put_issued(secret, issued).await?;
    scene.mark(secret, json!({}), json!({ANNOTATION: certificate})).await
}

/// Issues a certificate into such a Secret.
async fn issue(scene: &Scene, secret: &str, certificate: &str) -> anyhow::Result<Issued> {
    let issued = scene.issue(&Leaf::server(&format!("{secret}.example.com")))?;
    put(scene, secret, certificate, &issued).await?;
    Ok(issued)
}

/// Waits until the newest version of a certificate holds this leaf and the claim says so; how many versions there are.
async fn in_vault(scene: &Scene, certificate: &str, issued: &Issued) -> anyhow::Result<usize> {
    let leaf = thumbprint(issued)?;
    let is_told = |claim: &keyvault_sync_api::KeyVaultCertificate| {
        claim.status.as_ref().is_some_and(|status| {
            status.thumbprint.as_deref() == Some(&leaf)
                && status.in_flight.is_none()
                && status.observed_generation == claim.metadata.generation
        })
    };
    wait::object(&scene.claims(), &scene.claim_name(certificate), "to hold the leaf", is_told).await?;
    let versions = scene.versions(certificate);
    let newest = versions.last().context("no version")?;
    ensure!(
        newest.chain_der == ders(&issued.tls_crt())?,
        "{certificate}: not leaf and issuer, but {} certificates",
        newest.chain_der.len()
    );
    Ok(versions.len())
}

// Its known failures.

async fn one_bad_secret_of_any_kind_blocks_no_later_one(scene: Scene) -> anyhow::Result<()> {
    scene.key_vault(scene.name(), open_to_all(&scene, &[])).await?;
    let (one, other) = (scene.issue(&Leaf::server("one.test"))?, scene.issue(&Leaf::server("other.test"))?);
    // The bad ones are older and come first by name, where it went through them in order.
    for (secret, data) in [
        ("a-empty", entries("", &one.key, "")),
        ("a-mismatch", entries(&one.tls_crt(), &other.key, "")),
        ("a-pending", entries(&one.tls_crt(), &one.key, "")),
        ("a-text", entries("no PEM at all", &one.key, "")),
    ] {
        scene.put_entries(secret, &data).await?;
        scene.mark(secret, json!({}), json!({ANNOTATION: secret})).await?;
    }
    ensure!(scene.emulator().begin_operation(&scene.host(), "a-pending"), "no operation");
    let dotted = issue(&scene, "a-dotted", "shop.example.com").await?;
    let nameless = scene.issue(&Leaf::server("nameless.test"))?;
    put(&scene, "a-nameless", "-", &nameless).await?;
    scene.cluster_sync(scene.name(), as_before()).await?;
    for (secret, reason) in [
        ("a-empty", "SecretIncomplete"),
        ("a-mismatch", "KeyMismatch"),
        ("a-text", "InvalidCertificate"),
        ("a-nameless", "InvalidName"),
    ] {
        scene.cluster_row(scene.name(), secret, reason).await?;
    }
    // A name with dots is one that Key Vault takes.
    ensure!(in_vault(&scene, "shop-example-com", &dotted).await? == 1);

    let tenant = scene.tenant("later").await?;
    for round in 1..=3 {
        let later = issue(&scene, "b-later", "later").await?;
        let elsewhere = issue(&tenant, "web-tls", "elsewhere").await?;
        ensure!(in_vault(&scene, "later", &later).await? == round);
        ensure!(in_vault(&scene, "elsewhere", &elsewhere).await? == round);
    }
    for (secret, reason) in [("a-empty", "SecretIncomplete"), ("a-mismatch", "KeyMismatch")] {
        scene.cluster_row(scene.name(), secret, reason).await?;
    }
    let pending = scene.emulator().certificate(&scene.host(), "a-pending").context("gone")?;
    ensure!(pending.versions.is_empty(), "{pending:?}");
    // And none stays bad for ever.
    scene.emulator().finish_operation(&scene.host(), "a-pending");
    scene.cluster_compare(scene.name(), "when it was over", &[]).await?;
    let mended = issue(&scene, "a-pending", "a-pending").await?;
    ensure!(in_vault(&scene, "a-pending", &mended).await? == 1);
    let mended = issue(&scene, "a-empty", "a-empty").await?;
    ensure!(in_vault(&scene, "a-empty", &mended).await? == 1);
    Ok(())
}

async fn debug_logs_hold_no_private_key(scene: Scene) -> anyhow::Result<()> {
    let good = scene.renew("good").await?;
    let bad = scene.issue(&Leaf::server("bad.test").key_type(KeyType::Rsa2048))?;
    scene.put_entries("bad", &entries(&good.tls_crt(), &bad.key, "")).await?;
    scene.fault("good", Fault::new(Effect::status(500, "InternalServerError")).times(1));
    scene.sync_of("web", &["good", "bad"]).await?;
    scene.row("web", "bad", "KeyMismatch").await?;
    scene.holds("web", "good", &good).await?;
    let log = scene.stage().running().await?.log();
    let lines = |level: &str| {
        let ours = |line: &&str| line.contains(level) && line.contains(scene.name());
        log.lines().filter(ours).count()
    };
    ensure!(lines("\"DEBUG\"") > 0, "nothing was logged at the debug level");
    let finding = leaks::find(&log, &[good.key, bad.key]);
    ensure!(finding.is_none(), "{finding:?}");
    Ok(())
}

async fn a_secret_in_any_namespace_overwrites_no_certificate_without_a_grant(
    scene: Scene,
) -> anyhow::Result<()> {
    let ours = scene.renew("frontend").await?;
    scene.sync_of("web", &["frontend"]).await?;
    scene.holds("web", "frontend", &ours).await?;
    let theirs = scene.issue(&Leaf::server("theirs.test"))?;
    scene.put_by_others("theirs", &theirs, &[])?;

    // Any namespace: the grants of this vault name ours alone.
    let tenant = scene.tenant("stranger").await?;
    for certificate in ["frontend", "theirs", "new"] {
        issue(&tenant, &format!("{certificate}-tls"), certificate).await?;
    }
    scene.cluster_sync(scene.name(), as_before()).await?;
    for certificate in ["frontend", "theirs", "new"] {
        let row = tenant.cluster_row(scene.name(), &format!("{certificate}-tls"), "NotGranted").await?;
        ensure!(row.state == CertificateState::Failed, "{row:?}");
    }
    let renewed = scene.renew("frontend").await?;
    scene.holds("web", "frontend", &renewed).await?;
    let leaves: Vec<_> = scene.versions("frontend").iter().map(|version| version.subject.clone()).collect();
    ensure!(leaves.len() == 2, "{leaves:?}");
    ensure!(scene.versions("theirs").len() == 1 && scene.versions("new").is_empty());
    ensure!(scene.calls_about("theirs").is_empty() && scene.calls_about("new").is_empty());

    // A grant says which names: no other is to be had with it.
    let names = format!("{}-*", scene.name());
    let mut vault = scene.open_to_us();
    vault["grants"] =
        json!([scene.grant(&["*"]), {"namespaces": {"names": [names]}, "push": ["{namespace}--*"]}]);
    scene.key_vault(scene.name(), vault).await?;
    let own = format!("{}--web", tenant.name());
    let issued = issue(&tenant, "own-tls", &own).await?;
    ensure!(in_vault(&scene, &own, &issued).await? == 1);
    for certificate in ["frontend", "theirs", "new"] {
        tenant.cluster_row(scene.name(), &format!("{certificate}-tls"), "NotGranted").await?;
    }
    ensure!(scene.versions("frontend").len() == 2 && scene.versions("theirs").len() == 1);
    Ok(())
}

async fn a_bundle_with_the_authority_first_makes_no_version_at_a_comparison(
    scene: Scene,
) -> anyhow::Result<()> {
    scene.key_vault(scene.name(), open_to_all(&scene, &[])).await?;
    let issued = scene.issue(&Leaf::server("www.example.com"))?;
    let turned = format!("{}{}", issued.intermediates.concat(), issued.certificate);
    scene.put_entries("web-tls", &entries(&turned, &issued.key, "")).await?;
    scene.mark("web-tls", json!({}), json!({ANNOTATION: "web"})).await?;
    scene.cluster_sync(scene.name(), as_before()).await?;
    ensure!(in_vault(&scene, "web", &issued).await? == 1);
    for cycle in ["first", "second", "third", "fourth"] {
        scene.cluster_compare(scene.name(), cycle, &["web"]).await?;
    }
    scene.cluster_synced(scene.name(), "1/1").await?;
    ensure!(scene.versions("web").len() == 1, "{} versions", scene.versions("web").len());
    ensure!(writes(&scene.calls()).len() == 1, "{:?}", writes(&scene.calls()));
    // It was compared: four looks beside the one before the import.
    let looks = scene.calls_about("web").iter().filter(|call| call.method == "GET").count();
    ensure!(looks >= 5, "{looks} looks");
    Ok(())
}

async fn two_names_that_a_hyphen_makes_one_do_not_take_turns(scene: Scene) -> anyhow::Result<()> {
    scene.key_vault(scene.name(), open_to_all(&scene, &[])).await?;
    let (a, a_b) = (scene.tenant("a").await?, scene.tenant("a-b").await?);
    let first = issue(&a, "web-tls", "b-c").await?;
    let name = format!("{}-b-c", a.name());
    ensure!(name == format!("{}-c", a_b.name()), "{name}");
    let mut wish = as_before();
    wish["certificateNameTemplate"] = json!(format!("{{namespace}}-{{annotation:{ANNOTATION}}}"));
    scene.cluster_sync(scene.name(), wish).await?;
    ensure!(in_vault(&scene, &name, &first).await? == 1);
    issue(&a_b, "web-tls", "c").await?;
    let row = a_b.cluster_row(scene.name(), "web-tls", "NameCollision").await?;
    let holder = format!("{}/web-tls", a.name());
    ensure!(row.message.as_deref().is_some_and(|message| message.contains(&holder)), "{row:?}");
    for cycle in ["first", "second", "third"] {
        scene.cluster_compare(scene.name(), cycle, &[&name]).await?;
    }
    let renewed = issue(&a, "web-tls", "b-c").await?;
    ensure!(in_vault(&scene, &name, &renewed).await? == 2, "{} versions", scene.versions(&name).len());
    a_b.cluster_row(scene.name(), "web-tls", "NameCollision").await?;
    Ok(())
}

async fn the_vault_keeps_a_policy_under_which_it_renews_nothing_by_itself(
    scene: Scene,
) -> anyhow::Result<()> {
    let kinds = [("rsa", KeyType::Rsa2048, "RSA"), ("ec", KeyType::P384, "EC")];
    for (name, key_type, _) in kinds {
        let issued = scene.issue(&Leaf::server("www.example.com").key_type(key_type))?;
        put(&scene, name, name, &issued).await?;
    }
    scene.cluster_sync(scene.name(), as_before()).await?;
    scene.cluster_synced(scene.name(), "2/2").await?;
    for (name, _, kty) in kinds {
        // Of the certificate, not only of the import: this is what Key Vault acts by.
        let policy = scene.emulator().certificate(&scene.host(), name).context("not there")?.policy;
        ensure!(policy["issuer"]["name"] == "Unknown", "{policy}");
        ensure!(!policy["lifetime_actions"].to_string().contains("AutoRenew"), "{policy}");
        ensure!(policy["key_props"]["kty"] == kty, "{policy}");
        ensure!(policy["key_props"]["exportable"] == true, "{policy}");
        ensure!(policy["secret_props"]["contentType"] == "application/x-pkcs12", "{policy}");
    }
    Ok(())
}

async fn failures_are_not_counted_as_successes(scene: Scene) -> anyhow::Result<()> {
    scene.fault("forbidden", Fault::new(Effect::forbidden("ForbiddenByRbac")).operation(Operation::Import));
    scene.renew_all(&["forbidden", "good"]).await?;
    scene.sync_of("web", &["forbidden", "good"]).await?;
    scene.row("web", "forbidden", "Forbidden").await?;
    scene.row("web", "good", "Synced").await?;
    let metrics = scene.stage().running().await?.metrics().await?;
    let count = |outcome: &str| -> u64 {
        let of_import = |line: &&str| {
            line.starts_with("keyvault_sync_vault_calls_total{")
                && line.contains(&format!("vault=\"{}\"", scene.host()))
                && line.contains("operation=\"import\"")
                && line.contains(&format!("outcome=\"{outcome}\""))
        };
        let number = |line: &str| line.rsplit(' ').next().and_then(|number| number.parse::<u64>().ok());
        metrics.lines().filter(of_import).filter_map(number).sum()
    };
    let failed = scene
        .calls()
        .iter()
        .filter(|call| call.operation == Operation::Import && call.status == Some(403))
        .count();
    ensure!(failed > 0, "nothing failed");
    ensure!(count("ok") == 1, "{} successes counted, not 1:\n{metrics}", count("ok"));
    ensure!(count("Forbidden") > 0, "no failure counted:\n{metrics}");
    Ok(())
}

async fn a_soft_deleted_name_of_ours_is_recovered(scene: Scene) -> anyhow::Result<()> {
    scene.key_vault(scene.name(), open_to_all(&scene, &[])).await?;
    let issued = issue(&scene, "web-tls", "web").await?;
    scene.cluster_sync(scene.name(), as_before()).await?;
    ensure!(in_vault(&scene, "web", &issued).await? == 1);
    ensure!(scene.emulator().soft_delete(&scene.host(), "web"), "not deleted");
    // It failed at the next renewal, and for ever.
    let renewed = issue(&scene, "web-tls", "web").await?;
    ensure!(in_vault(&scene, "web", &renewed).await? == 2);
    ensure!(scene.state("web") == Some(State::Normal), "{:?}", scene.state("web"));
    scene.told_of("ClusterKeyVaultSync", scene.name(), "Recovered", &["web"]).await?;
    Ok(())
}

async fn idle_certificates_cost_no_call(scene: Scene) -> anyhow::Result<()> {
    scene.key_vault(scene.name(), open_to_all(&scene, &[])).await?;
    let names: Vec<String> = (0..20).map(|number| format!("idle-{number:02}")).collect();
    for name in &names {
        issue(&scene, name, name).await?;
    }
    issue(&scene, "canary-tls", "canary").await?;
    scene.cluster_sync(scene.name(), as_before()).await?;
    scene.cluster_synced(scene.name(), "21/21").await?;
    let before = scene.calls().len();
    for round in 2..=6 {
        let renewed = issue(&scene, "canary-tls", "canary").await?;
        ensure!(in_vault(&scene, "canary", &renewed).await? == round);
        // What does not concern a certificate is no reason to look at it.
        scene.mark("idle-00", json!({"round": round.to_string()}), json!({})).await?;
    }
    let others: Vec<_> = scene
        .calls()
        .split_off(before)
        .into_iter()
        .filter(|call| call.status != Some(401) && call.name.as_deref() != Some("canary"))
        .collect();
    ensure!(others.is_empty(), "{} calls: {others:?}", others.len());
    Ok(())
}

// What cert-manager does to its Secrets.

async fn the_temporary_certificate_of_cert_manager_is_waited_for(scene: Scene) -> anyhow::Result<()> {
    scene.key_vault(scene.name(), open_to_all(&scene, &[])).await?;
    let temporary = Authority::root("cert-manager.local")?.issue(&Leaf::server("www.example.com"))?;
    scene.stage().guard(&temporary.key);
    put(&scene, "web-tls", "web", &temporary).await?;
    scene.cluster_sync(scene.name(), as_before()).await?;
    let row = scene.cluster_row(scene.name(), "web-tls", "TemporaryCertificate").await?;
    ensure!(row.state == CertificateState::Pending, "{row:?}");
    ensure!(scene.versions("web").is_empty() && scene.calls_about("web").is_empty(), "it was pushed");
    let issued = issue(&scene, "web-tls", "web").await?;
    ensure!(in_vault(&scene, "web", &issued).await? == 1);

    // Back to it: what is in the vault stays.
    put(&scene, "web-tls", "web", &temporary).await?;
    scene.cluster_row(scene.name(), "web-tls", "TemporaryCertificate").await?;
    let renewed = issue(&scene, "web-tls", "web").await?;
    ensure!(in_vault(&scene, "web", &renewed).await? == 2);

    // An authority of that name that signs itself is no placeholder: exactly this issuer, and another subject.
    let alike = Authority::root("cert-manager.local.example.com")?.issue(&Leaf::server("www.example.com"))?;
    scene.stage().guard(&alike.key);
    put(&scene, "alike-tls", "alike", &alike).await?;
    ensure!(in_vault(&scene, "alike", &alike).await? == 1);
    Ok(())
}

async fn half_written_secrets_are_waited_for(scene: Scene) -> anyhow::Result<()> {
    let issued = scene.issue(&Leaf::server("www.example.com"))?;
    scene.put_entries("empty", &entries("", &issued.key, "")).await?;
    scene.put_entries("key-only", &BTreeMap::from([("tls.key".to_owned(), issued.key.clone())])).await?;
    scene.put_entries("both-empty", &entries("", "", "")).await?;
    let secrets = ["empty", "key-only", "both-empty"];
    scene.sync_of("web", &secrets).await?;
    for secret in secrets {
        let row = scene.row("web", secret, "SecretIncomplete").await?;
        ensure!(row.state == CertificateState::Pending, "{row:?}");
    }
    ensure!(scene.calls().is_empty(), "{:?}", scene.calls());
    // The type of a Secret cannot be changed: what was Opaque is made anew.
    scene.delete(&scene.secrets(), "key-only").await?;
    for secret in secrets {
        scene.put_issued(secret, &issued).await?;
        scene.holds("web", secret, &issued).await?;
        ensure!(scene.versions(secret).len() == 1, "{secret}: {} versions", scene.versions(secret).len());
    }
    // Half-written once more, what is in the vault stays.
    scene.put_entries("empty", &entries("", &issued.key, "")).await?;
    scene.row("web", "empty", "SecretIncomplete").await?;
    scene.put_issued("empty", &issued).await?;
    scene.holds("web", "empty", &issued).await?;
    ensure!(scene.versions("empty").len() == 1 && imports(&scene.calls()) == 3, "{:?}", scene.calls());
    Ok(())
}

async fn what_cert_manager_renews_makes_one_version_each_and_what_it_rewrites_none(
    scene: Scene,
) -> anyhow::Result<()> {
    let rsa = Leaf::server("www.example.com").key_type(KeyType::Rsa2048);
    let first = scene.issue(&rsa)?;
    scene.put_issued("web-tls", &first).await?;
    scene.sync_of("web", &["web-tls"]).await?;
    scene.holds("web", "web-tls", &first).await?;

    // Issued again for the same key, then with keys of other kinds.
    let same_key = scene.issue_again(&rsa, &first)?;
    let ec = scene.issue(&Leaf::server("www.example.com").key_type(KeyType::P256))?;
    let back = scene.issue(&rsa)?;
    for (number, (issued, kty)) in [(&same_key, "RSA"), (&ec, "EC"), (&back, "RSA")].iter().enumerate() {
        scene.put_issued("web-tls", issued).await?;
        scene.holds("web", "web-tls", issued).await?;
        let versions = scene.versions("web-tls");
        ensure!(versions.len() == number + 2, "{} versions, not {}", versions.len(), number + 2);
        let newest = versions.last().context("no version")?;
        ensure!(newest.policy["key_props"]["kty"] == **kty, "{}", newest.policy);
        let policy = scene.emulator().certificate(&scene.host(), "web-tls").context("gone")?.policy;
        ensure!(policy["key_props"]["kty"] == **kty && policy["issuer"]["name"] == "Unknown", "{policy}");
    }

    // Another chain under the same leaf.
    let upper = Authority::root("Root")?.intermediate("Upper")?;
    let issued = upper.intermediate("Lower")?.issue(&Leaf::server("www.example.com"))?;
    scene.stage().guard(&issued.key);
    let lower = issued.intermediates.first().context("no intermediate")?;
    let short = format!("{}{lower}", issued.certificate);
    scene.put_entries("web-tls", &entries(&short, &issued.key, "")).await?;
    scene.holds("web", "web-tls", &issued).await?;
    ensure!(scene.versions("web-tls").len() == 5);
    scene.put_entries("web-tls", &entries(&issued.tls_crt(), &issued.key, "")).await?;
    wait::until("the longer chain in the vault", || async {
        let versions = scene.versions("web-tls");
        Ok(if versions.len() == 6 {
            Seen::Done(())
        } else {
            Seen::NotYet(format!("{} versions", versions.len()))
        })
    })
    .await?;
    let newest = scene.versions("web-tls").last().context("no version")?.clone();
    ensure!(newest.chain_der == ders(&issued.tls_crt())?, "{} certificates", newest.chain_der.len());

    // The same in another order is the same.
    let turned: Vec<String> = issued.intermediates.iter().rev().cloned().collect();
    let turned = format!("{}{}", turned.concat(), issued.certificate);
    scene.put_entries("web-tls", &entries(&turned, &issued.key, "")).await?;
    let edition = scene.secrets().get("web-tls").await?.metadata.resource_version;
    wait::object(&scene.claims(), &scene.claim_name("web-tls"), "to have looked at the Secret", |claim| {
        claim
            .status
            .as_ref()
            .is_some_and(|status| status.sources.iter().any(|seen| seen.resource_version == edition))
    })
    .await?;
    ensure!(scene.versions("web-tls").len() == 6 && imports(&scene.calls()) == 6, "{:?}", scene.calls());
    Ok(())
}

async fn a_secret_deleted_and_made_again_unchanged_makes_no_version(scene: Scene) -> anyhow::Result<()> {
    scene.key_vault(scene.name(), open_to_all(&scene, &[])).await?;
    let issued = issue(&scene, "web-tls", "web").await?;
    let listed = scene.renew("listed").await?;
    let mut wish = as_before();
    wish["deletionPolicy"] = json!("Delete");
    scene.cluster_sync(scene.name(), wish).await?;
    scene
        .sync("web", json!({"certificates": [{"secretName": "listed"}], "deletionPolicy": "Delete"}))
        .await?;
    scene.cluster_synced(scene.name(), "1/1").await?;
    scene.holds("web", "listed", &listed).await?;
    let before = scene.calls().len();
    for _ in 0..3 {
        scene.delete(&scene.secrets(), "listed").await?;
        scene.row("web", "listed", "SecretNotFound").await?;
        scene.put_issued("listed", &listed).await?;
        scene.holds("web", "listed", &listed).await?;
        scene.row("web", "listed", "Synced").await?;
        let uid = scene.secrets().get("web-tls").await?.metadata.uid;
        scene.delete(&scene.secrets(), "web-tls").await?;
        put(&scene, "web-tls", "web", &issued).await?;
        ensure!(scene.secrets().get("web-tls").await?.metadata.uid != uid, "the same Secret");
        scene.cluster_synced(scene.name(), "1/1").await?;
    }
    // Whatever it had to do about them, it did before this.
    scene.cluster_compare(scene.name(), "now", &["web"]).await?;
    for certificate in ["web", "listed"] {
        ensure!(scene.versions(certificate).len() == 1, "{certificate}: {:?}", scene.calls());
    }
    let calls = scene.calls().split_off(before);
    ensure!(writes(&calls).is_empty(), "{:?}", writes(&calls));
    Ok(())
}

// The migration.

async fn a_vault_filled_by_it_is_taken_over_without_a_version(scene: Scene) -> anyhow::Result<()> {
    migrated(scene, false).await
}

async fn a_vault_filled_by_it_with_namespaces_is_taken_over_without_a_version(
    scene: Scene,
) -> anyhow::Result<()> {
    migrated(scene, true).await
}

/// A Secret of cert-manager, and the certificate that the predecessor made of it.
struct Before {
    space: Scene,
    secret: String,
    certificate: String,
    annotation: String,
    issued: Issued,
    version: String,
}

async fn migrated(scene: Scene, use_namespaces: bool) -> anyhow::Result<()> {
    scene.key_vault(scene.name(), open_to_all(&scene, &["*"])).await?;
    let all = filled(&scene, use_namespaces).await?;
    let mut wish = as_before();
    wish["conflictPolicy"] = json!("Adopt");
    if use_namespaces {
        wish["certificateNameTemplate"] = json!(format!("{{namespace}}-{{annotation:{ANNOTATION}}}"));
    }
    scene.cluster_sync(scene.name(), wish).await?;
    let count = format!("{0}/{0}", all.len());
    scene.cluster_synced(scene.name(), &count).await?;
    ensure!(imports(&scene.calls()) == 0, "imported: {:?}", writes(&scene.calls()));
    for one in &all {
        taken_over(&scene, one).await?;
    }
    // At a comparison it stays so.
    let names: Vec<&str> = all.iter().map(|one| one.certificate.as_str()).collect();
    for cycle in ["first", "second"] {
        scene.cluster_compare(scene.name(), cycle, &names).await?;
    }
    ensure!(imports(&scene.calls()) == 0, "imported: {:?}", writes(&scene.calls()));

    // The next renewal makes one version, with its chain, and of no other.
    let first = all.first().context("nothing was migrated")?;
    let renewed = issue(&first.space, &first.secret, &first.annotation).await?;
    ensure!(in_vault(&scene, &first.certificate, &renewed).await? == 2);
    let newest = scene.versions(&first.certificate).last().context("no version")?.clone();
    let fingerprint = newest.tags.get("keyvault-sync-fingerprint").context("no fingerprint")?;
    ensure!(fingerprint.starts_with("sha256:"), "{fingerprint}");
    scene.cluster_synced(scene.name(), &count).await?;
    for one in &all[1..] {
        ensure!(scene.versions(&one.certificate).len() == 1, "{} has a new version", one.certificate);
    }
    ensure!(imports(&scene.calls()) == 1, "{:?}", writes(&scene.calls()));
    Ok(())
}

/// Secrets of cert-manager in three namespaces, and what the predecessor made of them: PKCS#12 with chain, its two tags, no
/// policy.
async fn filled(scene: &Scene, use_namespaces: bool) -> anyhow::Result<Vec<Before>> {
    let spaces = [scene.clone(), scene.tenant("shop").await?, scene.tenant("mail").await?];
    let mut all = Vec::new();
    for (number, space) in spaces.iter().enumerate() {
        for kind in [KeyType::P256, KeyType::Rsa2048] {
            // With namespaces in the names, Certificates of one name in all of them are nothing special.
            let annotation =
                if use_namespaces { format!("web-{kind:?}") } else { format!("web-{number}-{kind:?}") };
            let certificate =
                if use_namespaces { format!("{}-{annotation}", space.name()) } else { annotation.clone() };
            let secret = format!("{}-tls", annotation.to_lowercase());
            let issued = space.issue(&Leaf::server("www.example.com").key_type(kind))?;
            put(space, &secret, &annotation, &issued).await?;
            let tags = [("SyncFrom", "cert-manager-key-vault-sync"), ("namespace", space.name())];
            let version = scene.put_by_others(&certificate, &issued, &tags)?;
            all.push(Before { space: space.clone(), secret, certificate, annotation, issued, version });
        }
    }
    Ok(all)
}

/// The very version is ours, chain and all.
async fn taken_over(scene: &Scene, before: &Before) -> anyhow::Result<()> {
    let name = &before.certificate;
    let versions = scene.versions(name);
    ensure!(versions.len() == 1, "{name} has {} versions", versions.len());
    let version = versions.last().context("no version")?;
    ensure!(version.version == before.version, "{name} has another version");
    ensure!(version.chain_der == ders(&before.issued.tls_crt())?, "{name} has another chain");
    let tags = &version.tags;
    ensure!(tags.get("managed-by").is_some_and(|tag| tag == "keyvault-sync"), "{tags:?}");
    let owner = tags.get("keyvault-sync-owner").map(String::as_str).unwrap_or_default();
    ensure!(owner.ends_with(&format!("/ClusterKeyVaultSync//{}", scene.name())), "{tags:?}");
    let source = format!("{}/{}", before.space.name(), before.secret);
    ensure!(tags.get("keyvault-sync-source") == Some(&source), "{tags:?}");
    // The chain cannot be read back without the right to read secrets: the tag speaks of the leaf alone.
    ensure!(
        tags.get("keyvault-sync-fingerprint").is_some_and(|tag| tag.starts_with("leaf-sha256:")),
        "{tags:?}"
    );
    ensure!(!tags.contains_key("SyncFrom") && !tags.contains_key("namespace"), "{tags:?}");
    let row = before.space.cluster_row(scene.name(), &before.secret, "Synced").await?;
    ensure!(row.version.as_deref() == Some(version.version.as_str()), "{row:?}");
    let words = [name.as_str(), "cert-manager-key-vault-sync"];
    scene.told_of("ClusterKeyVaultSync", scene.name(), "Adopted", &words).await?;
    Ok(())
}

/// What it imports.
fn put_by_it(scene: &Scene, certificate: &str, issued: &Issued) -> anyhow::Result<String> {
    let tags = [("SyncFrom", "cert-manager-key-vault-sync"), ("namespace", scene.name())];
    scene.put_by_others(certificate, issued, &tags)
}

async fn what_it_writes_over_ours_while_both_run_is_taken_over_without_a_version(
    scene: Scene,
) -> anyhow::Result<()> {
    scene.key_vault(scene.name(), open_to_all(&scene, &["*"])).await?;
    let issued = issue(&scene, "web-tls", "web").await?;
    put_by_it(&scene, "web", &issued)?;
    let mut wish = as_before();
    wish["conflictPolicy"] = json!("Adopt");
    scene.cluster_sync(scene.name(), wish).await?;
    scene.cluster_synced(scene.name(), "1/1").await?;
    // Its poll and a renewal meet: both import.
    let renewed = issue(&scene, "web-tls", "web").await?;
    ensure!(in_vault(&scene, "web", &renewed).await? == 2);
    let theirs = put_by_it(&scene, "web", &renewed)?;
    scene.cluster_compare(scene.name(), "first", &["web"]).await?;
    ensure!(in_vault(&scene, "web", &renewed).await? == 3, "{} versions", scene.versions("web").len());
    let newest = scene.versions("web").last().context("no version")?.clone();
    ensure!(newest.version == theirs && newest.tags.contains_key("keyvault-sync-owner"), "{newest:?}");
    scene.told_of("ClusterKeyVaultSync", scene.name(), "Adopted", &["web", &theirs]).await?;
    for cycle in ["second", "third"] {
        scene.cluster_compare(scene.name(), cycle, &["web"]).await?;
    }
    ensure!(scene.versions("web").len() == 3, "{} versions", scene.versions("web").len());
    Ok(())
}

async fn going_back_to_it_and_coming_again_makes_no_version(scene: Scene) -> anyhow::Result<()> {
    scene.key_vault(scene.name(), open_to_all(&scene, &["*"])).await?;
    let issued = issue(&scene, "web-tls", "web").await?;
    put_by_it(&scene, "web", &issued)?;
    let mut wish = as_before();
    wish["conflictPolicy"] = json!("Adopt");
    scene.cluster_sync(scene.name(), wish.clone()).await?;
    scene.cluster_synced(scene.name(), "1/1").await?;
    scene.delete(&scene.cluster_syncs(), scene.name()).await?;
    scene.given_up("web").await?;
    ensure!(scene.state("web") == Some(State::Normal) && scene.versions("web").len() == 1);
    // The thumbprint it looks at is the one it wants; at the next renewal it writes, with its own tags.
    ensure!(
        scene.versions("web").last().is_some_and(|version| {
            ders(&issued.certificate).is_ok_and(|leaf| version.chain_der.first() == leaf.first())
        }),
        "another leaf"
    );
    let renewed = issue(&scene, "web-tls", "web").await?;
    let theirs = put_by_it(&scene, "web", &renewed)?;
    scene.cluster_sync(scene.name(), wish).await?;
    scene.cluster_synced(scene.name(), "1/1").await?;
    let versions = scene.versions("web");
    ensure!(versions.len() == 2, "{} versions", versions.len());
    let newest = versions.last().context("no version")?;
    ensure!(newest.version == theirs && newest.tags.contains_key("keyvault-sync-owner"), "{newest:?}");
    ensure!(imports(&scene.calls()) == 0, "{:?}", writes(&scene.calls()));
    Ok(())
}

async fn filter_and_exclusion_are_by_the_annotations_value(scene: Scene) -> anyhow::Result<()> {
    scene.key_vault(scene.name(), open_to_all(&scene, &[])).await?;
    let tenant = scene.tenant("next").await?;
    for certificate in ["web-shop", "web-internal-x", "api-1", "api-10", "other"] {
        issue(&scene, &format!("{certificate}-tls"), certificate).await?;
    }
    issue(&tenant, "web-next-tls", "web-next").await?;
    // By the value, whatever the Secret is called; and not without the annotation.
    issue(&tenant, "other-tls", "web-elsewhere").await?;
    tenant.renew("web-plain").await?;
    let mut wish = as_before();
    wish["selector"]["annotations"] =
        json!([{"name": ANNOTATION, "values": ["web-*", "api-?"], "excludeValues": ["web-internal-*"]}]);
    scene.cluster_sync(scene.name(), wish.clone()).await?;
    scene.cluster_synced(scene.name(), "4/4").await?;
    let there = || {
        let mut names = scene.emulator().certificate_names(&scene.host());
        names.sort();
        names
    };
    ensure!(there() == ["api-1", "web-elsewhere", "web-next", "web-shop"], "{:?}", there());
    // Another annotation is another one.
    scene.mark("other-tls", json!({}), json!({"example.com/name": "by-another-key"})).await?;
    wish["selector"]["annotations"] = json!([{"name": "example.com/name"}]);
    wish["certificateNameTemplate"] = json!("{annotation:example.com/name}");
    scene.cluster_sync(scene.name(), wish).await?;
    scene.cluster_synced(scene.name(), "1/1").await?;
    ensure!(there().contains(&"by-another-key".to_owned()), "{:?}", there());
    Ok(())
}

async fn copies_in_several_namespaces_share_one_certificate(scene: Scene) -> anyhow::Result<()> {
    scene.key_vault(scene.name(), open_to_all(&scene, &[])).await?;
    let spaces = [scene.clone(), scene.tenant("a").await?, scene.tenant("b").await?];
    let issued = scene.issue(&Leaf::server("wildcard.example.com"))?;
    for space in &spaces {
        put(space, "wildcard-tls", "wildcard", &issued).await?;
    }
    scene.cluster_sync(scene.name(), as_before()).await?;
    scene.cluster_synced(scene.name(), "3/3").await?;
    ensure!(in_vault(&scene, "wildcard", &issued).await? == 1);

    // Renewed one after the other, in any order: one version.
    let renewed = scene.issue(&Leaf::server("wildcard.example.com"))?;
    for space in spaces.iter().rev() {
        put(space, "wildcard-tls", "wildcard", &renewed).await?;
    }
    ensure!(in_vault(&scene, "wildcard", &renewed).await? == 2);
    scene.cluster_synced(scene.name(), "3/3").await?;
    ensure!(scene.versions("wildcard").len() == 2, "{} versions", scene.versions("wildcard").len());

    // One that stays different is told, and does not take turns.
    issue(&spaces[2], "wildcard-tls", "wildcard").await?;
    let row = spaces[2].cluster_row(scene.name(), "wildcard-tls", "NameCollision").await?;
    ensure!(row.state == CertificateState::Failed, "{row:?}");
    scene.cluster_compare(scene.name(), "now", &["wildcard"]).await?;
    ensure!(in_vault(&scene, "wildcard", &renewed).await? == 2);
    Ok(())
}

async fn without_adopt_or_its_grant_what_it_wrote_is_left_alone_and_named(
    scene: Scene,
) -> anyhow::Result<()> {
    scene.key_vault(scene.name(), open_to_all(&scene, &[])).await?;
    let issued = issue(&scene, "web-tls", "web").await?;
    put_by_it(&scene, "web", &issued)?;
    scene.cluster_sync(scene.name(), as_before()).await?;
    let row = scene.cluster_row(scene.name(), "web-tls", "NotManaged").await?;
    let message = row.message.unwrap_or_default();
    ensure!(message.contains("cert-manager-key-vault-sync") && message.contains("Adopt"), "{message}");
    let mut wish = as_before();
    wish["conflictPolicy"] = json!("Adopt");
    scene.cluster_sync(scene.name(), wish).await?;
    let row = scene.cluster_row(scene.name(), "web-tls", "NotGranted").await?;
    ensure!(row.message.as_deref().is_some_and(|message| message.contains("adopt")), "{row:?}");
    ensure!(writes(&scene.calls()).is_empty(), "{:?}", writes(&scene.calls()));
    scene.key_vault(scene.name(), open_to_all(&scene, &["web"])).await?;
    scene.cluster_synced(scene.name(), "1/1").await?;
    ensure!(scene.versions("web").len() == 1 && imports(&scene.calls()) == 0, "{:?}", scene.calls());
    Ok(())
}
