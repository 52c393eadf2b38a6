//! Alert rules and dashboard against the operator's own table of metrics: every metric and label that is asked for exists, and every
//! alert has its section in the runbooks. Also the rules as an object of the Prometheus operator. The table is made by `gen`.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, anyhow};
use promql_parser::parser::{self, Expr, VectorSelector};
use promql_parser::util::{ExprVisitor, walk_expr};
use serde_json::{Value, json};

/// The one source of the rules.
pub(crate) const RULES: &str = "deploy/monitoring/rules.yaml";
/// The same for the Prometheus operator.
pub(crate) const RULE_OBJECT: &str = "deploy/monitoring/prometheusrule.yaml";
/// The dashboard.
pub(crate) const DASHBOARD: &str = "deploy/monitoring/dashboard.json";
const METRICS: &str = "docs/metrics.md";
const RUNBOOKS: &str = "docs/runbooks.md";

/// Labels that Prometheus itself gives to what it scrapes.
const TARGET_LABELS: &[&str] = &["job", "instance", "pod", "container", "service", "endpoint"];
/// What a dashboard puts in for the distance of its points; any duration has the same metrics.
const INTERVAL: &str = "$__rate_interval";

/// The files that are compared, by what `read` says they hold.
///
/// # Errors
/// A file is missing or cannot be read.
pub(crate) fn findings<'a>(read: impl Fn(&str) -> Option<&'a str>) -> anyhow::Result<Vec<String>> {
    let text = |path: &str| read(path).with_context(|| format!("{path} is missing"));
    let metrics = Metrics::of(text(METRICS)?)?;
    let rules: Value = serde_saphyr::from_str(text(RULES)?).context(RULES)?;
    let dashboard: Value = serde_json::from_str(text(DASHBOARD)?).context(DASHBOARD)?;
    let sections = sections(text(RUNBOOKS)?);
    let mut findings = Vec::new();
    let mut alerts = BTreeSet::new();
    for rule in rules_of(&rules) {
        let alert = rule["alert"].as_str().unwrap_or_default();
        alerts.insert(alert.to_ascii_lowercase());
        let mut found = metrics.wrong(rule["expr"].as_str().unwrap_or_default());
        found.extend(metrics.wrong_words(rule));
        let address = format!("{RUNBOOKS}#{}", alert.to_ascii_lowercase());
        if rule["annotations"]["runbook_url"].as_str() != Some(&address) {
            found.push(format!("its runbook_url must be {address}"));
        }
        if !sections.contains(&alert.to_ascii_lowercase()) {
            found.push(format!("{RUNBOOKS} has no section \"## {alert}\": write one"));
        }
        findings.extend(found.into_iter().map(|what| format!("{RULES}: {alert}: {what}")));
    }
    for section in sections.difference(&alerts) {
        findings.push(format!("{RUNBOOKS}: the section {section} belongs to no alert of {RULES}"));
    }
    for (panel, expr) in queries(&dashboard) {
        findings.extend(metrics.wrong(&expr).into_iter().map(|what| format!("{DASHBOARD}: {panel}: {what}")));
    }
    Ok(findings)
}

/// The rules as the Prometheus operator takes them.
///
/// # Errors
/// They cannot be read.
pub(crate) fn rule_object(rules: &str) -> anyhow::Result<Value> {
    let rules: Value = serde_saphyr::from_str(rules).context(RULES)?;
    Ok(json!({
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "keyvault-sync", "namespace": "keyvault-sync"},
        "spec": rules,
    }))
}

fn rules_of(rules: &Value) -> impl Iterator<Item = &Value> {
    let groups = rules["groups"].as_array().into_iter().flatten();
    groups.flat_map(|group| group["rules"].as_array().into_iter().flatten())
}

/// The headings of the runbooks, as links name them.
fn sections(runbooks: &str) -> BTreeSet<String> {
    runbooks.lines().filter_map(|line| line.strip_prefix("## ")).map(str::to_ascii_lowercase).collect()
}

/// Every query of the dashboard, with the title of its panel; a variable's `label_values(metric, label)` as a sum by that label.
fn queries(dashboard: &Value) -> Vec<(String, String)> {
    let mut queries = Vec::new();
    for panel in dashboard["panels"].as_array().into_iter().flatten() {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            queries.push((text(&panel["title"]), text(&target["expr"])));
        }
    }
    for variable in dashboard["templating"]["list"].as_array().into_iter().flatten() {
        let query = variable["query"]["query"].as_str().unwrap_or_default();
        if let Some(inner) = query.strip_prefix("label_values(").and_then(|rest| rest.strip_suffix(')'))
            && let Some((metric, label)) = inner.split_once(',')
        {
            queries.push((format!("variable {}", variable["name"]), format!("sum by ({label}) ({metric})")));
        }
    }
    queries
}

/// The series there are, with their labels.
struct Metrics(BTreeMap<String, BTreeSet<String>>);

impl Metrics {
    /// From the table of the page.
    fn of(page: &str) -> anyhow::Result<Self> {
        let mut series = BTreeMap::new();
        for row in page.lines().filter(|line| line.starts_with("| `")) {
            let cells: Vec<_> = row.split('|').map(str::trim).collect();
            let &[_, name, kind, labels, ..] = cells.as_slice() else { continue };
            let name = name.trim_matches('`');
            let labels: BTreeSet<_> = labels
                .split(',')
                .map(|label| label.trim().trim_matches('`').to_owned())
                .filter(|it| !it.is_empty())
                .collect();
            match kind {
                "histogram" => {
                    let mut with_bound = labels.clone();
                    with_bound.insert("le".to_owned());
                    series.insert(format!("{name}_bucket"), with_bound);
                    series.insert(format!("{name}_sum"), labels.clone());
                    series.insert(format!("{name}_count"), labels);
                }
                "counter" | "gauge" => drop(series.insert(name.to_owned(), labels)),
                // Another table of the page.
                _ => {}
            }
        }
        (!series.is_empty())
            .then_some(Self(series))
            .ok_or_else(|| anyhow!("{METRICS} has no table of metrics"))
    }

    /// What is wrong with a query.
    fn wrong(&self, query: &str) -> Vec<String> {
        let query = query.replace(INTERVAL, "5m");
        match parser::parse(&query) {
            Err(error) => vec![format!("`{query}` cannot be read: {error}")],
            Ok(expr) => self.wrong_in(&expr),
        }
    }

    fn wrong_in(&self, expr: &Expr) -> Vec<String> {
        let mut asked = Asked::default();
        // It never breaks off.
        let _ = walk_expr(&mut asked, expr);
        let mut wrong = Vec::new();
        for (metric, labels) in &asked.selectors {
            match self.0.get(metric) {
                None => wrong.push(format!("there is no metric {metric} ({METRICS} has all)")),
                Some(there) => wrong.extend(
                    labels
                        .iter()
                        .filter(|label| !has(there, label))
                        .map(|label| format!("{metric} has no label {label}")),
                ),
            }
        }
        let there = self.labels_of(&asked);
        wrong.extend(
            asked
                .grouped
                .iter()
                .filter(|label| !has(&there, label))
                .map(|label| format!("nothing in it has the label {label}")),
        );
        wrong
    }

    fn labels_of(&self, asked: &Asked) -> BTreeSet<String> {
        asked.selectors.iter().filter_map(|(metric, _)| self.0.get(metric)).flatten().cloned().collect()
    }

    /// `{{ $labels.x }}` in what a rule says.
    fn wrong_words(&self, rule: &Value) -> Vec<String> {
        let mut asked = Asked::default();
        if let Ok(expr) = parser::parse(rule["expr"].as_str().unwrap_or_default()) {
            let _ = walk_expr(&mut asked, &expr);
        }
        let there = self.labels_of(&asked);
        let words =
            rule["annotations"].as_object().into_iter().flatten().filter_map(|(_, text)| text.as_str());
        let named = words.flat_map(|text| text.split("$labels.").skip(1)).map(|rest| {
            rest.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next().unwrap_or_default().to_owned()
        });
        named
            .filter(|label| !has(&there, label))
            .map(|label| format!("its words name the label {label}, which the alert has not"))
            .collect()
    }
}

fn has(labels: &BTreeSet<String>, label: &str) -> bool {
    labels.contains(label) || TARGET_LABELS.contains(&label)
}

/// What a query asks for.
#[derive(Default)]
struct Asked {
    /// Metrics, with the labels each is narrowed by.
    selectors: Vec<(String, Vec<String>)>,
    /// Labels it is grouped or matched by.
    grouped: Vec<String>,
}

impl Asked {
    fn note(&mut self, selector: &VectorSelector) {
        let labels = selector.matchers.matchers.iter().map(|matcher| matcher.name.clone()).collect();
        self.selectors.push((selector.name.clone().unwrap_or_default(), labels));
    }
}

impl ExprVisitor for Asked {
    type Error = ();

    fn pre_visit(&mut self, expr: &Expr) -> Result<bool, ()> {
        match expr {
            Expr::VectorSelector(selector) => self.note(selector),
            Expr::MatrixSelector(selector) => self.note(&selector.vs),
            Expr::Aggregate(aggregate) => {
                let labels = aggregate.modifier.as_ref().map(|modifier| modifier.labels().labels.clone());
                self.grouped.extend(labels.unwrap_or_default());
            }
            Expr::Binary(binary) => {
                let matching = binary.modifier.as_ref().and_then(|modifier| modifier.matching.as_ref());
                self.grouped
                    .extend(matching.map(|matching| matching.labels().labels.clone()).unwrap_or_default());
            }
            _ => {}
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "| `a_total` | counter | `vault`, `code` | x |\n| `b_seconds` | histogram |  | x |\n| `get` | a read | get |\n";

    #[test]
    fn a_query_for_what_is_not_there_is_found() {
        let metrics = Metrics::of(PAGE).unwrap();
        for (query, expected) in [
            ("sum by (vault) (rate(a_total{code=\"403\"}[5m])) > 0", 0),
            ("histogram_quantile(0.5, sum by (le) (rate(b_seconds_bucket[$__rate_interval])))", 0),
            ("max by (job, instance) (a_total)", 0),
            ("a_totals", 1),
            ("b_seconds", 1),
            ("sum by (name) (a_total)", 1),
            ("a_total{reason=\"x\"}", 1),
            ("a_total and on (namespace) b_seconds_count", 1),
            ("sum by (vault (a_total)", 1),
        ] {
            let wrong = metrics.wrong(query);
            assert_eq!(wrong.len(), expected, "{query}: {wrong:?}");
        }
    }

    #[test]
    fn an_alert_without_a_runbook_or_with_words_about_a_foreign_label_is_found() {
        let rules = |expr: &str, url: &str| {
            format!(
                "groups:\n- rules:\n  - alert: Bad\n    expr: {expr}\n    annotations:\n      summary: \"{{{{ $labels.vault }}}}\"\n      runbook_url: {url}\n"
            )
        };
        let found = |rules: &str, runbooks: &str| {
            let read = |path: &str| {
                Some(match path {
                    METRICS => PAGE,
                    RULES => rules,
                    DASHBOARD => "{}",
                    _ => runbooks,
                })
            };
            findings(read).unwrap().len()
        };
        let (there, missing) = ("# Runbooks\n\n## Bad\n", "# Runbooks\n");
        let url = "docs/runbooks.md#bad";
        assert_eq!(found(&rules("a_total", url), there), 0);
        assert_eq!(found(&rules("a_total", url), missing), 1);
        assert_eq!(found(&rules("a_total", "docs/runbooks.md"), there), 1);
        assert_eq!(found(&rules("b_seconds_count", url), there), 1);
        assert_eq!(found(&rules("a_total", url), "## Bad\n\n## Old\n"), 1);
    }
}
