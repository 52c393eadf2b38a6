//! One claim: the words in which its next step is decided (wish, memory, what was seen, step), and the decision itself below.
//! Looking (at the Secret, at the vault) and carrying out is left to the operator, one step a time.

mod decide;

use crate::facts::{CertificateFacts, DeletedFacts};
use crate::fingerprint::Fingerprint;
use crate::ownership::{Owner, Tags};
use crate::reason::{Problem, Reason};
use crate::title::Adoption;

#[cfg(test)]
pub(crate) use decide::left_alone;
pub use decide::{decide, recovering};
pub(crate) use decide::{is_recovering, wait_for_announced, wanted_tags};

/// The time limit of one vault write, seconds: after it, the operator has stopped sending.
pub const WRITE_TIME_LIMIT_SECS: i64 = 10;
/// The time an announcement may take to be stored; a write whose announcement took longer is not begun.
pub const ANNOUNCE_TIME_LIMIT_SECS: i64 = 3;
/// How long after its announcement a write is left alone before the vault is read: the time limits of announcement and
/// write, and two seconds for the service to finish what it has received, for the part of a second that the stored time
/// lacks, and for clocks that differ.
pub const IN_FLIGHT_SECS: i64 = ANNOUNCE_TIME_LIMIT_SECS + WRITE_TIME_LIMIT_SECS + 2;
/// How long a recovery that was asked for is waited for before an import is tried all the same: the vault then says what
/// stands in the way. Recoveries take seconds, by Microsoft's documentation of soft delete.
pub const RECOVERY_PATIENCE_SECS: i64 = 600;

/// What the claim's owner asks for, resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Desired {
    /// Whose certificate it shall be.
    pub owner: Owner,
    /// `<namespace>/<secret>`, for people who read the tag.
    pub source: String,
    /// Under which keys the Secret holds certificate and private key: other keys are other content.
    pub keys: [String; 2],
    /// Tags of the user; [`crate::ownership::user_tags`] has checked them.
    pub tags: Tags,
    /// Whether the private key may leave the vault.
    pub exportable: bool,
    /// Whether certificates of others are taken over.
    pub adoption: Adoption,
    /// Nothing is done while it is set.
    pub suspend: bool,
}

impl Desired {
    /// `sha256:…` over everything that is written beside the content: a change of it is a retag or a new version.
    pub fn hash(&self) -> String {
        let mut fields = vec![self.owner.to_string(), self.source.clone(), self.exportable.to_string()];
        fields.extend(self.keys.iter().cloned());
        for (key, value) in &self.tags {
            fields.push(key.clone());
            fields.push(value.clone());
        }
        crate::fingerprint::of_fields(fields.iter().map(String::as_bytes))
    }
}

/// Which edition of a Secret was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceVersion {
    /// The Secret's uid.
    pub uid: String,
    /// Its resourceVersion.
    pub resource_version: String,
}

/// The kind of a vault write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// A new version.
    Import,
    /// Our tags on somebody's version.
    Adopt,
    /// New tags on the version there is.
    Retag,
    /// Undo a soft delete.
    Recover,
    /// Soft delete.
    Delete,
}

/// A write that was announced and whose receipt is missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InFlight {
    /// What was begun.
    pub act: Act,
    /// Of the content that was to be there afterwards; `None` where the act writes none.
    pub fingerprint: Option<Fingerprint>,
    /// When it was announced, unix seconds.
    pub since: i64,
}

/// What the vault holds of ours, as the last receipt or comparison saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Key Vault's version.
    pub version: String,
    /// SHA-1 of the leaf.
    pub thumbprint: [u8; 20],
    /// Of leaf and chain, or of the leaf alone where the version was adopted.
    pub fingerprint: Fingerprint,
    /// When the leaf expires, unix seconds.
    pub not_after: i64,
}

/// What a claim remembers (its status).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// A write without a receipt.
    pub in_flight: Option<InFlight>,
    /// The edition of the Secret that was last looked at.
    pub source: Option<SourceVersion>,
    /// What was pushed.
    pub record: Option<Record>,
    /// Of the Secret's content when the version in the record was adopted: its chain cannot be read back, and counts as the
    /// Secret's while that holds this content.
    pub adopted_with: Option<Fingerprint>,
    /// [`Desired::hash`] of what was pushed.
    pub desired: Option<String>,
    /// The fingerprint (or version) of a write under our name that was none of ours and was repaired once.
    pub foreign_write: Option<String>,
    /// The last outcome; `None` before the first.
    pub reason: Option<Reason>,
    /// Since when the present act keeps failing, unix seconds.
    pub failing_since: Option<i64>,
}

/// What a Secret holds, once parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    /// Of leaf and chain.
    pub fingerprint: Fingerprint,
    /// [`Fingerprint::Leaf`] of the leaf.
    pub leaf: Fingerprint,
    /// SHA-1 of the leaf.
    pub thumbprint: [u8; 20],
    /// When the leaf expires, unix seconds.
    pub not_after: i64,
}

/// What became of a resource that an owner tag names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OwnerState {
    /// It is there and wants the name, or its wish cannot be resolved at present.
    Wants,
    /// It is there, and its wish does not want the name any more.
    Elsewhere,
    /// It was deleted, beyond doubt.
    Gone,
    /// It cannot be told.
    Unclear,
}

/// Something that may not have been looked at yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Look<T> {
    /// Not looked at in this round.
    NotYet,
    /// This is what was seen.
    Seen(T),
}

/// All that a decision rests on.
#[derive(Clone, Debug)]
pub struct Observed {
    /// The wish.
    pub desired: Desired,
    /// Why the vault must not be used for it (no such KeyVault, no grant); `Ok` if it may.
    pub access: Result<(), Problem>,
    /// What the claim remembers.
    pub memory: Memory,
    /// The Secret's present edition; `None`: there is no such Secret.
    pub source: Option<SourceVersion>,
    /// The Secret's content.
    pub content: Look<Result<Content, Problem>>,
    /// The newest version in the vault; `None`: the vault has no such certificate.
    pub newest: Look<Option<CertificateFacts>>,
    /// The version in [`Memory::record`], where it is not the newest.
    pub recorded: Look<Option<CertificateFacts>>,
    /// The soft-deleted certificate of the name, where there is no live one.
    pub deleted: Look<Option<DeletedFacts>>,
    /// The resource that the owner tag of what the vault holds names.
    pub owner: Look<OwnerState>,
    /// The wish changed since the last outcome, or it is time to compare.
    pub compare: bool,
    /// Unix seconds.
    pub now: i64,
}

/// Why a version is made or tags are set: the Event tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The vault never had it.
    New,
    /// The Secret changed.
    Changed,
    /// `exportable` changed; that is a property of a version.
    ExportableChanged,
    /// Ours was deleted in the vault.
    DeletedInVault,
    /// Somebody imported another version over ours.
    ReplacedInVault,
    /// Somebody wrote a version with our owner tag.
    ForeignWrite,
    /// Another's certificate is taken over, and its content differs.
    Adopted,
}

/// One vault write, with nothing left to choose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Import the Secret's content as a new version.
    Import {
        /// Why.
        why: Why,
        /// All tags of the new version.
        tags: Tags,
        /// Of the content.
        fingerprint: Fingerprint,
        /// What [`Memory::foreign_write`] becomes.
        foreign_write: Option<String>,
        /// Whose it was, in words for the Event; only with [`Why::Adopted`].
        from: Option<String>,
    },
    /// Make somebody's version ours as it is: it holds our leaf already.
    Adopt {
        /// The version.
        version: String,
        /// All tags it shall have.
        tags: Tags,
        /// What the version holds.
        record: Record,
        /// What [`Memory::adopted_with`] becomes.
        with: Fingerprint,
        /// Whose it was, in words for the Event.
        from: String,
    },
    /// Set the tags of the version there is.
    Retag {
        /// The version whose tags are set.
        version: String,
        /// All tags it shall have.
        tags: Tags,
        /// Names of tags that go (quoted, for the Event).
        dropped: Vec<String>,
        /// Names of tags that are set (quoted, for the Event).
        set: Vec<String>,
        /// What the version holds.
        record: Record,
        /// What [`Memory::foreign_write`] becomes.
        foreign_write: Option<String>,
    },
    /// Undo the soft delete of the name.
    Recover {
        /// Ours was deleted in the vault; otherwise the name is taken over.
        is_ours: bool,
    },
    /// Soft-delete the certificate.
    Delete,
}

impl Write {
    /// What is announced in the claim before the write is begun.
    pub fn announcement(&self, now: i64) -> InFlight {
        let (act, fingerprint) = match self {
            Write::Import { fingerprint, .. } => (Act::Import, Some(fingerprint.clone())),
            Write::Adopt { record, .. } => (Act::Adopt, Some(record.fingerprint.clone())),
            Write::Retag { record, .. } => (Act::Retag, Some(record.fingerprint.clone())),
            Write::Recover { .. } => (Act::Recover, None),
            Write::Delete => (Act::Delete, None),
        };
        InFlight { act, fingerprint, since: now }
    }
}

/// The next step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Read the Secret's data, then decide again.
    ReadSecret,
    /// Read the newest version in the vault, then decide again.
    ReadNewest,
    /// Read the version in the record, then decide again.
    ReadRecorded,
    /// Read the soft-deleted certificate of the name, then decide again.
    ReadDeleted,
    /// Ask what became of this resource of our cluster, then decide again.
    AskOwner(Owner),
    /// Announce, write, take the receipt.
    Write(Write),
    /// An announced write may still be under way: decide again at `until`.
    Wait {
        /// Unix seconds.
        until: i64,
    },
    /// The vault holds what is wished.
    InSync {
        /// What to remember, where the vault was looked at.
        record: Option<Record>,
    },
    /// `suspend: true`.
    Suspended,
    /// Nothing is written, and this is why.
    Refuse(Problem),
}

#[cfg(test)]
mod tests;
