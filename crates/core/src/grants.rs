//! May this namespace use this name of this vault? Default: no.
//! Where the grants come from (a KeyVault) and what a refusal leads to is left to the callers.

use std::collections::BTreeMap;

use wildmatch::WildMatch;

use crate::names::{CertificateName, quote};
use crate::reason::{Problem, Reason};

/// What a grant's pattern stands for the namespace with; only at the start, and followed by `--` or by nothing.
const NAMESPACE: &str = "{namespace}";
/// What parts a namespace from the rest of a name. A single hyphen would make `team-*` also the space of `team-a`.
const SEPARATOR: &str = "--";

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
    fn holds(&self, labels: &BTreeMap<String, String>) -> bool {
        match self {
            Requirement::In(key, values) => labels.get(key).is_some_and(|value| values.contains(value)),
            Requirement::NotIn(key, values) => !labels.get(key).is_some_and(|value| values.contains(value)),
            Requirement::Exists(key) => labels.contains_key(key),
            Requirement::DoesNotExist(key) => !labels.contains_key(key),
        }
    }
}

/// A namespace as grants see it.
#[derive(Clone, Copy, Debug)]
pub struct Namespace<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its labels; `None` while they are not known: then no selector covers it.
    pub labels: Option<&'a BTreeMap<String, String>>,
}

/// One entry of a KeyVault's `grants`.
#[derive(Clone, Debug)]
pub struct Grant {
    names: Vec<WildMatch>,
    selector: Option<Vec<Requirement>>,
    push: Vec<NamePattern>,
}

#[derive(Clone, Debug)]
struct NamePattern {
    of_namespace: bool,
    rest: String,
}

impl Grant {
    /// A grant to the namespaces that match one of the `names` globs or the `selector`; certificate names by globs.
    ///
    /// # Errors
    /// `NotGranted`, naming a `push` pattern with `{namespace}` anywhere but at the start, followed by `--` or nothing.
    pub fn new(
        names: &[String],
        selector: Option<Vec<Requirement>>,
        push: &[String],
    ) -> Result<Self, Problem> {
        let push = push.iter().map(|pattern| NamePattern::parse(pattern)).collect::<Result<_, _>>()?;
        Ok(Self { names: names.iter().map(|name| WildMatch::new(name)).collect(), selector, push })
    }

    fn covers(&self, namespace: Namespace<'_>) -> bool {
        self.names.iter().any(|name| name.matches(namespace.name))
            || self
                .selector
                .as_ref()
                .zip(namespace.labels)
                .is_some_and(|(selector, labels)| selector.iter().all(|one| one.holds(labels)))
    }

    fn allows_push(&self, namespace: Namespace<'_>, name: &CertificateName) -> bool {
        self.covers(namespace) && self.push.iter().any(|pattern| pattern.matches(namespace.name, name))
    }
}

impl NamePattern {
    fn parse(pattern: &str) -> Result<Self, Problem> {
        let (of_namespace, rest) = match pattern.strip_prefix(NAMESPACE) {
            Some(rest) if rest.is_empty() || rest.starts_with(SEPARATOR) => (true, rest),
            Some(_) => return Err(bad_pattern(pattern)),
            None => (false, pattern),
        };
        if rest.contains(['{', '}']) {
            return Err(bad_pattern(pattern));
        }
        Ok(Self { of_namespace, rest: rest.to_ascii_lowercase() })
    }

    fn matches(&self, namespace: &str, name: &CertificateName) -> bool {
        let name = name.folded();
        if !self.of_namespace {
            return WildMatch::new(&self.rest).matches(&name);
        }
        // `a--b` would share the space of `a`: whoever has such a name is granted nothing by this pattern.
        !namespace.contains(SEPARATOR)
            && name.strip_prefix(namespace).is_some_and(|rest| WildMatch::new(&self.rest).matches(rest))
    }
}

fn bad_pattern(pattern: &str) -> Problem {
    Problem::new(
        Reason::NotGranted,
        format!(
            "grant {}: {NAMESPACE} may stand only at the start, followed by {SEPARATOR} or by nothing, so that no \
             other namespace can match it",
            quote(pattern)
        ),
    )
}

/// Whether one of the grants lets `namespace` push `name`.
///
/// # Errors
/// `NotGranted` with the name, the namespace and what the platform team would have to add.
pub fn check_push(
    grants: &[Grant],
    key_vault: &str,
    namespace: Namespace<'_>,
    name: &CertificateName,
) -> Result<(), Problem> {
    if grants.iter().any(|grant| grant.allows_push(namespace, name)) {
        return Ok(());
    }
    Err(Problem::new(
        Reason::NotGranted,
        format!(
            "KeyVault {key_vault} grants namespace {} no push of {name}: ask for an entry in its spec.grants whose \
             namespaces and push patterns match",
            namespace.name
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(names: &[&str], push: &[&str], namespace: &str, certificate: &str) -> bool {
        let own = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let grant = Grant::new(&own(names), None, &own(push)).unwrap();
        let labels = BTreeMap::new();
        let name = CertificateName::parse(certificate).unwrap();
        check_push(&[grant], "contoso", Namespace { name: namespace, labels: Some(&labels) }, &name).is_ok()
    }

    #[test]
    fn a_grant_needs_both_the_namespace_and_the_name() {
        for (names, push, namespace, certificate, expected) in [
            (&["web"][..], &["*"][..], "web", "anything", true),
            (&["web"], &["*"], "web2", "anything", false),
            (&["team-*"], &["shared-?"], "team-a", "shared-1", true),
            (&["team-*"], &["shared-?"], "team-a", "shared-12", false),
            (&["web"], &["Web-*"], "web", "wEB-x", true),
            (&["web"], &[], "web", "x", false),
            (&[], &["*"], "web", "x", false),
            (&["*"], &["{namespace}--*"], "a", "a--x", true),
            (&["*"], &["{namespace}--*"], "a", "A--X", true),
            (&["*"], &["{namespace}--*"], "a", "a-b--x", false),
            (&["*"], &["{namespace}--*"], "a", "a-x", false),
            (&["*"], &["{namespace}--*"], "a-b", "a--b--x", false),
            (&["*"], &["{namespace}--*"], "a--b", "a--b--x", false),
            (&["*"], &["{namespace}"], "web", "web", true),
            (&["*"], &["{namespace}"], "web", "web--x", false),
        ] {
            assert_eq!(
                allowed(names, push, namespace, certificate),
                expected,
                "{namespace} {certificate} {push:?}"
            );
        }
    }

    #[test]
    fn no_grant_means_no() {
        let labels = BTreeMap::new();
        let name = CertificateName::parse("x").unwrap();
        let problem =
            check_push(&[], "contoso", Namespace { name: "web", labels: Some(&labels) }, &name).unwrap_err();
        assert_eq!(problem.reason, Reason::NotGranted);
        assert!(
            problem.message.contains("contoso")
                && problem.message.contains("web")
                && problem.message.contains('x')
        );
    }

    #[test]
    fn a_namespace_can_be_granted_by_its_labels() {
        let selector = vec![
            Requirement::In("team".into(), vec!["shop".into()]),
            Requirement::Exists("env".into()),
            Requirement::NotIn("env".into(), vec!["test".into()]),
            Requirement::DoesNotExist("frozen".into()),
        ];
        let grant = Grant::new(&[], Some(selector), &["*".into()]).unwrap();
        let name = CertificateName::parse("x").unwrap();
        for (pairs, expected) in [
            (&[("team", "shop"), ("env", "prod")][..], true),
            (&[("team", "shop")], false),
            (&[("team", "shop"), ("env", "test")], false),
            (&[("team", "shop"), ("env", "prod"), ("frozen", "")], false),
            (&[], false),
        ] {
            let labels = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
            let verdict = check_push(
                std::slice::from_ref(&grant),
                "v",
                Namespace { name: "n", labels: Some(&labels) },
                &name,
            );
            assert_eq!(verdict.is_ok(), expected, "{pairs:?}");
        }
    }

    #[test]
    fn a_namespace_whose_labels_are_not_known_is_covered_by_no_selector() {
        let selector = vec![Requirement::DoesNotExist("frozen".into())];
        let grant = Grant::new(&[], Some(selector), &["*".into()]).unwrap();
        let name = CertificateName::parse("x").unwrap();
        assert!(check_push(&[grant], "v", Namespace { name: "n", labels: None }, &name).is_err());
    }

    #[test]
    fn the_namespace_stands_only_where_no_other_can_match_it() {
        for bad in ["{namespace}-*", "x-{namespace}", "{namespace}*", "{namespace}--{namespace}", "{secret}"]
        {
            assert!(Grant::new(&[], None, &[bad.to_owned()]).is_err(), "{bad}");
        }
    }
}
