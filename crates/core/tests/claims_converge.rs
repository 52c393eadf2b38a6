//! Invariant 10 for wishes: a plan carried out leaves nothing to do, whatever rows and claims there are; and what a plan never does.
//! What each rule says is left to the tables beside `claims.rs`.

// clippy takes functions beside the tests of an integration test for product code.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};

use keyvault_sync_core::claims::{
    ClaimAct, ClaimOwner, ClaimPlan, Held, HeldSource, Presence, ReleaseWhy, Row, SecretName, Source, Terms,
    plan,
};
use keyvault_sync_core::names::{CertificateName, ClaimName, Cloud, VaultHost};
use keyvault_sync_core::ownership::OwnerKind;
use keyvault_sync_core::reason::{Problem, Reason};
use proptest::prelude::*;

const NOW: i64 = 1_000_000;
const NAMES: [&str; 3] = ["one", "two", "three"];
const VAULTS: [&str; 2] = ["contoso", "fabrikam"];
const SECRETS: usize = 5;
/// What a claim that waits for its Secret says.
const SETTLED: u8 = 9;

type Claims = BTreeMap<ClaimName, Held<u8>>;

/// One Secret of the small cluster.
#[derive(Clone, Copy, Debug)]
struct SecretCase {
    presence: Presence,
    missing_since: Option<i64>,
    may_be_selected: bool,
    is_equal: bool,
}

/// What a row wants: a name (none: it has none), refused or not, and what its claim would say.
type RowCase = (usize, Option<usize>, bool, u8);

#[derive(Clone, Debug)]
struct HeldCase {
    name: (usize, usize),
    owner: u8,
    sources: Vec<usize>,
    spec: u8,
    release: Option<ReleaseWhy>,
    is_synced: bool,
    has_record: bool,
}

#[derive(Clone, Debug)]
struct Case {
    me: ClaimOwner,
    secrets: Vec<SecretCase>,
    rows: Vec<RowCase>,
    held: Vec<HeldCase>,
    terms: Terms,
}

fn owner(kind: OwnerKind, name: &str, uid: &str) -> ClaimOwner {
    let namespace = if kind == OwnerKind::KeyVaultSync { "web".into() } else { String::new() };
    ClaimOwner { kind, namespace, name: name.into(), uid: uid.into() }
}

fn named(name: usize, vault: usize) -> (CertificateName, ClaimName) {
    let certificate = CertificateName::parse(NAMES[name]).unwrap();
    let url = format!("https://{}.vault.azure.net", VAULTS[vault]);
    let claim = ClaimName::new(&certificate, &VaultHost::from_url(&url, &Cloud::ALL).unwrap());
    (certificate, claim)
}

fn source(secret: usize) -> Source {
    let secret = SecretName { namespace: "web".into(), name: format!("secret-{secret}") };
    Source { secret, keys: ["tls.crt".into(), "tls.key".into()] }
}

impl Case {
    fn rows(&self) -> Vec<Row<u8>> {
        let is_cluster = self.me.kind == OwnerKind::ClusterKeyVaultSync;
        let mut seen = BTreeSet::new();
        let rows = self.rows.iter().filter(|(secret, ..)| {
            // A Secret has one row; one that is missing has none unless it is listed.
            let is_there = self.secrets[*secret].presence == Presence::There;
            (is_there || !is_cluster) && seen.insert(*secret)
        });
        rows.map(|(secret, name, is_refused, spec)| Row {
            source: source(*secret),
            is_listed: secret % 2 == 0,
            name: name.map(|name| named(name, 0)),
            wanted: match (is_refused, name) {
                (false, Some(_)) => Ok(*spec),
                _ => Err(Problem::new(Reason::NotGranted, "refused")),
            },
        })
        .collect()
    }

    fn look(&self, source: &Source) -> HeldSource {
        let index: usize = source.secret.name.strip_prefix("secret-").unwrap().parse().unwrap();
        let SecretCase { presence, missing_since, may_be_selected, is_equal } = self.secrets[index];
        let missing_since = missing_since.filter(|_| presence != Presence::There);
        HeldSource { source: source.clone(), presence, missing_since, may_be_selected, is_equal }
    }

    /// Of a Secret that is new to its claim nobody has asked yet whether it is missing, or equal.
    fn look_after(&self, source: &Source, before: Option<&Held<u8>>) -> HeldSource {
        let is_known = before.is_some_and(|claim| claim.sources.iter().any(|held| held.source == *source));
        let look = self.look(source);
        let missing_since = look.missing_since.filter(|_| is_known);
        HeldSource { missing_since, is_equal: look.is_equal && is_known, ..look }
    }

    fn held(&self) -> Claims {
        let kind = self.me.kind;
        let most = if kind == OwnerKind::ClusterKeyVaultSync { self.terms.sources_max } else { 1 };
        let claim = |case: &HeldCase| {
            let owner = match case.owner {
                0 => self.me.clone(),
                1 => owner(kind, "me", "old"),
                _ => owner(kind, "other", "2"),
            };
            let distinct: BTreeSet<usize> = case.sources.iter().copied().collect();
            Held {
                owner,
                sources: distinct.into_iter().take(most).map(|one| self.look(&source(one))).collect(),
                spec: case.spec,
                release: case.release,
                is_synced: case.is_synced,
                has_record: case.has_record,
                in_wished_vault: Some(case.name.1 == 0),
            }
        };
        self.held.iter().map(|case| (named(case.name.0, case.name.1).1, claim(case))).collect()
    }

    fn plan(&self, held: &Claims) -> ClaimPlan<u8> {
        plan(&self.me, &self.rows(), held, &self.terms, |_| SETTLED)
    }

    /// The claims after a plan. What was written is not in the vault yet.
    fn carry_out(&self, mut held: Claims, plan: &ClaimPlan<u8>) -> Claims {
        for act in &plan.acts {
            match act {
                ClaimAct::Create(name, wanted) | ClaimAct::Change(name, wanted) => {
                    let before = held.get(name);
                    let claim = Held {
                        owner: self.me.clone(),
                        sources: wanted.sources.iter().map(|one| self.look_after(one, before)).collect(),
                        spec: wanted.spec,
                        release: None,
                        is_synced: false,
                        has_record: before.is_some_and(|claim| claim.has_record),
                        in_wished_vault: before.map_or(Some(true), |claim| claim.in_wished_vault),
                    };
                    held.insert(name.clone(), claim);
                }
                ClaimAct::Settle(name, spec) => held.get_mut(name).unwrap().spec = *spec,
                ClaimAct::Release(name, why, _) => {
                    let claim = held.get_mut(name).unwrap();
                    // A release has the last word of its wish.
                    (claim.release, claim.spec) = (Some(*why), SETTLED);
                }
            }
        }
        held
    }
}

fn cases() -> impl Strategy<Value = Case> {
    let presence = prop_oneof![
        3 => Just(Presence::There),
        2 => Just(Presence::Missing),
        1 => Just(Presence::MissingWithNamespace)
    ];
    let since = prop_oneof![Just(None), Just(Some(NOW - 10)), Just(Some(NOW - 100))];
    let secret = (presence, since, any::<bool>(), any::<bool>()).prop_map(
        |(presence, missing_since, may_be_selected, is_equal)| SecretCase {
            presence,
            missing_since,
            may_be_selected,
            is_equal,
        },
    );
    let row = (0..SECRETS, prop::option::weighted(0.8, 0..NAMES.len()), prop::bool::weighted(0.2), 0..2_u8);
    let release = prop_oneof![
        3 => Just(None),
        1 => Just(Some(ReleaseWhy::EntryGone)),
        1 => Just(Some(ReleaseWhy::SecretGone))
    ];
    let held = (
        (0..NAMES.len(), 0..VAULTS.len()),
        0..3_u8,
        prop::collection::vec(0..SECRETS, 1..4),
        prop_oneof![0..2_u8, Just(SETTLED)],
        release,
        any::<bool>(),
        any::<bool>(),
    )
        .prop_map(|(name, owner, sources, spec, release, is_synced, has_record)| HeldCase {
            name,
            owner,
            sources,
            spec,
            release,
            is_synced,
            has_record,
        });
    let terms = (prop::bool::weighted(0.8), any::<bool>(), prop_oneof![Just(0), Just(50)]).prop_map(
        |(may_release, deletes, grace_secs)| Terms {
            may_release,
            deletes,
            grace_secs,
            sources_max: 2,
            now: NOW,
        },
    );
    let kind = prop_oneof![Just(OwnerKind::KeyVaultSync), Just(OwnerKind::ClusterKeyVaultSync)];
    (
        kind,
        prop::collection::vec(secret, SECRETS),
        prop::collection::vec(row, 0..6),
        prop::collection::vec(held, 0..6),
        terms,
    )
        .prop_map(|(kind, secrets, rows, held, terms)| Case {
            me: owner(kind, "me", "new"),
            secrets,
            rows,
            held,
            terms,
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_024, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_plan_carried_out_leaves_nothing_to_do(case in cases()) {
        let held = case.held();
        let first = case.plan(&held);
        let after = case.carry_out(held, &first);
        let second = case.plan(&after);
        prop_assert_eq!(&second.acts, &vec![]);
        prop_assert_eq!(&second.rows, &first.rows);
    }

    #[test]
    fn a_plan_touches_only_its_own_claims_and_each_once(case in cases()) {
        let held = case.held();
        let plan = case.plan(&held);
        let mut touched = BTreeSet::new();
        for act in &plan.acts {
            let (name, is_release) = match act {
                ClaimAct::Create(name, _) => {
                    prop_assert!(!held.contains_key(name));
                    (name, false)
                }
                ClaimAct::Change(name, _) | ClaimAct::Settle(name, _) => (name, false),
                ClaimAct::Release(name, ..) => (name, true),
            };
            prop_assert!(touched.insert(name.clone()), "{} twice", name);
            prop_assert!(held.get(name).is_none_or(|claim| claim.owner.name == "me"));
            prop_assert!(case.terms.may_release || !is_release);
        }
        for name in &plan.lost {
            prop_assert!(held[name].owner.name == "other");
        }
    }

    #[test]
    fn a_row_that_has_a_claim_is_among_its_secrets_and_nobody_else_is(case in cases()) {
        let held = case.held();
        let plan = case.plan(&held);
        let after = case.carry_out(held, &plan);
        let rows = case.rows();
        let mut wanting: BTreeMap<&ClaimName, BTreeSet<&SecretName>> = BTreeMap::new();
        for (row, outcome) in rows.iter().zip(&plan.rows) {
            if let Ok(name) = outcome {
                prop_assert_eq!(Some(name), row.name.as_ref().map(|(_, name)| name));
                wanting.entry(name).or_default().insert(&row.source.secret);
            }
        }
        for (name, secrets) in wanting {
            let claim = &after[name];
            prop_assert_eq!(&claim.owner.name, "me");
            // One that vanished keeps its place for a while.
            let is_waited_for =
                |secret: &SecretName| plan.lingering.iter().any(|(one, of)| one == secret && of == name);
            let sources: BTreeSet<&SecretName> = claim
                .sources
                .iter()
                .map(|held| &held.source.secret)
                .filter(|secret| !is_waited_for(secret))
                .collect();
            prop_assert_eq!(sources, secrets);
        }
    }

    #[test]
    fn a_secret_that_is_there_and_wanted_loses_no_claim_before_it_has_the_one_it_wants(case in cases()) {
        let held = case.held();
        let plan = case.plan(&held);
        let rows = case.rows();
        for act in &plan.acts {
            let ClaimAct::Release(name, ..) = act else { continue };
            for source in held[name].sources.iter().filter(|held| held.presence == Presence::There) {
                for (row, outcome) in rows.iter().zip(&plan.rows) {
                    if row.source.secret == source.source.secret {
                        let is_synced = outcome.as_ref().is_ok_and(|name| held[name].is_synced);
                        prop_assert!(is_synced, "{} given up, {:?}", name, outcome);
                    }
                }
            }
        }
    }
}
