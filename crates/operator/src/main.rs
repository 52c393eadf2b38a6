//! The keyvault-sync operator: certificates of Kubernetes Secrets into Azure Key Vault, as KeyVaultSyncs say.
//! This file starts what the command line asks for: the operator (`run`), or one of the tools for the hand.

mod backlog;
mod certificate;
mod context;
mod definitions;
mod disposition;
mod health;
mod identity;
mod installation;
mod inventory;
mod keyvault;
mod kubernetes;
mod leader;
mod log;
mod memory;
mod metrics;
mod metrics_access;
mod metrics_server;
mod news;
mod observed;
mod owner;
mod pace;
mod proofs;
mod reference;
mod report;
mod run;
mod scrape;
mod selectors;
mod settings;
mod signals;
mod signs;
mod sync;
mod token_file;
mod tools;
mod traces;
mod traffic;
mod wake;
mod watch;
mod wisher;
mod world;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use zeroizing_alloc::ZeroAlloc;

use settings::{Command, CommandLine};

/// Freed memory is wiped: the libraries between a Secret and the vault copy key material, and not all wipe their copies.
#[global_allocator]
static ALLOCATOR: ZeroAlloc<std::alloc::System> = ZeroAlloc(std::alloc::System);

fn main() -> anyhow::Result<ExitCode> {
    // No core dump: it would hold every key that is in memory.
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
        .context("core dumps cannot be turned off")?;
    let command = CommandLine::read().chosen();
    if let Command::Reference { what } = command {
        print!("{}", reference::table(what));
        return Ok(ExitCode::SUCCESS);
    }
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .map_err(|_| anyhow::anyhow!("a TLS provider is installed already"))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("no runtime")?;
    let ended = runtime.block_on(async {
        match command {
            Command::Run(settings) => run::run(*settings).await.map(|()| ExitCode::SUCCESS),
            Command::Tool(tool) => Ok(tools::run(tool).await),
            Command::Reference { .. } => Ok(ExitCode::SUCCESS),
        }
    });
    runtime.shutdown_timeout(Duration::from_secs(1));
    ended
}
