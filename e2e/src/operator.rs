//! The operator as a process of its own: built once, started with its settings, ready, and ended in every way it can end.
//! What surrounds it (cluster, vaults, identity) is left to `stage`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::OnceCell;

use crate::guardian;
use crate::process::Process;
use crate::wait::{self, Seen};

/// Names a ready binary; without it the workspace's own is built.
pub const BINARY_VARIABLE: &str = "KEYVAULT_SYNC_BIN";

/// One request to the operator's own page.
const PAGE_LIMIT: Duration = Duration::from_secs(10);

/// Lines of the log that a failure shows.
const TAIL_LINES: usize = 60;

/// Settings of the environment that are the caller's, not the test's: a proxy cannot reach loopback.
const FOREIGN_VARIABLES: [&str; 8] = [
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "AZURE_AUTHORITY_HOST",
    "KEYVAULT_SYNC_CLUSTER_ID",
];

/// A running operator. Dropping it kills it.
#[derive(Debug)]
pub struct Operator {
    process: Process,
    log: PathBuf,
    /// Its working folder and its TMPDIR: empty at the start, and it has no business there.
    folder: TempDir,
    health: SocketAddr,
}

impl Operator {
    /// Starts `program` with these arguments and environment variables and waits until it serves `/readyz`, whatever that says
    /// (`ready` waits for more). Its log goes to the file `log`.
    ///
    /// # Errors
    /// It cannot be started, or ends; the message has the end of its log.
    pub async fn start(
        program: &Path,
        arguments: &[String],
        variables: &[(&str, &str)],
        log: &Path,
    ) -> anyhow::Result<Operator> {
        let folder = tempfile::tempdir().context("cannot make a folder for the operator to run in")?;
        guardian::remove_with_us(folder.path())?;
        let mut command = Command::new(std::path::absolute(program)?);
        command.current_dir(folder.path()).env("TMPDIR", folder.path());
        command.args(arguments).arg("--health-address=127.0.0.1:0");
        if !arguments.iter().any(|argument| argument.starts_with("--log-format=")) {
            command.arg("--log-format=json");
        }
        for variable in FOREIGN_VARIABLES {
            command.env_remove(variable);
        }
        command.envs(variables.iter().copied());
        let process = Process::spawn("keyvault-sync", &command, log)?;
        let with_log = || format!("the end of the operator's log:\n{}", process.log_tail(TAIL_LINES));
        let health = wait::until("the operator to say where its health is served", || async {
            Ok(match (health_address(&read(log)), process.exited()) {
                (Some(address), _) => Seen::Done(Some(address)),
                (None, Some(_)) => Seen::Done(None),
                (None, None) => Seen::NotYet("no such line in its log".into()),
            })
        })
        .await
        .with_context(with_log)?
        .context("the operator has ended")
        .with_context(with_log)?;
        Ok(Operator { process, log: log.to_path_buf(), folder, health })
    }

    /// Waits until `/readyz` says yes.
    ///
    /// # Errors
    /// It ends, or does not become ready; the message has the end of its log.
    pub async fn ready(&self) -> anyhow::Result<()> {
        wait::until("the operator to be ready", || async {
            ensure!(self.exited().is_none(), "it has ended");
            let (status, body) = self.readyz().await?;
            Ok(if status == 200 { Seen::Done(()) } else { Seen::NotYet(format!("{status}: {body}")) })
        })
        .await
        .with_context(|| format!("the end of the operator's log:\n{}", self.process.log_tail(TAIL_LINES)))
    }

    /// Status and words of `/readyz`.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn readyz(&self) -> anyhow::Result<(u16, String)> {
        page(self.health, "/readyz").await
    }

    /// Sends SIGTERM, or what a terminal sends for Ctrl-C, and waits for nothing.
    pub fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Waits until it has ended by itself.
    ///
    /// # Errors
    /// It did not end in time.
    pub async fn ended(&self) -> anyhow::Result<ExitStatus> {
        wait::until("the operator to end", || async {
            Ok(self.exited().map_or(Seen::NotYet("it runs".to_owned()), Seen::Done))
        })
        .await
    }

    /// Ends it as the kernel does when memory is short. Returns when it is gone.
    pub fn kill9(&self) {
        self.process.kill9();
    }

    /// Ends it as the kubelet does (SIGTERM) and waits for that.
    ///
    /// # Errors
    /// It did not end within a minute.
    pub async fn terminate(&self) -> anyhow::Result<ExitStatus> {
        self.process.terminate().await
    }

    /// Freezes it, sockets open.
    pub fn suspend(&self) {
        self.process.suspend();
    }

    /// Lets it go on after `suspend`.
    pub fn resume(&self) {
        self.process.resume();
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Its exit status, if it has ended.
    pub fn exited(&self) -> Option<ExitStatus> {
        self.process.exited()
    }

    /// The folder it runs in, which is its folder for temporary files too.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The file it logs to.
    pub fn log_path(&self) -> &Path {
        &self.log
    }

    /// All it has logged.
    pub fn log(&self) -> String {
        read(&self.log)
    }

    /// `/livez`: its status and what it says.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn livez(&self) -> anyhow::Result<(u16, String)> {
        page(self.health, "/livez").await
    }

    /// `/metrics`.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn metrics(&self) -> anyhow::Result<String> {
        match page(self.health, "/metrics").await? {
            (200, body) => Ok(body),
            (status, body) => bail!("/metrics answers {status}: {body}"),
        }
    }
}

/// The operator's program: the one that `KEYVAULT_SYNC_BIN` names, else the workspace's, built once a process.
///
/// # Errors
/// It cannot be built; cargo's own words are on standard error.
pub async fn binary() -> anyhow::Result<PathBuf> {
    static BINARY: OnceCell<PathBuf> = OnceCell::const_new();
    BINARY.get_or_try_init(|| named_or_built(&[])).await.cloned()
}

/// As `binary`, but built as it is released: for measurements.
///
/// # Errors
/// As `binary`.
pub async fn release_binary() -> anyhow::Result<PathBuf> {
    named_or_built(&["--release"]).await
}

async fn named_or_built(profile: &'static [&'static str]) -> anyhow::Result<PathBuf> {
    match std::env::var_os(BINARY_VARIABLE) {
        Some(path) => Ok(PathBuf::from(path)),
        None => tokio::task::spawn_blocking(|| build(profile, &[])).await?,
    }
}

/// Builds the operator with these arguments of `cargo build` and this environment, and says where it is.
pub(crate) fn build(arguments: &[&str], environment: &[(&str, &str)]) -> anyhow::Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["build", "--package=keyvault-sync", "--bin=keyvault-sync"])
        .args(arguments)
        .envs(environment.iter().copied())
        .arg("--message-format=json-render-diagnostics")
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run cargo to build the operator")?;
    ensure!(output.status.success(), "the operator cannot be built ({})", output.status);
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter_map(|message| Some(PathBuf::from(message["executable"].as_str()?)))
        .next_back()
        .context("cargo built the operator and did not say where it is")
}

/// From the log line that says where health is served, in whichever form it is logged.
fn health_address(log: &str) -> Option<SocketAddr> {
    log.lines().filter(|line| line.contains("/readyz")).find_map(|line| {
        if let Ok(line) = serde_json::from_str::<Value>(line) {
            return line["address"].as_str()?.parse().ok();
        }
        let (_, address) = line.split_once("address=")?;
        address.split_whitespace().next()?.parse().ok()
    })
}

/// Status and body of a page over plain HTTP; the server closes after it (HTTP/1.0).
async fn page(address: SocketAddr, path: &str) -> anyhow::Result<(u16, String)> {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        anyhow::Ok(answer)
    };
    let answer = tokio::time::timeout(PAGE_LIMIT, exchange).await.context("no answer in time")??;
    let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).context("no HTTP status")?;
    Ok((status, body.to_owned()))
}

fn read(log: &Path) -> String {
    std::fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}
