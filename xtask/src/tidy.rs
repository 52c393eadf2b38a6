//! What compilers and clippy do not see: the architecture's own rules (ARCHITECTURE.md, invariants 1 and 3), file headers,
//! links, leftovers. Each finding names the place and says what to do. Formatting and lints are left to their tools.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use crate::{command, monitoring};

/// Everything core may stand on directly. A new line here is a decision: is it pure, maintained, needed?
const CORE_DEPENDENCIES: &[&str] = &[
    "base64",
    "cbc",
    "cms",
    "der",
    "des",
    "hmac",
    "pkcs12",
    "pkcs5",
    "pkcs8",
    "rustls",
    "rustls-pki-types",
    "sha1",
    "sha2",
    "thiserror",
    "wildmatch",
    "x509-cert",
    "zeroize",
];

/// Never below core, at any depth: runtimes, clients, logs.
const NEVER_BELOW_CORE: &[&str] =
    &["tokio", "futures", "kube", "k8s-openapi", "reqwest", "hyper", "azure_core", "mio", "tracing"];

/// What core's sources must not say: input, output, waiting. The clock and the environment are clippy's to find
/// (`crates/core/clippy.toml`).
const NOT_IN_CORE: &[&str] = &[
    "std::fs",
    "std::net",
    "std::process",
    "std::env",
    "std::thread",
    "std::io",
    "Instant",
    "SystemTime",
    "async fn",
];

/// Lines of a file, tests not counted, from which it is asked whether it still holds one idea.
const LONG_FILE: usize = 700;

/// Files that are read: by ending, or by name.
const TEXT: &[&str] = &["rs", "md", "toml", "yaml", "yml", "json", "sh", "tpl", "mod", "run", "Dockerfile"];

/// A source file of the repository.
struct Source {
    /// Below the repository's root, with `/`.
    path: String,
    text: String,
}

struct Check {
    /// What holds when it passes.
    promise: &'static str,
    run: fn(&[Source]) -> anyhow::Result<Vec<String>>,
}

const CHECKS: &[Check] = &[
    Check { promise: "core stands on pure crates only", run: core_dependencies },
    Check { promise: "core reads and writes nothing", run: core_is_pure },
    Check { promise: "only ownership.rs spells a vault tag", run: tags },
    Check { promise: "only the api crate spells an annotation", run: annotations },
    Check { promise: "every source file says what it is for", run: headers },
    Check { promise: "nothing is left to be done later", run: leftovers },
    Check { promise: "no path of somebody's machine", run: machine_paths },
    Check {
        promise: "alerts and dashboard ask for metrics that exist, and each alert has its runbook",
        run: monitoring,
    },
    Check { promise: "links between documents lead somewhere", run: links },
    Check { promise: "program, chart and image are of one version", run: versions },
];

/// Runs every check and prints what it found.
///
/// # Errors
/// A check found something, or a file cannot be read.
pub(crate) fn run() -> anyhow::Result<()> {
    let sources = sources()?;
    let mut findings = 0;
    for check in CHECKS {
        let found = (check.run)(&sources)?;
        println!("{} {}", if found.is_empty() { "ok    " } else { "FAILED" }, check.promise);
        for finding in &found {
            println!("       {finding}");
        }
        findings += found.len();
    }
    for source in sources.iter().filter(|source| source.is_rust()) {
        let lines = source.code().count();
        if lines > LONG_FILE {
            println!("warning: {} has {lines} lines without its tests: does it hold one idea?", source.path);
        }
    }
    if findings > 0 {
        bail!("{findings} findings of tidy, each with what to do, above");
    }
    Ok(())
}

impl Source {
    fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// A file of tests or benchmarks alone.
    fn is_test(&self) -> bool {
        self.path.contains("/tests/") || self.path.contains("/benches/") || self.path.ends_with("/tests.rs")
    }

    /// Its lines with their numbers, up to the tests at its end, if it is no test altogether.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines = self.text.lines().enumerate().map(|(index, line)| (index + 1, line));
        let whole = !self.is_test();
        lines.take_while(move |(_, line)| whole && line.trim() != "#[cfg(test)]")
    }

    /// The same without comments.
    fn statements(&self) -> impl Iterator<Item = (usize, &str)> {
        self.code().filter(|(_, line)| !line.trim_start().starts_with("//"))
    }
}

/// The version stands in three files, none of which can read another's.
fn versions(sources: &[Source]) -> anyhow::Result<Vec<String>> {
    let ours = env!("CARGO_PKG_VERSION");
    let places = [
        ("charts/keyvault-sync/Chart.yaml", "version: "),
        ("charts/keyvault-sync/Chart.yaml", "appVersion: "),
        ("Dockerfile", "ARG VERSION="),
    ];
    let mut findings = Vec::new();
    for (path, key) in places {
        let source =
            sources.iter().find(|source| source.path == path).with_context(|| format!("no {path}"))?;
        let found = source.text.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default();
        if found.trim_matches('"') != ours {
            findings.push(format!("{path}: `{key}{found}`, but Cargo.toml says {ours}: make them equal"));
        }
    }
    Ok(findings)
}

fn core_dependencies(_: &[Source]) -> anyhow::Result<Vec<String>> {
    let below = |depth: &str| {
        let tree = ["tree", "--package", "keyvault-sync-core", "--edges", "normal", "--prefix", "none"];
        let mut tree = command::cargo(&tree);
        tree.args(["--format", "{lib}", "--depth", depth]);
        command::output(tree)
    };
    let names = |text: String| -> Vec<String> {
        let mut names: Vec<_> = text
            .lines()
            .filter_map(|line| line.split_whitespace().next())
            .map(|name| name.replace('_', "-"))
            .filter(|name| name != "keyvault-sync-core")
            .collect();
        names.sort();
        names.dedup();
        names
    };
    let mut findings = Vec::new();
    for name in names(below("1")?).iter().filter(|name| !CORE_DEPENDENCIES.contains(&name.as_str())) {
        findings.push(format!(
            "crates/core/Cargo.toml: {name} is new; if core needs it and it is pure, add it to CORE_DEPENDENCIES in xtask/src/tidy.rs"
        ));
    }
    for name in names(below("99")?) {
        if NEVER_BELOW_CORE.iter().any(|never| never.replace('_', "-") == name) {
            findings.push(format!(
                "core has {name} below it (cargo tree -p keyvault-sync-core -i {name}): take it out"
            ));
        }
    }
    Ok(findings)
}

fn core_is_pure(sources: &[Source]) -> anyhow::Result<Vec<String>> {
    let core = sources.iter().filter(|source| source.path.starts_with("crates/core/src/"));
    Ok(find(core, NOT_IN_CORE, "core does no I/O: move this to the crate that calls it"))
}

fn tags(sources: &[Source]) -> anyhow::Result<Vec<String>> {
    let words = ["owner", "source", "fingerprint"].map(|tag| format!("\"{}-{tag}", "keyvault-sync"));
    let others =
        sources.iter().filter(|source| source.is_rust() && source.path != "crates/core/src/ownership.rs");
    Ok(find(
        others,
        &words,
        "a vault tag is spelled in crates/core/src/ownership.rs alone: use what it exports",
    ))
}

fn annotations(sources: &[Source]) -> anyhow::Result<Vec<String>> {
    let words = [format!("\"{}/", "keyvaultsync.io")];
    let others = sources.iter().filter(|source| source.is_rust() && !source.path.starts_with("crates/api/"));
    Ok(find(
        others,
        &words,
        "annotations, labels and versions are spelled in crates/api alone: use its constants",
    ))
}

fn headers(sources: &[Source]) -> anyhow::Result<Vec<String>> {
    let has_header = |source: &&Source| {
        let mut header = source.text.lines().take_while(|line| line.starts_with("//!"));
        let two_sentences = header.next().map(|line| source.is_test() || line.contains(". "));
        two_sentences.is_some_and(|two| two || header.next().is_some())
    };
    Ok(sources
        .iter()
        .filter(|source| source.is_rust() && !has_header(source))
        .map(|source| {
            format!(
                "{}: begin with two `//!` sentences: what it does, and what it leaves to whom",
                source.path
            )
        })
        .collect())
}

fn leftovers(sources: &[Source]) -> anyhow::Result<Vec<String>> {
    let words = [["TO", "DO"].concat(), ["FIX", "ME"].concat(), ["XX", "X"].concat()];
    let mut findings = Vec::new();
    for source in sources {
        for (number, line) in source.text.lines().enumerate() {
            let is_word = |word: &str| word.trim_matches(|c: char| !c.is_alphanumeric()) == word;
            let mut parts = line.split(|c: char| !c.is_alphanumeric()).filter(|part| is_word(part));
            if parts.any(|part| words.iter().any(|word| word == part)) {
                findings.push(format!(
                    "{}:{}: do it now, or open an issue and leave nothing here",
                    source.path,
                    number + 1
                ));
            }
        }
    }
    Ok(findings)
}

fn machine_paths(sources: &[Source]) -> anyhow::Result<Vec<String>> {
    let folders = ["home", "root", "Users", "work"].map(|folder| format!("/{folder}/"));
    let mut findings = Vec::new();
    for source in sources {
        for (number, line) in source.text.lines().enumerate() {
            // At the start of a path only: a folder of that name deeper down is nobody's machine.
            let starts = |folder: &String| {
                line.match_indices(folder.as_str()).any(|(at, _)| {
                    !line[..at].ends_with(|c: char| c.is_alphanumeric() || "./_-}".contains(c))
                })
            };
            if folders.iter().any(starts) {
                findings.push(format!(
                    "{}:{}: a path of one machine; say it without",
                    source.path,
                    number + 1
                ));
            }
        }
    }
    Ok(findings)
}

fn monitoring(sources: &[Source]) -> anyhow::Result<Vec<String>> {
    let text =
        |path: &str| sources.iter().find(|source| source.path == path).map(|source| source.text.as_str());
    monitoring::findings(text)
}

fn links(sources: &[Source]) -> anyhow::Result<Vec<String>> {
    let root = command::root()?;
    let mut findings = Vec::new();
    for source in sources.iter().filter(|source| source.path.ends_with(".md")) {
        let folder = root.join(&source.path).parent().context("a file in no folder")?.to_owned();
        for (number, line) in source.text.lines().enumerate() {
            for target in link_targets(line) {
                if !folder.join(target).exists() {
                    findings.push(format!(
                        "{}:{}: {target} does not exist; correct the link",
                        source.path,
                        number + 1
                    ));
                }
            }
        }
    }
    Ok(findings)
}

/// The files a line of Markdown links to, `[text](file#part)`; addresses elsewhere and parts of the same page are none.
fn link_targets(line: &str) -> impl Iterator<Item = &str> {
    line.split("](")
        .skip(1)
        .filter_map(|rest| rest.split([')', ' ']).next())
        .filter(|target| !target.contains("://") && !target.starts_with("mailto:"))
        .filter_map(|target| target.split('#').next())
        .filter(|target| !target.is_empty())
}

fn find<'a, W: AsRef<str>>(
    sources: impl Iterator<Item = &'a Source>,
    words: &[W],
    advice: &str,
) -> Vec<String> {
    let mut findings = Vec::new();
    for source in sources {
        for (number, line) in source.statements() {
            for word in words.iter().map(AsRef::as_ref).filter(|word| line.contains(word)) {
                findings.push(format!("{}:{number}: `{word}`: {advice}", source.path));
            }
        }
    }
    findings
}

fn sources() -> anyhow::Result<Vec<Source>> {
    let root = command::root()?;
    let mut paths = Vec::new();
    walk(&root, &mut paths)?;
    paths.sort();
    paths
        .into_iter()
        .map(|path| {
            let text = fs::read_to_string(&path)
                .with_context(|| format!("{} is not text in UTF-8", path.display()))?;
            let path = path.strip_prefix(&root)?.to_string_lossy().replace('\\', "/");
            Ok(Source { path, text })
        })
        .collect()
}

fn walk(folder: &Path, paths: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let kind = entry.file_type()?;
        let hidden = name.starts_with('.') && name != ".ci" && name != ".cargo";
        if kind.is_dir() && !hidden && name != "target" {
            walk(&entry.path(), paths)?;
        } else if kind.is_file() && name.rsplit('.').next().is_some_and(|ending| TEXT.contains(&ending)) {
            paths.push(entry.path());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(path: &str, text: &str) -> Vec<Source> {
        vec![Source { path: path.into(), text: text.into() }]
    }

    #[test]
    fn each_check_finds_what_it_is_for_and_nothing_else() {
        type Run = fn(&[Source]) -> anyhow::Result<Vec<String>>;
        let annotation = format!("const A: &str = \"{}/sync-at\";", "keyvaultsync.io");
        let tag = format!("const T: &str = \"{}-owner\";", "keyvault-sync");
        let todo = format!("// {}: later", ["TO", "DO"].concat());
        let home = format!("see /{}/somebody/notes", "home");
        let tested = "fn a() {}\n#[cfg(test)]\nmod tests { use std::fs; }";
        let rows: &[(Run, &str, &str, usize)] = &[
            (core_is_pure, "crates/core/src/push.rs", "use std::fs;", 1),
            (core_is_pure, "crates/core/src/push.rs", "// std::fs is not for us", 0),
            (core_is_pure, "crates/core/src/push.rs", tested, 0),
            (core_is_pure, "crates/vault/src/lib.rs", "use std::fs;", 0),
            (tags, "crates/operator/src/main.rs", &tag, 1),
            (tags, "crates/core/src/ownership.rs", &tag, 0),
            (tags, "e2e/tests/push.rs", &tag, 0),
            (annotations, "crates/operator/src/main.rs", &annotation, 1),
            (annotations, "crates/api/src/lib.rs", &annotation, 0),
            (headers, "crates/vault/src/a.rs", "//! One.\n//! Two.\nfn a() {}", 0),
            (headers, "crates/vault/src/a.rs", "//! One. Two.\nfn a() {}", 0),
            (headers, "crates/vault/src/a.rs", "//! One.\nfn a() {}", 1),
            (headers, "crates/vault/src/a.rs", "fn a() {}", 1),
            (headers, "crates/vault/tests/a.rs", "//! One.\nfn a() {}", 0),
            (leftovers, "docs/a.md", &todo, 1),
            (leftovers, "docs/a.md", "a todolist", 0),
            (machine_paths, "docs/a.md", &home, 1),
            (machine_paths, "docs/a.md", "https://example.com/home/page and api/home/x", 0),
            (links, "README.md", "[a](Cargo.toml) [b](https://example.com) [c](#part)", 0),
            (links, "README.md", "[a](no-such-file.md#part)", 1),
        ];
        for (run, path, text, expected) in rows {
            let found = run(&source(path, text)).unwrap();
            assert_eq!(found.len(), *expected, "{path}: {text}: {found:?}");
        }
    }
}
