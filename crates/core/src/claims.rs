//! A wish and the claims there are → the claims to make, change and give up. Names, collisions, sharing, succession.
//! Making and changing them, and the vault, is left to the operator.

mod copies;
mod fate;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::names::{CertificateName, ClaimName};
use crate::ownership::OwnerKind;
use crate::reason::{Problem, Reason};

pub use copies::{Copy, SeenCopy, copy};

/// The resource a claim belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ClaimOwner {
    /// Its kind.
    pub kind: OwnerKind,
    /// Its namespace; empty for a kind that has none.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid: a resource deleted and applied again has another.
    pub uid: String,
}

impl ClaimOwner {
    /// The same kind, namespace and name: the one resource there can be of that name, or its predecessor.
    pub fn is_same_resource(&self, other: &ClaimOwner) -> bool {
        self.kind == other.kind && self.namespace == other.namespace && self.name == other.name
    }

    /// Whether several Secrets may share one of its claims.
    fn shares(&self) -> bool {
        match self.kind {
            OwnerKind::KeyVaultSync => false,
            OwnerKind::ClusterKeyVaultSync => true,
        }
    }
}

/// A Secret, by namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SecretName {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl fmt::Display for SecretName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A Secret to push from, and where in it certificate and private key are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The Secret.
    pub secret: SecretName,
    /// The keys of its data: certificate, private key.
    pub keys: [String; 2],
}

/// One row of a wish, resolved as far as it goes: a listed Secret, or one that the selector matches. `S` is what a claim
/// says but for its sources and its release.
#[derive(Clone, Debug)]
pub struct Row<S> {
    /// The Secret it is about.
    pub source: Source,
    /// Whether an entry lists it; else the selector matches it.
    pub is_listed: bool,
    /// The name it wants, where that could be found out.
    pub name: Option<(CertificateName, ClaimName)>,
    /// What its claim is to say, or why it may not have one.
    pub wanted: Result<S, Problem>,
}

/// What a claim is to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted<S> {
    /// All but the sources.
    pub spec: S,
    /// The Secrets to push from; the first is pushed.
    pub sources: Vec<Source>,
}

/// Whether a claim's Secret is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// It is.
    There,
    /// The watches do not show it.
    Missing,
    /// The watches show neither it nor a namespace that is to stay.
    MissingWithNamespace,
}

/// A Secret that a claim pushes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldSource {
    /// The Secret.
    pub source: Source,
    /// Whether it is there.
    pub presence: Presence,
    /// Since when (unix seconds) the API server itself says that it is missing, as far as that was asked.
    pub missing_since: Option<i64>,
    /// Whether the wish's selector could choose it if it came back.
    pub may_be_selected: bool,
    /// Whether its content is known to equal what is pushed; of copies alone.
    pub is_equal: bool,
}

/// A claim there is.
#[derive(Clone, Debug)]
pub struct Held<S> {
    /// Who holds it.
    pub owner: ClaimOwner,
    /// The Secrets it pushes from.
    pub sources: Vec<HeldSource>,
    /// What it says, without its sources and its release.
    pub spec: S,
    /// Why it is being given up, if it is.
    pub release: Option<ReleaseWhy>,
    /// Whether its present generation is in the vault.
    pub is_synced: bool,
    /// Whether anything was pushed for it.
    pub has_record: bool,
    /// Whether it lives in the vault that the wish names now; `None` while the wish's vault is unknown.
    pub in_wished_vault: Option<bool>,
}

/// Why a claim is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReleaseWhy {
    /// The wish no longer has this entry or this name.
    EntryGone,
    /// The wish names another vault.
    VaultChanged,
    /// The resource is gone.
    OwnerGone,
    /// The Secret was missing for the grace period.
    SecretGone,
}

/// What the API server has to confirm, asked itself, before a claim is given up: a watch may be late or blind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confirm {
    /// Nothing: what leads to the release was seen.
    Nothing,
    /// That the claim's Secrets do not exist.
    Secrets,
    /// That the claim's Secrets do not exist, nor their namespaces, or that these are being deleted.
    Namespaces,
}

/// What is to be done with claims.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClaimAct<S> {
    /// Make it, by POST: whoever is first has the name.
    Create(ClaimName, Wanted<S>),
    /// Change it (and take it out of release), by PUT with the resourceVersion that was looked at.
    Change(ClaimName, Wanted<S>),
    /// Tell it how it ends (and whether anything is written for it) as the wish says that now; nothing else of it changes.
    Settle(ClaimName, S),
    /// Give it up.
    Release(ClaimName, ReleaseWhy, Confirm),
}

impl<S> ClaimAct<S> {
    /// The claim it is about.
    pub fn name(&self) -> &ClaimName {
        match self {
            ClaimAct::Create(name, _)
            | ClaimAct::Change(name, _)
            | ClaimAct::Settle(name, _)
            | ClaimAct::Release(name, ..) => name,
        }
    }
}

/// What of a wish bears on giving up claims.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// Whether anything may be given up. False while the wish does not resolve as a whole or is suspended: nothing is
    /// given up because something could not be seen.
    pub may_release: bool,
    /// Whether a certificate that is given up is deleted in the vault.
    pub deletes: bool,
    /// How long a Secret may be missing, seconds.
    pub grace_secs: i64,
    /// How many Secrets one claim can have.
    pub sources_max: usize,
    /// Unix seconds.
    pub now: i64,
}

/// The outcome of planning a wish.
#[derive(Clone, Debug)]
pub struct ClaimPlan<S> {
    /// For each row, its claim or why it has none; in the order of the rows.
    pub rows: Vec<Result<ClaimName, Problem>>,
    /// Claims that are kept although their Secret is missing and no row speaks of it: a Secret that vanished may be on
    /// its way back.
    pub lingering: Vec<(SecretName, ClaimName)>,
    /// Names that are wanted and held by others.
    pub lost: BTreeSet<ClaimName>,
    /// What to do; at most one act a claim.
    pub acts: Vec<ClaimAct<S>>,
    /// When (unix seconds) to plan again at the latest: a grace period ends.
    pub again_at: Option<i64>,
}

/// Plans one wish. `rows` stand in the order in which they come first to a name. `held` are all claims that this
/// resource (by kind, namespace and name) holds, and all whose name one of the rows wants. `settled` says what a claim
/// that waits for its Secret is to say now: who holds it and how it ends may have changed meanwhile.
pub fn plan<S: Clone + PartialEq>(
    me: &ClaimOwner,
    rows: &[Row<S>],
    held: &BTreeMap<ClaimName, Held<S>>,
    terms: &Terms,
    settled: impl Fn(&S) -> S,
) -> ClaimPlan<S> {
    let mut planning = Planning {
        me,
        rows,
        held,
        terms,
        outcomes: rows.iter().map(unnamed).collect(),
        lingering: Vec::new(),
        lost: BTreeSet::new(),
        acts: Vec::new(),
        acted: BTreeSet::new(),
        said: BTreeSet::new(),
        again_at: None,
    };
    let mut by_name: BTreeMap<&ClaimName, Vec<usize>> = BTreeMap::new();
    for (index, row) in rows.iter().enumerate() {
        if let Some((_, name)) = &row.name {
            by_name.entry(name).or_default().push(index);
        }
    }
    for (name, indices) in &by_name {
        planning.name(name, indices);
    }
    let wanted: BTreeSet<&ClaimName> = by_name.into_keys().collect();
    planning.others(&wanted, &settled);
    planning.settle(&settled);
    let Planning { outcomes, lingering, lost, acts, again_at, .. } = planning;
    ClaimPlan { rows: outcomes, lingering, lost, acts, again_at }
}

/// What the claim of one name is to say, of all `rows` that want it and in their order; `present` are the Secrets it has
/// now. `None`: no row may have it.
pub fn wanted<S: Clone>(
    me: &ClaimOwner,
    rows: &[&Row<S>],
    present: &[Source],
    sources_max: usize,
) -> Option<Wanted<S>> {
    if !me.shares() {
        let first = holder_of(rows, present)?;
        let spec = first.wanted.as_ref().ok()?.clone();
        return Some(Wanted { spec, sources: vec![first.source.clone()] });
    }
    let allowed: Vec<&Row<S>> = rows.iter().copied().filter(|row| row.wanted.is_ok()).collect();
    let order = in_order(&allowed, present);
    let spec = order.first()?.wanted.as_ref().ok()?.clone();
    Some(Wanted { spec, sources: order.iter().take(sources_max).map(|row| row.source.clone()).collect() })
}

/// Which of these rows has the name, where it is not shared: an entry before what is selected; of what is selected, the Secret that
/// has it keeps it (issued anew it is the youngest, and must not lose it for that); else the first.
fn holder_of<'a, S>(rows: &[&'a Row<S>], present: &[Source]) -> Option<&'a Row<S>> {
    let first = *rows.first()?;
    let has_it = |row: &&&Row<S>| {
        row.wanted.is_ok() && present.first().is_some_and(|source| source.secret == row.source.secret)
    };
    let holder = rows.iter().find(has_it).filter(|holder| holder.is_listed || !first.is_listed);
    Some(holder.copied().unwrap_or(first))
}

/// Who is pushed does not alternate: present Secrets that are still wanted keep their places, new ones come after them.
fn in_order<'a, S>(rows: &[&'a Row<S>], present: &[Source]) -> Vec<&'a Row<S>> {
    let mut wanting: BTreeMap<&SecretName, &'a Row<S>> =
        rows.iter().map(|row| (&row.source.secret, *row)).collect();
    let mut order: Vec<&'a Row<S>> =
        present.iter().filter_map(|source| wanting.remove(&source.secret)).collect();
    order.extend(rows.iter().filter_map(|row| wanting.remove(&row.source.secret)));
    order
}

/// The Secrets of a claim in the order in which they have a right to be pushed: as they stand; where the first is missing, those
/// known to equal it before the others.
fn places<S>(claim: Option<&Held<S>>) -> Vec<Source> {
    let Some(claim) = claim else { return Vec::new() };
    let mut places: Vec<&HeldSource> = claim.sources.iter().collect();
    if places.first().is_some_and(|first| first.presence != Presence::There) {
        places.sort_by_key(|held| !held.is_equal);
    }
    places.into_iter().map(|held| held.source.clone()).collect()
}

/// What stands on a row whose name is not known; overwritten where it is.
fn unnamed<S>(row: &Row<S>) -> Result<ClaimName, Problem> {
    Err(row.wanted.as_ref().err().cloned().unwrap_or_else(|| nameless(&row.source.secret)))
}

fn nameless(secret: &SecretName) -> Problem {
    Problem::new(
        Reason::InternalError,
        format!("Secret {secret} was planned without a certificate name: please report this"),
    )
}

/// A plan in the making.
struct Planning<'a, S> {
    me: &'a ClaimOwner,
    rows: &'a [Row<S>],
    held: &'a BTreeMap<ClaimName, Held<S>>,
    terms: &'a Terms,
    outcomes: Vec<Result<ClaimName, Problem>>,
    lingering: Vec<(SecretName, ClaimName)>,
    lost: BTreeSet<ClaimName>,
    acts: Vec<ClaimAct<S>>,
    acted: BTreeSet<&'a ClaimName>,
    /// Claims that say already what is wanted.
    said: BTreeSet<&'a ClaimName>,
    again_at: Option<i64>,
}

impl<'a, S: Clone + PartialEq> Planning<'a, S> {
    /// One name, and the rows that want it.
    fn name(&mut self, name: &'a ClaimName, indices: &[usize]) {
        let rows: Vec<&Row<S>> = indices.iter().filter_map(|index| self.rows.get(*index)).collect();
        let claim = self.held.get(name);
        let mine = claim.filter(|claim| claim.owner.is_same_resource(self.me));
        let kept = mine.and_then(|claim| self.kept_place(claim, &rows));
        let wanted = wanted(self.me, &rows, &places(mine), self.terms.sources_max);
        let wanted = match (wanted, &kept) {
            (Some(wanted), Some(first)) => Some(self.behind(first, wanted)),
            (wanted, _) => wanted,
        };
        if let Some(first) = &kept {
            self.lingering.push((first.secret.clone(), name.clone()));
        }
        let holder = wanted.as_ref().and_then(|wanted| wanted.sources.first()).cloned();
        for (index, row) in indices.iter().zip(&rows) {
            let outcome = match (&row.wanted, claim, &wanted) {
                (Err(problem), ..) => Err(problem.clone()),
                (Ok(_), Some(claim), _) if mine.is_none() => Err(Self::held_by(row, claim)),
                (Ok(_), _, Some(wanted)) if is_among(row, wanted) => Ok(name.clone()),
                (Ok(_), ..) => Err(self.second(row, holder.as_ref())),
            };
            if let Some(place) = self.outcomes.get_mut(*index) {
                *place = outcome;
            }
        }
        if claim.is_some() && mine.is_none() {
            self.lost.extend(wanted.map(|_| name.clone()));
        } else if let Some(wanted) = wanted {
            self.claim(name, mine, wanted);
        }
    }

    /// The Secret that is pushed vanished, and others want its name: it keeps its place for the grace period, unless a copy
    /// is known to be equal. Deleting a Secret is how a certificate is issued anew, and must not push another's instead.
    fn kept_place(&mut self, claim: &Held<S>, rows: &[&Row<S>]) -> Option<Source> {
        let first = claim.sources.first()?;
        let is_wanted = |held: &HeldSource| {
            rows.iter().any(|row| row.source.secret == held.source.secret && row.wanted.is_ok())
        };
        let is_waited_for = first.presence == Presence::Missing
            && first.may_be_selected
            && claim.has_record
            && claim.release.is_none()
            && !rows.iter().any(|row| row.source.secret == first.source.secret)
            && !claim.sources.iter().any(|held| held.is_equal && is_wanted(held));
        if !is_waited_for {
            return None;
        }
        let until = first.missing_since.map(|since| since.saturating_add(self.terms.grace_secs));
        if until.is_some_and(|until| until <= self.terms.now) {
            return None;
        }
        self.again(until);
        Some(first.source.clone())
    }

    /// The same with this Secret before the others; where nothing is shared, with it alone.
    fn behind(&self, first: &Source, wanted: Wanted<S>) -> Wanted<S> {
        let others = wanted.sources.into_iter().filter(|_| self.me.shares());
        let sources = std::iter::once(first.clone()).chain(others).take(self.terms.sources_max).collect();
        Wanted { spec: wanted.spec, sources }
    }

    /// A name that is ours to have.
    fn claim(&mut self, name: &'a ClaimName, mine: Option<&'a Held<S>>, wanted: Wanted<S>) {
        let Some(claim) = mine else { return self.act(name, ClaimAct::Create(name.clone(), wanted)) };
        if self.is_given_up_with_its_secret(name, claim, &wanted.sources) {
            return;
        }
        let is_said = claim.owner.uid == self.me.uid
            && claim.spec == wanted.spec
            && claim.sources.iter().map(|held| &held.source).eq(&wanted.sources);
        if !is_said || claim.release.is_some() {
            self.act(name, ClaimAct::Change(name.clone(), wanted));
        } else {
            self.said.insert(name);
        }
    }

    fn act(&mut self, name: &'a ClaimName, act: ClaimAct<S>) {
        self.acted.insert(name);
        self.acts.push(act);
    }

    /// Plan again at this moment, if not before.
    fn again(&mut self, at: Option<i64>) {
        self.again_at = self.again_at.into_iter().chain(at).min();
    }

    /// The name is another resource's.
    fn held_by(row: &Row<S>, claim: &Held<S>) -> Problem {
        match &row.name {
            Some((certificate, _)) => collision(certificate, &claim.owner),
            None => nameless(&row.source.secret),
        }
    }

    /// The name is taken by other Secrets of this very resource.
    fn second(&self, row: &Row<S>, first: Option<&Source>) -> Problem {
        let certificate = row.name.as_ref().map_or("", |(certificate, _)| certificate.as_str());
        let first = first.map_or("", |first| first.secret.name.as_str());
        let secret = &row.source.secret;
        let message = if self.me.shares() {
            format!(
                "{} Secrets share the certificate name {certificate} already, and Secret {secret} is one more: exclude \
                 copies that nobody needs, or change the template",
                self.terms.sources_max
            )
        } else {
            format!(
                "Secrets {first} and {} of this resource both want the certificate name {certificate}; the first has \
                 it: give the other one another certificateName",
                secret.name
            )
        };
        Problem::new(Reason::NameCollision, message)
    }
}

fn is_among<S>(row: &Row<S>, wanted: &Wanted<S>) -> bool {
    // Where there is one source, this is a comparison; a hundred are not searched often enough to be sorted.
    wanted.sources.iter().any(|source| source.secret == row.source.secret)
}

/// Somebody else holds the name.
pub fn collision(certificate: &CertificateName, holder: &ClaimOwner) -> Problem {
    let place = if holder.namespace.is_empty() {
        holder.name.clone()
    } else {
        format!("{}/{}", holder.namespace, holder.name)
    };
    Problem::new(
        Reason::NameCollision,
        format!(
            "the certificate name {certificate} is held by {} {place}: choose another certificateName, or remove it there",
            holder.kind.as_str()
        ),
    )
}

#[cfg(test)]
mod tests;
