//! What becomes of the vault when something went while the operator was down, was killed or could not see: deleted at the next
//! start, or not at all. One after the other: each test has operators of its own.

use anyhow::{Context, ensure};
use k8s_openapi::api::rbac::v1::ClusterRole;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use keyvault_emulator::{Effect, Fault, Operation, State};
use keyvault_sync_api::rbac::{CLUSTER_ROLE, cluster_role};
use keyvault_sync_api::{Act, KeyVaultCertificate, KeyVaultSync};
use keyvault_sync_e2e::Scene;
use keyvault_sync_e2e::operator::Operator;
use keyvault_sync_e2e::scene::{imports, writes};
use keyvault_sync_e2e::wait::{self, Seen};
use kube::api::{Api, PostParams};
use kube::{CustomResourceExt, ResourceExt};
use serde_json::{Value, json};

keyvault_sync_e2e::promises!(OneByOne:
    what_went_while_it_was_down_is_deleted_at_the_next_start,
    what_went_and_came_back_while_it_was_down_is_not_deleted,
    killed_between_deletion_and_receipt_it_deletes_once_and_ends_the_claim,
    killed_between_announcement_and_deletion_it_deletes_once_and_ends_the_claim,
    taken_back_while_it_was_down_after_a_deletion_without_receipt_the_certificate_is_recovered,
    a_definition_deleted_under_the_running_operator_deletes_nothing,
    an_owner_that_may_not_be_asked_for_is_not_gone,
    a_claim_restored_without_its_owner_ends_and_deletes_nothing,
    a_claim_restored_with_its_owner_goes_on_without_a_version,
    a_claim_of_another_cluster_id_deletes_nothing,
);

/// The specification of a resource that lists these Secrets, and whose certificates go with them.
fn deleting(secrets: &[&str]) -> Value {
    let certificates: Vec<Value> = secrets.iter().map(|secret| json!({"secretName": secret})).collect();
    json!({"certificates": certificates, "deletionPolicy": "Delete"})
}

/// An operator that has pushed these Secrets for a KeyVaultSync `web` that deletes.
async fn pushed(scene: &Scene, secrets: &[&str]) -> anyhow::Result<Operator> {
    let operator = scene.stage().operator().await?;
    scene.renew_all(secrets).await?;
    scene.sync("web", deleting(secrets)).await?;
    scene.synced("web", &format!("{0}/{0}", secrets.len())).await?;
    Ok(operator)
}

async fn what_went_while_it_was_down_is_deleted_at_the_next_start(scene: Scene) -> anyhow::Result<()> {
    let operator = pushed(&scene, &["entry", "keep"]).await?;
    let next = scene.neighbour().await?;
    scene.renew_all(&["resource", "labelled", "vanished", "patient"]).await?;
    scene.mark("labelled", json!({"sync": "true"}), json!({})).await?;
    scene.sync("resource", deleting(&["resource"])).await?;
    let selector = json!({"matchLabels": {"sync": "true"}});
    scene.sync("labels", json!({"selector": selector, "deletionPolicy": "Delete"})).await?;
    let mut wish = deleting(&["vanished"]);
    wish["deletionGracePeriod"] = json!("0s");
    scene.sync("vanished", wish).await?;
    scene.sync("patient", deleting(&["patient"])).await?;
    for sync in ["resource", "labels", "vanished", "patient"] {
        scene.synced(sync, "1/1").await?;
    }
    next.renew("namespaced").await?;
    next.sync("web", deleting(&["namespaced"])).await?;
    next.synced("web", "1/1").await?;
    operator.terminate().await?;

    scene.sync("web", deleting(&["keep"])).await?;
    scene.delete(&scene.syncs(), "resource").await?;
    scene.mark("labelled", json!({"sync": null}), json!({})).await?;
    scene.delete(&scene.secrets(), "vanished").await?;
    scene.delete(&scene.secrets(), "patient").await?;
    next.delete_namespace().await?;
    for certificate in ["entry", "resource", "labelled", "vanished", "patient", "keep"] {
        scene.untouched(certificate)?;
    }

    let operator = scene.stage().operator().await?;
    for certificate in ["entry", "resource", "labelled"] {
        scene.deleted_once(certificate).await?;
    }
    scene.soft_deleted("vanished").await?;
    next.deleted_once("namespaced").await?;
    for (sync, certificate) in [("web", "entry"), ("labels", "labelled"), ("vanished", "vanished")] {
        scene.told(sync, "Deleted", &[certificate]).await?;
    }
    scene.told_of("KeyVault", scene.name(), "Deleted", &["resource"]).await?;
    next.told_of("KeyVault", next.name(), "Deleted", &["namespaced"]).await?;
    // An hour is an hour, whoever was there.
    scene.row("patient", "patient", "SecretNotFound").await?;
    scene.untouched("patient")?;
    scene.untouched("keep")?;
    operator.terminate().await.map(drop)
}

async fn what_went_and_came_back_while_it_was_down_is_not_deleted(scene: Scene) -> anyhow::Result<()> {
    let operator = pushed(&scene, &["web-tls"]).await?;
    let issued = scene.renew("other").await?;
    let mut wish = deleting(&["other"]);
    wish["deletionGracePeriod"] = json!("0s");
    scene.sync("other", wish).await?;
    scene.synced("other", "1/1").await?;
    operator.terminate().await?;
    let before = scene.calls().len();
    scene.delete(&scene.syncs(), "web").await?;
    let sync = scene.sync("web", deleting(&["web-tls"])).await?;
    scene.delete(&scene.secrets(), "other").await?;
    scene.put_issued("other", &issued).await?;
    let operator = scene.stage().operator().await?;
    let is_its = |claim: &KeyVaultCertificate| Some(&claim.spec.owner.uid) == sync.metadata.uid.as_ref();
    wait::object(&scene.claims(), &scene.claim_name("web-tls"), "to have its new owner", is_its).await?;
    scene.synced("web", "1/1").await?;
    scene.holds("other", "other", &issued).await?;
    for certificate in ["web-tls", "other"] {
        scene.untouched(certificate)?;
    }
    let calls = scene.calls().split_off(before);
    ensure!(writes(&calls).is_empty(), "{:?}", writes(&calls));
    operator.terminate().await.map(drop)
}

/// Ends the operator in the middle of a deletion: the claim says that it was announced.
async fn killed_in_deletion(scene: &Scene, effect: Effect) -> anyhow::Result<()> {
    let operator = pushed(scene, &["first", "keep"]).await?;
    let is_done = effect == Effect::HangAfter;
    // Until it is killed: a deletion that was reset is tried again soon.
    let fault = Fault::new(effect).operation(Operation::DeleteCertificate);
    let held = scene.fault("first", fault);
    scene.sync("web", deleting(&["keep"])).await?;
    if is_done {
        scene.soft_deleted("first").await?;
    } else {
        scene.called("the deletion", |call| call.operation == Operation::DeleteCertificate).await?;
    }
    operator.kill9();
    scene.emulator().clear_fault(held);
    let claim = scene.claim("first").await.context("the claim ended without a receipt")?;
    let in_flight = claim.status.as_ref().and_then(|status| status.in_flight.as_ref());
    ensure!(in_flight.is_some_and(|in_flight| in_flight.act == Act::Delete), "not announced: {claim:?}");
    ensure!(claim.spec.release.is_some(), "not released: {claim:?}");
    Ok(())
}

async fn killed_between_deletion_and_receipt_it_deletes_once_and_ends_the_claim(
    scene: Scene,
) -> anyhow::Result<()> {
    killed_in_deletion(&scene, Effect::HangAfter).await?;
    let operator = scene.stage().operator().await?;
    scene.deleted_once("first").await?;
    scene.told("web", "Deleted", &["first"]).await?;
    scene.synced("web", "1/1").await?;
    scene.untouched("keep")?;
    operator.terminate().await.map(drop)
}

async fn killed_between_announcement_and_deletion_it_deletes_once_and_ends_the_claim(
    scene: Scene,
) -> anyhow::Result<()> {
    killed_in_deletion(&scene, Effect::Reset).await?;
    ensure!(scene.state("first") == Some(State::Normal), "deleted after all");
    let operator = scene.stage().operator().await?;
    scene.soft_deleted("first").await?;
    scene.given_up("first").await?;
    let committed = scene.deletions("first").iter().filter(|call| call.committed).count();
    ensure!(committed == 1, "{:?}", scene.deletions("first"));
    scene.told("web", "Deleted", &["first"]).await?;
    scene.untouched("keep")?;
    operator.terminate().await.map(drop)
}

async fn taken_back_while_it_was_down_after_a_deletion_without_receipt_the_certificate_is_recovered(
    scene: Scene,
) -> anyhow::Result<()> {
    killed_in_deletion(&scene, Effect::HangAfter).await?;
    scene.sync("web", deleting(&["first", "keep"])).await?;
    let operator = scene.stage().operator().await?;
    wait::until("first to be recovered", || async {
        Ok(match scene.state("first") {
            Some(State::Normal) => Seen::Done(()),
            other => Seen::NotYet(format!("{other:?}")),
        })
    })
    .await?;
    scene.synced("web", "2/2").await?;
    scene.told("web", "Recovered", &["first"]).await?;
    ensure!(scene.versions("first").len() == 1, "imported again");
    ensure!(scene.deletions("first").len() == 1, "{:?}", scene.deletions("first"));
    operator.terminate().await.map(drop)
}

/// Waits until the operator has said of this claim that it cannot tell whether its owner is gone.
async fn said_unclear(scene: &Scene, operator: &Operator, certificate: &str) -> anyhow::Result<()> {
    let claim = scene.claim_name(certificate);
    wait::until("the operator to say that the owner cannot be told", || async {
        let log = operator.log();
        let said = log.lines().filter(|line| line.contains(&claim)).any(|line| {
            line.contains("it cannot be told whether") || line.contains("claims stay as they are")
        });
        Ok(if said { Seen::Done(()) } else { Seen::NotYet("no such line in its log".into()) })
    })
    .await
}

async fn a_definition_deleted_under_the_running_operator_deletes_nothing(scene: Scene) -> anyhow::Result<()> {
    let operator = pushed(&scene, &["first", "second"]).await?;
    let before = scene.calls().len();
    let definitions: Api<CustomResourceDefinition> = Api::all(scene.stage().client().clone());
    scene.delete(&definitions, KeyVaultSync::crd_name()).await?;
    for certificate in ["first", "second"] {
        said_unclear(&scene, &operator, certificate).await?;
        let claim = scene.claim(certificate).await.context("given up with its definition")?;
        ensure!(claim.spec.release.is_none(), "{claim:?}");
        scene.untouched(certificate)?;
    }
    scene.stage().cluster.apply(&serde_json::to_string(&KeyVaultSync::crd())?).await?;
    // The kind is there again and the resource is not: that is no proof that anybody deleted it.
    operator.terminate().await?;
    let operator = scene.stage().operator().await?;
    for certificate in ["first", "second"] {
        let claim = scene.claim_name(certificate);
        wait::until("the operator to say that the definition is younger", || async {
            let log = operator.log();
            let mut lines = log.lines().filter(|line| line.contains(&claim));
            let said = lines.any(|line| line.contains("the definition is younger than the claim"));
            Ok(if said { Seen::Done(()) } else { Seen::NotYet("no such line in its log".into()) })
        })
        .await?;
        let claim = scene.claim(certificate).await.context("given up with its definition")?;
        ensure!(claim.spec.release.is_none(), "{claim:?}");
    }
    let sync = scene.sync("web", deleting(&["first", "second"])).await?;
    for certificate in ["first", "second"] {
        let is_its = |claim: &KeyVaultCertificate| Some(&claim.spec.owner.uid) == sync.metadata.uid.as_ref();
        wait::object(&scene.claims(), &scene.claim_name(certificate), "to have its new owner", is_its)
            .await?;
    }
    scene.synced("web", "2/2").await?;
    for certificate in ["first", "second"] {
        scene.untouched(certificate)?;
    }
    let calls = scene.calls().split_off(before);
    ensure!(writes(&calls).is_empty(), "{:?}", writes(&calls));
    // It has not stopped to work.
    scene.sync("web", deleting(&["second"])).await?;
    scene.deleted_once("first").await?;
    operator.terminate().await.map(drop)
}

async fn an_owner_that_may_not_be_asked_for_is_not_gone(scene: Scene) -> anyhow::Result<()> {
    let operator = pushed(&scene, &["web-tls"]).await?;
    operator.terminate().await?;
    scene.delete(&scene.syncs(), "web").await?;
    let roles: Api<ClusterRole> = Api::all(scene.stage().client().clone());
    deny_owners(&roles).await?;
    let operator = scene.stage().operator().await?;
    said_unclear(&scene, &operator, "web-tls").await?;
    let claim = scene.claim("web-tls").await.context("given up because it could not be asked for")?;
    ensure!(claim.spec.release.is_none(), "{claim:?}");
    scene.untouched("web-tls")?;
    // May it ask again, it finds out.
    allow_owners(&roles).await?;
    scene.deleted_once("web-tls").await?;
    operator.terminate().await.map(drop)
}

/// The operator may watch KeyVaultSyncs and ask for none by name.
async fn deny_owners(roles: &Api<ClusterRole>) -> anyhow::Result<()> {
    let mut role = roles.get(CLUSTER_ROLE).await?;
    for rule in role.rules.iter_mut().flatten() {
        if rule.resources.iter().flatten().any(|resource| resource == "keyvaultsyncs") {
            rule.verbs.retain(|verb| verb != "get");
        }
    }
    roles.replace(CLUSTER_ROLE, &PostParams::default(), &role).await.map(drop).context("the role")
}

/// It may do again what it is made for.
async fn allow_owners(roles: &Api<ClusterRole>) -> anyhow::Result<()> {
    let mut role = roles.get(CLUSTER_ROLE).await?;
    role.rules = cluster_role().rules;
    roles.replace(CLUSTER_ROLE, &PostParams::default(), &role).await.map(drop).context("the role")
}

/// Everything of ours but Secrets and KeyVault is gone, and the claim is made again as a backup has it: the same words under
/// another uid.
async fn restored(scene: &Scene) -> anyhow::Result<KeyVaultCertificate> {
    let operator = pushed(scene, &["web-tls"]).await?;
    operator.terminate().await?;
    let saved = scene.claim("web-tls").await?;
    scene.delete(&scene.syncs(), "web").await?;
    scene.delete(&scene.claims(), &saved.name_any()).await?;
    let mut claim = KeyVaultCertificate::new(&saved.name_any(), saved.spec.clone());
    claim.metadata.labels = saved.metadata.labels.clone();
    let mut made = scene.claims().create(&PostParams::default(), &claim).await?;
    made.status = saved.status.clone();
    let made = scene.claims().replace_status(&saved.name_any(), &PostParams::default(), &made).await?;
    ensure!(made.metadata.uid != saved.metadata.uid && made.status == saved.status, "{made:?}");
    Ok(made)
}

async fn a_claim_restored_without_its_owner_ends_and_deletes_nothing(scene: Scene) -> anyhow::Result<()> {
    restored(&scene).await?;
    scene.renew("web-tls").await?;
    let before = scene.calls_about("web-tls").len();
    // As long as its owner cannot be asked for, there is time for anything else that could be done about it.
    let roles: Api<ClusterRole> = Api::all(scene.stage().client().clone());
    deny_owners(&roles).await?;
    let operator = scene.stage().operator().await?;
    said_unclear(&scene, &operator, "web-tls").await?;
    scene.renew("other").await?;
    scene.sync("other", deleting(&["other"])).await?;
    scene.synced("other", "1/1").await?;
    allow_owners(&roles).await?;
    scene.given_up("web-tls").await?;
    scene.untouched("web-tls")?;
    let calls = scene.calls_about("web-tls").split_off(before);
    ensure!(calls.is_empty(), "looked at without an owner: {calls:?}");
    operator.terminate().await.map(drop)
}

async fn a_claim_restored_with_its_owner_goes_on_without_a_version(scene: Scene) -> anyhow::Result<()> {
    let claim = restored(&scene).await?;
    let sync = scene.sync("web", deleting(&["web-tls"])).await?;
    ensure!(sync.metadata.uid.as_deref() != Some(&claim.spec.owner.uid), "the same owner");
    let before = scene.calls().len();
    let operator = scene.stage().operator().await?;
    let is_its = |claim: &KeyVaultCertificate| {
        Some(&claim.spec.owner.uid) == sync.metadata.uid.as_ref()
            && claim.status.as_ref().is_some_and(|status| status.claim_uid == claim.metadata.uid)
    };
    wait::object(&scene.claims(), &scene.claim_name("web-tls"), "to have its new owner", is_its).await?;
    scene.synced("web", "1/1").await?;
    scene.untouched("web-tls")?;
    let calls = scene.calls().split_off(before);
    ensure!(writes(&calls).is_empty() && imports(&scene.calls()) == 1, "{:?}", writes(&calls));
    // Its memory is its own again: what it pushed, it deletes.
    scene.delete(&scene.syncs(), "web").await?;
    scene.deleted_once("web-tls").await?;
    operator.terminate().await.map(drop)
}

async fn a_claim_of_another_cluster_id_deletes_nothing(scene: Scene) -> anyhow::Result<()> {
    let operator = pushed(&scene, &["web-tls"]).await?;
    operator.terminate().await?;
    scene.delete(&scene.syncs(), "web").await?;
    let before = scene.calls().len();
    let operator = scene.stage().operator_with(&["--cluster-id=another", "--deletion-effort=20s"]).await?;
    scene.given_up("web-tls").await?;
    let event =
        scene.told_of("KeyVault", scene.name(), "LeftInVault", &["web-tls", "another cluster id"]).await?;
    ensure!(event.type_.as_deref() == Some("Warning"), "{event:?}");
    scene.untouched("web-tls")?;
    let calls = scene.calls().split_off(before);
    ensure!(writes(&calls).is_empty(), "{:?}", writes(&calls));
    operator.terminate().await.map(drop)
}
