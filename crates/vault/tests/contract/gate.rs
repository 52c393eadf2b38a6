//! The right to write, as a test gives and takes it; and that nothing is written without it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use keyvault_sync_core::reason::Reason;
use keyvault_sync_vault::{Fence, Landed};

use crate::world::{World, import, name, tags};

/// Open until it is closed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Gate(Arc<AtomicBool>);

impl Gate {
    pub(crate) fn close(&self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

impl Fence for Gate {
    fn lets_write(&self, longest: Duration) -> bool {
        assert!(longest <= Duration::from_secs(10), "a write takes at most ten seconds, not {longest:?}");
        !self.0.load(Ordering::SeqCst)
    }
}

#[tokio::test]
async fn who_may_not_write_reads_and_sends_no_write_at_all() {
    let world = World::start().await;
    let facts = import(&world.client, "web").await.unwrap();
    world.gate.close();
    let calls = world.emulator.journal().len();
    let (client, web, none) = (&world.client, name("web"), tags(&[]));
    for (act, answer) in [
        ("import", import(client, "web").await.map(drop)),
        ("retag", client.set_tags(&web, &facts.version, &none).await.map(drop)),
        ("adopt", client.adopt(&web, &facts.version, &none).await.map(drop)),
        ("delete", client.delete(&web).await),
        ("recover", client.recover(&web).await),
    ] {
        let error = answer.expect_err(act);
        assert_eq!((error.problem.reason, error.landed), (Reason::Unavailable, Landed::No), "{act}: {error}");
        assert!(error.to_string().contains("may not write now"), "{act}: {error}");
    }
    assert_eq!(world.emulator.journal().len(), calls, "something went out");
    assert_eq!(client.newest(&web).await.unwrap().unwrap().version, facts.version);
}
