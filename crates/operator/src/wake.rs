//! Who is woken: one queue a controller. A controller's runtime takes from it and works on each object once at a time.
//! Who is woken by which change is left to `world`.

use keyvault_sync_api::{ClusterKeyVaultSync, KeyVault, KeyVaultCertificate, KeyVaultSync};
use keyvault_sync_core::ownership::OwnerKind;
use kube::runtime::reflector::ObjectRef;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::wisher::WisherKey;

/// The ends that are written to.
#[derive(Clone, Debug)]
pub(crate) struct Wake {
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
        (Wake { syncs, cluster_syncs, claims, vaults, orphans }, woken)
    }

    // A queue is closed only while the operator ends: then nobody needs to be woken.

    /// Plans this resource again.
    pub(crate) fn sync(&self, wisher: WisherKey) {
        match wisher.kind {
            OwnerKind::KeyVaultSync => {
                let _ = self.syncs.send(ObjectRef::new(&wisher.name).within(&wisher.namespace));
            }
            OwnerKind::ClusterKeyVaultSync => {
                let _ = self.cluster_syncs.send(ObjectRef::new(&wisher.name));
            }
        }
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
