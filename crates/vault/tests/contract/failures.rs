//! What a vault and an Entra ID that work as they should can refuse, lose or delay; each with its exact outcome.

use std::time::Duration;

use keyvault_emulator::{Effect, Fault, Operation, Permissions, State};
use keyvault_sync_core::reason::{Fault as Help, Reason};
use keyvault_sync_vault::{Landed, VaultError};

use crate::world::{AUDIENCE, AUTHORITY, CLIENT, ISSUER, SUBJECT, TENANT, VAULT, World, import, name, tags};

/// Nothing secret, nothing raw, and the object named.
pub(crate) fn check_text(error: &VaultError, secret: &str) {
    let shown = format!("{error} {error:?}");
    for banned in [secret, "eyJ", "Caller:", "DecisionReason", "Trace ID", "{"] {
        let is_debug_brace = banned == "{";
        let text = if is_debug_brace { error.to_string() } else { shown.clone() };
        assert!(!text.contains(banned), "{banned:?} in {shown}");
    }
    assert!(error.to_string().contains(VAULT), "{error} does not name the vault");
}

fn status(status: u16, code: &str, retry_after: Option<&str>) -> Effect {
    Effect::Status {
        status,
        code: code.into(),
        inner: None,
        message: None,
        retry_after: retry_after.map(str::to_owned),
    }
}

#[tokio::test]
async fn every_failure_of_a_vault_has_its_reason_and_is_met_with_one_request() {
    use Help::{Blocked, Transient};
    use Landed::{No, Unknown};
    let world = World::start().await;
    let secret = world.accounts.good_token();
    let made = import(&world.client, "web").await.unwrap();
    // Effect, reason, who can help, whether a write landed, seconds to wait.
    for (effect, reason, help, landed, wait) in [
        (Effect::forbidden("ForbiddenByRbac"), Reason::Forbidden, Blocked, No, None),
        (Effect::forbidden("ForbiddenByPolicy"), Reason::Forbidden, Blocked, No, None),
        (Effect::forbidden("ForbiddenByFirewall"), Reason::FirewallBlocked, Blocked, No, None),
        (Effect::forbidden("ForbiddenByConnection"), Reason::FirewallBlocked, Blocked, No, None),
        (status(400, "BadParameter", None), Reason::VaultRejected, Blocked, No, None),
        (status(409, "Forbidden", None), Reason::OperationPending, Transient, No, None),
        (Effect::throttled(None), Reason::Throttled, Transient, No, None),
        (Effect::throttled(Some("7")), Reason::Throttled, Transient, No, Some(7)),
        (Effect::throttled(Some("3600")), Reason::Throttled, Transient, No, Some(300)),
        (status(503, "ServiceUnavailable", Some("2")), Reason::Unavailable, Transient, Unknown, Some(2)),
        (status(500, "InternalServerError", None), Reason::Unavailable, Transient, Unknown, None),
        (status(408, "Timeout", None), Reason::Unavailable, Transient, Unknown, None),
        (Effect::Reset, Reason::Unavailable, Transient, Unknown, None),
        (Effect::LoseAnswer, Reason::Unavailable, Transient, Unknown, None),
        (Effect::HugeBody { bytes: 2 * 1024 * 1024 }, Reason::VaultUnreachable, Blocked, Unknown, None),
    ] {
        let wait = wait.map(Duration::from_secs);
        for (operation, is_write) in [
            (Operation::GetCertificate, false),
            (Operation::GetDeletedCertificate, false),
            (Operation::ListCertificates, false),
            (Operation::Import, true),
            (Operation::UpdateCertificate, true),
            (Operation::DeleteCertificate, true),
            (Operation::RecoverCertificate, true),
        ] {
            let row = format!("{operation}: {effect:?}");
            let before = world.emulator.journal().len();
            let fault = world.emulator.inject(Fault::new(effect.clone()).operation(operation).host(VAULT));
            let (client, web) = (&world.client, name("web"));
            let outcome = match operation {
                Operation::GetCertificate => client.newest(&web).await.map(drop),
                Operation::GetDeletedCertificate => client.deleted(&web).await.map(drop),
                Operation::ListCertificates => client.list(9).await.map(drop),
                Operation::Import => import(client, "web").await.map(drop),
                Operation::UpdateCertificate => {
                    client.set_tags(&web, &made.version, &tags(&[("a", "b")])).await.map(drop)
                }
                Operation::DeleteCertificate => client.delete(&web).await,
                _ => client.recover(&web).await,
            };
            let error = outcome.expect_err(&row);
            world.emulator.clear_fault(fault);
            let expected_landed = if is_write { landed } else { No };
            let seen = (error.problem.reason, error.problem.reason.fault(), error.landed, error.retry_after);
            assert_eq!(seen, (reason, Some(help), expected_landed, wait), "{row}: {error}");
            check_text(&error, &secret);
            let calls: Vec<_> = world.emulator.journal().split_off(before);
            assert_eq!(calls.len(), 1, "{row}: one attempt and no more: {calls:?}");
        }
    }
}

#[tokio::test]
async fn a_write_whose_answer_was_lost_may_be_there_and_a_read_finds_it() {
    let world = World::start().await;
    world.warm().await;
    world.emulator.inject(Fault::new(Effect::LoseAnswer).operation(Operation::Import).times(1));
    let error = import(&world.client, "web").await.unwrap_err();
    assert_eq!(error.landed, Landed::Unknown);
    assert!(world.client.newest(&name("web")).await.unwrap().is_some());
    assert_eq!(world.emulator.certificate(VAULT, "web").unwrap().versions.len(), 1);
}

#[tokio::test]
async fn every_state_of_a_name_has_its_reason() {
    let world = World::start().await;
    for (text, state, reason) in [
        ("soft-deleted", State::SoftDeleted, Reason::SoftDeleted),
        ("being-deleted", State::BeingDeleted, Reason::BeingDeleted),
        ("being-recovered", State::BeingRecovered, Reason::Recovering),
        ("pending", State::PendingOperation, Reason::OperationPending),
    ] {
        import(&world.client, text).await.unwrap();
        assert!(world.emulator.set_state(VAULT, text, state));
        let error = import(&world.client, text).await.unwrap_err();
        assert_eq!((error.problem.reason, error.landed), (reason, Landed::No), "{error}");
    }
    world.emulator.put_plain_secret(VAULT, "plain");
    let error = import(&world.client, "plain").await.unwrap_err();
    assert_eq!((error.problem.reason, error.landed), (Reason::NameTakenByKeyOrSecret, Landed::No), "{error}");
    let gone = "0123456789abcdef0123456789abcdef";
    let error = world.client.set_tags(&name("absent"), gone, &tags(&[])).await.unwrap_err();
    assert_eq!((error.problem.reason, error.landed), (Reason::Unavailable, Landed::No), "{error}");
}

#[tokio::test]
async fn a_missing_role_and_a_vault_of_another_tenant_are_told_by_name() {
    let world = World::start().await;
    world.warm().await;
    world.emulator.deny(VAULT, CLIENT);
    let error = import(&world.client, "web").await.unwrap_err();
    assert_eq!((error.problem.reason, error.code.as_deref()), (Reason::Forbidden, Some("ForbiddenByRbac")));
    assert!(error.to_string().contains("\"Key Vault Certificates Officer\""), "{error}");
    check_text(&error, &world.accounts.good_token());

    let foreign = "fabrikam.vault.azure.net";
    world.emulator.add_vault(foreign, "99999999-9999-9999-9999-999999999999");
    let client = world.client(foreign, TENANT, CLIENT);
    let before = world.calls(Operation::Token).len();
    for _ in 0..3 {
        let error = client.newest(&name("web")).await.unwrap_err();
        let seen = (error.problem.reason, error.status, error.code.as_deref());
        assert_eq!(seen, (Reason::AuthenticationFailed, Some(401), Some("AKV10032")), "{error}");
        assert!(error.to_string().contains("another tenant"), "{error}");
    }
    let asked = world.calls(Operation::Token).len() - before;
    assert_eq!(asked, 0, "a vault that refuses every token must not cause exchanges");
}

#[tokio::test]
async fn every_failure_of_a_token_says_what_to_change() {
    let good = |world: &World| world.accounts.good_token();
    type TokenOf = fn(&World) -> String;
    let rows: Vec<(&str, &str, TokenOf, &str, Vec<&str>)> = vec![
        (TENANT, "33333333-3333-3333-3333-333333333333", good, "AADSTS700016", vec!["clientId"]),
        ("44444444-4444-4444-4444-444444444444", CLIENT, good, "AADSTS90002", vec!["no tenant"]),
        (
            TENANT,
            CLIENT,
            |world| world.accounts.token("https://other.example.test", SUBJECT, AUDIENCE, 3600),
            "AADSTS700211",
            vec!["issuer \"https://other.example.test\""],
        ),
        (
            TENANT,
            CLIENT,
            |world| world.accounts.token(ISSUER, "system:serviceaccount:a:b", AUDIENCE, 3600),
            "AADSTS700213",
            vec!["subject \"system:serviceaccount:a:b\"", ISSUER, AUDIENCE],
        ),
        (
            TENANT,
            CLIENT,
            |world| world.accounts.token(ISSUER, SUBJECT, "other", 3600),
            "AADSTS700212",
            vec!["audience \"other\""],
        ),
        (
            TENANT,
            CLIENT,
            |world| world.accounts.token(ISSUER, SUBJECT, AUDIENCE, -3600),
            "AADSTS700024",
            vec!["has expired"],
        ),
        (TENANT, CLIENT, |_| "no token at all".into(), "AADSTS50027", vec!["token file"]),
        (TENANT, CLIENT, |_| " \n".into(), "", vec!["it is empty", "token-"]),
        (TENANT, CLIENT, |_| "x".repeat(70_000), "", vec!["larger than"]),
        ("no/tenant", CLIENT, good, "", vec!["tenantId"]),
    ];
    for (tenant, client, token, code, says) in rows {
        let world = World::start().await;
        let token = token(&world);
        world.token_file.write(&token);
        let error = world.client(VAULT, tenant, client).newest(&name("web")).await.unwrap_err();
        let seen = (error.problem.reason, error.landed, error.code.as_deref().unwrap_or_default());
        assert_eq!(seen, (Reason::AuthenticationFailed, Landed::No, code), "{error}");
        for part in says.iter().chain([&code]) {
            assert!(error.to_string().contains(part), "{part:?} in {error}");
        }
        check_text(&error, if token.trim().is_empty() { "no secret" } else { &token });
    }
}

#[tokio::test]
async fn a_missing_token_file_is_named_and_its_return_heals() {
    let world = World::start().await;
    std::fs::remove_file(&world.token_file.0).unwrap();
    let error = world.client.newest(&name("web")).await.unwrap_err();
    assert_eq!(error.problem.reason, Reason::AuthenticationFailed);
    let file = world.token_file.0.file_name().unwrap().to_str().unwrap();
    assert!(error.to_string().contains(file), "{error}");
    assert_eq!(world.calls(Operation::Token).len(), 0);

    world.token_file.write(&world.accounts.good_token());
    tokio::time::sleep(error.retry_after.unwrap()).await;
    assert_eq!(world.client.newest(&name("web")).await.unwrap(), None);
}

#[tokio::test]
async fn a_failed_exchange_is_remembered_and_shared() {
    // Remembered for a minute, so that no pause of the machine is longer.
    for (effect, reason) in [
        (status(503, "temporarily_unavailable", Some("60")), Reason::Unavailable),
        (status(429, "slow_down", Some("60")), Reason::Unavailable),
        (status(400, "unauthorized_client", Some("60")), Reason::AuthenticationFailed),
    ] {
        let world = World::start().await;
        world.emulator.inject(Fault::new(effect).operation(Operation::Token));
        let names: Vec<_> = (0..6).map(|number| name(&format!("web-{number}"))).collect();
        for outcome in futures::future::join_all(names.iter().map(|name| world.client.newest(name))).await {
            let error = outcome.unwrap_err();
            assert_eq!((error.problem.reason, error.landed), (reason, Landed::No), "{error}");
            assert!(error.retry_after.unwrap() <= Duration::from_secs(60), "{error:?}");
        }
        assert_eq!(world.calls(Operation::Token).len(), 1, "{reason}");
    }
}

#[tokio::test]
async fn nothing_waits_longer_than_its_limit() {
    let (reads, writes, tokens, drips, lists, deletions) = tokio::join!(
        World::start(),
        World::start(),
        World::start(),
        World::start(),
        World::start(),
        World::start()
    );
    import(&deletions.client, "web").await.unwrap();
    for world in [&reads, &writes, &drips, &lists] {
        world.warm().await;
    }
    reads.emulator.inject(Fault::new(Effect::Hang).operation(Operation::GetCertificate));
    writes.emulator.inject(Fault::new(Effect::HangAfter).operation(Operation::Import));
    tokens.emulator.inject(Fault::new(Effect::Hang).host(AUTHORITY));
    lists.emulator.inject(Fault::new(Effect::Hang).operation(Operation::ListCertificates));
    deletions.emulator.inject(Fault::new(Effect::HangAfter).operation(Operation::DeleteCertificate));
    let drip = Effect::SlowDrip { bytes: 1, milliseconds: 200 };
    drips.emulator.inject(Fault::new(drip).operation(Operation::Import));

    let begun = tokio::time::Instant::now();
    let web = name("web");
    let (read, write, token, drip, list, deletion) = tokio::join!(
        reads.client.newest(&web),
        import(&writes.client, "web"),
        import(&tokens.client, "web"),
        import(&drips.client, "web"),
        lists.client.list(9),
        deletions.client.delete(&web),
    );
    // Far above the limits, far below for ever.
    assert!(begun.elapsed() < Duration::from_secs(120));
    for (outcome, landed) in [
        (read.map(|_| ()), Landed::No),
        (write.map(|_| ()), Landed::Unknown),
        (token.map(|_| ()), Landed::No),
        (drip.map(|_| ()), Landed::Unknown),
        (list.map(|_| ()), Landed::No),
        (deletion, Landed::Unknown),
    ] {
        let error = outcome.unwrap_err();
        assert_eq!((error.problem.reason, error.landed), (Reason::Unavailable, landed), "{error}");
    }
    assert_eq!(writes.emulator.certificate(VAULT, "web").unwrap().versions.len(), 1);
    assert_eq!(deletions.emulator.certificate(VAULT, "web").unwrap().state, State::SoftDeleted);
    for world in [&reads, &writes, &tokens, &drips, &lists, &deletions] {
        world.emulator.clear_faults();
    }
}

#[tokio::test]
async fn a_vault_that_is_not_there_is_unreachable() {
    let world = World::start().await;
    world.warm().await;
    world.emulator.clone().stop().await;
    let error = import(&world.client, "web").await.unwrap_err();
    assert_eq!((error.problem.reason, error.landed), (Reason::VaultUnreachable, Landed::No), "{error}");
}

#[tokio::test]
async fn each_missing_permission_is_named_and_keeps_nothing_else_from_working() {
    let world = World::start().await;
    let (client, web) = (&world.client, name("web"));
    let made = import(client, "web").await.unwrap();
    let all = Permissions::certificates_officer();
    for (permissions, action) in [
        (Permissions { certificates_get: false, ..all }, "certificates/read"),
        (Permissions { certificates_list: false, ..all }, "certificates/read"),
        (Permissions { certificates_import: false, ..all }, "certificates/import/action"),
        (Permissions { certificates_update: false, ..all }, "certificates/update/action"),
        (Permissions { certificates_delete: false, ..all }, "certificates/delete"),
        (Permissions { certificates_recover: false, ..all }, "certificates/recover/action"),
    ] {
        world.emulator.allow(VAULT, CLIENT, permissions);
        let may = |is_allowed: bool, outcome: Result<(), VaultError>| {
            let error = match outcome {
                Ok(()) => return assert!(is_allowed, "{permissions:?}"),
                Err(error) => error,
            };
            let seen = (is_allowed, error.problem.reason, error.landed);
            assert_eq!(seen, (false, Reason::Forbidden, Landed::No), "{permissions:?}: {error}");
            let named = format!("the data action Microsoft.KeyVault/vaults/{action}:");
            assert!(error.to_string().contains(&named), "{named} in {error}");
        };
        let no_tags = tags(&[]);
        may(permissions.certificates_get, client.newest(&web).await.map(drop));
        may(permissions.certificates_get, client.deleted(&web).await.map(drop));
        may(permissions.certificates_list, client.list(1).await.map(drop));
        may(permissions.certificates_import, import(client, "other").await.map(drop));
        may(permissions.certificates_update, client.set_tags(&web, &made.version, &no_tags).await.map(drop));
        may(permissions.certificates_update, client.adopt(&web, &made.version, &no_tags).await.map(drop));
        may(permissions.certificates_delete, client.delete(&web).await);
        world.emulator.set_state(VAULT, "web", State::SoftDeleted);
        may(permissions.certificates_recover, client.recover(&web).await);
        world.emulator.set_state(VAULT, "web", State::Normal);
    }
}

#[tokio::test]
async fn a_role_given_back_heals_without_a_new_client() {
    let world = World::start().await;
    world.emulator.deny(VAULT, CLIENT);
    assert_eq!(world.client.newest(&name("web")).await.unwrap_err().problem.reason, Reason::Forbidden);
    world.emulator.allow(VAULT, CLIENT, Permissions::certificates_officer());
    assert_eq!(world.client.newest(&name("web")).await.unwrap(), None);
}
