//! The operator killed, ended and started again at every moment of a push: exactly one version, and no call for what is in
//! step. One after the other: each test has operators of its own.

use std::time::Duration;

use anyhow::{Context, ensure};
use keyvault_emulator::{Call, Effect, Fault, Operation};
use keyvault_sync_e2e::certificates::Issued;
use keyvault_sync_e2e::operator::Operator;
use keyvault_sync_e2e::scene::imports;
use keyvault_sync_e2e::wait::{self, Seen};
use keyvault_sync_e2e::{Scene, scene};

keyvault_sync_e2e::promises!(OneByOne:
    killed_between_announcement_and_import_it_makes_exactly_one_version,
    killed_while_the_import_is_on_the_wire_it_makes_exactly_one_version,
    killed_between_import_and_receipt_it_makes_exactly_one_version,
    sigterm_finishes_the_write_in_hand,
    what_was_deleted_and_applied_again_while_it_was_down_makes_no_version,
    what_was_deleted_while_it_was_down_is_given_up_and_stays_in_the_vault,
    the_same_certificate_written_anew_while_it_was_down_makes_no_version_and_no_call,
);

/// The operator's time limit of a vault write; what was announced is left alone for so long.
const WRITE_TIME_LIMIT: Duration = Duration::from_secs(10);

async fn killed_between_announcement_and_import_it_makes_exactly_one_version(
    scene: Scene,
) -> anyhow::Result<()> {
    let operator = started(&scene).await?;
    // The connection is reset: announced, and nothing done.
    scene.fault("web-tls", Fault::new(Effect::Reset).operation(Operation::Import).times(1));
    let issued = scene.renew("web-tls").await?;
    scene.called("the import", is_unanswered_import).await?;
    operator.kill9();
    ensure!(scene.versions("web-tls").len() == 1, "imported after all");
    resumed(&scene, &issued).await
}

async fn killed_while_the_import_is_on_the_wire_it_makes_exactly_one_version(
    scene: Scene,
) -> anyhow::Result<()> {
    let operator = started(&scene).await?;
    let held = scene.fault("web-tls", Fault::new(Effect::Hang).operation(Operation::Import).times(1));
    let issued = scene.renew("web-tls").await?;
    scene.called("the import", is_unanswered_import).await?;
    operator.kill9();
    // The vault carries out what it received, although nobody is there to hear of it.
    scene.emulator().clear_fault(held);
    second_version(&scene).await?;
    resumed(&scene, &issued).await
}

async fn killed_between_import_and_receipt_it_makes_exactly_one_version(scene: Scene) -> anyhow::Result<()> {
    let operator = started(&scene).await?;
    let held = scene.fault("web-tls", Fault::new(Effect::HangAfter).operation(Operation::Import).times(1));
    let issued = scene.renew("web-tls").await?;
    second_version(&scene).await?;
    operator.kill9();
    scene.emulator().clear_fault(held);
    resumed(&scene, &issued).await
}

/// An operator that has pushed a first version of `web-tls`.
async fn started(scene: &Scene) -> anyhow::Result<Operator> {
    let operator = scene.stage().operator().await?;
    let issued = scene.renew("web-tls").await?;
    scene.sync_of("web", &["web-tls"]).await?;
    scene.holds("web", "web-tls", &issued).await?;
    Ok(operator)
}

/// An import whose answer has not been sent; the first version's was.
fn is_unanswered_import(call: &Call) -> bool {
    call.operation == Operation::Import && !call.answered
}

async fn second_version(scene: &Scene) -> anyhow::Result<()> {
    wait::until("the second version", || async {
        let versions = scene.versions("web-tls").len();
        Ok(if versions == 2 { Seen::Done(()) } else { Seen::NotYet(format!("{versions} versions")) })
    })
    .await
}

/// A new operator brings what was announced to its end: two versions in all, a look before anything else and not while
/// the write may still be under way, the receipt taken.
async fn resumed(scene: &Scene, issued: &Issued) -> anyhow::Result<()> {
    let claim = scene.claim("web-tls").await?;
    let in_flight = claim.status.and_then(|status| status.in_flight).context("not announced")?;
    let over = Duration::from_secs(in_flight.since.0.as_second().unsigned_abs()) + WRITE_TIME_LIMIT;
    let before = scene.calls_about("web-tls").len();
    let operator = scene.stage().operator().await?;
    scene.holds("web", "web-tls", issued).await?;
    ensure!(scene.versions("web-tls").len() == 2, "{} versions, not 2", scene.versions("web-tls").len());
    let calls = scene.calls_about("web-tls").split_off(before);
    let look = calls.first().context("no look")?;
    ensure!(look.operation == Operation::GetCertificate, "{calls:?}");
    ensure!(u128::from(look.began_unix_us) >= over.as_micros(), "it looked too early: {look:?} {over:?}");
    let claim = scene.claim("web-tls").await?;
    ensure!(claim.status.as_ref().is_some_and(|status| status.in_flight.is_none()), "no receipt: {claim:?}");
    operator.terminate().await.map(drop)
}

async fn sigterm_finishes_the_write_in_hand(scene: Scene) -> anyhow::Result<()> {
    let operator = started(&scene).await?;
    // Long enough that the signal comes first, and well below the time limit of a write.
    scene.fault(
        "web-tls",
        Fault::new(Effect::delay_before(Duration::from_secs(3))).operation(Operation::Import),
    );
    let issued = scene.renew("web-tls").await?;
    scene.called("the import", is_unanswered_import).await?;
    let status = operator.terminate().await?;
    ensure!(status.success(), "{status}");
    ensure!(scene.versions("web-tls").len() == 2, "{} versions, not 2", scene.versions("web-tls").len());
    let claim = scene.claim("web-tls").await?;
    let said = claim.status.context("no status")?;
    ensure!(
        said.in_flight.is_none() && said.thumbprint == Some(scene::thumbprint(&issued)?),
        "no receipt: {said:?}"
    );
    Ok(())
}

async fn what_was_deleted_and_applied_again_while_it_was_down_makes_no_version(
    scene: Scene,
) -> anyhow::Result<()> {
    let operator = started(&scene).await?;
    operator.terminate().await?;
    scene.delete(&scene.syncs(), "web").await?;
    let sync = scene.sync_of("web", &["web-tls"]).await?;
    let operator = scene.stage().operator().await?;
    scene.synced("web", "1/1").await?;
    let claim = scene.claim("web-tls").await?;
    ensure!(Some(&claim.spec.owner.uid) == sync.metadata.uid.as_ref(), "{:?}", claim.spec.owner);
    ensure!(scene.versions("web-tls").len() == 1 && imports(&scene.calls()) == 1, "{:?}", scene.calls());
    operator.terminate().await.map(drop)
}

async fn what_was_deleted_while_it_was_down_is_given_up_and_stays_in_the_vault(
    scene: Scene,
) -> anyhow::Result<()> {
    let operator = started(&scene).await?;
    operator.terminate().await?;
    let before = scene.calls().len();
    scene.delete(&scene.syncs(), "web").await?;
    scene.claim("web-tls").await?;
    let operator = scene.stage().operator().await?;
    wait::gone(&scene.claims(), &scene.claim_name("web-tls")).await?;
    ensure!(scene.versions("web-tls").len() == 1 && scene.calls().len() == before, "{:?}", scene.calls());
    operator.terminate().await.map(drop)
}

async fn the_same_certificate_written_anew_while_it_was_down_makes_no_version_and_no_call(
    scene: Scene,
) -> anyhow::Result<()> {
    let operator = scene.stage().operator().await?;
    let issued = scene.renew("web-tls").await?;
    scene.sync_of("web", &["web-tls"]).await?;
    scene.holds("web", "web-tls", &issued).await?;
    operator.terminate().await?;
    let before = scene.calls().len();
    let reordered = format!("{}{}", issued.intermediates.concat(), issued.certificate);
    scene.put_entries("web-tls", &scene::entries(&reordered, &issued.key, "")).await?;
    let edition = scene.secrets().get("web-tls").await?.metadata.resource_version;
    let operator = scene.stage().operator().await?;
    wait::object(&scene.claims(), &scene.claim_name("web-tls"), "to have looked at the Secret", |claim| {
        claim
            .status
            .as_ref()
            .is_some_and(|status| status.sources.iter().any(|seen| seen.resource_version == edition))
    })
    .await?;
    ensure!(scene.versions("web-tls").len() == 1 && scene.calls().len() == before, "{:?}", scene.calls());
    operator.terminate().await.map(drop)
}
