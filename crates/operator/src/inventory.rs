//! The timed comparison of each vault with the claims on it: by the list where that is fewer calls, and only what differs is
//! woken. When, how and what differs is `core::inventory`'s word; what is done about it, the certificate controller's.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use keyvault_sync_api::KeyVaultCertificate;
use keyvault_sync_core::inventory::{Expected, Method, comparison_tick, method, next_comparison};
use keyvault_sync_core::names::VaultHost;
use keyvault_sync_core::reason::Reason;
use keyvault_sync_vault::{Identity, Listing, VaultError};
use kube::ResourceExt;
use kube::runtime::reflector::ObjectRef;
use tokio::task::JoinSet;

use crate::certificate::{now, observe};
use crate::context::Context;
use crate::keyvault::{self, Edition, Vault};

/// When it is looked again whether the lease is renewed.
const NOT_LEADING: Duration = Duration::from_secs(5);
/// How long a change of KeyVaults may go unnoticed here.
const LOOK_AGAIN_SECS: i64 = 30;
/// Single reads of one vault's comparison are spread over this, so that a renewal among them need not wait.
const SPREAD: Duration = Duration::from_secs(60);
/// Pauses after attempts that failed; the shortest interval is five minutes.
const RETRIES: [Duration; 4] =
    [Duration::from_secs(15), Duration::from_secs(30), Duration::from_secs(60), Duration::from_secs(120)];
/// The longest pause between two single reads.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// What earlier comparisons taught.
#[derive(Default)]
struct Lessons {
    /// How many pages the list of a vault had.
    pages: HashMap<VaultHost, usize>,
    /// KeyVaults and identities that may not list.
    forbidden: HashMap<(String, Identity), Edition>,
}

impl Lessons {
    /// How many pages the vault's list has, as far as that is known, and whether it may be read.
    fn of(&self, vault: &Vault, identity: &Identity) -> (Option<usize>, bool) {
        let key = (vault.name.clone(), identity.clone());
        let is_forbidden = self.forbidden.get(&key) == Some(&vault.edition);
        (self.pages.get(&vault.host).copied(), !is_forbidden)
    }

    fn learn(
        &mut self,
        vault: &Vault,
        identity: &Identity,
        pages_max: usize,
        listing: &Result<Listing, VaultError>,
    ) {
        match listing {
            Ok(Listing::Whole { pages, .. }) => drop(self.pages.insert(vault.host.clone(), *pages)),
            Ok(Listing::TooLong) => drop(self.pages.insert(vault.host.clone(), pages_max + 1)),
            Err(error) if error.problem.reason == Reason::Forbidden => {
                self.forbidden.insert((vault.name.clone(), identity.clone()), vault.edition.clone());
            }
            Err(_) => {}
        }
    }
}

/// Compares each vault once an interval, until the operator is to end.
pub(crate) async fn run(context: Arc<Context>) {
    let lessons = Arc::new(Mutex::new(Lessons::default()));
    // The tick in which a KeyVault is first seen counts as made: a restart costs no call.
    let mut made: HashMap<String, (Edition, i64)> = HashMap::new();
    let mut running = JoinSet::new();
    loop {
        if !context.lease.leads() {
            // What is due is compared when the lease is renewed.
            tokio::select! {
                () = tokio::time::sleep(NOT_LEADING) => continue,
                () = context.stop.cancelled() => return,
            }
        }
        let now = now();
        let mut due = now + LOOK_AGAIN_SECS;
        let mut present = HashMap::new();
        for key_vault in context.world.vaults.state() {
            let Ok(vault) = keyvault::resolve(&key_vault, &context) else { continue };
            let tick = comparison_tick(&vault.host, vault.resync_secs, now);
            due = due.min(next_comparison(&vault.host, vault.resync_secs, now));
            let is_due = made
                .get(&vault.name)
                .is_some_and(|(edition, last)| *edition == vault.edition && *last < tick);
            present.insert(vault.name.clone(), (vault.edition.clone(), tick));
            if is_due {
                running.spawn(compare(Arc::clone(&context), vault, Arc::clone(&lessons)));
            }
        }
        made = present;
        while running.try_join_next().is_some() {}
        let pause = Duration::from_secs(u64::try_from(due - now).unwrap_or(1).max(1));
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = context.stop.cancelled() => return,
        }
    }
}

/// One comparison; what failed for a reason that passes is tried again.
async fn compare(context: Arc<Context>, vault: Vault, lessons: Arc<Mutex<Lessons>>) {
    let mut made = HashSet::new();
    for pause in RETRIES {
        let mut is_whole = true;
        for (identity, claims) in in_step(&vault, &context) {
            if made.contains(&identity) {
                continue;
            }
            if try_compare(&context, &vault, identity.as_ref(), &claims, &lessons).await {
                made.insert(identity);
            } else {
                is_whole = false;
            }
        }
        if is_whole {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = context.stop.cancelled() => return,
        }
    }
}

/// Compares the claims that one identity looks after. `false`: not made.
async fn try_compare(
    context: &Context,
    vault: &Vault,
    identity: Option<&Identity>,
    claims: &[InStep],
    lessons: &Mutex<Lessons>,
) -> bool {
    let Some(identity) = identity else {
        // There is no way to the vault for them, which each says for itself.
        singly(context, claims).await;
        return true;
    };
    let (pages, may_list) = lessons.lock().unwrap_or_else(PoisonError::into_inner).of(vault, identity);
    let pages_max = match method(claims.len(), pages, may_list) {
        Method::Not => return true,
        Method::Singly => {
            singly(context, claims).await;
            return true;
        }
        Method::List { pages_max } => pages_max,
    };
    let listing = list(context, vault, identity, pages_max).await;
    lessons.lock().unwrap_or_else(PoisonError::into_inner).learn(vault, identity, pages_max, &listing);
    match listing {
        Ok(Listing::Whole { certificates, pages }) => {
            let listed: HashMap<String, _> =
                certificates.iter().map(|row| (row.name.to_ascii_lowercase(), row)).collect();
            let differing = claims.iter().filter(|(claim, expected)| {
                expected.differs(listed.get(&claim.spec.certificate_name.to_ascii_lowercase()).copied())
            });
            let found = differing.map(|(claim, _)| wake(context, claim)).count();
            tracing::debug!(vault = %vault.host, claims = claims.len(), pages, found, "vault compared");
        }
        Ok(Listing::TooLong) => singly(context, claims).await,
        Err(error) if error.problem.reason == Reason::Forbidden => {
            tracing::info!(vault = %vault.host, "the identity may not list certificates: each is read by itself");
            singly(context, claims).await;
        }
        Err(error) => {
            tracing::info!(vault = %vault.host, reason = error.problem.reason.as_str(), "vault not compared: {}", error.problem.message);
            return false;
        }
    }
    true
}

/// A claim that is in step, with what the vault has to show of it.
type InStep = (Arc<KeyVaultCertificate>, Expected);

/// The claims through this KeyVault that are in step, by the identity that looks after them.
fn in_step(vault: &Vault, context: &Context) -> HashMap<Option<Identity>, Vec<InStep>> {
    let through = |claim: &Arc<KeyVaultCertificate>| {
        claim.spec.key_vault == vault.name
            && claim.spec.vault_host == vault.host.as_str()
            && claim.spec.release.is_none()
            && context.world.works(claim)
    };
    let mut found: HashMap<_, Vec<_>> = HashMap::new();
    for claim in context.world.claims.state().into_iter().filter(through) {
        let claim = context.world.written.newest(claim);
        let way = observe::way(&claim, context);
        let expected = Expected::of(&observe::desired(&claim, &way, context), &observe::memory(&claim));
        if let Some(expected) = expected {
            found.entry(way.ok().map(|way| way.identity)).or_default().push((claim, expected));
        }
    }
    found
}

async fn singly(context: &Context, claims: &[InStep]) {
    let pause = (SPREAD / u32::try_from(claims.len().max(1)).unwrap_or(u32::MAX)).min(PAUSE_MAX);
    for (claim, _) in claims {
        wake(context, claim);
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = context.stop.cancelled() => return,
        }
    }
}

fn wake(context: &Context, claim: &KeyVaultCertificate) {
    context.world.rounds.ask_comparison(&claim.uid().unwrap_or_default());
    context.world.wake.claim(ObjectRef::from_obj(claim));
}

async fn list(
    context: &Context,
    vault: &Vault,
    identity: &Identity,
    pages_max: usize,
) -> Result<Listing, VaultError> {
    let client = context.vaults.client(&vault.host, identity)?;
    if let Some(pause) = context.pace.pause_of(&vault.host) {
        tokio::time::sleep(pause).await;
    }
    let _permit = context.pace.permit(&vault.host).await;
    let answer = client.list(pages_max).await;
    context.met(vault, "list", &answer);
    answer
}
