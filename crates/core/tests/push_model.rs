//! Every order of a push with crashes, lost and late answers, renewals, handovers and other people's writes, up to a bound,
//! run through the real `decide`: at the end there is what is wished or a just refusal, and no version was made twice.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, HashMap};

use keyvault_sync_core::facts::{CertificateFacts, DeletedFacts};
use keyvault_sync_core::fingerprint::Fingerprint;
use keyvault_sync_core::ownership::{self, ClusterId, Owner, OwnerKind, Ownership, Tags};
use keyvault_sync_core::push::{
    Content, Desired, IN_FLIGHT_SECS, Look, Memory, Next, Observed, OwnerState, Record, SourceVersion, Write,
    decide, recovering,
};
use keyvault_sync_core::reason::{Fault, Problem, Reason};
use keyvault_sync_core::title::Adoption;

/// How many things may go wrong or change in one history.
const DISTURBANCES: usize = 3;
/// The same where adoption is granted: fewer things can stand in the way.
const DISTURBANCES_WITH_ADOPTION: usize = 2;
/// More steps than any round needs to come to rest.
const STEPS_MAX: usize = 60;
/// More rounds than any history needs to come to its end: a recovery that never ends takes the most.
const ROUNDS_MAX: usize = 12;
/// From one round to the next, seconds.
const ROUND_SECS: i64 = 120;
/// What somebody else pushes under our name.
const FOREIGN: u8 = 200;

fn owner(name: &str) -> Owner {
    Owner {
        cluster: ClusterId::parse("c1").unwrap(),
        kind: OwnerKind::KeyVaultSync,
        namespace: "web".into(),
        name: name.into(),
    }
}

fn desired(name: &str) -> Desired {
    Desired {
        owner: owner(name),
        source: "web/web-tls".into(),
        keys: ["tls.crt".into(), "tls.key".into()],
        tags: Tags::new(),
        exportable: true,
        adoption: Adoption::default(),
        suspend: false,
    }
}

fn granted() -> Adoption {
    Adoption { is_asked: true, from_clusters: Vec::new(), grant: Ok(()) }
}

fn content(number: u8) -> Content {
    Content {
        fingerprint: Fingerprint::LeafAndChain([number; 32]),
        leaf: Fingerprint::Leaf([number; 32]),
        thumbprint: [number; 20],
        not_after: 4_000_000_000,
    }
}

/// A certificate name of a vault.
#[derive(Clone, Debug, Default)]
struct Vault {
    /// Every version, the newest last.
    live: Vec<CertificateFacts>,
    /// The versions, while soft-deleted.
    deleted: Vec<CertificateFacts>,
    /// The versions, while they are on their way back: neither live nor deleted.
    recovering: Vec<CertificateFacts>,
    versions: u32,
}

impl Vault {
    fn add(&mut self, number: u8, tags: Tags, exportable: bool) -> CertificateFacts {
        self.versions += 1;
        let facts = CertificateFacts {
            version: format!("v{}", self.versions),
            thumbprint: [number; 20],
            leaf: Some(content(number).leaf),
            not_after: Some(4_000_000_000),
            enabled: true,
            tags,
            exportable: Some(exportable),
        };
        self.live.push(facts.clone());
        facts
    }

    fn newest_deleted(&self) -> Option<DeletedFacts> {
        let newest = self.deleted.last()?.clone();
        Some(DeletedFacts { newest, scheduled_purge: None, is_purge_protected: false })
    }

    /// Carries a write out, or refuses it as Key Vault does.
    fn land(&mut self, write: &Write, exportable: bool) -> Result<Option<CertificateFacts>, Reason> {
        match write {
            Write::Import { .. } if !self.deleted.is_empty() => Err(Reason::SoftDeleted),
            Write::Import { .. } if !self.recovering.is_empty() => Err(Reason::Recovering),
            Write::Import { tags, fingerprint, .. } => {
                let number = (0..=u8::MAX).find(|n| content(*n).fingerprint == *fingerprint).unwrap();
                Ok(Some(self.add(number, tags.clone(), exportable)))
            }
            Write::Adopt { version, tags, .. } | Write::Retag { version, tags, .. } => {
                let there = self.live.iter_mut().find(|there| there.version == *version);
                let there = there.ok_or(Reason::VaultRejected)?;
                there.tags = tags.clone();
                Ok(Some(there.clone()))
            }
            Write::Recover { .. } if self.deleted.is_empty() => Err(Reason::VaultRejected),
            Write::Recover { .. } => {
                self.recovering = std::mem::take(&mut self.deleted);
                Ok(None)
            }
            Write::Delete => panic!("a push never deletes"),
        }
    }
}

/// A claim and what its operator has in mind.
#[derive(Clone, Debug)]
struct Operator {
    desired: Desired,
    secret: u8,
    /// What became of the others of whom it may have to ask.
    others: OwnerState,
    memory: Memory,
    /// A write that was sent and may still land.
    on_the_wire: Option<Write>,
    content: Look<Content>,
    newest: Look<Option<CertificateFacts>>,
    recorded: Look<Option<CertificateFacts>>,
    deleted: Look<Option<DeletedFacts>>,
    owner: Look<OwnerState>,
    compare: bool,
    now: i64,
    /// Versions ever made of each content.
    made: BTreeMap<u8, usize>,
    /// Writes that the vault carried out.
    writes: usize,
}

/// How a vault write ends.
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

const BAD_ENDINGS: [Ending; 5] =
    [Ending::AnswerLost, Ending::RequestLost, Ending::DiesBefore, Ending::DiesAfter, Ending::Late];

impl Operator {
    fn new(desired: Desired, secret: u8) -> Self {
        Operator {
            desired,
            secret,
            others: OwnerState::Elsewhere,
            memory: Memory::default(),
            on_the_wire: None,
            content: Look::NotYet,
            newest: Look::NotYet,
            recorded: Look::NotYet,
            deleted: Look::NotYet,
            owner: Look::NotYet,
            compare: false,
            now: 1_000,
            made: BTreeMap::new(),
            writes: 0,
        }
    }

    fn edition(&self) -> SourceVersion {
        SourceVersion { uid: "u".into(), resource_version: self.secret.to_string() }
    }

    fn observed(&self) -> Observed {
        Observed {
            desired: self.desired.clone(),
            access: Ok(()),
            memory: self.memory.clone(),
            source: Some(self.edition()),
            content: match &self.content {
                Look::NotYet => Look::NotYet,
                Look::Seen(content) => Look::Seen(Ok(content.clone())),
            },
            newest: self.newest.clone(),
            recorded: self.recorded.clone(),
            deleted: self.deleted.clone(),
            owner: self.owner.clone(),
            compare: self.compare,
            now: self.now,
        }
    }

    fn forget(&mut self) {
        self.content = Look::NotYet;
        self.newest = Look::NotYet;
        self.recorded = Look::NotYet;
        self.deleted = Look::NotYet;
        self.owner = Look::NotYet;
    }

    /// What the claim's status says after a round; the round is over.
    fn end(&mut self, reason: Reason) {
        let is_passing = matches!(reason.fault(), Some(Fault::Transient | Fault::Bug));
        self.memory.failing_since = is_passing.then(|| self.memory.failing_since.unwrap_or(self.now));
        self.memory.reason = Some(reason);
        if self.newest != Look::NotYet {
            self.memory.in_flight = None;
            self.compare = false;
        }
        self.forget();
    }

    fn in_sync(&mut self, record: Option<Record>) {
        if let Some(record) = record {
            self.memory.record = Some(record);
            self.memory.desired = Some(self.desired.hash());
        }
        self.memory.source = Some(self.edition());
        self.end(Reason::Synced);
    }

    fn receipt(&mut self, write: &Write, facts: Option<CertificateFacts>) {
        let record = match (write, facts) {
            (Write::Import { fingerprint, foreign_write, .. }, Some(facts)) => {
                self.memory.foreign_write = foreign_write.clone();
                self.memory.adopted_with = None;
                Record {
                    version: facts.version,
                    thumbprint: facts.thumbprint,
                    fingerprint: fingerprint.clone(),
                    not_after: 4_000_000_000,
                }
            }
            (Write::Adopt { record, with, .. }, _) => {
                self.memory.adopted_with = Some(with.clone());
                record.clone()
            }
            (Write::Retag { record, foreign_write, .. }, _) => {
                self.memory.foreign_write = foreign_write.clone();
                record.clone()
            }
            (Write::Recover { .. }, _) => return self.end(recovering().reason),
            (write, facts) => panic!("{write:?} answered with {facts:?}"),
        };
        self.in_sync(Some(record));
    }

    /// One step; false when the round is over.
    fn step(&mut self, vault: &mut Vault, ending: Ending) -> bool {
        match decide(&self.observed()) {
            Next::ReadSecret => {
                assert_eq!(self.content, Look::NotYet, "the Secret is read twice in a round");
                self.content = Look::Seen(content(self.secret));
            }
            Next::ReadNewest => {
                assert_eq!(self.newest, Look::NotYet, "the vault is read twice in a round");
                self.newest = Look::Seen(vault.live.last().cloned());
            }
            Next::ReadRecorded => {
                assert_eq!(self.recorded, Look::NotYet, "the recorded version is read twice in a round");
                let version = self.memory.record.as_ref().map(|record| record.version.clone());
                let there = vault.live.iter().find(|there| Some(&there.version) == version.as_ref());
                self.recorded = Look::Seen(there.cloned());
            }
            Next::ReadDeleted => {
                assert_eq!(
                    self.deleted,
                    Look::NotYet,
                    "the soft-deleted certificate is read twice in a round"
                );
                self.deleted = Look::Seen(vault.newest_deleted());
                // A recovery that was looked for in vain is done right after that.
                vault.live.append(&mut vault.recovering);
            }
            Next::AskOwner(other) => {
                assert_eq!(self.owner, Look::NotYet, "an owner is asked for twice in a round");
                assert_ne!(other, self.desired.owner, "nobody asks for himself");
                self.owner = Look::Seen(self.others);
            }
            Next::Wait { until } => {
                assert!(until > self.now && until <= self.now + IN_FLIGHT_SECS);
                // By then, what was on the wire has landed.
                if let Some(write) = self.on_the_wire.take() {
                    let _ = self.land(vault, &write);
                }
                self.now = until;
                self.forget();
            }
            Next::Write(write) => return self.write(vault, write, ending),
            Next::InSync { record } => {
                self.in_sync(record);
                return false;
            }
            Next::Refuse(Problem { reason, .. }) => {
                self.end(reason);
                return false;
            }
            Next::Suspended => panic!("nothing is suspended here"),
        }
        true
    }

    fn land(&mut self, vault: &mut Vault, write: &Write) -> Result<Option<CertificateFacts>, Reason> {
        let landed = vault.land(write, self.desired.exportable)?;
        self.writes += 1;
        if let (Write::Import { .. }, Some(facts)) = (write, &landed) {
            *self.made.entry(facts.thumbprint[0]).or_default() += 1;
        }
        Ok(landed)
    }

    fn write(&mut self, vault: &mut Vault, write: Write, ending: Ending) -> bool {
        self.memory.in_flight = Some(write.announcement(self.now));
        match ending {
            Ending::Answered => {
                match self.land(vault, &write) {
                    Ok(facts) => self.receipt(&write, facts),
                    Err(reason) => self.end(reason),
                }
                return false;
            }
            Ending::AnswerLost | Ending::DiesAfter => {
                let _ = self.land(vault, &write);
            }
            Ending::RequestLost | Ending::DiesBefore => {}
            Ending::Late => self.on_the_wire = Some(write),
        }
        self.forget();
        true
    }

    /// One round without trouble.
    fn round(&mut self, vault: &mut Vault) {
        let mut steps = 0;
        while self.step(vault, Ending::Answered) {
            steps += 1;
            assert!(steps < STEPS_MAX, "the operator does not come to rest: {self:?} {vault:?}");
        }
    }

    /// Rounds without further trouble until a comparison changes nothing.
    fn settle(&mut self, vault: &mut Vault) -> Option<Reason> {
        for round in 0..ROUNDS_MAX {
            let before = (self.memory.clone(), self.writes);
            self.round(vault);
            self.assert_that_an_idle_round_forgets_nothing();
            let is_passing =
                self.memory.reason.is_some_and(|reason| reason.fault() == Some(Fault::Transient));
            if round > 0 && before == (self.memory.clone(), self.writes) && !is_passing {
                return self.memory.reason;
            }
            self.now += ROUND_SECS;
            self.compare = true;
        }
        panic!("comparisons go on changing something: {self:?} {vault:?}");
    }

    /// Without a look at the vault, what was found there stands.
    fn assert_that_an_idle_round_forgets_nothing(&self) {
        let idle = decide(&Observed { compare: false, ..self.observed() });
        let is_in_sync = matches!(idle, Next::InSync { .. });
        assert!(!is_in_sync || self.memory.reason == Some(Reason::Synced), "{self:?}");
    }
}

/// What may happen between two steps of the operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Disturbance {
    /// The operator dies and starts again: what it had looked at is forgotten.
    Crash,
    /// The Secret is renewed.
    Renew,
    /// The claim is handed over, with its memory, to a sibling, or back.
    Handover,
    /// Somebody imports another certificate by hand.
    ForeignImport,
    /// Somebody imports another certificate with our owner tag: another cluster under our id.
    ForeignImportAsUs,
    /// Somebody deletes and purges the certificate.
    Purge,
    /// Somebody soft-deletes the certificate.
    SoftDelete,
    /// Somebody adds a tag.
    Retag,
    /// Somebody removes all tags.
    Strip,
    /// Somebody sets the tags that the sibling would have set.
    SiblingsTag,
}

const DISTURBING: [Disturbance; 10] = [
    Disturbance::Crash,
    Disturbance::Renew,
    Disturbance::Handover,
    Disturbance::ForeignImport,
    Disturbance::ForeignImportAsUs,
    Disturbance::Purge,
    Disturbance::SoftDelete,
    Disturbance::Retag,
    Disturbance::Strip,
    Disturbance::SiblingsTag,
];

#[derive(Clone, Debug)]
struct World {
    vault: Vault,
    operator: Operator,
    happened: BTreeMap<Disturbance, usize>,
}

impl World {
    fn new(adoption: Adoption) -> Self {
        let operator = Operator::new(Desired { adoption, ..desired("web") }, 1);
        World { vault: Vault::default(), operator, happened: BTreeMap::new() }
    }

    fn count(&self, of: &[Disturbance]) -> usize {
        of.iter().filter_map(|disturbance| self.happened.get(disturbance)).sum()
    }

    fn sibling(&self) -> Owner {
        owner(if self.operator.desired.owner == owner("web") { "heir" } else { "web" })
    }

    fn disturb(&mut self, disturbance: Disturbance) {
        *self.happened.entry(disturbance).or_default() += 1;
        let (operator, sibling) = (&self.operator, self.sibling());
        let tags = |owner: &Owner, fingerprint: &Fingerprint| {
            ownership::tags(owner, &operator.desired.source, fingerprint, &operator.desired.tags)
        };
        match disturbance {
            Disturbance::Crash => self.operator.forget(),
            Disturbance::Renew => {
                self.operator.secret += 1;
                // The watch makes the operator begin the round again.
                self.operator.forget();
            }
            Disturbance::Handover => {
                self.operator.desired.owner = sibling;
                self.operator.forget();
            }
            // The vault refuses an import while the name is soft-deleted or recovering, whoever asks.
            Disturbance::ForeignImport | Disturbance::ForeignImportAsUs
                if !self.vault.deleted.is_empty() || !self.vault.recovering.is_empty() => {}
            Disturbance::ForeignImport => {
                self.vault.add(FOREIGN, Tags::new(), true);
            }
            Disturbance::ForeignImportAsUs => {
                let tags = tags(&operator.desired.owner, &content(FOREIGN).fingerprint);
                self.vault.add(FOREIGN, tags, true);
            }
            Disturbance::Purge => self.vault = Vault { versions: self.vault.versions, ..Vault::default() },
            Disturbance::SoftDelete => self.vault.deleted.append(&mut self.vault.live),
            Disturbance::Retag => {
                if let Some(newest) = self.vault.live.last_mut() {
                    newest.tags.insert("stray".into(), "tag".into());
                }
            }
            Disturbance::Strip => {
                if let Some(newest) = self.vault.live.last_mut() {
                    newest.tags.clear();
                }
            }
            Disturbance::SiblingsTag => {
                if let Some(newest) = self.vault.live.last() {
                    let tags = tags(&sibling, &content(newest.thumbprint[0]).fingerprint);
                    self.vault.live.last_mut().unwrap().tags = tags;
                }
            }
        }
    }

    /// At the end of a history the vault has the Secret, or what happened makes the refusal just.
    fn check(mut self) {
        let reason = self.operator.settle(&mut self.vault);
        let Self { vault, operator, .. } = &self;
        let us = &operator.desired.owner;
        let is_nobodys = |facts: Option<&CertificateFacts>| {
            matches!(ownership::read(&facts.unwrap().tags, us), Ownership::Unmanaged { .. })
        };
        let left_to_somebody = self.count(&[Disturbance::ForeignImport, Disturbance::Strip]) > 0;
        let written_as_us = self.count(&[Disturbance::ForeignImportAsUs, Disturbance::SiblingsTag]);
        match reason {
            Some(Reason::Synced) => {
                let newest = vault.live.last().unwrap();
                let wanted = content(operator.secret);
                let tags = |fingerprint| ownership::tags(us, "web/web-tls", fingerprint, &Tags::new());
                assert_eq!(newest.thumbprint, wanted.thumbprint, "{self:?}");
                let is_adopted = newest.tags == tags(&wanted.leaf) && operator.desired.adoption.is_asked;
                assert!(newest.tags == tags(&wanted.fingerprint) || is_adopted, "{self:?}");
                assert_eq!(operator.memory.in_flight, None, "{self:?}");
                assert!(vault.deleted.is_empty() && vault.recovering.is_empty(), "{self:?}");
            }
            // Tags stripped, or somebody imported over a certificate that we had not recorded yet: it is theirs.
            Some(Reason::NotManaged) => {
                assert!(left_to_somebody && is_nobodys(vault.live.last()), "{self:?}")
            }
            Some(Reason::SoftDeleted) => {
                assert!(left_to_somebody && is_nobodys(vault.deleted.last()), "{self:?}");
            }
            Some(Reason::OwnedByAnother) => {
                assert!(written_as_us > 1, "refused at the first foreign write: {self:?}");
            }
            reason => panic!("{reason:?} is no end: {self:?}"),
        }
        assert!(!operator.desired.adoption.is_asked || reason != Some(Reason::NotManaged), "{self:?}");
        // A version that lost its tags before its receipt came looks like somebody's.
        let repairs = self.count(&[
            Disturbance::ForeignImport,
            Disturbance::ForeignImportAsUs,
            Disturbance::Purge,
            Disturbance::Strip,
        ]);
        if repairs == 0 {
            assert!(operator.made.values().all(|made| *made == 1), "a version was made twice: {self:?}");
        }
        let made: usize = operator.made.values().sum();
        let reasons_for_one = 1 + self.count(&[Disturbance::Renew]) + repairs;
        assert!(made <= reasons_for_one, "{made} versions for {reasons_for_one} reasons: {self:?}");
    }
}

/// Explores every history of at most `left` disturbances and bad endings. A state that was explored with as many left is
/// not explored again.
fn explore(world: &World, left: usize, seen: &mut HashMap<String, usize>) {
    match seen.insert(format!("{world:?}"), left) {
        None => world.clone().check(),
        Some(before) if before >= left => {
            seen.insert(format!("{world:?}"), before);
            return;
        }
        Some(_) => {}
    }
    if left > 0 {
        for disturbance in DISTURBING {
            let mut next = world.clone();
            next.disturb(disturbance);
            // A change in the vault is found at the next comparison, which may come at any time.
            next.operator.compare = true;
            explore(&next, left - 1, seen);
        }
        if matches!(decide(&world.operator.observed()), Next::Write(_)) {
            for ending in BAD_ENDINGS {
                let mut next = world.clone();
                next.operator.step(&mut next.vault, ending);
                explore(&next, left - 1, seen);
            }
        }
    }
    let mut next = world.clone();
    if next.operator.step(&mut next.vault, Ending::Answered) || left > 0 {
        // Under way, or at rest, where something may still happen.
        explore(&next, left, seen);
    }
}

#[test]
fn whatever_happens_the_vault_ends_with_the_secret_and_no_version_is_made_twice() {
    let mut seen = HashMap::new();
    explore(&World::new(Adoption::default()), DISTURBANCES, &mut seen);
    assert!(seen.len() > 20_000, "only {} states were explored", seen.len());
}

#[test]
fn where_adoption_is_granted_what_belongs_to_nobody_is_no_end() {
    let mut seen = HashMap::new();
    explore(&World::new(granted()), DISTURBANCES_WITH_ADOPTION, &mut seen);
    assert!(seen.len() > 1_000, "only {} states were explored", seen.len());
}

/// Two clusters with one id on one name of one vault: what one of them wishes differently from the other.
#[derive(Clone, Copy, Debug)]
struct Rivals {
    what: &'static str,
    /// Content of the Secrets.
    secrets: [u8; 2],
    exportable: [bool; 2],
    /// The resources; each cluster has only its own, so the other's is gone there.
    names: [&'static str; 2],
    namespaces: [&'static str; 2],
    adopts: bool,
    /// More writes than that are a fight.
    writes_max: usize,
}

const ALIKE: Rivals = Rivals {
    what: "other content",
    secrets: [1, 2],
    exportable: [true, true],
    names: ["web", "web"],
    namespaces: ["web", "web"],
    adopts: false,
    writes_max: 4,
};

#[test]
fn two_clusters_with_one_id_do_not_take_turns_and_the_loser_is_told() {
    for rivals in [
        ALIKE,
        Rivals { what: "other exportability", secrets: [1, 1], exportable: [true, false], ..ALIKE },
        Rivals { what: "both other", exportable: [true, false], ..ALIKE },
        Rivals { what: "siblings", names: ["web", "api"], ..ALIKE },
        Rivals { what: "siblings with one content", secrets: [1, 1], names: ["web", "api"], ..ALIKE },
        Rivals {
            what: "siblings with other exportability",
            secrets: [1, 1],
            names: ["web", "api"],
            exportable: [true, false],
            ..ALIKE
        },
        Rivals { what: "other namespaces that adopt", namespaces: ["web", "api"], adopts: true, ..ALIKE },
        Rivals {
            what: "other namespaces that adopt one content",
            secrets: [1, 1],
            namespaces: ["web", "api"],
            adopts: true,
            ..ALIKE
        },
    ] {
        for is_restored in [false, true] {
            let (operators, vault) = fight(&rivals, is_restored);
            let reasons = operators.each_ref().map(|operator| operator.memory.reason);
            let what = format!("{}, from a backup: {is_restored}: {reasons:?}", rivals.what);
            assert!(reasons.contains(&Some(Reason::OwnedByAnother)), "nobody is told: {what} {vault:?}");
            assert!(
                reasons.iter().all(|reason| matches!(reason, Some(Reason::Synced | Reason::OwnedByAnother))),
                "{what}"
            );
            let writes: usize = operators.iter().map(|operator| operator.writes).sum();
            assert!(writes <= rivals.writes_max, "{writes} writes: {what}");
        }
    }
}

/// Comparisons in turn, long after the fight should be over. Of a restored cluster the memory is the other's.
fn fight(rivals: &Rivals, is_restored: bool) -> ([Operator; 2], Vault) {
    let mut vault = Vault::default();
    let mut operators = [0, 1].map(|one| {
        let mut desired = desired(rivals.names[one]);
        desired.owner.namespace = rivals.namespaces[one].into();
        desired.exportable = rivals.exportable[one];
        if rivals.adopts {
            desired.adoption = granted();
        }
        let mut operator = Operator::new(desired, rivals.secrets[one]);
        operator.others = OwnerState::Gone;
        operator
    });
    operators[0].round(&mut vault);
    if is_restored {
        operators[1].memory = operators[0].memory.clone();
    }
    for turn in 0..20 {
        let operator = &mut operators[(turn + 1) % 2];
        operator.compare = true;
        operator.now += ROUND_SECS;
        operator.round(&mut vault);
        if turn == 12 {
            // From here on nothing more is to be written.
            let writes = operators.each_ref().map(|operator| operator.writes);
            let mut later = (operators.clone(), vault.clone());
            for turn in 0..6 {
                let operator = &mut later.0[turn % 2];
                operator.compare = true;
                operator.round(&mut later.1);
            }
            assert_eq!(
                later.0.each_ref().map(|operator| operator.writes),
                writes,
                "{}: they take turns",
                rivals.what
            );
        }
    }
    (operators, vault)
}
