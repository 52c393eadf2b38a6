//! The programs of a Kubernetes control plane: found where `KUBEBUILDER_ASSETS` points, else built once from a pinned Go module,
//! `e2e/tools/kubernetes` or `kubernetes-oldest`, and kept outside `target/`. Running them is `cluster`'s work.

use std::env;
use std::fs::{self, File};
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use sha2::{Digest, Sha256};

use crate::process::Process;

/// Which Kubernetes is run: `newest`, which it is without this, or `oldest`, the oldest that is supported.
pub const RELEASE_VARIABLE: &str = "KEYVAULT_SYNC_TEST_KUBERNETES";

/// A Kubernetes release, pinned by a Go module.
#[derive(Clone, Copy, Debug)]
pub struct Release {
    name: &'static str,
    go_mod: &'static str,
    go_sum: &'static str,
    folder: &'static str,
}

/// What is run unless somebody asks for another.
pub const NEWEST: Release = Release {
    name: "newest",
    go_mod: include_str!("../tools/kubernetes/go.mod"),
    go_sum: include_str!("../tools/kubernetes/go.sum"),
    folder: concat!(env!("CARGO_MANIFEST_DIR"), "/tools/kubernetes"),
};

/// The oldest that is supported.
pub const OLDEST: Release = Release {
    name: "oldest",
    go_mod: include_str!("../tools/kubernetes-oldest/go.mod"),
    go_sum: include_str!("../tools/kubernetes-oldest/go.sum"),
    folder: concat!(env!("CARGO_MANIFEST_DIR"), "/tools/kubernetes-oldest"),
};

/// Bytes of the SHA-256 of go.mod and go.sum in the cache folder's name: enough to tell a few dozen versions apart.
const HASH_BYTES: usize = 6;

/// Two cold cores need four minutes for the slowest program; a machine that needs ten times that is stuck.
const BUILD_LIMIT: Duration = Duration::from_secs(40 * 60);

/// How often a build says that it goes on: on a terminal the line is rewritten, in a log each time is a line.
const PROGRESS_TERMINAL: Duration = Duration::from_secs(1);
const PROGRESS_LOG: Duration = Duration::from_secs(30);

/// The four programs, ready to run.
#[derive(Clone, Debug)]
pub struct Tools {
    /// `etcd`
    pub etcd: PathBuf,
    /// `kube-apiserver`
    pub kube_apiserver: PathBuf,
    /// `kube-controller-manager`
    pub kube_controller_manager: PathBuf,
    /// `kubectl`
    pub kubectl: PathBuf,
}

/// Program, and the Go package it is built from. The order is that of need: who waits sees the long one early.
const PROGRAMS: [(&str, &str); 4] = [
    ("etcd", "go.etcd.io/etcd/server/v3"),
    ("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver"),
    ("kube-controller-manager", "k8s.io/kubernetes/cmd/kube-controller-manager"),
    ("kubectl", "k8s.io/kubernetes/cmd/kubectl"),
];

/// Makes the programs ready that the environment asks for (`Release::chosen`).
///
/// # Errors
/// As `Release::ensure_tools`.
pub fn ensure_tools() -> anyhow::Result<Tools> {
    Release::chosen()?.ensure_tools()
}

/// The folder that keeps what was built or installed for this repository: `KEYVAULT_SYNC_CACHE`, else
/// `keyvault-sync` in the user's cache folder. It may be deleted at any time.
///
/// # Errors
/// Neither that variable nor `XDG_CACHE_HOME` nor `HOME` is set.
pub fn cache_root() -> anyhow::Result<PathBuf> {
    let set = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("KEYVAULT_SYNC_CACHE")
        .or_else(|| set("XDG_CACHE_HOME").map(|folder| folder.join("keyvault-sync")))
        .or_else(|| set("HOME").map(|folder| folder.join(".cache/keyvault-sync")))
        .context("no folder to keep built programs in: set KEYVAULT_SYNC_CACHE to one")
}

impl Release {
    /// The one that `RELEASE_VARIABLE` names; without it the newest.
    ///
    /// # Errors
    /// It names none.
    pub fn chosen() -> anyhow::Result<Release> {
        let name = env::var(RELEASE_VARIABLE).unwrap_or_default();
        let named = [NEWEST, OLDEST].into_iter().find(|release| release.name == name);
        named
            .or_else(|| name.is_empty().then_some(NEWEST))
            .with_context(|| format!("{RELEASE_VARIABLE} is {name:?}, which is neither newest nor oldest"))
    }

    /// How `RELEASE_VARIABLE` calls it.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// As `v1.2.3`.
    pub fn version(&self) -> &'static str {
        self.go_mod
            .lines()
            .find_map(|line| line.trim().strip_prefix("k8s.io/kubernetes "))
            .and_then(|rest| rest.split_whitespace().next())
            .unwrap_or("v0.0.0")
    }

    /// Finds the programs, building those that are missing. The first time on a machine this takes about seven minutes and
    /// says on standard error what it does. `KUBEBUILDER_ASSETS`, which is of any release, does not count for the oldest.
    ///
    /// # Errors
    /// `go` is missing or too old, or a build fails; the message says what to do.
    pub fn ensure_tools(&self) -> anyhow::Result<Tools> {
        let assets = env::var_os("KUBEBUILDER_ASSETS").filter(|folder| !folder.is_empty());
        let assets = assets.map(PathBuf::from).filter(|_| self.name == NEWEST.name);
        if let Some(folder) = &assets {
            ensure!(
                folder.is_dir(),
                "KUBEBUILDER_ASSETS names {}, which is no folder; unset it, and the programs are built",
                folder.display()
            );
        }
        let [etcd, kube_apiserver, kube_controller_manager, kubectl] =
            find(self, assets.as_deref(), &self.cache_folder()?)?;
        Ok(Tools { etcd, kube_apiserver, kube_controller_manager, kubectl })
    }

    fn go_version(&self) -> &'static str {
        self.go_mod.lines().find_map(|line| line.strip_prefix("go ")).unwrap_or("1.26")
    }

    fn cache_folder(&self) -> anyhow::Result<PathBuf> {
        let digest = Sha256::new().chain_update(self.go_mod).chain_update(self.go_sum).finalize();
        let hash: String = digest.iter().take(HASH_BYTES).map(|byte| format!("{byte:02x}")).collect();
        let version = self.version().trim_start_matches('v');
        Ok(cache_root()?.join(format!("kubernetes-{version}-{hash}")))
    }
}

fn find(release: &Release, assets: Option<&Path>, cache: &Path) -> anyhow::Result<[PathBuf; 4]> {
    let ready = |name: &str| assets.map(|folder| folder.join(name)).filter(|file| file.is_file());
    let places = PROGRAMS.map(|(name, _)| ready(name).unwrap_or_else(|| cache.join(name)));
    let missing = || {
        (0..PROGRAMS.len())
            .filter(|&i| !places[i].is_file())
            .map(|i| (PROGRAMS[i], places[i].clone()))
            .collect()
    };
    let before: Vec<_> = missing();
    if before.is_empty() {
        return Ok(places);
    }
    fs::create_dir_all(cache).with_context(|| format!("cannot make the folder {}", cache.display()))?;
    let _lock = lock(&cache.join(".lock"))?;
    // Who held the lock may have built them.
    let builds: Vec<_> = missing();
    if !builds.is_empty() {
        if let Some(folder) = assets {
            let names: Vec<_> = builds.iter().map(|((name, _), _)| *name).collect();
            say(&format!(
                "{} (KUBEBUILDER_ASSETS) has no {}: built here, of Kubernetes {}",
                folder.display(),
                names.join(", "),
                release.version()
            ));
        }
        check_go(release)?;
        for (index, ((name, package), place)) in builds.iter().enumerate() {
            build(release, name, package, place, &format!("{} of {}", index + 1, builds.len()))?;
        }
    }
    Ok(places)
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

fn check_go(release: &Release) -> anyhow::Result<()> {
    let needed = release.go_version();
    let answer = Command::new("go").arg("version").stdin(Stdio::null()).output();
    ensure!(
        answer.is_ok_and(|output| output.status.success()),
        "`go` is missing: install Go {needed} or newer from https://go.dev/dl and put it on PATH, or set KUBEBUILDER_ASSETS \
         to a folder with etcd, kube-apiserver, kube-controller-manager and kubectl"
    );
    Ok(())
}

fn build(release: &Release, name: &str, package: &str, place: &Path, count: &str) -> anyhow::Result<()> {
    let folder = place.parent().context("the cache has no folder")?;
    let unfinished = folder.join(format!(".{name}.{}", std::process::id()));
    let log = folder.join(format!(".{name}.log"));
    fs::remove_file(&log).ok();
    let process =
        Process::spawn(&format!("go build {package}"), &go_build(release, package, &unfinished), &log)?;
    let (started, kubernetes) = (Instant::now(), format!("Kubernetes {}", release.version()));
    let terminal = std::io::stderr().is_terminal();
    let status = loop {
        let line = format!("building {name} of {kubernetes} ({count}) … {} s", started.elapsed().as_secs());
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
            bail!("building {name} took more than {} min; see {}", BUILD_LIMIT.as_secs() / 60, log.display());
        }
    };
    if !status.success() {
        fs::remove_file(&unfinished).ok();
        bail!(
            "building {name} failed ({status}). It needs Go {} and the Go module proxy. The end of its output:\n{}",
            release.go_version(),
            process.log_tail(20)
        );
    }
    fs::rename(&unfinished, place).with_context(|| format!("cannot move {name} to {}", place.display()))?;
    fs::remove_file(&log).ok();
    let done = format!("built {name} ({count}) in {} s", started.elapsed().as_secs());
    if terminal {
        say_over(&format!("{done}\n"))
    } else {
        say(&done)
    }
    Ok(())
}

fn go_build(release: &Release, package: &str, output: &Path) -> Command {
    let version = release.version();
    let mut parts = version.trim_start_matches('v').split('.');
    let (major, minor) = (parts.next().unwrap_or("0"), parts.next().unwrap_or("0"));
    let variable = |name: &str, value: &str| format!("-X k8s.io/component-base/version.{name}={value}");
    let flags = [
        "-s -w".to_owned(),
        variable("gitVersion", version),
        variable("gitMajor", major),
        variable("gitMinor", minor),
    ];
    let mut go = Command::new("go");
    go.current_dir(release.folder)
        .args(["build", "-trimpath", "-ldflags", &flags.join(" "), "-o"])
        .arg(output)
        .arg(package)
        // None of them needs C, and a Go toolchain without C then suffices.
        .env("CGO_ENABLED", "0")
        // Flags and a workspace of the user's would change what is pinned here.
        .env("GOFLAGS", "-mod=readonly")
        .env("GOWORK", "off");
    go
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_staging_module_is_of_the_pinned_release() {
        for release in [NEWEST, OLDEST] {
            assert!(release.version().starts_with("v1."), "{}", release.version());
            let published = release.version().replacen("v1.", "v0.", 1);
            let replaced: Vec<_> = release.go_mod.lines().filter(|line| line.contains(" => ")).collect();
            assert!(replaced.len() >= 30, "{replaced:?}");
            for line in replaced {
                assert!(line.ends_with(&published), "{line} is not {published}");
            }
        }
        assert_ne!(NEWEST.cache_folder().unwrap(), OLDEST.cache_folder().unwrap());
    }

    #[test]
    fn ready_programs_are_taken_and_nothing_is_built() {
        let folder = tempfile::tempdir().unwrap();
        for (name, _) in PROGRAMS {
            fs::write(folder.path().join(name), "").unwrap();
        }
        let cache = folder.path().join("cache");
        let found = find(&NEWEST, Some(folder.path()), &cache).unwrap();
        assert_eq!(found, PROGRAMS.map(|(name, _)| folder.path().join(name)));
        assert!(!cache.exists());
    }

    #[test]
    fn what_the_assets_lack_is_taken_from_the_cache() {
        let assets = tempfile::tempdir().unwrap();
        let cache = tempfile::tempdir().unwrap();
        for name in ["etcd", "kube-apiserver", "kubectl"] {
            fs::write(assets.path().join(name), "").unwrap();
        }
        fs::write(cache.path().join("kube-controller-manager"), "").unwrap();
        let found = find(&NEWEST, Some(assets.path()), cache.path()).unwrap();
        assert_eq!(found[1], assets.path().join("kube-apiserver"));
        assert_eq!(found[2], cache.path().join("kube-controller-manager"));
    }
}
