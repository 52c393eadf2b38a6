//! Each sentence about names, sharing and giving up, as a table. Time is a literal.
//! That a plan carried out leaves nothing to do is left to `tests/claims_converge.rs`.

use super::*;
use crate::names::{Cloud, VaultHost};

const GRACE: i64 = 3_600;
const NOW: i64 = 100_000;

fn owner(name: &str, uid: &str) -> ClaimOwner {
    ClaimOwner { kind: OwnerKind::KeyVaultSync, namespace: "web".into(), name: name.into(), uid: uid.into() }
}

fn cluster(name: &str, uid: &str) -> ClaimOwner {
    ClaimOwner {
        kind: OwnerKind::ClusterKeyVaultSync,
        namespace: String::new(),
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

fn claim(certificate: &str) -> ClaimName {
    named(certificate, "contoso").1
}

/// `name`, or `namespace/name`.
fn source(text: &str) -> Source {
    let (namespace, name) = text.split_once('/').unwrap_or(("web", text));
    Source {
        secret: SecretName { namespace: namespace.into(), name: name.into() },
        keys: ["tls.crt".into(), "tls.key".into()],
    }
}

fn row(secret: &str, certificate: &str) -> Row<&'static str> {
    Row {
        source: source(secret),
        is_listed: false,
        name: Some(named(certificate, "contoso")),
        wanted: Ok("spec"),
    }
}

fn refused(row: Row<&'static str>) -> Row<&'static str> {
    Row { wanted: Err(Problem::new(Reason::NotGranted, "x")), ..row }
}

fn without_name(secret: &str) -> Row<&'static str> {
    Row {
        source: source(secret),
        is_listed: true,
        name: None,
        wanted: Err(Problem::new(Reason::InvalidName, "x")),
    }
}

fn said(sources: &[&str]) -> Wanted<&'static str> {
    Wanted { spec: "spec", sources: sources.iter().map(|one| source(one)).collect() }
}

/// Synced, with a record, of Secrets that are there.
fn synced(owner: ClaimOwner, sources: &[&str], vault: &str) -> Held<&'static str> {
    Held {
        owner,
        sources: sources
            .iter()
            .map(|one| HeldSource {
                source: source(one),
                presence: Presence::There,
                missing_since: None,
                may_be_selected: true,
                is_equal: false,
            })
            .collect(),
        spec: "spec",
        release: None,
        is_synced: true,
        has_record: true,
        in_wished_vault: Some(vault == "contoso"),
    }
}

fn held(owner: ClaimOwner, secret: &str, certificate: &str, vault: &str) -> (ClaimName, Held<&'static str>) {
    (named(certificate, vault).1, synced(owner, &[secret], vault))
}

/// The same with Secrets that are missing since a moment.
fn missing(mut claim: Held<&'static str>, presence: Presence, since: Option<i64>) -> Held<&'static str> {
    for held in &mut claim.sources {
        held.presence = presence;
        held.missing_since = since;
    }
    claim
}

const TERMS: Terms =
    Terms { may_release: true, deletes: true, grace_secs: GRACE, sources_max: 100, now: NOW };

fn plan_with(
    me: &ClaimOwner,
    rows: &[Row<&'static str>],
    held: &BTreeMap<ClaimName, Held<&'static str>>,
    terms: Terms,
) -> ClaimPlan<&'static str> {
    super::plan(me, rows, held, &terms, |spec| *spec)
}

fn plan(
    me: &ClaimOwner,
    rows: &[Row<&'static str>],
    held: &BTreeMap<ClaimName, Held<&'static str>>,
    may_release: bool,
) -> ClaimPlan<&'static str> {
    plan_with(me, rows, held, Terms { may_release, ..TERMS })
}

#[test]
fn a_row_makes_its_claim_once() {
    let me = owner("web", "1");
    let first = plan(&me, &[row("a", "a")], &BTreeMap::new(), true);
    assert_eq!(first.acts, vec![ClaimAct::Create(claim("a"), said(&["a"]))]);
    let again = plan(&me, &[row("a", "A")], &BTreeMap::from([held(me.clone(), "a", "a", "contoso")]), true);
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
    assert!(plan.lost.is_empty(), "nobody else has it");
}

#[test]
fn a_name_that_another_resource_holds_is_a_collision_that_names_it() {
    for (me, holder, words) in [
        (owner("web", "1"), owner("other", "2"), "KeyVaultSync web/other"),
        (owner("web", "1"), cluster("all", "2"), "ClusterKeyVaultSync all:"),
        (cluster("all", "1"), owner("web", "2"), "KeyVaultSync web/web"),
    ] {
        let there = BTreeMap::from([held(holder, "z", "a", "contoso")]);
        let plan = plan(&me, &[row("a", "a"), row("b", "a")], &there, true);
        assert_eq!(plan.acts, vec![]);
        assert_eq!(plan.lost, BTreeSet::from([claim("a")]));
        for row in plan.rows {
            let problem = row.unwrap_err();
            assert!(problem.message.contains(words), "{}", problem.message);
        }
    }
}

#[test]
fn a_resource_applied_again_succeeds_itself() {
    let mut there = BTreeMap::from([held(owner("web", "old"), "a", "a", "contoso")]);
    let taken = vec![ClaimAct::Change(claim("a"), said(&["a"]))];
    assert_eq!(plan(&owner("web", "new"), &[row("a", "a")], &there, true).acts, taken);
    there.get_mut(&claim("a")).unwrap().release = Some(ReleaseWhy::OwnerGone);
    assert_eq!(
        plan(&owner("web", "old"), &[row("a", "a")], &there, true).acts,
        taken,
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
        vec![ClaimAct::Release(claim("b"), ReleaseWhy::EntryGone, Confirm::Nothing)]
    );
}

#[test]
fn a_wish_that_does_not_resolve_gives_up_nothing() {
    let me = owner("web", "1");
    let there =
        BTreeMap::from([held(me.clone(), "a", "a", "contoso"), held(me.clone(), "b", "b", "contoso")]);
    assert_eq!(plan(&me, &[row("a", "a")], &there, false).acts, vec![]);
}

#[test]
fn a_row_without_a_name_or_with_a_problem_keeps_the_claim_of_its_secret_and_no_other() {
    let me = owner("web", "1");
    let there = BTreeMap::from([
        held(me.clone(), "a", "a", "contoso"),
        held(me.clone(), "b", "b", "contoso"),
        held(me.clone(), "c", "c", "contoso"),
    ]);
    for (what, unclear) in [("no name", without_name("b")), ("not granted", refused(row("b", "new")))] {
        assert_eq!(
            plan(&me, &[row("a", "a"), unclear], &there, true).acts,
            vec![ClaimAct::Release(claim("c"), ReleaseWhy::EntryGone, Confirm::Nothing)],
            "{what}"
        );
    }
}

#[test]
fn a_refused_row_keeps_the_claim_it_has() {
    let me = owner("web", "1");
    let there = BTreeMap::from([held(me.clone(), "a", "a", "contoso")]);
    let plan = plan(&me, &[refused(row("a", "a"))], &there, true);
    assert_eq!(plan.acts, vec![]);
    assert_eq!(plan.rows[0].as_ref().unwrap_err().reason, Reason::NotGranted);
}

#[test]
fn a_new_name_or_vault_releases_the_old_claim_only_when_the_new_one_is_synced() {
    let me = owner("web", "1");
    for (old_vault, why) in [("contoso", ReleaseWhy::EntryGone), ("fabrikam", ReleaseWhy::VaultChanged)] {
        let old = held(me.clone(), "a", "old", old_vault);
        let release = vec![ClaimAct::Release(old.0.clone(), why, Confirm::Nothing)];
        let mut there = BTreeMap::from([old, held(me.clone(), "a", "new", "contoso")]);
        there.get_mut(&claim("new")).unwrap().is_synced = false;
        assert_eq!(plan(&me, &[row("a", "new")], &there, true).acts, vec![]);
        there.get_mut(&claim("new")).unwrap().is_synced = true;
        assert_eq!(plan(&me, &[row("a", "new")], &there, true).acts, release);
    }
}

#[test]
fn a_name_that_another_row_has_or_that_is_about_to_change_does_not_release_the_old_claim() {
    let me = owner("web", "1");
    let there =
        BTreeMap::from([held(me.clone(), "a", "a", "contoso"), held(me.clone(), "b", "b", "contoso")]);
    let collided = plan(&me, &[row("a", "a"), row("b", "a")], &there, true);
    assert_eq!(collided.acts, vec![], "b wants what a has: its certificate stays");
    let moved = plan(&me, &[row("b", "a")], &there, true);
    assert_eq!(moved.acts, vec![ClaimAct::Change(claim("a"), said(&["b"]))], "synced with another Secret");
}

#[test]
fn a_secret_that_is_there_and_no_longer_selected_gives_up_its_claim_at_once() {
    for me in [owner("web", "1"), cluster("all", "1")] {
        let there = BTreeMap::from([held(me.clone(), "web/a", "a", "contoso")]);
        let plan = plan(&me, &[], &there, true);
        assert_eq!(plan.acts, vec![ClaimAct::Release(claim("a"), ReleaseWhy::EntryGone, Confirm::Nothing)]);
        assert_eq!(plan.lingering, vec![]);
    }
}

#[test]
fn a_selected_secret_that_vanished_is_waited_for_until_the_grace_period_has_passed() {
    let over = Some(NOW - GRACE);
    let release = |why, confirm| vec![ClaimAct::Release(claim("a"), why, confirm)];
    let secret_gone = || release(ReleaseWhy::SecretGone, Confirm::Secrets);
    use Presence::{Missing, MissingWithNamespace};
    for (what, presence, since, terms, acts, again_at) in [
        ("not confirmed", Missing, None, TERMS, vec![], None),
        ("under way", Missing, Some(NOW - GRACE + 1), TERMS, vec![], Some(NOW + 1)),
        ("over", Missing, over, TERMS, secret_gone(), None),
        ("over, with Retain", Missing, over, Terms { deletes: false, ..TERMS }, secret_gone(), None),
        ("over, suspended", Missing, over, Terms { may_release: false, ..TERMS }, vec![], None),
        ("no grace", Missing, Some(NOW), Terms { grace_secs: 0, ..TERMS }, secret_gone(), None),
        (
            "with its namespace",
            MissingWithNamespace,
            None,
            TERMS,
            release(ReleaseWhy::EntryGone, Confirm::Namespaces),
            None,
        ),
    ] {
        for (me, has_record) in [(owner("web", "1"), true), (cluster("all", "1"), false)] {
            let (name, there) = held(me.clone(), "a", "a", "contoso");
            let there = Held { has_record, ..missing(there, presence, since) };
            let plan = plan_with(&me, &[], &BTreeMap::from([(name, there)]), terms);
            assert_eq!(plan.acts, acts, "{what}");
            assert_eq!(plan.again_at, again_at, "{what}");
            let lingers = vec![(source("a").secret, claim("a"))];
            assert_eq!(plan.lingering, if acts.is_empty() { lingers } else { vec![] }, "{what}");
        }
    }
}

#[test]
fn a_secret_that_vanished_and_could_not_be_selected_again_is_an_entry_removed() {
    let me = owner("web", "1");
    let (name, there) = held(me.clone(), "a", "a", "contoso");
    let mut there = missing(there, Presence::Missing, None);
    there.sources[0].may_be_selected = false;
    let there = BTreeMap::from([(name, there)]);
    let release = vec![ClaimAct::Release(claim("a"), ReleaseWhy::EntryGone, Confirm::Nothing)];
    assert_eq!(plan(&me, &[], &there, true).acts, release);
    assert_eq!(plan(&me, &[], &there, false).acts, vec![]);
}

#[test]
fn a_claim_that_waits_for_its_secret_follows_what_the_resource_says_now() {
    let (name, there) = held(owner("web", "old"), "a", "a", "contoso");
    let there = BTreeMap::from([(name, missing(there, Presence::Missing, Some(NOW)))]);
    let me = owner("web", "1");
    let settled = |_: &&'static str| "retained";
    let retained = super::plan(&me, &[], &there, &TERMS, settled);
    let wanted = Wanted { spec: "retained", ..said(&["a"]) };
    assert_eq!(retained.acts, vec![ClaimAct::Change(claim("a"), wanted)]);
}

#[test]
fn a_listed_secret_that_vanished_ends_its_claim_only_with_delete_a_record_and_after_the_grace_period() {
    let me = owner("web", "1");
    let over = Some(NOW - GRACE);
    let release = vec![ClaimAct::Release(claim("a"), ReleaseWhy::SecretGone, Confirm::Secrets)];
    let change = vec![ClaimAct::Change(claim("a"), said(&["a"]))];
    let retain = Terms { deletes: false, ..TERMS };
    let suspended = Terms { may_release: false, ..TERMS };
    let gone = Some(ReleaseWhy::SecretGone);
    for (what, since, has_record, released, terms, acts, again_at) in [
        ("not confirmed", None, true, None, TERMS, vec![], None),
        ("under way", Some(NOW - 1), true, None, TERMS, vec![], Some(NOW - 1 + GRACE)),
        ("over", over, true, None, TERMS, release.clone(), None),
        ("nothing pushed", over, false, None, TERMS, vec![], None),
        ("retained", over, true, None, retain, vec![], None),
        ("suspended", over, true, None, suspended, vec![], None),
        ("ended and still missing", over, true, gone, TERMS, vec![], None),
        ("ended, its record gone already", over, false, gone, TERMS, vec![], None),
        ("ended, and now retained", over, true, gone, retain, change.clone(), None),
        ("ended, and now suspended", over, true, gone, suspended, change, None),
        ("given up for another reason before", over, true, Some(ReleaseWhy::EntryGone), TERMS, release, None),
    ] {
        let (name, there) = held(me.clone(), "a", "a", "contoso");
        let there = Held { has_record, release: released, ..missing(there, Presence::Missing, since) };
        let plan = plan_with(&me, &[row("a", "a")], &BTreeMap::from([(name, there)]), terms);
        assert_eq!(plan.acts, acts, "{what}");
        assert_eq!(plan.again_at, again_at, "{what}");
        assert_eq!(plan.rows, vec![Ok(claim("a"))], "{what}");
    }
}

#[test]
fn a_secret_that_comes_back_takes_its_claim_out_of_release() {
    for why in [ReleaseWhy::SecretGone, ReleaseWhy::EntryGone] {
        for me in [owner("web", "1"), cluster("all", "1")] {
            let (name, there) = held(me.clone(), "a", "a", "contoso");
            let there = BTreeMap::from([(name, Held { release: Some(why), ..there })]);
            let plan = plan(&me, &[row("a", "a")], &there, true);
            assert_eq!(plan.acts, vec![ClaimAct::Change(claim("a"), said(&["a"]))]);
        }
    }
}

#[test]
fn a_listed_secret_that_vanished_with_its_name_ends_its_claim_by_the_same_rule() {
    let me = owner("web", "1");
    for (what, since, terms, ends, again_at) in [
        ("under way", Some(NOW - 1), TERMS, false, Some(NOW - 1 + GRACE)),
        ("over", Some(NOW - GRACE), TERMS, true, None),
        ("retained", Some(NOW - GRACE), Terms { deletes: false, ..TERMS }, false, None),
    ] {
        let (name, there) = held(me.clone(), "a", "a", "contoso");
        let there = BTreeMap::from([(name, missing(there, Presence::Missing, since))]);
        let plan = plan_with(&me, &[without_name("a")], &there, terms);
        assert_eq!(!plan.acts.is_empty(), ends, "{what}");
        assert_eq!(plan.again_at, again_at, "{what}");
        let refused = plan_with(&me, &[refused(row("a", "new"))], &there, terms);
        assert_eq!((refused.acts, refused.again_at), (vec![], None), "{what}, and its new name is refused");
    }
}

#[test]
fn secrets_of_a_cluster_wish_share_a_name_in_order_and_keep_their_places() {
    let me = cluster("all", "1");
    for (what, present, rows, sources) in [
        ("new", &[][..], &["a/x", "b/x"][..], &["a/x", "b/x"][..]),
        ("a copy more", &["a/x"], &["a/x", "b/x"], &["a/x", "b/x"]),
        ("an older one appears", &["b/x"], &["a/x", "b/x"], &["b/x", "a/x"]),
        ("the first goes", &["a/x", "b/x", "c/x"], &["b/x", "c/x"], &["b/x", "c/x"]),
        ("all are others", &["a/x"], &["c/x", "b/x"], &["c/x", "b/x"]),
    ] {
        let rows: Vec<_> = rows.iter().map(|secret| row(secret, "x")).collect();
        let there = if present.is_empty() {
            BTreeMap::new()
        } else {
            BTreeMap::from([(claim("x"), synced(me.clone(), present, "contoso"))])
        };
        let plan = plan(&me, &rows, &there, true);
        let expected = match (present.is_empty(), present == sources) {
            (true, _) => vec![ClaimAct::Create(claim("x"), said(sources))],
            (false, true) => vec![],
            (false, false) => vec![ClaimAct::Change(claim("x"), said(sources))],
        };
        assert_eq!(plan.acts, expected, "{what}");
        assert!(plan.rows.iter().all(Result::is_ok), "{what}");
    }
}

#[test]
fn a_row_that_is_not_granted_has_no_part_in_a_shared_claim() {
    let me = cluster("all", "1");
    let rows = [refused(row("a/x", "x")), row("b/x", "x")];
    let there = BTreeMap::from([(claim("x"), synced(me.clone(), &["a/x", "b/x"], "contoso"))]);
    let plan = plan(&me, &rows, &there, true);
    assert_eq!(plan.acts, vec![ClaimAct::Change(claim("x"), said(&["b/x"]))]);
    assert_eq!(plan.rows[0].as_ref().unwrap_err().reason, Reason::NotGranted);
    assert!(plan.rows[1].is_ok());
}

#[test]
fn a_claim_has_a_bounded_number_of_secrets_and_the_others_are_told() {
    let me = cluster("all", "1");
    let rows: Vec<_> = ["a/x", "b/x", "c/x"].map(|secret| row(secret, "x")).into();
    let there = BTreeMap::from([(claim("x"), synced(me.clone(), &["c/x"], "contoso"))]);
    let plan = plan_with(&me, &rows, &there, Terms { sources_max: 2, ..TERMS });
    assert_eq!(plan.acts, vec![ClaimAct::Change(claim("x"), said(&["c/x", "a/x"]))]);
    let problem = plan.rows[1].as_ref().unwrap_err();
    assert_eq!(problem.reason, Reason::NameCollision);
    assert!(problem.message.contains("2 Secrets") && problem.message.contains("b/x"), "{}", problem.message);
}

#[test]
fn a_shared_claim_ends_when_its_last_secret_is_gone_for_the_grace_period() {
    let me = cluster("all", "1");
    let mut there = synced(me.clone(), &["a/x", "b/x"], "contoso");
    for (what, first, second, acts, again_at) in [
        ("one confirmed", (Presence::Missing, Some(NOW - GRACE)), (Presence::Missing, None), 1, None),
        (
            "the later counts",
            (Presence::Missing, Some(NOW - GRACE)),
            (Presence::Missing, Some(NOW - 1)),
            0,
            Some(NOW - 1 + GRACE),
        ),
        (
            "one with its namespace",
            (Presence::MissingWithNamespace, None),
            (Presence::Missing, Some(NOW - 1)),
            0,
            Some(NOW - 1 + GRACE),
        ),
        (
            "one is there and no longer selected",
            (Presence::Missing, Some(NOW)),
            (Presence::There, None),
            1,
            None,
        ),
    ] {
        for (held, (presence, since)) in there.sources.iter_mut().zip([first, second]) {
            (held.presence, held.missing_since) = (presence, since);
        }
        let plan = plan(&me, &[], &BTreeMap::from([(claim("x"), there.clone())]), true);
        assert_eq!(plan.acts.len(), acts, "{what}");
        assert_eq!(plan.again_at, again_at, "{what}");
    }
}

#[test]
fn a_shared_claim_whose_secrets_move_apart_ends_when_each_is_in_the_vault_under_its_new_name() {
    let me = cluster("all", "1");
    let old = (claim("old"), synced(me.clone(), &["a/x", "b/x"], "contoso"));
    let rows = [row("a/x", "one"), row("b/x", "two")];
    let mut there = BTreeMap::from([
        old,
        (claim("one"), synced(me.clone(), &["a/x"], "contoso")),
        (claim("two"), synced(me.clone(), &["b/x"], "contoso")),
    ]);
    there.get_mut(&claim("two")).unwrap().is_synced = false;
    assert_eq!(plan(&me, &rows, &there, true).acts, vec![]);
    there.get_mut(&claim("two")).unwrap().is_synced = true;
    assert_eq!(plan(&me, &rows, &there, true).acts.len(), 1);
}
