//! May this namespace push, adopt or delete this name of this vault? Default: no.
//! Where the grants come from (a KeyVault) and what a refusal leads to is left to the callers.

use wildmatch::WildMatch;

use crate::labels::{Labels, Requirement, all_hold};
use crate::names::{CertificateName, quote};
use crate::reason::{Problem, Reason};

/// What a grant's pattern stands for the namespace with; only at the start, and followed by `--` or by nothing.
const NAMESPACE: &str = "{namespace}";
/// What parts a namespace from the rest of a name. A single hyphen would make `team-*` also the space of `team-a`.
const SEPARATOR: &str = "--";

/// A namespace as grants see it.
#[derive(Clone, Copy, Debug)]
pub struct Namespace<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its labels; `None` while they are not known: then no selector covers it.
    pub labels: Option<&'a Labels>,
    /// Whether it is known to be gone, so that nobody can say any more which labels it had.
    pub is_gone: bool,
}

/// One entry of a KeyVault's `grants`.
#[derive(Clone, Debug)]
pub struct Grant {
    names: Vec<WildMatch>,
    selector: Option<Vec<Requirement>>,
    push: Vec<NamePattern>,
    adopt: Vec<NamePattern>,
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
    /// `NotGranted`, naming a pattern with `{namespace}` anywhere but at the start, followed by `--` or nothing.
    pub fn new(
        names: &[String],
        selector: Option<Vec<Requirement>>,
        push: &[String],
        adopt: &[String],
    ) -> Result<Self, Problem> {
        let parse = |patterns: &[String]| {
            patterns.iter().map(|pattern| NamePattern::parse(pattern)).collect::<Result<Vec<_>, _>>()
        };
        let names = names.iter().map(|name| WildMatch::new(name)).collect();
        Ok(Self { names, selector, push: parse(push)?, adopt: parse(adopt)? })
    }

    fn covers(&self, namespace: Namespace<'_>) -> bool {
        self.names.iter().any(|name| name.matches(namespace.name))
            || self
                .selector
                .as_ref()
                .zip(namespace.labels)
                .is_some_and(|(selector, labels)| all_hold(selector, labels))
    }

    /// As [`Grant::covers`], and for a namespace that is gone any selector may have covered it.
    fn may_have_covered(&self, namespace: Namespace<'_>) -> bool {
        self.covers(namespace) || (namespace.is_gone && self.selector.is_some())
    }
}

fn any_matches(patterns: &[NamePattern], namespace: Namespace<'_>, name: &CertificateName) -> bool {
    patterns.iter().any(|pattern| pattern.matches(namespace.name, name))
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
    if grants.iter().any(|grant| grant.covers(namespace) && any_matches(&grant.push, namespace, name)) {
        return Ok(());
    }
    Err(no_push(key_vault, namespace, name))
}

/// Whether one of the grants lets `namespace` take over a certificate called `name` that nobody of ours owns.
///
/// # Errors
/// `NotGranted` with the name, the namespace and what the platform team would have to add.
pub fn check_adopt(
    grants: &[Grant],
    key_vault: &str,
    namespace: Namespace<'_>,
    name: &CertificateName,
) -> Result<(), Problem> {
    if grants.iter().any(|grant| grant.covers(namespace) && any_matches(&grant.adopt, namespace, name)) {
        return Ok(());
    }
    Err(Problem::new(
        Reason::NotGranted,
        format!(
            "KeyVault {key_vault} grants namespace {} no adoption of {name}: ask for a pattern that matches it under \
             adopt, in an entry of its spec.grants whose namespaces match",
            namespace.name
        ),
    ))
}

/// Whether one of the grants lets the certificate `name` of `namespace` be deleted: who may push it may also delete it.
///
/// A namespace that is gone has no labels to ask for, and its certificates are to be deleted all the same. Nothing is
/// won by it: its claim was granted when it was made, the tags in the vault still say whose the certificate is, and a
/// grant that was taken back as a whole, or for the name, still refuses.
///
/// # Errors
/// `NotGranted` as [`check_push`].
pub fn check_delete(
    grants: &[Grant],
    key_vault: &str,
    namespace: Namespace<'_>,
    name: &CertificateName,
) -> Result<(), Problem> {
    let allows =
        |grant: &Grant| grant.may_have_covered(namespace) && any_matches(&grant.push, namespace, name);
    if grants.iter().any(allows) {
        return Ok(());
    }
    Err(no_push(key_vault, namespace, name))
}

fn no_push(key_vault: &str, namespace: Namespace<'_>, name: &CertificateName) -> Problem {
    Problem::new(
        Reason::NotGranted,
        format!(
            "KeyVault {key_vault} grants namespace {} no push of {name}: ask for an entry in its spec.grants whose \
             namespaces and push patterns match",
            namespace.name
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at<'a>(name: &'a str, labels: &'a Labels) -> Namespace<'a> {
        Namespace { name, labels: Some(labels), is_gone: false }
    }

    fn allowed(names: &[&str], push: &[&str], namespace: &str, certificate: &str) -> bool {
        let own = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let name = CertificateName::parse(certificate).unwrap();
        let labels = Labels::new();
        let namespace = at(namespace, &labels);
        let grant = Grant::new(&own(names), None, &own(push), &[]).unwrap();
        let adoption = Grant::new(&own(names), None, &[], &own(push)).unwrap();
        let is_allowed = check_push(std::slice::from_ref(&grant), "contoso", namespace, &name).is_ok();
        // Adoption is granted by the same rules, and neither by the other.
        assert_eq!(
            check_adopt(std::slice::from_ref(&adoption), "contoso", namespace, &name).is_ok(),
            is_allowed
        );
        assert!(check_adopt(&[grant], "contoso", namespace, &name).is_err());
        assert!(check_push(&[adoption], "contoso", namespace, &name).is_err());
        is_allowed
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
        let labels = Labels::new();
        let name = CertificateName::parse("shop").unwrap();
        for check in [check_push, check_adopt, check_delete] {
            let problem = check(&[], "contoso", at("web", &labels), &name).unwrap_err();
            assert_eq!(problem.reason, Reason::NotGranted);
            for part in ["contoso", "web", "shop", "ask for"] {
                assert!(problem.message.contains(part), "{}", problem.message);
            }
        }
        assert!(
            check_adopt(&[], "v", at("web", &labels), &name).unwrap_err().message.contains("under adopt")
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
        let grant = Grant::new(&[], Some(selector), &["*".into()], &[]).unwrap();
        let name = CertificateName::parse("x").unwrap();
        for (pairs, expected) in [
            (&[("team", "shop"), ("env", "prod")][..], true),
            (&[("team", "shop")], false),
            (&[("team", "shop"), ("env", "test")], false),
            (&[("team", "shop"), ("env", "prod"), ("frozen", "")], false),
            (&[], false),
        ] {
            let labels = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
            let verdict = check_push(std::slice::from_ref(&grant), "v", at("n", &labels), &name);
            assert_eq!(verdict.is_ok(), expected, "{pairs:?}");
        }
    }

    #[test]
    fn unknown_labels_are_covered_by_no_selector_but_those_of_a_namespace_that_is_gone_let_delete() {
        let selector = || Some(vec![Requirement::In("team".into(), vec!["shop".into()])]);
        let own = |text: &str| vec![text.to_owned()];
        let by_label = Grant::new(&[], selector(), &own("x"), &own("x")).unwrap();
        let by_name = Grant::new(&own("n"), None, &own("x"), &own("x")).unwrap();
        let of_another_name = Grant::new(&[], selector(), &own("y"), &own("y")).unwrap();
        let of_another_namespace = Grant::new(&own("other"), None, &own("x"), &own("x")).unwrap();
        let name = CertificateName::parse("x").unwrap();
        for (what, grant, is_gone, push, delete) in [
            ("by label, there", &by_label, false, false, false),
            ("by label, gone", &by_label, true, false, true),
            ("by name, there", &by_name, false, true, true),
            ("by name, gone", &by_name, true, true, true),
            ("by label for another name", &of_another_name, true, false, false),
            ("by name of another namespace", &of_another_namespace, true, false, false),
        ] {
            let namespace = Namespace { name: "n", labels: None, is_gone };
            let grants = std::slice::from_ref(grant);
            assert_eq!(check_push(grants, "v", namespace, &name).is_ok(), push, "push, {what}");
            assert_eq!(check_adopt(grants, "v", namespace, &name).is_ok(), push, "adopt, {what}");
            assert_eq!(check_delete(grants, "v", namespace, &name).is_ok(), delete, "delete, {what}");
        }
    }

    #[test]
    fn the_namespace_stands_only_where_no_other_can_match_it() {
        for bad in ["{namespace}-*", "x-{namespace}", "{namespace}*", "{namespace}--{namespace}", "{secret}"]
        {
            assert!(Grant::new(&[], None, &[bad.to_owned()], &[]).is_err(), "{bad}");
            assert!(Grant::new(&[], None, &[], &[bad.to_owned()]).is_err(), "{bad}");
        }
    }
}
