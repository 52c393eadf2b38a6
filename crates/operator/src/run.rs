//! The operator's life: what it is made of, its watches and controllers, and its end.
//! What they do is read in `sync` (wish → claim) and `certificate` (claim → vault).

use std::convert::Infallible;
use std::fmt::Debug;
use std::future::Future;
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use futures::{FutureExt, StreamExt};
use k8s_openapi::api::core::v1::Namespace;
use keyvault_sync_core::ownership::ClusterId;
use keyvault_sync_vault::{Fence, Transport, TransportSettings};
use kube::api::Api;
use kube::runtime::controller::{self, Action, Config, Controller};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Client, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::context::{Context, VaultClients, VaultReaders, View};
use crate::health::Readiness;
use crate::installation::Others;
use crate::leader::{Campaign, Leadership, Standing};
use crate::metrics::Metrics;
use crate::news::News;
use crate::settings::Settings;
use crate::signals::Signals;
use crate::signs::Signs;
use crate::traces::Traces;
use crate::wake::{self, Taken, Wake, Woken};
use crate::world::{Place, Watches, World};
use crate::{
    certificate, definitions, health, inventory, keyvault, kubernetes, log, metrics_server, observed, pace,
    proofs, scrape, sync, token_file, traffic, watch, world,
};

/// How long the writes in hand may take after SIGTERM: less than the 30 s Kubernetes waits before it kills.
const GRACE: Duration = Duration::from_secs(25);
/// How long the lease may take to be given back: with the grace period less than 30 s.
const GIVING_BACK: Duration = Duration::from_secs(3);
/// When an object is looked at again whose turn came while the lease had run out.
const NOT_LEADING: Duration = Duration::from_secs(2);
/// What becomes of what is not finished.
const LOOKED_FOR: &str = "announced writes are looked for at the next start";
/// Retries of what the start needs from the API server.
const START_RETRY: Duration = Duration::from_secs(2);
/// What /readyz waits for.
const EXPECTED: [&str; 10] = [
    definitions::DEFINITIONS,
    "KeyVaultSyncs",
    "ClusterKeyVaultSyncs",
    "KeyVaults",
    "KeyVaultCertificates",
    "Namespaces",
    "TLS Secrets",
    "other Secrets",
    world::ACCOUNTS,
    "API server",
];

/// Runs the operator until it is told to stop.
///
/// # Errors
/// What it cannot begin with, or a task of its own that ended.
pub(crate) async fn run(settings: Settings) -> anyhow::Result<()> {
    let signals = Signals::listen().context("SIGTERM cannot be listened for")?;
    let (traces, untraced) = Traces::from_environment()?;
    log::start(settings.log_format, &settings.log, traces.as_ref().map(Traces::tracer))?;
    if let Some(sentence) = untraced {
        tracing::warn!("{sentence}");
    }
    let ended = work(settings, signals).await;
    if let Some(traces) = traces {
        traces.flush().await;
    }
    ended
}

async fn work(settings: Settings, signals: Signals) -> anyhow::Result<()> {
    let stop = CancellationToken::new();
    let told_twice = tokio::spawn(signals.obey(stop.clone()));
    tracing::info!(version = env!("CARGO_PKG_VERSION"), "keyvault-sync starts");
    let readiness = Readiness::default();
    EXPECTED.into_iter().for_each(|what| readiness.expect(what));
    let metrics = Arc::new(Metrics::default());
    let signs = Signs::new(Arc::clone(&metrics), settings.watch_timeout.into());
    let lease = Arc::new(Leadership::nobody());
    metrics.collect(scrape::Vitals::of(&signs, &lease));
    let _heart = tokio::spawn(Arc::clone(&signs).beat());
    let page = health::Page {
        readiness: readiness.clone(),
        metrics: Arc::clone(&metrics),
        metrics_elsewhere: settings.metrics_address,
        signs: Arc::clone(&signs),
    };
    let health = health::serve(settings.health_address, page)?;
    let transport_settings = transport_settings(&settings)?;
    let client = kubernetes::client().await.context("the Kubernetes API server cannot be reached")?;
    let client = traffic::counted(client, Arc::clone(&metrics));
    metrics_server::serve(&settings, client.clone(), Arc::clone(&metrics))?;
    let proofs = Arc::new(proofs::ClusterProofs::new(client.clone()));
    let fence = Arc::clone(&lease) as Arc<dyn Fence>;
    let observer = Arc::new(observed::VaultCalls(Arc::clone(&metrics)));
    let transport = Transport::observed(&transport_settings, proofs, fence, observer)
        .context("the connection to Azure cannot be set up")?;
    let work = async {
        let serves_all = settings.watch_namespaces.is_empty();
        if !definitions::wait(&client, serves_all, &readiness, &stop).await {
            return Ok(());
        }
        let Some(cluster) = cluster_id(&client, &settings, &stop).await else { return Ok(()) };
        readiness.done("API server");
        tracing::info!(cluster = %cluster, installation = %settings.installation, "this is the cluster");
        let (wake, woken) = Wake::new();
        let (world, watches) = World::new(&client, &place(&client, &settings), wake, &signs);
        signs.queues(world.wake.backlogs());
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
        let instance = instance();
        let is_forgotten = AtomicBool::new(false);
        let others = Others::default();
        let context = Arc::new(Context { view, client, vaults, lease, others, is_forgotten, instance });
        context.metrics.collect(scrape::Scrape::of(&context));
        control(&context, watches, woken, &readiness).await
    };
    tokio::select! {
        ended = work => ended,
        _ = told_twice => anyhow::bail!("told to stop a second time: what was in hand is not finished; {LOOKED_FOR}"),
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
    let mut tasks = JoinSet::new();
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
    tracing::info!("ready");
    // Who leads knows the cluster already: a standby takes over within seconds.
    let over = CancellationToken::new();
    let campaign = campaign(context);
    let campaign = tokio::spawn({
        let (context, over) = (Arc::clone(context), over.clone());
        async move { campaign.run(&context.lease, over).await }
    });
    let leads = tokio::select! {
        leads = context.lease.decided() => leads,
        () = context.stop.cancelled() => false,
        ended = tasks.join_next() => anyhow::bail!("a task that lasts as long as the operator ended: {ended:?}"),
    };
    let ended = if leads { lead(context, woken, &mut tasks).await } else { Ok(()) };
    // What is still on its way keeps the lease until it ends by itself.
    if ended.is_ok() {
        over.cancel();
        // An API server that does not answer must not use up what Kubernetes gives: the lease ends by itself.
        let _ = tokio::time::timeout(GIVING_BACK, campaign).await;
    }
    if context.lease.standing() == Standing::Lost {
        anyhow::bail!("another process leads by now: this one ends, and stands by when it is started again");
    }
    ended
}

/// Works as the one that leads, until the stop or until another leads, and everything in hand is finished.
async fn lead(context: &Arc<Context>, woken: Woken, tasks: &mut JoinSet<&'static str>) -> anyhow::Result<()> {
    tasks.spawn(lasting("inventory", inventory::run(Arc::clone(context))));
    tasks.spawn(lasting("token file", token_file::run(Arc::clone(context))));
    let world = &context.world;
    let controllers = futures::future::join5(
        controller(world.syncs.clone(), woken.syncs, context, sync::reconcile),
        controller(world.cluster_syncs.clone(), woken.cluster_syncs, context, sync::reconcile_cluster),
        controller(world.claims.clone(), woken.claims, context, certificate::reconcile),
        controller(world.vaults.clone(), woken.vaults, context, keyvault::reconcile),
        controller(world.claims.clone(), woken.orphans, context, sync::orphan::reconcile),
    );
    world.rouse();
    let over = async {
        tokio::select! {
            () = context.stop.cancelled() => {}
            () = context.lease.lost() => context.stop.cancel(),
        }
        tracing::info!("stopping: finishing what is in hand");
        tokio::time::sleep(GRACE).await;
    };
    tokio::select! {
        _ = controllers => {
            anyhow::ensure!(!context.is_forgotten.load(Ordering::Acquire), definitions::changed());
            tracing::info!("stopped");
            Ok(())
        }
        () = over => {
            anyhow::bail!("not everything in hand was finished within {} s; {LOOKED_FOR}", GRACE.as_secs())
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
    store: Store<K>,
    woken: Taken<K>,
    context: &Arc<Context>,
    mut reconcile: impl FnMut(Arc<K>, Arc<Context>) -> Reconciling,
) -> impl Future<Output = ()>
where
    K: kube::Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    Reconciling: Future<Output = Result<Action, Infallible>> + Send + 'static,
    K::DynamicType: Eq + Hash,
{
    let Taken { receiver, backlog } = woken;
    backlog.open();
    let ledger = Arc::clone(&backlog);
    let round = move |object: Arc<K>, context: Arc<Context>| {
        let under_way = ledger.begin(wake::entry(&ObjectRef::from_obj(object.as_ref())));
        let (controller, metrics) = (ledger.controller, Arc::clone(&context.metrics));
        // While the lease is not renewed (the API server does not answer, say) and nobody else has taken it, nothing is begun.
        let reconciling = if context.lease.leads() {
            reconcile(object, context).left_future()
        } else {
            std::future::ready(Ok(Action::requeue(NOT_LEADING))).right_future()
        };
        async move {
            let ended = reconciling.await;
            metrics.round_seconds.observe([controller], under_way.elapsed());
            ended
        }
    };
    Controller::for_stream(futures::stream::pending(), store)
        .with_config(Config::default().concurrency(0))
        .reconcile_on(tokio_stream::wrappers::UnboundedReceiverStream::new(receiver))
        .graceful_shutdown_on(context.stop.clone().cancelled_owned())
        .run(round, |_, never: &Infallible, _| match *never {}, Arc::clone(context))
        .for_each(move |ended| {
            // An object that is gone by the time its turn comes is no news.
            if let Err(error) = ended {
                if let controller::Error::ObjectNotFound(gone) = &error {
                    backlog.vanished(&wake::entry(&gone.as_ref().clone().into_kind_unchecked::<K>(())));
                }
                tracing::trace!(controller = backlog.controller, error = %watch::describe(&error), "a round was not made");
            }
            std::future::ready(())
        })
}

/// The cluster id: as set, or the UID of the namespace kube-system. `None`: told to stop meanwhile.
async fn cluster_id(client: &Client, settings: &Settings, stop: &CancellationToken) -> Option<ClusterId> {
    if let Some(id) = &settings.access.cluster_id {
        return Some(id.clone());
    }
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let mut news = News::default();
    loop {
        let answer = tokio::select! {
            answer = kubernetes::call("the namespace kube-system", namespaces.get("kube-system")) => answer,
            () = stop.cancelled() => return None,
        };
        let problem = match answer {
            Ok(namespace) => match ClusterId::parse(&namespace.uid().unwrap_or_default()) {
                Ok(id) => return Some(id),
                Err(error) => {
                    format!(
                        "the UID of the namespace kube-system is no cluster id ({error}): set --cluster-id"
                    )
                }
            },
            Err(error) => watch::describe(&error),
        };
        if news.is(&problem) {
            tracing::warn!(problem, "the cluster id is not known yet, it is asked for again");
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
    Place {
        namespace,
        served,
        service_accounts: settings.access.service_accounts.clone(),
        selector: settings.resource_selector.clone().unwrap_or_default(),
        installation: settings.installation.clone(),
    }
}

fn campaign(context: &Context) -> Campaign {
    let settings = &context.settings;
    let lasts = Duration::from_secs(settings.lease_duration.as_secs());
    let pod = (context.instance.as_str(), settings.pod_uid.as_deref());
    Campaign::new(context.client.clone(), &settings.installation, pod, lasts)
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
