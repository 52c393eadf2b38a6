//! The decision itself: what is wished, remembered and seen → the one next step, or a refusal. Total: deciding cannot fail.
//! The words it is made in are `push`'s; who may write over what, `title`'s.

use super::{
    Act, Content, Desired, IN_FLIGHT_SECS, Look, Memory, Next, Observed, RECOVERY_PATIENCE_SECS, Record,
    SourceVersion, Why, Write,
};
use crate::facts::{CertificateFacts, DeletedFacts};
use crate::fingerprint::Fingerprint;
use crate::ownership::{self, Ownership, Tags};
use crate::reason::{Problem, Reason};
use crate::title::{Claimant, NoTitle, Title};

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
    let step = match &seen.newest {
        Look::NotYet => Ok(Next::ReadNewest),
        Look::Seen(None) => missing(seen, &wanted),
        Look::Seen(Some(newest)) => against(seen, &wanted, newest),
    };
    step.unwrap_or_else(Next::Refuse)
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
    // After anything else it is not known any more how the last look at the vault ended: look again.
    let ended_well = memory.reason.is_some_and(|reason| reason.fault().is_none());
    pushed
        && ended_well
        && memory.in_flight.is_none()
        && memory.desired.as_deref() == Some(desired.hash().as_str())
}

/// A step, or why nothing is written.
type Step = Result<Next, Problem>;

fn claimant(seen: &Observed) -> Claimant<'_> {
    Claimant { desired: &seen.desired, memory: &seen.memory, owner: &seen.owner }
}

/// There is no live certificate of the name; there may be a soft-deleted one.
fn missing(seen: &Observed, wanted: &Wanted) -> Step {
    let deleted = match &seen.deleted {
        Look::NotYet => return Ok(Next::ReadDeleted),
        Look::Seen(deleted) => deleted,
    };
    let Some(deleted) = deleted else {
        if is_recovering(&seen.memory, seen.now) {
            return Err(recovering());
        }
        let why = if seen.memory.record.is_some() { Why::DeletedInVault } else { Why::New };
        return import(seen, wanted, why, None, None);
    };
    match claimant(seen).title(&deleted.newest) {
        Ok(title) => {
            let is_ours = !matches!(title, Title::Adoption { .. });
            Ok(Next::Write(Write::Recover { is_ours }))
        }
        Err(without) => untitled(without, |reason, whose| in_the_way(reason, whose, deleted)),
    }
}

/// Without a title there is a look, or a refusal in the words of the place.
fn untitled(without: NoTitle, refuse: impl FnOnce(Reason, &str) -> Problem) -> Step {
    let whose = without.whose().unwrap_or_default();
    match without {
        NoTitle::AskOwner(owner) => Ok(Next::AskOwner(owner)),
        NoTitle::Another(_) => Err(refuse(Reason::OwnedByAnother, &whose)),
        NoTitle::Unmanaged(_) => Err(refuse(Reason::NotManaged, &whose)),
        NoTitle::Problem(problem) => Err(problem),
    }
}

/// Whether a recovery was asked for that may not be done yet: until then the vault shows neither a live certificate nor a
/// soft-deleted one.
pub(crate) fn is_recovering(memory: &Memory, now: i64) -> bool {
    let is_patient = |since: i64| now < since + RECOVERY_PATIENCE_SECS;
    // A recovery without a receipt may have begun.
    let announced = memory.in_flight.as_ref().filter(|in_flight| in_flight.act == Act::Recover);
    announced.is_some_and(|in_flight| is_patient(in_flight.since))
        || (memory.reason == Some(Reason::Recovering) && memory.failing_since.is_none_or(is_patient))
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
pub(crate) fn left_alone(reason: Reason, whose: &str, version: &str) -> Problem {
    let way_out = match reason {
        Reason::NotManaged => {
            "choose another certificateName, take it over with conflictPolicy: Adopt, or delete and purge it in the vault"
        }
        _ => {
            "choose another certificateName, remove it there first, or take it over: with adoptFromClusters from another \
             cluster, with conflictPolicy: Adopt from an owner of this cluster that is gone"
        }
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
        Err(without) => untitled(without, |reason, whose| left_alone(reason, whose, &newest.version)),
    }
}

/// The newest version has no owner tag, but the one in our record still has ours: somebody imported over it. Where taking over is
/// asked for and granted, what they wrote is looked at as anybody else's: it may hold what is wanted.
fn replaced(seen: &Observed, wanted: &Wanted, newest: &CertificateFacts) -> Option<Step> {
    let is_unmanaged =
        matches!(ownership::read(&newest.tags, &seen.desired.owner), Ownership::Unmanaged { .. });
    let record = seen.memory.record.as_ref().filter(|record| record.version != newest.version)?;
    let adoption = &seen.desired.adoption;
    if !is_unmanaged || (adoption.is_asked && adoption.grant.is_ok()) {
        return None;
    }
    match &seen.recorded {
        Look::NotYet => Some(Ok(Next::ReadRecorded)),
        Look::Seen(Some(facts)) if facts.version == record.version => {
            let Ok(Title::Ours(_)) = claimant(seen).title(facts) else { return None };
            if !facts.enabled && wanted.is_held_by(&record.fingerprint, &seen.memory) {
                return Some(Err(disabled(facts)));
            }
            Some(import(seen, wanted, Why::ReplacedInVault, None, None))
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
    let tagged = tagged.filter(holds);
    // Record and tag are words that others may have written; the leaf is the vault's own.
    recorded.or(tagged).filter(|_| newest.thumbprint == wanted.thumbprint).cloned()
}

fn ours(seen: &Observed, wanted: &Wanted, newest: &CertificateFacts, tagged: Option<Fingerprint>) -> Step {
    if let Some(fingerprint) = held(seen, wanted, newest, tagged.as_ref()) {
        let foreign_write = seen.memory.foreign_write.clone();
        return same(seen, wanted, newest, fingerprint, foreign_write);
    }
    let claimant = claimant(seen);
    let is_known =
        claimant.is_record(newest) || is_wish_new(seen, wanted) || claimant.is_announced(tagged.as_ref());
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

/// Whether we pushed what we wish, and this version of the same content is another one.
fn is_strange(seen: &Observed, newest: &CertificateFacts, fingerprint: &Fingerprint) -> bool {
    let claimant = claimant(seen);
    seen.memory.desired.as_deref() == Some(seen.desired.hash().as_str())
        && seen.memory.record.is_some()
        && !claimant.is_record(newest)
        && !claimant.is_announced(Some(fingerprint))
}

/// Somebody else writes under our name. It is repaired once, until our own content changes: two clusters with one id must
/// not take turns for ever.
fn first_foreign_write(seen: &Observed, newest: &CertificateFacts) -> Result<String, Problem> {
    if seen.memory.foreign_write.is_none() {
        return Ok(newest.version.clone());
    }
    let owner = &seen.desired.owner;
    Err(Problem::new(
        Reason::OwnedByAnother,
        format!(
            "version {} has an owner tag of cluster id {}, namespace and kind of {owner}, but was not written by this \
             cluster, for the second time: another cluster uses the cluster id {}; give one of them another with \
             --cluster-id",
            newest.version, owner.cluster, owner.cluster
        ),
    ))
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
    // All of the Secret, not what is remembered of it: what is adopted is adopted with its chain.
    let (Some(leaf), Look::Seen(_)) = (&wanted.leaf, &seen.content) else { return Ok(Next::ReadSecret) };
    let is_equal = newest.leaf.as_ref() == Some(leaf) && newest.thumbprint == wanted.thumbprint;
    // A disabled one is not made available again for being as exportable as wished.
    let is_equal = is_equal && (newest.exportable == Some(seen.desired.exportable) || !newest.enabled);
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
    let is_as_exportable = newest.exportable.is_none_or(|exportable| exportable == seen.desired.exportable);
    if !is_as_exportable && newest.enabled {
        let foreign_write = if is_strange(seen, newest, &fingerprint) {
            Some(first_foreign_write(seen, newest)?)
        } else {
            foreign_write
        };
        return import(seen, wanted, Why::ExportableChanged, foreign_write, None);
    }
    let tags = wanted_tags(&seen.desired, &fingerprint);
    let record = wanted.record(&newest.version, fingerprint);
    if newest.tags != tags {
        let (dropped, set) = ownership::difference(&newest.tags, &tags);
        let version = newest.version.clone();
        return Ok(Next::Write(Write::Retag { version, tags, dropped, set, record, foreign_write }));
    }
    if !newest.enabled {
        return Err(disabled(newest));
    }
    Ok(Next::InSync { record: Some(record) })
}

/// Somebody disabled what the Secret still holds: that is how a compromised certificate is stopped, and a new version of it
/// would undo that.
fn disabled(version: &CertificateFacts) -> Problem {
    Problem::new(
        Reason::DisabledInVault,
        format!(
            "version {} is disabled in the vault; keyvault-sync never enables it again: enable it there, or renew the \
             Secret to make a new version",
            version.version
        ),
    )
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
        return Ok(Next::ReadSecret);
    }
    // Whatever else is new: the leaf that somebody stopped does not come back.
    if let Look::Seen(Some(newest)) = &seen.newest
        && !newest.enabled
        && newest.thumbprint == wanted.thumbprint
    {
        return Err(disabled(newest));
    }
    Ok(Next::Write(Write::Import {
        why,
        tags: wanted_tags(&seen.desired, &wanted.fingerprint),
        fingerprint: wanted.fingerprint.clone(),
        foreign_write,
        from,
    }))
}
