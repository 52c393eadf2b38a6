//! The operator's life: what it is made of, its watches and controllers, and its end.
//! What they do is read in `sync` (wish → claim) and `certificate` (claim → vault).

use std::convert::Infallible;
use std::fmt::Debug;
use std::future::Future;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use futures::StreamExt;
use k8s_openapi::api::core::v1::Namespace;
use keyvault_sync_core::ownership::ClusterId;
use keyvault_sync_vault::{Transport, TransportSettings};
use kube::api::Api;
use kube::runtime::controller::{Action, Config, Controller};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Client, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio_util::sync::CancellationToken;

use crate::context::{Context, VaultClients, VaultReaders, View};
use crate::health::Readiness;
use crate::settings::Settings;
use crate::telemetry::Metrics;
use crate::wake::{Wake, Woken};
use crate::world::{Place, Watches, World};
use crate::{
    certificate, health, inventory, keyvault, kubernetes, pace, proofs, sync, telemetry, token_file, watch,
    world,
};

/// How long the writes in hand may take after SIGTERM: less than the 30 s Kubernetes waits before it kills.
const GRACE: Duration = Duration::from_secs(25);
/// Retries of what the start needs from the API server.
const START_RETRY: Duration = Duration::from_secs(2);
/// What /readyz waits for.
const EXPECTED: [&str; 10] = [
    "KeyVaultSyncs",
    "ClusterKeyVaultSyncs",
    "KeyVaults",
    "KeyVaultCertificates",
    "Namespaces",
    "TLS Secrets",
    "other Secrets",
    world::ACCOUNTS,
    "API server",
    "controllers",
];

/// Runs the operator until it is told to stop.
///
/// # Errors
/// What it cannot begin with, or a task of its own that ended.
pub(crate) async fn run(settings: Settings) -> anyhow::Result<()> {
    telemetry::start_log(settings.log_format, &settings.log)?;
    let stop = CancellationToken::new();
    let _signals = tokio::spawn(stop_on_signal(stop.clone()));
    tracing::info!(version = env!("CARGO_PKG_VERSION"), "keyvault-sync starts");
    let readiness = Readiness::default();
    EXPECTED.into_iter().for_each(|what| readiness.expect(what));
    let metrics = Arc::new(Metrics::default());
    let health =
        tokio::spawn(health::serve(settings.health_address, readiness.clone(), Arc::clone(&metrics)));
    let transport_settings = transport_settings(&settings)?;
    let client = kubernetes::client().await.context("the Kubernetes API server cannot be reached")?;
    let proofs = Arc::new(proofs::ClusterProofs::new(client.clone()));
    let transport =
        Transport::new(&transport_settings, proofs).context("the connection to Azure cannot be set up")?;
    let work = async {
        let Some(cluster) = cluster_id(&client, &settings, &stop).await else { return Ok(()) };
        readiness.done("API server");
        tracing::info!(cluster = %cluster, installation = settings.installation, "this is the cluster");
        let (wake, woken) = Wake::new();
        let (world, watches) = World::new(&client, &place(&client, &settings), wake, Arc::clone(&metrics));
        let vaults = Arc::new(VaultClients::new(transport));
        let view = View {
            reader: kubernetes::Reader::new(client.clone()),
            vault_readers: VaultReaders::new(Arc::clone(&vaults)),
            own_account: None,
            in_memory: View::memory_bound(),
            pace: pace::Pace::default(),
            contacts: keyvault::Contacts::default(),
            stop: stop.clone(),
            world,
            settings,
            cluster,
            metrics,
        };
        let context = Arc::new(Context { view, client, vaults, instance: instance() });
        control(&context, watches, woken, &readiness).await
    };
    tokio::select! {
        ended = work => ended,
        // It serves until the work is done.
        served = health => served.context("the health server ended")?.context("the health server failed"),
    }
}

/// Runs the watches and the controllers until the stop; then only what is in hand is finished.
async fn control(
    context: &Arc<Context>,
    watches: Watches,
    woken: Woken,
    readiness: &Readiness,
) -> anyhow::Result<()> {
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(lasting("inventory", inventory::run(Arc::clone(context))));
    tasks.spawn(lasting("token file", token_file::run(Arc::clone(context))));
    for (what, watch) in watches {
        tasks.spawn(async move {
            watch.await;
            what
        });
    }
    tokio::select! {
        () = context.world.filled(readiness) => {}
        () = context.stop.cancelled() => return Ok(()),
    }
    let world = &context.world;
    let controllers = futures::future::join5(
        controller("sync", world.syncs.clone(), woken.syncs, context, sync::reconcile),
        controller(
            "cluster sync",
            world.cluster_syncs.clone(),
            woken.cluster_syncs,
            context,
            sync::reconcile_cluster,
        ),
        controller("certificate", world.claims.clone(), woken.claims, context, certificate::reconcile),
        controller("keyvault", world.vaults.clone(), woken.vaults, context, keyvault::reconcile),
        controller("orphan", world.claims.clone(), woken.orphans, context, sync::orphan::reconcile),
    );
    readiness.done("controllers");
    tracing::info!("ready");
    let over = async {
        context.stop.cancelled().await;
        tracing::info!("stopping: finishing what is in hand");
        tokio::time::sleep(GRACE).await;
    };
    tokio::select! {
        _ = controllers => {
            tracing::info!("stopped");
            Ok(())
        }
        () = over => {
            tracing::warn!("stopped before everything in hand was finished; announced writes are looked for at the next start");
            Ok(())
        }
        ended = tasks.join_next() => anyhow::bail!("a task that lasts as long as the operator ended: {ended:?}"),
    }
}

/// A task that ends with the operator alone, which is no failure.
async fn lasting(what: &'static str, task: impl Future<Output = ()>) -> &'static str {
    task.await;
    std::future::pending::<()>().await;
    what
}

/// One controller over one queue. Each object has one round at a time; how many objects at once is left to the vaults'
/// permits, because the runtime's own limit is not fair.
fn controller<K, Reconciling>(
    name: &'static str,
    store: Store<K>,
    woken: UnboundedReceiver<ObjectRef<K>>,
    context: &Arc<Context>,
    reconcile: impl FnMut(Arc<K>, Arc<Context>) -> Reconciling,
) -> impl Future<Output = ()>
where
    K: kube::Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    Reconciling: Future<Output = Result<Action, Infallible>> + Send + 'static,
    K::DynamicType: Eq + Hash,
{
    Controller::for_stream(futures::stream::pending(), store)
        .with_config(Config::default().concurrency(0))
        .reconcile_on(tokio_stream::wrappers::UnboundedReceiverStream::new(woken))
        .graceful_shutdown_on(context.stop.clone().cancelled_owned())
        .run(reconcile, |_, never: &Infallible, _| match *never {}, Arc::clone(context))
        .for_each(move |ended| async move {
            // An object that is gone by the time its turn comes is no news.
            if let Err(error) = ended {
                tracing::trace!(controller = name, error = %watch::describe(&error), "a round was not made");
            }
        })
}

async fn stop_on_signal(stop: CancellationToken) {
    let terminate = async {
        match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
            Ok(mut signal) => {
                signal.recv().await;
            }
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        () = terminate => {}
        _ = tokio::signal::ctrl_c() => {}
    }
    stop.cancel();
}

/// The cluster id: as set, or the UID of the namespace kube-system. `None`: told to stop meanwhile.
async fn cluster_id(client: &Client, settings: &Settings, stop: &CancellationToken) -> Option<ClusterId> {
    if let Some(id) = &settings.access.cluster_id {
        return Some(id.clone());
    }
    let namespaces: Api<Namespace> = Api::all(client.clone());
    loop {
        match kubernetes::call("the namespace kube-system", namespaces.get("kube-system")).await {
            Ok(namespace) => match ClusterId::parse(&namespace.uid().unwrap_or_default()) {
                Ok(id) => return Some(id),
                Err(error) => {
                    tracing::error!(error, "the UID of kube-system is no cluster id: set --cluster-id")
                }
            },
            Err(error) => {
                tracing::warn!(error = %watch::describe(&error), "the API server does not answer, trying again")
            }
        }
        tokio::select! {
            () = tokio::time::sleep(START_RETRY) => {}
            () = stop.cancelled() => return None,
        }
    }
}

/// Where in the cluster this operator is.
fn place(client: &Client, settings: &Settings) -> Place {
    let namespace = settings.namespace.clone().unwrap_or_else(|| client.default_namespace().to_owned());
    let served = (!settings.watch_namespaces.is_empty()).then(|| settings.watch_namespaces.clone());
    Place { namespace, served, service_accounts: settings.access.service_accounts.clone() }
}

pub(crate) fn transport_settings(settings: &Settings) -> anyhow::Result<TransportSettings> {
    let ca_bundle_pem = match &settings.access.ca_bundle {
        None => None,
        Some(path) => Some(std::fs::read(path).with_context(|| format!("--ca-bundle {}", path.display()))?),
    };
    Ok(TransportSettings {
        allowed_clouds: settings.allowed_clouds(),
        emulator_address: settings.access.emulator_address,
        ca_bundle_pem,
        authority_host: settings.access.authority_host.clone(),
        imds_endpoint: settings.access.imds_endpoint.clone(),
    })
}

/// The pod's name, for Events.
fn instance() -> String {
    std::env::var("POD_NAME")
        .or_else(|_| std::env::var("HOSTNAME"))
        .unwrap_or_else(|_| "keyvault-sync".into())
}
