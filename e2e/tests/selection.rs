//! Which Secrets a wish selects, under which names, and what becomes of a name that several want.
//! Who owns what the vault holds is left to `ownership`.

use std::collections::BTreeSet;

use anyhow::{Context, ensure};
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::jiff::Timestamp;
use keyvault_sync_api::conditions::{self, READY};
use keyvault_sync_api::{CertificateState, CertificateStatus};
use keyvault_sync_e2e::Scene;
use keyvault_sync_e2e::certificates::{Issued, Leaf};
use keyvault_sync_e2e::scene::{entries, imports, thumbprint};
use keyvault_sync_e2e::stage::COPIES_PATIENCE_SECS;
use keyvault_sync_e2e::wait::{self, Seen};
use kube::Api;
use kube::api::DeleteParams;
use serde_json::{Value, json};

keyvault_sync_e2e::promises!(Together:
    a_selector_means_just_the_tls_secrets_of_which_all_it_states_is_true,
    an_opaque_secret_is_pushed_only_if_it_is_listed,
    a_secret_that_starts_or_stops_matching_is_followed_at_once,
    a_listed_secret_is_not_pushed_twice_and_beats_an_older_selected_one,
    a_name_that_cannot_be_is_told_with_its_text_and_holds_nobody_back,
    names_that_differ_in_case_alone_are_one_name,
    a_label_that_goes_from_under_a_template_leaves_claim_and_certificate_alone,
    of_two_secrets_after_one_name_the_older_holds_it_whatever_the_younger_does,
    the_name_of_a_secret_that_vanished_is_free_only_after_the_grace_period,
    the_name_of_a_secret_that_stops_matching_is_free_at_once,
    a_secret_that_is_deleted_and_made_anew_keeps_its_name,
    namespaces_are_chosen_by_name_and_label_and_followed_at_once,
    grants_are_asked_for_each_namespace_that_a_secret_comes_from,
    a_name_after_which_both_kinds_are_has_one_holder_and_goes_to_the_other_when_that_goes,
    equal_certificates_of_several_namespaces_are_one_in_the_vault,
    a_copy_that_differs_is_waited_for_and_then_told_whose_the_name_is,
    copies_renewed_one_after_the_other_make_one_version_whoever_is_first,
    an_equal_copy_takes_the_place_of_one_whose_namespace_goes_without_a_new_version,
    a_copy_that_differs_is_not_pushed_while_the_pushed_secret_may_come_back,
);

/// Our annotation for names.
const NAMED: &str = "example.com/name";
/// A template of it alone.
const BY_NAME: &str = "{annotation:example.com/name}";

// What several promises need.

/// Waits until the rows of a KeyVaultSync are of just these Secrets, each Synced.
async fn selects(scene: &Scene, sync: &str, secrets: &[&str]) -> anyhow::Result<()> {
    let wanted: BTreeSet<&str> = secrets.iter().copied().collect();
    scene
        .status(sync, &format!("to have just {wanted:?}, each Synced"), |sync| {
            let rows = sync.status.as_ref().map_or(&[][..], |status| &status.certificates);
            let found: BTreeSet<&str> = rows.iter().map(|row| row.secret_name.as_str()).collect();
            found == wanted && rows.iter().all(is_synced)
        })
        .await
        .map(drop)
}

fn is_synced(row: &CertificateStatus) -> bool {
    row.state == CertificateState::Synced && row.reason == "Synced"
}

fn says(row: &CertificateStatus, words: &[&str]) -> anyhow::Result<()> {
    let message = row.message.as_deref().unwrap_or_default();
    ensure!(words.iter().all(|word| message.contains(word)), "not {words:?}: {row:?}");
    Ok(())
}

/// The namespace and the Secret that a claim pushes first.
async fn pushed(scene: &Scene, certificate: &str) -> anyhow::Result<(String, String)> {
    let claim = scene.claim(certificate).await?;
    let first = claim.spec.sources.first().context("a claim without a source")?;
    Ok((first.namespace.clone(), first.secret_name.clone()))
}

fn versions_are(scene: &Scene, certificate: &str, count: usize) -> anyhow::Result<()> {
    let versions = scene.versions(certificate);
    ensure!(
        versions.len() == count,
        "{certificate}: {} versions, not {count}: {:?}",
        versions.len(),
        scene.calls_about(certificate)
    );
    Ok(())
}

/// Lets all namespaces of this test push these names.
async fn grant_all(scene: &Scene, push: &[&str], adopt: &[&str]) -> anyhow::Result<()> {
    let namespaces = json!({"names": [scene.name(), format!("{}-*", scene.name())]});
    let mut vault = scene.open_to_us();
    vault["grants"] = json!([{"namespaces": namespaces, "push": push, "adopt": adopt}]);
    scene.key_vault(scene.name(), vault).await.map(drop)
}

/// Writes a new Secret and marks it.
async fn marked(scene: &Scene, secret: &str, labels: Value, annotations: Value) -> anyhow::Result<Issued> {
    let issued = scene.renew(secret).await?;
    scene.mark(secret, labels, annotations).await?;
    Ok(issued)
}

// Selectors.

async fn a_selector_means_just_the_tls_secrets_of_which_all_it_states_is_true(
    scene: Scene,
) -> anyhow::Result<()> {
    let named = |value: &str| json!({NAMED: value});
    let mut both = named("shop");
    both["example.com/tier"] = json!("front");
    for (secret, labels, annotations) in [
        ("alpha-tls", json!({"sync": "true", "stage": "prod"}), both),
        ("beta-tls", json!({"sync": "true", "stage": "test"}), named("internal-x")),
        ("gamma-tls", json!({"sync": "false"}), named("")),
        ("delta-internal", json!({"stage": "prod"}), named("Shop")),
        ("epsilon", json!({}), json!({})),
    ] {
        marked(&scene, secret, labels, annotations).await?;
    }
    let opaque = scene.issue(&Leaf::server("opaque.example.com"))?;
    let data = entries(&opaque.tls_crt(), &opaque.key, &opaque.root);
    scene.put_secret("opaque-tls", "Opaque", &data).await?;
    scene.mark("opaque-tls", json!({"sync": "true", "stage": "prod"}), named("shop")).await?;

    let expression = |operator: &str, values: &[&str]| {
        let mut expression = json!({"key": "stage", "operator": operator});
        if !values.is_empty() {
            expression["values"] = json!(values);
        }
        json!({"matchExpressions": [expression]})
    };
    let annotated = |value: Value| {
        let mut annotation = json!({"name": NAMED});
        for (key, globs) in value.as_object().into_iter().flatten() {
            annotation[key] = globs.clone();
        }
        json!({"annotations": [annotation]})
    };
    let (alpha, beta, gamma, delta, epsilon) =
        ("alpha-tls", "beta-tls", "gamma-tls", "delta-internal", "epsilon");
    for (selector, secrets) in [
        (json!({}), &[alpha, beta, gamma, delta, epsilon][..]),
        (json!({"matchLabels": {"sync": "true"}}), &[alpha, beta]),
        (json!({"matchLabels": {"sync": "true", "stage": "prod"}}), &[alpha]),
        (expression("In", &["prod", "staging"]), &[alpha, delta]),
        (expression("NotIn", &["prod"]), &[beta, gamma, epsilon]),
        (expression("Exists", &[]), &[alpha, beta, delta]),
        (expression("DoesNotExist", &[]), &[gamma, epsilon]),
        (json!({"names": ["*-tls"]}), &[alpha, beta, gamma]),
        (json!({"names": ["?lpha-tls", "epsilon", "opaque-tls"]}), &[alpha, epsilon]),
        (json!({"excludeNames": ["*-internal"]}), &[alpha, beta, gamma, epsilon]),
        (json!({"names": ["*-tls"], "excludeNames": ["beta*"]}), &[alpha, gamma]),
        (annotated(json!({})), &[alpha, beta, gamma, delta]),
        (annotated(json!({"values": ["*hop"]})), &[alpha, delta]),
        (annotated(json!({"values": ["shop"]})), &[alpha]),
        (annotated(json!({"excludeValues": ["internal-*"]})), &[alpha, gamma, delta]),
        (annotated(json!({"values": ["s*", "i*"], "excludeValues": ["*-x"]})), &[alpha]),
        (json!({"annotations": [{"name": NAMED}, {"name": "example.com/tier"}]}), &[alpha]),
        (
            json!({
                "matchLabels": {"sync": "true"}, "names": ["*-tls"],
                "annotations": [{"name": NAMED, "values": ["internal-*"]}],
            }),
            &[beta],
        ),
        (json!({"matchLabels": {"sync": "maybe"}}), &[]),
        // Not {}: applied over something else it is null (kubernetes/kubernetes#135841).
        (json!({"names": ["*"]}), &[alpha, beta, gamma, delta, epsilon]),
    ] {
        scene.sync("web", json!({"selector": selector})).await?;
        selects(&scene, "web", secrets).await.with_context(|| selector.to_string())?;
        // Whatever does not match any more has given up its claim: its certificate stays in the vault.
        scene.claimed(secrets).await.with_context(|| selector.to_string())?;
    }
    for secret in [alpha, beta, gamma, delta, epsilon] {
        versions_are(&scene, secret, 1)?;
    }
    versions_are(&scene, "opaque-tls", 0)
}

async fn an_opaque_secret_is_pushed_only_if_it_is_listed(scene: Scene) -> anyhow::Result<()> {
    let issued = scene.issue(&Leaf::server("store.example.com"))?;
    let data = entries(&issued.tls_crt(), &issued.key, &issued.root);
    scene.put_secret("store", "Opaque", &data).await?;
    scene.mark("store", json!({"sync": "true"}), json!({})).await?;
    marked(&scene, "canary", json!({"sync": "true"}), json!({})).await?;
    let selector = json!({"matchLabels": {"sync": "true"}});
    scene.sync("web", json!({"selector": selector})).await?;
    selects(&scene, "web", &["canary"]).await?;
    scene.claimed(&["canary"]).await?;
    versions_are(&scene, "store", 0)?;

    let keys = json!({"certificate": "tls.crt", "privateKey": "tls.key"});
    let listed = json!([{"secretName": "store", "keys": keys}]);
    scene.sync("web", json!({"selector": selector, "certificates": listed})).await?;
    selects(&scene, "web", &["canary", "store"]).await?;
    scene.holds("web", "store", &issued).await?;
    versions_are(&scene, "store", 1)
}

async fn a_secret_that_starts_or_stops_matching_is_followed_at_once(scene: Scene) -> anyhow::Result<()> {
    let first = scene.renew("web-tls").await?;
    scene.sync("web", json!({"selector": {"matchLabels": {"sync": "true"}}})).await?;
    scene.synced("web", "0/0").await?;
    scene.mark("web-tls", json!({"sync": "true"}), json!({})).await?;
    scene.holds("web", "web-tls", &first).await?;

    scene.mark("web-tls", json!({"sync": null}), json!({})).await?;
    selects(&scene, "web", &[]).await?;
    scene.claimed(&[]).await?;
    scene.synced("web", "0/0").await?;
    // What it becomes now is nobody's business, until it matches again.
    let second = scene.renew("web-tls").await?;
    versions_are(&scene, "web-tls", 1)?;
    ensure!(scene.calls().iter().all(|call| call.method != "DELETE"), "{:?}", scene.calls());
    scene.mark("web-tls", json!({"sync": "true"}), json!({})).await?;
    scene.holds("web", "web-tls", &second).await?;
    versions_are(&scene, "web-tls", 2)?;

    // A Secret that is made with the label.
    let mut born = second.secret(scene.name(), "born");
    born.metadata.labels = Some([("sync".to_owned(), "true".to_owned())].into());
    scene.secrets().create(&Default::default(), &born).await?;
    selects(&scene, "web", &["web-tls", "born"]).await
}

async fn a_listed_secret_is_not_pushed_twice_and_beats_an_older_selected_one(
    scene: Scene,
) -> anyhow::Result<()> {
    let older = scene.renew("shared").await?;
    scene.sync("web", json!({"selector": {}})).await?;
    scene.holds("web", "shared", &older).await?;
    scene.outlive("shared").await?;
    let listed = scene.renew("web-tls").await?;
    selects(&scene, "web", &["shared", "web-tls"]).await?;

    let entries = json!([{"secretName": "web-tls", "certificateName": "Shared"}]);
    scene.sync("web", json!({"selector": {}, "certificates": entries})).await?;
    let loser = scene.row("web", "shared", "NameCollision").await?;
    ensure!(loser.state == CertificateState::Failed, "{loser:?}");
    says(&loser, &["web-tls and shared", "the first has it"])?;
    scene.holds("web", "web-tls", &listed).await?;
    versions_are(&scene, "shared", 2)?;
    // Nor has it a name of its own any more.
    scene.claimed(&["Shared"]).await?;
    let renewed = scene.renew("web-tls").await?;
    scene.holds("web", "web-tls", &renewed).await?;
    versions_are(&scene, "shared", 3)?;
    versions_are(&scene, "web-tls", 1)
}

// Names.

async fn a_name_that_cannot_be_is_told_with_its_text_and_holds_nobody_back(
    scene: Scene,
) -> anyhow::Result<()> {
    let long = "n-".repeat(64);
    let bad = [
        ("empty", "", "it is empty"),
        ("hyphen", "-shop", "\"-shop\""),
        ("dot-last", "shop.", "\"shop.\""),
        ("umlaut-first", "\u{fc}ber", "\"\u{fc}ber\""),
        ("long", long.as_str(), "longer than 127"),
    ];
    for (secret, name, _) in bad {
        marked(&scene, secret, json!({}), json!({NAMED: name})).await?;
    }
    scene.renew("unmarked").await?;
    let good = [
        ("dotted", "shop.example.com", "shop-example-com"),
        ("spaced", "My Shop_1", "My-Shop-1"),
        ("umlaut", "b\u{fc}cher", "b-cher"),
    ];
    for (secret, name, _) in good {
        marked(&scene, secret, json!({}), json!({NAMED: name})).await?;
    }
    scene.sync("web", json!({"selector": {}, "certificateNameTemplate": BY_NAME})).await?;
    for (secret, _, words) in bad {
        let row = scene.row("web", secret, "InvalidName").await?;
        ensure!(row.state == CertificateState::Failed && row.certificate_name.is_none(), "{row:?}");
        says(&row, &[secret, words])?;
    }
    says(&scene.row("web", "unmarked", "InvalidName").await?, &["unmarked", NAMED])?;
    for (secret, _, name) in good {
        let row = scene.row("web", secret, "Synced").await?;
        ensure!(row.certificate_name.as_deref() == Some(name), "{row:?}");
        versions_are(&scene, name, 1)?;
    }
    scene.claimed(&good.map(|(_, _, name)| name)).await?;
    scene.told("web", "InvalidName", &["hyphen", "-shop"]).await?;
    // Put right, it is pushed.
    scene.mark("hyphen", json!({}), json!({NAMED: "shop-2"})).await?;
    scene.row("web", "hyphen", "Synced").await?;
    versions_are(&scene, "shop-2", 1)
}

async fn names_that_differ_in_case_alone_are_one_name(scene: Scene) -> anyhow::Result<()> {
    let template =
        json!({"selector": {}, "certificateNameTemplate": "{label:app}-{annotation:example.com/name}"});
    marked(&scene, "first", json!({"app": "Web"}), json!({NAMED: "Prod"})).await?;
    scene.sync("web", template).await?;
    scene.row("web", "first", "Synced").await?;
    scene.outlive("first").await?;
    marked(&scene, "another", json!({"app": "web"}), json!({NAMED: "prod"})).await?;
    let loser = scene.row("web", "another", "NameCollision").await?;
    says(&loser, &["first and another", "web-prod", "the first has it"])?;
    scene.row("web", "first", "Synced").await?;
    let names = scene.emulator().certificate_names(&scene.host());
    ensure!(names == ["Web-Prod"], "{names:?}");
    versions_are(&scene, "Web-Prod", 1)
}

async fn a_label_that_goes_from_under_a_template_leaves_claim_and_certificate_alone(
    scene: Scene,
) -> anyhow::Result<()> {
    let issued = marked(&scene, "web-tls", json!({"app": "shop"}), json!({})).await?;
    let wish = json!({"selector": {}, "certificateNameTemplate": "{label:app}", "deletionPolicy": "Delete", "deletionGracePeriod": "0s"});
    scene.sync("web", wish).await?;
    scene.holds("web", "web-tls", &issued).await?;
    let before = scene.calls_about("shop").len();

    scene.mark("web-tls", json!({"app": null}), json!({})).await?;
    let row = scene.row("web", "web-tls", "InvalidName").await?;
    ensure!(row.state == CertificateState::Failed, "{row:?}");
    says(&row, &["web-tls", "\"app\"", "{label:app}"])?;
    // Whatever this plan had to do with the claim is done when the next one is.
    marked(&scene, "canary", json!({"app": "canary"}), json!({})).await?;
    scene.row("web", "canary", "Synced").await?;
    let claim = scene.claim("shop").await?;
    ensure!(claim.spec.release.is_none(), "{claim:?}");
    ensure!(scene.calls_about("shop").len() == before, "{:?}", scene.calls_about("shop"));

    scene.mark("web-tls", json!({"app": "shop"}), json!({})).await?;
    scene.holds("web", "web-tls", &issued).await?;
    ensure!(scene.claim("shop").await?.metadata.uid == claim.metadata.uid, "the claim was made anew");
    versions_are(&scene, "shop", 1)
}

// A name that two Secrets of one resource want.

/// A younger Secret, by name the first, and an older one that has the name "shop"; both with the label app.
async fn two_after_one_name(scene: &Scene) -> anyhow::Result<[Issued; 2]> {
    let older = marked(scene, "z-older", json!({"app": "shop"}), json!({})).await?;
    scene.outlive("z-older").await?;
    let younger = marked(scene, "a-younger", json!({"app": "shop"}), json!({})).await?;
    scene.sync("web", after_one_name("1h")).await?;
    scene.holds("web", "z-older", &older).await?;
    let loser = scene.row("web", "a-younger", "NameCollision").await?;
    says(&loser, &["z-older and a-younger", "the first has it"])?;
    Ok([older, younger])
}

fn after_one_name(grace: &str) -> Value {
    let labelled = json!({"matchExpressions": [{"key": "app", "operator": "Exists"}]});
    json!({"selector": labelled, "certificateNameTemplate": "{label:app}", "deletionGracePeriod": grace})
}

async fn of_two_secrets_after_one_name_the_older_holds_it_whatever_the_younger_does(
    scene: Scene,
) -> anyhow::Result<()> {
    two_after_one_name(&scene).await?;
    let before = scene.calls_about("shop").len();
    scene.mark("a-younger", json!({"more": "labels"}), json!({"example.com/note": "seen"})).await?;
    scene.renew("a-younger").await?;
    scene.mark("z-older", json!({"more": "labels"}), json!({"example.com/note": "seen"})).await?;
    // Whatever the operator had to do about it, it did before this.
    marked(&scene, "canary", json!({"app": "canary"}), json!({})).await?;
    scene.row("web", "canary", "Synced").await?;
    ensure!(scene.calls_about("shop").len() == before, "{:?}", scene.calls_about("shop"));
    scene.row("web", "a-younger", "NameCollision").await?;
    let renewed = scene.renew("z-older").await?;
    scene.holds("web", "z-older", &renewed).await?;
    versions_are(&scene, "shop", 2)?;
    let told = scene.events_about("web").await?;
    let told = told.iter().filter(|event| event.reason.as_deref() == Some("NameCollision")).count();
    ensure!(told == 1, "{told} Events of one collision");
    Ok(())
}

async fn the_name_of_a_secret_that_vanished_is_free_only_after_the_grace_period(
    scene: Scene,
) -> anyhow::Result<()> {
    let [_, younger] = two_after_one_name(&scene).await?;
    scene.delete(&scene.secrets(), "z-older").await?;
    let row = scene.row("web", "z-older", "SecretNotFound").await?;
    ensure!(row.state == CertificateState::Pending, "{row:?}");
    let missing = |claim: &keyvault_sync_api::KeyVaultCertificate| {
        claim.status.as_ref().is_some_and(|status| {
            status.sources.iter().any(|seen| seen.name == "z-older" && seen.missing_since.is_some())
        })
    };
    wait::object(&scene.claims(), &scene.claim_name("shop"), "to miss its Secret", missing).await?;
    // Planned again since: the grace period is an hour.
    marked(&scene, "canary", json!({"app": "canary"}), json!({})).await?;
    scene.row("web", "canary", "Synced").await?;
    ensure!(pushed(&scene, "shop").await?.1 == "z-older", "{:?}", scene.claim("shop").await?);
    says(&scene.row("web", "a-younger", "NameCollision").await?, &["z-older and a-younger"])?;
    versions_are(&scene, "shop", 1)?;

    scene.sync("web", after_one_name("1s")).await?;
    scene.holds("web", "a-younger", &younger).await?;
    selects(&scene, "web", &["a-younger", "canary"]).await?;
    versions_are(&scene, "shop", 2)
}

async fn the_name_of_a_secret_that_stops_matching_is_free_at_once(scene: Scene) -> anyhow::Result<()> {
    let [_, younger] = two_after_one_name(&scene).await?;
    scene.mark("z-older", json!({"app": null}), json!({})).await?;
    scene.holds("web", "a-younger", &younger).await?;
    selects(&scene, "web", &["a-younger"]).await?;
    versions_are(&scene, "shop", 2)?;
    // Under another name it is nobody's rival; and who has the name keeps it from one that comes back, be it older.
    scene.mark("z-older", json!({"app": "other"}), json!({})).await?;
    selects(&scene, "web", &["a-younger", "z-older"]).await?;
    versions_are(&scene, "other", 1)?;
    scene.mark("z-older", json!({"app": "shop"}), json!({})).await?;
    says(&scene.row("web", "z-older", "NameCollision").await?, &["a-younger and z-older"])?;
    scene.holds("web", "a-younger", &younger).await?;
    versions_are(&scene, "shop", 2)
}

async fn a_secret_that_is_deleted_and_made_anew_keeps_its_name(scene: Scene) -> anyhow::Result<()> {
    let older = scene.renew("z-older").await?;
    scene.outlive("z-older").await?;
    scene.renew("a-younger").await?;
    scene.sync("web", json!({"selector": {"names": ["*"]}, "certificateNameTemplate": "shop"})).await?;
    scene.holds("web", "z-older", &older).await?;
    scene.delete(&scene.secrets(), "z-older").await?;
    scene.row("web", "z-older", "SecretNotFound").await?;
    // Issued anew, it is the younger one.
    let renewed = scene.renew("z-older").await?;
    scene.holds("web", "z-older", &renewed).await?;
    says(&scene.row("web", "a-younger", "NameCollision").await?, &["z-older and a-younger"])?;
    versions_are(&scene, "shop", 2)
}

// Many namespaces.

/// Waits until the rows of the ClusterKeyVaultSync of that name are of just these namespaces, each Synced as
/// `<namespace>--web-tls`.
async fn covers(scene: &Scene, sync: &str, namespaces: &[&str]) -> anyhow::Result<()> {
    let wanted: BTreeSet<(&str, String)> =
        namespaces.iter().map(|namespace| (*namespace, format!("{namespace}--web-tls"))).collect();
    let what = format!("to have just {wanted:?}, each Synced");
    scene
        .cluster_status(sync, &what, |status| {
            let rows = &status.certificates;
            let found: BTreeSet<(&str, String)> = rows
                .iter()
                .map(|row| {
                    let certificate = row.certificate_name.clone().unwrap_or_default();
                    (row.namespace.as_deref().unwrap_or_default(), certificate)
                })
                .collect();
            found == wanted && rows.iter().all(|row| is_synced(row) && row.secret_name == "web-tls")
        })
        .await?;
    let names: Vec<&str> = wanted.iter().map(|(_, certificate)| certificate.as_str()).collect();
    scene.claimed(&names).await
}

async fn namespaces_are_chosen_by_name_and_label_and_followed_at_once(scene: Scene) -> anyhow::Result<()> {
    let (a, b) = (scene.tenant("a").await?, scene.tenant("b").await?);
    grant_all(&scene, &["{namespace}--*"], &[]).await?;
    for tenant in [&scene, &a, &b] {
        tenant.renew("web-tls").await?;
    }
    let sync = scene.name();
    let team = json!({"example.com/team": sync});
    a.label(team.clone()).await?;
    let wish = |namespaces: Value| json!({"selector": {}, "namespaceSelector": namespaces});
    let all = format!("{sync}-*");
    for (namespaces, expected) in [
        (json!({"names": [sync, all]}), &[scene.name(), a.name(), b.name()][..]),
        (json!({"names": [format!("{sync}-?")]}), &[a.name(), b.name()]),
        (json!({"names": [sync, all], "excludeNames": ["*-b"]}), &[scene.name(), a.name()]),
        (json!({"matchLabels": team}), &[a.name()]),
        (json!({"matchLabels": team, "names": [sync]}), &[]),
        (json!({"matchLabels": team, "excludeNames": ["*-b"]}), &[a.name()]),
        (json!({"matchLabels": team}), &[a.name()]),
    ] {
        scene.cluster_sync(sync, wish(namespaces.clone())).await?;
        covers(&scene, sync, expected).await.with_context(|| namespaces.to_string())?;
    }
    b.label(team.clone()).await?;
    covers(&scene, sync, &[a.name(), b.name()]).await?;
    a.label(json!({"example.com/team": null})).await?;
    covers(&scene, sync, &[b.name()]).await?;

    // A namespace that comes, whether it is labelled before its Secret is there or after.
    let (c, d) = (scene.tenant("c").await?, scene.tenant("d").await?);
    c.label(team.clone()).await?;
    for tenant in [&c, &d] {
        tenant.renew("web-tls").await?;
    }
    covers(&scene, sync, &[b.name(), c.name()]).await?;
    d.label(team).await?;
    covers(&scene, sync, &[b.name(), c.name(), d.name()]).await?;
    for tenant in [&scene, &a, &b, &c, &d] {
        versions_are(&scene, &format!("{}--web-tls", tenant.name()), 1)?;
    }
    Ok(())
}

async fn grants_are_asked_for_each_namespace_that_a_secret_comes_from(scene: Scene) -> anyhow::Result<()> {
    let (a, b) = (scene.tenant("a").await?, scene.tenant("b").await?);
    let mut vault = scene.open_to_us();
    vault["grants"] = json!([scene.grant(&["{namespace}--*"]), a.grant(&["{namespace}--*"])]);
    scene.key_vault(scene.name(), vault).await?;
    for tenant in [&scene, &a, &b] {
        tenant.renew("web-tls").await?;
    }
    let sync = scene.name();
    scene.cluster_sync(sync, json!({"selector": {"names": ["web-tls"]}})).await?;
    let refused = b.cluster_row(sync, "web-tls", "NotGranted").await?;
    ensure!(refused.state == CertificateState::Failed, "{refused:?}");
    says(&refused, &[b.name(), scene.name()])?;
    for tenant in [&scene, &a] {
        tenant.cluster_row(sync, "web-tls", "Synced").await?;
    }
    let status = scene
        .cluster_status(sync, "to count the two that are Synced", |status| {
            status.synced.as_deref() == Some("2/3")
        })
        .await?;
    let ready = conditions::find(&status.conditions, READY).context("no Ready")?;
    ensure!(ready.status == "False" && ready.reason == "NotGranted", "{ready:?}");
    ensure!(ready.message.contains(&format!("{}/web-tls", b.name())), "{ready:?}");
    // What fails comes first.
    ensure!(status.certificates.first().is_some_and(|row| row.reason == "NotGranted"), "{status:?}");
    printed(&scene, &["False", "NotGranted", scene.name(), "2/3"]).await?;
    let theirs = format!("{}--web-tls", b.name());
    ensure!(scene.claim(&theirs).await.is_err(), "a name was squatted without a grant");
    versions_are(&scene, &theirs, 0)?;

    grant_all(&scene, &["{namespace}--*"], &[]).await?;
    let status = scene.cluster_synced(sync, "3/3").await?;
    ensure!(status.next_expiry.is_some() && status.last_push_time.is_some(), "{status:?}");
    printed(&scene, &["True", "Synced", scene.name(), "3/3"]).await?;

    // A name in the space of another namespace is not granted, though the resource covers both.
    let name = format!("{}--mine", scene.name());
    marked(&scene, "mine", json!({}), json!({NAMED: name})).await?;
    marked(&b, "thief", json!({}), json!({NAMED: name})).await?;
    let by_name = format!("{sync}-named");
    let wish = json!({"selector": {"annotations": [{"name": NAMED}]}, "certificateNameTemplate": BY_NAME});
    scene.cluster_sync(&by_name, wish).await?;
    says(&b.cluster_row(&by_name, "thief", "NotGranted").await?, &[b.name(), &name])?;
    scene.cluster_row(&by_name, "mine", "Synced").await?;
    let claim = scene.claim(&name).await?;
    ensure!(claim.spec.sources.len() == 1, "{claim:?}");
    versions_are(&scene, &name, 1)
}

/// What `kubectl get` prints of the ClusterKeyVaultSync that is called like the namespace.
async fn printed(scene: &Scene, words: &[&str]) -> anyhow::Result<()> {
    let output = scene.stage().cluster.kubectl(&["get", "ckvsync", scene.name(), "--no-headers"]).await?;
    let table = String::from_utf8_lossy(&output.stdout).into_owned();
    let cells: Vec<&str> = table.split_whitespace().skip(1).take(words.len()).collect();
    ensure!(cells == words, "{table}");
    Ok(())
}

async fn a_name_after_which_both_kinds_are_has_one_holder_and_goes_to_the_other_when_that_goes(
    scene: Scene,
) -> anyhow::Result<()> {
    grant_all(&scene, &["{namespace}--*"], &["{namespace}--*"]).await?;
    let (sync, name) = (scene.name(), format!("{}--web-tls", scene.name()));
    let issued = scene.renew("web-tls").await?;
    let listed = |policy: &str| {
        let entries = json!([{"secretName": "web-tls", "certificateName": name}]);
        json!({"certificates": entries, "conflictPolicy": policy})
    };
    let selected = |policy: &str| json!({"selector": {}, "conflictPolicy": policy});
    scene.sync("web", listed("Refuse")).await?;
    scene.holds("web", "web-tls", &issued).await?;
    scene.cluster_sync(sync, selected("Refuse")).await?;
    let loser = scene.cluster_row(sync, "web-tls", "NameCollision").await?;
    ensure!(loser.state == CertificateState::Failed, "{loser:?}");
    says(&loser, &[&format!("KeyVaultSync {sync}/web"), &name])?;

    // The name is free, the certificate is another owner's: it is taken over when that is asked for.
    scene.delete(&scene.syncs(), "web").await?;
    let refused = scene.cluster_row(sync, "web-tls", "OwnedByAnother").await?;
    says(&refused, &[&format!("KeyVaultSync/{sync}/web")])?;
    scene.cluster_sync(sync, selected("Adopt")).await?;
    scene.cluster_synced(sync, "1/1").await?;

    scene.sync("web", listed("Adopt")).await?;
    let loser = scene.row("web", "web-tls", "NameCollision").await?;
    says(&loser, &[&format!("ClusterKeyVaultSync {sync}:"), &name])?;
    scene.told("web", "NameCollision", &[&format!("ClusterKeyVaultSync {sync}")]).await?;
    scene.cluster_synced(sync, "1/1").await?;
    scene.delete(&scene.cluster_syncs(), sync).await?;
    scene.holds("web", "web-tls", &issued).await?;
    scene.claimed(&[&name]).await?;
    versions_are(&scene, &name, 1)
}

// One name of several namespaces.

/// The certificate that Secrets called `copy` share in these tests.
const SHOP: &str = "shop";

/// A ClusterKeyVaultSync, called like the namespace, of the Secrets that are annotated with a name; it may be any.
async fn sharing(scene: &Scene, more: Value) -> anyhow::Result<()> {
    grant_all(scene, &["*"], &[]).await?;
    let mut wish =
        json!({"selector": {"annotations": [{"name": NAMED}]}, "certificateNameTemplate": BY_NAME});
    for (key, value) in more.as_object().into_iter().flatten() {
        wish[key] = value.clone();
    }
    scene.cluster_sync(scene.name(), wish).await.map(drop)
}

/// Writes that certificate into a Secret `copy` in each of these namespaces, one after the other.
async fn put_copies(tenants: &[&Scene], issued: &Issued) -> anyhow::Result<()> {
    for tenant in tenants {
        tenant.put_issued("copy", issued).await?;
        tenant.mark("copy", json!({}), json!({NAMED: SHOP})).await?;
    }
    Ok(())
}

/// Waits until the Secrets `copy` of just these namespaces share the certificate, all of them Synced.
async fn share(scene: &Scene, tenants: &[&Scene], issued: &Issued) -> anyhow::Result<()> {
    let wanted: BTreeSet<&str> = tenants.iter().map(|tenant| tenant.name()).collect();
    let leaf = thumbprint(issued)?;
    let is_copy = |row: &&CertificateStatus| row.secret_name == "copy";
    let what = format!("to have copies in just {wanted:?}, all Synced with {leaf}");
    let status = scene
        .cluster_status(scene.name(), &what, |status| {
            let copies: Vec<_> = status.certificates.iter().filter(is_copy).collect();
            let found: BTreeSet<&str> =
                copies.iter().map(|row| row.namespace.as_deref().unwrap_or_default()).collect();
            found == wanted
                && copies.iter().all(|row| {
                    is_synced(row)
                        && row.certificate_name.as_deref() == Some(SHOP)
                        && row.thumbprint.as_deref() == Some(leaf.as_str())
                })
        })
        .await?;
    let versions: BTreeSet<_> =
        status.certificates.iter().filter(is_copy).map(|row| row.version.clone()).collect();
    ensure!(versions.len() == 1, "rows of one certificate with several versions: {status:?}");
    Ok(())
}

/// Whatever the operator had to do before, it has done when a Secret that is made now is Synced.
async fn canary(tenant: &Scene, sync: &str) -> anyhow::Result<()> {
    marked(tenant, "canary", json!({}), json!({NAMED: "canary"})).await?;
    tenant.cluster_row(sync, "canary", "Synced").await.map(drop)
}

async fn equal_certificates_of_several_namespaces_are_one_in_the_vault(scene: Scene) -> anyhow::Result<()> {
    let (a, b) = (scene.tenant("a").await?, scene.tenant("b").await?);
    let issued = scene.issue(&Leaf::server("shop.example.com"))?;
    put_copies(&[&scene, &a, &b], &issued).await?;
    sharing(&scene, json!({})).await?;
    share(&scene, &[&scene, &a, &b], &issued).await?;
    scene.cluster_synced(scene.name(), "3/3").await?;
    scene.claimed(&[SHOP]).await?;
    ensure!(scene.claim(SHOP).await?.spec.sources.len() == 3, "{:?}", scene.claim(SHOP).await?);
    // A fixed text is a template too.
    scene
        .cluster_sync(scene.name(), json!({"selector": {"names": ["copy"]}, "certificateNameTemplate": SHOP}))
        .await?;
    share(&scene, &[&scene, &a, &b], &issued).await?;
    // The same certificate in other clothes is the same.
    let reversed: Vec<String> = issued.intermediates.iter().rev().cloned().collect();
    let crt = format!("{}{}", reversed.concat(), issued.certificate).replace('\n', "\r\n");
    b.put_entries("copy", &entries(&crt, &issued.key, "")).await?;
    let edition = b.secrets().get_metadata("copy").await?.metadata.resource_version;
    wait::object(&scene.claims(), &scene.claim_name(SHOP), "to have looked at the copy", |claim| {
        claim.status.as_ref().is_some_and(|status| {
            status.sources.iter().any(|seen| seen.namespace == b.name() && seen.resource_version == edition)
        })
    })
    .await?;
    share(&scene, &[&scene, &a, &b], &issued).await?;
    ensure!(imports(&scene.calls()) == 1, "{:?}", scene.calls());
    versions_are(&scene, SHOP, 1)
}

async fn a_copy_that_differs_is_waited_for_and_then_told_whose_the_name_is(
    scene: Scene,
) -> anyhow::Result<()> {
    let (a, b) = (scene.tenant("a").await?, scene.tenant("b").await?);
    let (sync, first) = (scene.name(), format!("{}/copy", scene.name()));
    let issued = scene.issue(&Leaf::server("shop.example.com"))?;
    put_copies(&[&scene], &issued).await?;
    sharing(&scene, json!({})).await?;
    share(&scene, &[&scene], &issued).await?;
    put_copies(&[&a, &b], &issued).await?;
    share(&scene, &[&scene, &a, &b], &issued).await?;

    // A machine may be slower than the patience: a copy that becomes equal and differs again is waited for anew.
    let mut waiting = None;
    for _ in 0..ATTEMPTS {
        a.put_issued("copy", &scene.issue(&Leaf::server("other.example.com"))?).await?;
        waiting = Some(differing(&a, sync).await?).filter(|row| row.state == CertificateState::Pending);
        if waiting.is_some() {
            break;
        }
        a.put_issued("copy", &issued).await?;
        share(&scene, &[&scene, &a, &b], &issued).await?;
    }
    let waiting = waiting.context("a copy that differs collides at once")?;
    ensure!(waiting.reason == "Reconciling", "{waiting:?}");
    says(&waiting, &[&format!("{}/copy", a.name()), &first, "waited for"])?;

    let loser = a.cluster_row(sync, "copy", "NameCollision").await?;
    let claim = scene.claim(SHOP).await?;
    let seen = claim.status.iter().flat_map(|status| &status.sources).find(|seen| seen.namespace == a.name());
    let since = seen.and_then(|seen| seen.differs_since.as_ref()).context("no time since it differs")?;
    let waited = Timestamp::now().as_second() - since.0.as_second();
    ensure!(waited >= COPIES_PATIENCE_SECS, "it was waited for {waited} s alone");
    ensure!(loser.state == CertificateState::Failed, "{loser:?}");
    says(&loser, &[&first, &format!("{}/copy", a.name()), SHOP])?;
    for tenant in [&scene, &b] {
        tenant.cluster_row(sync, "copy", "Synced").await?;
    }
    let status =
        scene.cluster_status(sync, "to count two", |status| status.synced.as_deref() == Some("2/3")).await?;
    let ready = conditions::find(&status.conditions, READY).context("no Ready")?;
    ensure!(ready.status == "False" && ready.reason == "NameCollision", "{ready:?}");
    versions_are(&scene, SHOP, 1)?;

    a.put_issued("copy", &issued).await?;
    share(&scene, &[&scene, &a, &b], &issued).await?;
    scene.cluster_synced(sync, "3/3").await?;
    versions_are(&scene, SHOP, 1)
}

/// How often a copy is made to differ until it is seen to be waited for.
const ATTEMPTS: usize = 5;

/// Waits until the row of a copy says that it differs.
async fn differing(tenant: &Scene, sync: &str) -> anyhow::Result<CertificateStatus> {
    let ours = |row: &&CertificateStatus| {
        row.secret_name == "copy" && row.namespace.as_deref() == Some(tenant.name())
    };
    let status = tenant
        .cluster_status(sync, "a copy that differs", |status| {
            status.certificates.iter().find(ours).is_some_and(|row| row.state != CertificateState::Synced)
        })
        .await?;
    status.certificates.iter().find(ours).cloned().context("the row has gone")
}

async fn copies_renewed_one_after_the_other_make_one_version_whoever_is_first(
    scene: Scene,
) -> anyhow::Result<()> {
    let (a, b) = (scene.tenant("a").await?, scene.tenant("b").await?);
    let all = [&scene, &a, &b];
    let issued = scene.issue(&Leaf::server("shop.example.com"))?;
    put_copies(&[&scene], &issued).await?;
    sharing(&scene, json!({})).await?;
    share(&scene, &[&scene], &issued).await?;
    put_copies(&[&a, &b], &issued).await?;
    share(&scene, &all, &issued).await?;
    ensure!(pushed(&scene, SHOP).await?.0 == scene.name(), "{:?}", scene.claim(SHOP).await?);

    // The pushed one first: it is in the vault before the copies are equal to it again.
    let second = scene.issue(&Leaf::server("shop.example.com"))?;
    put_copies(&[&scene], &second).await?;
    let leaf = thumbprint(&second)?;
    scene
        .cluster_status(scene.name(), "the renewed one to be Synced before its copies", |status| {
            status.certificates.iter().any(|row| row.thumbprint.as_deref() == Some(leaf.as_str()))
        })
        .await?;
    for tenant in [&a, &b] {
        differing(tenant, scene.name()).await?;
    }
    put_copies(&[&b, &a], &second).await?;
    share(&scene, &all, &second).await?;
    versions_are(&scene, SHOP, 2)?;

    // The pushed one last: what its copies hold is not pushed for it.
    let third = scene.issue(&Leaf::server("shop.example.com"))?;
    for tenant in [&a, &b] {
        put_copies(&[tenant], &third).await?;
        differing(tenant, scene.name()).await?;
        versions_are(&scene, SHOP, 2)?;
    }
    put_copies(&[&scene], &third).await?;
    share(&scene, &all, &third).await?;
    scene.cluster_synced(scene.name(), "3/3").await?;
    ensure!(pushed(&scene, SHOP).await?.0 == scene.name(), "{:?}", scene.claim(SHOP).await?);
    versions_are(&scene, SHOP, 3)
}

async fn an_equal_copy_takes_the_place_of_one_whose_namespace_goes_without_a_new_version(
    scene: Scene,
) -> anyhow::Result<()> {
    let (a, b, c) = (scene.tenant("a").await?, scene.tenant("b").await?, scene.tenant("c").await?);
    let issued = scene.issue(&Leaf::server("shop.example.com"))?;
    put_copies(&[&a], &issued).await?;
    sharing(&scene, json!({"deletionPolicy": "Delete", "deletionGracePeriod": "0s"})).await?;
    share(&scene, &[&a], &issued).await?;
    // One that differs comes before the equal one.
    put_copies(&[&b], &scene.issue(&Leaf::server("other.example.com"))?).await?;
    differing(&b, scene.name()).await?;
    put_copies(&[&c], &issued).await?;
    c.cluster_row(scene.name(), "copy", "Synced").await?;
    ensure!(pushed(&scene, SHOP).await?.0 == a.name(), "{:?}", scene.claim(SHOP).await?);

    let namespaces = Api::<Namespace>::all(scene.stage().client().clone());
    namespaces.delete(a.name(), &DeleteParams::default()).await?;
    wait::gone(&namespaces, a.name()).await?;
    let source = format!("{}/copy", c.name());
    wait::until("the tag of the vault's certificate to name the copy", || async {
        let versions = scene.versions(SHOP);
        let tag = versions.last().and_then(|version| version.tags.get("keyvault-sync-source")).cloned();
        Ok(if tag.as_ref() == Some(&source) { Seen::Done(()) } else { Seen::NotYet(format!("{tag:?}")) })
    })
    .await?;
    c.cluster_row(scene.name(), "copy", "Synced").await?;
    scene
        .cluster_status(scene.name(), "the one that differs to name the new holder", |status| {
            status.certificates.iter().any(|row| {
                row.namespace.as_deref() == Some(b.name())
                    && row.reason == "NameCollision"
                    && row.message.as_deref().is_some_and(|message| message.contains(&source))
            })
        })
        .await?;
    ensure!(pushed(&scene, SHOP).await?.0 == c.name(), "{:?}", scene.claim(SHOP).await?);
    ensure!(scene.calls().iter().all(|call| call.method != "DELETE"), "{:?}", scene.calls());
    versions_are(&scene, SHOP, 1)
}

async fn a_copy_that_differs_is_not_pushed_while_the_pushed_secret_may_come_back(
    scene: Scene,
) -> anyhow::Result<()> {
    let (a, sync) = (scene.tenant("a").await?, scene.name());
    let issued = scene.issue(&Leaf::server("shop.example.com"))?;
    let other = scene.issue(&Leaf::server("other.example.com"))?;
    put_copies(&[&scene], &issued).await?;
    sharing(&scene, json!({})).await?;
    share(&scene, &[&scene], &issued).await?;
    put_copies(&[&a], &other).await?;
    differing(&a, sync).await?;

    scene.delete(&scene.secrets(), "copy").await?;
    let row = scene.cluster_row(sync, "copy", "SecretNotFound").await?;
    ensure!(row.state == CertificateState::Pending, "{row:?}");
    canary(&a, sync).await?;
    ensure!(pushed(&scene, SHOP).await?.0 == scene.name(), "{:?}", scene.claim(SHOP).await?);
    let waiting = differing(&a, sync).await?;
    says(&waiting, &[&format!("{sync}/copy"), &format!("{}/copy", a.name())])?;
    versions_are(&scene, SHOP, 1)?;

    // Come back, it is as before, though it is the younger one now.
    let mut back = issued.secret(scene.name(), "copy");
    back.metadata.annotations = Some([(NAMED.to_owned(), SHOP.to_owned())].into());
    scene.secrets().create(&Default::default(), &back).await?;
    scene.cluster_row(sync, "copy", "Synced").await?;
    ensure!(pushed(&scene, SHOP).await?.0 == scene.name(), "{:?}", scene.claim(SHOP).await?);
    versions_are(&scene, SHOP, 1)?;

    // For good: after the grace period the other has the name.
    scene.delete(&scene.secrets(), "copy").await?;
    scene.cluster_row(sync, "copy", "SecretNotFound").await?;
    sharing(&scene, json!({"deletionGracePeriod": "1s"})).await?;
    share(&scene, &[&a], &other).await?;
    versions_are(&scene, SHOP, 2)
}
