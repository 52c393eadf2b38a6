//! One claim: what is wished, remembered and seen, and now → the one next step. Total: deciding cannot fail.
//! Looking (at the Secret, at the vault) and carrying out is left to the operator, one step a time.

use crate::facts::{CertificateFacts, DeletedFacts};
use crate::fingerprint::Fingerprint;
use crate::ownership::{self, Owner, Ownership, Tags};
use crate::reason::{Fault, Problem, Reason};
use crate::title::{Adoption, Claimant, NoTitle, Title};

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
    /// Tags of the user; [`ownership::user_tags`] has checked them.
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

/// Decides the next step of one claim. Reads are asked for only where something depends on them: an unchanged Secret
/// costs none, and no call to the vault.
pub fn decide(seen: &Observed) -> Next {
    if seen.desired.suspend {
        return Next::Suspended;
    }
    if let Err(problem) = &seen.access {
        return Next::Refuse(problem.clone());
    }
    if let Some(until) = wait_for_announced(&seen.memory, seen.now) {
        return Next::Wait { until };
    }
    let Some(source) = &seen.source else {
        if seen.content == Look::NotYet {
            return Next::ReadSecret;
        }
        return Next::Refuse(Problem::new(
            Reason::SecretNotFound,
            format!("Secret {} does not exist; it is pushed when it appears", seen.desired.source),
        ));
    };
    let wanted = match (&seen.content, &seen.memory.record) {
        (Look::Seen(Err(problem)), _) => return Next::Refuse(problem.clone()),
        (Look::Seen(Ok(content)), _) => Wanted::read(content),
        (Look::NotYet, Some(record)) if is_read(&seen.memory, source, &seen.desired) => {
            Wanted::remembered(record, &seen.memory)
        }
        (Look::NotYet, _) => return Next::ReadSecret,
    };
    if !seen.compare && is_settled(&seen.memory, &seen.desired, &wanted) {
        return Next::InSync { record: None };
    }
    let next = match &seen.newest {
        Look::NotYet => Ok(Next::ReadNewest),
        Look::Seen(None) => missing(seen, &wanted),
        Look::Seen(Some(newest)) => against(seen, &wanted, newest),
    };
    next.unwrap_or_else(|without| without)
}

/// Until when an announced write is left alone: it may still be under way.
pub(crate) fn wait_for_announced(memory: &Memory, now: i64) -> Option<i64> {
    let until = memory.in_flight.as_ref()?.since + IN_FLIGHT_SECS;
    (now < until).then_some(until)
}

/// What the Secret holds, as far as it is known in this round.
struct Wanted {
    fingerprint: Fingerprint,
    /// `None`: only the Secret's content would tell.
    leaf: Option<Fingerprint>,
    thumbprint: [u8; 20],
    not_after: i64,
}

impl Wanted {
    fn read(content: &Content) -> Self {
        Self {
            fingerprint: content.fingerprint.clone(),
            leaf: Some(content.leaf.clone()),
            thumbprint: content.thumbprint,
            not_after: content.not_after,
        }
    }

    /// Of a Secret that has not changed since the record was made.
    fn remembered(record: &Record, memory: &Memory) -> Self {
        let leaf = matches!(record.fingerprint, Fingerprint::Leaf(_)).then(|| record.fingerprint.clone());
        let adopted_with = memory.adopted_with.clone().filter(|_| leaf.is_some());
        Self {
            fingerprint: adopted_with.unwrap_or_else(|| record.fingerprint.clone()),
            leaf,
            thumbprint: record.thumbprint,
            not_after: record.not_after,
        }
    }

    /// Whether a version of this fingerprint holds it. Of an adopted version only the leaf is known; its chain counts as
    /// the Secret's, while that is what it was at the adoption.
    fn is_held_by(&self, there: &Fingerprint, memory: &Memory) -> bool {
        match there {
            Fingerprint::LeafAndChain(_) => *there == self.fingerprint,
            Fingerprint::Leaf(_) => {
                let is_as_adopted = memory.adopted_with.as_ref().is_none_or(|with| *with == self.fingerprint);
                self.leaf.as_ref() == Some(there) && is_as_adopted
            }
        }
    }

    fn record(&self, version: &str, fingerprint: Fingerprint) -> Record {
        Record {
            version: version.to_owned(),
            thumbprint: self.thumbprint,
            fingerprint,
            not_after: self.not_after,
        }
    }
}

/// Whether the record is of this edition of the Secret, read under the present wish.
fn is_read(memory: &Memory, source: &SourceVersion, desired: &Desired) -> bool {
    memory.source.as_ref() == Some(source) && memory.desired.as_deref() == Some(desired.hash().as_str())
}

/// Whether memory alone says that the vault holds this.
fn is_settled(memory: &Memory, desired: &Desired, wanted: &Wanted) -> bool {
    let pushed = memory.record.as_ref().is_some_and(|record| wanted.is_held_by(&record.fingerprint, memory));
    // A reason that came from the vault says that the last look there did not end well: look again.
    let ended_well = memory.reason.is_some_and(|reason| match reason.fault() {
        None | Some(Fault::Invalid) => true,
        Some(Fault::Blocked | Fault::Transient | Fault::Bug) => false,
    });
    pushed
        && ended_well
        && memory.in_flight.is_none()
        && memory.desired.as_deref() == Some(desired.hash().as_str())
}

/// A step, or one that has to come before it (a look) or instead of it (a refusal).
type Step = Result<Next, Next>;

fn claimant(seen: &Observed) -> Claimant<'_> {
    Claimant { desired: &seen.desired, memory: &seen.memory, owner: &seen.owner }
}

/// There is no live certificate of the name; there may be a soft-deleted one.
fn missing(seen: &Observed, wanted: &Wanted) -> Step {
    let deleted = match &seen.deleted {
        Look::NotYet => return Err(Next::ReadDeleted),
        Look::Seen(deleted) => deleted,
    };
    let Some(deleted) = deleted else {
        let is_patient =
            seen.memory.failing_since.is_none_or(|since| seen.now < since + RECOVERY_PATIENCE_SECS);
        if seen.memory.reason == Some(Reason::Recovering) && is_patient {
            return Err(Next::Refuse(recovering()));
        }
        let why = if seen.memory.record.is_some() { Why::DeletedInVault } else { Why::New };
        return import(seen, wanted, why, None, None);
    };
    match claimant(seen).title(&deleted.newest) {
        Ok(title) => {
            let is_ours = !matches!(title, Title::Adoption { .. });
            Ok(Next::Write(Write::Recover { is_ours }))
        }
        Err(without) => Err(untitled(without, |reason, whose| in_the_way(reason, whose, deleted))),
    }
}

/// Without a title there is a look, or a refusal in the words of the place.
fn untitled(without: NoTitle, refuse: impl FnOnce(Reason, &str) -> Problem) -> Next {
    let whose = without.whose().unwrap_or_default();
    match without {
        NoTitle::AskOwner(owner) => Next::AskOwner(owner),
        NoTitle::Another(_) => Next::Refuse(refuse(Reason::OwnedByAnother, &whose)),
        NoTitle::Unmanaged(_) => Next::Refuse(refuse(Reason::NotManaged, &whose)),
        NoTitle::Problem(problem) => Next::Refuse(problem),
    }
}

/// What is said while a recovery is waited for.
pub fn recovering() -> Problem {
    Problem::new(
        Reason::Recovering,
        "the certificate was soft-deleted in the vault and is being recovered; it is compared when that is done",
    )
}

/// A soft-deleted certificate that we may not recover.
fn in_the_way(reason: Reason, whose: &str, deleted: &DeletedFacts) -> Problem {
    let adopt = match reason {
        Reason::NotManaged => "recover it there and take it over with conflictPolicy: Adopt",
        _ => "recover it there for its owner",
    };
    let way_out = if deleted.is_purge_protected {
        format!(
            "the vault has purge protection, so nobody can free the name before the vault purges it by itself: {adopt}, or \
             choose another certificateName"
        )
    } else {
        format!("{adopt}, purge it, or choose another certificateName")
    };
    Problem::new(
        Reason::SoftDeleted,
        format!("a certificate of this name is soft-deleted in the vault, and {whose}: {way_out}"),
    )
}

/// A live certificate that we may not touch.
fn left_alone(reason: Reason, whose: &str, version: &str) -> Problem {
    let way_out = match reason {
        Reason::NotManaged => {
            "choose another certificateName, take it over with conflictPolicy: Adopt, or delete and purge it in the vault"
        }
        _ => "choose another certificateName, or remove it there first",
    };
    Problem::new(
        reason,
        format!(
            "the vault has a certificate of this name (version {version}), and {whose}: it is left alone; {way_out}"
        ),
    )
}

/// The newest version stands against what is wanted.
fn against(seen: &Observed, wanted: &Wanted, newest: &CertificateFacts) -> Step {
    if let Some(step) = replaced(seen, wanted, newest) {
        return step;
    }
    match claimant(seen).title(newest) {
        Ok(Title::Ours(tagged)) => ours(seen, wanted, newest, tagged),
        Ok(Title::Succession(tagged)) => succession(seen, wanted, newest, tagged),
        Ok(Title::Adoption { from, fingerprint }) => adoption(seen, wanted, newest, from, fingerprint),
        Err(without) => Err(untitled(without, |reason, whose| left_alone(reason, whose, &newest.version))),
    }
}

/// The newest version has no owner tag, but the one in our record still has ours: somebody imported over it.
fn replaced(seen: &Observed, wanted: &Wanted, newest: &CertificateFacts) -> Option<Step> {
    let is_unmanaged =
        matches!(ownership::read(&newest.tags, &seen.desired.owner), Ownership::Unmanaged { .. });
    let record = seen.memory.record.as_ref().filter(|record| record.version != newest.version)?;
    if !is_unmanaged {
        return None;
    }
    match &seen.recorded {
        Look::NotYet => Some(Err(Next::ReadRecorded)),
        Look::Seen(Some(facts)) if facts.version == record.version => {
            match ownership::read(&facts.tags, &seen.desired.owner) {
                Ownership::Ours(_) | Ownership::Sibling { .. } => {
                    Some(import(seen, wanted, Why::ReplacedInVault, None, None))
                }
                Ownership::Another { .. } | Ownership::Unmanaged { .. } => None,
            }
        }
        Look::Seen(_) => None,
    }
}

/// What the version in question holds of what is wanted; `None`: something else.
fn held(
    seen: &Observed,
    wanted: &Wanted,
    newest: &CertificateFacts,
    tagged: Option<&Fingerprint>,
) -> Option<Fingerprint> {
    let holds = |there: &&Fingerprint| wanted.is_held_by(there, &seen.memory);
    // A version's content never changes: what the record says of it holds, whatever became of its tags.
    let recorded = seen
        .memory
        .record
        .as_ref()
        .filter(|record| record.version == newest.version)
        .map(|record| &record.fingerprint)
        .filter(holds);
    let tagged = tagged.filter(holds).filter(|_| newest.thumbprint == wanted.thumbprint);
    recorded.or(tagged).cloned()
}

fn ours(seen: &Observed, wanted: &Wanted, newest: &CertificateFacts, tagged: Option<Fingerprint>) -> Step {
    if let Some(fingerprint) = held(seen, wanted, newest, tagged.as_ref()) {
        let foreign_write = seen.memory.foreign_write.clone();
        return same(seen, wanted, newest, fingerprint, foreign_write);
    }
    let claimant = claimant(seen);
    let is_known = claimant.is_record(newest)
        || is_wish_new(seen, wanted)
        || (tagged.is_some() && tagged.as_ref() == pushed(seen))
        || claimant.is_announced(tagged.as_ref());
    if is_known {
        return import(seen, wanted, Why::Changed, None, None);
    }
    let foreign_write = first_foreign_write(seen, newest)?;
    import(seen, wanted, Why::ForeignWrite, Some(foreign_write), None)
}

/// Of the last push.
fn pushed(seen: &Observed) -> Option<&Fingerprint> {
    seen.memory.record.as_ref().map(|record| &record.fingerprint)
}

/// Whether the Secret holds something that was not pushed yet.
fn is_wish_new(seen: &Observed, wanted: &Wanted) -> bool {
    pushed(seen).is_none_or(|pushed| !wanted.is_held_by(pushed, &seen.memory))
}

/// Somebody else writes under our name. It is repaired once, until our own content changes: two clusters with one id must
/// not take turns for ever.
fn first_foreign_write(seen: &Observed, newest: &CertificateFacts) -> Result<String, Next> {
    if seen.memory.foreign_write.is_none() {
        return Ok(newest.version.clone());
    }
    let owner = &seen.desired.owner;
    Err(Next::Refuse(Problem::new(
        Reason::OwnedByAnother,
        format!(
            "version {} has an owner tag of cluster id {}, namespace and kind of {owner}, but was not written by this \
             cluster, for the second time: another cluster uses the cluster id {}; give one of them another with \
             --cluster-id",
            newest.version, owner.cluster, owner.cluster
        ),
    )))
}

/// What a resource of our family left is ours now. Where we had the name before, another cluster with our id may think so too.
fn succession(
    seen: &Observed,
    wanted: &Wanted,
    newest: &CertificateFacts,
    tagged: Option<Fingerprint>,
) -> Step {
    let foreign_write =
        if is_wish_new(seen, wanted) { None } else { Some(first_foreign_write(seen, newest)?) };
    match held(seen, wanted, newest, tagged.as_ref()) {
        Some(fingerprint) => same(seen, wanted, newest, fingerprint, foreign_write),
        None => import(seen, wanted, Why::Changed, foreign_write, None),
    }
}

/// Somebody else's certificate becomes ours: as it is, if it holds our leaf and is as exportable; by a new version otherwise.
fn adoption(
    seen: &Observed,
    wanted: &Wanted,
    newest: &CertificateFacts,
    from: String,
    tagged: Option<Fingerprint>,
) -> Step {
    let Some(leaf) = &wanted.leaf else { return Err(Next::ReadSecret) };
    let is_equal = newest.leaf.as_ref() == Some(leaf)
        && newest.thumbprint == wanted.thumbprint
        && newest.exportable == Some(seen.desired.exportable);
    if !is_equal {
        return import(seen, wanted, Why::Adopted, None, Some(from));
    }
    let fingerprint = tagged.filter(|tagged| *tagged == wanted.fingerprint).unwrap_or_else(|| leaf.clone());
    Ok(Next::Write(Write::Adopt {
        version: newest.version.clone(),
        tags: wanted_tags(&seen.desired, &fingerprint),
        record: wanted.record(&newest.version, fingerprint),
        with: wanted.fingerprint.clone(),
        from,
    }))
}

/// The content is right; the rest may not be.
fn same(
    seen: &Observed,
    wanted: &Wanted,
    newest: &CertificateFacts,
    fingerprint: Fingerprint,
    foreign_write: Option<String>,
) -> Step {
    if newest.exportable.is_some_and(|exportable| exportable != seen.desired.exportable) {
        return import(seen, wanted, Why::ExportableChanged, None, None);
    }
    let tags = wanted_tags(&seen.desired, &fingerprint);
    let record = wanted.record(&newest.version, fingerprint);
    if newest.tags != tags {
        let (dropped, set) = ownership::difference(&newest.tags, &tags);
        let version = newest.version.clone();
        return Ok(Next::Write(Write::Retag { version, tags, dropped, set, record, foreign_write }));
    }
    if !newest.enabled {
        return Err(Next::Refuse(Problem::new(
            Reason::DisabledInVault,
            format!(
                "version {} is disabled in the vault; keyvault-sync never enables it again: enable it there, or renew \
                 the Secret to make a new version",
                newest.version
            ),
        )));
    }
    Ok(Next::InSync { record: Some(record) })
}

/// The tags that a version of this content shall have.
pub(crate) fn wanted_tags(desired: &Desired, fingerprint: &Fingerprint) -> Tags {
    ownership::tags(&desired.owner, &desired.source, fingerprint, &desired.tags)
}

/// An import needs the Secret's content, which may not have been read so far.
fn import(
    seen: &Observed,
    wanted: &Wanted,
    why: Why,
    foreign_write: Option<String>,
    from: Option<String>,
) -> Step {
    if seen.content == Look::NotYet {
        return Err(Next::ReadSecret);
    }
    Ok(Next::Write(Write::Import {
        why,
        tags: wanted_tags(&seen.desired, &wanted.fingerprint),
        fingerprint: wanted.fingerprint.clone(),
        foreign_write,
        from,
    }))
}
