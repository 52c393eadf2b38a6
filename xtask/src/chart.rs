//! The chart, rendered by Helm: golden files of it for many values (`charts/golden`), the plain manifests in `deploy/`, and checks of
//! what neither Helm nor the API server would find. Installing it on a node is the install test's work.

mod cluster;
mod install_page;
mod plain;
mod values;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, anyhow, bail, ensure};
use keyvault_sync_e2e::tools;
use serde_json::Value;

use crate::command;

pub(crate) use self::plain::{FOLDER as PLAIN_FOLDER, manifests, page, schema};

/// The chart's folder.
pub(crate) const CHART: &str = "charts/keyvault-sync";
/// Values that the chart is rendered with, and what comes out.
pub(crate) const GOLDEN_FOLDER: &str = "charts/golden";
const VALUES_ENDING: &str = ".values.yaml";
const GOLDEN_ENDING: &str = ".golden.yaml";
/// A line of a values file that says which kinds the cluster knows beside its own.
const API_VERSIONS: &str = "# api-versions: ";

/// Under which name and in which namespace the chart is rendered: neither is the chart's own name.
const RELEASE: (&str, &str) = ("certs", "platform");

/// Values to render the chart with.
struct Case {
    name: String,
    path: PathBuf,
    api_versions: Option<String>,
}

/// What must be refused, and a part of the words it is refused with.
const REFUSED: &[(&[&str], &str)] = &[
    (&["--set=replica=3"], "'replica' not allowed"),
    (&["--set=image.tagg=1"], "'tagg' not allowed"),
    (&["--set=settings.clouds={azure}"], "must be one of 'public', 'china', 'us-government'"),
    (&["--set=image.digest=sha256:1"], "does not match pattern"),
    (&["--set=workloadIdentity.clientId=operator"], "does not match pattern"),
    (&["--set=settings.leaseDuration=30"], "want string"),
    (&["--set=terminationGracePeriodSeconds=5"], "minimum: got 5, want 30"),
    (&["--set=networkPolicy.apiServerPorts={https}"], "want integer"),
    (&["--set=keyVaults.contoso.grants={}"], "missing property 'url'"),
    (&["--set=watchNamespaces={web}"], "watchNamespaces needs settings.clusterId"),
    (&["--set=caBundle.secret=a", "--set=caBundle.configMap=b"], "configMap and secret are both given"),
    (&["--set=serviceAccount.create=false"], "serviceAccount.name has to say"),
    (
        &["--set=serviceAccountIdentities.enabled=true", "--set=serviceAccountIdentities.names={*}"],
        "\"*\" is no name",
    ),
    (
        &["--namespace=a-namespace-with-a-very-long-name-that-fills-the-label-up-to-63"],
        "at most 62 characters",
    ),
];

/// Checks the chart; each failure says what to do.
///
/// # Errors
/// A check failed, or Helm or a control plane cannot be made ready.
pub(crate) fn check() -> anyhow::Result<()> {
    let helm = tools::helm()?;
    none("values", &values::findings(&command::root()?)?)?;
    println!("each value is documented, used, in the schema and in a golden file");
    for case in cases()? {
        command::output(helm_command(&helm, &["lint", "--strict", "--quiet", CHART, "--values"], &case.path))
            .with_context(|| format!("helm lint with {}", case.path.display()))?;
    }
    println!("helm lint --strict passes with each of the golden files' values");
    let mut findings = Vec::new();
    for (arguments, words) in REFUSED {
        findings.extend(refused(&helm, arguments, words)?);
    }
    none("refusals", &findings)?;
    println!("{} wrong values are refused in words", REFUSED.len());
    package(&helm)?;
    println!("helm package holds the whole chart");
    cluster::admits(&rendered()?)
}

fn none(of: &str, findings: &[String]) -> anyhow::Result<()> {
    ensure!(findings.is_empty(), "{of} of the chart:\n  {}", findings.join("\n  "));
    Ok(())
}

/// The golden files: path below the root, and text.
///
/// # Errors
/// Helm cannot be made ready, or the chart cannot be rendered.
pub(crate) fn golden() -> anyhow::Result<Vec<(PathBuf, String)>> {
    let golden = |(case, text): (Case, String)| {
        let path = Path::new(GOLDEN_FOLDER).join(format!("{}{GOLDEN_ENDING}", case.name));
        (path, text)
    };
    Ok(rendered()?.into_iter().map(golden).collect())
}

/// Whether a file of the golden folder is one that is generated.
pub(crate) fn is_golden(path: &Path) -> bool {
    path.to_string_lossy().ends_with(GOLDEN_ENDING)
}

fn rendered() -> anyhow::Result<Vec<(Case, String)>> {
    let helm = tools::helm()?;
    cases()?
        .into_iter()
        .map(|case| {
            let (release, namespace) = RELEASE;
            let arguments = ["template", release, CHART, "--namespace", namespace, "--values"];
            let mut render = helm_command(&helm, &arguments, &case.path);
            if let Some(versions) = &case.api_versions {
                render.arg("--api-versions").arg(versions);
            }
            let text = command::output(render)?;
            Ok((case, text))
        })
        .collect()
}

/// The objects of what Helm or kustomize renders, each with its text; what is only a comment is left out.
fn documents(rendered: &str) -> impl Iterator<Item = anyhow::Result<(&str, Value)>> {
    let parsed = rendered.split("\n---\n").map(|text| {
        let object: Value =
            serde_saphyr::from_str(text).map_err(|error| anyhow!("no YAML: {error}: {text}"))?;
        Ok((text, object))
    });
    parsed.filter(|document| document.as_ref().map_or(true, |(_, object)| !object.is_null()))
}

fn cases() -> anyhow::Result<Vec<Case>> {
    let folder = command::root()?.join(GOLDEN_FOLDER);
    let mut cases = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))? {
        let path = entry?.path();
        let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let Some(name) = file.strip_suffix(VALUES_ENDING) else { continue };
        let text = fs::read_to_string(&path)?;
        let api_versions = text.lines().find_map(|line| line.strip_prefix(API_VERSIONS)).map(str::to_owned);
        cases.push(Case { name: name.to_owned(), path, api_versions });
    }
    cases.sort_by(|one, other| one.name.cmp(&other.name));
    ensure!(!cases.is_empty(), "{GOLDEN_FOLDER} has no values");
    Ok(cases)
}

/// Helm with nothing of the user's: neither settings nor plugins nor a cluster.
fn helm_command(helm: &Path, arguments: &[&str], last: &Path) -> Command {
    let mut command = Command::new(helm);
    command.args(arguments).arg(last);
    for variable in ["HELM_NAMESPACE", "HELM_PLUGINS", "HELM_KUBECONTEXT"] {
        command.env_remove(variable);
    }
    command.env("KUBECONFIG", "/dev/null");
    command
}

fn refused(helm: &Path, arguments: &[&str], words: &str) -> anyhow::Result<Option<String>> {
    let mut render = helm_command(helm, &["template", RELEASE.0], Path::new(CHART));
    render.args(arguments).current_dir(command::root()?);
    let output = render.output().context("cannot start helm")?;
    let said = String::from_utf8_lossy(&output.stderr);
    let line = arguments.join(" ");
    Ok(match output.status.success() {
        true => Some(format!("{line} is taken, but has to be refused")),
        false if !said.contains(words) => {
            Some(format!("{line} is refused without saying {words:?}: {}", said.trim_end()))
        }
        false => None,
    })
}

/// What a release publishes holds the chart's files and nothing else.
fn package(helm: &Path) -> anyhow::Result<()> {
    let folder = command::root()?.join("target/chart");
    fs::create_dir_all(&folder)?;
    command::output(helm_command(helm, &["package", CHART, "--destination"], &folder))?;
    let archive = folder.join(format!("keyvault-sync-{}.tgz", env!("CARGO_PKG_VERSION")));
    let mut list = Command::new("tar");
    list.arg("-tzf").arg(&archive);
    let listed = command::output(list)?;
    for needed in
        ["values.schema.json", "crds/keyvaults.yaml", "files/clusterrole-rules.yaml", "templates/NOTES.txt"]
    {
        if !listed.lines().any(|line| line.strip_prefix("keyvault-sync/") == Some(needed)) {
            bail!("the packaged chart has no {needed}: see .helmignore");
        }
    }
    Ok(())
}
