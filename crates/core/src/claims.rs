//! A wish and the claims there are → the claims to make, change and give up. Names, collisions, succession.
//! Making and changing them, and the vault, is left to the operator.

use std::collections::{BTreeMap, BTreeSet};

use crate::names::{CertificateName, ClaimName};
use crate::ownership::OwnerKind;
use crate::reason::{Problem, Reason};

/// The resource a claim belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ClaimOwner {
    /// Its kind.
    pub kind: OwnerKind,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid: a resource deleted and applied again has another.
    pub uid: String,
}

impl ClaimOwner {
    /// The same kind, namespace and name: the one resource there can be of that name, or its predecessor.
    fn is_same_resource(&self, other: &ClaimOwner) -> bool {
        self.kind == other.kind && self.namespace == other.namespace && self.name == other.name
    }
}

/// One row of a wish, resolved as far as it goes. `S` is a claim's specification.
#[derive(Clone, Debug)]
pub struct Row<S> {
    /// The Secret it is about.
    pub secret: String,
    /// The name it wants, where that could be found out.
    pub name: Option<(CertificateName, ClaimName)>,
    /// The claim it wants, or why it may not have one.
    pub wanted: Result<S, Problem>,
}

/// A claim there is.
#[derive(Clone, Debug)]
pub struct Held<S> {
    /// Who holds it.
    pub owner: ClaimOwner,
    /// The Secret it pushes.
    pub secret: String,
    /// What it says, without its release.
    pub spec: S,
    /// Whether it is being given up.
    pub is_released: bool,
    /// Whether its present generation is in the vault.
    pub is_synced: bool,
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
}

/// What is to be done with claims.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClaimAct<S> {
    /// Make it, by POST: whoever is first has the name.
    Create(ClaimName, S),
    /// Change it (and take it out of release), by PUT with the resourceVersion that was looked at.
    Change(ClaimName, S),
    /// Give it up.
    Release(ClaimName, ReleaseWhy),
}

/// The outcome of planning a wish.
#[derive(Clone, Debug)]
pub struct ClaimPlan<S> {
    /// For each row, its claim or why it has none; in the order of the rows.
    pub rows: Vec<Result<ClaimName, Problem>>,
    /// What to do; at most one act a claim.
    pub acts: Vec<ClaimAct<S>>,
}

/// Plans one wish. `held` are all claims that this resource (by kind, namespace and name) holds, and all whose name one
/// of the rows wants. `may_release` is false while the wish does not resolve as a whole: nothing is given up because
/// something could not be seen.
pub fn plan<S: Clone + PartialEq>(
    me: &ClaimOwner,
    rows: &[Row<S>],
    held: &BTreeMap<ClaimName, Held<S>>,
    may_release: bool,
) -> ClaimPlan<S> {
    let mut outcomes = Vec::with_capacity(rows.len());
    let mut acts = Vec::new();
    let mut taken: BTreeMap<&ClaimName, &str> = BTreeMap::new();
    for row in rows {
        let outcome = plan_row(me, row, held, &mut taken, &mut acts);
        outcomes.push(outcome);
    }
    if may_release && rows.iter().all(|row| row.name.is_some()) {
        acts.extend(releases(me, rows, held));
    }
    ClaimPlan { rows: outcomes, acts }
}

fn plan_row<'a, S: Clone + PartialEq>(
    me: &ClaimOwner,
    row: &'a Row<S>,
    held: &BTreeMap<ClaimName, Held<S>>,
    taken: &mut BTreeMap<&'a ClaimName, &'a str>,
    acts: &mut Vec<ClaimAct<S>>,
) -> Result<ClaimName, Problem> {
    let Some((certificate, name)) = &row.name else {
        return row
            .wanted
            .as_ref()
            .err()
            .map_or_else(|| Err(nameless(&row.secret)), |problem| Err(problem.clone()));
    };
    if let Some(first) = taken.get(name) {
        return Err(Problem::new(
            Reason::NameCollision,
            format!(
                "Secrets {first} and {} of this resource both want the certificate name {certificate}; the first entry \
                 has it: give the other one another certificateName",
                row.secret
            ),
        ));
    }
    taken.insert(name, &row.secret);
    let spec = row.wanted.as_ref().map_err(Clone::clone)?;
    match held.get(name) {
        None => acts.push(ClaimAct::Create(name.clone(), spec.clone())),
        Some(claim) if claim.owner.is_same_resource(me) => {
            if claim.owner.uid != me.uid || claim.is_released || claim.spec != *spec {
                acts.push(ClaimAct::Change(name.clone(), spec.clone()));
            }
        }
        Some(claim) => return Err(collision(certificate, &claim.owner)),
    }
    Ok(name.clone())
}

/// Ours, and no row wants them any more. A claim whose Secret has moved to another name or vault stays until the new
/// one is in the vault.
fn releases<S>(me: &ClaimOwner, rows: &[Row<S>], held: &BTreeMap<ClaimName, Held<S>>) -> Vec<ClaimAct<S>> {
    let wanted: BTreeSet<&ClaimName> =
        rows.iter().filter_map(|row| row.name.as_ref()).map(|(_, name)| name).collect();
    let is_still_needed = |claim: &Held<S>| {
        rows.iter().filter(|row| row.secret == claim.secret).filter_map(|row| row.name.as_ref()).any(
            |(_, successor)| {
                !held.get(successor).is_some_and(|new| new.owner.is_same_resource(me) && new.is_synced)
            },
        )
    };
    held.iter()
        .filter(|(name, claim)| {
            claim.owner.is_same_resource(me) && !claim.is_released && !wanted.contains(name)
        })
        .filter(|(_, claim)| !is_still_needed(claim))
        .map(|(name, claim)| {
            let why = if claim.in_wished_vault == Some(false) {
                ReleaseWhy::VaultChanged
            } else {
                ReleaseWhy::EntryGone
            };
            ClaimAct::Release(name.clone(), why)
        })
        .collect()
}

/// Somebody else holds the name.
pub fn collision(certificate: &CertificateName, holder: &ClaimOwner) -> Problem {
    Problem::new(
        Reason::NameCollision,
        format!(
            "the certificate name {certificate} is held by {} {}/{}: choose another certificateName, or remove it there",
            holder.kind.as_str(),
            holder.namespace,
            holder.name
        ),
    )
}

fn nameless(secret: &str) -> Problem {
    Problem::new(
        Reason::InternalError,
        format!("Secret {secret} was planned without a certificate name: please report this"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::{Cloud, VaultHost};

    fn owner(name: &str, uid: &str) -> ClaimOwner {
        ClaimOwner {
            kind: OwnerKind::KeyVaultSync,
            namespace: "web".into(),
            name: name.into(),
            uid: uid.into(),
        }
    }

    fn named(certificate: &str, vault: &str) -> (CertificateName, ClaimName) {
        let name = CertificateName::parse(certificate).unwrap();
        let host = VaultHost::from_url(&format!("https://{vault}.vault.azure.net"), &Cloud::ALL).unwrap();
        let claim = ClaimName::new(&name, &host);
        (name, claim)
    }

    fn row(secret: &str, certificate: &str) -> Row<&'static str> {
        Row { secret: secret.into(), name: Some(named(certificate, "contoso")), wanted: Ok("spec") }
    }

    fn held(
        owner: ClaimOwner,
        secret: &str,
        certificate: &str,
        vault: &str,
    ) -> (ClaimName, Held<&'static str>) {
        let claim = Held {
            owner,
            secret: secret.into(),
            spec: "spec",
            is_released: false,
            is_synced: true,
            in_wished_vault: Some(vault == "contoso"),
        };
        (named(certificate, vault).1, claim)
    }

    fn claim(certificate: &str) -> ClaimName {
        named(certificate, "contoso").1
    }

    #[test]
    fn a_row_makes_its_claim_once() {
        let me = owner("web", "1");
        let first = plan(&me, &[row("a", "a")], &BTreeMap::new(), true);
        assert_eq!(first.acts, vec![ClaimAct::Create(claim("a"), "spec")]);
        let again =
            plan(&me, &[row("a", "A")], &BTreeMap::from([held(me.clone(), "a", "a", "contoso")]), true);
        assert_eq!(again.acts, vec![]);
        assert_eq!(again.rows, vec![Ok(claim("a"))]);
    }

    #[test]
    fn two_rows_after_one_name_the_first_has_it() {
        let plan = plan(&owner("web", "1"), &[row("a", "x"), row("b", "X")], &BTreeMap::new(), true);
        assert_eq!(plan.acts.len(), 1);
        assert!(plan.rows[0].is_ok());
        let problem = plan.rows[1].as_ref().unwrap_err();
        assert_eq!(problem.reason, Reason::NameCollision);
        assert!(problem.message.contains("a and b"), "{}", problem.message);
    }

    #[test]
    fn a_name_that_another_resource_holds_is_a_collision_that_names_it() {
        let there = BTreeMap::from([held(owner("other", "2"), "z", "a", "contoso")]);
        let plan = plan(&owner("web", "1"), &[row("a", "a")], &there, true);
        assert_eq!(plan.acts, vec![]);
        assert!(plan.rows[0].as_ref().unwrap_err().message.contains("KeyVaultSync web/other"));
    }

    #[test]
    fn a_resource_applied_again_succeeds_itself() {
        let mut there = BTreeMap::from([held(owner("web", "old"), "a", "a", "contoso")]);
        assert_eq!(
            plan(&owner("web", "new"), &[row("a", "a")], &there, true).acts,
            vec![ClaimAct::Change(claim("a"), "spec")]
        );
        there.get_mut(&claim("a")).unwrap().is_released = true;
        assert_eq!(
            plan(&owner("web", "old"), &[row("a", "a")], &there, true).acts,
            vec![ClaimAct::Change(claim("a"), "spec")],
            "a claim being given up is taken back"
        );
    }

    #[test]
    fn an_entry_removed_gives_up_its_claim_and_nobody_elses() {
        let me = owner("web", "1");
        let there = BTreeMap::from([
            held(me.clone(), "a", "a", "contoso"),
            held(me.clone(), "b", "b", "contoso"),
            held(owner("other", "2"), "c", "c", "contoso"),
        ]);
        assert_eq!(
            plan(&me, &[row("a", "a")], &there, true).acts,
            vec![ClaimAct::Release(claim("b"), ReleaseWhy::EntryGone)]
        );
    }

    #[test]
    fn a_wish_that_does_not_resolve_gives_up_nothing() {
        let me = owner("web", "1");
        let there =
            BTreeMap::from([held(me.clone(), "a", "a", "contoso"), held(me.clone(), "b", "b", "contoso")]);
        assert_eq!(plan(&me, &[row("a", "a")], &there, false).acts, vec![]);
        let nameless =
            Row { secret: "b".into(), name: None, wanted: Err(Problem::new(Reason::InvalidName, "x")) };
        assert_eq!(plan(&me, &[row("a", "a"), nameless], &there, true).acts, vec![]);
    }

    #[test]
    fn a_refused_row_keeps_the_claim_it_has() {
        let me = owner("web", "1");
        let mut refused = row("a", "a");
        refused.wanted = Err(Problem::new(Reason::NotGranted, "x"));
        let plan = plan(&me, &[refused], &BTreeMap::from([held(me.clone(), "a", "a", "contoso")]), true);
        assert_eq!(plan.acts, vec![]);
        assert_eq!(plan.rows[0].as_ref().unwrap_err().reason, Reason::NotGranted);
    }

    #[test]
    fn a_new_name_or_vault_releases_the_old_claim_only_when_the_new_one_is_synced() {
        let me = owner("web", "1");
        for (old_vault, why) in [("contoso", ReleaseWhy::EntryGone), ("fabrikam", ReleaseWhy::VaultChanged)] {
            let old = held(me.clone(), "a", "old", old_vault);
            let old_name = old.0.clone();
            let mut there = BTreeMap::from([old, held(me.clone(), "a", "new", "contoso")]);
            there.get_mut(&claim("new")).unwrap().is_synced = false;
            assert_eq!(plan(&me, &[row("a", "new")], &there, true).acts, vec![]);
            there.get_mut(&claim("new")).unwrap().is_synced = true;
            assert_eq!(
                plan(&me, &[row("a", "new")], &there, true).acts,
                vec![ClaimAct::Release(old_name, why)]
            );
        }
    }
}
