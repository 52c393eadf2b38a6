//! Does a Secret match what a resource selects, and its namespace? By labels, globs over names, annotations.
//! Which Secrets there are is left to the caller; which names they get, to `claims`.

use wildmatch::WildMatch;

use crate::labels::{Labels, Requirement, all_hold};

/// Globs over a text: it must match one of the wanted (if any are stated) and none of the others.
#[derive(Clone, Debug, Default)]
struct Globs {
    wanted: Vec<WildMatch>,
    excluded: Vec<WildMatch>,
}

impl Globs {
    fn new(wanted: &[String], excluded: &[String]) -> Self {
        let parse = |globs: &[String]| globs.iter().map(|glob| WildMatch::new(glob)).collect();
        Self { wanted: parse(wanted), excluded: parse(excluded) }
    }

    fn matches(&self, text: &str) -> bool {
        (self.wanted.is_empty() || self.wanted.iter().any(|glob| glob.matches(text)))
            && !self.excluded.iter().any(|glob| glob.matches(text))
    }
}

/// A Secret as a selector sees it.
#[derive(Clone, Copy, Debug)]
pub struct SecretLook<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its labels.
    pub labels: &'a Labels,
    /// Its annotations.
    pub annotations: &'a Labels,
}

/// Which Secrets are meant. Everything stated must hold; stating nothing means them all.
#[derive(Clone, Debug, Default)]
pub struct SecretSelection {
    labels: Vec<Requirement>,
    names: Globs,
    annotations: Vec<(String, Globs)>,
}

impl SecretSelection {
    /// Secrets with such labels and names.
    pub fn new(labels: Vec<Requirement>, names: &[String], exclude_names: &[String]) -> Self {
        Self { labels, names: Globs::new(names, exclude_names), annotations: Vec::new() }
    }

    /// Only those that have this annotation, with a value that matches. Values are compared with case.
    #[must_use]
    pub fn annotated(mut self, name: &str, values: &[String], exclude_values: &[String]) -> Self {
        self.annotations.push((name.to_owned(), Globs::new(values, exclude_values)));
        self
    }

    /// Whether this Secret is meant.
    pub fn matches(&self, secret: &SecretLook<'_>) -> bool {
        self.may_match(secret.name)
            && all_hold(&self.labels, secret.labels)
            && self
                .annotations
                .iter()
                .all(|(name, globs)| secret.annotations.get(name).is_some_and(|value| globs.matches(value)))
    }

    /// Whether a Secret of this name could be meant: what is known of one that is not there.
    pub fn may_match(&self, name: &str) -> bool {
        self.names.matches(name)
    }
}

/// Which namespaces are meant. Everything stated must hold; stating nothing means them all.
#[derive(Clone, Debug, Default)]
pub struct NamespaceSelection {
    names: Globs,
    labels: Vec<Requirement>,
}

impl NamespaceSelection {
    /// Namespaces with such names and labels.
    pub fn new(names: &[String], exclude_names: &[String], labels: Vec<Requirement>) -> Self {
        Self { names: Globs::new(names, exclude_names), labels }
    }

    /// Whether this namespace is meant. Where labels are stated and the namespace's are not known, it is not.
    pub fn matches(&self, name: &str, labels: Option<&Labels>) -> bool {
        self.may_match(name)
            && (self.labels.is_empty() || labels.is_some_and(|labels| all_hold(&self.labels, labels)))
    }

    /// Whether a namespace of this name could be meant.
    pub fn may_match(&self, name: &str) -> bool {
        self.names.matches(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    fn map(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn a_secret_matches_if_everything_stated_holds() {
        let labels = map(&[("sync", "true"), ("stage", "prod")]);
        let annotations = map(&[("cert-manager.io/certificate-name", "Shop-web"), ("empty", "")]);
        let secret = SecretLook { name: "web-tls", labels: &labels, annotations: &annotations };
        let named =
            |names: &[&str], excluded: &[&str]| SecretSelection::new(vec![], &own(names), &own(excluded));
        let annotated = |name: &str, values: &[&str], excluded: &[&str]| {
            SecretSelection::default().annotated(name, &own(values), &own(excluded))
        };
        let labelled = |requirements| SecretSelection::new(requirements, &[], &[]);
        const KEY: &str = "cert-manager.io/certificate-name";
        for (what, selection, expected) in [
            ("nothing stated", SecretSelection::default(), true),
            ("a name", named(&["web-tls"], &[]), true),
            ("a glob", named(&["x", "*-tls"], &[]), true),
            ("one character", named(&["web?tls"], &[]), true),
            ("no glob", named(&["*-internal"], &[]), false),
            ("excluded", named(&[], &["web-*"]), false),
            ("excluded though wanted", named(&["*"], &["*-tls"]), false),
            ("a label", labelled(vec![Requirement::In("sync".into(), own(&["true"]))]), true),
            ("another label", labelled(vec![Requirement::In("sync".into(), own(&["false"]))]), false),
            ("an expression", labelled(vec![Requirement::NotIn("stage".into(), own(&["prod"]))]), false),
            ("an annotation", annotated(KEY, &[], &[]), true),
            ("an annotation with an empty value", annotated("empty", &[], &[]), true),
            ("no annotation", annotated("none", &[], &[]), false),
            ("its value", annotated(KEY, &["Shop-*"], &[]), true),
            ("its value in another case", annotated(KEY, &["shop-*"], &[]), false),
            ("its value excluded", annotated(KEY, &["*"], &["Shop-*"]), false),
            ("its value excluded in another case", annotated(KEY, &["*"], &["shop-*"]), true),
            (
                "two, of which one fails",
                annotated(KEY, &["*"], &[]).annotated("empty", &own(&["?*"]), &[]),
                false,
            ),
        ] {
            assert_eq!(selection.matches(&secret), expected, "{what}");
        }
        assert!(named(&["*-tls"], &[]).may_match("gone-tls") && !named(&["*-tls"], &[]).may_match("gone"));
    }

    #[test]
    fn a_namespace_matches_if_everything_stated_holds_and_unknown_labels_hold_for_nothing() {
        let labels = map(&[("team", "web")]);
        let team = || vec![Requirement::In("team".into(), own(&["web"]))];
        for (what, selection, known, unknown) in [
            ("nothing stated", NamespaceSelection::default(), true, true),
            ("a glob", NamespaceSelection::new(&own(&["team-*"]), &[], vec![]), true, true),
            ("no glob", NamespaceSelection::new(&own(&["prod-*"]), &[], vec![]), false, false),
            ("excluded", NamespaceSelection::new(&[], &own(&["team-?"]), vec![]), false, false),
            ("a label", NamespaceSelection::new(&[], &[], team()), true, false),
            (
                "a label it lacks",
                NamespaceSelection::new(&[], &[], vec![Requirement::Exists("x".into())]),
                false,
                false,
            ),
            ("a label and a glob", NamespaceSelection::new(&own(&["team-a"]), &[], team()), true, false),
        ] {
            assert_eq!(selection.matches("team-a", Some(&labels)), known, "{what}, labels known");
            assert_eq!(selection.matches("team-a", None), unknown, "{what}, labels unknown");
        }
    }
}
