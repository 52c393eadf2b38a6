//! An operator of some namespaces, with rights on Secrets there alone: what it serves, and that it leaves the rest of the cluster in peace.

use anyhow::{Context, ensure};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, PolicyRule};
use keyvault_emulator::{Application, Permissions};
use keyvault_sync_api::constants::{CLIENT_ID_ANNOTATION, TENANT_ID_ANNOTATION};
use keyvault_sync_api::rbac::{
    CLUSTER_ROLE, default_namespace_rules, namespaced_cluster_role, namespaced_role, own_namespace_rules,
    served_namespaces_rules, service_account_rules,
};
use keyvault_sync_e2e::operator::Operator;
use keyvault_sync_e2e::scene::host;
use keyvault_sync_e2e::stage::{CLIENT, IDENTITIES, OPERATOR, SERVICE_ACCOUNT, TENANT};
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
    let mut over_cluster = namespaced_cluster_role().rules.context("no rules")?;
    over_cluster.extend(served_namespaces_rules(namespaces));
    role.rules = Some(over_cluster);
    roles.replace(CLUSTER_ROLE, &PostParams::default(), &role).await?;
    let bindings: Api<ClusterRoleBinding> = Api::all(scene.stage().client().clone());
    scene.delete(&bindings, IDENTITIES).await?;
    let mut rules = namespaced_role().rules.context("no rules")?;
    rules.extend(service_account_rules(&[SERVICE_ACCOUNT]));
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

    // A namespace acts as itself, by a ServiceAccount that the operator may ask for there.
    let client_id = "00000000-0000-4000-8000-000000000001".to_owned();
    let own = format!("{}-own", scene.name());
    scene.make_vault(&own);
    scene.emulator().deny(&host(&own), CLIENT);
    scene.emulator().allow(&host(&own), &client_id, Permissions::certificates_officer());
    let federated = vec![scene.stage().federated(scene.name(), SERVICE_ACCOUNT)];
    let tenant_id = TENANT.to_owned();
    scene.emulator().add_application(Application {
        tenant_id,
        client_id: client_id.clone(),
        federated,
        ..Application::default()
    });
    let ids = json!({CLIENT_ID_ANNOTATION: client_id, TENANT_ID_ANNOTATION: TENANT});
    let account = json!({
        "apiVersion": "v1", "kind": "ServiceAccount",
        "metadata": {"namespace": scene.name(), "name": SERVICE_ACCOUNT, "annotations": ids},
    });
    scene.stage().cluster.apply(&account.to_string()).await?;
    let mut opened = scene.open_to_us();
    opened["url"] = json!(format!("https://{}", host(&own)));
    opened["identity"] = json!({"serviceAccount": {"name": SERVICE_ACCOUNT}});
    scene.key_vault(&own, opened).await?;
    scene.renew("as-itself").await?;
    let entries = json!([{"secretName": "as-itself"}]);
    scene.sync("as-itself", json!({"vaultRef": {"name": own}, "certificates": entries})).await?;
    scene.synced("as-itself", "1/1").await?;

    // Another namespace that is to be served and is not there, or has no role yet, holds up neither the start nor the others.
    operator.terminate().await?;
    let served = format!("{},{},not-there", scene.name(), second.name());
    let operator = operator_of(&scene, &served).await?;
    let renewed = scene.renew("web-a").await?;
    scene.holds("web-a", "web-a", &renewed).await?;

    // One that goes takes the operator's role in it along.
    second.renew("web-d").await?;
    second.sync("web-d", deleting("web-d")).await?;
    second.synced("web-d", "1/1").await?;
    second.delete_namespace().await?;
    scene.deleted_once("web-d").await?;

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
    // Who refers to a KeyVault here is told how it is; of the others nothing is said.
    let unused = format!("{}-unused", scene.name());
    scene.make_vault(&unused);
    let mut spec = scene.open_to_us();
    spec["url"] = json!(format!("https://{}", host(&unused)));
    scene.key_vault(&unused, spec).await?;
    let renewed = scene.renew("web-a").await?;
    scene.holds("web-a", "web-a", &renewed).await?;
    ensure!(scene.key_vaults().get(&unused).await?.status.is_none(), "a KeyVault that is not used here");
    ensure!(scene.emulator().calls(&host(&unused)).is_empty());
    // And nothing was asked for that its roles do not give, but for the namespaces that are not there.
    let log = operator.log();
    let is_of_missing = |line: &str| line.contains("not-there") || line.contains(second.name());
    let denied = |line: &&str| line.contains("is forbidden: User") && !is_of_missing(line);
    let denied: Vec<&str> = log.lines().filter(denied).collect();
    ensure!(denied.is_empty(), "{denied:?}");
    operator.terminate().await.map(drop)
}
