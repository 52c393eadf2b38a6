//! The list of all certificates of a vault, page by page, and its bounds.

use std::collections::BTreeSet;
use std::time::Duration;

use keyvault_emulator::{Effect, Fault, Operation, Permissions};
use keyvault_sync_core::facts::ListedFacts;
use keyvault_sync_core::reason::Reason;
use keyvault_sync_vault::{Landed, Listing};

use crate::world::{CLIENT, VAULT, World, import, name, tags};

/// Fills three pages: 25, 25 and 1. With certificates whose creation is pending, since those take no time to make.
fn fill(world: &World) -> BTreeSet<String> {
    let names: BTreeSet<_> = (0..51).map(|number| format!("web-{number:02}")).collect();
    for text in &names {
        assert!(world.emulator.begin_operation(VAULT, text));
    }
    names
}

#[tokio::test]
async fn every_page_is_one_request_and_there_are_no_more_of_them_than_allowed() {
    let world = World::start().await;
    let names = fill(&world);
    world.warm().await;
    for (pages_max, requests, is_whole) in
        [(0, 0, false), (1, 1, false), (2, 2, false), (3, 3, true), (9, 3, true)]
    {
        let before = world.emulator.journal().len();
        let listing = world.client.list(pages_max);
        let _: &dyn Send = &listing;
        match listing.await.unwrap() {
            Listing::Whole { certificates, pages } => {
                assert!(is_whole, "{pages_max}");
                assert_eq!(pages, 3);
                let listed: Vec<_> = certificates.into_iter().map(|row| row.name).collect();
                assert_eq!(listed.len(), names.len());
                assert_eq!(listed.into_iter().collect::<BTreeSet<_>>(), names);
            }
            Listing::TooLong => assert!(!is_whole, "{pages_max}"),
        }
        let calls = world.emulator.journal().split_off(before);
        assert_eq!(calls.len(), requests, "{pages_max}: {calls:?}");
        assert!(calls.iter().all(|call| call.operation == Operation::ListCertificates), "{calls:?}");
    }
}

#[tokio::test]
async fn a_row_is_what_the_newest_version_is() {
    let world = World::start().await;
    assert_eq!(world.client.list(1).await.unwrap(), Listing::Whole { certificates: vec![], pages: 1 });

    import(&world.client, "Web").await.unwrap();
    let newest = import(&world.client, "Web").await.unwrap();
    let bare = import(&world.client, "bare").await.unwrap();
    assert!(world.emulator.set_tags(VAULT, "bare", None, tags(&[])));
    assert!(world.emulator.set_enabled(VAULT, "bare", None, false));
    import(&world.client, "deleted").await.unwrap();
    world.client.delete(&name("deleted")).await.unwrap();
    assert!(world.emulator.begin_operation(VAULT, "pending"));

    let row =
        |name: &str, thumbprint, enabled, tags| ListedFacts { name: name.into(), thumbprint, enabled, tags };
    let certificates = vec![
        row("bare", Some(bare.thumbprint), false, tags(&[])),
        row("pending", None, false, tags(&[])),
        row("Web", Some(newest.thumbprint), true, newest.tags),
    ];
    assert_eq!(world.client.list(1).await.unwrap(), Listing::Whole { certificates, pages: 1 });
}

#[tokio::test]
async fn an_identity_that_may_not_list_is_told_so_and_may_still_read() {
    let world = World::start().await;
    import(&world.client, "web").await.unwrap();
    let permissions = Permissions { certificates_list: false, ..Permissions::certificates_officer() };
    world.emulator.allow(VAULT, CLIENT, permissions);
    let error = world.client.list(9).await.unwrap_err();
    assert_eq!((error.problem.reason, error.landed), (Reason::Forbidden, Landed::No), "{error}");
    for part in ["listing the certificates of vault contoso.vault.azure.net", "vaults/certificates/read"] {
        assert!(error.to_string().contains(part), "{part:?} in {error}");
    }
    assert!(world.client.newest(&name("web")).await.unwrap().is_some());
}

#[tokio::test]
async fn a_page_that_fails_fails_the_list() {
    let world = World::start().await;
    fill(&world);
    world.warm().await;
    for (effect, reason) in [
        (Effect::throttled(Some("7")), Reason::Throttled),
        (Effect::status(503, "ServiceUnavailable"), Reason::Unavailable),
        (Effect::LoseAnswer, Reason::Unavailable),
        (Effect::forbidden("ForbiddenByFirewall"), Reason::FirewallBlocked),
    ] {
        // Of several faults the oldest acts: the first page suffers nothing, the second this effect.
        let harmless = Effect::delay_before(Duration::ZERO);
        for fault in [Fault::new(harmless).times(1), Fault::new(effect.clone())] {
            world.emulator.inject(fault.operation(Operation::ListCertificates));
        }
        let before = world.emulator.journal().len();
        let error = world.client.list(9).await.unwrap_err();
        world.emulator.clear_faults();
        assert_eq!(world.emulator.journal().len() - before, 2, "{effect:?}: one attempt each and no more");
        assert_eq!((error.problem.reason, error.landed), (reason, Landed::No), "{effect:?}: {error}");
        assert!(error.to_string().starts_with("listing the certificates of vault "), "{error}");
    }
}
