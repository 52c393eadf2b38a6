//! Running other programs in the foreground: from the repository's root, ended with us.
//! What they are for is their callers' business.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail};
use keyvault_sync_e2e::Process;

/// The slowest step, a cold build of everything on a small machine, takes a fraction of it. More is a hang.
const LIMIT: Duration = Duration::from_secs(90 * 60);

/// The repository's root.
///
/// # Errors
/// None in a checkout.
pub(crate) fn root() -> anyhow::Result<PathBuf> {
    Ok(Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask lies in no folder")?.to_owned())
}

/// The cargo that runs us, with these arguments.
pub(crate) fn cargo(arguments: &[&str]) -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(arguments);
    cargo
}

/// Runs `command` in the repository's root with our output, having said what it runs.
///
/// # Errors
/// It cannot be started, fails, or does not end in an hour and a half.
pub(crate) fn run(command: Command) -> anyhow::Result<()> {
    run_within(LIMIT, command)
}

/// `run` with another limit of time.
///
/// # Errors
/// As `run`.
pub(crate) fn run_within(limit: Duration, mut command: Command) -> anyhow::Result<()> {
    let line = line(&command);
    println!("+ {line}");
    command.current_dir(root()?);
    let process = Process::spawn_inherited(&line, &command)?;
    match process.wait_blocking(limit) {
        Some(status) if status.success() => Ok(()),
        Some(status) => bail!("`{line}` failed ({status})"),
        None => bail!("`{line}` did not end in {} s and was ended", limit.as_secs()),
    }
}

/// Runs `command` in the repository's root and returns what it prints.
///
/// # Errors
/// It cannot be started, or fails; its own words are in the error.
pub(crate) fn output(mut command: Command) -> anyhow::Result<String> {
    let line = line(&command);
    let output =
        command.current_dir(root()?).output().with_context(|| format!("`{line}` cannot be started"))?;
    if !output.status.success() {
        bail!("`{line}` failed ({}): {}", output.status, String::from_utf8_lossy(&output.stderr).trim_end());
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// The command as one would type it: the program without its folder.
fn line(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or(command.get_program());
    std::iter::once(program)
        .chain(command.get_args())
        .map(|word| word.to_string_lossy().into_owned())
        .collect::<Vec<_>>()
        .join(" ")
}
