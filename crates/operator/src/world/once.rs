//! The world seen once instead of watched: every kind is listed through the stores that watches fill otherwise, and what is not
//! applied yet stands in it as if it were. What is made of it is left to the tools for the hand.

use std::fmt::Debug;
use std::sync::Arc;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::ListParams;
use kube::core::PartialObjectMetaExt;
use kube::runtime::watcher::Event;

use super::*;
use crate::kubernetes::{CallError, list};

/// What is looked at.
#[derive(Clone, Debug)]
pub(crate) enum Sight {
    /// Resources and Secrets of these namespaces.
    Namespaces(BTreeSet<String>),
    /// Everything there is.
    Cluster,
}

/// Resources that are not applied yet, or not in this edition.
#[derive(Clone, Debug, Default)]
pub(crate) struct Unapplied {
    /// The wishes of namespaces.
    pub syncs: Vec<KeyVaultSync>,
    /// The wishes over namespaces.
    pub cluster_syncs: Vec<ClusterKeyVaultSync>,
    /// The vaults.
    pub vaults: Vec<KeyVault>,
}

/// A world that was seen once, and in which one may imagine claims.
pub(crate) struct Seen {
    /// The world.
    pub world: Arc<World>,
    claims: Writer<KeyVaultCertificate>,
}

impl Seen {
    /// From now on the world has this claim, or this edition of it.
    pub(crate) fn imagine(&mut self, claim: KeyVaultCertificate) {
        let before = self.world.claim(&claim.name_any());
        let now = Arc::new(claim.clone());
        self.claims.apply_watcher_event(&Event::Apply(claim));
        self.world.on_claim(&Change::Applied { before, now });
    }
}

/// Looks at the cluster.
///
/// # Errors
/// Something may not be seen or the API server does not answer.
pub(crate) async fn see(
    client: &Client,
    place: &Place,
    sight: &Sight,
    unapplied: Unapplied,
) -> Result<Seen, CallError> {
    // Nobody listens.
    let (wake, _) = Wake::new();
    let (world, mut writers) = World::empty(place, wake);
    let looking = Looking { client, sight };
    let tls = ListParams::default().fields(TLS_SECRETS);
    let other = ListParams::default().fields(OTHER_SECRETS);

    let vaults = with(looking.everywhere("KeyVaults").await?, unapplied.vaults, same_vault);
    let syncs = with(looking.in_sight("KeyVaultSyncs").await?, unapplied.syncs, same_sync);
    let claims = looking.everywhere("KeyVaultCertificates").await?;
    let cluster_syncs = match sight {
        Sight::Cluster => looking.everywhere("ClusterKeyVaultSyncs").await?,
        Sight::Namespaces(_) => Vec::new(),
    };
    let cluster_syncs = with(cluster_syncs, unapplied.cluster_syncs, same_cluster_sync);
    let tls = looking.in_sight_with("TLS Secrets", tls).await?;
    let mut others = looking.in_sight_with("other Secrets", other.clone()).await?;
    others.extend(looking.credentials(place, &vaults, other).await?);
    others.extend(looking.credentials(place, &vaults, ListParams::default().fields(TLS_SECRETS)).await?);
    fill(&world, looking.namespaces().await?, &mut writers.namespaces, trim_namespace, World::on_namespace);
    fill(&world, tls, &mut writers.tls_secrets, trim_secret, World::on_tls_secret);
    fill(&world, others, &mut writers.other_secrets, trim_secret, World::on_other_secret);
    let opens = |vault: &KeyVault| {
        vault.spec.identity.as_ref().is_some_and(|identity| identity.service_account.is_some())
    };
    let by_accounts = vaults.iter().any(opens);
    // Who may not see ServiceAccounts is not asked to where no vault is opened by one.
    for (name, mut writer) in writers.accounts.into_iter().filter(|_| by_accounts) {
        let fields = if name == ANY { String::new() } else { format!("metadata.name={name}") };
        let accounts = looking.in_sight_with(ACCOUNTS, ListParams::default().fields(&fields)).await?;
        fill(&world, accounts, &mut writer, trim_account, World::on_account);
    }
    fill(&world, vaults, &mut writers.vaults, trim, World::on_vault);
    fill(&world, claims, &mut writers.claims, trim, World::on_claim);
    fill(&world, syncs, &mut writers.syncs, trim, World::on_sync);
    fill(&world, cluster_syncs, &mut writers.cluster_syncs, trim, World::on_cluster_sync);
    Ok(Seen { world: Arc::new(world), claims: writers.claims })
}

/// A world with one vault in it and what it is opened with, as a namespace uses it.
///
/// # Errors
/// As `see`.
pub(crate) async fn around(
    client: &Client,
    place: &Place,
    vault: KeyVault,
    namespace: &str,
) -> Result<Seen, CallError> {
    let (wake, _) = Wake::new();
    let (world, mut writers) = World::empty(place, wake);
    let sight = Sight::Namespaces(BTreeSet::from([namespace.to_owned()]));
    let nothing = Sight::Namespaces(BTreeSet::new());
    let other = ListParams::default().fields(OTHER_SECRETS);
    let tls = ListParams::default().fields(TLS_SECRETS);
    let vaults = [vault];
    let credentials = Looking { client, sight: &nothing };
    let mut secrets = credentials.credentials(place, &vaults, other).await?;
    secrets.extend(credentials.credentials(place, &vaults, tls).await?);
    fill(&world, secrets, &mut writers.other_secrets, trim_secret, World::on_other_secret);
    let [vault] = vaults;
    let account = vault.spec.identity.as_ref().and_then(|identity| identity.service_account.as_ref());
    if let Some(account) = account {
        let only = ListParams::default().fields(&format!("metadata.name={}", account.name));
        let accounts: Vec<AccountMeta> =
            Looking { client, sight: &sight }.in_sight_with(ACCOUNTS, only).await?;
        let is_allowed = |allowed: &String| allowed == ANY || *allowed == account.name;
        for (_, writer) in writers.accounts.iter_mut().filter(|(allowed, _)| is_allowed(allowed)) {
            fill(&world, accounts.clone(), writer, trim_account, World::on_account);
        }
    }
    fill(&world, vec![vault], &mut writers.vaults, trim, World::on_vault);
    Ok(Seen { world: Arc::new(world), claims: writers.claims })
}

struct Looking<'a> {
    client: &'a Client,
    sight: &'a Sight,
}

impl Looking<'_> {
    async fn everywhere<K>(&self, what: &'static str) -> Result<Vec<K>, CallError>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
    {
        list(what, &kube::Api::<K>::all(self.client.clone()), ListParams::default()).await
    }

    async fn in_sight<K>(&self, what: &'static str) -> Result<Vec<K>, CallError>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
    {
        self.in_sight_with(what, ListParams::default()).await
    }

    async fn in_sight_with<K>(&self, what: &'static str, params: ListParams) -> Result<Vec<K>, CallError>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
    {
        let Sight::Namespaces(namespaces) = self.sight else {
            return list(what, &kube::Api::<K>::all(self.client.clone()), params).await;
        };
        let mut all = Vec::new();
        for namespace in namespaces {
            let api = kube::Api::<K>::namespaced(self.client.clone(), namespace);
            all.extend(list(what, &api, params.clone()).await?);
        }
        Ok(all)
    }

    /// The namespaces in sight; one that is not there is none.
    async fn namespaces(&self) -> Result<Vec<NamespaceMeta>, CallError> {
        let Sight::Namespaces(names) = self.sight else { return self.everywhere("Namespaces").await };
        let reader = crate::kubernetes::Reader::new(self.client.clone());
        let mut all = Vec::new();
        for name in names {
            match reader.get::<NamespaceMeta>("a namespace", name).await {
                Ok(found) => all.push(found),
                Err(error) if error.says_missing(name) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(all)
    }

    /// The Secrets that vaults are opened with, where they are not in sight. Where they may not be seen, those that are named count as
    /// there: that one cannot be read is met when the vault is opened.
    async fn credentials(
        &self,
        place: &Place,
        vaults: &[KeyVault],
        params: ListParams,
    ) -> Result<Vec<SecretMeta>, CallError> {
        let named: BTreeSet<&str> = vaults.iter().flat_map(identity::secrets).collect();
        let is_in_sight = match self.sight {
            Sight::Cluster => true,
            Sight::Namespaces(namespaces) => namespaces.contains(&place.namespace),
        };
        if is_in_sight || named.is_empty() {
            return Ok(Vec::new());
        }
        let api = kube::Api::<SecretMeta>::namespaced(self.client.clone(), &place.namespace);
        match list("the Secrets of identities", &api, params).await {
            Err(error) if error.status().is_some_and(|status| status.code == 403) => {
                Ok(named.into_iter().map(|name| unseen(&place.namespace, name)).collect())
            }
            answer => answer,
        }
    }
}

fn unseen(namespace: &str, name: &str) -> SecretMeta {
    let metadata = ObjectMeta {
        namespace: Some(namespace.to_owned()),
        name: Some(name.to_owned()),
        uid: Some("unseen".to_owned()),
        resource_version: Some("unseen".to_owned()),
        ..ObjectMeta::default()
    };
    metadata.into_response_partial()
}

fn fill<K>(
    world: &World,
    objects: Vec<K>,
    writer: &mut Writer<K>,
    trim: fn(&mut K),
    tell: fn(&World, &Change<K>),
) where
    K: Resource<DynamicType = ()> + Clone + 'static,
{
    writer.apply_watcher_event(&Event::Init);
    let mut all = Vec::new();
    for mut object in objects {
        trim(&mut object);
        all.push(Arc::new(object.clone()));
        writer.apply_watcher_event(&Event::InitApply(object));
    }
    writer.apply_watcher_event(&Event::InitDone);
    all.into_iter().for_each(|now| tell(world, &Change::Applied { before: None, now }));
}

/// The objects there would be if those of a file were applied.
fn with<K: Resource<DynamicType = ()>>(
    mut there: Vec<K>,
    unapplied: Vec<K>,
    replace: fn(K, K) -> K,
) -> Vec<K> {
    for mut object in unapplied {
        let is_it = |one: &K| {
            one.meta().name == object.meta().name && one.meta().namespace == object.meta().namespace
        };
        match there.iter().position(is_it) {
            Some(index) => {
                let before = there.swap_remove(index);
                there.push(replace(before, object));
            }
            None => {
                let meta = object.meta_mut();
                meta.uid = Some(format!(
                    "not-applied/{}/{}/{}",
                    K::kind(&()),
                    meta.namespace.as_deref().unwrap_or_default(),
                    meta.name.as_deref().unwrap_or_default()
                ));
                meta.creation_timestamp = Some(Time(Timestamp::now()));
                meta.generation = Some(1);
                there.push(object);
            }
        }
    }
    there
}

fn same_vault(before: KeyVault, now: KeyVault) -> KeyVault {
    let is_other = before.spec != now.spec;
    KeyVault { metadata: edited(before.metadata, now.metadata, is_other), status: before.status, ..now }
}

fn same_sync(before: KeyVaultSync, now: KeyVaultSync) -> KeyVaultSync {
    let is_other = before.spec != now.spec;
    KeyVaultSync { metadata: edited(before.metadata, now.metadata, is_other), status: before.status, ..now }
}

fn same_cluster_sync(before: ClusterKeyVaultSync, now: ClusterKeyVaultSync) -> ClusterKeyVaultSync {
    let is_other = before.spec != now.spec;
    let metadata = edited(before.metadata, now.metadata, is_other);
    ClusterKeyVaultSync { metadata, status: before.status, ..now }
}

/// Metadata as it is after an apply.
fn edited(before: ObjectMeta, now: ObjectMeta, is_other: bool) -> ObjectMeta {
    let annotations = merged(before.annotations, now.annotations);
    let labels = merged(before.labels, now.labels);
    let generation = before.generation.map(|generation| generation + i64::from(is_other));
    ObjectMeta { annotations, labels, generation, ..before }
}

type Marks = Option<std::collections::BTreeMap<String, String>>;

fn merged(before: Marks, now: Marks) -> Marks {
    let all: std::collections::BTreeMap<_, _> =
        before.into_iter().flatten().chain(now.into_iter().flatten()).collect();
    (!all.is_empty()).then_some(all)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn vault(name: &str, url: &str, meta: serde_json::Value) -> KeyVault {
        let mut object = json!({"metadata": meta, "spec": {"url": url}});
        object["metadata"]["name"] = json!(name);
        serde_json::from_value(object).unwrap()
    }

    #[test]
    fn what_is_applied_keeps_who_it_is_and_becomes_another_edition_only_by_its_specification() {
        let meta = json!({"uid": "u1", "generation": 4, "annotations": {"a": "1", "b": "1"}});
        for (url, annotations, generation) in
            [("https://a", json!({}), 4), ("https://b", json!({"b": "2", "c": "2"}), 5)]
        {
            let there = vec![vault("one", "https://a", meta.clone()), vault("two", "https://a", json!({}))];
            let file = vault("one", url, json!({"annotations": annotations}));
            let all = with(there, vec![file], same_vault);
            assert_eq!(all.len(), 2);
            let one = all.iter().find(|vault| vault.name_any() == "one").unwrap();
            assert_eq!(one.spec.url, url);
            assert_eq!((one.uid().as_deref(), one.metadata.generation), (Some("u1"), Some(generation)));
            assert_eq!(one.annotations().get("a").map(String::as_str), Some("1"));
        }
        let all = with(Vec::new(), vec![vault("new", "https://a", json!({}))], same_vault);
        assert_eq!(all[0].metadata.generation, Some(1));
        assert!(all[0].uid().unwrap().starts_with("not-applied/KeyVault/"));
    }
}
