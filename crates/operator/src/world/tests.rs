//! Who is woken by which change, as a table of changes.
//! What the woken do about it is left to the promise tests.

use std::collections::BTreeSet;

use keyvault_sync_api::constants::CLIENT_ID_ANNOTATION;
use kube::runtime::watcher::Event;
use serde_json::{Value, json};

use super::*;
use crate::wake::Woken;

/// A world without watches, and what its queues hold.
struct Stage {
    world: World,
    writers: Writers,
    woken: Woken,
}

fn place() -> Place {
    Place {
        namespace: "operators".into(),
        served: None,
        service_accounts: Vec::new(),
        selector: Selector::default(),
        installation: "operators.keyvault-sync".parse().unwrap(),
    }
}

impl Stage {
    fn new() -> Self {
        let service_accounts = vec!["keyvault".to_owned()];
        Self::at(Place { service_accounts, ..place() })
    }

    fn at(place: Place) -> Self {
        let (wake, woken) = Wake::new();
        wake.rouse();
        let (world, writers) = World::empty(&place, wake);
        world.is_filled.store(true, Ordering::Release);
        let mut stage = Self { world, writers, woken };
        stage.furnish();
        stage.drain();
        stage
    }

    /// Wishes in two namespaces and over all of them, and the claims of two of them.
    fn furnish(&mut self) {
        let listed = json!({"certificates": [{"secretName": "listed"}]});
        for (namespace, name, spec) in [
            ("web", "lists", listed),
            ("web", "selects", json!({"selector": {}})),
            ("shop", "far", json!({"selector": {}})),
        ] {
            self.sync(namespace, name, spec);
        }
        self.cluster_sync("all");
        self.claim(
            "listed-claim",
            json!({"kind": "KeyVaultSync", "namespace": "web", "name": "lists", "uid": "lists"}),
            &["web/listed"],
        );
        let cluster = json!({"kind": "ClusterKeyVaultSync", "name": "all", "uid": "all"});
        self.claim("shared-claim", cluster, &["web/shared", "shop/shared"]);
    }

    fn sync(&mut self, namespace: &str, name: &str, mut spec: Value) {
        spec["vaultRef"] = json!({"name": "contoso"});
        let sync: KeyVaultSync = object("KeyVaultSync", meta(namespace, name, json!({})), spec);
        apply(&mut self.writers.syncs, sync, |change| self.world.on_sync(&change));
    }

    fn cluster_sync(&mut self, name: &str) {
        let spec = json!({"vaultRef": {"name": "contoso"}, "selector": {}});
        let sync: ClusterKeyVaultSync = object("ClusterKeyVaultSync", meta("", name, json!({})), spec);
        apply(&mut self.writers.cluster_syncs, sync, |change| self.world.on_cluster_sync(&change));
    }

    fn claim(&mut self, name: &str, owner: Value, sources: &[&str]) {
        let sources = sources.iter().filter_map(|source| source.split_once('/'));
        let sources: Value =
            sources.map(|(namespace, name)| json!({"namespace": namespace, "secretName": name})).collect();
        let spec = json!({
            "vaultHost": "contoso.vault.azure.net", "keyVault": "contoso", "certificateName": name,
            "clusterId": "c1", "owner": owner, "sources": sources,
        });
        let claim: KeyVaultCertificate = object("KeyVaultCertificate", meta("", name, json!({})), spec);
        apply(&mut self.writers.claims, claim, |change| self.world.on_claim(&change));
    }

    fn vault(&mut self, name: &str, identity: Value) {
        let spec = json!({"url": "https://contoso.vault.azure.net", "identity": identity});
        let vault: KeyVault = object("KeyVault", meta("", name, json!({"generation": 2})), spec);
        apply(&mut self.writers.vaults, vault, |change| self.world.on_vault(&change));
    }

    fn account(&mut self, namespace: &str, name: &str, more: Value) {
        let account: AccountMeta = metadata("ServiceAccount", meta(namespace, name, more));
        let (_, writer) = &mut self.writers.accounts[0];
        apply(writer, account, |change| self.world.on_account(&change));
    }

    fn secret(&mut self, is_tls: bool, name: &str, more: Value) {
        self.secret_in("web", is_tls, name, more);
    }

    fn secret_in(&mut self, namespace: &str, is_tls: bool, name: &str, more: Value) {
        let secret: SecretMeta = metadata("Secret", meta(namespace, name, more));
        if is_tls {
            apply(&mut self.writers.tls_secrets, secret, |change| self.world.on_tls_secret(&change));
        } else {
            apply(&mut self.writers.other_secrets, secret, |change| self.world.on_other_secret(&change));
        }
    }

    fn secret_gone(&mut self, is_tls: bool, name: &str) {
        let secret: SecretMeta = metadata("Secret", meta("web", name, json!({})));
        if is_tls {
            remove_from(&mut self.writers.tls_secrets, secret, |change| self.world.on_tls_secret(&change));
        } else {
            remove_from(&mut self.writers.other_secrets, secret, |change| {
                self.world.on_other_secret(&change)
            });
        }
    }

    fn namespace(&mut self, more: Value) {
        let namespace: NamespaceMeta = metadata("Namespace", meta("", "web", more));
        apply(&mut self.writers.namespaces, namespace, |change| self.world.on_namespace(&change));
    }

    fn namespace_gone(&mut self) {
        let namespace: NamespaceMeta = metadata("Namespace", meta("", "web", json!({})));
        remove_from(&mut self.writers.namespaces, namespace, |change| self.world.on_namespace(&change));
    }

    /// The names of all that was woken since the last call.
    fn drain(&mut self) -> BTreeSet<String> {
        let mut names = BTreeSet::new();
        while let Ok(one) = self.woken.syncs.receiver.try_recv() {
            names.insert(one.name);
        }
        while let Ok(one) = self.woken.cluster_syncs.receiver.try_recv() {
            names.insert(one.name);
        }
        while let Ok(one) = self.woken.claims.receiver.try_recv() {
            names.insert(one.name);
        }
        while let Ok(one) = self.woken.vaults.receiver.try_recv() {
            names.insert(format!("vault {}", one.name));
        }
        while let Ok(one) = self.woken.orphans.receiver.try_recv() {
            names.insert(format!("orphan {}", one.name));
        }
        names
    }
}

/// `more` may give another resourceVersion, labels, annotations.
fn meta(namespace: &str, name: &str, more: Value) -> Value {
    let mut meta = json!({"name": name, "uid": name, "resourceVersion": "1", "generation": 1});
    if !namespace.is_empty() {
        meta["namespace"] = json!(namespace);
    }
    for (key, value) in more.as_object().unwrap() {
        meta[key] = value.clone();
    }
    meta
}

fn object<K: DeserializeOwned>(kind: &str, metadata: Value, spec: Value) -> K {
    let whole = json!({
        "apiVersion": "keyvaultsync.io/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec,
    });
    serde_json::from_value(whole).unwrap()
}

fn metadata<K: DeserializeOwned>(kind: &str, metadata: Value) -> K {
    serde_json::from_value(json!({"apiVersion": "v1", "kind": kind, "metadata": metadata})).unwrap()
}

fn apply<K>(writer: &mut Writer<K>, object: K, tell: impl FnOnce(Change<K>))
where
    K: Resource<DynamicType = ()> + Clone + 'static,
{
    let before = writer.as_reader().get(&ObjectRef::from_obj(&object));
    writer.apply_watcher_event(&Event::Apply(object.clone()));
    tell(Change::Applied { before, now: Arc::new(object) });
}

fn remove_from<K>(writer: &mut Writer<K>, object: K, tell: impl FnOnce(Change<K>))
where
    K: Resource<DynamicType = ()> + Clone + 'static,
{
    writer.apply_watcher_event(&Event::Delete(object.clone()));
    tell(Change::Gone(Arc::new(object)));
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn a_secret_wakes_the_claims_that_name_it_and_the_wishes_whose_rows_it_can_change() {
    let renewed = || json!({"resourceVersion": "2"});
    let labelled = || json!({"resourceVersion": "3", "labels": {"sync": "true"}});
    let annotated = || json!({"resourceVersion": "4", "labels": {"sync": "true"}, "annotations": {"a": "b"}});
    let anew = || json!({"resourceVersion": "5", "uid": "another"});
    type Deed = (&'static str, bool, Option<Value>, &'static [&'static str]);
    let deeds: [Deed; 14] = [
        ("unnamed", true, Some(json!({})), &["selects", "all"]),
        ("unnamed", true, Some(json!({})), &[]),
        ("unnamed", true, Some(renewed()), &[]),
        ("unnamed", true, Some(labelled()), &["selects", "all"]),
        ("unnamed", true, Some(annotated()), &["selects", "all"]),
        ("unnamed", true, Some(anew()), &["selects", "all"]),
        ("unnamed", true, None, &["selects", "all"]),
        ("unnamed", false, Some(json!({})), &[]),
        ("listed", false, Some(json!({})), &["listed-claim", "lists"]),
        ("listed", false, Some(renewed()), &["listed-claim"]),
        ("listed", false, None, &["listed-claim", "lists"]),
        ("shared", true, Some(json!({})), &["shared-claim", "selects", "all"]),
        ("shared", true, Some(renewed()), &["shared-claim"]),
        ("shared", false, Some(json!({})), &["shared-claim", "all"]),
    ];
    let mut stage = Stage::new();
    for (step, (name, is_tls, deed, woken)) in deeds.into_iter().enumerate() {
        match deed {
            Some(more) => stage.secret(is_tls, name, more),
            None => stage.secret_gone(is_tls, name),
        }
        assert_eq!(stage.drain(), set(woken), "step {step}: {name}");
    }
}

#[test]
fn a_secret_of_the_operators_own_namespace_wakes_the_vaults_that_it_opens_and_who_uses_them() {
    let users = set(&["vault contoso", "lists", "selects", "far", "all", "listed-claim", "shared-claim"]);
    let guid = "11111111-2222-4333-8444-555555555555";
    let principal = json!({"tenantId": guid, "clientId": guid, "clientSecretRef": {"name": "app"}});
    let certificate = json!({"tenantId": guid, "clientId": guid, "secretRef": {"name": "app"}});
    for identity in [json!({"servicePrincipal": principal}), json!({"clientCertificate": certificate})] {
        let mut stage = Stage::new();
        stage.vault("contoso", identity);
        stage.drain();
        for (step, (namespace, name, version, is_told)) in [
            ("operators", "app", "1", true),
            ("operators", "app", "1", false),
            ("operators", "app", "2", true),
            ("operators", "other", "1", false),
            ("elsewhere", "app", "1", false),
        ]
        .into_iter()
        .enumerate()
        {
            stage.secret_in(namespace, false, name, json!({"resourceVersion": version}));
            let mut woken = stage.drain();
            woken.retain(|name| users.contains(name));
            assert_eq!(woken, if is_told { users.clone() } else { BTreeSet::new() }, "step {step}");
        }
    }
}

#[test]
fn a_service_account_wakes_the_claims_of_its_namespace_through_the_vaults_that_it_opens() {
    let mut stage = Stage::new();
    stage.account("web", "keyvault", json!({}));
    assert_eq!(stage.drain(), set(&[]), "it opens nothing");
    stage.vault("contoso", json!({"serviceAccount": {"name": "keyvault"}}));
    stage.drain();
    let annotated = |id: &str| json!({"annotations": {CLIENT_ID_ANNOTATION: id}});
    for (step, (namespace, more, woken)) in [
        ("web", json!({"labels": {"a": "b"}}), &[][..]),
        ("web", annotated("1"), &["listed-claim"]),
        ("web", annotated("1"), &[]),
        ("web", annotated("2"), &["listed-claim"]),
        ("web", json!({"uid": "anew", "annotations": {CLIENT_ID_ANNOTATION: "2"}}), &["listed-claim"]),
        ("shop", annotated("1"), &[]),
    ]
    .into_iter()
    .enumerate()
    {
        stage.account(namespace, "keyvault", more);
        assert_eq!(stage.drain(), set(woken), "step {step}");
    }
    assert!(stage.world.service_account("web", "keyvault").is_some());
    assert!(stage.world.service_account("web", "default").is_none());
}

#[test]
fn claims_of_namespaces_that_are_not_served_are_nobodys_orphans_here() {
    let mut stage = Stage::at(Place { served: Some(vec!["shop".to_owned()]), ..place() });
    for (owner, woken) in [
        (
            json!({"kind": "KeyVaultSync", "namespace": "web", "name": "gone", "uid": "x"}),
            &["gone", "one"][..],
        ),
        (json!({"kind": "ClusterKeyVaultSync", "name": "over", "uid": "x"}), &["over"]),
        (
            json!({"kind": "KeyVaultSync", "namespace": "shop", "name": "theirs", "uid": "x"}),
            &["theirs", "orphan one"],
        ),
    ] {
        stage.claim("one", owner.clone(), &["web/x"]);
        let mut woken_now = stage.drain();
        // Whose it was before is woken too.
        woken_now.retain(|name| woken.contains(&name.as_str()) || name.starts_with("orphan"));
        assert_eq!(woken_now, set(woken), "{owner}");
    }
}

#[test]
fn a_namespace_wakes_its_wishes_those_over_namespaces_and_the_claims_with_secrets_in_it() {
    let mut stage = Stage::new();
    let concerned = set(&["lists", "selects", "all", "listed-claim", "shared-claim"]);
    let steps = [
        (Some(json!({})), true),
        (Some(json!({"resourceVersion": "2", "annotations": {"a": "b"}})), false),
        (Some(json!({"resourceVersion": "3", "labels": {"team": "web"}})), true),
        (
            Some(json!({
                "resourceVersion": "4", "labels": {"team": "web"}, "deletionTimestamp": "2026-01-01T00:00:00Z",
            })),
            true,
        ),
        (None, true),
    ];
    for (step, (deed, is_told)) in steps.into_iter().enumerate() {
        match deed {
            Some(more) => stage.namespace(more),
            None => stage.namespace_gone(),
        }
        assert_eq!(stage.drain(), if is_told { concerned.clone() } else { BTreeSet::new() }, "step {step}");
    }
}

#[test]
fn a_claim_wakes_its_owner_of_either_kind_or_who_looks_for_one() {
    let mut stage = Stage::new();
    let cluster = |uid: &str| json!({"kind": "ClusterKeyVaultSync", "name": "all", "uid": uid});
    for (owner, woken) in [
        (cluster("all"), &["one", "all"][..]),
        (cluster("before"), &["all", "orphan one"]),
        // Whose it was is woken too.
        (json!({"kind": "ClusterKeyVaultSync", "name": "none", "uid": "x"}), &["orphan one", "none", "all"]),
        // The same name in another kind is another owner.
        (
            json!({"kind": "KeyVaultSync", "namespace": "web", "name": "all", "uid": "all"}),
            &["orphan one", "all", "none"],
        ),
    ] {
        stage.claim("one", owner.clone(), &["web/x"]);
        assert_eq!(stage.drain(), set(woken), "{owner}");
    }
    let key = WisherKey { kind: OwnerKind::KeyVaultSync, namespace: "web".into(), name: "all".into() };
    assert_eq!(stage.world.claims_of(&key).len(), 1);
    let cluster =
        WisherKey { kind: OwnerKind::ClusterKeyVaultSync, namespace: String::new(), name: "all".into() };
    assert_eq!(stage.world.claims_of(&cluster).len(), 1, "only the shared one is left");
}

#[test]
fn a_wish_that_goes_leaves_its_claims_to_who_looks_for_their_owner() {
    let mut stage = Stage::new();
    let spec = json!({"vaultRef": {"name": "contoso"}, "selector": {}});
    let gone: ClusterKeyVaultSync = object("ClusterKeyVaultSync", meta("", "all", json!({})), spec);
    remove_from(&mut stage.writers.cluster_syncs, gone, |change| stage.world.on_cluster_sync(&change));
    assert_eq!(stage.drain(), set(&["orphan shared-claim"]));
    stage.secret(true, "new", json!({}));
    assert_eq!(stage.drain(), set(&["selects"]), "it is woken no more");
}

#[test]
fn who_waits_for_a_name_is_woken_when_the_claim_changes_hands_or_goes() {
    let mut stage = Stage::new();
    let cluster =
        WisherKey { kind: OwnerKind::ClusterKeyVaultSync, namespace: String::new(), name: "all".into() };
    stage.world.is_loser("listed-claim", cluster);
    let owner = json!({"kind": "KeyVaultSync", "namespace": "web", "name": "selects", "uid": "selects"});
    stage.claim("listed-claim", owner, &["web/listed"]);
    assert!(stage.drain().contains("all"));
    let claim = stage.world.claim("listed-claim").unwrap();
    remove_from(&mut stage.writers.claims, KeyVaultCertificate::clone(&claim), |change| {
        stage.world.on_claim(&change)
    });
    assert_eq!(stage.drain(), set(&["all", "selects"]));
    assert!(stage.world.losers_of("listed-claim").is_empty());
}
