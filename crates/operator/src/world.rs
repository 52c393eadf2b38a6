//! What the operator knows of the cluster: a store and a watch per kind, and an index over them.
//! Who is woken by which change is left to `changes`; what is done about it, to the controllers.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{Namespace, Secret, ServiceAccount};
use keyvault_sync_api::constants::{INSTALLATION_LABEL, SYNC_AT_ANNOTATION};
use keyvault_sync_api::{ClusterKeyVaultSync, KeyVault, KeyVaultCertificate, KeyVaultSync, PushSettings};
use keyvault_sync_core::labels::{self, Labels};
use keyvault_sync_core::ownership::OwnerKind;
use kube::api::PartialObjectMeta;
use kube::runtime::reflector::{ObjectRef, Store, store::Writer};
use kube::runtime::watcher;
use kube::{Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;

use crate::health::Readiness;
use crate::identity;
use crate::installation::Installation;
use crate::memory::{Planned, Rounds, Takeovers, Written};
use crate::settings::Selector;
use crate::signs::Signs;
use crate::wake::Wake;
use crate::watch::{self, Change, Scope};
use crate::wisher::{Wisher, WisherKey};
use trim::{trim, trim_account, trim_namespace, trim_secret};

mod changes;
pub(crate) mod once;
mod trim;

/// The metadata of a Secret: its data is never watched.
pub(crate) type SecretMeta = PartialObjectMeta<Secret>;
/// The metadata of a namespace.
pub(crate) type NamespaceMeta = PartialObjectMeta<Namespace>;

/// The metadata of a ServiceAccount, with the annotations of Azure Workload Identity alone.
pub(crate) type AccountMeta = PartialObjectMeta<ServiceAccount>;

/// The Secrets that selectors mean. Metadata has no type, so they have a watch of their own.
const TLS_SECRETS: &str = "type=kubernetes.io/tls";
/// All others that may be listed, but for those that are never sources and can be many and large.
const OTHER_SECRETS: &str = "type!=kubernetes.io/tls,type!=helm.sh/release.v1,\
    type!=kubernetes.io/service-account-token,type!=kubernetes.io/dockerconfigjson";

/// What /readyz calls the ServiceAccounts.
pub(crate) const ACCOUNTS: &str = "ServiceAccounts";
/// The name that stands for every ServiceAccount.
const ANY: &str = "*";

/// Who names what, so that an event finds those it concerns without a scan.
#[derive(Debug, Default)]
struct Index {
    /// (namespace, Secret) → claims that push it.
    by_source: HashMap<(String, String), HashSet<String>>,
    /// Wisher → claims it holds.
    by_owner: HashMap<WisherKey, HashSet<String>>,
    /// Claim → wishers that want its name and do not have it.
    losers: HashMap<String, HashSet<WisherKey>>,
    /// Claim → wishers whose last plan wants its name, whoever has it.
    wanted: HashMap<String, HashSet<WisherKey>>,
    /// The same the other way round.
    wants: HashMap<WisherKey, HashSet<String>>,
    /// Uid of a wisher that is gone → what it said last, until its claims are gone too.
    last_words: HashMap<String, PushSettings>,
    /// Namespace → the wishers in it; those without a namespace under the empty text.
    wishers: HashMap<String, HashSet<WisherKey>>,
    /// Namespace → the Secrets of type kubernetes.io/tls in it.
    tls: HashMap<String, HashSet<String>>,
}

/// The stores and the index over them.
#[derive(Debug)]
pub(crate) struct World {
    /// The wishes of namespaces.
    pub syncs: Store<KeyVaultSync>,
    /// The wishes over namespaces.
    pub cluster_syncs: Store<ClusterKeyVaultSync>,
    /// The vaults that may be used.
    pub vaults: Store<KeyVault>,
    /// The claims.
    pub claims: Store<KeyVaultCertificate>,
    /// Namespaces, for grants and selectors by label.
    pub namespaces: Store<NamespaceMeta>,
    /// Which Secrets of type kubernetes.io/tls there are, in which edition.
    pub tls_secrets: Store<SecretMeta>,
    /// Which other Secrets there are.
    pub other_secrets: Store<SecretMeta>,
    /// The ServiceAccounts that open vaults, a store for each name that is allowed, or one under `*` for all.
    accounts: Vec<(String, Store<AccountMeta>)>,
    /// The operator's own namespace.
    own_namespace: String,
    /// The namespaces it serves, if it does not serve all.
    served: Option<Vec<String>>,
    /// The labels of the resources it serves.
    selector: Selector,
    /// Which installation it is.
    installation: Installation,
    /// Wakes the controllers.
    pub wake: Wake,
    /// Claims as we wrote them last, until the watch shows them.
    pub(crate) written: Written,
    /// What a claim's rounds leave behind.
    pub(crate) rounds: Rounds,
    /// Resources planned since the start.
    pub(crate) planned: Planned,
    /// Claims taken over from other installations.
    pub(crate) taken: Takeovers,
    index: Mutex<Index>,
    is_filled: AtomicBool,
}

/// Who fills the stores of a [`World`].
#[derive(Default)]
struct Writers {
    syncs: Writer<KeyVaultSync>,
    cluster_syncs: Writer<ClusterKeyVaultSync>,
    vaults: Writer<KeyVault>,
    claims: Writer<KeyVaultCertificate>,
    namespaces: Writer<NamespaceMeta>,
    tls_secrets: Writer<SecretMeta>,
    other_secrets: Writer<SecretMeta>,
    accounts: Vec<(String, Writer<AccountMeta>)>,
}

/// Where in the cluster this operator is, and what it may look at there.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// The operator's own namespace.
    pub namespace: String,
    /// The namespaces it serves, if it does not serve all.
    pub served: Option<Vec<String>>,
    /// ServiceAccounts whose tokens may be asked for, by name; `*`: any.
    pub service_accounts: Vec<String>,
    /// The labels of the resources it serves.
    pub selector: Selector,
    /// Which installation it is.
    pub installation: Installation,
}

/// The watches that keep a [`World`] up to date; each runs until it is dropped.
pub(crate) type Watches = Vec<(&'static str, BoxFuture<'static, ()>)>;

impl World {
    /// The world and the watches that have to run for it.
    pub(crate) fn new(
        client: &Client,
        place: &Place,
        wake: Wake,
        signs: &Arc<Signs>,
    ) -> (Arc<World>, Watches) {
        let (world, writers) = World::empty(place, wake);
        let world = Arc::new(world);
        let all = || watch::config(signs.watch_timeout());
        let (tls, other) = (all().fields(TLS_SECRETS), all().fields(OTHER_SECRETS));
        let (w, c, served) = (&(Arc::clone(&world), Arc::clone(signs)), client, place.served.as_deref());
        let with_own = place.served_and_own();
        let secrets = || Scope::of(c, with_own.as_deref());
        let mut watches = vec![
            keep(w, Scope::of(c, served), "KeyVaultSyncs", all(), writers.syncs, trim, World::on_sync),
            keep(w, Scope::all(c), "KeyVaults", all(), writers.vaults, trim, World::on_vault),
            keep(w, Scope::all(c), "KeyVaultCertificates", all(), writers.claims, trim, World::on_claim),
            keep(w, secrets(), "TLS Secrets", tls, writers.tls_secrets, trim_secret, World::on_tls_secret),
            keep(
                w,
                secrets(),
                "other Secrets",
                other,
                writers.other_secrets,
                trim_secret,
                World::on_other_secret,
            ),
        ];
        if served.is_none() {
            let (namespaces, wishes) = (writers.namespaces, writers.cluster_syncs);
            watches.push(keep(
                w,
                Scope::all(c),
                "Namespaces",
                all(),
                namespaces,
                trim_namespace,
                World::on_namespace,
            ));
            watches.push(keep(
                w,
                Scope::all(c),
                "ClusterKeyVaultSyncs",
                all(),
                wishes,
                trim,
                World::on_cluster_sync,
            ));
        }
        for (name, writer) in writers.accounts {
            let meant = if name == ANY { all() } else { all().fields(&format!("metadata.name={name}")) };
            watches.push(keep(
                w,
                Scope::of(c, served),
                ACCOUNTS,
                meant,
                writer,
                trim_account,
                World::on_account,
            ));
        }
        (world, watches)
    }

    /// A world of which nothing is known yet, and who fills it.
    fn empty(place: &Place, wake: Wake) -> (World, Writers) {
        let accounts = place.watched().map(|name| (name.to_owned(), Writer::default())).collect();
        let writers = Writers { accounts, ..Writers::default() };
        let world = World {
            syncs: writers.syncs.as_reader(),
            cluster_syncs: writers.cluster_syncs.as_reader(),
            vaults: writers.vaults.as_reader(),
            claims: writers.claims.as_reader(),
            namespaces: writers.namespaces.as_reader(),
            tls_secrets: writers.tls_secrets.as_reader(),
            other_secrets: writers.other_secrets.as_reader(),
            accounts: writers
                .accounts
                .iter()
                .map(|(name, writer)| (name.clone(), writer.as_reader()))
                .collect(),
            own_namespace: place.namespace.clone(),
            served: place.served.clone(),
            selector: Arc::clone(&place.selector),
            installation: place.installation.clone(),
            wake,
            written: Written::default(),
            rounds: Rounds::default(),
            planned: Planned::default(),
            taken: Takeovers::default(),
            index: Mutex::default(),
            is_filled: AtomicBool::new(false),
        };
        (world, writers)
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
        let _ = self.tls_secrets.wait_until_ready().await;
        readiness.done("TLS Secrets");
        let _ = self.other_secrets.wait_until_ready().await;
        readiness.done("other Secrets");
        if self.served.is_none() {
            let _ = self.cluster_syncs.wait_until_ready().await;
            let _ = self.namespaces.wait_until_ready().await;
        }
        readiness.done("ClusterKeyVaultSyncs");
        readiness.done("Namespaces");
        for (_, accounts) in &self.accounts {
            let _ = accounts.wait_until_ready().await;
        }
        readiness.done(ACCOUNTS);
        self.is_filled.store(true, Ordering::Release);
    }

    /// The metadata of a Secret, whatever its type.
    pub(crate) fn secret(&self, namespace: &str, name: &str) -> Option<Arc<SecretMeta>> {
        let reference = ObjectRef::new(name).within(namespace);
        self.tls_secrets.get(&reference).or_else(|| self.other_secrets.get(&reference))
    }

    /// The operator's own namespace.
    pub(crate) fn own_namespace(&self) -> &str {
        &self.own_namespace
    }

    /// Whether the operator serves only the namespaces that it was told: it sees no namespaces' labels then, nor resources over them.
    pub(crate) fn is_of_some_namespaces(&self) -> bool {
        self.served.is_some()
    }

    /// Whether this operator can see resources of this namespace, or without one.
    pub(crate) fn serves(&self, wisher: &WisherKey) -> bool {
        self.served.as_ref().is_none_or(|served| served.contains(&wisher.namespace))
    }

    /// Whether a resource is this installation's to serve. Others are seen all the same: names are the whole cluster's.
    pub(crate) fn selects(&self, wisher: &Wisher) -> bool {
        let none = Labels::new();
        self.serves(&wisher.key()) && labels::all_hold(&self.selector, wisher.labels().unwrap_or(&none))
    }

    /// Whether a claim is labelled as this installation's. It is, before anybody works on it.
    pub(crate) fn is_ours(&self, claim: &KeyVaultCertificate) -> bool {
        installation_of(claim) == Some(self.installation.as_str())
    }

    /// Whether this installation works on a claim: it is labelled so, and nobody else selects its owner.
    pub(crate) fn works(&self, claim: &KeyVaultCertificate) -> bool {
        let key = WisherKey::of(claim);
        self.is_ours(claim)
            && self.serves(&key)
            && self
                .wisher(&key)
                .is_none_or(|wisher| wisher.uid() != claim.spec.owner.uid || self.selects(&wisher))
    }

    /// Begins to work: everything there is is looked at once.
    pub(crate) fn rouse(&self) {
        self.wake.rouse();
        for vault in self.vaults.state() {
            self.wake.vault(ObjectRef::from_obj(vault.as_ref()));
        }
        self.wishers().for_each(|wisher| self.wake.sync(wisher.key()));
        for claim in self.claims.state() {
            self.wake.claim(ObjectRef::from_obj(claim.as_ref()));
            if self.serves(&WisherKey::of(&claim)) && !self.has_owner(&claim) {
                self.wake.orphan(ObjectRef::from_obj(claim.as_ref()));
            }
        }
    }

    /// Whether a KeyVault concerns this operator: of an operator of some namespaces only those that a resource there refers to, or
    /// whose claims it works on. The others are somebody else's to look after.
    pub(crate) fn uses(&self, key_vault: &str) -> bool {
        let refers = |wisher: &Wisher| wisher.push().vault_ref.name == key_vault;
        let is_whole = !self.is_of_a_part();
        // What nobody uses yet anybody may look after who sees the whole cluster.
        let is_nobodys = || self.served.is_none() && !self.wishers().any(|wisher| refers(&wisher));
        is_whole
            || self.wishers().any(|wisher| refers(&wisher) && self.selects(&wisher))
            || self.claims.state().iter().any(|claim| claim.spec.key_vault == key_vault && self.works(claim))
            || is_nobodys()
    }

    /// Whether there are resources that other installations serve.
    fn is_of_a_part(&self) -> bool {
        self.served.is_some() || !self.selector.is_empty()
    }

    /// The metadata of a ServiceAccount whose tokens may be asked for.
    pub(crate) fn service_account(&self, namespace: &str, name: &str) -> Option<Arc<AccountMeta>> {
        let reference = ObjectRef::new(name).within(namespace);
        let stores = self.accounts.iter().filter(|(allowed, _)| allowed == ANY || allowed == name);
        stores.map(|(_, store)| store).find_map(|store| store.get(&reference))
    }

    /// The Secrets of type kubernetes.io/tls in a namespace.
    pub(crate) fn tls_secrets_in(&self, namespace: &str) -> Vec<Arc<SecretMeta>> {
        let names: Vec<String> = self.index().tls.get(namespace).into_iter().flatten().cloned().collect();
        names
            .iter()
            .filter_map(|name| self.tls_secrets.get(&ObjectRef::new(name).within(namespace)))
            .collect()
    }

    /// The metadata of a namespace.
    pub(crate) fn namespace(&self, name: &str) -> Option<Arc<NamespaceMeta>> {
        self.namespaces.get(&ObjectRef::new(name))
    }

    /// The wisher of this kind, namespace and name.
    pub(crate) fn wisher(&self, key: &WisherKey) -> Option<Wisher> {
        match key.kind {
            OwnerKind::KeyVaultSync => {
                self.syncs.get(&ObjectRef::new(&key.name).within(&key.namespace)).map(Wisher::Namespaced)
            }
            OwnerKind::ClusterKeyVaultSync => {
                self.cluster_syncs.get(&ObjectRef::new(&key.name)).map(Wisher::Cluster)
            }
        }
    }

    /// Whether the very resource that holds a claim is there, not only one of its name.
    pub(crate) fn has_owner(&self, claim: &KeyVaultCertificate) -> bool {
        self.wisher(&WisherKey::of(claim)).is_some_and(|wisher| wisher.uid() == claim.spec.owner.uid)
    }

    /// All wishers.
    pub(crate) fn wishers(&self) -> impl Iterator<Item = Wisher> {
        let namespaced = self.syncs.state().into_iter().map(Wisher::Namespaced);
        namespaced.chain(self.cluster_syncs.state().into_iter().map(Wisher::Cluster))
    }

    /// The wishers that Secrets of this namespace can concern: those in it, and those over namespaces.
    fn wishers_over(&self, namespace: &str) -> Vec<Wisher> {
        let keys: Vec<WisherKey> = {
            let index = self.index();
            ["", namespace].iter().filter_map(|place| index.wishers.get(*place)).flatten().cloned().collect()
        };
        keys.iter().filter_map(|key| self.wisher(key)).collect()
    }

    /// The claims that a wisher, or a predecessor of its name, holds.
    pub(crate) fn claims_of(&self, wisher: &WisherKey) -> Vec<Arc<KeyVaultCertificate>> {
        let names: Vec<String> = self.index().by_owner.get(wisher).into_iter().flatten().cloned().collect();
        names.iter().filter_map(|name| self.claim(name)).collect()
    }

    /// The claim of this name.
    pub(crate) fn claim(&self, name: &str) -> Option<Arc<KeyVaultCertificate>> {
        self.claims.get(&ObjectRef::new(name))
    }

    /// Whether every wish there is was planned once since the start.
    pub(crate) fn is_every_wish_planned(&self) -> bool {
        self.wishers().all(|wisher| self.planned.is_planned(wisher.uid()))
    }

    /// Remembers which names a wisher's plan wants.
    pub(crate) fn note_wants(&self, wisher: &WisherKey, names: HashSet<String>) {
        let mut index = self.index();
        let before = index.wants.insert(wisher.clone(), names.clone()).unwrap_or_default();
        for gone in before.difference(&names) {
            remove(&mut index.wanted, gone, wisher);
        }
        for new in names.difference(&before) {
            index.wanted.entry(new.clone()).or_default().insert(wisher.clone());
        }
    }

    /// The wishers whose last plan wants the name of a claim, its holder among them.
    pub(crate) fn wanting(&self, claim: &str) -> Vec<Wisher> {
        let keys: Vec<_> = self.index().wanted.get(claim).into_iter().flatten().cloned().collect();
        keys.iter().filter_map(|key| self.wisher(key)).collect()
    }

    /// What a resource (by uid) that is gone said last of how its certificates are to be treated.
    pub(crate) fn last_word(&self, uid: &str) -> Option<PushSettings> {
        self.index().last_words.get(uid).cloned()
    }

    /// Remembers that this wisher waits for the name of a claim that another holds.
    pub(crate) fn is_loser(&self, claim: &str, wisher: WisherKey) {
        self.index().losers.entry(claim.to_owned()).or_default().insert(wisher);
    }

    /// The wishers that wait for the name of a claim.
    pub(crate) fn losers_of(&self, claim: &str) -> Vec<Wisher> {
        let losers: Vec<_> = self.index().losers.get(claim).into_iter().flatten().cloned().collect();
        losers.iter().filter_map(|loser| self.wisher(loser)).collect()
    }

    fn index(&self) -> std::sync::MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Before every store is filled nobody works, and every wish and claim is woken by its own watch.
    fn is_filled(&self) -> bool {
        self.is_filled.load(Ordering::Acquire)
    }
}

impl Place {
    /// The namespaces whose Secrets are looked at: those that are served, and the operator's own, for the identities of KeyVaults.
    fn served_and_own(&self) -> Option<Vec<String>> {
        let served = self.served.as_ref()?;
        let all: BTreeSet<&String> = served.iter().chain([&self.namespace]).collect();
        Some(all.into_iter().cloned().collect())
    }

    /// The names of ServiceAccounts that are watched, each once.
    fn watched(&self) -> impl Iterator<Item = &str> {
        let is_any = self.service_accounts.iter().any(|name| name == ANY);
        let named = self.service_accounts.iter().filter(move |_| !is_any).map(String::as_str);
        let distinct: BTreeSet<&str> = named.chain(is_any.then_some(ANY)).collect();
        distinct.into_iter()
    }
}

/// One watch, for its store and for one of the world's ears.
fn keep<K>(
    (world, signs): &(Arc<World>, Arc<Signs>),
    scopes: Vec<Scope<K>>,
    what: &'static str,
    config: watcher::Config,
    writer: Writer<K>,
    trim: fn(&mut K),
    tell: fn(&World, &Change<K>),
) -> (&'static str, BoxFuture<'static, ()>)
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    let (world, signs) = (Arc::clone(world), Arc::clone(signs));
    let tell = move |change| tell(&world, &change);
    (what, Box::pin(async move { watch::run(what, &signs, scopes, config, writer, trim, tell).await }))
}

fn sources(claim: &KeyVaultCertificate) -> impl Iterator<Item = (String, String)> {
    claim.spec.sources.iter().map(|source| (source.namespace.clone(), source.secret_name.clone()))
}

fn remove<K: Eq + Hash, V: Eq + Hash>(map: &mut HashMap<K, HashSet<V>>, key: &K, value: &V) {
    if let Some(values) = map.get_mut(key) {
        values.remove(value);
        if values.is_empty() {
            map.remove(key);
        }
    }
}

/// The installation that a claim is labelled with.
pub(crate) fn installation_of(claim: &KeyVaultCertificate) -> Option<&str> {
    claim.labels().get(INSTALLATION_LABEL).map(String::as_str)
}

/// The value of the annotation that asks for a comparison now.
pub(crate) fn sync_at<K: Resource>(object: &K) -> Option<&String> {
    object.meta().annotations.as_ref()?.get(SYNC_AT_ANNOTATION)
}

#[cfg(test)]
mod tests;
