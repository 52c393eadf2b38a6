//! What becomes of claims that no row wants, or whose Secret is gone: kept, waited with, given up.
//! The dangerous half: nothing is given up because something could not be seen, and a Secret that vanished may come back.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    ClaimAct, Confirm, Held, HeldSource, Planning, Presence, ReleaseWhy, SecretName, Source, Wanted,
};
use crate::names::ClaimName;

/// What becomes of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It stays, and a row tells of its Secret; until this moment if that is known.
    Stays(Option<i64>),
    /// It stays for its Secret to come back, until this moment if that is known.
    Waits(Option<i64>),
    /// It is given up.
    Ends(ReleaseWhy, Confirm),
}

impl<'a, S: Clone + PartialEq> Planning<'a, S> {
    /// The claims of this resource that no row wants.
    pub(super) fn others(&mut self, wanted: &BTreeSet<&ClaimName>, settled: &impl Fn(&S) -> S) {
        let mut by_secret: BTreeMap<&SecretName, Vec<usize>> = BTreeMap::new();
        for (index, row) in self.rows.iter().enumerate() {
            by_secret.entry(&row.source.secret).or_default().push(index);
        }
        for (name, claim) in self.held {
            if wanted.contains(name) || !claim.owner.is_same_resource(self.me) || claim.release.is_some() {
                continue;
            }
            match self.fate(claim, &by_secret) {
                Fate::Stays(until) => self.again(until),
                Fate::Waits(until) => {
                    self.again(until);
                    self.linger(name, claim, settled(&claim.spec));
                }
                Fate::Ends(why, confirm) => {
                    self.act(name, ClaimAct::Release(name.clone(), why, confirm));
                }
            }
        }
    }

    /// Claims that are neither wanted as they are nor given up now, and those that are being given up: suspending a resource, or
    /// having its certificates retained, is heard by all of them.
    pub(super) fn settle(&mut self, settled: &impl Fn(&S) -> S) {
        for (name, claim) in self.held {
            let is_done = self.acted.contains(name) || self.said.contains(name);
            if is_done || !claim.owner.is_same_resource(self.me) {
                continue;
            }
            let spec = settled(&claim.spec);
            if spec != claim.spec {
                self.act(name, ClaimAct::Settle(name.clone(), spec));
            }
        }
    }

    fn linger(&mut self, name: &'a ClaimName, claim: &Held<S>, spec: S) {
        if let Some(first) = claim.sources.first() {
            self.lingering.push((first.source.secret.clone(), name.clone()));
        }
        if claim.owner.uid != self.me.uid || spec != claim.spec {
            let sources = claim.sources.iter().map(|held| held.source.clone()).collect();
            self.act(name, ClaimAct::Change(name.clone(), Wanted { spec, sources }));
        }
    }

    fn fate(&self, claim: &Held<S>, by_secret: &BTreeMap<&SecretName, Vec<usize>>) -> Fate {
        let rows: Vec<usize> = claim
            .sources
            .iter()
            .filter_map(|held| by_secret.get(&held.source.secret))
            .flatten()
            .copied()
            .collect();
        let is_missing = claim.sources.iter().all(|held| held.presence != Presence::There);
        if !rows.is_empty() {
            if rows.iter().any(|row| self.is_refused(*row)) {
                return Fate::Stays(None);
            }
            if rows.iter().any(|row| self.is_nameless(*row)) {
                return self.fate_of_nameless(claim, is_missing);
            }
            if !self.terms.may_release || !rows.iter().all(|row| self.is_in_the_vault(*row)) {
                return Fate::Stays(None);
            }
            return Fate::Ends(no_longer_wanted(claim), Confirm::Nothing);
        }
        let may_return = is_missing && claim.sources.iter().any(|held| held.may_be_selected);
        match (self.terms.may_release, may_return) {
            (false, true) => Fate::Waits(None),
            (false, false) => Fate::Stays(None),
            (true, false) => Fate::Ends(no_longer_wanted(claim), Confirm::Nothing),
            (true, true) => self.fate_of_missing(claim),
        }
    }

    /// Of a Secret whose row has no name: the name may still be this one. It is listed, if it is missing.
    fn fate_of_nameless(&self, claim: &Held<S>, is_missing: bool) -> Fate {
        if !(is_missing && self.may_end_with_its_secret(claim)) {
            return Fate::Stays(None);
        }
        match missing_until(&claim.sources, self.terms.grace_secs) {
            Some(until) if until <= self.terms.now => Fate::Ends(ReleaseWhy::SecretGone, Confirm::Secrets),
            until => Fate::Stays(until),
        }
    }

    /// Of Secrets that vanished, that no row lists and that the selector could choose again.
    fn fate_of_missing(&self, claim: &Held<S>) -> Fate {
        if claim.sources.iter().all(|held| held.presence == Presence::MissingWithNamespace) {
            return Fate::Ends(ReleaseWhy::EntryGone, Confirm::Namespaces);
        }
        match missing_until(&claim.sources, self.terms.grace_secs) {
            Some(until) if until <= self.terms.now => Fate::Ends(ReleaseWhy::SecretGone, Confirm::Secrets),
            until => Fate::Waits(until),
        }
    }

    /// A listed Secret that vanished: whether its claim ends with it, or has been ended for it. With `Retain` the entry
    /// waits for ever; and a claim for which nothing was pushed is only a name that is kept, which nothing is won by
    /// giving up: the entry would take it again at once.
    pub(super) fn is_given_up_with_its_secret(
        &mut self,
        name: &'a ClaimName,
        claim: &Held<S>,
        sources: &[Source],
    ) -> bool {
        let is_missing = claim.sources.iter().all(|held| held.presence != Presence::There);
        let is_same =
            claim.sources.iter().map(|held| &held.source.secret).eq(sources.iter().map(|one| &one.secret));
        if !is_missing || !is_same || !self.terms.may_release || !self.terms.deletes {
            return false;
        }
        if claim.release == Some(ReleaseWhy::SecretGone) {
            return true;
        }
        if !claim.has_record {
            return false;
        }
        match missing_until(&claim.sources, self.terms.grace_secs) {
            Some(until) if until <= self.terms.now => {
                self.act(name, ClaimAct::Release(name.clone(), ReleaseWhy::SecretGone, Confirm::Secrets));
                true
            }
            until => {
                self.again(until);
                false
            }
        }
    }

    fn may_end_with_its_secret(&self, claim: &Held<S>) -> bool {
        self.terms.may_release && self.terms.deletes && claim.has_record
    }

    /// Whether a row's name is known, and what it wants could not be resolved.
    fn is_refused(&self, row: usize) -> bool {
        self.rows.get(row).is_none_or(|row| row.name.is_some() && row.wanted.is_err())
    }

    /// Whether a row's name is not known.
    fn is_nameless(&self, row: usize) -> bool {
        self.rows.get(row).is_none_or(|row| row.name.is_none())
    }

    /// Whether a row has its claim and that one is in the vault, as it is to be.
    fn is_in_the_vault(&self, row: usize) -> bool {
        let Some(Ok(name)) = self.outcomes.get(row) else { return false };
        !self.acted.contains(name)
            && self.held.get(name).is_some_and(|claim| claim.is_synced && claim.release.is_none())
    }
}

fn no_longer_wanted<S>(claim: &Held<S>) -> ReleaseWhy {
    if claim.in_wished_vault == Some(false) { ReleaseWhy::VaultChanged } else { ReleaseWhy::EntryGone }
}

/// When the last of these Secrets has been missing for the grace period, as far as the API server has said so of them;
/// of copies it is not always asked.
fn missing_until(sources: &[HeldSource], grace_secs: i64) -> Option<i64> {
    sources.iter().filter_map(|held| held.missing_since).max().map(|since| since.saturating_add(grace_secs))
}
