//! What the operator may do in the cluster: the least that its calls need. `cargo xtask gen` writes it to the chart, of which `deploy/` is made.
//! Who is bound to it is left to the manifests that install the operator; what RBAC cannot say, to `admission`.

use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule, Role};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::constants::GROUP;
use crate::crds;

/// The name of the roles.
pub const CLUSTER_ROLE: &str = "keyvault-sync";
/// The name of the role that lets the operator act as ServiceAccounts of other namespaces towards Azure.
pub const SERVICE_ACCOUNT_ROLE: &str = "keyvault-sync-service-accounts";

/// The kind that stands for all of ours where somebody is asked whether he is an operator.
pub const OPERATE_RESOURCE: &str = "keyvaultcertificates";
/// The verb on it that makes an operator. Kubernetes knows no such verb: only the policies of `admission` ask for it, so
/// that they need not know how many operators there are and what their ServiceAccounts are called.
pub const OPERATE: &str = "operate";

/// The name of the role for the operator's Lease.
pub const LEASE_ROLE: &str = "keyvault-sync-leader";
const LEASES: &str = "coordination.k8s.io";

/// What a watch needs.
const WATCH: [&str; 2] = ["list", "watch"];
/// The same, and single objects.
const READ: [&str; 3] = ["get", "list", "watch"];

/// The role of an operator that serves the whole cluster. Secrets are read, never written.
pub fn cluster_role() -> ClusterRole {
    let mut rules = vec![
        rule(GROUP, &["keyvaultsyncs", "clusterkeyvaultsyncs"], &READ),
        rule(GROUP, &["keyvaults"], &READ),
        rule(GROUP, &["keyvaultsyncs/status", "clusterkeyvaultsyncs/status", "keyvaults/status"], &["patch"]),
    ];
    rules.extend(claims());
    rules.extend([
        rule("", &["secrets", "namespaces"], &READ),
        events(),
        definitions(&["keyvaultsyncs", "clusterkeyvaultsyncs", "keyvaults", "keyvaultcertificates"]),
        leases_of_others(),
    ]);
    ClusterRole { metadata: named(CLUSTER_ROLE), rules: Some(rules), ..ClusterRole::default() }
}

/// What an operator that serves listed namespaces alone needs beside `namespaced_role`: the kinds of ours that are in no
/// namespace. It reads no Secret by it, and Namespaces only by `served_namespaces_rules`.
pub fn namespaced_cluster_role() -> ClusterRole {
    let mut rules = vec![rule(GROUP, &["keyvaults"], &READ), rule(GROUP, &["keyvaults/status"], &["patch"])];
    rules.extend(claims());
    rules.extend([definitions(&["keyvaultsyncs", "keyvaults", "keyvaultcertificates"]), leases_of_others()]);
    ClusterRole { metadata: named(CLUSTER_ROLE), rules: Some(rules), ..ClusterRole::default() }
}

/// What that operator needs in each of its namespaces, where it goes by the same name.
pub fn namespaced_role() -> Role {
    Role {
        metadata: named(CLUSTER_ROLE),
        rules: Some(vec![
            rule(GROUP, &["keyvaultsyncs"], &READ),
            rule(GROUP, &["keyvaultsyncs/status"], &["patch"]),
            rule("", &["secrets"], &READ),
            events(),
        ]),
    }
}

/// What that operator needs beside, over the cluster: whether a namespace of these is gone, and with it what is in it.
pub fn served_namespaces_rules(names: &[&str]) -> Vec<PolicyRule> {
    vec![PolicyRule { resource_names: Some(owned(names)), ..rule("", &["namespaces"], &["get"]) }]
}

/// What every operator needs in its own namespace: the Lease by which it leads, which is of its installation's name.
pub fn lease_rules() -> Vec<PolicyRule> {
    vec![rule(LEASES, &["leases"], &["get", "create", "update"])]
}

/// These rules as a role of their own, for manifests that are put together from files.
pub fn lease_role(namespace: &str) -> Role {
    let metadata = ObjectMeta { namespace: Some(namespace.to_owned()), ..named(LEASE_ROLE) };
    Role { metadata, rules: Some(lease_rules()) }
}

/// What an operator that serves listed namespaces alone needs in its own namespace beside: the Secrets of identities.
pub fn own_namespace_rules() -> Vec<PolicyRule> {
    vec![rule("", &["secrets"], &READ)]
}

/// What that operator needs in the namespace `default`, where Events about KeyVaults are.
pub fn default_namespace_rules() -> Vec<PolicyRule> {
    vec![events()]
}

/// What the identity `serviceAccount` of a KeyVault needs: the ServiceAccounts of these names, in whatever namespace, and
/// tokens of them; none given: all. Only where that identity is used.
///
/// Kubernetes allows a list or watch by name only if it asks for that name (`metadata.name=…` as field selector).
pub fn service_account_rules(names: &[&str]) -> Vec<PolicyRule> {
    let names = (!names.is_empty()).then(|| owned(names));
    [rule("", &["serviceaccounts"], &WATCH), rule("", &["serviceaccounts/token"], &["create"])]
        .into_iter()
        .map(|rule| PolicyRule { resource_names: names.clone(), ..rule })
        .collect()
}

/// These rules as a role of their own, for manifests that are put together from files.
pub fn service_account_role(names: &[&str]) -> ClusterRole {
    ClusterRole {
        metadata: named(SERVICE_ACCOUNT_ROLE),
        rules: Some(service_account_rules(names)),
        ..ClusterRole::default()
    }
}

/// What whoever applies the definitions needs (`keyvault-sync crds --apply`), and nobody else: RBAC cannot restrict a creation to
/// names.
pub fn definition_rules() -> Vec<PolicyRule> {
    let all: Vec<String> = crds().into_iter().filter_map(|crd| crd.metadata.name).collect();
    let definitions = |verbs| rule("apiextensions.k8s.io", &["customresourcedefinitions"], verbs);
    vec![PolicyRule { resource_names: Some(all), ..definitions(&["get", "patch"]) }, definitions(&["create"])]
}

/// What people may see who may see the objects of a namespace, or of the cluster.
pub fn view_rules() -> Vec<PolicyRule> {
    let plurals: Vec<String> = crds().into_iter().map(|crd| crd.spec.names.plural).collect();
    let plurals: Vec<&str> = plurals.iter().map(String::as_str).collect();
    vec![rule(GROUP, &plurals, &READ)]
}

/// What people may write who may write the objects of a namespace: wishes, which a KeyVault has to grant. What is of the whole cluster,
/// and who may use which names, stays with its administrators; claims and statuses are the operator's.
pub fn edit_rules() -> Vec<PolicyRule> {
    vec![rule(GROUP, &["keyvaultsyncs"], &["create", "update", "patch", "delete", "deletecollection"])]
}

/// What the operator needs to judge who may fetch metrics.
pub fn metrics_review_rules() -> Vec<PolicyRule> {
    vec![
        rule("authentication.k8s.io", &["tokenreviews"], &["create"]),
        rule("authorization.k8s.io", &["subjectaccessreviews"], &["create"]),
    ]
}

/// What whoever fetches metrics needs, where that is judged.
pub fn metrics_reader_rules() -> Vec<PolicyRule> {
    vec![PolicyRule {
        non_resource_urls: Some(owned(&["/metrics"])),
        verbs: owned(&["get"]),
        ..PolicyRule::default()
    }]
}

fn claims() -> [PolicyRule; 3] {
    [
        rule(GROUP, &["keyvaultcertificates"], &["get", "list", "watch", "create", "update", "delete"]),
        rule(GROUP, &["keyvaultcertificates/status"], &["update"]),
        rule(GROUP, &[OPERATE_RESOURCE], &[OPERATE]),
    ]
}

fn events() -> PolicyRule {
    rule("events.k8s.io", &["events"], &["create"])
}

/// Whether the definitions fit this version, before any work; whether the kind of a vanished owner still exists, before its claims
/// are given up.
fn definitions(plurals: &[&str]) -> PolicyRule {
    PolicyRule {
        resource_names: Some(plurals.iter().map(|plural| format!("{plural}.{GROUP}")).collect()),
        ..rule("apiextensions.k8s.io", &["customresourcedefinitions"], &["get"])
    }
}

/// Whether another installation of the cluster is there: its Lease is in its own namespace, by a name that is not known before.
fn leases_of_others() -> PolicyRule {
    rule(LEASES, &["leases"], &["get"])
}

fn rule(group: &str, resources: &[&str], verbs: &[&str]) -> PolicyRule {
    PolicyRule {
        api_groups: Some(vec![group.to_owned()]),
        resources: Some(owned(resources)),
        verbs: owned(verbs),
        ..PolicyRule::default()
    }
}

fn owned(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn named(name: &str) -> ObjectMeta {
    ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every set of rules there is, by its name.
    fn all() -> Vec<(&'static str, Vec<PolicyRule>)> {
        vec![
            ("the cluster's", cluster_role().rules.unwrap_or_default()),
            ("the namespaced operator's", namespaced_cluster_role().rules.unwrap_or_default()),
            ("a namespace's", namespaced_role().rules.unwrap_or_default()),
            ("served namespaces'", served_namespaces_rules(&["web"])),
            ("the operator's own namespace's", own_namespace_rules()),
            ("a leader's", lease_rules()),
            ("namespace default's", default_namespace_rules()),
            ("all ServiceAccounts'", service_account_role(&[]).rules.unwrap_or_default()),
            ("named ServiceAccounts'", service_account_rules(&["keyvault"])),
            ("the definitions'", definition_rules()),
            ("a viewer's", view_rules()),
            ("an editor's", edit_rules()),
            ("a judge's of metrics", metrics_review_rules()),
            ("a reader's of metrics", metrics_reader_rules()),
        ]
    }

    /// The verbs that rules have on a resource.
    fn verbs<'a>(rules: &'a [PolicyRule], group: &str, resource: &str) -> Vec<&'a str> {
        let is_it = |rule: &&PolicyRule| {
            let groups = rule.api_groups.as_deref().unwrap_or_default();
            let resources = rule.resources.as_deref().unwrap_or_default();
            groups.iter().any(|word| word == group) && resources.iter().any(|word| word == resource)
        };
        rules.iter().filter(is_it).flat_map(|rule| rule.verbs.iter().map(String::as_str)).collect()
    }

    #[test]
    fn no_rule_has_a_wildcard_or_lets_the_operator_give_itself_more() {
        for (whose, rules) in all() {
            for rule in &rules {
                let words = [&rule.api_groups, &rule.resources, &rule.resource_names];
                let mut words = words.into_iter().flatten().flatten().chain(&rule.verbs);
                assert!(!words.any(|word| word.contains('*')), "{whose}: {rule:?}");
                let groups = rule.api_groups.as_deref().unwrap_or_default();
                assert!(
                    !groups.iter().any(|group| group.contains("rbac") || group.contains("admission")),
                    "{rule:?}"
                );
                assert!(
                    !rule.verbs.iter().any(|verb| ["bind", "escalate", "impersonate"].contains(&&**verb)),
                    "{rule:?}"
                );
            }
        }
    }

    #[test]
    fn secrets_are_read_and_never_written() {
        for (whose, rules) in all() {
            let found = verbs(&rules, "", "secrets");
            assert!(found.is_empty() || found == READ, "{whose}: {found:?}");
        }
        assert_eq!(verbs(&cluster_role().rules.unwrap_or_default(), "", "secrets"), READ);
        assert_eq!(verbs(&namespaced_role().rules.unwrap_or_default(), "", "secrets"), READ);
    }

    #[test]
    fn tokens_are_created_and_only_by_the_rules_for_service_accounts() {
        for (whose, rules) in all() {
            let wanted: &[&str] = if whose.ends_with("ServiceAccounts'") { &["create"] } else { &[] };
            assert_eq!(verbs(&rules, "", "serviceaccounts/token"), wanted, "{whose}");
            assert!(verbs(&rules, "", "serviceaccounts").iter().all(|verb| READ.contains(verb)), "{whose}");
        }
    }

    #[test]
    fn service_accounts_are_named_where_names_are_given() {
        for (names, wanted) in
            [(&[][..], None), (&["keyvault", "x"], Some(vec!["keyvault".to_owned(), "x".to_owned()]))]
        {
            for rule in service_account_rules(names) {
                assert_eq!(rule.resource_names, wanted, "{rule:?}");
            }
        }
    }

    #[test]
    fn people_write_wishes_and_nothing_else() {
        for (whose, rules) in [("a viewer's", view_rules()), ("an editor's", edit_rules())] {
            for rule in rules {
                let writes = rule.verbs.iter().any(|verb| !READ.contains(&verb.as_str()));
                assert!(!writes || rule.resources == Some(owned(&["keyvaultsyncs"])), "{whose}: {rule:?}");
            }
        }
    }

    #[test]
    fn only_roles_of_the_whole_cluster_make_an_operator() {
        for (whose, rules) in all() {
            let operates = verbs(&rules, GROUP, OPERATE_RESOURCE).contains(&OPERATE);
            let wanted = matches!(whose, "the cluster's" | "the namespaced operator's");
            assert_eq!(operates, wanted, "{whose}");
        }
    }

    #[test]
    fn the_namespaced_operator_reads_nothing_of_other_namespaces() {
        let rules = namespaced_cluster_role().rules.unwrap_or_default();
        for (group, resource) in [
            ("", "secrets"),
            ("", "namespaces"),
            (GROUP, "keyvaultsyncs"),
            (GROUP, "clusterkeyvaultsyncs"),
            ("events.k8s.io", "events"),
        ] {
            assert_eq!(verbs(&rules, group, resource), [""; 0], "{resource}");
        }
    }
}
