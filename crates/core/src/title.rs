//! May this claim write over what the vault holds? By owner tag, by the claim's record, by succession, by adoption; or why not.
//! The only home of that question; what is then written is left to `push` and `release`.

use crate::facts::CertificateFacts;
use crate::fingerprint::Fingerprint;
use crate::ownership::{self, Owner, Ownership};
use crate::push::{Desired, Look, Memory, OwnerState};
use crate::reason::{Problem, Reason};

/// Whether and from whom certificates are taken over that are not ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Adoption {
    /// `conflictPolicy: Adopt`.
    pub is_asked: bool,
    /// `adoptFromClusters`.
    pub from_clusters: Vec<String>,
    /// Whether the grant allows it; asked for only where it matters.
    pub grant: Result<(), Problem>,
}

impl Default for Adoption {
    /// Nothing is taken over.
    fn default() -> Self {
        let problem = Problem::new(Reason::NotGranted, "no adoption is granted");
        Self { is_asked: false, from_clusters: Vec::new(), grant: Err(problem) }
    }
}

/// By what right a version may be written over. Each with what its tag says of its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Title {
    /// It is ours: by its tags, because our record names it, or because we announced it.
    Ours(Option<Fingerprint>),
    /// It belongs to a resource of our cluster, kind and namespace that is gone, or does not want it any more.
    Succession(Option<Fingerprint>),
    /// It is somebody else's, and taking it over is asked for and granted.
    Adoption {
        /// Whose it is, in words for a message.
        from: String,
        /// What its tag says of its content.
        fingerprint: Option<Fingerprint>,
    },
}

/// Why there is no title, or not yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoTitle {
    /// That depends on whether this resource of our cluster still wants it.
    AskOwner(Owner),
    /// It belongs to another owner, in words for a message.
    Another(String),
    /// It has no owner tag of keyvault-sync; which program its tags point at.
    Unmanaged(Option<&'static str>),
    /// It might be taken over, but not so: no grant, or an owner of which nothing is known.
    Problem(Problem),
}

impl NoTitle {
    /// `it belongs to …`, `it has no owner tag of keyvault-sync`: whose it is, for a message. `None`: that is not the point.
    pub fn whose(&self) -> Option<String> {
        match self {
            NoTitle::Another(owner) => {
                Some(format!("it belongs to {owner} (cluster id/kind/namespace/name)"))
            }
            NoTitle::Unmanaged(None) => Some("it has no owner tag of keyvault-sync".to_owned()),
            NoTitle::Unmanaged(Some(program)) => {
                Some(format!("it has no owner tag of keyvault-sync, and tags as {program} writes them"))
            }
            NoTitle::AskOwner(_) | NoTitle::Problem(_) => None,
        }
    }
}

/// What the question rests on.
#[derive(Clone, Copy, Debug)]
pub struct Claimant<'a> {
    /// The wish.
    pub desired: &'a Desired,
    /// What the claim remembers.
    pub memory: &'a Memory,
    /// What became of the resource that the owner tag names.
    pub owner: &'a Look<OwnerState>,
}

impl Claimant<'_> {
    /// Looks for a title to a version, live or soft-deleted.
    ///
    /// # Errors
    /// The owner has to be asked for first, or there is none.
    pub fn title(&self, facts: &CertificateFacts) -> Result<Title, NoTitle> {
        match ownership::read(&facts.tags, &self.desired.owner) {
            Ownership::Ours(fingerprint) => Ok(Title::Ours(fingerprint)),
            // The claim was handed over with its memory: what its last holder pushed, or was pushing, is ours now.
            Ownership::Sibling { fingerprint, .. } if self.has_inherited(facts, fingerprint.as_ref()) => {
                Ok(Title::Ours(fingerprint))
            }
            Ownership::Sibling { owner, fingerprint } => match self.owner {
                Look::NotYet => Err(NoTitle::AskOwner(owner)),
                Look::Seen(OwnerState::Gone | OwnerState::Elsewhere) => Ok(Title::Succession(fingerprint)),
                Look::Seen(OwnerState::Wants) => Err(NoTitle::Another(owner.to_string())),
                Look::Seen(OwnerState::Unclear) => Err(NoTitle::Problem(unclear(&owner))),
            },
            Ownership::Another { owner, said, fingerprint } => self.of_another(owner, said, fingerprint),
            Ownership::Unmanaged { written_by } => self.of_nobody(written_by),
        }
    }

    /// The record names this version and was not yet made under our own name, or its content is announced.
    fn has_inherited(&self, facts: &CertificateFacts, tagged: Option<&Fingerprint>) -> bool {
        (self.is_record(facts) && !self.is_pushed()) || self.is_announced(tagged)
    }

    /// Whether there is a record, and it is of the present wish.
    fn is_pushed(&self) -> bool {
        self.memory.record.is_some() && self.memory.desired.as_deref() == Some(self.desired.hash().as_str())
    }

    /// Whether this is the version in the record.
    pub fn is_record(&self, facts: &CertificateFacts) -> bool {
        self.memory.record.as_ref().is_some_and(|record| record.version == facts.version)
    }

    /// Whether this content was announced and its receipt is missing.
    pub fn is_announced(&self, tagged: Option<&Fingerprint>) -> bool {
        let announced = self.memory.in_flight.as_ref().and_then(|in_flight| in_flight.fingerprint.as_ref());
        tagged.is_some() && tagged == announced
    }

    fn of_another(
        &self,
        owner: Option<Owner>,
        said: String,
        fingerprint: Option<Fingerprint>,
    ) -> Result<Title, NoTitle> {
        let refusal = Err(NoTitle::Another(said.clone()));
        let Some(owner) = owner else { return refusal };
        let adoption = &self.desired.adoption;
        let is_of_this_cluster = owner.cluster == self.desired.owner.cluster;
        // Once: what comes from there after we had the name is another cluster's write over ours.
        let is_moving = self.memory.record.is_none()
            && !is_of_this_cluster
            && adoption.from_clusters.iter().any(|cluster| cluster == owner.cluster.as_str());
        // Nobody else of this cluster can write while the claim is ours: what comes from there after we pushed is another
        // cluster's write under our id, and taking it back would go on for ever.
        let is_inheriting = is_of_this_cluster && adoption.is_asked && !self.is_pushed();
        if !is_moving && !is_inheriting {
            return refusal;
        }
        self.check_grant(&format!("that belongs to {said}"))?;
        let adopted = Ok(Title::Adoption { from: said, fingerprint });
        if is_moving {
            return adopted;
        }
        match self.owner {
            Look::NotYet => Err(NoTitle::AskOwner(owner)),
            Look::Seen(OwnerState::Gone) => adopted,
            Look::Seen(OwnerState::Wants | OwnerState::Elsewhere) => refusal,
            Look::Seen(OwnerState::Unclear) => Err(NoTitle::Problem(unclear(&owner))),
        }
    }

    /// Whether taking over is granted; `whose` it is, for the message.
    fn check_grant(&self, whose: &str) -> Result<(), NoTitle> {
        self.desired.adoption.grant.as_ref().copied().map_err(|problem| {
            NoTitle::Problem(Problem::new(
                problem.reason,
                format!(
                    "the vault has a certificate of this name {whose}, and taking it over is asked for: {}",
                    problem.message
                ),
            ))
        })
    }

    fn of_nobody(&self, written_by: Option<&'static str>) -> Result<Title, NoTitle> {
        if !self.desired.adoption.is_asked {
            return Err(NoTitle::Unmanaged(written_by));
        }
        let whose = written_by.map_or_else(
            || "without an owner tag of keyvault-sync".to_owned(),
            |program| format!("that {program} wrote"),
        );
        self.check_grant(&whose)?;
        Ok(Title::Adoption { from: format!("a certificate {whose}"), fingerprint: None })
    }
}

fn unclear(owner: &Owner) -> Problem {
    Problem::new(
        Reason::Unavailable,
        format!(
            "the vault's certificate belongs to {owner}, and it cannot be told whether that resource is gone: it is \
             asked for again"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ownership::{ClusterId, OwnerKind, Tags};
    use crate::push::left_alone;
    use crate::push::{Act, InFlight, Record};

    fn owner(cluster: &str, kind: OwnerKind, namespace: &str, name: &str) -> Owner {
        Owner {
            cluster: ClusterId::parse(cluster).unwrap(),
            kind,
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    fn fingerprint() -> Fingerprint {
        Fingerprint::LeafAndChain([1; 32])
    }

    fn desired(adoption: Adoption) -> Desired {
        Desired {
            owner: owner("c1", OwnerKind::KeyVaultSync, "web", "web"),
            source: "web/web-tls".into(),
            keys: ["tls.crt".into(), "tls.key".into()],
            tags: Tags::new(),
            exportable: true,
            adoption,
            suspend: false,
        }
    }

    /// How much of adoption is asked for and granted.
    #[derive(Clone, Copy, Debug)]
    enum Asks {
        Nothing,
        Ungranted,
        Adopt,
        FromC2,
        FromC2Ungranted,
    }

    impl Asks {
        fn adoption(self) -> Adoption {
            let refusal =
                Problem::new(Reason::NotGranted, "add the name to adopt of a grant of KeyVault contoso");
            let clusters = vec!["c0".to_owned(), "c2".to_owned()];
            let (is_asked, from_clusters, grant) = match self {
                Asks::Nothing => (false, Vec::new(), Ok(())),
                Asks::Ungranted => (true, Vec::new(), Err(refusal)),
                Asks::Adopt => (true, Vec::new(), Ok(())),
                Asks::FromC2 => (false, clusters, Ok(())),
                Asks::FromC2Ungranted => (false, clusters, Err(refusal)),
            };
            Adoption { is_asked, from_clusters, grant }
        }
    }

    /// What the claim remembers.
    #[derive(Clone, Copy, Debug)]
    enum Remembers {
        Nothing,
        /// It pushed v1 under the present wish.
        V1,
        /// It pushed v1 under another wish: it was handed over, for one.
        V1Otherwise,
        /// It pushed v0 under the present wish.
        V0,
        /// It announced a write of this content.
        Announced,
    }

    impl Remembers {
        fn memory(self, desired: &Desired) -> Memory {
            let record = |version: &str| {
                Some(Record {
                    version: version.into(),
                    thumbprint: [1; 20],
                    fingerprint: fingerprint(),
                    not_after: 0,
                })
            };
            let (record, hash, in_flight) = match self {
                Remembers::Nothing => (None, None, None),
                Remembers::V1 => (record("v1"), Some(desired.hash()), None),
                Remembers::V1Otherwise => (record("v1"), Some("sha256:other".to_owned()), None),
                Remembers::V0 => (record("v0"), Some(desired.hash()), None),
                Remembers::Announced => {
                    let announced = InFlight { act: Act::Import, fingerprint: Some(fingerprint()), since: 0 };
                    (None, None, Some(announced))
                }
            };
            Memory { record, desired: hash, in_flight, ..Memory::default() }
        }
    }

    /// What is expected.
    #[derive(Clone, Copy, Debug)]
    enum Is {
        Ours,
        Succession,
        /// With these words for whose it was.
        Adoption(&'static str),
        Asked,
        /// With this reason and these words.
        Refused(Reason, &'static [&'static str]),
    }

    /// Whose tags the version carries.
    #[derive(Clone, Copy, Debug)]
    enum Tagged {
        Us,
        Sibling,
        Namespace,
        Kind,
        C2,
        C3,
        Forged,
        Nobody,
        CertManager,
        ExternalSecrets,
    }

    impl Tagged {
        fn tags(self) -> Tags {
            let namespaced = OwnerKind::KeyVaultSync;
            let of = |owner: &Owner| ownership::tags(owner, "web/web-tls", &fingerprint(), &Tags::new());
            let us = desired(Adoption::default()).owner;
            match self {
                Tagged::Us => of(&us),
                Tagged::Sibling => of(&owner("c1", namespaced, "web", "other")),
                Tagged::Namespace => of(&owner("c1", namespaced, "api", "web")),
                Tagged::Kind => of(&owner("c1", OwnerKind::ClusterKeyVaultSync, "", "all")),
                Tagged::C2 => of(&owner("c2", namespaced, "web", "web")),
                Tagged::C3 => of(&owner("c3", namespaced, "web", "web")),
                Tagged::Forged => {
                    let mut tags = of(&us);
                    let name = us.to_string();
                    tags.values_mut().filter(|value| **value == name).for_each(|value| *value = "me".into());
                    tags
                }
                Tagged::Nobody => Tags::from([("team".into(), "web".into())]),
                Tagged::CertManager => Tags::from([("SyncFrom".into(), "cert-manager".into())]),
                Tagged::ExternalSecrets => Tags::from([("managed-by".into(), "external-secrets".into())]),
            }
        }
    }

    fn check(tagged: Tagged, asks: Asks, remembers: Remembers, state: Option<OwnerState>, expected: Is) {
        let row = format!("{tagged:?}, {asks:?}, {remembers:?}, {state:?}");
        let desired = desired(asks.adoption());
        let memory = remembers.memory(&desired);
        let facts = CertificateFacts {
            version: "v1".into(),
            thumbprint: [1; 20],
            leaf: None,
            not_after: None,
            enabled: true,
            tags: tagged.tags(),
            exportable: None,
        };
        let owner = state.map_or(Look::NotYet, Look::Seen);
        let title = Claimant { desired: &desired, memory: &memory, owner: &owner }.title(&facts);
        let tagged = ownership::read(&facts.tags, &desired.owner);
        match (title, expected) {
            (Ok(Title::Ours(said)), Is::Ours) | (Ok(Title::Succession(said)), Is::Succession) => {
                assert_eq!(said, Some(fingerprint()), "{row}");
            }
            (Ok(Title::Adoption { from, fingerprint: said }), Is::Adoption(words)) => {
                assert!(from.contains(words), "{row}: {from}");
                let is_unmanaged = matches!(tagged, Ownership::Unmanaged { .. });
                assert_eq!(said, (!is_unmanaged).then(fingerprint), "{row}");
            }
            (Err(NoTitle::AskOwner(asked)), Is::Asked) => {
                assert!(facts.tags.values().any(|value| *value == asked.to_string()), "{row}: {asked}");
            }
            (Err(without), Is::Refused(reason, words)) => {
                let whose = without.whose().unwrap_or_default();
                let problem = match without {
                    NoTitle::Another(_) => left_alone(Reason::OwnedByAnother, &whose, "v1"),
                    NoTitle::Unmanaged(_) => left_alone(Reason::NotManaged, &whose, "v1"),
                    NoTitle::Problem(problem) => problem,
                    NoTitle::AskOwner(owner) => panic!("{row}: {owner} is asked"),
                };
                assert_eq!(problem.reason, reason, "{row}: {problem}");
                for word in words {
                    assert!(problem.message.contains(word), "{row}: {word:?} is not in {problem}");
                }
                assert!(!problem.message.contains("  "), "{row}: {problem}");
            }
            (title, expected) => panic!("{row}: {title:?} and not {expected:?}"),
        }
    }

    #[test]
    fn ours_is_what_our_tag_our_record_or_our_announcement_says() {
        use OwnerState::{Elsewhere, Gone, Unclear, Wants};
        let wanted = Is::Refused(
            Reason::OwnedByAnother,
            &["belongs to c1/KeyVaultSync/web/other", "left alone", "choose another certificateName"],
        );
        let unclear = Is::Refused(
            Reason::Unavailable,
            &["belongs to c1/KeyVaultSync/web/other", "cannot be told", "asked for again"],
        );
        for (tagged, remembers, state, expected) in [
            (Tagged::Us, Remembers::Nothing, None, Is::Ours),
            (Tagged::Us, Remembers::V0, None, Is::Ours),
            (Tagged::Sibling, Remembers::Nothing, None, Is::Asked),
            (Tagged::Sibling, Remembers::Nothing, Some(Gone), Is::Succession),
            (Tagged::Sibling, Remembers::Nothing, Some(Elsewhere), Is::Succession),
            (Tagged::Sibling, Remembers::Nothing, Some(Wants), wanted),
            (Tagged::Sibling, Remembers::Nothing, Some(Unclear), unclear),
            // The claim was handed over with its memory.
            (Tagged::Sibling, Remembers::V1Otherwise, None, Is::Ours),
            (Tagged::Sibling, Remembers::V1Otherwise, Some(Wants), Is::Ours),
            (Tagged::Sibling, Remembers::Announced, None, Is::Ours),
            // The sibling's tag was put back over ours.
            (Tagged::Sibling, Remembers::V1, None, Is::Asked),
            (Tagged::Sibling, Remembers::V1, Some(Wants), wanted),
            (Tagged::Sibling, Remembers::V0, Some(Gone), Is::Succession),
        ] {
            check(tagged, Asks::Nothing, remembers, state, expected);
        }
    }

    #[test]
    fn another_resource_of_this_cluster_is_inherited_from_where_that_is_asked_granted_and_it_is_gone() {
        use OwnerState::{Elsewhere, Gone, Unclear, Wants};
        for (tagged, said) in
            [(Tagged::Namespace, "c1/KeyVaultSync/api/web"), (Tagged::Kind, "c1/ClusterKeyVaultSync//all")]
        {
            let refused =
                Is::Refused(Reason::OwnedByAnother, &["left alone", "choose another certificateName"]);
            let unclear = Is::Refused(Reason::Unavailable, &["cannot be told", "asked for again"]);
            let ungranted = Is::Refused(Reason::NotGranted, &["belongs to \"c1/", "add the name to adopt"]);
            for (asks, remembers, state, expected) in [
                (Asks::Nothing, Remembers::Nothing, None, refused),
                (Asks::Nothing, Remembers::Nothing, Some(Gone), refused),
                (Asks::FromC2, Remembers::Nothing, Some(Gone), refused),
                (Asks::Ungranted, Remembers::Nothing, Some(Gone), ungranted),
                (Asks::Adopt, Remembers::Nothing, None, Is::Asked),
                (Asks::Adopt, Remembers::Nothing, Some(Gone), Is::Adoption(said)),
                (Asks::Adopt, Remembers::Nothing, Some(Wants), refused),
                (Asks::Adopt, Remembers::Nothing, Some(Elsewhere), refused),
                (Asks::Adopt, Remembers::Nothing, Some(Unclear), unclear),
                (Asks::Adopt, Remembers::V1Otherwise, Some(Gone), Is::Adoption(said)),
                // Somebody under our cluster's id wrote over what we had pushed.
                (Asks::Adopt, Remembers::V0, Some(Gone), refused),
            ] {
                check(tagged, asks, remembers, state, expected);
            }
        }
    }

    #[test]
    fn another_clusters_is_taken_over_once_where_that_cluster_is_named_and_it_is_granted() {
        let refused = Is::Refused(
            Reason::OwnedByAnother,
            &["belongs to \"c2/KeyVaultSync/web/web\"", "left alone", "remove it there first"],
        );
        let c3 = Is::Refused(Reason::OwnedByAnother, &["belongs to \"c3/KeyVaultSync/web/web\""]);
        let forged = Is::Refused(Reason::OwnedByAnother, &["belongs to \"me\"", "left alone"]);
        let ungranted = Is::Refused(Reason::NotGranted, &["belongs to \"c2/", "add the name to adopt"]);
        for (tagged, asks, remembers, expected) in [
            (Tagged::C2, Asks::Nothing, Remembers::Nothing, refused),
            (Tagged::C2, Asks::Adopt, Remembers::Nothing, refused),
            (Tagged::C2, Asks::FromC2Ungranted, Remembers::Nothing, ungranted),
            (Tagged::C2, Asks::FromC2, Remembers::Nothing, Is::Adoption("c2/KeyVaultSync/web/web")),
            (Tagged::C2, Asks::FromC2, Remembers::Announced, Is::Adoption("c2/KeyVaultSync/web/web")),
            (Tagged::C2, Asks::FromC2, Remembers::V0, refused),
            (Tagged::C2, Asks::FromC2, Remembers::V1Otherwise, refused),
            (Tagged::C3, Asks::FromC2, Remembers::Nothing, c3),
            (Tagged::Forged, Asks::FromC2, Remembers::Nothing, forged),
            (Tagged::Forged, Asks::Adopt, Remembers::Nothing, forged),
            (Tagged::Forged, Asks::Adopt, Remembers::V1, forged),
        ] {
            for state in [None, Some(OwnerState::Gone)] {
                check(tagged, asks, remembers, state, expected);
            }
        }
    }

    #[test]
    fn what_has_no_owner_tag_is_taken_over_where_that_is_asked_and_granted() {
        for (tagged, whose) in [
            (Tagged::Nobody, "without an owner tag of keyvault-sync"),
            (Tagged::CertManager, "that cert-manager-key-vault-sync wrote"),
            (Tagged::ExternalSecrets, "that External Secrets wrote"),
        ] {
            let left: &[&str] =
                &["of this name", "left alone", "(version v1)", "conflictPolicy: Adopt", "purge it"];
            let ungranted: &[&str] = &["of this name", "add the name to adopt"];
            for remembers in [Remembers::Nothing, Remembers::V0, Remembers::V1, Remembers::Announced] {
                check(tagged, Asks::Nothing, remembers, None, Is::Refused(Reason::NotManaged, left));
                check(tagged, Asks::FromC2, remembers, None, Is::Refused(Reason::NotManaged, left));
                check(tagged, Asks::Ungranted, remembers, None, Is::Refused(Reason::NotGranted, ungranted));
                check(tagged, Asks::Adopt, remembers, None, Is::Adoption(whose));
            }
        }
    }
}
