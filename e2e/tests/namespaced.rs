//! An operator of some namespaces, with rights on Secrets there alone: what it serves, and that it leaves the rest of the cluster in peace.

use anyhow::{Context, ensure};
use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};
use keyvault_sync_api::rbac::{
    CLUSTER_ROLE, default_namespace_rules, namespaced_cluster_role, namespaced_role, own_namespace_rules,
};
use keyvault_sync_e2e::operator::Operator;
use keyvault_sync_e2e::stage::OPERATOR;
use keyvault_sync_e2e::{Scene, wait};
use kube::api::{Api, PostParams};
use serde_json::{Value, json};

keyvault_sync_e2e::promises!(OneByOne:
    an_operator_of_two_namespaces_serves_these_and_touches_nothing_else,
);

/// Binds rules to the operator in one namespace.
fn bound(namespace: &str, name: &str, rules: &[PolicyRule]) -> String {
    let meta = json!({"name": name, "namespace": namespace});
    let group = "rbac.authorization.k8s.io";
    let role = json!({"apiVersion": format!("{group}/v1"), "kind": "Role", "metadata": meta, "rules": rules});
    let binding = json!({
        "apiVersion": format!("{group}/v1"), "kind": "RoleBinding", "metadata": meta,
        "roleRef": {"apiGroup": group, "kind": "Role", "name": name},
        "subjects": [{"kind": "ServiceAccount", "namespace": OPERATOR, "name": OPERATOR}],
    });
    format!("{role}\n---\n{binding}")
}

/// Takes the operator's role over the cluster away, and gives it those of an operator of these namespaces.
async fn confine(scene: &Scene, namespaces: &[&str]) -> anyhow::Result<()> {
    let client = scene.stage().client().clone();
    let roles: Api<ClusterRole> = Api::all(client);
    let mut role = roles.get(CLUSTER_ROLE).await?;
    role.rules = namespaced_cluster_role().rules;
    roles.replace(CLUSTER_ROLE, &PostParams::default(), &role).await?;
    let rules = namespaced_role().rules.context("no rules")?;
    let mut documents = vec![
        bound(OPERATOR, "keyvault-sync-own", &own_namespace_rules()),
        bound("default", "keyvault-sync-events", &default_namespace_rules()),
    ];
    documents.extend(namespaces.iter().map(|namespace| bound(namespace, "keyvault-sync", &rules)));
    scene.stage().cluster.apply(&documents.join("\n---\n")).await
}

async fn operator_of(scene: &Scene, namespaces: &str) -> anyhow::Result<Operator> {
    let served = format!("--watch-namespaces={namespaces}");
    scene.stage().operator_with(&[&served, "--cluster-id=confined", "--service-accounts=keyvault"]).await
}

fn deleting(secret: &str) -> Value {
    json!({"certificates": [{"secretName": secret}], "deletionPolicy": "Delete"})
}

async fn an_operator_of_two_namespaces_serves_these_and_touches_nothing_else(
    scene: Scene,
) -> anyhow::Result<()> {
    let (second, elsewhere) = (scene.tenant("b").await?, scene.tenant("c").await?);
    let names = [scene.name(), second.name(), elsewhere.name()];
    let mut vault = scene.open_to_us();
    vault["grants"] = json!([{"namespaces": {"names": names}, "push": ["*"]}]);
    scene.key_vault(scene.name(), vault.clone()).await?;
    // What another operator has pushed and looks after.
    let whole = scene.stage().operator().await?;
    elsewhere.renew("theirs").await?;
    elsewhere.sync("theirs", deleting("theirs")).await?;
    elsewhere.synced("theirs", "1/1").await?;
    whole.terminate().await?;
    elsewhere.delete(&elsewhere.syncs(), "theirs").await?;

    confine(&scene, &[scene.name(), second.name()]).await?;
    let operator = operator_of(&scene, &format!("{},{}", scene.name(), second.name())).await?;
    for (side, secret) in [(&scene, "web-a"), (&second, "web-b"), (&elsewhere, "web-c")] {
        side.renew(secret).await?;
        side.sync(secret, deleting(secret)).await?;
    }
    for (side, secret) in [(&scene, "web-a"), (&second, "web-b")] {
        side.synced(secret, "1/1").await?;
        let renewed = side.renew(secret).await?;
        side.holds(secret, secret, &renewed).await?;
    }
    // A restart of the API server's watches, and of the operator: all of it again, from each namespace.
    operator.terminate().await?;
    second.delete(&second.syncs(), "web-b").await?;
    let operator = operator_of(&scene, &format!("{},{}", scene.name(), second.name())).await?;
    scene.deleted_once("web-b").await?;
    let renewed = scene.renew("web-a").await?;
    scene.holds("web-a", "web-a", &renewed).await?;

    // Grants by label cannot be checked by who sees no labels.
    let mut by_label = vault.clone();
    by_label["grants"] = json!([{"namespaces": {"selector": {"matchLabels": {"a": "b"}}}, "push": ["*"]}]);
    scene.key_vault(scene.name(), by_label).await?;
    scene.row("web-a", "web-a", "NotGranted").await?;
    wait::object(&scene.key_vaults(), scene.name(), "to be refused", |vault| {
        let conditions = vault.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
        conditions.iter().any(|one| one.reason == "NotGranted" && one.message.contains("name the namespaces"))
    })
    .await?;
    scene.key_vault(scene.name(), vault).await?;
    let renewed = scene.renew("web-a").await?;
    scene.holds("web-a", "web-a", &renewed).await?;

    // Elsewhere nothing was done: neither what nobody wants any more nor what is new.
    scene.untouched("theirs")?;
    let theirs = scene.claim("theirs").await?;
    ensure!(theirs.spec.release.is_none(), "{theirs:?}");
    ensure!(scene.state("web-c").is_none(), "pushed from a namespace that is not served");
    let sync = elsewhere.syncs().get("web-c").await?;
    ensure!(sync.status.is_none(), "{sync:?}");
    // And nothing was asked for that its roles do not give.
    let log = operator.log();
    let denied: Vec<&str> = log.lines().filter(|line| line.contains("is forbidden: User")).collect();
    ensure!(denied.is_empty(), "{denied:?}");
    operator.terminate().await.map(drop)
}
