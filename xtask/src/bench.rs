//! Measurements of the operator, as it is released, on a real API server beside a local Key Vault. They print numbers and
//! goals; what must hold is left to the tests.

mod idle;
mod latency;
mod requests;

use std::thread::available_parallelism;

use anyhow::Context;
use keyvault_sync_e2e::Stage;
use keyvault_sync_e2e::operator;

use crate::command;

/// What the operator logs while it is measured: what it logs by default.
const LOG_FILTER: &str = "info";

/// Options of `cargo xtask bench`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// What to measure
    #[arg(value_enum)]
    measure: Measure,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Measure {
    /// From the write of a Secret to the vault's receiving the import, and API server requests for it
    Latency,
    /// Vault calls of 300 certificates over a restart, and resident memory
    Idle,
    /// From the entries of a Secret to the PKCS#12 bundle, in the core (Criterion)
    Pfx,
}

/// Measures and prints a table.
///
/// # Errors
/// Something does not start, or what is measured does not happen.
pub(crate) fn run(arguments: Arguments) -> anyhow::Result<()> {
    match arguments.measure {
        Measure::Latency => on_a_runtime(latency::measure()),
        Measure::Idle => on_a_runtime(idle::measure()),
        Measure::Pfx => {
            command::run(command::cargo(&["bench", "--package=keyvault-sync-core", "--bench=pfx"]))
        }
    }
}

fn on_a_runtime(measuring: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("no async runtime")?
        .block_on(measuring)
}

/// A stage for the released operator.
async fn stage() -> anyhow::Result<Stage> {
    eprintln!("building the operator as it is released, and starting cluster and vault");
    Stage::start_for(operator::release_binary().await?, LOG_FILTER).await
}

/// The lines above a table: what was measured, with what.
fn heading(measure: &str) {
    let cores = available_parallelism().map_or_else(|_| "?".to_owned(), |cores| cores.to_string());
    println!(
        "\nmeasured by `cargo xtask bench {measure}` on {cores} cores, which the operator (release build), etcd, kube-apiserver,"
    );
    println!("the vault (0 ms) and the measuring program share\n");
}

/// A value beside its goal.
fn against(value: f64, goal: f64, unit: &str) -> String {
    format!("goal at most {goal} {unit}: {}", if value <= goal { "met" } else { "MISSED" })
}
