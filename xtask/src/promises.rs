//! The promise tests, three files at a time: they wait for conditions most of the time, and each has a control plane of its own.
//! What is promised is left to `e2e/tests`.

use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use std::{fs, thread};

use anyhow::{Context, bail};
use keyvault_sync_e2e::Process;
use keyvault_sync_e2e::tools::{RELEASE_VARIABLE, Release};

use crate::command;

/// The package of the tests that need a cluster.
pub(crate) const PACKAGE: &str = "keyvault-sync-e2e";

/// The file that needs root, and is a step of its own.
pub(crate) const INSTALL: &str = "install";

/// Two cores carry three control planes, one of which (of `drift`) waits for the clock; with more, tests that were quick begin to
/// wait for each other.
const AT_A_TIME: usize = 3;

/// A file that takes longer hangs: the slowest takes a tenth of it.
const LIMIT: Duration = Duration::from_secs(45 * 60);

/// Runs all files of promise tests on this Kubernetes, and the unit tests of what they stand on.
///
/// # Errors
/// Something does not compile, or a file fails: all are run nevertheless, and the error names those that failed.
pub(crate) fn run(release: Release) -> anyhow::Result<()> {
    release.ensure_tools()?;
    // The promises are tested on the operator's binary, which cargo does not build for another crate's tests.
    command::run(command::cargo(&["build", "--locked", "--package", "keyvault-sync"]))?;
    command::run(command::cargo(&["test", "--package", PACKAGE, "--locked", "--no-run"]))?;
    let files = Mutex::new(files()?);
    let count = files.lock().unwrap_or_else(PoisonError::into_inner).len();
    let version = release.version();
    println!(
        "{count} files of promise tests on Kubernetes {version}, {AT_A_TIME} at a time; each is shown when it has ended"
    );
    let (failed, shown) = (Mutex::new(Vec::new()), Mutex::new(()));
    let work = || {
        loop {
            let Some(file) = files.lock().unwrap_or_else(PoisonError::into_inner).pop() else { return };
            println!("   {file} begins");
            let begun = Instant::now();
            let (output, result) = play(&file, release);
            let _one_at_a_time = shown.lock().unwrap_or_else(PoisonError::into_inner);
            println!("\n-- {file}, {} s\n{}", begun.elapsed().as_secs(), output.trim_end());
            if let Err(error) = result {
                println!("error: {error:#}");
                failed.lock().unwrap_or_else(PoisonError::into_inner).push(file);
            }
        }
    };
    thread::scope(|scope| (0..AT_A_TIME).for_each(|_| drop(scope.spawn(work))));
    let failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
    if !failed.is_empty() {
        bail!(
            "failed on Kubernetes {version}: {}; one again: {RELEASE_VARIABLE}={} cargo test --package {PACKAGE} --test {}",
            failed.join(", "),
            release.name(),
            failed.first().map_or("", String::as_str)
        );
    }
    command::run(command::cargo(&["test", "--package", PACKAGE, "--locked", "--lib"]))?;
    command::run(command::cargo(&["test", "--package", PACKAGE, "--locked", "--doc"]))
}

/// The names of the test files. They are taken from the end, so the ones that take longest stand there.
fn files() -> anyhow::Result<Vec<String>> {
    let text = command::output(command::cargo(&["metadata", "--no-deps", "--format-version=1", "--locked"]))?;
    let metadata: serde_json::Value = serde_json::from_str(&text)?;
    let packages = metadata["packages"].as_array().context("cargo metadata names no packages")?;
    let package =
        packages.iter().find(|package| package["name"] == PACKAGE).context("no package of tests")?;
    let targets = package["targets"].as_array().context("the package of tests has no targets")?;
    let is_test = |target: &&serde_json::Value| target["kind"][0] == "test";
    let mut files: Vec<String> = targets
        .iter()
        .filter(is_test)
        .filter_map(|target| Some(target["name"].as_str()?.to_owned()))
        .filter(|file| file != INSTALL)
        .collect();
    files.sort_by_key(|file| LONGEST.iter().rev().position(|long| long == file).map_or(0, |place| place + 1));
    Ok(files)
}

/// Begun first, so that the last one to end is a short one.
const LONGEST: [&str; 7] =
    ["drift", "deletion_restarts", "installations", "leadership", "deletion", "hand_tools", "crash"];

/// Runs one file; its output, and whether it passed.
fn play(file: &str, release: Release) -> (String, anyhow::Result<()>) {
    let log = std::env::temp_dir().join(format!("keyvault-sync-{}-{file}.log", std::process::id()));
    let result = play_into(file, release, &log);
    let output = fs::read_to_string(&log).unwrap_or_default();
    fs::remove_file(&log).ok();
    (output, result)
}

fn play_into(file: &str, release: Release, log: &Path) -> anyhow::Result<()> {
    let mut test = command::cargo(&["test", "--quiet", "--package", PACKAGE, "--locked", "--test", file]);
    test.current_dir(command::root()?).env(RELEASE_VARIABLE, release.name());
    let process = Process::spawn(file, &test, log)?;
    match process.wait_blocking(LIMIT) {
        Some(status) if status.success() => Ok(()),
        Some(status) => bail!("{file} failed ({status})"),
        None => bail!("{file} did not end in {} s and was ended", LIMIT.as_secs()),
    }
}
