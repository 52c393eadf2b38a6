//! A claim that is given up: for every shape, nothing is deleted that is not ours beyond doubt; and what each ending says.
//! Whether a claim is given up is proven in `claims`, how the deletion is carried out, in `e2e`.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeMap;

use keyvault_sync_core::facts::CertificateFacts;
use keyvault_sync_core::fingerprint::Fingerprint;
use keyvault_sync_core::ownership::{self, ClusterId, Owner, OwnerKind, Tags};
use keyvault_sync_core::push::{
    Act, Desired, IN_FLIGHT_SECS, InFlight, Look, Memory, RECOVERY_PATIENCE_SECS, Record,
};
use keyvault_sync_core::reason::{Problem, Reason};
use keyvault_sync_core::release::{
    ATTEMPTS_MIN, Ending, Failing, Next, Releasing, SETTLE_SECS, decide, failed,
};
use keyvault_sync_core::title::Adoption;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

const NOW: i64 = 1_000_000;
const HOUR: i64 = 3_600;

fn owner(cluster: &str, namespace: &str, name: &str) -> Owner {
    Owner {
        cluster: ClusterId::parse(cluster).unwrap(),
        kind: OwnerKind::KeyVaultSync,
        namespace: namespace.into(),
        name: name.into(),
    }
}

fn us() -> Owner {
    owner("c1", "web", "web")
}

fn sibling() -> Owner {
    owner("c1", "web", "sibling")
}

fn desired() -> Desired {
    Desired {
        owner: us(),
        source: "web/web-tls".into(),
        keys: ["tls.crt".into(), "tls.key".into()],
        tags: Tags::new(),
        exportable: true,
        adoption: Adoption::default(),
        suspend: false,
    }
}

fn full(number: u8) -> Fingerprint {
    Fingerprint::LeafAndChain([number; 32])
}

fn leaf(number: u8) -> Fingerprint {
    Fingerprint::Leaf([number; 32])
}

fn record(version: u8, fingerprint: Fingerprint) -> Record {
    Record { version: format!("v{version}"), thumbprint: [1; 20], fingerprint, not_after: 2 * NOW }
}

/// A version with the tags of `owner` about `fingerprint`, or without that tag.
fn version(number: u8, owner: Option<&Owner>, fingerprint: Option<&Fingerprint>) -> CertificateFacts {
    let mut tags = Tags::new();
    if let Some(owner) = owner {
        let any = full(9);
        tags = ownership::tags(owner, "web/web-tls", fingerprint.unwrap_or(&any), &Tags::new());
        if fingerprint.is_none() {
            tags.retain(|_, value| *value != any.to_string());
        }
    }
    CertificateFacts {
        version: format!("v{number}"),
        thumbprint: [1; 20],
        leaf: None,
        not_after: None,
        enabled: true,
        tags,
        exportable: None,
    }
}

/// Version v1, pushed by us and untouched since.
fn releasing() -> Releasing {
    Releasing {
        desired: desired(),
        deletes: true,
        is_of_this_cluster: true,
        is_restored: false,
        since: NOW - HOUR,
        access: Ok(()),
        memory: Memory { record: Some(record(1, full(1))), ..Memory::default() },
        newest: Look::Seen(Some(version(1, Some(&us()), Some(&full(1))))),
        failing: None,
        effort_secs: HOUR,
        now: NOW,
    }
}

fn fingerprints() -> impl Strategy<Value = Fingerprint> {
    (any::<bool>(), 1..3_u8).prop_map(|(is_full, number)| if is_full { full(number) } else { leaf(number) })
}

fn newest() -> impl Strategy<Value = Look<Option<CertificateFacts>>> {
    let owners = select(vec![
        Some(us()),
        Some(us()),
        Some(us()),
        Some(sibling()),
        Some(owner("c1", "api", "web")),
        Some(owner("c2", "web", "web")),
        Some(Owner { kind: OwnerKind::ClusterKeyVaultSync, namespace: String::new(), ..us() }),
        None,
    ]);
    let some = (1..3_u8, owners, proptest::option::weighted(0.8, fingerprints()))
        .prop_map(|(number, owner, fingerprint)| version(number, owner.as_ref(), fingerprint.as_ref()));
    prop_oneof![
        1 => Just(Look::NotYet),
        1 => Just(Look::Seen(None)),
        10 => some.prop_map(|some| Look::Seen(Some(some))),
    ]
}

fn in_flight() -> impl Strategy<Value = Option<InFlight>> {
    let act = select(vec![Act::Import, Act::Adopt, Act::Retag, Act::Recover, Act::Delete]);
    let some = (act, fingerprints(), 0..2 * IN_FLIGHT_SECS).prop_map(|(act, fingerprint, ago)| InFlight {
        act,
        fingerprint: (!matches!(act, Act::Recover | Act::Delete)).then_some(fingerprint),
        since: NOW - ago,
    });
    proptest::option::weighted(0.4, some)
}

fn problems() -> impl Strategy<Value = Problem> {
    select(Reason::ALL.to_vec()).prop_map(|reason| Problem::new(reason, "no way to the vault"))
}

fn shapes() -> impl Strategy<Value = Releasing> {
    let recorded = proptest::option::weighted(0.8, (1..3_u8, fingerprints()));
    let failing = proptest::option::of((0..2 * HOUR, 0..2 * ATTEMPTS_MIN));
    let is = || proptest::bool::weighted(0.8);
    let desired_hash = select(vec![None, Some(desired().hash()), Some("sha256:another".to_owned())]);
    let reason = proptest::option::of(select(Reason::ALL.to_vec()));
    (
        is(),
        is(),
        proptest::option::weighted(0.2, problems()),
        (recorded, prop::bool::weighted(0.1), 0..30_i64),
        in_flight(),
        newest(),
        failing,
        desired_hash,
        reason,
    )
        .prop_map(
            |(
                deletes,
                is_of_this_cluster,
                problem,
                (recorded, is_restored, ago),
                in_flight,
                newest,
                failing,
                desired,
                reason,
            )| {
                Releasing {
                    deletes,
                    is_of_this_cluster,
                    is_restored,
                    since: NOW - ago,
                    access: problem.map_or(Ok(()), Err),
                    memory: Memory {
                        in_flight,
                        record: recorded.map(|(version, fingerprint)| record(version, fingerprint)),
                        desired,
                        reason,
                        ..Memory::default()
                    },
                    newest,
                    failing: failing.map(|(ago, attempts)| Failing { since: NOW - ago, attempts }),
                    ..releasing()
                }
            },
        )
}

/// The rule, in words of its own.
fn may_delete(seen: &Releasing) -> Result<(), &'static str> {
    let rule = |holds: bool, rule: &'static str| if holds { Ok(()) } else { Err(rule) };
    let memory = &seen.memory;
    rule(seen.deletes, "nobody wishes it")?;
    rule(seen.is_of_this_cluster, "the claim is from another cluster's backup")?;
    rule(!seen.is_restored, "the claim is from a backup")?;
    rule(seen.now >= seen.since + SETTLE_SECS, "somebody may be about to want it")?;
    rule(seen.access.is_ok(), "the vault must not be used")?;
    rule(memory.record.is_some() || memory.in_flight.is_some(), "nothing was pushed")?;
    rule(
        memory.in_flight.as_ref().is_none_or(|announced| announced.since + IN_FLIGHT_SECS <= seen.now),
        "a write may be under way",
    )?;
    let Look::Seen(Some(newest)) = &seen.newest else { return Err("nobody looked") };
    let says = |text: &str| newest.tags.values().any(|value| value == text);
    let is_record = memory.record.as_ref().is_some_and(|record| record.version == newest.version);
    let known = [
        memory.record.as_ref().map(|record| record.fingerprint.to_string()),
        memory
            .in_flight
            .as_ref()
            .and_then(|announced| announced.fingerprint.as_ref())
            .map(ToString::to_string),
    ];
    let is_known = known.iter().flatten().any(|known| says(known));
    let is_ours = says(&us().to_string()) && (is_known || is_record);
    rule(is_ours || (says(&sibling().to_string()) && is_record), "it is not ours beyond doubt")
}

fn word(next: &Next) -> &'static str {
    match next {
        Next::ReadNewest => "ReadNewest",
        Next::Wait { .. } => "Wait",
        Next::Delete => "Delete",
        Next::Refuse(_) => "Refuse",
        Next::End(Ending::Retained) => "Retained",
        Next::End(Ending::NothingPushed) => "NothingPushed",
        Next::End(Ending::Gone) => "Gone",
        Next::End(Ending::Left(_)) => "Left",
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8_192))]

    #[test]
    fn nothing_is_deleted_that_is_not_ours_beyond_doubt(seen in shapes()) {
        let next = decide(&seen);
        if next == Next::Delete {
            prop_assert_eq!(may_delete(&seen), Ok(()));
        }
        // And what may be deleted is not left.
        if may_delete(&seen).is_ok() {
            prop_assert_eq!(&next, &Next::Delete);
        }
        if let Next::Wait { until } = next {
            prop_assert!(until > NOW && until <= NOW + IN_FLIGHT_SECS);
        }
        if let Next::End(Ending::Left(problem)) = &next {
            prop_assert!(seen.deletes, "{problem}");
            prop_assert_eq!(problem.reason, Reason::LeftInVault);
            prop_assert!(problem.message.contains("delete it there by hand"), "{problem}");
        }
    }
}

#[test]
fn the_shapes_lead_to_every_kind_of_end() {
    let mut runner = TestRunner::deterministic();
    let mut ends = BTreeMap::new();
    for _ in 0..2_048 {
        *ends.entry(word(&decide(&shapes().new_tree(&mut runner).unwrap().current()))).or_insert(0) += 1;
    }
    for end in ["ReadNewest", "Wait", "Delete", "Refuse", "Retained", "NothingPushed", "Gone", "Left"] {
        assert!(ends.get(end).is_some_and(|met| *met > 20), "{end} is hardly met: {ends:?}");
    }
}

/// Checks that a claim ends as told; of `Left` the sentence has to contain each of these.
fn assert_ends(what: &str, seen: &Releasing, word_: &str, contains: &[&str]) {
    let next = decide(seen);
    assert_eq!(word(&next), word_, "{what}: {next:?}");
    if let Next::End(Ending::Left(problem)) = &next {
        for text in contains.iter().chain(&["stays in the vault", "delete it there by hand"]) {
            assert!(problem.message.contains(text), "{what}: {:?} is not in {:?}", text, problem.message);
        }
        assert!(!problem.message.contains("  "), "{what}: {:?}", problem.message);
    }
}

#[test]
fn a_claim_ends_with_the_certificate_deleted_retained_or_left_with_the_reason() {
    let seen = |newest: CertificateFacts| Releasing { newest: Look::Seen(Some(newest)), ..releasing() };
    let remembers = |memory: Memory| Releasing { memory, ..releasing() };
    let announced = |act, fingerprint, since| Memory {
        in_flight: Some(InFlight { act, fingerprint, since }),
        ..Memory::default()
    };
    let recovering =
        |failing_since| Memory { reason: Some(Reason::Recovering), failing_since, ..releasing().memory };
    let past = NOW - IN_FLIGHT_SECS;
    let us = us();
    for (what, seen, word, contains) in [
        ("as pushed", releasing(), "Delete", &[][..]),
        ("not looked at", Releasing { newest: Look::NotYet, ..releasing() }, "ReadNewest", &[]),
        ("deleted by somebody", Releasing { newest: Look::Seen(None), ..releasing() }, "Gone", &[]),
        (
            "being recovered, for a while neither there nor gone",
            Releasing {
                newest: Look::Seen(None),
                ..remembers(recovering(Some(NOW - RECOVERY_PATIENCE_SECS + 1)))
            },
            "Refuse",
            &[],
        ),
        (
            "a recovery that never ended",
            Releasing {
                newest: Look::Seen(None),
                ..remembers(recovering(Some(NOW - RECOVERY_PATIENCE_SECS)))
            },
            "Gone",
            &[],
        ),
        (
            "a recovery without a receipt",
            Releasing {
                newest: Look::Seen(None),
                memory: Memory {
                    record: releasing().memory.record,
                    ..announced(Act::Recover, None, NOW - IN_FLIGHT_SECS)
                },
                ..releasing()
            },
            "Refuse",
            &[],
        ),
        ("Retain", Releasing { deletes: false, ..releasing() }, "Retained", &[]),
        (
            "Retain, without a way to the vault, in a restored claim",
            Releasing {
                deletes: false,
                is_of_this_cluster: false,
                access: Err(Problem::new(Reason::VaultNotFound, "no KeyVault")),
                memory: Memory::default(),
                ..releasing()
            },
            "Retained",
            &[],
        ),
        ("restored from a backup without its status", remembers(Memory::default()), "NothingPushed", &[]),
        (
            "restored from a backup with its status",
            Releasing { is_restored: true, memory: Memory::default(), ..releasing() },
            "Left",
            &["restored from a backup"],
        ),
        ("given up a moment ago", Releasing { since: NOW - SETTLE_SECS + 1, ..releasing() }, "Wait", &[]),
        ("given up long enough ago", Releasing { since: NOW - SETTLE_SECS, ..releasing() }, "Delete", &[]),
        (
            "restored from a backup of another cluster",
            Releasing { is_of_this_cluster: false, ..releasing() },
            "Left",
            &["another cluster id", "restored from a backup"],
        ),
        (
            "restored into another cluster, unlooked",
            Releasing { is_of_this_cluster: false, newest: Look::NotYet, ..releasing() },
            "Left",
            &["another cluster id"],
        ),
        ("of a version we wrote before", seen(version(2, Some(&us), Some(&full(1)))), "Delete", &[]),
        ("fingerprint tag gone, version known", seen(version(1, Some(&us), None)), "Delete", &[]),
        (
            "fingerprint tag gone",
            seen(version(2, Some(&us), None)),
            "Left",
            &["version v2", "not written by"],
        ),
        (
            "a foreign write with our owner tag",
            seen(version(2, Some(&us), Some(&full(2)))),
            "Left",
            &["version v2", "has our owner tag", "not written by this cluster"],
        ),
        ("handed over, not retagged yet", seen(version(1, Some(&sibling()), Some(&full(1)))), "Delete", &[]),
        (
            "a sibling's",
            seen(version(2, Some(&sibling()), Some(&full(1)))),
            "Left",
            &["belongs to c1/KeyVaultSync/web/sibling"],
        ),
        (
            "another cluster's, over ours",
            seen(version(1, Some(&owner("c2", "web", "web")), Some(&full(1)))),
            "Left",
            &["belongs to \"c2/KeyVaultSync/web/web\""],
        ),
        ("tags removed", seen(version(1, None, None)), "Left", &["version v1", "no owner tag"]),
        (
            "somebody's import over ours",
            seen(version(2, None, None)),
            "Left",
            &["version v2", "no owner tag"],
        ),
        ("under way", remembers(announced(Act::Import, Some(full(1)), past + 1)), "Wait", &[]),
        (
            "under way, Retain",
            Releasing { deletes: false, ..remembers(announced(Act::Import, Some(full(1)), past + 1)) },
            "Wait",
            &[],
        ),
        ("landed, receipt lost", remembers(announced(Act::Import, Some(full(1)), past)), "Delete", &[]),
        (
            "never landed, somebody else's is there",
            Releasing {
                newest: Look::Seen(Some(version(1, Some(&us), Some(&full(2))))),
                ..remembers(announced(Act::Import, Some(full(1)), past))
            },
            "Left",
            &["not written by this cluster"],
        ),
        (
            "recovery without a receipt, nothing pushed",
            remembers(announced(Act::Recover, None, past)),
            "Left",
            &["not written by this cluster"],
        ),
        (
            "a deletion without a receipt that landed",
            Releasing {
                memory: Memory { record: releasing().memory.record, ..announced(Act::Delete, None, past) },
                newest: Look::Seen(None),
                ..releasing()
            },
            "Gone",
            &[],
        ),
    ] {
        assert_ends(what, &seen, word, contains);
    }
}

#[test]
fn an_hour_of_effort_is_an_hour_of_attempts() {
    for (what, reason, failing, is_left) in [
        ("the first time", Reason::Forbidden, None, false),
        ("an hour, attempts", Reason::Forbidden, Some((HOUR, ATTEMPTS_MIN)), true),
        ("a second too early", Reason::Forbidden, Some((HOUR - 1, 100)), false),
        (
            "down for days, and now the first attempts",
            Reason::Forbidden,
            Some((48 * HOUR, ATTEMPTS_MIN - 1)),
            false,
        ),
        ("throttled for days", Reason::Throttled, Some((48 * HOUR, 1_000)), false),
        ("unreachable for an hour", Reason::VaultUnreachable, Some((HOUR, ATTEMPTS_MIN)), true),
        ("no answer for an hour", Reason::Unavailable, Some((HOUR, ATTEMPTS_MIN)), true),
        ("vault gone", Reason::VaultNotFound, Some((HOUR, ATTEMPTS_MIN)), true),
        ("grant gone", Reason::NotGranted, Some((HOUR, ATTEMPTS_MIN)), true),
        ("ServiceAccount gone", Reason::AuthenticationFailed, Some((HOUR, ATTEMPTS_MIN)), true),
    ] {
        let problem = Problem::new(reason, "the vault says no");
        let seen = Releasing {
            access: Err(problem.clone()),
            failing: failing.map(|(ago, attempts)| Failing { since: NOW - ago, attempts }),
            ..releasing()
        };
        for next in [decide(&seen), failed(&seen, &problem)] {
            match next {
                Next::End(Ending::Left(left)) if is_left => {
                    assert_eq!(left.reason, Reason::LeftInVault, "{what}");
                    for text in [reason.as_str(), "the vault says no", "delete it there by hand"] {
                        assert!(left.message.contains(text), "{what}: {text:?} is not in {:?}", left.message);
                    }
                }
                Next::Refuse(refused) if !is_left => assert_eq!(refused, problem, "{what}"),
                next => panic!("{what}: {next:?}"),
            }
        }
    }
}
