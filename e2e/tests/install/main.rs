//! The promises of `helm install`, on two real nodes: kubelet and containerd, the image that the Dockerfile makes, the chart, Helm. One
//! scenario in order, each step with a promise of its own; it ends at the first that is not kept. Needs root, and runs in a sandbox:
//! without `KEYVAULT_SYNC_SANDBOX` this program prepares what needs a network, and starts itself again inside.

mod stage;

use std::fs;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use futures::FutureExt;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use keyvault_sync_api::constants::VERSION_ANNOTATION;
use keyvault_sync_e2e::debian::Debian;
use keyvault_sync_e2e::wait::{self, Seen};
use keyvault_sync_e2e::{image, sandbox, tools};
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use stage::{NAMESPACE, Promise, RELEASE, SECRETS, Stage, TEAM};

/// All of it; a run on two loaded cores takes a fifth.
const LIMIT: Duration = Duration::from_secs(1800);

/// Goals of the design, shown beside what is measured.
const FIRST_CERTIFICATE_GOAL_SECS: f64 = 60.0;
const IMAGE_GOAL_MB: f64 = 15.0;

/// A definition that an upgrade finds older than its own.
const DEFINITION: &str = "keyvaultsyncs.keyvaultsync.io";

macro_rules! promises {
    ($($name:ident),* $(,)?) => {
        &[$(Promise { name: stringify!($name), keep: |stage| $name(stage).boxed() }),*]
    };
}

/// In this order.
const PROMISES: &[Promise] = promises![
    a_wrong_value_is_refused_before_anything_is_made,
    one_install_ends_with_certificates_in_the_vault,
    two_replicas_are_ready_on_two_nodes_and_one_leads,
    users_see_how_it_is,
    the_test_of_the_release_passes,
    the_way_to_the_vault_is_checked_from_the_pod,
    other_values_while_certificates_renew,
    an_older_definition_is_brought_up_to_date_while_certificates_renew,
    a_newer_definition_is_never_put_back,
    the_leaders_process_is_killed_and_goes_on,
    the_leader_is_deleted_and_another_leads,
    a_node_is_drained_and_renewals_arrive,
    an_image_that_is_not_there_stops_nothing,
    uninstalled_the_vault_and_the_wishes_stay,
    installed_again_nothing_is_written,
    plain_manifests_do_the_same,
];

fn main() -> ExitCode {
    let result = match sandbox::folder() {
        Some(folder) => inside(&folder),
        None => outside(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Everything that needs a network: programs, packages, the image.
fn outside() -> anyhow::Result<()> {
    if let Some(why) = sandbox::obstacle() {
        bail!("the install test cannot be run here: {why}");
    }
    tools::NEWEST.ensure_tools()?;
    tools::ensure_node_tools()?;
    tools::helm()?;
    let debian = Debian::ensure()?;
    let folder = sandbox::new_folder()?;
    let image = image::build(folder.path(), &debian)?;
    let megabytes = image.compressed_bytes as f64 / 1e6;
    println!("the image weighs {megabytes:.1} MB compressed (goal {IMAGE_GOAL_MB} MB)");
    ensure!(megabytes <= IMAGE_GOAL_MB, "the image is heavier than its goal");
    fs::rename(&image.archive, folder.path().join("image.tar"))?;
    fs::rename(&image.pause, folder.path().join("pause.tar"))?;
    let status = sandbox::run(folder.path(), &[], LIMIT)?;
    ensure!(status.success(), "not every promise was kept");
    Ok(())
}

fn inside(folder: &std::path::Path) -> anyhow::Result<()> {
    sandbox::settle(folder)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        println!("starting two nodes");
        let started = Instant::now();
        let stage = Stage::start(folder).await?;
        println!("two nodes are ready after {:.1} s", started.elapsed().as_secs_f64());
        println!("\nrunning {} promises", PROMISES.len());
        for promise in PROMISES {
            let begun = Instant::now();
            let kept = (promise.keep)(&stage).await;
            let seconds = begun.elapsed().as_secs_f64();
            println!(
                "promise {} ... {} ({seconds:.1} s)",
                promise.name,
                if kept.is_ok() { "ok" } else { "FAILED" }
            );
            if let Err(error) = kept {
                println!("{}", stage.report().await);
                return Err(error.context(promise.name));
            }
        }
        println!("\ntest result: ok. {} passed; 0 failed", PROMISES.len());
        Ok(())
    })
}

async fn a_wrong_value_is_refused_before_anything_is_made(stage: &Stage) -> anyhow::Result<()> {
    let values = stage.values.display().to_string();
    let chart = stage::chart().display().to_string();
    let output =
        stage.helm_output(&["install", RELEASE, &chart, "--values", &values, "--set", "replica=3"]).await?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(!output.status.success() && said.contains("'replica' not allowed"), "helm said: {said}");
    let there = stage
        .kubectl(&["get", "deployments,serviceaccounts", "--namespace", NAMESPACE, "--output=name"])
        .await?;
    ensure!(!there.contains(RELEASE), "something was made: {there}");
    Ok(())
}

async fn one_install_ends_with_certificates_in_the_vault(stage: &Stage) -> anyhow::Result<()> {
    let begun = Instant::now();
    let installing = stage.install(&[]);
    let arriving = async {
        let patience = Duration::from_secs(240);
        wait::until_within(patience, "the first certificate in the vault", || async {
            Ok(match stage.imports() {
                0 => Seen::NotYet("no import".to_owned()),
                _ => Seen::Done(begun.elapsed()),
            })
        })
        .await
    };
    let (notes, first) = tokio::try_join!(installing, arriving)?;
    println!(
        "       {:.1} s from helm install to the first certificate in the vault (goal {FIRST_CERTIFICATE_GOAL_SECS} s)",
        first.as_secs_f64()
    );
    for part in [
        "helm test keyvault-sync --namespace platform",
        "kubectl get keyvaultsyncs",
        "no ServiceMonitor was made",
    ] {
        ensure!(notes.contains(part), "the notes lack {part:?}: {notes}");
    }
    for name in SECRETS {
        wait::until(&format!("{name} in the vault"), || async {
            Ok(match stage.versions(name) {
                0 => Seen::NotYet("no version".to_owned()),
                _ => Seen::Done(()),
            })
        })
        .await?;
    }
    stage.one_version_each()
}

async fn two_replicas_are_ready_on_two_nodes_and_one_leads(stage: &Stage) -> anyhow::Result<()> {
    let pods = stage.two_are_ready(NAMESPACE).await?;
    let nodes: Vec<String> = pods.iter().map(stage::node_of).collect();
    ensure!(nodes[0] != nodes[1], "both are on {}", nodes[0]);
    let leader = stage.leader(NAMESPACE).await?;
    let standby = pods.iter().map(stage::name).find(|name| *name != leader).context("no standby")?;
    let logs = stage.kubectl(&["logs", "--namespace", NAMESPACE, &standby]).await?;
    ensure!(logs.contains("standing by"), "{standby} does not say that it stands by: {logs}");
    Ok(())
}

async fn users_see_how_it_is(stage: &Stage) -> anyhow::Result<()> {
    stage
        .kubectl(&[
            "wait",
            "keyvaultsync/certificates",
            "--namespace",
            TEAM,
            "--for=condition=Ready",
            "--timeout=60s",
        ])
        .await?;
    let seen = stage.kubectl(&["get", "keyvaultsyncs", "--all-namespaces"]).await?;
    print!("{}", indented(&seen));
    let line = seen.lines().find(|line| line.starts_with(TEAM)).context("no line of the resource")?;
    for word in ["certificates", "True", "Synced", "3/3"] {
        ensure!(line.split_whitespace().any(|cell| cell == word), "no {word:?} in {line:?}");
    }
    let vaults = stage.kubectl(&["get", "keyvaults"]).await?;
    print!("{}", indented(&vaults));
    ensure!(vaults.contains("True"), "the KeyVault is not Ready: {vaults}");
    Ok(())
}

async fn the_test_of_the_release_passes(stage: &Stage) -> anyhow::Result<()> {
    let said = stage.helm(&["test", RELEASE, "--logs"]).await?;
    print!("{}", indented(&said));
    for part in ["Succeeded", "contoso"] {
        ensure!(said.contains(part), "helm test does not say {part:?}: {said}");
    }
    Ok(())
}

async fn the_way_to_the_vault_is_checked_from_the_pod(stage: &Stage) -> anyhow::Result<()> {
    let deployment = format!("deployment/{RELEASE}");
    let command = ["exec", "--namespace", NAMESPACE, &deployment, "--", "keyvault-sync", "check", "contoso"];
    let said = stage.kubectl(&command).await?;
    ensure!(said.contains("10.10.0.1") && said.contains("token"), "it says: {said}");
    // Nothing else is there to be run.
    let shell =
        stage.cluster().kubectl(&["exec", "--namespace", NAMESPACE, &deployment, "--", "/bin/sh"]).await?;
    ensure!(!shell.status.success(), "there is a shell in the image");
    Ok(())
}

async fn other_values_while_certificates_renew(stage: &Stage) -> anyhow::Result<()> {
    let again = format!("image.tag={}", image::OTHER_TAG);
    let upgrade = async {
        stage.install(&["--set", &again, "--set", "settings.log=debug", "--wait", "--timeout=240s"]).await?;
        stage.two_are_ready(NAMESPACE).await
    };
    let pods = stage.while_renewing(upgrade).await?;
    for pod in pods {
        let image = pod.spec.and_then(|spec| spec.containers.into_iter().next()?.image).unwrap_or_default();
        ensure!(image.ends_with(image::OTHER_TAG), "a pod has the image {image}");
    }
    stage.one_version_each()
}

async fn an_older_definition_is_brought_up_to_date_while_certificates_renew(
    stage: &Stage,
) -> anyhow::Result<()> {
    let definitions: Api<CustomResourceDefinition> = Api::all(stage.cluster().admin());
    let older = json!({
        "metadata": {"annotations": {VERSION_ANNOTATION: "0.0.1"}},
        "spec": {"names": {"shortNames": ["older"]}},
    });
    definitions.patch(DEFINITION, &PatchParams::default(), &Patch::Merge(&older)).await?;
    stage.while_renewing(stage.install(&["--wait", "--timeout=240s"])).await?;
    let definition = definitions.get(DEFINITION).await?;
    let version = definition.metadata.annotations.unwrap_or_default().get(VERSION_ANNOTATION).cloned();
    ensure!(
        version.as_deref() == Some(env!("CARGO_PKG_VERSION")),
        "the definition is of version {version:?}"
    );
    let names = definition.spec.names.short_names.unwrap_or_default();
    ensure!(names.contains(&"kvsync".to_owned()), "its short names are {names:?}");
    stage.two_are_ready(NAMESPACE).await?;
    let left = stage
        .kubectl(&["get", "jobs,clusterroles,clusterrolebindings", "--namespace", NAMESPACE, "--output=name"])
        .await?;
    ensure!(!left.contains(".crds") && !left.contains("-crds"), "rights of the hook are left: {left}");
    stage.one_version_each()
}

async fn a_newer_definition_is_never_put_back(stage: &Stage) -> anyhow::Result<()> {
    let definitions: Api<CustomResourceDefinition> = Api::all(stage.cluster().admin());
    let version = |version: &str| json!({"metadata": {"annotations": {VERSION_ANNOTATION: version}}});
    definitions.patch(DEFINITION, &PatchParams::default(), &Patch::Merge(&version("99.0.0"))).await?;
    // Whoever has an older version goes on with it.
    stage.install(&["--wait", "--timeout=120s"]).await?;
    let annotations = definitions.get(DEFINITION).await?.metadata.annotations.unwrap_or_default();
    ensure!(
        annotations.get(VERSION_ANNOTATION).is_some_and(|version| version == "99.0.0"),
        "{annotations:?}"
    );
    definitions
        .patch(DEFINITION, &PatchParams::default(), &Patch::Merge(&version(env!("CARGO_PKG_VERSION"))))
        .await?;
    // The release goes on, and the next upgrade is well.
    stage.all_renew().await?;
    stage.install(&["--wait", "--timeout=240s"]).await?;
    stage.one_version_each()
}

async fn the_leaders_process_is_killed_and_goes_on(stage: &Stage) -> anyhow::Result<()> {
    let leader = stage.leader(NAMESPACE).await?;
    let uid = stage
        .kubectl(&["get", "pod", &leader, "--namespace", NAMESPACE, "--output=jsonpath={.metadata.uid}"])
        .await?;
    let killed = async {
        stage.kill_container(&uid)?;
        let path = "--output=jsonpath={.status.containerStatuses[0].restartCount}";
        wait::until("the container to be started again", || async {
            let count = stage.kubectl(&["get", "pod", &leader, "--namespace", NAMESPACE, path]).await?;
            Ok(if count == "1" { Seen::Done(()) } else { Seen::NotYet(format!("{count} restarts")) })
        })
        .await?;
        stage.two_are_ready(NAMESPACE).await
    };
    stage.while_renewing(killed).await?;
    stage.one_version_each()
}

async fn the_leader_is_deleted_and_another_leads(stage: &Stage) -> anyhow::Result<()> {
    stage.two_are_ready(NAMESPACE).await?;
    let leader = stage.leader(NAMESPACE).await?;
    let before = stage.transitions(NAMESPACE).await?;
    let dying = async {
        stage
            .kubectl(&["delete", "pod", &leader, "--namespace", NAMESPACE, "--grace-period=0", "--force"])
            .await?;
        stage.two_are_ready(NAMESPACE).await
    };
    stage.while_renewing(dying).await?;
    ensure!(stage.leader(NAMESPACE).await? != leader, "{leader} still leads");
    let after = stage.transitions(NAMESPACE).await?;
    ensure!(after > before, "the Lease has changed hands {after} times, before it was {before}");
    stage.one_version_each()
}

async fn a_node_is_drained_and_renewals_arrive(stage: &Stage) -> anyhow::Result<()> {
    let leader = stage.leader(NAMESPACE).await?;
    let pods = stage.two_are_ready(NAMESPACE).await?;
    let node = pods.iter().find(|pod| stage::name(pod) == leader).map(stage::node_of).context("no node")?;
    let drain = async {
        stage.kubectl(&["drain", &node, "--ignore-daemonsets", "--force", "--timeout=100s"]).await?;
        stage.two_are_ready(NAMESPACE).await
    };
    let pods = stage.while_renewing(drain).await?;
    ensure!(pods.iter().all(|pod| stage::node_of(pod) != node), "a replica is on the drained node");
    // Both are on one node now, and only one of them may be away at a time.
    stage.second_eviction_is_refused(&pods).await?;
    stage.kubectl(&["uncordon", &node]).await?;
    stage.two_are_ready(NAMESPACE).await?;
    stage.all_renew().await?;
    stage.one_version_each()
}

async fn an_image_that_is_not_there_stops_nothing(stage: &Stage) -> anyhow::Result<()> {
    let failed =
        stage.install(&["--set=image.tag=missing", "--set=crds.upgrade=false", "--wait", "--timeout=20s"]);
    ensure!(failed.await.is_err(), "an image that is not there was installed");
    let states = "--output=jsonpath={range .items[*]}{.spec.containers[0].image} {.status.phase} \
                  {.status.containerStatuses[0].state.waiting.reason}{\"\\n\"}{end}";
    let component = "--selector=app.kubernetes.io/component=operator";
    let seen = stage.kubectl(&["get", "pods", "--namespace", NAMESPACE, component, states]).await?;
    let missing = seen.lines().find(|line| line.contains(":missing")).context("no pod has that image")?;
    ensure!(missing.contains("ErrImageNeverPull"), "{seen}");
    ensure!(seen.lines().filter(|line| line.contains(" Running ")).count() == 2, "{seen}");
    stage.all_renew().await?;
    stage.install(&["--wait", "--timeout=240s"]).await?;
    stage.two_are_ready(NAMESPACE).await?;
    stage.one_version_each()
}

async fn uninstalled_the_vault_and_the_wishes_stay(stage: &Stage) -> anyhow::Result<()> {
    let writes = stage.writes();
    stage.helm(&["uninstall", RELEASE, "--wait", "--timeout=120s"]).await?;
    wait::until("the pods to be gone", || async {
        let left = stage.kubectl(&["get", "pods", "--namespace", NAMESPACE, "--output=name"]).await?;
        Ok(match left.lines().filter(|pod| !pod.ends_with("-check")).count() {
            0 => Seen::Done(()),
            _ => Seen::NotYet(left),
        })
    })
    .await?;
    ensure!(stage.writes() == writes, "the vault was written to");
    for object in ["keyvault/contoso", "crd/keyvaultsyncs.keyvaultsync.io"] {
        stage.kubectl(&["get", object]).await?;
    }
    stage.kubectl(&["get", "keyvaultsync/certificates", "--namespace", TEAM]).await?;
    let claims = stage.kubectl(&["get", "keyvaultcertificates", "--output=name"]).await?;
    ensure!(claims.lines().count() == SECRETS.len(), "the claims are {claims:?}");
    let kinds = "deployments,services,serviceaccounts,configmaps,roles,rolebindings,poddisruptionbudgets,clusterroles,clusterrolebindings,\
                 validatingadmissionpolicies,validatingadmissionpolicybindings";
    let label = format!("--selector=app.kubernetes.io/instance={RELEASE}");
    let left = stage.kubectl(&["get", kinds, "--namespace", NAMESPACE, &label, "--output=name"]).await?;
    // Other installations need it.
    let more: Vec<_> = left.lines().filter(|object| !object.contains("operator-only")).collect();
    ensure!(more.is_empty(), "the release left {more:?}");
    Ok(())
}

async fn installed_again_nothing_is_written(stage: &Stage) -> anyhow::Result<()> {
    let writes = stage.writes();
    stage.install(&["--wait", "--timeout=240s"]).await?;
    stage.two_are_ready(NAMESPACE).await?;
    stage.leader(NAMESPACE).await?;
    ensure!(stage.writes() == writes, "the vault was written to");
    stage.all_renew().await?;
    ensure!(
        stage.writes() == writes + SECRETS.len(),
        "{} writes for {} renewals",
        stage.writes() - writes,
        SECRETS.len()
    );
    stage.one_version_each()
}

async fn plain_manifests_do_the_same(stage: &Stage) -> anyhow::Result<()> {
    stage.helm(&["uninstall", RELEASE, "--wait", "--timeout=120s"]).await?;
    let overlay = overlay(stage)?;
    let writes = stage.writes();
    let definitions = stage::repository().join("crds").display().to_string();
    stage.kubectl(&["apply", "--server-side", "--force-conflicts", "--filename", &definitions]).await?;
    stage.kubectl(&["apply", "--kustomize", &overlay]).await?;
    stage.two_are_ready(RELEASE).await?;
    stage.leader(RELEASE).await?;
    ensure!(stage.writes() == writes, "the vault was written to");
    stage.all_renew().await?;
    stage.one_version_each()?;
    // Applied once more it would change nothing.
    stage.kubectl(&["diff", "--kustomize", &overlay]).await.map(drop)?;
    Ok(())
}

/// What a user writes beside a clone: image, client id; here also what AKS's webhook would put into the pods, and the authority.
fn overlay(stage: &Stage) -> anyhow::Result<String> {
    // kubectl takes folders by their relative place only, so the manifests are beside it.
    let folder = stage.values.with_file_name("overlay");
    let plain = stage.values.with_file_name("plain");
    copy(&stage::repository().join("deploy"), &plain)?;
    fs::create_dir_all(&folder)?;
    let values: serde_json::Value = serde_json::from_str(&fs::read_to_string(&stage.values)?)?;
    let mut environment = stage::environment().as_array().cloned().unwrap_or_default();
    environment.push(json!({"name": "KEYVAULT_SYNC_CA_BUNDLE", "value": "/etc/keyvault-sync/ca/ca.crt"}));
    let container = json!({
        "name": "keyvault-sync",
        "imagePullPolicy": "Never",
        "env": environment,
        "volumeMounts": [stage::token_mount(), {"name": "ca-bundle", "mountPath": "/etc/keyvault-sync/ca"}],
    });
    let patch = json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": RELEASE, "namespace": RELEASE},
        "spec": {"template": {"spec": {
            "containers": [container],
            "volumes": [stage::token_volume(), {"name": "ca-bundle", "configMap": {"name": "company-ca"}}],
        }}},
    });
    let authority = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "company-ca", "namespace": RELEASE},
        "data": {"ca.crt": values["caBundle"]["pem"]},
    });
    let kustomization = json!({
        "apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization",
        "resources": ["../plain", "authority.yaml"],
        "images": [{"name": "keyvault-sync", "newTag": image::NAME.1}],
        "patches": [{"path": "patch.yaml"}],
    });
    for (name, object) in
        [("authority.yaml", authority), ("patch.yaml", patch), ("kustomization.yaml", kustomization)]
    {
        fs::write(folder.join(name), object.to_string())?;
    }
    Ok(folder.display().to_string())
}

fn copy(from: &std::path::Path, to: &std::path::Path) -> anyhow::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        match entry.file_type()?.is_dir() {
            true => copy(&entry.path(), &to.join(entry.file_name()))?,
            false => _ = fs::copy(entry.path(), to.join(entry.file_name()))?,
        }
    }
    Ok(())
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("       {line}\n")).collect()
}
