//! For every shape of vault, memory and Secret: one step converges, and nothing of somebody else's is written.
//! The histories that lead to such shapes are left to `push_model`.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use keyvault_sync_core::facts::CertificateFacts;
use keyvault_sync_core::fingerprint::Fingerprint;
use keyvault_sync_core::ownership::{self, ClusterId, Owner, OwnerKind, Ownership, Tags};
use keyvault_sync_core::push::{
    Act, Content, Desired, InFlight, Look, Memory, Next, Observed, Record, SourceVersion, Write, decide,
};
use keyvault_sync_core::reason::Reason;
use proptest::prelude::*;

const NOW: i64 = 1_000_000;
/// Secret, newest, recorded version, and a decision.
const STEPS_MAX: usize = 5;

fn owner(name: &str, namespace: &str) -> Owner {
    Owner {
        cluster: ClusterId::parse("c1").unwrap(),
        kind: OwnerKind::KeyVaultSync,
        namespace: namespace.into(),
        name: name.into(),
    }
}

fn desired(exportable: bool) -> Desired {
    Desired {
        owner: owner("web", "web"),
        source: "web/web-tls".into(),
        keys: ["tls.crt".into(), "tls.key".into()],
        tags: Tags::from([("team".into(), "web".into())]),
        exportable,
        suspend: false,
    }
}

fn fingerprint(number: u8) -> Fingerprint {
    format!("sha256:{}", format!("{number:02x}").repeat(32)).parse().unwrap()
}

fn content(number: u8) -> Content {
    Content { fingerprint: fingerprint(number), thumbprint: [number; 20], not_after: 2 * NOW }
}

/// Tags as we, a sibling, a stranger or nobody would have written them, perhaps with one more.
fn tags() -> impl Strategy<Value = Tags> {
    (0..5_u8, 1..4_u8, any::<bool>()).prop_map(|(whose, number, has_stray)| {
        let written =
            |owner: &Owner| ownership::tags(owner, "web/web-tls", &fingerprint(number), &desired(true).tags);
        let mut tags = match whose {
            0 | 1 => written(&owner("web", "web")),
            2 => written(&owner("sibling", "web")),
            3 => written(&owner("web", "elsewhere")),
            _ => Tags::new(),
        };
        if has_stray {
            tags.insert("stray".into(), "tag".into());
        }
        tags
    })
}

fn facts() -> impl Strategy<Value = CertificateFacts> {
    (1..4_u8, 1..4_u8, tags(), any::<bool>(), proptest::option::of(any::<bool>())).prop_map(
        |(version, number, tags, enabled, exportable)| CertificateFacts {
            version: format!("v{version}"),
            thumbprint: [number; 20],
            leaf: None,
            not_after: Some(2 * NOW),
            enabled,
            tags,
            exportable,
        },
    )
}

fn memory() -> impl Strategy<Value = Memory> {
    let record = (1..4_u8, 1..4_u8).prop_map(|(version, number)| Record {
        version: format!("v{version}"),
        thumbprint: [number; 20],
        fingerprint: fingerprint(number),
        not_after: 2 * NOW,
    });
    let in_flight = (1..4_u8, 0..100_i64).prop_map(|(number, ago)| InFlight {
        act: Act::Import,
        fingerprint: fingerprint(number),
        since: NOW - ago,
    });
    let reason = proptest::sample::select(Reason::ALL.to_vec());
    (
        proptest::option::of(record),
        proptest::option::of(in_flight),
        proptest::option::of(1..4_u8),
        any::<bool>(),
        proptest::option::of(Just("v7".to_owned())),
        proptest::option::of(reason),
    )
        .prop_map(|(record, in_flight, source, is_desired, foreign_write, reason)| Memory {
            record,
            in_flight,
            source: source.map(edition),
            desired: is_desired.then(|| desired(true).hash()),
            foreign_write,
            reason,
        })
}

fn edition(number: u8) -> SourceVersion {
    SourceVersion { uid: "u".into(), resource_version: number.to_string() }
}

/// Looks where the decision asks to look, until it decides.
fn settle(
    seen: &mut Observed,
    number: u8,
    newest: &Option<CertificateFacts>,
    recorded: &Option<CertificateFacts>,
) -> Next {
    for _ in 0..STEPS_MAX {
        match decide(seen) {
            Next::ReadSecret => seen.content = Look::Seen(Ok(content(number))),
            Next::ReadNewest => seen.newest = Look::Seen(newest.clone()),
            Next::ReadRecorded => seen.recorded = Look::Seen(recorded.clone()),
            decided => return decided,
        }
    }
    panic!("it asks for the same look again");
}

fn may_write(
    memory: &Memory,
    newest: &Option<CertificateFacts>,
    recorded: &Option<CertificateFacts>,
) -> bool {
    let us = owner("web", "web");
    let is_record = |facts: &CertificateFacts| {
        memory.record.as_ref().is_some_and(|record| record.version == facts.version)
    };
    let Some(newest) = newest else { return true };
    match ownership::read(&newest.tags, &us) {
        Ownership::Ours(_) => true,
        Ownership::Sibling { fingerprint, .. } => {
            is_record(newest)
                || fingerprint.is_some_and(|tagged| {
                    memory.in_flight.as_ref().is_some_and(|in_flight| in_flight.fingerprint == tagged)
                })
        }
        Ownership::Another(_) => false,
        Ownership::Unmanaged => {
            !is_record(newest)
                && recorded.as_ref().is_some_and(|facts| {
                    is_record(facts)
                        && !matches!(
                            ownership::read(&facts.tags, &us),
                            Ownership::Unmanaged | Ownership::Another(_)
                        )
                })
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_096))]

    #[test]
    fn one_step_converges_and_writes_nothing_of_others(
        memory in memory(),
        newest in proptest::option::of(facts()),
        recorded in proptest::option::of(facts()),
        number in 1..4_u8,
        exportable in any::<bool>(),
        compare in any::<bool>(),
    ) {
        let mut seen = Observed {
            desired: desired(exportable),
            access: Ok(()),
            memory: memory.clone(),
            source: Some(edition(number)),
            content: Look::NotYet,
            newest: Look::NotYet,
            recorded: Look::NotYet,
            compare,
            now: NOW,
        };
        // A Secret of the remembered edition has the remembered content; nobody changes it in between.
        if let (Some(record), true) = (&memory.record, seen.memory.source == seen.source) {
            prop_assume!(record.fingerprint == fingerprint(number));
        }
        let Next::Write(write) = settle(&mut seen, number, &newest, &recorded) else { return Ok(()) };
        prop_assert!(may_write(&memory, &newest, &recorded), "{write:?} over {newest:?}");

        let (after, record, foreign_write) = match write {
            Write::Import { tags, fingerprint, foreign_write, .. } => {
                let facts = CertificateFacts {
                    version: "v100".into(),
                    thumbprint: content(number).thumbprint,
                    leaf: None,
                    not_after: Some(2 * NOW),
                    enabled: true,
                    tags,
                    exportable: Some(exportable),
                };
                let record = Record { version: "v100".into(), thumbprint: facts.thumbprint, fingerprint, not_after: 2 * NOW };
                (facts, record, foreign_write)
            }
            Write::Retag { version, tags, record, .. } => {
                let before = newest.clone().unwrap();
                prop_assert_eq!(&before.version, &version);
                (CertificateFacts { tags, ..before }, record, memory.foreign_write.clone())
            }
        };
        seen.memory = Memory {
            in_flight: None,
            source: Some(edition(number)),
            record: Some(record),
            desired: Some(seen.desired.hash()),
            foreign_write,
            reason: Some(Reason::Synced),
        };
        for compare in [false, true] {
            let mut again = Observed { content: Look::NotYet, newest: Look::NotYet, recorded: Look::NotYet, compare, ..seen.clone() };
            let next = settle(&mut again, number, &Some(after.clone()), &None);
            let is_at_rest = match &next {
                Next::InSync { .. } => true,
                Next::Refuse(problem) => problem.reason == Reason::DisabledInVault && !after.enabled,
                _ => false,
            };
            prop_assert!(is_at_rest, "after one step: {next:?}");
        }
    }
}

#[test]
fn other_keys_of_the_same_secret_are_read_and_not_taken_from_memory() {
    let record =
        Record { version: "v1".into(), thumbprint: [1; 20], fingerprint: fingerprint(1), not_after: 2 * NOW };
    let memory = Memory {
        record: Some(record),
        source: Some(edition(1)),
        desired: Some(desired(true).hash()),
        reason: Some(Reason::Synced),
        ..Memory::default()
    };
    let seen = |desired: Desired, compare| Observed {
        desired,
        access: Ok(()),
        memory: memory.clone(),
        source: Some(edition(1)),
        content: Look::NotYet,
        newest: Look::NotYet,
        recorded: Look::NotYet,
        compare,
        now: NOW,
    };
    assert_eq!(decide(&seen(desired(true), false)), Next::InSync { record: None });
    assert_eq!(decide(&seen(desired(true), true)), Next::ReadNewest);
    let others = Desired { keys: ["other.crt".into(), "other.key".into()], ..desired(true) };
    for compare in [false, true] {
        assert_eq!(decide(&seen(others.clone(), compare)), Next::ReadSecret);
    }
}
