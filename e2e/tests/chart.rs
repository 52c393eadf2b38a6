//! The chart and the plain manifests before a real API server: installed, upgraded, taken away, installed again. Without a node no pod
//! runs and no hook either; what needs one is the install test's.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking, in its helpers too"
)]

use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use keyvault_sync_e2e::{LocalCluster, operator, tools};
use serde_json::Value;

/// A call of Helm that has not ended by then hangs.
const LIMIT: Duration = Duration::from_secs(120);
const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../charts/keyvault-sync");

/// A vault, and what is wished of it.
const RESOURCES: &str = "
keyVaults:
  contoso:
    url: https://contoso.vault.azure.net
    grants: [{namespaces: {names: [web]}, push: ['*']}]
syncs:
  web:
    shop: {vaultRef: {name: contoso}, certificates: [{secretName: web-tls}]}
";

/// A cluster, and Helm for it with nothing of the user's.
struct Site {
    cluster: LocalCluster,
    helm: PathBuf,
}

impl Site {
    /// With these namespaces, whose pods are restricted.
    async fn with(namespaces: &[&str]) -> Site {
        let helm = tokio::task::spawn_blocking(tools::helm).await.unwrap().unwrap();
        let site = Site { cluster: LocalCluster::start().await.unwrap(), helm };
        for name in namespaces {
            let labels = "labels: {pod-security.kubernetes.io/enforce: restricted}";
            let namespace =
                format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}, {labels}}}\n");
            site.cluster.apply(&namespace).await.unwrap();
        }
        site
    }

    async fn helm_with(&self, arguments: &[&str], values: &str) -> Output {
        let home = self.cluster.folder().join("helm");
        let file = self.cluster.folder().join("values.yaml");
        std::fs::write(&file, values).unwrap();
        let mut command = tokio::process::Command::new(&self.helm);
        command.args(arguments).env("KUBECONFIG", self.cluster.admin_kubeconfig());
        if !values.is_empty() {
            command.arg("--values").arg(&file);
        }
        for variable in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME", "HOME"] {
            command.env(variable, &home);
        }
        for variable in ["HELM_NAMESPACE", "HELM_KUBECONTEXT", "HELM_PLUGINS", "HELM_DRIVER"] {
            command.env_remove(variable);
        }
        tokio::time::timeout(LIMIT, command.kill_on_drop(true).output()).await.unwrap().unwrap()
    }

    /// Runs Helm, which succeeds.
    async fn helm(&self, arguments: &[&str], values: &str) -> String {
        said(&format!("helm {}", arguments.join(" ")), &self.helm_with(arguments, values).await)
    }

    async fn install(&self, release: &str, namespace: &str, values: &str) -> String {
        self.helm(&["install", release, CHART, "--namespace", namespace, "--no-hooks"], values).await
    }

    /// Runs kubectl, which succeeds.
    async fn kubectl(&self, arguments: &[&str]) -> String {
        said(&format!("kubectl {}", arguments.join(" ")), &self.cluster.kubectl(arguments).await.unwrap())
    }

    /// The uid of an object, by which it is known whether it is the same.
    async fn uid(&self, kind: &str, name: &str, namespace: &str) -> String {
        self.kubectl(&["get", kind, name, "--namespace", namespace, "--output=jsonpath={.metadata.uid}"])
            .await
    }

    /// The names of all objects of these kinds, wherever they are.
    async fn names(&self, kinds: &str) -> Vec<String> {
        let all = self.kubectl(&["get", kinds, "--all-namespaces", "--output=json"]).await;
        let all: Value = serde_json::from_str(&all).unwrap();
        let metadata = all["items"].as_array().unwrap().iter().map(|item| &item["metadata"]);
        metadata.map(|one| one["name"].as_str().unwrap().to_owned()).collect()
    }
}

fn said(what: &str, output: &Output) -> String {
    let texts = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    assert!(output.status.success(), "{what} ({}): {}", output.status, texts.concat());
    texts.concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_a_vault_outlives_the_release_and_the_next_one_takes_it_over() {
    let site = Site::with(&["platform", "web"]).await;
    let notes = site.install("certs", "platform", RESOURCES).await;
    assert!(notes.contains("helm test certs --namespace platform"), "{notes}");
    let resources = [("keyvault", "contoso"), ("keyvaultsync", "shop"), ("crd", "keyvaults.keyvaultsync.io")];
    let mut before = Vec::new();
    for (kind, name) in resources {
        before.push(site.uid(kind, name, "web").await);
    }
    let upgrade = ["upgrade", "certs", CHART, "--namespace=platform", "--no-hooks", "--set=replicas=3"];
    site.helm(&upgrade, RESOURCES).await;

    let told = site.helm(&["uninstall", "certs", "--namespace=platform", "--no-hooks"], "").await;
    assert!(told.contains("contoso") && told.contains("shop"), "Helm does not say what stays: {told}");
    let roles = site
        .names("clusterroles,clusterrolebindings,roles,deployments,serviceaccounts,poddisruptionbudgets")
        .await;
    assert!(!roles.iter().any(|name| name.contains("certs")), "left: {roles:?}");

    // The same release finds them as they were, with no option for that.
    site.install("certs", "platform", RESOURCES).await;
    for ((kind, name), uid) in resources.into_iter().zip(before) {
        assert_eq!(site.uid(kind, name, "web").await, uid, "{kind} {name} is another one");
    }
    site.cluster.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn two_releases_of_one_name_live_beside_each_other() {
    let site = Site::with(&["one", "two", "web"]).await;
    let shard = |name: &str| {
        format!("settings: {{resourceSelector: shard={name}, clusterId: prod}}\nwatchNamespaces: [web]\n")
    };
    site.install("certs", "one", &shard("one")).await;
    site.install("certs", "two", &shard("two")).await;
    let kinds = "clusterroles,clusterrolebindings,roles,rolebindings,validatingadmissionpolicies,validatingadmissionpolicybindings";
    let both = site.names(kinds).await;
    site.helm(&["uninstall", "certs", "--namespace=one", "--no-hooks"], "").await;
    let left = site.names(kinds).await;
    for name in ["two.certs-keyvault-sync", "operator-only.keyvaultsync.io"] {
        assert_eq!(
            both.iter().filter(|it| *it == name).count(),
            left.iter().filter(|it| *it == name).count(),
            "{name}: {left:?}"
        );
        assert!(left.iter().any(|it| it == name), "{left:?}");
    }
    assert!(!left.iter().any(|name| name.starts_with("one.certs")), "{left:?}");
    // It goes on alone.
    let upgrade = ["upgrade", "certs", CHART, "--namespace=two", "--no-hooks"];
    site.helm(&upgrade, &shard("two")).await;
    site.cluster.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_hook_has_the_rights_that_applying_definitions_takes() {
    let site = Site::with(&["platform"]).await;
    let template =
        ["template", "certs", CHART, "--namespace=platform", "--show-only=templates/crd-upgrade.yaml"];
    let hook = site.helm(&template, "").await;
    site.cluster.apply(&hook).await.unwrap();
    let kubeconfig = site.cluster.folder().join("hook.kubeconfig");
    let account = "certs-keyvault-sync-crds";
    site.cluster.kubeconfig_for("platform", account, &kubeconfig).await.unwrap();
    let apply = async |kubeconfig: &Path| {
        let mut command = tokio::process::Command::new(operator::binary().await.unwrap());
        command.args(["crds", "--apply", "--kubeconfig"]).arg(kubeconfig).kill_on_drop(true);
        tokio::time::timeout(LIMIT, command.output()).await.unwrap().unwrap()
    };
    // Where there are none, and where there are some.
    assert_eq!(said("crds --apply", &apply(&kubeconfig).await).matches(" created").count(), 4);
    assert_eq!(said("crds --apply", &apply(&kubeconfig).await).matches(" unchanged").count(), 4);
    // And no more than that.
    let may = ["auth", "can-i", "--list", &format!("--as=system:serviceaccount:platform:{account}")];
    let may = site.kubectl(&may).await;
    assert!(!may.contains("secrets") && !may.contains("delete"), "{may}");
    site.cluster.stop().await.unwrap();
}

/// What the values may be is taken by the API server, hooks and tests too.
#[tokio::test(flavor = "multi_thread")]
async fn names_of_any_length_and_labels_of_any_kind_are_taken() {
    let site = Site::with(&["p"]).await;
    let mut dry_run = vec!["apply", "--server-side", "--dry-run=server", "--output=name", "--filename=-"];
    dry_run.push("--warnings-as-errors");
    let definitions =
        ["apply", "--server-side", "--filename", concat!(env!("CARGO_MANIFEST_DIR"), "/../crds")];
    site.kubectl(&definitions).await;
    let labels = "{team: web, app.kubernetes.io/name: other, app.kubernetes.io/part-of: shop}";
    let values = format!("commonLabels: {labels}\npodLabels: {labels}\nsyncLabels: {labels}\n{RESOURCES}")
        .replace("  web:", "  p:");
    for release in ["r".repeat(53).as_str(), "certs.v1", "true"] {
        let rendered = site.helm(&["template", release, CHART, "--namespace=p"], &values).await;
        // The account of the pod that tests has to be there.
        let account =
            ["template", release, CHART, "--namespace=p", "--show-only=templates/serviceaccount.yaml"];
        site.cluster.apply(&site.helm(&account, &values).await).await.unwrap();
        let output = site.cluster.kubectl_with_input(&dry_run, &rendered).await.unwrap();
        said(release, &output);
        // A key twice in a map is valid YAML for nobody.
        for document in rendered.split("\n---\n").filter(|document| document.contains("kind:")) {
            if let Err(error) = serde_saphyr::from_str::<Value>(document) {
                panic!("{release}: {error}: {document}");
            }
        }
        let deployment = rendered.split("\n---\n").find(|text| text.contains("\nkind: Deployment")).unwrap();
        let deployment: Value = serde_saphyr::from_str(deployment).unwrap();
        let labels = &deployment["spec"]["template"]["metadata"]["labels"];
        assert_eq!(labels["app.kubernetes.io/name"], "keyvault-sync", "{labels}");
        assert_eq!(labels["team"], "web", "{labels}");
    }
    site.cluster.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_plain_manifests_are_applied_with_one_command_and_again() {
    let site = Site::with(&[]).await;
    let deploy = format!("{ROOT}/deploy");
    let crds = format!("{ROOT}/crds/");
    site.kubectl(&["apply", "--server-side", "--force-conflicts", "-f", &crds]).await;
    site.kubectl(&["apply", "-k", &deploy]).await;
    site.kubectl(&["apply", "-k", &deploy]).await;
    // Fails where applying it once more would change something.
    site.kubectl(&["diff", "-k", &deploy]).await;
    site.kubectl(&["apply", "--server-side", "--force-conflicts", "-k", &deploy]).await;
    // Taken away they take no definition with them, and so nothing that was asked for.
    site.kubectl(&["delete", "--wait=false", "-k", &deploy]).await;
    assert_eq!(site.names("crd").await.len(), 4);
    site.cluster.stop().await.unwrap();
}
