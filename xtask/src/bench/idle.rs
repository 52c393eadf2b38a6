//! An operator at rest: what 300 certificates cost the vault over a restart, and how much memory is resident with them and
//! with one. What the kernel counts as resident is read from `/proc`, so memory is measured on Linux only.

use std::fs;
use std::sync::Arc;

use anyhow::{Context, ensure};
use keyvault_emulator::Operation;
use keyvault_sync_e2e::Scene;
use keyvault_sync_e2e::operator::Operator;

use super::requests;
use super::{against, heading, stage};

/// All certificates, the first included, and how many of them one KeyVaultSync lists.
const CERTIFICATES: usize = 300;
const LISTED: usize = 100;

/// The goals of the product: MB (1,000,000 bytes), and calls.
const MEMORY_GOAL_MB: f64 = 15.0;
const CALLS_GOAL: f64 = 0.0;

/// The certificate whose renewal shows that the restarted operator works.
const CANARY: &str = "canary";

/// Measures and prints.
///
/// # Errors
/// Something does not start, or a certificate does not arrive.
pub(crate) async fn measure() -> anyhow::Result<()> {
    let stage = Arc::new(stage().await?);
    requests::count(&stage).await?;
    let scene = Scene::on(Arc::clone(&stage), "bench").await?;
    let operator = stage.operator().await?;
    scene.renew(CANARY).await?;
    scene.sync_of(CANARY, &[CANARY]).await?;
    scene.synced(CANARY, "1/1").await?;
    operator.terminate().await?;

    let operator = stage.operator().await?;
    requests::settled(&stage).await?;
    let with_one = Memory::of(&operator)?;

    eprintln!("pushing {CERTIFICATES} certificates");
    let secrets: Vec<String> = (1..CERTIFICATES).map(|number| format!("tls-{number:03}")).collect();
    for (number, listed) in secrets.chunks(LISTED).enumerate() {
        for secret in listed {
            scene.renew(secret).await?;
        }
        let names: Vec<&str> = listed.iter().map(String::as_str).collect();
        let (sync, count) = (format!("many-{number}"), listed.len());
        scene.sync_of(&sync, &names).await?;
        scene.synced(&sync, &format!("{count}/{count}")).await?;
    }
    requests::settled(&stage).await?;
    let after_pushing = Memory::of(&operator)?;

    eprintln!("restarting the operator");
    operator.terminate().await?;
    let (calls, all) = (scene.calls().len(), stage.emulator.journal().len());
    let operator = stage.operator().await?;
    requests::settled(&stage).await?;
    let with_many = Memory::of(&operator)?;
    let at_rest = stage.emulator.journal().len() - all;
    let issued = scene.renew(CANARY).await?;
    scene.holds(CANARY, CANARY, &issued).await?;
    let later = scene.calls().split_off(calls);
    let of_canary = |name: &Option<String>| name.as_deref() == Some(CANARY);
    ensure!(
        later.iter().any(|call| call.operation == Operation::Import),
        "the restarted operator imported nothing"
    );
    let of_others = later.iter().filter(|call| !of_canary(&call.name)).count();

    print(
        at_rest,
        of_others,
        &[
            ("1 certificate, restarted", with_one),
            ("300 certificates, just pushed", after_pushing),
            ("300 certificates, restarted", with_many),
        ],
    );
    operator.terminate().await?;
    stage.close().await
}

/// Memory of a process, in bytes.
struct Memory {
    resident: u64,
    /// The resident part that is no file: heap and stacks. The rest is pages of the program, which the kernel can drop.
    anonymous: u64,
    /// Pages shared with others divided by their number; only the process's owner may read it.
    proportional: Option<u64>,
    peak: u64,
}

impl Memory {
    fn of(operator: &Operator) -> anyhow::Result<Memory> {
        let folder = format!("/proc/{}", operator.pid());
        let status = fs::read_to_string(format!("{folder}/status"))
            .context("no /proc: memory is measured on Linux only")?;
        let shares = fs::read_to_string(format!("{folder}/smaps_rollup")).unwrap_or_default();
        Ok(Memory {
            resident: field(&status, "VmRSS").context("no VmRSS")?,
            anonymous: field(&status, "RssAnon").context("no RssAnon")?,
            proportional: field(&shares, "Pss"),
            peak: field(&status, "VmHWM").context("no VmHWM")?,
        })
    }
}

/// A line `name:   1234 kB`, in bytes.
fn field(text: &str, name: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    value.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kibibytes| kibibytes * 1024)
}

fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

fn print(at_rest: usize, of_others: usize, rows: &[(&str, Memory)]) {
    heading("idle");
    println!(
        "{:<34} {:>10} {:>12} {:>8} {:>8}",
        "the operator at rest, MB", "resident", "of it heap", "PSS", "peak"
    );
    for (what, memory) in rows {
        let proportional =
            memory.proportional.map_or_else(|| "-".to_owned(), |bytes| format!("{:.1}", megabytes(bytes)));
        let [resident, anonymous, peak] = [memory.resident, memory.anonymous, memory.peak].map(megabytes);
        println!("{what:<34} {resident:>10.1} {anonymous:>12.1} {proportional:>8} {peak:>8.1}");
    }
    let restarted = rows.last().map_or(f64::NAN, |(_, memory)| megabytes(memory.resident));
    println!(
        "\nresident, {CERTIFICATES} certificates, restarted: {restarted:.1} MB ({})",
        against(restarted, MEMORY_GOAL_MB, "MB")
    );
    println!(
        "calls to vault and Entra ID from the restart until at rest: {at_rest} ({})",
        against(at_rest as f64, CALLS_GOAL, "calls")
    );
    println!(
        "vault calls about the other {} certificates while one was renewed after it: {of_others}",
        CERTIFICATES - 1
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_in_the_kernels_units() {
        let status = "Name:\tkeyvault-sync\nVmHWM:\t   16384 kB\nVmRSS:\t   12288 kB\nThreads:\t3\n";
        assert_eq!(field(status, "VmRSS"), Some(12_288 * 1024));
        assert_eq!(field(status, "VmSwap"), None);
        assert_eq!(field(status, "Threads"), None);
    }
}
