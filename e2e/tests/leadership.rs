//! Two replicas: one writes, the other takes over, and no write is begun that the lease does not outlive. Who sent a call is told by
//! the application it acts as; who led when, by every edition of the Lease. One after the other: each test has operators of its own.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use futures::StreamExt;
use k8s_openapi::api::coordination::v1::Lease;
use keyvault_emulator::{Call, Effect, Fault, Operation};
use keyvault_sync_api::KeyVaultCertificate;
use keyvault_sync_e2e::Scene;
use keyvault_sync_e2e::operator::Operator;
use keyvault_sync_e2e::relay::Relay;
use keyvault_sync_e2e::scene::writes;
use keyvault_sync_e2e::stage::{CLIENT, OPERATOR, Pod, SECOND_CLIENT};
use keyvault_sync_e2e::wait::{self, Seen};
use kube::Api;
use kube::api::{Patch, PatchParams};
use kube::runtime::{WatchStreamExt, watcher};
use serde_json::json;

keyvault_sync_e2e::promises!(OneByOne:
    a_clean_stop_hands_the_lead_over_without_waiting_for_the_lease,
    a_killed_leader_is_followed_when_its_lease_ends_and_only_what_it_announced_is_read,
    a_container_that_is_started_again_does_not_wait_for_its_own_lease,
    a_leader_suspended_after_its_announcement_begins_no_write,
    a_leader_suspended_among_many_writes_nothing_after_its_lease,
    an_api_server_that_hangs_stops_all_writes_and_ends_nobody,
    an_api_server_that_answers_late_costs_the_lead,
    a_lease_taken_by_hand_ends_the_leader,
);

const FIRST: Pod<'_> = Pod { name: "pod-a", client: CLIENT, api_server: None };
const SECOND: Pod<'_> = Pod { name: "pod-b", client: SECOND_CLIENT, api_server: None };
/// As short as it may be.
const LEASE: &str = "--lease-duration=20s";

/// The time limit of a vault write.
const WRITE: Duration = Duration::from_secs(10);

async fn a_clean_stop_hands_the_lead_over_without_waiting_for_the_lease(scene: Scene) -> anyhow::Result<()> {
    // A lease that nobody waits for in a test.
    let two = Two::with(&scene, FIRST, "--lease-duration=5m").await?;
    two.pushed(&["web-a", "web-b"]).await?;
    ensure!(two.calls_of(&SECOND).is_empty(), "a standby calls no vault");
    ensure!(two.first.terminate().await?.success());
    two.led_by(&SECOND).await?;
    println!("led again {} ms after the lease was given back", two.without_a_leader()?.as_millis());
    let renewed = scene.renew("web-a").await?;
    scene.holds("many", "web-a", &renewed).await?;
    let calls = two.calls_of(&SECOND);
    ensure!(calls.iter().all(|call| call.name.as_deref() == Some("web-a")), "only what changed: {calls:?}");
    ensure!(writes(&calls).len() == 1 && scene.versions("web-b").len() == 1, "{calls:?}");
    two.no_write_outlived_its_lease()?;
    two.second.terminate().await.map(drop)
}

async fn a_killed_leader_is_followed_when_its_lease_ends_and_only_what_it_announced_is_read(
    scene: Scene,
) -> anyhow::Result<()> {
    let two = Two::new(&scene).await?;
    two.pushed(&["web-a", "web-b"]).await?;
    let held = scene.fault("web-a", Fault::new(Effect::HangAfter).operation(Operation::Import).times(1));
    let renewed = scene.renew("web-a").await?;
    scene.called("the import", |call| call.operation == Operation::Import && !call.answered).await?;
    two.first.kill9();
    scene.emulator().clear_fault(held);
    two.led_by(&SECOND).await?;
    scene.holds("many", "web-a", &renewed).await?;
    let calls = two.calls_of(&SECOND);
    ensure!(
        calls.iter().all(|call| call.name.as_deref() == Some("web-a")),
        "only what was announced: {calls:?}"
    );
    ensure!(
        scene.versions("web-a").len() == 2 && writes(&calls).is_empty(),
        "it was in the vault: {calls:?}"
    );
    two.no_write_outlived_its_lease()?;
    two.second.terminate().await.map(drop)
}

async fn a_container_that_is_started_again_does_not_wait_for_its_own_lease(
    scene: Scene,
) -> anyhow::Result<()> {
    const LONG: &str = "--lease-duration=5m";
    let first = scene.stage().pod(&FIRST, &[LONG]).await?;
    scene.open_to_two().await?;
    scene.renew("web-tls").await?;
    scene.sync_of("web", &["web-tls"]).await?;
    scene.synced("web", "1/1").await?;
    first.kill9();
    let renewed = scene.renew("web-tls").await?;
    let again = scene.stage().pod(&FIRST, &[LONG]).await?;
    scene.holds("web", "web-tls", &renewed).await?;
    again.terminate().await.map(drop)
}

async fn a_leader_suspended_after_its_announcement_begins_no_write(scene: Scene) -> anyhow::Result<()> {
    let relay = relay(&scene).await?;
    let two = Two::with(&scene, Pod { api_server: Some(relay.address()), ..FIRST }, LEASE).await?;
    two.pushed(&["web-a"]).await?;
    // The answer to the announcement is still on its way when the process stops.
    relay.be_late(Duration::from_millis(2_500));
    let renewed = scene.renew("web-a").await?;
    wait::object(
        &scene.claims(),
        &scene.claim_name("web-a"),
        "to be announced",
        |claim: &KeyVaultCertificate| claim.status.as_ref().is_some_and(|status| status.in_flight.is_some()),
    )
    .await?;
    two.first.suspend();
    ensure!(scene.versions("web-a").len() == 1, "it was not stopped in time");
    two.led_by(&SECOND).await?;
    scene.holds("many", "web-a", &renewed).await?;
    two.first.resume();
    two.ended_as_lost().await?;
    ensure!(scene.versions("web-a").len() == 2, "{:?}", two.calls_of(&FIRST));
    two.no_write_outlived_its_lease()?;
    two.second.terminate().await.map(drop)
}

async fn a_leader_suspended_among_many_writes_nothing_after_its_lease(scene: Scene) -> anyhow::Result<()> {
    let two = Two::new(&scene).await?;
    let names = two.many(24).await?;
    two.imported(3).await?;
    two.first.suspend();
    two.led_by(&SECOND).await?;
    scene.synced("many", "24/24").await?;
    two.first.resume();
    two.ended_as_lost().await?;
    for name in &names {
        ensure!(scene.versions(name).len() == 1, "{name}: {} versions", scene.versions(name).len());
    }
    two.no_write_outlived_its_lease()?;
    two.second.terminate().await.map(drop)
}

async fn an_api_server_that_hangs_stops_all_writes_and_ends_nobody(scene: Scene) -> anyhow::Result<()> {
    let two = Two::new(&scene).await?;
    let names = two.many(12).await?;
    two.imported(3).await?;
    scene.stage().cluster.suspend_apiserver();
    let paused = wait::until("the lease to run out", || async {
        let is_over = two.first.log().contains("the lease has run out");
        Ok(if is_over { Seen::Done(()) } else { Seen::NotYet("not yet".into()) })
    })
    .await;
    scene.stage().cluster.resume_apiserver();
    paused?;
    scene.synced("many", "12/12").await?;
    for name in &names {
        ensure!(scene.versions(name).len() == 1, "{name}: {} versions", scene.versions(name).len());
    }
    two.no_write_outlived_its_lease()?;
    // Whoever has the lead: the other is there to take it.
    let [first, second] = [&two.first, &two.second].map(|operator| operator.exited());
    ensure!(second.is_none(), "the standby ended: {second:?}");
    if first.is_none() {
        two.first.terminate().await?;
    }
    two.second.terminate().await.map(drop)
}

async fn an_api_server_that_answers_late_costs_the_lead(scene: Scene) -> anyhow::Result<()> {
    let relay = relay(&scene).await?;
    let two = Two::with(&scene, Pod { api_server: Some(relay.address()), ..FIRST }, LEASE).await?;
    two.pushed(&["web-a"]).await?;
    // Longer than a call about the Lease may take, and than an announcement may: what it asks for is done, and it never hears of it.
    relay.be_late(Duration::from_secs(8));
    let renewed = scene.renew("web-a").await?;
    two.led_by(&SECOND).await?;
    scene.holds("many", "web-a", &renewed).await?;
    relay.be_late(Duration::ZERO);
    two.ended_as_lost().await?;
    ensure!(scene.versions("web-a").len() == 2, "{:?}", two.calls_of(&FIRST));
    two.no_write_outlived_its_lease()?;
    two.second.terminate().await.map(drop)
}

async fn a_lease_taken_by_hand_ends_the_leader(scene: Scene) -> anyhow::Result<()> {
    let first = scene.stage().pod(&FIRST, &[LEASE]).await?;
    held_by(&scene, &FIRST).await?;
    let patch = json!({"spec": {"holderIdentity": "somebody"}});
    leases(&scene).patch(OPERATOR, &PatchParams::default(), &Patch::Merge(&patch)).await?;
    ended_as_lost(&first).await?;
    leases(&scene).delete(OPERATOR, &Default::default()).await.map(drop).context("the Lease")
}

/// Two replicas, of which the first leads, and what the Lease said all the while.
struct Two<'a> {
    scene: &'a Scene,
    first: Operator,
    second: Operator,
    history: Arc<Mutex<Vec<Edition>>>,
    watching: tokio::task::JoinHandle<()>,
}

/// One edition of the Lease.
#[derive(Clone, Debug, PartialEq)]
struct Edition {
    holder: String,
    /// Unix time.
    renewed: Duration,
    lasts: Duration,
}

impl<'a> Two<'a> {
    async fn new(scene: &'a Scene) -> anyhow::Result<Two<'a>> {
        Self::with(scene, FIRST, LEASE).await
    }

    async fn with(scene: &'a Scene, first: Pod<'_>, lease: &str) -> anyhow::Result<Two<'a>> {
        let history = Arc::default();
        let watching = tokio::spawn(record(leases(scene), Arc::clone(&history)));
        scene.open_to_two().await?;
        let first = scene.stage().pod(&first, &[lease]).await?;
        held_by(scene, &FIRST).await?;
        let second = scene.stage().pod(&SECOND, &[lease]).await?;
        Ok(Two { scene, first, second, history, watching })
    }

    /// These certificates are in the vault.
    async fn pushed(&self, names: &[&str]) -> anyhow::Result<()> {
        self.scene.renew_all(names).await?;
        self.scene.sync_of("many", names).await?;
        self.scene.synced("many", &format!("{0}/{0}", names.len())).await.map(drop)
    }

    /// So many certificates are wanted, and each import takes a while.
    async fn many(&self, count: usize) -> anyhow::Result<Vec<String>> {
        let names: Vec<String> = (0..count).map(|number| format!("web-{number:02}")).collect();
        let slow = Effect::delay_before(Duration::from_millis(500));
        let fault = Fault::new(slow).operation(Operation::Import).host(&self.scene.host());
        self.scene.emulator().inject(fault);
        let texts: Vec<&str> = names.iter().map(String::as_str).collect();
        self.scene.renew_all(&texts).await?;
        self.scene.sync_of("many", &texts).await?;
        Ok(names)
    }

    async fn imported(&self, count: usize) -> anyhow::Result<()> {
        wait::until("some imports", || async {
            let calls = self.scene.calls();
            let done =
                calls.iter().filter(|call| call.operation == Operation::Import && call.committed).count();
            Ok(if done >= count { Seen::Done(()) } else { Seen::NotYet(format!("{done}")) })
        })
        .await
    }

    async fn led_by(&self, pod: &Pod<'_>) -> anyhow::Result<()> {
        held_by(self.scene, pod).await
    }

    async fn ended_as_lost(&self) -> anyhow::Result<()> {
        ended_as_lost(&self.first).await
    }

    fn calls_of(&self, pod: &Pod<'_>) -> Vec<Call> {
        let is_its = |call: &Call| call.client_id.as_deref() == Some(pod.client);
        self.scene.calls().into_iter().filter(is_its).collect()
    }

    /// From giving the lease back to the next one who holds it.
    fn without_a_leader(&self) -> anyhow::Result<Duration> {
        let history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        let free =
            history.iter().position(|edition| edition.holder.is_empty()).context("never given back")?;
        let next = history[free..].iter().find(|edition| !edition.holder.is_empty());
        Ok(next.context("nobody took it")?.renewed.saturating_sub(history[free].renewed))
    }

    /// Every write began while its sender's lease was to last for the whole of it, and before another's began.
    fn no_write_outlived_its_lease(&self) -> anyhow::Result<()> {
        let history = self.history.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut count = 0;
        for pod in [FIRST, SECOND] {
            let calls = self.calls_of(&pod);
            for call in writes(&calls).into_iter().filter(|call| call.status != Some(401)) {
                count += 1;
                let began = Duration::from_micros(call.began_unix_us);
                let of_it = |edition: &&Edition| edition.holder.starts_with(&format!("{}_", pod.name));
                let covers = |edition: &Edition| {
                    edition.renewed <= began && began + WRITE <= edition.renewed + edition.lasts
                };
                ensure!(
                    history.iter().filter(of_it).any(covers),
                    "{} began {} {} at {began:?}, which its lease does not outlive: {history:#?}",
                    pod.name,
                    call.method,
                    call.path
                );
                let later = history.iter().filter(|edition| !of_it(edition) && edition.renewed <= began);
                let mine = history.iter().filter(of_it).filter(|edition| edition.renewed <= began);
                let last = |editions: Vec<&Edition>| editions.iter().map(|edition| edition.renewed).max();
                ensure!(
                    last(later.collect()) < last(mine.collect()),
                    "{} began {} {} at {began:?}, when another led: {history:#?}",
                    pod.name,
                    call.method,
                    call.path
                );
            }
        }
        ensure!(count > 0, "no write was seen: nothing is shown");
        Ok(())
    }
}

impl Drop for Two<'_> {
    fn drop(&mut self) {
        self.watching.abort();
    }
}

async fn record(leases: Api<Lease>, history: Arc<Mutex<Vec<Edition>>>) {
    let mut editions =
        watcher(leases, watcher::Config::default()).default_backoff().applied_objects().boxed();
    while let Some(edition) = editions.next().await {
        let Some(edition) = edition.ok().and_then(|lease| read(&lease)) else { continue };
        history.lock().unwrap_or_else(PoisonError::into_inner).push(edition);
    }
}

fn read(lease: &Lease) -> Option<Edition> {
    let spec = lease.spec.as_ref()?;
    let renewed = spec.renew_time.as_ref()?.0.as_microsecond();
    Some(Edition {
        holder: spec.holder_identity.clone().unwrap_or_default(),
        renewed: Duration::from_micros(u64::try_from(renewed).ok()?),
        lasts: Duration::from_secs(u64::try_from(spec.lease_duration_seconds?).ok()?),
    })
}

fn leases(scene: &Scene) -> Api<Lease> {
    Api::namespaced(scene.stage().client().clone(), OPERATOR)
}

async fn held_by(scene: &Scene, pod: &Pod<'_>) -> anyhow::Result<()> {
    let wanted = format!("{}_", pod.name);
    wait::object(&leases(scene), OPERATOR, &format!("to be held by {}", pod.name), |lease: &Lease| {
        read(lease).is_some_and(|edition| edition.holder.starts_with(&wanted))
    })
    .await
    .map(drop)
}

async fn ended_as_lost(operator: &Operator) -> anyhow::Result<()> {
    let status = wait::until("the former leader to end", || async {
        Ok(operator.exited().map_or(Seen::NotYet("it runs".into()), Seen::Done))
    })
    .await?;
    ensure!(status.code() == Some(1), "{status}");
    if !operator.log().contains("the lead is lost to another process") {
        bail!("it does not say why it ended");
    }
    Ok(())
}

/// A way to the API server that can be slow.
async fn relay(scene: &Scene) -> anyhow::Result<Relay> {
    let url = scene.stage().cluster.url();
    let address = url.trim_start_matches("https://").parse().with_context(|| url.clone())?;
    Relay::before(address).await
}
