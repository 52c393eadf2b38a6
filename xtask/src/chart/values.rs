//! The chart's values: in `values.yaml` with a comment, in the schema, in a template, in a golden file; and in none of these without
//! the others. Also the page `docs/chart.md`, which is made of the comments.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, anyhow};
use serde_json::Value;

use super::{CHART, GOLDEN_FOLDER, VALUES_ENDING};
use crate::r#gen::cell;

/// A value: its path with dots, its default as it is written, and what its comment says.
pub(super) struct Documented {
    pub(super) path: String,
    pub(super) default: String,
    pub(super) comment: String,
    /// A map of the chart's own, whose members are values.
    is_group: bool,
}

/// What is wrong with the values.
///
/// # Errors
/// A file cannot be read.
pub(super) fn findings(root: &Path) -> anyhow::Result<Vec<String>> {
    let chart = root.join(CHART);
    let documented = documented(root)?;
    let schema: Value = serde_json::from_str(&fs::read_to_string(chart.join("values.schema.json"))?)?;
    let in_schema = leaves(&schema, "");
    let templates = texts(&chart.join("templates"))?;
    let used: BTreeSet<String> = templates.iter().flat_map(|text| references(text)).collect();
    let set = set_somewhere(&root.join(GOLDEN_FOLDER))?;

    let mut findings = Vec::new();
    for value in &documented {
        let path = &value.path;
        if !value.is_group && value.comment.is_empty() {
            findings.push(format!("values.yaml: {path} has no comment: say what it is for"));
        }
        if value.is_group {
            continue;
        }
        if !in_schema.contains(path) {
            findings.push(format!("values.schema.json: {path} is missing"));
        }
        if !used.iter().any(|reference| is_within(path, reference)) {
            findings.push(format!("values.yaml: no template uses {path}: use it, or delete it"));
        }
        if !set.iter().any(|set| is_within(set, path) || is_within(path, set)) {
            findings.push(format!("{GOLDEN_FOLDER}: no values there set {path}: what it does is not shown"));
        }
    }
    let known = |path: &str| documented.iter().any(|value| value.path == path);
    // Helm gives every chart a `global`, and a chart around it may switch it by an `enabled`.
    findings.extend(
        in_schema.iter().filter(|path| !["global", "enabled"].contains(&path.as_str()) && !known(path)).map(
            |path| {
                format!(
                    "values.schema.json: {path} is not in values.yaml: no template can have a default of it"
                )
            },
        ),
    );
    findings.extend(
        used.iter()
            .filter(|reference| {
                !documented
                    .iter()
                    .any(|value| is_within(reference, &value.path) || is_within(&value.path, reference))
            })
            .map(|reference| format!("templates use .Values.{reference}, which is not in values.yaml")),
    );
    Ok(findings)
}

/// Whether `path` is `whole`, or lies in it.
fn is_within(path: &str, whole: &str) -> bool {
    path.strip_prefix(whole).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// The values of `values.yaml`, in its order. It is written in block style with a comment above each value, which is all that is
/// understood here.
pub(super) fn documented(root: &Path) -> anyhow::Result<Vec<Documented>> {
    let text = fs::read_to_string(root.join(CHART).join("values.yaml"))?;
    let mut values: Vec<Documented> = Vec::new();
    let mut path: Vec<(usize, String)> = Vec::new();
    let mut comment = String::new();
    for line in text.lines() {
        let trimmed = line.trim_start();
        let indent = line.len() - trimmed.len();
        if let Some(words) = trimmed.strip_prefix('#') {
            comment = format!("{comment} {}", words.trim()).trim().to_owned();
            continue;
        }
        if trimmed.is_empty() || trimmed.starts_with("- ") {
            comment.clear();
            if let Some(value) = values.last_mut().filter(|_| trimmed.starts_with("- ")) {
                value.is_group = false;
                value.default = format!("{} {trimmed}", value.default).trim().to_owned();
            }
            continue;
        }
        let (key, default) =
            trimmed.split_once(':').with_context(|| format!("values.yaml: {line:?} is no value"))?;
        path.retain(|(outer, _)| *outer < indent);
        path.push((indent, key.to_owned()));
        let dotted = path.iter().map(|(_, key)| key.as_str()).collect::<Vec<_>>().join(".");
        let default = default.trim().to_owned();
        values.push(Documented {
            path: dotted,
            is_group: default.is_empty(),
            default,
            comment: std::mem::take(&mut comment),
        });
    }
    Ok(values)
}

/// The paths of a schema's values: objects whose members are known are gone into.
fn leaves(schema: &Value, path: &str) -> BTreeSet<String> {
    let members =
        schema["properties"].as_object().filter(|_| schema["additionalProperties"] == Value::Bool(false));
    // The members of these are Kubernetes' own.
    let is_kubernetes =
        ["resources", "livenessProbe", "readinessProbe", "strategy", "affinity", "dnsConfig"].contains(&path);
    match members.filter(|_| !is_kubernetes || path == "resources") {
        Some(members) => members
            .iter()
            .filter(|(name, _)| path != "resources" || *name != "claims")
            .flat_map(|(name, schema)| {
                leaves(schema, &if path.is_empty() { name.clone() } else { format!("{path}.{name}") })
            })
            .collect(),
        None => BTreeSet::from([path.to_owned()]),
    }
}

/// What a template takes of the values: `.Values.image.tag` is `image.tag`.
fn references(template: &str) -> Vec<String> {
    let name = |character: char| character.is_ascii_alphanumeric() || character == '.';
    template
        .split(".Values.")
        .skip(1)
        .map(|rest| rest.chars().take_while(|character| name(*character)).collect::<String>())
        .map(|path| path.trim_end_matches('.').to_owned())
        .collect()
}

/// Every path that the values of the golden files set.
fn set_somewhere(folder: &Path) -> anyhow::Result<BTreeSet<String>> {
    fn walk(value: &Value, path: &str, found: &mut BTreeSet<String>) {
        match value.as_object() {
            Some(members) => {
                for (name, value) in members {
                    walk(
                        value,
                        &if path.is_empty() { name.clone() } else { format!("{path}.{name}") },
                        found,
                    );
                }
            }
            None => _ = found.insert(path.to_owned()),
        }
    }
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.to_string_lossy().ends_with(VALUES_ENDING) {
            let values: Option<Value> = serde_saphyr::from_str(&fs::read_to_string(&path)?)
                .map_err(|error| anyhow!("{}: {error}", path.display()))?;
            walk(&values.unwrap_or_default(), "", &mut found);
        }
    }
    Ok(found)
}

fn texts(folder: &Path) -> anyhow::Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        match path.is_dir() {
            true => found.extend(texts(&path)?),
            false => found.push(fs::read_to_string(&path)?),
        }
    }
    Ok(found)
}

/// The schema with what each value's comment says as its description, which editors show.
///
/// # Errors
/// It cannot be read.
pub(super) fn described(root: &Path, path: &str) -> anyhow::Result<String> {
    let mut schema: Value = serde_json::from_str(&fs::read_to_string(root.join(path))?)
        .with_context(|| format!("{path} is no JSON"))?;
    for value in documented(root)?.iter().filter(|value| !value.comment.is_empty()) {
        let place: String = value.path.split('.').map(|name| format!("/properties/{name}")).collect();
        // One that is not in the schema is a finding, not a new entry.
        if let Some(members) = schema.pointer_mut(&place).and_then(Value::as_object_mut) {
            members.insert("description".to_owned(), Value::String(value.comment.clone()));
        }
    }
    Ok(format!("{}\n", serde_json::to_string_pretty(&schema)?))
}

/// The page of all values.
pub(super) fn table(root: &Path) -> anyhow::Result<String> {
    let mut table = String::from("| value | default | means |\n| --- | --- | --- |\n");
    let documented = documented(root)?;
    for value in &documented {
        let default = match value.default.as_str() {
            "" | "\"\"" => String::new(),
            default => format!("`{}`", cell(default.trim_matches('"'))),
        };
        if !(value.is_group && value.comment.is_empty()) {
            let _ = writeln!(table, "| `{}` | {default} | {} |", value.path, cell(&value.comment));
        }
    }
    Ok(table)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_template_takes_is_seen() {
        let template = "{{- with .Values.image.registry }}{{ range $.Values.syncs }}{{ .Values.a.b | quote }}{{ .Values.c }}";
        assert_eq!(references(template), ["image.registry", "syncs", "a.b", "c"]);
    }

    #[test]
    fn a_value_lies_in_its_group_and_in_no_other() {
        assert!(is_within("image.tag", "image") && is_within("image", "image"));
        assert!(!is_within("images", "image") && !is_within("image", "image.tag"));
    }
}
