//! Where a certificate is between being there and being gone. Computed when looked at: nothing runs in the background.
//! Leaves what a state means to a caller to certificates.rs and deleted.rs.

use std::time::{Duration, Instant};

use crate::vault::now;

/// How long a vault takes over a deletion or a recovery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Takes {
    Time(Duration),
    /// Until somebody ends it.
    UntilTold,
}

impl Takes {
    /// No time: what is asked for is done when it is answered.
    pub(crate) const NO_TIME: Self = Self::Time(Duration::ZERO);

    /// When something that begins now is done; a time that no clock reaches is as good as never.
    fn done(self) -> Done {
        match self {
            Self::Time(time) => Instant::now().checked_add(time).map_or(Done::WhenTold, Done::At),
            Self::UntilTold => Done::WhenTold,
        }
    }
}

/// When a deletion or a recovery is done.
#[derive(Debug, Clone, Copy)]
enum Done {
    At(Instant),
    WhenTold,
}

impl Done {
    fn is_past(self) -> bool {
        matches!(self, Self::At(instant) if instant <= Instant::now())
    }
}

/// What was last asked of a certificate.
#[derive(Debug, Clone, Copy)]
enum Asked {
    Nothing,
    /// To go; `since` in seconds since 1970.
    Deletion {
        since: i64,
        done: Done,
    },
    Recovery {
        done: Done,
    },
}

/// A certificate's life, as far as deletion and recovery go.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Life(Asked);

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    There,
    BeingDeleted,
    /// Recoverable; deleted at this second since 1970.
    Deleted(i64),
    BeingRecovered,
}

impl Life {
    /// Nothing was ever asked of it.
    pub(crate) fn new() -> Self {
        Self(Asked::Nothing)
    }

    /// Deleted from now on, which takes its time.
    pub(crate) fn deleted(takes: Takes) -> Self {
        Self(Asked::Deletion { since: now(), done: takes.done() })
    }

    /// Recovered from now on, which takes its time.
    pub(crate) fn recovered(takes: Takes) -> Self {
        Self(Asked::Recovery { done: takes.done() })
    }

    /// How far it is at this moment. Ask once per call: the next moment's answer may differ.
    pub(crate) fn stage(&self) -> Stage {
        match self.0 {
            Asked::Nothing => Stage::There,
            Asked::Deletion { since, done } if done.is_past() => Stage::Deleted(since),
            Asked::Deletion { .. } => Stage::BeingDeleted,
            Asked::Recovery { done } if done.is_past() => Stage::There,
            Asked::Recovery { .. } => Stage::BeingRecovered,
        }
    }

    /// Ends the deletion under way. Whether there was one.
    pub(crate) fn finish_deletion(&mut self) -> bool {
        let under_way = self.stage() == Stage::BeingDeleted;
        if let (true, Asked::Deletion { done, .. }) = (under_way, &mut self.0) {
            *done = Done::At(Instant::now());
        }
        under_way
    }

    /// Ends the recovery under way. Whether there was one.
    pub(crate) fn finish_recovery(&mut self) -> bool {
        let under_way = self.stage() == Stage::BeingRecovered;
        if under_way {
            *self = Self::new();
        }
        under_way
    }
}
