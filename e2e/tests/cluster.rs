//! What the local cluster promises to the tests and the demo that stand on it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking, in its helpers too"
)]

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use keyvault_sync_e2e::certificates::{Authority, KeyType, Leaf};
use keyvault_sync_e2e::process::is_running;
use keyvault_sync_e2e::wait::{self, Seen};
use keyvault_sync_e2e::{LocalCluster, Process};
use kube::api::{DeleteParams, PostParams};
use kube::{Api, Client, Resource};
use serde_json::Value;

/// Set for the child of `a_killed_test_leaves_no_process_and_no_folder`: what it is to hold when it is killed.
const VICTIM: &str = "KEYVAULT_SYNC_TEST_VICTIM";

async fn namespace(client: &Client, name: &str) {
    let namespace = Namespace {
        metadata: ObjectMeta { name: Some(name.into()), ..Default::default() },
        ..Default::default()
    };
    Api::<Namespace>::all(client.clone()).create(&PostParams::default(), &namespace).await.unwrap();
}

fn config_map(name: &str, owners: Vec<OwnerReference>) -> ConfigMap {
    ConfigMap {
        metadata: ObjectMeta {
            name: Some(name.into()),
            owner_references: Some(owners),
            ..Default::default()
        },
        ..Default::default()
    }
}

fn claims(token: &str) -> [Value; 2] {
    let mut parts = token.split('.');
    [(); 2].map(|()| {
        serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(parts.next().unwrap()).unwrap()).unwrap()
    })
}

/// One cluster for all the promises that leave it whole: a start costs seconds.
#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_behaves_like_kubernetes() {
    let cluster = LocalCluster::start().await.unwrap();
    let client = cluster.admin();
    a_deleted_namespace_goes(&client).await;
    what_an_owner_leaves_is_collected(&client).await;
    a_token_names_its_service_account_and_one_of_the_published_keys(&cluster).await;
    a_service_account_may_do_only_what_its_roles_say(&cluster).await;
    a_definition_is_served_once_it_is_applied(&cluster).await;
    a_refused_document_is_reported_in_kubectls_words(&cluster).await;
    the_state_outlives_the_api_server(&cluster).await;
    a_suspended_api_server_is_silent_and_comes_back(&cluster).await;

    let (pids, folder) = (cluster.pids(), cluster.folder().to_path_buf());
    cluster.stop().await.unwrap();
    assert!(pids.iter().all(|pid| !is_running(*pid)), "stop() left a process of {pids:?}");
    assert!(!folder.exists(), "stop() left {}", folder.display());
}

async fn a_deleted_namespace_goes(client: &Client) {
    namespace(client, "short-lived").await;
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "short-lived");
    maps.create(&PostParams::default(), &config_map("content", vec![])).await.unwrap();
    let namespaces: Api<Namespace> = Api::all(client.clone());
    namespaces.delete("short-lived", &DeleteParams::default()).await.unwrap();
    wait::gone(&namespaces, "short-lived").await.unwrap();
}

async fn what_an_owner_leaves_is_collected(client: &Client) {
    let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
    let owner = maps.create(&PostParams::default(), &config_map("owner", vec![])).await.unwrap();
    let reference = owner.owner_ref(&()).unwrap();
    maps.create(&PostParams::default(), &config_map("owned", vec![reference])).await.unwrap();
    maps.delete("owner", &DeleteParams::default()).await.unwrap();
    wait::gone(&maps, "owned").await.unwrap();
}

async fn a_token_names_its_service_account_and_one_of_the_published_keys(cluster: &LocalCluster) {
    let token = cluster.token("default", "default", &["api://AzureADTokenExchange"], 3600).await.unwrap();
    let [header, claims] = claims(&token);
    assert_eq!(header["alg"], "RS256");
    assert_eq!(claims["iss"], cluster.issuer());
    assert_eq!(claims["sub"], "system:serviceaccount:default:default");
    assert_eq!(claims["aud"], serde_json::json!(["api://AzureADTokenExchange"]));
    let lifetime = claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap();
    assert_eq!(lifetime, 3600);
    let keys = cluster.jwks().await.unwrap();
    let key = keys["keys"].as_array().unwrap().iter().find(|key| key["kid"] == header["kid"]);
    let key = key.unwrap_or_else(|| panic!("no key {} among {keys}", header["kid"]));
    assert_eq!((&key["kty"], &key["use"]), (&"RSA".into(), &"sig".into()));
    assert!(verifies(&token, key), "the token is not signed by the published key");
}

/// RS256 by the library that is under our TLS, with the key as the JSON Web Key has it.
fn verifies(token: &str, key: &Value) -> bool {
    let decode = |text: &str| BASE64_URL_SAFE_NO_PAD.decode(text).unwrap();
    let (signed, signature) = token.rsplit_once('.').unwrap();
    let component = |name: &str| decode(key[name].as_str().unwrap());
    let public = aws_lc_rs::signature::RsaPublicKeyComponents { n: component("n"), e: component("e") };
    let algorithm = &aws_lc_rs::signature::RSA_PKCS1_2048_8192_SHA256;
    public.verify(algorithm, signed.as_bytes(), &decode(signature)).is_ok()
}

async fn a_service_account_may_do_only_what_its_roles_say(cluster: &LocalCluster) {
    let path = cluster.folder().join("default.kubeconfig");
    cluster.kubeconfig_for("default", "default", &path).await.unwrap();
    let whoami = cluster
        .kubectl(&["--kubeconfig", path.to_str().unwrap(), "auth", "whoami", "--output=name"])
        .await
        .unwrap();
    assert!(whoami.status.success(), "{}", String::from_utf8_lossy(&whoami.stderr));
    let secrets = cluster.kubectl(&["--kubeconfig", path.to_str().unwrap(), "get", "secrets"]).await.unwrap();
    let said = String::from_utf8_lossy(&secrets.stderr).into_owned();
    assert!(said.contains(r#"User "system:serviceaccount:default:default" cannot list"#), "{said}");
}

async fn a_definition_is_served_once_it_is_applied(cluster: &LocalCluster) {
    let yaml = r"
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {kind: Widget, plural: widgets, singular: widget}
  versions:
  - name: v1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
---
apiVersion: v1
kind: Namespace
metadata: {name: widgets}
";
    cluster.apply(yaml).await.unwrap();
    cluster
        .apply("{apiVersion: example.com/v1, kind: Widget, metadata: {name: a, namespace: widgets}}")
        .await
        .unwrap();
    let output = cluster.kubectl(&["get", "widgets", "--namespace=widgets", "--output=name"]).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "widget.example.com/a");
}

async fn a_refused_document_is_reported_in_kubectls_words(cluster: &LocalCluster) {
    let refused = cluster.apply("{apiVersion: v1, kind: ConfigMap, metadata: {name: Not_A_Name}}").await;
    let said = refused.unwrap_err().to_string();
    assert!(said.contains("Not_A_Name") && said.contains("RFC 1123"), "{said}");
}

async fn the_state_outlives_the_api_server(cluster: &LocalCluster) {
    let maps: Api<ConfigMap> = Api::default_namespaced(cluster.admin());
    maps.create(&PostParams::default(), &config_map("lasting", vec![])).await.unwrap();
    for end in ["stop", "kill"] {
        match end {
            "stop" => cluster.stop_apiserver().await,
            _ => cluster.kill_apiserver(),
        }
        assert!(maps.get("lasting").await.is_err(), "an API server answered after {end}");
        cluster.start_apiserver().await.unwrap();
        maps.get("lasting").await.unwrap();
    }
    // The controllers find their way back: a new namespace is still given its ServiceAccount.
    namespace(&cluster.admin(), "after-restart").await;
    let accounts: Api<ServiceAccount> = Api::namespaced(cluster.admin(), "after-restart");
    wait::object(&accounts, "default", "to exist", |_| true).await.unwrap();
}

async fn a_suspended_api_server_is_silent_and_comes_back(cluster: &LocalCluster) {
    let maps: Api<ConfigMap> = Api::default_namespaced(cluster.admin());
    cluster.suspend_apiserver();
    let answer = tokio::time::timeout(Duration::from_secs(1), maps.get("lasting")).await;
    assert!(answer.is_err(), "a suspended API server answered");
    cluster.resume_apiserver();
    maps.get("lasting").await.unwrap();
}

#[tokio::test]
async fn a_killed_test_leaves_no_process_and_no_folder() {
    let mut victim = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "victim", "--ignored", "--nocapture", "--test-threads=1"])
        .env(VICTIM, "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .process_group(0)
        .spawn()
        .unwrap();
    let lines = BufReader::new(victim.stdout.take().unwrap()).lines();
    let mut pids = Vec::<u32>::new();
    let mut folder = None::<PathBuf>;
    for line in lines.map_while(Result::ok) {
        match line.split_once('=') {
            Some(("victim-pid", pid)) => pids.push(pid.parse().unwrap()),
            Some(("victim-folder", path)) => folder = Some(path.into()),
            Some(("victim-ready", _)) => break,
            _ => {}
        }
    }
    let folder = folder.expect("the victim did not start a cluster; its own output says why");
    let before = pids.iter().filter(|pid| is_running(**pid)).count();
    let existed = folder.exists();
    // Only the test process: its children must go without being asked from here.
    victim.kill().unwrap();
    victim.wait().unwrap();
    assert_eq!((before, existed), (4, true), "{pids:?} {}", folder.display());
    wait::until("what the killed test had started to be gone", || async {
        let left: Vec<_> = pids.iter().filter(|pid| is_running(**pid)).collect();
        Ok(if left.is_empty() && !folder.exists() {
            Seen::Done(())
        } else {
            Seen::NotYet(format!("processes {left:?}, folder exists: {}", folder.exists()))
        })
    })
    .await
    .unwrap();
}

/// No test: what the one above starts as its own process and kills.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "started by a_killed_test_leaves_no_process_and_no_folder"]
async fn victim() {
    if std::env::var_os(VICTIM).is_none() {
        return;
    }
    let cluster = LocalCluster::start().await.unwrap();
    // A thread that is over before the kill: what was spawned there must not have died with it.
    let folder = cluster.folder().to_path_buf();
    let spawn =
        move || Process::spawn("sleep", Command::new("sleep").arg("600"), &folder.join("sleep.log")).unwrap();
    let sleep = std::thread::spawn(spawn).join().unwrap();
    // The test runner has begun this line with the test's name.
    println!();
    for pid in cluster.pids().into_iter().chain([sleep.pid()]) {
        println!("victim-pid={pid}");
    }
    println!("victim-folder={}", cluster.folder().display());
    println!("victim-ready=");
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn a_process_ends_with_its_owner_and_its_children_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let mut shell = Command::new("sh");
    shell.args(["-c", "sleep 600 & echo $!; wait"]);
    let process = Process::spawn("shell", &shell, &log).unwrap();
    let child: u32 = read_pid(&log).await;
    assert!(is_running(process.pid()) && is_running(child));
    let pid = process.pid();
    let panicked = std::thread::spawn(move || {
        let _owner = process;
        std::panic::resume_unwind(Box::new("a failing test"));
    });
    assert!(panicked.join().is_err());
    wait::until("shell and sleep to be gone", || async {
        Ok(match is_running(pid) || is_running(child) {
            false => Seen::Done(()),
            true => Seen::NotYet("running".into()),
        })
    })
    .await
    .unwrap();
}

async fn read_pid(log: &Path) -> u32 {
    wait::until("a process id in the log", || async {
        let text = std::fs::read_to_string(log)?;
        Ok(match text.trim().parse() {
            Ok(pid) => Seen::Done(pid),
            Err(_) => Seen::NotYet(text),
        })
    })
    .await
    .unwrap()
}

#[tokio::test]
async fn a_program_that_is_missing_is_an_early_end_with_its_reason_in_the_log() {
    let folder = tempfile::tempdir().unwrap();
    let process =
        Process::spawn("nothing", &Command::new("/nonexistent/program"), &folder.path().join("log")).unwrap();
    assert_eq!(process.wait().await.code(), Some(127));
    assert!(process.log_tail(5).contains("/nonexistent/program"), "{}", process.log_tail(5));
}

#[test]
fn an_authority_issues_every_type_of_key_with_its_whole_chain() {
    let root = Authority::root("Test Root").unwrap();
    let intermediate = root.intermediate("Test Intermediate").unwrap();
    for key_type in [
        KeyType::Rsa2048,
        KeyType::Rsa3072,
        KeyType::Rsa4096,
        KeyType::P256,
        KeyType::P384,
        KeyType::P521,
        KeyType::Ed25519,
    ] {
        let issued = intermediate.issue(&Leaf::server("web.example.com").key_type(key_type)).unwrap();
        assert!(issued.key.starts_with("-----BEGIN PRIVATE KEY-----"), "{key_type:?}");
        assert_eq!(issued.intermediates, [intermediate.certificate_pem()], "{key_type:?}");
        assert_eq!(issued.root, root.certificate_pem(), "{key_type:?}");
        assert_eq!(issued.tls_crt().matches("-----BEGIN CERTIFICATE-----").count(), 2, "{key_type:?}");
    }
}
