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

/// Requirements in the words of `kubectl get -l`: `team=web,tier in (a,b),!canary`.
///
/// # Errors
/// A sentence about the part that cannot be read.
pub fn parse(text: &str) -> Result<Vec<Requirement>, String> {
    parts(text).map(|part| requirement(part.trim())).collect()
}

/// Cut at commas, but not within parentheses.
fn parts(text: &str) -> impl Iterator<Item = &str> {
    let mut depth = 0_i32;
    text.split(move |c| {
        depth += i32::from(c == '(') - i32::from(c == ')');
        c == ',' && depth == 0
    })
}

fn requirement(part: &str) -> Result<Requirement, String> {
    let unreadable = || {
        format!(
            "{part:?} is no requirement on a label: write team=web, team!=web, team in (a,b), team or !team"
        )
    };
    let of = |key: &str, values: &[&str], make: fn(String, Vec<String>) -> Requirement| {
        let values: Vec<&str> = values.iter().map(|value| value.trim()).collect();
        let holds =
            is_word(key.trim(), true) && values.iter().all(|value| is_word(value, false) || value.is_empty());
        holds
            .then(|| make(key.trim().to_owned(), values.into_iter().map(str::to_owned).collect()))
            .ok_or_else(unreadable)
    };
    if let Some(head) = part.strip_suffix(')') {
        let (head, values) = head.split_once('(').ok_or_else(unreadable)?;
        let (key, word) = head.trim_end().rsplit_once(char::is_whitespace).ok_or_else(unreadable)?;
        let values: Vec<&str> = values.split(',').collect();
        return match word {
            "in" => of(key, &values, Requirement::In),
            "notin" => of(key, &values, Requirement::NotIn),
            _ => Err(unreadable()),
        };
    }
    if let Some((key, value)) = part.split_once("!=") {
        return of(key, &[value], Requirement::NotIn);
    }
    if let Some((key, value)) = part.split_once("==").or_else(|| part.split_once('=')) {
        return of(key, &[value], Requirement::In);
    }
    match part.strip_prefix('!') {
        Some(key) => of(key, &[], |key, _| Requirement::DoesNotExist(key)),
        None => of(part, &[], |key, _| Requirement::Exists(key)),
    }
}

/// Of the letters that a label's key (with a prefix before a slash) or value may have.
fn is_word(text: &str, is_key: bool) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') || (is_key && c == '/');
    !text.is_empty() && text.chars().all(plain)
}

/// Whether these labels meet every requirement.
pub fn all_hold(requirements: &[Requirement], labels: &Labels) -> bool {
    requirements.iter().all(|one| one.holds(labels))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requirements_are_read_as_kubectl_reads_them() {
        let own = |values: &[&str]| values.iter().map(|value| (*value).to_owned()).collect::<Vec<_>>();
        for (text, expected) in [
            ("team=web", vec![Requirement::In("team".into(), own(&["web"]))]),
            ("team==web", vec![Requirement::In("team".into(), own(&["web"]))]),
            ("a.io/team != web", vec![Requirement::NotIn("a.io/team".into(), own(&["web"]))]),
            ("team=", vec![Requirement::In("team".into(), own(&[""]))]),
            (
                "team in (a, b),tier notin(c),!canary, shard",
                vec![
                    Requirement::In("team".into(), own(&["a", "b"])),
                    Requirement::NotIn("tier".into(), own(&["c"])),
                    Requirement::DoesNotExist("canary".into()),
                    Requirement::Exists("shard".into()),
                ],
            ),
            ("", vec![]),
            ("a,,b", vec![]),
            ("team>1", vec![]),
            ("team in a", vec![]),
            ("team in (a", vec![]),
            ("=web", vec![]),
            ("team=web=x", vec![]),
        ] {
            match parse(text) {
                Ok(found) => assert_eq!(found, expected, "{text}"),
                Err(error) => {
                    assert!(expected.is_empty() && error.contains("is no requirement"), "{text}: {error}")
                }
            }
        }
    }

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
