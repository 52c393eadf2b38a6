//! The official Azure clients for Python, unchanged, take the emulator for Azure: tests/python/clients.py says how.
//! Leaves the surface they do not reach to the other test files.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use common::{CLIENT, Key, PASSWORD, PATIENCE, SECRET, TENANT, VAULT, World, make};
use serde_json::json;
use tokio::io::AsyncWriteExt as _;

/// Promises that clients.py prints when they held.
const PROMISES: usize = 14;

/// Where Python environments are kept between runs.
fn cache() -> PathBuf {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    variable("KEYVAULT_SYNC_CACHE").unwrap_or_else(|| {
        variable("XDG_CACHE_HOME")
            .or_else(|| variable("HOME").map(|home| home.join(".cache")))
            .expect(
                "set KEYVAULT_SYNC_CACHE, XDG_CACHE_HOME or HOME to say where Python packages may be kept",
            )
            .join("keyvault-sync")
    })
}

/// The Python of an environment with exactly the pinned packages, made unless it is there.
fn python(requirements: &Path) -> PathBuf {
    let text = fs::read(requirements).unwrap();
    let hash: String =
        digest(&SHA256, &text).as_ref()[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    let ready = cache().join(format!("python-{hash}"));
    let python = ready.join("bin/python");
    if python.exists() {
        return python;
    }
    eprintln!("installing the Azure clients for Python into {} (once)", ready.display());
    fs::create_dir_all(cache()).unwrap();
    // Removed again unless it is renamed: an interrupted installation is never taken for a whole one.
    let building = tempfile::Builder::new().prefix("python-building-").tempdir_in(cache()).unwrap();
    let environment = building.path().join("environment");
    run(Command::new("python3").args(["-m", "venv"]).arg(&environment));
    let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement"];
    run(Command::new(environment.join("bin/python")).args(pip).arg(requirements));
    // Of two runs at once the first to finish wins.
    assert!(fs::rename(&environment, &ready).is_ok() || python.exists(), "cannot make {}", ready.display());
    python
}

fn run(command: &mut Command) {
    let status = command.stdin(Stdio::null()).status().unwrap();
    assert!(status.success(), "{command:?} ended with {status} (Debian: apt-get install python3-venv)");
}

#[tokio::test]
async fn the_official_python_clients_take_the_emulator_for_azure() {
    if Command::new("python3").arg("--version").output().is_err() {
        let fix =
            "python3 is missing: install it (apt-get install python3 python3-venv) to run the Azure clients";
        assert!(std::env::var("CI").as_deref() != Ok("true"), "{fix}");
        eprintln!("SKIPPED: {fix}");
        return;
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python");
    let requirements = folder.join("requirements.txt");
    let python = tokio::task::spawn_blocking(move || python(&requirements)).await.unwrap();

    let world = World::start().await;
    let made = make("web", Key::P256, Key::P256, false);
    let pfx = made.pfx();
    for number in 0..59 {
        world.put(&format!("other-{number}"), &pfx);
    }
    world.emulator.begin_operation(VAULT, "python-pending");
    // The clients' pollers must have something to wait for; the script ends it through the admin API.
    world.emulator.hold_deletions(VAULT);
    world.emulator.hold_recoveries(VAULT);
    let admin = world.emulator.start_admin(([127, 0, 0, 1], 0).into()).await.unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let ca_file = scratch.path().join("ca.pem");
    fs::write(&ca_file, world.emulator.ca_pem()).unwrap();
    let settings = json!({
        "port": world.emulator.address().port(),
        "ca_file": ca_file,
        "vault": VAULT, "tenant": TENANT, "client_id": CLIENT, "client_secret": SECRET,
        "assertion": world.issuer.assertion(json!({})),
        "wrong_assertion": world.issuer.assertion(json!({"sub": "system:serviceaccount:other:other"})),
        "pfx": STANDARD.encode(&pfx), "password": PASSWORD,
        "chain": made.chain.iter().map(|der| STANDARD.encode(der)).collect::<Vec<_>>(),
        "key": STANDARD.encode(&made.key),
        "listed": 60,
        "admin": format!("http://{admin}"),
        "patience": PATIENCE.as_secs(),
    });
    let mut child = tokio::process::Command::new(python)
        .arg(folder.join("clients.py"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(settings.to_string().as_bytes()).await.unwrap();
    let output = tokio::time::timeout(5 * PATIENCE, child.wait_with_output()).await.unwrap().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{complained}");
    assert_eq!(said.matches("held: ").count(), PROMISES, "{said}");
    print!("{said}");
}
