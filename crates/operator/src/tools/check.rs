//! `keyvault-sync check`: the way to a vault, step by step, from where it runs: name, connection, TLS, token, firewall, permissions. It
//! only reads; what reading cannot tell is said, with what the operator met. What failures mean is the vault adapter's word.
//! With `--all` it goes the way to each vault, after a look at the operator itself (`running`).

mod running;

use std::net::IpAddr;

use anyhow::bail;
use clap::Args;
use keyvault_sync_api::conditions::{self, READY};
use keyvault_sync_api::{KeyVault, KeyVaultCertificate};
use keyvault_sync_core::names::{CertificateName, VaultHost};
use keyvault_sync_core::reason::{Problem, Reason};
use keyvault_sync_vault::{CONTACT_NAME, Stage, VaultError, VaultReader, who};
use kube::ResourceExt;
use kube::api::{Api, ListParams};
use serde::Serialize;
use serde_json::json;

use super::cluster::{Cluster, Connection, Listed, Namespaces};
use super::operator::{Lookout, Operator, Told};
use super::table::{Table, width};
use super::{Form, Found, print, print_json};
use crate::keyvault;
use crate::kubernetes::call;

/// The vault takes the token, and answers this address.
const LETS_IN: &str = "firewall and tenant";
/// Of what the operator writes day by day.
const WRITE: &str = "import, update";
/// One page tells whether it may be listed.
const PAGES: usize = 1;

/// What is asked for.
#[derive(Args, Clone, Debug)]
pub(crate) struct Arguments {
    /// The name of a KeyVault, or the https URL of a vault
    #[arg(required_unless_present = "all")]
    vault: Option<String>,
    /// Whether the operator works here, and the way to the vault of each KeyVault
    #[arg(long, conflicts_with_all = ["vault", "namespace", "all_namespaces"])]
    all: bool,
    #[command(flatten)]
    namespaces: Namespaces,
    #[command(flatten)]
    cluster: Cluster,
    /// In which form
    #[arg(long, short, default_value = "text")]
    output: Form,
    #[command(flatten, next_help_heading = "As the operator, where its pod does not say it")]
    operator: Operator,
}

/// How a step went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
enum Went {
    Ok,
    Failed,
    /// It was not come to, or reading cannot tell.
    Unknown,
}

#[derive(Debug, Serialize)]
struct Step {
    step: &'static str,
    outcome: Went,
    message: String,
}

#[derive(Debug, Serialize)]
struct Answer {
    vault: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    identity: Option<String>,
    steps: Vec<Step>,
}

/// What is found with `--all`.
#[derive(Debug, Serialize)]
struct Everything {
    installation: String,
    /// Of the operator itself.
    steps: Vec<Step>,
    vaults: Vec<Answer>,
}

/// Checks the way.
pub(crate) async fn run(arguments: Arguments) -> anyhow::Result<Found> {
    let connection = arguments.cluster.connect().await?;
    let Some(vault) = &arguments.vault else { return everything(&arguments, &connection).await };
    let namespace = arguments.namespaces.or_default(&connection);
    let is_url = vault.contains("://");
    let key_vault = if is_url {
        KeyVault::new("none", serde_json::from_value(json!({"url": vault}))?)
    } else {
        find(vault, &connection).await?
    };
    let told = arguments.operator.told(&connection).await?;
    let claims = if is_url { Vec::new() } else { claims(&connection).await? };
    let answer = Answer::of(vault.clone(), &key_vault, told, &connection, &namespace, &claims).await?;
    match arguments.output {
        Form::Json => print_json(&answer)?,
        Form::Text => print(&text(&answer)),
    }
    Ok(found(&answer.steps))
}

/// Checks the operator, and the way to each vault there is.
async fn everything(arguments: &Arguments, connection: &Connection) -> anyhow::Result<Found> {
    let told = arguments.operator.told(connection).await?;
    let steps = running::steps(&told, connection).await?;
    let mut all = Everything { installation: told.installation().to_string(), steps, vaults: Vec::new() };
    let key_vaults = Api::<KeyVault>::all(connection.client.clone());
    match connection.list(key_vaults, "KeyVaults", ListParams::default()).await? {
        Listed::Objects(key_vaults) => {
            let claims = claims(connection).await?;
            for key_vault in &key_vaults {
                let (name, namespace) = (key_vault.name_any(), told.installation().namespace());
                let answer = if is_opened_by_namespaces(key_vault) {
                    Answer::of_namespaces(name)
                } else {
                    Answer::of(name, key_vault, told.clone(), connection, namespace, &claims).await?
                };
                all.vaults.push(answer);
            }
        }
        // Of missing definitions the operator's own steps have told.
        Listed::NoKind => {}
        Listed::Forbidden(message) => bail!("the KeyVaults cannot be checked: {message}"),
    }
    match arguments.output {
        Form::Json => print_json(&all)?,
        Form::Text => print(&text_of_all(&all)),
    }
    Ok(found(all.steps.iter().chain(all.vaults.iter().flat_map(|vault| &vault.steps))))
}

fn found<'a>(steps: impl IntoIterator<Item = &'a Step>) -> Found {
    let is_well = steps.into_iter().all(|step| step.outcome != Went::Failed);
    if is_well { Found::Well } else { Found::Trouble }
}

/// Whether each namespace opens it as itself, so that there is no one way to it.
fn is_opened_by_namespaces(key_vault: &KeyVault) -> bool {
    key_vault.spec.identity.as_ref().is_some_and(|identity| identity.service_account.is_some())
}

/// All claims, as far as they may be seen.
async fn claims(connection: &Connection) -> anyhow::Result<Vec<KeyVaultCertificate>> {
    let claims = Api::<KeyVaultCertificate>::all(connection.client.clone());
    match connection.list(claims, "KeyVaultCertificates", ListParams::default()).await? {
        Listed::Objects(claims) => Ok(claims),
        Listed::Forbidden(_) | Listed::NoKind => Ok(Vec::new()),
    }
}

async fn find(name: &str, connection: &Connection) -> anyhow::Result<KeyVault> {
    let vaults = Api::<KeyVault>::all(connection.client.clone());
    match call("a KeyVault", vaults.get(name)).await {
        Ok(found) => Ok(found),
        Err(error) if error.says_missing(name) => {
            bail!(
                "there is no KeyVault {name} in {}: kubectl get keyvaults, or give an https URL",
                connection.url
            )
        }
        Err(error) => Err(connection.unanswered(&error)),
    }
}

/// Goes the way until it ends.
async fn walk(answer: &mut Answer, lookout: &Lookout, key_vault: &KeyVault, namespace: &str) {
    let view = &lookout.view;
    let clouds = view.settings.allowed_clouds();
    let host = match VaultHost::from_url(&key_vault.spec.url, &clouds) {
        Ok(host) => host,
        Err(problem) => return answer.failed("url", &problem),
    };
    answer.host = Some(host.to_string());
    let resolved = keyvault::resolve(key_vault, view);
    let identity = resolved.and_then(|vault| vault.opener.of(namespace, view));
    let identity = match identity {
        Ok(identity) => identity,
        Err(problem) => {
            // The way there does not depend on who goes it.
            answer.failed("identity", &problem);
            return;
        }
    };
    answer.identity = Some(who(&identity));
    let reader = match view.vault_readers.of(&host, &identity) {
        Ok(reader) => reader,
        Err(error) => return answer.failed("identity", &error.problem),
    };
    let is_elsewhere = view.settings.access.emulator_address.is_some();
    if answer.way(&reader, &host, is_elsewhere).await.is_err() {
        return answer.not_come_to(&["token", LETS_IN, "get", "list", "get deleted"]);
    }
    if let Err(error) = reader.token().await {
        answer.failed("token", &error.problem);
        return answer.not_come_to(&[LETS_IN, "get", "list", "get deleted"]);
    }
    answer.ok("token", format!("Entra ID gives {} one", who(&identity)));
    answer.permissions(&reader).await;
}

impl Answer {
    /// The way to one vault, as the operator opens it for a namespace.
    async fn of(
        name: String,
        key_vault: &KeyVault,
        told: Told,
        connection: &Connection,
        namespace: &str,
        claims: &[KeyVaultCertificate],
    ) -> anyhow::Result<Answer> {
        let lookout = told.look_at(connection, key_vault.clone(), namespace).await?;
        let mut answer = Answer { vault: name, host: None, identity: None, steps: Vec::new() };
        walk(&mut answer, &lookout, key_vault, namespace).await;
        if let Some(host) = &answer.host {
            let is_its = |claim: &&KeyVaultCertificate| {
                claim.spec.vault_host == *host && claim.spec.key_vault == key_vault.name_any()
            };
            answer.steps.extend(writes(&claims.iter().filter(is_its).collect::<Vec<_>>()));
        }
        Ok(answer)
    }

    /// A vault that each namespace opens as itself.
    fn of_namespaces(name: String) -> Answer {
        let message = format!("each namespace opens it as itself: keyvault-sync check {name} -n NAMESPACE");
        let mut answer = Answer { vault: name, host: None, identity: None, steps: Vec::new() };
        answer.add("identity", Went::Unknown, message);
        answer
    }

    fn add(&mut self, step: &'static str, outcome: Went, message: String) {
        self.steps.push(Step { step, outcome, message });
    }

    fn ok(&mut self, step: &'static str, message: String) {
        self.add(step, Went::Ok, message);
    }

    fn failed(&mut self, step: &'static str, problem: &Problem) {
        self.add(step, Went::Failed, problem.message.clone());
    }

    fn not_come_to(&mut self, steps: &[&'static str]) {
        for step in steps {
            self.add(step, Went::Unknown, "not come to".to_owned());
        }
    }

    /// From the name to the vault's first answer.
    async fn way(&mut self, reader: &VaultReader, host: &VaultHost, is_elsewhere: bool) -> Result<(), ()> {
        const STAGES: [(Stage, &str); 4] = [
            (Stage::Name, "DNS"),
            (Stage::Connection, "connection"),
            (Stage::Tls, "TLS"),
            (Stage::Answer, "challenge"),
        ];
        let met = reader.approach().await;
        let failed = met.as_ref().err().map(|(stage, _)| *stage);
        for (stage, name) in STAGES {
            match &met {
                Err((at, error)) if *at == stage => self.failed(name, &error.problem),
                Err((at, _)) if *at < stage => self.not_come_to(&[name]),
                _ => {
                    let message = match stage {
                        Stage::Name => addresses(host, is_elsewhere).await,
                        Stage::Connection => "port 443 answers".to_owned(),
                        Stage::Tls => "the server's certificate is accepted".to_owned(),
                        Stage::Answer => "a token of Key Vault's audience is asked for".to_owned(),
                    };
                    self.ok(name, message);
                }
            }
        }
        failed.map_or(Ok(()), |_| Err(()))
    }

    /// What the vault lets us do, as far as reading tells.
    async fn permissions(&mut self, reader: &VaultReader) {
        let let_in = "the vault takes the token and lets this address in".to_owned();
        match reader.contact().await {
            Ok(()) => {
                self.ok(LETS_IN, let_in);
                self.ok("get", "certificates may be read".to_owned());
            }
            Err(error) if error.problem.reason == Reason::Forbidden => {
                self.ok(LETS_IN, let_in);
                self.failed("get", &error.problem);
            }
            Err(error) => {
                self.failed(LETS_IN, &error.problem);
                return self.not_come_to(&["get", "list", "get deleted"]);
            }
        }
        let listed = reader.list(PAGES).await.map(drop);
        self.permission("list", "certificates may be listed: comparisons are made page by page", listed);
        if let Ok(name) = CertificateName::parse(CONTACT_NAME) {
            let found = reader.deleted(&name).await.map(drop);
            self.permission("get deleted", "soft-deleted certificates may be looked for", found);
        }
    }

    fn permission(&mut self, step: &'static str, well: &str, met: Result<(), VaultError>) {
        match met {
            Ok(()) => self.ok(step, well.to_owned()),
            Err(error) => self.failed(step, &error.problem),
        }
    }
}

/// What the name leads to from here.
async fn addresses(host: &VaultHost, is_elsewhere: bool) -> String {
    if is_elsewhere {
        return "not asked: the settings say where every vault is".to_owned();
    }
    let Ok(found) = tokio::net::lookup_host((host.as_str(), 443)).await else {
        return "not resolved here, but by a proxy".to_owned();
    };
    let word = |address: IpAddr| {
        let is_private = match address {
            IpAddr::V4(address) => address.is_private(),
            IpAddr::V6(address) => address.is_unique_local(),
        };
        format!("{address}{}", if is_private { " (private)" } else { "" })
    };
    found.map(|address| word(address.ip())).collect::<Vec<_>>().join(", ")
}

/// What writing takes: not to be told by reading, but by what the operator met.
fn writes(claims: &[&KeyVaultCertificate]) -> Vec<Step> {
    const ACTIONS: [(&str, &[&str]); 3] = [
        (
            WRITE,
            &[
                "certificates/import",
                "certificates/update",
                "certificate permission import",
                "certificate permission update",
            ],
        ),
        ("delete", &["certificates/delete", "certificate permission delete"]),
        ("recover", &["certificates/recover", "certificate permission recover"]),
    ];
    let forbidden: Vec<&str> = claims
        .iter()
        .filter_map(|claim| conditions::find(&claim.status.as_ref()?.conditions, READY))
        .filter(|ready| ready.reason == Reason::Forbidden.as_str())
        .map(|ready| ready.message.as_str())
        .collect();
    let pushed = claims.iter().filter_map(|claim| {
        let status = claim.status.as_ref()?;
        Some((status.pushed_at.as_ref()?.0, claim.spec.certificate_name.as_str()))
    });
    let last = pushed.max();
    ACTIONS
        .into_iter()
        .map(|(step, words)| {
            let met = forbidden.iter().find(|message| words.iter().any(|word| message.contains(word)));
            let (outcome, message) = match (met, step, last) {
                (Some(message), ..) => (Went::Failed, format!("the operator met: {message}")),
                (None, WRITE, Some((when, name))) => {
                    (Went::Ok, format!("the operator wrote {name} at {when}"))
                }
                _ => (
                    Went::Unknown,
                    "cannot be told without writing; the role Key Vault Certificates Officer has it"
                        .to_owned(),
                ),
            };
            Step { step, outcome, message }
        })
        .collect()
}

fn text(answer: &Answer) -> String {
    let host = answer.host.as_ref().map(|host| format!(" ({host})")).unwrap_or_default();
    let identity = answer.identity.as_ref().map(|who| format!(", as {who}")).unwrap_or_default();
    format!("{}{host}{identity}\n{}", answer.vault, table(&answer.steps))
}

fn text_of_all(all: &Everything) -> String {
    let mut text = format!("installation {}\n{}", all.installation, table(&all.steps));
    for answer in &all.vaults {
        text.push_str(&format!("\n{}", self::text(answer)));
    }
    if all.vaults.is_empty() {
        text.push_str("\nThere is no KeyVault yet, so there is no way to check.\n");
    }
    text
}

fn table(steps: &[Step]) -> String {
    let mut table = Table::new(["", "STEP", "FOUND"]);
    for step in steps {
        let sign = match step.outcome {
            Went::Ok => "✓",
            Went::Failed => "✗",
            Went::Unknown => "?",
        };
        table.row([sign.to_owned(), step.step.to_owned(), step.message.clone()]);
    }
    // What is to be done stands at the end of a sentence, so none is cut where something failed.
    let is_well = steps.iter().all(|step| step.outcome != Went::Failed);
    table.text(width().filter(|_| is_well))
}
