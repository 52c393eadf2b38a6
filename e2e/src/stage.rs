//! What a promise is tested on: a real control plane with our resources, RBAC and policies, the emulator, and the operator between
//! them, as its own ServiceAccount. What happens in one test (namespace, vault, Secrets) is left to `scene`.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use anyhow::Context;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::api::rbac::v1::ClusterRole;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use keyvault_emulator::{Application, Emulator, FederatedCredential};
use keyvault_sync_api::admission::{self, Policy};
use keyvault_sync_api::constants::{GROUP, VERSION};
use keyvault_sync_api::rbac::service_account_rules;
use keyvault_sync_api::{ClusterKeyVaultSync, KeyVault, KeyVaultCertificate, KeyVaultSync};
use kube::{Api, Client};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use crate::cluster::LocalCluster;
use crate::leaks;
use crate::operator::{self, Operator};
use crate::wait::{self, Seen};

/// The operator's namespace and ServiceAccount.
pub const OPERATOR: &str = "keyvault-sync";
/// The tenant of every vault.
pub const TENANT: &str = "8f3c9e2a-5d1b-4c7e-9a60-2b4d6f8e0c11";
/// The application the operator acts as.
pub const CLIENT: &str = "c0a8016b-7f3d-4e52-8b19-5d2e4f6a8c33";
/// The ServiceAccount that opens vaults for a namespace, where a KeyVault says so.
pub const SERVICE_ACCOUNT: &str = "keyvault";
/// The audience of federated tokens (Entra ID's for Kubernetes).
const AUDIENCE: &str = "api://AzureADTokenExchange";
/// A stage never stands longer.
const TOKEN_SECONDS: i64 = 24 * 60 * 60;

/// How long copies that differ are waited for: nobody waits for two minutes in a test.
pub const COPIES_PATIENCE_SECS: i64 = 5;
/// Nor for an hour.
const DELETION_EFFORT: &str = "--deletion-effort=20s";

/// What the operator logs: all of its own, and what libraries say at the finest level that may ever be switched on by a
/// user in trouble, because nothing of a key may be there either.
const LOG_FILTER: &str = "debug,keyvault_sync=trace";

/// The name of the role for other ServiceAccounts' tokens, and of its binding.
pub const IDENTITIES: &str = "keyvault-sync-identities";

/// Another application that the operator may act as, where two run side by side.
pub const SECOND_CLIENT: &str = "5d0e7a52-6c34-4a8b-9d17-3b0f2c9e8a76";

/// A pod that an operator runs in.
#[derive(Clone, Copy, Debug)]
pub struct Pod<'a> {
    /// Its name; no other has it, nor ever had.
    pub name: &'a str,
    /// The application it acts as, by which the vault's journal tells pods apart.
    pub client: &'a str,
    /// Where it reaches the API server, if not at the API server's own address.
    pub api_server: Option<std::net::SocketAddr>,
}

/// The pod that the operator runs in.
const POD: &str = "keyvault-sync-0";

const NAMESPACE_AND_BINDING: &str = r"
apiVersion: v1
kind: Namespace
metadata: {name: keyvault-sync}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: keyvault-sync, namespace: keyvault-sync}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: keyvault-sync}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: keyvault-sync}
subjects: [{kind: ServiceAccount, name: keyvault-sync, namespace: keyvault-sync}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: keyvault-sync-leader, namespace: keyvault-sync}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: keyvault-sync-leader}
subjects: [{kind: ServiceAccount, name: keyvault-sync, namespace: keyvault-sync}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: keyvault-sync-identities}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: keyvault-sync-identities}
subjects: [{kind: ServiceAccount, name: keyvault-sync, namespace: keyvault-sync}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: stranger}
rules: [{apiGroups: [keyvaultsync.io], resources: [keyvaultcertificates], verbs: [create]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: stranger}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: stranger}
subjects: [{kind: User, apiGroup: rbac.authorization.k8s.io, name: stranger}]
";

/// A user whom RBAC lets create claims and who is no operator: by what he is told it is known that the policies act.
const STRANGER: &str = "stranger";

/// A control plane with our resources, an emulator, and what the operator needs to stand between them.
pub struct Stage {
    /// The control plane.
    pub cluster: LocalCluster,
    /// Vaults and Entra ID.
    pub emulator: Emulator,
    client: Client,
    kubeconfig: PathBuf,
    ca_bundle: PathBuf,
    federated_token: PathBuf,
    program: PathBuf,
    log_filter: &'static str,
    /// Private keys in use anywhere on this stage, PEM: none of their lines may turn up anywhere.
    keys: Mutex<Vec<String>>,
    operators: AtomicU32,
    running: OnceCell<Operator>,
}

impl Stage {
    /// Sets everything up but the operator, whose program is built if need be.
    ///
    /// # Errors
    /// Anything does not start; the message says what.
    pub async fn start() -> anyhow::Result<Stage> {
        Self::start_for(operator::binary().await?, LOG_FILTER).await
    }

    /// Sets everything up but the operator, which will be this program and log what this filter says.
    ///
    /// # Errors
    /// Anything does not start; the message says what.
    pub async fn start_for(program: PathBuf, log_filter: &'static str) -> anyhow::Result<Stage> {
        let emulator =
            Emulator::start(([127, 0, 0, 1], 0).into()).await.context("the emulator does not start")?;
        Self::stand(program, log_filter, emulator, &[]).await
    }

    /// Another cluster before the same vaults, with everything but an operator.
    ///
    /// # Errors
    /// Anything does not start; the message says what.
    pub async fn beside(&self) -> anyhow::Result<Stage> {
        let keys = self.cluster.jwks().await?["keys"].as_array().cloned().unwrap_or_default();
        Self::stand(self.program.clone(), self.log_filter, self.emulator.clone(), &keys).await
    }

    /// `keys`: of other clusters whose tokens Entra ID takes too.
    async fn stand(
        program: PathBuf,
        log_filter: &'static str,
        emulator: Emulator,
        keys: &[Value],
    ) -> anyhow::Result<Stage> {
        let cluster = LocalCluster::start().await?;
        install(&cluster).await?;
        federate(&cluster, &emulator, keys).await?;

        let folder = cluster.folder();
        let (kubeconfig, ca_bundle, federated_token) = (
            folder.join("operator.kubeconfig"),
            folder.join("emulator-ca.pem"),
            folder.join("federated-token"),
        );
        cluster.kubeconfig_for(OPERATOR, OPERATOR, &kubeconfig).await?;
        write(&ca_bundle, emulator.ca_pem())?;
        write(&federated_token, &cluster.token(OPERATOR, OPERATOR, &[AUDIENCE], TOKEN_SECONDS).await?)?;
        Ok(Stage {
            client: cluster.admin(),
            cluster,
            emulator,
            kubeconfig,
            ca_bundle,
            federated_token,
            program,
            log_filter,
            keys: Mutex::default(),
            operators: AtomicU32::new(0),
            running: OnceCell::new(),
        })
    }

    /// Starts an operator of the caller's own and waits until it is ready: the same pod's, whenever it is started.
    ///
    /// # Errors
    /// It does not become ready; the message has the end of its log.
    pub async fn operator(&self) -> anyhow::Result<Operator> {
        let copies_patience = format!("--copies-patience={COPIES_PATIENCE_SECS}s");
        self.operator_with(&[&copies_patience, DELETION_EFFORT]).await
    }

    /// As `operator`, with these arguments and without our patience. What is logged, and in which form, may be among them.
    ///
    /// # Errors
    /// As `operator`.
    pub async fn operator_with(&self, more: &[&str]) -> anyhow::Result<Operator> {
        self.pod(&Pod { name: POD, client: CLIENT, api_server: None }, more).await
    }

    /// Makes Entra ID take the operator's ServiceAccount for this application too.
    pub fn trust(&self, client: &str) {
        self.emulator.add_application(Application {
            tenant_id: TENANT.to_owned(),
            client_id: client.to_owned(),
            federated: vec![self.federated(OPERATOR, OPERATOR)],
            ..Application::default()
        });
    }

    /// The same as another pod, which may run beside the first.
    ///
    /// # Errors
    /// As `operator`.
    pub async fn pod(&self, pod: &Pod<'_>, more: &[&str]) -> anyhow::Result<Operator> {
        let operator = self.begun(pod, more, &[]).await?;
        operator.ready().await?;
        Ok(operator)
    }

    /// As `operator_with`, but does not wait until it is ready.
    ///
    /// # Errors
    /// It cannot be started, or ends.
    pub async fn operator_begun(&self, more: &[&str]) -> anyhow::Result<Operator> {
        self.begun(&Pod { name: POD, client: CLIENT, api_server: None }, more, &[]).await
    }

    /// As `operator_with`, with these environment variables besides; they win.
    ///
    /// # Errors
    /// As `operator`.
    pub async fn operator_in(&self, more: &[&str], variables: &[(&str, &str)]) -> anyhow::Result<Operator> {
        let pod = Pod { name: POD, client: CLIENT, api_server: None };
        let operator = self.begun(&pod, more, variables).await?;
        operator.ready().await?;
        Ok(operator)
    }

    async fn begun(
        &self,
        pod: &Pod<'_>,
        more: &[&str],
        variables: &[(&str, &str)],
    ) -> anyhow::Result<Operator> {
        let mut arguments = vec![
            format!("--emulator-address={}", self.emulator.address()),
            format!("--ca-bundle={}", self.ca_bundle.display()),
            format!("--imds-endpoint={}", self.emulator.imds_endpoint()),
            format!("--namespace={OPERATOR}"),
            format!("--service-accounts={SERVICE_ACCOUNT}"),
        ];
        if !more.iter().any(|argument| argument.starts_with("--log=")) {
            arguments.push(format!("--log={}", self.log_filter));
        }
        arguments.extend(more.iter().map(|argument| (*argument).to_owned()));
        let kubeconfig = match pod.api_server {
            None => self.kubeconfig.clone(),
            Some(address) => {
                let path = self.cluster.folder().join(format!("{}.kubeconfig", pod.name));
                self.cluster.kubeconfig_to(&format!("https://{address}"), &self.kubeconfig, &path)?;
                path
            }
        };
        let (kubeconfig, federated_token) =
            (kubeconfig.display().to_string(), self.federated_token.display().to_string());
        let mut all = vec![
            ("KUBECONFIG", kubeconfig.as_str()),
            ("POD_NAME", pod.name),
            // A container that is started again has its pod's uid: it need not wait for its own lease to end.
            ("POD_UID", pod.name),
            ("AZURE_TENANT_ID", TENANT),
            ("AZURE_CLIENT_ID", pod.client),
            ("AZURE_FEDERATED_TOKEN_FILE", federated_token.as_str()),
        ];
        all.extend_from_slice(variables);
        self.operators.fetch_add(1, Ordering::Relaxed);
        Operator::start(&self.program, &arguments, &all, &self.log_path()).await
    }

    /// The operator that tests which leave it alone share; started at the first call.
    ///
    /// # Errors
    /// As `operator`.
    pub async fn running(&self) -> anyhow::Result<&Operator> {
        self.running.get_or_try_init(|| self.operator()).await
    }

    /// A client that may do everything: the hands of users, and the eyes of the test.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// What makes an application trust a ServiceAccount of this cluster.
    pub fn federated(&self, namespace: &str, account: &str) -> FederatedCredential {
        federated(&self.cluster, namespace, account)
    }

    /// The operator's kubeconfig.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// The file with the certificate of the emulator's CA.
    pub fn ca_bundle(&self) -> &Path {
        &self.ca_bundle
    }

    /// From now on, no line of this private key (PEM) may turn up in what `leak` searches.
    pub fn guard(&self, key: &str) {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner).push(key.to_owned());
    }

    /// Searches every log, Event and status for keys and tokens. What was found, or `None`.
    ///
    /// # Errors
    /// The API server does not answer.
    pub async fn leak(&self) -> anyhow::Result<Option<String>> {
        let keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut texts = vec![
            ("a KeyVaultSync", self.listed::<KeyVaultSync>().await?),
            ("a ClusterKeyVaultSync", self.listed::<ClusterKeyVaultSync>().await?),
            ("a KeyVault", self.listed::<KeyVault>().await?),
            ("a KeyVaultCertificate", self.listed::<KeyVaultCertificate>().await?),
            ("an Event", self.listed::<Event>().await?),
        ];
        for number in 1..=self.operators.load(Ordering::Relaxed) {
            let log = std::fs::read(self.log_of(number)).unwrap_or_default();
            texts.push(("the operator's log", String::from_utf8_lossy(&log).into_owned()));
        }
        let finding =
            texts.iter().find_map(|(what, text)| Some(format!("{what}: {}", leaks::find(text, &keys)?)));
        Ok(finding)
    }

    /// What can be seen of a test's namespace and vaults (their names begin alike), for the report of its failure.
    pub async fn dump(&self, name: &str) -> String {
        let concerns = |line: &&str| line.contains(name);
        let tail = |text: &str, lines: usize| {
            let found: Vec<&str> = text.lines().filter(concerns).collect();
            found[found.len().saturating_sub(lines)..].join("\n")
        };
        let listed = |result: anyhow::Result<String>| match result {
            Ok(text) => tail(&text, 60),
            Err(error) => format!("(cannot be listed: {error:#})"),
        };
        let calls: Vec<String> = self
            .emulator
            .journal()
            .iter()
            .filter(|call| call.host.starts_with(name))
            .map(|call| {
                let (status, code) =
                    (call.status.unwrap_or_default(), call.code.as_deref().unwrap_or_default());
                format!("{:>9} ms {} {} {status} {code}", call.began_us / 1000, call.method, call.path)
            })
            .collect();
        [
            ("KeyVaultSyncs", listed(self.listed::<KeyVaultSync>().await)),
            ("ClusterKeyVaultSyncs", listed(self.listed::<ClusterKeyVaultSync>().await)),
            ("KeyVaults", listed(self.listed::<KeyVault>().await)),
            ("KeyVaultCertificates", listed(self.listed::<KeyVaultCertificate>().await)),
            ("Events", listed(self.listed::<Event>().await)),
            ("vault calls", calls[calls.len().saturating_sub(60)..].join("\n")),
            ("operator's log", tail(&std::fs::read_to_string(self.log_path()).unwrap_or_default(), 60)),
        ]
        .map(|(title, text)| format!("--- {title} of {name}\n{text}\n"))
        .concat()
    }

    /// Ends the shared operator and the emulator. The control plane ends when the stage is dropped, and in any case with
    /// this process.
    ///
    /// # Errors
    /// The operator had to be killed.
    pub async fn close(&self) -> anyhow::Result<()> {
        if let Some(operator) = self.running.get() {
            operator.terminate().await?;
        }
        self.emulator.clone().stop().await;
        Ok(())
    }

    /// All objects of a kind, each on a line of JSON, without the bookkeeping of managed fields.
    async fn listed<K>(&self) -> anyhow::Result<String>
    where
        K: kube::Resource<DynamicType = ()> + Clone + DeserializeOwned + Serialize + std::fmt::Debug,
    {
        let mut text = String::new();
        for mut object in Api::<K>::all(self.client.clone()).list(&Default::default()).await? {
            object.meta_mut().managed_fields = None;
            text.push_str(&serde_json::to_string(&object)?);
            text.push('\n');
        }
        Ok(text)
    }

    fn log_path(&self) -> PathBuf {
        self.log_of(self.operators.load(Ordering::Relaxed))
    }

    fn log_of(&self, number: u32) -> PathBuf {
        self.cluster.folder().join(format!("operator-{number}.log"))
    }
}

/// Definitions, ServiceAccount, RBAC and policies, as `kubectl apply` brings them; and waits until the policies act, so that
/// every promise is kept under them.
async fn install(cluster: &LocalCluster) -> anyhow::Result<()> {
    let definitions =
        keyvault_sync_api::crds().iter().map(serde_json::to_string).collect::<Result<Vec<_>, _>>()?;
    cluster.apply(&definitions.join("\n---\n")).await?;
    let mut documents = vec![
        serde_json::to_string(&keyvault_sync_api::rbac::cluster_role())?,
        serde_json::to_string(&identities_role())?,
        serde_json::to_string(&keyvault_sync_api::rbac::lease_role(OPERATOR))?,
    ];
    for Policy { policy, binding } in
        [admission::operator_only(), admission::token_requests(OPERATOR, OPERATOR)]
    {
        documents.extend([serde_json::to_string(&policy)?, serde_json::to_string(&binding)?]);
    }
    cluster.apply(&format!("{NAMESPACE_AND_BINDING}---\n{}", documents.join("\n---\n"))).await?;

    let claim = json!({
        "apiVersion": format!("{GROUP}/{VERSION}"),
        "kind": "KeyVaultCertificate",
        "metadata": {"name": "x.contoso.vault.azure.net"},
        "spec": {
            "vaultHost": "contoso.vault.azure.net", "keyVault": "contoso", "certificateName": "x", "clusterId": "x",
            "owner": {"kind": "KeyVaultSync", "namespace": "x", "name": "x", "uid": "x"},
            "sources": [{"namespace": "x", "secretName": "x"}],
        },
    });
    let request = http::Request::post(format!("/apis/{GROUP}/{VERSION}/keyvaultcertificates?dryRun=All"))
        .header("Impersonate-User", STRANGER);
    until_refused(cluster, "operator-only", request, &claim).await?;

    // Nothing of that kind can be bound to: were the policy not there, no token would come of it either.
    let token = json!({
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {"audiences": ["x"], "boundObjectRef": {"apiVersion": "v1", "kind": "Nothing", "name": "x"}},
    });
    let request = http::Request::post(format!(
        "/api/v1/namespaces/{OPERATOR}/serviceaccounts/{OPERATOR}/token?dryRun=All"
    ))
    .header("Impersonate-User", format!("system:serviceaccount:{OPERATOR}:{OPERATOR}"))
    .header("Impersonate-Group", "system:masters");
    until_refused(cluster, "tokens", request, &token).await
}

/// What an operator may do beside, that asks for tokens of other ServiceAccounts; bound as the role itself.
fn identities_role() -> ClusterRole {
    ClusterRole {
        metadata: ObjectMeta { name: Some(IDENTITIES.to_owned()), ..ObjectMeta::default() },
        rules: Some(service_account_rules(&[SERVICE_ACCOUNT])),
        ..ClusterRole::default()
    }
}

/// Sends this write again and again until the policy whose name begins so refuses it.
async fn until_refused(
    cluster: &LocalCluster,
    policy: &str,
    request: http::request::Builder,
    object: &Value,
) -> anyhow::Result<()> {
    let request = request.header("Content-Type", "application/json").body(serde_json::to_vec(object)?)?;
    let (client, wanted) = (cluster.admin(), format!("ValidatingAdmissionPolicy '{policy}."));
    wait::until(&format!("the policy {policy} to act"), || async {
        Ok(match client.request_text(request.clone()).await {
            Err(kube::Error::Api(refusal)) if refusal.message.contains(&wanted) => Seen::Done(()),
            Err(error) => Seen::NotYet(error.to_string()),
            Ok(_) => Seen::NotYet("it was not refused".to_owned()),
        })
    })
    .await
}

/// Makes Entra ID take the operator's ServiceAccount for the application; `more`: keys of other clusters, whose issuer has the
/// same name.
async fn federate(cluster: &LocalCluster, emulator: &Emulator, more: &[Value]) -> anyhow::Result<()> {
    let mut jwks = cluster.jwks().await?;
    if let Some(keys) = jwks["keys"].as_array_mut() {
        keys.extend(more.iter().cloned());
    }
    emulator.trust_issuer(cluster.issuer(), jwks);
    emulator.add_application(Application {
        tenant_id: TENANT.to_owned(),
        client_id: CLIENT.to_owned(),
        federated: vec![federated(cluster, OPERATOR, OPERATOR)],
        ..Application::default()
    });
    Ok(())
}

fn federated(cluster: &LocalCluster, namespace: &str, account: &str) -> FederatedCredential {
    FederatedCredential {
        issuer: cluster.issuer().to_owned(),
        subject: format!("system:serviceaccount:{namespace}:{account}"),
        audience: AUDIENCE.to_owned(),
    }
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
