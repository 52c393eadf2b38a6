//! What the operator knows of the cluster: one watch per kind, and who is woken by which change.
//! What the woken do about it is left to the controllers.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{Namespace, Secret};
use keyvault_sync_api::constants::SYNC_AT_ANNOTATION;
use keyvault_sync_api::{KeyVault, KeyVaultCertificate, KeyVaultSync};
use kube::api::{Api, PartialObjectMeta};
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::{Client, Resource, ResourceExt};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::health::Readiness;
use crate::memory::{Planned, Rounds, Written};
use crate::telemetry::Metrics;
use crate::watch::{self, Change};

/// The metadata of a Secret: its data is never watched.
pub(crate) type SecretMeta = PartialObjectMeta<Secret>;
/// The metadata of a namespace.
pub(crate) type NamespaceMeta = PartialObjectMeta<Namespace>;

/// Annotation in which `kubectl apply` keeps the whole object, private key included.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// Secrets that are never sources and can be many and large.
const SECRET_FIELDS: &str =
    "type!=helm.sh/release.v1,type!=kubernetes.io/service-account-token,type!=kubernetes.io/dockerconfigjson";

/// Who is woken: one queue a controller.
#[derive(Clone, Debug)]
pub(crate) struct Wake {
    syncs: UnboundedSender<ObjectRef<KeyVaultSync>>,
    claims: UnboundedSender<ObjectRef<KeyVaultCertificate>>,
    vaults: UnboundedSender<ObjectRef<KeyVault>>,
    orphans: UnboundedSender<ObjectRef<KeyVaultCertificate>>,
}

/// The other ends of [`Wake`].
#[derive(Debug)]
pub(crate) struct Woken {
    /// For the sync controller.
    pub syncs: UnboundedReceiver<ObjectRef<KeyVaultSync>>,
    /// For the certificate controller.
    pub claims: UnboundedReceiver<ObjectRef<KeyVaultCertificate>>,
    /// For the vault controller.
    pub vaults: UnboundedReceiver<ObjectRef<KeyVault>>,
    /// For the controller of claims whose owner is gone.
    pub orphans: UnboundedReceiver<ObjectRef<KeyVaultCertificate>>,
}

impl Wake {
    /// Makes the queues.
    pub(crate) fn new() -> (Wake, Woken) {
        let (syncs, woken_syncs) = unbounded_channel();
        let (claims, woken_claims) = unbounded_channel();
        let (vaults, woken_vaults) = unbounded_channel();
        let (orphans, woken_orphans) = unbounded_channel();
        let woken =
            Woken { syncs: woken_syncs, claims: woken_claims, vaults: woken_vaults, orphans: woken_orphans };
        (Wake { syncs, claims, vaults, orphans }, woken)
    }

    // A queue is closed only while the operator ends: then nobody needs to be woken.

    /// Plans this resource again.
    pub(crate) fn sync(&self, object: ObjectRef<KeyVaultSync>) {
        let _ = self.syncs.send(object);
    }

    /// Looks at this claim again.
    pub(crate) fn claim(&self, object: ObjectRef<KeyVaultCertificate>) {
        let _ = self.claims.send(object);
    }

    /// Looks at this KeyVault again.
    pub(crate) fn vault(&self, object: ObjectRef<KeyVault>) {
        let _ = self.vaults.send(object);
    }

    /// Looks for the owner of this claim.
    pub(crate) fn orphan(&self, object: ObjectRef<KeyVaultCertificate>) {
        let _ = self.orphans.send(object);
    }
}

/// Who names what, so that an event finds those it concerns without a scan.
#[derive(Debug, Default)]
struct Index {
    /// (namespace, Secret) → claims that push it.
    by_source: HashMap<(String, String), HashSet<String>>,
    /// (namespace, KeyVaultSync) → claims it holds.
    by_owner: HashMap<(String, String), HashSet<String>>,
    /// Claim → resources that want its name and do not have it.
    losers: HashMap<String, HashSet<ObjectRef<KeyVaultSync>>>,
}

/// The stores and the index over them.
#[derive(Debug)]
pub(crate) struct World {
    /// The wishes.
    pub syncs: Store<KeyVaultSync>,
    /// The vaults that may be used.
    pub vaults: Store<KeyVault>,
    /// The claims.
    pub claims: Store<KeyVaultCertificate>,
    /// Namespaces, for grants by label.
    pub namespaces: Store<NamespaceMeta>,
    /// Which Secrets there are, in which edition.
    pub secrets: Store<SecretMeta>,
    /// Wakes the controllers.
    pub wake: Wake,
    /// Claims as we wrote them last, until the watch shows them.
    pub(crate) written: Written,
    /// What a claim's rounds leave behind.
    pub(crate) rounds: Rounds,
    /// Resources planned since the start.
    pub(crate) planned: Planned,
    metrics: Arc<Metrics>,
    index: Mutex<Index>,
}

/// The watches that keep a [`World`] up to date; each runs until it is dropped.
pub(crate) type Watches = Vec<(&'static str, BoxFuture<'static, ()>)>;

impl World {
    /// The world and the watches that have to run for it.
    pub(crate) fn new(client: &Client, wake: Wake, metrics: Arc<Metrics>) -> (Arc<World>, Watches) {
        let (syncs, syncs_writer) = reflector::store();
        let (vaults, vaults_writer) = reflector::store();
        let (claims, claims_writer) = reflector::store();
        let (namespaces, namespaces_writer) = reflector::store();
        let (secrets, secrets_writer) = reflector::store();
        let world = Arc::new(World {
            syncs,
            vaults,
            claims,
            namespaces,
            secrets,
            wake,
            written: Written::default(),
            rounds: Rounds::default(),
            planned: Planned::default(),
            metrics,
            index: Mutex::default(),
        });
        let secret_config = watch::config().fields(SECRET_FIELDS);
        let (of_syncs, of_vaults, of_claims, of_namespaces, of_secrets) =
            (world.clone(), world.clone(), world.clone(), world.clone(), world.clone());
        let api = client.clone();
        let watches: Watches = vec![
            (
                "KeyVaultSyncs",
                Box::pin(watch::run(
                    "KeyVaultSyncs",
                    Api::all(api.clone()),
                    watch::config(),
                    syncs_writer,
                    trim,
                    move |change| of_syncs.on_sync(&change),
                )),
            ),
            (
                "KeyVaults",
                Box::pin(watch::run(
                    "KeyVaults",
                    Api::all(api.clone()),
                    watch::config(),
                    vaults_writer,
                    trim,
                    move |change| of_vaults.on_vault(&change),
                )),
            ),
            (
                "KeyVaultCertificates",
                Box::pin(watch::run(
                    "KeyVaultCertificates",
                    Api::all(api.clone()),
                    watch::config(),
                    claims_writer,
                    trim,
                    move |change| of_claims.on_claim(&change),
                )),
            ),
            (
                "Namespaces",
                Box::pin(watch::run(
                    "Namespaces",
                    Api::all(api.clone()),
                    watch::config(),
                    namespaces_writer,
                    trim_namespace,
                    move |change| of_namespaces.on_namespace(&change),
                )),
            ),
            (
                "Secrets",
                Box::pin(watch::run(
                    "Secrets",
                    Api::all(api),
                    secret_config,
                    secrets_writer,
                    trim_secret,
                    move |change| of_secrets.on_secret(&change),
                )),
            ),
        ];
        (world, watches)
    }

    /// Waits until every store has been filled once.
    pub(crate) async fn filled(&self, readiness: &Readiness) {
        // A store is given up only together with its watch, which runs as long as the operator.
        let _ = self.syncs.wait_until_ready().await;
        readiness.done("KeyVaultSyncs");
        let _ = self.vaults.wait_until_ready().await;
        readiness.done("KeyVaults");
        let _ = self.claims.wait_until_ready().await;
        readiness.done("KeyVaultCertificates");
        let _ = self.namespaces.wait_until_ready().await;
        readiness.done("Namespaces");
        let _ = self.secrets.wait_until_ready().await;
        readiness.done("Secrets");
    }

    /// The metadata of a Secret of this namespace.
    pub(crate) fn secret(&self, namespace: &str, name: &str) -> Option<Arc<SecretMeta>> {
        self.secrets.get(&ObjectRef::new(name).within(namespace))
    }

    /// The claims that the resource of this name holds.
    pub(crate) fn claims_of(&self, namespace: &str, name: &str) -> Vec<Arc<KeyVaultCertificate>> {
        let names: Vec<String> = self
            .index()
            .by_owner
            .get(&(namespace.into(), name.into()))
            .into_iter()
            .flatten()
            .cloned()
            .collect();
        names.iter().filter_map(|name| self.claim(name)).collect()
    }

    /// The claim of this name.
    pub(crate) fn claim(&self, name: &str) -> Option<Arc<KeyVaultCertificate>> {
        self.claims.get(&ObjectRef::new(name))
    }

    /// STUB
    pub(crate) fn is_present(&self, _owner: &keyvault_sync_core::claims::ClaimOwner) -> bool {
        true
    }

    /// Remembers that this resource waits for the name of a claim that another holds.
    pub(crate) fn is_loser(&self, claim: &str, sync: ObjectRef<KeyVaultSync>) {
        self.index().losers.entry(claim.to_owned()).or_default().insert(sync);
    }

    /// The resources that wait for the name of a claim.
    pub(crate) fn losers_of(&self, claim: &str) -> Vec<Arc<KeyVaultSync>> {
        let losers: Vec<_> = self.index().losers.get(claim).into_iter().flatten().cloned().collect();
        losers.iter().filter_map(|loser| self.syncs.get(loser)).collect()
    }

    fn index(&self) -> std::sync::MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn on_sync(&self, change: &Change<KeyVaultSync>) {
        match change {
            Change::Applied { before, now } => {
                if before.as_ref().is_none_or(|before| is_other_wish(before, now)) {
                    self.wake.sync(ObjectRef::from_obj(now.as_ref()));
                }
            }
            Change::Gone(sync) => {
                self.planned.forget(&sync.uid().unwrap_or_default());
                let (namespace, name) = (sync.namespace().unwrap_or_default(), sync.name_any());
                for claim in self.claims_of(&namespace, &name) {
                    self.wake.orphan(ObjectRef::from_obj(claim.as_ref()));
                }
            }
        }
    }

    fn on_vault(&self, change: &Change<KeyVault>) {
        let vault = match change {
            Change::Applied { before: Some(before), now } if !is_other_vault(before, now) => return,
            Change::Applied { now, .. } => now,
            Change::Gone(vault) => vault,
        };
        let name = vault.name_any();
        self.wake.vault(ObjectRef::from_obj(vault.as_ref()));
        for sync in self.syncs.state().iter().filter(|sync| sync.spec.push.vault_ref.name == name) {
            self.wake.sync(ObjectRef::from_obj(sync.as_ref()));
        }
        for claim in self.claims.state().iter().filter(|claim| claim.spec.key_vault == name) {
            self.wake.claim(ObjectRef::from_obj(claim.as_ref()));
        }
    }

    fn on_claim(&self, change: &Change<KeyVaultCertificate>) {
        match change {
            Change::Applied { before, now } => {
                self.enter(before.as_deref(), Some(now));
                let reference = ObjectRef::from_obj(now.as_ref());
                if before.as_ref().is_none_or(|before| {
                    before.metadata.generation != now.metadata.generation || before.uid() != now.uid()
                }) {
                    self.wake.claim(reference.clone());
                }
                if before
                    .as_ref()
                    .is_none_or(|before| before.status != now.status || before.spec.owner != now.spec.owner)
                {
                    self.wake.sync(owner_ref(now));
                }
                if before.as_ref().is_some_and(|before| before.spec.owner != now.spec.owner) {
                    // Who waits for the name is told who has it now.
                    for loser in self.losers_of(&now.name_any()) {
                        self.wake.sync(ObjectRef::from_obj(loser.as_ref()));
                    }
                }
                if self
                    .syncs
                    .get(&owner_ref(now))
                    .is_none_or(|sync| sync.uid().as_deref() != Some(&now.spec.owner.uid))
                {
                    self.wake.orphan(reference);
                }
            }
            Change::Gone(claim) => {
                self.enter(Some(claim), None);
                self.written.forget(&claim.name_any());
                self.rounds.forget(&claim.uid().unwrap_or_default());
                self.wake.sync(owner_ref(claim));
                for loser in self.index().losers.remove(&claim.name_any()).into_iter().flatten() {
                    self.wake.sync(loser);
                }
            }
        }
    }

    /// Brings the index up to date with a claim.
    fn enter(&self, before: Option<&KeyVaultCertificate>, now: Option<&KeyVaultCertificate>) {
        match (before, now) {
            (None, Some(_)) => drop(self.metrics.claims.inc()),
            (Some(_), None) => drop(self.metrics.claims.dec()),
            _ => {}
        }
        let mut index = self.index();
        let Index { by_source, by_owner, .. } = &mut *index;
        for (claim, is_there) in
            before.map(|claim| (claim, false)).into_iter().chain(now.map(|claim| (claim, true)))
        {
            let name = claim.name_any();
            let sources = claim
                .spec
                .sources
                .iter()
                .map(|source| (source.namespace.clone(), source.secret_name.clone()));
            let owner = owner_key(claim);
            for source in sources {
                set(by_source, source, &name, is_there);
            }
            set(by_owner, owner, &name, is_there);
        }
    }

    fn on_namespace(&self, change: &Change<NamespaceMeta>) {
        let Change::Applied { before, now } = change else { return };
        if before.as_ref().is_some_and(|before| before.labels() == now.labels()) {
            return;
        }
        let namespace = Some(now.name_any());
        for sync in self.syncs.state().iter().filter(|sync| sync.namespace() == namespace) {
            self.wake.sync(ObjectRef::from_obj(sync.as_ref()));
        }
        for claim in self
            .claims
            .state()
            .iter()
            .filter(|claim| Some(crate::owner::namespace(claim)) == namespace.as_deref())
        {
            self.wake.claim(ObjectRef::from_obj(claim.as_ref()));
        }
    }

    fn on_secret(&self, change: &Change<SecretMeta>) {
        let secret = match change {
            Change::Applied { before: Some(before), now }
                if before.resource_version() == now.resource_version() =>
            {
                return;
            }
            Change::Applied { now, .. } => now,
            Change::Gone(secret) => secret,
        };
        let (namespace, name) = (secret.namespace().unwrap_or_default(), secret.name_any());
        let claims: Vec<String> = self
            .index()
            .by_source
            .get(&(namespace.clone(), name.clone()))
            .into_iter()
            .flatten()
            .cloned()
            .collect();
        for claim in claims {
            self.wake.claim(ObjectRef::new(&claim));
        }
        for sync in self.syncs.state().iter().filter(|sync| sync.namespace().as_deref() == Some(&namespace)) {
            if names_depend_on_secrets(sync)
                && sync.spec.certificates.iter().any(|entry| entry.secret_name == name)
            {
                self.wake.sync(ObjectRef::from_obj(sync.as_ref()));
            }
        }
    }
}

fn set(
    map: &mut HashMap<(String, String), HashSet<String>>,
    key: (String, String),
    claim: &str,
    is_there: bool,
) {
    if is_there {
        map.entry(key).or_default().insert(claim.to_owned());
    } else if let Some(claims) = map.get_mut(&key) {
        claims.remove(claim);
        if claims.is_empty() {
            map.remove(&key);
        }
    }
}

/// A template with a label or annotation in it: a change of the Secret's metadata may change the name.
fn names_depend_on_secrets(sync: &KeyVaultSync) -> bool {
    ["{label:", "{annotation:"].iter().any(|part| sync.spec.certificate_name_template.contains(part))
}

fn is_other_wish(before: &KeyVaultSync, now: &KeyVaultSync) -> bool {
    before.metadata.generation != now.metadata.generation
        || before.uid() != now.uid()
        || sync_at(before) != sync_at(now)
}

fn is_other_vault(before: &KeyVault, now: &KeyVault) -> bool {
    before.metadata.generation != now.metadata.generation
        || before.uid() != now.uid()
        || sync_at(before) != sync_at(now)
}

/// The value of the annotation that asks for a comparison now.
pub(crate) fn sync_at<K: Resource>(object: &K) -> Option<&String> {
    object.meta().annotations.as_ref()?.get(SYNC_AT_ANNOTATION)
}

/// The resource that holds a claim.
pub(crate) fn owner_ref(claim: &KeyVaultCertificate) -> ObjectRef<KeyVaultSync> {
    let (namespace, name) = owner_key(claim);
    ObjectRef::new(&name).within(&namespace)
}

fn owner_key(claim: &KeyVaultCertificate) -> (String, String) {
    (crate::owner::namespace(claim).to_owned(), claim.spec.owner.name.clone())
}

fn trim<K: Resource>(object: &mut K) {
    object.meta_mut().managed_fields = None;
}

fn trim_namespace(namespace: &mut NamespaceMeta) {
    trim(namespace);
    namespace.metadata.annotations = None;
}

fn trim_secret(secret: &mut SecretMeta) {
    trim(secret);
    secret.types = None;
    secret.metadata.owner_references = None;
    if let Some(annotations) = &mut secret.metadata.annotations {
        annotations.remove(LAST_APPLIED);
    }
}
