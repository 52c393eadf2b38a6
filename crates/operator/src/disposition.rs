//! The one table in which an outcome turns into consequences: when to try again, what Ready says, whether an Event tells.
//! Who writes them is `report`.

use std::time::Duration;

use keyvault_sync_core::reason::{Fault, Reason};

/// First delay after a transient fault; doubled at every further one.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// Longest delay after transient faults.
const LONGEST_RETRY: Duration = Duration::from_secs(300);
/// Longest delay after a defect.
const LONGEST_BUG_RETRY: Duration = Duration::from_secs(600);
/// How often somebody else's decision (a role, an owner) is looked at again.
const BLOCKED_RETRY: Duration = Duration::from_secs(300);
/// How long a fault that passes by itself may last before Ready stops standing.
pub(crate) const PATIENCE_SECS: i64 = 600;

/// What Ready says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ready {
    /// `True`.
    Yes,
    /// `False`.
    No,
    /// What it said before; `Unknown` if nothing.
    AsBefore,
    /// `Unknown`.
    Unknown,
}

/// The consequences of an outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Disposition {
    /// When to try again; `None`: a watch tells.
    pub retry: Option<Duration>,
    /// What Ready says.
    pub ready: Ready,
    /// Whether a Warning Event tells a change.
    pub warns: bool,
    /// Whether only a person can help.
    pub is_stalled: bool,
}

/// Looks an outcome up. `attempt` counts failures in a row from 1; `lasted` is how long this has been so, seconds;
/// `dice` in 0..=255 spreads retries.
pub(crate) fn of(
    reason: Reason,
    attempt: u32,
    lasted: i64,
    retry_after: Option<Duration>,
    dice: u8,
) -> Disposition {
    let is_lasting = lasted >= PATIENCE_SECS;
    match reason.fault() {
        None => Disposition {
            retry: None,
            ready: if reason == Reason::Suspended { Ready::AsBefore } else { Ready::Yes },
            warns: reason == Reason::IncompleteChain,
            is_stalled: false,
        },
        Some(Fault::Invalid) => {
            Disposition { retry: None, ready: Ready::No, warns: true, is_stalled: !is_waiting(reason) }
        }
        Some(Fault::Blocked) => Disposition {
            // A credential that was refused says itself when it is tried again, so that one that is put right is used soon.
            retry: Some(match retry_after {
                Some(after) => after.clamp(FIRST_RETRY, BLOCKED_RETRY),
                None => spread(BLOCKED_RETRY, dice),
            }),
            ready: Ready::No,
            warns: true,
            is_stalled: true,
        },
        Some(Fault::Transient) => Disposition {
            retry: Some(
                backoff(attempt, LONGEST_RETRY, dice).max(retry_after.unwrap_or_default().min(LONGEST_RETRY)),
            ),
            ready: if is_lasting { Ready::Unknown } else { Ready::AsBefore },
            warns: is_lasting,
            is_stalled: false,
        },
        Some(Fault::Bug) => Disposition {
            retry: Some(backoff(attempt, LONGEST_BUG_RETRY, dice)),
            ready: Ready::Unknown,
            warns: true,
            is_stalled: false,
        },
    }
}

/// Reasons that say "not yet" rather than "wrong": the Secret is on its way.
pub(crate) fn is_waiting(reason: Reason) -> bool {
    matches!(reason, Reason::SecretNotFound | Reason::SecretIncomplete | Reason::TemporaryCertificate)
        || reason.fault() == Some(Fault::Transient)
}

fn backoff(attempt: u32, longest: Duration, dice: u8) -> Duration {
    let doublings = attempt.saturating_sub(1).min(16);
    spread(FIRST_RETRY.saturating_mul(1 << doublings).min(longest), dice)
}

/// 80 % to 100 % of a delay, so that many do not come back at once and none comes later than said.
fn spread(delay: Duration, dice: u8) -> Duration {
    delay.mul_f64(1.0 - 0.2 * f64::from(dice) / 255.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_the_author_can_mend_is_not_tried_again() {
        for reason in Reason::ALL.into_iter().filter(|reason| reason.fault() == Some(Fault::Invalid)) {
            let disposition = of(reason, 7, 0, None, 0);
            assert_eq!((disposition.retry, disposition.ready), (None, Ready::No), "{reason}");
        }
    }

    #[test]
    fn transient_faults_double_their_delay_up_to_five_minutes_and_honour_retry_after() {
        let delay = |attempt, after| of(Reason::Throttled, attempt, 0, after, 0).retry.unwrap().as_secs();
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        assert_eq!([1, 2, 3, 4, 9, 10, 99].map(|n| delay(n, None)), [1, 2, 4, 8, 256, 300, 300]);
        assert_eq!(delay(1, seconds(20)), 20);
        assert_eq!(delay(1, seconds(9_999)), 300);
    }

    #[test]
    fn what_is_blocked_is_looked_at_in_five_minutes_or_when_it_says() {
        let delay = |after: Option<u64>| {
            of(Reason::AuthenticationFailed, 1, 0, after.map(Duration::from_secs), 0).retry.unwrap().as_secs()
        };
        assert_eq!([None, Some(0), Some(8), Some(60), Some(3600)].map(delay), [300, 1, 8, 60, 300]);
    }

    #[test]
    fn ready_keeps_its_value_for_ten_minutes() {
        assert_eq!(of(Reason::Unavailable, 3, 599, None, 0).ready, Ready::AsBefore);
        let lasting = of(Reason::Unavailable, 9, 600, None, 0);
        assert_eq!((lasting.ready, lasting.warns), (Ready::Unknown, true));
    }

    #[test]
    fn a_retry_is_never_later_than_said_and_never_before_four_fifths_of_it() {
        for dice in 0..=255 {
            let retry = of(Reason::Forbidden, 1, 0, None, dice).retry.unwrap();
            assert!(retry <= BLOCKED_RETRY && retry >= BLOCKED_RETRY.mul_f64(0.79), "{dice}");
        }
    }
}
