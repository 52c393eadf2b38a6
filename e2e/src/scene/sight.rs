//! What a user or a platform team sees of a scene: statuses, claims, Events, and what the vault holds and was asked.
//! What they do is left to `scene`.

use std::collections::BTreeSet;

use anyhow::{Context, ensure};
use k8s_openapi::api::core::v1::{Namespace, Secret};
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use keyvault_emulator::{Call, Operation, State, StoredVersion};
use keyvault_sync_api::conditions::{self, READY};
use keyvault_sync_api::{
    CertificateState, CertificateStatus, ClusterKeyVaultSync, KeyVault, KeyVaultCertificate, KeyVaultSync,
    KeyVaultSyncStatus,
};
use kube::api::Api;

use super::Scene;
use crate::certificates::Issued;
use crate::wait::{self, PATIENCE, Seen};

/// The name that the operator reads to know how a vault is.
const CONTACT: &str = "keyvault-sync-contact";

impl Scene {
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

    /// Checks that a certificate is as it was pushed, and that nobody asked for its deletion.
    ///
    /// # Errors
    /// It is not.
    pub fn untouched(&self, certificate: &str) -> anyhow::Result<()> {
        let state = self.state(certificate);
        ensure!(state == Some(State::Normal), "{certificate} is {state:?}");
        let deletions = self.deletions(certificate);
        ensure!(deletions.is_empty(), "the deletion of {certificate} was asked for: {deletions:?}");
        let versions = self.versions(certificate).len();
        ensure!(versions == 1, "{certificate} has {versions} versions");
        Ok(())
    }

    /// Waits until a certificate is soft-deleted, by one call, and its claim is gone.
    ///
    /// # Errors
    /// It is not.
    pub async fn deleted_once(&self, certificate: &str) -> anyhow::Result<()> {
        self.soft_deleted(certificate).await.with_context(|| format!("{certificate} was not deleted"))?;
        self.given_up(certificate).await?;
        let deletions = self.deletions(certificate);
        ensure!(deletions.len() == 1, "{} deletions: {deletions:?}", deletions.len());
        Ok(())
    }

    /// The calls of our vault so far, but for those that are about no certificate: what a KeyVault is asked to know how it is.
    pub fn calls(&self) -> Vec<Call> {
        self.calls_of(&self.host())
    }

    /// The same of another vault.
    pub fn calls_of(&self, host: &str) -> Vec<Call> {
        let mut calls = self.emulator().calls(host);
        calls.retain(|call| call.name.as_deref() != Some(CONTACT));
        calls
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
