//! Requirements on an object's labels, as Kubernetes' label selectors state them.
//! Whose labels they are, and what follows, is left to `grants` and `selection`.

use std::collections::BTreeMap;

/// An object's labels.
pub type Labels = BTreeMap<String, String>;

/// One requirement on a label, as `matchExpressions` has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Requirement {
    /// The label has one of these values.
    In(String, Vec<String>),
    /// The label is missing or has none of these values.
    NotIn(String, Vec<String>),
    /// The label is there.
    Exists(String),
    /// The label is not there.
    DoesNotExist(String),
}

impl Requirement {
    fn holds(&self, labels: &Labels) -> bool {
        match self {
            Requirement::In(key, values) => labels.get(key).is_some_and(|value| values.contains(value)),
            Requirement::NotIn(key, values) => !labels.get(key).is_some_and(|value| values.contains(value)),
            Requirement::Exists(key) => labels.contains_key(key),
            Requirement::DoesNotExist(key) => !labels.contains_key(key),
        }
    }
}

/// Whether these labels meet every requirement.
pub(crate) fn all_hold(requirements: &[Requirement], labels: &Labels) -> bool {
    requirements.iter().all(|one| one.holds(labels))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_requirement_holds_as_in_kubernetes() {
        let own = |values: &[&str]| values.iter().map(|value| (*value).to_owned()).collect::<Vec<_>>();
        let labels = Labels::from([("env".into(), "prod".into()), ("empty".into(), String::new())]);
        for (requirement, expected) in [
            (Requirement::In("env".into(), own(&["test", "prod"])), true),
            (Requirement::In("env".into(), own(&["Prod"])), false),
            (Requirement::In("none".into(), own(&["prod"])), false),
            (Requirement::In("empty".into(), own(&[""])), true),
            (Requirement::NotIn("env".into(), own(&["prod"])), false),
            (Requirement::NotIn("env".into(), own(&["test"])), true),
            (Requirement::NotIn("none".into(), own(&["prod"])), true),
            (Requirement::Exists("empty".into()), true),
            (Requirement::Exists("none".into()), false),
            (Requirement::DoesNotExist("none".into()), true),
            (Requirement::DoesNotExist("env".into()), false),
        ] {
            assert_eq!(all_hold(std::slice::from_ref(&requirement), &labels), expected, "{requirement:?}");
        }
        assert!(all_hold(&[], &Labels::new()), "nothing stated matches everything");
    }
}
