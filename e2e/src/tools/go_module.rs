//! A program that is built once from a pinned Go module of this repository and kept in the cache folder, outside `target/`. Which
//! programs there are is `tools`' to say.

use std::fs::{self, File};
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use sha2::{Digest, Sha256};

use super::cache_root;
use crate::process::Process;

/// Bytes of the SHA-256 of go.mod and go.sum in the cache folder's name: enough to tell a few dozen versions apart.
const HASH_BYTES: usize = 6;

/// Two cold cores need four minutes for the slowest program; a machine that needs ten times that is stuck.
const BUILD_LIMIT: Duration = Duration::from_secs(40 * 60);

/// How often a build says that it goes on: on a terminal the line is rewritten, in a log each time is a line.
const PROGRESS_TERMINAL: Duration = Duration::from_secs(1);
const PROGRESS_LOG: Duration = Duration::from_secs(30);

/// A Go module that pins programs.
#[derive(Clone, Copy, Debug)]
pub(super) struct GoModule {
    /// What it is called in messages: `Kubernetes`.
    pub(super) title: &'static str,
    /// The module required whose version counts: `k8s.io/kubernetes`.
    pub(super) pinned: &'static str,
    pub(super) go_mod: &'static str,
    pub(super) go_sum: &'static str,
    pub(super) folder: &'static str,
    /// What the linker is told, given the version (`v1.2.3`), beside leaving out symbols.
    pub(super) linker_flags: fn(&str) -> String,
}

/// A program, and the Go package it is built from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Program {
    pub(super) name: &'static str,
    pub(super) package: &'static str,
}

impl GoModule {
    /// As `v1.2.3`.
    pub(super) fn version(&self) -> &'static str {
        let required = |line: &'static str| {
            let mut words = line.trim().trim_start_matches("require ").split_whitespace();
            (words.next() == Some(self.pinned)).then(|| words.next()).flatten()
        };
        self.go_mod.lines().find_map(required).unwrap_or("v0.0.0")
    }

    /// Where these programs are: in `assets` if that has them, else in the cache folder, built if they are missing.
    ///
    /// # Errors
    /// `go` is missing or too old, or a build fails; the message says what to do.
    pub(super) fn ensure<const N: usize>(
        &self,
        programs: [Program; N],
        assets: Option<&Path>,
    ) -> anyhow::Result<[PathBuf; N]> {
        self.ensure_in(&self.cache_folder()?, programs, assets)
    }

    pub(super) fn ensure_in<const N: usize>(
        &self,
        cache: &Path,
        programs: [Program; N],
        assets: Option<&Path>,
    ) -> anyhow::Result<[PathBuf; N]> {
        let ready = |name: &str| assets.map(|folder| folder.join(name)).filter(|file| file.is_file());
        let places = programs.map(|program| ready(program.name).unwrap_or_else(|| cache.join(program.name)));
        let missing = || -> Vec<(Program, PathBuf)> {
            programs.into_iter().zip(places.clone()).filter(|(_, place)| !place.is_file()).collect()
        };
        if missing().is_empty() {
            return Ok(places);
        }
        fs::create_dir_all(cache).with_context(|| format!("cannot make the folder {}", cache.display()))?;
        let _lock = lock(&cache.join(".lock"))?;
        // Who held the lock may have built them.
        let builds = missing();
        if let Some(folder) = assets.filter(|_| !builds.is_empty()) {
            let names: Vec<_> = builds.iter().map(|(program, _)| program.name).collect();
            say(&format!(
                "{} (KUBEBUILDER_ASSETS) has no {}: built here, of {} {}",
                folder.display(),
                names.join(", "),
                self.title,
                self.version()
            ));
        }
        for (index, (program, place)) in builds.iter().enumerate() {
            self.build(*program, place, &format!("{} of {}", index + 1, builds.len()))?;
        }
        Ok(places)
    }

    pub(super) fn cache_folder(&self) -> anyhow::Result<PathBuf> {
        let digest = Sha256::new().chain_update(self.go_mod).chain_update(self.go_sum).finalize();
        let hash: String = digest.iter().take(HASH_BYTES).map(|byte| format!("{byte:02x}")).collect();
        let version = self.version().trim_start_matches('v');
        Ok(cache_root()?.join(format!("{}-{version}-{hash}", self.title.to_lowercase())))
    }

    fn go_version(&self) -> &'static str {
        self.go_mod.lines().find_map(|line| line.strip_prefix("go ")).unwrap_or("1.26")
    }

    fn check_go(&self) -> anyhow::Result<()> {
        let needed = self.go_version();
        let answer = Command::new("go").arg("version").stdin(Stdio::null()).output();
        ensure!(
            answer.is_ok_and(|output| output.status.success()),
            "`go` is missing: install Go {needed} or newer from https://go.dev/dl and put it on PATH; or set KUBEBUILDER_ASSETS to a \
             folder with etcd, kube-apiserver, kube-controller-manager and kubectl, if it is only these"
        );
        Ok(())
    }

    fn build(&self, program: Program, place: &Path, count: &str) -> anyhow::Result<()> {
        self.check_go()?;
        let name = program.name;
        let folder = place.parent().context("the cache has no folder")?;
        let unfinished = folder.join(format!(".{name}.{}", std::process::id()));
        let log = folder.join(format!(".{name}.log"));
        fs::remove_file(&log).ok();
        let command = self.go_build(program.package, &unfinished);
        let process = Process::spawn(&format!("go build {}", program.package), &command, &log)?;
        let (started, of) = (Instant::now(), format!("{} {}", self.title, self.version()));
        let terminal = std::io::stderr().is_terminal();
        let status = loop {
            let line = format!("building {name} of {of} ({count}) … {} s", started.elapsed().as_secs());
            if terminal {
                say_over(&line)
            } else {
                say(&line)
            }
            let pause = if terminal { PROGRESS_TERMINAL } else { PROGRESS_LOG };
            if let Some(status) = process.wait_blocking(pause) {
                break status;
            }
            if started.elapsed() > BUILD_LIMIT {
                bail!(
                    "building {name} took more than {} min; see {}",
                    BUILD_LIMIT.as_secs() / 60,
                    log.display()
                );
            }
        };
        if !status.success() {
            fs::remove_file(&unfinished).ok();
            bail!(
                "building {name} failed ({status}). It needs Go {} and the Go module proxy. The end of its output:\n{}",
                self.go_version(),
                process.log_tail(20)
            );
        }
        fs::rename(&unfinished, place)
            .with_context(|| format!("cannot move {name} to {}", place.display()))?;
        fs::remove_file(&log).ok();
        let done = format!("built {name} ({count}) in {} s", started.elapsed().as_secs());
        if terminal {
            say_over(&format!("{done}\n"))
        } else {
            say(&done)
        }
        Ok(())
    }

    fn go_build(&self, package: &str, output: &Path) -> Command {
        let flags = format!("-s -w {}", (self.linker_flags)(self.version()));
        let mut go = Command::new("go");
        go.current_dir(self.folder)
            .args(["build", "-trimpath", "-ldflags", flags.trim_end(), "-o"])
            .arg(output)
            .arg(package)
            // None of them needs C, and a Go toolchain without C then suffices.
            .env("CGO_ENABLED", "0")
            // Flags and a workspace of the user's would change what is pinned here.
            .env("GOFLAGS", "-mod=readonly")
            .env("GOWORK", "off");
        go
    }
}

/// Two test processes that start together must not build twice. The kernel drops the lock with the process.
pub(crate) fn lock(path: &Path) -> anyhow::Result<File> {
    let file = File::create(path).with_context(|| format!("cannot open {}", path.display()))?;
    if file.try_lock().is_err() {
        say("another process makes the same programs ready: waiting for it");
        file.lock().with_context(|| format!("cannot lock {}", path.display()))?;
    }
    Ok(file)
}

/// One line on standard error, also from within a test: the test runner keeps back what `eprintln!` says.
fn say(line: &str) {
    writeln!(std::io::stderr(), "{line}").ok();
}

fn say_over(line: &str) {
    let mut stderr = std::io::stderr();
    write!(stderr, "\r\x1b[K{line}").ok();
    stderr.flush().ok();
}
