//! The one tool of this repository. Each command is one file; what needs a cluster stands on `keyvault-sync-e2e`.
//! Start with `cargo xtask help`.

mod bench;
mod chart;
mod command;
mod demo;
mod r#gen;
mod monitoring;
mod promises;
mod reference;
mod test;
mod tidy;
mod tools;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The one tool of this repository.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", disable_help_subcommand = false)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Show the operator at work: a real API server, a local Key Vault, a certificate arriving and renewing
    Demo(demo::Arguments),
    /// Run every check and every test, as CI does
    Test(test::Arguments),
    /// Install the operator by Helm on two real nodes, in a sandbox of this machine: needs root
    InstallTest,
    /// Write the files that are made from the Rust types (CRDs, reference), or check them
    Gen {
        /// Write nothing; fail if a file is not what it should be
        #[arg(long)]
        check: bool,
    },
    /// Check what compilers do not: the architecture's rules, file headers, links
    Tidy,
    /// Build or install the programs that tests and demo run (etcd, Kubernetes, Helm, cargo-deny), and say where they are
    Tools,
    /// Measure the operator: latency, calls, memory
    Bench(bench::Arguments),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Demo(arguments) => demo::run(arguments),
        Command::Test(arguments) => test::run(&arguments),
        Command::InstallTest => test::install_test(),
        Command::Gen { check } => r#gen::run(check),
        Command::Tidy => tidy::run(),
        Command::Tools => tools::run(),
        Command::Bench(arguments) => bench::run(arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
