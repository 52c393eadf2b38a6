//! Adoption, soft delete, disabled certificates, foreign writes and what is taken from memory, row by row.
//! That every other shape converges is left to `tests/push_converges.rs`, the histories to `tests/push_model.rs`.

use super::*;
use crate::ownership;
use crate::ownership::{ClusterId, OwnerKind};
use crate::title::Adoption;

const NOW: i64 = 1_000_000;
/// Secret, newest, deleted or recorded version, an owner, and a decision.
const STEPS_MAX: usize = 6;

fn owner(cluster: &str, name: &str) -> Owner {
    Owner {
        cluster: ClusterId::parse(cluster).unwrap(),
        kind: OwnerKind::KeyVaultSync,
        namespace: "web".into(),
        name: name.into(),
    }
}

fn desired() -> Desired {
    Desired {
        owner: owner("c1", "web"),
        source: "web/web-tls".into(),
        keys: ["tls.crt".into(), "tls.key".into()],
        tags: Tags::new(),
        exportable: true,
        adoption: Adoption::default(),
        suspend: false,
    }
}

fn adopting() -> Desired {
    let from_clusters = vec!["c2".to_owned()];
    Desired { adoption: Adoption { is_asked: true, from_clusters, grant: Ok(()) }, ..desired() }
}

fn full(leaf: u8, chain: u8) -> Fingerprint {
    let mut bytes = [leaf; 32];
    bytes[31] = chain;
    Fingerprint::LeafAndChain(bytes)
}

fn leaf(leaf: u8) -> Fingerprint {
    Fingerprint::Leaf([leaf; 32])
}

fn content(number: u8, chain: u8) -> Content {
    Content {
        fingerprint: full(number, chain),
        leaf: leaf(number),
        thumbprint: [number; 20],
        not_after: 2 * NOW,
    }
}

fn edition(number: u8) -> SourceVersion {
    SourceVersion { uid: "u".into(), resource_version: number.to_string() }
}

fn record(version: &str, number: u8, fingerprint: Fingerprint) -> Record {
    Record { version: version.into(), thumbprint: [number; 20], fingerprint, not_after: 2 * NOW }
}

fn tagged(owner: &Owner, fingerprint: &Fingerprint) -> Tags {
    ownership::tags(owner, "web/web-tls", fingerprint, &Tags::new())
}

fn ours(fingerprint: &Fingerprint) -> Tags {
    tagged(&desired().owner, fingerprint)
}

fn version(version: &str, number: u8, tags: Tags) -> CertificateFacts {
    CertificateFacts {
        version: version.into(),
        thumbprint: [number; 20],
        leaf: Some(leaf(number)),
        not_after: Some(2 * NOW),
        enabled: true,
        tags,
        exportable: Some(true),
    }
}

fn disabled_version(name: &str, number: u8, tags: Tags) -> CertificateFacts {
    CertificateFacts { enabled: false, ..version(name, number, tags) }
}

/// In step with v1, which holds leaf 1 with chain 1.
fn in_step() -> Memory {
    Memory {
        source: Some(edition(1)),
        record: Some(record("v1", 1, full(1, 1))),
        desired: Some(desired().hash()),
        reason: Some(Reason::Synced),
        ..Memory::default()
    }
}

/// In step with v1, which was adopted.
fn adopted() -> Memory {
    Memory { record: Some(record("v1", 1, leaf(1))), adopted_with: Some(full(1, 1)), ..in_step() }
}

/// What there is to be looked at.
#[derive(Clone)]
struct There {
    desired: Desired,
    memory: Memory,
    secret: (u8, Content),
    newest: Option<CertificateFacts>,
    recorded: Option<CertificateFacts>,
    deleted: Option<DeletedFacts>,
    owner: OwnerState,
    compare: bool,
}

/// The Secret holds leaf 1 with chain 1, the vault nothing; it is time to compare.
fn there(memory: Memory) -> There {
    There {
        desired: desired(),
        memory,
        secret: (1, content(1, 1)),
        newest: None,
        recorded: None,
        deleted: None,
        owner: OwnerState::Unclear,
        compare: true,
    }
}

impl There {
    /// The decision after the looks it asks for, and whether one of them was at the vault.
    fn decide(&self) -> (Next, bool) {
        let mut seen = Observed {
            desired: self.desired.clone(),
            access: Ok(()),
            memory: self.memory.clone(),
            source: Some(edition(self.secret.0)),
            content: Look::NotYet,
            newest: Look::NotYet,
            recorded: Look::NotYet,
            deleted: Look::NotYet,
            owner: Look::NotYet,
            compare: self.compare,
            now: NOW,
        };
        for _ in 0..STEPS_MAX {
            match decide(&seen) {
                Next::ReadSecret => seen.content = Look::Seen(Ok(self.secret.1.clone())),
                Next::ReadNewest => seen.newest = Look::Seen(self.newest.clone()),
                Next::ReadRecorded => seen.recorded = Look::Seen(self.recorded.clone()),
                Next::ReadDeleted => seen.deleted = Look::Seen(self.deleted.clone()),
                Next::AskOwner(_) => seen.owner = Look::Seen(self.owner),
                decided => return (decided, seen.newest != Look::NotYet),
            }
        }
        panic!("it asks for the same look again");
    }
}

/// What is expected.
#[derive(Clone, Debug)]
enum Is {
    Import(Why, Fingerprint),
    /// Of v1, with this fingerprint in tag and record, and the Secret's in `adopted_with`.
    Adopt(Fingerprint),
    Retag,
    Recover {
        is_ours: bool,
    },
    /// With this fingerprint in the record; `None`: the vault was not looked at.
    InSync(Option<Fingerprint>),
    /// With these words.
    Refuse(Reason, &'static [&'static str]),
}

fn check(what: &str, there: &There, expected: Is) {
    let (next, has_looked) = there.decide();
    match (&next, &expected) {
        (Next::Write(Write::Import { why, tags, fingerprint, from, .. }), Is::Import(wanted, of)) => {
            assert_eq!((why, fingerprint), (wanted, of), "{what}");
            assert_eq!(*tags, ours(of), "{what}");
            assert_eq!(from.is_some(), *why == Why::Adopted, "{what}");
        }
        (Next::Write(Write::Adopt { version, tags, record: found, with, .. }), Is::Adopt(fingerprint)) => {
            assert_eq!(version, "v1", "{what}");
            assert_eq!(*tags, ours(fingerprint), "{what}");
            assert_eq!(*found, record("v1", there.secret.1.thumbprint[0], fingerprint.clone()), "{what}");
            assert_eq!(*with, there.secret.1.fingerprint, "{what}");
        }
        (Next::Write(Write::Retag { .. }), Is::Retag) => {}
        (Next::Write(Write::Recover { is_ours }), Is::Recover { is_ours: wanted }) => {
            assert_eq!(is_ours, wanted, "{what}");
        }
        (Next::InSync { record: found }, Is::InSync(fingerprint)) => {
            assert_eq!(found.as_ref().map(|record| &record.fingerprint), fingerprint.as_ref(), "{what}");
            assert_eq!(has_looked, fingerprint.is_some(), "{what}");
        }
        (Next::Refuse(problem), Is::Refuse(reason, words)) => {
            assert_eq!(problem.reason, *reason, "{what}: {problem}");
            for word in *words {
                assert!(problem.message.contains(word), "{what}: {word:?} is not in {problem}");
            }
            assert!(!problem.message.contains("  "), "{what}: {problem}");
        }
        _ => panic!("{what}: {next:?} and not {expected:?}"),
    }
}

#[test]
fn a_certificate_with_our_leaf_is_adopted_as_it_is_and_any_other_by_a_new_version() {
    let c2 = owner("c2", "web");
    let gone = Owner { namespace: "api".into(), ..owner("c1", "web") };
    let unreadable = CertificateFacts { leaf: None, ..version("v1", 1, Tags::new()) };
    let secretive = CertificateFacts { exportable: None, ..version("v1", 1, Tags::new()) };
    let kept = CertificateFacts { exportable: Some(false), ..version("v1", 1, Tags::new()) };
    for (what, newest, expected) in [
        ("our leaf, nobody's", version("v1", 1, Tags::new()), Is::Adopt(leaf(1))),
        ("another leaf", version("v1", 2, Tags::new()), Is::Import(Why::Adopted, full(1, 1))),
        ("no certificate in the answer", unreadable, Is::Import(Why::Adopted, full(1, 1))),
        ("no policy in the answer", secretive, Is::Import(Why::Adopted, full(1, 1))),
        ("not exportable", kept, Is::Import(Why::Adopted, full(1, 1))),
        (
            "our leaf and chain, another cluster's",
            version("v1", 1, tagged(&c2, &full(1, 1))),
            Is::Adopt(full(1, 1)),
        ),
        (
            "our leaf, another chain, another cluster's",
            version("v1", 1, tagged(&c2, &full(1, 2))),
            Is::Adopt(leaf(1)),
        ),
        ("our leaf, adopted by another cluster", version("v1", 1, tagged(&c2, &leaf(1))), Is::Adopt(leaf(1))),
        (
            "another cluster's",
            version("v1", 2, tagged(&c2, &full(2, 1))),
            Is::Import(Why::Adopted, full(1, 1)),
        ),
        (
            "another leaf under our tag",
            version("v1", 2, tagged(&c2, &full(1, 1))),
            Is::Import(Why::Adopted, full(1, 1)),
        ),
        ("of a namespace that is gone", version("v1", 1, tagged(&gone, &full(1, 1))), Is::Adopt(full(1, 1))),
    ] {
        let memory = Memory::default();
        let newest = Some(newest);
        let there = There { desired: adopting(), newest, owner: OwnerState::Gone, ..there(memory) };
        check(what, &there, expected);
    }
}

#[test]
fn after_an_adoption_the_chain_counts_as_the_secrets_until_that_changes() {
    let same = content(1, 1);
    let unheld = Desired { exportable: false, ..adopting() };
    for (what, memory, desired, secret, compare, expected) in [
        ("unchanged", adopted(), adopting(), (1, same.clone()), false, Is::InSync(None)),
        ("applied again", adopted(), adopting(), (2, same.clone()), false, Is::InSync(None)),
        ("compared", adopted(), adopting(), (1, same.clone()), true, Is::InSync(Some(leaf(1)))),
        (
            "applied again, compared",
            adopted(),
            adopting(),
            (2, same.clone()),
            true,
            Is::InSync(Some(leaf(1))),
        ),
        (
            "adoption no longer wished",
            adopted(),
            desired(),
            (1, same.clone()),
            true,
            Is::InSync(Some(leaf(1))),
        ),
        (
            "another chain",
            adopted(),
            adopting(),
            (2, content(1, 2)),
            false,
            Is::Import(Why::Changed, full(1, 2)),
        ),
        ("renewed", adopted(), adopting(), (2, content(2, 1)), false, Is::Import(Why::Changed, full(2, 1))),
        (
            "exportable changed",
            adopted(),
            unheld,
            (1, same.clone()),
            false,
            Is::Import(Why::ExportableChanged, full(1, 1)),
        ),
        (
            "claim made anew",
            Memory::default(),
            adopting(),
            (1, same.clone()),
            false,
            Is::InSync(Some(leaf(1))),
        ),
        (
            "claim made anew, without adoption",
            Memory::default(),
            desired(),
            (1, same),
            false,
            Is::InSync(Some(leaf(1))),
        ),
        (
            "claim made anew, renewed",
            Memory::default(),
            desired(),
            (1, content(2, 1)),
            false,
            Is::Import(Why::Changed, full(2, 1)),
        ),
    ] {
        let newest = Some(version("v1", 1, ours(&leaf(1))));
        check(what, &There { desired, secret, newest, compare, ..there(memory) }, expected);
    }
}

#[test]
fn after_an_adoption_was_renewed_nothing_of_it_is_left() {
    let memory = Memory { record: Some(record("v2", 1, full(1, 2))), ..in_step() };
    for compare in [false, true] {
        let newest = Some(version("v2", 1, ours(&full(1, 2))));
        let secret = (1, content(1, 2));
        let expected = Is::InSync(compare.then(|| full(1, 2)));
        check("compared", &There { secret, newest, compare, ..there(memory.clone()) }, expected);
    }
}

#[test]
fn a_soft_deleted_certificate_is_recovered_by_whoever_may_write_it_and_reported_to_others() {
    let (gone, wants, unclear) = (OwnerState::Gone, OwnerState::Wants, OwnerState::Unclear);
    let sibling = tagged(&owner("c1", "other"), &full(1, 1));
    let c2 = tagged(&owner("c2", "web"), &full(1, 1));
    let nobodys: &[&str] = &["soft-deleted", "no owner tag", "conflictPolicy: Adopt", "purge it"];
    let protected: &[&str] = &["soft-deleted", "purge protection", "conflictPolicy: Adopt", "choose another"];
    let siblings: &[&str] = &["soft-deleted", "c1/KeyVaultSync/web/other", "choose another certificateName"];
    let other: &[&str] = &["soft-deleted", "c2/KeyVaultSync/web/web", "choose another certificateName"];
    let ours_ = Is::Recover { is_ours: true };
    let taken = Is::Recover { is_ours: false };
    for (what, desired, tags, owner, is_purge_protected, expected) in [
        ("ours", desired(), ours(&full(1, 1)), unclear, false, ours_.clone()),
        ("ours, another content", desired(), ours(&full(2, 1)), unclear, true, ours_.clone()),
        ("a sibling's that is gone", desired(), sibling.clone(), gone, false, ours_),
        ("a sibling's", desired(), sibling.clone(), wants, false, Is::Refuse(Reason::SoftDeleted, siblings)),
        (
            "a sibling's, perhaps",
            desired(),
            sibling,
            unclear,
            false,
            Is::Refuse(Reason::Unavailable, &["cannot be told"]),
        ),
        ("nobody's", desired(), Tags::new(), unclear, false, Is::Refuse(Reason::SoftDeleted, nobodys)),
        (
            "nobody's, protected",
            desired(),
            Tags::new(),
            unclear,
            true,
            Is::Refuse(Reason::SoftDeleted, protected),
        ),
        ("nobody's, adopted", adopting(), Tags::new(), unclear, false, taken.clone()),
        ("another cluster's", desired(), c2.clone(), gone, false, Is::Refuse(Reason::SoftDeleted, other)),
        ("another cluster's, moving", adopting(), c2, gone, false, taken),
    ] {
        let newest = version("v1", 1, tags);
        let deleted = Some(DeletedFacts { newest, scheduled_purge: None, is_purge_protected });
        check(what, &There { desired, deleted, owner, ..there(Memory::default()) }, expected);
    }
}

#[test]
fn a_recovery_is_waited_for_and_not_for_ever() {
    let recovering = |since: i64| Memory {
        reason: Some(Reason::Recovering),
        failing_since: Some(NOW - since),
        ..in_step()
    };
    let announced = |act| Memory {
        in_flight: Some(InFlight { act, fingerprint: None, since: NOW - IN_FLIGHT_SECS }),
        ..in_step()
    };
    let wait = Is::Refuse(Reason::Recovering, &["being recovered", "compared when that is done"]);
    let again = Is::Import(Why::DeletedInVault, full(1, 1));
    for (what, memory, expected) in [
        ("just begun", recovering(0), wait.clone()),
        ("going on", recovering(RECOVERY_PATIENCE_SECS - 1), wait.clone()),
        ("too long", recovering(RECOVERY_PATIENCE_SECS), again.clone()),
        ("nobody knows since when", Memory { failing_since: None, ..recovering(0) }, wait.clone()),
        ("begun, receipt lost", announced(Act::Recover), wait),
        ("another write, receipt lost", announced(Act::Retag), again.clone()),
        ("purged", in_step(), again),
        ("never there", Memory::default(), Is::Import(Why::New, full(1, 1))),
    ] {
        check(what, &there(memory), expected);
    }
    let back = There { newest: Some(version("v1", 1, ours(&full(1, 1)))), ..there(recovering(5)) };
    check("done", &There { compare: false, ..back }, Is::InSync(Some(full(1, 1))));
}

#[test]
fn what_somebody_disabled_is_reported_and_stays_disabled_until_the_secret_changes() {
    let same = ours(&full(1, 1));
    let stray = Tags::from([("stray".to_owned(), "tag".to_owned())]);
    let v1 = |tags| disabled_version("v1", 1, tags);
    let told = Is::Refuse(
        Reason::DisabledInVault,
        &["version v1", "disabled", "enable it there", "renew the Secret"],
    );
    let drifted: Tags = same.clone().into_iter().chain(stray).collect();
    let kept = Desired { exportable: false, ..desired() };
    let unkept = CertificateFacts { exportable: Some(false), ..v1(Tags::new()) };
    let (old, new) = ((1, content(1, 1)), (2, content(2, 1)));
    let by_hand = version("v2", 3, Tags::new());
    let none = Memory::default;
    for (what, desired, memory, secret, newest, recorded, expected) in [
        ("disabled", desired(), in_step(), &old, v1(same.clone()), None, told.clone()),
        ("disabled, claim made anew", desired(), none(), &old, v1(same.clone()), None, told.clone()),
        ("disabled, a tag more", desired(), in_step(), &old, v1(drifted), None, Is::Retag),
        ("disabled, exportable changed", kept, in_step(), &old, v1(same.clone()), None, told.clone()),
        (
            "disabled, renewed",
            desired(),
            in_step(),
            &new,
            v1(same.clone()),
            None,
            Is::Import(Why::Changed, full(2, 1)),
        ),
        ("nobody's, disabled", adopting(), none(), &old, v1(Tags::new()), None, Is::Adopt(leaf(1))),
        ("nobody's, disabled, not exportable", adopting(), none(), &old, unkept, None, Is::Adopt(leaf(1))),
        ("adopted, disabled", adopting(), adopted(), &old, v1(ours(&leaf(1))), None, told.clone()),
        (
            "disabled and replaced by hand",
            desired(),
            in_step(),
            &old,
            by_hand.clone(),
            Some(v1(same.clone())),
            told,
        ),
        (
            "disabled, replaced by hand and renewed",
            desired(),
            in_step(),
            &new,
            by_hand.clone(),
            Some(v1(same.clone())),
            Is::Import(Why::ReplacedInVault, full(2, 1)),
        ),
        (
            "replaced by hand",
            desired(),
            in_step(),
            &old,
            by_hand,
            Some(version("v1", 1, same)),
            Is::Import(Why::ReplacedInVault, full(1, 1)),
        ),
    ] {
        let (secret, newest) = (secret.clone(), Some(newest));
        check(what, &There { desired, secret, newest, recorded, ..there(memory) }, expected);
    }
}

#[test]
fn a_foreign_write_under_our_name_is_repaired_once() {
    let second = Is::Refuse(
        Reason::OwnedByAnother,
        &["version v2", "cluster id c1", "for the second time", "another cluster", "--cluster-id"],
    );
    let once = || Memory { foreign_write: Some("v0".into()), ..in_step() };
    let sibling = tagged(&owner("c1", "other"), &full(2, 1));
    let other = ours(&full(2, 1));
    let renewed = (2, content(3, 1));
    let same = (1, content(1, 1));
    let kept = CertificateFacts { exportable: Some(false), ..version("v2", 1, ours(&full(1, 1))) };
    let own = CertificateFacts { version: "v1".into(), ..kept.clone() };
    let v2 = |tags: &Tags| version("v2", 2, tags.clone());
    for (what, memory, secret, newest, expected, remembered) in [
        ("the first", in_step(), &same, v2(&other), Is::Import(Why::ForeignWrite, full(1, 1)), Some("v2")),
        ("the second", once(), &same, v2(&other), second.clone(), None),
        ("renewed since", once(), &renewed, v2(&other), Is::Import(Why::Changed, full(3, 1)), None),
        ("by a sibling", in_step(), &same, v2(&sibling), Is::Import(Why::Changed, full(1, 1)), Some("v2")),
        ("by a sibling, the second", once(), &same, v2(&sibling), second.clone(), None),
        (
            "not exportable",
            in_step(),
            &same,
            kept.clone(),
            Is::Import(Why::ExportableChanged, full(1, 1)),
            Some("v2"),
        ),
        ("not exportable, the second", once(), &same, kept, second, None),
        (
            "our own, not exportable",
            in_step(),
            &same,
            own,
            Is::Import(Why::ExportableChanged, full(1, 1)),
            None,
        ),
        (
            "our own from before",
            in_step(),
            &renewed,
            v2(&ours(&full(1, 1))),
            Is::Import(Why::Changed, full(3, 1)),
            None,
        ),
    ] {
        let (newest, secret) = (Some(newest), secret.clone());
        let there = There { newest, secret, owner: OwnerState::Gone, ..there(memory) };
        if let Next::Write(Write::Import { foreign_write, .. }) = there.decide().0 {
            assert_eq!(foreign_write.as_deref(), remembered, "{what}");
        }
        check(what, &there, expected);
    }
}

#[test]
fn only_an_end_without_a_fault_spares_the_look_at_the_vault() {
    for reason in Reason::ALL.map(Some).into_iter().chain([None]) {
        let memory = Memory { reason, ..in_step() };
        let newest = Some(version("v1", 1, ours(&full(1, 1))));
        let there = There { newest, compare: false, ..there(memory) };
        let is_well = matches!(
            reason,
            Some(Reason::Synced | Reason::IncompleteChain | Reason::Suspended | Reason::Reached)
        );
        check(&format!("{reason:?}"), &there, Is::InSync((!is_well).then(|| full(1, 1))));
    }
}

#[test]
fn a_fingerprint_tag_is_believed_of_the_leaf_it_stands_on() {
    let forged = Some(version("v2", 2, ours(&full(1, 1))));
    let adopted_ = Some(version("v2", 2, ours(&leaf(1))));
    for (what, memory, newest, expected) in [
        ("claim made anew", Memory::default(), &forged, Is::Import(Why::Changed, full(1, 1))),
        (
            "of an adoption, claim made anew",
            Memory::default(),
            &adopted_,
            Is::Import(Why::Changed, full(1, 1)),
        ),
        ("over ours", in_step(), &forged, Is::Import(Why::ForeignWrite, full(1, 1))),
    ] {
        check(what, &There { newest: newest.clone(), ..there(memory) }, expected);
    }
}

#[test]
fn a_write_announces_what_will_be_there() {
    let (tags, fingerprint) = (Tags::new(), full(1, 1));
    let record = record("v1", 1, leaf(1));
    let version = "v1".to_owned();
    let import = Write::Import {
        why: Why::New,
        tags: tags.clone(),
        fingerprint: fingerprint.clone(),
        foreign_write: None,
        from: None,
    };
    let adopt = Write::Adopt {
        version: version.clone(),
        tags: tags.clone(),
        record: record.clone(),
        with: fingerprint.clone(),
        from: String::new(),
    };
    let (dropped, set) = (Vec::new(), Vec::new());
    let retag = Write::Retag { version, tags, dropped, set, record, foreign_write: None };
    for (write, act, announced) in [
        (import, Act::Import, Some(fingerprint)),
        (adopt, Act::Adopt, Some(leaf(1))),
        (retag, Act::Retag, Some(leaf(1))),
        (Write::Recover { is_ours: true }, Act::Recover, None),
        (Write::Delete, Act::Delete, None),
    ] {
        assert_eq!(write.announcement(NOW), InFlight { act, fingerprint: announced, since: NOW });
    }
}
