//! The documents that `docs/install.md` has people write, as they stand there: values, overlay, resources, the role's JSON. Helm renders
//! them, and a dry run of the API server judges them. Its commands, those for Azure above all, are run by nobody.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, bail, ensure};
use keyvault_sync_e2e::{LocalCluster, tools};
use serde_json::Value;

use super::cluster::{dry_run, without_foreign};
use super::{CHART, helm_command};
use crate::command;

const PAGE: &str = "docs/install.md";
/// What the page's shell variables stand for here.
const VARIABLES: &[(&str, &str)] = &[
    ("$REGISTRY", "myregistry"),
    ("$DIGEST", "sha256:0000000000000000000000000000000000000000000000000000000000000000"),
    ("$CLIENT_ID", "c0a8016b-7f3d-4e52-8b19-5d2e4f6a8c33"),
    ("$VAULT", "contoso"),
    ("$(az account show --query id -o tsv)", "8f3c9e2a-5d1b-4c7e-9a60-2b4d6f8e0c11"),
];
/// Release and namespace of the page; its overlay has the same names.
pub(super) const NAME: &str = "keyvault-sync";
/// Every document of the page; one that is not among these would be tried by nobody.
const DOCUMENTS: &[&str] =
    &["role.json", "values.yaml", "overlay/kustomization.yaml", "kubectl apply -f -", "many.yaml"];

/// What is wrong with them. The cluster has the definitions, and the namespaces `web` and `keyvault-sync`.
///
/// # Errors
/// The page cannot be read, has other documents than are known here, or a program cannot be run.
pub(super) async fn findings(cluster: &LocalCluster) -> anyhow::Result<Vec<String>> {
    let root = command::root()?;
    let folder = root.join("target/chart");
    let page = fs::read_to_string(root.join(PAGE)).context(PAGE)?;
    let documents = documents(&page)?;
    let names: Vec<&str> = documents.iter().map(|(name, _)| name.as_str()).collect();
    ensure!(names == DOCUMENTS, "{PAGE} has the documents {names:?}, tried are {DOCUMENTS:?}");

    let mut findings = Vec::new();
    for (name, text) in &documents {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap_or(&folder))?;
        let rendered = match name.as_str() {
            "role.json" => {
                findings.extend(
                    serde_json::from_str::<Value>(text).err().map(|error| format!("{name}: {error}")),
                );
                continue;
            }
            "overlay/kustomization.yaml" => {
                // From there, and with the component that the page offers.
                let text = text.replace("../deploy", "../../../deploy");
                let components = "components:\n  - ../../../deploy/service-account-identities\n";
                fs::write(&path, format!("{text}{components}"))?;
                kustomize(cluster, &folder.join("overlay"))
            }
            "values.yaml" | "many.yaml" => {
                fs::write(&path, text)?;
                // The second adds to the first.
                helm(&folder.join("values.yaml"), &path)
            }
            _ => Ok(text.clone()),
        };
        match rendered {
            Ok(text) => {
                let ours = without_foreign(&text, &mut Default::default())?;
                findings.extend(dry_run(cluster, &format!("{PAGE}, {name}"), &ours).await?);
            }
            Err(error) => findings.push(format!("{PAGE}, {name}: {error:#}")),
        }
    }
    Ok(findings)
}

fn helm(values: &Path, more: &Path) -> anyhow::Result<String> {
    let arguments = ["template", NAME, CHART, "--namespace", NAME, "--no-hooks", "--values"];
    let mut render = helm_command(&tools::helm()?, &arguments, values);
    render.arg("--values").arg(more);
    command::output(render)
}

fn kustomize(cluster: &LocalCluster, overlay: &Path) -> anyhow::Result<String> {
    let mut build = Command::new(cluster.kubectl_path());
    build.arg("kustomize").arg(overlay);
    let text = command::output(build)?;
    let (_, digest) = VARIABLES[1];
    for part in [digest, "azure.workload.identity/client-id: c0a8016b", "KEYVAULT_SYNC_SERVICE_ACCOUNTS"] {
        ensure!(text.contains(part), "the overlay does not bring {part:?} in");
    }
    Ok(text)
}

/// The here-documents: the file that is written, or the command that reads it, and the text with the variables filled in.
fn documents(page: &str) -> anyhow::Result<Vec<(String, String)>> {
    let mut documents = Vec::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        let Some(head) = line.strip_suffix(" <<EOF") else { continue };
        let mut text = String::new();
        for line in lines.by_ref().take_while(|line| *line != "EOF") {
            text.push_str(line);
            text.push('\n');
        }
        for (variable, value) in VARIABLES {
            text = text.replace(variable, value);
        }
        let name = head.strip_prefix("cat > ").unwrap_or(head);
        if text.contains('$') {
            bail!("{PAGE}: {name} has a variable that xtask does not know: {text}");
        }
        documents.push((name.to_owned(), text));
    }
    Ok(documents)
}
