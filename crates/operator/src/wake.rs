//! Who is woken: one queue a controller. A controller's runtime takes from it and works on each object once at a time.
//! Who is woken by which change is left to `world`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use keyvault_sync_api::{ClusterKeyVaultSync, KeyVault, KeyVaultCertificate, KeyVaultSync};
use keyvault_sync_core::ownership::OwnerKind;
use kube::runtime::reflector::ObjectRef;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::wisher::WisherKey;

/// The ends that are written to.
#[derive(Clone, Debug)]
pub(crate) struct Wake {
    /// Who stands by works on nothing: it wakes nobody, and everybody when it leads.
    is_roused: Arc<AtomicBool>,
    syncs: UnboundedSender<ObjectRef<KeyVaultSync>>,
    cluster_syncs: UnboundedSender<ObjectRef<ClusterKeyVaultSync>>,
    claims: UnboundedSender<ObjectRef<KeyVaultCertificate>>,
    vaults: UnboundedSender<ObjectRef<KeyVault>>,
    orphans: UnboundedSender<ObjectRef<KeyVaultCertificate>>,
}

/// The other ends of [`Wake`].
#[derive(Debug)]
pub(crate) struct Woken {
    /// For the sync controller.
    pub syncs: UnboundedReceiver<ObjectRef<KeyVaultSync>>,
    /// For the sync controller, over namespaces.
    pub cluster_syncs: UnboundedReceiver<ObjectRef<ClusterKeyVaultSync>>,
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
        let (cluster_syncs, woken_cluster_syncs) = unbounded_channel();
        let (claims, woken_claims) = unbounded_channel();
        let (vaults, woken_vaults) = unbounded_channel();
        let (orphans, woken_orphans) = unbounded_channel();
        let woken = Woken {
            syncs: woken_syncs,
            cluster_syncs: woken_cluster_syncs,
            claims: woken_claims,
            vaults: woken_vaults,
            orphans: woken_orphans,
        };
        (Wake { is_roused: Arc::default(), syncs, cluster_syncs, claims, vaults, orphans }, woken)
    }

    /// From now on those who are woken work.
    pub(crate) fn rouse(&self) {
        self.is_roused.store(true, Ordering::SeqCst);
    }

    fn send<T>(&self, queue: &UnboundedSender<T>, object: T) {
        if self.is_roused.load(Ordering::SeqCst) {
            // A queue is closed only while the operator ends: then nobody needs to be woken.
            let _ = queue.send(object);
        }
    }

    /// Plans this resource again.
    pub(crate) fn sync(&self, wisher: WisherKey) {
        match wisher.kind {
            OwnerKind::KeyVaultSync => {
                self.send(&self.syncs, ObjectRef::new(&wisher.name).within(&wisher.namespace));
            }
            OwnerKind::ClusterKeyVaultSync => {
                self.send(&self.cluster_syncs, ObjectRef::new(&wisher.name));
            }
        }
    }

    /// Looks at this claim again.
    pub(crate) fn claim(&self, object: ObjectRef<KeyVaultCertificate>) {
        self.send(&self.claims, object);
    }

    /// Looks at this KeyVault again.
    pub(crate) fn vault(&self, object: ObjectRef<KeyVault>) {
        self.send(&self.vaults, object);
    }

    /// Looks for the owner of this claim.
    pub(crate) fn orphan(&self, object: ObjectRef<KeyVaultCertificate>) {
        self.send(&self.orphans, object);
    }
}
