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
        let is_handed_over = self.memory.desired.as_deref() != Some(self.desired.hash().as_str());
        (self.is_record(facts) && is_handed_over) || self.is_announced(tagged)
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
        if !is_moving && !(is_of_this_cluster && adoption.is_asked) {
            return refusal;
        }
        adoption.grant.clone().map_err(NoTitle::Problem)?;
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

    fn of_nobody(&self, written_by: Option<&'static str>) -> Result<Title, NoTitle> {
        let adoption = &self.desired.adoption;
        if !adoption.is_asked {
            return Err(NoTitle::Unmanaged(written_by));
        }
        adoption.grant.clone().map_err(NoTitle::Problem)?;
        let from = written_by.map_or_else(|| "somebody who set no owner tag".to_owned(), str::to_owned);
        Ok(Title::Adoption { from, fingerprint: None })
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
