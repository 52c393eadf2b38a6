//! One claim: what is wished, remembered and seen, and now → the one next step. Total: deciding cannot fail.
//! Looking (at the Secret, at the vault) and carrying out is left to the operator, one step a time.

use crate::facts::CertificateFacts;
use crate::fingerprint::Fingerprint;
use crate::names::VaultHost;
use crate::ownership::{self, Owner, Ownership, Tags};
use crate::reason::{Problem, Reason};

/// The time limit of one vault write, seconds: after it, the operator has stopped sending.
pub const WRITE_TIME_LIMIT_SECS: i64 = 10;
/// The time an announcement may take to be stored; a write whose announcement took longer is not begun.
pub const ANNOUNCE_TIME_LIMIT_SECS: i64 = 3;
/// How long after its announcement a write is left alone before the vault is read: the time limits of announcement and
/// write, and two seconds for the service to finish what it has received, for the part of a second that the stored time
/// lacks, and for clocks that differ.
pub const IN_FLIGHT_SECS: i64 = ANNOUNCE_TIME_LIMIT_SECS + WRITE_TIME_LIMIT_SECS + 2;

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
    /// New tags on the version there is.
    Retag,
}

/// A write that was announced and whose receipt is missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InFlight {
    /// What was begun.
    pub act: Act,
    /// Of the content that was to be there afterwards.
    pub fingerprint: Fingerprint,
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
    /// Of leaf and chain.
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
    /// [`Desired::hash`] of what was pushed.
    pub desired: Option<String>,
    /// The fingerprint (or version) of a write under our name that was none of ours and was repaired once.
    pub foreign_write: Option<String>,
    /// The last outcome; `None` before the first.
    pub reason: Option<Reason>,
}

/// What a Secret holds, once parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    /// Of leaf and chain.
    pub fingerprint: Fingerprint,
    /// SHA-1 of the leaf.
    pub thumbprint: [u8; 20],
    /// When the leaf expires, unix seconds.
    pub not_after: i64,
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
    },
}

impl Write {
    /// What is announced in the claim before the write is begun.
    pub fn announcement(&self, now: i64) -> InFlight {
        match self {
            Write::Import { fingerprint, .. } => {
                InFlight { act: Act::Import, fingerprint: fingerprint.clone(), since: now }
            }
            Write::Retag { record, .. } => {
                InFlight { act: Act::Retag, fingerprint: record.fingerprint.clone(), since: now }
            }
        }
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

/// Which comparison interval `now` is in. The phase is a pure function of vault and interval: a restart shifts
/// nothing, nothing is stored, and the vaults of a fleet do not all compare at the full hour.
pub fn comparison_tick(host: &VaultHost, interval_secs: i64, now: i64) -> i64 {
    (now - phase(host, interval_secs)).div_euclid(interval_secs.max(1))
}

/// When the next comparison is due, unix seconds.
pub fn next_comparison(host: &VaultHost, interval_secs: i64, now: i64) -> i64 {
    (comparison_tick(host, interval_secs, now) + 1) * interval_secs.max(1) + phase(host, interval_secs)
}

fn phase(host: &VaultHost, interval_secs: i64) -> i64 {
    let digest = host.as_str().bytes().fold(0_i64, |sum, byte| (sum * 131 + i64::from(byte)) % 1_000_003);
    digest % interval_secs.max(1)
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
    if let Some(in_flight) = &seen.memory.in_flight
        && seen.now < in_flight.since + IN_FLIGHT_SECS
    {
        return Next::Wait { until: in_flight.since + IN_FLIGHT_SECS };
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
        (Look::Seen(Ok(content)), _) => content.clone(),
        (Look::NotYet, Some(record)) if is_read(&seen.memory, source, &seen.desired) => Content {
            fingerprint: record.fingerprint.clone(),
            thumbprint: record.thumbprint,
            not_after: record.not_after,
        },
        (Look::NotYet, _) => return Next::ReadSecret,
    };
    if !seen.compare && is_settled(&seen.memory, &seen.desired, &wanted) {
        return Next::InSync { record: None };
    }
    match &seen.newest {
        Look::NotYet => Next::ReadNewest,
        Look::Seen(None) => {
            let why = if seen.memory.record.is_some() { Why::DeletedInVault } else { Why::New };
            import(seen, &wanted, why, None)
        }
        Look::Seen(Some(newest)) => against(seen, &wanted, newest),
    }
}

/// Whether the record is of this edition of the Secret, read under the present wish.
fn is_read(memory: &Memory, source: &SourceVersion, desired: &Desired) -> bool {
    memory.source.as_ref() == Some(source) && memory.desired.as_deref() == Some(desired.hash().as_str())
}

/// Whether memory alone says that the vault holds this.
fn is_settled(memory: &Memory, desired: &Desired, wanted: &Content) -> bool {
    let pushed = memory.record.as_ref().is_some_and(|record| record.fingerprint == wanted.fingerprint);
    // A reason that came from the vault says that the last look there did not end well: look again.
    let ended_well = memory.reason.is_some_and(|reason| match reason.fault() {
        None | Some(crate::reason::Fault::Invalid) => true,
        Some(crate::reason::Fault::Blocked | crate::reason::Fault::Transient | crate::reason::Fault::Bug) => {
            false
        }
    });
    pushed
        && ended_well
        && memory.in_flight.is_none()
        && memory.desired.as_deref() == Some(desired.hash().as_str())
}

/// The newest version stands against what is wanted.
fn against(seen: &Observed, wanted: &Content, newest: &CertificateFacts) -> Next {
    let is_record = seen.memory.record.as_ref().is_some_and(|record| record.version == newest.version);
    let tagged = match ownership::read(&newest.tags, &seen.desired.owner) {
        Ownership::Ours(tagged) => tagged,
        // The claim was handed over with its memory: what its last holder pushed, or was pushing, is ours now.
        Ownership::Sibling { fingerprint, .. } if is_record || is_announced(seen, fingerprint.as_ref()) => {
            fingerprint
        }
        Ownership::Sibling { owner, .. } => return Next::Refuse(owned_by_another(&owner)),
        Ownership::Another(owner) => return Next::Refuse(owned_by_another(&owner)),
        Ownership::Unmanaged => return unmanaged(seen, wanted, newest),
    };
    let pushed = seen.memory.record.as_ref().map(|record| &record.fingerprint);
    // A version's content never changes: what the record says of it holds, whatever became of its tags.
    let same_content = (is_record && pushed == Some(&wanted.fingerprint))
        || (tagged.as_ref() == Some(&wanted.fingerprint) && newest.thumbprint == wanted.thumbprint);
    if same_content {
        return same(seen, wanted, newest);
    }
    let is_known = is_record
        || pushed != Some(&wanted.fingerprint)
        || (tagged.is_some() && tagged.as_ref() == pushed)
        || is_announced(seen, tagged.as_ref());
    if is_known {
        return import(seen, wanted, Why::Changed, None);
    }
    if seen.memory.foreign_write.is_some() {
        return Next::Refuse(Problem::new(
            Reason::OwnedByAnother,
            format!(
                "version {} has the owner tag of {}, but it was not written by this cluster, for the second time: \
                 another cluster uses the cluster id {}; give one of them another with --cluster-id",
                newest.version, seen.desired.owner, seen.desired.owner.cluster
            ),
        ));
    }
    import(seen, wanted, Why::ForeignWrite, Some(newest.version.clone()))
}

fn is_announced(seen: &Observed, tagged: Option<&Fingerprint>) -> bool {
    let announced = seen.memory.in_flight.as_ref().map(|in_flight| &in_flight.fingerprint);
    tagged.is_some() && tagged == announced
}

/// The content is right; the rest may not be.
fn same(seen: &Observed, wanted: &Content, newest: &CertificateFacts) -> Next {
    if newest.exportable.is_some_and(|exportable| exportable != seen.desired.exportable) {
        return import(seen, wanted, Why::ExportableChanged, None);
    }
    let record = Record {
        version: newest.version.clone(),
        thumbprint: newest.thumbprint,
        fingerprint: wanted.fingerprint.clone(),
        not_after: wanted.not_after,
    };
    let tags = wanted_tags(&seen.desired, wanted);
    if newest.tags != tags {
        let (dropped, set) = ownership::difference(&newest.tags, &tags);
        return Next::Write(Write::Retag { version: newest.version.clone(), tags, dropped, set, record });
    }
    if !newest.enabled {
        return Next::Refuse(Problem::new(
            Reason::DisabledInVault,
            format!(
                "version {} is disabled in the vault; keyvault-sync never enables it again: enable it there, or renew \
                 the Secret to make a new version",
                newest.version
            ),
        ));
    }
    Next::InSync { record: Some(record) }
}

/// The newest version has no owner tag: somebody imported over ours, or it was never ours.
fn unmanaged(seen: &Observed, wanted: &Content, newest: &CertificateFacts) -> Next {
    let refusal = Next::Refuse(Problem::new(
        Reason::NotManaged,
        format!(
            "the vault has a certificate of this name without an owner tag of keyvault-sync (version {}): it is left \
             alone; choose another certificateName, or delete and purge it in the vault",
            newest.version
        ),
    ));
    let Some(record) = seen.memory.record.as_ref().filter(|record| record.version != newest.version) else {
        return refusal;
    };
    match &seen.recorded {
        Look::NotYet => Next::ReadRecorded,
        Look::Seen(Some(facts))
            if facts.version == record.version
                && matches!(
                    ownership::read(&facts.tags, &seen.desired.owner),
                    Ownership::Ours(_) | Ownership::Sibling { .. }
                ) =>
        {
            import(seen, wanted, Why::ReplacedInVault, None)
        }
        Look::Seen(_) => refusal,
    }
}

fn owned_by_another(owner: &str) -> Problem {
    Problem::new(
        Reason::OwnedByAnother,
        format!(
            "the vault's certificate belongs to {owner} (cluster id/kind/namespace/name): it is left alone; choose \
             another certificateName, or remove it there first"
        ),
    )
}

fn wanted_tags(desired: &Desired, wanted: &Content) -> Tags {
    ownership::tags(&desired.owner, &desired.source, &wanted.fingerprint, &desired.tags)
}

/// An import needs the Secret's content, which may not have been read so far.
fn import(seen: &Observed, wanted: &Content, why: Why, foreign_write: Option<String>) -> Next {
    if seen.content == Look::NotYet {
        return Next::ReadSecret;
    }
    Next::Write(Write::Import {
        why,
        tags: wanted_tags(&seen.desired, wanted),
        fingerprint: wanted.fingerprint.clone(),
        foreign_write,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::Cloud;

    #[test]
    fn comparisons_come_once_an_interval_whenever_the_operator_was_started() {
        let host = VaultHost::from_url("https://contoso.vault.azure.net", &Cloud::ALL).unwrap();
        for now in [0, 1, 3_599, 3_600, 1_750_000_000] {
            let next = next_comparison(&host, 3_600, now);
            assert!(next > now && next <= now + 3_600, "{now} {next}");
            assert_eq!(comparison_tick(&host, 3_600, next), comparison_tick(&host, 3_600, now) + 1);
            assert_eq!(comparison_tick(&host, 3_600, next - 1), comparison_tick(&host, 3_600, now));
        }
    }
}
