//! Who is woken: one queue a controller. A controller's runtime takes from it and works on each object once at a time.
//! Who is woken by which change is left to `world`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use keyvault_sync_api::{ClusterKeyVaultSync, KeyVault, KeyVaultCertificate, KeyVaultSync};
use keyvault_sync_core::ownership::OwnerKind;
use kube::Resource;
use kube::runtime::reflector::ObjectRef;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::backlog::Backlog;
use crate::wisher::WisherKey;

/// The ends that are written to.
#[derive(Clone, Debug)]
pub(crate) struct Wake {
    /// Who stands by works on nothing: it wakes nobody, and everybody when it leads.
    is_roused: Arc<AtomicBool>,
    syncs: Queue<KeyVaultSync>,
    cluster_syncs: Queue<ClusterKeyVaultSync>,
    claims: Queue<KeyVaultCertificate>,
    vaults: Queue<KeyVault>,
    orphans: Queue<KeyVaultCertificate>,
}

/// One end, and the ledger of who waits.
#[derive(Debug)]
struct Queue<K: Named> {
    sender: UnboundedSender<ObjectRef<K>>,
    backlog: Arc<Backlog>,
}

/// The other end of a queue.
#[derive(Debug)]
pub(crate) struct Taken<K: Named> {
    /// Who is woken.
    pub receiver: UnboundedReceiver<ObjectRef<K>>,
    /// Who waits.
    pub backlog: Arc<Backlog>,
}

/// Kinds that have a queue.
pub(crate) trait Named: Resource<DynamicType = ()> {}

impl<K: Resource<DynamicType = ()>> Named for K {}

/// The other ends of [`Wake`].
#[derive(Debug)]
pub(crate) struct Woken {
    /// For the sync controller.
    pub syncs: Taken<KeyVaultSync>,
    /// For the sync controller, over namespaces.
    pub cluster_syncs: Taken<ClusterKeyVaultSync>,
    /// For the certificate controller.
    pub claims: Taken<KeyVaultCertificate>,
    /// For the vault controller.
    pub vaults: Taken<KeyVault>,
    /// For the controller of claims whose owner is gone.
    pub orphans: Taken<KeyVaultCertificate>,
}

impl<K: Named> Clone for Queue<K> {
    fn clone(&self) -> Self {
        Self { sender: self.sender.clone(), backlog: Arc::clone(&self.backlog) }
    }
}

impl<K: Named> Queue<K> {
    /// `controller`: who takes from it.
    fn new(controller: &'static str) -> (Self, Taken<K>) {
        let (sender, receiver) = unbounded_channel();
        let backlog = Backlog::new(controller);
        (Self { sender, backlog: Arc::clone(&backlog) }, Taken { receiver, backlog })
    }

    fn send(&self, object: ObjectRef<K>) {
        self.backlog.woken(entry(&object));
        // It is closed only while the operator ends: then nobody needs to be woken.
        let _ = self.sender.send(object);
    }
}

/// What an object is called in a ledger.
pub(crate) fn entry<K: Named>(object: &ObjectRef<K>) -> String {
    match &object.namespace {
        Some(namespace) => format!("{namespace}/{}", object.name),
        None => object.name.clone(),
    }
}

impl Wake {
    /// Makes the queues.
    pub(crate) fn new() -> (Wake, Woken) {
        let (syncs, woken_syncs) = Queue::new("sync");
        let (cluster_syncs, woken_cluster_syncs) = Queue::new("cluster sync");
        let (claims, woken_claims) = Queue::new("certificate");
        let (vaults, woken_vaults) = Queue::new("keyvault");
        let (orphans, woken_orphans) = Queue::new("orphan");
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

    /// Whether they do.
    pub(crate) fn is_roused(&self) -> bool {
        self.is_roused.load(Ordering::SeqCst)
    }

    fn send<K: Named>(&self, queue: &Queue<K>, object: ObjectRef<K>) {
        if self.is_roused() {
            queue.send(object);
        }
    }

    /// The ledgers of all queues.
    pub(crate) fn backlogs(&self) -> Vec<Arc<Backlog>> {
        let Wake { syncs, cluster_syncs, claims, vaults, orphans, .. } = self;
        let all =
            [&syncs.backlog, &cluster_syncs.backlog, &claims.backlog, &vaults.backlog, &orphans.backlog];
        all.into_iter().cloned().collect()
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
