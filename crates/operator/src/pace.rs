//! How fast each vault is asked: a first-come-first-served permit a vault, and pauses where the vault asked for them.
//! What is done with a permit is left to the certificate controller.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use keyvault_sync_core::names::VaultHost;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// Certificates of one vault that are worked on at a time. Key Vault's certificate imports are, by report, in the class
/// of 20 transactions in ten seconds; with an answer in a quarter of a second, four at a time are past that already.
const AT_A_TIME: usize = 4;
/// A vault that asks for patience is asked again after this at the latest, whatever its Retry-After says.
const PAUSE_MAX: Duration = Duration::from_secs(300);

/// The pace of all vaults. One vault's queue or pause never holds up another's.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    vaults: Mutex<HashMap<VaultHost, Arc<Vault>>>,
}

#[derive(Debug)]
struct Vault {
    permits: Arc<Semaphore>,
    waiting: AtomicUsize,
    paused_until: Mutex<Option<Instant>>,
}

/// How busy a vault is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Load {
    /// Which.
    pub host: VaultHost,
    /// Turns that can be had at once.
    pub free: usize,
    /// Who waits for a turn.
    pub waiting: usize,
    /// For how long it still wants to be left alone.
    pub pause: Duration,
}

/// How a turn is to be had.
#[derive(Debug)]
pub(crate) enum Turn {
    /// At once.
    Now(Permit),
    /// After others; [`Pace::permit`] waits.
    Queue,
    /// Not before this moment: the vault asked to be left alone.
    Pause(Instant),
}

/// The right to call one vault; given back when dropped.
#[derive(Debug)]
pub(crate) struct Permit(#[allow(dead_code, reason = "held, never read")] OwnedSemaphorePermit);

impl Pace {
    /// How a turn at this vault is to be had.
    pub(crate) fn turn(&self, host: &VaultHost) -> Turn {
        let vault = self.vault(host);
        if let Some(until) = vault.pause() {
            return Turn::Pause(until);
        }
        Arc::clone(&vault.permits).try_acquire_owned().map_or(Turn::Queue, |permit| Turn::Now(Permit(permit)))
    }

    /// For how long the vault still wants to be left alone.
    pub(crate) fn pause_of(&self, host: &VaultHost) -> Option<Duration> {
        self.vault(host).pause().map(|until| until.duration_since(Instant::now()))
    }

    /// Waits for a turn at this vault, first come first served. `None`: never, the operator ends.
    pub(crate) async fn permit(&self, host: &VaultHost) -> Option<Permit> {
        let vault = self.vault(host);
        let _waiting = Waiting::of(&vault.waiting);
        Arc::clone(&vault.permits).acquire_owned().await.ok().map(Permit)
    }

    /// How busy each vault is that was called since the start.
    pub(crate) fn loads(&self) -> Vec<Load> {
        let vaults = self.vaults.lock().unwrap_or_else(PoisonError::into_inner);
        let load = |(host, vault): (&VaultHost, &Arc<Vault>)| Load {
            host: host.clone(),
            free: vault.permits.available_permits(),
            waiting: vault.waiting.load(Ordering::Relaxed),
            pause: vault.pause().map(|until| until.duration_since(Instant::now())).unwrap_or_default(),
        };
        vaults.iter().map(load).collect()
    }

    /// The vault asked to be left alone for this long.
    pub(crate) fn pause(&self, host: &VaultHost, length: Duration) {
        let until = Instant::now() + length.min(PAUSE_MAX);
        let vault = self.vault(host);
        let mut paused_until = vault.paused_until.lock().unwrap_or_else(PoisonError::into_inner);
        *paused_until = paused_until.map_or(Some(until), |old| Some(old.max(until)));
    }

    fn vault(&self, host: &VaultHost) -> Arc<Vault> {
        let mut vaults = self.vaults.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(vaults.entry(host.clone()).or_insert_with(|| {
            Arc::new(Vault {
                permits: Arc::new(Semaphore::new(AT_A_TIME)),
                waiting: AtomicUsize::new(0),
                paused_until: Mutex::new(None),
            })
        }))
    }
}

/// Counts as waiting until it is dropped, also where waiting is given up.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn of(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Vault {
    fn pause(&self) -> Option<Instant> {
        let mut paused_until = self.paused_until.lock().unwrap_or_else(PoisonError::into_inner);
        if paused_until.is_some_and(|until| until <= Instant::now()) {
            *paused_until = None;
        }
        *paused_until
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use keyvault_sync_core::names::Cloud;

    fn host(name: &str) -> VaultHost {
        VaultHost::from_url(&format!("https://{name}.vault.azure.net"), &Cloud::ALL).unwrap()
    }

    #[tokio::test]
    async fn a_full_vault_does_not_hold_up_another() {
        let pace = Pace::default();
        let mut held = Vec::new();
        while let Turn::Now(permit) = pace.turn(&host("first")) {
            held.push(permit);
        }
        assert_eq!(held.len(), AT_A_TIME);
        assert!(matches!(pace.turn(&host("first")), Turn::Queue));
        assert!(matches!(pace.turn(&host("second")), Turn::Now(_)));
        let busy = pace.loads().into_iter().find(|load| load.host == host("first")).unwrap();
        assert_eq!((busy.free, busy.waiting, busy.pause), (0, 0, Duration::ZERO));
        {
            let first = host("first");
            let mut waits = std::pin::pin!(pace.permit(&first));
            assert!(futures::poll!(waits.as_mut()).is_pending());
            assert!(pace.loads().iter().any(|load| load.waiting == 1));
        }
        assert!(pace.loads().iter().all(|load| load.waiting == 0), "it was given up");
        held.pop();
        assert!(pace.permit(&host("first")).await.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_is_kept_capped_and_of_one_vault() {
        let pace = Pace::default();
        let before = Instant::now();
        pace.pause(&host("first"), Duration::from_secs(3600));
        pace.pause(&host("first"), Duration::from_secs(1));
        assert!(matches!(pace.turn(&host("first")), Turn::Pause(until) if until == before + PAUSE_MAX));
        assert!(matches!(pace.turn(&host("second")), Turn::Now(_)));
        tokio::time::advance(PAUSE_MAX).await;
        assert!(matches!(pace.turn(&host("first")), Turn::Now(_)));
    }
}
