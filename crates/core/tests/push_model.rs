//! Every order of a push with crashes, lost and late answers, renewals and other people's writes, up to a bound, run
//! through the real `decide`: at the end there is what is wished, and no version was made twice.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, HashSet};

use keyvault_sync_core::facts::CertificateFacts;
use keyvault_sync_core::fingerprint::Fingerprint;
use keyvault_sync_core::ownership::{self, ClusterId, Owner, OwnerKind, Tags};
use keyvault_sync_core::push::{
    Content, Desired, IN_FLIGHT_SECS, Look, Memory, Next, Observed, Record, SourceVersion, Write, decide,
};
use keyvault_sync_core::reason::Reason;

/// How many things may go wrong or change in one history.
const DISTURBANCES: usize = 3;
/// More steps than any history needs to come to rest.
const STEPS_MAX: usize = 60;

fn owner() -> Owner {
    Owner {
        cluster: ClusterId::parse("c1").unwrap(),
        kind: OwnerKind::KeyVaultSync,
        namespace: "web".into(),
        name: "web".into(),
    }
}

fn desired() -> Desired {
    Desired {
        owner: owner(),
        source: "web/web-tls".into(),
        keys: ["tls.crt".into(), "tls.key".into()],
        tags: Tags::new(),
        exportable: true,
        suspend: false,
    }
}

fn content(number: u8) -> Content {
    Content {
        fingerprint: format!("sha256:{}", format!("{number:02x}").repeat(32)).parse::<Fingerprint>().unwrap(),
        thumbprint: [number; 20],
        not_after: 4_000_000_000,
    }
}

/// What the vault, the claim and the operator's memory hold.
#[derive(Clone, Debug)]
struct World {
    secret: u8,
    vault: Vec<CertificateFacts>,
    /// Versions ever made of each content by us.
    made: BTreeMap<u8, usize>,
    memory: Memory,
    /// A write that was sent and may still land.
    on_the_wire: Option<(Write, i64)>,
    content: Look<Content>,
    newest: Look<Option<CertificateFacts>>,
    recorded: Look<Option<CertificateFacts>>,
    compare: bool,
    now: i64,
    next_version: u32,
    foreign: usize,
}

/// What may happen between two steps of the operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Disturbance {
    /// The operator dies and starts again: what it had looked at is forgotten.
    Crash,
    /// The Secret is renewed.
    Renew,
    /// Somebody imports another certificate by hand.
    ForeignImport,
    /// Somebody deletes and purges the certificate.
    Purge,
    /// Somebody strips a user's tag or adds one.
    Retag,
}

/// How the next vault write ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// It is carried out and answered.
    Answered,
    /// It is carried out, the answer is lost.
    AnswerLost,
    /// It never arrives.
    RequestLost,
    /// The operator dies after the announcement; nothing was sent.
    DiesBefore,
    /// The operator dies after sending; the write lands at once.
    DiesAfter,
    /// The operator gives up waiting; the write lands within its time limit.
    Late,
}

const DISTURBING: [Disturbance; 5] = [
    Disturbance::Crash,
    Disturbance::Renew,
    Disturbance::ForeignImport,
    Disturbance::Purge,
    Disturbance::Retag,
];
const BAD_ENDINGS: [Ending; 5] =
    [Ending::AnswerLost, Ending::RequestLost, Ending::DiesBefore, Ending::DiesAfter, Ending::Late];

impl World {
    fn new() -> Self {
        World {
            secret: 1,
            vault: Vec::new(),
            made: BTreeMap::new(),
            memory: Memory::default(),
            on_the_wire: None,
            content: Look::NotYet,
            newest: Look::NotYet,
            recorded: Look::NotYet,
            compare: false,
            now: 1_000,
            next_version: 1,
            foreign: 0,
        }
    }

    fn observed(&self) -> Observed {
        Observed {
            desired: desired(),
            access: Ok(()),
            memory: self.memory.clone(),
            source: Some(SourceVersion { uid: "u".into(), resource_version: self.secret.to_string() }),
            content: match &self.content {
                Look::NotYet => Look::NotYet,
                Look::Seen(content) => Look::Seen(Ok(content.clone())),
            },
            newest: self.newest.clone(),
            recorded: self.recorded.clone(),
            compare: self.compare,
            now: self.now,
        }
    }

    fn forget(&mut self) {
        self.content = Look::NotYet;
        self.newest = Look::NotYet;
        self.recorded = Look::NotYet;
    }

    fn disturb(&mut self, disturbance: Disturbance) {
        match disturbance {
            Disturbance::Crash => self.forget(),
            Disturbance::Renew => {
                self.secret += 1;
                // The watch makes the operator begin the round again.
                self.forget();
            }
            Disturbance::ForeignImport => {
                self.foreign += 1;
                let version = self.version();
                self.vault.push(CertificateFacts {
                    version,
                    thumbprint: [200; 20],
                    leaf: None,
                    not_after: None,
                    enabled: true,
                    tags: Tags::new(),
                    exportable: Some(true),
                });
            }
            Disturbance::Purge => {
                self.foreign += 1;
                self.vault.clear();
            }
            Disturbance::Retag => {
                if let Some(newest) = self.vault.last_mut() {
                    newest.tags.insert("stray".into(), "tag".into());
                }
            }
        }
    }

    fn version(&mut self) -> String {
        self.next_version += 1;
        format!("v{}", self.next_version)
    }

    /// The vault carries a write out.
    fn land(&mut self, write: &Write) -> Option<CertificateFacts> {
        match write {
            Write::Import { tags, fingerprint, .. } => {
                let number = (0..=u8::MAX).find(|n| content(*n).fingerprint == *fingerprint).unwrap();
                *self.made.entry(number).or_default() += 1;
                let version = self.version();
                self.vault.push(CertificateFacts {
                    version,
                    thumbprint: [number; 20],
                    leaf: None,
                    not_after: Some(4_000_000_000),
                    enabled: true,
                    tags: tags.clone(),
                    exportable: Some(true),
                });
                self.vault.last().cloned()
            }
            Write::Retag { version, tags, .. } => {
                let there = self.vault.iter_mut().find(|there| there.version == *version)?;
                there.tags = tags.clone();
                Some(there.clone())
            }
        }
    }

    fn receipt(&mut self, write: &Write, facts: &CertificateFacts) {
        let (fingerprint, foreign_write) = match write {
            Write::Import { fingerprint, foreign_write, .. } => (fingerprint.clone(), foreign_write.clone()),
            Write::Retag { record, .. } => (record.fingerprint.clone(), self.memory.foreign_write.clone()),
        };
        self.remember(Record {
            version: facts.version.clone(),
            thumbprint: facts.thumbprint,
            fingerprint,
            not_after: 4_000_000_000,
        });
        self.memory.foreign_write = foreign_write;
        self.forget();
    }

    fn remember(&mut self, record: Record) {
        self.memory.record = Some(record);
        self.memory.desired = Some(desired().hash());
        self.memory.in_flight = None;
        self.memory.reason = Some(Reason::Synced);
        self.memory.source =
            Some(SourceVersion { uid: "u".into(), resource_version: self.secret.to_string() });
    }

    /// One step of the operator; false when it has come to rest.
    fn step(&mut self, ending: Ending) -> bool {
        match decide(&self.observed()) {
            Next::ReadSecret => {
                assert_eq!(self.content, Look::NotYet, "the Secret is read twice in a round");
                self.content = Look::Seen(content(self.secret));
            }
            Next::ReadNewest => {
                assert_eq!(self.newest, Look::NotYet, "the vault is read twice in a round");
                self.newest = Look::Seen(self.vault.last().cloned());
            }
            Next::ReadRecorded => {
                assert_eq!(self.recorded, Look::NotYet, "the recorded version is read twice in a round");
                let version = self.memory.record.as_ref().map(|record| record.version.clone());
                self.recorded = Look::Seen(
                    self.vault.iter().find(|there| Some(&there.version) == version.as_ref()).cloned(),
                );
            }
            Next::Wait { until } => {
                assert!(until > self.now && until <= self.now + IN_FLIGHT_SECS);
                // By then, what was on the wire has landed.
                if let Some((write, _)) = self.on_the_wire.take() {
                    self.land(&write);
                }
                self.now = until;
                self.forget();
            }
            Next::Write(write) => self.write(write, ending),
            Next::InSync { record } => {
                if let Some(record) = record {
                    self.remember(record);
                }
                self.memory.source =
                    Some(SourceVersion { uid: "u".into(), resource_version: self.secret.to_string() });
                self.memory.reason = Some(Reason::Synced);
                self.compare = false;
                self.forget();
                return false;
            }
            Next::Refuse(problem) => {
                self.memory.reason = Some(problem.reason);
                self.forget();
                return false;
            }
            Next::Suspended => panic!("nothing is suspended here"),
        }
        true
    }

    fn write(&mut self, write: Write, ending: Ending) {
        self.memory.in_flight = Some(write.announcement(self.now));
        match ending {
            Ending::Answered => match self.land(&write) {
                Some(facts) => self.receipt(&write, &facts),
                None => self.forget(),
            },
            Ending::AnswerLost | Ending::DiesAfter => {
                self.land(&write);
                self.forget();
            }
            Ending::RequestLost | Ending::DiesBefore => self.forget(),
            Ending::Late => {
                self.on_the_wire = Some((write, self.now));
                self.forget();
            }
        }
    }

    /// Runs without further trouble until nothing is left to do, comparing once at the end.
    fn settle(&mut self) -> Option<Reason> {
        for round in 0..2 {
            let mut steps = 0;
            while self.step(Ending::Answered) {
                steps += 1;
                assert!(steps < STEPS_MAX, "the operator does not come to rest: {self:#?}");
            }
            if round == 0 {
                self.compare = true;
            }
        }
        self.memory.reason
    }
}

/// Explores every history of at most [`DISTURBANCES`] disturbances and bad endings.
fn explore(world: &World, left: usize, seen: &mut HashSet<(String, usize)>, check: &mut impl FnMut(World)) {
    if !seen.insert((format!("{world:?}"), left)) {
        return;
    }
    check(world.clone());
    if left > 0 {
        for disturbance in DISTURBING {
            let mut next = world.clone();
            next.disturb(disturbance);
            // A change in the vault is found at the next comparison, which may come at any time.
            next.compare = true;
            explore(&next, left - 1, seen, check);
        }
        if matches!(decide(&world.observed()), Next::Write(_)) {
            for ending in BAD_ENDINGS {
                let mut next = world.clone();
                next.step(ending);
                explore(&next, left - 1, seen, check);
            }
        }
    }
    let mut next = world.clone();
    if next.step(Ending::Answered) {
        explore(&next, left, seen, check);
    } else if left > 0 {
        // At rest, but something may still happen.
        explore(&next, left, seen, check);
    }
}

#[test]
fn whatever_happens_the_vault_ends_with_the_secret_and_no_version_is_made_twice() {
    let mut histories = 0_usize;
    let mut seen = HashSet::new();
    explore(&World::new(), DISTURBANCES, &mut seen, &mut |mut world| {
        histories += 1;
        let reason = world.settle();
        let newest = world.vault.last().cloned();
        if reason == Some(Reason::NotManaged) {
            // Somebody imported over a certificate that we had not recorded yet: it is theirs.
            assert!(world.foreign > 0, "{world:#?}");
            assert_eq!(ownership::read(&newest.unwrap().tags, &owner()), ownership::Ownership::Unmanaged);
        } else {
            assert_eq!(reason, Some(Reason::Synced), "{world:#?}");
            let newest = newest.unwrap();
            assert_eq!(newest.thumbprint, content(world.secret).thumbprint, "{world:#?}");
            assert_eq!(
                newest.tags,
                ownership::tags(&owner(), "web/web-tls", &content(world.secret).fingerprint, &Tags::new())
            );
        }
        if world.foreign == 0 {
            assert!(world.made.values().all(|made| *made == 1), "a version was made twice: {world:#?}");
        }
        assert!(!(world.memory.in_flight.is_some() && reason == Some(Reason::Synced)), "{world:#?}");
    });
    assert!(histories > 1_000, "only {histories} histories were explored");
}
