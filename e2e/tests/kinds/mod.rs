//! Applications, credentials and vaults for each kind of identity; what is promised of them is left to the files that use this.

#![allow(dead_code)]

use anyhow::{Context, ensure};
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use keyvault_emulator::{Application, AssignedIdentity, Call, Permissions};
use keyvault_sync_api::constants::TENANT_ID_ANNOTATION;
use keyvault_sync_e2e::Scene;
use keyvault_sync_e2e::certificates::{Authority, Issued, KeyType, Leaf};
use keyvault_sync_e2e::scene::{host, imports};
use keyvault_sync_e2e::stage::{CLIENT, OPERATOR, SERVICE_ACCOUNT, TENANT};
use kube::api::{Api, Patch, PatchParams};
use serde_json::{Value, json};

/// The client id of the n-th application of a test.
pub(crate) fn client(scene: &Scene, number: u32) -> String {
    let digits: String = scene.name().chars().filter(char::is_ascii_digit).collect();
    format!("{digits:0>8}-{number:04}-4000-8000-000000000000")
}

/// An application that may do everything in that vault.
pub(crate) fn application(scene: &Scene, vault: &str, number: u32) -> Application {
    let client_id = client(scene, number);
    scene.emulator().allow(&host(vault), &client_id, Permissions::certificates_officer());
    Application { tenant_id: TENANT.to_owned(), client_id, ..Application::default() }
}

/// Makes a vault that the operator itself has no right in, and its KeyVault, opened by this identity and by our namespace.
pub(crate) async fn vault(scene: &Scene, suffix: &str, identity: Value) -> anyhow::Result<String> {
    let name = format!("{}-{suffix}", scene.name());
    scene.make_vault(&name);
    scene.emulator().deny(&host(&name), CLIENT);
    scene.key_vault(&name, opened_by(scene, &name, identity)).await?;
    Ok(name)
}

/// The specification of such a KeyVault.
pub(crate) fn opened_by(scene: &Scene, vault: &str, identity: Value) -> Value {
    let mut spec = scene.open_to_us();
    spec["url"] = json!(format!("https://{}", host(vault)));
    spec["identity"] = identity;
    spec
}

/// A KeyVaultSync of one Secret through that KeyVault, both of one name.
pub(crate) async fn sync(scene: &Scene, name: &str, vault: &str) -> anyhow::Result<()> {
    let spec = json!({"vaultRef": {"name": vault}, "certificates": [{"secretName": name}]});
    scene.sync(name, spec).await.map(drop)
}

/// Writes a Secret into the operator's namespace.
pub(crate) async fn credential(scene: &Scene, name: &str, kind: &str, data: Value) -> anyhow::Result<()> {
    let secrets: Api<Secret> = Api::namespaced(scene.stage().client().clone(), OPERATOR);
    let object = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"namespace": OPERATOR, "name": name},
        "type": kind, "stringData": data,
    });
    let params = PatchParams::apply("identities-test").force();
    let applied = secrets.patch(name, &params, &Patch::Apply(&object)).await;
    applied.map(drop).with_context(|| format!("Secret {name} is refused"))
}

pub(crate) async fn client_secret(scene: &Scene, name: &str, value: &str) -> anyhow::Result<()> {
    scene.stage().guard(value);
    credential(scene, name, "Opaque", json!({"clientSecret": value})).await
}

/// A certificate for an application: its Secret's entries, and the certificate in DER.
pub(crate) fn certificate(scene: &Scene) -> anyhow::Result<(Issued, Vec<u8>)> {
    let leaf = Leaf::server("application.example.com").key_type(KeyType::Rsa2048);
    let issued = Authority::root("Example Applications")?.issue(&leaf)?;
    scene.stage().guard(&issued.key);
    let der = keyvault_sync_e2e::scene::ders(&issued.certificate)?.remove(0);
    Ok((issued, der))
}

/// Makes the ServiceAccount of a namespace, with these annotations.
pub(crate) async fn account(scene: &Scene, annotations: Value) -> anyhow::Result<()> {
    let accounts: Api<ServiceAccount> = Api::namespaced(scene.stage().client().clone(), scene.name());
    let object = json!({
        "apiVersion": "v1", "kind": "ServiceAccount",
        "metadata": {"namespace": scene.name(), "name": SERVICE_ACCOUNT, "annotations": annotations},
    });
    let params = PatchParams::apply("identities-test").force();
    accounts.patch(SERVICE_ACCOUNT, &params, &Patch::Apply(&object)).await?;
    Ok(())
}

/// The calls of a vault that carried a token, by whose token it was.
pub(crate) fn by(calls: &[Call], client: &str) -> usize {
    calls.iter().filter(|call| call.client_id.as_deref() == Some(client)).count()
}

/// Pushes one Secret through a vault of each kind of identity, and checks that each was opened as itself alone.
///
/// # Errors
/// One was not.
pub(crate) async fn push_by_each_kind(scene: &Scene) -> anyhow::Result<()> {
    let emulator = scene.emulator();
    // A service principal with a secret, which somebody wrote with a line break at its end.
    let secret = format!("{}-secret-of-one-application", scene.name());
    let vault_1 = vault(scene, "secret", json!({"servicePrincipal": {
        "tenantId": TENANT, "clientId": client(scene, 1), "clientSecretRef": {"name": format!("{}-1", scene.name())},
    }})).await?;
    emulator.add_application(Application { secret: Some(secret.clone()), ..application(scene, &vault_1, 1) });
    client_secret(scene, &format!("{}-1", scene.name()), &format!("{secret}\n")).await?;
    // One with a certificate.
    let (issued, der) = certificate(scene)?;
    let vault_2 = vault(scene, "cert", json!({"clientCertificate": {
        "tenantId": TENANT, "clientId": client(scene, 2), "secretRef": {"name": format!("{}-2", scene.name())},
    }})).await?;
    emulator.add_application(Application { certificates: vec![der], ..application(scene, &vault_2, 2) });
    let pair = json!({"tls.crt": issued.certificate, "tls.key": issued.key});
    credential(scene, &format!("{}-2", scene.name()), "kubernetes.io/tls", pair).await?;
    // Managed identities of the node.
    let vault_3 = vault(scene, "node", json!({"managedIdentity": {"clientId": client(scene, 3)}})).await?;
    emulator.add_application(application(scene, &vault_3, 3));
    let vault_4 = vault(scene, "system", json!({"managedIdentity": {}})).await?;
    emulator.add_application(application(scene, &vault_4, 4));
    for (number, is_system) in [(3, false), (4, true)] {
        let (tenant_id, client_id) = (TENANT.to_owned(), client(scene, number));
        emulator.assign_identity(AssignedIdentity { tenant_id, client_id, is_system });
    }
    // The operator's own workload identity, as another application than by default.
    let vault_5 =
        vault(scene, "workload", json!({"workloadIdentity": {"clientId": client(scene, 5)}})).await?;
    let federated = vec![scene.stage().federated(OPERATOR, OPERATOR)];
    emulator.add_application(Application { federated, ..application(scene, &vault_5, 5) });
    // A ServiceAccount of the namespace.
    let vault_6 = vault(
        scene,
        "account",
        json!({"serviceAccount": {"name": SERVICE_ACCOUNT, "clientId": client(scene, 6)}}),
    )
    .await?;
    let federated = vec![scene.stage().federated(scene.name(), SERVICE_ACCOUNT)];
    emulator.add_application(Application { federated, ..application(scene, &vault_6, 6) });
    account(scene, json!({TENANT_ID_ANNOTATION: TENANT})).await?;

    for (number, vault) in [vault_1, vault_2, vault_3, vault_4, vault_5, vault_6].iter().enumerate() {
        let (name, own) = (format!("kind-{number}"), client(scene, u32::try_from(number)? + 1));
        let issued = scene.renew(&name).await?;
        sync(scene, &name, vault).await?;
        scene.holds(&name, &name, &issued).await.with_context(|| vault.clone())?;
        let calls = emulator.calls(&host(vault));
        ensure!(imports(&calls) == 1, "{vault}: {calls:?}");
        let carried = calls.iter().filter(|call| call.client_id.is_some()).count();
        ensure!(by(&calls, &own) == carried && carried > 0, "{vault}: not as {own} alone: {calls:?}");
    }
    Ok(())
}
