//! The Secrets that share a claim with the one that is pushed: is each a copy of it, and since when not?
//! What follows for their rows is left to the sync controller; only a ClusterKeyVaultSync has copies.

use keyvault_sync_api::{KeyVaultCertificate, SeenSource};
use keyvault_sync_core::fingerprint::Fingerprint;
use keyvault_sync_core::push::Observed;

use super::observe::{self, Source};
use super::resolve::{self, Found};
use super::status::{self, Outcome};
use crate::context::Context;

/// What became of the comparison.
#[derive(Default)]
pub(crate) struct Copies {
    /// All sources of the claim but the first, in their order.
    pub(crate) seen: Vec<SeenSource>,
    /// One could not be read: soon again.
    pub(crate) is_incomplete: bool,
}

/// Looks at each copy whose edition was not compared with what the vault holds now.
pub(crate) async fn compare(
    claim: &KeyVaultCertificate,
    context: &Context,
    observed: &Observed,
    outcome: &Outcome,
) -> Copies {
    let before = status::of(claim);
    let sources = observe::sources(claim);
    let mut copies = Copies::default();
    let pushed = outcome.pushed(observed);
    let is_same_push = pushed.is_some()
        && pushed
            == before
                .adopted_with
                .as_ref()
                .or(before.fingerprint.as_ref())
                .and_then(|text| text.parse().ok());
    for source in sources.into_iter().skip(1) {
        let old = source.seen(&before).cloned();
        let edition = observe::edition(&source, context);
        let is_known = is_same_push
            && old.as_ref().is_some_and(|old| old.equal.is_some() && observe::seen_edition(old) == edition);
        let seen = match (&pushed, old) {
            // Nothing is in the vault that it could be compared with.
            (None, old) => old.unwrap_or_else(|| unseen(&source)),
            (Some(_), Some(old)) if is_known => old,
            (Some(pushed), old) => match look(&source, context, observed.now, pushed).await {
                Some(seen) => since(seen, old),
                None => {
                    copies.is_incomplete = true;
                    old.unwrap_or_else(|| unseen(&source))
                }
            },
        };
        copies.seen.push(seen);
    }
    copies
}

fn unseen(source: &Source) -> SeenSource {
    SeenSource {
        namespace: source.namespace.clone(),
        name: source.name.clone(),
        uid: None,
        resource_version: None,
        missing_since: None,
        equal: None,
        differs_since: None,
    }
}

/// Reads a copy. `None`: the API server did not answer.
async fn look(source: &Source, context: &Context, now: i64, pushed: &Fingerprint) -> Option<SeenSource> {
    let _place = context.in_memory.acquire().await.ok()?;
    match resolve::content(source, context, now).await {
        Err(_) => None,
        Ok(Found::Missing) => Some(SeenSource { missing_since: Some(status::stamp()), ..unseen(source) }),
        Ok(Found::Read { version, chain }) => {
            let is_equal = chain.is_ok_and(|chain| {
                let there = resolve::facts(&chain);
                there.fingerprint == *pushed || there.leaf == *pushed
            });
            Some(SeenSource {
                uid: Some(version.uid),
                resource_version: Some(version.resource_version),
                equal: Some(is_equal),
                differs_since: (!is_equal).then(status::stamp),
                ..unseen(source)
            })
        }
    }
}

/// What goes on keeps the time at which it began.
fn since(seen: SeenSource, old: Option<SeenSource>) -> SeenSource {
    let old = old.unwrap_or_else(|| SeenSource { differs_since: None, missing_since: None, ..seen.clone() });
    SeenSource {
        differs_since: seen.differs_since.map(|now| old.differs_since.unwrap_or(now)),
        missing_since: seen.missing_since.map(|now| old.missing_since.unwrap_or(now)),
        ..seen
    }
}
