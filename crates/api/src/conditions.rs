//! The list of conditions in a status: one entry a type, and a time that moves only when the status does.
//! What is said in them is left to the operator; `now` is given, never read.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;

use crate::limits;

/// Type: the vault holds what was wished.
pub const READY: &str = "Ready";
/// Type of kstatus: present and True only while work is under way.
pub const RECONCILING: &str = "Reconciling";
/// Type of kstatus: present and True when only a person can help.
pub const STALLED: &str = "Stalled";

/// Whether a statement holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Holds {
    /// It does.
    True,
    /// It does not.
    False,
    /// It cannot be told.
    Unknown,
}

impl Holds {
    /// The word of `metav1.Condition`.
    pub fn as_str(self) -> &'static str {
        match self {
            Holds::True => "True",
            Holds::False => "False",
            Holds::Unknown => "Unknown",
        }
    }
}

/// A statement to put into a list of conditions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement<'a> {
    /// Its type, for example [`READY`].
    pub type_: &'a str,
    /// Whether it holds.
    pub holds: Holds,
    /// One CamelCase word.
    pub reason: &'a str,
    /// A sentence. Longer than the schema allows, it is cut.
    pub message: &'a str,
    /// The generation it was made of.
    pub observed_generation: Option<i64>,
}

/// Puts a statement into the list, in the place of the one of its type or at the end. `lastTransitionTime` becomes
/// `now` (whole seconds, as Kubernetes stores it) if the status is new or changed, and stays otherwise.
///
/// Returns whether the list changed.
pub fn set(conditions: &mut Vec<Condition>, statement: &Statement<'_>, now: Timestamp) -> bool {
    let before = conditions.iter_mut().find(|condition| condition.type_ == statement.type_);
    let transition = match &before {
        Some(before) if before.status == statement.holds.as_str() => before.last_transition_time.clone(),
        _ => whole_seconds(now),
    };
    let after = Condition {
        type_: statement.type_.to_owned(),
        status: statement.holds.as_str().to_owned(),
        reason: statement.reason.to_owned(),
        message: limits::cut(statement.message, limits::CONDITION_MESSAGE_LENGTH_MAX),
        observed_generation: statement.observed_generation,
        last_transition_time: transition,
    };
    match before {
        Some(before) if *before == after => false,
        Some(before) => {
            *before = after;
            true
        }
        None => {
            conditions.push(after);
            true
        }
    }
}

/// Takes the statement of a type out of the list. Returns whether there was one.
pub fn remove(conditions: &mut Vec<Condition>, type_: &str) -> bool {
    let before = conditions.len();
    conditions.retain(|condition| condition.type_ != type_);
    conditions.len() != before
}

/// The statement of a type.
pub fn find<'a>(conditions: &'a [Condition], type_: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.type_ == type_)
}

/// Whether the statement of a type is there and holds.
pub fn is_true(conditions: &[Condition], type_: &str) -> bool {
    find(conditions, type_).is_some_and(|condition| condition.status == Holds::True.as_str())
}

/// Whether two lists say the same, in whatever order and whenever it became so.
pub fn equal(left: &[Condition], right: &[Condition]) -> bool {
    let says = |one: &Condition, other: &Condition| {
        one.status == other.status
            && one.reason == other.reason
            && one.message == other.message
            && one.observed_generation == other.observed_generation
    };
    left.len() == right.len()
        && left.iter().all(|one| find(right, &one.type_).is_some_and(|other| says(one, other)))
}

/// A time as Kubernetes stores it, so that what is compared with what was read back is equal.
pub fn whole_seconds(time: Timestamp) -> Time {
    Time(Timestamp::from_second(time.as_second()).unwrap_or(time))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_millisecond(second * 1000 + 700).unwrap()
    }

    fn ready(holds: Holds, reason: &'static str, generation: i64) -> Statement<'static> {
        Statement { type_: READY, holds, reason, message: "…", observed_generation: Some(generation) }
    }

    fn transition(conditions: &[Condition]) -> i64 {
        find(conditions, READY).unwrap().last_transition_time.0.as_second()
    }

    #[test]
    fn the_transition_time_moves_only_with_the_status() {
        let mut conditions = Vec::new();
        for (statement, now, is_change, since) in [
            (ready(Holds::False, "SecretNotFound", 1), 10, true, 10),
            (ready(Holds::False, "SecretNotFound", 1), 11, false, 10),
            (ready(Holds::False, "InvalidCertificate", 1), 12, true, 10),
            (ready(Holds::False, "InvalidCertificate", 2), 13, true, 10),
            (ready(Holds::True, "Synced", 2), 14, true, 14),
            (ready(Holds::Unknown, "Unavailable", 2), 15, true, 15),
        ] {
            assert_eq!(set(&mut conditions, &statement, at(now)), is_change, "{statement:?}");
            assert_eq!(transition(&conditions), since, "{statement:?}");
            assert_eq!(conditions.len(), 1);
        }
    }

    #[test]
    fn what_was_set_equals_what_is_read_back() {
        let mut conditions = Vec::new();
        set(&mut conditions, &ready(Holds::True, "Synced", 1), at(10));
        let read: Vec<Condition> =
            serde_json::from_value(serde_json::to_value(&conditions).unwrap()).unwrap();
        assert_eq!(conditions, read);
        assert!(is_true(&read, READY) && !is_true(&read, STALLED));
    }

    #[test]
    fn other_types_are_left_alone_and_order_and_time_make_no_difference() {
        let stalled = Statement { type_: STALLED, ..ready(Holds::True, "Forbidden", 1) };
        let (mut one, mut other) = (Vec::new(), Vec::new());
        set(&mut one, &ready(Holds::False, "Forbidden", 1), at(10));
        set(&mut one, &stalled, at(10));
        set(&mut other, &stalled, at(20));
        assert!(!equal(&one, &other));
        set(&mut other, &ready(Holds::False, "Forbidden", 1), at(20));
        assert!(equal(&one, &other));
        set(&mut other, &ready(Holds::False, "Forbidden", 2), at(20));
        assert!(!equal(&one, &other));
        assert!(remove(&mut one, STALLED) && !remove(&mut one, STALLED));
        assert_eq!(one.len(), 1);
    }

    #[test]
    fn a_message_that_is_too_long_is_cut_between_characters() {
        let long = "ä".repeat(limits::CONDITION_MESSAGE_LENGTH_MAX as usize + 1);
        let mut conditions = Vec::new();
        set(&mut conditions, &Statement { message: &long, ..ready(Holds::True, "Synced", 1) }, at(1));
        let message = &conditions[0].message;
        assert_eq!(message.chars().count(), limits::CONDITION_MESSAGE_LENGTH_MAX as usize);
        assert!(message.ends_with('…'));
    }
}
