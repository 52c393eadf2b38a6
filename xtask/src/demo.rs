//! The demo: a cluster, a vault and the operator from nothing, and a certificate arriving and renewing; then it stays up.
//! This file tells the story; what is applied, what the vault shows and what there is to paste have files of their own.

mod documents;
mod play;
mod screen;
mod vault;

use std::env;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use anyhow::{Context, anyhow, bail, ensure};
use k8s_openapi::api::core::v1::Secret;
use keyvault_emulator::{Call, Operation, Permissions};
use keyvault_sync_api::{CertificateState, KeyVaultSync};
use keyvault_sync_e2e::certificates::{Authority, Issued};
use keyvault_sync_e2e::operator::{self, BINARY_VARIABLE, Operator};
use keyvault_sync_e2e::process::is_running;
use keyvault_sync_e2e::stage::{CLIENT, TENANT};
use keyvault_sync_e2e::wait::{self, Seen};
use keyvault_sync_e2e::{Stage, scene, tools};
use kube::Api;
use kube::api::{Patch, PatchParams};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::command;
use documents::{CERTIFICATE, DOCUMENTS, HOST, NAMESPACE, NEXT_SECRET, SECRET, SECRET_SHOWN, SYNC};
use screen::Screen;

/// The steps of `set_up` and `tell`; a demo that saw fewer has not shown everything.
const STEPS: usize = 10;

/// What the operator of a demo logs: what it logs by default.
const LOG_FILTER: &str = "info";

/// Whose hands the demo's are, in managed fields.
const FIELD_MANAGER: &str = "demo";

/// Lines of the operator's log that a failure shows.
const LOG_LINES: usize = 30;

/// A build that was interrupted goes on in a thread that cannot be stopped; its processes end with ours.
const THREADS_GRACE: Duration = Duration::from_secs(1);

/// Columns of the Events that fit a terminal.
const EVENT_COLUMNS: &str =
    "custom-columns=TYPE:.type,REASON:.reason,OBJECT:.involvedObject.name,MESSAGE:.message";

/// Options of `cargo xtask demo`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// End by itself, with exit status 0 only if every step was seen
    #[arg(long)]
    once: bool,
}

/// Shows the demo, and without `--once` keeps it up until Ctrl-C.
///
/// # Errors
/// A step was not seen; the message names it and has the end of the operator's log.
pub(crate) fn run(arguments: Arguments) -> anyhow::Result<()> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("no async runtime")?;
    let shown = runtime.block_on(show(arguments.once));
    runtime.shutdown_timeout(THREADS_GRACE);
    shown
}

async fn show(once: bool) -> anyhow::Result<()> {
    let mut interrupt = Interrupt::listen()?;
    let mut screen = Screen::new(STEPS);
    let demo = tokio::select! {
        demo = Demo::set_up(&mut screen) => demo?,
        () = interrupt.comes() => bail!("interrupted before anything was shown; nothing is left behind"),
    };
    let told = tokio::select! {
        told = demo.tell(&mut screen) => told.map_err(|error| demo.with_log(error)),
        () = interrupt.comes() => Err(anyhow!("interrupted before everything was shown")),
    };
    if told.is_ok() && !once {
        demo.invite(&screen).await?;
        interrupt.comes().await;
        screen.say("");
    }
    screen.say("ending the operator, the vault and the cluster (Ctrl-C ends them at once)");
    let ended = tokio::select! {
        ended = demo.end() => ended,
        // What is still there is dropped here, which kills it.
        () = interrupt.comes() => Ok(()),
    };
    told?;
    ended?;
    screen.say("everything was shown, and nothing is left behind");
    Ok(())
}

/// Ctrl-C, or SIGTERM.
struct Interrupt {
    interrupt: Signal,
    terminate: Signal,
}

impl Interrupt {
    fn listen() -> anyhow::Result<Interrupt> {
        let listen = |kind| signal(kind).context("cannot listen for signals");
        Ok(Interrupt {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
        })
    }

    async fn comes(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// A demo that is up.
struct Demo {
    stage: Stage,
    operator: Operator,
    authority: Authority,
    admin: SocketAddr,
}

impl Demo {
    async fn set_up(screen: &mut Screen) -> anyhow::Result<Demo> {
        let program = screen.step_with_output("the operator is built", build()).await?;
        let kubernetes =
            format!("etcd and Kubernetes {} are built or found", tools::Release::chosen()?.version());
        let found = async { tokio::task::spawn_blocking(tools::ensure_tools).await? };
        screen.step_with_output(&kubernetes, found).await?;
        let start = async {
            let stage = Stage::start_for(program, LOG_FILTER).await?;
            let admin = stage.emulator.start_admin(([127, 0, 0, 1], 0).into()).await?;
            stage.emulator.add_vault(HOST, TENANT);
            stage.emulator.allow(HOST, CLIENT, Permissions::certificates_officer());
            Ok((stage, admin))
        };
        let (stage, admin) = screen
            .step("etcd, kube-apiserver, kube-controller-manager and a local Key Vault start", start)
            .await?;
        screen.say(format!("      API server  {}", stage.cluster.url()));
        screen.say(format!("      Key Vault   https://{HOST}, served at {}", stage.emulator.address()));
        let operator = screen
            .step("the operator starts, as its own ServiceAccount with its own ClusterRole", stage.operator())
            .await?;
        Ok(Demo { stage, operator, authority: documents::authority()?, admin })
    }

    async fn tell(&self, screen: &mut Screen) -> anyhow::Result<()> {
        screen.heading("A platform team, an application team and cert-manager write");
        screen.quote(DOCUMENTS);
        screen.quote(&format!("---\n{SECRET_SHOWN}"));
        screen.say("");
        let first = documents::leaf(&self.authority)?;
        let written =
            screen.step("a CA issues the certificate; everything is applied", self.apply(&first)).await?;
        let import = screen.step("the certificate arrives in the vault", self.holds(&first, 1)).await?;
        screen.say(written.until(&import));

        let answers = screen.step("Kubernetes says so", self.answers()).await?;
        for (line, answer) in answers {
            screen.command(&line);
            screen.quote(&answer);
        }
        screen.say("");
        let versions = screen.step("the vault has it whole", self.checked(&[&first])).await?;
        versions.iter().for_each(|version| screen.quote(version));

        screen.heading("cert-manager renews: a new key and a new certificate in the same Secret");
        let second = documents::leaf(&self.authority)?;
        let written = self.write(SECRET, &second).await?;
        let import = screen.step("the second version arrives in the vault", self.holds(&second, 2)).await?;
        screen.say(written.until(&import));
        let versions = self.checked(&[&first, &second]).await?;
        versions.iter().skip(1).for_each(|version| screen.quote(version));
        screen.say("");
        screen.step("no key and no token stands in any log, Event or status", self.no_leak()).await?;
        ensure!(
            screen.is_complete(),
            "the demo has other steps than it counts: correct STEPS in xtask/src/demo.rs"
        );
        Ok(())
    }

    /// Prints what there is to paste.
    async fn invite(&self, screen: &Screen) -> anyhow::Result<()> {
        self.write(NEXT_SECRET, &documents::leaf(&self.authority)?).await?;
        screen.heading("It stays up. Lines to paste:");
        for part in play::parts(&self.stage, &self.operator, self.admin) {
            screen.heading(part.heading);
            screen.say(part.lines.trim_end());
        }
        screen
            .heading("docs/demo.md says what you will see. Ctrl-C ends everything and leaves nothing behind");
        Ok(())
    }

    async fn apply(&self, issued: &Issued) -> anyhow::Result<Written> {
        self.stage.cluster.apply(DOCUMENTS).await?;
        self.write(SECRET, issued).await
    }

    /// Writes a certificate into a Secret, as cert-manager does.
    async fn write(&self, secret: &str, issued: &Issued) -> anyhow::Result<Written> {
        self.stage.guard(&issued.key);
        let secrets: Api<Secret> = Api::namespaced(self.stage.client().clone(), NAMESPACE);
        let (params, object) = (PatchParams::apply(FIELD_MANAGER).force(), issued.secret(NAMESPACE, secret));
        let sent_us = unix_micros();
        // The object is not in the message: it holds a key.
        secrets
            .patch(secret, &params, &Patch::Apply(&object))
            .await
            .with_context(|| format!("the Secret {NAMESPACE}/{secret} cannot be written"))?;
        Ok(Written { sent_us, answered_us: unix_micros() })
    }

    /// Waits until the KeyVaultSync says that the vault holds this certificate; the import that brought it, the `number`th.
    async fn holds(&self, issued: &Issued, number: usize) -> anyhow::Result<Call> {
        let thumbprint = scene::thumbprint(issued)?;
        let syncs: Api<KeyVaultSync> = Api::namespaced(self.stage.client().clone(), NAMESPACE);
        wait::until("the KeyVaultSync to be Ready with this certificate", || async {
            let sync = syncs.get(SYNC).await?;
            let (ready, row) = (scene::ready(&sync), scene::row(&sync, SECRET));
            let is_there = row.is_some_and(|row| {
                row.state == CertificateState::Synced && row.thumbprint.as_deref() == Some(&thumbprint)
            });
            Ok(match ready {
                Some(ready) if ready.status == "True" && is_there => Seen::Done(()),
                Some(ready) => {
                    Seen::NotYet(format!("Ready {}, {}: {}", ready.status, ready.reason, ready.message))
                }
                None => Seen::NotYet("it has no status".to_owned()),
            })
        })
        .await?;
        let imports = self.stage.emulator.calls(HOST).into_iter().filter(|call| {
            call.operation == Operation::Import && call.committed && call.name.as_deref() == Some(CERTIFICATE)
        });
        let imports: Vec<Call> = imports.collect();
        ensure!(imports.len() == number, "the vault took {} imports, and {number} were due", imports.len());
        imports.into_iter().next_back().context("no import")
    }

    /// What kubectl prints about it, each with the command line.
    async fn answers(&self) -> anyhow::Result<Vec<(String, String)>> {
        let claim = format!("{CERTIFICATE}.{HOST}");
        let mut answers = Vec::new();
        for (arguments, expected) in [
            (&["get", "keyvaultsyncs", "-A"][..], "Synced"),
            (&["get", "keyvaultcertificates"], claim.as_str()),
            (&["get", "events", "-n", NAMESPACE, "-o", EVENT_COLUMNS], "Imported"),
        ] {
            let line = format!("kubectl {}", arguments.join(" "));
            // The Event follows the receipt, the receipt the import.
            let answer = wait::until(&format!("`{line}` to say {expected}"), || async {
                let output = self.stage.cluster.kubectl(arguments).await?;
                let said = String::from_utf8_lossy(&output.stdout).into_owned();
                let is_said = output.status.success() && said.contains(expected);
                let failed = String::from_utf8_lossy(&output.stderr).into_owned();
                Ok(if is_said { Seen::Done(said) } else { Seen::NotYet(format!("{said}{failed}")) })
            })
            .await?;
            answers.push((line, answer));
        }
        Ok(answers)
    }

    /// Checks that the vault has exactly these versions; each in words.
    async fn checked(&self, issued: &[&Issued]) -> anyhow::Result<Vec<String>> {
        let versions = vault::versions(&self.stage.emulator);
        ensure!(
            versions.len() == issued.len(),
            "the vault has {} versions, not {}",
            versions.len(),
            issued.len()
        );
        versions.iter().zip(issued).try_for_each(|(version, issued)| vault::check(version, issued))?;
        versions.iter().map(vault::describe).collect()
    }

    async fn no_leak(&self) -> anyhow::Result<()> {
        match self.stage.leak().await? {
            None => Ok(()),
            Some(finding) => bail!("found {finding}"),
        }
    }

    /// The error with the end of the operator's log, where its reason stands.
    fn with_log(&self, error: anyhow::Error) -> anyhow::Error {
        let log = self.operator.log();
        let lines: Vec<&str> = log.lines().collect();
        let tail = lines[lines.len().saturating_sub(LOG_LINES)..].join("\n");
        anyhow!("{error:#}\nthe end of the operator's log:\n{tail}")
    }

    /// Ends everything in order.
    async fn end(self) -> anyhow::Result<()> {
        let Demo { stage, operator, .. } = self;
        let pids: Vec<u32> = stage.cluster.pids().into_iter().chain([operator.pid()]).collect();
        let folder = stage.cluster.folder().to_path_buf();
        let status = operator.terminate().await?;
        stage.close().await?;
        drop(stage);
        ensure!(status.success(), "the operator ended with {status}");
        ensure!(!pids.iter().any(|pid| is_running(*pid)), "a process of {pids:?} is still running: kill it");
        ensure!(!folder.exists(), "{} is still there: remove it", folder.display());
        Ok(())
    }
}

/// When a Secret was written, in microseconds since 1970.
struct Written {
    sent_us: u64,
    answered_us: u64,
}

impl Written {
    /// How long after that the vault received this import, in words.
    fn until(&self, import: &Call) -> String {
        let milliseconds = |from: u64| import.began_unix_us.saturating_sub(from) as f64 / 1e3;
        format!(
            "      the vault received the import {:.0} ms after the Secret was sent to the API server ({:.0} ms after it was stored)",
            milliseconds(self.sent_us),
            milliseconds(self.answered_us)
        )
    }
}

fn unix_micros() -> u64 {
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_1970.as_micros()).unwrap_or(u64::MAX)
}

/// Builds the operator in the foreground, where cargo shows how far it is; then says where it is.
async fn build() -> anyhow::Result<PathBuf> {
    if env::var_os(BINARY_VARIABLE).is_none() {
        let cargo = command::cargo(&["build", "--package=keyvault-sync", "--bin=keyvault-sync"]);
        tokio::task::spawn_blocking(|| command::run(cargo)).await??;
    }
    operator::binary().await
}
