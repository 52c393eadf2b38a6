//! From the write of a Secret to the vault's receiving the import: alone, one after another, and in bursts; and what each
//! renewal asks of the API server. Counting those requests is left to `requests`.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, ensure};
use futures::future::try_join_all;
use keyvault_emulator::{Call, Operation};
use keyvault_sync_e2e::Scene;
use keyvault_sync_e2e::certificates::{Issued, KeyType, Leaf};

use super::requests::{self, Requests};
use super::{against, heading, stage};

/// Certificates of the one KeyVaultSync; a burst renews them all.
const CERTIFICATES: usize = 20;
/// Renewals, each begun when the status tells of the one before.
const ALONE: usize = 20;
/// Renewals, each begun when the vault has answered the one before.
const SEQUENCE: usize = 200;
/// Renewals of all certificates at once.
const BURSTS: usize = 5;

/// The goals of the product: milliseconds, and requests a renewal.
const P99_GOAL_MS: f64 = 1000.0;
const REQUESTS_GOAL: f64 = 5.0;

/// An import is waited for so long; more is a failure, not a latency.
const IMPORT_LIMIT: Duration = Duration::from_secs(60);

const SYNC: &str = "bench";

/// One way of renewing, measured.
struct Row {
    what: String,
    latencies_ms: Vec<f64>,
    requests: Requests,
}

/// Measures and prints.
///
/// # Errors
/// Something does not start, or a renewal does not arrive.
pub(crate) async fn measure() -> anyhow::Result<()> {
    let stage = Arc::new(stage().await?);
    requests::count(&stage).await?;
    stage.running().await?;
    let scene = Scene::on(Arc::clone(&stage), "bench").await?;
    let secrets: Vec<String> = (0..CERTIFICATES).map(|number| format!("tls-{number:02}")).collect();
    for secret in &secrets {
        scene.put_issued(secret, &issue(&scene, secret)?).await?;
    }
    scene.sync_of(SYNC, &secrets.iter().map(String::as_str).collect::<Vec<_>>()).await?;
    scene.synced(SYNC, &format!("{CERTIFICATES}/{CERTIFICATES}")).await?;

    eprintln!("measuring {ALONE} renewals alone");
    let alone = alone(&scene, &secrets).await?;
    eprintln!("measuring {SEQUENCE} renewals one after another");
    let sequence = sequence(&scene, &secrets).await?;
    eprintln!("measuring {BURSTS} bursts of {CERTIFICATES} renewals");
    let bursts = bursts(&scene, &secrets).await?;
    ensure!(
        alone.requests.total() > 0.0,
        "the API server counted no request of the operator: its flow schemas do not match"
    );
    print(&[alone, sequence, bursts]);
    stage.close().await
}

async fn alone(scene: &Scene, secrets: &[String]) -> anyhow::Result<Row> {
    let renewals = prepared(scene, secrets, ALONE)?;
    let before = requests::settled(scene.stage()).await?;
    let mut latencies_ms = Vec::new();
    for (secret, issued) in &renewals {
        latencies_ms.push(renewed(scene, secret, issued).await?);
        scene.holds(SYNC, secret, issued).await?;
    }
    row("alone, each until the status says so", scene, latencies_ms, &before).await
}

async fn sequence(scene: &Scene, secrets: &[String]) -> anyhow::Result<Row> {
    let renewals = prepared(scene, secrets, SEQUENCE)?;
    let before = requests::settled(scene.stage()).await?;
    let mut latencies_ms = Vec::new();
    for (secret, issued) in &renewals {
        latencies_ms.push(renewed(scene, secret, issued).await?);
    }
    row("one after another, each until the vault has it", scene, latencies_ms, &before).await
}

async fn bursts(scene: &Scene, secrets: &[String]) -> anyhow::Result<Row> {
    let renewals = prepared(scene, secrets, CERTIFICATES * BURSTS)?;
    let before = requests::settled(scene.stage()).await?;
    let mut latencies_ms = Vec::new();
    for burst in renewals.chunks(CERTIFICATES) {
        let all = burst.iter().map(|(secret, issued)| renewed(scene, secret, issued));
        latencies_ms.extend(try_join_all(all).await?);
    }
    row(&format!("bursts of {CERTIFICATES} certificates"), scene, latencies_ms, &before).await
}

async fn row(what: &str, scene: &Scene, latencies_ms: Vec<f64>, before: &Requests) -> anyhow::Result<Row> {
    let requests = requests::settled(scene.stage()).await?.each(before, latencies_ms.len());
    Ok(Row { what: what.to_owned(), latencies_ms, requests })
}

/// Renews a Secret; milliseconds from sending the write to the beginning of the import at the vault. Returns when the vault
/// has answered.
async fn renewed(scene: &Scene, secret: &str, issued: &Issued) -> anyhow::Result<f64> {
    let before = imports(&scene.calls(), secret).count();
    let sent_us = unix_micros()?;
    scene.put_issued(secret, issued).await?;
    let mut began_us = None;
    let arrived = scene.emulator().wait_for(IMPORT_LIMIT, |calls| {
        began_us = imports(calls, secret)
            .nth(before)
            .filter(|call| call.ended_us.is_some())
            .map(|call| call.began_unix_us);
        began_us.is_some()
    });
    ensure!(arrived.await, "{secret} was not imported within {} s", IMPORT_LIMIT.as_secs());
    let began_us = began_us.context("no import")?;
    Ok(began_us.saturating_sub(sent_us) as f64 / 1e3)
}

fn imports<'a>(calls: &'a [Call], secret: &'a str) -> impl Iterator<Item = &'a Call> {
    calls.iter().filter(move |call| {
        call.operation == Operation::Import
            && call.client_id.is_some()
            && call.name.as_deref() == Some(secret)
    })
}

/// So many renewals, round the Secrets, made before anything is measured.
fn prepared(scene: &Scene, secrets: &[String], count: usize) -> anyhow::Result<Vec<(String, Issued)>> {
    secrets.iter().cycle().take(count).map(|secret| Ok((secret.clone(), issue(scene, secret)?))).collect()
}

fn issue(scene: &Scene, secret: &str) -> anyhow::Result<Issued> {
    scene.issue(&Leaf::server(&format!("{secret}.example.com")).key_type(KeyType::Rsa2048))
}

fn print(rows: &[Row]) {
    heading("latency");
    println!(
        "RSA 2048 leaf with intermediate; from sending the write of the Secret to the beginning of the import at the vault\n"
    );
    println!(
        "{:<48} {:>5} {:>8} {:>8} {:>8} {:>13}",
        "renewals", "n", "p50 ms", "p99 ms", "max ms", "API requests"
    );
    let (mut worst_p99, mut worst_requests) = (0.0_f64, 0.0_f64);
    for Row { what, latencies_ms, requests } in rows {
        let mut sorted = latencies_ms.clone();
        sorted.sort_by(f64::total_cmp);
        let [p50, p99, max] = [0.5, 0.99, 1.0].map(|share| quantile(&sorted, share));
        println!(
            "{what:<48} {:>5} {p50:>8.1} {p99:>8.1} {max:>8.1} {:>13.2}",
            sorted.len(),
            requests.total()
        );
        (worst_p99, worst_requests) = (worst_p99.max(p99), worst_requests.max(requests.total()));
    }
    println!(
        "\nAPI requests of a renewal, watches and the lease left out, as the API server counts those of the operator:"
    );
    for Row { what, requests, .. } in rows {
        println!("{what:<48} {}", requests.kinds());
    }
    println!("\nhighest p99: {worst_p99:.0} ms ({})", against(worst_p99, P99_GOAL_MS, "ms"));
    println!(
        "most API requests: {worst_requests:.2} ({})",
        against(worst_requests, REQUESTS_GOAL, "a renewal")
    );
}

/// The smallest value that this share of them does not exceed.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let rank = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

fn unix_micros() -> anyhow::Result<u64> {
    Ok(u64::try_from(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_micros())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_a_value_that_was_measured() {
        let hundred: Vec<f64> = (1..=100).map(f64::from).collect();
        for (share, expected) in [(0.5, 50.0), (0.99, 99.0), (1.0, 100.0)] {
            assert_eq!(quantile(&hundred, share), expected);
        }
        assert_eq!(quantile(&[7.0], 0.99), 7.0);
        assert!(quantile(&[], 0.5).is_nan());
    }
}
