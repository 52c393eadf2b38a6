//! One test's part of a stage: a namespace, a vault and its KeyVault, an issuer; what a user does there, and what he sees.
//! What ought to be seen is left to the tests.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use anyhow::{Context, ensure};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Namespace, Secret};
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::jiff::Timestamp;
use keyvault_emulator::{Call, Emulator, Fault, FaultId, Operation, Permissions, State, StoredVersion};
use keyvault_sync_api::conditions::{self, READY};
use keyvault_sync_api::constants::{GROUP, SYNC_AT_ANNOTATION, VERSION};
use keyvault_sync_api::{
    CertificateState, CertificateStatus, ClusterKeyVaultSync, KeyVault, KeyVaultCertificate, KeyVaultSync,
    KeyVaultSyncStatus,
};
use kube::Resource;
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::certificates::{Authority, Issued, Leaf};
use crate::stage::{CLIENT, Stage, TENANT};
use crate::wait::{self, PATIENCE, Seen};

/// Whose hands a test's are, in managed fields.
const FIELD_MANAGER: &str = "promise-test";

/// One test's part of a stage. Clones are the same part.
#[derive(Clone)]
pub struct Scene {
    stage: Arc<Stage>,
    /// The namespace.
    name: String,
    vault: String,
    issuer: Arc<Authority>,
}

impl Scene {
    /// A part of that name: its namespace, its vault and a KeyVault that grants the namespace every name.
    ///
    /// # Errors
    /// The API server refuses.
    pub async fn on(stage: Arc<Stage>, name: &str) -> anyhow::Result<Scene> {
        let issuer = Arc::new(Authority::root("Example Root")?.intermediate("Example Intermediate")?);
        let scene = Scene { stage, name: name.to_owned(), vault: name.to_owned(), issuer };
        scene.make_namespace(name).await?;
        scene.make_vault(name);
        scene.key_vault(name, scene.open_to_us()).await?;
        Ok(scene)
    }

    /// Another namespace with a vault of its own, on the same stage.
    ///
    /// # Errors
    /// As `on`.
    pub async fn neighbour(&self) -> anyhow::Result<Scene> {
        Scene::on(Arc::clone(&self.stage), &format!("{}-next", self.name)).await
    }

    /// The same namespace, vault and issuer in another cluster: namespace and KeyVault are made there.
    ///
    /// # Errors
    /// The API server refuses.
    pub async fn in_cluster(&self, stage: Arc<Stage>) -> anyhow::Result<Scene> {
        let scene = Scene { stage, ..self.clone() };
        scene.make_namespace(&scene.name).await?;
        scene.key_vault(&scene.vault, scene.open_to_us()).await?;
        Ok(scene)
    }

    /// The same vault and issuer from another namespace, which is made: `<our name>-<suffix>`. No grant names it.
    ///
    /// # Errors
    /// The API server refuses.
    pub async fn tenant(&self, suffix: &str) -> anyhow::Result<Scene> {
        let tenant = Scene { name: format!("{}-{suffix}", self.name), ..self.clone() };
        self.make_namespace(&tenant.name).await?;
        Ok(tenant)
    }

    /// The stage.
    pub fn stage(&self) -> &Stage {
        &self.stage
    }

    /// The vaults.
    pub fn emulator(&self) -> &Emulator {
        &self.stage.emulator
    }

    /// Name of the namespace; of the vault and its KeyVault too, unless this is a tenant's part.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Host of the vault.
    pub fn host(&self) -> String {
        host(&self.vault)
    }

    // What a user or a platform team does.

    /// Makes a namespace.
    ///
    /// # Errors
    /// The API server refuses.
    pub async fn make_namespace(&self, name: &str) -> anyhow::Result<()> {
        self.put(&Api::<Namespace>::all(self.client()), name, &namespace(name)).await.map(drop)
    }

    /// Sets labels of our namespace, a JSON merge patch.
    ///
    /// # Errors
    /// The API server refuses.
    pub async fn label(&self, labels: Value) -> anyhow::Result<()> {
        let patch = Patch::Merge(json!({"metadata": {"labels": labels}}));
        let namespaces = Api::<Namespace>::all(self.client());
        namespaces.patch(&self.name, &PatchParams::default(), &patch).await?;
        Ok(())
    }

    /// Makes a vault in the cloud, empty, with the operator's identity as Key Vault Certificates Officer.
    pub fn make_vault(&self, name: &str) {
        self.emulator().add_vault(&host(name), TENANT);
        self.emulator().allow(&host(name), CLIENT, Permissions::certificates_officer());
    }

    /// Applies a KeyVault with that specification.
    ///
    /// # Errors
    /// The API server refuses.
    pub async fn key_vault(&self, name: &str, spec: Value) -> anyhow::Result<KeyVault> {
        self.put(&self.key_vaults(), name, &resource("KeyVault", None, name, spec)).await
    }

    /// The specification of our KeyVault: every name for our namespace, and compared so seldom that no test which counts calls
    /// meets a comparison by chance.
    pub fn open_to_us(&self) -> Value {
        json!({
            "url": format!("https://{}", self.host()),
            "grants": [self.grant(&["*"])],
            "resyncInterval": "24h",
        })
    }

    /// The same, and any certificate that is there may be adopted.
    pub fn open_to_adopt(&self) -> Value {
        let mut vault = self.open_to_us();
        vault["grants"][0]["adopt"] = json!(["*"]);
        vault
    }

    /// A grant of names to our namespace.
    pub fn grant(&self, push: &[&str]) -> Value {
        json!({"namespaces": {"names": [self.name]}, "push": push})
    }

    /// Applies a KeyVaultSync of our namespace. Without `vaultRef` it refers to our KeyVault.
    ///
    /// # Errors
    /// The API server refuses.
    pub async fn sync(&self, name: &str, mut spec: Value) -> anyhow::Result<KeyVaultSync> {
        if spec["vaultRef"].is_null() {
            spec["vaultRef"] = json!({"name": self.vault});
        }
        self.put(&self.syncs(), name, &resource("KeyVaultSync", Some(&self.name), name, spec)).await
    }

    /// Applies a ClusterKeyVaultSync. Without `vaultRef` it refers to our KeyVault; without `namespaceSelector` it is for the
    /// namespaces of this test alone.
    ///
    /// # Errors
    /// The API server refuses.
    pub async fn cluster_sync(&self, name: &str, mut spec: Value) -> anyhow::Result<ClusterKeyVaultSync> {
        if spec["vaultRef"].is_null() {
            spec["vaultRef"] = json!({"name": self.vault});
        }
        if spec["namespaceSelector"].is_null() {
            spec["namespaceSelector"] = json!({"names": [self.vault, format!("{}-*", self.vault)]});
        }
        self.put(&self.cluster_syncs(), name, &resource("ClusterKeyVaultSync", None, name, spec)).await
    }

    /// A KeyVaultSync of these Secrets under their own names.
    ///
    /// # Errors
    /// The API server refuses.
    pub async fn sync_of(&self, name: &str, secrets: &[&str]) -> anyhow::Result<KeyVaultSync> {
        let certificates: Vec<Value> = secrets.iter().map(|secret| json!({"secretName": secret})).collect();
        self.sync(name, json!({"certificates": certificates})).await
    }

    /// Asks for a comparison of a KeyVaultSync now.
    ///
    /// # Errors
    /// The API server refuses.
    pub async fn sync_now(&self, name: &str, when: &str) -> anyhow::Result<()> {
        let patch = json!({"metadata": {"annotations": {SYNC_AT_ANNOTATION: when}}});
        self.syncs().patch(name, &PatchParams::default(), &Patch::Merge(patch)).await?;
        Ok(())
    }

    /// Asks for a comparison of all that goes through our KeyVault now.
    ///
    /// # Errors
    /// The API server refuses.
    pub async fn vault_now(&self, when: &str) -> anyhow::Result<()> {
        let patch = json!({"metadata": {"annotations": {SYNC_AT_ANNOTATION: when}}});
        self.key_vaults().patch(&self.vault, &PatchParams::default(), &Patch::Merge(patch)).await?;
        Ok(())
    }

    /// Asks for a comparison of a KeyVaultSync now, and waits until each of these certificates was compared.
    ///
    /// # Errors
    /// One was not.
    pub async fn compare(&self, sync: &str, when: &str, certificates: &[&str]) -> anyhow::Result<()> {
        self.sync_now(sync, when).await?;
        for certificate in certificates {
            self.compared(certificate, when).await?;
        }
        Ok(())
    }

    /// Asks for a comparison of a ClusterKeyVaultSync now, and waits until each of these certificates was compared.
    ///
    /// # Errors
    /// One was not.
    pub async fn cluster_compare(&self, sync: &str, when: &str, certificates: &[&str]) -> anyhow::Result<()> {
        let patch = json!({"metadata": {"annotations": {SYNC_AT_ANNOTATION: when}}});
        self.cluster_syncs().patch(sync, &PatchParams::default(), &Patch::Merge(patch)).await?;
        for certificate in certificates {
            self.compared(certificate, when).await?;
        }
        Ok(())
    }

    /// Waits until a certificate was compared as it was asked for with `when`.
    ///
    /// # Errors
    /// It was not.
    pub async fn compared(&self, certificate: &str, when: &str) -> anyhow::Result<KeyVaultCertificate> {
        let (claims, name) = (self.claims(), self.claim_name(certificate));
        wait::object(&claims, &name, &format!("to be compared as of {when}"), |claim| {
            let is_asked = claim.spec.sync_at.as_ref().is_some_and(|asked| asked.contains(when));
            let observed = claim.status.as_ref().and_then(|status| status.observed_generation);
            is_asked && observed == claim.metadata.generation
        })
        .await
    }

    /// Issues a leaf with a new key, as cert-manager does; nothing of the key may turn up anywhere from now on.
    ///
    /// # Errors
    /// The random source fails.
    pub fn issue(&self, leaf: &Leaf) -> anyhow::Result<Issued> {
        let issued = self.issuer.issue(leaf)?;
        self.stage.guard(&issued.key);
        Ok(issued)
    }

    /// Issues another leaf for the key of one that was issued.
    ///
    /// # Errors
    /// A name is not ASCII.
    pub fn issue_again(&self, leaf: &Leaf, issued: &Issued) -> anyhow::Result<Issued> {
        self.issuer.issue_again(leaf, issued)
    }

    /// Writes a new certificate into a Secret of ours, as cert-manager does at issue and renewal.
    ///
    /// # Errors
    /// The API server refuses.
    pub async fn renew(&self, secret: &str) -> anyhow::Result<Issued> {
        let issued = self.issue(&Leaf::server(&format!("{secret}.example.com")))?;
        self.put_issued(secret, &issued).await?;
        Ok(issued)
    }

    /// Writes a new certificate into each of these Secrets of ours.
    ///
    /// # Errors
    /// The API server refuses.
    pub async fn renew_all(&self, secrets: &[&str]) -> anyhow::Result<Vec<Issued>> {
        futures::future::try_join_all(secrets.iter().map(|secret| self.renew(secret))).await
    }

    /// Sets labels and annotations of a Secret of ours, a JSON merge patch each.
    ///
    /// # Errors
    /// The API server refuses.
    pub async fn mark(&self, secret: &str, labels: Value, annotations: Value) -> anyhow::Result<()> {
        let patch = Patch::Merge(json!({"metadata": {"labels": labels, "annotations": annotations}}));
        self.secrets().patch(secret, &PatchParams::default(), &patch).await?;
        Ok(())
    }

    /// Puts a certificate into our vault as another program would, with these tags; its version.
    ///
    /// # Errors
    /// It is no PEM.
    pub fn put_by_others(
        &self,
        certificate: &str,
        issued: &Issued,
        tags: &[(&str, &str)],
    ) -> anyhow::Result<String> {
        let tags = tags.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let pfx = issued.pfx("password")?;
        Ok(self.emulator().put_certificate(&self.host(), certificate, &pfx, "password", tags))
    }

    /// Writes that certificate into a Secret of ours.
    ///
    /// # Errors
    /// The API server refuses.
    pub async fn put_issued(&self, secret: &str, issued: &Issued) -> anyhow::Result<()> {
        self.put_entries(secret, &entries(&issued.tls_crt(), &issued.key, &issued.root)).await
    }

    /// Writes a `kubernetes.io/tls` Secret with just these entries, or an `Opaque` one where that type forbids it.
    ///
    /// # Errors
    /// The API server refuses.
    pub async fn put_entries(&self, secret: &str, data: &BTreeMap<String, String>) -> anyhow::Result<()> {
        let is_tls = data.contains_key("tls.crt") && data.contains_key("tls.key");
        self.put_secret(secret, if is_tls { "kubernetes.io/tls" } else { "Opaque" }, data).await
    }

    /// Writes a Secret of that type with just these entries.
    ///
    /// # Errors
    /// The API server refuses.
    pub async fn put_secret(
        &self,
        secret: &str,
        kind: &str,
        data: &BTreeMap<String, String>,
    ) -> anyhow::Result<()> {
        let data: BTreeMap<String, ByteString> =
            data.iter().map(|(key, text)| (key.clone(), ByteString(text.clone().into_bytes()))).collect();
        let object = json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"namespace": self.name, "name": secret},
            "type": kind,
            "data": data,
        });
        let (params, patch) = (PatchParams::apply(FIELD_MANAGER).force(), Patch::Apply(&object));
        // The object is not in the message: it holds a key.
        let applied = self.secrets().patch(secret, &params, &patch).await;
        applied.map(drop).with_context(|| format!("Secret {secret} is refused"))
    }

    /// Waits until what is made from now on is younger than that Secret of ours: times of creation have whole seconds.
    ///
    /// # Errors
    /// There is no such Secret.
    pub async fn outlive(&self, secret: &str) -> anyhow::Result<()> {
        let created = self.secrets().get_metadata(secret).await?.metadata.creation_timestamp;
        let created = created.context("a Secret without a time of creation")?.0.as_second();
        wait::until(&format!("the second in which Secret {secret} was made to be over"), || async {
            let now = Timestamp::now().as_second();
            Ok(if now > created { Seen::Done(()) } else { Seen::NotYet(format!("{now}")) })
        })
        .await
    }

    /// Deletes an object and waits until it is gone.
    ///
    /// # Errors
    /// The API server refuses, or the object stays.
    pub async fn delete<K>(&self, api: &Api<K>, name: &str) -> anyhow::Result<()>
    where
        K: Resource + Clone + DeserializeOwned + std::fmt::Debug,
    {
        api.delete(name, &DeleteParams::default())
            .await
            .with_context(|| format!("{name} cannot be deleted"))?;
        wait::gone(api, name).await
    }

    /// Deletes our namespace with all that is in it, and waits until it is gone.
    ///
    /// # Errors
    /// The API server refuses, or the namespace stays.
    pub async fn delete_namespace(&self) -> anyhow::Result<()> {
        self.delete(&Api::<Namespace>::all(self.client()), &self.name).await
    }

    /// Injects a fault into calls of our vault about this certificate.
    pub fn fault(&self, certificate: &str, fault: Fault) -> FaultId {
        self.emulator().inject(fault.host(&self.host()).name(certificate))
    }

    // What a user or a platform team sees.

    /// Our KeyVaultSyncs.
    pub fn syncs(&self) -> Api<KeyVaultSync> {
        Api::namespaced(self.client(), &self.name)
    }

    /// All ClusterKeyVaultSyncs.
    pub fn cluster_syncs(&self) -> Api<ClusterKeyVaultSync> {
        Api::all(self.client())
    }

    /// All KeyVaults.
    pub fn key_vaults(&self) -> Api<KeyVault> {
        Api::all(self.client())
    }

    /// All claims.
    pub fn claims(&self) -> Api<KeyVaultCertificate> {
        Api::all(self.client())
    }

    /// Our Secrets.
    pub fn secrets(&self) -> Api<Secret> {
        Api::namespaced(self.client(), &self.name)
    }

    /// Waits until a KeyVaultSync, as its present generation, satisfies `condition`.
    ///
    /// # Errors
    /// It does not: the message has its status.
    pub async fn status(
        &self,
        sync: &str,
        what: &str,
        condition: impl Fn(&KeyVaultSync) -> bool,
    ) -> anyhow::Result<KeyVaultSync> {
        let syncs = self.syncs();
        wait::until(&format!("KeyVaultSync {sync}: {what}"), || async {
            let found = syncs.get(sync).await?;
            let status = found.status.as_ref();
            let is_of_now = status.and_then(|status| status.observed_generation) == found.metadata.generation;
            Ok(if is_of_now && condition(&found) {
                Seen::Done(found)
            } else {
                Seen::NotYet(format!("generation {:?}, {status:#?}", found.metadata.generation))
            })
        })
        .await
    }

    /// Waits until a ClusterKeyVaultSync, as its present generation, satisfies `condition`; its status.
    ///
    /// # Errors
    /// It does not: the message has its status.
    pub async fn cluster_status(
        &self,
        sync: &str,
        what: &str,
        condition: impl Fn(&KeyVaultSyncStatus) -> bool,
    ) -> anyhow::Result<KeyVaultSyncStatus> {
        let syncs = self.cluster_syncs();
        wait::until(&format!("ClusterKeyVaultSync {sync}: {what}"), || async {
            let found = syncs.get(sync).await?;
            let generation = found.metadata.generation;
            let status = found.status.unwrap_or_default();
            Ok(if status.observed_generation == generation && condition(&status) {
                Seen::Done(status)
            } else {
                Seen::NotYet(format!("generation {generation:?}, {status:#?}"))
            })
        })
        .await
    }

    /// Waits until the status of a ClusterKeyVaultSync counts `count` and Ready says True; its status.
    ///
    /// # Errors
    /// It does not.
    pub async fn cluster_synced(&self, sync: &str, count: &str) -> anyhow::Result<KeyVaultSyncStatus> {
        self.cluster_status(sync, &format!("to be Ready with {count}"), |status| {
            status.synced.as_deref() == Some(count) && conditions::is_true(&status.conditions, READY)
        })
        .await
    }

    /// Waits until the row of a Secret of our namespace in a ClusterKeyVaultSync has this reason.
    ///
    /// # Errors
    /// It has another: the message has the status.
    pub async fn cluster_row(
        &self,
        sync: &str,
        secret: &str,
        reason: &str,
    ) -> anyhow::Result<CertificateStatus> {
        let ours = |row: &&CertificateStatus| {
            row.secret_name == secret && row.namespace.as_deref() == Some(self.name.as_str())
        };
        let found = self
            .cluster_status(sync, &format!("Secret {}/{secret} to be {reason}", self.name), |status| {
                status.certificates.iter().find(ours).is_some_and(|row| row.reason == reason)
            })
            .await?;
        found.certificates.iter().find(ours).cloned().context("the row has gone")
    }

    /// Waits until the status of a KeyVaultSync counts `count` and Ready says True.
    ///
    /// # Errors
    /// It does not.
    pub async fn synced(&self, sync: &str, count: &str) -> anyhow::Result<KeyVaultSync> {
        self.status(sync, &format!("to be Ready with {count}"), |sync| {
            let status = sync.status.as_ref();
            status.and_then(|status| status.synced.as_deref()) == Some(count)
                && ready(sync).is_some_and(|ready| ready.status == "True")
        })
        .await
    }

    /// Waits until the row of a Secret has this reason.
    ///
    /// # Errors
    /// It has another: the message has the status.
    pub async fn row(&self, sync: &str, secret: &str, reason: &str) -> anyhow::Result<CertificateStatus> {
        let found = self
            .status(sync, &format!("Secret {secret} to be {reason}"), |sync| {
                row(sync, secret).is_some_and(|row| row.reason == reason)
            })
            .await?;
        row(&found, secret).cloned().context("the row has gone")
    }

    /// Waits until the row of a Secret says that the vault holds this certificate.
    ///
    /// # Errors
    /// It does not.
    pub async fn holds(
        &self,
        sync: &str,
        secret: &str,
        issued: &Issued,
    ) -> anyhow::Result<CertificateStatus> {
        let leaf = thumbprint(issued)?;
        let found = self
            .status(sync, &format!("Secret {secret} with {leaf} to be Synced"), |sync| {
                row(sync, secret).is_some_and(|row| {
                    row.state == CertificateState::Synced && row.thumbprint.as_deref() == Some(&leaf)
                })
            })
            .await?;
        row(&found, secret).cloned().context("the row has gone")
    }

    /// The claim on a certificate of our vault.
    ///
    /// # Errors
    /// There is none.
    pub async fn claim(&self, certificate: &str) -> anyhow::Result<KeyVaultCertificate> {
        let name = self.claim_name(certificate);
        self.claims().get(&name).await.with_context(|| format!("no claim {name}"))
    }

    /// Waits until the names that are claimed in our vault are just these.
    ///
    /// # Errors
    /// They are not: the message has those that are.
    pub async fn claimed(&self, names: &[&str]) -> anyhow::Result<()> {
        let wanted: BTreeSet<&str> = names.iter().copied().collect();
        wait::until(&format!("claims in {} on {wanted:?} alone", self.host()), || async {
            let claims = self.claims().list(&Default::default()).await?.items;
            let ours = claims.iter().filter(|claim| claim.spec.vault_host == self.host());
            let found: BTreeSet<&str> = ours.map(|claim| claim.spec.certificate_name.as_str()).collect();
            Ok(if found == wanted { Seen::Done(()) } else { Seen::NotYet(format!("{found:?}")) })
        })
        .await
    }

    /// The name of that claim.
    pub fn claim_name(&self, certificate: &str) -> String {
        format!("{}.{}", certificate.to_lowercase(), self.host())
    }

    /// The Events about a KeyVaultSync with this reason, and with the claim on this certificate as related object.
    ///
    /// # Errors
    /// The API server does not answer.
    pub async fn events(&self, sync: &str, reason: &str, certificate: &str) -> anyhow::Result<Vec<Event>> {
        let claim = self.claim_name(certificate);
        let of_claim = |event: &Event| {
            event.related.as_ref().is_some_and(|related| related.name.as_ref() == Some(&claim))
        };
        Ok(self
            .events_about(sync)
            .await?
            .into_iter()
            .filter(|event| is(event, reason) && of_claim(event))
            .collect())
    }

    /// All Events about a KeyVaultSync.
    ///
    /// # Errors
    /// The API server does not answer.
    pub async fn events_about(&self, sync: &str) -> anyhow::Result<Vec<Event>> {
        let events = Api::<Event>::namespaced(self.client(), &self.name).list(&Default::default()).await?;
        let about = |event: &Event| {
            event.regarding.as_ref().is_some_and(|regarding| {
                regarding.kind.as_deref() == Some("KeyVaultSync") && regarding.name.as_deref() == Some(sync)
            })
        };
        Ok(events.into_iter().filter(about).collect())
    }

    /// Waits for an Event about a KeyVaultSync with this reason and a text with all of these in it.
    ///
    /// # Errors
    /// There is none: the message has the others.
    pub async fn told(&self, sync: &str, reason: &str, words: &[&str]) -> anyhow::Result<Event> {
        wait::until(&format!("an Event {reason} about {sync} with {words:?}"), || async {
            let events = self.events_about(sync).await?;
            let fits =
                |event: &&Event| is(event, reason) && words.iter().all(|word| note(event).contains(word));
            Ok(match events.iter().find(fits) {
                Some(event) => Seen::Done(event.clone()),
                None => Seen::NotYet(format!(
                    "{:?}",
                    events.iter().map(|event| (&event.reason, note(event))).collect::<Vec<_>>()
                )),
            })
        })
        .await
    }

    /// Waits for an Event about a KeyVaultSync with this reason and a text with all of these in it, and with the claim on this
    /// certificate as related object.
    ///
    /// # Errors
    /// There is none: the message has those of that reason.
    pub async fn told_about(
        &self,
        sync: &str,
        certificate: &str,
        reason: &str,
        words: &[&str],
    ) -> anyhow::Result<Event> {
        wait::until(&format!("an Event {reason} about {certificate} of {sync} with {words:?}"), || async {
            let events = self.events(sync, reason, certificate).await?;
            let fits = |event: &&Event| words.iter().all(|word| note(event).contains(word));
            Ok(match events.iter().find(fits) {
                Some(event) => Seen::Done(event.clone()),
                None => Seen::NotYet(format!("{:?}", events.iter().map(note).collect::<Vec<_>>())),
            })
        })
        .await
    }

    /// Waits for an Event about an object without a namespace, with this reason and a text with all of these in it.
    ///
    /// # Errors
    /// There is none: the message has the others.
    pub async fn told_of(
        &self,
        kind: &str,
        name: &str,
        reason: &str,
        words: &[&str],
    ) -> anyhow::Result<Event> {
        let events = Api::<Event>::namespaced(self.client(), "default");
        wait::until(&format!("an Event {reason} about {kind} {name} with {words:?}"), || async {
            let about = |event: &&Event| {
                event.regarding.as_ref().is_some_and(|regarding| {
                    regarding.kind.as_deref() == Some(kind) && regarding.name.as_deref() == Some(name)
                })
            };
            let found = events.list(&Default::default()).await?.items;
            let found: Vec<&Event> = found.iter().filter(about).collect();
            let fits =
                |event: &&&Event| is(event, reason) && words.iter().all(|word| note(event).contains(word));
            Ok(match found.iter().find(fits) {
                Some(event) => Seen::Done((*event).clone()),
                None => Seen::NotYet(format!(
                    "{:?}",
                    found.iter().map(|event| (&event.reason, note(event))).collect::<Vec<_>>()
                )),
            })
        })
        .await
    }

    /// The owner tag of what a KeyVaultSync of ours pushes.
    ///
    /// # Errors
    /// The API server does not answer.
    pub async fn owner_tag(&self, sync: &str) -> anyhow::Result<String> {
        Ok(format!("{}/KeyVaultSync/{}/{sync}", self.cluster_id().await?, self.name))
    }

    /// Our cluster's id, unless the operator was told another.
    ///
    /// # Errors
    /// The API server does not answer.
    pub async fn cluster_id(&self) -> anyhow::Result<String> {
        let namespace = Api::<Namespace>::all(self.client()).get("kube-system").await?;
        namespace.metadata.uid.context("kube-system has no uid")
    }

    /// The versions our vault holds of a certificate, oldest first.
    pub fn versions(&self, certificate: &str) -> Vec<StoredVersion> {
        self.emulator().certificate(&self.host(), certificate).map_or_else(Vec::new, |found| found.versions)
    }

    /// The state of a certificate in our vault; none if the vault has none.
    pub fn state(&self, certificate: &str) -> Option<State> {
        self.emulator().certificate(&self.host(), certificate).map(|found| found.state)
    }

    /// Waits until our vault has soft-deleted a certificate.
    ///
    /// # Errors
    /// It has not: the message has its state.
    pub async fn soft_deleted(&self, certificate: &str) -> anyhow::Result<()> {
        wait::until(&format!("{certificate} to be soft-deleted in {}", self.host()), || async {
            Ok(match self.state(certificate) {
                Some(State::SoftDeleted) => Seen::Done(()),
                other => Seen::NotYet(format!("{other:?}")),
            })
        })
        .await
    }

    /// Waits until the claim on a certificate of our vault is gone.
    ///
    /// # Errors
    /// It stays.
    pub async fn given_up(&self, certificate: &str) -> anyhow::Result<()> {
        wait::gone(&self.claims(), &self.claim_name(certificate)).await
    }

    /// The deletions of a certificate that our vault was asked for, the first rounds of the challenge left out.
    pub fn deletions(&self, certificate: &str) -> Vec<Call> {
        let mut calls = self.calls_about(certificate);
        calls.retain(|call| call.operation == Operation::DeleteCertificate);
        calls
    }

    /// The calls of our vault so far.
    pub fn calls(&self) -> Vec<Call> {
        self.emulator().calls(&self.host())
    }

    /// The calls of our vault about one certificate, the first rounds of the challenge left out.
    pub fn calls_about(&self, certificate: &str) -> Vec<Call> {
        let about =
            |call: &Call| call.name.as_deref().is_some_and(|name| name.eq_ignore_ascii_case(certificate));
        self.calls().into_iter().filter(|call| about(call) && call.status != Some(401)).collect()
    }

    /// Waits until a call of our vault satisfies `condition`.
    ///
    /// # Errors
    /// None does.
    pub async fn called(&self, what: &str, condition: impl Fn(&Call) -> bool) -> anyhow::Result<()> {
        let host = self.host();
        let seen = self
            .emulator()
            .wait_for(PATIENCE, |calls| calls.iter().any(|call| call.host == host && condition(call)))
            .await;
        ensure!(seen, "waited {} s for {what}", PATIENCE.as_secs());
        Ok(())
    }

    /// What can be seen, for the report of a failure.
    pub async fn dump(&self) -> String {
        self.stage.dump(&self.name).await
    }

    fn client(&self) -> kube::Client {
        self.stage.client().clone()
    }

    async fn put<K>(&self, api: &Api<K>, name: &str, object: &Value) -> anyhow::Result<K>
    where
        K: Resource + Clone + DeserializeOwned + Serialize + std::fmt::Debug,
    {
        let params = PatchParams::apply(FIELD_MANAGER).force();
        api.patch(name, &params, &Patch::Apply(object)).await.with_context(|| format!("{object} is refused"))
    }
}

/// The host of a vault of that name.
pub fn host(vault: &str) -> String {
    format!("{vault}.vault.azure.net")
}

/// The entries of a TLS Secret.
pub fn entries(tls_crt: &str, tls_key: &str, ca_crt: &str) -> BTreeMap<String, String> {
    [("tls.crt", tls_crt), ("tls.key", tls_key), ("ca.crt", ca_crt)]
        .into_iter()
        .filter(|(key, text)| *key != "ca.crt" || !text.is_empty())
        .map(|(key, text)| (key.to_owned(), text.to_owned()))
        .collect()
}

/// SHA-1 of a leaf, as the Azure portal shows it.
///
/// # Errors
/// It is no PEM.
pub fn thumbprint(issued: &Issued) -> anyhow::Result<String> {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;
    let der = CertificateDer::from_pem_slice(issued.certificate.as_bytes()).context("the leaf is no PEM")?;
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY, &der);
    Ok(digest.as_ref().iter().map(|byte| format!("{byte:02X}")).collect())
}

/// The row of a Secret in a status.
pub fn row<'a>(sync: &'a KeyVaultSync, secret: &str) -> Option<&'a CertificateStatus> {
    sync.status.as_ref()?.certificates.iter().find(|row| row.secret_name == secret)
}

/// What Ready says of a KeyVaultSync.
pub fn ready(sync: &KeyVaultSync) -> Option<&Condition> {
    conditions::find(&sync.status.as_ref()?.conditions, READY)
}

/// What Ready says of a claim.
pub fn claim_ready(claim: &KeyVaultCertificate) -> Option<&Condition> {
    conditions::find(&claim.status.as_ref()?.conditions, READY)
}

/// The text of an Event.
pub fn note(event: &Event) -> &str {
    event.note.as_deref().unwrap_or_default()
}

/// The certificates of a PEM file, in DER.
///
/// # Errors
/// It is no PEM.
pub fn ders(pem: &str) -> anyhow::Result<Vec<Vec<u8>>> {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;
    CertificateDer::pem_slice_iter(pem.as_bytes()).map(|der| Ok(der.context("no PEM")?.to_vec())).collect()
}

/// Writes among calls: all that is no look.
pub fn writes(calls: &[Call]) -> Vec<&Call> {
    calls.iter().filter(|call| call.method != "GET" && call.status != Some(401)).collect()
}

/// Imports among calls.
pub fn imports(calls: &[Call]) -> usize {
    calls.iter().filter(|call| call.operation == Operation::Import).count()
}

/// Checks that a row's message has all of these in it, and reads as a sentence.
///
/// # Errors
/// It does not: the message has the row.
pub fn says(row: &CertificateStatus, words: &[&str]) -> anyhow::Result<()> {
    let message = row.message.as_deref().unwrap_or_default();
    let missing: Vec<_> = words.iter().filter(|word| !message.contains(**word)).collect();
    ensure!(missing.is_empty(), "{missing:?} not in {row:?}");
    ensure!(!message.contains("  "), "a gap in {row:?}");
    Ok(())
}

fn is(event: &Event, reason: &str) -> bool {
    event.reason.as_deref() == Some(reason)
}

fn namespace(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
}

fn resource(kind: &str, namespace: Option<&str>, name: &str, spec: Value) -> Value {
    let mut object = json!({
        "apiVersion": format!("{GROUP}/{VERSION}"),
        "kind": kind,
        "metadata": {"name": name},
        "spec": spec,
    });
    if let Some(namespace) = namespace {
        object["metadata"]["namespace"] = json!(namespace);
    }
    object
}
