//! A real Kubernetes control plane on loopback: etcd, kube-apiserver and kube-controller-manager, without nodes.
//! Where the programs come from is `tools`' work, how they are started (flags, ports) `control_plane`'s.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::PostParams;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;

use crate::control_plane::{self, ControlPlane, ISSUER};
use crate::guardian;
use crate::kubeconfig::{self, User};
use crate::process::Process;
use crate::tools::{self, Tools};
use crate::wait::{self, Seen};

/// How often a start is tried when another process took a port between our choosing and the server's binding it.
const START_ATTEMPTS: u32 = 5;

/// One `kubectl` call; the slowest ones (`wait`, `delete` of a namespace) bring their own, shorter limit.
const KUBECTL_LIMIT: Duration = Duration::from_secs(120);

/// A test's operator never lives longer. The API server gives no less than ten minutes.
const KUBECONFIG_TOKEN_SECONDS: i64 = 24 * 60 * 60;

/// The API server's end waits for open watches, a minute and more with a controller that holds some. What a test wants to
/// see, no answer and no port, is there at once; the rest of that minute is spared it.
const APISERVER_GRACE: Duration = Duration::from_secs(3);

/// Lines of each log that a failure shows.
const TAIL_LINES: usize = 25;

/// A running control plane. Dropping it ends its processes and removes its folder; so does the end of this process,
/// however it comes, so that one cluster may also be kept in a `static` and shared by the tests of a file.
pub struct LocalCluster {
    // In the order of their end: who depends on the next one goes first, the folder last.
    controller_manager: Process,
    apiserver: Mutex<Arc<Process>>,
    etcd: Process,
    plane: ControlPlane,
    tools: Tools,
    config: Config,
    admin_kubeconfig: PathBuf,
    folder: TempDir,
}

impl LocalCluster {
    /// Starts a control plane of its own and waits until it serves and its controllers work. Builds the programs first if
    /// they are missing (`tools::ensure_tools`).
    ///
    /// # Errors
    /// A program is missing and cannot be built, or does not come up; the message has the end of its log.
    pub async fn start() -> anyhow::Result<LocalCluster> {
        Self::start_at(None).await
    }

    /// As `start`, with the API server at this address.
    pub(crate) async fn start_at(apiserver: Option<SocketAddr>) -> anyhow::Result<LocalCluster> {
        let tools = tokio::task::spawn_blocking(tools::ensure_tools).await??;
        for attempt in 1.. {
            match Self::try_start(&tools, apiserver).await {
                Err(error) if attempt < START_ATTEMPTS && control_plane::is_port_taken(&error) => {}
                result => return result,
            }
        }
        bail!("no free ports on 127.0.0.1 in {START_ATTEMPTS} attempts")
    }

    async fn try_start(tools: &Tools, apiserver: Option<SocketAddr>) -> anyhow::Result<LocalCluster> {
        let folder = tempfile::Builder::new()
            .prefix("keyvault-sync-cluster-")
            .tempdir()
            .context("cannot make a temporary folder; TMPDIR says where")?;
        guardian::remove_with_us(folder.path())?;
        let plane = ControlPlane::prepare(folder.path(), apiserver)?;
        let admin_kubeconfig = folder.path().join("admin.kubeconfig");
        let text = plane.kubeconfig(&User::Certificate(&plane.admin), "default");
        kubeconfig::write_private(&admin_kubeconfig, &text)?;
        let config = client_config(&text).await?;

        let etcd = plane.start_etcd(&tools.etcd)?;
        let apiserver = plane.start_apiserver(&tools.kube_apiserver)?;
        wait_until_serving(&config, &[&etcd, &apiserver]).await?;
        let controller_manager = plane.start_controller_manager(&tools.kube_controller_manager)?;
        let cluster = LocalCluster {
            controller_manager,
            apiserver: Mutex::new(Arc::new(apiserver)),
            etcd,
            plane,
            tools: tools.clone(),
            config,
            admin_kubeconfig,
            folder,
        };
        cluster.wait_for_controllers().await?;
        Ok(cluster)
    }

    /// A client that may do everything (`system:masters`). Each call makes a new one, bound to the async runtime it is
    /// called in, so that several tests can share a cluster.
    pub fn admin(&self) -> Client {
        #[expect(
            clippy::expect_used,
            reason = "the same configuration made a client when the cluster started"
        )]
        Client::try_from(self.config.clone()).expect("the admin configuration is sound")
    }

    /// The same, but told of each refusal: the other one asks again where the API server says "later" (429).
    pub fn admin_at_once(&self) -> Client {
        let mut config = self.config.clone();
        config.default_retry = false;
        #[expect(
            clippy::expect_used,
            reason = "the same configuration made a client when the cluster started"
        )]
        Client::try_from(config).expect("the admin configuration is sound")
    }

    /// The kubeconfig of that administrator.
    pub fn admin_kubeconfig(&self) -> &Path {
        &self.admin_kubeconfig
    }

    /// The folder of this cluster: logs, certificates, kubeconfigs. It is removed with the cluster.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Where the API server listens: `https://127.0.0.1:<port>`.
    pub fn url(&self) -> String {
        self.plane.url()
    }

    /// The certificate that signed the API server's, PEM.
    pub fn ca_pem(&self) -> String {
        self.plane.ca_pem()
    }

    /// The `iss` of the ServiceAccount tokens.
    pub fn issuer(&self) -> &str {
        ISSUER
    }

    /// The ids of the processes of this cluster.
    pub fn pids(&self) -> [u32; 3] {
        [self.etcd.pid(), self.apiserver().pid(), self.controller_manager.pid()]
    }

    /// The public keys of the ServiceAccount tokens, as JSON Web Key Set (`/openid/v1/jwks`).
    ///
    /// # Errors
    /// The API server does not answer.
    pub async fn jwks(&self) -> anyhow::Result<Value> {
        let request = http::Request::get("/openid/v1/jwks").body(Vec::new())?;
        self.admin().request(request).await.context("cannot read the OpenID keys of the API server")
    }

    /// A new token of a ServiceAccount (TokenRequest). Without audiences it is for the API server itself. `seconds` is how
    /// long it is valid, at least 600.
    ///
    /// # Errors
    /// The ServiceAccount does not exist, or the API server refuses.
    pub async fn token(
        &self,
        namespace: &str,
        service_account: &str,
        audiences: &[&str],
        seconds: i64,
    ) -> anyhow::Result<String> {
        let request = TokenRequest {
            spec: Some(TokenRequestSpec {
                audiences: Some(audiences.iter().map(|audience| (*audience).to_owned()).collect()),
                expiration_seconds: Some(seconds),
                ..TokenRequestSpec::default()
            }),
            ..TokenRequest::default()
        };
        Api::<ServiceAccount>::namespaced(self.admin(), namespace)
            .create_token_request(service_account, &PostParams::default(), &request)
            .await
            .with_context(|| format!("no token for the ServiceAccount {namespace}/{service_account}"))?
            .status
            .and_then(|status| status.token)
            .context("the API server answered a TokenRequest without a token")
    }

    /// Writes a kubeconfig that acts as that ServiceAccount for a day: API server, its CA, and a token.
    ///
    /// # Errors
    /// As `token`, or the file cannot be written.
    pub async fn kubeconfig_for(
        &self,
        namespace: &str,
        service_account: &str,
        path: &Path,
    ) -> anyhow::Result<()> {
        let token = self.token(namespace, service_account, &[], KUBECONFIG_TOKEN_SECONDS).await?;
        kubeconfig::write_private(path, &self.plane.kubeconfig(&User::Token(&token), namespace))
    }

    /// Copies a kubeconfig, with another address of the API server.
    ///
    /// # Errors
    /// A file cannot be read or written.
    pub fn kubeconfig_to(&self, server: &str, from: &Path, to: &Path) -> anyhow::Result<()> {
        let text =
            std::fs::read_to_string(from).with_context(|| format!("cannot read {}", from.display()))?;
        let mut document: Value = serde_json::from_str(&text)?;
        document["clusters"][0]["cluster"]["server"] = server.into();
        kubeconfig::write_private(to, &document.to_string())
    }

    /// Applies documents in YAML as one does by hand: `kubectl apply --server-side`. Where they hold definitions of
    /// resources, it returns when those are served.
    ///
    /// # Errors
    /// `kubectl` refuses; its own words are in the message.
    pub async fn apply(&self, yaml: &str) -> anyhow::Result<()> {
        let arguments = ["apply", "--server-side", "--force-conflicts", "--output=name", "--filename=-"];
        // Older ones take what begins with a brace for JSON to its end, without `---`.
        let output = self.kubectl_with_input(&arguments, &format!("# documents\n{yaml}")).await?;
        ensure!(
            output.status.success(),
            "kubectl apply refused: {}",
            String::from_utf8_lossy(&output.stderr).trim_end()
        );
        let names = String::from_utf8_lossy(&output.stdout).into_owned();
        for name in names
            .lines()
            .filter_map(|line| line.strip_prefix("customresourcedefinition.apiextensions.k8s.io/"))
        {
            self.wait_until_established(name).await?;
        }
        Ok(())
    }

    async fn wait_until_established(&self, name: &str) -> anyhow::Result<()> {
        let definitions: Api<CustomResourceDefinition> = Api::all(self.admin());
        wait::object(&definitions, name, "to be served", |definition| {
            let conditions = definition
                .status
                .as_ref()
                .and_then(|status| status.conditions.as_deref())
                .unwrap_or_default();
            conditions.iter().any(|condition| condition.type_ == "Established" && condition.status == "True")
        })
        .await
        .map(drop)
    }

    /// Runs the real `kubectl` as administrator. Its exit status is the caller's to judge.
    ///
    /// # Errors
    /// It cannot be started, or does not end within two minutes.
    pub async fn kubectl(&self, arguments: &[&str]) -> anyhow::Result<Output> {
        self.kubectl_with_input(arguments, "").await
    }

    /// `kubectl` with `input` on its standard input.
    ///
    /// # Errors
    /// As `kubectl`.
    pub async fn kubectl_with_input(&self, arguments: &[&str], input: &str) -> anyhow::Result<Output> {
        let mut child = tokio::process::Command::new(&self.tools.kubectl)
            .args(arguments)
            .env("KUBECONFIG", &self.admin_kubeconfig)
            // Its caches and preferences go into our folder, and the user's own do not come in.
            .env("HOME", self.folder.path())
            .env("KUBECACHEDIR", self.folder.path().join("kubectl-cache"))
            .env("KUBERC", "off")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", self.tools.kubectl.display()))?;
        let mut stdin = child.stdin.take().context("kubectl has no standard input")?;
        let input = input.to_owned();
        // Apart from reading its output, else both sides could wait for each other on a full pipe.
        let writing = tokio::spawn(async move { stdin.write_all(input.as_bytes()).await });
        let output =
            tokio::time::timeout(KUBECTL_LIMIT, child.wait_with_output()).await.with_context(|| {
                format!("kubectl {} did not end in {} s", arguments.join(" "), KUBECTL_LIMIT.as_secs())
            })??;
        // Who does not read his input (a `get`) closes it: no fault.
        writing.await?.ok();
        Ok(output)
    }

    /// Where the `kubectl` is that belongs to this cluster.
    pub fn kubectl_path(&self) -> &Path {
        &self.tools.kubectl
    }

    pub(crate) fn plane(&self) -> &ControlPlane {
        &self.plane
    }

    /// Ends the API server as an upgrade does: SIGTERM, then SIGKILL, which here comes three seconds later. etcd keeps the
    /// state; `start_apiserver` brings it back at the same address.
    pub async fn stop_apiserver(&self) {
        self.apiserver().terminate_within(APISERVER_GRACE).await;
    }

    /// Ends the API server as a crash does (SIGKILL).
    pub fn kill_apiserver(&self) {
        self.apiserver().kill9();
    }

    /// Starts the API server again and waits until it serves.
    ///
    /// # Errors
    /// It is still running, or does not come up.
    pub async fn start_apiserver(&self) -> anyhow::Result<()> {
        ensure!(self.apiserver().exited().is_some(), "the API server is running; stop it first");
        let apiserver = Arc::new(self.plane.start_apiserver(&self.tools.kube_apiserver)?);
        *self.apiserver.lock().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&apiserver);
        wait_until_serving(&self.config, &[&self.etcd, &apiserver]).await
    }

    /// Freezes the API server: connections stay open, nothing is answered.
    pub fn suspend_apiserver(&self) {
        self.apiserver().suspend();
    }

    /// Lets the API server go on.
    pub fn resume_apiserver(&self) {
        self.apiserver().resume();
    }

    /// Ends everything in order and removes the folder.
    ///
    /// # Errors
    /// A process had to be killed, or the folder cannot be removed.
    pub async fn stop(self) -> anyhow::Result<()> {
        self.controller_manager.terminate().await?;
        self.stop_apiserver().await;
        self.etcd.terminate().await?;
        std::fs::remove_dir_all(self.folder.path()).context("cannot remove the cluster's folder")
    }

    /// The end of each program's log, for the report of a failure.
    pub fn log_tails(&self) -> String {
        tails(&[&self.etcd, &self.apiserver(), &self.controller_manager])
    }

    fn apiserver(&self) -> Arc<Process> {
        Arc::clone(&self.apiserver.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The controllers work when they have given the namespace `default` its ServiceAccount.
    async fn wait_for_controllers(&self) -> anyhow::Result<()> {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.admin(), "default");
        wait::until("the ServiceAccount default, which the controller manager makes", || async {
            self.still_running()?;
            Ok(match accounts.get_opt("default").await? {
                Some(_) => Seen::Done(()),
                None => Seen::NotYet("it does not exist".to_owned()),
            })
        })
        .await
        .with_context(|| self.log_tails())
    }

    fn still_running(&self) -> anyhow::Result<()> {
        match self.controller_manager.exited() {
            Some(status) => bail!("kube-controller-manager has ended ({status})"),
            None => Ok(()),
        }
    }
}

impl Drop for LocalCluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.log_tails());
        }
    }
}

async fn client_config(kubeconfig: &str) -> anyhow::Result<Config> {
    let kubeconfig = Kubeconfig::from_yaml(kubeconfig)?;
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    // The server is on loopback: a proxy of the environment cannot reach it.
    config.proxy_url = None;
    Client::try_from(config.clone())?;
    Ok(config)
}

async fn wait_until_serving(config: &Config, programs: &[&Process]) -> anyhow::Result<()> {
    let client = Client::try_from(config.clone())?;
    let mut ended = None;
    wait::until("the API server to be ready", || {
        ended = programs.iter().find_map(|program| Some((program.name().to_owned(), program.exited()?)));
        let (ended, client) = (ended.clone(), client.clone());
        async move {
            if let Some(end) = ended {
                return Ok(Seen::Done(Err(end)));
            }
            let request = http::Request::get("/readyz").body(Vec::new())?;
            Ok(match client.request_text(request).await {
                Ok(_) => Seen::Done(Ok(())),
                Err(error) => Seen::NotYet(format!("{error}")),
            })
        }
    })
    .await
    .with_context(|| tails(programs))?
    .map_err(|(name, status)| anyhow::anyhow!("{name} has ended ({status})").context(tails(programs)))
}

fn tails(programs: &[&Process]) -> String {
    let tail = |program: &&Process| {
        format!("--- the end of the log of {}:\n{}", program.name(), program.log_tail(TAIL_LINES))
    };
    programs.iter().map(tail).collect::<Vec<_>>().join("\n")
}
