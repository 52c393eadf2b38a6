//! One test's part of a stage: a namespace, a vault and its KeyVault, an issuer; and what a user or a platform team does there.
//! What they see of it is `sight`'s; what ought to be seen is left to the tests.

mod sight;

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Context;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::jiff::Timestamp;
use keyvault_emulator::{Emulator, Fault, FaultId, Permissions};
use keyvault_sync_api::constants::{GROUP, SYNC_AT_ANNOTATION, VERSION};
use keyvault_sync_api::{ClusterKeyVaultSync, KeyVault, KeyVaultCertificate, KeyVaultSync};
use kube::Resource;
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::certificates::{Authority, Issued, Leaf};
use crate::stage::{CLIENT, SECOND_CLIENT, Stage, TENANT};
use crate::wait::{self, Seen};

pub use sight::{claim_ready, ders, imports, note, ready, row, says, thumbprint, writes};

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

    /// Makes our KeyVault, which each pod opens as the application of its own, the first or the second.
    ///
    /// # Errors
    /// The API server refuses.
    pub async fn open_to_two(&self) -> anyhow::Result<()> {
        self.stage.trust(SECOND_CLIENT);
        self.emulator().allow(&self.host(), SECOND_CLIENT, Permissions::certificates_officer());
        self.key_vault(self.name(), self.open_to_us()).await.map(drop)
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
    pub async fn sync(&self, name: &str, spec: Value) -> anyhow::Result<KeyVaultSync> {
        self.labelled_sync(name, json!({}), spec).await
    }

    /// The same with labels.
    ///
    /// # Errors
    /// The API server refuses.
    pub async fn labelled_sync(
        &self,
        name: &str,
        labels: Value,
        mut spec: Value,
    ) -> anyhow::Result<KeyVaultSync> {
        if spec["vaultRef"].is_null() {
            spec["vaultRef"] = json!({"name": self.vault});
        }
        let mut sync = resource("KeyVaultSync", Some(&self.name), name, spec);
        sync["metadata"]["labels"] = labels;
        self.put(&self.syncs(), name, &sync).await
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
