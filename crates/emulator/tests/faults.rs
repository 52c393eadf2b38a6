//! What faults, the journal and the handle promise.
//! Leaves right answers to certificates.rs and entra.rs.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::error::Error as _;
use std::time::Duration;

use common::{CLIENT, ENTRA, Key, PATIENCE, SECRET, TENANT, VAULT, World, make};
use keyvault_emulator::{Call, Effect, Emulator, Fault, Operation};
use reqwest::Method;
use serde_json::json;

fn import_request(world: &World, name: &str) -> reqwest::RequestBuilder {
    let url = format!("https://{VAULT}/certificates/{name}/import?api-version=7.4");
    let body = make(name, Key::P256, Key::P256, false).body();
    world.client.post(url).bearer_auth(world.token()).header("x-ms-client-request-id", "abc").json(&body)
}

/// Whether the connection was reset by the peer, as opposed to closed.
fn was_reset(error: &reqwest::Error) -> bool {
    let mut cause = error.source();
    while let Some(error) = cause {
        if error
            .downcast_ref::<std::io::Error>()
            .is_some_and(|io| io.kind() == std::io::ErrorKind::ConnectionReset)
        {
            return true;
        }
        cause = error.source();
    }
    false
}

#[tokio::test]
async fn refusals_come_with_status_codes_and_retry_after_as_asked_for_and_change_nothing() {
    let world = World::start().await;
    let rows = [
        (Effect::throttled(Some("7")), (429, "Throttled", ""), "7"),
        (Effect::throttled(None), (429, "Throttled", ""), ""),
        (Effect::status(500, "InternalServerError"), (500, "InternalServerError", ""), ""),
        (Effect::forbidden("ForbiddenByFirewall"), (403, "Forbidden", "ForbiddenByFirewall"), ""),
        (Effect::forbidden("ForbiddenByPolicy"), (403, "Forbidden", "ForbiddenByPolicy"), ""),
        (Effect::forbidden("ForbiddenByConnection"), (403, "Forbidden", "ForbiddenByConnection"), ""),
    ];
    for (effect, expected, retry_after) in rows {
        world.emulator.inject(Fault::new(effect).operation(Operation::Import).times(1));
        let answer = common::Answer::of(import_request(&world, "web").send().await.unwrap()).await;
        assert_eq!(answer.refusal(), expected);
        assert_eq!(answer.header("retry-after"), retry_after);
        assert!(world.emulator.certificate(VAULT, "web").is_none());
    }
    // Each was to hit once.
    assert_eq!(import_request(&world, "web").send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_fault_hits_what_it_names_as_often_as_it_says_and_never_the_challenge() {
    let world = World::start().await;
    let id = world.emulator.inject(
        Fault::new(Effect::status(503, "Down"))
            .host(VAULT)
            .operation(Operation::GetCertificate)
            .name("WEB")
            .times(2),
    );
    let unauthenticated = format!("https://{VAULT}/certificates/web?api-version=7.4");
    assert_eq!(world.request(Method::GET, &unauthenticated, None, None).await.status, 401);
    let rows = [
        ("certificates/other", 404),
        ("certificates", 200),
        ("certificates/web", 503),
        ("certificates/web/x", 503),
        ("certificates/web", 404),
    ];
    for (path, status) in rows {
        assert_eq!(world.get(path).await.status.as_u16(), status, "{path}");
    }
    assert_eq!(world.emulator.faults()[0].1.times, Some(0));
    assert!(world.emulator.clear_fault(id) && !world.emulator.clear_fault(id));
}

#[tokio::test]
async fn a_reset_leaves_nothing_and_a_lost_answer_leaves_a_version() {
    for (http1, effect, committed) in [
        (true, Effect::Reset, false),
        (false, Effect::Reset, false),
        (true, Effect::LoseAnswer, true),
        (false, Effect::LoseAnswer, true),
    ] {
        let world = World::start().await;
        let world = World { client: common::client(&world.emulator, http1), ..world };
        world.emulator.inject(Fault::new(effect.clone()).operation(Operation::Import).times(1));
        let error = import_request(&world, "web").send().await.unwrap_err();
        assert!(was_reset(&error), "{effect:?}: {error:?}");
        assert_eq!(world.emulator.certificate(VAULT, "web").is_some(), committed, "{effect:?}");
        let ended = |calls: &[keyvault_emulator::Call]| calls.iter().all(|call| call.ended_us.is_some());
        assert!(world.emulator.wait_for(PATIENCE, ended).await);
        let call = world.emulator.calls(VAULT).pop().unwrap();
        assert_eq!((call.committed, call.answered), (committed, false));
        assert_eq!(import_request(&world, "web").send().await.unwrap().status(), 200);
    }
}

#[tokio::test]
async fn a_call_that_hangs_is_carried_out_when_released_also_if_nobody_waits() {
    let world = World::start().await;
    let id = world.emulator.inject(Fault::new(Effect::Hang).operation(Operation::Import));
    let waiting = tokio::spawn(import_request(&world, "web").send());
    let has_arrived = |calls: &[Call]| calls.iter().any(|call| call.operation == Operation::Import);
    assert!(world.emulator.wait_for(PATIENCE, has_arrived).await);
    waiting.abort();
    assert!(waiting.await.unwrap_err().is_cancelled());
    assert!(world.emulator.certificate(VAULT, "web").is_none());
    assert_eq!(world.emulator.calls(VAULT).last().unwrap().ended_us, None);
    world.emulator.clear_fault(id);
    assert!(world.emulator.wait_for(PATIENCE, |calls| calls.iter().any(|call| call.committed)).await);
    assert!(world.emulator.certificate(VAULT, "web").is_some());

    let id = world.emulator.inject(Fault::new(Effect::HangAfter).operation(Operation::Import));
    let waiting = tokio::spawn(import_request(&world, "late").send());
    let is_committed =
        |calls: &[Call]| calls.iter().any(|call| call.name.as_deref() == Some("late") && call.committed);
    assert!(world.emulator.wait_for(PATIENCE, is_committed).await);
    assert!(!waiting.is_finished(), "the answer was not kept back");
    world.emulator.clear_fault(id);
    assert_eq!(waiting.await.unwrap().unwrap().status(), 200);
}

#[tokio::test]
async fn a_delay_is_at_least_as_long_as_asked_for() {
    let world = World::start().await;
    let delay = Duration::from_millis(200);
    for effect in [Effect::delay_before(delay), Effect::delay_after(delay)] {
        world.emulator.inject(Fault::new(effect.clone()).operation(Operation::Import).times(1));
        assert_eq!(import_request(&world, "web").send().await.unwrap().status(), 200);
        let call = world.emulator.calls(VAULT).pop().unwrap();
        let took = call.ended_us.unwrap() - call.began_us;
        assert!(took >= 200_000, "{effect:?} took {took} µs");
    }
}

#[tokio::test]
async fn bodies_can_drip_and_can_be_huge() {
    let world = World::start().await;
    world.emulator.inject(Fault::new(Effect::SlowDrip { bytes: 10, milliseconds: 5 }).times(1));
    assert!(world.get("certificates").await.ok()["value"].is_array());
    world.emulator.inject(Fault::new(Effect::HugeBody { bytes: 3_000_000 }).times(1));
    let url = format!("https://{VAULT}/certificates?api-version=7.4");
    let answer = world.client.get(url).bearer_auth(world.token()).send().await.unwrap();
    assert_eq!(answer.content_length(), None);
    assert!(answer.bytes().await.unwrap().len() > 3_000_000);
}

#[tokio::test]
async fn entra_id_fails_in_its_own_words() {
    let world = World::start().await;
    world.emulator.inject(Fault::new(Effect::status(503, "temporarily_unavailable")).host(ENTRA).times(1));
    let form = [
        ("grant_type", "client_credentials"),
        ("client_id", CLIENT),
        ("client_secret", SECRET),
        ("scope", "https://vault.azure.net/.default"),
    ];
    let answer = world.token_request(TENANT, &form).await;
    assert_eq!((answer.status.as_u16(), &answer.body["error"]), (503, &json!("temporarily_unavailable")));
    world.token_request(TENANT, &form).await.ok();
}

#[tokio::test]
async fn the_journal_tells_of_each_call_what_it_was_and_what_became_of_it() {
    let world = World::start().await;
    assert_eq!(import_request(&world, "Web").send().await.unwrap().status(), 200);
    world.get("certificates/none/0123").await;
    let calls = world.emulator.calls(VAULT);
    let [import, get] = calls.as_slice() else { panic!("two calls were made: {calls:?}") };
    assert_eq!(
        (import.operation, import.name.as_deref(), import.status),
        (Operation::Import, Some("Web"), Some(200))
    );
    assert_eq!((import.committed, import.answered, import.method.as_str()), (true, true, "POST"));
    assert_eq!(import.client_request_id.as_deref(), Some("abc"));
    assert_eq!(import.client_id.as_deref(), Some(CLIENT));
    assert!(import.ended_us >= Some(import.began_us) && import.began_unix_us > 1_700_000_000_000_000);
    assert_eq!(
        (get.operation, get.version.as_deref(), get.status),
        (Operation::GetCertificate, Some("0123"), Some(404))
    );
    assert_eq!((get.code.as_deref(), get.committed), (Some("CertificateNotFound"), false));
    assert!(get.number > import.number && get.began_us >= import.began_us);
    let text = format!("{calls:?}");
    assert!(!text.contains(&world.token()) && !text.contains("password"));
}

#[tokio::test]
async fn waiting_ends_with_the_call_waited_for_or_with_the_deadline() {
    let world = World::start().await;
    assert!(!world.emulator.wait_for(Duration::from_millis(50), |calls| !calls.is_empty()).await);
    let waiting =
        world.emulator.wait_for(PATIENCE, |calls| calls.iter().any(|call| call.status == Some(200)));
    let (seen, _) = tokio::join!(waiting, world.get("certificates"));
    assert!(seen);
}

#[tokio::test]
async fn it_listens_on_loopback_only() {
    for address in ["0.0.0.0:0", "[::]:0", "192.0.2.1:0"] {
        let error = Emulator::start(address.parse().unwrap()).await.unwrap_err();
        assert!(error.to_string().contains("loopback"), "{error}");
    }
    let emulator = Emulator::start("127.0.0.2:0".parse().unwrap()).await.unwrap();
    assert!(emulator.start_admin("0.0.0.0:0".parse().unwrap()).await.is_err());
}

#[tokio::test]
async fn it_stops_when_told_and_when_the_last_handle_is_gone() {
    for told in [true, false] {
        let world = World::start().await;
        world.get("certificates").await.ok();
        let address = world.emulator.address();
        if told {
            world.emulator.clone().stop().await
        } else {
            drop(world)
        }
        let closed = async {
            while let Ok(stream) = tokio::net::TcpStream::connect(address).await {
                drop(stream);
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, closed).await.unwrap();
    }
}
