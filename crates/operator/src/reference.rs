//! Tables for the documentation, printed from what the program is made of: its settings and its metrics.
//! Which page they go to is left to `cargo xtask gen`.

use std::fmt::Write as _;

use clap::{Arg, CommandFactory, ValueEnum};

use crate::metrics::{Kind, TABLE};
use crate::settings::CommandLine;

/// What a table is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Reference {
    /// Every metric.
    Metrics,
    /// Every flag and environment variable.
    Settings,
}

/// The table, in Markdown.
pub(crate) fn table(what: Reference) -> String {
    match what {
        Reference::Metrics => metrics(),
        Reference::Settings => settings(),
    }
}

fn metrics() -> String {
    let mut table = "| metric | kind | labels | means |\n| --- | --- | --- | --- |\n".to_owned();
    for metric in TABLE {
        let kind = match metric.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        let labels: Vec<_> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
        let _ = writeln!(
            table,
            "| `{}` | {kind} | {} | {} |",
            metric.name,
            labels.join(", "),
            escaped(metric.help)
        );
    }
    table
}

fn settings() -> String {
    let command = CommandLine::command();
    let mut table = "| flag | environment | default | means |\n| --- | --- | --- | --- |\n".to_owned();
    let is_shown = |argument: &&Arg| !argument.is_hide_set() && argument.get_env().is_some();
    for argument in command.get_arguments().filter(is_shown) {
        let (help, stated) = meaning(argument);
        let defaults: Vec<_> =
            argument.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
        let default = match (defaults.is_empty(), stated) {
            (false, _) => format!("`{}`", defaults.join(",")),
            (true, Some(stated)) => escaped(&stated),
            (true, None) => "none".to_owned(),
        };
        let env = argument.get_env().unwrap_or_default().to_string_lossy();
        let flag = argument.get_long().unwrap_or_default();
        let _ = writeln!(table, "| `--{flag} {}` | `{env}` | {default} | {help} |", value(argument));
    }
    table
}

/// What is given to a flag: its choices, or a word.
fn value(argument: &Arg) -> String {
    let choices: Vec<_> =
        argument.get_possible_values().iter().map(|value| value.get_name().to_owned()).collect();
    let is_list = argument.get_value_delimiter().is_some();
    match (choices.is_empty(), is_list) {
        (true, true) => "LIST".to_owned(),
        (true, false) => "VALUE".to_owned(),
        (false, true) => format!("{},…", escaped(&choices.join("|"))),
        (false, false) => escaped(&choices.join("|")),
    }
}

/// What a setting means, and the default that its help states because clap knows none: `[default: …]`.
fn meaning(argument: &Arg) -> (String, Option<String>) {
    let help = argument.get_long_help().or(argument.get_help()).map(ToString::to_string).unwrap_or_default();
    let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
    let Some((before, rest)) = help.split_once("[default: ") else { return (escaped(&help), None) };
    let Some((default, after)) = rest.split_once(']') else { return (escaped(&help), None) };
    (escaped(format!("{}{after}", before.trim_end()).trim()), Some(default.to_owned()))
}

/// As the cell of a table.
fn escaped(text: &str) -> String {
    text.replace('|', "\\|")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_has_a_row_with_its_variable_and_what_it_means() {
        let table = settings();
        let rows = table.lines().skip(2).collect::<Vec<_>>();
        let shown = CommandLine::command();
        let shown =
            shown.get_arguments().filter(|argument| argument.get_env().is_some() && !argument.is_hide_set());
        assert_eq!(rows.len(), shown.count());
        for row in rows {
            let cells: Vec<_> =
                row.replace("\\|", "/").split('|').map(|cell| cell.trim().to_owned()).collect();
            assert_eq!(cells.len(), 6, "{row}");
            assert!(cells[1..5].iter().all(|cell| cell.len() > 2), "{row}");
        }
        assert!(
            table.contains("| `--log-format json\\|text` | `KEYVAULT_SYNC_LOG_FORMAT` | `json` |"),
            "{table}"
        );
        assert!(table.contains("| the UID of the namespace kube-system | Which cluster this is"), "{table}");
    }

    #[test]
    fn every_metric_has_a_row() {
        assert_eq!(metrics().lines().count(), TABLE.len() + 2);
    }
}
