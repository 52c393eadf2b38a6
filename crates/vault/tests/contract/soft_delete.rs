//! Deletion, what is left of a certificate after it, and recovery: at once, and as slowly as Key Vault takes it.

use keyvault_emulator::State;
use keyvault_sync_core::reason::Reason;
use keyvault_sync_vault::{Landed, VaultError};

use crate::world::{VAULT, World, import, name, now, tags};

fn check(outcome: Result<(), VaultError>, reason: Reason, says: &str) {
    let error = outcome.expect_err(says);
    assert_eq!((error.problem.reason, error.landed), (reason, Landed::No), "{error}");
    assert!(error.to_string().contains(says), "{says:?} in {error}");
}

#[tokio::test]
async fn a_deleted_certificate_is_told_apart_and_comes_back_with_every_version() {
    let world = World::start().await;
    let web = name("web");
    let first = import(&world.client, "web").await.unwrap();
    let second = import(&world.client, "web").await.unwrap();
    assert_eq!(world.client.deleted(&web).await.unwrap(), None, "it is there");

    world.client.delete(&web).await.unwrap();
    assert_eq!(world.emulator.certificate(VAULT, "web").unwrap().state, State::SoftDeleted);
    assert_eq!(world.client.newest(&web).await.unwrap(), None);
    let deleted = world.client.deleted(&name("WEB")).await.unwrap().unwrap();
    assert_eq!(deleted.newest, second);
    assert!(deleted.scheduled_purge.unwrap() > now());
    assert!(!deleted.is_purge_protected);

    world.client.recover(&web).await.unwrap();
    assert_eq!(world.client.deleted(&web).await.unwrap(), None);
    assert_eq!(world.client.newest(&web).await.unwrap().as_ref(), Some(&second));
    assert_eq!(world.client.version(&web, &first.version).await.unwrap(), Some(first));
}

#[tokio::test]
async fn a_vault_with_purge_protection_says_so() {
    let world = World::start().await;
    world.emulator.set_purge_protection(VAULT, true);
    import(&world.client, "web").await.unwrap();
    world.client.delete(&name("web")).await.unwrap();
    assert!(world.client.deleted(&name("web")).await.unwrap().unwrap().is_purge_protected);
}

#[tokio::test]
async fn what_is_not_there_cannot_be_deleted_recovered_or_adopted_and_is_looked_at_again() {
    let world = World::start().await;
    import(&world.client, "live").await.unwrap();
    import(&world.client, "gone").await.unwrap();
    world.client.delete(&name("gone")).await.unwrap();
    assert_eq!(world.client.deleted(&name("absent")).await.unwrap(), None);
    for text in ["absent", "gone"] {
        check(world.client.delete(&name(text)).await, Reason::Unavailable, "vanished");
        let version = "0123456789abcdef0123456789abcdef";
        let adopted = world.client.adopt(&name(text), version, &tags(&[])).await;
        check(adopted.map(drop), Reason::Unavailable, "vanished");
    }
    for text in ["absent", "live"] {
        check(world.client.recover(&name(text)).await, Reason::Unavailable, "no soft-deleted one");
    }
}

#[tokio::test]
async fn a_deletion_and_a_recovery_that_take_their_time_are_seen_as_such() {
    let world = World::start().await;
    let (client, web) = (&world.client, name("web"));
    let made = import(client, "web").await.unwrap();
    world.emulator.hold_deletions(VAULT);
    world.emulator.hold_recoveries(VAULT);

    client.delete(&web).await.unwrap();
    assert_eq!(client.newest(&web).await.unwrap(), None);
    assert_eq!(client.deleted(&web).await.unwrap(), None, "not yet");
    for outcome in
        [client.delete(&web).await, client.recover(&web).await, import(client, "web").await.map(drop)]
    {
        check(outcome, Reason::BeingDeleted, "deleting");
    }
    assert!(world.emulator.finish_deletion(VAULT, "web"));
    assert_eq!(client.deleted(&web).await.unwrap().unwrap().newest, made);
    check(import(client, "web").await.map(drop), Reason::SoftDeleted, "recover it, or purge it");

    client.recover(&web).await.unwrap();
    assert_eq!(client.newest(&web).await.unwrap(), None, "not yet");
    assert_eq!(client.deleted(&web).await.unwrap(), None);
    for outcome in
        [client.delete(&web).await, client.recover(&web).await, import(client, "web").await.map(drop)]
    {
        check(outcome, Reason::Recovering, "recovering");
    }
    assert!(world.emulator.finish_recovery(VAULT, "web"));
    assert_eq!(client.newest(&web).await.unwrap(), Some(made));
}

#[tokio::test]
async fn a_certificate_whose_creation_is_pending_is_told_as_such_also_when_it_is_deleted() {
    let world = World::start().await;
    assert!(world.emulator.begin_operation(VAULT, "web"));
    check(world.client.newest(&name("web")).await.map(drop), Reason::OperationPending, "pending");
    check(import(&world.client, "web").await.map(drop), Reason::OperationPending, "pending");

    world.client.delete(&name("web")).await.unwrap();
    assert_eq!(world.client.newest(&name("web")).await.unwrap(), None);
    check(world.client.deleted(&name("web")).await.map(drop), Reason::SoftDeleted, "never completed");
}
