//! For every shape of vault, memory, wish and Secret: one step converges, and nothing is written without a right to it, which
//! `may_write` says again in words of its own. The histories that lead to such shapes are left to `push_model`.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeMap;

use keyvault_sync_core::facts::{CertificateFacts, DeletedFacts};
use keyvault_sync_core::fingerprint::Fingerprint;
use keyvault_sync_core::ownership::{self, ClusterId, Owner, OwnerKind, Tags};
use keyvault_sync_core::push::{
    Act, Content, Desired, InFlight, Look, Memory, Next, Observed, OwnerState, RECOVERY_PATIENCE_SECS,
    Record, SourceVersion, Why, Write, decide,
};
use keyvault_sync_core::reason::{Problem, Reason};
use keyvault_sync_core::title::Adoption;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

const NOW: i64 = 1_000_000;
/// Secret, newest, deleted or recorded version, an owner, and a decision.
const STEPS_MAX: usize = 6;

/// Whose tags a version carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whose {
    Ours,
    Sibling,
    OtherNamespace,
    OtherKind,
    OtherCluster,
    ThirdCluster,
    /// An owner tag that keyvault-sync never wrote.
    Forged,
    Nobody,
    CertManagerKeyVaultSync,
    ExternalSecrets,
}

const EVERYBODY: [Whose; 10] = [
    Whose::Ours,
    Whose::Sibling,
    Whose::OtherNamespace,
    Whose::OtherKind,
    Whose::OtherCluster,
    Whose::ThirdCluster,
    Whose::Forged,
    Whose::Nobody,
    Whose::CertManagerKeyVaultSync,
    Whose::ExternalSecrets,
];

fn owner(cluster: &str, kind: OwnerKind, namespace: &str, name: &str) -> Owner {
    Owner {
        cluster: ClusterId::parse(cluster).unwrap(),
        kind,
        namespace: namespace.into(),
        name: name.into(),
    }
}

fn us() -> Owner {
    owner("c1", OwnerKind::KeyVaultSync, "web", "web")
}

/// Leaf and chain: the same leaf may come with another chain.
type Bundle = (u8, u8);

fn full((leaf, chain): Bundle) -> Fingerprint {
    let mut bytes = [leaf; 32];
    bytes[31] = chain;
    Fingerprint::LeafAndChain(bytes)
}

fn leaf((leaf, _): Bundle) -> Fingerprint {
    Fingerprint::Leaf([leaf; 32])
}

fn content(bundle: Bundle) -> Content {
    Content { fingerprint: full(bundle), leaf: leaf(bundle), thumbprint: [bundle.0; 20], not_after: 2 * NOW }
}

/// What a version's or a record's fingerprint covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Covers {
    LeafAndChain,
    Leaf,
    Nothing,
}

fn fingerprint(covers: Covers, bundle: Bundle) -> Option<Fingerprint> {
    match covers {
        Covers::LeafAndChain => Some(full(bundle)),
        Covers::Leaf => Some(leaf(bundle)),
        Covers::Nothing => None,
    }
}

/// A version in the vault, before it is put into the words of the decision.
#[derive(Clone, Debug)]
struct Version {
    number: u8,
    holds: Bundle,
    whose: Whose,
    covers: Covers,
    /// The fingerprint tag is of this; of something else than the content, if somebody forged it.
    tagged: Bundle,
    has_stray_tag: bool,
    enabled: bool,
    exportable: Option<bool>,
    shows_leaf: bool,
}

impl Version {
    fn tags(&self, wish: &Desired) -> Tags {
        let written = |owner: &Owner| {
            let any = full(self.tagged);
            let mut tags = ownership::tags(owner, &wish.source, &any, &wish.tags);
            let key = tags.iter().find(|(_, value)| **value == any.to_string()).unwrap().0.clone();
            match fingerprint(self.covers, self.tagged) {
                Some(fingerprint) => tags.insert(key, fingerprint.to_string()),
                None => tags.remove(&key),
            };
            tags
        };
        let mut tags = match self.whose {
            Whose::Ours => written(&us()),
            Whose::Sibling => written(&owner("c1", OwnerKind::KeyVaultSync, "web", "sibling")),
            Whose::OtherNamespace => written(&owner("c1", OwnerKind::KeyVaultSync, "api", "web")),
            Whose::OtherKind => written(&owner("c1", OwnerKind::ClusterKeyVaultSync, "", "web")),
            Whose::OtherCluster => written(&owner("c2", OwnerKind::KeyVaultSync, "web", "web")),
            Whose::ThirdCluster => written(&owner("c3", OwnerKind::KeyVaultSync, "web", "web")),
            Whose::Forged => {
                let mut tags = written(&us());
                let name = us().to_string();
                tags.values_mut().filter(|value| **value == name).for_each(|value| value.push_str("/x"));
                tags
            }
            Whose::Nobody => Tags::new(),
            Whose::CertManagerKeyVaultSync => {
                Tags::from([("SyncFrom".into(), "cert-manager".into()), ("namespace".into(), "web".into())])
            }
            Whose::ExternalSecrets => Tags::from([("managed-by".into(), "external-secrets".into())]),
        };
        if self.has_stray_tag {
            tags.insert("stray".into(), "tag".into());
        }
        tags
    }

    fn facts(&self, wish: &Desired) -> CertificateFacts {
        CertificateFacts {
            version: format!("v{}", self.number),
            thumbprint: content(self.holds).thumbprint,
            leaf: self.shows_leaf.then(|| leaf(self.holds)),
            not_after: Some(2 * NOW),
            enabled: self.enabled,
            tags: self.tags(wish),
            exportable: self.exportable,
        }
    }

    fn is_unowned(&self) -> bool {
        matches!(self.whose, Whose::Nobody | Whose::CertManagerKeyVaultSync | Whose::ExternalSecrets)
    }
}

/// What the vault holds under the name.
#[derive(Clone, Debug)]
enum Holds {
    Nothing,
    Live(Version),
    Deleted(Version),
}

/// What `memory.desired` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pushed {
    Never,
    UnderThisWish,
    UnderAnother,
}

/// A shape of everything a decision rests on.
#[derive(Clone, Debug)]
struct Shape {
    vault: Holds,
    /// The version in the record, where it is asked for.
    recorded: Option<Version>,
    record: Option<(u8, Bundle, Covers)>,
    /// With which chain the version in the record was adopted.
    adopted_with: Option<u8>,
    in_flight: Option<(Act, Covers, Bundle, i64)>,
    pushed: Pushed,
    source: Option<u8>,
    foreign_write: bool,
    reason: Option<Reason>,
    failing_for: Option<i64>,
    adopts: bool,
    is_granted: bool,
    moves_from_c2: bool,
    owner: OwnerState,
    secret: Bundle,
    edition: u8,
    exportable: bool,
    compare: bool,
}

fn bundle() -> impl Strategy<Value = Bundle> {
    (1..3_u8, 1..3_u8)
}

fn covers() -> impl Strategy<Value = Covers> {
    select(vec![Covers::LeafAndChain, Covers::LeafAndChain, Covers::Leaf, Covers::Nothing])
}

fn version() -> impl Strategy<Value = Version> {
    // Ours and a sibling's lead to the most different ends.
    let whose = prop_oneof![
        2 => Just(Whose::Ours),
        1 => Just(Whose::Sibling),
        3 => select(EVERYBODY.to_vec())
    ];
    let looks =
        (any::<bool>(), proptest::bool::weighted(0.8), proptest::option::weighted(0.8, any::<bool>()));
    let is_honest = proptest::bool::weighted(0.8);
    (1..4_u8, bundle(), whose, covers(), bundle(), is_honest, looks, proptest::bool::weighted(0.9)).prop_map(
        |(
            number,
            holds,
            whose,
            covers,
            other,
            is_honest,
            (has_stray_tag, enabled, exportable),
            shows_leaf,
        )| {
            let tagged = if is_honest { holds } else { other };
            Version { number, holds, whose, covers, tagged, has_stray_tag, enabled, exportable, shows_leaf }
        },
    )
}

fn holds() -> impl Strategy<Value = Holds> {
    prop_oneof![
        1 => Just(Holds::Nothing),
        5 => version().prop_map(Holds::Live),
        2 => version().prop_map(Holds::Deleted),
    ]
}

fn record() -> impl Strategy<Value = Option<(u8, Bundle, Covers)>> {
    let covers = select(vec![Covers::LeafAndChain, Covers::Leaf]);
    proptest::option::weighted(0.7, (1..4_u8, bundle(), covers))
}

fn in_flight() -> impl Strategy<Value = Option<(Act, Covers, Bundle, i64)>> {
    let act = select(vec![Act::Import, Act::Adopt, Act::Retag, Act::Recover, Act::Delete]);
    let covers = select(vec![Covers::LeafAndChain, Covers::Leaf]);
    proptest::option::weighted(0.4, (act, covers, bundle(), 0..60_i64))
}

fn shapes() -> impl Strategy<Value = Shape> {
    let remembered = (
        record(),
        proptest::option::of(1..3_u8),
        in_flight(),
        select(vec![Pushed::Never, Pushed::UnderThisWish, Pushed::UnderThisWish, Pushed::UnderAnother]),
        proptest::option::of(1..3_u8),
        any::<bool>(),
        proptest::option::of(prop_oneof![
            Just(Reason::Synced),
            Just(Reason::Recovering),
            select(Reason::ALL.to_vec())
        ]),
        proptest::option::of(0..2 * RECOVERY_PATIENCE_SECS),
    );
    let wished = (
        proptest::bool::weighted(0.6),
        proptest::bool::weighted(0.8),
        any::<bool>(),
        select(vec![OwnerState::Wants, OwnerState::Elsewhere, OwnerState::Gone, OwnerState::Unclear]),
        bundle(),
        1..3_u8,
        any::<bool>(),
        any::<bool>(),
    );
    (holds(), proptest::option::weighted(0.8, version()), remembered, wished).prop_map(
        |(vault, recorded, remembered, wished)| {
            let (record, adopted_with, in_flight, pushed, source, foreign_write, reason, failing_for) =
                remembered;
            let (adopts, is_granted, moves_from_c2, owner, secret, edition, exportable, compare) = wished;
            let mut shape = Shape {
                vault,
                recorded,
                record,
                adopted_with,
                in_flight,
                pushed,
                source,
                foreign_write,
                reason,
                failing_for,
                adopts,
                is_granted,
                moves_from_c2,
                owner,
                secret,
                edition,
                exportable,
                compare,
            };
            shape.make_possible();
            shape
        },
    )
}

impl Shape {
    /// Takes out what cannot be.
    fn make_possible(&mut self) {
        if let (Some((number, ..)), Some(recorded)) = (self.record, &mut self.recorded) {
            recorded.number = number;
        }
        // A version's content never changes.
        if let (Some((number, holds, _)), Holds::Live(version) | Holds::Deleted(version)) =
            (&self.record, &mut self.vault)
            && version.number == *number
        {
            version.holds = *holds;
        }
        // A Secret of the remembered edition has the remembered content; nobody changes it in between.
        if let Some((_, holds, covers)) = self.record
            && self.source == Some(self.edition)
            && self.pushed == Pushed::UnderThisWish
        {
            self.secret = match (covers, self.adopted_with) {
                (Covers::Leaf, Some(chain)) => (holds.0, chain),
                (Covers::Leaf, None) => (holds.0, self.secret.1),
                (Covers::LeafAndChain | Covers::Nothing, _) => holds,
            };
        }
    }

    fn desired(&self) -> Desired {
        let grant = Err(Problem::new(Reason::NotGranted, "no grant"));
        Desired {
            owner: us(),
            source: "web/web-tls".into(),
            keys: ["tls.crt".into(), "tls.key".into()],
            tags: Tags::from([("team".into(), "web".into())]),
            exportable: self.exportable,
            adoption: Adoption {
                is_asked: self.adopts,
                from_clusters: if self.moves_from_c2 { vec!["c2".into()] } else { Vec::new() },
                grant: if self.is_granted { Ok(()) } else { grant },
            },
            suspend: false,
        }
    }

    fn memory(&self) -> Memory {
        let record = self.record.map(|(number, holds, covers)| Record {
            version: format!("v{number}"),
            thumbprint: content(holds).thumbprint,
            fingerprint: fingerprint(covers, holds).unwrap(),
            not_after: 2 * NOW,
        });
        let adopted = self.record.filter(|(.., covers)| *covers == Covers::Leaf);
        Memory {
            in_flight: self.in_flight.map(|(act, covers, bundle, ago)| InFlight {
                act,
                fingerprint: match act {
                    Act::Import | Act::Adopt | Act::Retag => fingerprint(covers, bundle),
                    Act::Recover | Act::Delete => None,
                },
                since: NOW - ago,
            }),
            source: self.source.map(edition),
            record,
            adopted_with: adopted.zip(self.adopted_with).map(|((_, holds, _), chain)| full((holds.0, chain))),
            desired: match self.pushed {
                Pushed::Never => None,
                Pushed::UnderThisWish => Some(self.desired().hash()),
                Pushed::UnderAnother => Some("sha256:another".into()),
            },
            foreign_write: self.foreign_write.then(|| "v7".into()),
            reason: self.reason,
            failing_since: self.failing_for.map(|secs| NOW - secs),
        }
    }

    fn observed(&self) -> Observed {
        Observed {
            desired: self.desired(),
            access: Ok(()),
            memory: self.memory(),
            source: Some(edition(self.edition)),
            content: Look::NotYet,
            newest: Look::NotYet,
            recorded: Look::NotYet,
            deleted: Look::NotYet,
            owner: Look::NotYet,
            compare: self.compare,
            now: NOW,
        }
    }

    fn vault(&self) -> Vault {
        let wish = self.desired();
        let mut vault = Vault { owner: self.owner, secret: self.secret, ..Vault::default() };
        vault.recorded = self.recorded.as_ref().map(|version| version.facts(&wish));
        match &self.vault {
            Holds::Nothing => {}
            Holds::Live(version) => vault.newest = Some(version.facts(&wish)),
            Holds::Deleted(version) => {
                let newest = version.facts(&wish);
                vault.deleted =
                    Some(DeletedFacts { newest, scheduled_purge: None, is_purge_protected: false });
            }
        }
        vault
    }

    fn is_record(&self, version: &Version) -> bool {
        self.record.is_some_and(|(number, ..)| number == version.number)
    }

    fn has_pushed_under_this_wish(&self) -> bool {
        self.record.is_some() && self.pushed == Pushed::UnderThisWish
    }

    fn is_announced(&self, version: &Version) -> bool {
        self.in_flight.is_some_and(|(act, covers, bundle, _)| {
            !matches!(act, Act::Recover | Act::Delete)
                && (covers, fingerprint(covers, bundle))
                    == (version.covers, fingerprint(version.covers, version.tagged))
        })
    }

    /// Invariant 4, in words of its own.
    fn may_write(&self, version: &Version) -> bool {
        let may_adopt = self.adopts && self.is_granted;
        match version.whose {
            Whose::Ours => true,
            Whose::Sibling => {
                let is_left = matches!(self.owner, OwnerState::Gone | OwnerState::Elsewhere);
                let is_handed_over = self.is_record(version) && self.pushed != Pushed::UnderThisWish;
                is_left || is_handed_over || self.is_announced(version)
            }
            Whose::OtherNamespace | Whose::OtherKind => {
                may_adopt && self.owner == OwnerState::Gone && !self.has_pushed_under_this_wish()
            }
            Whose::OtherCluster => self.moves_from_c2 && self.is_granted && self.record.is_none(),
            Whose::ThirdCluster | Whose::Forged => false,
            Whose::Nobody | Whose::CertManagerKeyVaultSync | Whose::ExternalSecrets => {
                may_adopt || self.is_replaced(version)
            }
        }
    }

    /// Somebody imported over ours: the version in the record still says whose the name is.
    fn is_replaced(&self, version: &Version) -> bool {
        matches!(self.vault, Holds::Live(_))
            && version.is_unowned()
            && self.record.is_some()
            && !self.is_record(version)
            && !(self.adopts && self.is_granted)
            && self.recorded.as_ref().is_some_and(|there| match there.whose {
                Whose::Ours => true,
                Whose::Sibling => {
                    (self.is_record(there) && self.pushed != Pushed::UnderThisWish)
                        || self.is_announced(there)
                }
                _ => false,
            })
    }

    /// Whether the version is known to hold all of the Secret.
    fn has_the_secret(&self, version: &Version) -> bool {
        let is_recorded = self.record.is_some_and(|(number, holds, covers)| {
            number == version.number && covers == Covers::LeafAndChain && holds == self.secret
        });
        let is_tagged = !version.is_unowned()
            && version.covers == Covers::LeafAndChain
            && version.tagged == self.secret
            && version.holds.0 == self.secret.0;
        is_recorded || is_tagged
    }

    /// Somebody disabled just what the Secret still holds.
    fn is_stopped(&self, newest: &Version) -> bool {
        if self.is_replaced(newest) {
            let is_recorded = self
                .record
                .is_some_and(|(_, holds, covers)| covers == Covers::LeafAndChain && holds == self.secret);
            return is_recorded && self.recorded.as_ref().is_some_and(|there| !there.enabled);
        }
        let is_equal = match newest.whose {
            Whose::Ours | Whose::Sibling => self.has_the_secret(newest),
            _ => newest.shows_leaf && newest.holds.0 == self.secret.0,
        };
        is_equal && !newest.enabled
    }

    /// Whether the vault holds what is wished, as far as that can be seen, or memory alone may say so.
    fn judge_in_sync(&self, record: Option<&Record>) -> Result<(), &'static str> {
        let rule = |holds: bool, rule: &'static str| if holds { Ok(()) } else { Err(rule) };
        let Some(record) = record else {
            let is_remembered = self.record.is_some_and(|(_, holds, covers)| match covers {
                Covers::Leaf => {
                    holds.0 == self.secret.0 && self.adopted_with.is_none_or(|chain| chain == self.secret.1)
                }
                Covers::LeafAndChain | Covers::Nothing => holds == self.secret,
            });
            rule(!self.compare && self.in_flight.is_none(), "nobody looked at the vault")?;
            rule(
                self.reason.is_some_and(|reason| reason.fault().is_none()),
                "the last look did not end well",
            )?;
            return rule(is_remembered && self.pushed == Pushed::UnderThisWish, "that was not pushed");
        };
        let Holds::Live(version) = &self.vault else { return Err("there is nothing") };
        rule(version.whose == Whose::Ours && !version.has_stray_tag, "the tags are not ours alone")?;
        rule(version.holds.0 == self.secret.0, "another leaf")?;
        rule(version.enabled, "somebody disabled it")?;
        rule(
            version.exportable.is_none_or(|exportable| exportable == self.exportable),
            "another exportability",
        )?;
        rule(record.version == format!("v{}", version.number), "the record is of another version")?;
        rule(
            fingerprint(version.covers, version.tagged).as_ref() == Some(&record.fingerprint),
            "the record says something else than the tag",
        )?;
        rule(
            record.fingerprint == full(self.secret) || record.fingerprint == leaf(self.secret),
            "the record is not of the Secret",
        )
    }

    /// Whether a write is allowed, and why not.
    fn judge(&self, write: &Write) -> Result<(), &'static str> {
        let (live, deleted) = match &self.vault {
            Holds::Nothing => (None, None),
            Holds::Live(version) => (Some(version), None),
            Holds::Deleted(version) => (None, Some(version)),
        };
        let rule = |holds: bool, rule: &'static str| if holds { Ok(()) } else { Err(rule) };
        rule(live.or(deleted).is_none_or(|version| self.may_write(version)), "no right to it")?;
        rule(
            matches!(write, Write::Recover { .. }) == deleted.is_some(),
            "what is soft-deleted is recovered, and nothing else",
        )?;
        let is_as_exportable = live.is_some_and(|version| version.exportable == Some(self.exportable));
        match write {
            Write::Import { why, from, .. } => {
                let is_taken = live.is_some_and(|version| {
                    !self.is_replaced(version) && !matches!(version.whose, Whose::Ours | Whose::Sibling)
                });
                rule(
                    (*why == Why::Adopted) == is_taken && from.is_some() == is_taken,
                    "Adopted is said of others",
                )?;
                rule(
                    !live.is_some_and(|version| {
                        matches!(version.whose, Whose::Ours | Whose::Sibling)
                            && self.has_the_secret(version)
                            && version.exportable.is_none_or(|exportable| exportable == self.exportable)
                    }),
                    "the vault has that already",
                )?;
                rule(
                    !live.is_some_and(|version| {
                        is_taken && is_as_exportable && version.shows_leaf && version.holds.0 == self.secret.0
                    }),
                    "an equal leaf is adopted as it is",
                )?;
                rule(*why != Why::ForeignWrite || !self.foreign_write, "a foreign write is repaired once")?;
                rule(
                    !live.is_some_and(|version| self.is_stopped(version)),
                    "what somebody disabled is not made available again",
                )
            }
            Write::Adopt { version: wanted, record, .. } => {
                let version = live.unwrap();
                rule(
                    record.fingerprint == leaf(self.secret)
                        || (record.fingerprint == full(self.secret) && self.has_the_secret(version)),
                    "nobody saw that chain",
                )?;
                rule(*wanted == format!("v{}", version.number), "another version than the newest")?;
                rule(
                    !matches!(version.whose, Whose::Ours | Whose::Sibling) && !self.is_replaced(version),
                    "that needs no adoption",
                )?;
                rule(version.holds.0 == self.secret.0, "another leaf")?;
                rule(is_as_exportable || !version.enabled, "another exportability")
            }
            Write::Retag { version: wanted, .. } => {
                let version = live.unwrap();
                rule(*wanted == format!("v{}", version.number), "another version than the newest")?;
                rule(matches!(version.whose, Whose::Ours | Whose::Sibling), "tags of others are adopted")
            }
            Write::Recover { is_ours } => {
                let is_of_us = matches!(deleted.unwrap().whose, Whose::Ours | Whose::Sibling);
                rule(*is_ours == is_of_us, "whose it was is told wrongly")
            }
            Write::Delete => Err("a push never deletes"),
        }
    }
}

fn edition(number: u8) -> SourceVersion {
    SourceVersion { uid: "u".into(), resource_version: number.to_string() }
}

/// What is there to be looked at.
#[derive(Clone, Debug)]
struct Vault {
    newest: Option<CertificateFacts>,
    recorded: Option<CertificateFacts>,
    deleted: Option<DeletedFacts>,
    owner: OwnerState,
    secret: Bundle,
}

impl Default for Vault {
    fn default() -> Self {
        Vault { newest: None, recorded: None, deleted: None, owner: OwnerState::Unclear, secret: (1, 1) }
    }
}

/// Looks where the decision asks to look, until it decides.
fn settle(seen: &Observed, vault: &Vault) -> Next {
    let mut seen = Observed {
        content: Look::NotYet,
        newest: Look::NotYet,
        recorded: Look::NotYet,
        deleted: Look::NotYet,
        owner: Look::NotYet,
        ..seen.clone()
    };
    for _ in 0..STEPS_MAX {
        match decide(&seen) {
            Next::ReadSecret => seen.content = Look::Seen(Ok(content(vault.secret))),
            Next::ReadNewest => seen.newest = Look::Seen(vault.newest.clone()),
            Next::ReadRecorded => seen.recorded = Look::Seen(vault.recorded.clone()),
            Next::ReadDeleted => seen.deleted = Look::Seen(vault.deleted.clone()),
            Next::AskOwner(owner) => {
                assert!(owner.cluster == us().cluster && owner != us(), "{owner} cannot be asked for here");
                seen.owner = Look::Seen(vault.owner);
            }
            decided => return decided,
        }
    }
    panic!("it asks for the same look again");
}

/// Carries a write out, and remembers it as a claim does.
fn carry_out(write: &Write, seen: &mut Observed, vault: &mut Vault) {
    let remembered = |record: &Record| Memory {
        in_flight: None,
        source: seen.source.clone(),
        record: Some(record.clone()),
        adopted_with: None,
        desired: Some(seen.desired.hash()),
        foreign_write: seen.memory.foreign_write.clone(),
        reason: Some(Reason::Synced),
        failing_since: None,
    };
    match write {
        Write::Import { tags, fingerprint, foreign_write, .. } => {
            let facts = CertificateFacts {
                version: "v100".into(),
                thumbprint: content(vault.secret).thumbprint,
                leaf: Some(leaf(vault.secret)),
                not_after: Some(2 * NOW),
                enabled: true,
                tags: tags.clone(),
                exportable: Some(seen.desired.exportable),
            };
            let record = Record {
                version: "v100".into(),
                thumbprint: facts.thumbprint,
                fingerprint: fingerprint.clone(),
                not_after: 2 * NOW,
            };
            vault.newest = Some(facts);
            seen.memory = Memory { foreign_write: foreign_write.clone(), ..remembered(&record) };
        }
        Write::Adopt { tags, record, with, .. } => {
            vault.newest.as_mut().unwrap().tags = tags.clone();
            seen.memory = Memory { adopted_with: Some(with.clone()), ..remembered(record) };
        }
        Write::Retag { tags, record, foreign_write, .. } => {
            vault.newest.as_mut().unwrap().tags = tags.clone();
            let adopted_with = seen.memory.adopted_with.clone();
            seen.memory = Memory { foreign_write: foreign_write.clone(), adopted_with, ..remembered(record) };
        }
        Write::Recover { .. } => {
            // Live again when it is looked at the next time but one.
            seen.memory = Memory {
                in_flight: None,
                reason: Some(Reason::Recovering),
                failing_since: Some(NOW),
                ..seen.memory.clone()
            };
        }
        Write::Delete => panic!("a push never deletes"),
    }
}

/// After the one write nothing is left to do, whether it is compared or not, and whether the Secret is read again or not.
fn is_at_rest(seen: &Observed, vault: &Vault) -> Result<(), String> {
    for compare in [false, true] {
        for source in [seen.source.clone(), Some(edition(9))] {
            let again = Observed { compare, source, ..seen.clone() };
            let next = settle(&again, vault);
            let is_at_rest = match &next {
                Next::InSync { .. } => true,
                Next::Refuse(problem) => {
                    problem.reason == Reason::DisabledInVault
                        && vault.newest.as_ref().is_some_and(|it| !it.enabled)
                }
                _ => false,
            };
            if !is_at_rest {
                return Err(format!("compare {compare}: {next:?} over {vault:?} with {:?}", again.memory));
            }
        }
    }
    Ok(())
}

/// A refusal that came from the vault stays one until the vault is looked at again.
fn is_remembered(seen: &Observed, vault: &Vault, reason: Reason) -> Result<(), String> {
    // Patience with a recovery begins with it, not with what failed before.
    let goes_on = seen.memory.reason == Some(reason) && seen.memory.in_flight.is_none();
    let failing_since = if goes_on { seen.memory.failing_since } else { Some(NOW) };
    let memory = Memory { in_flight: None, reason: Some(reason), failing_since, ..seen.memory.clone() };
    let again = Observed { compare: false, memory, ..seen.clone() };
    match settle(&again, vault) {
        Next::Refuse(problem) if problem.reason == reason => Ok(()),
        // Its announcement was all that spoke for a foreign write: now it is known not to have been ours.
        Next::Refuse(problem)
            if matches!(
                problem.reason,
                Reason::OwnedByAnother | Reason::NotManaged | Reason::Unavailable
            ) && seen.memory.in_flight.is_some() =>
        {
            Ok(())
        }
        next => Err(format!("after {reason}: {next:?}")),
    }
}

fn check(shape: &Shape) -> Result<&'static str, String> {
    let mut seen = shape.observed();
    let mut vault = shape.vault();
    let mut write = match settle(&seen, &vault) {
        Next::Write(write) => write,
        Next::Refuse(problem) => {
            is_remembered(&seen, &vault, problem.reason)?;
            return Ok("Refuse");
        }
        Next::Wait { .. } => return Ok("Wait"),
        Next::InSync { record } => {
            shape.judge_in_sync(record.as_ref())?;
            return Ok("InSync");
        }
        next => return Err(format!("{next:?}")),
    };
    shape.judge(&write).map_err(|rule| format!("{rule}: {write:?}"))?;
    let word = match &write {
        Write::Import { .. } => "Import",
        Write::Adopt { .. } => "Adopt",
        Write::Retag { .. } => "Retag",
        Write::Recover { .. } => "Recover",
        Write::Delete => "Delete",
    };
    if matches!(write, Write::Recover { .. }) {
        carry_out(&write, &mut seen, &mut vault);
        let deleted = vault.deleted.take().unwrap();
        // For a while the vault shows nothing: that is waited for.
        match settle(&seen, &vault) {
            Next::Refuse(problem) if problem.reason == Reason::Recovering => {}
            next => return Err(format!("while recovering: {next:?}")),
        }
        vault.newest = Some(deleted.newest.clone());
        let Holds::Deleted(version) = &shape.vault else { return Err("nothing to recover".into()) };
        let live = Shape { vault: Holds::Live(version.clone()), in_flight: None, ..shape.clone() };
        write = match settle(&seen, &vault) {
            Next::Write(write) => write,
            Next::InSync { record } => {
                live.judge_in_sync(record.as_ref())?;
                return Ok(word);
            }
            Next::Refuse(problem) => {
                is_remembered(&seen, &vault, problem.reason)?;
                return Ok(word);
            }
            next => return Err(format!("recovered: {next:?}")),
        };
        live.judge(&write).map_err(|rule| format!("recovered: {rule}: {write:?}"))?;
    }
    carry_out(&write, &mut seen, &mut vault);
    is_at_rest(&seen, &vault)?;
    Ok(word)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16_384))]

    #[test]
    fn one_step_converges_and_writes_nothing_without_a_right_to_it(shape in shapes()) {
        let checked = check(&shape);
        prop_assert!(checked.is_ok(), "{}", checked.unwrap_err());
    }
}

#[test]
fn the_shapes_lead_to_every_kind_of_end() {
    let mut runner = TestRunner::deterministic();
    let mut ends = BTreeMap::new();
    for _ in 0..2_048 {
        let shape = shapes().new_tree(&mut runner).unwrap().current();
        *ends.entry(check(&shape).unwrap()).or_insert(0) += 1;
    }
    for end in ["Import", "Adopt", "Retag", "Recover", "InSync", "Wait", "Refuse"] {
        assert!(ends.get(end).is_some_and(|met| *met > 20), "{end} is hardly met: {ends:?}");
    }
}

#[test]
fn other_keys_of_the_same_secret_are_read_and_not_taken_from_memory() {
    let shape = Shape {
        vault: Holds::Nothing,
        recorded: None,
        record: Some((1, (1, 1), Covers::LeafAndChain)),
        adopted_with: None,
        in_flight: None,
        pushed: Pushed::UnderThisWish,
        source: Some(1),
        foreign_write: false,
        reason: Some(Reason::Synced),
        failing_for: None,
        adopts: false,
        is_granted: false,
        moves_from_c2: false,
        owner: OwnerState::Unclear,
        secret: (1, 1),
        edition: 1,
        exportable: true,
        compare: false,
    };
    let seen = |compare| Observed { compare, ..shape.observed() };
    assert_eq!(decide(&seen(false)), Next::InSync { record: None });
    assert_eq!(decide(&seen(true)), Next::ReadNewest);
    let keys = ["other.crt".to_owned(), "other.key".to_owned()];
    for compare in [false, true] {
        let desired = Desired { keys: keys.clone(), ..shape.desired() };
        assert_eq!(decide(&Observed { desired, ..seen(compare) }), Next::ReadSecret);
    }
}
