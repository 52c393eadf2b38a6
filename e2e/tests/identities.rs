//! As whom a vault is opened: each kind of identity by a real token request, what changes is used at once, no namespace gets another's
//! token, and a KeyVault says how it is. What a namespace may do with a vault is left to `claims` and `attacks`.

mod kinds;

use anyhow::{Context, ensure};
use keyvault_emulator::{Application, Call, Operation, Permissions};
use keyvault_sync_api::conditions::{self, READY};
use keyvault_sync_api::constants::{CLIENT_ID_ANNOTATION, TENANT_ID_ANNOTATION};
use keyvault_sync_api::{CertificateState, KeyVault};
use keyvault_sync_e2e::scene::{host, imports, says};
use keyvault_sync_e2e::stage::{CLIENT, OPERATOR, SERVICE_ACCOUNT, TENANT};
use keyvault_sync_e2e::{Scene, wait};
use kinds::{
    account, application, by, certificate, client, client_secret, credential, opened_by, push_by_each_kind,
    sync, vault,
};
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::json;

keyvault_sync_e2e::promises!(Together:
    each_kind_of_identity_pushes_with_a_token_of_its_own,
    a_client_secret_that_changes_is_used_at_once,
    a_client_certificate_is_renewed_without_a_restart,
    a_missing_credential_is_told_by_its_name_and_used_when_it_is_there,
    each_namespace_opens_the_vault_as_itself,
    a_namespace_that_names_the_identity_of_another_gets_no_token,
    what_a_service_account_lacks_is_told_and_used_when_it_is_there,
    an_account_that_the_operator_was_not_told_of_is_never_asked_for_a_token,
    a_cluster_resource_has_no_namespace_to_act_as,
    a_namespace_that_goes_takes_its_identity_along_and_leaves_its_certificate,
    a_vault_says_how_it_is_before_anything_is_pushed,
    a_broken_vault_marks_its_own_resources_and_nobody_elses,
    wrong_credentials_are_not_hammered,
);

/// Waits until a KeyVault's Ready says this.
async fn vault_says(
    scene: &Scene,
    vault: &str,
    status: &str,
    reason: &str,
    words: &[&str],
) -> anyhow::Result<KeyVault> {
    let what = format!("to be {status} with {reason} and {words:?}");
    wait::object(&scene.key_vaults(), vault, &what, |vault| {
        let ready = vault.status.as_ref().and_then(|status| conditions::find(&status.conditions, READY));
        ready.is_some_and(|ready| {
            ready.status == status
                && ready.reason == reason
                && ready.observed_generation == vault.metadata.generation
                && words.iter().all(|word| ready.message.contains(word))
        })
    })
    .await
}

/// How often a token was asked for as this application.
fn token_requests(scene: &Scene, client: &str) -> usize {
    let of_client =
        |call: &&Call| call.operation == Operation::Token && call.client_id.as_deref() == Some(client);
    scene.emulator().journal().iter().filter(of_client).count()
}

async fn each_kind_of_identity_pushes_with_a_token_of_its_own(scene: Scene) -> anyhow::Result<()> {
    push_by_each_kind(&scene).await
}

async fn a_client_secret_that_changes_is_used_at_once(scene: Scene) -> anyhow::Result<()> {
    let name = scene.name().to_owned();
    let [first, second] = ["first", "second"].map(|which| format!("{name}-the-{which}-client-secret"));
    let vault = vault(&scene, "secret", json!({"servicePrincipal": {
        "tenantId": TENANT, "clientId": client(&scene, 1), "clientSecretRef": {"name": name, "key": "clientSecret"},
    }})).await?;
    let application = application(&scene, &vault, 1);
    let with = |secret: &str| Application { secret: Some(secret.to_owned()), ..application.clone() };
    scene.emulator().add_application(with(&first));
    client_secret(&scene, &name, "not-the-secret-of-that-application").await?;
    scene.renew("web-tls").await?;
    sync(&scene, "web-tls", &vault).await?;
    let row = scene.row("web-tls", "web-tls", "AuthenticationFailed").await?;
    says(&row, &["AADSTS7000215", "client secret", &name])?;
    vault_says(&scene, &vault, "False", "AuthenticationFailed", &["AADSTS7000215"]).await?;

    // Put right: neither the refusal that is remembered nor the pause after it holds it up.
    client_secret(&scene, &name, &first).await?;
    scene.synced("web-tls", "1/1").await?;
    vault_says(&scene, &vault, "True", "Reached", &[]).await?;

    // Another one: the token that was got with the old one is not used any more.
    scene.emulator().add_application(with(&second));
    client_secret(&scene, &name, &second).await?;
    let before = token_requests(&scene, &client(&scene, 1));
    let renewed = scene.renew("web-tls").await?;
    scene.holds("web-tls", "web-tls", &renewed).await?;
    ensure!(token_requests(&scene, &client(&scene, 1)) > before, "pushed with a token of the old secret");
    Ok(())
}

async fn a_client_certificate_is_renewed_without_a_restart(scene: Scene) -> anyhow::Result<()> {
    let name = scene.name().to_owned();
    let vault = vault(
        &scene,
        "cert",
        json!({"clientCertificate": {
            "tenantId": TENANT, "clientId": client(&scene, 1), "secretRef": {"name": name},
        }}),
    )
    .await?;
    let application = application(&scene, &vault, 1);
    for round in 0..2 {
        let (issued, der) = certificate(&scene)?;
        scene.emulator().add_application(Application { certificates: vec![der], ..application.clone() });
        let pair = json!({"tls.crt": issued.certificate, "tls.key": issued.key});
        credential(&scene, &name, "kubernetes.io/tls", pair).await?;
        let before = token_requests(&scene, &client(&scene, 1));
        let pushed = scene.renew("web-tls").await?;
        sync(&scene, "web-tls", &vault).await?;
        scene.holds("web-tls", "web-tls", &pushed).await.with_context(|| format!("round {round}"))?;
        ensure!(
            round == 0 || token_requests(&scene, &client(&scene, 1)) > before,
            "pushed with a token of the old certificate"
        );
    }
    Ok(())
}

async fn a_missing_credential_is_told_by_its_name_and_used_when_it_is_there(
    scene: Scene,
) -> anyhow::Result<()> {
    let name = scene.name().to_owned();
    let identity = json!({"servicePrincipal": {
        "tenantId": TENANT, "clientId": client(&scene, 1), "clientSecretRef": {"name": name},
    }});
    let vault = vault(&scene, "secret", identity).await?;
    let secret = format!("{name}-client-secret-that-comes-late");
    scene
        .emulator()
        .add_application(Application { secret: Some(secret.clone()), ..application(&scene, &vault, 1) });
    scene.renew("web-tls").await?;
    sync(&scene, "web-tls", &vault).await?;
    let place = format!("Secret {OPERATOR}/{name}");
    vault_says(&scene, &vault, "False", "AuthenticationFailed", &[&place, "does not exist"]).await?;
    let row = scene.row("web-tls", "web-tls", "AuthenticationFailed").await?;
    says(&row, &[&place, "does not exist", &vault])?;

    credential(&scene, &name, "Opaque", json!({"another": "key"})).await?;
    let row = scene
        .status("web-tls", "to name the key", |sync| {
            let row = keyvault_sync_e2e::scene::row(sync, "web-tls");
            row.is_some_and(|row| {
                row.message.as_deref().is_some_and(|text| text.contains("key clientSecret"))
            })
        })
        .await?;
    drop(row);
    client_secret(&scene, &name, &secret).await?;
    scene.synced("web-tls", "1/1").await?;
    Ok(())
}

async fn each_namespace_opens_the_vault_as_itself(scene: Scene) -> anyhow::Result<()> {
    let tenant = scene.tenant("b").await?;
    let name = vault(&scene, "shared", json!({"serviceAccount": {"name": SERVICE_ACCOUNT}})).await?;
    let mut spec = opened_by(&scene, &name, json!({"serviceAccount": {"name": SERVICE_ACCOUNT}}));
    spec["grants"] = json!([{"namespaces": {"names": [scene.name(), tenant.name()]}, "push": ["*"]}]);
    scene.key_vault(&name, spec).await?;
    for (number, side) in [(1, &scene), (2, &tenant)] {
        let federated = vec![scene.stage().federated(side.name(), SERVICE_ACCOUNT)];
        scene.emulator().add_application(Application { federated, ..application(&scene, &name, number) });
        account(side, json!({CLIENT_ID_ANNOTATION: client(&scene, number), TENANT_ID_ANNOTATION: TENANT}))
            .await?;
        let secret = format!("web-{number}");
        let issued = side.renew(&secret).await?;
        sync(side, &secret, &name).await?;
        side.holds(&secret, &secret, &issued).await?;
    }
    vault_says(&scene, &name, "True", "PerNamespaceIdentity", &[SERVICE_ACCOUNT]).await?;
    let calls = scene.emulator().calls(&host(&name));
    for number in [1, 2] {
        let (own, certificate) = (client(&scene, number), format!("web-{number}"));
        let about: Vec<Call> =
            calls.iter().filter(|call| call.name.as_deref() == Some(&certificate)).cloned().collect();
        let carried = about.iter().filter(|call| call.client_id.is_some()).count();
        ensure!(imports(&about) == 1 && by(&about, &own) == carried, "not as {own} alone: {about:?}");
    }
    ensure!(by(&calls, CLIENT) == 0, "the operator's own identity was used: {calls:?}");
    Ok(())
}

async fn a_namespace_that_names_the_identity_of_another_gets_no_token(scene: Scene) -> anyhow::Result<()> {
    let thief = scene.tenant("b").await?;
    let name = vault(&scene, "shared", json!({"serviceAccount": {"name": SERVICE_ACCOUNT}})).await?;
    let mut spec = opened_by(&scene, &name, json!({"serviceAccount": {"name": SERVICE_ACCOUNT}}));
    spec["grants"] = json!([{"namespaces": {"names": [scene.name(), thief.name()]}, "push": ["*"]}]);
    scene.key_vault(&name, spec).await?;
    let federated = vec![scene.stage().federated(scene.name(), SERVICE_ACCOUNT)];
    scene.emulator().add_application(Application { federated, ..application(&scene, &name, 1) });
    let ids = json!({CLIENT_ID_ANNOTATION: client(&scene, 1), TENANT_ID_ANNOTATION: TENANT});
    account(&scene, ids.clone()).await?;
    scene.renew("web-tls").await?;
    sync(&scene, "web-tls", &name).await?;
    scene.synced("web-tls", "1/1").await?;

    // The same ids under another ServiceAccount, while a token of the first is at hand.
    account(&thief, ids).await?;
    thief.renew("stolen").await?;
    sync(&thief, "stolen", &name).await?;
    let row = thief.row("stolen", "stolen", "AuthenticationFailed").await?;
    says(&row, &["AADSTS700213", &format!("system:serviceaccount:{}:{SERVICE_ACCOUNT}", thief.name())])?;
    ensure!(scene.emulator().certificate(&host(&name), "stolen").is_none(), "pushed with another's token");
    // It is nobody else's trouble.
    let renewed = scene.renew("web-tls").await?;
    scene.holds("web-tls", "web-tls", &renewed).await?;
    vault_says(&scene, &name, "True", "PerNamespaceIdentity", &[]).await?;
    Ok(())
}

async fn what_a_service_account_lacks_is_told_and_used_when_it_is_there(scene: Scene) -> anyhow::Result<()> {
    let name = vault(&scene, "account", json!({"serviceAccount": {"name": SERVICE_ACCOUNT}})).await?;
    let federated = vec![scene.stage().federated(scene.name(), SERVICE_ACCOUNT)];
    scene.emulator().add_application(Application { federated, ..application(&scene, &name, 1) });
    scene.renew("web-tls").await?;
    sync(&scene, "web-tls", &name).await?;
    let place = format!("ServiceAccount {}/{SERVICE_ACCOUNT}", scene.name());
    for (annotations, words) in [
        (None, &["does not exist", CLIENT_ID_ANNOTATION][..]),
        (Some(json!({TENANT_ID_ANNOTATION: TENANT})), &["has no annotation", CLIENT_ID_ANNOTATION]),
        (
            Some(json!({CLIENT_ID_ANNOTATION: "../../common", TENANT_ID_ANNOTATION: TENANT})),
            &["../../common", "not a GUID"],
        ),
        (
            Some(
                json!({CLIENT_ID_ANNOTATION: client(&scene, 1), TENANT_ID_ANNOTATION: "login.evil.example"}),
            ),
            &["login.evil.example", "not a GUID", TENANT_ID_ANNOTATION],
        ),
    ] {
        if let Some(annotations) = annotations {
            account(&scene, annotations).await?;
        }
        scene
            .status("web-tls", &format!("to say {words:?}"), |sync| {
                let row = keyvault_sync_e2e::scene::row(sync, "web-tls");
                row.is_some_and(|row| {
                    let message = row.message.as_deref().unwrap_or_default();
                    row.reason == "AuthenticationFailed"
                        && row.state == CertificateState::Failed
                        && message.contains(&place)
                        && words.iter().all(|word| message.contains(word))
                })
            })
            .await?;
    }
    let calls = scene.emulator().calls(&host(&name));
    ensure!(calls.iter().all(|call| call.client_id.is_none()), "{calls:?}");
    account(&scene, json!({CLIENT_ID_ANNOTATION: client(&scene, 1), TENANT_ID_ANNOTATION: TENANT})).await?;
    scene.synced("web-tls", "1/1").await?;
    Ok(())
}

async fn an_account_that_the_operator_was_not_told_of_is_never_asked_for_a_token(
    scene: Scene,
) -> anyhow::Result<()> {
    let name = vault(&scene, "account", json!({"serviceAccount": {"name": "default"}})).await?;
    let federated = vec![scene.stage().federated(scene.name(), "default")];
    scene.emulator().add_application(Application { federated, ..application(&scene, &name, 1) });
    scene.renew("web-tls").await?;
    sync(&scene, "web-tls", &name).await?;
    let row = scene.row("web-tls", "web-tls", "AuthenticationFailed").await?;
    says(&row, &["--service-accounts=default", "default"])?;
    vault_says(&scene, &name, "False", "AuthenticationFailed", &["--service-accounts=default"]).await?;
    ensure!(scene.emulator().calls(&host(&name)).is_empty());
    Ok(())
}

async fn a_cluster_resource_has_no_namespace_to_act_as(scene: Scene) -> anyhow::Result<()> {
    let name = vault(&scene, "account", json!({"serviceAccount": {"name": SERVICE_ACCOUNT}})).await?;
    let federated = vec![scene.stage().federated(scene.name(), SERVICE_ACCOUNT)];
    scene.emulator().add_application(Application { federated, ..application(&scene, &name, 1) });
    account(&scene, json!({CLIENT_ID_ANNOTATION: client(&scene, 1), TENANT_ID_ANNOTATION: TENANT})).await?;
    scene.renew("web-tls").await?;
    let over = format!("{}-all", scene.name());
    scene.cluster_sync(&over, json!({"vaultRef": {"name": name}, "selector": {}})).await?;
    let row = scene.cluster_row(&over, "web-tls", "PerNamespaceIdentity").await?;
    says(&row, &["ClusterKeyVaultSync", "KeyVaultSync in each namespace", &name])?;
    let status = scene
        .cluster_status(&over, "to be refused", |status| {
            conditions::find(&status.conditions, READY).is_some_and(|ready| ready.status == "False")
        })
        .await?;
    let ready = conditions::find(&status.conditions, READY).context("no Ready")?;
    ensure!(ready.reason == "PerNamespaceIdentity", "{ready:?}");
    ensure!(scene.emulator().certificate_names(&host(&name)).is_empty());
    Ok(())
}

async fn a_namespace_that_goes_takes_its_identity_along_and_leaves_its_certificate(
    scene: Scene,
) -> anyhow::Result<()> {
    let tenant = scene.tenant("b").await?;
    let name = vault(&scene, "account", json!({"serviceAccount": {"name": SERVICE_ACCOUNT}})).await?;
    let mut spec = opened_by(&scene, &name, json!({"serviceAccount": {"name": SERVICE_ACCOUNT}}));
    spec["grants"] = json!([{"namespaces": {"names": [tenant.name()]}, "push": ["*"]}]);
    scene.key_vault(&name, spec).await?;
    let federated = vec![scene.stage().federated(tenant.name(), SERVICE_ACCOUNT)];
    scene.emulator().add_application(Application { federated, ..application(&scene, &name, 1) });
    account(&tenant, json!({CLIENT_ID_ANNOTATION: client(&scene, 1), TENANT_ID_ANNOTATION: TENANT})).await?;
    tenant.renew("web-tls").await?;
    let entries = json!([{"secretName": "web-tls"}]);
    let spec = json!({"vaultRef": {"name": name}, "certificates": entries, "deletionPolicy": "Delete"});
    tenant.sync("web", spec).await?;
    tenant.synced("web", "1/1").await?;
    tenant.delete_namespace().await?;
    let event = scene.told_of("KeyVault", &name, "LeftInVault", &["web-tls", "ServiceAccount"]).await?;
    ensure!(event.type_.as_deref() == Some("Warning"), "{event:?}");
    wait::gone(&scene.claims(), &format!("web-tls.{}", host(&name))).await?;
    let left = scene.emulator().certificate(&host(&name), "web-tls").context("it was deleted")?;
    ensure!(left.versions.len() == 1, "{left:?}");
    Ok(())
}

async fn a_vault_says_how_it_is_before_anything_is_pushed(scene: Scene) -> anyhow::Result<()> {
    // Nobody refers to any of these.
    let good = json!({"workloadIdentity": {"clientId": CLIENT}});
    let well = format!("{}-well", scene.name());
    scene.make_vault(&well);
    scene.key_vault(&well, opened_by(&scene, &well, good.clone())).await?;
    vault_says(&scene, &well, "True", "Reached", &[&host(&well)]).await?;

    let roleless = vault(&scene, "roleless", good.clone()).await?;
    vault_says(&scene, &roleless, "False", "Forbidden", &[&host(&roleless), "certificates/read"]).await?;
    // A role that is repaired is found when somebody asks for it.
    scene.emulator().allow(&host(&roleless), CLIENT, Permissions::certificates_officer());
    let patch = json!({"metadata": {"annotations": {"keyvaultsync.io/sync-at": "now"}}});
    scene.key_vaults().patch(&roleless, &PatchParams::default(), &Patch::Merge(patch)).await?;
    vault_says(&scene, &roleless, "True", "Reached", &[]).await?;

    let strange =
        vault(&scene, "strange", json!({"workloadIdentity": {"clientId": client(&scene, 9)}})).await?;
    vault_says(&scene, &strange, "False", "AuthenticationFailed", &["AADSTS700016", &client(&scene, 9)])
        .await?;
    // An identity that is corrected is tried at once.
    scene.emulator().allow(&host(&strange), CLIENT, Permissions::certificates_officer());
    scene.key_vault(&strange, opened_by(&scene, &strange, good)).await?;
    vault_says(&scene, &strange, "True", "Reached", &[]).await?;

    // What is well is not asked again: one read with its challenge, and nothing since.
    let calls = scene.emulator().calls(&host(&well));
    ensure!(calls.len() == 2, "{calls:?}");
    Ok(())
}

async fn a_broken_vault_marks_its_own_resources_and_nobody_elses(scene: Scene) -> anyhow::Result<()> {
    let good = json!({"workloadIdentity": {"clientId": CLIENT}});
    let broken = vault(&scene, "broken", good.clone()).await?;
    scene.renew("here").await?;
    scene.renew("there").await?;
    sync(&scene, "here", scene.name()).await?;
    scene.synced("here", "1/1").await?;
    sync(&scene, "there", &broken).await?;
    let row = scene.row("there", "there", "Forbidden").await?;
    says(&row, &[&host(&broken)])?;
    vault_says(&scene, &broken, "False", "Forbidden", &[]).await?;
    vault_says(&scene, scene.name(), "True", "Reached", &[]).await?;
    let renewed = scene.renew("here").await?;
    scene.holds("here", "here", &renewed).await?;
    scene.synced("here", "1/1").await?;
    Ok(())
}

async fn wrong_credentials_are_not_hammered(scene: Scene) -> anyhow::Result<()> {
    let name = scene.name().to_owned();
    let vault = vault(
        &scene,
        "secret",
        json!({"servicePrincipal": {
            "tenantId": TENANT, "clientId": client(&scene, 1), "clientSecretRef": {"name": name},
        }}),
    )
    .await?;
    let secret = Some(format!("{name}-the-right-client-secret"));
    scene.emulator().add_application(Application { secret, ..application(&scene, &vault, 1) });
    client_secret(&scene, &name, "the-wrong-client-secret-for-all").await?;
    let names: Vec<String> = (0..20).map(|number| format!("web-{number}")).collect();
    let secrets: Vec<&str> = names.iter().map(String::as_str).collect();
    scene.renew_all(&secrets).await?;
    scene.sync("web", json!({"vaultRef": {"name": vault}, "selector": {}})).await?;
    for secret in &secrets {
        scene.row("web", secret, "AuthenticationFailed").await?;
    }
    scene.renew_all(&secrets).await?;
    scene.sync_now("web", "again").await?;
    for secret in &secrets {
        let name = format!("{secret}.{}", host(&vault));
        wait::object(&scene.claims(), &name, "to be tried again", |claim| {
            let status = claim.status.as_ref();
            let is_asked = claim.spec.sync_at.as_deref() == Some("again");
            is_asked && status.and_then(|status| status.observed_generation) == claim.metadata.generation
        })
        .await?;
    }
    let refused = token_requests(&scene, &client(&scene, 1));
    // Two seconds after the first refusal, four after the second, and so on; forty rounds have been made meanwhile.
    ensure!((1..=6).contains(&refused), "{refused} requests for a token");
    scene.syncs().delete("web", &DeleteParams::default()).await?;
    Ok(())
}
