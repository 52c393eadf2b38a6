//! Managed identities of the node: whose token it is, what the endpoint refuses and how it starts, and that nothing of the
//! environment leads elsewhere.

use std::sync::Arc;
use std::time::Duration;

use keyvault_emulator::{AssignedIdentity, Effect, Fault, Operation, Permissions};
use keyvault_sync_core::reason::Reason;
use keyvault_sync_vault::{Identity, Landed, Transport, TransportSettings, VaultClient};

use crate::failures::check_text;
use crate::gate::Gate;
use crate::liar::{Liar, answer};
use crate::proofs::Wallet;
use crate::world::{TENANT, VAULT, VAULTS, World, host, name};

const SYSTEM: &str = "aaaaaaaa-0000-0000-0000-000000000001";
const USER: &str = "aaaaaaaa-0000-0000-0000-000000000002";

fn managed(client_id: Option<&str>) -> Identity {
    Identity::ManagedIdentity { client_id: client_id.map(str::to_owned) }
}

fn assign(world: &World, vault: &str, client_id: &str, is_system: bool) {
    let identity = AssignedIdentity { tenant_id: TENANT.into(), client_id: client_id.into(), is_system };
    world.emulator.assign_identity(identity);
    world.emulator.allow(vault, client_id, Permissions::certificates_officer());
}

#[tokio::test]
async fn the_nodes_identities_open_the_vaults_of_each_cloud_and_entra_id_is_not_asked() {
    for (vault, cloud) in VAULTS {
        let world = World::start().await;
        world.emulator.add_vault(vault, TENANT);
        assign(&world, vault, SYSTEM, true);
        assign(&world, vault, USER, false);
        for (client_id, expected) in [(None, SYSTEM), (Some(USER), USER)] {
            let before = world.calls(Operation::ManagedIdentityToken).len();
            let client = world.client_as(vault, &managed(client_id));
            for _ in 0..3 {
                assert_eq!(client.newest(&name("web")).await.unwrap(), None, "{client_id:?}");
            }
            let calls = world.calls(Operation::ManagedIdentityToken).split_off(before);
            let seen: Vec<_> = calls
                .iter()
                .map(|call| (call.client_id.as_deref().unwrap(), call.scope.as_deref().unwrap()))
                .collect();
            let resource = cloud.vault_scope().strip_suffix("/.default").unwrap();
            assert_eq!(seen, [(expected, resource)], "{client_id:?}");
        }
        assert_eq!(world.calls(Operation::Token).len(), 0);
    }
}

#[tokio::test]
async fn an_identity_that_is_not_assigned_is_told_with_what_to_assign_and_then_heals() {
    let world = World::start().await;
    for (client_id, says) in [
        (None, "the operator's node has no managed identity"),
        (Some(USER), "no managed identity with client id \"aaaaaaaa-0000-0000-0000-000000000002\""),
    ] {
        let client = world.client_as(VAULT, &managed(client_id));
        let error = client.newest(&name("web")).await.unwrap_err();
        let seen = (error.problem.reason, error.landed, error.status);
        assert_eq!(seen, (Reason::AuthenticationFailed, Landed::No, Some(400)), "{error}");
        for part in [says, "scale set of the node pool", "takes minutes"] {
            assert!(error.to_string().contains(part), "{part:?} in {error}");
        }
        check_text(&error, "Identity not found");
        // An assignment is not seen at once, and the endpoint is not asked all the time meanwhile.
        let before = world.calls(Operation::ManagedIdentityToken).len();
        assert_eq!(client.newest(&name("web")).await.unwrap_err().problem, error.problem);
        assert_eq!(world.calls(Operation::ManagedIdentityToken).len(), before);
        assign(&world, VAULT, client_id.unwrap_or(SYSTEM), client_id.is_none());
        tokio::time::sleep(error.retry_after.unwrap()).await;
        assert_eq!(client.newest(&name("web")).await.unwrap(), None);
    }
}

#[tokio::test]
async fn several_identities_without_a_name_are_told_to_be_told_apart() {
    let world = World::start().await;
    assign(&world, VAULT, USER, false);
    assign(&world, VAULT, "aaaaaaaa-0000-0000-0000-000000000003", false);
    let error = world.client_as(VAULT, &managed(None)).newest(&name("web")).await.unwrap_err();
    assert!(error.to_string().contains("set identity.managedIdentity.clientId"), "{error}");
}

#[tokio::test]
async fn an_endpoint_that_is_slow_to_start_is_waited_for_and_not_hammered() {
    let status = |status: u16| Effect::Status {
        status,
        code: "busy".into(),
        inner: None,
        message: None,
        retry_after: Some("60".into()),
    };
    for effect in [
        status(404),
        status(410),
        status(429),
        status(500),
        status(503),
        status(504),
        Effect::Reset,
        Effect::LoseAnswer,
    ] {
        let world = World::start().await;
        assign(&world, VAULT, SYSTEM, true);
        world.emulator.inject(Fault::new(effect.clone()).operation(Operation::ManagedIdentityToken));
        let client = world.client_as(VAULT, &managed(None));
        let names: Vec<_> = (0..4).map(|number| name(&format!("web-{number}"))).collect();
        for outcome in futures::future::join_all(names.iter().map(|name| client.newest(name))).await {
            let error = outcome.unwrap_err();
            let seen = (error.problem.reason, error.landed);
            assert_eq!(seen, (Reason::Unavailable, Landed::No), "{effect:?}: {error}");
            assert!(error.retry_after.is_some_and(|wait| !wait.is_zero()), "{effect:?}");
            assert!(error.to_string().contains("asked again"), "{effect:?}: {error}");
        }
        if matches!(effect, Effect::Status { .. }) {
            // Remembered for a minute, so that no pause of the machine is longer.
            assert_eq!(world.calls(Operation::ManagedIdentityToken).len(), 1, "{effect:?}");
        }
    }
}

#[tokio::test]
async fn no_endpoint_at_all_is_told_with_where_there_is_one() {
    let world = World::start().await;
    // A port that nobody listens on any more.
    let gone = Liar::start_plain(Arc::new(|_| None)).await.address;
    let client = client_with(&world, &format!("http://{gone}"));
    let error = client.newest(&name("web")).await.unwrap_err();
    assert_eq!((error.problem.reason, error.landed), (Reason::Unavailable, Landed::No), "{error}");
    assert!(error.to_string().contains("Azure's machines only"), "{error}");
}

fn client_with(world: &World, endpoint: &str) -> VaultClient {
    let settings = TransportSettings {
        emulator_address: Some(world.emulator.address()),
        ca_bundle_pem: Some(world.emulator.ca_pem().into()),
        imds_endpoint: Some(endpoint.to_owned()),
        ..TransportSettings::default()
    };
    let transport =
        Transport::new(&settings, Arc::new(Wallet::default()), Arc::new(Gate::default())).unwrap();
    VaultClient::new(host(VAULT), &managed(None), &transport).unwrap()
}

/// The program itself is run with the variables that send the SDK elsewhere, and asked to run this test again.
#[tokio::test]
async fn nothing_in_the_environment_leads_to_another_endpoint() {
    const INNER: &str = "KEYVAULT_SYNC_TEST_IN_ODD_ENVIRONMENT";
    if std::env::var_os(INNER).is_none() {
        let elsewhere = Liar::start_plain(Arc::new(|_| answer(200, "", "{}"))).await;
        let url = format!("http://{}", elsewhere.address);
        let mut again = tokio::process::Command::new(std::env::current_exe().unwrap());
        again.args(["--exact", "managed_identity::nothing_in_the_environment_leads_to_another_endpoint"]);
        for variable in [
            "HTTP_PROXY",
            "http_proxy",
            "ALL_PROXY",
            "IDENTITY_ENDPOINT",
            "IMDS_ENDPOINT",
            "MSI_ENDPOINT",
            "AZURE_POD_IDENTITY_AUTHORITY_HOST",
        ] {
            again.env(variable, &url);
        }
        again.env("IDENTITY_HEADER", "a-secret").env("MSI_SECRET", "a-secret");
        again.env("IDENTITY_SERVER_THUMBPRINT", "00").env_remove("NO_PROXY").env_remove("no_proxy");
        let ended = tokio::time::timeout(Duration::from_secs(120), again.env(INNER, "1").output()).await;
        let ended = ended.unwrap().unwrap();
        let said = String::from_utf8_lossy(&ended.stdout);
        assert!(ended.status.success() && said.contains("1 passed"), "{said}");
        assert_eq!(elsewhere.heard().len(), 0);
        return;
    }
    let world = World::start().await;
    assign(&world, VAULT, SYSTEM, true);
    assert_eq!(world.client_as(VAULT, &managed(None)).newest(&name("web")).await.unwrap(), None);
    assert_eq!(world.calls(Operation::ManagedIdentityToken).len(), 1);
}
