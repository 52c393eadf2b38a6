//! A claim that is given up → what becomes of the vault's certificate: it stays, it is deleted, or it is left with the reason.
//! Nothing is deleted that is not ours by its tags at that moment. Whether a claim is given up is left to `claims`.

use crate::facts::CertificateFacts;
use crate::ownership::{self, Ownership};
use crate::push::{Desired, Look, Memory, is_recovering, recovering, wait_for_announced};
use crate::reason::{Problem, Reason};

/// Fewer failed attempts than this end no claim, however long ago the first was: the operator may not have been there in
/// between.
pub const ATTEMPTS_MIN: u32 = 5;

/// How long after it was given up a certificate is not deleted yet: whoever moves a name from one resource to another, or replaces
/// a resource, does so within seconds, and must not find the certificate gone in between.
pub const SETTLE_SECS: i64 = 3;

/// How a deletion has failed so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failing {
    /// Since when, unix seconds.
    pub since: i64,
    /// Attempts in a row since the operator started; throttled ones are none.
    pub attempts: u32,
}

/// All that the decision rests on.
#[derive(Clone, Debug)]
pub struct Releasing {
    /// The last wish.
    pub desired: Desired,
    /// `deletionPolicy: Delete`.
    pub deletes: bool,
    /// Whether the claim was made by this cluster, not restored from another's backup.
    pub is_of_this_cluster: bool,
    /// Whether it was restored from a backup: what its status said counts for nothing.
    pub is_restored: bool,
    /// Since when it is given up, unix seconds.
    pub since: i64,
    /// Why the vault must not be used for it; `Ok` if it may.
    pub access: Result<(), Problem>,
    /// What the claim remembers: nothing, if it was restored from a backup.
    pub memory: Memory,
    /// The newest version in the vault.
    pub newest: Look<Option<CertificateFacts>>,
    /// How it has failed so far.
    pub failing: Option<Failing>,
    /// For how long failed attempts go on, seconds.
    pub effort_secs: i64,
    /// Unix seconds.
    pub now: i64,
}

/// The next step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Read the newest version in the vault, then decide again.
    ReadNewest,
    /// An announced write may still be under way: decide again at `until`.
    Wait {
        /// Unix seconds.
        until: i64,
    },
    /// Announce, delete, end the claim.
    Delete,
    /// Not now, and this is why.
    Refuse(Problem),
    /// Remove the claim.
    End(Ending),
}

/// What became of the certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It stays, as `Retain` says.
    Retained,
    /// Nothing was pushed under this claim, as far as it remembers.
    NothingPushed,
    /// The vault has none any more.
    Gone,
    /// It should have been deleted and stays: `LeftInVault`, with the cause.
    Left(Problem),
}

/// Decides the next step of a claim that is given up.
pub fn decide(seen: &Releasing) -> Next {
    if let Some(until) = wait_for_announced(&seen.memory, seen.now) {
        return Next::Wait { until };
    }
    if !seen.deletes {
        return Next::End(Ending::Retained);
    }
    if seen.is_restored {
        return Next::End(left(
            "the claim was restored from a backup, so it cannot be told whether it is still wanted",
        ));
    }
    if seen.memory.record.is_none() && seen.memory.in_flight.is_none() {
        return Next::End(Ending::NothingPushed);
    }
    if !seen.is_of_this_cluster {
        return Next::End(left("the claim is of another cluster id: it was restored from a backup"));
    }
    if seen.desired.suspend {
        return Next::End(left(
            "the resource was suspended when it was given up, and nothing is written for it",
        ));
    }
    if seen.now < seen.since + SETTLE_SECS {
        return Next::Wait { until: seen.since + SETTLE_SECS };
    }
    if let Err(problem) = &seen.access {
        return failed(seen, problem);
    }
    match &seen.newest {
        Look::NotYet => Next::ReadNewest,
        // It is neither gone nor there to be deleted before that is done.
        Look::Seen(None) if is_recovering(&seen.memory, seen.now) => Next::Refuse(recovering()),
        Look::Seen(None) => Next::End(Ending::Gone),
        Look::Seen(Some(newest)) => match foreign(seen, newest) {
            None => Next::Delete,
            Some(cause) => Next::End(left(&cause)),
        },
    }
}

/// An attempt failed: once more, or no more.
pub fn failed(seen: &Releasing, problem: &Problem) -> Next {
    let is_enough = seen.failing.is_some_and(|failing| {
        failing.attempts >= ATTEMPTS_MIN && seen.now >= failing.since + seen.effort_secs
    });
    if is_enough && problem.reason != Reason::Throttled {
        return Next::End(left(&format!("{}: {}", problem.reason, problem.message)));
    }
    Next::Refuse(problem.clone())
}

fn left(cause: &str) -> Ending {
    Ending::Left(Problem::new(
        Reason::LeftInVault,
        format!(
            "the certificate should have been deleted and stays in the vault: {cause}; delete it there by hand"
        ),
    ))
}

/// Why the newest version is not ours to delete.
fn foreign(seen: &Releasing, newest: &CertificateFacts) -> Option<String> {
    let record = seen.memory.record.as_ref();
    let is_record = record.is_some_and(|record| record.version == newest.version);
    let is_known = |fingerprint: Option<&crate::fingerprint::Fingerprint>| {
        let announced = seen.memory.in_flight.as_ref().and_then(|in_flight| in_flight.fingerprint.as_ref());
        fingerprint.is_some()
            && (fingerprint == record.map(|record| &record.fingerprint) || fingerprint == announced)
    };
    match ownership::read(&newest.tags, &seen.desired.owner) {
        Ownership::Ours(fingerprint) if is_record || is_known(fingerprint.as_ref()) => None,
        Ownership::Ours(_) => {
            Some(format!("version {} has our owner tag, but was not written by this cluster", newest.version))
        }
        // Handed over to us by a resource of our namespace, and not retagged yet.
        Ownership::Sibling { .. } if is_record => None,
        Ownership::Sibling { owner, .. } => Some(format!("it belongs to {owner}")),
        Ownership::Another { said, .. } => Some(format!("it belongs to {said}")),
        Ownership::Unmanaged { .. } => {
            Some(format!("version {} has no owner tag of keyvault-sync", newest.version))
        }
    }
}
