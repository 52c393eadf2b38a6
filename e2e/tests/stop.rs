//! The operator told to stop at every moment: what was begun is finished, nothing new is begun, and who comes after goes on without a
//! version too many. One after the other: each test has operators of its own.

use anyhow::{Context, ensure};
use keyvault_emulator::{Call, Effect, Fault, Operation};
use keyvault_sync_e2e::Scene;
use keyvault_sync_e2e::certificates::Issued;
use keyvault_sync_e2e::operator::Operator;
use keyvault_sync_e2e::scene::imports;
use keyvault_sync_e2e::wait::{self, Seen};
use rustix::process::Signal;
use serde_json::json;

keyvault_sync_e2e::promises!(OneByOne:
    sigterm_under_load_finishes_what_is_in_hand_and_begins_nothing,
    sigterm_while_it_starts_ends_it_without_a_word_of_failure,
    sigterm_while_the_api_server_is_away_loses_no_write,
    a_second_signal_ends_it_at_once_and_its_write_is_looked_for,
);

const CERTIFICATES: usize = 60;
/// How many of them are pushed before the vault stops answering.
const FIRST: u32 = 12;
/// As many certificates of one vault the operator works on at a time (`pace.rs`).
const IN_HAND: usize = 4;

async fn sigterm_under_load_finishes_what_is_in_hand_and_begins_nothing(scene: Scene) -> anyhow::Result<()> {
    let names: Vec<String> = (0..CERTIFICATES).map(|number| format!("tls-{number:02}")).collect();
    for name in &names {
        scene.renew(name).await?;
    }
    let import = |effect| Fault::new(effect).host(&scene.host()).operation(Operation::Import);
    let late = Effect::DelayBefore { milliseconds: 100 };
    scene.emulator().inject(import(late).times(FIRST));
    let held = scene.emulator().inject(import(Effect::Hang));
    let operator = scene.stage().operator().await?;
    let entries: Vec<_> = names.iter().map(|name| json!({"secretName": name})).collect();
    scene.sync("load", json!({"certificates": entries})).await?;
    wait::until("every place of the vault to be taken by an import that is not answered", || async {
        let under_way = scene.calls().iter().filter(|call| is_under_way(call)).count();
        Ok(if under_way == IN_HAND { Seen::Done(()) } else { Seen::NotYet(format!("{under_way}")) })
    })
    .await?;

    let begun = imports(&scene.calls());
    operator.signal(Signal::TERM);
    stopping(&operator).await?;
    scene.emulator().clear_fault(held);
    let status = operator.ended().await?;
    ensure!(status.success(), "{status}");
    ensure!(imports(&scene.calls()) == begun, "an import was begun after the signal: {:?}", scene.calls());
    let mut pushed = Vec::new();
    for name in &names {
        let versions = scene.versions(name).len();
        let said = scene.claim(name).await?.status.unwrap_or_default();
        ensure!(said.in_flight.is_none(), "{name} was left half done: {said:?}");
        ensure!(said.version.is_some() == (versions == 1), "{name}, {versions} versions: {said:?}");
        pushed.extend((versions == 1).then_some(name));
    }
    ensure!(pushed.len() == begun, "{} of {begun} imports came to something", pushed.len());

    let before = scene.calls().len();
    let operator = scene.stage().operator().await?;
    scene.synced("load", &format!("{CERTIFICATES}/{CERTIFICATES}")).await?;
    let again = scene.calls().split_off(before);
    let is_done = |call: &&Call| call.name.as_ref().is_some_and(|name| pushed.contains(&name));
    ensure!(!again.iter().any(|call| is_done(&call)), "what was done is called for again: {again:?}");
    for name in &names {
        ensure!(scene.versions(name).len() == 1, "{name}: {} versions", scene.versions(name).len());
    }
    operator.terminate().await.map(drop)
}

async fn sigterm_while_it_starts_ends_it_without_a_word_of_failure(scene: Scene) -> anyhow::Result<()> {
    let operator = scene.stage().operator_begun(&[]).await?;
    operator.signal(Signal::TERM);
    ends_well(&operator).await?;

    // It waits for an API server that does not answer, and for one that does not exist.
    let cluster = &scene.stage().cluster;
    cluster.suspend_apiserver();
    let operator = scene.stage().operator_begun(&[]).await?;
    operator.signal(Signal::INT);
    let ended = ends_well(&operator).await;
    cluster.resume_apiserver();
    ended?;
    cluster.stop_apiserver().await;
    let operator = scene.stage().operator_begun(&[]).await?;
    operator.signal(Signal::TERM);
    let ended = ends_well(&operator).await;
    cluster.start_apiserver().await?;
    ended
}

async fn ends_well(operator: &Operator) -> anyhow::Result<()> {
    let status = operator.ended().await?;
    let log = operator.log();
    let has_failed = log.lines().any(|line| line.starts_with("Error"));
    ensure!(status.success() && !has_failed, "{status}\n{log}");
    Ok(())
}

async fn sigterm_while_the_api_server_is_away_loses_no_write(scene: Scene) -> anyhow::Result<()> {
    let (operator, issued) = importing(&scene).await?;
    let cluster = &scene.stage().cluster;
    cluster.stop_apiserver().await;
    operator.signal(Signal::TERM);
    stopping(&operator).await?;
    scene.emulator().clear_faults();
    let ended = operator.ended().await;
    cluster.start_apiserver().await?;
    let status = ended?;
    ensure!(status.success(), "{status}");
    ensure!(scene.versions("web-tls").len() == 2, "{} versions, not 2", scene.versions("web-tls").len());
    // Nobody could be told: the announcement stands, and is what the next one goes by.
    goes_on(&scene, &issued).await
}

async fn a_second_signal_ends_it_at_once_and_its_write_is_looked_for(scene: Scene) -> anyhow::Result<()> {
    let (operator, issued) = importing(&scene).await?;
    operator.signal(Signal::TERM);
    stopping(&operator).await?;
    operator.signal(Signal::INT);
    // Whoever it is that waits for the vault: it still hangs.
    let status = operator.ended().await?;
    ensure!(status.code() == Some(1), "{status}");
    ensure!(operator.log().contains("told to stop a second time"), "{}", operator.log());
    ensure!(scene.calls().iter().any(is_under_way), "the import had ended: nothing was cut short");
    scene.emulator().clear_faults();
    wait::until("the import to be carried out, although nobody hears of it", || async {
        let versions = scene.versions("web-tls").len();
        Ok(if versions == 2 { Seen::Done(()) } else { Seen::NotYet(format!("{versions} versions")) })
    })
    .await?;
    goes_on(&scene, &issued).await
}

/// An operator with a second version on its way to a vault that does not answer.
async fn importing(scene: &Scene) -> anyhow::Result<(Operator, Issued)> {
    let operator = scene.stage().operator().await?;
    let first = scene.renew("web-tls").await?;
    scene.sync_of("web", &["web-tls"]).await?;
    scene.holds("web", "web-tls", &first).await?;
    scene.fault("web-tls", Fault::new(Effect::Hang).operation(Operation::Import));
    let issued = scene.renew("web-tls").await?;
    scene.called("the import", is_under_way).await?;
    Ok((operator, issued))
}

fn is_under_way(call: &Call) -> bool {
    call.operation == Operation::Import && call.ended_us.is_none()
}

async fn stopping(operator: &Operator) -> anyhow::Result<()> {
    wait::until("the operator to have heard the signal", || async {
        let has_heard = operator.log().contains("stopping: finishing what is in hand");
        Ok(if has_heard { Seen::Done(()) } else { Seen::NotYet("no such line in its log".to_owned()) })
    })
    .await
}

/// The next operator finds what was announced and makes no version of it.
async fn goes_on(scene: &Scene, issued: &Issued) -> anyhow::Result<()> {
    let left = scene.claim("web-tls").await?.status.context("no status")?;
    ensure!(left.in_flight.is_some(), "the announcement is gone without a receipt: {left:?}");
    let operator = scene.stage().operator().await?;
    scene.holds("web", "web-tls", issued).await?;
    ensure!(scene.versions("web-tls").len() == 2, "{} versions, not 2", scene.versions("web-tls").len());
    let said = scene.claim("web-tls").await?.status.context("no status")?;
    ensure!(said.in_flight.is_none(), "no receipt: {said:?}");
    operator.terminate().await.map(drop)
}
