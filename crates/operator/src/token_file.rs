//! The operator's own federated token, as a file that somebody else writes: one that is written anew wakes those who were refused with
//! the one before. It is read by the adapter, for each token request.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use keyvault_sync_vault::Identity;

use crate::context::Context;
use crate::identity::Opener;
use crate::keyvault;

/// How often the file is looked at: what is mounted into a pod tells of no change.
const LOOK: Duration = Duration::from_secs(5);

/// Looks at the file until the operator is to end.
pub(crate) async fn run(context: Arc<Context>) {
    let Some(path) = context.settings.access.azure_federated_token_file.clone() else {
        return context.stop.cancelled().await;
    };
    let mut known = edition(&path).await;
    loop {
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = context.stop.cancelled() => return,
        }
        let now = edition(&path).await;
        if now != known {
            known = now;
            wake(&context);
        }
    }
}

async fn edition(path: &Path) -> Option<SystemTime> {
    tokio::fs::metadata(path).await.and_then(|metadata| metadata.modified()).ok()
}

/// The kubelet renews the file long before it expires: only who has no token now is woken.
fn wake(context: &Context) {
    for key_vault in context.world.vaults.state() {
        let Ok(vault) = keyvault::resolve(&key_vault, context) else { continue };
        let is_own = matches!(vault.opener, Opener::One(Identity::WorkloadIdentity { .. }));
        if is_own && context.contacts.is_closed(&vault) {
            context.world.wake_users(&key_vault);
        }
    }
}
