//! `keyvault-emulator`: one emulator as a process, and the lines to paste for using it.
//! Leaves the flags to config.rs and the emulator to the library.

mod config;

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser as _;
use keyvault_emulator::{Application, Emulator, Permissions};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use config::Config;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let config = Config::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    // Before anything is printed: whoever reads the lines may send a signal at once.
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;

    let emulator = Emulator::start_at(config.listen, config.imds).await?;
    let (secret, secret_file) = config.client_secret()?;
    furnish(&emulator, &config, secret)?;
    let ca_file = config.write_ca(emulator.ca_pem())?;
    let admin = emulator.start_admin(config.admin).await.context("cannot serve the admin API")?;
    print(&emulator, &config, &ca_file, &secret_file, &format!("http://{admin}"));

    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    emulator.stop().await;
    println!("stopped");
    Ok(())
}

fn furnish(emulator: &Emulator, config: &Config, secret: String) -> anyhow::Result<()> {
    for (issuer, jwks) in config.issuers()? {
        emulator.trust_issuer(&issuer, jwks);
    }
    emulator.add_application(Application {
        tenant_id: config.tenant.clone(),
        client_id: config.application.clone(),
        secret: Some(secret),
        certificates: config.client_certificates()?,
        federated: config.federated.clone(),
        ..Application::default()
    });
    for identity in config.identities() {
        emulator.assign_identity(identity);
    }
    for vault in &config.vaults {
        emulator.add_vault(vault, &config.tenant);
        emulator.allow(vault, &config.application, Permissions::all());
        for identity in config.identities() {
            emulator.allow(vault, &identity.client_id, Permissions::all());
        }
        emulator.set_deletion_time(vault, Duration::from_secs(config.deletion_time));
        emulator.set_recovery_time(vault, Duration::from_secs(config.recovery_time));
        emulator.set_purge_protection(vault, config.purge_protection);
    }
    Ok(())
}

fn print(emulator: &Emulator, config: &Config, ca_file: &Path, secret_file: &Path, admin: &str) {
    let address = emulator.address();
    println!("listening on    https://{address}");
    for vault in &config.vaults {
        println!("vault           https://{vault}");
    }
    println!("CA certificate  {}", ca_file.display());
    println!("client secret   {}", secret_file.display());
    println!("IMDS            {}", emulator.imds_endpoint());
    println!("admin API       {admin}");
    println!();
    println!("A token, and the vault's certificates:");
    println!();
    println!("  CA={}", ca_file.display());
    println!("  TOKEN=$(curl -s --cacert $CA --connect-to ::{address} \\");
    println!("    https://login.microsoftonline.com/{}/oauth2/v2.0/token \\", config.tenant);
    println!("    -d grant_type=client_credentials -d client_id={} \\", config.application);
    println!("    -d scope=https://vault.azure.net/.default \\");
    println!("    --data-urlencode client_secret=\"$(cat {})\" \\", secret_file.display());
    println!("    | sed 's/.*\"access_token\":\"\\([^\"]*\\)\".*/\\1/')");
    if let Some(vault) = config.vaults.first() {
        println!("  curl --cacert $CA --connect-to ::{address} -H \"Authorization: Bearer $TOKEN\" \\");
        println!("    \"https://{vault}/certificates?api-version=2025-07-01\"");
    }
    println!();
    println!("ready; Ctrl-C stops it");
}
