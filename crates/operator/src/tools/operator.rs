//! A tool in the operator's place: its settings, as its pod has them, its identity, and its view of the cluster.
//! What is told of it is left to the tools.

use std::collections::BTreeSet;
use std::sync::Arc;

use anyhow::{Context as _, anyhow, bail};
use clap::Args;
use k8s_openapi::api::core::v1::{Container, Namespace, Pod, ServiceAccount as Account};
use keyvault_sync_api::KeyVault;
use keyvault_sync_api::constants::{CLIENT_ID_ANNOTATION, TENANT_ID_ANNOTATION};
use keyvault_sync_core::ownership::ClusterId;
use keyvault_sync_vault::{ServiceAccount, Transport};
use kube::ResourceExt;
use kube::api::{Api, ListParams};
use tokio_util::sync::CancellationToken;

use super::cluster::{Connection, Listed};
use super::note;
use crate::context::{VaultClients, VaultReaders, View};
use crate::installation::Installation;
use crate::keyvault::Contacts;
use crate::kubernetes::{Reader, call};
use crate::leader::Leadership;
use crate::pace::Pace;
use crate::proofs::ClusterProofs;
use crate::run::transport_settings;
use crate::settings::{Access, Settings};
use crate::world::Place;
use crate::world::once::{self, Seen, Sight, Unapplied};

/// Where the operator is, and what it is told where its pod does not say it.
#[derive(Args, Clone, Debug)]
pub(crate) struct Operator {
    /// The operator's namespace
    #[arg(long, value_name = "NAME", env = "POD_NAMESPACE", default_value = "keyvault-sync")]
    operator_namespace: String,
    /// The operator's ServiceAccount: without a token file the API server is asked for a token of it
    #[arg(long, value_name = "NAME", default_value = "keyvault-sync")]
    service_account: String,
    #[command(flatten)]
    access: Access,
}

/// Where a tool looks from.
pub(crate) struct Lookout {
    /// The view.
    pub view: View,
    /// The world in it.
    pub seen: Seen,
}

/// What the operator of this cluster is set to, as far as that can be seen.
#[derive(Clone)]
pub(crate) struct Told {
    settings: Settings,
    place: Place,
    own_account: Option<ServiceAccount>,
    transport: Transport,
}

impl Operator {
    /// Finds out what the operator is set to. `connection`: none where a tool runs without a cluster.
    pub(crate) async fn told(&self, connection: &Connection) -> anyhow::Result<Told> {
        let mut settings = Settings::of_environment()
            .map_err(|error| anyhow!("the environment holds a setting that cannot be used: {error}"))?;
        settings.access = self.access.clone();
        settings.namespace = Some(self.operator_namespace.clone());
        let access = &self.access;
        let ids = (&access.azure_tenant_id, &access.azure_client_id, &access.azure_federated_token_file);
        // It is the operator's own pod that we are in, or one that stands in its place: all it is told is told here too.
        let is_in_its_place = settings.pod_uid.is_some() || matches!(ids, (Some(_), Some(_), Some(_)));
        let pod = if is_in_its_place { None } else { self.pod(connection).await? };
        match pod {
            Some(pod) => match of_pod(&pod) {
                Ok(running) => take_over(&mut settings, running),
                Err(error) => note(&format!(
                    "the settings of pod {}/{} cannot be read ({error}): those of this command line are used",
                    self.operator_namespace,
                    pod.name_any()
                )),
            },
            None if is_in_its_place => {}
            // What it allows is not known: nothing is called forbidden for that.
            None if settings.access.service_accounts.is_empty() => {
                settings.access.service_accounts = vec!["*".to_owned()];
            }
            None => {}
        }
        let own_account = match &settings.access.azure_federated_token_file {
            Some(_) => None,
            None if is_in_its_place => None,
            None => Some(self.account(connection, &mut settings.access).await),
        };
        let served = (!settings.watch_namespaces.is_empty()).then(|| settings.watch_namespaces.clone());
        let service_accounts = settings.access.service_accounts.clone();
        let place = Place {
            namespace: self.operator_namespace.clone(),
            served,
            service_accounts,
            selector: settings.resource_selector.clone().unwrap_or_default(),
            installation: settings.installation.clone(),
        };
        let proofs = Arc::new(ClusterProofs::of_a_person(connection.client.clone()));
        // A tool reads vaults, and whatever it may be made to do: who does not lead writes nothing.
        let nobody = Arc::new(Leadership::nobody());
        let transport = Transport::new(&transport_settings(&settings)?, proofs, nobody)
            .context("the connection to Azure cannot be set up")?;
        Ok(Told { settings, place, own_account, transport })
    }

    /// A pod of the operator, if one can be seen.
    async fn pod(&self, connection: &Connection) -> anyhow::Result<Option<Pod>> {
        let pods = Api::<Pod>::namespaced(connection.client.clone(), &self.operator_namespace);
        let Listed::Objects(pods) =
            connection.list(pods, "the operator's pod", ListParams::default()).await?
        else {
            return Ok(None);
        };
        let is_ours = |pod: &Pod| {
            let account = pod.spec.as_ref().and_then(|spec| spec.service_account_name.as_deref());
            let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
            account == Some(self.service_account.as_str()) && !matches!(phase, Some("Succeeded" | "Failed"))
        };
        Ok(pods.into_iter().filter(is_ours).max_by_key(|pod| pod.creation_timestamp().map(|time| time.0)))
    }

    /// The operator's ServiceAccount, whose annotations say the ids that its pod is given. One that cannot be seen is missed when its
    /// token is asked for.
    async fn account(&self, connection: &Connection, access: &mut Access) -> ServiceAccount {
        let (namespace, name) = (self.operator_namespace.clone(), self.service_account.clone());
        let accounts = Api::<Account>::namespaced(connection.client.clone(), &namespace);
        let found = call("the operator's ServiceAccount", accounts.get(&name)).await.ok();
        let annotation = |key: &str| found.as_ref()?.annotations().get(key).cloned();
        access.azure_client_id = access.azure_client_id.take().or_else(|| annotation(CLIENT_ID_ANNOTATION));
        access.azure_tenant_id = access.azure_tenant_id.take().or_else(|| annotation(TENANT_ID_ANNOTATION));
        ServiceAccount { namespace, name, uid: found.and_then(|account| account.uid()).unwrap_or_default() }
    }
}

/// What an operator's pod tells it: its arguments, and its environment where that is said in the pod.
fn of_pod(pod: &Pod) -> Result<Settings, String> {
    let containers = pod.spec.as_ref().map(|spec| spec.containers.as_slice()).unwrap_or_default();
    let container = containers.first().ok_or("it has no container")?;
    Settings::of_arguments(arguments(container).into_iter()).map_err(|error| error.kind().to_string())
}

fn arguments(container: &Container) -> Vec<String> {
    let mut arguments = container.args.clone().unwrap_or_default();
    let says = |arguments: &[String], flag: &str| {
        arguments.iter().any(|argument| {
            argument.strip_prefix("--").is_some_and(|rest| {
                rest.strip_prefix(flag).is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
            })
        })
    };
    for (flag, variable) in Settings::variables() {
        let set = container.env.iter().flatten().find(|one| one.name == variable);
        if let Some(value) = set.and_then(|one| one.value.as_ref()).filter(|_| !says(&arguments, &flag)) {
            arguments.push(format!("--{flag}={value}"));
        }
    }
    arguments
}

/// What was not said here is as it is there; files and addresses of the pod are not ours.
fn take_over(settings: &mut Settings, running: Settings) {
    let (ours, its) = (&mut settings.access, running.access);
    ours.cluster_id = ours.cluster_id.take().or(its.cluster_id);
    ours.clouds = its.clouds;
    ours.authority_host = ours.authority_host.take().or(its.authority_host);
    ours.azure_tenant_id = ours.azure_tenant_id.take().or(its.azure_tenant_id);
    ours.azure_client_id = ours.azure_client_id.take().or(its.azure_client_id);
    if ours.service_accounts.is_empty() {
        ours.service_accounts = its.service_accounts;
    }
    settings.watch_namespaces = running.watch_namespaces;
    settings.installation = running.installation;
    if settings.resource_selector.is_none() {
        settings.resource_selector = running.resource_selector;
    }
    settings.deletion_effort = running.deletion_effort;
}

impl Told {
    /// Which installation it is.
    pub(crate) fn installation(&self) -> &Installation {
        &self.settings.installation
    }

    /// Whether it serves every namespace.
    pub(crate) fn serves_all(&self) -> bool {
        self.place.served.is_none()
    }

    /// Looks at the cluster as that operator.
    pub(crate) async fn look(
        self,
        connection: &Connection,
        sight: Sight,
        unapplied: Unapplied,
    ) -> anyhow::Result<Lookout> {
        let Told { settings, place, own_account, transport } = self;
        let sight = match (&place.served, sight) {
            (Some(served), Sight::Cluster) => {
                Sight::Namespaces(served.iter().cloned().collect::<BTreeSet<_>>())
            }
            (_, sight) => sight,
        };
        let cluster = cluster_id(connection, &settings).await?;
        let seen = once::see(&connection.client, &place, &sight, unapplied)
            .await
            .map_err(|error| connection.unanswered(&error))?;
        Ok(Told { settings, place, own_account, transport }.lookout(connection, cluster, seen))
    }

    /// Looks at one vault alone, as that operator opens it for a namespace.
    pub(crate) async fn look_at(
        self,
        connection: &Connection,
        vault: KeyVault,
        namespace: &str,
    ) -> anyhow::Result<Lookout> {
        let seen = once::around(&connection.client, &self.place, vault, namespace)
            .await
            .map_err(|error| connection.unanswered(&error))?;
        // Nothing that is asked of the vault depends on it.
        let id = self.settings.access.cluster_id.clone();
        let cluster = id.or_else(|| ClusterId::parse("any").ok()).ok_or_else(|| anyhow!("no cluster id"))?;
        Ok(self.lookout(connection, cluster, seen))
    }

    fn lookout(self, connection: &Connection, cluster: ClusterId, seen: Seen) -> Lookout {
        let view = View {
            reader: Reader::new(connection.client.clone()),
            world: Arc::clone(&seen.world),
            settings: self.settings,
            cluster,
            own_account: self.own_account,
            vault_readers: VaultReaders::new(Arc::new(VaultClients::new(self.transport))),
            pace: Pace::default(),
            in_memory: View::memory_bound(),
            contacts: Contacts::default(),
            metrics: Arc::default(),
            stop: CancellationToken::new(),
        };
        Lookout { view, seen }
    }
}

async fn cluster_id(connection: &Connection, settings: &Settings) -> anyhow::Result<ClusterId> {
    if let Some(id) = &settings.access.cluster_id {
        return Ok(id.clone());
    }
    let namespaces = Api::<Namespace>::all(connection.client.clone());
    let found = match call("the namespace kube-system", namespaces.get("kube-system")).await {
        Ok(found) => found,
        Err(error) if error.status().is_some_and(|status| status.code == 403) => bail!(
            "you may not read the namespace kube-system, whose UID is the cluster id: say --cluster-id as the operator is told it"
        ),
        Err(error) => return Err(connection.unanswered(&error)),
    };
    ClusterId::parse(&found.uid().unwrap_or_default())
        .map_err(|error| anyhow!("the UID of kube-system is no cluster id ({error}): say --cluster-id"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(container: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "operator"}, "spec": {"containers": [container]}}))
            .unwrap()
    }

    #[test]
    fn what_the_operators_pod_is_told_is_known_from_its_arguments_and_environment() {
        let told = pod(json!({
            "name": "operator",
            "args": ["run", "--cluster-id=prod-1", "--service-accounts=keyvault"],
            "env": [
                {"name": "AZURE_TENANT_ID", "value": "tenant"},
                {"name": "AZURE_CLIENT_ID", "value": "of-the-pod"},
                {"name": "KEYVAULT_SYNC_CLUSTER_ID", "value": "overruled"},
                {"name": "POD_NAMESPACE", "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}},
            ],
        }));
        let running = of_pod(&told).unwrap();
        let mut settings = Settings::of_arguments(["--azure-client-id=mine".to_owned()].into_iter()).unwrap();
        take_over(&mut settings, running);
        let access = settings.access;
        assert_eq!(access.cluster_id.unwrap().as_str(), "prod-1");
        assert_eq!(access.azure_tenant_id.as_deref(), Some("tenant"));
        assert_eq!(access.azure_client_id.as_deref(), Some("mine"));
        assert_eq!(access.service_accounts, ["keyvault"]);
        assert!(of_pod(&pod(json!({"name": "operator", "args": ["--no-such-setting"]}))).is_err());
    }
}
