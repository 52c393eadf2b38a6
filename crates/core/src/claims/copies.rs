//! Secrets of several namespaces that share one claim: does a copy equal what is pushed, is it waited for, or in the way?
//! Comparing their content is left to the certificate controller, which writes into the claim's status what it saw.

use super::SecretName;
use crate::reason::{Problem, Reason};

/// What is known of a copy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SeenCopy {
    /// Whether its content equals what is pushed; `None`: not compared yet.
    pub equal: Option<bool>,
    /// Since when (unix seconds) it differs.
    pub differs_since: Option<i64>,
}

/// Where a copy stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Copy {
    /// Where its claim does.
    AsClaim,
    /// It is waited for.
    Awaited {
        /// The words.
        problem: Problem,
        /// When (unix seconds) the waiting ends.
        until: Option<i64>,
    },
    /// It is another certificate that wants the same name.
    Collides(Problem),
}

/// Judges a copy of `first`, whose content is pushed under the name `certificate`; `is_pushed`: and is in the vault. Copies
/// arrive one after the other, so one that differs is waited for, `patience_secs` long. While nothing is pushed a copy
/// need not be compared: what keeps its claim back keeps it back too.
pub fn copy(
    secret: &SecretName,
    first: &SecretName,
    certificate: &str,
    seen: SeenCopy,
    is_pushed: bool,
    patience_secs: i64,
    now: i64,
) -> Copy {
    match seen.equal {
        Some(true) => Copy::AsClaim,
        None if !is_pushed => Copy::AsClaim,
        None => Copy::Awaited {
            problem: Problem::new(
                Reason::Reconciling,
                format!(
                    "Secret {secret} is being compared with Secret {first}, which has the certificate name {certificate}"
                ),
            ),
            until: None,
        },
        Some(false) => {
            let until = seen.differs_since.unwrap_or(now).saturating_add(patience_secs);
            if now < until {
                Copy::Awaited { problem: awaited(secret, first), until: Some(until) }
            } else {
                Copy::Collides(collides(secret, first, certificate))
            }
        }
    }
}

fn awaited(secret: &SecretName, first: &SecretName) -> Problem {
    Problem::new(
        Reason::Reconciling,
        format!(
            "the certificate in Secret {secret} differs from that in Secret {first}: the copies are waited for to become equal"
        ),
    )
}

fn collides(secret: &SecretName, first: &SecretName, certificate: &str) -> Problem {
    Problem::new(
        Reason::NameCollision,
        format!(
            "Secret {first} holds the certificate name {certificate}, and Secret {secret} wants it with another \
             certificate, or one that cannot be read: make them equal, exclude one, or change the template so that each has its own name"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_stands_as_its_claim_if_equal_is_waited_for_while_it_may_become_so_and_collides_then() {
        let secret = |namespace: &str| SecretName { namespace: namespace.into(), name: "tls".into() };
        let look = |is_pushed, equal, differs_since, now| {
            copy(&secret("b"), &secret("a"), "shop", SeenCopy { equal, differs_since }, is_pushed, 120, now)
        };
        let judge = |equal, differs_since, now| look(true, equal, differs_since, now);
        for (what, standing, expected) in [
            ("equal", judge(Some(true), None, 0), None),
            ("equal again", judge(Some(true), Some(0), 1_000), None),
            ("not compared, and nothing is pushed", look(false, None, None, 0), None),
            (
                "differs, and nothing is pushed",
                look(false, Some(false), Some(10), 130),
                Some((Reason::NameCollision, None)),
            ),
            ("not compared", judge(None, None, 0), Some((Reason::Reconciling, None))),
            ("just found", judge(Some(false), None, 50), Some((Reason::Reconciling, Some(170)))),
            ("differs", judge(Some(false), Some(10), 129), Some((Reason::Reconciling, Some(130)))),
            ("differs long", judge(Some(false), Some(10), 130), Some((Reason::NameCollision, None))),
            (
                "differs since a time to come",
                judge(Some(false), Some(i64::MAX), 0),
                Some((Reason::Reconciling, Some(i64::MAX))),
            ),
        ] {
            let (problem, until) = match standing {
                Copy::AsClaim => {
                    assert_eq!(expected, None, "{what}");
                    continue;
                }
                Copy::Awaited { problem, until } => (problem, until),
                Copy::Collides(problem) => (problem, None),
            };
            assert_eq!(expected, Some((problem.reason, until)), "{what}");
            assert!(
                problem.message.contains("a/tls") && problem.message.contains("b/tls"),
                "{}",
                problem.message
            );
        }
    }
}
