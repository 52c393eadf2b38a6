//! Files made from the Rust types (CRDs, roles, admission policies, the field reference `docs/api.md`) and from the chart (plain manifests,
//! golden files); written, or compared with `--check`.
//! What is in them is said in `crates/api`.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{fs, io};

use anyhow::{Context, bail};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use keyvault_sync_api::admission::{self, Policy};
use keyvault_sync_api::rbac;
use serde::Serialize;

use crate::{chart, monitoring, reference};

/// The command that makes every generated file; a failing check prints it.
const COMMAND: &str = "cargo xtask gen";
/// Helm installs the definitions in a chart's own folder `crds`, and follows no link out of the chart.
const CRDS_FOLDERS: [&str; 2] = ["crds", "charts/keyvault-sync/crds"];
const SERVICE_ACCOUNT_ROLE: &str = "deploy/service-account-identities/clusterrole.yaml";
/// The name of the ServiceAccounts that the plain manifests let the operator act as: the chart's default too.
const SERVICE_ACCOUNT: &str = "keyvault";
/// The chart's roles have names and labels of their own; their rules are these.
const CHART_FILES: &str = "charts/keyvault-sync/files";
const CHART_RULES: &str = "charts/keyvault-sync/files/clusterrole-rules.yaml";
/// For all ServiceAccounts: the chart fills in the names.
const CHART_SERVICE_ACCOUNT_RULES: &str = "charts/keyvault-sync/files/service-account-rules.yaml";
/// The chart's own copies of rules and dashboard: Helm follows no link out of the chart.
const CHART_MONITORING: &str = "charts/keyvault-sync/files/monitoring";
const CHART_ADMISSION_FOLDER: &str = "charts/keyvault-sync/files/admission";
/// For these words the chart puts in its own namespace and ServiceAccount: no such name has a capital.
const CHART_NAMESPACE: &str = "OPERATOR_NAMESPACE";
const CHART_SERVICE_ACCOUNT: &str = "OPERATOR_SERVICE_ACCOUNT";
const REFERENCE: &str = "docs/api.md";
/// What lies among generated files and is none.
const BY_HAND: [&str; 2] = ["deploy/namespace.yaml", "deploy/values.yaml"];

/// Writes every generated file, or with `check` compares what is there.
///
/// # Errors
/// A file cannot be read or written; with `check`, a file is missing, different or left over: the error names each
/// and the command that puts it right.
pub(crate) fn run(check: bool) -> anyhow::Result<()> {
    let root = root()?;
    let mut files = files()?;
    for (path, text) in reference::pages(&root)? {
        files.push(Generated { path: path.into(), text });
    }
    if !check {
        write(&root, &files)?;
    }
    // Helm reads what was just written; where that is out of date, so is what it renders.
    let rendered =
        chart::golden()?.into_iter().chain(chart::manifests()?).chain([chart::page()?, chart::schema()?]);
    files.extend(rendered.map(|(path, text)| Generated { path, text }));
    let left_over = left_over(&root, &files)?;
    if check {
        return compare(&root, &files, &left_over);
    }
    write(&root, &files)?;
    for path in left_over {
        fs::remove_file(root.join(&path)).with_context(|| format!("cannot remove {}", path.display()))?;
    }
    Ok(())
}

fn write(root: &Path, files: &[Generated]) -> anyhow::Result<()> {
    for file in files {
        let path = root.join(&file.path);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)
                .with_context(|| format!("cannot make the folder {}", folder.display()))?;
        }
        fs::write(&path, &file.text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// A generated file: its path below the repository's root, and what belongs in it.
struct Generated {
    path: PathBuf,
    text: String,
}

fn root() -> anyhow::Result<PathBuf> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    Ok(here.parent().context("xtask lies in no folder")?.to_owned())
}

fn files() -> anyhow::Result<Vec<Generated>> {
    let crds = keyvault_sync_api::crds();
    let mut files = Vec::new();
    for folder in CRDS_FOLDERS {
        for crd in &crds {
            let path = Path::new(folder).join(format!("{}.yaml", crd.spec.names.plural));
            files.push(Generated { path, text: yaml(crd)? });
        }
    }
    files.extend(roles()?);
    files.extend(policies()?);
    files.push(Generated { path: REFERENCE.into(), text: reference(&crds) });
    let rules = fs::read_to_string(root()?.join(monitoring::RULES)).context(monitoring::RULES)?;
    files.push(Generated {
        path: monitoring::RULE_OBJECT.into(),
        text: yaml(&monitoring::rule_object(&rules)?)?,
    });
    for file in [monitoring::RULES, monitoring::DASHBOARD] {
        let name = Path::new(file).file_name().context("a file without a name")?;
        let text = fs::read_to_string(root()?.join(file)).context(file)?;
        files.push(Generated { path: Path::new(CHART_MONITORING).join(name), text });
    }
    Ok(files)
}

fn roles() -> anyhow::Result<Vec<Generated>> {
    Ok(vec![
        Generated { path: CHART_RULES.into(), text: yaml(&rbac::cluster_role().rules)? },
        chart_rules("namespaced-clusterrole-rules", &rbac::namespaced_cluster_role().rules)?,
        chart_rules("namespaced-role-rules", &rbac::namespaced_role().rules)?,
        // The chart puts its own names in.
        chart_rules("served-namespaces-rules", &rbac::served_namespaces_rules(&["web"]))?,
        chart_rules("lease-rules", &rbac::lease_rules())?,
        chart_rules("own-namespace-rules", &rbac::own_namespace_rules())?,
        chart_rules("default-namespace-rules", &rbac::default_namespace_rules())?,
        chart_rules("definition-rules", &rbac::definition_rules())?,
        chart_rules("view-rules", &rbac::view_rules())?,
        chart_rules("edit-rules", &rbac::edit_rules())?,
        chart_rules("metrics-review-rules", &rbac::metrics_review_rules())?,
        chart_rules("metrics-reader-rules", &rbac::metrics_reader_rules())?,
        Generated {
            path: SERVICE_ACCOUNT_ROLE.into(),
            text: yaml(&rbac::service_account_role(&[SERVICE_ACCOUNT]))?,
        },
        Generated {
            path: CHART_SERVICE_ACCOUNT_RULES.into(),
            text: yaml(&rbac::service_account_rules(&[]))?,
        },
    ])
}

/// Rules of a role that the chart makes for an operator of some namespaces.
fn chart_rules(name: &str, rules: &impl Serialize) -> anyhow::Result<Generated> {
    let path = Path::new(CHART_FILES).join(format!("{name}.yaml"));
    Ok(Generated { path, text: yaml(rules)? })
}

/// The policies, an object a file; the chart fills in whose they are.
fn policies() -> anyhow::Result<Vec<Generated>> {
    let mut files = Vec::new();
    for (name, Policy { policy, binding }) in [
        ("operator-only", admission::operator_only()),
        ("token-requests", admission::token_requests(CHART_NAMESPACE, CHART_SERVICE_ACCOUNT)),
    ] {
        let path = |suffix: &str| Path::new(CHART_ADMISSION_FOLDER).join(format!("{name}{suffix}.yaml"));
        files.push(Generated { path: path(""), text: yaml(&policy)? });
        files.push(Generated { path: path("-binding"), text: yaml(&binding)? });
    }
    Ok(files)
}

/// Files of kinds and policies that are no more.
fn left_over(root: &Path, files: &[Generated]) -> anyhow::Result<Vec<PathBuf>> {
    let mut left_over = Vec::new();
    let folders = [CHART_ADMISSION_FOLDER, chart::GOLDEN_FOLDER, chart::PLAIN_FOLDER];
    for folder in CRDS_FOLDERS.into_iter().chain(folders) {
        let entries = match fs::read_dir(root.join(folder)) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error).with_context(|| format!("cannot list {folder}")),
        };
        for entry in entries {
            let path = Path::new(folder).join(entry?.file_name());
            let is_generated = match folder {
                chart::GOLDEN_FOLDER => chart::is_golden(&path),
                _ => {
                    path.extension().is_some_and(|extension| extension == "yaml")
                        && !BY_HAND.contains(&path.to_string_lossy().as_ref())
                }
            };
            if is_generated && files.iter().all(|file| file.path != path) {
                left_over.push(path);
            }
        }
    }
    left_over.sort();
    Ok(left_over)
}

fn compare(root: &Path, files: &[Generated], left_over: &[PathBuf]) -> anyhow::Result<()> {
    let mut wrong = Vec::new();
    for file in files {
        match fs::read_to_string(root.join(&file.path)) {
            Ok(text) if text == file.text => {}
            Ok(_) => wrong.push(format!("{} is not what the types say", file.path.display())),
            Err(error) => wrong.push(format!("{} cannot be read: {error}", file.path.display())),
        }
    }
    wrong.extend(left_over.iter().map(|path| format!("{} belongs to nothing that is there", path.display())));
    if wrong.is_empty() {
        return Ok(());
    }
    bail!("generated files are out of date:\n  {}\nrun: {COMMAND}", wrong.join("\n  "))
}

fn yaml(object: &impl Serialize) -> anyhow::Result<String> {
    // By way of a JSON value, whose maps are sorted: the order of the file never depends on the types' order.
    let value = serde_json::to_value(object)?;
    Ok(format!("# generated by {COMMAND}; do not edit\n{}", serde_saphyr::to_string(&value)?))
}

fn reference(crds: &[CustomResourceDefinition]) -> String {
    let mut page = format!(
        "<!-- generated by {COMMAND}; do not edit -->\n\n# Field reference\n\nEvery field of every kind, as \
         `kubectl explain --recursive` has them. Fields without a default and not marked required may be left out.\n"
    );
    for crd in crds {
        for version in &crd.spec.versions {
            let names = &crd.spec.names;
            let schema = version.schema.as_ref().and_then(|schema| schema.open_api_v3_schema.as_ref());
            let Some(schema) = schema else { continue };
            let _ = write!(
                page,
                "\n## {}\n\n`{}/{}` · {} · short name {}\n\n{}\n",
                names.kind,
                crd.spec.group,
                version.name,
                if crd.spec.scope == "Namespaced" { "namespaced" } else { "cluster-scoped" },
                names
                    .short_names
                    .iter()
                    .flatten()
                    .map(|name| format!("`{name}`"))
                    .collect::<Vec<_>>()
                    .join(", "),
                schema.description.as_deref().unwrap_or_default(),
            );
            page.push_str("\n| field | type | default | description |\n| --- | --- | --- | --- |\n");
            let mut rules = String::new();
            write_rules(&mut rules, "object", schema);
            for (name, field) in schema.properties.iter().flatten() {
                if matches!(name.as_str(), "spec" | "status") {
                    write_fields(&mut page, &mut rules, name, field);
                }
            }
            if !rules.is_empty() {
                let _ = write!(page, "\nRules:\n\n{rules}");
            }
        }
    }
    page
}

/// The rows of an object's fields, each followed by the fields below it; their rules into `rules`.
fn write_fields(page: &mut String, rules: &mut String, path: &str, object: &JSONSchemaProps) {
    write_rules(rules, path, object);
    for (name, field) in object.properties.iter().flatten() {
        let is_required = object.required.iter().flatten().any(|required| required == name);
        let path = format!("{path}.{name}");
        let _ = writeln!(
            page,
            "| `{path}` | {} | {} | {} |",
            type_of(field),
            field.default.as_ref().map_or_else(
                || if is_required { "required".to_owned() } else { String::new() },
                |default| format!("`{}`", default.0)
            ),
            cell(field.description.as_deref().unwrap_or_default()),
        );
        match &field.items {
            Some(JSONSchemaPropsOrArray::Schema(item)) => {
                write_rules(rules, &path, field);
                write_fields(page, rules, &format!("{path}[]"), item);
            }
            _ => write_fields(page, rules, &path, field),
        }
    }
}

fn write_rules(rules: &mut String, path: &str, schema: &JSONSchemaProps) {
    for message in schema.x_kubernetes_validations.iter().flatten().filter_map(|rule| rule.message.as_deref())
    {
        let _ = writeln!(rules, "- `{path}`: {}", cell(message));
    }
}

fn type_of(schema: &JSONSchemaProps) -> String {
    let name = schema.type_.as_deref().unwrap_or("any");
    if let Some(words) = &schema.enum_ {
        let words: Vec<_> = words.iter().filter_map(|word| word.0.as_str()).collect();
        return words.join(" \\| ");
    }
    if let Some(JSONSchemaPropsOrArray::Schema(item)) = &schema.items {
        return format!("list{} of {}", at_most(schema.max_items, ""), type_of(item));
    }
    if let Some(JSONSchemaPropsOrBool::Schema(value)) = &schema.additional_properties {
        return format!("map{} to {}", at_most(schema.max_properties, ""), type_of(value));
    }
    match schema.format.as_deref() {
        Some("date-time") => "time (RFC 3339)".to_owned(),
        _ => format!("{name}{}", at_most(schema.max_length, " characters")),
    }
}

fn at_most(max: Option<i64>, unit: &str) -> String {
    max.map(|max| format!(" (at most {max}{unit})")).unwrap_or_default()
}

/// A text as one cell of a table.
pub(crate) fn cell(text: &str) -> String {
    text.replace('\n', " ").replace('|', "\\|").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_files_are_what_the_types_say() {
        if let Err(error) = run(true) {
            panic!("{error:#}");
        }
    }

    #[test]
    fn a_file_that_differs_is_named_with_the_command_that_fixes_it() {
        let files = [Generated { path: "crds/none.yaml".into(), text: String::new() }];
        let error = compare(&root().unwrap(), &files, &["crds/old.yaml".into()]).unwrap_err().to_string();
        for part in
            ["crds/none.yaml cannot be read", "crds/old.yaml belongs to nothing that is there", COMMAND]
        {
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn generation_is_stable() {
        let texts = || files().unwrap().into_iter().map(|file| file.text).collect::<Vec<_>>();
        assert_eq!(texts(), texts());
    }
}
