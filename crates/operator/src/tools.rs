//! The tools for the hand: they tell what would happen, what is, and what is wrong, and end. None of them writes but `crds --apply`.
//! How each does that is in its own file; here is what they share of a command line: exit codes and what is printed where.

mod check;
mod cluster;
mod definitions;
mod operator;
mod plan;
mod progress;
mod status;
mod table;
mod version;

use std::io::Write as _;
use std::process::ExitCode;

use clap::{Subcommand, ValueEnum};
use serde::Serialize;

/// What can be asked for.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Tool {
    /// Show what would happen, and write nothing: neither in the cluster nor in a vault
    Plan(Box<plan::Arguments>),
    /// Check the way to a vault from here: DNS, TLS, token, role, firewall
    Check(Box<check::Arguments>),
    /// Show how every resource is, worst first
    Status(status::Arguments),
    /// Print the definitions of the resources, or apply them
    Crds(definitions::Arguments),
    /// Print the version
    Version(version::Arguments),
}

/// How a tool ended that could do its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// All is well.
    Well,
    /// It found what is not.
    Trouble,
}

/// The exit code for what is not well, apart from that of a tool that could not do its work (1).
const TROUBLE: u8 = 2;

/// In which form a tool prints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Form {
    /// For people.
    #[default]
    Text,
    /// For programs; fields are added, never taken away or given another meaning.
    Json,
}

/// Does what is asked for, and says how it ended: 0 all is well, 2 something is not, 1 it could not be told.
pub(crate) async fn run(tool: Tool) -> ExitCode {
    let ended = match tool {
        Tool::Plan(arguments) => plan::run(*arguments).await,
        Tool::Check(arguments) => check::run(*arguments).await,
        Tool::Status(arguments) => status::run(arguments).await,
        Tool::Crds(arguments) => definitions::run(arguments).await,
        Tool::Version(arguments) => version::run(&arguments),
    };
    match ended {
        Ok(Found::Well) => ExitCode::SUCCESS,
        Ok(Found::Trouble) => ExitCode::from(TROUBLE),
        Err(error) => {
            // One line, whatever the causes are made of.
            note(&format!(
                "error: {}",
                format!("{error:#}").split_whitespace().collect::<Vec<_>>().join(" ")
            ));
            ExitCode::FAILURE
        }
    }
}

/// Prints the answer. Who reads it may have seen enough and gone.
fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Prints an answer for programs.
fn print_json(answer: &impl Serialize) -> anyhow::Result<()> {
    print(&format!("{}\n", serde_json::to_string_pretty(answer)?));
    Ok(())
}

/// Says something beside the answer.
fn note(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}
