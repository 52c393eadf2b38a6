//! What the install is tested on: two nodes, vaults and Entra ID under Azure's own names, Secrets that renew, Helm and kubectl as people
//! use them. What is promised is left to `main`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use futures::FutureExt;
use futures::future::BoxFuture;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Pod, Secret};
use keyvault_emulator::{Application, Emulator, FederatedCredential, Operation};
use keyvault_sync_e2e::certificates::{Authority, Leaf};
use keyvault_sync_e2e::debian::Debian;
use keyvault_sync_e2e::dns::NameServer;
use keyvault_sync_e2e::node::{self, NodeCluster};
use keyvault_sync_e2e::relay::Relay;
use keyvault_sync_e2e::stage::{CLIENT, TENANT};
use keyvault_sync_e2e::wait::{self, Seen};
use keyvault_sync_e2e::{LocalCluster, image, tools};
use kube::Api;
use kube::api::{EvictParams, ListParams, Patch, PatchParams};
use serde_json::{Value, json};

/// Namespace and name of the release; the chart's full name is the release's.
pub(crate) const NAMESPACE: &str = "platform";
pub(crate) const RELEASE: &str = "keyvault-sync";
/// Who has certificates.
pub(crate) const TEAM: &str = "web";
/// The vault.
pub(crate) const VAULT: &str = "contoso.vault.azure.net";
const TOKEN_FOLDER: &str = "/var/run/secrets/azure/tokens";
/// The Secrets of the team; each is a certificate `web--<name>`.
pub(crate) const SECRETS: [&str; 3] = ["shop", "blog", "mail"];

/// How long nobody may work: until the lease of one who died without a word has run out (30 s), and as long again for a loaded machine.
const OUTAGE_MAX: Duration = Duration::from_secs(60);

/// A command of Helm that waits for pods.
const HELM_LIMIT: Duration = Duration::from_secs(300);

/// Everything but the operator.
pub(crate) struct Stage {
    pub(crate) nodes: NodeCluster,
    pub(crate) emulator: Emulator,
    pub(crate) values: PathBuf,
    folder: PathBuf,
    helm: PathBuf,
    authority: Authority,
    /// How often each Secret was written.
    written: Mutex<BTreeMap<String, usize>>,
    _names: NameServer,
    _relay: Relay,
}

impl Stage {
    /// Sets it up in the sandbox whose folder this is.
    pub(crate) async fn start(folder: &Path) -> anyhow::Result<Stage> {
        let debian = Debian::ensure()?;
        let helm = tools::helm()?;
        let images = [folder.join("image.tar"), folder.join("pause.tar")];
        let nodes = NodeCluster::start(&debian, &[&images[0], &images[1]]).await?;

        let emulator = Emulator::start(([127, 0, 0, 1], 0).into()).await?;
        emulator.add_vault(VAULT, TENANT);
        emulator.trust_issuer(nodes.cluster.issuer(), nodes.cluster.jwks().await?);
        let accounts = [NAMESPACE, RELEASE].map(|namespace| FederatedCredential {
            issuer: nodes.cluster.issuer().to_owned(),
            subject: format!("system:serviceaccount:{namespace}:{RELEASE}"),
            audience: "api://AzureADTokenExchange".to_owned(),
        });
        emulator.add_application(Application {
            tenant_id: TENANT.to_owned(),
            client_id: CLIENT.to_owned(),
            federated: accounts.to_vec(),
            ..Application::default()
        });
        emulator.allow(VAULT, CLIENT, keyvault_emulator::Permissions::all());
        let relay = Relay::at((node::ADDRESS, 443).into(), emulator.address()).await?;
        let names = [".vault.azure.net", "login.microsoftonline.com"];
        let names = NameServer::start((node::ADDRESS, 53).into(), &names, node::ADDRESS).await?;

        let values = folder.join("values.json");
        fs::write(&values, values_of(emulator.ca_pem()).to_string())?;
        let stage = Stage {
            nodes,
            emulator,
            values,
            folder: folder.to_path_buf(),
            helm,
            authority: Authority::root("install test")?,
            written: Mutex::default(),
            _names: names,
            _relay: relay,
        };
        stage.namespaces().await?;
        for name in SECRETS {
            stage.renew(name).await?;
        }
        Ok(stage)
    }

    pub(crate) fn cluster(&self) -> &LocalCluster {
        &self.nodes.cluster
    }

    async fn namespaces(&self) -> anyhow::Result<()> {
        let restricted = json!({"pod-security.kubernetes.io/enforce": "restricted"});
        let namespace = |name: &str, labels: Value| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}});
        let both = [namespace(NAMESPACE, restricted), namespace(TEAM, json!({}))];
        self.cluster().apply(&both.map(|one| one.to_string()).join("\n---\n")).await
    }

    /// Writes a new certificate into the Secret, as cert-manager does when it renews.
    pub(crate) async fn renew(&self, name: &str) -> anyhow::Result<Vec<u8>> {
        let issued = self.authority.issue(&Leaf::server(&format!("{name}.example.com")))?;
        let secrets: Api<Secret> = Api::namespaced(self.cluster().admin(), TEAM);
        let params = PatchParams::apply("cert-manager").force();
        let mut secret = serde_json::to_value(issued.secret(TEAM, name))?;
        secret["apiVersion"] = "v1".into();
        secret["kind"] = "Secret".into();
        wait::until("the API server to take a Secret", || async {
            secrets.patch(name, &params, &Patch::Apply(&secret)).await?;
            Ok(Seen::Done(()))
        })
        .await?;
        *self.written.lock().map_err(|_| anyhow::anyhow!("poisoned"))?.entry(name.to_owned()).or_default() +=
            1;
        der(&issued.certificate)
    }

    /// Waits until the newest version in the vault is this certificate.
    pub(crate) async fn arrived(&self, name: &str, certificate: &[u8]) -> anyhow::Result<()> {
        wait::until(&format!("the renewal of {name} in the vault"), || async {
            let stored = self.emulator.certificate(VAULT, &certificate_name(name));
            let newest = stored.as_ref().and_then(|stored| stored.versions.last());
            Ok(match newest {
                Some(version) if version.chain_der.first().is_some_and(|leaf| leaf == certificate) => {
                    Seen::Done(())
                }
                Some(version) => Seen::NotYet(format!("an older one, version {}", version.version)),
                None => Seen::NotYet("no version".to_owned()),
            })
        })
        .await
    }

    /// Renews each Secret once, and waits for each.
    pub(crate) async fn all_renew(&self) -> anyhow::Result<()> {
        for name in SECRETS {
            let certificate = self.renew(name).await?;
            self.arrived(name, &certificate).await?;
        }
        Ok(())
    }

    /// Does `act` while Secrets renew one after the other, at least once each; every renewal arrives.
    pub(crate) async fn while_renewing<T>(
        &self,
        act: impl Future<Output = anyhow::Result<T>>,
    ) -> anyhow::Result<T> {
        let act = act.fuse();
        futures::pin_mut!(act);
        let mut done = None;
        let (mut renewals, mut slowest) = (0, Duration::ZERO);
        for name in SECRETS.into_iter().cycle() {
            if done.is_some() && renewals >= SECRETS.len() {
                break;
            }
            let written = Instant::now();
            let renewal = async {
                let certificate = self.renew(name).await?;
                self.arrived(name, &certificate).await
            }
            .fuse();
            futures::pin_mut!(renewal);
            loop {
                futures::select! {
                    result = act => done = Some(result?),
                    result = renewal => { result?; break }
                }
            }
            slowest = slowest.max(written.elapsed());
            renewals += 1;
        }
        println!(
            "       {renewals} renewals arrived meanwhile, the slowest after {:.1} s",
            slowest.as_secs_f64()
        );
        ensure!(
            slowest < OUTAGE_MAX,
            "a renewal took {:.1} s: nobody worked meanwhile",
            slowest.as_secs_f64()
        );
        done.context("nothing was done")
    }

    /// There is one version for each time that a Secret was written while somebody synced, and no more.
    pub(crate) fn one_version_each(&self) -> anyhow::Result<()> {
        for (name, written) in self.written.lock().map_err(|_| anyhow::anyhow!("poisoned"))?.iter() {
            let versions = self.versions(name);
            ensure!(
                versions == *written,
                "{name} was written {written} times, and the vault has {versions} versions"
            );
        }
        Ok(())
    }

    pub(crate) fn versions(&self, name: &str) -> usize {
        self.emulator.certificate(VAULT, &certificate_name(name)).map_or(0, |stored| stored.versions.len())
    }

    /// How many calls changed the vault.
    pub(crate) fn writes(&self) -> usize {
        self.emulator.calls(VAULT).iter().filter(|call| call.committed).count()
    }

    /// How many certificates arrived.
    pub(crate) fn imports(&self) -> usize {
        self.emulator
            .calls(VAULT)
            .iter()
            .filter(|call| call.operation == Operation::Import && call.committed)
            .count()
    }

    /// Runs Helm as administrator, in the release's namespace; what it printed, or its words as an error.
    pub(crate) async fn helm(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let output = self.helm_output(arguments).await?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "helm {} failed: {}", arguments.join(" "), said.trim_end());
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    pub(crate) async fn helm_output(&self, arguments: &[&str]) -> anyhow::Result<Output> {
        let mut helm = tokio::process::Command::new(&self.helm);
        helm.args(arguments)
            .args(["--namespace", NAMESPACE])
            .env("KUBECONFIG", self.cluster().admin_kubeconfig())
            .env("HOME", &self.folder)
            .stdin(Stdio::null())
            .kill_on_drop(true);
        tokio::time::timeout(HELM_LIMIT, helm.output())
            .await
            .with_context(|| {
                format!("helm {} did not end in {} s", arguments.join(" "), HELM_LIMIT.as_secs())
            })?
            .context("cannot start helm")
    }

    /// `helm upgrade --install` with the values, and more.
    pub(crate) async fn install(&self, more: &[&str]) -> anyhow::Result<String> {
        let values = self.values.display().to_string();
        let chart = chart().display().to_string();
        let arguments = ["upgrade", "--install", RELEASE, &chart, "--values", &values];
        self.helm(&[&arguments, more].concat()).await
    }

    /// Runs kubectl as administrator; what it printed, or its words as an error.
    pub(crate) async fn kubectl(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let output = self.cluster().kubectl(arguments).await?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "kubectl {} failed: {}", arguments.join(" "), said.trim_end());
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// The operator's pods that are to stay, by name.
    pub(crate) async fn pods(&self, namespace: &str) -> anyhow::Result<Vec<Pod>> {
        let pods: Api<Pod> = Api::namespaced(self.cluster().admin(), namespace);
        let params = ListParams::default().labels("app.kubernetes.io/component=operator");
        let pods = pods.list(&params).await?;
        Ok(pods.into_iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()).collect())
    }

    /// Waits until two replicas are ready, and nothing else of the operator is left.
    pub(crate) async fn two_are_ready(&self, namespace: &str) -> anyhow::Result<Vec<Pod>> {
        wait::until("two ready replicas", || async {
            let pods = self.pods(namespace).await?;
            let states: Vec<_> = pods.iter().map(|pod| (name(pod), is_ready(pod))).collect();
            Ok(match states.len() == 2 && states.iter().all(|(_, is_ready)| *is_ready) {
                true => Seen::Done(pods),
                false => Seen::NotYet(format!("{states:?}")),
            })
        })
        .await
    }

    /// Kills the operator's process in a pod, as the kernel does when memory is short. All processes of the nodes are in our sandbox, and
    /// of the pod's two the other one only waits.
    pub(crate) fn kill_container(&self, pod_uid: &str) -> anyhow::Result<()> {
        for entry in fs::read_dir("/proc")? {
            let path = entry?.path();
            let is_its = fs::read_to_string(path.join("cgroup")).is_ok_and(|groups| groups.contains(pod_uid));
            let name = fs::read_to_string(path.join("comm")).unwrap_or_default();
            if is_its && name.trim_end() == "keyvault-sync" {
                let pid = path.file_name().and_then(|name| name.to_str()?.parse().ok());
                let pid = pid.and_then(rustix::process::Pid::from_raw).context("no process id")?;
                return rustix::process::kill_process(pid, rustix::process::Signal::KILL)
                    .context("cannot kill it");
            }
        }
        anyhow::bail!("no process of pod {pod_uid} is there")
    }

    /// The pod that leads.
    pub(crate) async fn leader(&self, namespace: &str) -> anyhow::Result<String> {
        let leases: Api<Lease> = Api::namespaced(self.cluster().admin(), namespace);
        let pods: Vec<String> = self.pods(namespace).await?.iter().map(name).collect();
        wait::until("a leader among the pods", || async {
            let lease = leases.get_opt(RELEASE).await?;
            let holder = lease.and_then(|lease| lease.spec?.holder_identity).unwrap_or_default();
            let leader = pods.iter().find(|pod| holder.split('_').next() == Some(pod.as_str()));
            Ok(match leader {
                Some(leader) => Seen::Done(leader.clone()),
                None => Seen::NotYet(format!("the Lease is of {holder:?}, the pods are {pods:?}")),
            })
        })
        .await
    }

    /// How often the Lease has changed hands.
    pub(crate) async fn transitions(&self, namespace: &str) -> anyhow::Result<i32> {
        let leases: Api<Lease> = Api::namespaced(self.cluster().admin(), namespace);
        let spec = leases.get(RELEASE).await?.spec.context("the Lease says nothing")?;
        spec.lease_transitions.context("the Lease does not say how often it changed hands")
    }

    /// Evicts both, one right after the other, as two nodes do that are drained at once.
    pub(crate) async fn second_eviction_is_refused(&self, pods: &[Pod]) -> anyhow::Result<()> {
        let api: Api<Pod> = Api::namespaced(self.cluster().admin_at_once(), NAMESPACE);
        let [first, second] = pods else { anyhow::bail!("there are {} pods", pods.len()) };
        // The budget learns a moment later that the replacements are ready.
        wait::until("the first eviction", || async {
            api.evict(&name(first), &EvictParams::default()).await?;
            Ok(Seen::Done(()))
        })
        .await?;
        match api.evict(&name(second), &EvictParams::default()).await {
            Err(kube::Error::Api(refusal)) if refusal.code == 429 => Ok(()),
            Err(error) => Err(error.into()),
            Ok(_) => anyhow::bail!("both replicas were evicted at once"),
        }
    }

    /// Everything that may say why something failed.
    pub(crate) async fn report(&self) -> String {
        let mut text = String::new();
        for arguments in [
            vec!["get", "pods,jobs,leases", "--all-namespaces", "--output=wide"],
            vec!["get", "keyvaults,keyvaultsyncs,keyvaultcertificates", "--all-namespaces", "--output=wide"],
            vec!["get", "events", "--all-namespaces", "--sort-by=.lastTimestamp"],
            vec![
                "logs",
                "--namespace",
                NAMESPACE,
                "--selector=app.kubernetes.io/instance=keyvault-sync",
                "--tail=60",
                "--prefix",
                "--all-containers",
            ],
        ] {
            let said = self.cluster().kubectl(&arguments).await.map(|output| {
                format!(
                    "{}{}",
                    String::from_utf8_lossy(&output.stdout),
                    String::from_utf8_lossy(&output.stderr)
                )
            });
            let said = said.unwrap_or_else(|error| format!("{error:#}"));
            text.push_str(&format!("--- kubectl {}\n{said}\n", arguments.join(" ")));
        }
        text.push_str(&self.nodes.log_tails());
        text
    }
}

/// What the name of the certificate of a Secret is.
pub(crate) fn certificate_name(secret: &str) -> String {
    format!("{TEAM}--{secret}")
}

pub(crate) fn name(pod: &Pod) -> String {
    pod.metadata.name.clone().unwrap_or_default()
}

pub(crate) fn node_of(pod: &Pod) -> String {
    pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default()
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

pub(crate) fn chart() -> PathBuf {
    repository().join("charts/keyvault-sync")
}

pub(crate) fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// What a user in this cluster would set; and, for want of AKS's workload identity webhook, what that would put into the pods.
fn values_of(ca_pem: &str) -> Value {
    let certificates: Vec<Value> = SECRETS
        .into_iter()
        .map(|secret| json!({"secretName": secret, "certificateName": certificate_name(secret)}))
        .collect();
    json!({
        "image": {"repository": image::NAME.0, "tag": image::NAME.1, "pullPolicy": "Never"},
        "workloadIdentity": {"clientId": CLIENT, "tenantId": TENANT},
        "caBundle": {"pem": ca_pem},
        "extraEnv": environment(),
        "extraVolumes": [token_volume()],
        "extraVolumeMounts": [{"name": "azure-identity-token", "mountPath": TOKEN_FOLDER, "readOnly": true}],
        "keyVaults": {"contoso": {
            "url": format!("https://{VAULT}"),
            "grants": [{"namespaces": {"names": [TEAM]}, "push": ["{namespace}--*"]}],
        }},
        "syncs": {TEAM: {"certificates": {"vaultRef": {"name": "contoso"}, "certificates": certificates}}},
    })
}

pub(crate) fn environment() -> Value {
    json!([
        {"name": "AZURE_CLIENT_ID", "value": CLIENT},
        {"name": "AZURE_TENANT_ID", "value": TENANT},
        {"name": "AZURE_FEDERATED_TOKEN_FILE", "value": format!("{TOKEN_FOLDER}/azure-identity-token")},
    ])
}

pub(crate) fn token_volume() -> Value {
    let token = json!({"path": "azure-identity-token", "audience": "api://AzureADTokenExchange", "expirationSeconds": 3600});
    json!({"name": "azure-identity-token", "projected": {"sources": [{"serviceAccountToken": token}]}})
}

pub(crate) fn token_mount() -> Value {
    json!({"name": "azure-identity-token", "mountPath": TOKEN_FOLDER, "readOnly": true})
}

fn der(pem: &str) -> anyhow::Result<Vec<u8>> {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;
    Ok(CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|_| anyhow::anyhow!("no PEM"))?.to_vec())
}

/// A promise: one step of the scenario.
pub(crate) struct Promise {
    pub(crate) name: &'static str,
    pub(crate) keep: for<'a> fn(&'a Stage) -> BoxFuture<'a, anyhow::Result<()>>,
}
