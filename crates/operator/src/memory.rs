//! What is remembered between rounds and may be forgotten at a restart: our own latest writes, failures in a row, what was
//! planned. What must outlive a restart stands in the claims' statuses.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use keyvault_sync_api::KeyVaultCertificate;
use keyvault_sync_core::labels::Labels;
use kube::ResourceExt;
use tokio::time::Instant;

/// Our own writes to claims, which the watch shows a moment later: without this, a round in between would decide from
/// what is no longer so.
#[derive(Debug, Default)]
pub(crate) struct Written(Mutex<HashMap<String, Overtaken>>);

#[derive(Debug)]
struct Overtaken {
    stale: HashSet<String>,
    newest: Arc<KeyVaultCertificate>,
}

impl Written {
    /// We replaced the edition `before` of a claim with `now`.
    pub(crate) fn note(&self, before: &KeyVaultCertificate, now: Arc<KeyVaultCertificate>) {
        let mut written = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = written
            .entry(now.name_any())
            .or_insert_with(|| Overtaken { stale: HashSet::new(), newest: Arc::clone(&now) });
        entry.stale.extend(before.resource_version());
        entry.newest = now;
    }

    /// The claim is gone.
    pub(crate) fn forget(&self, name: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
    }

    /// The newest edition that is known: the watch's, unless we have written a later one since.
    pub(crate) fn newest(&self, shown: Arc<KeyVaultCertificate>) -> Arc<KeyVaultCertificate> {
        let mut written = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let name = shown.name_any();
        match written.get(&name) {
            Some(entry) if shown.resource_version().is_some_and(|shown| entry.stale.contains(&shown)) => {
                Arc::clone(&entry.newest)
            }
            Some(_) => {
                written.remove(&name);
                shown
            }
            None => shown,
        }
    }
}

/// What a claim's rounds leave behind in memory.
#[derive(Debug, Default)]
pub(crate) struct Rounds(Mutex<HashMap<String, RoundMemory>>);

#[derive(Clone, Copy, Debug, Default)]
struct RoundMemory {
    failures: u32,
    /// A comparison with the vault was asked for and not made yet.
    compare: bool,
    changed_at: Option<Instant>,
    /// Since when the claim is given up, and how often its end failed.
    release: Option<(i64, u32)>,
    /// An announcement from the future, and when it was first seen.
    ahead: Option<(i64, i64)>,
    /// When (unix seconds) the vault was last known to hold what is wished.
    succeeded: Option<i64>,
}

impl Rounds {
    fn with<T>(&self, uid: &str, change: impl FnOnce(&mut RoundMemory) -> T) -> T {
        let mut rounds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        change(rounds.entry(uid.to_owned()).or_default())
    }

    /// Another failure in a row; how many there were with it.
    pub(crate) fn failed(&self, uid: &str) -> u32 {
        self.with(uid, |round| {
            round.failures = round.failures.saturating_add(1);
            round.failures
        })
    }

    /// Failed attempts so far to end the claim that is given up since then (unix seconds).
    pub(crate) fn release_failures(&self, uid: &str, since: i64) -> u32 {
        self.with(uid, |round| {
            round.release.filter(|(begun, _)| *begun == since).map_or(0, |(_, times)| times)
        })
    }

    /// Another one; how many there were with it.
    pub(crate) fn release_failed(&self, uid: &str, since: i64) -> u32 {
        let times = self.release_failures(uid, since).saturating_add(1);
        self.with(uid, |round| round.release = Some((since, times)));
        times
    }

    /// No failure.
    pub(crate) fn went_well(&self, uid: &str) {
        self.with(uid, |round| round.failures = 0);
    }

    /// The vault is to be looked at in the next round.
    pub(crate) fn ask_comparison(&self, uid: &str) {
        self.with(uid, |round| round.compare = true);
    }

    /// Whether it still is.
    pub(crate) fn is_comparison_due(&self, uid: &str) -> bool {
        self.with(uid, |round| round.compare)
    }

    /// The vault was looked at.
    pub(crate) fn compared(&self, uid: &str) {
        self.with(uid, |round| round.compare = false);
    }

    /// When (unix seconds) an announcement of this time, which is still to come, was first seen.
    pub(crate) fn first_sight(&self, uid: &str, announced: i64, now: i64) -> i64 {
        self.with(uid, |round| match round.ahead {
            Some((time, seen)) if time == announced => seen.min(now),
            _ => {
                round.ahead = Some((announced, now));
                now
            }
        })
    }

    /// A change of the Secret was seen, if none is being worked on.
    pub(crate) fn changed(&self, uid: &str) -> Instant {
        self.with(uid, |round| *round.changed_at.get_or_insert_with(Instant::now))
    }

    /// When a change that is worked on was seen.
    pub(crate) fn change_seen(&self, uid: &str) -> Option<Instant> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(uid).and_then(|round| round.changed_at)
    }

    /// The change is in the vault; when it was seen.
    pub(crate) fn pushed(&self, uid: &str) -> Option<Instant> {
        self.with(uid, |round| round.changed_at.take())
    }

    /// The vault holds what is wished, at this time (unix seconds).
    pub(crate) fn success(&self, uid: &str, now: i64) {
        self.with(uid, |round| {
            round.succeeded = Some(now);
            // A change that needed no push is not the beginning of the next one.
            round.changed_at = None;
        });
    }

    /// When it was last known to.
    pub(crate) fn succeeded(&self, uid: &str) -> Option<i64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(uid).and_then(|round| round.succeeded)
    }

    /// The claim is gone.
    pub(crate) fn forget(&self, uid: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
    }
}

/// Claims that were taken over from another installation, and what made them ours: the owner with these labels.
#[derive(Debug, Default)]
pub(crate) struct Takeovers(Mutex<HashMap<String, Takeover>>);

#[derive(Debug)]
struct Takeover {
    owner: String,
    labels: Labels,
    is_told: bool,
}

impl Takeovers {
    /// Whether a claim (by uid) of this owner (by uid) with these labels may be taken over now. It may once: if it is taken back,
    /// somebody else selects the same owner, and two who take turns would never end.
    pub(crate) fn may_take(&self, claim: &str, owner: &str, labels: &Labels) -> bool {
        let taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        !taken.get(claim).is_some_and(|before| before.owner == owner && before.labels == *labels)
    }

    /// It was taken over.
    pub(crate) fn note(&self, claim: &str, owner: &str, labels: &Labels) {
        let takeover = Takeover { owner: owner.to_owned(), labels: labels.clone(), is_told: false };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(claim.to_owned(), takeover);
    }

    /// Whether it is news that it was taken back.
    pub(crate) fn is_news(&self, claim: &str) -> bool {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        taken.get_mut(claim).is_some_and(|takeover| !std::mem::replace(&mut takeover.is_told, true))
    }

    /// The owner (by uid) is another installation's now: should it come back, its claims are taken over anew.
    pub(crate) fn leave(&self, owner: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|_, takeover| takeover.owner != owner);
    }

    /// The claim is gone.
    pub(crate) fn forget(&self, claim: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(claim);
    }
}

/// A wish is planned again no sooner than this many times as long as its last planning took: one over ten thousand Secrets
/// leaves the machine to others, and one over a few never waits.
const REST: u32 = 4;
/// A shorter rest is not worth a timer.
const REST_MIN: Duration = Duration::from_millis(20);

/// Which resources were planned since the start, what that took, and when the status of each was written last.
#[derive(Debug, Default)]
pub(crate) struct Planned(Mutex<HashMap<String, PlanMemory>>);

#[derive(Clone, Copy, Debug, Default)]
struct PlanMemory {
    rests_until: Option<Instant>,
    written: Option<Instant>,
    is_planned: bool,
}

impl Planned {
    fn with<T>(&self, uid: &str, change: impl FnOnce(&mut PlanMemory) -> T) -> T {
        let mut planned = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        change(planned.entry(uid.to_owned()).or_default())
    }

    /// This resource (by uid) was planned once.
    pub(crate) fn note(&self, uid: &str) {
        self.with(uid, |plan| plan.is_planned = true);
    }

    /// The resource is gone.
    pub(crate) fn forget(&self, uid: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
    }

    /// Whether it was.
    pub(crate) fn is_planned(&self, uid: &str) -> bool {
        self.with(uid, |plan| plan.is_planned)
    }

    /// Its planning took so long.
    pub(crate) fn took(&self, uid: &str, length: Duration) {
        self.with(uid, |plan| plan.rests_until = Some(Instant::now() + length * REST));
    }

    /// For how long it is not planned again.
    pub(crate) fn rest(&self, uid: &str) -> Option<Duration> {
        let until = self.with(uid, |plan| plan.rests_until)?;
        Some(until.duration_since(Instant::now())).filter(|rest| *rest >= REST_MIN)
    }

    /// Its status is written now.
    pub(crate) fn wrote(&self, uid: &str) {
        self.with(uid, |plan| plan.written = Some(Instant::now()));
    }

    /// When its status was written last.
    pub(crate) fn written(&self, uid: &str) -> Option<Instant> {
        self.with(uid, |plan| plan.written)
    }
}
