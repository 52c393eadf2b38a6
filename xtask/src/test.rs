//! `cargo xtask test`: every check and every test, in order of their cost, one after the other. A failing step does not
//! stop the next; the table at the end has them all. What a step checks is said where it is defined.

use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use keyvault_sync_e2e::sandbox;
use keyvault_sync_e2e::tools::{NEWEST, OLDEST, Release};

use crate::{chart, command, r#gen, promises, tidy, tools};

/// The advisory database is a git repository outside the package registries: where there is none, the step must not hang.
const ADVISORIES_LIMIT: Duration = Duration::from_secs(60);

/// Options of `cargo xtask test`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Run only this step; may be given several times
    #[arg(long, value_name = "STEP")]
    only: Vec<String>,
    /// List the steps and run none
    #[arg(long)]
    list: bool,
    /// Run the promises alone (step e2e), on the oldest Kubernetes that is supported, or on the newest
    #[arg(long, value_name = "RELEASE", value_parser = ["oldest", "newest"], conflicts_with_all = ["only", "list"])]
    kubernetes: Option<String>,
}

struct Step {
    name: &'static str,
    about: &'static str,
    run: fn() -> anyhow::Result<Outcome>,
}

enum Outcome {
    Passed,
    /// It could not be judged here; why.
    Skipped(String),
}

const STEPS: &[Step] = &[
    Step { name: "fmt", about: "the sources are formatted", run: fmt },
    Step { name: "tidy", about: "the architecture's own rules", run: tidy_up },
    Step { name: "gen", about: "generated files are what the types say", run: generated },
    Step { name: "chart", about: "the chart, by Helm, kubeconform and a real API server", run: charts },
    Step { name: "clippy", about: "lints, of all targets, as errors", run: clippy },
    Step { name: "test", about: "unit, property, contract and documentation tests", run: test },
    Step { name: "e2e", about: "the promises, against a real API server", run: e2e },
    Step { name: "install", about: "image, chart and manifests, on real nodes (root)", run: install },
    Step { name: "doc", about: "the documentation builds without a warning", run: doc },
    Step { name: "crates", about: "each crate compiles alone", run: crates },
    Step { name: "deny", about: "dependencies: bans, licences, sources", run: deny },
    Step { name: "advisories", about: "dependencies: known vulnerabilities", run: advisories },
];

/// Runs the steps and prints a table of how they went.
///
/// # Errors
/// A step failed, or `--only` names none.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    if arguments.list {
        STEPS.iter().for_each(|step| println!("{:<12}{}", step.name, step.about));
        return Ok(());
    }
    if let Some(name) = &arguments.kubernetes {
        return promises::run(if name == OLDEST.name() { OLDEST } else { NEWEST });
    }
    if let Some(unknown) = arguments.only.iter().find(|name| STEPS.iter().all(|step| step.name != **name)) {
        bail!("there is no step `{unknown}`; `cargo xtask test --list` has them");
    }
    let chosen: Vec<_> = STEPS
        .iter()
        .filter(|step| arguments.only.is_empty() || arguments.only.iter().any(|name| name == step.name))
        .collect();

    let mut rows = Vec::new();
    for (index, step) in chosen.iter().enumerate() {
        println!("\n== {} ({} of {}): {}", step.name, index + 1, chosen.len(), step.about);
        std::io::stdout().flush().ok();
        let started = Instant::now();
        let result = (step.run)();
        if let Err(error) = &result {
            println!("error: {error:#}");
        }
        rows.push((step.name, started.elapsed(), result));
    }

    println!();
    for (name, elapsed, result) in &rows {
        println!("{name:<12}{:>7.1} s  {}", elapsed.as_secs_f64(), verdict(result));
    }
    let failed: Vec<_> =
        rows.iter().filter(|(_, _, result)| result.is_err()).map(|(name, ..)| *name).collect();
    if !failed.is_empty() {
        bail!("failed: {}; again: cargo xtask test --only {}", failed.join(", "), failed.join(" --only "));
    }
    Ok(())
}

fn verdict(result: &anyhow::Result<Outcome>) -> String {
    match result {
        Ok(Outcome::Passed) => "passed".to_owned(),
        Ok(Outcome::Skipped(why)) => format!("not judged: {why}"),
        Err(_) => "FAILED".to_owned(),
    }
}

fn cargo(arguments: &[&str]) -> anyhow::Result<Outcome> {
    command::run(command::cargo(arguments))?;
    Ok(Outcome::Passed)
}

fn fmt() -> anyhow::Result<Outcome> {
    cargo(&["fmt", "--all", "--check"]).context("`cargo fmt --all` puts it right")
}

fn tidy_up() -> anyhow::Result<Outcome> {
    tidy::run()?;
    Ok(Outcome::Passed)
}

fn generated() -> anyhow::Result<Outcome> {
    r#gen::run(true)?;
    Ok(Outcome::Passed)
}

fn charts() -> anyhow::Result<Outcome> {
    chart::check()?;
    Ok(Outcome::Passed)
}

fn clippy() -> anyhow::Result<Outcome> {
    cargo(&["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"])
}

fn test() -> anyhow::Result<Outcome> {
    cargo(&["test", "--workspace", "--exclude", promises::PACKAGE, "--locked", "--no-fail-fast"])
}

fn e2e() -> anyhow::Result<Outcome> {
    promises::run(Release::chosen()?)?;
    Ok(Outcome::Passed)
}

/// Needs root and rights that a container may not have; in CI that is a failure.
fn install() -> anyhow::Result<Outcome> {
    match sandbox::obstacle() {
        Some(why) if is_ci() => {
            bail!("the install test cannot be run here, and in CI nothing is skipped: {why}")
        }
        Some(why) => Ok(Outcome::Skipped(format!("the install test was not run: {why}"))),
        None => {
            install_test()?;
            Ok(Outcome::Passed)
        }
    }
}

/// `cargo xtask install-test`.
///
/// # Errors
/// It cannot be run here, or a promise is not kept.
pub(crate) fn install_test() -> anyhow::Result<()> {
    command::run(command::cargo(&[
        "test",
        "--package",
        promises::PACKAGE,
        "--locked",
        "--test",
        promises::INSTALL,
    ]))
}

/// As CI systems say it.
fn is_ci() -> bool {
    std::env::var_os("CI").is_some_and(|value| !value.is_empty() && value != "false")
}

fn doc() -> anyhow::Result<Outcome> {
    let mut doc = command::cargo(&["doc", "--workspace", "--no-deps", "--locked"]);
    doc.env("RUSTDOCFLAGS", "-D warnings");
    command::run(doc)?;
    Ok(Outcome::Passed)
}

/// Compiled together, crates borrow each other's features; alone, a feature that one forgot to ask for is missed.
fn crates() -> anyhow::Result<Outcome> {
    let mut failed = Vec::new();
    for package in packages()? {
        let check = command::cargo(&["check", "--quiet", "--locked", "--all-targets", "--package", &package]);
        if command::run(check).is_err() {
            failed.push(package);
        }
    }
    if !failed.is_empty() {
        bail!("these do not compile alone: {}", failed.join(", "));
    }
    Ok(Outcome::Passed)
}

fn packages() -> anyhow::Result<Vec<String>> {
    let text = command::output(command::cargo(&["metadata", "--no-deps", "--format-version=1", "--locked"]))?;
    let metadata: serde_json::Value = serde_json::from_str(&text)?;
    let packages = metadata["packages"].as_array().context("cargo metadata names no packages")?;
    Ok(packages.iter().filter_map(|package| Some(package["name"].as_str()?.to_owned())).collect())
}

fn cargo_deny(arguments: &[&str]) -> anyhow::Result<std::process::Command> {
    let mut deny = std::process::Command::new(tools::cargo_deny()?);
    deny.args(arguments);
    Ok(deny)
}

fn deny() -> anyhow::Result<Outcome> {
    command::run(cargo_deny(&[
        "--locked",
        "check",
        "--hide-inclusion-graph",
        "bans",
        "licenses",
        "sources",
    ])?)?;
    Ok(Outcome::Passed)
}

fn advisories() -> anyhow::Result<Outcome> {
    if let Err(error) = command::run_within(ADVISORIES_LIMIT, cargo_deny(&["fetch", "db"])?) {
        println!("{error:#}");
        let why = "the advisory database could not be fetched; run this step where its host is reached";
        return Ok(Outcome::Skipped(why.to_owned()));
    }
    command::run(cargo_deny(&["--locked", "check", "--disable-fetch", "advisories"])?)?;
    Ok(Outcome::Passed)
}
