//! `keyvault-sync version`: of the program, and of the Kubernetes API that it serves.
//! What changed between versions is left to the changelog.

use clap::Args;
use serde::Serialize;

use super::{Form, Found, print, print_json};

/// Set where the program is built from a known commit; without it a build is the same wherever it is made.
const COMMIT: Option<&str> = option_env!("KEYVAULT_SYNC_COMMIT");

/// What is asked for.
#[derive(Args, Clone, Debug)]
pub(crate) struct Arguments {
    /// In which form
    #[arg(long, short, default_value = "text")]
    output: Form,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Version {
    version: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    commit: Option<&'static str>,
    api_versions: Vec<Served>,
}

/// The versions of a kind that the definitions of this program serve.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Served {
    kind: String,
    group: String,
    versions: Vec<String>,
}

/// Prints it.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<Found> {
    let api_versions = keyvault_sync_api::crds().into_iter().map(|definition| {
        let served = definition.spec.versions.into_iter().filter(|version| version.served);
        Served {
            kind: definition.spec.names.kind,
            group: definition.spec.group,
            versions: served.map(|version| version.name).collect(),
        }
    });
    let version = Version {
        version: env!("CARGO_PKG_VERSION"),
        commit: COMMIT.filter(|commit| !commit.is_empty()),
        api_versions: api_versions.collect(),
    };
    match arguments.output {
        Form::Json => print_json(&version)?,
        Form::Text => print(&text(&version)),
    }
    Ok(Found::Well)
}

fn text(version: &Version) -> String {
    let commit = version.commit.map(|commit| format!(" (commit {commit})")).unwrap_or_default();
    let mut text = format!("keyvault-sync {}{commit}\n", version.version);
    for Served { kind, group, versions } in &version.api_versions {
        text.push_str(&format!("{kind}: {group}/{}\n", versions.join(", ")));
    }
    text
}
