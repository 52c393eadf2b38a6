//! The programs that tests and demo run beside us, made ready once and kept in the cache folder: the Kubernetes ones by
//! `keyvault-sync-e2e`, cargo-deny here.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, ensure};
use keyvault_sync_e2e::tools;

use crate::command;

/// Pinned: a newer one may judge the same tree differently.
const CARGO_DENY_VERSION: &str = "0.20.2";

/// Makes every program ready and prints where it is.
///
/// # Errors
/// A program cannot be built; the message says what is missing.
pub(crate) fn run() -> anyhow::Result<()> {
    let kubernetes = tools::ensure_tools()?;
    let node = tools::ensure_node_tools()?;
    let kubernetes =
        [kubernetes.etcd, kubernetes.kube_apiserver, kubernetes.kube_controller_manager, kubernetes.kubectl];
    let others = [node.kubelet, node.kube_scheduler, tools::helm()?, tools::kubeconform()?, cargo_deny()?];
    for program in kubernetes.into_iter().chain(others) {
        println!("{}", program.display());
    }
    Ok(())
}

/// cargo-deny of the pinned version, installed into the cache folder if it is not there.
///
/// # Errors
/// It cannot be installed: no crate registry, or no C compiler.
pub(crate) fn cargo_deny() -> anyhow::Result<PathBuf> {
    let cache = tools::cache_root()?;
    let folder = cache.join(format!("cargo-deny-{CARGO_DENY_VERSION}"));
    let program = folder.join("bin/cargo-deny");
    if !program.is_file() {
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        println!("installing cargo-deny {CARGO_DENY_VERSION}, once, into {}", folder.display());
        let mut install: Command =
            command::cargo(&["install", "--locked", "cargo-deny", "--version", CARGO_DENY_VERSION]);
        install.arg("--root").arg(&folder);
        // Its own build folder, and no profile or flags of this workspace's.
        install.env("CARGO_TARGET_DIR", folder.join("build")).env_remove("RUSTFLAGS");
        command::run(install)?;
        fs::remove_dir_all(folder.join("build")).ok();
        ensure!(program.is_file(), "cargo install left no {}", program.display());
    }
    Ok(program)
}
