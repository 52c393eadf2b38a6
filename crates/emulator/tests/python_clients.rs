//! The official Azure clients for Python, unchanged, take the emulator for Azure: the scripts in tests/python say how.
//! Leaves the surface they do not reach to the other test files.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use common::{
    CLIENT, CLOUDS, ClientCertificate, ENTRA, Key, PASSWORD, PATIENCE, SECRET, TENANT, VAULT, World, make,
    tags,
};
use keyvault_emulator::Permissions;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;

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

/// A script of tests/python, run to its end with these settings and those that all have; none without Python. How many
/// promises it prints is part of the test: a script that ends early proves nothing.
async fn script(name: &str, world: &World, settings: Value, promises: usize) {
    static PYTHON: OnceLock<PathBuf> = OnceLock::new();
    if Command::new("python3").arg("--version").output().is_err() {
        let fix =
            "python3 is missing: install it (apt-get install python3 python3-venv) to run the Azure clients";
        assert!(std::env::var("CI").as_deref() != Ok("true"), "{fix}");
        eprintln!("SKIPPED: {fix}");
        return;
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python");
    let requirements = folder.join("requirements.txt");
    let python = tokio::task::spawn_blocking(move || PYTHON.get_or_init(|| python(&requirements))).await;

    let admin = world.emulator.start_admin(([127, 0, 0, 1], 0).into()).await.unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let ca_file = scratch.path().join("ca.pem");
    fs::write(&ca_file, world.emulator.ca_pem()).unwrap();
    let mut all = json!({
        "port": world.emulator.address().port(),
        "ca_file": ca_file,
        "tenant": TENANT, "client_id": CLIENT, "client_secret": SECRET,
        "admin": format!("http://{admin}"),
        "patience": PATIENCE.as_secs(),
    });
    all.as_object_mut().unwrap().extend(settings.as_object().unwrap().clone());
    let mut child = tokio::process::Command::new(python.unwrap())
        // No file of Python's own in the source folder.
        .arg("-B")
        .arg(folder.join(name))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(all.to_string().as_bytes()).await.unwrap();
    let output = tokio::time::timeout(5 * PATIENCE, child.wait_with_output()).await.unwrap().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{complained}");
    assert_eq!(said.matches("held: ").count(), promises, "{said}");
    print!("{said}");
}

#[tokio::test]
async fn the_official_python_clients_take_the_emulator_for_azure() {
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
    let settings = json!({
        "vault": VAULT,
        "assertion": world.issuer.assertion(json!({})),
        "wrong_assertion": world.issuer.assertion(json!({"sub": "system:serviceaccount:other:other"})),
        "pfx": STANDARD.encode(&pfx), "password": PASSWORD,
        "chain": made.chain.iter().map(|der| STANDARD.encode(der)).collect::<Vec<_>>(),
        "key": STANDARD.encode(&made.key),
        "listed": 60,
    });
    script("clients.py", &world, settings, 14).await;
}

#[tokio::test]
async fn azure_identity_for_python_gets_its_tokens_in_every_way() {
    let world = World::start().await;
    let [good, expired, unknown] =
        [(-1, 9), (-9, -1), (-1, 9)].map(|(from, to)| ClientCertificate::new(from, to));
    let expired_secret = "yesterday's";
    world.change_application(|application| {
        application.expired_secrets = vec![expired_secret.into()];
        application.certificates = vec![good.der.clone(), expired.der.clone()];
    });
    let (system, user) = ("aaaaaaaa-0000-0000-0000-000000000001", "aaaaaaaa-0000-0000-0000-000000000002");
    let made = make("web", Key::P256, Key::P256, false);
    for cloud in &CLOUDS {
        world.emulator.add_vault(cloud.vault, TENANT);
        for client_id in [CLIENT, system, user] {
            world.emulator.allow(cloud.vault, client_id, Permissions::certificates_officer());
        }
        world.emulator.put_certificate(cloud.vault, "web", &made.pfx(), PASSWORD, tags(&[]));
    }
    let scratch = tempfile::tempdir().unwrap();
    let token_file = scratch.path().join("token");
    fs::write(&token_file, world.issuer.assertion(json!({}))).unwrap();
    let cloud = |authority: &str, vault: &str| json!({"authority": authority, "vault": vault});
    let settings = json!({
        "clouds": [
            cloud(ENTRA, VAULT),
            cloud("login.chinacloudapi.cn", "contoso.vault.azure.cn"),
            cloud("login.microsoftonline.us", "contoso.vault.usgovcloudapi.net"),
        ],
        "expired_secret": expired_secret,
        "certificate": good.pem(),
        "unknown_certificate": unknown.pem(),
        "expired_certificate": expired.pem(),
        "token_file": token_file,
        "imds": world.emulator.imds_endpoint(),
        "system": system, "user": user,
        "name": "web", "cer": STANDARD.encode(&made.chain[0]),
    });
    script("identities.py", &world, settings, 11).await;
}
